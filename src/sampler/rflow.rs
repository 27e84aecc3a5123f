//! The rectified-flow schedule of Open-Sora 1.2 and of the sprites model.
//!
//! `t_i = 1000·(1 − i/N)`, shifted towards noise: `t' = 1000·r·u/(1 + (r−1)·u)` with `u = t/1000`. Open-Sora uses `r = √(H·W/512²) ·
//! √(⌊frames/17⌋·5)` (the second factor 1 for a single frame), sprites a constant. A step moves the latents by `v·(t_i − t_{i+1})/1000`;
//! the last one by `v·t_last/1000`.

use super::solver::{Row, Solver};

/// Timesteps run from [`TRAIN_STEPS`] (noise) to 0 (clean).
pub(crate) const TRAIN_STEPS: f64 = 1000.0;

/// The maximum number of denoising steps.
pub const MOST_STEPS: usize = 10_000;

/// The timesteps of one generation, from noise to clean.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    timesteps: Vec<f32>,
}

/// Why a schedule cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Too few or too many steps.
    #[error("{0} steps: give 1 to 10000")]
    Steps(usize),
    /// The transform's ratio is not a positive number.
    #[error("the timestep shift {0} must be a positive number")]
    Shift(f64),
    /// Given timesteps do not descend from at most 1000 to above 0.
    #[error("timestep {index} is {value}: timesteps must descend, from at most 1000 to above 0")]
    Timesteps {
        /// Position of the first invalid one.
        index: usize,
        /// Its value.
        value: f32,
    },
}

impl Schedule {
    /// `steps` timesteps shifted by the constant ratio `shift` (1 keeps them evenly spaced).
    pub fn shifted(steps: usize, shift: f64) -> Result<Schedule, ScheduleError> {
        if !(1..=MOST_STEPS).contains(&steps) {
            return Err(ScheduleError::Steps(steps));
        }
        if !(shift.is_finite() && shift > 0.0) {
            return Err(ScheduleError::Shift(shift));
        }
        let timestep = |i: usize| {
            let u = 1.0 - i as f64 / steps as f64;
            (TRAIN_STEPS * shift * u / (1.0 + (shift - 1.0) * u)) as f32
        };
        Ok(Schedule { timesteps: (0..steps).map(timestep).collect() })
    }

    /// Open-Sora's schedule for a video of `height × width` pixels and `frames` frames.
    pub fn opensora(steps: usize, height: f64, width: f64, frames: usize) -> Result<Schedule, ScheduleError> {
        let space = (height * width / (512.0 * 512.0)).sqrt();
        let time = if frames == 1 { 1.0 } else { ((frames / 17 * 5) as f64).sqrt() };
        Schedule::shifted(steps, space * time)
    }

    /// A schedule with the given timesteps.
    pub fn from_timesteps(timesteps: Vec<f32>) -> Result<Schedule, ScheduleError> {
        if timesteps.is_empty() || timesteps.len() > MOST_STEPS {
            return Err(ScheduleError::Steps(timesteps.len()));
        }
        let mut previous = f32::INFINITY;
        for (index, &value) in timesteps.iter().enumerate() {
            if !(value > 0.0 && value <= TRAIN_STEPS as f32 && value < previous) {
                return Err(ScheduleError::Timesteps { index, value });
            }
            previous = value;
        }
        Ok(Schedule { timesteps })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The timesteps, descending from at most 1000.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// How far step `step` (from 1) moves the latents along the predicted velocity.
    pub fn delta(&self, step: usize) -> f32 {
        let next = self.timesteps.get(step).copied().unwrap_or(0.0);
        (self.timesteps[step - 1] - next) / TRAIN_STEPS as f32
    }
}

impl Solver for Schedule {
    fn rows(&self) -> Vec<Row> {
        (1..).zip(&self.timesteps).map(|(step, &time)| Row::euler(time, self.delta(step))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_cover_the_whole_way() {
        for schedule in [Schedule::shifted(30, 3.0).unwrap(), Schedule::opensora(100, 720.0, 1280.0, 51).unwrap()] {
            assert_eq!(schedule.timesteps()[0], 1000.0);
            let total: f32 = (1..=schedule.steps()).map(|s| schedule.delta(s)).sum();
            assert!((total - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn bad_schedules_are_refused() {
        assert_eq!(Schedule::shifted(0, 1.0), Err(ScheduleError::Steps(0)));
        assert_eq!(Schedule::shifted(3, 0.0), Err(ScheduleError::Shift(0.0)));
        assert!(Schedule::shifted(3, f64::NAN).is_err());
        assert!(Schedule::from_timesteps(vec![1000.0, 1000.0]).is_err());
        assert!(Schedule::from_timesteps(vec![f32::NAN]).is_err());
        // Fewer than 17 frames make the published time factor zero: an error, not a schedule of zeros.
        assert_eq!(Schedule::opensora(3, 512.0, 512.0, 16), Err(ScheduleError::Shift(0.0)));
    }
}
