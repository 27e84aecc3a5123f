//! Ranks: devices that work on one video together, a thread each, and what they exchange.
//!
//! The content goes through host memory, so that any two devices can exchange it. An exchange is ordered like every other work of a device, and can be
//! recorded. A rank that fails ends the waiting of all others with an error that names it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::{Result, lock};
use super::core::{Device, Memory};
use super::error::DeviceError;
use super::recording::Command;

/// How often a waiting rank looks whether its device was interrupted.
const LOOK: Duration = Duration::from_millis(20);

/// A place in a group. All ranks must ask for the same exchanges in the same order.
#[derive(Clone)]
pub struct Rank {
    index: usize,
    meeting: Arc<Meeting>,
    /// Bytes that this rank gave to others.
    sent: Arc<AtomicU64>,
}

/// Where the ranks of a group meet.
struct Meeting {
    ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The parts of this exchange, by rank.
    parts: Vec<Option<Arc<[u8]>>>,
    /// Ranks that have taken all parts.
    taken: usize,
    /// The first rank that failed, and why.
    failed: Option<(usize, String)>,
}

impl Rank {
    /// A group of `ranks`.
    pub fn group(ranks: usize) -> Vec<Rank> {
        let state = State { parts: vec![None; ranks], ..State::default() };
        let meeting = Arc::new(Meeting { ranks, state: Mutex::new(state), changed: Condvar::new() });
        (0..ranks).map(|index| Rank { index, meeting: meeting.clone(), sent: Arc::default() }).collect()
    }

    /// This rank's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.meeting.ranks
    }

    /// Bytes that this rank gave to others so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Tells the others that this rank takes part no more: their exchanges fail with [`DeviceError::Rank`], which has this `reason`. The first
    /// failure of a group counts.
    pub fn fail(&self, reason: impl Into<String>) {
        let mut state = lock(&self.meeting.state);
        state.failed.get_or_insert_with(|| (self.index, reason.into()));
        self.meeting.changed.notify_all();
    }

    /// Begins anew after a run: no failure, no exchange under way. No rank may be in an exchange.
    pub fn reset(&self) {
        let mut state = lock(&self.meeting.state);
        *state = State { parts: vec![None; self.meeting.ranks], ..State::default() };
    }

    /// Gives `own`, and returns the parts of all ranks once all are there. `going` may end the waiting.
    fn exchange(&self, own: Arc<[u8]>, going: &dyn Fn() -> Result<()>) -> Result<Vec<Arc<[u8]>>> {
        let meeting = &*self.meeting;
        // Until all have taken the parts of the exchange before.
        let mut state = meeting.wait(lock(&meeting.state), going, |state| state.parts[self.index].is_none())?;
        self.sent.fetch_add((own.len() * (meeting.ranks - 1)) as u64, Ordering::Relaxed);
        state.parts[self.index] = Some(own);
        meeting.changed.notify_all();
        state = meeting.wait(state, going, |state| state.parts.iter().all(Option::is_some))?;
        let parts = state.parts.iter().flatten().cloned().collect();
        state.taken += 1;
        if state.taken == meeting.ranks {
            state.parts.fill(None);
            state.taken = 0;
            meeting.changed.notify_all();
        }
        Ok(parts)
    }
}

impl Meeting {
    /// Waits for `until`, or for a failure.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        going: &dyn Fn() -> Result<()>,
        until: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        loop {
            going()?;
            if let Some((rank, reason)) = &state.failed {
                return Err(DeviceError::Rank { rank: *rank, reason: reason.clone() });
            }
            if until(&state) {
                return Ok(state);
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Rank) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.meeting, &other.meeting)
    }
}

impl fmt::Debug for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rank({} of {})", self.index, self.ranks())
    }
}

impl Device {
    /// Every rank has written its part of `memory[offset..]`, the parts of `bytes` side by side in order of the ranks; afterwards each has all.
    ///
    /// # Errors
    /// [`DeviceError::Rank`] if another rank failed; a part of another length than its own; as [`Device::download`] and [`Device::upload`].
    pub fn all_gather(&self, rank: &Rank, memory: &Memory, offset: usize, bytes: usize) -> Result<()> {
        let at = self.address(memory, offset, bytes * rank.ranks())?;
        if bytes == 0 || self.recorded(|| Command::Gather { at, bytes, rank: rank.clone() }) {
            return Ok(());
        }
        self.gather(rank, at, bytes)
    }

    /// An exchange, now.
    pub(super) fn gather(&self, rank: &Rank, at: u64, bytes: usize) -> Result<()> {
        self.going()?;
        let all = bytes * rank.ranks();
        self.observed("exchange", all, all - bytes, || {
            let backend = &*self.0.backend;
            let mut own = vec![0; bytes];
            backend.download(at + (rank.index * bytes) as u64, &mut own)?;
            for (i, part) in rank.exchange(own.into(), &|| self.going())?.iter().enumerate() {
                if part.len() != bytes {
                    let reason = format!("it gave {} bytes where rank {} gave {bytes}", part.len(), rank.index);
                    return Err(DeviceError::Rank { rank: i, reason });
                }
                if i != rank.index {
                    backend.upload(at + (i * bytes) as u64, part)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::VmConfig;

    /// Runs `body` on every rank, each with a device and a memory of a byte for each rank.
    fn each(ranks: usize, body: impl Fn(Rank, Device, Memory) -> Result<Vec<u8>> + Sync) -> Vec<Result<Vec<u8>>> {
        let run = |rank: Rank| {
            let device = Device::vm(VmConfig::default());
            let memory = device.alloc(ranks).unwrap();
            body(rank, device, memory)
        };
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = Rank::group(ranks).into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_every_part() {
        for ranks in [1, 2, 3, 8] {
            let all = each(ranks, |rank, device, memory| {
                let mut sums = vec![0; ranks];
                for round in 0..20u8 {
                    let own = round * 10 + rank.index() as u8;
                    device.upload(&memory, rank.index(), &[own])?;
                    device.all_gather(&rank, &memory, 0, 1)?;
                    let mut now = vec![0; ranks];
                    device.download(&memory, 0, &mut now)?;
                    let expected: Vec<u8> = (0..ranks as u8).map(|i| round * 10 + i).collect();
                    assert_eq!(now, expected, "round {round} of rank {}", rank.index());
                    sums = now;
                }
                assert_eq!(rank.sent_bytes(), 20 * (ranks as u64 - 1));
                Ok(sums)
            });
            assert!(all.iter().all(|result| result.as_ref().unwrap() == all[0].as_ref().unwrap()));
        }
    }

    #[test]
    fn an_exchange_is_recorded_between_other_work() {
        let all = each(2, |rank, device, memory| {
            let (mine, other) = (rank.index(), 1 - rank.index());
            let graphs = device.record_graphs::<DeviceError>(|| {
                device.fill(&memory, mine..mine + 1, 40 + mine as u8)?;
                device.all_gather(&rank, &memory, 0, 1)?;
                // Seen only if the exchange came between.
                device.copy(&memory, mine, &memory, other, 1)
            })?;
            assert_eq!((graphs.len(), graphs[0].len()), (1, 3));
            let mut now = vec![0; 2];
            for _ in 0..3 {
                graphs[0].replay()?;
                device.download(&memory, 0, &mut now)?;
            }
            Ok(now)
        });
        assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [vec![41, 41], vec![40, 40]]);
    }

    #[test]
    fn a_failed_rank_ends_the_others() {
        let all = each(3, |rank, device, memory| {
            if rank.index() == 1 {
                rank.fail("out of luck");
                return Ok(vec![]);
            }
            device.all_gather(&rank, &memory, 0, 1)?;
            Ok(vec![])
        });
        for i in [0, 2] {
            assert_eq!(all[i].as_ref().unwrap_err().to_string(), "rank 1 failed: out of luck");
        }
    }

    #[test]
    fn an_interrupted_rank_waits_no_longer() {
        let all = each(2, |rank, device, memory| {
            if rank.index() == 1 {
                return Ok(vec![]); // never comes
            }
            let interrupter = device.interrupter();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                interrupter.interrupt();
            });
            device.all_gather(&rank, &memory, 0, 1)?;
            Ok(vec![])
        });
        assert!(all[0].as_ref().unwrap_err().is_stop());
    }

    #[test]
    fn parts_of_different_lengths_are_refused() {
        let all = each(2, |rank, device, _| {
            let memory = device.alloc(8)?;
            device.all_gather(&rank, &memory, 0, 1 + rank.index())?;
            Ok(vec![])
        });
        assert!(
            all[0].as_ref().unwrap_err().to_string().contains("rank 1 failed: it gave 2 bytes where rank 0 gave 1")
        );
    }
}
