//! A generated video: what it consists of, its metadata, and writing it.

use std::ops::ControlFlow;

use super::error::PipelineError;
use super::report::{Report, schedule_strip};
use super::settings::Settings;
use crate::media::{Encoding, Format, Frames, Latents, Metadata, Output};
use crate::model::Progress;

/// Frames that are decoded just now.
#[derive(Clone, Copy, Debug)]
pub struct Decoded<'a> {
    /// Decoded frames of all videos so far.
    pub done: usize,
    /// Frames of all videos.
    pub all: usize,
    /// The video of the new ones.
    pub video: usize,
    /// The new ones, `[frames, height, width, 3]`; empty while the end of a part of a long video is encoded again.
    pub pixels: &'a [u8],
}

/// Takes decoded frames, and returns whether to go on.
pub type OnFrame<'a> = &'a mut dyn FnMut(&Decoded<'_>) -> ControlFlow<()>;

/// A generated video.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Final latents.
    pub latents: Latents,
    /// The decoded video, if requested.
    pub frames: Option<Frames>,
    /// The report of the run.
    pub report: Report,
    /// The reports of the further parts of a long video ([`Pipeline::generate_long`](super::Pipeline::generate_long)).
    pub later: Vec<Report>,
    /// Every measurement of the (first) run, for replaying policies offline.
    pub trace: crate::cache::trace::Trace,
}

impl Generation {
    /// The metadata written into the output. It holds no times, so that equal runs give equal files.
    pub fn metadata(&self) -> Metadata {
        let r = &self.report;
        // Of a long video one for each part.
        let each = |fact: &dyn Fn(&Report) -> String| {
            std::iter::once(r).chain(&self.later).map(fact).collect::<Vec<_>>().join(" ")
        };
        let facts = [
            ("model", r.model.clone()),
            ("seed", r.seed.to_string()),
            ("steps", r.steps.to_string()),
            ("computed", each(&|r| r.computed_steps.len().to_string())),
            ("cache", r.cache.clone()),
            ("schedule", each(&|r| schedule_strip(r.steps, &r.computed_steps, &r.partial_steps))),
            ("cfg_scale", r.cfg_scale.to_string()),
            ("dtype", r.dtype.clone()),
            ("preset", r.preset.clone().unwrap_or_default()),
            ("weights", r.weights.clone().unwrap_or_default()),
            ("program", r.program.clone()),
            ("size", format!("{}x{}", r.height, r.width)),
            ("frames", each(&|r| r.frames.to_string())),
            ("fps", r.fps.to_string()),
        ];
        Metadata {
            prompt: r.prompt.clone(),
            facts: facts
                .into_iter()
                .filter(|(_, fact)| !fact.is_empty())
                .map(|(name, fact)| (name.to_owned(), fact))
                .collect(),
            settings: r.settings.as_ref().map(Settings::to_json).unwrap_or_default(),
        }
    }

    /// Writes frames or latents, depending on the output's format.
    pub fn write(&self, output: &Output) -> Result<(), PipelineError> {
        self.write_telling(output, None, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`Generation::write`]. `begun` has taken all frames already, if it is there; `progress` is called with the encoded frames and
    /// their total, and may stop the work.
    ///
    /// # Errors
    /// As [`Output::write_frames_telling`] and [`Output::write_latents`]; pixels that were not decoded.
    pub fn write_telling(
        &self,
        output: &Output,
        begun: Option<Encoding>,
        progress: Progress<'_>,
    ) -> Result<(), PipelineError> {
        match output.format() {
            Format::Safetensors => output.write_latents(&self.latents, &self.metadata())?,
            _ => {
                let frames = self.frames.as_ref();
                let frames = frames.ok_or_else(|| {
                    PipelineError::Setting(format!("`{output}` needs pixels, and the latents were not decoded"))
                })?;
                output.write_frames_telling(frames, &self.metadata(), None, begun, progress)?;
            }
        }
        Ok(())
    }
}
