//! Running kernels: warps and blocks, the worker threads, the device.

mod adverse;
mod block;
mod cluster;
mod config;
mod launch;
mod meeting;
mod order;
mod pool;
mod vm;

pub use config::{Launch, LaunchStats, MmaRounding, VmConfig};
pub use vm::Vm;
