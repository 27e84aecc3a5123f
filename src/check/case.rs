//! What the cases of all families share: their files, the results, and how numbers are compared.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cache::{CacheError, Decision, Half, Policy, computed_steps_of};
use crate::model::{Caption, Geometry, ModelError, ResidualRoom, Trace, Transformer, Walk, Weights};
use crate::pipeline::PipelineError;
use crate::sampler::{SampleError, SampleOutput, ScheduleError, SolverError};
use crate::tensor::{DType, Tensor};

/// Why a case could not be run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// `case.json` cannot be read.
    #[error("cannot read {file}: {reason}")]
    Case {
        /// The file.
        file: String,
        /// The problem.
        reason: String,
    },
    /// The model or the inputs cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The sampler failed.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The case's cache settings are invalid.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The case's timesteps do not form a schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The case's solver cannot have these settings.
    #[error(transparent)]
    Solver(#[from] SolverError),
    /// The repository does not make a video.
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
}

impl CheckError {
    /// Whether the case was interrupted, rather than failed.
    pub fn is_stop(&self) -> bool {
        match self {
            CheckError::Model(error) => error.is_stop(),
            CheckError::Sample(error) => error.is_stop(),
            CheckError::Pipeline(error) => error.is_stop(),
            _ => false,
        }
    }
}

/// The result of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckResult {
    /// The case's folder.
    pub case: String,
    /// Whether all errors are within their bounds.
    pub ok: bool,
    /// The largest ‖out − ref‖ / ‖ref‖ over everything compared.
    #[serde(with = "crate::json::float")]
    pub max_rel_err: f64,
    /// The steps computed (rollouts).
    pub computed_steps: Vec<usize>,
    /// The steps that the reference computed.
    pub expected_steps: Vec<usize>,
    /// Wall-clock seconds of the run on the device, weights not counted.
    pub seconds: f64,
    /// Why it failed, as text.
    #[serde(skip)]
    pub reason: Option<String>,
    /// Every decision, paired with the reference's.
    #[serde(skip)]
    pub decisions: Vec<(Decision, ExpectedDecision)>,
    /// Relative error of every compared tensor, by name.
    #[serde(skip)]
    pub errors: Vec<(String, f64)>,
}

/// A decision of the reference run.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct ExpectedDecision {
    /// The computed step.
    pub step: usize,
    /// The rate of change after the motion factor; of policies without one, the sum of changes.
    #[serde(alias = "accumulated")]
    pub cachediff: f64,
    /// The motion factor.
    #[serde(default = "still")]
    pub moreg: f64,
    /// The motion gradient.
    #[serde(default)]
    pub mograd: f64,
}

fn still() -> f64 {
    1.0
}

#[derive(Deserialize)]
pub(super) struct Expected {
    /// Of the conditional half, if the halves of guidance are decided apart; absent where single modules are reused.
    #[serde(default)]
    pub(super) computed_steps: Vec<usize>,
    /// Of the unconditional half, where that differs.
    computed_steps_uncond: Option<Vec<usize>>,
    #[serde(default)]
    pub(super) decisions: Vec<ExpectedDecision>,
    /// Absent where nothing was decided.
    #[serde(default = "undecided")]
    pub(super) threshold_margin: f64,
    pub(super) latent_steps: Vec<usize>,
}

fn undecided() -> f64 {
    f64::INFINITY
}

/// The bounds of a case.
pub(super) struct Bounds {
    /// Relative error of a forward pass.
    pub(super) forward: f64,
    /// Relative error of latents in a rollout.
    pub(super) latents: f64,
    /// The threshold margin below which the computed steps may differ.
    margin: f64,
}

pub(super) fn bounds(dtype: DType) -> Bounds {
    match dtype {
        DType::F32 => Bounds { forward: 1e-4, latents: 1e-4, margin: 0.0 },
        // A run's rounding adds up: bf16 gave up to 5.1e-2 on the sprites rollouts. The latents' bound is chosen above what was
        // seen, not derived.
        _ => Bounds { forward: 2e-2, latents: 1e-1, margin: 0.02 },
    }
}

impl CheckResult {
    /// Of the case in folder `dir`, before it ran.
    pub(super) fn of(dir: &Path) -> CheckResult {
        CheckResult {
            case: dir.display().to_string(),
            ok: false,
            max_rel_err: 0.0,
            computed_steps: vec![],
            expected_steps: vec![],
            seconds: 0.0,
            reason: None,
            decisions: vec![],
            errors: vec![],
        }
    }

    /// The verdict: whether all errors are within `bound`.
    pub(super) fn judged(mut self, bound: f64) -> CheckResult {
        for (name, error) in &self.errors {
            // NaN must count as the largest error there is.
            if !(*error <= self.max_rel_err) {
                self.max_rel_err = *error;
            }
            if !(*error <= bound) && self.reason.is_none() {
                self.reason = Some(format!("{name}: relative error {error:.3e} is above {bound:.0e}"));
            }
        }
        self.ok = self.reason.is_none();
        self
    }
}

/// The model folder's config.json, overridden by the case's own fields.
pub(super) fn merged_config(
    own: &serde_json::Map<String, serde_json::Value>,
    weights: &Path,
) -> Result<String, String> {
    let path = weights.with_file_name("config.json");
    let mut fields = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?,
        Err(_) => serde_json::Map::new(),
    };
    fields.extend(own.clone());
    Ok(serde_json::Value::Object(fields).to_string())
}

/// ‖out − reference‖ / ‖reference‖
pub(super) fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    if out.len() != reference.len() {
        return f64::INFINITY;
    }
    let square = |v: f64| v * v;
    let diff: f64 = out.iter().zip(reference).map(|(a, b)| square(*a as f64 - *b as f64)).sum();
    let norm: f64 = reference.iter().map(|b| square(*b as f64)).sum();
    if diff == 0.0 { 0.0 } else { (diff / norm).sqrt() }
}

/// A tensor of the case, with its shape.
pub(super) fn input(io: &Weights, name: &str, axes: &[usize]) -> Result<(Vec<usize>, Vec<f32>), CheckError> {
    let bad = |reason| CheckError::Case { file: io.file().into(), reason };
    let shape = io.shape(name).ok_or_else(|| bad(format!("tensor `{name}` is missing")))?;
    if !axes.contains(&shape.len()) || shape.contains(&0) {
        return Err(bad(format!("tensor `{name}` has shape {shape:?}, expected {axes:?} axes, none empty")));
    }
    let values = io.values(name, &shape)?;
    Ok((shape, values))
}

/// A tensor of latents, whose channels must be the model's.
pub(super) fn latents(io: &Weights, name: &str, model: &dyn Transformer) -> Result<(Vec<usize>, Vec<f32>), CheckError> {
    let (shape, values) = input(io, name, &[5])?;
    let channels = model.shape().channels;
    if shape[1] != channels {
        let reason = format!("{name} has {} channels, the model takes {channels}", shape[1]);
        return Err(ModelError::Input(reason).into());
    }
    Ok((shape, values))
}

/// The geometry of latents of a model that knows neither resolution nor frame rate.
pub(super) fn geometry(shape: &[usize], guided: bool, frame_masked: bool) -> Geometry {
    let (videos, frames, height, width) = (shape[0], shape[2], shape[3], shape[4]);
    Geometry { videos, guided, frames, height, width, resolution: 1.0, fps: 1.0, frame_masked }
}

/// One forward pass of latents `x`, compared with the case's; returns the hidden states on the way.
pub(super) fn predict(
    (model, caption, geometry): (&dyn Transformer, &Caption, Geometry),
    x: (&[usize], &[f32]),
    times: &[f32],
    frame_mask: Option<&[bool]>,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<Trace, CheckError> {
    let ws = model.workspace(geometry, &ResidualRoom::default())?;
    let z = Tensor::from_f32(model.device(), x.0, x.1, DType::F32).map_err(ModelError::from)?;
    let start = Instant::now();
    let walk = Walk { model, ws: &ws, caption };
    walk.set_time(times, frame_mask)?;
    let mut trace = Trace::new();
    walk.forward(&z, Some(&mut trace))?;
    let out = ws.prediction().to_f32().map_err(ModelError::from)?;
    result.seconds = start.elapsed().as_secs_f64();
    let (_, reference) = input(io, "out", &[5])?;
    result.errors.push(("out".into(), relative_error(&out, &reference)));
    Ok(trace)
}

/// The tokens of one text, without the padding behind them.
pub(super) fn real_tokens(ids: &[i64], mask: &[i64], io: &Weights) -> Result<Vec<u32>, CheckError> {
    let real = ids.iter().zip(mask).filter(|(_, real)| **real != 0).map(|(id, _)| u32::try_from(*id));
    let bad = |_| CheckError::Case { file: io.file().into(), reason: "a token is no number from 0 on".into() };
    real.collect::<Result<_, _>>().map_err(bad)
}

pub(super) fn optional_mask(io: &Weights, name: &str) -> Result<Option<Vec<bool>>, CheckError> {
    if !io.has(name) {
        return Ok(None);
    }
    let (_, values) = input(io, name, &[1, 2])?;
    Ok(Some(values.iter().map(|v| *v != 0.0).collect()))
}

/// Compares hidden states, by their published names, with those that the reference recorded.
pub(super) fn compare_trace(
    trace: impl Iterator<Item = (String, Vec<f32>)>,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    for (name, values) in trace {
        let name = format!("trace.{name}");
        if io.has(&name) {
            let (_, reference) = input(io, &name, &[2, 3])?;
            result.errors.push((name, relative_error(&values, &reference)));
        }
    }
    Ok(())
}

/// Our decisions paired with the reference's, step by step. With several probes per forward pass the reference recorded only the last ones.
fn paired(ours: &[Decision], reference: &[ExpectedDecision]) -> Vec<(Decision, ExpectedDecision)> {
    let mut pairs = vec![];
    for theirs in reference.chunk_by(|a, b| a.step == b.step) {
        let ours: Vec<Decision> = ours.iter().copied().filter(|d| d.step == theirs[0].step).collect();
        let last = &ours[ours.len().saturating_sub(theirs.len())..];
        pairs.extend(last.iter().copied().zip(theirs.iter().copied()));
    }
    pairs
}

/// The first step that only one of the two runs computed.
fn first_difference(result: &CheckResult) -> Option<usize> {
    let CheckResult { computed_steps, expected_steps, .. } = result;
    let last = computed_steps.iter().chain(expected_steps).copied().max()?;
    (1..=last).find(|step| computed_steps.contains(step) != expected_steps.contains(step))
}

/// Compares what was computed and decided with the reference's.
pub(super) fn compare_rollout(
    expected: &Expected,
    output: &SampleOutput,
    policy: &mut dyn Policy,
    dtype: DType,
    result: &mut CheckResult,
) {
    let member = &output.members[0];

    result.seconds = output.seconds;
    result.computed_steps = computed_steps_of(&member.plans, Half::Conditional);
    result.expected_steps = expected.computed_steps.clone();
    let other = computed_steps_of(&member.plans, Half::Unconditional);
    result.decisions = paired(&member.decisions, &expected.decisions);
    if let Some(differ) = first_difference(result)
        && expected.threshold_margin > bounds(dtype).margin
    {
        result.reason = Some(format!("the computed steps differ from the reference's, first at step {differ}"));
    }
    if expected.computed_steps_uncond.as_ref().is_some_and(|steps| *steps != other)
        && expected.threshold_margin > bounds(dtype).margin
    {
        result.reason =
            Some(format!("the unconditional half was computed in the steps {other:?}, unlike the reference's"));
    }
    // The device decided; the policy on the host has to come to the very same from the same sums.
    match member.trace.replay(policy) {
        Ok((plans, decisions)) if plans == member.plans && decisions == member.decisions => {}
        Ok(_) => result.reason = Some("the device's decisions are not those of the policy on the host".into()),
        Err(error) => result.reason = Some(error.to_string()),
    }
}

/// Compares the latents `[elements]` after some steps.
pub(super) fn compare_latents(
    expected: &Expected,
    output: &SampleOutput,
    elements: usize,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    let (_, reference) = input(io, "latents", &[6])?;
    for ((step, latents), reference) in
        expected.latent_steps.iter().zip(&output.snapshots).zip(reference.chunks(elements))
    {
        // Where the margin excuses another schedule, latents can be compared up to the first different step only.
        if first_difference(result).is_none_or(|differ| *step < differ) || result.reason.is_some() {
            result.errors.push((format!("latents after step {step}"), relative_error(latents, reference)));
        }
    }
    Ok(())
}
