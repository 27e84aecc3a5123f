//! Reading of videos, pictures and latents: generated ones, and inputs of a generation.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::frames::{Frames, Latents};
use super::{demux, gif, h264, picture};
use crate::model::ModelError;

/// Why a video, a picture or latents cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A video or a picture.
    #[error("cannot read {}: {problem}", path.display())]
    Frames {
        /// The file or folder.
        path: PathBuf,
        /// The problem, and how to solve it.
        problem: String,
    },
    /// Latents.
    #[error(transparent)]
    Latents(#[from] ModelError),
}

/// The content of a file or folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Media {
    /// A video, or a picture as a video of one frame. Pictures have no frame rate: they count as one frame per second.
    Frames(Frames),
    /// Latents.
    Latents(Latents),
}

/// The supported formats.
const KINDS: &str = "a video is .mp4 (H.264), .gif, .webp or a folder of pictures, a picture .png, .jpg or .webp, latents are .safetensors";

impl Media {
    /// Reads a video (MP4 or MOV with H.264, GIF, WebP), a picture (PNG, JPEG, WebP), a folder of pictures of one size in name order, or a
    /// `.safetensors` file with one tensor `latents`. The content determines the format, not the name.
    ///
    /// MP4 is limited to the decoder's features: Baseline, Main and most of High profile, 8 bits, 4:2:0, no fields. Colours follow the
    /// stream or its container; if neither specifies them, they are BT.601 with limited range.
    ///
    /// # Errors
    /// Any other format (the error includes the command that converts a video); a damaged file, or pictures of several sizes.
    pub fn read(path: &Path) -> Result<Media, ReadError> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) && !path.is_dir() {
            return Ok(Media::Latents(Latents::open(path)?));
        }
        let frames = if path.is_dir() { folder(path) } else { file(path) };
        let frames = frames.and_then(|frames| frames.check().map(|()| frames));
        frames.map(Media::Frames).map_err(|problem| ReadError::Frames { path: path.to_owned(), problem })
    }
}

/// The pictures of a folder.
fn folder(folder: &Path) -> Result<Frames, String> {
    let entries = fs::read_dir(folder).map_err(|e| e.to_string())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let is_picture = |ending: &OsStr| ["png", "jpg", "jpeg", "webp"].iter().any(|e| ending.eq_ignore_ascii_case(e));
    files.retain(|file| file.extension().is_some_and(is_picture));
    files.sort();
    let mut video = Frames { width: 0, height: 0, fps: picture::STILL, rgb: vec![] };
    for (i, path) in files.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Frames { width, height, rgb, .. } = file(path).map_err(|problem| format!("{name}: {problem}"))?;
        if i > 0 && (width, height) != (video.width, video.height) {
            return Err(format!("{name} is {width}x{height}, those before it {}x{}", video.width, video.height));
        }
        (video.width, video.height) = (width, height);
        video.rgb.extend(rgb);
    }
    if files.is_empty() { Err("the folder holds no .png, .jpg or .webp files".into()) } else { Ok(video) }
}

/// A video or a picture, distinguished by its first bytes.
fn file(path: &Path) -> Result<Frames, String> {
    let bytes = fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        _ => e.to_string(),
    })?;
    match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => picture::png(&bytes),
        [0xFF, 0xD8, 0xFF, ..] => picture::jpeg(&bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => picture::webp(&bytes),
        [b'G', b'I', b'F', b'8', ..] => gif::decode(&bytes),
        file if demux::is_one(file) => demux::read(file)
            .and_then(|track| h264::decode(&track))
            .map_err(|problem| format!("{problem}; {}", conversion(path))),
        _ => Err(format!("unknown kind of file: {KINDS}; {}", conversion(path))),
    }
}

/// The command that converts an unsupported video.
fn conversion(path: &Path) -> String {
    let (file, stem) = (path.display(), path.file_stem().unwrap_or_default().to_string_lossy());
    format!(
        "if players show it, convert it: `ffmpeg -i {file} -c:v libx264 -profile:v main -pix_fmt yuv420p {stem}-h264.mp4`, or to a \
         folder of pictures: `mkdir {stem} && ffmpeg -i {file} {stem}/frame_%04d.png`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Metadata, Output};

    /// A disc that moves over a gradient.
    fn clip(width: usize, height: usize, count: usize) -> Frames {
        let mut rgb = vec![];
        for t in 0..count {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let inside = (x as f64 - 8.0 - 2.0 * t as f64).hypot(y as f64 - 12.0) < 7.0;
                rgb.extend(if inside { [230, 60, 40] } else { [40 + 2 * x as u8, 40 + 3 * y as u8, 120] });
            }
        }
        Frames { width, height, fps: 8.0, rgb }
    }

    fn written(frames: &Frames, name: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        Output::new(&path).unwrap().write_frames(frames, &Metadata::default(), Some(1)).unwrap();
        (dir, path)
    }

    fn frames(path: &Path) -> Frames {
        match Media::read(path).unwrap() {
            Media::Frames(frames) => frames,
            Media::Latents(_) => panic!("frames were written"),
        }
    }

    fn mean_squared_error(a: &[u8], b: &[u8]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>() / a.len() as f64
    }

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media").join(name)
    }

    #[test]
    fn what_was_written_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let video = Frames { width: 3, height: 2, fps: 1.0, rgb: (0..36).collect() };
        let folder = format!("{}/video/", dir.path().display());
        Output::new(&folder).unwrap().write_frames(&video, &Metadata::default(), None).unwrap();
        assert_eq!(Media::read(Path::new(&folder)).unwrap(), Media::Frames(video));

        let latents = Latents { shape: [1, 2, 1, 2], values: vec![1.0, -2.5, 0.0, f32::MIN_POSITIVE] };
        let file = dir.path().join("z.safetensors");
        Output::new(&file).unwrap().write_latents(&latents, &Metadata::default()).unwrap();
        assert_eq!(Media::read(&file).unwrap(), Media::Latents(latents));

        // Few colours pass through a GIF as they are, and 8 frames a second as 12 and 13 hundredths.
        let few = Frames { rgb: clip(48, 32, 4).rgb.iter().map(|c| c / 64 * 64).collect(), ..clip(48, 32, 4) };
        let (_dir, path) = written(&few, "x.gif");
        assert_eq!(frames(&path), few);

        // An MP4 loses what its quantiser and its halved chroma cost, most of it at the disc's edge.
        let video = clip(48, 32, 60);
        let (_dir, path) = written(&video, "x.mp4");
        let read = frames(&path);
        assert_eq!((read.width, read.height, read.count(), read.fps), (48, 32, 60, 8.0));
        let error = mean_squared_error(&read.rgb, &video.rgb);
        assert!(error < 120.0, "mean squared error {error}");
        let flat = Frames { rgb: [200, 30, 90].repeat(48 * 32), ..video };
        let (_dir, path) = written(&flat, "flat.mp4");
        assert!(frames(&path).rgb.iter().zip(&flat.rgb).all(|(a, b)| a.abs_diff(*b) <= 2), "colours stay");
    }

    /// Compares with the output of ffmpeg and Pillow for the same files (tools/media_goldens.py).
    #[test]
    fn files_of_other_programs_are_read_as_they_read_them() {
        for (name, bound) in
            [("main.mp4", 0.5), ("high.mp4", 0.5), ("baseline.mov", 0.5), ("photo.jpg", 2.0), ("photo.webp", 2.0)]
        {
            let (read, expected) = (frames(&golden(name)), frames(&golden(&format!("{name}.png"))));
            // The expected frames lie one below the other in one picture.
            assert_eq!((read.width, read.height * read.count()), (expected.width, expected.height), "{name}");
            let error = mean_squared_error(&read.rgb, &expected.rgb);
            assert!(error < bound, "{name}: mean squared error {error}");
        }
        assert_eq!(frames(&golden("main.mp4")).fps, 24.0);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| Media::read(path).unwrap_err().to_string();
        assert!(message(&dir.path().join("no")).contains("no such file"));
        assert!(message(dir.path()).contains("no .png"));
        for (name, bytes, parts) in [
            ("x.mp4", &b"x"[..], &["x.mp4", "unknown kind of file", "ffmpeg -i"][..]),
            ("empty.gif", b"", &["empty.gif", "unknown kind of file"]),
            ("x.safetensors", b"x", &["x.safetensors", "not a complete"]),
            ("y.mp4", b"\0\0\0\x10ftypisom\0\0\0\0", &["no box `moov`", "ffmpeg -i", "y/frame_%04d.png"]),
            ("frame_0000.png", b"x", &["frame_0000.png"]),
        ] {
            fs::write(dir.path().join(name), bytes).unwrap();
            let message = message(&dir.path().join(name));
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        assert!(message(dir.path()).contains("frame_0000.png"));
        let message = message(&golden("mpeg4.mp4"));
        assert!(message.contains("`mp4v`") && message.contains("libx264"), "{message}");
        let sideways = Media::read(&golden("sideways.mp4")).unwrap_err().to_string();
        assert!(sideways.contains("turned") && sideways.contains("ffmpeg"), "{sideways}");
    }

    /// Every file, truncated anywhere or with any byte changed, gives an error or a video; nothing panics.
    #[test]
    fn damaged_files_do_not_panic() {
        let dir = tempfile::tempdir().unwrap();
        let (_dir, own) = written(&clip(32, 16, 3), "x.mp4");
        let (_dir2, gif) = written(&clip(16, 16, 3), "x.gif");
        let others = ["main.mp4", "photo.jpg", "photo.webp"].map(golden);
        let path = dir.path().join("damaged");
        for file in [own, gif].iter().chain(&others) {
            let whole = fs::read(file).unwrap();
            for cut in (0..whole.len()).step_by(whole.len() / 60 + 1) {
                fs::write(&path, &whole[..cut]).unwrap();
                let read = Media::read(&path);
                let is_gif = whole.starts_with(b"GIF");
                // A GIF may have frames to show before the cut.
                assert!(read.is_err() || is_gif, "{} cut at {cut} of {}", file.display(), whole.len());
            }
            let mut state = 1u64;
            for _ in 0..300 {
                let mut bytes = whole.clone();
                for _ in 0..3 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let at = (state >> 33) as usize % bytes.len();
                    bytes[at] = (state >> 24) as u8;
                }
                fs::write(&path, &bytes).unwrap();
                let _ = Media::read(&path);
            }
        }
    }
}
