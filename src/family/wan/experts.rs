//! Models of two experts, Wan 2.2 A14B: the first runs the noisy steps, the second the others.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::hub::{Checkpoint, CheckpointError, Part};
use crate::model::{LoraFile, ModelError, Wan, WanConfig};
use crate::pipeline::{Expert, PipelineError};
use crate::sampler::TRAIN_STEPS;

/// Names of the experts, in the order in which they run.
const NAMES: [&str; 2] = ["high-noise", "low-noise"];
/// Their folders in an official repository.
pub(super) const HIGH_NOISE: &str = "high_noise_model";
pub(super) const LOW_NOISE: &str = "low_noise_model";
/// Their parts.
const PARTS: [Part; 2] = [Part::Transformer, Part::Transformer2];

/// The transformers of a model with this boundary.
pub(super) fn experts(boundary: Option<f64>) -> Vec<Expert> {
    let two = |share: f64| {
        let [high, low] = NAMES;
        vec![
            Expert { name: high, least_time: (share * TRAIN_STEPS) as f32 },
            Expert { name: low, least_time: f32::NEG_INFINITY },
        ]
    };
    boundary.map_or_else(|| vec![Expert::ONLY], two)
}

/// The folder of an expert.
pub(super) fn part(index: usize) -> Part {
    PARTS[index.min(1)]
}

/// What the file beside the parts says of experts.
#[derive(Deserialize)]
struct Index {
    boundary_ratio: Option<f64>,
}

/// The file beside the parts.
pub(super) const INDEX: &str = "model_index.json";

fn index(folder: &Path) -> Result<Option<Index>, PipelineError> {
    let path = folder.join(INDEX);
    let file = path.display().to_string();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Io { file, source }.into()),
    };
    let parsed = serde_json::from_str(&text);
    Ok(Some(parsed.map_err(|e| ModelError::Config { file, reason: format!("not the index of a model: {e}") })?))
}

/// Whether a folder holds a model of two experts, or what is left of one.
pub(super) fn are_in(folder: &Path) -> bool {
    let named = || index(folder).ok().flatten().is_some_and(|index| index.boundary_ratio.is_some());
    [Part::Transformer2.name(), HIGH_NOISE, LOW_NOISE].iter().any(|expert| folder.join(expert).is_dir()) || named()
}

/// The boundary of a model in a folder: that of its index, or `usual`.
///
/// # Errors
/// An index that cannot be read; a boundary that leaves an expert no time.
pub(super) fn boundary(folder: &Path, usual: f64) -> Result<f64, PipelineError> {
    let share = index(folder)?.and_then(|index| index.boundary_ratio).unwrap_or(usual);
    if share > 0.0 && share < 1.0 {
        return Ok(share);
    }
    let file = folder.join(INDEX);
    Err(PipelineError::Setting(format!(
        "{}: boundary_ratio is {share}, expected a number between 0 and 1: from that share of 1000 on times are of the {} expert",
        file.display(),
        NAMES[0]
    )))
}

/// The shape of the transformers of a checkpoint, which these LoRAs fit.
///
/// # Errors
/// An expert that is missing, or of another shape than the first; files that are damaged; a LoRA that does not fit.
pub(super) fn shape(checkpoint: &Checkpoint, count: usize, added: &[LoraFile]) -> Result<WanConfig, PipelineError> {
    let first = shape_of(checkpoint, PARTS[0], &loras(added, 0))?;
    if count > 1 {
        let second = shape_of(checkpoint, PARTS[1], &loras(added, 1)).map_err(|error| match error {
            PipelineError::Checkpoint(missing @ (CheckpointError::Missing { .. } | CheckpointError::Halves { .. })) => {
                PipelineError::MissingExpert {
                    folder: checkpoint.folder().to_owned(),
                    expert: NAMES[1],
                    reason: missing.to_string(),
                }
            }
            other => other,
        })?;
        if second != first {
            return Err(PipelineError::Setting(format!(
                "the experts in {} have different shapes, so they are of different models: {} has {}, {} {}",
                checkpoint.folder().display(),
                NAMES[0],
                told(&first),
                NAMES[1],
                told(&second)
            )));
        }
    }
    Ok(first)
}

fn shape_of(checkpoint: &Checkpoint, part: Part, loras: &[LoraFile]) -> Result<WanConfig, PipelineError> {
    let weights = checkpoint.open(part)?;
    let file = checkpoint.file(part, "config.json");
    let name = file.display().to_string();
    let text = fs::read_to_string(&file).map_err(|source| ModelError::Io { file: name.clone(), source })?;
    let config = WanConfig::from_json(&text, &name, Some(&weights))?;
    // Now: the text encoder takes minutes before these are read.
    if !loras.is_empty() {
        Wan::adapted(weights, loras)?;
    }
    Ok(config)
}

fn told(shape: &WanConfig) -> String {
    let WanConfig { dim, ffn_dim, num_heads, num_layers, channels, text_dim, text_len } = shape;
    format!(
        "{num_layers} blocks of {dim} channels, {num_heads} heads and an MLP of {ffn_dim}, latents of {channels} channels, {text_len} caption \
         tokens of {text_dim}"
    )
}

/// The LoRAs of an expert.
pub(super) fn loras(loras: &[LoraFile], index: usize) -> Vec<LoraFile> {
    let its = |lora: &&LoraFile| lora.expert.as_deref().is_none_or(|name| Some(&name) == NAMES.get(index));
    loras.iter().filter(its).cloned().collect()
}

/// Checks that the experts that LoRAs are for are there.
///
/// # Errors
/// An expert that the model does not have.
pub(super) fn check_loras(loras: &[LoraFile], experts: &[Expert]) -> Result<(), PipelineError> {
    let has = |name: &str| experts.iter().any(|expert| expert.name == name);
    let unknown = |lora: &&LoraFile| lora.expert.as_deref().is_some_and(|name| !has(name));
    let Some(LoraFile { path, expert: Some(name), .. }) = loras.iter().find(unknown) else { return Ok(()) };
    let path: &PathBuf = path;
    let known: Vec<&str> = experts.iter().map(|expert| expert.name).filter(|name| !name.is_empty()).collect();
    let there = match &known[..] {
        [] => format!("the model has one transformer: leave out @{name}"),
        known => format!("there are {}", known.join(" and ")),
    };
    Err(PipelineError::Setting(format!("--lora {}@{name}: no expert has this name; {there}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_is_read_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert!(!are_in(folder));
        assert_eq!(boundary(folder, 0.875).unwrap(), 0.875);
        let write = |text: &str| fs::write(folder.join(INDEX), text).unwrap();
        write(r#"{ "boundary_ratio": null, "transformer_2": [null, null] }"#);
        assert!(!are_in(folder));
        assert_eq!(boundary(folder, 0.875).unwrap(), 0.875);
        write(r#"{ "boundary_ratio": 0.9 }"#);
        assert!(are_in(folder));
        assert_eq!(boundary(folder, 0.875).unwrap(), 0.9);
        for bad in ["0", "1.0", "-1", "2"] {
            write(&format!("{{ \"boundary_ratio\": {bad} }}"));
            let told = boundary(folder, 0.875).unwrap_err().to_string();
            assert!(told.contains("boundary_ratio") && told.contains("between 0 and 1"), "{told}");
        }
        write("nonsense");
        assert!(boundary(folder, 0.875).unwrap_err().to_string().contains(INDEX));
    }

    #[test]
    fn a_lora_is_for_both_experts_or_for_one() {
        let all: Vec<LoraFile> = ["a.safetensors", "b.safetensors:0.5@low-noise"].map(|l| l.parse().unwrap()).into();
        assert_eq!((loras(&all, 0).len(), loras(&all, 1).len()), (1, 2));
        assert!(check_loras(&all, &experts(Some(0.875))).is_ok());
        let one = check_loras(&all, &experts(None)).unwrap_err().to_string();
        assert!(one.contains("leave out @low-noise"), "{one}");
        let all = ["a.safetensors@middle".parse().unwrap()];
        let told = check_loras(&all, &experts(Some(0.875))).unwrap_err().to_string();
        assert!(told.contains("high-noise and low-noise"), "{told}");
    }
}
