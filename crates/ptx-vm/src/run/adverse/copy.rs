//! `cp.async` on their way to shared memory.

use crate::ir::*;

/// The most bytes of a lane's copy.
const MOST: usize = 16;

/// A `cp.async` that has not arrived.
pub(super) struct Copies {
    /// Lanes whose copies are on their way.
    pub(super) mask: u32,
    pub(super) bytes: usize,
    /// The numbers of its groups among those of the lanes, which are the same for the same number of commits.
    pub(super) group: L<u32>,
    pub(super) commits: u64,
    /// Offsets in shared memory.
    pub(super) to: L<u32>,
    pub(super) value: [u8; MOST * WARP],
}

impl Copies {
    pub(super) fn new() -> Copies {
        Copies { mask: 0, bytes: 0, group: [0; WARP], commits: 0, to: [0; WARP], value: [0; MOST * WARP] }
    }

    /// The copies of some lanes arrive; in the order of lanes, as lanes may name the same place.
    ///
    /// # Safety
    /// `shared` is the memory that the copies were checked against.
    pub(super) unsafe fn arrive(&mut self, shared: *mut u8, lanes: u32) {
        // SAFETY: forwarded.
        unsafe {
            match self.bytes {
                4 => self.write::<4>(shared, lanes),
                8 => self.write::<8>(shared, lanes),
                _ => self.write::<MOST>(shared, lanes),
            }
        }
        self.mask &= !lanes;
    }

    unsafe fn write<const N: usize>(&self, shared: *mut u8, lanes: u32) {
        // SAFETY: the range was checked when the copy was made.
        let write = |lane: usize| unsafe {
            let value = self.value.as_ptr().add(lane * N).cast::<[u8; N]>().read_unaligned();
            shared.add(self.to[lane] as usize).cast::<[u8; N]>().write_unaligned(value);
        };
        match self.mask & lanes {
            FULL => (0..WARP).for_each(write),
            some => lanes_of(some).for_each(write),
        }
    }
}

/// Whether the active lanes' places are aligned and inside shared memory.
pub(super) fn inside(places: &L<u32>, mask: u32, bytes: u32, shared_len: u32) -> bool {
    let Some(limit) = shared_len.checked_sub(bytes) else { return false };
    // Places and the greatest one there may be are below 2^31, or the sign bit says that they are not.
    let (mut bits, mut bad) = (0, limit);
    let mut look = |a: u32| (bits, bad) = (bits | a, bad | a | limit.wrapping_sub(a));
    match mask {
        FULL => places.iter().for_each(|a| look(*a)),
        some => lanes_of(some).for_each(|lane| look(places[lane])),
    }
    bad >> 31 == 0 && bits & (bytes - 1) == 0
}
