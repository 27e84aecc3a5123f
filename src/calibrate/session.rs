//! From a preset and prompts to a codebook: the probes, the recorded runs, the search, and its verdict on held-out prompts.

use std::path::Path;

use super::drive::calibrate;
use super::error::CalibrateError;
use super::runs::{Studio, Watch};
use super::tape::Tape;
use super::target::{Bench, Calibrated, Effort, Run, Target};
use crate::cache::trace::Trace;
use crate::cache::{AdaCacheConfig, Anatomy, CacheConfig, ComputeAll, Metric, ProbePoint, ResidualKind, Settings};
use crate::pipeline::{FlopCount, ModelSource, Pipeline, PipelineError, Request, cache_config};
use crate::sampler::Row;

/// The allowed probes of AdaCache; an empty field allows all candidates.
#[derive(Clone, Debug, Default)]
pub struct Probing {
    /// The probed layers; the candidates are the preset's, the first, and the last.
    pub blocks: Vec<usize>,
    /// The residual; the candidates are the model's self-attentions.
    pub residual: Option<ResidualKind>,
    /// The metric; all are candidates.
    pub metric: Option<Metric>,
}

impl Probing {
    /// The preset `name` of `source` with every requested or candidate probe, its own first.
    ///
    /// # Errors
    /// A preset that is not AdaCache's; a probe that the model does not have.
    pub fn of(&self, source: &ModelSource, name: &str, steps: usize) -> Result<Vec<AdaCacheConfig>, CalibrateError> {
        let CacheConfig::AdaCache(preset) = cache_config(source, name, false, steps)? else {
            let model = &source.config().name;
            return Err(CalibrateError::Target(format!("the preset `{name}` of {model} is not AdaCache's")));
        };
        let anatomy = source.anatomy();
        let frames = source.config().latent[0].div_ceil(source.shape().patch_frames);
        let blocks = match &self.blocks[..] {
            [] => vec![preset.blocks.clone(), vec![0], vec![anatomy.layers() - 1]],
            asked => vec![asked.to_vec()],
        };
        // Cross-attention and MLP are measured where the others are: one recording has either.
        let attentions = [ResidualKind::TAttn, ResidualKind::SAttn, ResidualKind::Attn];
        let residuals = self
            .residual
            .map_or_else(|| attentions.into_iter().filter(|kind| kind.is_of(anatomy)).collect(), |asked| vec![asked]);
        let metrics = self.metric.map_or_else(|| vec![Metric::L1, Metric::L2, Metric::Cosine], |asked| vec![asked]);
        let mut all: Vec<AdaCacheConfig> = vec![];
        for blocks in &blocks {
            for (&residual, &metric) in residuals.iter().flat_map(|r| metrics.iter().map(move |m| (r, m))) {
                let config = AdaCacheConfig { blocks: blocks.clone(), residual, metric, ..preset.clone() };
                config.validate_for(anatomy, frames).map_err(PipelineError::from)?;
                if !all.contains(&config) {
                    all.push(config);
                }
            }
        }
        Ok(all)
    }
}

/// One calibration.
pub struct Session<'a> {
    /// The model.
    pub pipeline: &'a Pipeline,
    /// The requests to learn from: each computes every step.
    pub learning: Vec<Request>,
    /// The requests to judge the result on; may be empty.
    pub held_out: Vec<Request>,
    /// The settings to start from, with all allowed probes ([`Probing::of`]).
    pub presets: Vec<AdaCacheConfig>,
    /// The target.
    pub target: Target,
    /// The effort.
    pub effort: Effort,
    /// The policy that the result is compared with on the held-out requests.
    pub against: CacheConfig,
    /// The folder where runs are kept.
    pub work: &'a Path,
    /// [`weights_hash`](crate::pipeline::weights_hash) of the model.
    pub weights: String,
}

/// The result of a calibration.
pub struct Verdict {
    /// The codebook and what was tried.
    pub found: Calibrated,
    /// On the held-out requests: the runs of the codebook, and those of the policy it is compared with.
    pub judged: Option<(Vec<Run>, Vec<Run>)>,
    /// Work of a step.
    pub flops: FlopCount,
    /// α of scaled extrapolation, for intervals of up to [`INTERVALS`] steps ([`Tape::factor`]).
    pub factor: Option<f64>,
}

/// The longest interval for which [`Verdict::factor`] is estimated.
pub const INTERVALS: usize = 10;

impl Session<'_> {
    /// Records, searches and judges. Finished runs are kept and not repeated.
    ///
    /// # Errors
    /// A target that cannot be reached; a run that failed or was stopped.
    pub fn run(self, watch: &mut dyn Watch) -> Result<Verdict, CalibrateError> {
        let Session { pipeline, learning, held_out, presets, target, effort, against, work, weights } = self;
        let (source, steps) = (pipeline.source(), learning.first().map_or(0, |request| request.steps));
        let points = points(source.anatomy(), &presets);
        let strides = presets.iter().find_map(|preset| preset.moreg.as_ref());
        let strides = strides.map_or_else(|| vec![1], |moreg| moreg.strides.clone());
        let moves = source.config().latent[0] > 1;
        let recorder = ComputeAll::recording_at(source.anatomy(), &points, if moves { &strides } else { &[] });
        let (mut studio, traces, flops) = Studio::open(pipeline, learning, &recorder, work, &weights, watch)?;
        let tapes = tapes(&traces, &points, &source.solver(steps)?.rows())?;
        let factor = Tape::factor(&tapes, INTERVALS);
        let found = calibrate(tapes, flops, &presets, target, &effort, &mut studio)?;
        drop(studio);
        let mut judged = None;
        if !held_out.is_empty() {
            let (mut studio, ..) = Studio::open(pipeline, held_out, &recorder, work, &weights, watch)?;
            judged = Some((studio.run(&found.best.cache())?, studio.run(&against)?));
        }
        Ok(Verdict { found, judged, flops, factor })
    }
}

/// All probes of `configs`, in the execution order of a forward pass.
fn points(anatomy: &Anatomy, configs: &[AdaCacheConfig]) -> Vec<ProbePoint> {
    let mut points: Vec<ProbePoint> = configs.iter().flat_map(AdaCacheConfig::points).collect();
    points.sort_by_key(|point| anatomy.block_of(*point));
    points.dedup();
    points
}

/// The recorded runs, ready for replays.
fn tapes(traces: &[Trace], points: &[ProbePoint], rows: &[Row]) -> Result<Vec<Tape>, CalibrateError> {
    // How much of the way from noise to clean each step goes.
    let ends = rows.iter().skip(1).map(|row| row.time).chain([0.0]);
    let deltas: Vec<f64> = rows.iter().zip(ends).map(|(row, end)| f64::from((row.time - end) / 1000.0)).collect();
    Ok(traces.iter().map(|trace| Tape::new(trace, points, &deltas)).collect::<Result<_, _>>()?)
}
