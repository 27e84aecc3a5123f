//! Video autoencoders: pixels to latents and back, as published. [`VideoVae`] is Open-Sora's, [`WanVae`] Wan's,
//! [`LatteVae`] Latte's, [`CausalVae`] Open-Sora-Plan's.
//!
//! Memory is bounded: all activations share allocations whose size is known in advance, because the same code first runs on a device that
//! only counts. Work that exceeds the budget is split; that does not change a bit of the result.

mod attention;
mod blocks;
mod cut;
mod heap;
mod image;
mod latte;
mod layers;
mod opensora;
mod osp;
mod wan;

pub use cut::Cut;
pub use image::SpatialConfig;
pub use latte::{LATTE_CHUNK, LatteVae, LatteVaeConfig};
pub use opensora::{CHUNK, TemporalConfig, VaeConfig, VideoVae};
pub use osp::{CausalAttention, CausalKind, CausalTiling, CausalVae, CausalVaeConfig, SpatialUpsample, TimeUpsample};
pub use wan::{Names, TinyScale, TinyVae, TinyVaeConfig, WanPath, WanResample, WanScale, WanVae, WanVaeConfig};
