//! Changes of resolution without weights, and of the order of axes: `kernels/resample.cu`.

use super::params::{self, PermuteParams, ResampleParams, TimeUpParams};
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

/// `out = scale·x` at twice the frames: the first frame stays, the others are interpolated with half-pixel centres.
///
/// * `x` `[frames, height, width, channels]` D, at least one frame; `out` `[2·frames − 1, height, width, channels]` D. A frame has a multiple
///   of 16 bytes.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match.
pub fn time_up(x: &Tensor, scale: f32, out: &Tensor) -> Result<()> {
    let op = Op::new("time_up", out);
    let dtype = op.compute_dtype("x", x)?;
    let [frames, height, width, channels] = op.axes("x", x, ["frames", "height", "width", "channels"])?;
    op.check("x", x, dtype, &[])?;
    let elements = chunk_elements(dtype);
    if frames == 0 || !(height * width * channels).is_multiple_of(elements) {
        let got = format!("{frames} frames of {} elements", height * width * channels);
        return Err(op.value("x", got, format!("at least one frame, of a multiple of {elements} elements")));
    }
    let axes = [("frames", 2 * frames - 1), ("height", height), ("width", width), ("channels", channels)];
    op.check("out", out, dtype, &axes)?;
    op.finite("scale", scale)?;
    op.not_aliased(out, &[("x", Some(x))])?;
    let chunks = height * width * channels / elements;
    let params = TimeUpParams {
        x: x.ptr(),
        out: out.ptr(),
        chunks: chunks as i64,
        frames: op.int("frames", 2 * frames).map(|frames| frames / 2)?,
        scale,
    };
    let grid = [(out.elements() / elements).div_ceil(params::ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(x)], &[Some(out)]);
    op.launch(Module::Resample, &format!("time_up_{dtype}"), grid, params::ELEMENTWISE_THREADS, &params)
}

/// `out[i, j, k] = x[i·strides[0] + j·strides[1] + k·strides[2]]` for k below `count`, and 0 from there on.
///
/// * `x` any shape, D; `out` `[rows, columns, pitch ≥ count]` D. It reads one element at a time: for small tensors.
///
/// # Errors
/// [`OpError`](super::OpError) if types or devices do not match, or elements beyond `x` would be read.
pub fn permute(x: &Tensor, strides: [usize; 3], count: usize, out: &Tensor) -> Result<()> {
    let op = Op::new("permute", out);
    let dtype = op.compute_dtype("x", x)?;
    let [rows, columns, pitch] = op.axes("out", out, ["rows", "columns", "pitch"])?;
    op.check("x", x, dtype, &[])?;
    op.check("out", out, dtype, &[])?;
    op.not_aliased(out, &[("x", Some(x))])?;
    if count > pitch {
        return Err(op.value("count", count, format!("at most the {pitch} columns of out")));
    }
    let read = [rows, columns, count];
    let last: usize = read.iter().zip(strides).map(|(n, stride)| n.saturating_sub(1) * stride).sum();
    if !read.contains(&0) && last >= x.elements() {
        return Err(op.value("strides", format!("{strides:?}"), format!("steps within {} elements", x.elements())));
    }
    let [stride_i, stride_j, stride_k] = strides.map(|stride| stride as i64);
    let params = PermuteParams {
        x: x.ptr(),
        out: out.ptr(),
        stride_i,
        stride_j,
        stride_k,
        rows: op.int("rows", rows)?,
        columns: op.int("columns", columns)?,
        pitch: op.int("pitch", pitch)?,
        count: op.int("count", count)?,
    };
    let grid = [out.elements().div_ceil(params::ELEMENTWISE_THREADS), 1];
    let op = op.counted(0, &[Some(x)], &[Some(out)]);
    op.launch(Module::Resample, &format!("permute_{dtype}"), grid, params::ELEMENTWISE_THREADS, &params)
}
