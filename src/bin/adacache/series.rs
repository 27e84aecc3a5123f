//! Videos of several policies on the same prompts and seeds, each measured against the one with every step computed.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use adacache::cache::CacheConfig;
use adacache::compare::{Finished, Row};
use adacache::device::Device;
use adacache::media::Frames;
use adacache::pipeline::{Pipeline, Prompt};
use adacache::quality::Networks;
use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine};

use crate::{interrupt, out, runs};

/// The policy that every other is measured against.
pub(crate) const ORIGINAL: &str = "none";

/// A policy under its name, which its folders have too.
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) config: CacheConfig,
}

/// What is to run.
pub(crate) struct Series<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) settings: runs::Settings,
    /// The hash of the model's weights.
    pub(crate) weights: &'a str,
    /// The options that chose the model.
    pub(crate) arguments: runs::Arguments,
    /// The prompts with their numbers in the file.
    pub(crate) prompts: Vec<(usize, Prompt)>,
    /// The number of seeds for each, counted from 0.
    pub(crate) seeds: u64,
    /// The policies, [`ORIGINAL`] first.
    pub(crate) policies: &'a [Policy],
    /// The folder with `runs`. Finished runs are kept there, and taken from there.
    pub(crate) folder: &'a Path,
    pub(crate) networks: &'a Networks,
    pub(crate) quiet: bool,
}

/// The measured runs.
pub(crate) struct Sides {
    /// One for each prompt, seed and policy.
    pub(crate) rows: Vec<Row>,
    /// Their videos, each as the PNG of its frames in one column, in base64.
    pub(crate) strips: Vec<String>,
}

impl Series<'_> {
    /// Makes and measures the videos; the exit status if the user stopped it.
    pub(crate) fn run(&self, device: &Device) -> anyhow::Result<ControlFlow<ExitCode, Sides>> {
        let Series { pipeline, settings, weights, .. } = *self;
        let (mut rows, mut strips) = (vec![], vec![]);
        let (mut done, all) = (0, self.prompts.len() * self.seeds as usize * self.policies.len());
        for (number, prompt) in &self.prompts {
            for seed in 0..self.seeds {
                let (mut finished_runs, first): (Vec<Finished>, _) = (vec![], rows.len());
                for policy in self.policies {
                    let name = format!("{number:03}-{}-{seed}", prompt.slug());
                    let folder = self.folder.join("runs").join(name).join(&policy.name);
                    let request = settings.request(prompt.clone(), seed, policy.config.clone());
                    let asked = pipeline.settings(weights, &policy.name, &request);
                    let Some(finished) = runs::finish(pipeline, &request, &asked, &self.arguments, &folder)? else {
                        let work = format!("{done} of {all} runs are finished in {}", self.folder.display());
                        return Ok(ControlFlow::Break(interrupt::ended(&work)));
                    };
                    let original = finished_runs.first().unwrap_or(&finished);
                    let row =
                        Row::new(&policy.name, &finished, original).with_context(|| folder.display().to_string())?;
                    done += 1;
                    if !self.quiet {
                        out::note(format_args!("{done}/{all}  {prompt}, seed {seed}, {}", in_a_line(&row)));
                    }
                    let strip = finished.frames.strip_png().map_err(anyhow::Error::msg)?;
                    strips.push(BASE64_STANDARD.encode(&strip));
                    rows.push(row);
                    finished_runs.push(finished);
                }
                let frames: Vec<&Frames> = finished_runs.iter().map(|finished| &finished.frames).collect();
                let perceived = self.networks.perceive(device, frames[0], &frames)?;
                let of_prompt = rows.split_off(first).into_iter().zip(perceived);
                rows.extend(of_prompt.map(|(row, perceived): (Row, _)| row.perceived(perceived)));
            }
        }
        Ok(ControlFlow::Continue(Sides { rows, strips }))
    }
}

/// What a run did, in a line.
fn in_a_line(row: &Row) -> String {
    format!("{}: {} of {} computed, {:.2} dB", row.cache, row.computed_steps.len(), row.steps, row.psnr)
}
