//! The points in a step where a tensor is compared with that of an earlier step.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::block::{Module, Span};

/// Which residual of a block is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Site {
    /// The gated self-attention residual.
    Attention,
    /// The cross-attention residual plus the gated MLP residual.
    CrossMlp,
    /// The sum that the block adds.
    Whole,
}

impl Site {
    /// All sites, the largest first.
    pub const ALL: [Site; 3] = [Site::Whole, Site::CrossMlp, Site::Attention];

    /// Whether `module` adds to this residual.
    pub fn contains(self, module: Module) -> bool {
        match self {
            Site::Attention => module == Module::Attention,
            Site::CrossMlp => module != Module::Attention,
            Site::Whole => true,
        }
    }
}

/// One point in a step where a tensor is compared with the one kept from an earlier step. Traces identify it by name, such as
/// `temporal.13.attention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum ProbePoint {
    /// `latents`: the latents that enter a step, against those of the step before.
    Latents,
    /// `modulated`: the first block's normed and modulated input, against that of the step before.
    Modulated,
    /// `filtered`: that input filtered by frequencies for the step's noise level, as SeaCache does, against that of the step before.
    Filtered,
    /// `time`: the embedding of the step's time, against that of the step before.
    Time,
    /// `time-projection`: the projection of the time from which the blocks' modulation is made, against that of the step before.
    TimeProjection,
    /// `latents-computed`: the latents that enter a computed step, against those of the last computed step.
    ComputedLatents,
    /// `spatial.0.whole`, `temporal.2.attention`, `block.5.attention`, …: a block's residual, against that of the last computed step.
    Residual {
        /// The block's layer: its index, from 0, among the blocks of this span.
        block: usize,
        /// What its self-attention spans.
        span: Span,
        /// The residual measured there.
        site: Site,
    },
    /// `fold`: the sum that the blocks after the head add, against that of the last computed step.
    Fold,
    /// `prediction`: the model's prediction, both halves of guidance, against that of the last computed step.
    Prediction,
}

/// (name, value)
const SITES: [(&str, Site); 3] =
    [("attention", Site::Attention), ("cross-mlp", Site::CrossMlp), ("whole", Site::Whole)];
const OTHERS: [(&str, ProbePoint); 8] = [
    ("latents", ProbePoint::Latents),
    ("modulated", ProbePoint::Modulated),
    ("filtered", ProbePoint::Filtered),
    ("time", ProbePoint::Time),
    ("time-projection", ProbePoint::TimeProjection),
    ("latents-computed", ProbePoint::ComputedLatents),
    ("fold", ProbePoint::Fold),
    ("prediction", ProbePoint::Prediction),
];

fn by_name<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|(_, known)| known == value).map_or("", |(name, _)| name)
}

impl ProbePoint {
    /// Whether the tensor exists in every step, so that it is always compared with that of the step before.
    fn in_every_step(self) -> bool {
        use ProbePoint::{Filtered, Latents, Modulated, Time, TimeProjection};
        matches!(self, Latents | Modulated | Filtered | Time | TimeProjection)
    }

    /// Whether this is a residual of the first `head` blocks: a policy with a head probes no later block.
    pub(super) fn in_head(self, head: usize) -> bool {
        head > 0 && matches!(self, ProbePoint::Residual { .. })
    }

    /// Whether it is measured before a step is planned, if the first `head` blocks run in every step.
    pub fn before_plan(self, head: usize) -> bool {
        self.in_every_step() || self.in_head(head)
    }

    /// The step to compare `step` with at this point, given the last step `computed` before it; `None` if there is none yet.
    pub fn compared_with(self, step: usize, computed: Option<usize>) -> Option<usize> {
        if self.in_every_step() { (step > 1).then(|| step - 1) } else { computed }
    }
}

impl fmt::Display for ProbePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbePoint::Residual { block, span, site } => {
                write!(f, "{}.{block}.{}", span.name(), name_of(&SITES, site))
            }
            other => f.write_str(name_of(&OTHERS, other)),
        }
    }
}

impl From<ProbePoint> for String {
    fn from(point: ProbePoint) -> String {
        point.to_string()
    }
}

impl FromStr for ProbePoint {
    type Err = String;

    fn from_str(text: &str) -> Result<ProbePoint, String> {
        let residual = || {
            let mut parts = text.split('.');
            let name = parts.next()?;
            let span = Span::ALL.into_iter().find(|span| span.name() == name)?;
            let block = parts.next()?.parse().ok()?;
            let site = by_name(&SITES, parts.next()?)?;
            parts.next().is_none().then_some(ProbePoint::Residual { block, span, site })
        };
        by_name(&OTHERS, text).or_else(residual).ok_or_else(|| {
            format!("no probe point `{text}`: latents, modulated, filtered, time, time-projection, latents-computed, fold, prediction, or as in temporal.2.attention")
        })
    }
}

impl TryFrom<String> for ProbePoint {
    type Error = String;

    fn try_from(text: String) -> Result<ProbePoint, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (name, point) in OTHERS.into_iter().chain([
            ("spatial.0.whole", ProbePoint::Residual { block: 0, span: Span::Frame, site: Site::Whole }),
            ("temporal.13.attention", ProbePoint::Residual { block: 13, span: Span::Time, site: Site::Attention }),
            ("block.2.cross-mlp", ProbePoint::Residual { block: 2, span: Span::Everything, site: Site::CrossMlp }),
        ]) {
            assert_eq!(point.to_string(), name);
            assert_eq!(name.parse(), Ok(point));
        }
        for name in ["", "spatial", "spatial.x.whole", "spatial.1.mlp", "spatial.1.whole.2", "Fold"] {
            assert!(name.parse::<ProbePoint>().is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_measured_when_and_against_what() {
        let first = ProbePoint::Residual { block: 0, span: Span::Frame, site: Site::Whole };
        assert!(first.before_plan(1) && !first.before_plan(0));
        assert!(ProbePoint::Latents.before_plan(0) && !ProbePoint::Prediction.before_plan(9));
        assert_eq!(ProbePoint::Latents.compared_with(1, None), None);
        assert_eq!(ProbePoint::Modulated.compared_with(7, Some(3)), Some(6));
        assert_eq!(first.compared_with(7, Some(3)), Some(3));
        assert_eq!(ProbePoint::Fold.compared_with(7, None), None);
    }
}
