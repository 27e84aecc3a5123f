//! Single pictures (PNG, JPEG, WebP) to RGB. Transparency is dropped, not blended, as the published pipeline does.

use std::io::Cursor;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::frames::Frames;

/// The frame rate given to a picture, which has none.
pub(super) const STILL: f64 = 1.0;

/// A PNG.
pub(super) fn png(bytes: &[u8]) -> Result<Frames, String> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let size = reader.output_buffer_size().ok_or("the picture is too large")?;
    let mut pixels = vec![0; size];
    let info = reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    pixels.truncate(info.buffer_size());
    let rgb = match info.color_type {
        png::ColorType::Rgb => pixels,
        png::ColorType::Rgba => opaque(&pixels),
        png::ColorType::Grayscale => pixels.iter().flat_map(|grey| [*grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        png::ColorType::Indexed => return Err("its palette is missing".into()),
    };
    Ok(Frames { width: info.width as usize, height: info.height as usize, fps: STILL, rgb })
}

/// A JPEG, baseline or progressive.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Frames, String> {
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().map_err(|e| format!("{e:?}"))?;
    let (width, height) = decoder.dimensions().ok_or("the picture has no size")?;
    Ok(Frames { width, height, fps: STILL, rgb })
}

/// A WebP, all frames of an animated one.
pub(super) fn webp(bytes: &[u8]) -> Result<Frames, String> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or("the picture is too large")?];
    let (mut rgb, mut milliseconds) = (vec![], 0);
    let alpha = decoder.has_alpha();
    let mut push = |pixels: &[u8]| if alpha { rgb.extend(opaque(pixels)) } else { rgb.extend(pixels) };
    if decoder.is_animated() {
        for _ in 0..decoder.num_frames() {
            milliseconds += decoder.read_frame(&mut pixels).map_err(|e| e.to_string())?;
            push(&pixels);
        }
    } else {
        decoder.read_image(&mut pixels).map_err(|e| e.to_string())?;
        push(&pixels);
    }
    let fps = match milliseconds {
        0 => STILL,
        ms => (f64::from(decoder.num_frames()) * 1000.0 / f64::from(ms)).clamp(0.01, 1000.0),
    };
    Ok(Frames { width: width as usize, height: height as usize, fps, rgb })
}

/// RGBA to RGB.
pub(super) fn opaque(rgba: &[u8]) -> Vec<u8> {
    rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
}
