//! Products of warpgroups on their way: `wgmma` reads its operands and writes its results when somebody waits for it.
//!
//! Meanwhile accumulators hold poison. A compiler may copy registers on the way; a copy of what has not come yet is one more place it comes
//! to, and what something else is written to is a place no more.

use crate::ir::*;
use crate::step::wgmma::{COMMIT, FENCE, Issue, Shape, astray, compute, issue};
use std::collections::{HashMap, VecDeque};

/// A result that has not come: the number of its product among those of the warp, and which of its registers.
type Result = (u64, usize);

/// A product that has been issued.
struct Product {
    op: *const Op,
    issue: Issue,
    number: u64,
    /// The number of its group among those of the warp, from 1.
    group: u64,
    /// What is added to, then the sums.
    values: Vec<L<u32>>,
    /// What of that has yet to come itself: the register and the lanes.
    awaits: Vec<(usize, u32, Result)>,
}

/// The products of a warp.
#[derive(Default)]
pub(super) struct Products {
    pending: VecDeque<Product>,
    issued: u64,
    committed: u64,
    /// Where results come to: for each register lanes, and what they wait for.
    places: HashMap<u32, Vec<(u32, Result)>>,
}

impl Products {
    pub(super) fn clear(&mut self) {
        self.pending.clear();
        self.places.clear();
        (self.issued, self.committed) = (0, 0);
    }

    /// Whether any has not come.
    pub(super) fn busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// `wgmma.mma_async`; none when it is to be executed as it is, because the warp is not whole.
    ///
    /// # Safety
    /// As for [`Exec::exec`].
    pub(super) unsafe fn issue(&mut self, cx: &mut Cx, op: *const Op) -> Option<*const Op> {
        if cx.mask != FULL && cx.mask != cx.alive {
            return None;
        }
        // SAFETY: the list holds as many registers as D has.
        unsafe {
            let (shape, issue) = match issue(cx, op) {
                Ok(issue) => (Shape::of(op), issue),
                Err(stop) => return Some(stop),
            };
            if let Some(astray) = astray(cx, &shape, &issue) {
                return Some(astray.fault(cx, op, &issue));
            }
            let (number, group) = (self.issued, self.committed + 1);
            self.issued += 1;
            let slots: Vec<u32> = (0..shape.d).map(|i| cx.list(op, i)).collect();
            let values = slots.iter().map(|slot| cx.get::<u32>(*slot)).collect();
            let mut awaits = Vec::new();
            for (i, slot) in slots.iter().enumerate() {
                awaits.extend(self.places.remove(slot).into_iter().flatten().map(|(lanes, result)| (i, lanes, result)));
            }
            for (i, slot) in slots.iter().enumerate() {
                cx.put(*slot, &[u32::MAX; WARP]);
                self.places.insert(*slot, vec![(cx.mask, (number, i))]);
            }
            self.pending.push_back(Product { op, issue, number, group, values, awaits });
            Some(op.add(1))
        }
    }

    /// `wgmma.fence`, `commit_group` or `wait_group`, as [`crate::step::wgmma::Group`] has them.
    ///
    /// # Safety
    /// As above; the warp is the one whose products these are.
    pub(super) unsafe fn order(&mut self, cx: &Cx, what: i64) {
        match what {
            FENCE => {}
            COMMIT => self.committed += 1,
            pending => {
                let done = self.committed.saturating_sub(pending as u64);
                while self.pending.front().is_some_and(|product| product.group <= done) {
                    // SAFETY: forwarded.
                    unsafe { self.arrive(cx) };
                }
            }
        }
    }

    /// The oldest product comes.
    unsafe fn arrive(&mut self, cx: &Cx) {
        let Some(mut product) = self.pending.pop_front() else { return };
        let places: Vec<*mut L<u32>> = product.values.iter_mut().map(std::ptr::from_mut).collect();
        // SAFETY: there are as many values as registers. Operands were found inside shared memory.
        let _ = unsafe { compute(cx, product.op, &product.issue, &places) };
        let merge = |to: &mut L<u32>, lanes: u32, from: &L<u32>| lanes_of(lanes).for_each(|i| to[i] = from[i]);
        for next in &mut self.pending {
            let Product { awaits, values, .. } = next;
            awaits.retain(|(at, lanes, (number, i))| {
                let came = *number == product.number;
                if came {
                    merge(&mut values[*at], *lanes, &product.values[*i]);
                }
                !came
            });
        }
        self.places.retain(|slot, waiting| {
            waiting.retain(|(lanes, (number, i))| {
                let came = *number == product.number;
                if came {
                    // SAFETY: the slot is a register of the warp.
                    merge(unsafe { &mut *cx.at::<u32>(*slot) }, *lanes, &product.values[*i]);
                }
                !came
            });
            !waiting.is_empty()
        });
    }

    /// Another instruction is about to run: what it writes is no longer a place of a result, unless it copies one.
    ///
    /// # Safety
    /// `index` is that of an instruction of `kernel` that the warp is at.
    pub(super) unsafe fn follow(&mut self, cx: &Cx, kernel: &Kernel, index: usize) {
        let mut meta = &kernel.meta[index];
        let mut mask = cx.mask;
        if meta.guard {
            // SAFETY: a guard is followed by the instruction it guards.
            mask = unsafe { cx.holding(&raw const kernel.code[index]) };
            let Some(guarded) = kernel.meta.get(index + 1) else { return };
            meta = guarded;
        }
        if matches!(meta.rule, Rule::Warpgroup | Rule::WarpgroupOrder) {
            return;
        }
        let slot = |flow: &u32| flow & !127;
        let (at, defs, uses) = meta.flow;
        let (defs, uses) = kernel.flows[at as usize..][..defs as usize + uses as usize].split_at(defs as usize);
        let copied = match (meta.class == Class::Move && meta.rule == Rule::Moves(0), uses) {
            (true, [from]) => self.places.get(&slot(from)).cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        for to in defs.iter().map(slot) {
            let places = self.places.entry(to).or_default();
            places.iter_mut().for_each(|(lanes, _)| *lanes &= !mask);
            places.extend(copied.iter().map(|(lanes, result)| (lanes & mask, *result)));
            places.retain(|(lanes, _)| *lanes != 0);
            if places.is_empty() {
                self.places.remove(&to);
            }
        }
    }
}
