//! From syntax to kernels: the instruction set table, lowering, control flow, register slots.
//!
//! The builder stands below: names, operands and emission. What an instruction becomes is written in `emit`, and listed in the table.
//! Statements look instructions up there; a call lowers the statements of the callee.

mod builder;
mod call;
mod calls;
mod emit;
mod entry;
mod finish;
mod flow;
mod form;
mod isa;
mod module;
mod operands;
mod print;
mod stage;
mod statements;

pub use isa::{Coverage, coverage};
pub use module::Module;
