//! Videos and latents in memory, and metadata about how they were made.

use sha2::{Digest, Sha256};

/// Pictures with a shorter side are enlarged in formats for viewing (see [`Frames::viewing_scale`]).
const VIEWING_SIDE: usize = 256;

/// A video in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames per second.
    pub fps: f64,
    /// `[frames, height, width, 3]`, full-range sRGB.
    pub rgb: Vec<u8>,
}

/// A video or picture as viewers show it, and what has to be said about how it was read.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) frames: Frames,
    pub(super) remarks: Vec<String>,
}

impl Frames {
    /// The number of frames.
    pub fn count(&self) -> usize {
        self.rgb.len().checked_div(self.width * self.height * 3).unwrap_or(0)
    }

    /// The frames one after the other, each `[height, width, 3]`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.rgb.chunks_exact((self.width * self.height * 3).max(1))
    }

    /// The integer enlargement that makes small pictures visible: the smallest that brings the shorter side to 256 pixels, at most 8; 1 for
    /// anything larger.
    pub fn viewing_scale(&self) -> usize {
        VIEWING_SIDE.div_ceil(self.width.min(self.height).max(1)).clamp(1, 8)
    }

    /// Every pixel repeated `scale` times in both directions.
    pub fn enlarged(&self, scale: usize) -> Frames {
        let mut rgb = Vec::with_capacity(self.rgb.len() * scale * scale);
        for line in self.rgb.chunks_exact((self.width * 3).max(1)) {
            let start = rgb.len();
            for pixel in line.chunks_exact(3) {
                for _ in 0..scale {
                    rgb.extend_from_slice(pixel);
                }
            }
            let end = rgb.len();
            for _ in 1..scale {
                rgb.extend_from_within(start..end);
            }
        }
        Frames { width: self.width * scale, height: self.height * scale, fps: self.fps, rgb }
    }

    /// The same rectangle of every frame.
    pub(super) fn cropped(&self, left: usize, top: usize, width: usize, height: usize) -> Frames {
        let lines = |frame: &[u8]| -> Vec<u8> {
            (top..top + height).flat_map(|y| &frame[(y * self.width + left) * 3..][..width * 3]).copied().collect()
        };
        Frames { width, height, fps: self.fps, rgb: self.iter().flat_map(lines).collect() }
    }

    /// SHA-256 of size and pixels, in hexadecimal.
    pub fn hash(&self) -> String {
        hex(Sha256::new_with_prefix(format!("{}x{} ", self.height, self.width)).chain_update(&self.rgb))
    }

    /// Checks that these are whole frames with a valid size and rate.
    pub(crate) fn check(&self) -> Result<(), String> {
        let pixels = self.width.checked_mul(self.height).and_then(|n| n.checked_mul(3)).unwrap_or(0);
        if pixels == 0 || self.rgb.is_empty() || !self.rgb.len().is_multiple_of(pixels) {
            return Err(format!("{} bytes are not whole frames of {}x{} RGB", self.rgb.len(), self.width, self.height));
        }
        if !(self.fps.is_finite() && (0.01..=1000.0).contains(&self.fps)) {
            return Err(format!("{} frames per second is not a frame rate", self.fps));
        }
        Ok(())
    }
}

/// Latents on the host, `[channels, frames, height, width]` in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    /// Channels, frames, height, width.
    pub shape: [usize; 4],
    /// Row-major values.
    pub values: Vec<f32>,
}

impl Latents {
    /// SHA-256 of shape and values, in hexadecimal.
    pub fn hash(&self) -> String {
        let hash = Sha256::new_with_prefix(format!("{:?} ", self.shape));
        hex(self.values.iter().fold(hash, |hash, value| hash.chain_update(value.to_le_bytes())))
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Metadata written into the file about how it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The prompt, used as the title.
    pub prompt: String,
    /// Further facts by name, in order: seed, steps, schedule …
    pub facts: Vec<(String, String)>,
    /// Everything that the content depends on, for programs; empty: not known. [`Output::settings`](super::Output::settings) reads it back.
    pub settings: String,
}

impl Metadata {
    /// The facts on one line: `seed 7; steps 14 of 30; …`.
    pub fn comment(&self) -> String {
        self.facts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("; ")
    }
}
