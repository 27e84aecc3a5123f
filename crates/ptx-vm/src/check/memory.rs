//! Which bits of memory are defined, and how they come into registers and out of them.

use super::bytes::{is_zero, word};
use super::defined::{Bits, Defined};
use crate::ir::{Access, Cx, FULL, Kernel, NO_SLOT, OFFSET, Op, RANK_SHIFT, WARP, addresses, lanes_of};
use crate::memory::{Allocation, GLOBAL_BASE, LOCAL_WINDOW};
use crate::parse::Space;
use crate::step::atomic::Atom;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The most bytes of an access of a lane.
const MOST: usize = 32;
/// Instructions that loaded undefined values, remembered for reports.
const SOURCES: usize = 3;

/// An instruction that has stored undefined values to global memory.
pub(crate) struct Leak {
    /// Where it stands in the code.
    pub(crate) index: usize,
    pub(crate) warp: usize,
    /// The first lane that did, and the address.
    pub(crate) lane: u32,
    pub(crate) address: u64,
    /// All addresses lie between these.
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// Where the values come from, in words.
    pub(crate) from: String,
}

#[derive(Default)]
pub(super) struct Memory {
    /// The undefined bits of shared memory, one block of the cluster after the other, and the bytes of a block.
    shared: Vec<u8>,
    shared_len: usize,
    /// Those of local memory, thread by thread.
    local: Vec<u8>,
    local_len: usize,
    /// The allocation that was used last.
    near: Option<Near>,
    /// Instructions that have loaded undefined values in this block.
    sources: Vec<usize>,
    pub(super) leaks: Vec<Leak>,
    /// The number of the launch.
    launch: u32,
}

/// What is to be known of an allocation. Tables outlive the launch, and so does what they hold.
#[derive(Clone, Copy)]
struct Near {
    base: u64,
    end: u64,
    undefined: *const u8,
    allocation: *const Allocation,
}

impl Memory {
    pub(super) fn new(launch: u32) -> Memory {
        Memory { launch, ..Memory::default() }
    }

    pub(super) fn start(&mut self, shared: usize, [blocks, seats]: [usize; 2], local: usize) {
        let warps = blocks * seats;
        self.shared.clear();
        self.shared.resize(shared * blocks, 0xff);
        self.shared_len = shared;
        self.local.clear();
        self.local.resize(local * WARP * warps, 0xff);
        self.local_len = local;
        self.sources.clear();
        self.leaks.clear();
    }

    /// The allocation that holds an address.
    unsafe fn near(&mut self, cx: &Cx, a: u64) -> Option<Near> {
        if let Some(near) = self.near
            && (near.base..near.end).contains(&a)
        {
            return Some(near);
        }
        let of = |a: &Arc<Allocation>| Near {
            base: a.base,
            end: a.end(),
            undefined: a.undefined.as_ref().map_or(std::ptr::null(), |bits| bits.as_ptr().cast()),
            allocation: Arc::as_ptr(a),
        };
        // SAFETY: the tables outlive the launch.
        unsafe {
            if let Some(found) = (*cx.table).find(a).or_else(|| (*cx.globals).find(a)) {
                self.near = Some(of(found));
                return self.near;
            }
            // What was freed stays until the launch is over.
            (*cx.heap).find(a).as_ref().map(of)
        }
    }

    /// The undefined bits of a range, or null where everything is defined, or nothing is there.
    pub(super) unsafe fn place(&mut self, cx: &Cx, shared: bool, a: u64, bytes: u64, lane: usize) -> *mut u8 {
        if shared || a < GLOBAL_BASE {
            return self.window(cx, shared, a, bytes, lane);
        }
        // SAFETY: forwarded.
        match unsafe { self.near(cx, a) } {
            Some(near) if a.checked_add(bytes).is_some_and(|end| end <= near.end) && !near.undefined.is_null() => {
                near.undefined.wrapping_add((a - near.base) as usize).cast_mut()
            }
            _ => std::ptr::null_mut(),
        }
    }

    /// The same outside of global memory.
    fn window(&mut self, cx: &Cx, shared: bool, a: u64, bytes: u64, lane: usize) -> *mut u8 {
        let own = shared.then_some((cx.rank, a as u32));
        if let Some((rank, at)) = own.or_else(|| cx.whose(a)) {
            return match u64::from(at) + bytes <= self.shared_len as u64 && (rank as usize) < cx.peers.len() {
                true => self.shared.as_mut_ptr().wrapping_add(rank as usize * self.shared_len + at as usize),
                false => std::ptr::null_mut(),
            };
        }
        if a < LOCAL_WINDOW || a - LOCAL_WINDOW + bytes > self.local_len as u64 {
            return std::ptr::null_mut();
        }
        let frame = (cx.seat as usize * WARP + lane) * self.local_len;
        self.local.as_mut_ptr().wrapping_add(frame + (a - LOCAL_WINDOW) as usize)
    }

    /// Whether an access goes by offsets into shared memory.
    fn is_shared(access: &Access) -> bool {
        access.space == Space::Shared && !access.wide
    }

    pub(super) fn found(&mut self, index: usize) {
        if self.sources.len() < SOURCES && !self.sources.contains(&index) {
            self.sources.push(index);
        }
    }

    /// An instruction has found undefined bits, which it has not loaded itself if another one is known.
    pub(super) fn found_if_none(&mut self, index: usize) {
        if self.sources.is_empty() {
            self.found(index);
        }
    }

    /// Whether any bit is undefined of what a lane finds at a generic address.
    pub(super) unsafe fn is_undefined(&mut self, cx: &Cx, a: u64, bytes: u64, lane: usize) -> bool {
        // SAFETY: `place` checks the range.
        unsafe {
            let at = self.place(cx, false, a, bytes, lane);
            !at.is_null() && !is_zero(at, bytes as usize)
        }
    }

    /// Where undefined values of this block come from, as far as is known.
    pub(super) fn from(&self, kernel: &Kernel) -> String {
        let mut lines: Vec<u32> = self.sources.iter().map(|i| kernel.meta[*i].line).collect();
        lines.dedup();
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let loads = match lines.as_slice() {
            [] => None,
            [line] => Some(format!("nobody has written what line {line} loads")),
            lines => Some(format!("nobody has written what lines {} load", lines.join(", "))),
        };
        let register = "it comes from a register that nobody has written";
        match (loads, kernel.unwritten.is_empty()) {
            (Some(loads), true) => loads,
            (Some(loads), false) => format!("{loads}, or {register}"),
            (None, false) => register.to_owned(),
            (None, true) => "it comes from a lane that did not take part".to_owned(),
        }
    }

    /// The undefined bits of memory go to the registers of a load.
    pub(super) unsafe fn load(&mut self, d: &mut Defined, cx: &Cx, op: *const Op, index: usize, access: &Access) {
        // SAFETY: operands belong to the instruction about to run; ranges are checked before they are looked at.
        unsafe {
            let addr = addresses(cx, access);
            let (shared, bytes) = (Memory::is_shared(access), access.bytes as usize);
            let mut raw = [[0u8; MOST]; WARP];
            let mut found = 0u32;
            let block = cx.mask == FULL && (0..WARP).all(|i| addr[i] == addr[0].wrapping_add((i * bytes) as u64));
            let whole =
                if block { self.place(cx, shared, addr[0], (WARP * bytes) as u64, 0) } else { std::ptr::null_mut() };
            let clean = !whole.is_null() && is_zero(whole, WARP * bytes);
            if !clean {
                for lane in lanes_of(cx.mask) {
                    let at = self.place(cx, shared, addr[lane], bytes as u64, lane);
                    if !at.is_null() && !is_zero(at, bytes) {
                        std::ptr::copy_nonoverlapping(at, raw[lane].as_mut_ptr(), bytes);
                        found |= 1 << lane;
                    }
                }
            }
            if found != 0 {
                self.found(index);
            }
            self.to_registers(d, cx, op, access, found, &raw);
        }
    }

    unsafe fn to_registers(
        &self,
        d: &mut Defined,
        cx: &Cx,
        op: *const Op,
        access: &Access,
        found: u32,
        raw: &[[u8; MOST]; WARP],
    ) {
        let count = access.lanes.max(1) as usize;
        let element = access.bytes as usize / count;
        for v in 0..count {
            // SAFETY: loads keep up to two registers in place and list more.
            let slot = unsafe { if count <= 2 { (*op).r[v] } else { cx.list(op, v) } };
            if slot == NO_SLOT {
                continue;
            }
            let warp = cx.seat as usize;
            if found == 0 {
                d.define(warp, slot, element.max(2), cx.mask);
            } else {
                let bits = raw.map(|bytes| word(&bytes[v * element..][..element]));
                d.put(warp, slot, element.max(2), &bits, cx.mask);
            }
        }
    }

    /// The undefined bits of a store's registers go to memory.
    pub(super) unsafe fn store(
        &mut self,
        d: &Defined,
        cx: &Cx,
        op: *const Op,
        index: usize,
        access: &Access,
        kernel: &Kernel,
    ) {
        // SAFETY: as in `load`.
        unsafe {
            let addr = addresses(cx, access);
            let (shared, bytes) = (Memory::is_shared(access), access.bytes as usize);
            let count = access.lanes.max(1) as usize;
            let element = bytes / count;
            let mut raw = [[0u8; MOST]; WARP];
            let mut any = false;
            for v in 0..count {
                let slot = if count <= 2 { (*op).r[v] } else { cx.list(op, v) };
                if d.lanes(cx.seat as usize, slot, element.max(2)) & cx.mask != 0 {
                    any = true;
                    let bits = d.get(cx.seat as usize, slot, element.max(2));
                    for (raw, bits) in raw.iter_mut().zip(bits) {
                        raw[v * element..][..element].copy_from_slice(&bits.to_le_bytes()[..element]);
                    }
                }
            }
            for lane in lanes_of(cx.mask) {
                let at = self.place(cx, shared, addr[lane], bytes as u64, lane);
                if !at.is_null() {
                    std::ptr::copy_nonoverlapping(raw[lane].as_ptr(), at, bytes);
                }
                if addr[lane] >= GLOBAL_BASE && !shared {
                    self.stamp(cx, addr[lane], bytes as u64);
                    if any && raw[lane][..bytes].iter().any(|bits| *bits != 0) {
                        self.leak(cx, index, lane as u32, addr[lane], bytes as u64, kernel);
                    }
                }
            }
        }
    }

    /// Undefined bits go to global memory, where the host may ask for them.
    #[cold]
    pub(super) fn leak(&mut self, cx: &Cx, index: usize, lane: u32, address: u64, bytes: u64, kernel: &Kernel) {
        let (first, end) = (address, address + bytes);
        if let Some(known) = self.leaks.iter_mut().find(|leak| leak.index == index) {
            (known.first, known.end) = (known.first.min(first), known.end.max(end));
            return;
        }
        let from = self.from(kernel);
        self.leaks.push(Leak { index, warp: cx.seat as usize, lane, address, first, end, from });
    }

    /// The launches that last stored to the words of a range of global memory; none where nobody keeps account of that.
    unsafe fn stored(&mut self, cx: &Cx, a: u64, bytes: u64) -> &[AtomicU32] {
        // SAFETY: allocations outlive the launch.
        unsafe {
            let near = self.near(cx, a).filter(|near| a + bytes <= near.end);
            let Some((near, stored)) = near.and_then(|near| Some((near, (*near.allocation).stored.as_ref()?))) else {
                return &[];
            };
            let (first, last) = ((a - near.base) / 4, (a - near.base + bytes - 1) / 4);
            &stored[first as usize..=last as usize]
        }
    }

    /// Notes that this launch has stored to global memory.
    unsafe fn stamp(&mut self, cx: &Cx, a: u64, bytes: u64) {
        let launch = self.launch;
        // SAFETY: forwarded.
        unsafe { self.stored(cx, a, bytes) }.iter().for_each(|word| word.store(launch, Ordering::Relaxed));
    }

    /// A load through the cache of what does not change must not meet what this launch has stored.
    pub(super) unsafe fn constant(&mut self, cx: &Cx, access: &Access) -> Option<(u32, u64, String)> {
        let launch = self.launch;
        // SAFETY: forwarded.
        let addr = unsafe { addresses(cx, access) };
        let bytes = u64::from(access.bytes);
        lanes_of(cx.mask).find_map(|lane| {
            let a = addr[lane];
            // SAFETY: as above.
            let stored = unsafe { self.stored(cx, a, bytes) };
            stored.iter().any(|word| word.load(Ordering::Relaxed) == launch).then(|| {
                let message = format!(
                    "{bytes} bytes of global memory at {a:#x} are read as what does not change during a kernel (`.nc`), and this kernel has written them"
                );
                (lane as u32, a, message)
            })
        })
    }

    /// An atomic: what was there goes to its results, what it combines to memory.
    pub(super) unsafe fn atomic(
        &mut self,
        d: &mut Defined,
        cx: &Cx,
        op: *const Op,
        index: usize,
        access: &Access,
        wide: bool,
    ) {
        // SAFETY: the list holds destinations, sources, and for `cas` what replaces them.
        unsafe {
            let addr = addresses(cx, access);
            let warp = cx.seat as usize;
            let count = if wide { 2 } else { (*op).r[0] as usize };
            let element = access.bytes as usize / count;
            let (sources, third) = if wide { (3, 5) } else { (count, 2 * count + 1) };
            let result: Vec<u32> = (0..count).map(|i| cx.list(op, i)).collect();
            let operand = |d: &Defined, i: usize| -> Bits {
                let b = d.get(warp, cx.list(op, sources + i), element.max(2));
                let c = d.get(warp, cx.list(op, third + if wide { i } else { 0 }), element.max(2));
                std::array::from_fn(|lane| b[lane] | c[lane])
            };
            // What is exchanged depends on nothing else; any other result may.
            let exchange = match wide {
                true => cx.list(op, third) == NO_SLOT,
                false => cx.list(op, third + 1) == Atom::Exch as u32,
            };
            let operands: Vec<Bits> = (0..count).map(|i| operand(d, i)).collect();
            let mut before = vec![[0u64; WARP]; count];
            let mut found = false;
            for lane in lanes_of(cx.mask) {
                let at = self.place(cx, Memory::is_shared(access), addr[lane], u64::from(access.bytes), lane);
                if at.is_null() {
                    continue;
                }
                for i in 0..count {
                    let cell = std::slice::from_raw_parts_mut(at.add(i * element), element);
                    let old = word(cell);
                    before[i][lane] = old;
                    found |= old != 0;
                    if exchange {
                        cell.copy_from_slice(&operands[i][lane].to_le_bytes()[..element]);
                    } else {
                        cell.fill(if old | operands[i][lane] != 0 { 0xff } else { 0 });
                    }
                }
                if addr[lane] >= GLOBAL_BASE {
                    self.stamp(cx, addr[lane], u64::from(access.bytes));
                }
            }
            if found {
                self.found(index);
            }
            for (slot, bits) in result.into_iter().zip(before) {
                if slot != NO_SLOT {
                    d.put(warp, slot, element.max(2), &bits, cx.mask);
                }
            }
        }
    }

    /// `ldmatrix` of `rows` rows of 16 bytes.
    pub(super) unsafe fn load_rows(
        &mut self,
        d: &mut Defined,
        cx: &Cx,
        op: *const Op,
        index: usize,
        access: &Access,
        trans: bool,
    ) {
        // SAFETY: the list holds a register for each matrix.
        unsafe {
            let addr = addresses(cx, access);
            let crate::ir::AccessKind::Rows(rows) = access.kind else { return };
            let mut any = false;
            let mut matrices = vec![[[0u8; 16]; 8]; rows as usize / 8];
            for (i, &a) in addr.iter().enumerate().take(rows as usize) {
                let at = self.place(cx, true, a, 16, 0);
                if !at.is_null() && !is_zero(at, 16) {
                    std::ptr::copy_nonoverlapping(at, matrices[i / 8][i % 8].as_mut_ptr(), 16);
                    any = true;
                }
            }
            if any {
                self.found(index);
            }
            for (n, rows) in matrices.iter().enumerate() {
                let slot = cx.list(op, n);
                if !any && cx.mask == FULL {
                    d.define(cx.seat as usize, slot, 4, FULL);
                    continue;
                }
                let at = |row: usize, byte: usize| u64::from(rows[row][byte]);
                let bits = std::array::from_fn(|lane| {
                    let (g, t) = (lane / 4, lane % 4);
                    match trans {
                        false => (0..4).fold(0, |w, i| w | at(g, 4 * t + i) << (8 * i)),
                        true => (0..4).fold(0, |w, i| w | at(2 * t + i / 2, 2 * g + i % 2) << (8 * i)),
                    }
                });
                d.stage(slot, 4, bits);
            }
        }
    }

    /// `stmatrix`.
    pub(super) unsafe fn store_rows(&mut self, d: &Defined, cx: &Cx, op: *const Op, access: &Access, trans: bool) {
        // SAFETY: as in `load_rows`.
        unsafe {
            let addr = addresses(cx, access);
            let crate::ir::AccessKind::RowsStore(rows, _) = access.kind else { return };
            for n in 0..rows as usize / 8 {
                let bits = d.get(cx.seat as usize, cx.list(op, n), 4);
                for r in 0..8 {
                    let mut row = [0u8; 16];
                    for (byte, out) in row.iter_mut().enumerate() {
                        // Where the byte stands in the fragment; see `load_rows`.
                        let (lane, i) = match trans {
                            false => (r * 4 + byte / 4, byte % 4),
                            true => (byte / 2 * 4 + r / 2, r % 2 * 2 + byte % 2),
                        };
                        *out = (bits[lane] >> (8 * i)) as u8;
                    }
                    let at = self.place(cx, true, addr[n * 8 + r], 16, 0);
                    if !at.is_null() {
                        std::ptr::copy_nonoverlapping(row.as_ptr(), at, 16);
                    }
                }
            }
        }
    }

    /// A copy of `bytes` bytes by a lane: of the first `given`, the rest become zeros. `combine`: what was there has its
    /// part in the result. Whether any bit is undefined now.
    pub(super) unsafe fn copy(
        &mut self,
        cx: &Cx,
        to: (bool, u64),
        from: (bool, u64),
        [bytes, given]: [u64; 2],
        lane: usize,
        combine: bool,
    ) -> bool {
        // SAFETY: both ranges are checked.
        unsafe {
            let source = if given == 0 { std::ptr::null_mut() } else { self.place(cx, from.0, from.1, given, lane) };
            let target = self.place(cx, to.0, to.1, bytes, lane);
            if !to.0 && to.1 >= GLOBAL_BASE {
                self.stamp(cx, to.1, bytes);
            }
            if target.is_null() {
                return false;
            }
            let mut bits = vec![0u8; bytes as usize];
            if !source.is_null() {
                std::ptr::copy_nonoverlapping(source, bits.as_mut_ptr(), given as usize);
            }
            if combine {
                for (i, bits) in bits.iter_mut().enumerate() {
                    *bits |= *target.add(i);
                }
            }
            std::ptr::copy_nonoverlapping(bits.as_ptr(), target, bytes as usize);
            bits.iter().any(|bits| *bits != 0)
        }
    }

    /// Bits of shared memory become undefined where these are; all, if any is or was, when both are `combined`.
    pub(super) unsafe fn put_bits(&mut self, cx: &Cx, to: u64, bits: &[u8], combined: bool) {
        // SAFETY: `place` checks the range.
        unsafe {
            let at = self.place(cx, false, to, bits.len() as u64, 0);
            if at.is_null() {
                return;
            }
            if !combined {
                std::ptr::copy_nonoverlapping(bits.as_ptr(), at, bits.len());
            } else if word(bits) != 0 || !is_zero(at, bits.len()) {
                std::ptr::write_bytes(at, 0xff, bits.len());
            }
        }
    }

    /// All bits of a range of shared memory are defined, from a place on.
    pub(super) fn define_shared(&mut self, at: u32, bytes: usize) {
        let at = (at >> RANK_SHIFT) as usize * self.shared_len + (at & OFFSET) as usize;
        if let Some(bits) = self.shared.get_mut(at..at + bytes) {
            bits.fill(0);
        }
    }
}
