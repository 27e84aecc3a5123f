//! Diffusion transformers and their parts. A [`Transformer`] defines how its pieces run and knows nothing about caching; [`Walk`] combines
//! them into a forward pass. Autoencoders are in [`vae`].

mod autoencoder;
mod container;
mod dit;
mod error;
mod fp8;
mod latte;
mod lora;
mod naming;
mod sizes;
mod stdit3;
pub mod text;
mod transformer;
pub mod vae;
mod walk;
mod wan;
mod weights;
mod workspace;

pub use autoencoder::{Autoencoder, PatchDecoder, Pixels, Progress};
pub use dit::arena::{ALWAYS, Layout, Samples, Slot, Stage};
pub use dit::streaming::{BlockWeights, SLOTS};
pub use error::ModelError;
pub use fp8::{Fp8Weights, check as check_fp8};
pub use latte::{Latte, LatteConfig, LatteKind};
pub use lora::LoraFile;
pub use sizes::{Flops, Geometry, TransformerShape, WeightBytes};
pub use stdit3::{StDiT3, StDiT3Config};
pub use transformer::{Added, Caption, Trace, Transformer};
pub use walk::Walk;
pub use wan::{Wan, WanConfig};
pub use weights::{Arrangement, Weights};
pub use workspace::{PREDICTION, ResidualRoom, TIME_CHUNKS, TIME_EMBED, Workspace, X};
