//! The library's warnings and errors that are no results: they go to standard error, a line each.

use std::fmt::{Debug, Write as _};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Effects, Style};
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

/// What a line of a message begins with that tells what to do.
const TIP: &str = "tip: ";

/// A message on standard error, as clap's look; on a terminal in the place of a progress bar, which comes again below.
/// Lines that begin with [`TIP`] stand below the others.
pub(crate) fn say(kind: &str, words: &str) {
    let colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    out::note(styled(kind, words, colours));
}

fn styled(kind: &str, words: &str, colours: bool) -> String {
    let label = |name: &str, colour: AnsiColor, effects: Effects| {
        let style = Style::new().fg_color(Some(colour.into())) | effects;
        if colours { format!("{style}{name}:{style:#} ") } else { format!("{name}: ") }
    };
    let colour = if kind == "error" { AnsiColor::Red } else { AnsiColor::Yellow };
    let (tips, lines): (Vec<&str>, Vec<&str>) = words.lines().partition(|line| line.starts_with(TIP));
    let mut text = label(kind, colour, Effects::BOLD) + &lines.join("\n");
    if !tips.is_empty() {
        text.push('\n');
    }
    for tip in tips {
        text += &format!("\n  {}{}", label("tip", AnsiColor::Green, Effects::new()), &tip[TIP.len()..]);
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tips_stand_apart() {
        let text = "no model `x`\nknown: y\ntip: one\ntip: two";
        assert_eq!(styled("error", text, false), "error: no model `x`\nknown: y\n\n  tip: one\n  tip: two");
        assert_eq!(styled("warning", "slow", false), "warning: slow");
        let coloured = styled("error", "x\ntip: y", true);
        assert!(coloured.starts_with("\x1b[1m\x1b[31merror:\x1b[0m x\n\n  \x1b[32mtip:\x1b[0m y"), "{coloured:?}");
    }
}
