//! SSIM (Wang et al. 2004), like scikit-image's `structural_similarity` with `gaussian_weights=True, sigma=1.5,
//! use_sample_covariance=False, data_range=255, channel_axis=-1`.

use super::error::RANGE;

/// σ of the gaussian window.
const SIGMA: f64 = 1.5;
/// The radius of the window: ⌊3.5·σ + 0.5⌋ pixels from its centre.
const RADIUS: usize = 5;
/// Side of the window in pixels: the smallest frame for which SSIM is defined.
pub const SSIM_WINDOW: usize = 2 * RADIUS + 1;

/// The window's weights, which sum to 1.
fn window() -> [f64; SSIM_WINDOW] {
    let weight = |i: usize| (-0.5 * ((i as f64 - RADIUS as f64) / SIGMA).powi(2)).exp();
    let weights: [f64; SSIM_WINDOW] = std::array::from_fn(weight);
    let total: f64 = weights.iter().sum();
    weights.map(|w| w / total)
}

/// The weighted mean of `image` `[height, width]` around every pixel that is at least the window's radius from the border.
fn blurred(image: &[f64], width: usize, window: &[f64; SSIM_WINDOW]) -> Vec<f64> {
    let dot = |at: &dyn Fn(usize) -> f64| -> f64 { window.iter().enumerate().map(|(i, w)| w * at(i)).sum() };
    let inner = width - 2 * RADIUS;
    let along: Vec<f64> =
        image.chunks_exact(width).flat_map(|line| (0..inner).map(move |x| dot(&|i| line[x + i]))).collect();
    let height = image.len() / width - 2 * RADIUS;
    (0..height * inner).map(|at| dot(&|i| along[at + i * inner])).collect()
}

/// Mean structural similarity of two frames `[height, width, 3]`, averaged over their channels.
///
/// # Panics
/// Frames smaller than [`SSIM_WINDOW`], or not of the given size.
pub fn ssim(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
    assert!(width.min(height) >= SSIM_WINDOW && a.len() == 3 * width * height && b.len() == a.len());
    let window = window();
    let (c1, c2) = ((0.01 * RANGE).powi(2), (0.03 * RANGE).powi(2));
    let of_channel = |channel: usize| {
        let values =
            |frame: &[u8]| -> Vec<f64> { frame.iter().skip(channel).step_by(3).map(|v| f64::from(*v)).collect() };
        let (x, y) = (values(a), values(b));
        let of = |p: &[f64], q: &[f64]| -> Vec<f64> {
            let products: Vec<f64> = p.iter().zip(q).map(|(p, q)| p * q).collect();
            blurred(&products, width, &window)
        };
        let (ux, uy) = (blurred(&x, width, &window), blurred(&y, width, &window));
        let (uxx, uyy, uxy) = (of(&x, &x), of(&y, &y), of(&x, &y));
        let at = |i: usize| {
            let (mx, my) = (ux[i], uy[i]);
            let (vx, vy, vxy) = (uxx[i] - mx * mx, uyy[i] - my * my, uxy[i] - mx * my);
            ((2.0 * mx * my + c1) * (2.0 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
        };
        (0..ux.len()).map(at).sum::<f64>() / ux.len() as f64
    };
    (0..3).map(of_channel).sum::<f64>() / 3.0
}
