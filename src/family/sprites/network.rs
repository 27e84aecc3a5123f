//! The transformer of a sprites model: an STDiT3 or a Wan, as its `config.json` says.

use serde::Deserialize;

use crate::cache::{Anatomy, Presets};
use crate::device::Device;
use crate::family::{opensora, wan};
use crate::model::{ModelError, StDiT3, StDiT3Config, Transformer, TransformerShape, Wan, WanConfig, Weights};
use crate::pipeline::{OpenOptions, PipelineConfig, PipelineError, Sampling};
use crate::sampler::{Schedule, Solver};
use crate::shapes::Shapes;
use crate::tensor::DType;

/// The shape of the transformer.
#[derive(Clone, Debug)]
pub(super) enum Network {
    StDiT3(StDiT3Config),
    Wan(WanConfig),
}

/// What tells one from the other.
#[derive(Deserialize)]
struct Marks {
    #[serde(rename = "_class_name")]
    class: Option<String>,
}

impl Network {
    /// Whether the text of a `config.json` is of a Wan.
    pub(super) fn is_wan(config: &str) -> bool {
        serde_json::from_str::<Marks>(config).is_ok_and(|marks| marks.class.is_some_and(|name| name.starts_with("Wan")))
    }

    /// Reads the text of a `config.json`; `file` names it in errors.
    pub(super) fn from_json(config: &str, file: &str) -> Result<Network, ModelError> {
        if Network::is_wan(config) {
            return Ok(Network::Wan(WanConfig::from_json(config, file, None)?));
        }
        Ok(Network::StDiT3(StDiT3Config::from_json(config, file)?))
    }

    /// Whether the weights hold the caption of the unconditional half.
    pub(super) fn has_null_caption(&self) -> bool {
        matches!(self, Network::StDiT3(_))
    }

    pub(super) fn anatomy(&self) -> Anatomy {
        match self {
            Network::StDiT3(config) => config.anatomy(),
            Network::Wan(config) => config.anatomy(),
        }
    }

    pub(super) fn shape(&self) -> TransformerShape {
        match self {
            Network::StDiT3(config) => config.shape(),
            Network::Wan(config) => config.shape(),
        }
    }

    /// The published cache presets of the architecture.
    pub(super) fn presets(&self, steps: usize, shift: f64) -> Presets {
        match self {
            Network::StDiT3(_) => opensora::presets(steps),
            Network::Wan(config) => wan::presets::presets(config, 1, shift),
        }
    }

    /// The choice of solver and noise levels, which a Wan offers.
    pub(super) fn sampling(
        &self,
        options: &OpenOptions,
        shift: f64,
        tokens: usize,
    ) -> Result<Option<Sampling>, PipelineError> {
        match self {
            Network::StDiT3(_) => Ok(None),
            Network::Wan(_) if options.caption_tokens.is_some() => {
                let reason = "--max-sequence-length is for models that read free text; this one reads six words".into();
                Err(PipelineError::Setting(reason))
            }
            Network::Wan(_) => Ok(Some(Sampling::asked(options, shift, tokens)?)),
        }
    }

    /// The solver of a run whose levels have a `shift`.
    pub(super) fn solver(
        &self,
        config: &PipelineConfig,
        steps: usize,
        shift: f64,
    ) -> Result<Box<dyn Solver>, PipelineError> {
        match &config.sampling {
            Some(sampling) => sampling.solver(steps),
            None => Ok(Box::new(Schedule::shifted(steps, shift)?)),
        }
    }

    pub(super) fn load(
        &self,
        device: &Device,
        weights: Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        Ok(match self {
            Network::StDiT3(config) => {
                Box::new(StDiT3::load_streaming(device, config.clone(), weights, dtype, streamed)?)
            }
            Network::Wan(config) => Box::new(Wan::load_streaming(device, config.clone(), weights, dtype, streamed)?),
        })
    }

    /// Products of a step whose shapes choose kernels by size.
    pub(super) fn launches(&self, config: &PipelineConfig) -> Shapes {
        match self {
            Network::StDiT3(network) => network.launches(&config.geometry(1), config.prompt_length),
            Network::Wan(_) => Shapes::default(),
        }
    }
}
