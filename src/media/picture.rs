//! Pictures and their animations (PNG, JPEG, WebP) to RGB, as viewers show them: turned as their EXIF data say, over white where they are
//! transparent. What this costs is remarked.

use std::io::Cursor;

use png::{BlendOp, DisposeOp};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::canvas::{After, Canvas, Patch, over_white};
use super::frames::{Frames, Shown};
use super::turn::Turn;
use super::{pace, profile};

/// The frame rate given to a picture, which has none.
pub(super) const STILL: f64 = 1.0;

/// What is said of pictures that are transparent somewhere.
pub(super) const TRANSPARENT: &str = "it is transparent in places: read over white";

/// What the other data of a picture say about it.
#[derive(Default)]
struct Besides {
    exif: Option<Vec<u8>>,
    icc: Option<Vec<u8>>,
    transparent: bool,
}

/// `frames` as they are viewed.
fn shown(frames: Frames, besides: Besides, mut remarks: Vec<String>) -> Shown {
    let turn = match besides.exif.map(|exif| Turn::of_exif(&exif)) {
        Some(Ok(turn)) => turn,
        Some(Err(problem)) => {
            remarks.push(format!("{problem}: read as it is stored"));
            Turn::default()
        }
        None => Turn::default(),
    };
    remarks.extend(besides.icc.and_then(|icc| profile::remark(&icc)));
    remarks.extend(besides.transparent.then(|| TRANSPARENT.to_owned()));
    Shown { frames: turn.applied(frames), remarks }
}

/// The frame rate of an animation, a picture if it has one frame or none.
pub(super) fn rate(durations: &[f64], tick: f64, remarks: &mut Vec<String>) -> Result<f64, String> {
    if durations.len() < 2 {
        return Ok(STILL);
    }
    remarks.extend(pace::variation(durations, tick));
    pace::rate(durations)
}

/// A PNG, all frames of an animated one.
pub(super) fn png(bytes: &[u8]) -> Result<Shown, String> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8() | png::Transformations::ALPHA);
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
    let animation = reader.info().animation_control.map(|control| control.num_frames);
    if animation.is_some() && reader.info().frame_control.is_none() {
        // For programs that know no animations.
        reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    }
    let mut canvas = Canvas::new(width, height);
    let (mut rgb, mut durations, mut besides) = (vec![], vec![], Besides::default());
    for _ in 0..animation.unwrap_or(1) {
        let found = reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
        if reader.info().interlaced && found.width as usize != width {
            return Err("its animation is interlaced, which is not supported".into());
        }
        let rgba = match found.color_type {
            png::ColorType::Rgba => pixels[..found.buffer_size()].to_vec(),
            png::ColorType::GrayscaleAlpha => {
                pixels[..found.buffer_size()].chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect()
            }
            other => return Err(format!("its pixels are {other:?}, not RGBA")),
        };
        let mut patch =
            Patch { left: 0, top: 0, width: found.width as usize, rgba: &rgba, over: false, after: After::Keep };
        if let Some(control) = reader.info().frame_control.filter(|_| animation.is_some()) {
            (patch.left, patch.top) = (control.x_offset as usize, control.y_offset as usize);
            patch.over = control.blend_op == BlendOp::Over;
            patch.after = match control.dispose_op {
                DisposeOp::None => After::Keep,
                DisposeOp::Background => After::Clear,
                DisposeOp::Previous => After::Restore,
            };
            // A denominator of 0 stands for 100.
            let unit = if control.delay_den == 0 { 100.0 } else { f64::from(control.delay_den) };
            durations.push(if control.delay_num == 0 { pace::NO_DELAY } else { f64::from(control.delay_num) / unit });
        }
        besides.transparent |= canvas.show(&patch, &mut rgb);
    }
    // EXIF data may follow the pixels.
    reader.finish().map_err(|e| e.to_string())?;
    let mut remarks = vec![];
    let fps = rate(&durations, 0.001, &mut remarks)?;
    let info = reader.info();
    if info.bit_depth == png::BitDepth::Sixteen {
        remarks.push("its 16 bits a channel are read as 8".into());
    }
    // A gamma says something only where no profile does; 1/2.2 is sRGB's.
    let gamma =
        info.gama_chunk.map(|gamma| gamma.into_value()).filter(|_| info.srgb.is_none() && info.icc_profile.is_none());
    if let Some(gamma) = gamma.filter(|gamma| (gamma - 1.0 / 2.2).abs() > 0.01) {
        remarks.push(format!("its colours have gamma {gamma:.3}, but are read as sRGB (0.455)"));
    }
    besides.exif = info.exif_metadata.as_ref().map(|exif| exif.to_vec());
    besides.icc = info.icc_profile.as_ref().map(|icc| icc.to_vec());
    Ok(shown(Frames { width, height, fps, rgb }, besides, remarks))
}

/// A JPEG, baseline or progressive.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Shown, String> {
    // The decoder does not miss the last lines of a file that is cut off there: no end of the picture behind its last scan.
    let scan = bytes.windows(2).rposition(|marker| marker == [0xFF, 0xDA]).unwrap_or(0);
    if !bytes[scan..].windows(2).any(|marker| marker == [0xFF, 0xD9]) {
        return Err("the file ends before the picture does".into());
    }
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().map_err(|e| format!("{e:?}"))?;
    let (width, height) = decoder.dimensions().ok_or("the picture has no size")?;
    let mut remarks = vec![];
    if let Some(ColorSpace::CMYK | ColorSpace::YCCK) = decoder.input_colorspace() {
        remarks.push("its colours are inks (CMYK): turned into RGB without a profile, which is not exact".into());
    }
    let besides = Besides { exif: decoder.exif().cloned(), icc: decoder.icc_profile(), transparent: false };
    Ok(shown(Frames { width, height, fps: STILL, rgb }, besides, remarks))
}

/// A WebP, all frames of an animated one.
pub(super) fn webp(bytes: &[u8]) -> Result<Shown, String> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or("the picture is too large")?];
    let (mut rgb, mut durations, mut besides) = (vec![], vec![], Besides::default());
    let alpha = decoder.has_alpha();
    let mut push = |pixels: &[u8]| {
        if alpha {
            besides.transparent |= over_white(pixels, &mut rgb);
        } else {
            rgb.extend(pixels);
        }
    };
    if decoder.is_animated() {
        // What no frame covers is transparent, and white where nothing can be transparent.
        decoder.set_background_color(if alpha { [0; 4] } else { [255; 4] }).map_err(|e| e.to_string())?;
        for _ in 0..decoder.num_frames() {
            let milliseconds = decoder.read_frame(&mut pixels).map_err(|e| e.to_string())?;
            durations.push(if milliseconds == 0 { pace::NO_DELAY } else { f64::from(milliseconds) / 1000.0 });
            push(&pixels);
        }
    } else {
        decoder.read_image(&mut pixels).map_err(|e| e.to_string())?;
        push(&pixels);
    }
    let mut remarks = vec![];
    let fps = rate(&durations, 0.001, &mut remarks)?;
    besides.exif = decoder.exif_metadata().map_err(|e| e.to_string())?;
    besides.icc = decoder.icc_profile().map_err(|e| e.to_string())?;
    Ok(shown(Frames { width: width as usize, height: height as usize, fps, rgb }, besides, remarks))
}
