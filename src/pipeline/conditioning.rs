//! Given frames: image to video, extension, connection and editing, by the published mask strategies.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use super::error::PipelineError;
use crate::media::Latents;
use crate::model::vae::CHUNK;

/// Given frames begin at a multiple of the latent frames in a chunk, as Open-Sora's mask strategies do.
const ALIGNMENT: usize = CHUNK.1;

/// `part,reference,reference start,target start,length,edit`: where the latent frames of a reference are placed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Placement {
    /// The part of a long video.
    part: usize,
    reference: usize,
    /// Counted from the end if negative.
    reference_start: isize,
    target_start: isize,
    length: usize,
    /// 0 keeps the frames, 1 generates new ones.
    edit: f32,
}

/// A placement once the sizes are known: latent frames `from..from + length` of a reference replace those from `to` on.
struct Span {
    reference: usize,
    from: usize,
    to: usize,
    length: usize,
    edit: f32,
}

/// The given frames of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Latents to take frames from.
    pub references: Vec<Latents>,
    /// Where they are placed.
    pub strategy: MaskStrategy,
    /// Which part of a long video is generated, from 0; the strategy's placements in other parts are ignored.
    pub part: usize,
}

impl Given {
    /// What a video depends on of it: hashes and places.
    pub(super) fn facts(&self) -> Value {
        let Given { references, strategy, part } = self;
        let references: Vec<String> = references.iter().map(Latents::hash).collect();
        json!({ "references": references, "places": strategy.to_string(), "part": part })
    }
}

/// Placements, such as `0,0,0,0,1;0,1,0,-5,1`. Omitted trailing fields are 0, except the length, which is 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MaskStrategy(Vec<Placement>);

impl FromStr for MaskStrategy {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let placement = |part: &str| {
            let fields: Vec<&str> = part.split(',').map(str::trim).collect();
            let field = |i: usize, default| fields.get(i).copied().unwrap_or(default);
            let parsed = || {
                Some(Placement {
                    part: field(0, "0").parse().ok()?,
                    reference: field(1, "0").parse().ok()?,
                    reference_start: field(2, "0").parse().ok()?,
                    target_start: field(3, "0").parse().ok()?,
                    length: field(4, "1").parse().ok()?,
                    edit: field(5, "0").parse().ok().filter(|edit| (0.0..=1.0).contains(edit))?,
                })
            };
            parsed().filter(|_| fields.len() <= 6).ok_or_else(|| {
                PipelineError::Setting(format!(
                    "mask strategy `{part}`: write PART,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT with whole numbers and an edit from 0 to 1, as in 0,0,0,0,1,0"
                ))
            })
        };
        parts.map(placement).collect::<Result<_, _>>().map(MaskStrategy)
    }
}

impl fmt::Display for MaskStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.0.iter().enumerate() {
            let Placement { part, reference, reference_start, target_start, length, edit } = p;
            let before = if i == 0 { "" } else { ";" };
            write!(f, "{before}{part},{reference},{reference_start},{target_start},{length},{edit}")?;
        }
        Ok(())
    }
}

impl MaskStrategy {
    /// Spreads `count` pictures over a video of `frames` latent frames, the first at the start, the last as near to the end as a given
    /// frame can be: one picture is image to video, two are connected.
    ///
    /// # Errors
    /// More pictures than there are places.
    pub fn pictures(count: usize, frames: usize) -> Result<MaskStrategy, PipelineError> {
        let places = (frames / ALIGNMENT).max(1);
        if count > places {
            return Err(PipelineError::Setting(format!(
                "{count} pictures in a video that has places for {places}, one in 17 frames: give fewer, or more --frames"
            )));
        }
        let placement = |reference: usize| {
            let place = (reference * (places - 1) + count.saturating_sub(1) / 2) / count.saturating_sub(1).max(1);
            let target_start = (place * ALIGNMENT) as isize;
            Placement { part: 0, reference, reference_start: 0, target_start, length: 1, edit: 0.0 }
        };
        Ok(MaskStrategy((0..count).map(placement).collect()))
    }

    /// The same strategy with the last `length` latent frames of `reference` at the start of part `part`, as published for long videos.
    pub(super) fn continued(&self, part: usize, reference: usize, length: usize, edit: f32) -> MaskStrategy {
        let reference_start = -(length as isize);
        let last = Placement { part, reference, reference_start, target_start: 0, length, edit };
        MaskStrategy(self.0.iter().copied().chain([last]).collect())
    }

    /// Checks, before anything is loaded, that all placements of a video of `parts` parts are possible.
    ///
    /// * `references`, `video`: channels, latent frames, height, width.
    ///
    /// # Errors
    /// As [`MaskStrategy::apply`]; a reference that is not used, a part that is not generated.
    pub fn check(&self, references: &[[usize; 4]], video: [usize; 4], parts: usize) -> Result<(), PipelineError> {
        if let Some(p) = self.0.iter().find(|p| p.part >= parts) {
            return Err(wrong(format!(
                "part {} of a video of {parts}: parts are counted from 0, and --loop says how many there are",
                p.part
            )));
        }
        (0..parts).try_for_each(|part| self.spans(references, video, part).map(drop))?;
        match (0..references.len()).find(|i| self.0.iter().all(|p| p.reference != *i)) {
            Some(unused) => {
                Err(wrong(format!("reference {unused} (counted from 0) is not placed by the mask strategy")))
            }
            None => Ok(()),
        }
    }

    /// Puts the given frames of part `part` into `latents` and returns the mask `[frames]`: 1 for frames to generate, the edit ratio for
    /// given ones.
    ///
    /// # Errors
    /// A reference that does not exist or has another size, a start outside it, a video whose frames are all given.
    pub fn apply(&self, references: &[Latents], latents: &mut Latents, part: usize) -> Result<Vec<f32>, PipelineError> {
        let [channels, frames, height, width] = latents.shape;
        let shapes: Vec<[usize; 4]> = references.iter().map(|reference| reference.shape).collect();
        let plane = height * width;
        let mut mask = vec![1.0; frames];
        for Span { reference, from, to, length, edit } in self.spans(&shapes, latents.shape, part)? {
            let Latents { shape: [_, there, ..], values } = &references[reference];
            for channel in 0..channels {
                let source = &values[(channel * there + from) * plane..][..length * plane];
                latents.values[(channel * frames + to) * plane..][..length * plane].copy_from_slice(source);
            }
            mask[to..to + length].fill(edit);
        }
        Ok(mask)
    }

    fn spans(&self, references: &[[usize; 4]], video: [usize; 4], part: usize) -> Result<Vec<Span>, PipelineError> {
        let [channels, frames, height, width] = video;
        let span = |p: &Placement| {
            let Some(&found) = references.get(p.reference) else {
                let given = references.len();
                return Err(wrong(format!("there is no reference {} (counted from 0): {given} given", p.reference)));
            };
            let there = found[1];
            if found != [channels, there, height, width] {
                return Err(wrong(format!(
                    "reference {} is {found:?} (channels, frames, height, width), the video {video:?}",
                    p.reference
                )));
            }
            let start = |start: isize, count: usize| {
                let first = if start < 0 { count as isize + start } else { start };
                (0..count as isize).contains(&first).then(|| nearest(first as usize, count))
            };
            let (Some(from), Some(to)) = (start(p.reference_start, there), start(p.target_start, frames)) else {
                return Err(wrong(format!(
                    "starts {} of {there} and {} of {frames} frames are outside",
                    p.reference_start, p.target_start
                )));
            };
            let length = p.length.min(frames - to).min(there - from);
            Ok(Span { reference: p.reference, from, to, length, edit: p.edit })
        };
        let spans = self.0.iter().filter(|p| p.part == part).map(span).collect::<Result<Vec<_>, _>>()?;
        let mut kept = vec![false; frames];
        spans.iter().for_each(|span| kept[span.to..span.to + span.length].fill(span.edit == 0.0));
        if kept.iter().all(|kept| *kept) {
            return Err(wrong(format!("all {frames} latent frames are given: nothing is left to generate")));
        }
        Ok(spans)
    }
}

fn wrong(reason: String) -> PipelineError {
    PipelineError::Setting(format!("mask strategy: {reason}"))
}

/// The multiple of [`ALIGNMENT`] nearest to `frame`; the lower one at half way and past the last whole chunk.
fn nearest(frame: usize, count: usize) -> usize {
    let chunk = frame / ALIGNMENT;
    let up = 2 * (frame % ALIGNMENT) > ALIGNMENT && chunk + 1 < count / ALIGNMENT;
    (chunk + usize::from(up)) * ALIGNMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents(frames: usize, first: f32) -> Latents {
        let values = (0..2 * frames * 2).map(|i| first + i as f32).collect();
        Latents { shape: [2, frames, 1, 2], values }
    }

    #[test]
    fn defaults_fill_what_is_left_out() {
        let strategy: MaskStrategy = "0;1,2,-5,10,3,0.25".parse().unwrap();
        let first = Placement { part: 0, reference: 0, reference_start: 0, target_start: 0, length: 1, edit: 0.0 };
        let second = Placement { part: 1, reference: 2, reference_start: -5, target_start: 10, length: 3, edit: 0.25 };
        assert_eq!(strategy, MaskStrategy(vec![first, second]));
        assert_eq!("".parse::<MaskStrategy>().unwrap(), MaskStrategy::default());
        assert_eq!(strategy.to_string(), "0,0,0,0,1,0;1,2,-5,10,3,0.25");
        assert_eq!(strategy.to_string().parse::<MaskStrategy>().unwrap(), strategy);
        for bad in ["x", "0,0,0,0,1,2", "0,0,0,0,1,0,0", "-1", "0,,0", "0,0,0,0,1,NaN"] {
            let error = bad.parse::<MaskStrategy>().unwrap_err().to_string();
            assert!(error.contains("PART,REFERENCE"), "{bad}: {error}");
        }
    }

    #[test]
    fn given_frames_overwrite_and_are_masked() {
        let references = [latents(5, 1000.0), latents(10, 2000.0)];
        let strategy: MaskStrategy = "0,0,0,0,1;0,1,-5,9,3,0.5".parse().unwrap();
        let mut z = latents(15, 0.0);
        let mask = strategy.apply(&references, &mut z, 0).unwrap();
        // 9 is nearer to 10 than to 5; −5 of 10 is 5.
        let expected: Vec<f32> = (0..15)
            .map(|t| match t {
                0 => 0.0,
                10..=12 => 0.5,
                _ => 1.0,
            })
            .collect();
        assert_eq!(mask, expected);
        // Channel 1 begins at 15 frames of 2 in z, at 5 in the first and at 10 in the second reference.
        assert_eq!(z.values[..2], [1000.0, 1001.0]);
        assert_eq!(z.values[30..32], [1010.0, 1011.0]);
        assert_eq!(z.values[20..26], [2010.0, 2011.0, 2012.0, 2013.0, 2014.0, 2015.0]);
        assert_eq!(z.values[50..52], [2030.0, 2031.0]);
        assert_eq!(z.values[26..30], [26.0, 27.0, 28.0, 29.0]);
    }

    #[test]
    fn starts_are_multiples_of_a_chunk_as_published() {
        let starts: Vec<usize> = [0, 2, 3, 7, 8, 12, 13, 14].iter().map(|f| nearest(*f, 15)).collect();
        assert_eq!(starts, [0, 0, 5, 5, 10, 10, 10, 10]);
        let mut z = latents(15, 0.0);
        let mut apply = |text: &str| text.parse::<MaskStrategy>().unwrap().apply(&[latents(5, 0.0)], &mut z, 0);
        for bad in ["0,1", "0,0,5", "0,0,-6", "0,0,0,15", "0,0,0,-16"] {
            assert!(apply(bad).is_err(), "{bad}");
        }
        // As long as there is something of both.
        assert_eq!(apply("0,0,0,10,100").unwrap().iter().filter(|m| **m == 0.0).count(), 5);
        let other = Latents { shape: [2, 5, 2, 1], values: vec![0.0; 20] };
        assert!("0".parse::<MaskStrategy>().unwrap().apply(&[other], &mut z, 0).is_err());
    }

    #[test]
    fn pictures_are_spread_over_the_chunks() {
        let starts = |count, frames| {
            let MaskStrategy(placements) = MaskStrategy::pictures(count, frames).unwrap();
            placements.iter().map(|p| (p.reference, p.target_start)).collect::<Vec<_>>()
        };
        assert_eq!(starts(1, 15), [(0, 0)]);
        // Two as the published example `0;0,1,0,-1,1` has them: −1 of 15 is 14, which becomes 10.
        assert_eq!(starts(2, 15), [(0, 0), (1, 10)]);
        assert_eq!(starts(3, 30), [(0, 0), (1, 15), (2, 25)]);
        assert_eq!(starts(4, 20), [(0, 0), (1, 5), (2, 10), (3, 15)]);
        assert!(MaskStrategy::pictures(4, 15).unwrap_err().to_string().contains("places for 3"));
    }

    #[test]
    fn parts_have_their_own_placements() {
        let strategy: MaskStrategy = "0;2,1,0,5,1".parse().unwrap();
        let video = [2, 15, 1, 2];
        let check =
            |references: &[[usize; 4]], parts| strategy.check(references, video, parts).map_err(|e| e.to_string());
        let reference = [2, 5, 1, 2];
        assert_eq!(check(&[reference, reference], 3), Ok(()));
        assert!(check(&[reference, reference], 2).unwrap_err().contains("part 2 of a video of 2"));
        assert!(check(&[reference], 3).unwrap_err().contains("no reference 1"));
        assert!(check(&[reference, reference, reference], 3).unwrap_err().contains("reference 2"));
        assert!(check(&[reference, [2, 5, 2, 2]], 3).unwrap_err().contains("[2, 5, 2, 2]"));

        let references = [latents(5, 1000.0), latents(10, 2000.0)];
        let mask = |strategy: &MaskStrategy, part| strategy.apply(&references, &mut latents(15, 0.0), part).unwrap();
        let given = |mask: Vec<f32>| (0..15).filter(|t| mask[*t] < 1.0).collect::<Vec<_>>();
        assert_eq!(given(mask(&strategy, 0)), [0]);
        assert_eq!(given(mask(&strategy, 1)), [0usize; 0]);
        assert_eq!(given(mask(&strategy, 2)), [5]);
        assert_eq!(given(mask(&strategy.continued(1, 1, 5, 0.0), 1)), [0, 1, 2, 3, 4]);
        let all = "0,0,0,0,5".parse::<MaskStrategy>().unwrap();
        let error = all.apply(&references, &mut latents(5, 0.0), 0).unwrap_err().to_string();
        assert!(error.contains("nothing is left to generate"), "{error}");
    }
}
