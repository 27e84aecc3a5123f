//! Wan's transformer beyond the published cases: names, streamed weights, sizes, and the ways to reuse a step that it brings.

use std::ops::ControlFlow;
use std::path::Path;

use adacache::cache::{
    AdaCache, AdaCacheConfig, Codebook, ComputeAll, Decision, EasyCache, EasyCacheConfig, Extrapolation, Half,
    MagCache, MagCacheConfig, Measurement, Metric, Plan, Policy, ProbePoint, Probes, ResidualKind, Reused, SeaCache,
    SeaCacheConfig, Settings, Signal, Taylor, TaylorConfig, TeaCache, TeaCacheConfig, computed_steps_of,
};
use adacache::device::Device;
use adacache::model::{Caption, Geometry, ResidualRoom, Transformer, Walk, Wan, WanConfig, Weights};
use adacache::sampler::{Euler, FlowGrid, Member, SampleOutput, Sampler, SamplerOptions, Solver};
use adacache::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::common::device;

const FOLDER: &str = "tests/goldens/wan22_ti2v_a";
const STEPS: usize = 12;
const CFG: f32 = 3.0;

fn bytes() -> Vec<u8> {
    std::fs::read(Path::new(FOLDER).join("model.safetensors")).unwrap()
}

fn config(weights: &Weights<'_>) -> WanConfig {
    let text = std::fs::read_to_string(Path::new(FOLDER).join("config.json")).unwrap();
    WanConfig::from_json(&text, "config.json", Some(weights)).unwrap()
}

fn load(device: &Device, bytes: &[u8], streamed: usize) -> Wan {
    let weights = Weights::from_bytes("model.safetensors", bytes).unwrap();
    Wan::load_streaming(device, config(&weights), weights, DType::F32, streamed).unwrap()
}

/// Values without a pattern.
fn waves(count: usize, step: f64) -> Vec<f32> {
    (0..count).map(|i| (1.0 + step * (i as f64).powf(1.3)).sin() as f32).collect()
}

fn geometry() -> Geometry {
    Geometry::guided(1, [2, 6, 8], 1.0, 1.0)
}

/// Both halves have captions of their own length.
fn caption(model: &Wan) -> Caption {
    let width = model.config().text_dim;
    let mask: Vec<bool> = [5, 3].iter().flat_map(|&n| (0..5).map(move |j| j < n)).collect();
    model.caption(&waves(2 * 5 * width, 0.7), 2, Some(&mask)).unwrap()
}

fn noise(model: &Wan, seed: f64) -> Vec<f32> {
    waves(model.config().channels * 2 * 6 * 8, seed)
}

/// A run of [`STEPS`] Euler steps, with the latents after each.
fn run(model: &Wan, policy: impl Policy + 'static, seed: f64) -> SampleOutput {
    run_packed(model, policy, seed, false)
}

/// The same, with what is kept in 8 bits or not.
fn run_packed(model: &Wan, policy: impl Policy + 'static, seed: f64, packed_cache: bool) -> SampleOutput {
    let rows = Euler(FlowGrid::euler(STEPS, 3.0).unwrap()).rows();
    let snapshots = (1..=STEPS).collect();
    let options = SamplerOptions { rows, cfg_scale: CFG, snapshots, packed_cache, compare_folds: false, rank: None };
    let caption = caption(model);
    let members = vec![Member { caption: &caption, policy: Box::new(policy) }];
    let sampler = Sampler::new(model, members, geometry(), &noise(model, seed), None, options).unwrap();
    sampler.run(&mut |_| ControlFlow::Continue(())).unwrap()
}

/// The published names as diffusers has them: see ../shared/goldens/wan/names_map.json, of which these are all.
fn in_diffusers(name: &str) -> String {
    let rules = [
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("head.modulation", "scale_shift_table"),
        ("head.head", "proj_out"),
        ("modulation", "scale_shift_table"),
        ("self_attn.norm", "attn1.norm"),
        ("cross_attn.norm", "attn2.norm"),
        ("self_attn.q.", "attn1.to_q."),
        ("self_attn.k.", "attn1.to_k."),
        ("self_attn.v.", "attn1.to_v."),
        ("self_attn.o.", "attn1.to_out.0."),
        ("cross_attn.q.", "attn2.to_q."),
        ("cross_attn.k.", "attn2.to_k."),
        ("cross_attn.v.", "attn2.to_v."),
        ("cross_attn.o.", "attn2.to_out.0."),
        ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"),
        ("norm3", "norm2"),
    ];
    rules.iter().fold(name.to_owned(), |name, (published, diffusers)| name.replace(published, diffusers))
}

#[test]
fn names_of_diffusers_and_streamed_weights_give_the_same_bits() {
    let device = device();
    let bytes = bytes();
    let original = run(&load(&device, &bytes, 0), ComputeAll::default(), 0.3).latents;

    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<(String, TensorView<'_>)> =
        tensors.tensors().into_iter().map(|(name, tensor)| (in_diffusers(&name), tensor)).collect();
    assert!(renamed.iter().any(|(name, _)| name == "blocks.1.attn2.to_out.0.bias"));
    let renamed = safetensors::serialize(renamed, None).unwrap();
    assert!(run(&load(&device, &renamed, 0), ComputeAll::default(), 0.3).latents == original);

    let model = load(&device, &bytes, 2);
    assert!(model.weight_bytes().streamed > 0);
    assert!(run(&model, ComputeAll::default(), 0.3).latents == original);
}

/// AdaCache probes a block that attends to all tokens; the device decides as the policy on the host does.
#[test]
fn adacache_decides_on_the_device() {
    let model = load(&device(), &bytes(), 0);
    let config = AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::of(model.anatomy()),
        blocks: vec![1],
        codebook: Codebook::new(vec![(0.25, 3), (0.5, 2), (9.0, 1)]).unwrap(),
        moreg: None,
    };
    config.validate_for(model.anatomy(), 2).unwrap();
    let mut policy = AdaCache::new(config, STEPS);
    let output = run(&model, policy.clone(), 0.3);
    let member = &output.members[0];
    assert!((3..STEPS).contains(&member.computed_steps().len()), "{:?}", member.decisions);
    assert_eq!(member.trace.replay(&mut policy).unwrap(), (member.plans.clone(), member.decisions.clone()));
}

/// A signal of the time alone: every prompt and seed gets one schedule, and another signal another.
#[test]
fn teacache_on_the_time_has_one_schedule() {
    let model = load(&device(), &bytes(), 0);
    let with = |signal, seed| {
        let config =
            TeaCacheConfig { signal, first: 2, last: 1, ..TeaCacheConfig::new(0.3, [0.0, 0.0, 0.0, 1.0, 0.0]) };
        let output = run(&model, TeaCache::new(config.clone(), STEPS), seed);
        let member = &output.members[0];
        let replayed = member.trace.schedule(&mut TeaCache::new(config, STEPS)).unwrap();
        assert_eq!(replayed, member.computed_steps());
        (member.computed_steps(), member.decisions.iter().map(|d| d.distance).collect::<Vec<f64>>())
    };
    for signal in [Signal::Time, Signal::TimeProjection] {
        let (steps, distances) = with(signal, 0.3);
        assert!(steps.starts_with(&[1, 2]) && steps.ends_with(&[STEPS]) && steps.len() < STEPS, "{steps:?}");
        assert_eq!(with(signal, 0.8), (steps, distances));
    }
    assert_ne!(with(Signal::Time, 0.3).1, with(Signal::TimeProjection, 0.3).1);
    assert_ne!(with(Signal::Modulated, 0.3).1, with(Signal::Modulated, 0.8).1);
}

/// A reused step predicts what the latents are and what the last prediction was more than they: v = z + (v_c − z_c). With Euler the guided
/// prediction of a computed step follows from the latents around it, and so do all reused steps after it.
#[test]
fn easycache_reuses_the_prediction() {
    let model = load(&device(), &bytes(), 0);
    let config = EasyCacheConfig { first: 3, reused: Reused::Prediction, ..EasyCacheConfig::new(0.5) };
    let output = run(&model, EasyCache::new(config.clone(), STEPS), 0.3);
    let computed = output.members[0].computed_steps();
    assert!(computed.len() < STEPS && computed.starts_with(&[1, 2, 3]), "{:?}", output.members[0].decisions);
    let grid = FlowGrid::euler(STEPS, 3.0).unwrap();
    let before = |step: usize| if step == 1 { noise(&model, 0.3) } else { output.snapshots[step - 2].clone() };
    let width = |step: usize| grid.sigmas()[step] - grid.sigmas()[step - 1];
    let mut offset: Vec<f32> = vec![];
    for step in 1..=STEPS {
        let (z, after) = (before(step), &output.snapshots[step - 1]);
        let predicted: Vec<f32> = after.iter().zip(&z).map(|(after, z)| (after - z) / width(step)).collect();
        if computed.contains(&step) {
            offset = predicted.iter().zip(&z).map(|(v, z)| v - z).collect();
            continue;
        }
        for ((v, z), offset) in predicted.iter().zip(&z).zip(&offset) {
            // What cancels in a small step's difference, and rounding.
            assert!((v - (z + offset)).abs() < 2e-4, "step {step}: {v} instead of {}", z + offset);
        }
    }
    // The fold, the other way, is not kept; and without it nothing can be extrapolated.
    let fold = run(&model, EasyCache::new(EasyCacheConfig { reused: Reused::Fold, ..config.clone() }, STEPS), 0.3);
    assert_ne!(fold.latents, output.latents);
    let of = Box::new(adacache::cache::CacheConfig::EasyCache(config));
    assert!(TaylorConfig { order: 1, damping: 1.0, of }.validate().is_err());
}

/// The published filter of SeaCache on `x` `[outer, n, inner]` along the middle axis, by discrete Fourier transforms in f64.
fn filtered(x: &[f64], n: usize, inner: usize, noise: f64) -> Vec<f64> {
    let (a, b) = (1.0 - noise, noise);
    let gain = |k: usize| {
        let frequency = (k.min(n - k) as f64 / n as f64).powi(3);
        let power = 1.0 / (frequency + 1e-16);
        a * power / (a * a * power + b * b + 1e-16)
    };
    let mean = (0..n).map(gain).sum::<f64>() / n as f64;
    let turn = |k: usize, i: usize| std::f64::consts::TAU * (k * i % n) as f64 / n as f64;
    let mut out = vec![0.0; x.len()];
    for first in (0..x.len()).filter(|i| (i / inner).is_multiple_of(n)) {
        for k in 0..n {
            let (re, im) = (0..n).fold((0.0, 0.0), |(re, im), i| {
                let v = x[first + i * inner];
                (re + v * turn(k, i).cos(), im - v * turn(k, i).sin())
            });
            for i in 0..n {
                out[first + i * inner] += gain(k) / mean * (re * turn(k, i).cos() - im * turn(k, i).sin()) / n as f64;
            }
        }
    }
    out
}

/// What SeaCache measures between the first two steps, against the model's input filtered on the host.
#[test]
fn seacache_measures_through_its_filter() {
    let model = load(&device(), &bytes(), 0);
    let policy = SeaCache::new(SeaCacheConfig::new(0.0), STEPS);
    let output = run(&model, policy, 0.3);
    let ws = model.workspace(geometry(), &ResidualRoom::default()).unwrap();
    let caption = caption(&model);
    let walk = Walk { model: &model, ws: &ws, caption: &caption };
    let rows = Euler(FlowGrid::euler(STEPS, 3.0).unwrap()).rows();
    let input = |time: f32, z: &[f32]| {
        let z = Tensor::from_f32(model.device(), &[1, model.config().channels, 2, 6, 8], z, DType::F32).unwrap();
        walk.set_time(&[time; 2], None).unwrap();
        walk.embed(&z).unwrap();
        model.modulate(&ws, None).unwrap();
        let out = Tensor::zeros(model.device(), ws.x().shape(), DType::F32).unwrap();
        model.modulated_input(&ws, &out).unwrap();
        let mut x: Vec<f64> = out.to_f32().unwrap().into_iter().map(f64::from).collect();
        let ([frames, height, width], channels) = (ws.tokens(), model.config().dim);
        let axes = [(frames, height * width * channels), (height, width * channels), (width, channels)];
        for (n, inner) in axes {
            x = filtered(&x, n, inner, f64::from(time / 1000.0).clamp(1e-6, 1.0 - 1e-6));
        }
        x
    };
    let before = input(rows[0].time, &noise(&model, 0.3));
    let after = input(rows[1].time, &output.snapshots[0]);
    let diff: f64 = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).sum();
    let exact = diff / before.iter().map(|v| v.abs()).sum::<f64>();
    let record = &output.members[0].trace.records[0];
    assert_eq!((record.step, record.since, record.at), (2, 1, ProbePoint::Filtered));
    let measured = record.measurement.abs_diff / record.measurement.abs_kept;
    assert!((measured / exact - 1.0).abs() < 1e-3, "{measured} instead of {exact}");
    // It is computed with threshold 0, and never but at the ends with a threshold that nothing reaches.
    assert_eq!(output.members[0].computed_steps().len(), STEPS);
    let lazy = run(&model, SeaCache::new(SeaCacheConfig::new(1e9), STEPS), 0.3);
    assert_eq!(lazy.members[0].computed_steps(), [1, STEPS]);
}

/// A schedule that is given.
struct Given(Vec<Plan>);

impl Policy for Given {
    fn name(&self) -> &str {
        "given"
    }
    fn plan(&mut self, step: usize) -> Plan {
        self.0.get(step - 1).copied().unwrap_or(Plan::Compute)
    }
    fn probes(&self) -> Probes {
        Probes::default()
    }
    fn reuses(&self) -> bool {
        true
    }
    fn decides_halves(&self) -> bool {
        true
    }
    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

/// Guidance is linear: what the two steps that compute one half each change is what a computed and a reused step change.
#[test]
fn a_step_computes_one_half_of_guidance() {
    let model = load(&device(), &bytes(), 1);
    for packed in [false, true] {
        let after = |second: Plan| {
            let output = run_packed(&model, Given(vec![Plan::Compute, second]), 0.3, packed);
            (output.snapshots[1].clone(), output.members[0].flops[1])
        };
        let [both, neither] = [Plan::Compute, Plan::Reuse].map(after);
        let [conditional, unconditional] = Half::BOTH.map(|half| after(Plan::Half(half)));
        let sum = |(a, b): (&f32, &f32)| a + b;
        let halves = conditional.0.iter().zip(&unconditional.0).map(sum);
        for (halves, whole) in halves.zip(both.0.iter().zip(&neither.0).map(sum)) {
            assert!((halves - whole).abs() < 1e-4, "{halves} instead of {whole}");
        }
        assert!(conditional.0 != both.0 && conditional.0 != neither.0);
        assert_eq!(conditional.1 + unconditional.1, both.1 + neither.1);
    }
    let early = Given(vec![Plan::Half(Half::Conditional)]);
    let options = SamplerOptions {
        rows: Euler(FlowGrid::euler(STEPS, 3.0).unwrap()).rows(),
        cfg_scale: CFG,
        snapshots: vec![],
        packed_cache: false,
        compare_folds: false,
        rank: None,
    };
    let caption = caption(&model);
    let members = vec![Member { caption: &caption, policy: Box::new(early) }];
    let sampler = Sampler::new(&model, members, geometry(), &noise(&model, 0.3), None, options).unwrap();
    let refused = sampler.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
    assert!(refused.contains("nothing was kept"), "{refused}");
}

/// MagCache with one table for both halves, given twice, gives the bits of the table given once; each half has a polynomial of its own.
#[test]
fn magcache_decides_about_each_half() {
    let model = load(&device(), &bytes(), 0);
    let ratios = vec![0.96; STEPS - 1];
    let together = MagCacheConfig { retention: 0.25, ..MagCacheConfig::new(0.13, 3, ratios.clone()) };
    let apart = |unconditional| MagCache::new(MagCacheConfig { unconditional, ..together.clone() }, STEPS);
    for order in [None, Some(1), Some(2)] {
        let run = |policy: MagCache| match order {
            Some(order) => run(&model, Taylor::new(Extrapolation::from(order), Box::new(policy)), 0.3),
            None => run(&model, policy, 0.3),
        };
        let once = run(MagCache::new(together.clone(), STEPS));
        assert_eq!(once.members[0].computed_steps(), [1, 2, 3, 6, 9, 12]);
        let twice = run(apart(ratios.clone()));
        assert_eq!(twice.members[0].plans, once.members[0].plans);
        assert!(twice.latents == once.latents && twice.cache_bytes == once.cache_bytes);
        let other = run(apart(vec![0.9; STEPS - 1]));
        let [conditional, unconditional] = Half::BOTH.map(|half| computed_steps_of(&other.members[0].plans, half));
        assert_eq!(conditional, [1, 2, 3, 6, 9, 12]);
        assert_eq!(unconditional, [1, 2, 3, 5, 7, 9, 11]);
        assert!(other.latents != once.latents);
    }
}

#[test]
fn sizes_and_captions_that_do_not_fit_are_errors() {
    let model = load(&device(), &bytes(), 0);
    let workspace = |latent| model.workspace(Geometry::guided(1, latent, 1.0, 1.0), &ResidualRoom::default());
    let error = |latent| workspace(latent).err().unwrap().to_string();
    assert!(workspace([1, 2, 2]).is_ok());
    assert!(error([1, 3, 2]).contains("height is 3, expected a multiple of 2"));
    assert!(error([1, 2, 0]).contains("width is 0"));
    assert!(error([1025, 2, 2]).contains("frames is 1025"));
    let WanConfig { text_dim, text_len, .. } = *model.config();
    assert!(model.caption(&vec![0.5; text_len * text_dim], 1, None).is_ok());
    let long = model.caption(&vec![0.5; (text_len + 1) * text_dim], 1, None).err().unwrap().to_string();
    assert!(long.contains(&format!("{} tokens, the model takes {text_len}", text_len + 1)), "{long}");
}

#[test]
fn configurations_of_other_networks_are_refused() {
    let error = |change: (&str, &str)| {
        let text = std::fs::read_to_string(Path::new(FOLDER).join("config.json")).unwrap();
        let text = text.replace(change.0, change.1);
        WanConfig::from_json(&text, "config.json", None).unwrap_err().to_string()
    };
    assert!(error(("\"ti2v\"", "\"i2v\"")).contains("text to video"));
    assert!(error(("\"in_dim\": 48", "\"in_dim\": 52")).contains("52 input"));
    assert!(error(("\"eps\": 1e-06", "\"eps\": 1e-05")).contains("eps"));
    assert!(error(("\"num_heads\": 1", "\"num_heads\": 3")).contains("not a multiple"));
    assert!(error(("\"num_layers\": 2", "\"num_layers\": 0")).contains("num_layers"));
    assert!(error(("\"dim\": 128,", "")).contains("neither"));
    assert!(error(("{", "[")).contains("not the configuration of a Wan transformer"));
}
