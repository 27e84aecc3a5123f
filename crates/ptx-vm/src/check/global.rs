//! Races in global memory, among the threads of a block and among blocks.
//!
//! Inside a block the clocks say who is ordered before whom. Between blocks only releases and acquires of a scope beyond the block do:
//! what a thread knows of its own block when it releases is kept, and numbered; who acquires from it knows its releases up to that
//! number. To the acquiring block each releasing thread of another one is one more agent of its clocks, so that barriers, fences and
//! releases hand on what is known of it.

use super::clock::{Clock, Clocks, Releaser, Tracked};
use crate::ir::WARP;
use std::collections::HashMap;

/// Who touched a byte: the number of a [`Stamp`] plus one, times 32, plus the lane; 0 for nobody.
type Touch = u32;

/// An instruction a warp has executed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    block: u64,
    warp: u32,
    time: u32,
    /// The instruction.
    op: u32,
    strong: bool,
    atomic: bool,
}

/// The last write of a byte, and two reads since: the latest, and the latest by another warp.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Touch,
    reads: [Touch; 2],
}

const PAGE: usize = 4096;

/// What all blocks of a launch have done to global memory.
#[derive(Default)]
pub(crate) struct Races {
    pages: HashMap<u64, Box<[Cell; PAGE]>>,
    stamps: Vec<Stamp>,
    /// What each release knew of the threads of its block.
    releases: HashMap<Releaser, Vec<Clock>>,
    /// The releases that flags carry, by address.
    flags: HashMap<u64, HashMap<Releaser, u32>>,
}

/// A lane that does something now.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) block: u64,
    pub(super) warp: u32,
    pub(super) lane: u32,
    pub(super) op: u32,
    pub(super) strong: bool,
    /// Reads and writes in one step.
    pub(super) atomic: bool,
    pub(super) write: bool,
}

/// What an access collides with.
pub(super) struct Collision {
    pub(super) address: u64,
    pub(super) block: u64,
    pub(super) thread: u32,
    pub(super) wrote: bool,
}

impl Races {
    /// Notes an access of `bytes` bytes at `a`; gives what it collides with, unless `harmless` accepts that byte.
    pub(super) fn touch(
        &mut self,
        clocks: &Clocks,
        now: Now,
        a: u64,
        bytes: u64,
        harmless: impl Fn(u64) -> bool,
    ) -> Option<Collision> {
        let Now { block, warp, op, strong, atomic, .. } = now;
        let stamp = Stamp { block, warp, time: clocks.now, op, strong, atomic };
        // Lanes of an instruction come one after the other.
        if self.stamps.last() != Some(&stamp) {
            self.stamps.push(stamp);
        }
        let me = (self.stamps.len() as u32) << 5 | now.lane;
        for address in a..a + bytes {
            let page = self.pages.entry(address / PAGE as u64).or_insert_with(|| Box::new([Cell::default(); PAGE]));
            let at = address as usize % PAGE;
            let cell = page[at];
            if let Some(found) = self.collision(clocks, &stamp, now, cell, address)
                && !(found.wrote && now.write && harmless(address))
            {
                return Some(found);
            }
            let Some(page) = self.pages.get_mut(&(address / PAGE as u64)) else { continue };
            if now.write {
                page[at] = Cell { write: me, reads: [0; 2] };
            } else {
                let [last, other] = cell.reads;
                let same = |touch: Touch| {
                    touch != 0 && {
                        let s = &self.stamps[(touch >> 5) as usize - 1];
                        (s.block, s.warp) == (stamp.block, stamp.warp)
                    }
                };
                page[at].reads = if last == 0 || same(last) { [me, other] } else { [me, last] };
            }
        }
        None
    }

    fn collision(&self, clocks: &Clocks, stamp: &Stamp, now: Now, cell: Cell, address: u64) -> Option<Collision> {
        let thread = now.warp * WARP as u32 + now.lane;
        let late = |touch: Touch, wrote: bool| {
            if touch == 0 {
                return None;
            }
            let (s, lane) = (&self.stamps[(touch >> 5) as usize - 1], touch & 31);
            let other = s.warp * WARP as u32 + lane;
            let ordered = if s.block == now.block {
                clocks.before(other as u16, s.time, thread)
            } else {
                self.known(clocks, s.block, other, s.time, thread)
            };
            // Strong operations do not race with each other, nor do the lanes of one store: one of them wins. A plain read beside atomics is how
            // every loop around `cas` begins, as in CUDA's own manual: what it reads may be old, and is compared.
            let guess = if wrote { s.atomic && !now.write } else { now.atomic };
            let fine = ordered || s.strong && now.strong || s == stamp && now.write && wrote || guess;
            (!fine).then_some(Collision { address, block: s.block, thread: other, wrote })
        };
        let write = late(cell.write, true);
        if write.is_some() || !now.write {
            return write;
        }
        cell.reads.into_iter().find_map(|read| late(read, false))
    }

    /// Whether a thread knows what one of another block did at a time of that block.
    fn known(&self, clocks: &Clocks, block: u64, other: u32, time: u32, thread: u32) -> bool {
        clocks.releasers(block).any(|(releaser, agent)| {
            let count = clocks.known(agent, thread) as usize;
            let record = count.checked_sub(1).and_then(|i| self.releases.get(&releaser)?.get(i));
            record.is_some_and(|clock| clock.get(other as usize).is_some_and(|known| time < *known))
        })
    }

    /// A thread of `block` writes a flag, with what it has to tell: `clock`, of its own block and of others.
    pub(super) fn publish(&mut self, clocks: &Clocks, block: u64, thread: u32, flag: u64, clock: &Clock) {
        let mut told: HashMap<Releaser, u32> = HashMap::new();
        for (releaser, agent) in clocks.all_releasers() {
            let known = clock.get(agent as usize).copied().unwrap_or(0);
            if known > 0 {
                told.insert(releaser, known);
            }
        }
        let records = self.releases.entry((block, thread)).or_default();
        let mut own = clock.clone();
        own.truncate(clocks.threads());
        // What a thread tells only grows.
        if let Some(before) = records.last() {
            super::clock::join(&mut own, before);
        }
        records.push(own);
        told.insert((block, thread), records.len() as u32);
        let carried = self.flags.entry(flag).or_default();
        for (releaser, count) in told {
            let known = carried.entry(releaser).or_insert(0);
            *known = (*known).max(count);
        }
    }

    /// What a flag tells a block, as a clock of that block.
    pub(super) fn observe(&self, clocks: &mut Clocks, block: u64, flag: u64) -> Clock {
        let mut clock = Clock::new();
        for (releaser, count) in self.flags.get(&flag).into_iter().flatten() {
            if releaser.0 != block {
                let agent = clocks.tracked(Tracked::Release(*releaser));
                super::clock::raise(&mut clock, agent as usize, *count);
            }
        }
        clock
    }
}
