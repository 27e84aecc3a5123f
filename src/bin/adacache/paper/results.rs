//! Finished tables, as JSON and for people.

use std::collections::BTreeMap;

use adacache::chips::Chip;
use adacache::compare::Summary;
use adacache::paper::{Because, Counted, Entry, Figures, Variant};

use serde::Serialize;

/// A finished table.
#[derive(Serialize)]
pub(super) struct Done {
    pub(super) system: String,
    pub(super) model: String,
    pub(super) about: String,
    pub(super) steps: usize,
    /// Tera-operations and modelled seconds of decoding, which the lines include.
    pub(super) decoding: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lines: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) variants: Vec<Varied>,
    /// Means of the runs by line or variant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Measured>,
}

/// A variant of AdaCache, counted.
#[derive(Serialize)]
pub(super) struct Varied {
    #[serde(flatten)]
    pub(super) variant: Variant,
    /// Modelled milliseconds of a computed step, its probes included.
    pub(super) modelled_step_ms: f64,
    /// Bytes kept from step to step.
    pub(super) cache_bytes: usize,
    /// The fewest and the most computed steps.
    pub(super) computed: [usize; 2],
}

/// What was generated and measured.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) device: String,
    pub(super) weights: String,
    pub(super) prompts: usize,
    pub(super) seeds: u64,
    pub(super) summaries: Vec<Summary>,
    /// The mean of VBench's dimensions for custom videos, by policy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) vbench: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A figure to so many digits, or a dash.
fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

/// Rows in columns: the first to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let cell = |(column, text): (usize, &String)| {
        let pad = " ".repeat(width(column).unwrap_or(0) - text.chars().count());
        if column == 0 { format!("{text}{pad}") } else { format!("  {pad}{text}") }
    };
    rows.iter().map(|row| row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned()).collect()
}

/// All tables.
pub(super) fn text(done: &[Done], gpu: &Chip) -> String {
    let mut lines = vec![];
    for table in done {
        lines.push(table.about.clone());
        lines.extend(aligned(&if table.lines.is_empty() { ablation(table) } else { methods(table, gpu) }));
        if let Some([tflop, seconds]) = table.decoding.filter(|_| !table.lines.is_empty()) {
            lines.push(format!("decoding, which every line includes: {tflop:.0} TFLOP, {seconds:.2} s modelled"));
        }
        if let Some(base) = table.lines.first() {
            lines.extend(held(base));
        }
        if let Some(measured) = &table.measured {
            let Measured { device, prompts, seeds, .. } = measured;
            lines.push(format!("measured: {prompts} prompts × {seeds} seeds on {device}, against every step computed"));
            lines.extend(measured.vbench.iter().map(|(name, scores)| {
                let scores = scores.iter().map(|(dimension, score)| format!("{dimension} {score:.4}"));
                format!("VBench, {name}: {}", scores.collect::<Vec<_>>().join(", "))
            }));
        }
        lines.push(String::new());
    }
    if done.iter().any(|table| !table.lines.is_empty()) {
        let why = done.iter().flat_map(|table| &table.lines).flat_map(|line| &line.counted).map(|run| run.because);
        lines.extend(notes(&why.collect::<Vec<_>>(), gpu));
    }
    lines.truncate(lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1));
    lines.join("\n")
}

/// How far the counted operations of every step are from the published ones.
fn held(base: &Entry) -> Option<String> {
    let (run, published) = (base.counted.first()?, base.published.tflop?);
    let off = 100.0 * (run.tflop_as_published / published - 1.0);
    let what = if run.tflop == run.tflop_as_published { "" } else { ", attention's products left out as there" };
    Some(format!("every step computed: {off:+.1} % from the published operations{what}"))
}

/// The table of methods.
fn methods(table: &Done, gpu: &Chip) -> Vec<Vec<String>> {
    let published = table.lines.iter().any(|line| line.published != Figures::default());
    let mut head: Vec<String> = vec!["".into(), "computed".into(), "TFLOP".into()];
    if published {
        head.extend(["as paper".into(), "paper".into()]);
    }
    head.extend([format!("s on {}", gpu.id), "speed-up".into()]);
    if published {
        let columns = ["paper s", "speed-up", "VBench", "PSNR", "LPIPS", "SSIM"];
        head.extend(columns.map(String::from));
    }
    let measured = table.measured.as_ref().map_or(&[][..], |measured| &measured.summaries);
    if !measured.is_empty() {
        head.extend(["measured: computed", "compute", "PSNR", "SSIM", "LPIPS", "s"].map(String::from));
    }
    let base = table.lines.first().and_then(|line| line.published.seconds);
    let mut rows = vec![head];
    for line in &table.lines {
        for run in &line.counted {
            let mut row = vec![label(line, run), computed(run), format!("{:.0}", run.tflop)];
            if published {
                row.extend([format!("{:.0}", run.tflop_as_published), figure(line.published.tflop, 0)]);
            }
            row.extend([format!("{:.2}", run.modelled_seconds), format!("{:.2}", run.modelled_speedup)]);
            if published {
                let Figures { vbench, psnr, lpips, ssim, seconds, .. } = line.published;
                let speedup = base.zip(seconds).map(|(base, seconds)| base / seconds);
                row.extend([figure(seconds, 2), figure(speedup, 2), figure(vbench, 2)]);
                row.extend([figure(psnr, 2), figure(lpips, 3), figure(ssim, 3)]);
            }
            if let Some(summary) = measured.iter().find(|summary| summary.cache == line.cache) {
                row.extend(quality(summary));
            }
            rows.push(row);
        }
    }
    rows
}

fn label(line: &Entry, run: &Counted) -> String {
    match run.because {
        Because::Fewest => format!("{}, at the least", line.method),
        Because::Most => format!("{}, at the most", line.method),
        _ => line.method.into(),
    }
}

/// The computed calls, and those in part.
fn computed(run: &Counted) -> String {
    let star = match run.because {
        Because::PublishedWork | Because::PublishedSeconds => "*",
        _ => "",
    };
    let whole = format!("{:.*}", usize::from(!star.is_empty()), run.computed_calls);
    match run.partial_calls {
        0 => format!("{whole}{star}"),
        partial => format!("{whole} + {partial} in part"),
    }
}

fn quality(summary: &Summary) -> Vec<String> {
    vec![
        format!("{:.1}", summary.computed_steps.mean),
        format!("{:.1} %", 100.0 * summary.compute.mean),
        format!("{:.2}", summary.psnr.mean),
        format!("{:.4}", summary.ssim.mean),
        figure(summary.lpips.map(|mean| mean.mean), 4),
        format!("{:.2}", summary.seconds.mean),
    ]
}

/// The table of variants.
fn ablation(table: &Done) -> Vec<Vec<String>> {
    let head = ["AdaCache with", "computed, fewest and most", "ms of a computed step", "kept MiB"];
    let mut head: Vec<String> = head.map(String::from).to_vec();
    let measured = table.measured.as_ref().map_or(&[][..], |measured| &measured.summaries);
    if !measured.is_empty() {
        head.extend(["measured: computed", "compute", "PSNR", "SSIM", "LPIPS", "s"].map(String::from));
    }
    let row = |varied: &Varied| {
        let Varied { variant, modelled_step_ms, cache_bytes, computed: [fewest, most] } = varied;
        let name =
            if variant.changes.is_empty() { format!("{} (as it is)", variant.name) } else { variant.name.clone() };
        let mut row = vec![
            name,
            format!("{fewest} to {most}"),
            format!("{modelled_step_ms:.2}"),
            format!("{:.1}", *cache_bytes as f64 / (1u64 << 20) as f64),
        ];
        if let Some(summary) = measured.iter().find(|summary| summary.cache == variant.name) {
            row.extend(quality(summary));
        }
        row
    };
    std::iter::once(head).chain(table.variants.iter().map(row)).collect()
}

/// What the columns are.
fn notes(why: &[Because], gpu: &Chip) -> Vec<String> {
    let mut lines = vec![format!(
        "TFLOP: counted. s on {}: modelled, no figure here was measured on a GPU. as paper: counted as its figures are; where attention ran in \
         kernels of its own, their counter did not see its products",
        gpu.id
    )];
    if why.iter().any(|why| matches!(why, Because::PublishedWork | Because::PublishedSeconds)) {
        lines.push(
            "* the paper's operations amount to so many computed calls, without operations its seconds; with weights --run counts them".into(),
        );
    }
    lines
}
