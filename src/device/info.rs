//! Information about a device, and about one launch on it.

use serde::Serialize;

/// The backend of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The virtual GPU on this machine's CPU.
    Vm,
    /// A CUDA GPU.
    Cuda,
    /// None: nothing runs, everything is counted; see [`Device::dry`](super::Device::dry).
    Dry,
}

/// Facts about a device that are known without running anything on it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// The name for [`Device::open`](super::Device::open): `vm`, `cuda:0`.
    pub id: String,
    /// Which backend.
    pub kind: DeviceKind,
    /// The product name, or the CPU of the VM.
    pub name: String,
    /// Total memory in bytes; for the VM, that of the host.
    pub memory: usize,
    /// Compute capability. The VM's is that of the PTX it runs.
    pub compute_capability: Option<(u32, u32)>,
    /// The newest CUDA version that the driver supports.
    pub driver: Option<(u32, u32)>,
    /// Streaming multiprocessors; for the VM, threads.
    pub units: usize,
    /// PCI bus id of a GPU, by which other driver tools identify it.
    pub pci: Option<String>,
    /// Why the device cannot be used; `None` if it can.
    pub unavailable: Option<String>,
}

impl DeviceInfo {
    /// The label that every timing carries: id and name.
    pub fn label(&self) -> String {
        format!("{} ({})", self.id, self.name)
    }
}

/// Free and total memory, in bytes: the device's, or within [`Device::limit_memory`](super::Device::limit_memory).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Memory that can still be allocated.
    pub free: usize,
    /// Total memory.
    pub total: usize,
}

/// The work of a launch, from the shapes of its arguments: a property of the task, not of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Operations of its matrix products, two per multiply-add. Fused operations around them are not counted.
    pub flops: u64,
    /// The minimum it must read: every argument once.
    pub bytes_read: u64,
    /// The minimum it must write.
    pub bytes_written: u64,
}

impl Work {
    /// The minimum it must move.
    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }
}

/// One launch, as reported in errors and to observers.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Entry name.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Its work, if the launcher specified it.
    pub work: Work,
}
