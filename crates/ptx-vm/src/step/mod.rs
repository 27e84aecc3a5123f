//! The instructions: what executes each of them for the lanes of a warp.

pub(crate) mod alu;
pub(crate) mod atomic;
pub(crate) mod bulk;
pub(crate) mod call;
pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod copy;
pub(crate) mod find;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod mem;
pub(crate) mod ops;
mod printf;
pub(crate) mod runtime;
pub(crate) mod tensor;
pub(crate) mod warp;
pub(crate) mod wgmma;
