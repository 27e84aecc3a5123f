//! The settings of a policy, and the errors in them.

use std::fmt;

use super::anatomy::Anatomy;
use super::policy::Policy;
use crate::messages;

/// Why a cache configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The algorithm is not defined for a value.
    #[error("invalid cache configuration: {0}")]
    Invalid(String),
    /// The TOML text does not parse.
    #[error("cannot read the cache configuration {path}: {reason}")]
    Toml {
        /// The file.
        path: String,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot open the cache configuration {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// There is no such preset.
    #[error(
        "unknown cache preset `{name}`{}\nknown: {known} (N a number of steps), or the path of a .toml file; \
         +moreg behind AdaCache, +taylor or +taylor2 behind a policy of whole forwards; `adacache presets` explains them",
        messages::did_you_mean(nearest.as_deref())
    )]
    UnknownPreset {
        /// The requested name.
        name: String,
        /// The known name that was probably meant, if there is one.
        nearest: Option<String>,
        /// The known names.
        known: String,
    },
}

pub(super) fn invalid<T>(message: impl Into<String>) -> Result<T, CacheError> {
    Err(CacheError::Invalid(message.into()))
}

/// The settings of a policy: they are checked before a run, and make the policy of one generation.
///
/// A policy from outside this crate implements this trait; [`CacheConfig::custom`](super::CacheConfig::custom) accepts it.
pub trait Settings: fmt::Debug + Send + Sync {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// A value for which the policy is not defined.
    fn validate(&self) -> Result<(), CacheError>;

    /// Checks the settings against the anatomy of a model that generates `frames` frames of tokens.
    ///
    /// # Errors
    /// As [`Settings::validate`]; something that the model does not have.
    fn validate_for(&self, _anatomy: &Anatomy, _frames: usize) -> Result<(), CacheError> {
        self.validate()
    }

    /// Whether the policy's plans depend on the timesteps, not only on their number.
    fn looks_at_time(&self) -> bool {
        false
    }

    /// Whether the policy reuses whole forward passes, so that they can be extrapolated.
    fn reuses_forwards(&self) -> bool {
        true
    }

    /// The number of denoising steps to run when `asked` were requested.
    fn steps(&self, asked: usize) -> usize {
        asked
    }

    /// The policy of one generation, for a model of this anatomy and these timesteps; their number follows from [`Settings::steps`].
    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy>;
}
