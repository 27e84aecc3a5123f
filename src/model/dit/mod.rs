//! Common parts of diffusion transformers: linear layers, block weights streamed through the device, activations in one allocation.

pub(super) mod arena;
pub(super) mod linear;
pub(super) mod parts;
pub(super) mod streaming;
