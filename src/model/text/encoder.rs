//! The encoder of T5 v1.1 and umT5: blocks of self-attention with a bias by distance, and a gated MLP; no other positions, no
//! scaled scores, no biases of layers. T5's blocks share the first one's table of biases, umT5's have one each.

use std::cell::Cell;

use super::config::T5Config;
use super::names::{TOKENS, TOKENS_AGAIN, published};
use crate::device::Device;
use crate::model::dit::linear::Loader;
use crate::model::dit::parts::Parts;
use crate::model::dit::pieces::NORM_EPS;
use crate::model::dit::streaming::BlockWeights;
use crate::model::{ModelError, Trace, WeightBytes, Weights};
use crate::ops::linear::{Activation, linear, linear_residual};
use crate::ops::{attention, embed, norm};
use crate::tensor::{DType, Tensor, TensorError};

const BIAS: &str = "layer.0.SelfAttention.relative_attention_bias.weight";

/// The weights of one block.
struct Block {
    qkv: Tensor,
    proj: Tensor,
    gate_up: [Tensor; 2],
    down: Tensor,
    norms: [Tensor; 2],
}

/// The encoder on a device.
pub struct T5Encoder<'a> {
    config: T5Config,
    device: Device,
    dtype: DType,
    /// Rows of the token table are read from here as they are needed.
    file: Weights<'a>,
    weights: BlockWeights,
    blocks: Vec<Block>,
    end_bytes: usize,
    /// The relative biases `[buckets, heads]` of every block, or of all of them.
    biases: Vec<Vec<f32>>,
    final_norm: Tensor,
}

impl<'a> T5Encoder<'a> {
    /// Loads the encoder onto `device`, computed as `dtype`, with the weights of `streamed` blocks in host memory. Tensors may have the
    /// names of transformers, of Wan's published checkpoints or of llama.cpp (see [`published`]).
    ///
    /// The residual stream of large encoders leaves the range of f16: they are meant for bf16 and f32.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type than the configuration implies, or holds NaN or infinity; tensors that are left
    /// over; out of memory.
    pub fn load(
        device: &Device,
        config: T5Config,
        weights: Weights<'a>,
        dtype: DType,
        streamed: usize,
    ) -> Result<T5Encoder<'a>, ModelError> {
        let file = published(weights);
        let source = Loader { device, weights: &file, dtype, bytes: Cell::new(0) };
        let names: Vec<String> = (0..config.layers).map(|block| format!("encoder.block.{block}")).collect();
        let own = |name: &String| file.has(&format!("{name}.{BIAS}"));
        let tables = names.iter().enumerate().filter(|(block, name)| *block == 0 || own(name));
        let tables = tables.map(|(_, name)| file.values(&format!("{name}.{BIAS}"), &[config.buckets, config.heads]));
        let biases = tables.collect::<Result<Vec<_>, _>>()?;
        if biases.len() != 1 && biases.len() != config.layers {
            let reason = format!("{} of {} blocks have relative biases: one or all", biases.len(), config.layers);
            return Err(ModelError::Config { file: file.file().into(), reason });
        }
        let parts = parts(&config, dtype)?;
        let named: Vec<_> = names.into_iter().map(|name| (name, &parts)).collect();
        let block_weights = BlockWeights::load(&source, &named, streamed)?;
        let blocks = block_weights.memory().iter().map(|memory| Block::at(memory, &parts));
        let blocks = blocks.collect::<Result<_, TensorError>>()?;
        let final_norm = source.tensor("encoder.final_layer_norm.weight", &[config.width])?;
        let end_bytes = source.bytes.get();
        file.finish(&[TOKENS, TOKENS_AGAIN])?;
        Ok(T5Encoder {
            device: device.clone(),
            dtype,
            weights: block_weights,
            blocks,
            end_bytes,
            biases,
            final_norm,
            config,
            file,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Bytes of its weights; the token table stays in its file.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weights.with_ends(self.end_bytes)
    }

    /// Encodes tokens: `[tokens, width]`. `trace`, if given, receives the tokens after every block.
    ///
    /// # Errors
    /// No token, or one that is not in the table; out of memory.
    pub fn encode(&self, ids: &[u32], trace: Option<&mut Trace>) -> Result<Vec<f32>, ModelError> {
        self.encode_padded(ids, ids.len(), trace)
    }

    /// As [`T5Encoder::encode`], where all but the first `real` tokens are padding: nothing attends to them.
    ///
    /// # Errors
    /// As [`T5Encoder::encode`]; no real token, or more than there are.
    pub fn encode_padded(
        &self,
        ids: &[u32],
        real: usize,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, ModelError> {
        let T5Config { vocabulary, width, heads, head_dim, hidden, .. } = self.config;
        let n = ids.len();
        if n == 0 {
            return Err(ModelError::Input("no tokens to encode".into()));
        }
        let tokens = self.file.rows(TOKENS, [vocabulary, width], ids)?;
        let empty = |columns: usize| Tensor::empty(&self.device, &[n, columns], self.dtype);
        let x = Tensor::from_f32(&self.device, &[n, width], &tokens, self.dtype)?;
        let (normed, qkv, attended) = (empty(width)?, empty(3 * heads * head_dim)?, empty(heads * head_dim)?);
        let (gate, up) = (empty(hidden)?, empty(hidden)?);
        let biases = self.biases.iter().map(|table| self.distances(table, n)).collect::<Result<Vec<_>, _>>()?;
        let mut weights = self.weights.stream(0..self.blocks.len())?;
        for (i, block) in self.blocks.iter().enumerate() {
            weights.take(i)?;
            self.norm(&x, &block.norms[0], &normed)?;
            linear(&normed, &block.qkv, None, None, Activation::None, &qkv)?;
            let packed = qkv.reshape(&[n, 3, heads, head_dim])?;
            attention::biased(&packed, real, &biases[i % biases.len()], &attended)?;
            linear_residual(&attended, &block.proj, None, None, &x, None)?;
            self.norm(&x, &block.norms[1], &normed)?;
            linear(&normed, &block.gate_up[0], None, None, Activation::GeluTanh, &gate)?;
            linear(&normed, &block.gate_up[1], None, None, Activation::None, &up)?;
            embed::multiply(&gate, &up, &gate)?;
            linear_residual(&gate, &block.down, None, None, &x, None)?;
            if let Some(trace) = trace.as_deref_mut() {
                trace.push((format!("blocks.{i}"), x.to_f32()?));
            }
        }
        self.norm(&x, &self.final_norm, &normed)?;
        Ok(normed.to_f32()?)
    }

    /// `out = RMSNorm(x) · weight`
    fn norm(&self, x: &Tensor, weight: &Tensor, out: &Tensor) -> Result<(), ModelError> {
        out.copy_from(x)?;
        let rows = out.reshape(&[x.shape()[0], 1, 1, self.config.width])?;
        Ok(norm::rms_rope(&rows, &[weight], NORM_EPS, None)?)
    }

    /// The biases `[heads, 2·n − 1]` by distance from query to key, from −(n − 1) on.
    fn distances(&self, table: &[f32], n: usize) -> Result<Tensor, ModelError> {
        let heads = self.config.heads;
        let buckets: Vec<usize> = (1 - n as isize..n as isize).map(|distance| self.config.bucket(distance)).collect();
        let biases = (0..heads).flat_map(|head| buckets.iter().map(move |bucket| table[bucket * heads + head]));
        Ok(Tensor::from_f32(&self.device, &[heads, 2 * n - 1], &biases.collect::<Vec<_>>(), DType::F32)?)
    }
}

/// The offsets of a block's tensors. The published ones of q, k and v lie in one matrix.
fn parts(config: &T5Config, dtype: DType) -> Result<Parts, TensorError> {
    let (c, inner, hidden) = (config.width, config.heads * config.head_dim, config.hidden);
    let attention = |name: &str| format!("layer.0.SelfAttention.{name}.weight");
    let mlp = |name: &str| format!("layer.1.DenseReluDense.{name}.weight");
    let mut parts = Parts::new(dtype, false);
    parts.add_joined(&["q", "k", "v"].map(attention), &[inner, c])?;
    parts.add(&attention("o"), &[c, inner])?;
    parts.add(&mlp("wi_0"), &[hidden, c])?;
    parts.add(&mlp("wi_1"), &[hidden, c])?;
    parts.add(&mlp("wo"), &[c, hidden])?;
    parts.add("layer.0.layer_norm.weight", &[c])?;
    parts.add("layer.1.layer_norm.weight", &[c])?;
    Ok(parts)
}

impl Block {
    /// The block whose weights are in `memory`, laid out as `parts`.
    fn at(memory: &Tensor, parts: &Parts) -> Result<Block, TensorError> {
        let mut tensors = parts.tensors(memory)?;
        let mut next = || tensors.tensor().expect("every part has a tensor");
        let (qkv, proj) = (next(), next());
        let (gate_up, down) = ([next(), next()], next());
        Ok(Block { qkv, proj, gate_up, down, norms: [next(), next()] })
    }
}
