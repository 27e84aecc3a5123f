//! `adacache check`: reference cases, a line each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::check::{CheckResult, check};
use adacache::media::natural_order;
use adacache::tensor::DType;
use serde_json::json;

use crate::{device, log, out};

/// Shown where no case is named.
pub(crate) const EXAMPLE: &[&str] =
    &["in a checkout of adacache: adacache check tests/goldens", "adacache check DIR, with a folder of your own cases"];

/// Run reference cases recorded from the published PyTorch code, and compare
///
/// This project's cases are in tests/goldens; its README describes their format. The exit status is 1 if a case fails and 2 if one cannot be read.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache check --help", after_long_help = "")]
pub(crate) struct Args {
    /// Folders with a case.json, or folders that contain such folders, such as tests/goldens
    #[arg(value_name = "CASE_DIR", required = true)]
    cases: Vec<PathBuf>,
    #[command(flatten)]
    device: device::Options,
    /// Element type to compute in: f32, bf16 or f16
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// Print one JSON object per case
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let device = args.device.open()?;
    let (mut failed, mut unreadable) = (false, false);
    let (solvers, cases): (Vec<PathBuf>, Vec<PathBuf>) =
        args.cases.iter().flat_map(|path| cases_in(path, 3)).partition(|case| is_solver(case, &args.cases));
    if !solvers.is_empty() {
        let count = solvers.len();
        log::say("left out", &format!("{count} cases of solvers, which `cargo test --test generation solver` checks"));
    }
    if cases.is_empty() {
        log::say("error", "no other case is there, so nothing was checked");
        return Ok(ExitCode::from(2));
    }
    for case in cases {
        let line = match check(&case, &device, args.dtype) {
            Ok(result) => {
                failed |= !result.ok;
                if args.json { serde_json::to_string(&result)? } else { for_people(&result) }
            }
            Err(error) if error.is_stop() => return Err(error.into()),
            Err(error) => {
                unreadable = true;
                log::say("error", &format!("{}: {error}", case.display()));
                if !args.json {
                    continue;
                }
                json!({ "case": case.display().to_string(), "ok": false, "error": error.to_string() }).to_string()
            }
        };
        out::line(line)?;
    }
    Ok(ExitCode::from(if unreadable { 2 } else { u8::from(failed) }))
}

/// The case at `path`, or the cases in folders below it; a path without any stands for itself, so that it is reported.
fn cases_in(path: &Path, depth: usize) -> Vec<PathBuf> {
    let itself = vec![path.to_owned()];
    if depth == 0 || path.join("case.json").exists() {
        return itself;
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(path)
        .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
        .unwrap_or_default();
    folders.sort_by(|a, b| natural_order(a, b));
    let found: Vec<PathBuf> =
        folders.iter().flat_map(|p| cases_in(p, depth - 1)).filter(|p| p.join("case.json").exists()).collect();
    if found.is_empty() { itself } else { found }
}

/// Whether a case, which nobody named, is one of a solver: those run on the host, without a model.
fn is_solver(case: &Path, named: &[PathBuf]) -> bool {
    let kind = || {
        let text = std::fs::read_to_string(case.join("case.json")).ok()?;
        Some(serde_json::from_str::<serde_json::Value>(&text).ok()?["kind"] == "sampler")
    };
    named.iter().all(|path| path != case) && kind() == Some(true)
}

fn for_people(r: &CheckResult) -> String {
    let verdict = if r.ok { "ok    " } else { "FAILED" };
    let mut line = format!("{verdict} {}  relative error {:.1e}, {:.2} s", r.case, r.max_rel_err, r.seconds);
    if !r.expected_steps.is_empty() {
        let equal = if r.computed_steps == r.expected_steps { "as the reference" } else { "the reference differs" };
        line += &format!(", {} steps computed, {equal}", r.computed_steps.len());
    }
    match &r.reason {
        Some(reason) => format!("{line}\n       {reason}"),
        None => line,
    }
}
