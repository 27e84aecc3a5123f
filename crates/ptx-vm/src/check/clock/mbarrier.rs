//! The clocks of mbarriers, and of groups of bulk copies and of products of warpgroups.

use super::{Agent, Clock, Clocks, Phases, Tracked, join, raise};
use crate::ir::*;

impl Clocks {
    /// An mbarrier begins; its agent stays the same.
    pub(in crate::check) fn mbarrier_init(&mut self, thread: u32, at: u32) {
        self.mbarriers.insert(at, Phases { made: Some((thread as Agent, self.now)), ..Phases::default() });
    }

    /// Who made the mbarrier that lanes use, when that is not ordered before.
    pub(in crate::check) fn mbarrier_unmade(&self, warp: usize, lanes: u32, at: u32) -> Option<Agent> {
        let (maker, time) = self.mbarriers.get(&at)?.made?;
        lanes_of(lanes).any(|lane| !self.before(maker, time, (warp * WARP + lane) as u32)).then_some(maker)
    }

    pub(in crate::check) fn mbarrier_arrive(&mut self, warp: usize, lanes: u32, at: u32, release: bool) {
        self.now += 1;
        let mut phases = self.mbarriers.remove(&at).unwrap_or_default();
        if release {
            self.export(warp, lanes, &mut phases.pending);
        } else {
            for group in self.warps[warp].iter().filter(|g| g.lanes & lanes != 0) {
                join(&mut phases.pending, &group.fenced);
            }
        }
        self.mbarriers.insert(at, phases);
    }

    /// The mbarrier tracks all copies the lanes have made so far.
    pub(in crate::check) fn mbarrier_copies(&mut self, warp: usize, lanes: u32, at: u32) {
        self.now += 1;
        let phases = self.mbarriers.entry(at).or_default();
        for lane in lanes_of(lanes) {
            raise(&mut phases.pending, self.threads + warp * WARP + lane, self.now);
        }
    }

    /// The mbarrier counts a bulk copy that was made now.
    pub(in crate::check) fn mbarrier_bulk(&mut self, at: u32) {
        let agent = self.tracked(Tracked::Mbarrier(at));
        self.now += 1;
        raise(&mut self.mbarriers.entry(at).or_default().pending, agent as usize, self.now);
    }

    pub(in crate::check) fn mbarrier_complete(&mut self, at: u32) {
        let phases = self.mbarriers.entry(at).or_default();
        join(&mut phases.done, &phases.pending);
        phases.pending.clear();
    }

    pub(in crate::check) fn mbarrier_waited(&mut self, warp: usize, lanes: u32, at: u32, acquire: bool) {
        let Some(phases) = self.mbarriers.remove(&at) else { return };
        if acquire {
            self.acquire(warp, lanes, &phases.done);
        } else {
            self.split(warp, lanes).for_each(|g| join(&mut g.heard, &phases.done));
        }
        self.mbarriers.insert(at, phases);
    }

    /// Who reads the operands of a warp's products.
    pub(in crate::check) fn product_agent(&mut self, warp: u32) -> Agent {
        self.tracked(Tracked::Warpgroup(warp))
    }

    /// Whether an agent is such.
    pub(in crate::check) fn is_product(&self, agent: Agent) -> bool {
        self.agents.iter().any(|(what, known)| *known == agent && matches!(what, Tracked::Warpgroup(_)))
    }

    /// A group of products is closed, at this time.
    pub(in crate::check) fn product_commit(&mut self) -> u32 {
        self.now += 1;
        self.now
    }

    /// A warp knows that the products of warp `of` up to a time are complete.
    pub(in crate::check) fn product_wait(&mut self, warp: usize, of: u32, time: u32) {
        let agent = self.product_agent(of);
        let mut clock = Clock::new();
        raise(&mut clock, agent as usize, time);
        self.acquire(warp, FULL, &clock);
    }

    pub(in crate::check) fn bulk_commit(&mut self, warp: usize, lanes: u32) {
        self.now += 1;
        for lane in lanes_of(lanes) {
            self.bulk.entry((warp * WARP + lane) as u32).or_default().push(self.now);
        }
    }

    /// At most `pending` bulk groups of each lane stay incomplete.
    pub(in crate::check) fn bulk_wait(&mut self, warp: usize, lanes: u32, pending: u32) {
        for lane in lanes_of(lanes) {
            let thread = (warp * WARP + lane) as u32;
            let time = self.bulk.get(&thread).and_then(|c| c.iter().rev().nth(pending as usize)).copied();
            if let (Some(time), Some(agent)) = (time, self.agents.get(&Tracked::Thread(thread)).copied()) {
                let mut clock = Clock::new();
                raise(&mut clock, agent as usize, time);
                self.acquire(warp, 1 << lane, &clock);
            }
        }
    }
}
