//! What instructions tell checked mode, besides their accesses.

/// Something that orders or moves memory, told to checked mode after it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) what: Happened,
    /// The lanes that did it.
    pub(crate) lanes: u32,
    /// The mbarrier's place in shared memory, see [`super::RANK_SHIFT`].
    pub(crate) at: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Of memory; whether other blocks see it too.
    Fence {
        wide: bool,
    },
    /// `fence.mbarrier_init`: the mbarriers made before may be told to the cluster.
    FenceInit,
    /// `fence.proxy.async`: what was written before may be read by asynchronous copies.
    Proxy,
    Init,
    Invalidate,
    /// Its counts were changed without an arrival.
    Count,
    Arrive {
        release: bool,
    },
    CopiesArrive,
    /// Its phase completed.
    Complete,
    Waited {
        acquire: bool,
    },
    /// A bulk copy, of generic addresses. One to shared memory is counted by the mbarrier. From nowhere: what is outside of a tensor.
    Bulk {
        to: u64,
        from: Option<u64>,
        bytes: u32,
        reduce: bool,
    },
    BulkCommit,
    /// A `wgmma.mma_async` of the warp, with the descriptors of A (0: in registers) and B.
    Multiply {
        a: u64,
        b: u64,
    },
    MultiplyFence,
    MultiplyCommit,
    /// At most so many groups of products stay pending.
    MultiplyWait {
        pending: u32,
    },
    /// A function of the device runtime took a value from a generic address: what decides what it does, or is printed.
    Read {
        from: u64,
        bytes: u64,
        what: &'static str,
    },
    /// At most so many bulk groups stay pending; or, of the others, only the sources have been read.
    BulkWait {
        pending: u32,
        read: bool,
    },
}
