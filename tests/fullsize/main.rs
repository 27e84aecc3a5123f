//! Transformers in their published sizes: what the loaders expect, and, in the long mode, random checkpoints that are loaded and run a part of.

#[path = "../common/mod.rs"]
mod common;
mod opensora;
mod wan;
