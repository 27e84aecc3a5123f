//! An observer that counts launches and their work without measuring time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::{Event, Launch, LaunchObserver, LaunchStats, Work};

/// Launches of one kernel with one amount of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TallyEntry {
    /// The kernel's entry, or the memory operation.
    pub kernel: String,
    /// The work of one launch.
    pub work: Work,
    /// The number of launches.
    pub launches: u64,
}

/// Counts launches; pass it to [`Device::observe`](crate::device::Device::observe).
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<(String, u64, u64, u64), u64>>);

impl Tally {
    /// An empty tally.
    pub fn new() -> Arc<Tally> {
        Arc::default()
    }

    /// The launches counted since the last call.
    pub fn take(&self) -> Vec<TallyEntry> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let entry = |((kernel, flops, bytes_read, bytes_written), launches)| TallyEntry {
            kernel,
            work: Work { flops, bytes_read, bytes_written },
            launches,
        };
        counts.into_iter().map(entry).collect()
    }
}

impl LaunchObserver for Tally {
    fn launched(&self, launch: &Launch<'_>, _start: Event, _end: Event, _stats: Option<LaunchStats>) {
        let Work { flops, bytes_read, bytes_written } = launch.work;
        let key = (launch.kernel.to_owned(), flops, bytes_read, bytes_written);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }
}
