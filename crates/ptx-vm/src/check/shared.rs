//! The shadow of shared memory: who touched each byte last, and whether that is ordered before now. Bytes go by their places in the
//! cluster, see [`crate::ir::RANK_SHIFT`].

use super::clock::{Agent, Clocks};
use crate::ir::{OFFSET, RANK_SHIFT, WARP};

/// What an access collides with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Write {
        other: Agent,
    },
    Read {
        other: Agent,
    },
    /// By a copy its own thread has not waited for.
    Pending {
        other: Agent,
    },
}

/// When somebody did something: an agent and a time, or [`SET`] and a set of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Epoch {
    who: Agent,
    at: u32,
}

const SET: Agent = Agent::MAX;

/// A member of a set: lanes of the warp whose first thread is `first`, or without lanes the agent `first` alone.
#[derive(Debug, Clone, Copy)]
struct Member {
    first: Agent,
    lanes: u32,
    time: u32,
}

/// One byte. Its fields are those of two [`Epoch`]s, side by side so that a byte takes 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    write_at: u32,
    read_at: u32,
    writer: Agent,
    reader: Agent,
    /// The storing instruction plus one, to know lanes of one store; [`STRONG`] for strong operations, else 0.
    by: u32,
}

const STRONG: u32 = u32::MAX;

impl Cell {
    fn write(&self) -> Epoch {
        Epoch { who: self.writer, at: self.write_at }
    }
    fn read(&self) -> Epoch {
        Epoch { who: self.reader, at: self.read_at }
    }
}

/// Who does something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) warp: usize,
    /// Lanes that do the same to the same bytes.
    pub(super) lanes: u32,
    /// The agent that will have done it, when that is not the lanes themselves.
    pub(super) proxy: Option<Agent>,
}

impl Actor {
    pub(super) fn lane(warp: usize, lane: u32) -> Actor {
        Actor { warp, lanes: 1 << lane, proxy: None }
    }

    fn first(&self) -> u32 {
        self.warp as u32 * WARP as u32
    }

    /// Whoever it is: itself, or its threads.
    pub(super) fn agents(self) -> impl Iterator<Item = Agent> {
        let threads = self.threads().map(|thread| thread as Agent).filter(move |_| self.proxy.is_none());
        self.proxy.into_iter().chain(threads)
    }

    /// Its threads.
    fn threads(self) -> impl Iterator<Item = u32> {
        (0..WARP as u32).filter(move |l| self.lanes >> l & 1 != 0).map(move |l| self.first() + l)
    }

    /// The agent, when it is one.
    fn alone(&self) -> Option<Agent> {
        let thread = self.first() + self.lanes.trailing_zeros();
        self.proxy.or_else(|| (self.lanes.count_ones() == 1).then_some(thread as Agent))
    }
}

/// How a write is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// By a store, this instruction of the kernel.
    Store(u32),
    /// By a strong store.
    Strong,
    /// By an atomic, which reads too.
    Atomic,
    /// By an asynchronous copy or `mbarrier.init`.
    Copy,
}

/// A remembered answer of [`Shadow::with`].
type Memo = (Epoch, Actor, u32, Epoch);

#[derive(Default)]
pub(super) struct Shadow {
    /// Those of each block, one block after the other.
    cells: Vec<Cell>,
    /// Bytes of a block.
    len: usize,
    pub(super) clocks: Clocks,
    /// The time the block began: what is older was done by another block.
    born: u32,
    /// Sets of this block; their numbers begin at `base`.
    sets: Vec<Vec<Member>>,
    base: u32,
    memo: Vec<Memo>,
}

impl Shadow {
    /// A cluster of blocks begins, with so many bytes of shared memory and numbers of warps for each.
    pub(super) fn start(&mut self, len: usize, [blocks, seats]: [usize; 2]) {
        // Times and set numbers only grow, so that old cells need not be cleared; they begin anew long before they run out.
        if self.clocks.now > 1 << 31 || self.base > 1 << 31 {
            *self = Shadow::default();
        }
        self.cells.resize(self.cells.len().max(len * blocks), Cell::default());
        self.len = len;
        self.clocks.start(blocks, seats);
        self.born = self.clocks.now;
        self.base += self.sets.len() as u32 + 1;
        self.sets.clear();
        self.memo.clear();
    }

    /// Where the cells of a place begin.
    fn cell(&self, place: usize) -> usize {
        (place >> RANK_SHIFT) * self.len + (place & OFFSET as usize)
    }

    /// The barrier of the cluster opens: everybody in it knows mbarriers of which a fence has told.
    pub(super) fn cluster_open(&mut self) {
        for at in self.clocks.cluster_open() {
            let at = self.cell(at as usize);
            self.cells[at..at + 8].fill(Cell::default());
        }
    }

    /// The first byte whose last writer has not told asynchronous copies of it, and that writer.
    pub(super) fn untold(&self, at: usize, n: usize, thread: u32) -> Option<(usize, Agent)> {
        let first = self.cell(at);
        self.cells[first..first + n].iter().enumerate().find_map(|(i, cell)| {
            let epoch = cell.write();
            // Of several writers of one value one is enough; what copies wrote needs no telling.
            let plain = cell.by != 0 && epoch.who != SET && epoch.at >= self.born;
            (plain && !self.clocks.told(epoch.who, epoch.at, thread)).then_some((at + i, epoch.who))
        })
    }

    /// Someone in an epoch who is not ordered before all of the actor's threads.
    #[inline(always)]
    fn unordered(&self, epoch: Epoch, actor: Actor) -> Option<Agent> {
        if epoch.who != SET && epoch.at < self.clocks.floor && self.clocks.is_thread(epoch.who) {
            return None;
        }
        self.unordered_slow(epoch, actor)
    }

    #[inline(never)]
    fn unordered_slow(&self, epoch: Epoch, actor: Actor) -> Option<Agent> {
        if epoch.who != SET {
            if epoch.at < self.born {
                return None;
            }
            let late = actor.threads().any(|t| !self.clocks.before(epoch.who, epoch.at, t));
            return late.then_some(epoch.who);
        }
        let members = self.sets.get(epoch.at.checked_sub(self.base)? as usize)?;
        members.iter().find_map(|m| {
            let late = |agent: Agent| actor.threads().any(|t| !self.clocks.before(agent, m.time, t));
            if m.lanes == 0 {
                return late(m.first).then_some(m.first);
            }
            (0..WARP as u16).filter(|l| m.lanes >> l & 1 != 0).map(|l| m.first + l).find(|agent| late(*agent))
        })
    }

    /// The epoch of everyone in `old` who is not ordered before the actor, and the actor.
    fn with(&mut self, old: Epoch, actor: Actor) -> Epoch {
        let now = self.clocks.now;
        let alone = actor.alone();
        if let Some(who) = alone
            && self.unordered(old, actor).is_none()
        {
            return Epoch { who, at: now };
        }
        let (first, end) = (actor.first() as Agent, actor.first() as Agent + WARP as Agent);
        // Whoever is among them as of now stays there, with the same others.
        let among = |m: &Member| m.first == first && m.time == now && m.lanes & actor.lanes == actor.lanes;
        if old.who == SET
            && actor.proxy.is_none()
            && let Some(members) = old.at.checked_sub(self.base).and_then(|i| self.sets.get(i as usize))
            && members.iter().any(among)
        {
            return old;
        }
        const SLOTS: usize = 256;
        let key =
            (u64::from(old.at) << 16 | u64::from(old.who)) ^ u64::from(actor.lanes) << 20 ^ (actor.warp as u64) << 50;
        let slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % SLOTS;
        // What lanes know changes only with time, so the answer holds for as long as it stands still.
        if let Some((o, by, t, answer)) = self.memo.get(slot)
            && (*o, *by, *t) == (old, actor, now)
        {
            return *answer;
        }
        let mut members: Vec<Member> = if old.who == SET {
            old.at.checked_sub(self.base).and_then(|i| self.sets.get(i as usize)).cloned().unwrap_or_default()
        } else if old.at >= self.born && self.clocks.is_thread(old.who) {
            let lane = u32::from(old.who) % WARP as u32;
            vec![Member { first: old.who - lane as Agent, lanes: 1 << lane, time: old.at }]
        } else if old.at >= self.born {
            vec![Member { first: old.who, lanes: 0, time: old.at }]
        } else {
            Vec::new()
        };
        // Whoever is ordered before one of the threads is ordered before whatever that thread is ordered before.
        let lane = actor.first() + actor.lanes.trailing_zeros();
        members.retain_mut(|m| {
            if m.lanes == 0 {
                let same = (first..end).contains(&m.first) && actor.lanes >> (m.first - first) & 1 != 0;
                return !same && !self.clocks.before(m.first, m.time, lane);
            }
            if m.first == first {
                m.lanes &= !actor.lanes;
            }
            m.lanes != 0
                && (0..WARP as u16).any(|l| m.lanes >> l & 1 != 0 && !self.clocks.before(m.first + l, m.time, lane))
        });
        let answer = match alone {
            Some(who) if members.is_empty() => Epoch { who, at: now },
            Some(who) if actor.proxy.is_some() => self.intern(members, Member { first: who, lanes: 0, time: now }),
            _ => {
                // Lanes of a warp that do it at the same time are one member.
                let mates = members.iter().position(|m| m.first == first && m.time == now && m.lanes != 0);
                let lanes = mates.map_or(0, |at| members.swap_remove(at).lanes);
                self.intern(members, Member { first, lanes: lanes | actor.lanes, time: now })
            }
        };
        let nobody = Actor { warp: usize::MAX, lanes: 0, proxy: None };
        self.memo.resize(SLOTS, (Epoch::default(), nobody, 0, Epoch::default()));
        self.memo[slot] = (old, actor, now, answer);
        answer
    }

    fn intern(&mut self, mut members: Vec<Member>, new: Member) -> Epoch {
        members.push(new);
        self.sets.push(members);
        Epoch { who: SET, at: self.base + self.sets.len() as u32 - 1 }
    }

    /// A write that is not ordered before now, as a conflict.
    fn after_write(&self, cell: &Cell, actor: Actor, by: u32) -> Option<Conflict> {
        let pending = |other: Agent| !self.clocks.is_thread(other) && !self.clocks.waited_for(other, cell.write_at);
        let other = self.unordered(cell.write(), actor)?;
        if pending(other) {
            return Some(Conflict::Pending { other });
        }
        // Of lanes that store to one place in one instruction one wins, and that is all CUDA promises.
        let one_store = by != 0 && by != STRONG && cell.by == by && cell.write_at == self.clocks.now;
        let same_warp = self.clocks.is_thread(other) && other as usize / WARP == actor.warp;
        (!(one_store && same_warp)).then_some(Conflict::Write { other })
    }

    /// Reads `n` bytes; gives the first byte that may not be read and why.
    pub(super) fn read(&mut self, at: usize, n: usize, actor: Actor, strong: bool) -> Option<(usize, Conflict)> {
        let mut last = (Cell::default(), Cell::default());
        let first = self.cell(at);
        for byte in first..first + n {
            let cell = self.cells[byte];
            if byte > first && cell == last.0 {
                self.cells[byte] = last.1;
                continue;
            }
            if !(strong && cell.by == STRONG)
                && let Some(conflict) = self.after_write(&cell, actor, 0)
            {
                return Some((at + byte - first, conflict));
            }
            let mut new = cell;
            // What strong reads see is up to those who use flags; only weak ones must not be overtaken.
            if !strong {
                let read = self.with(cell.read(), actor);
                (new.reader, new.read_at) = (read.who, read.at);
                self.cells[byte] = new;
            }
            last = (cell, new);
        }
        None
    }

    /// Writes `n` bytes; gives the first byte that may not be written and why, unless `harmless` accepts it.
    pub(super) fn write(
        &mut self,
        at: usize,
        n: usize,
        actor: Actor,
        manner: Manner,
        mut harmless: impl FnMut(usize, Conflict) -> bool,
    ) -> Option<(usize, Conflict)> {
        let (by, strong) = match manner {
            Manner::Store(op) => (op + 1, false),
            Manner::Strong | Manner::Atomic => (STRONG, true),
            Manner::Copy => (0, false),
        };
        let mut last = None;
        let first = self.cell(at);
        for byte in first..first + n {
            let cell = self.cells[byte];
            if let Some((old, new)) = last
                && old == cell
            {
                self.cells[byte] = new;
                continue;
            }
            // Strong operations do not race with each other.
            let mates = strong && cell.by == STRONG;
            let mut conflict = if mates { None } else { self.after_write(&cell, actor, by) };
            if conflict.is_none() {
                conflict = self.unordered(cell.read(), actor).map(|other| Conflict::Read { other });
            }
            if let Some(conflict) = conflict
                && !harmless(at + byte - first, conflict)
            {
                return Some((at + byte - first, conflict));
            }
            let write = if mates {
                self.with(cell.write(), actor)
            } else {
                match actor.alone() {
                    Some(who) => Epoch { who, at: self.clocks.now },
                    None => self.with(Epoch::default(), actor),
                }
            };
            let mut new = Cell { writer: write.who, write_at: write.at, by, ..cell };
            if !strong {
                // Whatever comes after this write comes after the reads before it.
                (new.reader, new.read_at) = (0, 0);
            }
            self.cells[byte] = new;
            last = conflict.is_none().then_some((cell, new));
        }
        None
    }
}
