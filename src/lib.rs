//! Video generation with diffusion transformers on hand-written CUDA kernels, with Adaptive Caching.

pub mod device;
pub mod ops;
pub mod tensor;
