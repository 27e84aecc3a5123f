//! Device memory: bounds-checked allocations behind virtual addresses.

mod global;

pub(crate) use global::{Allocation, Table};

/// A device address. Null is 0; every allocation starts at a multiple of 256.
pub type DevicePtr = u64;
