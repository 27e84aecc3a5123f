//! Colour spaces of decoded pictures: the matrix, the range, and the conversion to RGB.

use rusty_h264_common::bit_reader::OutOfData;
use rusty_h264_common::{BitReader, YuvFrame};

/// What a stream or its container says of its colours, by the code points of ITU-T H.273. Nothing, and 2, is unspecified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Coded {
    pub(super) transfer: Option<usize>,
    pub(super) matrix: Option<usize>,
    pub(super) full_range: Option<bool>,
}

impl Coded {
    /// What this says, or else `other`.
    pub(super) fn or(self, other: Coded) -> Coded {
        let said = |code: &usize| *code != 2;
        Coded {
            transfer: self.transfer.filter(said).or(other.transfer),
            matrix: self.matrix.filter(said).or(other.matrix),
            full_range: self.full_range.or(other.full_range),
        }
    }
}

/// The interpretation of luma and chroma (ITU-T H.273).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours {
    /// The shares of red and blue in luma.
    red: f32,
    blue: f32,
    /// 0..255 instead of 16..235.
    full_range: bool,
}

/// Without a matrix, pictures of more lines are taken for BT.709, others for BT.601, as players have it.
const STANDARD_LINES: usize = 576;

impl Colours {
    /// Of what is said of pictures with `lines` lines; what has to be guessed is remarked.
    ///
    /// # Errors
    /// A matrix that is not computed here.
    pub(super) fn new(coded: Coded, lines: usize, remarks: &mut Vec<String>) -> Result<Colours, String> {
        let (red, blue) = match coded.matrix {
            Some(1) => (0.2126, 0.0722),
            Some(4) => (0.30, 0.11),
            Some(5 | 6) => (0.299, 0.114),
            Some(7) => (0.212, 0.087),
            Some(9) => (0.2627, 0.0593),
            None | Some(2) => {
                let (name, matrix) =
                    if lines > STANDARD_LINES { ("BT.709", (0.2126, 0.0722)) } else { ("BT.601", (0.299, 0.114)) };
                remarks.push(format!("it does not say how its colours are coded: read as {name}, by its height"));
                matrix
            }
            Some(other) => {
                return Err(format!("its colours are coded by matrix {other} of H.273, which is not supported"));
            }
        };
        if let Some(16 | 18) = coded.transfer {
            remarks.push("it is a high dynamic range video: its colours are read as if it were not".into());
        }
        Ok(Colours { red, blue, full_range: coded.full_range.unwrap_or(false) })
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

/// What a sequence parameter set says about viewing, which the decoder does not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usability {
    /// How wide a pixel is for its height.
    pub(super) aspect: Option<(usize, usize)>,
    pub(super) coded: Coded,
}

impl Usability {
    /// Of a sequence parameter set; nothing is said where it ends early.
    pub(super) fn of_sps(bits: &[u8]) -> Usability {
        let mut found = Usability::default();
        // What it says before its end counts.
        let _ = usability(&mut BitReader::new(bits), &mut found);
        found
    }
}

/// Widths and heights of pixels by their code (ITU-T H.264 table E-1), from 1 on.
const ASPECTS: [(usize, usize); 16] = [
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

/// Parses a sequence parameter set (ITU-T H.264 7.3.2.1.1) up to its video signal type (E.1.1).
fn usability(r: &mut BitReader<'_>, found: &mut Usability) -> Result<(), OutOfData> {
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
        return Ok(());
    }
    if r.read_bit()? {
        found.aspect = match r.read_bits(8)? as usize {
            255 => Some((r.read_bits(16)? as usize, r.read_bits(16)? as usize)),
            code => code.checked_sub(1).and_then(|i| ASPECTS.get(i)).copied(),
        };
    }
    if r.read_bit()? {
        r.read_bit()?; // overscan
    }
    if !r.read_bit()? {
        return Ok(());
    }
    r.skip_bits(3)?; // format
    found.coded.full_range = Some(r.read_bit()?);
    if r.read_bit()? {
        r.skip_bits(8)?; // primaries
        found.coded.transfer = Some(r.read_bits(8)? as usize);
        found.coded.matrix = Some(r.read_bits(8)? as usize);
    }
    Ok(())
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
