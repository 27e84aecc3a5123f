//! Copies from the host that run beside the work: weights that do not fit on the device come while what is before them still computes.

use super::backend::{Handle, Result};
use super::core::{Device, Memory};
use super::error::DeviceError;
use super::recording::Command;
use std::sync::atomic::Ordering;

/// Host memory that a device copies from while it computes: page-locked where there is a GPU.
pub struct HostMemory {
    handle: Handle,
    bytes: usize,
    /// Behind the handle: page-locked memory goes back to a driver that still lives.
    device: Device,
}

impl HostMemory {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl std::fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostMemory({} bytes, {})", self.bytes, self.device.info().id)
    }
}

impl Device {
    /// Host memory with this content, for [`Device::fetch`].
    ///
    /// # Errors
    /// When the driver cannot lock so much of the host's memory.
    pub fn pin(&self, content: Vec<u8>) -> Result<HostMemory> {
        self.going()?;
        let bytes = content.len();
        Ok(HostMemory { handle: self.0.backend.pin(content)?, bytes, device: self.clone() })
    }

    /// Starts copying all of `src` to `dst[offset..]`: behind everything queued so far, beside what is queued from now on, until
    /// [`Device::fetched`] makes what follows wait for it. Meanwhile `dst` holds nothing: the virtual GPU fills it with NaN.
    ///
    /// It may be recorded. A graph is done when what it fetches is there.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::ForeignMemory`], or what the driver says.
    pub fn fetch(&self, dst: &Memory, offset: usize, src: &HostMemory) -> Result<()> {
        if !self.same(&src.device) {
            let owner = src.device.0.info.id.clone();
            return Err(DeviceError::ForeignMemory { device: self.0.info.id.clone(), owner });
        }
        let (dst, bytes) = (self.address(dst, offset, src.bytes)?, src.bytes);
        if bytes == 0 || self.recorded(|| Command::Fetch { dst, src: src.handle.clone(), bytes }) {
            return Ok(());
        }
        self.going()?;
        self.observed("fetch", bytes, bytes, || self.0.backend.fetch(dst, &src.handle))
    }

    /// What is queued from now on sees what was last fetched to `dst[offset..]`. Does nothing if that is there already.
    ///
    /// # Errors
    /// As [`Device::fetch`].
    pub fn fetched(&self, dst: &Memory, offset: usize) -> Result<()> {
        let dst = self.address(dst, offset, 0)?;
        if self.recorded(|| Command::Fetched { dst }) {
            return Ok(());
        }
        self.0.backend.fetched(dst)
    }

    /// Bounds what may be allocated on this device at once, in bytes; `None`: what there is. [`Device::memory`] counts within it.
    ///
    /// What the driver takes for itself (its context, the kernels' code) is not counted.
    pub fn limit_memory(&self, bytes: Option<usize>) {
        self.0.limit.store(bytes.unwrap_or(usize::MAX), Ordering::Relaxed);
    }
}
