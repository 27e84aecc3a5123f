//! Weights that do not fit on the device stay in the host's memory and come when they are needed: within any budget that is large
//! enough the result is that of resident weights, to the bit, and the device never holds more than the budget.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use adacache::cache::{
    AdaCacheConfig, CacheConfig, Codebook, DeltaDitConfig, EasyCacheConfig, FbCacheConfig, IntervalConfig, Metric,
    ResidualKind, TGateConfig, TeaCacheConfig,
};
use adacache::device::Device;
use adacache::family;
use adacache::pipeline::{Deciding, Generation, Job, ModelSource, OpenOptions, Pipeline, PipelineError, Request};
use adacache::tensor::DType;
// One of its own for every pipeline: budgets are bounds of a device.
use crate::common::device;

const STEPS: usize = 6;
const PROMPT: &str = "large red square spinning fast checkerboard";

/// Small videos: it is weights that matter here.
fn source() -> ModelSource {
    family::open("sprites", &OpenOptions::exactly(8, 32, 32)).unwrap()
}

fn resident() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| Pipeline::load(&source(), &device(), DType::Bf16).unwrap())
}

fn request(cache: CacheConfig) -> Request {
    Request { steps: STEPS, cache, ..Request::new(resident(), PROMPT).unwrap() }
}

fn adacache() -> CacheConfig {
    CacheConfig::AdaCache(AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::TAttn,
        blocks: vec![2],
        codebook: Codebook::new(vec![(0.05, 3), (9.0, 1)]).unwrap(),
        moreg: None,
    })
}

fn within(device: &Device, budget: usize, request: &Request, videos: usize) -> Result<Pipeline, PipelineError> {
    let job = Job { videos, deciding: Deciding::Apart, ..Job::new(&source(), DType::Bf16, request) };
    Pipeline::load_within(&job, device, Some(budget))
}

fn run(pipeline: &Pipeline, requests: &[Request]) -> Vec<Generation> {
    pipeline.generate_batch(requests, Deciding::Apart, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// (least, resident) bytes of making `videos` like `request`, from the error of an impossible budget.
fn bounds(request: &Request, videos: usize) -> (usize, usize) {
    match within(&device(), 1, request, videos) {
        Err(PipelineError::Budget(error)) => (error.needs.least(), error.needs.resident()),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("one byte is enough"),
    }
}

/// Runs `requests` within `budget`; gives what was made, and the weights that were streamed.
#[track_caller]
fn streamed(budget: usize, requests: &[Request]) -> (Vec<Generation>, usize) {
    let device = device();
    let pipeline = within(&device, budget, &requests[0], requests.len()).unwrap();
    let generations = run(&pipeline, requests);
    let report = &generations[0].report;
    assert_eq!(report.memory_budget, Some(budget));
    assert!(report.peak_device_bytes <= budget, "{} of {budget}", report.peak_device_bytes);
    assert!(report.resident_weight_bytes <= device.allocated_bytes());
    let streamed = report.streamed_weight_bytes;
    (generations, streamed)
}

#[track_caller]
fn same(a: &[Generation], b: &[Generation]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!(a.latents.values == b.latents.values, "latents, to the bit");
        assert_eq!(a.report.computed_steps, b.report.computed_steps);
        assert_eq!(a.report.decisions, b.report.decisions);
        assert!(a.frames == b.frames && a.frames.is_some());
        assert_eq!(a.trace, b.trace);
    }
}

#[test]
fn every_kind_of_policy_gives_the_same_bits_with_streamed_weights() {
    let first_block = CacheConfig::FbCache(FbCacheConfig { threshold: 0.1 });
    let input = CacheConfig::TeaCache(TeaCacheConfig::new(0.1, [0.0, 0.0, 0.0, 1.0, 0.0]));
    let latents = CacheConfig::EasyCache(EasyCacheConfig { first: 2, ..EasyCacheConfig::new(0.05) });
    let interval = CacheConfig::Interval(IntervalConfig { every: 2 });
    // Whole blocks are reused in some steps, attention alone in others: fewer copies, and not in their usual turn.
    let blocks = CacheConfig::DeltaDit(DeltaDitConfig { every: 2, blocks: 3, boundary: 500.0, until: None });
    let modules = CacheConfig::TGate(TGateConfig::new(2));
    for cache in [CacheConfig::None, adacache(), interval, first_block, input, latents, blocks, modules] {
        let requests = [request(cache.clone())];
        let expected = run(resident(), &requests);
        assert_eq!(expected[0].report.streamed_weight_bytes, 0);
        let (least, all) = bounds(&requests[0], 1);
        // Every block streamed; about half of them; none.
        let budgets = [least, (least + all) / 2, all];
        let bytes = budgets.map(|budget| {
            let (generations, bytes) = streamed(budget, &requests);
            same(&generations, &expected);
            bytes
        });
        let [every, half, none] = bytes;
        assert!(every > half && half > 0 && none == 0, "{cache:?}: {bytes:?}");
    }
}

#[test]
fn batches_packed_residuals_and_measured_runs_too() {
    let batch = [request(adacache()), Request { seed: 7, ..request(adacache()) }];
    let packed = [Request { packed_cache: true, ..request(adacache()) }];
    let measured = [Request { record_all: true, ..request(CacheConfig::None) }];
    for requests in [&batch[..], &packed, &measured] {
        let (least, _) = bounds(&requests[0], requests.len());
        let (generations, bytes) = streamed(least, requests);
        same(&generations, &run(resident(), requests));
        assert!(bytes > 0);
    }
}

#[test]
fn the_smallest_budget_is_the_smallest() {
    let request = request(adacache());
    let (least, all) = bounds(&request, 1);
    for (budget, fits) in [(least - 1, false), (least, true), (0, false), (all - 1, true), (usize::MAX, true)] {
        let device = device();
        match within(&device, budget, &request, 1) {
            Ok(_) => assert!(fits, "{budget}"),
            Err(error) => {
                assert!(!fits, "{budget}: {error}");
                assert_eq!(device.peak_bytes(), 0, "told before anything was uploaded");
                let text = error.to_string();
                for part in [
                    "weights outside the blocks",
                    "two blocks",
                    "decoder",
                    "captions",
                    "activations",
                    "residuals",
                    "--vram-budget",
                ] {
                    assert!(text.contains(part), "{part}: {text}");
                }
            }
        }
    }
    // The sum is what the run really takes, not more than a tenth above.
    let (generations, _) = streamed(all, &[request]);
    assert!(
        generations[0].report.peak_device_bytes * 10 > all * 9,
        "{} {all}",
        generations[0].report.peak_device_bytes
    );
}

#[test]
fn what_takes_more_than_was_planned_meets_the_budget() {
    let small = request(adacache());
    let (least, _) = bounds(&small, 1);
    let device = device();
    let pipeline = within(&device, least, &small, 1).unwrap();
    let two = [small.clone(), Request { seed: 1, ..small }];
    let result = pipeline.generate_batch(&two, Deciding::Together, &mut |_| ControlFlow::Continue(()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("out of memory"), "{error}");
    assert!(device.peak_bytes() <= least);
    // The pipeline is as good as before.
    same(&run(&pipeline, &two[..1]), &run(resident(), &two[..1]));
}
