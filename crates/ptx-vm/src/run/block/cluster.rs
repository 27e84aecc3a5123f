//! The block's part in the barrier of its cluster.

use super::{Runner, State};
use crate::error::{Fault, FaultKind};
use crate::step::cluster::ClusterBarrier;

impl Runner<'_> {
    /// Strands of a warp have come to the barrier of the cluster, all to the same instruction: that before where they go on.
    pub(super) fn at_cluster(&mut self, strands: &[usize]) -> Result<(), Box<Fault>> {
        let first = &self.worker.strands[strands[0]];
        let (seat, op) = (self.seat + first.warp, first.pc.wrapping_sub(1));
        let lanes = strands.iter().fold(0, |lanes, strand| lanes | self.worker.strands[*strand].mask);
        // SAFETY: the strands stand behind an instruction of this kernel.
        let imm = unsafe { (*op).imm };
        let waits = imm & ClusterBarrier::WAIT != 0;
        let outcome = match waits {
            true => self.meeting.borrow_mut().wait(seat, lanes),
            false => self.meeting.borrow_mut().arrive(seat, lanes),
        };
        let done = match outcome {
            Ok(done) => done,
            Err(wrong) => {
                self.cx.pc = op;
                let message = match waits {
                    true => "this thread waits at the barrier of the cluster without having arrived at it",
                    false => "this thread arrives at the barrier of the cluster again without having waited at it",
                };
                let (lane, kind) = (wrong.trailing_zeros(), FaultKind::Barrier);
                return Err(self.fault(strands[0], kind, Some(lane), None, message.to_owned()));
            }
        };
        self.period += 1;
        match (waits, done) {
            (true, true) => self.passes(seat, lanes, imm),
            (true, false) => {
                for strand in strands {
                    // Lanes on other paths may be those that have yet to arrive.
                    self.detach(*strand);
                    self.worker.strands[*strand].state = State::Cluster;
                }
                self.away += strands.len();
            }
            (false, opens) => {
                if let Some(watch) = &mut self.watch {
                    watch.cluster_arrive(seat, lanes, imm & ClusterBarrier::RELAXED == 0);
                }
                if opens {
                    self.opened();
                }
            }
        }
        Ok(())
    }

    fn passes(&mut self, seat: usize, lanes: u32, imm: i64) {
        if let Some(watch) = &mut self.watch {
            watch.cluster_wait(seat, lanes, imm & ClusterBarrier::RELAXED == 0);
        }
    }

    /// All threads of the cluster have arrived.
    fn opened(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.cluster_open();
        }
    }

    /// Lanes of a warp have exited.
    pub(super) fn fewer(&mut self, warp: usize, exited: u32, alive: u32) {
        if self.info.blocks > 1
            && let Some(watch) = &mut self.watch
        {
            watch.exit(self.rank, self.seat + warp, exited);
        }
        if self.meeting.borrow_mut().left(self.seat + warp, alive) {
            self.opened();
        }
    }

    /// Strands go on that need not wait at the barrier of the cluster any longer.
    pub(super) fn wake(&mut self) {
        for index in 0..self.worker.strands.len() {
            let strand = &self.worker.strands[index];
            if strand.state != State::Cluster {
                continue;
            }
            let (seat, lanes, op) = (self.seat + strand.warp, strand.mask, strand.pc.wrapping_sub(1));
            let passes = self.meeting.borrow_mut().wait(seat, lanes) == Ok(true);
            if passes {
                self.worker.strands[index].state = State::Ready;
                (self.away, self.period) = (self.away - 1, self.period + 1);
                // SAFETY: as above.
                self.passes(seat, lanes, unsafe { (*op).imm });
            }
        }
    }

    /// Nobody in the cluster can go on.
    #[cold]
    pub(crate) fn stuck(&mut self) -> Box<Fault> {
        let is = |state| self.worker.strands.iter().position(|s| s.state == state);
        // Whoever polls has most to tell.
        if let Some(strand) = is(State::Ready) {
            return self.starved(strand);
        }
        let index = is(State::Cluster).unwrap_or(0);
        let missing = self.meeting.borrow().missing();
        let strand = &self.worker.strands[index];
        let lane = strand.mask.trailing_zeros();
        self.cx.pc = strand.pc.wrapping_sub(1);
        let message = format!(
            "deadlock: the barrier of the cluster waits for {missing} threads that do not come, and all blocks of the cluster wait for each other"
        );
        self.fault(index, FaultKind::Barrier, Some(lane), None, message)
    }
}
