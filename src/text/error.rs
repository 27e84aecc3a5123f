//! Why a prompt has no embedding.

use std::path::{Path, PathBuf};

use crate::hub::CheckpointError;
use crate::model::ModelError;

/// Why a prompt has no embedding.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// A file of the encoder is invalid.
    #[error("the text encoder cannot be used: {}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The encoder failed on a prompt.
    #[error("the text encoder failed on `{prompt}`: {reason}")]
    Prompt {
        /// The prompt as passed to the encoder.
        prompt: String,
        /// The problem.
        reason: String,
    },
    /// It does not fit into the device's memory, even with all its blocks in host memory.
    #[error(
        "the text encoder takes {} MiB of device memory at the least, and {} MiB are free: give a larger --vram-budget, or bring the \
         prompt's embedding (--embeddings)", least.div_ceil(1 << 20), available >> 20
    )]
    Memory {
        /// The bytes that may be allocated.
        available: usize,
        /// The bytes that are needed.
        least: usize,
    },
    /// Files are missing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its weights cannot be loaded, or the device failed.
    #[error("the text encoder cannot be used: {0}")]
    Model(#[from] ModelError),
}

impl EncoderError {
    /// Whether the work was stopped by an interruption, rather than failed.
    pub fn is_stop(&self) -> bool {
        matches!(self, EncoderError::Model(error) if error.is_stop())
    }
}

pub(super) fn fault<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> EncoderError {
    let file = file.to_owned();
    move |error| EncoderError::File { file, reason: error.to_string() }
}

pub(super) fn failed<E: std::fmt::Display>(prompt: &str) -> impl FnOnce(E) -> EncoderError {
    let prompt = prompt.to_owned();
    move |error| EncoderError::Prompt { prompt, reason: error.to_string() }
}
