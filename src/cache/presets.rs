//! Settings published or measured for a model, by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::adacache_config::{AdaCacheConfig, Codebook, Metric, MotionRegularization, ResidualKind};
use super::anatomy::Anatomy;
use super::config::CacheConfig;
use super::delta_dit::DeltaDitConfig;
use super::easycache::EasyCacheConfig;
use super::fbcache::FbCacheConfig;
use super::fixed::{ComputeAll, FewerStepsConfig, IntervalConfig};
use super::magcache::MagCacheConfig;
use super::pab::PabConfig;
use super::policy::Probes;
use super::published::Published;
use super::settings::{CacheError, invalid};
use super::teacache::TeaCacheConfig;
use super::tgate::TGateConfig;
use crate::messages;

/// The presets of one model, as stored in `codebooks.json`: AdaCache's codebooks `fast` and `slow` and the settings for `moreg`, made for
/// `steps` steps, and the model-specific constants of other policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presets {
    /// The fast codebook.
    pub fast: Codebook,
    /// The slow (more faithful) codebook.
    pub slow: Codebook,
    /// Motion Regularization for both codebooks.
    pub moreg: MotionRegularization,
    /// The number of steps the motion window was made for.
    #[serde(default = "preset_steps")]
    pub steps: usize,
    /// The probed blocks; the middle one by default.
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
    /// MagCache's γ of every step but the first; empty if it was not measured.
    #[serde(default)]
    pub magcache: Vec<f64>,
    /// Pyramid attention broadcast for `pab`; by default as published for Open-Sora, with the same fraction of the blocks' MLPs.
    #[serde(default)]
    pub pab: Option<PabConfig>,
    /// Δ-DiT.
    #[serde(default)]
    pub delta_dit: DeltaDitPreset,
    /// Policies as published for this model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// The shift of the run's noise levels, with which [`Presets::caution`] compares that of published constants; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Policies under model-specific names, such as those that `adacache calibrate` finds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calibrated: BTreeMap<String, CacheConfig>,
}

/// Δ-DiT for a model of any depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaDitPreset {
    /// All blocks are computed every so many steps.
    pub every: usize,
    /// The fraction of the blocks that is skipped in between.
    pub share: f64,
    /// The timestep at which skipping changes from the rear blocks to the front ones.
    pub boundary: f64,
}

impl Default for DeltaDitPreset {
    /// Half of the blocks every second step; the boundary is about half-way through the steps of a schedule shifted like Open-Sora's.
    fn default() -> DeltaDitPreset {
        DeltaDitPreset { every: 2, share: 0.5, boundary: 800.0 }
    }
}

/// The run that a preset is resolved for.
struct Run<'a> {
    presets: &'a Presets,
    anatomy: &'a Anatomy,
    steps: usize,
    moreg: bool,
}

impl Run<'_> {
    fn adacache(&self, codebook: &Codebook) -> CacheConfig {
        CacheConfig::AdaCache(AdaCacheConfig {
            metric: Metric::L1,
            residual: ResidualKind::of(self.anatomy),
            blocks: self.presets.probed_blocks(self.anatomy),
            codebook: codebook.clone(),
            moreg: self.moreg.then(|| self.presets.moreg_for(self.steps)),
        })
    }

    fn teacache(&self, threshold: f64) -> CacheConfig {
        CacheConfig::TeaCache(TeaCacheConfig::new(threshold, self.presets.teacache.coefficients.clone()))
    }

    fn magcache(&self, threshold: f64, most: usize) -> CacheConfig {
        CacheConfig::MagCache(MagCacheConfig::new(threshold, most, self.presets.magcache.clone()))
    }

    fn delta_dit(&self) -> CacheConfig {
        let DeltaDitPreset { every, share, boundary } = self.presets.delta_dit;
        let blocks = (share * self.anatomy.layers() as f64).round() as usize;
        CacheConfig::DeltaDit(DeltaDitConfig { every, blocks, boundary, until: None })
    }
}

/// A preset: its name, what it does, and the policy it selects.
type Preset = (&'static str, &'static str, fn(&Run) -> CacheConfig);

/// Every preset, in the order in which messages and the help list them.
const PRESETS: [Preset; 13] = [
    ("none", "computes every step", |_| CacheConfig::None),
    ("adacache-fast", "AdaCache, the fast codebook", |run| run.adacache(&run.presets.fast)),
    ("adacache-slow", "AdaCache, the more faithful codebook", |run| run.adacache(&run.presets.slow)),
    ("teacache-fast", "TeaCache, the higher threshold", |run| run.teacache(run.presets.teacache.fast)),
    ("teacache-slow", "TeaCache, the lower threshold", |run| run.teacache(run.presets.teacache.slow)),
    ("fbcache", "first-block cache", |run| CacheConfig::FbCache(FbCacheConfig { threshold: run.presets.fbcache })),
    ("easycache", "EasyCache", |run| CacheConfig::EasyCache(EasyCacheConfig::new(run.presets.easycache))),
    ("magcache-fast", "MagCache, reusing 5 steps in a row at most", |run| run.magcache(0.24, 5)),
    ("magcache-slow", "MagCache, reusing 3 steps in a row at most", |run| run.magcache(0.12, 3)),
    ("pab", "pyramid attention broadcast", |run| CacheConfig::Pab(run.presets.pab_for(run.anatomy))),
    ("pab-fast", "the same, with wider ranges", |run| {
        CacheConfig::Pab(run.presets.pab_for(run.anatomy).with_ranges([5, 7, 9]))
    }),
    ("delta-dit", "Δ-DiT, half of the blocks every second step", |run| run.delta_dit()),
    ("t-gate", "T-GATE, no cross-attention behind the gate", |run| CacheConfig::TGate(TGateConfig::scaled(run.steps))),
];

/// A preset whose name ends in a number, such as `interval-3`: its name, what it does, and the policy it selects.
type NumberedPreset = (&'static str, &'static str, fn(usize) -> CacheConfig);

const NUMBERED: [NumberedPreset; 2] = [
    ("interval", "computes every N-th step", |every| CacheConfig::Interval(IntervalConfig { every })),
    ("fewer", "runs N steps, all of them computed", |steps| CacheConfig::FewerSteps(FewerStepsConfig { steps })),
];

/// The names of the presets that every model has, for messages and for the help: `none, adacache-fast, …, interval-N, fewer-N`.
pub fn names() -> String {
    let plain = PRESETS.iter().map(|(name, ..)| (*name).to_owned());
    let numbered = NUMBERED.iter().map(|(name, ..)| format!("{name}-N"));
    plain.chain(numbered).collect::<Vec<_>>().join(", ")
}

/// A preset as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// Its name; `N` in it stands for a number.
    pub name: String,
    /// What it does.
    pub about: String,
    /// Its settings; `None` if they depend on the number in its name, or if there is a problem.
    pub settings: Option<CacheConfig>,
    /// Why the model cannot run it.
    pub problem: Option<String>,
}

/// A policy's name, with its suffixes parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The preset or the path.
    pub name: &'a str,
    /// `+moreg`: with Motion Regularization.
    pub moreg: bool,
    /// `+taylor` or `+taylor2`: the order of extrapolation.
    pub taylor: Option<usize>,
}

impl Named<'_> {
    /// Reads `name`, `name+moreg`, `name+taylor2`, in any order.
    ///
    /// ```
    /// # use adacache::cache::Named;
    /// let named = Named { name: "adacache-fast", moreg: true, taylor: Some(1) };
    /// assert_eq!(Named::read("adacache-fast+moreg+taylor"), named);
    /// ```
    pub fn read(text: &str) -> Named<'_> {
        let mut named = Named { name: text, moreg: false, taylor: None };
        while let Some((name, option)) = named.name.rsplit_once('+') {
            match option {
                "moreg" => named.moreg = true,
                "taylor" => named.taylor = Some(1),
                "taylor2" => named.taylor = Some(2),
                _ => break,
            }
            named.name = name;
        }
        named
    }
}

/// TeaCache for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeaCachePreset {
    /// The polynomial, from the highest power to 1.
    pub coefficients: Vec<f64>,
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
    /// The names of all presets of the model: those of every model, and its own.
    pub fn names(&self) -> Vec<String> {
        let plain = PRESETS.iter().map(|(name, ..)| (*name).to_owned());
        let own = self.published.iter().map(|own| own.name.clone());
        let own = own.filter(|name| !PRESETS.iter().any(|(known, ..)| known == name));
        let numbered = NUMBERED.iter().map(|(name, ..)| format!("{name}-N"));
        plain.chain(own).chain(self.calibrated.keys().cloned()).chain(numbered).collect()
    }

    /// The published policy of this name.
    fn published(&self, name: &str) -> Option<&Published> {
        self.published.iter().find(|own| own.name == name)
    }

    /// What to tell about the preset `name` in a run of `steps` steps, if its constants were fitted to another schedule.
    pub fn caution(&self, name: &str, steps: usize) -> Option<String> {
        self.published(name)?.fitted_to?.caution(name, steps, self.shift)
    }

    /// All presets of the model, for a run of `steps` steps.
    pub fn list(&self, anatomy: &Anatomy, steps: usize) -> Vec<Listed> {
        let about = |name: &str| match (
            self.published(name),
            PRESETS.iter().find(|(known, ..)| *known == name),
            self.calibrated.get(name),
        ) {
            (Some(published), ..) => published.about.clone(),
            (None, Some((_, about, _)), _) => (*about).to_owned(),
            (None, None, Some(CacheConfig::Taylor(_))) => {
                "found by `adacache calibrate`; reused steps are extrapolated".into()
            }
            (None, None, Some(_)) => "found by `adacache calibrate`".into(),
            (None, None, None) => {
                let known = NUMBERED.iter().find(|(known, ..)| name.strip_prefix(known).is_some_and(|n| n == "-N"));
                known.map_or_else(String::new, |(_, about, _)| (*about).to_owned())
            }
        };
        let listed = |name: String| {
            let resolved = (!name.ends_with("-N")).then(|| self.resolve(&name, false, anatomy, steps));
            let (settings, problem) = match resolved {
                Some(Err(error)) => (None, Some(error.to_string())),
                settings => (settings.and_then(Result::ok), None),
            };
            Listed { about: about(&name), settings, problem, name }
        };
        self.names().into_iter().map(listed).collect()
    }

    /// A policy that computes every step and measures all that any preset of the model measures, with and without motion regularization, in
    /// videos of `frames` frames of tokens: each of them can be replayed over its trace.
    pub fn recorder(&self, anatomy: &Anatomy, steps: usize, frames: usize) -> ComputeAll {
        let mut wanted = Probes::default();
        for name in self.names().iter().filter(|name| !name.ends_with("-N")) {
            // What cannot run is not replayed either.
            let Ok(mut config) = self.resolve(name, false, anatomy, steps) else { continue };
            if let Some(adacache) = config.adacache_mut() {
                adacache.moreg.get_or_insert_with(|| self.moreg_for(steps));
            }
            // What a preset measures does not depend on the times.
            let Probes { points, strides } = config.policy(anatomy, &vec![0.0; steps]).probes();
            wanted.points.extend(points);
            wanted.strides.extend(strides.iter().filter(|stride| **stride < frames));
        }
        ComputeAll::recording_all(anatomy, wanted)
    }

    /// The configuration `name` (one of those that [`CacheError::UnknownPreset`] lists) for a model of this anatomy and a run of `steps`
    /// steps; the motion window is scaled to that number of steps. `moreg` adds Motion Regularization to AdaCache.
    pub fn resolve(&self, name: &str, moreg: bool, anatomy: &Anatomy, steps: usize) -> Result<CacheConfig, CacheError> {
        let unknown = || {
            let known = self.names();
            let nearest = messages::nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
            CacheError::UnknownPreset { name: name.into(), nearest, known: known.join(", ") }
        };
        let run = Run { presets: self, anatomy, steps, moreg };
        let numbered = || {
            let (name, number) = name.rsplit_once('-')?;
            let (.., preset) = NUMBERED.iter().find(|(known, ..)| *known == name)?;
            Some(preset(number.parse().ok()?))
        };
        let plain = PRESETS.iter().find(|(known, ..)| *known == name);
        let own = self.published(name).map(|own| &own.cache);
        let config = match (own, plain, self.calibrated.get(name)) {
            (None, Some((.., preset)), _) => preset(&run),
            (Some(own), ..) | (None, None, Some(own)) => {
                let mut config = own.clone();
                if let Some(adacache) = config.adacache_mut() {
                    let own = adacache.moreg.as_ref().map(|own| self.scaled(own, steps));
                    adacache.moreg = own.or_else(|| moreg.then(|| self.moreg_for(steps)));
                }
                config
            }
            (None, None, None) => numbered().ok_or_else(unknown)?,
        };
        if moreg && config.adacache().is_none() {
            return invalid(format!(
                "motion regularization changes AdaCache's decisions, and the cache is `{name}`; drop one of the two"
            ));
        }
        config.validate()?;
        Ok(config)
    }

    /// The configuration that `name` means where a user gives it: a preset, as [`Presets::resolve`] knows them, or the path of a TOML file, with
    /// options behind it ([`Named`]). It is checked against videos of `frames` frames of tokens.
    ///
    /// # Errors
    /// A name that is no preset, a file that cannot be read, and settings that do not fit the model.
    pub fn configuration(
        &self,
        name: &str,
        moreg: bool,
        anatomy: &Anatomy,
        steps: usize,
        frames: usize,
    ) -> Result<CacheConfig, CacheError> {
        let Named { name, moreg: named, taylor } = Named::read(name);
        let moreg = moreg || named;
        let mut config = if Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
            CacheConfig::from_file(Path::new(name))?
        } else {
            self.resolve(name, moreg, anatomy, steps)?
        };
        if moreg {
            let Some(adacache) = config.adacache_mut() else {
                return invalid(format!(
                    "motion regularization changes AdaCache's decisions, and the cache is `{name}`; drop one of the two"
                ));
            };
            adacache.moreg.get_or_insert_with(|| self.moreg_for(steps));
        }
        if let Some(order) = taylor {
            config = config.extrapolated(order);
        }
        config.validate_for(anatomy, frames)?;
        Ok(config)
    }

    /// PAB's settings for a model of this anatomy.
    fn pab_for(&self, anatomy: &Anatomy) -> PabConfig {
        const OPENSORA_DEPTH: usize = 28;
        let published = PabConfig::opensora();
        let mlp_blocks = (published.mlp_blocks * anatomy.layers()).div_ceil(OPENSORA_DEPTH);
        self.pab.clone().unwrap_or(PabConfig { mlp_blocks, ..published })
    }

    /// The layers whose blocks AdaCache probes. Open-Sora probes block 13 of 28: the last of the first half.
    pub fn probed_blocks(&self, anatomy: &Anatomy) -> Vec<usize> {
        self.blocks.clone().unwrap_or_else(|| vec![anatomy.layers().saturating_sub(1) / 2])
    }

    /// The Motion Regularization settings with their window scaled to `steps` steps.
    pub fn moreg_for(&self, steps: usize) -> MotionRegularization {
        self.scaled(&self.moreg, steps)
    }

    fn scaled(&self, moreg: &MotionRegularization, steps: usize) -> MotionRegularization {
        let scale = |s: usize| ((s * steps) as f64 / self.steps as f64).round() as usize;
        let (first, last) = moreg.steps;
        MotionRegularization { steps: (scale(first), scale(last)), ..moreg.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_names_settings_of_its_own() {
        let text = r#"{ "fast": [[0.1, 3], [1, 1]], "slow": [[0.1, 2], [1, 1]], "steps": 30,
            "moreg": { "strides": [1], "steps": [4, 26], "hyper": [0.4, 2, 1], "gradient": 2 },
            "calibrated": { "mine-2.2x": { "policy": "adacache", "blocks": [3], "codebook": [[0.2, 4], [0.5, 2]] },
                "moving": { "policy": "taylor", "order": 1, "of": { "policy": "adacache", "blocks": [2], "codebook": [[0.2, 4]],
                    "moreg": { "strides": [2], "steps": [3, 30], "hyper": [0.2, 1, 1], "gradient": 0 } } } } }"#;
        let presets: Presets = serde_json::from_str(text).unwrap();
        let resolve = |name, moreg, steps| {
            let config = presets.resolve(name, moreg, &Anatomy::spatial_temporal(5), steps).unwrap();
            assert_eq!(matches!(config, CacheConfig::Taylor(_)), name == "moving");
            config.adacache().unwrap().clone()
        };
        let mine = resolve("mine-2.2x", false, 30);
        assert_eq!((mine.blocks, mine.codebook.rate(0.3), mine.moreg), (vec![3], 2, None));
        // The model's own motion regularization for those without; windows follow the number of steps.
        assert_eq!(resolve("mine-2.2x", true, 60).moreg.unwrap().steps, (8, 52));
        for moreg in [false, true] {
            let moving = resolve("moving", moreg, 60).moreg.unwrap();
            assert_eq!((moving.strides, moving.steps), (vec![2], (6, 60)));
        }
        assert!(
            presets
                .resolve("mine", false, &Anatomy::spatial_temporal(5), 30)
                .unwrap_err()
                .to_string()
                .contains("mine-2.2x")
        );
        // Presets go to JSON and back.
        let again: Presets = serde_json::from_value(serde_json::to_value(&presets).unwrap()).unwrap();
        assert_eq!(again, presets);
    }

    #[test]
    fn options_behind_a_name() {
        let read = |text| {
            let Named { name, moreg, taylor } = Named::read(text);
            (name, moreg, taylor)
        };
        assert_eq!(read("pab"), ("pab", false, None));
        assert_eq!(read("my.toml+taylor2"), ("my.toml", false, Some(2)));
        assert_eq!(read("a+b+moreg"), ("a+b", true, None));
    }

    #[test]
    fn presets_of_single_modules() {
        let text = r#"{ "fast": [[0.1, 3], [1, 1]], "slow": [[0.1, 2], [1, 1]],
            "moreg": { "strides": [1], "steps": [4, 26], "hyper": [0.4, 2, 1], "gradient": 2 } }"#;
        let presets: Presets = serde_json::from_str(text).unwrap();
        let of = |name, depth| presets.resolve(name, false, &Anatomy::spatial_temporal(depth), 30).unwrap();
        assert_eq!(of("pab", 28), CacheConfig::Pab(PabConfig::opensora()));
        let CacheConfig::Pab(fast) = of("pab-fast", 5) else { panic!() };
        assert_eq!((fast.spatial, fast.temporal, fast.cross, fast.mlp_blocks), (5, 7, 9, 1));
        let delta_dit = DeltaDitConfig { every: 2, blocks: 14, boundary: 800.0, until: None };
        assert_eq!(of("delta-dit", 28), CacheConfig::DeltaDit(delta_dit));
        assert_eq!(of("t-gate", 28), CacheConfig::TGate(TGateConfig::new(12)));
    }
}
