//! Reference cases: folders with inputs and outputs of the published PyTorch code, which are run through our kernels and compared.
//!
//! A case has `case.json` and `io.safetensors`; its weights have the published tensor names. `forward` cases compare one prediction;
//! `rollout` cases compare a whole sampling run with AdaCache: the latents after some steps and the list of computed steps; `vae` cases
//! encode and decode a video.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cache::{
    AdaCache, AdaCacheConfig, CacheError, Codebook, Decision, Metric, MotionRegularization, ResidualKind, Settings,
};
use crate::device::Device;
use crate::family::{self, opensora::OPENSORA};
use crate::model::vae::{VaeConfig, VideoVae};
use crate::model::{Caption, Geometry, ModelError, ResidualRoom, Trace, Transformer, Walk, Weights};
use crate::sampler::{Member, SampleError, SampleOutput, Sampler, SamplerOptions, Schedule, ScheduleError, Solver};
use crate::tensor::{DType, Tensor};

/// Why a case could not be run at all.
#[derive(Debug, thiserror::Error)]
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
}

impl CheckError {
    /// Whether the case was interrupted, rather than failed.
    pub fn is_stop(&self) -> bool {
        match self {
            CheckError::Model(error) => error.is_stop(),
            CheckError::Sample(error) => error.is_stop(),
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
    /// The rate of change after the motion factor.
    pub cachediff: f64,
    /// The motion factor.
    pub moreg: f64,
    /// The motion gradient.
    pub mograd: f64,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct VaeCase {
    /// Frames of the video.
    frames: usize,
    #[serde(default = "own_weights")]
    model: PathBuf,
}

fn own_weights() -> PathBuf {
    "model.safetensors".into()
}

fn stdit3() -> String {
    OPENSORA.into()
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    /// Whose architecture the model has.
    #[serde(default = "stdit3")]
    family: String,
    model: PathBuf,
    config: serde_json::Map<String, serde_json::Value>,
    fps: f32,
    height: f64,
    width: f64,
    #[serde(flatten)]
    rollout: Option<RolloutCase>,
}

#[derive(Deserialize)]
struct RolloutCase {
    steps: usize,
    cfg_scale: f32,
    num_frames: usize,
    timestep_shift: Option<f64>,
    cache: CaseCache,
    expected: Expected,
}

/// The cache settings, with the published names.
#[derive(Deserialize)]
struct CaseCache {
    residual: ResidualKind,
    blocks: Vec<usize>,
    codebook: Codebook,
    moreg: Option<MotionRegularization>,
    #[serde(default)]
    metric: Metric,
}

#[derive(Deserialize)]
struct Expected {
    computed_steps: Vec<usize>,
    decisions: Vec<ExpectedDecision>,
    threshold_margin: f64,
    latent_steps: Vec<usize>,
}

/// The bounds of a case.
struct Bounds {
    /// Relative error of a forward pass.
    forward: f64,
    /// Relative error of latents in a rollout.
    latents: f64,
    /// The threshold margin below which the computed steps may differ.
    margin: f64,
}

fn bounds(dtype: DType) -> Bounds {
    match dtype {
        DType::F32 => Bounds { forward: 1e-4, latents: 1e-4, margin: 0.0 },
        // A run's rounding adds up: bf16 gave up to 5.1e-2 on the sprites rollouts. The latents' bound is chosen above what was
        // seen, not derived.
        _ => Bounds { forward: 2e-2, latents: 1e-1, margin: 0.02 },
    }
}

/// Runs the case in folder `dir` on `device` in `dtype`.
pub fn check(dir: &Path, device: &Device, dtype: DType) -> Result<CheckResult, CheckError> {
    let file = dir.join("case.json").display().to_string();
    let bad = |reason: String| CheckError::Case { file: file.clone(), reason };
    let text = std::fs::read_to_string(dir.join("case.json")).map_err(|e| bad(e.to_string()))?;
    let Kind { kind } = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let mut result = CheckResult {
        case: dir.display().to_string(),
        ok: false,
        max_rel_err: 0.0,
        computed_steps: vec![],
        expected_steps: vec![],
        seconds: 0.0,
        reason: None,
        decisions: vec![],
        errors: vec![],
    };
    if kind == "vae" {
        video_autoencoder(dir, &text, device, dtype, &mut result)?;
        return Ok(judged(result, bounds(dtype).forward));
    }
    let case: Case = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let weights_path = dir.join(&case.model);
    let config = merged_config(&case, &weights_path).map_err(bad)?;
    let family = family::named(&case.family).ok_or_else(|| bad(format!("there is no family `{}`", case.family)))?;
    let model = family.reference(device, &config, Weights::open(&weights_path)?, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    match (case.kind.as_str(), &case.rollout) {
        ("forward", _) => forward(&case, &*model, &io, &mut result)?,
        ("rollout", Some(rollout)) => run_rollout(&case, rollout, &*model, &io, &mut result)?,
        ("rollout", None) => {
            return Err(bad("a rollout needs steps, cfg_scale, num_frames, cache and expected".into()));
        }
        (kind, _) => {
            return Err(bad(format!("cases of kind `{kind}` are not supported; known: forward, rollout, vae")));
        }
    }
    let bounds = bounds(dtype);
    let bound = if case.kind == "forward" { bounds.forward } else { bounds.latents };
    Ok(judged(result, bound))
}

/// The verdict: whether all errors are within `bound`.
fn judged(mut result: CheckResult, bound: f64) -> CheckResult {
    for (name, error) in &result.errors {
        // NaN must count as the largest error there is.
        if !(*error <= result.max_rel_err) {
            result.max_rel_err = *error;
        }
        if !(*error <= bound) && result.reason.is_none() {
            result.reason = Some(format!("{name}: relative error {error:.3e} is above {bound:.0e}"));
        }
    }
    result.ok = result.reason.is_none();
    result
}

/// The model folder's config.json, overridden by the case's own fields.
fn merged_config(case: &Case, weights: &Path) -> Result<String, String> {
    let path = weights.with_file_name("config.json");
    let mut fields = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?,
        Err(_) => serde_json::Map::new(),
    };
    fields.extend(case.config.clone());
    Ok(serde_json::Value::Object(fields).to_string())
}

/// ‖out − reference‖ / ‖reference‖
fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    if out.len() != reference.len() {
        return f64::INFINITY;
    }
    let square = |v: f64| v * v;
    let diff: f64 = out.iter().zip(reference).map(|(a, b)| square(*a as f64 - *b as f64)).sum();
    let norm: f64 = reference.iter().map(|b| square(*b as f64)).sum();
    if diff == 0.0 { 0.0 } else { (diff / norm).sqrt() }
}

/// A tensor of the case, with its shape.
fn input(io: &Weights, name: &str, axes: &[usize]) -> Result<(Vec<usize>, Vec<f32>), CheckError> {
    let bad = |reason| CheckError::Case { file: io.file().into(), reason };
    let shape = io.shape(name).ok_or_else(|| bad(format!("tensor `{name}` is missing")))?;
    if !axes.contains(&shape.len()) || shape.contains(&0) {
        return Err(bad(format!("tensor `{name}` has shape {shape:?}, expected {axes:?} axes, none empty")));
    }
    let values = io.values(name, &shape)?;
    Ok((shape, values))
}

fn optional_mask(io: &Weights, name: &str) -> Result<Option<Vec<bool>>, CheckError> {
    if !io.has(name) {
        return Ok(None);
    }
    let (_, values) = input(io, name, &[1, 2])?;
    Ok(Some(values.iter().map(|v| *v != 0.0).collect()))
}

/// Pixels to latents, and the case's latents to pixels.
fn video_autoencoder(
    dir: &Path,
    text: &str,
    device: &Device,
    dtype: DType,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    let file = dir.join("case.json").display().to_string();
    let case: VaeCase =
        serde_json::from_str(text).map_err(|e| CheckError::Case { file: file.clone(), reason: e.to_string() })?;
    let config = VaeConfig::from_json(text, &file)?;
    let vae = VideoVae::load(device, config, Weights::open(&dir.join(&case.model))?, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    let video = |name: &str| -> Result<([usize; 4], Vec<f32>), CheckError> {
        match input(&io, name, &[5])? {
            (shape, values) if shape[0] == 1 => Ok(([shape[1], shape[2], shape[3], shape[4]], values)),
            (shape, _) => {
                let reason = format!("tensor `{name}` has shape {shape:?}, expected one video");
                Err(CheckError::Case { file: io.file().into(), reason })
            }
        }
    };
    let ((pixel_shape, pixels), (latent_shape, latents)) = (video("pixels")?, video("latent")?);
    let start = Instant::now();
    let encoded = vae.encode_within(&pixels, pixel_shape, None, &mut |_, _| ControlFlow::Continue(()))?;
    let (middle, decoded) = vae.decode_values(&latents, latent_shape, case.frames, None)?;
    result.seconds = start.elapsed().as_secs_f64();
    for (name, ours) in [("encoded_mean", encoded), ("temporal_decoded", middle), ("decoded", decoded)] {
        let (_, reference) = video(name)?;
        result.errors.push((name.into(), relative_error(&ours, &reference)));
    }
    Ok(())
}

fn forward(case: &Case, model: &dyn Transformer, io: &Weights, result: &mut CheckResult) -> Result<(), CheckError> {
    let (shape, x) = input(io, "x", &[5])?;
    let (_, timesteps) = input(io, "timestep", &[1])?;
    let (_, y) = input(io, "y", &[3, 4])?;
    let mask = optional_mask(io, "mask")?;
    let frame_mask = optional_mask(io, "x_mask")?;
    let geometry = Geometry {
        videos: shape[0],
        guided: false,
        frames: shape[2],
        height: shape[3],
        width: shape[4],
        resolution: (case.height * case.width).sqrt(),
        fps: case.fps,
        frame_masked: frame_mask.is_some(),
    };
    if shape[1] != model.shape().channels {
        let channels = model.shape().channels;
        return Err(ModelError::Input(format!("x has {} channels, the model takes {channels}", shape[1])).into());
    }
    let caption = model.caption(&y, shape[0], mask.as_deref())?;
    let ws = model.workspace(geometry, &ResidualRoom::default())?;
    let z = Tensor::from_f32(model.device(), &shape, &x, DType::F32).map_err(ModelError::from)?;
    let start = Instant::now();
    let walk = Walk { model, ws: &ws, caption: &caption };
    walk.set_time(&timesteps, frame_mask.as_deref())?;
    let mut trace = Trace::new();
    walk.forward(&z, Some(&mut trace))?;
    let out = ws.prediction().to_f32().map_err(ModelError::from)?;
    result.seconds = start.elapsed().as_secs_f64();
    let (_, reference) = input(io, "out", &[5])?;
    result.errors.push(("out".into(), relative_error(&out, &reference)));
    for (name, values) in trace {
        // The published modules' names.
        let name = name.replace("spatial.", "spatial_blocks.").replace("temporal.", "temporal_blocks.");
        let name = format!("trace.{name}");
        // In frame-masked runs ours hold both variants; the reference kept its last call only, the one of time 0.
        if io.has(&name) && !(geometry.frame_masked && name == "trace.t_block") {
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

fn run_rollout(
    case: &Case,
    rollout: &RolloutCase,
    model: &dyn Transformer,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    let (shape, z) = input(io, "z", &[5])?;
    let videos = shape[0];
    if shape[1] != model.shape().channels {
        let channels = model.shape().channels;
        return Err(ModelError::Input(format!("z has {} channels, the model takes {channels}", shape[1])).into());
    }
    let (_, timesteps) = input(io, "timesteps", &[1])?;
    let own = match rollout.timestep_shift {
        Some(shift) => Schedule::shifted(rollout.steps, shift)?,
        None => Schedule::opensora(rollout.steps, case.height, case.width, rollout.num_frames)?,
    };
    result.errors.push(("timesteps".into(), relative_error(own.timesteps(), &timesteps)));

    let caption = caption_of(model, io, videos)?;
    let cache = AdaCacheConfig {
        metric: rollout.cache.metric,
        residual: rollout.cache.residual,
        blocks: rollout.cache.blocks.clone(),
        codebook: rollout.cache.codebook.clone(),
        moreg: rollout.cache.moreg.clone(),
    };
    cache.validate_for(model.anatomy(), shape[2])?;
    let geometry = Geometry {
        videos,
        guided: true,
        frames: shape[2],
        height: shape[3],
        width: shape[4],
        resolution: (case.height * case.width).sqrt(),
        fps: case.fps,
        frame_masked: false,
    };
    let options = SamplerOptions {
        rows: Schedule::from_timesteps(timesteps)?.rows(),
        cfg_scale: rollout.cfg_scale,
        snapshots: rollout.expected.latent_steps.clone(),
        packed_cache: false,
        compare_folds: false,
    };
    let policy = AdaCache::new(cache, options.rows.len());
    let members = vec![Member { caption: &caption, policy: Box::new(policy.clone()) }];
    let output = Sampler::new(model, members, geometry, &z, None, options)?.run(&mut |_| ControlFlow::Continue(()))?;
    compare_rollout(rollout, &output, policy, model.dtype(), result);
    compare_latents(rollout, &output, z.len(), io, result)
}

/// The caption of a case, for both halves of the guidance batch: the captions of every video, then the null caption as often.
fn caption_of(model: &dyn Transformer, io: &Weights, videos: usize) -> Result<Caption, CheckError> {
    let batched = |name: &str| -> Result<Vec<f32>, CheckError> {
        let (shape, values) = input(io, name, &[2, 3])?;
        Ok(if shape.len() == 2 { values.repeat(videos) } else { values })
    };
    let y = [batched("y")?, batched("y_null")?].concat();
    let mask = optional_mask(io, "mask")?.map(|mask| {
        let length = y.len() / (2 * videos * model.shape().caption_channels);
        mask.repeat(2 * videos * length / mask.len().max(1))
    });
    Ok(model.caption(&y, 2 * videos, mask.as_deref())?)
}

/// The first step that only one of the two runs computed.
fn first_difference(result: &CheckResult) -> Option<usize> {
    let CheckResult { computed_steps, expected_steps, .. } = result;
    let last = computed_steps.iter().chain(expected_steps).copied().max()?;
    (1..=last).find(|step| computed_steps.contains(step) != expected_steps.contains(step))
}

/// Compares what was computed and decided with the reference's.
fn compare_rollout(
    rollout: &RolloutCase,
    output: &SampleOutput,
    mut policy: AdaCache,
    dtype: DType,
    result: &mut CheckResult,
) {
    let member = &output.members[0];

    result.seconds = output.seconds;
    result.computed_steps = member.computed_steps();
    result.expected_steps = rollout.expected.computed_steps.clone();
    result.decisions = paired(&member.decisions, &rollout.expected.decisions);
    if let Some(differ) = first_difference(result)
        && rollout.expected.threshold_margin > bounds(dtype).margin
    {
        result.reason = Some(format!("the computed steps differ from the reference's, first at step {differ}"));
    }
    // The device decided; the policy on the host has to come to the very same from the same sums.
    match member.trace.replay(&mut policy) {
        Ok((plans, decisions)) if plans == member.plans && decisions == member.decisions => {}
        Ok(_) => result.reason = Some("the device's decisions are not those of the policy on the host".into()),
        Err(error) => result.reason = Some(error.to_string()),
    }
}

/// Compares the latents `[elements]` after some steps.
fn compare_latents(
    rollout: &RolloutCase,
    output: &SampleOutput,
    elements: usize,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    let (_, reference) = input(io, "latents", &[6])?;
    for ((step, latents), reference) in
        rollout.expected.latent_steps.iter().zip(&output.snapshots).zip(reference.chunks(elements))
    {
        // Where the margin excuses another schedule, latents can be compared up to the first different step only.
        if first_difference(result).is_none_or(|differ| *step < differ) || result.reason.is_some() {
            result.errors.push((format!("latents after step {step}"), relative_error(latents, reference)));
        }
    }
    Ok(())
}
