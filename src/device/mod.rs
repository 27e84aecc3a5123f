//! Devices that run kernels: one [`Device`] type over two backends, a CUDA GPU and the virtual GPU `ptx-vm`.
//!
//! Both run the same PTX. A device owns one stream: uploads, launches and read-backs execute in the order in which they were
//! requested. Handles are cheap to clone, free their resources when the last clone is dropped, and may be used from any thread.
//!
//! ```
//! use adacache::device::Device;
//! # fn main() -> Result<(), adacache::device::DeviceError> {
//! let device = Device::open("auto")?; // a GPU when a driver answers, else the virtual GPU
//! let memory = device.alloc_slice(&[1.0f32, 2.0, 3.0, 4.0])?;
//! assert_eq!(device.download_vec::<f32>(&memory, 1, 2)?, [2.0, 3.0]);
//! # Ok(())
//! # }
//! ```

mod backend;
mod core;
mod cuda;
mod dry;
mod error;
mod fetch;
mod gather;
mod graph;
mod group;
mod info;
mod interrupt;
mod kernel;
mod module;
mod open;
mod recording;
mod tensor_map;
mod typed;
mod vm;

pub use core::{Device, Event, LaunchObserver, Memory, PendingRead};
pub use dry::DryConfig;
pub use error::{DeviceError, GpuFault};
pub use fetch::{HEADROOM, HostMemory};
pub use graph::Graph;
pub use group::Rank;
pub use info::{DeviceInfo, DeviceKind, Launch, MemoryInfo, Work};
pub use interrupt::Interrupter;
pub use kernel::Kernel;
pub use module::{Architecture, KERNELS, Module};
pub use ptx_vm::{LaunchStats, MmaRounding, TensorMap, TensorSwizzle, TensorType, VmConfig};
pub use tensor_map::EncodedTensorMap;
