//! Pieces of a forward pass that adaLN-modulated transformers share: the embedding of a time, a modulated linear layer, the end of a module.

use super::linear::Linear;
use crate::model::{Added, ModelError, Workspace};
use crate::ops::linear::{Activation, Gate, Modulate};
use crate::ops::{self, Modulation, norm};
use crate::tensor::Tensor;

/// Epsilon of every LayerNorm and RMSNorm.
pub(in crate::model) const NORM_EPS: f32 = 1e-6;
/// Width of the sinusoidal embedding of a time.
pub(in crate::model) const FREQUENCY_DIM: usize = 256;

/// Chunks of a block's modulation: shift, scale and gate for the attention, then for the MLP.
pub(in crate::model) const BLOCK_CHUNKS: usize = 6;
pub(in crate::model) const SHIFT_ATTN: usize = 0;
pub(in crate::model) const SCALE_ATTN: usize = 1;
pub(in crate::model) const GATE_ATTN: usize = 2;
const SHIFT_MLP: usize = 3;
const SCALE_MLP: usize = 4;
const GATE_MLP: usize = 5;
/// Chunks of the final layer's modulation: shift and scale.
pub(in crate::model) const FINAL_CHUNKS: usize = 2;
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

/// The modulation `[batch, variants, chunks, C]` of block `index` in that of all blocks.
pub(in crate::model) fn block_table(all: &Tensor, index: usize) -> Result<Tensor, ModelError> {
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

/// `out = activation(layer(LN(x)·(1 + scale) + shift))` of the hidden state x; makes its rows' statistics.
pub(in crate::model) fn modulated(
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

/// `x += gate · fc2(GELU(fc1(LN(x)·(1 + scale) + shift)))` with the MLP's chunks of `modulation`; `stats` and `hidden` are scratch.
pub(in crate::model) fn mlp(
    ws: &Workspace,
    [fc1, fc2]: [&Linear; 2],
    modulation: Modulation<'_>,
    [stats, hidden]: [&Tensor; 2],
    added: Option<Added<'_>>,
) -> Result<(), ModelError> {
    let modulate = Modulate { stats, modulation, shift: SHIFT_MLP, scale: SCALE_MLP };
    modulated(ws, fc1, &modulate, Activation::GeluTanh, hidden)?;
    add_residual(ws, hidden, fc2, Some(&Gate { modulation, chunk: GATE_MLP }), added)
}

/// `x += gate · (a · wᵀ + bias)`, the end of a module; the added term also goes to `added`.
pub(in crate::model) fn add_residual(
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
