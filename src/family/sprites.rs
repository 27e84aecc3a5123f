//! The built-in model, which takes six words, and folders with the same layout, with vocabularies of their own.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::opensora;
use super::presets::{presets_in, presets_of};
use super::row::Family;
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::model::vae::{VaeConfig, VideoVae};
use crate::model::{
    Autoencoder, ModelError, PatchDecoder, Progress, StDiT3, StDiT3Config, Transformer, TransformerShape, Weights,
};
use crate::pipeline::{
    Content, FileContent, Inputs, ModelFile, ModelSource, OpenOptions, PipelineConfig, PipelineError, Prompt,
    PromptText, Source, TextOptions, VideoSize,
};
use crate::sampler::{Schedule, Solver};
use crate::shapes::Shapes;
use crate::tensor::DType;
use crate::text::{TextEncoder, TextError, Vocabulary};

/// The files of `models/sprites`, embedded in the program.
macro_rules! embedded {
    ($file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/sprites/", $file))
    };
}

/// The family: `sprites`, or a folder with `config.json`, `model.safetensors`, `text.safetensors`, `decoder.safetensors` (or `vae/`, with a
/// video autoencoder) and, if it has presets of its own, `codebooks.json`.
pub struct Sprites;

impl Family for Sprites {
    fn name(&self) -> &'static str {
        "sprites"
    }

    fn recognises(&self, folder: &Path) -> bool {
        const FILES: [&str; 5] =
            ["config.json", "model.safetensors", "text.safetensors", "decoder.safetensors", "codebooks.json"];
        FILES.iter().any(|file| folder.join(file).is_file())
    }

    fn open(&self, folder: Option<&Path>, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        Ok(Arc::new(Opened::new(folder.map_or(Place::Program, |folder| Place::Folder(folder.into())), size)?))
    }

    fn inputs(&self) -> Inputs {
        Inputs::default()
    }
}

/// The vocabulary of `sprites`.
pub fn vocabulary() -> Vocabulary {
    Settings::read(&Place::Program).and_then(|settings| settings.words(&Place::Program)).expect("checked by a test")
}

/// The shape of its transformer.
pub fn shape() -> StDiT3Config {
    let read = |text: String| StDiT3Config::from_json(&text, &Place::Program.name_of("config.json"));
    Place::Program.text("config.json").and_then(read).expect("checked by a test")
}

/// The settings in `config.json` besides the transformer's shape.
#[derive(Clone, Debug, Deserialize)]
struct Settings {
    #[serde(default = "Settings::stdit3")]
    name: String,
    /// Words by token id.
    vocabulary: Vec<String>,
    /// Caption tokens the model takes.
    prompt_length: usize,
    /// Latent frames, height, width.
    latent: [usize; 3],
    /// Frames of the video, if they differ from the latent ones.
    #[serde(default)]
    video_frames: Option<usize>,
    height: usize,
    width: usize,
    fps: f64,
    /// The ratio of the timestep shift (see [`Schedule::shifted`]).
    #[serde(default = "Settings::one")]
    timestep_shift: f64,
    default_steps: usize,
    default_cfg_scale: f32,
}

impl Settings {
    fn stdit3() -> String {
        "stdit3".into()
    }

    fn one() -> f64 {
        1.0
    }

    fn read(place: &Place) -> Result<Settings, ModelError> {
        Settings::from_json(&place.text("config.json")?, &place.name_of("config.json"))
    }

    fn from_json(text: &str, file: &str) -> Result<Settings, ModelError> {
        let error = |reason: String| ModelError::Config { file: file.into(), reason };
        let settings: Settings =
            serde_json::from_str(text).map_err(|e| error(format!("not the configuration of a sprites model: {e}")))?;
        settings.validate().map_err(error)?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), String> {
        let [frames, height, width] = self.latent;
        for (name, value, most) in [
            ("prompt_length", self.prompt_length, 65536),
            ("latent frames", frames, 65536),
            ("latent height", height, 4096),
            ("latent width", width, 4096),
            ("height", self.height, 65536),
            ("width", self.width, 65536),
            ("default_steps", self.default_steps, 10000),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !self.height.is_multiple_of(height) || self.width * height != self.height * width {
            return Err(format!("{}x{} pixels are not {height}x{width} square patches", self.height, self.width));
        }
        if !(self.fps.is_finite() && (0.01..=1000.0).contains(&self.fps)) {
            return Err(format!("fps is {}, expected 0.01 to 1000", self.fps));
        }
        Ok(())
    }

    /// Side in pixels of the patch decoded from one latent position.
    fn patch(&self) -> usize {
        self.height / self.latent[1]
    }

    fn words(&self, place: &Place) -> Result<Vocabulary, ModelError> {
        let in_file = |e: TextError| ModelError::Config { file: place.name_of("config.json"), reason: e.to_string() };
        Vocabulary::new(self.vocabulary.clone()).map_err(in_file)
    }

    /// The configuration for videos of a size.
    fn sized(&self, options: &OpenOptions, vae: Option<&VaeConfig>) -> Result<PipelineConfig, PipelineError> {
        let (patch, mut sized) = (self.patch(), self.clone());
        if options.pixels.is_some() || options.frames.is_some() {
            let [height, width] = options.pixels.unwrap_or([self.height, self.width]);
            let frames = options.frames.unwrap_or(self.video_frames.unwrap_or(self.latent[0]));
            VideoSize::new(frames, height, width)?;
            if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
                return Err(PipelineError::Setting(format!(
                    "{height}x{width} pixels: both have to be multiples of {patch}"
                )));
            }
            (sized.height, sized.width) = (height, width);
            sized.latent = [frames, height / patch, width / patch];
            if let (Some(vae), Some(_)) = (vae, self.video_frames) {
                let side = vae.spatial_factor();
                sized.latent = [vae.latent_frames(frames), height / side, width / side];
                sized.video_frames = Some(frames);
            }
        }
        Ok(PipelineConfig {
            name: sized.name,
            prompt_length: sized.prompt_length,
            latent: sized.latent,
            video_frames: sized.video_frames,
            height: sized.height,
            width: sized.width,
            fps: sized.fps,
            resolution: ((sized.height * sized.width) as f64).sqrt(),
            default_steps: sized.default_steps,
            default_cfg_scale: sized.default_cfg_scale.into(),
            sampling: None,
            negative_prompt: None,
        })
    }
}

/// The location of the model's files.
#[derive(Clone, Debug)]
enum Place {
    Program,
    Folder(PathBuf),
}

impl Place {
    /// The name of one of the files for messages.
    fn name_of(&self, file: &str) -> String {
        match self {
            Place::Program => format!("sprites/{file}"),
            Place::Folder(folder) => folder.join(file).display().to_string(),
        }
    }

    /// One of the embedded files.
    fn embedded(file: &str) -> &'static [u8] {
        match file {
            "config.json" => embedded!("config.json"),
            "codebooks.json" => embedded!("codebooks.json"),
            "model.safetensors" => embedded!("model.safetensors"),
            "decoder.safetensors" => embedded!("decoder.safetensors"),
            "text.safetensors" => embedded!("text.safetensors"),
            other => unreachable!("{other} is no file of sprites"),
        }
    }

    fn text(&self, file: &str) -> Result<String, ModelError> {
        match self {
            Place::Program => Ok(String::from_utf8_lossy(Place::embedded(file)).into_owned()),
            Place::Folder(folder) => std::fs::read_to_string(folder.join(file))
                .map_err(|source| ModelError::Io { file: self.name_of(file), source }),
        }
    }

    fn weights(&self, file: &str) -> Result<Weights<'static>, ModelError> {
        match self {
            Place::Program => Weights::from_bytes(&self.name_of(file), Place::embedded(file)),
            Place::Folder(folder) => Weights::open(&folder.join(file)),
        }
    }

    /// One of the files, if it is there.
    fn file(&self, name: &str) -> Option<ModelFile> {
        let content = match self {
            Place::Program => FileContent::Embedded(Place::embedded(name)),
            Place::Folder(folder) => FileContent::OnDisk(Some(folder.join(name)).filter(|path| path.is_file())?),
        };
        Some(ModelFile { name: name.into(), content })
    }

    /// The folder of the video autoencoder, if the model has one.
    fn vae(&self) -> Option<PathBuf> {
        match self {
            Place::Program => None,
            Place::Folder(folder) => Some(folder.join("vae")).filter(|vae| vae.is_dir()),
        }
    }
}

/// A model whose configuration has been read.
struct Opened {
    place: Place,
    config: PipelineConfig,
    words: Vocabulary,
    timestep_shift: f64,
    /// Side in pixels of the patch decoded from one latent position.
    patch: usize,
    model: StDiT3Config,
    anatomy: Anatomy,
    /// Folder and configuration of the video autoencoder, if the model has one.
    vae: Option<(PathBuf, VaeConfig)>,
}

impl Opened {
    fn new(place: Place, size: &OpenOptions) -> Result<Opened, PipelineError> {
        let (text, file) = (place.text("config.json")?, place.name_of("config.json"));
        let settings = Settings::from_json(&text, &file)?;
        let model = StDiT3Config::from_json(&text, &file)?;
        let vae = place.vae().map(|folder| VaeConfig::of_folder(&folder).map(|config| (folder, config))).transpose()?;
        if settings.prompt_length > model.model_max_length {
            let reason = format!(
                "prompt_length {} is above the model's model_max_length {}",
                settings.prompt_length, model.model_max_length
            );
            return Err(ModelError::Config { file, reason }.into());
        }
        Ok(Opened {
            config: settings.sized(size, vae.as_ref().map(|(_, config)| config))?,
            words: settings.words(&place)?,
            timestep_shift: settings.timestep_shift,
            patch: settings.patch(),
            anatomy: model.anatomy(),
            model,
            vae,
            place,
        })
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
        Sprites.inputs()
    }

    fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        match &self.place {
            Place::Program => {
                let file = self.place.name_of("codebooks.json");
                presets_of(&self.place.text("codebooks.json")?, file)
            }
            Place::Folder(folder) => presets_in(&folder.join("codebooks.json"), opensora::presets(steps)),
        }
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        Ok(Box::new(Schedule::shifted(steps, self.timestep_shift)?))
    }

    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError> {
        let words = self.words.parse(prompt)?;
        for warning in words.rest().into_iter().chain(words.cut(self.config.prompt_length)) {
            tracing::warn!("{warning}");
        }
        PromptText::new(&words.to_string())
    }

    fn embed(
        &self,
        prompts: &[PromptText],
        _options: &TextOptions,
        _device: &Device,
        _dtype: DType,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError> {
        let (channels, length) = (self.model.caption_channels, self.config.prompt_length);
        let table = TextEncoder::load(self.place.weights("text.safetensors")?, self.words.len(), channels, length)?;
        let mut embedded = vec![];
        for prompt in prompts {
            if let ControlFlow::Break(()) = progress(embedded.len(), prompts.len()) {
                return Err(ModelError::Stopped.into());
            }
            embedded.push(Prompt::new(prompt.clone(), table.encode(&self.words.parse(&prompt.to_string())?)));
        }
        Ok(embedded)
    }

    fn files(&self) -> Vec<ModelFile> {
        let names = ["config.json", "model.safetensors", "text.safetensors"];
        let decoder: &[&str] = match &self.vae {
            Some(_) => &["vae/config.json", "vae/model.safetensors"],
            None => &["decoder.safetensors"],
        };
        names.iter().chain(decoder).filter_map(|name| self.place.file(name)).collect()
    }

    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        streamed: usize,
        content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        let weights = content.weights(|| self.place.weights("model.safetensors"))?;
        Ok(Box::new(StDiT3::load_streaming(device, self.model.clone(), weights, dtype, streamed)?))
    }

    fn launches(&self) -> Result<Shapes, PipelineError> {
        let [_, height, width] = self.config.latent;
        let step = self.model.launches(&self.config.geometry(1), self.config.prompt_length);
        Ok(match &self.vae {
            Some((_, vae)) => step.and(vae.launches([height, width])),
            None => step,
        })
    }

    fn latent_frames(&self, frames: usize) -> Result<usize, PipelineError> {
        Ok(self.vae.as_ref().map_or(frames, |(_, config)| config.latent_frames(frames)))
    }

    fn autoencoder(
        &self,
        device: &Device,
        dtype: DType,
        content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError> {
        Ok(Some(match &self.vae {
            Some((folder, config)) => {
                let weights = content.weights(|| Weights::open(&folder.join("model.safetensors")))?;
                Box::new(VideoVae::load(device, config.clone(), weights, dtype)?)
            }
            None => {
                let weights = content.weights(|| self.place.weights("decoder.safetensors"))?;
                Box::new(PatchDecoder::load(device, weights, self.model.in_channels, self.patch)?)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;
    use crate::family;

    #[test]
    fn the_embedded_model_is_complete() {
        let source = family::sprites();
        let config = source.config();
        assert_eq!((config.latent, config.prompt_length), ([16, 8, 8], 8));
        let dry = Device::dry(DryConfig { name: "x".into(), memory: 1 << 30, units: 1, compute_capability: (8, 0) });
        let decoder = source.autoencoder(&dry, DType::Bf16, Content::Files).unwrap().unwrap();
        // Latents in f32 and pixels of 8x8 patches in bytes.
        assert_eq!(decoder.least_decode_bytes(1, [16, 8, 8], 16).unwrap(), 16 * 64 * (16 * 4 + 8 * 8 * 3));
        assert_eq!(vocabulary().len(), Settings::read(&Place::Program).unwrap().vocabulary.len());
        assert_eq!(source.anatomy().layers(), 5);
        source.presets(30).unwrap();
        let unknown = family::open("no/such", &OpenOptions::default());
        assert!(matches!(unknown, Err(PipelineError::UnknownModel { .. })));
    }

    #[test]
    fn impossible_sizes_are_named() {
        let text = Place::Program.text("config.json").unwrap();
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("height", serde_json::json!(65)),
            ("width", serde_json::json!(0)),
            ("latent", serde_json::json!([16, 0, 8])),
            ("latent", serde_json::json!([16, 8, 1u64 << 40])),
            ("fps", serde_json::json!(0)),
            ("prompt_length", serde_json::json!(-1)),
        ] {
            let old = fields.insert(name.into(), value.clone()).unwrap();
            let error = Settings::from_json(&serde_json::to_string(&fields).unwrap(), "c.json").unwrap_err();
            assert!(error.to_string().starts_with("c.json: "), "{error}");
            fields.insert(name.into(), old);
        }
    }
}
