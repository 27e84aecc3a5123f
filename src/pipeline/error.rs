//! Errors on the way from a prompt to a video.

use std::path::PathBuf;

use super::needs::BudgetError;
use crate::cache::CacheError;
use crate::device::DeviceError;
use crate::hub::CheckpointError;
use crate::media::OutputError;
use crate::model::ModelError;
use crate::ops::OpError;
use crate::sampler::{SampleError, ScheduleError, SolverError};
use crate::tensor::TensorError;
use crate::text::{EncoderError, TextError};

/// Why a prompt did not become a video.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The name is neither a built-in model nor a model folder.
    #[error(
        "no model `{name}`: {found}{}\nthere are {known}, and the folders of models, which hold config.json, model.gguf (or \
         .safetensors), decoder.safetensors (or vae/) and text.safetensors, like models/sprites, or transformer/, vae/ and text/, as `adacache pull` fills \
         them{tip}", crate::messages::did_you_mean(nearest.as_deref())
    )]
    UnknownModel {
        /// The requested name.
        name: String,
        /// What there is by this name.
        found: String,
        /// The known name that was probably meant, if there is one.
        nearest: Option<String>,
        /// The known names.
        known: String,
        /// How to make a model of what there is, as a line of its own; empty where nobody knows.
        tip: String,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// Kernels were asked to be faster than they can be.
    #[error(transparent)]
    Share(#[from] crate::profile::ShareError),
    /// The model does not understand the prompt.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text encoder has no embedding for it.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// Files of the model are missing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// One of the transformers that take turns is missing.
    #[error("missing expert: the {expert} transformer is not in {}\n{reason}", folder.display())]
    MissingExpert {
        /// The model's folder.
        folder: PathBuf,
        /// The expert's name.
        expert: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
    /// There is not enough device memory.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The cache settings are invalid.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// There is no schedule for the number of steps.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The solver has no noise levels for these steps and this shift.
    #[error(transparent)]
    Solver(#[from] SolverError),
    /// The model cannot be loaded or run, the device failed, or sampling was stopped.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The result could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Errors of the layers below are failures of the run.
macro_rules! failures_of_the_run {
    ($($error:ty),*) => { $(impl From<$error> for PipelineError {
        fn from(error: $error) -> Self {
            PipelineError::Sample(error.into())
        }
    })* };
}
failures_of_the_run!(ModelError, OpError, TensorError, DeviceError);

impl PipelineError {
    /// Whether the run ended because the caller's callback asked it to, or the device was interrupted.
    pub fn is_stop(&self) -> bool {
        match self {
            PipelineError::Sample(error) => error.is_stop(),
            PipelineError::Encoder(error) => error.is_stop(),
            PipelineError::Output(error) => matches!(error, OutputError::Stopped),
            _ => false,
        }
    }
}
