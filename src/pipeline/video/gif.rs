//! Animated GIF: one palette for the whole video (per-frame palettes flicker), endless loop.

use std::borrow::Cow;
use std::collections::HashMap;

use color_quant::NeuQuant;
use gif::{Encoder, Extension, Frame, Repeat};

use super::{Frames, Metadata};

/// The file's bytes, every pixel repeated `scale` times in both directions.
pub(super) fn encode(frames: &Frames, scale: usize, metadata: &Metadata) -> Result<Vec<u8>, String> {
    let side = |n: usize| {
        n.checked_mul(scale)
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(|| format!("a GIF has at most 65535 pixels on a side, not {n} x {scale}"))
    };
    let (width, height) = (side(frames.width)?, side(frames.height)?);
    let palette = Palette::new(&frames.rgb);

    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &palette.rgb).map_err(|e| e.to_string())?;
    encoder.set_repeat(Repeat::Infinite).map_err(|e| e.to_string())?;
    let comment = format!("{} ({})", metadata.prompt, metadata.comment());
    let blocks: Vec<&[u8]> = comment.as_bytes().chunks(255).collect();
    encoder.write_raw_extension(Extension::Comment.into(), &blocks).map_err(|e| e.to_string())?;
    for (i, rgb) in frames.iter().enumerate() {
        // Delays are hundredths of a second: carry the rounding so that 8 fps alternates 12 and 13.
        let at = |frame: usize| (frame as f64 * 100.0 / frames.fps).round();
        let delay = (at(i + 1) - at(i)).clamp(1.0, 65535.0) as u16;
        let mut buffer = Vec::with_capacity(usize::from(width) * usize::from(height));
        for line in rgb.chunks_exact(frames.width * 3) {
            let start = buffer.len();
            for pixel in line.chunks_exact(3) {
                buffer.resize(buffer.len() + scale, palette.index(pixel));
            }
            let end = buffer.len();
            for _ in 1..scale {
                buffer.extend_from_within(start..end);
            }
        }
        let frame = Frame { delay, width, height, buffer: Cow::Owned(buffer), ..Frame::default() };
        encoder.write_frame(&frame).map_err(|e| e.to_string())?;
    }
    drop(encoder);
    Ok(bytes)
}

/// At most 256 colours and the way from a pixel to one of them.
pub(super) struct Palette {
    pub(super) rgb: Vec<u8>,
    exact: HashMap<[u8; 3], u8>,
    quantizer: Option<NeuQuant>,
}

impl Palette {
    pub(super) fn new(rgb: &[u8]) -> Palette {
        let mut exact: HashMap<[u8; 3], u8> = HashMap::new();
        let mut colours = Vec::new();
        for pixel in rgb.chunks_exact(3) {
            let pixel = [pixel[0], pixel[1], pixel[2]];
            if exact.contains_key(&pixel) {
                continue;
            }
            let Ok(index) = u8::try_from(exact.len()) else {
                let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
                // Sampling factor: every third pixel teaches the network once there are many.
                let quantizer = NeuQuant::new(if rgba.len() > 1 << 18 { 3 } else { 1 }, 256, &rgba);
                return Palette { rgb: quantizer.color_map_rgb(), exact: HashMap::new(), quantizer: Some(quantizer) };
            };
            exact.insert(pixel, index);
            colours.extend_from_slice(&pixel);
        }
        Palette { rgb: colours, exact, quantizer: None }
    }

    pub(super) fn index(&self, pixel: &[u8]) -> u8 {
        match &self.quantizer {
            Some(quantizer) => quantizer.index_of(&[pixel[0], pixel[1], pixel[2], 255]) as u8,
            None => self.exact[&[pixel[0], pixel[1], pixel[2]]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(bytes).unwrap();
        let mut frames = vec![];
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            frames.push((frame.delay, frame.buffer.to_vec()));
        }
        frames
    }

    #[test]
    fn few_colours_survive_exactly_and_delays_add_up() {
        let rgb: Vec<u8> = (0..4 * 6).map(|i| (i / 3 * 30) as u8).collect();
        let frames = Frames { width: 2, height: 1, fps: 8.0, rgb };
        let decoded = decode(&encode(&frames, 3, &Metadata::default()).unwrap());
        assert_eq!(decoded.iter().map(|f| f.0).collect::<Vec<_>>(), [13, 12, 13, 12]);
        let first = &decoded[1].1;
        assert_eq!(first.len(), 6 * 3 * 4);
        assert_eq!(&first[..4], [60, 60, 60, 255]);
        assert_eq!(&first[5 * 4..6 * 4], [90, 90, 90, 255]);
    }

    #[test]
    fn many_colours_stay_close() {
        let mut rgb = vec![];
        for i in 0..2 * 64 * 64u32 {
            rgb.extend([(i % 64 * 4) as u8, (i / 64 % 64 * 4) as u8, 128]);
        }
        let frames = Frames { width: 64, height: 64, fps: 8.0, rgb };
        let decoded = decode(&encode(&frames, 1, &Metadata::default()).unwrap());
        let error: f64 = decoded[0]
            .1
            .chunks_exact(4)
            .zip(frames.rgb.chunks_exact(3))
            .map(|(a, b)| (0..3).map(|c| (f64::from(a[c]) - f64::from(b[c])).powi(2)).sum::<f64>() / 3.0)
            .sum::<f64>()
            / 4096.0;
        assert!(error < 60.0, "mean squared error {error}");
    }
}
