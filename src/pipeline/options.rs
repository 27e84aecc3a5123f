//! What a model is opened for.

use std::path::PathBuf;

use crate::model::LoraFile;
use crate::sampler::FlowSampler;

/// What a model is opened for: the size of the video, and how it is sampled. Anything left out is the model's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenOptions {
    /// Height and width in pixels.
    pub pixels: Option<[usize; 2]>,
    /// A published resolution, by name.
    pub resolution: Option<String>,
    /// A published aspect ratio, height to width.
    pub aspect: Option<String>,
    /// Frames.
    pub frames: Option<usize>,
    /// The sampler, of models that have several.
    pub sampler: Option<FlowSampler>,
    /// The timestep shift, of models that have a constant one.
    pub shift: Option<f64>,
    /// The number of caption tokens that a prompt is cut or padded to, of models that attend to padding.
    pub caption_tokens: Option<usize>,
    /// Noise levels from at most 1 down, one for each step, of models that have several samplers.
    pub sigmas: Option<Vec<f64>>,
    /// LoRAs to add to the weights, of models that take some.
    pub loras: Vec<LoraFile>,
    /// Whether the large products of the transformer's blocks are of e4m3, with one scale for each row: on a Hopper, with bf16 or f16.
    pub fp8_weights: bool,
    /// Whether to decode in the published tiles, which take less memory and change the picture, of models that have some.
    pub vae_tiling: bool,
    /// The file of a tiny autoencoder to decode with, of models that there are some for.
    pub tiny_vae: Option<PathBuf>,
}

impl OpenOptions {
    /// `frames` frames of `height` × `width` pixels.
    pub fn exactly(frames: usize, height: usize, width: usize) -> OpenOptions {
        OpenOptions { pixels: Some([height, width]), frames: Some(frames), ..OpenOptions::default() }
    }

    /// A published resolution with `frames` frames, 9:16.
    pub fn published(resolution: &str, frames: usize) -> OpenOptions {
        OpenOptions { resolution: Some(resolution.into()), frames: Some(frames), ..OpenOptions::default() }
    }
}
