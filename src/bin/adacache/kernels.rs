//! `adacache kernels`: what a GPU could make of the kernels, from machine code, model and VM counters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::chips::{CHIPS, Chip};
use adacache::evidence::{self, Counted, Figures, Pipe, Work};
use anyhow::Context as _;
use serde_json::json;

use crate::out;

/// Show what the kernels' machine code allows on a GPU: spills, occupancy, main loops by pipe, operations of Open-Sora and Wan (modelled), VM counters
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architectures (sm_80, sm_86, sm_89, sm_90, sm_100, sm_120) or names of GPUs that `plan` knows, such as h200
    #[arg(long, value_delimiter = ',', default_value = "sm_80")]
    arch: Vec<String>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Show the main loops of other kernels too: a file written by tools/compare_triton.py
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,
    /// Skip the VM's counters
    #[arg(long)]
    no_counters: bool,
}

/// A kernel of a main-loop table.
struct Row<'a> {
    entry: String,
    figures: &'a Figures,
    threads: usize,
    dynamic: usize,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let others = match &args.figures {
        None => evidence::Table::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            evidence::parse(&text).with_context(|| path.display().to_string())?
        }
    };
    let mut text = String::new();
    let mut documents = Vec::new();
    let mut counted = BTreeMap::new();
    for name in &args.arch {
        let chip = chip(name)?;
        let [open_sora, wan] = [evidence::open_sora(chip), evidence::wan(chip)];
        let fp8 = [&open_sora[..], &wan].map(|works| evidence::in_fp8(chip, works)).concat();
        let works = [open_sora, wan, fp8];
        let figures_of = |entry: &str| {
            let targets = evidence::figures().get(entry);
            targets.and_then(|t| t.get(chip.sm.target)).with_context(|| format!("ptx/manifest.json lacks {entry}"))
        };
        let mut rows: Vec<Row<'_>> = Vec::new();
        for item in works.iter().flatten() {
            let choice = &item.choice;
            if rows.iter().all(|row| row.entry != choice.entry) {
                let figures = figures_of(&choice.entry)?;
                rows.push(Row {
                    entry: choice.entry.clone(),
                    figures,
                    threads: choice.threads,
                    dynamic: choice.shared,
                });
                if !args.no_counters && !counted.contains_key(&choice.entry) {
                    counted.insert(choice.entry.clone(), evidence::count(item)?);
                }
            }
        }
        for (entry, targets) in &others {
            if let Some((figures, (threads, dynamic))) =
                targets.get(chip.sm.target).and_then(|figures| Some((figures, figures.launch?)))
            {
                rows.push(Row { entry: entry.clone(), figures, threads, dynamic });
            }
        }
        if args.json {
            documents.push(document(chip, &rows, &works)?);
        } else {
            main_loops(&mut text, chip, &rows);
            let [open_sora, wan, fp8] = &works;
            operations(&mut text, chip, "Open-Sora, bf16, 51 frames, batch 2", open_sora);
            operations(&mut text, chip, "Wan 2.1, bf16, 81 frames, batch 2; decoder: 4 frames of 480p", wan);
            if !fp8.is_empty() {
                operations(&mut text, chip, "The same with --fp8-weights, against the peak of 8 bits", fp8);
            }
        }
    }
    if args.json {
        let all = json!({ "modelled": documents, "vm_counters": counted.values().collect::<Vec<_>>() });
        text = serde_json::to_string_pretty(&all)? + "\n";
    } else if !args.no_counters {
        counters(&mut text, counted.values());
    }
    out::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The chip of this name, or the first of this target.
fn chip(name: &str) -> anyhow::Result<&'static Chip> {
    Chip::of_target(name).or_else(|| Chip::named(name)).with_context(|| {
        let mut known: Vec<&str> = CHIPS.iter().map(|chip| chip.sm.target).collect();
        known.dedup();
        known.extend(CHIPS.iter().map(|chip| chip.id));
        format!("no figures for {name}; there are: {}", known.join(", "))
    })
}

fn main_loops(text: &mut String, chip: &Chip, rows: &[Row<'_>]) {
    let _ = writeln!(
        text,
        "{} ({}): main loops. Cycles of each pipe in % of the busiest; modelled, docs/kernel-model.md\n\
         {:<32} {:>4} {:>5} {:>6} {:>9} {:>5} {:>6} {:>6} {:>6} | {:>4} {:>4} {:>4} {:>4} {:>4} {:>4} {:>4} | {:>6} {:>7}",
        chip.sm.target,
        chip.name,
        "kernel",
        "regs",
        "spill",
        "shared",
        "blk x wrp",
        "mma",
        "mma/is",
        "ldsm/m",
        "cp/mma",
        "mma",
        "shrd",
        "issu",
        "fma",
        "alu",
        "mufu",
        "L2",
        "tensor",
        "of peak",
    );
    for Row { entry, figures, threads, dynamic } in rows {
        let occupancy = figures.occupancy(chip, *threads, *dynamic);
        let _ = write!(
            text,
            "{entry:<32} {:>4} {:>5} {:>6} {:>4} x {:<2}",
            figures.registers,
            figures.spill_stores,
            figures.shared as usize + dynamic,
            occupancy.blocks,
            occupancy.warps / occupancy.blocks.max(1),
        );
        if let Some(body) = &figures.main_loop {
            let bound = body.bound(chip, entry, *threads);
            let mma = body.tensor_instructions();
            let per = |n: u64| n as f64 / mma.max(1) as f64;
            let _ = write!(
                text,
                " {mma:>5} {:>5.0}% {:>6.2} {:>6.2} |",
                100.0 * mma as f64 / body.issue as f64,
                per(body.ldsm),
                per(body.ldgsts),
            );
            for pipe in [Pipe::Tensor, Pipe::Shared, Pipe::Issue, Pipe::Fma, Pipe::Alu, Pipe::Mufu, Pipe::L2] {
                let _ = write!(text, " {:>4.0}", 100.0 * bound.of(pipe) / bound.total());
            }
            let _ = write!(text, " | {:>5.0}% {:>6.0}%", 100.0 * bound.fraction, 100.0 * bound.of_peak);
        }
        text.push('\n');
    }
    text.push('\n');
}

fn operations(text: &mut String, chip: &Chip, title: &str, work: &[Work]) {
    let _ = writeln!(
        text,
        "{} ({}): {title}; least time (modelled)\n\
         {:<27} {:<30} {:>8} {:>7} {:>7} {:>10} {:>8} {:>8}",
        chip.sm.target, chip.name, "operation", "kernel", "blocks", "useful", "filled", "ms", "of peak", "of DRAM"
    );
    for item in work {
        let bound = item.bound(chip, &evidence::figures()[&item.choice.entry][chip.sm.target]);
        let _ = writeln!(
            text,
            "{:<27} {:<30} {:>8} {:>6.1}% {:>6.1}% {:>10.3} {:>7.1}% {:>7.1}%",
            item.name,
            item.choice.entry,
            item.choice.grid.iter().product::<usize>(),
            100.0 * item.useful,
            100.0 * bound.filled,
            1e3 * bound.seconds,
            100.0 * bound.of_peak,
            100.0 * bound.of_bandwidth
        );
    }
    text.push('\n');
}

fn counters<'a>(text: &mut String, counted: impl Iterator<Item = &'a Counted>) {
    let _ = writeln!(
        text,
        "VM counters of a few blocks; 1.00 is the least there could be\n\
         {:<30} {:<26} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10}",
        "kernel", "run", "sect/req", "bytes", "sectors", "FLOP", "conflicts", "(all code)"
    );
    for item in counted {
        let _ = writeln!(
            text,
            "{:<30} {:<26} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {:>10.2} {:>10.2}",
            item.entry,
            item.shape,
            item.sectors_per_request,
            item.bytes_ratio,
            item.sector_ratio,
            item.flop_ratio,
            item.loop_conflicts,
            item.all_conflicts
        );
    }
}

fn document(chip: &Chip, rows: &[Row<'_>], works: &[Vec<Work>]) -> anyhow::Result<serde_json::Value> {
    let kernels: Vec<_> = rows
        .iter()
        .map(|row| {
            let bound = row.figures.main_loop.as_ref().map(|body| body.bound(chip, &row.entry, row.threads));
            json!({
                "entry": row.entry,
                "threads": row.threads,
                "dynamic_shared": row.dynamic,
                "figures": row.figures,
                "occupancy": row.figures.occupancy(chip, row.threads, row.dynamic),
                "limit": bound.as_ref().map(|b| b.limit()),
                "bound": bound,
            })
        })
        .collect();
    let operations: Vec<_> = works
        .iter()
        .flatten()
        .map(|item| {
            let bound = item.bound(chip, &evidence::figures()[&item.choice.entry][chip.sm.target]);
            json!({ "operation": item, "entry": item.choice.entry, "bound": bound })
        })
        .collect();
    Ok(json!({ "gpu": chip, "kernels": kernels, "operations": operations }))
}
