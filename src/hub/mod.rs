//! Published checkpoints: the files they are made of, where they lie on disk, and how they get there.
//!
//! A checkpoint is a folder with others, one a part. [`Pull`] fills it with links to files that the hub's client downloaded, or to files that
//! are there already, so nothing lies on disk twice.

mod checkpoint;
mod error;
mod files;
mod published;
mod pull;

pub use checkpoint::{Checkpoint, FileStatus, TextWeights, cache_dir};
pub use error::CheckpointError;
pub use published::{Part, Published, PublishedPart};
pub use pull::Pull;
