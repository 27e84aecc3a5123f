//! The settings that were published or measured for a model, by name.

use serde::{Deserialize, Serialize};

use super::config::{CacheError, invalid};
use super::{
    AdaCacheConfig, CacheConfig, Codebook, EasyCacheConfig, FbCacheConfig, FewerStepsConfig, IntervalConfig,
    MagCacheConfig, Metric, MotionRegularization, ResidualKind, TeaCacheConfig,
};

/// The presets of one model, as `codebooks.json` holds them: AdaCache's codebooks `fast` and `slow` and `moreg`'s settings, made for
/// `steps` steps, and what other policies need to know of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presets {
    /// The fast codebook.
    pub fast: Codebook,
    /// The slow (more faithful) codebook.
    pub slow: Codebook,
    /// Motion Regularization for either.
    pub moreg: MotionRegularization,
    /// The number of steps the motion window was made for.
    #[serde(default = "preset_steps")]
    pub steps: usize,
    /// The probed blocks; by default the middle one.
    #[serde(default)]
    pub blocks: Option<Vec<usize>>,
    /// TeaCache's polynomial and its two thresholds.
    #[serde(default)]
    pub teacache: TeaCachePreset,
    /// The threshold of the first-block cache.
    #[serde(default = "fbcache")]
    pub fbcache: f64,
    /// The threshold of EasyCache.
    #[serde(default = "easycache")]
    pub easycache: f64,
    /// MagCache's γ of every step but the first; empty where nobody has measured it.
    #[serde(default)]
    pub magcache: Vec<f64>,
}

/// TeaCache for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeaCachePreset {
    /// The polynomial, from x⁴ to 1.
    pub coefficients: [f64; 5],
    /// The threshold of `teacache-fast`.
    pub fast: f64,
    /// The threshold of `teacache-slow`.
    pub slow: f64,
}

impl Default for TeaCachePreset {
    /// The change itself, with the published thresholds.
    fn default() -> TeaCachePreset {
        TeaCachePreset { coefficients: TeaCacheConfig::plain(), fast: 0.2, slow: 0.1 }
    }
}

fn fbcache() -> f64 {
    0.1
}

fn easycache() -> f64 {
    0.025
}

fn preset_steps() -> usize {
    30
}

impl Presets {
    /// The published settings of Open-Sora 1.2 for about 30 or about 100 steps.
    pub fn opensora(steps: usize) -> Presets {
        let codebook =
            |pairs: &[(f64, usize)]| Codebook::new(pairs.to_vec()).expect("the published codebooks are valid");
        let moreg =
            |window| MotionRegularization { strides: vec![1], steps: window, hyper: [0.385, 8.0, 1.0], gradient: 10.0 };
        let others = |fast, slow, moreg, steps| Presets {
            fast,
            slow,
            moreg,
            steps,
            blocks: None,
            teacache: TeaCachePreset { coefficients: TeaCacheConfig::OPENSORA, ..TeaCachePreset::default() },
            fbcache: fbcache(),
            easycache: easycache(),
            magcache: MagCacheConfig::opensora_ratios(),
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

    /// The configuration `name` (as [`CacheError::UnknownPreset`] lists them) for a model of `depth` blocks and a run of `steps`
    /// steps; the motion window is scaled to that number of steps. `moreg` adds Motion Regularization to AdaCache.
    pub fn resolve(&self, name: &str, moreg: bool, depth: usize, steps: usize) -> Result<CacheConfig, CacheError> {
        let unknown = || CacheError::UnknownPreset(name.into());
        let adacache = |codebook: &Codebook| {
            CacheConfig::AdaCache(AdaCacheConfig {
                metric: Metric::L1,
                residual: ResidualKind::TAttn,
                blocks: self.probed_blocks(depth),
                codebook: codebook.clone(),
                moreg: moreg.then(|| self.moreg_for(steps)),
            })
        };
        let teacache =
            |threshold| CacheConfig::TeaCache(TeaCacheConfig { threshold, coefficients: self.teacache.coefficients });
        let magcache =
            |threshold, most| CacheConfig::MagCache(MagCacheConfig::new(threshold, most, self.magcache.clone()));
        let config = match name {
            "none" => CacheConfig::None,
            "adacache-fast" => adacache(&self.fast),
            "adacache-slow" => adacache(&self.slow),
            "teacache-fast" => teacache(self.teacache.fast),
            "teacache-slow" => teacache(self.teacache.slow),
            "fbcache" => CacheConfig::FbCache(FbCacheConfig { threshold: self.fbcache }),
            "easycache" => CacheConfig::EasyCache(EasyCacheConfig::new(self.easycache)),
            "magcache-fast" => magcache(0.24, 5),
            "magcache-slow" => magcache(0.12, 3),
            other => {
                let (policy, number) = other.rsplit_once('-').ok_or_else(unknown)?;
                let number = number.parse().map_err(|_| unknown())?;
                match policy {
                    "interval" => CacheConfig::Interval(IntervalConfig { every: number }),
                    "fewer" => CacheConfig::FewerSteps(FewerStepsConfig { steps: number }),
                    _ => return Err(unknown()),
                }
            }
        };
        if moreg && !matches!(config, CacheConfig::AdaCache(_)) {
            return invalid(format!(
                "motion regularization changes AdaCache's decisions, and the cache is `{name}`; drop one of the two"
            ));
        }
        config.validate()?;
        Ok(config)
    }

    /// The blocks that AdaCache probes in a model of `depth` blocks. Open-Sora probes block 13 of 28: the last of the first half.
    pub fn probed_blocks(&self, depth: usize) -> Vec<usize> {
        self.blocks.clone().unwrap_or_else(|| vec![depth.saturating_sub(1) / 2])
    }

    /// The Motion Regularization settings with their window scaled to `steps` steps.
    pub fn moreg_for(&self, steps: usize) -> MotionRegularization {
        let scale = |s: usize| ((s * steps) as f64 / self.steps as f64).round() as usize;
        let (first, last) = self.moreg.steps;
        MotionRegularization { steps: (scale(first), scale(last)), ..self.moreg.clone() }
    }
}
