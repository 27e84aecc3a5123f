//! Open-Sora's checkpoint from the hub or a folder to a generation, with a small random one in the published layout
//! (tests/goldens/opensora_tiny, made by tools/tiny_opensora.py); and every way in which it can be incomplete.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod conditions;
mod downloads;
mod formats;
mod generate;
mod pull;
mod server;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{names, text};

pub(crate) const MODEL: &str = "cache/opensora-v1.2";
pub(crate) const PROMPT: &str = "A white cat walking through tall grass at sunset.";

/// A picture of one step, without the name of its file.
pub(crate) const GENERATE: [&str; 11] =
    ["generate", "--model", "opensora-v1.2", PROMPT, "--size", "16x16", "--frames", "1", "--steps", "1", "--out"];

pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/opensora_tiny").join(path)
}

/// Runs `adacache` in `folder`, which is also its cache.
pub(crate) fn adacache(folder: &Path, args: &[&str]) -> Output {
    let mut command = common::command(folder, args);
    command.env("ADACACHE_HOME", folder.join("cache")).env("HF_HOME", folder.join("hf"));
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    // Nobody listens there: nothing may go to the network.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.output().expect("the binary runs")
}

#[track_caller]
pub(crate) fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = adacache(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
pub(crate) fn fails(folder: &Path, args: &[&str], parts: &[&str]) {
    let output = adacache(folder, args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: `{part}` is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// The published repositories side by side in `folder`/files, the autoencoder that of its reference case.
pub(crate) fn repositories(folder: &Path) -> PathBuf {
    let files = folder.join("files");
    for name in ["OpenSora-STDiT-v3", "t5-v1_1-xxl"] {
        copy(&golden(name), &files.join(name));
    }
    let (vae, case) = (files.join("OpenSora-VAE-v1.2"), golden("../opensora_vae_a"));
    fs::create_dir_all(&vae).unwrap();
    fs::copy(case.join("case.json"), vae.join("config.json")).unwrap();
    fs::copy(case.join("model.safetensors"), vae.join("model.safetensors")).unwrap();
    files
}

/// A folder with the pulled checkpoint.
pub(crate) fn pulled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    repositories(dir.path());
    succeeds(dir.path(), &["pull", "opensora-v1.2", "--from", "files"]);
    dir
}
