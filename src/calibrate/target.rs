//! What is asked for, what real runs gave, and the result.

use super::error::CalibrateError;
use super::tape::Bend;
use crate::cache::{AdaCacheConfig, CacheConfig, Decision, Extrapolation};
use crate::pipeline::FlopCount;
use crate::quality::MOST_PSNR;

/// The target of a calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// Operations of computing every step over those with the cache, summed over the prompts.
    SpeedUp(f64),
    /// Mean PSNR in dB of the pixels against the runs that compute every step, with minimal compute.
    Psnr(f64),
}

/// Steps that AdaCache always computes: the first two and the last two.
pub(super) const FORCED: usize = 4;

pub(super) fn too_fast(speed_up: f64, steps: usize, most: f64) -> CalibrateError {
    CalibrateError::Target(format!(
        "a speed-up of {speed_up} cannot be reached in {steps} steps: AdaCache always computes the first two and the last two, of two experts those of each, which allows {most:.2}; \
         ask for less, or take more --steps"
    ))
}

impl Target {
    /// Checks what can be checked before anything has run.
    ///
    /// # Errors
    /// The target is not a sensible number, or out of reach in `steps` steps even if a reused step cost nothing.
    pub fn check(self, steps: usize) -> Result<(), CalibrateError> {
        let error = |text: String| Err(CalibrateError::Target(text));
        match self {
            Target::SpeedUp(speed_up) if !(speed_up > 1.0 && speed_up.is_finite()) => {
                error(format!("a speed-up of {speed_up}: give a number above 1, as 2.5"))
            }
            Target::Psnr(psnr) if !(psnr > 0.0 && psnr < MOST_PSNR) => {
                error(format!("a PSNR of {psnr} dB: give a number between 0 and {MOST_PSNR}, as 28"))
            }
            _ if steps <= FORCED => error(format!(
                "in {steps} steps there is nothing to reuse: AdaCache always computes the first two and the last two"
            )),
            Target::SpeedUp(speed_up) if speed_up * FORCED as f64 > steps as f64 => {
                Err(too_fast(speed_up, steps, steps as f64 / FORCED as f64))
            }
            _ => Ok(()),
        }
    }
}

/// One prompt, generated with a codebook.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The computed steps.
    pub computed: Vec<usize>,
    /// The decisions.
    pub decisions: Vec<Decision>,
    /// PSNR in dB of the pixels against the run that computes every step, as [`quality::compare`](crate::quality::compare) gives it.
    pub psnr: f64,
}

impl Run {
    /// PSNR in dB, at most [`MOST_PSNR`].
    pub fn bounded_psnr(&self) -> f64 {
        self.psnr.min(MOST_PSNR)
    }
}

/// The mean outcome of `runs`, if steps cost `flops`.
pub fn mean_outcome(runs: &[Run], flops: FlopCount) -> Outcome {
    let steps = flops.all_computed / flops.computed_step.max(1);
    let total = |run: &Run| {
        let computed = run.computed.len() as u64;
        (computed * flops.computed_step + (steps - computed) * flops.reused_step) as f64
    };
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    Outcome { compute: mean(&total) / flops.all_computed as f64, psnr: Some(mean(&Run::bounded_psnr)) }
}

/// Makes real runs.
pub trait Bench {
    /// Generates every prompt with `cache`; returns the runs in the order of the tapes.
    ///
    /// # Errors
    /// A run failed, or the user stopped it.
    fn run(&mut self, cache: &CacheConfig) -> Result<Vec<Run>, CalibrateError>;

    /// Called for every codebook that was tried.
    fn tried(&mut self, _tried: &Tried) {}
}

/// Means over the prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Operations relative to those of the runs that compute every step.
    pub compute: f64,
    /// PSNR in dB; `None` if there is no basis for a prediction yet.
    pub psnr: Option<f64>,
}

impl Outcome {
    /// Operations of computing every step over those with the cache.
    pub fn speed_up(&self) -> f64 {
        1.0 / self.compute
    }
}

/// A codebook and its real runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// The settings.
    pub config: AdaCacheConfig,
    /// How reused steps extrapolate the fold; `None` if they use the last one unchanged.
    pub extrapolation: Option<Extrapolation>,
    /// The codebook that this one is scaled from, from 0: the current preset, once for each order of extrapolation that is tried.
    pub shape: usize,
    /// The prediction before the runs.
    pub predicted: Outcome,
    /// The outcome of the runs.
    pub achieved: Outcome,
    /// The runs, by prompt.
    pub runs: Vec<Run>,
}

impl Tried {
    /// The whole cache policy.
    pub fn cache(&self) -> CacheConfig {
        extrapolated(&self.config, self.extrapolation)
    }

    /// dB that count.
    pub(super) fn psnr(&self) -> f64 {
        self.achieved.psnr.unwrap_or(MOST_PSNR)
    }
}

pub(super) fn extrapolated(config: &AdaCacheConfig, extrapolation: Option<Extrapolation>) -> CacheConfig {
    let config = CacheConfig::AdaCache(config.clone());
    match extrapolation {
        Some(extrapolation) => config.extrapolated(extrapolation),
        None => config,
    }
}

/// The effort of a calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Orders of extrapolation to try with the current preset; the search uses the best. None: no extrapolation.
    pub orders: Vec<usize>,
    /// Codebooks of the search that are verified by real runs, besides the current preset.
    pub verify: usize,
    /// The maximum number of real runs per prompt.
    pub rounds: usize,
}

/// The result.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The best settings, with their predicted and achieved outcomes.
    pub best: Tried,
    /// Whether they meet the target.
    pub met: bool,
    /// Every codebook that was tried, in order.
    pub tried: Vec<Tried>,
    /// Rank correlation of the replays' error and the real PSNR over all runs that extrapolate like the best one, both relative to the mean
    /// of their prompt; `None` if there are too few.
    pub rank_correlation: Option<f64>,
    /// How far real distances of the best one's probe over several steps fell short of the sum of the recorded ones.
    pub bend: Bend,
    /// The weight of each step's error: see [`Tape::error`](super::Tape::error).
    pub weights: Vec<f64>,
}
