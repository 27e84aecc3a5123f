//! Noise levels of flow models (Wan), and the Euler step along them.
//!
//! A flow's latents at level σ are x = (1 − σ)·clean + σ·noise, and the model predicts v = dx/dσ = noise − clean.

use super::{Form, Row, Solver, SolverError};
use crate::sampler::rflow::TRAIN_STEPS;

const MOST_STEPS: usize = 10_000;

/// The noise levels σ of a generation and the times that the model sees.
///
/// The published programs differ in where σ starts and ends before the shift, and in whether the model sees 1000·σ or its integer part. All
/// are computed in f64 in the published order of operations, because the integer parts are sensitive to rounding. Then σ is rounded to f32,
/// as published, and coefficients are computed from the rounded value: near 1 the rounding changes 1 − σ by a percent.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowGrid {
    sigmas: Vec<f32>,
    times: Vec<f32>,
}

impl FlowGrid {
    /// Wan's own levels for UniPC: from 0.999, the level of the first training step, to 0; integer times.
    ///
    /// # Errors
    /// As for all of them: [`SolverError::Steps`] (1 to 10000), [`SolverError::Shift`] or [`SolverError::Levels`].
    pub fn unipc(steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        // The published table of training levels is f32.
        FlowGrid::new(steps, shift, Levels { first: f64::from(0.999f32), ..Levels::whole(steps) })
    }

    /// Wan's own levels for DPM++: from 1 to 0; integer times.
    ///
    /// # Errors
    /// As [`FlowGrid::unipc`].
    pub fn dpmpp(steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        FlowGrid::new(steps, shift, Levels::whole(steps))
    }

    /// The levels of diffusers' WanPipeline (UniPC): from just below 1, where λ is finite, towards 0.001; integer times.
    ///
    /// # Errors
    /// As [`FlowGrid::unipc`].
    pub fn unipc_diffusers(steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        FlowGrid::new(steps, shift, Levels { last: 0.001, highest: 1.0 - 1e-6, ..Levels::whole(steps) })
    }

    /// For [`Euler`]: the levels of [`FlowGrid::dpmpp`]; fractional times.
    ///
    /// # Errors
    /// As [`FlowGrid::unipc`].
    pub fn euler(steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        FlowGrid::new(steps, shift, Levels { seen: |time| time, ..Levels::whole(steps) })
    }

    /// The levels of diffusers' FlowMatchEuler: from 1 to the *shifted* last training level, which step N − 1 has before it is shifted
    /// again; fractional times.
    ///
    /// # Errors
    /// As [`FlowGrid::unipc`].
    pub fn euler_diffusers(steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        let intervals = steps.saturating_sub(1).max(1);
        let levels = Levels { last: shifted(shift, 0.001), seen: |time| time, ..Levels::whole(intervals) };
        FlowGrid::new(steps, shift, levels)
    }

    /// Levels of one's own, as distilled models are published with, without the 0 behind the last.
    ///
    /// # Errors
    /// [`SolverError::Steps`] or [`SolverError::Levels`]: they must descend from at most 1 and stay above 0.
    pub fn custom(levels: &[f64]) -> Result<FlowGrid, SolverError> {
        if !(1..=MOST_STEPS).contains(&levels.len()) {
            return Err(SolverError::Steps { steps: levels.len(), least: 1, most: MOST_STEPS });
        }
        if let Some(first) = levels.first().filter(|first| !(**first <= 1.0)) {
            return Err(SolverError::Levels { index: 0, value: *first as f32 });
        }
        FlowGrid::of(levels.iter().copied(), |time| time)
    }

    /// The levels: one for each step and the 0 after the last, descending from at most 1.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The times, one for each step.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    fn new(steps: usize, shift: f64, levels: Levels) -> Result<FlowGrid, SolverError> {
        if !(1..=MOST_STEPS).contains(&steps) {
            return Err(SolverError::Steps { steps, least: 1, most: MOST_STEPS });
        }
        if !(shift.is_finite() && shift > 0.0) {
            return Err(SolverError::Shift(shift));
        }
        let exact = (0..steps).map(|i| shifted(shift, levels.at(i)).min(levels.highest));
        FlowGrid::of(exact, levels.seen)
    }

    /// These levels and a 0; the model sees `seen(1000·σ)`.
    fn of(levels: impl Iterator<Item = f64>, seen: fn(f64) -> f64) -> Result<FlowGrid, SolverError> {
        let (times, mut sigmas): (Vec<f32>, Vec<f32>) =
            levels.map(|sigma| (seen(TRAIN_STEPS * sigma) as f32, sigma as f32)).unzip();
        sigmas.push(0.0);
        match (1..).zip(sigmas.windows(2)).find(|(_, pair)| !(pair[1] < pair[0])) {
            Some((index, pair)) => Err(SolverError::Levels { index, value: pair[1] }),
            None => Ok(FlowGrid { sigmas, times }),
        }
    }

    /// Every step: its time, its start level and its end level.
    pub(super) fn steps(&self) -> impl Iterator<Item = (f32, Level, Level)> {
        let levels = self.sigmas.windows(2).map(|pair| (Level::new(pair[0].into()), Level::new(pair[1].into())));
        self.times.iter().zip(levels).map(|(&time, (from, to))| (time, from, to))
    }
}

/// Evenly spaced levels before the shift, and how they are transformed.
struct Levels {
    first: f64,
    /// The level `intervals` after the first.
    last: f64,
    intervals: usize,
    /// An upper bound for the shifted levels; without it, a shift below 1 could round 1 up.
    highest: f64,
    /// The time that the model sees for 1000·σ.
    seen: fn(f64) -> f64,
}

impl Levels {
    /// From 1 to 0, integer times.
    fn whole(intervals: usize) -> Levels {
        Levels { first: 1.0, last: 0.0, intervals, highest: 1.0, seen: f64::trunc }
    }

    /// In NumPy's order of operations.
    fn at(&self, i: usize) -> f64 {
        i as f64 * ((self.last - self.first) / self.intervals as f64) + self.first
    }
}

/// A noise level.
#[derive(Clone, Copy)]
pub(super) struct Level {
    /// Fraction of noise.
    pub(super) sigma: f64,
    /// Fraction of the clean latents: 1 − σ.
    pub(super) alpha: f64,
    /// Half the logarithm of the signal-to-noise ratio, ln(α/σ): −∞ at σ = 1, +∞ at σ = 0.
    pub(super) lambda: f64,
}

impl Level {
    fn new(sigma: f64) -> Level {
        let alpha = 1.0 - sigma;
        Level { sigma, alpha, lambda: alpha.ln() - sigma.ln() }
    }

    /// The clean latents implied by velocity v at x: m = x − σ·v.
    pub(super) fn clean(&self) -> Form {
        Form::LATENTS - Form::PREDICTION * self.sigma
    }
}

fn shifted(shift: f64, sigma: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The Euler step, of first order: `x' = x + (σ' − σ)·v`.
#[derive(Clone, Debug, PartialEq)]
pub struct Euler(pub FlowGrid);

impl Solver for Euler {
    fn rows(&self) -> Vec<Row> {
        let row = |(time, from, to): (f32, Level, Level)| {
            Row::new(time, Form::LATENTS + Form::PREDICTION * (to.sigma - from.sigma))
        };
        self.0.steps().map(row).collect()
    }
}
