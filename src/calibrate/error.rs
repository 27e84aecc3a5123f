//! Why there is no codebook.

use std::path::{Path, PathBuf};

use crate::cache::trace::TraceError;
use crate::media::ReadError;
use crate::pipeline::PipelineError;
use crate::quality::QualityError;

/// Why there is no codebook.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The target is none, or cannot be reached.
    #[error("{0}")]
    Target(String),
    /// A run failed, or was stopped.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A kept trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Kept frames cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Kept frames are not of the video's size.
    #[error(transparent)]
    Quality(#[from] QualityError),
    /// A file of the work folder.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl CalibrateError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> CalibrateError {
        CalibrateError::Io { path: path.to_owned(), source }
    }

    /// Whether the user stopped a run.
    pub fn is_stop(&self) -> bool {
        matches!(self, CalibrateError::Pipeline(error) if error.is_stop())
    }
}
