//! A video on its way to a file. H.264 begins while frames are still being made; other formats need them all.

use std::ops::ControlFlow;

use super::error::OutputError;
use super::frames::{Frames, Metadata};
use super::h264::{Gop, Sequence};
use super::output::{Format, Output};
use super::pool::{Failure, Pool};
use super::staging::Staged;
use super::{gif, mp4, png};
use crate::model::Progress;

/// An MP4 whose frames are encoded on other threads while more of them come.
pub struct Encoding {
    sequence: Sequence,
    pool: Pool<Gop>,
    /// Frames that wait for the rest of their group of pictures.
    waiting: Vec<u8>,
    frames: usize,
}

impl Encoding {
    fn new(frames: &Frames, scale: usize) -> Result<Encoding, String> {
        let sequence = Sequence::new(frames, scale)?;
        let work = sequence.clone();
        Ok(Encoding {
            sequence,
            pool: Pool::new(move |rgb, ticker| work.encode(rgb, ticker)),
            waiting: vec![],
            frames: 0,
        })
    }

    /// Takes the next whole frames, `[frames, height, width, 3]`.
    pub fn push(&mut self, rgb: &[u8]) {
        self.frames += rgb.len() / self.sequence.frame_bytes();
        self.waiting.extend_from_slice(rgb);
        let whole = self.sequence.gop_bytes();
        while self.waiting.len() >= whole {
            let rest = self.waiting.split_off(whole);
            self.pool.push(std::mem::replace(&mut self.waiting, rest));
        }
    }

    fn finish(mut self, metadata: &Metadata, progress: Progress<'_>) -> Result<Vec<u8>, Failure> {
        if !self.waiting.is_empty() {
            self.pool.push(std::mem::take(&mut self.waiting));
        }
        let video = self.sequence.video(self.pool.finish(self.frames, progress)?).map_err(Failure::Encode)?;
        Ok(mp4::mux(&video, metadata))
    }
}

impl Output {
    /// Begins a video of frames like `frames`, which may be none, enlarged `scale` times as by [`Output::write_frames`]. `None`: this
    /// format is encoded when all frames are there.
    ///
    /// # Errors
    /// A size that the format cannot hold.
    pub fn begin(&self, frames: &Frames, scale: Option<usize>) -> Result<Option<Encoding>, OutputError> {
        if self.format() != Format::Mp4 {
            return Ok(None);
        }
        let scale = scale.unwrap_or_else(|| frames.viewing_scale());
        Ok(Some(Encoding::new(frames, scale).map_err(|problem| self.failed(problem))?))
    }

    fn failed(&self, problem: String) -> OutputError {
        OutputError::Encode { path: self.path().to_owned(), problem }
    }

    /// Writes the frames, enlarged `scale` times (`None`: [`Frames::viewing_scale`] for MP4 and GIF, 1 for PNG). Missing folders are made.
    ///
    /// For [`Format::Safetensors`] this is an error: use [`Output::write_latents`].
    ///
    /// # Errors
    /// No whole frames, a size that the format cannot hold, a file that cannot be written.
    pub fn write_frames(&self, frames: &Frames, metadata: &Metadata, scale: Option<usize>) -> Result<(), OutputError> {
        self.write_frames_telling(frames, metadata, scale, None, &mut |_, _| ControlFlow::Continue(()))
    }

    /// As [`Output::write_frames`]; `begun` has all of the frames already, if the format has begun. `progress` is called with the encoded
    /// frames and their total, and may stop the work.
    ///
    /// # Errors
    /// As [`Output::write_frames`]; [`OutputError::Stopped`].
    pub fn write_frames_telling(
        &self,
        frames: &Frames,
        metadata: &Metadata,
        scale: Option<usize>,
        begun: Option<Encoding>,
        progress: Progress<'_>,
    ) -> Result<(), OutputError> {
        frames.check().map_err(|problem| self.failed(problem))?;
        let format = self.format();
        let scale = scale.unwrap_or(if format == Format::PngFolder { 1 } else { frames.viewing_scale() });
        if scale == 0 {
            return Err(self.failed("an enlargement of 0 leaves nothing".into()));
        }
        let failed = |failure| match failure {
            Failure::Stopped => OutputError::Stopped,
            Failure::Encode(problem) => self.failed(problem),
        };
        let _folders = self.make_folders()?;
        match format {
            Format::Mp4 => {
                let encoding = match begun.filter(|begun| begun.frames == frames.count()) {
                    Some(begun) => begun,
                    None => {
                        let mut all = Encoding::new(frames, scale).map_err(|problem| self.failed(problem))?;
                        all.push(&frames.rgb);
                        all
                    }
                };
                let bytes = encoding.finish(metadata, progress).map_err(failed)?;
                Staged::file(self.path())?.commit_bytes(&bytes)
            }
            Format::Gif => {
                let bytes = gif::encode(frames, scale, metadata, progress).map_err(failed)?;
                Staged::file(self.path())?.commit_bytes(&bytes)
            }
            Format::PngFolder => {
                png::check_replaceable(self.path())?;
                let files = png::encode(frames, scale, metadata, progress).map_err(failed)?;
                png::write(self.path(), &files)
            }
            Format::Safetensors => Err(self.failed("this is where latents go, not frames".into())),
        }
    }
}
