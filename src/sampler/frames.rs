//! Frames that are frozen at a given value, and begin to move at their own times.

use super::error::SampleError;
use super::rflow::TRAIN_STEPS;
use crate::model::Transformer;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// Frames frozen at a given value: image to video, extension, editing.
///
/// At time t the frames with `mask·1000 ≥ t` are denoised, the others stay; a frame that begins to move is first noised to t. A solver that
/// keeps a history takes a mask of 0 and 1 only: what is held never reads it.
#[derive(Clone, Debug)]
pub struct FrameConditioning {
    /// `[videos, frames]`: 1 generates the frame, 0 keeps it; a value between edits it from that time on.
    pub mask: Vec<f32>,
    /// Noise for frames that begin to move, with the shape of the latents.
    pub noise: Vec<f32>,
}

impl FrameConditioning {
    /// Whether some frames begin to move during the run.
    pub(super) fn edits(&self) -> bool {
        self.mask.iter().any(|m| *m > 0.0 && *m < 1.0)
    }
}

/// The state of frozen frames in a run.
pub(super) struct FrameState {
    conditioning: FrameConditioning,
    noise: Tensor,
    pub(super) mask: Tensor,
    select: Tensor,
    /// Which frames have already been noised.
    noised: Vec<bool>,
}

/// Whether a frame with the mask `m` is denoised at `timestep`. A time of 0, to which Wan's last one may be rounded, moves no frame that is
/// kept.
fn moves(m: f32, timestep: f32) -> bool {
    m > 0.0 && m * TRAIN_STEPS as f32 >= timestep
}

impl FrameState {
    /// `before`: the time of the step before the first, in a run that goes on where another ended.
    pub(super) fn new(
        model: &dyn Transformer,
        conditioning: FrameConditioning,
        shape: &[usize; 5],
        before: Option<f32>,
    ) -> Result<FrameState, SampleError> {
        let [videos, _, frames, ..] = *shape;
        if model.shape().patch_frames != 1 {
            return Err(SampleError::Input("frame conditioning needs a model whose patches span one frame".into()));
        }
        if conditioning.mask.iter().any(|m| !(0.0..=1.0).contains(m)) {
            return Err(SampleError::Input("the frame mask needs values from 0 to 1".into()));
        }
        let device = model.device();
        let flags = || Tensor::empty(device, &[videos, frames], DType::U8);
        Ok(FrameState {
            noise: Tensor::from_f32(device, shape, &conditioning.noise, DType::F32)?,
            mask: flags()?,
            select: flags()?,
            noised: conditioning.mask.iter().map(|m| *m == 1.0 || before.is_some_and(|time| moves(*m, time))).collect(),
            conditioning,
        })
    }

    /// Noises the frames that begin to move at `timestep`; returns which frames move.
    pub(super) fn advance(&mut self, timestep: f32, z: &Tensor) -> Result<Vec<bool>, SampleError> {
        let moving: Vec<bool> = self.conditioning.mask.iter().map(|m| moves(*m, timestep)).collect();
        let starting: Vec<u8> = moving.iter().zip(&self.noised).map(|(m, n)| (*m && !*n) as u8).collect();
        if starting.contains(&1) {
            self.select.write_slice(&starting)?;
            ops::sampler::noise(z, z, &self.noise, &self.select, timestep / TRAIN_STEPS as f32)?;
        }
        self.mask.write_slice(&moving.iter().map(|m| *m as u8).collect::<Vec<u8>>())?;
        self.noised.clone_from(&moving);
        Ok(moving)
    }
}

/// The conditioning of each of `parts` members, with `frames` mask entries and `elements` noise values each.
pub(super) fn split_conditioning(
    conditioning: Option<FrameConditioning>,
    parts: usize,
    frames: usize,
    elements: usize,
) -> Result<Vec<Option<FrameConditioning>>, SampleError> {
    let Some(FrameConditioning { mask, noise }) = conditioning else { return Ok(vec![None; parts]) };
    if mask.len() != parts * frames || noise.len() != parts * elements {
        return Err(SampleError::Input(format!(
            "the frame conditioning has {} mask entries and {} noise values, expected {} and {}",
            mask.len(),
            noise.len(),
            parts * frames,
            parts * elements
        )));
    }
    let pairs = mask.chunks(frames).zip(noise.chunks(elements));
    Ok(pairs.map(|(mask, noise)| Some(FrameConditioning { mask: mask.into(), noise: noise.into() })).collect())
}
