//! Kept residuals in 8 bits: `kernels/pack.cu`.

use super::params::{self, PackErrorParams, PackParams, UnpackParams};
use super::{Op, Result};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// The largest e4m3 number.
pub const E4M3_MAX: f32 = 448.0;

/// Shared by all packed tensors of a generation: scratch space for the error of one pass, and the total over all passes.
#[derive(Debug, Clone)]
pub struct PackError {
    /// `[blocks, 2]` f32
    partial: Tensor,
    /// `[2]` f64: Σ|x − packed x|, Σ|x|
    totals: Tensor,
}

impl PackError {
    /// No error so far.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            partial: Tensor::empty(device, &[params::PACK_MAX_BLOCKS, 2], DType::F32)?,
            totals: Tensor::zeros(device, &[2], DType::F64)?,
        })
    }

    /// In memory of the caller: `partial` `[PACK_MAX_BLOCKS, 2]` f32, and `totals` `[2]` f64, which are set to 0 before the first use.
    pub fn at(partial: &Tensor, totals: &Tensor) -> Self {
        Self { partial: partial.clone(), totals: totals.clone() }
    }

    /// Σ|x − packed x| / Σ|x| over everything packed so far; 0 if nothing was, NaN if anything was not finite. Waits for the device.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn relative(&self) -> Result<f64> {
        let totals: Vec<f64> = self.totals.to_vec()?;
        Ok(if totals[1] == 0.0 { 0.0 } else { totals[0] / totals[1] })
    }

    /// Where a pass writes its blocks' errors.
    pub(super) fn partial(&self, op: &Op<'_>) -> Result<u64> {
        op.check("error", &self.partial, DType::F32, &[("blocks", params::PACK_MAX_BLOCKS), ("error, sum", 2)])?;
        Ok(self.partial.ptr())
    }

    /// Adds the errors of a pass of so many blocks to the totals.
    pub(super) fn add(&self, blocks: usize) -> Result<()> {
        let op = Op::new("pack_error", &self.totals);
        op.check("totals", &self.totals, DType::F64, &[("error, sum", 2)])?;
        let params = PackErrorParams {
            error: self.partial(&op)?,
            totals: self.totals.ptr(),
            blocks: op.int("blocks", blocks)?,
            reserved: 0,
        };
        let op = op.counted(0, &[Some(&self.partial)], &[Some(&self.totals)]);
        op.launch(Module::Pack, "pack_error", [1, 1], 64, &params)
    }
}

/// A tensor kept as e4m3 with one scale per row of its last axis: a quarter of f32 or half of bf16, plus 4 bytes per row.
#[derive(Debug, Clone)]
pub struct Packed {
    rows: usize,
    channels: usize,
    /// `[rows, channels]`
    bytes: Tensor,
    /// `[rows]` f32
    scale: Tensor,
}

impl Packed {
    /// Uninitialised, for tensors of `shape`.
    ///
    /// # Errors
    /// A shape without axes, or out of memory.
    pub fn new(device: &Device, shape: &[usize]) -> Result<Self> {
        let op = Op::on("Packed", device);
        let [rows @ .., channels] = shape else {
            return Err(op.value("shape", "no axes", "at least one"));
        };
        let (rows, channels) = (rows.iter().product(), *channels);
        Ok(Self {
            rows,
            channels,
            bytes: Tensor::empty(device, &[rows, channels], DType::U8)?,
            scale: Tensor::empty(device, &[rows], DType::F32)?,
        })
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        self.bytes.bytes() + self.scale.bytes()
    }

    /// Its e4m3 numbers `[rows, channels]` u8 and the rows' scales `[rows]` f32.
    pub fn parts(&self) -> [&Tensor; 2] {
        [&self.bytes, &self.scale]
    }

    /// Packs `x`: each row is divided by its largest magnitude and multiplied by 448, and rounded to the nearest e4m3. The error is added
    /// to `error`.
    ///
    /// # Errors
    /// [`OpError`](super::OpError) if shapes, types or devices do not match.
    pub fn pack(&self, x: &Tensor, error: &PackError) -> Result<()> {
        let op = Op::new("residual_pack", &self.bytes);
        let dtype = op.compute_dtype("x", x)?;
        op.check_rows("x", x, dtype, [("rows", self.rows), ("channels", self.channels)])?;
        let blocks = self.rows.div_ceil(params::PACK_WARPS).min(params::PACK_MAX_BLOCKS);
        let params = PackParams {
            x: x.ptr(),
            packed: self.bytes.ptr(),
            scale: self.scale.ptr(),
            error: error.partial(&op)?,
            rows: self.rows as i64,
            channels: op.int("channels", self.channels)?,
            reserved: 0,
        };
        let op = op.counted(0, &[Some(x)], &[Some(&self.bytes), Some(&self.scale)]);
        let entry = format!("residual_pack_{dtype}");
        op.launch(Module::Pack, &entry, [blocks, 1], params::PACK_THREADS, &params)?;
        error.add(blocks)
    }

    /// `out` = the unpacked tensor; with `add`, `out` += it.
    ///
    /// # Errors
    /// [`OpError`](super::OpError) if shapes, types or devices do not match.
    pub fn unpack(&self, out: &Tensor, add: bool) -> Result<()> {
        let op = Op::new("residual_unpack", out);
        let dtype = op.compute_dtype("out", out)?;
        op.check_rows("out", out, dtype, [("rows", self.rows), ("channels", self.channels)])?;
        op.check("packed", &self.bytes, DType::U8, &[])?;
        let params = UnpackParams {
            packed: self.bytes.ptr(),
            scale: self.scale.ptr(),
            out: out.ptr(),
            rows: self.rows as i64,
            channels: op.int("channels", self.channels)?,
            add: add.into(),
        };
        let op = op.counted(0, &[Some(&self.bytes), Some(&self.scale), add.then_some(out)], &[Some(out)]);
        let blocks = self.rows.div_ceil(params::PACK_WARPS).min(params::PACK_MAX_BLOCKS);
        let entry = format!("residual_unpack_{dtype}");
        op.launch(Module::Pack, &entry, [blocks, 1], params::PACK_THREADS, &params)
    }
}
