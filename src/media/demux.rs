//! The H.264 track of an MP4 or MOV file: the parts of the index that decoding needs (ISO/IEC 14496-12 and 14496-15). Nothing in a file is
//! trusted: every offset and count is checked against the file's size.

use super::colours::Colours;

/// The first video track of a file.
#[derive(Debug)]
pub(super) struct Track<'a> {
    /// Sequence and picture parameter sets.
    pub(super) parameter_sets: Vec<&'a [u8]>,
    /// The NAL units of each frame, in decoding order.
    pub(super) samples: Vec<Vec<&'a [u8]>>,
    /// Mean frames per second.
    pub(super) fps: f64,
    /// The colour space according to the container.
    pub(super) colours: Option<Colours>,
}

/// A box's name and content.
type Named<'a> = ([u8; 4], &'a [u8]);

/// Whether a file begins like one of this format.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.get(4..8).is_some_and(|name| [b"ftyp", b"moov", b"mdat", b"wide", b"free"].iter().any(|known| name == *known))
}

/// Reads the index of `file`.
///
/// # Errors
/// No H.264 track, a rotated one, fragments, or an index that contradicts the file.
pub(super) fn read(file: &[u8]) -> Result<Track<'_>, String> {
    let moov = child(file, b"moov")?;
    let mut media = None;
    for (_, track) in boxes(moov)?.iter().filter(|(name, _)| name == b"trak") {
        let mdia = child(track, b"mdia")?;
        if child(mdia, b"hdlr")?.get(8..12) == Some(b"vide") {
            media = Some((*track, mdia));
            break;
        }
    }
    let (track, mdia) = media.ok_or("it has no video track")?;
    upright(child(track, b"tkhd")?)?;
    let stbl = child(child(mdia, b"minf")?, b"stbl")?;
    let entry = boxes(child(stbl, b"stsd")?.get(8..).ok_or(SHORT)?)?.into_iter().next();
    let (codec, entry) = entry.ok_or("its video track has no description")?;
    if codec != *b"avc1" && codec != *b"avc3" {
        return Err(format!("its video is `{}`, only H.264 (`avc1`) is decoded", codec.escape_ascii()));
    }
    // What a picture needs besides these 78 bytes lies in boxes behind them.
    let description = boxes(entry.get(78..).ok_or(SHORT)?)?;
    let of = |name: &[u8; 4]| description.iter().find(|(n, _)| n == name).map(|(_, content)| *content);
    let (length_size, parameter_sets) = configuration(of(b"avcC").ok_or("its video has no box `avcC`")?)?;
    let colours = of(b"colr").and_then(colours);

    let ranges = samples(stbl, file.len())?;
    if ranges.is_empty() {
        return Err(match child(moov, b"mvex") {
            Ok(_) => "it is made of fragments".into(),
            Err(_) => "its video track has no frames".into(),
        });
    }
    let units = |&(start, end): &(usize, usize)| units(&file[start..end], length_size);
    let samples = ranges.iter().map(units).collect::<Result<Vec<_>, _>>()?;
    let fps = rate(child(mdia, b"mdhd")?, child(stbl, b"stts")?, samples.len())?;
    Ok(Track { parameter_sets, samples, fps, colours })
}

const SHORT: &str = "its index is cut off";

fn be16(bytes: &[u8], at: usize) -> Result<usize, String> {
    let two = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    Ok(usize::from(u16::from_be_bytes(*two)))
}

fn be32(bytes: &[u8], at: usize) -> Result<usize, String> {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    Ok(u32::from_be_bytes(*four) as usize)
}

fn be64(bytes: &[u8], at: usize) -> Result<usize, String> {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    usize::try_from(u64::from_be_bytes(*eight)).map_err(|_| SHORT.into())
}

/// The boxes in `bytes`.
fn boxes(mut bytes: &[u8]) -> Result<Vec<Named<'_>>, String> {
    let mut found = vec![];
    // QuickTime ends some lists with four zeros.
    while bytes.len() >= 8 {
        let name = [bytes[4], bytes[5], bytes[6], bytes[7]];
        let (header, size) = match be32(bytes, 0)? {
            0 => (8, bytes.len()),
            1 => (16, be64(bytes, 8)?),
            size => (8, size),
        };
        let ends = || format!("the file ends within its box `{}`", name.escape_ascii());
        found.push((name, bytes.get(header..size).ok_or_else(ends)?));
        bytes = &bytes[size..];
    }
    Ok(found)
}

fn child<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Result<&'a [u8], String> {
    let found = boxes(bytes)?.into_iter().find(|(n, _)| n == name);
    found.map(|(_, content)| content).ok_or_else(|| format!("it has no box `{}`", name.escape_ascii()))
}

/// Phones record how the camera was held; such a video must be rotated, which is not supported here.
fn upright(tkhd: &[u8]) -> Result<(), String> {
    let at = if tkhd.first() == Some(&1) { 52 } else { 40 };
    let [a, b, c, d] = [be32(tkhd, at)?, be32(tkhd, at + 4)?, be32(tkhd, at + 12)?, be32(tkhd, at + 16)?];
    // a·x + c·y, b·x + d·y in 16.16: sides may be stretched, not exchanged or mirrored.
    let positive = |n: usize| n > 0 && n < 1 << 31;
    if b == 0 && c == 0 && positive(a) && positive(d) { Ok(()) } else { Err("it is to be turned for viewing".into()) }
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

fn colours(colr: &[u8]) -> Option<Colours> {
    let matrix = be16(colr, 8).ok()?;
    match colr.get(..4)? {
        b"nclx" => Some(Colours::coded(matrix, colr.get(10).is_some_and(|flags| flags >> 7 == 1))),
        // QuickTime's form of it has no range.
        b"nclc" => Some(Colours::coded(matrix, false)),
        _ => None,
    }
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

/// Frames per second: the frames over the sum of their durations.
fn rate(mdhd: &[u8], stts: &[u8], frames: usize) -> Result<f64, String> {
    let timescale = be32(mdhd, if mdhd.first() == Some(&1) { 20 } else { 12 })?;
    let durations = (0..be32(stts, 4)?).map(|i| Ok(be32(stts, 8 + 8 * i)? as f64 * be32(stts, 12 + 8 * i)? as f64));
    let duration: f64 = durations.sum::<Result<f64, String>>()?;
    let fps = frames as f64 * timescale as f64 / duration;
    if (0.01..=1000.0).contains(&fps) { Ok(fps) } else { Err(format!("{fps} frames per second is not a frame rate")) }
}
