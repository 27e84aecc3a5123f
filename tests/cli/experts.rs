//! Wan 2.2 A14B on the command line, with a small repository of two experts.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{changed_weights, copy_all, names, text};
use crate::wan::{inputs, lora, repository_in_tests, tokenizer};
use crate::{fails, succeeds};

const MODEL: &str = "wan2.2-t2v-a14b";

/// The repository with a second expert and a boundary of its own, in the layout of the published one.
fn repository(folder: &Path) {
    let repository = folder.join("files/Wan2.2-T2V-A14B-Diffusers");
    copy_all(&repository_in_tests(), &repository);
    copy_all(&repository.join("transformer"), &repository.join("transformer_2"));
    changed_weights(&repository.join("transformer_2"), 0.2);
    fs::write(repository.join("model_index.json"), r#"{ "boundary_ratio": 0.9 }"#).unwrap();
}

fn latents(path: &Path) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor("latents").unwrap().data().to_vec()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn two_experts_from_a_pull_to_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    repository(folder);
    inputs(folder);
    succeeds(folder, &["pull", MODEL, "--from", "files", "--dir", "models"]);
    let pulled = folder.join("models").join(MODEL);
    assert_eq!(names(&pulled), ["model_index.json", "text", "transformer", "transformer_2", "vae"]);
    let model = format!("models/{MODEL}");
    let args = [
        "generate",
        "--model",
        &model,
        "a cat",
        "--embeddings",
        "prompt.safetensors",
        "--negative-embeddings",
        "negative.safetensors",
        "--steps",
        "10",
    ];
    let size = ["--size", "32x32", "--frames", "1", "--max-sequence-length", "24", "--dtype", "f32"];
    let run = |out: &str, more: &[&str]| {
        let output = succeeds(folder, &[&args[..], &size, &["--cache", "interval-4", "--out", out], more].concat());
        (latents(&folder.join(out)), text(&output.stdout))
    };
    let files = ["--report", "r.json", "--trace", "t.jsonl", "--profile", "p.json"];
    let (plain, told) = run("a.safetensors", &files);
    // 12u/(1 + 11u) ≥ 0.9 for u = 1, 0.9, … 0.5.
    assert!(told.contains("experts   high-noise steps 1-6, low-noise steps 7-10"), "{told}");
    let report = read(&folder.join("r.json"));
    assert_eq!(report["computed_steps"], json!([1, 5, 7]));
    assert_eq!(report["cfg_scale"], json!([4.0, 3.0]));
    let stages = json!([{ "expert": "high-noise", "steps": 6 }, { "expert": "low-noise", "steps": 4 }]);
    assert_eq!(report["stages"], stages);
    assert_eq!(report["settings"]["sampling"]["boundary"], 0.9);
    let profile = fs::read_to_string(folder.join("p.json")).unwrap();
    assert!(profile.contains("step 6 reused, high-noise") && profile.contains("step 7 computed, low-noise"));
    let trace = fs::read_to_string(folder.join("t.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(trace.lines().next().unwrap()).unwrap()["stages"], stages);
    let replay = ["replay", "t.jsonl", "--model", &model, "--cache", "interval-4", "--json"];
    let replayed: Value = serde_json::from_slice(&succeeds(folder, &replay).stdout).unwrap();
    assert_eq!(replayed[0]["computed_steps"], json!([1, 5, 7]));
    // The report repeats it, both scales included; one scale is for both experts.
    succeeds(folder, &["generate", "--like", "r.json", "--out", "b.safetensors"]);
    assert!(latents(&folder.join("b.safetensors")) == plain);
    assert!(run("c.safetensors", &["--cfg-scale", "4,3"]).0 == plain);
    assert!(run("d.safetensors", &["--cfg-scale", "4"]).0 != plain);
    // A LoRA is of both experts, or of the one that is named.
    lora(&folder.join("l.safetensors"), ["blocks.1.ffn.0.lora_A.weight", "blocks.1.ffn.0.lora_B.weight"]);
    let with = |out: &str, lora: &str| run(out, &["--lora", lora]).0;
    let both = with("e.safetensors", "l.safetensors");
    let [high, low] = ["high-noise", "low-noise"]
        .map(|expert| with(&format!("{expert}.safetensors"), &format!("l.safetensors@{expert}")));
    assert!(both != plain && high != plain && low != plain && high != low && high != both && low != both);
    let refused = |more: &[&str], parts: &[&str]| fails(folder, &[&args[..], &size, more].concat(), 1, parts);
    refused(&["--lora", "l.safetensors@middle"], &["no expert has this name", "high-noise and low-noise"]);
    let models = text(&succeeds(folder, &["models", "--dir", "models"]).stdout);
    assert!(models.contains("transformer_2/config.json") && models.contains("with both experts"), "{models}");
    fs::remove_dir_all(pulled.join("transformer_2")).unwrap();
    refused(&[], &["missing expert", "low-noise", "transformer_2/config.json", "--from DIR"]);
}

/// A tokenizer for [`repository`], and two prompts.
fn prompts(folder: &Path) {
    let tokenizers = folder.join("files/Wan2.2-T2V-A14B-Diffusers/tokenizer");
    fs::create_dir_all(&tokenizers).unwrap();
    fs::write(tokenizers.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    fs::write(folder.join("p.txt"), "a cat runs\na dog sits\n").unwrap();
}

const SMALL: [&str; 6] = ["--model", "files/Wan2.2-T2V-A14B-Diffusers", "--size", "32x32", "--frames", "5"];

#[test]
fn experts_that_do_not_fit_together_say_when_they_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    repository(folder);
    prompts(folder);
    let run = |more: &[&str]| {
        let args = [&["generate", "--prompts", "p.txt", "--steps", "4", "--cache", "none"][..], &SMALL].concat();
        text(&succeeds(folder, &[&args[..], more].concat()).stderr)
    };
    let (warning, low, high) =
        ("--batch N makes N videos", "loading the low-noise expert", "loading the high-noise expert");
    let told = run(&["--out", "c/{}.safetensors", "--report", "r.json"]);
    assert!(!told.contains(warning) && told.matches(low).count() == 1, "{told}");
    // Half an expert too little for both.
    let report = &read(&folder.join("r.json"))[0];
    let bytes = |name: &str| report[name].as_u64().unwrap();
    let budget = bytes("peak_device_bytes") - bytes("resident_weight_bytes") / 4;
    let budget = ["--vram-budget", &format!("{}MB", budget as f64 / 1e6)];
    let told = run(&[&budget[..], &["--out", "a/{}.safetensors"]].concat());
    let count = |words: &str| told.matches(words).count();
    // The first is there before the first run.
    assert_eq!((count(warning), count(low), count(high)), (1, 2, 1), "{told}");
    let told = run(&[&budget[..], &["--out", "b/{}.safetensors", "--batch", "2"]].concat());
    assert!(!told.contains(warning) && told.matches(low).count() == 1, "{told}");
}

#[test]
fn policies_are_compared_and_calibrated_for_two_experts() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    repository(folder);
    prompts(folder);
    let settings = [&SMALL[..], &["--prompts", "p.txt", "--steps", "16", "--dtype", "f32"]].concat();
    succeeds(folder, &[&["compare", "--out", "o", "--cache", "adacache-fast,interval-4"][..], &settings].concat());
    let results = read(&folder.join("o/results.json"));
    assert_eq!((&results["cfg_scale"], &results["runs"][2]["cache"]), (&json!([4.0, 3.0]), &json!("interval-4")));
    // 12u/(1 + 11u) ≥ 0.9 for u = 1, 15/16, … 7/16: every fourth of the first ten, and of the last six.
    assert_eq!(results["runs"][2]["computed_steps"], json!([1, 5, 9, 11, 15]));
    // Where none is named, those that nothing was published for are left out.
    let usual = succeeds(folder, &[&["compare", "--out", "u"][..], &settings].concat());
    let (told, table) = (text(&usual.stderr), text(&usual.stdout));
    assert!(told.contains("magcache-slow is left out") && table.contains("teacache-fast"), "{told}{table}");
    let calibrate = ["calibrate", "--target-speedup", "1.3", "--out", "c.toml", "--verify", "2", "--rounds", "12"];
    let told = text(&succeeds(folder, &[&calibrate[..], &settings].concat()).stdout);
    assert!(told.contains("guidance 4,3") && told.contains("achieved   speed-up"), "{told}");
    // The file serves `generate`, where each expert begins anew.
    let run = ["generate", "a cat runs", "--cache", "c.toml", "--out", "x.safetensors", "--report", "r.json"];
    succeeds(folder, &[&run[..], &SMALL, &["--steps", "16", "--dtype", "f32"]].concat());
    let report = read(&folder.join("r.json"));
    let high = report["stages"][0]["steps"].as_u64().unwrap();
    let computed: Vec<u64> = serde_json::from_value(report["computed_steps"].clone()).unwrap();
    assert!(computed.contains(&1) && computed.contains(&(high + 1)) && computed.len() < 16, "{computed:?}");
}

/// The published shapes: 14.3 billion parameters an expert, and the operations of T2V-14B.
#[test]
fn a_plan_counts_both_experts() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["plan", "--model", MODEL, "--cache", "none", "--gpu", "h100"];
    let people = text(&succeeds(dir.path(), &args).stdout);
    for part in ["high-noise expert: steps 1 to 26, guidance 4", "low-noise expert: steps 27 to 40, guidance 3"] {
        assert!(people.contains(part), "`{part}` is missing in:\n{people}");
    }
    let plan: Value = serde_json::from_slice(&succeeds(dir.path(), &[&args[..], &["--json"]].concat()).stdout).unwrap();
    let bytes = |name: &str| plan["memory"][name].as_u64().unwrap();
    // Two bytes a parameter, and the tables in four.
    let weights = bytes("weights");
    assert!((28_576_983_168..28_600_000_000).contains(&weights), "{weights}");
    assert_eq!(bytes("together"), bytes("resident") + weights);
    assert!(bytes("least") < bytes("resident") && bytes("peak") < bytes("resident"));
    let flops = plan["computed_step"]["flops"].as_f64().unwrap() / 2.0;
    assert!((flops / 1.676e15 - 1.0).abs() < 0.005, "{flops}");
    assert_eq!((&plan["totals"][0]["computed_steps"], &plan["memory"]["needs"]["experts"]), (&json!(40), &json!(2)));
    // Guidance of one scale each, and the published cache.
    let more = ["--cfg-scale", "4,1", "--cache", "magcache-fast", "--json"];
    let plan = succeeds(dir.path(), &[&["plan", "--model", MODEL][..], &more].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let total = |i: usize| plan["totals"][i]["modelled_seconds"].as_f64().unwrap();
    assert!(plan["totals"][1]["schedule"] == "the policy's own" && total(1) < total(0), "{plan}");
    fails(dir.path(), &["plan", "--model", "wan2.1-t2v-14b", "--cfg-scale", "4,3"], 1, &["give one scale"]);
}
