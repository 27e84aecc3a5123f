//! `ptx-vm`: makes, runs and profiles launch cases on the virtual GPU, and lists the instruction set.

mod report;

use clap::{Args, Parser, Subcommand};
use ptx_vm::case::{Launched, Outcome, new_case, run_case};
use ptx_vm::{Counters, FaultKind, FaultKinds, LoadError, MmaRounding, Module, VmConfig, coverage};
use report::Sort;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "ptx-vm", version, about = "A virtual GPU: runs, checks and profiles CUDA PTX on the CPU")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where a launch ends that does not end by itself.
#[derive(Args, Clone, Copy)]
struct Limits {
    /// Warp instructions a block may execute before the launch is stopped as a runaway; 0 takes the brake off.
    #[arg(long, default_value_t = 2_000_000_000)]
    budget: u64,
    /// Warp instructions all blocks of a launch may execute together; 0 takes the brake off.
    #[arg(long, default_value_t = 20_000_000_000)]
    launch_budget: u64,
    /// Seconds a launch may take; no limit when not given.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

impl Limits {
    fn config(self) -> VmConfig {
        let some = |budget: u64| (budget > 0).then_some(budget);
        let (instruction_budget, launch_budget) = (some(self.budget), some(self.launch_budget));
        VmConfig { instruction_budget, launch_budget, timeout: self.timeout, ..VmConfig::default() }
    }
}

/// A number of threads that a machine can start.
fn threads(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n <= VmConfig::MOST_THREADS => Ok(n),
        Ok(_) => Err(format!("at most {}", VmConfig::MOST_THREADS)),
        Err(error) => Err(error.to_string()),
    }
}

/// A kind of fault that can be left out.
fn checked_kind(text: &str) -> Result<FaultKind, String> {
    match FaultKind::parse(text) {
        Some(kind) if FaultKind::CHECKED.contains(&kind) => Ok(kind),
        Some(kind) => Err(format!("a launch cannot go on after `{kind}`, which is always reported")),
        None => Err(format!("there are {}", FaultKind::CHECKED.map(FaultKind::name).join(", "))),
    }
}

/// A time in seconds, such as `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(value) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("a launch takes some time, and not for ever".to_owned()),
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run launch cases: folders with a case.json.
    Run {
        /// The folders.
        #[arg(required = true)]
        cases: Vec<PathBuf>,
        /// Also report uninitialised reads, shared-memory races and divergent barriers.
        #[arg(long)]
        checked: bool,
        /// Of the kinds of faults that only --checked finds, report these: a list such as race,uninitialised,barrier.
        #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = checked_kind, requires = "checked")]
        #[arg(conflicts_with = "except")]
        only: Vec<FaultKind>,
        /// Report all kinds but these.
        #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = checked_kind, requires = "checked")]
        except: Vec<FaultKind>,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Count instructions, bytes and conflicts.
        #[arg(long)]
        counters: bool,
        /// Worker threads, at most 1024; 0 takes all cores.
        #[arg(long, default_value_t = 0, value_parser = threads)]
        threads: usize,
        #[command(flatten)]
        limits: Limits,
        /// Begin blocks in an order of this seed instead of by number.
        #[arg(long, value_name = "SEED")]
        block_order: Option<u64>,
        /// Where --checked looks for races: in shared memory, or in global memory too, among blocks as well.
        #[arg(long, value_enum, default_value = "shared", requires = "checked")]
        races: Races,
        /// Take every liberty hardware has: late copies and stores, warps far apart, poison in fresh memory; repeatable by its seed.
        #[arg(long, value_name = "SEED")]
        adverse: Option<u64>,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Run a launch case and print its counters, its hottest PTX lines and, where the PTX has .loc, its hottest source lines.
    Profile {
        /// The folder.
        case: PathBuf,
        /// One JSON object: totals, lines, source lines, with all that was counted.
        #[arg(long)]
        json: bool,
        /// Lines to show; all with --json when not given.
        #[arg(long)]
        top: Option<usize>,
        /// What makes a line hot.
        #[arg(long, value_enum, default_value = "instructions")]
        sort: Sort,
        /// Worker threads, at most 1024; 0 takes all cores. The counts are the same with any number.
        #[arg(long, default_value_t = 0, value_parser = threads)]
        threads: usize,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Begin a launch case: a folder with a copy of the PTX and a case.json that has an argument for each parameter, to be filled in.
    New {
        /// The folder, made if need be.
        case: PathBuf,
        /// The PTX file.
        ptx: PathBuf,
        /// The kernel; may be left out when the file has one only.
        #[arg(long)]
        entry: Option<String>,
    },
    /// List the instructions the decoder accepts.
    Isa {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print PTX files in canonical form: one statement a line, modifiers in the manual's order.
    Print {
        /// The PTX files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Decode every kernel of a PTX file and list everything that is not supported.
    Load {
        /// The PTX files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// What the device is.
#[derive(clap::Args)]
struct DeviceArgs {
    /// How tensor cores add: `nearest` (fast), or `truncate` as those of the architecture do.
    #[arg(long, value_name = "HOW", default_value = "nearest")]
    mma: MmaRounding,
    /// The architecture of the device, as 90 for sm_90; that of the PTX if not given.
    #[arg(long, value_name = "NUMBER")]
    arch: Option<u32>,
}

/// Memory in which races are looked for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Races {
    /// Shared memory.
    Shared,
    /// Global memory too.
    Global,
}

/// The status of a command whose reader has gone: that of a program ended by SIGPIPE.
const CLOSED: u8 = 141;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    let status = command(cli.command, &mut out).and_then(|status| out.flush().map(|()| status));
    ExitCode::from(match status {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => CLOSED,
        Err(error) => {
            complain(format_args!("cannot write the output: {error}"));
            2
        }
    })
}

/// Writes a line for people to standard error, if anybody reads it.
fn complain(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Runs a command, an arm for each; gives its status, or why its output cannot be written.
fn command(command: Command, out: &mut impl Write) -> io::Result<u8> {
    match command {
        Command::Run {
            cases,
            checked,
            only,
            except,
            json,
            counters,
            threads,
            limits,
            block_order,
            races,
            adverse,
            device,
        } => {
            let DeviceArgs { mma, arch } = device;
            let report = match only.as_slice() {
                [] => except.into_iter().fold(FaultKinds::ALL, FaultKinds::without),
                only => only.iter().copied().fold(FaultKinds::NONE, FaultKinds::with),
            };
            let global_races = races == Races::Global;
            let config = VmConfig {
                threads,
                checked,
                global_races,
                report,
                counters,
                block_order,
                adverse,
                mma,
                arch,
                ..limits.config()
            };
            run(&cases, &config, json, out)
        }
        Command::Profile { case, json, top, sort, threads, limits, device } => {
            let DeviceArgs { mma, arch } = device;
            let config = VmConfig { threads, profile: true, mma, arch, ..limits.config() };
            profile(&case, &config, json, top, sort, out)
        }
        Command::New { case, ptx, entry } => match new_case(&case, &ptx, entry.as_deref()) {
            Ok(spec) => {
                let (spec, case) = (spec.display(), case.display());
                writeln!(out, "{spec}: fill in grid, block and arguments, then: ptx-vm run {case}")?;
                Ok(0)
            }
            Err(error) => {
                complain(error);
                Ok(2)
            }
        },
        Command::Isa { json } => {
            for row in coverage() {
                if json {
                    writeln!(out, "{}", serde_json::to_string(&row).unwrap_or_default())?;
                } else {
                    writeln!(
                        out,
                        "{:<14} {:<12} {:<44} {:<28} {}",
                        row.name, row.operands, row.modifiers, row.types, row.meaning
                    )?;
                }
            }
            Ok(0)
        }
        Command::Load { files } => load(&files, out),
        Command::Print { files } => print(&files, out),
    }
}

fn run(cases: &[PathBuf], config: &VmConfig, json: bool, out: &mut impl Write) -> io::Result<u8> {
    let mut worst = 0;
    for dir in cases {
        match run_case(dir, config) {
            Err(error) => {
                complain(error);
                worst = 2;
            }
            Ok(outcome) => {
                if json {
                    writeln!(out, "{}", serde_json::to_string(&outcome).unwrap_or_default())?;
                } else {
                    write!(out, "{}", outcome.printed)?;
                    verdict(&outcome, out)?;
                    if let Some(counters) = &outcome.counters {
                        writeln!(out, "     {}", report::totals(counters).replace('\n', "\n     "))?;
                    }
                }
                out.flush()?;
                if !outcome.ok {
                    worst = worst.max(1);
                }
            }
        }
    }
    Ok(worst)
}

fn verdict(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let verdict = if outcome.ok { "ok  " } else { "FAIL" };
    let errors = match &outcome.fault_kind {
        Some(kind) if outcome.ok => format!("{kind} as expected"),
        Some(kind) => kind.clone(),
        None if outcome.compared == 0 => "no values compared".to_owned(),
        None => format!("max abs {:.3e}, max rel {:.3e}", outcome.max_abs_err, outcome.max_rel_err),
    };
    writeln!(out, "{verdict} {}  {errors}, {:.3} ms on the VM", outcome.case, outcome.seconds * 1e3)?;
    for line in outcome.fault.iter().chain(&outcome.message).flat_map(|text| text.lines()) {
        writeln!(out, "     {line}")?;
    }
    Ok(())
}

fn profile(
    case: &Path,
    config: &VmConfig,
    json: bool,
    top: Option<usize>,
    sort: Sort,
    out: &mut impl Write,
) -> io::Result<u8> {
    let outcome = match run_case(case, config) {
        Ok(outcome) => outcome,
        Err(error) => {
            complain(error);
            return Ok(2);
        }
    };
    let status = u8::from(!outcome.ok);
    if json {
        let mut whole = serde_json::to_value(&outcome).unwrap_or_default();
        if let Some(whole) = whole.as_object_mut() {
            let most = top.unwrap_or(usize::MAX);
            match outcome.launches.as_slice() {
                [one] => whole.extend(lines_of(one, sort, most)),
                many => {
                    if let Some(launches) = whole.get_mut("launches").and_then(Value::as_array_mut) {
                        for (value, launch) in launches.iter_mut().filter_map(Value::as_object_mut).zip(many) {
                            value.extend(lines_of(launch, sort, most));
                        }
                    }
                }
            }
        }
        writeln!(out, "{whole}")?;
        return Ok(status);
    }
    verdict(&outcome, out)?;
    for launch in &outcome.launches {
        if let (Some(profile), Some(counters)) = (&launch.profile, &launch.counters) {
            writeln!(out, "\n{} in {}\n{}\n", profile.kernel, profile.file, report::totals(counters))?;
            write!(out, "{}", report::tables(profile, counters, sort, top.unwrap_or(20), case))?;
        }
    }
    if !outcome.launches.is_empty() {
        writeln!(out, "\nCounted before the caches: L1, L2 and DRAM are not modelled.")?;
    }
    Ok(status)
}

/// What a profile has of one launch, for JSON.
fn lines_of(launch: &Launched, sort: Sort, top: usize) -> Map<String, Value> {
    let (Some(profile), Some(counters)) = (&launch.profile, &launch.counters) else { return Map::new() };
    let ratios = serde_json::to_value(Counters::ratios(counters)).unwrap_or_default();
    let mut out = report::lines(profile, sort, top);
    out.insert("kernel".to_owned(), profile.kernel.clone().into());
    out.insert("file".to_owned(), profile.file.clone().into());
    out.insert("ratios".to_owned(), ratios);
    out
}

fn read(file: &Path) -> Result<Module, String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
    Module::parse(&name, &text).map_err(|e| e.to_string())
}

fn print(files: &[PathBuf], out: &mut impl Write) -> io::Result<u8> {
    let mut failed = false;
    for file in files {
        match read(file).and_then(|module| module.to_ptx().map_err(|e| e.to_string())) {
            Ok(ptx) => write!(out, "{ptx}")?,
            Err(error) => {
                complain(error);
                failed = true;
            }
        }
    }
    Ok(u8::from(failed))
}

fn load(files: &[PathBuf], out: &mut impl Write) -> io::Result<u8> {
    let mut failed = false;
    for file in files {
        let name = file.display().to_string();
        let module = match read(file) {
            Ok(module) => module,
            Err(error) => {
                writeln!(out, "{error}")?;
                failed = true;
                continue;
            }
        };
        let (mut kernels, mut broken) = (0, 0);
        // Kernels share functions, and the gaps of those.
        let mut all: HashSet<LoadError> = HashSet::new();
        for entry in module.entries() {
            kernels += 1;
            match module.kernel(entry) {
                Ok(kernel) => writeln!(
                    out,
                    "{name}: {entry}: {} instructions, {} bytes of registers a warp, {} bytes of shared memory",
                    kernel.instructions(),
                    kernel.register_bytes(),
                    kernel.static_shared()
                )?,
                Err(_) => {
                    let gaps = module.gaps(entry);
                    for gap in &gaps {
                        writeln!(out, "{gap}")?;
                    }
                    writeln!(out, "{name}: {entry}: cannot be loaded, {}", count(gaps.len(), "gap"))?;
                    all.extend(gaps);
                    broken += 1;
                }
            }
        }
        if kernels == 0 {
            writeln!(out, "{name}: no kernels")?;
        }
        if broken > 0 {
            failed = true;
            let (gaps, kernels) = (count(all.len(), "gap"), count(kernels, "kernel"));
            writeln!(out, "{name}: {gaps}; {broken} of {kernels} cannot be loaded")?;
        }
    }
    Ok(u8::from(failed))
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
