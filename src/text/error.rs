//! Why a prompt has no embedding.

use std::path::{Path, PathBuf};

use crate::hub::CheckpointError;
use crate::messages;

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
    /// Files are missing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

pub(super) fn fault<E: std::fmt::Display>(file: &Path) -> impl FnOnce(E) -> EncoderError {
    let file = file.to_owned();
    move |error| EncoderError::File { file, reason: messages::reason(error) }
}

pub(super) fn failed<E: std::fmt::Display>(prompt: &str) -> impl FnOnce(E) -> EncoderError {
    let prompt = prompt.to_owned();
    move |error| EncoderError::Prompt { prompt, reason: messages::reason(error) }
}
