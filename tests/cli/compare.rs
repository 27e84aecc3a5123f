//! `adacache compare`: policies on the same prompts, resumed.

use std::fs;

use serde_json::Value;

use crate::common::{names, text};
use crate::{PROMPT, fails, succeeds};

#[test]
fn policies_are_compared_and_a_stopped_comparison_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("# two\n{PROMPT}\n\nsmall white circle still slowly black\n")).unwrap();
    fs::write(dir.path().join("mine.toml"), "policy = 'interval'\nevery = 4\n").unwrap();
    let args = [
        "compare",
        "--prompts",
        "p.txt",
        "--cache",
        "interval-2,mine.toml,fewer-2,t-gate",
        "--steps",
        "4",
        "--out",
        "o",
    ];
    let table = text(&succeeds(dir.path(), &args).stdout);
    assert!(table.contains("interval-2") && table.contains("PSNR"), "{table}");
    let results =
        || -> Value { serde_json::from_slice(&fs::read(dir.path().join("o/results.json")).unwrap()).unwrap() };
    let first = results();
    // A run of it brings its work to `measure`.
    let prompt = fs::read_dir(dir.path().join("o/runs")).unwrap().next().unwrap().unwrap().path();
    let run = |name: &str| prompt.join(name).to_string_lossy().into_owned();
    let people = text(&succeeds(dir.path(), &["measure", &run("none"), &run("interval-2")]).stdout);
    assert!(people.contains("operations  ") && people.contains("latency  "), "{people}");
    let runs = first["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 10);
    assert!(
        runs[0]["cache"] == "none"
            && runs[0]["psnr"] == 60.0
            && runs[0]["equal_frames"] == runs[0]["frames"]
            && runs[0]["compute"] == 1.0
    );
    assert_eq!(
        (&runs[1]["computed_steps"], &runs[2]["computed_steps"]),
        (&serde_json::json!([1, 3]), &serde_json::json!([1]))
    );
    let compute: Vec<f64> = runs.iter().map(|r| r["compute"].as_f64().unwrap()).collect();
    assert_eq!((&runs[4]["cache"], &runs[4]["partial_steps"]), (&"t-gate".into(), &serde_json::json!([3, 4])));
    // Behind the gate half of the batch runs, without cross-attention.
    assert!(compute[4] > 0.68 && compute[4] < 0.74, "{compute:?}");
    assert!((compute[3] - 0.5).abs() < 1e-9 && compute[1] > 0.5 && compute[2] < compute[1], "{compute:?}");
    assert!(runs[1]["psnr"].as_f64().unwrap() > 5.0 && runs[1]["latents_relative_l2"].as_f64().unwrap() > 0.0);
    assert_eq!(first["summaries"][1]["runs"], 2);
    let csv = fs::read_to_string(dir.path().join("o/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 11);
    assert!(csv.contains(",4,2,CCpp,"), "{csv}");
    let page = fs::read_to_string(dir.path().join("o/index.html")).unwrap();
    assert_eq!(page.matches("\"strip\":\"iVBORw0KGgo").count(), 10, "a PNG for each run");

    // One run is lost: only that one is made again, and everything comes out as it was.
    let lost = dir.path().join("o/runs").join(names(&dir.path().join("o/runs"))[0].clone()).join("mine");
    let kept = dir.path().join("o/runs").join(names(&dir.path().join("o/runs"))[0].clone()).join("none/report.json");
    let before = fs::metadata(&kept).unwrap().modified().unwrap();
    fs::remove_file(lost.join("report.json")).unwrap();
    succeeds(dir.path(), &args);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);
    let again = results();
    for (a, b) in again["runs"].as_array().unwrap().iter().zip(runs) {
        assert_eq!((&a["psnr"], &a["ssim"], &a["cache"]), (&b["psnr"], &b["ssim"], &b["cache"]));
    }
    fs::write(dir.path().join("mine.toml"), "policy = 'interval'\nevery = 3\n").unwrap();
    fails(dir.path(), &args, 1, &["mine", "other settings"]);
    fails(dir.path(), &["compare", "--prompts", "no.txt", "--out", "n"], 1, &["no.txt"]);
    fails(
        dir.path(),
        &["compare", "--prompts", "p.txt", "--cache", "mine.toml,./mine.toml", "--out", "n"],
        1,
        &["two policies"],
    );
}
