//! Weights outside the blocks: linear layers and single tensors.

use std::cell::Cell;

use crate::device::Device;
use crate::model::error::ModelError;
use crate::model::weights::Weights;
use crate::tensor::{DType, Tensor};

/// A linear layer's weights: `[out, in]` and `[out]`.
pub(in crate::model) struct Linear {
    pub(in crate::model) weight: Tensor,
    /// `[out]`, of weights in e4m3: what the codes of each row are multiplied with.
    pub(in crate::model) scales: Option<Tensor>,
    pub(in crate::model) bias: Tensor,
}

impl Linear {
    /// The tensors `name.weight` and `name.bias`.
    pub(in crate::model) fn load(source: &Loader, name: &str, out: usize, inputs: usize) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: source.tensor(&format!("{name}.weight"), &[out, inputs])?,
            scales: None,
            bias: source.tensor(&format!("{name}.bias"), &[out])?,
        })
    }
}

/// The source of tensors, how they are stored, and the bytes they use.
pub(in crate::model) struct Loader<'a> {
    pub(in crate::model) device: &'a Device,
    pub(in crate::model) weights: &'a Weights<'a>,
    pub(in crate::model) dtype: DType,
    /// Bytes of all tensors loaded so far.
    pub(in crate::model) bytes: Cell<usize>,
}

impl Loader<'_> {
    pub(in crate::model) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.count(self.weights.tensor(self.device, name, shape, self.dtype)?))
    }

    /// A tensor of values that were already read.
    pub(in crate::model) fn values(&self, shape: &[usize], values: &[f32], dtype: DType) -> Result<Tensor, ModelError> {
        Ok(self.count(Tensor::from_f32(self.device, shape, values, dtype)?))
    }

    fn count(&self, tensor: Tensor) -> Tensor {
        self.bytes.set(self.bytes.get() + tensor.bytes());
        tensor
    }
}
