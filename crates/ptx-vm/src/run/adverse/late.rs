//! What happens later than it could: stores, copies, and arrivals at mbarriers.

use super::{Adversary, Bulk, Copy, MOST, STORES, Store};
use crate::ir::*;
use crate::memory::{GLOBAL_BASE, SHARED_WINDOW};
use crate::parse::Space;
use crate::step::atomic::{Atom, AtomTy, update};
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
                Rule::Bulk => {
                    self.flush(warp);
                    return self.bulk(cx, op);
                }
                Rule::Mbarrier => return self.mbarrier(cx, op),
                Rule::Barrier => self.meet(warp),
                // For the block, for all, or for asynchronous copies.
                Rule::Fence if (*op).imm == 0 => self.meet(warp),
                Rule::Fence => self.flush(warp),
                Rule::BulkGroup => self.bulk_group(cx, op),
                _ => match meta.access.map(|access| access.kind) {
                    Some(AccessKind::Commit) => {
                        lanes_of(cx.mask).for_each(|lane| self.warps[warp].committed[lane] += 1);
                    }
                    Some(AccessKind::Wait(pending)) => self.arrived(cx, pending),
                    Some(AccessKind::WarpSync) => self.meet(warp),
                    Some(AccessKind::Store) => self.flush(warp),
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
        let stores = &self.warps[cx.warp as usize].stores;
        if stores.is_empty() && self.near.is_empty() {
            return;
        }
        // SAFETY: forwarded.
        let addr = unsafe { addresses(cx, access) };
        let bytes = u64::from(access.bytes);
        let (first, last, _) = span(&addr, cx.mask);
        let close = |store: &Store| first < store.end && store.first < last.saturating_add(bytes);
        let meets = |store: &Store| {
            lanes_of(store.mask & cx.mask)
                .any(|i| addr[i] < store.addr[i] + store.bytes as u64 && store.addr[i] < addr[i] + bytes)
        };
        let reaches = |store: &Store| lanes_of(cx.mask).any(|i| addr[i] < store.end && store.first < addr[i] + bytes);
        if stores.iter().any(|store| close(store) && meets(store))
            || self.near.iter().any(|store| close(store) && reaches(store))
        {
            self.flush(cx.warp as usize);
        }
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
            let addr = addresses(cx, access);
            let bytes = access.bytes as usize;
            let (first, last, bits) = span(&addr, cx.mask);
            let end = last.checked_add(bytes as u64)?;
            let shared = first >= SHARED_WINDOW && end <= SHARED_WINDOW + u64::from(cx.shared_len);
            if !(shared || first >= GLOBAL_BASE) || bits & (bytes as u64 - 1) != 0 {
                return None;
            }
            // Of several allocations the handler knows better.
            let base = resolve(cx, first, end - first, true, 0)?;
            let mut store = Box::new(Store {
                mask: cx.mask,
                bytes,
                addr,
                first,
                end,
                to: addr.map(|a| base.wrapping_add(a.wrapping_sub(first) as usize)),
                value: [[0; MOST]; WARP],
            });
            let count = access.lanes.max(1) as usize;
            let element = bytes / count;
            for v in 0..count {
                let slot = if count <= 2 { (*op).r[v] } else { cx.list(op, v) };
                let from = cx.at::<u8>(slot).cast::<u8>();
                for lane in lanes_of(cx.mask) {
                    let at = from.add(lane * element.max(2));
                    std::ptr::copy_nonoverlapping(at, store.value[lane].as_mut_ptr().add(v * element), element);
                }
            }
            // As the handler: of lanes at one place the last one wins, because they are written in order.
            let stores = &mut self.warps[warp].stores;
            if stores.len() == STORES
                && let Some(oldest) = stores.pop_front()
            {
                oldest.write();
            }
            stores.push_back(store);
            Some(op.add(1))
        }
    }

    /// `cp.async`: is carried out, then taken back until somebody waits for it.
    pub(super) unsafe fn copy(&mut self, cx: &mut Cx, op: *const Op, access: &Access) -> *const Op {
        // SAFETY: ranges are checked against shared memory.
        unsafe {
            self.flush(cx.warp as usize);
            if self.once_in(4) {
                return ((*op).alone)(cx, op);
            }
            let addr = addresses(cx, access);
            let bytes = access.bytes as usize;
            let offset = |lane: usize| (addr[lane] - SHARED_WINDOW) as usize;
            let inside = |lane: usize| offset(lane) + bytes <= cx.shared_len as usize;
            let mask = cx.mask;
            let mut old = [[0u8; 16]; WARP];
            for lane in lanes_of(mask).filter(|lane| inside(*lane)) {
                std::ptr::copy_nonoverlapping(cx.shared.add(offset(lane)), old[lane].as_mut_ptr(), bytes);
            }
            let next = ((*op).alone)(cx, op);
            if next.is_null() {
                return next;
            }
            // All have arrived; in the order of lanes, as lanes may name the same place.
            let warp = &mut self.warps[cx.warp as usize];
            for lane in lanes_of(mask) {
                let mut value = [0; 16];
                std::ptr::copy_nonoverlapping(cx.shared.add(offset(lane)), value.as_mut_ptr(), bytes);
                let group = warp.committed[lane];
                warp.copies.push(Copy { lane: lane as u32, group, to: offset(lane) as u32, bytes, value });
            }
            for lane in lanes_of(mask) {
                std::ptr::copy_nonoverlapping(old[lane].as_ptr(), cx.shared.add(offset(lane)), bytes);
            }
            next
        }
    }

    /// All but the last `pending` groups of the active lanes have arrived; `u32::MAX`: whatever was copied.
    pub(super) fn arrived(&mut self, cx: &Cx, pending: u32) {
        let warp = &mut self.warps[cx.warp as usize];
        let (committed, mask, shared) = (warp.committed, cx.mask, cx.shared);
        warp.copies.retain(|copy| {
            let lane = copy.lane as usize;
            let done = pending == u32::MAX || copy.group + pending < committed[lane];
            let done = done && mask >> lane & 1 != 0;
            if done {
                // SAFETY: the range was checked when the copy was made.
                unsafe {
                    std::ptr::copy_nonoverlapping(copy.value.as_ptr(), shared.add(copy.to as usize), copy.bytes);
                }
            }
            !done
        });
    }

    /// Bulk copies wait for whoever waits for them.
    pub(super) unsafe fn bulk(&mut self, cx: &mut Cx, op: *const Op) -> Option<*const Op> {
        // SAFETY: as in the handler, which is left to report what is wrong.
        unsafe {
            let (to, from) = (cx.get::<u64>(cx.list(op, 0)), cx.get::<u64>(cx.list(op, 1)));
            let (size, barrier) = (cx.get::<u32>(cx.list(op, 2)), cx.list(op, 3));
            let mut found = Vec::new();
            for lane in lanes_of(cx.mask) {
                let bytes = u64::from(size[lane]);
                if (to[lane] | from[lane] | bytes) & 15 != 0 {
                    return None;
                }
                let target = resolve(cx, to[lane], bytes, true, lane as u32)?;
                let source = resolve(cx, from[lane], bytes, true, lane as u32)?;
                let counted = if barrier == crate::ir::NO_SLOT { 0 } else { (*cx.at::<u64>(barrier))[lane] };
                let group = self.warps[cx.warp as usize].bulk_committed[lane];
                found.push(Bulk {
                    op,
                    lane: lane as u32,
                    to: target,
                    from: source,
                    bytes: bytes as usize,
                    read: None,
                    counted,
                    group,
                });
            }
            self.warps[cx.warp as usize].bulk.extend(found);
            Some(op.add(1))
        }
    }

    /// `cp.async.bulk.commit_group` and `wait_group`: imm as [`crate::step::mbarrier::BulkGroup`] has it.
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
            let mine = bulk.counted == 0 && cx.mask >> lane & 1 != 0;
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
            if act != Act::Wait as u32 {
                self.meet(cx.warp as usize);
                return None;
            }
            let addr = cx.get::<u64>(cx.list(op, 1));
            let lane = cx.mask.trailing_zeros() as usize & 31;
            let at = addr[lane].wrapping_add((*op).imm as u64);
            if self.once_in(2) {
                return None;
            }
            let coming: Vec<(usize, usize)> = (0..self.warps.len())
                .flat_map(|w| (0..self.warps[w].bulk.len()).map(move |i| (w, i)))
                .filter(|(w, i)| self.warps[*w].bulk[*i].counted == at)
                .collect();
            if !coming.is_empty() {
                let (w, i) = coming[self.below(coming.len() as u64) as usize];
                let bulk = self.warps[w].bulk.remove(i);
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
            // SAFETY: resolved when the copy was issued.
            self.read = Some(unsafe { std::slice::from_raw_parts(self.from, self.bytes) }.to_vec());
        }
    }

    /// Arrives, and is counted.
    pub(super) fn arrive(mut self, cx: &mut Cx, counts: bool) -> Result<(), *const Op> {
        self.fetch();
        let data = self.read.take().unwrap_or_default();
        // SAFETY: resolved when the copy was issued; the instruction belongs to the kernel.
        unsafe {
            let imm = (*self.op).imm;
            if imm < 0 {
                std::ptr::copy_nonoverlapping(data.as_ptr(), self.to, self.bytes);
            } else {
                let (atom, ty) = (Atom::ALL[(imm & 255) as usize], AtomTy::ALL[(imm >> 8) as usize]);
                for (i, element) in data.chunks_exact(ty.bytes() as usize).enumerate() {
                    let mut word = [0u8; 8];
                    word[..element.len()].copy_from_slice(element);
                    update(self.to.add(i * element.len()), atom, ty, u64::from_le_bytes(word), 0);
                }
            }
            if counts && self.counted != 0 {
                cx.delivered(self.op, self.lane as usize, self.counted, self.bytes as i64)?;
            }
        }
        Ok(())
    }
}

/// The least and the greatest address of some lanes, and all their bits.
fn span(addr: &L<u64>, mask: u32) -> (u64, u64, u64) {
    let any = addr[mask.trailing_zeros() as usize & 31];
    let mut all = *addr;
    if mask != FULL {
        for (i, a) in all.iter_mut().enumerate() {
            *a = if mask >> i & 1 != 0 { *a } else { any };
        }
    }
    all.iter().fold((u64::MAX, 0, 0), |(lo, hi, bits), a| (lo.min(*a), hi.max(*a), bits | a))
}

/// The generic addresses of an access.
unsafe fn addresses(cx: &Cx, access: &Access) -> L<u64> {
    // SAFETY: forwarded.
    let addr = unsafe { crate::ir::addresses(cx, access) };
    if access.wide { addr } else { addr.map(|a| a + SHARED_WINDOW) }
}
