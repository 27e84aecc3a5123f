//! Tensor maps: how a kernel for Hopper is told about a tensor whose boxes it copies (`cp.async.bulk.tensor`).

use bytemuck::{Pod, Zeroable};
use ptx_vm::{TENSOR_MAP_BYTES, TensorMap};

use super::core::Device;
use super::error::DeviceError;

/// A tensor map as a device encodes it, for a parameter of a kernel: `const __grid_constant__ CUtensorMap`. What is in it is the driver's affair.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EncodedTensorMap(pub(super) [u8; TENSOR_MAP_BYTES]);

impl Device {
    /// Encodes a tensor map for kernels on this device. It holds the address of the tensor: the caller must ensure that this is valid while
    /// kernels use the map.
    ///
    /// # Errors
    /// [`DeviceError::TensorMap`] for a map that breaks the rules of `cuTensorMapEncodeTiled`, and on a GPU before Hopper.
    pub fn tensor_map(&self, map: &TensorMap) -> Result<EncodedTensorMap, DeviceError> {
        let refused = |reason: String| DeviceError::TensorMap { device: self.info().id.clone(), reason };
        // The driver says of all mistakes that an argument is invalid.
        let encoded = map.encode().map_err(|error| refused(error.to_string()))?;
        if !self.is_vm() && self.info().compute_capability.is_some_and(|capability| capability < (9, 0)) {
            return Err(refused("tensor maps are of GPUs from Hopper (9.0) on".into()));
        }
        self.going()?;
        Ok(EncodedTensorMap(self.0.backend.tensor_map(map, encoded)?))
    }
}
