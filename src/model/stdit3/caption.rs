//! Captions: projected once per generation, then turned into every block's keys and values.

use super::{Linear, StDiT3};
use crate::model::dit::captions;
use crate::model::{Caption, ModelError};
use crate::ops::{self, linear::Activation};
use crate::tensor::Tensor;

impl StDiT3 {
    /// Encodes captions `y` (`[batch, length, caption_channels]`, f32) for every block.
    ///
    /// `mask` (`[batch, length]`) is true for the tokens of a sample to keep; without it all are kept.
    pub(super) fn encode_caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        let width = self.config.caption_channels;
        let kept = captions::kept(y, batch, width, mask)?;
        let longest = kept.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let lengths: Vec<i32> = kept.iter().map(|k| k.len() as i32).collect();
        let (c, device, rows) = (self.config.hidden_size, &self.device, batch * longest);
        let packed = captions::pack(device, y, width, &kept, longest, self.dtype)?;
        let text = captions::projected(&packed, &self.caption_mlp)?;
        let heads = [2, self.config.num_heads, self.config.head_dim()];
        let mut weights = self.weights.stream(0..self.blocks.len())?;
        let kv = (0..self.blocks.len()).map(|i| {
            weights.take(i)?;
            let kv = Tensor::empty(device, &[rows, 2 * c], self.dtype)?;
            let Linear { weight, bias, .. } = &self.blocks[i].kv_linear;
            ops::linear::linear(&text, weight, Some(bias), None, Activation::None, &kv)?;
            Ok(kv.reshape(&[rows, heads[0], heads[1], heads[2]])?)
        });
        let kv = kv.collect::<Result<_, ModelError>>()?;
        Ok(Caption::new(kv, Tensor::from_slice(device, &[batch], &lengths)?, longest))
    }
}
