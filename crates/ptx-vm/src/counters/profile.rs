//! Counts line by line: of the PTX, and of the source it was compiled from.

use super::{Counters, Tally};
use crate::ir::{Kernel, SourceLine};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What each line of a kernel did in one launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Profile {
    /// The kernel's entry name.
    pub kernel: String,
    /// Name of the PTX module.
    pub file: String,
    /// The PTX lines that were executed, in the order of the text. Their sum is the launch's [`Counters`].
    pub lines: Vec<LineProfile>,
}

/// One line of PTX.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LineProfile {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// The line as written.
    pub text: String,
    /// Where it comes from, when the PTX has `.loc` directives (`nvcc -lineinfo`): the place itself, then the call that was inlined
    /// there, and so on outwards.
    pub source: Vec<SourceLine>,
    /// What all instructions of the line did.
    pub counters: Counters,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One line of source.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SourceProfile {
    /// Source file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The PTX lines it became, as far as they were executed.
    pub ptx_lines: Vec<u32>,
    /// What they did.
    pub counters: Counters,
}

impl Profile {
    pub(crate) fn new(kernel: &Kernel, tally: &Tally) -> Profile {
        let mut lines: BTreeMap<u32, (u32, Counters)> = BTreeMap::new();
        tally.visit(kernel, |meta, counters| {
            lines.entry(meta.line).or_insert((meta.loc, Counters::default())).1.add(counters);
        });
        let mut text = kernel.text.lines().zip(1u32..);
        let lines = lines.into_iter().map(|(line, (loc, counters))| LineProfile {
            line,
            text: text.by_ref().find(|(_, n)| *n == line).map_or("", |(text, _)| text.trim()).to_owned(),
            source: kernel.source(loc),
            counters,
        });
        Profile { kernel: kernel.name.clone(), file: kernel.file.to_string(), lines: lines.collect() }
    }

    /// The same by lines of the source, in the order of files and lines; empty when the PTX has no `.loc` directives. An inlined
    /// function counts where it stands itself, not where it was called.
    pub fn by_source(&self) -> Vec<SourceProfile> {
        let mut lines: BTreeMap<(&str, u32), (Vec<u32>, Counters)> = BTreeMap::new();
        for line in &self.lines {
            if let Some(source) = line.source.first() {
                let (ptx_lines, counters) = lines.entry((&source.file, source.line)).or_default();
                ptx_lines.push(line.line);
                counters.add(&line.counters);
            }
        }
        let out = lines.into_iter().map(|((file, line), (ptx_lines, counters))| SourceProfile {
            file: file.to_owned(),
            line,
            ptx_lines,
            counters,
        });
        out.collect()
    }
}
