//! Open-Sora's prompts to embeddings, kept on disk; and the settings of its pipeline by the size of the video.

use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use super::{Checkpoint, Embedding, EncoderError, OPENSORA, Part, T5, VideoSize, prepare_prompt, t5};
use crate::model::vae::Progress;
use crate::model::{ModelError, StDiT3Config};
use crate::pipeline::prompt::{Prompt, PromptText, TextOptions};
use crate::pipeline::{PipelineConfig, PipelineError, write_file};

/// Frames per second of the model's videos, and what a single picture counts as.
const FPS: (f64, f64) = (24.0, 120.0);
/// Pixels on the side of the square that becomes one latent position.
const SIDE: usize = 8;
/// Frames below which only a single picture can be made: the published schedule shrinks to nothing.
const MIN_FRAMES: usize = 17;

/// The size of the published examples.
pub(in crate::pipeline) fn default_size() -> Result<VideoSize, PipelineError> {
    VideoSize::published("240p", "9:16", 51)
}

/// The pipeline's settings for videos of `size`, with prompts of at most `prompt_length` tokens.
///
/// # Errors
/// A number of frames for which the published pipeline has no schedule.
pub(in crate::pipeline) fn pipeline_config(
    size: VideoSize,
    prompt_length: usize,
) -> Result<PipelineConfig, PipelineError> {
    let VideoSize { frames, height, width } = size;
    if (2..MIN_FRAMES).contains(&frames) {
        return Err(PipelineError::Setting(format!(
            "{frames} frames: {OPENSORA} makes 1 frame (a picture) or at least {MIN_FRAMES}"
        )));
    }
    let latent = size.latent();
    Ok(PipelineConfig {
        name: OPENSORA.into(),
        vocabulary: vec![],
        prompt_length,
        latent,
        video_frames: Some(frames),
        // Of the published sizes some are no multiples of a latent position's side: the rest is not made.
        height: latent[1] * SIDE,
        width: latent[2] * SIDE,
        fps: if frames == 1 { FPS.1 } else { FPS.0 },
        timestep_shift: size.timestep_shift(),
        default_steps: 30,
        default_cfg_scale: 7.0,
        resolution: Some((rounded(height as f64) * rounded(width as f64)).sqrt()),
    })
}

/// To bf16: the published pipeline holds sizes in it, and calculates with them in it.
fn rounded(value: f64) -> f64 {
    bf16::from_f64(value).to_f64()
}

impl VideoSize {
    /// The ratio by which Open-Sora bends its timesteps: √(height·width/512²) · √(⌊frames/17⌋·5), the second factor 1 for one frame;
    /// rounded as published after every operation.
    pub fn timestep_shift(&self) -> f64 {
        let VideoSize { frames, height, width } = *self;
        let area = rounded(rounded(height as f64) * rounded(width as f64));
        let space = rounded(rounded(area / (512.0 * 512.0)).sqrt());
        let chunks = (rounded(frames as f64) / 17.0).floor();
        let time = if frames == 1 { 1.0 } else { rounded(rounded(rounded(chunks) * 5.0).sqrt()) };
        rounded(space * time)
    }
}

/// The embeddings of prompts, from the folder where they are kept, or by the encoder.
pub(in crate::pipeline) fn embed(
    checkpoint: &Checkpoint,
    model: &StDiT3Config,
    prompts: &[PromptText],
    options: &TextOptions,
    progress: Progress<'_>,
) -> Result<Vec<Prompt>, PipelineError> {
    options.scores.check()?;
    let (channels, most) = (model.caption_channels, model.model_max_length);
    let encoder = t5::fingerprint(checkpoint)?;
    let mut loaded = None;
    let mut embedding = |prompt: &PromptText| -> Result<Prompt, PipelineError> {
        let text = prepare_prompt(&prompt.to_string(), &options.scores);
        let path = kept(checkpoint, &encoder, most, &text);
        // A damaged file is no reason to stop: it is made again.
        if let Ok(embedding) = Embedding::open(&path, channels, most) {
            return Ok(Prompt::new(prompt.clone(), embedding));
        }
        let t5 = match &mut loaded {
            Some(t5) => t5,
            none => none.insert(load(checkpoint, channels, most)?),
        };
        let embedding = t5.encode(&text)?;
        if let Err(error) = keep(&path, &embedding) {
            tracing::warn!("the embedding of `{text}` is not kept: {error}");
        }
        Ok(Prompt::new(prompt.clone(), embedding))
    };
    let mut embedded = vec![];
    for prompt in prompts {
        if progress(embedded.len(), prompts.len()).is_break() {
            return Err(ModelError::Stopped.into());
        }
        embedded.push(embedding(prompt)?);
    }
    Ok(embedded)
}

fn load(checkpoint: &Checkpoint, channels: usize, most: usize) -> Result<T5, EncoderError> {
    let t5 = T5::load(checkpoint, most)?;
    if t5.channels() != channels {
        return Err(EncoderError::File {
            file: checkpoint.file(Part::Text, "config.json"),
            reason: format!("d_model is {}, and the transformer takes captions of {channels} channels", t5.channels()),
        });
    }
    Ok(t5)
}

/// Where the embedding of a prepared prompt is kept: by the prompt and the encoder that reads it.
fn kept(checkpoint: &Checkpoint, encoder: &[u8], most: usize, text: &str) -> PathBuf {
    let hash = Sha256::new().chain_update(encoder).chain_update(most.to_le_bytes()).chain_update(text).finalize();
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    checkpoint.folder().join("embeddings").join(name + ".safetensors")
}

fn keep(path: &Path, embedding: &Embedding) -> Result<(), Box<dyn std::error::Error>> {
    let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![embedding.tokens, embedding.values.len() / embedding.tokens];
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(write_file(path, &safetensors::serialize([(Embedding::TENSOR, view)], None)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_are_rounded_to_bf16() {
        let config = |r, f| pipeline_config(VideoSize::published(r, "9:16", f).unwrap(), 300).unwrap();
        // 480×854: 854 lies half between 852 and 856 and becomes 856; 480·856 = 410880 → 411648; /512² → 1.5703125;
        // its root 1.2531… → 1.25; √15 = 3.87… → 3.875; the product 4.84375 has 8 bits.
        let c = config("480p", 51);
        assert_eq!(c.timestep_shift, 4.84375);
        assert_eq!(c.resolution(), (480.0f64 * 856.0).sqrt());
        assert_eq!((c.latent, c.fps), ([15, 60, 106], 24.0));
        // One frame is a picture.
        assert_eq!((config("480p", 1).timestep_shift, config("480p", 1).fps), (1.25, 120.0));
        let error = |frames| pipeline_config(VideoSize::new(frames, 240, 424).unwrap(), 300).unwrap_err().to_string();
        assert!(error(2).contains("2 frames") && error(16).contains("at least 17"));
        assert_eq!(pipeline_config(VideoSize::new(17, 240, 424).unwrap(), 300).unwrap().latent, [5, 30, 53]);
        assert_eq!(pipeline_config(VideoSize::new(408, 720, 1280).unwrap(), 300).unwrap().latent, [120, 90, 160]);
    }
}
