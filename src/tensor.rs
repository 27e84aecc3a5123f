//! A dense array on a device: memory, shape and element type.
//!
//! A [`Tensor`] is a contiguous row-major view (last axis fastest). Clones, reshapes and row slices share device memory; kernels write
//! through any of them.

use crate::device::{Device, DeviceError, HostMemory, Memory, PendingRead, Rank};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision: the reference mode.
    F32,
    /// Bytes: masks and pixels.
    U8,
    /// 32-bit signed: lengths and indices.
    I32,
    /// IEEE double precision: sums.
    F64,
}

impl DType {
    /// The types that models can compute in.
    pub const COMPUTE: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::Bf16 | DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::F64 => 8,
        }
    }

    /// The name used in kernel entries and options: `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::F32 => "f32",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::F64 => "f64",
        }
    }

    /// Whether models can compute in it: bf16, f16, f32.
    pub const fn is_compute(self) -> bool {
        matches!(self, DType::Bf16 | DType::F16 | DType::F32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = TensorError;

    /// `bf16`, `f16` or `f32`: the types that models can compute in.
    fn from_str(name: &str) -> Result<Self, TensorError> {
        let found = DType::COMPUTE.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| TensorError::UnknownDType { name: name.into() })
    }
}

/// A Rust type that can be a tensor's element.
pub trait Element: Pod {
    /// Its dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty = $dtype:ident),*) => { $(impl Element for $type { const DTYPE: DType = DType::$dtype; })* };
}
elements!(bf16 = Bf16, f16 = F16, f32 = F32, u8 = U8, i32 = I32, f64 = F64);

/// An error of a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// An error of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A shape whose size in bytes overflows an address.
    #[error("a {dtype} tensor of shape {shape:?} is larger than memory can be")]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
        /// The element type.
        dtype: DType,
    },
    /// A first axis that cannot be divided among ranks.
    #[error("the first axis of {shape:?} cannot be divided among {ranks} ranks")]
    Ranks {
        /// The shape.
        shape: Vec<usize>,
        /// The number of ranks.
        ranks: usize,
    },
    /// Data that does not fill a shape.
    #[error("shape {shape:?} has {expected} elements, {got} were given")]
    Elements {
        /// The shape.
        shape: Vec<usize>,
        /// Its number of elements.
        expected: usize,
        /// The given number of elements.
        got: usize,
    },
    /// Rows outside the first axis.
    #[error("rows {start}..{start}+{len} are outside shape {shape:?}")]
    Rows {
        /// First row.
        start: usize,
        /// Number of rows.
        len: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// An element type that the operation does not support.
    #[error("the tensor is {got}, {expected} is needed")]
    DType {
        /// The actual type.
        got: DType,
        /// The required type.
        expected: &'static str,
    },
    /// A name that is not a compute type.
    #[error("unknown dtype {name:?}: use bf16, f16 or f32")]
    UnknownDType {
        /// The name.
        name: String,
    },
}

type Result<T, E = TensorError> = std::result::Result<T, E>;

impl TensorError {
    /// Whether the work was interrupted, rather than failed.
    pub fn is_stop(&self) -> bool {
        matches!(self, TensorError::Device(error) if error.is_stop())
    }
}

/// A dense array on a device.
#[derive(Clone)]
pub struct Tensor {
    memory: Arc<Memory>,
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))
}

impl Tensor {
    /// Uninitialised memory of a shape.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`], or out of memory.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        // isize::MAX, not usize::MAX: offsets within must be representable too.
        let bytes =
            element_count(shape).and_then(|n| n.checked_mul(dtype.size())).filter(|&n| isize::try_from(n).is_ok());
        let bytes = bytes.ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec(), dtype })?;
        Ok(Self { memory: Arc::new(device.alloc(bytes)?), offset: 0, shape: shape.to_vec(), dtype })
    }

    /// All elements zero.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype)?;
        tensor.fill_bytes(0)?;
        Ok(tensor)
    }

    /// A copy of host values, converted to bf16, f16 (both round to nearest, ties to even), f32 or f64.
    ///
    /// # Errors
    /// A count that does not fill the shape, an integer dtype, or as [`Tensor::empty`].
    pub fn from_f32(device: &Device, shape: &[usize], values: &[f32], dtype: DType) -> Result<Self> {
        let bytes = f32_to_bytes(values, dtype)?;
        Self::from_bytes(device, shape, &bytes, dtype)
    }

    /// A copy of host values of the tensor's own type.
    ///
    /// # Errors
    /// A count that does not fill the shape, or as [`Tensor::empty`].
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], values: &[T]) -> Result<Self> {
        Self::from_bytes(device, shape, bytemuck::cast_slice(values), T::DTYPE)
    }

    /// A copy of raw little-endian bytes, for example from a file.
    ///
    /// # Errors
    /// A length that does not fill the shape, or as [`Tensor::empty`].
    pub fn from_bytes(device: &Device, shape: &[usize], bytes: &[u8], dtype: DType) -> Result<Self> {
        let expected = element_count(shape).ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec(), dtype })?;
        // Before allocating: a wrong shape must not look like a lack of memory.
        if expected.checked_mul(dtype.size()) != Some(bytes.len()) {
            return Err(TensorError::Elements { shape: shape.to_vec(), expected, got: bytes.len() / dtype.size() });
        }
        let tensor = Self::empty(device, shape, dtype)?;
        device.upload(&tensor.memory, 0, bytes)?;
        Ok(tensor)
    }

    /// The values as f32, after all work queued before. Exact for bf16, f16, f32, u8; f64 and i32 are rounded.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let bytes = self.to_bytes()?;
        Ok(match self.dtype {
            DType::Bf16 => convert(&bytes, |v: bf16| v.to_f32()),
            DType::F16 => convert(&bytes, |v: f16| v.to_f32()),
            DType::F32 => convert(&bytes, |v: f32| v),
            DType::F64 => convert(&bytes, |v: f64| v as f32),
            DType::I32 => convert(&bytes, |v: i32| v as f32),
            DType::U8 => convert(&bytes, |v: u8| f32::from(v)),
        })
    }

    /// The values in the tensor's own type, after all work queued before.
    ///
    /// # Errors
    /// [`TensorError::DType`] if `T` is another type; faults of earlier kernels.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { got: self.dtype, expected: T::DTYPE.name() });
        }
        Ok(convert(&self.to_bytes()?, |v: T| v))
    }

    /// The raw bytes, after all work queued before.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes()];
        self.device().download(&self.memory, self.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Starts a read-back that does not block; see [`Device::read_async`].
    ///
    /// # Errors
    /// As [`Device::read_async`].
    pub fn read_async(&self) -> Result<PendingRead, DeviceError> {
        self.device().read_async(&self.memory, self.offset, self.bytes())
    }

    /// Overwrites the values, converted as in [`Tensor::from_f32`].
    ///
    /// # Errors
    /// A count that does not match the tensor, or an integer dtype.
    pub fn write_f32(&self, values: &[f32]) -> Result<()> {
        self.write_bytes(&f32_to_bytes(values, self.dtype)?)
    }

    /// Overwrites the values.
    ///
    /// # Errors
    /// [`TensorError::DType`] if `T` is another type; a count that does not match the tensor.
    pub fn write_slice<T: Element>(&self, values: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { got: self.dtype, expected: T::DTYPE.name() });
        }
        self.write_bytes(bytemuck::cast_slice(values))
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.bytes() {
            let got = bytes.len() / self.dtype.size();
            return Err(TensorError::Elements { shape: self.shape.clone(), expected: self.elements(), got });
        }
        Ok(self.device().upload(&self.memory, self.offset, bytes)?)
    }

    /// Overwrites the values with those of a tensor of the same shape, type and device.
    ///
    /// # Errors
    /// These differ, or the two tensors overlap.
    pub fn copy_from(&self, src: &Tensor) -> Result<()> {
        if src.dtype != self.dtype {
            return Err(TensorError::DType { got: src.dtype, expected: self.dtype.name() });
        }
        if src.shape != self.shape {
            let (shape, expected) = (self.shape.clone(), self.elements());
            return Err(TensorError::Elements { shape, expected, got: src.elements() });
        }
        Ok(self.device().copy(&self.memory, self.offset, &src.memory, src.offset, self.bytes())?)
    }

    /// Of each rank its part of the first axis, in order; afterwards all have the whole: see [`Device::all_gather`].
    ///
    /// # Errors
    /// As [`Device::all_gather`]; a first axis that cannot be divided among the ranks.
    pub fn all_gather(&self, rank: &Rank) -> Result<()> {
        let (rows, ranks) = (self.shape.first().copied().unwrap_or(0), rank.ranks());
        if !rows.is_multiple_of(ranks) {
            return Err(TensorError::Ranks { shape: self.shape.clone(), ranks });
        }
        Ok(self.device().all_gather(rank, &self.memory, self.offset, self.bytes() / ranks)?)
    }

    /// Starts copying host memory to this tensor's beginning; see [`Device::fetch`].
    ///
    /// # Errors
    /// As [`Device::fetch`].
    pub fn fetch(&self, src: &HostMemory) -> Result<(), DeviceError> {
        if src.bytes() > self.bytes() {
            return Err(DeviceError::OutOfRange { offset: 0, bytes: src.bytes(), allocation: self.bytes() });
        }
        self.device().fetch(&self.memory, self.offset, src)
    }

    /// Work queued from now on sees the data fetched to this tensor; see [`Device::fetched`].
    ///
    /// # Errors
    /// As [`Device::fetch`].
    pub fn fetched(&self) -> Result<(), DeviceError> {
        self.device().fetched(&self.memory, self.offset)
    }

    /// Sets every byte: 0 for zeros, 0xff to poison memory (NaN in every float type) that a kernel must overwrite.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn fill_bytes(&self, byte: u8) -> Result<()> {
        Ok(self.device().fill(&self.memory, self.offset..self.offset + self.bytes(), byte)?)
    }

    /// The same elements in another shape, sharing the memory.
    ///
    /// # Errors
    /// [`TensorError::Elements`] if the counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match element_count(shape) {
            Some(expected) if expected == self.elements() => Ok(Self { shape: shape.to_vec(), ..self.clone() }),
            expected => Err(TensorError::Elements {
                shape: shape.to_vec(),
                expected: expected.unwrap_or(usize::MAX),
                got: self.elements(),
            }),
        }
    }

    /// Rows `start..start + len` of the first axis, sharing the memory.
    ///
    /// # Errors
    /// [`TensorError::Rows`] if the tensor has fewer rows, or no axis.
    pub fn slice_rows(&self, start: usize, len: usize) -> Result<Self> {
        let fits = self.shape.first().is_some_and(|&rows| start.checked_add(len).is_some_and(|end| end <= rows));
        if !fits {
            return Err(TensorError::Rows { start, len, shape: self.shape.clone() });
        }
        let row: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = len;
        let offset = self.offset + start * row * self.dtype.size();
        Ok(Self { memory: self.memory.clone(), offset, shape, dtype: self.dtype })
    }

    /// A tensor in this one's memory, `offset` bytes from its start, with a shape and type of its own.
    ///
    /// # Errors
    /// [`TensorError::Rows`], in bytes, if it does not lie within this one.
    pub fn carve(&self, offset: usize, shape: &[usize], dtype: DType) -> Result<Self> {
        let too_large = || TensorError::TooLarge { shape: shape.to_vec(), dtype };
        let bytes = element_count(shape).and_then(|n| n.checked_mul(dtype.size())).ok_or_else(too_large)?;
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes()) {
            return Err(TensorError::Rows { start: offset, len: bytes, shape: vec![self.bytes()] });
        }
        Ok(Self { memory: self.memory.clone(), offset: self.offset + offset, shape: shape.to_vec(), dtype })
    }

    /// The device address of the first element.
    pub fn ptr(&self) -> u64 {
        self.memory.ptr() + self.offset as u64
    }

    /// Axis lengths, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// The device that the tensor is on.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// Whether two tensors share a byte.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        let ends = (self.ptr() + self.bytes() as u64, other.ptr() + other.bytes() as u64);
        Arc::ptr_eq(&self.memory, &other.memory) && self.ptr() < ends.1 && other.ptr() < ends.0
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?}, {})", self.dtype, self.shape, self.device().info().id)
    }
}

fn convert<T: Pod, U>(bytes: &[u8], to: impl Fn(T) -> U) -> Vec<U> {
    // Unaligned reads: a Vec<u8> promises no alignment.
    bytes.chunks_exact(size_of::<T>()).map(|chunk| to(bytemuck::pod_read_unaligned(chunk))).collect()
}

/// Host values as the bytes of a tensor.
pub(crate) fn f32_to_bytes(values: &[f32], dtype: DType) -> Result<Vec<u8>> {
    Ok(match dtype {
        DType::Bf16 => {
            let mut converted = vec![bf16::ZERO; values.len()];
            converted.convert_from_f32_slice(values);
            bytemuck::cast_slice(&converted).to_vec()
        }
        DType::F16 => {
            let mut converted = vec![f16::ZERO; values.len()];
            converted.convert_from_f32_slice(values);
            bytemuck::cast_slice(&converted).to_vec()
        }
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        DType::U8 | DType::I32 => {
            return Err(TensorError::DType { got: dtype, expected: "a floating-point type" });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_rounds_to_nearest_even() {
        let ulp = f32::powi(2.0, -7); // bf16 at 1.0
        let values = [1.0 + 0.5 * ulp, 1.0 + 1.5 * ulp, 1.0 + 0.5001 * ulp, -0.0, f32::INFINITY];
        let bytes = f32_to_bytes(&values, DType::Bf16).unwrap();
        let back: Vec<f32> = convert(&bytes, |v: bf16| v.to_f32());
        assert_eq!(back, [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, -0.0, f32::INFINITY]);
        let bytes = f32_to_bytes(&[65504.0, 65520.0, 2049.0, 2051.0], DType::F16).unwrap();
        assert_eq!(convert(&bytes, |v: f16| v.to_f32()), [65504.0, f32::INFINITY, 2048.0, 2052.0]);
    }

    #[test]
    fn shapes_that_overflow_are_errors() {
        assert_eq!(element_count(&[usize::MAX, 2]), None);
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[3, 0]), Some(0));
    }

    #[test]
    fn only_compute_types_are_parsed() {
        assert_eq!("bf16".parse::<DType>().unwrap(), DType::Bf16);
        assert!("u8".parse::<DType>().unwrap_err().to_string().contains("use bf16, f16 or f32"));
    }
}
