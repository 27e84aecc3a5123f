//! Opening devices, by name or by kind.

use std::sync::Arc;

use ptx_vm::{MmaRounding, VmConfig};

use super::backend::Result;
use super::core::Device;
use super::dry::{self, DryConfig};
use super::error::DeviceError;
use super::info::DeviceInfo;
use super::interrupt::Interruption;
use super::{cuda, vm};

impl Device {
    /// Opens a device by name: `auto` (the first usable GPU, else the VM), `vm`, `vm:checked` (which also finds races, uninitialised reads
    /// and divergent barriers, several times slower), `vm:truncate` (whose tensor cores truncate sums as hardware does, instead of
    /// rounding), `vm:adverse:SEED` (which takes every liberty that hardware has: warps and blocks out of order, copies and stores as late
    /// as allowed, poison in fresh memory), `cuda` (the first GPU) or `cuda:N`.
    ///
    /// # Errors
    /// [`DeviceError::UnknownDevice`] for another name; [`DeviceError::NoDriver`], [`DeviceError::DriverTooOld`],
    /// [`DeviceError::NoDevice`], [`DeviceError::Unsupported`] or [`DeviceError::Driver`] if the requested GPU cannot be used. `auto` and
    /// `vm` always succeed; if a GPU is expected and `auto` cannot use it, a warning (of `tracing`) says why.
    pub fn open(spec: &str) -> Result<Self> {
        match spec {
            "auto" => Ok(Self::usable_gpu().unwrap_or_else(|reason| {
                if let Some(reason) = reason {
                    tracing::warn!("taking the virtual GPU, as no other can be used: {reason}");
                }
                Self::vm(VmConfig::default())
            })),
            "vm" => Ok(Self::vm(VmConfig::default())),
            "vm:checked" => Ok(Self::vm(VmConfig { checked: true, ..VmConfig::default() })),
            "vm:truncate" => Ok(Self::vm(VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() })),
            "cuda" => Self::cuda(0),
            _ => {
                let number = |prefix| spec.strip_prefix(prefix).map(str::parse);
                match (number("cuda:"), spec.strip_prefix("vm:adverse:").map(str::parse)) {
                    (Some(Ok(ordinal)), _) => Self::cuda(ordinal),
                    (_, Some(Ok(seed))) => Ok(Self::vm(VmConfig::adverse(seed))),
                    _ => Err(DeviceError::UnknownDevice { spec: spec.into() }),
                }
            }
        }
    }

    /// The first GPU that opens, or the reason why there is none: nothing if none is expected.
    fn usable_gpu() -> Result<Self, Option<String>> {
        let mut reason = None;
        for ordinal in cuda::usable()? {
            match Self::cuda(ordinal) {
                Ok(device) => return Ok(device),
                Err(error) => reason = reason.or(Some(error.to_string())),
            }
        }
        Err(reason)
    }

    /// A virtual GPU with its own memory.
    pub fn vm(config: VmConfig) -> Self {
        Self::vm_with(config, Arc::default())
    }

    /// As [`Device::vm`], for work alongside this device's: interrupting one interrupts the other.
    pub fn vm_beside(&self, config: VmConfig) -> Self {
        Self::vm_with(config, self.0.interruption.clone())
    }

    fn vm_with(config: VmConfig, interruption: Arc<Interruption>) -> Self {
        let info = vm::info(&config);
        Self::new(Box::new(vm::VmBackend::new(config)), info, interruption)
    }

    /// The CUDA GPU with this ordinal.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let (backend, info) = cuda::CudaBackend::open(ordinal)?;
        Ok(Self::new(Box::new(backend), info, Arc::default()))
    }

    /// A device that runs nothing: memory is only counted, launches are only reported to the observer, and read-backs return zeros. With
    /// it, the same code that generates a video reports the resources that this would need.
    pub fn dry(config: DryConfig) -> Self {
        let (backend, info) = dry::DryBackend::new(config);
        Self::new(Box::new(backend), info, Arc::default())
    }

    /// A dry device like this one, of endless memory: to count what something needs here.
    pub fn counting(&self) -> Self {
        let info = self.info();
        Self::dry(DryConfig {
            name: "count".into(),
            memory: isize::MAX as usize,
            units: info.units,
            compute_capability: info.compute_capability.unwrap_or((8, 0)),
        })
    }

    /// Every device of this machine: the GPUs, or one entry with the reason why there is none, then the VM.
    pub fn list() -> Vec<DeviceInfo> {
        let mut devices = cuda::list();
        devices.push(vm::info(&VmConfig::default()));
        devices
    }
}
