//! Cases of a whole repository, in the layout of the published ones: from the tokens of a prompt to the pixels of a video.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;

use super::case::{CheckError, CheckResult, bounds, input, real_tokens, relative_error};
use crate::cache::CacheConfig;
use crate::device::Device;
use crate::family;
use crate::media::Latents;
use crate::model::text::{T5Config, T5Encoder};
use crate::model::{ModelError, Weights};
use crate::pipeline::{OpenOptions, Pipeline, PipelineError, Prompt, PromptText, Request};
use crate::sampler::UnknownSampler;
use crate::tensor::DType;
use crate::text::{Embedding, T5};

/// The largest difference of a pixel in f32, in steps of 8 bits.
const STEPS_OF_8_BITS: f64 = 2.0;

#[derive(Deserialize)]
struct Case {
    /// The repository.
    model: PathBuf,
    sampler: String,
    steps: usize,
    shift: f64,
    cfg_scale: f32,
    height: usize,
    width: usize,
    num_frames: usize,
    text_len: usize,
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
    let case: Case = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let repository = dir.join(&case.model);
    let io = Weights::open(&dir.join("io.safetensors"))?;
    let sampler = case.sampler.parse().map_err(|e: UnknownSampler| bad(e.to_string()))?;
    let options = OpenOptions {
        sampler: Some(sampler),
        shift: Some(case.shift),
        caption_tokens: Some(case.text_len),
        ..OpenOptions::exactly(case.num_frames, case.height, case.width)
    };
    let start = Instant::now();
    let [prompt, negative] = context(&repository.join("text_encoder"), case.text_len, device, dtype, &io, result)?;

    let source = family::open(&repository.display().to_string(), &options)?;
    let pipeline = Pipeline::load(&source, device, dtype)?;
    let (shape, z) = input(&io, "z", &[5])?;
    let shape = shape[1..].try_into().expect("five axes, the first of them left out");
    let request = Request {
        prompt: Prompt::new(PromptText::new("given as tokens")?, prompt).against(Arc::new(negative)),
        steps: case.steps,
        cfg_scale: case.cfg_scale.into(),
        seed: 0,
        noise: Some(Arc::new(Latents { shape, values: z })),
        cache: CacheConfig::None,
        packed_cache: false,
        record_all: false,
        given: None,
        decode: true,
    };
    let made = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
    result.seconds = start.elapsed().as_secs_f64();
    let (_, latents) = input(&io, "latents_final", &[5])?;
    result.errors.push(("latents_final".into(), relative_error(&made.latents.values, &latents)));
    let frames = made.frames.expect("it was asked to decode");
    let (_, video) = input(&io, "video", &[5])?;
    let pixels = case.num_frames * case.height * case.width;
    if video.len() != 3 * pixels || frames.rgb.len() != video.len() {
        return Err(bad(format!("`video` has {} values, expected 3 of each of {pixels} pixels", video.len())));
    }
    let apart = frames.rgb.iter().enumerate().map(|(i, &made)| {
        let reference = (f64::from(video[i % 3 * pixels + i / 3]) + 1.0) * 127.5;
        (f64::from(made) - reference).abs()
    });
    let most = apart.fold(0.0, f64::max);
    if dtype == DType::F32 && most > STEPS_OF_8_BITS {
        result.reason =
            Some(format!("a pixel is {most:.1} steps of 255 from the reference, at most {STEPS_OF_8_BITS}"));
    }
    Ok(bounds(dtype).latents)
}

/// The embeddings of the prompt and of the negative prompt, compared with the reference's.
fn context(
    folder: &Path,
    length: usize,
    device: &Device,
    dtype: DType,
    io: &Weights<'_>,
    result: &mut CheckResult,
) -> Result<[Embedding; 2], CheckError> {
    let file = folder.join("config.json");
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|source| ModelError::Io { file: name.clone(), source })?;
    let weights = Weights::open(&folder.join("model.safetensors"))?;
    let encoder = T5Encoder::load(device, T5Config::from_json(&text, &name)?, weights, T5::dtype(dtype), 0)?;
    let (ids, mask) = (io.integers("ids", &[2, length])?, io.integers("mask", &[2, length])?);
    let (_, reference) = input(io, "context", &[3])?;
    let half = |i: usize| -> Result<Embedding, CheckError> {
        let row = i * length..(i + 1) * length;
        let real = real_tokens(&ids[row.clone()], &mask[row], io)?;
        Ok(Embedding { values: encoder.encode(&real, None)?, tokens: real.len() })
    };
    let both = [half(0)?, half(1)?];
    let rows = |embedding: &Embedding| {
        let mut values = embedding.values.clone();
        values.resize(reference.len() / 2, 0.0);
        values
    };
    let padded: Vec<f32> = both.iter().flat_map(rows).collect();
    result.errors.push(("context".into(), relative_error(&padded, &reference)));
    Ok(both)
}

impl From<PipelineError> for CheckError {
    fn from(error: PipelineError) -> CheckError {
        CheckError::Pipeline(Box::new(error))
    }
}
