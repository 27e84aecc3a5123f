//! `adacache replay`: a recorded trace through every policy.

use std::fs;

use serde_json::Value;

use crate::common::text;
use crate::{PROMPT, fails, succeeds};

/// A run that computes every step records what every policy wants to know.
#[test]
fn a_trace_is_replayed_by_every_policy() {
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
