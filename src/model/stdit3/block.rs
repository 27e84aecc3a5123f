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

/// The tensors of a block: name and shape, in memory order.
fn tensors(config: &StDiT3Config) -> Vec<(String, Vec<usize>)> {
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
    let linear =
        |(name, out, inputs)| [(format!("{name}.weight"), vec![out, inputs]), (format!("{name}.bias"), vec![out])];
    let norms = ["attn.q_norm", "attn.k_norm"].map(|name| (format!("{name}.weight"), vec![d]));
    linears.into_iter().flat_map(linear).chain(norms.into_iter().filter(|_| config.qk_norm)).collect()
}

/// Their offsets.
pub(super) fn parts(config: &StDiT3Config, dtype: DType) -> Result<Parts, TensorError> {
    let mut parts = Parts::new(dtype);
    for (name, shape) in tensors(config) {
        parts.add(&name, &shape)?;
    }
    Ok(parts)
}

impl Block {
    /// The block whose weights are in `memory`, laid out as `parts`.
    pub(super) fn at(memory: &Tensor, parts: &Parts) -> Result<Block, TensorError> {
        let mut tensors = parts.tensors(memory).collect::<Result<Vec<_>, _>>()?.into_iter();
        let mut next = || tensors.next().expect("every part has a tensor");
        let mut linear = || Linear { weight: next(), bias: next() };
        let (qkv, proj) = (linear(), linear());
        let (q_linear, kv_linear, cross_proj) = (linear(), linear(), linear());
        let (fc1, fc2) = (linear(), linear());
        let qk_norm = tensors.next().zip(tensors.next());
        Ok(Block { qkv, proj, qk_norm, q_linear, kv_linear, cross_proj, fc1, fc2 })
    }
}
