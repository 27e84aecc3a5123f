//! The maths of a forward pass, piece by piece.

use super::block::Block;
use super::{
    ATTENDED, BLOCK_CHUNKS, BLOCK_MODULATION, CROSSED, EMBED_HIDDEN, FINAL_MODULATION, FINAL_TOKENS, HIDDEN, Linear,
    MAX_PERIOD, NORM_EPS, NORMED, PATCHES, POSITION, PREDICTION, Q, QKV, ROPE, SINUSOID, STATS, StDiT3, TIME_CHUNKS,
    TIME_EMBED,
};
use crate::cache::Span;
use crate::model::{Added, Caption, ModelError, Trace, Workspace};
use crate::ops::attention::{QkNorm, SelfAttention};
use crate::ops::linear::{Activation, Gate, Modulate};
use crate::ops::{self, Modulation, norm};
use crate::tensor::Tensor;

// Chunks of a block's modulation.
const SHIFT_ATTN: usize = 0;
const SCALE_ATTN: usize = 1;
const GATE_ATTN: usize = 2;
const SHIFT_MLP: usize = 3;
const SCALE_MLP: usize = 4;
const GATE_MLP: usize = 5;
// Chunks of the final layer's.
const SHIFT_FINAL: usize = 0;
const SCALE_FINAL: usize = 1;

/// The modulation `[batch, variants, chunks, C]` of block `index`.
fn block_table(ws: &Workspace, index: usize) -> Result<Tensor, ModelError> {
    let all = ws.get(BLOCK_MODULATION);
    Ok(all.slice_rows(index, 1)?.reshape(&all.shape()[1..])?)
}

impl StDiT3 {
    /// Sinusoid of the workspace's time, then Linear, SiLU, Linear (+ `add`).
    pub(super) fn embed_scalar(
        &self,
        ws: &Workspace,
        mlp: &[Linear; 2],
        add: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<(), ModelError> {
        let (sinusoid, hidden) = (ws.get(SINUSOID), ws.get(EMBED_HIDDEN));
        ops::embed::timestep_embed(ws.time(), MAX_PERIOD, sinusoid)?;
        ops::embed::small_linear(sinusoid, &mlp[0].weight, Some(&mlp[0].bias), None, false, hidden)?;
        ops::embed::small_linear(hidden, &mlp[1].weight, Some(&mlp[1].bias), add, true, out)?;
        Ok(())
    }

    /// The blocks' modulation at the current time: Linear(SiLU(t)) plus each block's table.
    pub(super) fn make_modulation(&self, ws: &Workspace) -> Result<(), ModelError> {
        let (conditions, c) = (ws.geometry().conditions(), self.config.hidden_size);
        let Linear { weight, bias } = &self.time_block;
        let chunks = ws.get(TIME_CHUNKS).reshape(&[conditions, BLOCK_CHUNKS * c])?;
        ops::embed::small_linear(ws.get(TIME_EMBED), weight, Some(bias), None, true, &chunks)?;
        let modulation = ws.get(BLOCK_MODULATION).reshape(&[self.anatomy.blocks(), conditions, BLOCK_CHUNKS, c])?;
        ops::embed::modulation(&self.block_tables, ws.get(TIME_CHUNKS), &modulation)?;
        Ok(())
    }

    /// `x = patches(z) + position`
    pub(super) fn embed_patches(
        &self,
        ws: &Workspace,
        z: &Tensor,
        x: &Tensor,
        trace: Option<&mut Trace>,
    ) -> Result<(), ModelError> {
        let patches = ws.get(PATCHES);
        ops::embed::patchify(z, self.config.patch_size, ws.geometry().batch(), ws.tokens(), patches)?;
        let Linear { weight, bias } = &self.patch_embed;
        ops::linear::linear(patches, weight, Some(bias), None, Activation::None, x)?;
        if let Some(trace) = trace {
            trace.push(("x_embedder".into(), x.to_f32()?));
        }
        ops::embed::position_add(x, ws.get(POSITION))?;
        Ok(())
    }

    /// The first block's normed and modulated input.
    pub(super) fn modulate_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        let (x, input) = (ws.rows(ws.x())?, ws.rows(out)?);
        let table = block_table(ws, 0)?;
        let modulation = ws.modulation(&table);
        let moving = for_moving(modulation, SHIFT_ATTN, SCALE_ATTN);
        norm::modulate(&x, &moving, &input)?;
        if ws.geometry().frame_masked {
            norm::modulate(&x, &for_held(moving), &input)?;
        }
        Ok(())
    }

    /// x += gate · attn(LN(x)·(1+scale)+shift)
    pub(super) fn attention(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { qkv, proj, qk_norm, .. } = &self.blocks[index];
        let table = block_table(ws, index)?;
        let modulation = ws.modulation(&table);
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_ATTN, scale: SCALE_ATTN };
        modulated(ws, qkv, &modulate, Activation::None, ws.get(QKV))?;
        let (heads, d) = (self.config.num_heads, self.config.head_dim());
        let qkv = ws.get(QKV).reshape(&[ws.get(STATS).shape()[0], 3, heads, d])?;
        let norm = qk_norm.as_ref().map(|(q, k)| QkNorm { q, k, eps: NORM_EPS });
        let call = SelfAttention { qkv: &qkv, dims: *ws.dims(), norm, rope: None };
        match self.anatomy.span(index) {
            Span::Time => {
                ops::attention::temporal(&SelfAttention { rope: Some(ws.get(ROPE)), ..call }, ws.get(ATTENDED))?;
            }
            _ => ops::attention::spatial(&call, ws.get(ATTENDED))?,
        }
        add_residual(ws, ws.get(ATTENDED), proj, Some(&Gate { modulation, chunk: GATE_ATTN }), added)
    }

    /// x += cross(x, caption)
    pub(super) fn cross(
        &self,
        ws: &Workspace,
        index: usize,
        caption: &Caption,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        let Block { q_linear: Linear { weight, bias }, cross_proj, .. } = &self.blocks[index];
        let (heads, d) = (self.config.num_heads, self.config.head_dim());
        ops::linear::linear(&ws.rows(ws.x())?, weight, Some(bias), None, Activation::None, ws.get(Q))?;
        let q = ws.get(Q).reshape(&[ws.get(STATS).shape()[0], heads, d])?;
        ops::attention::cross(&q, &caption.kv[index], &caption.lengths, ws.dims(), ws.get(CROSSED))?;
        add_residual(ws, ws.get(CROSSED), cross_proj, None, added)
    }

    /// x += gate · MLP(LN(x)·(1+scale)+shift)
    pub(super) fn mlp(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { fc1, fc2, .. } = &self.blocks[index];
        let table = block_table(ws, index)?;
        let modulation = ws.modulation(&table);
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_MLP, scale: SCALE_MLP };
        modulated(ws, fc1, &modulate, Activation::GeluTanh, ws.get(HIDDEN))?;
        add_residual(ws, ws.get(HIDDEN), fc2, Some(&Gate { modulation, chunk: GATE_MLP }), added)
    }

    /// The final layer on the hidden state.
    pub(super) fn final_layer(&self, ws: &Workspace) -> Result<(), ModelError> {
        let tokens = ws.get(FINAL_TOKENS);
        let modulation = ws.modulation(ws.get(FINAL_MODULATION));
        if ws.geometry().frame_masked {
            // The published code modulates every frame by t first, then normalises and modulates the held frames once more.
            let (x, normed) = (ws.rows(ws.x())?, ws.get(NORMED));
            let Linear { weight, bias } = &self.final_linear;
            let moving = for_moving(modulation, SHIFT_FINAL, SCALE_FINAL);
            norm::modulate(&x, &moving, normed)?;
            norm::modulate(normed, &for_held(moving), normed)?;
            ops::linear::linear(normed, weight, Some(bias), None, Activation::None, tokens)?;
        } else {
            let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_FINAL, scale: SCALE_FINAL };
            modulated(ws, &self.final_linear, &modulate, Activation::None, tokens)?;
        }
        ops::embed::unpatchify(tokens, self.config.patch_size, ws.tokens(), ws.get(PREDICTION))?;
        Ok(())
    }
}

/// adaLN of every frame with the step's time.
fn for_moving(modulation: Modulation<'_>, shift: usize, scale: usize) -> norm::Modulate<'_> {
    norm::Modulate { modulation, shift, scale, variant: 0, only_masked_out: false, eps: NORM_EPS }
}

/// The same of held frames alone, with time 0.
fn for_held(moving: norm::Modulate<'_>) -> norm::Modulate<'_> {
    norm::Modulate { variant: 1, only_masked_out: true, ..moving }
}

/// `out = activation(layer(LN(x)·(1+scale)+shift))`; makes the statistics of x.
fn modulated(
    ws: &Workspace,
    Linear { weight, bias }: &Linear,
    modulate: &Modulate<'_>,
    activation: Activation,
    out: &Tensor,
) -> Result<(), ModelError> {
    let x = ws.rows(ws.x())?;
    norm::row_stats(&x, NORM_EPS, modulate.stats)?;
    Ok(ops::linear::linear(&x, weight, Some(bias), Some(modulate), activation, out)?)
}

/// `x += gate · (a · wᵀ + bias)`, the end of a module; the added term also goes to `added`.
fn add_residual(
    ws: &Workspace,
    a: &Tensor,
    Linear { weight, bias }: &Linear,
    gate: Option<&Gate<'_>>,
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let residual = added.map(|added| Ok::<_, ModelError>((ws.rows(added.to)?, added.accumulate))).transpose()?;
    let residual = residual.as_ref().map(|(tensor, accumulate)| (tensor, *accumulate));
    Ok(ops::linear::linear_residual(a, weight, Some(bias), gate, &ws.rows(ws.x())?, residual)?)
}
