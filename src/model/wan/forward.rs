//! The maths of a forward pass, piece by piece.

use super::block::Block;
use super::{
    AFFINE_CHUNKS, ATTENDED, BLOCK_MODULATION, CROSSED, EMBED_HIDDEN, FINAL_MODULATION, FINAL_TOKENS, HIDDEN, Linear,
    PATCH, PATCHES, PREDICTION, Q, QKV, ROPE, SINUSOID, STATS, TIME_CHUNKS, TIME_EMBED, Wan,
};
use crate::model::dit::pieces::{
    self, BLOCK_CHUNKS, FINAL_CHUNKS, GATE_ATTN, NORM_EPS, SCALE_ATTN, SCALE_FINAL, SHIFT_ATTN, SHIFT_FINAL,
    add_residual, block_table, embed_scalar, for_held, for_moving, modulated,
};
use crate::model::{Added, Caption, ModelError, Workspace};
use crate::ops::attention::{SelfAttention, VideoDims};
use crate::ops::linear::{Activation, Gate, Modulate};
use crate::ops::norm::Rope;
use crate::ops::{self, Modulation, RowMap};
use crate::tensor::Tensor;

// Chunks of the LayerNorm before the cross-attention.
const AFFINE_SHIFT: usize = 0;
const AFFINE_SCALE: usize = 1;

impl Wan {
    /// The time's embedding and the final layer's modulation.
    pub(super) fn make_time(&self, ws: &Workspace) -> Result<(), ModelError> {
        let (conditions, c) = (ws.geometry().conditions(), self.config.dim);
        let scratch = [ws.get(SINUSOID), ws.get(EMBED_HIDDEN)];
        embed_scalar(ws.time(), &self.time_mlp, None, scratch, ws.get(TIME_EMBED))?;
        let time = ws.get(TIME_EMBED).reshape(&[conditions, 1, c])?;
        let modulation = ws.get(FINAL_MODULATION).reshape(&[1, conditions, FINAL_CHUNKS, c])?;
        Ok(ops::embed::modulation(&self.final_table, &time, &modulation)?)
    }

    /// The blocks' modulation at the current time: Linear(SiLU(t)) plus each block's table.
    pub(super) fn make_modulation(&self, ws: &Workspace) -> Result<(), ModelError> {
        let (conditions, c) = (ws.geometry().conditions(), self.config.dim);
        let Linear { weight, bias } = &self.time_block;
        let chunks = ws.get(TIME_CHUNKS).reshape(&[conditions, BLOCK_CHUNKS * c])?;
        ops::embed::small_linear(ws.get(TIME_EMBED), weight, Some(bias), None, true, &chunks)?;
        let modulation = ws.get(BLOCK_MODULATION).reshape(&[self.blocks.len(), conditions, BLOCK_CHUNKS, c])?;
        Ok(ops::embed::modulation(&self.block_tables, ws.get(TIME_CHUNKS), &modulation)?)
    }

    /// `x = patches(z)`
    pub(super) fn embed_patches(&self, ws: &Workspace, z: &Tensor, x: &Tensor) -> Result<(), ModelError> {
        let patches = ws.get(PATCHES);
        ops::embed::patchify(z, PATCH, ws.geometry().batch(), ws.tokens(), patches)?;
        let Linear { weight, bias } = &self.patch_embed;
        Ok(ops::linear::linear(patches, weight, Some(bias), None, Activation::None, x)?)
    }

    /// The first block's normed and modulated input.
    pub(super) fn modulate_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        let (x, input) = (ws.rows(ws.x())?, ws.rows(out)?);
        let table = block_table(ws.get(BLOCK_MODULATION), 0)?;
        let modulation = ws.modulation(&table);
        let moving = for_moving(modulation, SHIFT_ATTN, SCALE_ATTN);
        ops::norm::modulate(&x, &moving, &input)?;
        if ws.geometry().frame_masked {
            ops::norm::modulate(&x, &for_held(moving), &input)?;
        }
        Ok(())
    }

    /// x += gate · attn(LN(x)·(1+scale)+shift), over all tokens of a video
    pub(super) fn attention(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { qkv, proj, q_norm, k_norm, .. } = &self.blocks[index];
        let table = block_table(ws.get(BLOCK_MODULATION), index)?;
        let modulation = ws.modulation(&table);
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_ATTN, scale: SCALE_ATTN };
        modulated(ws, qkv, &modulate, Activation::None, ws.get(QKV))?;
        let qkv = ws.get(QKV).reshape(&[ws.dims().rows(), 3, self.config.num_heads, self.config.head_dim()])?;
        let rope = Rope { table: ws.get(ROPE), tokens: ws.tokens(), pairs: self.config.rope_pairs() };
        ops::norm::rms_rope(&qkv, &[q_norm, k_norm], NORM_EPS, Some(rope))?;
        let call = SelfAttention { qkv: &qkv, dims: whole(ws), norm: None, rope: None };
        ops::attention::spatial(&call, ws.get(ATTENDED))?;
        add_residual(ws, ws.get(ATTENDED), proj, Some(&Gate { modulation, chunk: GATE_ATTN }), added)
    }

    /// x += cross(LN(x)·weight+bias, caption)
    pub(super) fn cross(
        &self,
        ws: &Workspace,
        index: usize,
        caption: &Caption,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        let Block { cross_q, cross_q_norm, cross_proj, .. } = &self.blocks[index];
        let (rows, c) = (ws.dims().rows(), self.config.dim);
        let affine = self.cross_norms.slice_rows(index, 1)?.reshape(&[1, 1, AFFINE_CHUNKS, c])?;
        let all = RowMap { frames: 1, rows_per_frame: rows };
        let modulation = Modulation { table: &affine, frame_mask: None, rows: all };
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: AFFINE_SHIFT, scale: AFFINE_SCALE };
        modulated(ws, cross_q, &modulate, Activation::None, ws.get(Q))?;
        let (heads, d) = (self.config.num_heads, self.config.head_dim());
        ops::norm::rms_rope(&ws.get(Q).reshape(&[rows, 1, heads, d])?, &[cross_q_norm], NORM_EPS, None)?;
        let q = ws.get(Q).reshape(&[rows, heads, d])?;
        let Caption { kv, lengths, last_bias, .. } = caption;
        ops::attention::cross(&q, &kv[index], lengths, last_bias.as_ref(), ws.dims(), ws.get(CROSSED))?;
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
        let modulation = ws.modulation(ws.get(FINAL_MODULATION));
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_FINAL, scale: SCALE_FINAL };
        modulated(ws, &self.final_linear, &modulate, Activation::None, ws.get(FINAL_TOKENS))?;
        Ok(ops::embed::unpatchify(ws.get(FINAL_TOKENS), PATCH, ws.tokens(), ws.get(PREDICTION))?)
    }
}

/// The tokens of each video as one sequence.
fn whole(ws: &Workspace) -> VideoDims {
    let VideoDims { batch, frames, tokens } = *ws.dims();
    VideoDims { batch, frames: 1, tokens: frames * tokens }
}
