//! Video autoencoders: pixels to latents and back, as published. [`VideoVae`] is Open-Sora's, [`WanVae`] Wan's.
//!
//! Memory is bounded: all activations share allocations whose size is known in advance, because the same code first runs on a device that
//! only counts. Work that exceeds the budget is split; that does not change a bit of the result.

mod attention;
mod cut;
mod heap;
mod layers;
mod opensora;
mod wan;

pub use cut::Cut;
pub use opensora::{CHUNK, SpatialConfig, TemporalConfig, VaeConfig, VideoVae};
pub use wan::{Names, WanPath, WanResample, WanScale, WanVae, WanVaeConfig};
