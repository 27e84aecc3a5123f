//! What a run is told.

use super::solver::Row;
use crate::cache::Policy;
use crate::model::Caption;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// What a [`Solver`](super::Solver) says of every step: one for each evaluation of the model.
    pub rows: Vec<Row>,
    /// Guidance scale s: `v = v_u + s·(v_c − v_u)`. Ignored for an unguided geometry.
    pub cfg_scale: f32,
    /// Steps (from 1, ascending) after which the latents are copied to the host, beside the final ones.
    pub snapshots: Vec<usize>,
    /// Whether residuals are kept in 8 bits (e4m3 with a scale a token) instead of the model's type.
    pub packed_cache: bool,
    /// Whether the trace compares the fold of each computed step with those of all before, where there is a fold: on the host, which keeps all of them.
    pub compare_folds: bool,
}

/// Videos that are decided about together: all of a batch, as published, or one.
pub struct Member<'a> {
    /// The captions of its videos, then their unconditional ones.
    pub caption: &'a Caption,
    /// When its steps are computed.
    pub policy: Box<dyn Policy>,
}
