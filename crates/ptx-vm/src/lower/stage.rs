//! Which operands of `mma` are prepared once for several products.
//!
//! A micro-kernel brings its operands into the form it multiplies. Within a basic block the same registers serve many products: the
//! first prepares them in [`crate::ir::Cx::stage`], and the others find them there, as long as nothing writes the registers and
//! the warp cannot stop in between.

use crate::ir::{Class, Flow, Raw, Rule, Val};
use crate::math::mma::{STAGED_A, STAGED_B, Staged};
use crate::step::tensor::{PREPARE, TOGETHER, operand_counts};

/// Operands of each kind that are kept at a time. With the accumulators of a warp they shall fit the first level of the cache.
const KEPT_A: usize = 8;
const KEPT_B: usize = 16;

const _: () = assert!(TOGETHER <= KEPT_A && TOGETHER <= KEPT_B);

/// Bytes of the stage.
pub(crate) const BYTES: usize = KEPT_A * STAGED_A + KEPT_B * STAGED_B;

/// Prepared operands of one kind: what lies in each place, and when the place was used last. What is forgotten may still be on its way
/// into a product.
struct Shelf {
    first: usize,
    size: usize,
    places: Vec<(Option<Operand>, usize)>,
}

/// How it was prepared, and from what.
type Operand = (*const Staged, Vec<Val>);

impl Shelf {
    fn new(first: usize, size: usize, count: usize) -> Shelf {
        Shelf { first, size, places: vec![(None, 0); count] }
    }

    /// Where an operand lies; with [`PREPARE`] when it has yet to be put there.
    fn place(&mut self, operand: Operand, now: usize) -> u32 {
        let known = self.places.iter().position(|(kept, _)| kept.as_ref() == Some(&operand));
        let oldest = || (0..self.places.len()).min_by_key(|i| self.places[*i].1);
        let place = known.or_else(oldest).unwrap_or_default();
        self.places[place] = (Some(operand), now + 1);
        let at = (self.first + place * self.size) as u32;
        if known.is_some() { at } else { at | PREPARE }
    }

    /// Forgets the operands for which `gone` holds.
    fn forget(&mut self, gone: impl Fn(&[Val]) -> bool) {
        for (kept, _) in &mut self.places {
            kept.take_if(|(_, registers)| gone(registers));
        }
    }
}

/// Whether the warp may stop at an instruction, so that another one uses the stage.
fn may_stop(raw: &Raw) -> bool {
    raw.flow != Flow::Next
        || matches!(raw.meta.class, Class::Control | Class::Barrier | Class::Other)
        || matches!(raw.run.rule, Rule::Mbarrier | Rule::Barrier | Rule::Call)
}

/// A multiplication whose operands are prepared.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Where A and B lie.
    pub(crate) places: [u32; 2],
    /// How many products from this one on are computed together; those behind the first are not begun with.
    pub(crate) together: u32,
}

/// For each instruction of a basic block whether and how it is a product of prepared operands. `slot` is where a register lies: a result may
/// take the place of an operand that is read for the last time.
pub(crate) fn plan(block: &[Raw], slot: impl Fn(&Val) -> u32) -> Vec<Option<Product>> {
    let mut shelves = [Shelf::new(0, STAGED_A, KEPT_A), Shelf::new(KEPT_A * STAGED_A, STAGED_B, KEPT_B)];
    let mut plan: Vec<Option<Product>> = Vec::with_capacity(block.len());
    let mut first = 0;
    for (now, raw) in block.iter().enumerate() {
        let operands = operands(raw);
        let staged = raw.staged.filter(|_| raw.guard.is_none() && in_order(operands, &slot));
        plan.push(staged.map(|staged| {
            let operand = |i: usize| (std::ptr::from_ref(staged), operands[1 + i].to_vec());
            let places = [0, 1].map(|i| shelves[i].place(operand(i), now));
            Product { places, together: 1 }
        }));
        if plan[now].is_some() {
            if now > first && joins(&block[first..=now], &plan[first..now]) {
                plan[first].iter_mut().for_each(|product| product.together += 1);
            } else {
                first = now;
            }
        }
        for shelf in &mut shelves {
            shelf.forget(|registers| may_stop(raw) || raw.defs.iter().any(|d| registers.contains(&Val::Reg(*d))));
        }
    }
    plan
}

/// Whether the last of some instructions can be computed together with all before it: they are products by the same kernel, and none
/// writes what it multiplies.
fn joins(group: &[Raw], products: &[Option<Product>]) -> bool {
    let (last, before) = (&group[group.len() - 1], &group[..group.len() - 1]);
    let kernel = |raw: &Raw| raw.staged.map(std::ptr::from_ref);
    let [_, a, b, _] = operands(last);
    before.len() < TOGETHER
        && products.iter().all(Option::is_some)
        && before.iter().all(|raw| kernel(raw) == kernel(last))
        && !before.iter().flat_map(|raw| &raw.defs).any(|d| a.contains(&Val::Reg(*d)) || b.contains(&Val::Reg(*d)))
}

/// The first half of D is written before the second half of C is read: true if that does no harm.
fn in_order([d, _, _, c]: [&[Val]; 4], slot: impl Fn(&Val) -> u32) -> bool {
    let half = c.len() / 2;
    !d.iter().take(half).any(|d| c[half..].iter().any(|c| slot(c) == slot(d)))
}

/// The registers D, A, B and C of a multiplication.
fn operands(raw: &Raw) -> [&[Val]; 4] {
    let counts = match raw.aux {
        Val::Raw(counts) if raw.staged.is_some() => counts,
        _ => 0,
    };
    let mut rest = raw.list.as_slice();
    operand_counts(counts).map(|n| {
        let (part, behind) = rest.split_at(n);
        rest = behind;
        part
    })
}
