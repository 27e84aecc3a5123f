//! The device memory of a generation's forward passes: one allocation, in which buffers that never live at the same time share bytes.

use std::ops::RangeInclusive;

use super::dit::arena::{ALWAYS, Arena, Layout, Slot, Stage};
use super::error::ModelError;
use super::sizes::Geometry;
use crate::cache::{Half, ModuleGroup, ProbePoint, Shapes, Site};
use crate::device::Device;
use crate::ops::attention::VideoDims;
use crate::ops::pack::PackError;
use crate::ops::{Modulation, OpError, RowMap};
use crate::tensor::{DType, Tensor, TensorError};

/// The hidden state `[batch, frames, tokens, C]`; every model has it.
pub const X: Slot = Slot("x");
/// The prediction `[batch, out_channels, frames, height, width]` f32; every model has it.
pub const PREDICTION: Slot = Slot("prediction");
/// The time's embedding `[conditions, C]` f32, in models modulated by the time.
pub const TIME_EMBED: Slot = Slot("time_embed");
/// Its projection `[conditions, chunks, C]` f32, from which the blocks' modulation is made.
pub const TIME_CHUNKS: Slot = Slot("time_chunks");
/// The times to embed.
const TIME: Slot = Slot("time");
/// `[batch, frames]` u8, if single frames may be frozen: which frames move.
const FRAME_MASK: Slot = Slot("frame_mask");
/// A residual on its way to its probe.
const FRESH: Slot = Slot("fresh");
/// A packed residual, unpacked for its probe, or a residual that waits until its step is planned.
const UNPACKED: Slot = Slot("unpacked");
/// A residual on its way to the store, if it is kept packed or in part.
const MODULE_RESIDUAL: Slot = Slot("module_residual");
/// What is lost by rows that are made e4m3, for products of blocks: sums of a pass, and of all, of a generation.
pub(super) const FP8_PARTIAL: Slot = Slot("fp8_partial");
pub(super) const FP8_ERROR: Slot = Slot("fp8_error");
/// The input of the blocks, if the fold is kept packed: a copy after a head or where a run of modules begins, otherwise the embedding
/// computed again.
const ENTERED: Slot = Slot("entered");

/// The buffers of a workspace besides those of the forward pass itself.
#[derive(Clone, Debug, Default)]
pub struct ResidualRoom {
    /// The measured residuals.
    pub probes: Vec<ProbePoint>,
    /// Whether residuals are kept packed.
    pub packed: bool,
    /// The number of blocks that run in every step before it is planned.
    pub head: usize,
    /// The module groups that are kept separately.
    pub groups: Vec<ModuleGroup>,
    /// Whether only the conditional half of the groups is kept.
    pub conditional: bool,
    /// Whether the fold of each half of guidance is kept on its own.
    pub halves: bool,
}

impl ResidualRoom {
    /// Whether any kept run has a length for which `fits` is true.
    fn keeps(&self, fits: fn(usize) -> bool) -> bool {
        self.groups.iter().flat_map(|group| &group.runs).any(|run| fits(run.len()))
    }

    fn folds_packed(&self) -> bool {
        self.packed && self.groups.is_empty()
    }

    /// The last stage in which a model must be able to embed the latents: a packed fold needs the embedding again after the last block; the
    /// output of a head is copied.
    pub fn embeds_until(&self) -> Stage {
        if self.folds_packed() && self.head == 0 { Stage::Leave } else { Stage::Embed }
    }

    /// Adds the buffers for residuals of shape `hidden`.
    ///
    /// # Errors
    /// As [`Layout::add`].
    pub fn add_to(&self, layout: &mut Layout, hidden: &[usize], dtype: DType) -> Result<(), TensorError> {
        if let Some(life) = probed_stages(&self.probes) {
            layout.add(FRESH, hidden, dtype, life.clone())?;
            if self.packed || self.head > 0 {
                layout.add(UNPACKED, hidden, dtype, life)?;
            }
        }
        let runs = self.packed && self.keeps(|modules| modules > 1);
        if self.folds_packed() || runs {
            let from = if self.head > 0 || runs { Stage::Qkv } else { Stage::Leave };
            layout.add(ENTERED, hidden, dtype, from..=Stage::Leave)?;
        }
        if (self.packed || self.conditional) && self.keeps(|modules| modules == 1) {
            layout.add(MODULE_RESIDUAL, hidden, dtype, Stage::Proj..=Stage::Fc2)?;
        }
        Ok(())
    }
}

/// The stages in which a probed residual is in flight; `None` without probes.
fn probed_stages(probes: &[ProbePoint]) -> Option<RangeInclusive<Stage>> {
    let stages = probes.iter().filter_map(|probe| match probe {
        ProbePoint::Modulated | ProbePoint::Filtered => Some(Stage::Modulation..=Stage::Modulation),
        ProbePoint::Residual { site: Site::Attention, .. } => Some(Stage::Proj..=Stage::Proj),
        ProbePoint::Residual { site: Site::CrossMlp, .. } => Some(Stage::CrossProj..=Stage::Fc2),
        ProbePoint::Residual { site: Site::Whole, .. } => Some(Stage::Proj..=Stage::Fc2),
        ProbePoint::Latents
        | ProbePoint::Time
        | ProbePoint::TimeProjection
        | ProbePoint::ComputedLatents
        | ProbePoint::Fold
        | ProbePoint::Prediction => None,
    });
    stages.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end()))
}

/// All device memory of a generation's forward passes. A model requests its buffers by name; some belong to every model.
pub struct Workspace {
    geometry: Geometry,
    /// Samples, frames and tokens per frame of the hidden state.
    dims: VideoDims,
    /// Tokens along (time, height, width).
    tokens: [usize; 3],
    arena: Arena,
}

impl Workspace {
    /// Allocates the buffers of `layout`, and the time's, for a hidden state of `tokens` along (time, height, width).
    ///
    /// # Errors
    /// Out of memory.
    pub fn allocate(
        device: &Device,
        geometry: Geometry,
        tokens: [usize; 3],
        mut layout: Layout,
    ) -> Result<Workspace, ModelError> {
        let [frames, height, width] = tokens;
        let dims = VideoDims { batch: geometry.batch(), frames, tokens: height * width };
        layout.add(TIME, &[geometry.conditions()], DType::F32, Stage::Time..=Stage::Time)?;
        if geometry.frame_masked {
            layout.add(FRAME_MASK, &[dims.batch, frames], DType::U8, ALWAYS)?;
        }
        let arena = layout.allocate(device)?;
        arena.find(FP8_ERROR).map_or(Ok(()), |totals| totals.fill_bytes(0))?;
        Ok(Workspace { geometry, dims, tokens, arena })
    }

    /// The buffer `slot`.
    ///
    /// # Panics
    /// If the model did not request it.
    pub fn get(&self, slot: Slot) -> &Tensor {
        self.arena.find(slot).unwrap_or_else(|| panic!("the workspace has no buffer `{}`", slot.0))
    }

    /// The buffer `slot`, if the model requested it.
    pub(super) fn find(&self, slot: Slot) -> Option<&Tensor> {
        self.arena.find(slot)
    }

    /// `tensor` as rows of its last axis.
    ///
    /// # Errors
    /// `tensor` is not a buffer of the workspace.
    pub fn rows(&self, tensor: &Tensor) -> Result<Tensor, TensorError> {
        let width = *tensor.shape().last().unwrap_or(&1);
        tensor.reshape(&[tensor.elements() / width.max(1), width])
    }

    /// Samples, frames and tokens per frame.
    pub fn dims(&self) -> &VideoDims {
        &self.dims
    }

    /// Tokens along (time, height, width).
    pub fn tokens(&self) -> [usize; 3] {
        self.tokens
    }

    /// The hidden state `[batch, frames, tokens, C]`.
    pub fn x(&self) -> &Tensor {
        self.get(X)
    }

    /// The last prediction `[batch, out_channels, frames, height, width]` f32.
    pub fn prediction(&self) -> &Tensor {
        self.get(PREDICTION)
    }

    /// `[batch · variants]` f32: the times that [`Transformer::embed_time`](crate::model::Transformer::embed_time) embeds, those of one
    /// sample adjacent.
    pub fn time(&self) -> &Tensor {
        self.get(TIME)
    }

    /// The number of times per sample: the step's, and time 0 with a frame mask.
    pub fn variants(&self) -> usize {
        self.geometry.variants()
    }

    /// Which frames move `[batch, frames]` u8, if single frames may be frozen.
    pub(super) fn frame_mask(&self) -> Option<&Tensor> {
        self.arena.find(FRAME_MASK)
    }

    /// The time's embedding or its projection, if the model has them.
    pub fn time_signal(&self, point: ProbePoint) -> Option<&Tensor> {
        match point {
            ProbePoint::Time => self.arena.find(TIME_EMBED),
            ProbePoint::TimeProjection => self.arena.find(TIME_CHUNKS),
            _ => None,
        }
    }

    /// Scratch space for a residual on its way to its probe.
    pub(super) fn fresh(&self) -> Option<&Tensor> {
        self.arena.find(FRESH)
    }

    /// Scratch space for a packed residual, or for one that waits until its step is planned.
    pub fn unpacked(&self) -> Option<&Tensor> {
        self.arena.find(UNPACKED)
    }

    /// Where the error of rows that are made e4m3 adds up, if there are products of such rows.
    pub(super) fn fp8_error(&self) -> Option<PackError> {
        Some(PackError::at(self.find(FP8_PARTIAL)?, self.find(FP8_ERROR)?))
    }

    /// The error of all rows that were made e4m3 so far, Σ|x − packed x| / Σ|x|; `None` without products of such rows. Waits for the device.
    ///
    /// # Errors
    /// Faults of earlier kernels.
    pub fn activation_error(&self) -> Result<Option<f64>, OpError> {
        self.fp8_error().as_ref().map(PackError::relative).transpose()
    }

    /// Scratch space for a residual that is kept packed or in part.
    pub(super) fn module_residual(&self) -> Option<&Tensor> {
        self.arena.find(MODULE_RESIDUAL)
    }

    /// Scratch space for the input of the blocks.
    pub(super) fn entered(&self) -> Option<&Tensor> {
        self.arena.find(ENTERED)
    }

    /// The shapes of the tensors that can be kept from a step.
    pub fn shapes(&self, z: &[usize]) -> Shapes {
        Shapes {
            hidden: self.x().shape().to_vec(),
            latents: z.to_vec(),
            prediction: self.prediction().shape().to_vec(),
            time: [TIME_EMBED, TIME_CHUNKS].map(|slot| self.arena.find(slot).map_or(vec![], |t| t.shape().to_vec())),
            grid: self.tokens,
            dtype: self.x().dtype(),
        }
    }

    /// The sizes it was allocated for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of its allocation: the peak of a step.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// The same memory for a half of a guided batch alone: its hidden state, prediction and times are those of that half.
    ///
    /// # Errors
    /// A batch without guidance, which has no halves.
    pub fn half(&self, half: Half) -> Result<Workspace, ModelError> {
        if !self.geometry.guided {
            return Err(ModelError::Input("a batch without guidance has no halves".into()));
        }
        Ok(Workspace {
            geometry: Geometry { guided: false, ..self.geometry },
            dims: VideoDims { batch: self.dims.batch / 2, ..self.dims },
            tokens: self.tokens,
            arena: self.arena.half(half)?,
        })
    }

    /// The modulation by `table` `[batch, variants, chunks, C]`, selected per frame by the frame mask.
    pub fn modulation<'a>(&'a self, table: &'a Tensor) -> Modulation<'a> {
        let rows = RowMap { frames: self.dims.frames, rows_per_frame: self.dims.tokens };
        Modulation { table, frame_mask: self.frame_mask(), rows }
    }

    /// Sets which frames of a frame-masked geometry move (`[batch, frames]`); other geometries take `None`.
    pub fn set_frame_mask(&self, frame_mask: Option<&[bool]>) -> Result<(), ModelError> {
        match (self.frame_mask(), frame_mask) {
            (Some(tensor), Some(mask)) if mask.len() == tensor.elements() => {
                Ok(tensor.write_slice(&mask.iter().map(|m| *m as u8).collect::<Vec<u8>>())?)
            }
            (None, None) => Ok(()),
            (tensor, mask) => Err(ModelError::Input(format!(
                "the frame mask has {} entries, expected {}",
                mask.map_or(0, <[bool]>::len),
                tensor.map_or(0, Tensor::elements)
            ))),
        }
    }
}
