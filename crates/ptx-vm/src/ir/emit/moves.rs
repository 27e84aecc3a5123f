//! Moves, packing, and addresses between state spaces.

use super::super::lower::{Form, Lower, R, Val, width};
use super::super::module::Where;
use crate::exec::alu::*;
use crate::exec::op::handler;
use crate::exec::ops::*;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::parse::{Operand, Ty};

pub(crate) fn mov<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::Pred {
        return l.logic(f, 0);
    }
    let w = width(f.ty());
    match (&f.ops[0], &f.ops[1]) {
        (d, Operand::Vector(parts)) => {
            let part = f.ty().bytes() / parts.len().max(1);
            let run = match (w, parts.len()) {
                (Where::W32, 2) => handler::<Join<u32, u16, 2>>(),
                (Where::W64, 2) => handler::<Join<u64, u32, 2>>(),
                (Where::W64, 4) => handler::<Join<u64, u16, 4>>(),
                (Where::W32, 4) => handler::<Join<u32, u8, 4>>(),
                (Where::W16, 2) => handler::<Join<u16, u8, 2>>(),
                _ => return l.error("this many parts are not supported"),
            };
            let ty = part_type(part);
            let mut list = vec![Val::None];
            for p in parts {
                list.push(l.src(p, ty)?);
            }
            if part == 1 {
                return l.error("8-bit parts are not supported");
            }
            list[0] = l.dst(d, f.ty())?;
            l.push_list(run, list, 1, 0).pure_op = true;
            Ok(())
        }
        (Operand::Vector(parts), a) => {
            let part = f.ty().bytes() / parts.len().max(1);
            let run = match (w, parts.len()) {
                (Where::W32, 2) => handler::<Split<u32, u16, 2>>(),
                (Where::W64, 2) => handler::<Split<u64, u32, 2>>(),
                (Where::W64, 4) => handler::<Split<u64, u16, 4>>(),
                _ => return l.error("this many parts are not supported"),
            };
            let a = l.src(a, f.ty())?;
            let mut list = Vec::new();
            for p in parts {
                list.push(if matches!(p, Operand::Name("_")) { Val::None } else { l.dst(p, part_type(part))? });
            }
            let defs = list.len();
            list.push(a);
            l.push_list(run, list, defs, 0).pure_op = true;
            Ok(())
        }
        (d, a) => {
            let a = l.src(a, f.ty())?;
            let d = l.dst(d, f.ty())?;
            l.copy(d, a, w);
            Ok(())
        }
    }
}

fn part_type(bytes: usize) -> Ty {
    match bytes {
        1 => Ty::B8,
        2 => Ty::B16,
        4 => Ty::B32,
        _ => Ty::B64,
    }
}

/// The first address of a space's window in the generic address space.
fn window(f: &Form<'_, '_>) -> u64 {
    if f.has("shared") || f.has("shared::cta") {
        SHARED_WINDOW
    } else if f.has("local") {
        LOCAL_WINDOW
    } else if f.has("param") {
        PARAM_WINDOW
    } else {
        0
    }
}

pub(crate) fn cvta<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let base = window(f);
    let a = l.src(&f.ops[1], Ty::U64)?;
    let (d, w) = l.dst_any(&f.ops[0], Where::W64)?;
    if base == 0 {
        let a = l.convert(a, Where::W64, w, false);
        l.copy(d, a, w);
        return Ok(());
    }
    let base = l.imm(Where::W64, if f.has("to") { base.wrapping_neg() } else { base });
    if w == Where::W64 {
        l.op::<BinOp<Add64>>(d, &[a, base], 0);
    } else {
        let sum = Val::Reg(l.fresh(Where::W64));
        l.op::<BinOp<Add64>>(sum, &[a, base], 0);
        let narrow = l.convert(sum, Where::W64, w, false);
        l.copy(d, narrow, w);
    }
    Ok(())
}

pub(crate) fn isspacep<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, _) = l.pred(&f.ops[0])?;
    let a = l.src(&f.ops[1], Ty::U64)?;
    // Windows are 4 GiB wide at multiples of 64 GiB; global memory starts above them all.
    if f.has("global") || f.has("const") {
        let base = l.imm(Where::W64, crate::memory::GLOBAL_BASE);
        l.push(handler::<SetpOp<GeU64>>(), [p, Val::Raw(0), a, base], 2, 0);
    } else {
        let page = Val::Reg(l.fresh(Where::W64));
        let shift = l.imm(Where::W32, 36);
        l.op::<BinOp<ShrU64>>(page, &[a, shift], 0);
        let number = l.imm(Where::W64, window(f) >> 36);
        l.push(handler::<SetpOp<Eq64>>(), [p, Val::Raw(0), page, number], 2, 0);
    }
    l.impure();
    Ok(())
}
