//! Module-group policies whose plans are all known before the first step.

use super::groups::{GroupSet, ModuleGroup};
use super::measurement::Measurement;
use super::policy::{Decision, Plan, Policy, Probes};

/// A module-group policy that measures nothing: all its plans are known before the first step.
///
/// Only the last step that computes a whole group before a step that reuses it keeps the group.
#[derive(Clone, Debug)]
pub struct ModuleSchedule {
    name: &'static str,
    groups: Vec<ModuleGroup>,
    plans: Vec<Plan>,
    ends_guidance: bool,
}

impl ModuleSchedule {
    /// A schedule for `wanted` groups (at most 32), each with the steps that should reuse it (index 0 is step 1). A group that was not
    /// computed before is computed nonetheless, and so is one that shares some of its modules with another reused group.
    pub(super) fn new(name: &'static str, steps: usize, mut wanted: Vec<(ModuleGroup, Vec<bool>)>) -> ModuleSchedule {
        wanted.retain(|(group, reused)| !group.runs.is_empty() && reused.iter().skip(1).any(|reused| *reused));
        let mut sets = vec![(GroupSet::default(), GroupSet::default()); steps];
        let mut computed: Vec<Option<usize>> = vec![None; wanted.len()];
        for step in 0..steps {
            let mut reused: Vec<usize> = vec![];
            let free = |group: &ModuleGroup, reused: &[usize]| reused.iter().all(|&r| !wanted[r].0.meets(group));
            for (i, (group, steps)) in wanted.iter().enumerate() {
                if let (true, Some(kept)) = (steps[step] && free(group, &reused), computed[i]) {
                    sets[kept].1.insert(i);
                    sets[step].0.insert(i);
                    reused.push(i);
                }
            }
            for (computed, (group, _)) in computed.iter_mut().zip(&wanted) {
                if free(group, &reused) {
                    *computed = Some(step);
                }
            }
        }
        let plan = |(reused, kept): (GroupSet, GroupSet)| match reused.union(kept).is_empty() {
            true => Plan::Compute,
            false => Plan::Partial { reused, kept },
        };
        let groups = wanted.into_iter().map(|(group, _)| group).collect();
        ModuleSchedule { name, groups, plans: sets.into_iter().map(plan).collect(), ends_guidance: false }
    }

    /// The same schedule, where every step that reuses a group runs the conditional half alone.
    pub(super) fn ending_guidance(self) -> ModuleSchedule {
        ModuleSchedule { ends_guidance: true, ..self }
    }

    /// The plan of every step.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }
}

impl Policy for ModuleSchedule {
    fn name(&self) -> &str {
        self.name
    }

    fn plan(&mut self, step: usize) -> Plan {
        self.plans.get(step - 1).copied().unwrap_or(Plan::Compute)
    }

    fn probes(&self) -> Probes {
        Probes::default()
    }

    fn reuses(&self) -> bool {
        false
    }

    fn groups(&self) -> Vec<ModuleGroup> {
        self.groups.clone()
    }

    fn ends_guidance(&self) -> bool {
        self.ends_guidance
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Anatomy, Module};

    /// The plans as text, one line per group: `k` kept, `r` reused, `.` computed.
    fn lines(schedule: &ModuleSchedule) -> Vec<String> {
        let letter = |plan: &Plan, group| match plan {
            Plan::Partial { reused, .. } if reused.contains(group) => 'r',
            Plan::Partial { kept, .. } if kept.contains(group) => 'k',
            _ => '.',
        };
        let line = |group| schedule.plans().iter().map(|plan| letter(plan, group)).collect();
        (0..schedule.groups.len()).map(line).collect()
    }

    fn at(steps: usize, reused: &[usize]) -> Vec<bool> {
        (0..steps).map(|step| reused.contains(&step)).collect()
    }

    #[test]
    fn a_group_is_kept_where_it_is_computed_last() {
        let anatomy = Anatomy::spatial_temporal(2);
        let groups = [anatomy.each(Module::Cross, 0..4), anatomy.each(Module::Mlp, 0..2)];
        let [cross, mlp] = groups.clone();
        let schedule = ModuleSchedule::new(
            "test",
            8,
            vec![(cross, at(8, &[0, 2, 3, 6])), (mlp, at(8, &[2, 7])), (ModuleGroup::default(), at(8, &[3]))],
        );
        // Nothing can be reused in the first step; a group without modules is no group.
        assert_eq!(lines(&schedule), [".krr.kr.", ".kr...kr"]);
        assert_eq!(schedule.groups(), groups);
        assert_eq!((schedule.plans()[0], schedule.plans()[4]), (Plan::Compute, Plan::Compute));
    }

    #[test]
    fn a_group_that_is_reused_in_part_is_not_kept_then() {
        let anatomy = Anatomy::spatial_temporal(3);
        let (front, rear) = (anatomy.all(0..2), anatomy.all(1..3));
        let schedule = ModuleSchedule::new("test", 6, vec![(front, at(6, &[3, 5])), (rear, at(6, &[2, 3, 5]))]);
        // Step 3 does not compute all of the front, and in the steps 4 and 6 only one of the two can be reused.
        assert_eq!(lines(&schedule), [".k.rkr", ".kr..."]);
    }
}
