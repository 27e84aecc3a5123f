//! Extended-precision arithmetic: sums, differences and multiply-adds with the carry flag.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, Where, handler, width};
use crate::parse::Ty;
use crate::step::alu::*;
use crate::step::ops::*;

/// Extended-precision arithmetic; the carry is a predicate of the warp.
fn chain<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, subtract: bool, takes: bool, gives: bool) -> R {
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let d = l.dst(&f.ops[0], f.ty())?;
    emit(l, f.ty(), d, a, b, subtract, takes, gives);
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn emit(l: &mut Lower<'_>, ty: Ty, d: Val, a: Val, b: Val, subtract: bool, takes: bool, gives: bool) {
    let p = Val::Pred(l.carry());
    let imm = i64::from(subtract) | i64::from(takes) << 1 | i64::from(gives) << 2;
    let run = if width(ty) == Where::W32 { handler::<Carry<u32>>() } else { handler::<Carry<u64>>() };
    let raw = l.push(run, [d, a, b, p], 1, imm);
    raw.pure_op = !gives;
}

pub(crate) fn add<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    chain(l, f, false, false, true)
}

pub(crate) fn addc<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    chain(l, f, false, true, f.has("cc"))
}

pub(crate) fn sub<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    chain(l, f, true, false, true)
}

pub(crate) fn subc<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    chain(l, f, true, true, f.has("cc"))
}

pub(crate) fn mad<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let takes = f.name == "madc";
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let c = l.src(&f.ops[3], f.ty())?;
    let d = l.dst(&f.ops[0], f.ty())?;
    let product = Val::Reg(l.fresh(width(f.ty())));
    match (f.ty(), f.has("hi")) {
        (Ty::U32 | Ty::S32, false) => l.op::<BinOp<Mul32>>(product, &[a, b], 0),
        (_, false) => l.op::<BinOp<Mul64>>(product, &[a, b], 0),
        (Ty::U32, true) => l.op::<BinOp<MulHiU32>>(product, &[a, b], 0),
        (Ty::S32, true) => l.op::<BinOp<MulHiS32>>(product, &[a, b], 0),
        (Ty::U64, true) => l.op::<BinOp<MulHiU64>>(product, &[a, b], 0),
        (_, true) => l.op::<BinOp<MulHiS64>>(product, &[a, b], 0),
    };
    emit(l, f.ty(), d, product, c, false, takes, f.has("cc"));
    Ok(())
}
