//! The interface between a family of models and the pipeline: one model, its sizes and defaults, and how its parts are loaded.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::PipelineError;
use super::flow::Sampling;
use super::guidance::Guidance;
use super::prompt::{Prompt, PromptText, TextOptions};
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::hub::{Checkpoint, FileStatus, Part};
use crate::model::{Autoencoder, Geometry, Progress, Transformer, TransformerShape, Weights};
use crate::sampler::Solver;
use crate::shapes::Shapes;
use crate::tensor::DType;

/// A model, opened for videos of one size. Weights are read when a part is loaded.
pub type ModelSource = Arc<dyn Source>;

/// A model as its family provides it.
pub trait Source: Send + Sync {
    /// Sizes and defaults.
    fn config(&self) -> &PipelineConfig;

    /// The structure of the transformer's blocks.
    fn anatomy(&self) -> &Anatomy;

    /// The transformer's sizes.
    fn shape(&self) -> TransformerShape;

    /// The inputs a generation accepts besides the prompt.
    fn inputs(&self) -> Inputs;

    /// The cache presets for a run of `steps` steps.
    ///
    /// # Errors
    /// A presets file that cannot be read.
    fn presets(&self, steps: usize) -> Result<Presets, PipelineError>;

    /// The solver that updates the latents in `steps` steps.
    ///
    /// # Errors
    /// A number of steps for which there is no schedule.
    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError>;

    /// Parses a prompt.
    ///
    /// # Errors
    /// A prompt that the model does not understand.
    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError>;

    /// Embeds prompts. `progress` is called with the embedded prompts and the total, and may stop the work. A text encoder is loaded onto
    /// `device`, for a model that runs in `dtype`, only if an embedding is not yet on disk, and released before this returns.
    ///
    /// # Errors
    /// Files of the encoder that are missing or damaged; out of memory; `progress` asked to stop.
    fn embed(
        &self,
        prompts: &[PromptText],
        options: &TextOptions,
        device: &Device,
        dtype: DType,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError>;

    /// Checks that the files of these parts are there, without reading weights; the error says how to get them.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    fn require(&self, _parts: Parts) -> Result<(), PipelineError> {
        Ok(())
    }

    /// The files that the model's videos depend on, as far as they are there: the weights, configurations and tokenizers of all parts. Two
    /// models whose files have other contents are not the same model, whatever their paths.
    fn files(&self) -> Vec<ModelFile>;

    /// The transformers that take turns, in the order in which they run; most models have one.
    fn experts(&self) -> &[Expert] {
        const { &[Expert::ONLY] }
    }

    /// Loads the transformer of this index in [`Source::experts`], as [`Source::transformer`] does the first.
    ///
    /// # Errors
    /// As [`Source::transformer`].
    fn expert(
        &self,
        _index: usize,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        self.transformer(device, dtype, streamed, content)
    }

    /// Loads the transformer, with the weights of `streamed` blocks in host memory.
    ///
    /// # Errors
    /// Files that are missing, damaged or do not belong together; out of memory.
    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError>;

    /// The launches of a step and of the autoencoder at this size, for benchmarks; empty if there is nothing to measure.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    fn launches(&self) -> Result<Shapes, PipelineError> {
        Ok(Shapes::default())
    }

    /// The number of latent frames for `frames` frames.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        Ok(frames)
    }

    /// Loads the decoder from latents to frames. `None`: there is none, the latents are the result.
    ///
    /// # Errors
    /// As [`Source::transformer`].
    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError>;

    /// Height and width in pixels to which pictures are scaled before encoding; the upper left part is the size of the video.
    fn picture_size(&self) -> [usize; 2] {
        [self.config().height, self.config().width]
    }
}

/// A transformer of a model. Several take turns: each runs the steps from its time on down to that of the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expert {
    /// Its name in reports.
    pub name: &'static str,
    /// The lowest time, from 1000 (noise) to 0 (clean), of its steps. That of the last expert is not looked at.
    pub least_time: f32,
}

impl Expert {
    /// The transformer of a model of one.
    pub const ONLY: Expert = Expert { name: "", least_time: 0.0 };
}

/// The origin of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The model's files.
    Files,
    /// No files: zeros, for counting.
    Zeros,
}

impl Content {
    /// The weights that `open` reads from files, or zeros in their place.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn weights<'a, E>(self, open: impl FnOnce() -> Result<Weights<'a>, E>) -> Result<Weights<'a>, E> {
        match self {
            Content::Files => open(),
            Content::Zeros => Ok(Weights::zeros()),
        }
    }
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name within the model, such as `transformer/model.safetensors`.
    pub name: String,
    /// Its content.
    pub content: FileContent,
}

impl ModelFile {
    /// The files of a checkpoint, as far as they are there.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Vec<ModelFile> {
        let there = checkpoint.parts().flat_map(|part| checkpoint.status(part)).filter(|file| file.bytes.is_some());
        let file = |status: FileStatus| ModelFile {
            content: FileContent::OnDisk(checkpoint.folder().join(&status.file)),
            name: status.file,
        };
        there.map(file).collect()
    }
}

/// The content of a model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileContent {
    /// Embedded in the program.
    Embedded(&'static [u8]),
    /// On disk at this path.
    OnDisk(PathBuf),
}

/// Parts of a model besides the transformer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The text encoder.
    pub text: bool,
    /// The decoder of the autoencoder, from latents to pixels.
    pub decoder: bool,
    /// Its encoder, from pixels to latents.
    pub encoder: bool,
}

impl Parts {
    /// The parts of a checkpoint: the transformer, and these.
    pub fn listed(self) -> Vec<Part> {
        let wanted = [(true, Part::Transformer), (self.text, Part::Text), (self.decoder || self.encoder, Part::Vae)];
        wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, part)| part).collect()
    }
}

/// The inputs a generation accepts besides the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Free text as the prompt, for a separate text encoder; or an embedding in its place.
    pub text: bool,
    /// A published resolution and an aspect ratio.
    pub resolution: bool,
    /// Frames.
    pub frames: FrameInputs,
    /// A sampler, a timestep shift and a number of caption tokens.
    pub sampler: bool,
    /// LoRAs.
    pub loras: bool,
    /// Decoding in tiles.
    pub vae_tiling: bool,
    /// A tiny autoencoder to decode with.
    pub tiny_vae: bool,
    /// Scores and a camera motion appended to the prompt.
    pub scores: bool,
}

/// The frames that can be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameInputs {
    /// None.
    #[default]
    None,
    /// A picture that the video begins with.
    First,
    /// Pictures, videos, the end of a part of a long video, anywhere.
    Any,
}

/// A model's sizes and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfig {
    /// The model's name in reports.
    pub name: String,
    /// Caption tokens the model takes.
    pub prompt_length: usize,
    /// Latent frames, height, width.
    pub latent: [usize; 3],
    /// Frames of the video, if they differ from the latent ones: a video autoencoder makes several from one.
    pub video_frames: Option<usize>,
    /// Height of the video in pixels.
    pub height: usize,
    /// Width of the video in pixels.
    pub width: usize,
    /// Frames per second.
    pub fps: f64,
    /// The scale of the position embedding: √(height · width), rounded as in the model.
    pub resolution: f64,
    /// The default number of steps.
    pub default_steps: usize,
    /// The default guidance scales.
    pub default_cfg_scale: Guidance,
    /// The sampler and the timestep shift, of models that have several.
    pub sampling: Option<Sampling>,
    /// The prompt of the unconditional half, of models without a null caption of their own.
    pub negative_prompt: Option<&'static str>,
    /// Whether the decoder works in tiles that change the picture.
    pub vae_tiling: bool,
    /// Whether the large products of the transformer's blocks are of e4m3.
    pub fp8_weights: bool,
}

impl PipelineConfig {
    /// Frames of a decoded video.
    pub fn frames(&self) -> usize {
        self.video_frames.unwrap_or(self.latent[0])
    }

    /// Sizes of `videos` videos made together, with guidance.
    pub fn geometry(&self, videos: usize) -> Geometry {
        Geometry::guided(videos, self.latent, self.resolution, self.fps as f32)
    }
}
