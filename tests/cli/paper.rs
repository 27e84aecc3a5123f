//! `adacache paper`: the tables of AdaCache's paper beside the same runs here.

use std::fs;

use serde_json::Value;

use crate::common::{command, text};
use crate::{PROMPT, fails, succeeds};

#[test]
fn the_first_table_without_weights() {
    let dir = tempfile::tempdir().unwrap();
    let table = text(&succeeds(dir.path(), &["paper"]).stdout);
    for part in ["Open-Sora 1.2, 51 frames of 480p", "Open-Sora-Plan 1.1", "Latte-1", "720p", "419.60", "AdaCache slow"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let args = ["paper", "--system", "latte", "--steps", "20", "--json", "--out", "p"];
    let json: Value = serde_json::from_slice(&succeeds(dir.path(), &args).stdout).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(dir.path().join("p/paper.json")).unwrap()).unwrap();
    assert_eq!(json, kept);
    // The paper's figures are of 50 steps.
    let lines = json["tables"][0]["lines"].as_array().unwrap();
    assert!(lines.len() == 8 && lines.iter().all(|line| line["published"]["tflop"].is_null()), "{lines:?}");
    fails(dir.path(), &["paper", "--system", "lattice"], 1, &["lattice", "latte"]);
    fails(dir.path(), &["paper", "--run"], 2, &["--prompts", "--out"]);
    fails(dir.path(), &["paper", "--system", "latte,latte"], 1, &["two systems are called `latte`"]);
    fails(dir.path(), &["paper", "--system", "latte", "--steps", "2000"], 1, &["2000"]);
}

#[test]
fn tables_are_generated_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("{PROMPT}\n")).unwrap();
    let args = ["paper", "--system", "sprites", "--steps", "6", "--run", "--prompts", "p.txt", "--out", "t"];
    let table = text(&succeeds(dir.path(), &args).stdout);
    assert!(table.contains("measured: 1 prompts") && table.contains("AdaCache fast, at the most"), "{table}");
    let read = || -> Value { serde_json::from_slice(&fs::read(dir.path().join("t/paper.json")).unwrap()).unwrap() };
    let first = read();
    let summaries = first["tables"][0]["measured"]["summaries"].as_array().unwrap();
    assert_eq!((summaries.len(), &summaries[0]["cache"], &summaries[0]["equal"]), (8, &"none".into(), &1.into()));
    assert!(summaries.iter().skip(1).all(|summary| summary["compute"]["mean"].as_f64().unwrap() <= 1.0));
    // Runs are kept.
    let run = fs::read_dir(dir.path().join("t/sprites/runs")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(run.join("t-gate/report.json")).unwrap();
    succeeds(dir.path(), &args);
    let again = read();
    let quality = |results: &Value| -> Vec<Value> {
        let summaries = results["tables"][0]["measured"]["summaries"].as_array().unwrap();
        summaries.iter().map(|summary| summary["psnr"].clone()).collect()
    };
    assert_eq!(quality(&again), quality(&first));
}

/// With a stand-in for the package's command, twice into one folder.
#[cfg(unix)]
#[test]
fn vbench_scores_the_runs() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("vbench"), crate::measure::VBENCH).unwrap();
    fs::set_permissions(bin.join("vbench"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let args =
        ["paper", "--system", "sprites", "--steps", "2", "--run", "--prompts", "p.txt", "--out", "t", "--vbench"];
    let run = |path: &str| command(dir.path(), &args).env("PATH", path).output().unwrap();
    let output = run("/nowhere");
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("pip install vbench"), "{output:?}");
    assert!(!dir.path().join("t").exists(), "told before anything runs");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for _ in 0..2 {
        let output = run(&path);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("VBench, adacache-fast: dynamic_degree"), "{}", text(&output.stdout));
    }
    let results: Value = serde_json::from_slice(&fs::read(dir.path().join("t/paper.json")).unwrap()).unwrap();
    assert_eq!(results["tables"][0]["measured"]["vbench"].as_object().unwrap().len(), 8);
}

#[test]
fn variants_are_generated_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("{PROMPT}\n")).unwrap();
    let args = ["paper", "--ablation", "--system", "sprites", "--steps", "5"];
    let plain = text(&succeeds(dir.path(), &args).stdout);
    assert!(
        plain.contains("fast (as it is)") && plain.contains("metric-cosine") && !plain.contains("measured"),
        "{plain}"
    );
    let args = [&args[..], &["--run", "--prompts", "p.txt", "--out", "t"]].concat();
    let table = text(&succeeds(dir.path(), &args).stdout);
    assert!(table.contains("measured: 1 prompts"), "{table}");
    let results: Value = serde_json::from_slice(&fs::read(dir.path().join("t/paper.json")).unwrap()).unwrap();
    let table = &results["tables"][0];
    let variants = table["variants"].as_array().unwrap();
    // Every variant, and every step computed, which they are measured against.
    assert_eq!(table["measured"]["summaries"].as_array().unwrap().len(), variants.len() + 1);
}
