//! Guidance and the update of the latents, in one pass: `kernels/sampler.cu`.

use super::params::{ELEMENTWISE_THREADS, SOLVER_HISTORY, STEP_WORDS, SamplerNoiseParams, SamplerStepParams};
use super::{Op, Result, ptr};
use crate::device::Module;
use crate::tensor::{DType, Tensor};

/// One step of a solver.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Guidance scale s in `v = v_u + s·(v_c − v_u)`; `None`: the prediction is v itself.
    pub cfg_scale: Option<f32>,
    /// `[STEP_WORDS]` f32: the step's scalars ([`StepRow`](super::decide::StepRow)), read when the step runs.
    pub row: &'a Tensor,
    /// `[slots, …z]` f32: the solver's history, with at least as many slots as any row uses. `None`: no row uses one.
    pub history: Option<&'a Tensor>,
    /// `[batch, frames]` u8: frames with 0 are frozen. `None`: all move.
    pub frame_mask: Option<&'a Tensor>,
    /// The values of frozen frames, with the shape of z; `None` leaves them unchanged.
    pub x0: Option<&'a Tensor>,
}

/// Updates the latents `z` and one history slot in place to the sums defined by the step's row, with v from the prediction by guidance.
///
/// * `z` `[batch, channels, frames, height, width]` f32.
/// * `prediction` `[2·batch, v_channels, frames, height, width]` f32, conditional half first; `[batch, …]` without guidance.
///   Only its first `channels` channels are used.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn step(z: &Tensor, prediction: &Tensor, step: &Step<'_>) -> Result<()> {
    let op = Op::new("sampler::step", z);
    let Latents { batch, channels, frames, height, width } = latents(&op, z)?;
    let copies = if step.cfg_scale.is_some() { 2 } else { 1 };
    let [_, v_channels, ..] = op.axes("prediction", prediction, AXES)?;
    let expected = [
        ("batch (twice with guidance)", copies * batch),
        ("channels", v_channels.max(channels)),
        ("frames", frames),
        ("height", height),
        ("width", width),
    ];
    op.check("prediction", prediction, DType::F32, &expected)?;
    op.not_aliased(z, &[("prediction", Some(prediction))])?;
    if let Some(mask) = step.frame_mask {
        op.check("frame_mask", mask, DType::U8, &[("batch", batch), ("frames", frames)])?;
    }
    if let Some(x0) = step.x0 {
        same_latents(&op, "x0", x0, z)?;
    }
    op.check("row", step.row, DType::F32, &[("words", STEP_WORDS)])?;
    if let Some(history) = step.history {
        let slots = history.shape().first().copied().unwrap_or(0);
        if !(1..=SOLVER_HISTORY).contains(&slots) {
            return Err(op.value("history", slots, format_args!("1 to {SOLVER_HISTORY} slots")));
        }
        let axes: Vec<(&str, usize)> = AXES.into_iter().zip(z.shape().iter().copied()).collect();
        op.check("history", history, DType::F32, &[&[("slots", slots)], &axes[..]].concat())?;
        op.not_aliased(history, &[("z", Some(z)), ("prediction", Some(prediction)), ("x0", step.x0)])?;
    }
    op.finite("cfg_scale", step.cfg_scale.unwrap_or(1.0))?;
    let params = SamplerStepParams {
        z: z.ptr(),
        v: prediction.ptr(),
        x0: ptr(step.x0),
        frame_mask: ptr(step.frame_mask),
        row: step.row.ptr(),
        history: ptr(step.history),
        cfg_scale: step.cfg_scale.unwrap_or(1.0),
        guided: step.cfg_scale.is_some().into(),
        batch: op.int("batch", batch)?,
        channels: op.int("channels", channels)?,
        v_channels: op.int("v_channels", v_channels)?,
        frames: op.int("frames", frames)?,
        spatial: op.int("height*width", height * width)?,
        reserved: 0,
    };
    // The row is on the device: counted is that every slot is read and one of them written.
    let slot = step.history.map(|history| history.slice_rows(0, 1)).transpose()?;
    let reads = [Some(z), Some(prediction), step.x0, step.frame_mask, step.history];
    let op = op.counted(0, &reads, &[Some(z), slot.as_ref()]);
    launch(&op, "sampler_step", z, batch, height * width, &params)
}

/// Starts moving frames: where `select` is 1, `z = (1 − t)·x0 + t·noise`; other frames stay unchanged.
///
/// * `z`, `x0`, `noise` `[batch, channels, frames, height, width]` f32 (x0 may be z), `select` `[batch, frames]` u8, t in 0..=1.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match or t is out of range.
pub fn noise(z: &Tensor, x0: &Tensor, noise: &Tensor, select: &Tensor, t: f32) -> Result<()> {
    let op = Op::new("sampler::noise", z);
    let Latents { batch, channels, frames, height, width } = latents(&op, z)?;
    same_latents(&op, "x0", x0, z)?;
    same_latents(&op, "noise", noise, z)?;
    op.check("select", select, DType::U8, &[("batch", batch), ("frames", frames)])?;
    if !(0.0..=1.0).contains(&t) {
        return Err(op.value("t", t, "0 to 1"));
    }
    let params = SamplerNoiseParams {
        z: z.ptr(),
        x0: x0.ptr(),
        noise: noise.ptr(),
        select: select.ptr(),
        t,
        batch: op.int("batch", batch)?,
        channels: op.int("channels", channels)?,
        frames: op.int("frames", frames)?,
        spatial: op.int("height*width", height * width)?,
        reserved: 0,
    };
    let op = op.counted(0, &[Some(x0), Some(noise), Some(select)], &[Some(z)]);
    launch(&op, "sampler_noise", z, batch, height * width, &params)
}

const AXES: [&str; 5] = ["batch", "channels", "frames", "height", "width"];

struct Latents {
    batch: usize,
    channels: usize,
    frames: usize,
    height: usize,
    width: usize,
}

fn latents(op: &Op<'_>, z: &Tensor) -> Result<Latents> {
    let [batch, channels, frames, height, width] = op.axes("z", z, AXES)?;
    op.check("z", z, DType::F32, &[])?;
    op.int("z", z.elements() / batch.max(1))?;
    Ok(Latents { batch, channels, frames, height, width })
}

/// Checks an argument with the shape of z: it must be z itself, or not overlap it.
fn same_latents(op: &Op<'_>, argument: &'static str, tensor: &Tensor, z: &Tensor) -> Result<()> {
    let axes: Vec<(&str, usize)> = AXES.into_iter().zip(z.shape().iter().copied()).collect();
    op.check(argument, tensor, DType::F32, &axes)?;
    if tensor.ptr() == z.ptr() { Ok(()) } else { op.not_aliased(z, &[(argument, Some(tensor))]) }
}

fn launch<P: bytemuck::Pod>(
    op: &Op<'_>,
    entry: &str,
    z: &Tensor,
    batch: usize,
    spatial: usize,
    params: &P,
) -> Result<()> {
    // Four neighbours an access, where a frame is made of fours.
    let elements = z.elements() / batch.max(1) / if spatial.is_multiple_of(4) { 4 } else { 1 };
    let grid = [elements.div_ceil(ELEMENTWISE_THREADS), batch];
    op.launch(Module::Sampler, entry, grid, ELEMENTWISE_THREADS, params)
}
