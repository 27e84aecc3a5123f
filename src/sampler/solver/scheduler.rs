//! The settings of a solver of models that predict noise, as `scheduler_config.json` has them in the layout of diffusers.

use serde::Deserialize;

use super::ddim::TRAINED;
use super::{Alphas, Ddim, Pndm, Solver, SolverError};

/// A solver of models that predict noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum NoiseMethod {
    /// [`Ddim`].
    #[serde(rename = "ddim", alias = "DDIMScheduler")]
    Ddim,
    /// [`Pndm`].
    #[serde(rename = "pndm", alias = "PNDMScheduler")]
    Pndm,
}

/// A solver of models that predict noise, with its noise schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The solver.
    pub method: NoiseMethod,
    /// β of the first and of the last training step; between them it grows linearly.
    pub betas: [f64; 2],
    /// Whether the last step ends at ā = 1 instead of ā₀.
    pub alpha_to_one: bool,
    /// By how much the times are shifted.
    pub offset: usize,
}

/// What a file may say of DDIM or PNDM.
#[derive(Deserialize)]
struct Fields {
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<String>,
    trained_betas: Option<Vec<f64>>,
    num_train_timesteps: Option<usize>,
    set_alpha_to_one: Option<bool>,
    clip_sample: Option<bool>,
    #[serde(default)]
    thresholding: bool,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    #[serde(default)]
    skip_prk_steps: bool,
    timestep_spacing: Option<String>,
    steps_offset: Option<usize>,
    prediction_type: Option<String>,
    #[serde(default)]
    eta: f64,
}

impl SchedulerConfig {
    /// What diffusers' scheduler of this method is when nothing is said, but for DDIM's clipping, which no published pipeline here has.
    pub fn new(method: NoiseMethod) -> SchedulerConfig {
        SchedulerConfig { method, betas: [1e-4, 0.02], alpha_to_one: method == NoiseMethod::Ddim, offset: 0 }
    }

    /// Reads the text of a `scheduler_config.json` for `method`; what it leaves out is as in [`SchedulerConfig::new`].
    ///
    /// # Errors
    /// Text that is no such file, and settings that the solver does not have.
    pub fn from_json(text: &str, method: NoiseMethod) -> Result<SchedulerConfig, SolverError> {
        let fields: Fields = serde_json::from_str(text).map_err(|error| SolverError::Scheduler(error.to_string()))?;
        if method == NoiseMethod::Ddim && fields.clip_sample.unwrap_or(true) {
            return Err(SolverError::Scheduler("clip_sample true".into()));
        }
        let known = fields.read(method)?;
        let usual = |name: &Option<String>| name.as_deref().is_none_or(|schedule| schedule == "linear");
        if !usual(&fields.beta_schedule) || fields.trained_betas.is_some() {
            return Err(SolverError::Scheduler(format!("beta_schedule {:?}", fields.beta_schedule)));
        }
        let [start, end] = known.betas;
        Ok(SchedulerConfig { betas: [fields.beta_start.unwrap_or(start), fields.beta_end.unwrap_or(end)], ..known })
    }

    /// As [`SchedulerConfig::from_json`], for a pipeline that brings its own β and never clips: what the text says of them does not count.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn with_own_betas(text: &str, method: NoiseMethod) -> Result<SchedulerConfig, SolverError> {
        let fields: Fields = serde_json::from_str(text).map_err(|error| SolverError::Scheduler(error.to_string()))?;
        fields.read(method)
    }

    /// The solver of `steps` steps.
    ///
    /// # Errors
    /// A number of steps, or β, that it cannot have.
    pub fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, SolverError> {
        let [start, end] = self.betas;
        let alphas = Alphas::linear(start, end, self.alpha_to_one)?;
        Ok(match self.method {
            NoiseMethod::Ddim => Box::new(Ddim::with_offset(alphas, steps, self.offset)?),
            NoiseMethod::Pndm => Box::new(Pndm::new(alphas, steps)?),
        })
    }
}

impl Fields {
    /// The settings, but for β and clipping.
    fn read(&self, method: NoiseMethod) -> Result<SchedulerConfig, SolverError> {
        let usual = SchedulerConfig::new(method);
        let offset = self.steps_offset.unwrap_or(0);
        let other = |name: &Option<String>, expected: &str| name.as_deref().is_some_and(|name| name != expected);
        let reason = if self.num_train_timesteps.is_some_and(|steps| steps != TRAINED) {
            format!("num_train_timesteps {}", self.num_train_timesteps.unwrap_or_default())
        } else if other(&self.timestep_spacing, "leading") {
            format!("timestep_spacing {:?}", self.timestep_spacing.as_deref().unwrap_or_default())
        } else if other(&self.prediction_type, "epsilon") {
            format!("prediction_type {:?}", self.prediction_type.as_deref().unwrap_or_default())
        } else if self.thresholding || self.rescale_betas_zero_snr || self.eta != 0.0 {
            "thresholding, rescale_betas_zero_snr or an eta above 0".into()
        } else if method == NoiseMethod::Pndm && (self.skip_prk_steps || offset > 0) {
            format!("skip_prk_steps {} with steps_offset {offset}", self.skip_prk_steps)
        } else {
            return Ok(SchedulerConfig {
                alpha_to_one: self.set_alpha_to_one.unwrap_or(usual.alpha_to_one),
                offset,
                ..usual
            });
        };
        Err(SolverError::Scheduler(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_methods() {
        let read = |text, method| SchedulerConfig::from_json(text, method);
        let (ddim, pndm) = (NoiseMethod::Ddim, NoiseMethod::Pndm);
        assert_eq!(read("{}", pndm), Ok(SchedulerConfig::new(pndm)));
        let own = r#"{"clip_sample": false, "beta_end": 0.01, "set_alpha_to_one": false, "steps_offset": 1}"#;
        let expected = SchedulerConfig { betas: [1e-4, 0.01], alpha_to_one: false, offset: 1, method: ddim };
        assert_eq!(read(own, ddim), Ok(expected));
        // 50 steps: 981, 961, … 1.
        let rows = expected.solver(50).unwrap().rows();
        assert_eq!((rows[0].time, rows[49].time), (981.0, 1.0));
        let clipped = r#"{"clip_sample": true, "beta_schedule": "scaled_linear"}"#;
        assert_eq!(SchedulerConfig::with_own_betas(clipped, ddim), Ok(SchedulerConfig::new(ddim)));
        for (text, method, part) in [
            (clipped, ddim, "clip_sample"),
            (r#"{"timestep_spacing": "trailing"}"#, pndm, "timestep_spacing"),
            (r#"{"prediction_type": "v_prediction"}"#, pndm, "prediction_type"),
            (r#"{"skip_prk_steps": true}"#, pndm, "skip_prk_steps"),
            (r#"{"beta_schedule": "scaled_linear"}"#, pndm, "beta_schedule"),
            (r#"{"num_train_timesteps": 100}"#, pndm, "num_train_timesteps"),
            ("[", pndm, "EOF"),
        ] {
            let error = read(text, method).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(SchedulerConfig { offset: 20, ..expected }.solver(50).is_err());
    }
}
