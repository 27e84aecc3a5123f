//! The published cache settings.

use std::collections::BTreeMap;

use crate::cache::{
    Anatomy, Codebook, DeltaDitPreset, MagCacheConfig, MotionRegularization, Presets, TeaCacheConfig, TeaCachePreset,
};
use crate::family::baselines::Baselines;

/// Δ-DiT and T-GATE of 30 steps.
const BASELINES: Baselines =
    Baselines { calls: 30, skipped_layers: 6, skipped_steps: 6, gate: 13, self_every: 2, self_until: 12 };

/// As [`presets`], with the baselines for a transformer of this anatomy.
pub(super) fn with_baselines(anatomy: &Anatomy, steps: usize) -> Presets {
    Presets { published: BASELINES.published(anatomy, steps).into(), ..presets(steps) }
}

/// The published settings of Open-Sora 1.2 for about 30 or about 100 steps.
pub fn presets(steps: usize) -> Presets {
    let codebook = |pairs: &[(f64, usize)]| Codebook::new(pairs.to_vec()).expect("the published codebooks are valid");
    let moreg =
        |window| MotionRegularization { strides: vec![1], steps: window, hyper: [0.385, 8.0, 1.0], gradient: 10.0 };
    let others = |fast, slow, moreg, steps| Presets {
        fast,
        slow,
        moreg,
        steps,
        blocks: None,
        teacache: TeaCachePreset { coefficients: TeaCacheConfig::OPENSORA.into(), ..TeaCachePreset::default() },
        fbcache: 0.1,
        easycache: 0.025,
        magcache: MagCacheConfig::opensora_ratios(),
        pab: None,
        delta_dit: DeltaDitPreset::default(),
        published: vec![],
        shift: None,
        calibrated: BTreeMap::new(),
    };
    if steps < 65 {
        let fast = codebook(&[(0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.0, 1)]);
        let slow = codebook(&[(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.0, 1)]);
        others(fast, slow, moreg((4, 26)), 30)
    } else {
        // One codebook was published for 100 steps; it serves under both names.
        let hundred = codebook(&[(0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3)]);
        others(hundred.clone(), hundred, moreg((10, 90)), 100)
    }
}

/// AdaCache's settings for a model for which no codebook was published, in a run of `calls` calls of its transformer: those of 30 steps, the
/// same rates with thresholds times 30 / calls, because a residual changes less from call to call the more of them there are. Other policies
/// have the settings of every model, without constants fitted to Open-Sora.
pub fn scaled(calls: usize) -> Presets {
    const STEPS: usize = 30;
    let of = presets(STEPS);
    let share = STEPS as f64 / calls.max(1) as f64;
    let scaled = |codebook: &Codebook| {
        let pairs = Vec::<(f64, f64)>::from(codebook.clone()).into_iter();
        Codebook::new(pairs.map(|(threshold, rate)| (threshold * share, rate as usize)).collect())
            .expect("thresholds keep their order")
    };
    let at = |step: usize| (step as f64 / share).round() as usize;
    let (first, last) = of.moreg.steps;
    Presets {
        fast: scaled(&of.fast),
        slow: scaled(&of.slow),
        moreg: MotionRegularization { steps: (at(first), at(last)), ..of.moreg },
        steps: calls,
        teacache: TeaCachePreset::default(),
        magcache: vec![],
        ..of
    }
}
