//! What the process leaves behind: at its end, as JSON, where `VCUDA_REPORT` says.

use crate::settings::Schedule;
use crate::world::{self, Made, World};
use serde_json::{Value, json};

/// What leaked: its kind, who made it, and from where.
pub(crate) fn entry(kind: &str, made: &Made, bytes: Option<usize>) -> Value {
    let mut entry = json!({ "kind": kind, "call": made.call, "number": made.number });
    if let Some(bytes) = bytes {
        entry["bytes"] = bytes.into();
    }
    if let Some(trace) = &made.trace {
        entry["made_at"] = frames(&trace.to_string()).into();
    }
    entry
}

/// The program's frames of a backtrace, innermost first: without this library's and Rust's.
fn frames(trace: &str) -> Vec<String> {
    let own_folder = file!().trim_end_matches("report.rs");
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

impl World {
    /// What is there that the program should have given back.
    fn leaks(&self) -> Vec<Value> {
        let faulted = |context: u64| self.contexts.get(&context).is_some_and(|context| context.error.is_some());
        let mut leaks = vec![];
        let mut add = |kind: &str, made: &Made, bytes| leaks.push(entry(kind, made, bytes));
        for context in self.contexts.values().filter(|context| context.error.is_none()) {
            add(if context.primary { "primary context" } else { "context" }, &context.made, None);
        }
        for stream in self.streams.values().filter(|stream| !stream.default && !faulted(stream.context)) {
            add("stream", &stream.made, None);
        }
        for event in self.events.values().filter(|event| !faulted(event.context)) {
            add("event", &event.made, None);
        }
        for module in self.modules.values().filter(|module| module.library.is_none() && !faulted(module.context)) {
            add("module", &module.made, None);
        }
        for library in self.libraries.values() {
            add("library", &library.made, None);
        }
        for link in self.links.values() {
            add("link", &link.made, None);
        }
        for graph in self.graphs.values() {
            add("graph", &graph.made, None);
        }
        for exec in self.execs.values().filter(|exec| !faulted(exec.context)) {
            add("graph exec", &exec.made, None);
        }
        // The program's own references: those of graphs go with them.
        for (object, _) in self.user_objects.values() {
            add("user object", &object.made, None);
        }
        for pool in self.pools.values().filter(|pool| !pool.default) {
            add("pool", &pool.made, None);
        }
        for range in self.memory.values().filter(|range| !faulted(range.context)) {
            if !matches!(range.kind, world::Kind::Variable | world::Kind::Pooled { freed: true, .. }) {
                add(range.kind.name(), &range.made, Some(range.bytes));
            }
        }
        leaks
    }

    fn report(&self) -> Value {
        let schedule = match self.settings.schedule {
            Schedule::Eager => "eager".to_owned(),
            Schedule::Late => "late".to_owned(),
            Schedule::Random(seed) => format!("random:{seed}"),
        };
        json!({
            "schedule": schedule,
            "calls": self.total,
            "calls_by_function": self.calls,
            "leaked": self.leaks(),
            "lost_with_context": self.lost,
            "faults": self.faults,
            "injected": self.injected,
            "not_supported": self.unsupported,
            "remarks": self.remarks,
            "queued_and_never_waited_for": self.ops.len(),
        })
    }
}

/// Writes the report when the process ends, if one was asked for.
pub(crate) fn at_exit() {
    extern "C" fn write() {
        // What a fork leaves is not this process's.
        if world::forked() {
            return;
        }
        let Ok(world) = std::panic::catch_unwind(world::lock) else { return };
        let Some(path) = &world.settings.report else { return };
        // One file for each process of a program that starts others.
        let path = path.to_string_lossy().replace("%p", &std::process::id().to_string());
        let text = world.report().to_string();
        if let Err(error) = std::fs::write(&path, text + "\n") {
            eprintln!("vcuda: cannot write the report {path}: {error}");
        }
    }
    // SAFETY: a function of this library, which stays loaded: the process opened it for good.
    unsafe { libc::atexit(write) };
}
