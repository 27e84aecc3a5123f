//! The residuals kept on the device, and their measurement.
//!
//! Everything between the embedding and the final layer only adds to the hidden state, so the residuals of a whole forward fold
//! into one tensor: `fold = x_out − x_embed`. Kept are that fold and the probed residuals, nothing else; packed in 8 bits if asked for.

use super::{Decision, Measurement, ProbePoint, Probes};
use crate::device::{Device, DeviceError, PendingRead};
use crate::ops::decide::{DECISION_VALUES, Decider, DecisionRule, StepClock};
use crate::ops::pack::{PackError, Packed};
use crate::ops::{self, OpError, residual::ProbeBuffers};
use crate::tensor::{DType, Tensor};

/// What a store keeps.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What is measured.
    pub probes: Probes,
    /// Whether steps will be reused at all: only then is there a fold.
    pub fold: bool,
    /// Whether residuals are kept as e4m3 with a scale a row.
    pub packed: bool,
    /// How the device decides; `None`: it only measures.
    pub rule: Option<DecisionRule>,
}

/// A kept residual.
enum Kept {
    Whole(Tensor),
    Packed(Packed),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Kept::Whole(tensor) => tensor.bytes(),
            Kept::Packed(packed) => packed.bytes(),
        }
    }
}

/// Owns the fold and the probed residuals of one generation; all of it is allocated by [`ResidualStore::new`].
pub struct ResidualStore {
    device: Device,
    probes: Probes,
    batch: usize,
    fold: Option<Kept>,
    kept: Vec<Kept>,
    error: Option<PackError>,
    buffers: Vec<ProbeBuffers>,
    decider: Option<Decider>,
    clock: StepClock,
    /// The sums of all probes `[probes, batch, count]`, then what the device decided `[probes, 4]`, flat: one copy reads them.
    results: Tensor,
    /// `[probes, 4]`: the second part of `results`.
    decisions: Tensor,
    /// The copy of this forward's results, once its last probe was measured.
    reading: Option<PendingRead>,
    /// Whether `kept` holds residuals of an earlier step.
    filled: Vec<bool>,
    /// Whether `fold` holds the residuals of a computed step.
    folded: bool,
}

/// Measurements on their way from the device; awaited when the next step is planned.
pub struct PendingMeasurements {
    read: PendingRead,
    probes: usize,
    batch: usize,
    strides: usize,
    decided: bool,
}

impl PendingMeasurements {
    /// Waits for the copy and gives one measurement a probe; with it the decision of step `step`, if the device took one.
    pub fn wait(self, step: usize) -> Result<Vec<(Measurement, Option<Decision>)>, DeviceError> {
        let values: Vec<f64> = self.read.wait_as()?;
        let (sums, decisions) = values.split_at(values.len() - self.probes * DECISION_VALUES);
        let of_probe = sums.len() / self.probes.max(1);
        let decision = |v: &[f64]| {
            self.decided.then(|| Decision {
                step,
                distance: v[0],
                motion: v[1],
                motion_gradient: v[2],
                rate: v[3] as usize,
            })
        };
        let pairs = sums.chunks(of_probe.max(1)).zip(decisions.chunks(DECISION_VALUES));
        Ok(pairs.map(|(s, v)| (Measurement::from_sums(s, self.batch, self.strides), decision(v))).collect())
    }
}

impl ResidualStore {
    /// Allocates what `options` need for hidden states `[batch, frames, tokens, channels]`; `clock` counts the steps.
    pub fn new(
        device: &Device,
        options: StoreOptions,
        clock: &StepClock,
        shape: [usize; 4],
        dtype: DType,
    ) -> Result<Self, OpError> {
        let StoreOptions { probes, fold, packed, rule } = options;
        let residual = || -> Result<Kept, OpError> {
            Ok(if packed {
                Kept::Packed(Packed::new(device, &shape)?)
            } else {
                Kept::Whole(Tensor::empty(device, &shape, dtype)?)
            })
        };
        let (count, batch) = (probes.points.len(), shape[0]);
        let (results, buffers) =
            ProbeBuffers::several(device, count, batch, probes.strides.len(), count * DECISION_VALUES)?;
        let sums = results.elements() - count * DECISION_VALUES;
        Ok(ResidualStore {
            device: device.clone(),
            batch,
            fold: fold.then(residual).transpose()?,
            kept: probes.points.iter().map(|_| residual()).collect::<Result<_, _>>()?,
            error: if packed { Some(PackError::new(device)?) } else { None },
            buffers,
            decider: rule.map(|rule| Decider::new(device, rule, count)).transpose()?,
            clock: clock.clone(),
            decisions: results.slice_rows(sums, count * DECISION_VALUES)?.reshape(&[count, DECISION_VALUES])?,
            results,
            reading: None,
            filled: vec![false; count],
            folded: false,
            probes,
        })
    }

    /// Bytes held from one step to the next.
    pub fn bytes(&self) -> usize {
        self.fold.iter().chain(&self.kept).map(Kept::bytes).sum()
    }

    /// What packing lost so far, Σ|x − kept x| / Σ|x|; `None` when nothing is packed. Waits for the device.
    pub fn pack_error(&self) -> Result<Option<f64>, OpError> {
        self.error.as_ref().map(PackError::relative).transpose()
    }

    /// Which probe, if any, looks at `point`.
    pub fn probe_at(&self, point: ProbePoint) -> Option<usize> {
        self.probes.points.iter().position(|p| *p == point)
    }

    /// Measures `fresh` against the kept residual of `probe`, keeps `fresh` in its place, and lets the device decide if it does.
    /// `unpacked` is room for a residual that is kept packed.
    ///
    /// After the last probe the results start on their way to the host ([`ResidualStore::measurements`]), while the forward goes on; in
    /// a recording the graph ends here, and whoever replays it calls [`ResidualStore::read_results`] between its parts.
    pub fn probe(&mut self, probe: usize, fresh: &Tensor, unpacked: Option<&Tensor>) -> Result<(), OpError> {
        let first = !std::mem::replace(&mut self.filled[probe], true);
        let (strides, buffers) = (&self.probes.strides, &self.buffers[probe]);
        match (&self.kept[probe], unpacked, &self.error) {
            (Kept::Packed(packed), Some(unpacked), Some(error)) => {
                if !first {
                    packed.unpack(unpacked, false)?;
                }
                ops::residual::probe(fresh, unpacked, first, strides, buffers)?;
                packed.pack(fresh, error)?;
            }
            (Kept::Whole(kept), ..) => {
                ops::residual::probe(fresh, kept, first, strides, buffers)?;
            }
            (Kept::Packed(_), ..) => {
                return Err(ops::Op::on("ResidualStore::probe", &self.device).value(
                    "unpacked",
                    "none",
                    "room for a packed residual",
                ));
            }
        }
        // The first residual has nothing to be compared with.
        if let (Some(decider), false) = (&self.decider, first) {
            let decision = self.decisions.slice_rows(probe, 1)?.reshape(&[DECISION_VALUES])?;
            decider.decide(&self.clock, probe, buffers.sums(), &decision)?;
        }
        if probe + 1 == self.probes.points.len() && !self.device.cut() {
            self.read_results()?;
        }
        Ok(())
    }

    /// Starts the copy of this forward's results to the host.
    pub fn read_results(&mut self) -> Result<(), DeviceError> {
        self.reading = Some(self.results.read_async()?);
        Ok(())
    }

    /// The results of the forward just queued, on their way; `None` without probes.
    pub fn measurements(&mut self) -> Option<PendingMeasurements> {
        Some(PendingMeasurements {
            read: self.reading.take()?,
            probes: self.probes.points.len(),
            batch: self.batch,
            strides: self.probes.strides.len(),
            decided: self.decider.is_some(),
        })
    }

    /// Remembers the embedding `x` that enters the blocks, unless it is made again for [`ResidualStore::leave`].
    pub fn enter(&mut self, x: &Tensor) -> Result<(), OpError> {
        match &self.fold {
            Some(Kept::Whole(fold)) => Ok(fold.copy_from(x)?),
            _ => Ok(()),
        }
    }

    /// Whether [`ResidualStore::leave`] has to be given the embedding.
    pub fn needs_embedding(&self) -> bool {
        matches!(self.fold, Some(Kept::Packed(_)))
    }

    /// Folds the blocks' residuals: `fold = x − x_embed`, where `x` has left the last block. `embedding` is overwritten.
    pub fn leave(&mut self, x: &Tensor, embedding: Option<&Tensor>) -> Result<(), OpError> {
        self.folded = true;
        match (&self.fold, embedding, &self.error) {
            (Some(Kept::Whole(fold)), ..) => ops::residual::fold(x, fold, fold),
            (Some(Kept::Packed(fold)), Some(embedding), Some(error)) => {
                ops::residual::fold(x, embedding, embedding)?;
                fold.pack(embedding, error)
            }
            (Some(Kept::Packed(_)), ..) => {
                let op = ops::Op::on("ResidualStore::leave", &self.device);
                Err(op.value("embedding", "none", "the embedding, to make a packed fold of"))
            }
            (None, ..) => Ok(()),
        }
    }

    /// Whether there is a fold to reuse: one is kept, and a step has been computed.
    pub fn can_unfold(&self) -> bool {
        self.fold.is_some() && self.folded
    }

    /// A reused step: `x = x_embed + fold`, in place. Does nothing unless [`ResidualStore::can_unfold`].
    pub fn unfold(&self, x: &Tensor) -> Result<(), OpError> {
        match &self.fold {
            Some(Kept::Whole(fold)) if self.folded => ops::residual::unfold(x, fold, x),
            Some(Kept::Packed(fold)) if self.folded => fold.unpack(x, true),
            _ => Ok(()),
        }
    }
}
