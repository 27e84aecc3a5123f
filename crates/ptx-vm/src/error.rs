//! What can go wrong: loading a module, running a kernel.

use std::fmt;
use thiserror::Error;

/// PTX that cannot be loaded: where, what stands there, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Error)]
#[error("{file}:{line}: {message}{}", quoted(.text))]
#[non_exhaustive]
pub struct LoadError {
    /// What kind of thing is wrong.
    pub kind: LoadErrorKind,
    /// Name given to [`crate::Module::parse`].
    pub file: String,
    /// Line in the PTX text, from 1; 0 when the module as a whole is meant.
    pub line: u32,
    /// The instruction or directive as written, possibly empty.
    pub text: String,
    /// What is wrong with it.
    pub message: String,
}

/// What kind of thing stands in the way of loading a module or a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadErrorKind {
    /// The text is not PTX, or PTX this crate cannot read.
    Syntax,
    /// An instruction that the decoder does not know, or not in this form: it is not in [`crate::coverage`].
    UnknownInstruction,
    /// The module has no entry of that name.
    NoEntry,
    /// Anything else: a name nobody declares, a size out of range, a feature of modules that is not there.
    Invalid,
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" in `{text}`") }
}

/// What kind of misbehaviour ended a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or across the end of one.
    OutOfBounds,
    /// An address that is not a multiple of the access width.
    Misaligned,
    /// A read of bytes nobody wrote (checked mode).
    Uninitialised,
    /// Two threads touched the same bytes without a barrier between them, one of them writing (checked mode).
    Race,
    /// A barrier that some threads of the block can never reach, or reached by part of a warp.
    Barrier,
    /// The instruction budget of a block or of the launch ran out.
    Budget,
    /// `trap`, or an instruction whose operands make it invalid.
    Trap,
    /// Calls nested so deeply that the stack was used up.
    StackOverflow,
    /// The launch itself is not possible: sizes, parameters.
    Launch,
    /// Somebody called [`crate::Vm::interrupt`].
    Interrupted,
    /// The launch took longer than [`crate::VmConfig::timeout`].
    Timeout,
}

impl FaultKind {
    /// Every kind, in the order of the README.
    pub const ALL: [FaultKind; 11] = [
        FaultKind::OutOfBounds,
        FaultKind::Misaligned,
        FaultKind::Barrier,
        FaultKind::Trap,
        FaultKind::StackOverflow,
        FaultKind::Budget,
        FaultKind::Timeout,
        FaultKind::Launch,
        FaultKind::Interrupted,
        FaultKind::Uninitialised,
        FaultKind::Race,
    ];

    /// The kinds that only checked mode reports, or reports more of: those of [`crate::VmConfig::report`].
    pub const CHECKED: [FaultKind; 3] = [FaultKind::Barrier, FaultKind::Uninitialised, FaultKind::Race];

    /// The kind of that name, as reports and cases write it.
    pub fn parse(name: &str) -> Option<FaultKind> {
        FaultKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What reports and cases call it.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::OutOfBounds => "out_of_bounds",
            FaultKind::Misaligned => "misaligned",
            FaultKind::Uninitialised => "uninitialised",
            FaultKind::Race => "race",
            FaultKind::Barrier => "barrier",
            FaultKind::Budget => "budget",
            FaultKind::Trap => "trap",
            FaultKind::StackOverflow => "stack_overflow",
            FaultKind::Launch => "launch",
            FaultKind::Interrupted => "interrupted",
            FaultKind::Timeout => "timeout",
        }
    }
}

/// A set of kinds of faults. [`Default`] has all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FaultKinds(u32);

impl FaultKinds {
    /// Every kind.
    pub const ALL: FaultKinds = FaultKinds(u32::MAX);
    /// No kind.
    pub const NONE: FaultKinds = FaultKinds(0);

    /// The set with that kind.
    pub fn with(self, kind: FaultKind) -> FaultKinds {
        FaultKinds(self.0 | 1 << kind as u32)
    }

    /// The set without that kind.
    pub fn without(self, kind: FaultKind) -> FaultKinds {
        FaultKinds(self.0 & !(1 << kind as u32))
    }

    /// Whether the kind is in the set.
    pub fn contains(self, kind: FaultKind) -> bool {
        self.0 >> kind as u32 & 1 != 0
    }
}

impl Default for FaultKinds {
    fn default() -> Self {
        FaultKinds::ALL
    }
}

impl fmt::Debug for FaultKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(FaultKind::ALL.iter().filter(|kind| self.contains(**kind))).finish()
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A launch that was stopped: which thread did what, where.
#[derive(Debug, Clone, PartialEq, Eq, Error, serde::Serialize)]
#[error("{kind} in {kernel}{}{}: {message}{}", place(.file, *.line, .source_line), quoted(.instruction), who(.block, .thread))]
#[non_exhaustive]
pub struct Fault {
    /// The kind of misbehaviour.
    pub kind: FaultKind,
    /// The kernel's entry name.
    pub kernel: String,
    /// Name of the PTX module.
    pub file: String,
    /// Line of the PTX text, 0 when no instruction is to blame.
    pub line: u32,
    /// The instruction in canonical form, empty when none is to blame.
    pub instruction: String,
    /// `file:line` of the CUDA source, when the PTX has `.loc` directives; then `, inlined at file:line` for each call it was inlined from.
    pub source_line: Option<String>,
    /// Block index of the thread.
    pub block: Option<[u32; 3]>,
    /// Thread index in the block.
    pub thread: Option<[u32; 3]>,
    /// The address accessed, as the kernel computed it.
    pub address: Option<u64>,
    /// What happened in words, with the instruction and the nearest allocation.
    pub message: String,
}

fn place(file: &str, line: u32, source: &Option<String>) -> String {
    let mut text = if line > 0 { format!(" at {file}:{line}") } else { String::new() };
    if let Some(source) = source {
        text += &format!(" ({source})");
    }
    text
}

fn who(block: &Option<[u32; 3]>, thread: &Option<[u32; 3]>) -> String {
    let mut text = String::new();
    if let Some([x, y, z]) = block {
        text += &format!(", block ({x}, {y}, {z})");
    }
    if let Some([x, y, z]) = thread {
        text += &format!(", thread ({x}, {y}, {z})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{FaultKind, FaultKinds};

    #[test]
    fn kinds_have_names_and_make_sets() {
        for (i, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(FaultKind::parse(&kind.to_string()), Some(kind));
            assert!(!FaultKind::ALL[..i].contains(&kind), "{kind} twice");
            assert!(FaultKinds::default().contains(kind) && !FaultKinds::NONE.contains(kind));
            let (one, others) = (FaultKinds::NONE.with(kind), FaultKinds::ALL.without(kind));
            for other in FaultKind::ALL {
                assert_eq!((one.contains(other), others.contains(other)), (other == kind, other != kind));
            }
        }
        assert_eq!(FaultKind::parse("rase"), None);
        assert_eq!(format!("{:?}", FaultKinds::NONE.with(FaultKind::Race)), "{Race}");
    }
}
