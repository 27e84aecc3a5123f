//! Parts of a forward pass that are kept and reused separately: single modules, or runs of modules.
//!
//! Every module of a block only adds to the hidden state, so the sum of adjacent modules is one tensor, however many they are. A policy
//! names its [`ModuleGroup`]s once; after that a plan is two small sets: the groups to reuse and the groups to keep.

use std::ops::Range;

/// Runs of modules that are reused in the same steps. The sum that a run adds is kept as one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ModuleGroup {
    /// Ranges of module indices ([`Anatomy::module`](super::Anatomy::module)), ascending, non-empty and non-adjacent.
    pub runs: Vec<Range<usize>>,
}

impl ModuleGroup {
    /// Whether module `index` belongs to the group.
    pub fn contains(&self, index: usize) -> bool {
        self.runs.iter().any(|run| run.contains(&index))
    }

    pub(super) fn meets(&self, other: &ModuleGroup) -> bool {
        self.runs.iter().any(|a| other.runs.iter().any(|b| a.start < b.end && b.start < a.end))
    }
}

/// A subset of a policy's groups, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct GroupSet(u32);

impl GroupSet {
    /// Adds group `index`, which must be below 32.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Whether the set contains group `index`.
    pub fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The groups in either set.
    pub fn union(self, other: GroupSet) -> GroupSet {
        GroupSet(self.0 | other.0)
    }

    /// Whether the set is a subset of `other`.
    pub fn is_within(self, other: GroupSet) -> bool {
        self.0 & !other.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Anatomy;

    #[test]
    fn sets_of_groups() {
        let blocks = Anatomy::spatial_temporal(2).all(1..2);
        assert!(blocks.contains(6) && blocks.contains(11) && !blocks.contains(5) && !blocks.contains(12));
        let mut set = GroupSet::default();
        set.insert(31);
        assert!(set.contains(31) && !set.contains(0) && !set.is_empty());
        assert!(set.is_within(set.union(GroupSet(1))) && !set.is_within(GroupSet(1)));
    }
}
