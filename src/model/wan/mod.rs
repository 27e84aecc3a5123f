//! Wan 2.1 and 2.2, text to video: blocks of self-attention over all tokens with rotary positions, cross-attention to the caption, and an
//! MLP, adaLN-modulated by the time. From Wan-Video/Wan2.1 and Wan2.2.

mod block;
mod caption;
mod config;
mod forward;
mod names;

use std::cell::Cell;
use std::collections::BTreeMap;

use self::block::Block;
pub use self::config::WanConfig;
use self::config::{PATCH, POSITIONS};
use super::dit::arena::{ALWAYS, Layout, Samples, Slot};
use super::dit::buffers::{self, BLOCK_CHUNKS, FINAL_CHUNKS, FREQUENCY_DIM, Sizes};
use super::dit::linear::{Linear, Loader};
use super::dit::pieces::{self, modulated_input};
use super::dit::streaming::BlockWeights;
use super::dit::time::TimeWeights;
use super::dit::work;
use super::lora;
use super::workspace::{TIME_CHUNKS, TIME_EMBED};
use super::{
    Added, Caption, Geometry, LoraFile, ModelError, ResidualRoom, Trace, Transformer, TransformerShape, WeightBytes,
    Weights, Workspace,
};
use crate::cache::{Anatomy, Module};
use crate::device::Device;
use crate::tensor::{DType, Tensor};

/// Chunks of an affine LayerNorm's table: shift and scale.
const AFFINE_CHUNKS: usize = 2;

/// The rotations of queries and keys: a buffer besides those that all adaLN-modulated models have.
const ROPE: Slot = Slot("rope");

/// The model on a device.
pub struct Wan {
    config: WanConfig,
    anatomy: Anatomy,
    device: Device,
    dtype: DType,
    patch_embed: Linear,
    time: TimeWeights,
    caption_mlp: [Linear; 2],
    weights: BlockWeights,
    blocks: Vec<Block>,
    /// Bytes of the weights outside the blocks' memory.
    end_bytes: usize,
    /// `[blocks, 1, 1, 2, C]` f32: the LayerNorm before each cross-attention, as a modulation: its bias, and its weight less 1.
    cross_norms: Tensor,
    final_linear: Linear,
}

impl Wan {
    /// Loads the model's weights onto `device`, stored and computed as `dtype` (bf16, f16 or f32). Tensors may have the published names or
    /// those of diffusers.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type than the configuration implies, or holds NaN or infinity; tensors that are left
    /// over; out of memory.
    pub fn load(device: &Device, config: WanConfig, weights: Weights<'_>, dtype: DType) -> Result<Wan, ModelError> {
        Wan::load_streaming(device, config, weights, dtype, 0)
    }

    /// Every tensor that a checkpoint of this shape holds, by its published name.
    ///
    /// # Errors
    /// A shape that overflows.
    pub fn tensors(config: &WanConfig) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
        Weights::taken_by(|dry, weights| Wan::take(dry, config.clone(), weights, DType::Bf16, 0))
    }

    /// `weights` with LoRAs added, for [`Wan::load`]. Their names may be the published ones, those of diffusers or kohya's.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not belong to these weights.
    pub fn adapted<'a>(weights: Weights<'a>, loras: &[LoraFile]) -> Result<Weights<'a>, ModelError> {
        lora::adapted(names::published(weights), loras, &names::of_either)
    }

    /// As [`Wan::load`], with the weights of `streamed` blocks in host memory. They are copied to the device when they are needed, into
    /// buffers for [`SLOTS`](super::SLOTS) blocks; the result is bit-identical.
    ///
    /// # Errors
    /// As [`Wan::load`]; more blocks to stream than there are.
    pub fn load_streaming(
        device: &Device,
        config: WanConfig,
        weights: Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<Wan, ModelError> {
        let weights = names::published(weights);
        let model = Wan::take(device, config, &weights, dtype, streamed)?;
        weights.finish(&[])?;
        Ok(model)
    }

    fn take(
        device: &Device,
        config: WanConfig,
        weights: &Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<Wan, ModelError> {
        let source = Loader { device, weights, dtype, bytes: Cell::new(0) };
        let (c, anatomy) = (config.dim, config.anatomy());
        let mlp = |name: &str, inputs: usize| -> Result<[Linear; 2], ModelError> {
            let second = Linear::load(&source, &format!("{name}.2"), c, c)?;
            Ok([Linear::load(&source, &format!("{name}.0"), c, inputs)?, second])
        };
        let [pt, ph, pw] = PATCH;
        let patch_weight = source.tensor("patch_embedding.weight", &[c, config.channels, pt, ph, pw])?;
        let patch = PATCH.iter().product::<usize>() * config.channels;
        let patch_embed = Linear {
            weight: patch_weight.reshape(&[c, patch])?,
            scales: None,
            bias: source.tensor("patch_embedding.bias", &[c])?,
        };
        let names: Vec<String> = (0..anatomy.blocks()).map(|block| format!("blocks.{block}")).collect();
        let (mut tables, mut norms) = (vec![], vec![]);
        for name in &names {
            tables.extend(weights.values(&format!("{name}.modulation"), &[1, BLOCK_CHUNKS, c])?);
            norms.extend(weights.values(&format!("{name}.norm3.bias"), &[c])?);
            norms.extend(weights.values(&format!("{name}.norm3.weight"), &[c])?.iter().map(|weight| weight - 1.0));
        }
        let final_table = weights.values("head.modulation", &[1, FINAL_CHUNKS, c])?;
        let parts = block::parts(&config, dtype, weights.fp8())?;
        let named: Vec<_> = names.into_iter().map(|name| (name, &parts)).collect();
        let block_weights = BlockWeights::load(&source, &named, streamed)?;
        let blocks = block_weights.memory().iter().map(|memory| Block::at(memory, &parts));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let f32 = DType::F32;
        let mut model = Wan {
            device: device.clone(),
            dtype,
            patch_embed,
            time: TimeWeights {
                mlp: mlp("time_embedding", FREQUENCY_DIM)?,
                projection: Linear::load(&source, "time_projection.1", BLOCK_CHUNKS * c, c)?,
                block_tables: source.values(&[blocks.len(), BLOCK_CHUNKS, c], &tables, f32)?,
                final_table: source.values(&[1, FINAL_CHUNKS, c], &final_table, f32)?,
            },
            caption_mlp: mlp("text_embedding", config.text_dim)?,
            weights: block_weights,
            end_bytes: 0,
            cross_norms: source.values(&[blocks.len(), 1, 1, AFFINE_CHUNKS, c], &norms, f32)?,
            final_linear: Linear::load(&source, "head.head", patch, c)?,
            blocks,
            anatomy,
            config,
        };
        model.end_bytes = source.bytes.get();
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// Tokens along (time, height, width) for a latent of the given size.
    fn tokens(geometry: &Geometry) -> [usize; 3] {
        let [pt, ph, pw] = PATCH;
        [geometry.frames.div_ceil(pt), geometry.height.div_ceil(ph), geometry.width.div_ceil(pw)]
    }

    /// Rejects sizes that the model or the kernels do not support.
    fn check(&self, geometry: &Geometry) -> Result<(), ModelError> {
        let Geometry { videos, frames, height, width, .. } = *geometry;
        let sizes = [("frames", frames, PATCH[0]), ("height", height, PATCH[1]), ("width", width, PATCH[2])];
        for (name, size, patch) in sizes {
            if size == 0 || !size.is_multiple_of(patch) || size / patch > POSITIONS {
                let most = POSITIONS * patch;
                return Err(ModelError::Input(format!(
                    "latent {name} is {size}, expected a multiple of {patch} from {patch} to {most}"
                )));
            }
        }
        let rows = [2, videos, frames, height / PATCH[1], width / PATCH[2]];
        // Row counts travel to the kernels as 32-bit integers.
        let rows = rows.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        if videos == 0 || rows.is_none_or(|rows| rows > i32::MAX as usize / 2) {
            return Err(ModelError::Input(format!(
                "{videos} × {frames} × {height} × {width} latents: none, or too many for 32-bit row numbers"
            )));
        }
        Ok(())
    }

    /// Its sizes at a geometry.
    fn sizes(&self, geometry: &Geometry) -> Sizes {
        Sizes {
            tokens: Wan::tokens(geometry),
            width: self.config.dim,
            hidden: self.config.ffn_dim,
            patch: PATCH.iter().product(),
            channels: [self.config.channels; 2],
            blocks: self.anatomy.blocks(),
            dtype: self.dtype,
            fp8: self.weights.fp8().is_some(),
        }
    }

    /// The table of all buffers of a generation.
    fn layout(&self, geometry: &Geometry, room: &ResidualRoom) -> Result<Layout, ModelError> {
        let mut table = buffers::layout(&self.device, geometry, &self.sizes(geometry), room)?;
        let positions = Wan::tokens(geometry).into_iter().max().unwrap_or(1);
        table.add_with(ROPE, Samples::None, &[positions, self.config.head_dim() / 2, 2], DType::F32, ALWAYS)?;
        Ok(table)
    }

    /// Cos and sin `[positions, head_dim/2, 2]` of every pair of a head at every position along the axis with which the pair turns. Angles
    /// are f64, as published.
    fn rotations(&self, positions: usize) -> Vec<f32> {
        let [frame, line] = self.config.rope_pairs();
        let frequency = |pair: usize, pairs: usize| 10000f64.powf(-(pair as f64) / pairs as f64);
        let axes = [frame, line, line];
        let frequencies: Vec<f64> =
            axes.into_iter().flat_map(|pairs| (0..pairs).map(move |pair| frequency(pair, pairs))).collect();
        let turn = |position: usize, frequency: &f64| {
            let angle = position as f64 * frequency;
            [angle.cos() as f32, angle.sin() as f32]
        };
        (0..positions).flat_map(|position| frequencies.iter().flat_map(move |f| turn(position, f))).collect()
    }
}

impl Transformer for Wan {
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
        let [t, h, w] = Wan::tokens(geometry);
        [geometry.batch(), t, h * w, self.config.dim]
    }

    fn workspace(&self, geometry: Geometry, room: &ResidualRoom) -> Result<Workspace, ModelError> {
        self.check(&geometry)?;
        let ws = Workspace::allocate(&self.device, geometry, Wan::tokens(&geometry), self.layout(&geometry, room)?)?;
        let rope = ws.get(ROPE);
        rope.write_f32(&self.rotations(rope.shape()[0]))?;
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
            trace.push(("time_embedding".into(), ws.get(TIME_EMBED).to_f32()?));
            trace.push(("time_projection".into(), ws.get(TIME_CHUNKS).to_f32()?));
        }
        Ok(())
    }

    fn embed(&self, ws: &Workspace, z: &Tensor, x: &Tensor, trace: Option<&mut Trace>) -> Result<(), ModelError> {
        pieces::embed_patches(ws, z, PATCH, &self.patch_embed, &ws.rows(x)?)?;
        if let Some(trace) = trace {
            trace.push(("patch_embedding".into(), x.to_f32()?));
        }
        Ok(())
    }

    fn modulated_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        modulated_input(ws, out)
    }

    fn module(
        &self,
        ws: &Workspace,
        caption: &Caption,
        module: usize,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        let (block, kind) = self.anatomy.at(module);
        match kind {
            Module::Attention => self.attention(ws, block, added),
            Module::Cross => self.cross(ws, block, caption, added),
            Module::Mlp => {
                let Block { fc1, fc2, .. } = &self.blocks[block];
                pieces::mlp(ws, block, [fc1, fc2], added)
            }
        }
    }

    fn finish(&self, ws: &Workspace) -> Result<(), ModelError> {
        pieces::final_layer(ws, PATCH, &self.final_linear)
    }

    fn flops(&self, geometry: &Geometry, caption_tokens: usize, runs: &dyn Fn(usize) -> bool) -> u64 {
        work::flops(&self.anatomy, &self.sizes(geometry), geometry.batch(), caption_tokens, runs)
    }
}
