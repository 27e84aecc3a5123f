//! From virtual registers to a kernel: copies dissolved, dead code dropped, registers given slots, code laid out.

use super::builder::{Lower, Unit};
use super::flow::Graph;
use super::form::R;
use super::slots::{UNIT, allocate, pool, warp_constants};
use super::stage;
use super::tidy::{dissolve_copies, drop_dead, exits};
use crate::ir::{
    ConstSource, Exec, Flow, Globals, Kernel, Meta, NO_SLOT, Op, Param, Raw, Rule, Val, Where, handler, negation,
};
use crate::parse::Function;
use crate::step::{control, tensor, warp};
use std::sync::Arc;

pub(crate) fn finish(
    mut l: Lower<'_>,
    function: &Function<'_>,
    params: Vec<Param>,
    static_shared: usize,
    text: Arc<str>,
    globals: Arc<Globals>,
) -> R<Kernel> {
    let labels = l.labels;
    let mut units = std::mem::take(&mut l.units);
    for unit in &mut units {
        exits(&mut unit.code, labels);
        dissolve_copies(&mut unit.code, labels, l.regs.len());
        drop_dead(&mut unit.code, l.regs.len());
    }
    let graphs: Vec<Graph> = units.iter().map(|unit| Graph::new(&unit.code, labels)).collect();
    let (warp_consts, mut const_slots, mut free) = warp_constants(&l);
    let (const_image, launch_consts) = pool(&l, units.iter().flat_map(|unit| &unit.code), &mut const_slots);
    let array_consts = l.consts.iter().zip(&const_slots).filter_map(|((_, source), slot)| match source {
        ConstSource::Imm(_, array @ 1..) if *slot != NO_SLOT => Some((*slot, *array)),
        _ => None,
    });
    let array_consts: Vec<(u32, u8)> = array_consts.collect();
    // Every unit has registers of its own: lanes of one warp may be in several.
    let mut slots = vec![NO_SLOT; l.regs.len()];
    let mut saved: Vec<Vec<(u32, Where)>> = Vec::new();
    let mut unwritten: Vec<u32> = Vec::new();
    for (unit, graph) in units.iter().zip(&graphs) {
        let (used, first) = allocate(&unit.code, graph, &l.regs, free, &mut slots);
        // The frame and the arguments are what the caller puts there.
        let given = |id: &u32| *id == unit.frame || unit.args.contains(id);
        let slot = |id: u32| slots[id as usize] | l.regs[id as usize].bytes() as u32;
        unwritten.extend(first.into_iter().filter(|id| !given(id)).map(slot));
        let place = |i: usize, role: &Option<(Where, usize)>| match role {
            Some((w, 0)) => Some((((free + i) * UNIT) as u32, *w)),
            _ => None,
        };
        saved.push(used.iter().enumerate().filter_map(|(i, role)| place(i, role)).collect());
        free += used.len();
    }
    let reg_bytes = free * UNIT;
    let slot = |v: &Val| -> u32 {
        match v {
            Val::Reg(id) => slots[*id as usize],
            Val::Pred(id) | Val::Raw(id) => *id,
            Val::Const(id) => const_slots[*id as usize],
            Val::None => NO_SLOT,
        }
    };
    let round = |bytes: usize| bytes.next_multiple_of(32);
    let mut lists: Vec<u32> = Vec::new();
    let mut dissolved = Vec::new();
    // What a call must know of each unit; see `call::Call`.
    let mut about = Vec::new();
    for (unit, saved) in units.iter().zip(&saved) {
        about.push(lists.len() as u32);
        let preds = unit.preds.clone();
        let bytes = saved.iter().map(|(_, w)| w.bytes()).sum::<usize>() + preds.len();
        let frame = if unit.frame == u32::MAX { NO_SLOT } else { slots[unit.frame as usize] };
        lists.extend([
            frame,
            round(bytes) as u32,
            round(unit.local) as u32,
            preds.start,
            preds.end,
            saved.len() as u32,
        ]);
        lists.extend(saved.iter().flat_map(|(at, w)| [*at, w.bytes() as u32]));
    }
    // A kernel that calls nothing has exactly the bytes it declares, so that an access beyond them is found.
    let alone = units.len() == 1 && !l.allocates;
    let depth = if alone { Some(units[0].local) } else { depth(&units, |u| round(units[u].local)) };
    let mut out: Vec<Op> = Vec::new();
    let mut meta: Vec<Meta> = Vec::new();
    let mut caches = 0u32;
    let mut stage_bytes = 0;
    let mut unit_at = Vec::new();
    let mut calls: Vec<(usize, usize)> = Vec::new();
    let mut flows: Vec<u32> = Vec::new();
    for (unit, graph) in units.iter().zip(&graphs) {
        let code = &unit.code;
        unit_at.push(out.len());
        let meets = graph.meets(code);
        let mut is_meet = vec![false; graph.blocks.len()];
        for (b, block) in graph.blocks.iter().enumerate() {
            if matches!(code[block.end - 1].flow, Flow::Branch(_)) && meets[b] != usize::MAX {
                is_meet[meets[b]] = true;
            }
        }
        let mut block_at = vec![0u32; graph.blocks.len()];
        let mut fixes: Vec<(usize, usize)> = Vec::new();
        let mut label_block = vec![usize::MAX; labels as usize];
        for (i, raw) in code.iter().enumerate() {
            if let Flow::Label(id) = raw.flow {
                label_block[id as usize] = graph.of[i];
            }
        }
        for (b, block) in graph.blocks.iter().enumerate() {
            block_at[b] = out.len() as u32;
            let control_meta = |raw: &Raw| Meta {
                access: None,
                flops: 0,
                class: crate::ir::Class::Control,
                lead: false,
                aligned: false,
                rule: Rule::Whole,
                flow: (0, 0, 0),
                ..raw.meta
            };
            if is_meet[b] {
                out.push(bare::<control::Meet>([0; 4]));
                meta.push(control_meta(&code[block.start]));
            }
            let staged = stage::plan(&code[block.start..block.end], slot);
            for (raw, product) in code[block.start..block.end].iter().zip(staged) {
                if matches!(raw.flow, Flow::Label(_)) {
                    continue;
                }
                let at = out.len() as u32;
                dissolved.extend(raw.dissolved.iter().map(|meta| (at, *meta)));
                let mut op = Op {
                    run: raw.run.run,
                    alone: raw.run.run,
                    r: [slot(&raw.r[0]), slot(&raw.r[1]), slot(&raw.r[2]), slot(&raw.r[3])],
                    imm: raw.imm,
                    x: 0,
                    aux: slot(&raw.aux),
                };
                if !raw.list.is_empty() {
                    op.x = lists.len() as u32;
                    lists.extend(raw.list.iter().map(&slot));
                }
                if let Some(product) = product {
                    op.run = handler::<tensor::StagedMma>().run;
                    op.r[3] = product.together;
                    lists.extend(product.places);
                    stage_bytes = stage::BYTES;
                }
                if raw.cached {
                    op.aux = caches;
                    caches += 1;
                }
                let guard = raw.guard.map(|(p, negated)| [p, negation(negated), 0, 0]);
                match raw.flow {
                    Flow::Branch(label) | Flow::Jump(label) => {
                        let target = label_block[label as usize];
                        fixes.push((out.len(), target));
                        op.x = u32::MAX;
                        if let Some(guard) = guard {
                            op.r = guard;
                            // Resolved to code positions below.
                            op.x = if meets[b] == usize::MAX { u32::MAX } else { meets[b] as u32 };
                        }
                    }
                    Flow::Call(callee) => {
                        let pairs = raw.list.len() as u32 / 2;
                        op.r = [about[callee], raw.imm as u32, pairs, 0];
                        calls.push((out.len(), callee));
                    }
                    Flow::Exit | Flow::Ret => {
                        if let Some(guard) = guard {
                            op.r = guard;
                        }
                    }
                    _ => {
                        if let Some(r) = guard {
                            out.push(bare::<control::Guard>(r));
                            meta.push(Meta { guard: true, rule: Rule::Decide, ..control_meta(raw) });
                        }
                    }
                }
                let mut m = raw.meta;
                m.branch = raw.guard.is_some() && matches!(raw.flow, Flow::Branch(_) | Flow::Exit | Flow::Ret);
                if let Some(access) = &mut m.access {
                    access.addr = slot(&raw.access_addr);
                }
                let at = flows.len() as u32;
                for id in raw.defs.iter().chain(&raw.uses) {
                    flows.push(slots[*id as usize] | l.regs[*id as usize].bytes() as u32);
                }
                m.flow = (at, raw.defs.len() as u16, raw.uses.len() as u16);
                out.push(op);
                meta.push(m);
            }
        }
        for (at, target) in fixes {
            out[at].imm = i64::from(block_at[target]);
            if out[at].x != u32::MAX {
                out[at].x = block_at[out[at].x as usize];
            }
        }
    }
    for (at, callee) in calls {
        out[at].imm = unit_at[callee] as i64;
    }
    // Where strands start that were split off; see `run::block`.
    out.push(bare::<warp::Resume>([0; 4]));
    let last = meta[0];
    let (class, rule, flow) = (crate::ir::Class::Control, Rule::Whole, (0, 0, 0));
    meta.push(Meta { class, access: None, guard: false, flops: 0, rule, flow, ..last });
    let calm = meta.iter().map(Meta::calm).collect();
    Ok(Kernel {
        name: function.name.to_owned(),
        file: l.file().into(),
        text,
        arch: l.arch(),
        params,
        param_bytes: l.param_bytes,
        static_shared,
        local_bytes: depth.unwrap_or(round(units[0].local)),
        stack: depth.is_none() || l.allocates,
        frame_bytes: round(units[0].local),
        code: out,
        lists,
        meta,
        calm,
        flows,
        unwritten,
        reg_bytes: reg_bytes.max(UNIT),
        preds: l.preds as usize,
        const_image,
        launch_consts,
        arrays: std::mem::take(&mut l.arrays),
        array_consts,
        warp_consts,
        caches: caches as usize,
        stage_bytes,
        globals,
        reqntid: function.reqntid,
        maxntid: function.maxntid,
        dissolved,
        files: l.files(),
        locs: l.take_locs(),
    })
}

/// An instruction without operands, but for a guard's.
fn bare<E: Exec>(r: [u32; 4]) -> Op {
    let run = handler::<E>().run;
    Op { run, alone: run, r, imm: 0, x: 0, aux: 0 }
}

/// Bytes of frames one above the other at most; none when functions call each other in circles.
fn depth(units: &[Unit], frame: impl Fn(usize) -> usize) -> Option<usize> {
    let calls: Vec<Vec<usize>> = units
        .iter()
        .map(|unit| {
            unit.code.iter().filter_map(|raw| if let Flow::Call(to) = raw.flow { Some(to) } else { None }).collect()
        })
        .collect();
    let mut total: Vec<Option<usize>> = vec![None; units.len()];
    // Every round settles at least one unit, unless there is a circle.
    for _ in 0..units.len() {
        for u in 0..units.len() {
            let below = calls[u].iter().try_fold(0, |most: usize, c| Some(most.max(total[*c]?)));
            total[u] = below.map(|below| below + frame(u));
        }
    }
    total[0]
}
