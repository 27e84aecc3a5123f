//! AdaCache's measurement of a residual, and the fold of residuals: `kernels/residual.cu`.

use super::params::{
    self, ExtrapolateParams, FoldParams, MAX_STRIDES, MOTION_SUMS, PROBE_SUMS, ReduceParams, ResidualProbeParams,
};
use super::{Op, Result, chunk_elements};
use crate::device::{Device, Module, Work};
use crate::tensor::{DType, Tensor};

/// Device memory for the sums of one probe; allocated once, used in every step.
#[derive(Debug, Clone)]
pub struct ProbeBuffers {
    partial: Tensor,
    sums: Tensor,
}

impl ProbeBuffers {
    /// For [`probe`] over `batch` samples with `strides` frame strides.
    ///
    /// # Errors
    /// More than [`MAX_STRIDES`] strides, or out of memory.
    pub fn new(device: &Device, batch: usize, strides: usize) -> Result<Self> {
        Self::sized(device, "ProbeBuffers", batch, strides, PROBE_SUMS)
    }

    /// For [`super::motion::motion`] over `batch` samples with `strides` frame strides.
    ///
    /// # Errors
    /// As [`ProbeBuffers::new`].
    pub fn for_motion(device: &Device, batch: usize, strides: usize) -> Result<Self> {
        Self::sized(device, "ProbeBuffers", batch, strides, 0)
    }

    /// For several measurements of one step, each of `(batch, strides)` as in [`ProbeBuffers::new`]. Their sums are adjacent in the
    /// returned flat f64 tensor, followed by `more` values, so that one copy reads all of them; they share scratch memory, as the stream
    /// runs one measurement after the other.
    ///
    /// # Errors
    /// As [`ProbeBuffers::new`].
    pub fn several(device: &Device, probes: &[(usize, usize)], more: usize) -> Result<(Tensor, Vec<Self>)> {
        let largest = |of: fn(&(usize, usize)) -> usize| probes.iter().map(of).max().unwrap_or(0);
        let ProbeBuffers { partial, .. } = Self::new(device, largest(|p| p.0), largest(|p| p.1))?;
        let counts: Vec<usize> = probes.iter().map(|(_, strides)| Self::count(*strides)).collect();
        let sizes = || probes.iter().zip(&counts).map(|((batch, _), count)| (*batch, *count));
        let all = Tensor::zeros(device, &[sizes().map(|(b, c)| b * c).sum::<usize>() + more], DType::F64)?;
        let mut start = 0;
        let buffers = sizes().map(|(batch, count)| {
            let sums = all.slice_rows(start, batch * count)?.reshape(&[batch, count])?;
            start += batch * count;
            Ok(Self { partial: partial.clone(), sums })
        });
        let buffers = buffers.collect::<Result<_>>()?;
        Ok((all, buffers))
    }

    /// The same for `samples` of the batch, from `first` on.
    ///
    /// # Errors
    /// Samples that there are not.
    pub fn of_samples(&self, first: usize, samples: usize) -> Result<Self> {
        Ok(Self { partial: self.partial.slice_rows(0, samples)?, sums: self.sums.slice_rows(first, samples)? })
    }

    /// The number of sums per sample in a measurement with `strides` frame strides.
    pub fn count(strides: usize) -> usize {
        PROBE_SUMS + MOTION_SUMS * strides
    }

    fn sized(device: &Device, name: &'static str, batch: usize, strides: usize, base: usize) -> Result<Self> {
        let op = Op::on(name, device);
        if strides > MAX_STRIDES {
            return Err(op.value("strides", strides, format_args!("at most {MAX_STRIDES}")));
        }
        let count = base + MOTION_SUMS * strides;
        Ok(Self {
            partial: Tensor::empty(device, &[batch, params::PROBE_MAX_BLOCKS, count], DType::F32)?,
            sums: Tensor::empty(device, &[batch, count], DType::F64)?,
        })
    }

    /// `[batch, count]` f64: the result of the last measurement. For each sample: `Σ|new−kept|, Σ|kept|, Σ(new−kept)², Σkept², Σnew·kept,
    /// Σnew²` (not in a motion buffer), then for each stride k `Σ|r[t+k]−r[t]|, Σ|r[t+k]|, Σ|r[t]|`.
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }

    /// Checks that the buffers are for this measurement.
    pub(super) fn check(&self, op: &Op<'_>, batch: usize, count: usize) -> Result<()> {
        op.check("buffers", &self.sums, DType::F64, &[("batch", batch), ("sums", count)])
    }

    pub(super) fn partial(&self) -> &Tensor {
        &self.partial
    }

    /// `sums[batch, i] = Σ over blocks of partial[batch, block, i]`, in f64 and in a fixed order.
    pub(super) fn reduce(&self, op: &Op<'_>, batch: usize, blocks: usize, count: usize) -> Result<()> {
        let params = ReduceParams {
            partial: self.partial.ptr(),
            sums: self.sums.ptr(),
            batch: op.int("batch", batch)?,
            blocks: op.int("blocks", blocks)?,
            count: op.int("sums", count)?,
            reserved: 0,
        };
        let grid = [count.div_ceil(params::REDUCE_WARPS), batch];
        let bytes_read = (batch * blocks * count * DType::F32.size()) as u64;
        let work = Work { flops: 0, bytes_read, bytes_written: self.sums.bytes() as u64 };
        Op { work, ..*op }.launch(Module::Residual, "reduce_partials", grid, params::REDUCE_THREADS, &params)
    }
}

/// Frame strides in kernel format.
pub(super) fn stride_list(op: &Op<'_>, strides: &[usize]) -> Result<[i32; MAX_STRIDES]> {
    if strides.len() > MAX_STRIDES {
        return Err(op.value("strides", strides.len(), format_args!("at most {MAX_STRIDES} of them")));
    }
    let mut list = [0; MAX_STRIDES];
    for (to, &stride) in list.iter_mut().zip(strides) {
        if stride == 0 {
            return Err(op.value("strides", 0, "at least 1 frame"));
        }
        *to = op.int("strides", stride)?;
    }
    Ok(list)
}

/// The number of blocks for a measurement over `chunks` chunks (of [`CHUNK_BYTES`](params::CHUNK_BYTES)): it depends on the shape alone, so that
/// the same input gives bit-identical sums on every device.
pub fn probe_blocks(chunks: usize) -> usize {
    chunks.div_ceil(params::PROBE_THREADS).clamp(1, params::PROBE_MAX_BLOCKS)
}

/// Measures how far `fresh` has moved from `kept` and how its frames differ, then keeps it: `kept := fresh`. One pass.
///
/// * `fresh`, `kept` `[batch, frames, …]` D. `first`: `kept` has no content yet; it is not read, and the sums that involve it are 0.
/// * `strides` in frames; a stride of `frames` or more gives zero sums.
/// * Returns [`ProbeBuffers::sums`], on the device; see [`Tensor::read_async`]. Equal inputs give bit-identical sums.
///
/// From the published AdaCache code: distance, motion score and its gradient are computed from these sums (`src/cache/adacache.rs`).
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types, devices, strides or buffers do not match.
pub fn probe<'b>(
    fresh: &Tensor,
    kept: &Tensor,
    first: bool,
    strides: &[usize],
    buffers: &'b ProbeBuffers,
) -> Result<&'b Tensor> {
    let op = Op::new("residual::probe", kept);
    let dtype = op.compute_dtype("fresh", fresh)?;
    let [batch, frames, rest @ ..] = fresh.shape() else {
        return Err(op.shape_error("fresh", fresh, &[("batch", 1), ("frames", 1), ("inner", 1)]));
    };
    let (batch, frames, inner) = (*batch, *frames, rest.iter().product::<usize>());
    let axes: Vec<(&str, usize)> = fresh.shape().iter().map(|&length| ("as fresh", length)).collect();
    op.check("fresh", fresh, dtype, &[])?;
    op.check("kept", kept, dtype, &axes)?;
    op.not_aliased(kept, &[("fresh", Some(fresh))])?;
    let count = PROBE_SUMS + MOTION_SUMS * strides.len();
    buffers.check(&op, batch, count)?;
    let blocks = probe_blocks(inner.div_ceil(chunk_elements(dtype)));
    let params = ResidualProbeParams {
        fresh: fresh.ptr(),
        kept: kept.ptr(),
        partial: buffers.partial().ptr(),
        inner: inner as i64,
        batch: op.int("batch", batch)?,
        frames: op.int("frames", frames)?,
        first: first.into(),
        num_strides: strides.len() as i32,
        strides: stride_list(&op, strides)?,
    };
    if frames == 0 || inner == 0 {
        buffers.sums.fill_bytes(0)?;
        return Ok(&buffers.sums);
    }
    let entry = format!("residual_probe_{dtype}");
    let op = op.counted(0, &[Some(fresh), (!first).then_some(kept)], &[Some(kept)]);
    op.launch(Module::Residual, &entry, [blocks, batch], params::PROBE_THREADS, &params)?;
    buffers.reduce(&op, batch, blocks, count)?;
    Ok(&buffers.sums)
}

/// `out = a − b`: the sum that the blocks added to the hidden state. `out` may be `a` or `b`.
///
/// * All of one shape and type D. Computed in f32, rounded once.
///
/// # Errors
/// [`OpError`](super::OpError) if shapes, types or devices do not match, or `out` overlaps an input in part.
pub fn fold(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    elementwise("residual::fold", "residual_fold", a, b, out)
}

/// `out = a + b`: a reused step's hidden state. `out` may be `a` or `b`.
///
/// # Errors
/// As [`fold`].
pub fn unfold(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    elementwise("residual::unfold", "residual_unfold", a, b, out)
}

/// `out = a +` the fold extrapolated to the current step, a Taylor polynomial through `folds`. `out` may be `a`.
///
/// * `folds`: 2 or 3 tensors, newest first, of the shape and type D of `a` and `out`; the polynomial's order is one less. Folds that do not
///   exist yet are not read, and lower the order; with a single one the result has the bits of [`unfold`].
/// * `computed` `[3]` i32: the steps of the folds, from 1, descending; 0 if there is none yet. `cursor` `[1]` i32: the current step.
/// * `damping`: the fraction of the distance from the last fold to the current step that is extrapolated; 1 is the published value.
///
/// From TaylorSeer (arXiv 2503.06923): finite differences between successive computed steps approximate the derivatives.
///
/// # Errors
/// As [`fold`], or another number of folds.
pub fn extrapolate(
    a: &Tensor,
    folds: &[&Tensor],
    computed: &Tensor,
    cursor: &Tensor,
    damping: f32,
    out: &Tensor,
) -> Result<()> {
    let op = Op::new("residual::extrapolate", out);
    let dtype = op.compute_dtype("out", out)?;
    let (newest, older) = match folds {
        [newest, older @ ..] if (1..=2).contains(&older.len()) => (newest, older),
        _ => return Err(op.value("folds", folds.len(), "2 or 3")),
    };
    let axes: Vec<(&str, usize)> = out.shape().iter().map(|&length| ("as out", length)).collect();
    op.check("a", a, dtype, &axes)?;
    if a.ptr() != out.ptr() {
        op.not_aliased(out, &[("a", Some(a))])?;
    }
    for &fold in folds {
        op.check("folds", fold, dtype, &axes)?;
        op.not_aliased(out, &[("folds", Some(fold))])?;
    }
    op.check("computed", computed, DType::I32, &[("folds", 3)])?;
    op.check("cursor", cursor, DType::I32, &[("cursor", 1)])?;
    let fold = |i: usize| folds.get(i).unwrap_or(newest).ptr();
    let params = ExtrapolateParams {
        a: a.ptr(),
        folds: [fold(0), fold(1), fold(2)],
        out: out.ptr(),
        computed: computed.ptr(),
        cursor: cursor.ptr(),
        count: out.elements() as i64,
        order: older.len() as i32,
        damping,
    };
    let blocks = out.elements().div_ceil(chunk_elements(dtype)).div_ceil(params::ELEMENTWISE_THREADS);
    let read: Vec<Option<&Tensor>> = std::iter::once(a).chain(folds.iter().copied()).map(Some).collect();
    let op = op.counted(0, &read, &[Some(out)]);
    let entry = format!("residual_extrapolate_{dtype}");
    op.launch(Module::Residual, &entry, [blocks, 1], params::ELEMENTWISE_THREADS, &params)
}

fn elementwise(name: &'static str, entry: &str, a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    let op = Op::new(name, out);
    let dtype = op.compute_dtype("out", out)?;
    let axes: Vec<(&str, usize)> = out.shape().iter().map(|&length| ("as out", length)).collect();
    for (argument, tensor) in [("a", a), ("b", b)] {
        op.check(argument, tensor, dtype, &axes)?;
        if tensor.ptr() != out.ptr() {
            op.not_aliased(out, &[(argument, Some(tensor))])?;
        }
    }
    let params = FoldParams { a: a.ptr(), b: b.ptr(), out: out.ptr(), count: out.elements() as i64 };
    let blocks = out.elements().div_ceil(chunk_elements(dtype)).div_ceil(params::ELEMENTWISE_THREADS);
    let op = op.counted(0, &[Some(a), Some(b)], &[Some(out)]);
    op.launch(Module::Residual, &format!("{entry}_{dtype}"), [blocks, 1], params::ELEMENTWISE_THREADS, &params)
}
