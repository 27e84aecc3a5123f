//! The weights of one block, by their published names.

use super::StDiT3Config;
use crate::model::dit::linear::Linear;
use crate::model::dit::parts::Parts;
use crate::tensor::{DType, Tensor, TensorError};

pub(super) struct Block {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
    pub(super) qk_norm: Option<(Tensor, Tensor)>,
    pub(super) q_linear: Linear,
    pub(super) kv_linear: Linear,
    pub(super) cross_proj: Linear,
    pub(super) fc1: Linear,
    pub(super) fc2: Linear,
}

/// The offsets of a block's tensors.
pub(super) fn parts(config: &StDiT3Config, dtype: DType, fp8: bool) -> Result<Parts, TensorError> {
    let (c, hidden, d) = (config.hidden_size, config.mlp_hidden(), config.head_dim());
    let linears = [
        ("attn.qkv", 3 * c, c),
        ("attn.proj", c, c),
        ("cross_attn.q_linear", c, c),
        ("cross_attn.kv_linear", 2 * c, c),
        ("cross_attn.proj", c, c),
        ("mlp.fc1", hidden, c),
        ("mlp.fc2", c, hidden),
    ];
    let mut parts = Parts::new(dtype, fp8);
    for (name, out, inputs) in linears {
        // Of the caption there are a few rows.
        match name {
            "cross_attn.kv_linear" => parts.add_linears(&[name], out, inputs)?,
            _ => parts.add_products(&[name], out, inputs)?,
        }
    }
    if config.qk_norm {
        for name in ["attn.q_norm", "attn.k_norm"] {
            parts.add(&format!("{name}.weight"), &[d])?;
        }
    }
    Ok(parts)
}

impl Block {
    /// The block whose weights are in `memory`, laid out as `parts`.
    pub(super) fn at(memory: &Tensor, parts: &Parts) -> Result<Block, TensorError> {
        let mut tensors = parts.tensors(memory)?;
        let mut linear = || tensors.linear().expect("every part has a tensor");
        let (qkv, proj) = (linear(), linear());
        let (q_linear, kv_linear, cross_proj) = (linear(), linear(), linear());
        let (fc1, fc2) = (linear(), linear());
        let qk_norm = tensors.tensor().zip(tensors.tensor());
        Ok(Block { qkv, proj, qk_norm, q_linear, kv_linear, cross_proj, fc1, fc2 })
    }
}
