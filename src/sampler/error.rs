//! Why sampling stopped.

use crate::device::DeviceError;
use crate::model::ModelError;
use crate::ops::OpError;
use crate::tensor::TensorError;

/// Why sampling stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The model rejected its input, or a kernel, a tensor or the device failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An input has the wrong size or value.
    #[error("{0}")]
    Input(String),
    /// The caller's callback asked to stop.
    #[error("stopped after step {step}")]
    Stopped {
        /// The last finished step.
        step: usize,
    },
    /// The latents are no longer finite.
    #[error(
        "the latents became {value} (element {index}): try --dtype f32, a smaller --cfg-scale, or check the weights"
    )]
    NotFinite {
        /// The value found.
        value: f32,
        /// The index of the element.
        index: usize,
    },
}

/// Device errors during a run are failures of the model.
macro_rules! failures_of_the_model {
    ($($error:ty),*) => { $(impl From<$error> for SampleError {
        fn from(error: $error) -> Self {
            SampleError::Model(error.into())
        }
    })* };
}
failures_of_the_model!(OpError, TensorError, DeviceError);

impl SampleError {
    /// Whether the run was stopped, by the callback or by [`Interrupter`](crate::device::Interrupter), rather than failed.
    pub fn is_stop(&self) -> bool {
        match self {
            SampleError::Stopped { .. } => true,
            SampleError::Model(error) => error.is_stop(),
            SampleError::Input(_) | SampleError::NotFinite { .. } => false,
        }
    }
}

/// Rejects latents that are not finite.
pub(super) fn check_finite(latents: &[f32]) -> Result<(), SampleError> {
    match latents.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(SampleError::NotFinite { value: latents[index], index }),
        None => Ok(()),
    }
}
