//! Encoding of given pixels, and long videos, made in parts that each begin with the end of the previous one.

use std::ops::ControlFlow;

use super::conditioning::{Given, MaskStrategy};
use super::error::PipelineError;
use super::fit::fitted;
use super::generate::Pipeline;
use super::generation::{Decoded, Generation, OnFrame};
use super::job::Deciding;
use super::request::Request;
use super::source::PipelineConfig;
use crate::media::{Frames, Latents};
use crate::model::Progress;
use crate::model::vae::CHUNK;
use crate::sampler::StepEvent;

/// How a long video is divided into parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Looping {
    /// The number of parts, each a video of the model's size.
    pub parts: usize,
    /// Latent frames that a part takes over from the end of the previous one.
    pub overlap: usize,
    /// The share of their content that is regenerated: 0 keeps them, 1 would replace them.
    pub edit: f32,
}

impl Looping {
    /// The published defaults: 5 latent frames (17 frames), kept.
    pub fn new(parts: usize) -> Looping {
        Looping { parts, overlap: CHUNK.1, edit: 0.0 }
    }

    /// Checks that a video of `config`'s size can be continued in this way.
    ///
    /// # Errors
    /// Parts whose end is not on a chunk boundary, or that would contain nothing new.
    pub fn check(&self, config: &PipelineConfig) -> Result<(), PipelineError> {
        let frames = config.frames();
        let reason = match self {
            Looping { parts: 0, .. } => "a video has at least 1 part".to_owned(),
            Looping { parts: 1, .. } => return Ok(()),
            _ if config.video_frames.is_none() || !frames.is_multiple_of(CHUNK.0) => format!(
                "parts of {frames} frames cannot be looped on: their frames have to be a multiple of {}, as in --frames 51",
                CHUNK.0
            ),
            Looping { overlap, .. } if *overlap == 0 || !overlap.is_multiple_of(CHUNK.1) => format!(
                "{overlap} latent frames from the part before: give a multiple of {}, which is {} frames",
                CHUNK.1, CHUNK.0
            ),
            Looping { overlap, .. } if *overlap >= config.latent[0] => format!(
                "{overlap} latent frames from the part before in parts of {}: nothing is left to generate; give fewer, or more --frames",
                config.latent[0]
            ),
            Looping { edit, .. } if !(0.0..=1.0).contains(edit) => format!("an edit of {edit}: give 0 to 1"),
            _ => return Ok(()),
        };
        Err(PipelineError::Setting(reason))
    }

    /// The frames of the overlap.
    fn frames(&self) -> usize {
        self.overlap / CHUNK.1 * CHUNK.0
    }
}

impl Pipeline {
    /// Encodes pictures and videos to latents for [`Given`], after scaling them to the size of the video (filled, the rest cut off on both
    /// sides; frames that have the size of the pipeline's own videos stay unchanged). `progress` is called with the encoded frames and the
    /// total.
    ///
    /// # Errors
    /// A model without a video autoencoder; its files are missing or damaged; out of memory; `progress` asked to stop.
    pub fn encode(&self, videos: &[&Frames], progress: Progress<'_>) -> Result<Vec<Latents>, PipelineError> {
        let config = self.config();
        let autoencoder = self.autoencoder(self.device())?;
        let (size, kept) = (self.source().picture_size(), [config.height, config.width]);
        let all: usize = videos.iter().map(|frames| frames.count()).sum();
        let mut before = 0;
        let encode = |frames: &&Frames| {
            frames.check().map_err(PipelineError::Setting)?;
            let count = frames.count();
            let mut told = |done, _: usize| -> ControlFlow<()> { progress(before + done, all) };
            let pixels = fitted(frames, size, kept);
            let (values, shape) = autoencoder.encode(&pixels, [3, count, kept[0], kept[1]], &mut told)?;
            before += count;
            Ok(Latents { shape, values })
        };
        videos.iter().map(encode).collect()
    }

    /// Generates long videos: each part but the first begins with the last frames of the previous one, re-encoded by the autoencoder, and
    /// part `i` begins with the noise of seed + i. Frames that two parts share appear once in the results.
    ///
    /// `on_step` and `on_frame` are called for the parts in order, `on_frame` also for encoded frames.
    ///
    /// # Errors
    /// As [`Looping::check`], [`Pipeline::encode`] and [`Pipeline::generate_telling`].
    pub fn generate_long(
        &self,
        requests: &[Request],
        deciding: Deciding,
        looping: &Looping,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
        on_frame: OnFrame<'_>,
    ) -> Result<Vec<Generation>, PipelineError> {
        looping.check(self.config())?;
        let mut parts: Vec<Request> = requests.to_vec();
        let mut videos: Vec<Generation> = vec![];
        for part in 0..looping.parts {
            let last = part + 1 == looping.parts;
            for (i, (request, asked)) in parts.iter_mut().zip(requests).enumerate() {
                // The next part begins with pixels.
                request.decode = asked.decode || !last;
                request.seed = asked.seed.wrapping_add(part as u64);
                if let Some(given) = &mut request.given {
                    given.part = part;
                }
                let Some(before) = videos.get(i).and_then(|video| video.frames.as_ref()) else { continue };
                let end = &before.rgb[(before.count() - looping.frames()) * before.width * before.height * 3..];
                let end = Frames { rgb: end.to_vec(), ..*before };
                let latents = self
                    .encode(&[&end], &mut |done, all| on_frame(&Decoded { done, all, video: 0, pixels: &[] }))?
                    .swap_remove(0);
                let given = asked.given.clone();
                let mut given = given.unwrap_or(Given { references: vec![], strategy: MaskStrategy::default(), part });
                given.part = part;
                given.strategy = given.strategy.continued(part, given.references.len(), looping.overlap, looping.edit);
                given.references.push(latents);
                request.given = Some(given);
            }
            let made = self.generate_telling(&parts, deciding, on_step, on_frame)?;
            if videos.is_empty() {
                videos = made;
                continue;
            }
            videos.iter_mut().zip(made).for_each(|(video, part)| video.append(part, looping));
        }
        for (video, asked) in videos.iter_mut().zip(requests) {
            video.frames = video.frames.take().filter(|_| asked.decode);
        }
        Ok(videos)
    }
}

impl Generation {
    /// Appends the next part, without the frames it took over.
    fn append(&mut self, next: Generation, looping: &Looping) {
        let [channels, frames, height, width] = self.latents.shape;
        let (plane, added) = (height * width, next.latents.shape[1] - looping.overlap);
        let mut values = Vec::with_capacity(channels * (frames + added) * plane);
        for channel in 0..channels {
            values.extend(&self.latents.values[channel * frames * plane..][..frames * plane]);
            let start = (channel * next.latents.shape[1] + looping.overlap) * plane;
            values.extend(&next.latents.values[start..][..added * plane]);
        }
        self.latents = Latents { shape: [channels, frames + added, height, width], values };
        if let (Some(frames), Some(next)) = (&mut self.frames, next.frames) {
            frames.rgb.extend(&next.rgb[looping.frames() * next.width * next.height * 3..]);
        }
        self.later.push(next.report);
    }
}
