//! Counters: what a profiler would count, for a launch and for each line of its PTX.
//!
//! One unit throughout: the PTX instruction as written, executed by a warp. What the decoder makes of it (several steps, or none where
//! a copy could be dissolved) does not show. Caches are not modelled: global and local traffic is what the warps ask for, before L1, L2
//! and DRAM.

mod profile;
mod tally;

pub use profile::{LineProfile, Profile, SourceProfile};
pub(crate) use tally::Tally;

use crate::ir::Class;
use serde::Serialize;
use serde::ser::SerializeMap;
use std::ops::Index;

/// What was counted, over a launch or one line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Instructions executed by warps, those included whose guard held for no lane.
    pub warp_instructions: u64,
    /// The same, counted for every lane that took part: neither masked by divergence, nor exited, nor predicated off.
    pub thread_instructions: u64,
    /// Instructions of warps whose guard (`@%p`) held for no lane. The condition of a branch, `ret` or `exit` is not a guard in this sense.
    pub predicated_off: u64,
    /// Lanes that were there but for which the guard did not hold.
    pub predicated_off_lanes: u64,
    /// Conditional branches (`bra`, `ret`, `exit` under a predicate) at which lanes of a warp parted; a `brx` that parts them n ways counts n - 1.
    pub divergent_branches: u64,
    /// Warp instructions by class.
    pub by_class: ByClass,
    /// Floating-point operations of lanes outside the tensor cores: `add`, `sub`, `mul` and `div` are one, `fma` and `mad` two, for each
    /// element of packed types. Comparisons, conversions and [`Class::Special`] functions are none; atomics are counted by themselves.
    pub flops: u64,
    /// Operations of tensor-core instructions, integer ones included: two for each multiply-add of the shape.
    pub tensor_flops: u64,
    /// Global memory.
    pub global: Traffic,
    /// Local memory, laid out as on the hardware: word by word, the 32 lanes side by side.
    pub local: Traffic,
    /// Shared memory.
    pub shared: SharedTraffic,
    /// Atomic operations of lanes. Their bytes count as both read and written.
    pub atomics: u64,
    /// Arrivals of warps at block barriers.
    pub barriers: u64,
}

/// Traffic with global or local memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes the lanes read.
    pub load_bytes: u64,
    /// Bytes the lanes wrote.
    pub store_bytes: u64,
    /// Warp instructions that went there with at least one lane.
    pub requests: u64,
    /// Different sectors of 32 bytes, for each request; the least a full warp can do with is its bytes / 32.
    pub sectors: u64,
}

/// Traffic with shared memory: 32 banks, each a word of 4 bytes wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SharedTraffic {
    /// Bytes the lanes read; `ldmatrix` reads 16 for each row.
    pub load_bytes: u64,
    /// Bytes the lanes wrote.
    pub store_bytes: u64,
    /// Of the bytes read, those in shared memory of other blocks of a cluster.
    pub remote_load_bytes: u64,
    /// Of the bytes written, those there.
    pub remote_store_bytes: u64,
    /// Of the bytes written, those that came by multicast: for each of the blocks.
    pub multicast_bytes: u64,
    /// Warp instructions that went there with at least one lane.
    pub requests: u64,
    /// Passes those took. A warp goes at once when its lanes access up to 4 bytes, by half warps for 8 bytes, by quarter warps for 16, by
    /// matrices of 8 rows for `ldmatrix`; each such group takes as many passes as the fullest bank has different words to serve.
    /// Lanes that meet in one word are served together.
    pub passes: u64,
    /// Passes beyond one for each group: what bank conflicts cost.
    pub conflicts: u64,
    /// The worst group's passes: 2 is a two-way conflict, 1 none. The greatest, not a sum.
    pub ways: u64,
}

/// Warp instructions by [`Class`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByClass([u64; Class::ALL.len()]);

impl ByClass {
    /// The classes that were executed at all, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Class, u64)> + '_ {
        Class::ALL.into_iter().zip(self.0).filter(|(_, n)| *n > 0)
    }
}

impl Index<Class> for ByClass {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.0[class as usize]
    }
}

impl Serialize for ByClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (class, n) in self.iter() {
            map.serialize_entry(&class, &n)?;
        }
        map.end()
    }
}

/// What follows from [`Counters`] by division; none where nothing of the kind was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ratios {
    /// Lanes that took part in an instruction, of 32.
    pub lanes_per_instruction: Option<f64>,
    /// Sectors of each request to global memory: 4 when a warp reads 32 neighbouring words.
    pub global_sectors_per_request: Option<f64>,
    /// The same for local memory.
    pub local_sectors_per_request: Option<f64>,
    /// Passes of each request to shared memory.
    pub shared_passes_per_request: Option<f64>,
    /// The part of all shared passes that bank conflicts caused, 0 to 1.
    pub shared_conflict_share: Option<f64>,
    /// Bytes read from and written to global memory for each floating-point operation, tensor cores included.
    pub global_bytes_per_flop: Option<f64>,
}

impl Counters {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        self.predicated_off += other.predicated_off;
        self.predicated_off_lanes += other.predicated_off_lanes;
        self.divergent_branches += other.divergent_branches;
        for (mine, n) in self.by_class.0.iter_mut().zip(other.by_class.0) {
            *mine += n;
        }
        self.flops += other.flops;
        self.tensor_flops += other.tensor_flops;
        self.global.add(&other.global);
        self.local.add(&other.local);
        self.shared.add(&other.shared);
        self.atomics += other.atomics;
        self.barriers += other.barriers;
    }

    /// The quotients people look at.
    pub fn ratios(&self) -> Ratios {
        let over = |a: u64, b: u64| (b > 0).then(|| a as f64 / b as f64);
        Ratios {
            lanes_per_instruction: over(self.thread_instructions, self.warp_instructions),
            global_sectors_per_request: over(self.global.sectors, self.global.requests),
            local_sectors_per_request: over(self.local.sectors, self.local.requests),
            shared_passes_per_request: over(self.shared.passes, self.shared.requests),
            shared_conflict_share: over(self.shared.conflicts, self.shared.passes),
            global_bytes_per_flop: over(
                self.global.load_bytes + self.global.store_bytes,
                self.flops + self.tensor_flops,
            ),
        }
    }
}

impl Traffic {
    fn add(&mut self, other: &Traffic) {
        self.load_bytes += other.load_bytes;
        self.store_bytes += other.store_bytes;
        self.requests += other.requests;
        self.sectors += other.sectors;
    }
}

impl SharedTraffic {
    fn add(&mut self, other: &SharedTraffic) {
        self.load_bytes += other.load_bytes;
        self.store_bytes += other.store_bytes;
        self.remote_load_bytes += other.remote_load_bytes;
        self.remote_store_bytes += other.remote_store_bytes;
        self.multicast_bytes += other.multicast_bytes;
        self.requests += other.requests;
        self.passes += other.passes;
        self.conflicts += other.conflicts;
        self.ways = self.ways.max(other.ways);
    }
}
