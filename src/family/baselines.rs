//! Δ-DiT and T-GATE as the papers of PAB and AdaCache compare with them. VideoSys, whose code made those figures, has the settings in its
//! branch `exp/tgate_deltadit`; neither method's own authors give any for these models.

use crate::cache::{Anatomy, CacheConfig, DeltaDitConfig, Published, TGateConfig};

/// The settings of one model, in a run of `calls` calls of the transformer. Steps count from 1.
pub(super) struct Baselines {
    /// Calls of the run that the settings are of.
    pub calls: usize,
    /// Δ-DiT skips so many of the first layers …
    pub skipped_layers: usize,
    /// … in every second of so many first steps.
    pub skipped_steps: usize,
    /// T-GATE computes cross-attention up to this step …
    pub gate: usize,
    /// … and self-attention every so many steps …
    pub self_every: usize,
    /// … up to this one.
    pub self_until: usize,
}

impl Baselines {
    /// The policies for a model of this anatomy in a run of `calls` calls.
    pub(super) fn published(&self, anatomy: &Anatomy, calls: usize) -> [Published; 2] {
        let at = |step: usize| ((step * calls) as f64 / self.calls as f64).round().max(1.0) as usize;
        let of = |name: &str, about: String, cache| Published { name: name.into(), about, fitted_to: None, cache };
        // A model with fewer layers than the published one skips all of them.
        let blocks = self.skipped_layers.min(anatomy.layers());
        let delta_dit =
            DeltaDitConfig { every: 2, blocks, boundary: FIRST_LAYERS_ALWAYS, until: Some(at(self.skipped_steps)) };
        let t_gate = TGateConfig {
            gate: at(self.gate),
            both_halves: true,
            self_every: Some(self.self_every),
            self_until: Some(at(self.self_until)),
        };
        [
            of(
                "delta-dit",
                format!(
                    "Δ-DiT as the papers compare with it: the first {blocks} layers in every second of a few first steps"
                ),
                CacheConfig::DeltaDit(delta_dit),
            ),
            of(
                "t-gate",
                format!(
                    "T-GATE as the papers compare with it: self-attention every {} steps, later no cross-attention",
                    self.self_every
                ),
                CacheConfig::TGate(t_gate),
            ),
        ]
    }
}

/// No timestep is above it.
const FIRST_LAYERS_ALWAYS: f64 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Plan;

    /// What the branch's own counters do in 30 steps: layers are skipped at i = 1, 3, 5; cross-attention is computed up to i = 12 and
    /// self-attention reused at i = 1, 3, …, 11.
    #[test]
    fn steps_as_in_the_branch() {
        let baselines =
            Baselines { calls: 30, skipped_layers: 6, skipped_steps: 6, gate: 13, self_every: 2, self_until: 12 };
        let anatomy = Anatomy::spatial_temporal(28);
        let timesteps: Vec<f32> = (0..30).map(|i| 1000.0 - 30.0 * i as f32).collect();
        let [delta, gate] = &baselines.published(&anatomy, 30);
        let reusing = |published: &Published, group: usize| -> Vec<usize> {
            let mut policy = published.cache.policy(&anatomy, &timesteps);
            let reuses = |plan: Plan| matches!(plan, Plan::Partial { reused, .. } if reused.contains(group));
            (0..30).filter(|i| reuses(policy.plan(i + 1))).collect()
        };
        assert_eq!(reusing(delta, 0), [1, 3, 5]);
        assert_eq!(reusing(gate, 0), (13..30).collect::<Vec<_>>());
        assert_eq!(reusing(gate, 1), [1, 3, 5, 7, 9, 11]);
        // A small model skips what it has, and other numbers of steps keep the shares.
        let small = Anatomy::spatial_temporal(4);
        let [delta, gate] = &baselines.published(&small, 15);
        let (CacheConfig::DeltaDit(delta), CacheConfig::TGate(gate)) = (&delta.cache, &gate.cache) else { panic!() };
        assert_eq!((delta.blocks, delta.until, gate.gate, gate.self_until), (4, Some(3), 7, Some(6)));
    }
}
