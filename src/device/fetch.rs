//! Copies from the host that run alongside other work: weights that do not fit on the device arrive while earlier layers still compute.

use super::backend::{Handle, Result};
use super::core::{Device, Memory};
use super::error::DeviceError;
use super::info::DeviceKind;
use super::recording::Command;
use std::sync::atomic::Ordering;

/// Bytes of a GPU's free memory reserved for kernel code, pages that allocations fill only in part, and other programs.
pub const HEADROOM: usize = 512 << 20;

/// Host memory that a device copies from while it computes: page-locked if there is a GPU.
pub struct HostMemory {
    handle: Handle,
    bytes: usize,
    /// Declared after the handle: page-locked memory must be freed while the driver is still alive.
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
    /// The driver cannot page-lock this much host memory.
    pub fn pin(&self, content: Vec<u8>) -> Result<HostMemory> {
        self.going()?;
        let bytes = content.len();
        Ok(HostMemory { handle: self.0.backend.pin(content)?, bytes, device: self.clone() })
    }

    /// Starts copying all of `src` to `dst[offset..]`: after everything queued so far, and concurrently with later work, until
    /// [`Device::fetched`] makes later work wait for it. In the meantime the content of `dst` is undefined: the virtual GPU fills it with
    /// NaN.
    ///
    /// A fetch may be recorded. A graph is done only when its fetches have arrived.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::ForeignMemory`], or errors of the driver.
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

    /// Work queued from now on sees the data last fetched to `dst[offset..]`. Does nothing if it has already arrived.
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

    /// Limits the bytes allocated on this device at once; `None` removes the limit. [`Device::memory`] reports memory within it.
    ///
    /// Memory that the driver uses itself (its context, kernel code) is not counted.
    pub fn limit_memory(&self, bytes: Option<usize>) {
        self.0.limit.store(bytes.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// The bytes that may still be allocated: within the limit, else the free memory of a GPU, less [`HEADROOM`]. `None`: the virtual GPU without
    /// a limit, which keeps everything.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn available(&self) -> Result<Option<usize>> {
        match self.0.limit.load(Ordering::Relaxed) {
            usize::MAX if self.info().kind != DeviceKind::Cuda => Ok(None),
            usize::MAX => Ok(Some(self.memory()?.free.saturating_sub(HEADROOM))),
            limit => Ok(Some(limit.saturating_sub(self.allocated_bytes()))),
        }
    }
}
