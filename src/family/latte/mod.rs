//! Latte-1 and Open-Sora-Plan 1.1: sizes and settings as published, prompts, and their checkpoints.

mod presets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

pub use self::presets::presets;
use super::clean::cleaned;
use super::embed::{Encoder, Text};
use super::presets::presets_in;
use super::row::{Family, Measured};
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::hub::{Checkpoint, Part, Published, PublishedFile, PublishedForm, PublishedPart, cache_dir};
use crate::model::vae::{CausalTiling, CausalVae, CausalVaeConfig, LatteVae, LatteVaeConfig};
use crate::model::{
    Autoencoder, Latte, LatteConfig, LatteKind, ModelError, Progress, Transformer, TransformerShape, Weights,
};
use crate::pipeline::{
    Content, FileContent, Guidance, Inputs, ModelFile, ModelSource, OpenOptions, Parts, PipelineConfig, PipelineError,
    Prompt, PromptText, Source, TextOptions, VideoSize,
};
use crate::sampler::{NoiseMethod, SchedulerConfig, Solver};
use crate::shapes::Shapes;
use crate::tensor::DType;

/// Side in pixels of the square that becomes one latent position.
const SIDE: usize = 8;
/// Latent positions that become one token, along height and along width.
const PATCH: usize = 2;
/// The negative prompt of both pipelines.
const NEGATIVE_PROMPT: &str = "";
/// The file in which a checkpoint has its sampler's settings.
const SCHEDULER: &str = "scheduler_config.json";

/// T5's tokenizer: the published repositories have another library's format only.
const TOKENIZER: PublishedFile =
    PublishedFile { repo: "lmz/mt5-tokenizers", folder: "", name: "t5-v1_1-xxl.tokenizer.json" };

/// A text encoder.
const fn text(repo: &'static str, folder: &'static str) -> PublishedPart {
    PublishedPart { tokenizer: Some(TOKENIZER), ..PublishedPart::new(Part::Text, repo, folder) }
}

/// A published model.
pub struct LatteModel(&'static Facts);

/// What is known of a model without its files.
struct Facts {
    kind: LatteKind,
    /// Its class in a transformer's configuration.
    class: &'static str,
    published: Published,
    /// Frames of the video for each latent frame but the first, which is one.
    every: usize,
    fps: f64,
    steps: usize,
    method: NoiseMethod,
    measured: &'static [Measured],
}

const LATTE_1: &str = "maxin-cn/Latte-1";
const OPEN_SORA_PLAN: &str = "LanguageBind/Open-Sora-Plan-v1.1.0";

/// Latte's decoders: of videos, and of pictures.
const DECODERS: &[PublishedForm] = &[
    PublishedForm { folder: "vae_temporal_decoder", class: "AutoencoderKLTemporalDecoder" },
    PublishedForm { folder: "vae", class: "AutoencoderKL" },
];

/// A published run of a 512×512 video, on one A100 80 GB.
const fn run(frames: usize, steps: usize, what: &'static str, seconds: f64) -> Measured {
    Measured { resolution: None, frames, steps, what, seconds }
}

/// Latte-1: 16 frames of 512×512 pixels.
pub static LATTE: LatteModel = LatteModel(&Facts {
    kind: LatteKind::Latte,
    class: "LatteTransformer3DModel",
    published: Published {
        name: "latte-1",
        parts: &[
            PublishedPart::new(Part::Transformer, LATTE_1, "transformer"),
            PublishedPart { forms: DECODERS, ..PublishedPart::new(Part::Vae, LATTE_1, "vae_temporal_decoder") },
            text(LATTE_1, "text_encoder"),
        ],
        index: Some(PublishedFile { repo: LATTE_1, folder: "scheduler", name: SCHEDULER }),
        other: None,
    },
    every: 1,
    fps: 8.0,
    steps: 50,
    method: NoiseMethod::Ddim,
    measured: &[
        run(16, 50, "every step computed", 32.45),
        run(16, 50, "AdaCache fast", 11.85),
        run(16, 50, "AdaCache fast + MoReg", 13.20),
        run(16, 50, "AdaCache slow", 20.35),
    ],
});

/// Open-Sora-Plan 1.1: 65 frames of 512×512 pixels.
pub static OPEN_SORA_PLAN_1_1: LatteModel = LatteModel(&Facts {
    kind: LatteKind::OpenSoraPlan,
    class: "LatteT2V",
    published: Published {
        name: "open-sora-plan-v1.1",
        parts: &[
            PublishedPart::new(Part::Transformer, OPEN_SORA_PLAN, "65x512x512"),
            PublishedPart::new(Part::Vae, OPEN_SORA_PLAN, "vae"),
            text("DeepFloyd/t5-v1_1-xxl", ""),
        ],
        index: None,
        other: None,
    },
    every: 4,
    fps: 24.0,
    steps: 150,
    method: NoiseMethod::Pndm,
    measured: &[
        run(65, 150, "every step computed", 129.67),
        run(65, 150, "AdaCache fast", 35.04),
        run(65, 150, "AdaCache fast + MoReg", 36.77),
        run(65, 150, "AdaCache slow", 58.88),
    ],
});

/// What tells the configuration of a transformer from others.
#[derive(Deserialize)]
struct Marks {
    #[serde(rename = "_class_name")]
    class: Option<String>,
}

impl Family for LatteModel {
    fn name(&self) -> &'static str {
        self.0.published.name
    }

    fn recognises(&self, folder: &Path) -> bool {
        let text = fs::read_to_string(folder.join(Part::Transformer.name()).join("config.json"));
        let marks = text.ok().and_then(|text| serde_json::from_str::<Marks>(&text).ok());
        marks.and_then(|marks| marks.class).is_some_and(|class| class == self.0.class)
    }

    fn open(&self, folder: Option<&Path>, options: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let checkpoint = match folder {
            Some(folder) => Checkpoint::at(&self.0.published, folder),
            None => Checkpoint::in_cache(&self.0.published, &cache_dir()),
        };
        let file = checkpoint.file(Part::Transformer, "config.json");
        if !file.exists() {
            checkpoint.require_all()?;
        }
        let name = file.display().to_string();
        let text = fs::read_to_string(&file).map_err(|source| ModelError::Io { file: name.clone(), source })?;
        let model = LatteConfig::from_json(&text, &name, self.0.kind)?;
        Ok(Arc::new(Opened::new(self.0, model, Some(checkpoint), options)?))
    }

    fn published(&self, options: &OpenOptions) -> Result<ModelSource, PipelineError> {
        Ok(Arc::new(Opened::new(self.0, LatteConfig::published(self.0.kind), None, options)?))
    }

    fn inputs(&self) -> Inputs {
        Inputs { text: true, vae_tiling: self.0.kind == LatteKind::OpenSoraPlan, ..Inputs::default() }
    }

    fn checkpoint(&self) -> Option<&'static Published> {
        Some(&self.0.published)
    }

    fn measured(&self) -> &'static [Measured] {
        self.0.measured
    }
}

/// A checkpoint, or the known facts of the published one.
struct Opened {
    facts: &'static Facts,
    config: PipelineConfig,
    model: LatteConfig,
    scheduler: SchedulerConfig,
    anatomy: Anatomy,
    /// `None`: the published one, without its files.
    checkpoint: Option<Checkpoint>,
}

impl Opened {
    fn new(
        facts: &'static Facts,
        model: LatteConfig,
        checkpoint: Option<Checkpoint>,
        options: &OpenOptions,
    ) -> Result<Opened, PipelineError> {
        // The size of the positions' grid, at which the model was trained.
        let [height, width] = options.pixels.unwrap_or([model.sample_size * SIDE; 2]);
        let frames = options.frames.unwrap_or(facts.video_frames(model.frames));
        VideoSize::new(frames, height, width)?;
        if !(height.is_multiple_of(SIDE * PATCH) && width.is_multiple_of(SIDE * PATCH)) {
            let reason = format!("--size {height}x{width}: both sides have to be multiples of {}", SIDE * PATCH);
            return Err(PipelineError::Setting(reason));
        }
        let config = PipelineConfig {
            name: facts.published.name.into(),
            prompt_length: model.caption_tokens,
            latent: [facts.latent_frames(&model, frames)?, height / SIDE, width / SIDE],
            video_frames: Some(frames),
            height,
            width,
            fps: facts.fps,
            // Positions follow the grid of tokens alone.
            resolution: ((height * width) as f64).sqrt(),
            default_steps: facts.steps,
            default_cfg_scale: Guidance::All(7.5),
            sampling: None,
            negative_prompt: Some(NEGATIVE_PROMPT),
            vae_tiling: options.vae_tiling,
            fp8_weights: options.fp8_weights,
        };
        let scheduler = facts.scheduler(checkpoint.as_ref())?;
        Ok(Opened { facts, config, anatomy: model.anatomy(), model, scheduler, checkpoint })
    }

    fn files(&self) -> Result<&Checkpoint, PipelineError> {
        let none = || PipelineError::Setting(format!("{} as published has no files here", self.config.name));
        self.checkpoint.as_ref().ok_or_else(none)
    }

    fn weights(&self, part: Part) -> Result<Weights<'static>, PipelineError> {
        Ok(self.files()?.open(part)?)
    }
}

impl Facts {
    /// Frames of a video of `latent` frames.
    fn video_frames(&self, latent: usize) -> usize {
        (latent.max(1) - 1) * self.every + 1
    }

    /// Latent frames of a video of `frames` frames.
    ///
    /// # Errors
    /// A number that the transformer does not know.
    fn latent_frames(&self, model: &LatteConfig, frames: usize) -> Result<usize, PipelineError> {
        let usual = self.video_frames(model.frames);
        match frames {
            frames if frames == usual => Ok(model.frames),
            1 if model.pictures => Ok(1),
            _ => {
                let picture = if model.pictures { ", or 1 for a picture" } else { "" };
                let reason = format!("{frames} frames: {} makes videos of {usual}{picture}", self.published.name);
                Err(PipelineError::Setting(reason))
            }
        }
    }

    /// Rejects an autoencoder of other factors in space and time.
    fn decodes(&self, side: usize, every: usize) -> Result<(), PipelineError> {
        if (side, every) == (SIDE, self.every) {
            return Ok(());
        }
        let reason = format!(
            "the autoencoder decodes to {side} × {side} pixels and {every} frames, {} needs {SIDE} × {SIDE} and {}: it is of another model",
            self.published.name, self.every
        );
        Err(PipelineError::Setting(reason))
    }

    /// The file of the sampler's settings, of models that have one; it may be missing.
    fn scheduler_file(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        Some(checkpoint.folder().join(self.published.index.as_ref()?.name))
    }

    /// The sampler's settings: of Latte those of the checkpoint, but for β and clipping, which the published script brings along;
    /// Open-Sora-Plan's script takes diffusers' defaults.
    fn scheduler(&self, checkpoint: Option<&Checkpoint>) -> Result<SchedulerConfig, PipelineError> {
        let Some(file) = checkpoint.and_then(|checkpoint| self.scheduler_file(checkpoint)) else {
            return Ok(SchedulerConfig::new(self.method));
        };
        match fs::read_to_string(&file) {
            Ok(text) => SchedulerConfig::with_own_betas(&text, self.method).map_err(|error| {
                ModelError::Config { file: file.display().to_string(), reason: error.to_string() }.into()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(SchedulerConfig::new(self.method)),
            Err(source) => Err(ModelError::Io { file: file.display().to_string(), source }.into()),
        }
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
        LatteModel(self.facts).inputs()
    }

    fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        // A number of steps for which there is no schedule is told where it is made.
        let calls = self.solver(steps).map_or(steps, |solver| solver.rows().len());
        let own = presets(self.facts.kind, &self.anatomy, steps, calls);
        match &self.checkpoint {
            Some(checkpoint) => presets_in(&checkpoint.file(Part::Transformer, "codebooks.json"), own),
            None => Ok(own),
        }
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        Ok(self.scheduler.solver(steps)?)
    }

    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError> {
        PromptText::new(prompt)
    }

    /// As the published pipelines do for one prompt: of the prompt's embedding there is what its tokens give, and of that of the negative
    /// prompt as many places, what the encoder makes of padding included. The transformer has no mask and reads them all.
    fn embed(
        &self,
        prompts: &[PromptText],
        options: &TextOptions,
        device: &Device,
        dtype: DType,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError> {
        let encoder = Encoder { checkpoint: self.files()?, model: self.model.shape(), device, dtype };
        let texts: Vec<String> = prompts.iter().map(|prompt| cleaned(&prompt.to_string())).collect();
        let negative = cleaned(options.negative.as_deref().unwrap_or(NEGATIVE_PROMPT));
        let against = |places: usize| Text { text: negative.clone(), places: Some(places) };
        let lengths = if options.unguided { vec![] } else { encoder.lengths(&texts)? };
        let negatives: Vec<Text> = lengths.into_iter().map(against).collect();
        let all: Vec<Text> = texts.into_iter().map(Text::alone).chain(negatives).collect();
        let mut embedded = encoder.embed(&all, progress)?;
        let mut negatives = embedded.split_off(prompts.len()).into_iter().map(Arc::new);
        let prompts = prompts.iter().cloned().zip(embedded).map(|(text, own)| Prompt::new(text, own));
        Ok(prompts.map(|prompt| negatives.next().into_iter().fold(prompt, Prompt::against)).collect())
    }

    fn require(&self, parts: Parts) -> Result<(), PipelineError> {
        Ok(self.checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.require(&parts.listed()))?)
    }

    fn files(&self) -> Vec<ModelFile> {
        let Some(checkpoint) = &self.checkpoint else { return vec![] };
        let scheduler = self.facts.scheduler_file(checkpoint).filter(|file| file.exists());
        let scheduler = scheduler.map(|file| ModelFile { name: SCHEDULER.into(), content: FileContent::OnDisk(file) });
        ModelFile::of_checkpoint(checkpoint).into_iter().chain(scheduler).collect()
    }

    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        let weights = content.weights(|| self.weights(Part::Transformer))?.in_fp8(self.config.fp8_weights);
        Ok(Box::new(Latte::load_streaming(device, self.model.clone(), weights, dtype, streamed)?))
    }

    fn launches(&self) -> Result<Shapes, PipelineError> {
        Ok(self.model.launches(&self.config.geometry(1), self.config.prompt_length))
    }

    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        self.facts.latent_frames(&self.model, frames)
    }

    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError> {
        let weights = content.weights(|| self.weights(Part::Vae))?;
        let config = self.checkpoint.as_ref().map(|checkpoint| checkpoint.file(Part::Vae, "config.json"));
        let folder = config.as_deref().and_then(Path::parent);
        Ok(Some(match self.facts.kind {
            LatteKind::OpenSoraPlan => {
                let config = folder.map_or_else(|| Ok(CausalVaeConfig::default()), CausalVaeConfig::of_folder)?;
                self.facts.decodes(config.spatial_factor(), config.temporal_factor())?;
                let vae = CausalVae::load(device, config, weights, dtype)?;
                Box::new(if self.config.vae_tiling { vae.tiled(CausalTiling::default())? } else { vae })
            }
            _ => {
                let published = || LatteVaeConfig::of(&weights, "{}", "config.json");
                let config = folder.map_or_else(published, |folder| LatteVaeConfig::of_folder(folder, &weights))?;
                self.facts.decodes(config.spatial_factor(), 1)?;
                Box::new(LatteVae::load(device, config, weights, dtype)?)
            }
        }))
    }
}
