//! The library's warnings and errors that are no results: they go to standard error, a line each.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::out;

/// Listens from now on.
pub(crate) fn install() {
    // Somebody else who listens already hears the same.
    let _ = tracing::subscriber::set_global_default(StandardError);
}

struct StandardError;

impl Subscriber for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The names of our crates, whose messages are written for people.
        *metadata.level() <= Level::WARN
            && ["adacache", "ptx_vm"].iter().any(|name| metadata.target().starts_with(name))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        say(if *event.metadata().level() == Level::ERROR { "error" } else { "warning" }, &words.0);
    }

    // Spans say nothing.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A line on standard error.
pub(crate) fn say(kind: &str, words: &str) {
    out::note(format_args!("{kind}: {words}"));
}

/// A message, then its fields.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " ({name}: {value:?})"),
        };
    }
}
