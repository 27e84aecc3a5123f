//! `adacache replay`: a recorded trace through every policy.

use std::fs;

use serde_json::Value;

use crate::common::text;
use crate::{PROMPT, adacache, fails, succeeds};

/// A run that computes every step records what every preset of the model wants to know, those of its own included.
#[test]
fn a_trace_is_replayed_by_every_preset() {
    let dir = tempfile::tempdir().unwrap();
    let run = ["generate", PROMPT, "--steps", "8", "--cache", "none", "--trace", "t.jsonl", "--out", "x.safetensors"];
    succeeds(dir.path(), &run);
    let caches = "none,adacache-fast,teacache-slow,fbcache,easycache,magcache-slow,interval-3,pab,delta-dit,t-gate,interval-3+taylor2";
    let replayed = succeeds(dir.path(), &["replay", "t.jsonl", "--cache", caches, "--json"]);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    let computed: Vec<&Value> = replayed.as_array().unwrap().iter().map(|one| &one["computed_steps"]).collect();
    assert_eq!(computed.len(), 11);
    assert_eq!(computed[0], &serde_json::json!([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(computed[6], &serde_json::json!([1, 4, 7]));
    assert_eq!(computed[10], computed[6], "extrapolation changes no decision");
    // Steps 1 to 4 of 8 are before the gate.
    assert_eq!(computed[9], &serde_json::json!([1, 2, 3, 4]));
    assert_eq!(replayed[9]["partial_steps"], serde_json::json!([5, 6, 7, 8]));
    // Every one that `presets` lists, as it is named there; and with what may stand behind AdaCache's.
    let presets: Value = serde_json::from_slice(&succeeds(dir.path(), &["presets", "--json"]).stdout).unwrap();
    let listed = presets["presets"].as_array().unwrap().iter().map(|preset| preset["name"].as_str().unwrap());
    let all: Vec<String> = listed.filter(|name| *name != "fewer-N").map(|name| name.replace("-N", "-3")).collect();
    assert!(all.iter().any(|name| name == "calibrated-2.2x") && all.len() == 15, "{all:?}");
    let all = format!("{},calibrated-2.2x+moreg,adacache-slow+moreg+taylor", all.join(","));
    let replayed = succeeds(dir.path(), &["replay", "t.jsonl", "--cache", &all, "--json"]);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert!(replayed.as_array().unwrap().iter().all(|one| one["computed_steps"][0] == 1), "{replayed}");

    // One that refuses hides no other.
    fs::write(dir.path().join("b1.toml"), "policy = 'adacache'\nblocks = [1]\ncodebook = [[0.1, 2]]").unwrap();
    let three = ["replay", "t.jsonl", "--cache", "interval-3,b1.toml,fewer-4,calibrated-2.2x"];
    let output = adacache(dir.path(), &three);
    let (people, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(people.contains("interval-3  ") && people.contains("calibrated-2.2x  █"), "{people}");
    assert!(errors.contains("cannot replay `b1.toml`") && errors.contains("`temporal.1.attention`"), "{errors}");
    assert!(errors.contains("`fewer-4` runs another number of steps"), "{errors}");
    let output = adacache(dir.path(), &[&three[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), json.as_array().unwrap().len()), (Some(1), 4));
    assert!(json[1]["error"].as_str().unwrap().contains("temporal.1") && json[3]["computed_steps"][0] == 1, "{json}");

    let people = text(&succeeds(dir.path(), &["replay", "t.jsonl", "--moreg", "--decisions"]).stdout);
    assert!(people.contains("adacache-fast  █") && people.contains("motion factor"), "{people}");
    let ratios = text(&succeeds(dir.path(), &["replay", "t.jsonl", "--ratios"]).stdout);
    assert!(ratios.starts_with("ratios = [") && ratios.matches(',').count() == 6, "{ratios}");

    succeeds(dir.path(), &["generate", PROMPT, "--steps", "8", "--trace", "own.jsonl", "--out", "y.safetensors"]);
    fails(dir.path(), &["replay", "own.jsonl", "--cache", "teacache-fast"], 1, &["modulated", "--cache none"]);
    fails(dir.path(), &["replay", "t.jsonl", "--cache", "fewer-4"], 1, &["fewer-4", "another number of steps"]);
    fails(dir.path(), &["replay", "no.jsonl"], 1, &["no.jsonl"]);
    fs::write(dir.path().join("bad.jsonl"), "{}").unwrap();
    fails(dir.path(), &["replay", "bad.jsonl"], 1, &["bad.jsonl", "line 1", "steps"]);
}
