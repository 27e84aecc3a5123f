//! Embeddings of free text by a T5 encoder, cached on disk.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use crate::device::{Device, KERNELS};
use crate::hub::{Checkpoint, hex, sha256};
use crate::media::write_file;
use crate::model::{ModelError, Progress, TransformerShape};
use crate::pipeline::{PipelineError, RESULTS};
use crate::tensor::DType;
use crate::text::{Embedding, EncoderError, T5, T5Files, Tokens};

/// A text that the encoder reads as it is.
pub(super) struct Text {
    pub(super) text: String,
    /// How many places of the padded text are wanted; `None`: those of its tokens.
    pub(super) places: Option<usize>,
}

impl Text {
    /// A text without its padding.
    pub(super) fn alone(text: String) -> Text {
        Text { text, places: None }
    }
}

/// The checkpoint's text encoder, and how it runs.
pub(super) struct Encoder<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// The model that takes its embeddings.
    pub(super) model: TransformerShape,
    pub(super) device: &'a Device,
    /// The model's.
    pub(super) dtype: DType,
}

impl Encoder<'_> {
    /// The embeddings of texts, from the cache folder or from the encoder.
    pub(super) fn embed(&self, texts: &[Text], progress: Progress<'_>) -> Result<Vec<Embedding>, PipelineError> {
        let files = T5Files::of(self.checkpoint)?;
        let (channels, most) = (self.model.caption_channels, self.model.caption_tokens);
        let identity = self.identity(&files, &mut |_, _| progress(0, texts.len()))?;
        let mut loaded = None;
        let mut embedding = |text: &Text| -> Result<Embedding, PipelineError> {
            let (path, Text { text, places }) = (self.kept(&identity, text), text);
            // A damaged file is no reason to stop: it is made again.
            if let Ok(embedding) = Embedding::open(&path, channels, most) {
                // As long as may be: perhaps of a longer text, which the encoder said when it made it.
                if (embedding.tokens, *places) == (most, None)
                    && let Some(cut) = Tokens::load(&files.tokenizer, most)?.of(text)?.cut
                {
                    tracing::warn!("{cut}");
                }
                return Ok(embedding);
            }
            let t5 = match &loaded {
                Some(t5) => t5,
                None => &*loaded.insert(self.load(&files)?),
            };
            let embedding = match places {
                Some(places) => t5.encode_to(text, *places)?,
                None => t5.encode(text)?,
            };
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

    /// The number of tokens of each text, as far as the model reads them.
    ///
    /// # Errors
    /// A tokenizer that is missing or damaged, text that it rejects.
    pub(super) fn lengths(&self, texts: &[String]) -> Result<Vec<usize>, PipelineError> {
        let files = T5Files::of(self.checkpoint)?;
        let tokens = Tokens::load(&files.tokenizer, self.model.caption_tokens)?;
        texts.iter().map(|text| Ok(tokens.of(text)?.ids.len())).collect()
    }

    fn load(&self, files: &T5Files) -> Result<T5, EncoderError> {
        let (channels, most) = (self.model.caption_channels, self.model.caption_tokens);
        let t5 = T5::load(files, self.device, self.dtype, most)?;
        if t5.channels() != channels {
            let file = files.config.iter().chain(&files.weights).next().unwrap_or(&files.tokenizer).clone();
            let width = t5.channels();
            let reason = format!("d_model is {width}, and the transformer takes captions of {channels} channels");
            return Err(EncoderError::File { file, reason });
        }
        Ok(t5)
    }

    /// What an embedding depends on besides the prompt: the hashes of the encoder's files, the kernels, and the device, which rounds as no
    /// other.
    fn identity(&self, files: &T5Files, progress: Progress<'_>) -> Result<String, PipelineError> {
        let mut all = vec![files.tokenizer.clone()];
        all.extend(files.config.iter().chain(&files.weights).cloned());
        let (dtype, device) = (T5::dtype(self.dtype), self.device.info().label());
        Ok(format!("{} {KERNELS} {RESULTS} {dtype} {device}", sha256(&all, progress)?.concat()))
    }

    /// The file in which the embedding of a prepared prompt is cached.
    fn kept(&self, identity: &str, Text { text, places }: &Text) -> PathBuf {
        let most = (self.model.caption_tokens as u64).to_le_bytes();
        let places = places.map_or_else(String::new, |places| format!("{places} places of "));
        let hash = Sha256::new().chain_update(identity).chain_update(most).chain_update(places).chain_update(text);
        self.checkpoint.folder().join("embeddings").join(hex(hash) + ".safetensors")
    }
}

fn keep(path: &Path, embedding: &Embedding) -> Result<(), Box<dyn std::error::Error>> {
    let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![embedding.tokens, embedding.values.len() / embedding.tokens];
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(write_file(path, &safetensors::serialize([(Embedding::TENSOR, view)], None)?)?)
}
