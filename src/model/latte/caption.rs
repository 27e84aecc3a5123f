//! Captions: projected once per generation, then turned into the keys and values of every spatial block.

use super::{Latte, Linear};
use crate::model::dit::captions;
use crate::model::{Caption, ModelError};
use crate::ops::{self, linear::Activation};
use crate::tensor::Tensor;

impl Latte {
    /// Captions `y` (`[batch, length, caption_channels]`, f32) projected to the model's width, as `[batch·longest, C]`, and the number of
    /// tokens of each.
    ///
    /// `mask` (`[batch, length]`) is true for the tokens of a sample to keep; without it all are kept. The model itself knows no mask: what
    /// it attends to is what it is given.
    pub(crate) fn project_caption(
        &self,
        y: &[f32],
        batch: usize,
        mask: Option<&[bool]>,
    ) -> Result<(Tensor, Vec<i32>), ModelError> {
        let width = self.config.caption_channels;
        let kept = captions::kept(y, batch, width, mask)?;
        let longest = kept.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let packed = captions::pack(&self.device, y, width, &kept, longest, self.dtype)?;
        let lengths = kept.iter().map(|tokens| tokens.len() as i32).collect();
        Ok((captions::projected(&packed, &self.caption_mlp)?, lengths))
    }

    /// Encodes captions for every block that reads them.
    pub(super) fn encode_caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        let (text, lengths) = self.project_caption(y, batch, mask)?;
        let (rows, c) = (text.shape()[0], self.config.hidden_size());
        let readers = || self.blocks.iter().enumerate().filter_map(|(i, block)| Some((i, block.cross.as_ref()?)));
        let mut weights = self.weights.stream(readers().map(|(i, _)| i))?;
        let kv = readers().map(|(i, cross)| {
            weights.take(i)?;
            let kv = Tensor::empty(&self.device, &[rows, 2 * c], self.dtype)?;
            let Linear { weight, bias, .. } = &cross.kv;
            ops::linear::linear(&text, weight, Some(bias), None, Activation::None, &kv)?;
            Ok(kv.reshape(&[rows, 2, self.config.num_heads, self.config.head_dim])?)
        });
        let kv = kv.collect::<Result<_, ModelError>>()?;
        Ok(Caption::new(kv, Tensor::from_slice(&self.device, &[batch], &lengths)?, rows / batch))
    }
}
