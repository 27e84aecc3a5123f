//! Pyramid attention broadcast: the output of an attention changes less than that of the whole model, and less still the further its
//! context is from the pixels: spatial, temporal, cross. Each kind has its own interval of steps, applied while the timestep is in a
//! window.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::block::{Module, Span};
use super::policy::Policy;
use super::schedule::ModuleSchedule;
use super::settings::{CacheError, Settings, invalid};

/// The settings of PAB.
///
/// Step i (from 0) of timestep t reuses an attention of range n where `i mod n ≠ 0` and `window[0] < ⌊t⌋ < window[1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PabConfig {
    /// The timesteps (0 to 1000) between which attention is reused.
    pub window: [f64; 2],
    /// Range of the spatial self-attention, or of self-attention over all tokens; 1 disables reuse.
    pub spatial: usize,
    /// Range of the temporal self-attention.
    pub temporal: usize,
    /// Range of the cross-attention of all blocks.
    pub cross: usize,
    /// Timesteps whose MLPs are reused in the following [`PabConfig::mlp_steps`] steps. Each entry selects the nearest step: published
    /// values belong to one particular schedule.
    #[serde(default)]
    pub mlp: Vec<f64>,
    /// The number of steps for which an MLP is reused.
    #[serde(default = "mlp_steps")]
    pub mlp_steps: usize,
    /// The number of layers, from the first on, whose MLPs are reused.
    #[serde(default)]
    pub mlp_blocks: usize,
    /// The number of steps after which i begins again at 0, as the published code counts: the requested one, which a solver may exceed. None:
    /// i goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

fn mlp_steps() -> usize {
    2
}

impl PabConfig {
    /// The published settings for Open-Sora 1.2.
    pub fn opensora() -> PabConfig {
        PabConfig {
            window: [450.0, 930.0],
            spatial: 2,
            temporal: 4,
            cross: 6,
            mlp: vec![864.0, 788.0, 676.0],
            mlp_steps: mlp_steps(),
            mlp_blocks: 5,
            count: None,
        }
    }

    /// The published settings for Latte.
    pub fn latte() -> PabConfig {
        let mlp = vec![720.0, 640.0, 560.0, 480.0, 400.0];
        PabConfig { window: [100.0, 800.0], temporal: 3, mlp, ..PabConfig::opensora() }
    }

    /// The published settings for Open-Sora-Plan 1.1.
    pub fn opensora_plan() -> PabConfig {
        let mlp = (0..14).map(|i| f64::from(738 - 24 * i)).collect();
        PabConfig { window: [100.0, 850.0], mlp, mlp_blocks: 7, ..PabConfig::opensora() }
    }

    /// The same settings with other ranges: spatial, temporal, cross.
    pub fn with_ranges(self, [spatial, temporal, cross]: [usize; 3]) -> PabConfig {
        PabConfig { spatial, temporal, cross, ..self }
    }

    /// The policy for a model of this anatomy and a run of the given timesteps.
    pub fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> ModuleSchedule {
        let [low, high] = self.window;
        let within = |t: f32| (low..high).contains(&f64::from(t.trunc())) && f64::from(t.trunc()) != low;
        let counted = |i: usize| self.count.map_or(i, |count| i % count);
        let broadcast = |range: usize| -> Vec<bool> {
            timesteps.iter().enumerate().map(|(i, &t)| !counted(i).is_multiple_of(range) && within(t)).collect()
        };
        let all = 0..anatomy.blocks();
        let along_time = |block: &usize| anatomy.span(*block) == Span::Time;
        let groups = vec![
            (anatomy.each(Module::Attention, all.clone().filter(|b| !along_time(b))), broadcast(self.spatial)),
            (anatomy.each(Module::Attention, all.clone().filter(along_time)), broadcast(self.temporal)),
            (anatomy.each(Module::Cross, all), broadcast(self.cross)),
            (anatomy.each(Module::Mlp, anatomy.layer_blocks(0..self.mlp_blocks)), self.mlp_reused(timesteps)),
        ];
        ModuleSchedule::new("pab", timesteps.len(), groups)
    }

    /// The steps that reuse MLPs: those that follow a listed step and are not listed themselves.
    fn mlp_reused(&self, timesteps: &[f32]) -> Vec<bool> {
        let distance = |i: usize, t: f64| (f64::from(timesteps[i]) - t).abs();
        let nearest = |&t: &f64| (0..timesteps.len()).min_by(|&a, &b| distance(a, t).total_cmp(&distance(b, t)));
        let listed: Vec<usize> = self.mlp.iter().filter_map(nearest).collect();
        let behind = |i: usize| listed.iter().any(|&from| from < i && i - from <= self.mlp_steps);
        (0..timesteps.len()).map(|i| behind(i) && !listed.contains(&i)).collect()
    }
}

impl Settings for PabConfig {
    fn validate(&self) -> Result<(), CacheError> {
        for (name, range) in [("spatial", self.spatial), ("temporal", self.temporal), ("cross", self.cross)] {
            if range == 0 {
                return invalid(format!("a {name} range of 0 steps: it is at least 1, which computes every step"));
            }
        }
        if self.count == Some(0) {
            return invalid("a `count` of 0 steps: it is at least 1");
        }
        let [low, high] = self.window;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return invalid(format!("window [{low}, {high}]: give two timesteps, the smaller first"));
        }
        if let Some(t) = self.mlp.iter().find(|t| !t.is_finite()) {
            return invalid(format!("mlp timestep {t} is not a finite number"));
        }
        Ok(())
    }

    fn validate_for(&self, anatomy: &Anatomy, _frames: usize) -> Result<(), CacheError> {
        self.validate()?;
        if self.mlp_blocks > anatomy.layers() {
            return invalid(format!("mlp_blocks {}: the model has {} blocks", self.mlp_blocks, anatomy.layers()));
        }
        Ok(())
    }

    fn looks_at_time(&self) -> bool {
        true
    }

    fn reuses_forwards(&self) -> bool {
        false
    }

    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(PabConfig::policy(self, anatomy, timesteps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Plan, Policy};

    /// A group's part in every step: `r` reused, `k` kept, `.` computed.
    fn line(policy: &ModuleSchedule, group: usize) -> String {
        let letter = |plan: &Plan| match plan {
            Plan::Partial { reused, .. } if reused.contains(group) => 'r',
            Plan::Partial { kept, .. } if kept.contains(group) => 'k',
            _ => '.',
        };
        policy.plans().iter().map(letter).collect()
    }

    #[test]
    fn open_sora_by_hand() {
        // 20 even steps: 1000, 950, …, 50. 900 to 500 are inside the window, the steps 2 to 10 from 0; 450 itself is not.
        let timesteps: Vec<f32> = (0..20).map(|i| 1000.0 - 50.0 * i as f32).collect();
        let anatomy = Anatomy::spatial_temporal(28);
        let policy = PabConfig::opensora().policy(&anatomy, &timesteps);
        // Computed at 0, 2, 4, …, by the attention's own count, which also runs outside the window.
        assert_eq!(line(&policy, 0), "..krkrkrkr..........");
        // At 0, 4, 8: reused are 2 and 3, of step 1, then 5 to 7, and 9 and 10.
        assert_eq!(line(&policy, 1), ".krrkrrrkrr.........");
        // At 0, 6: reused are 2 to 5 and 7 to 10.
        assert_eq!(line(&policy, 2), ".krrrrkrrrr.........");
        // 864, 788 and 676 are nearest to 850 (3), 800 (4) and 700 (6, 650 is 26 away): 5, 7 and 8 reuse.
        assert_eq!(line(&policy, 3), "....krkrr...........");
        let runs = policy.groups().iter().map(|group| group.runs.len()).collect::<Vec<_>>();
        assert_eq!(runs, [28, 28, 56, 10]);
        let mlp = |block| anatomy.module(block, Module::Mlp).unwrap();
        assert!(policy.groups()[3].contains(mlp(9)) && !policy.groups()[3].contains(mlp(10)));
    }

    #[test]
    fn the_count_may_begin_again() {
        let timesteps: Vec<f32> = (0..12).map(|i| 900.0 - 50.0 * i as f32).collect();
        let config = PabConfig { count: Some(7), mlp: vec![], ..PabConfig::latte().with_ranges([1, 3, 1]) };
        // 0 1 2 3 4 5 6 0 1 2 3 4; 900, 850 and 800 lie above the window.
        let policy = config.policy(&Anatomy::spatial_temporal(2), &timesteps);
        assert_eq!(line(&policy, 0), "...krr.krrkr");
    }

    #[test]
    fn a_range_of_one_computes_everything() {
        let timesteps: Vec<f32> = (0..30).map(|i| 1000.0 - 30.0 * i as f32).collect();
        let config = PabConfig { mlp: vec![], ..PabConfig::opensora().with_ranges([1, 1, 1]) };
        let policy = config.policy(&Anatomy::spatial_temporal(5), &timesteps);
        assert!(policy.groups().is_empty());
        assert!(policy.plans().iter().all(|plan| *plan == Plan::Compute));
    }

    #[test]
    fn published_constants() {
        let (latte, plan) = (PabConfig::latte(), PabConfig::opensora_plan());
        assert_eq!((latte.spatial, latte.temporal, latte.cross, latte.window), (2, 3, 6, [100.0, 800.0]));
        assert_eq!((plan.spatial, plan.temporal, plan.cross, plan.mlp_blocks), (2, 4, 6, 7));
        assert_eq!((plan.mlp[0], plan.mlp[1], plan.mlp[13]), (738.0, 714.0, 426.0));
        for config in [latte, plan, PabConfig::opensora()] {
            config.validate_for(&Anatomy::spatial_temporal(28), 16).unwrap();
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        let good = PabConfig::opensora;
        for (config, part) in [
            (good().with_ranges([0, 1, 1]), "spatial"),
            (good().with_ranges([1, 1, 0]), "cross"),
            (PabConfig { window: [5.0, 5.0], ..good() }, "window"),
            (PabConfig { mlp: vec![f64::NAN], ..good() }, "mlp timestep"),
            (PabConfig { mlp_blocks: 29, ..good() }, "28 blocks"),
            (PabConfig { count: Some(0), ..good() }, "count"),
        ] {
            let message = config.validate_for(&Anatomy::spatial_temporal(28), 16).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
