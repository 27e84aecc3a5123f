//! The transformers of Latte-1 and of Open-Sora-Plan 1.1: alternating spatial and temporal blocks, adaLN-modulated by the time. The spatial
//! ones read the caption. Positions are sinusoids that are added to the hidden state: where a token is in its frame to the embedded latents,
//! the frame's number before the first temporal block. From diffusers (`LatteTransformer3DModel`) and PKU-YuanGroup/Open-Sora-Plan
//! (`LatteT2V`).

mod block;
mod caption;
mod config;
mod position;

use std::cell::Cell;
use std::collections::BTreeMap;

use self::block::Block;
pub use self::config::{LatteConfig, LatteKind};
use self::config::{MLP_RATIO, PATCH};
use super::dit::arena::{ALWAYS, Layout, Samples, Slot};
use super::dit::buffers::{self, BLOCK_CHUNKS, FINAL_CHUNKS, FREQUENCY_DIM, Sizes};
use super::dit::linear::{Linear, Loader};
use super::dit::pieces::{self, Attention, modulated_input};
use super::dit::streaming::BlockWeights;
use super::dit::time::TimeWeights;
use super::dit::work;
use super::workspace::TIME_CHUNKS;
use super::{
    Added, Caption, Geometry, ModelError, ResidualRoom, Trace, Transformer, TransformerShape, WeightBytes, Weights,
    Workspace,
};
use crate::cache::{Anatomy, Module};
use crate::device::Device;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// The positions of a frame's tokens `[tokens, C]`, and those of the frames `[frames, C]`: buffers besides those that all adaLN-modulated
/// models have.
const POSITION: Slot = Slot("position");
const FRAME_POSITION: Slot = Slot("frame_position");

/// The first temporal block.
const FIRST_TEMPORAL: usize = 1;

/// The model on a device.
pub struct Latte {
    config: LatteConfig,
    anatomy: Anatomy,
    device: Device,
    dtype: DType,
    patch_embed: Linear,
    time: TimeWeights,
    caption_mlp: [Linear; 2],
    weights: BlockWeights,
    /// In execution order: spatial 0, temporal 0, spatial 1, …
    blocks: Vec<Block>,
    /// Bytes of the weights outside the blocks.
    end_bytes: usize,
    final_linear: Linear,
}

impl Latte {
    /// Loads the model's weights onto `device`, stored and computed as `dtype` (bf16, f16 or f32).
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type than the configuration implies, or holds NaN or infinity; tensors that are left
    /// over; out of memory.
    pub fn load(device: &Device, config: LatteConfig, weights: Weights<'_>, dtype: DType) -> Result<Latte, ModelError> {
        Latte::load_streaming(device, config, weights, dtype, 0)
    }

    /// Every tensor that a checkpoint of this shape holds, by its published name.
    ///
    /// # Errors
    /// A shape that overflows.
    pub fn tensors(config: &LatteConfig) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
        Weights::taken_by(|dry, weights| Latte::take(dry, config.clone(), weights, DType::Bf16, 0))
    }

    /// As [`Latte::load`], with the weights of `streamed` blocks (at most all of them, two for each layer) in host memory. They are copied
    /// to the device when they are needed, into buffers for [`SLOTS`](super::SLOTS) blocks; the result is bit-identical.
    ///
    /// # Errors
    /// As [`Latte::load`]; more blocks to stream than there are.
    pub fn load_streaming(
        device: &Device,
        config: LatteConfig,
        weights: Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<Latte, ModelError> {
        let model = Latte::take(device, config, &weights, dtype, streamed)?;
        // Open-Sora-Plan's caption for training without one, and the tables of positions, which are computed here.
        weights.finish(&["caption_projection.y_embedding", "pos_embed.pos_embed", "temp_pos_embed"])?;
        Ok(model)
    }

    fn take(
        device: &Device,
        config: LatteConfig,
        weights: &Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<Latte, ModelError> {
        let source = Loader { device, weights, dtype, bytes: Cell::new(0) };
        let (c, anatomy) = (config.hidden_size(), config.anatomy());
        let mlp = |name: &str, inputs: usize| -> Result<[Linear; 2], ModelError> {
            let second = Linear::load(&source, &format!("{name}.linear_2"), c, c)?;
            Ok([Linear::load(&source, &format!("{name}.linear_1"), c, inputs)?, second])
        };
        let [_, ph, pw] = PATCH;
        let patch_weight = source.tensor("pos_embed.proj.weight", &[c, config.in_channels, ph, pw])?;
        let patch_embed = Linear {
            weight: patch_weight.reshape(&[c, config.in_channels * ph * pw])?,
            scales: None,
            bias: source.tensor("pos_embed.proj.bias", &[c])?,
        };
        let (spatial, temporal) =
            (block::parts(&config, true, dtype, weights.fp8())?, block::parts(&config, false, dtype, weights.fp8())?);
        let named: Vec<_> = (0..config.num_layers)
            .flat_map(|layer| {
                [
                    (format!("transformer_blocks.{layer}"), &spatial),
                    (format!("temporal_transformer_blocks.{layer}"), &temporal),
                ]
            })
            .collect();
        let mut tables = Vec::with_capacity(named.len() * BLOCK_CHUNKS * c);
        for (name, _) in &named {
            tables.extend(weights.values(&format!("{name}.scale_shift_table"), &[BLOCK_CHUNKS, c])?);
        }
        let final_table = weights.values("scale_shift_table", &[FINAL_CHUNKS, c])?;
        let block_weights = BlockWeights::load(&source, &named, streamed)?;
        let blocks = block_weights.memory().iter().zip(&named).map(|(memory, (_, parts))| Block::at(memory, parts));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let f32 = DType::F32;
        let mut model = Latte {
            device: device.clone(),
            dtype,
            patch_embed,
            time: TimeWeights {
                mlp: mlp("adaln_single.emb.timestep_embedder", FREQUENCY_DIM)?,
                projection: Linear::load(&source, "adaln_single.linear", BLOCK_CHUNKS * c, c)?,
                block_tables: source.values(&[blocks.len(), BLOCK_CHUNKS, c], &tables, f32)?,
                final_table: source.values(&[1, FINAL_CHUNKS, c], &final_table, f32)?,
            },
            caption_mlp: mlp("caption_projection", config.caption_channels)?,
            weights: block_weights,
            blocks,
            end_bytes: 0,
            final_linear: Linear::load(&source, "proj_out", ph * pw * config.out_channels, c)?,
            anatomy,
            config,
        };
        model.end_bytes = source.bytes.get();
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &LatteConfig {
        &self.config
    }

    /// Rejects sizes that the model or the kernels do not support.
    fn check(&self, geometry: &Geometry) -> Result<(), ModelError> {
        let Geometry { videos, frames, height, width, .. } = *geometry;
        self.config.check_frames(frames)?;
        let [_, ph, pw] = PATCH;
        for (name, size, patch) in [("height", height, ph), ("width", width, pw)] {
            if size == 0 || !size.is_multiple_of(patch) {
                let reason = format!("latent {name} is {size}, expected a multiple of {patch} from {patch} on");
                return Err(ModelError::Input(reason));
            }
        }
        // Row counts travel to the kernels as 32-bit integers.
        let rows = [2, videos, frames, height / ph, width / pw].iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        if videos == 0 || rows.is_none_or(|rows| rows > i32::MAX as usize / 2) {
            return Err(ModelError::Input(format!(
                "{videos} × {frames} × {height} × {width} latents: none, or too many for 32-bit row numbers"
            )));
        }
        Ok(())
    }

    /// Its sizes at a geometry.
    fn sizes(&self, geometry: &Geometry) -> Sizes {
        Sizes { fp8: self.weights.fp8().is_some(), ..self.config.sizes(geometry, self.dtype) }
    }

    /// The table of all buffers of a generation.
    fn layout(&self, geometry: &Geometry, room: &ResidualRoom) -> Result<Layout, ModelError> {
        let ([t, h, w], c) = (LatteConfig::tokens(geometry), self.config.hidden_size());
        let mut table = buffers::layout(&self.device, geometry, &self.sizes(geometry), room)?;
        table.add_with(POSITION, Samples::None, &[h * w, c], DType::F32, ALWAYS)?;
        table.add_with(FRAME_POSITION, Samples::None, &[t, c], DType::F32, ALWAYS)?;
        Ok(table)
    }
}

impl Transformer for Latte {
    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    fn shape(&self) -> TransformerShape {
        self.config.shape()
    }

    fn weights(&self) -> &BlockWeights {
        &self.weights
    }

    fn weight_bytes(&self) -> WeightBytes {
        self.weights.with_ends(self.end_bytes)
    }

    /// Empty: the unconditional half reads a negative prompt.
    fn null_caption(&self) -> &[f32] {
        &[]
    }

    fn hidden_shape(&self, geometry: &Geometry) -> [usize; 4] {
        let [t, h, w] = LatteConfig::tokens(geometry);
        [geometry.batch(), t, h * w, self.config.hidden_size()]
    }

    fn workspace(&self, geometry: Geometry, room: &ResidualRoom) -> Result<Workspace, ModelError> {
        self.check(&geometry)?;
        let tokens @ [t, h, w] = LatteConfig::tokens(&geometry);
        let ws = Workspace::allocate(&self.device, geometry, tokens, self.layout(&geometry, room)?)?;
        ws.get(POSITION).write_f32(&position::of_tokens(&self.config, [h, w]))?;
        ws.get(FRAME_POSITION).write_f32(&position::of_frames(&self.config, t))?;
        Ok(ws)
    }

    fn caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        self.encode_caption(y, batch, mask)
    }

    fn embed_time(&self, ws: &Workspace) -> Result<(), ModelError> {
        self.time.embed(ws, None)
    }

    fn modulate(&self, ws: &Workspace, trace: Option<&mut Trace>) -> Result<(), ModelError> {
        self.time.modulate(ws)?;
        if let Some(trace) = trace {
            trace.push(("t_block".into(), ws.get(TIME_CHUNKS).to_f32()?));
        }
        Ok(())
    }

    fn embed(&self, ws: &Workspace, z: &Tensor, x: &Tensor, trace: Option<&mut Trace>) -> Result<(), ModelError> {
        let rows = ws.rows(x)?;
        pieces::embed_patches(ws, z, PATCH, &self.patch_embed, &rows)?;
        ops::embed::position_add(&rows, ws.get(POSITION))?;
        if let Some(trace) = trace {
            trace.push(("pos_embed".into(), x.to_f32()?));
        }
        Ok(())
    }

    fn modulated_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        modulated_input(ws, out)
    }

    /// The frames' positions, before the first temporal block. A single frame has none.
    fn before(&self, ws: &Workspace, module: usize) -> Result<(), ModelError> {
        let [frames, tokens] = [ws.dims().frames, ws.dims().tokens];
        if frames == 1 || module != self.anatomy.run(FIRST_TEMPORAL..FIRST_TEMPORAL + 1).start {
            return Ok(());
        }
        let (x, table) = (ws.rows(ws.x())?, ws.get(FRAME_POSITION));
        for frame in 0..ws.dims().batch * frames {
            ops::embed::position_add(&x.slice_rows(frame * tokens, tokens)?, &table.slice_rows(frame % frames, 1)?)?;
        }
        Ok(())
    }

    fn module(
        &self,
        ws: &Workspace,
        caption: &Caption,
        module: usize,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        let (index, kind) = self.anatomy.at(module);
        let (Block { qkv, proj, cross, fc1, fc2 }, heads) = (&self.blocks[index], self.config.num_heads);
        match (kind, cross) {
            (Module::Attention, _) => {
                let call = Attention { qkv, proj, heads, norm: None, rope: None };
                pieces::attention(ws, index, self.anatomy.span(index), call, added)
            }
            (Module::Cross, Some(cross)) => {
                let kv = &caption.kv[self.anatomy.layer(index)];
                pieces::cross(ws, [&cross.q, &cross.proj], heads, (caption, kv), added)
            }
            // A block without cross-attention has no such module.
            (Module::Cross, None) | (Module::Mlp, _) => pieces::mlp(ws, index, [fc1, fc2], added),
        }
    }

    fn finish(&self, ws: &Workspace) -> Result<(), ModelError> {
        pieces::final_layer(ws, PATCH, &self.final_linear)
    }

    fn flops(&self, geometry: &Geometry, caption_tokens: usize, runs: &dyn Fn(usize) -> bool) -> u64 {
        work::flops(&self.anatomy, &self.sizes(geometry), geometry.batch(), caption_tokens, runs)
    }
}
