//! Barriers of the block.

use super::{BarrierState, Runner, State, Warp};
use crate::error::{Fault, FaultKind};
use crate::ir::*;

impl Runner<'_> {
    /// Notes that the warp of a strand has arrived at the barrier of `cx.arrival`.
    pub(super) fn arrive(&mut self, strand: usize) -> Result<(), Box<Fault>> {
        let arrival = self.cx.arrival;
        let warp = self.worker.strands[strand].warp;
        if let Some(message) = self.disagrees(arrival, self.barriers[arrival.id as usize]) {
            self.cx.pc = self.cx.pc.wrapping_sub(1);
            let lane = self.cx.mask.trailing_zeros();
            return Err(self.fault(strand, FaultKind::Barrier, Some(lane), None, message));
        }
        self.worker.warps[warp].arrival = arrival;
        if arrival.waits {
            for strand in self.worker.strands.iter_mut().filter(|s| s.warp == warp && s.state == State::Ready) {
                strand.state = State::Waiting;
            }
        } else if let Some(watch) = &mut self.watch {
            watch.arrive(self.rank, arrival.id as usize, self.seat + warp);
        }
        let barrier = &mut self.barriers[arrival.id as usize];
        barrier.warps += 1;
        barrier.threads += WARP as u32;
        if arrival.threads != 0 {
            barrier.wanted = arrival.threads;
        }
        self.release(arrival.id);
        Ok(())
    }

    /// Opens a barrier when all it waits for have arrived.
    pub(super) fn release(&mut self, id: u32) {
        let b = self.barriers[id as usize];
        if b.warps == 0 {
            return;
        }
        let done = (self.warps - self.left) as u32;
        let enough = if b.wanted != 0 { b.threads >= b.wanted } else { b.warps + done >= self.warps as u32 };
        if !enough {
            return;
        }
        let mut waiting = 0u32;
        for strand in &mut self.worker.strands {
            if strand.state == State::Waiting && self.worker.warps[strand.warp].arrival.id == id {
                strand.state = State::Ready;
                waiting |= 1 << strand.warp;
            }
        }
        let warps = || (0..self.warps).filter(|w| waiting >> w & 1 != 0);
        if let Some(watch) = &mut self.watch {
            let all = self.info.blocks == 1;
            let all = all && (0..self.warps).all(|w| waiting >> w & 1 != 0 || self.worker.warps[w].strands == 0);
            let seats: Vec<usize> = warps().map(|warp| self.seat + warp).collect();
            watch.release(self.rank, id as usize, &seats, all);
        }
        let mut value: Option<(Reduce, u32)> = None;
        for (how, lanes) in warps().filter_map(|w| self.worker.warps[w].arrival.reduce) {
            let (_, so_far) = value.unwrap_or((how, u32::from(how == Reduce::And)));
            let next = match how {
                Reduce::Popc => so_far + lanes.count_ones(),
                Reduce::And => so_far & u32::from(lanes == FULL),
                Reduce::Or => so_far | u32::from(lanes != 0),
            };
            value = Some((how, next));
        }
        if let Some((how, value)) = value {
            for warp in warps() {
                let Warp { alive, arrival, .. } = self.worker.warps[warp];
                if arrival.reduce.is_none() {
                    continue;
                }
                self.enter(warp, alive);
                // SAFETY: predicates and slot belong to this warp.
                unsafe {
                    if how == Reduce::Popc {
                        self.cx.put(arrival.result, &[value; WARP]);
                    } else {
                        self.cx.set_pred(arrival.result, if value != 0 { FULL } else { 0 });
                    }
                }
            }
        }
        self.barriers[id as usize] = BarrierState::default();
    }

    /// What is wrong with the thread count of an arrival.
    pub(super) fn disagrees(&self, arrival: Arrival, barrier: BarrierState) -> Option<String> {
        let Arrival { id, threads, .. } = arrival;
        if !threads.is_multiple_of(WARP as u32) {
            return Some(format!("barrier {id} of {threads} threads: the count must be a multiple of 32"));
        }
        let all = (self.warps * WARP) as u32;
        let count = |n: u32| if n == 0 { all } else { n };
        (barrier.warps > 0 && count(threads) != count(barrier.wanted)).then(|| {
            let (mine, theirs) = (count(threads), count(barrier.wanted));
            format!("barrier {id} is reached with a count of {mine} threads, while others wait at it for {theirs}")
        })
    }
}
