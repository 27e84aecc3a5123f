//! What is kept from one run to the next belongs to what it was made of; and reports from which a run can be repeated.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{names, text};
use crate::{PROMPT, adacache, fails, succeeds};

/// The built-in model's files in a folder.
pub(crate) fn sprites_in(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sprites");
    for name in ["config.json", "codebooks.json", "model.gguf", "text.safetensors", "decoder.safetensors"] {
        fs::copy(files.join(name), folder.join(name)).unwrap();
    }
    folder.to_owned()
}

/// Changes the last bit of one number of the transformer: neither size nor time of the file tell.
pub(crate) fn change_weights(model: &Path) {
    let path = model.join("model.gguf");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

#[test]
fn a_video_of_other_settings_is_no_finished_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = sprites_in(&folder.join("model"));
    fs::write(folder.join("p.txt"), format!("{PROMPT}\n")).unwrap();
    let args = ["generate", "--prompts", "p.txt", "--steps", "2", "--model", "model"];
    for out in ["a-{}.mp4", "b-{}.gif", "c-{}.safetensors", "d-{}/"] {
        let run = [&args[..], &["--out", out]].concat();
        succeeds(folder, &run);
        let again = text(&succeeds(folder, &run).stderr);
        assert!(again.contains("1 of 1 videos are finished already"), "{again}");
        let file = out.replace("{}", "001-large-red-circle-bouncing-fast-navy");
        for (more, words) in [
            (&["--seed", "7"][..], "seed 0, now 7"),
            (&["--cache", "none"], "cache adacache-fast, now none"),
            (&["--cfg-scale", "2"], "cfg scale "),
            (&["--dtype", "f32"], "dtype bf16, now f32"),
            (&["--fp8-cache"], "packed cache false, now true"),
            (&["--fp8-weights"], "fp8 weights false, now true"),
            (&["--size", "32x32"], "width 64, now 32"),
            (&["--frames", "8"], "frames 16, now 8"),
        ] {
            fails(folder, &[&run[..], more].concat(), 1, &[&file, words, "--overwrite"]);
        }
    }
    let steps = [&args[..2], &["p.txt", "--model", "model", "--steps", "3", "--out", "a-{}.mp4"]].concat();
    fails(folder, &steps, 1, &["a-001-large", "steps 2, now 3", "--overwrite"]);
    // Other weights behind the same path.
    let run = [&args[..], &["--out", "a-{}.mp4"]].concat();
    change_weights(&model);
    fails(folder, &run, 1, &["a-001-large", "weights ", "--overwrite"]);
    let before = fs::read(folder.join("a-001-large-red-circle-bouncing-fast-navy.mp4")).unwrap();
    succeeds(folder, &[&run[..], &["--overwrite"]].concat());
    assert_ne!(fs::read(folder.join("a-001-large-red-circle-bouncing-fast-navy.mp4")).unwrap(), before);
    assert!(text(&succeeds(folder, &run).stderr).contains("finished already"));

    // A file that does not say how it was made; and a single video, which is made again where it is the same.
    fs::write(folder.join("a-001-large-red-circle-bouncing-fast-navy.mp4"), "finished").unwrap();
    fails(folder, &run, 1, &["does not say with which settings", "older version", "--overwrite"]);
    let single = ["generate", PROMPT, "--steps", "1", "--out", "x.gif"];
    succeeds(folder, &single);
    succeeds(folder, &single);
    fails(folder, &[&single[..], &["--seed", "2"]].concat(), 1, &["`x.gif`", "seed 0, now 2", "--overwrite"]);
    succeeds(folder, &[&single[..], &["--seed", "2", "--overwrite"]].concat());
}

/// Videos that are decided about together depend on each other.
#[test]
fn a_batch_is_made_together_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let second = "small white circle still slowly black";
    fs::write(folder.join("p.txt"), format!("{PROMPT}\n{second}\n{PROMPT}\n")).unwrap();
    let args = ["generate", "--prompts", "p.txt", "--steps", "2", "--out", "v/{}.safetensors", "--report", "r.json"];
    let together = [&args[..], &["--batch", "2"]].concat();
    succeeds(folder, &together);
    let files = names(&folder.join("v"));
    assert_eq!(files.len(), 3);
    // Equal prompts have a report each.
    let reports = json(folder, "r.json");
    let outputs: Vec<&str> = reports.as_array().unwrap().iter().map(|r| r["output"].as_str().unwrap()).collect();
    assert_eq!(outputs, files.iter().map(|file| format!("v/{file}")).collect::<Vec<_>>());
    fails(folder, &args, 1, &["v/001-", "batch {", "now none"]);
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(folder.join("v").join(file)).unwrap()).collect();
    fs::remove_file(folder.join("v").join(&files[1])).unwrap();
    let told = text(&succeeds(folder, &together).stderr);
    assert!(told.contains("1 of 3 videos are finished already"), "{told}");
    for (file, bytes) in files.iter().zip(&whole) {
        assert!(fs::read(folder.join("v").join(file)).unwrap() == *bytes, "{file}");
    }
    assert_eq!(json(folder, "r.json").as_array().unwrap().len(), 3);
    // A file that is no list of reports is not taken for an empty one.
    fs::write(folder.join("r.json"), "{}").unwrap();
    fails(folder, &together, 1, &["r.json", "no list of reports"]);
}

#[test]
fn a_comparison_does_not_mix_models() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = sprites_in(&folder.join("model"));
    fs::write(folder.join("p.txt"), PROMPT).unwrap();
    let args =
        ["compare", "--prompts", "p.txt", "--cache", "interval-2", "--steps", "2", "--model", "model", "--out", "o"];
    succeeds(folder, &args);
    let results = json(folder, "o/results.json");
    assert_eq!(results["weights"].as_str().unwrap().len(), 64);
    assert_eq!((&results["video"]["frames"], &results["video"]["width"]), (&16.into(), &64.into()));
    let page = fs::read_to_string(folder.join("o/index.html")).unwrap();
    assert!(page.contains(results["weights"].as_str().unwrap()) && page.contains(env!("CARGO_PKG_VERSION")));
    succeeds(folder, &args);
    change_weights(&model);
    let told = adacache(folder, &args);
    let message = text(&told.stderr);
    assert!(!told.status.success() && message.contains("weights ") && message.contains("other settings"), "{message}");
    // The folder of an older version.
    let runs = folder.join("o/runs");
    let run = runs.join(&names(&runs)[0]).join("none/settings.json");
    fs::write(&run, r#"{"model": "model", "seed": 0}"#).unwrap();
    fails(folder, &args, 1, &["older version", "not used", "--out"]);
}

#[test]
fn reports_and_videos_say_what_they_are_of() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let args = ["generate", PROMPT, "--steps", "4", "--seed", "5", "--size", "48x64", "--frames", "4"];
    succeeds(folder, &[&args[..], &["--out", "a.mp4", "--report", "r.json"]].concat());
    let report = json(folder, "r.json");
    assert_eq!((&report["width"], &report["height"], &report["frames"]), (&64.into(), &48.into(), &4.into()));
    assert_eq!((&report["fps"], &report["preset"]), (&8.0.into(), &"adacache-fast".into()));
    assert_eq!(
        (&report["program"], &report["codebook"]["policy"]),
        (&env!("CARGO_PKG_VERSION").into(), &"adacache".into())
    );
    assert_eq!(report["weights"].as_str().unwrap().len(), 64);
    let seconds = &report["seconds"];
    let second = |name: &str| seconds[name].as_f64().unwrap();
    assert!(second("encode") > 0.0 && second("total") >= second("denoise") + second("encode"), "{seconds}");
    let mp4 = String::from_utf8_lossy(&fs::read(folder.join("a.mp4")).unwrap()).into_owned();
    for part in [
        report["weights"].as_str().unwrap(),
        "preset adacache-fast",
        concat!("program ", env!("CARGO_PKG_VERSION")),
        "size 48x64; frames 4; fps 8",
        "\"codebook\":{",
    ] {
        assert!(mp4.contains(part), "{part}");
    }
}

#[test]
fn a_run_is_repeated_from_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = sprites_in(&folder.join("model"));
    fs::write(folder.join("c.toml"), "policy = \"interval\"\nevery = 3\n").unwrap();
    let args =
        ["generate", PROMPT, "--steps", "4", "--seed", "18446744073709551615", "--size", "32x32", "--cfg-scale", "-2"];
    let more =
        ["--cache", "c.toml", "--model", "model", "--dtype", "f32", "--out", "a.safetensors", "--report", "r.json"];
    succeeds(folder, &[&args[..], &more].concat());
    let original = fs::read(folder.join("a.safetensors")).unwrap();
    // The file of settings is gone, and another folder is where it is repeated: the report has everything.
    fs::remove_file(folder.join("c.toml")).unwrap();
    fs::create_dir(folder.join("elsewhere")).unwrap();
    let elsewhere = folder.join("elsewhere");
    let like = ["generate", "--like", "../r.json", "--out", "b.safetensors"];
    let told = text(&succeeds(&elsewhere, &like).stderr);
    for part in ["seed 18446744073709551615", "steps 4", "cache c.toml", PROMPT, "size 32x32"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("unlike"), "{told}");
    assert!(fs::read(elsewhere.join("b.safetensors")).unwrap() == original);
    // Options beside it count, and are told.
    let told =
        text(&succeeds(&elsewhere, &[&like[..], &["--seed", "3", "--cache", "none", "--overwrite"]].concat()).stderr);
    assert!(told.contains("unlike the report: ") && told.contains("seed 18446744073709551615, now 3"), "{told}");
    assert!(told.contains("cache c.toml, now none"), "{told}");
    assert!(fs::read(elsewhere.join("b.safetensors")).unwrap() != original);
    let told = text(
        &succeeds(&elsewhere, &["generate", "small white circle still slowly black", "--like", "../r.json"]).stderr,
    );
    assert!(told.contains("now small white circle"), "{told}");

    // Another version is told; other weights are refused, unless they are asked for.
    let mut report = json(folder, "r.json");
    report["settings"]["program"] = "0.0.1".into();
    report["settings"]["results"] = 0.into();
    fs::write(folder.join("old.json"), report.to_string()).unwrap();
    let run = ["generate", "--like", "../old.json", "--out", "c.safetensors"];
    let told = text(&succeeds(&elsewhere, &run).stderr);
    assert!(told.contains("warning") && told.contains("0.0.1") && told.contains("differ in bits"), "{told}");
    change_weights(&model);
    let run = ["generate", "--like", "../r.json", "--out", "d.safetensors"];
    fails(&elsewhere, &run, 1, &["other files of the model", "weights ", "--model"]);
    succeeds(&elsewhere, &[&run[..], &["--model", "../model"]].concat());

    // Lists, older reports, and what is none.
    let mut list = vec![json(folder, "r.json"), json(folder, "r.json")];
    list[0]["output"] = "other.mp4".into();
    fs::write(folder.join("list.json"), serde_json::to_string(&list).unwrap()).unwrap();
    fails(folder, &["generate", "--like", "list.json"], 1, &["2 reports", "list.json#N", "#2"]);
    fails(folder, &["generate", "--like", "list.json#3"], 1, &["2 reports"]);
    fails(folder, &["generate", "--like", "list.json#x"], 1, &["#N"]);
    succeeds(folder, &["generate", "--like", "list.json#2", "--model", "model", "--out", "e.safetensors"]);
    let mut report = json(folder, "r.json");
    report.as_object_mut().unwrap().remove("settings");
    fs::write(folder.join("older.json"), report.to_string()).unwrap();
    fails(folder, &["generate", "--like", "older.json"], 1, &["older.json", "does not hold the settings"]);
    fs::write(folder.join("none.json"), "[1]").unwrap();
    fails(folder, &["generate", "--like", "none.json"], 1, &["none.json is not a report"]);
    fails(folder, &["generate", "--like", "gone.json"], 1, &["gone.json"]);
    fs::write(folder.join("empty.json"), "[]").unwrap();
    fails(folder, &["generate", "--like", "empty.json"], 1, &["no reports"]);
    fails(folder, &["generate", "--like", "r.json#2"], 1, &["one report"]);

    // A report that somebody sends writes nothing but the video.
    for (option, value) in [("out", "victim.txt"), ("overwrite", ""), ("report", "victim.txt"), ("bogus", "1")] {
        let mut report = json(folder, "r.json");
        report["arguments"][option] = serde_json::json!([value]);
        fs::write(folder.join("sent.json"), report.to_string()).unwrap();
        fs::write(folder.join("victim.txt"), "mine").unwrap();
        fails(folder, &["generate", "--like", "sent.json", "--out", "f.safetensors"], 1, &["sent.json", option]);
        assert_eq!(fs::read_to_string(folder.join("victim.txt")).unwrap(), "mine");
    }
}

/// A run of a comparison has a report like any other.
#[test]
fn a_run_of_a_comparison_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    fs::write(folder.join("p.txt"), format!("{PROMPT}\n")).unwrap();
    let compare = ["compare", "--prompts", "p.txt", "--cache", "interval-2", "--steps", "4", "--size", "32x32"];
    succeeds(folder, &[&compare[..], &["--seeds", "2", "--dtype", "f32", "--cfg-scale", "3", "--out", "o"]].concat());
    let runs = folder.join("o/runs");
    let second = names(&runs).into_iter().find(|name| name.ends_with("-1")).unwrap();
    let run = runs.join(second).join("interval-2");
    let report = run.join("report.json").to_string_lossy().into_owned();
    let told = text(&succeeds(folder, &["generate", "--like", &report, "--out", "a.safetensors"]).stderr);
    assert!(!told.contains("unlike"), "{told}");
    let latents = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("latents").unwrap().data().to_vec()
    };
    assert!(latents(&folder.join("a.safetensors")) == latents(&run.join("latents.safetensors")));
}
