//! Counters: what a profiler would count, gathered from the instructions' descriptions before they run.

use crate::check::addresses;
use crate::exec::op::{Cx, Op, WARP};
use crate::ir::{AccessKind, Class, Meta};
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use serde::Serialize;
use std::collections::BTreeMap;

/// Totals of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Instructions executed by warps.
    pub warp_instructions: u64,
    /// The same, counted for every active lane.
    pub thread_instructions: u64,
    /// Warp instructions by class.
    pub by_class: BTreeMap<Class, u64>,
    /// Floating-point operations of ordinary instructions (a fused multiply-add is two).
    pub flops: u64,
    /// Floating-point operations of `mma`.
    pub tensor_flops: u64,
    /// Bytes the lanes loaded from global memory.
    pub global_load_bytes: u64,
    /// Bytes the lanes stored to global memory.
    pub global_store_bytes: u64,
    /// Bytes loaded from shared memory.
    pub shared_load_bytes: u64,
    /// Bytes stored to shared memory.
    pub shared_store_bytes: u64,
    /// Bytes loaded from and stored to local memory.
    pub local_bytes: u64,
    /// Warp instructions that went to global memory.
    pub global_requests: u64,
    /// Distinct 32-byte sectors those touched.
    pub global_sectors: u64,
    /// Warp instructions that went to shared memory.
    pub shared_requests: u64,
    /// Passes those took: 1 for each request without bank conflicts and up to 128 bytes.
    pub shared_passes: u64,
    /// Atomic operations of lanes.
    pub atomics: u64,
    /// Warp arrivals at block barriers.
    pub barriers: u64,
}

impl Counters {
    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &Counters) {
        for (class, n) in &other.by_class {
            *self.by_class.entry(*class).or_default() += n;
        }
        for (a, b) in [
            (&mut self.warp_instructions, other.warp_instructions),
            (&mut self.thread_instructions, other.thread_instructions),
            (&mut self.flops, other.flops),
            (&mut self.tensor_flops, other.tensor_flops),
            (&mut self.global_load_bytes, other.global_load_bytes),
            (&mut self.global_store_bytes, other.global_store_bytes),
            (&mut self.shared_load_bytes, other.shared_load_bytes),
            (&mut self.shared_store_bytes, other.shared_store_bytes),
            (&mut self.local_bytes, other.local_bytes),
            (&mut self.global_requests, other.global_requests),
            (&mut self.global_sectors, other.global_sectors),
            (&mut self.shared_requests, other.shared_requests),
            (&mut self.shared_passes, other.shared_passes),
            (&mut self.atomics, other.atomics),
            (&mut self.barriers, other.barriers),
        ] {
            *a += b;
        }
    }

    /// Counts one instruction that is about to run.
    ///
    /// # Safety
    /// `meta` describes `op`, and both belong to the kernel `cx` runs.
    pub(crate) unsafe fn count(&mut self, cx: &Cx, meta: &Meta, op: *const Op) {
        let lanes = u64::from(cx.mask.count_ones());
        self.warp_instructions += 1;
        self.thread_instructions += lanes;
        *self.by_class.entry(meta.class).or_default() += 1;
        if meta.class == Class::Tensor {
            self.tensor_flops += u64::from(meta.flops);
        } else {
            self.flops += u64::from(meta.flops) * lanes;
        }
        self.barriers += u64::from(meta.class == Class::Barrier);
        let Some(access) = &meta.access else { return };
        let bytes = u64::from(access.bytes);
        match access.kind {
            AccessKind::Commit | AccessKind::Wait(_) | AccessKind::WarpSync => {}
            AccessKind::Rows(rows) | AccessKind::RowsStore(rows) => {
                // SAFETY: forwarded.
                let addr = unsafe { addresses(cx, access) };
                // Eight rows of 16 bytes are one pass without conflicts.
                self.shared_requests += 1;
                for matrix in addr[..rows as usize].chunks(8) {
                    self.shared_passes += passes(matrix, 16);
                }
                let total = u64::from(rows) * 16;
                if matches!(access.kind, AccessKind::Rows(_)) {
                    self.shared_load_bytes += total;
                } else {
                    self.shared_store_bytes += total;
                }
            }
            AccessKind::CopyAsync => {
                // SAFETY: the second listed operand holds the global addresses, the first inline one their offset.
                let (to, from, offset) = unsafe { (addresses(cx, access), cx.get::<u64>(cx.list(op, 1)), (*op).r[0]) };
                let offset = i64::from(offset as i32) as u64;
                self.shared(&active(cx, &to), bytes, true);
                let from: Vec<u64> = active(cx, &from).iter().map(|a| a.wrapping_add(offset)).collect();
                self.global(&from, bytes, false);
            }
            AccessKind::Load | AccessKind::Store | AccessKind::Atomic => {
                // SAFETY: forwarded.
                let addr = active(cx, &unsafe { addresses(cx, access) });
                let store = access.kind == AccessKind::Store;
                if access.kind == AccessKind::Atomic {
                    self.atomics += lanes;
                }
                let Some(&first) = addr.first() else { return };
                if !access.wide || (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&first) {
                    self.shared(&addr, bytes, store);
                } else if first >= GLOBAL_BASE {
                    self.global(&addr, bytes, store);
                } else if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&first) {
                    self.local_bytes += bytes * lanes;
                }
            }
        }
    }

    fn global(&mut self, addr: &[u64], bytes: u64, store: bool) {
        self.global_requests += 1;
        let total = bytes * addr.len() as u64;
        if store {
            self.global_store_bytes += total;
        } else {
            self.global_load_bytes += total;
        }
        let mut sectors: Vec<u64> = addr.iter().flat_map(|a| a / 32..=(a + bytes - 1) / 32).collect();
        sectors.sort_unstable();
        sectors.dedup();
        self.global_sectors += sectors.len() as u64;
    }

    fn shared(&mut self, addr: &[u64], bytes: u64, store: bool) {
        self.shared_requests += 1;
        let total = bytes * addr.len() as u64;
        if store {
            self.shared_store_bytes += total;
        } else {
            self.shared_load_bytes += total;
        }
        // Wide accesses go by half or quarter warps.
        let group = (128 / bytes.max(4)).max(1) as usize;
        for part in addr.chunks(group) {
            self.shared_passes += passes(part, bytes);
        }
    }
}

fn active(cx: &Cx, addr: &[u64; WARP]) -> Vec<u64> {
    (0..WARP).filter(|l| cx.mask >> l & 1 != 0).map(|l| addr[l]).collect()
}

/// Passes a group of accesses takes: the most distinct words that lie in one of the 32 banks.
fn passes(addr: &[u64], bytes: u64) -> u64 {
    let mut words: Vec<u64> = addr.iter().flat_map(|a| a / 4..=(a + bytes - 1) / 4).collect();
    words.sort_unstable();
    words.dedup();
    let mut banks = [0u64; 32];
    for w in words {
        banks[(w % 32) as usize] += 1;
    }
    banks.into_iter().max().unwrap_or(0).max(1)
}
