//! The stages of a run: consecutive steps of one expert.

use std::ops::Range;

use super::error::PipelineError;
use super::guidance::is_guided;
use super::job::Job;
use crate::cache::{CacheConfig, Policy, check_fits, trace};
use crate::model::Geometry;
use crate::sampler::Row;

/// Consecutive steps of one expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The expert's place in [`Source::experts`](super::Source::experts).
    pub expert: usize,
    /// Its name; empty if the model has one transformer.
    pub name: &'static str,
    /// The values of its steps.
    pub rows: Vec<Row>,
    /// Its guidance scale.
    pub cfg_scale: f32,
    /// The steps of the run before its first.
    pub first: usize,
    /// The steps of the whole run.
    pub all: usize,
}

impl Stage {
    /// Its steps, from 0.
    pub fn steps(&self) -> Range<usize> {
        self.first..self.first + self.rows.len()
    }
}

/// The stages as reports name them; none if the model has one transformer.
pub(super) fn named(stages: &[Stage]) -> Vec<trace::Stage> {
    let several = stages.iter().filter(|stage| !stage.name.is_empty());
    several.map(|stage| trace::Stage { expert: stage.name.into(), steps: stage.rows.len() }).collect()
}

impl Job {
    /// The stages, in order. An expert without a step has none, and is not loaded.
    ///
    /// # Errors
    /// As [`Job::rows`].
    pub fn stages(&self) -> Result<Vec<Stage>, PipelineError> {
        let (experts, rows) = (self.source.experts(), self.rows()?);
        let of = |row: &Row| {
            let its = experts.iter().position(|expert| row.time >= expert.least_time);
            its.unwrap_or(experts.len().saturating_sub(1))
        };
        let mut first = 0;
        let stage = |own: &[Row]| {
            let expert = own.first().map_or(0, of);
            let name = experts.get(expert).map_or("", |expert| expert.name);
            first += own.len();
            let (first, all, cfg_scale) = (first - own.len(), rows.len(), self.guidance.of(expert));
            Stage { expert, name, rows: own.to_vec(), cfg_scale, first, all }
        };
        Ok(rows.chunk_by(|a, b| of(a) == of(b)).map(stage).collect())
    }

    /// Sizes of one member's videos in a stage.
    pub fn geometry(&self, stage: &Stage) -> Geometry {
        let geometry = self.source.config().geometry(self.videos / self.members());
        Geometry { guided: is_guided(stage.cfg_scale), frame_masked: self.given, ..geometry }
    }

    /// A policy for one member in a stage: every stage has its own, as nothing of one expert serves another.
    ///
    /// # Errors
    /// Cache settings that do not fit the model.
    pub fn policy(&self, stage: &Stage) -> Result<Box<dyn Policy>, PipelineError> {
        let anatomy = self.source.anatomy();
        let frames = self.source.config().latent[0].div_ceil(self.source.shape().patch_frames);
        self.cache.validate_for(anatomy, frames)?;
        if let (CacheConfig::None, true) = (&self.cache, self.record_all) {
            return Ok(Box::new(self.source.presets(self.steps())?.recorder(anatomy, self.steps(), frames)));
        }
        let times: Vec<f32> = stage.rows.iter().map(|row| row.time).collect();
        let policy = self.cache.part(stage.steps(), stage.all).policy(anatomy, &times);
        check_fits(&*policy, anatomy, frames)?;
        Ok(policy)
    }
}
