//! `adacache calibrate`: a codebook found, resumed, or refused.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::common::{command, names, text};
use crate::kept::{change_weights, sprites_in};
use crate::{PROMPT, adacache, fails, succeeds};

/// Two prompts, 8 steps: killed on the way, gone on with, and the file serves `generate`.
#[test]
fn a_codebook_is_calibrated_and_a_killed_calibration_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let prompts =
        format!("{PROMPT}\nsmall white circle still slowly black\n# held out\nlarge blue ring left fast gray\n");
    fs::write(dir.path().join("p.txt"), prompts).unwrap();
    let args = [
        &["calibrate", "--prompts", "./p.txt", "--split", "0.67", "--target-speedup", "1.4", "--steps", "8"][..],
        &["--verify", "1", "--rounds", "4", "--out", "c.toml", "--work", "w"],
    ]
    .concat();
    let recorded = || {
        let folders = fs::read_dir(dir.path().join("w")).into_iter().flatten();
        folders.filter(|f| f.as_ref().unwrap().path().join("flops.json").is_file()).count()
    };
    let mut killed = command(dir.path(), &args).stderr(Stdio::null()).spawn().unwrap();
    while recorded() == 0 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!((1..3).contains(&recorded()), "{}", recorded());
    let first = fs::read_dir(dir.path().join("w")).unwrap().map(|f| f.unwrap().path().join("trace.jsonl"));
    let first = first.into_iter().find(|f| f.is_file()).unwrap();
    let before = fs::metadata(&first).unwrap().modified().unwrap();

    let output = succeeds(dir.path(), &args);
    let told = text(&output.stdout);
    for part in ["predicted  speed-up", "achieved   speed-up", "held out", "difference", "8 steps", "2 prompts"] {
        assert!(told.contains(part), "`{part}` is missing in {told}");
    }
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before, "the recorded run was kept");
    assert_eq!(recorded(), 3);
    // Everything is there: the same again in no time, to the byte.
    let file = fs::read_to_string(dir.path().join("c.toml")).unwrap();
    succeeds(dir.path(), &args);
    assert_eq!(fs::read_to_string(dir.path().join("c.toml")).unwrap(), file);
    assert!(file.starts_with("# adacache calibrate --prompts p.txt --split 0.67"), "{file}");
    assert!(file.contains("\npolicy = \"adacache\"\n") && !file.contains(&*dir.path().to_string_lossy()), "{file}");
    // What the file says is what `generate` does with it: the speed-up is that of the runs.
    let mut speed_ups = vec![];
    for (seed, prompt) in ["0", "1"].into_iter().zip([PROMPT, "small white circle still slowly black"]) {
        let run = ["generate", prompt, "--steps", "8", "--seed", seed, "--cache", "c.toml", "--out", "x.safetensors"];
        succeeds(dir.path(), &[&run[..], &["--report", "r.json", "--overwrite"]].concat());
        let report: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
        speed_ups.push(report["flops"]["total"].as_f64().unwrap() / report["flops"]["all_computed"].as_f64().unwrap());
    }
    let achieved = format!("achieved   speed-up {:.3}", 2.0 / (speed_ups[0] + speed_ups[1]));
    assert!(told.contains(&achieved), "{achieved}: {told}");
}

/// Runs are kept for the model that made them: other weights behind the same path begin anew, and say so.
#[test]
fn other_weights_are_another_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let model = sprites_in(&dir.path().join("model"));
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let args = [
        &["calibrate", "--prompts", "p.txt", "--target-speedup", "1.4", "--steps", "6", "--verify", "1"][..],
        &["--rounds", "2", "--taylor", "0", "--model", "model", "--out", "c.toml", "--work", "w", "--quiet"],
    ]
    .concat();
    let run = || {
        // The target may be missed: the runs are what this is about.
        let output = adacache(dir.path(), &args);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let recorded = || names(&dir.path().join("w")).len();
    assert!(!run().contains("not used"));
    assert_eq!(recorded(), 1);
    let toml = fs::read_to_string(dir.path().join("c.toml")).unwrap();
    assert!(toml.contains("(weights ") && toml.contains("adacache 0."), "{toml}");
    change_weights(&model);
    let told = run();
    assert!(told.contains("is not used: it was made with other settings (weights "), "{told}");
    assert_eq!(recorded(), 2);
    assert!(!run().contains("not used"), "now there is one of these weights");
    // An older version's folder says nothing of what it depends on.
    fs::remove_dir_all(dir.path().join("w").join(&names(&dir.path().join("w"))[0])).unwrap();
    let left = dir.path().join("w").join(&names(&dir.path().join("w"))[0]);
    fs::remove_file(left.join("settings.json")).unwrap();
    let older = dir
        .path()
        .join("w")
        .join(names(&dir.path().join("w"))[0].rsplit_once('-').unwrap().0.to_owned() + "-0123456789ab");
    fs::rename(&left, &older).unwrap();
    assert!(run().contains("-0123456789ab is not used: it is of an older version"));
}

#[test]
fn calibrations_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("{PROMPT}\n")).unwrap();
    fs::write(dir.path().join("none.txt"), "# nothing\n\n").unwrap();
    let faster = ["--target-speedup", "2"];
    for (args, status, part) in [
        (&[][..], 2, "--target-speedup"),
        (&["--target-speedup", "2", "--target-psnr", "30"], 2, "cannot be used with"),
        (&["--target-speedup", "NaN"], 1, "NaN"),
        (&["--target-speedup", "-2"], 1, "above 1"),
        (&["--target-speedup", "8"], 1, "cannot be reached in 30 steps"),
        (&["--target-psnr", "inf"], 1, "inf"),
        (&["--target-psnr", "30", "--steps", "4"], 1, "nothing to reuse"),
        (&[&faster[..], &["--prompts", "none.txt"]].concat(), 1, "no prompts"),
        (&[&faster[..], &["--prompts", "gone.txt"]].concat(), 1, "gone.txt"),
        (&[&faster[..], &["--model", "gone"]].concat(), 1, "no model `gone`"),
        (&[&faster[..], &["--split", "0.5"]].concat(), 1, "nothing on one side"),
        (&[&faster[..], &["--split", "NaN"]].concat(), 1, "--split NaN"),
        (&[&faster[..], &["--blocks", "7"]].concat(), 1, "block 7 does not exist"),
        (&[&faster[..], &["--metric", "l7"]].concat(), 2, "l7"),
        (&[&faster[..], &["--rounds", "3"]].concat(), 1, "--rounds 3"),
        (&[&faster[..], &["--taylor", "3"]].concat(), 2, "3"),
        (&[&faster[..], &["--against", "interval-2"]].concat(), 1, "--against interval-2"),
        (&[&faster[..], &["--out", "c.json"]].concat(), 1, ".toml"),
    ] {
        let given = |flag: &str| args.contains(&flag);
        let mut all = vec!["calibrate"];
        all.extend(if given("--prompts") { &[][..] } else { &["--prompts", "p.txt"] });
        all.extend(if given("--out") { &[][..] } else { &["--out", "c.toml"] });
        all.extend(args);
        fails(dir.path(), &all, status, &[part]);
    }
}
