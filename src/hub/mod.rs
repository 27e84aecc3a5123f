//! Published checkpoints: their files, where they are stored on disk, and how they are downloaded.
//!
//! A checkpoint is a folder with one subfolder per part. [`Pull`] fills it with links to files in a cache of the hub, into which it downloads
//! them, or to existing files, so nothing is stored twice.

mod checkpoint;
mod client;
mod digest;
mod download;
mod error;
mod files;
mod forward;
mod layout;
mod net;
mod published;
mod pull;
mod settings;
mod store;

pub use checkpoint::{Checkpoint, FileStatus, cache_dir};
pub(crate) use digest::hex;
pub use digest::sha256;
pub use error::{CheckpointError, Half, HubError};
pub use published::{OtherPart, OtherRepository, Part, Published, PublishedFile, PublishedForm, PublishedPart};
pub use pull::Pull;
