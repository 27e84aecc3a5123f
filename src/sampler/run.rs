//! The step loop: plan, embed, compute or reuse, final layer, guidance and update. Nothing in it allocates device memory.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{Schedule, rflow::TRAIN_STEPS};
use crate::cache::{Decision, PendingMeasurements, Plan, Policy, ResidualStore, trace};
use crate::device::DeviceError;
use crate::model::{Caption, Flops, Geometry, ModelError, StDiT3, Workspace};
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
    /// The timesteps.
    pub schedule: Schedule,
    /// Guidance scale s: `v = v_u + s·(v_c − v_u)`. Ignored for an unguided geometry.
    pub cfg_scale: f32,
    /// Steps (from 1, ascending) after which the latents are copied to the host, beside the final ones.
    pub snapshots: Vec<usize>,
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

/// One finished step, for progress displays.
#[derive(Clone, Debug)]
pub struct StepEvent<'a> {
    /// The step, from 1.
    pub step: usize,
    /// Of how many.
    pub steps: usize,
    /// What it did.
    pub plan: Plan,
    /// The rate in force after the last known decision.
    pub rate: usize,
    /// Wall-clock seconds of the step on the host (on an asynchronous device: of issuing it).
    pub seconds: f64,
    /// The decisions so far (this step's own may still be on its way).
    pub decisions: &'a [Decision],
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
    /// What each step did; index 0 is step 1.
    pub plans: Vec<Plan>,
    /// Every decision, in order.
    pub decisions: Vec<Decision>,
    /// Every measurement, for replay.
    pub trace: trace::Trace,
    /// Seconds of each step, measured on the device's clock where it has one.
    pub seconds_per_step: Vec<f64>,
    /// Seconds of the whole loop.
    pub seconds: f64,
    /// Bytes the policy keeps between steps.
    pub cache_bytes: usize,
    /// What one tensor a residual (two a block) would have held.
    pub cache_bytes_unfolded: usize,
    /// Work of a computed and of a reused step.
    pub flops: Flops,
}

impl SampleOutput {
    /// The steps (from 1) that were computed.
    pub fn computed_steps(&self) -> Vec<usize> {
        (1..).zip(&self.plans).filter(|(_, plan)| **plan == Plan::Compute).map(|(step, _)| step).collect()
    }
}

/// A generation: all device memory is allocated when it is made, [`Sampler::run`] then only launches.
pub struct Sampler<'a> {
    model: &'a StDiT3,
    caption: &'a Caption,
    options: SamplerOptions,
    workspace: Workspace,
    store: ResidualStore,
    policy: Box<dyn Policy>,
    z: Tensor,
    /// Noise and the frames' states, with frame conditioning.
    frames: Option<FrameState>,
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
    pub fn new(
        model: &'a StDiT3,
        caption: &'a Caption,
        geometry: Geometry,
        latents: &[f32],
        conditioning: Option<FrameConditioning>,
        policy: Box<dyn Policy>,
        options: SamplerOptions,
    ) -> Result<Sampler<'a>, SampleError> {
        let geometry = Geometry { frame_masked: conditioning.is_some(), ..geometry };
        let Geometry { videos, frames, height, width, .. } = geometry;
        let shape = [videos, model.config().in_channels, frames, height, width];
        let elements: usize = shape.iter().product();
        if latents.len() != elements {
            return Err(SampleError::Input(format!(
                "{} initial latents, expected {elements} ({shape:?})",
                latents.len()
            )));
        }
        if !options.cfg_scale.is_finite() {
            return Err(SampleError::Input(format!("cfg scale {} must be a finite number", options.cfg_scale)));
        }
        check_finite(latents)?;
        let device = model.device();
        let probes = policy.probes();
        let keeps = policy.reuses();
        let workspace = model.workspace(geometry, !probes.points.is_empty())?;
        let store = ResidualStore::new(device, probes, keeps, model.hidden_shape(&geometry), model.dtype())?;
        let z = Tensor::from_f32(device, &shape, latents, DType::F32)?;
        let frames = conditioning.map(|c| FrameState::new(model, c, &shape)).transpose()?;
        Ok(Sampler { model, caption, options, workspace, store, policy, z, frames })
    }

    /// Runs every step. `on_step` hears of each and may stop the run.
    pub fn run(mut self, on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>) -> Result<SampleOutput, SampleError> {
        let device = self.model.device().clone();
        let steps = self.options.schedule.steps();
        let mut output = SampleOutput {
            latents: vec![],
            shape: self.z.shape().try_into().expect("latents have five axes"),
            snapshots: vec![],
            plans: Vec::with_capacity(steps),
            decisions: vec![],
            trace: trace::Trace { steps, records: vec![] },
            seconds_per_step: Vec::with_capacity(steps),
            seconds: 0.0,
            cache_bytes: self.store.bytes(),
            cache_bytes_unfolded: self.workspace.x().bytes() * 4 * self.model.config().depth,
            flops: self.model.flops(self.workspace.geometry(), self.caption),
        };
        let mut pending = None;
        let mut events = vec![device.record()?];
        let start = Instant::now();
        for step in 1..=steps {
            let step_start = Instant::now();
            self.observe(&mut pending, &mut output)?;
            let plan = self.policy.plan(step);
            self.step(step, plan)?;
            if plan == Plan::Compute && self.store.has_probes() {
                pending = Some((step, output.plans.contains(&Plan::Compute), self.store.read_measurements()?));
            }
            output.plans.push(plan);
            events.push(device.record()?);
            if self.options.snapshots.contains(&step) {
                output.snapshots.push(self.z.to_f32()?);
            }
            let event = StepEvent {
                step,
                steps,
                plan,
                rate: output.decisions.last().map_or(1, |d| d.rate),
                seconds: step_start.elapsed().as_secs_f64(),
                decisions: &output.decisions,
            };
            if on_step(&event).is_break() {
                return Err(SampleError::Stopped { step });
            }
        }
        self.observe(&mut pending, &mut output)?;
        output.latents = self.z.to_f32()?;
        output.seconds = start.elapsed().as_secs_f64();
        for pair in events.windows(2) {
            output.seconds_per_step.push(pair[1].seconds_since(&pair[0])?);
        }
        check_finite(&output.latents)?;
        Ok(output)
    }

    /// Hands the measurements of the last computed step to the policy; waits for them if they are still on their way.
    fn observe(
        &mut self,
        pending: &mut Option<(usize, bool, PendingMeasurements)>,
        output: &mut SampleOutput,
    ) -> Result<(), SampleError> {
        let Some((step, comparable, measurements)) = pending.take() else { return Ok(()) };
        // The first computed step has nothing to be compared with.
        if !comparable {
            return Ok(());
        }
        for (probe, measurement) in measurements.wait()?.into_iter().enumerate() {
            output.decisions.push(self.policy.observe(step, probe, &measurement));
            output.trace.records.push(trace::TraceRecord { step, probe, measurement });
        }
        Ok(())
    }

    fn step(&mut self, step: usize, plan: Plan) -> Result<(), SampleError> {
        let (model, ws) = (self.model, &self.workspace);
        let timestep = self.options.schedule.timesteps()[step - 1];
        let moving = match &mut self.frames {
            Some(frames) => Some(frames.advance(timestep, &self.z)?),
            None => None,
        };
        let guided = ws.geometry().guided;
        let mask = moving.as_ref().map(|m| m.repeat(if guided { 2 } else { 1 }));
        model.set_time(ws, &vec![timestep; ws.geometry().batch()], mask.as_deref())?;
        model.embed(ws, &self.z)?;
        match plan {
            Plan::Compute => {
                self.store.enter(ws.x())?;
                model.blocks(ws, self.caption, Some(&mut self.store))?;
                self.store.leave(ws.x())?;
            }
            Plan::Reuse if self.store.can_unfold() => self.store.unfold(ws.x())?,
            Plan::Reuse => {
                let policy = self.policy.name();
                return Err(SampleError::Input(format!(
                    "policy `{policy}` reuses at step {step}, but nothing was kept"
                )));
            }
        }
        model.finish(ws)?;
        let update = ops::sampler::Step {
            cfg_scale: guided.then_some(self.options.cfg_scale),
            dt: self.options.schedule.delta(step),
            frame_mask: self.frames.as_ref().map(|f| &f.mask),
            x0: None,
        };
        ops::sampler::step(&self.z, ws.prediction(), &update)?;
        Ok(())
    }
}

impl FrameState {
    fn new(model: &StDiT3, conditioning: FrameConditioning, shape: &[usize; 5]) -> Result<FrameState, SampleError> {
        let [videos, _, frames, ..] = *shape;
        if model.config().patch_size[0] != 1 {
            return Err(SampleError::Input("frame conditioning needs a model whose patches span one frame".into()));
        }
        if conditioning.mask.len() != videos * frames || conditioning.mask.iter().any(|m| !(0.0..=1.0).contains(m)) {
            return Err(SampleError::Input(format!("the frame mask needs {videos} × {frames} values from 0 to 1")));
        }
        if conditioning.noise.len() != shape.iter().product::<usize>() {
            return Err(SampleError::Input(format!("the conditioning noise must be shaped as the latents, {shape:?}")));
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
