//! `adacache models`: the models there are, what of them is on disk, and the memory they need.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::chips::Chip;
use adacache::family::{FAMILIES, Family};
use adacache::hub::{Checkpoint, FileStatus, Part, cache_dir};
use adacache::pipeline::{self, Job, ModelSource, OpenOptions};
use adacache::plan::{Expected, Memory};
use adacache::profile::Efficiency;
use adacache::tensor::DType;
use indicatif::HumanBytes;
use serde_json::json;

use crate::out;

/// List the models: what is on disk, what is missing, and the memory each needs
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the models [default: $ADACACHE_HOME, or adacache in the user's cache folder]
    #[arg(long, value_name = "CACHE")]
    dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The device memory of a video.
struct Need {
    video: String,
    memory: Memory,
}

/// A family's own model.
struct Model {
    name: &'static str,
    /// Its folder and what of it is on disk; `None`: it is in the program.
    files: Option<(Checkpoint, Vec<FileStatus>)>,
    /// Of the files that are there, or of the published ones.
    needs: Vec<Need>,
    of: Of,
}

/// Whose memory is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The transformer and the autoencoder on disk, or in the program.
    Present,
    /// The published ones, as they are not on disk.
    Published,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Of::Present => "present",
            Of::Published => "published",
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cache = args.dir.clone().unwrap_or_else(cache_dir);
    // The one in the program first.
    let mut models =
        FAMILIES.into_iter().map(|family| model(family, &cache)).collect::<anyhow::Result<Vec<Model>>>()?;
    models.sort_by_key(|model| model.files.is_some());
    let text = if args.json { as_json(&models)? } else { for_people(&models) };
    out::line(text)?;
    Ok(ExitCode::SUCCESS)
}

fn model(family: &'static dyn Family, cache: &Path) -> anyhow::Result<Model> {
    let files = family.checkpoint().map(|published| {
        let checkpoint = Checkpoint::in_cache(published, cache);
        let status = checkpoint.parts().flat_map(|part| checkpoint.status(part)).collect();
        (checkpoint, status)
    });
    // What is on disk may be of another size than what was published.
    let there = |(checkpoint, files): &(Checkpoint, Vec<FileStatus>)| {
        let whole = files.iter().all(|f| f.part == Part::Text || f.is_ok());
        whole.then(|| checkpoint.folder().to_owned())
    };
    let folder = files.as_ref().and_then(there);
    let of = if files.is_none() || folder.is_some() { Of::Present } else { Of::Published };
    let open = |size: &OpenOptions| match &folder {
        Some(folder) => family.open(Some(folder), size),
        None => family.published(size),
    };
    let needs = match family.resolutions() {
        [] => {
            let source = open(&OpenOptions::default())?;
            let config = source.config();
            vec![need(&source, format!("{}x{}, {} frames", config.height, config.width, config.frames()))?]
        }
        resolutions => {
            let named = |resolution: &&str| {
                let size = OpenOptions { resolution: Some((*resolution).into()), ..OpenOptions::default() };
                let source = open(&size)?;
                need(&source, format!("{resolution} 9:16, {} frames", source.config().frames()))
            };
            resolutions.iter().map(named).collect::<anyhow::Result<_>>()?
        }
    };
    Ok(Model { name: family.name(), files, needs, of })
}

/// Counted as `adacache plan` does, in bf16 with the fast preset.
fn need(source: &ModelSource, video: String) -> anyhow::Result<Need> {
    let steps = source.config().default_steps;
    let cache = pipeline::cache_config(source, "adacache-fast", false, steps)?;
    let job = Job { cache, ..Job::usual(source, DType::Bf16)? };
    // Memory does not depend on the GPU.
    let gpu = Chip::named("a100").expect("a100 is in the table");
    Ok(Need { video, memory: job.estimate(gpu, Efficiency::assumed(gpu), &Expected::Bounds)?.memory })
}

/// Bytes of the text encoder's weights. They are on the device while prompts are read, as far as they fit.
fn encoder_bytes(files: &[FileStatus]) -> u64 {
    let weights = files.iter().filter(|f| f.part == Part::Text && !f.file.ends_with(".json"));
    weights.filter_map(|f| f.bytes).sum()
}

fn as_json(models: &[Model]) -> anyhow::Result<String> {
    let needs = |model: &Model| -> Vec<_> {
        model.needs.iter().map(|n| json!({ "video": n.video, "device_memory": n.memory })).collect()
    };
    let one = |model: &Model| {
        let Some((checkpoint, files)) = &model.files else {
            return json!({ "name": model.name, "complete": true, "built_in": true, "needs": needs(model), "needs_of": model.of.name() });
        };
        let missing: Vec<&str> = files.iter().filter(|f| !f.is_ok()).map(|f| &*f.file).collect();
        json!({
            "name": model.name, "complete": missing.is_empty(), "built_in": false, "folder": checkpoint.folder(), "files": files,
            "missing": missing, "needs": needs(model), "needs_of": model.of.name(), "text_encoder_weights": encoder_bytes(files),
        })
    };
    let models: Vec<_> = models.iter().map(one).collect();
    Ok(serde_json::to_string_pretty(&json!({ "models": models }))?)
}

fn for_people(models: &[Model]) -> String {
    let line = |n: &Need| {
        let m = &n.memory;
        let [resident, together, least] =
            [m.resident, m.together, m.least].map(|bytes| HumanBytes(bytes as u64).to_string());
        let both = if m.needs.experts > 1 { format!(", {together} with both experts") } else { String::new() };
        format!(
            "  {:<24} {resident:>12} on the device, counted{both}; {least} with --vram-budget at the least\n",
            n.video
        )
    };
    let mut text = String::new();
    for model in models {
        let Some((checkpoint, files)) = &model.files else {
            text += &format!("{:<15}  built in\n", model.name);
            model.needs.iter().for_each(|n| text += &line(n));
            text += "\n";
            continue;
        };
        let state = match files.iter().filter(|f| !f.is_ok()).count() {
            0 => "complete".to_owned(),
            _ if files.iter().all(|f| f.bytes.is_none()) => format!("missing: adacache pull {}", model.name),
            bad => format!("{bad} of {} files are missing or damaged: adacache pull {}", files.len(), model.name),
        };
        text += &format!("{:<15}  {state}\n  {}\n", model.name, checkpoint.folder().display());
        // Of a model that is not here at all nothing is listed.
        for f in files.iter().filter(|_| files.iter().any(|f| f.bytes.is_some())) {
            let size = f.bytes.map_or_else(|| "missing".into(), |bytes| HumanBytes(bytes).to_string());
            let problem = f.problem.as_ref().map_or(String::new(), |problem| format!("  DAMAGED: {problem}"));
            text += &format!("  {size:>12}  {}{problem}\n", f.file);
        }
        if model.of == Of::Published {
            text += "  as published, since transformer and autoencoder are not here:\n";
        }
        model.needs.iter().for_each(|n| text += &line(n));
        if let bytes @ 1.. = encoder_bytes(files) {
            text += &format!(
                "  text encoder: {} of weights, on the device while prompts are read, as far as they fit\n",
                HumanBytes(bytes)
            );
        }
    }
    text.truncate(text.trim_end().len());
    text
}
