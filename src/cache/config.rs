//! All policies in one table: their names in TOML files, and how their settings are read, checked and turned into a policy.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::adacache_config::AdaCacheConfig;
use super::anatomy::Anatomy;
use super::delta_dit::DeltaDitConfig;
use super::easycache::EasyCacheConfig;
use super::fbcache::FbCacheConfig;
use super::fixed::{ComputeAll, FewerStepsConfig, IntervalConfig};
use super::magcache::MagCacheConfig;
use super::pab::PabConfig;
use super::policy::{Extrapolation, Policy};
use super::scaling::ScalingConfig;
use super::seacache::SeaCacheConfig;
use super::settings::{CacheError, Settings, invalid};
use super::taylor::Taylor;
use super::teacache::TeaCacheConfig;
use super::tgate::TGateConfig;

/// Settings from outside this crate. Two values are equal only if they share the same allocation.
#[derive(Clone, Debug)]
pub struct Custom(Arc<dyn Settings>);

impl PartialEq for Custom {
    fn eq(&self, other: &Custom) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Every step is computed.
#[derive(Debug)]
struct Everything;

impl Settings for Everything {
    fn validate(&self) -> Result<(), CacheError> {
        Ok(())
    }

    fn reuses_forwards(&self) -> bool {
        false
    }

    fn policy(&self, _anatomy: &Anatomy, _timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(ComputeAll::default())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// One row per policy that a file can name: its name there, and its settings.
macro_rules! policies {
    ($($(#[doc = $doc:literal])* $name:literal => $variant:ident($settings:ty),)*) => {
        /// A policy and its settings, as given in a TOML file or a preset.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "policy")]
        #[non_exhaustive]
        pub enum CacheConfig {
            /// Compute every step.
            #[serde(rename = "none")]
            None,
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant($settings),)*
            /// Another policy whose reused steps are extrapolated.
            #[serde(rename = "taylor")]
            Taylor(TaylorConfig),
            /// A policy from outside this crate; files cannot name it.
            #[serde(skip)]
            Custom(Custom),
        }

        /// The valid values of `policy = "…"` in a file.
        const NAMES: &[&str] = &["none", $($name),*];

        impl CacheConfig {
            /// Reads the settings of the policy `name`, which is one of [`NAMES`].
            fn read<'de, D: Deserializer<'de>>(name: &str, settings: D) -> Result<CacheConfig, D::Error> {
                match name {
                    $($name => Deserialize::deserialize(settings).map(CacheConfig::$variant),)*
                    _ => Nothing::deserialize(settings).map(|Nothing {}| CacheConfig::None),
                }
            }

            fn settings(&self) -> &dyn Settings {
                match self {
                    CacheConfig::None => &Everything,
                    $(CacheConfig::$variant(settings) => settings,)*
                    CacheConfig::Taylor(settings) => settings,
                    CacheConfig::Custom(Custom(settings)) => &**settings,
                }
            }
        }
    };
}

policies! {
    /// Adaptive Caching.
    "adacache" => AdaCache(AdaCacheConfig),
    /// Compute every n-th step.
    "interval" => Interval(IntervalConfig),
    /// Run fewer steps, all of them computed.
    "fewer-steps" => FewerSteps(FewerStepsConfig),
    /// TeaCache.
    "teacache" => TeaCache(TeaCacheConfig),
    /// SeaCache.
    "seacache" => SeaCache(SeaCacheConfig),
    /// First-block cache.
    "fbcache" => FbCache(FbCacheConfig),
    /// EasyCache.
    "easycache" => EasyCache(EasyCacheConfig),
    /// Scaled extrapolation.
    "scaling" => Scaling(ScalingConfig),
    /// MagCache.
    "magcache" => MagCache(MagCacheConfig),
    /// Pyramid attention broadcast.
    "pab" => Pab(PabConfig),
    /// Δ-DiT.
    "delta-dit" => DeltaDit(DeltaDitConfig),
    /// T-GATE.
    "t-gate" => TGate(TGateConfig),
}

fn undamped() -> f64 {
    Extrapolation::UNDAMPED
}

fn is_undamped(damping: &f64) -> bool {
    *damping == Extrapolation::UNDAMPED
}

/// A policy that reuses whole forward passes, with extrapolation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaylorConfig {
    /// The order of the polynomial, 1 or 2, and the number of folds kept besides the last one.
    pub order: usize,
    /// The fraction of the distance from the last fold to the current step that is extrapolated: above 0, at most 1, the published value.
    #[serde(default = "undamped", skip_serializing_if = "is_undamped")]
    pub damping: f64,
    /// The policy that decides when to compute.
    pub of: Box<CacheConfig>,
}

impl TaylorConfig {
    /// The polynomial.
    pub fn extrapolation(&self) -> Extrapolation {
        Extrapolation { order: self.order, damping: self.damping }
    }
}

impl Settings for TaylorConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if !(1..=2).contains(&self.order) {
            return invalid(format!("taylor = {}: the order is 1 or 2", self.order));
        }
        if !(self.damping > 0.0 && self.damping <= 1.0) {
            return invalid(format!(
                "damping = {}: give a number above 0, at most 1, which damps nothing",
                self.damping
            ));
        }
        match *self.of {
            CacheConfig::Taylor(_) => invalid("the policy extrapolates already: leave out +taylor"),
            _ if !self.of.reuses_forwards() => invalid(
                "extrapolation needs a policy that reuses the fold of whole forwards, as adacache-fast+taylor or interval-3+taylor2 do",
            ),
            _ => self.of.validate(),
        }
    }

    fn validate_for(&self, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
        self.validate()?;
        self.of.validate_for(anatomy, frames)
    }

    fn looks_at_time(&self) -> bool {
        self.of.looks_at_time()
    }

    fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(Taylor::new(self.extrapolation(), self.of.policy(anatomy, timesteps)))
    }
}

/// The name of a policy in a file.
struct PolicyName(String);

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PolicyName, D::Error> {
        let name = String::deserialize(deserializer)?;
        match NAMES.contains(&name.as_str()) {
            true => Ok(PolicyName(name)),
            false => Err(serde::de::Error::unknown_variant(&name, NAMES)),
        }
    }
}

impl CacheConfig {
    /// A policy from outside this crate.
    pub fn custom(settings: impl Settings + 'static) -> CacheConfig {
        CacheConfig::Custom(Custom(Arc::new(settings)))
    }

    /// Reads a TOML file:
    ///
    /// ```
    /// # use adacache::cache::CacheConfig;
    /// let text = r#"
    /// policy = "adacache"
    /// metric = "l1"
    /// residual = "t-attn"
    /// blocks = [13]
    /// codebook = [[0.08, 6], [0.16, 5], [0.24, 4], [0.32, 3], [0.40, 2], [1.0, 1]]
    /// [moreg]
    /// strides = [1]
    /// steps = [4, 26]
    /// hyper = [0.385, 8, 1]
    /// gradient = 10
    /// "#;
    /// assert!(matches!(CacheConfig::from_toml(text, "my.toml")?, CacheConfig::AdaCache(_)));
    /// # Ok::<(), adacache::cache::CacheError>(())
    /// ```
    pub fn from_toml(text: &str, path: &str) -> Result<CacheConfig, CacheError> {
        // Some editors put a byte-order mark before the first word.
        let text = text.trim_start_matches('\u{feff}');
        let config = Self::parse_toml(text).map_err(|mut error| {
            error.set_input(Some(text));
            CacheError::Toml { path: path.into(), reason: error.to_string() }
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The policy's own table is parsed separately: a tagged enum would lose the line numbers for errors.
    fn parse_toml(text: &str) -> Result<CacheConfig, toml::de::Error> {
        #[derive(Deserialize)]
        struct Tag {
            policy: PolicyName,
            taylor: Option<usize>,
            damping: Option<f64>,
        }

        let Tag { policy: PolicyName(policy), taylor, damping } = toml::from_str(text)?;
        let mut settings = toml::de::DeTable::parse(text)?;
        settings.get_mut().remove("policy");
        if settings.get_mut().remove("taylor").is_some() {
            settings.get_mut().remove("damping");
        }
        let config = CacheConfig::read(&policy, toml::Deserializer::from(settings))?;
        Ok(match taylor {
            Some(order) => {
                let whole = Extrapolation::from(order);
                config.extrapolated(Extrapolation { damping: damping.unwrap_or(whole.damping), ..whole })
            }
            None => config,
        })
    }

    /// The same policy with reused steps extrapolated; an order alone, 1 or 2, means no damping.
    pub fn extrapolated(self, extrapolation: impl Into<Extrapolation>) -> CacheConfig {
        let Extrapolation { order, damping } = extrapolation.into();
        CacheConfig::Taylor(TaylorConfig { order, damping, of: Box::new(self) })
    }

    /// The text that [`CacheConfig::from_toml`] reads.
    ///
    /// # Errors
    /// A policy from outside this crate, which has no name.
    pub fn to_toml(&self) -> Result<String, CacheError> {
        match self {
            CacheConfig::Taylor(TaylorConfig { order, damping, of }) => {
                Ok(format!("taylor = {order}\ndamping = {damping:?}\n{}", of.to_toml()?))
            }
            CacheConfig::Custom(_) => invalid("a policy from outside this crate has no name in TOML"),
            other => toml::to_string(other).map_err(|error| CacheError::Invalid(error.to_string())),
        }
    }

    /// AdaCache's settings, extrapolated or not; `None` for other policies.
    pub fn adacache(&self) -> Option<&AdaCacheConfig> {
        match self {
            CacheConfig::AdaCache(config) => Some(config),
            CacheConfig::Taylor(config) => config.of.adacache(),
            _ => None,
        }
    }

    /// As [`CacheConfig::adacache`], to be changed.
    pub fn adacache_mut(&mut self) -> Option<&mut AdaCacheConfig> {
        match self {
            CacheConfig::AdaCache(config) => Some(config),
            CacheConfig::Taylor(config) => config.of.adacache_mut(),
            _ => None,
        }
    }

    /// As [`Settings::validate`].
    pub fn validate(&self) -> Result<(), CacheError> {
        self.settings().validate()
    }

    /// As [`Settings::validate_for`].
    pub fn validate_for(&self, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
        self.settings().validate_for(anatomy, frames)
    }

    /// As [`Settings::looks_at_time`].
    pub fn looks_at_time(&self) -> bool {
        self.settings().looks_at_time()
    }

    /// As [`Settings::reuses_forwards`].
    pub fn reuses_forwards(&self) -> bool {
        self.settings().reuses_forwards()
    }

    /// As [`Settings::steps`].
    pub fn steps(&self, asked: usize) -> usize {
        self.settings().steps(asked)
    }

    /// The settings for the steps `steps` (from 0) of a run of `all`, which a policy of their own decides about: what is listed step by step is
    /// cut to them.
    pub fn part(&self, steps: Range<usize>, all: usize) -> CacheConfig {
        match self {
            whole if steps == (0..all) => whole.clone(),
            CacheConfig::MagCache(config) => CacheConfig::MagCache(config.part(steps, all)),
            CacheConfig::Taylor(config) => {
                CacheConfig::Taylor(TaylorConfig { of: Box::new(config.of.part(steps, all)), ..config.clone() })
            }
            other => other.clone(),
        }
    }

    /// As [`Settings::policy`].
    pub fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        self.settings().policy(anatomy, timesteps)
    }

    /// Reads a TOML file from disk.
    pub fn from_file(path: &Path) -> Result<CacheConfig, CacheError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| CacheError::Io { path: name.clone(), source })?;
        CacheConfig::from_toml(&text, &name)
    }
}
