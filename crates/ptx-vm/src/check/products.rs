//! The registers of `wgmma`: what may be read and written while products are pending, and what a fence has to order.
//!
//! Results of a product come some time before `wgmma.wait_group` has waited for its group. Until then its accumulators must not be touched,
//! nor registers that hold A be written, but by other products of the same shape. What other instructions have written must be ordered
//! before a product by `wgmma.fence`.
//!
//! Compilers copy registers, to have them where a loop expects them, and take such copies back later. So a copy of a pending result is one
//! more place of it, and a copy of what a fence has ordered is ordered too.

use crate::ir::{CONST_BIT, Kernel, Rule};
use std::collections::VecDeque;

const UNIT: u32 = 128;

/// What is known of a register.
#[derive(Clone, Copy, Default)]
struct Register {
    /// The group whose product writes it, the instruction of that, and which of all results this is. Group 0: none.
    group: u32,
    index: u32,
    result: u64,
    /// A copy of the result.
    copy: bool,
    /// The group of a product that reads it as A, and the instruction.
    reads: u32,
    reader: u32,
    /// Another instruction has written it since the last fence.
    fresh: bool,
    /// The shape of the product whose accumulator it has been since the last fence, or 0.
    shape: u32,
}

#[derive(Default)]
struct Warp {
    registers: Vec<Register>,
    fenced: bool,
    /// Groups committed, with the times, and how many of them have been waited for.
    commits: Vec<u32>,
    waited: u32,
    /// Products so far.
    products: u64,
}

impl Warp {
    fn pending(&self, group: u32) -> bool {
        group > self.waited
    }

    fn at(&mut self, slot: u32) -> Option<&mut Register> {
        if slot & CONST_BIT != 0 { None } else { self.registers.get_mut((slot / UNIT) as usize) }
    }

    fn get(&self, slot: u32) -> Register {
        let register = if slot & CONST_BIT != 0 { None } else { self.registers.get((slot / UNIT) as usize) };
        register.copied().unwrap_or_default()
    }
}

/// What is wrong with the use of a register, with the instruction it collides with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misuse {
    /// A pending result is read.
    Read(u32),
    /// A pending result is written.
    Written(u32),
    /// A register is written that a pending product reads.
    Fragment(u32),
    /// A pending result of another shape is added to, or is an operand.
    Mixed(u32),
    /// There is no fence before the first product.
    NoFence,
    /// An accumulator, or a register of A, was written after the last fence.
    Unfenced(&'static str),
    /// An accumulator was one of a product of another shape since the last fence.
    Reshaped,
}

/// A product as the warps of its warpgroup have to agree on it: the instruction and the descriptors.
type Agreed = (u32, [u64; 2]);

/// The products of a warpgroup that some of its warps have yet to come to.
#[derive(Default)]
struct Sequence {
    /// How many are forgotten, because all warps have come to them.
    passed: u64,
    open: VecDeque<Agreed>,
    /// How many each warp has come to.
    counts: [u64; 4],
}

/// The products of a block.
pub(super) struct Products {
    warps: Vec<Warp>,
    groups: Vec<Sequence>,
    units: usize,
}

impl Products {
    /// None for a kernel that has no such instructions.
    pub(super) fn new(kernel: &Kernel, warps: usize) -> Option<Products> {
        let any = kernel.meta.iter().any(|meta| meta.rule == Rule::Warpgroup);
        let units = kernel.reg_bytes / UNIT as usize;
        let mut products = Products { warps: Vec::new(), groups: Vec::new(), units };
        products.warps.resize_with(warps, Warp::default);
        any.then_some(products)
    }

    /// A block begins.
    pub(super) fn start(&mut self) {
        for warp in &mut self.warps {
            let mut registers = std::mem::take(&mut warp.registers);
            registers.clear();
            registers.resize(self.units, Register::default());
            *warp = Warp { registers, ..Warp::default() };
        }
        self.groups.clear();
        self.groups.resize_with(self.warps.len().div_ceil(4), Sequence::default);
    }

    /// Another instruction writes `defs` and reads `uses`, or copies a register or a constant.
    pub(super) fn access(&mut self, warp: usize, defs: &[u32], uses: &[u32], copies: bool) -> Result<(), Misuse> {
        let warp = &mut self.warps[warp];
        if let (true, [to]) = (copies, defs) {
            return warp.copy(*to, uses.first().copied());
        }
        if let Some(r) = uses.iter().map(|u| warp.get(*u)).find(|r| warp.pending(r.group)) {
            return Err(Misuse::Read(r.index));
        }
        for slot in defs {
            let old = warp.get(*slot);
            if warp.pending(old.group) && !old.copy {
                return Err(Misuse::Written(old.index));
            }
            if warp.pending(old.reads) {
                return Err(Misuse::Fragment(old.reader));
            }
            if let Some(register) = warp.at(*slot) {
                *register = Register { fresh: true, ..Register::default() };
            }
        }
        Ok(())
    }

    /// A product is issued: the instruction, its shape, accumulators and registers of A.
    pub(super) fn issue(&mut self, warp: usize, index: u32, shape: u32, d: &[u32], a: &[u32]) -> Result<(), Misuse> {
        let warp = &mut self.warps[warp];
        if !warp.fenced {
            return Err(Misuse::NoFence);
        }
        for slot in a {
            let r = warp.get(*slot);
            if warp.pending(r.group) {
                return Err(Misuse::Mixed(r.index));
            }
            if r.fresh {
                return Err(Misuse::Unfenced("a register of A"));
            }
        }
        for slot in d {
            let r = warp.get(*slot);
            if warp.pending(r.reads) {
                return Err(Misuse::Fragment(r.reader));
            }
            if warp.pending(r.group) && r.shape != shape {
                return Err(Misuse::Mixed(r.index));
            }
            if r.fresh {
                return Err(Misuse::Unfenced("an accumulator"));
            }
            if r.shape != 0 && r.shape != shape {
                return Err(Misuse::Reshaped);
            }
        }
        let group = warp.commits.len() as u32 + 1;
        for slot in a {
            if let Some(r) = warp.at(*slot) {
                (r.reads, r.reader) = (group, index);
            }
        }
        for slot in d {
            let taken = warp.get(*slot);
            // Where else it is, nobody wants it any more.
            if warp.pending(taken.group) && taken.copy {
                let same = |r: &&mut Register| r.group == taken.group && r.result == taken.result;
                warp.registers.iter_mut().filter(same).for_each(|r| r.copy = true);
            }
        }
        let first = warp.products << 8;
        for (slot, result) in d.iter().zip(first..) {
            if let Some(r) = warp.at(*slot) {
                *r = Register { group, index, result, shape, ..Register::default() };
            }
        }
        warp.products += 1;
        Ok(())
    }

    /// `wgmma.fence`.
    pub(super) fn fence(&mut self, warp: usize) {
        let warp = &mut self.warps[warp];
        warp.fenced = true;
        let waited = warp.waited;
        for r in &mut warp.registers {
            r.fresh = false;
            if r.group <= waited {
                r.shape = 0;
            }
        }
    }

    /// `wgmma.commit_group`, at a time of the clocks.
    pub(super) fn commit(&mut self, warp: usize, time: u32) {
        self.warps[warp].commits.push(time);
    }

    /// `wgmma.wait_group`.
    pub(super) fn wait(&mut self, warp: usize, pending: u32) {
        let warp = &mut self.warps[warp];
        warp.waited = warp.waited.max((warp.commits.len() as u32).saturating_sub(pending));
    }

    /// The time of the last commit of a warp that it has waited for.
    pub(super) fn waited(&self, warp: usize) -> Option<u32> {
        let warp = &self.warps[warp];
        warp.commits.get((warp.waited as usize).checked_sub(1)?).copied()
    }

    /// A warp comes to a product. Gives the warp and what it has come to when that is not what another one has come to in its place.
    pub(super) fn agree(&mut self, warp: usize, product: Agreed) -> Option<(usize, Agreed)> {
        let group = &mut self.groups[warp / 4];
        let at = group.counts[warp % 4];
        let other = (0..4).find(|w| group.counts[*w] > at);
        group.counts[warp % 4] += 1;
        match other {
            None => group.open.push_back(product),
            Some(other) => {
                let theirs = group.open.get((at - group.passed) as usize).copied().filter(|theirs| *theirs != product);
                if let Some(theirs) = theirs {
                    return Some((warp / 4 * 4 + other, theirs));
                }
            }
        }
        let least = group.counts.iter().copied().min().unwrap_or(0);
        while group.passed < least {
            group.open.pop_front();
            group.passed += 1;
        }
        None
    }

    /// All warps have ended: a product to which one has come and another has not, in that order.
    pub(super) fn unfinished(&self) -> Option<(u32, [usize; 2])> {
        self.groups.iter().enumerate().find_map(|(g, group)| {
            let (index, _) = group.open.front()?;
            let warp = |came: bool| (0..4).find(|w| (group.counts[*w] > group.passed) == came).map(|w| 4 * g + w);
            Some((*index, [warp(true)?, warp(false)?]))
        })
    }
}

impl Warp {
    /// A register becomes a copy of another one, or of a constant.
    fn copy(&mut self, to: u32, from: Option<u32>) -> Result<(), Misuse> {
        let (old, new) = (self.get(to), from.map(|slot| self.get(slot)).unwrap_or_default());
        let elsewhere = |r: &&Register| r.group == old.group && r.result == old.result;
        if self.pending(old.group) && !old.copy && self.registers.iter().filter(elsewhere).count() < 2 {
            return Err(Misuse::Written(old.index));
        }
        if self.pending(old.reads) {
            return Err(Misuse::Fragment(old.reader));
        }
        if let Some(register) = self.at(to) {
            *register = Register { copy: true, reads: 0, ..new };
        }
        Ok(())
    }
}
