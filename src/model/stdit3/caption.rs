//! Captions: projected once per generation, then turned into every block's keys and values.

use super::{Linear, StDiT3};
use crate::model::{Caption, ModelError};
use crate::ops::{self, linear::Activation};
use crate::tensor::Tensor;

impl StDiT3 {
    /// Encodes captions `y` (`[batch, length, caption_channels]`, f32) for every block.
    ///
    /// `mask` (`[batch, length]`) is true for the tokens of a sample to keep; without it all are kept.
    pub(super) fn encode_caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        let width = self.config.caption_channels;
        if batch == 0 || y.is_empty() || !y.len().is_multiple_of(batch * width) {
            return Err(ModelError::Input(format!(
                "captions hold {} values, expected a multiple of batch {batch} × {width} channels",
                y.len()
            )));
        }
        if let Some(i) = y.iter().position(|v| !v.is_finite()) {
            return Err(ModelError::Input(format!("the caption embedding holds {} at element {i}", y[i])));
        }
        let length = y.len() / (batch * width);
        if let Some(mask) = mask.filter(|m| m.len() != batch * length) {
            return Err(ModelError::Input(format!(
                "the text mask has {} entries, expected {batch} × {length}",
                mask.len()
            )));
        }
        let kept: Vec<Vec<i32>> = (0..batch)
            .map(|b| (0..length).filter(|j| mask.is_none_or(|m| m[b * length + j])).map(|j| j as i32).collect())
            .collect();
        let longest = kept.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let index: Vec<i32> =
            kept.iter().flat_map(|k| k.iter().copied().chain(std::iter::repeat(-1)).take(longest)).collect();
        let lengths: Vec<i32> = kept.iter().map(|k| k.len() as i32).collect();

        let (c, device) = (self.config.hidden_size, &self.device);
        let source = Tensor::from_f32(device, &[batch, length, width], y, self.dtype)?;
        let index = Tensor::from_slice(device, &[batch, longest], &index)?;
        let packed = Tensor::empty(device, &[batch, longest, width], self.dtype)?;
        ops::embed::gather_rows(&source, &index, &packed)?;
        let rows = batch * longest;
        let packed = packed.reshape(&[rows, width])?;
        let hidden = Tensor::empty(device, &[rows, c], self.dtype)?;
        let text = Tensor::empty(device, &[rows, c], self.dtype)?;
        let [fc1, fc2] = &self.caption_mlp;
        ops::linear::linear(&packed, &fc1.weight, Some(&fc1.bias), None, Activation::GeluTanh, &hidden)?;
        ops::linear::linear(&hidden, &fc2.weight, Some(&fc2.bias), None, Activation::None, &text)?;
        let heads = [2, self.config.num_heads, self.config.head_dim()];
        let mut weights = self.weights.stream(0..self.blocks.len())?;
        let kv = (0..self.blocks.len()).map(|i| {
            weights.take(i)?;
            let kv = Tensor::empty(device, &[rows, 2 * c], self.dtype)?;
            let Linear { weight, bias } = &self.blocks[i].kv_linear;
            ops::linear::linear(&text, weight, Some(bias), None, Activation::None, &kv)?;
            Ok(kv.reshape(&[rows, heads[0], heads[1], heads[2]])?)
        });
        let kv = kv.collect::<Result<_, ModelError>>()?;
        Ok(Caption::new(kv, Tensor::from_slice(device, &[batch], &lengths)?, longest))
    }
}
