//! What a generation leaves: the video, its report, trace and profile, and the summary for people.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use adacache::media::{Encoding, Output, check_file_writable, is_stream, write_file};
use adacache::pipeline::{Generation, PipelineError, Report, duration};
use adacache::profile::{Marker, Point, Profile, Span, Trace};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::{Args, target};
use super::kept::Video;
use super::like;
use crate::interrupt;

/// Where the videos of a batch stand in it.
pub(super) struct Places {
    /// Videos to make.
    pub(super) all: usize,
    /// Whether there is a batch to speak of: many prompts.
    pub(super) named: bool,
}

impl Places {
    /// The video with this index: `2 of 12  `.
    pub(super) fn of(&self, index: usize) -> String {
        self.say(format!("{}", index + 1))
    }

    /// `count` videos from this index on, which run together: `3-4 of 12  `.
    pub(super) fn of_run(&self, first: usize, count: usize) -> String {
        self.say(if count == 1 { format!("{}", first + 1) } else { format!("{}-{}", first + 1, first + count) })
    }

    fn say(&self, place: String) -> String {
        if self.named { format!("{place} of {}  ", self.all) } else { String::new() }
    }
}

/// What a video of a batch did, in a line.
pub(super) fn in_a_line(generation: &Generation) -> String {
    let count = |of: fn(&Report) -> usize| reports(generation).map(of).sum::<usize>();
    let (computed, partial) = (count(|r| r.computed_steps.len()), count(|r| r.partial_steps.len()));
    let in_part = if partial > 0 { format!(", {partial} in part") } else { String::new() };
    let seconds: f64 = reports(generation).map(|r| r.seconds.total).sum();
    format!("{computed} of {} steps computed{in_part}, {}", count(|r| r.steps), duration(seconds))
}

/// What all parts of a video did, for people.
pub(super) fn summaries(generation: &Generation) -> String {
    if generation.later.is_empty() {
        return generation.report.summary().to_string();
    }
    let part = |(i, report): (usize, &Report)| format!("part {i}\n{}", report.summary());
    (1..).zip(reports(generation)).map(part).collect::<Vec<_>>().join("\n")
}

/// The reports of all parts of a video.
fn reports(generation: &Generation) -> impl Iterator<Item = &Report> {
    std::iter::once(&generation.report).chain(&generation.later)
}

/// The launches, with the run's steps above them and its decisions at the end of the steps they were measured in.
pub(super) fn timeline(profile: Profile, points: &[Point], report: &Report) -> anyhow::Result<Trace> {
    let steps = (1..).zip(points).zip(&report.seconds.per_step);
    let spans = steps.map(|((step, end), seconds)| {
        let what = match step {
            step if report.computed_steps.contains(&step) => "computed",
            step if report.partial_steps.contains(&step) => "in part",
            _ => "reused",
        };
        let mut facts = json!({ "step": step });
        let expert = report.expert(step).map(|expert| {
            facts["expert"] = json!(expert);
            format!(", {expert}")
        });
        let name = format!("step {step} {what}{}", expert.unwrap_or_default());
        Span { name, end: *end, seconds: *seconds, facts }
    });
    let markers = report.decisions.iter().map(|decision| Marker {
        name: match decision.rate {
            Some(rate) => format!("rate {rate}"),
            None => format!("change {:.4}", decision.distance),
        },
        at: points[decision.step - 1],
        facts: json!(decision),
    });
    Ok(profile.finish(&spans.collect::<Vec<_>>(), &markers.collect::<Vec<_>>())?)
}

/// Whether everything besides the videos can be written, and nothing to the place of another output.
pub(super) fn check(args: &Args, videos: &[&Output]) -> anyhow::Result<()> {
    let others = [("--report", &args.report), ("--trace", &args.trace), ("--profile", &args.profile)];
    let mut all: Vec<(&str, PathBuf)> = videos.iter().map(|output| ("the video", real(output.path()))).collect();
    for (option, file) in others {
        let Some(file) = file else { continue };
        let path = real(file);
        if let Some((other, _)) = all.iter().find(|(_, taken)| *taken == path && !is_stream(file)) {
            bail!("{option} {} is the place of {other} too: name another file", file.display());
        }
        all.push((option, path));
    }
    for file in [&args.report, &args.trace, &args.profile].into_iter().flatten() {
        check_file_writable(file)?;
    }
    if let Some(file) = args.report.as_ref().filter(|file| args.prompts.is_some() && file.exists()) {
        earlier_reports(file)?;
    }
    Ok(())
}

/// The path by which two names of one file are equal.
fn real(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned());
    let name = path.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
    fs::canonicalize(&name).unwrap_or(name)
}

/// Says in the reports of a video what it depends on, and how it can be made again.
pub(super) fn identify(args: &Args, generation: &mut Generation, video: &Video) {
    for report in std::iter::once(&mut generation.report).chain(&mut generation.later) {
        report.identify(&video.settings);
        report.arguments = like::arguments(args, &video.settings);
        report.output = Some(video.output.to_string());
    }
}

/// Writes the video behind a progress bar; the report has its seconds.
fn encode(generation: &mut Generation, output: &Output, begun: Option<Encoding>, quiet: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    let bar = ProgressBar::with_draw_target(None, target(quiet));
    bar.set_style(ProgressStyle::with_template("{spinner} encoding frame {pos}/{len}  {elapsed}, {eta} left")?);
    let written = generation.write_telling(output, begun, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        interrupt::go_on()
    });
    bar.finish_and_clear();
    written?;
    // Of a long video the last part has them.
    let seconds = &mut generation.later.last_mut().unwrap_or(&mut generation.report).seconds;
    seconds.encode = start.elapsed().as_secs_f64();
    seconds.total += seconds.encode;
    Ok(())
}

/// Writes everything that was asked for.
pub(super) fn write(
    args: &Args,
    generation: &mut Generation,
    timeline: Option<&Trace>,
    output: &Output,
    begun: Option<Encoding>,
) -> anyhow::Result<()> {
    encode(generation, output, begun, args.quiet)?;
    let generation = &*generation;
    if let (Some(path), Some(timeline)) = (&args.profile, timeline) {
        write_file(path, &serde_json::to_vec(timeline)?).map_err(PipelineError::from)?;
    }
    if let Some(path) = &args.report {
        let json = if args.prompts.is_some() {
            serde_json::to_string_pretty(&merged_reports(path, generation)?)?
        } else if generation.later.is_empty() {
            serde_json::to_string_pretty(&generation.report)?
        } else {
            serde_json::to_string_pretty(&reports(generation).collect::<Vec<_>>())?
        };
        write_file(path, (json + "\n").as_bytes()).map_err(PipelineError::from)?;
    }
    if let Some(path) = &args.trace {
        let mut text = vec![];
        generation.trace.write(&mut text)?;
        write_file(path, &text)?;
    }
    Ok(())
}

/// The reports of a batch so far, an interrupted one's included, with those of `generation` in their place.
fn merged_reports(path: &Path, generation: &Generation) -> anyhow::Result<Vec<Report>> {
    let mut merged = if path.exists() { earlier_reports(path)? } else { vec![] };
    let same = |a: &Report, b: &Report| match &a.output {
        Some(output) => Some(output) == b.output.as_ref(),
        // Older reports do not say where their video is.
        None => (&a.prompt, a.seed) == (&b.prompt, b.seed),
    };
    merged.retain(|earlier| !reports(generation).any(|report| same(earlier, report)));
    merged.extend(reports(generation).cloned());
    Ok(merged)
}

/// The reports in the file of a batch.
fn earlier_reports(path: &Path) -> anyhow::Result<Vec<Report>> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{file} is there and is no list of reports: name another file with --report, or remove it")
    })
}
