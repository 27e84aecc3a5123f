//! The residuals kept on the device, and their measurement.
//!
//! Everything between the embedding and the final layer only adds to the hidden state, so the residuals of a whole forward pass fold into
//! one tensor: `fold = x_out − x_embed`. The store keeps only that fold and the probed residuals, or, for a policy with module groups, the
//! sum that each of their runs adds; on request they are packed into 8 bits.

use super::groups::ModuleGroup;
use super::kept::{Fold, Kept, KeptRuns, Shapes};
use super::measurement::Measurement;
use super::point::ProbePoint;
use super::policy::{Decision, Extrapolation, Half, Plan, Probes};
use super::seacache;
use crate::device::{Device, DeviceError, PendingRead, Rank};
use crate::ops::circulant::Circulant;
use crate::ops::decide::{DECISION_VALUES, Decider, DecisionRule, StepClock};
use crate::ops::pack::PackError;
use crate::ops::{self, OpError, residual::ProbeBuffers};
use crate::tensor::{DType, Tensor};

/// The time of noise alone.
const TRAIN_STEPS: f64 = 1000.0;

/// What a store keeps and measures.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The probes to measure.
    pub probes: Probes,
    /// The number of blocks that run in every step before it is planned.
    pub head: usize,
    /// Whether any step will reuse the fold: it is kept only then.
    pub fold: bool,
    /// Whether the fold of each half of guidance is kept on its own.
    pub halves: bool,
    /// Whether any step will reuse the prediction: what it was more than the latents is kept only then.
    pub offset: bool,
    /// How the fold is extrapolated, if at all: the order is the number of older folds kept.
    pub extrapolates: Option<Extrapolation>,
    /// The module groups that are kept separately, run by run.
    pub groups: Vec<ModuleGroup>,
    /// Whether only the first (conditional) half of the batch is kept of the groups.
    pub conditional: bool,
    /// Whether residuals are kept as e4m3 with one scale per row.
    pub packed: bool,
    /// The time of every step, 0 to 1000, for the filter of [`ProbePoint::Filtered`].
    pub times: Vec<f32>,
    /// The rule by which the device decides; `None` if it only measures.
    pub rule: Option<DecisionRule>,
    /// Whose half of guidance the blocks run on, if the other rank of two runs them on the other half.
    pub rank: Option<Rank>,
}

impl StoreOptions {
    /// Whether tensors of these shapes can be kept and measured as the options say.
    fn check(&self, device: &Device, shapes: &Shapes) -> Result<(), OpError> {
        let refused =
            |argument, got: String, expected| Err(ops::Op::on("ResidualStore", device).value(argument, got, expected));
        if let (true, Some(Extrapolation { order, .. })) = (self.packed, self.extrapolates) {
            let reason =
                "0: 8 bits are too coarse for the differences between folds, keep them whole or do not extrapolate";
            return refused("order", order.to_string(), reason);
        }
        if self.offset && shapes.prediction[1..] != shapes.latents[1..] {
            let reason = "the shape of the latents, for a policy that reuses the prediction";
            return refused("prediction", format!("{:?}", shapes.prediction), reason);
        }
        if self.probes.points.iter().any(|point| shapes.at(*point).is_some_and(<[usize]>::is_empty)) {
            let reason = "an embedding of the time that the model shows, for a policy that measures it";
            return refused("time", "no tensor".into(), reason);
        }
        Ok(())
    }
}

/// A tensor that is measured against the one kept from an earlier step.
struct Probe {
    point: ProbePoint,
    kept: Kept,
    /// Whether `kept` holds a tensor of an earlier step.
    filled: bool,
    /// Whether the measurement queued last compared two tensors.
    compared: bool,
    buffers: ProbeBuffers,
    /// The rank whose half of the batch is measured here; the other's sums come from it.
    rank: Option<Rank>,
    strides: Vec<usize>,
}

/// Owns the fold and the probed tensors of one generation; all of it is allocated by [`ResidualStore::new`].
pub struct ResidualStore {
    device: Device,
    head: usize,
    /// The fold of the batch, or of each half of it; empty if it is not kept.
    folds: Vec<Fold>,
    /// The half of guidance that this step computes; `None`: the whole batch.
    half: Option<Half>,
    /// The prediction less the latents of the last computed step, in both halves.
    offset: Option<Tensor>,
    runs: KeptRuns,
    /// The divisor of the batch that `runs` keep: 1, or 2 for the first half.
    part: usize,
    /// In execution order.
    probes: Vec<Probe>,
    error: Option<PackError>,
    decider: Option<Decider>,
    /// The filter of [`ProbePoint::Filtered`].
    filter: Option<Circulant>,
    clock: StepClock,
    /// The sums of all probes `[batch, count]`, then the device's decisions `[probes, 4]`, flat: one copy reads them.
    results: Tensor,
    /// `[probes, 4]`: the second part of `results`.
    decisions: Tensor,
    /// The copy of this step's results, started when the last probe of a computed step has been measured.
    reading: Option<PendingRead>,
    /// Whether `folds` hold the residuals of a computed step.
    folded: bool,
}

/// Measurements in flight from the device; awaited when a step cannot be planned without them.
pub struct PendingMeasurements {
    read: PendingRead,
    /// (probe, first of its sums, batch, strides) of each measured probe.
    probes: Vec<(usize, usize, usize, usize)>,
    /// The offset of the decisions, if the device makes them.
    decisions: Option<usize>,
}

impl PendingMeasurements {
    /// Waits for the copy and returns (probe, measurement) for each probe, with the decision about step `step` if the device made one.
    pub fn wait(self, step: usize) -> Result<Vec<(usize, Measurement, Option<Decision>)>, DeviceError> {
        let values: Vec<f64> = self.read.wait_as()?;
        let decision = |probe: usize| {
            let v = &values[self.decisions? + probe * DECISION_VALUES..][..DECISION_VALUES];
            let rate = Some(v[3] as usize);
            Some(Decision { step, distance: v[0], motion: v[1], motion_gradient: v[2], rate })
        };
        let probes = self.probes.iter().map(|&(probe, start, batch, strides)| {
            (probe, Measurement::from_sums(&values[start..], batch, strides), decision(probe))
        });
        Ok(probes.collect())
    }
}

/// SeaCache's filter for every step.
fn filter(device: &Device, times: &[f32], shapes: &Shapes, clock: &StepClock) -> Result<Circulant, OpError> {
    let axis = |&length: &usize, time: f32| {
        let weights = seacache::weights(length, f64::from(time) / TRAIN_STEPS);
        weights.into_iter().map(|weight| weight as f32).collect()
    };
    let step = |&time: &f32| shapes.grid.iter().map(|length| axis(length, time)).collect();
    Circulant::new(device, &shapes.grid, &times.iter().map(step).collect::<Vec<_>>(), clock)
}

impl ResidualStore {
    /// Allocates the memory that `options` require for tensors of the given shapes; `clock` counts the steps.
    pub fn new(device: &Device, options: StoreOptions, clock: &StepClock, shapes: &Shapes) -> Result<Self, OpError> {
        options.check(device, shapes)?;
        let StoreOptions {
            probes: Probes { points, strides },
            head,
            fold,
            halves,
            offset,
            extrapolates,
            groups,
            conditional,
            packed,
            times,
            rule,
            rank,
        } = options;
        let rows_in = |parts: usize| [&[shapes.hidden[0] / parts], &shapes.hidden[1..]].concat();
        let part = if conditional { 2 } else { 1 };
        let ranks = |rank: &Option<Rank>| rank.as_ref().map_or(1, Rank::ranks);
        let run_shape = rows_in(part * ranks(&rank));
        // The blocks' own residuals.
        let shared = |point: ProbePoint| rank.clone().filter(|_| matches!(point, ProbePoint::Residual { .. }));
        let residual = |rank: &Option<Rank>| Kept::new(device, &rows_in(ranks(rank)), shapes.dtype, packed);
        let parts = if halves { Half::BOTH.len() } else { 1 };
        let fold_shape = rows_in(parts);
        let folds = (0..if fold { parts } else { 0 })
            .map(|_| Fold::new(device, &fold_shape, shapes.dtype, packed, extrapolates));
        // Only hidden states have frames side by side.
        let layout = |point: &ProbePoint| match shapes.at(*point) {
            Some(shape) => (shape[0], 0),
            None => (shapes.hidden[0], strides.len()),
        };
        let layouts: Vec<(usize, usize)> = points.iter().map(layout).collect();
        let (results, buffers) = ProbeBuffers::several(device, &layouts, points.len() * DECISION_VALUES)?;
        let sums = results.elements() - points.len() * DECISION_VALUES;
        let filter =
            points.contains(&ProbePoint::Filtered).then(|| filter(device, &times, shapes, clock)).transpose()?;
        let decider = rule.map(|rule| Decider::new(device, rule, points.len())).transpose()?;
        let decisions =
            results.slice_rows(sums, points.len() * DECISION_VALUES)?.reshape(&[points.len(), DECISION_VALUES])?;
        let probes = points.into_iter().zip(buffers).zip(&layouts).map(|((point, buffers), (_, count))| {
            let whole = |shape: &[usize]| Ok(Kept::Whole(Tensor::empty(device, shape, DType::F32)?));
            let rank = shared(point);
            let kept = shapes.at(point).map_or_else(|| residual(&rank), whole)?;
            let strides = strides[..*count].to_vec();
            Ok(Probe { point, kept, filled: false, compared: false, buffers, rank, strides })
        });
        Ok(ResidualStore {
            device: device.clone(),
            head,
            probes: probes.collect::<Result<_, OpError>>()?,
            folds: folds.collect::<Result<_, OpError>>()?,
            half: None,
            offset: offset.then(|| Tensor::empty(device, &shapes.prediction, DType::F32)).transpose()?,
            runs: KeptRuns::new(groups, || Kept::new(device, &run_shape, shapes.dtype, packed))?,
            part,
            error: if packed { Some(PackError::new(device)?) } else { None },
            decider,
            filter,
            clock: clock.clone(),
            decisions,
            results,
            reading: None,
            folded: false,
        })
    }

    /// Bytes kept from one step to the next.
    pub fn bytes(&self) -> usize {
        let folds: usize = self.folds.iter().map(Fold::bytes).sum();
        let probed: usize = self.probes.iter().map(|probe| probe.kept.bytes()).sum();
        folds + probed + self.offset.as_ref().map_or(0, Tensor::bytes) + self.runs.bytes()
    }

    /// Begins a step of this plan, which runs blocks.
    pub fn begin(&mut self, plan: Plan) {
        let (reused, kept) = plan.groups();
        self.runs.begin(reused, kept);
        self.half = if let Plan::Half(half) = plan { Some(half) } else { None };
    }

    /// If a reused run begins at module `module`: the index of the first module after it.
    pub fn reused_until(&self, module: usize) -> Option<usize> {
        Some(self.runs.reused_at(module)?.modules.end)
    }

    /// If a reused run begins at module `module`: adds its kept sum to `x` and returns the index of the first module after it.
    pub fn reuse_run(&self, module: usize, x: &Tensor) -> Result<Option<usize>, OpError> {
        let Some(run) = self.runs.reused_at(module) else { return Ok(None) };
        run.kept.add_to(x)?;
        Ok(Some(run.modules.end))
    }

    /// The part of a step's tensor that a run keeps.
    fn kept_part(&self, x: &Tensor) -> Result<Tensor, OpError> {
        Ok(x.slice_rows(0, x.shape()[0] / self.part)?)
    }

    /// The tensor for the residual of module `module`, if that module is kept on its own; pass it to [`ResidualStore::keep_module`]
    /// afterwards. `fresh` is scratch space for a residual that is kept packed or in part.
    pub fn module_residual(&self, module: usize, fresh: Option<&Tensor>) -> Result<Option<Tensor>, OpError> {
        match (self.runs.single_at(module), fresh) {
            (None, _) => Ok(None),
            (Some(Kept::Whole(kept)), _) if self.part == 1 => Ok(Some(kept.clone())),
            (Some(_), Some(fresh)) => Ok(Some(fresh.clone())),
            (Some(_), None) => Err(self.no_room("ResidualStore::module_residual", "fresh")),
        }
    }

    /// Keeps the residual of module `module`, which was written to the tensor from [`ResidualStore::module_residual`].
    pub fn keep_module(&self, module: usize, residual: &Tensor) -> Result<(), OpError> {
        match (self.runs.single_at(module), &self.error) {
            (Some(Kept::Packed(packed)), Some(error)) => packed.pack(&self.kept_part(residual)?, error),
            (Some(Kept::Whole(kept)), _) if self.part > 1 => Ok(kept.copy_from(&self.kept_part(residual)?)?),
            _ => Ok(()),
        }
    }

    /// Before module `module`: saves `x` if a kept run of several modules begins here. `copy` is scratch space for packed runs.
    pub fn enter_run(&self, module: usize, x: &Tensor, copy: Option<&Tensor>) -> Result<(), OpError> {
        match (self.runs.entered_at(module), copy) {
            (None, _) => Ok(()),
            (Some(Kept::Whole(kept)), _) => Ok(kept.copy_from(&self.kept_part(x)?)?),
            (Some(Kept::Packed(_)), Some(copy)) => Ok(copy.copy_from(x)?),
            (Some(Kept::Packed(_)), None) => Err(self.no_room("ResidualStore::enter_run", "copy")),
        }
    }

    /// After module `module`: if a kept run of several modules ends here, keeps what it has added since [`ResidualStore::enter_run`].
    /// `entered`, the copy made then, is overwritten.
    pub fn leave_run(&self, module: usize, x: &Tensor, entered: Option<&Tensor>) -> Result<(), OpError> {
        match self.runs.left_at(module) {
            Some(kept) => {
                let entered = entered.map(|entered| self.kept_part(entered)).transpose()?;
                self.keep_fold(kept, &self.kept_part(x)?, entered.as_ref(), "ResidualStore::leave_run")
            }
            None => Ok(()),
        }
    }

    /// The packing error so far, Σ|x − kept x| / Σ|x|; `None` if nothing is packed. Waits for the device.
    pub fn pack_error(&self) -> Result<Option<f64>, OpError> {
        self.error.as_ref().map(PackError::relative).transpose()
    }

    /// The probe at `point`, if there is one.
    pub fn probe_at(&self, point: ProbePoint) -> Option<usize> {
        self.probes.iter().position(|p| p.point == point)
    }

    /// The number of blocks that run in every step before it is planned.
    pub fn head(&self) -> usize {
        self.head
    }

    /// Whether anything is measured before a step is planned.
    pub fn looks_ahead(&self) -> bool {
        self.probes.iter().any(|p| p.point.before_plan(self.head))
    }

    /// Whether every measurement made before a step is planned has an earlier tensor to compare with.
    pub fn can_look_ahead(&self) -> bool {
        self.probes.iter().all(|p| p.filled || !p.point.before_plan(self.head))
    }

    /// Measures `fresh` against the tensor `probe` has kept, keeps `fresh` in its place, and lets the device decide if it does. `unpacked`
    /// is scratch space for a residual that is kept packed, or in the head, where it waits for [`ResidualStore::keep_head`]. With ranks, `fresh`
    /// is this one's half of a block's residual, and the other's sums are waited for.
    ///
    /// After the last probe of a computed step the copy of the results to the host starts ([`ResidualStore::measurements`]), while the
    /// forward pass goes on; in a recording the graph ends here, and its replayer calls [`ResidualStore::read_results`] between the parts.
    pub fn probe(&mut self, probe: usize, fresh: &Tensor, unpacked: Option<&Tensor>) -> Result<(), OpError> {
        let last = probe + 1 == self.probes.len();
        let Probe { point, kept, filled, compared, buffers, rank, strides } = &mut self.probes[probe];
        let (first, waits) = (!*filled, point.in_head(self.head));
        let all = buffers.sums();
        let own = rank.as_ref().map(|rank| {
            let samples = all.shape()[0] / rank.ranks();
            buffers.of_samples(rank.index() * samples, samples)
        });
        let own = own.transpose()?;
        let buffers = own.as_ref().unwrap_or(buffers);
        *compared = !first;
        match (&*kept, unpacked, &self.error) {
            (Kept::Packed(packed), Some(unpacked), Some(error)) => {
                if !first {
                    packed.unpack(unpacked, false)?;
                }
                ops::residual::probe(fresh, unpacked, first, strides, buffers)?;
                if !waits {
                    packed.pack(fresh, error)?;
                }
            }
            (Kept::Whole(kept), Some(unpacked), _) if waits => {
                if !first {
                    unpacked.copy_from(kept)?;
                }
                ops::residual::probe(fresh, unpacked, first, strides, buffers)?;
            }
            (Kept::Whole(kept), ..) if !waits => {
                ops::residual::probe(fresh, kept, first, strides, buffers)?;
            }
            _ => return Err(self.no_room("ResidualStore::probe", "unpacked")),
        }
        *filled |= !waits;
        if let Some(rank) = rank {
            all.all_gather(rank)?;
        }
        // The first residual has nothing to be compared with.
        if let (Some(decider), false) = (&self.decider, first) {
            let decision = self.decisions.slice_rows(probe, 1)?.reshape(&[DECISION_VALUES])?;
            decider.decide(&self.clock, probe, all, &decision)?;
        }
        if last && !point.before_plan(self.head) && !self.device.cut() {
            self.read_results()?;
        }
        Ok(())
    }

    /// Filters `x`, the first block's modulated input, in place for [`ProbePoint::Filtered`], if that is measured.
    pub fn filter(&self, x: &Tensor) -> Result<(), OpError> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter.apply(x))
    }

    /// In a computed step: keeps the measured residual of the head, which is still in `unpacked`.
    pub fn keep_head(&mut self, unpacked: Option<&Tensor>) -> Result<(), OpError> {
        let Some(probe) = self.probes.iter().position(|p| p.point.in_head(self.head)) else { return Ok(()) };
        let Some(unpacked) = unpacked else { return Err(self.no_room("ResidualStore::keep_head", "unpacked")) };
        let Probe { kept, filled, .. } = &mut self.probes[probe];
        *filled = true;
        match (&*kept, &self.error) {
            (Kept::Packed(packed), Some(error)) => packed.pack(unpacked, error),
            (Kept::Whole(kept), _) => Ok(kept.copy_from(unpacked)?),
            (Kept::Packed(_), None) => unreachable!("a store that packs sums up the errors"),
        }
    }

    fn no_room(&self, call: &'static str, argument: &'static str) -> OpError {
        ops::Op::on(call, &self.device).value(argument, "none", "room for a residual")
    }

    /// Starts the copy of this step's results to the host.
    pub fn read_results(&mut self) -> Result<(), DeviceError> {
        self.reading = Some(self.results.read_async()?);
        Ok(())
    }

    /// The measurements in flight, made either `before` this step was planned or in it; `None` if there are none. Probes without an earlier
    /// tensor to compare with are left out.
    pub fn measurements(&mut self, before: bool) -> Option<PendingMeasurements> {
        let read = self.reading.take()?;
        let mut start = 0;
        let mut probes = vec![];
        for (i, probe) in self.probes.iter().enumerate() {
            let [batch, count] = *probe.buffers.sums().shape() else { unreachable!("sums have two axes") };
            if probe.compared && probe.point.before_plan(self.head) == before {
                probes.push((i, start, batch, probe.strides.len()));
            }
            start += batch * count;
        }
        Some(PendingMeasurements { read, probes, decisions: self.decider.is_some().then_some(start) })
    }

    /// The folds of `half`, or of the whole batch, with their parts of `x`, which has the samples of that half or of the batch.
    fn parts(&self, half: Option<Half>, x: &Tensor) -> Result<Vec<(&Fold, Tensor)>, OpError> {
        let folds = match half {
            Some(half) => self.folds.get(half.index()..=half.index()).unwrap_or_default(),
            None => &self.folds[..],
        };
        let samples = x.shape()[0] / folds.len().max(1);
        folds.iter().enumerate().map(|(i, fold)| Ok((fold, x.slice_rows(i * samples, samples)?))).collect()
    }

    /// Saves `x` as it enters the blocks after the head: in the fold, or, if the fold is packed, in `copy` where that is given.
    pub fn enter(&mut self, x: &Tensor, copy: Option<&Tensor>) -> Result<(), OpError> {
        for (fold, x) in self.parts(self.half, x)? {
            fold.enter(&x, self.folded, &self.clock)?;
        }
        match copy {
            Some(copy) if self.needs_entered() => Ok(copy.copy_from(x)?),
            _ => Ok(()),
        }
    }

    /// Whether [`ResidualStore::leave`] needs the tensor that entered the blocks.
    pub fn needs_entered(&self) -> bool {
        self.folds.iter().any(|fold| matches!(fold.kept, Kept::Packed(_)))
    }

    /// Folds the blocks' residuals: `fold = x − entered`, where `x` is the output of the last block. `entered` is overwritten.
    pub fn leave(&mut self, x: &Tensor, entered: Option<&Tensor>) -> Result<(), OpError> {
        let entered = entered.map(|entered| self.parts(self.half, entered)).transpose()?.unwrap_or_default();
        for (i, (fold, x)) in self.parts(self.half, x)?.into_iter().enumerate() {
            self.keep_fold(&fold.kept, &x, entered.get(i).map(|(_, entered)| entered), "ResidualStore::leave")?;
        }
        self.folded = true;
        Ok(())
    }

    /// `kept = x − entered`; the input is in `kept` itself, or, if `kept` is packed, in `entered`, which is overwritten.
    fn keep_fold(&self, kept: &Kept, x: &Tensor, entered: Option<&Tensor>, call: &'static str) -> Result<(), OpError> {
        match (kept, entered, &self.error) {
            (Kept::Whole(kept), ..) => ops::residual::fold(x, kept, kept),
            (Kept::Packed(kept), Some(entered), Some(error)) => {
                ops::residual::fold(x, entered, entered)?;
                kept.pack(entered, error)
            }
            (Kept::Packed(_), ..) => Err(self.no_room(call, "entered")),
        }
    }

    /// The fold of the last computed step, in f32; `None` if there is none, or it is packed or kept by halves. Waits for the device.
    pub fn fold_values(&self) -> Result<Option<Vec<f32>>, OpError> {
        match &self.folds[..] {
            [Fold { kept: Kept::Whole(fold), .. }] if self.folded => Ok(Some(fold.to_f32()?)),
            _ => Ok(None),
        }
    }

    /// Measures the new fold, if it is probed.
    pub fn probe_fold(&mut self) -> Result<(), OpError> {
        match (self.probe_at(ProbePoint::Fold), &self.folds[..]) {
            (Some(probe), [Fold { kept: Kept::Whole(fold), .. }]) => self.probe(probe, &fold.clone(), None),
            (Some(_), _) => Err(self.no_room("ResidualStore::probe_fold", "fold")),
            (None, _) => Ok(()),
        }
    }

    /// Whether there is something to reuse: it is kept, and a step has been computed.
    pub fn can_unfold(&self) -> bool {
        (!self.folds.is_empty() || self.offset.is_some()) && self.folded
    }

    /// In a computed step, before the latents `z` are updated: keeps what `prediction` is more than they, if that is reused.
    pub fn keep_prediction(&self, prediction: &Tensor, z: &Tensor) -> Result<(), OpError> {
        self.each_half(prediction, z, |offset, prediction| ops::residual::fold(prediction, z, offset))?;
        Ok(())
    }

    /// A reused step without the model: `prediction = z + offset`. Returns whether this is how steps are reused.
    pub fn reuse_prediction(&self, prediction: &Tensor, z: &Tensor) -> Result<bool, OpError> {
        self.each_half(prediction, z, |offset, prediction| ops::residual::unfold(z, offset, prediction))
    }

    /// Calls `each` with every part of the offset and of `prediction` that has the size of the latents; returns whether there is an offset.
    fn each_half(
        &self,
        prediction: &Tensor,
        z: &Tensor,
        each: impl Fn(&Tensor, &Tensor) -> Result<(), OpError>,
    ) -> Result<bool, OpError> {
        let Some(offset) = &self.offset else { return Ok(false) };
        let videos = z.shape()[0];
        for first in (0..prediction.shape()[0]).step_by(videos) {
            each(&offset.slice_rows(first, videos)?, &prediction.slice_rows(first, videos)?)?;
        }
        Ok(true)
    }

    /// A reused step: `x = x_embed + fold`, in place, or with the fold extrapolated to this step. With a `half` of guidance, `x` holds the
    /// samples of that half. Does nothing unless [`ResidualStore::can_unfold`].
    pub fn unfold(&self, half: Option<Half>, x: &Tensor) -> Result<(), OpError> {
        if self.folded {
            for (fold, x) in self.parts(half, x)? {
                fold.unfold(&x, &self.clock)?;
            }
        }
        Ok(())
    }
}
