//! The driver's library in whatever state a machine may have it: the reason in one line, `auto` goes on without, nothing panics.
//!
//! Each library is made here, of a few lines of C, and put where the program looks first. What a whole driver says is tested on one.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// The driver functions that the program needs, from its table.
fn symbols() -> Vec<&'static str> {
    let table = include_str!("../src/device/cuda/driver.rs");
    let names = table.lines().filter_map(|line| {
        let name = line.trim().split_once(" = ")?.1.split_once('(')?.0;
        (name.starts_with("cu") && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some(name)
    });
    names.collect()
}

/// A folder with a `libcuda.so.1` of this C.
fn library(code: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("cuda.c");
    fs::write(&source, code).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-w", "-o"]).arg(folder.path().join("libcuda.so.1")).arg(&source);
    assert!(compiler.status().expect("a C compiler").success());
    folder
}

/// A library with all functions, each answering 0, but for these bodies in C.
fn driver(bodies: &[(&str, &str)]) -> TempDir {
    let function = |name: &&str| {
        let body = bodies.iter().find(|(of, _)| of == name).map_or("return 0;", |(_, body)| body);
        match *name {
            "cuGetErrorName" => {
                format!("int {name}(int code, const char **text) {{ *text = \"CUDA_ERROR_{name}\"; return 1; }}\n")
            }
            "cuDriverGetVersion" | "cuDeviceGetCount" => format!("int {name}(int *value) {{ *value = 1; {body} }}\n"),
            "cuDeviceGetAttribute" => format!("int {name}(int *value, int attribute, int device) {{ {body} }}\n"),
            _ => format!("int {name}() {{ {body} }}\n"),
        }
    };
    library(&symbols().iter().map(function).collect::<String>())
}

fn run(folder: &Path, args: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
    command.env("LD_LIBRARY_PATH", folder).env_remove("ADACACHE_DEVICE").env_remove("CUDA_VISIBLE_DEVICES");
    let output = command.current_dir(folder).args(args).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!message.contains("panicked"), "{message}");
    (output, message)
}

/// `devices` tells `part`, `cuda` fails with it, and `auto` runs on the virtual GPU: with a warning that has it, or without a word.
#[track_caller]
fn is_told(folder: &Path, parts: &[&str], warns: bool) {
    let has_all = |text: &str| parts.iter().all(|part| text.contains(part));
    let (output, message) = run(folder, &["devices"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && message.is_empty(), "{message}");
    let line = list.lines().find(|line| line.starts_with("cuda")).unwrap_or_default();
    assert!(line.contains("not available") && has_all(line), "{list}");
    assert!(list.lines().any(|line| line.starts_with("vm")), "{list}");

    let generate =
        ["generate", "large red circle bouncing fast navy", "--steps", "1", "--quiet", "--out", "x.safetensors"];
    let (output, message) = run(folder, &[&generate[..], &["--device", "cuda"]].concat());
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(has_all(&message) && message.lines().count() == 1, "{message}");
    assert!(!folder.join("x.safetensors").exists());

    let (output, message) = run(folder, &generate);
    assert!(output.status.success() && folder.join("x.safetensors").exists(), "{message}");
    if warns {
        assert!(message.starts_with("warning: taking the virtual GPU") && has_all(&message), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    } else {
        assert_eq!(message, "");
    }
}

#[test]
fn a_library_without_functions_is_named_with_what_it_lacks() {
    let folder = library("int cuInit(int flags) { return 0; }");
    let path = folder.path().join("libcuda.so.1").display().to_string();
    is_told(folder.path(), &[&path, "lacks cuDriverGetVersion, cuDeviceGetCount, cuDeviceGet and ", "stub"], true);
}

#[test]
fn a_library_with_one_function_missing_is_no_driver() {
    let code = symbols()
        .into_iter()
        .filter(|name| *name != "cuGraphUpload")
        .map(|name| format!("int {name}() {{ return 0; }}\n"));
    let folder = library(&code.collect::<String>());
    is_told(folder.path(), &["lacks cuGraphUpload:"], true);
}

/// Whether the system's own folders have a driver's library under this name.
fn installed(name: &str) -> bool {
    let list = Command::new("sh").args(["-c", "PATH=$PATH:/sbin:/usr/sbin ldconfig -p"]).output();
    list.is_ok_and(|list| {
        String::from_utf8_lossy(&list.stdout).lines().any(|line| line.trim().starts_with(&format!("{name} ")))
    })
}

/// Whether the kernel's part of a driver runs, so that a GPU is expected.
fn kernel_driver() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl"].iter().any(|path| Path::new(path).exists())
}

#[test]
fn a_file_that_is_no_library_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libcuda.so.1"), "").unwrap();
    if !installed("libcuda.so") {
        is_told(folder.path(), &["libcuda.so.1 cannot be loaded", "file too short"], true);
    }
}

#[test]
fn a_machine_without_a_driver_is_nothing_to_warn_of() {
    let folder = tempfile::tempdir().unwrap();
    if !installed("libcuda.so.1") && !installed("libcuda.so") {
        is_told(folder.path(), &["libcuda.so.1"], kernel_driver());
    }
}

#[test]
fn the_stub_of_a_toolkit_is_told_by_its_answer() {
    let folder = driver(&[("cuInit", "return 34;")]);
    is_told(folder.path(), &["libcuda.so.1 is a toolkit's stub", "CUDA_ERROR_STUB_LIBRARY", "LD_LIBRARY_PATH"], true);
}

#[test]
fn an_answer_that_no_list_knows_is_told_by_its_number() {
    let folder = driver(&[("cuInit", "return 4711;")]);
    is_told(folder.path(), &["cuInit: error 4711"], true);
}

#[test]
fn a_driver_without_a_gpu_is_nothing_to_warn_of() {
    let folder = driver(&[("cuInit", "return 100;")]);
    is_told(folder.path(), &["cuInit: error 100"], kernel_driver());
}

#[test]
fn a_driver_of_long_ago_is_told_before_the_first_kernel() {
    let attribute = "*value = attribute == 75 ? 8 : 0; return 0;";
    let folder = driver(&[("cuDriverGetVersion", "*value = 11080; return 0;"), ("cuDeviceGetAttribute", attribute)]);
    is_told(folder.path(), &["CUDA 11.8", "needs driver 525", "update it"], true);
}

#[test]
fn a_gpu_of_long_ago_is_told_by_its_capability() {
    let attribute = "*value = attribute == 75 ? 7 : 5; return 0;";
    let folder = driver(&[("cuDriverGetVersion", "*value = 13000; return 0;"), ("cuDeviceGetAttribute", attribute)]);
    is_told(folder.path(), &["compute capability 7.5", "8.0 (Ampere)"], true);
}

/// A device that lists well and does not open: `auto` says so and goes on.
#[test]
fn a_gpu_that_does_not_open_is_told() {
    let attribute = "*value = attribute == 75 ? 8 : 0; return 0;";
    let folder = driver(&[
        ("cuDriverGetVersion", "*value = 13000; return 0;"),
        ("cuDeviceGetAttribute", attribute),
        ("cuDevicePrimaryCtxRetain", "return 46;"),
    ]);
    let generate =
        ["generate", "large red circle bouncing fast navy", "--steps", "1", "--quiet", "--out", "x.safetensors"];
    let (output, message) = run(folder.path(), &[&generate[..], &["--device", "cuda"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("cuDevicePrimaryCtxRetain failed on cuda:0") && message.contains("46"), "{message}");
    let (output, message) = run(folder.path(), &generate);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("warning: taking the virtual GPU") && message.contains("cuDevicePrimaryCtxRetain"),
        "{message}"
    );
    let (output, _) = run(folder.path(), &["devices"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("compute capability 8.0"));
}
