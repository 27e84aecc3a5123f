//! Cases of Wan: forwards, and sampling runs with and without a cache, of the published code.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::case::{
    CheckError, CheckResult, Expected, bounds, compare_latents, compare_rollout, compare_trace, geometry, input,
    latents, merged_config, predict, relative_error,
};
use crate::cache::{
    AdaCache, AdaCacheConfig, Codebook, ComputeAll, EasyCache, EasyCacheConfig, Half, MagCache, MagCacheConfig, Metric,
    MotionRegularization, Policy, ResidualKind, Reused, Settings, Signal, TeaCache, TeaCacheConfig,
};
use crate::device::Device;
use crate::model::{ModelError, Transformer, Wan, WanConfig, Weights};
use crate::sampler::{FlowSampler, FrameConditioning, Member, Sampler, SamplerOptions, UnknownSampler};
use crate::tensor::DType;

#[derive(Deserialize)]
struct Case {
    kind: String,
    model: PathBuf,
    config: Map<String, Value>,
}

#[derive(Deserialize)]
struct Rollout {
    sampler: String,
    steps: usize,
    shift: f64,
    cfg_scale: f32,
    cache: Option<Cache>,
    expected: Expected,
}

/// The cache of a run, with the published names.
#[derive(Deserialize)]
#[serde(tag = "policy")]
enum Cache {
    #[serde(rename = "adacache")]
    Ada { blocks: Vec<usize>, codebook: Codebook, moreg: Option<MotionRegularization> },
    #[serde(rename = "easycache")]
    Easy { threshold: f64, ret_steps: usize },
    #[serde(rename = "magcache")]
    Mag { threshold: f64, max_skips: usize, retention_ratio: f64, mag_ratios: Vec<f64> },
    #[serde(rename = "teacache")]
    Tea { coefficients: Vec<f64>, threshold: f64, use_ret_steps: bool, ret_steps: usize, cutoff_step: usize },
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
    let weights = Weights::open(&path)?;
    let config = merged_config(&case.config, &path).map_err(bad)?;
    let config = WanConfig::from_json(&config, "case.json", Some(&weights))?;
    let model = Wan::load(device, config, weights, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    match case.kind.as_str() {
        "forward" => forward(&model, &io, result).map(|()| bounds(dtype).forward),
        "rollout" => {
            let rollout: Rollout = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
            run_rollout(&rollout, &model, &io, result).map(|()| bounds(dtype).latents)
        }
        kind => Err(bad(format!("cases of kind `{kind}` are not supported for Wan; known: forward, rollout"))),
    }
}

fn forward(model: &Wan, io: &Weights, result: &mut CheckResult) -> Result<(), CheckError> {
    let bad = |reason: String| CheckError::Case { file: io.file().into(), reason };
    let (shape, x) = latents(io, "x", model)?;
    let (time_shape, times) = input(io, "timestep", &[1, 2])?;
    let (y_shape, y) = input(io, "y", &[3])?;
    let lengths = io.integers("y_lens", &shape[..1])?;
    if time_shape[0] != shape[0] || y_shape[0] != shape[0] {
        return Err(bad(format!("timestep {time_shape:?} and y {y_shape:?} for latents {shape:?}")));
    }
    let mask: Vec<bool> = lengths.iter().flat_map(|&n| (0..y_shape[1]).map(move |j| (j as i64) < n)).collect();
    // A time for every token: frames at time 0 are held, the others have the sample's time.
    let per_sample = times.len() / shape[0];
    let moving = times.chunks(per_sample).map(|times| times.iter().copied().fold(0.0, f32::max)).collect::<Vec<_>>();
    let masked = time_shape.len() == 2;
    let frame_mask: Vec<bool> = times.chunks((per_sample / shape[2]).max(1)).map(|times| times[0] != 0.0).collect();

    let caption = model.caption(&y, shape[0], Some(&mask))?;
    let run = (model as &dyn Transformer, &caption, geometry(&shape, false, masked));
    let trace = predict(run, (&shape, &x), &moving, masked.then_some(&frame_mask[..]), io, result)?;
    // With held frames ours has two times for each sample, the reference one for each token.
    let skipped = |name: &str| masked && name.starts_with("time_");
    let trace = trace.into_iter().filter(|(name, _)| !skipped(name));
    compare_trace(trace.map(|(name, values)| (name.replace("block.", "blocks."), values)), io, result)
}

/// The policy of a run of `steps` steps.
fn policy(cache: Option<&Cache>, model: &Wan, frames: usize, steps: usize) -> Result<Box<dyn Policy>, CheckError> {
    Ok(match cache {
        None => Box::new(ComputeAll::default()),
        Some(Cache::Ada { blocks, codebook, moreg }) => {
            let config = AdaCacheConfig {
                metric: Metric::default(),
                residual: ResidualKind::of(model.anatomy()),
                blocks: blocks.clone(),
                codebook: codebook.clone(),
                moreg: moreg.clone(),
            };
            config.validate_for(model.anatomy(), frames)?;
            Box::new(AdaCache::new(config, steps))
        }
        Some(Cache::Easy { threshold, ret_steps }) => {
            let config = EasyCacheConfig { threshold: *threshold, first: *ret_steps, reused: Reused::Prediction };
            config.validate()?;
            Box::new(EasyCache::new(config, steps))
        }
        Some(Cache::Mag { threshold, max_skips, retention_ratio, mag_ratios }) => {
            // Conditional and unconditional in turn; the first step has none.
            let half = |half: Half| mag_ratios.iter().skip(2 + half.index()).step_by(2).copied().collect();
            let config = MagCacheConfig {
                retention: *retention_ratio,
                unconditional: half(Half::Unconditional),
                ..MagCacheConfig::new(*threshold, *max_skips, half(Half::Conditional))
            };
            config.validate()?;
            Box::new(MagCache::new(config, steps))
        }
        Some(&Cache::Tea { ref coefficients, threshold, use_ret_steps, ret_steps, cutoff_step }) => {
            let signal = if use_ret_steps { Signal::TimeProjection } else { Signal::Time };
            let last = steps.saturating_sub(cutoff_step);
            let config = TeaCacheConfig {
                signal,
                first: ret_steps,
                last,
                ..TeaCacheConfig::new(threshold, coefficients.clone())
            };
            config.validate()?;
            Box::new(TeaCache::new(config, steps))
        }
    })
}

/// With a given picture: its latents in place of the first frame of the noise `z`, held at every step. Wan 2.2's TI2V-5B, image to video.
fn hold_image(
    io: &Weights,
    model: &Wan,
    shape: &[usize],
    z: &mut [f32],
) -> Result<Option<FrameConditioning>, CheckError> {
    if !io.has("image_latent") {
        return Ok(None);
    }
    let (image_shape, image) = latents(io, "image_latent", model)?;
    let mut expected = shape.to_vec();
    expected[2] = 1;
    if image_shape != expected {
        let reason = format!("image_latent has shape {image_shape:?}, expected {expected:?}");
        return Err(ModelError::Input(reason).into());
    }
    let (frames, frame) = (shape[2], shape[3] * shape[4]);
    for (channel, image) in z.chunks_mut(frames * frame).zip(image.chunks(frame)) {
        channel[..frame].copy_from_slice(image);
    }
    let mask = (0..shape[0] * frames).map(|i| if i % frames == 0 { 0.0 } else { 1.0 }).collect();
    Ok(Some(FrameConditioning { mask, noise: z.to_vec() }))
}

fn run_rollout(rollout: &Rollout, model: &Wan, io: &Weights, result: &mut CheckResult) -> Result<(), CheckError> {
    let bad = |reason: String| CheckError::Case { file: io.file().into(), reason };
    let (shape, mut z) = latents(io, "z", model)?;
    let held = hold_image(io, model, &shape, &mut z)?;
    let sampler: FlowSampler = rollout.sampler.parse().map_err(|e: UnknownSampler| bad(e.to_string()))?;
    let grid = sampler.grid(rollout.steps, rollout.shift)?;
    for (name, ours) in [("timesteps", grid.times()), ("sigmas", grid.sigmas())] {
        let (_, reference) = input(io, name, &[1])?;
        result.errors.push((name.into(), relative_error(ours, &reference)));
    }
    let solver = sampler.solver(grid);
    // Both halves of the guidance batch: the prompt and the negative prompt, each with its own number of tokens.
    let (prompt, y) = input(io, "y", &[2])?;
    let (negative, y_null) = input(io, "y_null", &[2])?;
    let (length, width) = (prompt[0].max(negative[0]), model.config().text_dim);
    let padded = |values: &[f32]| [values, &vec![0.0; length * width - values.len()]].concat();
    let mask: Vec<bool> = [prompt[0], negative[0]].iter().flat_map(|&n| (0..length).map(move |j| j < n)).collect();
    let caption = model.caption(&[padded(&y), padded(&y_null)].concat(), 2, Some(&mask))?;
    let options = SamplerOptions {
        rows: solver.rows(),
        cfg_scale: rollout.cfg_scale,
        snapshots: rollout.expected.latent_steps.clone(),
        packed_cache: false,
        compare_folds: false,
        rank: None,
    };
    let make = || policy(rollout.cache.as_ref(), model, shape[2], options.rows.len());
    let (members, mut host) = (vec![Member { caption: &caption, policy: make()? }], make()?);
    let geometry = geometry(&shape, true, held.is_some());
    let output = Sampler::new(model, members, geometry, &z, held, options)?.run(&mut |_| ControlFlow::Continue(()))?;
    compare_rollout(&rollout.expected, &output, &mut *host, model.dtype(), result);
    compare_latents(&rollout.expected, &output, z.len(), io, result)
}
