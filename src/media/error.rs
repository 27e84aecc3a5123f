//! Why a result cannot be written.

use std::path::PathBuf;

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The path's ending names no format.
    #[error(
        "cannot tell what to write to `{}`: end it in .mp4 or .gif (video), .safetensors (latents) or / (a folder of PNG frames)",
        .0.display()
    )]
    UnknownFormat(PathBuf),
    /// The folder that should hold the output is missing.
    #[error("cannot write `{}`: the folder `{}` does not exist; create it or choose another path", path.display(), parent.display())]
    NoParent {
        /// The output path.
        path: PathBuf,
        /// Its missing folder.
        parent: PathBuf,
    },
    /// A folder stands where a file should go, or the other way round.
    #[error("cannot write `{}`: {problem}", path.display())]
    Occupied {
        /// The output path.
        path: PathBuf,
        /// What is in the way.
        problem: &'static str,
    },
    /// The file system said no.
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The frames do not suit the format.
    #[error("cannot encode `{}`: {problem}", path.display())]
    Encode {
        /// The output path.
        path: PathBuf,
        /// What the encoder complains about.
        problem: String,
    },
}
