//! Strands: lanes of a warp that run by themselves, because others of it wait or go on without end.

use super::{Runner, State, Strand};
use crate::error::{Fault, FaultKind};
use crate::ir::*;

impl Runner<'_> {
    pub(super) fn add_strand(&mut self, strand: Strand) {
        let warp = &mut self.worker.warps[strand.warp];
        (warp.strands, warp.split) = (warp.strands + 1, true);
        let strands = &mut self.worker.strands;
        match strands.iter_mut().find(|s| s.state == State::Done) {
            Some(free) => *free = strand,
            None => strands.push(strand),
        }
    }

    /// Splits the pending lanes off a strand: they go on by themselves. False when there are none.
    pub(super) fn detach(&mut self, index: usize) -> bool {
        let strand = &mut self.worker.strands[index];
        let (warp, mask, top) = (strand.warp, strand.mask, strand.top);
        let others = self.worker.warps[warp].alive & !mask;
        if !strand.paths.iter().any(|path| path.mask & others != 0) {
            return false;
        }
        let paths = narrowed(&strand.paths, others);
        strand.paths = narrowed(&strand.paths, mask);
        strand.spins = 0;
        // The last instruction takes up a pending path.
        let pc = &raw const self.kernel.code[self.kernel.code.len() - 1];
        self.add_strand(Strand {
            warp,
            pc,
            mask: 0,
            top,
            paths,
            state: State::Ready,
            wanted: 0,
            since: 0,
            spins: 0,
            polled: 0,
        });
        true
    }

    /// Lets a strand that has nothing pending wait for its warp, split by whom its lanes wait for.
    pub(super) fn group(&mut self, index: usize) {
        let wanted = self.cx.wanted;
        let strand = &mut self.worker.strands[index];
        strand.state = State::Sync;
        let (warp, pc, all, top) = (strand.warp, strand.pc, strand.mask, strand.top);
        let alive = self.worker.warps[warp].alive;
        let paths = std::mem::take(&mut strand.paths);
        let mut left = all;
        while left != 0 {
            let who = wanted[left.trailing_zeros() as usize];
            let mask = (0..WARP).filter(|i| left >> i & 1 != 0 && wanted[*i] == who).fold(0, |m, i| m | 1 << i);
            let paths = narrowed(&paths, mask);
            if left == all {
                let strand = &mut self.worker.strands[index];
                (strand.mask, strand.paths, strand.wanted, strand.since) = (mask, paths, who, alive);
            } else {
                self.add_strand(Strand {
                    warp,
                    pc,
                    mask,
                    top,
                    paths,
                    state: State::Sync,
                    wanted: who,
                    since: alive,
                    spins: 0,
                    polled: 0,
                });
            }
            left &= !mask;
        }
    }

    /// Lets the strands of a warp go on that need not wait any longer, and unites those at the same place.
    pub(super) fn settle(&mut self, warp: usize) -> Result<(), Box<Fault>> {
        let mut index = 0;
        while index < self.worker.strands.len() {
            let strand = &self.worker.strands[index];
            if strand.warp == warp && strand.state == State::Sync {
                self.join(warp, strand.wanted)?;
            }
            index += 1;
        }
        let strands = &mut self.worker.strands;
        for i in 0..strands.len() {
            for j in i + 1..strands.len() {
                let (head, tail) = strands.split_at_mut(j);
                let (a, b) = (&mut head[i], &mut tail[0]);
                let ready = |s: &Strand| s.warp == warp && s.state == State::Ready && s.mask != 0;
                let place = |p: &Path| (p.meet, p.pc, p.frame);
                if ready(a)
                    && ready(b)
                    && a.pc == b.pc
                    && a.top == b.top
                    && a.paths.iter().map(place).eq(b.paths.iter().map(place))
                {
                    a.mask |= b.mask;
                    a.paths.iter_mut().zip(&b.paths).for_each(|(a, b)| a.mask |= b.mask);
                    b.state = State::Done;
                    self.worker.warps[warp].strands -= 1;
                }
            }
        }
        Ok(())
    }

    /// Executes the instruction that lanes of a warp wait at, when all of `wanted` have come.
    pub(super) fn join(&mut self, warp: usize, wanted: u32) -> Result<(), Box<Fault>> {
        let strands = &self.worker.strands;
        let waits = |s: &Strand| s.warp == warp && s.state == State::Sync && s.wanted == wanted;
        let members: Vec<usize> = (0..strands.len()).filter(|i| waits(&strands[*i])).collect();
        let mask = members.iter().fold(0, |m, i| m | strands[*i].mask);
        if wanted & self.worker.warps[warp].alive & !mask != 0 {
            return Ok(());
        }
        let first = members[0];
        let op = strands[first].pc;
        let other = members.iter().copied().find(|i| strands[*i].pc != op && !self.alike(op, strands[*i].pc, *i));
        if let Some(other) = other {
            let line = self.line(op);
            self.cx.pc = strands[other].pc;
            let lane = strands[other].mask.trailing_zeros();
            let message = format!(
                "lanes of one warp wait for each other at different instructions: lane {} at line {line}",
                strands[first].mask.trailing_zeros()
            );
            return Err(self.fault(other, FaultKind::Barrier, Some(lane), None, message));
        }
        let since = members.iter().fold(0, |m, i| m | strands[*i].since);
        let gone = since & wanted & !self.worker.warps[warp].alive;
        if gone != 0 && self.info.strict && self.meta(op).aligned {
            self.cx.pc = op;
            let message = format!(
                "this is executed by {} of the {} threads of the warp: the others have exited without coming here",
                mask.count_ones(),
                since.count_ones()
            );
            return Err(self.fault(first, FaultKind::Barrier, Some(mask.trailing_zeros()), None, message));
        }
        self.enter(warp, mask);
        self.cx.joint = true;
        // SAFETY: the instruction belongs to this kernel; the registers are those of the warp.
        let next = unsafe {
            match &mut self.watch {
                None => match &mut self.adverse {
                    None => ((*op).alone)(&mut self.cx, op),
                    Some(adverse) => {
                        adverse.alone = true;
                        adverse.step(&mut self.cx, self.kernel, op)
                    }
                },
                Some(watch) => watch.step(&mut self.cx, self.kernel, op),
            }
        };
        self.cx.joint = false;
        if next.is_null() && self.cx.stop == Stop::Fault {
            return Err(self.trapped(first));
        }
        for index in &members {
            let strand = &mut self.worker.strands[*index];
            strand.pc = strand.pc.wrapping_add(1);
            strand.state = State::Ready;
        }
        if next.is_null() && self.cx.stop == Stop::Cluster {
            self.at_cluster(&members)?;
        } else if next.is_null() {
            self.arrive(first)?;
        }
        Ok(())
    }

    /// Whether lanes at two different instructions wait for the same thing: warp barriers, or unaligned barriers of the same number.
    pub(super) fn alike(&self, a: *const Op, b: *const Op, at_b: usize) -> bool {
        let (x, y) = (self.meta(a), self.meta(b));
        let warp_sync = |m: &crate::ir::Meta| m.access.is_some_and(|access| access.kind == AccessKind::WarpSync);
        if warp_sync(x) && warp_sync(y) {
            return true;
        }
        if x.class != Class::Barrier || y.class != Class::Barrier {
            return false;
        }
        let strand = &self.worker.strands[at_b];
        // SAFETY: both are barriers of this kernel; their numbers are 32 bits wide.
        unsafe {
            let base = |slot: u32| match slot & CONST_BIT {
                0 => self.regs.add(strand.warp * self.kernel.reg_bytes + slot as usize),
                _ => self.cx.base[1].add((slot & !CONST_BIT) as usize),
            };
            let id = |op: *const Op, lane: usize| *base((*op).r[0]).cast::<u32>().add(lane);
            let lane = strand.mask.trailing_zeros() as usize;
            let first = self.worker.strands.iter().find(|s| s.warp == strand.warp && s.pc == a);
            let other = first.map_or(0, |s| s.mask.trailing_zeros() as usize);
            let unaligned = !self.info.strict || !x.aligned && !y.aligned;
            (*a).imm & 255 == (*b).imm & 255 && (*a).imm & 255 < 2 && unaligned && id(a, other) == id(b, lane)
        }
    }
}

/// What is left of a stack of paths for some lanes.
fn narrowed(paths: &[Path], mask: u32) -> Vec<Path> {
    paths.iter().map(|path| Path { mask: path.mask & mask, ..*path }).filter(|path| path.mask != 0).collect()
}
