//! The work of a device and its cost: a timeline of measured launches, and a model for launches that were only counted. It observes
//! `device` and knows nothing of the layers above it.

mod nvml;
mod roofline;
mod tally;
mod timeline;

pub use roofline::{Cost, Efficiency, FamilyCost, Share, ShareError};
pub use tally::{Tally, TallyEntry};
pub use timeline::{Marker, Point, Profile, Span, Trace};

use serde::Serialize;

/// Kernels with the same bottleneck that reach a similar share of its peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// Matrix products, including convolutions.
    Linear,
    /// Attention.
    Attention,
    /// Everything that only moves memory.
    Memory,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 3] = [Family::Linear, Family::Attention, Family::Memory];

    /// The family of a kernel entry, or of a memory operation.
    pub fn of(kernel: &str) -> Family {
        match kernel.split('_').next() {
            Some("linear" | "conv") => Family::Linear,
            Some("attention") => Family::Attention,
            _ => Family::Memory,
        }
    }

    /// Its name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Family::Linear => "linear",
            Family::Attention => "attention",
            Family::Memory => "memory",
        }
    }
}
