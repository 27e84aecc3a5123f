//! DDIM (arXiv 2010.02502) without noise (η = 0), and the noise schedule it shares with PNDM.
//!
//! The model predicts the noise e in x = √ā_t·clean + √(1−ā_t)·e. A step from t to p:
//!
//! ```text
//! x' = √ā_p·(x − √(1−ā_t)·e)/√ā_t + √(1−ā_p)·e
//! ```

use super::{Form, Row, Solver, SolverError};
use crate::sampler::rflow::TRAIN_STEPS;

/// Training steps.
pub(super) const TRAINED: usize = TRAIN_STEPS as usize;

/// The signal left after each of the 1000 training steps: ā_t, the product of 1 − β up to t, with β growing linearly.
#[derive(Clone, Debug, PartialEq)]
pub struct Alphas {
    products: Vec<f64>,
    last: f64,
}

impl Alphas {
    /// β grows from `start` to `end`; Latte and Open-Sora-Plan have 1e-4 and 0.02. `to_one` (`set_alpha_to_one` in scheduler_config.json)
    /// is whether the last step ends at ā = 1 instead of ā₀.
    ///
    /// # Errors
    /// [`SolverError::Betas`].
    pub fn linear(start: f64, end: f64, to_one: bool) -> Result<Alphas, SolverError> {
        let beta = |t: usize| start + (end - start) * t as f64 / (TRAINED - 1) as f64;
        let products: Vec<f64> = (0..TRAINED)
            .scan(1.0, |product, t| {
                *product *= 1.0 - beta(t);
                Some(*product)
            })
            .collect();
        let variance = |beta: f64| beta > 0.0 && beta < 1.0;
        // Coefficients are up to 1/√ā, in f32.
        if !(variance(start) && variance(end) && products[TRAINED - 1] > 1e-30) {
            return Err(SolverError::Betas { start, end });
        }
        Ok(Alphas { last: if to_one { 1.0 } else { products[0] }, products })
    }

    /// ā at time `t`, or after the last step.
    pub(super) fn at(&self, t: Option<usize>) -> f64 {
        t.and_then(|t| self.products.get(t)).copied().unwrap_or(self.last)
    }

    /// The step from `t` to `p` with the noise e, as factors of x and e.
    pub(super) fn transfer(&self, t: usize, p: Option<usize>) -> (f64, f64) {
        let (from, to) = (self.at(Some(t)), self.at(p));
        let x = (to / from).sqrt();
        (x, (1.0 - to).sqrt() - x * (1.0 - from).sqrt())
    }
}

/// DDIM with η = 0, without clipping. Times are spaced from 0 ("leading"): multiples of 1000/N, rounded down.
#[derive(Clone, Debug, PartialEq)]
pub struct Ddim {
    alphas: Alphas,
    steps: usize,
    offset: usize,
}

impl Ddim {
    /// A solver of `steps` steps.
    ///
    /// # Errors
    /// [`SolverError::Steps`]: 1 to 1000.
    pub fn new(alphas: Alphas, steps: usize) -> Result<Ddim, SolverError> {
        Ddim::with_offset(alphas, steps, 0)
    }

    /// A solver of `steps` steps whose times are all `offset` (`steps_offset` in scheduler_config.json) above those of [`Ddim::new`].
    ///
    /// # Errors
    /// As [`Ddim::new`]; an offset by which the first time leaves the training steps.
    pub fn with_offset(alphas: Alphas, steps: usize, offset: usize) -> Result<Ddim, SolverError> {
        checked_steps(steps, 1)?;
        let first = (steps - 1) * (TRAINED / steps);
        if offset >= TRAINED - first {
            return Err(SolverError::Scheduler(format!(
                "steps_offset {offset} moves time {first} beyond {}",
                TRAINED - 1
            )));
        }
        Ok(Ddim { alphas, steps, offset })
    }
}

pub(super) fn checked_steps(steps: usize, least: usize) -> Result<(), SolverError> {
    match (least..=TRAINED).contains(&steps) {
        true => Ok(()),
        false => Err(SolverError::Steps { steps, least, most: TRAINED }),
    }
}

impl Solver for Ddim {
    fn rows(&self) -> Vec<Row> {
        let interval = TRAINED / self.steps;
        let row = |t: usize| {
            let (x, e) = self.alphas.transfer(t, t.checked_sub(interval));
            Row::new(t as f32, Form::LATENTS * x + Form::PREDICTION * e)
        };
        (0..self.steps).rev().map(|i| row(i * interval + self.offset)).collect()
    }
}
