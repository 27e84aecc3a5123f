//! Which array of shared memory an address belongs to.
//!
//! Arrays lie side by side, so an index that is too large meets the next one and no bound of memory. The number of the array travels with an
//! address from the name it was taken of, through sums, moves and selections of one address with what is none. Where it gets lost, in
//! memory or among several addresses, nothing is said.

use crate::ir::*;
use crate::ir::{Class, Kernel, Meta};

const UNIT: u32 = 128;

/// The number of the array of each lane; 0 for none.
type Numbers = L<u8>;

pub(super) struct Arrays {
    /// For each slot of each warp.
    numbers: Vec<Numbers>,
    marked: Vec<bool>,
    units: usize,
    /// For each constant.
    constants: Vec<u8>,
}

impl Arrays {
    /// None when there are no two arrays to tell apart.
    pub(super) fn new(kernel: &Kernel, warps: usize) -> Option<Arrays> {
        if kernel.arrays.len() < 2 {
            return None;
        }
        let units = kernel.reg_bytes / UNIT as usize;
        let mut constants = vec![0; kernel.const_image.len() / UNIT as usize + 1];
        for (slot, array) in &kernel.array_consts {
            constants[((slot & !CONST_BIT) / UNIT) as usize] = *array;
        }
        Some(Arrays { numbers: vec![[0; WARP]; units * warps], marked: vec![false; units * warps], units, constants })
    }

    pub(super) fn start(&mut self) {
        self.marked.fill(false);
    }

    /// The numbers of an operand.
    pub(super) fn get(&self, warp: usize, slot: u32) -> Option<Numbers> {
        if slot & CONST_BIT != 0 {
            let array = self.constants.get(((slot & !CONST_BIT) / UNIT) as usize).copied().unwrap_or(0);
            return (array != 0).then_some([array; WARP]);
        }
        let at = warp * self.units + (slot / UNIT) as usize;
        self.marked[at].then(|| self.numbers[at])
    }

    /// Carries the numbers through an instruction that is about to run.
    ///
    /// # Safety
    /// As for [`super::defined::Defined::pass`].
    pub(super) unsafe fn pass(&mut self, cx: &Cx, kernel: &Kernel, op: *const Op, meta: &Meta) {
        let (at, defs, _) = meta.flow;
        if defs == 0 {
            return;
        }
        let (warp, mask) = (cx.seat as usize, cx.mask);
        let moves = matches!(meta.class, Class::Integer | Class::Logic | Class::Move | Class::Convert | Class::Compare);
        let carries = moves && defs == 1 && !matches!(meta.rule, Rule::MovesList(_));
        let mut out: Option<Numbers> = None;
        if carries {
            // SAFETY: the operands of these instructions stand in place.
            let [_, a, b, c] = unsafe { (*op).r };
            let sources = [a, b, c].map(|slot| self.get(warp, slot));
            if sources.iter().any(Option::is_some) {
                let [a, b, c] = sources.map(|numbers| numbers.unwrap_or([0; WARP]));
                out = Some(std::array::from_fn(|lane| match (meta.rule, a[lane], b[lane], c[lane]) {
                    // Either of two addresses of one array.
                    (Rule::Select, x, y, _) if x == y => x,
                    (_, x, 0, 0) | (_, 0, x, 0) | (_, 0, 0, x) => x,
                    _ => 0,
                }));
            }
        }
        for flow in &kernel.flows[at as usize..][..defs as usize] {
            self.put(warp, flow & !(UNIT - 1), out.as_ref(), mask);
        }
    }

    fn put(&mut self, warp: usize, slot: u32, value: Option<&Numbers>, mask: u32) {
        let at = warp * self.units + (slot / UNIT) as usize;
        if !self.marked[at] {
            if value.is_none() {
                return;
            }
            self.numbers[at] = [0; WARP];
        }
        for (lane, number) in self.numbers[at].iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                *number = value.map_or(0, |value| value[lane]);
            }
        }
        self.marked[at] = self.numbers[at].iter().any(|number| *number != 0);
    }
}
