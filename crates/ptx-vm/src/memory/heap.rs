//! The heap of device-side `malloc` and `free`.

use super::{Allocation, Table};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Allocations kernels have made. Accesses search it last, so it costs nothing where it is not used.
pub(crate) struct Heap {
    live: RwLock<Table>,
    /// Freed while kernels run: another thread may be in the middle of an access, so the memory stays until all launches are over.
    freed: Mutex<Vec<Arc<Allocation>>>,
    launches: AtomicUsize,
    bytes: AtomicUsize,
    limit: usize,
    shadow: bool,
}

/// A launch that may use the heap.
pub(crate) struct InUse<'a>(&'a Heap);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut freed = self.0.freed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.launches.fetch_sub(1, Ordering::AcqRel) == 1 {
            freed.clear();
        }
    }
}

impl Heap {
    pub(crate) fn new(limit: usize, shadow: bool) -> Heap {
        Heap {
            live: RwLock::default(),
            freed: Mutex::default(),
            launches: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limit,
            shadow,
        }
    }

    pub(crate) fn enter(&self) -> InUse<'_> {
        let _freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        self.launches.fetch_add(1, Ordering::AcqRel);
        InUse(self)
    }

    /// Null when there is no room.
    pub(crate) fn malloc(&self, bytes: u64) -> u64 {
        let Ok(bytes) = usize::try_from(bytes) else { return 0 };
        let room = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        if self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return 0;
        }
        let Some(allocation) = Allocation::new(bytes, false, self.shadow, "malloc") else {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return 0;
        };
        let base = allocation.base;
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(allocation);
        base
    }

    /// False when `ptr` is not what `malloc` gave, or was freed before.
    pub(crate) fn free(&self, ptr: u64) -> bool {
        let gone = self.live.write().unwrap_or_else(PoisonError::into_inner).remove(ptr);
        match gone {
            Ok(allocation) => {
                self.bytes.fetch_sub(allocation.len, Ordering::AcqRel);
                self.freed.lock().unwrap_or_else(PoisonError::into_inner).push(allocation);
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn find(&self, address: u64) -> Option<Arc<Allocation>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).find(address).cloned()
    }

    pub(crate) fn live(&self) -> Vec<(u64, usize)> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).iter().map(|a| (a.base, a.len)).collect()
    }
}
