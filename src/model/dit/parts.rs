//! The weights of one block in contiguous memory: its tensors and their offsets.

use std::ops::Range;

use super::linear::Linear;
use crate::model::error::ModelError;
use crate::model::fp8::Error;
use crate::model::weights::Weights;
use crate::ops::fp8;
use crate::tensor::{DType, Tensor, TensorError};

/// Alignment of a block's parts in its memory: that of the kernels' widest accesses and of a cache line.
const ALIGNMENT: usize = 256;

/// What a part is.
enum Kind {
    /// Anything but the weights of a product.
    Other,
    /// The weights of a product, in the type of the model.
    Product,
    /// The same in e4m3, and where the scales of their rows are.
    Fp8(Range<usize>),
}

struct Part {
    /// The published tensors, one after the other along the first axis.
    names: Vec<String>,
    /// The shape of all of them together.
    shape: Vec<usize>,
    bytes: Range<usize>,
    kind: Kind,
}

/// The tensors of a block, one after the other.
pub(in crate::model) struct Parts {
    dtype: DType,
    /// Whether large products are kept in e4m3.
    fp8: bool,
    parts: Vec<Part>,
    bytes: usize,
}

impl Parts {
    pub(in crate::model) fn new(dtype: DType, fp8: bool) -> Parts {
        Parts { dtype, fp8, parts: vec![], bytes: 0 }
    }

    /// Assigns the next offset to the tensor `name` (its published name within the block).
    pub(in crate::model) fn add(&mut self, name: &str, shape: &[usize]) -> Result<(), TensorError> {
        self.place(vec![name.into()], shape, false, Kind::Other)
    }

    /// As [`Parts::add`], for tensors `names` of `shape` each that become one, joined along the first axis.
    pub(in crate::model) fn add_joined(&mut self, names: &[String], shape: &[usize]) -> Result<(), TensorError> {
        self.place(names.to_vec(), shape, false, Kind::Other)
    }

    /// Assigns the next offset to `names`; with `fp8`, to codes and scales.
    fn place(&mut self, names: Vec<String>, shape: &[usize], fp8: bool, kind: Kind) -> Result<(), TensorError> {
        let mut joined = shape.to_vec();
        joined[0] = joined[0].saturating_mul(names.len());
        let element = if fp8 { 1 } else { self.dtype.size() };
        let bytes = self.reserve(&joined, element)?;
        let kind = if fp8 { Kind::Fp8(self.reserve(&joined[..1], size_of::<f32>())?) } else { kind };
        self.parts.push(Part { names, shape: joined, bytes, kind });
        Ok(())
    }

    /// The next bytes, for so many elements.
    fn reserve(&mut self, shape: &[usize], element: usize) -> Result<Range<usize>, TensorError> {
        let bytes = shape.iter().try_fold(element, |product, &axis| product.checked_mul(axis));
        let start = self.bytes;
        let end = bytes.and_then(|bytes| Some((bytes, start.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?)));
        let Some((bytes, end)) = end else {
            return Err(TensorError::TooLarge { shape: shape.to_vec(), dtype: self.dtype });
        };
        self.bytes = end;
        Ok(start..start + bytes)
    }

    /// The weights `[out, inputs]` of linear layers `names` as one, then their biases `[out]`.
    pub(in crate::model) fn add_linears(
        &mut self,
        names: &[&str],
        out: usize,
        inputs: usize,
    ) -> Result<(), TensorError> {
        self.add_layers(names, out, inputs, false)
    }

    /// As [`Parts::add_linears`], of a product with every token of the video: in e4m3, where that is asked for and the kernel serves its shape.
    pub(in crate::model) fn add_products(
        &mut self,
        names: &[&str],
        out: usize,
        inputs: usize,
    ) -> Result<(), TensorError> {
        let fp8 = self.fp8 && fp8::serves([out.saturating_mul(names.len()), inputs]);
        self.add_layers(names, out, inputs, fp8)
    }

    fn add_layers(&mut self, names: &[&str], out: usize, inputs: usize, fp8: bool) -> Result<(), TensorError> {
        let of = |kind: &str| names.iter().map(|name| format!("{name}.{kind}")).collect::<Vec<_>>();
        self.place(of("weight"), &[out, inputs], fp8, Kind::Product)?;
        self.place(of("bias"), &[out], false, Kind::Other)
    }

    /// Bytes of a block's memory.
    pub(in crate::model) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of products in e4m3, and of others.
    pub(in crate::model) fn products(&self) -> [usize; 2] {
        let count = |is: fn(&Kind) -> bool| self.parts.iter().filter(|part| is(&part.kind)).count();
        [count(|kind| matches!(kind, Kind::Fp8(_))), count(|kind| matches!(kind, Kind::Product))]
    }

    /// The content of a block's memory: the weights of block `name`; and the error of what is in e4m3.
    pub(in crate::model) fn content(&self, weights: &Weights, name: &str) -> Result<(Vec<u8>, Error), ModelError> {
        let mut content = vec![0; self.bytes];
        let mut error = Error::default();
        for part in &self.parts {
            let mut shape = part.shape.clone();
            shape[0] /= part.names.len();
            let each = part.bytes.len() / part.names.len();
            let tensors = part.names.iter().map(|tensor| format!("{name}.{tensor}")).enumerate();
            match &part.kind {
                Kind::Fp8(scales) => {
                    // The scales lie behind the codes.
                    let (codes, rest) = content[part.bytes.start..scales.end].split_at_mut(part.bytes.len());
                    let scales = &mut rest[scales.start - part.bytes.end..];
                    let of_scales = scales.len() / part.names.len();
                    for (i, tensor) in tensors {
                        let (codes, scales) =
                            (&mut codes[i * each..][..each], &mut scales[i * of_scales..][..of_scales]);
                        error = error.and(weights.write_fp8(&tensor, [shape[0], shape[1]], codes, scales)?);
                    }
                }
                _ => {
                    let bytes = &mut content[part.bytes.clone()];
                    for (i, tensor) in tensors {
                        weights.write(&tensor, &shape, self.dtype, &mut bytes[i * each..][..each])?;
                    }
                }
            }
        }
        Ok((content, error))
    }

    /// The tensors in `memory`, laid out as by [`Parts::content`], in the order in which they were added.
    pub(in crate::model) fn tensors(&self, memory: &Tensor) -> Result<Taken, TensorError> {
        let tensor = |part: &Part| -> Result<_, TensorError> {
            let scales = match &part.kind {
                Kind::Fp8(scales) => Some(memory.carve(scales.start, &part.shape[..1], DType::F32)?),
                _ => None,
            };
            let dtype = if scales.is_some() { DType::U8 } else { self.dtype };
            Ok((memory.carve(part.bytes.start, &part.shape, dtype)?, scales))
        };
        Ok(Taken(self.parts.iter().map(tensor).collect::<Result<Vec<_>, _>>()?.into_iter()))
    }
}

/// The tensors of a block in their order; those in e4m3 with their scales.
pub(in crate::model) struct Taken(std::vec::IntoIter<(Tensor, Option<Tensor>)>);

impl Taken {
    /// The next tensor, if there is one.
    pub(in crate::model) fn tensor(&mut self) -> Option<Tensor> {
        self.0.next().map(|(tensor, _)| tensor)
    }

    /// The next two as the weights and the bias of a linear layer.
    pub(in crate::model) fn linear(&mut self) -> Option<Linear> {
        let (weight, scales) = self.0.next()?;
        Some(Linear { weight, scales, bias: self.tensor()? })
    }
}
