//! The H.264 track of an MP4 or MOV file: the parts of the index that decoding needs (ISO/IEC 14496-12 and 14496-15). Nothing in a file is
//! trusted: every offset and count is checked against the file's size.

use super::boxes::{SHORT, be16, be32, be64, boxes, child};
use super::colours::Coded;
use super::edits::{self, Timing};
use super::turn::Turn;

/// The first video track of a file.
#[derive(Debug)]
pub(super) struct Track<'a> {
    /// Sequence and picture parameter sets.
    pub(super) parameter_sets: Vec<&'a [u8]>,
    /// The NAL units of each frame, in decoding order.
    pub(super) samples: Vec<Vec<&'a [u8]>>,
    /// Which frames are shown.
    pub(super) timing: Timing,
    /// What the container says of colours.
    pub(super) colours: Coded,
    /// How wide a pixel is for its height, according to the container.
    pub(super) aspect: Option<(usize, usize)>,
    /// The part of the pictures that is shown.
    pub(super) aperture: Option<Aperture>,
    /// How the frames are turned for viewing.
    pub(super) turn: Turn,
    /// What has to be said about how the file is read.
    pub(super) remarks: Vec<String>,
}

/// The clean aperture: a size, and how far its middle is from that of the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aperture {
    pub(super) size: [f64; 2],
    pub(super) offset: [f64; 2],
}

impl Aperture {
    /// Its first column and line in a picture of `width` and `height`; nothing if it does not lie on whole pixels in the picture.
    pub(super) fn corner(self, width: usize, height: usize) -> Option<[usize; 2]> {
        let first = |i: usize, side: usize| {
            let first = (side as f64 - self.size[i]) / 2.0 + self.offset[i];
            let whole = first.fract() == 0.0 && self.size[i].fract() == 0.0;
            (whole && first >= 0.0 && self.size[i] > 0.0 && first + self.size[i] <= side as f64)
                .then_some(first as usize)
        };
        Some([first(0, width)?, first(1, height)?])
    }
}

/// Whether a file begins like one of this format.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.get(4..8).is_some_and(|name| [b"ftyp", b"moov", b"mdat", b"wide", b"free"].iter().any(|known| name == *known))
}

/// Reads the index of `file`.
///
/// # Errors
/// No H.264 track, one that is shown slanted, fragments, or an index that contradicts the file.
pub(super) fn read(file: &[u8]) -> Result<Track<'_>, String> {
    let moov = child(file, b"moov")?;
    let mut remarks = vec![];
    let (trak, mdia) = video(moov, &mut remarks)?;
    let stbl = child(child(mdia, b"minf")?, b"stbl")?;
    let entries = boxes(child(stbl, b"stsd")?.get(8..).ok_or(SHORT)?)?;
    let &(codec, entry) = entries.first().ok_or("its video track has no description")?;
    if codec != *b"avc1" && codec != *b"avc3" {
        return Err(format!("its video is `{}`, only H.264 (`avc1`) is decoded", codec.escape_ascii()));
    }
    if entries.len() > 1 {
        return Err(format!("its video changes its form on the way, it has {} descriptions", entries.len()));
    }
    // What a picture needs besides these 78 bytes lies in boxes behind them.
    let description = boxes(entry.get(78..).ok_or(SHORT)?)?;
    let of = |name: &[u8; 4]| description.iter().find(|(n, _)| n == name).map(|(_, content)| *content);
    let (length_size, parameter_sets) = configuration(of(b"avcC").ok_or("its video has no box `avcC`")?)?;

    let ranges = samples(stbl, file.len())?;
    if ranges.is_empty() {
        return Err(match child(moov, b"mvex") {
            Ok(_) => "it is made of fragments".into(),
            Err(_) => "its video track has no frames".into(),
        });
    }
    let units = |&(start, end): &(usize, usize)| units(&file[start..end], length_size);
    let samples = ranges.iter().map(units).collect::<Result<Vec<_>, _>>()?;
    let (turn, stretch) = matrix(child(moov, b"mvhd")?, child(trak, b"tkhd")?)?;
    if (stretch - 1.0).abs() > 0.01 {
        remarks.push(format!("its matrix stretches the pictures {stretch:.3} times across: read as they are stored"));
    }
    let timing = edits::timing(moov, trak, samples.len(), &mut remarks)?;
    Ok(Track {
        parameter_sets,
        samples,
        timing,
        colours: of(b"colr").map(colours).unwrap_or_default(),
        aspect: of(b"pasp").map(|pasp| Ok::<_, String>((be32(pasp, 0)?, be32(pasp, 4)?))).transpose()?,
        aperture: of(b"clap").map(aperture).transpose()?,
        turn,
        remarks,
    })
}

/// The first video track that is enabled, or the first of all: the whole, and its media.
fn video<'a>(moov: &'a [u8], remarks: &mut Vec<String>) -> Result<(&'a [u8], &'a [u8]), String> {
    let mut tracks = vec![];
    for (_, trak) in boxes(moov)?.into_iter().filter(|(name, _)| name == b"trak") {
        let mdia = child(trak, b"mdia")?;
        if child(mdia, b"hdlr")?.get(8..12) == Some(b"vide") {
            let enabled = child(trak, b"tkhd")?.get(3).is_some_and(|flags| flags & 1 == 1);
            tracks.push((enabled, trak, mdia));
        }
    }
    let first = tracks.iter().position(|(enabled, ..)| *enabled).unwrap_or(0);
    let &(_, trak, mdia) = tracks.get(first).ok_or("it has no video track")?;
    if tracks.len() > 1 {
        remarks.push(format!("it has {} video tracks: number {} is read", tracks.len(), first + 1));
    }
    Ok((trak, mdia))
}

/// How frames are turned by the matrices of the track and the movie (phones record there how the camera was held), and how much wider they
/// become than higher.
fn matrix(mvhd: &[u8], tkhd: &[u8]) -> Result<(Turn, f64), String> {
    let read = |header: &[u8], at: usize| -> Result<[f64; 4], String> {
        let at = at + if header.first() == Some(&1) { 12 } else { 0 };
        // a, b, u, c, d, v, … in 16.16 with signs.
        let number = |i: usize| Ok(f64::from(be32(header, at + 4 * i)? as u32 as i32) / 65536.0);
        [number(0), number(1), number(3), number(4)]
            .into_iter()
            .collect::<Result<Vec<f64>, String>>()?
            .try_into()
            .map_err(|_| SHORT.into())
    };
    let ([a, b, c, d], [e, f, g, h]) = (read(tkhd, 40)?, read(mvhd, 36)?);
    let whole = [a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h];
    let turn = Turn::of_matrix(whole).ok_or("it is to be shown slanted")?;
    let [a, b, c, d] = whole.map(f64::abs);
    Ok((turn, if turn.exchanges() { c / b } else { a / d }))
}

/// `clap`: width, height and two offsets as fractions.
fn aperture(clap: &[u8]) -> Result<Aperture, String> {
    let fraction = |i: usize| -> Result<f64, String> {
        let (of, by) = (be32(clap, 8 * i)?, be32(clap, 8 * i + 4)?);
        Ok(f64::from(of as u32 as i32) / f64::from(by as u32 as i32))
    };
    Ok(Aperture { size: [fraction(0)?, fraction(1)?], offset: [fraction(2)?, fraction(3)?] })
}

/// The size of the length before a NAL unit, and the parameter sets.
fn configuration(avcc: &[u8]) -> Result<(usize, Vec<&[u8]>), String> {
    let [length, count] = [avcc.get(4).ok_or(SHORT)?, avcc.get(5).ok_or(SHORT)?];
    let (mut at, mut sets) = (6, vec![]);
    let mut take = |count: u8, at: &mut usize| -> Result<(), String> {
        for _ in 0..count {
            let size = be16(avcc, *at)?;
            sets.push(avcc.get(*at + 2..*at + 2 + size).filter(|set| !set.is_empty()).ok_or(SHORT)?);
            *at += 2 + size;
        }
        Ok(())
    };
    take(count & 31, &mut at)?;
    let count = *avcc.get(at).ok_or(SHORT)?;
    at += 1;
    take(count, &mut at)?;
    Ok((usize::from(length & 3) + 1, sets))
}

/// `colr`; QuickTime's form of it has no range.
fn colours(colr: &[u8]) -> Coded {
    let known = matches!(colr.get(..4), Some(b"nclx" | b"nclc"));
    let number = |at: usize| be16(colr, at).ok().filter(|_| known);
    let full_range = colr.get(10).filter(|_| colr.starts_with(b"nclx")).map(|flags| flags >> 7 == 1);
    Coded { transfer: number(6), matrix: number(8), full_range }
}

/// The positions of the samples in the file.
fn samples(stbl: &[u8], file: usize) -> Result<Vec<(usize, usize)>, String> {
    let (sizes, runs) = (child(stbl, b"stsz")?, child(stbl, b"stsc")?);
    let (same, count) = (be32(sizes, 4)?, be32(sizes, 8)?);
    if count > file {
        return Err(format!("its index speaks of {count} frames in {file} bytes"));
    }
    let (chunks, wide) = match child(stbl, b"stco") {
        Ok(offsets) => (offsets, false),
        Err(_) => (child(stbl, b"co64")?, true),
    };
    let (mut found, mut run) = (vec![], 0);
    for chunk in 0..be32(chunks, 4)? {
        let mut start = if wide { be64(chunks, 8 + 8 * chunk)? } else { be32(chunks, 8 + 4 * chunk)? };
        // A run of chunks begins at its first chunk, counted from 1.
        while run + 1 < be32(runs, 4)? && be32(runs, 8 + 12 * (run + 1))? <= chunk + 1 {
            run += 1;
        }
        for _ in 0..be32(runs, 8 + 12 * run + 4)?.min(count - found.len()) {
            let size = if same > 0 { same } else { be32(sizes, 12 + 4 * found.len())? };
            let end = start.checked_add(size).filter(|end| size > 0 && *end <= file);
            let end = end.ok_or_else(|| format!("frame {} of {count} is not in the file", found.len()))?;
            found.push((start, end));
            start = end;
        }
    }
    if found.len() < count {
        Err(format!("its index has places for {} of {count} frames", found.len()))
    } else {
        Ok(found)
    }
}

/// The NAL units of a sample, each preceded by its length.
fn units(mut sample: &[u8], length_size: usize) -> Result<Vec<&[u8]>, String> {
    let mut units = vec![];
    while !sample.is_empty() {
        let length = sample.get(..length_size).ok_or("a frame is cut off")?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let unit = sample.get(length_size..length_size + length).ok_or("a frame is cut off")?;
        units.extend(Some(unit).filter(|unit| !unit.is_empty()));
        sample = &sample[length_size + length..];
    }
    Ok(units)
}
