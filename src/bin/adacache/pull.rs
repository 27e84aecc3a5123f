//! `adacache pull`: a published checkpoint onto this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adacache::family::{self, FAMILIES};
use adacache::hub::{Checkpoint, Published, Pull, cache_dir};
use anyhow::Context;

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
    let pull = Pull {
        published,
        cache: args.dir.clone(),
        from: args.from.clone().filter(|_| repo.is_none()),
        repo: repo.map(str::to_owned),
        offline: args.offline,
        text_repo: args.text_repo.clone(),
        text_file: args.text_file.clone(),
        quiet: args.quiet,
    };
    let checkpoint = pull.run()?;
    if !args.quiet {
        let downloads = pull.from.is_none().then(|| pull.downloads());
        out::print(describe(&checkpoint, published, downloads.as_deref()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is there now, and how to use it.
fn describe(checkpoint: &Checkpoint, published: &'static Published, downloads: Option<&Path>) -> String {
    let model = published.name;
    let mut text = String::new();
    for file in checkpoint.parts().flat_map(|part| checkpoint.status(part)) {
        let size = file.bytes.map_or_else(|| "missing".into(), |bytes| indicatif::HumanBytes(bytes).to_string());
        text += &format!("{size:>12}  {}\n", file.file);
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
