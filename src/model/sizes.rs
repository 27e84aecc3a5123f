//! Sizes of a transformer, of a generation, of its work and of its weights.

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransformerShape {
    /// Channels of the latents.
    pub channels: usize,
    /// Latent frames that one token spans.
    pub patch_frames: usize,
    /// Width of a caption token.
    pub caption_channels: usize,
    /// Maximum number of caption tokens.
    pub caption_tokens: usize,
}

/// Sizes of one generation. Latent sizes that are not multiples of the patch are padded with zeros on the right and bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// The number of videos generated together.
    pub videos: usize,
    /// Whether every video runs twice, conditionally and unconditionally.
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
    /// Whether single frames may be frozen at their clean values (x_mask).
    pub frame_masked: bool,
}

impl Geometry {
    /// `videos` videos of `latent` (frames, height, width), with guidance and no frozen frames.
    pub fn guided(videos: usize, latent: [usize; 3], resolution: f64, fps: f32) -> Geometry {
        let [frames, height, width] = latent;
        Geometry { videos, guided: true, frames, height, width, resolution, fps, frame_masked: false }
    }

    /// Samples in a forward pass.
    pub fn batch(&self) -> usize {
        self.videos * if self.guided { 2 } else { 1 }
    }

    /// The number of times per sample: the step's, and time 0 with a frame mask.
    pub fn variants(&self) -> usize {
        if self.frame_masked { 2 } else { 1 }
    }

    /// The number of times per forward pass.
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

/// Bytes of a model's weights, by location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// On the device for the lifetime of the model, room for streamed blocks included.
    pub resident: usize,
    /// In host memory, copied to the device in every computed step.
    pub streamed: usize,
    /// The weights of one block; if they differ, of the largest.
    pub block: usize,
    /// The weights of all blocks, wherever they are.
    pub blocks: usize,
    /// The weights outside the blocks, part of the resident ones.
    pub ends: usize,
}
