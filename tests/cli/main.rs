//! The `adacache` command as its users meet it: outputs, exit statuses, messages, and what is left behind. A file for each command.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod calibrate;
mod check;
mod compare;
mod devices;
mod experts;
mod face;
mod generate;
mod gpu_first;
mod kept;
mod latte;
mod measure;
mod model;
mod official;
mod output;
mod paper;
mod plan;
mod replay;
mod study;
mod ti2v;
mod wan;

use std::path::Path;
use std::process::Output;

use common::{command, names, text};

const PROMPT: &str = "large red circle bouncing fast navy";

/// Runs `adacache` in `folder`, on the device of the tests.
fn adacache(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().expect("the binary runs")
}

/// The run must fail with status `status`, say every one of `parts`, and leave no new file in `folder`.
#[track_caller]
fn fails(folder: &Path, args: &[&str], status: i32, parts: &[&str]) {
    let before = names(folder);
    let output = adacache(folder, args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: `{part}` is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(names(folder), before, "{args:?} left something behind");
}

#[track_caller]
fn succeeds(folder: &Path, args: &[&str]) -> Output {
    let output = adacache(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    output
}
