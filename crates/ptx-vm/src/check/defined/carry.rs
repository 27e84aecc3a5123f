//! How undefined bits pass through an instruction, rule by rule.

use super::{Bits, Defined, UNIT, ones, part};
use crate::ir::*;
use crate::step::tensor::operand_counts;
use crate::step::wgmma::Shape;

impl Defined {
    /// As [`Defined::pass`]; what is wrong goes to `found`. An arm for each rule.
    pub(super) unsafe fn carry(
        &mut self,
        cx: &mut Cx,
        kernel: &Kernel,
        op: *const Op,
        meta: &Meta,
        found: &mut (u32, &'static str),
    ) {
        // SAFETY: operands have the widths that handlers of these rules have; slots of flows are registers.
        unsafe {
            let (warp, mask) = (cx.seat as usize, cx.mask);
            let (at, defs, uses) = meta.flow;
            let flow = &kernel.flows[at as usize..][..defs as usize + uses as usize];
            let (defs, uses) = flow.split_at(defs as usize);
            let [r0, r1, r2, r3] = (*op).r;
            let used = |d: &Defined| {
                uses.iter().any(|flow| {
                    let (slot, _) = part(*flow);
                    d.is_marked(warp, slot)
                })
            };
            let wrong = |d: &Defined| {
                uses.iter().fold(0, |m, flow| {
                    let (slot, bytes) = part(*flow);
                    m | d.lanes(warp, slot, bytes)
                })
            };
            let mut demand = |lanes: u32, what| {
                if lanes & mask != 0 && found.0 == 0 {
                    *found = (lanes & mask, what);
                }
            };
            match meta.rule {
                Rule::AsyncStore => {
                    let of = |i: usize| self.lanes(warp, cx.list(op, i), 8);
                    demand(of(0) | of(1), "an address");
                    return;
                }
                Rule::Bulk => {
                    demand(if used(self) { wrong(self) } else { 0 }, "an address or the size");
                    return;
                }
                Rule::Decide => {
                    demand(self.pred(warp, r0), "the predicate");
                    return;
                }
                Rule::Compare => {
                    let lanes = if used(self) { wrong(self) } else { 0 };
                    self.compare(cx, op, lanes);
                    return;
                }
                Rule::Predicates => {
                    self.predicates(cx, op);
                    return;
                }
                Rule::Constant => {
                    self.set_pred(warp, r0, 0, mask);
                    return;
                }
                Rule::Select => {
                    let lanes = self.pred(warp, r3);
                    if lanes & mask != 0 || used(self) {
                        self.moved(cx, op, defs, 0, false);
                        self.taint(warp, defs, lanes & mask);
                        return;
                    }
                }
                Rule::Carry => {
                    let imm = (*op).imm;
                    let mut lanes = if used(self) { wrong(self) } else { 0 };
                    if imm & 2 != 0 {
                        lanes |= self.pred(warp, r3);
                    }
                    if imm & 4 != 0 {
                        self.set_pred(warp, r3, lanes, mask);
                    }
                    if lanes & mask != 0 {
                        self.settle(warp, defs, lanes, mask);
                        return;
                    }
                }
                Rule::Moves(controls) if used(self) => {
                    let lanes = (1..4).filter(|i| controls >> i & 1 != 0);
                    let lanes = lanes.fold(0, |m, i| m | self.lanes(warp, (*op).r[i], 4));
                    self.moved(cx, op, defs, controls, false);
                    self.taint(warp, defs, lanes & mask);
                    return;
                }
                Rule::MovesList(controls) if used(self) => {
                    let lanes = (1..5).filter(|i| controls >> i & 1 != 0);
                    let lanes = lanes.fold(0, |m, i| m | self.lanes(warp, cx.list(op, i), 4));
                    self.moved(cx, op, defs, controls, true);
                    self.taint(warp, defs, lanes & mask);
                    return;
                }
                Rule::Bits(table) if used(self) => {
                    let [Some(to)] = [defs.first()] else { return };
                    self.bits(cx, op, *to, table.unwrap_or((*op).imm as u8));
                    return;
                }
                Rule::Halves if used(self) => {
                    let mut all = [0; WARP];
                    for flow in uses {
                        let (slot, bytes) = part(*flow);
                        let more = self.get(warp, slot, bytes);
                        all.iter_mut().zip(more).for_each(|(a, b)| *a |= b);
                    }
                    let whole = |bits: u64| if bits != 0 { 0xffff } else { 0 };
                    let out = all.map(|a| whole(a & 0xffff) | whole(a >> 16) << 16);
                    self.put(warp, r0, 4, &out, mask);
                    return;
                }
                Rule::Pack if used(self) => {
                    let (high, low) = (self.lanes(warp, r1, 4), self.lanes(warp, r2, 4));
                    let half = |lanes: u32, i: usize| u64::from(lanes >> i & 1) * 0xffff;
                    let out = std::array::from_fn(|i| half(low, i) | half(high, i) << 16);
                    self.put(warp, r0, 4, &out, mask);
                    return;
                }
                Rule::Whole if used(self) => {
                    let lanes = wrong(self);
                    self.settle(warp, defs, lanes, mask);
                    return;
                }
                Rule::Demands(which) => {
                    for (i, slot) in (*op).r.iter().enumerate().filter(|(i, _)| which >> i & 1 != 0) {
                        let bytes = uses.iter().map(|flow| part(*flow)).find(|(used, _)| used == slot);
                        let lanes = bytes.map_or(0, |(slot, bytes)| self.lanes(warp, slot, bytes));
                        let what = if i == 0 { "what the threads are named by" } else { "a size" };
                        demand(lanes, what);
                    }
                }
                Rule::Barrier => {
                    demand(self.lanes(warp, r0, 4), "the number of the barrier");
                    demand(self.lanes(warp, r1, 4), "the number of threads");
                    let kind = (*op).imm & 255;
                    if kind > 1 {
                        demand(self.pred(warp, r2), "the predicate");
                        if kind > 2 {
                            self.set_pred(warp, r3, 0, mask);
                        }
                    }
                }
                Rule::Mbarrier => {
                    demand(if used(self) { wrong(self) } else { 0 }, "the mbarrier or its operand");
                    if defs.is_empty() && cx.list(op, 0) != NO_SLOT {
                        self.set_pred(warp, cx.list(op, 0), 0, mask);
                    }
                }
                Rule::Call => {
                    self.call(cx, op);
                    return;
                }
                Rule::Shuffle => {
                    let members = cx.list(op, 5);
                    demand(self.lanes(warp, members, 4), "the membermask");
                    self.shuffle(cx, op);
                    return;
                }
                Rule::Vote => {
                    demand(self.lanes(warp, r2, 4), "the membermask");
                    self.vote(cx, op);
                    return;
                }
                Rule::Elect => {
                    demand(self.lanes(warp, r2, 4), "the membermask");
                    self.staged_preds.push((r1, 0));
                }
                Rule::Match | Rule::Redux => {
                    let members = if meta.rule == Rule::Match { r3 } else { r2 };
                    demand(self.lanes(warp, members, 4), "the membermask");
                    self.matched(cx, op, meta.rule);
                    return;
                }
                Rule::Multiply => {
                    self.multiply(cx, op, used(self));
                    return;
                }
                // What becomes of the results is told when it has happened.
                Rule::Warpgroup => {
                    let shape = Shape::of(op);
                    demand(self.pred(warp, r0), "scale-d");
                    for operand in usize::from(shape.registers)..2 {
                        demand(self.lanes(warp, cx.list(op, shape.place(operand)), 8), "a matrix descriptor");
                    }
                    return;
                }
                // What asks memory is looked at there.
                Rule::Load
                | Rule::Store
                | Rule::LoadMatrix
                | Rule::StoreMatrix
                | Rule::Copy
                | Rule::Atomic
                | Rule::Atomic128 => return,
                Rule::Fence
                | Rule::WarpgroupOrder
                | Rule::BulkGroup
                | Rule::Cluster
                | Rule::Whole
                | Rule::Halves
                | Rule::Pack
                | Rule::Bits(_)
                | Rule::Moves(_)
                | Rule::MovesList(_) => {}
            }
            for flow in defs {
                let (slot, bytes) = part(*flow);
                self.define(warp, slot, bytes, mask);
            }
        }
    }

    /// The predicates of a comparison some of whose `lanes` are undefined.
    unsafe fn compare(&mut self, cx: &Cx, op: *const Op, mut lanes: u32) {
        let (warp, mask) = (cx.seat as usize, cx.mask);
        // SAFETY: operands have the widths that handlers of this rule have.
        unsafe {
            let [r0, r1, _, _] = (*op).r;
            let imm = (*op).imm;
            if imm != 0 {
                let c = cx.pred((*op).aux) ^ if imm & 8 != 0 { FULL } else { 0 };
                let other = self.pred(warp, (*op).aux);
                // What is defined may decide by itself.
                let open = match imm & 3 {
                    1 => c | other,
                    2 => !c | other,
                    _ => FULL,
                };
                lanes = lanes & open | other;
            }
            self.set_pred(warp, r0, lanes, mask);
            self.set_pred(warp, r1, lanes, mask);
        }
    }

    /// A function of two predicates.
    unsafe fn predicates(&mut self, cx: &Cx, op: *const Op) {
        let (warp, mask) = (cx.seat as usize, cx.mask);
        // SAFETY: operands have the widths that handlers of this rule have.
        unsafe {
            let [r0, r1, r2, _] = (*op).r;
            let imm = (*op).imm;
            let value = |p: u32, negated: i64| cx.pred(p) ^ if imm & negated != 0 { FULL } else { 0 };
            let (a, b) = (value(r1, 16), value(r2, 32));
            let (ua, ub) = (self.pred(warp, r1), self.pred(warp, r2));
            let lanes = match imm & 15 {
                1 => ua & (b | ub) | ub & (a | ua),
                2 => ua & (!b | ub) | ub & (!a | ua),
                3 => ua | ub,
                _ => ua,
            };
            self.set_pred(warp, r0, lanes, mask);
        }
    }

    /// A function of bits in the same place, by its table.
    unsafe fn bits(&mut self, cx: &Cx, op: *const Op, to: u32, table: u8) {
        let (warp, mask) = (cx.seat as usize, cx.mask);
        // SAFETY: operands have the widths that handlers of this rule have.
        unsafe {
            let [_, r1, r2, r3] = (*op).r;
            let (d, bytes) = part(to);
            let mut out = [0; WARP];
            let real = |slot: u32| -> Bits {
                match (slot, bytes) {
                    (NO_SLOT, _) => [0; WARP],
                    (_, 2) => cx.get::<u16>(slot).map(u64::from),
                    (_, 4) => cx.get::<u32>(slot).map(u64::from),
                    _ => cx.get::<u64>(slot),
                }
            };
            let sources = [r1, r2, r3].map(|slot| (real(slot), self.get(warp, slot, bytes)));
            for (lane, out) in out.iter_mut().enumerate() {
                // Which of the eight combinations of inputs a bit may have, and which results.
                let may = sources.each_ref().map(|(v, u)| (v[lane] | u[lane], !v[lane] | u[lane]));
                let (mut one, mut zero) = (0, 0);
                for i in 0..8u8 {
                    let input = |k: usize, bit: u8| if i >> bit & 1 != 0 { may[k].0 } else { may[k].1 };
                    let possible = input(0, 2) & input(1, 1) & input(2, 0);
                    *(if table >> i & 1 != 0 { &mut one } else { &mut zero }) |= possible;
                }
                *out = one & zero;
            }
            self.put(warp, d, bytes, &out, mask);
        }
    }

    /// The arguments of a call go to the registers of the callee.
    unsafe fn call(&mut self, cx: &Cx, op: *const Op) {
        let (warp, mask) = (cx.seat as usize, cx.mask);
        // SAFETY: operands have the widths that handlers of this rule have.
        unsafe {
            let [about, _, arguments, _] = (*op).r;
            let values: Vec<(u32, Bits)> = (0..arguments as usize)
                .map(|i| (cx.list(op, 2 * i), self.get(warp, cx.list(op, 2 * i + 1), 8)))
                .collect();
            for (to, bits) in values {
                self.put(warp, to, 8, &bits, mask);
            }
            let frame = *cx.lists.add(about as usize);
            if frame != NO_SLOT {
                self.define(warp, frame, 8, mask);
            }
        }
    }

    /// `match` and `redux`: one undefined lane makes the result of all its company undefined.
    unsafe fn matched(&mut self, cx: &Cx, op: *const Op, rule: Rule) {
        let warp = cx.seat as usize;
        // SAFETY: operands have the widths that handlers of this rule have.
        unsafe {
            let [r0, r1, r2, r3] = (*op).r;
            let members = if rule == Rule::Match { r3 } else { r2 };
            let lanes = self.lanes(warp, r1, if (*op).imm & 2 != 0 && rule == Rule::Match { 8 } else { 4 });
            let sets = sets(cx, members);
            let out: Bits = std::array::from_fn(|i| if sets[i] & lanes != 0 { ones(4) } else { 0 });
            let wrong = out.iter().enumerate().fold(0, |m, (i, bits)| m | u32::from(*bits != 0) << i);
            self.staged.push((r0 | 4, out));
            if rule == Rule::Match {
                self.staged_preds.push((r2, wrong));
            }
        }
    }

    /// Lets the handler move undefined bits as it will move the values.
    pub(super) unsafe fn moved(&mut self, cx: &mut Cx, op: *const Op, defs: &[u32], controls: u8, listed: bool) {
        // SAFETY: the registers are laid out alike; constants are zeros, and controls stand behind them.
        unsafe {
            let warp = cx.seat as usize;
            let mut copy = *op;
            let mut list = [0u32; 8];
            let slot_of = |k: usize| (self.scratch + 2 * UNIT * k) as u32 | CONST_BIT;
            for (taken, i) in (0..5).filter(|i| controls >> i & 1 != 0).enumerate() {
                let from = if listed { cx.list(op, i) } else { (*op).r[i] };
                let value = cx.at::<u32>(from).cast_const();
                let to = self.zeros.at().add(self.scratch + 2 * UNIT * taken);
                std::ptr::copy_nonoverlapping(value.cast(), to, UNIT);
                if listed {
                    list[i] = slot_of(taken);
                } else {
                    copy.r[i] = slot_of(taken);
                }
            }
            let (base, lists) = (cx.base, cx.lists);
            if listed && controls != 0 {
                for (i, entry) in list.iter_mut().enumerate().take(5).filter(|(i, _)| controls >> i & 1 == 0) {
                    *entry = cx.list(op, i);
                }
                (cx.lists, copy.x) = (list.as_ptr(), 0);
            }
            for flow in defs {
                *self.mark(warp, part(*flow).0) = true;
            }
            cx.base = [self.at(warp, 0), self.zeros.at()];
            (copy.alone)(cx, &raw const copy);
            (cx.base, cx.lists) = (base, lists);
            for flow in defs {
                let (slot, bytes) = part(*flow);
                *self.mark(warp, slot) = self.lanes(warp, slot, bytes) != 0;
            }
        }
    }

    /// `shfl`: as the handler. A lane that does not take part has nothing to give.
    pub(super) unsafe fn shuffle(&mut self, cx: &Cx, op: *const Op) {
        // SAFETY: the list holds operands of these widths.
        unsafe {
            let warp = cx.seat as usize;
            let [d, a, b, c, p, members] = std::array::from_fn(|i| cx.list(op, i));
            let unsure = self.lanes(warp, b, 4) | self.lanes(warp, c, 4);
            if cx.mask == FULL && members == NO_SLOT && unsure == 0 && !self.is_marked(warp, a) {
                self.define(warp, d, 4, FULL);
                self.set_pred(warp, p, 0, FULL);
                return;
            }
            let bits = self.get(warp, a, 4);
            let sources = crate::step::warp::sources((*op).imm as u8, &cx.get::<u32>(b), &cx.get::<u32>(c));
            let sets = sets(cx, members);
            let out = std::array::from_fn(|i| {
                let from = sources.0[i] as usize & 31;
                let gives = sets[i] >> from & 1 != 0 || from == i;
                if unsure >> i & 1 != 0 || !gives { ones(4) } else { bits[from] }
            });
            if d != NO_SLOT {
                self.staged.push((d | 4, out));
            }
            self.staged_preds.push((p, unsure));
        }
    }

    pub(super) unsafe fn vote(&mut self, cx: &Cx, op: *const Op) {
        // SAFETY: operand kinds follow from the mode.
        unsafe {
            let [d, p, members, _] = (*op).r;
            let (imm, warp) = ((*op).imm, cx.seat as usize);
            let unsure = self.pred(warp, p);
            let votes = (cx.pred(p) ^ if imm & 256 != 0 { FULL } else { 0 }) & !unsure;
            let sets = sets(cx, members);
            let mut bits = [0; WARP];
            let mut lanes = 0;
            for i in 0..WARP {
                let open = sets[i] & unsure;
                bits[i] = u64::from(open);
                let no = sets[i] & !unsure & !votes;
                let undefined = match imm & 255 {
                    0 => open != 0 && no == 0,
                    1 => open != 0 && sets[i] & votes == 0,
                    _ => open != 0,
                };
                lanes |= u32::from(undefined) << i;
            }
            if imm & 255 < 3 {
                self.staged_preds.push((d, lanes));
            } else {
                self.staged.push((d | 4, bits));
            }
        }
    }

    /// `mma`: a row of A with an undefined element makes a row of D undefined, a column of B a column.
    pub(super) unsafe fn multiply(&mut self, cx: &Cx, op: *const Op, used: bool) {
        // SAFETY: the list holds as many registers as the counts say.
        unsafe {
            let warp = cx.seat as usize;
            let ([n, a, b, c], wide) = (operand_counts((*op).aux), if (*op).aux & 128 != 0 { 8 } else { 4 });
            let slot = |i: usize| cx.list(op, i);
            if !used && cx.mask == FULL {
                for i in 0..n {
                    self.define(warp, slot(i), wide, FULL);
                }
                return;
            }
            let (first_b, first_c) = (n + a, n + a + b);
            // Rows `g` and `g + 8`, columns `g`, where the lane is `4 g + t`.
            let (mut rows, mut columns) = ([0u32; 2], 0u32);
            for i in 0..a {
                rows[if a > 1 { i & 1 } else { 0 }] |= groups(self.lanes(warp, slot(n + i), wide));
            }
            for i in 0..b {
                columns |= groups(self.lanes(warp, slot(first_b + i), wide));
            }
            // `m8n8k4` of f16 works in quad pairs, whose layouts are their own: all or nothing.
            let volta = (a, b) == (2, 2);
            let any = rows[0] | rows[1] | columns;
            for i in 0..n {
                // Pairs of wide accumulators stand side by side, those of f16 share a word.
                let pairs = c == 2 && n == 2 && a > 1;
                let low = if pairs { i & 1 } else { i >> 1 & 1 };
                let before = if i < c { self.get(warp, slot(first_c + i), wide) } else { [0; WARP] };
                let out = std::array::from_fn(|lane| {
                    let (g, t) = (lane / 4, lane % 4);
                    let all = before[lane] != 0 || rows[if a > 1 { low } else { 0 }] >> g & 1 != 0 || volta && any != 0;
                    if all {
                        return ones(wide);
                    }
                    let column = |k: usize| columns >> (2 * t + k) & 1 != 0;
                    match pairs {
                        true => u64::from(column(0)) * 0xffff | u64::from(column(1)) * 0xffff_0000,
                        false if column(i & 1) => ones(wide),
                        false => 0,
                    }
                });
                self.stage(slot(i), wide, out);
            }
        }
    }
}

/// A bit for each group of four lanes in which any is set.
fn groups(lanes: u32) -> u32 {
    (0..8).fold(0, |m, g| m | u32::from(lanes >> (4 * g) & 15 != 0) << g)
}

/// For each lane the lanes that take part with it in a `.sync` instruction: those its membermask names and that are here.
unsafe fn sets(cx: &Cx, members: u32) -> L<u32> {
    // SAFETY: the membermask is 32 bits wide.
    let masks = if members == NO_SLOT { [FULL; WARP] } else { unsafe { cx.get::<u32>(members) } };
    masks.map(|mask| mask & cx.mask)
}
