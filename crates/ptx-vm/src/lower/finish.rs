//! From virtual registers to a kernel: copies dissolved, dead code dropped, registers given slots, code laid out.

use super::builder::{Lower, Unit};
use super::flow::Graph;
use super::form::R;
use super::layout::Layout;
use super::slots::{Places, UNIT, pool, warp_constants};
use super::tidy::{dissolve_copies, drop_dead, exits};
use crate::ir::{ClusterRules, ConstSource, Flow, Globals, Kernel, Meta, NO_SLOT, Param, Raw, Rule, Where};
use crate::parse::Function;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Puts the kernel together. Long, as its steps number the same instructions, slots and labels.
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
    units.iter_mut().for_each(|unit| keep_operands(&mut unit.code, &l.regs));
    let graphs: Vec<Graph> = units.iter().map(|unit| Graph::new(&unit.code, labels)).collect();
    let (warp_consts, mut const_slots, free) = warp_constants(&l);
    let (const_image, launch_consts) = pool(&l, units.iter().flat_map(|unit| &unit.code), &mut const_slots);
    let array_consts = l.consts.iter().zip(&const_slots).filter_map(|((_, source), slot)| match source {
        ConstSource::Imm(_, array @ 1..) if *slot != NO_SLOT => Some((*slot, *array)),
        _ => None,
    });
    let array_consts = array_consts.collect();
    let places = Places::new(&l.regs, const_slots, units.iter().zip(&graphs), free);
    let layout = Layout::of(&units, &graphs, labels, &places);
    let (reg_bytes, unwritten) = (places.bytes.max(UNIT), places.unwritten);
    // A kernel that calls nothing has exactly the bytes it declares, so that an access beyond them is found.
    let alone = units.len() == 1 && !l.allocates;
    let depth = if alone { Some(units[0].local) } else { depth(&units) };
    let frame_bytes = units[0].frame_bytes();
    Ok(Kernel {
        name: function.name.to_owned(),
        file: l.file().into(),
        text,
        arch: l.arch(),
        params,
        param_bytes: l.param_bytes,
        static_shared,
        local_bytes: depth.unwrap_or(frame_bytes),
        stack: depth.is_none() || l.allocates,
        frame_bytes,
        calm: Meta::calm_runs(&layout.meta),
        code: layout.code,
        lists: layout.lists,
        meta: layout.meta,
        flows: layout.flows,
        unwritten,
        reg_bytes,
        preds: l.preds as usize,
        const_image,
        launch_consts,
        arrays: std::mem::take(&mut l.arrays),
        array_consts,
        warp_consts,
        caches: layout.caches as usize,
        stage_bytes: layout.stage_bytes,
        globals,
        cluster: ClusterRules {
            required: function.cluster,
            most: function.max_cluster,
            explicit: function.explicit_cluster,
            counted: function.blocks_are_clusters,
        },
        reqntid: function.reqntid,
        maxntid: function.maxntid,
        dissolved: layout.dissolved,
        files: l.files(),
        locs: l.take_locs(),
    })
}

/// Registers of products that come late are in use until a wait: nothing else may lie there before.
fn keep_operands(code: &mut [Raw], widths: &[Where]) {
    let products = code.iter().filter(|raw| raw.run.rule == Rule::Warpgroup);
    // Descriptors, of 64 bits, are taken at once.
    let of = products.flat_map(|raw| raw.defs.iter().chain(&raw.uses)).filter(|id| widths[**id as usize] == Where::W32);
    let held: BTreeSet<u32> = of.copied().collect();
    for wait in code.iter_mut().filter(|raw| raw.run.rule == Rule::WarpgroupOrder && raw.imm >= 0) {
        wait.uses.extend(&held);
    }
}

/// Bytes of frames one above the other at most; none when functions call each other in circles.
fn depth(units: &[Unit]) -> Option<usize> {
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
            total[u] = below.map(|below| below + units[u].frame_bytes());
        }
    }
    total[0]
}
