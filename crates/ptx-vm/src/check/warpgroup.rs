//! What is checked of `wgmma`: its registers, its operands in shared memory, and that the four warps agree.

use super::bytes::is_zero;
use super::products::Misuse;
use super::shared::Actor;
use super::touch::Touch;
use super::{Check, Verdict};
use crate::error::FaultKind;
use crate::ir::*;
use crate::math::descriptor::Descriptor;
use crate::step::wgmma::{Shape, UNLESS};

/// The most columns of a product.
const COLUMNS: usize = 256;

impl Check {
    /// Looks at the registers of an instruction that is about to run, in a kernel that has products of warpgroups.
    pub(super) fn look_at_registers(&mut self, cx: &Cx, kernel: &Kernel, meta: &Meta) -> Verdict {
        let Some(products) = &mut self.products else { return Ok(()) };
        if matches!(meta.rule, Rule::Warpgroup | Rule::WarpgroupOrder) {
            return Ok(());
        }
        let (at, defs, uses) = meta.flow;
        let (defs, uses) = kernel.flows[at as usize..][..defs as usize + uses as usize].split_at(defs as usize);
        let copies = meta.class == Class::Move && meta.rule == Rule::Moves(0);
        match products.access(cx.seat as usize, defs, uses, copies) {
            Ok(()) => Ok(()),
            Err(misuse) => self.misused(cx, kernel, misuse),
        }
    }

    #[cold]
    fn misused(&self, cx: &Cx, kernel: &Kernel, misuse: Misuse) -> Verdict {
        let line = |index: u32| kernel.meta[index as usize].line;
        let wait = "with no `wgmma.wait_group` for it in between";
        let message = || match misuse {
            Misuse::Read(by) => format!("an accumulator of the wgmma in line {} is read here {wait}", line(by)),
            Misuse::Written(by) => format!("an accumulator of the wgmma in line {} is written here {wait}", line(by)),
            Misuse::Fragment(by) => {
                format!("a register that the wgmma in line {} reads as A is written here {wait}", line(by))
            }
            Misuse::Mixed(by) => {
                format!(
                    "an accumulator of the wgmma in line {} is an operand here {wait}, and not one of the same shape",
                    line(by)
                )
            }
            Misuse::NoFence => "the warp has executed no `wgmma.fence` before its first wgmma".to_owned(),
            Misuse::Unfenced(what) => format!("{what} was written with no `wgmma.fence` in between"),
            Misuse::Reshaped => {
                "an accumulator was one of a wgmma of another shape with no `wgmma.fence` in between".to_owned()
            }
        };
        self.report(FaultKind::Race, cx.mask.trailing_zeros(), None, message)
    }

    /// Fences, commits and waits of products.
    pub(super) fn order_products(&mut self, cx: &Cx, what: Happened) {
        let Some(products) = &mut self.products else { return };
        let (warp, clocks) = (cx.seat as usize, &mut self.shared.clocks);
        match what {
            Happened::MultiplyFence => products.fence(warp),
            Happened::MultiplyCommit => products.commit(warp, clocks.product_commit()),
            Happened::MultiplyWait { pending } => products.wait(warp, pending),
            _ => {}
        }
    }

    /// The warps of a warpgroup have waited for each other: all know that the products of all are complete, and no more.
    pub(super) fn warpgroup_waited(&mut self, warps: &[usize]) {
        let Some(products) = &self.products else { return };
        for (of, time) in warps.iter().filter_map(|of| Some((*of, products.waited(*of)?))) {
            warps.iter().for_each(|warp| self.shared.clocks.product_wait(*warp, of as u32, time));
        }
    }

    /// A product has been issued, and computed.
    ///
    /// # Safety
    /// The instruction has checked its operands.
    pub(super) unsafe fn multiplied(&mut self, cx: &Cx, bits: [u64; 2], kernel: &Kernel, index: usize) -> Verdict {
        let op = &raw const kernel.code[index];
        let warp = cx.seat as usize;
        let lane = cx.mask.trailing_zeros();
        // SAFETY: the caller's.
        unsafe {
            let shape = Shape::of(op);
            let slots: Vec<u32> = (0..shape.place(1)).map(|i| cx.list(op, i)).collect();
            let (d, a) = slots.split_at(shape.d);
            if let Some(products) = &mut self.products {
                if let Err(misuse) =
                    products.issue(warp, index as u32, shape.number(), d, if shape.registers { a } else { &[] })
                {
                    self.misused(cx, kernel, misuse)?;
                } else if let Some((other, (theirs, _))) = products.agree(warp, (index as u32, bits)) {
                    let message = || match theirs as usize == index {
                        true => format!("the descriptors differ from those of warp {other}, of the same warpgroup"),
                        false => format!(
                            "warp {other}, of the same warpgroup, has executed the wgmma in line {} instead",
                            kernel.meta[theirs as usize].line
                        ),
                    };
                    self.report(FaultKind::Barrier, lane, None, message)?;
                }
            }
            self.reads(cx, &shape, bits, op)?;
            self.product_bits(cx, &shape, bits, d, a, op, index);
        }
        Ok(())
    }

    /// The rows in shared memory that a product reads.
    unsafe fn reads(&mut self, cx: &Cx, shape: &Shape, bits: [u64; 2], op: *const Op) -> Verdict {
        let agent = self.shared.clocks.product_agent(cx.seat);
        let actor = Actor { warp: cx.seat as usize, lanes: cx.mask, proxy: Some(agent) };
        let descriptors = bits.map(Descriptor::read);
        for (operand, outer, inner) in shape.matrices(cx.seat) {
            let Ok(descriptor) = &descriptors[operand] else { continue };
            for at in descriptor.rows(shape.turned(operand), outer, inner) {
                // SAFETY: the product has found its rows in shared memory.
                unsafe { self.touch_shared(cx, cx.place(at), 16, actor, Touch::Read, op)? };
                self.is_told(cx, at)?;
            }
        }
        Ok(())
    }

    /// What products read must not have been written past the asynchronous proxy.
    fn is_told(&self, cx: &Cx, at: u32) -> Verdict {
        let untold = |lane: usize| self.shared.untold(cx.place(at) as usize, 16, cx.seat * WARP as u32 + lane as u32);
        let first = cx.mask.trailing_zeros();
        let Some((byte, writer)) = untold(first as usize) else { return Ok(()) };
        if lanes_of(cx.mask).any(|lane| untold(lane).is_none()) {
            return Ok(());
        }
        let byte = byte & OFFSET as usize;
        let message = || {
            format!(
                "shared memory at offset {byte:#x} is read here by a wgmma, and was written by {} with no `fence.proxy.async` in between",
                self.shared.clocks.name(writer)
            )
        };
        self.report(FaultKind::Race, first, Some(byte as u64), message)
    }

    /// A row of A with an undefined element makes a row of D undefined, a column of B a column.
    #[allow(clippy::too_many_arguments, reason = "the instruction and its operands")]
    unsafe fn product_bits(
        &mut self,
        cx: &Cx,
        shape: &Shape,
        bits: [u64; 2],
        d: &[u32],
        a: &[u32],
        op: *const Op,
        index: usize,
    ) {
        let warp = cx.seat as usize;
        // Of the warp's rows, and of all columns.
        let mut undefined = [vec![false; 16], vec![false; COLUMNS]];
        let mut found = false;
        let descriptors = bits.map(Descriptor::read);
        // SAFETY: rows are looked up; operands belong to the instruction.
        unsafe {
            for (operand, outer, inner) in shape.matrices(cx.seat) {
                let Ok(descriptor) = &descriptors[operand] else { continue };
                let turned = shape.turned(operand);
                let first = 8 * (if operand == 0 { outer % 2 } else { outer }) as usize;
                for (r, at) in descriptor.rows(turned, outer, inner).into_iter().enumerate() {
                    let at = self.memory.place(cx, true, u64::from(at), 16, 0);
                    if at.is_null() || is_zero(at, 16) {
                        continue;
                    }
                    found = true;
                    for i in 0..8 {
                        let line = first + if turned { i } else { r };
                        undefined[operand][line] |= !turned || !is_zero(at.add(2 * i), 2);
                    }
                }
            }
            if found {
                self.memory.found(index);
            }
            for (i, slot) in a.iter().enumerate().filter(|_| shape.registers) {
                for lane in lanes_of(self.defined.lanes(warp, *slot, 4)) {
                    (found, undefined[0][lane / 4 + 8 * (i % 2)]) = (true, true);
                }
            }
            let keep = cx.pred((*op).r[0]) ^ if (*op).aux & UNLESS != 0 { FULL } else { 0 };
            let half = shape.product.is_some_and(|p| p.half);
            for (i, slot) in d.iter().enumerate() {
                if !found && (keep & cx.mask == 0 || self.defined.lanes(warp, *slot, 4) == 0) {
                    self.defined.define(warp, *slot, 4, cx.mask);
                    continue;
                }
                let before = self.defined.get(warp, *slot, 4);
                let (block, second) = if half { (i / 2, i % 2) } else { (i / 4, i / 2 % 2) };
                let out = std::array::from_fn(|lane| {
                    let (g, t) = (lane / 4, lane % 4);
                    let column = |i: usize| undefined[1][8 * block + 2 * t + i];
                    match half {
                        _ if undefined[0][g + 8 * second] || keep >> lane & 1 != 0 && before[lane] != 0 => 0xffff_ffff,
                        true => u64::from(column(0)) * 0xffff | u64::from(column(1)) * 0xffff_0000,
                        false => u64::from(column(i % 2)) * 0xffff_ffff,
                    }
                });
                self.defined.put(warp, *slot, 4, &out, cx.mask);
            }
        }
    }

    /// The block has ended: a product that some warp of a warpgroup has not come to, with a warp that has, and that, in words.
    pub(super) fn unfinished(&self) -> Option<(usize, usize, String)> {
        let (index, [came, missing]) = self.products.as_ref()?.unfinished()?;
        let message = format!("warp {missing}, of the same warpgroup as warp {came}, has ended without this wgmma");
        self.checks.report.contains(FaultKind::Barrier).then_some((index as usize, came, message))
    }
}
