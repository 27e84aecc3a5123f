//! The choice of solver and noise levels of flow models that offer one.

use serde::Serialize;

use super::error::PipelineError;
use super::options::OpenOptions;
use crate::sampler::{FlowGrid, FlowSampler, Solver};

/// How a flow model is sampled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// The solver, and the noise levels before the shift.
    #[serde(serialize_with = "by_name")]
    pub sampler: FlowSampler,
    /// The shift s: levels σ become sσ/(1 + (s − 1)σ).
    pub shift: f64,
    /// Noise levels in place of the sampler's, which no shift changes.
    pub sigmas: Option<Vec<f64>>,
    /// Caption tokens that a prompt is cut or padded to.
    pub caption_tokens: usize,
    /// The share of 1000 from which on times belong to the first of two experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boundary: Option<f64>,
}

fn by_name<S: serde::Serializer>(sampler: &FlowSampler, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(sampler.name())
}

impl Sampling {
    /// What `options` ask for of a model whose default shift is `shift`, and whose captions have `caption_tokens` tokens.
    ///
    /// # Errors
    /// A shift that is no positive number.
    pub fn asked(options: &OpenOptions, shift: f64, caption_tokens: usize) -> Result<Sampling, PipelineError> {
        let (usual, shift) = (shift, options.shift.unwrap_or(shift));
        if !(shift.is_finite() && shift > 0.0) {
            return Err(PipelineError::Setting(format!("--shift {shift} must be a positive number; {usual} is usual")));
        }
        let sampler = options.sampler.unwrap_or_default();
        Ok(Sampling { sampler, shift, sigmas: options.sigmas.clone(), caption_tokens, boundary: None })
    }

    /// The number of steps of a run that names none, if noise levels are given: one for each.
    pub fn steps(&self) -> Option<usize> {
        self.sigmas.as_ref().map(Vec::len)
    }

    /// The solver of a run of `steps` steps.
    ///
    /// # Errors
    /// Noise levels that are not one for each step, or that do not fall.
    pub fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        let grid = match &self.sigmas {
            Some(sigmas) if sigmas.len() == steps => FlowGrid::custom(sigmas)?,
            Some(sigmas) => {
                let reason =
                    format!("--sigmas lists {} levels, one for each step, and {steps} steps run", sigmas.len());
                return Err(PipelineError::Setting(reason));
            }
            None => self.sampler.grid(steps, self.shift)?,
        };
        Ok(self.sampler.solver(grid))
    }
}
