//! `adacache devices`: what there is to run on.

use std::process::ExitCode;

use adacache::device::{Device, DeviceInfo, DeviceKind};

use crate::out;

/// List the devices: GPUs of a CUDA driver, and the virtual GPU
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    for device in Device::list() {
        out::line(format_args!("{:<8} {}", device.id, describe(&device)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(device: &DeviceInfo) -> String {
    if let Some(reason) = &device.unavailable {
        return format!("not available: {reason}");
    }
    let mut facts = vec![device.name.clone()];
    if let Some((major, minor)) = device.compute_capability {
        facts.push(format!("compute capability {major}.{minor}"));
    }
    facts.push(format!("{:.1} GiB", device.memory as f64 / (1u64 << 30) as f64));
    facts.push(match device.kind {
        DeviceKind::Vm => format!("{} threads", device.units),
        _ => format!("{} SMs", device.units),
    });
    if let Some((major, minor)) = device.driver {
        facts.push(format!("driver for CUDA {major}.{minor}"));
    }
    facts.join(", ")
}
