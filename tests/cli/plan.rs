//! `adacache plan`, of a size and of a recorded trace.

use std::fs;

use serde_json::Value;

use crate::common::text;
use crate::{PROMPT, fails, succeeds};

#[test]
fn a_plan_counts_and_calls_its_seconds_modelled() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "plan",
        "--model",
        "opensora-v1.2",
        "--resolution",
        "720p",
        "--frames",
        "51",
        "--steps",
        "100",
        "--gpu",
        "a100",
    ];
    let people = text(&succeeds(dir.path(), &args).stdout);
    for part in ["2 × 15 × 3600 tokens", "419.60 s published", "89.53 s published", "modelled", "assumed, not measured"]
    {
        assert!(people.contains(part), "`{part}` is missing in:\n{people}");
    }
    let json =
        succeeds(dir.path(), &[&args[..], &["--json", "--computed", "21", "--efficiency", "linear=0.5"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["tokens"], serde_json::json!([15, 3600]));
    assert_eq!(json["totals"][1]["computed_steps"], 21);
    assert_eq!(json["efficiency"]["linear"]["origin"], "given with --efficiency");
    assert!(json["memory"]["peak"].as_u64().unwrap() < 24 << 30);
    let json = succeeds(dir.path(), &[&args[..], &["--json", "--vram-budget", "3.5GiB"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let (blocks, least) = (json["streamed_blocks"].as_u64().unwrap(), json["memory"]["least"].as_u64().unwrap());
    let needs = &json["memory"]["needs"];
    let block = needs["block"].as_u64().unwrap();
    assert!((1..=56).contains(&blocks) && json["streamed_weight_bytes"].as_u64() == Some(blocks * block), "{needs}");
    // Two slots for the streamed ones beside those that stay; one block more would not fit.
    let taken = least + (56 - blocks) * block;
    let budget = 7 << 29;
    assert!(taken <= budget && taken + block > budget, "{taken}");
    for (args, part) in [
        (&["--resolution", "9p"][..], "known: 240p"),
        (&["--aspect", "7:3"], "9:16"),
        (&["--frames", "0"], "1 to 408"),
        (&["--vram-budget", "1GiB"], "activations of a step"),
        (&["--size", "720"], "HEIGHTxWIDTH"),
        (&["--computed", "101"], "101 computed steps of 30"),
        (&["--efficiency", "linear=2"], "at most 1"),
        (&["--trace", "none.jsonl"], "none.jsonl"),
        (&["--dtype", "f32"], "reference mode"),
        (&["--cache", "no.toml"], "no.toml"),
    ] {
        fails(dir.path(), &[&["plan", "--model", "opensora-v1.2"], args].concat(), 1, &[part]);
    }
    fails(dir.path(), &["plan", "--gpu", "gt730"], 2, &["a100"]);
    for cache in ["t-gate", "pab", "fewer-10", "none"] {
        let args = ["plan", "--model", "latte-1", "--cache", cache, "--computed", "3"];
        fails(dir.path(), &args, 1, &["does not depend on what it measures"]);
    }
    for videos in ["0", "100000000"] {
        fails(dir.path(), &["plan", "--videos", videos], 2, &["--videos"]);
    }
    // The size that the model has anyway.
    let sized = text(&succeeds(dir.path(), &["plan", "--model", "latte-1", "--size", "512x512"]).stdout);
    assert!(sized.contains("32.45 s published") && sized.contains("decoding, afterwards"), "{sized}");
    let other = text(&succeeds(dir.path(), &["plan", "--model", "latte-1", "--size", "256x256"]).stdout);
    assert!(!other.contains("published"), "{other}");
    // Nothing said: what `generate` does where nothing is said.
    let json: Value = serde_json::from_slice(&succeeds(dir.path(), &["plan", "--json"]).stdout).unwrap();
    assert_eq!((&json["model"], &json["steps"], &json["dtype"]), (&"sprites".into(), &30.into(), &"bf16".into()));
    let json = succeeds(dir.path(), &["plan", "--model", "opensora-v1.2", "--json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["latent"], &json["steps"]), (&serde_json::json!([15, 30, 53]), &30.into()));
}

/// A recorded trace gives the plan of the run that recorded it.
#[test]
fn a_plan_follows_a_recorded_trace() {
    let dir = tempfile::tempdir().unwrap();
    let run =
        ["generate", PROMPT, "--steps", "8", "--trace", "t.jsonl", "--report", "r.json", "--out", "x.safetensors"];
    succeeds(dir.path(), &run);
    let report: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
    let plan = succeeds(dir.path(), &["plan", "--model", "sprites", "--steps", "8", "--trace", "t.jsonl", "--json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["totals"][1]["computed_steps"], report["computed_steps"].as_array().unwrap().len());
    assert_eq!(plan["memory"]["cache"], report["cache_bytes"]);
    assert_eq!(plan["memory"]["cache_unfolded"], report["cache_bytes_unfolded"]);
}

/// Products of e4m3 on an H100: half the bytes of the blocks' weights, and at the assumed share of the doubled peak less time; on an A100 there are none.
#[test]
fn a_plan_prices_products_in_8_bits() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["plan", "--model", "wan2.1-t2v-1.3b", "--cache", "none", "--json", "--gpu"];
    let plan = |more: &[&str]| -> Value {
        serde_json::from_slice(&succeeds(dir.path(), &[&args[..], more].concat()).stdout).unwrap()
    };
    let (whole, fp8) = (plan(&["h100"]), plan(&["h100", "--fp8-weights"]));
    let number = |plan: &Value, path: &str| plan.pointer(path).and_then(Value::as_f64).unwrap();
    let ratio = |path: &str| number(&fp8, path) / number(&whole, path);
    assert!((0.5..0.6).contains(&ratio("/memory/weights")), "{}", ratio("/memory/weights"));
    assert_eq!(ratio("/computed_step/flops"), 1.0);
    // The products alone: their family is the first.
    let linear = ratio("/computed_step/families/0/modelled_seconds");
    let expected = 0.7 / (2.0 * number(&fp8, "/efficiency/wgmma_fp8/value"));
    assert!((linear / expected - 1.0).abs() < 0.05, "{linear} {expected}");
    assert!((0.5..0.97).contains(&ratio("/computed_step/modelled_seconds")));
    let faster = plan(&["h100", "--fp8-weights", "--efficiency", "wgmma_fp8=0.9"]);
    assert!(number(&faster, "/computed_step/modelled_seconds") < number(&fp8, "/computed_step/modelled_seconds"));
    let a100 = ["plan", "--model", "wan2.1-t2v-1.3b", "--fp8-weights", "--gpu"];
    fails(dir.path(), &[&a100[..], &["a100"]].concat(), 1, &["--fp8-weights needs a Hopper", "A100", "8.0"]);
    fails(dir.path(), &[&a100[..], &["h100", "--efficiency", "wgmma_fp8=1.1"]].concat(), 1, &["of 8 bits"]);
}
