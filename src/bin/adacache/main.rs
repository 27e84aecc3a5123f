//! The `adacache` command: argument parsing and printing around the library.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod calibrate;
mod check;
mod compare;
mod completions;
mod device;
mod devices;
mod generate;
mod interrupt;
mod kernels;
mod log;
mod man;
mod measure;
mod models;
mod out;
mod paper;
mod plan;
mod presets;
mod pull;
mod replay;
mod runs;
mod series;
mod study;
mod votes;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
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
    Presets(presets::Args),
    Check(check::Args),
    Devices(devices::Args),
    Plan(plan::Args),
    Replay(replay::Args),
    Measure(measure::Args),
    Compare(compare::Args),
    Votes(votes::Args),
    Study(study::Args),
    Paper(Box<paper::Args>),
    Calibrate(calibrate::Args),
    Bench(bench::Args),
    Pull(pull::Args),
    Models(models::Args),
    Kernels(kernels::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
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
        Err(said) => return usage(said),
    };
    match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Presets(args) => presets::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::Votes(args) => votes::run(&args),
        Command::Study(args) => study::run(&args),
        Command::Paper(args) => paper::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Prints what clap has to say: the help, or what is wrong with the arguments, with an example where one is missing.
fn usage(mut error: clap::Error) -> anyhow::Result<ExitCode> {
    let example = match std::env::args().nth(1).as_deref() {
        Some("generate") => Some(generate::EXAMPLE),
        Some("check") => Some(check::EXAMPLE),
        _ => None,
    };
    if let (ErrorKind::MissingRequiredArgument, Some(example)) = (error.kind(), example) {
        let tips = example.iter().map(|line| (*line).to_owned().into()).collect();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    out::usage(&error)
}

/// The error and its causes. Many messages tell their cause already: nothing is said twice.
pub(crate) fn describe(error: &anyhow::Error) -> String {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The same words plan what they generate.
    #[test]
    fn plan_and_generate_share_options_and_defaults() {
        let command = Cli::command();
        let of = |name: &str| command.find_subcommand(name).unwrap().get_arguments().cloned().collect::<Vec<_>>();
        let (plan, mut shared) = (of("plan"), vec![]);
        for ours in of("generate") {
            let Some(theirs) = plan.iter().find(|arg| arg.get_long().is_some() && arg.get_long() == ours.get_long())
            else {
                continue;
            };
            let facts = |arg: &clap::Arg| (arg.get_default_values().to_vec(), arg.get_action().takes_values());
            assert_eq!(facts(theirs), facts(&ours), "--{}", ours.get_long().unwrap());
            shared.push(ours.get_long().unwrap().to_owned());
        }
        for name in [
            "model",
            "resolution",
            "aspect",
            "size",
            "frames",
            "steps",
            "cfg-scale",
            "dtype",
            "cache",
            "moreg",
            "vae-tiling",
        ] {
            assert!(shared.iter().any(|shared| shared == name), "--{name} is not in both");
        }
    }

    /// One screen: `-h` of every command, on a terminal of 80 columns.
    #[test]
    fn short_helps_fit_one_screen() {
        let mut command = Cli::command().term_width(80);
        command.build();
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            let help = command.find_subcommand_mut(&name).unwrap().clone().term_width(80).render_help().to_string();
            let lines = help.lines().count();
            assert!(lines <= 40, "{name}: {lines} lines\n{help}");
        }
        assert!(command.render_help().to_string().lines().count() <= 40);
    }
}
