//! Animated GIF: written with one palette for the whole video (per-frame palettes flicker) and an endless loop; read as players show it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use color_quant::NeuQuant;
use gif::{ColorOutput, DecodeOptions, DisposalMethod, Encoder, EncodingError, Extension, Frame, Repeat};

use super::canvas::{After, Canvas, Patch};
use super::frames::{Frames, Metadata, Shown};
use super::pool::{Failure, Pool, Ticker};
use super::{pace, picture, settings};
use crate::model::Progress;

/// The file's bytes, every pixel repeated `scale` times in both directions. Pictures are compressed several at once.
pub(super) fn encode(
    frames: &Frames,
    scale: usize,
    metadata: &Metadata,
    progress: Progress<'_>,
) -> Result<Vec<u8>, Failure> {
    let side = |n: usize| {
        let side = n.checked_mul(scale).and_then(|n| u16::try_from(n).ok());
        side.ok_or_else(|| Failure::Encode(format!("a GIF has at most 65535 pixels on a side, not {n} x {scale}")))
    };
    let (width, height) = (side(frames.width)?, side(frames.height)?);
    let palette = Arc::new(Palette::new(&frames.rgb));
    let (colours, across) = (palette.clone(), frames.width);
    let mut pool = Pool::new(move |rgb: &[u8], ticker: &Ticker| {
        let buffer = indices(rgb, across, scale, &colours);
        let mut frame = Frame { width, height, buffer: Cow::Owned(buffer), ..Frame::default() };
        frame.make_lzw_pre_encoded();
        ticker.frame().ok_or("stopped")?;
        Ok(frame)
    });
    frames.iter().for_each(|rgb| pool.push(rgb.to_vec()));
    let pictures = pool.finish(frames.count(), progress)?;
    assemble(pictures, frames.fps, &palette, metadata).map_err(|error| Failure::Encode(error.to_string()))
}

/// The colours of a picture by their numbers in the palette, every pixel repeated.
fn indices(rgb: &[u8], width: usize, scale: usize, palette: &Palette) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(rgb.len() / 3 * scale * scale);
    for line in rgb.chunks_exact(width * 3) {
        let start = buffer.len();
        for pixel in line.chunks_exact(3) {
            buffer.resize(buffer.len() + scale, palette.index(pixel));
        }
        let end = buffer.len();
        for _ in 1..scale {
            buffer.extend_from_within(start..end);
        }
    }
    buffer
}

/// The file of compressed pictures.
fn assemble(
    pictures: Vec<Frame<'static>>,
    fps: f64,
    palette: &Palette,
    metadata: &Metadata,
) -> Result<Vec<u8>, EncodingError> {
    let (width, height) = pictures.first().map_or((0, 0), |first| (first.width, first.height));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &palette.rgb)?;
    encoder.set_repeat(Repeat::Infinite)?;
    let people = format!("{} ({})", metadata.prompt, metadata.comment());
    let programs = format!("{}{}", settings::COMMENT, metadata.settings);
    for comment in [people, programs].iter().take(if metadata.settings.is_empty() { 1 } else { 2 }) {
        let blocks: Vec<&[u8]> = comment.as_bytes().chunks(255).collect();
        encoder.write_raw_extension(Extension::Comment.into(), &blocks)?;
    }
    for (i, picture) in pictures.into_iter().enumerate() {
        // Delays are hundredths of a second: carry the rounding so that 8 fps alternates 12 and 13.
        let at = |frame: usize| (frame as f64 * 100.0 / fps).round();
        let delay = (at(i + 1) - at(i)).clamp(1.0, 65535.0) as u16;
        encoder.write_lzw_pre_encoded_frame(&Frame { delay, ..picture })?;
    }
    drop(encoder);
    Ok(bytes)
}

/// The frames as they are displayed, each drawn over the previous one; what is transparent is white.
pub(super) fn decode(bytes: &[u8]) -> Result<Shown, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    let mut decoder = options.read_info(bytes).map_err(|e| e.to_string())?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let mut canvas = Canvas::new(width, height);
    let (mut rgb, mut durations, mut transparent) = (vec![], vec![], false);
    while let Some(frame) = decoder.read_next_frame().map_err(|e| e.to_string())? {
        transparent |= canvas.show(
            &Patch {
                left: usize::from(frame.left),
                top: usize::from(frame.top),
                width: usize::from(frame.width),
                rgba: &frame.buffer,
                over: true,
                after: match frame.dispose {
                    DisposalMethod::Background => After::Clear,
                    DisposalMethod::Previous => After::Restore,
                    DisposalMethod::Any | DisposalMethod::Keep => After::Keep,
                },
            },
            &mut rgb,
        );
        durations.push(if frame.delay == 0 { pace::NO_DELAY } else { f64::from(frame.delay) / 100.0 });
    }
    if durations.is_empty() {
        return Err("the file ends before its first frame".into());
    }
    let mut remarks = vec![];
    let fps = picture::rate(&durations, 0.01, &mut remarks)?;
    remarks.extend(transparent.then(|| picture::TRANSPARENT.to_owned()));
    Ok(Shown { frames: Frames { width, height, fps, rgb }, remarks })
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

    fn encoded(frames: &Frames, scale: usize) -> Vec<u8> {
        let mut go_on = |_, _| std::ops::ControlFlow::Continue(());
        encode(frames, scale, &Metadata::default(), &mut go_on).ok().unwrap()
    }

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
        let decoded = frames_of(&encoded(&frames, 3));
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
        let Shown { frames, remarks } = decode(&bytes).unwrap();
        assert_eq!((frames.width, frames.height, frames.fps), (3, 1, 20.0));
        let grey: Vec<u8> = frames.rgb.chunks(3).map(|pixel| pixel[0]).collect();
        // The second clears its two pixels, the third is taken back; what is transparent is white.
        assert_eq!(grey, [[10, 10, 10], [10, 20, 10], [30, 255, 255], [10, 255, 20]].concat());
        assert_eq!(remarks, [picture::TRANSPARENT]);
        // What is cut off is an error, or what comes before the cut.
        for end in 0..bytes.len() {
            if let Ok(part) = decode(&bytes[..end]) {
                assert!(frames.rgb.starts_with(&part.frames.rgb), "cut at {end}");
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
        let decoded = frames_of(&encoded(&frames, 1));
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
