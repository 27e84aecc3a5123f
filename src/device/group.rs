//! Ranks: places of devices that work on one video together, a thread each, and where they meet to exchange something. A rank that fails ends the waiting
//! of all others with an error that names it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::{Result, lock};
use super::error::DeviceError;

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

    /// Does this rank's `work` on the device `label`. If it fails or panics, the others hear of it, as by [`Rank::fail`].
    ///
    /// # Errors
    /// Those of `work`.
    pub fn during<T, E: fmt::Display>(&self, label: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        /// Speaks for a thread that panics.
        struct Ending<'a>(Option<&'a Rank>);
        impl Drop for Ending<'_> {
            fn drop(&mut self) {
                if let Some(rank) = self.0 {
                    rank.fail("it panicked");
                }
            }
        }
        let mut ending = Ending(Some(self));
        let done = work();
        ending.0 = None;
        if let Err(error) = &done {
            self.fail(format!("{error} (on {label})"));
        }
        done
    }

    /// Begins anew after a run: no failure, no exchange under way. No rank may be in an exchange.
    pub fn reset(&self) {
        let mut state = lock(&self.meeting.state);
        *state = State { parts: vec![None; self.meeting.ranks], ..State::default() };
    }

    /// Gives `own`, and returns the parts of all ranks once all are there. `going` may end the waiting.
    pub(super) fn exchange(&self, own: Arc<[u8]>, going: &dyn Fn() -> Result<()>) -> Result<Vec<Arc<[u8]>>> {
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
