//! Common parts of all measures: why two inputs cannot be compared, and means.

use std::path::PathBuf;

use super::form::Form;
use crate::media::Frames;
use crate::model::ModelError;
use crate::ops::OpError;

/// The largest value of a pixel.
pub(super) const RANGE: f64 = 255.0;

/// Why two inputs cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QualityError {
    /// Their sizes differ.
    #[error("the first is {first}, the second {second}: only what has one size can be compared")]
    Sizes {
        /// Size of the first.
        first: String,
        /// Size of the second.
        second: String,
    },
    /// The frames are too small for a measure.
    #[error("frames of {width}x{height} pixels: {measure} needs at least {least}x{least}")]
    TooSmall {
        /// The measure.
        measure: &'static str,
        /// The minimum side in pixels.
        least: usize,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
    },
    /// The latents contain a value that is not finite.
    #[error("the {which} latents hold {value} at element {index}")]
    NotFinite {
        /// Which of the two inputs.
        which: &'static str,
        /// The value.
        value: f32,
        /// The index of the element.
        index: usize,
    },
    /// The first latents are zero, so nothing is large or small for them.
    #[error(
        "the first latents are all 0: no difference can be given relative to them; give the two in the other order"
    )]
    Zero,
    /// The weights of a network are missing.
    #[error("there are no weights of {} at {}; this makes them: {}", form.name(), path.display(), form.made_by())]
    NoWeights {
        /// The network.
        form: Form,
        /// The path that was searched.
        path: PathBuf,
    },
    /// The weights of a network cannot be used.
    #[error(transparent)]
    Weights(#[from] ModelError),
    /// A network could not be computed.
    #[error("the network failed: {0}")]
    Network(#[from] OpError),
}

impl QualityError {
    /// Whether the work was interrupted, rather than failed.
    pub fn is_stop(&self) -> bool {
        matches!(self, QualityError::Network(error) if error.is_stop())
    }
}

/// Rejects two videos that differ in size or in the number of frames.
pub(super) fn same_size(a: &Frames, b: &Frames) -> Result<(), QualityError> {
    let size = |f: &Frames| format!("{} frames of {}x{} pixels", f.count(), f.width, f.height);
    if (a.width, a.height, a.count()) == (b.width, b.height, b.count()) {
        return Ok(());
    }
    Err(QualityError::Sizes { first: size(a), second: size(b) })
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}
