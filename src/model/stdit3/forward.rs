//! The maths of a forward pass, piece by piece.

use super::block::Block;
use super::{Linear, NORMED, POSITION, ROPE, StDiT3};
use crate::cache::Span;
use crate::model::dit::buffers::{FINAL_MODULATION, FINAL_TOKENS};
use crate::model::dit::pieces::{self, Attention, NORM_EPS, SCALE_FINAL, SHIFT_FINAL, for_held, for_moving};
use crate::model::{Added, Caption, ModelError, PREDICTION, Trace, Workspace};
use crate::ops::attention::QkNorm;
use crate::ops::linear::Activation;
use crate::ops::{self, norm};
use crate::tensor::Tensor;

impl StDiT3 {
    /// `x = patches(z) + position`
    pub(super) fn embed_patches(
        &self,
        ws: &Workspace,
        z: &Tensor,
        x: &Tensor,
        trace: Option<&mut Trace>,
    ) -> Result<(), ModelError> {
        pieces::embed_patches(ws, z, self.config.patch_size, &self.patch_embed, x)?;
        if let Some(trace) = trace {
            trace.push(("x_embedder".into(), x.to_f32()?));
        }
        Ok(ops::embed::position_add(x, ws.get(POSITION))?)
    }

    /// x += gate · attn(LN(x)·(1+scale)+shift)
    pub(super) fn attention(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let (Block { qkv, proj, qk_norm, .. }, span) = (&self.blocks[index], self.anatomy.span(index));
        let norm = qk_norm.as_ref().map(|(q, k)| QkNorm { q, k, eps: NORM_EPS });
        let rope = (span == Span::Time).then(|| ws.get(ROPE));
        let call = Attention { qkv, proj, heads: self.config.num_heads, norm, rope };
        pieces::attention(ws, index, span, call, added)
    }

    /// x += cross(x, caption)
    pub(super) fn cross(
        &self,
        ws: &Workspace,
        index: usize,
        caption: &Caption,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        let Block { q_linear, cross_proj, .. } = &self.blocks[index];
        pieces::cross(ws, [q_linear, cross_proj], self.config.num_heads, (caption, &caption.kv[index]), added)
    }

    /// x += gate · MLP(LN(x)·(1+scale)+shift)
    pub(super) fn mlp(&self, ws: &Workspace, index: usize, added: Option<Added<'_>>) -> Result<(), ModelError> {
        let Block { fc1, fc2, .. } = &self.blocks[index];
        pieces::mlp(ws, index, [fc1, fc2], added)
    }

    /// The final layer on the hidden state.
    pub(super) fn final_layer(&self, ws: &Workspace) -> Result<(), ModelError> {
        if !ws.geometry().frame_masked {
            return pieces::final_layer(ws, self.config.patch_size, &self.final_linear);
        }
        // The published code modulates every frame by t first, then normalises and modulates the held frames once more.
        let (x, normed, tokens) = (ws.rows(ws.x())?, ws.get(NORMED), ws.get(FINAL_TOKENS));
        let Linear { weight, bias, .. } = &self.final_linear;
        let moving = for_moving(ws.modulation(ws.get(FINAL_MODULATION)), SHIFT_FINAL, SCALE_FINAL);
        norm::modulate(&x, &moving, normed)?;
        norm::modulate(normed, &for_held(moving), normed)?;
        ops::linear::linear(normed, weight, Some(bias), None, Activation::None, tokens)?;
        Ok(ops::embed::unpatchify(tokens, self.config.patch_size, ws.tokens(), ws.get(PREDICTION))?)
    }
}
