//! What the process leaves behind: at its end, as JSON, where `VCUDA_REPORT` says.

use crate::made::Made;
use crate::object::Kind;
use crate::settings::Schedule;
use crate::thread::forked;
use crate::world::{self, World};
use serde_json::{Value, json};
use std::sync::Once;

impl World {
    /// What is there that the program should have given back.
    fn leaks(&self) -> Vec<Value> {
        let faulted = |context: u64| self.contexts.get(&context).is_some_and(|context| context.error.is_some());
        let mut leaks = vec![];
        let mut add = |kind: &str, made: &Made, bytes| leaks.push(made.leak(kind, bytes));
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
            if !matches!(range.kind, Kind::Variable | Kind::Pooled { freed: true, .. }) {
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

/// Writes the report when the process ends, if one was asked for. Only the first call counts.
pub(crate) fn at_exit() {
    static BEGUN: Once = Once::new();
    extern "C" fn write() {
        // What a fork leaves is not this process's.
        if forked() {
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
    BEGUN.call_once(|| {
        // SAFETY: a function of this library, which stays loaded: the process opened it for good.
        unsafe { libc::atexit(write) };
    });
}
