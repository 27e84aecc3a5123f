//! Handles, and who made what: for the report of leaks.

use serde_json::{Value, json};
use std::backtrace::Backtrace;

/// A handle. Handles are numbers that are never used again, so that a stale one is known.
pub(crate) type Id = u64;

/// Who made something.
pub(crate) struct Made {
    pub(crate) call: &'static str,
    /// Number of the call in the process.
    pub(crate) number: u64,
    pub(crate) trace: Option<Backtrace>,
}

impl Made {
    /// What leaked, for the report: its kind, who made it, and from where.
    pub(crate) fn leak(&self, kind: &str, bytes: Option<usize>) -> Value {
        let mut entry = json!({ "kind": kind, "call": self.call, "number": self.number });
        if let Some(bytes) = bytes {
            entry["bytes"] = bytes.into();
        }
        if let Some(trace) = &self.trace {
            entry["made_at"] = frames(&trace.to_string()).into();
        }
        entry
    }
}

/// The program's frames of a backtrace, innermost first: without this library's and Rust's.
fn frames(trace: &str) -> Vec<String> {
    let own_folder = file!().trim_end_matches("made.rs");
    let mut out: Vec<String> = Vec::new();
    let mut lines = trace.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let name = line.split_once(": ").map_or(line, |(_, name)| name);
        let at = lines.next_if(|line| line.starts_with("at ")).map(|line| &line[3..]);
        let own = ["vcuda::", "std::", "core::", "__rust", "<vcuda", "<core", "<std", "<alloc"];
        let ours = own.iter().any(|own| name.starts_with(own))
            || at.is_some_and(|at| at.contains("/rustc/") || at.contains(own_folder))
            || out.is_empty() && name.starts_with("cu");
        if !ours && out.len() < 12 {
            out.push(at.map_or_else(|| name.to_owned(), |at| format!("{name} at {at}")));
        }
    }
    out
}
