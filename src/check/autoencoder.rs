//! Reference cases of Wan's autoencoders: pixels to latents, and other latents to pixels.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;

use super::case::{CheckError, CheckResult, bounds, relative_error};
use crate::device::Device;
use crate::model::vae::{WanVae, WanVaeConfig};
use crate::model::{ModelError, Weights};
use crate::tensor::DType;

/// What a case says beside its tensors.
#[derive(Deserialize)]
struct Case {
    /// The weights, from the case's folder.
    model: PathBuf,
    /// The shape of the autoencoder, as in its config.json.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
    latents_mean: Option<serde_json::Value>,
    latents_std: Option<serde_json::Value>,
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
    let mut case: Case =
        serde_json::from_str(text).map_err(|e| ModelError::Config { file: file.clone(), reason: e.to_string() })?;
    for (name, value) in [("latents_mean", case.latents_mean.take()), ("latents_std", case.latents_std.take())] {
        case.config.extend(value.map(|value| (name.to_owned(), value)));
    }
    let weights = Weights::open(&dir.join(&case.model))?;
    let config = serde_json::Value::Object(case.config).to_string();
    let vae = WanVae::load(device, WanVaeConfig::of(&weights, Some((&config, &file)))?, weights, dtype)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    let ((pixel_shape, pixels), (latent_shape, latents)) = (video(&io, "pixels")?, video(&io, "latent")?);
    let start = Instant::now();
    let encoded = vae.encode_within(&pixels, pixel_shape, None, &mut |_, _| ControlFlow::Continue(()))?;
    let mut decoded = vae.decode_values(&latents, latent_shape, None)?;
    result.seconds = start.elapsed().as_secs_f64();
    // The published code clamps.
    decoded.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
    for (name, ours) in [("encoded", encoded), ("decoded", decoded)] {
        let (_, reference) = video(&io, name)?;
        result.errors.push((name.into(), relative_error(&ours, &reference)));
    }
    Ok(bounds(dtype).forward)
}

/// A tensor of one video, its batch axis dropped.
fn video(io: &Weights<'_>, name: &str) -> Result<([usize; 4], Vec<f32>), ModelError> {
    match io.shape(name).as_deref() {
        Some(&[1, a, b, c, d]) if a * b * c * d > 0 => Ok(([a, b, c, d], io.values(name, &[1, a, b, c, d])?)),
        found => {
            let reason =
                format!("tensor `{name}` has shape {found:?}, expected one video [1, channels, frames, height, width]");
            Err(ModelError::Config { file: io.file().into(), reason })
        }
    }
}
