//! Published checkpoints: their files, where they are stored on disk, and how they are downloaded.
//!
//! A checkpoint is a folder with one subfolder per part. [`Pull`] fills it with links to files that the hub's client downloaded, or to
//! existing files, so nothing is stored twice.

mod checkpoint;
mod digest;
mod error;
mod files;
mod published;
mod pull;

pub use checkpoint::{Checkpoint, FileStatus, TextWeights, cache_dir};
pub(crate) use digest::hex;
pub use digest::sha256;
pub use error::CheckpointError;
pub use published::{Part, Published, PublishedPart};
pub use pull::Pull;
