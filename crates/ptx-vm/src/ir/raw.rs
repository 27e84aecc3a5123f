//! Instructions over virtual registers, on their way from the text to [`super::Op`]s.

use super::meta::Meta;
use super::op::Handler;
use crate::math::mma::Staged;

/// A decoded operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Val {
    /// Virtual register.
    Reg(u32),
    Pred(u32),
    /// Entry of the constant pool.
    Const(u32),
    /// A literal for the handler.
    Raw(u32),
    /// `_`.
    None,
}

/// How control goes on after an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Jump(u32),
    /// Taken where the guard holds.
    Branch(u32),
    /// With a guard: only those lanes.
    Exit,
    /// Out of a function with code of its own; with a guard, only those lanes.
    Ret,
    /// Of a unit's code.
    Call(usize),
    Trap,
    Label(u32),
}

/// One instruction over virtual registers.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) run: Handler,
    pub(crate) r: [Val; 4],
    pub(crate) list: Vec<Val>,
    pub(crate) defs: Vec<u32>,
    pub(crate) uses: Vec<u32>,
    pub(crate) imm: i64,
    pub(crate) aux: Val,
    pub(crate) cached: bool,
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) flow: Flow,
    /// r[0] = r[1]: may be dissolved.
    pub(crate) copy: bool,
    /// May be dropped when nobody uses the result.
    pub(crate) pure_op: bool,
    pub(crate) meta: Meta,
    /// Instructions before (or behind) this one of which nothing is left.
    pub(crate) dissolved: Vec<Meta>,
    /// Address operand of the access (its slot is filled in at the end).
    pub(crate) access_addr: Val,
    /// Of a multiplication whose operands may be prepared.
    pub(crate) staged: Option<&'static Staged>,
}

/// What a guard's predicate is combined with by exclusive or.
pub(crate) fn negation(negated: bool) -> u32 {
    if negated { !0 } else { 0 }
}
