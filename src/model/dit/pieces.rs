//! Pieces of a forward pass that adaLN-modulated transformers share: the embeddings of a time and of the latents, modules, the final layer.

use super::arena::Slot;
use super::buffers::{
    ATTENDED, BLOCK_MODULATION, CODES, CROSSED, FINAL_MODULATION, FINAL_TOKENS, HIDDEN, HIDDEN_CODES, MODULATED,
    PATCHES, Q, QKV, SCALES, STATS,
};
use super::linear::Linear;
use crate::cache::Span;
use crate::model::{Added, Caption, ModelError, PREDICTION, Workspace};
use crate::ops::attention::{QkNorm, SelfAttention};
use crate::ops::fp8::{Norm, Rows};
use crate::ops::linear::{Activation, Gate, Modulate, norms_apart};
use crate::ops::pack::PackError;
use crate::ops::{self, Modulation, norm};
use crate::tensor::Tensor;

/// Epsilon of every LayerNorm and RMSNorm.
pub(in crate::model) const NORM_EPS: f32 = 1e-6;

// The chunks of a block's modulation.
pub(in crate::model) const SHIFT_ATTN: usize = 0;
pub(in crate::model) const SCALE_ATTN: usize = 1;
pub(in crate::model) const GATE_ATTN: usize = 2;
const SHIFT_MLP: usize = 3;
const SCALE_MLP: usize = 4;
const GATE_MLP: usize = 5;
// The chunks of the final layer's modulation.
pub(in crate::model) const SHIFT_FINAL: usize = 0;
pub(in crate::model) const SCALE_FINAL: usize = 1;

const MAX_PERIOD: f32 = 10000.0;

/// `out = linear₁(SiLU(linear₀(sinusoid(t)))) (+ add)`; `scratch` holds the sinusoid and the hidden layer.
pub(in crate::model) fn embed_scalar(
    t: &Tensor,
    mlp: &[Linear; 2],
    add: Option<&Tensor>,
    [sinusoid, hidden]: [&Tensor; 2],
    out: &Tensor,
) -> Result<(), ModelError> {
    ops::embed::timestep_embed(t, MAX_PERIOD, sinusoid)?;
    ops::embed::small_linear(sinusoid, &mlp[0].weight, Some(&mlp[0].bias), None, false, hidden)?;
    ops::embed::small_linear(hidden, &mlp[1].weight, Some(&mlp[1].bias), add, true, out)?;
    Ok(())
}

/// The modulation `[batch, variants, chunks, C]` of block `index`.
pub(in crate::model) fn block_table(ws: &Workspace, index: usize) -> Result<Tensor, ModelError> {
    let all = ws.get(BLOCK_MODULATION);
    Ok(all.slice_rows(index, 1)?.reshape(&all.shape()[1..])?)
}

/// adaLN of every frame with the step's time.
pub(in crate::model) fn for_moving(modulation: Modulation<'_>, shift: usize, scale: usize) -> norm::Modulate<'_> {
    norm::Modulate { modulation, shift, scale, variant: 0, only_masked_out: false, eps: NORM_EPS }
}

/// The same of held frames alone, with time 0.
pub(in crate::model) fn for_held(moving: norm::Modulate<'_>) -> norm::Modulate<'_> {
    norm::Modulate { variant: 1, only_masked_out: true, ..moving }
}

/// `out` = the rows of `x`, normed and modulated, those of held frames by time 0.
fn norm_rows(x: &Tensor, moving: norm::Modulate<'_>, out: &Tensor) -> Result<(), ModelError> {
    norm::modulate(x, &moving, out)?;
    if moving.modulation.frame_mask.is_some() {
        norm::modulate(x, &for_held(moving), out)?;
    }
    Ok(())
}

/// `out = activation(layer(LN(x)·(1 + scale) + shift))` of the hidden state x. Normed in the product, by statistics of the rows, or before it into the
/// buffer `apart`, where that is faster and the workspace is laid out for it. If the weights are in e4m3, the rows are normed as they become so.
pub(in crate::model) fn modulated(
    ws: &Workspace,
    apart: Slot,
    Linear { weight, scales, bias }: &Linear,
    modulate: &Modulate<'_>,
    activation: Activation,
    out: &Tensor,
) -> Result<(), ModelError> {
    let x = ws.rows(ws.x())?;
    let [rows, width] = [x.shape()[0], x.shape()[1]];
    let &Modulate { modulation, shift, scale, .. } = modulate;
    if let Some(scales) = scales {
        let (a, error) = room_for_rows(ws, &x)?;
        ops::fp8::quantise_normed(&x, &Norm { modulation, shift, scale, eps: NORM_EPS }, a, &error)?;
        return Ok(ops::fp8::linear(a, Rows { codes: weight, scales }, Some(bias), activation, out)?);
    }
    if ws.find(MODULATED).is_some() && norms_apart(x.device(), x.dtype(), [rows, weight.shape()[0], width]) {
        let normed = ws.get(apart);
        norm_rows(&x, for_moving(modulation, shift, scale), normed)?;
        return Ok(ops::linear::linear(normed, weight, Some(bias), None, activation, out)?);
    }
    norm::row_stats(&x, NORM_EPS, modulate.stats)?;
    Ok(ops::linear::linear(&x, weight, Some(bias), Some(modulate), activation, out)?)
}

/// The rows `a` in e4m3, until the next are made.
fn quantised<'a>(ws: &'a Workspace, a: &Tensor) -> Result<Rows<'a>, ModelError> {
    let (rows, error) = room_for_rows(ws, a)?;
    ops::fp8::quantise(a, rows, &error)?;
    Ok(rows)
}

/// Where rows like `a` become e4m3.
fn room_for_rows<'a>(ws: &'a Workspace, a: &Tensor) -> Result<(Rows<'a>, PackError), ModelError> {
    let fits = |slot: &Slot| ws.find(*slot).is_some_and(|codes| codes.shape() == a.shape());
    let room = [CODES, HIDDEN_CODES].iter().find(|slot| fits(slot)).zip(ws.fp8_error());
    let Some((codes, error)) = room else {
        return Err(ModelError::Input(format!("the workspace has no room for rows {:?} in e4m3", a.shape())));
    };
    Ok((Rows { codes: ws.get(*codes), scales: ws.get(SCALES) }, error))
}

/// `x = patches(z)`
pub(in crate::model) fn embed_patches(
    ws: &Workspace,
    z: &Tensor,
    patch: [usize; 3],
    Linear { weight, bias, .. }: &Linear,
    x: &Tensor,
) -> Result<(), ModelError> {
    let patches = ws.get(PATCHES);
    ops::embed::patchify(z, patch, ws.geometry().batch(), ws.tokens(), patches)?;
    Ok(ops::linear::linear(patches, weight, Some(bias), None, Activation::None, x)?)
}

/// The first block's normed and modulated input.
pub(in crate::model) fn modulated_input(ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
    let (x, input) = (ws.rows(ws.x())?, ws.rows(out)?);
    let table = block_table(ws, 0)?;
    let modulation = ws.modulation(&table);
    norm_rows(&x, for_moving(modulation, SHIFT_ATTN, SCALE_ATTN), &input)
}

/// The weights and the heads of an attention, and what happens to its queries and keys.
pub(in crate::model) struct Attention<'a> {
    pub(in crate::model) qkv: &'a Linear,
    pub(in crate::model) proj: &'a Linear,
    pub(in crate::model) heads: usize,
    pub(in crate::model) norm: Option<QkNorm<'a>>,
    pub(in crate::model) rope: Option<&'a Tensor>,
}

/// `x += gate · attn(LN(x)·(1 + scale) + shift)` of block `index`, along time or within frames.
pub(in crate::model) fn attention(
    ws: &Workspace,
    index: usize,
    span: Span,
    Attention { qkv: layer, proj, heads, norm, rope }: Attention<'_>,
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let table = block_table(ws, index)?;
    let modulation = ws.modulation(&table);
    let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_ATTN, scale: SCALE_ATTN };
    modulated(ws, ATTENDED, layer, &modulate, Activation::None, ws.get(QKV))?;
    let [rows, width] = [ws.get(QKV).shape()[0], ws.get(ATTENDED).shape()[1]];
    let qkv = ws.get(QKV).reshape(&[rows, 3, heads, width / heads])?;
    let call = SelfAttention { qkv: &qkv, dims: *ws.dims(), norm, rope };
    match span {
        Span::Time => ops::attention::temporal(&call, ws.get(ATTENDED))?,
        _ => ops::attention::spatial(&call, ws.get(ATTENDED))?,
    }
    add_residual(ws, ws.get(ATTENDED), proj, Some(&Gate { modulation, chunk: GATE_ATTN }), added)
}

/// `x += cross(x, caption)`, neither normed nor gated; `kv` are the block's keys and values of the caption.
pub(in crate::model) fn cross(
    ws: &Workspace,
    [Linear { weight, scales, bias }, proj]: [&Linear; 2],
    heads: usize,
    (caption, kv): (&Caption, &Tensor),
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let x = ws.rows(ws.x())?;
    match scales {
        None => ops::linear::linear(&x, weight, Some(bias), None, Activation::None, ws.get(Q))?,
        Some(scales) => {
            let w = Rows { codes: weight, scales };
            ops::fp8::linear(quantised(ws, &x)?, w, Some(bias), Activation::None, ws.get(Q))?;
        }
    }
    let [rows, width] = [ws.get(Q).shape()[0], ws.get(Q).shape()[1]];
    let q = ws.get(Q).reshape(&[rows, heads, width / heads])?;
    ops::attention::cross(&q, kv, &caption.lengths, caption.last_bias.as_ref(), ws.dims(), ws.get(CROSSED))?;
    add_residual(ws, ws.get(CROSSED), proj, None, added)
}

/// `x += gate · fc2(GELU(fc1(LN(x)·(1 + scale) + shift)))` of block `index`.
pub(in crate::model) fn mlp(
    ws: &Workspace,
    index: usize,
    [fc1, fc2]: [&Linear; 2],
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let table = block_table(ws, index)?;
    let (modulation, hidden) = (ws.modulation(&table), ws.get(HIDDEN));
    let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_MLP, scale: SCALE_MLP };
    modulated(ws, MODULATED, fc1, &modulate, Activation::GeluTanh, hidden)?;
    add_residual(ws, hidden, fc2, Some(&Gate { modulation, chunk: GATE_MLP }), added)
}

/// The final layer on the hidden state.
pub(in crate::model) fn final_layer(ws: &Workspace, patch: [usize; 3], layer: &Linear) -> Result<(), ModelError> {
    let modulation = ws.modulation(ws.get(FINAL_MODULATION));
    let modulate = Modulate { stats: ws.get(STATS), modulation, shift: SHIFT_FINAL, scale: SCALE_FINAL };
    modulated(ws, MODULATED, layer, &modulate, Activation::None, ws.get(FINAL_TOKENS))?;
    Ok(ops::embed::unpatchify(ws.get(FINAL_TOKENS), patch, ws.tokens(), ws.get(PREDICTION))?)
}

/// `x += gate · (a · wᵀ + bias)`, the end of a module; the added term also goes to `added`.
pub(in crate::model) fn add_residual(
    ws: &Workspace,
    a: &Tensor,
    Linear { weight, scales, bias }: &Linear,
    gate: Option<&Gate<'_>>,
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let residual = added.map(|added| Ok::<_, ModelError>((ws.rows(added.to)?, added.accumulate))).transpose()?;
    let residual = residual.as_ref().map(|(tensor, accumulate)| (tensor, *accumulate));
    let x = ws.rows(ws.x())?;
    match scales {
        None => ops::linear::linear_residual(a, weight, Some(bias), gate, &x, residual)?,
        Some(scales) => {
            let w = Rows { codes: weight, scales };
            ops::fp8::linear_residual(quantised(ws, a)?, w, Some(bias), gate, &x, residual)?;
        }
    }
    Ok(())
}
