//! Clusters of blocks: one thread runs the blocks of a cluster in turns. Most launches have none: then a cluster is a block, and all there is
//! to do is to run that.

use super::adverse::Flying;
use super::block::{Progress, Runner};
use super::launch::LaunchInfo;
use super::meeting::Meeting;
use super::order::mix;
use crate::check::Watch;
use crate::error::{Fault, FaultKind};
use crate::ir::Kernel;
use crate::memory::Table;
use std::cell::RefCell;
use std::rc::Rc;

/// How often the blocks of a cluster poll mbarriers in vain, one after the other, before that is a deadlock.
const ROUNDS: u32 = 10_000;

/// Runs clusters of one launch on one thread, one after the other.
pub(crate) struct Cluster<'a> {
    info: &'a LaunchInfo<'a>,
    /// Its blocks, by rank.
    runners: Vec<Runner<'a>>,
    /// The lanes of the warps of a block.
    lanes: Vec<u32>,
    watch: Option<Box<Watch>>,
    meeting: Rc<RefCell<Meeting>>,
    flying: Flying,
    /// Where the cluster stands among those of the grid.
    pub(crate) place: u64,
    /// Blocks that are not over, by rank, and the one whose turn comes.
    left: u32,
    next: u32,
    /// Rounds in which all that blocks have done was to wait for each other.
    rounds: u32,
}

/// What the host may hear of: where undefined values went, the instruction, and the report.
type Leaked = (std::ops::Range<u64>, usize, Box<Fault>);

impl<'a> Cluster<'a> {
    pub(crate) fn new(
        kernel: &'a Kernel,
        info: &'a LaunchInfo<'a>,
        table: &'a Table,
        params: &[u8],
        watch: Option<Box<Watch>>,
        sm: u32,
    ) -> Cluster<'a> {
        let meeting = Rc::<RefCell<Meeting>>::default();
        let runner = |rank| Runner::new(kernel, info, table, params, sm, rank, meeting.clone());
        let mut runners: Vec<Runner<'a>> = (0..info.blocks).map(runner).collect();
        let peers: Vec<*mut u8> = runners.iter().map(Runner::shared).collect();
        runners.iter_mut().for_each(|runner| runner.meet(&peers));
        let lanes = runners[0].lanes();
        Cluster {
            info,
            runners,
            lanes,
            watch,
            meeting,
            flying: Flying::default(),
            place: 0,
            left: 0,
            next: 0,
            rounds: 0,
        }
    }

    /// Takes up a cluster; [`Cluster::advance`] runs it.
    pub(crate) fn start(&mut self, place: u64) {
        (self.place, self.rounds) = (place, 0);
        // In adverse mode any block may begin.
        let first = self.info.adverse.map_or(0, |seed| mix(seed ^ mix(place)) % u64::from(self.info.blocks));
        (self.left, self.next) = (u32::MAX >> (32 - self.info.blocks), first as u32);
        let seats = self.info.seats();
        self.flying = Flying::default();
        self.meeting.borrow_mut().start(self.runners.len(), seats, &self.lanes);
        for (rank, runner) in self.runners.iter_mut().enumerate() {
            let block = self.info.block_index(place, rank as u32);
            runner.start(place, self.info.block_number(block), block);
        }
        if let Some(watch) = &mut self.watch {
            self.runners[0].watch_start(watch, seats);
        }
    }

    /// Runs the cluster to its end, or until it seems to wait for another one: then false.
    pub(crate) fn advance(&mut self) -> Result<bool, Box<Fault>> {
        if self.runners.len() == 1 {
            let done = self.turn(0)? == Progress::Done;
            if done {
                self.ended()?;
            }
            return Ok(done);
        }
        loop {
            // Whether any block did more than to wait for others, and whether all wait for what may come from elsewhere.
            let (mut moved, mut polls, mut spins) = (false, None, true);
            for _ in 0..self.runners.len() {
                let rank = self.next as usize;
                self.next = (self.next + 1) % self.info.blocks;
                if self.left >> rank & 1 == 0 {
                    continue;
                }
                match self.turn(rank)? {
                    Progress::Done => (self.left, moved, spins) = (self.left & !(1 << rank), true, false),
                    Progress::Waits => moved = true,
                    Progress::Ran => (moved, spins) = (true, false),
                    Progress::Polls => polls = Some(rank),
                    Progress::Stuck => {}
                }
            }
            if self.left == 0 {
                return self.ended().map(|()| true);
            }
            self.rounds = if moved { 0 } else { self.rounds + 1 };
            if self.rounds > ROUNDS || !moved && polls.is_none() {
                let rank = polls.unwrap_or(self.left.trailing_zeros() as usize);
                return Err(self.runners[rank].stuck());
            }
            if moved && spins {
                return Ok(false);
            }
        }
    }

    /// The turn of a block.
    fn turn(&mut self, rank: usize) -> Result<Progress, Box<Fault>> {
        let runner = &mut self.runners[rank];
        runner.watch = self.watch.take();
        runner.exchange(&mut self.flying);
        let outcome = runner.advance();
        runner.exchange(&mut self.flying);
        self.watch = runner.watch.take();
        if self.runners.len() > 1 {
            // What one has changed all may have waited for.
            let changes = self.runners[rank].changes();
            self.runners.iter_mut().for_each(|runner| runner.learn(changes));
        }
        outcome
    }

    /// All warps have ended: whether they should have.
    fn ended(&self) -> Result<(), Box<Fault>> {
        let Some((index, seat, message)) = self.watch.as_ref().and_then(|watch| watch.ended()) else { return Ok(()) };
        let seats = self.info.seats();
        Err(self.runners[seat / seats].fault_in(index, seat % seats, FaultKind::Barrier, 0, None, message))
    }

    /// What the cluster has stored to global memory that is undefined: where it went, and the first store that did it.
    pub(crate) fn leaks(&mut self) -> Vec<Leaked> {
        let leaks = self.watch.as_mut().map(|watch| watch.leaks()).unwrap_or_default();
        let seats = self.info.seats();
        let report = |leak: crate::check::Leak| {
            let message = format!("an undefined value is stored at {:#x}: {}", leak.address, leak.from);
            let (runner, at) = (&self.runners[leak.warp / seats], Some(leak.address));
            let kind = FaultKind::Uninitialised;
            let fault = runner.fault_in(leak.index, leak.warp % seats, kind, leak.lane, at, message);
            (leak.first..leak.end, leak.index, fault)
        };
        leaks.into_iter().map(report).collect()
    }

    /// The observer, when there will be no more to observe.
    pub(crate) fn watch(&mut self) -> Option<Box<Watch>> {
        self.watch.take()
    }

    /// Bytes that the resident blocks take.
    pub(crate) fn bytes(&self) -> usize {
        self.runners.iter().map(Runner::bytes).sum()
    }

    /// The launch has ended as a whole, and the cluster with it.
    pub(crate) fn cut(&self) -> bool {
        self.runners.iter().any(|runner| runner.cut)
    }
}
