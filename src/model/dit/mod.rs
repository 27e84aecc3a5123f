//! What diffusion transformers have in common: linear layers, block weights that stream through the device, activations in one allocation.

pub(super) mod arena;
pub(super) mod linear;
pub(super) mod parts;
pub(super) mod streaming;
