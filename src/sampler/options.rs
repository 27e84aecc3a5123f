//! The options of a run.

use super::solver::Row;
use crate::cache::Policy;
use crate::device::Rank;
use crate::model::Caption;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// The rows of a [`Solver`](super::Solver): one for each evaluation of the model.
    pub rows: Vec<Row>,
    /// Guidance scale s: `v = v_u + s·(v_c − v_u)`. Ignored for an unguided geometry.
    pub cfg_scale: f32,
    /// Steps (from 1, ascending) after which the latents are copied to the host, besides the final ones.
    pub snapshots: Vec<usize>,
    /// Whether residuals are kept in 8 bits (e4m3 with one scale per token) instead of the model's type.
    pub packed_cache: bool,
    /// Whether the trace compares the fold of each computed step with all earlier folds, if folds are kept. The host does this and keeps
    /// them all.
    pub compare_folds: bool,
    /// This sampler's place beside another, of the same videos by the same options on another device: of two ranks each runs the blocks on its half
    /// of guidance. `None`: it runs them on both.
    pub rank: Option<Rank>,
}

/// Videos that share decisions: a whole batch, as published, or one video.
pub struct Member<'a> {
    /// The captions of its videos, followed by their unconditional ones.
    pub caption: &'a Caption,
    /// The policy that decides which steps are computed.
    pub policy: Box<dyn Policy>,
}
