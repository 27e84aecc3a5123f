//! What is told when a block cannot go on.

use super::{Runner, State, Strand};
use crate::error::{Fault, FaultKind};
use crate::ir::*;
use crate::run::launch::thread_index;

impl Runner<'_> {
    pub(super) fn index(&self, op: *const Op) -> usize {
        let index = (op as usize).wrapping_sub(self.kernel.code.as_ptr() as usize) / size_of::<Op>();
        index.min(self.kernel.code.len() - 1)
    }

    pub(super) fn meta(&self, op: *const Op) -> &crate::ir::Meta {
        &self.kernel.meta[self.index(op)]
    }

    pub(super) fn line(&self, op: *const Op) -> u32 {
        self.meta(op).line
    }

    /// The fault a handler has reported.
    #[cold]
    pub(super) fn trapped(&mut self, strand: usize) -> Box<Fault> {
        match self.cx.trap.take() {
            Some(trap) => self.fault(strand, trap.kind, trap.lane, trap.address, trap.message),
            None => self.fault(strand, FaultKind::Trap, None, None, String::new()),
        }
    }

    /// Nobody can run: says who waits for whom.
    #[cold]
    pub(super) fn deadlock(&mut self) -> Box<Fault> {
        let strands = &self.worker.strands;
        let at = |s: &Strand| self.line(if s.state == State::Waiting { s.pc.wrapping_sub(1) } else { s.pc });
        if let Some(index) = strands.iter().position(|s| s.state == State::Sync) {
            let me = &strands[index];
            let missing = |lane: &u32| (me.wanted & self.worker.warps[me.warp].alive & !me.mask) >> lane & 1 != 0;
            let lane = (0..32).find(missing).unwrap_or(0);
            let other = strands.iter().find(|s| s.warp == me.warp && s.state != State::Done && s.mask >> lane & 1 != 0);
            let message = format!(
                "deadlock: lanes {:#010x} of the warp wait here for lane {lane}, which waits at line {}",
                me.mask,
                other.map_or(0, at)
            );
            let first = me.mask.trailing_zeros();
            self.cx.pc = me.pc;
            return self.fault(index, FaultKind::Barrier, Some(first), None, message);
        }
        let index = strands.iter().position(|s| s.state == State::Waiting).unwrap_or(0);
        let mut parts: Vec<String> = Vec::new();
        for (i, warp) in self.worker.warps.iter().enumerate().filter(|(_, w)| w.strands > 0).take(8) {
            let id = warp.arrival.id;
            let b = &self.barriers[id as usize];
            let wanted = if b.wanted == 0 { (self.warps * WARP) as u32 } else { b.wanted };
            let verb = if parts.is_empty() { " waits" } else { "" };
            let at = if id as usize >= NAMED { "with its warpgroup".to_owned() } else { format!("at barrier {id}") };
            parts.push(format!("warp {i}{verb} {at} ({} of {wanted} threads)", b.threads));
        }
        if self.left > parts.len() {
            parts.push(format!("{} more warps wait", self.left - parts.len()));
        }
        match self.warps - self.left {
            0 => {}
            1 => parts.push("1 warp has exited".to_owned()),
            n => parts.push(format!("{n} warps have exited")),
        }
        self.cx.pc = strands[index].pc.wrapping_sub(1);
        let message = format!("deadlock: {}", parts.join(", "));
        self.fault(index, FaultKind::Barrier, Some(0), None, message)
    }

    /// Every strand polls an mbarrier, and nothing can change that.
    #[cold]
    pub(super) fn starved(&mut self, strand: usize) -> Box<Fault> {
        let (mut lane, mut address, mut message) = (0, None, String::new());
        if let Some(Poll { op, lane: l, at, object }) = self.cx.poll {
            self.cx.pc = op;
            (lane, address) = (l, Some(u64::from(at)));
            message = format!(
                "the mbarrier at shared offset {at:#x} can never complete its phase of parity {}: {} of {} arrivals and {} bytes are pending, and ",
                u8::from(object.phase),
                object.pending,
                object.expected,
                object.bytes
            );
        }
        message += &format!("all {} warps of the block that have not exited wait", self.left);
        self.fault(strand, FaultKind::Barrier, Some(lane), address, message)
    }

    #[cold]
    pub(super) fn fault(
        &self,
        strand: usize,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        self.fault_at(self.worker.strands[strand].warp, self.cx.pc, kind, lane, address, message)
    }

    /// What is found after the fact, of an instruction by its number.
    pub(crate) fn fault_in(
        &self,
        index: usize,
        warp: usize,
        kind: FaultKind,
        lane: u32,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        self.fault_at(warp, &raw const self.kernel.code[index], kind, Some(lane), address, message)
    }

    pub(super) fn fault_at(
        &self,
        warp: usize,
        pc: *const Op,
        kind: FaultKind,
        lane: Option<u32>,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        let meta = self.meta(pc);
        let places: Vec<String> = self.kernel.source(meta.loc).iter().map(ToString::to_string).collect();
        let source_line = (!places.is_empty()).then(|| places.join(", inlined at "));
        Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            file: self.kernel.file.to_string(),
            line: meta.line,
            source_line,
            instruction: self.kernel.instruction(self.index(pc)).unwrap_or_default(),
            block: Some(self.block),
            thread: lane.map(|l| thread_index((warp * WARP) as u32 + l, self.info.block)),
            address,
            message,
        })
    }
}
