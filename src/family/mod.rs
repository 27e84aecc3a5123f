//! The families of models there are: one row each. Nothing below this room knows a family by name.

pub mod opensora;
pub mod sprites;

use std::path::Path;

use crate::cache::Presets;
use crate::hub::Checkpoint;
use crate::model::ModelError;
use crate::pipeline::{Inputs, ModelSource, PipelineError, SizeOptions};

/// A family of models: how one is recognised and opened, and what is known of it without its files.
pub trait Family: Sync {
    /// The name by which `--model` knows the family's own model.
    fn name(&self) -> &'static str;

    /// Whether `folder` holds a model of this family.
    fn recognises(&self, folder: &Path) -> bool;

    /// Opens the model in `folder`, or the family's own, for videos of a size. Weights are not read yet.
    ///
    /// # Errors
    /// Files that are missing or damaged; a size that the model does not make.
    fn open(&self, folder: Option<&Path>, size: &SizeOptions) -> Result<ModelSource, PipelineError>;

    /// The family's own model as it was published, without any of its files: enough to count with.
    ///
    /// # Errors
    /// A size that the model does not make.
    fn published(&self, size: &SizeOptions) -> Result<ModelSource, PipelineError> {
        self.open(None, size)
    }

    /// What a generation can be given beside the prompt.
    fn inputs(&self) -> Inputs;

    /// Where the family's own model lies in the folder of models `cache`; `None`: inside the program.
    fn checkpoint(&self, _cache: &Path) -> Option<Checkpoint> {
        None
    }

    /// Resolutions that were published, the usual ones.
    fn resolutions(&self) -> &'static [&'static str] {
        &[]
    }

    /// What `adacache plan` plans where it is told nothing: resolution and steps.
    fn planned(&self) -> Option<(&'static str, usize)> {
        None
    }

    /// Runs whose seconds were published.
    fn measured(&self) -> &'static [Measured] {
        &[]
    }
}

/// A published run on one A100 80 GB, in the default aspect ratio.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The resolution's name.
    pub resolution: &'static str,
    /// Frames.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// What ran.
    pub what: &'static str,
    /// Seconds it took.
    pub seconds: f64,
}

/// Every family. A folder belongs to the first that recognises it.
pub static FAMILIES: [&dyn Family; 2] = [&opensora::OpenSora, &sprites::Sprites];

/// The family whose own model has this name.
pub fn named(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.into_iter().find(|family| family.name() == name)
}

/// The family of the model `name`: the name of a family's own model, or the path of a folder, which is given too.
fn find(name: &str) -> Result<(&'static dyn Family, Option<&Path>), PipelineError> {
    let folder = Path::new(name);
    let holds = || FAMILIES.into_iter().find(|family| family.recognises(folder));
    match named(name) {
        Some(family) => Ok((family, None)),
        None => Ok((holds().ok_or_else(|| PipelineError::UnknownModel(name.into()))?, Some(folder))),
    }
}

/// Opens the model `name`, as `--model` takes it, for videos of a size.
///
/// # Errors
/// [`PipelineError::UnknownModel`], and as [`Family::open`].
pub fn open(name: &str, size: &SizeOptions) -> Result<ModelSource, PipelineError> {
    let (family, folder) = find(name)?;
    family.open(folder, size)
}

/// As [`open`], but a family's own model as it was published, without its files.
///
/// # Errors
/// As [`open`].
pub fn published(name: &str, size: &SizeOptions) -> Result<ModelSource, PipelineError> {
    match find(name)? {
        (family, None) => family.published(size),
        (family, folder) => family.open(folder, size),
    }
}

/// The model inside the program: 16 frames of 64×64 pixels from six words.
pub fn sprites() -> ModelSource {
    sprites::Sprites.open(None, &SizeOptions::default()).expect("the model inside the program is whole")
}

/// The families that take an input, for messages.
pub fn that_take(input: fn(&Inputs) -> bool) -> String {
    let names = FAMILIES.into_iter().filter(|family| input(&family.inputs())).map(Family::name);
    names.collect::<Vec<_>>().join(", ")
}

/// The cache presets in a model's `codebooks.json`, or the published ones of Open-Sora for `steps` steps where there is none.
fn presets_in(path: &Path, steps: usize) -> Result<Presets, PipelineError> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => presets_of(&text, file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Presets::opensora(steps)),
        Err(source) => Err(ModelError::Io { file, source }.into()),
    }
}

/// The cache presets that `text`, the content of `file`, holds.
fn presets_of(text: &str, file: String) -> Result<Presets, PipelineError> {
    serde_json::from_str(text)
        .map_err(|e| ModelError::Config { file, reason: format!("not a set of codebooks: {e}") }.into())
}
