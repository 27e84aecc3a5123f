//! A folder of lossless PNG frames, `frame_0000.png` and so on.

use std::fs;
use std::path::Path;

use super::error::OutputError;
use super::frames::{Frames, Metadata};
use super::gif::Palette;
use super::pool::{Failure, Pool, Ticker};
use super::settings;
use super::staging::{Staged, io};
use crate::model::Progress;

fn is_frame_name(name: &str) -> bool {
    name.strip_prefix("frame_")
        .and_then(|rest| rest.strip_suffix(".png"))
        .is_some_and(|digits| digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether the folder holds frames of an earlier run and nothing else.
pub(super) fn is_frames_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| {
        let mut names = entries.map(|e| e.is_ok_and(|e| is_frame_name(&e.file_name().to_string_lossy()))).peekable();
        names.peek().is_some() && names.all(|ok| ok)
    })
}

/// A folder may be replaced only if it is empty or holds nothing but frames: foreign files are never deleted.
pub(super) fn check_replaceable(path: &Path) -> Result<(), OutputError> {
    let occupied = |problem| Err(OutputError::Occupied { path: path.to_owned(), problem });
    if path.is_dir() {
        let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if !empty && !is_frames_folder(path) {
            return occupied("the folder holds other files than frames; choose a new or empty folder");
        }
    } else if path.components().as_path().is_file() {
        // (`components` drops the trailing separator, with which only a folder is looked for.)
        return occupied("a file of that name is in the way of the folder");
    }
    Ok(())
}

/// The frames as files, several at once.
pub(super) fn encode(
    frames: &Frames,
    scale: usize,
    metadata: &Metadata,
    progress: Progress<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (metadata, shape) = (metadata.clone(), Frames { rgb: vec![], ..*frames });
    let mut pool = Pool::new(move |rgb: &[u8], ticker: &Ticker| {
        let frame = Frames { rgb: rgb.to_vec(), ..shape }.enlarged(scale);
        let bytes = file(&frame, &metadata).map_err(|error| error.to_string())?;
        ticker.frame().ok_or("stopped")?;
        Ok(bytes)
    });
    frames.iter().for_each(|rgb| pool.push(rgb.to_vec()));
    pool.finish(frames.count(), progress)
}

/// One frame as a file.
fn file(frame: &Frames, metadata: &Metadata) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, frame.width as u32, frame.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.add_itxt_chunk("Title".into(), metadata.prompt.clone())?;
    encoder.add_itxt_chunk("Comment".into(), metadata.comment())?;
    if !metadata.settings.is_empty() {
        encoder.add_itxt_chunk(settings::NAME.into(), metadata.settings.clone())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&frame.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// Writes the files of all frames into a temporary folder and renames it.
pub(super) fn write(path: &Path, files: &[Vec<u8>]) -> Result<(), OutputError> {
    check_replaceable(path)?;
    let staged = Staged::folder(path)?;
    for (i, bytes) in files.iter().enumerate() {
        fs::write(staged.path().join(format!("frame_{i:04}.png")), bytes).map_err(io(path))?;
    }
    staged.commit()
}

/// The frames in one column as one PNG of at most 256 colours.
pub(super) fn strip(frames: &Frames) -> Result<Vec<u8>, String> {
    frames.check()?;
    let palette = Palette::new(&frames.rgb);
    let pixels: Vec<u8> = frames.rgb.chunks_exact(3).map(|pixel| palette.index(pixel)).collect();
    let mut bytes = vec![];
    let (width, height) = (frames.width as u32, (frames.height * frames.count()) as u32);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.rgb);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(&pixels).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

impl Frames {
    /// The frames in one column as one PNG of at most 256 colours, small enough for a page of many.
    ///
    /// # Errors
    /// There are no complete frames.
    pub fn strip_png(&self) -> Result<Vec<u8>, String> {
        strip(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(path: &Path, frames: &Frames) -> Result<(), OutputError> {
        crate::media::Output::new(path.join("")).unwrap().write_frames(frames, &Metadata::default(), None)
    }

    #[test]
    fn a_strip_of_few_colours_is_exact() {
        let frames = Frames { width: 3, height: 2, fps: 8.0, rgb: (0..3 * 2 * 3 * 2).collect() };
        let bytes = strip(&frames).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (3, 4));
        assert_eq!(pixels, frames.rgb);
    }

    #[test]
    fn frames_come_back_and_foreign_folders_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out/");
        let rgb: Vec<u8> = (0..3 * 2 * 3 * 2).collect();
        let frames = Frames { width: 3, height: 2, fps: 8.0, rgb };
        for _ in 0..2 {
            save(&target, &frames).unwrap();
            assert!(is_frames_folder(&target));
        }
        for (i, expected) in frames.iter().enumerate() {
            let file = fs::File::open(target.join(format!("frame_{i:04}.png"))).unwrap();
            let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, expected);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary folder stays");

        fs::write(target.join("notes.txt"), b"mine").unwrap();
        assert!(matches!(save(&target, &frames), Err(OutputError::Occupied { .. })));
        assert_eq!(fs::read(target.join("notes.txt")).unwrap(), b"mine");

        fs::write(dir.path().join("file"), b"x").unwrap();
        let blocked = dir.path().join("file/");
        assert!(matches!(save(&blocked, &frames), Err(OutputError::Occupied { .. })));
    }
}
