//! Running kernels: handlers, warps and blocks, the worker threads, the device.

mod adverse;
pub(crate) mod alu;
pub(crate) mod block;
pub(crate) mod control;
pub(crate) mod mbarrier;
pub(crate) mod mem;
pub(crate) mod op;
pub(crate) mod ops;
mod order;
mod pool;
pub(crate) mod runtime;
mod vm;

pub use vm::{Launch, LaunchStats, MmaRounding, Vm, VmConfig};
