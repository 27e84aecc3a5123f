//! `adacache presets`: the cache policies that `--cache` takes by name.

use std::process::ExitCode;

use adacache::cache::Listed;
use adacache::family;
use adacache::pipeline::{OpenOptions, check_settings};
use serde_json::json;

use crate::out;

/// List the presets of `--cache`
///
/// `--cache` also takes the path of a .toml file. Append +moreg to AdaCache for motion regularization, +taylor or +taylor2 to a policy of
/// whole forwards to extrapolate what is reused.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, as for `generate --model`: a name that `adacache models` lists, or the path of a folder
    #[arg(long, default_value = "sprites")]
    model: String,
    /// Denoising steps that settings are made for [default: the model's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Print the settings too, as --cache FILE.toml takes them
    #[arg(long)]
    toml: bool,
    /// Print one JSON object, with all settings
    #[arg(long, conflicts_with = "toml")]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Presets need none of a published model's files.
    let source = family::published(&args.model, &OpenOptions::default())?;
    let steps = args.steps.unwrap_or(source.config().default_steps);
    check_settings(&source, steps, source.config().default_cfg_scale)?;
    let presets = source.presets(steps)?.list(source.anatomy(), steps);
    let text = if args.json {
        serde_json::to_string_pretty(&json!({ "model": args.model, "steps": steps, "presets": presets }))?
    } else {
        for_people(args, steps, &presets)?
    };
    out::line(text)?;
    Ok(ExitCode::SUCCESS)
}

fn for_people(args: &Args, steps: usize, presets: &[Listed]) -> anyhow::Result<String> {
    let wide = presets.iter().map(|preset| preset.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("presets of {} for {steps} steps, as --cache NAME\n", args.model);
    for Listed { name, about, settings, problem, .. } in presets {
        let problem = problem.as_ref().map_or_else(String::new, |problem| format!("; not here: {problem}"));
        text += &format!("  {name:<wide$}  {about}{problem}\n");
        if let (true, Some(settings)) = (args.toml, settings) {
            text.extend(settings.to_toml()?.trim_end().lines().map(|line| format!("    {line}\n")));
        }
    }
    text += "append +moreg (motion regularization) to AdaCache, +taylor or +taylor2 (extrapolation) to policies of whole forwards";
    Ok(text)
}
