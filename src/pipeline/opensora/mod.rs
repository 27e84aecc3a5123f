//! Open-Sora 1.2: its checkpoint, its text encoder, and the sizes it was published for.

mod checkpoint;
mod conditioning;
mod embed;
mod fit;
mod mojibake;
mod prompt;
mod size;
mod t5;

pub use checkpoint::{Checkpoint, CheckpointError, FileStatus, OPENSORA, Part, Pull, TextWeights, cache_dir};
pub use conditioning::{Given, MaskStrategy};
pub(super) use embed::{default_size, embed, pipeline_config};
pub(super) use fit::fitted;
pub use prompt::{Scores, prepare_prompt};
pub(super) use size::CHUNK;
pub use size::VideoSize;
pub use t5::{Embedding, EncoderError, T5};
