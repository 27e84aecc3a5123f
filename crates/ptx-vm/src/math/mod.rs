//! The arithmetic of PTX: pure leaf functions written from the manual, without registers, masks or memory.
//!
//! Functions for one lane are `#[inline(always)]` and branch-light so that the interpreter's loops over 32 lanes vectorise.

// A table of leaf functions: not every one is used on every path.
#![allow(dead_code)]

pub mod cvt;
pub mod descriptor;
pub mod f16;
pub mod float;
pub mod int;
pub mod matrix;
pub mod mma;
mod round;
mod soft;
pub mod special;
pub mod video;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
