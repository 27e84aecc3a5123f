//! What hardware may do and an interpreter does not.
//!
//! An adverse launch takes every liberty it can: warps run in turns of 1 to 50 instructions and some lag far behind, lanes that have parted
//! run in any order, asynchronous copies arrive when somebody waits for them and not before, weak stores reach memory when a fence, a
//! barrier or a release makes them, products of warpgroups are computed when their warp waits for them, and whatever a block finds in its
//! memory is poison. All of it follows from a seed, the launch and the block, so a run can be repeated. A correct kernel computes the same as ever; one that lacks a wait, a fence or a barrier mostly does not.

mod copy;
mod late;
mod reach;
mod store;
mod warpgroup;

use super::order::mix;
use crate::ir::Kernel;
use crate::ir::*;
use crate::step::bulk::{Moves, Piece};
use copy::Copies;
use reach::Sight;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
pub(crate) use store::Store;
use store::{NEAR, Queue, STORES};
use warpgroup::Products;

/// What fresh memory holds: not a number in every floating-point format.
pub(crate) const POISON: u8 = 0xff;
/// The most instructions of a turn.
const TURN: u64 = 50;
/// Stores of blocks that are over and have not reached the others.
const FAR: usize = 256;
/// One turn in so many ends with lanes that have parted going on by themselves, with the stores of the warp seen by its block, or with all
/// that its block has seen seen by the others.
const PARTING: u64 = 16;
const MEETING: u64 = 32;
const SPREADING: u64 = 512;
/// After so many turns who lags changes.
const CHANGE: u64 = 256;

/// A bulk copy that has not arrived.
struct Bulk {
    op: *const Op,
    lane: u32,
    moves: Moves,
    pieces: Vec<Piece>,
    /// What it read, once it has: of every piece, if there was something to read.
    read: Option<Vec<Vec<u8>>>,
    /// Where no mbarrier counts it: its group.
    group: u32,
}

/// Copies of the blocks of a cluster that other blocks count and that have not arrived.
#[derive(Default)]
pub(crate) struct Flying(Vec<Bulk>);

/// What goes from place to place without its content, and is used again.
type Pool<T> = Vec<Box<T>>;

struct Warp {
    stores: Queue<STORES>,
    copies: Pool<Copies>,
    /// Groups that the lanes have committed, and how often any have.
    committed: L<u32>,
    commits: u64,
    bulk_committed: L<u32>,
    bulk: Vec<Bulk>,
    products: Products,
    /// One turn in so many is taken: a power of two.
    lag: u64,
}

impl Warp {
    fn new() -> Warp {
        Warp {
            stores: Queue::new(),
            copies: Vec::new(),
            committed: [0; WARP],
            commits: 0,
            bulk_committed: [0; WARP],
            bulk: Vec::new(),
            products: Products::default(),
            lag: 1,
        }
    }
}

/// The adversary of a block.
pub(crate) struct Adversary {
    seed: u64,
    state: u64,
    /// What decides about the turn that is being taken, bit by bit.
    drawn: u64,
    warps: Vec<Warp>,
    /// While it is the block's turn: what is on its way between blocks of the cluster.
    pub(crate) flying: Flying,
    /// Stores to memory of others that the block's threads see and other blocks do not.
    near: Queue<NEAR>,
    /// Stores and copies that have arrived, to be used again.
    spare: Pool<Store>,
    spare_copies: Pool<Copies>,
    sight: Sight,
    /// Whether memory is late too; checked mode looks at accesses when they are made.
    late: bool,
    /// Executes instructions by [`Op::alone`].
    pub(crate) alone: bool,
}

impl Adversary {
    pub(crate) fn new(seed: u64, late: bool) -> Adversary {
        Adversary {
            seed,
            state: 0,
            drawn: 0,
            warps: Vec::new(),
            flying: Flying::default(),
            near: Queue::new(),
            spare: Vec::new(),
            spare_copies: Vec::new(),
            sight: reach::sight(),
            late,
            alone: true,
        }
    }

    /// A block begins.
    pub(crate) fn start(&mut self, launch: u64, block: u64, warps: usize) {
        self.state = mix(mix(self.seed ^ launch.rotate_left(32)) ^ block);
        self.spare.extend(std::iter::from_fn(|| self.near.pop()));
        self.warps.resize_with(warps, Warp::new);
        for i in 0..warps {
            let lag = self.lag();
            let warp = &mut self.warps[i];
            // A block that was cut off leaves some.
            self.spare.extend(std::iter::from_fn(|| warp.stores.pop()));
            self.spare_copies.append(&mut warp.copies);
            warp.bulk.clear();
            warp.products.clear();
            (warp.committed, warp.bulk_committed, warp.lag) = ([0; WARP], [0; WARP], lag);
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
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

    /// Whether a warp that could run does; it does when it `must`.
    pub(crate) fn takes_turn(&mut self, warp: usize, must: bool) -> bool {
        self.drawn = self.next();
        // Who lags changes now and then.
        if self.drawn.is_multiple_of(CHANGE) {
            self.warps[warp].lag = self.lag();
        }
        must || self.drawn >> 8 & (self.warps[warp].lag - 1) == 0
    }

    /// Instructions of the next turn.
    pub(crate) fn turn(&self) -> u64 {
        1 + ((self.drawn >> 32) * TURN >> 32)
    }

    /// A turn is over: what is on its way arrives some time.
    pub(crate) fn rest(&mut self, warp: usize) {
        if (self.drawn >> 14).is_multiple_of(MEETING) {
            self.meet(warp);
        }
        if (self.drawn >> 19).is_multiple_of(SPREADING) {
            self.spread();
        }
    }

    /// A turn is over: whether lanes that have parted go on by themselves.
    pub(crate) fn parts(&self) -> bool {
        (self.drawn >> 28).is_multiple_of(PARTING)
    }

    /// A store arrives.
    fn write(&mut self, store: Box<Store>) {
        store.write();
        self.spare.push(store);
    }

    /// What the block has seen reaches memory.
    fn spread(&mut self) {
        while let Some(store) = self.near.pop() {
            self.write(store);
        }
    }

    /// All stores of a warp, and all that its block has seen, reach memory.
    fn flush(&mut self, warp: usize) {
        self.spread();
        while let Some(store) = self.warps[warp].stores.pop() {
            self.write(store);
        }
    }

    /// The stores of a warp reach its block.
    pub(crate) fn meet(&mut self, warp: usize) {
        while let Some(store) = self.warps[warp].stores.pop() {
            let arrives = if store.far { self.near.push(store) } else { Some(store) };
            if let Some(store) = arrives {
                self.write(store);
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
            while let Some(store) = self.near.pop() {
                // Shared memory does not outlive the cluster.
                if store.is_global() { far.push_back(store) } else { store.write() }
            }
            let first = far.len().saturating_sub(FAR);
            far.drain(..first).for_each(|store| store.write());
        }
    }

    /// Executes at most `most` instructions. Gives the next one, null when the warp stops, and how many there were.
    ///
    /// # Safety
    /// As for a handler; `kernel` is the one `op` belongs to.
    pub(crate) unsafe fn steps(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op, most: u64) -> (*const Op, u64) {
        // SAFETY: `op` points into the kernel's code.
        unsafe {
            let calm = kernel.calm[op.offset_from(cx.code) as usize] as usize * size_of::<Op>();
            if calm == 0 || self.warps[cx.warp as usize].products.busy() {
                return (self.step(cx, kernel, op), 1);
            }
            // Wherever they lead: null is not among those that are calm.
            let is_calm = |at: *const Op| at.addr().wrapping_sub(op.addr()) < calm;
            let (mut at, mut left) = (op, most);
            if self.alone {
                while left > 0 && is_calm(at) {
                    at = ((*at).alone)(cx, at);
                    left -= 1;
                }
            } else {
                while left > 0 && is_calm(at) {
                    at = ((*at).run)(cx, at);
                    left -= 1;
                }
            }
            (at, most - left)
        }
    }

    /// Executes an instruction by itself.
    ///
    /// # Safety
    /// As above.
    pub(crate) unsafe fn step(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op) -> *const Op {
        // SAFETY: `op` points into the kernel's code; a guard is followed by the instruction it guards.
        unsafe {
            let index = op.offset_from(cx.code) as usize;
            let products = &mut self.warps[cx.warp as usize].products;
            if products.busy() {
                products.follow(cx, kernel, index);
            }
            if kernel.calm[index] == 0 {
                let meta = &kernel.meta[index];
                if meta.guard {
                    return guarded(cx, op, |cx, inner| self.step(cx, kernel, inner));
                }
                if self.late
                    && let Some(next) = self.late(cx, op, meta)
                {
                    return next;
                }
            }
            ((*op).alone)(cx, op)
        }
    }
}
