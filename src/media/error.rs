//! Why a result cannot be written.

use std::path::PathBuf;

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The path's extension does not match a format.
    #[error(
        "cannot tell what to write to `{}`: end it in .mp4 or .gif (video), .safetensors (latents) or / (a folder of PNG frames)",
        .0.display()
    )]
    UnknownFormat(PathBuf),
    /// The parent folder of the output does not exist.
    #[error("cannot write `{}`: the folder `{}` does not exist; create it or choose another path", path.display(), parent.display())]
    NoParent {
        /// The output path.
        path: PathBuf,
        /// Its missing folder.
        parent: PathBuf,
    },
    /// There is a folder in place of a file, or the other way round.
    #[error("cannot write `{}`: {problem}", path.display())]
    Occupied {
        /// The output path.
        path: PathBuf,
        /// The obstacle.
        problem: &'static str,
    },
    /// The file would be larger than this process may write, or than the file system can hold.
    #[error("cannot write `{}`: it is larger than the limit on file sizes; raise that (ulimit -f) or choose another place", .0.display())]
    TooLarge(PathBuf),
    /// A file operation failed.
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The caller's callback asked to stop; nothing was written.
    #[error("stopped before the video was written")]
    Stopped,
    /// The format cannot hold these frames.
    #[error("cannot encode `{}`: {problem}", path.display())]
    Encode {
        /// The output path.
        path: PathBuf,
        /// The encoder's message.
        problem: String,
    },
}
