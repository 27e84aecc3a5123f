//! The buffers of a forward that adaLN-modulated transformers share.

use super::arena::{ALWAYS, Layout, Samples, Slot, Stage};
use crate::device::Device;
use crate::model::ModelError;
use crate::model::sizes::Geometry;
use crate::model::workspace::{FP8_ERROR, FP8_PARTIAL, PREDICTION, ResidualRoom, TIME_CHUNKS, TIME_EMBED, X};
use crate::ops::fp8::serves;
use crate::ops::linear::norms_apart;
use crate::ops::params::PACK_MAX_BLOCKS;
use crate::tensor::DType;

/// Width of the sinusoidal embedding of a time.
pub(in crate::model) const FREQUENCY_DIM: usize = 256;
/// Chunks of a block's modulation: shift, scale and gate for the attention, then for the MLP.
pub(in crate::model) const BLOCK_CHUNKS: usize = 6;
/// Chunks of the final layer's modulation: shift and scale.
pub(in crate::model) const FINAL_CHUNKS: usize = 2;

/// The self-attention's queries, keys and values.
pub(in crate::model) const QKV: Slot = Slot("qkv");
/// Output of the self-attention and of the cross-attention: `[rows, C]`.
pub(in crate::model) const ATTENDED: Slot = Slot("attended");
pub(in crate::model) const CROSSED: Slot = Slot("crossed");
/// The cross-attention's queries.
pub(in crate::model) const Q: Slot = Slot("q");
/// The MLP's hidden state.
pub(in crate::model) const HIDDEN: Slot = Slot("hidden");
/// Mean and 1/deviation of every row of the hidden state.
pub(in crate::model) const STATS: Slot = Slot("stats");
/// The MLP's normed and modulated input, where products read it so ([`norms_apart`]). That of the attentions goes where their output will be.
pub(in crate::model) const MODULATED: Slot = Slot("modulated");
/// The operand of a product in e4m3: `[rows, C]`, that of the MLP's last layer, and the scales of the rows.
pub(in crate::model) const CODES: Slot = Slot("codes");
pub(in crate::model) const HIDDEN_CODES: Slot = Slot("hidden_codes");
pub(in crate::model) const SCALES: Slot = Slot("scales");
/// The latents, per token.
pub(in crate::model) const PATCHES: Slot = Slot("patches");
/// Output of the final layer, per token.
pub(in crate::model) const FINAL_TOKENS: Slot = Slot("final_tokens");
/// Scratch space of the embedding of a time.
pub(in crate::model) const SINUSOID: Slot = Slot("sinusoid");
pub(in crate::model) const EMBED_HIDDEN: Slot = Slot("embed_hidden");
/// The modulation `[blocks, batch, variants, 6, C]` of all blocks, and `[batch, variants, 2, C]` of the final layer.
pub(in crate::model) const BLOCK_MODULATION: Slot = Slot("block_modulation");
pub(in crate::model) const FINAL_MODULATION: Slot = Slot("final_modulation");

/// The sizes of a model at a geometry.
pub(in crate::model) struct Sizes {
    /// Tokens along (time, height, width).
    pub(in crate::model) tokens: [usize; 3],
    /// Channels C of the hidden state.
    pub(in crate::model) width: usize,
    /// Hidden width of the MLP.
    pub(in crate::model) hidden: usize,
    /// Latent elements of one channel in a patch.
    pub(in crate::model) patch: usize,
    /// Channels of the latents and of the prediction.
    pub(in crate::model) channels: [usize; 2],
    pub(in crate::model) blocks: usize,
    pub(in crate::model) dtype: DType,
    /// Whether the large products of blocks are in e4m3.
    pub(in crate::model) fp8: bool,
}

/// The table of the shared buffers on a device; a model adds its own.
///
/// # Errors
/// A size that overflows.
pub(in crate::model) fn layout(
    device: &Device,
    geometry: &Geometry,
    sizes: &Sizes,
    room: &ResidualRoom,
) -> Result<Layout, ModelError> {
    let Sizes { tokens: [t, h, w], width: c, hidden, patch, channels: [channels, predicted], blocks, dtype, fp8 } =
        *sizes;
    let (batch, variants, conditions) = (geometry.batch(), geometry.variants(), geometry.conditions());
    let (rows, d, f) = (batch * t * h * w, dtype, DType::F32);
    let latents = [batch, predicted, geometry.frames, geometry.height, geometry.width];
    let modulation = [blocks, batch, variants, BLOCK_CHUNKS, c];
    // Rows of e4m3 are normed as they are made.
    let apart = |n: &usize| !(fp8 && serves([*n, c])) && norms_apart(device, d, [rows, *n, c]);
    let apart = [c, 3 * c, hidden].iter().any(apart);
    let mut table = Layout::default();
    table.add(X, &[batch, t, h * w, c], d, Stage::Embed..=Stage::Final)?;
    table.add(QKV, &[rows, 3 * c], d, Stage::Qkv..=Stage::Attention)?;
    table.add(ATTENDED, &[rows, c], d, if apart { Stage::Qkv } else { Stage::Attention }..=Stage::Proj)?;
    table.add(Q, &[rows, c], d, Stage::CrossQ..=Stage::Cross)?;
    table.add(CROSSED, &[rows, c], d, if apart { Stage::CrossQ } else { Stage::Cross }..=Stage::CrossProj)?;
    table.add(HIDDEN, &[rows, hidden], d, Stage::Fc1..=Stage::Fc2)?;
    if apart {
        table.add(MODULATED, &[rows, c], d, Stage::Fc1..=Stage::Final)?;
    }
    if fp8 {
        // One for both, where they are equal.
        let last = if hidden == c { Stage::Fc2 } else { Stage::Fc1 };
        table.add(CODES, &[rows, c], DType::U8, Stage::Qkv..=last)?;
        table.add(HIDDEN_CODES, &[rows, hidden], DType::U8, Stage::Fc2..=Stage::Fc2)?;
        table.add(SCALES, &[rows], f, Stage::Qkv..=Stage::Fc2)?;
        let of_blocks = [PACK_MAX_BLOCKS, 2];
        table.add_with(FP8_PARTIAL, Samples::None, &of_blocks, f, Stage::Qkv..=Stage::Fc2)?;
        table.add_with(FP8_ERROR, Samples::None, &[2], DType::F64, ALWAYS)?;
    }
    table.add(STATS, &[rows, 2], f, Stage::Qkv..=Stage::Final)?;
    table.add(PATCHES, &[rows, channels * patch], d, Stage::Embed..=room.embeds_until())?;
    table.add(FINAL_TOKENS, &[rows, predicted * patch], d, Stage::Final..=Stage::Unpatchify)?;
    table.add(PREDICTION, &latents, f, Stage::Unpatchify..=Stage::Update)?;
    table.add(SINUSOID, &[conditions, FREQUENCY_DIM], f, Stage::Time..=Stage::Time)?;
    table.add(EMBED_HIDDEN, &[conditions, c], f, Stage::Time..=Stage::Time)?;
    table.add(TIME_EMBED, &[conditions, c], f, Stage::Time..=Stage::Modulation)?;
    table.add(TIME_CHUNKS, &[conditions, BLOCK_CHUNKS, c], f, Stage::Modulation..=Stage::Modulation)?;
    table.add_with(BLOCK_MODULATION, Samples::Axis(1), &modulation, f, Stage::Modulation..=Stage::Fc2)?;
    table.add(FINAL_MODULATION, &[batch, variants, FINAL_CHUNKS, c], f, Stage::Time..=Stage::Final)?;
    room.add_to(&mut table, &[batch, t, h * w, c], d)?;
    Ok(table)
}
