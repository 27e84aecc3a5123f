//! What is taken out of straight code: ways around an exit, copies, and what nobody uses.

use super::flow::{Graph, dominates};
use crate::ir::*;
use crate::step::{call, control};

/// Branches to a bare exit become exits, so that an early return does not move the point where others meet.
pub(super) fn exits(code: &mut [Raw], labels: u32) {
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
/// before every use on every path; a constant may always stand for a register defined once. Long, as its passes share their tables.
pub(super) fn dissolve_copies(code: &mut [Raw], labels: u32, regs: usize) {
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
pub(super) fn drop_dead(code: &mut Vec<Raw>, regs: usize) {
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
pub(super) fn nop(raw: &Raw) -> Raw {
    Raw { run: handler::<control::Nop>(), flow: Flow::Next, defs: Vec::new(), uses: Vec::new(), ..raw.clone() }
}
