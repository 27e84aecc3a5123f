//! Reference cases of autoencoders that only decode: Latte's and Open-Sora-Plan's.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;

use super::case::{CheckError, CheckResult, bounds, input, relative_error};
use crate::device::Device;
use crate::model::Weights;
use crate::model::vae::{CausalTiling, CausalVae, CausalVaeConfig, LatteVae, LatteVaeConfig};
use crate::tensor::DType;

/// What a case says beside its tensors.
#[derive(Deserialize)]
struct Case {
    /// The weights, from the case's folder.
    model: PathBuf,
    /// `temporal_decoder`, `kl` or `causal_vae`.
    autoencoder: String,
    /// `decode`, if it is said.
    mode: Option<String>,
    config: serde_json::Value,
    scaling_factor: f32,
    #[serde(default)]
    tiling: Tiling,
}

/// The tiles, or `false`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tiling {
    Whether(bool),
    Tiles {
        tile_latent_min_size: usize,
        tile_latent_min_size_t: usize,
        tile_sample_min_size: usize,
        tile_overlap_factor: f64,
    },
}

impl Default for Tiling {
    fn default() -> Self {
        Tiling::Whether(false)
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
    if case.mode.as_deref().is_some_and(|mode| mode != "decode") {
        return Err(bad("this autoencoder only decodes: its models generate from text alone".into()));
    }
    let weights = Weights::open(&dir.join(&case.model))?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    let (shape, latents) = input(&io, "latent", &[5])?;
    let shape: [usize; 4] = match *shape {
        [1, c, t, h, w] => [c, t, h, w],
        _ => return Err(bad(format!("latents of shape {shape:?}; expected one video"))),
    };
    let config = case.config.to_string();
    let start;
    let decoded = match case.autoencoder.as_str() {
        "temporal_decoder" | "kl" => {
            let config =
                LatteVaeConfig { scaling_factor: case.scaling_factor, ..LatteVaeConfig::of(&weights, &config, &file)? };
            let vae = LatteVae::load(device, config, weights, dtype)?;
            start = Instant::now();
            frames_first(&vae.decode_values(&latents, shape, None)?, shape[1])
        }
        "causal_vae" => {
            let config =
                CausalVaeConfig { scaling_factor: case.scaling_factor, ..CausalVaeConfig::from_json(&config, &file)? };
            let vae = CausalVae::load(device, config, weights, dtype)?;
            let vae = match case.tiling {
                Tiling::Whether(false) => vae,
                Tiling::Whether(true) => vae.tiled(CausalTiling::default())?,
                Tiling::Tiles {
                    tile_latent_min_size,
                    tile_latent_min_size_t,
                    tile_sample_min_size,
                    tile_overlap_factor,
                } => {
                    let factor = tile_sample_min_size / tile_latent_min_size.max(1);
                    let frames = tile_latent_min_size_t;
                    vae.tiled(CausalTiling::new(tile_latent_min_size, factor, frames, tile_overlap_factor))?
                }
            };
            start = Instant::now();
            vae.decode_values(&latents, shape, None)?
        }
        other => {
            return Err(bad(format!("there is no autoencoder `{other}`; known: temporal_decoder, kl, causal_vae")));
        }
    };
    result.seconds = start.elapsed().as_secs_f64();
    let (_, reference) = input(&io, "pixels", &[4, 5])?;
    result.errors.push(("pixels".into(), relative_error(&decoded, &reference)));
    Ok(bounds(dtype).forward)
}

/// `[3, frames, …]` to `[frames, 3, …]`.
fn frames_first(pixels: &[f32], frames: usize) -> Vec<f32> {
    let plane = pixels.len() / 3 / frames.max(1);
    (0..pixels.len()).map(|i| pixels[(i / plane % 3 * frames + i / plane / 3) * plane + i % plane]).collect()
}
