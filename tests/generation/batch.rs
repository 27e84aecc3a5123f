//! Videos made together: decided about one by one they are what each would be alone, decided about together they share one schedule.
//! And residuals kept in 8 bits.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use adacache::cache::{AdaCacheConfig, CacheConfig, Codebook, Metric, ResidualKind};
use adacache::family;
use adacache::pipeline::{Deciding, Generation, Pipeline, Request};
use adacache::tensor::DType;

const STEPS: usize = 8;

fn pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| Pipeline::load(&family::sprites(), &crate::common::device(), DType::Bf16).unwrap())
}

/// A codebook whose one threshold lies between the changes of a calm and of a busy video.
fn request(prompt: &str, seed: u64, threshold: f64) -> Request {
    let cache = CacheConfig::AdaCache(AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::TAttn,
        blocks: vec![2],
        codebook: Codebook::new(vec![(threshold, 3), (9.0, 1)]).unwrap(),
        moreg: None,
    });
    Request { steps: STEPS, seed, cache, ..Request::new(pipeline(), prompt).unwrap() }
}

fn batch(requests: &[Request], deciding: Deciding) -> Vec<Generation> {
    pipeline().generate_batch(requests, deciding, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn single(request: &Request) -> Generation {
    pipeline().generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

const CALM: &str = "small white circle still slowly black";
const BUSY: &str = "large red square spinning fast checkerboard";

/// A threshold that tells the two apart, from what each measured with every step computed.
fn threshold() -> f64 {
    let change = |prompt| single(&request(prompt, 3, 1e-9)).report.decisions[1].distance;
    let (calm, busy) = (change(CALM), change(BUSY));
    assert!((calm - busy).abs() > 1e-3 * calm, "the two videos change alike: {calm} {busy}");
    (calm + busy) / 2.0
}

#[test]
fn videos_decided_one_by_one_are_what_they_are_alone() {
    let threshold = threshold();
    let requests = [request(CALM, 3, threshold), request(BUSY, 3, threshold)];
    let together = batch(&requests, Deciding::Apart);
    for (one, request) in together.iter().zip(&requests) {
        let alone = single(request);
        assert_eq!(one.latents.values, alone.latents.values, "to the bit");
        assert_eq!(one.frames, alone.frames);
        assert_eq!(one.report.computed_steps, alone.report.computed_steps);
        assert_eq!(one.report.decisions, alone.report.decisions);
        assert_eq!(one.trace, alone.trace);
        assert_eq!((one.report.videos, one.report.decided_together), (2, 1));
        assert_eq!(one.report.cache_bytes, 2 * alone.report.cache_bytes);
        assert_eq!(
            one.report.activation_bytes, alone.report.activation_bytes,
            "one after the other in the same memory"
        );
    }
    assert_ne!(together[0].report.computed_steps, together[1].report.computed_steps, "each on its own");
}

#[test]
fn videos_decided_together_share_the_published_joint_decision() {
    let requests = [request(CALM, 3, 0.05), request(BUSY, 3, 0.05)];
    let together = batch(&requests, Deciding::Together);
    assert_eq!(together[0].report.computed_steps, together[1].report.computed_steps);
    assert_eq!(together[0].report.decisions, together[1].report.decisions);
    assert_eq!((together[0].report.videos, together[0].report.decided_together), (2, 2));
    assert_ne!(together[0].latents.values, together[1].latents.values);
    // The first decision of the joint run is over the sums of both: between those of each alone.
    let alone: Vec<f64> = requests.iter().map(|r| single(r).report.decisions[0].distance).collect();
    let joint = together[0].report.decisions[0].distance;
    assert!(alone[0].min(alone[1]) <= joint && joint <= alone[0].max(alone[1]), "{joint} {alone:?}");
}

#[test]
fn a_batch_of_different_settings_is_refused() {
    let requests = [request(CALM, 3, 0.05), Request { steps: STEPS + 1, ..request(BUSY, 3, 0.05) }];
    let result = pipeline().generate_batch(&requests, Deciding::Apart, &mut |_| ControlFlow::Continue(()));
    assert!(result.unwrap_err().to_string().contains("differ"));
    assert!(batch(&[], Deciding::Together).is_empty());
}

#[test]
fn residuals_kept_in_8_bits_cost_little_and_say_how_much() {
    let whole = single(&request(CALM, 3, 8.0));
    let packed = single(&Request { packed_cache: true, ..request(CALM, 3, 8.0) });
    assert_eq!(whole.report.computed_steps, packed.report.computed_steps);
    assert!(packed.report.computed_steps.len() < STEPS, "something was reused");
    assert_eq!(whole.report.cache_error, None);
    // 3 bits of fraction: at most 1/16 off, some 2 % on average.
    let error = packed.report.cache_error.unwrap();
    assert!((0.005..0.04).contains(&error), "{error}");
    // A byte an element and 4 a row of 144, in place of two bytes.
    assert_eq!(packed.report.cache_bytes * 288, whole.report.cache_bytes * 148);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let (a, b) = (&whole.latents.values, &packed.latents.values);
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    let relative = difference / norm(&mut a.iter().map(|v| f64::from(*v)));
    println!("kept in 8 bits: relative error of the kept {error:.3e}, of the latents {relative:.3e}");
    assert!(relative > 0.0 && relative < 0.05, "{relative}");
    assert!(packed.report.summary().to_string().contains("in 8 bits (relative error"));
}
