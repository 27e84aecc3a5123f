//! The residuals kept on the device, and their measurement.
//!
//! Everything between the embedding and the final layer only adds to the hidden state, so the residuals of a whole forward fold
//! into one tensor: `fold = x_out − x_embed`. Kept are that fold and the probed residuals, nothing else.

use super::{Measurement, ProbePoint, Probes};
use crate::device::{Device, DeviceError, PendingRead};
use crate::ops::{self, OpError, residual::ProbeBuffers};
use crate::tensor::{DType, Tensor};

/// Owns the fold and the probed residuals of one generation; all of it is allocated by [`ResidualStore::new`].
pub struct ResidualStore {
    probes: Probes,
    batch: usize,
    fold: Option<Tensor>,
    kept: Vec<Tensor>,
    buffers: Vec<ProbeBuffers>,
    /// The sums of all probes `[probes, batch, count]`, side by side: one copy reads them.
    sums: Tensor,
    /// Whether `kept` holds residuals of an earlier step.
    filled: Vec<bool>,
    /// Whether `fold` holds the residuals of a computed step.
    folded: bool,
}

/// Sums on their way from the device; awaited when the next step is planned.
pub struct PendingMeasurements {
    read: PendingRead,
    probes: usize,
    batch: usize,
    strides: usize,
}

impl PendingMeasurements {
    /// Waits for the copy and gives one measurement a probe.
    pub fn wait(self) -> Result<Vec<Measurement>, DeviceError> {
        let sums: Vec<f64> = self.read.wait_as()?;
        let of_probe = sums.len() / self.probes.max(1);
        Ok(sums.chunks(of_probe.max(1)).map(|s| Measurement::from_sums(s, self.batch, self.strides)).collect())
    }
}

impl ResidualStore {
    /// Allocates what `probes` needs for hidden states `[batch, frames, tokens, channels]`; `fold` says whether steps will be
    /// reused at all.
    pub fn new(device: &Device, probes: Probes, fold: bool, shape: [usize; 4], dtype: DType) -> Result<Self, OpError> {
        let residual = || Tensor::empty(device, &shape, dtype);
        let (sums, buffers) = ProbeBuffers::several(device, probes.points.len(), shape[0], probes.strides.len())?;
        Ok(ResidualStore {
            batch: shape[0],
            fold: fold.then(residual).transpose()?,
            kept: probes.points.iter().map(|_| residual()).collect::<Result<_, _>>()?,
            buffers,
            sums,
            filled: vec![false; probes.points.len()],
            folded: false,
            probes,
        })
    }

    /// Bytes held from one step to the next.
    pub fn bytes(&self) -> usize {
        self.fold.iter().chain(&self.kept).map(Tensor::bytes).sum()
    }

    /// Which probe, if any, looks at `point`.
    pub fn probe_at(&self, point: ProbePoint) -> Option<usize> {
        self.probes.points.iter().position(|p| *p == point)
    }

    /// Whether any probe looks at cross-attention + MLP residuals or attention residuals at all.
    pub fn has_probes(&self) -> bool {
        !self.probes.points.is_empty()
    }

    /// Measures `fresh` against the kept residual of `probe` and keeps `fresh` in its place.
    pub fn probe(&mut self, probe: usize, fresh: &Tensor) -> Result<(), OpError> {
        let first = !std::mem::replace(&mut self.filled[probe], true);
        ops::residual::probe(fresh, &self.kept[probe], first, &self.probes.strides, &self.buffers[probe])?;
        Ok(())
    }

    /// Starts the copy of this forward's sums to the host.
    pub fn read_measurements(&self) -> Result<PendingMeasurements, DeviceError> {
        let (probes, strides) = (self.probes.points.len(), self.probes.strides.len());
        Ok(PendingMeasurements { read: self.sums.read_async()?, probes, batch: self.batch, strides })
    }

    /// Remembers the embedding `x` that enters the blocks.
    pub fn enter(&mut self, x: &Tensor) -> Result<(), OpError> {
        match &self.fold {
            Some(fold) => Ok(fold.copy_from(x)?),
            None => Ok(()),
        }
    }

    /// Folds the blocks' residuals: `fold = x − x_embed`, where `x` has left the last block.
    pub fn leave(&mut self, x: &Tensor) -> Result<(), OpError> {
        self.folded = true;
        match &self.fold {
            Some(fold) => ops::residual::fold(x, fold, fold),
            None => Ok(()),
        }
    }

    /// Whether there is a fold to reuse: one is kept, and a step has been computed.
    pub fn can_unfold(&self) -> bool {
        self.fold.is_some() && self.folded
    }

    /// A reused step: `x = x_embed + fold`, in place. Does nothing unless [`ResidualStore::can_unfold`].
    pub fn unfold(&self, x: &Tensor) -> Result<(), OpError> {
        match &self.fold {
            Some(fold) if self.folded => ops::residual::unfold(x, fold, x),
            _ => Ok(()),
        }
    }
}
