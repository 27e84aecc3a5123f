//! The rows of all families, and the lookup of a model by its name or folder.

use std::path::Path;

use super::latte::{LATTE, OPEN_SORA_PLAN_1_1};
use super::opensora::OpenSora;
use super::row::Family;
use super::sprites::{SPRITES, SPRITES_WAN};
use super::wan::{WAN21_1_3B, WAN21_14B, WAN22_5B, WAN22_A14B};
use crate::hub::Checkpoint;
use crate::messages;
use crate::pipeline::{Inputs, ModelSource, OpenOptions, PipelineError};

/// Every family. A folder belongs to the first that recognises it: the configurations of all but the last three say what they are.
pub static FAMILIES: [&dyn Family; 9] =
    [&WAN21_1_3B, &WAN21_14B, &WAN22_5B, &WAN22_A14B, &LATTE, &OPEN_SORA_PLAN_1_1, &OpenSora, &SPRITES, &SPRITES_WAN];

/// The family whose own model has this name.
pub fn named(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.into_iter().find(|family| family.name() == name)
}

/// The family of the model `name`: the name of a family's own model, or the path of a folder, which is also returned.
fn find(name: &str) -> Result<(&'static dyn Family, Option<&Path>), PipelineError> {
    let folder = Path::new(name);
    let holds = || FAMILIES.into_iter().find(|family| family.recognises(folder));
    match named(name) {
        Some(family) => Ok((family, None)),
        None => Ok((holds().or_else(|| called(folder)).ok_or_else(|| unknown(name))?, Some(folder))),
    }
}

/// The family whose model a folder is named after, as `pull` names it, where the files do not tell: some are missing.
fn called(folder: &Path) -> Option<&'static dyn Family> {
    let family = named(folder.file_name()?.to_str()?)?;
    family.checkpoint().filter(|_| folder.is_dir()).map(|_| family)
}

/// No family has this name, and none recognises this folder.
fn unknown(name: &str) -> PipelineError {
    let folder = Path::new(name);
    let checkpoints = || FAMILIES.into_iter().filter_map(|family| family.checkpoint());
    let begun =
        checkpoints().map(|published| Checkpoint::at(published, folder).there()).find(|files| !files.is_empty());
    let found = match (folder, begun) {
        (_, Some(files)) => format!("the folder has {}, and no transformer's config.json", files.join(", ")),
        (folder, _) if folder.is_dir() => "the folder holds none of a model's files".into(),
        (folder, _) if folder.exists() => "it is a file, and a model is a folder".into(),
        _ => "neither a model nor a folder has this name".into(),
    };
    // The published repositories side by side, as they were downloaded.
    let published = checkpoints().find(|published| {
        let short = |repo: &str| repo.rsplit('/').next().unwrap_or_default().to_owned();
        let others = published.other.iter().map(|other| other.repo);
        published.parts.iter().map(|part| part.repo).chain(others).any(|repo| folder.join(short(repo)).is_dir())
    });
    let tip = published.map_or_else(String::new, |published| {
        let model = published.name;
        let name = if name.contains(char::is_whitespace) { format!("{name:?}") } else { name.to_owned() };
        format!("\ntip: it holds the files of {model}: `adacache pull {model} --from {name}`, then --model {model}")
    });
    let names = FAMILIES.into_iter().map(Family::name);
    let nearest = messages::nearest(name, names).map(str::to_owned);
    PipelineError::UnknownModel { name: name.into(), found, nearest, known: that_take(|_| true), tip }
}

/// Rejects options that the family does not have.
fn check(family: &dyn Family, options: &OpenOptions) -> Result<(), PipelineError> {
    let (inputs, name) = (family.inputs(), family.name());
    if !inputs.resolution && (options.resolution.is_some() || options.aspect.is_some()) {
        let takes = that_take(|inputs| inputs.resolution);
        let reason = format!("--resolution and --aspect are for --model {takes}; give --size HxW for {name}");
        return Err(PipelineError::Setting(reason));
    }
    let of_sampling = [
        ("--sampler", options.sampler.is_some()),
        ("--shift", options.shift.is_some()),
        ("--sigmas", options.sigmas.is_some()),
        ("--max-sequence-length", options.caption_tokens.is_some()),
    ];
    if let (false, Some((option, _))) = (inputs.sampler, of_sampling.iter().find(|(_, used)| *used)) {
        let takes = that_take(|inputs| inputs.sampler);
        let reason = format!("{option} is for --model {takes}, not for {name}");
        return Err(PipelineError::Setting(reason));
    }
    type Has = fn(&Inputs) -> bool;
    let of_families: [(&str, bool, Has); 3] = [
        ("--lora", !options.loras.is_empty(), |inputs| inputs.loras),
        ("--vae-tiling", options.vae_tiling, |inputs| inputs.vae_tiling),
        ("--tiny-vae", options.tiny_vae.is_some(), |inputs| inputs.tiny_vae),
    ];
    if let Some((option, _, has)) = of_families.into_iter().find(|(_, used, has)| *used && !has(&inputs)) {
        let takes = that_take(has);
        return Err(PipelineError::Setting(format!("{option} is for --model {takes}, not for {name}")));
    }
    Ok(())
}

/// Opens the model `name`, as passed to `--model`, for videos of a size.
///
/// # Errors
/// [`PipelineError::UnknownModel`], and as [`Family::open`].
pub fn open(name: &str, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
    let (family, folder) = find(name)?;
    check(family, size)?;
    family.open(folder, size)
}

/// As [`open`], but for a family's own model as published, without its files.
///
/// # Errors
/// As [`open`].
pub fn published(name: &str, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
    let (family, folder) = find(name)?;
    check(family, size)?;
    match folder {
        None => family.published(size),
        folder => family.open(folder, size),
    }
}

/// The built-in model: 16 frames of 64×64 pixels from six words.
pub fn sprites() -> ModelSource {
    SPRITES.open(None, &OpenOptions::default()).expect("the model inside the program is whole")
}

/// The families that accept an input, for messages.
pub fn that_take(input: fn(&Inputs) -> bool) -> String {
    let names = FAMILIES.into_iter().filter(|family| input(&family.inputs())).map(Family::name);
    names.collect::<Vec<_>>().join(", ")
}
