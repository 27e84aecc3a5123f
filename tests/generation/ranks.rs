//! Two devices that share the halves of guidance: the latents, schedules and decisions of one.

use std::ops::ControlFlow;
use std::sync::Mutex;

use adacache::cache::{CacheConfig, FbCacheConfig, IntervalConfig, Measurement, PabConfig};
use adacache::device::{Device, VmConfig};
use adacache::family;
use adacache::pipeline::{Generation, ModelSource, OpenOptions, Pipeline, PipelineError, Request, cache_config};
use adacache::tensor::DType;

use crate::common::vm;
use crate::requests::difference;

const STEPS: usize = 8;
const PROMPT: &str = "large red square spinning fast checkerboard";

fn device() -> Option<Device> {
    vm("two devices that share guidance", VmConfig::default())
}

fn one(source: &ModelSource, device: &Device) -> Pipeline {
    Pipeline::load(source, device, DType::F32).unwrap()
}

/// A model alone on a device, and on two.
fn alone_and_joined(source: &ModelSource) -> Option<(Pipeline, Pipeline)> {
    let devices = [device()?, device()?, device()?];
    let [alone, first, second] = devices.map(|device| one(source, &device));
    Some((alone, first.join(second).unwrap()))
}

fn request(pipeline: &Pipeline, cache: CacheConfig) -> Request {
    Request { steps: STEPS, cache, decode: false, ..Request::new(pipeline, PROMPT).unwrap() }
}

fn run(pipeline: &Pipeline, request: &Request) -> Result<Generation, PipelineError> {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(()))
}

/// The sums of a measurement, those of its motion included.
fn sums(m: &Measurement) -> Vec<f64> {
    let all = [m.abs_diff, m.abs_kept, m.sq_diff, m.sq_kept, m.dot, m.sq_fresh];
    all.into_iter().chain(m.motion.iter().flat_map(|s| [s.abs_diff, s.abs_later, s.abs_earlier])).collect()
}

/// Both make the same of `request`; returns the bytes that a device gave.
fn same(alone: &Pipeline, joined: &Pipeline, request: &Request) -> u64 {
    let (expected, made) = (run(alone, request).unwrap(), run(joined, request).unwrap());
    let name = &expected.report.cache;
    let apart = difference(&expected, &made);
    assert!(apart <= 1e-5, "{name}: {apart:e}");
    let schedule = |g: &Generation| (g.report.computed_steps.clone(), g.report.partial_steps.clone());
    assert_eq!(schedule(&expected), schedule(&made), "{name}");
    assert_eq!(expected.trace.records.len(), made.trace.records.len(), "{name}");
    for (a, b) in expected.trace.records.iter().zip(&made.trace.records) {
        assert_eq!((a.step, a.since, a.at), (b.step, b.since, b.at), "{name}");
        for (a, b) in sums(&a.measurement).into_iter().zip(sums(&b.measurement)) {
            assert!((a - b).abs() <= 1e-5 * a.abs().max(b.abs()), "{name}: {a} {b}");
        }
    }
    let again = run(joined, request).unwrap();
    assert_eq!((&again.latents.values, &again.trace), (&made.latents.values, &made.trace), "{name}: to the bit");
    assert_eq!(expected.report.exchanged_bytes, 0);
    made.report.exchanged_bytes
}

/// Steps that run blocks exchange half the hidden state and the sums of the blocks' probes; others exchange nothing.
#[test]
fn two_devices_make_what_one_makes() {
    let source = family::sprites();
    let Some((alone, joined)) = alone_and_joined(&source) else { return };
    let preset = |name| cache_config(&source, name, false, STEPS).unwrap();
    let caches = [
        CacheConfig::None,
        preset("adacache-fast"),
        preset("adacache-fast+moreg"),
        CacheConfig::Interval(IntervalConfig { every: 3 }),
        CacheConfig::FbCache(FbCacheConfig { threshold: 0.1 }),
        CacheConfig::Pab(PabConfig { window: [100.0, 900.0], ..PabConfig::latte() }.with_ranges([2, 2, 2])),
    ];
    for cache in caches {
        let request = request(&alone, cache);
        let expected = run(&alone, &request).unwrap();
        let exchanged = same(&alone, &joined, &request);
        let computed = (expected.report.computed_steps.len() + expected.report.partial_steps.len()) as u64;
        let measured = expected.trace.records.iter().map(|record| sums(&record.measurement).len() as u64 * 8);
        // The hidden state of one half.
        let hidden = hidden_bytes(&alone);
        // fbcache runs the first block in every step.
        let head = if expected.report.cache == "fbcache" { STEPS as u64 } else { 0 };
        let least = (computed + head) * hidden;
        // A first measurement, of which there is no record, is exchanged too.
        let most = least + 2 * measured.sum::<u64>() + 8 * 64 * (computed + head);
        assert!((least..=most).contains(&exchanged), "{}: {exchanged} of {least}..={most}", expected.report.cache);
    }
    same(&alone, &joined, &Request { packed_cache: true, ..request(&alone, preset("adacache-fast")) });
}

/// Bytes of a video's hidden state in f32: half of what the unfolded cache keeps twice for each block.
fn hidden_bytes(pipeline: &Pipeline) -> u64 {
    let made = run(pipeline, &request(pipeline, CacheConfig::None)).unwrap();
    let blocks = 10; // five spatial and five temporal ones
    (made.report.cache_bytes_unfolded / (2 * blocks) / 2) as u64
}

#[test]
fn two_devices_make_what_one_makes_of_wan() {
    let source = family::open("sprites-wan", &OpenOptions::default()).unwrap();
    let Some((alone, joined)) = alone_and_joined(&source) else { return };
    for name in ["none", "adacache-fast", "teacache-fast"] {
        let Ok(cache) = cache_config(&source, name, false, STEPS) else { continue };
        same(&alone, &joined, &request(&alone, cache));
    }
}

#[test]
fn what_two_devices_cannot_share_is_refused() {
    let source = family::sprites();
    let Some((alone, joined)) = alone_and_joined(&source) else { return };
    let refused = |request: &Request| run(&joined, request).unwrap_err().to_string();
    let request = request(&alone, CacheConfig::None);
    let unguided = Request { cfg_scale: 1.0.into(), ..request.clone() };
    assert!(refused(&unguided).contains("take one device"), "{}", refused(&unguided));
    let t_gate = Request { cache: cache_config(&source, "t-gate", false, STEPS).unwrap(), ..request.clone() };
    assert!(refused(&t_gate).contains("`t-gate` decides about the halves"), "{}", refused(&t_gate));
    // And works again afterwards.
    run(&joined, &request).unwrap();
    let third = one(&source, &device().unwrap());
    assert!(joined.join(third).err().unwrap().to_string().contains("neither has a partner"));
    let (wan, of_another) = (family::open("sprites-wan", &OpenOptions::default()).unwrap(), device().unwrap());
    let apart = one(&source, &device().unwrap()).join(one(&wan, &of_another));
    assert!(apart.err().unwrap().to_string().contains("the same model"));
}

/// A device that fails ends the run of both with an error that names it; the caller's stop is the caller's.
#[test]
fn a_device_that_fails_ends_the_run_of_both() {
    let source = family::sprites();
    let Some(first) = device() else { return };
    let second = device().unwrap();
    let joined = one(&source, &first).join(one(&source, &second)).unwrap();
    let request = request(&joined, CacheConfig::None);
    let failing = Mutex::new(Some(second.interrupter()));
    let error = joined.generate(&request, &mut |event| {
        if let (3, Some(other)) = (event.step, &*failing.lock().unwrap()) {
            other.interrupt();
        }
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("rank 1 failed") && error.contains("interrupted on"), "{error}");
    second.interrupter().resume();
    *failing.lock().unwrap() = None;
    let stopped = joined.generate(&request, &mut |event| {
        if event.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.unwrap_err().is_stop());
    run(&joined, &request).unwrap();
    // Too little memory for a workspace on the other device.
    second.limit_memory(Some(second.allocated_bytes() + (64 << 10)));
    let error = run(&joined, &request).unwrap_err().to_string();
    assert!(error.contains("rank 1 failed") && error.contains("out of memory"), "{error}");
}
