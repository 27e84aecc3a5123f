//! Policies as they were published for a model, and the runs that their constants were fitted to.

use serde::{Deserialize, Serialize};

use super::config::CacheConfig;

/// A policy with the constants that its authors give for a model, under a name of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Its name. It takes the place of a preset of the same name that every model has.
    pub name: String,
    /// What it is, and where its constants are from.
    pub about: String,
    /// The run its constants were fitted to; `None`: they are bound to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted_to: Option<FittedTo>,
    /// The policy with its settings.
    pub cache: CacheConfig,
}

/// The schedule of a run. Constants that were fitted to one are wrong for another, without any error: timesteps lie elsewhere then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedTo {
    /// Denoising steps.
    pub steps: usize,
    /// The shift of the noise levels.
    pub shift: f64,
}

impl FittedTo {
    /// What to tell about a run of `steps` steps with `shift`, if that is another schedule. `name` is that of the preset; a shift that is not
    /// known is not compared.
    pub(super) fn caution(&self, name: &str, steps: usize, shift: Option<f64>) -> Option<String> {
        let shift = shift.unwrap_or(self.shift);
        if (steps, shift) == (self.steps, self.shift) {
            return None;
        }
        Some(format!(
            "the constants of `{name}` were fitted to {} steps with shift {}; for {steps} steps with shift {shift} they may be wrong",
            self.steps, self.shift
        ))
    }
}
