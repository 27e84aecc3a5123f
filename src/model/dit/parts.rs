//! The weights of one block in contiguous memory: its tensors and their offsets.

use std::ops::Range;

use crate::model::error::ModelError;
use crate::model::weights::Weights;
use crate::tensor::{DType, Tensor, TensorError};

/// Alignment of a block's parts in its memory: that of the kernels' widest accesses and of a cache line.
const ALIGNMENT: usize = 256;

struct Part {
    /// The published tensors, one after the other along the first axis.
    names: Vec<String>,
    /// The shape of all of them together.
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The tensors of a block, one after the other.
pub(in crate::model) struct Parts {
    dtype: DType,
    parts: Vec<Part>,
    bytes: usize,
}

impl Parts {
    pub(in crate::model) fn new(dtype: DType) -> Parts {
        Parts { dtype, parts: vec![], bytes: 0 }
    }

    /// Assigns the next offset to the tensor `name` (its published name within the block).
    pub(in crate::model) fn add(&mut self, name: &str, shape: &[usize]) -> Result<(), TensorError> {
        self.add_joined(&[name.into()], shape)
    }

    /// As [`Parts::add`], for tensors `names` of `shape` each that become one, joined along the first axis.
    pub(in crate::model) fn add_joined(&mut self, names: &[String], shape: &[usize]) -> Result<(), TensorError> {
        let mut joined = shape.to_vec();
        joined[0] = joined[0].saturating_mul(names.len());
        let bytes = joined.iter().try_fold(self.dtype.size(), |product, &axis| product.checked_mul(axis));
        let start = self.bytes;
        let end = bytes.and_then(|bytes| Some((bytes, start.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?)));
        let Some((bytes, end)) = end else {
            return Err(TensorError::TooLarge { shape: joined, dtype: self.dtype });
        };
        self.parts.push(Part { names: names.to_vec(), shape: joined, bytes: start..start + bytes });
        self.bytes = end;
        Ok(())
    }

    /// The weights `[out, inputs]` of linear layers `names` as one, then their biases `[out]`.
    pub(in crate::model) fn add_linears(
        &mut self,
        names: &[&str],
        out: usize,
        inputs: usize,
    ) -> Result<(), TensorError> {
        let of = |kind: &str| names.iter().map(|name| format!("{name}.{kind}")).collect::<Vec<_>>();
        self.add_joined(&of("weight"), &[out, inputs])?;
        self.add_joined(&of("bias"), &[out])
    }

    /// Bytes of a block's memory.
    pub(in crate::model) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The content of a block's memory: the weights of block `name`.
    pub(in crate::model) fn content(&self, weights: &Weights, name: &str) -> Result<Vec<u8>, ModelError> {
        let mut content = vec![0; self.bytes];
        for part in &self.parts {
            let bytes = &mut content[part.bytes.clone()];
            let mut shape = part.shape.clone();
            shape[0] /= part.names.len();
            let each = bytes.len() / part.names.len();
            for (tensor, bytes) in part.names.iter().zip(bytes.chunks_mut(each.max(1))) {
                weights.write(&format!("{name}.{tensor}"), &shape, self.dtype, bytes)?;
            }
        }
        Ok(content)
    }

    /// The tensors in `memory`, laid out as by [`Parts::content`], in the order in which they were added.
    pub(in crate::model) fn tensors(&self, memory: &Tensor) -> impl Iterator<Item = Result<Tensor, TensorError>> {
        self.parts.iter().map(|part| memory.carve(part.bytes.start, &part.shape, self.dtype))
    }
}
