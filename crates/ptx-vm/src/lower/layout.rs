//! The code of a kernel as it is laid out: instructions with their operands in place, one unit behind the other.

use super::builder::Unit;
use super::flow::Graph;
use super::slots::Places;
use super::stage::{self, Product};
use crate::ir::{Class, Exec, Flow, Meta, NO_SLOT, Op, Raw, Rule, Where, handler, negation};
use crate::step::{control, tensor, warp};

#[derive(Default)]
pub(super) struct Layout {
    pub(super) code: Vec<Op>,
    pub(super) meta: Vec<Meta>,
    pub(super) lists: Vec<u32>,
    pub(super) flows: Vec<u32>,
    pub(super) dissolved: Vec<(u32, Meta)>,
    pub(super) caches: u32,
    pub(super) stage_bytes: usize,
    /// Where in the lists it stands what a call must know of each unit.
    about: Vec<u32>,
    /// Calls, with the units they go to.
    calls: Vec<(usize, usize)>,
}

impl Layout {
    pub(super) fn of(units: &[Unit], graphs: &[Graph], labels: u32, places: &Places<'_>) -> Layout {
        let mut layout = Layout::default();
        for (unit, saved) in units.iter().zip(&places.saved) {
            layout.describe(unit, saved, places);
        }
        let mut unit_at = Vec::new();
        for (unit, graph) in units.iter().zip(graphs) {
            unit_at.push(layout.code.len() as i64);
            layout.unit(&unit.code, graph, labels, places);
        }
        for (at, callee) in std::mem::take(&mut layout.calls) {
            layout.code[at].imm = unit_at[callee];
        }
        // Where strands start that were split off; see `run::block`.
        let last = layout.meta[0];
        let (class, rule, flow) = (Class::Control, Rule::Whole, (0, 0, 0));
        let meta = Meta { class, access: None, guard: false, flops: 0, rule, flow, ..last };
        layout.push(bare::<warp::Resume>([0; 4]), meta);
        layout
    }

    fn push(&mut self, op: Op, meta: Meta) {
        self.code.push(op);
        self.meta.push(meta);
    }

    /// What a call must know of a unit, and of the registers to save for it; see `call::Call`.
    fn describe(&mut self, unit: &Unit, saved: &[(u32, Where)], places: &Places<'_>) {
        self.about.push(self.lists.len() as u32);
        let preds = unit.preds.clone();
        let bytes = saved.iter().map(|(_, w)| w.bytes()).sum::<usize>() + preds.len();
        self.lists.extend([
            if unit.frame == u32::MAX { NO_SLOT } else { places.register(unit.frame) },
            Unit::rounded(bytes) as u32,
            unit.frame_bytes() as u32,
            preds.start,
            preds.end,
            saved.len() as u32,
        ]);
        self.lists.extend(saved.iter().flat_map(|(at, w)| [*at, w.bytes() as u32]));
    }

    fn unit(&mut self, code: &[Raw], graph: &Graph, labels: u32, places: &Places<'_>) {
        let meets = graph.meets(code);
        let mut is_meet = vec![false; graph.blocks.len()];
        for (block, meet) in graph.blocks.iter().zip(&meets) {
            if matches!(code[block.end - 1].flow, Flow::Branch(_)) && *meet != usize::MAX {
                is_meet[*meet] = true;
            }
        }
        let mut label_block = vec![usize::MAX; labels as usize];
        for (i, raw) in code.iter().enumerate() {
            if let Flow::Label(id) = raw.flow {
                label_block[id as usize] = graph.of[i];
            }
        }
        let mut block_at = Vec::with_capacity(graph.blocks.len());
        // Branches, with the blocks they go to and those where lanes meet again.
        let mut branches: Vec<(usize, usize, Option<usize>)> = Vec::new();
        for (b, block) in graph.blocks.iter().enumerate() {
            block_at.push(self.code.len() as u32);
            let code = &code[block.start..block.end];
            if is_meet[b] {
                self.push(bare::<control::Meet>([0; 4]), control_meta(&code[0]));
            }
            for (raw, product) in code.iter().zip(stage::plan(code, |val| places.of(val))) {
                if matches!(raw.flow, Flow::Label(_)) {
                    continue;
                }
                let op = self.operands(raw, product, places);
                if let Flow::Branch(label) | Flow::Jump(label) = raw.flow {
                    let meet = raw.guard.is_some().then_some(meets[b]).filter(|meet| *meet != usize::MAX);
                    branches.push((self.code.len(), label_block[label as usize], meet));
                }
                self.instruction(op, raw, places);
            }
        }
        for (at, target, meet) in branches {
            self.code[at].imm = i64::from(block_at[target]);
            self.code[at].x = meet.map_or(u32::MAX, |meet| block_at[meet]);
        }
    }

    /// An instruction with its operands in place; those in the list are laid out.
    fn operands(&mut self, raw: &Raw, product: Option<Product>, places: &Places<'_>) -> Op {
        let at = self.code.len() as u32;
        self.dissolved.extend(raw.dissolved.iter().map(|meta| (at, *meta)));
        let mut op = Op {
            run: raw.run.run,
            alone: raw.run.run,
            r: raw.r.each_ref().map(|val| places.of(val)),
            imm: raw.imm,
            x: 0,
            aux: places.of(&raw.aux),
        };
        if !raw.list.is_empty() {
            op.x = self.lists.len() as u32;
            self.lists.extend(raw.list.iter().map(|val| places.of(val)));
        }
        if let Some(product) = product {
            op.run = handler::<tensor::StagedMma>().run;
            op.r[3] = product.together;
            self.lists.extend(product.places);
            self.stage_bytes = stage::BYTES;
        }
        if raw.cached {
            op.aux = self.caches;
            self.caches += 1;
        }
        op
    }

    /// Appends an instruction, behind its guard unless that is part of it.
    fn instruction(&mut self, mut op: Op, raw: &Raw, places: &Places<'_>) {
        let guard = raw.guard.map(|(p, negated)| [p, negation(negated), 0, 0]);
        match raw.flow {
            Flow::Call(callee) => {
                op.r = [self.about[callee], raw.imm as u32, raw.list.len() as u32 / 2, 0];
                self.calls.push((self.code.len(), callee));
            }
            Flow::Branch(_) | Flow::Jump(_) | Flow::Exit | Flow::Ret => op.r = guard.unwrap_or(op.r),
            Flow::Next | Flow::Trap | Flow::Label(_) => {
                if let Some(r) = guard {
                    self.push(bare::<control::Guard>(r), Meta { guard: true, rule: Rule::Decide, ..control_meta(raw) });
                }
            }
        }
        let mut meta = raw.meta;
        meta.branch = raw.guard.is_some() && matches!(raw.flow, Flow::Branch(_) | Flow::Exit | Flow::Ret);
        if let Some(access) = &mut meta.access {
            access.addr = places.of(&raw.access_addr);
        }
        meta.flow = (self.flows.len() as u32, raw.defs.len() as u16, raw.uses.len() as u16);
        self.flows.extend(raw.defs.iter().chain(&raw.uses).map(|id| places.flow(*id)));
        self.push(op, meta);
    }
}

/// An instruction without operands, but for a guard's.
fn bare<E: Exec>(r: [u32; 4]) -> Op {
    let run = handler::<E>().run;
    Op { run, alone: run, r, imm: 0, x: 0, aux: 0 }
}

/// What is known of an instruction that only steers another one.
fn control_meta(raw: &Raw) -> Meta {
    Meta {
        access: None,
        flops: 0,
        class: Class::Control,
        lead: false,
        aligned: false,
        rule: Rule::Whole,
        flow: (0, 0, 0),
        ..raw.meta
    }
}
