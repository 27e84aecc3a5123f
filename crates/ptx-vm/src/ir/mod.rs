//! From syntax to kernels: the instruction set table, lowering, control flow, register slots.

pub(crate) mod calls;
mod emit;
mod finish;
mod flow;
mod isa;
mod lower;
mod module;
mod print;
pub(crate) mod stage;

pub use isa::{Coverage, coverage};
pub use lower::Class;
pub(crate) use lower::{Access, AccessKind, Meta, RESERVED};
pub(crate) use module::{ConstSource, Special, Where};
pub use module::{Kernel, Module, Param};
