//! The arithmetic of PTX: pure leaf functions written from the manual, without registers, masks or memory.
//!
//! Functions for one lane are `#[inline(always)]` and branch-light so that the interpreter's loops over 32 lanes vectorise.

pub mod f16;
pub mod float;
pub mod mma;

#[cfg(test)]
mod testing;
