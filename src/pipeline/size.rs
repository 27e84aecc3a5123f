//! The size of a video, in pixels.

use super::error::PipelineError;

/// Frames of the longest published video of any model.
const MAX_FRAMES: usize = 408;
/// The minimum and maximum side in pixels; the minimum is one latent position.
const SIDES: (usize, usize) = (8, 8192);

/// The size of one video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoSize {
    /// Frames.
    pub frames: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl VideoSize {
    /// A custom size.
    ///
    /// # Errors
    /// A side shorter than one latent position, or no or too many frames.
    pub fn new(frames: usize, height: usize, width: usize) -> Result<VideoSize, PipelineError> {
        if !(1..=MAX_FRAMES).contains(&frames) {
            return Err(PipelineError::Setting(format!("{frames} frames: give 1 to {MAX_FRAMES}")));
        }
        for (name, side) in [("height", height), ("width", width)] {
            if !(SIDES.0..=SIDES.1).contains(&side) {
                return Err(PipelineError::Setting(format!("{name} {side}: give {} to {} pixels", SIDES.0, SIDES.1)));
            }
        }
        Ok(VideoSize { frames, height, width })
    }

    /// Parses the sides in `HEIGHTxWIDTH`.
    ///
    /// # Errors
    /// Any other text.
    pub fn sides(text: &str) -> Result<[usize; 2], PipelineError> {
        let sides = text.split_once(['x', '×']).and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
        let (height, width) = sides.ok_or_else(|| {
            PipelineError::Setting(format!("size `{text}`: write HEIGHTxWIDTH in pixels, as in 720x1280"))
        })?;
        Ok([height, width])
    }
}
