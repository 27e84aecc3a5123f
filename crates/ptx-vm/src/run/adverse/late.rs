//! What happens later than it could: stores, copies, and arrivals at mbarriers.

use super::copy::{Copies, inside};
use super::store::{Span, Store};
use super::{Adversary, Bulk};
use crate::ir::*;
use crate::memory::{GLOBAL_BASE, SHARED_WINDOW};
use crate::parse::Space;
use crate::step::bulk::{Piece, moves};
use crate::step::cluster::ClusterBarrier;
use crate::step::find::resolve;
use crate::step::mbarrier::Act;

impl Adversary {
    /// What becomes of an instruction that moves or orders memory; none when it is to be executed as it is.
    pub(super) unsafe fn late(&mut self, cx: &mut Cx, op: *const Op, meta: &Meta) -> Option<*const Op> {
        // SAFETY: operands belong to the instruction.
        unsafe {
            let warp = cx.warp as usize;
            match meta.rule {
                Rule::Load => self.forward(cx, &meta.access?),
                Rule::Store => return self.store(cx, op, &meta.access?),
                Rule::Atomic | Rule::Atomic128 => {
                    let access = meta.access?;
                    self.release(warp, &access);
                    self.forward(cx, &access);
                }
                Rule::Copy => return Some(self.copy(cx, op, &meta.access?)),
                Rule::Bulk | Rule::AsyncStore => {
                    self.flush(warp);
                    return self.bulk(cx, op);
                }
                Rule::Mbarrier => return self.mbarrier(cx, op),
                Rule::Barrier => self.meet(warp),
                // For the block, for all, or for asynchronous copies.
                Rule::Fence if (*op).imm == 0 => self.meet(warp),
                // Of `mbarrier.init` alone, which is never late.
                Rule::Fence if (*op).imm == 3 => {}
                Rule::Fence => self.flush(warp),
                Rule::Cluster if (*op).imm & (ClusterBarrier::WAIT | ClusterBarrier::RELAXED) == 0 => self.flush(warp),
                Rule::BulkGroup => self.bulk_group(cx, op),
                Rule::Warpgroup => return self.warps[warp].products.issue(cx, op),
                Rule::WarpgroupOrder if cx.mask == FULL || cx.mask == cx.alive => {
                    self.warps[warp].products.order(cx, (*op).imm);
                }
                _ => match meta.access.map(|access| access.kind) {
                    Some(AccessKind::Commit) => {
                        self.warps[warp].commits += 1;
                        lanes_of(cx.mask).for_each(|lane| self.warps[warp].committed[lane] += 1);
                    }
                    Some(AccessKind::Wait(pending)) => self.arrived(cx, pending),
                    Some(AccessKind::WarpSync) => self.meet(warp),
                    Some(AccessKind::Store | AccessKind::RowsStore(..)) => self.flush(warp),
                    _ => {}
                },
            }
            None
        }
    }

    /// What a strong operation releases.
    pub(super) fn release(&mut self, warp: usize, access: &Access) {
        if access.order & Access::RELEASE != 0 {
            if access.order & Access::CTA != 0 { self.meet(warp) } else { self.flush(warp) }
        }
    }

    /// Lanes read what they have stored themselves, and what has reached their block.
    pub(super) unsafe fn forward(&mut self, cx: &Cx, access: &Access) {
        let own = &self.warps[cx.warp as usize].stores;
        if own.is_empty() && self.near.is_empty() {
            return;
        }
        if cx.peers.len() > 1 && access.wide && access.space != Space::Global {
            // The block's own memory may go by another address here.
            // SAFETY: forwarded.
            let addr = unsafe { addresses(cx, access) };
            let aliased = |a: u64| cx.common(a) == a && cx.whose(a).is_some_and(|(rank, _)| rank == cx.rank);
            if lanes_of(cx.mask).any(|lane| aliased(addr[lane])) {
                return self.flush(cx.warp as usize);
            }
        }
        // SAFETY: forwarded; the code is for this machine.
        unsafe {
            if !(self.sight.touches)(cx, access, &own.ranges, &self.near.ranges) {
                return;
            }
            let span = (self.sight.reach)(cx, access);
            if self.is_own(cx, access, &span) || self.is_near(cx, access, &span) {
                self.flush(cx.warp as usize);
            }
        }
    }

    /// Whether a lane reaches what it has stored itself.
    fn is_own(&self, cx: &Cx, access: &Access, span: &Span) -> bool {
        // SAFETY: the code is for this machine.
        let meets = |store: &Store| unsafe { (self.sight.meets)(store, span, cx.mask, u64::from(access.bytes)) };
        self.warps[cx.warp as usize].stores.iter().any(meets)
    }

    /// Whether a lane reaches what has been stored by its block.
    fn is_near(&self, cx: &Cx, access: &Access, span: &Span) -> bool {
        let bytes = u64::from(access.bytes);
        let within = |store: &Store, a: u64| a < store.end && store.first < a.saturating_add(bytes);
        let close = |store: &&Store| store.first < span.last.saturating_add(bytes) && span.first < store.end;
        let reaches = |store: &Store| lanes_of(cx.mask).any(|i| within(store, span.addr.0[i]));
        self.near.iter().filter(close).any(reaches)
    }

    /// A store: weak ones to memory that others see stay on their way for a while.
    pub(super) unsafe fn store(&mut self, cx: &mut Cx, op: *const Op, access: &Access) -> Option<*const Op> {
        // SAFETY: every address is resolved before it is used; registers belong to the instruction.
        unsafe {
            let warp = cx.warp as usize;
            self.release(warp, access);
            let private = matches!(access.space, Space::Local | Space::Param);
            // One store in four to global memory is late, every second other one.
            let late = if access.space == Space::Global { self.once_in(4) } else { self.once_in(2) };
            if private || access.order & Access::STRONG != 0 || !late {
                // In the order of the program, where it is the same memory.
                self.forward(cx, access);
                return None;
            }
            let span = (self.sight.reach)(cx, access);
            let bytes = u64::from(access.bytes);
            let (first, end) = (span.first, span.last.checked_add(bytes)?);
            let shared = first >= SHARED_WINDOW && end <= SHARED_WINDOW + u64::from(cx.shared_len);
            let far = cx.whose(first).is_some_and(|(rank, _)| rank != cx.rank);
            let shared = shared || far && cx.in_cluster(first, end.saturating_sub(first)).is_some();
            let known = (shared || first >= GLOBAL_BASE) && span.bits & (bytes - 1) == 0;
            let Some(to) = known.then(|| place(cx, op, access, first, end)).flatten() else {
                // Of several allocations, and of what is wrong, the handler knows better.
                self.forward(cx, access);
                return None;
            };
            if self.is_near(cx, access, &span) {
                // It must not arrive before those.
                self.flush(warp);
            }
            let mut store = self.spare.pop().unwrap_or_else(|| Box::new(Store::new()));
            store.take(cx, op, access, &span, to);
            store.far = far || first >= GLOBAL_BASE;
            if let Some(oldest) = self.warps[warp].stores.push(store) {
                self.write(oldest);
            }
            Some(op.add(1))
        }
    }

    /// `cp.async`: copies to a place of its own until somebody waits for it.
    pub(super) unsafe fn copy(&mut self, cx: &mut Cx, op: *const Op, access: &Access) -> *const Op {
        // SAFETY: the operands belong to the instruction, and nobody else uses them meanwhile; ranges are checked against shared memory.
        unsafe {
            self.flush(cx.warp as usize);
            if self.once_in(4) {
                return ((*op).alone)(cx, op);
            }
            let (to, size) = (cx.list(op, 0), cx.list(op, 2));
            let (register, offset, bytes) = (cx.at::<u32>(to), (*op).imm as u32, access.bytes);
            let old = *register;
            let (mut places, mut own) = ([0; WARP], [0; WARP]);
            for i in 0..WARP {
                places[i] = old[i].wrapping_add(offset);
                own[i] = (i as u32 * bytes).wrapping_sub(offset);
            }
            if size == to || !inside(&places, cx.mask, bytes, cx.shared_len) {
                return ((*op).alone)(cx, op);
            }
            let mut copies = self.spare_copies.pop().unwrap_or_else(|| Box::new(Copies::new()));
            let (shared, shared_len) = (cx.shared, cx.shared_len);
            // The handler finds the lanes side by side in memory that is this copy's own.
            (cx.shared, cx.shared_len) = (copies.value.as_mut_ptr(), copies.value.len() as u32);
            *register = own;
            let next = ((*op).alone)(cx, op);
            (cx.shared, cx.shared_len, *register) = (shared, shared_len, old);
            if next.is_null() {
                // Again, so that the report is of the memory there is.
                return ((*op).alone)(cx, op);
            }
            let warp = &mut self.warps[cx.warp as usize];
            (copies.mask, copies.bytes, copies.to) = (cx.mask, bytes as usize, places);
            (copies.group, copies.commits) = (warp.committed, warp.commits);
            warp.copies.push(copies);
            next
        }
    }

    /// All but the last `pending` groups of the active lanes have arrived; `u32::MAX`: whatever was copied.
    pub(super) fn arrived(&mut self, cx: &Cx, pending: u32) {
        let warp = &mut self.warps[cx.warp as usize];
        let (mut left, mut lanes, mut known) = (0, FULL, None);
        for at in 0..warp.copies.len() {
            let copies = &mut warp.copies[at];
            if pending != u32::MAX && known != Some(copies.commits) {
                (lanes, known) = (0, Some(copies.commits));
                for lane in 0..WARP {
                    lanes |= u32::from(copies.group[lane] + pending < warp.committed[lane]) << lane;
                }
            }
            // SAFETY: this is the block's shared memory.
            unsafe { copies.arrive(cx.shared, lanes & cx.mask) };
            if copies.mask != 0 {
                warp.copies.swap(left, at);
                left += 1;
            }
        }
        self.spare_copies.extend(warp.copies.drain(left..));
    }

    /// Bulk copies wait for whoever waits for them.
    pub(super) unsafe fn bulk(&mut self, cx: &mut Cx, op: *const Op) -> Option<*const Op> {
        // SAFETY: as in the handler, which is left to report what is wrong.
        unsafe {
            let mut found = Vec::new();
            for lane in lanes_of(cx.mask) {
                let group = self.warps[cx.warp as usize].bulk_committed[lane];
                for moves in moves(cx, op, lane).ok()? {
                    let pieces = moves.pieces(cx, lane).ok()?;
                    found.push(Bulk { op, lane: lane as u32, moves, pieces, read: None, group });
                }
            }
            // What is counted in another block comes when somebody waits for it there.
            let away = |bulk: &Bulk| {
                let counted = bulk.moves.counted.and_then(|counted| cx.whose(counted));
                counted.is_some_and(|(rank, _)| rank != cx.rank)
            };
            let (far, near): (Vec<Bulk>, Vec<Bulk>) = found.into_iter().partition(away);
            self.flying.0.extend(far);
            self.warps[cx.warp as usize].bulk.extend(near);
            Some(op.add(1))
        }
    }

    /// `cp.async.bulk.commit_group` and `wait_group`: imm as [`crate::step::bulk::BulkGroup`] has it.
    pub(super) unsafe fn bulk_group(&mut self, cx: &mut Cx, op: *const Op) {
        // SAFETY: forwarded.
        let imm = unsafe { (*op).imm };
        let warp = &mut self.warps[cx.warp as usize];
        if imm < 0 {
            lanes_of(cx.mask).for_each(|lane| warp.bulk_committed[lane] += 1);
            return;
        }
        let (pending, read) = (imm as u32, imm >> 32 != 0);
        let mut at = 0;
        while at < warp.bulk.len() {
            let bulk = &mut warp.bulk[at];
            let lane = bulk.lane as usize;
            let mine = bulk.moves.counted.is_none() && cx.mask >> lane & 1 != 0;
            if !mine || bulk.group + pending >= warp.bulk_committed[lane] {
                at += 1;
            } else if read {
                bulk.fetch();
                at += 1;
            } else {
                // SAFETY: the copy's places outlive the block.
                let _ = warp.bulk.remove(at).arrive(cx, false);
            }
        }
    }

    /// An mbarrier: an arrival makes the lanes' stores seen, a wait lets a copy come.
    pub(super) unsafe fn mbarrier(&mut self, cx: &mut Cx, op: *const Op) -> Option<*const Op> {
        // SAFETY: the list holds an address of 64 bits.
        unsafe {
            let act = (*op).aux & 255;
            if act == Act::Copies as u32 || act == Act::CopiesExpected as u32 {
                self.arrived(cx, u32::MAX);
            }
            let addr = cx.get::<u64>(cx.list(op, 1));
            if act != Act::Wait as u32 {
                let far = |lane: usize| {
                    cx.whose(addr[lane].wrapping_add((*op).imm as u64)).is_some_and(|(rank, _)| rank != cx.rank)
                };
                if lanes_of(cx.mask).any(far) {
                    self.flush(cx.warp as usize)
                } else {
                    self.meet(cx.warp as usize)
                }
                return None;
            }
            let lane = cx.mask.trailing_zeros() as usize & 31;
            let at = cx.common(addr[lane].wrapping_add((*op).imm as u64));
            if self.once_in(2) {
                return None;
            }
            let counted = |bulk: &Bulk| bulk.moves.counted.is_some_and(|counted| cx.common(counted) == at);
            // Of the warps of the block, and behind them of other blocks.
            let lists = self.warps.iter().map(|warp| &warp.bulk).chain([&self.flying.0]).enumerate();
            let coming: Vec<(usize, usize)> = lists
                .flat_map(|(w, list)| list.iter().enumerate().filter(|(_, b)| counted(b)).map(move |(i, _)| (w, i)))
                .collect();
            if !coming.is_empty() {
                let (w, i) = coming[self.below(coming.len() as u64) as usize];
                let bulk = match self.warps.get_mut(w) {
                    Some(warp) => warp.bulk.remove(i),
                    None => self.flying.0.remove(i),
                };
                if let Err(stop) = bulk.arrive(cx, true) {
                    return Some(stop);
                }
            }
            None
        }
    }
}

impl Bulk {
    /// Reads its source.
    pub(super) fn fetch(&mut self) {
        if self.read.is_none() {
            let bytes = |piece: &Piece| match piece.from.is_null() {
                true => vec![],
                // SAFETY: resolved when the copy was issued.
                false => unsafe { std::slice::from_raw_parts(piece.from, piece.run.bytes as usize) }.to_vec(),
            };
            self.read = Some(self.pieces.iter().map(bytes).collect());
        }
    }

    /// Arrives, and is counted.
    pub(super) fn arrive(mut self, cx: &mut Cx, counts: bool) -> Result<(), *const Op> {
        self.fetch();
        let Bulk { op, lane, moves, pieces, read, .. } = self;
        for (piece, data) in pieces.iter().zip(read.unwrap_or_default()) {
            let from = if piece.from.is_null() { piece.from } else { data.as_ptr() };
            // SAFETY: resolved when the copy was issued.
            unsafe { moves.carry(piece, from) };
        }
        if let Some(counted) = moves.counted.filter(|_| counts) {
            // SAFETY: the instruction belongs to the kernel.
            unsafe { cx.delivered(op, lane as usize, counted, moves.bytes as i64)? };
        }
        Ok(())
    }
}

/// Where a range lies that a store covers; none when it is not inside one allocation.
///
/// # Safety
/// A range below [`GLOBAL_BASE`] lies in shared memory; `access` belongs to the store `op`.
unsafe fn place(cx: &Cx, op: *const Op, access: &Access, first: u64, end: u64) -> Option<*mut u8> {
    // SAFETY: a store to global memory has a cache; ranges are checked against what they lie in.
    unsafe {
        if first < GLOBAL_BASE {
            return cx.in_cluster(first, end - first);
        }
        if access.space == Space::Global {
            let cache = &*cx.caches.add((*op).aux as usize);
            if first >= cache.base && end <= cache.end {
                return Some(cache.host.add((first - cache.base) as usize));
            }
        }
        resolve(cx, first, end - first, true, 0)
    }
}
