//! The GPUs of this machine, and whether they can be used.

use cudarc::driver::sys::{CUdevice, CUdevice_attribute};

use super::driver::{self, Code, Driver, Failure};
use super::handles::device_attribute;
use super::module::check_driver;
use crate::device::error::DeviceError;
use crate::device::info::{DeviceInfo, DeviceKind};

/// The oldest GPU that has `mma` on bf16 and `cp.async`.
const OLDEST: (u32, u32) = (8, 0);

/// The initialised driver, and the `(major, minor)` of the CUDA version that it supports.
pub(super) fn driver() -> Result<(&'static Driver, (u32, u32)), driver::Absent> {
    let driver = Driver::get().map_err(Clone::clone)?;
    let mut version = 0;
    // SAFETY: there are no flags; `version` is a valid place for an int.
    let answer = unsafe { driver.init(0).and_then(|()| driver.driver_version(&mut version)) };
    answer.map_err(|failure| no_answer(driver, failure))?;
    let version = version.max(0) as u32;
    Ok((driver, (version / 1000, version % 1000 / 10)))
}

/// Why an installed driver does not initialise.
pub(super) fn no_answer(driver: &Driver, failure: Failure) -> driver::Absent {
    let library = driver.library();
    if failure.code == Code::STUB_LIBRARY {
        let reason = format!(
            "{library} is a toolkit's stub for linking (CUDA_ERROR_STUB_LIBRARY): remove its folder from LD_LIBRARY_PATH"
        );
        return driver::Absent { reason, ordinary: false };
    }
    // A driver may be installed where there is no GPU, and a GPU may be hidden.
    let hidden = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    let ordinary = failure.code == Code::NO_DEVICE && (hidden || !driver::kernel_driver());
    driver::Absent { reason: format!("{library} is there, but {}", driver.words(failure)), ordinary }
}

/// Every GPU, or one entry with the reason why there is none.
pub(in crate::device) fn list() -> Vec<DeviceInfo> {
    gpus().unwrap_or_else(|driver::Absent { reason, .. }| {
        vec![DeviceInfo {
            id: "cuda".into(),
            kind: DeviceKind::Cuda,
            name: "NVIDIA GPU".into(),
            memory: 0,
            compute_capability: None,
            driver: None,
            units: 0,
            pci: None,
            unavailable: Some(DeviceError::NoDriver { reason }.to_string()),
        }]
    })
}

/// The ordinals of the usable GPUs, in order. If there are none: the reason, unless this is normal for a machine without a GPU.
pub(in crate::device) fn usable() -> Result<Vec<usize>, Option<String>> {
    let gpus = gpus().map_err(|driver::Absent { reason, ordinary }| (!ordinary).then_some(reason))?;
    let ordinals: Vec<usize> =
        gpus.iter().enumerate().filter(|(_, gpu)| gpu.unavailable.is_none()).map(|(ordinal, _)| ordinal).collect();
    match gpus.into_iter().find_map(|gpu| gpu.unavailable) {
        reason @ Some(_) if ordinals.is_empty() => Err(reason),
        _ => Ok(ordinals),
    }
}

/// Every GPU; never an empty list.
pub(super) fn gpus() -> Result<Vec<DeviceInfo>, driver::Absent> {
    let (driver, version) = driver()?;
    match count(driver) {
        Ok(0) => Err(no_answer(driver, Failure { call: "cuDeviceGetCount", code: Code::NO_DEVICE })),
        Ok(count) => Ok((0..count).map(|ordinal| info(driver, ordinal, version)).collect()),
        Err(failure) => Err(no_answer(driver, failure)),
    }
}

pub(super) fn count(driver: &Driver) -> Result<usize, Failure> {
    let mut count = 0;
    // SAFETY: `count` is a valid place.
    unsafe { driver.device_count(&mut count) }?;
    Ok(count.max(0) as usize)
}

/// Facts about a GPU, determined without a context on it. The driver must be initialised.
pub(super) fn info(driver: &Driver, ordinal: usize, version: (u32, u32)) -> DeviceInfo {
    let unknown = DeviceInfo {
        id: format!("cuda:{ordinal}"),
        kind: DeviceKind::Cuda,
        name: "NVIDIA GPU".into(),
        memory: 0,
        compute_capability: None,
        driver: Some(version),
        units: 0,
        pci: None,
        unavailable: None,
    };
    match facts(driver, ordinal, unknown.clone()) {
        Ok(info) => DeviceInfo { unavailable: unsuitable(&info).map(|error| error.to_string()), ..info },
        Err(failure) => DeviceInfo { unavailable: Some(driver.words(failure)), ..unknown },
    }
}

pub(super) fn facts(driver: &Driver, ordinal: usize, unknown: DeviceInfo) -> Result<DeviceInfo, Failure> {
    use CUdevice_attribute::*;
    let device = device(driver, ordinal)?;
    let attribute = |attribute| device_attribute(driver, device, attribute);
    let capability = (
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let mut memory = 0;
    // SAFETY: `memory` is a valid place, `device` comes from the driver.
    unsafe { driver.device_memory(&mut memory, device) }?;
    // SAFETY: the driver is given room for so many characters.
    let name = text(|at, length| unsafe { driver.device_name(at, length, device) })?;
    // SAFETY: as above.
    let pci = text(|at, length| unsafe { driver.device_pci_bus_id(at, length, device) });
    Ok(DeviceInfo {
        name,
        memory,
        compute_capability: Some(capability),
        units: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        pci: pci.ok(), // `0000:3b:00.0`, say.
        ..unknown
    })
}

pub(super) fn device(driver: &Driver, ordinal: usize) -> Result<CUdevice, Failure> {
    let mut device = 0;
    // SAFETY: `device` is a valid place.
    unsafe { driver.device(&mut device, ordinal as i32) }?;
    Ok(device)
}

/// A text that the driver writes to a buffer of at most this many characters, with a terminating NUL.
pub(super) fn text(write: impl FnOnce(*mut std::ffi::c_char, i32) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut text = [0 as std::ffi::c_char; 256];
    write(text.as_mut_ptr(), text.len() as i32)?;
    let bytes: Vec<u8> = text.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Why a GPU cannot run our kernels, if so.
pub(super) fn unsuitable(info: &DeviceInfo) -> Option<DeviceError> {
    if let Some((major, minor)) = info.compute_capability.filter(|&capability| capability < OLDEST) {
        return Some(DeviceError::Unsupported { device: info.label(), major, minor });
    }
    check_driver(info.driver?).err()
}
