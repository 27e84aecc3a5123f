//! What is known of a device, and of one launch on it.

use serde::Serialize;

/// Which backend a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The virtual GPU on this machine's CPU.
    Vm,
    /// A CUDA GPU.
    Cuda,
    /// None: nothing runs, everything is counted; see [`Device::dry`](super::Device::dry).
    Dry,
}

/// What is known about a device without running anything on it.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// What [`Device::open`](super::Device::open) takes: `vm`, `cuda:0`.
    pub id: String,
    /// Which backend.
    pub kind: DeviceKind,
    /// The product name, or the CPU of the VM.
    pub name: String,
    /// Total memory in bytes; for the VM that of the host.
    pub memory: usize,
    /// Compute capability. The VM's is that of the PTX it runs.
    pub compute_capability: Option<(u32, u32)>,
    /// The newest CUDA version that the driver knows.
    pub driver: Option<(u32, u32)>,
    /// Streaming multiprocessors; of the VM, threads.
    pub units: usize,
    /// PCI bus id of a GPU: what other tools of the driver know it by.
    pub pci: Option<String>,
    /// Why the device cannot be used; `None` when it can.
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
    /// What can still be allocated.
    pub free: usize,
    /// What there is.
    pub total: usize,
}

/// What a launch does, from the shapes of its arguments: a figure of the task, not of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Operations of its matrix products, two a multiply-add. What surrounds them is not counted.
    pub flops: u64,
    /// The least it has to read: every argument once.
    pub bytes_read: u64,
    /// The least it has to write.
    pub bytes_written: u64,
}

impl Work {
    /// The least it has to move.
    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }
}

/// One launch, as errors and observers see it.
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
    /// What it does, where the launcher said so.
    pub work: Work,
}
