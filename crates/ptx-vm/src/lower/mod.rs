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
mod layout;
mod module;
mod operands;
mod print;
mod slots;
mod stage;
mod statements;
mod table;
mod tidy;

pub use isa::{Coverage, coverage};
pub use module::Module;
