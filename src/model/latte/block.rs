//! The weights of one block, by their published names.

use super::{LatteConfig, MLP_RATIO};
use crate::model::dit::linear::Linear;
use crate::model::dit::parts::Parts;
use crate::tensor::{DType, Tensor, TensorError};

/// A block; only the spatial ones have cross-attention.
pub(super) struct Block {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
    pub(super) cross: Option<Cross>,
}

/// The weights of a cross-attention.
pub(super) struct Cross {
    pub(super) q: Linear,
    pub(super) kv: Linear,
    pub(super) proj: Linear,
}

/// The offsets of the tensors of a block, with cross-attention if it is `spatial`. The published ones of q, k and v lie in one matrix.
pub(super) fn parts(config: &LatteConfig, spatial: bool, dtype: DType, fp8: bool) -> Result<Parts, TensorError> {
    let (c, hidden) = (config.hidden_size(), MLP_RATIO * config.hidden_size());
    let own: [(&[&str], usize, usize); 4] = [
        (&["attn1.to_q", "attn1.to_k", "attn1.to_v"], c, c),
        (&["attn1.to_out.0"], c, c),
        (&["ff.net.0.proj"], hidden, c),
        (&["ff.net.2"], c, hidden),
    ];
    let cross: [(&[&str], usize, usize); 3] =
        [(&["attn2.to_q"], c, c), (&["attn2.to_k", "attn2.to_v"], c, c), (&["attn2.to_out.0"], c, c)];
    let mut parts = Parts::new(dtype, fp8);
    for (names, out, inputs) in own.into_iter().chain(cross.into_iter().filter(|_| spatial)) {
        // Of the caption there are a few rows.
        match names {
            ["attn2.to_k", ..] => parts.add_linears(names, out, inputs)?,
            _ => parts.add_products(names, out, inputs)?,
        }
    }
    Ok(parts)
}

impl Block {
    /// The block whose weights are in `memory`, laid out as `parts`.
    pub(super) fn at(memory: &Tensor, parts: &Parts) -> Result<Block, TensorError> {
        let mut tensors = parts.tensors(memory)?;
        let mut linear = || tensors.linear();
        let own = "every block has these parts";
        let [qkv, proj, fc1, fc2] = [linear(), linear(), linear(), linear()].map(|linear| linear.expect(own));
        let cross = linear().zip(linear()).zip(linear()).map(|((q, kv), proj)| Cross { q, kv, proj });
        Ok(Block { qkv, proj, fc1, fc2, cross })
    }
}
