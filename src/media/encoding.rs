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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disc that moves, in more frames than two groups of pictures have.
    fn clip() -> Frames {
        let pixel = |t: usize, y: usize, x: usize| {
            let inside = (x as f64 - 3.0 - 0.5 * t as f64).hypot(y as f64 - 12.0) < 6.0;
            if inside { [230, 38, 38] } else { [(x * 5) as u8, (y * 5) as u8, 90] }
        };
        let rgb = (0..60 * 24 * 32).flat_map(|i| pixel(i / (24 * 32), i / 32 % 24, i % 32)).collect();
        Frames { width: 32, height: 24, fps: 24.0, rgb }
    }

    #[test]
    fn frames_that_come_piece_by_piece_make_the_same_file() {
        let (dir, frames) = (tempfile::tempdir().unwrap(), clip());
        let output = |name: &str| Output::new(dir.path().join(name)).unwrap();
        let metadata = Metadata { prompt: "a disc".into(), ..Metadata::default() };
        output("whole.mp4").write_frames(&frames, &metadata, None).unwrap();
        let whole = std::fs::read(dir.path().join("whole.mp4")).unwrap();
        for pieces in [1, 7, 24, 25, 60] {
            let like = Frames { rgb: vec![], ..frames };
            let mut begun = output("parts.mp4").begin(&like, None).unwrap();
            for rgb in frames.rgb.chunks(pieces * 32 * 24 * 3) {
                begun.as_mut().unwrap().push(rgb);
            }
            let mut told = vec![];
            let mut tell = |done, all| {
                told.push((done, all));
                ControlFlow::Continue(())
            };
            output("parts.mp4").write_frames_telling(&frames, &metadata, None, begun, &mut tell).unwrap();
            assert!(std::fs::read(dir.path().join("parts.mp4")).unwrap() == whole, "{pieces} at a time");
            assert!(told.is_sorted() && told.last() == Some(&(60, 60)), "{told:?}");
        }
        // One that has not had all of the frames is of no use.
        let mut begun = output("parts.mp4").begin(&frames, None).unwrap();
        begun.as_mut().unwrap().push(&frames.rgb[..32 * 24 * 3]);
        let mut go_on = |_, _| ControlFlow::Continue(());
        output("parts.mp4").write_frames_telling(&frames, &metadata, None, begun, &mut go_on).unwrap();
        assert!(std::fs::read(dir.path().join("parts.mp4")).unwrap() == whole);
        assert!(output("a.gif").begin(&frames, None).unwrap().is_none());
        let large = Frames { width: 5000, ..clip() };
        assert!(matches!(output("b.mp4").begin(&large, None), Err(OutputError::Encode { .. })));
    }

    #[test]
    fn encoding_can_be_stopped_and_leaves_nothing() {
        let (dir, frames) = (tempfile::tempdir().unwrap(), clip());
        for name in ["a.mp4", "a.gif", "a/"] {
            let output = Output::new(dir.path().join(name)).unwrap();
            let mut stop = |_, _| ControlFlow::Break(());
            let stopped = output.write_frames_telling(&frames, &Metadata::default(), None, None, &mut stop);
            assert!(matches!(stopped, Err(OutputError::Stopped)), "{name}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
        }
    }
}
