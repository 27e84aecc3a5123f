//! The folder of a checkpoint: its files, and whether they are present and complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::CheckpointError;
use super::files::{files_in, problem, read, weight_files};
use super::published::{Part, Published};

/// The status of one checkpoint file, determined without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// The part it belongs to.
    pub part: Part,
    /// Its name in the part's folder.
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
    /// The checkpoint at `folder`.
    pub fn at(published: &'static Published, folder: impl Into<PathBuf>) -> Checkpoint {
        Checkpoint { published, folder: folder.into() }
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

    /// Whether a folder looks like a checkpoint.
    pub fn is_one(folder: &Path) -> bool {
        folder.join(Part::Transformer.name()).is_dir()
    }

    /// The path of a part's file.
    pub fn file(&self, part: Part, name: &str) -> PathBuf {
        self.folder.join(part.name()).join(name)
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

    /// The names of a part's weight files; all there are, if it is not known which ones are wanted.
    fn weight_names(&self, part: Part) -> Result<Vec<String>, Vec<String>> {
        let folder = self.folder.join(part.name());
        weight_files(&files_in(&folder), &|name| read(&folder.join(name)))
    }

    /// Every file of `part`: whether it is present, and whether it is complete according to its header.
    pub fn status(&self, part: Part) -> Vec<FileStatus> {
        let mut files = vec!["config.json".to_owned()];
        if part == Part::Text {
            files.push("tokenizer.json".to_owned());
        }
        let (weights, several) = match self.weight_names(part) {
            Ok(names) => (names, false),
            Err(names) => (names, true),
        };
        let named = files.len();
        files.extend(weights);
        let status = |(index, file): (usize, String)| {
            let path = self.file(part, &file);
            let bytes = fs::metadata(&path).ok().map(|m| m.len());
            let other = (several && index >= named).then(|| "one of several files of weights".to_owned());
            let problem = bytes.and_then(|_| other.or_else(|| problem(&path)));
            FileStatus { part, file, bytes, problem }
        };
        files.into_iter().enumerate().map(status).collect()
    }

    /// Checks that the files of `parts` are present and complete according to their headers.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] with all missing files, [`CheckpointError::Several`], or [`CheckpointError::Damaged`].
    pub fn require(&self, parts: &[Part]) -> Result<(), CheckpointError> {
        for part in parts {
            if let Err(files) = self.weight_names(*part) {
                let place = self.folder.join(part.name()).display().to_string();
                return Err(several(place, *part, files, &self.command()));
            }
        }
        let status: Vec<FileStatus> = parts.iter().flat_map(|part| self.status(*part)).collect();
        let missing = status.iter().filter(|s| s.bytes.is_none());
        let files: Vec<String> = missing.map(|s| format!("{}/{}", s.part.name(), s.file)).collect();
        if !files.is_empty() {
            return Err(CheckpointError::Missing {
                model: self.published.name,
                folder: self.folder.clone(),
                files,
                command: self.command(),
            });
        }
        match status.into_iter().find_map(|s| Some((self.file(s.part, &s.file), s.problem?))) {
            Some((file, reason)) => Err(CheckpointError::Damaged { file, reason, command: self.command() }),
            None => Ok(()),
        }
    }

    /// The files of a part's weights; call [`Checkpoint::require`] first.
    pub fn weights(&self, part: Part) -> Result<Vec<PathBuf>, CheckpointError> {
        self.require(&[part])?;
        let names = self.weight_names(part).unwrap_or_default();
        let weights = names.iter().filter(|name| !name.ends_with(".json"));
        Ok(weights.map(|name| self.file(part, name)).collect())
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
