//! Running kernels: warps and blocks, the worker threads, the device.

mod adverse;
mod block;
mod order;
mod pool;
mod vm;

pub use vm::{Launch, LaunchStats, MmaRounding, Vm, VmConfig};
