//! Sizes of a transformer, of a generation, of its work and of its weights.

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransformerShape {
    /// Channels of the latents.
    pub channels: usize,
    /// Latent frames that one token spans.
    pub patch_frames: usize,
    /// Width of a caption's token.
    pub caption_channels: usize,
    /// Tokens of a caption at most.
    pub caption_tokens: usize,
}

/// Sizes of one generation. Latent sizes that are no multiple of the patch are padded with zeros on the right and bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Videos generated together.
    pub videos: usize,
    /// Whether every video runs twice, conditional and unconditional.
    pub guided: bool,
    /// Latent frames.
    pub frames: usize,
    /// Latent height.
    pub height: usize,
    /// Latent width.
    pub width: usize,
    /// √(height · width) of the video in pixels: scales the position embedding.
    pub resolution: f64,
    /// Frames per second of the video, a conditioning input.
    pub fps: f32,
    /// Whether single frames may be frozen at their clean value (x_mask).
    pub frame_masked: bool,
}

impl Geometry {
    /// `videos` videos of `latent` (frames, height, width), with guidance and no frame held.
    pub fn guided(videos: usize, latent: [usize; 3], resolution: f64, fps: f32) -> Geometry {
        let [frames, height, width] = latent;
        Geometry { videos, guided: true, frames, height, width, resolution, fps, frame_masked: false }
    }

    /// Samples in a forward.
    pub fn batch(&self) -> usize {
        self.videos * if self.guided { 2 } else { 1 }
    }

    /// Times of one sample: the step's, and with a frame mask time 0.
    pub fn variants(&self) -> usize {
        if self.frame_masked { 2 } else { 1 }
    }

    /// Times of a forward.
    pub fn conditions(&self) -> usize {
        self.batch() * self.variants()
    }
}

/// Multiply-add work of one step, counted as 2 FLOPs each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flops {
    /// A step that runs every block.
    pub computed: u64,
    /// A step that reuses the residuals.
    pub reused: u64,
}

/// Bytes of a model's weights, by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// On the device for as long as the model lives, room for streamed blocks included.
    pub resident: usize,
    /// In the host's memory: what every computed step copies to the device.
    pub streamed: usize,
    /// Those of one block.
    pub block: usize,
    /// Those outside the blocks, part of the resident ones.
    pub ends: usize,
}
