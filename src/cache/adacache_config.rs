//! The settings of AdaCache.

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::block::Span;
use super::point::{ProbePoint, Site};
use super::settings::{CacheError, invalid};

/// How far the fresh residual is from the kept one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Metric {
    /// ‖kept − fresh‖₁ / ‖kept‖₁, the published default.
    #[default]
    L1,
    /// ‖kept − fresh‖₂ / ‖kept‖₂
    L2,
    /// 1 − cos(kept, fresh)
    Cosine,
}

/// The probed residual, by its published name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ResidualKind {
    /// The gated self-attention residual of the temporal block.
    #[default]
    TAttn,
    /// The gated self-attention residual of the spatial block.
    SAttn,
    /// Cross-attention plus gated MLP residual of the spatial and of the temporal block.
    CaMlp,
    /// The gated self-attention residual of a block that attends to all tokens.
    Attn,
}

impl ResidualKind {
    /// The residual that is probed by default in a model of this anatomy.
    pub fn of(anatomy: &Anatomy) -> ResidualKind {
        if anatomy.has(Span::Time) { ResidualKind::TAttn } else { ResidualKind::Attn }
    }

    /// Whether a model of this anatomy has this residual.
    pub fn is_of(self, anatomy: &Anatomy) -> bool {
        self.places().iter().all(|(span, _)| anatomy.has(*span))
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            ResidualKind::TAttn => "t-attn",
            ResidualKind::SAttn => "s-attn",
            ResidualKind::CaMlp => "ca-mlp",
            ResidualKind::Attn => "attn",
        }
    }

    /// The residuals it measures in one layer, in execution order.
    fn places(self) -> &'static [(Span, Site)] {
        match self {
            ResidualKind::TAttn => &[(Span::Time, Site::Attention)],
            ResidualKind::SAttn => &[(Span::Frame, Site::Attention)],
            ResidualKind::CaMlp => &[(Span::Frame, Site::CrossMlp), (Span::Time, Site::CrossMlp)],
            ResidualKind::Attn => &[(Span::Everything, Site::Attention)],
        }
    }
}

/// Threshold → rate: the first entry whose threshold exceeds the measured rate of change gives the number of steps until the next computed
/// one; past the last threshold the last rate applies.
///
/// Thresholds are finite and strictly ascending, rates at least 1, and there is at least one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct Codebook(Vec<(f64, usize)>);

impl Codebook {
    /// Builds a codebook from `(threshold, rate)` pairs after checking them.
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

    /// The pairs, in ascending order of threshold.
    pub fn entries(&self) -> &[(f64, usize)] {
        &self.0
    }

    /// The rate for the measured rate of change `distance`; a threshold applies to distances strictly below it.
    pub fn rate(&self, distance: f64) -> usize {
        self.0.iter().find(|(threshold, _)| distance < *threshold).unwrap_or(&self.0[self.0.len() - 1]).1
    }
}

impl TryFrom<Vec<(f64, f64)>> for Codebook {
    type Error = CacheError;

    /// Accepts rates written as integers of any type (`6` or `6.0`).
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
/// Within the window of steps, `M = (m/scale)^exponent / divisor` of the motion score m, otherwise 1; the magnitude of its gradient `g =
/// gradient·(M − M_prev)/rate` is added, and the distance is multiplied by the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionRegularization {
    /// Frame strides whose motion scores are averaged (`moreg_strides`).
    #[serde(alias = "moreg_strides")]
    pub strides: Vec<usize>,
    /// First and last step, from 1, at which motion is measured (`moreg_steps`).
    #[serde(alias = "moreg_steps")]
    pub steps: (usize, usize),
    /// (scale, exponent, divisor); a fourth entry, found in the published tuples, is accepted and ignored (`moreg_hyp`).
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
    pub(super) fn validate(&self) -> Result<(), CacheError> {
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

/// All settings of AdaCache; `docs/adacache.md` has the formulas.
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
    /// Motion Regularization, if used.
    #[serde(default)]
    pub moreg: Option<MotionRegularization>,
}

impl AdaCacheConfig {
    /// The probe points in execution order.
    pub fn points(&self) -> Vec<ProbePoint> {
        let places = self.residual.places();
        let at = |&block: &usize| places.iter().map(move |&(span, site)| ProbePoint::Residual { block, span, site });
        self.blocks.iter().flat_map(at).collect()
    }
}
