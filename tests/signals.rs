//! Ctrl-C and SIGTERM, as users and supervisors send them, while a device computes.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use adacache::device::VmConfig;

const PROMPT: &str = "large red circle bouncing fast navy";

fn spawn(folder: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
    command.current_dir(folder).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends a signal after `wait`, while the command still runs; gives its output, and the seconds it took to end.
fn signalled(mut child: Child, wait: Duration, signal: &str) -> (Output, f64) {
    std::thread::sleep(wait);
    assert!(
        child.try_wait().unwrap().is_none(),
        "the command ended by itself: it does not take long enough for this test"
    );
    let start = Instant::now();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    (output, start.elapsed().as_secs_f64())
}

#[track_caller]
fn is_interrupted(output: &Output, words: &str) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("interrupted: ") && message.contains(words), "{message}");
    assert!(!message.contains("panicked") && !message.contains("error:"), "{message}");
}

/// A step of this size takes the virtual GPU minutes, and single launches of it many seconds.
#[test]
fn a_long_step_on_the_virtual_gpu_ends_within_a_second_or_so() {
    let Some(_) = common::vm("a step that ends early", VmConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let args = ["generate", PROMPT, "--size", "1024x1024", "--steps", "2", "--device", "vm", "--out", "x.mp4"];
        let child = spawn(dir.path(), &args);
        let (output, seconds) = signalled(child, Duration::from_secs(5), signal);
        is_interrupted(&output, "`x.mp4` was not written");
        // A second, and what a machine that does other things too takes longer.
        assert!(seconds < 4.0, "{signal}: {seconds} s");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_benchmark_ends_and_keeps_what_it_has_told() {
    let Some(_) = common::vm("a benchmark that ends early", VmConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let shapes = "[[linear]]\nm = 16\nn = 16\nk = 16\n\n[[linear]]\nm = 20000\nn = 4096\nk = 4096\n";
    fs::write(dir.path().join("s.toml"), shapes).unwrap();
    let child = spawn(dir.path(), &["bench", "--device", "vm", "--quick", "--csv", "--shapes", "s.toml"]);
    let (output, seconds) = signalled(child, Duration::from_secs(5), "-INT");
    is_interrupted(&output, "");
    assert!(seconds < 4.0, "{seconds} s");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("linear"), "{told}");
}

#[test]
fn a_comparison_ends_and_goes_on_later() {
    let Some(_) = common::vm("a comparison that ends early", VmConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let args = [
        "compare",
        "--prompts",
        "p.txt",
        "--cache",
        "interval-2",
        "--steps",
        "2000",
        "--device",
        "vm",
        "--out",
        "o",
        "--quiet",
    ];
    let (output, seconds) = signalled(spawn(dir.path(), &args), Duration::from_secs(4), "-TERM");
    is_interrupted(&output, "0 of 2 runs are finished in o");
    assert!(seconds < 4.0, "{seconds} s");
    let run = fs::read_dir(dir.path().join("o/runs")).unwrap().next().unwrap().unwrap().path().join("none");
    assert_eq!(fs::read_dir(run).unwrap().count(), 0, "nothing of an unfinished run is kept");
}
