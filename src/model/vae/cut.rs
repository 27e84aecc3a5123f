//! How the work of an autoencoder is split, to fit into the memory there is.

use crate::device::{Device, DryConfig};
use crate::model::ModelError;

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// How the work is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Frames that are processed at a time, where a frame depends on no later one.
    pub frames: usize,
    /// Approximate bytes per band of attention scores, and of normalised rows where those come in bands.
    pub band_bytes: usize,
    /// Peak bytes of all activations.
    pub bytes: usize,
}

/// The cuts to try, fastest first: (frames, band bytes).
const CUTS: [(usize, usize); 7] =
    [(4, 1 << 30), (4, 1 << 28), (2, 1 << 28), (1, 1 << 28), (1, 1 << 26), (1, 1 << 24), (1, 1 << 20)];

/// Without a budget, this fraction (one part in so many) of the free memory stays free.
const SPARE: usize = 16;

/// As large as addresses go; nothing of it exists.
pub(super) const ENDLESS: usize = 1 << 60;

/// The work of one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Decode,
    Encode,
}

/// A device that only counts, as parallel as `device`.
pub(super) fn counting(device: &Device) -> Device {
    let units = device.info().units;
    Device::dry(DryConfig { name: "plan".into(), memory: ENDLESS, units, compute_capability: (8, 0) })
}

/// The fastest cut within `budget` bytes (`None`: what is free) for pictures of these sides. `count` gives the bytes that a cut takes.
///
/// # Errors
/// [`ModelError::Input`] with the bytes of the smallest cut, if the budget is smaller.
pub(super) fn fastest(
    device: &Device,
    direction: Direction,
    [height, width]: [usize; 2],
    budget: Option<usize>,
    count: &dyn Fn(Cut) -> Result<usize>,
) -> Result<Cut> {
    let budget = match budget {
        Some(budget) => budget,
        // What is free, less a little that drivers and bytes of finished frames want.
        None => device.memory()?.free / SPARE * (SPARE - 1),
    };
    let mut least = usize::MAX;
    for (frames, band_bytes) in CUTS {
        let bytes = count(Cut { frames, band_bytes, bytes: 0 })?;
        if bytes <= budget {
            return Ok(Cut { frames, band_bytes, bytes });
        }
        least = least.min(bytes);
    }
    let what = if direction == Direction::Decode { "decoding" } else { "encoding" };
    Err(ModelError::Input(format!(
        "{what} {height}x{width} pixels takes at least {:.2} GB beside the weights, {:.2} GB are allowed; free memory, raise the budget or choose \
         a smaller size",
        least as f64 / 1e9,
        budget as f64 / 1e9
    )))
}

/// The minimum memory in which it works without a budget, spare memory included.
pub(super) fn least(count: &dyn Fn(Cut) -> Result<usize>) -> Result<usize> {
    let mut least = usize::MAX;
    for (frames, band_bytes) in CUTS {
        least = least.min(count(Cut { frames, band_bytes, bytes: 0 })?);
    }
    Ok((least.div_ceil(SPARE - 1) + 1) * SPARE)
}
