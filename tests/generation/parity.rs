//! The model and whole sampling runs against the published PyTorch code, in every element type.
//!
//! The cases lie in tests/goldens with the weights they were made with. f32 must agree to 1e-4 and compute exactly the same
//! steps; bf16 and f16 to 2e-2 on a forward, and compute the same steps wherever no decision lies
//! closer to a threshold than their rounding.

use std::path::{Path, PathBuf};

use adacache::check::{CheckResult, check};
use adacache::tensor::DType;

/// From the root of the repository, where cargo runs tests; tools/gpu_first.sh does on machines without cargo.
fn golden(case: &str) -> PathBuf {
    Path::new("tests/goldens").join(case)
}

fn run(case: &str, dtype: DType) -> CheckResult {
    // ADACACHE_DEVICE=vm:checked runs the whole models under the checks.
    check(&golden(case), &crate::common::device(), dtype).unwrap_or_else(|e| panic!("{case} {dtype}: {e}"))
}

fn passes(case: &str, dtype: DType) -> CheckResult {
    let result = run(case, dtype);
    println!("{case} {dtype}: {:.2e}, {:.2} s, {:?}", result.max_rel_err, result.seconds, result.errors);
    assert!(result.ok, "{case} {dtype}: {:?} (computed {:?})", result.reason, result.computed_steps);
    result
}

#[test]
fn forwards_agree_in_every_dtype() {
    for case in ["stdit3_a/forward_plain", "stdit3_a/forward_masked"] {
        for dtype in DType::COMPUTE {
            let result = passes(case, dtype);
            assert!(result.errors.len() >= 3, "hidden states are compared too");
        }
    }
}

/// Wan with a time for every frame: the first frame is held at time 0. Both captions end in padding.
#[test]
fn a_forward_of_wan_agrees_in_every_dtype() {
    for dtype in DType::COMPUTE {
        assert_eq!(passes("wan22_ti2v_a/forward_token_t", dtype).errors.len(), 3);
    }
}

/// Wan with a given picture: the first latent frame is held while UniPC moves the others.
#[test]
fn a_rollout_of_wan_from_a_picture_agrees_in_every_dtype() {
    for dtype in DType::COMPUTE {
        let result = passes("wan22_ti2v_a/rollout_image", dtype);
        // Times and noise levels, and the latents after three steps.
        assert_eq!(result.errors.len(), 5);
    }
}

/// Open-Sora-Plan on a grid that is not the native one: two samples, each with a time of its own.
#[test]
fn a_forward_of_open_sora_plan_agrees_in_every_dtype() {
    for dtype in DType::COMPUTE {
        // The prediction and the embedded latents.
        assert_eq!(passes("osp_a/forward_b2_sizes", dtype).errors.len(), 2);
    }
}

/// PNDM in 20 steps, 29 calls: AdaCache with motion regularization measures the first temporal block.
#[test]
fn a_rollout_of_open_sora_plan_with_adacache_agrees() {
    let result = passes("osp_a/rollout_ada_moreg_20", DType::F32);
    assert_eq!((result.errors.len(), result.computed_steps.len()), (9, 11));
}

/// PNDM in 150 steps, 159 calls, with PAB: the frames' positions are added where the first temporal block's attention is reused, too.
#[test]
fn a_rollout_of_open_sora_plan_with_pab_agrees() {
    let result = passes("osp_a/rollout_pab_150", DType::F32);
    assert_eq!((result.errors.len(), result.computed_steps.len()), (10, 39));
}

/// T5 v1.1 with one table of biases and umT5 with one a block, on prompts of several lengths: the end and the tokens after every block.
#[test]
fn text_encoders_agree_in_every_dtype() {
    for case in ["t5_a/padded", "umt5_a/padded"] {
        for dtype in DType::COMPUTE {
            assert!(passes(case, dtype).errors.len() >= 2, "{case}");
        }
    }
}

/// Encoder, temporal decoder and the whole decoder of the video autoencoder; a chunk of 17 frames and one of 5.
#[test]
fn video_autoencoder_agrees_in_every_dtype() {
    for dtype in DType::COMPUTE {
        assert_eq!(passes("opensora_vae_a", dtype).errors.len(), 3);
    }
}

/// Wan's autoencoders, 2.1 with the published names and 2.2 with those of diffusers: channels that are no multiples of 8, several chunks.
#[test]
fn wan_autoencoders_agree_in_every_dtype() {
    for case in ["wan_vae_21", "wan_vae_22"] {
        for dtype in DType::COMPUTE {
            let result = passes(case, dtype);
            assert_eq!(result.errors.len(), 2);
            assert!(dtype != DType::F32 || result.max_rel_err < 1e-5, "{:?}", result.errors);
        }
    }
}

/// Latte's decoder of videos: blocks over the frames behind those of images, a chunk of 14 frames and one of 2.
#[test]
fn the_decoder_of_latte_agrees_in_every_dtype() {
    for dtype in DType::COMPUTE {
        let result = passes("latte_vae/decode", dtype);
        assert!(dtype != DType::F32 || result.max_rel_err < 1e-5, "{:?}", result.errors);
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
    for case in ["rollout_fast30", "rollout_fast30_moreg", "rollout_slow30", "rollout_100", "rollout_100_moreg_strides"]
    {
        for dtype in [DType::Bf16, DType::F16] {
            passes(&format!("stdit3_a/{case}"), dtype);
        }
    }
}

#[test]
fn other_probes_in_half_precision() {
    for case in ["rollout_spatial_metric", "rollout_mlp_metric_two_blocks"] {
        for dtype in [DType::Bf16, DType::F16] {
            passes(&format!("stdit3_a/{case}"), dtype);
        }
    }
}

#[test]
fn one_seed_gives_the_same_bits() {
    let latents = || run("stdit3_a/rollout_fast30", DType::Bf16).errors;
    assert_eq!(latents(), latents());
}
