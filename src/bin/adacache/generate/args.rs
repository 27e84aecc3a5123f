//! The options of `adacache generate`.

use std::path::PathBuf;

use adacache::cache::preset_names;
use adacache::pipeline::{MaskStrategy, MemorySize, Scores};
use adacache::tensor::DType;
use indicatif::ProgressDrawTarget;

use crate::device;

/// Generate a video from a prompt
///
/// The built-in model `sprites` takes six words: size, color, shape, motion, speed and background. Example:
/// `adacache generate "large red circle bouncing fast navy"`. Open-Sora takes any text. Fetch it once with
/// `adacache pull opensora-v1.2`, then run `adacache generate --model opensora-v1.2 --resolution 480p "a white cat walking through tall grass at sunset"`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prompt; quotes are optional
    #[arg(required_unless_present_any = ["prompts", "like"])]
    pub(super) prompt: Vec<String>,
    /// Model: `sprites`, `opensora-v1.2`, or the path of a folder with one of them
    #[arg(long, default_value = "sprites")]
    pub(super) model: String,
    /// Size of the video in pixels, multiples of 8 [default: the model's]
    ///
    /// The built-in model was trained on 64x64 pixels and 16 frames. It runs at other sizes, but draws badly there.
    #[arg(long, value_name = "HxW")]
    pub(super) size: Option<String>,
    /// 240p, 360p, 480p or 720p (Open-Sora) [default: 240p]
    #[arg(long, conflicts_with = "size")]
    pub(super) resolution: Option<String>,
    /// Height to width: 9:16 (landscape), 16:9, 3:4, 4:3, 1:1, 1:2, 2:1, or a published ratio such as 0.66 (Open-Sora) [default: 9:16]
    #[arg(long, value_name = "H:W", conflicts_with = "size")]
    pub(super) aspect: Option<String>,
    /// Frames of the video [default: the model's]
    #[arg(long, value_name = "N")]
    pub(super) frames: Option<usize>,
    #[arg(long, default_value = "adacache-fast", value_name = "PRESET|FILE.toml", help = cache_help())]
    pub(super) cache: String,
    /// Motion regularization: compute more steps of videos with more motion
    #[arg(long)]
    pub(super) moreg: bool,
    /// Denoising steps [default: the model's]
    #[arg(long)]
    pub(super) steps: Option<usize>,
    /// Guidance scale [default: the model's]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) cfg_scale: Option<f32>,
    /// Seed of the initial noise
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) device: device::Options,
    /// Element type to compute in: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    pub(super) dtype: DType,
    /// Output: FILE.mp4, FILE.gif, FILE.safetensors (latents) or FOLDER/ (PNG frames) [default: PROMPT.mp4]
    ///
    /// With --prompts, a pattern such as videos/{}.gif, where {} stands for the line number and the prompt, or a FOLDER/ for .mp4
    /// files [default: {}.mp4].
    #[arg(long, value_name = "PATH")]
    pub(super) out: Option<String>,
    /// Replace outputs that are there and were made with other settings; without it they are an error
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Repeat the run of a report (of a list of reports, number N); options given beside it take the place of the report's
    #[arg(long, value_name = "REPORT.json[#N]", conflicts_with = "prompts")]
    pub(super) like: Option<String>,
    /// Write a report of the run as JSON (with --prompts or --loop: a list of reports)
    #[arg(long, value_name = "FILE.json")]
    pub(super) report: Option<PathBuf>,
    /// Record every measurement of the run, for `adacache replay`; with --cache none, the measurements of all policies
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "prompts")]
    pub(super) trace: Option<PathBuf>,
    /// Record every launch, step and decision as a Chrome trace for ui.perfetto.dev; on a GPU also power and clocks
    #[arg(long, value_name = "FILE.json", conflicts_with = "prompts")]
    pub(super) profile: Option<PathBuf>,
    /// File with one prompt per line; empty lines, lines starting with # and prompts whose video is finished with the same settings are
    /// skipped
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(super) prompts: Option<PathBuf>,
    /// Number of videos of --prompts to generate together
    #[arg(long, default_value_t = 1, value_name = "N", requires = "prompts", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) batch: u16,
    /// Decide for each video of a batch separately; by default the whole batch is computed or reused, as published
    #[arg(long, requires = "prompts")]
    pub(super) per_sample: bool,
    /// Embedding of the prompt, instead of running the text encoder (Open-Sora): tensor `embedding` [tokens, channels]
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "prompts")]
    pub(super) embeddings: Option<PathBuf>,
    /// Aesthetic score to append to the prompt, or `none` (Open-Sora)
    #[arg(long, default_value = "6.5", value_name = "SCORE", value_parser = score)]
    pub(super) aesthetic: Score,
    /// Motion score to append to the prompt, or `none` (Open-Sora)
    #[arg(long, default_value = "none", value_name = "SCORE", value_parser = score)]
    pub(super) motion: Score,
    /// Camera motion to append to the prompt, such as `pan left` (Open-Sora)
    #[arg(long, value_name = "WORDS")]
    pub(super) camera: Option<String>,
    /// Picture (.png, .jpg, .webp) that the video begins with (Open-Sora)
    ///
    /// The last 17 frames begin with the second --image; further ones are spread in between.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "mask_strategy"])]
    pub(super) image: Vec<PathBuf>,
    /// Video (.mp4, .gif, folder of pictures), picture or latents (.safetensors) to take frames from; repeatable (Open-Sora)
    ///
    /// Pictures and videos are scaled to fill the frame, cropped equally on both sides, and encoded. Latents are used as they are.
    #[arg(long, value_name = "FILE")]
    pub(super) reference: Vec<PathBuf>,
    /// Where the references go: PART,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT in latent frames; separate several by semicolons
    ///
    /// `0` gives the first frame of the first reference: image to video. `0,0,-5,0,5` continues a video from its last 5 latent frames (17
    /// frames), `0;0,1,0,-1,1` connects two pictures. EDIT above 0 regenerates the given frames, fully at 1. Starts are rounded to
    /// a multiple of 5. PART is 0 except with --loop.
    #[arg(long, value_name = "LIST", default_value = "0", requires = "reference")]
    pub(super) mask_strategy: MaskStrategy,
    /// Generate a long video of N parts of --frames each; every part begins with the end of the one before (Open-Sora)
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000),
          conflicts_with_all = ["trace", "profile"])]
    pub(super) parts: u16,
    /// Latent frames that a part of --loop takes from the one before, a multiple of 5 [default: 5, which is 17 frames]
    #[arg(long, value_name = "N", requires = "parts")]
    pub(super) loop_frames: Option<usize>,
    /// How much of these frames is regenerated: 0 keeps them, 1 regenerates them fully [default: 0]
    #[arg(long, value_name = "EDIT", requires = "parts")]
    pub(super) loop_edit: Option<f32>,
    /// Keep residuals in 8 bits (e4m3, one scale per token); the report gives the error
    #[arg(long)]
    pub(super) fp8_cache: bool,
    /// Limit on device memory, such as 8GiB or 6000MiB [default: on a GPU, the free memory]
    ///
    /// If the model does not fit, the weights of some blocks stay in host memory and are copied while other blocks compute; the video is
    /// the same. The driver's own memory, a few hundred MiB, comes on top.
    #[arg(long, value_name = "SIZE")]
    pub(super) vram_budget: Option<MemorySize>,
    /// Print only warnings and errors
    #[arg(long, short)]
    pub(super) quiet: bool,
}

impl Args {
    /// What is appended to the prompt.
    pub(super) fn scores(&self) -> Scores {
        Scores { aesthetic: self.aesthetic.0, motion: self.motion.0, camera: self.camera.clone() }
    }
}

fn cache_help() -> String {
    format!(
        "When to reuse residuals: {}; or the path of a .toml file. Append +taylor or +taylor2 to extrapolate what is reused, +moreg for --moreg",
        preset_names()
    )
}

/// A score, or `none`.
#[derive(Clone, Copy)]
pub(super) struct Score(pub(super) Option<f32>);

fn score(text: &str) -> Result<Score, String> {
    let number = || text.parse().map(Some).map_err(|_| "give a number, or none".to_owned());
    Ok(Score(if text == "none" { None } else { number()? }))
}

/// Where progress is shown: hidden by itself where standard error is no terminal.
pub(super) fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}
