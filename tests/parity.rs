//! The model and whole sampling runs against the published PyTorch code, in every element type.
//!
//! The cases lie in tests/goldens with the weights they were made with. f32 must agree to 1e-4 and compute exactly the same
//! steps; bf16 and f16 to 2e-2 on a forward, and compute the same steps. ADACACHE_LONG_TESTS=1 runs every rollout in every type;
//! otherwise the slow combinations are left out.

use std::path::{Path, PathBuf};

use adacache::check::{CheckResult, check};
use adacache::device::Device;
use adacache::tensor::DType;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(case)
}

fn run(case: &str, dtype: DType) -> CheckResult {
    // The GPU when there is one, the VM otherwise.
    let device = Device::open("auto").unwrap();
    check(&golden(case), &device, dtype).unwrap_or_else(|e| panic!("{case} {dtype}: {e}"))
}

fn passes(case: &str, dtype: DType) -> CheckResult {
    let result = run(case, dtype);
    println!("{case} {dtype}: {:.2e}, {:.2} s, {:?}", result.max_rel_err, result.seconds, result.errors);
    assert!(result.ok, "{case} {dtype}: {:?} (computed {:?})", result.reason, result.computed_steps);
    result
}

fn long() -> bool {
    std::env::var_os("ADACACHE_LONG_TESTS").is_some_and(|v| v != "0")
}

#[test]
fn forwards_agree_in_every_dtype() {
    for case in ["stdit3_a/forward_plain", "stdit3_a/forward_masked"] {
        for dtype in DType::COMPUTE {
            let result = passes(case, dtype);
            assert!(result.errors.len() >= 8, "the hidden state after every block is compared too");
        }
    }
}

/// The decisions themselves: distance, motion factor and gradient, not only the steps that follow from them.
fn decisions_agree(case: &str) {
    let result = passes(case, DType::F32);
    assert!(result.decisions.len() >= result.computed_steps.len() - 1);
    for (ours, theirs) in &result.decisions {
        assert_eq!(ours.step, theirs.step, "{case}");
        let pairs =
            [(ours.distance, theirs.cachediff), (ours.motion, theirs.moreg), (ours.motion_gradient, theirs.mograd)];
        for (a, b) in pairs {
            assert!(
                (a - b).abs() <= 1e-3 * b.abs().max(1e-2),
                "{case} step {}: {ours:?} instead of {theirs:?}",
                ours.step
            );
        }
    }
}

#[test]
fn rollout_fast() {
    decisions_agree("stdit3_a/rollout_fast30");
}

#[test]
fn rollout_slow() {
    decisions_agree("stdit3_a/rollout_slow30");
}

#[test]
fn rollout_with_motion_regularization() {
    decisions_agree("stdit3_a/rollout_fast30_moreg");
}

#[test]
fn rollout_on_the_spatial_residual() {
    decisions_agree("stdit3_a/rollout_spatial_metric");
}

#[test]
fn rollout_on_four_mlp_probes() {
    decisions_agree("stdit3_a/rollout_mlp_metric_two_blocks");
}

#[test]
fn rollout_of_100_steps() {
    decisions_agree("stdit3_a/rollout_100");
}

#[test]
fn rollout_of_100_steps_with_two_strides() {
    decisions_agree("stdit3_a/rollout_100_moreg_strides");
}

#[test]
fn rollouts_in_half_precision() {
    let mut cases = vec!["stdit3_a/rollout_fast30", "stdit3_a/rollout_fast30_moreg"];
    if long() {
        cases.extend([
            "stdit3_a/rollout_slow30",
            "stdit3_a/rollout_spatial_metric",
            "stdit3_a/rollout_mlp_metric_two_blocks",
        ]);
        cases.extend(["stdit3_a/rollout_100", "stdit3_a/rollout_100_moreg_strides"]);
    }
    for case in cases {
        for dtype in [DType::Bf16, DType::F16] {
            passes(case, dtype);
        }
    }
}

#[test]
fn sprites_rollout() {
    decisions_agree("sprites_a/rollout_fast_still");
    passes("sprites_a/rollout_fast_bounce", DType::Bf16);
}

#[test]
fn sprites_rollouts_in_full() {
    if !long() {
        return;
    }
    for case in ["rollout_fast_bounce", "rollout_fast_moreg_orbit", "rollout_slow_left"] {
        decisions_agree(&format!("sprites_a/{case}"));
    }
    for case in ["rollout_fast_still", "rollout_fast_moreg_orbit", "rollout_slow_left"] {
        passes(&format!("sprites_a/{case}"), DType::Bf16);
        passes(&format!("sprites_a/{case}"), DType::F16);
    }
}

#[test]
fn one_seed_gives_the_same_bits() {
    let latents = || run("stdit3_a/rollout_fast30", DType::Bf16).errors;
    assert_eq!(latents(), latents());
}
