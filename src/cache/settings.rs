//! The settings of a policy, and why they cannot be used.

use std::fmt;

use super::anatomy::Anatomy;
use super::policy::Policy;

/// Why a cache configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A value is not one the algorithm is defined for.
    #[error("invalid cache configuration: {0}")]
    Invalid(String),
    /// The TOML text does not parse.
    #[error("cannot read the cache configuration {path}: {source}")]
    Toml {
        /// The file.
        path: String,
        /// What the parser said, with line and column.
        source: Box<toml::de::Error>,
    },
    /// The file cannot be read.
    #[error("cannot open the cache configuration {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No such preset.
    #[error(
        "unknown cache preset `{name}`; known: {known} (N a number of steps), what the model's codebooks.json calls `calibrated`, or the path of a .toml file; \
         +moreg behind AdaCache, +taylor or +taylor2 behind a policy of whole forwards"
    )]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
}

pub(super) fn invalid<T>(message: impl Into<String>) -> Result<T, CacheError> {
    Err(CacheError::Invalid(message.into()))
}

/// The settings of a policy: what is checked before a run, and the policy of one generation that they make.
///
/// A policy from outside this crate is one more implementation, which [`CacheConfig::custom`](super::CacheConfig::custom) takes.
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

    /// Whether the policy's plans depend on the timesteps, and not on their number alone.
    fn looks_at_time(&self) -> bool {
        false
    }

    /// Whether the policy reuses whole forwards, so that they can be extrapolated.
    fn reuses_forwards(&self) -> bool {
        true
    }

    /// Denoising steps that are run where `asked` were asked for.
    fn steps(&self, asked: usize) -> usize {
        asked
    }

    /// The policy of one generation by a model of this anatomy at the given timesteps, as many as [`Settings::steps`] says.
    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy>;
}
