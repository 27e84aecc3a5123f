//! Identifies what a video is made of: the model's files, an embedding, and the settings of a plain run.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::PipelineError;
use super::guidance::Guidance;
use super::settings::{RESULTS, Settings, codebook};
use super::source::{FileContent, ModelSource};
use crate::cache::CacheConfig;
use crate::device::KERNELS;
use crate::hub::{hex, sha256};
use crate::model::Progress;
use crate::tensor::DType;
use crate::text::Embedding;

/// How a plain video is made.
pub struct How<'a> {
    /// Seed of the initial noise.
    pub seed: u64,
    /// Denoising steps, as requested.
    pub steps: usize,
    /// Guidance scales.
    pub cfg_scale: Guidance,
    /// Element type of weights and activations.
    pub dtype: DType,
    /// The name of the cache policy.
    pub preset: &'a str,
    /// The cache policy.
    pub cache: &'a CacheConfig,
}

impl Settings {
    /// The settings of a plain video of `prompt` by `source`, whose files have the hash `weights`.
    pub fn new(source: &ModelSource, weights: &str, prompt: String, how: &How<'_>) -> Settings {
        let config = source.config();
        Settings {
            program: env!("CARGO_PKG_VERSION").into(),
            results: RESULTS,
            kernels: KERNELS.into(),
            model: config.name.clone(),
            weights: weights.into(),
            prompt,
            embedding: None,
            negative: None,
            scores: Value::Null,
            seed: how.seed,
            noise: None,
            sampling: json!(config.sampling),
            steps: how.steps,
            cfg_scale: how.cfg_scale,
            preset: how.preset.into(),
            codebook: codebook(how.cache),
            packed_cache: false,
            fp8_weights: config.fp8_weights,
            vae_tiling: config.vae_tiling,
            dtype: how.dtype.to_string(),
            width: config.width,
            height: config.height,
            frames: config.frames(),
            fps: config.fps,
            scale: config.resolution,
            batch: None,
            given: None,
            device: None,
        }
    }
}

/// SHA-256 of all files of a model, by their names and contents. `progress` is called with the bytes that are read and their total, if
/// that takes a while; the hashes of large files are kept (see [`sha256`]).
///
/// # Errors
/// A file that cannot be read; `progress` asked to stop.
pub fn weights_hash(source: &ModelSource, progress: Progress<'_>) -> Result<String, PipelineError> {
    let files = source.files();
    let on_disk = files.iter().filter_map(|file| match &file.content {
        FileContent::OnDisk(path) => Some(path.clone()),
        FileContent::Embedded(_) => None,
    });
    let mut on_disk = sha256(&on_disk.collect::<Vec<_>>(), progress)?.into_iter();
    let mut named: Vec<(&str, String)> = files
        .iter()
        .map(|file| match file.content {
            FileContent::OnDisk(_) => (&*file.name, on_disk.next().unwrap_or_default()),
            FileContent::Embedded(bytes) => (&*file.name, hex(Sha256::new_with_prefix(bytes))),
        })
        .collect();
    named.sort_unstable();
    Ok(hex(named.iter().fold(Sha256::new(), |hash, (name, digest)| hash.chain_update(format!("{name}\0{digest}\n")))))
}

/// SHA-256 of the embedding of a prompt and, if there is one, of its negative prompt: number of tokens and values.
pub fn embedding_hash(embedding: &Embedding, negative: Option<&Embedding>) -> String {
    let mut hash = Sha256::new();
    for embedding in std::iter::once(embedding).chain(negative) {
        hash.update((embedding.tokens as u64).to_le_bytes());
        embedding.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hex(hash)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn the_built_in_model_has_one_hash() {
        let hash = || weights_hash(&crate::family::sprites(), &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!((hash().len(), hash()), (64, hash()));
    }
}
