//! Wan 2.1 and 2.2: sizes and settings as published, prompts, and the checkpoints in the layout of diffusers and in the official one.

mod experts;
mod magcache;
pub mod presets;
mod preview;
mod prompt;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::presets::presets;
use self::preview::{Preview, Whole};
pub use self::prompt::{NEGATIVE_PROMPT, prepare_prompt};
use super::embed::{Encoder, Text};
use super::presets::presets_in;
use super::row::Family;
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::hub::{Checkpoint, OtherPart, OtherRepository, Part, Published, PublishedFile, PublishedPart, cache_dir};
use crate::model::vae::{TinyVaeConfig, WanVae, WanVaeConfig};
use crate::model::{Autoencoder, LoraFile, Progress, Transformer, TransformerShape, Wan, WanConfig, Weights};
use crate::pipeline::{
    Content, Expert, FileContent, FrameInputs, Guidance, Inputs, ModelFile, ModelSource, OpenOptions, Parts,
    PipelineConfig, PipelineError, Prompt, PromptText, Sampling, Source, TextOptions, VideoSize,
};
use crate::sampler::Solver;
use crate::shapes::Shapes;
use crate::tensor::DType;

/// Latent positions that become one token, along height and along width.
const PATCH: usize = 2;

/// A published model.
pub struct WanModel(&'static Facts);

/// What is known of a model without its files.
struct Facts {
    published: Published,
    /// The transformer's shape.
    shape: fn() -> WanConfig,
    /// The autoencoder's shape.
    vae: fn() -> WanVaeConfig,
    /// Default height, width and frames.
    size: [usize; 3],
    fps: f64,
    /// The frames that can be given.
    frames: FrameInputs,
    /// The official settings.
    steps: usize,
    shift: f64,
    cfg_scale: Guidance,
    /// Where the second of two experts takes over.
    boundary: Option<f64>,
}

impl Facts {
    /// The settings that most models share.
    const fn new(published: Published, shape: fn() -> WanConfig) -> Facts {
        Facts {
            published,
            shape,
            vae: WanVaeConfig::wan21,
            size: [480, 832, 81],
            fps: 16.0,
            frames: FrameInputs::None,
            steps: 50,
            shift: 5.0,
            cfg_scale: Guidance::All(5.0),
            boundary: None,
        }
    }
}

/// The number of caption tokens that the models were trained with, which is the most that they read.
const MOST_CAPTION_TOKENS: usize = 512;

/// The text encoder of a repository, with its tokenizer.
const fn text(repo: &'static str) -> PublishedPart {
    let tokenizer = Some(PublishedFile { repo, folder: "tokenizer", name: "tokenizer.json" });
    PublishedPart { tokenizer, ..PublishedPart::new(Part::Text, repo, "text_encoder") }
}

/// The parts of a repository in the layout of diffusers.
const fn parts(repo: &'static str) -> [PublishedPart; 3] {
    [PublishedPart::new(Part::Transformer, repo, "transformer"), PublishedPart::new(Part::Vae, repo, "vae"), text(repo)]
}

/// A transformer in an official repository: one file, or shards with an index.
const fn official(part: Part, folder: &'static str) -> OtherPart {
    OtherPart { part, folder, weights: "diffusion_pytorch_model.safetensors", config: true, tokenizer: "" }
}

/// A file of `torch.save` beside it.
const fn beside(part: Part, weights: &'static str, tokenizer: &'static str) -> OtherPart {
    OtherPart { part, folder: "", weights, config: false, tokenizer }
}

/// The text encoder of every official repository.
const OFFICIAL_TEXT: OtherPart = beside(Part::Text, "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl");

/// The parts of an official repository of one transformer, with this autoencoder.
const fn officials(vae: &'static str) -> [OtherPart; 3] {
    [official(Part::Transformer, ""), beside(Part::Vae, vae, ""), OFFICIAL_TEXT]
}

const VAE21: &str = "Wan2.1_VAE.pth";

const T2V_A14B: &str = "Wan-AI/Wan2.2-T2V-A14B-Diffusers";

/// Wan 2.1 T2V-1.3B.
pub static WAN21_1_3B: WanModel = WanModel(&Facts::new(
    Published {
        name: "wan2.1-t2v-1.3b",
        parts: &parts("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        index: None,
        other: Some(OtherRepository { repo: "Wan-AI/Wan2.1-T2V-1.3B", parts: &officials(VAE21) }),
    },
    WanConfig::t2v_1_3b,
));

/// Wan 2.1 T2V-14B.
pub static WAN21_14B: WanModel = WanModel(&Facts::new(
    Published {
        name: "wan2.1-t2v-14b",
        parts: &parts("Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        index: None,
        other: Some(OtherRepository { repo: "Wan-AI/Wan2.1-T2V-14B", parts: &officials(VAE21) }),
    },
    WanConfig::t2v_14b,
));

/// Wan 2.2 TI2V-5B, from text, or from text and a picture.
pub static WAN22_5B: WanModel = WanModel(&Facts {
    vae: WanVaeConfig::wan22,
    size: [704, 1280, 121],
    fps: 24.0,
    frames: FrameInputs::First,
    ..Facts::new(
        Published {
            name: "wan2.2-ti2v-5b",
            parts: &parts("Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
            index: None,
            other: Some(OtherRepository { repo: "Wan-AI/Wan2.2-TI2V-5B", parts: &officials("Wan2.2_VAE.pth") }),
        },
        WanConfig::ti2v_5b,
    )
});

/// Wan 2.2 T2V-A14B: two experts of 14B, one for the noisy steps and one for the others.
pub static WAN22_A14B: WanModel = WanModel(&Facts {
    steps: 40,
    shift: 12.0,
    cfg_scale: Guidance::Each([4.0, 3.0]),
    boundary: Some(0.875),
    ..Facts::new(
        Published {
            name: "wan2.2-t2v-a14b",
            parts: &[
                PublishedPart::new(Part::Transformer, T2V_A14B, "transformer"),
                PublishedPart::new(Part::Transformer2, T2V_A14B, "transformer_2"),
                PublishedPart::new(Part::Vae, T2V_A14B, "vae"),
                text(T2V_A14B),
            ],
            index: Some(PublishedFile { repo: T2V_A14B, folder: "", name: experts::INDEX }),
            other: Some(OtherRepository {
                repo: "Wan-AI/Wan2.2-T2V-A14B",
                parts: &[
                    official(Part::Transformer, experts::HIGH_NOISE),
                    official(Part::Transformer2, experts::LOW_NOISE),
                    beside(Part::Vae, VAE21, ""),
                    OFFICIAL_TEXT,
                ],
            }),
        },
        WanConfig::t2v_14b,
    )
});

/// What tells the configuration of one of these transformers from others, and from each other.
#[derive(Deserialize)]
struct Marks {
    #[serde(rename = "_class_name")]
    class: Option<String>,
    #[serde(alias = "num_layers")]
    layers: Option<usize>,
    #[serde(alias = "in_dim")]
    in_channels: Option<usize>,
    /// A model with words of its own: it is none of those that were published.
    vocabulary: Option<IgnoredAny>,
    /// Whether there is a second expert.
    #[serde(skip)]
    experts: bool,
}

impl Marks {
    /// What the transformers' configurations in a checkpoint's folder say, one of which may be missing.
    fn read(checkpoint: &Checkpoint) -> Option<Marks> {
        let two = checkpoint.parts().any(|part| part == Part::Transformer2);
        let second = two.then(|| checkpoint.configs(Part::Transformer2)).into_iter().flatten();
        let config = checkpoint.configs(Part::Transformer).chain(second).next()?;
        let marks: Marks = serde_json::from_str(&fs::read_to_string(&config).ok()?).ok()?;
        let marks = Marks { experts: experts::are_in(checkpoint.folder()), ..marks };
        let is_wan = marks.class.as_deref().is_some_and(|class| class.starts_with("Wan"));
        (is_wan && marks.vocabulary.is_none()).then_some(marks)
    }

    /// The model whose defaults serve a folder: of a shape of its own, the smallest with as many channels.
    fn model(&self) -> &'static WanModel {
        match (self.in_channels, self.layers) {
            (Some(48), _) => &WAN22_5B,
            _ if self.experts => &WAN22_A14B,
            (_, Some(40)) => &WAN21_14B,
            _ => &WAN21_1_3B,
        }
    }
}

impl Family for WanModel {
    fn name(&self) -> &'static str {
        self.0.published.name
    }

    fn recognises(&self, folder: &Path) -> bool {
        let marks = Marks::read(&Checkpoint::at(&self.0.published, folder));
        marks.is_some_and(|marks| marks.model().name() == self.name())
    }

    fn open(&self, folder: Option<&Path>, options: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let facts = self.0;
        let checkpoint = match folder {
            Some(folder) => Checkpoint::at(&facts.published, folder),
            None => Checkpoint::in_cache(&facts.published, &cache_dir()),
        };
        let boundary = facts.boundary.map(|usual| experts::boundary(checkpoint.folder(), usual)).transpose()?;
        let shape = experts::shape(&checkpoint, experts::experts(boundary).len(), &options.loras)?;
        let vae = match checkpoint.open(Part::Vae) {
            Ok(weights) => WanVaeConfig::of_file(checkpoint.config(Part::Vae).as_deref(), &weights)?,
            // Latents can be made without it; what needs it asks for it.
            Err(_) => (facts.vae)(),
        };
        Ok(Arc::new(Opened::new(self, Networks { shape, vae, boundary }, Some(checkpoint), options)?))
    }

    fn published(&self, options: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let Facts { shape, vae, boundary, .. } = self.0;
        Ok(Arc::new(Opened::new(self, Networks { shape: shape(), vae: vae(), boundary: *boundary }, None, options)?))
    }

    fn inputs(&self) -> Inputs {
        Inputs { text: true, frames: self.0.frames, sampler: true, loras: true, tiny_vae: true, ..Inputs::default() }
    }

    fn checkpoint(&self) -> Option<&'static Published> {
        Some(&self.0.published)
    }
}

/// The shapes of a model's networks, and where the second of two experts takes over.
struct Networks {
    shape: WanConfig,
    vae: WanVaeConfig,
    boundary: Option<f64>,
}

/// A checkpoint, or the known facts of the published one.
struct Opened {
    config: PipelineConfig,
    experts: Vec<Expert>,
    sampling: Sampling,
    model: WanConfig,
    vae: WanVaeConfig,
    anatomy: Anatomy,
    loras: Vec<LoraFile>,
    /// A tiny autoencoder to decode with.
    tiny: Option<(PathBuf, TinyVaeConfig)>,
    inputs: Inputs,
    /// `None`: the published one, without its files.
    checkpoint: Option<Checkpoint>,
}

impl Opened {
    fn new(
        family: &WanModel,
        Networks { shape: model, vae, boundary }: Networks,
        checkpoint: Option<Checkpoint>,
        options: &OpenOptions,
    ) -> Result<Opened, PipelineError> {
        let Facts { size: [height, width, frames], fps, steps, shift: usual, cfg_scale, .. } = *family.0;
        let model = WanConfig { text_len: options.caption_tokens.unwrap_or(model.text_len), ..model };
        if !(1..=MOST_CAPTION_TOKENS).contains(&model.text_len) {
            let reason = format!("--max-sequence-length {} must be from 1 to {MOST_CAPTION_TOKENS}", model.text_len);
            return Err(PipelineError::Setting(reason));
        }
        let [height, width] = options.pixels.unwrap_or([height, width]);
        let size = VideoSize::new(options.frames.unwrap_or(frames), height, width)?;
        let sampling = Sampling { boundary, ..Sampling::asked(options, usual, model.text_len)? };
        if vae.latent_channels != model.channels {
            return Err(PipelineError::Setting(format!(
                "the transformer has latents of {} channels and the autoencoder of {}: they are of different models",
                model.channels, vae.latent_channels
            )));
        }
        let tiny = match &options.tiny_vae {
            Some(file) => Some((file.clone(), preview::shape(file, &vae)?)),
            None => None,
        };
        let config = PipelineConfig {
            name: family.name().into(),
            prompt_length: model.text_len,
            latent: latent(size, &vae)?,
            video_frames: Some(size.frames),
            height,
            width,
            fps,
            // Positions do not depend on the size.
            resolution: ((height * width) as f64).sqrt(),
            default_steps: sampling.steps().unwrap_or(steps),
            default_cfg_scale: cfg_scale,
            sampling: Some(sampling.clone()),
            negative_prompt: Some(NEGATIVE_PROMPT),
            vae_tiling: false,
            fp8_weights: options.fp8_weights,
        };
        let (loras, experts) = (options.loras.clone(), experts::experts(boundary));
        experts::check_loras(&loras, &experts)?;
        let (inputs, anatomy) = (family.inputs(), model.anatomy());
        Ok(Opened { config, experts, sampling, anatomy, model, vae, loras, tiny, inputs, checkpoint })
    }

    fn files(&self) -> Result<&Checkpoint, PipelineError> {
        let none = || PipelineError::Setting(format!("{} as published has no files here", self.config.name));
        self.checkpoint.as_ref().ok_or_else(none)
    }

    fn weights(&self, part: Part) -> Result<Weights<'static>, PipelineError> {
        Ok(self.files()?.open(part)?)
    }
}

/// Latent frames, height and width of a video.
///
/// # Errors
/// A size of which nothing whole is left: frames that are not 4·n + 1, sides that are no multiples of 16 (Wan 2.2 TI2V: 32).
fn latent(size: VideoSize, vae: &WanVaeConfig) -> Result<[usize; 3], PipelineError> {
    let VideoSize { frames, height, width } = size;
    let (every, side) = (vae.temporal_factor(), vae.spatial_factor());
    let Some(latent) = vae.latent_frames(frames) else {
        let below = (frames.max(1) - 1) / every * every + 1;
        let above = below + every;
        return Err(PipelineError::Setting(format!(
            "{frames} frames: Wan makes a multiple of {every} and one more; the nearest are --frames {below} and {above}"
        )));
    };
    let multiple = side * PATCH;
    if !(height.is_multiple_of(multiple) && width.is_multiple_of(multiple)) {
        let nearest = |side: usize| (side + multiple / 2).max(multiple) / multiple * multiple;
        return Err(PipelineError::Setting(format!(
            "--size {height}x{width}: both sides have to be multiples of {multiple}, as in {}x{}",
            nearest(height),
            nearest(width)
        )));
    }
    Ok([latent, height / side, width / side])
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
        self.inputs
    }

    fn presets(&self, _steps: usize) -> Result<Presets, PipelineError> {
        let published = presets(&self.model, self.experts.len(), self.sampling.shift);
        match &self.checkpoint {
            Some(checkpoint) => presets_in(&checkpoint.file(Part::Transformer, "codebooks.json"), published),
            None => Ok(published),
        }
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        self.sampling.solver(steps)
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
        let encoder = Encoder { checkpoint: self.files()?, model: self.model.shape(), device, dtype };
        let prepare = |prompt: &str| Text::alone(prepare_prompt(prompt));
        let mut texts: Vec<Text> = prompts.iter().map(|prompt| prepare(&prompt.to_string())).collect();
        if !options.unguided {
            texts.push(prepare(options.negative.as_deref().unwrap_or(NEGATIVE_PROMPT)));
        }
        let mut embedded = encoder.embed(&texts, progress)?;
        let negative = embedded.split_off(prompts.len()).pop().map(Arc::new);
        let prompts = prompts.iter().cloned().zip(embedded).map(|(text, embedding)| Prompt::new(text, embedding));
        Ok(prompts.map(|prompt| negative.iter().cloned().fold(prompt, Prompt::against)).collect())
    }

    fn require(&self, parts: Parts) -> Result<(), PipelineError> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        // A tiny decoder takes the place of the autoencoder's.
        let parts = Parts { decoder: parts.decoder && self.tiny.is_none(), ..parts };
        let second = checkpoint.parts().filter(|part| *part == Part::Transformer2);
        Ok(checkpoint.require(&parts.listed().into_iter().chain(second).collect::<Vec<_>>())?)
    }

    fn files(&self) -> Vec<ModelFile> {
        let lora = |(i, lora): (usize, &LoraFile)| ModelFile {
            name: match &lora.expert {
                Some(expert) => format!("lora {i}, strength {}, {expert}", lora.strength),
                None => format!("lora {i}, strength {}", lora.strength),
            },
            content: FileContent::OnDisk(lora.path.clone()),
        };
        let own = self.checkpoint.as_ref().map_or_else(Vec::new, ModelFile::of_checkpoint);
        let tiny = self
            .tiny
            .iter()
            .map(|(file, _)| ModelFile { name: "tiny autoencoder".into(), content: FileContent::OnDisk(file.clone()) });
        own.into_iter().chain(self.loras.iter().enumerate().map(lora)).chain(tiny).collect()
    }

    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        self.expert(0, device, dtype, streamed, content)
    }

    fn experts(&self) -> &[Expert] {
        &self.experts
    }

    fn expert(
        &self,
        index: usize,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        let loras = experts::loras(&self.loras, index);
        let adapted = || Ok::<_, PipelineError>(Wan::adapted(self.weights(experts::part(index))?, &loras)?);
        let weights = content.weights(adapted)?.in_fp8(self.config.fp8_weights);
        Ok(Box::new(Wan::load_streaming(device, self.model.clone(), weights, dtype, streamed)?))
    }

    fn launches(&self) -> Result<Shapes, PipelineError> {
        let [_, height, width] = self.config.latent;
        Ok(self.vae.launches([height, width]))
    }

    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        let size = VideoSize { frames, height: self.config.height, width: self.config.width };
        Ok(latent(size, &self.vae)?[0])
    }

    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError> {
        if let Some((file, tiny)) = &self.tiny {
            let whole = Whole { vae: self.vae.clone(), checkpoint: self.checkpoint.clone(), content };
            return Ok(Some(Box::new(Preview::load(file, tiny, whole, device, dtype)?)));
        }
        let weights = content.weights(|| self.weights(Part::Vae))?;
        Ok(Some(Box::new(WanVae::load(device, self.vae.clone(), weights, dtype)?)))
    }
}
