//! Common parts of diffusion transformers: linear layers, block weights streamed through the device, activations in one allocation, and
//! the maths that adaLN-modulated blocks share.

pub(super) mod arena;
pub(super) mod buffers;
pub(super) mod captions;
pub(super) mod launches;
pub(super) mod linear;
pub(super) mod parts;
pub(super) mod pieces;
pub(super) mod streaming;
pub(super) mod time;
pub(super) mod work;
