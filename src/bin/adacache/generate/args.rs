//! The options of `adacache generate`.

use std::path::{Path, PathBuf};

use adacache::cache::preset_names;
use adacache::family::{self, FAMILIES};
use adacache::model::LoraFile;
use adacache::pipeline::{Guidance, MaskStrategy, MemorySize, OpenOptions, PipelineConfig, Scores, default_cache};
use adacache::sampler::FlowSampler;
use adacache::tensor::DType;
use indicatif::ProgressDrawTarget;

use crate::device;

/// The headings of the help.
const VIDEO: &str = "Model and size";
const STEPS: &str = "Steps and caching";
const OUTPUT: &str = "Output";
const BATCH: &str = "Many prompts";
const TEXT: &str = "Prompt (Open-Sora, Wan)";
const GIVEN: &str = "Given frames (Open-Sora; Wan 2.2 TI2V: one --image)";
const DEVICE: &str = "Device and memory";

/// Shown where a prompt is missing.
pub(crate) const EXAMPLE: &[&str] = &[
    "for example: adacache generate \"large red circle bouncing fast navy\"",
    "many at once: adacache generate --prompts FILE, with one prompt per line",
    "any words: adacache pull opensora-v1.2, then adacache generate --model opensora-v1.2 \"a cat on the moon\"",
];

/// Generate a video from a prompt
///
/// The built-in model `sprites` takes six words: size, color, shape, motion, speed and background. Example:
/// `adacache generate "large red circle bouncing fast navy"`. Open-Sora takes any text. Fetch it once with
/// `adacache pull opensora-v1.2`, then run `adacache generate --model opensora-v1.2 --resolution 480p "a white cat walking through tall grass at sunset"`.
/// Wan does too: `adacache pull wan2.1-t2v-1.3b`, `adacache generate --model wan2.1-t2v-1.3b --size 480x832 --frames 81 "two cats box on a stage"`.
#[derive(clap::Args)]
#[command(after_help = "All options: adacache generate --help", after_long_help = "")]
pub(crate) struct Args {
    /// Prompt; quotes are optional
    #[arg(required_unless_present_any = ["prompts", "like"])]
    pub(super) prompt: Vec<String>,
    /// sprites, wan2.1-t2v-1.3b, opensora-v1.2, a folder, …: `adacache models` lists them
    #[arg(long, default_value = "sprites", help_heading = VIDEO)]
    pub(super) model: String,
    /// Size in pixels, multiples of 8 (Wan: 16)
    ///
    /// The built-in model was trained on 64x64 pixels and 16 frames. It runs at other sizes, but draws badly there. By default the model's
    /// own size.
    #[arg(long, value_name = "HxW", help_heading = VIDEO)]
    pub(super) size: Option<String>,
    /// 240p, 360p, 480p or 720p (Open-Sora) [default: 240p]
    #[arg(long, value_name = "NAME", conflicts_with = "size", help_heading = VIDEO)]
    pub(super) resolution: Option<String>,
    /// Height to width: 9:16 (landscape), 16:9, 3:4, 4:3, 1:1, 1:2, 2:1, or a published ratio such as 0.66 (Open-Sora) [default: 9:16]
    #[arg(long, value_name = "H:W", conflicts_with = "size", help_heading = VIDEO, hide_short_help = true)]
    pub(super) aspect: Option<String>,
    #[arg(long, value_name = "N", help = own("Frames", |c| c.frames().to_string()),
          long_help = of_models("Frames", |c| c.frames().to_string()), help_heading = VIDEO)]
    pub(super) frames: Option<usize>,
    /// LoRA to add to the weights (Wan), by the spelling of diffusers, kohya or Wan; repeatable [default strength: 1]
    ///
    /// Of two experts both get it; @high-noise or @low-noise behind it names one.
    #[arg(long, value_name = "FILE[:STRENGTH][@EXPERT]", help_heading = VIDEO, hide_short_help = true)]
    pub(super) lora: Vec<LoraFile>,
    #[arg(long, value_name = "NAME", help = "Which steps to reuse: a name that `adacache presets` lists, or FILE.toml [default: adacache-fast]",
          long_help = cache_help(), help_heading = STEPS)]
    cache: Option<String>,
    /// Motion regularization: compute more steps of videos with more motion
    #[arg(long, help_heading = STEPS, hide_short_help = true)]
    pub(super) moreg: bool,
    #[arg(long, value_name = "N", help = own("Denoising steps", |c| c.default_steps.to_string()),
          long_help = of_models("Denoising steps", |c| c.default_steps.to_string()), help_heading = STEPS)]
    pub(super) steps: Option<usize>,
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = STEPS,
          help = own("Guidance scale; 1 is none", |c| c.default_cfg_scale.to_string()),
          long_help = of_models("Guidance scale; 1 is none, half the work; of two experts X is for both, X,Y for each",
                                |c| c.default_cfg_scale.to_string()))]
    pub(super) cfg_scale: Option<Guidance>,
    /// Sampler (Wan): unipc, unipc-diffusers, dpm++, euler or euler-diffusers [default: unipc]
    #[arg(long, value_name = "NAME", help_heading = STEPS, hide_short_help = true)]
    pub(super) sampler: Option<FlowSampler>,
    /// Timestep shift (Wan): the higher, the more steps go into the structure [default: the model's, 5 or 12]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = STEPS, hide_short_help = true)]
    pub(super) shift: Option<f64>,
    /// Noise levels in place of the sampler's, from at most 1 down, one for each step, as distilled checkpoints are published with (Wan)
    #[arg(long, value_name = "X,…", value_delimiter = ',', conflicts_with_all = ["steps", "shift"], help_heading = STEPS, hide_short_help = true)]
    pub(super) sigmas: Option<Vec<f64>>,
    /// Seed of the initial noise
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = STEPS)]
    pub(super) seed: u64,
    /// Initial noise in place of the seed's: tensor `latents` [channels, frames, height, width]
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["prompts", "parts"], help_heading = STEPS, hide_short_help = true)]
    pub(super) noise: Option<PathBuf>,
    #[command(flatten, next_help_heading = DEVICE)]
    pub(super) device: device::Options,
    /// Two devices in place of --device, such as cuda:0,cuda:1
    ///
    /// Each runs the transformer's blocks on one half of guidance and holds all weights. A computed step exchanges the hidden state, a reused step
    /// nothing (fbcache: that of the first block). The first embeds the prompt and decodes.
    #[arg(long, value_name = "A,B", value_delimiter = ',', help_heading = DEVICE, hide_short_help = true)]
    pub(super) devices: Vec<String>,
    /// Element type to compute in: bf16, f16 or f32
    #[arg(long, default_value = "bf16", help_heading = DEVICE, hide_short_help = true)]
    pub(super) dtype: DType,
    /// FILE.mp4, FILE.gif, FOLDER/ (PNG) or FILE.safetensors (latents) [default: PROMPT.mp4]
    ///
    /// Folders that are missing are made. With --prompts, a pattern such as videos/{}.gif, where {} stands for the line number and the
    /// prompt, or a FOLDER/ for .mp4 files [default: {}.mp4].
    #[arg(long, value_name = "PATH", help_heading = OUTPUT)]
    pub(super) out: Option<String>,
    /// Replace outputs that are there and were made with other settings; without it they are an error
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    pub(super) overwrite: bool,
    /// Repeat the run of a report (of a list of reports, number N); options given beside it take the place of the report's
    #[arg(long, value_name = "REPORT.json[#N]", conflicts_with = "prompts", help_heading = OUTPUT, hide_short_help = true)]
    pub(super) like: Option<String>,
    /// Write a report of the run as JSON (with --prompts or --loop: a list of reports)
    #[arg(long, value_name = "FILE.json", help_heading = OUTPUT, hide_short_help = true)]
    pub(super) report: Option<PathBuf>,
    /// Record the policy's measurements, for `adacache replay`; with --cache none, those of every preset of the model
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "prompts", help_heading = OUTPUT, hide_short_help = true)]
    pub(super) trace: Option<PathBuf>,
    /// Record every launch, step and decision as a Chrome trace for ui.perfetto.dev; on a GPU also power and clocks
    #[arg(long, value_name = "FILE.json", conflicts_with = "prompts", help_heading = OUTPUT, hide_short_help = true)]
    pub(super) profile: Option<PathBuf>,
    /// File with one prompt per line
    ///
    /// Empty lines, lines starting with # and prompts whose video is finished with the same settings are skipped.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", help_heading = BATCH)]
    pub(super) prompts: Option<PathBuf>,
    /// Number of videos of --prompts to generate together
    #[arg(long, default_value_t = 1, value_name = "N", requires = "prompts", conflicts_with = "prompt",
          value_parser = clap::value_parser!(u16).range(1..), help_heading = BATCH, hide_short_help = true)]
    pub(super) batch: u16,
    /// Decide for each video of a batch separately; by default the whole batch is computed or reused, as published
    #[arg(long, requires = "prompts", conflicts_with = "prompt", help_heading = BATCH, hide_short_help = true)]
    pub(super) per_sample: bool,
    /// Embedding of the prompt, instead of running the text encoder: tensor `embedding` [tokens, channels]
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "prompts", help_heading = TEXT, hide_short_help = true)]
    pub(super) embeddings: Option<PathBuf>,
    /// What the video shall not show (Wan, Latte, Open-Sora-Plan) [default: the official text]
    #[arg(long, value_name = "TEXT", help_heading = TEXT, hide_short_help = true)]
    pub(super) negative_prompt: Option<String>,
    /// Embedding of the negative prompt (Wan, Latte, Open-Sora-Plan), beside --embeddings: tensor `embedding` [tokens, channels]
    #[arg(long, value_name = "FILE.safetensors", requires = "embeddings", conflicts_with = "negative_prompt",
          help_heading = TEXT, hide_short_help = true)]
    pub(super) negative_embeddings: Option<PathBuf>,
    /// Caption tokens that a prompt is cut or padded to (Wan); the model attends to the padding too [default: 512]
    #[arg(long, value_name = "N", help_heading = TEXT, hide_short_help = true)]
    pub(super) max_sequence_length: Option<usize>,
    /// Aesthetic score to append to the prompt (Open-Sora), or `none`
    #[arg(long, default_value = "6.5", value_name = "SCORE", allow_negative_numbers = true, value_parser = score, help_heading = TEXT, hide_short_help = true)]
    pub(super) aesthetic: Score,
    /// Motion score to append to the prompt (Open-Sora), or `none`
    #[arg(long, default_value = "none", value_name = "SCORE", allow_negative_numbers = true, value_parser = score, help_heading = TEXT, hide_short_help = true)]
    pub(super) motion: Score,
    /// Camera motion to append to the prompt (Open-Sora), such as `pan left` [default: none]
    #[arg(long, value_name = "WORDS", help_heading = TEXT, hide_short_help = true)]
    pub(super) camera: Option<String>,
    /// Picture (.png, .jpg, .webp) that the video begins with
    ///
    /// The last 17 frames begin with the second --image; further ones are spread in between.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "mask_strategy"], help_heading = GIVEN, hide_short_help = true)]
    pub(super) image: Vec<PathBuf>,
    /// Video (.mp4, .gif, folder of pictures), picture or latents (.safetensors) to take frames from; repeatable
    ///
    /// Pictures and videos are scaled to fill the frame, cropped equally on both sides, and encoded. Latents are used as they are.
    #[arg(long, value_name = "FILE", help_heading = GIVEN, hide_short_help = true)]
    pub(super) reference: Vec<PathBuf>,
    /// Where the references go: PART,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT in latent frames; separate several by semicolons
    ///
    /// `0` gives the first frame of the first reference: image to video. `0,0,-5,0,5` continues a video from its last 5 latent frames (17
    /// frames), `0;0,1,0,-1,1` connects two pictures. EDIT above 0 regenerates the given frames, fully at 1. Starts are rounded to
    /// a multiple of 5. PART is 0 except with --loop.
    #[arg(long, value_name = "LIST", default_value = "0", requires = "reference", help_heading = GIVEN, hide_short_help = true)]
    pub(super) mask_strategy: MaskStrategy,
    /// Generate a long video of N parts of --frames each; every part begins with the end of the one before
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000),
          conflicts_with_all = ["trace", "profile"], help_heading = GIVEN, hide_short_help = true)]
    pub(super) parts: u16,
    /// Latent frames that a part of --loop takes from the one before, a multiple of 5 [default: 5, which is 17 frames]
    #[arg(long, value_name = "N", requires = "parts", help_heading = GIVEN, hide_short_help = true)]
    pub(super) loop_frames: Option<usize>,
    /// How much of these frames is regenerated: 0 keeps them, 1 regenerates them fully [default: 0]
    #[arg(long, value_name = "EDIT", allow_negative_numbers = true, requires = "parts", help_heading = GIVEN, hide_short_help = true)]
    pub(super) loop_edit: Option<f32>,
    /// Keep residuals in 8 bits (e4m3, one scale per token); the report gives the error
    #[arg(long, help_heading = DEVICE, hide_short_help = true)]
    pub(super) fp8_cache: bool,
    /// Multiply in 8 bits (Hopper, bf16 or f16): e4m3, one scale per row; the report gives the error
    ///
    /// The large products of the transformer's blocks, with their weights and activations in e4m3: twice the tensor cores' speed, half the memory of the
    /// weights, and another video. On cuda with compute capability 9.0 (H100, H200) and on --device vm:sm_90.
    #[arg(long, help_heading = DEVICE, hide_short_help = true)]
    pub(super) fp8_weights: bool,
    /// Decode in the published tiles (Open-Sora-Plan): a fourth of the decoder's memory, and another picture
    ///
    /// Tiles of 256x256 pixels and 65 frames overlap and are blended, as the published script does. A video that is no larger than a tile
    /// is the same without them.
    #[arg(long, help_heading = DEVICE, hide_short_help = true)]
    pub(super) vae_tiling: bool,
    /// Decode with this tiny autoencoder (Wan): softer previews, in a small part of the time
    ///
    /// A file of TAEHV (https://github.com/madebyollin/taehv): taew2_1, for TI2V-5B taew2_2, as .safetensors or .pth. The latents are the
    /// same: --out FILE.safetensors keeps them, for the autoencoder of the model.
    #[arg(long, value_name = "FILE", help_heading = DEVICE, hide_short_help = true)]
    pub(super) tiny_vae: Option<PathBuf>,
    /// Limit on device memory, such as 8GiB or 6000MiB
    ///
    /// If the model does not fit, the weights of some blocks stay in host memory and are copied while other blocks compute; the video is
    /// the same. The driver's own memory, a few hundred MiB, comes on top. By default the free memory of a GPU.
    #[arg(long, value_name = "SIZE", help_heading = DEVICE, hide_short_help = true)]
    pub(super) vram_budget: Option<MemorySize>,
    /// Print only warnings and errors
    #[arg(long, short, help_heading = OUTPUT)]
    pub(super) quiet: bool,
}

impl Args {
    /// The cache policy asked for, a preset or a file, or the default one.
    pub(super) fn cache(&self, config: &PipelineConfig, steps: usize) -> &str {
        self.cache.as_deref().unwrap_or_else(|| default_cache(config, steps))
    }

    /// Whether no cache is used because the steps are few.
    pub(super) fn skips_caching(&self, config: &PipelineConfig, steps: usize) -> bool {
        self.cache.is_none() && default_cache(config, steps) == "none"
    }

    /// The name of the cache policy: a preset, or a file without the folders of this machine.
    pub(super) fn preset(&self, config: &PipelineConfig, steps: usize) -> String {
        let cache = self.cache(config, steps);
        let name = Path::new(cache).file_name().map_or(cache.into(), |name| name.to_string_lossy());
        if self.moreg && !name.contains("+moreg") { format!("{name}+moreg") } else { name.into_owned() }
    }

    /// What is appended to the prompt.
    pub(super) fn scores(&self) -> Scores {
        Scores { aesthetic: self.aesthetic.0, motion: self.motion.0, camera: self.camera.clone() }
    }
}

/// `about`, and the default of the built-in model.
fn own(about: &str, value: fn(&PipelineConfig) -> String) -> String {
    format!("{about} [default: {} for sprites, else the model's]", value(family::sprites().config()))
}

/// `about`, and the default that each model has.
fn of_models(about: &str, value: fn(&PipelineConfig) -> String) -> String {
    let of = |model: &dyn family::Family| {
        let source = model.published(&OpenOptions::default()).ok()?;
        Some((model.name(), value(source.config())))
    };
    // The built-in model first.
    let (built_in, published): (Vec<_>, Vec<_>) =
        FAMILIES.into_iter().partition(|family| family.checkpoint().is_none());
    let mut groups: Vec<(String, Vec<&str>)> = vec![];
    // Of built-in models with the same default the first speaks for all.
    let mut values: Vec<_> = built_in.into_iter().filter_map(of).collect();
    values.dedup_by(|later, first| later.1 == first.1);
    for (name, value) in values.into_iter().chain(published.into_iter().filter_map(of)) {
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, names)) => names.push(name),
            None => groups.push((value, vec![name])),
        }
    }
    // The largest group is that of the others, behind them.
    let largest = groups.iter().map(|(_, names)| names.len()).max().unwrap_or(0);
    let others = groups.iter().position(|(_, names)| names.len() == largest && largest > 1);
    let rest = others.map(|others| groups.remove(others).0);
    let named = groups.iter().map(|(value, names)| format!("{value} for {}", names.join(", ")));
    let defaults = match rest {
        Some(rest) if groups.is_empty() => rest,
        rest => named.chain(rest.map(|rest| format!("else {rest}"))).collect::<Vec<_>>().join(", "),
    };
    format!("{about} [default: {defaults}]")
}

fn cache_help() -> String {
    let source = family::sprites();
    let own = source.presets(source.config().default_steps).map_or_else(|_| vec![], |presets| presets.names());
    let names = if own.is_empty() { preset_names() } else { own.join(", ") };
    format!(
        "Which steps to reuse, by a preset or by the path of a .toml file [default: adacache-fast]\n\nPresets of sprites: {names}, where N is a number of steps. \
         `adacache presets --model MODEL` explains them, and those of other models. Append +taylor or +taylor2 to extrapolate what is \
         reused, +moreg for --moreg."
    )
}

/// A score, or `none`.
#[derive(Clone, Copy)]
pub(super) struct Score(pub(super) Option<f32>);

fn score(text: &str) -> Result<Score, String> {
    let number = || text.parse().ok().filter(|score: &f32| score.is_finite()).ok_or("give a number, or none");
    Ok(Score(if text == "none" { None } else { Some(number()?) }))
}

/// Where progress is shown: hidden by itself where standard error is no terminal.
pub(super) fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}
