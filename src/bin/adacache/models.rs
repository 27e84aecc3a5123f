//! `adacache models`: the models there are, what of them is on disk, and the memory they need.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use adacache::cache::Presets;
use adacache::chips::Chip;
use adacache::model::{Geometry, StDiT3Config, vae::VaeConfig};
use adacache::pipeline::{
    self, Checkpoint, DecoderShape, FileStatus, ModelSource, OPENSORA, Part, VideoSize, cache_dir,
};
use adacache::plan::{Expected, Memory, Task};
use adacache::profile::Efficiency;
use adacache::tensor::DType;
use indicatif::HumanBytes;
use serde_json::json;

/// List the models: what is on disk, what is missing, and the memory each needs
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of models [default: $ADACACHE_HOME, or adacache in the user's cache folder]
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

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let checkpoint = Checkpoint::in_cache(&args.dir.clone().unwrap_or_else(cache_dir));
    let files: Vec<FileStatus> = Part::ALL.into_iter().flat_map(|part| checkpoint.status(part)).collect();
    let sprites = sprites()?;
    let opensora = ["240p", "480p", "720p"].into_iter().map(opensora).collect::<anyhow::Result<Vec<_>>>()?;
    let text = if args.json {
        as_json(&checkpoint, &files, &sprites, &opensora)?
    } else {
        for_people(&checkpoint, &files, &sprites, &opensora)
    };
    // A closed pipe is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}

/// Counted as `adacache plan` does, in bf16 with the fast preset.
fn need(
    video: String,
    model: StDiT3Config,
    geometry: Geometry,
    (decoder, frames): (DecoderShape, usize),
    tokens: usize,
    presets: Presets,
    steps: usize,
) -> anyhow::Result<Need> {
    let cache = pipeline::resolve_cache(&presets, &model, geometry.frames, "adacache-fast", false, steps)?;
    let (dtype, timestep_shift, packed_cache) = (DType::Bf16, 1.0, false);
    let task = Task {
        model,
        geometry,
        caption_tokens: tokens,
        dtype,
        steps,
        timestep_shift,
        cache,
        packed_cache,
        decoder,
        frames,
    };
    // Memory does not depend on the GPU.
    let gpu = Chip::named("a100").expect("a100 is in the table");
    Ok(Need { video, memory: task.estimate(gpu, Efficiency::assumed(gpu), &Expected::Bounds)?.memory })
}

fn sprites() -> anyhow::Result<Need> {
    let source = ModelSource::sprites();
    let config = source.pipeline_config()?;
    let geometry = Geometry::guided(1, config.latent, config.resolution(), config.fps as f32);
    let video = format!("{}x{}, {} frames", config.height, config.width, config.latent[0]);
    let (steps, model) = (config.default_steps, source.model_config()?);
    let decoder = (source.decoder_shape()?, config.latent[0]);
    need(video, model, geometry, decoder, config.prompt_length, source.presets(steps)?, steps)
}

fn opensora(resolution: &str) -> anyhow::Result<Need> {
    let (model, steps) = (StDiT3Config::opensora_v1_2(), 30);
    let size = VideoSize::published(resolution, "9:16", 51)?;
    let geometry = Geometry::guided(1, size.latent(), size.resolution(), 24.0);
    let tokens = model.model_max_length;
    let decoder = (DecoderShape::Video(VaeConfig::default()), size.frames);
    let video = format!("{resolution} 9:16, {} frames", size.frames);
    need(video, model, geometry, decoder, tokens, Presets::opensora(steps), steps)
}

/// Bytes of the text encoder's weights: what it takes in the host's memory.
fn encoder_bytes(files: &[FileStatus]) -> u64 {
    let weights = files.iter().filter(|f| f.part == Part::Text && !f.file.ends_with(".json"));
    weights.filter_map(|f| f.bytes).sum()
}

fn as_json(checkpoint: &Checkpoint, files: &[FileStatus], sprites: &Need, opensora: &[Need]) -> anyhow::Result<String> {
    let needs = |needs: &[Need]| -> Vec<_> {
        needs.iter().map(|n| json!({ "video": n.video, "device_memory": n.memory })).collect()
    };
    let missing: Vec<String> =
        files.iter().filter(|f| !f.is_ok()).map(|f| format!("{}/{}", f.part.name(), f.file)).collect();
    Ok(serde_json::to_string_pretty(&json!({ "models": [
        { "name": "sprites", "complete": true, "built_in": true, "needs": needs(std::slice::from_ref(sprites)) },
        {
            "name": OPENSORA, "complete": missing.is_empty(), "built_in": false, "folder": checkpoint.folder(), "files": files,
            "missing": missing, "needs": needs(opensora), "text_encoder_host_memory": encoder_bytes(files),
        },
    ]}))?)
}

fn for_people(checkpoint: &Checkpoint, files: &[FileStatus], sprites: &Need, opensora: &[Need]) -> String {
    let line = |n: &Need| {
        let m = &n.memory;
        let [resident, least] = [m.resident, m.least].map(|bytes| HumanBytes(bytes as u64).to_string());
        format!("  {:<24} {resident:>12} on the device, counted; {least} with --vram-budget at the least\n", n.video)
    };
    let state = match files.iter().filter(|f| !f.is_ok()).count() {
        0 => "complete".to_owned(),
        bad => format!("{bad} of {} files are missing or damaged: adacache pull {OPENSORA}", files.len()),
    };
    let mut text = format!("sprites        built in\n{}\n{OPENSORA}  {state}\n", line(sprites));
    text += &format!("  {}\n", checkpoint.folder().display());
    for f in files {
        let size = f.bytes.map_or_else(|| "missing".into(), |bytes| HumanBytes(bytes).to_string());
        let problem = f.problem.as_ref().map_or(String::new(), |problem| format!("  DAMAGED: {problem}"));
        text += &format!("  {size:>12}  {}/{}{problem}\n", f.part.name(), f.file);
    }
    opensora.iter().for_each(|n| text += &line(n));
    match encoder_bytes(files) {
        0 => {}
        bytes => {
            text += &format!("  text encoder: {} of the host's memory while prompts are read\n", HumanBytes(bytes))
        }
    }
    text.truncate(text.trim_end().len());
    text
}
