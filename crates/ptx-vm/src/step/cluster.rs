//! Clusters: addresses in the shared memory of other blocks, and the barrier of the cluster.

use super::find::describe_miss;
use super::warp::gather;
use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::SHARED_WINDOW;

/// Whose shared memory a lane's generic address lies in, and where, or a fault.
fn whose(cx: &mut Cx, op: *const Op, lane: usize, address: u64) -> Result<(u32, u32), *const Op> {
    match cx.whose(address) {
        Some((rank, offset)) if (rank as usize) < cx.peers.len() => Ok((rank, offset)),
        _ => {
            let message =
                format!("no address of the cluster's shared memory: {}", describe_miss(cx, address, 1, false));
            Err(cx.fault(op, FaultKind::OutOfBounds, Some(lane as u32), Some(address), message))
        }
    }
}

/// `mapa`: r = d, a, rank; d and a are 64 bits wide, and generic.
pub(crate) struct Mapa;
impl Exec for Mapa {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with these widths.
        unsafe {
            let (from, ranks) = (cx.get::<u64>((*op).r[1]), cx.get::<u32>((*op).r[2]));
            let mut out = [0; WARP];
            for lane in lanes_of(cx.mask) {
                let offset = match whose(cx, op, lane, from[lane]) {
                    Ok((_, offset)) => offset,
                    Err(stop) => return stop,
                };
                let (rank, blocks) = (ranks[lane], cx.peers.len());
                if rank as usize >= blocks {
                    let message = format!("block {rank} of a cluster of {blocks}");
                    return cx.fault(op, FaultKind::OutOfBounds, Some(lane as u32), None, message);
                }
                out[lane] = SHARED_WINDOW + u64::from((rank + 1) << RANK_SHIFT | offset);
            }
            cx.put((*op).r[0], &out);
            op.add(1)
        }
    }
}

/// `getctarank`: r = d, a; a is 64 bits wide, and generic.
pub(crate) struct Rank;
impl Exec for Rank {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with these widths.
        unsafe {
            let from = cx.get::<u64>((*op).r[1]);
            let mut out = [0; WARP];
            for lane in lanes_of(cx.mask) {
                match whose(cx, op, lane, from[lane]) {
                    Ok((rank, _)) => out[lane] = rank,
                    Err(stop) => return stop,
                }
            }
            cx.put((*op).r[0], &out);
            op.add(1)
        }
    }
}

/// `isspacep.shared::cta`: r = d, a; d is 1 where a lies in the block's own part of the window.
pub(crate) struct IsOwn;
impl Exec for IsOwn {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: operands were decoded with these widths.
        unsafe {
            let from = cx.get::<u64>((*op).r[1]);
            let own = from.map(|a| u32::from(cx.whose(a).is_some_and(|(rank, _)| rank == cx.rank)));
            cx.put((*op).r[0], &own);
            op.add(1)
        }
    }
}

/// `barrier.cluster`: imm = the bits below.
pub(crate) struct ClusterBarrier;
impl ClusterBarrier {
    /// Waits; else it arrives.
    pub(crate) const WAIT: i64 = 1;
    /// Orders no memory.
    pub(crate) const RELAXED: i64 = 2;
    /// All threads of the warp come together.
    pub(crate) const ALIGNED: i64 = 4;
}
impl Exec for ClusterBarrier {
    const RARE: bool = true;
    const RULE: Rule = Rule::Cluster;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: never the last instruction.
        unsafe {
            if (*op).imm & ClusterBarrier::ALIGNED != 0 && cx.mask != cx.alive {
                return gather(cx, op, FULL);
            }
            cx.pause(Stop::Cluster, op.add(1))
        }
    }
}
