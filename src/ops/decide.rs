//! The scalars of a step and AdaCache's decision, on the device: `kernels/decide.cu`.

use super::params::{self, DecideParams, DecideState, MOTION_SUMS, PROBE_SUMS, STEP_WORDS, StepBeginParams};
use super::{Op, Result};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// The scalars of a step in kernel format: the time, the coefficients of the new latents, the history slot that is written (−1: none), the
/// coefficients of its new value.
pub type StepRow = [f32; STEP_WORDS];

/// The values that change from step to step, in a table on the device, with a cursor to the next step.
#[derive(Debug, Clone)]
pub struct StepClock {
    steps: usize,
    /// `[steps, STEP_WORDS]` f32
    table: Tensor,
    /// `[1]` i32: the number of steps begun.
    cursor: Tensor,
    /// `[STEP_WORDS]` f32
    row: Tensor,
    /// [`DecideState`] as `[3]` f64: rate, planned rate, mean.
    state: Tensor,
}

impl StepClock {
    /// A clock before its first step. `table`: the row of every step.
    ///
    /// # Errors
    /// No steps, or out of memory.
    pub fn new(device: &Device, table: &[StepRow]) -> Result<Self> {
        let op = Op::on("StepClock", device);
        if table.is_empty() {
            return Err(op.value("steps", 0, "at least 1"));
        }
        Ok(Self {
            steps: table.len(),
            table: Tensor::from_slice(device, &[table.len(), STEP_WORDS], table.as_flattened())?,
            cursor: Tensor::from_slice(device, &[1], &[0i32])?,
            row: Tensor::zeros(device, &[STEP_WORDS], DType::F32)?,
            state: Tensor::from_slice(device, &[3], &[1.0f64, 1.0, 0.0])?,
        })
    }

    /// `[STEP_WORDS]` f32: the row of the last step begun.
    pub fn row(&self) -> &Tensor {
        &self.row
    }

    /// `[1]` i32: the number of steps begun.
    pub fn cursor(&self) -> &Tensor {
        &self.cursor
    }

    /// Steps in the table. Beginning more steps reads out of bounds.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Begins the next step: writes its time to `time`, loads its row, advances the cursor, and before a `computed` step prepares the
    /// decision's state.
    ///
    /// * `time` `[conditions]` f32: condition i receives the step's time if `i % variants` is 0, and 0 otherwise.
    ///
    /// # Errors
    /// [`OpError`](super::OpError) if shapes, types or devices do not match.
    pub fn begin(&self, time: &Tensor, variants: usize, computed: bool) -> Result<()> {
        let op = Op::new("step_begin", time);
        let conditions = time.elements();
        op.check("time", time, DType::F32, &[("conditions", conditions)])?;
        op.check("table", &self.table, DType::F32, &[])?;
        if variants == 0 {
            return Err(op.value("variants", 0, "at least 1"));
        }
        let params = StepBeginParams {
            table: self.table.ptr(),
            cursor: self.cursor.ptr(),
            time: time.ptr(),
            row: self.row.ptr(),
            state: self.state.ptr(),
            conditions: op.int("conditions", conditions)?,
            variants: op.int("variants", variants)?,
            computed: computed.into(),
            reserved: 0,
        };
        let op = op.counted(0, &[Some(&self.cursor)], &[Some(time), Some(&self.row), Some(&self.cursor)]);
        op.launch(Module::Decide, "step_begin", [1, 1], params::STEP_THREADS, &params)
    }
}

/// Distance between a fresh and a kept residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Distance {
    /// ‖fresh − kept‖₁ / ‖kept‖₁
    L1,
    /// ‖fresh − kept‖₂ / ‖kept‖₂
    L2,
    /// 1 − cos(fresh, kept)
    Cosine,
}

/// Motion regularization with an integer exponent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MotionRule {
    /// First and last step at which motion is used.
    pub steps: (usize, usize),
    /// `M = (m / scale)^exponent / divisor`
    pub scale: f64,
    /// See `scale`.
    pub exponent: u32,
    /// See `scale`.
    pub divisor: f64,
    /// Factor on the motion's gradient.
    pub gradient: f64,
}

/// How a rate follows from a probe's sums.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRule {
    /// The distance.
    pub distance: Distance,
    /// (threshold, rate), in ascending order of threshold.
    pub codebook: Vec<(f64, usize)>,
    /// Motion regularization, if any.
    pub motion: Option<MotionRule>,
}

/// The number of values per decision on the device.
pub const DECISION_VALUES: usize = 4;

/// A rule on the device, with its state for each probe.
#[derive(Debug, Clone)]
pub struct Decider {
    rule: DecisionRule,
    /// `[entries, 2]` f64
    codebook: Tensor,
    /// `[probes]` f64
    motion_previous: Tensor,
}

impl Decider {
    /// For `probes` probes per forward pass; the state is that before the first step.
    ///
    /// # Errors
    /// An empty codebook, or out of memory.
    pub fn new(device: &Device, rule: DecisionRule, probes: usize) -> Result<Self> {
        let op = Op::on("Decider", device);
        if rule.codebook.is_empty() {
            return Err(op.value("codebook", "empty", "at least one entry"));
        }
        let entries: Vec<f64> = rule.codebook.iter().flat_map(|&(threshold, rate)| [threshold, rate as f64]).collect();
        Ok(Self {
            codebook: Tensor::from_slice(device, &[rule.codebook.len(), 2], &entries)?,
            motion_previous: Tensor::from_slice(device, &[probes], &vec![1.0f64; probes])?,
            rule,
        })
    }

    /// Decides from the sums of probe `probe` in the last step that `clock` began.
    ///
    /// * `sums` `[batch, count]` f64 as of [`super::residual::ProbeBuffers::sums`]; `decision` `[4]` f64 receives the rate of change
    ///   compared with the codebook, the motion factor, its gradient, and the rate.
    ///
    /// # Errors
    /// [`OpError`](super::OpError) if shapes, types or devices do not match.
    pub fn decide(&self, clock: &StepClock, probe: usize, sums: &Tensor, decision: &Tensor) -> Result<()> {
        let op = Op::new("decide", decision);
        op.check("decision", decision, DType::F64, &[("values", DECISION_VALUES)])?;
        let [batch, count] = op.axes("sums", sums, ["batch", "sums"])?;
        op.check("sums", sums, DType::F64, &[])?;
        op.check("cursor", &clock.cursor, DType::I32, &[])?;
        let strides = count.saturating_sub(PROBE_SUMS) / MOTION_SUMS;
        if count != PROBE_SUMS + MOTION_SUMS * strides {
            return Err(op.value("sums", count, format_args!("{PROBE_SUMS} and {MOTION_SUMS} for each stride")));
        }
        if probe >= self.motion_previous.elements() {
            return Err(op.value("probe", probe, format_args!("below {}", self.motion_previous.elements())));
        }
        let metric = match self.rule.distance {
            Distance::L1 => params::DECIDE_L1_METRIC,
            Distance::L2 => params::DECIDE_L2_METRIC,
            Distance::Cosine => params::DECIDE_COSINE_METRIC,
        };
        let step = |step: usize| i32::try_from(step).unwrap_or(i32::MAX);
        let mut params = DecideParams {
            sums: sums.ptr(),
            codebook: self.codebook.ptr(),
            state: clock.state.ptr(),
            motion_previous: self.motion_previous.ptr(),
            decision: decision.ptr(),
            cursor: clock.cursor.ptr(),
            metric: op.int("metric", metric)?,
            entries: op.int("entries", self.rule.codebook.len())?,
            batch: op.int("batch", batch)?,
            num_strides: op.int("strides", strides)?,
            probe: op.int("probe", probe)?,
            ..Default::default()
        };
        if let Some(motion) = &self.rule.motion {
            params.moreg = 1;
            params.motion_scale = motion.scale;
            params.motion_divisor = motion.divisor;
            params.motion_gradient = motion.gradient;
            params.motion_exponent = op.int("exponent", motion.exponent as usize)?;
            (params.first_step, params.last_step) = (step(motion.steps.0), step(motion.steps.1));
        }
        let op = op.counted(0, &[Some(sums), Some(&self.codebook)], &[Some(decision)]);
        op.launch(Module::Decide, "decide", [1, 1], 1, &params)
    }
}

// The state is made as plain values.
const _: () = assert!(size_of::<DecideState>() == 3 * size_of::<f64>());
