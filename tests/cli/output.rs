//! Where results go: a full disk, a closed pipe and a limit on file sizes, for every command.
#![cfg(unix)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::{command, names, text};
use crate::{PROMPT, adacache, succeeds};

/// Every command that writes to standard output, as short as can be.
fn commands() -> Vec<Vec<&'static str>> {
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/stdit3_a/forward_plain");
    let lines = [
        "generate|large red circle bouncing fast navy|--steps|1|--out|again.gif|--overwrite",
        "plan",
        "plan|--json",
        "plan|--model|sprites",
        "replay|t.jsonl|--cache|none",
        "replay|t.jsonl|--cache|none|--json",
        "replay|t.jsonl|--ratios",
        "measure|a/",
        "measure|a/|--json",
        "measure|a/|a/",
        "measure|a/|a/|--json",
        "measure|z.safetensors|z.safetensors|--json",
        "compare|--prompts|p.txt|--cache|interval-2|--steps|2|--out|o",
        "bench|--quick|--shapes|s.toml",
        "bench|--quick|--shapes|s.toml|--csv",
        "bench|--quick|--shapes|s.toml|--json",
        "bench|--quick|--shapes|s.toml|--markdown",
        "bench|--shapes|s.toml|--compare|vm|--json",
        "devices",
        "kernels|--arch|sm_80|--no-counters",
        "kernels|--arch|sm_80|--no-counters|--json",
        "models",
        "models|--json",
        "presets",
        "presets|--toml",
        "presets|--json",
        "calibrate|--prompts|p.txt|--target-speedup|1.4|--steps|6|--verify|1|--rounds|2|--taylor|0|--out|c.toml|--work|w|--quiet",
        "completions|bash",
        "--help",
        "--version",
        "generate|--help",
        "help|plan",
    ];
    let mut all: Vec<Vec<&str>> = lines.iter().map(|line| line.split('|').collect()).collect();
    all.push(vec!["check", "nothing-here", "--json"]);
    all.push(vec!["check", case]);
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/wan_repo");
    all.push(vec!["pull", "wan2.1-t2v-1.3b", "--from", repository, "--dir", "models"]);
    all
}

fn prepare(folder: &Path) {
    fs::write(folder.join("p.txt"), PROMPT).unwrap();
    fs::write(folder.join("s.toml"), "[[linear]]\nm = 16\nn = 16\nk = 16\n").unwrap();
    let trace = ["generate", PROMPT, "--steps", "3", "--cache", "none", "--trace", "t.jsonl", "--out", "a/"];
    succeeds(folder, &trace);
    succeeds(folder, &["generate", PROMPT, "--steps", "1", "--out", "z.safetensors"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    for args in commands() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(dir.path(), &args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let message = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {:?} {message}", output.status);
        // (A check of what cannot be read says that too.)
        assert!(message.contains("cannot write to standard output"), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
    }
}

/// Runs the command with a pipe as `stdout` or `stderr` whose reader has gone.
fn into_closed_pipe(folder: &Path, args: &[&str], stderr: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(folder, args);
    let run = if stderr { command.stderr(writer) } else { command.stdout(writer) };
    run.output().unwrap()
}

#[test]
fn a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    for args in commands() {
        let output = into_closed_pipe(dir.path(), &args, false);
        let message = text(&output.stderr);
        // A calibration may miss its target, which is 1.
        let expected = if args.contains(&"nothing-here") { 2..=2 } else { 0..=i32::from(args[0] == "calibrate") };
        assert!(output.status.code().is_some_and(|code| expected.contains(&code)), "{args:?}: {message}");
        assert!(!message.contains("standard output") && !message.contains("panicked"), "{args:?}: {message}");
    }
    // Standard error that nobody reads, or that is full, changes nothing.
    for args in [
        &["generate", PROMPT, "--steps", "1", "--out", "e.gif"][..],
        &["bench", "--quick", "--shapes", "s.toml", "--csv"],
    ] {
        let output = into_closed_pipe(dir.path(), args, true);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}");
    }
    let output = into_closed_pipe(dir.path(), &["generate", "nonsense"], true);
    assert_eq!(output.status.code(), Some(1));
}

/// The files of a generation are larger than the limit: nothing of them stays, what was there stays as it was.
#[test]
fn a_limit_on_file_sizes_leaves_nothing_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let limited = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg("ulimit -f 1 && exec \"$0\" \"$@\"").arg(env!("CARGO_BIN_EXE_adacache")).args(args);
        shell.current_dir(dir.path()).env("ADACACHE_DEVICE", crate::common::device_name()).output().unwrap()
    };
    let run = ["generate", PROMPT, "--steps", "1", "--out"];
    for rest in [&["x.mp4"][..], &["x.gif"], &["x/"], &["x.safetensors"], &["new/x.mp4"]] {
        if rest == ["new/x.mp4"] {
            fs::create_dir(dir.path().join("new")).unwrap();
        }
        let output = limited(&[&run[..], rest].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{rest:?}: {:?} {message}", output.status);
        assert!(message.contains("limit on file sizes") && message.contains(rest[0]), "{rest:?}: {message}");
        let _ = fs::remove_dir(dir.path().join("new"));
        assert_eq!(names(dir.path()), ["p.txt"], "{rest:?}");
    }
    let output = limited(&["compare", "--prompts", "p.txt", "--cache", "interval-2", "--steps", "2", "--out", "o"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("limit on file sizes"), "{}", text(&output.stderr));
    let left = Command::new("find").arg(dir.path()).args(["-type", "f"]).output().unwrap();
    assert_eq!(text(&left.stdout).lines().count(), 1, "{}", text(&left.stdout));
    // Standard output into a file meets the same limit.
    let plan = adacache(dir.path(), &["plan", "--json"]).stdout;
    assert!(plan.len() > 1024);
    let file = File::create(dir.path().join("plan.json")).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("ulimit -f 1 && exec \"$0\" plan --json").arg(env!("CARGO_BIN_EXE_adacache"));
    let output = shell.current_dir(dir.path()).stdout(file).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write to standard output"), "{}", text(&output.stderr));
}

#[test]
fn large_seeds_survive_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let seed = u64::MAX.to_string();
    let args = ["generate", PROMPT, "--steps", "1", "--seed", &seed, "--out", "z.safetensors", "--report", "r.json"];
    succeeds(dir.path(), &args);
    let report: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(report["seed"], Value::String(seed));
    // A report is read back.
    succeeds(dir.path(), &["measure", "z.safetensors", "z.safetensors", "--reports", "r.json", "r.json"]);
}
