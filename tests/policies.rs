//! Every cache policy in whole runs: a policy that reuses nothing gives the bits of a run without one, a policy that reuses all it
//! can gives the bits of another that does, and a recorded trace gives the plan of the run that recorded it.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use adacache::cache::{
    CacheConfig, EasyCacheConfig, FbCacheConfig, FewerStepsConfig, IntervalConfig, MagCacheConfig, TeaCacheConfig,
};
use adacache::device::Device;
use adacache::pipeline::{Deciding, Generation, ModelSource, Pipeline, Request};
use adacache::tensor::DType;

const STEPS: usize = 8;
const PROMPT: &str = "large red square spinning fast checkerboard";
const OTHER: &str = "small white circle still slowly black";

fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| {
        let device = Device::open(std::env::var("ADACACHE_TEST_DEVICE").as_deref().unwrap_or("auto")).unwrap();
        Pipeline::load(&ModelSource::sprites(), &device, DType::Bf16).unwrap()
    })
}

fn request(cache: CacheConfig) -> Request {
    Request { steps: STEPS, cache, ..Request::new(pipeline(), PROMPT).unwrap() }
}

fn run(request: &Request) -> Generation {
    pipeline().generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn teacache(threshold: f64) -> CacheConfig {
    CacheConfig::TeaCache(TeaCacheConfig { threshold, coefficients: [0.0, 0.0, 0.0, 1.0, 0.0] })
}

fn fbcache(threshold: f64) -> CacheConfig {
    CacheConfig::FbCache(FbCacheConfig { threshold })
}

fn easycache(threshold: f64) -> CacheConfig {
    CacheConfig::EasyCache(EasyCacheConfig { threshold, first: 3 })
}

fn magcache(threshold: f64, most: usize) -> CacheConfig {
    CacheConfig::MagCache(MagCacheConfig { retention: 0.0, ..MagCacheConfig::new(threshold, most, vec![1.0]) })
}

fn interval(every: usize) -> CacheConfig {
    CacheConfig::Interval(IntervalConfig { every })
}

fn none() -> &'static Generation {
    static NONE: OnceLock<Generation> = OnceLock::new();
    NONE.get_or_init(|| run(&request(CacheConfig::None)))
}

#[test]
fn a_policy_that_reuses_nothing_gives_the_bits_of_no_policy() {
    for cache in [teacache(0.0), fbcache(0.0), easycache(0.0), magcache(0.0, 0), interval(1)] {
        let generation = run(&request(cache.clone()));
        assert_eq!(generation.report.computed_steps, (1..=STEPS).collect::<Vec<_>>(), "{cache:?}");
        assert!(generation.latents.values == none().latents.values, "{cache:?}");
    }
}

#[test]
fn measuring_everything_changes_no_bit() {
    let generation = run(&Request { record_all: true, ..request(CacheConfig::None) });
    assert!(generation.latents.values == none().latents.values);
    // Seven probe points, at every step but the first.
    assert_eq!(generation.trace.records.len(), 7 * (STEPS - 1));
    for record in &generation.trace.records {
        let m = &record.measurement;
        assert_eq!(record.since, record.step - 1);
        assert!(m.abs_diff > 0.0 && m.abs_kept > 0.0 && m.abs_diff.is_finite(), "{record:?}");
        // (fresh − kept)² = fresh² + kept² − 2·fresh·kept
        let sum = m.sq_fresh + m.sq_kept - 2.0 * m.dot;
        assert!((m.sq_diff - sum).abs() <= 1e-3 * (m.sq_fresh + m.sq_kept), "{record:?}");
    }
    // One step's fresh norm is the next one's kept norm.
    let fold: Vec<_> = generation.trace.records.iter().filter(|r| r.at.to_string() == "fold").collect();
    for pair in fold.windows(2) {
        let (fresh, kept) = (pair[0].measurement.sq_fresh, pair[1].measurement.sq_kept);
        assert!((fresh - kept).abs() <= 1e-6 * kept, "{fresh} {kept}");
    }
}

#[test]
fn policies_that_reuse_the_same_steps_give_the_same_bits() {
    let once = run(&request(interval(STEPS)));
    assert_eq!(once.report.computed_steps, [1]);
    assert!(once.latents.values != none().latents.values);
    let table = run(&request(magcache(1e9, STEPS)));
    assert_eq!(table.report.computed_steps, [1]);
    assert!(table.latents.values == once.latents.values);
    assert_eq!(table.report.cache_bytes, once.report.cache_bytes, "the fold alone");

    // Forced: the first and the last step.
    let ends = run(&request(teacache(1e9)));
    assert_eq!(ends.report.computed_steps, [1, STEPS]);
    assert!(ends.latents.values == run(&request(interval(STEPS - 1))).latents.values);
    // The modulated input is kept beside the fold.
    assert_eq!(ends.report.cache_bytes, 2 * once.report.cache_bytes);

    let easy = run(&request(easycache(1e9)));
    assert_eq!(easy.report.computed_steps, [1, 2, 3, STEPS]);
}

#[test]
fn the_first_block_runs_in_every_step() {
    let first = run(&request(fbcache(1e9)));
    assert_eq!(first.report.computed_steps, [1]);
    // Reused with a fresh first block: closer to the truth than all blocks reused.
    let off = |generation: &Generation| -> f64 {
        let pairs = generation.latents.values.iter().zip(&none().latents.values);
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let all = run(&request(interval(STEPS)));
    let (first_off, all_off) = (off(&first), off(&all));
    println!("latents off by {first_off:.3} with a fresh first block, by {all_off:.3} without");
    assert!(first_off > 0.0 && first_off != all_off);
    let flops = (first.report.flops, all.report.flops);
    assert_eq!(flops.0.computed_step, flops.1.computed_step);
    // One of ten blocks.
    let share = (flops.0.reused_step - flops.1.reused_step) as f64 / flops.0.computed_step as f64;
    assert!((0.08..0.12).contains(&share), "{share}");
}

#[test]
fn a_trace_gives_the_plan_of_its_run() {
    for cache in [teacache(0.3), fbcache(0.2), easycache(0.2), magcache(0.5, 2), interval(3)] {
        let generation = run(&request(cache.clone()));
        let computed = &generation.report.computed_steps;
        println!("{cache:?}: {computed:?}");
        assert_eq!(generation.trace.schedule(&mut *cache.policy(STEPS)).unwrap(), *computed);
        assert_eq!(generation.trace.computed, *computed);
        let (_, decisions) = generation.trace.replay(&mut *cache.policy(STEPS)).unwrap();
        assert_eq!(decisions, generation.report.decisions);
    }
}

#[test]
fn fewer_steps_are_a_run_of_that_many_steps() {
    let fewer = run(&request(CacheConfig::FewerSteps(FewerStepsConfig { steps: 5 })));
    assert_eq!((fewer.report.steps, fewer.report.computed_steps.len()), (5, 5));
    let plain = run(&Request { steps: 5, ..request(CacheConfig::None) });
    assert!(fewer.latents.values == plain.latents.values);
}

#[test]
fn policies_that_look_ahead_work_in_batches_and_in_8_bits() {
    for cache in [teacache(0.3), fbcache(0.2), easycache(0.2)] {
        let one = request(cache.clone());
        let requests = [one.clone(), Request { prompt: Request::new(pipeline(), OTHER).unwrap().prompt, ..one }];
        let together =
            pipeline().generate_batch(&requests, Deciding::Apart, &mut |_| ControlFlow::Continue(())).unwrap();
        for (generation, request) in together.iter().zip(&requests) {
            let alone = run(request);
            assert_eq!(generation.report.computed_steps, alone.report.computed_steps, "{cache:?}");
            assert!(generation.latents.values == alone.latents.values, "{cache:?}");
        }
        let whole = run(&requests[0]);
        let packed = run(&Request { packed_cache: true, ..requests[0].clone() });
        assert!(packed.report.cache_bytes < whole.report.cache_bytes);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let (a, b) = (&whole.latents.values, &packed.latents.values);
        let off =
            norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut a.iter().map(|v| f64::from(*v)));
        println!("{cache:?}: 8 bits change the latents by {off:.3e}");
        assert!(off < 0.2, "{cache:?}: {off}");
    }
}
