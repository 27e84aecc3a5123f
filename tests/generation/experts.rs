//! A model whose two experts take turns: a small repository in the layout of Wan 2.2 A14B, made of tests/goldens/wan_repo and a changed copy
//! of its transformer.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use adacache::cache::{AdaCacheConfig, CacheConfig, Codebook, IntervalConfig, Metric, ResidualKind, trace};
use adacache::device::Device;
use adacache::family;
use adacache::model::{Caption, Geometry, ResidualRoom, Transformer, Walk};
use adacache::pipeline::{
    Content, Deciding, Generation, Guidance, Job, ModelSource, OpenOptions, Pipeline, PipelineError, Prompt,
    PromptText, Request, noise,
};
use adacache::sampler::{FlowSampler, Row, SampleError};
use adacache::tensor::{DType, Tensor};
use adacache::text::Embedding;
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::common::{changed_weights, copy_all, device};

const STEPS: usize = 8;
/// Steps of the first expert among these, by hand: 12u/(1 + 11u) ≥ 0.875 for u = 1, 7/8, … 3/8.
const HIGH: usize = 6;
const INDEX: &str = "model_index.json";

/// What the second expert is.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    /// There is none, and no index names one: another model.
    None,
    /// The first, once more.
    Same,
    /// One of other weights.
    Other,
}

fn repository(second: Second) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new("tests/goldens/wan_repo");
    for part in ["transformer", "vae"] {
        copy_all(&golden.join(part), &dir.path().join(part));
    }
    if second != Second::None {
        copy_all(&golden.join("transformer"), &dir.path().join("transformer_2"));
        fs::write(dir.path().join(INDEX), r#"{ "boundary_ratio": 0.875 }"#).unwrap();
    }
    if second == Second::Other {
        changed_weights(&dir.path().join("transformer_2"), 0.2);
    }
    dir
}

static ONE: LazyLock<TempDir> = LazyLock::new(|| repository(Second::None));
static SAME: LazyLock<TempDir> = LazyLock::new(|| repository(Second::Same));
static TWO: LazyLock<TempDir> = LazyLock::new(|| repository(Second::Other));

fn try_open(folder: &Path, options: OpenOptions) -> Result<ModelSource, PipelineError> {
    let size = OpenOptions::exactly(5, 32, 32);
    let options = OpenOptions { pixels: size.pixels, frames: size.frames, caption_tokens: Some(6), ..options };
    family::open(&folder.display().to_string(), &options)
}

fn source(folder: &TempDir, sampler: FlowSampler) -> ModelSource {
    // The one model's own shift is 5.
    try_open(folder.path(), OpenOptions { sampler: Some(sampler), shift: Some(12.0), ..OpenOptions::default() })
        .unwrap()
}

/// Values without a pattern.
fn waves(count: usize, step: f64) -> Vec<f32> {
    (0..count).map(|i| (1.0 + step * (i as f64).powf(1.3)).sin() as f32).collect()
}

fn embedding(tokens: usize, step: f64) -> Embedding {
    Embedding { values: waves(tokens * 64, step), tokens }
}

fn request(cfg_scale: Guidance, cache: CacheConfig) -> Request {
    let prompt = Prompt::new(PromptText::new("a cat").unwrap(), embedding(5, 0.7));
    Request {
        prompt: prompt.against(Arc::new(embedding(3, 0.4))),
        steps: STEPS,
        cfg_scale,
        seed: 3,
        noise: None,
        cache,
        packed_cache: false,
        record_all: false,
        given: None,
        decode: false,
    }
}

fn run(pipeline: &Pipeline, request: &Request) -> Generation {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn loaded(source: &ModelSource) -> Pipeline {
    Pipeline::load(source, &device(), DType::F32).unwrap()
}

fn job(source: &ModelSource, request: &Request) -> Job {
    Job::new(source, DType::F32, request)
}

const BOTH: Guidance = Guidance::All(4.0);

fn each() -> Guidance {
    family::named("wan2.2-t2v-a14b").unwrap().published(&OpenOptions::default()).unwrap().config().default_cfg_scale
}

#[test]
fn equal_experts_are_one_model() {
    let request = request(BOTH, CacheConfig::None);
    for sampler in [FlowSampler::UniPc, FlowSampler::DpmPp, FlowSampler::Euler] {
        let (one, same) = (source(&ONE, sampler), source(&SAME, sampler));
        assert_eq!((one.experts().len(), same.experts().len()), (1, 2));
        let (one, same) = (run(&loaded(&one), &request), run(&loaded(&same), &request));
        assert!(one.latents.values == same.latents.values, "{}, to the bit", sampler.name());
        assert!(one.report.stages.is_empty() && one.report.expert(1).is_none());
        let names: Vec<_> = (1..=STEPS).map(|step| same.report.expert(step).unwrap()).collect();
        let by_hand = [["high-noise"; HIGH].as_slice(), &["low-noise"; STEPS - HIGH]].concat();
        assert_eq!((names, same.report.model.as_str()), (by_hand, "wan2.2-t2v-a14b"));
        assert_eq!(same.trace.timesteps, one.trace.timesteps);
        assert_eq!((same.report.flops, same.report.seconds.per_step.len()), (one.report.flops, STEPS));
    }
}

/// The guided prediction of `model` for the latents `z` at `time`.
fn predict(model: &dyn Transformer, caption: &Caption, geometry: Geometry, z: &[f32], time: f32, s: f32) -> Vec<f32> {
    let ws = model.workspace(geometry, &ResidualRoom::default()).unwrap();
    let walk = Walk { model, ws: &ws, caption };
    let Geometry { frames, height, width, .. } = geometry;
    let z = Tensor::from_f32(model.device(), &[1, 16, frames, height, width], z, DType::F32).unwrap();
    walk.set_time(&[time; 2], None).unwrap();
    walk.forward(&z, None).unwrap();
    let both = ws.prediction().to_f32().unwrap();
    let (c, u) = both.split_at(both.len() / 2);
    c.iter().zip(u).map(|(c, u)| u + s * (c - u)).collect()
}

/// Every step by hand, on the host but for the transformers.
fn by_hand(source: &ModelSource, device: &Device, scales: [f32; 2], experts: [usize; 2]) -> Vec<f32> {
    let models = experts.map(|index| source.expert(index, device, DType::F32, 0, Content::Files).unwrap());
    let mask: Vec<bool> = [5, 3].iter().flat_map(|&n| (0..5).map(move |j| j < n)).collect();
    let mut rows = [embedding(5, 0.7).values, embedding(3, 0.4).values].concat();
    rows.resize(2 * 5 * 64, 0.0);
    let geometry = source.config().geometry(1);
    let mut z = noise(3, 16 * geometry.frames * geometry.height * geometry.width);
    let rows_of_solver = source.solver(STEPS).unwrap().rows();
    let slots = rows_of_solver.iter().map(Row::slots).max().unwrap_or(0);
    let mut history = vec![vec![0.0; z.len()]; slots];
    for row in rows_of_solver {
        let stage = usize::from(row.time < 875.0);
        let caption = models[stage].caption(&rows, 2, Some(&mask)).unwrap();
        let v = predict(&*models[stage], &caption, geometry, &z, row.time, scales[stage]);
        row.apply(&mut z, &v, &mut history).unwrap();
    }
    z
}

fn off(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    apart / square(&mut b.iter().map(|b| f64::from(*b)))
}

#[test]
fn each_expert_runs_its_steps_with_its_guidance() {
    assert_eq!(each(), Guidance::Each([4.0, 3.0]));
    for sampler in [FlowSampler::UniPc, FlowSampler::DpmPp] {
        let source = source(&TWO, sampler);
        let made = run(&loaded(&source), &request(each(), CacheConfig::None)).latents.values;
        let right = by_hand(&source, &device(), [4.0, 3.0], [0, 1]);
        let error = off(&made, &right);
        assert!(error < 1e-4, "{error}");
        // What would be wrong is told apart: one expert for all, the other one first, one scale for both.
        for (scales, experts) in [([4.0, 3.0], [0, 0]), ([4.0, 3.0], [1, 0]), ([4.0, 4.0], [0, 1])] {
            let apart = off(&by_hand(&source, &device(), scales, experts), &right);
            assert!(apart > 20.0 * error.max(1e-5), "{scales:?} {experts:?}: {apart} {error}");
        }
    }
}

fn adacache() -> CacheConfig {
    CacheConfig::AdaCache(AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::Attn,
        blocks: vec![1],
        codebook: Codebook::new(vec![(9.0, 3)]).unwrap(),
        moreg: None,
    })
}

#[test]
fn caches_begin_anew_with_the_second_expert() {
    let source = source(&TWO, FlowSampler::UniPc);
    let pipeline = loaded(&source);
    let interval = run(&pipeline, &request(each(), CacheConfig::Interval(IntervalConfig { every: 4 })));
    // 1 and 5 of six, and the first of two.
    assert_eq!(interval.report.computed_steps, [1, 5, HIGH + 1]);
    let mut told = vec![];
    let request = request(each(), adacache());
    let made = pipeline
        .generate(&request, &mut |event| {
            told.push((event.step, event.steps, event.decisions.iter().map(|d| d.step).max()));
            ControlFlow::Continue(())
        })
        .unwrap();
    // Of six steps the first, the second and the last two; both of two.
    assert_eq!(made.report.computed_steps, [1, 2, 5, 6, 7, 8]);
    let steps: Vec<_> = made.report.decisions.iter().map(|d| d.step).collect();
    assert_eq!(steps, [2, 5, 6, 8]);
    assert!(made.trace.records.iter().all(|r| (r.step <= HIGH) == (r.since <= HIGH)), "nothing across the switch");
    assert_eq!(made.trace.spans(), [0..HIGH, HIGH..STEPS]);
    let replayed = made.trace.play(&request.cache, source.anatomy()).unwrap();
    assert_eq!(replayed.1, made.report.decisions);
    assert_eq!(told.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>());
    assert!(told.iter().all(|(_, steps, decided)| *steps == STEPS && decided.is_none_or(|d| d <= STEPS)));
    let mut file = vec![];
    made.trace.write(&mut file).unwrap();
    let read = trace::Trace::read(&file[..]).unwrap();
    assert_eq!((&read.stages, &read.computed), (&made.trace.stages, &made.trace.computed));
    // A run that is stopped tells the step of the whole run.
    let stopped = pipeline.generate(&request, &mut |event| match event.step {
        7.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(PipelineError::Sample(SampleError::Stopped { step: 7 }))), "{stopped:?}");
}

/// Gives a transformer of two blocks two more, like its second: two are on the device even if all are streamed.
fn deepened(folder: &Path) {
    let (index, config) = (folder.join("diffusion_pytorch_model.safetensors.index.json"), folder.join("config.json"));
    let mut listed: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let shards: BTreeSet<String> =
        listed["weight_map"].as_object().unwrap().values().map(|file| file.as_str().unwrap().to_owned()).collect();
    let bytes: Vec<Vec<u8>> = shards.iter().map(|shard| fs::read(folder.join(shard)).unwrap()).collect();
    let mut more = vec![];
    for tensors in bytes.iter().map(|bytes| SafeTensors::deserialize(bytes).unwrap()) {
        for (name, view) in tensors.tensors() {
            let Some(rest) = name.strip_prefix("blocks.1.") else { continue };
            more.extend([2, 3].map(|block| (format!("blocks.{block}.{rest}"), view.clone())));
        }
    }
    more.iter().for_each(|(name, _)| listed["weight_map"][name] = "more.safetensors".into());
    fs::write(folder.join("more.safetensors"), safetensors::serialize(more, None).unwrap()).unwrap();
    fs::write(index, listed.to_string()).unwrap();
    let text = fs::read_to_string(&config).unwrap().replace("\"num_layers\": 2", "\"num_layers\": 4");
    fs::write(config, text).unwrap();
}

#[test]
fn wherever_the_weights_wait_the_bits_are_the_same() {
    let dir = repository(Second::Other);
    ["transformer", "transformer_2"].iter().for_each(|part| deepened(&dir.path().join(part)));
    let source = source(&dir, FlowSampler::UniPc);
    let requests = [request(each(), adacache()), Request { seed: 9, ..request(each(), adacache()) }];
    let make = |pipeline: &Pipeline| {
        let videos = pipeline.generate_batch(&requests, Deciding::Apart, &mut |_| ControlFlow::Continue(())).unwrap();
        // Once more: the first expert comes back.
        let again = pipeline.generate_batch(&requests, Deciding::Apart, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(videos.iter().zip(&again).all(|(a, b)| a.latents.values == b.latents.values));
        videos
    };
    let free = make(&loaded(&source));
    let job = Job { videos: 2, deciding: Deciding::Apart, ..job(&source, &requests[0]) };
    let needs = job.needs(&device()).unwrap();
    assert_eq!(needs.experts, 2);
    assert!(needs.least() < needs.resident() && needs.resident() < needs.together(), "{needs:?}");
    let weights = needs.ends + needs.blocks * needs.block;
    // The budget, what of it is counted, the experts' weights on the device.
    for (budget, counted, resident) in [
        (needs.together(), needs.together(), Some(2 * weights)),
        (needs.together() - 1, needs.resident(), Some(weights)),
        (needs.resident(), needs.resident(), Some(weights)),
        (needs.least(), needs.least(), None),
    ] {
        let device = device();
        let pipeline = Pipeline::load_within(&job, &device, Some(budget)).unwrap();
        for (made, free) in make(&pipeline).iter().zip(&free) {
            assert!(made.latents.values == free.latents.values, "{budget} bytes");
            assert_eq!((&made.report.decisions, &made.trace), (&free.report.decisions, &free.trace));
            let (report, peak) = (&made.report, made.report.peak_device_bytes);
            match resident {
                Some(resident) => {
                    assert_eq!((report.resident_weight_bytes, report.streamed_weight_bytes), (resident, 0));
                }
                None => assert!(report.streamed_weight_bytes > 0 && report.resident_weight_bytes < weights),
            }
            // The count is what the run takes, but for what rounding up leaves.
            assert!(peak <= counted && peak * 10 > counted * 9, "{peak} of {counted}");
        }
    }
    assert!(Pipeline::load_within(&job, &device(), Some(needs.least() - 1)).is_err());
}

#[test]
fn an_expert_without_a_step_is_not_loaded() {
    let dir = repository(Second::Other);
    // The first expert cannot be loaded: its weights are no numbers.
    changed_weights(&dir.path().join("transformer"), f32::NAN);
    let open = |sigmas: Option<Vec<f64>>| try_open(dir.path(), OpenOptions { sigmas, ..OpenOptions::default() });
    let low = open(Some(vec![0.8, 0.4])).unwrap();
    let request = Request { steps: 2, ..request(each(), CacheConfig::None) };
    let one = job(&low, &request);
    let stages = one.stages().unwrap();
    assert_eq!((stages.len(), stages[0].expert, stages[0].cfg_scale), (1, 1, 3.0));
    let needs = one.needs(&device()).unwrap();
    assert_eq!((needs.experts, needs.together()), (1, needs.resident()));
    let made = run(&Pipeline::load_within(&one, &device(), None).unwrap(), &request);
    assert_eq!(made.report.stages, [trace::Stage { expert: "low-noise".into(), steps: 2 }]);
    // With one step before the boundary it is needed.
    let both = open(Some(vec![0.9, 0.4])).unwrap();
    let error = Pipeline::load_within(&job(&both, &request), &device(), None).err().unwrap().to_string();
    assert!(error.contains("transformer"), "{error}");
    // Guidance of one expert alone: the other runs one half.
    let half = Request { cfg_scale: Guidance::Each([4.0, 1.0]), steps: STEPS, ..request };
    let made = run(&loaded(&source(&TWO, FlowSampler::UniPc)), &half);
    let shares = &made.report.step_shares;
    assert!(shares[HIGH - 1] == 1.0 && shares[HIGH] < 0.6, "{shares:?}");
    assert_eq!(made.report.flops.total, made.report.flops.all_computed);
}

#[test]
fn what_does_not_fit_is_refused() {
    let told = |change: &dyn Fn(&Path)| {
        let dir = repository(Second::Same);
        change(dir.path());
        try_open(dir.path(), OpenOptions::default()).err().expect("it is refused").to_string()
    };
    let missing = told(&|folder| fs::remove_dir_all(folder.join("transformer_2")).unwrap());
    for part in ["missing expert", "low-noise", "transformer_2/config.json", "adacache pull wan2.2-t2v-a14b"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    let other = told(&|folder| {
        let path = folder.join("transformer_2/config.json");
        let text = fs::read_to_string(&path).unwrap().replace("\"ffn_dim\": 192", "\"ffn_dim\": 256");
        fs::write(path, text).unwrap();
    });
    assert!(other.contains("different shapes") && other.contains("192") && other.contains("256"), "{other}");
    let boundary = told(&|folder| fs::write(folder.join(INDEX), r#"{ "boundary_ratio": 1.5 }"#).unwrap());
    assert!(boundary.contains("boundary_ratio is 1.5") && boundary.contains("between 0 and 1"), "{boundary}");
    // Two scales are of two experts.
    let pipeline = loaded(&source(&ONE, FlowSampler::UniPc));
    let two = pipeline.generate(&request(each(), CacheConfig::None), &mut |_| ControlFlow::Continue(()));
    assert!(two.unwrap_err().to_string().contains("give one scale"));
}
