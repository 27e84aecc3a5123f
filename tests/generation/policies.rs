//! Every cache policy in whole runs: a policy that reuses nothing gives the bits of a run without one, a policy that reuses all it
//! can gives the bits of another that does, and a recorded trace gives the plan of the run that recorded it.

#[allow(dead_code)]
#[path = "../../examples/own_policy.rs"]
mod own_policy;

use std::ops::ControlFlow;
use std::sync::OnceLock;

use crate::common::device;
use adacache::cache::{
    Anatomy, CacheConfig, ComputeAll, DeltaDitConfig, EasyCacheConfig, Extrapolation, FbCacheConfig, FewerStepsConfig,
    IntervalConfig, MagCacheConfig, PabConfig, ProbePoint, Probes, ResidualStore, Shapes, StoreOptions, TGateConfig,
    TeaCacheConfig, computed_steps,
};
use adacache::compare::{Finished, Row};
use adacache::family;
use adacache::ops::decide::{StepClock, StepRow};
use adacache::pipeline::{Deciding, Generation, Pipeline, Request};
use adacache::tensor::{DType, Tensor};

const STEPS: usize = 8;
/// Blocks of the sprites model.
const DEPTH: usize = 5;
const PROMPT: &str = "large red square spinning fast checkerboard";
const OTHER: &str = "small white circle still slowly black";

fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| Pipeline::load(&family::sprites(), &device(), DType::Bf16).unwrap())
}

fn request(cache: CacheConfig) -> Request {
    Request { steps: STEPS, cache, ..Request::new(pipeline(), PROMPT).unwrap() }
}

fn run(request: &Request) -> Generation {
    pipeline().generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn teacache(threshold: f64) -> CacheConfig {
    CacheConfig::TeaCache(TeaCacheConfig::new(threshold, [0.0, 0.0, 0.0, 1.0, 0.0]))
}

fn fbcache(threshold: f64) -> CacheConfig {
    CacheConfig::FbCache(FbCacheConfig { threshold })
}

fn easycache(threshold: f64) -> CacheConfig {
    CacheConfig::EasyCache(EasyCacheConfig { first: 3, ..EasyCacheConfig::new(threshold) })
}

fn magcache(threshold: f64, most: usize) -> CacheConfig {
    CacheConfig::MagCache(MagCacheConfig { retention: 0.0, ..MagCacheConfig::new(threshold, most, vec![1.0]) })
}

fn interval(every: usize) -> CacheConfig {
    CacheConfig::Interval(IntervalConfig { every })
}

/// As published for Open-Sora, with the MLPs of one block.
fn pab(ranges: [usize; 3], mlp_blocks: usize) -> CacheConfig {
    CacheConfig::Pab(PabConfig { mlp_blocks, ..PabConfig::opensora().with_ranges(ranges) })
}

fn delta_dit(every: usize, blocks: usize, boundary: f64) -> CacheConfig {
    CacheConfig::DeltaDit(DeltaDitConfig { every, blocks, boundary, until: None })
}

fn tgate(gate: usize) -> CacheConfig {
    CacheConfig::TGate(TGateConfig::new(gate))
}

/// Bytes of a hidden state: 16 frames of 16 tokens, 144 channels in bf16, both halves of guidance.
const HIDDEN: usize = 2 * 16 * 16 * 144 * 2;

/// ‖a − b‖₂ / ‖b‖₂
fn off(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut b.iter().map(|b| f64::from(*b)))
}

fn none() -> &'static Generation {
    static NONE: OnceLock<Generation> = OnceLock::new();
    NONE.get_or_init(|| run(&request(CacheConfig::None)))
}

#[test]
fn a_policy_that_reuses_nothing_gives_the_bits_of_no_policy() {
    let whole = [teacache(0.0), fbcache(0.0), easycache(0.0), magcache(0.0, 0), interval(1)];
    let modules = [pab([1, 1, 1], 0), delta_dit(1, DEPTH, 500.0), delta_dit(2, 0, 500.0), tgate(STEPS)];
    for cache in whole.into_iter().chain(modules) {
        let generation = run(&request(cache.clone()));
        assert_eq!(generation.report.computed_steps, (1..=STEPS).collect::<Vec<_>>(), "{cache:?}");
        assert!(generation.latents.values == none().latents.values, "{cache:?}");
    }
}

#[test]
fn measuring_everything_changes_no_bit() {
    let generation = run(&Request { record_all: true, ..request(CacheConfig::None) });
    assert!(generation.latents.values == none().latents.values);
    // Eight probe points, at every step but the first: AdaCache's presets probe two blocks.
    assert_eq!(generation.trace.records.len(), 8 * (STEPS - 1));
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

/// As a calibration records: every fold against all before, on the host but for the last one, with which the device compares it.
#[test]
fn a_recording_compares_all_folds() {
    let recorder = ComputeAll::recording(&Anatomy::spatial_temporal(DEPTH), &[2], 16);
    let generation = pipeline().record(&request(interval(3)), &recorder, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(generation.latents.values == none().latents.values);
    let fold = |step, since| {
        let mut of = generation.trace.records.iter().filter(|r| (r.step, r.since) == (step, since));
        let record = of.find(|r| r.at == ProbePoint::Fold).unwrap();
        record.measurement.clone()
    };
    let folds = generation.trace.records.iter().filter(|r| r.at == ProbePoint::Fold).count();
    assert_eq!(folds, STEPS * (STEPS - 1) / 2);
    for step in 3..=STEPS {
        for since in 1..step - 1 {
            // Host and device sum up the same folds.
            let (m, fresh, kept) = (fold(step, since), fold(step, step - 1), fold(since + 1, since));
            for (ours, other) in [(m.sq_fresh, fresh.sq_fresh), (m.sq_kept, kept.sq_kept), (m.abs_kept, kept.abs_kept)]
            {
                assert!((ours - other).abs() <= 1e-5 * other, "{step} {since}: {ours} {other}");
            }
            let square = m.sq_fresh + m.sq_kept - 2.0 * m.dot;
            assert!((m.sq_diff - square).abs() <= 1e-9 * m.sq_kept, "{step} {since}");
            // Not farther than by the steps between.
            let way: f64 = (since + 1..=step).map(|s| fold(s, s - 1).sq_diff.sqrt()).sum();
            assert!(0.0 < m.sq_diff && m.sq_diff.sqrt() < way, "{step} {since}");
        }
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
    let whole = [teacache(0.3), fbcache(0.2), easycache(0.2), magcache(0.5, 2), interval(3)];
    let modules = [pab([2, 4, 6], 1), delta_dit(3, 2, 800.0), tgate(3), interval(2).extrapolated(2)];
    for cache in whole.into_iter().chain(modules) {
        let generation = run(&request(cache.clone()));
        let computed = &generation.report.computed_steps;
        println!("{cache:?}: {computed:?}");
        let policy = || generation.trace.policy(&cache, &Anatomy::spatial_temporal(DEPTH)).unwrap();
        assert_eq!(generation.trace.schedule(&mut *policy()).unwrap(), *computed);
        assert_eq!(generation.trace.computed, *computed);
        assert_eq!(generation.trace.partial, generation.report.partial_steps);
        let (_, decisions) = generation.trace.replay(&mut *policy()).unwrap();
        assert_eq!(decisions, generation.report.decisions);
    }
}

/// With thresholds at which nothing is reused, and others.
fn reuses_nothing_or_as_its_trace_tells(policy: impl Fn(f64) -> CacheConfig, threshold: f64) {
    let generation = run(&request(policy(0.0)));
    assert_eq!(generation.report.computed_steps, (1..=STEPS).collect::<Vec<_>>());
    assert!(generation.latents.values == none().latents.values);
    let cache = policy(threshold);
    let generation = run(&request(cache.clone()));
    let computed = &generation.report.computed_steps;
    assert!((2..STEPS).contains(&computed.len()), "{computed:?}");
    let policy = || generation.trace.policy(&cache, &Anatomy::spatial_temporal(DEPTH)).unwrap();
    assert_eq!(generation.trace.schedule(&mut *policy()).unwrap(), *computed);
    let (_, decisions) = generation.trace.replay(&mut *policy()).unwrap();
    assert_eq!(decisions, generation.report.decisions);
}

#[test]
fn seacache_reuses_nothing_or_as_its_trace_tells() {
    let seacache = |threshold| CacheConfig::SeaCache(adacache::cache::SeaCacheConfig::new(threshold));
    reuses_nothing_or_as_its_trace_tells(seacache, 0.3);
}

#[test]
fn scaled_extrapolation_reuses_nothing_or_as_its_trace_tells() {
    let scaling = |threshold| CacheConfig::Scaling(adacache::cache::ScalingConfig::new(threshold, 4, 0.5));
    reuses_nothing_or_as_its_trace_tells(scaling, 0.9);
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
    for cache in [teacache(0.3), fbcache(0.2), easycache(0.2), pab([2, 4, 6], 1), delta_dit(2, 3, 700.0)] {
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
        let difference = off(&packed.latents.values, &whole.latents.values);
        println!("{cache:?}: 8 bits change the latents by {difference:.3e}");
        assert!(difference < 0.2, "{cache:?}: {difference}");
    }
}

/// The timesteps of 8 sprites steps are 1000, 955, 900, 833, 750, 643, 500 and 300: steps 3 to 7 lie in the window.
#[test]
fn pab_runs_by_a_schedule_made_by_hand() {
    let generation = run(&request(pab([2, 4, 6], 1)));
    let report = &generation.report;
    assert_eq!((&report.computed_steps[..], &report.partial_steps[..]), (&[1, 2][..], &[3, 4, 5, 6, 7, 8][..]));
    // Attentions and cross-attentions of all ten blocks, and two MLPs.
    assert_eq!(report.cache_bytes, (10 + 10 + 2) * HIDDEN);
    let shares = &report.step_shares;
    assert_eq!(shares[..2], [1.0, 1.0]);
    // Step 5 computes both attentions and reuses the cross-attention, 4 and 6 reuse all three, 8 the two MLPs.
    let (cross, mlp) = (1.0 - shares[4], 1.0 - shares[7]);
    assert!(shares[3] == shares[5] && shares[3] < shares[2] && shares[2] < shares[4], "{shares:?}");
    // Of a block 14·C² + attention: q and proj are 2, an MLP 8; the ends and the attention itself are little here.
    assert!((0.13..0.15).contains(&cross) && (0.10..0.12).contains(&mlp), "{cross} {mlp}");
    let total: f64 = shares.iter().sum();
    let ratio = report.flops.total as f64 / report.flops.all_computed as f64;
    assert!((total / STEPS as f64 - ratio).abs() < 1e-12, "{total} {ratio}");
    assert!(generation.latents.values != none().latents.values);
}

/// Both keep what all blocks add and reuse it in every step but the first.
#[test]
fn a_run_of_all_blocks_is_the_whole_forward() {
    let (run_of_all, whole) = (run(&request(delta_dit(STEPS, DEPTH, 0.0))), run(&request(interval(STEPS))));
    assert!(run_of_all.latents.values == whole.latents.values);
    assert_eq!(run_of_all.report.cache_bytes, whole.report.cache_bytes);
    assert_eq!(run_of_all.report.flops, whole.report.flops);
    assert_eq!((run_of_all.report.partial_steps.len(), whole.report.partial_steps.len()), (STEPS - 1, 0));
}

#[test]
fn a_gate_leaves_the_steps_before_it_as_they_are() {
    let generation = run(&request(tgate(STEPS - 1)));
    assert_eq!(generation.report.partial_steps, [STEPS]);
    // The conditional half of ten blocks' cross-attention.
    assert_eq!(generation.report.cache_bytes, 10 * HIDDEN / 2);
    let late = off(&generation.latents.values, &none().latents.values);
    let early = off(&run(&request(tgate(1))).latents.values, &none().latents.values);
    println!("latents off by {late:.1e} with the last step gated, by {early:.1e} with all but the first");
    assert!(late > 0.0 && late < early, "{late} {early}");
}

/// With a guidance scale of nearly 1 the unconditional half runs and counts for almost nothing (with 1 it would not run): all cross-attention
/// frozen behind step 1 is the same whether that half runs or not.
#[test]
fn behind_the_gate_the_conditional_half_runs_alone() {
    let both = PabConfig { window: [0.0, 1001.0], ..PabConfig::opensora().with_ranges([1, 1, STEPS]) };
    let both = CacheConfig::Pab(PabConfig { mlp: vec![], ..both });
    let unguided = |cache: &CacheConfig| Request { cfg_scale: (1.0 + f32::EPSILON).into(), ..request(cache.clone()) };
    let (half, whole) = (run(&unguided(&tgate(1))), run(&unguided(&both)));
    assert_eq!(half.report.partial_steps, whole.report.partial_steps);
    assert_eq!(2 * half.report.cache_bytes, whole.report.cache_bytes);
    let halves = half.report.step_shares[1..].iter().zip(&whole.report.step_shares[1..]);
    assert!(halves.into_iter().all(|(half, whole)| (2.0 * half - whole).abs() < 1e-12));
    let difference = off(&half.latents.values, &whole.latents.values);
    println!("the latents differ by {difference:.1e}");
    assert!(difference < 1e-5, "{difference}");
    // Only in the first step does a guidance scale say anything.
    let scale =
        |scale: f32, cache: CacheConfig| run(&Request { cfg_scale: scale.into(), ..request(cache) }).latents.values;
    let first = off(&scale(3.0, tgate(1)), &scale(1.0, tgate(1)));
    let all = off(&scale(3.0, both.clone()), &scale(1.0, both));
    assert!(0.0 < first && first < all / 2.0, "{first} {all}");

    // Two videos decided about together; kept in 8 bits.
    let gated = Request { cfg_scale: 3.0.into(), ..request(tgate(3)) };
    let other = Request { prompt: Request::new(pipeline(), OTHER).unwrap().prompt, ..gated.clone() };
    let pair = [gated.clone(), other];
    let together = pipeline().generate_batch(&pair, Deciding::Together, &mut |_| ControlFlow::Continue(())).unwrap();
    for (generation, request) in together.iter().zip(&pair) {
        assert!(generation.latents.values == run(request).latents.values);
    }
    let packed = run(&Request { packed_cache: true, ..gated });
    assert!(packed.report.cache_bytes < 10 * HIDDEN * 9 / 16 / 2);
    assert!(off(&packed.latents.values, &together[0].latents.values) < 0.1);
}

#[test]
fn extrapolation_begins_with_the_second_computed_step() {
    let (once, flat) = (run(&request(interval(STEPS).extrapolated(1))), run(&request(interval(STEPS))));
    assert!(once.latents.values == flat.latents.values, "one fold is taken as it is");
    assert_eq!((once.report.cache.as_str(), once.report.cache_bytes), ("interval+taylor", 2 * HIDDEN));
    let second = run(&request(interval(2).extrapolated(2)));
    assert_eq!((second.report.cache.as_str(), second.report.cache_bytes), ("interval+taylor2", 3 * HIDDEN));
    assert!(second.latents.values != run(&request(interval(2))).latents.values);
    let packed = Request { packed_cache: true, ..request(interval(2).extrapolated(1)) };
    let error = pipeline().generate(&packed, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("8 bits") && error.contains("--fp8-cache"), "{error}");
}

/// A store that is told what enters and leaves the blocks in some steps expects in the others what the polynomial says.
#[test]
fn a_store_extrapolates_what_it_was_shown() {
    let device = device();
    let shape = [1, 1, 2, 8];
    let (latents, prediction) = (vec![1], vec![1]);
    let shapes = Shapes {
        hidden: shape.into(),
        latents,
        prediction,
        time: [vec![], vec![]],
        grid: [1, 1, 2],
        dtype: DType::F32,
    };
    let values = |seed: f32| -> Vec<f32> { (0..16).map(|i| (seed + 0.37 * i as f32).sin()).collect() };
    let tensor = |values: &[f32]| Tensor::from_f32(&device, &shape, values, DType::F32).unwrap();
    for (order, damping) in [(1, 1.0), (2, 1.0), (1, 0.7), (2, 0.5)] {
        let clock = StepClock::new(&device, &[StepRow::default(); 8]).unwrap();
        let options = StoreOptions {
            probes: Probes::default(),
            head: 0,
            fold: true,
            offset: false,
            extrapolates: Some(Extrapolation { order, damping }),
            groups: vec![],
            halves: false,
            conditional: false,
            packed: false,
            times: vec![],
            rule: None,
            rank: None,
        };
        let mut store = ResidualStore::new(&device, options, &clock, &shapes).unwrap();
        assert_eq!(store.bytes(), (1 + order) * 64);
        let time = Tensor::zeros(&device, &[2], DType::F32).unwrap();
        let mut folds: Vec<(f32, Vec<f32>)> = vec![];
        for step in 1..=8 {
            let computed = [1, 3, 6].contains(&step);
            clock.begin(&time, 1, computed).unwrap();
            let x = values(step as f32);
            if computed {
                store.enter(&tensor(&x), None).unwrap();
                let fold = values(0.3 * (step * step) as f32);
                let left: Vec<f32> = x.iter().zip(&fold).map(|(x, f)| x + f).collect();
                store.leave(&tensor(&left), None).unwrap();
                folds.insert(0, (step as f32, fold));
                continue;
            }
            let hidden = tensor(&x);
            store.unfold(None, &hidden).unwrap();
            let expected = (0..16).map(|i| {
                let f = |k: usize| folds[k].1[i];
                let slope = |k: usize| (f(k) - f(k + 1)) / (folds[k].0 - folds[k + 1].0);
                let away = damping as f32 * (step as f32 - folds[0].0);
                let first = if folds.len() > 1 { away * slope(0) } else { 0.0 };
                let curve = || (slope(0) - slope(1)) / (folds[0].0 - folds[1].0);
                let second = if folds.len() > 2 && order == 2 { away * away / 2.0 * curve() } else { 0.0 };
                x[i] + f(0) + first + second
            });
            for (got, expected) in hidden.to_f32().unwrap().iter().zip(expected) {
                assert!((got - expected).abs() < 1e-5, "order {order}, step {step}: {got}, expected {expected}");
            }
        }
    }
}

/// The example's policy, which is outside the crate: through the sampler, the replay of its trace, and a comparison.
#[test]
fn a_policy_from_outside_the_crate_is_one_of_them() {
    let all = run(&request(CacheConfig::None));
    let drift = |threshold| CacheConfig::custom(own_policy::Drift { threshold });
    let never = run(&request(drift(1e-9)));
    assert!(never.latents.values == all.latents.values && never.report.computed_steps.len() == STEPS);
    let made = run(&request(drift(0.3)));
    let computed = &made.report.computed_steps;
    assert_eq!(made.report.cache, "drift");
    assert!((2..STEPS).contains(&computed.len()), "{computed:?}");
    let mut policy = made.trace.policy(&drift(0.3), family::sprites().anatomy()).unwrap();
    let (plans, decisions) = made.trace.replay(&mut *policy).unwrap();
    assert_eq!((&computed_steps(&plans), decisions), (computed, made.report.decisions.clone()));
    // Also over a trace that measured for every preset.
    let full = run(&Request { record_all: true, ..request(CacheConfig::None) });
    let mut policy = full.trace.policy(&drift(0.3), family::sprites().anatomy()).unwrap();
    assert!(full.trace.schedule(&mut *policy).unwrap().len() < STEPS);
    let finished = |generation: &Generation| Finished {
        report: generation.report.clone(),
        frames: generation.frames.clone().unwrap(),
        latents: generation.latents.clone(),
    };
    let row = Row::new("drift", &finished(&made), &finished(&all)).unwrap();
    assert_eq!(&row.computed_steps, computed);
    assert_eq!(adacache::compare::summarize(std::slice::from_ref(&row))[0].cache, "drift");
    assert!(row.compute < 1.0 && row.psnr > 10.0, "{row:?}");
    let bad = drift(0.0).validate().unwrap_err().to_string();
    assert!(bad.contains("above 0") && drift(0.3).to_toml().is_err(), "{bad}");
    // It may be extrapolated as any other.
    let extrapolated = run(&request(drift(0.3).extrapolated(1)));
    assert_eq!(extrapolated.report.cache, "drift+taylor");
}
