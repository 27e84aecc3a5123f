//! Which devices a test runs on. One variable says so, `ADACACHE_DEVICE`, the one that the programs read:
//!
//! * unset, or `auto`: the virtual GPU, and the first GPU since Ampere where a CUDA driver knows one. No driver and no such GPU are fine; a
//!   driver or a GPU that is there and does not work fails the test.
//! * `cuda`, `cuda:N`: that GPU alone; without it the test fails.
//! * `vm`: the virtual GPU alone. `vm:checked`: the same, with every check on also where the test does not ask for it. `vm:truncate`: the
//!   same, with tensor cores that add as hardware's do. `vm:adverse:SEED`: the same, with every liberty that hardware has. `vm:sm_90`, also
//!   before these words: the same with the kernels for Hopper.
//!
//! Kernels and operations are tested on each of these devices ([`devices`]), whole runs and the command on one of them: the GPU, if there is
//! one ([`device`], [`device_name`]). What is about the virtual GPU as such stays there, and is left out, with a line that says so, where
//! the variable names a GPU ([`vm`]). Faults that tests provoke belong to it: on a GPU they would spoil the context of the whole process.
//!
//! And, at the end, what tests of the `adacache` command share.

// Shared; not every test needs all of it.
#![allow(dead_code)]

pub(crate) mod tiny_vae;
pub(crate) mod written;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use adacache::device::{Device, DeviceError, MmaRounding, VmConfig};

/// What the variable names, if it leaves no choice.
fn wanted() -> Option<String> {
    let spec = std::env::var_os("ADACACHE_DEVICE")?.into_string().expect("ADACACHE_DEVICE is no text");
    (spec != "auto").then_some(spec)
}

/// Every device to test on, the virtual GPU as a user gets it. All are opened anew.
pub(crate) fn devices() -> Vec<Device> {
    devices_with(VmConfig::default())
}

/// As [`devices`], the virtual GPU with every check: a fault in a kernel fails the launch.
pub(crate) fn checked_devices() -> Vec<Device> {
    devices_with(VmConfig { checked: true, ..VmConfig::default() })
}

/// As [`devices`], the virtual GPU with settings of the test.
pub(crate) fn devices_with(config: VmConfig) -> Vec<Device> {
    devices_like(None, config)
}

/// As [`checked_devices`], of compute capability 9.0 alone: the virtual GPU as such a one, and the GPU if it is one.
pub(crate) fn hopper_devices() -> Vec<Device> {
    devices_like(Some((9, 0)), VmConfig { checked: true, ..VmConfig::default() })
}

fn devices_like(capability: Option<(u32, u32)>, config: VmConfig) -> Vec<Device> {
    let fits = |gpu: &Device| capability.is_none() || gpu.info().compute_capability == capability;
    let Some(spec) = wanted() else {
        let vm = capability.map_or_else(|| Device::vm(config.clone()), |c| Device::vm_as(c, config.clone()));
        return std::iter::once(vm).chain(gpu().filter(fits)).collect();
    };
    let named = Device::open(&spec).unwrap_or_else(|error| panic!("ADACACHE_DEVICE={spec}: {error}"));
    if !named.is_vm() {
        return Some(named).filter(fits).into_iter().collect();
    }
    let mode = VmConfig {
        checked: config.checked || spec.ends_with(":checked"),
        mma: if spec.ends_with(":truncate") { MmaRounding::Truncate } else { config.mma },
        ..config
    };
    let mode = match spec.rsplit_once(":adverse:") {
        // The checks would see to it that nothing is late.
        Some((_, seed)) => VmConfig { adverse: seed.parse().ok(), checked: false, ..mode },
        None => mode,
    };
    vec![Device::vm_as(capability.or(named.info().compute_capability).expect("a VM has one"), mode)]
}

/// The one device of a test of whole runs: the GPU, if there is one. Opened anew.
pub(crate) fn device() -> Device {
    devices().pop().expect("there is a device")
}

/// [`device`] by name, as `--device` and the variable take it.
pub(crate) fn device_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| wanted().unwrap_or_else(|| device().info().id.clone()))
}

/// Whether [`device`] is the virtual GPU.
pub(crate) fn device_is_vm() -> bool {
    device_name().starts_with("vm")
}

/// The virtual GPU, for a test of what only it does; none where the variable names a GPU.
pub(crate) fn vm(what: &str, config: VmConfig) -> Option<Device> {
    match wanted().as_deref() {
        None => Some(Device::vm(config)),
        Some(spec) if spec.starts_with("vm") => Some(Device::vm(config)),
        Some(spec) => {
            println!("skipped, as ADACACHE_DEVICE={spec} and it is about the virtual GPU: {what}");
            None
        }
    }
}

/// The first GPU since Ampere; none where there is no driver, or none that knows such a GPU.
pub(crate) fn gpu() -> Option<Device> {
    // Asked of the system, not of the code under test.
    // SAFETY: it only tries to open the library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return None;
    }
    let mut ordinal = 0;
    loop {
        match Device::cuda(ordinal) {
            Ok(device) => return Some(device),
            Err(DeviceError::Unsupported { .. }) => ordinal += 1,
            Err(DeviceError::NoDevice { .. }) => return None,
            // What a driver says when it is asked for anything where there is no GPU.
            Err(error) if error.to_string().contains("CUDA_ERROR_NO_DEVICE") => return None,
            Err(error) => panic!("cuda:{ordinal} does not work: {error} (ADACACHE_DEVICE=vm tests without it)"),
        }
    }
}

/// `adacache` in `folder`, on the device of the tests.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
    command.current_dir(folder).args(args).env("ADACACHE_DEVICE", device_name());
    command
}

/// What a program said.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Begin, end and name of a slice of a trace.
type Slice<'a> = (i64, i64, &'a str);

/// Whether the slices of every track of a Chrome trace nest, as viewers demand: two of them are apart, or one lies within the other. Times
/// are compared in whole nanoseconds, which is what Perfetto keeps of them.
#[track_caller]
pub(crate) fn assert_nests(profile: &serde_json::Value) {
    let events = profile["traceEvents"].as_array().expect("a trace has events");
    let mut tracks: BTreeMap<(u64, u64), Vec<Slice<'_>>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let nanoseconds = |field: &str| (event[field].as_f64().expect("a slice has times") * 1000.0) as i64;
        let (start, duration) = (nanoseconds("ts"), nanoseconds("dur"));
        assert!(start >= 0 && duration >= 0, "{event}");
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        tracks.entry(track).or_default().push((start, start + duration, event["name"].as_str().unwrap()));
    }
    assert!(tracks.len() >= 2, "launches and steps");
    for (track, mut slices) in tracks {
        // A slice before those within it.
        slices.sort_by_key(|(start, end, _)| (*start, -end));
        let mut open: Vec<Slice<'_>> = vec![];
        for slice in slices {
            while open.last().is_some_and(|outer| outer.1 <= slice.0) {
                open.pop();
            }
            if let Some(outer) = open.last() {
                assert!(slice.1 <= outer.1, "track {track:?}: {slice:?} overlaps {outer:?}");
            }
            open.push(slice);
        }
    }
}

/// All files of a folder and of its folders.
pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Changes every bf16 weight in the safetensors files of a folder by up to this share of it, in a pattern.
pub(crate) fn changed_weights(folder: &Path, share: f32) {
    let files = names(folder).into_iter().filter(|name| name.ends_with(".safetensors"));
    for path in files.map(|name| folder.join(name)) {
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (i, pair) in bytes[header..].chunks_exact_mut(2).enumerate() {
            let value = f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
            let changed = value * (1.0 + share * ((i * 37 % 101) as f32 / 50.0 - 1.0));
            pair.copy_from_slice(&((changed.to_bits() >> 16) as u16).to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
    }
}
