//! Memory by the type of its elements instead of by bytes: for kernels of your own.

use bytemuck::{Pod, Zeroable};

use super::backend::Result;
use super::core::{Device, Memory};

impl Device {
    /// Allocates memory with this content.
    ///
    /// ```
    /// use adacache::device::{Device, VmConfig};
    ///
    /// let device = Device::vm(VmConfig::default());
    /// let memory = device.alloc_slice(&[1.0f32, 2.0, 3.0])?;
    /// device.upload_slice(&memory, 1, &[5.0f32])?;
    /// assert_eq!(device.download_vec::<f32>(&memory, 0, 3)?, [1.0, 5.0, 3.0]);
    /// # Ok::<(), adacache::device::DeviceError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Device::alloc`] and [`Device::upload`].
    pub fn alloc_slice<T: Pod>(&self, values: &[T]) -> Result<Memory> {
        let memory = self.alloc(size_of_val(values))?;
        self.upload_slice(&memory, 0, values)?;
        Ok(memory)
    }

    /// Copies values to `dst`, from element `offset` of this type on.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn upload_slice<T: Pod>(&self, dst: &Memory, offset: usize, values: &[T]) -> Result<()> {
        self.upload(dst, bytes_before::<T>(offset), bytemuck::cast_slice(values))
    }

    /// Copies values from `src`, from element `offset` of this type on, after all work queued before.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn download_slice<T: Pod>(&self, src: &Memory, offset: usize, values: &mut [T]) -> Result<()> {
        self.download(src, bytes_before::<T>(offset), bytemuck::cast_slice_mut(values))
    }

    /// As [`Device::download_slice`], `count` values.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn download_vec<T: Pod>(&self, src: &Memory, offset: usize, count: usize) -> Result<Vec<T>> {
        // Before the values are allocated: a count beyond the memory is an error, not the end of the program.
        let bytes = count.saturating_mul(size_of::<T>());
        self.address(src, bytes_before::<T>(offset), bytes)?;
        let mut values = vec![<T as Zeroable>::zeroed(); count];
        self.download_slice(src, offset, &mut values)?;
        Ok(values)
    }
}

/// Where element `offset` begins; beyond every memory if it has no address.
fn bytes_before<T>(offset: usize) -> usize {
    offset.saturating_mul(size_of::<T>())
}
