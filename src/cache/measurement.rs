//! Measurements of a tensor against that of an earlier step: the sums from which every metric is computed.

use serde::{Deserialize, Serialize};

/// The sums over one tensor, usually a residual, from which every metric and the motion score are computed.
///
/// `fresh` is the tensor of this step, `kept` the one of an earlier step: see [`ProbePoint`](super::ProbePoint).
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Σ|fresh − kept|
    #[serde(with = "crate::json::float")]
    pub abs_diff: f64,
    /// Σ|kept|
    #[serde(with = "crate::json::float")]
    pub abs_kept: f64,
    /// Σ(fresh − kept)²
    #[serde(with = "crate::json::float")]
    pub sq_diff: f64,
    /// Σ kept²
    #[serde(with = "crate::json::float")]
    pub sq_kept: f64,
    /// Σ fresh·kept
    #[serde(with = "crate::json::float")]
    pub dot: f64,
    /// Σ fresh²
    #[serde(with = "crate::json::float")]
    pub sq_fresh: f64,
    /// The frame-difference sums, one entry per stride, in the order of the configured strides.
    pub motion: Vec<MotionSums>,
}

/// Frame-difference sums of a residual `r` for one stride `k`.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct MotionSums {
    /// Σ|r\[t+k\] − r\[t\]|
    #[serde(with = "crate::json::float")]
    pub abs_diff: f64,
    /// Σ|r\[t+k\]|
    #[serde(with = "crate::json::float")]
    pub abs_later: f64,
    /// Σ|r\[t\]|
    #[serde(with = "crate::json::float")]
    pub abs_earlier: f64,
}

impl MotionSums {
    /// The motion score of this stride, in \[0, 1\]; 0 if nothing was summed.
    pub fn score(&self) -> f64 {
        ratio(self.abs_diff, self.abs_later + self.abs_earlier)
    }
}

impl Measurement {
    /// Reads the sums in the order of the kernel (`PROBE_SUMS`, then `MOTION_SUMS` per stride) and adds them over the batch: the published
    /// code decides once for the whole guidance batch.
    pub fn from_sums(sums: &[f64], batch: usize, strides: usize) -> Measurement {
        let count = 6 + 3 * strides;
        let total = |i: usize| (0..batch).map(|b| sums[b * count + i]).sum::<f64>();
        Measurement {
            abs_diff: total(0),
            abs_kept: total(1),
            sq_diff: total(2),
            sq_kept: total(3),
            dot: total(4),
            sq_fresh: total(5),
            motion: (0..strides)
                .map(|s| MotionSums {
                    abs_diff: total(6 + 3 * s),
                    abs_later: total(7 + 3 * s),
                    abs_earlier: total(8 + 3 * s),
                })
                .collect(),
        }
    }

    /// Measures two host tensors of the same size, without motion.
    pub fn of(fresh: &[f32], kept: &[f32]) -> Measurement {
        let mut m = Measurement::default();
        for (fresh, kept) in fresh.iter().zip(kept).map(|(f, k)| (f64::from(*f), f64::from(*k))) {
            let change = fresh - kept;
            m.abs_diff += change.abs();
            m.abs_kept += kept.abs();
            m.sq_diff += change * change;
            m.sq_kept += kept * kept;
            m.dot += fresh * kept;
            m.sq_fresh += fresh * fresh;
        }
        m
    }

    /// An estimate over both intervals, this one and then `later`, whose ends were not compared: it assumes that all changes add up.
    pub(crate) fn then(&self, later: &Measurement) -> Measurement {
        let sq_diff = (self.sq_diff.sqrt() + later.sq_diff.sqrt()).powi(2);
        Measurement {
            abs_diff: self.abs_diff + later.abs_diff,
            abs_kept: self.abs_kept,
            sq_diff,
            sq_kept: self.sq_kept,
            dot: (self.sq_kept + later.sq_fresh - sq_diff) / 2.0,
            sq_fresh: later.sq_fresh,
            motion: later.motion.clone(),
        }
    }

    /// The mean motion score over the strides.
    pub fn motion_score(&self) -> f64 {
        ratio(self.motion.iter().map(MotionSums::score).sum(), self.motion.len() as f64)
    }
}

/// `a / b`, and 0 where both vanish (an all-zero residual has not changed).
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { 0.0 } else { a / b }
}
