//! What reports, checks and counters need to know about an instruction.

use super::access::Access;
use super::class::Class;
use super::op::Rule;
use crate::parse::Space;

/// What reports need to know about an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) line: u32,
    /// Byte offset of the instruction in the module's text.
    pub(crate) at: u32,
    /// Entry of [`super::Kernel::locs`]; the first says nothing.
    pub(crate) loc: u32,
    pub(crate) class: Class,
    /// The first step of its PTX instruction: stands for it in the counters.
    pub(crate) lead: bool,
    /// The guard of the next instruction, not an instruction by itself.
    pub(crate) guard: bool,
    /// A conditional branch or exit: r = predicate, negated.
    pub(crate) branch: bool,
    pub(crate) access: Option<Access>,
    /// Floating-point operations of one lane, or of the whole warp for tensor instructions.
    pub(crate) flops: u32,
    /// Part of an instruction that all threads of a warp must execute together.
    pub(crate) aligned: bool,
    /// How undefined bits pass through it.
    pub(crate) rule: Rule,
    /// Its registers: where they begin in [`super::Kernel::flows`], how many are written, and how many behind those are read.
    pub(crate) flow: (u32, u16, u16),
}

impl Meta {
    /// Whether an instruction neither orders anything nor touches memory that others see, and guards nothing that does. A matrix is loaded
    /// by all lanes together, who have waited for each other.
    fn calm(&self) -> bool {
        let orders = matches!(
            self.rule,
            Rule::Bulk | Rule::AsyncStore | Rule::BulkGroup | Rule::Mbarrier | Rule::Barrier | Rule::Fence
        ) || matches!(self.rule, Rule::Warpgroup | Rule::WarpgroupOrder | Rule::Cluster);
        let own = |access: Access| match self.rule {
            Rule::Load | Rule::Store => matches!(access.space, Space::Local | Space::Param),
            rule => rule == Rule::LoadMatrix,
        };
        self.access.is_none_or(own) && !orders
    }

    /// See [`super::Kernel::calm`].
    pub(crate) fn calm_runs(all: &[Meta]) -> Vec<u32> {
        let mut runs = vec![0; all.len()];
        for i in (0..all.len()).rev() {
            let about = if all[i].guard { all.get(i + 1) } else { Some(&all[i]) };
            if about.is_some_and(Meta::calm) {
                runs[i] = 1 + runs.get(i + 1).copied().unwrap_or(0);
            }
        }
        runs
    }
}

/// A `.loc`: place in a source file, and the entry of the place where that was inlined, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loc {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) inlined_at: u32,
}
