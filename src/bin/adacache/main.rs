//! The `adacache` command: argument parsing and printing around the library.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod calibrate;
mod check;
mod compare;
mod device;
mod devices;
mod generate;
mod interrupt;
mod kernels;
mod log;
mod measure;
mod models;
mod out;
mod plan;
mod pull;
mod replay;
mod runs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Video generation with diffusion transformers on hand-written CUDA kernels, with Adaptive Caching.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Check(check::Args),
    Devices(devices::Args),
    Plan(plan::Args),
    Replay(replay::Args),
    Measure(measure::Args),
    Compare(compare::Args),
    Calibrate(calibrate::Args),
    Bench(bench::Args),
    Pull(pull::Args),
    Models(models::Args),
    Kernels(kernels::Args),
}

fn main() -> ExitCode {
    out::install();
    log::install();
    run().unwrap_or_else(|error| {
        if device::is_stop(&error) {
            return interrupt::ended("nothing was written");
        }
        log::say("error", &describe(&error));
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return out::usage(&said),
    };
    match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Kernels(args) => kernels::run(&args),
    }
}

/// The error and its causes. Many messages tell their cause already: nothing is said twice.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
