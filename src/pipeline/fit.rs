//! Fits pictures and videos of any size to the size of the generated video: they are scaled until they fill it, and the rest is cut off on
//! both sides. Pictures are resampled like in Pillow (bicubic over the area of a pixel, 8 bits between the directions), videos like in
//! torch (bilinear between the nearest pixels): the published pipeline reads the two in these two ways.

use crate::media::Frames;

/// Pillow stores a weight with 22 fractional bits.
const WEIGHT: f64 = (1 << 22) as f64;
/// The sharpness of the bicubic kernel.
const A: f64 = -0.5;

/// The sources of one pixel: the index of the first, and the weights of it and the following ones.
type Taps = Vec<(usize, Vec<f64>)>;

/// The resampling kernel.
#[derive(Clone, Copy, PartialEq)]
enum Kernel {
    Pillow,
    Torch,
}

/// `[3, frames, kept height, kept width]` in [−1, 1]: the frames scaled to `size`, of which the upper left `kept` is returned (both height,
/// width). Frames that already have the size `kept` stay unchanged.
pub(super) fn fitted(frames: &Frames, size: [usize; 2], kept: [usize; 2]) -> Vec<f32> {
    let kernel = if frames.count() == 1 { Kernel::Pillow } else { Kernel::Torch };
    let size = if [frames.height, frames.width] == kept { kept } else { size };
    let [rows, columns] = taps(kernel, [frames.height, frames.width], size, kept);
    let (count, plane) = (frames.count(), kept[0] * kept[1]);
    let mut planes = vec![0.0; 3 * count * plane];
    for (t, rgb) in frames.iter().enumerate() {
        // Every line across, then every column down.
        let lines: Vec<f64> =
            rgb.chunks_exact(frames.width * 3).flat_map(|line| across(kernel, line, &columns)).collect();
        for (y, (first, weights)) in rows.iter().enumerate() {
            for x in 0..kept[1] * 3 {
                let from = weights.iter().enumerate().map(|(i, w)| w * lines[(first + i) * kept[1] * 3 + x]);
                let value = settled(kernel, from.sum());
                planes[(x % 3 * count + t) * plane + y * kept[1] + x / 3] = (value / 255.0 * 2.0 - 1.0) as f32;
            }
        }
    }
    planes
}

/// One line `[width, 3]` resampled to the pixels of `columns`.
fn across(kernel: Kernel, line: &[u8], columns: &Taps) -> Vec<f64> {
    let pixel = |(first, weights): &(usize, Vec<f64>)| {
        [0, 1, 2].map(|c| {
            let from = weights.iter().enumerate().map(|(i, w)| w * f64::from(line[(first + i) * 3 + c]));
            settled(kernel, from.sum())
        })
    };
    columns.iter().flat_map(pixel).collect()
}

fn settled(kernel: Kernel, value: f64) -> f64 {
    if kernel == Kernel::Pillow { (value + 0.5).floor().clamp(0.0, 255.0) } else { value }
}

/// The taps of rows and columns for scaling pictures of size `from` to fill `size`, of which `kept` is kept.
fn taps(kernel: Kernel, from: [usize; 2], size: [usize; 2], kept: [usize; 2]) -> [Taps; 2] {
    let ratios = [0, 1].map(|i| size[i] as f64 / from[i] as f64);
    // The side that has to grow more (or shrink less) fits exactly, the other is cut.
    let exact = usize::from(ratios[0] <= ratios[1]);
    [0, 1].map(|i| {
        let whole = if i == exact { size[i] } else { (from[i] as f64 * ratios[exact]).round_ties_even() as usize };
        let rest = whole.saturating_sub(size[i]);
        let first = match kernel {
            Kernel::Pillow => (rest as f64 / 2.0).round_ties_even() as usize,
            Kernel::Torch => rest / 2,
        };
        (first..first + kept[i]).map(|at| tap(kernel, from[i], whole.max(size[i]), at)).collect()
    })
}

/// The tap of pixel `at` of `out` pixels resampled from `from`.
fn tap(kernel: Kernel, from: usize, out: usize, at: usize) -> (usize, Vec<f64>) {
    let scale = from as f64 / out as f64;
    let centre = (at as f64 + 0.5) * scale;
    if kernel == Kernel::Torch {
        let place = (centre - 0.5).max(0.0);
        let first = (place as usize).min(from - 1);
        let share = place - first as f64;
        return if first + 1 < from { (first, vec![1.0 - share, share]) } else { (first, vec![1.0]) };
    }
    // When pictures shrink the kernel grows to the area of a new pixel.
    let stretch = scale.max(1.0);
    let reach = 2.0 * stretch;
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(from);
    let weights: Vec<f64> = (first..end).map(|i| cubic((i as f64 - centre + 0.5) / stretch)).collect();
    let sum: f64 = weights.iter().sum();
    (first, weights.iter().map(|w| (w / sum * WEIGHT).round() / WEIGHT).collect())
}

/// The bicubic kernel.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Media;
    use std::path::Path;

    fn golden(name: &str) -> Frames {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media").join(name);
        match Media::read(&path).unwrap() {
            Media::Frames(frames) => frames,
            Media::Latents(_) => panic!("a picture"),
        }
    }

    fn bytes(planes: &[f32]) -> Vec<u8> {
        let plane = planes.len() / 3;
        (0..planes.len()).map(|i| ((planes[i % 3 * plane + i / 3] + 1.0) * 127.5).round() as u8).collect()
    }

    /// Made by the published code with Pillow (tools/media_goldens.py): wider, higher, smaller and larger than the picture of 56x40.
    #[test]
    fn pictures_are_resized_as_published() {
        let picture = golden("photo.jpg.png");
        for [height, width] in [[24, 64], [64, 24], [17, 13], [120, 168]] {
            let expected = golden(&format!("fit_{height}x{width}.png"));
            let planes = fitted(&picture, [height, width], [height, width]);
            assert_eq!(bytes(&planes), expected.rgb, "{height}x{width}");
        }
        // What is kept is the upper left of it.
        let (whole, part) = (fitted(&picture, [24, 64], [24, 64]), fitted(&picture, [24, 64], [16, 56]));
        for (i, value) in part.iter().enumerate() {
            let (c, y, x) = (i / (16 * 56), i / 56 % 16, i % 56);
            assert_eq!(*value, whole[(c * 24 + y) * 64 + x]);
        }
        assert_eq!(bytes(&fitted(&picture, [48, 64], [40, 56])), picture.rgb, "as large as what is kept");
    }

    /// Computed by hand: align_corners is off, and shrinking does not smooth.
    #[test]
    fn videos_are_resized_as_published() {
        let grey = |values: &[u8]| values.iter().flat_map(|v| [*v; 3]).collect::<Vec<u8>>();
        let still = [grey(&[0, 40, 80, 120]), grey(&[0, 40, 80, 120])].concat();
        let video = Frames { width: 4, height: 1, fps: 1.0, rgb: still };
        // To twice the size: places −0.25 → 0, 0.25, 0.75, …; both lines of a frame are equal. 8 columns of 2 rows fill 2x8.
        let values = |planes: Vec<f32>| planes.iter().map(|v| (v + 1.0) * 127.5).collect::<Vec<_>>();
        let larger = values(fitted(&video, [2, 8], [2, 8]));
        let expected = [0.0, 10.0, 30.0, 50.0, 70.0, 90.0, 110.0, 120.0];
        assert_eq!(larger.len(), 3 * 2 * 2 * 8);
        assert!(larger.iter().enumerate().all(|(i, v)| (v - expected[i % 8]).abs() < 1e-4), "{larger:?}");
        // 1x1 of 1x4: nothing is scaled, a rest of 3 is cut: 1 on the left.
        assert!(values(fitted(&video, [1, 1], [1, 1])).iter().all(|v| (v - 40.0).abs() < 1e-4));
    }
}
