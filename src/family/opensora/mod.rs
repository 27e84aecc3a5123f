//! Open-Sora 1.2: sizes and settings as published, its prompts, and its checkpoint.

mod presets;
mod prompt;
mod size;

use std::path::Path;
use std::sync::Arc;

use half::bf16;

pub use self::presets::{presets, scaled};
pub use self::prompt::prepare_prompt;
use super::embed::{Encoder, Text};
use super::presets::presets_in;
use super::row::{Family, Measured};
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::hub::{Checkpoint, Part, Published, PublishedFile, PublishedPart, cache_dir};
use crate::model::vae::{VaeConfig, VideoVae};
use crate::model::{Autoencoder, ModelError, Progress, StDiT3, StDiT3Config, Transformer, TransformerShape, Weights};
use crate::pipeline::{
    Content, FrameInputs, Inputs, ModelFile, ModelSource, OpenOptions, Parts, PipelineConfig, PipelineError, Prompt,
    PromptText, Source, TextOptions, VideoSize,
};
use crate::sampler::{Schedule, Solver};
use crate::shapes::Shapes;
use crate::tensor::DType;

/// The name by which the model is pulled and used.
pub const OPENSORA: &str = "opensora-v1.2";

/// Its checkpoint.
pub static PUBLISHED: Published = Published {
    name: OPENSORA,
    index: None,
    other: None,
    parts: &[
        PublishedPart::new(Part::Transformer, "hpcai-tech/OpenSora-STDiT-v3", ""),
        PublishedPart::new(Part::Vae, "hpcai-tech/OpenSora-VAE-v1.2", ""),
        PublishedPart {
            // Its own repository has another library's format only.
            tokenizer: Some(PublishedFile {
                repo: "lmz/mt5-tokenizers",
                folder: "",
                name: "t5-v1_1-xxl.tokenizer.json",
            }),
            ..PublishedPart::new(Part::Text, "DeepFloyd/t5-v1_1-xxl", "")
        },
    ],
};

/// Frames per second of the model's videos, and the value for a single picture.
const FPS: (f64, f64) = (24.0, 120.0);
/// Side in pixels of the square that becomes one latent position.
const SIDE: usize = 8;
/// With fewer frames only a single picture can be generated: the published schedule shrinks to nothing.
const MIN_FRAMES: usize = 17;
/// The size of the published examples.
const EXAMPLE: (&str, &str, usize) = ("240p", "9:16", 51);

/// The times of the published runs.
const MEASURED: [Measured; 6] = {
    const fn run(resolution: &'static str, steps: usize, what: &'static str, seconds: f64) -> Measured {
        Measured { resolution: Some(resolution), frames: 51, steps, what, seconds }
    }
    [
        run("720p", 100, "every step computed", 419.60),
        run("720p", 100, "AdaCache", 89.53),
        run("720p", 100, "AdaCache + MoReg", 93.50),
        run("480p", 30, "every step computed", 54.02),
        run("480p", 30, "AdaCache fast", 24.16),
        run("480p", 30, "AdaCache slow", 37.01),
    ]
};

/// The family.
pub struct OpenSora;

impl Family for OpenSora {
    fn name(&self) -> &'static str {
        OPENSORA
    }

    fn recognises(&self, folder: &Path) -> bool {
        folder.join(Part::Transformer.name()).join("config.json").is_file()
    }

    fn open(&self, folder: Option<&Path>, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let checkpoint = match folder {
            Some(folder) => Checkpoint::at(&PUBLISHED, folder),
            None => Checkpoint::in_cache(&PUBLISHED, &cache_dir()),
        };
        let file = checkpoint.file(Part::Transformer, "config.json");
        if !file.exists() {
            checkpoint.require_all()?;
        }
        let model = StDiT3Config::from_file(&file)?;
        Ok(Arc::new(Opened::new(model, Some(checkpoint), size)?))
    }

    fn published(&self, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        Ok(Arc::new(Opened::new(StDiT3Config::opensora_v1_2(), None, size)?))
    }

    fn reference(
        &self,
        device: &Device,
        config: &str,
        weights: Weights<'_>,
        dtype: DType,
    ) -> Result<Box<dyn Transformer>, ModelError> {
        let config = StDiT3Config::from_json(config, "case.json")?;
        Ok(Box::new(StDiT3::load(device, config, weights, dtype)?))
    }

    fn inputs(&self) -> Inputs {
        Inputs { text: true, resolution: true, frames: FrameInputs::Any, scores: true, ..Inputs::default() }
    }

    fn checkpoint(&self) -> Option<&'static Published> {
        Some(&PUBLISHED)
    }

    fn resolutions(&self) -> &'static [&'static str] {
        &["240p", "480p", "720p"]
    }

    fn measured(&self) -> &'static [Measured] {
        &MEASURED
    }
}

/// A checkpoint, or the known facts of the published one.
struct Opened {
    config: PipelineConfig,
    size: VideoSize,
    model: StDiT3Config,
    anatomy: Anatomy,
    /// `None`: the published one, without its files.
    checkpoint: Option<Checkpoint>,
}

impl Opened {
    fn new(model: StDiT3Config, checkpoint: Option<Checkpoint>, size: &OpenOptions) -> Result<Opened, PipelineError> {
        let (fp8_weights, size) = (size.fp8_weights, sized(size)?);
        let config = PipelineConfig { fp8_weights, ..pipeline_config(size, model.model_max_length)? };
        Ok(Opened { config, size, anatomy: model.anatomy(), model, checkpoint })
    }

    fn vae_config(&self) -> Result<VaeConfig, PipelineError> {
        Ok(match &self.checkpoint {
            Some(checkpoint) => VaeConfig::of_folder(&checkpoint.folder().join(Part::Vae.name()))?,
            None => VaeConfig::default(),
        })
    }

    fn weights(&self, part: Part) -> Result<Weights<'static>, PipelineError> {
        Ok(self.files()?.open(part)?)
    }

    fn files(&self) -> Result<&Checkpoint, PipelineError> {
        let none = || PipelineError::Setting(format!("{OPENSORA} as published has no files here"));
        self.checkpoint.as_ref().ok_or_else(none)
    }
}

impl Source for Opened {
    fn config(&self) -> &PipelineConfig {
        &self.config
    }

    fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    fn shape(&self) -> TransformerShape {
        self.model.shape()
    }

    fn inputs(&self) -> Inputs {
        OpenSora.inputs()
    }

    fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        let own = presets::with_baselines(&self.anatomy, steps);
        match &self.checkpoint {
            Some(checkpoint) => presets_in(&checkpoint.file(Part::Transformer, "codebooks.json"), own),
            None => Ok(own),
        }
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        Ok(Box::new(Schedule::shifted(steps, timestep_shift(self.size))?))
    }

    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError> {
        PromptText::new(prompt)
    }

    fn embed(
        &self,
        prompts: &[PromptText],
        options: &TextOptions,
        device: &Device,
        dtype: DType,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError> {
        options.scores.check()?;
        let encoder = Encoder { checkpoint: self.files()?, model: self.model.shape(), device, dtype };
        let prepare = |prompt: &PromptText| Text::alone(prepare_prompt(&prompt.to_string(), &options.scores));
        let embedded = encoder.embed(&prompts.iter().map(prepare).collect::<Vec<_>>(), progress)?;
        Ok(prompts.iter().cloned().zip(embedded).map(|(prompt, embedding)| Prompt::new(prompt, embedding)).collect())
    }

    fn require(&self, parts: Parts) -> Result<(), PipelineError> {
        Ok(self.checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.require(&parts.listed()))?)
    }

    fn files(&self) -> Vec<ModelFile> {
        self.checkpoint.as_ref().map_or_else(Vec::new, ModelFile::of_checkpoint)
    }

    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        let weights = content.weights(|| self.weights(Part::Transformer))?.in_fp8(self.config.fp8_weights);
        Ok(Box::new(StDiT3::load_streaming(device, self.model.clone(), weights, dtype, streamed)?))
    }

    fn launches(&self) -> Result<Shapes, PipelineError> {
        let [_, height, width] = self.config.latent;
        let step = self.model.launches(&self.config.geometry(1), self.config.prompt_length);
        Ok(step.and(self.vae_config()?.launches([height, width])))
    }

    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        Ok(self.vae_config()?.latent_frames(frames))
    }

    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError> {
        let weights = content.weights(|| self.weights(Part::Vae))?;
        Ok(Some(Box::new(VideoVae::load(device, self.vae_config()?, weights, dtype)?)))
    }

    fn picture_size(&self) -> [usize; 2] {
        [self.size.height, self.size.width]
    }
}

/// The requested size.
fn sized(options: &OpenOptions) -> Result<VideoSize, PipelineError> {
    let frames = options.frames.unwrap_or(EXAMPLE.2);
    let Some([height, width]) = options.pixels else {
        let (resolution, aspect) = (options.resolution.as_deref(), options.aspect.as_deref());
        return size::published(resolution.unwrap_or(EXAMPLE.0), aspect.unwrap_or(EXAMPLE.1), frames);
    };
    let size = VideoSize::new(frames, height, width)?;
    if !(height.is_multiple_of(SIDE) && width.is_multiple_of(SIDE)) {
        let reason = format!("--size {height}x{width}: both sides have to be multiples of {SIDE}");
        return Err(PipelineError::Setting(reason));
    }
    Ok(size)
}

/// The pipeline's settings for videos of `size`, with prompts of at most `prompt_length` tokens.
///
/// # Errors
/// A number of frames for which the published pipeline has no schedule.
fn pipeline_config(size: VideoSize, prompt_length: usize) -> Result<PipelineConfig, PipelineError> {
    let VideoSize { frames, height, width } = size;
    if (2..MIN_FRAMES).contains(&frames) {
        return Err(PipelineError::Setting(format!(
            "{frames} frames: {OPENSORA} makes 1 frame (a picture) or at least {MIN_FRAMES}"
        )));
    }
    let latent = size::latent(size);
    Ok(PipelineConfig {
        name: OPENSORA.into(),
        prompt_length,
        latent,
        video_frames: Some(frames),
        // Of the published sizes some are no multiples of a latent position's side: the rest is not made.
        height: latent[1] * SIDE,
        width: latent[2] * SIDE,
        fps: if frames == 1 { FPS.1 } else { FPS.0 },
        resolution: (rounded(height as f64) * rounded(width as f64)).sqrt(),
        default_steps: 30,
        default_cfg_scale: 7.0.into(),
        sampling: None,
        negative_prompt: None,
        vae_tiling: false,
        fp8_weights: false,
    })
}

/// Rounds to bf16: the published pipeline stores sizes in bf16 and calculates with them.
fn rounded(value: f64) -> f64 {
    bf16::from_f64(value).to_f64()
}

/// The timestep shift: √(height·width/512²) · √(⌊frames/17⌋·5), the second factor 1 for one frame; rounded after every operation, as
/// published.
fn timestep_shift(VideoSize { frames, height, width }: VideoSize) -> f64 {
    let area = rounded(rounded(height as f64) * rounded(width as f64));
    let space = rounded(rounded(area / (512.0 * 512.0)).sqrt());
    let chunks = (rounded(frames as f64) / 17.0).floor();
    let time = if frames == 1 { 1.0 } else { rounded(rounded(rounded(chunks) * 5.0).sqrt()) };
    rounded(space * time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_are_rounded_to_bf16() {
        let size = |r, f| size::published(r, "9:16", f).unwrap();
        let config = |r, f| pipeline_config(size(r, f), 300).unwrap();
        // 480×854: 854 lies half between 852 and 856 and becomes 856; 480·856 = 410880 → 411648; /512² → 1.5703125;
        // its root 1.2531… → 1.25; √15 = 3.87… → 3.875; the product 4.84375 has 8 bits.
        let c = config("480p", 51);
        assert_eq!(timestep_shift(size("480p", 51)), 4.84375);
        assert_eq!(c.resolution, (480.0f64 * 856.0).sqrt());
        assert_eq!((c.latent, c.fps), ([15, 60, 106], 24.0));
        // One frame is a picture.
        assert_eq!((timestep_shift(size("480p", 1)), config("480p", 1).fps), (1.25, 120.0));
        let error = |frames| pipeline_config(VideoSize::new(frames, 240, 424).unwrap(), 300).unwrap_err().to_string();
        assert!(error(2).contains("2 frames") && error(16).contains("at least 17"));
        assert_eq!(pipeline_config(VideoSize::new(17, 240, 424).unwrap(), 300).unwrap().latent, [5, 30, 53]);
        assert_eq!(pipeline_config(VideoSize::new(408, 720, 1280).unwrap(), 300).unwrap().latent, [120, 90, 160]);
    }
}
