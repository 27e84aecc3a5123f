//! When the frames of an MP4 or MOV track are shown: their times (`stts`, `ctts`), of which the edit list (`elst`) may show a part.

use super::boxes::{be32, be64, child};
use super::pace;

/// The frames that are shown.
#[derive(Debug)]
pub(super) struct Timing {
    /// Their places in the order of display, in the order of the edit list; all of them if there is none.
    pub(super) shown: Vec<usize>,
    /// Mean frames per second.
    pub(super) fps: f64,
}

/// A frame's time and duration, in ticks of the track.
type Span = (i64, i64);

/// One line of an edit list: the part of the track from `start` on, in ticks of the track; an empty one has no start.
struct Edit {
    start: Option<i64>,
    /// In ticks of the movie; 0 is up to the end.
    duration: i64,
    normal_speed: bool,
}

/// Reads the times of `frames` frames.
///
/// # Errors
/// Times that contradict each other, or show no frame.
pub(super) fn timing(moov: &[u8], trak: &[u8], frames: usize, remarks: &mut Vec<String>) -> Result<Timing, String> {
    let mdia = child(trak, b"mdia")?;
    let ticks = timescale(child(mdia, b"mdhd")?)?;
    let spans = spans(child(child(mdia, b"minf")?, b"stbl")?, frames)?;
    let list = child(trak, b"edts").and_then(|edts| child(edts, b"elst"));
    let edits = list.map_or(Ok(vec![]), edits)?;
    let per_movie_tick = ticks as f64 / timescale(child(moov, b"mvhd")?)? as f64;
    let shown = shown(&spans, &edits, per_movie_tick, remarks)?;
    // How long the last frame lasts is often a guess of the writer.
    let durations: Vec<f64> = shown.iter().map(|place| spans[*place].1 as f64 / ticks as f64).collect();
    let judged = if durations.len() > 2 { &durations[..durations.len() - 1] } else { &durations };
    remarks.extend(pace::variation(judged, 1.0 / ticks as f64));
    Ok(Timing { fps: pace::rate(&durations)?, shown })
}

/// Ticks per second, of the movie or of a track.
fn timescale(header: &[u8]) -> Result<usize, String> {
    let ticks = be32(header, if header.first() == Some(&1) { 20 } else { 12 })?;
    if ticks == 0 { Err("its clock stands still".into()) } else { Ok(ticks) }
}

/// The frames in the order in which they are shown: when, and for how long.
fn spans(stbl: &[u8], frames: usize) -> Result<Vec<Span>, String> {
    let stts = child(stbl, b"stts")?;
    let (mut decoded, mut at) = (Vec::with_capacity(frames), 0i64);
    for run in 0..be32(stts, 4)? {
        let (count, duration) = (be32(stts, 8 + 8 * run)?, be32(stts, 12 + 8 * run)? as i64);
        for _ in 0..count.min(frames - decoded.len()) {
            decoded.push((at, duration));
            at += duration;
        }
    }
    if decoded.len() < frames {
        return Err(format!("its index has times for {} of {frames} frames", decoded.len()));
    }
    let end = at;
    if let Ok(ctts) = child(stbl, b"ctts") {
        let mut frame = 0;
        for run in 0..be32(ctts, 4)? {
            // Without a sign in version 0, but for QuickTime.
            let (count, offset) = (be32(ctts, 8 + 8 * run)?, be32(ctts, 12 + 8 * run)? as u32 as i32);
            for span in decoded.iter_mut().skip(frame).take(count) {
                span.0 += i64::from(offset);
            }
            frame = frame.saturating_add(count).min(frames);
        }
    }
    decoded.sort_by_key(|span| span.0);
    // A frame lasts until the next one.
    for i in 1..frames {
        decoded[i - 1].1 = decoded[i].0 - decoded[i - 1].0;
    }
    let first = decoded[0].0;
    decoded[frames - 1].1 = (end + first - decoded[frames - 1].0).max(0);
    Ok(decoded)
}

fn edits(elst: &[u8]) -> Result<Vec<Edit>, String> {
    let wide = elst.first() == Some(&1);
    let (size, step) = if wide { (20, 8) } else { (12, 4) };
    let number = |at: usize| -> Result<i64, String> {
        if wide { Ok(be64(elst, at)? as i64) } else { Ok(i64::from(be32(elst, at)? as u32 as i32)) }
    };
    let edit = |i: usize| {
        let at = 8 + size * i;
        let (duration, start) = (number(at)?, number(at + step)?);
        // Durations have no sign.
        let duration = if wide { duration.max(0) } else { duration & 0xFFFF_FFFF };
        let normal_speed = be32(elst, at + 2 * step)? == 0x1_0000;
        Ok(Edit { start: (start >= 0).then_some(start), duration, normal_speed })
    };
    (0..be32(elst, 4)?).map(edit).collect()
}

/// The places of the frames that the edits show: those that begin within one, as ffmpeg and browsers have it, or else the one that lasts at
/// its start.
fn shown(spans: &[Span], edits: &[Edit], per_movie_tick: f64, remarks: &mut Vec<String>) -> Result<Vec<usize>, String> {
    let all: Vec<usize> = (0..spans.len()).collect();
    if edits.iter().all(|edit| edit.start.is_none()) {
        return Ok(all);
    }
    let mut shown = vec![];
    let mut speed = false;
    for Edit { start, duration, normal_speed } in edits {
        let Some(start) = start else { continue };
        let end =
            if *duration == 0 { f64::INFINITY } else { *start as f64 + (*duration as f64 * per_movie_tick).round() };
        let before = shown.len();
        shown.extend(all.iter().filter(|i| spans[**i].0 >= *start && (spans[**i].0 as f64) < end));
        if shown.len() == before {
            shown.extend(all.iter().rev().find(|i| spans[**i].0 <= *start && *start < spans[**i].0 + spans[**i].1));
        }
        speed |= !normal_speed;
        if shown.len() > 1 << 20 {
            return Err("its edit list repeats frames without end".into());
        }
    }
    if edits.iter().any(|edit| edit.start.is_none() && edit.duration > 0) {
        remarks.push("its edit list waits before or between frames: read without the waiting".into());
    }
    if speed {
        remarks.push("its edit list changes the speed: every frame is read once".into());
    }
    if shown.is_empty() {
        return Err("its edit list shows no frame".into());
    }
    if shown != all {
        remarks.push(format!(
            "its edit list shows {} of its {} frames: these are read, as players show them",
            shown.len(),
            spans.len()
        ));
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(start: i64, duration: i64) -> Edit {
        Edit { start: (start >= 0).then_some(start), duration, normal_speed: true }
    }

    /// Ten frames of 100 ticks from 200 on, two of which make a tick of the movie.
    #[test]
    fn edits_by_hand() {
        let spans: Vec<Span> = (0..10).map(|i| (200 + 100 * i, 100)).collect();
        let of = |edits: &[Edit]| {
            let mut remarks = vec![];
            shown(&spans, edits, 2.0, &mut remarks).map(|shown| (shown, remarks.len()))
        };
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(of(&[]), Ok((all.clone(), 0)));
        assert_eq!(of(&[edit(200, 500)]), Ok((all.clone(), 0)));
        assert_eq!(of(&[edit(200, 0)]), Ok((all.clone(), 0)));
        // Nothing at first.
        assert_eq!(of(&[edit(-1, 50), edit(200, 500)]), Ok((all, 1)));
        // Begins with the third frame and ends before the sixth.
        assert_eq!(of(&[edit(400, 150)]), Ok((vec![2, 3, 4], 1)));
        // A part of a frame at the start is not shown; one that is all there is, is.
        assert_eq!(of(&[edit(450, 150)]), Ok((vec![3, 4, 5], 1)));
        assert_eq!(of(&[edit(450, 10)]), Ok((vec![2], 1)));
        // Parts in another order, one of them twice.
        assert_eq!(of(&[edit(900, 100), edit(200, 50), edit(200, 50)]), Ok((vec![7, 8, 0, 0], 1)));
        assert!(of(&[edit(5000, 100)]).unwrap_err().contains("no frame"));
        assert_eq!(of(&[Edit { normal_speed: false, ..edit(200, 500) }]).unwrap().1, 1);
    }
}
