//! The built-in models, which take six words, and folders with the same layout, with vocabularies of their own.

mod files;
mod network;
mod settings;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::files::Embedded;
use self::files::{MODEL_FILES, Place};
use self::network::Network;
use self::settings::Settings;
use super::presets::{presets_in, presets_of};
use super::row::Family;
use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::model::vae::{VaeConfig, VideoVae};
use crate::model::{
    Autoencoder, ModelError, PatchDecoder, Progress, StDiT3Config, Transformer, TransformerShape, Weights,
};
use crate::pipeline::{
    Content, Inputs, ModelFile, ModelSource, OpenOptions, PipelineConfig, PipelineError, Prompt, PromptText, Source,
    TextOptions,
};
use crate::sampler::Solver;
use crate::shapes::Shapes;
use crate::tensor::DType;
use crate::text::{TextEncoder, Vocabulary};

/// A model inside the program, or a folder with `config.json`, `model.gguf` (or `model.safetensors`), `text.safetensors`, `decoder.safetensors` (or `vae/`, with
/// a video autoencoder) and, if it has presets of its own, `codebooks.json`.
pub struct SpritesModel(&'static Embedded);

/// `sprites`, an STDiT3, and folders of its architecture.
pub static SPRITES: SpritesModel = SpritesModel(&files::STDIT3);
/// `sprites-wan`, a Wan, and folders of its architecture.
pub static SPRITES_WAN: SpritesModel = SpritesModel(&files::WAN);

impl SpritesModel {
    fn of_wan(&self) -> bool {
        self.0.name == SPRITES_WAN.0.name
    }
}

impl Family for SpritesModel {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn recognises(&self, folder: &Path) -> bool {
        const FILES: [&str; 4] = ["config.json", "text.safetensors", "decoder.safetensors", "codebooks.json"];
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
        FILES.iter().chain(&MODEL_FILES).any(|file| folder.join(file).is_file())
            && Network::is_wan(&config) == self.of_wan()
    }

    fn open(&self, folder: Option<&Path>, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let place = folder.map_or(Place::Program(self.0), |folder| Place::Folder(folder.into()));
        Ok(Arc::new(Opened::new(place, self.inputs(), size)?))
    }

    fn inputs(&self) -> Inputs {
        Inputs { sampler: self.of_wan(), ..Inputs::default() }
    }
}

/// The vocabulary of `sprites`.
pub fn vocabulary() -> Vocabulary {
    let place = Place::Program(SPRITES.0);
    Settings::read(&place).and_then(|settings| settings.words(&place)).expect("checked by a test")
}

/// The shape of its transformer.
pub fn shape() -> StDiT3Config {
    let place = Place::Program(SPRITES.0);
    let read = |text: String| StDiT3Config::from_json(&text, &place.name_of("config.json"));
    place.text("config.json").and_then(read).expect("checked by a test")
}

/// A model whose configuration has been read.
struct Opened {
    place: Place,
    config: PipelineConfig,
    words: Vocabulary,
    timestep_shift: f64,
    /// Side in pixels of the patch decoded from one latent position.
    patch: usize,
    network: Network,
    shape: TransformerShape,
    anatomy: Anatomy,
    inputs: Inputs,
    /// Folder and configuration of the video autoencoder, if the model has one.
    vae: Option<(PathBuf, VaeConfig)>,
}

impl Opened {
    fn new(place: Place, inputs: Inputs, size: &OpenOptions) -> Result<Opened, PipelineError> {
        let (text, file) = (place.text("config.json")?, place.name_of("config.json"));
        let settings = Settings::from_json(&text, &file)?;
        let network = Network::from_json(&text, &file)?;
        let shape = network.shape();
        let vae = place.vae().map(|folder| VaeConfig::of_folder(&folder).map(|config| (folder, config))).transpose()?;
        if settings.prompt_length > shape.caption_tokens {
            let reason = format!(
                "prompt_length {} is above the {} caption tokens that the transformer reads",
                settings.prompt_length, shape.caption_tokens
            );
            return Err(ModelError::Config { file, reason }.into());
        }
        let sampling = network.sampling(size, settings.timestep_shift, settings.prompt_length)?;
        Ok(Opened {
            timestep_shift: sampling.as_ref().map_or(settings.timestep_shift, |sampling| sampling.shift),
            config: settings.sized(size, vae.as_ref().map(|(_, config)| config), sampling)?,
            words: settings.words(&place)?,
            patch: settings.patch(),
            anatomy: network.anatomy(),
            network,
            shape,
            inputs,
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
        self.shape
    }

    fn inputs(&self) -> Inputs {
        self.inputs
    }

    fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        match &self.place {
            Place::Program(_) => {
                let file = self.place.name_of("codebooks.json");
                presets_of(&self.place.text("codebooks.json")?, file)
            }
            Place::Folder(folder) => {
                presets_in(&folder.join("codebooks.json"), self.network.presets(steps, self.timestep_shift))
            }
        }
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        self.network.solver(&self.config, steps, self.timestep_shift)
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
        let (channels, length) = (self.shape.caption_channels, self.config.prompt_length);
        let table = TextEncoder::load(self.place.weights("text.safetensors")?, self.words.len(), channels, length)?;
        // A Wan has no null caption: the unconditional half reads padding alone.
        let negative = Arc::new(table.padding());
        let mut embedded = vec![];
        for prompt in prompts {
            if let ControlFlow::Break(()) = progress(embedded.len(), prompts.len()) {
                return Err(ModelError::Stopped.into());
            }
            let own = Prompt::new(prompt.clone(), table.encode(&self.words.parse(&prompt.to_string())?));
            embedded.push(if self.network.has_null_caption() { own } else { own.against(negative.clone()) });
        }
        Ok(embedded)
    }

    fn files(&self) -> Vec<ModelFile> {
        let names = ["config.json", self.place.model(), "text.safetensors"];
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
        let weights = content.weights(|| self.place.weights(self.place.model()))?.in_fp8(self.config.fp8_weights);
        self.network.load(device, weights, dtype, streamed)
    }

    fn launches(&self) -> Result<Shapes, PipelineError> {
        let [_, height, width] = self.config.latent;
        let step = self.network.launches(&self.config);
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
                Box::new(PatchDecoder::load(device, weights, self.shape.channels, self.patch)?)
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
        assert_eq!(vocabulary().len(), Settings::read(&Place::Program(SPRITES.0)).unwrap().vocabulary.len());
        assert_eq!(source.anatomy().layers(), 5);
        source.presets(30).unwrap();
        let unknown = family::open("no/such", &OpenOptions::default());
        assert!(matches!(unknown, Err(PipelineError::UnknownModel { .. })));
    }
}
