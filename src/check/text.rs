//! Cases of text encoders: T5 v1.1 and umT5, on given tokens.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::case::{CheckError, CheckResult, bounds, compare_trace, input, merged_config, real_tokens, relative_error};
use crate::device::Device;
use crate::model::text::{T5Config, T5Encoder};
use crate::model::{Trace, Weights};
use crate::tensor::DType;

#[derive(Deserialize)]
struct Case {
    kind: String,
    model: PathBuf,
    config: Map<String, Value>,
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
    if case.kind != "text" {
        return Err(bad(format!("cases of kind `{}` are not supported for text encoders; known: text", case.kind)));
    }
    let path = dir.join(&case.model);
    let config = T5Config::from_json(&merged_config(&case.config, &path).map_err(bad)?, "case.json")?;
    let encoder = T5Encoder::load(device, config, Weights::open(&path)?, dtype, 0)?;
    let io = Weights::open(&dir.join("io.safetensors"))?;
    let (shape, reference) = input(&io, "out", &[3])?;
    let [batch, length, width] = [shape[0], shape[1], shape[2]];
    let (ids, mask) = (io.integers("ids", &shape[..2])?, io.integers("mask", &shape[..2])?);

    let start = Instant::now();
    let mut out = vec![];
    let mut traces = Trace::new();
    for (ids, mask) in ids.chunks(length).zip(mask.chunks(length)) {
        // What is padded is behind the real tokens, and the model never sees it.
        let real = real_tokens(ids, mask, &io)?;
        let padded = |mut values: Vec<f32>| {
            values.resize(length * width, 0.0);
            values
        };
        let mut trace = Trace::new();
        out.extend(padded(encoder.encode(&real, Some(&mut trace))?));
        for (name, values) in trace {
            match traces.iter_mut().find(|(known, _)| *known == name) {
                Some((_, before)) => before.extend(padded(values)),
                None => traces.push((name, padded(values))),
            }
        }
    }
    result.seconds = start.elapsed().as_secs_f64();
    debug_assert_eq!(out.len(), batch * length * width);
    result.errors.push(("out".into(), relative_error(&out, &reference)));
    compare_trace(traces.into_iter(), &io, result)?;
    Ok(bounds(dtype).forward)
}
