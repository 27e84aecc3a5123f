//! Embeddings of free text by a T5 encoder, cached on disk.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use crate::hub::{Checkpoint, Part, hex, sha256};
use crate::media::write_file;
use crate::model::Progress;
use crate::model::{ModelError, TransformerShape};
use crate::pipeline::{PipelineError, RESULTS};
use crate::text::{Embedding, EncoderError, T5, Tokens};

/// The embeddings of texts that the encoder reads as they are, from the cache folder or from the encoder.
pub(super) fn embed(
    checkpoint: &Checkpoint,
    model: TransformerShape,
    texts: &[String],
    progress: Progress<'_>,
) -> Result<Vec<Embedding>, PipelineError> {
    let (channels, most) = (model.caption_channels, model.caption_tokens);
    let encoder = fingerprint(checkpoint, &mut |_, _| progress(0, texts.len()))?;
    let mut loaded = None;
    let mut embedding = |text: &String| -> Result<Embedding, PipelineError> {
        let path = kept(checkpoint, &encoder, most, text);
        // A damaged file is no reason to stop: it is made again.
        if let Ok(embedding) = Embedding::open(&path, channels, most) {
            // As long as may be: perhaps of a longer text, which the encoder said when it made it.
            if embedding.tokens == most
                && let Some(cut) = Tokens::load(checkpoint, most)?.of(text)?.cut
            {
                tracing::warn!("{cut}");
            }
            return Ok(embedding);
        }
        let t5 = match &mut loaded {
            Some(t5) => t5,
            none => none.insert(load(checkpoint, channels, most)?),
        };
        let embedding = t5.encode(text)?;
        if let Err(error) = keep(&path, &embedding) {
            tracing::warn!("the embedding of `{text}` is not kept: {error}");
        }
        Ok(embedding)
    };
    let mut embedded = vec![];
    for text in texts {
        if progress(embedded.len(), texts.len()).is_break() {
            return Err(ModelError::Stopped.into());
        }
        embedded.push(embedding(text)?);
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

/// The encoder's identity: the hashes of its files.
fn fingerprint(checkpoint: &Checkpoint, progress: Progress<'_>) -> Result<String, PipelineError> {
    let mut files = vec![checkpoint.file(Part::Text, "config.json"), checkpoint.file(Part::Text, "tokenizer.json")];
    files.extend_from_slice(checkpoint.text_weights()?.files());
    Ok(sha256(&files, progress)?.concat())
}

/// The file in which the embedding of a text is cached: it depends on the text, the encoder and how this program runs it.
fn kept(checkpoint: &Checkpoint, encoder: &str, most: usize, text: &str) -> PathBuf {
    let versions = [most as u64, u64::from(RESULTS)].map(u64::to_le_bytes).concat();
    let hash = Sha256::new().chain_update(encoder).chain_update(versions).chain_update(text);
    checkpoint.folder().join("embeddings").join(hex(hash) + ".safetensors")
}

fn keep(path: &Path, embedding: &Embedding) -> Result<(), Box<dyn std::error::Error>> {
    let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![embedding.tokens, embedding.values.len() / embedding.tokens];
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(write_file(path, &safetensors::serialize([(Embedding::TENSOR, view)], None)?)?)
}
