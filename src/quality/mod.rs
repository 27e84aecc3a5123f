//! Differences between two videos, and the steadiness of one: PSNR and SSIM as in scikit-image, temporal flickering as defined by VBench,
//! motion smoothness by pixels, all in f64 from 8-bit RGB; and the perceptual distances LPIPS and ST-LPIPS.

mod error;
mod features;
mod form;
mod perceptual;
mod ssim;
pub mod vbench;

use serde::Serialize;

use error::{RANGE, mean, same_size};

use crate::media::{Frames, Latents};

pub use error::QualityError;
pub use form::Form;
pub use perceptual::{Distance, Networks, Perceived, Perceptual};
pub use ssim::{SSIM_WINDOW, ssim};

/// The largest PSNR in dB: about the level of rounding to 8 bits, so that any improvement beyond it is invisible. It stands for the infinite
/// one of equal pixels too. Without this limit one equal frame, or one equal video, would make a mean infinite or outweigh all others.
pub const MOST_PSNR: f64 = 60.0;

/// One video against another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// PSNR of each frame in dB, at most [`MOST_PSNR`], which is that of equal frames.
    pub psnr_frames: Vec<f64>,
    /// Mean of the frames' PSNR in dB.
    pub psnr_mean: f64,
    /// PSNR over all pixels of all frames in dB, at most [`MOST_PSNR`].
    pub psnr: f64,
    /// The number of frames that are equal to the other video's.
    pub equal_frames: usize,
    /// The number of frames.
    pub frames: usize,
    /// SSIM of each frame.
    pub ssim_frames: Vec<f64>,
    /// Mean of the frames' SSIM.
    pub ssim: f64,
    /// Mean absolute difference of the pixels, 0 to 255.
    pub mean_absolute: f64,
}

/// Measures of a single video; a video of one frame neither flickers nor moves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Calm {
    /// VBench's temporal flickering: (255 − mean absolute difference of adjacent frames) / 255. Meant for still scenes.
    pub temporal_flickering: f64,
    /// VBench's motion smoothness with the mean of the two adjacent frames instead of its interpolation network: (255 − mean absolute
    /// difference of every second frame from it) / 255.
    pub motion_smoothness_pixels: f64,
}

/// One set of latents against another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatentsCompared {
    /// ‖a − b‖₂ / ‖a‖₂
    pub relative_l2: f64,
    /// ‖a − b‖₁ / ‖a‖₁
    pub relative_l1: f64,
    /// The largest difference of two elements.
    pub max_absolute: f64,
    /// Whether they are bit-identical.
    pub same_bits: bool,
}

/// Peak signal-to-noise ratio in dB of a mean squared error of 8-bit values, at most [`MOST_PSNR`].
fn decibel(mean_square: f64) -> f64 {
    (10.0 * (RANGE * RANGE / mean_square).log10()).min(MOST_PSNR)
}

/// Mean of `of(difference)` over two slices of pixels.
fn mean_difference(a: &[u8], b: &[u8], of: impl Fn(f64) -> f64) -> f64 {
    mean(a.iter().zip(b).map(|(a, b)| of(f64::from(*a) - f64::from(*b))))
}

/// Compares the video `b` with `a`.
///
/// # Errors
/// Videos of different sizes, or frames smaller than SSIM's window.
pub fn compare(a: &Frames, b: &Frames) -> Result<Compared, QualityError> {
    same_size(a, b)?;
    let (width, height) = (a.width, a.height);
    if width.min(height) < SSIM_WINDOW {
        return Err(QualityError::TooSmall { measure: "SSIM", least: SSIM_WINDOW, width, height });
    }
    let square = |v: f64| v * v;
    let errors: Vec<f64> = a.iter().zip(b.iter()).map(|(a, b)| mean_difference(a, b, square)).collect();
    let psnr_frames: Vec<f64> = errors.iter().map(|error| decibel(*error)).collect();
    let ssim_frames: Vec<f64> = a.iter().zip(b.iter()).map(|(a, b)| ssim(a, b, width, height)).collect();
    Ok(Compared {
        psnr_mean: mean(psnr_frames.iter().copied()),
        equal_frames: errors.iter().filter(|error| **error == 0.0).count(),
        frames: errors.len(),
        psnr: decibel(mean(errors.into_iter())),
        ssim: mean(ssim_frames.iter().copied()),
        mean_absolute: mean_difference(&a.rgb, &b.rgb, f64::abs),
        psnr_frames,
        ssim_frames,
    })
}

/// Measures the steadiness of a video.
pub fn calm(video: &Frames) -> Calm {
    let frames: Vec<&[u8]> = video.iter().collect();
    let score = |differences: Vec<f64>| {
        if differences.is_empty() { 1.0 } else { (RANGE - mean(differences.into_iter())) / RANGE }
    };
    let neighbours = frames.windows(2).map(|pair| mean_difference(pair[0], pair[1], f64::abs));
    let between = frames.windows(3).step_by(2).map(|three| {
        let pixels = three[0].iter().zip(three[2]).zip(three[1]);
        mean(
            pixels.map(|((before, after), at)| ((f64::from(*before) + f64::from(*after)) / 2.0 - f64::from(*at)).abs()),
        )
    });
    Calm { temporal_flickering: score(neighbours.collect()), motion_smoothness_pixels: score(between.collect()) }
}

/// Compares the latents `b` with `a`.
///
/// # Errors
/// Latents of different shapes, an element that is not finite, or a first that is zero where the second is not.
pub fn compare_latents(a: &Latents, b: &Latents) -> Result<LatentsCompared, QualityError> {
    if a.shape != b.shape {
        return Err(QualityError::Sizes { first: format!("{:?}", a.shape), second: format!("{:?}", b.shape) });
    }
    for (which, latents) in [("first", a), ("second", b)] {
        if let Some(index) = latents.values.iter().position(|v| !v.is_finite()) {
            return Err(QualityError::NotFinite { which, value: latents.values[index], index });
        }
    }
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.values.iter().zip(&b.values).map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum()
    };
    if a.values.iter().all(|v| *v == 0.0) && b.values.iter().any(|v| *v != 0.0) {
        return Err(QualityError::Zero);
    }
    let ratio = |difference: f64, norm: f64| if difference == 0.0 { 0.0 } else { difference / norm };
    let differences = a.values.iter().zip(&b.values).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    Ok(LatentsCompared {
        relative_l2: ratio(sum(&|a, b| (a - b) * (a - b)), sum(&|a, _| a * a)).sqrt(),
        relative_l1: ratio(sum(&|a, b| (a - b).abs()), sum(&|a, _| a.abs())),
        max_absolute: differences.fold(0.0, f64::max),
        same_bits: a.values.iter().zip(&b.values).all(|(a, b)| a.to_bits() == b.to_bits()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: usize = 5;
    const HEIGHT: usize = 24;
    const WIDTH: usize = 31;

    /// The videos of `tools/quality_reference.py`.
    fn video(seed: u32) -> Frames {
        let (mut state, mut rgb) = (seed, vec![]);
        for t in 0..FRAMES {
            for y in 0..HEIGHT {
                for x in 0..WIDTH {
                    for c in 0..3 {
                        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                        let noise = (state >> 24) as usize % (8 + 4 * t);
                        rgb.push((3 * x + 5 * y + 40 * c + 7 * t * (c + 1) + noise) as u8);
                    }
                }
            }
        }
        Frames { width: WIDTH, height: HEIGHT, fps: 8.0, rgb }
    }

    fn close(ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-9, "{ours:?} {theirs:?}");
        }
    }

    /// Every literal here was printed by `tools/quality_reference.py` (scikit-image).
    #[test]
    fn equal_to_scikit_image() {
        let (a, b) = (video(1), video(2));
        let total = |v: &Frames| v.rgb.iter().map(|p| u64::from(*p)).sum::<u64>();
        assert_eq!((total(&a), total(&b)), (1602828, 1603135), "the same bytes");
        let c = compare(&a, &b).unwrap();
        let psnr = [26.268756542467084, 20.080712462251526, 18.002571156616877, 16.280796256220615, 14.283069997606733];
        close(&c.psnr_frames, &psnr);
        close(&[c.psnr, c.psnr_mean], &[17.50256899530228, psnr.iter().sum::<f64>() / 5.0]);
        let ssim = [0.9490517391530888, 0.8690014010540225, 0.7618711399034441, 0.6555179545469625, 0.5644706877615014];
        close(&c.ssim_frames, &ssim);
        close(&[c.ssim], &[ssim.iter().sum::<f64>() / 5.0]);
        let calm = calm(&a);
        close(&[calm.temporal_flickering, calm.motion_smoothness_pixels], &[0.8838569119404034, 0.9200479654227283]);
    }

    #[test]
    fn equal_videos_are_perfect_and_other_sizes_are_refused() {
        let a = video(1);
        let c = compare(&a, &a).unwrap();
        assert_eq!((c.psnr, c.psnr_mean, c.ssim, c.mean_absolute), (MOST_PSNR, MOST_PSNR, 1.0, 0.0));
        assert_eq!((c.equal_frames, c.frames), (FRAMES, FRAMES));
        let shorter = Frames { rgb: a.rgb[..a.rgb.len() / FRAMES].to_vec(), ..a.clone() };
        let message = compare(&a, &shorter).unwrap_err().to_string();
        assert!(message.contains("5 frames of 31x24") && message.contains("1 frames of 31x24"), "{message}");
        assert_eq!(calm(&shorter), Calm { temporal_flickering: 1.0, motion_smoothness_pixels: 1.0 });
        let tiny = Frames { width: 10, height: 10, fps: 8.0, rgb: vec![0; 300] };
        assert!(matches!(compare(&tiny, &tiny), Err(QualityError::TooSmall { .. })));
    }

    /// One equal frame among others, and one that differs by a single step in a single pixel, which is more than 80 dB: by hand.
    #[test]
    fn equal_frames_count_as_much_as_can_be_seen() {
        let a = video(1);
        let mut b = video(2);
        let frame = a.rgb.len() / FRAMES;
        b.rgb[..2 * frame].copy_from_slice(&a.rgb[..2 * frame]);
        b.rgb[frame] ^= 1;
        let (c, whole) = (compare(&a, &b).unwrap(), compare(&a, &video(2)).unwrap());
        assert_eq!((c.equal_frames, c.frames, c.psnr_frames[0], c.psnr_frames[1]), (1, FRAMES, MOST_PSNR, MOST_PSNR));
        let others = &whole.psnr_frames[2..];
        assert_eq!(&c.psnr_frames[2..], others);
        close(&[c.psnr_mean], &[(2.0 * MOST_PSNR + others.iter().sum::<f64>()) / 5.0]);
        assert!(c.psnr.is_finite() && c.psnr > whole.psnr && c.psnr < MOST_PSNR);
        let json = serde_json::to_value(&c).unwrap();
        assert_eq!((json["psnr_frames"][0].as_f64(), json["equal_frames"].as_u64()), (Some(60.0), Some(1)));
    }

    #[test]
    fn steady_motion_is_smooth_and_flicker_is_not() {
        let frames = |values: [u8; 5]| Frames {
            width: 1,
            height: 1,
            fps: 8.0,
            rgb: values.iter().flat_map(|v| [*v; 3]).collect(),
        };
        let steady = calm(&frames([0, 51, 102, 153, 204]));
        assert_eq!((steady.temporal_flickering, steady.motion_smoothness_pixels), (0.8, 1.0));
        let blinking = calm(&frames([0, 51, 0, 51, 0]));
        assert_eq!((blinking.temporal_flickering, blinking.motion_smoothness_pixels), (0.8, 0.8));
    }

    #[test]
    fn latents_by_hand() {
        let latents = |values: Vec<f32>| Latents { shape: [1, 1, 1, values.len()], values };
        let c = compare_latents(&latents(vec![3.0, -4.0, 0.0]), &latents(vec![3.0, -1.0, 4.0])).unwrap();
        assert_eq!((c.relative_l2, c.relative_l1, c.max_absolute, c.same_bits), (1.0, 1.0, 4.0, false));
        let same = compare_latents(&latents(vec![0.0]), &latents(vec![0.0])).unwrap();
        assert_eq!((same.relative_l2, same.same_bits), (0.0, true));
        assert!(matches!(compare_latents(&latents(vec![0.0]), &latents(vec![1.0])), Err(QualityError::Zero)));
        assert!(compare_latents(&latents(vec![1.0]), &latents(vec![1.0, 2.0])).is_err());
        assert!(
            compare_latents(&latents(vec![1.0]), &latents(vec![f32::NAN])).unwrap_err().to_string().contains("second")
        );
    }
}
