//! T5 v1.1 and umT5 for prompts. The encoder runs on the pipeline's device, and is released once its embeddings are computed.
//!
//! Published pipelines pad every prompt and mask the padding out of the attention. Masked tokens have no weight in it at all and positions are
//! relative, so the unpadded prompt has the same embedding, and only that is computed, unless a model reads what becomes of the padding
//! ([`T5::encode_to`]).

use std::fs;
use std::path::PathBuf;

use super::Embedding;
use super::error::{EncoderError, failed, fault};
use super::tokens::{Tokenised, Tokens};
use crate::device::Device;
use crate::hub::{Checkpoint, Part};
use crate::model::Weights;
use crate::model::text::{T5Config, T5Encoder, T5Needs, published};
use crate::tensor::DType;

/// The token that fills places behind a prompt.
const PADDING: u32 = 0;

/// The files of a text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct T5Files {
    /// `tokenizer.json`
    pub tokenizer: PathBuf,
    /// `config.json`; `None`: the tensors' shapes tell the sizes.
    pub config: Option<PathBuf>,
    /// Safetensors, files of `torch.save` or GGUF; one file or shards.
    pub weights: Vec<PathBuf>,
}

impl T5Files {
    /// Those of `checkpoint`.
    ///
    /// # Errors
    /// Weights that are missing or damaged.
    pub fn of(checkpoint: &Checkpoint) -> Result<T5Files, EncoderError> {
        let (tokenizer, config) = (checkpoint.tokenizer(), checkpoint.config(Part::Text));
        Ok(T5Files { tokenizer, config, weights: checkpoint.weights(Part::Text)? })
    }
}

/// A loaded text encoder.
pub struct T5 {
    tokens: Tokens,
    encoder: T5Encoder<'static>,
}

impl T5 {
    /// The element type in which an encoder runs whose model runs in `dtype`: the residual stream of large encoders leaves the range of f16.
    pub fn dtype(dtype: DType) -> DType {
        if dtype == DType::F16 { DType::Bf16 } else { dtype }
    }

    /// Loads an encoder onto `device`, for prompts of at most `most` tokens, the end-of-sentence token included; computed as
    /// [`T5::dtype`] of `dtype`. If it does not fit into the memory that may be allocated ([`Device::available`]), weights of its blocks stay in
    /// host memory and are copied when they are needed; the token table stays in its file.
    ///
    /// # Errors
    /// Missing or damaged files, tensors that are missing or have another shape than config.json implies; out of memory.
    pub fn load(files: &T5Files, device: &Device, dtype: DType, most: usize) -> Result<T5, EncoderError> {
        let tokens = Tokens::load(&files.tokenizer, most)?;
        let weights = published(Weights::open_checkpoint(&files.weights)?);
        let config = match &files.config {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(fault(path))?;
                T5Config::from_json(&text, &path.display().to_string())?
            }
            None => T5Config::from_weights(&weights)?,
        };
        if tokens.vocabulary() > config.vocabulary {
            let reason = format!("it has {} tokens, the encoder {}", tokens.vocabulary(), config.vocabulary);
            return Err(EncoderError::File { file: files.tokenizer.clone(), reason });
        }
        let dtype = T5::dtype(dtype);
        let streamed = match device.available().map_err(crate::model::ModelError::from)? {
            Some(available) => {
                let needs = T5Needs::count(&config, device, dtype, most)?;
                needs.streamed(available).ok_or(EncoderError::Memory { available, least: needs.least() })?
            }
            None => 0,
        };
        let encoder = T5Encoder::load(device, config, weights, dtype, streamed)?;
        Ok(T5 { tokens, encoder })
    }

    /// Width of an embedding.
    pub fn channels(&self) -> usize {
        self.encoder.config().width
    }

    /// The tokens of a prompt, truncated to the maximum, with the end-of-sentence token.
    ///
    /// # Errors
    /// Text that the tokenizer rejects.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>, EncoderError> {
        Ok(self.tokens.of(prompt)?.ids)
    }

    /// The embedding of a prompt, of as many tokens as [`T5::tokens`] gives; a warning tells what is cut.
    ///
    /// # Errors
    /// Text that the tokenizer rejects; a device that fails; an embedding that is not finite.
    pub fn encode(&self, prompt: &str) -> Result<Embedding, EncoderError> {
        let Tokenised { ids, cut } = self.tokens.of(prompt)?;
        if let Some(cut) = cut {
            tracing::warn!("{cut}");
        }
        self.embedding(prompt, &ids, ids.len())
    }

    /// The first `tokens` places of the embedding of a prompt padded to any length, at least 1: what the encoder makes of padding is part of
    /// it where the prompt is shorter.
    ///
    /// # Errors
    /// As [`T5::encode`].
    pub fn encode_to(&self, prompt: &str, tokens: usize) -> Result<Embedding, EncoderError> {
        let Tokenised { mut ids, .. } = self.tokens.of(prompt)?;
        let real = ids.len();
        ids.resize(real.max(tokens), PADDING);
        let mut embedding = self.embedding(prompt, &ids, real)?;
        embedding.values.truncate(tokens * self.channels());
        Ok(Embedding { tokens, ..embedding })
    }

    /// The embedding of tokens of which the first `real` are those of `prompt`.
    fn embedding(&self, prompt: &str, ids: &[u32], real: usize) -> Result<Embedding, EncoderError> {
        let values = self.encoder.encode_padded(ids, real, None)?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(failed(prompt)(format!("its embedding holds {value}")));
        }
        Ok(Embedding { values, tokens: ids.len() })
    }
}
