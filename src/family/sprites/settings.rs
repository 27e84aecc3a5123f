//! `config.json` of a sprites model besides the transformer's shape: vocabulary, sizes, defaults of sampling.

use serde::Deserialize;

use super::files::Place;
use crate::model::ModelError;
use crate::model::vae::VaeConfig;
use crate::pipeline::{OpenOptions, PipelineConfig, PipelineError, Sampling, VideoSize};
use crate::text::{TextError, Vocabulary};

/// The settings in `config.json` besides the transformer's shape.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Settings {
    #[serde(default = "Settings::stdit3")]
    pub(super) name: String,
    /// Words by token id.
    pub(super) vocabulary: Vec<String>,
    /// Caption tokens the model takes.
    pub(super) prompt_length: usize,
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
    pub(super) timestep_shift: f64,
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

    pub(super) fn read(place: &Place) -> Result<Settings, ModelError> {
        Settings::from_json(&place.text("config.json")?, &place.name_of("config.json"))
    }

    pub(super) fn from_json(text: &str, file: &str) -> Result<Settings, ModelError> {
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
    pub(super) fn patch(&self) -> usize {
        self.height / self.latent[1]
    }

    pub(super) fn words(&self, place: &Place) -> Result<Vocabulary, ModelError> {
        let in_file = |e: TextError| ModelError::Config { file: place.name_of("config.json"), reason: e.to_string() };
        Vocabulary::new(self.vocabulary.clone()).map_err(in_file)
    }

    /// The configuration for videos of a size.
    pub(super) fn sized(
        &self,
        options: &OpenOptions,
        vae: Option<&VaeConfig>,
        sampling: Option<Sampling>,
    ) -> Result<PipelineConfig, PipelineError> {
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
            default_steps: sampling.as_ref().and_then(Sampling::steps).unwrap_or(sized.default_steps),
            default_cfg_scale: sized.default_cfg_scale.into(),
            sampling,
            negative_prompt: None,
            vae_tiling: false,
            fp8_weights: options.fp8_weights,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::STDIT3;
    use super::*;

    #[test]
    fn impossible_sizes_are_named() {
        let text = Place::Program(&STDIT3).text("config.json").unwrap();
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
