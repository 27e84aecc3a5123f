//! Typed launchers of the kernels: one file for each `kernels/*.cu`, and the only callers of [`Device::launch`].
//!
//! Every launcher checks devices, element types and shapes, and returns an [`OpError`] that names the operation, the argument, the actual
//! and the expected value. Then it queues the kernel on the tensors' device and returns without waiting.
//!
//! D is the model's element type: bf16, f16 or f32. Shapes are row-major, last axis fastest. Hidden states are `[batch, frames, tokens,
//! channels]`; a *row* is one (batch, frame, token). The caller provides outputs, so a step allocates nothing.

pub mod attention;
pub mod circulant;
pub mod conv;
pub mod decide;
pub mod decode;
pub mod embed;
pub mod fp8;
pub mod group_norm;
pub mod linear;
pub mod motion;
pub mod norm;
pub mod pack;
/// The parameter structs and launch sizes of the kernels, generated from `kernels/*.h`.
#[allow(missing_docs, rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
#[rustfmt::skip]
pub mod params;
pub mod resample;
pub mod residual;
pub mod rms_norm;
pub mod sampler;
pub mod softmax;

use crate::chips::Multiprocessor;
use crate::device::{Device, DeviceError, EncodedTensorMap, Launch, Module, Work};
use crate::tensor::{DType, Tensor, TensorError};
use bytemuck::Pod;
use ptx_vm::{TensorMap, TensorSwizzle, TensorType};
use std::fmt::Write as _;

/// An error of a launcher.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// An error of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A tensor could not be created or viewed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// An argument of the wrong shape.
    #[error("{op}: {argument} has shape {got:?}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The required shape, with its axes named.
        expected: String,
    },
    /// An argument of the wrong element type.
    #[error("{op}: {argument} is {got}, expected {expected}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// Its type.
        got: DType,
        /// The required type.
        expected: &'static str,
    },
    /// An argument on another device than the output.
    #[error(
        "{op}: {argument} is on {got}, the output on {expected}; all tensors of an operation must share one device"
    )]
    OtherDevice {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// The argument's device.
        got: String,
        /// The output's device.
        expected: String,
    },
    /// An output that shares memory with an input that other blocks of the grid still read.
    #[error("{op}: the output overlaps {argument}")]
    Aliased {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
    },
    /// A number that is out of range.
    #[error("{op}: {argument} is {got}, expected {expected}")]
    Value {
        /// The operation.
        op: &'static str,
        /// The argument.
        argument: &'static str,
        /// Its value.
        got: String,
        /// The valid range.
        expected: String,
    },
}

type Result<T, E = OpError> = std::result::Result<T, E>;

impl OpError {
    /// Whether the work was interrupted, rather than failed.
    pub fn is_stop(&self) -> bool {
        match self {
            OpError::Device(error) => error.is_stop(),
            OpError::Tensor(error) => error.is_stop(),
            _ => false,
        }
    }
}

/// Which batch member and frame a row belongs to: row r is token `r % rows_per_frame` of frame
/// `(r / rows_per_frame) % frames` of batch member `r / (rows_per_frame · frames)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowMap {
    /// Frames per batch member.
    pub frames: usize,
    /// Tokens per frame.
    pub rows_per_frame: usize,
}

/// adaLN: shifts, scales and gates per batch member, selected frame by frame.
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// `[batch, variants, chunks, channels]` f32. Variant 0 is for the step's time; variant 1, if present, for time 0.
    pub table: &'a Tensor,
    /// `[batch, frames]` u8: frames with 1 use variant 0, frames with 0 variant 1. `None`: all use variant 0.
    pub frame_mask: Option<&'a Tensor>,
    /// How rows map to batch members and frames.
    pub rows: RowMap,
}

/// The properties, besides the shape, that determine the choice of a kernel. [`linear::choose`], [`attention::choose`] and [`conv::choose`]
/// search small tables for every launch; a row names the module, and with it the compute capabilities it runs on ([`Target::runs`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub units: usize,
    /// Maximum bytes of shared memory per block.
    pub block_shared: usize,
    /// 16-bit multiply-adds per clock of a multiprocessor's tensor cores with `mma.sync`.
    pub fma: usize,
    /// The same with the fastest tensor instruction.
    pub fma_peak: usize,
    /// Bytes from L2 per multiprocessor and clock.
    pub l2_bytes: usize,
    /// Bytes of L2 of the smallest chip of the generation.
    pub l2: usize,
}

impl Target {
    /// The target of a device. The VM counts as an A100 in everything but its units, which are threads.
    pub fn of(device: &Device) -> Self {
        let info = device.info();
        Self::new(info.units.max(1), info.compute_capability.unwrap_or((8, 0)))
    }

    /// A chip with `units` multiprocessors of a compute capability.
    pub fn new(units: usize, capability: (u32, u32)) -> Self {
        let sm = Multiprocessor::of(capability);
        Self {
            capability,
            units,
            block_shared: sm.block_shared,
            fma: sm.half_fma().round() as usize,
            fma_peak: sm.half_fma_peak as usize,
            l2_bytes: sm.l2_bytes.round() as usize,
            l2: sm.l2,
        }
    }

    /// Whether it runs the kernels of this module.
    pub fn runs(&self, module: Module) -> bool {
        module.architecture().runs_on(self.capability)
    }
}

/// The kernel for a call, and its launch parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The module.
    pub module: Module,
    /// The entry in it.
    pub entry: String,
    /// Blocks in x and y.
    pub grid: [usize; 2],
    /// Threads per block.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

/// One call of an operation: checks arguments, then launches on the output's device.
pub(crate) struct Op<'a> {
    name: &'static str,
    device: &'a Device,
    work: Work,
}

impl<'a> Op<'a> {
    fn new(name: &'static str, output: &'a Tensor) -> Self {
        Self::on(name, output.device())
    }

    pub(crate) fn on(name: &'static str, device: &'a Device) -> Self {
        Self { name, device, work: Work::default() }
    }

    /// Sets the work of the next launch: operations of its matrix products, the tensors it must read and those it must write.
    fn counted(self, flops: usize, read: &[Option<&Tensor>], written: &[Option<&Tensor>]) -> Self {
        let bytes = |tensors: &[Option<&Tensor>]| tensors.iter().flatten().map(|t| t.bytes() as u64).sum();
        Self { work: Work { flops: flops as u64, bytes_read: bytes(read), bytes_written: bytes(written) }, ..self }
    }

    /// Checks shape (axes named), element type and device of an argument. No axes: any shape.
    fn check(&self, argument: &'static str, tensor: &Tensor, dtype: DType, axes: &[(&str, usize)]) -> Result<()> {
        self.placed(argument, tensor)?;
        if tensor.dtype() != dtype {
            return Err(OpError::DType { op: self.name, argument, got: tensor.dtype(), expected: dtype.name() });
        }
        if axes.is_empty() || axes.iter().map(|(_, length)| *length).eq(tensor.shape().iter().copied()) {
            return Ok(());
        }
        Err(self.shape_error(argument, tensor, axes))
    }

    /// As [`Op::check`], for tensors that may have more axes: they are flattened to `rows` × `columns`.
    fn check_rows(
        &self,
        argument: &'static str,
        tensor: &Tensor,
        dtype: DType,
        axes: [(&str, usize); 2],
    ) -> Result<()> {
        self.check(argument, tensor, dtype, &[])?;
        let shape = tensor.shape();
        let [(_, rows), (_, columns)] = axes;
        // A split somewhere, so that [batch, frames, tokens, channels] and [rows, heads, head_dim] both are rows × columns.
        let splits = (0..=shape.len()).any(|at| {
            shape[..at].iter().product::<usize>() == rows && shape[at..].iter().product::<usize>() == columns
        });
        if splits { Ok(()) } else { Err(self.shape_error(argument, tensor, &axes)) }
    }

    fn shape_error(&self, argument: &'static str, tensor: &Tensor, axes: &[(&str, usize)]) -> OpError {
        let mut expected = String::from("[");
        for (i, (name, length)) in axes.iter().enumerate() {
            let _ = write!(expected, "{}{name} {length}", if i > 0 { ", " } else { "" });
        }
        expected.push(']');
        OpError::Shape { op: self.name, argument, got: tensor.shape().to_vec(), expected }
    }

    /// An argument's shape as a fixed number of axes, which errors name.
    fn axes<const N: usize>(&self, argument: &'static str, tensor: &Tensor, names: [&str; N]) -> Result<[usize; N]> {
        tensor.shape().try_into().map_err(|_| OpError::Shape {
            op: self.name,
            argument,
            got: tensor.shape().to_vec(),
            expected: format!("[{}]", names.join(", ")),
        })
    }

    fn placed(&self, argument: &'static str, tensor: &Tensor) -> Result<()> {
        if self.device.same(tensor.device()) {
            return Ok(());
        }
        let (got, expected) = (tensor.device().info().label(), self.device.info().label());
        Err(OpError::OtherDevice { op: self.name, argument, got, expected })
    }

    /// The argument's element type, which must be one that models compute in.
    fn compute_dtype(&self, argument: &'static str, tensor: &Tensor) -> Result<DType> {
        match tensor.dtype() {
            dtype if dtype.is_compute() => Ok(dtype),
            got => Err(OpError::DType { op: self.name, argument, got, expected: "bf16, f16 or f32" }),
        }
    }

    fn not_aliased(&self, output: &Tensor, inputs: &[(&'static str, Option<&Tensor>)]) -> Result<()> {
        match inputs.iter().find(|(_, input)| input.is_some_and(|input| input.overlaps(output))) {
            Some((argument, _)) => Err(OpError::Aliased { op: self.name, argument }),
            None => Ok(()),
        }
    }

    /// A count as the 32-bit integer for the kernel.
    fn int(&self, argument: &'static str, value: usize) -> Result<i32> {
        i32::try_from(value).map_err(|_| self.value(argument, value, format_args!("at most {}", i32::MAX)))
    }

    pub(crate) fn value(&self, argument: &'static str, got: impl ToString, expected: impl ToString) -> OpError {
        OpError::Value { op: self.name, argument, got: got.to_string(), expected: expected.to_string() }
    }

    fn finite(&self, argument: &'static str, value: f32) -> Result<()> {
        if value.is_finite() { Ok(()) } else { Err(self.value(argument, value, "a finite number")) }
    }

    /// The parts of a modulation that all of its users need: (batch, variants, chunks), checked against `rows` × `channels`.
    fn modulation(&self, modulation: &Modulation<'_>, rows: usize, channels: usize) -> Result<[usize; 3]> {
        let names = ["batch", "variants", "chunks", "channels"];
        let [batch, variants, chunks, _] = self.axes("modulation", modulation.table, names)?;
        let table = [("batch", batch), ("variants", variants), ("chunks", chunks), ("channels", channels)];
        self.check("modulation", modulation.table, DType::F32, &table)?;
        let RowMap { frames, rows_per_frame } = modulation.rows;
        if batch.checked_mul(frames).and_then(|n| n.checked_mul(rows_per_frame)) != Some(rows) {
            let expected = format!("{rows} rows");
            let got = format!("batch {batch} × frames {frames} × rows_per_frame {rows_per_frame}");
            return Err(self.value("modulation", got, expected));
        }
        if let Some(mask) = modulation.frame_mask {
            self.check("frame_mask", mask, DType::U8, &[("batch", batch), ("frames", frames)])?;
            if variants < 2 {
                return Err(self.value("modulation", "one variant", "2 variants, because there is a frame mask"));
            }
        }
        Ok([batch, variants, chunks])
    }

    fn chunk(&self, argument: &'static str, chunk: usize, chunks: usize) -> Result<i32> {
        if chunk < chunks {
            self.int(argument, chunk)
        } else {
            Err(self.value(argument, chunk, format_args!("below {chunks}")))
        }
    }

    /// Launches a kernel that has no dynamic shared memory.
    fn launch<P: Pod>(&self, module: Module, entry: &str, grid: [usize; 2], threads: usize, params: &P) -> Result<()> {
        self.launch_choice(&Choice { module, entry: entry.into(), grid, threads, shared: 0 }, params)
    }

    /// Launches the chosen kernel, unless its grid is empty. Blocks are one-dimensional.
    fn launch_choice<P: Pod>(&self, choice: &Choice, params: &P) -> Result<()> {
        let &Choice { module, ref entry, grid: [x, y], threads, shared } = choice;
        if x == 0 || y == 0 {
            return Ok(());
        }
        let kernel = self.device.kernel(module, entry)?;
        let launch = Launch {
            kernel: entry,
            grid: [self.int("grid", x)? as u32, self.int("grid", y)? as u32, 1],
            block: [threads as u32, 1, 1],
            shared: shared as u32,
            work: self.work,
        };
        Ok(self.device.launch_counted(&kernel, &launch, params)?)
    }
}

/// The map of boxes `tile` of a tensor in a 16-bit type, or of bytes, which lie in shared memory as `kernels/hopper.cuh` has them: rows of 128 bytes in
/// the 128-byte swizzle, of 32 in that of 32 bytes.
fn swizzled_map(
    device: &Device,
    dtype: DType,
    address: u64,
    extents: &[u64],
    strides: &[u64],
    tile: &[u32],
) -> Result<EncodedTensorMap> {
    let element = match dtype {
        DType::U8 => TensorType::U8,
        DType::F16 => TensorType::F16,
        _ => TensorType::Bf16,
    };
    let row = tile.first().map_or(0, |&elements| elements as usize * dtype.size());
    let swizzle = if row == 32 { TensorSwizzle::B32 } else { TensorSwizzle::B128 };
    let map = TensorMap::new(element, address, extents, strides, tile).with_swizzle(swizzle);
    Ok(device.tensor_map(&map)?)
}

/// The address of an optional argument; null switches the feature off.
fn ptr(tensor: Option<&Tensor>) -> u64 {
    tensor.map_or(0, Tensor::ptr)
}

/// Elements of one 16-byte access.
const fn chunk_elements(dtype: DType) -> usize {
    params::CHUNK_BYTES / dtype.size()
}
