//! The weights of one block, by their published names.

use super::WanConfig;
use crate::model::dit::linear::Linear;
use crate::model::dit::parts::Parts;
use crate::tensor::{DType, Tensor, TensorError};

/// A block. The cross-attention's LayerNorm is in [`Wan`](super::Wan).
pub(super) struct Block {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
    pub(super) q_norm: Tensor,
    pub(super) k_norm: Tensor,
    pub(super) cross_q: Linear,
    pub(super) cross_kv: Linear,
    pub(super) cross_proj: Linear,
    pub(super) cross_q_norm: Tensor,
    pub(super) cross_k_norm: Tensor,
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
}

/// The offsets of a block's tensors. The published ones of q, k and v lie in one matrix.
pub(super) fn parts(config: &WanConfig, dtype: DType, fp8: bool) -> Result<Parts, TensorError> {
    let (c, hidden) = (config.dim, config.ffn_dim);
    let linears: [(&[&str], usize, usize); 7] = [
        (&["self_attn.q", "self_attn.k", "self_attn.v"], c, c),
        (&["self_attn.o"], c, c),
        (&["cross_attn.q"], c, c),
        (&["cross_attn.k", "cross_attn.v"], c, c),
        (&["cross_attn.o"], c, c),
        (&["ffn.0"], hidden, c),
        (&["ffn.2"], c, hidden),
    ];
    let mut parts = Parts::new(dtype, fp8);
    for (names, out, inputs) in linears {
        // Of the caption there are a few rows.
        match names {
            ["cross_attn.k", ..] => parts.add_linears(names, out, inputs)?,
            _ => parts.add_products(names, out, inputs)?,
        }
    }
    for name in ["self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k"] {
        parts.add(&format!("{name}.weight"), &[c])?;
    }
    Ok(parts)
}

impl Block {
    /// The block whose weights are in `memory`, laid out as `parts`.
    pub(super) fn at(memory: &Tensor, parts: &Parts) -> Result<Block, TensorError> {
        let mut tensors = parts.tensors(memory)?;
        let every = "every part has a tensor";
        let mut linear = || tensors.linear().expect(every);
        let (qkv, proj) = (linear(), linear());
        let (cross_q, cross_kv, cross_proj) = (linear(), linear(), linear());
        let (fc1, fc2) = (linear(), linear());
        let mut next = || tensors.tensor().expect(every);
        let (q_norm, k_norm, cross_q_norm, cross_k_norm) = (next(), next(), next(), next());
        Ok(Block { qkv, proj, q_norm, k_norm, cross_q, cross_kv, cross_proj, cross_q_norm, cross_k_norm, fc1, fc2 })
    }
}
