//! Reading of videos, pictures and latents: generated ones, and inputs of a generation.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::frames::{Frames, Latents, Shown};
use super::shell::quoted;
use super::{demux, gif, h264, order, picture};
use crate::model::ModelError;

/// Why a video, a picture or latents cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// Reads a video (MP4 or MOV with H.264, GIF, animated WebP and PNG), a picture (PNG, JPEG, WebP), a folder of pictures of one size in
    /// [natural order](super::natural_order), or a `.safetensors` file with one tensor `latents`. The content determines the format, not the
    /// name.
    ///
    /// What is read is what a viewer shows: turned by EXIF's orientation or the video's matrix, cut as its edit list and cropping say, over
    /// white where it is transparent. What is lost or guessed on the way (16 bits, colour profiles, pixels that are not square, a frame rate
    /// that varies) is told by a warning of `tracing`.
    ///
    /// MP4 is limited to the decoder's features: Baseline, Main and most of High profile, 8 bits, 4:2:0, no fields. Colours follow the
    /// stream or its container; if neither specifies them, they are BT.601, or BT.709 above 576 lines, with limited range.
    ///
    /// # Errors
    /// Any other format (the error includes the command that converts a video); a damaged file; pictures of several sizes or of several
    /// numbered series.
    pub fn read(path: &Path) -> Result<Media, ReadError> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) && !path.is_dir() {
            return Ok(Media::Latents(Latents::open(path)?));
        }
        let Shown { frames, remarks } =
            shown(path).map_err(|problem| ReadError::Frames { path: path.to_owned(), problem })?;
        for remark in remarks {
            tracing::warn!("{}: {remark}", path.display());
        }
        Ok(Media::Frames(frames))
    }
}

/// A video, a picture or a folder of pictures.
fn shown(path: &Path) -> Result<Shown, String> {
    let shown = if path.is_dir() { folder(path) } else { file(path) }?;
    shown.frames.check()?;
    Ok(shown)
}

/// The pictures of a folder.
fn folder(folder: &Path) -> Result<Shown, String> {
    let (files, mut remarks) = order::pictures(folder)?;
    // What is said of many pictures is said once.
    let mut of_pictures: Vec<(String, Vec<String>)> = vec![];
    let mut video = Frames { width: 0, height: 0, fps: picture::STILL, rgb: vec![] };
    for (i, path) in files.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Shown { frames, remarks } = file(path).map_err(|problem| format!("{name}: {problem}"))?;
        let Frames { width, height, ref rgb, .. } = frames;
        if frames.count() > 1 {
            return Err(format!("{name} is a video of {} frames: give it by itself", frames.count()));
        }
        if i > 0 && (width, height) != (video.width, video.height) {
            return Err(format!("{name} is {width}x{height}, those before it {}x{}", video.width, video.height));
        }
        (video.width, video.height) = (width, height);
        video.rgb.extend(rgb);
        for remark in remarks {
            match of_pictures.iter_mut().find(|(known, _)| *known == remark) {
                Some((_, names)) => names.push(name.clone()),
                None => of_pictures.push((remark, vec![name.clone()])),
            }
        }
    }
    remarks.extend(of_pictures.into_iter().map(|(remark, names)| format!("{}: {remark}", order::some(&names))));
    Ok(Shown { frames: video, remarks })
}

/// A video or a picture, distinguished by its first bytes.
fn file(path: &Path) -> Result<Shown, String> {
    let bytes = fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        _ => e.to_string(),
    })?;
    match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => picture::png(&bytes),
        [0xFF, 0xD8, 0xFF, ..] => picture::jpeg(&bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => picture::webp(&bytes),
        [b'G', b'I', b'F', b'8', ..] => gif::decode(&bytes),
        file if demux::is_one(file) => {
            demux::read(file).and_then(h264::decode).map_err(|problem| format!("{problem}; {}", conversion(path)))
        }
        _ => Err(format!("unknown kind of file: {KINDS}; {}", conversion(path))),
    }
}

/// The command that converts an unsupported video.
fn conversion(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let (file, folder) = (quoted(path), quoted(Path::new(&*stem)));
    let video = quoted(Path::new(&format!("{stem}-h264.mp4")));
    // Where ffmpeg puts the number, a percent sign stands for itself if it is doubled.
    let pictures = quoted(Path::new(&format!("{}/frame_%04d.png", stem.replace('%', "%%"))));
    format!(
        "if players show it, convert it: `ffmpeg -i {file} -c:v libx264 -profile:v main -pix_fmt yuv420p {video}`, or to a folder of \
         pictures: `mkdir {folder} && ffmpeg -i {file} {pictures}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::turn::{self, Turn};
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

    /// Compares with the output of ffmpeg and Pillow for the same files (tools/media_goldens.py), and what is said of them.
    #[test]
    fn files_of_other_programs_are_read_as_they_read_them() {
        const GUESSED: &str = "it does not say how its colours are coded: read as BT.601";
        const WHITE: &str = "it is transparent in places: read over white";
        for (name, bound, said) in [
            ("main.mp4", 0.5, &[][..]),
            ("high.mp4", 0.5, &[GUESSED]),
            ("baseline.mov", 0.5, &[GUESSED]),
            ("full709.mp4", 0.5, &[]),
            ("bt601.mp4", 0.5, &[]),
            ("sideways.mp4", 0.5, &[GUESSED]),
            ("edited.mp4", 0.5, &["its edit list shows 6 of its 12 frames", GUESSED]),
            ("delayed.mp4", 0.5, &["its edit list waits", "its frame rate varies", GUESSED]),
            ("varying.mp4", 0.5, &["its frame rate varies"]),
            ("wide_pixels.mp4", 0.5, &["its pixels are 10:7 as wide as high"]),
            ("cropped.mp4", 0.5, &[]),
            ("photo.jpg", 2.0, &[]),
            ("photo.webp", 2.0, &[]),
            ("turned.jpg", 2.0, &[]),
            ("turned.png", 0.0, &[]),
            ("turned.webp", 0.0, &[]),
            ("gray.jpg", 2.0, &[]),
            ("cmyk.jpg", 2.0, &["its colours are inks (CMYK)"]),
            ("ycck.jpg", 2.0, &["its colours are inks (CMYK)"]),
            ("deep.png", 0.0, &["its 16 bits a channel are read as 8"]),
            ("gray_deep.png", 0.0, &["its 16 bits a channel are read as 8"]),
            ("clear.png", 0.5, &[WHITE]),
            ("gray_clear.png", 0.5, &[WHITE]),
            ("palette_clear.png", 0.5, &[WHITE]),
            ("gray_key.png", 0.0, &[WHITE]),
            ("one_bit.png", 0.0, &[]),
            ("interlaced.png", 0.0, &[]),
            ("clear.webp", 2.0, &[WHITE]),
            ("moving.png", 0.0, &["its frame rate varies", WHITE]),
            ("moving_kept.png", 0.0, &["its frame rate varies", WHITE]),
            ("moving.webp", 0.0, &["its frame rate varies", WHITE]),
            ("moving.gif", 0.0, &["its frame rate varies", WHITE]),
        ] {
            let (read, expected) = (shown(&golden(name)).unwrap(), frames(&golden(&format!("{name}.png"))));
            let Shown { frames: read, remarks } = read;
            // The expected frames lie one below the other in one picture.
            assert_eq!((read.width, read.height * read.count()), (expected.width, expected.height), "{name}");
            let error = mean_squared_error(&read.rgb, &expected.rgb);
            assert!(error <= bound, "{name}: mean squared error {error}");
            assert_eq!(remarks.len(), said.len(), "{name}: {remarks:?}");
            assert!(remarks.iter().zip(said).all(|(remark, said)| remark.starts_with(said)), "{name}: {remarks:?}");
        }
        assert_eq!(frames(&golden("main.mp4")).fps, 24.0);
        assert_eq!(frames(&golden("moving.png")).fps, 15.0);
    }

    /// The bytes of a file with what lies `behind` bytes after the name of its first box `name` changed.
    fn patched(file: &str, name: &[u8], behind: usize, bytes: &[u8]) -> Vec<u8> {
        let mut all = fs::read(golden(file)).unwrap();
        let at = all.windows(name.len()).position(|found| found == name).unwrap() + name.len() + behind;
        all[at..at + bytes.len()].copy_from_slice(bytes);
        all
    }

    /// Every way to turn and mirror a video, by the matrix of its track and of the whole; the figures of `turn` say what each is.
    #[test]
    fn videos_are_turned_and_mirrored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mp4");
        let upright = frames(&golden("high.mp4"));
        let (one, minus) = (0x1_0000i32, -0x1_0000i32);
        for (matrix, of_movie) in [
            [one, 0, 0, one],
            [minus, 0, 0, one],
            [minus, 0, 0, minus],
            [one, 0, 0, minus],
            [0, one, one, 0],
            [0, one, minus, 0],
            [0, minus, minus, 0],
            [0, minus, one, 0],
        ]
        .into_iter()
        .flat_map(|matrix| [(matrix, false), (matrix, true)])
        {
            let [a, b, c, d] = matrix;
            let bytes: Vec<u8> = [a, b, 0, c, d].into_iter().flat_map(i32::to_be_bytes).collect();
            let (name, behind) = if of_movie { (b"mvhd", 36) } else { (b"tkhd", 40) };
            fs::write(&path, patched("high.mp4", name, behind, &bytes)).unwrap();
            let turn = Turn::of_matrix(matrix.map(f64::from)).unwrap();
            assert_eq!(frames(&path), turn.applied(upright.clone()), "{matrix:?}");
        }
        fs::write(&path, patched("high.mp4", b"tkhd", 44, &0x8000i32.to_be_bytes())).unwrap();
        let error = shown(&path).unwrap_err();
        assert!(error.contains("slanted") && error.contains("ffmpeg -i"), "{error}");
        fs::write(&path, patched("high.mp4", b"tkhd", 40, &0x2_0000i32.to_be_bytes())).unwrap();
        assert!(shown(&path).unwrap().remarks[0].contains("2.000 times across"));
    }

    /// Every orientation in every kind of picture that has EXIF data.
    #[test]
    fn pictures_are_turned_and_mirrored() {
        let dir = tempfile::tempdir().unwrap();
        let rgb: Vec<u8> = (0..3 * 2 * 3).map(|i| i * 14).collect();
        let stored = Frames { width: 3, height: 2, fps: 1.0, rgb };
        let encoded = |exif: &[u8]| {
            let mut bytes = vec![];
            let mut info = ::png::Info::with_size(3, 2);
            (info.color_type, info.bit_depth) = (::png::ColorType::Rgb, ::png::BitDepth::Eight);
            info.exif_metadata = Some(exif.to_vec().into());
            let mut writer = ::png::Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
            writer.write_image_data(&stored.rgb).unwrap();
            writer.finish().unwrap();
            bytes
        };
        for orientation in 1..=8 {
            let exif = turn::tests::exif(orientation, orientation % 2 == 0, 2);
            let turn = Turn::of_exif(&exif).unwrap();
            let path = dir.path().join("x");
            fs::write(&path, encoded(&exif)).unwrap();
            assert_eq!(frames(&path), turn.applied(stored.clone()), "PNG, {orientation}");
            for name in ["turned.jpg", "turned.webp"] {
                // The files have orientation 6: a clockwise quarter.
                let mut bytes = fs::read(golden(name)).unwrap();
                let (at, value) = (0..bytes.len() - 12)
                    .find_map(|at| match bytes[at..at + 8] {
                        [0x12, 1, 3, 0, 1, 0, 0, 0] => Some((at + 8, [orientation, 0])),
                        [1, 0x12, 0, 3, 0, 0, 0, 1] => Some((at + 8, [0, orientation])),
                        _ => None,
                    })
                    .unwrap();
                bytes[at..at + 2].copy_from_slice(&[0, 0]);
                fs::write(&path, &bytes).unwrap();
                let upright = frames(&path);
                bytes[at..at + 2].copy_from_slice(&value);
                fs::write(&path, &bytes).unwrap();
                assert_eq!(frames(&path), turn.applied(upright), "{name}, {orientation}");
            }
        }
        fs::write(dir.path().join("x"), encoded(b"MM")).unwrap();
        let Shown { frames, remarks } = shown(&dir.path().join("x")).unwrap();
        assert!(frames == stored && remarks[0].contains("EXIF data are damaged"), "{remarks:?}");
    }

    #[test]
    fn folders_are_read_in_natural_order() {
        let dir = tempfile::tempdir().unwrap();
        let video = Frames { width: 2, height: 1, fps: 1.0, rgb: (0..12 * 6).collect() };
        let written = dir.path().join("video/");
        Output::new(format!("{}/", written.display()))
            .unwrap()
            .write_frames(&video, &Metadata::default(), None)
            .unwrap();
        let named = dir.path().join("named");
        fs::create_dir(&named).unwrap();
        for i in 0..12 {
            fs::copy(written.join(format!("frame_{i:04}.png")), named.join(format!("{}.png", i + 1))).unwrap();
        }
        assert_eq!(frames(&named), video);
        fs::write(named.join("notes.txt"), "x").unwrap();
        fs::write(named.join("._1.png"), "x").unwrap();
        let read = shown(&named).unwrap();
        assert_eq!(read.frames, video);
        assert!(read.remarks.len() == 1 && read.remarks[0].contains("`notes.txt` not read"), "{:?}", read.remarks);
        fs::rename(named.join("7.png"), named.join("cover.png")).unwrap();
        let error = shown(&named).unwrap_err();
        assert!(error.contains("2 series") && error.contains("`cover.png` (1)"), "{error}");
        // What is said of each picture is said once; a moving one is no picture.
        let several = dir.path().join("several");
        fs::create_dir(&several).unwrap();
        for i in 0..3 {
            fs::copy(golden("clear.png"), several.join(format!("{i}.png"))).unwrap();
        }
        let remarks = shown(&several).unwrap().remarks;
        assert!(remarks.len() == 1 && remarks[0].starts_with("`0.png` and 2 others: it is transparent"), "{remarks:?}");
        fs::copy(golden("moving.png"), several.join("3.png")).unwrap();
        assert!(shown(&several).unwrap_err().contains("3.png is a video of 3 frames"));
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
        for (name, part) in [
            ("mpeg4.mp4", "`mp4v`"),
            ("422.mp4", "non-4:2:0"),
            ("444.mp4", "non-4:2:0"),
            ("10bit.mp4", "bit depth > 8"),
            ("interlaced.mp4", "interlace"),
        ] {
            let message = message(&golden(name));
            assert!(message.contains(part) && message.contains("libx264"), "{message}");
        }
        // Names that a shell or ffmpeg would read otherwise.
        fs::write(dir.path().join("it's 50%.mp4"), b"x").unwrap();
        let message = message(&dir.path().join("it's 50%.mp4"));
        for part in [r"it'\''s 50%.mp4' -c:v", r" 'it'\''s 50%-h264.mp4'", r" 'it'\''s 50%%/frame_%04d.png'"] {
            assert!(message.contains(part), "{message}");
        }
    }

    /// Every file, truncated anywhere or with any byte changed, gives an error or a video; nothing panics.
    #[test]
    fn damaged_files_do_not_panic() {
        let dir = tempfile::tempdir().unwrap();
        let (_dir, own) = written(&clip(32, 16, 3), "x.mp4");
        let (_dir2, gif) = written(&clip(16, 16, 3), "x.gif");
        let others = [
            "main.mp4",
            "edited.mp4",
            "photo.jpg",
            "photo.webp",
            "turned.jpg",
            "turned.webp",
            "moving.png",
            "moving.webp",
        ];
        let others = others.map(golden);
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
