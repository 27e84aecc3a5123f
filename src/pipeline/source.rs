//! Where a model comes from: the sprites model inside the program, a folder laid out like it, or Open-Sora's checkpoint.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::decode::{DecoderShape, vae_config};
use super::opensora::{self, Checkpoint, OPENSORA, Part};
use super::prompt::{Prompt, PromptText, TextOptions};
use super::text::{TextEncoder, TextError, Vocabulary};
use super::{PipelineError, VideoSize};
use crate::cache::Presets;
use crate::model::vae::Progress;
use crate::model::{ModelError, StDiT3Config, Weights};

/// The files of `models/sprites`, in the program.
macro_rules! embedded {
    ($file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/sprites/", $file))
    };
}

/// What `config.json` says beside the transformer's shape.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PipelineConfig {
    /// The model's name in reports.
    #[serde(default = "default_name")]
    pub name: String,
    /// Words by token id.
    pub vocabulary: Vec<String>,
    /// Caption tokens the model is given.
    pub prompt_length: usize,
    /// Latent frames, height, width.
    pub latent: [usize; 3],
    /// Frames of the video, where they are not the latent ones: a video autoencoder makes several of one.
    #[serde(default)]
    pub video_frames: Option<usize>,
    /// Height of the video in pixels.
    pub height: usize,
    /// Width of the video in pixels.
    pub width: usize,
    /// Frames per second.
    pub fps: f64,
    /// The ratio of the timestep shift (see [`Schedule::shifted`](crate::sampler::Schedule::shifted)).
    #[serde(default = "one")]
    pub timestep_shift: f64,
    /// Steps when the user names none.
    pub default_steps: usize,
    /// Guidance when the user names none.
    pub default_cfg_scale: f32,
    /// What the position embedding is scaled by, where it is not the [`PipelineConfig::resolution`] of the video's own size.
    #[serde(skip)]
    pub(super) resolution: Option<f64>,
}

fn default_name() -> String {
    "stdit3".into()
}

fn one() -> f64 {
    1.0
}

impl PipelineConfig {
    fn from_json(text: &str, file: &str) -> Result<PipelineConfig, ModelError> {
        let error = |reason: String| ModelError::Config { file: file.into(), reason };
        let config: PipelineConfig =
            serde_json::from_str(text).map_err(|e| error(format!("not the configuration of a sprites model: {e}")))?;
        config.validate().map_err(error)?;
        Ok(config)
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

    /// √(height · width), which the position embedding is scaled by.
    pub fn resolution(&self) -> f64 {
        self.resolution.unwrap_or_else(|| ((self.height * self.width) as f64).sqrt())
    }

    /// Pixels on the side of the patch that one latent position becomes.
    pub fn decoder_patch(&self) -> usize {
        self.height / self.latent[1]
    }
}

/// A model's files, and the size of the videos to make with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    place: Place,
    /// Instead of the model's own.
    size: Option<VideoSize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Sprites,
    Folder(PathBuf),
    OpenSora(Checkpoint),
}

impl ModelSource {
    /// The model inside the program: 16 frames of 64×64 pixels from six words.
    pub fn sprites() -> ModelSource {
        ModelSource { place: Place::Sprites, size: None }
    }

    /// A folder with `config.json`, `model.safetensors`, `decoder.safetensors`, `text.safetensors` and, if it has presets of its
    /// own, `codebooks.json`, as in `models/sprites`.
    pub fn folder(path: impl Into<PathBuf>) -> ModelSource {
        ModelSource { place: Place::Folder(path.into()), size: None }
    }

    /// A checkpoint of Open-Sora 1.2.
    pub fn opensora(checkpoint: Checkpoint) -> ModelSource {
        ModelSource { place: Place::OpenSora(checkpoint), size: None }
    }

    /// `sprites`, `opensora-v1.2` (as it was pulled), or the path of a folder with one of them.
    pub fn from_name(name: &str) -> Result<ModelSource, PipelineError> {
        match name {
            "sprites" => Ok(ModelSource::sprites()),
            OPENSORA => Ok(ModelSource::opensora(Checkpoint::in_cache(&opensora::cache_dir()))),
            path if Checkpoint::is_one(Path::new(path)) => Ok(ModelSource::opensora(Checkpoint::at(path))),
            path if Path::new(path).is_dir() => Ok(ModelSource::folder(path)),
            other => Err(PipelineError::UnknownModel(other.into())),
        }
    }

    /// The same model for videos of another size than its own.
    pub fn sized(self, size: VideoSize) -> ModelSource {
        ModelSource { size: Some(size), ..self }
    }

    /// The sizes, the vocabulary and the defaults of `config.json`.
    ///
    /// # Errors
    /// Also a size ([`ModelSource::sized`]) that is not made of the decoder's patches.
    pub fn pipeline_config(&self) -> Result<PipelineConfig, PipelineError> {
        if let Place::OpenSora(_) = self.place {
            let size = self.size.map_or_else(opensora::default_size, Ok)?;
            return opensora::pipeline_config(size, self.model_config()?.model_max_length);
        }
        let (file, text) = self.config_text()?;
        let config = PipelineConfig::from_json(&text, &file)?;
        let Some(VideoSize { frames, height, width }) = self.size else { return Ok(config) };
        let patch = config.decoder_patch();
        if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            return Err(PipelineError::Setting(format!(
                "{height}x{width} pixels: both have to be multiples of {patch}"
            )));
        }
        if let (Some(size), Some(_)) = (self.size, config.video_frames) {
            return Ok(PipelineConfig { latent: size.latent(), video_frames: Some(frames), height, width, ..config });
        }
        Ok(PipelineConfig { latent: [frames, height / patch, width / patch], height, width, ..config })
    }

    /// Height and width in pixels that pictures are brought to before they are encoded: of Open-Sora the published ones, of which a rest
    /// is not made ([`PipelineConfig::height`]).
    pub(super) fn picture_size(&self) -> Result<[usize; 2], PipelineError> {
        if let Place::OpenSora(_) = self.place {
            let size = self.size.map_or_else(opensora::default_size, Ok)?;
            return Ok([size.height, size.width]);
        }
        let config = self.pipeline_config()?;
        Ok([config.height, config.width])
    }

    /// The transformer's shape in `config.json`.
    pub fn model_config(&self) -> Result<StDiT3Config, PipelineError> {
        let (file, text) = self.config_text()?;
        Ok(StDiT3Config::from_json(&text, &file)?)
    }

    /// Open-Sora's checkpoint, if that is the model.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.place {
            Place::OpenSora(checkpoint) => Some(checkpoint),
            _ => None,
        }
    }

    /// Reads a prompt: words of the vocabulary, or free text for Open-Sora.
    pub fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError> {
        match self.place {
            Place::OpenSora(_) => PromptText::new(prompt),
            _ => PromptText::new(&self.vocabulary()?.parse(prompt)?.to_string()),
        }
    }

    /// Embeds prompts. Open-Sora's text encoder is loaded if an embedding is not on disk already, and gone when this returns.
    pub fn embed(&self, prompts: &[PromptText], options: &TextOptions) -> Result<Vec<Prompt>, PipelineError> {
        self.embed_telling(prompts, options, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`ModelSource::embed`]; `progress` hears of embedded prompts, of all there are, and may stop it. On a CPU a text encoder takes seconds to
    /// load and for each prompt, and neither is cut short. What was embedded is on disk for the next time.
    ///
    /// # Errors
    /// As [`ModelSource::embed`]; `progress` asked to stop.
    pub fn embed_telling(
        &self,
        prompts: &[PromptText],
        options: &TextOptions,
        progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError> {
        let model = self.model_config()?;
        if let Place::OpenSora(checkpoint) = &self.place {
            return opensora::embed(checkpoint, &model, prompts, options, progress);
        }
        let (config, vocabulary) = (self.pipeline_config()?, self.vocabulary()?);
        let text =
            TextEncoder::load(self.text_weights()?, vocabulary.len(), model.caption_channels, config.prompt_length)?;
        let embed =
            |prompt: &PromptText| Ok(Prompt::new(prompt.clone(), text.encode(&vocabulary.parse(&prompt.to_string())?)));
        prompts.iter().map(embed).collect()
    }

    /// The words the model knows.
    pub fn vocabulary(&self) -> Result<Vocabulary, PipelineError> {
        let words = self.pipeline_config()?.vocabulary;
        let in_file = |e: TextError| ModelError::Config { file: self.file_name("config.json"), reason: e.to_string() };
        Ok(Vocabulary::new(words).map_err(in_file)?)
    }

    /// The cache presets: `codebooks.json`, or the published ones of Open-Sora for `steps` steps where there is none.
    pub fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        let (file, text) = match self.text("codebooks.json", embedded!("codebooks.json")) {
            Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Presets::opensora(steps));
            }
            other => other?,
        };
        serde_json::from_str(&text)
            .map_err(|e| ModelError::Config { file, reason: format!("not a set of codebooks: {e}") }.into())
    }

    pub(super) fn model_weights(&self) -> Result<Weights<'static>, ModelError> {
        self.weights("model.safetensors", embedded!("model.safetensors"))
    }

    /// The folder of the video autoencoder, if the model has one: `vae` in its own, instead of `decoder.safetensors`.
    pub(super) fn vae(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Sprites => None,
            Place::Folder(folder) => Some(folder.join("vae")).filter(|vae| vae.is_dir()),
            Place::OpenSora(checkpoint) => Some(checkpoint.folder().join(Part::Vae.name())),
        }
    }

    /// The sizes of the decoder.
    pub fn decoder_shape(&self) -> Result<DecoderShape, PipelineError> {
        match self.vae() {
            Some(folder) => Ok(DecoderShape::Video(vae_config(&folder)?)),
            None => Ok(DecoderShape::Patch(self.pipeline_config()?.decoder_patch())),
        }
    }

    pub(super) fn decoder_weights(&self) -> Result<Weights<'static>, ModelError> {
        self.weights("decoder.safetensors", embedded!("decoder.safetensors"))
    }

    pub(super) fn text_weights(&self) -> Result<Weights<'static>, ModelError> {
        self.weights("text.safetensors", embedded!("text.safetensors"))
    }

    fn config_text(&self) -> Result<(String, String), ModelError> {
        self.text("config.json", embedded!("config.json"))
    }

    /// The name of one of the model's files in messages.
    pub(super) fn file_name(&self, file: &str) -> String {
        match &self.place {
            Place::Sprites => format!("sprites/{file}"),
            _ => self.path(file).display().to_string(),
        }
    }

    /// The path of one of the files of a model that is not in the program.
    fn path(&self, file: &str) -> PathBuf {
        match &self.place {
            Place::Sprites => PathBuf::from(file),
            Place::Folder(folder) => folder.join(file),
            Place::OpenSora(checkpoint) => checkpoint.file(Part::Transformer, file),
        }
    }

    /// A file's name for messages and its text.
    fn text(&self, file: &str, sprites: &'static [u8]) -> Result<(String, String), ModelError> {
        match &self.place {
            Place::Sprites => Ok((self.file_name(file), String::from_utf8_lossy(sprites).into_owned())),
            _ => match std::fs::read_to_string(self.path(file)) {
                Ok(text) => Ok((self.file_name(file), text)),
                Err(source) => Err(ModelError::Io { file: self.file_name(file), source }),
            },
        }
    }

    fn weights(&self, file: &str, sprites: &'static [u8]) -> Result<Weights<'static>, ModelError> {
        match &self.place {
            Place::Sprites => Weights::from_bytes(&self.file_name(file), sprites),
            _ => Weights::open(&self.path(file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_complete() {
        let source = ModelSource::from_name("sprites").unwrap();
        let config = source.pipeline_config().unwrap();
        assert_eq!((config.latent, config.decoder_patch(), config.prompt_length), ([16, 8, 8], 8, 8));
        assert_eq!(source.vocabulary().unwrap().len(), config.vocabulary.len());
        assert_eq!(source.model_config().unwrap().depth, 5);
        source.presets(30).unwrap();
        assert!(matches!(ModelSource::from_name("no/such"), Err(PipelineError::UnknownModel(_))));
    }

    #[test]
    fn impossible_sizes_are_named() {
        let text = String::from_utf8_lossy(embedded!("config.json")).into_owned();
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
            let error = PipelineConfig::from_json(&serde_json::to_string(&fields).unwrap(), "c.json").unwrap_err();
            assert!(error.to_string().starts_with("c.json: "), "{name} = {value}: {error}");
            fields.insert(name.into(), old);
        }
    }
}
