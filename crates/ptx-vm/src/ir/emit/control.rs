//! Control and hints.

use super::super::lower::{Flow, Form, Lower, R, Val};
use super::super::module::Where;
use crate::exec::control;
use crate::exec::op::handler;
use crate::parse::Ty;

pub(crate) fn ret<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.ret();
    Ok(())
}

pub(crate) fn exit<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.flow(Flow::Exit);
    Ok(())
}

pub(crate) fn nanosleep<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<control::Yield>(), [Val::None; 4], 0)
}

pub(crate) fn nop<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<control::Nop>(), [Val::None; 4], 0)
}

pub(crate) fn trap<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    if l.guarded() {
        // A guarded trap does not end the block.
        return l.effect(handler::<control::TrapOp>(), [Val::None; 4], 0);
    }
    l.flow(Flow::Trap);
    Ok(())
}

pub(crate) fn policy<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B64)?;
    let zero = l.imm(Where::W64, 0);
    l.copy(d, zero, Where::W64);
    Ok(())
}
