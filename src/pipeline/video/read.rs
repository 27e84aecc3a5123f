//! Reading back what was generated: a folder of PNG frames, or latents.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{Frames, Latents};

/// Why a video or latents cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {problem}")]
pub struct ReadError {
    path: PathBuf,
    problem: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Media {
    /// A video. A folder of pictures says nothing about time: it gets one frame a second.
    Frames(Frames),
    /// Latents.
    Latents(Latents),
}

impl Media {
    /// Reads a folder of PNG frames of one size, in the order of their names, or a `.safetensors` file with one tensor `latents`.
    ///
    /// # Errors
    /// Anything else; a file that is damaged, or frames of several sizes.
    pub fn read(path: &Path) -> Result<Media, ReadError> {
        let failed = |problem: String| ReadError { path: path.to_owned(), problem };
        if path.is_dir() {
            return frames(path).map(Media::Frames).map_err(failed);
        }
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            return latents(path).map(Media::Latents).map_err(failed);
        }
        let problem = match path.try_exists() {
            Ok(true) => {
                "only folders of PNG frames and .safetensors latents can be measured: generate with --out FOLDER/"
            }
            _ => "there is no such file or folder",
        };
        Err(failed(problem.into()))
    }
}

fn frames(folder: &Path) -> Result<Frames, String> {
    let entries = fs::read_dir(folder).map_err(|e| e.to_string())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")));
    files.sort();
    let mut video = Frames { width: 0, height: 0, fps: 1.0, rgb: vec![] };
    for (i, file) in files.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let (width, height, rgb) = picture(file).map_err(|problem| format!("{name}: {problem}"))?;
        if i > 0 && (width, height) != (video.width, video.height) {
            return Err(format!("{name} is {width}x{height}, those before it {}x{}", video.width, video.height));
        }
        (video.width, video.height) = (width, height);
        video.rgb.extend(rgb);
    }
    if files.is_empty() { Err("the folder holds no .png files".into()) } else { Ok(video) }
}

/// Width, height and pixels of an RGB picture.
fn picture(file: &Path) -> Result<(usize, usize, Vec<u8>), String> {
    let file = fs::File::open(file).map_err(|e| e.to_string())?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let size = reader.output_buffer_size().ok_or("the picture is too large")?;
    let mut pixels = vec![0; size];
    let info = reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    if info.color_type != png::ColorType::Rgb {
        return Err(format!("its pixels are {:?}, expected RGB", info.color_type));
    }
    pixels.truncate(info.buffer_size());
    Ok((info.width as usize, info.height as usize, pixels))
}

fn latents(file: &Path) -> Result<Latents, String> {
    let bytes = fs::read(file).map_err(|e| e.to_string())?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let tensor = tensors.tensor("latents").map_err(|_| "it holds no tensor `latents`")?;
    let shape: [usize; 4] = tensor
        .shape()
        .try_into()
        .map_err(|_| format!("`latents` has shape {:?}, expected channels, frames, height, width", tensor.shape()))?;
    if tensor.dtype() != safetensors::Dtype::F32 {
        return Err(format!("`latents` has type {:?}, expected F32", tensor.dtype()));
    }
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Latents { shape, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Metadata, Output};

    #[test]
    fn what_was_written_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let frames = Frames { width: 3, height: 2, fps: 1.0, rgb: (0..36).collect() };
        let folder = format!("{}/video/", dir.path().display());
        Output::new(&folder).unwrap().write_frames(&frames, &Metadata::default(), None).unwrap();
        assert_eq!(Media::read(Path::new(&folder)).unwrap(), Media::Frames(frames));

        let latents = Latents { shape: [1, 2, 1, 2], values: vec![1.0, -2.5, 0.0, f32::MIN_POSITIVE] };
        let file = dir.path().join("z.safetensors");
        Output::new(&file).unwrap().write_latents(&latents, &Metadata::default()).unwrap();
        assert_eq!(Media::read(&file).unwrap(), Media::Latents(latents));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| Media::read(path).unwrap_err().to_string();
        assert!(message(&dir.path().join("no")).contains("no such file"));
        assert!(message(dir.path()).contains("no .png"));
        fs::write(dir.path().join("x.mp4"), "x").unwrap();
        assert!(message(&dir.path().join("x.mp4")).contains("--out FOLDER/"));
        fs::write(dir.path().join("x.safetensors"), "x").unwrap();
        assert!(message(&dir.path().join("x.safetensors")).contains("x.safetensors"));
        fs::write(dir.path().join("frame_0000.png"), "x").unwrap();
        assert!(message(dir.path()).contains("frame_0000.png"));
    }
}
