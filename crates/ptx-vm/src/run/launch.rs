//! What the blocks of a launch share.

use super::adverse::Store;
use crate::error::FaultKind;
use crate::math::mma::TensorCore;
use crate::memory::Heap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a launch says that was not begun.
pub(crate) const INTERRUPTED: &str = "the device has been interrupted; launches run again after `Vm::resume`";

/// What all blocks of a launch share.
pub(crate) struct LaunchInfo<'a> {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Blocks of a cluster in x, y, z, how many that are, and whether anybody has said so.
    pub(crate) cluster: [u32; 3],
    pub(crate) blocks: u32,
    pub(crate) explicit_cluster: bool,
    pub(crate) dynamic_shared: u32,
    pub(crate) checked: bool,
    /// Checked mode reports barriers that only part of a warp reaches.
    pub(crate) strict: bool,
    pub(crate) tensor_core: Option<TensorCore>,
    pub(crate) budget: u64,
    /// Instructions of all blocks together: how many there may be, and how many there were, as far as blocks have told.
    pub(crate) launch_budget: u64,
    pub(crate) spent: AtomicU64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    /// Bytes of stack for each thread of a kernel with recursive functions.
    pub(crate) stack: usize,
    pub(crate) heap: &'a Heap,
    /// What blocks have printed.
    pub(crate) printed: Mutex<Vec<(u64, Vec<u8>)>>,
    /// Worker threads of the launch, and its number.
    pub(crate) workers: u32,
    pub(crate) grid_id: u64,
    /// Where cooperative groups keep the barrier of the grid; 0 for kernels that do not ask.
    pub(crate) workspace: u64,
    /// How many launches the device had begun before, and the seed of an adverse one.
    pub(crate) launch: u64,
    pub(crate) adverse: Option<u64>,
    /// Stores of blocks that are over which other blocks have not seen.
    pub(crate) late: Mutex<VecDeque<Box<Store>>>,
    /// The lowest cluster that has failed: those behind it need not go on.
    pub(crate) failed: AtomicU64,
    /// Somebody had to wait for another lane or block: take turns more often.
    pub(crate) hasty: AtomicBool,
    /// The device's count of interrupts, and what it was when the launch began.
    pub(crate) interrupts: &'a AtomicU64,
    pub(crate) uninterrupted: u64,
}

impl LaunchInfo<'_> {
    /// The index of a block: of the cluster at that place of the grid, the one of that rank.
    pub(crate) fn block_index(&self, place: u64, rank: u32) -> [u32; 3] {
        let clusters: [u64; 3] = std::array::from_fn(|i| u64::from(self.grid[i] / self.cluster[i]));
        let of = [place % clusters[0], place / clusters[0] % clusters[1], place / clusters[0] / clusters[1]];
        let at = thread_index(rank, self.cluster);
        std::array::from_fn(|i| of[i] as u32 * self.cluster[i] + at[i])
    }

    /// Numbers of warps for each block of a cluster: whole warpgroups, where there are several blocks.
    pub(crate) fn seats(&self) -> usize {
        let warps = self.block.iter().product::<u32>().div_ceil(32);
        (if self.blocks > 1 { warps.next_multiple_of(4) } else { warps }) as usize
    }

    /// The number of a block among all of the grid.
    pub(crate) fn block_number(&self, [x, y, z]: [u32; 3]) -> u64 {
        let [nx, ny, _] = self.grid.map(u64::from);
        u64::from(x) + nx * (u64::from(y) + ny * u64::from(z))
    }

    /// Whether the launch is to end as a whole, whatever its blocks do, and why.
    pub(crate) fn ended(&self) -> Option<(FaultKind, String)> {
        if self.interrupts.load(Ordering::Relaxed) != self.uninterrupted {
            return Some((FaultKind::Interrupted, INTERRUPTED.to_owned()));
        }
        if self.spent.load(Ordering::Relaxed) > self.launch_budget {
            let message =
                format!("the blocks of the launch have executed more than {} instructions", self.launch_budget);
            return Some((FaultKind::Budget, message));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let seconds = self.timeout.unwrap_or_default().as_secs_f64();
            return Some((FaultKind::Timeout, format!("the launch has taken more than {seconds} s")));
        }
        None
    }
}

/// The index of a thread in its block.
pub(crate) fn thread_index(linear: u32, block: [u32; 3]) -> [u32; 3] {
    let (x, y) = (block[0].max(1), block[1].max(1));
    [linear % x, linear / x % y, linear / x / y]
}
