//! The step loop: plan, embed, compute or reuse, final layer, guidance and update. Nothing in it allocates device memory.
//!
//! A computed and a reused step are each recorded once and then replayed: what changes from step to step lies in a table on the device
//! ([`StepClock`]), and the policy's decision is taken there too where it can be. The host reads it back while the rest of
//! the step runs, and so has the next step queued before the device is done. A policy that measures before it plans has a third part
//! recorded, the lead of every step, and the host waits for it. Steps that reuse single modules are recorded
//! by the sets of them that come again.
//!
//! The host is never more than two steps ahead: before it queues a step it waits until the one before the last is finished. So a step is told of
//! when it is finished and not when it is queued, and whoever stops a run need not wait for all of it ([`Pace`]).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use super::{Row, rflow::TRAIN_STEPS};
use crate::cache::{
    Decision, GroupSet, Measurement, PendingMeasurements, Plan, Policy, ProbePoint, Probes, ResidualStore,
    StoreOptions, computed_steps, partial_steps, trace,
};
use crate::device::{Device, DeviceError, Event, Graph};
use crate::model::{Caption, Flops, Geometry, ModelError, ResidualRoom, Transformer, Walk, Workspace};
use crate::ops::decide::{StepClock, StepRow};
use crate::ops::{self, OpError};
use crate::tensor::{DType, Tensor, TensorError};

/// Why sampling stopped.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The model refused its input, or a kernel, a tensor or the device failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An input has the wrong size or value.
    #[error("{0}")]
    Input(String),
    /// The caller's callback asked to stop.
    #[error("stopped after step {step}")]
    Stopped {
        /// The last finished step.
        step: usize,
    },
    /// The latents left the range of numbers.
    #[error(
        "the latents became {value} (element {index}): try --dtype f32, a smaller --cfg-scale, or check the weights"
    )]
    NotFinite {
        /// The value found.
        value: f32,
        /// Its position.
        index: usize,
    },
}

/// Everything that runs on the device runs for the model.
macro_rules! failures_of_the_model {
    ($($error:ty),*) => { $(impl From<$error> for SampleError {
        fn from(error: $error) -> Self {
            SampleError::Model(error.into())
        }
    })* };
}
failures_of_the_model!(OpError, TensorError, DeviceError);

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// What a [`Solver`](super::Solver) says of every step: one for each evaluation of the model.
    pub rows: Vec<Row>,
    /// Guidance scale s: `v = v_u + s·(v_c − v_u)`. Ignored for an unguided geometry.
    pub cfg_scale: f32,
    /// Steps (from 1, ascending) after which the latents are copied to the host, beside the final ones.
    pub snapshots: Vec<usize>,
    /// Whether residuals are kept in 8 bits (e4m3 with a scale a token) instead of the model's type.
    pub packed_cache: bool,
    /// Whether the trace compares the fold of each computed step with those of all before, where there is a fold: on the host, which keeps all of them.
    pub compare_folds: bool,
}

/// Videos that are decided about together: all of a batch, as published, or one.
pub struct Member<'a> {
    /// The captions of its videos, then their unconditional ones.
    pub caption: &'a Caption,
    /// When its steps are computed.
    pub policy: Box<dyn Policy>,
}

/// Frames held at a given value: image to video, extension, editing.
///
/// At time t the frames with `mask·1000 ≥ t` are denoised, the others stay; a frame that starts to move is first noised to t.
#[derive(Clone, Debug)]
pub struct FrameConditioning {
    /// `[videos, frames]`: 1 generates the frame, 0 keeps it, between: edits it from that time on.
    pub mask: Vec<f32>,
    /// Noise for frames that start to move, shaped as the latents.
    pub noise: Vec<f32>,
}

impl SampleError {
    /// Whether the run was stopped, by the callback or by [`Interrupter`](crate::device::Interrupter), rather than went wrong.
    pub fn is_stop(&self) -> bool {
        match self {
            SampleError::Stopped { .. } => true,
            SampleError::Model(error) => error.is_stop(),
            SampleError::Input(_) | SampleError::NotFinite { .. } => false,
        }
    }
}

/// One finished step, for progress displays.
#[derive(Clone, Debug)]
pub struct StepEvent<'a> {
    /// The step, from 1.
    pub step: usize,
    /// Of how many.
    pub steps: usize,
    /// What it did: the plan of the member that had the most computed.
    pub plan: Plan,
    /// For how many members blocks were run.
    pub computed: usize,
    /// The rate in force for the first member after its last known decision, if its policy has one.
    pub rate: Option<usize>,
    /// Seconds of the step by the device's clock.
    pub seconds: f64,
    /// The end of the step on the device's stream.
    pub end: Event,
    /// The first member's decisions so far: this step's own may still be on its way, those of the next two may be here.
    pub decisions: &'a [Decision],
}

/// What was decided for the videos of one [`Member`].
#[derive(Clone, Debug, Default)]
pub struct MemberOutput {
    /// What each step did; index 0 is step 1.
    pub plans: Vec<Plan>,
    /// Every decision, in order.
    pub decisions: Vec<Decision>,
    /// Every measurement, for replay.
    pub trace: trace::Trace,
    /// Work of each step as it ran, in FLOPs.
    pub flops: Vec<u64>,
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
}

/// What a generation gives.
#[derive(Clone, Debug)]
pub struct SampleOutput {
    /// Final latents `[videos, channels, frames, height, width]`.
    pub latents: Vec<f32>,
    /// Their shape.
    pub shape: [usize; 5],
    /// Copies after the steps asked for.
    pub snapshots: Vec<Vec<f32>>,
    /// By member: one for the whole batch, or one a video.
    pub members: Vec<MemberOutput>,
    /// Seconds of each step, measured on the device's clock where it has one.
    pub seconds_per_step: Vec<f64>,
    /// Seconds of the whole loop.
    pub seconds: f64,
    /// Bytes all members keep between steps.
    pub cache_bytes: usize,
    /// What one tensor a residual (two a block) would have held.
    pub cache_bytes_unfolded: usize,
    /// What packing the kept residuals lost, Σ|x − kept x| / Σ|x|; `None` when they are not packed.
    pub cache_error: Option<f64>,
    /// Bytes of a forward's activations.
    pub activation_bytes: usize,
    /// Work of a computed and of a reused step of one member.
    pub flops: Flops,
}

/// A generation: all device memory is allocated when it is made, [`Sampler::run`] then only launches.
pub struct Sampler<'a> {
    model: &'a dyn Transformer,
    options: SamplerOptions,
    workspace: Workspace,
    members: Vec<MemberState<'a>>,
}

struct MemberState<'a> {
    caption: &'a Caption,
    policy: Box<dyn Policy>,
    store: ResidualStore,
    clock: StepClock,
    z: Tensor,
    /// What the solver keeps: `[slots, …z]` f32.
    history: Option<Tensor>,
    /// Noise and the frames' states, with frame conditioning.
    frames: Option<FrameState>,
    recorded: HashMap<Part, Vec<Graph>>,
    /// The computed step whose measurements are on their way, and the one before it.
    pending: Option<(usize, Option<usize>, PendingMeasurements)>,
    points: Vec<ProbePoint>,
    /// The last step that ran blocks.
    last_computed: Option<usize>,
    /// The groups kept so far.
    kept: GroupSet,
    /// Folds to be compared with later ones, each with its step.
    folds: Vec<(usize, Vec<f32>)>,
    output: MemberOutput,
}

/// Parts of steps recorded at most, for each member: plans of many module groups may all differ.
const MOST_RECORDED: usize = 16;

/// What is recorded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// A whole step, where nothing is measured before it is planned.
    Step(Plan),
    /// The beginning of every step, up to what is measured before it is planned.
    Lead,
    /// The rest of it.
    Rest(Plan),
}

struct FrameState {
    conditioning: FrameConditioning,
    noise: Tensor,
    mask: Tensor,
    select: Tensor,
    /// Which frames are already noise.
    noised: Vec<bool>,
}

impl<'a> Sampler<'a> {
    /// Allocates a generation of `geometry` from the initial `latents` `[videos, channels, frames, height, width]`.
    ///
    /// `members`: one that decides for all videos together, as published, or one for each video. Then each is computed or reused on
    /// its own, exactly as it would be alone.
    pub fn new(
        model: &'a dyn Transformer,
        members: Vec<Member<'a>>,
        geometry: Geometry,
        latents: &[f32],
        conditioning: Option<FrameConditioning>,
        options: SamplerOptions,
    ) -> Result<Sampler<'a>, SampleError> {
        let geometry = Geometry { frame_masked: conditioning.is_some(), ..geometry };
        let Geometry { videos, frames, height, width, .. } = geometry;
        if members.is_empty() || members.len() != 1 && members.len() != videos {
            return Err(SampleError::Input(format!(
                "{} members decide about {videos} videos: give one, or one for each",
                members.len()
            )));
        }
        let shape = [videos / members.len(), model.shape().channels, frames, height, width];
        let elements: usize = shape.iter().product();
        if latents.len() != elements * members.len() {
            return Err(SampleError::Input(format!(
                "{} initial latents, expected {} ({videos} × {:?})",
                latents.len(),
                elements * members.len(),
                &shape[1..]
            )));
        }
        if !options.cfg_scale.is_finite() {
            return Err(SampleError::Input(format!("cfg scale {} must be a finite number", options.cfg_scale)));
        }
        check_finite(latents)?;
        let device = model.device();
        let geometry = Geometry { videos: shape[0], ..geometry };
        // Every member probes the same residuals.
        let policy = &members[0].policy;
        let groups = policy.groups();
        let room = ResidualRoom {
            probes: policy.probes().points,
            packed: options.packed_cache && (policy.reuses() || !groups.is_empty()),
            head: policy.head(),
            groups,
            conditional: policy.ends_guidance() && geometry.guided,
        };
        let modules = model.anatomy().modules();
        let beyond = room.groups.iter().flat_map(|group| &group.runs).any(|run| run.end > modules);
        if beyond || !room.groups.is_empty() && (policy.reuses() || room.head > 0 || !room.probes.is_empty()) {
            return Err(SampleError::Input(format!(
                "policy `{}`: groups of the model's {modules} modules cannot be had beside probes or reused forwards",
                policy.name()
            )));
        }
        let behind = |point: &&ProbePoint| model.anatomy().block_of(**point).is_some_and(|block| block >= room.head);
        if let (1.., Some(point)) = (room.head, room.probes.iter().find(behind)) {
            return Err(SampleError::Input(format!(
                "policy `{}` plans after {} blocks, and probes `{point}` behind them",
                policy.name(),
                room.head
            )));
        }
        if options.packed_cache && policy.extrapolates().is_some() {
            return Err(SampleError::Input(format!(
                "`{}` extrapolates differences of residuals, for which 8 bits are too coarse: leave out --fp8-cache, or take a policy without +taylor",
                policy.name()
            )));
        }
        let workspace = model.workspace(geometry, &room)?;
        let parts = split_conditioning(conditioning, members.len(), shape[0] * frames, elements)?;
        let table: Vec<StepRow> = options.rows.iter().map(Row::words).collect();
        let timesteps: Vec<f32> = options.rows.iter().map(|row| row.time).collect();
        let slots = options.rows.iter().map(Row::slots).max().unwrap_or(0);
        if slots > 0 && parts.iter().any(Option::is_some) {
            let reason =
                "frames cannot be held with a solver that keeps a history: what it keeps of them would be of no step";
            return Err(SampleError::Input(reason.into()));
        }
        let members = members.into_iter().zip(latents.chunks(elements)).zip(parts).map(|((member, latents), part)| {
            let Member { caption, policy } = member;
            let clock = StepClock::new(device, &table)?;
            let Probes { points, strides } = policy.probes();
            let kept = StoreOptions {
                fold: policy.reuses() || points.contains(&ProbePoint::Fold),
                probes: policy.probes(),
                head: policy.head(),
                extrapolates: policy.extrapolates(),
                groups: policy.groups(),
                conditional: room.conditional,
                packed: room.packed,
                rule: policy.device_rule(),
            };
            let store = ResidualStore::new(device, kept, &clock, &workspace.shapes(&shape))?;
            let cache = policy.name().to_owned();
            Ok(MemberState {
                caption,
                policy,
                store,
                clock,
                z: Tensor::from_f32(device, &shape, latents, DType::F32)?,
                // What is in a slot before it is written does not matter: no row reads it.
                history: (slots > 0)
                    .then(|| Tensor::empty(device, &[&[slots], &shape[..]].concat(), DType::F32))
                    .transpose()?,
                frames: part.map(|part| FrameState::new(model, part, &shape)).transpose()?,
                recorded: HashMap::new(),
                pending: None,
                points,
                last_computed: None,
                kept: GroupSet::default(),
                folds: vec![],
                output: MemberOutput {
                    trace: trace::Trace {
                        steps: timesteps.len(),
                        cache,
                        timesteps: timesteps.clone(),
                        strides,
                        ..trace::Trace::default()
                    },
                    ..MemberOutput::default()
                },
            })
        });
        let members = members.collect::<Result<_, SampleError>>()?;
        Ok(Sampler { model, options, workspace, members })
    }

    /// Bytes that all members keep between steps.
    pub fn cache_bytes(&self) -> usize {
        self.members.iter().map(|m| m.store.bytes()).sum()
    }

    /// Runs every step. `on_step` hears of each as soon as the host sees that it is finished, and may stop the run: then the device still
    /// finishes what is queued, a step or two of less than half a second, or the rest of one that takes longer.
    ///
    /// # Errors
    /// As [`SampleError`] says. A device that is interrupted stops the run within the step.
    pub fn run(mut self, on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>) -> Result<SampleOutput, SampleError> {
        let (model, ws) = (self.model, &self.workspace);
        let device = model.device().clone();
        let steps = self.options.rows.len();
        let mut snapshots = vec![];
        let start = Instant::now();
        let mut pace = Pace::new(&device)?;
        for step in 1..=steps {
            let mut plans = vec![];
            for member in &mut self.members {
                let walk = Walk { model, ws, caption: member.caption };
                plans.push(member.step(walk, &self.options, step)?);
            }
            pace.queued(&device, plans)?;
            if self.options.snapshots.contains(&step) {
                snapshots.push(self.latents()?);
            }
            self.tell(&mut pace, steps, on_step)?;
        }
        for member in &mut self.members {
            member.observe_computed()?;
        }
        let latents = self.latents()?;
        let seconds = start.elapsed().as_secs_f64();
        check_finite(&latents)?;
        let seconds_per_step = (1..=steps).map(|step| pace.seconds(step));
        let &[_, channels, frames, height, width] = self.members[0].z.shape() else {
            unreachable!("latents have five axes")
        };
        let videos = self.members.len() * ws.geometry().videos;
        let mut errors = vec![];
        for member in &mut self.members {
            errors.extend(member.store.pack_error()?);
            let walk = Walk { model, ws, caption: member.caption };
            member.output.flops = member.flops(walk);
        }
        Ok(SampleOutput {
            latents,
            shape: [videos, channels, frames, height, width],
            snapshots,
            seconds_per_step: seconds_per_step.collect::<Result<_, _>>()?,
            seconds,
            cache_bytes: self.cache_bytes(),
            cache_bytes_unfolded: self.members.len() * ws.x().bytes() * 2 * model.anatomy().blocks(),
            cache_error: errors.into_iter().reduce(f64::max),
            activation_bytes: ws.bytes(),
            flops: Walk { model, ws, caption: self.members[0].caption }.flops(self.members[0].store.head()),
            members: self.members.into_iter().map(|m| m.output).collect(),
        })
    }

    /// Tells `on_step` of every step that is finished, and waits for those that the host may not leave behind.
    fn tell(
        &self,
        pace: &mut Pace,
        steps: usize,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<(), SampleError> {
        let decisions = &self.members[0].output.decisions[..];
        while let Some(step) = pace.finished(steps)? {
            let plans = pace.plans(step);
            let most = |plan: &Plan| (plan.is_computed(), plan.is_partial());
            let event = StepEvent {
                step,
                steps,
                plan: plans.iter().copied().max_by_key(most).unwrap_or(Plan::Reuse),
                computed: plans.iter().filter(|plan| **plan != Plan::Reuse).count(),
                rate: decisions.last().and_then(|d| d.rate),
                seconds: pace.seconds(step)?,
                end: pace.ends[step].clone(),
                decisions,
            };
            if on_step(&event).is_break() {
                return Err(SampleError::Stopped { step });
            }
        }
        Ok(())
    }

    /// The latents of all videos.
    fn latents(&self) -> Result<Vec<f32>, SampleError> {
        let parts = self.members.iter().map(|member| member.z.to_f32());
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// A computed step that takes longer is waited for before the next one is queued: the pause this makes is nothing beside it, and who
/// stops the run has not to wait for a second one.
const LONG_SECONDS: f64 = 0.5;

/// How far the host may be ahead of the device, and what it is told of.
///
/// Two steps are queued at most, so that the device has the next one when it is done with one; of long steps it is one. How long they are is
/// not known before a computed step has been measured, the first one left out, which loads the kernels: so long it is one too.
struct Pace {
    /// The start, then the end of each step that is queued.
    ends: Vec<Event>,
    /// What the queued steps do, by member.
    plans: Vec<Vec<Plan>>,
    /// The steps that were told of.
    told: usize,
    /// Seconds of the longest computed step but the first.
    longest: Option<f64>,
}

impl Pace {
    fn new(device: &Device) -> Result<Pace, DeviceError> {
        Ok(Pace { ends: vec![device.record()?], plans: vec![], told: 0, longest: None })
    }

    /// A step of these plans has been queued.
    fn queued(&mut self, device: &Device, plans: Vec<Plan>) -> Result<(), DeviceError> {
        self.ends.push(device.record()?);
        self.plans.push(plans);
        Ok(())
    }

    /// The next step to be told of, if it is finished; of `steps` in all. Waits for it if too much is queued, or nothing will be queued any more.
    fn finished(&mut self, steps: usize) -> Result<Option<usize>, DeviceError> {
        let (queued, step) = (self.plans.len(), self.told + 1);
        if step > queued {
            return Ok(None);
        }
        if queued == steps || queued - self.told > self.ahead() {
            self.ends[step].wait()?;
        } else if !self.ends[step].ready()? {
            return Ok(None);
        }
        self.told = step;
        if step > 1 && self.plans(step).iter().any(|plan| *plan != Plan::Reuse) {
            let seconds = self.seconds(step)?;
            self.longest = Some(self.longest.map_or(seconds, |longest| longest.max(seconds)));
        }
        Ok(Some(step))
    }

    /// Steps that may be unfinished while the next one is being queued.
    fn ahead(&self) -> usize {
        usize::from(self.longest.is_some_and(|seconds| seconds < LONG_SECONDS))
    }

    fn plans(&self, step: usize) -> &[Plan] {
        &self.plans[step - 1]
    }

    /// Seconds of a queued step; waits until it is finished.
    fn seconds(&self, step: usize) -> Result<f64, DeviceError> {
        self.ends[step].seconds_since(&self.ends[step - 1])
    }
}

impl MemberState<'_> {
    /// Hands what was decided or measured in the last computed step to the policy; waits for it if it is still on its way.
    fn observe_computed(&mut self) -> Result<(), SampleError> {
        match self.pending.take() {
            Some((step, computed, measurements)) => self.observe(step, computed, measurements),
            None => Ok(()),
        }
    }

    /// Hands measurements of `step` to the policy; `computed` is the last step computed before it.
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

    /// Plans and queues step `step`; gives the plan.
    fn step(&mut self, walk: Walk<'_>, options: &SamplerOptions, step: usize) -> Result<Plan, SampleError> {
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
        let (reused, kept) = plan.groups();
        if plan == Plan::Reuse && !self.store.can_unfold() || !reused.is_within(self.kept) {
            let policy = self.policy.name();
            return Err(SampleError::Input(format!("policy `{policy}` reuses at step {step}, but nothing was kept")));
        }
        let part = if looks_ahead { Part::Rest(plan) } else { Part::Step(plan) };
        let recordable = match plan {
            Plan::Reuse => true,
            // The first computed step loads the kernels and measures nothing: it is like no other.
            Plan::Compute => self.last_computed.is_some(),
            // It may load kernels, and never come again.
            Plan::Partial { .. } => self.output.plans.contains(&plan),
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

    /// Compares the fold of `step`, just computed, with all before but the last one, with which the device compares it.
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
    fn flops(&self, walk: Walk<'_>) -> Vec<u64> {
        let (groups, geometry) = (self.policy.groups(), walk.ws.geometry());
        let whole = walk.flops(self.store.head());
        let of = |plan: &Plan| match plan {
            Plan::Compute => whole.computed,
            Plan::Reuse => whole.reused,
            Plan::Partial { reused, .. } => {
                let geometry = Geometry { guided: geometry.guided && !self.runs_half(geometry, plan), ..*geometry };
                walk.model.flops(&geometry, self.caption.length(), &|module| {
                    !groups.iter().enumerate().any(|(i, group)| reused.contains(i) && group.contains(module))
                })
            }
        };
        self.output.plans.iter().map(of).collect()
    }

    /// Replays this part of a step; records it when there is no recording yet and it is `recordable`.
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

    /// Launches a part of a step. Nothing in it depends on which step it is.
    fn queue(&mut self, walk: Walk<'_>, options: &SamplerOptions, part: Part) -> Result<(), SampleError> {
        match part {
            Part::Lead => self.lead(walk),
            Part::Rest(plan) => self.rest(walk, options, plan, true),
            Part::Step(plan) => {
                let half = self.runs_half(walk.ws.geometry(), &plan).then(|| walk.ws.conditional()).transpose()?;
                let walk = Walk { ws: half.as_ref().unwrap_or(walk.ws), ..walk };
                self.begin(walk, plan != Plan::Reuse)?;
                self.rest(walk, options, plan, false)
            }
        }
    }

    /// The step's time, and its latents embedded.
    fn begin(&mut self, walk: Walk<'_>, computed: bool) -> Result<(), SampleError> {
        self.clock.begin(walk.ws.time(), walk.ws.variants(), computed)?;
        walk.model.embed_time(walk.ws)?;
        Ok(walk.embed(&self.z)?)
    }

    /// The beginning of a step that is planned by what is measured here.
    fn lead(&mut self, walk: Walk<'_>) -> Result<(), SampleError> {
        self.begin(walk, false)?;
        self.probe_latents(ProbePoint::Latents)?;
        walk.model.modulate(walk.ws, None)?;
        walk.probe_input(&mut self.store)?;
        Ok(walk.blocks(0..self.store.head(), Some(&mut self.store))?)
    }

    /// The blocks behind the head, or what is reused in their place; the final layer, guidance and update.
    fn rest(
        &mut self,
        walk: Walk<'_>,
        options: &SamplerOptions,
        plan: Plan,
        modulated: bool,
    ) -> Result<(), SampleError> {
        let Walk { model, ws, .. } = walk;
        match plan {
            Plan::Compute | Plan::Partial { .. } => {
                self.store.begin(plan.groups());
                self.store.keep_head(ws.unpacked())?;
                if !modulated {
                    model.modulate(ws, None)?;
                }
                self.probe_latents(ProbePoint::ComputedLatents)?;
                walk.enter(&mut self.store)?;
                walk.blocks(self.store.head()..model.anatomy().blocks(), Some(&mut self.store))?;
                walk.leave(&self.z, &mut self.store)?;
            }
            Plan::Reuse => self.store.unfold(ws.x())?,
        }
        model.finish(ws)?;
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

    /// Measures the latents, where they are probed.
    fn probe_latents(&mut self, point: ProbePoint) -> Result<(), SampleError> {
        match self.store.probe_at(point) {
            Some(probe) => Ok(self.store.probe(probe, &self.z, None)?),
            None => Ok(()),
        }
    }
}

/// The conditioning of each of `parts` members, of `frames` mask entries and `elements` noise values each.
fn split_conditioning(
    conditioning: Option<FrameConditioning>,
    parts: usize,
    frames: usize,
    elements: usize,
) -> Result<Vec<Option<FrameConditioning>>, SampleError> {
    let Some(FrameConditioning { mask, noise }) = conditioning else { return Ok(vec![None; parts]) };
    if mask.len() != parts * frames || noise.len() != parts * elements {
        return Err(SampleError::Input(format!(
            "the frame conditioning has {} mask entries and {} noise values, expected {} and {}",
            mask.len(),
            noise.len(),
            parts * frames,
            parts * elements
        )));
    }
    let pairs = mask.chunks(frames).zip(noise.chunks(elements));
    Ok(pairs.map(|(mask, noise)| Some(FrameConditioning { mask: mask.into(), noise: noise.into() })).collect())
}

impl FrameState {
    fn new(
        model: &dyn Transformer,
        conditioning: FrameConditioning,
        shape: &[usize; 5],
    ) -> Result<FrameState, SampleError> {
        let [videos, _, frames, ..] = *shape;
        if model.shape().patch_frames != 1 {
            return Err(SampleError::Input("frame conditioning needs a model whose patches span one frame".into()));
        }
        if conditioning.mask.iter().any(|m| !(0.0..=1.0).contains(m)) {
            return Err(SampleError::Input("the frame mask needs values from 0 to 1".into()));
        }
        let device = model.device();
        let flags = || Tensor::empty(device, &[videos, frames], DType::U8);
        Ok(FrameState {
            noise: Tensor::from_f32(device, shape, &conditioning.noise, DType::F32)?,
            mask: flags()?,
            select: flags()?,
            noised: conditioning.mask.iter().map(|m| *m == 1.0).collect(),
            conditioning,
        })
    }

    /// Noises the frames that begin to move at `timestep`; gives which frames move.
    fn advance(&mut self, timestep: f32, z: &Tensor) -> Result<Vec<bool>, SampleError> {
        let moving: Vec<bool> = self.conditioning.mask.iter().map(|m| m * TRAIN_STEPS as f32 >= timestep).collect();
        let starting: Vec<u8> = moving.iter().zip(&self.noised).map(|(m, n)| (*m && !*n) as u8).collect();
        if starting.contains(&1) {
            self.select.write_slice(&starting)?;
            ops::sampler::noise(z, z, &self.noise, &self.select, timestep / TRAIN_STEPS as f32)?;
        }
        self.mask.write_slice(&moving.iter().map(|m| *m as u8).collect::<Vec<u8>>())?;
        self.noised.clone_from(&moving);
        Ok(moving)
    }
}

fn check_finite(latents: &[f32]) -> Result<(), SampleError> {
    match latents.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(SampleError::NotFinite { value: latents[index], index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;

    #[test]
    fn the_host_runs_ahead_where_steps_are_short() {
        let gpu = DryConfig { name: "any".into(), memory: 1 << 20, units: 1, compute_capability: (8, 0) };
        let device = Device::dry(gpu);
        let mut pace = Pace::new(&device).unwrap();
        assert_eq!(pace.finished(3).unwrap(), None, "nothing is queued");
        let mut told = vec![];
        for step in 1..=3 {
            let plan = if step == 2 { Plan::Reuse } else { Plan::Compute };
            pace.queued(&device, vec![plan]).unwrap();
            while let Some(step) = pace.finished(3).unwrap() {
                told.push(step);
            }
            // The first step loads kernels, the second is reused: only the third tells how long a step takes.
            assert_eq!((pace.longest.is_some(), pace.ahead()), (step == 3, usize::from(step == 3)), "{step}");
        }
        assert_eq!(told, [1, 2, 3]);
        pace.longest = Some(LONG_SECONDS);
        assert_eq!(pace.ahead(), 0, "a long step is waited for");
    }
}
