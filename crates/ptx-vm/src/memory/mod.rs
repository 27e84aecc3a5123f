//! Device memory: bounds-checked allocations behind virtual addresses.

mod buffer;
mod error;
mod global;
mod heap;
mod live;
mod region;
mod tensor_map;

pub(crate) use buffer::Buffer;
pub use error::MemoryError;
pub(crate) use global::{Allocation, GLOBAL_BASE, Table};
pub(crate) use heap::Heap;
pub use live::Live;
pub use region::Region;
pub use tensor_map::{TENSOR_MAP_BYTES, TensorMap, TensorMapError, TensorSwizzle, TensorType};

/// A device address. Null is 0; every allocation starts at a multiple of 256. Host memory that is mapped has its own addresses.
pub type DevicePtr = u64;

/// Generic addresses of the other spaces: each is a window of 4 GiB below global memory.
pub(crate) const SHARED_WINDOW: u64 = 1 << 36;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 36;
pub(crate) const PARAM_WINDOW: u64 = 3 << 36;
/// Addresses of device functions; nothing can be read there.
pub(crate) const FUNCTION_WINDOW: u64 = 4 << 36;
pub(crate) const WINDOW: u64 = 1 << 32;
