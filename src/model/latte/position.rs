//! The sinusoids that stand for positions. Frequencies and angles are f64, as published.

use super::LatteConfig;

/// Of the tokens of a frame of `height × width` tokens, `[tokens, C]`: the column's sinusoid in the first half of the channels, the row's in
/// the second.
///
/// Coordinates are stretched to the native grid, whatever the number of tokens.
pub(super) fn of_tokens(config: &LatteConfig, [height, width]: [usize; 2]) -> Vec<f32> {
    let half = config.hidden_size() / 2;
    // In f32, as published: they are the quotients of small integers.
    let line = |count: usize| -> Vec<Vec<f32>> {
        let unit = (count as f64 / config.position_base() as f64) as f32;
        (0..count).map(|i| sinusoid(f64::from(i as f32 / unit / config.position_scale() as f32), half)).collect()
    };
    let (rows, columns) = (line(height), line(width));
    rows.iter().flat_map(|row| columns.iter().flat_map(move |column| column.iter().chain(row).copied())).collect()
}

/// Of `frames` frames, `[frames, C]`.
pub(super) fn of_frames(config: &LatteConfig, frames: usize) -> Vec<f32> {
    (0..frames).flat_map(|frame| sinusoid(frame as f64 / config.frame_scale, config.hidden_size())).collect()
}

/// `[sin, cos](position · f_k)` in `width` channels, f_k = 10000^(−k/(width/2)).
fn sinusoid(position: f64, width: usize) -> Vec<f32> {
    let count = width / 2;
    let angles = (0..count).map(|k| position * 10000f64.powf(-(k as f64) / count as f64)).collect::<Vec<f64>>();
    angles.iter().map(|angle| angle.sin() as f32).chain(angles.iter().map(|angle| angle.cos() as f32)).collect()
}
