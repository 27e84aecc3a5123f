//! Animated GIF: written with one palette for the whole video (per-frame palettes flicker) and an endless loop; read as players show it.

use std::borrow::Cow;
use std::collections::HashMap;

use color_quant::NeuQuant;
use gif::{ColorOutput, DecodeOptions, DisposalMethod, Encoder, Extension, Frame, Repeat};

use super::frames::{Frames, Metadata};
use super::picture::{STILL, opaque};

/// The delay, in hundredths of a second, that players use for a frame without one.
const NO_DELAY: u16 = 10;

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

/// The frames as they are displayed, each drawn over the previous one. Undrawn areas are black.
pub(super) fn decode(bytes: &[u8]) -> Result<Frames, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    let mut decoder = options.read_info(bytes).map_err(|e| e.to_string())?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let mut canvas = vec![0; width * height * 4];
    let (mut rgb, mut delays) = (vec![], vec![]);
    while let Some(frame) = decoder.read_next_frame().map_err(|e| e.to_string())? {
        let before = (frame.dispose == DisposalMethod::Previous).then(|| canvas.clone());
        let left = usize::from(frame.left).min(width);
        let across = usize::from(frame.width).min(width - left);
        // What lies outside of the canvas is not seen.
        let lines = canvas.chunks_exact_mut((width * 4).max(1)).skip(usize::from(frame.top));
        let drawn = frame.buffer.chunks_exact((usize::from(frame.width) * 4).max(1));
        for (line, drawn) in lines.zip(drawn) {
            let pixels = line[left * 4..][..across * 4].chunks_exact_mut(4).zip(drawn.chunks_exact(4));
            pixels.filter(|(_, pixel)| pixel[3] > 0).for_each(|(to, pixel)| to.copy_from_slice(pixel));
        }
        rgb.extend(opaque(&canvas));
        delays.push(f64::from(if frame.delay == 0 { NO_DELAY } else { frame.delay }));
        match (frame.dispose, before) {
            (DisposalMethod::Background, _) => {
                let lines = canvas.chunks_exact_mut((width * 4).max(1)).skip(usize::from(frame.top));
                lines.take(usize::from(frame.height)).for_each(|line| line[left * 4..][..across * 4].fill(0));
            }
            (_, Some(before)) => canvas = before,
            _ => {}
        }
    }
    let fps = match &delays[..] {
        [] => return Err("the file ends before its first frame".into()),
        [_] => STILL,
        delays => (delays.len() as f64 * 100.0 / delays.iter().sum::<f64>()).clamp(0.01, 1000.0),
    };
    Ok(Frames { width, height, fps, rgb })
}

/// At most 256 colours and the mapping from a pixel to one of them.
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

    fn frames_of(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
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
        let decoded = frames_of(&encode(&frames, 3, &Metadata::default()).unwrap());
        assert_eq!(decoded.iter().map(|f| f.0).collect::<Vec<_>>(), [13, 12, 13, 12]);
        let first = &decoded[1].1;
        assert_eq!(first.len(), 6 * 3 * 4);
        assert_eq!(&first[..4], [60, 60, 60, 255]);
        assert_eq!(&first[5 * 4..6 * 4], [90, 90, 90, 255]);
    }

    /// Partial frames, transparent pixels and remaining content: computed by hand.
    #[test]
    fn frames_are_drawn_over_one_another() {
        let mut bytes = vec![];
        // Colours 0 to 3; 3 is transparent.
        let mut encoder = Encoder::new(&mut bytes, 3, 1, &[10, 10, 10, 20, 20, 20, 30, 30, 30, 0, 0, 0]).unwrap();
        for (left, pixels, dispose) in [
            (0, &[0, 0, 0][..], DisposalMethod::Keep),
            (1, &[1, 3], DisposalMethod::Background),
            (0, &[2], DisposalMethod::Previous),
            (2, &[1], DisposalMethod::Any),
        ] {
            let (width, buffer) = (pixels.len() as u16, Cow::Borrowed(pixels));
            let frame =
                Frame { left, width, height: 1, buffer, dispose, transparent: Some(3), delay: 5, ..Frame::default() };
            encoder.write_frame(&frame).unwrap();
        }
        drop(encoder);
        let frames = decode(&bytes).unwrap();
        assert_eq!((frames.width, frames.height, frames.fps), (3, 1, 20.0));
        let grey: Vec<u8> = frames.rgb.chunks(3).map(|pixel| pixel[0]).collect();
        // The second clears its two pixels, the third is taken back.
        assert_eq!(grey, [[10, 10, 10], [10, 20, 10], [30, 0, 0], [10, 0, 20]].concat());
        // What is cut off is an error, or what comes before the cut.
        for end in 0..bytes.len() {
            if let Ok(part) = decode(&bytes[..end]) {
                assert!(frames.rgb.starts_with(&part.rgb), "cut at {end}");
            }
        }
    }

    #[test]
    fn many_colours_stay_close() {
        let mut rgb = vec![];
        for i in 0..2 * 64 * 64u32 {
            rgb.extend([(i % 64 * 4) as u8, (i / 64 % 64 * 4) as u8, 128]);
        }
        let frames = Frames { width: 64, height: 64, fps: 8.0, rgb };
        let decoded = frames_of(&encode(&frames, 1, &Metadata::default()).unwrap());
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
