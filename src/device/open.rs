//! Opening devices, by name or by kind.

use std::sync::Arc;

use ptx_vm::VmConfig;

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
    /// as allowed, poison in fresh memory), `cuda` (the first GPU) or `cuda:N`. `vm:sm_90`, also before one of these words
    /// (`vm:sm_90:checked`), is a VM of another compute capability than 8.0: it runs the kernels that are chosen for such a GPU.
    /// `cuda:N:sm_80` is a GPU that counts as one of 8.0: it runs the kernels that all GPUs run.
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
            "cuda" => Self::cuda(0),
            _ => {
                let unknown = || DeviceError::UnknownDevice { spec: spec.into() };
                if let Some((config, capability)) = vm::named(spec) {
                    return Ok(Self::vm_as(capability, config));
                }
                let gpu = spec.strip_prefix("cuda:").ok_or_else(unknown)?;
                let (ordinal, oldest) = gpu.strip_suffix(":sm_80").map_or((gpu, false), |ordinal| (ordinal, true));
                let (backend, mut info) = cuda::CudaBackend::open(ordinal.parse().map_err(|_| unknown())?)?;
                if oldest {
                    info.id = spec.into();
                    info.compute_capability = Some(vm::CAPABILITY);
                }
                Ok(Self::new(Box::new(backend), info, Arc::default()))
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
        Self::vm_as(vm::CAPABILITY, config)
    }

    /// As [`Device::vm`], with the kernels that are chosen for GPUs of this compute capability.
    pub fn vm_as(capability: (u32, u32), config: VmConfig) -> Self {
        Self::vm_with(config, capability, Arc::default())
    }

    /// As [`Device::vm`], for work alongside this device's: interrupting one interrupts the other. Its compute capability is this device's.
    pub fn vm_beside(&self, config: VmConfig) -> Self {
        let capability = self.info().compute_capability.unwrap_or(vm::CAPABILITY);
        Self::vm_with(config, capability, self.0.interruption.clone())
    }

    fn vm_with(config: VmConfig, capability: (u32, u32), interruption: Arc<Interruption>) -> Self {
        let info = vm::info(&config, capability);
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
            compute_capability: info.compute_capability.unwrap_or(vm::CAPABILITY),
        })
    }

    /// Every device of this machine: the GPUs, or one entry with the reason why there is none, then the VM.
    pub fn list() -> Vec<DeviceInfo> {
        let mut devices = cuda::list();
        devices.push(vm::info(&VmConfig::default(), vm::CAPABILITY));
        devices
    }
}
