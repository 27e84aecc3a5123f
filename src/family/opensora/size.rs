//! The published sizes of Open-Sora 1.2: pixels by resolution and aspect ratio, latents by pixels and frames.

use crate::model::vae::CHUNK;
use crate::pipeline::{PipelineError, VideoSize};

/// Height over width, as the published tables name it, and the common names of some.
const ASPECTS: [(&str, &[&str]); 15] = [
    ("0.39", &[]),
    ("0.42", &[]),
    ("0.48", &[]),
    ("0.50", &["1:2"]),
    ("0.52", &[]),
    ("0.56", &["9:16"]),
    ("0.66", &[]),
    ("0.75", &["3:4"]),
    ("1.00", &["1:1"]),
    ("1.33", &["4:3"]),
    ("1.52", &[]),
    ("1.78", &["16:9"]),
    ("1.92", &[]),
    ("2.00", &["2:1"]),
    ("2.10", &[]),
];

/// (height, width) in pixels by resolution, in the order of [`ASPECTS`].
#[rustfmt::skip]
const PIXELS: [(&str, [(usize, usize); 15]); 4] = [
    ("240p", [(200, 512), (208, 496), (222, 462), (226, 452), (230, 442), (240, 426), (260, 394), (276, 368), (320, 320),
              (368, 276), (394, 260), (426, 240), (444, 232), (452, 226), (464, 220)]),
    ("360p", [(300, 770), (312, 742), (332, 692), (340, 680), (346, 666), (360, 640), (390, 590), (416, 554), (480, 480),
              (554, 416), (592, 390), (640, 360), (666, 346), (678, 339), (696, 332)]),
    ("480p", [(400, 1026), (414, 986), (444, 925), (452, 904), (462, 888), (480, 854), (520, 788), (554, 738), (640, 640),
              (738, 554), (790, 520), (854, 480), (888, 462), (906, 453), (928, 442)]),
    ("720p", [(600, 1538), (622, 1480), (666, 1388), (678, 1356), (692, 1330), (720, 1280), (780, 1182), (832, 1110), (960, 960),
              (1108, 834), (1184, 778), (1280, 720), (1330, 692), (1358, 679), (1392, 662)]),
];

/// Side in pixels of the square that becomes one latent position.
const SPATIAL_FACTOR: usize = 8;
/// Frames in one latent frame of a chunk.
const TEMPORAL_FACTOR: usize = 4;
/// The published size of a resolution (`240p`, `360p`, `480p`, `720p`) and an aspect ratio, height to width (`9:16` is landscape; or the
/// names of the tables, such as `0.56`).
///
/// # Errors
/// An unknown name, or no or too many frames.
pub(super) fn published(resolution: &str, aspect: &str, frames: usize) -> Result<VideoSize, PipelineError> {
    let table = PIXELS.iter().find(|(name, _)| *name == resolution).ok_or_else(|| {
        let known: Vec<&str> = PIXELS.iter().map(|(name, _)| *name).collect();
        PipelineError::Setting(format!("unknown resolution `{resolution}`: known: {}", known.join(", ")))
    })?;
    let index =
        ASPECTS.iter().position(|(name, others)| *name == aspect || others.contains(&aspect)).ok_or_else(|| {
            let known = ASPECTS.iter().map(|(name, others)| others.first().unwrap_or(name));
            let known: Vec<&str> = known.copied().collect();
            PipelineError::Setting(format!("unknown aspect ratio `{aspect}`: known: {}", known.join(", ")))
        })?;
    let (height, width) = table.1[index];
    VideoSize::new(frames, height, width)
}

/// Latent frames, height and width.
pub(super) fn latent(size: VideoSize) -> [usize; 3] {
    let (chunk, latents) = CHUNK;
    let frames = latents * (size.frames / chunk) + (size.frames % chunk).div_ceil(TEMPORAL_FACTOR);
    [frames, size.height / SPATIAL_FACTOR, size.width / SPATIAL_FACTOR]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_landscape_sizes() {
        // Height, width, latent height and width: worked out by hand from the published code.
        for (name, pixels, sides) in
            [("240p", (240, 426), [30, 53]), ("480p", (480, 854), [60, 106]), ("720p", (720, 1280), [90, 160])]
        {
            let size = published(name, "9:16", 51).unwrap();
            assert_eq!((size.height, size.width), pixels);
            assert_eq!(latent(size), [15, sides[0], sides[1]]);
            assert_eq!(published(name, "0.56", 51).unwrap(), size);
        }
    }

    #[test]
    fn latent_frames_by_chunks_of_17() {
        let latent = |frames| latent(VideoSize::new(frames, 240, 426).unwrap())[0];
        assert_eq!([1, 4, 5, 17, 18, 51, 102, 204, 408].map(latent), [1, 1, 2, 5, 6, 15, 30, 60, 120]);
    }

    #[test]
    fn every_entry_keeps_its_resolutions_area_and_aspect() {
        for (name, table) in PIXELS {
            let area = (table[5].0 * table[5].1) as f64;
            for ((aspect, _), (height, width)) in ASPECTS.iter().zip(table) {
                let aspect: f64 = aspect.parse().unwrap();
                assert!(((height * width) as f64 / area - 1.0).abs() < 0.03, "{name} {height}x{width}");
                assert!(
                    (height as f64 / width as f64 - aspect).abs() < 0.025,
                    "{name} {height}x{width} is not {aspect}"
                );
            }
        }
    }

    #[test]
    fn unknown_names_are_errors_that_list_the_known_ones() {
        let message = |r, a| published(r, a, 51).unwrap_err().to_string();
        assert!(message("4k", "9:16").contains("240p, 360p, 480p, 720p"));
        assert!(message("720p", "5:4").contains("9:16"));
        assert!(VideoSize::new(0, 240, 240).is_err() && VideoSize::new(409, 240, 240).is_err());
        assert!(VideoSize::new(1, 7, 240).is_err());
    }
}
