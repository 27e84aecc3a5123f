//! Cases of Latte and Open-Sora-Plan: forwards, and sampling runs with and without a cache, of the published code.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::case::{
    CheckError, CheckResult, Expected, bounds, compare_latents, compare_rollout, compare_trace, geometry, input,
    latents, merged_config, predict, relative_error,
};
use crate::cache::{
    AdaCache, AdaCacheConfig, Codebook, ComputeAll, Metric, Module, MotionRegularization, PabConfig, Plan, Policy,
    ResidualKind, Settings, Span, TeaCache, TeaCacheConfig,
};
use crate::device::Device;
use crate::model::{Latte, LatteConfig, LatteKind, ModelError, Transformer, Weights};
use crate::sampler::{Member, NoiseMethod, Sampler, SamplerOptions, SchedulerConfig};
use crate::tensor::DType;

#[derive(Deserialize)]
struct Case {
    kind: String,
    family: String,
    model: PathBuf,
    config: Map<String, Value>,
}

#[derive(Deserialize)]
struct Rollout {
    steps: usize,
    cfg_scale: f32,
    scheduler: Value,
    cache: Option<Cache>,
    expected: Value,
}

/// The steps that reuse a kind of modules, by its name.
#[derive(Deserialize)]
struct ExpectedReuse {
    #[serde(default)]
    reused: BTreeMap<String, Vec<usize>>,
}

#[derive(Deserialize)]
struct Scheduler {
    r#type: NoiseMethod,
}

/// The cache of a run, with the published names.
#[derive(Deserialize)]
#[serde(tag = "policy")]
enum Cache {
    #[serde(rename = "adacache")]
    Ada {
        residual: ResidualKind,
        blocks: Vec<usize>,
        #[serde(rename = "norm")]
        metric: Metric,
        codebook: Codebook,
        moreg: Option<MotionRegularization>,
    },
    #[serde(rename = "pab")]
    Pab {
        window: [f64; 2],
        spatial_range: usize,
        temporal_range: usize,
        cross_range: usize,
        /// By timestep.
        mlp: BTreeMap<String, Mlp>,
    },
    #[serde(rename = "teacache")]
    Tea { delta: f64, coefficients: Vec<f64> },
}

/// The MLPs that are kept at a timestep, and the number of steps that reuse them.
#[derive(Deserialize)]
struct Mlp {
    blocks: Vec<usize>,
    skip: usize,
}

/// Whose case it is, by the name of its family.
pub(super) fn kind(family: &str) -> Option<LatteKind> {
    match family {
        "latte" => Some(LatteKind::Latte),
        "open_sora_plan_v1.1" => Some(LatteKind::OpenSoraPlan),
        _ => None,
    }
}

/// Runs the case in folder `dir`, whose case.json is `text`; returns the bound of its errors.
pub(super) fn check(
    dir: &Path,
    text: &str,
    device: &Device,
    dtype: DType,
    result: &mut CheckResult,
) -> Result<f64, CheckError> {
    let file = dir.join("case.json").display().to_string();
    let bad = |reason: String| CheckError::Case { file: file.clone(), reason };
    let case: Case = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let path = dir.join(&case.model);
    let config = merged_config(&case.config, &path).map_err(bad)?;
    let family = kind(&case.family).ok_or_else(|| bad(format!("there is no family `{}`", case.family)))?;
    let config = LatteConfig::from_json(&config, "case.json", family)?;
    let model = Latte::load(device, config, Weights::open(&path)?, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    match case.kind.as_str() {
        "forward" => forward(&model, &io, result).map(|()| bounds(dtype).forward),
        "rollout" => {
            let rollout: Rollout = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
            run_rollout(&rollout, &model, &io, result).map(|()| bounds(dtype).latents)
        }
        kind => {
            Err(bad(format!("cases of kind `{kind}` are not supported for {}; known: forward, rollout", case.family)))
        }
    }
}

fn forward(model: &Latte, io: &Weights, result: &mut CheckResult) -> Result<(), CheckError> {
    let (shape, x) = latents(io, "x", model)?;
    let (_, times) = input(io, "timestep", &[1])?;
    let (_, y) = input(io, "y", &[3])?;
    let caption = model.caption(&y, shape[0], None)?;
    let run = (model as &dyn Transformer, &caption, geometry(&shape, false, false));
    let mut trace = predict(run, (&shape, &x), &times, None, io, result)?;
    let (text, _) = model.project_caption(&y, shape[0], None)?;
    trace.push(("caption".into(), text.to_f32().map_err(ModelError::from)?));
    // The published temporal blocks have the frames of a location side by side.
    let published = |(name, values): (String, Vec<f32>)| match name.starts_with(Span::Time.name()) {
        true => (name, by_location(&values, &shape, model.config().hidden_size())),
        false => (name, values),
    };
    compare_trace(trace.into_iter().map(published), io, result)
}

/// A hidden state `[batch, frames, tokens, width]` of latents of `shape` as `[batch, tokens, frames, width]`.
fn by_location(values: &[f32], shape: &[usize], width: usize) -> Vec<f32> {
    let [batch, frames] = [shape[0], shape[2]];
    let mut located = Vec::with_capacity(values.len());
    for sample in values.chunks(values.len() / batch) {
        let rows: Vec<&[f32]> = sample.chunks(width).collect();
        let tokens = rows.len() / frames;
        for (token, frame) in (0..tokens).flat_map(|token| (0..frames).map(move |frame| (token, frame))) {
            located.extend_from_slice(rows[frame * tokens + token]);
        }
    }
    located
}

/// The policy of a run with these timesteps, for which `steps` were requested.
fn policy(
    cache: Option<&Cache>,
    model: &Latte,
    frames: usize,
    (steps, timesteps): (usize, &[f32]),
) -> Result<Box<dyn Policy>, CheckError> {
    let anatomy = model.anatomy();
    Ok(match cache {
        None => Box::new(ComputeAll::default()),
        Some(Cache::Ada { residual, blocks, metric, codebook, moreg }) => {
            let config = AdaCacheConfig {
                metric: *metric,
                residual: *residual,
                blocks: blocks.clone(),
                codebook: codebook.clone(),
                moreg: moreg.clone(),
            };
            config.validate_for(anatomy, frames)?;
            Box::new(AdaCache::new(config, timesteps.len()))
        }
        Some(Cache::Pab { window, spatial_range, temporal_range, cross_range, mlp }) => {
            let blocks = mlp.values().flat_map(|mlp| &mlp.blocks).map(|block| block + 1).max().unwrap_or(0);
            let config = PabConfig {
                window: *window,
                spatial: *spatial_range,
                temporal: *temporal_range,
                cross: *cross_range,
                mlp: mlp.keys().filter_map(|time| time.parse().ok()).collect(),
                mlp_steps: mlp.values().map(|mlp| mlp.skip).max().unwrap_or(0),
                // The published constants are for more layers than a small model has.
                mlp_blocks: blocks.min(anatomy.layers()),
                count: Some(steps),
            };
            config.validate_for(anatomy, frames)?;
            Box::new(config.policy(anatomy, timesteps))
        }
        Some(Cache::Tea { delta, coefficients }) => {
            let config = TeaCacheConfig::new(*delta, coefficients.clone());
            config.validate()?;
            Box::new(TeaCache::new(config, timesteps.len()))
        }
    })
}

/// The steps (from 1) in which modules of each kind were reused, by the reference's names.
fn reused(policy: &dyn Policy, model: &Latte, plans: &[Plan]) -> BTreeMap<String, Vec<usize>> {
    let name = |(block, kind): (usize, Module)| match kind {
        Module::Attention => model.anatomy().span(block).name(),
        Module::Cross => "cross",
        Module::Mlp => "mlp",
    };
    let mut steps: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (i, group) in policy.groups().iter().enumerate() {
        let reused = (1..).zip(plans).filter(|(_, plan)| plan.groups().0.contains(i)).map(|(step, _)| step);
        steps.entry(name(model.anatomy().at(group.runs[0].start)).into()).or_default().extend(reused);
    }
    steps.into_iter().map(|(name, steps)| (name, steps.into_iter().collect())).collect()
}

fn run_rollout(rollout: &Rollout, model: &Latte, io: &Weights, result: &mut CheckResult) -> Result<(), CheckError> {
    let bad = |reason: serde_json::Error| CheckError::Case { file: io.file().into(), reason: reason.to_string() };
    let (shape, z) = latents(io, "z", model)?;
    let Scheduler { r#type: method } = serde_json::from_value(rollout.scheduler.clone()).map_err(bad)?;
    let rows = SchedulerConfig::from_json(&rollout.scheduler.to_string(), method)?.solver(rollout.steps)?.rows();
    let times: Vec<f32> = rows.iter().map(|row| row.time).collect();
    let (_, reference) = input(io, "timesteps", &[1])?;
    result.errors.push(("timesteps".into(), relative_error(&times, &reference)));
    let mut expected: Expected = serde_json::from_value(rollout.expected.clone()).map_err(bad)?;
    let ExpectedReuse { reused: reference } = serde_json::from_value(rollout.expected.clone()).map_err(bad)?;
    if !reference.is_empty() {
        // The steps that reuse no module.
        let whole = |step: &usize| !reference.values().any(|steps| steps.contains(step));
        expected.computed_steps = (1..=rows.len()).filter(whole).collect();
    }
    // Ours is the conditional half first; sums and distances are over both.
    let [(_, y), (_, y_null)] = [input(io, "y", &[3])?, input(io, "y_null", &[3])?];
    let caption = model.caption(&[y, y_null].concat(), 2 * shape[0], None)?;
    let options = SamplerOptions {
        rows,
        cfg_scale: rollout.cfg_scale,
        snapshots: expected.latent_steps.clone(),
        packed_cache: false,
        compare_folds: false,
        rank: None,
    };
    let make = || policy(rollout.cache.as_ref(), model, shape[2], (rollout.steps, &times));
    let (members, mut host) = (vec![Member { caption: &caption, policy: make()? }], make()?);
    let geometry = geometry(&shape, true, false);
    let output = Sampler::new(model, members, geometry, &z, None, options)?.run(&mut |_| ControlFlow::Continue(()))?;
    compare_rollout(&expected, &output, &mut *host, model.dtype(), result);
    let ours = reused(&*host, model, &output.members[0].plans);
    if let Some((name, _)) = reference.iter().find(|(name, steps)| ours.get(*name) != Some(steps)) {
        result.reason =
            Some(format!("{name} is not reused in the steps of the reference, but in {:?}", ours.get(name)));
    }
    compare_latents(&expected, &output, z.len(), io, result)
}
