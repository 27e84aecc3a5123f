//! What is checked of an instruction that is about to run.

use super::shared::Actor;
use super::touch::{Touch, Values};
use super::{Check, Verdict};
use crate::error::FaultKind;
use crate::ir::*;
use crate::memory::{GLOBAL_BASE, SHARED_WINDOW};
use crate::parse::Space;

impl Check {
    /// Checks an instruction that is about to run and notes what it does.
    pub(super) unsafe fn look(&mut self, cx: &mut Cx, kernel: &Kernel, op: *const Op, index: usize) -> Verdict {
        // SAFETY: operands belong to the instruction about to run; addresses are checked before they are used.
        unsafe {
            let meta = &kernel.meta[index];
            if cx.alive != cx.began && cx.mask == cx.alive && meta.aligned {
                self.exited(cx, meta)?;
            }
            let wrong = self.defined.pass(cx, kernel, op, meta);
            if wrong.0 != 0 {
                self.undefined(kernel, wrong)?;
            }
            if self.products.is_some() {
                self.look_at_registers(cx, kernel, meta)?;
            }
            let Some(access) = &meta.access else {
                if let Some(arrays) = &mut self.arrays {
                    arrays.pass(cx, kernel, op, meta);
                }
                return Ok(());
            };
            let warp = cx.seat as usize;
            let addressed = match access.kind {
                AccessKind::Rows(rows) | AccessKind::RowsStore(rows, _) => u32::MAX >> (32 - rows.min(32)),
                AccessKind::Load | AccessKind::Store | AccessKind::Atomic | AccessKind::CopyAsync => cx.mask,
                _ => 0,
            };
            if addressed != 0 {
                let lanes = self.defined.lanes(warp, access.addr, if access.wide { 8 } else { 4 });
                if lanes & addressed != 0 {
                    self.undefined(kernel, (lanes & addressed, "the address"))?;
                }
                self.in_its_array(cx, kernel, access, addressed)?;
                if let Some(arrays) = &mut self.arrays {
                    arrays.pass(cx, kernel, op, meta);
                }
            }
            match access.kind {
                AccessKind::WarpSync => self.warp_sync(cx, op),
                AccessKind::Commit => self.shared.clocks.commit(warp, cx.mask),
                AccessKind::Wait(n) => self.shared.clocks.wait(warp, cx.mask, n),
                AccessKind::Rows(rows) | AccessKind::RowsStore(rows, _) => {
                    self.look_at_rows(cx, access, op, index, rows as usize)?;
                }
                AccessKind::CopyAsync => self.look_at_copy(cx, kernel, access, op)?,
                // Told as an event when it has happened.
                AccessKind::Bulk => {}
                AccessKind::Load | AccessKind::Store | AccessKind::Atomic => {
                    self.look_at_access(cx, kernel, access, op, index)?;
                }
            }
            Ok(())
        }
    }

    /// Rows of matrices in shared memory.
    unsafe fn look_at_rows(
        &mut self,
        cx: &mut Cx,
        access: &Access,
        op: *const Op,
        index: usize,
        rows: usize,
    ) -> Verdict {
        let warp = cx.seat as usize;
        // SAFETY: as above.
        unsafe {
            // Each row's address comes from one lane, but the row is read (or written) by the warp as one.
            let addr = addresses(cx, access);
            for (lane, &a) in addr.iter().enumerate().take(rows) {
                let touch = match access.kind {
                    AccessKind::RowsStore(_, trans) => Touch::Write(Values::Row(lane as u32, trans)),
                    _ => Touch::Read,
                };
                if a + 16 <= u64::from(cx.shared_len) {
                    self.touch_shared(cx, cx.place(a as u32), 16, Actor::lane(warp, lane as u32), touch, op)?;
                }
            }
            match access.kind {
                AccessKind::RowsStore(_, trans) => {
                    self.memory.store_rows(&self.defined, cx, op, access, trans);
                }
                _ => {
                    let trans = access.order & Access::TRANSPOSED != 0;
                    self.memory.load_rows(&mut self.defined, cx, op, index, access, trans);
                }
            }
        }
        Ok(())
    }

    /// A load, a store or an atomic.
    unsafe fn look_at_access(
        &mut self,
        cx: &mut Cx,
        kernel: &Kernel,
        access: &Access,
        op: *const Op,
        index: usize,
    ) -> Verdict {
        // SAFETY: as above.
        unsafe {
            let addr = addresses(cx, access);
            let row = addr.windows(2).all(|w| w[0] != w[1] && w[1].wrapping_sub(w[0]) == addr[1].wrapping_sub(addr[0]));
            let mut left = cx.mask;
            while left != 0 {
                let lane = left.trailing_zeros();
                let a = addr[lane as usize];
                // Lanes that read the same are looked at as one.
                let mut lanes = 1 << lane;
                if access.kind == AccessKind::Load && !row {
                    let same = (0..WARP).fold(0, |m, i| m | u32::from(addr[i] == a) << i);
                    lanes = same & left;
                }
                left &= !lanes;
                self.look_at_lanes(cx, access, op, lanes, a)?;
            }
            if access.order & Access::STRONG != 0 {
                self.order(cx, access, &addr);
                if access.wide {
                    self.order_blocks(cx, access, &addr);
                }
            }
            if access.order & Access::CONSTANT != 0
                && let Some((lane, a, message)) = self.memory.constant(cx, access)
            {
                self.report(FaultKind::Race, lane, Some(a), || message)?;
            }
            match (access.kind, kernel.meta[index].rule) {
                (AccessKind::Load, _) => self.memory.load(&mut self.defined, cx, op, index, access),
                (AccessKind::Store, _) => {
                    self.memory.store(&self.defined, cx, op, index, access, kernel);
                }
                (_, rule) => {
                    let wide = rule == Rule::Atomic128;
                    self.memory.atomic(&mut self.defined, cx, op, index, access, wide);
                }
            }
        }
        Ok(())
    }

    /// Matrix instructions need all threads of the warp; a barrier does not wait for those that have exited.
    #[cold]
    pub(super) fn exited(&self, cx: &Cx, meta: &Meta) -> Verdict {
        if !matches!(meta.class, Class::Tensor | Class::Matrix) {
            return Ok(());
        }
        let (here, all) = (cx.mask.count_ones(), cx.began.count_ones());
        let message = || format!("this is executed by {here} of the {all} threads of the warp: the others have exited");
        self.report(FaultKind::Barrier, cx.mask.trailing_zeros(), None, message)
    }

    /// An address taken of one array of shared memory must not reach into another.
    pub(super) unsafe fn in_its_array(&self, cx: &Cx, kernel: &Kernel, access: &Access, lanes: u32) -> Verdict {
        let Some(numbers) = self.arrays.as_ref().and_then(|arrays| arrays.get(cx.seat as usize, access.addr)) else {
            return Ok(());
        };
        // SAFETY: the access belongs to the instruction about to run.
        let addr = unsafe { addresses(cx, access) };
        let bytes = u64::from(access.bytes);
        for lane in (0..WARP).filter(|lane| lanes >> lane & 1 != 0 && numbers[*lane] != 0) {
            let at = if access.wide { addr[lane].wrapping_sub(SHARED_WINDOW) } else { addr[lane] };
            let (_, first, end) = &kernel.arrays[numbers[lane] as usize - 1];
            // What is outside shared memory is found without this.
            let inside = at.checked_add(bytes).is_some_and(|end| end <= u64::from(cx.shared_len));
            if inside && (at < *first || at + bytes > *end) {
                let name =
                    |name: &str| if name.is_empty() { "dynamic shared memory".to_owned() } else { format!("`{name}`") };
                let met = kernel.arrays.iter().find(|(_, first, end)| at + bytes > *first && at < *end);
                let message = || {
                    let (by, of) = match at < *first {
                        true => (first - at, "before the beginning"),
                        false => (at + bytes - end, "past the end"),
                    };
                    let met = met.map_or(String::new(), |(other, ..)| format!(", in {}", name(other)));
                    format!(
                        "{bytes} bytes at shared memory offset {at:#x}: {by} bytes {of} of {}{met}",
                        name(&kernel.arrays[numbers[lane] as usize - 1].0)
                    )
                };
                self.report(FaultKind::OutOfBounds, lane as u32, Some(at), message)?;
            }
        }
        Ok(())
    }

    /// An undefined value decides something.
    #[cold]
    pub(super) fn undefined(&self, kernel: &Kernel, (lanes, what): (u32, &str)) -> Verdict {
        let message = || format!("{what} is undefined: {}", self.memory.from(kernel));
        self.report(FaultKind::Uninitialised, lanes.trailing_zeros(), None, message)
    }

    /// Something is wrong, if that kind of thing is to be reported.
    pub(super) fn report(
        &self,
        kind: FaultKind,
        lane: u32,
        at: Option<u64>,
        message: impl FnOnce() -> String,
    ) -> Verdict {
        if self.checks.report.contains(kind) { Err((kind, lane, at, message())) } else { Ok(()) }
    }

    /// `bar.warp.sync` orders the lanes that name each other.
    pub(super) unsafe fn warp_sync(&mut self, cx: &Cx, op: *const Op) {
        let (warp, clocks) = (cx.seat as usize, &mut self.shared.clocks);
        // SAFETY: the membermask is 32 bits wide.
        unsafe {
            let members = (*op).r[0];
            if members == crate::ir::NO_SLOT || cx.joint {
                // Joint lanes wait for the same ones.
                clocks.warp_sync(warp, cx.mask, cx.alive);
                return;
            }
            let masks = cx.get::<u32>(members);
            let mut left = cx.mask;
            while left != 0 {
                let mask = masks[left.trailing_zeros() as usize];
                let same = (0..WARP).fold(0, |m, i| m | u32::from(masks[i] == mask) << i) & left;
                left &= !same;
                // Some may have yet to come.
                if mask & cx.alive & !cx.mask == 0 {
                    clocks.warp_sync(warp, same, cx.alive);
                }
            }
        }
    }

    /// What strong operations on flags order.
    pub(super) fn order(&mut self, cx: &Cx, access: &Access, addr: &[u64; WARP]) {
        let clocks = &mut self.shared.clocks;
        let (acquire, release) = (access.order & Access::ACQUIRE != 0, access.order & Access::RELEASE != 0);
        if clocks.quiet() && !release {
            return;
        }
        let window = if access.wide { 0 } else { SHARED_WINDOW };
        let mut left = cx.mask;
        while left != 0 {
            let a = addr[left.trailing_zeros() as usize];
            let lanes = (0..WARP).fold(0, |m, i| m | u32::from(addr[i] == a) << i) & left;
            left &= !lanes;
            let flag = cx.common(a.wrapping_add(window));
            let flags = [clocks.near(flag, cx.rank), flag];
            if access.kind != AccessKind::Store {
                clocks.observe(cx.seat as usize, lanes, flags[0], acquire);
                if flags[0] != flag {
                    clocks.observe(cx.seat as usize, lanes, flag, acquire);
                }
            }
            if access.kind != AccessKind::Load {
                clocks.publish(cx.seat as usize, lanes, flags, release, access.order & Access::CTA == 0);
            }
        }
    }

    /// Looks at lanes that touch the bytes at `a`.
    pub(super) unsafe fn look_at_lanes(
        &mut self,
        cx: &Cx,
        access: &Access,
        op: *const Op,
        lanes: u32,
        a: u64,
    ) -> Verdict {
        let bytes = u64::from(access.bytes);
        let strong = access.order & Access::STRONG != 0;
        let touch = match access.kind {
            AccessKind::Load if strong => Touch::StrongRead,
            AccessKind::Load => Touch::Read,
            AccessKind::Store if strong => Touch::StrongWrite,
            AccessKind::Store => Touch::Write(Values::Registers(access.lanes)),
            _ => Touch::Atomic,
        };
        let actor = Actor { warp: cx.seat as usize, lanes, proxy: None };
        if access.space == Space::Shared && !access.wide {
            if a + bytes <= u64::from(cx.shared_len) {
                // SAFETY: inside shared memory.
                unsafe { self.touch_shared(cx, cx.place(a as u32), bytes, actor, touch, op)? };
            }
        } else if a >= GLOBAL_BASE {
            self.not_pending(a, bytes, lanes.trailing_zeros(), touch)?;
            if self.checks.races.is_some() {
                // SAFETY: the instruction belongs to the code.
                unsafe { self.touch_global(cx, a, bytes, lanes, touch, op)? };
            }
        } else if cx.in_cluster(a, bytes).is_some() {
            // SAFETY: inside shared memory.
            unsafe { self.touch_shared(cx, cx.place_of(a), bytes, actor, touch, op)? };
        }
        Ok(())
    }
}
