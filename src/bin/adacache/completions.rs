//! `adacache completions`: what a shell needs to complete the command's options.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, out};

/// Print the completions of a shell
///
/// bash: `adacache completions bash > ~/.local/share/bash-completion/completions/adacache`; zsh: into a file `_adacache` in a folder of
/// `$fpath`; fish: `adacache completions fish > ~/.config/fish/completions/adacache.fish`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shell to complete for
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "adacache", &mut script);
    out::print(String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
