//! A codebook for a model and a target: recorded runs of prompts, a search over them without the model, and real runs of the best
//! candidates.
//!
//! [`Studio`] makes and keeps runs, [`Tape`] is a recorded run prepared for many replays, [`Search`] searches for codebooks over tapes, and
//! [`calibrate`] goes from a target to a codebook. `docs/calibrate.md` has the equations.

mod drive;
mod error;
mod idle;
mod proxy;
mod runs;
mod search;
mod session;
mod tape;
mod target;
mod weights;

pub use drive::{TOLERANCE, calibrate};
pub use error::CalibrateError;
pub use idle::{Idle, Why, idle};
pub use proxy::{Proxy, rank_correlation};
pub use runs::{Studio, Watch, hash};
pub use search::{Bends, Candidate, Estimate, Probe, Search};
pub use session::{INTERVALS, Probing, Session, Verdict};
pub use tape::{Bend, EMPHASIS, Played, Tape};
pub use target::{Bench, Calibrated, Effort, Outcome, Run, Target, Tried, mean_outcome};

/// `a − b` of lists of equal length, pair by pair: mean, and half the width of its 95 % interval.
pub fn paired(a: &[f64], b: &[f64]) -> crate::compare::Mean {
    crate::compare::Mean::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Synthetic traces, for tests.
#[cfg(test)]
mod synthetic {
    use crate::cache::trace::{Trace, TraceRecord};
    use crate::cache::{AdaCacheConfig, Codebook, Measurement, Metric, MotionSums, ProbePoint, ResidualKind, Site};
    use crate::pipeline::FlopCount;

    use super::Tape;

    /// The probe of [`config`].
    pub(super) const AT: ProbePoint =
        ProbePoint::Residual { block: 0, span: crate::cache::Span::Time, site: Site::Attention };

    /// Settings without motion regularization.
    pub(super) fn config(entries: &[(f64, usize)]) -> AdaCacheConfig {
        AdaCacheConfig {
            metric: Metric::L1,
            residual: ResidualKind::TAttn,
            blocks: vec![0],
            codebook: Codebook::new(entries.to_vec()).unwrap(),
            moreg: None,
        }
    }

    /// A run whose residual and fold change from each step to the next by these fractions of their norms.
    pub(super) fn trace(residual: &[f64], fold: &[f64]) -> Trace {
        let record = |step: usize, at, change: f64| TraceRecord {
            step,
            since: step - 1,
            at,
            measurement: Measurement {
                abs_diff: change,
                abs_kept: 1.0,
                sq_diff: change * change,
                sq_kept: 1.0,
                dot: 1.0 - change * change / 2.0,
                sq_fresh: 1.0,
                motion: vec![MotionSums { abs_diff: 0.2, abs_later: 1.0, abs_earlier: 1.0 }],
            },
        };
        let records = (2..).zip(residual.iter().zip(fold));
        let records = records.flat_map(|(step, (r, f))| [record(step, AT, *r), record(step, ProbePoint::Fold, *f)]);
        let steps = residual.len() + 1;
        Trace {
            steps,
            cache: "none".into(),
            computed: (1..=steps).collect(),
            strides: vec![1],
            records: records.collect(),
            ..Trace::default()
        }
    }

    /// `count` runs of `steps` steps that change fast at both ends and slowly between, each differently. The fold does not change exactly
    /// like the residual.
    pub(super) fn tapes(count: usize, steps: usize) -> Vec<Tape> {
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let tape = |_| {
            let (level, late) = (0.03 + 0.08 * draw(), 0.5 + draw());
            let mut change = |step: usize| {
                let x = 2.0 * step as f64 / steps as f64 - 1.0;
                (level * (1.0 + if x > 0.0 { late * 6.0 } else { 5.0 } * x.powi(4)) * (0.8 + 0.4 * draw())).min(0.9)
            };
            let residual: Vec<f64> = (2..=steps).map(&mut change).collect();
            let fold: Vec<f64> = residual.iter().map(|change| change * (0.4 + 0.4 * draw())).collect();
            let deltas: Vec<f64> = (1..=steps).map(|step| 0.01 + 0.1 * (step as f64 / steps as f64).powi(2)).collect();
            Tape::new(&trace(&residual, &fold), &[AT], &deltas).unwrap()
        };
        (0..count).map(tape).collect()
    }

    /// A reused step costs a hundredth.
    pub(super) fn flops(steps: usize) -> FlopCount {
        let (computed_step, reused_step) = (1000, 10);
        FlopCount { computed_step, reused_step, total: 0, all_computed: computed_step * steps as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_a_smaller_interval_than_their_difference_suggests() {
        // Differences 1, 2, 3 by hand: mean 2, s = 1.
        let mean = paired(&[11.0, 32.0, 53.0], &[10.0, 30.0, 50.0]);
        assert_eq!(mean.mean, 2.0);
        assert!((mean.interval.unwrap() - 1.96 / 3f64.sqrt()).abs() < 1e-12);
    }
}
