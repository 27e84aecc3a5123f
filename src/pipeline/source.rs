//! What a family of models gives the pipeline: one model, its sizes and defaults, and how its parts are loaded.

use std::sync::Arc;

use super::error::PipelineError;
use super::prompt::{Prompt, PromptText, TextOptions};
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::model::{Autoencoder, Geometry, Progress, Transformer, TransformerShape};
use crate::sampler::Solver;
use crate::tensor::DType;

/// A model, opened for videos of one size. Weights are read when a part is loaded.
pub type ModelSource = Arc<dyn Source>;

/// A model as its family knows it.
pub trait Source: Send + Sync {
    /// Sizes and defaults.
    fn config(&self) -> &PipelineConfig;

    /// What the transformer's blocks are made of.
    fn anatomy(&self) -> &Anatomy;

    /// The transformer's sizes.
    fn shape(&self) -> TransformerShape;

    /// What a generation can be given beside the prompt.
    fn inputs(&self) -> Inputs;

    /// The cache presets for a run of `steps` steps.
    ///
    /// # Errors
    /// A file of presets that cannot be read.
    fn presets(&self, steps: usize) -> Result<Presets, PipelineError>;

    /// How the latents move in `steps` steps.
    ///
    /// # Errors
    /// A number of steps for which there is no schedule.
    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError>;

    /// Reads a prompt.
    ///
    /// # Errors
    /// A prompt that the model does not understand.
    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError>;

    /// Embeds prompts. `progress` hears of embedded prompts, of all there are, and may stop it. A text encoder is loaded if an embedding is not
    /// on disk already, and gone when this returns.
    ///
    /// # Errors
    /// Files of the encoder that are missing or damaged; `progress` asked to stop.
    fn embed(
        &self,
        prompts: &[PromptText],
        options: &TextOptions,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError>;

    /// Says what is missing of the files of these parts, and how to get it, without reading weights.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    fn require(&self, _parts: Parts) -> Result<(), PipelineError> {
        Ok(())
    }

    /// Loads the transformer, with the weights of `streamed` blocks in the host's memory.
    ///
    /// # Errors
    /// Files that are missing, damaged or do not belong together; no memory.
    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError>;

    /// Latent frames of `frames` frames.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        Ok(frames)
    }

    /// Loads what makes frames of the latents. `None`: there is nothing, latents are all that is wanted.
    ///
    /// # Errors
    /// As [`Source::transformer`].
    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError>;

    /// Height and width in pixels that pictures are brought to before they are encoded, of which the upper left is the video's.
    fn picture_size(&self) -> [usize; 2] {
        [self.config().height, self.config().width]
    }
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The model's files.
    Files,
    /// Nowhere: they are zeros, to count with.
    Zeros,
}

/// Parts of a model beside the transformer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The text encoder.
    pub text: bool,
    /// The autoencoder, to decode latents and to encode pixels.
    pub decoder: bool,
}

/// What a generation can be given beside the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Any text as a prompt, which an encoder reads that takes its time; or an embedding in its place.
    pub text: bool,
    /// A published resolution and an aspect ratio.
    pub resolution: bool,
    /// Frames: pictures, videos, the end of a part of a long video.
    pub frames: bool,
}

/// What was asked of a video's size; what was not is the model's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SizeOptions {
    /// Height and width in pixels.
    pub pixels: Option<[usize; 2]>,
    /// A published resolution, by name.
    pub resolution: Option<String>,
    /// A published aspect ratio, height to width.
    pub aspect: Option<String>,
    /// Frames.
    pub frames: Option<usize>,
}

impl SizeOptions {
    /// `frames` frames of `height` × `width` pixels.
    pub fn exactly(frames: usize, height: usize, width: usize) -> SizeOptions {
        SizeOptions { pixels: Some([height, width]), frames: Some(frames), ..SizeOptions::default() }
    }

    /// A published resolution with `frames` frames, 9:16.
    pub fn published(resolution: &str, frames: usize) -> SizeOptions {
        SizeOptions { resolution: Some(resolution.into()), frames: Some(frames), ..SizeOptions::default() }
    }
}

/// A model's sizes and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfig {
    /// The model's name in reports.
    pub name: String,
    /// Caption tokens the model is given.
    pub prompt_length: usize,
    /// Latent frames, height, width.
    pub latent: [usize; 3],
    /// Frames of the video, where they are not the latent ones: a video autoencoder makes several of one.
    pub video_frames: Option<usize>,
    /// Height of the video in pixels.
    pub height: usize,
    /// Width of the video in pixels.
    pub width: usize,
    /// Frames per second.
    pub fps: f64,
    /// What the position embedding is scaled by: √(height · width), as the model rounds it.
    pub resolution: f64,
    /// Steps when the user names none.
    pub default_steps: usize,
    /// Guidance when the user names none.
    pub default_cfg_scale: f32,
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
