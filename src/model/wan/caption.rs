//! Captions: projected once per generation, then turned into every block's keys and values.

use super::Wan;
use crate::model::dit::captions;
use crate::model::dit::linear::Linear;
use crate::model::dit::pieces::NORM_EPS;
use crate::model::{Caption, ModelError};
use crate::ops::{self, linear::Activation};
use crate::tensor::Tensor;

impl Wan {
    /// Encodes captions `y` (`[batch, length, text_dim]`, f32) for every block. `mask` (`[batch, length]`) is true for the tokens to keep.
    ///
    /// The model pads every caption with rows of zeros up to `text_len` and attends to all of them. Those rows are equal, so one of them is
    /// kept, and the logarithm of their number is added to its score.
    pub(super) fn encode_caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        let (width, limit) = (self.config.text_dim, self.config.text_len);
        let kept = captions::kept(y, batch, width, mask)?;
        if let Some(tokens) = kept.iter().map(Vec::len).find(|&tokens| tokens > limit) {
            return Err(ModelError::Input(format!("a caption of {tokens} tokens, the model takes {limit}")));
        }
        // A row of the padding, where there is any.
        let rows_of = |tokens: &Vec<i32>| tokens.len() + usize::from(tokens.len() < limit);
        let longest = kept.iter().map(rows_of).max().unwrap_or(1);
        let padded = |tokens: &Vec<i32>| ((limit - tokens.len()).max(1) as f32).ln();
        let lengths: Vec<i32> = kept.iter().map(|tokens| rows_of(tokens) as i32).collect();
        let padding: Vec<f32> = kept.iter().map(padded).collect();

        let device = &self.device;
        let packed = captions::pack(device, y, width, &kept, longest, self.dtype)?;
        let (c, rows) = (self.config.dim, batch * longest);
        let text = captions::projected(&packed, &self.caption_mlp)?;
        let mut weights = self.weights.stream(0..self.blocks.len())?;
        let kv = (0..self.blocks.len()).map(|i| {
            weights.take(i)?;
            let block = &self.blocks[i];
            let kv = Tensor::empty(device, &[rows, 2 * c], self.dtype)?;
            let Linear { weight, bias, .. } = &block.cross_kv;
            ops::linear::linear(&text, weight, Some(bias), None, Activation::None, &kv)?;
            let kv = kv.reshape(&[rows, 2, self.config.num_heads, self.config.head_dim()])?;
            ops::norm::rms_rope(&kv, &[&block.cross_k_norm], NORM_EPS, None)?;
            Ok(kv)
        });
        let kv = kv.collect::<Result<_, ModelError>>()?;
        let lengths = Tensor::from_slice(device, &[batch], &lengths)?;
        let padding = Tensor::from_slice(device, &[batch], &padding)?;
        Ok(Caption::new(kv, lengths, longest).with_last_bias(padding))
    }
}
