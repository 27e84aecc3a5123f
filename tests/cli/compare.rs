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
    assert!(!dir.path().join("o/blind.html").exists(), "only where it is asked for");
    succeeds(dir.path(), &[&args[..], &["--blind"]].concat());
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);
    let again = results();
    for (a, b) in again["runs"].as_array().unwrap().iter().zip(runs) {
        assert_eq!((&a["psnr"], &a["ssim"], &a["cache"]), (&b["psnr"], &b["ssim"], &b["cache"]));
    }
    let blind = fs::read_to_string(dir.path().join("o/blind.html")).unwrap();
    assert_eq!(blind.matches("\"strip\":\"iVBORw0KGgo").count(), 10);
    let content = blind.split_once("const content = ").unwrap().1.split_once(";\n").unwrap().0;
    let content: Value = serde_json::from_str(content).unwrap();
    // Of each prompt ten pairs of five policies.
    assert_eq!(content["pairs"].as_array().unwrap().len(), 20);
    fs::write(dir.path().join("mine.toml"), "policy = 'interval'\nevery = 3\n").unwrap();
    fails(dir.path(), &args, 1, &["mine", "other settings"]);
    fails(dir.path(), &["compare", "--prompts", "no.txt", "--out", "n"], 1, &["no.txt"]);
    fs::write(dir.path().join("...toml"), "policy = 'interval'\nevery = 3\n").unwrap();
    fails(dir.path(), &["compare", "--prompts", "p.txt", "--cache", "...toml", "--out", "n"], 1, &["rename the file"]);
    fails(
        dir.path(),
        &["compare", "--prompts", "p.txt", "--cache", "mine.toml,./mine.toml", "--out", "n"],
        1,
        &["two policies"],
    );
}

/// What changed since the runs were kept is found, and a page of before is not left behind.
#[test]
fn kept_runs_are_whole_and_pages_are_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let again = PROMPT.to_uppercase();
    fs::write(dir.path().join("p.txt"), format!("{PROMPT}\n\n{again}\n")).unwrap();
    let args = |caches| ["compare", "--prompts", "p.txt", "--steps", "2", "--out", "o", "--cache", caches];
    let told = text(&succeeds(dir.path(), &[&args("interval-2")[..], &["--blind"]].concat()).stderr);
    assert!(told.contains("line 3 has the prompt of line 1 again"), "{told}");
    let runs = dir.path().join("o/runs");
    assert_eq!(names(&runs).len(), 1);
    let blind = || fs::read_to_string(dir.path().join("o/blind.html")).unwrap();
    assert!(!blind().contains("fewer-1"));
    succeeds(dir.path(), &args("interval-2,fewer-1"));
    assert!(blind().contains("fewer-1"), "it would show the comparison of before");
    let frames = runs.join(&names(&runs)[0]).join("none/frames");
    let first = names(&frames)[0].clone();
    fs::rename(frames.join(&first), dir.path().join("away.png")).unwrap();
    fails(dir.path(), &args("interval-2"), 1, &["none", "damaged", "remove that folder"]);
}

#[test]
fn votes_are_counted_and_what_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ballot = |file: &str, comparison: &str, voter: &str, choices: &[&str]| {
        let vote =
            |(pair, choice)| serde_json::json!({ "pair": pair, "first": "none", "second": "fast", "choice": choice });
        let votes: Vec<Value> = choices.iter().enumerate().map(vote).collect();
        let ballot = serde_json::json!({ "comparison": comparison, "voter": voter, "votes": votes });
        fs::write(dir.path().join(file), ballot.to_string()).unwrap();
    };
    ballot("a.json", "c", "a", &["first", "first", "second", "equal"]);
    ballot("b.json", "c", "b", &["first"]);
    ballot("old.json", "c", "a", &["second"]);
    ballot("other.json", "d", "a", &["second"]);
    fs::write(dir.path().join("none.json"), "[]").unwrap();
    let counted = succeeds(dir.path(), &["votes", "a.json", "b.json", "old.json"]);
    let table = text(&counted.stdout);
    // 1 of 4 for `fast`: Wilson's interval from 4.6 to 69.9 %.
    assert!(
        table.contains("fast over none") && table.contains("25 % (5 to 70)") && table.contains("2 people"),
        "{table}"
    );
    assert!(text(&counted.stderr).contains("old.json is not counted"));
    let json = succeeds(dir.path(), &["votes", "--json", "b.json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["voters"], &json["preferences"][0]["for_second"]), (&1.into(), &1.into()));
    fails(dir.path(), &["votes", "a.json", "other.json"], 1, &["a.json and other.json", "different comparisons"]);
    fails(dir.path(), &["votes", "none.json"], 1, &["none.json is no ballot", "export votes"]);
    fails(dir.path(), &["votes", "missing.json"], 1, &["cannot read missing.json"]);
    fails(dir.path(), &["votes"], 2, &["FILE"]);
}
