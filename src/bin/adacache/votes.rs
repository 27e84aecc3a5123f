//! `adacache votes`: what people preferred in a blind comparison.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::compare::{Ballot, Preference, Tally, tally};
use anyhow::Context;

use crate::out;

/// Count the votes of a blind comparison (`compare --blind`)
///
/// For every two policies: the votes for each, those that see no difference, and the share of the first in the votes for one of them, with
/// Wilson's 95 % interval. Votes of one person are not independent of each other, so with few people the true interval is wider.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache votes --help", after_long_help = "")]
pub(crate) struct Args {
    /// Ballots: the files that `export votes` on the page wrote
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let read = |path: &PathBuf| -> anyhow::Result<(String, Ballot)> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        Ok((name.clone(), Ballot::read(&text, &name)?))
    };
    let ballots = args.files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let tally = tally(&ballots)?;
    for file in &tally.superseded {
        out::note(format_args!("{file} is not counted: another file has as many votes or more of the same person"));
    }
    out::line(if args.json { serde_json::to_string_pretty(&tally)? } else { table(&tally) })?;
    Ok(ExitCode::SUCCESS)
}

fn table(tally: &Tally) -> String {
    let people = if tally.voters == 1 { "1 person".to_owned() } else { format!("{} people", tally.voters) };
    if tally.preferences.is_empty() {
        return format!("{people}, no votes");
    }
    let pair = |p: &Preference| format!("{} over {}", p.first, p.second);
    let wide = tally.preferences.iter().map(|p| pair(p).chars().count()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<wide$}  {:>6}  {:>6}  {:>5}  share of the first", "", "first", "second", "equal")];
    lines.extend(tally.preferences.iter().map(|p| {
        let percent = |share: f64| format!("{:.0}", 100.0 * share);
        let share = p.share.map_or_else(
            || "-".into(),
            |s| format!("{} % ({} to {})", percent(s.share), percent(s.low), percent(s.high)),
        );
        format!("{:<wide$}  {:>6}  {:>6}  {:>5}  {share}", pair(p), p.for_first, p.for_second, p.equal)
    }));
    lines.push(format!("{people}; in parentheses the 95 % interval, as if every vote were by another person"));
    lines.join("\n")
}
