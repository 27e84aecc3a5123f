//! The shortcuts without weights around a change of resolution: `kernels/resample.cu`.

use super::params::{self, ResampleParams};
use super::{Op, Result, chunk_elements};
use crate::device::Module;
use crate::tensor::Tensor;

/// A change of resolution, and the channels before and after it that are no padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resample {
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The factor in time: 1, 2, 4, …
    pub time: usize,
    /// The factor in rows and columns: 1, 2, 4, …
    pub space: usize,
}

impl Resample {
    fn neighbours(&self) -> usize {
        self.time * self.space * self.space
    }

    /// How often [`dup_up`] repeats a channel, if that comes out even.
    pub fn repeats(&self) -> Option<usize> {
        let made = self.out_channels * self.neighbours();
        (self.channels > 0 && made > 0 && made.is_multiple_of(self.channels)).then(|| made / self.channels)
    }

    /// How many neighbours [`avg_down`] averages, if that comes out even.
    pub fn averaged(&self) -> Option<usize> {
        let held = self.channels * self.neighbours();
        (self.out_channels > 0 && held > 0 && held.is_multiple_of(self.out_channels)).then(|| held / self.out_channels)
    }

    /// Whether the kernels can do it, for tensors of so many channels.
    fn check(&self, op: &Op<'_>, pitches: [usize; 2]) -> Result<()> {
        for (argument, factor) in [("time", self.time), ("space", self.space)] {
            if !factor.is_power_of_two() {
                return Err(op.value(argument, factor, "a power of two"));
            }
        }
        for (argument, channels, pitch) in
            [("channels", self.channels, pitches[0]), ("out_channels", self.out_channels, pitches[1])]
        {
            if channels > pitch || !pitch.is_multiple_of(super::conv::CHANNELS) {
                return Err(op.value(
                    argument,
                    format!("{channels} of {pitch}"),
                    "at most those of the tensor, which are a multiple of 8",
                ));
            }
        }
        op.int("elements", self.channels.max(self.out_channels) * self.neighbours())?;
        Ok(())
    }
}

/// Adds the input at the higher resolution: each channel is repeated [`Resample::repeats`] times in a row, and of these channels, numbered
/// (output channel, frame, row, column), each position of `out` gets its own.
///
/// * `x` `[frames, height, width, ≥ channels]` D; `out` `[frames·time − dropped, height·space, width·space, ≥ out_channels]` D, both with
///   channels padded to a multiple of 8.
/// * `dropped`: frames left out in front, below `time`.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or the channels do not come out even.
pub fn dup_up(x: &Tensor, by: Resample, dropped: usize, out: &Tensor) -> Result<()> {
    let [frames, height, width] = lead(x);
    let sides = [(frames * by.time).saturating_sub(dropped), height * by.space, width * by.space];
    resample("dup_up", x, by, (dropped, by.repeats()), sides, out)
}

/// Adds the input at the lower resolution: the means of [`Resample::averaged`] neighbours each, numbered (input channel, frame, row, column).
///
/// * `x` `[frames, height, width, ≥ channels]` D; `out` `[(padding + frames)/time, height/space, width/space, ≥ out_channels]` D, both with
///   channels padded to a multiple of 8.
/// * `padding`: frames of zeros in front, below `time`.
///
/// # Errors
/// As [`dup_up`].
pub fn avg_down(x: &Tensor, by: Resample, padding: usize, out: &Tensor) -> Result<()> {
    let [frames, height, width] = lead(x);
    let (time, space) = (by.time.max(1), by.space.max(1));
    resample(
        "avg_down",
        x,
        by,
        (padding, by.averaged()),
        [(padding + frames) / time, height / space, width / space],
        out,
    )
}

fn lead(x: &Tensor) -> [usize; 3] {
    std::array::from_fn(|axis| x.shape().get(axis).copied().unwrap_or(0))
}

fn resample(
    name: &'static str,
    x: &Tensor,
    by: Resample,
    (shift, share): (usize, Option<usize>),
    sides: [usize; 3],
    out: &Tensor,
) -> Result<()> {
    let op = Op::new(name, out);
    let dtype = op.compute_dtype("x", x)?;
    let [frames, height, width, pitch] = op.axes("x", x, ["frames", "height", "width", "channels"])?;
    let [.., out_pitch] = op.axes("out", out, ["frames", "height", "width", "channels"])?;
    let axes = [("frames", sides[0]), ("height", sides[1]), ("width", sides[2]), ("channels", out_pitch)];
    op.check("x", x, dtype, &[])?;
    op.check("out", out, dtype, &axes)?;
    op.not_aliased(out, &[("x", Some(x))])?;
    by.check(&op, [pitch, out_pitch])?;
    let Some(share) = share else {
        return Err(op.value(
            "channels",
            format!("{by:?}"),
            "channels and factors of which one side divides the other",
        ));
    };
    let even =
        (shift + frames).is_multiple_of(by.time) && height.is_multiple_of(by.space) && width.is_multiple_of(by.space);
    if shift >= by.time || name == "avg_down" && !even {
        let got = format!("{shift} frames in front of {frames}x{height}x{width}");
        return Err(op.value(
            "shift",
            got,
            format!("fewer than {} frames, and sides that are multiples of the factors", by.time),
        ));
    }
    let params = ResampleParams {
        x: x.ptr(),
        out: out.ptr(),
        frames: op.int("frames", frames)?,
        height: op.int("height", height)?,
        width: op.int("width", width)?,
        pitch: op.int("channels", pitch)?,
        out_frames: op.int("frames", sides[0])?,
        out_height: op.int("height", sides[1])?,
        out_width: op.int("width", sides[2])?,
        out_pitch: op.int("channels", out_pitch)?,
        channels: op.int("channels", by.channels)?,
        out_channels: op.int("channels", by.out_channels)?,
        bits_t: by.time.trailing_zeros() as i32,
        bits: by.space.trailing_zeros() as i32,
        shift: op.int("shift", shift)?,
        share: op.int("share", share)?,
    };
    let grid = [(out.elements() / chunk_elements(dtype)).div_ceil(params::ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(x), Some(out)], &[Some(out)]);
    op.launch(Module::Resample, &format!("{name}_{dtype}"), grid, params::ELEMENTWISE_THREADS, &params)
}
