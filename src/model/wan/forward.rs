//! The maths of a forward pass, piece by piece.

use super::block::Block;
use super::{AFFINE_CHUNKS, ROPE, Wan};
use crate::model::dit::buffers::{ATTENDED, CROSSED, Q, QKV, STATS};
use crate::model::dit::pieces::{GATE_ATTN, NORM_EPS, SCALE_ATTN, SHIFT_ATTN, add_residual, block_table, modulated};
use crate::model::{Added, Caption, ModelError, Workspace};
use crate::ops::attention::{SelfAttention, VideoDims};
use crate::ops::linear::{Activation, Gate, Modulate};
use crate::ops::norm::Rope;
use crate::ops::{self, Modulation, RowMap};

// Chunks of the LayerNorm before the cross-attention.
const AFFINE_SHIFT: usize = 0;
const AFFINE_SCALE: usize = 1;

impl Wan {
    /// x += gate · attn(LN(x)·(1+scale)+shift), over all tokens of a video
    pub(super) fn attention(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { qkv, proj, q_norm, k_norm, .. } = &self.blocks[index];
        let table = block_table(ws, index)?;
        let modulation = ws.modulation(&table);
        let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_ATTN, scale: SCALE_ATTN };
        modulated(ws, ATTENDED, qkv, &modulate, Activation::None, ws.get(QKV))?;
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
        modulated(ws, CROSSED, cross_q, &modulate, Activation::None, ws.get(Q))?;
        let (heads, d) = (self.config.num_heads, self.config.head_dim());
        ops::norm::rms_rope(&ws.get(Q).reshape(&[rows, 1, heads, d])?, &[cross_q_norm], NORM_EPS, None)?;
        let q = ws.get(Q).reshape(&[rows, heads, d])?;
        let Caption { kv, lengths, last_bias, .. } = caption;
        ops::attention::cross(&q, &kv[index], lengths, last_bias.as_ref(), ws.dims(), ws.get(CROSSED))?;
        add_residual(ws, ws.get(CROSSED), cross_proj, None, added)
    }
}

/// The tokens of each video as one sequence.
fn whole(ws: &Workspace) -> VideoDims {
    let VideoDims { batch, frames, tokens } = *ws.dims();
    VideoDims { batch, frames: 1, tokens: frames * tokens }
}
