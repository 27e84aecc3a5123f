//! The cache settings: PAB and TeaCache as published, AdaCache scaled from Open-Sora's.

use crate::cache::{
    AdaCacheConfig, Anatomy, CacheConfig, Codebook, Metric, PabConfig, Presets, Published, ResidualKind,
    TeaCacheConfig, TeaCachePreset,
};
use crate::family::baselines::Baselines;
use crate::family::opensora;
use crate::model::LatteKind;

/// The steps that Open-Sora's codebooks were made for.
const OPENSORA_STEPS: usize = 30;

/// Δ-DiT and T-GATE of Latte's 50 calls.
const LATTE: Baselines =
    Baselines { calls: 50, skipped_layers: 2, skipped_steps: 2, gate: 21, self_every: 2, self_until: 20 };
/// Those of Open-Sora-Plan's 159 calls.
const OPENSORA_PLAN: Baselines =
    Baselines { calls: 159, skipped_layers: 3, skipped_steps: 2, gate: 91, self_every: 3, self_until: 60 };

/// The settings for a transformer of this anatomy in a run of `steps` steps, in which it is called `calls` times.
///
/// # AdaCache
/// The paper reports figures of Latte and Open-Sora-Plan, but no codebook of theirs was published. Here they have Open-Sora's for 30 steps,
/// [scaled](opensora::scaled) to their calls. The paper's savings come to a call of the transformer every 3.4 (Latte) or 3.7 (Open-Sora-Plan) calls with the fast codebook and every 1.7 or
/// 2.4 with the slow one, which lie within the rates, 1 to 6 and 1 to 3. `adacache calibrate` finds a model's own.
pub fn presets(kind: LatteKind, anatomy: &Anatomy, steps: usize, calls: usize) -> Presets {
    let (name, pab, wide, coefficients, baselines) = match kind {
        LatteKind::Latte => ("Latte", PabConfig::latte(), [4, 6, 9], TeaCacheConfig::LATTE, LATTE),
        LatteKind::OpenSoraPlan => {
            let pab = PabConfig::opensora_plan();
            ("Open-Sora-Plan 1.1", pab, [5, 7, 9], TeaCacheConfig::OPENSORA_PLAN, OPENSORA_PLAN)
        }
    };
    // A model with fewer layers than the published one has all of them.
    let pab = PabConfig { mlp_blocks: pab.mlp_blocks.min(anatomy.layers()), count: Some(steps), ..pab };
    let mut presets = Presets {
        steps,
        teacache: TeaCachePreset { coefficients: coefficients.into(), ..TeaCachePreset::default() },
        pab: Some(pab.clone()),
        ..opensora::scaled(calls)
    };
    let adacache = |codebook: &Codebook| {
        CacheConfig::AdaCache(AdaCacheConfig {
            metric: Metric::L1,
            residual: ResidualKind::of(anatomy),
            blocks: presets.probed_blocks(anatomy),
            codebook: codebook.clone(),
            moreg: None,
        })
    };
    let teacache = |threshold: f64| CacheConfig::TeaCache(TeaCacheConfig::new(threshold, coefficients));
    let unpublished = |which: &str| {
        format!(
            "AdaCache, unpublished for {name}: Open-Sora 1.2's {which} codebook for {OPENSORA_STEPS} steps, its thresholds times {OPENSORA_STEPS}/{calls}"
        )
    };
    let polynomial =
        |which: &str| format!("TeaCache, {which} threshold, the polynomial of {name} (ali-vilab/TeaCache)");
    let of = |name: &str, about: String, cache| Published { name: name.into(), about, fitted_to: None, cache };
    presets.published = vec![
        of("adacache-fast", unpublished("fast"), adacache(&presets.fast)),
        of("adacache-slow", unpublished("slow"), adacache(&presets.slow)),
        of("teacache-fast", polynomial("the higher"), teacache(presets.teacache.fast)),
        of("teacache-slow", polynomial("the lower"), teacache(presets.teacache.slow)),
        of("pab", format!("pyramid attention broadcast, as VideoSys has it for {name}"), CacheConfig::Pab(pab.clone())),
        of("pab-fast", format!("the same, with the wider ranges {wide:?}"), CacheConfig::Pab(pab.with_ranges(wide))),
    ];
    presets.published.extend(baselines.published(anatomy, calls));
    presets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LatteConfig;

    #[test]
    fn presets_of_both_models() {
        for (kind, steps, calls, window) in
            [(LatteKind::Latte, 50, 50, (7, 43)), (LatteKind::OpenSoraPlan, 150, 159, (21, 138))]
        {
            let anatomy = LatteConfig::published(kind).anatomy();
            let presets = presets(kind, &anatomy, steps, calls);
            let of = |name, moreg| presets.resolve(name, moreg, &anatomy, steps).unwrap();
            let fast = of("adacache-fast", true).adacache().unwrap().clone();
            assert_eq!((fast.blocks, fast.moreg.unwrap().steps), (vec![13], window));
            let pairs = Vec::<(f64, f64)>::from(fast.codebook);
            let (threshold, rate) = pairs[1];
            assert!((threshold - 0.16 * 30.0 / calls as f64).abs() < 1e-15 && rate == 5.0, "{pairs:?}");
            let CacheConfig::Pab(pab) = of("pab", false) else { panic!() };
            assert_eq!((pab.count, pab.cross), (Some(steps), 6));
            let CacheConfig::TeaCache(tea) = of("teacache-slow", false) else { panic!() };
            assert_eq!((tea.threshold, tea.coefficients.len()), (0.1, 5));
            // Every preset that needs no measured constants fits the model.
            for listed in presets.list(&anatomy, steps) {
                let Some(settings) = listed.settings else { continue };
                settings.validate_for(&anatomy, 16).unwrap();
            }
        }
        // A model of two layers.
        let small = LatteConfig { num_layers: 2, ..LatteConfig::published(LatteKind::OpenSoraPlan) }.anatomy();
        assert_eq!(presets(LatteKind::OpenSoraPlan, &small, 20, 29).pab.unwrap().mlp_blocks, 2);
    }
}
