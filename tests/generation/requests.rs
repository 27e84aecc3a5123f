//! What a request decides before and beside the policies of this crate: guidance without its second half, and policies from outside whose
//! probes have to exist.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use adacache::cache::{
    Anatomy, CacheConfig, CacheError, Decision, Measurement, Plan, Policy, ProbePoint, Probes, Settings,
};
use adacache::family;
use adacache::pipeline::{Deciding, Generation, Pipeline, PipelineError, Request};
use adacache::tensor::DType;

use crate::common::device;

const PROMPT: &str = "large red circle bouncing fast navy";
const STEPS: usize = 4;

fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| Pipeline::load(&family::sprites(), &device(), DType::F32).unwrap())
}

fn request(cache: CacheConfig) -> Request {
    Request { steps: STEPS, cache, decode: false, ..Request::new(pipeline(), PROMPT).unwrap() }
}

fn generate(request: Request) -> Result<Generation, PipelineError> {
    pipeline().generate(&request, &mut |_| ControlFlow::Continue(()))
}

/// How far apart the latents are, ‖a − b‖ / ‖a‖.
pub(crate) fn difference(a: &Generation, b: &Generation) -> f64 {
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        let pairs = a.latents.values.iter().zip(&b.latents.values);
        pairs.map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum()
    };
    (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt()
}

/// v_u + 1·(v_c − v_u) is v_c: the other half is not run, and nothing but rounding changes.
#[test]
fn guidance_of_one_runs_one_half() {
    let scaled =
        |scale: f32, cache: CacheConfig| generate(Request { cfg_scale: scale.into(), ..request(cache) }).unwrap();
    let (one, beside) = (scaled(1.0, CacheConfig::None), scaled(1.0f32.next_up(), CacheConfig::None));
    let apart = difference(&one, &beside);
    assert!(apart > 0.0 && apart < 1e-4, "{apart}");
    assert!(difference(&one, &scaled(3.0, CacheConfig::None)) > 0.01);
    let share = |of: fn(&Generation) -> f64| of(&one) / of(&beside);
    assert!((0.49..0.51).contains(&share(|g| g.report.flops.computed_step as f64)));
    assert!((0.49..0.51).contains(&share(|g| g.report.flops.total as f64)));
    assert!(share(|g| g.report.activation_bytes as f64) < 0.7);
    assert_eq!(one.report.step_shares, [1.0; STEPS]);
    // In a batch as alone, and with each kind of cache: what is kept is of one half too.
    let two = [PROMPT, "small blue ring left slowly black"].map(|prompt| Request {
        cfg_scale: 1.0.into(),
        decode: false,
        steps: STEPS,
        cache: CacheConfig::None,
        ..Request::new(pipeline(), prompt).unwrap()
    });
    let together = pipeline().generate_batch(&two, Deciding::Apart, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(difference(&together[0], &one) == 0.0);
    for name in [
        "interval-2",
        "adacache-fast+moreg",
        "teacache-fast",
        "fbcache",
        "easycache",
        "pab",
        "t-gate",
        "interval-2+taylor",
    ] {
        let cache = adacache::pipeline::cache_config(pipeline().source(), name, false, STEPS).unwrap();
        let (one, two) = (scaled(1.0, cache.clone()), scaled(3.0, cache));
        assert!(one.latents.values.iter().all(|value| value.is_finite()), "{name}");
        assert!(one.report.cache_bytes < two.report.cache_bytes || name == "t-gate", "{name}");
    }
}

/// A policy that asks for what the model does not have.
#[derive(Clone, Debug)]
struct Asking {
    probes: Probes,
    head: usize,
}

impl Settings for Asking {
    fn validate(&self) -> Result<(), CacheError> {
        Ok(())
    }

    fn policy(&self, _anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

impl Policy for Asking {
    fn name(&self) -> &str {
        "asking"
    }

    fn plan(&mut self, _step: usize) -> Plan {
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        self.probes.clone()
    }

    fn reuses(&self) -> bool {
        false
    }

    fn head(&self) -> usize {
        self.head
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

#[test]
fn probes_of_a_policy_from_outside_have_to_exist() {
    let at = |point: &str| Probes::at([point.parse::<ProbePoint>().unwrap()]);
    let with = |probes, head| CacheConfig::custom(Asking { probes, head });
    generate(request(with(at("temporal.4.attention"), 0))).unwrap();
    for (config, parts) in [
        (with(at("temporal.99.attention"), 0), ["`temporal.99.attention`", "temporal.0 to temporal.4"]),
        (with(Probes { strides: vec![99], ..at("spatial.0.whole") }, 0), ["99 apart", "1 to 15"]),
        (with(Probes::default(), 1000), ["1000 blocks", "0 to 10"]),
    ] {
        let refused = generate(request(config)).unwrap_err().to_string();
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
}
