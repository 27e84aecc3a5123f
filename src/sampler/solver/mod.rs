//! Solvers: how the latents change from one evaluation of the model to the next.
//!
//! # The form
//! Every solver here is deterministic and linear. With x the latents that the model saw, v what it predicted (after guidance) and
//! h₀…h₃ the history, one step is
//!
//! ```text
//! x'  = a₀·x + a₁·v + a₂·h₀ + a₃·h₁ + a₄·h₂ + a₅·h₃
//! h_s' = b₀·x + b₁·v + b₂·h₀ + b₃·h₁ + b₄·h₂ + b₅·h₃      (for at most one slot s)
//! ```
//!
//! element by element, with the old values on the right. The coefficients depend on the schedule alone, so all of them are known before the
//! first step: a solver is a table with one [`Row`] for each evaluation of the model. Two facts keep the form that small:
//!
//! * A history is a ring: the newest entry replaces the oldest, and the rows address the slots in turn. Nothing is shifted.
//! * The start of a step is not stored if it follows from x and the history: it enters linearly, so it can be solved for. UniPC's corrector
//!   becomes x plus a correction ([`UniPc`]); a Runge-Kutta group of PNDM needs one slot for its sums ([`Pndm`]).
//!
//! | solver | prediction | slots | rows | source |
//! |--|--|--|--|--|
//! | [`Schedule`](super::Schedule) | velocity, towards clean | 0 | N | Open-Sora 1.2 |
//! | [`Euler`] | velocity, towards noise | 0 | N | arXiv 2403.03206 |
//! | [`DpmPp`] | velocity, towards noise | 1 | N | arXiv 2211.01095 |
//! | [`UniPc`] | velocity, towards noise | 2 | N | arXiv 2302.04867 |
//! | [`Ddim`] | noise | 0 | N | arXiv 2010.02502 |
//! | [`Pndm`] | noise | 4 | N + 9 | arXiv 2202.09778 |
//!
//! A step whose prediction is reused feeds the history like any other. Elements are independent: frozen elements (frames of an image)
//! cannot disturb others.
//!
//! Coefficients are computed in f64 and rounded once, to f32. A sum starts with its first product, and the others are added in order by
//! fused multiply-adds; a term whose coefficient is 0 is left out, so a slot is not read before it is written. With a₀ = 1 and a₁ = dt
//! alone that is `fma(dt, v, x)`.

mod ddim;
mod dpmpp;
mod flow;
mod named;
mod pndm;
mod scheduler;
mod unipc;

use std::array;
use std::ops::{Add, Mul, Sub};

pub use ddim::{Alphas, Ddim};
pub use dpmpp::DpmPp;
pub use flow::{Euler, FlowGrid};
pub use named::{FlowSampler, UnknownSampler};
pub use pndm::Pndm;
pub use scheduler::{NoiseMethod, SchedulerConfig};
pub use unipc::UniPc;

use crate::ops::decide::StepRow;
use crate::ops::params::{SOLVER_HISTORY, SOLVER_TERMS, STEP_KEPT, STEP_LATENTS, STEP_SLOT, STEP_WORDS};

/// The maximum number of history slots of any solver.
pub const HISTORY: usize = SOLVER_HISTORY;

/// Coefficients of the latents, the prediction and the history slots, in this order.
pub type Coefficients = [f32; SOLVER_TERMS];

/// A deterministic solver.
pub trait Solver {
    /// One row for each evaluation of the model, in order; at least one.
    fn rows(&self) -> Vec<Row>;

    /// The number of history slots that the rows use, counted from slot 0.
    fn history(&self) -> usize {
        self.rows().iter().map(Row::slots).max().unwrap_or(0)
    }
}

/// One evaluation of the model and the update after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The time that the model sees, from 1000 (noise) to 0 (clean).
    pub time: f32,
    /// The new latents.
    pub latents: Coefficients,
    /// The history entry kept for later steps, if any.
    pub kept: Option<Kept>,
}

/// A history entry that a step writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// The slot it is written to, below [`HISTORY`].
    pub slot: usize,
    /// Its value, computed from the same old values as the new latents.
    pub value: Coefficients,
}

/// Why a solver cannot have these settings, or why a row cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolverError {
    /// Too few or too many steps.
    #[error("{steps} steps: give {least} to {most}")]
    Steps {
        /// The requested number.
        steps: usize,
        /// The minimum for this solver.
        least: usize,
        /// The maximum.
        most: usize,
    },
    /// The shift is not a positive number.
    #[error("the shift {0} must be a positive number")]
    Shift(f64),
    /// The shift compresses the noise levels so much that two of them are equal.
    #[error("noise level {index} is {value}, not below the one before: take fewer steps or a shift nearer to 1")]
    Levels {
        /// Position of the first that does not descend.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The noise schedule's β are not variances, or leave none of the signal.
    #[error("beta from {start} to {end}: both must lie between 0 and 1, and leave some signal after 1000 steps")]
    Betas {
        /// β of the first training step.
        start: f64,
        /// β of the last.
        end: f64,
    },
    /// A scheduler's configuration asks for something that its solver does not do.
    #[error("the scheduler's configuration is not supported: {0}")]
    Scheduler(String),
    /// The prediction or a history slot is not as long as the latents.
    #[error("{found} values of {what}, expected {expected} as of the latents")]
    Length {
        /// The tensor.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of the latents.
        expected: usize,
    },
    /// There are too few history slots.
    #[error("{found} history slots, the row uses {needed}")]
    History {
        /// The available slots.
        found: usize,
        /// The slots that the row uses, counted from slot 0.
        needed: usize,
    },
}

impl Row {
    /// `x + dt·v`, without a history entry.
    pub fn euler(time: f32, dt: f32) -> Row {
        let mut latents = Coefficients::default();
        (latents[0], latents[1]) = (1.0, dt);
        Row { time, latents, kept: None }
    }

    fn new(time: f32, latents: Form) -> Row {
        Row { time, latents: latents.rounded(), kept: None }
    }

    fn keeping(self, slot: usize, value: Form) -> Row {
        Row { kept: Some(Kept { slot, value: value.rounded() }), ..self }
    }

    /// The row in the format of `kernels/sampler.cu`.
    pub fn words(&self) -> StepRow {
        let mut words = [0.0; STEP_WORDS];
        words[0] = self.time;
        words[STEP_LATENTS..][..SOLVER_TERMS].copy_from_slice(&self.latents);
        words[STEP_SLOT] = self.kept.map_or(-1.0, |kept| kept.slot as f32);
        if let Some(Kept { value, .. }) = self.kept {
            words[STEP_KEPT..].copy_from_slice(&value);
        }
        words
    }

    /// Applies the step on the host: the new latents, and the history entry if there is one, in place.
    ///
    /// All slices have the latents' length; `history` holds the first slots, at least [`Solver::history`] of them. Their content before the
    /// first step does not matter.
    ///
    /// # Errors
    /// [`SolverError::Length`] and [`SolverError::History`]; nothing is changed in that case.
    pub fn apply(&self, latents: &mut [f32], prediction: &[f32], history: &mut [Vec<f32>]) -> Result<(), SolverError> {
        let expected = latents.len();
        let lengths = history.iter().map(|slot| ("a history slot", slot.len()));
        for (what, found) in lengths.chain([("the prediction", prediction.len())]) {
            if found != expected {
                return Err(SolverError::Length { what, found, expected });
            }
        }
        let (found, needed) = (history.len(), self.slots());
        if found < needed {
            return Err(SolverError::History { found, needed });
        }
        for i in 0..expected {
            let terms = array::from_fn(|term| match term {
                0 => latents[i],
                1 => prediction[i],
                _ => history.get(term - 2).map_or(0.0, |slot| slot[i]),
            });
            latents[i] = combine(&self.latents, &terms);
            if let Some(Kept { slot, value }) = &self.kept {
                history[*slot][i] = combine(value, &terms);
            }
        }
        Ok(())
    }

    /// The number of history slots that the row reads or writes, counted from slot 0.
    pub fn slots(&self) -> usize {
        let read =
            |terms: &Coefficients| terms.iter().skip(2).rposition(|term| *term != 0.0).map_or(0, |slot| slot + 1);
        let kept = self.kept.map_or(0, |kept| read(&kept.value).max(kept.slot.saturating_add(1)));
        read(&self.latents).max(kept)
    }
}

/// Σ coefficient·term, as defined at the top of this module.
fn combine(coefficients: &Coefficients, terms: &Coefficients) -> f32 {
    let mut pairs = coefficients.iter().zip(terms).filter(|(coefficient, _)| **coefficient != 0.0);
    let first = pairs.next().map_or(0.0, |(coefficient, term)| coefficient * term);
    pairs.fold(first, |sum, (coefficient, term)| coefficient.mul_add(*term, sum))
}

/// A linear form in the latents, the prediction and the history, not yet rounded.
#[derive(Clone, Copy)]
struct Form([f64; 2 + HISTORY]);

impl Form {
    const LATENTS: Form = Form::unit(0);
    const PREDICTION: Form = Form::unit(1);

    const fn kept(slot: usize) -> Form {
        Form::unit(2 + slot)
    }

    const fn unit(term: usize) -> Form {
        let mut form = [0.0; 2 + HISTORY];
        form[term] = 1.0;
        Form(form)
    }

    fn rounded(self) -> Coefficients {
        self.0.map(|coefficient| coefficient as f32)
    }
}

impl Add for Form {
    type Output = Form;

    fn add(self, other: Form) -> Form {
        Form(array::from_fn(|term| self.0[term] + other.0[term]))
    }
}

impl Sub for Form {
    type Output = Form;

    fn sub(self, other: Form) -> Form {
        self + other * -1.0
    }
}

impl Mul<f64> for Form {
    type Output = Form;

    fn mul(self, factor: f64) -> Form {
        Form(self.0.map(|coefficient| coefficient * factor))
    }
}
