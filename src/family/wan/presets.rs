//! The published cache settings of Wan, each with its source. Most were fitted to one number of steps and one shift:
//! [`Presets::caution`](crate::cache::Presets::caution) tells where a run has others.

use std::collections::BTreeMap;

use super::magcache;
use crate::cache::{
    AdaCacheConfig, CacheConfig, Codebook, DeltaDitPreset, EasyCacheConfig, FbCacheConfig, FittedTo, MagCacheConfig,
    Metric, MotionRegularization, Presets, Published, ResidualKind, Reused, SeaCacheConfig, Signal, TeaCacheConfig,
    TeaCachePreset,
};
use crate::model::WanConfig;

/// The schedule of the official code for models of one transformer: 50 steps, shift 5.
const OFFICIAL: FittedTo = FittedTo { steps: 50, shift: 5.0 };
/// That of Wan 2.2 T2V-A14B.
const OFFICIAL_A14B: FittedTo = FittedTo { steps: 40, shift: 12.0 };
/// The schedule of LightX2V's configurations for T2V-1.3B: that of the model's README.
const LIGHTX2V: FittedTo = FittedTo { steps: 50, shift: 8.0 };

/// A checkpoint for which constants were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checkpoint {
    /// Wan 2.1 T2V-1.3B.
    T2v1B,
    /// Wan 2.1 T2V-14B.
    T2v14B,
    /// Wan 2.2 TI2V-5B.
    Ti2v5B,
    /// Wan 2.2 T2V-A14B.
    T2vA14B,
}

impl Checkpoint {
    /// The checkpoint of this shape, with `experts` transformers; `None`: no constants are known. Wan 2.2's A14B has two experts of the shape
    /// of T2V-14B and is another model.
    pub fn of(config: &WanConfig, experts: usize) -> Option<Checkpoint> {
        let known = [
            (WanConfig::t2v_1_3b(), 1, Checkpoint::T2v1B),
            (WanConfig::t2v_14b(), 1, Checkpoint::T2v14B),
            (WanConfig::ti2v_5b(), 1, Checkpoint::Ti2v5B),
            (WanConfig::t2v_14b(), 2, Checkpoint::T2vA14B),
        ];
        let of = |c: &WanConfig| (c.dim, c.ffn_dim, c.num_layers, c.channels);
        let is = |other: &WanConfig, count: usize| experts == count && of(config) == of(other);
        known.into_iter().find(|(other, count, _)| is(other, *count)).map(|(.., checkpoint)| checkpoint)
    }
}

/// The published settings for a transformer of this shape (`experts` of them) in a run whose noise levels have this `shift`.
///
/// AdaCache and EasyCache have the same constants for every shape; the others are there for the checkpoints that they were published for.
pub fn presets(config: &WanConfig, experts: usize, shift: f64) -> Presets {
    let codebook = codebook();
    let checkpoint = Checkpoint::of(config, experts);
    let mut published = general(config);
    published.extend(checkpoint.map(of_checkpoint).unwrap_or_default());
    Presets {
        fast: codebook.clone(),
        slow: codebook,
        moreg: MotionRegularization { strides: vec![1], steps: (10, 90), hyper: [0.385, 8.0, 1.0], gradient: 10.0 },
        steps: 100,
        blocks: Some(vec![config.num_layers / 2]),
        teacache: TeaCachePreset::default(),
        fbcache: 0.1,
        easycache: 0.05,
        magcache: vec![],
        pab: None,
        delta_dit: DeltaDitPreset::default(),
        published,
        shift: Some(shift),
        calibrated: BTreeMap::new(),
    }
}

/// LightX2V's codebook, the only one published.
fn codebook() -> Codebook {
    let pairs = vec![(0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3)];
    Codebook::new(pairs).expect("the published codebook is valid")
}

fn published(name: &str, about: impl Into<String>, fitted_to: Option<FittedTo>, cache: CacheConfig) -> Published {
    Published { name: name.into(), about: about.into(), fitted_to, cache }
}

/// What has the same constants for every shape.
fn general(config: &WanConfig) -> Vec<Published> {
    let adacache = || {
        CacheConfig::AdaCache(AdaCacheConfig {
            metric: Metric::L1,
            residual: ResidualKind::Attn,
            blocks: vec![config.num_layers / 2],
            codebook: codebook(),
            moreg: None,
        })
    };
    let easycache = EasyCacheConfig { first: 10, reused: Reused::Prediction, ..EasyCacheConfig::new(0.05) };
    let about = "AdaCache, the one codebook of LightX2V (f8aee98, wan_t2v_ada.json; there the halves decide apart)";
    vec![
        published("adacache-fast", about, Some(LIGHTX2V), adacache()),
        published("adacache-slow", about, Some(LIGHTX2V), adacache()),
        published(
            "easycache",
            "EasyCache as published for Wan 2.1 (H-EmbodVis/EasyCache, 5127804): threshold 0.05, 10 steps first",
            None,
            CacheConfig::EasyCache(easycache),
        ),
    ]
}

/// What was published for one checkpoint.
fn of_checkpoint(checkpoint: Checkpoint) -> Vec<Published> {
    match checkpoint {
        Checkpoint::T2v1B => t2v_1b(),
        Checkpoint::T2v14B => t2v_14b(),
        Checkpoint::Ti2v5B => ti2v_5b(),
        Checkpoint::T2vA14B => t2v_a14b(),
    }
}

fn t2v_1b() -> Vec<Published> {
    let with_retention = [-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2];
    let without = [2.39676752e3, -1.31110545e3, 2.01331979e2, -8.29855975, 1.37887774e-1];
    let mut all = teacache("T2V-1.3B", &with_retention, [0.05, 0.10], &without, [0.05, 0.08]);
    let about = "TeaCache on the time alone, threshold 0.07 (TeaCache4Wan2.1, 7c10efc, T2V-1.3B)";
    all.push(published("teacache-0.07", about, Some(OFFICIAL), on_time(0.07, &without)));
    all.push(published(
        "teacache-lightx2v",
        "TeaCache with use_ret_steps, threshold 0.26 (LightX2V f8aee98, wan_t2v_1_3b_tea_480p.json)",
        Some(LIGHTX2V),
        on_projection(0.26, &with_retention),
    ));
    let table = &magcache::T2V_1_3B;
    all.extend([
        magcache("magcache-slow", "T2V-1.3B", table, 0.12, 2),
        magcache("magcache-fast", "T2V-1.3B", table, 0.12, 4),
        magcache("magcache-faster", "T2V-1.3B", table, 0.24, 6),
        seacache("seacache-slow", "2.1 times as fast on T2V-1.3B", 0.2),
        seacache("seacache-fast", "3.1 times as fast on T2V-1.3B", 0.35),
        fbcache("first-block cache, threshold 0.02 (LightX2V f8aee98, T2V-1.3B)", 0.02),
    ]);
    all
}

fn t2v_14b() -> Vec<Published> {
    let with_retention = [-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1];
    let without = [-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404];
    let mut all = teacache("T2V-14B", &with_retention, [0.10, 0.20], &without, [0.14, 0.20]);
    let about = "TeaCache on the time alone, threshold 0.15 (TeaCache4Wan2.1, 7c10efc, T2V-14B)";
    all.push(published("teacache-0.15", about, Some(OFFICIAL), on_time(0.15, &without)));
    let table = &magcache::T2V_14B;
    all.extend([
        magcache("magcache-slow", "T2V-14B, with the bounds of the slow setting of T2V-1.3B", table, 0.12, 2),
        magcache("magcache-fast", "T2V-14B", table, 0.24, 6),
        seacache("seacache-slow", "2.0 times as fast on T2V-14B, 480p", 0.2),
        seacache("seacache-fast", "3.1 times as fast on T2V-14B, 480p", 0.4),
        fbcache(
            "first-block cache, threshold 0.07 (DiffSynth-Studio#443, T2V-14B: 1.85 times as fast on a 4090)",
            0.07,
        ),
    ]);
    all
}

fn ti2v_5b() -> Vec<Published> {
    let coefficients = [1.57472669e5, -1.15702395e5, 3.10761669e4, -3.83116651e3, 2.21608777e2, -4.81179567];
    let about = "TeaCache on the time alone, threshold 0.26 (LightX2V f8aee98, wan_ti2v_tea_720p.json)";
    let (text, image) = (&magcache::TI2V_5B, &magcache::TI2V_5B_IMAGE);
    vec![
        published("teacache-fast", about, Some(OFFICIAL), on_time(0.26, &coefficients)),
        published("teacache-slow", about, Some(OFFICIAL), on_time(0.26, &coefficients)),
        magcache("magcache-fast", "TI2V-5B, text alone", text, 0.06, 2),
        magcache("magcache-slow", "TI2V-5B, text alone", text, 0.06, 2),
        magcache("magcache-image", "TI2V-5B, with a picture", image, 0.06, 2),
    ]
}

/// MagCache alone: each expert computes the first 40 % of its steps.
fn t2v_a14b() -> Vec<Published> {
    let of = |name| {
        let of = "T2V-A14B: the first 40 % of each expert's steps are computed";
        let published = magcache(name, of, &magcache::T2V_A14B, 0.06, 2);
        let CacheConfig::MagCache(config) = published.cache else { return published };
        let cache = CacheConfig::MagCache(MagCacheConfig { retention: 0.4, ..config });
        Published { fitted_to: Some(OFFICIAL_A14B), cache, ..published }
    };
    vec![of("magcache-fast"), of("magcache-slow")]
}

/// TeaCache on the time's embedding: the first and the last step are computed.
fn on_time(threshold: f64, coefficients: &[f64]) -> CacheConfig {
    CacheConfig::TeaCache(TeaCacheConfig { signal: Signal::Time, ..TeaCacheConfig::new(threshold, coefficients) })
}

/// TeaCache on the time's projection, `use_ret_steps`: the first five steps are computed.
fn on_projection(threshold: f64, coefficients: &[f64]) -> CacheConfig {
    CacheConfig::TeaCache(TeaCacheConfig {
        signal: Signal::TimeProjection,
        first: 5,
        last: 0,
        ..TeaCacheConfig::new(threshold, coefficients)
    })
}

/// TeaCache's two modes, with a slow and a fast threshold each.
fn teacache(
    checkpoint: &str,
    with_retention: &[f64],
    [ret_slow, ret_fast]: [f64; 2],
    without: &[f64],
    [slow, fast]: [f64; 2],
) -> Vec<Published> {
    let one = |name, mode, threshold: f64, cache| {
        let about = format!("TeaCache {mode}, threshold {threshold} (TeaCache4Wan2.1, 7c10efc, {checkpoint})");
        published(name, about, Some(OFFICIAL), cache)
    };
    let (time, projection) = ("on the time alone", "with use_ret_steps");
    vec![
        one("teacache-slow", time, slow, on_time(slow, without)),
        one("teacache-fast", time, fast, on_time(fast, without)),
        one("teacache-ret-slow", projection, ret_slow, on_projection(ret_slow, with_retention)),
        one("teacache-ret-fast", projection, ret_fast, on_projection(ret_fast, with_retention)),
    ]
}

/// MagCache, each half of guidance with its own ratios.
fn magcache(name: &str, of: &str, table: &[f64], threshold: f64, most: usize) -> Published {
    let half = |first: usize| table.iter().skip(first).step_by(2).copied().collect();
    let config = MagCacheConfig { unconditional: half(1), ..MagCacheConfig::new(threshold, most, half(0)) };
    let about = format!("MagCache, threshold {threshold}, reusing {most} steps in a row at most (df81cb1, {of})");
    published(name, about, Some(OFFICIAL), CacheConfig::MagCache(config))
}

/// SeaCache, which has no constants but the threshold.
fn seacache(name: &str, published_speed: &str, threshold: f64) -> Published {
    let about = format!("SeaCache, threshold {threshold} (arXiv 2602.18993: {published_speed})");
    published(name, about, None, CacheConfig::SeaCache(SeaCacheConfig::new(threshold)))
}

fn fbcache(about: &str, threshold: f64) -> Published {
    published("fbcache", about, None, CacheConfig::FbCache(FbCacheConfig { threshold }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Half, Plan, computed_steps_of};

    fn plans(presets: &Presets, config: &WanConfig, name: &str, steps: usize) -> Vec<Plan> {
        let anatomy = config.anatomy();
        let cache = presets.resolve(name, false, &anatomy, steps).unwrap();
        let mut policy = cache.policy(&anatomy, &vec![500.0; steps]);
        (1..=steps).map(|step| policy.plan(step)).collect()
    }

    /// Counts of forwards as the published rule gives them with the published table: of 50 steps each half computes 25, 21 and 18.
    #[test]
    fn magcache_computes_what_the_published_rule_does() {
        let config = WanConfig::t2v_1_3b();
        let presets = presets(&config, 1, 5.0);
        let slow = plans(&presets, &config, "magcache-slow", 50);
        let first = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 16, 19, 22, 25, 28, 31, 34, 37, 40, 43, 45, 47, 49, 50];
        for half in Half::BOTH {
            assert_eq!(computed_steps_of(&slow, half), first);
            for (name, computed) in [("magcache-fast", 21), ("magcache-faster", 18)] {
                assert_eq!(computed_steps_of(&plans(&presets, &config, name, 50), half).len(), computed, "{name}");
            }
        }
    }

    /// The published schedule has 26 steps of the first expert and 14 of the second. R counts in each: the first int(0.4·2·26) = 20 and
    /// int(0.4·2·14) = 11 forwards are computed; the factor 0.65 between the experts is not of either.
    #[test]
    fn magcache_begins_anew_with_the_second_expert() {
        let config = WanConfig::t2v_14b();
        let presets = presets(&config, 2, 12.0);
        let cache = presets.resolve("magcache-fast", false, &config.anatomy(), 40).unwrap();
        let computed = |steps: std::ops::Range<usize>| {
            let mut policy = cache.part(steps.clone(), 40).policy(&config.anatomy(), &vec![500.0; steps.len()]);
            let plans: Vec<Plan> = (1..=steps.len()).map(|step| policy.plan(step)).collect();
            Half::BOTH.map(|half| computed_steps_of(&plans, half))
        };
        // By the published rule: A ← A·γ, e ← e + |1 − A|, reuse while e < 0.06 and at most 2 in a row.
        let by_hand = |steps: std::ops::Range<usize>, half: Half| {
            let retained = (2.0 * steps.len() as f64 * 0.4) as usize;
            let (mut scale, mut error, mut skipped, mut computed) = (1.0, 0.0, 0, vec![]);
            for step in steps.clone() {
                if 2 * (step - steps.start) + half.index() >= retained {
                    scale *= magcache::T2V_A14B[2 * (step - 1) + half.index()];
                    error += f64::abs(1.0 - scale);
                    skipped += 1;
                    if error < 0.06 && skipped <= 2 {
                        continue;
                    }
                }
                (scale, error, skipped) = (1.0, 0.0, 0);
                computed.push(step - steps.start + 1);
            }
            computed
        };
        for steps in [0..26, 26..40] {
            assert_eq!(computed(steps.clone()), Half::BOTH.map(|half| by_hand(steps.clone(), half)));
        }
        assert!(
            computed(26..40)[0].starts_with(&[1, 2, 3, 4, 5, 6]) && computed(26..40)[1].starts_with(&[1, 2, 3, 4, 5])
        );
        assert_eq!(presets.caution("magcache-fast", 40), None);
        assert!(presets.caution("magcache-fast", 20).is_some());
    }

    #[test]
    fn every_preset_fits_the_model() {
        let fourteen = WanConfig::t2v_14b;
        for (config, experts) in
            [(WanConfig::t2v_1_3b(), 1), (fourteen(), 1), (WanConfig::ti2v_5b(), 1), (fourteen(), 2)]
        {
            let presets = presets(&config, experts, 5.0);
            for own in &presets.published {
                let resolved = presets.resolve(&own.name, false, &config.anatomy(), 50).unwrap();
                assert_eq!(resolved, own.cache, "{}", own.name);
                resolved.validate_for(&config.anatomy(), 21).unwrap();
            }
            let names = presets.names();
            let mut once = names.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), names.len(), "{names:?}");
            let again: Presets = serde_json::from_value(serde_json::to_value(&presets).unwrap()).unwrap();
            assert_eq!(again, presets);
            let listed = presets.list(&config.anatomy(), 50);
            let magcache = listed.iter().find(|listed| listed.name == "magcache-slow").unwrap();
            assert!(magcache.about.contains("df81cb1") && magcache.problem.is_none(), "{magcache:?}");
        }
        let experts = presets(&WanConfig::t2v_14b(), 2, 12.0);
        assert!(!experts.names().contains(&"teacache-ret-fast".to_owned()));
        let small = WanConfig { dim: 256, num_layers: 3, ..WanConfig::t2v_1_3b() };
        assert_eq!(Checkpoint::of(&small, 1), None);
        assert!(presets(&small, 1, 5.0).resolve("adacache-fast", true, &small.anatomy(), 50).is_ok());
    }

    #[test]
    fn another_schedule_than_the_fitted_one_is_told() {
        let presets = |shift| presets(&WanConfig::t2v_1_3b(), 1, shift);
        assert_eq!(presets(5.0).caution("teacache-fast", 50), None);
        assert_eq!(presets(3.0).caution("easycache", 20), None);
        let told = presets(8.0).caution("teacache-fast", 50).unwrap();
        assert!(told.contains("50 steps with shift 5;") && told.contains("50 steps with shift 8"), "{told}");
        assert!(presets(5.0).caution("magcache-slow", 20).unwrap().contains("for 20 steps"));
        assert_eq!(presets(8.0).caution("teacache-lightx2v", 50), None);
        assert_eq!(presets(8.0).caution("no such preset", 50), None);
    }
}
