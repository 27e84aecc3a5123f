//! The tensors kept from a forward pass on the device.

use std::ops::Range;

use super::groups::{GroupSet, ModuleGroup};
use super::point::ProbePoint;
use super::policy::Extrapolation;
use crate::device::Device;
use crate::ops::decide::StepClock;
use crate::ops::pack::Packed;
use crate::ops::{self, OpError};
use crate::tensor::{DType, Tensor};

/// The shapes of a step's tensors.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// Hidden states and residuals `[batch, frames, tokens, channels]`.
    pub hidden: Vec<usize>,
    /// Latents `[videos, channels, frames, height, width]` f32.
    pub latents: Vec<usize>,
    /// Predictions `[batch, channels, frames, height, width]` f32.
    pub prediction: Vec<usize>,
    /// The time's embedding and its projection, f32, the batch along the first axis; empty in a model without them.
    pub time: [Vec<usize>; 2],
    /// Tokens along (time, height, width).
    pub grid: [usize; 3],
    /// The element type of hidden states.
    pub dtype: DType,
}

impl Shapes {
    /// The shape of the f32 tensor that is measured at `point`; `None`: a residual.
    pub(super) fn at(&self, point: ProbePoint) -> Option<&[usize]> {
        match point {
            ProbePoint::Latents | ProbePoint::ComputedLatents => Some(&self.latents),
            ProbePoint::Prediction => Some(&self.prediction),
            ProbePoint::Time => Some(&self.time[0]),
            ProbePoint::TimeProjection => Some(&self.time[1]),
            ProbePoint::Modulated | ProbePoint::Filtered | ProbePoint::Residual { .. } | ProbePoint::Fold => None,
        }
    }
}

/// A kept residual.
pub(super) enum Kept {
    Whole(Tensor),
    Packed(Packed),
}

impl Kept {
    /// Room for a residual.
    pub(super) fn new(device: &Device, shape: &[usize], dtype: DType, packed: bool) -> Result<Kept, OpError> {
        if packed {
            Ok(Kept::Packed(Packed::new(device, shape)?))
        } else {
            Ok(Kept::Whole(Tensor::empty(device, shape, dtype)?))
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Kept::Whole(tensor) => tensor.bytes(),
            Kept::Packed(packed) => packed.bytes(),
        }
    }

    /// `x += kept`
    pub(super) fn add_to(&self, x: &Tensor) -> Result<(), OpError> {
        match self {
            Kept::Whole(kept) => ops::residual::unfold(x, kept, x),
            Kept::Packed(kept) => kept.unpack(x, true),
        }
    }
}

/// The kept sum of a run of modules.
pub(super) struct KeptRun {
    pub(super) modules: Range<usize>,
    group: usize,
    pub(super) kept: Kept,
}

/// All runs of a policy's groups, and which of them the current step reuses and keeps.
pub(super) struct KeptRuns {
    runs: Vec<KeptRun>,
    reused: GroupSet,
    kept: GroupSet,
}

impl KeptRuns {
    /// `room` allocates a run's tensor.
    pub(super) fn new(groups: Vec<ModuleGroup>, room: impl Fn() -> Result<Kept, OpError>) -> Result<KeptRuns, OpError> {
        let runs =
            groups.into_iter().enumerate().flat_map(|(group, of)| of.runs.into_iter().map(move |run| (group, run)));
        let runs = runs.map(|(group, modules)| Ok(KeptRun { modules, group, kept: room()? }));
        Ok(KeptRuns {
            runs: runs.collect::<Result<_, OpError>>()?,
            reused: GroupSet::default(),
            kept: GroupSet::default(),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.kept.bytes()).sum()
    }

    pub(super) fn begin(&mut self, reused: GroupSet, kept: GroupSet) {
        (self.reused, self.kept) = (reused, kept);
    }

    /// The reused run that begins at `module`.
    pub(super) fn reused_at(&self, module: usize) -> Option<&KeptRun> {
        self.runs.iter().find(|run| self.reused.contains(run.group) && run.modules.start == module)
    }

    /// The run to keep that consists of `module` alone.
    pub(super) fn single_at(&self, module: usize) -> Option<&Kept> {
        self.to_keep(|modules| *modules == (module..module + 1))
    }

    /// The run of several modules to keep that begins at `module`.
    pub(super) fn entered_at(&self, module: usize) -> Option<&Kept> {
        self.to_keep(|modules| modules.start == module && modules.len() > 1)
    }

    /// The run of several modules to keep that ends with `module`.
    pub(super) fn left_at(&self, module: usize) -> Option<&Kept> {
        self.to_keep(|modules| modules.end == module + 1 && modules.len() > 1)
    }

    fn to_keep(&self, fits: impl Fn(&Range<usize>) -> bool) -> Option<&Kept> {
        let run = self.runs.iter().find(|run| self.kept.contains(run.group) && fits(&run.modules));
        run.map(|run| &run.kept)
    }
}

/// What the blocks after the head add, of a batch or of a half of it.
pub(super) struct Fold {
    pub(super) kept: Kept,
    history: Option<History>,
}

impl Fold {
    /// Room for a fold of this shape, and for the older ones that are needed to extrapolate it.
    pub(super) fn new(
        device: &Device,
        shape: &[usize],
        dtype: DType,
        packed: bool,
        extrapolates: Option<Extrapolation>,
    ) -> Result<Fold, OpError> {
        let history =
            extrapolates.map(|extrapolation| History::new(device, extrapolation, shape, dtype)).transpose()?;
        Ok(Fold { kept: Kept::new(device, shape, dtype, packed)?, history })
    }

    pub(super) fn bytes(&self) -> usize {
        self.kept.bytes() + self.history.as_ref().map_or(0, History::bytes)
    }

    /// Before the blocks that add to `x`: saves it in place of the fold, unless that is packed. `folded`: there is a fold of an earlier step.
    pub(super) fn enter(&self, x: &Tensor, folded: bool, clock: &StepClock) -> Result<(), OpError> {
        let Kept::Whole(fold) = &self.kept else { return Ok(()) };
        if let Some(history) = &self.history {
            history.shift(folded.then_some(fold), clock)?;
        }
        Ok(fold.copy_from(x)?)
    }

    /// `x +=` the fold, or the one extrapolated to the step that `clock` began.
    pub(super) fn unfold(&self, x: &Tensor, clock: &StepClock) -> Result<(), OpError> {
        match (&self.kept, &self.history) {
            (Kept::Whole(fold), Some(history)) => history.unfold(fold, clock, x),
            (kept, _) => kept.add_to(x),
        }
    }
}

/// Folds of computed steps before the last one, for extrapolation.
struct History {
    damping: f32,
    /// Newest first.
    older: Vec<Tensor>,
    /// `[3]` i32: the steps of the last fold and of the older ones; 0 if there is none yet.
    computed: Tensor,
}

impl History {
    fn new(
        device: &Device,
        Extrapolation { order, damping }: Extrapolation,
        shape: &[usize],
        dtype: DType,
    ) -> Result<History, OpError> {
        let older = (0..order).map(|_| Tensor::empty(device, shape, dtype));
        Ok(History {
            damping: damping as f32,
            older: older.collect::<Result<_, _>>()?,
            computed: Tensor::from_slice(device, &[3], &[0i32; 3])?,
        })
    }

    fn bytes(&self) -> usize {
        self.older.iter().map(Tensor::bytes).sum()
    }

    /// Saves `fold`, the last one if there is any, as an older fold before the step that `clock` began overwrites it.
    fn shift(&self, fold: Option<&Tensor>, clock: &StepClock) -> Result<(), OpError> {
        if let Some(fold) = fold {
            let step = |i: usize| self.computed.slice_rows(i, 1);
            for i in (0..self.older.len()).rev() {
                self.older[i].copy_from(if i == 0 { fold } else { &self.older[i - 1] })?;
                step(i + 1)?.copy_from(&step(i)?)?;
            }
        }
        Ok(self.computed.slice_rows(0, 1)?.copy_from(clock.cursor())?)
    }

    /// `x +=` the extrapolated fold for the step that `clock` began.
    fn unfold(&self, fold: &Tensor, clock: &StepClock, x: &Tensor) -> Result<(), OpError> {
        let folds: Vec<&Tensor> = std::iter::once(fold).chain(&self.older).collect();
        ops::residual::extrapolate(x, &folds, &self.computed, clock.cursor(), self.damping, x)
    }
}
