//! The turn of a block: its strands run one after the other, until all have ended or something stands in the way.

use super::{POISON, Runner, State, Strand};
use crate::error::{Fault, FaultKind};
use crate::ir::*;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Instructions a strand may execute before the others get their turn; fewer once lanes or blocks have waited for each other.
const QUANTUM: i64 = 200_000;
const SHORT_QUANTUM: i64 = 20_000;

/// Instructions between two looks at whether the launch is interrupted: a few milliseconds of checked and counted ones.
const SLICE: i64 = 5_000;

/// Time slices a strand may use up while other lanes of its warp are pending, before they are split off.
const PATIENCE: u32 = 5;

/// How often each strand polls an mbarrier in vain, while nothing else happens in the block, before that is a deadlock.
const POLLS: u64 = 10_000;

/// Instructions between two polls up to which a strand counts as doing nothing else.
const IDLE_STEPS: i64 = 2_000;

/// Instructions a block may execute without an exit or an arrival before another block gets its turn.
const BLOCK_PATIENCE: u64 = 4_000_000;

/// As many times that is a turn of a block that does arrive at barriers: all its threads may be asking for what another block will do.
const LONG_TURN: u64 = 4;

/// Instructions of a block after which it adds them to those of the launch.
const TELL: u64 = 100_000;

/// What sleeping counts for in that.
const NAP: u64 = 1_000;

/// Why a block's turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All its warps have ended.
    Done,
    /// It could go on.
    Ran,
    /// It seems to wait for a block of another cluster.
    Waits,
    /// All it does is to poll mbarriers in vain.
    Polls,
    /// It waits for other blocks of its cluster.
    Stuck,
}

/// Instructions that a block of several in a cluster may execute in adverse mode before the next one has its turn.
const MOST_ALONE: u64 = 2_000;

/// How a strand has stopped, after how many instructions, and whether turns were short.
#[derive(Clone, Copy)]
struct Turn {
    stop: Stop,
    used: i64,
    hasty: bool,
}

impl Runner<'_> {
    /// Runs the block to its end, or until it seems to wait for another block.
    pub(crate) fn advance(&mut self) -> Result<Progress, Box<Fault>> {
        let outcome = self.turn();
        self.tell();
        if !self.cx.printed.is_empty() {
            let text = std::mem::take(&mut self.cx.printed);
            self.info.printed.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, text));
        }
        outcome
    }

    /// Adds what the block has executed to what the launch has.
    pub(super) fn tell(&mut self) {
        self.info.spent.fetch_add(self.spent - self.told, Ordering::Relaxed);
        self.told = self.spent;
    }

    pub(super) fn turn(&mut self) -> Result<Progress, Box<Fault>> {
        // Instructions since anything happened but waiting.
        let mut waited = 0u64;
        let begun = self.spent;
        // Somebody could have run and has let the others go first; when nobody has run, all do.
        let (mut ran, mut yielded) = (true, false);
        let (among, before) = (self.info.blocks > 1, self.period);
        let adverse = self.adverse.as_mut().filter(|_| among);
        let alone = adverse.map_or(u64::MAX, |adverse| adverse.below(MOST_ALONE));
        while self.left > 0 {
            if self.away > 0 {
                self.wake();
            }
            let everybody = !ran && yielded;
            (ran, yielded) = (false, false);
            let mut index = 0;
            while index < self.worker.strands.len() {
                if self.worker.strands[index].state != State::Ready {
                    index += 1;
                    continue;
                }
                if let Some(adverse) = &mut self.adverse
                    && !adverse.takes_turn(self.worker.strands[index].warp, everybody)
                {
                    (yielded, index) = (true, index + 1);
                    continue;
                }
                ran = true;
                let Some(turn) = self.strand_turn(index)? else { return Ok(Progress::Done) };
                waited = self.stopped(index, turn)?.map_or(0, |more| waited + more);
                index += 1;
            }
            if !ran && !yielded {
                return match self.away {
                    _ if self.left == 0 => continue,
                    0 => Err(self.deadlock()),
                    _ if !among => Err(self.stuck()),
                    _ => Ok(if self.period == before { Progress::Stuck } else { Progress::Ran }),
                };
            }
            if among {
                if self.worker.strands.iter().all(|strand| strand.idles(self.period)) {
                    return Ok(if self.period == before { Progress::Polls } else { Progress::Ran });
                }
                if self.spent - begun > alone {
                    return Ok(Progress::Ran);
                }
            }
            let hasty = self.info.hasty.load(Ordering::Relaxed);
            let patience = if hasty || among { SHORT_QUANTUM as u64 } else { BLOCK_PATIENCE };
            if waited > patience || self.spent - begun > LONG_TURN * patience {
                return Ok(Progress::Waits);
            }
        }
        if let Some(adverse) = &mut self.adverse {
            adverse.finish(&mut self.cx, &self.info.late);
            if among {
                // SAFETY: this is the block's shared memory, in which nobody has any business any more.
                unsafe { std::ptr::write_bytes(self.cx.shared, POISON, self.cx.shared_len as usize) };
            }
        }
        Ok(Progress::Done)
    }

    /// A strand runs until it stops; none when a block before this one has failed.
    fn strand_turn(&mut self, index: usize) -> Result<Option<Turn>, Box<Fault>> {
        if let Some((kind, message)) = self.info.ended() {
            self.cut = true;
            self.cx.pc = self.worker.strands[index].pc;
            let message = match kind {
                FaultKind::Interrupted => "the device was interrupted while the warp was here".to_owned(),
                _ => message + "; the warp was here",
            };
            return Err(self.fault(index, kind, None, None, message));
        }
        let hasty = self.info.hasty.load(Ordering::Relaxed);
        let quantum = if hasty { SHORT_QUANTUM } else { QUANTUM };
        let stop = self.resume(index, quantum);
        let used = quantum - self.cx.fuel;
        self.spent += used.max(1) as u64;
        if self.spent - self.told > TELL {
            self.tell();
        }
        if stop != Stop::Exit && stop != Stop::Fault {
            if self.spent > self.info.budget {
                let message = format!("the block has executed more than {} instructions", self.info.budget);
                return Err(self.fault(index, FaultKind::Budget, None, None, message));
            }
            if self.info.failed.load(Ordering::Relaxed) < self.place {
                return Ok(None);
            }
        }
        Ok(Some(Turn { stop, used, hasty }))
    }

    /// What follows from why a strand has stopped. Gives how long it has waited; none when it has done more than that.
    fn stopped(&mut self, index: usize, turn: Turn) -> Result<Option<u64>, Box<Fault>> {
        let Turn { stop, used, .. } = turn;
        let idles = stop == Stop::Yield || stop == Stop::Poll && used <= IDLE_STEPS;
        if !idles || self.cx.changes != self.changes {
            (self.period, self.polls, self.changes) = (self.period + 1, 0, self.cx.changes);
        }
        let warp = self.worker.strands[index].warp;
        let waited = match stop {
            Stop::Exit => {
                self.exited(index, warp)?;
                None
            }
            Stop::Quantum | Stop::Yield | Stop::Poll => {
                self.spun(index, warp, turn)?;
                Some(used.max(1) as u64 + if stop == Stop::Quantum { 0 } else { NAP })
            }
            Stop::Barrier => {
                self.arrive(index)?;
                None
            }
            Stop::Sync => {
                self.detach(index);
                self.group(index);
                self.settle(warp)?;
                None
            }
            Stop::Cluster => {
                self.at_cluster(&[index])?;
                None
            }
            Stop::Fault => return Err(self.trapped(index)),
        };
        if self.worker.warps[warp].strands > 1 {
            self.settle(warp)?;
        }
        Ok(waited)
    }

    fn exited(&mut self, index: usize, warp: usize) -> Result<(), Box<Fault>> {
        if let Some(adverse) = &mut self.adverse {
            adverse.meet(warp);
        }
        self.worker.strands[index].state = State::Done;
        self.worker.warps[warp].strands -= 1;
        if self.worker.warps[warp].strands > 0 {
            return self.settle(warp);
        }
        self.left -= 1;
        (0..16).for_each(|id| self.release(id));
        if self.left == 0
            && self.info.blocks > 1
            && let Some(message) = self.watch.as_mut().and_then(|watch| watch.over(self.rank))
        {
            return Err(self.fault(index, FaultKind::Race, None, None, message));
        }
        Ok(())
    }

    /// A strand could go on and lets others run. One that does so again and again goes on by itself.
    fn spun(&mut self, index: usize, warp: usize, Turn { stop, hasty, .. }: Turn) -> Result<(), Box<Fault>> {
        let strand = &mut self.worker.strands[index];
        strand.spins += 1;
        if stop == Stop::Poll {
            strand.polled = self.period;
            self.polls += 1;
            let alone = self.info.blocks == 1;
            let all = |s: &Strand| s.idles(self.period);
            if alone && self.polls > POLLS * self.left as u64 && self.worker.strands.iter().all(all) {
                return Err(self.starved(index));
            }
        }
        if let Some(adverse) = &mut self.adverse {
            adverse.rest(warp);
            if adverse.parts() {
                self.detach(index);
            }
        } else {
            let patience = if hasty || stop != Stop::Quantum { 1 } else { PATIENCE };
            if self.worker.strands[index].spins >= patience && self.detach(index) && stop == Stop::Quantum {
                self.info.hasty.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Makes a warp the one the handlers work on.
    pub(super) fn enter(&mut self, warp: usize, mask: u32) {
        let cx = &mut self.cx;
        cx.base[0] = self.regs.wrapping_add(warp * self.kernel.reg_bytes);
        // SAFETY: there are `preds` predicates for each warp.
        cx.preds = unsafe { self.worker.preds.as_mut_ptr().add(warp * self.kernel.preds) };
        cx.local = self.local.wrapping_add(warp * self.local_bytes * WARP);
        if self.adverse.is_some() {
            // Warps take turns where they would not stop otherwise.
            cx.stage = self.worker.stage.at().wrapping_add(warp * self.kernel.stage_bytes);
        }
        cx.mask = mask;
        cx.alive = self.worker.warps[warp].alive;
        cx.began = self.worker.warps[warp].began;
        cx.warp = warp as u32;
        cx.seat = (self.seat + warp) as u32;
    }

    /// Lets a strand run until it stops.
    pub(super) fn resume(&mut self, index: usize, quantum: i64) -> Stop {
        let kernel = self.kernel;
        let strand = &mut self.worker.strands[index];
        let (warp, mask, mut op) = (strand.warp, strand.mask, strand.pc);
        self.cx.top = strand.top;
        std::mem::swap(&mut self.cx.paths, &mut strand.paths);
        self.enter(warp, mask);
        let alone = self.worker.warps[warp].split || self.info.tensor_core.is_some();
        if let Some(adverse) = &mut self.adverse {
            adverse.alone = alone;
            self.adverse_turn(op, quantum);
            return self.leave(index);
        }
        let cx = &mut self.cx;
        let mut left = quantum;
        loop {
            let slice = left.min(SLICE);
            cx.fuel = slice;
            match &mut self.watch {
                None if alone => {
                    while !op.is_null() {
                        // SAFETY: `op` points into this kernel's code, decoded for the registers set up above.
                        op = unsafe { ((*op).alone)(cx, op) };
                    }
                }
                None => {
                    while !op.is_null() {
                        // SAFETY: as above.
                        op = unsafe { ((*op).run)(cx, op) };
                    }
                }
                Some(watch) => {
                    while !op.is_null() {
                        // SAFETY: as above.
                        op = unsafe { watch.step(cx, kernel, op) };
                    }
                }
            }
            left -= slice - cx.fuel;
            if cx.stop != Stop::Quantum || left < 0 || self.info.ended().is_some() {
                break;
            }
            op = cx.pc;
        }
        cx.fuel = left;
        self.leave(index)
    }

    /// A few instructions.
    pub(super) fn adverse_turn(&mut self, mut op: *const Op, quantum: i64) {
        let Some(adverse) = &mut self.adverse else { return };
        let (cx, kernel) = (&mut self.cx, self.kernel);
        let turn = adverse.turn();
        let mut done = 0;
        // Time slices do not end inside a turn.
        cx.fuel = i64::MAX / 2;
        while !op.is_null() && done < turn {
            // SAFETY: `op` points into this kernel's code, decoded for the registers set up.
            let (next, steps) = unsafe {
                match &mut self.watch {
                    None => adverse.steps(cx, kernel, op, turn - done),
                    Some(watch) => (watch.step(cx, kernel, op), 1),
                }
            };
            (op, done) = (next, done + steps);
        }
        if !op.is_null() {
            cx.pause(Stop::Quantum, op);
        }
        cx.fuel = quantum - done as i64;
    }

    /// Takes over where a strand has stopped.
    pub(super) fn leave(&mut self, index: usize) -> Stop {
        let cx = &mut self.cx;
        let strand = &mut self.worker.strands[index];
        let warp = strand.warp;
        std::mem::swap(&mut cx.paths, &mut strand.paths);
        (strand.mask, strand.pc, strand.top) = (cx.mask, cx.pc, cx.top);
        if !matches!(cx.stop, Stop::Quantum | Stop::Yield | Stop::Poll) {
            strand.spins = 0;
        }
        let (stop, alive) = (cx.stop, cx.alive);
        let before = std::mem::replace(&mut self.worker.warps[warp].alive, alive);
        if before != alive {
            self.fewer(warp, before & !alive, alive);
        }
        stop
    }
}
