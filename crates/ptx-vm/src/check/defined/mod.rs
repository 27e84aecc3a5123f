//! Which bits of registers and memory are defined.
//!
//! Beside every bit of a register stands another one, set while the first is undefined: nobody has written it, or it was computed from what
//! nobody has written. Undefined bits go where the values go, through moves, arithmetic, shuffles, matrix products, loads and stores, and
//! are reported where they decide something: an address, a branch, a membermask. So a kernel may load what it then does not use.
//!
//! Almost all registers are defined almost always. A flag for each says whether it may be otherwise; as long as none of an instruction's
//! sources is marked, nothing is computed.

mod carry;

use crate::ir::*;
use crate::ir::{Kernel, Meta, NO_SLOT};
use crate::memory::Buffer;

/// Bytes of the smallest register slot.
const UNIT: usize = 128;
/// Scratch slots behind the constants, for operands that are taken as they are.
const SCRATCH: usize = 5;

/// 32 lanes of up to 64 bits.
pub(super) type Bits = L<u64>;

pub(super) struct Defined {
    /// The undefined bits of the registers of all warps, laid out as these.
    bits: Buffer,
    reg_bytes: usize,
    /// Whether a slot may have undefined bits, for each warp.
    marked: Vec<bool>,
    units: usize,
    /// Undefined lanes of predicates, for each warp.
    preds: Vec<u32>,
    pred_count: usize,
    /// Stands for the constants, which are defined, with scratch slots behind.
    zeros: Buffer,
    scratch: usize,
    /// Results of an instruction that may yet have to wait for other lanes.
    staged: Vec<(u32, Bits)>,
    staged_preds: Vec<(u32, u32)>,
}

/// The slot and the bytes of a lane of an entry of [`Kernel::flows`].
fn part(flow: u32) -> (u32, usize) {
    (flow & !(UNIT as u32 - 1), (flow & (UNIT as u32 - 1)) as usize)
}

fn ones(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

impl Defined {
    pub(super) fn new(kernel: &Kernel, warps: usize) -> Defined {
        let (mut bits, mut zeros) = (Buffer::EMPTY, Buffer::EMPTY);
        bits.reserve(kernel.reg_bytes * warps);
        let scratch = kernel.const_image.len().next_multiple_of(UNIT);
        zeros.reserve(scratch + SCRATCH * 2 * UNIT);
        let units = kernel.reg_bytes / UNIT;
        Defined {
            bits,
            reg_bytes: kernel.reg_bytes,
            marked: vec![false; units * warps],
            units,
            preds: vec![0; kernel.preds * warps],
            pred_count: kernel.preds,
            zeros,
            scratch,
            staged: Vec::new(),
            staged_preds: Vec::new(),
        }
    }

    /// A block begins: nothing has been written. Registers that are always written first need not be looked at.
    pub(super) fn start(&mut self, kernel: &Kernel, warps: usize) {
        self.marked.fill(false);
        // SAFETY: room was made for as many warps.
        unsafe { std::ptr::write_bytes(self.bits.at(), 0, self.reg_bytes * warps) };
        for warp in 0..warps {
            for flow in &kernel.unwritten {
                let (slot, bytes) = part(*flow);
                self.put(warp, slot, bytes, &[ones(bytes); WARP], FULL);
            }
        }
        // The sink is never undefined.
        self.preds.fill(FULL);
        (0..warps).for_each(|warp| self.preds[warp * self.pred_count] = 0);
    }

    fn at(&self, warp: usize, slot: u32) -> *mut u8 {
        self.bits.at().wrapping_add(warp * self.reg_bytes + slot as usize)
    }

    fn mark(&mut self, warp: usize, slot: u32) -> &mut bool {
        &mut self.marked[warp * self.units + slot as usize / UNIT]
    }

    fn is_marked(&self, warp: usize, slot: u32) -> bool {
        slot & CONST_BIT == 0 && self.marked[warp * self.units + slot as usize / UNIT]
    }

    /// The undefined bits of a register; none of a constant or the sink.
    pub(super) fn get(&self, warp: usize, slot: u32, bytes: usize) -> Bits {
        if !self.is_marked(warp, slot) {
            return [0; WARP];
        }
        let at = self.at(warp, slot);
        // SAFETY: the slot lies inside the registers of the warp, and has lanes of this width.
        unsafe {
            match bytes {
                2 => (*at.cast::<L<u16>>()).map(u64::from),
                4 => (*at.cast::<L<u32>>()).map(u64::from),
                _ => *at.cast::<L<u64>>(),
            }
        }
    }

    pub(super) fn put(&mut self, warp: usize, slot: u32, bytes: usize, value: &Bits, mask: u32) {
        if slot & CONST_BIT != 0 {
            return;
        }
        let mut new = if mask == FULL { [0; WARP] } else { self.get(warp, slot, bytes) };
        for (i, (to, from)) in new.iter_mut().zip(value).enumerate() {
            if mask >> i & 1 != 0 {
                *to = from & ones(bytes);
            }
        }
        let any = new.iter().any(|bits| *bits != 0);
        if any || *self.mark(warp, slot) {
            let at = self.at(warp, slot);
            // SAFETY: as in `get`.
            unsafe {
                match bytes {
                    2 => *at.cast::<L<u16>>() = new.map(|bits| bits as u16),
                    4 => *at.cast::<L<u32>>() = new.map(|bits| bits as u32),
                    _ => *at.cast::<L<u64>>() = new,
                }
            }
            *self.mark(warp, slot) = any;
        }
    }

    /// The lanes in which a register has undefined bits.
    pub(super) fn lanes(&self, warp: usize, slot: u32, bytes: usize) -> u32 {
        if !self.is_marked(warp, slot) {
            return 0;
        }
        self.get(warp, slot, bytes).iter().enumerate().fold(0, |m, (i, bits)| m | u32::from(*bits != 0) << i)
    }

    fn pred(&self, warp: usize, index: u32) -> u32 {
        self.preds[warp * self.pred_count + index as usize]
    }

    fn set_pred(&mut self, warp: usize, index: u32, undefined: u32, mask: u32) {
        if index != 0 {
            let p = &mut self.preds[warp * self.pred_count + index as usize];
            *p = *p & !mask | undefined & mask;
        }
    }

    /// All lanes of `mask` are defined from now on.
    pub(super) fn define(&mut self, warp: usize, slot: u32, bytes: usize, mask: u32) {
        if self.is_marked(warp, slot) {
            self.put(warp, slot, bytes, &[0; WARP], mask);
        }
    }

    /// Carries undefined bits through the instruction `op`, which is about to run. Gives the lanes in which it decides something by an undefined
    /// value, or none, and what that is. Loads, stores and atomics are not meant: they ask memory.
    ///
    /// # Safety
    /// `op` is an instruction of `kernel`, decoded as `meta` says, and the warp's registers are set up.
    pub(super) unsafe fn pass(
        &mut self,
        cx: &mut Cx,
        kernel: &Kernel,
        op: *const Op,
        meta: &Meta,
    ) -> (u32, &'static str) {
        let mut wrong = (0, "");
        // SAFETY: forwarded.
        unsafe { self.carry(cx, kernel, op, meta, &mut wrong) };
        wrong
    }

    /// An instruction with results that were put aside has run, or not: its lanes wait for others.
    pub(super) fn ran(&mut self, warp: usize, mask: u32, ran: bool) {
        for (flow, bits) in std::mem::take(&mut self.staged) {
            let (slot, bytes) = part(flow);
            if ran && slot & CONST_BIT == 0 {
                self.put(warp, slot, bytes, &bits, mask);
            }
        }
        for (index, lanes) in std::mem::take(&mut self.staged_preds) {
            if ran {
                self.set_pred(warp, index, lanes, mask);
            }
        }
    }

    /// Whether results were put aside.
    pub(super) fn waits(&self) -> bool {
        !self.staged.is_empty() || !self.staged_preds.is_empty()
    }

    /// Puts a register of an instruction aside that may have to wait for other lanes.
    pub(super) fn stage(&mut self, slot: u32, bytes: usize, bits: Bits) {
        if slot != NO_SLOT {
            self.staged.push((slot | bytes as u32, bits));
        }
    }

    /// Results are undefined in these lanes, and defined in the others.
    fn settle(&mut self, warp: usize, defs: &[u32], lanes: u32, mask: u32) {
        for flow in defs {
            let (slot, bytes) = part(*flow);
            let out = std::array::from_fn(|i| if lanes >> i & 1 != 0 { ones(bytes) } else { 0 });
            self.put(warp, slot, bytes, &out, mask);
        }
    }

    /// Results are undefined in these lanes.
    fn taint(&mut self, warp: usize, defs: &[u32], lanes: u32) {
        if lanes != 0 {
            self.settle(warp, defs, lanes, lanes);
        }
    }
}
