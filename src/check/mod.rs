//! Reference cases: folders with inputs and outputs of the published PyTorch code, which are run through our kernels and compared.
//!
//! A case has `case.json` and `io.safetensors`; its weights have the published tensor names. `forward` cases compare one prediction;
//! `rollout` cases compare a whole sampling run, with a cache or without: the latents after some steps and the list of computed steps; `vae` and
//! `autoencoder` cases encode and decode a video; `text` cases encode prompts; `generate`
//! cases go from the tokens of a prompt to pixels, in a whole repository. `model_family` or `family` says whose formats the files have; without it
//! they are those of STDiT3.

mod autoencoder;
mod case;
mod decoder;
mod generate;
mod latte;
mod stdit3;
mod text;
mod wan;

use std::path::Path;

use serde::Deserialize;

pub use self::case::{CheckError, CheckResult, ExpectedDecision};
use crate::device::Device;
use crate::tensor::DType;

#[derive(Deserialize)]
struct Kind {
    kind: String,
    #[serde(default)]
    model_family: String,
    #[serde(default)]
    family: String,
}

/// Runs the case in folder `dir` on `device` in `dtype`.
///
/// # Errors
/// Files that are missing or damaged, a kind of case that is not known, settings that are invalid; out of memory.
pub fn check(dir: &Path, device: &Device, dtype: DType) -> Result<CheckResult, CheckError> {
    let file = dir.join("case.json");
    let bad = |reason: String| CheckError::Case { file: file.display().to_string(), reason };
    let text = std::fs::read_to_string(&file).map_err(|e| bad(e.to_string()))?;
    let Kind { kind, model_family, family } = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let mut result = CheckResult::of(dir);
    let bound = match model_family.as_str() {
        "" if latte::kind(&family).is_some() && kind == "autoencoder" => {
            decoder::check(dir, &text, device, dtype, &mut result)?
        }
        "" if latte::kind(&family).is_some() => latte::check(dir, &text, device, dtype, &mut result)?,
        "" => stdit3::check(dir, &text, device, dtype, &mut result)?,
        "t5" | "umt5" => text::check(dir, &text, device, dtype, &mut result)?,
        family if family.starts_with("wan") && kind == "autoencoder" => {
            autoencoder::check(dir, &text, device, dtype, &mut result)?
        }
        family if family.starts_with("wan") && kind == "generate" => {
            generate::check(dir, &text, device, dtype, &mut result)?
        }
        family if family.starts_with("wan") => wan::check(dir, &text, device, dtype, &mut result)?,
        family => return Err(bad(format!("there are no cases of model family `{family}`; known: t5, umt5, wan…"))),
    };
    Ok(result.judged(bound))
}
