//! Colour spaces of decoded pictures: the matrix, the range, and the conversion to RGB.

use rusty_h264_common::bit_reader::OutOfData;
use rusty_h264_common::{BitReader, YuvFrame};

/// The interpretation of luma and chroma (ITU-T H.273).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours {
    /// The shares of red and blue in luma.
    red: f32,
    blue: f32,
    /// 0..255 instead of 16..235.
    full_range: bool,
}

impl Colours {
    /// For files without this information: BT.601, which ffmpeg assumes too.
    pub(super) const UNNAMED: Colours = Colours { red: 0.299, blue: 0.114, full_range: false };

    /// From the code point of the matrix.
    pub(super) fn coded(matrix: usize, full_range: bool) -> Colours {
        let (red, blue) = match matrix {
            1 => (0.2126, 0.0722),
            7 => (0.212, 0.087),
            9 => (0.2627, 0.0593),
            _ => (Colours::UNNAMED.red, Colours::UNNAMED.blue),
        };
        Colours { red, blue, full_range }
    }

    /// From a sequence parameter set, if it has this information.
    pub(super) fn of_sps(bits: &[u8]) -> Option<Colours> {
        signal_type(&mut BitReader::new(bits)).ok().flatten()
    }

    /// 4:2:0 to full-range RGB; each chroma sample applies to its 2x2 pixels.
    pub(super) fn to_rgb(self, frame: &YuvFrame, rgb: &mut Vec<u8>) {
        let Colours { red, blue, full_range } = self;
        let (black, luma, chroma) = if full_range { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
        let across = frame.width.div_ceil(2);
        for y in 0..frame.height {
            for x in 0..frame.width {
                let at = y / 2 * across + x / 2;
                let l = (f32::from(frame.y[y * frame.width + x]) - black) * luma;
                let [u, v] = [frame.u[at], frame.v[at]].map(|c| (f32::from(c) - 128.0) * chroma);
                let (r, b) = (l + 2.0 * (1.0 - red) * v, l + 2.0 * (1.0 - blue) * u);
                let g = (l - red * r - blue * b) / (1.0 - red - blue);
                rgb.extend([r, g, b].map(|c| (c + 0.5) as u8));
            }
        }
    }
}

/// Parses a sequence parameter set (ITU-T H.264 7.3.2.1.1) up to its video signal type (E.1.1), which the decoder does not use.
fn signal_type(r: &mut BitReader<'_>) -> Result<Option<Colours>, OutOfData> {
    // Long, but a list: the fields in the order of the standard.
    let profile = r.read_bits(8)?;
    r.skip_bits(16)?; // constraints and level
    r.read_ue()?; // id
    if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
        let chroma = r.read_ue()?;
        if chroma == 3 {
            r.read_bit()?;
        }
        r.read_ue()?; // bit depths
        r.read_ue()?;
        r.read_bit()?;
        if r.read_bit()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if r.read_bit()? {
                    scaling_list(r, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    r.read_ue()?; // bits of frame numbers
    match r.read_ue()? {
        0 => drop(r.read_ue()?),
        1 => {
            r.read_bit()?;
            r.read_se()?;
            r.read_se()?;
            for _ in 0..r.read_ue()? {
                r.read_se()?;
            }
        }
        _ => {}
    }
    r.read_ue()?; // reference frames
    r.read_bit()?;
    r.read_ue()?; // width and height
    r.read_ue()?;
    if !r.read_bit()? {
        r.read_bit()?; // fields
    }
    r.read_bit()?;
    if r.read_bit()? {
        for _side in 0..4 {
            r.read_ue()?; // cropping
        }
    }
    if !r.read_bit()? {
        return Ok(None);
    }
    if r.read_bit()? && r.read_bits(8)? == 255 {
        r.skip_bits(32)?; // aspect of pixels
    }
    if r.read_bit()? {
        r.read_bit()?; // overscan
    }
    if !r.read_bit()? {
        return Ok(None);
    }
    r.skip_bits(3)?; // format
    let full_range = r.read_bit()?;
    let matrix = if r.read_bit()? {
        r.skip_bits(16)?; // primaries and transfer
        r.read_bits(8)?
    } else {
        2
    };
    Ok(Some(Colours::coded(matrix as usize, full_range)))
}

fn scaling_list(r: &mut BitReader<'_>, size: usize) -> Result<(), OutOfData> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            next = r.read_se()?.wrapping_add(last).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
}
