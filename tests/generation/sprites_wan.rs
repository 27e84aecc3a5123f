//! `sprites-wan`, the small Wan inside the program: it takes the words of `sprites`, and the samplers, caches and precisions of Wan serve it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use adacache::cache::CacheConfig;
use adacache::device::{Device, Event, Launch, LaunchObserver, LaunchStats, VmConfig};
use adacache::family;
use adacache::pipeline::{Generation, Job, ModelSource, OpenOptions, Pipeline, PipelineError, Request, cache_config};
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

/// Three steps on a Hopper, and the kernels that ran.
fn on_a_hopper(options: &OpenOptions, change: impl FnOnce(Request) -> Request) -> (Generation, BTreeSet<String>) {
    let device = Device::vm_as((9, 0), VmConfig::default());
    let seen = Arc::new(Seen::default());
    device.observe(Some(seen.clone()));
    let pipeline = Pipeline::load(&source(options.clone()).unwrap(), &device, DType::Bf16).unwrap();
    let request = Request::new(&pipeline, PROMPT).unwrap();
    let request = Request { steps: 3, cache: CacheConfig::None, decode: false, ..request };
    let made = pipeline.generate(&change(request), &mut |_| ControlFlow::Continue(())).unwrap();
    let kernels = seen.0.lock().unwrap().clone();
    (made, kernels)
}

fn fp8() -> OpenOptions {
    OpenOptions { fp8_weights: true, ..OpenOptions::default() }
}

/// With `fp8_weights` a Hopper multiplies e4m3 in the blocks: the latents are near those of 16 bits, the same in every run and with streamed weights, and
/// the report says how many products there were and what they lost.
#[test]
fn a_hopper_multiplies_in_8_bits() {
    if vm("products of e4m3", VmConfig::default()).is_none() {
        return;
    }
    let (whole, _) = on_a_hopper(&OpenOptions::default(), |request| request);
    let (packed, kernels) = on_a_hopper(&fp8(), |request| request);
    for kernel in ["bias", "gelu", "residual"].map(|end| format!("linear_fp8_{end}_bf16_wgmma")) {
        assert!(kernels.contains(&kernel), "{kernel} is not among {kernels:?}");
    }
    for kernel in ["quantise_bf16", "quantise_modulated_bf16"] {
        assert!(kernels.contains(kernel), "{kernel} is not among {kernels:?}");
    }
    // 2 % are lost of each operand, in six blocks; guidance and three steps add to that.
    let apart = difference(&whole, &packed);
    println!("e4m3: latents differ by {apart:.3}");
    assert!((0.01..0.25).contains(&apart), "{apart}");
    let (again, _) = on_a_hopper(&fp8(), |request| request);
    assert_eq!(packed.latents, again.latents, "the same inputs gave other bits");

    let report = &packed.report;
    let fp8_report = report.fp8_weights.unwrap();
    assert_eq!((fp8_report.products, fp8_report.other_products), (36, 6), "keys and values of the caption stay");
    for error in [fp8_report.weight_error, fp8_report.activation_error] {
        assert!((0.01..0.04).contains(&error), "{error}");
    }
    assert!(report.summary().to_string().contains("products  36 of 42 in blocks of 8 bits (relative error 2."));
    assert!(whole.report.fp8_weights.is_none());
    // The blocks' weights have half the bytes, and the scales.
    assert!(report.resident_weight_bytes * 10 < whole.report.resident_weight_bytes * 7, "{report:?}");
}

/// Half of the weights in host memory; one half of guidance alone behind the gate of T-GATE; kept residuals and partial steps.
#[test]
fn products_in_8_bits_are_the_same_wherever_weights_are_and_whatever_is_reused() {
    if vm("products of e4m3", VmConfig::default()).is_none() {
        return;
    }
    let device = Device::vm_as((9, 0), VmConfig::default());
    let source = source(fp8()).unwrap();
    let (resident, _) = on_a_hopper(&fp8(), |request| Request { steps: 2, ..request });
    let request = {
        let pipeline = Pipeline::load(&source, &device, DType::Bf16).unwrap();
        Request { steps: 2, cache: CacheConfig::None, decode: false, ..Request::new(&pipeline, PROMPT).unwrap() }
    };
    let job = Job::new(&source, DType::Bf16, &request);
    let needs = job.needs(&device).unwrap();
    assert_eq!(needs.resident(), resident.report.peak_device_bytes, "what is counted is what is taken");
    let pipeline = Pipeline::load_within(&job, &device, Some(needs.least() + needs.block)).unwrap();
    let streamed = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(streamed.report.streamed_weight_bytes > 0);
    assert_eq!(streamed.latents, resident.latents);
    assert_eq!(streamed.report.fp8_weights, resident.report.fp8_weights);

    let reused = |name: &str| {
        let cache = cache_config(&source, name, false, 4).unwrap();
        on_a_hopper(&fp8(), |request| Request { steps: 4, cache, ..request }).0
    };
    let whole = reused("none");
    for name in ["t-gate", "interval-2"] {
        let cached = reused(name);
        let apart = difference(&whole, &cached);
        assert!(cached.report.step_shares.iter().any(|share| *share < 0.9), "{name}: {:?}", cached.report.step_shares);
        assert!(apart < 0.5 && cached.report.fp8_weights.is_some(), "{name}: {apart}");
    }
}

/// The small STDiT3 has one product in a block whose shape the kernel serves; the others stay as they are, and that is said.
#[test]
fn shapes_that_the_kernel_does_not_serve_stay_in_16_bits() {
    if vm("products of e4m3", VmConfig::default()).is_none() {
        return;
    }
    let run = |fp8_weights| {
        let options = OpenOptions { fp8_weights, ..OpenOptions::default() };
        let source = family::open("sprites", &options).unwrap();
        let pipeline = Pipeline::load(&source, &Device::vm_as((9, 0), VmConfig::default()), DType::F16).unwrap();
        let request = Request::new(&pipeline, PROMPT).unwrap();
        let request = Request { steps: 2, cache: CacheConfig::None, decode: false, ..request };
        pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let (whole, packed) = (run(false), run(true));
    let report = packed.report.fp8_weights.unwrap();
    assert_eq!(report.other_products, 6 * report.products, "one of seven: {report:?}");
    let apart = difference(&whole, &packed);
    assert!((1e-4..0.1).contains(&apart), "{apart}");
}

/// Devices and types without such products are told before anything is loaded; what they are is in the message.
#[test]
fn other_devices_and_types_are_refused() {
    let config = VmConfig { threads: 1, ..VmConfig::default() };
    if vm("products of e4m3", config.clone()).is_none() {
        return;
    }
    for (capability, dtype) in [((8, 0), DType::Bf16), ((12, 0), DType::F16), ((9, 0), DType::F32)] {
        let device = Device::vm_as(capability, config.clone());
        let error = Pipeline::load(&source(fp8()).unwrap(), &device, dtype).err().unwrap().to_string();
        for part in ["--fp8-weights", "9.0", "--device vm:sm_90", "bf16 or f16", dtype.name()] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
