//! A cache policy of your own, without a change to the crate: `cargo run --release --example own_policy`
//!
//! The policy here looks at how far the latents have moved since the last computed step and computes again when that is more than a
//! threshold. It generates a video, and is then replayed over the trace of that run with other thresholds, which runs no model.

use std::ops::ControlFlow;

use adacache::cache::{
    Anatomy, CacheConfig, CacheError, Decision, Measurement, Plan, Policy, ProbePoint, Probes, Settings, computed_steps,
};
use adacache::device::Device;
use adacache::family;
use adacache::pipeline::{Pipeline, Request, schedule_strip};
use adacache::tensor::DType;

/// What the policy is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drift {
    /// The relative L1 change of the latents at which a step is computed.
    pub(crate) threshold: f64,
}

impl Settings for Drift {
    fn validate(&self) -> Result<(), CacheError> {
        if self.threshold > 0.0 { Ok(()) } else { Err(CacheError::Invalid("the threshold must be above 0".into())) }
    }

    fn policy(&self, _anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(DriftPolicy { settings: *self, drift: f64::INFINITY })
    }
}

/// The policy of one generation.
struct DriftPolicy {
    settings: Drift,
    /// The changes from step to step since the last computed one, added up.
    drift: f64,
}

impl Policy for DriftPolicy {
    fn name(&self) -> &str {
        "drift"
    }

    fn plan(&mut self, _step: usize) -> Plan {
        if self.drift < self.settings.threshold {
            return Plan::Reuse;
        }
        self.drift = 0.0;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        // The latents exist in every step: they are measured before it is planned.
        Probes::at([ProbePoint::Latents])
    }

    fn reuses(&self) -> bool {
        true
    }

    fn observe(&mut self, step: usize, _probe: usize, measured: &Measurement) -> Option<Decision> {
        self.drift += measured.abs_diff / measured.abs_kept;
        Some(Decision::about(step, self.drift))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open(&std::env::var("ADACACHE_DEVICE").unwrap_or("auto".into()))?;
    let pipeline = Pipeline::load(&family::sprites(), &device, DType::Bf16)?;
    let request = Request {
        steps: 12,
        cache: CacheConfig::custom(Drift { threshold: 0.1 }),
        ..Request::new(&pipeline, "large red circle bouncing fast navy")?
    };
    let generation = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
    println!("{}", generation.report.summary());

    for threshold in [0.05, 0.1, 0.2] {
        let settings = Drift { threshold };
        let mut policy = settings.policy(family::sprites().anatomy(), &generation.trace.timesteps);
        let (plans, _) = generation.trace.replay(&mut *policy)?;
        println!("threshold {threshold:<5} {}", schedule_strip(12, &computed_steps(&plans), &[]));
    }
    Ok(())
}
