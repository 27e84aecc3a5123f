//! What a generation leaves: the video, its report, trace and profile, and the summary for people.

use std::fs;
use std::path::Path;

use adacache::media::{Output, write_file};
use adacache::pipeline::{Generation, PipelineError, Report};
use adacache::profile::{Marker, Point, Profile, Span, Trace};
use serde_json::json;

use super::args::Args;

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
        Span { name: format!("step {step} {what}"), end: *end, seconds: *seconds, facts: json!({ "step": step }) }
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

/// Writes everything that was asked for.
pub(super) fn write(
    args: &Args,
    generation: &Generation,
    timeline: Option<&Trace>,
    output: &Output,
) -> anyhow::Result<()> {
    generation.write(output)?;
    if let (Some(path), Some(timeline)) = (&args.profile, timeline) {
        write_file(path, &serde_json::to_vec(timeline)?).map_err(PipelineError::from)?;
    }
    if let Some(path) = &args.report {
        let json = if args.prompts.is_some() {
            serde_json::to_string_pretty(&merged_reports(path, generation))?
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
fn merged_reports(path: &Path, generation: &Generation) -> Vec<Report> {
    let earlier = fs::read_to_string(path).ok().and_then(|text| serde_json::from_str::<Vec<Report>>(&text).ok());
    let mut merged = earlier.unwrap_or_default();
    merged.retain(|r| reports(generation).all(|report| (&r.prompt, r.seed) != (&report.prompt, report.seed)));
    merged.extend(reports(generation).cloned());
    merged
}
