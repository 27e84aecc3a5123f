//! The destination of a result; its extension determines the format.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::OutputError;
use super::frames::{Latents, Metadata};
use super::staging::{Folders, Staged};
use super::{latents, png, settings};

/// The format given by an output path's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// H.264 (Constrained Baseline, 4:2:0, BT.709) in MP4.
    Mp4,
    /// Animated GIF, looping, one palette.
    Gif,
    /// A folder of `frame_0000.png` …, lossless, at the model's own resolution.
    PngFolder,
    /// The final latents, undecoded.
    Safetensors,
}

/// The destination of a result, and its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    path: PathBuf,
    format: Format,
}

impl Output {
    /// Derives the format from the path: `.mp4`, `.gif`, `.safetensors`, or a trailing `/`.
    pub fn new(path: impl AsRef<Path>) -> Result<Output, OutputError> {
        let path = path.as_ref();
        let text = path.as_os_str().to_string_lossy();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let format = match ending.as_deref() {
            _ if text.ends_with(std::path::is_separator) => Format::PngFolder,
            Some("mp4") => Format::Mp4,
            Some("gif") => Format::Gif,
            Some("safetensors") => Format::Safetensors,
            _ => return Err(OutputError::UnknownFormat(path.to_owned())),
        };
        Ok(Output { path: path.to_owned(), format })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether a finished result already exists at the path.
    pub fn is_finished(&self) -> bool {
        match self.format {
            Format::PngFolder => png::is_frames_folder(&self.path),
            _ => self.path.is_file(),
        }
    }

    /// The settings in the metadata of the result at the path, as [`Metadata::settings`] was when it was written; `None` if it holds none
    /// or cannot be read.
    pub fn settings(&self) -> Option<String> {
        match self.format {
            Format::Mp4 => settings::mp4(&self.path),
            Format::Gif => settings::gif(&self.path),
            Format::PngFolder => settings::png(&self.path),
            Format::Safetensors => settings::safetensors(&self.path),
        }
    }

    /// Makes the folders of the output that are missing, for as long as the result lives; those with something in them then stay.
    ///
    /// # Errors
    /// A folder that cannot be made; those made before it are removed.
    pub fn make_folders(&self) -> Result<Folders, OutputError> {
        Folders::make(&self.path)
    }

    /// Checks, before anything expensive, whether the output can be written: it creates and removes a temporary file beside it, and the
    /// folders that are missing.
    pub fn check_writable(&self) -> Result<(), OutputError> {
        let _folders = self.make_folders()?;
        match self.format {
            Format::PngFolder => {
                png::check_replaceable(&self.path)?;
                drop(Staged::folder(&self.path)?);
            }
            _ => drop(Staged::file(&self.path)?),
        }
        Ok(())
    }

    /// Writes the latents as a safetensors file with one tensor, `latents`. Missing folders are made. Equal latents and metadata give equal bytes.
    pub fn write_latents(&self, latents: &Latents, metadata: &Metadata) -> Result<(), OutputError> {
        if self.format != Format::Safetensors {
            return Err(OutputError::Encode { path: self.path.clone(), problem: "latents need .safetensors".into() });
        }
        let bytes = latents::serialize(latents, metadata)
            .map_err(|problem| OutputError::Encode { path: self.path.clone(), problem })?;
        let _folders = self.make_folders()?;
        Staged::file(&self.path)?.commit_bytes(&bytes)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Writes `bytes` to `path` through a temporary file and a rename.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    Staged::file(path)?.commit_bytes(bytes)
}

/// Checks whether a file can be written at `path`; nothing is left there.
pub fn check_file_writable(path: &Path) -> Result<(), OutputError> {
    Staged::file(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Frames;

    #[test]
    fn formats_follow_the_ending() {
        for (path, format) in [
            ("a.mp4", Format::Mp4),
            ("b/A.GIF", Format::Gif),
            ("x/", Format::PngFolder),
            ("x.mp4/", Format::PngFolder),
            ("z.safetensors", Format::Safetensors),
        ] {
            assert_eq!(Output::new(path).unwrap().format(), format, "{path}");
        }
        for path in ["", "mp4", "a.webm", ".mp4"] {
            assert!(matches!(Output::new(path), Err(OutputError::UnknownFormat(_))), "{path}");
        }
    }

    #[test]
    fn enlarging_repeats_pixels() {
        let frames = Frames { width: 2, height: 1, fps: 8.0, rgb: vec![1, 2, 3, 4, 5, 6] };
        let large = frames.enlarged(2);
        assert_eq!((large.width, large.height, large.count()), (4, 2, 1));
        let line = [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6];
        assert_eq!(large.rgb, [line, line].concat());
        assert_eq!(Frames { width: 64, height: 64, ..frames.clone() }.viewing_scale(), 4);
        assert_eq!(Frames { width: 640, height: 480, ..frames }.viewing_scale(), 1);
    }

    #[test]
    fn nonsense_frames_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let good = Frames { width: 2, height: 2, fps: 8.0, rgb: vec![0; 24] };
        let output = Output::new(dir.path().join("x.mp4")).unwrap();
        for bad in [
            Frames { width: 0, ..good.clone() },
            Frames { rgb: vec![], ..good.clone() },
            Frames { rgb: vec![0; 25], ..good.clone() },
            Frames { fps: f64::NAN, ..good.clone() },
            Frames { fps: 0.0, ..good.clone() },
            Frames { width: usize::MAX, ..good.clone() },
        ] {
            assert!(matches!(output.write_frames(&bad, &Metadata::default(), None), Err(OutputError::Encode { .. })));
        }
        assert!(output.write_frames(&good, &Metadata::default(), Some(0)).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "failures leave nothing");
        output.write_frames(&good, &Metadata::default(), None).unwrap();
        assert!(output.is_finished());
        // Folders are made for what is written, and for nothing else.
        for name in ["new/er/x.gif", "other/frames/"] {
            let output = Output::new(format!("{}/{name}", dir.path().display())).unwrap();
            output.check_writable().unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), if name.starts_with("new") { 1 } else { 2 });
            output.write_frames(&good, &Metadata::default(), None).unwrap();
            assert!(output.is_finished(), "{name}");
        }
    }
}
