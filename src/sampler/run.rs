//! The step loop: plan, embed, compute or reuse, final layer, guidance and update. Nothing in it allocates device memory.
//!
//! A computed and a reused step are each recorded once and then replayed: values that change from step to step are in a table on the device
//! ([`StepClock`]), and the policy's decision is also made there if possible. The host reads it back while the rest of the step runs, and
//! so can queue the next step before the device is done. A policy that measures before it plans adds a third recorded part, the lead of
//! every step, for which the host waits. Steps that reuse single modules are recorded once per combination of modules, if it recurs.
//!
//! The host is never more than two steps ahead: before it queues a step it waits until the one before the last is finished. A step is
//! therefore reported when it is finished, not when it is queued, and stopping a run need not wait for all of it ([`Pace`]).

use std::ops::ControlFlow;
use std::time::Instant;

use super::error::{SampleError, check_finite};
use super::frames::{FrameConditioning, split_conditioning};
use super::member::{Begin, MemberOutput, MemberState, Setup};
use super::options::{Member, SamplerOptions};
use super::pace::Pace;
use super::solver::Row;
use crate::cache::{Decision, Plan, Policy, check_fits};
use crate::device::{Event, Rank};
use crate::model::{Flops, Geometry, ResidualRoom, Transformer, Walk, Workspace};

/// One finished step, for progress displays.
#[derive(Clone, Debug)]
pub struct StepEvent<'a> {
    /// The step, from 1.
    pub step: usize,
    /// The total number of steps.
    pub steps: usize,
    /// The plan of the member that computed the most.
    pub plan: Plan,
    /// The number of members that ran blocks.
    pub computed: usize,
    /// The rate in force for the first member after its last known decision, if its policy has rates.
    pub rate: Option<usize>,
    /// Seconds of the step by the device's clock.
    pub seconds: f64,
    /// The end of the step on the device's stream.
    pub end: Event,
    /// The first member's decisions so far: this step's own may still be in flight, and those of the next two may already be included.
    pub decisions: &'a [Decision],
}

/// The result of a generation.
#[derive(Clone, Debug)]
pub struct SampleOutput {
    /// Final latents `[videos, channels, frames, height, width]`.
    pub latents: Vec<f32>,
    /// Their shape.
    pub shape: [usize; 5],
    /// The latents after the requested steps.
    pub snapshots: Vec<Vec<f32>>,
    /// By member: one for the whole batch, or one per video.
    pub members: Vec<MemberOutput>,
    /// Seconds of each step, by the device's clock if it has one.
    pub seconds_per_step: Vec<f64>,
    /// Seconds of the whole loop.
    pub seconds: f64,
    /// Bytes all members keep between steps.
    pub cache_bytes: usize,
    /// The bytes that one tensor per residual (two per block) would need.
    pub cache_bytes_unfolded: usize,
    /// The packing error of the kept residuals, Σ|x − kept x| / Σ|x|; `None` if they are not packed.
    pub cache_error: Option<f64>,
    /// The error of activations in products of e4m3, Σ|x − packed x| / Σ|x|; `None` without such products.
    pub activation_error: Option<f64>,
    /// Bytes of a forward pass's activations.
    pub activation_bytes: usize,
    /// Work of a computed and of a reused step of one member.
    pub flops: Flops,
    /// The solver's history behind the last step, slot by slot, each like `latents`; what no row ever wrote means nothing.
    pub history: Vec<Vec<f32>>,
}

impl SampleOutput {
    /// This output and that of the run that went on from here ([`Sampler::resume`]), as if of one run: its steps are counted on.
    pub fn then(mut self, next: SampleOutput) -> SampleOutput {
        self.snapshots.extend(next.snapshots);
        self.seconds_per_step.extend(next.seconds_per_step);
        SampleOutput {
            latents: next.latents,
            history: next.history,
            members: self.members.into_iter().zip(next.members).map(|(member, next)| member.then(next)).collect(),
            seconds: self.seconds + next.seconds,
            cache_bytes: self.cache_bytes.max(next.cache_bytes),
            cache_bytes_unfolded: self.cache_bytes_unfolded.max(next.cache_bytes_unfolded),
            cache_error: self.cache_error.into_iter().chain(next.cache_error).reduce(f64::max),
            activation_error: self.activation_error.into_iter().chain(next.activation_error).reduce(f64::max),
            activation_bytes: self.activation_bytes.max(next.activation_bytes),
            ..self
        }
    }
}

/// Where a run begins.
struct Start<'a> {
    latents: &'a [f32],
    history: &'a [Vec<f32>],
    /// The time of the step before the first.
    time: Option<f32>,
}

/// A generation: all device memory is allocated up front; [`Sampler::run`] only launches.
pub struct Sampler<'a> {
    model: &'a dyn Transformer,
    options: SamplerOptions,
    workspace: Workspace,
    members: Vec<MemberState<'a>>,
}

impl<'a> Sampler<'a> {
    /// Allocates a generation of `geometry` from the initial `latents` `[videos, channels, frames, height, width]`.
    ///
    /// `members`: one that decides for all videos together, as published, or one per video. In the latter case each video is computed or
    /// reused on its own, exactly as it would be alone.
    pub fn new(
        model: &'a dyn Transformer,
        members: Vec<Member<'a>>,
        geometry: Geometry,
        latents: &[f32],
        conditioning: Option<FrameConditioning>,
        options: SamplerOptions,
    ) -> Result<Sampler<'a>, SampleError> {
        Sampler::start(model, members, geometry, Start { latents, history: &[], time: None }, conditioning, options)
    }

    /// As [`Sampler::new`], from where `before` ended: with its latents and its solver's history, by any model of latents of this shape.
    /// Policies, what they keep and what they measured begin anew.
    pub fn resume(
        model: &'a dyn Transformer,
        members: Vec<Member<'a>>,
        geometry: Geometry,
        before: &SampleOutput,
        conditioning: Option<FrameConditioning>,
        options: SamplerOptions,
    ) -> Result<Sampler<'a>, SampleError> {
        let time = before.members.first().and_then(|member| member.trace.timesteps.last().copied());
        let start = Start { latents: &before.latents, history: &before.history, time };
        Sampler::start(model, members, geometry, start, conditioning, options)
    }

    fn start(
        model: &'a dyn Transformer,
        members: Vec<Member<'a>>,
        geometry: Geometry,
        Start { latents, history, time }: Start<'_>,
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
        if let Some(slot) = history.iter().find(|slot| slot.len() != latents.len()) {
            let found = slot.len();
            return Err(SampleError::Input(format!(
                "{found} values in a slot of the history, expected {} as of the latents",
                latents.len()
            )));
        }
        if !options.cfg_scale.is_finite() {
            return Err(SampleError::Input(format!("cfg scale {} must be a finite number", options.cfg_scale)));
        }
        check_finite(latents)?;
        let geometry = Geometry { videos: shape[0], ..geometry };
        let room = room(model, &*members[0].policy, &geometry, &options)?;
        let workspace = model.workspace(geometry, &room)?;
        let parts = split_conditioning(conditioning, members.len(), shape[0] * frames, elements)?;
        // A slot that these rows do not touch may be read by those of a later run.
        let slots = options.rows.iter().map(Row::slots).max().unwrap_or(0).max(history.len());
        if slots > 0 && parts.iter().flatten().any(FrameConditioning::edits) {
            let reason = "frames cannot begin to move with a solver that keeps a history, which they would lack: give a frame mask of 0 and 1";
            return Err(SampleError::Input(reason.into()));
        }
        let setup = Setup {
            model,
            rows: &options.rows,
            slots,
            room: &room,
            workspace: &workspace,
            shape,
            before: time,
            rank: &options.rank,
        };
        let begin = |i: usize, conditioning| Begin {
            latents: &latents[i * elements..][..elements],
            history: history.iter().map(|slot| &slot[i * elements..][..elements]).collect(),
            conditioning,
        };
        let members = members.into_iter().zip(parts).enumerate();
        let members = members.map(|(i, (member, part))| MemberState::new(&setup, member, begin(i, part)));
        let members = members.collect::<Result<_, SampleError>>()?;
        Ok(Sampler { model, options, workspace, members })
    }

    /// Bytes that all members keep between steps.
    pub fn cache_bytes(&self) -> usize {
        self.members.iter().map(|m| m.store.bytes()).sum()
    }

    /// Runs every step. `on_step` is called for each step as soon as the host sees that it is finished, and may stop the run: the device
    /// still finishes the queued work, at most two steps of less than half a second, or the rest of a longer one.
    ///
    /// # Errors
    /// See [`SampleError`]. Interrupting the device stops the run within the step.
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
            member.output.all_computed = walk.flops(member.store.head()).computed * steps as u64;
        }
        let history = self.history()?;
        Ok(SampleOutput {
            latents,
            shape: [videos, channels, frames, height, width],
            snapshots,
            seconds_per_step: seconds_per_step.collect::<Result<_, _>>()?,
            seconds,
            cache_bytes: self.cache_bytes(),
            cache_bytes_unfolded: self.members.len() * ws.x().bytes() * 2 * model.anatomy().blocks(),
            cache_error: errors.into_iter().reduce(f64::max),
            activation_error: ws.activation_error()?,
            activation_bytes: ws.bytes(),
            flops: Walk { model, ws, caption: self.members[0].caption }.flops(self.members[0].store.head()),
            members: self.members.into_iter().map(|m| m.output).collect(),
            history,
        })
    }

    /// Reports every finished step to `on_step`, and waits for those that the host must not run ahead of.
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

    /// The solver's history, slot by slot, of all videos.
    fn history(&self) -> Result<Vec<Vec<f32>>, SampleError> {
        let mut slots: Vec<Vec<f32>> = vec![];
        for member in &self.members {
            for (i, values) in member.history()?.into_iter().enumerate() {
                match slots.get_mut(i) {
                    Some(slot) => slot.extend(values),
                    None => slots.push(values),
                }
            }
        }
        Ok(slots)
    }

    /// The latents of all videos.
    fn latents(&self) -> Result<Vec<f32>, SampleError> {
        let parts = self.members.iter().map(|member| member.z.to_f32());
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// Whether each of the ranks can run its half of guidance.
fn shares_guidance(rank: &Rank, policy: &dyn Policy, geometry: &Geometry) -> Result<(), SampleError> {
    let name = policy.name();
    let reason = if rank.ranks() != 2 {
        format!("{} devices cannot share the two halves of guidance: take two", rank.ranks())
    } else if !geometry.guided {
        "there is no guidance whose halves two devices could share: take one device, or a guidance scale other than 1"
            .into()
    } else if policy.ends_guidance() || policy.decides_halves() {
        format!(
            "policy `{name}` decides about the halves of guidance by themselves, so two devices cannot share them: take one device, or another policy"
        )
    } else {
        return Ok(());
    };
    Err(SampleError::Input(reason))
}

/// The buffers a workspace needs with the policy of the first member: all others probe the same residuals.
fn room(
    model: &dyn Transformer,
    policy: &dyn Policy,
    geometry: &Geometry,
    options: &SamplerOptions,
) -> Result<ResidualRoom, SampleError> {
    let (groups, anatomy, name) = (policy.groups(), model.anatomy(), policy.name());
    if let Some(rank) = &options.rank {
        shares_guidance(rank, policy, geometry)?;
    }
    let room = ResidualRoom {
        probes: policy.probes().points,
        packed: options.packed_cache && (policy.reuses() || !groups.is_empty()),
        head: policy.head(),
        groups,
        conditional: policy.ends_guidance() && geometry.guided,
        halves: policy.decides_halves() && geometry.guided,
    };
    let frames = geometry.frames.div_ceil(model.shape().patch_frames);
    check_fits(policy, anatomy, frames).map_err(|error| SampleError::Input(error.to_string()))?;
    if options.packed_cache && policy.extrapolates().is_some() {
        return Err(SampleError::Input(format!(
            "`{name}` extrapolates differences of residuals, for which 8 bits are too coarse: leave out --fp8-cache, or take a policy without +taylor"
        )));
    }
    Ok(room)
}
