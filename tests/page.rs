//! The page of `adacache compare` in a real browser, where Chromium is installed; elsewhere the tests say so and pass.

use std::fs;
use std::process::Command;

use adacache::compare::page;
use serde_json::{Value, json};

/// A picture of one pixel.
const STRIP: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

/// What the page of `results` is when its script has run; nothing without a browser.
fn shown(results: &Value) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(browser) = browser else {
        eprintln!("no Chromium here: the page is not looked at");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    // An error of the script shows as the page's title.
    let html = page(results).replace(
        "<script id=\"data\"",
        "<script>onerror = message => { document.title = `broken: ${message}`; };</script><script id=\"data\"",
    );
    let file = dir.path().join("index.html");
    fs::write(&file, html).unwrap();
    let mut command = Command::new(browser);
    command.args(
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
            .split(' '),
    );
    command.args("--disable-component-update --disable-sync --virtual-time-budget=1000 --dump-dom".split(' '));
    command
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("file://{}", file.display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn run(prompt: &str, cache: &str, psnr: f64, computed: &[usize], decisions: Value) -> Value {
    json!({
        "prompt": prompt, "seed": 0, "cache": cache, "steps": 4, "computed_steps": computed, "partial_steps": [],
        "step_shares": [], "decisions": decisions,
        "compute": computed.len() as f64 / 4.0, "seconds": 1.5, "device": "vm", "cache_bytes": 7, "psnr": psnr, "ssim": 0.9,
        "equal_frames": if psnr == 60.0 { 4 } else if psnr == 31.25 { 1 } else { 0 }, "frames": 4,
        "temporal_flickering": 0.8, "motion_smoothness_pixels": 0.7, "latents_relative_l2": 0.1, "strip": STRIP,
    })
}

fn summary(cache: &str, compute: f64, psnr: f64) -> Value {
    let mean = |value: f64| json!({ "mean": value, "interval": 0.25 });
    json!({
        "cache": cache, "runs": 2, "equal": u8::from(psnr == 60.0) * 2, "computed_steps": mean(4.0 * compute), "compute": mean(compute),
        "seconds": mean(1.5), "psnr": { "mean": psnr, "interval": 0.5 }, "ssim": mean(0.9),
        "temporal_flickering": mean(0.8), "motion_smoothness_pixels": mean(0.7), "latents_relative_l2": mean(0.1),
    })
}

/// Two prompts, the second of which would end a script or start an element if it could.
fn results() -> Value {
    let decisions = json!([
        { "step": 2, "distance": 0.25, "motion": 1.5, "motion_gradient": 0.0, "rate": 2 },
        { "step": 4, "distance": 0.5, "motion": 2.0, "motion_gradient": 0.0, "rate": 1 },
    ]);
    let prompts = ["a red one", "</script><i>b & c"];
    let mut runs: Vec<Value> = prompts
        .iter()
        .enumerate()
        .flat_map(|(i, prompt)| {
            [
                run(prompt, "none", 60.0, &[1, 2, 3, 4], json!([])),
                run(prompt, "adacache", 20.5 + i as f64, &[1, 2, 4], decisions.clone()),
                run(prompt, "interval-2", 31.25, &[1, 3], json!([])),
            ]
        })
        .collect();
    // The last policy reuses some modules in one step.
    for run in runs.iter_mut().skip(2).step_by(3) {
        (run["partial_steps"], run["step_shares"]) = (json!([2]), json!([1.0, 0.25, 1.0, 0.0]));
    }
    let policies = ["none", "adacache", "interval-2"]
        .map(|name| json!({ "name": name, "settings": { "policy": name, "every": 7 } }));
    let summaries = [summary("none", 1.0, 60.0), summary("adacache", 0.75, 21.0), summary("interval-2", 0.5, 31.25)];
    json!({
        "model": "sprites", "steps": 4, "cfg_scale": 4.0, "dtype": "bf16", "device": "a device", "policies": policies,
        "program": "1.2.3", "kernels": "0a1b", "weights": "c0ffee",
        "summaries": summaries, "runs": runs, "video": { "width": 1, "height": 1, "frames": 1, "fps": 8.0 },
    })
}

#[test]
fn the_page_fills_itself() {
    let Some(html) = shown(&results()) else { return };
    assert!(html.contains("<title>Cache policies compared</title>"), "an error of the script: {html:.300}");
    let body = html.split("<script").next().unwrap();
    assert!(body.contains("3 policies on 2 prompts; model sprites, 4 steps, bf16, on a device."));
    assert!(body.contains("adacache 1.2.3, kernels 0a1b. Model sprites, weights c0ffee."));
    assert!(body.contains("1 × 1 pixels, 1 frame at 8 frames per second"));
    assert!(
        body.contains(r#"{"policy":"interval-2","every":7}"#) || body.contains(r#"{"every":7,"policy":"interval-2"}"#)
    );
    assert!(body.contains("&lt;/script&gt;&lt;i&gt;b &amp; c, seed 0"), "the prompt is text");
    // A video for each policy of the chosen prompt, a curve for the one that decides, a row for each run.
    assert_eq!(body.matches("<canvas").count(), 3);
    assert_eq!(body.matches("distance by step, and motion; the last, of step 4, is 0.500").count(), 1);
    assert_eq!(body.matches("<tr data-key=").count(), 6);
    assert_eq!(body.matches("class=\"chosen\"").count(), 3);
    assert!(body.contains("computed steps: 1 2 4") && body.contains("20.50 dB, SSIM 0.9000"));
    assert!(body.contains("31.25 dB (1 of 4 frames equal), SSIM 0.9000"));
    assert!(
        body.contains("step 2: computed in part, 25 % of the work")
            && body.contains("2 of 4 computed, 1 in part, 50.0 % work")
    );
    assert!(body.contains("21.00 ± 0.50") && body.contains("0 of 2") && body.contains("2 of 2"));
    // Two points; interval-2 beats the other, so it alone is worth having.
    let plot = body.split("id=\"plot\"").nth(1).unwrap().split("<h2").next().unwrap();
    let fill = |colour: &str| plot.matches(&format!("r=\"5\" fill=\"var(--{colour})\"")).count();
    assert_eq!((fill("cool"), fill("accent")), (1, 1));
    assert!(!body.contains("ST-LPIPS"), "there were no weights");
    // The quality stays in sight on a phone: a column of each table, heads included.
    assert_eq!(body.matches("class=\"kept\"").count(), (1 + 3) + (1 + 6));
}

/// Without a browser: the style that keeps the quality in sight, and the cells it is for.
#[test]
fn the_quality_is_kept_in_sight_on_a_phone() {
    let html = page(&results());
    let narrow = html.split("@media (max-width: 48rem) {").nth(1).unwrap().split("\n}").next().unwrap();
    assert!(narrow.contains("th.kept, td.kept { position: sticky; right: 0;"), "{narrow}");
    assert_eq!(html.matches("kept(name)").count(), 4);
}

#[test]
fn the_page_shows_a_network_where_it_measured_and_bears_equal_runs() {
    let mut results = results();
    for (i, run) in results["runs"].as_array_mut().unwrap().iter_mut().enumerate() {
        run["stlpips"] = json!(0.0125 * (i % 3) as f64);
        (run["psnr"], run["equal_frames"]) = (json!(60.0), json!(4));
    }
    for summary in results["summaries"].as_array_mut().unwrap() {
        summary["stlpips"] = json!({ "mean": 0.0125, "interval": null });
        summary["psnr"] = json!({ "mean": 60.0, "interval": 0.0 });
        summary["equal"] = json!(2);
    }
    let Some(html) = shown(&results) else { return };
    assert!(html.contains("<title>Cache policies compared</title>"), "an error of the script: {html:.300}");
    let body = html.split("<script").next().unwrap();
    assert!(body.contains("<option>ST-LPIPS</option>") && body.contains("0.0125"));
    assert!(!body.contains("<option>LPIPS</option>"));
    assert!(
        body.contains("every run is equal to the original") && body.contains("<small>equal to the original</small>")
    );
}
