//! The device memory of a generation's forwards: one allocation, in which what never lives at the same time shares its bytes.

use std::ops::RangeInclusive;

use super::dit::arena::{ALWAYS, Arena, Layout, Slot, Stage};
use super::error::ModelError;
use super::sizes::Geometry;
use crate::cache::{ModuleGroup, ProbePoint, Shapes, Site};
use crate::device::Device;
use crate::ops::attention::VideoDims;
use crate::ops::{Modulation, RowMap};
use crate::tensor::{DType, Tensor, TensorError};

/// The hidden state `[batch, frames, tokens, C]`: every model asks for it.
pub const X: Slot = Slot("x");
/// The prediction `[batch, out_channels, frames, height, width]` f32: every model asks for it.
pub const PREDICTION: Slot = Slot("prediction");
/// The times that are embedded.
const TIME: Slot = Slot("time");
/// `[batch, frames]` u8, where single frames may be held: which of them move.
const FRAME_MASK: Slot = Slot("frame_mask");
/// A residual on its way to its probe.
const FRESH: Slot = Slot("fresh");
/// Where a residual that is kept packed is unpacked for its probe, or waits for its step to be planned.
const UNPACKED: Slot = Slot("unpacked");
/// A residual on its way to where it is kept packed or in part.
const MODULE_RESIDUAL: Slot = Slot("module_residual");
/// What entered the blocks, where the fold is kept packed: behind a head or where a run of modules begins a copy, otherwise the embedding
/// made once more.
const ENTERED: Slot = Slot("entered");

/// What a workspace has room for beside the forward itself.
#[derive(Clone, Debug, Default)]
pub struct ResidualRoom {
    /// The residuals that are measured.
    pub probes: Vec<ProbePoint>,
    /// Whether residuals are kept packed.
    pub packed: bool,
    /// How many blocks run in every step before it is planned.
    pub head: usize,
    /// What is kept by itself.
    pub groups: Vec<ModuleGroup>,
    /// Whether of these only the conditional half is kept.
    pub conditional: bool,
}

impl ResidualRoom {
    /// Whether any run that is kept has one module, or several, as `fits` says of its length.
    fn keeps(&self, fits: fn(usize) -> bool) -> bool {
        self.groups.iter().flat_map(|group| &group.runs).any(|run| fits(run.len()))
    }

    fn folds_packed(&self) -> bool {
        self.packed && self.groups.is_empty()
    }

    /// The stage until which a model has to be able to embed the latents: a packed fold is made of the embedding once more, when the blocks
    /// are done; a head's output is copied.
    pub fn embeds_until(&self) -> Stage {
        if self.folds_packed() && self.head == 0 { Stage::Leave } else { Stage::Embed }
    }

    /// Asks for the buffers of residuals shaped `hidden`.
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

/// The stages in which a probed residual is on its way; none without probes.
fn probed_stages(probes: &[ProbePoint]) -> Option<RangeInclusive<Stage>> {
    let stages = probes.iter().filter_map(|probe| match probe {
        ProbePoint::Modulated => Some(Stage::Modulation..=Stage::Modulation),
        ProbePoint::Residual { site: Site::Attention, .. } => Some(Stage::Proj..=Stage::Proj),
        ProbePoint::Residual { site: Site::CrossMlp, .. } => Some(Stage::CrossProj..=Stage::Fc2),
        ProbePoint::Residual { site: Site::Whole, .. } => Some(Stage::Proj..=Stage::Fc2),
        ProbePoint::Latents | ProbePoint::ComputedLatents | ProbePoint::Fold | ProbePoint::Prediction => None,
    });
    stages.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end()))
}

/// All device memory a generation's forwards use. A model asks for its buffers by name; some are every model's.
pub struct Workspace {
    geometry: Geometry,
    /// Samples, frames and tokens of a frame, as the hidden state has them.
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
        Ok(Workspace { geometry, dims, tokens, arena: layout.allocate(device)? })
    }

    /// The buffer `slot`.
    ///
    /// # Panics
    /// If the model did not ask for it.
    pub fn get(&self, slot: Slot) -> &Tensor {
        self.arena.find(slot).unwrap_or_else(|| panic!("the workspace has no buffer `{}`", slot.0))
    }

    /// `tensor` as rows of its last axis.
    ///
    /// # Errors
    /// None of a buffer of the workspace.
    pub fn rows(&self, tensor: &Tensor) -> Result<Tensor, TensorError> {
        let width = *tensor.shape().last().unwrap_or(&1);
        tensor.reshape(&[tensor.elements() / width.max(1), width])
    }

    /// Samples, frames and tokens of a frame.
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

    /// `[batch · variants]` f32: the times that [`Transformer::embed_time`](crate::model::Transformer::embed_time) embeds, those of one sample
    /// side by side.
    pub fn time(&self) -> &Tensor {
        self.get(TIME)
    }

    /// Times of one sample: the step's, and with a frame mask time 0.
    pub fn variants(&self) -> usize {
        self.geometry.variants()
    }

    /// Which frames move `[batch, frames]` u8, where single frames may be held.
    pub(super) fn frame_mask(&self) -> Option<&Tensor> {
        self.arena.find(FRAME_MASK)
    }

    /// Room for a residual on its way to its probe.
    pub(super) fn fresh(&self) -> Option<&Tensor> {
        self.arena.find(FRESH)
    }

    /// Room for a residual that is kept packed, or that waits for its step to be planned.
    pub fn unpacked(&self) -> Option<&Tensor> {
        self.arena.find(UNPACKED)
    }

    /// Room for a residual on its way to where it is kept packed or in part.
    pub(super) fn module_residual(&self) -> Option<&Tensor> {
        self.arena.find(MODULE_RESIDUAL)
    }

    /// Room for what entered the blocks.
    pub(super) fn entered(&self) -> Option<&Tensor> {
        self.arena.find(ENTERED)
    }

    /// The shapes of what can be kept of a step.
    pub fn shapes(&self, z: &[usize]) -> Shapes {
        Shapes {
            hidden: self.x().shape().to_vec(),
            latents: z.to_vec(),
            prediction: self.prediction().shape().to_vec(),
            dtype: self.x().dtype(),
        }
    }

    /// The sizes it was made for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of its allocation: the most that a step needs at a time.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// The same memory for the conditional half of a guided batch alone, which is the first one.
    ///
    /// # Errors
    /// A batch that has no halves.
    pub fn conditional(&self) -> Result<Workspace, ModelError> {
        if !self.geometry.guided {
            return Err(ModelError::Input("a batch without guidance has no conditional half".into()));
        }
        Ok(Workspace {
            geometry: Geometry { guided: false, ..self.geometry },
            dims: VideoDims { batch: self.dims.batch / 2, ..self.dims },
            tokens: self.tokens,
            arena: self.arena.half()?,
        })
    }

    /// The modulation by `table` `[batch, variants, chunks, C]`, each frame's as the frame mask says.
    pub fn modulation<'a>(&'a self, table: &'a Tensor) -> Modulation<'a> {
        let rows = RowMap { frames: self.dims.frames, rows_per_frame: self.dims.tokens };
        Modulation { table, frame_mask: self.frame_mask(), rows }
    }

    /// Sets which frames of a frame-masked geometry move (`[batch, frames]`); there is none for another.
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
