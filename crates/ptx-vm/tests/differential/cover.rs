//! Every form that the decoder accepts of a straight-line arithmetic instruction has a reference.
//!
//! For each row of [`ptx_vm::coverage`], each combination of its types and each of its modifiers: either a text of the table has
//! both, or the VM refuses to load such an instruction, or [`EXCEPTIONS`] says why not.

use crate::table;
use ptx_vm::{Class, Coverage, Module, coverage};
use std::collections::HashSet;

/// Name, a modifier or type (`*`: any), and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("div", "full", "given by an error bound: src/math"),
    ("div", "approx", "given by an error bound: src/math"),
    ("sqrt", "approx", "given by an error bound: src/math"),
    ("rcp", "approx", "given by an error bound: src/math"),
    ("rsqrt", "*", "given by an error bound: src/math"),
    ("ex2", "*", "given by an error bound: src/math"),
    ("lg2", "*", "given by an error bound: src/math"),
    ("sin", "*", "given by an error bound: src/math"),
    ("cos", "*", "given by an error bound: src/math"),
    ("tanh", "*", "given by an error bound: src/math"),
    ("cvta", "*", "addresses: tests of memory"),
    ("isspacep", "*", "addresses: tests of memory"),
    ("mapa", "*", "addresses: tests/cluster.rs"),
    ("getctarank", "*", "addresses: tests/cluster.rs"),
    ("vadd", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vsub", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vabsdiff", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmin", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmax", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vshl", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vshr", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmad", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vset", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vadd2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vsub2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vavrg2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vabsdiff2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmin2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmax2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vset2", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vadd4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vsub4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vavrg4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vabsdiff4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmin4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vmax4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("vset4", "*", "launch cases nvcc_inline_asm, nvcc_int_ops"),
    ("cvt", "e4m3x2", "src/math compares with the nearest of all codes"),
    ("cvt", "e5m2x2", "src/math compares with the nearest of all codes"),
];

fn straight_line(class: Class) -> bool {
    use Class::*;
    matches!(class, Integer | Logic | Float | Double | Half | Special | Compare | Move | Convert)
}

type Group = (Vec<&'static str>, bool);

fn groups(row: &Coverage) -> Vec<Group> {
    let words = row.modifiers.split_whitespace().filter(|g| *g != "type");
    words.map(|g| (g.trim_end_matches('!').split('|').collect(), g.ends_with('!'))).collect()
}

/// All choices of one from each list.
fn product<'a>(lists: &[Vec<&'a str>]) -> Vec<Vec<&'a str>> {
    lists.iter().fold(vec![vec![]], |all, list| {
        all.iter().flat_map(|head| list.iter().map(move |x| head.iter().chain([x]).copied().collect())).collect()
    })
}

/// The row an opcode belongs to, its modifiers and its types: the first row that takes all its parts.
fn find<'t>(rows: &[Coverage], opcode: &'t str) -> Option<(usize, Vec<&'t str>, Vec<&'t str>)> {
    let mut parts = opcode.split('.');
    let name = parts.next()?;
    let parts: Vec<&str> = parts.collect();
    rows.iter().enumerate().filter(|(_, r)| r.name == name).find_map(|(i, row)| {
        let groups = groups(row);
        let mut used = vec![false; groups.len()];
        let (mut mods, mut types) = (Vec::new(), Vec::new());
        let mut columns = row.types.split(',').filter(|c| !c.is_empty());
        for &part in &parts {
            if let Some(g) = (0..groups.len()).find(|&g| !used[g] && groups[g].0.contains(&part)) {
                used[g] = true;
                mods.push(part);
            } else if columns.next().is_some_and(|c| c.split('|').any(|t| t == part)) {
                types.push(part);
            } else {
                return None;
            }
        }
        let complete = columns.next().is_none() && groups.iter().zip(&used).all(|((_, must), used)| *used || !must);
        complete.then_some((i, mods, types))
    })
}

/// Whether the VM loads this opcode with operands of any kind.
fn loads(opcode: &str, row: &Coverage) -> bool {
    // Without what may be missing.
    let least: String =
        row.operands.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect();
    let sources = least.matches(',').count();
    let mut bodies = Vec::new();
    for d in ["%h1", "%r1", "%d1", "%p1", "%p1|%p2"] {
        for a in ["%h2", "%r2", "%d2", "%p2"] {
            for last in ["%h3", "%r3", "%d3", "%p3", "5"] {
                let mut operands = vec![d];
                operands.extend(vec![a; sources.saturating_sub(1)]);
                operands.extend((sources > 0).then_some(last));
                bodies.push(format!("{opcode} {};", operands.join(", ")));
            }
        }
    }
    bodies.into_iter().any(|body| {
        let ptx = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry k() {{ .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %d<4>; {body} ret; }}"
        );
        Module::parse("k.ptx", &ptx).and_then(|m| m.kernel("k")).is_ok()
    })
}

#[test]
fn every_accepted_form_has_a_reference() {
    let rows = coverage();
    // Row, types and one modifier (or none) of everything in the table.
    let mut have: HashSet<(usize, String, String)> = HashSet::new();
    for entry in table() {
        for statement in entry.text.split([';', '{', '}']) {
            let opcode = statement.split_whitespace().next().unwrap_or("");
            let Some((row, mods, types)) = find(&rows, opcode) else { continue };
            for m in mods.into_iter().chain([""]) {
                have.insert((row, types.join("."), m.to_owned()));
            }
        }
    }
    let (mut missing, mut covered) = (Vec::new(), 0);
    for (i, row) in rows.iter().enumerate().filter(|(_, r)| straight_line(r.class)) {
        let groups = groups(row);
        let required: Vec<Vec<&str>> = groups.iter().filter(|g| g.1).map(|g| g.0.clone()).collect();
        let optional: Vec<&str> = groups.iter().filter(|g| !g.1).flat_map(|g| g.0.clone()).collect();
        let columns: Vec<Vec<&str>> =
            row.types.split(',').filter(|c| !c.is_empty()).map(|c| c.split('|').collect()).collect();
        let excepted =
            |part: &str| EXCEPTIONS.iter().any(|(name, what, _)| *name == row.name && (*what == "*" || *what == part));
        for types in product(&columns) {
            for m in required.iter().flatten().copied().chain(optional.iter().copied()).chain([""]) {
                if have.contains(&(i, types.join("."), m.to_owned())) {
                    covered += 1;
                    continue;
                }
                if excepted(m) || types.iter().any(|t| excepted(t)) || excepted("*") {
                    continue;
                }
                let heads = product(&required);
                // A required modifier under test takes its group's place; an optional one joins all choices of the others.
                let heads = heads.into_iter().filter(|h| m.is_empty() || optional.contains(&m) || h.contains(&m));
                let loaded = heads.into_iter().find_map(|mut head| {
                    if head.iter().any(|part| excepted(part)) {
                        return None;
                    }
                    head.extend((optional.contains(&m) && !m.is_empty()).then_some(m));
                    let opcode = [vec![row.name], head, types.clone()].concat().join(".");
                    // Another row may be the one that takes it.
                    let own = find(&rows, &opcode).is_some_and(|(row, ..)| row == i);
                    (own && loads(&opcode, row)).then_some(opcode)
                });
                missing.extend(loaded);
            }
        }
    }
    assert!(covered > 1500, "only {covered} forms are covered");
    assert!(
        missing.is_empty(),
        "{} forms load but have no reference ({covered} have one):\n{}",
        missing.len(),
        missing.join("\n")
    );
}
