//! The folder of a checkpoint: its files, and whether they are present and complete.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::CheckpointError;
use super::files::{files_in, problem, read, weight_files};
use super::published::{Part, Published};

/// The text encoder's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextWeights {
    /// One file or shards.
    Safetensors(Vec<PathBuf>),
    /// In the format of `torch.save`, one file or shards.
    Pickle(Vec<PathBuf>),
    /// Quantised.
    Gguf(PathBuf),
}

impl TextWeights {
    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            TextWeights::Safetensors(files) | TextWeights::Pickle(files) => files,
            TextWeights::Gguf(file) => std::slice::from_ref(file),
        }
    }
}

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
    named.or_else(|| Some(dirs::cache_dir()?.join("adacache"))).unwrap_or_else(|| PathBuf::from(".adacache"))
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

    /// Every file of `part`: whether it is present, and whether it is complete according to its header.
    pub fn status(&self, part: Part) -> Vec<FileStatus> {
        let folder = self.folder.join(part.name());
        let names = files_in(&folder);
        let mut files = vec!["config.json".to_owned()];
        if part == Part::Text {
            files.push("tokenizer.json".to_owned());
        }
        files.extend(weight_files(part, &names, &|name| read(&folder.join(name))));
        let status = |file: String| {
            let path = folder.join(&file);
            let bytes = fs::metadata(&path).ok().map(|m| m.len());
            let problem = bytes.and_then(|_| problem(&path));
            FileStatus { part, file, bytes, problem }
        };
        files.into_iter().map(status).collect()
    }

    /// Checks that the files of `parts` are present and complete according to their headers.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] with all missing files, or [`CheckpointError::Damaged`].
    pub fn require(&self, parts: &[Part]) -> Result<(), CheckpointError> {
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

    /// The files of the text encoder's weights; call [`Checkpoint::require`] first.
    pub fn text_weights(&self) -> Result<TextWeights, CheckpointError> {
        self.require(&[Part::Text])?;
        let files = self.status(Part::Text).into_iter().map(|s| self.file(Part::Text, &s.file));
        let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e != "json")).collect();
        let first = files[0].extension().unwrap_or_default().to_owned();
        Ok(match first.to_str() {
            Some("gguf") => TextWeights::Gguf(files[0].clone()),
            Some("safetensors") => TextWeights::Safetensors(files),
            _ => TextWeights::Pickle(files),
        })
    }
}
