//! What hardware may do and an interpreter does not.
//!
//! An adverse launch takes every liberty it can: warps run in turns of 1 to 50 instructions and some lag far behind, lanes that have parted
//! run in any order, asynchronous copies arrive when somebody waits for them and not before, weak stores reach memory when a fence, a
//! barrier or a release makes them, and whatever a block finds in its memory is poison. All of it follows from a seed, the launch and the
//! block, so a run can be repeated. A correct kernel computes the same as ever; one that lacks a wait, a fence or a barrier mostly does not.

mod late;

use super::order::mix;
use crate::ir::Kernel;
use crate::ir::*;
use crate::memory::GLOBAL_BASE;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// What fresh memory holds: not a number in every floating-point format.
pub(crate) const POISON: u8 = 0xff;
/// The most instructions of a turn.
const TURN: u64 = 50;
/// Stores of a warp that are on their way.
const STORES: usize = 4;
/// Stores that have reached the block and not the others.
const NEAR: usize = 16;
/// Stores of blocks that are over and have not reached the others.
const FAR: usize = 256;
/// The most bytes of a lane's access.
const MOST: usize = 32;

/// A weak store that nobody but its own lanes, or its block, may have seen.
pub(crate) struct Store {
    mask: u32,
    bytes: usize,
    addr: L<u64>,
    /// First address and end of all lanes.
    first: u64,
    end: u64,
    to: [*mut u8; WARP],
    value: [[u8; MOST]; WARP],
}

/// A `cp.async` that has not arrived.
struct Copy {
    lane: u32,
    /// The number of its group among those of the lane.
    group: u32,
    to: u32,
    bytes: usize,
    value: [u8; 16],
}

/// A bulk copy that has not arrived.
struct Bulk {
    op: *const Op,
    lane: u32,
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    /// What it read, once it has.
    read: Option<Vec<u8>>,
    /// The mbarrier that counts it, or 0 and its group.
    counted: u64,
    group: u32,
}

#[derive(Default)]
struct Warp {
    stores: VecDeque<Box<Store>>,
    copies: Vec<Copy>,
    committed: L<u32>,
    bulk_committed: L<u32>,
    bulk: Vec<Bulk>,
    /// One turn in so many is taken.
    lag: u64,
}

/// The adversary of a block.
pub(crate) struct Adversary {
    seed: u64,
    state: u64,
    warps: Vec<Warp>,
    /// Stores to global memory that the block's threads see and other blocks do not.
    near: VecDeque<Box<Store>>,
    /// Whether memory is late too; checked mode looks at accesses when they are made.
    late: bool,
    /// Executes instructions by [`Op::alone`].
    pub(crate) alone: bool,
}

impl Adversary {
    pub(crate) fn new(seed: u64, late: bool) -> Adversary {
        Adversary { seed, state: 0, warps: Vec::new(), near: VecDeque::new(), late, alone: true }
    }

    /// A block begins.
    pub(crate) fn start(&mut self, launch: u64, block: u64, warps: usize) {
        self.state = mix(mix(self.seed ^ launch.rotate_left(32)) ^ block);
        self.warps.clear();
        self.near.clear();
        for _ in 0..warps {
            let lag = self.lag();
            self.warps.push(Warp { lag, ..Warp::default() });
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    fn below(&mut self, n: u64) -> u64 {
        (u128::from(self.next()) * u128::from(n) >> 64) as u64
    }

    /// One turn in how many a warp takes.
    fn lag(&mut self) -> u64 {
        [1, 1, 2, 8, 64][self.below(5) as usize]
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Whether a warp that could run does.
    pub(crate) fn takes_turn(&mut self, warp: usize) -> bool {
        // Who lags changes now and then.
        if self.once_in(256) {
            self.warps[warp].lag = self.lag();
        }
        let lag = self.warps[warp].lag;
        lag == 1 || self.once_in(lag)
    }

    /// Instructions of the next turn.
    pub(crate) fn turn(&mut self) -> u64 {
        1 + self.below(TURN)
    }

    /// A turn is over: what is on its way arrives some time.
    pub(crate) fn rest(&mut self, warp: usize) {
        if !self.warps[warp].stores.is_empty() && self.once_in(32) {
            self.meet(warp);
        }
        if !self.near.is_empty() && self.once_in(512) {
            self.near.drain(..).for_each(|store| store.write());
        }
    }

    /// All stores of a warp, and all that its block has seen, reach memory.
    fn flush(&mut self, warp: usize) {
        self.near.drain(..).chain(self.warps[warp].stores.drain(..)).for_each(|store| store.write());
    }

    /// The stores of a warp reach its block.
    pub(crate) fn meet(&mut self, warp: usize) {
        for store in std::mem::take(&mut self.warps[warp].stores) {
            if store.is_global() {
                if self.near.len() == NEAR
                    && let Some(oldest) = self.near.pop_front()
                {
                    oldest.write();
                }
                self.near.push_back(store);
            } else {
                store.write();
            }
        }
    }

    /// The block is over: copies arrive that have not. What other blocks have yet to see stays in the `launch`, to whose end it may be on its way.
    pub(crate) fn finish(&mut self, cx: &mut Cx, launch: &Mutex<VecDeque<Box<Store>>>) {
        for warp in 0..self.warps.len() {
            self.meet(warp);
            for bulk in std::mem::take(&mut self.warps[warp].bulk) {
                // Nobody looks at mbarriers any more.
                let _ = bulk.arrive(cx, false);
            }
        }
        if !self.near.is_empty() {
            let mut far = launch.lock().unwrap_or_else(PoisonError::into_inner);
            far.extend(self.near.drain(..));
            let first = far.len().saturating_sub(FAR);
            far.drain(..first).for_each(|store| store.write());
        }
    }

    /// Executes an instruction.
    ///
    /// # Safety
    /// As for a handler; `kernel` is the one `op` belongs to.
    pub(crate) unsafe fn step(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op) -> *const Op {
        // SAFETY: `op` points into the kernel's code; a guard is followed by the instruction it guards.
        unsafe {
            let index = op.offset_from(cx.code) as usize;
            if kernel.calm[index] {
                return if self.alone { ((*op).alone)(cx, op) } else { ((*op).run)(cx, op) };
            }
            let meta = &kernel.meta[index];
            if meta.guard {
                return guarded(cx, op, |cx, inner| self.step(cx, kernel, inner));
            }
            if self.late
                && let Some(next) = self.late(cx, op, meta)
            {
                return next;
            }
            ((*op).alone)(cx, op)
        }
    }
}

// SAFETY: the places lie in allocations that outlive the launch; what blocks race on is the kernel's business.
unsafe impl Send for Store {}

impl Store {
    fn is_global(&self) -> bool {
        self.first >= GLOBAL_BASE
    }

    pub(crate) fn write(&self) {
        for lane in lanes_of(self.mask) {
            // SAFETY: the place was resolved when the store was executed, and outlives the block.
            unsafe { std::ptr::copy_nonoverlapping(self.value[lane].as_ptr(), self.to[lane], self.bytes) };
        }
    }
}
