//! Device errors. Every message says where the error occurred, and what to do about it if that is known.

use super::info::Launch;

/// An error of a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A name that is not valid for [`Device::open`](super::Device::open).
    #[error(
        "unknown device {spec:?}: use auto, vm, vm:checked, vm:truncate, vm:adverse:SEED, vm:sm_90, cuda or cuda:N"
    )]
    UnknownDevice {
        /// The requested name.
        spec: String,
    },
    /// No NVIDIA driver answers on this machine.
    #[error("no CUDA driver: {reason}; install an NVIDIA driver (525 or newer) or use --device vm")]
    NoDriver {
        /// The result of the search.
        reason: String,
    },
    /// The driver has no such GPU.
    #[error("no device cuda:{ordinal}: the driver has {count}; `adacache devices` lists what is there")]
    NoDevice {
        /// The requested ordinal.
        ordinal: usize,
        /// The number of GPUs.
        count: usize,
    },
    /// The GPU is too old for the kernels.
    #[error("{device} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer; use --device vm")]
    Unsupported {
        /// Its id and name.
        device: String,
        /// Compute capability.
        major: u32,
        /// Compute capability.
        minor: u32,
    },
    /// PTX newer than the driver.
    #[error(
        "{module}.ptx is PTX ISA {}.{}, which needs driver {needed} or newer; the driver here knows CUDA {}.{}; update it or use --device vm",
        ptx.0, ptx.1, driver.0, driver.1
    )]
    DriverTooOld {
        /// Module name.
        module: String,
        /// The module's `.version`.
        ptx: (u32, u32),
        /// The driver's CUDA version.
        driver: (u32, u32),
        /// The oldest driver branch that has it.
        needed: String,
    },
    /// An operation that cannot be part of a graph, while one is being recorded.
    #[error("{call} cannot be recorded into a graph")]
    Recording {
        /// The operation.
        call: &'static str,
    },
    /// A module that does not load.
    #[error("cannot load {module}.ptx: {reason}")]
    Load {
        /// Module name.
        module: String,
        /// The loader's message, with the line if known.
        reason: String,
    },
    /// A module without that entry.
    #[error("{module}.ptx has no entry {entry}")]
    NoEntry {
        /// Module name.
        module: String,
        /// The requested entry.
        entry: String,
    },
    /// An allocation that does not fit.
    #[error("out of memory on {device}: asked for {asked} bytes, {free} are free")]
    OutOfMemory {
        /// Device id.
        device: String,
        /// Requested bytes.
        asked: usize,
        /// Bytes free at that moment.
        free: usize,
    },
    /// A range that leaves its allocation.
    #[error("bytes {offset}..{offset}+{bytes} are outside an allocation of {allocation} bytes")]
    OutOfRange {
        /// First byte.
        offset: usize,
        /// Length.
        bytes: usize,
        /// Length of the allocation.
        allocation: usize,
    },
    /// Source and destination of a copy share bytes.
    #[error("a copy of {bytes} bytes from {src:#x} to {dst:#x} overlaps itself")]
    Overlap {
        /// Destination address.
        dst: u64,
        /// Source address.
        src: u64,
        /// Length.
        bytes: usize,
    },
    /// Memory, a kernel or an event of another device.
    #[error("{device} was given something that belongs to {owner}")]
    ForeignMemory {
        /// The device used.
        device: String,
        /// The device that owns it.
        owner: String,
    },
    /// A parameter struct that does not match the entry.
    #[error("{kernel} takes {expected} parameter bytes, {given} were given")]
    ParamSize {
        /// Entry name.
        kernel: String,
        /// Size of the struct.
        given: usize,
        /// Size of the parameter block.
        expected: usize,
    },
    /// A launch that was refused.
    #[error(
        "cannot launch {kernel} on {device} with grid {grid:?}, block {block:?}, {shared} bytes of shared memory: {reason}"
    )]
    Launch {
        /// Entry name.
        kernel: String,
        /// Device id.
        device: String,
        /// Blocks.
        grid: [u32; 3],
        /// Threads.
        block: [u32; 3],
        /// Dynamic shared memory.
        shared: u32,
        /// Why.
        reason: String,
    },
    /// A tensor map that the device does not take.
    #[error("{device} takes no such tensor map: {reason}")]
    TensorMap {
        /// Device id.
        device: String,
        /// Why.
        reason: String,
    },
    /// A kernel failed on the virtual GPU.
    #[error("{kernel} failed on vm with grid {grid:?}, block {block:?}: {fault}")]
    Fault {
        /// Entry name.
        kernel: String,
        /// Blocks.
        grid: [u32; 3],
        /// Threads.
        block: [u32; 3],
        /// Kind, PTX line, block, thread, address.
        fault: Box<ptx_vm::Fault>,
    },
    /// Memory misused on the virtual GPU.
    #[error("memory error on vm: {0}")]
    VmMemory(ptx_vm::MemoryError),
    /// A GPU failed in work queued earlier: the driver reports this at the next call, and at every call from then on.
    #[error(transparent)]
    GpuFault(Box<GpuFault>),
    /// [`Interrupter::interrupt`](super::Interrupter::interrupt) was called.
    #[error("interrupted on {device}")]
    Interrupted {
        /// Device id.
        device: String,
    },
    /// Another rank of the group takes part no more.
    #[error("rank {rank} failed: {reason}")]
    Rank {
        /// Its number.
        rank: usize,
        /// Why.
        reason: String,
    },
    /// Any other answer of the driver.
    #[error("{call} failed on {device}: {name}: {text}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// Device id.
        device: String,
        /// The driver's name for the error.
        name: String,
        /// The driver's words for it.
        text: String,
    },
}

/// The failure of a GPU, as far as it is known.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{device} failed at work queued earlier: {name}: {text} (found by {call}; what was queued last before it is {last}, but it may have been \
     anything before that); {advice}"
)]
pub struct GpuFault {
    /// Device id.
    pub device: String,
    /// The driver function that reported it.
    pub call: &'static str,
    /// The driver's name for the error.
    pub name: String,
    /// The driver's words for it.
    pub text: String,
    /// The last kernel queued before, or the last graph. Not necessarily the culprit.
    pub last: String,
    /// Whether the work was interrupted, rather than failed.
    pub advice: &'static str,
}

// Not `#[from]`: the messages above already carry theirs, and a source would print it twice.
impl From<ptx_vm::MemoryError> for DeviceError {
    fn from(error: ptx_vm::MemoryError) -> Self {
        Self::VmMemory(error)
    }
}

impl DeviceError {
    /// Whether the work was interrupted, rather than went wrong.
    pub fn is_stop(&self) -> bool {
        matches!(self, DeviceError::Interrupted { .. })
    }

    /// Whether retrying the same work in another way cannot succeed.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            DeviceError::Interrupted { .. }
                | DeviceError::GpuFault(_)
                | DeviceError::Fault { .. }
                | DeviceError::Rank { .. }
        )
    }

    pub(super) fn launch(launch: &Launch<'_>, device: &str, reason: impl Into<String>) -> Self {
        Self::Launch {
            kernel: launch.kernel.into(),
            device: device.into(),
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            reason: reason.into(),
        }
    }
}
