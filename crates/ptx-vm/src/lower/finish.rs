//! From virtual registers to a kernel: copies dissolved, dead code dropped, registers given slots, code laid out.

use super::builder::{Lower, Unit};
use super::flow::{Graph, dominates};
use super::form::R;
use super::stage;
use crate::ir::{
    CONST_BIT, ConstSource, Exec, Flow, Globals, Kernel, Meta, NO_SLOT, Op, Param, Raw, Rule, Special, Val, WARP,
    Where, handler, negation,
};
use crate::parse::Function;
use crate::step::{call, control, tensor, warp};
use std::sync::Arc;

/// Bytes of the smallest slot: 32 lanes of 32 bits.
const UNIT: usize = 128;

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

/// Branches to a bare exit become exits, so that an early return does not move the point where others meet.
fn exits(code: &mut [Raw], labels: u32) {
    let mut bare: Vec<Option<Flow>> = vec![None; labels as usize];
    let mut after = None;
    for raw in code.iter().rev() {
        match raw.flow {
            Flow::Label(id) => bare[id as usize] = after.clone(),
            Flow::Exit | Flow::Ret if raw.guard.is_none() => after = Some(raw.flow.clone()),
            _ => after = None,
        }
    }
    for raw in code.iter_mut() {
        let (Flow::Jump(id) | Flow::Branch(id)) = raw.flow else { continue };
        let Some(end) = &bare[id as usize] else { continue };
        raw.run = match (end, &raw.flow) {
            (Flow::Exit, Flow::Jump(_)) => handler::<call::Exit>(),
            (Flow::Exit, _) => handler::<call::ExitIf>(),
            (_, Flow::Jump(_)) => handler::<call::Ret>(),
            _ => handler::<call::RetIf>(),
        };
        raw.meta.rule = raw.run.rule;
        raw.flow = end.clone();
    }
}

/// Replaces registers that are mere copies. A copy may go when source and destination are each defined once and the copy comes
/// before every use on every path; a constant may always stand for a register defined once.
fn dissolve_copies(code: &mut [Raw], labels: u32, regs: usize) {
    let mut defs = vec![0u32; regs];
    let mut def_at = vec![0usize; regs];
    let mut used_at: Vec<Vec<u32>> = vec![Vec::new(); regs];
    for (i, raw) in code.iter().enumerate() {
        for &d in &raw.defs {
            defs[d as usize] += 1;
            def_at[d as usize] = i;
            if raw.guard.is_some() {
                // A guarded definition keeps the old value elsewhere.
                defs[d as usize] += 1;
            }
        }
        for &u in &raw.uses {
            used_at[u as usize].push(i as u32);
        }
    }
    let graph = Graph::new(code, labels);
    let idom = graph.dominators();
    let before = |a: usize, b: usize| {
        let (x, y) = (graph.of[a], graph.of[b]);
        if x == y { a < b } else { dominates(&idom, x, y) }
    };
    let mut alias: Vec<Option<Val>> = vec![None; regs];
    for (i, raw) in code.iter().enumerate() {
        if !raw.copy || raw.guard.is_some() {
            continue;
        }
        let Val::Reg(d) = raw.r[0] else { continue };
        if defs[d as usize] != 1 {
            continue;
        }
        let ok = match raw.r[1] {
            Val::Const(_) => true,
            Val::Reg(s) => {
                s != d
                    && defs[s as usize] == 1
                    && before(def_at[s as usize], i)
                    && used_at[d as usize].iter().all(|&u| before(i, u as usize))
            }
            _ => false,
        };
        if ok {
            alias[d as usize] = Some(raw.r[1]);
        }
    }
    let resolve = |mut v: Val| {
        // Chains end: a source is defined before its copy.
        while let Val::Reg(id) = v
            && let Some(to) = alias[id as usize]
        {
            v = to;
        }
        v
    };
    for raw in code.iter_mut() {
        let defs = raw.defs.clone();
        for v in raw.r.iter_mut().chain(raw.list.iter_mut()) {
            if !matches!(v, Val::Reg(id) if defs.contains(id)) {
                *v = resolve(*v);
            }
        }
        raw.aux = resolve(raw.aux);
        raw.access_addr = resolve(raw.access_addr);
        let uses =
            raw.uses.iter().filter_map(|&u| if let Val::Reg(id) = resolve(Val::Reg(u)) { Some(id) } else { None });
        raw.uses = uses.collect();
    }
}

/// Drops instructions whose results nobody reads.
fn drop_dead(code: &mut Vec<Raw>, regs: usize) {
    let mut uses = vec![0u32; regs];
    for raw in code.iter() {
        for &u in &raw.uses {
            uses[u as usize] += 1;
        }
    }
    let mut dead = vec![false; code.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (i, raw) in code.iter().enumerate().rev() {
            if !dead[i]
                && raw.pure_op
                && raw.guard.is_none()
                && raw.flow == Flow::Next
                && !raw.defs.is_empty()
                && raw.defs.iter().all(|d| uses[*d as usize] == 0)
            {
                dead[i] = true;
                changed = true;
                for &u in &raw.uses {
                    uses[u as usize] -= 1;
                }
            }
        }
    }
    // The counters still want to know of them: they go with the next instruction of the same straight run, or with the last.
    let mut waiting: Vec<Meta> = Vec::new();
    let mut kept: Vec<Raw> = Vec::with_capacity(code.len());
    let mut run = 0;
    for (mut raw, dead) in std::mem::take(code).into_iter().zip(dead) {
        if dead && raw.meta.lead {
            waiting.push(raw.meta);
        }
        if dead {
            continue;
        }
        if matches!(raw.flow, Flow::Label(_)) {
            match kept[run..].last_mut() {
                _ if waiting.is_empty() => {}
                Some(last) => last.dissolved.append(&mut waiting),
                None => kept.push(Raw { dissolved: std::mem::take(&mut waiting), ..nop(&raw) }),
            }
        } else {
            raw.dissolved.append(&mut waiting);
        }
        let ends = raw.flow != Flow::Next;
        kept.push(raw);
        if ends {
            run = kept.len();
        }
    }
    *code = kept;
}

/// An instruction without effect in the place of another.
fn nop(raw: &Raw) -> Raw {
    Raw { run: handler::<control::Nop>(), flow: Flow::Next, defs: Vec::new(), uses: Vec::new(), ..raw.clone() }
}

type WarpConsts = Vec<(u32, Where, Special)>;

/// Slots in the warp's own registers for what differs from warp to warp; other constants get theirs in [`pool`].
fn warp_constants(l: &Lower<'_>) -> (WarpConsts, Vec<u32>, usize) {
    let mut slots = vec![NO_SLOT; l.consts.len()];
    let mut list = Vec::new();
    let mut unit = 0;
    for (i, (w, source)) in l.consts.iter().enumerate() {
        if let ConstSource::Special(s @ (Special::Tid(_) | Special::WarpId)) = source {
            slots[i] = (unit * UNIT) as u32;
            list.push((slots[i], *w, *s));
            unit += if *w == Where::W64 { 2 } else { 1 };
        }
    }
    (list, slots, unit)
}

type LaunchConsts = Vec<(u32, Where, ConstSource)>;

/// Lays out the constants that are used.
fn pool<'r>(l: &Lower<'_>, code: impl Iterator<Item = &'r Raw>, slots: &mut [u32]) -> (Vec<u8>, LaunchConsts) {
    let mut used = vec![false; l.consts.len()];
    for raw in code {
        for v in raw.r.iter().chain(&raw.list).chain([&raw.aux, &raw.access_addr]) {
            if let Val::Const(id) = v {
                used[*id as usize] = true;
            }
        }
    }
    let mut image = Vec::new();
    let mut launch = Vec::new();
    for (i, (w, source)) in l.consts.iter().enumerate() {
        if slots[i] != NO_SLOT || !used[i] {
            continue;
        }
        let at = image.len();
        slots[i] = at as u32 | CONST_BIT;
        let lanes: Option<[u64; WARP]> = match source {
            ConstSource::Imm(v, _) => Some([*v; WARP]),
            ConstSource::Lane { group, thread } => Some(std::array::from_fn(|lane| {
                lane as u64 / 4 * u64::from(*group) + lane as u64 % 4 * u64::from(*thread)
            })),
            ConstSource::LaneMask(kind) => Some(std::array::from_fn(|lane| {
                let bit = 1u32 << lane;
                u64::from(match kind {
                    0 => bit,
                    1 => bit | (bit - 1),
                    2 => bit - 1,
                    3 => !(bit - 1),
                    _ => !(bit | (bit - 1)),
                })
            })),
            _ => None,
        };
        match lanes {
            Some(lanes) => {
                for v in lanes {
                    image.extend_from_slice(&v.to_le_bytes()[..w.bytes()]);
                }
            }
            None => {
                launch.push((at as u32, *w, *source));
                image.resize(at + WARP * w.bytes(), 0);
            }
        }
        image.resize(image.len().next_multiple_of(UNIT), 0);
    }
    (image, launch)
}

/// Gives every register of a piece of code a slot (in bytes): liveness over the control-flow graph, then a linear scan. Returns the units
/// used, from `first`, and the registers that may be read before they are written.
///
/// Liveness is that of one thread: on one side of a divergent branch a register may be dead whose lanes on the other side have
/// yet to run. Sharing a slot is safe all the same as long as lane i of every register in it is the same bytes, so units
/// belong to one lane width for good, and pairs of units stay pairs.
fn allocate(
    code: &[Raw],
    graph: &Graph,
    widths: &[Where],
    first: usize,
    slots: &mut [u32],
) -> (Vec<Option<(Where, usize)>>, Vec<u32>) {
    let regs = widths.len();
    let words = regs.div_ceil(64);
    let n = graph.blocks.len();
    let mut gen_: Vec<u64> = vec![0; n * words];
    let mut kill: Vec<u64> = vec![0; n * words];
    for (b, block) in graph.blocks.iter().enumerate() {
        let (g, k) = (&mut gen_[b * words..][..words], &mut kill[b * words..][..words]);
        for raw in &code[block.start..block.end] {
            for &u in &raw.uses {
                let (w, bit) = (u as usize / 64, 1u64 << (u % 64));
                if k[w] & bit == 0 {
                    g[w] |= bit;
                }
            }
            for &d in &raw.defs {
                let (w, bit) = (d as usize / 64, 1u64 << (d % 64));
                if raw.guard.is_none() {
                    k[w] |= bit;
                } else if k[w] & bit == 0 {
                    g[w] |= bit;
                }
            }
        }
    }
    let mut live_in = gen_.clone();
    let mut live_out = vec![0u64; n * words];
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..n).rev() {
            for &s in &graph.blocks[b].next {
                for w in 0..words {
                    let more = live_in[s * words + w] & !live_out[b * words + w];
                    if more != 0 {
                        live_out[b * words + w] |= more;
                        let new = more & !kill[b * words + w] & !live_in[b * words + w];
                        if new != 0 {
                            live_in[b * words + w] |= new;
                        }
                        changed = true;
                    }
                }
            }
        }
    }
    let mut from = vec![usize::MAX; regs];
    let mut to = vec![0usize; regs];
    let mut touch = |r: usize, at: usize| {
        from[r] = from[r].min(at);
        to[r] = to[r].max(at);
    };
    for (b, block) in graph.blocks.iter().enumerate() {
        for w in 0..words {
            for (set, at) in [(live_in[b * words + w], block.start * 2), (live_out[b * words + w], block.end * 2)] {
                let mut bits = set;
                while bits != 0 {
                    touch(w * 64 + bits.trailing_zeros() as usize, at);
                    bits &= bits - 1;
                }
            }
        }
        for (i, raw) in code[block.start..block.end].iter().enumerate() {
            let at = (block.start + i) * 2;
            raw.uses.iter().for_each(|u| touch(*u as usize, at));
            // A result may take the place of an operand read for the last time here.
            raw.defs.iter().for_each(|d| touch(*d as usize, at + 1));
        }
    }
    let mut order: Vec<usize> = (0..regs).filter(|r| from[*r] != usize::MAX).collect();
    order.sort_by_key(|r| from[*r]);
    let mut busy: Vec<bool> = vec![true; first];
    // Which lane width a unit serves, and which half of a 64-bit slot it is.
    let mut role: Vec<Option<(Where, usize)>> = vec![None; first];
    let mut ends: std::collections::BinaryHeap<std::cmp::Reverse<(usize, usize)>> = Default::default();
    for r in order {
        while let Some(std::cmp::Reverse((end, old))) = ends.peek().copied() {
            if end >= from[r] {
                break;
            }
            ends.pop();
            let unit = slots[old] as usize / UNIT;
            busy[unit] = false;
            if widths[old] == Where::W64 {
                busy[unit + 1] = false;
            }
        }
        let size = if widths[r] == Where::W64 { 2 } else { 1 };
        let fits = |unit: usize, half: usize| {
            !busy.get(unit).copied().unwrap_or(false)
                && role.get(unit).copied().flatten().is_none_or(|role| role == (widths[r], half))
        };
        let unit = (0..).find(|u| (0..size).all(|half| fits(u + half, half))).unwrap_or(0);
        if busy.len() < unit + size {
            busy.resize(unit + size, false);
            role.resize(unit + size, None);
        }
        busy[unit..unit + size].fill(true);
        for half in 0..size {
            role[unit + half] = Some((widths[r], half));
        }
        slots[r] = (unit * UNIT) as u32;
        ends.push(std::cmp::Reverse((to[r], r)));
    }
    let entry = (0..regs as u32).filter(|r| live_in[*r as usize / 64] >> (r % 64) & 1 != 0);
    (role.split_off(first), entry.collect())
}
