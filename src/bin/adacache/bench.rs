//! `adacache bench`: times of single operations.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::bench::{self, BenchResult, Budget, Op, Shapes};
use adacache::chips::Chip;
use adacache::device::{Device, DeviceKind};
use adacache::model::check_fp8;
use adacache::tensor::DType;
use anyhow::Context;
use serde_json::json;

use crate::{device, out};

/// Time single operations: attention, linear, residual, norm, sampler and the autoencoder's
///
/// Each operation is warmed up, then timed cold (alone; on a GPU with flushed caches) and batched (many in a row). Without --shapes the
/// sizes are those of one step of Open-Sora 1.2 at 720p on a GPU, and of the built-in model on the virtual GPU. The virtual GPU runs on
/// the CPU, so its times are the CPU's.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Operations to time, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = op, default_values_t = Op::ALL.map(|op| op.name().to_owned()))]
    ops: Vec<String>,
    /// File of shapes to time; src/bench/example.toml is an example
    #[arg(long, value_name = "FILE.toml")]
    shapes: Option<PathBuf>,
    #[command(flatten)]
    device: device::Choice,
    /// Element type to compute in: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: DType,
    /// Time the products of matrices in 8 bits (e4m3, one scale per row), with what makes their rows so; on a Hopper, with bf16 or f16
    #[arg(long)]
    fp8_weights: bool,
    /// Compare the results with another device's instead of timing: differences in bits and in units in the last place
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["csv", "markdown", "quick"])]
    compare: Option<String>,
    /// Take few samples, to see that everything runs
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long, group = "format")]
    json: bool,
    /// Print comma-separated values; a line about the device goes to standard error
    #[arg(long, group = "format")]
    csv: bool,
    /// Print a Markdown table
    #[arg(long, group = "format")]
    markdown: bool,
}

fn op(name: &str) -> Result<String, String> {
    let known: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
    if known.contains(&name) { Ok(name.into()) } else { Err(format!("known: {}", known.join(", "))) }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shapes = match &args.shapes {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read the shapes {}", path.display()))?;
            Some(Shapes::from_toml(&text, &path.display().to_string())?)
        }
        None => None,
    };
    let device = args.device.open()?;
    let ops: Vec<Op> = Op::ALL.into_iter().filter(|op| args.ops.iter().any(|name| name == op.name())).collect();
    // Results are compared at sizes that the virtual GPU gets through.
    let small = device.is_vm() || args.compare.is_some();
    let shapes = match shapes {
        Some(shapes) => shapes,
        None if small => Shapes::small()?,
        None => Shapes::opensora("720p")?,
    };
    let mut shapes = shapes.only(&ops);
    if args.fp8_weights {
        check_fp8(&device, args.dtype)?;
        shapes = shapes.in_fp8();
    }
    if let Some(reference) = &args.compare {
        return compare(args, &device, &device::open(reference)?, shapes);
    }
    let budget = if args.quick { Budget::quick() } else { Budget::usual() };

    let table = Table::new(args, &device);
    if args.csv {
        out::note(format_args!("{}, {}", table.facts(), args.dtype));
    }
    out::print(table.head())?;
    let (mut results, mut printed) = (vec![], Ok(()));
    bench::run(&device, args.dtype, &shapes, &budget, &mut |result| {
        printed = out::print(table.row(result));
        results.push(result.clone());
        if printed.is_err() || out::is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    printed?;
    if args.json {
        out::print(table.json(&results)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &Args, device: &Device, reference: &Device, shapes: Shapes) -> anyhow::Result<ExitCode> {
    let differences = bench::compare(device, reference, args.dtype, &shapes)?;
    let (ours, theirs) = (device.info().label(), reference.info().label());
    let text = if args.json {
        serde_json::to_string_pretty(&json!({ "device": ours, "reference": theirs, "differences": differences }))?
            + "\n"
    } else {
        let head = ["op", "shape", "elements", "different", "max ULP", "max relative"].map(str::to_owned);
        let rows = differences.iter().map(|d| {
            let (op, shape) = (d.op.name().to_owned(), d.shape.clone());
            let counts = [d.elements.to_string(), d.different.to_string(), d.max_ulp.to_string()];
            let [elements, different, ulp] = counts;
            line(&[op, shape, elements, different, ulp, format!("{:.2e}", d.max_relative)])
        });
        format!("{ours} against {theirs}, {}\n{}{}", args.dtype, line(&head), rows.collect::<String>())
    };
    out::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a format is made of.
struct Table<'a> {
    args: &'a Args,
    device: &'a Device,
}

impl<'a> Table<'a> {
    fn new(args: &'a Args, device: &'a Device) -> Self {
        Self { args, device }
    }

    /// Facts of the device, in a line.
    fn facts(&self) -> String {
        let info = self.device.info();
        let mut facts = vec![info.label()];
        facts.extend(info.compute_capability.map(|(major, minor)| format!("compute capability {major}.{minor}")));
        facts.push(match info.kind {
            DeviceKind::Vm => format!("{} threads; VM times are this CPU's wall clock, not a GPU's", info.units),
            _ => format!("{} SMs", info.units),
        });
        facts.extend(info.driver.map(|(major, minor)| format!("driver for CUDA {major}.{minor}")));
        facts.extend(Chip::of_device(info).map(|gpu| {
            format!("peaks {:.0} TFLOP/s, {:.0} GB/s ({})", gpu.tensor_flops / 1e12, gpu.bandwidth / 1e9, gpu.source)
        }));
        facts.join(", ")
    }

    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec!["op", "shape", "cold µs", "noise %", "batched µs", "GFLOP/s", "GB/s"];
        if self.device.is_vm() {
            columns.extend(["warp instr.", "tensor MFLOP", "global MB", "sectors/req", "bank conflicts"]);
        } else {
            columns.push("% of peak");
        }
        columns
    }

    fn cells(&self, r: &BenchResult) -> Vec<String> {
        let mut cells = vec![
            r.op.name().to_owned(),
            r.shape.clone(),
            format!("{:.1}", r.cold.median_seconds * 1e6),
            format!("{:.1}", r.cold.noise * 100.0),
            format!("{:.1}", r.batched.median_seconds * 1e6),
            format!("{:.1}", r.flops_per_second() / 1e9),
            format!("{:.1}", r.bytes_per_second() / 1e9),
        ];
        match &r.counted {
            Some(c) => cells.extend([
                c.warp_instructions.to_string(),
                format!("{:.2}", c.tensor_flops as f64 / 1e6),
                format!("{:.2}", c.global_bytes as f64 / 1e6),
                format!("{:.2}", c.sectors_per_request),
                c.bank_conflicts.to_string(),
            ]),
            None => cells.push(r.percent_of_peak.map_or_else(|| "?".into(), |percent| format!("{percent:.1}"))),
        }
        cells
    }

    fn head(&self) -> String {
        let columns = self.columns();
        if self.args.json {
            String::new()
        } else if self.args.csv {
            columns.join(",") + "\n"
        } else if self.args.markdown {
            format!(
                "{}, {}\n\n| {} |\n|{}\n",
                self.facts(),
                self.args.dtype,
                columns.join(" | "),
                "--|".repeat(columns.len())
            )
        } else {
            let columns: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
            format!("{}, {}\n{}", self.facts(), self.args.dtype, line(&columns))
        }
    }

    fn row(&self, result: &BenchResult) -> String {
        let cells = self.cells(result);
        if self.args.json {
            String::new()
        } else if self.args.csv {
            cells.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(",") + "\n"
        } else if self.args.markdown {
            format!("| {} |\n", cells.join(" | "))
        } else {
            line(&cells)
        }
    }

    fn json(&self, results: &[BenchResult]) -> anyhow::Result<String> {
        let info = self.device.info();
        let clock = if info.kind == DeviceKind::Vm { "wall clock of the CPU, not a GPU's" } else { "CUDA events" };
        let device = json!({
            "id": info.id, "name": info.name, "compute_capability": info.compute_capability, "units": info.units,
            "memory": info.memory, "driver": info.driver, "clock": clock, "peaks": Chip::of_device(info),
        });
        Ok(serde_json::to_string_pretty(&json!({ "device": device, "results": results }))? + "\n")
    }
}

/// A field of comma-separated values.
fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

fn line(cells: &[String]) -> String {
    let mut text = format!("{:<10} {:<66}", cells[0], cells[1]);
    for cell in &cells[2..] {
        text += &format!(" {cell:>13}");
    }
    text + "\n"
}
