//! `sprites-wan`, the small Wan inside the program: it takes the words of `sprites`, and the samplers, caches and precisions of Wan serve it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use adacache::cache::CacheConfig;
use adacache::device::{Device, Event, Launch, LaunchObserver, LaunchStats, VmConfig};
use adacache::family;
use adacache::pipeline::{Generation, ModelSource, OpenOptions, Pipeline, PipelineError, Request, cache_config};
use adacache::sampler::FlowSampler;
use adacache::tensor::DType;

use crate::common::{device, vm};
use crate::requests::difference;

const PROMPT: &str = "large red circle right fast navy";

fn source(options: OpenOptions) -> Result<ModelSource, PipelineError> {
    family::open("sprites-wan", &options)
}

fn run(options: OpenOptions, dtype: DType, steps: usize, change: impl FnOnce(Request) -> Request) -> Generation {
    let pipeline = Pipeline::load(&source(options).unwrap(), &device(), dtype).unwrap();
    let request =
        Request { steps, cache: CacheConfig::None, decode: false, ..Request::new(&pipeline, PROMPT).unwrap() };
    pipeline.generate(&change(request), &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn samplers_agree_but_for_the_error_of_their_steps() {
    let latents = |sampler: FlowSampler, steps| {
        run(OpenOptions { sampler: Some(sampler), ..OpenOptions::default() }, DType::F32, steps, |request| request)
    };
    let (unipc, euler) = (latents(FlowSampler::default(), 12), latents(FlowSampler::Euler, 12));
    let apart = difference(&unipc, &euler);
    assert!((0.005..0.3).contains(&apart), "{apart}");
}

#[test]
fn the_unconditional_half_reads_a_caption_of_padding() {
    let scaled = |scale: f32| {
        run(OpenOptions::default(), DType::F32, 3, |request| Request { cfg_scale: scale.into(), ..request })
    };
    let (half, beside, guided) = (scaled(1.0), scaled(1.0f32.next_up()), scaled(3.0));
    assert!(difference(&half, &beside) < 1e-4);
    assert!(difference(&half, &guided) > 1e-3);
    let work = |run: &Generation| run.report.flops.computed_step as f64;
    assert!((0.49..0.51).contains(&(work(&half) / work(&guided))));
}

#[test]
fn precisions_agree() {
    let of = |dtype| run(OpenOptions::default(), dtype, 6, |request| request);
    let exact = of(DType::F32);
    for dtype in [DType::Bf16, DType::F16] {
        let error = difference(&exact, &of(dtype));
        assert!(error < 0.05, "{dtype:?}: {error}");
    }
}

#[test]
fn every_named_cache_runs() {
    let steps = 6;
    let presets = source(OpenOptions::default()).unwrap().presets(steps).unwrap();
    for name in presets.names().iter().filter(|name| !name.contains('N') && !name.ends_with("slow")) {
        let cached = run(OpenOptions::default(), DType::Bf16, steps, |request| Request {
            cache: cache_config(&source(OpenOptions::default()).unwrap(), name, false, steps).unwrap(),
            ..request
        });
        assert!(cached.latents.values.iter().all(|value| value.is_finite()), "{name}");
        assert!(cached.report.step_shares[0] > 0.0, "{name}: the first step has nothing to reuse");
    }
}

/// Its folder is the same model, and none of the published Wans, whose official repositories have a `config.json` in this place too.
#[test]
fn the_folder_is_the_same_model() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/sprites-wan");
    let opened = family::open(folder, &OpenOptions::default()).unwrap();
    assert_eq!(opened.config(), source(OpenOptions::default()).unwrap().config());
}

#[test]
fn options_of_free_text_are_refused_and_those_of_sampling_taken() {
    let refused = source(OpenOptions { caption_tokens: Some(64), ..OpenOptions::default() }).err().unwrap();
    assert!(refused.to_string().contains("six words"), "{refused}");
    let zero = source(OpenOptions { shift: Some(0.0), ..OpenOptions::default() }).err().unwrap();
    assert!(zero.to_string().contains("3 is usual"), "{zero}");
    let levels = OpenOptions { sigmas: Some(vec![1.0, 0.7, 0.3]), ..OpenOptions::default() };
    assert_eq!(source(levels).unwrap().config().default_steps, 3);
    // The other built-in model offers no choice.
    let sprites = family::open("sprites", &OpenOptions { shift: Some(5.0), ..OpenOptions::default() });
    assert!(sprites.err().unwrap().to_string().contains("sprites-wan"));
}

/// The kernels that ran.
#[derive(Default)]
struct Seen(Mutex<BTreeSet<String>>);

impl LaunchObserver for Seen {
    fn launched(&self, launch: &Launch<'_>, _: Event, _: Event, _: Option<LaunchStats>) {
        self.0.lock().unwrap().insert(launch.kernel.into());
    }
}

/// A frame that is large enough for the kernels for Hopper: they serve, rows are normed apart where they do, and the latents are those of the
/// other kernels, but for the order of sums. One half of guidance alone is laid out otherwise.
#[test]
fn a_hopper_makes_the_same_latents() {
    if vm("kernels for Hopper", VmConfig::default()).is_none() {
        return;
    }
    let options = OpenOptions { pixels: Some([224, 224]), ..OpenOptions::default() };
    let run = |capability, cfg_scale: f32| {
        let device = Device::vm_as(capability, VmConfig::default());
        let seen = Arc::new(Seen::default());
        device.observe(Some(seen.clone()));
        let pipeline = Pipeline::load(&source(options.clone()).unwrap(), &device, DType::Bf16).unwrap();
        let request = Request::new(&pipeline, PROMPT).unwrap();
        let request =
            Request { steps: 1, cfg_scale: cfg_scale.into(), cache: CacheConfig::None, decode: false, ..request };
        let made = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        let kernels = seen.0.lock().unwrap().clone();
        (made, kernels)
    };
    for cfg_scale in [3.0, 1.0] {
        let ((other, others), (hopper, kernels)) = (run((8, 0), cfg_scale), run((9, 0), cfg_scale));
        assert!(!others.iter().any(|kernel| kernel.ends_with("_wgmma")));
        for kernel in ["attention_128_bf16_wgmma", "linear_bias_bf16_wgmma", "modulate_bf16"] {
            assert!(kernels.contains(kernel), "{kernel} is not among {kernels:?}");
        }
        let apart = difference(&other, &hopper);
        assert!((1e-9..0.02).contains(&apart), "guidance {cfg_scale}: {apart}");
    }
}
