//! Running kernels.

mod vm;
pub use vm::{Launch, LaunchStats, Vm, VmConfig};
