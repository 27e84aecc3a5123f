//! The shadow of shared memory: who touched each byte last, and whether that is ordered before now.
//!
//! Time is a counter that moves on at every barrier and warp barrier. An access is ordered before now for another warp when it happened
//! before the last block barrier, and for a lane of the same warp when it happened before the warp's last `bar.warp.sync` too.

use crate::exec::op::WARP;
use std::collections::HashMap;

/// What an access collides with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Unwritten,
    Write {
        other: u32,
        same_instruction: bool,
    },
    /// By one known thread, or by several.
    Read {
        other: Option<u32>,
    },
    Pending {
        other: u32,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Block in which the byte was first written.
    born: u32,
    write_time: u32,
    read_time: u32,
    writer: u16,
    /// A thread, [`LANES`] plus a warp, or [`MANY`].
    reader: u16,
    /// `cp.async` group of the writer plus one; 0 for ordinary writes.
    group: u32,
    atomic: bool,
    /// The storing instruction, to tell lanes of one store from each other.
    by: usize,
}

/// Several lanes of one warp have read.
const LANES: u16 = 0x8000;
/// Threads of several warps have read.
const MANY: u16 = u16::MAX;

#[derive(Debug, Clone, Copy, Default)]
struct Thread {
    /// Groups committed so far: the number of the open group.
    open: u32,
    /// Groups below this are complete.
    complete: u32,
}

#[derive(Default)]
pub(super) struct Shadow {
    cells: Vec<Cell>,
    block: u32,
    now: u32,
    block_sync: u32,
    warp_sync: Vec<u32>,
    threads: Vec<Thread>,
    /// When a thread's group was waited for.
    completed: HashMap<(u16, u32), u32>,
}

impl Shadow {
    pub(super) fn start(&mut self, len: usize, warps: usize) {
        self.cells.resize(self.cells.len().max(len), Cell::default());
        self.block = self.block.wrapping_add(1);
        self.warp_sync.clear();
        self.warp_sync.resize(warps, 0);
        self.threads.clear();
        self.threads.resize(warps * WARP, Thread::default());
        self.completed.clear();
        self.barrier();
    }

    pub(super) fn barrier(&mut self) {
        self.now = self.now.wrapping_add(1);
        self.block_sync = self.now;
        self.warp_sync.fill(self.now);
    }

    pub(super) fn warp_sync(&mut self, warp: usize) {
        self.now = self.now.wrapping_add(1);
        self.warp_sync[warp] = self.now;
    }

    pub(super) fn commit(&mut self, warp: usize, mask: u32) {
        for lane in (0..WARP).filter(|l| mask >> l & 1 != 0) {
            self.threads[warp * WARP + lane].open += 1;
        }
    }

    /// At most `pending` groups may stay incomplete; `u32::MAX` waits for all copies, committed or not.
    pub(super) fn wait(&mut self, warp: usize, mask: u32, pending: u32) {
        for lane in (0..WARP).filter(|l| mask >> l & 1 != 0) {
            let id = warp * WARP + lane;
            let thread = &mut self.threads[id];
            if pending == u32::MAX {
                // Uncommitted copies are complete too.
                thread.open += 1;
            }
            let upto = thread.open.saturating_sub(if pending == u32::MAX { 0 } else { pending });
            for group in thread.complete..upto {
                self.completed.insert((id as u16, group), self.now);
            }
            thread.complete = thread.complete.max(upto);
        }
    }

    /// Whether something at `time` by a thread of `warp` is ordered before an access of `thread` now.
    fn ordered(&self, time: u32, warp: u32, thread: u32) -> bool {
        let me = thread / WARP as u32;
        time < if warp == me { self.warp_sync[me as usize] } else { self.block_sync }
    }

    /// The conflict of an access with the last write, if any.
    fn after_write(&self, cell: &Cell, thread: u32, by: usize) -> Option<Conflict> {
        if cell.born != self.block {
            return None;
        }
        let other = u32::from(cell.writer);
        if cell.group > 0 {
            // The copy counts from when it was waited for.
            return match self.completed.get(&(cell.writer, cell.group - 1)) {
                None => Some(Conflict::Pending { other }),
                Some(_) if other == thread => None,
                Some(time) if self.ordered(*time, other / WARP as u32, thread) => None,
                Some(_) => Some(Conflict::Write { other, same_instruction: false }),
            };
        }
        if other == thread || self.ordered(cell.write_time, other / WARP as u32, thread) {
            return None;
        }
        let same = by != 0 && cell.by == by && other / WARP as u32 == thread / WARP as u32;
        Some(Conflict::Write { other, same_instruction: same })
    }

    fn after_read(&self, cell: &Cell, thread: u32) -> Option<Conflict> {
        if cell.read_time == 0 || cell.reader as u32 == thread {
            return None;
        }
        let (warp, other) = match cell.reader {
            MANY => (u32::MAX, None),
            r if r & LANES != 0 => (u32::from(r & !LANES), None),
            r => (u32::from(r) / WARP as u32, Some(u32::from(r))),
        };
        // Reads of earlier blocks lie before this block's first barrier, which `start` made.
        if self.ordered(cell.read_time, warp, thread) { None } else { Some(Conflict::Read { other }) }
    }

    pub(super) fn read(&mut self, byte: usize, thread: u32) -> Option<Conflict> {
        let cell = self.cells[byte];
        if cell.born != self.block {
            return Some(Conflict::Unwritten);
        }
        if let Some(conflict) = self.after_write(&cell, thread, 0) {
            return Some(conflict);
        }
        let me = thread / WARP as u32;
        let reader = if cell.read_time < self.block_sync || cell.reader as u32 == thread {
            thread as u16
        } else {
            let before = match cell.reader {
                MANY => u32::MAX,
                r if r & LANES != 0 => u32::from(r & !LANES),
                r => u32::from(r) / WARP as u32,
            };
            if before == me { LANES | me as u16 } else { MANY }
        };
        let now = self.now;
        let cell = &mut self.cells[byte];
        cell.reader = reader;
        cell.read_time = now;
        None
    }

    fn set(&mut self, byte: usize, thread: u32, group: u32, atomic: bool, by: usize) {
        let (block, now) = (self.block, self.now);
        let cell = &mut self.cells[byte];
        cell.born = block;
        cell.write_time = now;
        cell.writer = thread as u16;
        cell.group = group;
        cell.atomic = atomic;
        cell.by = by;
    }

    pub(super) fn write(&mut self, byte: usize, thread: u32, by: usize) -> Option<Conflict> {
        let cell = self.cells[byte];
        let conflict = self.after_write(&cell, thread, by).or_else(|| self.after_read(&cell, thread));
        self.set(byte, thread, 0, false, by);
        conflict
    }

    pub(super) fn copy(&mut self, byte: usize, thread: u32) -> Option<Conflict> {
        let cell = self.cells[byte];
        let conflict = self.after_write(&cell, thread, 0).or_else(|| self.after_read(&cell, thread));
        let group = self.threads[thread as usize].open + 1;
        self.set(byte, thread, group, false, 0);
        conflict
    }

    pub(super) fn atomic(&mut self, byte: usize, thread: u32) -> Option<Conflict> {
        let cell = self.cells[byte];
        if cell.born != self.block {
            return Some(Conflict::Unwritten);
        }
        // Atomics do not race with each other.
        let conflict = if cell.atomic { None } else { self.after_write(&cell, thread, 0) };
        let conflict = conflict.or_else(|| self.after_read(&cell, thread));
        self.set(byte, thread, 0, true, 0);
        conflict
    }
}
