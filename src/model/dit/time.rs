//! The time of a step: its embedding, and the adaLN modulation of the blocks and of the final layer that is made of it.

use super::buffers::{BLOCK_CHUNKS, BLOCK_MODULATION, EMBED_HIDDEN, FINAL_CHUNKS, FINAL_MODULATION, SINUSOID};
use super::linear::Linear;
use super::pieces::embed_scalar;
use crate::model::ModelError;
use crate::model::workspace::{TIME_CHUNKS, TIME_EMBED, Workspace};
use crate::ops;
use crate::tensor::Tensor;

/// The weights of the time's way into a model.
pub(in crate::model) struct TimeWeights {
    /// The embedding of the time.
    pub(in crate::model) mlp: [Linear; 2],
    /// Its projection to the six chunks of a block.
    pub(in crate::model) projection: Linear,
    /// `[blocks, 6, C]`: one scale-shift table per block, in execution order.
    pub(in crate::model) block_tables: Tensor,
    /// `[1, 2, C]`
    pub(in crate::model) final_table: Tensor,
}

impl TimeWeights {
    /// The time's embedding, to which `add` is added, and the final layer's modulation.
    pub(in crate::model) fn embed(&self, ws: &Workspace, add: Option<&Tensor>) -> Result<(), ModelError> {
        let embed = ws.get(TIME_EMBED);
        embed_scalar(ws.time(), &self.mlp, add, scratch(ws), embed)?;
        let [conditions, c] = [embed.shape()[0], embed.shape()[1]];
        let time = embed.reshape(&[conditions, 1, c])?;
        let modulation = ws.get(FINAL_MODULATION).reshape(&[1, conditions, FINAL_CHUNKS, c])?;
        Ok(ops::embed::modulation(&self.final_table, &time, &modulation)?)
    }

    /// The blocks' modulation at the current time: Linear(SiLU(t)) plus each block's table.
    pub(in crate::model) fn modulate(&self, ws: &Workspace) -> Result<(), ModelError> {
        let embed = ws.get(TIME_EMBED);
        let [conditions, c] = [embed.shape()[0], embed.shape()[1]];
        let Linear { weight, bias, .. } = &self.projection;
        let chunks = ws.get(TIME_CHUNKS).reshape(&[conditions, BLOCK_CHUNKS * c])?;
        ops::embed::small_linear(embed, weight, Some(bias), None, true, &chunks)?;
        let blocks = self.block_tables.shape()[0];
        let modulation = ws.get(BLOCK_MODULATION).reshape(&[blocks, conditions, BLOCK_CHUNKS, c])?;
        Ok(ops::embed::modulation(&self.block_tables, ws.get(TIME_CHUNKS), &modulation)?)
    }
}

/// The scratch space of [`embed_scalar`].
pub(in crate::model) fn scratch(ws: &Workspace) -> [&Tensor; 2] {
    [ws.get(SINUSOID), ws.get(EMBED_HIDDEN)]
}
