//! Writing of results: H.264 in MP4, animated GIF, a folder of PNG frames, or the latents as safetensors; and reading of these and other
//! common formats.
//!
//! Every writer first writes under a temporary name in the target's folder and renames at the end, so a target path holds either the
//! finished file or its previous content. Everything is plain Rust: a machine with `cargo` can build it.

mod boxes;
mod canvas;
mod colours;
mod demux;
mod edits;
mod encoding;
mod error;
mod frames;
mod gif;
mod h264;
mod latents;
mod mp4;
mod order;
mod output;
mod pace;
mod picture;
mod png;
mod pool;
mod profile;
mod read;
mod settings;
mod shell;
mod staging;
mod turn;

pub use encoding::Encoding;
pub use error::OutputError;
pub use frames::{Frames, Latents, Metadata};
pub use order::natural_order;
pub(crate) use order::{entries, is_picture};
pub use output::{Format, Output, check_file_writable, write_file};
pub use read::{Media, ReadError};
pub use staging::{Folders, is_stream};
