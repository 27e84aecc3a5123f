//! `adacache study`: quality against fewer steps, and what foretells it.

use std::fs;

use serde_json::Value;

use crate::common::text;
use crate::{PROMPT, fails, succeeds};

#[test]
fn prompts_are_studied_and_a_stopped_study_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("p.txt"),
        format!("{PROMPT}\nsmall white circle still slowly black\nlarge blue ring left fast gray\n"),
    )
    .unwrap();
    let args =
        ["study", "--prompts", "p.txt", "--steps", "8", "--fewer", "4,2,4,1", "--threshold", "0.8", "--out", "s"];
    let table = text(&succeeds(dir.path(), &args).stdout);
    assert!(table.contains("rank correlation") && table.contains("SSIM falls below 0.8"), "{table}");
    let study = || -> Value { serde_json::from_slice(&fs::read(dir.path().join("s/study.json")).unwrap()).unwrap() };
    let first = study();
    let curves = first["curves"].as_array().unwrap();
    assert_eq!(curves.len(), 3);
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        let steps: Vec<u64> = points.iter().map(|p| p["steps"].as_u64().unwrap()).collect();
        assert_eq!(
            (steps, points[0]["ssim"].as_f64(), points[0]["psnr"].as_f64()),
            (vec![8, 4, 2, 1], Some(1.0), Some(60.0))
        );
        let ssim: Vec<f64> = points.iter().map(|p| p["ssim"].as_f64().unwrap()).collect();
        // The point is where the line between two measured numbers of steps crosses the threshold.
        match (curve["breaks_at"].as_f64(), ssim.iter().position(|ssim| *ssim < 0.8)) {
            (Some(at), Some(below)) => {
                let counts = [8.0, 4.0, 2.0, 1.0];
                assert!(at >= counts[below] && at <= counts[below - 1], "{at} {ssim:?}");
            }
            (at, below) => assert!(at.is_none() && below.is_none(), "{at:?} {ssim:?}"),
        }
        // Every step but the first is measured: all were computed.
        let changes = curve["changes"].as_array().unwrap();
        assert!(changes.len() >= 5 && changes.iter().all(|c| c["distance"].as_f64().unwrap() > 0.0), "{changes:?}");
        assert!((1..=8).contains(&curve["adacache_steps"].as_u64().unwrap()));
    }
    let breaks: Vec<f64> = curves.iter().map(|c| c["breaks_at"].as_f64().unwrap_or(0.0)).collect();
    assert!(breaks.is_sorted_by(|a, b| a >= b), "the first to break first: {breaks:?}");
    assert_eq!(first["foretold"].as_array().unwrap().len(), 3);
    let page = fs::read_to_string(dir.path().join("s/index.html")).unwrap();
    assert!(page.contains(PROMPT) && page.contains("\"foretold\""));

    // One run is lost: it is made again, and all comes out as it was.
    let runs = dir.path().join("s/runs");
    let prompt = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(prompt.join("fewer-2/report.json")).unwrap();
    succeeds(dir.path(), &args);
    assert_eq!(study()["curves"], first["curves"]);
    fails(dir.path(), &["study", "--prompts", "p.txt", "--steps", "6", "--out", "s"], 1, &["other settings"]);
    fails(dir.path(), &["study", "--prompts", "p.txt", "--fewer", "30", "--out", "n"], 1, &["--fewer 30", "1 to 29"]);
    fails(dir.path(), &["study", "--prompts", "p.txt", "--steps", "1", "--out", "n"], 1, &["more --steps"]);
    fails(dir.path(), &["study", "--prompts", "p.txt", "--threshold", "nan", "--out", "n"], 1, &["--threshold"]);
    assert!(!dir.path().join("n").exists());
}
