//! The published cache settings.

use crate::cache::Presets;
use crate::family::opensora;
use crate::model::WanConfig;

/// Placeholder
pub fn presets(_model: &WanConfig, steps: usize) -> Presets {
    opensora::presets(steps)
}
