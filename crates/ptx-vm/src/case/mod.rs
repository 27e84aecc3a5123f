//! Launch cases: a folder with a kernel, its arguments, and what must come out. The format is described in `ptx-vm`'s README.

mod new;
mod run;
mod spec;
mod value;

pub use new::new_case;
pub use run::run_case;

use crate::{Counters, FaultKind, LoadError, LoadErrorKind, Profile};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use thiserror::Error;

/// Why a case could not be run at all.
#[derive(Debug, Error)]
#[error("{path}: {message}")]
pub struct CaseError {
    path: String,
    message: String,
}

impl CaseError {
    fn new(path: &Path, message: impl ToString) -> CaseError {
        CaseError { path: path.display().to_string(), message: message.to_string() }
    }
}

/// What ended a case before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// A launch ended with a fault.
    Fault(FaultKind),
    /// The kernel has an instruction that the decoder does not know: `unknown_opcode`.
    UnknownOpcode,
    /// The PTX cannot be loaded for another reason: `load`.
    Load,
}

impl Failure {
    fn of(error: &LoadError) -> Failure {
        if error.kind == LoadErrorKind::UnknownInstruction { Failure::UnknownOpcode } else { Failure::Load }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Fault(kind) => kind.fmt(f),
            Failure::UnknownOpcode => f.write_str("unknown_opcode"),
            Failure::Load => f.write_str("load"),
        }
    }
}

/// What a case came to.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The folder.
    pub case: String,
    /// All expectations hold, or the expected fault occurred.
    pub ok: bool,
    /// Elements that were compared with expected ones.
    pub compared: u64,
    /// Greatest absolute error over all expected elements that are finite and are to be.
    pub max_abs_err: f64,
    /// Greatest relative error over the same, but for those that are to be 0.
    pub max_rel_err: f64,
    /// The fault that ended the launch, or why the PTX cannot be loaded.
    pub fault: Option<String>,
    /// Its kind, as case files name it.
    pub fault_kind: Option<String>,
    /// Wall-clock seconds of all launches.
    pub seconds: f64,
    /// Counters of all launches, when asked for.
    pub counters: Option<Counters>,
    /// The launches one by one, where a case has several.
    #[serde(skip_serializing_if = "is_one")]
    pub launches: Vec<Launched>,
    /// Why the case failed, in words.
    pub message: Option<String>,
    /// What the kernels have written with `printf`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub printed: String,
}

fn is_one(launches: &[Launched]) -> bool {
    launches.len() < 2
}

/// A launch of a case that has ended well.
#[derive(Debug, Serialize)]
pub struct Launched {
    /// The kernel.
    pub entry: String,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Counters, when asked for.
    pub counters: Option<Counters>,
    /// Counters by PTX line, when asked for.
    #[serde(skip)]
    pub profile: Option<Profile>,
}
