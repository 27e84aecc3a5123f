//! Who is ordered before whom: the happens-before relation among the threads of a block, or of a cluster of blocks. Threads and warps have
//! numbers in the cluster.
//!
//! Time is one counter that moves on at every synchronisation. A clock says for each agent up to which time what it did is known; what
//! an agent did at time `t` is ordered before whoever knows it beyond `t`. Lanes of a warp that know the same share one clock, and a
//! barrier of the whole block is a floor under all clocks, so that kernels which use nothing else pay nothing.

mod mbarrier;

use crate::ir::{FULL, NAMED, OFFSET, RANK_SHIFT, WARP, lanes_of};
use std::collections::{HashMap, VecDeque};

/// Whoever touches memory: the threads of the cluster by number, then each thread's `cp.async` copies, then whatever [`Tracked`] names.
pub(super) type Agent = u16;

/// A thread of another block that has released: block and thread.
pub(super) type Releaser = (u64, u32);

/// What completes bulk copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Tracked {
    /// The mbarrier at this shared offset.
    Mbarrier(u32),
    /// The bulk groups of this thread.
    Thread(u32),
    /// Products of matrices by this warp, as part of its warpgroup.
    Warpgroup(u32),
    /// Not copies: the releases of a thread of another block. Its time is their number.
    Release(Releaser),
}

/// For each agent the time up to which it is known; agents beyond the end are not.
pub(super) type Clock = Vec<u32>;

/// `cp.async` groups remembered for each warp; more cannot be pending.
const GROUPS: usize = 256;

pub(super) fn join(to: &mut Clock, from: &[u32]) {
    if to.len() < from.len() {
        to.resize(from.len(), 0);
    }
    for (a, b) in to.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

pub(super) fn raise(clock: &mut Clock, agent: usize, time: u32) {
    if clock.len() <= agent {
        clock.resize(agent + 1, 0);
    }
    clock[agent] = clock[agent].max(time);
}

/// Lanes of a warp that know the same.
#[derive(Clone, Default)]
struct Group {
    lanes: u32,
    /// Up to when all lanes of the own warp are known.
    own: u32,
    seen: Clock,
    /// What was known at the last fence: what relaxed writes after it pass on.
    fenced: Clock,
    /// The same for other blocks, at the last fence that reaches them.
    far: Clock,
    /// What relaxed reads have found: known after the next fence.
    heard: Clock,
}

/// The arrivals at an mbarrier.
#[derive(Default)]
struct Phases {
    /// Who made it, and when.
    made: Option<(Agent, u32)>,
    /// What the arrivals of the current phase knew.
    pending: Clock,
    /// What those of all complete phases knew.
    done: Clock,
}

#[derive(Default)]
pub(super) struct Clocks {
    threads: usize,
    pub(super) now: u32,
    /// Threads are known to everyone up to here.
    pub(super) floor: u32,
    /// The same for the agents beyond the threads, one by one.
    settled: Clock,
    warps: Vec<Vec<Group>>,
    /// Up to when each thread has waited for its own `cp.async` copies.
    copied: Vec<u32>,
    /// The committed groups of each warp: lanes and time.
    commits: Vec<VecDeque<(u32, u32)>>,
    /// What those who arrived at a named barrier and went on knew.
    named: Vec<Clock>,
    /// What those knew who have arrived at the barrier of the cluster in this phase, and in the last one.
    cluster: [Clock; 2],
    /// Blocks of the cluster.
    blocks: usize,
    /// When threads have last told the cluster of the mbarriers they have made.
    told_mbarriers: HashMap<u32, u32>,
    mbarriers: HashMap<u32, Phases>,
    /// What releases have left at flags, by generic address.
    flags: HashMap<u64, Clock>,
    fences: bool,
    agents: HashMap<Tracked, Agent>,
    /// What threads knew, themselves included, when they last told asynchronous copies of it.
    proxied: HashMap<u32, Clock>,
    bulk: HashMap<u32, Vec<u32>>,
}

impl Clocks {
    /// A cluster of blocks begins; nothing is ordered but what lies before it.
    pub(super) fn start(&mut self, blocks: usize, seats: usize) {
        let warps = blocks * seats;
        self.now += 1;
        self.floor = self.now;
        self.threads = warps * WARP;
        self.settled.clear();
        self.settled.resize(self.threads, 0);
        self.copied.clear();
        self.copied.resize(self.threads, 0);
        self.warps.clear();
        self.warps.resize_with(warps, || vec![Group { lanes: FULL, ..Group::default() }]);
        self.commits.clear();
        self.commits.resize_with(warps, VecDeque::new);
        self.named.resize(NAMED * blocks, Clock::new());
        self.named.iter_mut().for_each(Vec::clear);
        self.cluster.iter_mut().for_each(Vec::clear);
        self.blocks = blocks;
        self.told_mbarriers.clear();
        self.mbarriers.clear();
        self.flags.clear();
        self.fences = false;
        self.agents.clear();
        self.proxied.clear();
        self.bulk.clear();
    }

    /// Whether what `agent` did at `time` is ordered before what `thread` does now.
    pub(super) fn before(&self, agent: Agent, time: u32, thread: u32) -> bool {
        let (agent, thread) = (agent as usize, thread as usize);
        if agent == thread {
            return true;
        }
        let floor = match agent.checked_sub(self.threads) {
            None => self.floor,
            Some(copy) if copy == thread => self.settled[copy].max(self.copied[thread]),
            Some(beyond) => self.settled[beyond],
        };
        if time < floor {
            return true;
        }
        let warp = thread / WARP;
        let Some(group) = self.warps[warp].iter().find(|g| g.lanes >> (thread % WARP) & 1 != 0) else { return false };
        agent < self.threads && agent / WARP == warp && time < group.own
            || group.seen.get(agent).is_some_and(|known| time < *known)
    }

    /// Threads of the block, whole warps.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Up to when a thread knows an agent that is no thread of the block.
    pub(super) fn known(&self, agent: Agent, thread: u32) -> u32 {
        let (agent, thread) = (agent as usize, thread as usize);
        let settled = self.settled.get(agent - self.threads).copied().unwrap_or(0);
        let group = self.warps[thread / WARP].iter().find(|g| g.lanes >> (thread % WARP) & 1 != 0);
        settled.max(group.and_then(|g| g.seen.get(agent)).copied().unwrap_or(0))
    }

    /// The agents that stand for releasing threads of other blocks.
    pub(super) fn all_releasers(&self) -> impl Iterator<Item = (Releaser, Agent)> {
        self.agents.iter().filter_map(|(what, agent)| match what {
            Tracked::Release(releaser) => Some((*releaser, *agent)),
            _ => None,
        })
    }

    /// Those of one block.
    pub(super) fn releasers(&self, block: u64) -> impl Iterator<Item = (Releaser, Agent)> {
        self.all_releasers().filter(move |((of, _), _)| *of == block)
    }

    /// All that lanes know.
    fn snapshot(&self, warp: usize, lanes: u32) -> Clock {
        let mut clock = vec![self.floor; self.threads];
        clock.extend(&self.settled);
        self.export(warp, lanes, &mut clock);
        clock
    }

    /// What a lane tells other blocks by a flag: all it knows, or what it knew at its last fence.
    pub(super) fn tells(&mut self, warp: usize, lane: usize, release: bool) -> Option<Clock> {
        if release {
            self.now += 1;
            return Some(self.snapshot(warp, 1 << lane));
        }
        let group = self.warps[warp].iter().find(|g| g.lanes >> lane & 1 != 0)?;
        (!group.far.is_empty()).then(|| group.far.clone())
    }

    /// Lanes hear what a flag of another block tells: they know it at once, or after their next fence.
    pub(super) fn hears(&mut self, warp: usize, lanes: u32, clock: &Clock, acquire: bool) {
        if acquire {
            self.acquire(warp, lanes, clock);
        } else {
            self.split(warp, lanes).for_each(|g| join(&mut g.heard, clock));
        }
    }

    /// Whether an agent is a thread of the block.
    pub(super) fn is_thread(&self, agent: Agent) -> bool {
        (agent as usize) < self.threads
    }

    /// The agent of a thread's `cp.async` copies.
    pub(super) fn copies_of(&self, thread: u32) -> Agent {
        (self.threads + thread as usize) as Agent
    }

    /// Whether those copies, made at `time`, have been waited for by their thread.
    pub(super) fn waited_for(&self, agent: Agent, time: u32) -> bool {
        let thread = agent as usize - self.threads;
        self.copied.get(thread).is_some_and(|copied| time < *copied)
    }

    pub(super) fn tracked(&mut self, what: Tracked) -> Agent {
        let next = (2 * self.threads + self.agents.len()) as Agent;
        let agent = *self.agents.entry(what).or_insert(next);
        let needed = agent as usize + 1 - self.threads;
        self.settled.resize(self.settled.len().max(needed), 0);
        agent
    }

    /// A thread of the cluster in words.
    fn thread(&self, thread: u32) -> String {
        let each = (self.threads / self.blocks) as u32;
        format!("thread {}{}", thread % each, self.of_block(thread / each))
    }

    /// A thread of another cluster, whose first block has that number.
    pub(super) fn thread_of(&self, block: u64, thread: u32) -> String {
        let each = (self.threads / self.blocks) as u32;
        format!("thread {} of block {}", thread % each, block + u64::from(thread / each))
    }

    /// Which block of the cluster, if there are several.
    pub(super) fn of_block(&self, rank: u32) -> String {
        if self.blocks > 1 { format!(" of block {rank} of the cluster") } else { String::new() }
    }

    /// An agent in words.
    pub(super) fn name(&self, agent: Agent) -> String {
        let number = agent as usize;
        if number < self.threads {
            return self.thread(agent.into());
        }
        if number < 2 * self.threads {
            return format!("the cp.async of {}", self.thread((number - self.threads) as u32));
        }
        match self.agents.iter().find(|(_, a)| **a == agent) {
            Some((Tracked::Mbarrier(at), _)) => {
                format!("a bulk copy counted by the mbarrier at {:#x}{}", at & OFFSET, self.of_block(at >> RANK_SHIFT))
            }
            Some((Tracked::Thread(thread), _)) => format!("a bulk copy of {}", self.thread(*thread)),
            Some((Tracked::Warpgroup(warp), _)) => {
                let seats = (self.warps.len() / self.blocks) as u32;
                format!("a wgmma of warp {}{}", warp % seats, self.of_block(warp / seats))
            }
            Some((Tracked::Release((block, thread)), _)) => self.thread_of(*block, *thread),
            None => "a bulk copy".to_owned(),
        }
    }

    /// Adds to `to` what lanes know, themselves included up to now.
    fn export(&self, warp: usize, lanes: u32, to: &mut Clock) {
        let first = warp * WARP;
        to.resize(to.len().max(self.threads), 0);
        for group in self.warps[warp].iter().filter(|g| g.lanes & lanes != 0) {
            join(to, &group.seen);
            if group.own > self.floor {
                to[first..first + WARP].iter_mut().for_each(|t| *t = (*t).max(group.own));
            }
        }
        for thread in lanes_of(lanes).map(|l| first + l) {
            to[thread] = self.now;
            if self.copied[thread] > self.settled[thread] {
                raise(to, self.threads + thread, self.copied[thread]);
            }
        }
    }

    /// Splits groups so that each lies inside `lanes` or outside; gives those inside.
    fn split(&mut self, warp: usize, lanes: u32) -> impl Iterator<Item = &mut Group> {
        let groups = &mut self.warps[warp];
        for i in 0..groups.len() {
            let part = groups[i].lanes & lanes;
            if part != 0 && part != groups[i].lanes {
                groups[i].lanes &= !part;
                let inside = Group { lanes: part, ..groups[i].clone() };
                groups.push(inside);
            }
        }
        groups.iter_mut().filter(move |g| g.lanes & lanes != 0)
    }

    /// Lanes learn what a clock knows.
    fn acquire(&mut self, warp: usize, lanes: u32, from: &[u32]) {
        let (threads, floor) = (self.threads, self.floor);
        let news = |group: &Group| {
            from.iter().enumerate().any(|(agent, time)| {
                let known = group.seen.get(agent).copied().unwrap_or(0);
                *time > known.max(if agent < threads { floor } else { self.settled[agent - threads] })
            })
        };
        let wanted = self.warps[warp].iter().filter(|g| g.lanes & lanes != 0 && news(g)).fold(0, |m, g| m | g.lanes);
        if wanted & lanes != 0 {
            self.now += 1;
            self.split(warp, wanted & lanes).for_each(|g| join(&mut g.seen, from));
        }
    }

    /// What lanes of warps knew at their last fences that reach other blocks: who has met them hands it on with a flag.
    fn far(&self, warps: impl Iterator<Item = usize>) -> Clock {
        let mut all = Clock::new();
        warps.flat_map(|warp| &self.warps[warp]).for_each(|group| join(&mut all, &group.far));
        all
    }

    /// A barrier of all warps that are left.
    pub(super) fn barrier(&mut self) {
        self.now += 1;
        let far = self.far(0..self.warps.len());
        for (settled, copied) in self.settled.iter_mut().zip(&self.copied) {
            *settled = (*settled).max(*copied);
        }
        for groups in &mut self.warps {
            for group in groups.iter() {
                if let Some(beyond) = group.seen.get(self.threads..) {
                    join(&mut self.settled, beyond);
                }
            }
            groups.truncate(1);
            for group in groups {
                group.lanes = FULL;
                group.own = 0;
                group.seen.clear();
                group.fenced.clear();
                group.far.clone_from(&far);
                group.heard.clear();
            }
        }
        self.floor = self.now;
    }

    /// A warp arrives at a named barrier and goes on.
    pub(super) fn arrive_named(&mut self, id: usize, warp: usize) {
        self.now += 1;
        let mut clock = std::mem::take(&mut self.named[id]);
        self.export(warp, FULL, &mut clock);
        self.named[id] = clock;
    }

    /// A named barrier opens for these warps.
    pub(super) fn release_named(&mut self, id: usize, warps: &[usize]) {
        self.now += 1;
        let mut clock = std::mem::take(&mut self.named[id]);
        for &warp in warps {
            self.export(warp, FULL, &mut clock);
        }
        let far = self.far(warps.iter().copied());
        for &warp in warps {
            let (seen, far) = (clock.clone(), far.clone());
            let all = Group { lanes: FULL, own: self.now, seen, far, ..Group::default() };
            self.warps[warp] = vec![all];
        }
    }

    /// Lanes arrive at the barrier of the cluster.
    pub(super) fn cluster_arrive(&mut self, warp: usize, lanes: u32, release: bool) {
        self.now += 1;
        let mut clock = std::mem::take(&mut self.cluster[0]);
        if release {
            join(&mut clock, &self.snapshot(warp, lanes));
        } else {
            self.warps[warp].iter().filter(|g| g.lanes & lanes != 0).for_each(|g| join(&mut clock, &g.far));
        }
        self.cluster[0] = clock;
    }

    /// It opens. Gives the places of mbarriers that everybody knows from now on.
    pub(super) fn cluster_open(&mut self) -> Vec<u32> {
        self.now += 1;
        self.cluster[1] = std::mem::take(&mut self.cluster[0]);
        let told = &self.told_mbarriers;
        let known = |made: (Agent, u32)| told.get(&u32::from(made.0)).is_some_and(|time| made.1 < *time);
        let news = self.mbarriers.iter_mut().filter(|(_, phases)| phases.made.is_some_and(known));
        news.map(|(at, phases)| (phases.made = None, *at).1).collect()
    }

    /// Lanes have waited at it.
    pub(super) fn cluster_wait(&mut self, warp: usize, lanes: u32, acquire: bool) {
        let clock = std::mem::take(&mut self.cluster[1]);
        self.hears(warp, lanes, &clock, acquire);
        self.cluster[1] = clock;
    }

    /// `fence.mbarrier_init`.
    pub(super) fn tell_mbarriers(&mut self, warp: usize, lanes: u32) {
        self.now += 1;
        let threads = lanes_of(lanes).map(|lane| ((warp * WARP + lane) as u32, self.now));
        self.told_mbarriers.extend(threads);
    }

    /// `bar.warp.sync` of some lanes, of which `alive` have not exited.
    pub(super) fn warp_sync(&mut self, warp: usize, lanes: u32, alive: u32) {
        self.now += 1;
        let whole = alive & !lanes == 0;
        let copies = lanes_of(lanes).map(|l| warp * WARP + l).any(|t| self.copied[t] > self.settled[t]);
        if whole && self.warps[warp].len() == 1 && !copies {
            self.warps[warp][0].own = self.now;
            return;
        }
        let mut merged = Group { lanes: if whole { FULL } else { lanes }, ..Group::default() };
        self.export(warp, lanes, &mut merged.seen);
        if whole {
            merged.own = self.now;
        }
        for group in self.warps[warp].iter_mut().filter(|g| g.lanes & lanes != 0) {
            join(&mut merged.fenced, &group.fenced);
            join(&mut merged.far, &group.far);
            join(&mut merged.heard, &group.heard);
            group.lanes &= !merged.lanes;
        }
        self.warps[warp].retain(|g| g.lanes & !merged.lanes != 0);
        self.warps[warp].push(merged);
    }

    /// A fence, for the block alone or `wide`.
    pub(super) fn fence(&mut self, warp: usize, lanes: u32, wide: bool) {
        self.now += 1;
        self.fences = true;
        let whole = lanes;
        self.split(warp, lanes).for_each(|g| {
            let heard = std::mem::take(&mut g.heard);
            join(&mut g.seen, &heard);
        });
        let inside: Vec<u32> = self.warps[warp].iter().map(|g| g.lanes & whole).filter(|l| *l != 0).collect();
        for part in inside {
            let mut fenced = Clock::new();
            self.export(warp, part, &mut fenced);
            let far = if wide { self.snapshot(warp, part) } else { Clock::new() };
            self.split(warp, part).for_each(|g| {
                g.fenced.clone_from(&fenced);
                if wide {
                    g.far.clone_from(&far);
                }
            });
        }
    }

    /// `fence.proxy.async`.
    pub(super) fn proxy(&mut self, warp: usize, lanes: u32) {
        self.now += 1;
        for lane in lanes_of(lanes) {
            let clock = self.snapshot(warp, 1 << lane);
            self.proxied.insert((warp * WARP + lane) as u32, clock);
        }
    }

    /// Whether asynchronous copies that `thread` makes now see what `agent` wrote at `time`: a fence told them, of the writer or the copier.
    pub(super) fn told(&self, agent: Agent, time: u32, thread: u32) -> bool {
        let tells = |teller: u32| {
            let clock = self.proxied.get(&teller);
            clock.is_some_and(|clock| clock.get(agent as usize).is_some_and(|known| time < *known))
        };
        !self.is_thread(agent) || tells(u32::from(agent)) || tells(thread)
    }

    /// Under what name a flag passes on what concerns one block of a cluster only.
    pub(super) fn near(&self, flag: u64, rank: u32) -> u64 {
        if self.blocks > 1 { flag ^ u64::from(rank + 1) << 57 } else { flag }
    }

    /// Lanes read a flag by a strong operation.
    pub(super) fn observe(&mut self, warp: usize, lanes: u32, flag: u64, acquire: bool) {
        let Some(clock) = self.flags.remove(&flag) else { return };
        if acquire {
            self.acquire(warp, lanes, &clock);
        } else {
            self.split(warp, lanes).for_each(|g| join(&mut g.heard, &clock));
        }
        self.flags.insert(flag, clock);
    }

    /// Lanes write a flag by a strong operation, for the block `near` or for the cluster.
    pub(super) fn publish(&mut self, warp: usize, lanes: u32, [near, flag]: [u64; 2], release: bool, wide: bool) {
        let flag = if wide { flag } else { near };
        if release {
            self.now += 1;
            let mut clock = self.flags.remove(&flag).unwrap_or_default();
            self.export(warp, lanes, &mut clock);
            self.flags.insert(flag, clock);
        } else if self.fences {
            for group in self.warps[warp].iter().filter(|g| g.lanes & lanes != 0 && !g.fenced.is_empty()) {
                join(self.flags.entry(near).or_default(), &group.fenced);
                if wide && near != flag {
                    join(self.flags.entry(flag).or_default(), &group.far);
                }
            }
        }
    }

    /// Whether any flag may carry anything: else relaxed operations need not be looked at.
    pub(super) fn quiet(&self) -> bool {
        self.flags.is_empty() && !self.fences
    }

    /// `cp.async.commit_group`.
    pub(super) fn commit(&mut self, warp: usize, lanes: u32) {
        self.now += 1;
        let commits = &mut self.commits[warp];
        if commits.len() == GROUPS {
            commits.pop_front();
        }
        commits.push_back((lanes, self.now));
    }

    /// At most `pending` groups of each lane stay incomplete; `u32::MAX` waits for all copies, committed or not.
    pub(super) fn wait(&mut self, warp: usize, lanes: u32, pending: u32) {
        if pending == u32::MAX {
            self.now += 1;
        }
        for lane in lanes_of(lanes) {
            let time = if pending == u32::MAX {
                Some(self.now)
            } else {
                let mine = self.commits[warp].iter().rev().filter(|(l, _)| l >> lane & 1 != 0);
                mine.map(|(_, time)| *time).nth(pending as usize)
            };
            let copied = &mut self.copied[warp * WARP + lane];
            *copied = (*copied).max(time.unwrap_or(0));
        }
    }
}
