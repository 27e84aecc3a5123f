//! `adacache pull`: a published checkpoint onto this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::family::{self, FAMILIES};
use adacache::hub::{Checkpoint, Part, Published, PublishedForm, Pull, cache_dir};
use anyhow::{Context, bail};

use crate::out;

/// Fetch a published checkpoint: transformer, video autoencoder, text encoder
///
/// Downloads resume where they stopped, are checked, and are linked into the folder of models, where `generate --model opensora-v1.2` finds
/// them. The variables of the Hugging Face hub are read: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, …
/// Wan's models come from the repositories of Wan-AI in the layout of diffusers (wan2.1-t2v-1.3b 17 GB, most of it the text encoder);
/// opensora-v1.2 comes from hpcai-tech/OpenSora-STDiT-v3 (2 GB), hpcai-tech/OpenSora-VAE-v1.2 (1.5 GB) and DeepFloyd/t5-v1_1-xxl (19 GB).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model to fetch
    #[arg(value_parser = names())]
    model: String,
    /// Use the files in this folder, which is the repository, holds the repositories side by side, or is a cache of the hub's client. Nothing
    /// is downloaded or copied and no server is asked: with it --offline changes nothing, and a file that is not there is an error. Or the
    /// name of the repository to fetch, for the models of Wan: Wan-AI/Wan2.1-T2V-1.3B is the official one of the 1.3B
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Use only files that were downloaded before, also by other programs, and ask no server. With --from the files of that folder are used
    #[arg(long)]
    offline: bool,
    /// Folder of the models [default: $ADACACHE_HOME, or adacache in the user's cache folder]. Downloads go to its folder hub, or to
    /// HF_HUB_CACHE if that is set
    #[arg(long, value_name = "CACHE")]
    dir: Option<PathBuf>,
    /// Folder of the autoencoder in the repository (latte-1): vae_temporal_decoder, or vae, which decodes every frame by itself. What
    /// was pulled before stays if neither this nor --from is given [default: vae_temporal_decoder]
    #[arg(long, value_name = "FOLDER")]
    vae_folder: Option<String>,
    /// Another repository of the T5 v1.1 XXL encoder, as safetensors or quantised as GGUF
    #[arg(long, value_name = "REPO")]
    text_repo: Option<String>,
    /// File of weights in that repository, if it has several
    #[arg(long, value_name = "FILE")]
    text_file: Option<String>,
    /// Print only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// The models that can be pulled.
fn names() -> Vec<&'static str> {
    FAMILIES.into_iter().filter_map(|family| Some(family.checkpoint()?.name)).collect()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let published =
        family::named(&args.model).and_then(|family| family.checkpoint()).context("clap knows the names")?;
    // A folder comes before a repository of the same name.
    let named = args.from.as_deref().filter(|from| !from.exists()).and_then(Path::to_str);
    let repo = published.repositories().find(|repo| Some(*repo) == named);
    if let Some(from) = args.from.as_deref().filter(|from| repo.is_none() && !from.exists()) {
        let mut repos: Vec<&str> =
            published.parts.iter().map(|part| part.repo).chain(published.repositories()).collect();
        repos.sort_unstable();
        repos.dedup();
        let (model, repos) = (published.name, repos.join(", "));
        bail!("--from {}: there is no such folder; the files of {model} are those of {repos}", from.display());
    }
    let vae = args.vae_folder.as_deref().map(|folder| form(published, folder)).transpose()?;
    let pull = Pull {
        published,
        cache: args.dir.clone(),
        from: args.from.clone().filter(|_| repo.is_none()),
        repo: repo.map(str::to_owned),
        offline: args.offline,
        vae,
        text_repo: args.text_repo.clone(),
        text_file: args.text_file.clone(),
        quiet: args.quiet,
    };
    let models = args.dir.clone().unwrap_or_else(cache_dir);
    let earlier = Checkpoint::in_cache(published, &models).form(Part::Vae);
    let checkpoint = pull.run()?;
    if !args.quiet {
        let downloads = pull.from.is_none().then(|| pull.downloads());
        out::print(describe(&checkpoint, published, downloads.as_deref(), earlier))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The autoencoder in this folder of the model's repository.
fn form(published: &Published, folder: &str) -> anyhow::Result<&'static PublishedForm> {
    let forms = published.forms(Part::Vae);
    if forms.is_empty() {
        let all = FAMILIES.into_iter().filter_map(|family| family.checkpoint());
        let takes: Vec<&str> = all.filter(|other| !other.forms(Part::Vae).is_empty()).map(|other| other.name).collect();
        bail!("--vae-folder is for {}, not for {}", takes.join(", "), published.name);
    }
    let folders = forms.iter().map(|form| form.folder).collect::<Vec<_>>().join(" and ");
    let unknown = || format!("--vae-folder {folder}: the autoencoders of {} are {folders}", published.name);
    forms.iter().find(|form| form.folder == folder).with_context(unknown)
}

/// What is there now, and how to use it. `earlier`: the form of the autoencoder that was there before.
fn describe(
    checkpoint: &Checkpoint,
    published: &'static Published,
    downloads: Option<&Path>,
    earlier: Option<&PublishedForm>,
) -> String {
    let model = published.name;
    let mut text = String::new();
    for file in checkpoint.parts().flat_map(|part| checkpoint.status(part)) {
        let size = file.bytes.map_or_else(|| "missing".into(), |bytes| indicatif::HumanBytes(bytes).to_string());
        text += &format!("{size:>12}  {}\n", file.file);
    }
    if let Some(form) = checkpoint.form(Part::Vae) {
        let others = published.forms(Part::Vae).iter().filter(|other| *other != form);
        let others: Vec<&str> = others.map(|other| other.folder).collect();
        let beside = match earlier.filter(|earlier| *earlier != form) {
            Some(earlier) => format!(", in place of {}", earlier.folder),
            None => format!("; --vae-folder takes {} instead", others.join(" or ")),
        };
        text += &format!("the autoencoder is {}{beside}\n", form.folder);
    }
    if let Some(folder) = downloads.filter(|folder| folder.is_dir()) {
        text += &format!("downloads are kept in {}, in the layout of the hub's own client\n", folder.display());
    }
    let ours = *checkpoint == Checkpoint::in_cache(published, &cache_dir());
    let name = if ours { model.to_owned() } else { checkpoint.folder().display().to_string() };
    if !checkpoint.is_whole() {
        return text + &format!("{model} takes no prompts yet, only --embeddings: its tokenizer is missing\n");
    }
    text + &format!(
        "{model} is complete: adacache generate --model {name} \"a white cat walking through tall grass at sunset\"\n"
    )
}
