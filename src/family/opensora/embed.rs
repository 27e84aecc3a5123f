//! Embeddings of Open-Sora's prompts, cached on disk.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use super::prepare_prompt;
use crate::hub::{Checkpoint, Part};
use crate::media::write_file;
use crate::model::Progress;
use crate::model::{ModelError, TransformerShape};
use crate::pipeline::{PipelineError, Prompt, PromptText, TextOptions};
use crate::text::{Embedding, EncoderError, T5, fingerprint};

/// The embeddings of prompts, from the cache folder or from the encoder.
pub(super) fn embed(
    checkpoint: &Checkpoint,
    model: TransformerShape,
    prompts: &[PromptText],
    options: &TextOptions,
    progress: Progress<'_>,
) -> Result<Vec<Prompt>, PipelineError> {
    options.scores.check()?;
    let (channels, most) = (model.caption_channels, model.caption_tokens);
    let encoder = fingerprint(checkpoint)?;
    let mut loaded = None;
    let mut embedding = |prompt: &PromptText| -> Result<Prompt, PipelineError> {
        let text = prepare_prompt(&prompt.to_string(), &options.scores);
        let path = kept(checkpoint, &encoder, most, &text);
        // A damaged file is no reason to stop: it is made again.
        if let Ok(embedding) = Embedding::open(&path, channels, most) {
            return Ok(Prompt::new(prompt.clone(), embedding));
        }
        let t5 = match &mut loaded {
            Some(t5) => t5,
            none => none.insert(load(checkpoint, channels, most)?),
        };
        let embedding = t5.encode(&text)?;
        if let Err(error) = keep(&path, &embedding) {
            tracing::warn!("the embedding of `{text}` is not kept: {error}");
        }
        Ok(Prompt::new(prompt.clone(), embedding))
    };
    let mut embedded = vec![];
    for prompt in prompts {
        if progress(embedded.len(), prompts.len()).is_break() {
            return Err(ModelError::Stopped.into());
        }
        embedded.push(embedding(prompt)?);
    }
    Ok(embedded)
}

fn load(checkpoint: &Checkpoint, channels: usize, most: usize) -> Result<T5, EncoderError> {
    let t5 = T5::load(checkpoint, most)?;
    if t5.channels() != channels {
        return Err(EncoderError::File {
            file: checkpoint.file(Part::Text, "config.json"),
            reason: format!("d_model is {}, and the transformer takes captions of {channels} channels", t5.channels()),
        });
    }
    Ok(t5)
}

/// The file in which the embedding of a prepared prompt is cached: it depends on the prompt and the encoder.
fn kept(checkpoint: &Checkpoint, encoder: &[u8], most: usize, text: &str) -> PathBuf {
    let hash = Sha256::new().chain_update(encoder).chain_update(most.to_le_bytes()).chain_update(text).finalize();
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    checkpoint.folder().join("embeddings").join(name + ".safetensors")
}

fn keep(path: &Path, embedding: &Embedding) -> Result<(), Box<dyn std::error::Error>> {
    let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![embedding.tokens, embedding.values.len() / embedding.tokens];
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(write_file(path, &safetensors::serialize([(Embedding::TENSOR, view)], None)?)?)
}
