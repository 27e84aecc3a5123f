//! The settings of a cache policy: presets, TOML files, and their validation.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    AdaCache, Anatomy, ComputeAll, DeltaDitConfig, EasyCache, EasyCacheConfig, Extrapolation, FbCache, FbCacheConfig,
    FewerStepsConfig, Interval, IntervalConfig, MagCache, MagCacheConfig, PabConfig, Policy, ProbePoint, Site, Span,
    TGateConfig, Taylor, TaylorConfig, TeaCache, TeaCacheConfig,
};

/// Why a cache configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A value is not one the algorithm is defined for.
    #[error("invalid cache configuration: {0}")]
    Invalid(String),
    /// The TOML text does not parse.
    #[error("cannot read the cache configuration {path}: {source}")]
    Toml {
        /// The file.
        path: String,
        /// What the parser said, with line and column.
        source: Box<toml::de::Error>,
    },
    /// The file cannot be read.
    #[error("cannot open the cache configuration {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No such preset.
    #[error(
        "unknown cache preset `{0}`; known: none, adacache-fast, adacache-slow, teacache-fast, teacache-slow, fbcache, easycache, \
         magcache-fast, magcache-slow, pab, pab-fast, delta-dit, t-gate, interval-N, fewer-N (N a number of steps), what the model's \
         codebooks.json calls `calibrated`, or the path of a .toml file; +moreg behind AdaCache, +taylor or +taylor2 behind a policy of \
         whole forwards"
    )]
    UnknownPreset(String),
}

pub(super) fn invalid<T>(message: impl Into<String>) -> Result<T, CacheError> {
    Err(CacheError::Invalid(message.into()))
}

/// How far the fresh residual is from the kept one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// ‖kept − fresh‖₁ / ‖kept‖₁, the published default.
    #[default]
    L1,
    /// ‖kept − fresh‖₂ / ‖kept‖₂
    L2,
    /// 1 − cos(kept, fresh)
    Cosine,
}

/// Which residual is probed, in the published names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResidualKind {
    /// The gated self-attention residual of the temporal block.
    #[default]
    TAttn,
    /// The gated self-attention residual of the spatial block.
    SAttn,
    /// Cross-attention plus gated MLP residual of the spatial and of the temporal block.
    CaMlp,
    /// The gated self-attention residual of a block that spans everything.
    Attn,
}

impl ResidualKind {
    /// The one that is probed by default in a model of this anatomy.
    pub fn of(anatomy: &Anatomy) -> ResidualKind {
        if anatomy.has(Span::Time) { ResidualKind::TAttn } else { ResidualKind::Attn }
    }

    /// Whether a model of this anatomy has it.
    pub fn is_of(self, anatomy: &Anatomy) -> bool {
        self.places().iter().all(|(span, _)| anatomy.has(*span))
    }

    fn name(self) -> &'static str {
        match self {
            ResidualKind::TAttn => "t-attn",
            ResidualKind::SAttn => "s-attn",
            ResidualKind::CaMlp => "ca-mlp",
            ResidualKind::Attn => "attn",
        }
    }

    /// What it measures of one layer, in execution order.
    fn places(self) -> &'static [(Span, Site)] {
        match self {
            ResidualKind::TAttn => &[(Span::Time, Site::Attention)],
            ResidualKind::SAttn => &[(Span::Frame, Site::Attention)],
            ResidualKind::CaMlp => &[(Span::Frame, Site::CrossMlp), (Span::Time, Site::CrossMlp)],
            ResidualKind::Attn => &[(Span::Everything, Site::Attention)],
        }
    }
}

/// Threshold → rate: the first entry whose threshold is greater than the measured rate of change gives the number of steps
/// until the next computed one; past the last threshold the last rate applies.
///
/// Thresholds are finite and strictly ascending, rates at least 1, and there is at least one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct Codebook(Vec<(f64, usize)>);

impl Codebook {
    /// Checks and takes `(threshold, rate)` pairs.
    pub fn new(entries: Vec<(f64, usize)>) -> Result<Codebook, CacheError> {
        if entries.is_empty() {
            return invalid("the codebook is empty; give at least one [threshold, rate] pair");
        }
        for (i, &(threshold, rate)) in entries.iter().enumerate() {
            if !threshold.is_finite() {
                return invalid(format!("codebook entry {}: threshold {threshold} is not a finite number", i + 1));
            }
            if rate < 1 {
                return invalid(format!("codebook entry {}: rate {rate} must be at least 1", i + 1));
            }
            if i > 0 && threshold <= entries[i - 1].0 {
                return invalid(format!(
                    "codebook entry {}: threshold {threshold} is not above the one before it ({}); thresholds must ascend strictly",
                    i + 1,
                    entries[i - 1].0
                ));
            }
        }
        Ok(Codebook(entries))
    }

    /// The pairs, thresholds ascending.
    pub fn entries(&self) -> &[(f64, usize)] {
        &self.0
    }

    /// The rate for a measured rate of change `distance` (strictly below a threshold selects it).
    pub fn rate(&self, distance: f64) -> usize {
        self.0.iter().find(|(threshold, _)| distance < *threshold).unwrap_or(&self.0[self.0.len() - 1]).1
    }
}

impl TryFrom<Vec<(f64, f64)>> for Codebook {
    type Error = CacheError;

    /// Accepts rates written as whole numbers of any type (`6` or `6.0`).
    fn try_from(pairs: Vec<(f64, f64)>) -> Result<Codebook, CacheError> {
        let entries = pairs.into_iter().enumerate().map(|(i, (threshold, rate))| {
            if rate.fract() != 0.0 || !(1.0..=1e6).contains(&rate) {
                return invalid(format!(
                    "codebook entry {}: rate {rate} must be a whole number from 1 to 1000000",
                    i + 1
                ));
            }
            Ok((threshold, rate as usize))
        });
        Codebook::new(entries.collect::<Result<_, _>>()?)
    }
}

impl From<Codebook> for Vec<(f64, f64)> {
    fn from(codebook: Codebook) -> Self {
        codebook.0.into_iter().map(|(threshold, rate)| (threshold, rate as f64)).collect()
    }
}

/// Motion Regularization: residuals that move more between frames are recomputed sooner.
///
/// In the window of steps, `M = (m/scale)^exponent / divisor` of the motion score m, otherwise 1; its gradient
/// `g = gradient·(M − M_prev)/rate` is added by magnitude, and the distance is multiplied by the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionRegularization {
    /// Frame strides whose motion scores are averaged (`moreg_strides`).
    #[serde(alias = "moreg_strides")]
    pub strides: Vec<usize>,
    /// First and last step, from 1, at which the motion is looked at (`moreg_steps`).
    #[serde(alias = "moreg_steps")]
    pub steps: (usize, usize),
    /// (scale, exponent, divisor); a fourth entry is accepted and unused, as in the published tuples (`moreg_hyp`).
    #[serde(alias = "moreg_hyp", deserialize_with = "hyper_parameters")]
    pub hyper: [f64; 3],
    /// Factor on the motion gradient (`mograd_mul`).
    #[serde(alias = "mograd_mul")]
    pub gradient: f64,
}

fn hyper_parameters<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[f64; 3], D::Error> {
    let values = Vec::<f64>::deserialize(deserializer)?;
    match values[..] {
        [a, b, c] | [a, b, c, _] => Ok([a, b, c]),
        _ => Err(serde::de::Error::custom(format!(
            "expected (scale, exponent, divisor), 3 numbers (a 4th is unused), got {}",
            values.len()
        ))),
    }
}

impl MotionRegularization {
    fn validate(&self) -> Result<(), CacheError> {
        let [scale, exponent, divisor] = self.hyper;
        if self.strides.is_empty() || self.strides.len() > 8 || self.strides.contains(&0) {
            return invalid(format!("moreg strides {:?}: give 1 to 8 strides of at least one frame", self.strides));
        }
        if self.steps.0 > self.steps.1 {
            return invalid(format!("moreg steps ({}, {}): the first is after the last", self.steps.0, self.steps.1));
        }
        if !(scale.is_finite() && scale > 0.0 && exponent.is_finite() && divisor.is_finite() && divisor > 0.0) {
            return invalid(format!(
                "moreg hyper-parameters {:?}: scale and divisor must be positive, all finite",
                self.hyper
            ));
        }
        if !self.gradient.is_finite() {
            return invalid(format!("moreg gradient factor {} is not finite", self.gradient));
        }
        Ok(())
    }
}

/// Everything AdaCache is told: see `docs/adacache.md` for the formulas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaCacheConfig {
    /// Distance between fresh and kept residual.
    #[serde(default)]
    pub metric: Metric,
    /// Which residual is probed.
    #[serde(default)]
    pub residual: ResidualKind,
    /// The probed blocks (`cache_loc`), ascending.
    pub blocks: Vec<usize>,
    /// Rate of change → steps until the next computed one.
    pub codebook: Codebook,
    /// Motion Regularization, or none.
    #[serde(default)]
    pub moreg: Option<MotionRegularization>,
}

impl AdaCacheConfig {
    /// Checks everything that can be checked without a model.
    pub fn validate(&self) -> Result<(), CacheError> {
        if self.blocks.is_empty() {
            return invalid("no probed block: `blocks` needs at least one block index");
        }
        if self.blocks.windows(2).any(|w| w[0] >= w[1]) {
            return invalid(format!("probed blocks {:?} must ascend without repeats", self.blocks));
        }
        self.moreg.as_ref().map_or(Ok(()), MotionRegularization::validate)
    }

    /// Checks the probed blocks against a model's anatomy, and the strides against its `frames`.
    pub fn validate_for(&self, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
        self.validate()?;
        if !self.residual.is_of(anatomy) {
            let has = Span::ALL.into_iter().filter(|span| anatomy.has(*span)).map(Span::name);
            return invalid(format!(
                "no residual `{}` in this model, whose blocks are named {}: take {}",
                self.residual.name(),
                has.collect::<Vec<_>>().join(" and "),
                ResidualKind::of(anatomy).name()
            ));
        }
        if let Some(block) = self.blocks.iter().find(|layer| **layer >= anatomy.layers()) {
            let last = anatomy.layers() - 1;
            return invalid(format!("probed block {block} does not exist: the model has blocks 0 to {last}"));
        }
        if let Some(moreg) = &self.moreg
            && let Some(stride) = moreg.strides.iter().find(|s| **s >= frames)
        {
            return invalid(format!(
                "moreg stride {stride} needs more than {stride} frames, and this run has {frames}"
            ));
        }
        Ok(())
    }

    /// The probe points in execution order.
    pub fn points(&self) -> Vec<ProbePoint> {
        let places = self.residual.places();
        let at = |&block: &usize| places.iter().map(move |&(span, site)| ProbePoint::Residual { block, span, site });
        self.blocks.iter().flat_map(at).collect()
    }
}

/// A policy by name, as a TOML file or a preset describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "kebab-case")]
pub enum CacheConfig {
    /// Compute every step.
    None,
    /// Adaptive Caching.
    #[serde(rename = "adacache")]
    AdaCache(AdaCacheConfig),
    /// Compute every n-th step.
    Interval(IntervalConfig),
    /// Compute every one of fewer steps.
    FewerSteps(FewerStepsConfig),
    /// TeaCache.
    #[serde(rename = "teacache")]
    TeaCache(TeaCacheConfig),
    /// First-block cache.
    #[serde(rename = "fbcache")]
    FbCache(FbCacheConfig),
    /// EasyCache.
    #[serde(rename = "easycache")]
    EasyCache(EasyCacheConfig),
    /// MagCache.
    #[serde(rename = "magcache")]
    MagCache(MagCacheConfig),
    /// Pyramid attention broadcast.
    Pab(PabConfig),
    /// Δ-DiT.
    DeltaDit(DeltaDitConfig),
    /// T-GATE.
    TGate(TGateConfig),
    /// Another policy, with reused steps extrapolated.
    Taylor(TaylorConfig),
}

impl CacheConfig {
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
        let config = Self::parse_toml(text).map_err(|mut source| {
            source.set_input(Some(text));
            CacheError::Toml { path: path.into(), source: Box::new(source) }
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The policy's own table is read by itself: as a tagged enum it would lose the lines that errors point at.
    fn parse_toml(text: &str) -> Result<CacheConfig, toml::de::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Name {
            None,
            #[serde(rename = "adacache")]
            AdaCache,
            Interval,
            FewerSteps,
            #[serde(rename = "teacache")]
            TeaCache,
            #[serde(rename = "fbcache")]
            FbCache,
            #[serde(rename = "easycache")]
            EasyCache,
            #[serde(rename = "magcache")]
            MagCache,
            Pab,
            DeltaDit,
            TGate,
        }
        #[derive(Deserialize)]
        struct Tag {
            policy: Name,
            taylor: Option<usize>,
            damping: Option<f64>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        let Tag { policy, taylor, damping } = toml::from_str(text)?;
        let mut settings = toml::de::DeTable::parse(text)?;
        settings.get_mut().remove("policy");
        if settings.get_mut().remove("taylor").is_some() {
            settings.get_mut().remove("damping");
        }
        let settings = toml::Deserializer::from(settings);
        let config = match policy {
            Name::None => Nothing::deserialize(settings).map(|Nothing {}| CacheConfig::None)?,
            Name::AdaCache => CacheConfig::AdaCache(Deserialize::deserialize(settings)?),
            Name::Interval => CacheConfig::Interval(Deserialize::deserialize(settings)?),
            Name::FewerSteps => CacheConfig::FewerSteps(Deserialize::deserialize(settings)?),
            Name::TeaCache => CacheConfig::TeaCache(Deserialize::deserialize(settings)?),
            Name::FbCache => CacheConfig::FbCache(Deserialize::deserialize(settings)?),
            Name::EasyCache => CacheConfig::EasyCache(Deserialize::deserialize(settings)?),
            Name::MagCache => CacheConfig::MagCache(Deserialize::deserialize(settings)?),
            Name::Pab => CacheConfig::Pab(Deserialize::deserialize(settings)?),
            Name::DeltaDit => CacheConfig::DeltaDit(Deserialize::deserialize(settings)?),
            Name::TGate => CacheConfig::TGate(Deserialize::deserialize(settings)?),
        };
        Ok(match taylor {
            Some(order) => {
                let whole = Extrapolation::from(order);
                config.extrapolated(Extrapolation { damping: damping.unwrap_or(whole.damping), ..whole })
            }
            None => config,
        })
    }

    /// The same with reused steps extrapolated; by an order, 1 or 2, the whole way.
    pub fn extrapolated(self, extrapolation: impl Into<Extrapolation>) -> CacheConfig {
        let Extrapolation { order, damping } = extrapolation.into();
        CacheConfig::Taylor(TaylorConfig { order, damping, of: Box::new(self) })
    }

    /// The text that [`CacheConfig::from_toml`] reads.
    ///
    /// # Errors
    /// None of settings that [`CacheConfig::validate`] accepts.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        match self {
            CacheConfig::Taylor(TaylorConfig { order, damping, of }) => {
                Ok(format!("taylor = {order}\ndamping = {damping:?}\n{}", of.to_toml()?))
            }
            other => toml::to_string(other),
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

    /// Checks everything that can be checked without a model.
    pub fn validate(&self) -> Result<(), CacheError> {
        match self {
            CacheConfig::None => Ok(()),
            CacheConfig::AdaCache(config) => config.validate(),
            CacheConfig::Interval(config) => config.validate(),
            CacheConfig::FewerSteps(config) => config.validate(),
            CacheConfig::TeaCache(config) => config.validate(),
            CacheConfig::FbCache(config) => config.validate(),
            CacheConfig::EasyCache(config) => config.validate(),
            CacheConfig::MagCache(config) => config.validate(),
            CacheConfig::Pab(config) => config.validate(),
            CacheConfig::DeltaDit(config) => config.validate(),
            CacheConfig::TGate(config) => config.validate(),
            CacheConfig::Taylor(config) => config.validate(),
        }
    }

    /// Checks the settings against the anatomy of a model that generates `frames` frames of tokens.
    pub fn validate_for(&self, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
        match self {
            CacheConfig::AdaCache(config) => config.validate_for(anatomy, frames),
            CacheConfig::Pab(config) => config.validate_for(anatomy),
            CacheConfig::DeltaDit(config) => config.validate_for(anatomy),
            CacheConfig::Taylor(config) => {
                config.validate()?;
                config.of.validate_for(anatomy, frames)
            }
            other => other.validate(),
        }
    }

    /// Whether its plans depend on the timesteps, and not on their number alone.
    pub fn looks_at_time(&self) -> bool {
        matches!(self, CacheConfig::Pab(_) | CacheConfig::DeltaDit(_))
    }

    /// Denoising steps that are run where `asked` were asked for.
    pub fn steps(&self, asked: usize) -> usize {
        match self {
            CacheConfig::FewerSteps(config) => config.steps,
            _ => asked,
        }
    }

    /// The policy of one generation by a model of this anatomy at the given timesteps, as many as [`CacheConfig::steps`] says.
    pub fn policy(&self, anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        let steps = timesteps.len();
        match self {
            CacheConfig::None | CacheConfig::FewerSteps(_) => Box::new(ComputeAll::default()),
            CacheConfig::AdaCache(config) => Box::new(AdaCache::new(config.clone(), steps)),
            CacheConfig::Interval(config) => Box::new(Interval::new(config.clone())),
            CacheConfig::TeaCache(config) => Box::new(TeaCache::new(config.clone(), steps)),
            CacheConfig::FbCache(config) => Box::new(FbCache::new(config.clone(), anatomy)),
            CacheConfig::EasyCache(config) => Box::new(EasyCache::new(config.clone(), steps)),
            CacheConfig::MagCache(config) => Box::new(MagCache::new(config.clone(), steps)),
            CacheConfig::Pab(config) => Box::new(config.policy(anatomy, timesteps)),
            CacheConfig::DeltaDit(config) => Box::new(config.policy(anatomy, timesteps)),
            CacheConfig::TGate(config) => Box::new(config.policy(anatomy, steps)),
            CacheConfig::Taylor(config) => {
                Box::new(Taylor::new(config.extrapolation(), config.of.policy(anatomy, timesteps)))
            }
        }
    }

    /// Reads a TOML file from disk.
    pub fn from_file(path: &Path) -> Result<CacheConfig, CacheError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| CacheError::Io { path: name.clone(), source })?;
        CacheConfig::from_toml(&text, &name)
    }
}
