//! `tools/gpu_first.sh`, which runs most commands on a machine with a GPU.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{self, text};

/// What goes to a machine with a GPU, with small sizes on the device of the tests: one folder, without the repository and without cargo.
#[test]
fn the_first_contact_with_a_gpu_is_rehearsed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu_first.sh");
    fs::create_dir(at("path")).unwrap();
    let path = format!("{}:{}", at("path").display(), std::env::var("PATH").unwrap());
    let bash = |script: &Path, args: &[&str]| {
        let mut command = Command::new("bash");
        command.arg(script).args(args).current_dir(dir.path()).env("PATH", &path);
        command.env("ADACACHE_DEVICE", common::device_name()).output().expect("bash runs")
    };
    let (kit, binary) = (at("kit"), env!("CARGO_BIN_EXE_adacache"));
    let output =
        bash(&script, &["prepare", "--quick", "--no-tests", "--binary", binary, "--out", kit.to_str().unwrap()]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));

    // From here on a cargo that leaves a trace.
    fs::write(at("path/cargo"), format!("#!/bin/sh\ntouch {}\nexit 1\n", at("asked").display())).unwrap();
    fs::set_permissions(at("path/cargo"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = kit.join("gpu_first.sh");
    let parts = "facts,jit,sprites,goldens,tests,bench,full,drills,extras";
    let output = bash(&script, &["run", "--quick", "--only", parts]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for check in ["bf16-graphs=vm", "f32-streamed=f32-graphs", "interval", "memory-runs-out", "SIGINT", "SIGTERM"] {
        assert!(said.contains(&format!("ok       {check}")), "{check}: {said}");
    }
    assert!(said.contains("prepared with --no-tests"), "{said}");

    let output = bash(&script, &["report", kit.join("results.tar.gz").to_str().unwrap()]);
    let (report, vm) = (text(&output.stdout), common::device_is_vm());
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    assert_eq!(report.contains("not a GPU's"), vm, "{report}");
    for row in ["| bench | linear bias m=512 n=384 k=128 bf16 |", "| **tests** |  | skipped |", "| full | interval: "] {
        assert!(report.contains(row), "{row}: {report}");
    }
    assert!(!report.contains("**FAILED**") && !report.contains("**ncu**"), "{report}");

    let output = bash(&script, &["run", "--device", "cuda:63", "--out", "none"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("no GPU cuda:63") && message.contains("--device vm"), "{message}");
    assert!(!at("none").exists() && !at("asked").exists());
    let damaged = bash(&script, &["run", "--archive", script.to_str().unwrap()]);
    assert_eq!(damaged.status.code(), Some(2), "{}", text(&damaged.stderr));
}
