//! Why no codebook was found.

use std::path::{Path, PathBuf};

use crate::cache::trace::TraceError;
use crate::media::ReadError;
use crate::pipeline::PipelineError;
use crate::quality::QualityError;

/// Why no codebook was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The target is invalid, or cannot be reached.
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
    /// Kept frames do not have the size of the video.
    #[error(transparent)]
    Quality(#[from] QualityError),
    /// A file of the work folder cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
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
