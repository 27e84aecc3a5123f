//! `ptx-vm`: makes, runs and profiles launch cases on the virtual GPU, and lists the instruction set.

mod report;

use clap::{Parser, Subcommand};
use ptx_vm::case::{Outcome, new_case, run_case};
use ptx_vm::{MmaRounding, Module, VmConfig, coverage};
use report::Sort;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ptx-vm", version, about = "A virtual GPU: runs, checks and profiles CUDA PTX on the CPU")]
struct Cli {
    #[command(subcommand)]
    command: Command,
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
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        /// Count instructions, bytes and conflicts.
        #[arg(long)]
        counters: bool,
        /// Worker threads; 0 takes all cores.
        #[arg(long, default_value_t = 0)]
        threads: usize,
        /// Warp instructions a block may execute before the launch is stopped as a runaway; 0 takes the brake off.
        #[arg(long, default_value_t = 2_000_000_000)]
        budget: u64,
        /// Begin blocks in an order of this seed instead of by number.
        #[arg(long, value_name = "SEED")]
        block_order: Option<u64>,
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
        /// Worker threads; 0 takes all cores. The counts are the same with any number.
        #[arg(long, default_value_t = 0)]
        threads: usize,
        /// Warp instructions a block may execute before the launch is stopped.
        #[arg(long)]
        budget: Option<u64>,
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
    /// Decode every kernel of a PTX file and say what is not supported.
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

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { cases, checked, json, counters, threads, budget, block_order, device } => {
            let DeviceArgs { mma, arch } = device;
            let instruction_budget = (budget > 0).then_some(budget);
            let config = VmConfig {
                threads,
                checked,
                counters,
                instruction_budget,
                block_order,
                mma,
                arch,
                ..VmConfig::default()
            };
            run(&cases, &config, json)
        }
        Command::Profile { case, json, top, sort, threads, budget, device } => {
            let DeviceArgs { mma, arch } = device;
            let config =
                VmConfig { threads, profile: true, instruction_budget: budget, mma, arch, ..VmConfig::default() };
            profile(&case, &config, json, top, sort)
        }
        Command::New { case, ptx, entry } => match new_case(&case, &ptx, entry.as_deref()) {
            Ok(spec) => {
                println!("{}: fill in grid, block and arguments, then: ptx-vm run {}", spec.display(), case.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        },
        Command::Isa { json } => {
            for row in coverage() {
                if json {
                    println!("{}", serde_json::to_string(&row).unwrap_or_default());
                } else {
                    println!(
                        "{:<14} {:<12} {:<44} {:<28} {}",
                        row.name, row.operands, row.modifiers, row.types, row.meaning
                    );
                }
            }
            ExitCode::SUCCESS
        }
        Command::Load { files } => load(&files),
        Command::Print { files } => print(&files),
    }
}

fn run(cases: &[PathBuf], config: &VmConfig, json: bool) -> ExitCode {
    let mut worst = 0;
    for dir in cases {
        match run_case(dir, config) {
            Err(error) => {
                eprintln!("{error}");
                worst = 2;
            }
            Ok(outcome) => {
                if json {
                    println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
                } else {
                    print!("{}", outcome.printed);
                    print_verdict(&outcome);
                    if let Some(counters) = &outcome.counters {
                        println!("     {}", report::totals(counters).replace('\n', "\n     "));
                    }
                }
                if !outcome.ok {
                    worst = worst.max(1);
                }
            }
        }
    }
    ExitCode::from(worst)
}

fn print_verdict(outcome: &Outcome) {
    let verdict = if outcome.ok { "ok  " } else { "FAIL" };
    println!(
        "{verdict} {}  max abs {:.3e}, max rel {:.3e}, {:.3} ms on the VM",
        outcome.case,
        outcome.max_abs_err,
        outcome.max_rel_err,
        outcome.seconds * 1e3
    );
    for text in outcome.fault.iter().chain(&outcome.message) {
        println!("     {text}");
    }
}

fn profile(case: &Path, config: &VmConfig, json: bool, top: Option<usize>, sort: Sort) -> ExitCode {
    let mut outcome = match run_case(case, config) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let code = ExitCode::from(u8::from(!outcome.ok));
    let profile = outcome.profile.take();
    if json {
        let mut out = serde_json::to_value(&outcome).unwrap_or_default();
        if let (Some(profile), Some(counters), Some(out)) = (&profile, &outcome.counters, out.as_object_mut()) {
            out.insert("kernel".to_owned(), profile.kernel.clone().into());
            out.insert("file".to_owned(), profile.file.clone().into());
            out.insert("ratios".to_owned(), serde_json::to_value(counters.ratios()).unwrap_or_default());
            out.extend(report::lines(profile, sort, top.unwrap_or(usize::MAX)));
        }
        println!("{out}");
        return code;
    }
    print_verdict(&outcome);
    if let (Some(profile), Some(counters)) = (&profile, &outcome.counters) {
        println!("\n{} in {}\n{}\n", profile.kernel, profile.file, report::totals(counters));
        print!("{}", report::tables(profile, counters, sort, top.unwrap_or(20), case));
        println!("\nCounted before the caches: L1, L2 and DRAM are not modelled.");
    }
    code
}

fn read(file: &Path) -> Result<Module, String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
    Module::parse(&name, &text).map_err(|e| e.to_string())
}

fn print(files: &[PathBuf]) -> ExitCode {
    let mut failed = false;
    for file in files {
        match read(file).and_then(|module| module.to_ptx().map_err(|e| e.to_string())) {
            Ok(ptx) => print!("{ptx}"),
            Err(error) => {
                eprintln!("{error}");
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn load(files: &[PathBuf]) -> ExitCode {
    let mut failed = false;
    for file in files {
        let name = file.display().to_string();
        let module = match read(file) {
            Ok(module) => module,
            Err(error) => {
                println!("{error}");
                failed = true;
                continue;
            }
        };
        for entry in module.entries() {
            match module.kernel(entry) {
                Ok(kernel) => println!(
                    "{name}: {entry}: {} instructions, {} bytes of registers a warp, {} bytes of shared memory",
                    kernel.instructions(),
                    kernel.register_bytes(),
                    kernel.static_shared()
                ),
                Err(error) => {
                    println!("{error}");
                    failed = true;
                }
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
