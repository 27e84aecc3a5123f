//! Operations with their arguments on a device.

use super::case::Case;
use crate::device::Device;
use crate::ops::attention::{self, QkNorm, SelfAttention, VideoDims};
use crate::ops::conv::{Band, CHANNELS, Conv, Input, conv};
use crate::ops::fp8::{self, Rows};
use crate::ops::group_norm::GroupNorm;
use crate::ops::linear::{Activation, Gate, Modulate, linear, linear_residual, norms_apart};
use crate::ops::pack::{PackError, Packed};
use crate::ops::residual::{self, ProbeBuffers};
use crate::ops::{Modulation, OpError, RowMap, group_norm, norm, resample, rms_norm, sampler, softmax};
use crate::sampler::Row;
use crate::shapes::{
    AttentionKind, AttentionShape, ConvShape, Epilogue, GroupNormKind, GroupNormShape, LinearShape, NormKind,
    NormShape, PackKind, PackShape, ResampleKind, ResampleShape, ResidualKind, ResidualShape, RmsNormShape,
    SamplerShape, SoftmaxShape,
};
use crate::tensor::{DType, Tensor};

/// An operation with its arguments on a device, ready for repeated launches.
pub struct Prepared {
    run: Box<dyn Fn() -> Result<(), OpError>>,
    /// The tensors it writes.
    pub(super) outputs: Vec<Tensor>,
}

impl Prepared {
    /// Queues the operation's launches.
    ///
    /// # Errors
    /// A launcher rejects the shape, or the device fails.
    pub fn run(&self) -> Result<(), OpError> {
        (self.run)()
    }

    fn new(outputs: &[&Tensor], run: impl Fn() -> Result<(), OpError> + 'static) -> Self {
        Self { run: Box::new(run), outputs: outputs.iter().copied().cloned().collect() }
    }
}

impl Case {
    /// Allocates and fills the arguments.
    ///
    /// # Errors
    /// They do not fit the device's memory.
    pub fn prepare(&self, device: &Device, dtype: DType) -> Result<Prepared, OpError> {
        let on = On { device, dtype };
        match *self {
            Case::Linear(shape) => prepare_linear(on, shape),
            Case::Attention(shape) => prepare_attention(on, shape),
            Case::Residual(shape) => prepare_residual(on, shape),
            Case::Norm(shape) => prepare_norm(on, shape),
            Case::Sampler(shape) => prepare_sampler(on, shape),
            Case::Conv(shape) => prepare_conv(on, shape),
            Case::GroupNorm(shape) => prepare_group_norm(on, shape),
            Case::Softmax(shape) => prepare_softmax(on, shape),
            Case::RmsNorm(shape) => prepare_rms_norm(on, shape),
            Case::Resample(shape) => prepare_resample(on, shape),
            Case::Pack(shape) => prepare_pack(on, shape),
        }
    }
}

/// Where arguments are allocated, and in which element type.
#[derive(Clone, Copy)]
struct On<'a> {
    device: &'a Device,
    dtype: DType,
}

impl On<'_> {
    fn values(self, shape: &[usize]) -> Result<Tensor, OpError> {
        noise(self.device, shape, self.dtype)
    }

    fn floats(self, shape: &[usize]) -> Result<Tensor, OpError> {
        noise(self.device, shape, DType::F32)
    }

    fn empty(self, shape: &[usize]) -> Result<Tensor, OpError> {
        Ok(Tensor::empty(self.device, shape, self.dtype)?)
    }
}

fn prepare_linear(on: On<'_>, shape: LinearShape) -> Result<Prepared, OpError> {
    let LinearShape { m, n, k, epilogue, modulate, fp8 } = shape;
    if fp8 {
        return prepare_fp8(on, shape);
    }
    let (a, w, bias) = (on.values(&[m, k])?, on.values(&[n, k])?, on.values(&[n])?);
    let rows = RowMap { frames: 1, rows_per_frame: m };
    let (stats, table) = (on.floats(&[m, 2])?, on.floats(&[1, 1, 6, k.max(n)])?);
    let channels = if epilogue == Epilogue::Residual { n } else { k };
    let table = table.reshape(&[6 * k.max(n)])?.slice_rows(0, 6 * channels)?.reshape(&[1, 1, 6, channels])?;
    if epilogue == Epilogue::Residual {
        let x = on.values(&[m, n])?;
        return Ok(Prepared::new(&[&x.clone()], move || {
            let gate = Gate { modulation: Modulation { table: &table, frame_mask: None, rows }, chunk: 2 };
            linear_residual(&a, &w, Some(&bias), Some(&gate), &x, None)
        }));
    }
    let out = on.empty(&[m, n])?;
    let activation = if epilogue == Epilogue::Gelu { Activation::GeluTanh } else { Activation::None };
    if modulate && norms_apart(on.device, on.dtype, [m, n, k]) {
        // As a model does it: the rows are normed before the product.
        let normed = on.empty(&[m, k])?;
        return Ok(Prepared::new(&[&out.clone()], move || {
            let modulation = Modulation { table: &table, frame_mask: None, rows };
            let (variant, only_masked_out, eps) = (0, false, 1e-6);
            norm::modulate(
                &a,
                &norm::Modulate { modulation, shift: 0, scale: 1, variant, only_masked_out, eps },
                &normed,
            )?;
            linear(&normed, &w, Some(&bias), None, activation, &out)
        }));
    }
    Ok(Prepared::new(&[&out.clone()], move || {
        let modulation = Modulation { table: &table, frame_mask: None, rows };
        let modulation = modulate.then_some(Modulate { stats: &stats, modulation, shift: 0, scale: 1 });
        linear(&a, &w, Some(&bias), modulation.as_ref(), activation, &out)
    }))
}

/// As a model does it: the rows are made e4m3, normed before if they are, then multiplied.
fn prepare_fp8(on: On<'_>, LinearShape { m, n, k, epilogue, modulate, .. }: LinearShape) -> Result<Prepared, OpError> {
    let (x, w, bias) = (on.values(&[m, k])?, on.values(&[n, k])?, on.values(&[n])?);
    let (gated, normed) = (on.floats(&[1, 1, 6, n])?, on.floats(&[1, 1, 6, k])?);
    let rows = RowMap { frames: 1, rows_per_frame: m };
    let error = PackError::new(on.device)?;
    let room = |rows: usize| -> Result<_, OpError> {
        let codes = Tensor::empty(on.device, &[rows, k], DType::U8)?;
        Ok((codes, Tensor::empty(on.device, &[rows], DType::F32)?))
    };
    let ((a_codes, a_scales), (w_codes, w_scales)) = (room(m)?, room(n)?);
    fp8::quantise(&w, Rows { codes: &w_codes, scales: &w_scales }, &error)?;
    let out = on.values(&[m, n])?;
    Ok(Prepared::new(&[&out.clone()], move || {
        let (a_rows, w_rows) =
            (Rows { codes: &a_codes, scales: &a_scales }, Rows { codes: &w_codes, scales: &w_scales });
        if modulate {
            let modulation = Modulation { table: &normed, frame_mask: None, rows };
            let norm = fp8::Norm { modulation, shift: 0, scale: 1, eps: 1e-6 };
            fp8::quantise_normed(&x, &norm, a_rows, &error)?;
        } else {
            fp8::quantise(&x, a_rows, &error)?;
        }
        let gate = Gate { modulation: Modulation { table: &gated, frame_mask: None, rows }, chunk: 2 };
        match epilogue {
            Epilogue::Residual => fp8::linear_residual(a_rows, w_rows, Some(&bias), Some(&gate), &out, None),
            Epilogue::Gelu => fp8::linear(a_rows, w_rows, Some(&bias), Activation::GeluTanh, &out),
            Epilogue::Bias => fp8::linear(a_rows, w_rows, Some(&bias), Activation::None, &out),
        }
    }))
}

fn prepare_attention(on: On<'_>, shape: AttentionShape) -> Result<Prepared, OpError> {
    let AttentionShape { kind, batch, frames, tokens, heads, head_dim, text } = shape;
    let dims = VideoDims { batch, frames, tokens };
    let out = on.empty(&[dims.rows(), heads * head_dim])?;
    if kind == AttentionKind::Cross {
        let (q, kv) = (on.values(&[dims.rows(), heads, head_dim])?, on.values(&[batch * text, 2, heads, head_dim])?);
        let lengths = Tensor::from_slice(on.device, &[batch], &vec![text as i32; batch])?;
        return Ok(Prepared::new(&[&out.clone()], move || attention::cross(&q, &kv, &lengths, None, &dims, &out)));
    }
    let qkv = on.values(&[dims.rows(), 3, heads, head_dim])?;
    let (q, k, rope) = (on.values(&[head_dim])?, on.values(&[head_dim])?, on.floats(&[frames, head_dim / 2, 2])?);
    Ok(Prepared::new(&[&out.clone()], move || {
        let norm = Some(QkNorm { q: &q, k: &k, eps: 1e-6 });
        match kind {
            AttentionKind::Whole => {
                let dims = VideoDims { batch, frames: 1, tokens: frames * tokens };
                attention::spatial(&SelfAttention { qkv: &qkv, dims, norm: None, rope: None }, &out)
            }
            AttentionKind::Temporal => {
                attention::temporal(&SelfAttention { qkv: &qkv, dims, norm, rope: Some(&rope) }, &out)
            }
            _ => attention::spatial(&SelfAttention { qkv: &qkv, dims, norm, rope: None }, &out),
        }
    }))
}

fn prepare_residual(on: On<'_>, shape: ResidualShape) -> Result<Prepared, OpError> {
    let ResidualShape { kind, batch, frames, tokens, channels, strides } = shape;
    let shape = [batch, frames, tokens, channels];
    let (a, b) = (on.values(&shape)?, on.values(&shape)?);
    let buffers = ProbeBuffers::new(on.device, batch, strides)?;
    let strides: Vec<usize> = (1..=strides).collect();
    let outputs = match kind {
        ResidualKind::Probe => vec![b.clone(), buffers.sums().clone()],
        ResidualKind::Fold => vec![b.clone()],
        ResidualKind::Unfold => vec![a.clone()],
    };
    Ok(Prepared::new(&outputs.iter().collect::<Vec<_>>(), move || match kind {
        ResidualKind::Probe => residual::probe(&a, &b, false, &strides, &buffers).map(drop),
        ResidualKind::Fold => residual::fold(&a, &b, &b),
        ResidualKind::Unfold => residual::unfold(&a, &b, &a),
    }))
}

fn prepare_norm(on: On<'_>, shape: NormShape) -> Result<Prepared, OpError> {
    let NormShape { kind, rows, channels } = shape;
    let (x, stats) = (on.values(&[rows, channels])?, on.floats(&[rows, 2])?);
    let (table, out) = (on.floats(&[1, 1, 2, channels])?, on.empty(&[rows, channels])?);
    let rows = RowMap { frames: 1, rows_per_frame: rows };
    let written = if kind == NormKind::RowStats { stats.clone() } else { out.clone() };
    Ok(Prepared::new(&[&written], move || match kind {
        NormKind::RowStats => norm::row_stats(&x, 1e-6, &stats),
        NormKind::Modulate => {
            let modulation = Modulation { table: &table, frame_mask: None, rows };
            let modulate =
                norm::Modulate { modulation, shift: 0, scale: 1, variant: 0, only_masked_out: false, eps: 1e-6 };
            norm::modulate(&x, &modulate, &out)
        }
    }))
}

fn prepare_sampler(on: On<'_>, shape: SamplerShape) -> Result<Prepared, OpError> {
    let SamplerShape { videos, channels, frames, height, width } = shape;
    let z = on.floats(&[videos, channels, frames, height, width])?;
    let prediction = on.floats(&[2 * videos, 2 * channels, frames, height, width])?;
    // Short, so that many of them stay finite.
    let row = Row::euler(0.0, 1e-3).words();
    let row = Tensor::from_slice(on.device, &[row.len()], &row)?;
    Ok(Prepared::new(&[&z.clone()], move || {
        let step = sampler::Step { cfg_scale: Some(7.0), row: &row, history: None, frame_mask: None, x0: None };
        sampler::step(&z, &prediction, &step)
    }))
}

fn prepare_conv(on: On<'_>, shape: ConvShape) -> Result<Prepared, OpError> {
    let ConvShape { frames, height, width, channels, n, kernel_t, kernel, residual, .. } = shape;
    let geometry = shape.geometry();
    let x = on.values(&[frames, height, width, channels])?;
    let (w, bias) = (on.values(&[n, kernel_t, kernel, kernel, channels])?, on.values(&[n])?);
    let made = geometry.output([frames, height, width], [n, kernel_t, kernel, kernel], [0, kernel / 2]);
    let out = if residual { on.values(&made)? } else { on.empty(&made)? };
    // Small, so that many additions stay finite.
    let alpha = if residual { 1e-3 } else { 1.0 };
    let band = Band { first: 0, rows: made[1] };
    Ok(Prepared::new(&[&out.clone()], move || {
        let (input, residual) = (Input::whole(&x), residual.then_some(&out));
        conv(&Conv { input, w: &w, bias: Some(&bias), alpha, geometry, residual, relu: false, band }, &out)
    }))
}

fn prepare_group_norm(on: On<'_>, shape: GroupNormShape) -> Result<Prepared, OpError> {
    let GroupNormShape { kind, frames, height, width, channels, groups, by_frame } = shape;
    let x = on.values(&[frames, height, width, channels])?;
    let (weight, bias) = (on.values(&[channels])?, on.values(&[channels])?);
    let (samples, per_sample) = if by_frame { (frames, 1) } else { (1, frames) };
    let affine = on.floats(&[samples, channels, 2])?;
    let whole = Band { first: 0, rows: height };
    Ok(match kind {
        GroupNormKind::Statistics => {
            let blocks = group_norm::blocks(per_sample * height * width);
            let partial = Tensor::empty(on.device, &[samples, blocks, channels, 2], DType::F32)?;
            Prepared::new(&[&affine.clone()], move || {
                let norm = GroupNorm { weight: &weight, bias: &bias, groups, eps: 1e-6 };
                group_norm::statistics(&x, &norm, &partial, &affine)
            })
        }
        GroupNormKind::Apply => {
            let out = on.empty(&[frames, height, width, channels])?;
            Prepared::new(&[&out.clone()], move || group_norm::apply(&x, &affine, true, whole, &out))
        }
    })
}

fn prepare_softmax(on: On<'_>, shape: SoftmaxShape) -> Result<Prepared, OpError> {
    let SoftmaxShape { rows, columns } = shape;
    let pitch = columns.next_multiple_of(CHANNELS);
    let (x, out) = (on.floats(&[rows, pitch])?, on.empty(&[rows, pitch])?);
    Ok(Prepared::new(&[&out.clone()], move || softmax::softmax(&x, columns, 1.0, &out)))
}

fn prepare_rms_norm(on: On<'_>, shape: RmsNormShape) -> Result<Prepared, OpError> {
    let RmsNormShape { rows, channels } = shape;
    let (x, gamma, out) = (on.values(&[rows, channels])?, on.values(&[channels])?, on.empty(&[rows, channels])?);
    let scale = (channels as f32).sqrt();
    Ok(Prepared::new(&[&out.clone()], move || rms_norm::rms_norm(&x, &gamma, scale, true, &out)))
}

fn prepare_resample(on: On<'_>, shape: ResampleShape) -> Result<Prepared, OpError> {
    let ResampleShape { kind, frames, height, width, channels, out_channels, time } = shape;
    let by = resample::Resample { channels, out_channels, time, space: 2 };
    let x = on.values(&[frames, height, width, channels.next_multiple_of(CHANNELS)])?;
    let made = match kind {
        ResampleKind::Up => [frames.saturating_mul(time), height.saturating_mul(2), width.saturating_mul(2)],
        ResampleKind::Down => [frames / time.max(1), height / 2, width / 2],
    };
    let out = on.values(&[made[0], made[1], made[2], out_channels.next_multiple_of(CHANNELS)])?;
    Ok(Prepared::new(&[&out.clone()], move || match kind {
        ResampleKind::Up => resample::dup_up(&x, by, 0, &out),
        ResampleKind::Down => resample::avg_down(&x, by, 0, &out),
    }))
}

fn prepare_pack(on: On<'_>, shape: PackShape) -> Result<Prepared, OpError> {
    let PackShape { kind, rows, channels } = shape;
    let (x, out) = (on.values(&[rows, channels])?, on.values(&[rows, channels])?);
    let (packed, error) = (Packed::new(on.device, &[rows, channels])?, PackError::new(on.device)?);
    packed.pack(&x, &error)?;
    let written: Vec<Tensor> = match kind {
        PackKind::Pack => packed.parts().map(Tensor::clone).into(),
        _ => vec![out.clone()],
    };
    Ok(Prepared::new(&written.iter().collect::<Vec<_>>(), move || match kind {
        PackKind::Pack => packed.pack(&x, &error),
        PackKind::Unpack => packed.unpack(&out, false),
        PackKind::Add => packed.unpack(&out, true),
    }))
}

/// Pseudo-random values, because a chip's power depends on the bits it moves. A small block of them is repeated on the device.
fn noise(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    const BLOCK: usize = 1 << 16;
    let tensor = Tensor::empty(device, shape, dtype)?;
    let flat = tensor.reshape(&[tensor.elements()])?;
    let mut filled = flat.elements().min(BLOCK);
    let mut state = 1u64;
    let mut uniform = || {
        // Knuth's linear congruential generator; the upper bits are good enough here.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let block: Vec<f32> = (0..filled).map(|_| uniform()).collect();
    flat.slice_rows(0, filled)?.write_f32(&block)?;
    while filled < flat.elements() {
        let count = filled.min(flat.elements() - filled);
        flat.slice_rows(filled, count)?.copy_from(&flat.slice_rows(0, count)?)?;
        filled += count;
    }
    Ok(tensor)
}
