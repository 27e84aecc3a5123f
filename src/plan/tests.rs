//! Plans by hand, and against what the model counts.

use super::*;
use crate::family;
use crate::model::SLOTS;
use crate::pipeline::{Deciding, OpenOptions};
use crate::profile::Family;
use crate::tensor::DType;

fn opensora(resolution: &str, steps: usize, cache: &str) -> Job {
    let source = family::published("opensora-v1.2", &OpenOptions::published(resolution, 51)).unwrap();
    let presets = source.presets(steps).unwrap();
    Job {
        cache: presets.resolve(cache, false, source.anatomy(), steps).unwrap(),
        caption_tokens: source.shape().caption_tokens,
        source,
        dtype: DType::Bf16,
        videos: 1,
        deciding: Deciding::Together,
        guidance: 7.0.into(),
        packed_cache: false,
        record_all: false,
        steps,
        given: false,
        encodes: false,
        decodes: true,
    }
}

fn estimate(job: &Job) -> Estimate {
    let gpu = Chip::named("a100").unwrap();
    job.estimate(gpu, Efficiency::assumed(gpu), &Expected::Bounds).unwrap()
}

#[test]
fn a_720p_step_by_hand() {
    let e = estimate(&opensora("720p", 100, "adacache-fast"));
    assert_eq!((e.tokens, e.batch), ([15, 3600], 2));
    // rows = 2·15·3600; a block has products of 3C², C² (attention), C², C² (cross-attention), 4C² and 4C² (MLP).
    let (rows, c) = (2 * 15 * 3600u64, 1152u64);
    let products = 56 * 2 * rows * 14 * c * c;
    let ends = 2 * rows * c * 16 + 2 * rows * c * 32;
    let attention = 28 * 4 * rows * c * (3600 + 15) + 56 * 4 * rows * c * 300;
    let by = |family| e.computed_step.families.iter().find(|f| f.family == family).unwrap().clone();
    assert_eq!(by(Family::Linear).flops, products + ends);
    assert_eq!(by(Family::Attention).flops, attention);
    assert!((e.computed_step.flops as f64 / 284e12 - 1.0).abs() < 0.02, "{}", e.computed_step.flops);
    // A reused step: patch embedding, one addition, final layer.
    let reused = e.reused_step.unwrap();
    let linear = reused.families.iter().find(|f| f.family == Family::Linear).unwrap();
    assert_eq!((linear.launches, linear.flops), (2, ends));
    assert!(reused.launches < 30 && reused.modelled_seconds < 0.01 * e.computed_step.modelled_seconds);
}

#[test]
fn memory_by_hand() {
    let e = estimate(&opensora("720p", 100, "adacache-fast"));
    let (rows, c) = (2 * 15 * 3600usize, 1152usize);
    // The fold and one probed residual, in two bytes; 112 residuals without the fold.
    assert_eq!(e.memory.cache, 2 * rows * c * 2);
    assert_eq!(e.memory.cache_unfolded, 112 * rows * c * 2);
    // Keys and values of 300 tokens for two samples and 56 blocks, and two lengths.
    assert_eq!(e.memory.caption, 56 * 600 * 2 * c * 2 + 2 * 4);
    // Weights from the table of shapes: products and biases of a block, its norms and its table.
    // The two norms of 72 take 256 bytes each, as everything in a block begins at a multiple of that.
    let (products, tables) = (16 * c * c + (3 + 1 + 1 + 2 + 1 + 4 + 1) * c + 2 * 128, 6 * c);
    let block = products + tables;
    let mlp = |inputs: usize| c * inputs + c + c * c + c;
    let rest = c * 16 + c + 2 * mlp(256) + mlp(4096) + 6 * c * c + 6 * c + 2 * c + 32 * c + 32;
    assert_eq!(e.memory.weights, 2 * (56 * block + rest) + 36 * 4);
    let n = e.memory.needs;
    assert_eq!((n.block, n.blocks, n.ends), (2 * products, 56, e.memory.weights - 56 * 2 * products));
    assert_eq!((n.caption, n.cache), (e.memory.caption, e.memory.cache));
    // 24 MiB of sums and 16 KiB of counters: the caption's products have few tiles.
    assert_eq!(n.scratch, (24 << 20) + (16 << 10));
    // The walk has a table of 3 steps, fourteen numbers each, the generation one of 100.
    assert_eq!(n.activations, e.memory.activations + 97 * 14 * 4);
    // In memory of the autoencoder what its test says: 0.79 GB of weights, 1.02 GB of activations at least.
    assert!((0.75e9..0.85e9).contains(&(n.decoder as f64)) && (1.0e9..1.2e9).contains(&(n.decoding as f64)), "{n:?}");
    // The decoder's weights come when the steps are done: here they and its smallest cut take the most.
    assert!(n.decoder + n.decoding > n.activations + n.cache, "{n:?}");
    let all = e.memory.weights + n.scratch + n.caption + n.decoder + n.decoding;
    assert_eq!((e.memory.resident, e.memory.least), (all, all - (56 - SLOTS) * n.block));
    let parts = e.memory.weights + e.memory.caption + e.memory.activations + e.memory.cache;
    assert!(e.memory.peak >= parts && e.memory.peak < 24 << 30, "{:?}", e.memory);
}

#[test]
fn totals_follow_the_schedule() {
    let task = opensora("720p", 100, "adacache-fast");
    let e = estimate(&task);
    let [all, most, fewest] = &e.totals[..] else { panic!("{:?}", e.totals) };
    assert_eq!((all.computed_steps, all.modelled_speedup), (100, 1.0));
    // Step 1, then 2; from there every 3rd step, or every 12th; then the last two: 99 and 100.
    assert_eq!(most.computed_steps, 2 + (2..99).step_by(3).skip(1).count() + 2);
    assert_eq!(fewest.computed_steps, 2 + (2..99).step_by(12).skip(1).count() + 2);
    let (c, r) = (e.computed_step.modelled_seconds, e.reused_step.as_ref().unwrap().modelled_seconds);
    assert!((fewest.modelled_seconds - (12.0 * c + 88.0 * r)).abs() < 1e-9 * c);
    let given = task.estimate(&e.gpu, e.efficiency.clone(), &Expected::Steps(21)).unwrap();
    assert_eq!(given.totals[1].computed_steps, 21);
    assert!(task.estimate(&e.gpu, e.efficiency.clone(), &Expected::Steps(101)).is_err());
}

#[test]
fn without_a_cache_nothing_is_kept_or_reused() {
    let e = estimate(&opensora("240p", 30, "none"));
    assert_eq!((e.memory.cache, e.reused_step, e.totals.len()), (0, None, 1));
    assert_eq!(e.tokens, [15, 405]);
}

#[test]
fn single_modules_are_priced_by_their_own_schedule() {
    let task = opensora("240p", 30, "pab");
    let e = estimate(&task);
    let [all, own] = &e.totals[..] else { panic!("{:?}", e.totals) };
    assert_eq!((all.computed_steps, own.schedule.as_str()), (30, "the policy's own"));
    assert!(own.partial_steps > 10 && own.computed_steps + own.partial_steps == 30, "{own:?}");
    let partial = e.partial_step.unwrap();
    assert!(e.reused_step.is_none() && partial.flops < e.computed_step.flops);
    assert!(own.modelled_seconds < all.modelled_seconds);
    // The walk counts what the launches say, the model what its shapes say.
    let device = Device::dry(DryConfig { name: "x".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) });
    let model = task.source.transformer(&device, task.dtype, 0, Content::Zeros).unwrap();
    let stage = task.stages().unwrap().remove(0);
    let mut policy = task.policy(&stage).unwrap();
    let groups = policy.groups();
    let reused =
        |plan: Plan, module| groups.iter().enumerate().any(|(i, g)| plan.groups().0.contains(i) && g.contains(module));
    let flops = (1..=30).map(|step| policy.plan(step)).filter(Plan::is_partial);
    let least = flops.map(|plan| model.flops(&task.geometry(&stage), 300, &|module| !reused(plan, module))).min();
    let families = partial.families.iter().filter(|f| f.family != Family::Memory);
    assert_eq!(Some(families.map(|f| f.flops).sum()), least);
    // Kept are 56 attentions, 56 cross-attentions and 10 MLPs.
    assert_eq!(e.memory.cache, (56 + 56 + 10) * 2 * 15 * 405 * 1152 * 2);
}

#[test]
fn the_walk_and_the_report_count_the_same_operations() {
    let task = opensora("480p", 30, "adacache-slow");
    let e = estimate(&task);
    let device = Device::dry(DryConfig { name: "x".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) });
    let model = task.source.transformer(&device, task.dtype, 0, Content::Zeros).unwrap();
    let geometry = task.geometry(&task.stages().unwrap()[0]);
    let flops = |runs: bool| model.flops(&geometry, 300, &|_| runs);
    let products =
        |cost: &Cost| cost.families.iter().filter(|f| f.family != Family::Memory).map(|f| f.flops).sum::<u64>();
    assert_eq!(products(&e.computed_step), flops(true));
    assert_eq!(products(&e.reused_step.unwrap()), flops(false));
}
