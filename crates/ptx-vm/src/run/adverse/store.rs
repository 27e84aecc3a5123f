//! Stores on their way to memory.

use crate::ir::*;
use crate::memory::GLOBAL_BASE;

/// Stores of a warp that are on their way.
pub(super) const STORES: usize = 4;
/// Stores that have reached the block and not the others.
pub(super) const NEAR: usize = 16;
/// The most bytes of a lane's access.
const MOST: usize = 32;

/// The memory that the active lanes of an access reach.
pub(super) struct Span {
    /// Generic addresses of all lanes.
    pub(super) addr: Lanes<u64>,
    /// The least and the greatest address of the active lanes, and all their bits.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bits: u64,
    /// All lanes are active, side by side.
    pub(super) block: bool,
}

/// A weak store that nobody but its own lanes, or its block, may have seen.
pub(crate) struct Store {
    pub(super) mask: u32,
    pub(super) bytes: usize,
    pub(super) addr: L<u64>,
    /// First address and end of all lanes.
    pub(super) first: u64,
    pub(super) end: u64,
    /// Where the first address lies.
    to: *mut u8,
    /// All lanes store, side by side.
    block: bool,
    /// To memory that other blocks see.
    pub(super) far: bool,
    /// What the lanes store, each behind the one before.
    value: [u8; MOST * WARP],
}

// SAFETY: the places lie in allocations that outlive the launch; what blocks race on is the kernel's business.
unsafe impl Send for Store {}

impl Store {
    pub(super) fn new() -> Store {
        Store {
            mask: 0,
            bytes: 0,
            addr: [0; WARP],
            first: 0,
            end: 0,
            to: std::ptr::null_mut(),
            block: false,
            far: false,
            value: [0; MOST * WARP],
        }
    }

    /// Becomes the store `op`, whose first address lies at `to`.
    ///
    /// # Safety
    /// `access` belongs to `op`, which is about to run, and `span` to both.
    pub(super) unsafe fn take(&mut self, cx: &Cx, op: *const Op, access: &Access, span: &Span, to: *mut u8) {
        let bytes = access.bytes as usize;
        (self.mask, self.bytes, self.addr) = (cx.mask, bytes, span.addr.0);
        self.far = false;
        (self.first, self.end, self.to, self.block) = (span.first, span.last + bytes as u64, to, span.block);
        let count = access.lanes.max(1) as usize;
        for v in 0..count {
            // SAFETY: registers belong to the instruction and hold an element for each lane, two bytes of it at least.
            unsafe {
                let slot = if count <= 2 { (*op).r[v] } else { cx.list(op, v) };
                let from = cx.at::<u8>(slot).cast::<u8>();
                match bytes / count {
                    1 => (0..WARP).for_each(|lane| self.value[lane * bytes + v] = *from.add(2 * lane)),
                    2 => self.element::<2>(v, from),
                    4 => self.element::<4>(v, from),
                    _ => self.element::<8>(v, from),
                }
            }
        }
    }

    /// Takes the `v`-th element of `N` bytes of each lane, whether it stores or not.
    ///
    /// # Safety
    /// As many are there.
    unsafe fn element<const N: usize>(&mut self, v: usize, from: *const u8) {
        // SAFETY: there is room for the elements of all lanes.
        unsafe {
            let to = self.value.as_mut_ptr().add(v * N);
            if self.bytes == N {
                std::ptr::copy_nonoverlapping(from, to, N * WARP);
                return;
            }
            for lane in 0..WARP {
                let element = from.add(lane * N).cast::<[u8; N]>().read_unaligned();
                to.add(lane * self.bytes).cast::<[u8; N]>().write_unaligned(element);
            }
        }
    }

    pub(super) fn is_global(&self) -> bool {
        self.first >= GLOBAL_BASE
    }

    pub(crate) fn write(&self) {
        // SAFETY: the places were resolved when the store was executed, and outlive the block.
        unsafe {
            match self.bytes {
                bytes if self.block => std::ptr::copy_nonoverlapping(self.value.as_ptr(), self.to, bytes * WARP),
                1 => self.scatter::<1>(),
                2 => self.scatter::<2>(),
                4 => self.scatter::<4>(),
                8 => self.scatter::<8>(),
                16 => self.scatter::<16>(),
                _ => self.scatter::<MOST>(),
            }
        }
    }

    /// As the handler: of lanes at one place the last one wins, because they are written in order.
    unsafe fn scatter<const N: usize>(&self) {
        for lane in lanes_of(self.mask) {
            // SAFETY: as in `write`.
            unsafe {
                let value = self.value.as_ptr().add(lane * N).cast::<[u8; N]>().read_unaligned();
                let to = self.to.add((self.addr[lane] - self.first) as usize);
                to.cast::<[u8; N]>().write_unaligned(value);
            }
        }
    }
}

/// First addresses and ends of the stores of a [`Queue`]; those of an empty place meet nothing. All that have been in it since it was empty
/// lie between `low` and `high`.
pub(super) struct Ranges<const N: usize> {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) first: [u64; N],
    pub(super) end: [u64; N],
}

/// At most `N` stores, in the order in which they were made. `N` is a power of two.
pub(super) struct Queue<const N: usize> {
    pub(super) ranges: Ranges<N>,
    stores: [Option<Box<Store>>; N],
    head: usize,
    len: usize,
}

impl<const N: usize> Queue<N> {
    pub(super) fn new() -> Queue<N> {
        let ranges = Ranges { low: u64::MAX, high: 0, first: [u64::MAX; N], end: [0; N] };
        Queue { ranges, stores: [const { None }; N], head: 0, len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a store. Gives the oldest one when there is no room for both.
    pub(super) fn push(&mut self, store: Box<Store>) -> Option<Box<Store>> {
        let oldest = if self.len == N { self.pop() } else { None };
        let at = (self.head + self.len) % N;
        let ranges = &mut self.ranges;
        (ranges.first[at], ranges.end[at]) = (store.first, store.end);
        (ranges.low, ranges.high) = (ranges.low.min(store.first), ranges.high.max(store.end));
        self.stores[at] = Some(store);
        self.len += 1;
        oldest
    }

    /// Takes the oldest store out.
    pub(super) fn pop(&mut self) -> Option<Box<Store>> {
        let at = self.head;
        let store = self.stores[at].take()?;
        (self.ranges.first[at], self.ranges.end[at]) = (u64::MAX, 0);
        (self.head, self.len) = ((at + 1) % N, self.len - 1);
        if self.len == 0 {
            (self.ranges.low, self.ranges.high) = (u64::MAX, 0);
        }
        Some(store)
    }

    /// The stores, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Store> {
        self.stores.iter().flatten().map(|store| &**store)
    }
}
