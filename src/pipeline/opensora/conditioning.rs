//! Frames that are given: image to video, extension, connecting, editing, by mask strategies as published.

use std::str::FromStr;

use crate::pipeline::{Latents, PipelineError};

/// Latent frames of a chunk of the video autoencoder: given frames begin at a multiple.
const ALIGNMENT: usize = 5;

/// `loop,reference,reference start,target start,length,edit`: which latent frames of which reference stand where.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Placement {
    reference: usize,
    /// From the end where negative.
    reference_start: isize,
    target_start: isize,
    length: usize,
    /// 0 keeps the frames, 1 makes new ones.
    edit: f32,
}

/// What is given of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Latents to take frames from.
    pub references: Vec<Latents>,
    /// Where they stand.
    pub strategy: MaskStrategy,
}

/// Placements, as `0,0,0,0,1;0,1,0,-5,1`. What is left out behind a comma is 0, a length is 1.
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
                // The published tools make long videos in loops; a video here is one.
                field(0, "0").parse::<usize>().ok().filter(|clip| *clip == 0)?;
                Some(Placement {
                    reference: field(1, "0").parse().ok()?,
                    reference_start: field(2, "0").parse().ok()?,
                    target_start: field(3, "0").parse().ok()?,
                    length: field(4, "1").parse().ok()?,
                    edit: field(5, "0").parse().ok().filter(|edit| (0.0..=1.0).contains(edit))?,
                })
            };
            parsed().filter(|_| fields.len() <= 6).ok_or_else(|| {
                PipelineError::Setting(format!(
                    "mask strategy `{part}`: write 0,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT with whole numbers and an edit from 0 to 1, as in 0,0,0,0,1,0"
                ))
            })
        };
        parts.map(placement).collect::<Result<_, _>>().map(MaskStrategy)
    }
}

impl MaskStrategy {
    /// Puts the given frames into `latents` and gives the mask `[frames]`: 1 for frames to make, the edit ratio for given ones.
    ///
    /// # Errors
    /// A reference that does not exist or has another size, a start outside of it.
    pub fn apply(&self, references: &[Latents], latents: &mut Latents) -> Result<Vec<f32>, PipelineError> {
        let [channels, frames, height, width] = latents.shape;
        let mut mask = vec![1.0; frames];
        for p in &self.0 {
            let wrong = |reason: String| Err(PipelineError::Setting(format!("mask strategy: {reason}")));
            let Some(reference) = references.get(p.reference) else {
                return wrong(format!("there is no reference {}, given are {}", p.reference, references.len()));
            };
            let there = reference.shape[1];
            if reference.shape != [channels, there, height, width] {
                return wrong(format!(
                    "reference {} is {:?} (channels, frames, height, width), the video {:?}",
                    p.reference, reference.shape, latents.shape
                ));
            }
            let start = |start: isize, count: usize| {
                let first = if start < 0 { count as isize + start } else { start };
                (0..count as isize).contains(&first).then(|| nearest(first as usize, count))
            };
            let (Some(from), Some(to)) = (start(p.reference_start, there), start(p.target_start, frames)) else {
                return wrong(format!(
                    "starts {} of {there} and {} of {frames} frames are outside",
                    p.reference_start, p.target_start
                ));
            };
            let length = p.length.min(frames - to).min(there - from);
            let plane = height * width;
            for channel in 0..channels {
                let source = &reference.values[(channel * there + from) * plane..][..length * plane];
                latents.values[(channel * frames + to) * plane..][..length * plane].copy_from_slice(source);
            }
            mask[to..to + length].fill(p.edit);
        }
        Ok(mask)
    }
}

/// The multiple of [`ALIGNMENT`] nearest to `frame`, the lower one at half way and past the last whole chunk.
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
        let strategy: MaskStrategy = "0;0,2,-5,10,3,0.25".parse().unwrap();
        let first = Placement { reference: 0, reference_start: 0, target_start: 0, length: 1, edit: 0.0 };
        let second = Placement { reference: 2, reference_start: -5, target_start: 10, length: 3, edit: 0.25 };
        assert_eq!(strategy, MaskStrategy(vec![first, second]));
        assert_eq!("".parse::<MaskStrategy>().unwrap(), MaskStrategy::default());
        for bad in ["x", "1", "0,0,0,0,1,2", "0,0,0,0,1,0,0", "-1", "0,,0", "0,0,0,0,1,NaN"] {
            let error = bad.parse::<MaskStrategy>().unwrap_err().to_string();
            assert!(error.contains("0,REFERENCE"), "{bad}: {error}");
        }
    }

    #[test]
    fn given_frames_overwrite_and_are_masked() {
        let references = [latents(5, 1000.0), latents(10, 2000.0)];
        let strategy: MaskStrategy = "0,0,0,0,1;0,1,-5,9,3,0.5".parse().unwrap();
        let mut z = latents(15, 0.0);
        let mask = strategy.apply(&references, &mut z).unwrap();
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
        let mut apply = |text: &str| text.parse::<MaskStrategy>().unwrap().apply(&[latents(5, 0.0)], &mut z);
        for bad in ["0,1", "0,0,5", "0,0,-6", "0,0,0,15", "0,0,0,-16"] {
            assert!(apply(bad).is_err(), "{bad}");
        }
        // As long as there is something of both.
        assert_eq!(apply("0,0,0,10,100").unwrap().iter().filter(|m| **m == 0.0).count(), 5);
        let other = Latents { shape: [2, 5, 2, 1], values: vec![0.0; 20] };
        assert!("0".parse::<MaskStrategy>().unwrap().apply(&[other], &mut z).is_err());
    }
}
