//! STDiT3, the transformer of Open-Sora 1.2: alternating spatial and temporal blocks, adaLN-modulated by time and frame rate, with
//! cross-attention to the caption.

mod block;
mod caption;
mod config;
mod forward;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;

use self::block::Block;
pub use self::config::StDiT3Config;
use super::dit::arena::{ALWAYS, Layout, Samples, Slot, Stage};
use super::dit::buffers::{self, BLOCK_CHUNKS, FINAL_CHUNKS, FREQUENCY_DIM, Sizes};
use super::dit::linear::{Linear, Loader};
use super::dit::pieces::{embed_scalar, modulated_input};
use super::dit::streaming::BlockWeights;
use super::dit::time::{TimeWeights, scratch};
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

// The buffers of a forward, beside those that all adaLN-modulated models have.
/// The normalised input of the final layer `[rows, C]`, if frames may be held.
const NORMED: Slot = Slot("normed");
const POSITION: Slot = Slot("position");
const ROPE: Slot = Slot("rope");
const FPS_EMBED: Slot = Slot("fps_embed");

/// The model on a device.
pub struct StDiT3 {
    config: StDiT3Config,
    anatomy: Anatomy,
    device: Device,
    dtype: DType,
    patch_embed: Linear,
    time: TimeWeights,
    fps_mlp: [Linear; 2],
    caption_mlp: [Linear; 2],
    null_caption: Vec<f32>,
    /// `[half]` f32: tiny frequencies do not survive f16.
    rope_freqs: Tensor,
    weights: BlockWeights,
    /// In execution order: spatial 0, temporal 0, spatial 1, …
    blocks: Vec<Block>,
    /// Bytes of the weights outside the blocks.
    end_bytes: usize,
    final_linear: Linear,
}

impl StDiT3 {
    /// Loads the model's weights onto `device`, stored and computed as `dtype` (bf16, f16 or f32).
    ///
    /// Fails if a tensor is missing, has another shape or type than the configuration implies, or holds NaN or infinity, or if tensors are
    /// left over.
    pub fn load(
        device: &Device,
        config: StDiT3Config,
        weights: Weights<'_>,
        dtype: DType,
    ) -> Result<StDiT3, ModelError> {
        StDiT3::load_streaming(device, config, weights, dtype, 0)
    }

    /// As [`StDiT3::load`], with the weights of `streamed` blocks (at most all of them, 2·depth) in host memory. They are copied to the
    /// device when they are needed, into buffers for [`SLOTS`](super::SLOTS) blocks; the result is bit-identical.
    pub fn load_streaming(
        device: &Device,
        config: StDiT3Config,
        weights: Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<StDiT3, ModelError> {
        let model = StDiT3::take(device, config, &weights, dtype, streamed)?;
        // A constant buffer that some published files carry; the position table is computed on the device instead.
        weights.finish(&["pos_embed.inv_freq"])?;
        Ok(model)
    }

    /// The names and shapes of all tensors that a checkpoint of this shape must hold.
    ///
    /// # Errors
    /// A configuration whose sizes overflow.
    pub fn tensors(config: &StDiT3Config) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
        Weights::taken_by(|dry, weights| StDiT3::take(dry, config.clone(), weights, DType::Bf16, 0))
    }

    fn take(
        device: &Device,
        config: StDiT3Config,
        weights: &Weights<'_>,
        dtype: DType,
        streamed: usize,
    ) -> Result<StDiT3, ModelError> {
        // Long, but a list: one entry for each part of the network.
        let source = Loader { device, weights, dtype, bytes: Cell::new(0) };
        let anatomy = config.anatomy();
        let (c, d) = (config.hidden_size, config.head_dim());
        let patch = config.patch_volume();
        let [pt, ph, pw] = config.patch_size;
        let mlp = |name: &str, inputs: usize, parts: [&str; 2]| -> Result<[Linear; 2], ModelError> {
            Ok([
                Linear::load(&source, &format!("{name}.{}", parts[0]), c, inputs)?,
                Linear::load(&source, &format!("{name}.{}", parts[1]), c, c)?,
            ])
        };
        let patch_weight = source.tensor("x_embedder.proj.weight", &[c, config.in_channels, pt, ph, pw])?;
        let patch_embed = Linear {
            weight: patch_weight.reshape(&[c, config.in_channels * patch])?,
            scales: None,
            bias: source.tensor("x_embedder.proj.bias", &[c])?,
        };
        let name = |block| format!("{}_blocks.{}", anatomy.span(block).name(), anatomy.layer(block));
        let names: Vec<String> = (0..anatomy.blocks()).map(name).collect();
        let mut tables = Vec::with_capacity(names.len() * BLOCK_CHUNKS * c);
        for name in &names {
            tables.extend(weights.values(&format!("{name}.scale_shift_table"), &[BLOCK_CHUNKS, c])?);
        }
        let final_table = weights.values("final_layer.scale_shift_table", &[FINAL_CHUNKS, c])?;
        let rope_freqs = weights.values("rope.freqs", &[d / 2])?;
        let null_shape = [config.model_max_length, config.caption_channels];
        let time_mlp = mlp("t_embedder", FREQUENCY_DIM, ["mlp.0", "mlp.2"])?;
        let fps_mlp = mlp("fps_embedder", FREQUENCY_DIM, ["mlp.0", "mlp.2"])?;
        let time_block = Linear::load(&source, "t_block.1", BLOCK_CHUNKS * c, c)?;
        let caption_mlp = mlp("y_embedder.y_proj", config.caption_channels, ["fc1", "fc2"])?;
        let null_caption = weights.values("y_embedder.y_embedding", &null_shape)?;
        let rope_freqs = source.values(&[d / 2], &rope_freqs, DType::F32)?;
        let time = TimeWeights {
            mlp: time_mlp,
            projection: time_block,
            block_tables: source.values(&[names.len(), BLOCK_CHUNKS, c], &tables, dtype)?,
            final_table: source.values(&[1, FINAL_CHUNKS, c], &final_table, dtype)?,
        };
        let parts = block::parts(&config, dtype, weights.fp8())?;
        let named: Vec<_> = names.into_iter().map(|name| (name, &parts)).collect();
        let block_weights = BlockWeights::load(&source, &named, streamed)?;
        let blocks = block_weights.memory().iter().map(|memory| Block::at(memory, &parts));
        let mut model = StDiT3 {
            device: device.clone(),
            dtype,
            patch_embed,
            time,
            fps_mlp,
            caption_mlp,
            null_caption,
            rope_freqs,
            blocks: blocks.collect::<Result<_, _>>()?,
            weights: block_weights,
            end_bytes: 0,
            final_linear: Linear::load(&source, "final_layer.linear", patch * config.out_channels(), c)?,
            anatomy,
            config,
        };
        model.end_bytes = source.bytes.get();
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &StDiT3Config {
        &self.config
    }

    /// Tokens along (time, height, width) for a latent of the given size.
    fn tokens(&self, geometry: &Geometry) -> [usize; 3] {
        self.config.tokens(geometry)
    }

    /// Rejects sizes that the kernels do not support.
    fn check(&self, geometry: &Geometry) -> Result<(), ModelError> {
        let Geometry { videos, frames, height, width, .. } = *geometry;
        let sizes = [("videos", videos), ("latent frames", frames), ("latent height", height), ("latent width", width)];
        for (name, size) in sizes {
            if !(1..=1 << 20).contains(&size) {
                return Err(ModelError::Input(format!("{name} is {size}, expected 1 to {}", 1 << 20)));
            }
        }
        let positive = |v: f64| v.is_finite() && v > 0.0;
        if !positive(geometry.resolution) || !positive(geometry.fps as f64) {
            return Err(ModelError::Input(format!(
                "resolution {} and fps {} must be positive numbers",
                geometry.resolution, geometry.fps
            )));
        }
        let [t, h, w] = self.tokens(geometry);
        let rows = [geometry.batch(), t, h, w].iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        // Row counts travel to the kernels as 32-bit integers.
        if rows.is_none_or(|rows| rows > i32::MAX as usize / 2) {
            return Err(ModelError::Input(format!("{videos} × {frames} × {height} × {width} latents are too many")));
        }
        Ok(())
    }

    /// Its sizes at a geometry.
    fn sizes(&self, geometry: &Geometry) -> Sizes {
        Sizes { fp8: self.weights.fp8().is_some(), ..self.config.sizes(geometry, self.dtype) }
    }

    /// The table of all buffers of a generation.
    fn layout(&self, geometry: &Geometry, room: &ResidualRoom) -> Result<Layout, ModelError> {
        let [t, h, w] = self.tokens(geometry);
        let (c, half, f) = (self.config.hidden_size, self.config.head_dim() / 2, DType::F32);
        let normed_rows = if geometry.frame_masked { geometry.batch() * t * h * w } else { 0 };
        let mut table = buffers::layout(&self.device, geometry, &self.sizes(geometry), room)?;
        table.add(NORMED, &[normed_rows, c], self.dtype, Stage::Final..=Stage::Final)?;
        table.add_with(POSITION, Samples::None, &[h * w, c], f, ALWAYS)?;
        table.add_with(ROPE, Samples::None, &[t, half, 2], f, ALWAYS)?;
        table.add(FPS_EMBED, &[geometry.conditions(), c], f, ALWAYS)?;
        Ok(table)
    }
}

impl Transformer for StDiT3 {
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

    fn null_caption(&self) -> &[f32] {
        &self.null_caption
    }

    fn hidden_shape(&self, geometry: &Geometry) -> [usize; 4] {
        let [t, h, w] = self.tokens(geometry);
        [geometry.batch(), t, h * w, self.config.hidden_size]
    }

    fn workspace(&self, geometry: Geometry, room: &ResidualRoom) -> Result<Workspace, ModelError> {
        self.check(&geometry)?;
        let tokens @ [_, h, w] = self.tokens(&geometry);
        let ws = Workspace::allocate(&self.device, geometry, tokens, self.layout(&geometry, room)?)?;
        let scale = geometry.resolution / self.config.input_sq_size as f64;
        let base = ((h * w) as f64).sqrt().round();
        ops::embed::position_table(h, w, scale as f32, base as f32, ws.get(POSITION))?;
        ops::embed::rope_table(&self.rope_freqs, ws.get(ROPE))?;
        ws.time().write_slice(&vec![geometry.fps; geometry.conditions()])?;
        embed_scalar(ws.time(), &self.fps_mlp, None, scratch(&ws), ws.get(FPS_EMBED))?;
        Ok(ws)
    }

    fn caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        self.encode_caption(y, batch, mask)
    }

    fn embed_time(&self, ws: &Workspace) -> Result<(), ModelError> {
        self.time.embed(ws, Some(ws.get(FPS_EMBED)))
    }

    fn modulate(&self, ws: &Workspace, trace: Option<&mut Trace>) -> Result<(), ModelError> {
        self.time.modulate(ws)?;
        if let Some(trace) = trace {
            trace.push(("t_block".into(), ws.get(TIME_CHUNKS).to_f32()?));
        }
        Ok(())
    }

    fn embed(&self, ws: &Workspace, z: &Tensor, x: &Tensor, trace: Option<&mut Trace>) -> Result<(), ModelError> {
        self.embed_patches(ws, z, &ws.rows(x)?, trace)
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
            Module::Mlp => self.mlp(ws, block, added),
        }
    }

    fn finish(&self, ws: &Workspace) -> Result<(), ModelError> {
        self.final_layer(ws)
    }

    fn flops(&self, geometry: &Geometry, caption_tokens: usize, runs: &dyn Fn(usize) -> bool) -> u64 {
        work::flops(&self.anatomy, &self.sizes(geometry), geometry.batch(), caption_tokens, runs)
    }
}
