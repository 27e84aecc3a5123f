//! Why a checkpoint is not complete.

use std::path::{Path, PathBuf};

/// Why a checkpoint is not complete.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Files are missing.
    #[error("{model} is not complete in {}; missing: {}\nfetch it: {command}\nor take files you have: {command} --from DIR", folder.display(), files.join(", "))]
    Missing {
        /// The model.
        model: &'static str,
        /// The checkpoint's folder.
        folder: PathBuf,
        /// The missing files, relative to it.
        files: Vec<String>,
        /// The command that fetches them.
        command: String,
    },
    /// A file is present but invalid.
    #[error("{}: {reason}\nfetch it again: {command}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The problem with it.
        reason: String,
        /// The command that fetches it.
        command: String,
    },
    /// The folder given with `--from` lacks a required file.
    #[error("{} has no {file} of {repo}; looked in {}", from.display(), places.join(", "))]
    NotInFolder {
        /// The folder given.
        from: PathBuf,
        /// The file.
        file: String,
        /// The repository in which it was published.
        repo: String,
        /// The paths that were searched.
        places: Vec<String>,
    },
    /// Offline, and never downloaded.
    #[error(
        "{file} of {repo} was never downloaded and --offline forbids to; run `adacache pull {model}` with a network, or `adacache pull {model} --from DIR`"
    )]
    Offline {
        /// The model.
        model: &'static str,
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
    },
    /// The download of a file failed.
    #[error(
        "cannot download {file} of {repo}: {reason}\nthe same command resumes where it stopped; without a network: adacache pull {model} --from DIR"
    )]
    Download {
        /// The model.
        model: &'static str,
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
        /// The client's message.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action, path, source }
}
