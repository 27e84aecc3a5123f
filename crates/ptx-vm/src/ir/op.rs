//! The compact instruction the interpreter runs, and the state of a running warp on which it works.
//!
//! A kernel is an array of [`Op`]s. Each holds the function that executes it (*direct threading*): the loop is
//! `op = (op.run)(cx, op)` until null. Functions are generic over the operation and compiled three times, for a plain CPU, for
//! AVX2+FMA and for AVX-512, so that their loops over 32 lanes become a few vector instructions.

use super::event::{Event, Happened};
use super::lanes::{FULL, L, blend};
use crate::error::FaultKind;
use crate::math::mma::TensorCore;
use crate::memory::{Heap, SHARED_WINDOW, Table};

/// Executes one instruction and gives the next one, or null when the warp stops (see [`Cx::stop`]).
pub(crate) type Run = unsafe fn(&mut Cx, *const Op) -> *const Op;

/// What an instruction is decoded to: the function that executes it, and how checked mode carries undefined bits through it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handler {
    pub(crate) run: Run,
    pub(crate) rule: Rule,
}

/// How the undefined bits of an instruction's sources become those of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// An undefined bit in any source of a lane makes all results of the lane undefined.
    Whole,
    /// The same in each half of 16 bits.
    Halves,
    /// Results are bits of the sources in other places: the handler itself moves the undefined bits. The operands `r[i]` whose bit is set
    /// say how, and are taken as they are.
    Moves(u8),
    /// The same for operands in the list.
    MovesList(u8),
    /// A function of bits in the same place, by its truth table as in `lop3`; none: the table is the immediate.
    Bits(Option<u8>),
    /// `r[1]` becomes the upper half, `r[2]` the lower one.
    Pack,
    Compare,
    Select,
    Predicates,
    Constant,
    Carry,
    Load,
    Store,
    LoadMatrix,
    StoreMatrix,
    Copy,
    Bulk,
    /// `st.async` and `red.async`.
    AsyncStore,
    Atomic,
    Atomic128,
    Shuffle,
    Vote,
    Match,
    Redux,
    Elect,
    Multiply,
    /// `wgmma.mma_async`.
    Warpgroup,
    /// `wgmma.fence`, `commit_group` and `wait_group`.
    WarpgroupOrder,
    /// Branches on a predicate, or executes something where it holds: it must be defined.
    Decide,
    /// The operands `r[i]` whose bit is set must be defined; results are.
    Demands(u8),
    Call,
    Mbarrier,
    Barrier,
    Fence,
    BulkGroup,
    /// `barrier.cluster`.
    Cluster,
}

/// One decoded instruction. Operands are byte offsets into the warp's registers, or with [`CONST_BIT`] into the constants.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub(crate) run: Run,
    /// The same without leaning on what instructions before this one have left in [`Cx::stage`].
    pub(crate) alone: Run,
    pub(crate) r: [u32; 4],
    pub(crate) imm: i64,
    /// Start of the operand list of instructions with more than four, or a second target.
    pub(crate) x: u32,
    pub(crate) aux: u32,
}

/// Marks an operand that lives among the constants.
pub(crate) const CONST_BIT: u32 = 1 << 31;

/// Stands for the place of an operand that is not there.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// Why a warp stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All lanes have exited.
    Exit,
    /// The warp has arrived at a barrier of the block; see [`Cx::arrival`].
    Barrier,
    /// Lanes wait for others of their warp, those in [`Cx::wanted`]; the instruction at `pc` runs when they have come.
    Sync,
    /// The time slice is over.
    Quantum,
    /// Somebody else may run: `nanosleep`.
    Yield,
    /// Waited in vain for an mbarrier, see [`Cx::poll`].
    Poll,
    /// Arrives at the barrier of the cluster, or waits at it.
    Cluster,
    Fault,
}

/// Shared memory of a cluster in 32 bits: the rank of a block stands from this bit on, in a *place* as it is, in an address of
/// `.shared::cluster` plus one. An address without is the block's own.
pub(crate) const RANK_SHIFT: u32 = 24;
/// The bits below.
pub(crate) const OFFSET: u32 = (1 << RANK_SHIFT) - 1;

/// Barriers that programs name by number.
pub(crate) const NAMED: usize = 16;

/// All barriers: those at which each of the warpgroups of a block waits for its products follow.
pub(crate) const BARRIERS: usize = NAMED + 8;

/// A barrier arrival: which, how many threads take part (0: all), whether the warp waits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    pub(crate) id: u32,
    pub(crate) threads: u32,
    pub(crate) waits: bool,
    /// `bar.red`: the predicate lanes of this warp and the operation.
    pub(crate) reduce: Option<(Reduce, u32)>,
    /// Where the result of the reduction goes.
    pub(crate) result: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduce {
    Popc,
    And,
    Or,
}

/// What went wrong, as the handlers see it.
#[derive(Debug, Clone)]
pub(crate) struct Trap {
    pub(crate) kind: FaultKind,
    pub(crate) lane: Option<u32>,
    pub(crate) address: Option<u64>,
    pub(crate) message: String,
}

/// The last allocation an instruction touched: host memory and the range it may touch.
#[derive(Clone, Copy)]
pub(crate) struct Cache {
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) host: *mut u8,
    /// Where each warp (of those whose numbers end alike) has begun to read last, to guess where it will go on.
    pub(crate) last: [u64; 8],
}

impl Cache {
    /// How far a warp has gone since it was here last.
    #[inline(always)]
    pub(crate) fn stride(&mut self, warp: u32, first: u64) -> u64 {
        first.wrapping_sub(std::mem::replace(&mut self.last[(warp & 7) as usize], first))
    }

    pub(crate) const EMPTY: Cache = Cache { base: 1, end: 0, host: std::ptr::null_mut(), last: [0; 8] };
}

/// A pending path of a diverged warp.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    /// Where the lanes meet again; null when only at the exit.
    pub(crate) meet: *const Op,
    /// Where this path goes on.
    pub(crate) pc: *const Op,
    pub(crate) mask: u32,
    /// [`NO_FRAME`], or this is a call: `meet` is the instruction, `mask` the lanes that return to `pc`, and this the end of the caller's frame.
    pub(crate) frame: u32,
}

/// A [`Path`] that is not a call.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// The parts of an mbarrier object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    pub(crate) pending: i64,
    pub(crate) expected: i64,
    pub(crate) bytes: i64,
    /// Parity of the current phase.
    pub(crate) phase: bool,
}

/// A wait that was in vain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll {
    pub(crate) op: *const Op,
    pub(crate) lane: u32,
    pub(crate) at: u32,
    pub(crate) object: Object,
}

/// The state the handlers work on: the running warp and its surroundings.
pub(crate) struct Cx {
    /// The warp's registers and the constants.
    pub(crate) base: [*mut u8; 2],
    pub(crate) preds: *mut u32,
    /// Lanes that execute the current instruction.
    pub(crate) mask: u32,
    /// Lanes of the warp that have not exited, those of its other strands included.
    pub(crate) alive: u32,
    /// Lanes the warp began with.
    pub(crate) began: u32,
    /// Instructions left in the time slice, charged at backward branches and calls.
    pub(crate) fuel: i64,
    pub(crate) code: *const Op,
    pub(crate) lists: *const u32,
    /// Operands of tensor instructions, prepared for those that follow; see `lower/stage.rs`.
    pub(crate) stage: *mut u8,
    pub(crate) caches: *mut Cache,
    pub(crate) shared: *mut u8,
    pub(crate) shared_len: u32,
    /// The shared memory of the blocks of the cluster, by their ranks, and the rank of this one.
    pub(crate) peers: Vec<*mut u8>,
    pub(crate) rank: u32,
    /// This warp's local memory: one frame of `local_len` bytes for each lane.
    pub(crate) local: *mut u8,
    pub(crate) local_len: u32,
    /// Where the frame of the running function ends in there: the next one begins behind it.
    pub(crate) top: u32,
    /// Arguments on their way to the callee's registers.
    pub(crate) staged: Vec<L<u64>>,
    pub(crate) params: *const u8,
    pub(crate) params_len: u32,
    pub(crate) paths: Vec<Path>,
    /// Where the warp goes on after it stopped.
    pub(crate) pc: *const Op,
    pub(crate) stop: Stop,
    pub(crate) arrival: Arrival,
    /// Whom each lane waits for; see [`Stop::Sync`].
    pub(crate) wanted: L<u32>,
    /// All whom a `.sync` instruction waits for are in `mask`: it must not look for them again.
    pub(crate) joint: bool,
    pub(crate) trap: Option<Trap>,
    /// What `printf` of this block has written.
    pub(crate) printed: Vec<u8>,
    pub(crate) heap: *const Heap,
    pub(crate) table: *const Table,
    pub(crate) globals: *const Table,
    pub(crate) warp: u32,
    /// Its number among those of the cluster.
    pub(crate) seat: u32,
    /// Threads of the block.
    pub(crate) threads: u32,
    pub(crate) checked: bool,
    /// Checked mode reports what waits for lanes that do not come.
    pub(crate) strict: bool,
    /// Whose additions `mma` takes; none: its own.
    pub(crate) tensor_core: Option<TensorCore>,
    /// The last wait in vain.
    pub(crate) poll: Option<Poll>,
    /// Changes of mbarriers so far: while it stands, waiting for one does not help.
    pub(crate) changes: u64,
    /// What an instruction did that checked mode has to know, besides its accesses.
    pub(crate) events: Vec<Event>,
}

/// Executes the instruction behind the guard `op` by `step`, under the mask of the lanes for which it holds, if there are any.
///
/// # Safety
/// A guarded instruction stands behind `op`; `step` executes it as a handler does.
#[inline(always)]
pub(crate) unsafe fn guarded(
    cx: &mut Cx,
    op: *const Op,
    step: impl FnOnce(&mut Cx, *const Op) -> *const Op,
) -> *const Op {
    // SAFETY: forwarded.
    unsafe {
        let (all, mask) = (cx.mask, cx.holding(op));
        let inner = op.add(1);
        if mask == 0 {
            return inner.add(1);
        }
        cx.mask = mask;
        let next = step(cx, inner);
        cx.mask = all;
        next
    }
}

impl Cx {
    /// The lanes of an operand.
    ///
    /// # Safety
    /// `slot` comes from a decoded operand of width `T`, so it lies inside the registers or constants of this kernel.
    #[inline(always)]
    pub(crate) unsafe fn at<T>(&self, slot: u32) -> *mut L<T> {
        // SAFETY: the index is 0 or 1; the offset is in range by construction of the operand.
        unsafe { self.base.get_unchecked((slot >> 31) as usize).add((slot & !CONST_BIT) as usize).cast() }
    }

    /// Reads an operand.
    ///
    /// # Safety
    /// As [`Cx::at`]; every bit pattern must be a `T`.
    #[inline(always)]
    pub(crate) unsafe fn get<T: Copy>(&self, slot: u32) -> L<T> {
        // SAFETY: forwarded.
        unsafe { *self.at::<T>(slot) }
    }

    /// Writes the active lanes of an operand.
    ///
    /// # Safety
    /// As [`Cx::at`].
    #[inline(always)]
    pub(crate) unsafe fn put<T: Copy>(&mut self, slot: u32, value: &L<T>) {
        // SAFETY: forwarded.
        unsafe {
            let to = self.at::<T>(slot);
            if self.mask == FULL {
                *to = *value;
            } else {
                blend(to, value, self.mask);
            }
        }
    }

    /// A predicate.
    ///
    /// # Safety
    /// `index` comes from a decoded predicate operand.
    #[inline(always)]
    pub(crate) unsafe fn pred(&self, index: u32) -> u32 {
        // SAFETY: forwarded.
        unsafe { *self.preds.add(index as usize) }
    }

    /// The active lanes for which the guard of a branch, an exit or a [`crate::step::control::Guard`] holds: r = predicate, negation.
    ///
    /// # Safety
    /// `op` was decoded with a guard.
    #[inline(always)]
    pub(crate) unsafe fn holding(&self, op: *const Op) -> u32 {
        // SAFETY: forwarded.
        unsafe { (self.pred((*op).r[0]) ^ (*op).r[1]) & self.mask }
    }

    /// Sets the active lanes of a predicate.
    ///
    /// # Safety
    /// As [`Cx::pred`].
    #[inline(always)]
    pub(crate) unsafe fn set_pred(&mut self, index: u32, value: u32) {
        // SAFETY: forwarded.
        unsafe {
            let p = self.preds.add(index as usize);
            *p = *p & !self.mask | value & self.mask;
        }
    }

    /// Entry `i` of the operand list of `op`.
    ///
    /// # Safety
    /// `i` is below the length of the list.
    #[inline(always)]
    pub(crate) unsafe fn list(&self, op: *const Op, i: usize) -> u32 {
        // SAFETY: forwarded.
        unsafe { *self.lists.add((*op).x as usize + i) }
    }

    /// Where an address of the shared window lies: the rank of the block and the offset there. Addresses that `mapa` has made say the rank,
    /// others are the block's own.
    pub(crate) fn whose(&self, address: u64) -> Option<(u32, u32)> {
        let at = u32::try_from(address.wrapping_sub(SHARED_WINDOW)).ok()?;
        match at >> RANK_SHIFT {
            0 => Some((self.rank, at)),
            rank => Some((rank - 1, at & OFFSET)),
        }
    }

    /// The shared memory of a block of the cluster at a generic address.
    pub(crate) fn in_cluster(&self, address: u64, bytes: u64) -> Option<*mut u8> {
        let (rank, offset) = self.whose(address)?;
        let peer = self.peers.get(rank as usize)?;
        (u64::from(offset) + bytes <= u64::from(self.shared_len)).then(|| peer.wrapping_add(offset as usize))
    }

    /// The place of an offset into the block's own shared memory, see [`RANK_SHIFT`].
    pub(crate) fn place(&self, offset: u32) -> u32 {
        self.rank << RANK_SHIFT | offset
    }

    /// The same of a generic address that is known to lie in the cluster.
    pub(crate) fn place_of(&self, address: u64) -> u32 {
        self.whose(address).map_or(0, |(rank, offset)| rank << RANK_SHIFT | offset)
    }

    /// A generic address as all blocks of the cluster write it.
    pub(crate) fn common(&self, address: u64) -> u64 {
        match self.whose(address) {
            Some((rank, offset)) => SHARED_WINDOW + u64::from((rank + 1) << RANK_SHIFT | offset),
            None => address,
        }
    }

    /// Tells checked mode what a lane did; lanes that did the same in a row are one event.
    pub(crate) fn happened(&mut self, what: Happened, lanes: u32, at: u32) {
        if !self.checked {
            return;
        }
        match self.events.last_mut() {
            Some(last) if last.what == what && last.at == at && !matches!(what, Happened::Bulk { .. }) => {
                last.lanes |= lanes
            }
            _ => self.events.push(Event { what, lanes, at }),
        }
    }

    /// Tells checked mode that a function of the device runtime took a value of a lane from memory.
    pub(crate) fn has_read(&mut self, lane: u32, from: u64, bytes: u64, what: &'static str) {
        self.happened(Happened::Read { from, bytes, what }, 1 << lane, 0);
    }

    /// Stops the warp because of a fault at `op`.
    #[cold]
    #[inline(never)]
    pub(crate) fn fault(
        &mut self,
        op: *const Op,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> *const Op {
        self.pc = op;
        self.stop = Stop::Fault;
        self.trap = Some(Trap { kind, lane, address, message });
        std::ptr::null()
    }

    /// Stops the warp; it goes on at `pc`.
    #[inline(always)]
    pub(crate) fn pause(&mut self, stop: Stop, pc: *const Op) -> *const Op {
        self.pc = pc;
        self.stop = stop;
        std::ptr::null()
    }
}
