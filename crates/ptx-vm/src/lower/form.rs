//! An instruction as the table has it, and what comes of trying.

use crate::error::LoadError;
use crate::parse::{Operand, Ty};

pub(crate) type R<T = ()> = Result<T, LoadError>;

/// An instruction matched against the table.
pub(crate) struct Form<'f, 'a> {
    pub(crate) name: &'static str,
    pub(crate) mods: Vec<&'a str>,
    pub(crate) types: Vec<Ty>,
    pub(crate) ops: &'f [Operand<'a>],
}

impl Form<'_, '_> {
    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }
    /// Whether all threads of a warp must execute this together: `.aligned`, and the barriers of `bar`, which is `barrier.aligned`.
    pub(crate) fn aligned(&self) -> bool {
        self.has("aligned") || self.name == "bar" && !self.has("warp")
    }
    /// The first type.
    pub(crate) fn ty(&self) -> Ty {
        self.types.first().copied().unwrap_or(Ty::B32)
    }
}
