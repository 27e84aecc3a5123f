//! What checks and counters see of an instruction that touches memory.

use super::lanes::WARP;
use super::op::{Cx, OFFSET, RANK_SHIFT};
use crate::parse::Space;

/// A memory access, as the checks and counters see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) kind: AccessKind,
    pub(crate) space: Space,
    /// Bytes of each lane.
    pub(crate) bytes: u32,
    /// Registers of each lane.
    pub(crate) lanes: u32,
    /// Operand slot of the addresses and whether they are 64 bits wide.
    pub(crate) addr: u32,
    pub(crate) wide: bool,
    pub(crate) offset: i64,
    /// [`Access::STRONG`] and what else the operation orders.
    pub(crate) order: u8,
}

impl Access {
    /// Of an instruction whose addresses, if any, stand elsewhere.
    pub(crate) fn bare(kind: AccessKind) -> Access {
        Access { kind, space: Space::Shared, bytes: 0, lanes: 1, addr: 0, wide: false, offset: 0, order: 0 }
    }

    /// Volatile, relaxed or stronger, or an atomic: such operations on the same bytes do not race with each other.
    pub(crate) const STRONG: u8 = 1;
    pub(crate) const ACQUIRE: u8 = 2;
    pub(crate) const RELEASE: u8 = 4;
    /// Of the block's threads only.
    pub(crate) const CTA: u8 = 8;
    /// By way of the cache of what does not change.
    pub(crate) const CONSTANT: u8 = 16;
    /// `ldmatrix.trans`.
    pub(crate) const TRANSPOSED: u8 = 32;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessKind {
    Load,
    Store,
    Atomic,
    /// `ldmatrix` of so many rows.
    Rows(u32),
    /// `stmatrix` of so many rows, and whether the matrices are transposed.
    RowsStore(u32, bool),
    /// `cp.async`: the shared side; the global address and source size are in the instruction's list.
    CopyAsync,
    /// Bulk copy or reduction.
    Bulk,
    Commit,
    /// `bar.warp.sync`.
    WarpSync,
    /// Wait until at most so many groups are pending; `u32::MAX` = all copies.
    Wait(u32),
}

/// The addresses of an access, lane by lane.
///
/// # Safety
/// `access` belongs to the instruction about to run.
pub(crate) unsafe fn addresses(cx: &Cx, access: &Access) -> [u64; WARP] {
    // SAFETY: the operand's width is the one noted.
    unsafe {
        if access.wide {
            return cx.get::<u64>(access.addr).map(|a| a.wrapping_add(access.offset as u64));
        }
        // An address that `mapa` has made for the block itself is one of its own.
        let own = (cx.rank + 1) << RANK_SHIFT;
        cx.get::<u32>(access.addr).map(|a| match a.wrapping_add(access.offset as u32) {
            a if a & !OFFSET == own => u64::from(a & OFFSET),
            a => u64::from(a),
        })
    }
}
