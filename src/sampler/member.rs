//! The steps of one member: plan, embed, compute or reuse, final layer, guidance and update, as recorded parts.

use std::collections::HashMap;
use std::ops::Range;

use super::error::SampleError;
use super::frames::{FrameConditioning, FrameState};
use super::options::{Member, SamplerOptions};
use super::solver::Row;
use crate::cache::{
    Decision, GroupSet, Half, Measurement, PendingMeasurements, Plan, Policy, ProbePoint, ResidualStore, Reused,
    StoreOptions, computed_steps, partial_steps, trace,
};
use crate::device::{Graph, Rank};
use crate::model::{Caption, Geometry, ResidualRoom, Transformer, Walk, Workspace};
use crate::ops;
use crate::ops::decide::StepClock;
use crate::tensor::{DType, Tensor};

/// The plans, decisions and measurements for the videos of one [`Member`].
#[derive(Clone, Debug, Default)]
pub struct MemberOutput {
    /// The plan of each step; index 0 is step 1.
    pub plans: Vec<Plan>,
    /// Every decision, in order.
    pub decisions: Vec<Decision>,
    /// Every measurement, for replay.
    pub trace: trace::Trace,
    /// Work of each step as it ran, in FLOPs.
    pub flops: Vec<u64>,
    /// Work of all steps, if each had been computed.
    pub all_computed: u64,
}

impl MemberOutput {
    /// The steps (from 1) that were computed.
    pub fn computed_steps(&self) -> Vec<usize> {
        computed_steps(&self.plans)
    }

    /// The steps (from 1) in which some modules were computed and others reused.
    pub fn partial_steps(&self) -> Vec<usize> {
        partial_steps(&self.plans)
    }

    /// This output and that of the steps after it, counted on.
    pub(super) fn then(mut self, next: MemberOutput) -> MemberOutput {
        let before = self.plans.len();
        self.plans.extend(next.plans);
        self.decisions.extend(next.decisions.into_iter().map(|decision| decision.after(before)));
        self.flops.extend(next.flops);
        MemberOutput { trace: self.trace.then(next.trace), all_computed: self.all_computed + next.all_computed, ..self }
    }
}

/// The state of a member during a run.
pub(super) struct MemberState<'a> {
    pub(super) caption: &'a Caption,
    pub(super) policy: Box<dyn Policy>,
    pub(super) store: ResidualStore,
    clock: StepClock,
    pub(super) z: Tensor,
    /// The solver's history: `[slots, …z]` f32.
    history: Option<Tensor>,
    /// Noise and frame states, with frame conditioning.
    frames: Option<FrameState>,
    recorded: HashMap<Part, Vec<Graph>>,
    /// The computed step whose measurements are in flight, and the computed step before it.
    pending: Option<(usize, Option<usize>, PendingMeasurements)>,
    points: Vec<ProbePoint>,
    /// The last step that ran blocks.
    last_computed: Option<usize>,
    /// The groups kept so far.
    kept: GroupSet,
    /// Folds to compare with later ones, each with its step.
    folds: Vec<(usize, Vec<f32>)>,
    /// Whose half of guidance the blocks run on.
    rank: Option<Rank>,
    pub(super) output: MemberOutput,
}

/// The maximum number of recorded step parts per member: the plans of many module groups may all differ.
const MOST_RECORDED: usize = 16;

/// A part of a step that is recorded separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// A whole step, if nothing is measured before it is planned.
    Step(Plan),
    /// The beginning of every step, up to the measurements made before it is planned.
    Lead,
    /// The rest of the step.
    Rest(Plan),
}

/// The settings shared by all members of a run.
pub(super) struct Setup<'a> {
    pub(super) model: &'a dyn Transformer,
    pub(super) rows: &'a [Row],
    /// The solver's history slots.
    pub(super) slots: usize,
    pub(super) room: &'a ResidualRoom,
    pub(super) workspace: &'a Workspace,
    /// The shape of one member's latents.
    pub(super) shape: [usize; 5],
    /// The time of the step before the first, in a run that goes on where another ended.
    pub(super) before: Option<f32>,
    /// The place among the ranks.
    pub(super) rank: &'a Option<Rank>,
}

/// What a member begins with.
pub(super) struct Begin<'a> {
    pub(super) latents: &'a [f32],
    /// The solver's history so far, slot by slot.
    pub(super) history: Vec<&'a [f32]>,
    pub(super) conditioning: Option<FrameConditioning>,
}

impl<'a> MemberState<'a> {
    /// The state before the first step, with all memory that is kept allocated.
    pub(super) fn new(
        setup: &Setup<'_>,
        Member { caption, policy }: Member<'a>,
        Begin { latents, history, conditioning }: Begin<'_>,
    ) -> Result<MemberState<'a>, SampleError> {
        let Setup { model, rows, slots, room, workspace, shape, before, rank } = *setup;
        let (device, probes) = (model.device(), policy.probes());
        let clock = StepClock::new(device, &rows.iter().map(Row::words).collect::<Vec<_>>())?;
        let points = probes.points.clone();
        let trace = trace::Trace {
            steps: rows.len(),
            cache: policy.name().to_owned(),
            timesteps: rows.iter().map(|row| row.time).collect(),
            strides: probes.strides.clone(),
            ..trace::Trace::default()
        };
        let kept = StoreOptions {
            fold: policy.reuses() && policy.reused() == Reused::Fold || points.contains(&ProbePoint::Fold),
            halves: room.halves,
            offset: policy.reuses() && policy.reused() == Reused::Prediction,
            probes,
            head: policy.head(),
            extrapolates: policy.extrapolates(),
            groups: policy.groups(),
            conditional: room.conditional,
            packed: room.packed,
            times: rows.iter().map(|row| row.time).collect(),
            rule: policy.device_rule(),
            rank: rank.clone(),
        };
        let history = || {
            let shape = [&[slots], &shape[..]].concat();
            if history.is_empty() {
                // What is in a slot before it is written does not matter: no row reads it.
                return Tensor::empty(device, &shape, DType::F32);
            }
            let mut values = history.concat();
            values.resize(slots * latents.len(), 0.0);
            Tensor::from_f32(device, &shape, &values, DType::F32)
        };
        Ok(MemberState {
            store: ResidualStore::new(device, kept, &clock, &workspace.shapes(&shape))?,
            caption,
            policy,
            clock,
            z: Tensor::from_f32(device, &shape, latents, DType::F32)?,
            history: (slots > 0).then(history).transpose()?,
            frames: conditioning.map(|part| FrameState::new(model, part, &shape, before)).transpose()?,
            recorded: HashMap::new(),
            pending: None,
            points,
            last_computed: None,
            kept: GroupSet::default(),
            folds: vec![],
            rank: rank.clone(),
            output: MemberOutput { trace, ..MemberOutput::default() },
        })
    }
}

impl MemberState<'_> {
    /// The solver's history, slot by slot.
    pub(super) fn history(&self) -> Result<Vec<Vec<f32>>, SampleError> {
        let Some(history) = &self.history else { return Ok(vec![]) };
        let slot = self.z.shape().iter().product();
        Ok(history.to_f32()?.chunks(slot).map(<[f32]>::to_vec).collect())
    }

    /// Passes the decisions or measurements of the last computed step to the policy; waits if they are still in flight.
    pub(super) fn observe_computed(&mut self) -> Result<(), SampleError> {
        match self.pending.take() {
            Some((step, computed, measurements)) => self.observe(step, computed, measurements),
            None => Ok(()),
        }
    }

    /// Passes measurements of `step` to the policy; `computed` is the last step computed before it.
    fn observe(
        &mut self,
        step: usize,
        computed: Option<usize>,
        measurements: PendingMeasurements,
    ) -> Result<(), SampleError> {
        for (probe, measurement, decided) in measurements.wait(step)? {
            let at = self.points[probe];
            let Some(since) = at.compared_with(step, computed) else { continue };
            let decision = match decided {
                Some(decision) => {
                    self.policy.adopt(probe, &decision);
                    Some(decision)
                }
                None => self.policy.observe(step, probe, &measurement),
            };
            self.output.decisions.extend(decision);
            self.output.trace.records.push(trace::TraceRecord { step, since, at, measurement });
        }
        Ok(())
    }

    /// Plans and queues step `step`; returns the plan.
    pub(super) fn step(&mut self, walk: Walk<'_>, options: &SamplerOptions, step: usize) -> Result<Plan, SampleError> {
        self.observe_computed()?;
        if let Some(frames) = &mut self.frames {
            let moving = frames.advance(options.rows[step - 1].time, &self.z)?;
            let mask = moving.repeat(if walk.ws.geometry().guided { 2 } else { 1 });
            walk.ws.set_frame_mask(Some(&mask))?;
        }
        let looks_ahead = self.store.looks_ahead();
        if looks_ahead {
            // What was never measured has nothing to be compared with: that lead is like no other.
            self.queue_or_replay(walk, options, Part::Lead, self.store.can_look_ahead())?;
            self.store.read_results()?;
            if let Some(measurements) = self.store.measurements(true) {
                self.observe(step, self.last_computed, measurements)?;
            }
        }
        let plan = self.policy.plan(step);
        let plan = if walk.ws.geometry().guided { plan } else { plan.unguided() };
        let (reused, kept) = plan.groups();
        let unfolds = matches!(plan, Plan::Reuse | Plan::Half(_));
        if unfolds && !self.store.can_unfold() || !reused.is_within(self.kept) {
            let policy = self.policy.name();
            return Err(SampleError::Input(format!("policy `{policy}` reuses at step {step}, but nothing was kept")));
        }
        if matches!(plan, Plan::Half(_)) && !self.policy.decides_halves() {
            let policy = self.policy.name();
            return Err(SampleError::Input(format!(
                "policy `{policy}` computes a half of guidance at step {step}, but does not say that it decides about halves"
            )));
        }
        let part = if looks_ahead { Part::Rest(plan) } else { Part::Step(plan) };
        let recordable = match plan {
            Plan::Reuse => true,
            // The first computed step loads the kernels and measures nothing: it is like no other.
            Plan::Compute => self.last_computed.is_some(),
            // It may load kernels, and never come again.
            Plan::Partial { .. } | Plan::Half(_) => self.output.plans.contains(&plan),
        };
        self.queue_or_replay(walk, options, part, recordable)?;
        if let Some(measurements) = self.store.measurements(false) {
            self.pending = Some((step, self.last_computed, measurements));
        }
        self.kept = self.kept.union(kept);
        if plan != Plan::Reuse {
            self.last_computed = Some(step);
        }
        if plan.is_computed() {
            if options.compare_folds {
                self.compare_folds(step)?;
            }
            self.output.trace.computed.push(step);
        } else if plan.is_partial() {
            self.output.trace.partial.push(step);
        }
        self.output.plans.push(plan);
        Ok(plan)
    }

    /// Compares the fold of `step`, just computed, with all earlier ones except the last, with which the device compares it.
    fn compare_folds(&mut self, step: usize) -> Result<(), SampleError> {
        let Some(fresh) = self.store.fold_values()? else { return Ok(()) };
        let at = ProbePoint::Fold;
        let probed = self.points.contains(&at);
        for (since, kept) in &self.folds[..self.folds.len() - usize::from(probed && !self.folds.is_empty())] {
            let measurement = Measurement::of(&fresh, kept);
            self.output.trace.records.push(trace::TraceRecord { step, since: *since, at, measurement });
        }
        self.folds.push((step, fresh));
        Ok(())
    }

    /// Work of each step as it ran.
    pub(super) fn flops(&self, walk: Walk<'_>) -> Vec<u64> {
        let (groups, geometry) = (self.policy.groups(), walk.ws.geometry());
        let whole = walk.flops(self.store.head());
        let of = |plan: &Plan| match plan {
            Plan::Compute => whole.computed,
            Plan::Reuse => whole.reused,
            Plan::Half(_) => (whole.computed + whole.reused) / 2,
            Plan::Partial { reused, .. } => {
                let geometry = Geometry { guided: geometry.guided && !self.runs_half(geometry, plan), ..*geometry };
                walk.model.flops(&geometry, self.caption.length(), &|module| {
                    !groups.iter().enumerate().any(|(i, group)| reused.contains(i) && group.contains(module))
                })
            }
        };
        self.output.plans.iter().map(of).collect()
    }

    /// Replays this part of a step; records it if there is no recording yet and it is `recordable`.
    fn queue_or_replay(
        &mut self,
        walk: Walk<'_>,
        options: &SamplerOptions,
        part: Part,
        recordable: bool,
    ) -> Result<(), SampleError> {
        if !recordable || self.recorded.len() >= MOST_RECORDED && !self.recorded.contains_key(&part) {
            return self.queue(walk, options, part);
        }
        let graphs = match self.recorded.remove(&part) {
            Some(graphs) => graphs,
            None => walk.model.device().record_graphs(|| self.queue(walk, options, part))?,
        };
        // A computed step with probes is cut behind the last one: there its results can be read.
        let last = graphs.len() - 1;
        for (i, graph) in graphs.iter().enumerate() {
            graph.replay()?;
            if i < last {
                self.store.read_results()?;
            }
        }
        self.recorded.insert(part, graphs);
        Ok(())
    }

    /// Whether a step of `plan` runs the conditional half of a guided batch alone.
    fn runs_half(&self, geometry: &Geometry, plan: &Plan) -> bool {
        geometry.guided && plan.is_partial() && self.policy.ends_guidance()
    }

    /// Launches a part of a step. Its launches do not depend on the step number.
    fn queue(&mut self, walk: Walk<'_>, options: &SamplerOptions, part: Part) -> Result<(), SampleError> {
        match part {
            Part::Lead => self.lead(walk),
            Part::Rest(plan) => self.rest(walk, options, plan, true),
            Part::Step(plan) => {
                let half =
                    self.runs_half(walk.ws.geometry(), &plan).then(|| walk.ws.half(Half::Conditional)).transpose()?;
                let walk = Walk { ws: half.as_ref().unwrap_or(walk.ws), ..walk };
                self.begin(walk, plan != Plan::Reuse)?;
                self.rest(walk, options, plan, false)
            }
        }
    }

    /// Sets the step's time and embeds its latents.
    fn begin(&mut self, walk: Walk<'_>, computed: bool) -> Result<(), SampleError> {
        self.clock.begin(walk.ws.time(), walk.ws.variants(), computed)?;
        walk.model.embed_time(walk.ws)?;
        Ok(walk.embed(&self.z)?)
    }

    /// The beginning of a step whose plan depends on the measurements made here.
    fn lead(&mut self, walk: Walk<'_>) -> Result<(), SampleError> {
        self.begin(walk, false)?;
        self.probe_latents(ProbePoint::Latents)?;
        walk.model.modulate(walk.ws, None)?;
        walk.probe_input(&mut self.store)?;
        let head = 0..self.store.head();
        match self.half(walk)? {
            Some((ws, caption)) if !head.is_empty() => {
                walk.model.modulate(&ws, None)?;
                self.half_of_blocks(walk, (&ws, &caption), head)
            }
            _ => Ok(walk.blocks(head, Some(&mut self.store))?),
        }
    }

    /// The memory and the captions of this rank's half of guidance, if two ranks share it.
    fn half(&self, walk: Walk<'_>) -> Result<Option<(Workspace, Caption)>, SampleError> {
        let Some(rank) = &self.rank else { return Ok(None) };
        let half = Half::BOTH[rank.index()];
        Ok(Some((walk.ws.half(half)?, walk.caption.half(half)?)))
    }

    /// Runs blocks on this rank's half, and takes the hidden state of the other's.
    fn half_of_blocks(
        &mut self,
        walk: Walk<'_>,
        (ws, caption): (&Workspace, &Caption),
        blocks: Range<usize>,
    ) -> Result<(), SampleError> {
        Walk { ws, caption, ..walk }.blocks(blocks, Some(&mut self.store))?;
        self.rank.iter().try_for_each(|rank| walk.ws.x().all_gather(rank))?;
        Ok(())
    }

    /// The blocks after the head, or the residuals reused in their place; then the final layer, guidance and update.
    fn rest(
        &mut self,
        walk: Walk<'_>,
        options: &SamplerOptions,
        plan: Plan,
        modulated: bool,
    ) -> Result<(), SampleError> {
        let Walk { model, ws, .. } = walk;
        match plan {
            Plan::Compute | Plan::Partial { .. } => self.blocks(walk, plan, modulated)?,
            Plan::Half(half) => {
                let (own, caption) = (ws.half(half)?, walk.caption.half(half)?);
                self.blocks(Walk { ws: &own, caption: &caption, ..walk }, plan, false)?;
                let other = half.other();
                self.store.unfold(Some(other), ws.half(other)?.x())?;
            }
            Plan::Reuse => self.store.unfold(None, ws.x())?,
        }
        if plan != Plan::Reuse || !self.store.reuse_prediction(ws.prediction(), &self.z)? {
            model.finish(ws)?;
        }
        if plan.is_computed() {
            self.store.keep_prediction(ws.prediction(), &self.z)?;
        }
        if let (true, Some(probe)) = (plan.is_computed(), self.store.probe_at(ProbePoint::Prediction)) {
            self.store.probe(probe, ws.prediction(), None)?;
        }
        let update = ops::sampler::Step {
            cfg_scale: ws.geometry().guided.then_some(options.cfg_scale),
            row: self.clock.row(),
            history: self.history.as_ref(),
            frame_mask: self.frames.as_ref().map(|f| &f.mask),
            x0: None,
        };
        ops::sampler::step(&self.z, ws.prediction(), &update)?;
        Ok(())
    }

    /// The blocks after the head, on all samples of `walk`.
    fn blocks(&mut self, walk: Walk<'_>, plan: Plan, modulated: bool) -> Result<(), SampleError> {
        let Walk { model, ws, .. } = walk;
        self.store.begin(plan);
        let half = self.half(walk)?;
        self.store.keep_head(half.as_ref().map_or(ws, |(ws, _)| ws).unpacked())?;
        if !modulated && half.is_none() {
            model.modulate(ws, None)?;
        }
        self.probe_latents(ProbePoint::ComputedLatents)?;
        walk.enter(&mut self.store)?;
        let blocks = self.store.head()..model.anatomy().blocks();
        match half {
            None => walk.blocks(blocks, Some(&mut self.store))?,
            Some((ws, caption)) => {
                // A half's tables lie otherwise than those of the batch; behind a head they are there.
                if self.store.head() == 0 {
                    model.modulate(&ws, None)?;
                }
                self.half_of_blocks(walk, (&ws, &caption), blocks)?;
            }
        }
        Ok(walk.leave(&self.z, &mut self.store)?)
    }

    /// Measures the latents, if they are probed.
    fn probe_latents(&mut self, point: ProbePoint) -> Result<(), SampleError> {
        match self.store.probe_at(point) {
            Some(probe) => Ok(self.store.probe(probe, &self.z, None)?),
            None => Ok(()),
        }
    }
}
