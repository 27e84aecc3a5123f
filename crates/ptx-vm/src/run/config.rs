//! How a device is set up, and what is launched on it.

use crate::counters::{Counters, Profile};
use crate::error::FaultKinds;
use std::time::Duration;

/// How a [`crate::Vm`] runs. There will be more to set: begin with `..VmConfig::default()`.
#[derive(Debug, Clone, Default)]
pub struct VmConfig {
    /// Worker threads, the caller's included; 0 takes all cores. There are never more than [`VmConfig::MOST_THREADS`].
    pub threads: usize,
    /// Checked mode: uninitialised reads, shared-memory races and divergent barriers end a launch too. Several times slower.
    pub checked: bool,
    /// Checked mode also looks for races in global memory, among warps and blocks: by one thread, and with twelve bytes of notes for each byte that
    /// a launch touches.
    pub global_races: bool,
    /// The kinds of [`crate::FaultKind::CHECKED`] that checked mode reports; all by default. What ends a launch in any mode does so all the same.
    pub report: FaultKinds,
    /// Gather counters; see [`LaunchStats::counters`].
    pub counters: bool,
    /// Gather counters for each line of the PTX as well; see [`LaunchStats::profile`].
    pub profile: bool,
    /// Warp instructions a block may execute before the launch is stopped as a runaway; they are counted at backward jumps, calls and waits.
    pub instruction_budget: Option<u64>,
    /// Warp instructions all blocks of a launch may execute together before it is stopped as a runaway.
    pub launch_budget: Option<u64>,
    /// How long a launch may take before it is stopped, by the clock on the wall.
    pub timeout: Option<Duration>,
    /// Bytes that may be allocated at a time.
    pub memory_limit: Option<usize>,
    /// Bytes of stack for each thread of a kernel with recursive functions; 64 KiB if not given.
    pub stack_bytes: Option<usize>,
    /// Bytes that `malloc` of kernels may have at a time, as `cudaLimitMallocHeapSize`; 8 MiB if not given.
    pub heap_bytes: Option<usize>,
    /// Blocks begin in an order of this seed instead of by number: CUDA promises none, so a kernel must compute the same. The order also
    /// depends on how many launches the device has begun before, and on nothing else: a program that repeats itself meets the same
    /// orders again. With several threads blocks run at the same time, as they do without a seed.
    pub block_order: Option<u64>,
    /// Launches take every liberty that hardware has and an interpreter does not: blocks in another order, warps in turns of 1 to 50
    /// instructions of which some lag far behind, asynchronous copies and weak stores that arrive as late as waits, fences and barriers allow,
    /// and poison (0xff) in all memory that nobody has written. Everything follows from this seed, the number of launches before and the
    /// block. A correct kernel computes the same; one that lacks a wait, a barrier or a fence mostly does not. In checked mode copies and
    /// stores are not late, because the checks see for themselves who waits for whom.
    pub adverse: Option<u64>,
    /// The architecture of the device, as 80 for sm_80: how much shared memory a block may have, how tensor cores add, and that kernels for
    /// later ones are refused. If not given, the device is of each kernel's own `.target`.
    pub arch: Option<u32>,
    /// How `mma` and `wmma` of floating point add.
    pub mma: MmaRounding,
}

impl VmConfig {
    /// An adverse device: see the field of this name.
    pub fn adverse(seed: u64) -> VmConfig {
        VmConfig { adverse: Some(seed), ..VmConfig::default() }
    }

    /// Threads beyond which more would not help anybody.
    pub const MOST_THREADS: usize = 1024;
}

/// How `mma` and `wmma` add products in floating point. Integers and f64 are the same with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MmaRounding {
    /// One product after the other, each sum rounded to nearest in f32: fast, and about as exact as what hardware does.
    #[default]
    Nearest,
    /// As the tensor cores of [`VmConfig::arch`] do, bit for bit where that is known; see [`crate::TensorCore`]. A
    /// kernel whose tolerances hold with both has not been tuned to this interpreter. An `mma` takes tens of times as long.
    Truncate,
}

impl std::str::FromStr for MmaRounding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "nearest" => Ok(MmaRounding::Nearest),
            "truncate" => Ok(MmaRounding::Truncate),
            _ => Err("neither `nearest` nor `truncate`".to_owned()),
        }
    }
}

/// The shape of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory. Nobody asks whether the program has opted in, as CUDA does above 48 KiB.
    pub dynamic_shared: u32,
    /// Blocks of a cluster in x, y, z; if not given, what the kernel requires, or each block by itself. Nobody asks whether the program has
    /// opted in, as CUDA does above 8 blocks; there are 16 at most.
    pub cluster: Option<[u32; 3]>,
}

impl Launch {
    /// A launch of so many blocks of so many threads, without dynamic shared memory.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Launch {
        Launch { grid, block, dynamic_shared: 0, cluster: None }
    }

    /// The same with so many bytes of dynamic shared memory.
    pub fn dynamic_shared(self, bytes: u32) -> Launch {
        Launch { dynamic_shared: bytes, ..self }
    }

    /// The same in clusters of so many blocks.
    pub fn cluster(self, blocks: [u32; 3]) -> Launch {
        Launch { cluster: Some(blocks), ..self }
    }
}

/// What a finished launch can tell.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[non_exhaustive]
pub struct LaunchStats {
    /// Wall-clock seconds on this machine's CPU.
    pub seconds: f64,
    /// What was counted, when [`VmConfig::counters`] or [`VmConfig::profile`] is on.
    pub counters: Option<Counters>,
    /// The same line by line, when [`VmConfig::profile`] is on.
    pub profile: Option<Profile>,
}
