//! `adacache devices`, and a device that is not there.

use crate::common::{self, names, text};
use crate::{PROMPT, adacache, succeeds};

#[test]
fn devices_lists_the_virtual_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let output = succeeds(dir.path(), &["devices"]);
    assert!(text(&output.stdout).lines().any(|line| line.starts_with("vm")));
}

#[test]
fn cuda_without_a_driver_is_a_clear_error() {
    if common::gpu().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = adacache(dir.path(), &["generate", PROMPT, "--device", "cuda"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    // No driver, or a GPU older than Ampere; or a driver without any GPU.
    assert!(message.contains("--device vm") || message.contains("`adacache devices`"), "{message}");
    assert!(names(dir.path()).is_empty());
}
