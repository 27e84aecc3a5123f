//! Guidance scales: one for a whole run, or one for each of two experts that take turns.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The guidance scales of a run. In JSON a number, or a list of two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Guidance {
    /// One for all steps.
    All(f32),
    /// One for the steps of each expert, in the order in which they run.
    Each([f32; 2]),
}

impl Guidance {
    /// The scale of the expert with this index.
    pub fn of(self, expert: usize) -> f32 {
        match self {
            Guidance::All(scale) => scale,
            Guidance::Each(scales) => scales[expert.min(1)],
        }
    }

    /// Whether some step needs the unconditional half.
    pub fn is_guided(self) -> bool {
        self.scales().iter().any(|scale| is_guided(*scale))
    }

    /// The scales, one or two.
    pub fn scales(&self) -> &[f32] {
        match self {
            Guidance::All(scale) => std::slice::from_ref(scale),
            Guidance::Each(scales) => scales,
        }
    }
}

/// Whether guidance of this scale needs the unconditional half: in `v_u + s·(v_c − v_u)` a scale s of 1 leaves v_c.
pub fn is_guided(cfg_scale: f32) -> bool {
    cfg_scale != 1.0
}

impl From<f32> for Guidance {
    fn from(scale: f32) -> Guidance {
        Guidance::All(scale)
    }
}

impl fmt::Display for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guidance::All(scale) => write!(f, "{scale}"),
            Guidance::Each([first, second]) => write!(f, "{first},{second}"),
        }
    }
}

impl FromStr for Guidance {
    type Err = String;

    /// `5`, or `4,3` for two experts.
    fn from_str(text: &str) -> Result<Guidance, String> {
        let scales: Result<Vec<f32>, _> = text.split(',').map(|scale| scale.trim().parse()).collect();
        match scales.as_deref() {
            Ok(&[scale]) => Ok(Guidance::All(scale)),
            Ok(&[first, second]) => Ok(Guidance::Each([first, second])),
            _ => Err("give a number, as in 5, or two for a model of two experts, as in 4,3".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scales_are_read_and_written() {
        for (text, guidance, value) in
            [("5", Guidance::All(5.0), json!(5.0)), ("4,3.5", Guidance::Each([4.0, 3.5]), json!([4.0, 3.5]))]
        {
            assert_eq!(text.parse(), Ok(guidance));
            assert_eq!(guidance.to_string(), text);
            assert_eq!(json!(guidance), value);
            assert_eq!(serde_json::from_value::<Guidance>(value).unwrap(), guidance);
        }
        for bad in ["", "x", "4,", "1,2,3"] {
            assert!(bad.parse::<Guidance>().unwrap_err().contains("4,3"), "{bad}");
        }
        assert_eq!(serde_json::from_value::<Guidance>(json!(7)).unwrap(), Guidance::All(7.0));
    }

    #[test]
    fn an_expert_has_its_scale() {
        let each = Guidance::Each([4.0, 1.0]);
        assert_eq!((each.of(0), each.of(1), Guidance::All(2.0).of(1)), (4.0, 1.0, 2.0));
        assert!(each.is_guided() && !Guidance::Each([1.0; 2]).is_guided() && !Guidance::All(1.0).is_guided());
    }
}
