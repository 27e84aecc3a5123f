//! Who has been in the shared memory of other blocks of a cluster: a block must not end before they have left.

use super::clock::{Agent, Clocks};
use crate::ir::{WARP, lanes_of};
use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Visits {
    /// For each block the agents of other blocks of which nobody in it, who has exited, knows that they have left, with the time of the last access.
    visitors: Vec<HashMap<Agent, u32>>,
    /// Blocks that are over.
    gone: u32,
}

impl Visits {
    /// A cluster begins.
    pub(super) fn start(&mut self, blocks: usize) {
        self.visitors.resize_with(blocks, HashMap::new);
        self.visitors.iter_mut().for_each(HashMap::clear);
        self.gone = 0;
    }

    /// An agent touches the shared memory of another block. False when that is over.
    pub(super) fn visit(&mut self, clocks: &Clocks, rank: u32, agents: impl Iterator<Item = Agent>) -> bool {
        self.visitors[rank as usize].extend(agents.map(|agent| (agent, clocks.now)));
        self.gone >> rank & 1 == 0
    }

    /// Lanes of a warp of the block exit.
    pub(super) fn exit(&mut self, clocks: &Clocks, rank: u32, warp: usize, lanes: u32) {
        let stays = |agent: Agent, time| lanes_of(lanes).all(|l| !clocks.before(agent, time, (warp * WARP + l) as u32));
        self.visitors[rank as usize].retain(|agent, time| stays(*agent, *time));
    }

    /// The block is over. Gives who may still be there, in words.
    pub(super) fn over(&mut self, clocks: &Clocks, rank: u32) -> Option<String> {
        self.gone |= 1 << rank;
        let visitor = self.visitors[rank as usize].keys().min()?;
        Some(format!(
            "the block ends here, and {} has accessed its shared memory: nobody in the block knows that this was before (`barrier.cluster`)",
            clocks.name(*visitor)
        ))
    }
}
