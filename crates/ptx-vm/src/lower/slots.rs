//! Where registers and constants lie.

use super::builder::{Lower, Unit};
use super::flow::Graph;
use crate::ir::*;

/// Bytes of the smallest slot: 32 lanes of 32 bits.
pub(super) const UNIT: usize = 128;

pub(super) type WarpConsts = Vec<(u32, Where, Special)>;

/// Slots in the warp's own registers for what differs from warp to warp; other constants get theirs in [`pool`].
pub(super) fn warp_constants(l: &Lower<'_>) -> (WarpConsts, Vec<u32>, usize) {
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

pub(super) type LaunchConsts = Vec<(u32, Where, ConstSource)>;

/// Lays out the constants that are used.
pub(super) fn pool<'r>(
    l: &Lower<'_>,
    code: impl Iterator<Item = &'r Raw>,
    slots: &mut [u32],
) -> (Vec<u8>, LaunchConsts) {
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

/// Where the operands of a kernel lie.
pub(super) struct Places<'l> {
    widths: &'l [Where],
    slots: Vec<u32>,
    const_slots: Vec<u32>,
    /// The registers of each unit that a call saves.
    pub(super) saved: Vec<Vec<(u32, Where)>>,
    /// Registers that may be read before anything has written them.
    pub(super) unwritten: Vec<u32>,
    /// Bytes of all registers.
    pub(super) bytes: usize,
}

impl<'l> Places<'l> {
    /// Places the registers from unit `free` on. Every unit of code has registers of its own: lanes of one warp may be in several.
    pub(super) fn new<'u>(
        widths: &'l [Where],
        const_slots: Vec<u32>,
        units: impl Iterator<Item = (&'u Unit, &'u Graph)>,
        mut free: usize,
    ) -> Places<'l> {
        let slots = vec![NO_SLOT; widths.len()];
        let mut places = Places { widths, slots, const_slots, saved: Vec::new(), unwritten: Vec::new(), bytes: 0 };
        for (unit, graph) in units {
            let (used, first) = allocate(&unit.code, graph, widths, free, &mut places.slots);
            // The frame and the arguments are what the caller puts there.
            let given = |id: &u32| *id == unit.frame || unit.args.contains(id);
            let unwritten: Vec<u32> = first.into_iter().filter(|id| !given(id)).map(|id| places.flow(id)).collect();
            places.unwritten.extend(unwritten);
            let place = |i: usize, role: &Option<(Where, usize)>| match role {
                Some((w, 0)) => Some((((free + i) * UNIT) as u32, *w)),
                _ => None,
            };
            places.saved.push(used.iter().enumerate().filter_map(|(i, role)| place(i, role)).collect());
            free += used.len();
        }
        places.bytes = free * UNIT;
        places
    }

    /// Where an operand lies, or what it is.
    pub(super) fn of(&self, val: &Val) -> u32 {
        match val {
            Val::Reg(id) => self.register(*id),
            Val::Pred(id) | Val::Raw(id) => *id,
            Val::Const(id) => self.const_slots[*id as usize],
            Val::None => NO_SLOT,
        }
    }

    pub(super) fn register(&self, id: u32) -> u32 {
        self.slots[id as usize]
    }

    /// A register as [`Kernel::flows`] has it.
    ///
    /// [`Kernel::flows`]: crate::ir::Kernel::flows
    pub(super) fn flow(&self, id: u32) -> u32 {
        self.register(id) | self.widths[id as usize].bytes() as u32
    }
}

/// Which registers are alive where each block begins and ends: bits of registers, `words` for each block.
struct Live {
    words: usize,
    enter: Vec<u64>,
    leave: Vec<u64>,
}

impl Live {
    fn of(code: &[Raw], graph: &Graph, regs: usize) -> Live {
        let words = regs.div_ceil(64);
        let n = graph.blocks.len();
        let mut enter: Vec<u64> = vec![0; n * words];
        let mut kill: Vec<u64> = vec![0; n * words];
        for (b, block) in graph.blocks.iter().enumerate() {
            let (g, k) = (&mut enter[b * words..][..words], &mut kill[b * words..][..words]);
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
        let mut leave = vec![0u64; n * words];
        let mut changed = true;
        while changed {
            changed = false;
            for b in (0..n).rev() {
                for &s in &graph.blocks[b].next {
                    for w in 0..words {
                        let more = enter[s * words + w] & !leave[b * words + w];
                        if more != 0 {
                            leave[b * words + w] |= more;
                            enter[b * words + w] |= more & !kill[b * words + w];
                            changed = true;
                        }
                    }
                }
            }
        }
        Live { words, enter, leave }
    }

    /// The first and the last place where each register is alive, two for each instruction; nowhere: `usize::MAX`.
    fn spans(&self, code: &[Raw], graph: &Graph, regs: usize) -> Vec<(usize, usize)> {
        let mut spans = vec![(usize::MAX, 0); regs];
        let mut touch = |r: usize, at: usize| spans[r] = (spans[r].0.min(at), spans[r].1.max(at));
        for (b, block) in graph.blocks.iter().enumerate() {
            for w in 0..self.words {
                let at = b * self.words + w;
                for (set, at) in [(self.enter[at], block.start * 2), (self.leave[at], block.end * 2)] {
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
        spans
    }
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
    let live = Live::of(code, graph, regs);
    let spans = live.spans(code, graph, regs);
    let mut order: Vec<usize> = (0..regs).filter(|r| spans[*r].0 != usize::MAX).collect();
    order.sort_by_key(|r| spans[*r].0);
    let mut busy: Vec<bool> = vec![true; first];
    // Which lane width a unit serves, and which half of a 64-bit slot it is.
    let mut role: Vec<Option<(Where, usize)>> = vec![None; first];
    let mut ends: std::collections::BinaryHeap<std::cmp::Reverse<(usize, usize)>> = Default::default();
    for r in order {
        while let Some(std::cmp::Reverse((end, old))) = ends.peek().copied() {
            if end >= spans[r].0 {
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
        ends.push(std::cmp::Reverse((spans[r].1, r)));
    }
    let entry = (0..regs as u32).filter(|r| live.enter[*r as usize / 64] >> (r % 64) & 1 != 0);
    (role.split_off(first), entry.collect())
}
