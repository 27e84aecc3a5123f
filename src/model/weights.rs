//! Weights from a safetensors file: every expected name and shape and every value is checked; leftover tensors are an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};

use super::ModelError;
use crate::device::Device;
use crate::tensor::{DType, Tensor, f32_to_bytes};

/// Bytes of a safetensors file, mapped or embedded.
enum Source<'a> {
    Mapped(memmap2::Mmap),
    Embedded(&'a [u8]),
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Mapped(map) => map,
            Source::Embedded(bytes) => bytes,
        }
    }
}

/// The two shapes of a weight whose layout changes when it is loaded: see [`Weights::arranged`].
#[derive(Clone, Copy)]
pub struct Arrangement<'a> {
    /// In the file: exactly this.
    pub file: &'a [usize],
    /// On the device.
    pub tensor: &'a [usize],
}

/// A safetensors file's content.
struct Container<'a> {
    source: Source<'a>,
    metadata: Metadata,
    /// Where the tensor data begins: after the length and the header.
    data_start: usize,
}

/// An open safetensors file; tensors are taken by name, and [`Weights::finish`] reports the rest.
pub struct Weights<'a> {
    file: String,
    /// `None`: every requested tensor exists and is zero.
    container: Option<Container<'a>>,
    /// The names in the file of tensors that go by others: see [`Weights::renamed`].
    aliases: BTreeMap<String, String>,
    /// The tensors taken so far, by name, with their shapes.
    taken: RefCell<BTreeMap<String, Vec<usize>>>,
}

impl<'a> Weights<'a> {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<Weights<'static>, ModelError> {
        let file = path.display().to_string();
        let io = |source| ModelError::Io { file: file.clone(), source };
        let handle = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only; a file that another process truncates meanwhile is outside what we guard against,
        // as with every mmap reader of checkpoints.
        let map = unsafe { memmap2::Mmap::map(&handle) }.map_err(io)?;
        Weights::new(file, Source::Mapped(map))
    }

    /// Parses a file that is already in memory; `name` identifies it in errors.
    pub fn from_bytes(name: &str, bytes: &'a [u8]) -> Result<Weights<'a>, ModelError> {
        Weights::new(name.into(), Source::Embedded(bytes))
    }

    fn new(file: String, source: Source<'a>) -> Result<Self, ModelError> {
        let (header_bytes, metadata) = SafeTensors::read_metadata(source.bytes())
            .map_err(|e| ModelError::Container { file: file.clone(), reason: e.to_string() })?;
        let container = Container { source, metadata, data_start: 8 + header_bytes };
        Ok(Weights { file, container: Some(container), aliases: BTreeMap::new(), taken: RefCell::default() })
    }

    /// No file: every tensor exists in the requested shape, filled with zeros. For models whose sizes matter but not their values.
    pub fn zeros() -> Weights<'static> {
        Weights { file: "zeros".into(), container: None, aliases: BTreeMap::new(), taken: RefCell::default() }
    }

    /// The same tensors under other names: `rename` turns a name in the file into the one by which the tensor is asked for.
    pub fn renamed(self, rename: impl Fn(&str) -> String) -> Weights<'a> {
        let tensors = self.container.iter().flat_map(|container| container.metadata.tensors().into_keys());
        let aliases = tensors.map(|name| (rename(&name), name)).collect();
        Weights { aliases, ..self }
    }

    /// The name in the file of tensor `name`.
    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.container.as_ref()?.metadata.info(self.stored(name))
    }

    /// The file's name for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether a tensor of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.container.is_none() || self.info(name).is_some()
    }

    /// The shape of a tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.info(name)?.shape.clone())
    }

    /// The type and the bytes of tensor `name` of the file, which must have exactly `shape`.
    fn data<'c>(
        &self,
        Container { source, metadata, data_start }: &'c Container<'a>,
        name: &str,
        shape: &[usize],
    ) -> Result<(Dtype, &'c [u8]), ModelError> {
        let (file, tensor, expected) = (self.file.clone(), name.to_owned(), shape.to_vec());
        let Some(info) = metadata.info(self.stored(name)) else {
            return Err(ModelError::MissingTensor { file, tensor, expected });
        };
        if info.shape != shape {
            return Err(ModelError::WrongShape { file, tensor, found: info.shape.clone(), expected });
        }
        let (start, end) = info.data_offsets;
        // read_metadata has checked that every tensor lies inside the file.
        Ok((info.dtype, &source.bytes()[data_start + start..data_start + end]))
    }

    /// The values of tensor `name`, which must have exactly `shape`, as f32.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let Some(container) = &self.container else {
            self.take(name, shape);
            return Ok(vec![0.0; shape.iter().product()]);
        };
        let (dtype, data) = self.data(container, name, shape)?;
        let values = self.floats(name, dtype, data)?;
        self.take(name, shape);
        Ok(values)
    }

    /// The bytes of a tensor, or of a part of it, as f32; they must be finite.
    fn floats(&self, name: &str, dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, ModelError> {
        let file = || self.file.clone();
        let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let values: Vec<f32> = match dtype {
            Dtype::BF16 => halves().map(|b| bf16::from_bits(b).to_f32()).collect(),
            Dtype::F16 => halves().map(|b| f16::from_bits(b).to_f32()).collect(),
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            other => {
                return Err(ModelError::WrongType { file: file(), tensor: name.into(), found: format!("{other:?}") });
            }
        };
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(ModelError::NotFinite { file: file(), tensor: name.into(), value: values[index], index });
        }
        Ok(values)
    }

    /// The values of tensor `name` of 64-bit integers, which must have exactly `shape`. Zeros without a file.
    pub fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i64>, ModelError> {
        self.take(name, shape);
        let Some(container) = &self.container else { return Ok(vec![0; shape.iter().product()]) };
        match self.data(container, name, shape)? {
            (Dtype::I64, data) => Ok(data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            (other, _) => {
                Err(ModelError::WrongType { file: self.file.clone(), tensor: name.into(), found: format!("{other:?}") })
            }
        }
    }

    /// Rows of tensor `name`, which must have exactly the shape `[rows, width]`, as f32: `[indices, width]`. The others are not read.
    pub fn rows(&self, name: &str, [rows, width]: [usize; 2], indices: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.take(name, &[rows, width]);
        let Some(container) = &self.container else { return Ok(vec![0.0; indices.len() * width]) };
        let (dtype, data) = self.data(container, name, &[rows, width])?;
        let bytes = data.len() / rows.max(1);
        let row = |&index: &u32| match data.get(index as usize * bytes..(index as usize + 1) * bytes) {
            Some(row) => self.floats(name, dtype, row),
            None => Err(ModelError::Input(format!("row {index} of {name}, which has {rows}"))),
        };
        Ok(indices.iter().map(row).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn take(&self, name: &str, shape: &[usize]) {
        self.taken.borrow_mut().insert(name.into(), shape.to_vec());
    }

    /// The tensors taken so far, by name, with their shapes.
    pub(super) fn taken(self) -> BTreeMap<String, Vec<usize>> {
        self.taken.into_inner()
    }

    /// Uploads tensor `name`, which must have exactly `shape`, as `dtype`.
    pub fn tensor(&self, device: &Device, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        self.arranged(device, name, Arrangement { file: shape, tensor: shape }, dtype, |values| values)
    }

    /// Uploads tensor `name` as `dtype` in another layout: `arrange` computes the elements of the tensor from those of the file.
    pub fn arranged(
        &self,
        device: &Device,
        name: &str,
        shapes: Arrangement<'_>,
        dtype: DType,
        arrange: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> Result<Tensor, ModelError> {
        if self.container.is_none() {
            self.take(name, shapes.file);
            return Ok(Tensor::zeros(device, shapes.tensor, dtype)?);
        }
        Ok(Tensor::from_f32(device, shapes.tensor, &arrange(self.values_for(name, shapes.file, dtype)?), dtype)?)
    }

    /// Writes tensor `name`, which must have exactly `shape`, into `out`, which has the size of that shape in `dtype`. Without a file `out`
    /// stays unchanged.
    pub(super) fn write(&self, name: &str, shape: &[usize], dtype: DType, out: &mut [u8]) -> Result<(), ModelError> {
        if self.container.is_none() {
            self.take(name, shape);
        } else {
            out.copy_from_slice(&f32_to_bytes(&self.values_for(name, shape, dtype)?, dtype)?);
        }
        Ok(())
    }

    /// As [`Weights::values`]; all of them must also be finite in `dtype`.
    fn values_for(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Vec<f32>, ModelError> {
        let values = self.values(name, shape)?;
        if dtype == DType::F16
            && let Some(index) = values.iter().position(|v| !f16::from_f32(*v).is_finite())
        {
            return Err(ModelError::OutOfRange {
                file: self.file.clone(),
                tensor: name.into(),
                value: values[index],
                index,
                dtype: "f16".into(),
            });
        }
        Ok(values)
    }

    /// Finishes loading: tensors that were not taken are an error, except those in `ignored`.
    pub fn finish(&self, ignored: &[&str]) -> Result<(), ModelError> {
        let taken = self.taken.borrow();
        let Some(Container { metadata, .. }) = &self.container else { return Ok(()) };
        let tensors = metadata.tensors();
        let taken: BTreeSet<&str> = taken.keys().map(|name| self.stored(name)).collect();
        let ignored: Vec<&str> = ignored.iter().map(|name| self.stored(name)).collect();
        let mut names: Vec<&str> =
            tensors.keys().map(String::as_str).filter(|n| !taken.contains(n) && !ignored.contains(n)).collect();
        if names.is_empty() {
            return Ok(());
        }
        names.sort_unstable();
        let shown = names.len().min(10);
        let more = if names.len() > shown { format!(" and {} more", names.len() - shown) } else { String::new() };
        Err(ModelError::Leftovers { file: self.file.clone(), names: names[..shown].join(", ") + &more })
    }
}
