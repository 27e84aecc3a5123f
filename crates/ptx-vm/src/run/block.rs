//! One block: its warps, their barriers, its shared memory.
//!
//! A warp starts as one *strand*: lanes that share a program counter and a stack of pending paths. While lanes meet again where the
//! program says, one strand is all there is. When lanes of a warp have to wait for each other (a lock one of them holds, a barrier
//! their paths reach one by one) the strand is split, and the strands run in turn over the same registers, as independent threads
//! would; those that come to stand at the same place are one again.

use super::adverse::{Adversary, POISON, Store};
use crate::check::{Leak, Watch};
use crate::error::{Fault, FaultKind};
use crate::ir::*;
use crate::ir::{AccessKind, Class, ConstSource, Kernel, RESERVED, Special, Where};
use crate::math::mma::TensorCore;
use crate::memory::{Buffer, Heap, Table};
use crate::parse::Ty;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Instructions a strand may execute before the others get their turn; fewer once lanes or blocks have waited for each other.
const QUANTUM: i64 = 200_000;
const SHORT_QUANTUM: i64 = 20_000;
/// Instructions between two looks at whether the launch is interrupted: a few milliseconds of checked and counted ones.
const SLICE: i64 = 5_000;
/// Time slices a strand may use up while other lanes of its warp are pending, before they are split off.
const PATIENCE: u32 = 5;
/// One adverse turn in so many ends with lanes that have parted going on by themselves.
const PARTING: u64 = 16;
/// How often each strand polls an mbarrier in vain, while nothing else happens in the block, before that is a deadlock.
const POLLS: u64 = 10_000;
/// Instructions between two polls up to which a strand counts as doing nothing else.
const IDLE_STEPS: i64 = 2_000;
/// Instructions a block may execute without an exit or an arrival before another block gets its turn.
const BLOCK_PATIENCE: u64 = 4_000_000;
/// As many times that is a turn of a block that does arrive at barriers: all its threads may be asking for what another block will do.
const LONG_TURN: u64 = 4;
/// Instructions of a block after which it adds them to those of the launch.
const TELL: u64 = 100_000;
/// What sleeping counts for in that.
const NAP: u64 = 1_000;

/// What a launch says that was not begun.
pub(crate) const INTERRUPTED: &str = "the device has been interrupted; launches run again after `Vm::resume`";

/// What all blocks of a launch share.
pub(crate) struct LaunchInfo<'a> {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
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
    /// The lowest block that has failed: those behind it need not go on.
    pub(crate) failed: AtomicU64,
    /// Somebody had to wait for another lane or block: take turns more often.
    pub(crate) hasty: AtomicBool,
    /// The device's count of interrupts, and what it was when the launch began.
    pub(crate) interrupts: &'a AtomicU64,
    pub(crate) uninterrupted: u64,
}

impl LaunchInfo<'_> {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// At a barrier of the block.
    Waiting,
    /// For lanes of the same warp.
    Sync,
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
    pub(crate) watch: Option<Box<Watch>>,
    adverse: Option<Box<Adversary>>,
    /// Number and index of the block.
    pub(crate) number: u64,
    block: [u32; 3],
    barriers: [BarrierState; 16],
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
        watch: Option<Box<Watch>>,
        sm: u32,
    ) -> Runner<'a> {
        let mut worker = IDLE.with_borrow_mut(Vec::pop).unwrap_or_else(Worker::new);
        let threads = info.block.iter().product::<u32>();
        let warps = threads.div_ceil(WARP as u32) as usize;
        let regs = worker.regs.reserve(kernel.reg_bytes * warps);
        let consts = worker.consts.reserve(kernel.const_image.len());
        let own_shared = kernel.static_shared as u32 + info.dynamic_shared;
        let asks = kernel.launch_consts.iter().any(|(_, _, source)| source.is_reserved());
        let shared_len = if asks { own_shared.next_multiple_of(16) + RESERVED } else { own_shared };
        let shared = worker.shared.reserve(shared_len as usize);
        // A stack is no power of two long, or its lanes would fall on the same cache lines.
        let stack = info.stack.next_multiple_of(64) + 32;
        let local_bytes = if kernel.stack { kernel.local_bytes + stack } else { kernel.local_bytes };
        let local = worker.local.reserve(local_bytes * WARP * warps);
        worker.preds.clear();
        worker.preds.resize(kernel.preds * warps, 0);
        worker.caches.clear();
        worker.caches.resize(kernel.caches, Cache::EMPTY);
        worker.params.clear();
        worker.params.extend_from_slice(params);
        worker.params.resize(params.len().max(kernel.param_bytes), 0);
        // SAFETY: room was made for the whole image.
        unsafe { std::ptr::copy_nonoverlapping(kernel.const_image.as_ptr(), consts, kernel.const_image.len()) };
        let cx = Cx {
            base: [regs, consts],
            preds: worker.preds.as_mut_ptr(),
            mask: 0,
            alive: 0,
            began: 0,
            fuel: 0,
            code: kernel.code.as_ptr(),
            lists: kernel.lists.as_ptr(),
            stage: worker.stage.reserve(kernel.stage_bytes * if info.adverse.is_some() { warps } else { 1 }),
            caches: worker.caches.as_mut_ptr(),
            shared,
            shared_len,
            local,
            local_len: local_bytes as u32,
            top: 0,
            staged: Vec::new(),
            params: worker.params.as_ptr(),
            params_len: worker.params.len() as u32,
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
            checked: info.checked,
            strict: info.strict,
            tensor_core: info.tensor_core,
            poll: None,
            changes: 0,
            events: Vec::new(),
        };
        let barriers = [BarrierState::default(); 16];
        let mut runner = Runner {
            worker,
            kernel,
            info,
            cx,
            warps,
            threads,
            sm,
            regs,
            local,
            local_bytes,
            own_shared,
            watch,
            adverse: info.adverse.map(|seed| Box::new(Adversary::new(seed, !info.checked))),
            number: 0,
            block: [0; 3],
            barriers,
            left: 0,
            spent: 0,
            told: 0,
            cut: false,
            period: 1,
            polls: 0,
            changes: 0,
        };
        for (at, w, source) in &kernel.launch_consts {
            if !matches!(source, ConstSource::Special(Special::Ctaid(_))) {
                let value = runner.launch_value(*source, [0; 3]);
                runner.splat(*at, *w, value);
            }
        }
        for warp in 0..warps {
            for (at, w, special) in &kernel.warp_consts {
                // SAFETY: the slot lies inside the registers of this warp.
                unsafe {
                    let to = regs.add(warp * kernel.reg_bytes + *at as usize);
                    for lane in 0..WARP {
                        let thread = (warp * WARP + lane) as u32;
                        let [x, y, z] = thread_index(thread, info.block);
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
        runner
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

    /// Takes up a block; [`Runner::advance`] runs it.
    pub(crate) fn start(&mut self, number: u64) {
        let [x, y] = [u64::from(self.info.grid[0]), u64::from(self.info.grid[1])];
        let block = [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32];
        (self.number, self.block) = (number, block);
        for i in 0..self.kernel.launch_consts.len() {
            let (at, w, source) = self.kernel.launch_consts[i];
            if matches!(source, ConstSource::Special(Special::Ctaid(_))) {
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
        self.barriers = [BarrierState::default(); 16];
        self.left = self.warps;
        (self.spent, self.told, self.cut) = (0, 0, false);
        (self.period, self.polls, self.changes) = (1, 0, self.cx.changes);
        if let Some(adverse) = &mut self.adverse {
            adverse.start(self.info.launch, number, self.warps);
        }
        self.clear();
        if let Some(watch) = &mut self.watch {
            let shared = [self.cx.shared_len, self.own_shared].map(|bytes| bytes as usize);
            watch.start_block(self.kernel, number, shared, self.warps, self.local_bytes);
        }
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

    /// What the block has stored to global memory that is undefined: where it went, and the first store that did it.
    pub(crate) fn leaks(&mut self) -> Vec<(std::ops::Range<u64>, usize, Box<Fault>)> {
        let leaks = self.watch.as_mut().map(|watch| watch.leaks()).unwrap_or_default();
        let report = |leak: Leak| {
            let pc = self.kernel.code[leak.index..].as_ptr();
            let message = format!("an undefined value is stored at {:#x}: {}", leak.address, leak.from);
            let fault =
                self.fault_at(leak.warp, pc, FaultKind::Uninitialised, Some(leak.lane), Some(leak.address), message);
            (leak.first..leak.end, leak.index, fault)
        };
        leaks.into_iter().map(report).collect()
    }

    /// Runs the block to its end, or until it seems to wait for another block: then false.
    pub(crate) fn advance(&mut self) -> Result<bool, Box<Fault>> {
        let outcome = self.turn();
        self.tell();
        if !self.cx.printed.is_empty() {
            let text = std::mem::take(&mut self.cx.printed);
            self.info.printed.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, text));
        }
        outcome
    }

    /// Adds what the block has executed to what the launch has.
    fn tell(&mut self) {
        self.info.spent.fetch_add(self.spent - self.told, Ordering::Relaxed);
        self.told = self.spent;
    }

    fn turn(&mut self) -> Result<bool, Box<Fault>> {
        // Instructions since anything happened but waiting.
        let mut waited = 0u64;
        let begun = self.spent;
        // Somebody could have run and has let the others go first; when nobody has run, all do.
        let (mut ran, mut yielded) = (true, false);
        while self.left > 0 {
            let everybody = !ran && yielded;
            (ran, yielded) = (false, false);
            let mut index = 0;
            while index < self.worker.strands.len() {
                if self.worker.strands[index].state != State::Ready {
                    index += 1;
                    continue;
                }
                if let Some(adverse) = &mut self.adverse
                    && !everybody
                    && !adverse.takes_turn(self.worker.strands[index].warp)
                {
                    (yielded, index) = (true, index + 1);
                    continue;
                }
                ran = true;
                if let Some((kind, message)) = self.info.ended() {
                    self.cut = true;
                    self.cx.pc = self.worker.strands[index].pc;
                    let message = match kind {
                        FaultKind::Interrupted => "the device was interrupted while the warp was here".to_owned(),
                        _ => message + "; the warp was here",
                    };
                    return Err(self.fault(index, kind, None, None, message));
                }
                let hasty = self.info.hasty.load(Ordering::Relaxed);
                let quantum = if hasty { SHORT_QUANTUM } else { QUANTUM };
                let stop = self.resume(index, quantum);
                let used = quantum - self.cx.fuel;
                self.spent += used.max(1) as u64;
                if self.spent - self.told > TELL {
                    self.tell();
                }
                if stop != Stop::Exit && stop != Stop::Fault {
                    if self.spent > self.info.budget {
                        let message = format!("the block has executed more than {} instructions", self.info.budget);
                        return Err(self.fault(index, FaultKind::Budget, None, None, message));
                    }
                    if self.info.failed.load(Ordering::Relaxed) < self.number {
                        return Ok(true);
                    }
                }
                let idles = stop == Stop::Yield || stop == Stop::Poll && used <= IDLE_STEPS;
                if !idles || self.cx.changes != self.changes {
                    (self.period, self.polls, self.changes) = (self.period + 1, 0, self.cx.changes);
                }
                let strand = &mut self.worker.strands[index];
                let warp = strand.warp;
                match stop {
                    Stop::Exit => {
                        if let Some(adverse) = &mut self.adverse {
                            adverse.meet(warp);
                        }
                        strand.state = State::Done;
                        self.worker.warps[warp].strands -= 1;
                        if self.worker.warps[warp].strands == 0 {
                            self.left -= 1;
                            (0..16).for_each(|id| self.release(id));
                        } else {
                            self.settle(warp)?;
                        }
                        waited = 0;
                    }
                    Stop::Quantum | Stop::Yield | Stop::Poll => {
                        strand.spins += 1;
                        if stop == Stop::Poll {
                            strand.polled = self.period;
                            self.polls += 1;
                            let stuck = |s: &Strand| s.state != State::Ready || s.polled == self.period;
                            if self.polls > POLLS * self.left as u64 && self.worker.strands.iter().all(stuck) {
                                return Err(self.starved(index));
                            }
                        }
                        waited += used.max(1) as u64 + if stop == Stop::Quantum { 0 } else { NAP };
                        if let Some(adverse) = &mut self.adverse {
                            adverse.rest(warp);
                            if adverse.once_in(PARTING) {
                                self.detach(index);
                            }
                        } else {
                            let patience = if hasty || stop != Stop::Quantum { 1 } else { PATIENCE };
                            if self.worker.strands[index].spins >= patience
                                && self.detach(index)
                                && stop == Stop::Quantum
                            {
                                self.info.hasty.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                    Stop::Barrier => {
                        self.arrive(index)?;
                        waited = 0;
                    }
                    Stop::Sync => {
                        self.detach(index);
                        self.group(index);
                        self.settle(warp)?;
                        waited = 0;
                    }
                    Stop::Fault => return Err(self.trapped(index)),
                }
                if self.worker.warps[warp].strands > 1 {
                    self.settle(warp)?;
                }
                index += 1;
            }
            if !ran && !yielded {
                return Err(self.deadlock());
            }
            let hasty = self.info.hasty.load(Ordering::Relaxed);
            let patience = if hasty { SHORT_QUANTUM as u64 } else { BLOCK_PATIENCE };
            if waited > patience || self.spent - begun > LONG_TURN * patience {
                return Ok(false);
            }
        }
        if let Some(adverse) = &mut self.adverse {
            adverse.finish(&mut self.cx, &self.info.late);
        }
        Ok(true)
    }

    /// Makes a warp the one the handlers work on.
    fn enter(&mut self, warp: usize, mask: u32) {
        let cx = &mut self.cx;
        cx.base[0] = self.regs.wrapping_add(warp * self.kernel.reg_bytes);
        // SAFETY: there are `preds` predicates for each warp.
        cx.preds = unsafe { self.worker.preds.as_mut_ptr().add(warp * self.kernel.preds) };
        cx.local = self.local.wrapping_add(warp * self.local_bytes * WARP);
        if self.adverse.is_some() {
            // Warps take turns where they would not stop otherwise.
            cx.stage = self.worker.stage.at().wrapping_add(warp * self.kernel.stage_bytes);
        }
        cx.mask = mask;
        cx.alive = self.worker.warps[warp].alive;
        cx.began = self.worker.warps[warp].began;
        cx.warp = warp as u32;
    }

    /// Lets a strand run until it stops.
    fn resume(&mut self, index: usize, quantum: i64) -> Stop {
        let kernel = self.kernel;
        let strand = &mut self.worker.strands[index];
        let (warp, mask, mut op) = (strand.warp, strand.mask, strand.pc);
        self.cx.top = strand.top;
        std::mem::swap(&mut self.cx.paths, &mut strand.paths);
        self.enter(warp, mask);
        let alone = self.worker.warps[warp].split || self.info.tensor_core.is_some();
        if let Some(adverse) = &mut self.adverse {
            adverse.alone = alone;
            self.adverse_turn(op, quantum);
            return self.leave(index);
        }
        let cx = &mut self.cx;
        let mut left = quantum;
        loop {
            let slice = left.min(SLICE);
            cx.fuel = slice;
            match &mut self.watch {
                None if alone => {
                    while !op.is_null() {
                        // SAFETY: `op` points into this kernel's code, decoded for the registers set up above.
                        op = unsafe { ((*op).alone)(cx, op) };
                    }
                }
                None => {
                    while !op.is_null() {
                        // SAFETY: as above.
                        op = unsafe { ((*op).run)(cx, op) };
                    }
                }
                Some(watch) => {
                    while !op.is_null() {
                        // SAFETY: as above.
                        op = unsafe { watch.step(cx, kernel, op) };
                    }
                }
            }
            left -= slice - cx.fuel;
            if cx.stop != Stop::Quantum || left < 0 || self.info.ended().is_some() {
                break;
            }
            op = cx.pc;
        }
        cx.fuel = left;
        self.leave(index)
    }

    /// A few instructions, one by one.
    fn adverse_turn(&mut self, mut op: *const Op, quantum: i64) {
        let Some(adverse) = &mut self.adverse else { return };
        let (cx, kernel) = (&mut self.cx, self.kernel);
        let turn = adverse.turn();
        let mut done = 0;
        // Time slices do not end inside a turn.
        cx.fuel = i64::MAX / 2;
        while !op.is_null() && done < turn {
            // SAFETY: `op` points into this kernel's code, decoded for the registers set up.
            op = unsafe {
                match &mut self.watch {
                    None => adverse.step(cx, kernel, op),
                    Some(watch) => watch.step(cx, kernel, op),
                }
            };
            done += 1;
        }
        if !op.is_null() {
            cx.pause(Stop::Quantum, op);
        }
        cx.fuel = quantum - done as i64;
    }

    /// Takes over where a strand has stopped.
    fn leave(&mut self, index: usize) -> Stop {
        let cx = &mut self.cx;
        let strand = &mut self.worker.strands[index];
        let warp = strand.warp;
        std::mem::swap(&mut cx.paths, &mut strand.paths);
        (strand.mask, strand.pc, strand.top) = (cx.mask, cx.pc, cx.top);
        if !matches!(cx.stop, Stop::Quantum | Stop::Yield | Stop::Poll) {
            strand.spins = 0;
        }
        self.worker.warps[warp].alive = cx.alive;
        cx.stop
    }

    // ---- strands ----------------------------------------------------------------------------------------------------

    fn add_strand(&mut self, strand: Strand) {
        let warp = &mut self.worker.warps[strand.warp];
        (warp.strands, warp.split) = (warp.strands + 1, true);
        let strands = &mut self.worker.strands;
        match strands.iter_mut().find(|s| s.state == State::Done) {
            Some(free) => *free = strand,
            None => strands.push(strand),
        }
    }

    /// Splits the pending lanes off a strand: they go on by themselves. False when there are none.
    fn detach(&mut self, index: usize) -> bool {
        let strand = &mut self.worker.strands[index];
        let (warp, mask, top) = (strand.warp, strand.mask, strand.top);
        let others = self.worker.warps[warp].alive & !mask;
        if !strand.paths.iter().any(|path| path.mask & others != 0) {
            return false;
        }
        let paths = narrowed(&strand.paths, others);
        strand.paths = narrowed(&strand.paths, mask);
        strand.spins = 0;
        // The last instruction takes up a pending path.
        let pc = &raw const self.kernel.code[self.kernel.code.len() - 1];
        self.add_strand(Strand {
            warp,
            pc,
            mask: 0,
            top,
            paths,
            state: State::Ready,
            wanted: 0,
            since: 0,
            spins: 0,
            polled: 0,
        });
        true
    }

    /// Lets a strand that has nothing pending wait for its warp, split by whom its lanes wait for.
    fn group(&mut self, index: usize) {
        let wanted = self.cx.wanted;
        let strand = &mut self.worker.strands[index];
        strand.state = State::Sync;
        let (warp, pc, all, top) = (strand.warp, strand.pc, strand.mask, strand.top);
        let alive = self.worker.warps[warp].alive;
        let paths = std::mem::take(&mut strand.paths);
        let mut left = all;
        while left != 0 {
            let who = wanted[left.trailing_zeros() as usize];
            let mask = (0..WARP).filter(|i| left >> i & 1 != 0 && wanted[*i] == who).fold(0, |m, i| m | 1 << i);
            let paths = narrowed(&paths, mask);
            if left == all {
                let strand = &mut self.worker.strands[index];
                (strand.mask, strand.paths, strand.wanted, strand.since) = (mask, paths, who, alive);
            } else {
                self.add_strand(Strand {
                    warp,
                    pc,
                    mask,
                    top,
                    paths,
                    state: State::Sync,
                    wanted: who,
                    since: alive,
                    spins: 0,
                    polled: 0,
                });
            }
            left &= !mask;
        }
    }

    /// Lets the strands of a warp go on that need not wait any longer, and unites those at the same place.
    fn settle(&mut self, warp: usize) -> Result<(), Box<Fault>> {
        let mut index = 0;
        while index < self.worker.strands.len() {
            let strand = &self.worker.strands[index];
            if strand.warp == warp && strand.state == State::Sync {
                self.join(warp, strand.wanted)?;
            }
            index += 1;
        }
        let strands = &mut self.worker.strands;
        for i in 0..strands.len() {
            for j in i + 1..strands.len() {
                let (head, tail) = strands.split_at_mut(j);
                let (a, b) = (&mut head[i], &mut tail[0]);
                let ready = |s: &Strand| s.warp == warp && s.state == State::Ready && s.mask != 0;
                let place = |p: &Path| (p.meet, p.pc, p.frame);
                if ready(a)
                    && ready(b)
                    && a.pc == b.pc
                    && a.top == b.top
                    && a.paths.iter().map(place).eq(b.paths.iter().map(place))
                {
                    a.mask |= b.mask;
                    a.paths.iter_mut().zip(&b.paths).for_each(|(a, b)| a.mask |= b.mask);
                    b.state = State::Done;
                    self.worker.warps[warp].strands -= 1;
                }
            }
        }
        Ok(())
    }

    /// Executes the instruction that lanes of a warp wait at, when all of `wanted` have come.
    fn join(&mut self, warp: usize, wanted: u32) -> Result<(), Box<Fault>> {
        let strands = &self.worker.strands;
        let waits = |s: &Strand| s.warp == warp && s.state == State::Sync && s.wanted == wanted;
        let members: Vec<usize> = (0..strands.len()).filter(|i| waits(&strands[*i])).collect();
        let mask = members.iter().fold(0, |m, i| m | strands[*i].mask);
        if wanted & self.worker.warps[warp].alive & !mask != 0 {
            return Ok(());
        }
        let first = members[0];
        let op = strands[first].pc;
        let other = members.iter().copied().find(|i| strands[*i].pc != op && !self.alike(op, strands[*i].pc, *i));
        if let Some(other) = other {
            let line = self.line(op);
            self.cx.pc = strands[other].pc;
            let lane = strands[other].mask.trailing_zeros();
            let message = format!(
                "lanes of one warp wait for each other at different instructions: lane {} at line {line}",
                strands[first].mask.trailing_zeros()
            );
            return Err(self.fault(other, FaultKind::Barrier, Some(lane), None, message));
        }
        let since = members.iter().fold(0, |m, i| m | strands[*i].since);
        let gone = since & wanted & !self.worker.warps[warp].alive;
        if gone != 0 && self.info.strict && self.meta(op).aligned {
            self.cx.pc = op;
            let message = format!(
                "this is executed by {} of the {} threads of the warp: the others have exited without coming here",
                mask.count_ones(),
                since.count_ones()
            );
            return Err(self.fault(first, FaultKind::Barrier, Some(mask.trailing_zeros()), None, message));
        }
        self.enter(warp, mask);
        self.cx.joint = true;
        // SAFETY: the instruction belongs to this kernel; the registers are those of the warp.
        let next = unsafe {
            match &mut self.watch {
                None => match &mut self.adverse {
                    None => ((*op).alone)(&mut self.cx, op),
                    Some(adverse) => {
                        adverse.alone = true;
                        adverse.step(&mut self.cx, self.kernel, op)
                    }
                },
                Some(watch) => watch.step(&mut self.cx, self.kernel, op),
            }
        };
        self.cx.joint = false;
        if next.is_null() && self.cx.stop == Stop::Fault {
            return Err(self.trapped(first));
        }
        for index in members {
            let strand = &mut self.worker.strands[index];
            strand.pc = strand.pc.wrapping_add(1);
            strand.state = State::Ready;
        }
        if next.is_null() {
            self.arrive(first)?;
        }
        Ok(())
    }

    /// Whether lanes at two different instructions wait for the same thing: warp barriers, or unaligned barriers of the same number.
    fn alike(&self, a: *const Op, b: *const Op, at_b: usize) -> bool {
        let (x, y) = (self.meta(a), self.meta(b));
        let warp_sync = |m: &crate::ir::Meta| m.access.is_some_and(|access| access.kind == AccessKind::WarpSync);
        if warp_sync(x) && warp_sync(y) {
            return true;
        }
        if x.class != Class::Barrier || y.class != Class::Barrier {
            return false;
        }
        let strand = &self.worker.strands[at_b];
        // SAFETY: both are barriers of this kernel; their numbers are 32 bits wide.
        unsafe {
            let base = |slot: u32| match slot & CONST_BIT {
                0 => self.regs.add(strand.warp * self.kernel.reg_bytes + slot as usize),
                _ => self.cx.base[1].add((slot & !CONST_BIT) as usize),
            };
            let id = |op: *const Op, lane: usize| *base((*op).r[0]).cast::<u32>().add(lane);
            let lane = strand.mask.trailing_zeros() as usize;
            let first = self.worker.strands.iter().find(|s| s.warp == strand.warp && s.pc == a);
            let other = first.map_or(0, |s| s.mask.trailing_zeros() as usize);
            let unaligned = !self.info.strict || !x.aligned && !y.aligned;
            (*a).imm & 255 == (*b).imm & 255 && (*a).imm & 255 < 2 && unaligned && id(a, other) == id(b, lane)
        }
    }

    // ---- barriers ---------------------------------------------------------------------------------------------------

    /// Notes that the warp of a strand has arrived at the barrier of `cx.arrival`.
    fn arrive(&mut self, strand: usize) -> Result<(), Box<Fault>> {
        let arrival = self.cx.arrival;
        let warp = self.worker.strands[strand].warp;
        if let Some(message) = self.disagrees(arrival, self.barriers[arrival.id as usize]) {
            self.cx.pc = self.cx.pc.wrapping_sub(1);
            let lane = self.cx.mask.trailing_zeros();
            return Err(self.fault(strand, FaultKind::Barrier, Some(lane), None, message));
        }
        self.worker.warps[warp].arrival = arrival;
        if arrival.waits {
            for strand in self.worker.strands.iter_mut().filter(|s| s.warp == warp && s.state == State::Ready) {
                strand.state = State::Waiting;
            }
        } else if let Some(watch) = &mut self.watch {
            watch.arrive(arrival.id as usize, warp);
        }
        let barrier = &mut self.barriers[arrival.id as usize];
        barrier.warps += 1;
        barrier.threads += WARP as u32;
        if arrival.threads != 0 {
            barrier.wanted = arrival.threads;
        }
        self.release(arrival.id);
        Ok(())
    }

    /// Opens a barrier when all it waits for have arrived.
    fn release(&mut self, id: u32) {
        let b = self.barriers[id as usize];
        if b.warps == 0 {
            return;
        }
        let done = (self.warps - self.left) as u32;
        let enough = if b.wanted != 0 { b.threads >= b.wanted } else { b.warps + done >= self.warps as u32 };
        if !enough {
            return;
        }
        let mut waiting = 0u32;
        for strand in &mut self.worker.strands {
            if strand.state == State::Waiting && self.worker.warps[strand.warp].arrival.id == id {
                strand.state = State::Ready;
                waiting |= 1 << strand.warp;
            }
        }
        let warps = || (0..self.warps).filter(|w| waiting >> w & 1 != 0);
        if let Some(watch) = &mut self.watch {
            let all = (0..self.warps).all(|w| waiting >> w & 1 != 0 || self.worker.warps[w].strands == 0);
            watch.release(id as usize, &warps().collect::<Vec<_>>(), all);
        }
        let mut value: Option<(Reduce, u32)> = None;
        for (how, lanes) in warps().filter_map(|w| self.worker.warps[w].arrival.reduce) {
            let (_, so_far) = value.unwrap_or((how, u32::from(how == Reduce::And)));
            let next = match how {
                Reduce::Popc => so_far + lanes.count_ones(),
                Reduce::And => so_far & u32::from(lanes == FULL),
                Reduce::Or => so_far | u32::from(lanes != 0),
            };
            value = Some((how, next));
        }
        if let Some((how, value)) = value {
            for warp in warps() {
                let Warp { alive, arrival, .. } = self.worker.warps[warp];
                if arrival.reduce.is_none() {
                    continue;
                }
                self.enter(warp, alive);
                // SAFETY: predicates and slot belong to this warp.
                unsafe {
                    if how == Reduce::Popc {
                        self.cx.put(arrival.result, &[value; WARP]);
                    } else {
                        self.cx.set_pred(arrival.result, if value != 0 { FULL } else { 0 });
                    }
                }
            }
        }
        self.barriers[id as usize] = BarrierState::default();
    }

    /// What is wrong with the thread count of an arrival.
    fn disagrees(&self, arrival: Arrival, barrier: BarrierState) -> Option<String> {
        let Arrival { id, threads, .. } = arrival;
        if !threads.is_multiple_of(WARP as u32) {
            return Some(format!("barrier {id} of {threads} threads: the count must be a multiple of 32"));
        }
        let all = (self.warps * WARP) as u32;
        let count = |n: u32| if n == 0 { all } else { n };
        (barrier.warps > 0 && count(threads) != count(barrier.wanted)).then(|| {
            let (mine, theirs) = (count(threads), count(barrier.wanted));
            format!("barrier {id} is reached with a count of {mine} threads, while others wait at it for {theirs}")
        })
    }

    // ---- faults -----------------------------------------------------------------------------------------------------

    fn index(&self, op: *const Op) -> usize {
        let index = (op as usize).wrapping_sub(self.kernel.code.as_ptr() as usize) / size_of::<Op>();
        index.min(self.kernel.code.len() - 1)
    }

    fn meta(&self, op: *const Op) -> &crate::ir::Meta {
        &self.kernel.meta[self.index(op)]
    }

    fn line(&self, op: *const Op) -> u32 {
        self.meta(op).line
    }

    /// The fault a handler has reported.
    #[cold]
    fn trapped(&mut self, strand: usize) -> Box<Fault> {
        match self.cx.trap.take() {
            Some(trap) => self.fault(strand, trap.kind, trap.lane, trap.address, trap.message),
            None => self.fault(strand, FaultKind::Trap, None, None, String::new()),
        }
    }

    /// Nobody can run: says who waits for whom.
    #[cold]
    fn deadlock(&mut self) -> Box<Fault> {
        let strands = &self.worker.strands;
        let at = |s: &Strand| self.line(if s.state == State::Waiting { s.pc.wrapping_sub(1) } else { s.pc });
        if let Some(index) = strands.iter().position(|s| s.state == State::Sync) {
            let me = &strands[index];
            let missing = |lane: &u32| (me.wanted & self.worker.warps[me.warp].alive & !me.mask) >> lane & 1 != 0;
            let lane = (0..32).find(missing).unwrap_or(0);
            let other = strands.iter().find(|s| s.warp == me.warp && s.state != State::Done && s.mask >> lane & 1 != 0);
            let message = format!(
                "deadlock: lanes {:#010x} of the warp wait here for lane {lane}, which waits at line {}",
                me.mask,
                other.map_or(0, at)
            );
            let first = me.mask.trailing_zeros();
            self.cx.pc = me.pc;
            return self.fault(index, FaultKind::Barrier, Some(first), None, message);
        }
        let index = strands.iter().position(|s| s.state == State::Waiting).unwrap_or(0);
        let mut parts: Vec<String> = Vec::new();
        for (i, warp) in self.worker.warps.iter().enumerate().filter(|(_, w)| w.strands > 0).take(8) {
            let id = warp.arrival.id;
            let b = &self.barriers[id as usize];
            let wanted = if b.wanted == 0 { (self.warps * WARP) as u32 } else { b.wanted };
            let verb = if parts.is_empty() { " waits" } else { "" };
            parts.push(format!("warp {i}{verb} at barrier {id} ({} of {wanted} threads)", b.threads));
        }
        if self.left > parts.len() {
            parts.push(format!("{} more warps wait", self.left - parts.len()));
        }
        match self.warps - self.left {
            0 => {}
            1 => parts.push("1 warp has exited".to_owned()),
            n => parts.push(format!("{n} warps have exited")),
        }
        self.cx.pc = strands[index].pc.wrapping_sub(1);
        let message = format!("deadlock: {}", parts.join(", "));
        self.fault(index, FaultKind::Barrier, Some(0), None, message)
    }

    /// Every strand polls an mbarrier, and nothing can change that.
    #[cold]
    fn starved(&mut self, strand: usize) -> Box<Fault> {
        let (mut lane, mut address, mut message) = (0, None, String::new());
        if let Some(Poll { op, lane: l, at, object }) = self.cx.poll {
            self.cx.pc = op;
            (lane, address) = (l, Some(u64::from(at)));
            message = format!(
                "the mbarrier at shared offset {at:#x} can never complete its phase of parity {}: {} of {} arrivals and {} bytes are pending, and ",
                u8::from(object.phase),
                object.pending,
                object.expected,
                object.bytes
            );
        }
        message += &format!("all {} warps of the block that have not exited wait", self.left);
        self.fault(strand, FaultKind::Barrier, Some(lane), address, message)
    }

    #[cold]
    fn fault(
        &self,
        strand: usize,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        self.fault_at(self.worker.strands[strand].warp, self.cx.pc, kind, lane, address, message)
    }

    fn fault_at(
        &self,
        warp: usize,
        pc: *const Op,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        let meta = self.meta(pc);
        let places: Vec<String> = self.kernel.source(meta.loc).iter().map(ToString::to_string).collect();
        let source_line = (!places.is_empty()).then(|| places.join(", inlined at "));
        Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            file: self.kernel.file.to_string(),
            line: meta.line,
            source_line,
            instruction: self.kernel.instruction(self.index(pc)).unwrap_or_default(),
            block: Some(self.block),
            thread: lane.map(|l| thread_index((warp * WARP) as u32 + l, self.info.block)),
            address,
            message,
        })
    }
}

/// What is left of a stack of paths for some lanes.
fn narrowed(paths: &[Path], mask: u32) -> Vec<Path> {
    paths.iter().map(|path| Path { mask: path.mask & mask, ..*path }).filter(|path| path.mask != 0).collect()
}

/// The index of a thread in its block.
pub(crate) fn thread_index(linear: u32, block: [u32; 3]) -> [u32; 3] {
    let (x, y) = (block[0].max(1), block[1].max(1));
    [linear % x, linear / x % y, linear / x / y]
}
