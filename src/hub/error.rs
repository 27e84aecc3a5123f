//! Why a checkpoint is not complete, and why a download failed.

use std::path::{Path, PathBuf};

use crate::model::ModelError;

/// Why a checkpoint is not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// Files of several layouts are there, and none is whole.
    #[error(
        "{model} is not complete in {}, which holds files of two layouts{}\ncomplete one of them, or fetch the model: {command}",
        folder.display(), halves.iter().map(Half::line).collect::<String>()
    )]
    Halves {
        /// The model.
        model: &'static str,
        /// The folder.
        folder: PathBuf,
        /// What is there of each.
        halves: Vec<Half>,
        /// The command that fetches the model.
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
    #[error(
        "{} has no {file} of {repo}; looked in {}{}\n--from asks no server: put the file there, or fetch it without --from",
        from.display(), places.join(", "), there(others)
    )]
    NotInFolder {
        /// The folder given.
        from: PathBuf,
        /// The file.
        file: String,
        /// The repository in which it was published.
        repo: String,
        /// The paths that were searched.
        places: Vec<String>,
        /// Files of weights that are there.
        others: Vec<String>,
    },
    /// The folder given with `--from` has another form of a part than the one asked for.
    #[error("{} is of the {found}; asked for is {folder} of {repo}, the {expected}", file.display())]
    OtherForm {
        /// The configuration.
        file: PathBuf,
        /// Its class.
        found: &'static str,
        /// The folder asked for.
        folder: &'static str,
        /// The repository in which it was published.
        repo: &'static str,
        /// The class of what is there.
        expected: &'static str,
    },
    /// Offline, and never downloaded.
    #[error(
        "{file} of {repo} was never downloaded and {by} forbids to; run `adacache pull {model}` with a network, or `adacache pull {model} --from DIR`"
    )]
    Offline {
        /// The option or the variable that forbids to ask a server.
        by: &'static str,
        /// The model.
        model: &'static str,
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
    },
    /// There are several files of weights, and none was asked for.
    #[error("{place} holds several files of weights for the {part}: {}\n{advice}", files.join(", "))]
    Several {
        /// The repository or folder.
        place: String,
        /// The name of the checkpoint's part.
        part: &'static str,
        /// The files.
        files: Vec<String>,
        /// How to choose one.
        advice: String,
    },
    /// Weights do not go together.
    #[error(transparent)]
    Weights(#[from] ModelError),
    /// The download of a file failed.
    #[error("cannot download {file} of {repo}: {source}{}", source.advice(model))]
    Download {
        /// The model.
        model: &'static str,
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
        /// Why.
        source: HubError,
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

/// What a folder holds of one layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// The repository with this layout.
    pub layout: String,
    /// Files that are there.
    pub there: Vec<String>,
    /// Files that are not.
    pub missing: Vec<String>,
}

impl Half {
    fn line(&self) -> String {
        format!("\nas in {}: there is {}; missing: {}", self.layout, self.there.join(", "), self.missing.join(", "))
    }
}

fn there(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!(", which has {}", others.join(", ")) }
}

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A variable of the environment has a value that means nothing.
    #[error("{name} is `{value}`; it has to be {expected}")]
    Setting {
        /// The variable, or the file in its place.
        name: String,
        /// Its value.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The certificates to trust cannot be read.
    #[error("no certificates to trust: {name} is {}: {reason}", path.display())]
    Certificates {
        /// The variable that names them.
        name: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The hub does not give the file to this user.
    #[error(
        "{repo} is gated: accept the licence at https://huggingface.co/{repo}, then set HF_TOKEN \
         (a token from https://huggingface.co/settings/tokens; status {status}, {sent}{said})"
    )]
    Gated {
        /// The repository.
        repo: String,
        /// The status of the answer.
        status: u16,
        /// What was sent as a token.
        sent: String,
        /// What the hub said.
        said: String,
    },
    /// The hub has no such thing.
    #[error("{host} has no {what} (404{said})")]
    NotFound {
        /// The server.
        host: String,
        /// Repository, revision and file.
        what: String,
        /// What the hub said.
        said: String,
    },
    /// An answer that no later try will change.
    #[error("{host} answers {status}{said}")]
    Status {
        /// The server.
        host: String,
        /// The status.
        status: u16,
        /// What the server said.
        said: String,
    },
    /// The server did not deliver, however often it was asked.
    #[error("{reason} (asked {tries} times)")]
    Gone {
        /// The last problem.
        reason: String,
        /// How often.
        tries: u32,
    },
    /// The server asks to wait longer than anyone waits for a program.
    #[error("{host} answers {status} and asks to come again in {seconds} seconds")]
    Later {
        /// The server.
        host: String,
        /// The status.
        status: u16,
        /// The time to wait.
        seconds: u64,
    },
    /// The answer is not what a hub sends, or not the file.
    #[error("{0}")]
    Wrong(String),
    /// The file cannot be kept.
    #[error("cannot {action} {}: {source}{}", path.display(), elsewhere(source))]
    Io {
        /// The operation.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

impl HubError {
    /// How to go on, below the message.
    fn advice(&self, model: &str) -> String {
        let resume = "the same command resumes where it stopped";
        match self {
            HubError::Gone { .. } | HubError::Later { .. } | HubError::Status { .. } | HubError::Wrong(_) => {
                format!("\n{resume}; without a network: adacache pull {model} --from DIR")
            }
            HubError::Io { .. } => format!("\n{resume}"),
            HubError::NotFound { .. } => {
                format!("\nfiles you have are taken with: adacache pull {model} --from DIR")
            }
            _ => String::new(),
        }
    }
}

/// What to do when a disk takes no more.
fn elsewhere(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => {
            "\nfree some space there, or keep the downloads on another disk: HF_HUB_CACHE=FOLDER"
        }
        PermissionDenied | ReadOnlyFilesystem => "\nkeep the downloads elsewhere: HF_HUB_CACHE=FOLDER",
        _ => "",
    }
}

pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action, path, source }
}

pub(super) fn hub_io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { action, path, source }
}
