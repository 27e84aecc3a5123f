//! Whole models and whole runs, in one binary: families, policies, solvers, batches, streamed weights, the autoencoder, and all of it
//! against published code.

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod decoders;
mod experts;
mod family;
mod latte;
mod parity;
mod policies;
mod ranks;
mod requests;
mod solver;
mod sprites_wan;
mod streaming;
mod tiny_vae;
mod vae;
mod wan;
mod wan_vae;
