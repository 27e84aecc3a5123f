//! Why a prompt does not become a video.

use super::needs::BudgetError;
use crate::cache::CacheError;
use crate::device::DeviceError;
use crate::hub::CheckpointError;
use crate::media::OutputError;
use crate::model::ModelError;
use crate::ops::OpError;
use crate::sampler::{SampleError, ScheduleError};
use crate::tensor::TensorError;
use crate::text::{EncoderError, TextError};

/// Why a prompt did not become a video.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Neither the embedded model nor a folder.
    #[error(
        "no model `{name}`: use {known}, or a folder with one of them: as `adacache pull` fills it, or with config.json, model.safetensors, \
         decoder.safetensors and text.safetensors"
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// Kernels were to be faster than they can be.
    #[error(transparent)]
    Share(#[from] crate::profile::ShareError),
    /// The prompt cannot be understood.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text encoder has no embedding for it.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// The model's files are not all there.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device memory is too little.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The cache settings are invalid.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The number of steps makes no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The model cannot be loaded or run, the device failed, or sampling was stopped.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The result could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What goes wrong in the rooms below is a failure of the run.
macro_rules! failures_of_the_run {
    ($($error:ty),*) => { $(impl From<$error> for PipelineError {
        fn from(error: $error) -> Self {
            PipelineError::Sample(error.into())
        }
    })* };
}
failures_of_the_run!(ModelError, OpError, TensorError, DeviceError);

impl PipelineError {
    /// Whether the run ended because the caller's callback asked for it, or the device was interrupted.
    pub fn is_stop(&self) -> bool {
        matches!(self, PipelineError::Sample(error) if error.is_stop())
    }
}
