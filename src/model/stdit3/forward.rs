//! The maths of a forward pass, piece by piece.

use super::block::Block;
use super::{
    ATTENDED, BLOCK_MODULATION, CROSSED, FINAL_MODULATION, FINAL_TOKENS, HIDDEN, Linear, NORMED, PATCHES, POSITION,
    PREDICTION, Q, QKV, ROPE, STATS, StDiT3, TIME_CHUNKS, TIME_EMBED,
};
use crate::cache::Span;
use crate::model::dit::pieces::{
    self, BLOCK_CHUNKS, GATE_ATTN, NORM_EPS, SCALE_ATTN, SCALE_FINAL, SHIFT_ATTN, SHIFT_FINAL, add_residual,
    block_table, for_held, for_moving, modulated,
};
use crate::model::{Added, Caption, ModelError, Trace, Workspace};
use crate::ops::attention::{QkNorm, SelfAttention};
use crate::ops::linear::{Activation, Gate, Modulate};
use crate::ops::{self, norm};
use crate::tensor::Tensor;

impl StDiT3 {
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
        let table = block_table(ws.get(BLOCK_MODULATION), 0)?;
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
        let table = block_table(ws.get(BLOCK_MODULATION), index)?;
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
        ops::attention::cross(&q, &caption.kv[index], &caption.lengths, None, ws.dims(), ws.get(CROSSED))?;
        add_residual(ws, ws.get(CROSSED), cross_proj, None, added)
    }

    /// x += gate · MLP(LN(x)·(1+scale)+shift)
    pub(super) fn mlp(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { fc1, fc2, .. } = &self.blocks[index];
        let table = block_table(ws.get(BLOCK_MODULATION), index)?;
        pieces::mlp(ws, [fc1, fc2], ws.modulation(&table), [ws.get(STATS), ws.get(HIDDEN)], added)
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
