//! What the library promises to those who build on it: an interface that may grow (read from its sources), and kernels of their own.

mod common;
#[allow(dead_code)]
#[path = "../examples/own_kernel.rs"]
mod own_kernel;

use std::fs;
use std::path::{Path, PathBuf};

use adacache::device::DeviceError;
use common::checked_devices as devices;

/// Enums that hold all there can be: a match of them may be complete.
const CLOSED: [&str; 1] = ["Media"];
/// Crates before 1.0, or of which only one version can be used: their types would tie ours to them.
const PRIVATE: [&str; 2] = ["toml", "tokenizers"];

fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("src/bin") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

#[test]
fn public_enums_may_grow() {
    let (mut seen, mut closed) = (0, vec![]);
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let Some(name) = line.trim_start().strip_prefix("pub enum ") else { continue };
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            seen += 1;
            let attributes = lines[..i].iter().rev().map(|line| line.trim());
            let mut attributes =
                attributes.take_while(|line| line.starts_with('#') || line.starts_with("///") || line.ends_with(")]"));
            if !attributes.any(|line| line == "#[non_exhaustive]") && !CLOSED.contains(&name) {
                closed.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(seen > 50, "{seen} enums found");
    assert!(closed.is_empty(), "without #[non_exhaustive]: {closed:#?}");
}

/// Fields, variants, `From` and results of public functions: no line that begins like one of these names a private crate.
#[test]
fn other_crates_types_stay_inside() {
    let mut shown = vec![];
    for (path, text) in sources() {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().map(str::trim_start) {
            let public = line.starts_with("pub ") || line.contains("#[from]") || line.starts_with("source:");
            let public = public || line.starts_with("impl From<");
            if public && PRIVATE.iter().any(|name| line.contains(&format!("{name}::"))) {
                shown.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert!(shown.is_empty(), "{shown:#?}");
}

/// Memory by elements: what is written is what is read, and nothing outside it.
#[test]
fn typed_copies_count_elements() {
    for device in devices() {
        let memory = device.alloc_slice(&[1.5f32, 2.5, 3.5, 4.5]).unwrap();
        assert_eq!(memory.bytes(), 16);
        device.upload_slice(&memory, 2, &[7.0f32]).unwrap();
        assert_eq!(device.download_vec::<f32>(&memory, 1, 3).unwrap(), [2.5, 7.0, 4.5]);
        assert_eq!(device.download_vec::<u64>(&memory, 1, 1).unwrap()[0] as u32, 7.0f32.to_bits());
        let mut two = [[0u16; 2]; 2];
        device.download_slice(&memory, 0, &mut two).unwrap();
        assert_eq!(bytemuck::cast::<_, [f32; 2]>(two), [1.5, 2.5]);
        let outside = |result: Result<(), DeviceError>| {
            assert!(matches!(result, Err(DeviceError::OutOfRange { .. })), "{result:?}");
        };
        outside(device.upload_slice(&memory, 4, &[0.0f32]));
        outside(device.download_vec::<f32>(&memory, 0, 5).map(drop));
        outside(device.download_vec::<f64>(&memory, usize::MAX, 1).map(drop));
        outside(device.download_vec::<f64>(&memory, 0, usize::MAX).map(drop));
        assert!(device.download_vec::<u8>(&device.alloc_slice::<u8>(&[]).unwrap(), 0, 0).unwrap().is_empty());
    }
}

/// The example's kernel, which is outside the crate.
#[test]
fn a_kernel_from_outside_the_crate_runs() {
    for device in devices() {
        for count in [1, 128, 300] {
            let x: Vec<f32> = (0..count).map(|i| i as f32 - 7.0).collect();
            let y = own_kernel::scaled(&device, -0.25, &x).unwrap();
            assert!(x.iter().zip(&y).all(|(x, y)| *y == -0.25 * x) && y.len() == count, "{y:?}");
        }
    }
}
