//! Control and hints.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Flow, Val, Where, handler, width};
use crate::parse::{Operand, Ty};
use crate::step::{call, control as flow};

pub(crate) fn ret<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.ret();
    Ok(())
}

pub(crate) fn exit<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.flow(Flow::Exit);
    Ok(())
}

pub(crate) fn nanosleep<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<flow::Yield>(), [Val::None; 4], 0)
}

pub(crate) fn nop<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<flow::Nop>(), [Val::None; 4], 0)
}

/// `setmaxnreg`.
pub(crate) fn registers<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ops[0] {
        Operand::Int(n) if (24..=256).contains(&n) && n % 8 == 0 => nop(l, f),
        _ => l.error("the number of registers has to be a constant multiple of 8 from 24 to 256"),
    }
}

pub(crate) fn trap<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    if l.guarded() {
        // A guarded trap does not end the block.
        return l.effect(handler::<flow::TrapOp>(), [Val::None; 4], 0);
    }
    l.flow(Flow::Trap);
    Ok(())
}

pub(crate) fn alloca<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let bytes = l.src(&f.ops[1], f.ty())?;
    let bytes = l.convert(bytes, width(f.ty()), Where::W64, false);
    let align = match f.ops.get(2) {
        None => 8,
        Some(Operand::Int(n)) if (1..=1 << 23).contains(n) && (*n & (*n - 1)) == 0 => *n as i64,
        Some(_) => return l.unknown("the alignment is a power of two up to 2^23"),
    };
    l.allocates = true;
    let d = l.dst(&f.ops[0], f.ty())?;
    let at = Val::Reg(l.fresh(Where::W64));
    l.op::<call::Alloca>(at, &[bytes], align.max(8));
    l.impure();
    let at = l.convert(at, Where::W64, width(f.ty()), false);
    l.copy(d, at, width(f.ty()));
    Ok(())
}

pub(crate) fn stacksave<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], f.ty())?;
    let at = Val::Reg(l.fresh(Where::W64));
    l.op::<call::StackPointer>(at, &[], 0);
    l.impure();
    let at = l.convert(at, Where::W64, width(f.ty()), false);
    l.copy(d, at, width(f.ty()));
    Ok(())
}

pub(crate) fn stackrestore<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let a = l.src(&f.ops[0], f.ty())?;
    let a = l.convert(a, width(f.ty()), Where::W64, false);
    l.effect(handler::<call::StackPointer>(), [Val::None, a, Val::None, Val::None], 0)
}

pub(crate) fn policy<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B64)?;
    let zero = l.imm(Where::W64, 0);
    l.copy(d, zero, Where::W64);
    Ok(())
}
