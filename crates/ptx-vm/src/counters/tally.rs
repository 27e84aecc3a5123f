//! The counting itself: for each decoded instruction how often it ran and where its lanes went, in fixed arrays.
//!
//! While a kernel runs, only what cannot be known beforehand is noted; classes, operations and lines are put together at the end.

use super::{Counters, SharedTraffic, Traffic};
use crate::ir::{Access, AccessKind, Class, Cx, FULL, Kernel, Meta, Op, Rule, WARP, addresses, lanes_of};
use crate::math::descriptor::Descriptor;
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::parse::Space;
use crate::step::bulk::{Run, moves};
use crate::step::wgmma::Shape;

/// What one worker thread has counted.
pub(crate) struct Tally {
    runs: Vec<Runs>,
    dynamic: Vec<Dynamic>,
    banks: Banks,
}

/// How often an instruction was reached, and by how many lanes.
#[derive(Clone, Copy, Default)]
struct Runs {
    warps: u64,
    lanes: u64,
}

/// What depends on addresses and predicates.
#[derive(Clone, Copy, Default)]
struct Dynamic {
    global: Traffic,
    local: Traffic,
    shared: SharedTraffic,
    divergent: u64,
}

impl Tally {
    pub(crate) fn new(kernel: &Kernel) -> Tally {
        let n = kernel.meta.len();
        Tally {
            runs: vec![Runs::default(); n],
            dynamic: vec![Dynamic::default(); n],
            banks: Banks { words: [[0; WARP]; WARP] },
        }
    }

    /// Counts instruction `index`, which is about to run. A guard is counted as well as what it guards.
    ///
    /// # Safety
    /// `meta` describes `op`, and both belong to the kernel `cx` runs and this tally was made for.
    #[inline]
    pub(crate) unsafe fn count(&mut self, cx: &Cx, meta: &Meta, op: *const Op, index: usize) {
        let runs = &mut self.runs[index];
        runs.warps += 1;
        runs.lanes += u64::from(cx.mask.count_ones());
        if let Some(access) = &meta.access {
            // SAFETY: forwarded.
            unsafe { self.access(cx, access, op, index) };
        } else if meta.rule == Rule::Warpgroup {
            // SAFETY: forwarded.
            unsafe { self.product(cx, op, index) };
        } else if meta.branch {
            // SAFETY: conditional branches keep the predicate and its negation in place.
            let taken = unsafe { cx.holding(op) };
            self.dynamic[index].divergent += u64::from(taken != 0 && taken != cx.mask);
        }
    }

    #[inline(never)]
    unsafe fn access(&mut self, cx: &Cx, access: &Access, op: *const Op, index: usize) {
        let (to, banks) = (&mut self.dynamic[index], &mut self.banks);
        let bytes = u64::from(access.bytes);
        let (load, store) = match access.kind {
            AccessKind::Load | AccessKind::Rows(_) => (1, 0),
            AccessKind::Store | AccessKind::RowsStore(..) => (0, 1),
            AccessKind::Atomic => (1, 1),
            AccessKind::CopyAsync => (0, 1),
            // SAFETY: forwarded.
            AccessKind::Bulk => return unsafe { bulk(to, cx, op) },
            AccessKind::Commit | AccessKind::Wait(_) | AccessKind::WarpSync => return,
        };
        // SAFETY: forwarded.
        let addr = unsafe { addresses(cx, access) };
        match access.kind {
            AccessKind::Rows(rows) | AccessKind::RowsStore(rows, _) => {
                // The row addresses come from the first lanes; eight rows are one group.
                let lanes = if rows >= 32 { FULL } else { (1 << rows) - 1 };
                banks.request(&mut to.shared, &addr, lanes, 16, load, store);
            }
            AccessKind::CopyAsync => {
                banks.request(&mut to.shared, &addr, cx.mask, bytes, load, store);
                // SAFETY: the list holds the global addresses and the source sizes; their offset stands in place.
                let (from, offset, sizes) = unsafe {
                    let size = cx.list(op, 2);
                    let sizes = if size == crate::ir::NO_SLOT { [access.bytes; WARP] } else { cx.get::<u32>(size) };
                    (cx.get::<u64>(cx.list(op, 1)), (*op).r[0] as i32, sizes)
                };
                let from = from.map(|a| a.wrapping_add(i64::from(offset) as u64));
                let (mut lanes, mut total) = (0, 0);
                for lane in (0..WARP).filter(|l| cx.mask >> l & 1 != 0 && sizes[*l] > 0) {
                    lanes |= 1 << lane;
                    total += u64::from(sizes[lane]).min(bytes);
                }
                global(&mut to.global, &from, lanes, total, 0);
            }
            _ if matches!(access.space, Space::Const | Space::Param) => {}
            _ if !access.wide => banks.request(&mut to.shared, &addr, cx.mask, bytes, load, store),
            _ => {
                let inside = |from: u64, len: u64| {
                    (0..WARP).fold(0, |set, l| set | u32::from(addr[l].wrapping_sub(from) < len) << l) & cx.mask
                };
                let everywhere = access.space == Space::Global;
                let lanes = if everywhere { cx.mask } else { inside(GLOBAL_BASE, u64::MAX - GLOBAL_BASE) };
                let total = bytes * u64::from(lanes.count_ones());
                global(&mut to.global, &addr, lanes, total * load, total * store);
                if !everywhere && lanes != cx.mask {
                    let near = inside(SHARED_WINDOW, WINDOW);
                    banks.request(&mut to.shared, &addr, near, bytes, load, store);
                    if near != 0 && cx.peers.len() > 1 {
                        let far = |lane: &usize| cx.whose(addr[*lane]).is_some_and(|(rank, _)| rank != cx.rank);
                        let total = bytes * lanes_of(near).filter(far).count() as u64;
                        to.shared.remote_load_bytes += total * load;
                        to.shared.remote_store_bytes += total * store;
                    }
                    local(&mut to.local, &addr, inside(LOCAL_WINDOW, WINDOW), bytes, load, store);
                }
            }
        }
    }

    /// The operands that a product of a warpgroup reads from shared memory: each warp its rows of A, the first warp B for all four. An
    /// 8x8 matrix at a time, as `ldmatrix` does.
    #[inline(never)]
    unsafe fn product(&mut self, cx: &Cx, op: *const Op, index: usize) {
        // SAFETY: descriptors are 64 bits wide.
        let (shape, descriptors) = unsafe {
            let shape = Shape::of(op);
            let lane = cx.mask.trailing_zeros() as usize & 31;
            let of = |operand: usize| Descriptor::read(cx.get::<u64>(cx.list(op, shape.place(operand)))[lane]).ok();
            (shape, [if shape.registers { None } else { of(0) }, of(1)])
        };
        let to = &mut self.dynamic[index].shared;
        let mut read = 0;
        for (operand, outer, inner) in
            shape.matrices(cx.warp).filter(|(operand, ..)| *operand == 0 || cx.warp.is_multiple_of(4))
        {
            let Some(descriptor) = &descriptors[operand] else { continue };
            let rows = descriptor.rows(shape.turned(operand), outer, inner).map(u64::from);
            let ways = self.banks.ways(&rows, 0xff, 16);
            read += 128;
            to.passes += ways;
            to.conflicts += ways - 1;
            to.ways = to.ways.max(ways);
        }
        to.load_bytes += read;
        to.requests += u64::from(read > 0);
    }

    /// Adds another worker's counts of the same kernel.
    pub(crate) fn add(&mut self, other: &Tally) {
        for (mine, n) in self.runs.iter_mut().zip(&other.runs) {
            mine.warps += n.warps;
            mine.lanes += n.lanes;
        }
        for (mine, n) in self.dynamic.iter_mut().zip(&other.dynamic) {
            mine.global.add(&n.global);
            mine.local.add(&n.local);
            mine.shared.add(&n.shared);
            mine.divergent += n.divergent;
        }
    }

    /// Gives what each decoded instruction contributes; those that never ran are left out.
    pub(crate) fn visit(&self, kernel: &Kernel, mut visit: impl FnMut(&Meta, &Counters)) {
        for (i, meta) in kernel.meta.iter().enumerate() {
            // What is guarded was reached as often as its guard.
            let reached = self.runs[if i > 0 && kernel.meta[i - 1].guard { i - 1 } else { i }];
            if !meta.guard && reached.warps > 0 {
                let dynamic = &self.dynamic[i];
                let mut counters = instruction(meta, reached, self.runs[i]);
                (counters.global, counters.local, counters.shared) = (dynamic.global, dynamic.local, dynamic.shared);
                counters.divergent_branches = dynamic.divergent;
                visit(meta, &counters);
            }
        }
        // Dissolved instructions would have run as often as the one they stood before.
        for (at, meta) in &kernel.dissolved {
            let runs = self.runs[*at as usize];
            if runs.warps > 0 {
                visit(meta, &instruction(meta, runs, runs));
            }
        }
    }
}

/// What follows from how often an instruction was reached and executed.
fn instruction(meta: &Meta, reached: Runs, ran: Runs) -> Counters {
    let mut out = Counters::default();
    if meta.class == Class::Tensor {
        out.tensor_flops = u64::from(meta.flops) * ran.warps;
    } else {
        out.flops = u64::from(meta.flops) * ran.lanes;
    }
    // Of the steps of one PTX instruction, the first stands for it.
    if meta.lead {
        out.warp_instructions = reached.warps;
        out.thread_instructions = ran.lanes;
        out.predicated_off = reached.warps - ran.warps;
        out.predicated_off_lanes = reached.lanes - ran.lanes;
        out.by_class.0[meta.class as usize] = reached.warps;
        match meta.class {
            Class::Barrier => out.barriers = ran.warps,
            Class::Atomic => out.atomics = ran.lanes,
            _ => {}
        }
    }
    out
}

/// Bulk copies: what lies side by side is moved together, without bank conflicts.
unsafe fn bulk(to: &mut Dynamic, cx: &Cx, op: *const Op) {
    let (mut global, mut shared) = (0, 0);
    for lane in lanes_of(cx.mask) {
        // SAFETY: the instruction is a bulk copy. One that is wrong moves nothing.
        let Ok(all) = (unsafe { moves(cx, op, lane) }) else { continue };
        for (copy, moves) in all.iter().enumerate() {
            let reduce = moves.reduce.is_some();
            for &Run { to: target, from, bytes } in moves.runs().iter().filter(|run| run.bytes > 0) {
                // A multicast reads once.
                let source = from.filter(|_| copy == 0).map(|from| (from, bytes, 0));
                for (a, read, written) in source.into_iter().chain([(target, if reduce { bytes } else { 0 }, bytes)]) {
                    if a >= GLOBAL_BASE {
                        global = 1;
                        to.global.load_bytes += read;
                        to.global.store_bytes += written;
                        to.global.sectors += (a % 32 + bytes).div_ceil(32);
                    } else {
                        shared = 1;
                        to.shared.load_bytes += read;
                        to.shared.store_bytes += written;
                        let far = cx.whose(a).is_some_and(|(rank, _)| rank != cx.rank);
                        to.shared.remote_load_bytes += if far { read } else { 0 };
                        to.shared.remote_store_bytes += if far { written } else { 0 };
                        to.shared.multicast_bytes += if moves.is_multicast() { written } else { 0 };
                    }
                }
            }
            to.shared.passes += moves.shared_bytes().div_ceil(128);
        }
    }
    to.shared.ways = to.shared.ways.max(shared);
    to.global.requests += global;
    to.shared.requests += shared;
}

/// A request to global memory by the given lanes.
fn global(to: &mut Traffic, addr: &[u64; WARP], lanes: u32, read: u64, written: u64) {
    if lanes == 0 {
        return;
    }
    to.requests += 1;
    to.load_bytes += read;
    to.store_bytes += written;
    // An aligned access of up to 32 bytes lies in one sector.
    to.sectors += distinct(addr.map(|a| a / 32), lanes);
}

/// How many different values the given lanes hold.
fn distinct(mut value: [u64; WARP], lanes: u32) -> u64 {
    if lanes == FULL {
        let (mut rising, mut steps) = (true, 1);
        for i in 1..WARP {
            rising &= value[i] >= value[i - 1];
            steps += u64::from(value[i] != value[i - 1]);
        }
        if rising {
            return steps;
        }
    } else {
        let any = value[(lanes.trailing_zeros() & 31) as usize];
        for i in 0..WARP {
            value[i] = if lanes >> i & 1 != 0 { value[i] } else { any };
        }
    }
    let low = value.iter().copied().min().unwrap_or(0);
    let high = value.iter().copied().max().unwrap_or(0);
    if high - low < 128 {
        let seen = value.iter().fold(0u128, |seen, v| seen | 1 << (v - low));
        return u64::from(seen.count_ones());
    }
    different(&mut value)
}

/// How many different values there are; sorts them.
fn different(value: &mut [u64]) -> u64 {
    value.sort_unstable();
    value.chunk_by(|a, b| a == b).count() as u64
}

/// The words a lane's access lies in. Accesses are counted before they are looked at; of one that is not aligned, which is a fault, as many.
fn words(addr: u64, bytes: u64) -> std::ops::Range<u64> {
    addr / 4..addr / 4 + bytes.div_ceil(4)
}

/// A request to local memory. Word `w` of lane `l` lies at word `32 w + l`, so that eight lanes share a sector.
fn local(to: &mut Traffic, addr: &[u64; WARP], lanes: u32, bytes: u64, load: u64, store: u64) {
    if lanes == 0 {
        return;
    }
    let total = bytes * u64::from(lanes.count_ones());
    to.requests += 1;
    to.load_bytes += total * load;
    to.store_bytes += total * store;
    let mut sectors = [0; 8 * WARP];
    let mut n = 0;
    for lane in (0..WARP).filter(|l| lanes >> l & 1 != 0) {
        for word in words(addr[lane], bytes) {
            sectors[n] = word * 4 + lane as u64 / 8;
            n += 1;
        }
    }
    to.sectors += different(&mut sectors[..n]);
}

/// Room to sort words by banks.
struct Banks {
    words: [[u64; WARP]; WARP],
}

impl Banks {
    /// A request to shared memory of `bytes` by each of `lanes`.
    fn request(&mut self, to: &mut SharedTraffic, addr: &[u64; WARP], lanes: u32, bytes: u64, load: u64, store: u64) {
        if lanes == 0 {
            return;
        }
        let total = bytes * u64::from(lanes.count_ones());
        to.requests += 1;
        to.load_bytes += total * load;
        to.store_bytes += total * store;
        // Wide accesses go by half or quarter warps.
        let group = (128 / bytes.max(4)).clamp(1, 32) as usize;
        let side_by_side =
            (1..WARP).fold(0, |stray, i| stray | (addr[i] ^ addr[0].wrapping_add(i as u64 * bytes))) == 0;
        if lanes == FULL && side_by_side {
            to.passes += (WARP / group) as u64;
            to.ways = to.ways.max(1);
            return;
        }
        for first in (0..WARP).step_by(group) {
            let members = lanes >> first & (FULL >> (WARP - group));
            if members != 0 {
                let ways = self.ways(&addr[first..first + group], members, bytes);
                to.passes += ways;
                to.conflicts += ways - 1;
                to.ways = to.ways.max(ways);
            }
        }
    }

    /// The most different words that a group's lanes ask of one bank.
    fn ways(&mut self, addr: &[u64], mut members: u32, bytes: u64) -> u64 {
        let mut filled = [0u8; WARP];
        let mut most = 1;
        while members != 0 {
            let a = addr[members.trailing_zeros() as usize];
            members &= members - 1;
            for word in words(a, bytes) {
                let bank = (word % WARP as u64) as usize;
                let n = filled[bank] as usize;
                if n < WARP && !self.words[bank][..n].contains(&word) {
                    self.words[bank][n] = word;
                    filled[bank] += 1;
                    most = most.max(n as u64 + 1);
                }
            }
        }
        most
    }
}
