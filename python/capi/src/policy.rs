//! The policies: state machines on the host that are told measurements and say which steps are computed.

use std::ffi::{CStr, c_char};
use std::slice;
use std::sync::Mutex;

use base::cache::{Anatomy, CacheConfig, Half, Measurement, Module, Plan, Policy, Presets, Span, check_fits};
use base::family::opensora;
use base::ops::params::MAX_STRIDES;

use crate::error::{AdacacheStatus, Error, guard};

/// The room for a probe point's name, NUL included.
pub const ADACACHE_NAME_BYTES: usize = 48;

/// What a transformer's blocks are made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdacacheBlocks {
    /// Every block attends to all tokens, has cross-attention and an MLP: Wan, LTX-Video.
    Everything = 0,
    /// Spatial and temporal blocks in turn, all with cross-attention and an MLP: Open-Sora.
    SpatialTemporal = 1,
}

/// The transformer that a policy is for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdacacheModel {
    /// An `AdacacheBlocks`.
    pub blocks: u32,
    /// Blocks of each kind.
    pub layers: u32,
    /// Frames of tokens.
    pub frames: u32,
}

/// What to do in a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdacachePlan {
    /// Run every block, keep the fold, measure.
    Compute = 0,
    /// Add the kept fold to the step's embedding; the final layer runs.
    Reuse = 1,
    /// Run the blocks for the conditional half of guidance, reuse the other.
    Conditional = 2,
    /// Run the blocks for the unconditional half of guidance, reuse the other.
    Unconditional = 3,
}

/// One point at which a policy measures.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdacacheProbe {
    /// Its name, such as `block.15.attention`: the gated self-attention residual of block 15.
    pub name: [c_char; ADACACHE_NAME_BYTES],
    /// Whether it is measured before a step is planned.
    pub before_plan: bool,
}

/// What a policy concluded from a measurement.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AdacacheDecision {
    /// The number compared with the policy's thresholds.
    pub distance: f64,
    /// The motion factor; 1 without motion regularization.
    pub motion: f64,
    /// The motion gradient.
    pub motion_gradient: f64,
    /// The next computed step is so many steps away; 0 if the policy decides step by step.
    pub rate: u32,
    /// Whether the measurement led to a decision.
    pub decided: bool,
}

/// A policy of one generation.
pub struct AdacachePolicy(Mutex<Box<dyn Policy>>);

fn anatomy(model: &AdacacheModel) -> Result<Anatomy, Error> {
    if model.layers == 0 || model.frames == 0 {
        return Err(Error::argument(format!("{} layers, {} frames: at least 1 of each", model.layers, model.frames)));
    }
    let layers = model.layers as usize;
    if model.blocks == AdacacheBlocks::Everything as u32 {
        return Ok(Anatomy::new(std::iter::repeat_n((Span::Everything, &Module::ALL[..]), layers)));
    }
    if model.blocks == AdacacheBlocks::SpatialTemporal as u32 {
        return Ok(Anatomy::spatial_temporal(layers));
    }
    Err(Error::argument(format!("blocks {}: ADACACHE_BLOCKS_EVERYTHING or _SPATIAL_TEMPORAL", model.blocks)))
}

fn settings(error: impl std::fmt::Display) -> Error {
    Error::new(AdacacheStatus::Settings, error.to_string())
}

fn build(text: &str, model: &AdacacheModel, timesteps: &[f32]) -> Result<Box<dyn Policy>, Error> {
    let (anatomy, steps, frames) = (anatomy(model)?, timesteps.len(), model.frames as usize);
    let config = if text.contains('=') {
        let config = CacheConfig::from_toml(text, "the given text").map_err(settings)?;
        config.validate_for(&anatomy, frames).map_err(settings)?;
        config
    } else {
        let presets: Presets = opensora::scaled(steps);
        presets.configuration(text, false, &anatomy, steps, frames).map_err(settings)?
    };
    if config.steps(steps) != steps {
        return Err(settings(format!("`{text}` runs {} steps: run so many, with no cache", config.steps(steps))));
    }
    let policy = config.policy(&anatomy, timesteps);
    check_fits(&*policy, &anatomy, frames).map_err(settings)?;
    if !policy.groups().is_empty() {
        let message = format!("policy `{}` reuses single modules, which the C interface does not tell", policy.name());
        return Err(settings(message));
    }
    Ok(policy)
}

/// Runs `body` on a policy.
fn with<T>(policy: *const AdacachePolicy, body: impl FnOnce(&mut dyn Policy) -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: what is not null came from `adacache_policy_new` and is not freed, by the contract in the header.
    let policy = unsafe { policy.as_ref() }.ok_or_else(|| Error::argument("policy is NULL"))?;
    let poisoned =
        |_| Error::new(AdacacheStatus::Internal, "an earlier call of this policy failed inside: make a new one");
    let mut policy = policy.0.lock().map_err(poisoned)?;
    body(&mut **policy)
}

fn write<T>(place: *mut T, name: &str, value: T) -> Result<(), Error> {
    if place.is_null() {
        return Err(Error::argument(format!("{name} is NULL")));
    }
    // SAFETY: not null, and by the contract in the header a place for the value.
    unsafe { place.write(value) };
    Ok(())
}

/// Makes the policy of one generation of `steps` steps with these `timesteps` (0 to 1000). `text` is a preset (`adacache-fast`,
/// `adacache-fast+moreg`, `interval-3`, …), the path of a `.toml` file, or TOML itself. Free it with `adacache_policy_free`.
///
/// # Safety
/// `text` ends with NUL, `timesteps` has `steps` numbers, `policy` is a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_new(
    text: *const c_char,
    model: *const AdacacheModel,
    timesteps: *const f32,
    steps: usize,
    policy: *mut *mut AdacachePolicy,
) -> AdacacheStatus {
    guard(|| {
        if text.is_null() || timesteps.is_null() || policy.is_null() || steps == 0 {
            return Err(Error::argument("text, timesteps or policy is NULL, or there are no steps"));
        }
        // SAFETY: by the caller.
        let (text, timesteps) = unsafe { (CStr::from_ptr(text), slice::from_raw_parts(timesteps, steps)) };
        // SAFETY: by the caller null or a model.
        let model = unsafe { model.as_ref() }.ok_or_else(|| Error::argument("model is NULL"))?;
        let text = text.to_str().map_err(|_| Error::argument("text is not UTF-8"))?;
        let made = Box::new(AdacachePolicy(Mutex::new(build(text, model, timesteps)?)));
        write(policy, "policy", Box::into_raw(made))
    })
}

/// Frees a policy. NULL is ignored.
///
/// # Safety
/// `policy` is from `adacache_policy_new` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_free(policy: *mut AdacachePolicy) {
    if !policy.is_null() {
        guard(|| {
            // SAFETY: by the caller.
            drop(unsafe { Box::from_raw(policy) });
            Ok(())
        });
    }
}

/// The plan of step `step`, from 1; ask once for each step, in order, and after the points that are measured before a plan were observed.
///
/// # Safety
/// `policy` is from `adacache_policy_new`, `plan` a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_plan(
    policy: *const AdacachePolicy,
    step: usize,
    plan: *mut AdacachePlan,
) -> AdacacheStatus {
    guard(|| {
        if step == 0 {
            return Err(Error::argument("step 0: steps count from 1"));
        }
        let planned = with(policy, |policy| Ok(policy.plan(step)))?;
        let planned = match planned {
            planned if planned.is_computed() => AdacachePlan::Compute,
            Plan::Reuse => AdacachePlan::Reuse,
            Plan::Half(Half::Conditional) => AdacachePlan::Conditional,
            Plan::Half(Half::Unconditional) => AdacachePlan::Unconditional,
            _ => return Err(Error::new(AdacacheStatus::Internal, "a policy without groups planned a part of them")),
        };
        write(plan, "plan", planned)
    })
}

/// The number of points at which the policy measures.
///
/// # Safety
/// As `adacache_policy_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_probes(policy: *const AdacachePolicy, count: *mut usize) -> AdacacheStatus {
    guard(|| write(count, "count", with(policy, |policy| Ok(policy.probes().points.len()))?))
}

/// Point `index`, in execution order.
///
/// # Safety
/// As `adacache_policy_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_probe(
    policy: *const AdacachePolicy,
    index: usize,
    probe: *mut AdacacheProbe,
) -> AdacacheStatus {
    guard(|| {
        let point = with(policy, |policy| {
            let points = policy.probes().points;
            let point = points.get(index).copied();
            let point = point.ok_or_else(|| Error::argument(format!("probe {index}: there are {}", points.len())))?;
            let mut name = [0; ADACACHE_NAME_BYTES];
            for (to, from) in name[..ADACACHE_NAME_BYTES - 1].iter_mut().zip(point.to_string().bytes()) {
                *to = from as c_char;
            }
            Ok(AdacacheProbe { name, before_plan: point.before_plan(policy.head()) })
        })?;
        write(probe, "probe", point)
    })
}

/// The frame strides whose differences the policy uses: at most 8, written to `strides`, their number to `count`.
///
/// # Safety
/// As `adacache_policy_plan`; `strides` has room for 8 numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_strides(
    policy: *const AdacachePolicy,
    strides: *mut u32,
    count: *mut usize,
) -> AdacacheStatus {
    guard(|| {
        let wanted = with(policy, |policy| Ok(policy.probes().strides))?;
        if strides.is_null() {
            return Err(Error::argument("strides is NULL"));
        }
        for (i, stride) in wanted.iter().take(MAX_STRIDES).enumerate() {
            let stride = u32::try_from(*stride).map_err(|_| Error::argument("a stride is too large"))?;
            // SAFETY: by the caller there is room for 8.
            unsafe { strides.add(i).write(stride) };
        }
        write(count, "count", wanted.len())
    })
}

/// Tells the policy what point `probe` measured at `step`: the `count` sums of `adacache_probe` (6, and 3 for each stride), added over the samples.
/// `decision` may be NULL.
///
/// # Safety
/// As `adacache_policy_plan`; `sums` has `count` numbers, on the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_policy_observe(
    policy: *const AdacachePolicy,
    step: usize,
    probe: usize,
    sums: *const f64,
    count: usize,
    decision: *mut AdacacheDecision,
) -> AdacacheStatus {
    guard(|| {
        if sums.is_null() || count < 6 || !(count - 6).is_multiple_of(3) {
            return Err(Error::argument(format!("{count} sums: 6, and 3 for each stride")));
        }
        // SAFETY: by the caller.
        let measurement = Measurement::from_sums(unsafe { slice::from_raw_parts(sums, count) }, 1, (count - 6) / 3);
        let made = with(policy, |policy| {
            let points = policy.probes().points.len();
            if probe >= points {
                return Err(Error::argument(format!("probe {probe}: there are {points}")));
            }
            Ok(policy.observe(step, probe, &measurement))
        })?;
        if decision.is_null() {
            return Ok(());
        }
        let told = made.map_or_else(AdacacheDecision::default, |made| AdacacheDecision {
            distance: made.distance,
            motion: made.motion,
            motion_gradient: made.motion_gradient,
            rate: made.rate.map_or(0, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
            decided: true,
        });
        write(decision, "decision", told)
    })
}
