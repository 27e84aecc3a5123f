//! Weights of the transformer's layers, and where those of a block lie in its memory.

use std::cell::Cell;

use super::{ModelError, StDiT3Config, Weights};
use crate::device::Device;
use crate::tensor::{DType, Tensor, TensorError};

/// Where the parts of a block start in its memory; what the kernels' widest accesses ask for, and a cache line.
const ALIGNMENT: usize = 256;

/// A linear layer's weights: `[out, in]` and `[out]`.
pub(super) struct Linear<T = Tensor> {
    pub(super) weight: T,
    pub(super) bias: T,
}

impl Linear {
    pub(super) fn load(source: &Loader, name: &str, out: usize, inputs: usize) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: source.tensor(&format!("{name}.weight"), &[out, inputs])?,
            bias: source.tensor(&format!("{name}.bias"), &[out])?,
        })
    }
}

/// Where tensors come from, how they are stored, and what they take.
pub(super) struct Loader<'a> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a Weights<'a>,
    pub(super) dtype: DType,
    /// Bytes of all tensors given so far.
    pub(super) bytes: Cell<usize>,
}

impl Loader<'_> {
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.count(self.weights.tensor(self.device, name, shape, self.dtype)?))
    }

    /// A tensor of values that were read before.
    pub(super) fn values(&self, shape: &[usize], values: &[f32], dtype: DType) -> Result<Tensor, ModelError> {
        Ok(self.count(Tensor::from_f32(self.device, shape, values, dtype)?))
    }

    fn count(&self, tensor: Tensor) -> Tensor {
        self.bytes.set(self.bytes.get() + tensor.bytes());
        tensor
    }
}

/// The weights of a block.
pub(super) struct Block<T = Tensor> {
    pub(super) qkv: Linear<T>,
    pub(super) proj: Linear<T>,
    pub(super) qk_norm: Option<(T, T)>,
    pub(super) q_linear: Linear<T>,
    pub(super) kv_linear: Linear<T>,
    pub(super) cross_proj: Linear<T>,
    pub(super) fc1: Linear<T>,
    pub(super) fc2: Linear<T>,
}

impl<T> Block<T> {
    /// Asks `part` for every tensor, by its published name within the block and its shape, in the order in which they lie in memory.
    fn of<E>(config: &StDiT3Config, mut part: impl FnMut(&str, &[usize]) -> Result<T, E>) -> Result<Block<T>, E> {
        let (c, hidden, d) = (config.hidden_size, config.mlp_hidden(), config.head_dim());
        let mut linear = |name: &str, out, inputs| {
            Ok(Linear {
                weight: part(&format!("{name}.weight"), &[out, inputs])?,
                bias: part(&format!("{name}.bias"), &[out])?,
            })
        };
        let (qkv, proj) = (linear("attn.qkv", 3 * c, c)?, linear("attn.proj", c, c)?);
        let (q_linear, kv_linear) = (linear("cross_attn.q_linear", c, c)?, linear("cross_attn.kv_linear", 2 * c, c)?);
        let cross_proj = linear("cross_attn.proj", c, c)?;
        let (fc1, fc2) = (linear("mlp.fc1", hidden, c)?, linear("mlp.fc2", c, hidden)?);
        let mut norm = |name: &str| part(&format!("attn.{name}.weight"), &[d]);
        let qk_norm = if config.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None };
        Ok(Block { qkv, proj, qk_norm, q_linear, kv_linear, cross_proj, fc1, fc2 })
    }
}

/// Gives the parts of a block their places in its memory, one behind the other.
struct Places {
    dtype: DType,
    end: usize,
}

impl Places {
    /// Where the next part begins, and its bytes.
    fn next(&mut self, shape: &[usize]) -> Result<(usize, usize), TensorError> {
        let bytes = shape.iter().try_fold(self.dtype.size(), |product, &axis| product.checked_mul(axis));
        let start = self.end;
        let end = bytes.and_then(|bytes| start.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT));
        match (bytes, end) {
            (Some(bytes), Some(end)) => {
                self.end = end;
                Ok((start, bytes))
            }
            _ => Err(TensorError::TooLarge { shape: shape.to_vec(), dtype: self.dtype }),
        }
    }
}

/// Bytes of a block's memory.
pub(super) fn block_bytes(config: &StDiT3Config, dtype: DType) -> Result<usize, TensorError> {
    let mut places = Places { dtype, end: 0 };
    Block::of(config, |_, shape| places.next(shape).map(drop))?;
    Ok(places.end)
}

/// The content of a block's memory: the weights of block `name`.
pub(super) fn block_content(
    weights: &Weights,
    name: &str,
    config: &StDiT3Config,
    dtype: DType,
) -> Result<Vec<u8>, ModelError> {
    let mut content = vec![0; block_bytes(config, dtype)?];
    let mut places = Places { dtype, end: 0 };
    Block::of(config, |part, shape| {
        let (start, bytes) = places.next(shape)?;
        weights.write(&format!("{name}.{part}"), shape, dtype, &mut content[start..start + bytes])
    })?;
    Ok(content)
}

/// The block whose weights lie in `memory` as [`block_content`] arranges them.
pub(super) fn block_in(memory: &Tensor, config: &StDiT3Config, dtype: DType) -> Result<Block, TensorError> {
    let mut places = Places { dtype, end: 0 };
    Block::of(config, |_, shape| {
        let (start, _) = places.next(shape)?;
        memory.carve(start, shape, dtype)
    })
}
