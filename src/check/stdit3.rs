//! Cases of STDiT3 and of Open-Sora's video autoencoder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;

use super::case::{
    CheckError, CheckResult, Expected, bounds, compare_latents, compare_rollout, compare_trace, geometry, input,
    latents, merged_config, optional_mask, predict, relative_error,
};
use crate::cache::{AdaCache, AdaCacheConfig, Codebook, Metric, MotionRegularization, ResidualKind, Settings};
use crate::device::Device;
use crate::family::{self, opensora::OPENSORA};
use crate::model::vae::{VaeConfig, VideoVae};
use crate::model::{Caption, Geometry, Transformer, Weights};
use crate::sampler::{Member, Sampler, SamplerOptions, Schedule, Solver};
use crate::tensor::DType;

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

fn stdit3() -> String {
    OPENSORA.into()
}

/// Runs the case in folder `dir`, whose case.json is `text`; returns the bound of its errors.
pub(super) fn check(
    dir: &Path,
    text: &str,
    device: &Device,
    dtype: DType,
    result: &mut CheckResult,
) -> Result<f64, CheckError> {
    let bad = |reason: String| CheckError::Case { file: dir.join("case.json").display().to_string(), reason };
    let Kind { kind } = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    if kind == "vae" {
        video_autoencoder(dir, text, device, dtype, result)?;
        return Ok(bounds(dtype).forward);
    }
    let case: Case = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let weights_path = dir.join(&case.model);
    let config = merged_config(&case.config, &weights_path).map_err(bad)?;
    let family = family::named(&case.family).ok_or_else(|| bad(format!("there is no family `{}`", case.family)))?;
    let model = family.reference(device, &config, Weights::open(&weights_path)?, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    match (kind.as_str(), &case.rollout) {
        ("forward", _) => forward(&case, &*model, &io, result).map(|()| bounds(dtype).forward),
        ("rollout", Some(rollout)) => run_rollout(&case, rollout, &*model, &io, result).map(|()| bounds(dtype).latents),
        ("rollout", None) => Err(bad("a rollout needs steps, cfg_scale, num_frames, cache and expected".into())),
        (kind, _) => Err(bad(format!("cases of kind `{kind}` are not supported; known: forward, rollout, vae"))),
    }
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

#[derive(Deserialize)]
struct Case {
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
    let (shape, x) = latents(io, "x", model)?;
    let (_, timesteps) = input(io, "timestep", &[1])?;
    let (_, y) = input(io, "y", &[3, 4])?;
    let mask = optional_mask(io, "mask")?;
    let frame_mask = optional_mask(io, "x_mask")?;
    let geometry = Geometry {
        resolution: (case.height * case.width).sqrt(),
        fps: case.fps,
        ..geometry(&shape, false, frame_mask.is_some())
    };
    let caption = model.caption(&y, shape[0], mask.as_deref())?;
    let run = (model, &caption, geometry);
    let trace = predict(run, (&shape, &x), &timesteps, frame_mask.as_deref(), io, result)?;
    // In frame-masked runs ours hold both variants; the reference kept its last call only, the one of time 0.
    let trace = trace.into_iter().filter(|(name, _)| !(geometry.frame_masked && name == "t_block"));
    // The published modules' names.
    let published = |name: String| name.replace("spatial.", "spatial_blocks.").replace("temporal.", "temporal_blocks.");
    compare_trace(trace.map(|(name, values)| (published(name), values)), io, result)
}

fn run_rollout(
    case: &Case,
    rollout: &RolloutCase,
    model: &dyn Transformer,
    io: &Weights,
    result: &mut CheckResult,
) -> Result<(), CheckError> {
    let (shape, z) = latents(io, "z", model)?;
    let videos = shape[0];
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
    let geometry =
        Geometry { resolution: (case.height * case.width).sqrt(), fps: case.fps, ..geometry(&shape, true, false) };
    let options = SamplerOptions {
        rows: Schedule::from_timesteps(timesteps)?.rows(),
        cfg_scale: rollout.cfg_scale,
        snapshots: rollout.expected.latent_steps.clone(),
        packed_cache: false,
        compare_folds: false,
        rank: None,
    };
    let policy = AdaCache::new(cache, options.rows.len());
    let members = vec![Member { caption: &caption, policy: Box::new(policy.clone()) }];
    let output = Sampler::new(model, members, geometry, &z, None, options)?.run(&mut |_| ControlFlow::Continue(()))?;
    compare_rollout(&rollout.expected, &output, &mut policy.clone(), model.dtype(), result);
    compare_latents(&rollout.expected, &output, z.len(), io, result)
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
