//! `adacache._native`: the policies of the Rust library for Python. The package `adacache` measures tensors and does what a policy plans.
//!
//! Policies are pure arithmetic on the host: no tensor, no device, no thread; their errors become `ValueError`. `Kernels` queues kernels on memory
//! of torch.

mod judge;

use std::sync::{Mutex, MutexGuard};

use base::cache::trace::{Stage, Trace as Recorded, TraceRecord};
use base::cache::{
    self, CacheConfig, Decision, Half, Measurement, Module, Plan, ProbePoint, Reused, SeaCache, Span, computed_steps,
    partial_steps,
};
use base::family::{latte, opensora, wan};
use base::model::{LatteKind, WanConfig};
use capi::AdacacheDtype;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// A decision as (step, distance, motion, motion gradient, rate).
pub(crate) type Decided = (usize, f64, f64, f64, Option<usize>);

pub(crate) fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn decided(d: &Decision) -> Decided {
    (d.step, d.distance, d.motion, d.motion_gradient, d.rate)
}

/// `compute`, `reuse`, `partial`, or the half of guidance that is computed: `cond`, `uncond`.
fn plan_name(plan: Plan) -> &'static str {
    match plan {
        plan if plan.is_computed() => "compute",
        Plan::Reuse => "reuse",
        Plan::Half(Half::Conditional) => "cond",
        Plan::Half(Half::Unconditional) => "uncond",
        _ => "partial",
    }
}

/// What the blocks of a transformer are made of, in execution order.
#[pyclass(frozen, from_py_object)]
#[derive(Clone)]
struct Anatomy(cache::Anatomy);

#[pymethods]
impl Anatomy {
    /// `blocks`: of each block its span (`spatial`, `temporal`, `block`) and its modules (`attention`, `cross`, `mlp`).
    #[new]
    fn new(blocks: Vec<(String, Vec<String>)>) -> PyResult<Anatomy> {
        let module = |name: &String| match name.as_str() {
            "attention" => Ok(Module::Attention),
            "cross" => Ok(Module::Cross),
            "mlp" => Ok(Module::Mlp),
            other => Err(value_error(format!("no module `{other}`: attention, cross or mlp"))),
        };
        let block = |(span, modules): &(String, Vec<String>)| {
            let known = Span::ALL.into_iter().find(|known| known.name() == span);
            let known = known.ok_or_else(|| value_error(format!("no span `{span}`: spatial, temporal or block")))?;
            if modules.is_empty() {
                return Err(value_error("a block without modules"));
            }
            Ok((known, modules.iter().map(module).collect::<PyResult<Vec<Module>>>()?))
        };
        let blocks = blocks.iter().map(block).collect::<PyResult<Vec<_>>>()?;
        Ok(Anatomy(cache::Anatomy::new(blocks.iter().map(|(span, modules)| (*span, &modules[..])))))
    }

    /// The index of the block that has the residual `point`, if the model has it.
    fn block_of(&self, point: &str) -> PyResult<Option<usize>> {
        Ok(self.0.block_of(point.parse().map_err(value_error)?))
    }
}

/// The presets of one model.
#[pyclass(frozen)]
struct Presets(cache::Presets);

#[pymethods]
impl Presets {
    /// Those published for a Wan of this shape, in runs whose noise levels have this shift.
    #[staticmethod]
    fn wan(dim: usize, ffn_dim: usize, num_layers: usize, channels: usize, experts: usize, shift: f64) -> Presets {
        let config = WanConfig { dim, ffn_dim, num_layers, channels, ..WanConfig::t2v_1_3b() };
        Presets(wan::presets::presets(&config, experts, shift))
    }

    /// Those of Latte, in runs of so many steps.
    #[staticmethod]
    fn latte(anatomy: &Anatomy, steps: usize) -> Presets {
        Presets(latte::presets(LatteKind::Latte, &anatomy.0, steps, steps))
    }

    /// Those of a model for which no codebook was published: Open-Sora's, scaled to the number of steps. `layer` is probed.
    #[staticmethod]
    fn scaled(steps: usize, layer: usize) -> Presets {
        Presets(cache::Presets { blocks: Some(vec![layer]), ..opensora::scaled(steps) })
    }

    /// The names of all presets.
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    /// What to tell about a preset whose constants were fitted to another schedule than this one.
    fn caution(&self, name: &str, steps: usize) -> Option<String> {
        self.0.caution(cache::Named::read(name).name, steps)
    }

    /// The configuration that a name, or the path of a TOML file, stands for.
    fn configuration(
        &self,
        name: &str,
        moreg: bool,
        anatomy: &Anatomy,
        steps: usize,
        frames: usize,
    ) -> PyResult<Config> {
        self.0.configuration(name, moreg, &anatomy.0, steps, frames).map(Config).map_err(value_error)
    }

    /// The text of a TOML file, with the preset's motion regularization if `moreg`.
    fn read(&self, text: &str, moreg: bool, anatomy: &Anatomy, steps: usize, frames: usize) -> PyResult<Config> {
        let mut config = CacheConfig::from_toml(text, "the given text").map_err(value_error)?;
        if moreg {
            let adacache = config
                .adacache_mut()
                .ok_or_else(|| value_error("motion regularization changes AdaCache's decisions: drop moreg=True"))?;
            adacache.moreg.get_or_insert_with(|| self.0.moreg_for(steps));
        }
        config.validate_for(&anatomy.0, frames).map_err(value_error)?;
        Ok(Config(config))
    }

    /// A policy that computes every step and measures what the presets measure.
    fn recorder(&self, anatomy: &Anatomy, steps: usize, frames: usize) -> Policy {
        Policy::new(Box::new(self.0.recorder(&anatomy.0, steps, frames)))
    }
}

/// A policy's settings.
#[pyclass(frozen)]
pub(crate) struct Config(pub(crate) CacheConfig);

#[pymethods]
impl Config {
    /// The text of a TOML file that means the same.
    fn to_toml(&self) -> PyResult<String> {
        self.0.to_toml().map_err(value_error)
    }

    /// The number of steps of a run for which `asked` were asked.
    fn steps(&self, asked: usize) -> usize {
        self.0.steps(asked)
    }

    /// The thresholds and rates of AdaCache's codebook.
    fn codebook(&self) -> Option<Vec<(f64, usize)>> {
        Some(self.0.adacache()?.codebook.entries().to_vec())
    }

    /// The settings for the steps from `start` to before `end` (from 0) of a run of `all`.
    fn part(&self, start: usize, end: usize, all: usize) -> Config {
        Config(self.0.part(start..end, all))
    }

    /// The policy of one generation.
    fn policy(&self, anatomy: &Anatomy, timesteps: Vec<f32>) -> Policy {
        Policy::new(self.0.policy(&anatomy.0, &timesteps))
    }
}

/// The state machine of one generation.
#[pyclass(frozen)]
struct Policy(Mutex<Box<dyn cache::Policy>>);

impl Policy {
    fn new(policy: Box<dyn cache::Policy>) -> Policy {
        Policy(Mutex::new(policy))
    }

    /// A policy has no state that a panic could leave half changed and that is used again: a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, Box<dyn cache::Policy>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn point(&self, probe: usize) -> PyResult<ProbePoint> {
        let points = self.lock().probes().points;
        points.get(probe).copied().ok_or_else(|| value_error(format!("no probe {probe}: there are {}", points.len())))
    }
}

#[pymethods]
impl Policy {
    #[getter]
    fn name(&self) -> String {
        self.lock().name().to_owned()
    }

    /// The names of the probe points, in execution order.
    #[getter]
    fn points(&self) -> Vec<String> {
        self.lock().probes().points.iter().map(ToString::to_string).collect()
    }

    /// The frame strides whose differences are summed.
    #[getter]
    fn strides(&self) -> Vec<usize> {
        self.lock().probes().strides
    }

    /// The number of blocks that run before a step is planned.
    #[getter]
    fn head(&self) -> usize {
        self.lock().head()
    }

    #[getter]
    fn reuses(&self) -> bool {
        self.lock().reuses()
    }

    /// What a reused step takes from the last computed one: `fold` or `prediction`.
    #[getter]
    fn reused(&self) -> &'static str {
        if self.lock().reused() == Reused::Prediction { "prediction" } else { "fold" }
    }

    /// (order, damping) of the polynomial that extrapolates folds.
    #[getter]
    fn extrapolates(&self) -> Option<(usize, f64)> {
        self.lock().extrapolates().map(|e| (e.order, e.damping))
    }

    /// Whether single modules are reused.
    #[getter]
    fn groups(&self) -> bool {
        !self.lock().groups().is_empty()
    }

    #[getter]
    fn decides_halves(&self) -> bool {
        self.lock().decides_halves()
    }

    /// Whether point `probe` is measured before a step is planned.
    fn before_plan(&self, probe: usize) -> PyResult<bool> {
        let point = self.point(probe)?;
        Ok(point.before_plan(self.lock().head()))
    }

    /// The step with which `step` is compared at point `probe`, given the last computed step.
    #[pyo3(signature = (probe, step, computed))]
    fn compared_with(&self, probe: usize, step: usize, computed: Option<usize>) -> PyResult<Option<usize>> {
        Ok(self.point(probe)?.compared_with(step, computed))
    }

    /// The plan of step `step` (from 1): `compute`, `reuse`, or the half of guidance that is computed.
    fn plan(&self, step: usize) -> PyResult<&'static str> {
        if step == 0 {
            return Err(value_error("steps count from 1"));
        }
        Ok(plan_name(self.lock().plan(step)))
    }

    /// Takes the sums that point `probe` measured at `step`: 6, and 3 for each of `strides`.
    fn observe(&self, step: usize, probe: usize, sums: Vec<f64>) -> PyResult<Option<Decided>> {
        self.point(probe)?;
        let measurement = measurement(&sums)?;
        Ok(self.lock().observe(step, probe, &measurement).as_ref().map(decided))
    }
}

/// Sums in the order of the kernel.
fn measurement(sums: &[f64]) -> PyResult<Measurement> {
    match sums.len().checked_sub(6) {
        Some(motion) if motion.is_multiple_of(3) => Ok(Measurement::from_sums(sums, 1, motion / 3)),
        _ => Err(value_error(format!("{} sums: 6, and 3 for each stride", sums.len()))),
    }
}

/// The weights, from distance 0 on, of SeaCache's circular filter along an axis of `length` tokens at noise level `noise`.
#[pyfunction]
fn seacache_filter(length: usize, noise: f64) -> PyResult<Vec<f64>> {
    if length == 0 {
        return Err(value_error("an axis without tokens"));
    }
    Ok(SeaCache::filter(length, noise))
}

/// The measurements of one run, in the format of `adacache generate --trace`.
#[pyclass]
struct Trace(Recorded);

#[pymethods]
impl Trace {
    /// `stages`: of each expert its name and its steps.
    #[new]
    fn new(cache: String, timesteps: Vec<f32>, strides: Vec<usize>, stages: Vec<(String, usize)>) -> Trace {
        let stages = stages.into_iter().map(|(expert, steps)| Stage { expert, steps }).collect();
        Trace(Recorded { steps: timesteps.len(), cache, timesteps, strides, stages, ..Recorded::default() })
    }

    /// Reads a trace's text.
    #[staticmethod]
    fn read(text: &str) -> PyResult<Trace> {
        Recorded::read(text.as_bytes()).map(Trace).map_err(value_error)
    }

    /// Notes that a step was computed, or, with `partial`, in part.
    fn computed(&mut self, step: usize, partial: bool) {
        let steps = if partial { &mut self.0.partial } else { &mut self.0.computed };
        steps.push(step);
    }

    /// Notes one measurement.
    fn record(&mut self, step: usize, since: usize, at: &str, sums: Vec<f64>) -> PyResult<()> {
        let at = at.parse().map_err(value_error)?;
        self.0.records.push(TraceRecord { step, since, at, measurement: measurement(&sums)? });
        Ok(())
    }

    /// The text: JSON Lines.
    fn text(&self) -> PyResult<String> {
        let mut text = vec![];
        self.0.write(&mut text).map_err(value_error)?;
        String::from_utf8(text).map_err(value_error)
    }

    /// What a policy would have done: the computed steps, those computed in part, and its decisions.
    fn replay(&self, config: &Config, anatomy: &Anatomy) -> PyResult<(Vec<usize>, Vec<usize>, Vec<Decided>)> {
        let (plans, decisions) = self.0.play(&config.0, &anatomy.0).map_err(value_error)?;
        Ok((computed_steps(&plans), partial_steps(&plans), decisions.iter().map(decided).collect()))
    }
}

/// The kernels of `capi`, in the CUDA context that is current on this thread. Pointers and streams are numbers; whoever calls keeps the memory.
#[pyclass(frozen)]
struct Kernels(capi::AdacacheKernels);

fn runtime_error(error: capi::Error) -> PyErr {
    PyRuntimeError::new_err(error.message)
}

fn dtype(number: usize) -> PyResult<AdacacheDtype> {
    AdacacheDtype::ALL.get(number).copied().ok_or_else(|| value_error(format!("no dtype {number}")))
}

#[pymethods]
impl Kernels {
    /// Loads the kernels.
    #[new]
    fn new() -> PyResult<Kernels> {
        capi::AdacacheKernels::new().map(Kernels).map_err(runtime_error)
    }

    /// The bytes of scratch memory that a probe needs.
    #[staticmethod]
    fn scratch_bytes(batch: usize, strides: usize) -> usize {
        capi::scratch_bytes(batch, strides)
    }

    /// `adacache_probe`; `shape` is (batch, frames, inner).
    #[allow(clippy::too_many_arguments)] // As the C function has them.
    fn probe(
        &self,
        stream: usize,
        of: usize,
        fresh: u64,
        kept: u64,
        first: bool,
        shape: (usize, usize, usize),
        strides: Vec<u32>,
        scratch: u64,
        sums: u64,
    ) -> PyResult<()> {
        let shape = [shape.0, shape.1, shape.2];
        let probe = capi::Probe { fresh, kept, first, shape, strides: &strides, scratch, sums };
        // SAFETY: the package hands over tensors of torch, which its allocator keeps until the stream has run what is queued on it.
        unsafe { self.0.probe(stream, dtype(of)?, &probe) }.map_err(runtime_error)
    }

    /// `adacache_unfold`, or with `subtract` `adacache_fold`.
    #[allow(clippy::too_many_arguments)] // As the C function has them.
    fn add(&self, stream: usize, of: usize, a: u64, b: u64, out: u64, count: usize, subtract: bool) -> PyResult<()> {
        // SAFETY: as in `probe`.
        unsafe { self.0.add(stream, dtype(of)?, [a, b, out], count, subtract) }.map_err(runtime_error)
    }

    /// `adacache_extrapolate`.
    #[allow(clippy::too_many_arguments)] // As the C function has them.
    fn extrapolate(
        &self,
        stream: usize,
        of: usize,
        a: u64,
        out: u64,
        folds: Vec<u64>,
        computed: u64,
        cursor: u64,
        damping: f32,
        count: usize,
    ) -> PyResult<()> {
        // SAFETY: as in `probe`.
        unsafe { self.0.extrapolate(stream, dtype(of)?, [a, out], &folds, [computed, cursor], damping, count) }
            .map_err(runtime_error)
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Anatomy>()?;
    module.add_class::<Presets>()?;
    module.add_class::<Config>()?;
    module.add_class::<Policy>()?;
    module.add_class::<Trace>()?;
    module.add_class::<Kernels>()?;
    module.add_class::<judge::Video>()?;
    module.add_class::<judge::Comparison>()?;
    module.add_function(wrap_pyfunction!(seacache_filter, module)?)?;
    module.add_function(wrap_pyfunction!(judge::calibrate, module)?)
}
