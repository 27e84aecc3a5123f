//! The folder of a checkpoint: its files, and whether they are present and complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{CheckpointError, Half};
use super::files::{is_weights, problem};
use super::layout::{CONFIG, Config, Layout, Place, in_folder};
use super::published::{Part, Published, PublishedForm};
use crate::model::Weights;

/// The status of one checkpoint file, determined without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// The part it belongs to.
    pub part: Part,
    /// Its path in the checkpoint's folder, such as `transformer/config.json`.
    pub file: String,
    /// Its size; `None` if it is missing.
    pub bytes: Option<u64>,
    /// The problem with it, if it is present.
    pub problem: Option<String>,
}

impl FileStatus {
    /// Whether it is present and complete.
    pub fn is_ok(&self) -> bool {
        self.bytes.is_some() && self.problem.is_none()
    }
}

/// A checkpoint's folder; its files may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    published: &'static Published,
    pub(super) folder: PathBuf,
    layout: Layout,
}

/// The folder that models are pulled into: `$ADACACHE_HOME`, or `adacache` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let named = std::env::var_os("ADACACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(user_cache()?.join("adacache"))).unwrap_or_else(|| PathBuf::from(".adacache"))
}

/// The user's folder for caches, as each system has it.
fn user_cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        Some(std::env::home_dir()?.join("Library/Caches"))
    } else {
        set("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")))
    }
}

impl Checkpoint {
    /// The checkpoint at `folder`, which has one folder for each part, as [`Pull`](super::Pull) makes them, or is a copy of a published
    /// repository.
    pub fn at(published: &'static Published, folder: impl Into<PathBuf>) -> Checkpoint {
        let folder = folder.into();
        let layout = published.layout_of(&folder);
        Checkpoint { published, folder, layout }
    }

    /// The checkpoint that [`Pull`](super::Pull) makes in the folder of models `cache`, whatever else is there.
    pub(super) fn to_pull(published: &'static Published, cache: &Path) -> Checkpoint {
        Checkpoint { published, folder: cache.join(published.name), layout: Layout::Pulled }
    }

    /// The checkpoint pulled into the folder of models `cache` (see [`cache_dir`]).
    pub fn in_cache(published: &'static Published, cache: &Path) -> Checkpoint {
        Checkpoint::at(published, cache.join(published.name))
    }

    /// Its parts.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        self.published.parts.iter().map(|published| published.part)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn place(&self, part: Part) -> Place {
        self.published.place(self.layout, part)
    }

    /// The path of a file in the folder of a part's weights.
    pub fn file(&self, part: Part, name: &str) -> PathBuf {
        self.folder.join(self.place(part).folder).join(name)
    }

    /// The configuration of a part; `None` if it has none, and its weights tell their shapes.
    pub fn config(&self, part: Part) -> Option<PathBuf> {
        let file = self.file(part, CONFIG);
        match self.place(part).config {
            Config::Needed => Some(file),
            Config::Spare => Some(file).filter(|file| file.is_file()),
            Config::None => None,
        }
    }

    /// The form of a part that is there, of one that has several and by its configuration.
    pub fn form(&self, part: Part) -> Option<&'static PublishedForm> {
        self.published.form_with(part, &self.config(part)?)
    }

    /// The configurations of a part that are there, in whichever layout.
    pub fn configs(&self, part: Part) -> impl Iterator<Item = PathBuf> {
        let places = self.published.layouts_after(self.layout).map(move |layout| self.published.place(layout, part));
        let files = places.filter(|place| place.config != Config::None);
        files.map(|place| self.folder.join(place.folder).join(CONFIG)).filter(|file| file.is_file())
    }

    /// The tokenizer of the text encoder.
    pub fn tokenizer(&self) -> PathBuf {
        let file = self.place(Part::Text).tokenizer;
        self.folder.join(file.folder).join(file.name)
    }

    /// The command that fetches the missing files.
    fn command(&self) -> String {
        let model = self.published.name;
        let plain = format!("adacache pull {model}");
        match self.folder.parent() {
            Some(cache) if self.folder.file_name().is_some_and(|name| name == model) && cache != cache_dir() => {
                format!("{plain} --dir {}", cache.display())
            }
            _ => plain,
        }
    }

    /// Every file of `part`: whether it is present, and whether it is complete according to its header.
    pub fn status(&self, part: Part) -> Vec<FileStatus> {
        let several = self.place(part).weights_in(&self.folder).is_err();
        let status = |file: String| {
            let path = self.folder.join(&file);
            let bytes = fs::metadata(&path).ok().map(|m| m.len());
            let other = (several && is_weights(&file)).then(|| "one of several files of weights".to_owned());
            let problem = bytes.and_then(|_| other.or_else(|| problem(&path)));
            FileStatus { part, file, bytes, problem }
        };
        self.listed(self.layout, part).into_iter().map(status).collect()
    }

    /// The files of a part in a layout, by their paths in the folder.
    fn listed(&self, layout: Layout, part: Part) -> Vec<String> {
        let place = self.published.place(layout, part);
        let mut files = vec![];
        let config = in_folder(place.folder, CONFIG);
        let there = || self.folder.join(&config).is_file();
        if place.config == Config::Needed || place.config == Config::Spare && there() {
            files.push(config);
        }
        if part == Part::Text {
            files.push(in_folder(place.tokenizer.folder, place.tokenizer.name));
        }
        let weights = place.weights_in(&self.folder).unwrap_or_else(|several| several);
        files.extend(weights.iter().map(|name| in_folder(place.folder, name)));
        files
    }

    /// The files that are there, by their paths in the folder.
    pub fn there(&self) -> Vec<String> {
        let files = self.parts().flat_map(|part| self.listed(self.layout, part));
        files.filter(|file| self.folder.join(file).is_file()).collect()
    }

    /// What is there of two layouts, if files of several are.
    fn halves(&self) -> Option<Vec<Half>> {
        let half = |layout| {
            let files = self.parts().flat_map(|part| self.listed(layout, part));
            let (there, missing) = files.partition(|file| self.folder.join(file).exists());
            Half { layout: self.published.repository(layout).into(), there, missing }
        };
        let mut layouts = self.published.layouts_after(self.layout).map(half);
        let own = layouts.next()?;
        // Layouts have folders in common.
        let others = layouts.filter(|other| other.there.iter().any(|file| !own.there.contains(file)));
        let other = others.max_by_key(|other| other.there.len())?;
        (!own.there.is_empty()).then_some(vec![own, other])
    }

    /// Checks that the files of `parts` are present and complete according to their headers.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] with all missing files, [`CheckpointError::Halves`], [`CheckpointError::Several`], or
    /// [`CheckpointError::Damaged`].
    ///
    /// # Panics
    /// If the checkpoint has no such part.
    pub fn require(&self, parts: &[Part]) -> Result<(), CheckpointError> {
        self.require_except(parts, &|_| false)
    }

    /// As [`Checkpoint::require`], without a look into files that `unread` names.
    fn require_except(&self, parts: &[Part], unread: &dyn Fn(&str) -> bool) -> Result<(), CheckpointError> {
        for part in parts {
            let place = self.place(*part);
            if let Err(files) = place.weights_in(&self.folder) {
                let folder = self.folder.join(place.folder).display().to_string();
                return Err(several(folder, *part, files, &self.command()));
            }
        }
        let files: Vec<String> = parts.iter().flat_map(|part| self.listed(self.layout, *part)).collect();
        let (there, missing): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| self.folder.join(file).exists());
        if !missing.is_empty() {
            let (model, folder, command) = (self.published.name, self.folder.clone(), self.command());
            return Err(match self.halves() {
                Some(halves) => CheckpointError::Halves { model, folder, halves, command },
                None => CheckpointError::Missing { model, folder, files: missing, command },
            });
        }
        let read = there.into_iter().filter(|file| !unread(file)).map(|file| self.folder.join(file));
        match read.into_iter().find_map(|file| Some((problem(&file)?, file))) {
            Some((reason, file)) => Err(CheckpointError::Damaged { file, reason, command: self.command() }),
            None => Ok(()),
        }
    }

    /// As [`Checkpoint::require`], for all of its parts.
    ///
    /// # Errors
    /// As [`Checkpoint::require`].
    pub fn require_all(&self) -> Result<(), CheckpointError> {
        self.require(&self.parts().collect::<Vec<_>>())
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.require_all().is_ok()
    }

    /// The files of a part's weights; call [`Checkpoint::require`] first.
    pub fn weights(&self, part: Part) -> Result<Vec<PathBuf>, CheckpointError> {
        self.require(&[part])?;
        Ok(self.weight_paths(part))
    }

    fn weight_paths(&self, part: Part) -> Vec<PathBuf> {
        let names = self.place(part).weights_in(&self.folder).unwrap_or_default();
        let weights = names.iter().filter(|name| !name.ends_with(".json"));
        weights.map(|name| self.file(part, name)).collect()
    }

    /// The weights of a part. Their headers are read once.
    ///
    /// # Errors
    /// As [`Checkpoint::require`]; weights that do not go together.
    pub fn open(&self, part: Part) -> Result<Weights<'static>, CheckpointError> {
        self.require_except(&[part], &is_weights)?;
        Weights::open_checkpoint(&self.weight_paths(part)).or_else(|error| {
            // Says what the file is, and how to get the right one.
            self.require(&[part])?;
            Err(error.into())
        })
    }
}

/// The error about files of which one has to be chosen.
pub(super) fn several(place: String, part: Part, files: Vec<String>, command: &str) -> CheckpointError {
    let advice = match part {
        Part::Text => format!("name the one to use: {command} --text-file FILE"),
        _ => "keep the one to use there, and move the others away".to_owned(),
    };
    CheckpointError::Several { place, part: part.name(), files, advice }
}
