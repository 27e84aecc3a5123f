//! Given frames: pictures, videos and latents that a video starts from or goes on from.

use adacache::family;
use adacache::media::{Frames, Latents, Media};
use adacache::pipeline::{FrameInputs, Given, Looping, MaskStrategy, ModelSource, Pipeline, PipelineError};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::{Args, target};
use crate::{interrupt, log};

/// What is given of the videos besides their prompts.
pub(super) struct Conditions {
    pub(super) references: Vec<Media>,
    strategy: MaskStrategy,
    pub(super) looping: Looping,
}

impl Conditions {
    /// What a video depends on of all this: `None`, if nothing is given and it has one part.
    pub(super) fn facts(&self) -> Option<Value> {
        let Conditions { references, strategy, looping } = self;
        if references.is_empty() && looping.parts == 1 {
            return None;
        }
        let hash = |media: &Media| match media {
            Media::Frames(frames) => frames.hash(),
            Media::Latents(latents) => latents.hash(),
        };
        Some(json!({
            "references": references.iter().map(hash).collect::<Vec<_>>(), "places": strategy.to_string(),
            "parts": looping.parts, "overlap": looping.overlap, "edit": looping.edit,
        }))
    }

    pub(super) fn need_the_autoencoder(&self) -> bool {
        self.looping.parts > 1 || self.references.iter().any(|media| matches!(media, Media::Frames(_)))
    }
}

/// Reads what is given, and checks that it fits where the strategy puts it.
pub(super) fn conditions(args: &Args, source: &ModelSource) -> anyhow::Result<Conditions> {
    let looping = Looping::new(usize::from(args.parts));
    let looping = Looping {
        overlap: args.loop_frames.unwrap_or(looping.overlap),
        edit: args.loop_edit.unwrap_or(looping.edit),
        ..looping
    };
    check_inputs(args, source)?;
    looping.check(source.config())?;
    let files = if args.image.is_empty() { &args.reference } else { &args.image };
    let references = files.iter().map(|file| Media::read(file)).collect::<Result<Vec<_>, _>>()?;
    for (file, media) in args.image.iter().zip(&references) {
        let what = match media {
            Media::Frames(frames) if frames.count() == 1 => continue,
            Media::Frames(frames) => format!("a video of {} frames", frames.count()),
            Media::Latents(_) => "latents".into(),
        };
        bail!("--image {} is {what}, not a picture: give it as --reference, with a --mask-strategy", file.display());
    }
    let fps = source.config().fps;
    for (file, media) in args.reference.iter().zip(&references) {
        let Media::Frames(frames) = media else { continue };
        if frames.count() > 1 && !file.is_dir() && (frames.fps - fps).abs() > 0.01 * fps {
            let words = format!(
                "{} has {:.2} frames a second, the video {fps}: its frames are taken one by one, so it plays {:.2} times as fast",
                file.display(),
                frames.fps,
                fps / frames.fps
            );
            log::say("warning", &words);
        }
    }
    let channels = source.shape().channels;
    let [frames, height, width] = source.config().latent;
    let strategy = match args.image.len() {
        0 if references.is_empty() => MaskStrategy::default(),
        0 => args.mask_strategy.clone(),
        count => MaskStrategy::pictures(count, frames)?,
    };
    let shape = |media: &Media| match media {
        Media::Latents(latents) => Ok(latents.shape),
        // As large as the video, once it is encoded.
        Media::Frames(given) => Ok([channels, source.latent_frames(given.count())?, height, width]),
    };
    let shapes: Vec<[usize; 4]> = references.iter().map(shape).collect::<Result<_, PipelineError>>()?;
    strategy.check(&shapes, [channels, frames, height, width], looping.parts)?;
    Ok(Conditions { references, strategy, looping })
}

/// Rejects given frames that the model takes none of.
fn check_inputs(args: &Args, source: &ModelSource) -> anyhow::Result<()> {
    let takes = source.inputs().frames;
    let used = [
        ("--image", !args.image.is_empty(), FrameInputs::First),
        ("--reference", !args.reference.is_empty(), FrameInputs::Any),
        ("--loop", args.parts > 1, FrameInputs::Any),
    ];
    let refused = |(_, used, needs): &&(&str, bool, FrameInputs)| {
        *used && takes != FrameInputs::Any && (*needs == FrameInputs::Any || takes == FrameInputs::None)
    };
    if let Some((option, _, needs)) = used.iter().find(refused) {
        let known = match needs {
            FrameInputs::Any => family::that_take(|inputs| inputs.frames == FrameInputs::Any),
            _ => family::that_take(|inputs| inputs.frames != FrameInputs::None),
        };
        bail!("{option} is for {known}: {} was not trained to continue such frames", args.model);
    }
    if takes == FrameInputs::First && args.image.len() > 1 {
        bail!("{} images: {} takes one, which the video begins with", args.image.len(), args.model);
    }
    Ok(())
}

/// The frames that are given, as latents.
pub(super) fn given(pipeline: &Pipeline, conditions: Conditions, quiet: bool) -> anyhow::Result<Option<Given>> {
    let Conditions { references, strategy, .. } = conditions;
    if references.is_empty() {
        return Ok(None);
    }
    let videos: Vec<&Frames> = references
        .iter()
        .filter_map(|media| if let Media::Frames(frames) = media { Some(frames) } else { None })
        .collect();
    let mut encoded = vec![].into_iter();
    if !videos.is_empty() {
        let bar = ProgressBar::with_draw_target(None, target(quiet));
        bar.set_style(ProgressStyle::with_template("{spinner} encoding frame {pos}/{len}  {elapsed}")?);
        let result = pipeline.encode(&videos, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            interrupt::go_on()
        });
        bar.finish_and_clear();
        encoded = result.context("cannot encode what is given")?.into_iter();
    }
    let references: Option<Vec<Latents>> = references
        .into_iter()
        .map(|media| match media {
            Media::Frames(_) => encoded.next(),
            Media::Latents(latents) => Some(latents),
        })
        .collect();
    Ok(references.map(|references| Given { references, strategy, part: 0 }))
}
