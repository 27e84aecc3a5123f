//! Weights from files: every expected name and shape and every value is checked; leftover tensors are an error.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;

use super::ModelError;
use super::container::{Container, Encoding, Stored};
use super::fp8::{self, Error};
use super::naming::Naming;
use crate::device::{Device, DryConfig};
use crate::tensor::{DType, Tensor, f32_to_bytes};

/// The two shapes of a weight whose layout changes when it is loaded: see [`Weights::arranged`].
#[derive(Clone, Copy)]
pub struct Arrangement<'a> {
    /// In the file: exactly this.
    pub file: &'a [usize],
    /// On the device.
    pub tensor: &'a [usize],
}

/// Something that is added to tensors when they are read.
pub(super) trait Addition {
    /// Adds to the values of tensor `name` of the given shape.
    ///
    /// # Errors
    /// What is added does not fit.
    fn add(&self, name: &str, shape: &[usize], values: &mut [f32]) -> Result<(), ModelError>;
}

/// Open files of weights (safetensors, GGUF, `torch.save`); tensors are taken by name, and [`Weights::finish`] reports the rest.
pub struct Weights<'a> {
    file: String,
    /// `None`: every requested tensor exists and is zero.
    containers: Option<Vec<Container<'a>>>,
    /// Where a tensor is: the file's index, and its name there.
    places: BTreeMap<String, (usize, String)>,
    /// The tensors taken so far, by name, with their shapes.
    taken: RefCell<BTreeMap<String, Vec<usize>>>,
    /// What is added to tensors when they are read, in this order.
    additions: Vec<Box<dyn Addition>>,
    /// Whether the large products of a transformer's blocks are to be kept in e4m3.
    fp8: bool,
}

impl<'a> Weights<'a> {
    /// Maps the file at `path`. Its first bytes tell its form: safetensors, GGUF, or a zip archive of `torch.save`.
    ///
    /// # Errors
    /// A file that is cut or damaged, or holds what is not read.
    pub fn open(path: &Path) -> Result<Weights<'static>, ModelError> {
        Ok(Weights::of(vec![Container::open(path)?]))
    }

    /// Maps the files of a checkpoint, one or shards, as trainers write them: their names lose what stands before every name (`module.`,
    /// `model.diffusion_model.`, …), and of several sets the averaged one is taken.
    ///
    /// # Errors
    /// As [`Weights::open`]; and files that hold the same tensor.
    pub fn open_checkpoint(files: &[PathBuf]) -> Result<Weights<'static>, ModelError> {
        let containers = files.iter().map(|path| Container::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut weights = Weights::of(containers);
        let naming = Naming::of(weights.places.keys().map(String::as_str));
        if let Some(remark) = naming.remark() {
            tracing::warn!("{}: {remark}", weights.file);
        }
        let named = |(name, place): (String, (usize, String))| Some((naming.plain(&name)?.to_owned(), place));
        weights.places = std::mem::take(&mut weights.places).into_iter().filter_map(named).collect();
        let tensors: usize = weights.containers.iter().flatten().map(|c| c.tensors.len()).sum();
        match tensors == weights.places.len() + naming.left_out() {
            true => Ok(weights),
            false => Err(ModelError::SameTensor { file: weights.file }),
        }
    }

    /// Parses a file that is already in memory; `name` identifies it in errors.
    pub fn from_bytes(name: &str, bytes: &'a [u8]) -> Result<Weights<'a>, ModelError> {
        Ok(Weights::of(vec![Container::embedded(name.into(), bytes)?]))
    }

    fn of(containers: Vec<Container<'a>>) -> Self {
        let tensors = |(index, container): (usize, &Container<'_>)| -> Vec<_> {
            container.tensors.keys().map(|name| (name.clone(), (index, name.clone()))).collect()
        };
        let places = containers.iter().enumerate().flat_map(tensors).collect();
        let mut file = containers.first().map_or_else(String::new, |first| first.file.clone());
        if containers.len() > 1 {
            file += &format!(" and {} other shards", containers.len() - 1);
        }
        Weights { file, containers: Some(containers), places, taken: RefCell::default(), additions: vec![], fp8: false }
    }

    /// No file: every tensor exists in the requested shape, filled with zeros. For models whose sizes matter but not their values.
    pub fn zeros() -> Weights<'static> {
        let (places, taken) = (BTreeMap::new(), RefCell::default());
        Weights { file: "zeros".into(), containers: None, places, taken, additions: vec![], fp8: false }
    }

    /// The tensors that `load` takes, by name, with their shapes: it runs on a device that stores nothing.
    pub(super) fn taken_by<T>(
        load: impl FnOnce(&Device, &Weights<'_>) -> Result<T, ModelError>,
    ) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
        let (memory, compute_capability) = (isize::MAX as usize, (8, 0));
        let dry = Device::dry(DryConfig { name: "list".into(), memory, units: 1, compute_capability });
        let weights = Weights::zeros();
        load(&dry, &weights)?;
        Ok(weights.taken())
    }

    /// The same tensors under other names: `rename` turns a name in the files into the one by which the tensor is asked for; `None` leaves the
    /// tensor out.
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Weights<'a> {
        let places = self.places.iter().filter_map(|(name, place)| Some((rename(name)?, place.clone()))).collect();
        Weights { places, ..self }
    }

    /// The same tensors, with something added when they are read.
    pub(super) fn with(mut self, additions: Vec<Box<dyn Addition>>) -> Weights<'a> {
        self.additions.extend(additions);
        self
    }

    /// The same tensors; with `fp8`, a transformer keeps those of its blocks' large products in e4m3, with one scale for each output, and multiplies
    /// them so (`--fp8-weights`).
    pub fn in_fp8(self, fp8: bool) -> Weights<'a> {
        Weights { fp8, ..self }
    }

    /// Whether the large products of blocks are to be kept in e4m3.
    pub(super) fn fp8(&self) -> bool {
        self.fp8
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    fn find(&self, name: &str) -> Option<(&Container<'a>, &Stored)> {
        let (index, name) = self.places.get(name)?;
        let container = &self.containers.as_ref()?[*index];
        Some((container, container.tensors.get(name)?))
    }

    /// The file's name for messages; of several, the first.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether a tensor of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.containers.is_none() || self.find(name).is_some()
    }

    /// The shape of a tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.find(name)?.1.shape.clone())
    }

    /// The file, the encoding and the bytes of tensor `name`, which must have exactly `shape`.
    fn data(&self, name: &str, shape: &[usize]) -> Result<(&str, &Encoding, Cow<'_, [u8]>), ModelError> {
        let (tensor, expected) = (name.to_owned(), shape.to_vec());
        let Some((container, info)) = self.find(name) else {
            return Err(ModelError::MissingTensor { file: self.file.clone(), tensor, expected });
        };
        if info.shape != shape {
            let (file, found) = (container.file.clone(), info.shape.clone());
            return Err(ModelError::WrongShape { file, tensor, found, expected });
        }
        Ok((&container.file, &info.encoding, container.data(info)))
    }

    /// The values of tensor `name`, which must have exactly `shape`, as f32.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        if self.containers.is_none() {
            self.take(name, shape);
            return Ok(vec![0.0; shape.iter().product()]);
        }
        let (file, encoding, data) = self.data(name, shape)?;
        let mut values = self.floats(name, file, encoding, &data)?;
        self.take(name, shape);
        self.additions.iter().try_for_each(|addition| addition.add(name, shape, &mut values))?;
        Ok(values)
    }

    /// The bytes of a tensor, or of a part of it, as f32; they must be finite.
    fn floats(&self, name: &str, file: &str, encoding: &Encoding, data: &[u8]) -> Result<Vec<f32>, ModelError> {
        let file = || file.to_owned();
        let Some(mut values) = encoding.floats(data) else {
            return Err(ModelError::WrongType { file: file(), tensor: name.into(), found: encoding.name() });
        };
        if matches!(encoding, Encoding::F8E4M3 | Encoding::F8E5M2) {
            self.scale(name, &mut values)?;
        }
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(ModelError::NotFinite { file: file(), tensor: name.into(), value: values[index], index });
        }
        Ok(values)
    }

    /// The values of tensor `name` of 64-bit integers, which must have exactly `shape`. Zeros without a file.
    pub fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<i64>, ModelError> {
        self.take(name, shape);
        if self.containers.is_none() {
            return Ok(vec![0; shape.iter().product()]);
        }
        match self.data(name, shape)? {
            (_, Encoding::I64, data) => Ok(data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            (file, other, _) => {
                Err(ModelError::WrongType { file: file.into(), tensor: name.into(), found: other.name() })
            }
        }
    }

    /// Rows of tensor `name`, which must have exactly the shape `[rows, width]`, as f32: `[indices, width]`. The others are not read.
    pub fn rows(&self, name: &str, [rows, width]: [usize; 2], indices: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.take(name, &[rows, width]);
        if self.containers.is_none() {
            return Ok(vec![0.0; indices.len() * width]);
        }
        let (file, encoding, data) = self.data(name, &[rows, width])?;
        // Blocks that lie across rows are all read.
        let across = !width.is_multiple_of(encoding.elements());
        let all = across.then(|| self.floats(name, file, encoding, &data)).transpose()?;
        let bytes = data.len() / rows.max(1);
        let row = |&index: &u32| match (index as usize, &all) {
            (index, _) if index >= rows => Err(ModelError::Input(format!("row {index} of {name}, which has {rows}"))),
            (index, Some(all)) => Ok(all[index * width..][..width].to_vec()),
            (index, None) => self.floats(name, file, encoding, &data[index * bytes..][..bytes]),
        };
        Ok(indices.iter().map(row).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Multiplies values in eight bits by their factor, which is a tensor beside theirs, if there is one.
    fn scale(&self, name: &str, values: &mut [f32]) -> Result<(), ModelError> {
        let beside = |ending: &str| Some(format!("{}.{ending}", name.strip_suffix(".weight")?));
        // What activations are divided by is of no use here.
        for unused in ["scale_input", "input_scale"].into_iter().filter_map(beside).filter(|name| self.has(name)) {
            self.take(&unused, &[]);
        }
        let factor = ["scale_weight", "weight_scale"].into_iter().filter_map(beside).find(|name| self.has(name));
        let Some(factor) = factor else { return Ok(()) };
        let shape = self.shape(&factor).unwrap_or_default();
        let shape = if shape.iter().product::<usize>() == 1 { shape } else { vec![] };
        let factor = self.values(&factor, &shape)?[0];
        values.iter_mut().for_each(|value| *value *= factor);
        Ok(())
    }

    fn take(&self, name: &str, shape: &[usize]) {
        self.taken.borrow_mut().insert(name.into(), shape.to_vec());
    }

    /// The tensors taken so far, by name, with their shapes.
    pub(super) fn taken(self) -> BTreeMap<String, Vec<usize>> {
        self.taken.into_inner()
    }

    /// The bytes of tensor `name`, which must have exactly `shape`, where they need no conversion to `dtype`: most of a checkpoint is copied so.
    fn unconverted(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Option<Cow<'_, [u8]>>, ModelError> {
        if self.containers.is_none() || !self.additions.is_empty() {
            return Ok(None);
        }
        let (_, encoding, data) = self.data(name, shape)?;
        let finite = encoding.is_finite(dtype, &data);
        finite.then(|| self.take(name, shape));
        Ok(finite.then_some(data))
    }

    /// Uploads tensor `name`, which must have exactly `shape`, as `dtype`.
    pub fn tensor(&self, device: &Device, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        if let Some(bytes) = self.unconverted(name, shape, dtype)? {
            return Ok(Tensor::from_bytes(device, shape, &bytes, dtype)?);
        }
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
        if self.containers.is_none() {
            self.take(name, shapes.file);
            return Ok(Tensor::zeros(device, shapes.tensor, dtype)?);
        }
        Ok(Tensor::from_f32(device, shapes.tensor, &arrange(self.values_for(name, shapes.file, dtype)?), dtype)?)
    }

    /// Writes tensor `name`, which must have exactly `shape`, into `out`, which has the size of that shape in `dtype`. Without a file `out`
    /// stays unchanged.
    pub(super) fn write(&self, name: &str, shape: &[usize], dtype: DType, out: &mut [u8]) -> Result<(), ModelError> {
        if self.containers.is_none() {
            self.take(name, shape);
        } else if let Some(bytes) = self.unconverted(name, shape, dtype)? {
            out.copy_from_slice(&bytes);
        } else {
            out.copy_from_slice(&f32_to_bytes(&self.values_for(name, shape, dtype)?, dtype)?);
        }
        Ok(())
    }

    /// Writes tensor `name`, which must have exactly `shape` `[rows, k]`, as e4m3: its `codes` and the f32 `scales` of its rows. Returns the
    /// error. Without a file both stay unchanged.
    pub(super) fn write_fp8(
        &self,
        name: &str,
        shape: [usize; 2],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<Error, ModelError> {
        if self.containers.is_none() {
            self.take(name, &shape);
            return Ok(Error::default());
        }
        Ok(fp8::quantise(&self.values(name, &shape)?, shape[1], codes, scales))
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
        self.finish_but(&|name| ignored.contains(&name))
    }

    /// As [`Weights::finish`], except those that are `ignored`.
    pub fn finish_but(&self, ignored: &dyn Fn(&str) -> bool) -> Result<(), ModelError> {
        let taken = self.taken.borrow();
        let names = self.places.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|n| !taken.contains_key(*n) && !ignored(n)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let shown = names.len().min(10);
        let more = if names.len() > shown { format!(" and {} more", names.len() - shown) } else { String::new() };
        Err(ModelError::Leftovers { file: self.file.clone(), names: names[..shown].join(", ") + &more })
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn written(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
        let views = tensors.iter().map(|(n, d, s, bytes)| (*n, TensorView::new(*d, s.to_vec(), bytes).unwrap()));
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn eight_bit_floats_are_read_and_scaled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let (two, half) = (2f32.to_le_bytes(), 0.5f32.to_le_bytes());
        written(
            &path,
            &[
                ("a.weight", Dtype::F8_E4M3, &[2], &[0x38, 0x7e]),
                ("b.weight", Dtype::F8_E5M2, &[2], &[0x3c, 0xc0]),
                ("b.scale_weight", Dtype::F32, &[], &half),
                ("b.scale_input", Dtype::F32, &[], &two),
                ("scaled_fp8", Dtype::F8_E4M3, &[2], &[0, 0]),
            ],
        );
        let weights = Weights::open_checkpoint(std::slice::from_ref(&path)).unwrap();
        assert_eq!(weights.values("a.weight", &[2]).unwrap(), [1.0, 448.0]);
        assert_eq!(weights.values("b.weight", &[2]).unwrap(), [0.5, -1.0]);
        weights.finish(&[]).unwrap();
        // A factor for every row is not one for all.
        let factors = [two, half].concat();
        written(&path, &[("a.weight", Dtype::F8_E4M3, &[2], &[0, 0]), ("a.scale_weight", Dtype::F32, &[2], &factors)]);
        let error = Weights::open(&path).unwrap().values("a.weight", &[2]).unwrap_err().to_string();
        assert!(error.contains("a.scale_weight") && error.contains("[2]"), "{error}");
    }

    /// Rows of 144 elements, in blocks of 32.
    #[test]
    fn rows_whose_blocks_lie_across_are_read() {
        let weights = Weights::open(Path::new("models/sprites/model.gguf")).unwrap();
        let (name, shape) = ("spatial_blocks.0.attn.qkv.weight", [432, 144]);
        let all = weights.values(name, &shape).unwrap();
        assert_eq!(weights.rows(name, shape, &[431, 5]).unwrap(), [&all[431 * 144..], &all[5 * 144..6 * 144]].concat());
        assert!(weights.rows(name, shape, &[432]).unwrap_err().to_string().contains("row 432"));
    }

    #[test]
    fn shards_and_the_names_of_trainers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let one = 1f32.to_le_bytes();
        written(&path("1.safetensors"), &[("module.a", Dtype::F32, &[1], &one)]);
        written(&path("2.safetensors"), &[("module.b", Dtype::F32, &[1], &2f32.to_le_bytes())]);
        let weights = Weights::open_checkpoint(&[path("1.safetensors"), path("2.safetensors")]).unwrap();
        assert_eq!((weights.values("a", &[1]).unwrap(), weights.values("b", &[1]).unwrap()), (vec![1.0], vec![2.0]));
        weights.finish(&[]).unwrap();
        let twice =
            Weights::open_checkpoint(&[path("1.safetensors"), path("1.safetensors")]).err().unwrap().to_string();
        assert!(twice.contains("the same tensor"), "{twice}");
        std::fs::write(path("old.pt"), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
        let old = Weights::open_checkpoint(&[path("old.pt")]).err().unwrap().to_string();
        assert!(old.contains("old.pt") && old.contains("torch.save"), "{old}");
    }
}
