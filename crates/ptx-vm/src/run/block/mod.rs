//! One block: its warps, their barriers, its shared memory.
//!
//! A warp starts as one *strand*: lanes that share a program counter and a stack of pending paths. While lanes meet again where the
//! program says, one strand is all there is. When lanes of a warp have to wait for each other (a lock one of them holds, a barrier
//! their paths reach one by one) the strand is split, and the strands run in turn over the same registers, as independent threads
//! would; those that come to stand at the same place are one again.

mod barrier;
mod cluster;
mod fault;
mod strands;
mod turn;

use super::adverse::{Adversary, Flying, POISON};
use super::meeting::Meeting;
use crate::check::Watch;
use crate::ir::*;
use crate::ir::{ConstSource, Kernel, RESERVED, Special, Where};
use crate::memory::{Buffer, Table};
use crate::parse::Ty;
use crate::run::launch::{LaunchInfo, thread_index};
use std::cell::RefCell;
use std::rc::Rc;
pub(crate) use turn::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// At a barrier of the block.
    Waiting,
    /// For lanes of the same warp.
    Sync,
    /// At the barrier of the cluster.
    Cluster,
    Done,
}

/// Lanes of a warp that run together.
struct Strand {
    warp: usize,
    pc: *const Op,
    mask: u32,
    /// See [`Cx::top`].
    top: u32,
    paths: Vec<Path>,
    state: State,
    /// The lanes a [`State::Sync`] waits for, and those that had not exited when it began to.
    wanted: u32,
    since: u32,
    /// Time slices used up since it last did anything else.
    spins: u32,
    /// The idle period in which it last polled in vain.
    polled: u64,
}

impl Strand {
    /// Whether all it does in an idle period is to wait.
    fn idles(&self, period: u64) -> bool {
        self.state != State::Ready || self.polled == period
    }
}

#[derive(Clone, Copy)]
struct Warp {
    /// Lanes it began with, and those that have not exited.
    began: u32,
    alive: u32,
    /// Strands that are not done.
    strands: u32,
    /// The barrier its strands wait at, when they do.
    arrival: Arrival,
    /// Its lanes have gone ways of their own: what one instruction prepares may not be there for the next.
    split: bool,
}

#[derive(Clone, Copy, Default)]
struct BarrierState {
    warps: u32,
    threads: u32,
    wanted: u32,
}

/// The memory and the warps of a resident block; kept from block to block and from launch to launch.
pub(crate) struct Worker {
    regs: Buffer,
    preds: Vec<u32>,
    consts: Buffer,
    shared: Buffer,
    local: Buffer,
    stage: Buffer,
    caches: Vec<Cache>,
    warps: Vec<Warp>,
    strands: Vec<Strand>,
    /// Parameter bytes, aligned.
    params: Vec<u8>,
}

impl Worker {
    pub(crate) const fn new() -> Worker {
        Worker {
            regs: Buffer::EMPTY,
            preds: Vec::new(),
            consts: Buffer::EMPTY,
            shared: Buffer::EMPTY,
            local: Buffer::EMPTY,
            stage: Buffer::EMPTY,
            caches: Vec::new(),
            warps: Vec::new(),
            strands: Vec::new(),
            params: Vec::new(),
        }
    }
}

impl Worker {
    /// Makes room for the blocks of a launch, with the constants and parameters in place.
    fn reserve(&mut self, kernel: &Kernel, info: &LaunchInfo<'_>, warps: usize, params: &[u8]) -> Room {
        let own_shared = kernel.static_shared as u32 + info.dynamic_shared;
        let asks = kernel.launch_consts.iter().any(|(_, _, source)| source.is_reserved());
        let shared_len = if asks { own_shared.next_multiple_of(16) + RESERVED } else { own_shared };
        // A stack is no power of two long, or its lanes would fall on the same cache lines.
        let stack = info.stack.next_multiple_of(64) + 32;
        let local_bytes = if kernel.stack { kernel.local_bytes + stack } else { kernel.local_bytes };
        let room = Room {
            regs: self.regs.reserve(kernel.reg_bytes * warps),
            consts: self.consts.reserve(kernel.const_image.len()),
            stage: self.stage.reserve(kernel.stage_bytes * if info.adverse.is_some() { warps } else { 1 }),
            shared: self.shared.reserve(shared_len as usize),
            shared_len,
            own_shared,
            local: self.local.reserve(local_bytes * WARP * warps),
            local_bytes,
        };
        self.preds.clear();
        self.preds.resize(kernel.preds * warps, 0);
        self.caches.clear();
        self.caches.resize(kernel.caches, Cache::EMPTY);
        self.params.clear();
        self.params.extend_from_slice(params);
        self.params.resize(params.len().max(kernel.param_bytes), 0);
        // SAFETY: room was made for the whole image.
        unsafe { std::ptr::copy_nonoverlapping(kernel.const_image.as_ptr(), room.consts, kernel.const_image.len()) };
        room
    }

    /// What the handlers work on, before any warp runs.
    fn context(&mut self, room: &Room, kernel: &Kernel, info: &LaunchInfo<'_>, table: &Table) -> Cx {
        Cx {
            base: [room.regs, room.consts],
            preds: self.preds.as_mut_ptr(),
            mask: 0,
            alive: 0,
            began: 0,
            fuel: 0,
            code: kernel.code.as_ptr(),
            lists: kernel.lists.as_ptr(),
            stage: room.stage,
            caches: self.caches.as_mut_ptr(),
            shared: room.shared,
            shared_len: room.shared_len,
            peers: Vec::new(),
            rank: 0,
            local: room.local,
            local_len: room.local_bytes as u32,
            top: 0,
            staged: Vec::new(),
            params: self.params.as_ptr(),
            params_len: self.params.len() as u32,
            paths: Vec::new(),
            pc: std::ptr::null(),
            stop: Stop::Exit,
            arrival: Arrival::default(),
            wanted: [0; WARP],
            joint: false,
            trap: None,
            printed: Vec::new(),
            heap: info.heap,
            table,
            globals: &kernel.globals.table,
            warp: 0,
            seat: 0,
            threads: info.block.iter().product(),
            checked: info.checked,
            strict: info.strict,
            tensor_core: info.tensor_core,
            poll: None,
            changes: 0,
            events: Vec::new(),
        }
    }
}

/// Where the memory of a launch's blocks lies; see [`Runner`].
struct Room {
    regs: *mut u8,
    consts: *mut u8,
    stage: *mut u8,
    shared: *mut u8,
    shared_len: u32,
    own_shared: u32,
    local: *mut u8,
    local_bytes: usize,
}

thread_local! {
    static IDLE: std::cell::RefCell<Vec<Worker>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs blocks of one launch on one thread, one after the other.
pub(crate) struct Runner<'a> {
    worker: Worker,
    kernel: &'a Kernel,
    info: &'a LaunchInfo<'a>,
    cx: Cx,
    warps: usize,
    threads: u32,
    sm: u32,
    regs: *mut u8,
    local: *mut u8,
    /// Bytes of local memory for each thread.
    local_bytes: usize,
    /// Bytes of shared memory without what is reserved for the system.
    own_shared: u32,
    /// While it is the block's turn.
    pub(crate) watch: Option<Box<Watch>>,
    adverse: Option<Box<Adversary>>,
    /// Where the block's cluster stands among those of the grid, its rank in there, and the first of its warps among those of the cluster.
    place: u64,
    rank: u32,
    seat: usize,
    /// Number and index of the block.
    number: u64,
    block: [u32; 3],
    meeting: Rc<RefCell<Meeting>>,
    /// Strands that wait at the barrier of the cluster.
    away: usize,
    barriers: [BarrierState; BARRIERS],
    /// Warps that are not done.
    left: usize,
    spent: u64,
    /// How much of that the launch knows of.
    told: u64,
    /// The launch has ended as a whole, and this block with it.
    pub(crate) cut: bool,
    /// An idle period lasts while strands do nothing but poll mbarriers that nobody changes: its number, polls so far, and the count of
    /// changes it began with.
    period: u64,
    polls: u64,
    changes: u64,
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        let worker = std::mem::replace(&mut self.worker, Worker::new());
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < 2 {
                idle.push(worker);
            }
        });
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        info: &'a LaunchInfo<'a>,
        table: &'a Table,
        params: &[u8],
        sm: u32,
        rank: u32,
        meeting: Rc<RefCell<Meeting>>,
    ) -> Runner<'a> {
        let mut worker = IDLE.with_borrow_mut(Vec::pop).unwrap_or_else(Worker::new);
        let threads = info.block.iter().product::<u32>();
        let warps = threads.div_ceil(WARP as u32) as usize;
        let room = worker.reserve(kernel, info, warps, params);
        let cx = worker.context(&room, kernel, info, table);
        let mut runner = Runner {
            worker,
            kernel,
            info,
            cx,
            warps,
            threads,
            sm,
            regs: room.regs,
            local: room.local,
            local_bytes: room.local_bytes,
            own_shared: room.own_shared,
            watch: None,
            adverse: info.adverse.map(|seed| Box::new(Adversary::new(seed, !info.checked))),
            place: 0,
            rank,
            seat: rank as usize * info.seats(),
            number: 0,
            block: [0; 3],
            meeting,
            away: 0,
            barriers: [BarrierState::default(); BARRIERS],
            left: 0,
            spent: 0,
            told: 0,
            cut: false,
            period: 1,
            polls: 0,
            changes: 0,
        };
        for (at, w, source) in &kernel.launch_consts {
            if !source.is_of_block() {
                let value = runner.launch_value(*source, [0; 3]);
                runner.splat(*at, *w, value);
            }
        }
        runner.place_threads();
        runner
    }

    /// Fills in what differs from warp to warp or from lane to lane.
    fn place_threads(&mut self) {
        let kernel = self.kernel;
        for warp in 0..self.warps {
            for (at, w, special) in &kernel.warp_consts {
                // SAFETY: the slot lies inside the registers of this warp.
                unsafe {
                    let to = self.regs.add(warp * kernel.reg_bytes + *at as usize);
                    for lane in 0..WARP {
                        let thread = (warp * WARP + lane) as u32;
                        let [x, y, z] = thread_index(thread, self.info.block);
                        let value = match special {
                            Special::Tid(0) => x,
                            Special::Tid(1) => y,
                            Special::Tid(_) => z,
                            _ => warp as u32,
                        };
                        match w {
                            Where::W16 => to.cast::<u16>().add(lane).write(value as u16),
                            Where::W32 => to.cast::<u32>().add(lane).write(value),
                            Where::W64 => to.cast::<u64>().add(lane).write(u64::from(value)),
                        }
                    }
                }
            }
        }
    }

    fn launch_value(&self, source: ConstSource, block: [u32; 3]) -> u64 {
        let info = self.info;
        match source {
            ConstSource::Param(at, ty) => {
                let mut bytes = [0u8; 8];
                let n = ty.bytes().min(8);
                if let Some(src) = self.worker.params.get(at as usize..at as usize + n) {
                    bytes[..n].copy_from_slice(src);
                }
                let raw = u64::from_le_bytes(bytes);
                match ty {
                    Ty::S8 => raw as u8 as i8 as u64,
                    Ty::S16 => raw as u16 as i16 as u64,
                    Ty::S32 => raw as u32 as i32 as u64,
                    _ => raw,
                }
            }
            ConstSource::Special(Special::GridId) => info.grid_id,
            ConstSource::Special(Special::Workspace(upper)) => {
                (info.workspace >> if upper { 32 } else { 0 }) & 0xffff_ffff
            }
            ConstSource::Special(s) => u64::from(match s {
                Special::Ntid(a) => info.block[a as usize],
                Special::Nctaid(a) => info.grid[a as usize],
                Special::Ctaid(a) => block[a as usize],
                Special::ClusterId(a) => block[a as usize] / info.cluster[a as usize],
                Special::NClusterId(a) => info.grid[a as usize] / info.cluster[a as usize],
                Special::ClusterCtaid(a) => block[a as usize] % info.cluster[a as usize],
                Special::ClusterNctaid(a) => info.cluster[a as usize],
                Special::ClusterRank => self.rank,
                Special::ClusterBlocks => info.blocks,
                Special::ExplicitCluster => u32::from(info.explicit_cluster),
                Special::NWarpId => self.warps as u32,
                Special::DynamicShared => info.dynamic_shared,
                Special::TotalShared => self.own_shared,
                Special::Reserved(at) => self.own_shared.next_multiple_of(16) + at,
                Special::SmId => self.sm,
                Special::NSm => info.workers,
                Special::Tid(_) | Special::WarpId | Special::GridId | Special::Workspace(_) => 0,
            }),
            ConstSource::Imm(v, _) => v,
            ConstSource::Lane { .. } | ConstSource::LaneMask(_) => 0,
        }
    }

    fn splat(&mut self, at: u32, w: Where, value: u64) {
        // SAFETY: the decoder made room for 32 lanes at this offset.
        unsafe {
            let to = self.cx.base[1].add(at as usize);
            for lane in 0..WARP {
                match w {
                    Where::W16 => to.cast::<u16>().add(lane).write(value as u16),
                    Where::W32 => to.cast::<u32>().add(lane).write(value as u32),
                    Where::W64 => to.cast::<u64>().add(lane).write(value),
                }
            }
        }
    }

    /// Bytes a resident block takes.
    pub(crate) fn bytes(&self) -> usize {
        let warp = self.kernel.reg_bytes + self.local_bytes * WARP;
        self.cx.shared_len as usize + self.warps * warp
    }

    /// The block's shared memory.
    pub(crate) fn shared(&self) -> *mut u8 {
        self.cx.shared
    }

    /// The blocks of the cluster know each other, and which of them they are.
    pub(crate) fn meet(&mut self, peers: &[*mut u8]) {
        (self.cx.peers, self.cx.rank) = (peers.to_vec(), self.rank);
    }

    /// The lanes of each warp.
    pub(crate) fn lanes(&self) -> Vec<u32> {
        let of = |warp: usize| match self.threads - (warp * WARP) as u32 {
            left if left >= WARP as u32 => FULL,
            left => (1 << left) - 1,
        };
        (0..self.warps).map(of).collect()
    }

    /// Takes up a block; [`Runner::advance`] runs it.
    pub(crate) fn start(&mut self, place: u64, number: u64, block: [u32; 3]) {
        (self.place, self.number, self.block, self.away) = (place, number, block, 0);
        for i in 0..self.kernel.launch_consts.len() {
            let (at, w, source) = self.kernel.launch_consts[i];
            if source.is_of_block() {
                let value = self.launch_value(source, block);
                self.splat(at, w, value);
            }
        }
        let worker = &mut self.worker;
        worker.warps.clear();
        worker.strands.truncate(self.warps);
        for warp in 0..self.warps {
            let left = self.threads - (warp * WARP) as u32;
            let mask = if left >= WARP as u32 { FULL } else { (1 << left) - 1 };
            worker.warps.push(Warp { began: mask, alive: mask, strands: 1, arrival: Arrival::default(), split: false });
            let mut paths = worker.strands.get_mut(warp).map(|s| std::mem::take(&mut s.paths)).unwrap_or_default();
            paths.clear();
            let pc = self.kernel.code.as_ptr();
            let top = self.kernel.frame_bytes as u32;
            let strand =
                Strand { warp, pc, mask, top, paths, state: State::Ready, wanted: 0, since: 0, spins: 0, polled: 0 };
            match worker.strands.get_mut(warp) {
                Some(old) => *old = strand,
                None => worker.strands.push(strand),
            }
        }
        self.barriers = [BarrierState::default(); BARRIERS];
        self.left = self.warps;
        (self.spent, self.told, self.cut) = (0, 0, false);
        (self.period, self.polls, self.changes) = (1, 0, self.cx.changes);
        if let Some(adverse) = &mut self.adverse {
            adverse.start(self.info.launch, number, self.warps);
        }
        self.clear();
    }

    /// Tells the observer that a cluster of such blocks begins, whose warps have so many numbers each.
    pub(crate) fn watch_start(&self, watch: &mut Watch, seats: usize) {
        let shared = [self.cx.shared_len, self.own_shared].map(|bytes| bytes as usize);
        let place = self.place * u64::from(self.info.blocks);
        watch.start_cluster(self.kernel, place, shared, [self.info.blocks as usize, seats], self.local_bytes);
    }

    /// Takes what is on its way between blocks of the cluster, or gives it back.
    pub(crate) fn exchange(&mut self, flying: &mut Flying) {
        if let Some(adverse) = &mut self.adverse {
            std::mem::swap(&mut adverse.flying, flying);
        }
    }

    /// How many changes of mbarriers the block knows of.
    pub(crate) fn changes(&self) -> u64 {
        self.cx.changes
    }

    /// There have been as many in its cluster.
    pub(crate) fn learn(&mut self, changes: u64) {
        self.cx.changes = changes;
    }

    /// What the kernel may read before it has written it: zeros or poison, whatever the block before has left.
    fn clear(&mut self) {
        let fresh = if self.adverse.is_some() { POISON } else { 0 };
        self.worker.preds.fill(0);
        // SAFETY: the memory has these sizes; slots lie inside the registers.
        unsafe {
            let own = self.own_shared as usize;
            std::ptr::write_bytes(self.cx.shared, fresh, own);
            // What is reserved holds zeros when a block begins.
            std::ptr::write_bytes(self.cx.shared.add(own), 0, self.cx.shared_len as usize - own);
            let threads = self.warps * WARP;
            if self.kernel.stack {
                // The frame of the entry: all of a stack would take long.
                for thread in 0..threads {
                    let frame = self.local.add(thread * self.local_bytes);
                    std::ptr::write_bytes(frame, fresh, self.kernel.frame_bytes);
                }
            } else {
                std::ptr::write_bytes(self.local, fresh, threads * self.local_bytes);
            }
            for warp in 0..self.warps {
                for flow in &self.kernel.unwritten {
                    let (slot, bytes) = (flow & !127, flow & 127);
                    let at = self.regs.add(warp * self.kernel.reg_bytes + slot as usize);
                    std::ptr::write_bytes(at, fresh, bytes as usize * WARP);
                }
            }
        }
    }
}
