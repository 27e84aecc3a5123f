//! One block at a time: its warps, their barriers, its shared memory.

use super::mbarrier::Poll;
use super::op::*;
use crate::check::Watch;
use crate::error::{Fault, FaultKind};
use crate::ir::{ConstSource, Kernel, Special, Where};
use crate::memory::Table;
use crate::parse::Ty;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Instructions a warp may execute before the others get their turn.
const QUANTUM: i64 = 200_000;
/// How often each warp polls an mbarrier in vain, while nothing else happens in the block, before that is a deadlock.
const PATIENCE: u64 = 10_000;
/// Instructions between two polls up to which a warp counts as doing nothing else.
const IDLE: i64 = 2_000;

/// What all blocks of a launch share.
pub(crate) struct LaunchInfo {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) checked: bool,
    pub(crate) budget: u64,
}

/// Zeroed memory aligned for vector registers; it only grows.
pub(crate) struct Buffer {
    at: *mut u8,
    len: usize,
}

impl Buffer {
    pub(crate) const EMPTY: Buffer = Buffer { at: std::ptr::null_mut(), len: 0 };

    /// Makes room for `len` bytes. The content is kept only when there was room already.
    pub(crate) fn reserve(&mut self, len: usize) -> *mut u8 {
        if len > self.len || self.at.is_null() {
            self.free();
            let len = len.next_multiple_of(4096).max(4096);
            let Ok(layout) = Layout::from_size_align(len, 128) else { std::process::abort() };
            // SAFETY: the size is not zero.
            self.at = unsafe { alloc_zeroed(layout) };
            if self.at.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            self.len = len;
        }
        self.at
    }

    fn free(&mut self) {
        if !self.at.is_null() {
            // SAFETY: allocated in `reserve` with this layout.
            unsafe { dealloc(self.at, Layout::from_size_align_unchecked(self.len, 128)) };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Waiting,
    Done,
}

struct Warp {
    pc: *const Op,
    mask: u32,
    alive: u32,
    paths: Vec<Path>,
    state: State,
    arrival: Arrival,
    /// The idle period in which it last polled in vain.
    polled: u64,
}

#[derive(Clone, Copy, Default)]
struct BarrierState {
    warps: u32,
    threads: u32,
    wanted: u32,
}

/// The memory and the warps of one worker thread; kept from launch to launch.
pub(crate) struct Worker {
    regs: Buffer,
    preds: Vec<u32>,
    consts: Buffer,
    shared: Buffer,
    local: Buffer,
    caches: Vec<Cache>,
    warps: Vec<Warp>,
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
            caches: Vec::new(),
            warps: Vec::new(),
            params: Vec::new(),
        }
    }
}

/// Runs blocks of one launch on one thread.
pub(crate) struct Runner<'a> {
    worker: &'a mut Worker,
    kernel: &'a Kernel,
    info: &'a LaunchInfo,
    cx: Cx,
    warps: usize,
    threads: u32,
    regs: *mut u8,
    local: *mut u8,
    pub(crate) watch: Option<Box<Watch>>,
    /// Stops a block early, when a lower one has failed.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        worker: &'a mut Worker,
        kernel: &'a Kernel,
        info: &'a LaunchInfo,
        table: &'a Table,
        params: &[u8],
        watch: Option<Box<Watch>>,
        stop: &'a dyn Fn() -> bool,
    ) -> Runner<'a> {
        let threads = info.block.iter().product::<u32>();
        let warps = threads.div_ceil(WARP as u32) as usize;
        let regs = worker.regs.reserve(kernel.reg_bytes * warps);
        let consts = worker.consts.reserve(kernel.const_image.len());
        let shared_len = kernel.static_shared as u32 + info.dynamic_shared;
        let shared = worker.shared.reserve(shared_len as usize);
        let local = worker.local.reserve(kernel.local_bytes * WARP * warps);
        worker.preds.clear();
        worker.preds.resize(kernel.preds * warps, 0);
        worker.caches.clear();
        worker.caches.resize(kernel.caches, Cache::EMPTY);
        worker.params.clear();
        worker.params.extend_from_slice(params);
        worker.params.resize(params.len().max(kernel.param_bytes), 0);
        worker.warps.clear();
        worker.warps.resize_with(warps, || Warp {
            pc: std::ptr::null(),
            mask: 0,
            alive: 0,
            paths: Vec::new(),
            state: State::Done,
            arrival: Arrival::default(),
            polled: 0,
        });
        // SAFETY: room was made for the whole image.
        unsafe { std::ptr::copy_nonoverlapping(kernel.const_image.as_ptr(), consts, kernel.const_image.len()) };
        let cx = Cx {
            base: [regs, consts],
            preds: worker.preds.as_mut_ptr(),
            mask: 0,
            alive: 0,
            fuel: 0,
            code: kernel.code.as_ptr(),
            lists: kernel.lists.as_ptr(),
            caches: worker.caches.as_mut_ptr(),
            shared,
            shared_len,
            local,
            local_len: kernel.local_bytes as u32,
            params: worker.params.as_ptr(),
            params_len: worker.params.len() as u32,
            paths: Vec::new(),
            pc: std::ptr::null(),
            stop: Stop::Exit,
            arrival: Arrival::default(),
            trap: None,
            table,
            globals: &kernel.globals.table,
            warp: 0,
            checked: info.checked,
            poll: None,
            changes: 0,
            events: Vec::new(),
        };
        let mut runner = Runner { worker, kernel, info, cx, warps, threads, regs, local, watch, stop };
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
            ConstSource::Special(s) => u64::from(match s {
                Special::Ntid(a) => info.block[a as usize],
                Special::Nctaid(a) => info.grid[a as usize],
                Special::Ctaid(a) => block[a as usize],
                Special::NWarpId => self.warps as u32,
                Special::DynamicShared => info.dynamic_shared,
                Special::TotalShared => self.cx.shared_len,
                Special::Tid(_) | Special::WarpId => 0,
            }),
            ConstSource::Imm(v) => v,
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

    /// Runs one block to its end.
    pub(crate) fn run(&mut self, block: [u32; 3]) -> Result<(), Box<Fault>> {
        for i in 0..self.kernel.launch_consts.len() {
            let (at, w, source) = self.kernel.launch_consts[i];
            if matches!(source, ConstSource::Special(Special::Ctaid(_))) {
                let value = self.launch_value(source, block);
                self.splat(at, w, value);
            }
        }
        for (i, warp) in self.worker.warps.iter_mut().enumerate() {
            let left = self.threads - (i * WARP) as u32;
            let mask = if left >= WARP as u32 { FULL } else { (1 << left) - 1 };
            warp.pc = self.kernel.code.as_ptr();
            warp.mask = mask;
            warp.alive = mask;
            warp.paths.clear();
            warp.state = State::Ready;
            warp.polled = 0;
        }
        let mut barriers = [BarrierState::default(); 16];
        let mut left = self.warps;
        let mut spent = 0u64;
        // An idle period lasts while warps do nothing but poll mbarriers that nobody changes.
        let (mut period, mut polls, mut changes) = (1u64, 0u64, self.cx.changes);
        if let Some(watch) = &mut self.watch {
            watch.start_block(self.cx.shared_len as usize, self.warps, self.kernel.local_bytes);
        }
        while left > 0 {
            let mut ran = false;
            for index in 0..self.warps {
                if self.worker.warps[index].state != State::Ready {
                    continue;
                }
                ran = true;
                let stop = self.resume(index);
                spent += (QUANTUM - self.cx.fuel).max(1) as u64;
                let idle = match stop {
                    Stop::Poll => QUANTUM - self.cx.fuel <= IDLE,
                    stop => stop == Stop::Yield,
                };
                if !idle || self.cx.changes != changes {
                    (period, polls, changes) = (period + 1, 0, self.cx.changes);
                }
                match stop {
                    Stop::Exit => {
                        self.worker.warps[index].state = State::Done;
                        left -= 1;
                        for id in 0..16 {
                            self.release(id, &mut barriers);
                        }
                    }
                    Stop::Quantum | Stop::Yield | Stop::Poll => {
                        if stop == Stop::Poll {
                            self.worker.warps[index].polled = period;
                            polls += 1;
                            let stuck = |w: &Warp| w.state != State::Ready || w.polled == period;
                            if polls > PATIENCE * left as u64 && self.worker.warps.iter().all(stuck) {
                                return Err(self.deadlock(index, block));
                            }
                        }
                        if spent > self.info.budget {
                            let message = format!("the block has executed more than {} instructions", self.info.budget);
                            return Err(self.fault(index, block, FaultKind::Budget, None, None, message));
                        }
                        if (self.stop)() {
                            return Ok(());
                        }
                    }
                    Stop::Barrier => {
                        let arrival = self.cx.arrival;
                        let id = arrival.id as usize;
                        if let Some(message) = self.disagrees(arrival, barriers[id]) {
                            self.cx.pc = self.cx.pc.wrapping_sub(1);
                            let lane = self.cx.mask.trailing_zeros();
                            return Err(self.fault(index, block, FaultKind::Barrier, Some(lane), None, message));
                        }
                        let warp = &mut self.worker.warps[index];
                        warp.arrival = arrival;
                        if arrival.waits {
                            warp.state = State::Waiting;
                        } else if let Some(watch) = &mut self.watch {
                            watch.arrive(id, index);
                        }
                        let barrier = &mut barriers[id];
                        barrier.warps += 1;
                        barrier.threads += WARP as u32;
                        if arrival.threads != 0 {
                            barrier.wanted = arrival.threads;
                        }
                        self.release(id, &mut barriers);
                    }
                    Stop::Fault => {
                        let trap = self.cx.trap.take().unwrap_or(Trap {
                            kind: FaultKind::Trap,
                            lane: None,
                            address: None,
                            message: String::new(),
                        });
                        return Err(self.fault(index, block, trap.kind, trap.lane, trap.address, trap.message));
                    }
                }
            }
            if !ran {
                return Err(self.stuck(block, &barriers));
            }
        }
        Ok(())
    }

    /// Lets a warp run until it stops.
    fn resume(&mut self, index: usize) -> Stop {
        let kernel = self.kernel;
        let warp = &mut self.worker.warps[index];
        let cx = &mut self.cx;
        cx.base[0] = self.regs.wrapping_add(index * kernel.reg_bytes);
        // SAFETY: there are `preds` predicates for each warp.
        cx.preds = unsafe { self.worker.preds.as_mut_ptr().add(index * kernel.preds) };
        cx.local = self.local.wrapping_add(index * kernel.local_bytes * WARP);
        cx.mask = warp.mask;
        cx.alive = warp.alive;
        cx.warp = index as u32;
        cx.fuel = QUANTUM;
        std::mem::swap(&mut cx.paths, &mut warp.paths);
        let mut op = warp.pc;
        match &mut self.watch {
            None => {
                while !op.is_null() {
                    // SAFETY: `op` points into this kernel's code, decoded for the registers set up above.
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
        let warp = &mut self.worker.warps[index];
        std::mem::swap(&mut cx.paths, &mut warp.paths);
        warp.mask = cx.mask;
        warp.alive = cx.alive;
        warp.pc = cx.pc;
        cx.stop
    }

    /// Opens a barrier when all it waits for have arrived.
    fn release(&mut self, id: usize, barriers: &mut [BarrierState; 16]) {
        let b = barriers[id];
        if b.warps == 0 {
            return;
        }
        let done = self.worker.warps.iter().filter(|w| w.state == State::Done).count() as u32;
        let enough = if b.wanted != 0 { b.threads >= b.wanted } else { b.warps + done >= self.warps as u32 };
        if !enough {
            return;
        }
        if let Some(watch) = &mut self.watch {
            let waits = |w: &Warp| w.state == State::Waiting && w.arrival.id as usize == id;
            let warps: Vec<usize> = (0..self.warps).filter(|i| waits(&self.worker.warps[*i])).collect();
            let all = self.worker.warps.iter().all(|w| waits(w) || w.state == State::Done);
            watch.release(id, &warps, all);
        }
        let mut value: Option<(Reduce, u32)> = None;
        for warp in self.worker.warps.iter().filter(|w| w.state == State::Waiting && w.arrival.id as usize == id) {
            if let Some((how, lanes)) = warp.arrival.reduce {
                let (_, so_far) = value.unwrap_or((how, if how == Reduce::And { 1 } else { 0 }));
                let next = match how {
                    Reduce::Popc => so_far + lanes.count_ones(),
                    Reduce::And => so_far & u32::from(lanes == FULL),
                    Reduce::Or => so_far | u32::from(lanes != 0),
                };
                value = Some((how, next));
            }
        }
        for index in 0..self.warps {
            let warp = &mut self.worker.warps[index];
            if warp.state != State::Waiting || warp.arrival.id as usize != id {
                continue;
            }
            warp.state = State::Ready;
            if let (Some((how, value)), Some(_)) = (value, warp.arrival.reduce) {
                let (mask, result) = (warp.mask, warp.arrival.result);
                self.cx.base[0] = self.regs.wrapping_add(index * self.kernel.reg_bytes);
                // SAFETY: predicates and slot belong to this warp.
                unsafe {
                    self.cx.preds = self.worker.preds.as_mut_ptr().add(index * self.kernel.preds);
                    self.cx.mask = mask;
                    if how == Reduce::Popc {
                        self.cx.put(result, &[value; WARP]);
                    } else {
                        self.cx.set_pred(result, if value != 0 { FULL } else { 0 });
                    }
                }
            }
        }
        barriers[id] = BarrierState::default();
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

    /// All warps that are left wait at barriers, none of which can open.
    #[cold]
    fn stuck(&mut self, block: [u32; 3], barriers: &[BarrierState; 16]) -> Box<Fault> {
        let warps = &self.worker.warps;
        let index = warps.iter().position(|w| w.state == State::Waiting).unwrap_or(0);
        let exited = warps.iter().filter(|w| w.state == State::Done).count();
        let mut parts: Vec<String> = Vec::new();
        for (i, warp) in warps.iter().enumerate().filter(|(_, w)| w.state == State::Waiting).take(8) {
            let id = warp.arrival.id;
            let b = &barriers[id as usize];
            let wanted = if b.wanted == 0 { (self.warps * WARP) as u32 } else { b.wanted };
            let verb = if parts.is_empty() { " waits" } else { "" };
            parts.push(format!("warp {i}{verb} at barrier {id} ({} of {wanted} threads)", b.threads));
        }
        let waiting = warps.len() - exited;
        if waiting > parts.len() {
            parts.push(format!("{} more warps wait", waiting - parts.len()));
        }
        match exited {
            0 => {}
            1 => parts.push("1 warp has exited".to_owned()),
            n => parts.push(format!("{n} warps have exited")),
        }
        self.cx.pc = self.worker.warps[index].pc.wrapping_sub(1);
        let message = format!("deadlock: {}", parts.join(", "));
        self.fault(index, block, FaultKind::Barrier, Some(0), None, message)
    }

    /// Every warp waits, and nothing can change that.
    #[cold]
    fn deadlock(&mut self, warp: usize, block: [u32; 3]) -> Box<Fault> {
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
        let waiting = self.worker.warps.iter().filter(|w| w.state != State::Done).count();
        message += &format!("all {waiting} warps of the block that have not exited wait");
        self.fault(warp, block, FaultKind::Barrier, Some(lane), address, message)
    }

    #[cold]
    fn fault(
        &self,
        warp: usize,
        block: [u32; 3],
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        let start = self.kernel.code.as_ptr() as usize;
        let index = (self.cx.pc as usize).wrapping_sub(start) / size_of::<Op>();
        let meta = self.kernel.meta.get(index);
        let source_line = meta.and_then(|m| {
            let places = self.kernel.source(m.loc);
            let places: Vec<String> = places.iter().map(ToString::to_string).collect();
            (!places.is_empty()).then(|| places.join(", inlined at "))
        });
        Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            file: self.kernel.file.to_string(),
            line: meta.map_or(0, |m| m.line),
            instruction: self.kernel.instruction(index).unwrap_or_default(),
            source_line,
            block: Some(block),
            thread: lane.map(|l| thread_index((warp * WARP) as u32 + l, self.info.block)),
            address,
            message,
        })
    }
}

/// The index of a thread in its block.
pub(crate) fn thread_index(linear: u32, block: [u32; 3]) -> [u32; 3] {
    let (x, y) = (block[0].max(1), block[1].max(1));
    [linear % x, linear / x % y, linear / x / y]
}
