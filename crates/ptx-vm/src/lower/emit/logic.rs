//! Logic, shifts and byte permutation.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, Where, handler};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::ops::*;

pub(crate) fn and<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::Pred => l.logic(f, 1),
        Ty::B16 => l.bin::<And16>(f),
        Ty::B32 => l.bin::<And32>(f),
        _ => l.bin::<And64>(f),
    }
}

pub(crate) fn or<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::Pred => l.logic(f, 2),
        Ty::B16 => l.bin::<Or16>(f),
        Ty::B32 => l.bin::<Or32>(f),
        _ => l.bin::<Or64>(f),
    }
}

pub(crate) fn xor<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::Pred => l.logic(f, 3),
        Ty::B16 => l.bin::<Xor16>(f),
        Ty::B32 => l.bin::<Xor32>(f),
        _ => l.bin::<Xor64>(f),
    }
}

pub(crate) fn not<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::Pred => l.logic(f, 4),
        Ty::B16 => l.un::<Not16>(f),
        Ty::B32 => l.un::<Not32>(f),
        _ => l.un::<Not64>(f),
    }
}

pub(crate) fn cnot<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::B16 => l.un::<Cnot16>(f),
        Ty::B32 => l.un::<Cnot32>(f),
        _ => l.un::<Cnot64>(f),
    }
}

pub(crate) fn lop3<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B32)?;
    lop3_to(l, f, d)
}

/// `lop3.or` and `lop3.and`: also a predicate.
pub(crate) fn lop3_or_and<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Pair(d, p) = &f.ops[0] else { return l.unknown("two destinations expected: d|p") };
    let (d, p, (q, negated)) = (l.dst(d, Ty::B32)?, l.dst_pred(p)?, l.pred(&f.ops[5])?);
    lop3_to(l, f, d)?;
    let zero = l.imm(Where::W32, 0);
    let how = if f.has("and") { 1 } else { 2 };
    let raw = l.push(handler::<SetpOp<Ne32>>(), [p, Val::Raw(0), d, zero], 2, how | i64::from(negated) << 3);
    raw.aux = q;
    raw.pure_op = false;
    Ok(())
}

fn lop3_to<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, d: Val) -> R {
    let Operand::Int(table) = f.ops[4] else { return l.unknown("the truth table is a constant") };
    let a = l.src(&f.ops[1], Ty::B32)?;
    let b = l.src(&f.ops[2], Ty::B32)?;
    let c = l.src(&f.ops[3], Ty::B32)?;
    // The tables compilers use most are compiled by themselves.
    macro_rules! tables {
        ($($t:literal)*) => {
            match table {
                $($t => handler::<TriOp<Lop3<$t>>>(),)*
                _ => handler::<Lop3Any>(),
            }
        };
    }
    let run = tables!(0x96 0xfe 0x80 0xca 0xe8 0xf8 0xea 0xe2 0x78 0x6a 0x56 0x1e 0xa8 0xec 0xc8 0xd8 0xb8 0xac);
    l.push(run, [d, a, b, c], 1, (table & 255) as i64);
    Ok(())
}

pub(crate) fn shl<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::B16 => l.bin_of::<Shl16>(f, Ty::B16, Ty::B16, Ty::U32),
        Ty::B32 => l.bin_of::<Shl32>(f, Ty::B32, Ty::B32, Ty::U32),
        _ => l.bin_of::<Shl64>(f, Ty::B64, Ty::B64, Ty::U32),
    }
}

pub(crate) fn shr<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = f.ty();
    match t {
        Ty::B16 | Ty::U16 => l.bin_of::<ShrU16>(f, t, t, Ty::U32),
        Ty::B32 | Ty::U32 => l.bin_of::<ShrU32>(f, t, t, Ty::U32),
        Ty::B64 | Ty::U64 => l.bin_of::<ShrU64>(f, t, t, Ty::U32),
        Ty::S16 => l.bin_of::<ShrS16>(f, t, t, Ty::U32),
        Ty::S32 => l.bin_of::<ShrS32>(f, t, t, Ty::U32),
        _ => l.bin_of::<ShrS64>(f, t, t, Ty::U32),
    }
}

pub(crate) fn shf<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("l"), f.has("wrap")) {
        (true, true) => l.tri::<ShfLWrap>(f),
        (true, false) => l.tri::<ShfLClamp>(f),
        (false, true) => l.tri::<ShfRWrap>(f),
        (false, false) => l.tri::<ShfRClamp>(f),
    }
}

pub(crate) fn prmt<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.mods.first().copied() {
        None => l.tri::<Prmt>(f),
        Some("f4e") => l.tri::<PrmtF4e>(f),
        Some("b4e") => l.tri::<PrmtB4e>(f),
        Some("rc8") => l.tri::<PrmtRc8>(f),
        Some("ecl") => l.tri::<PrmtEcl>(f),
        Some("ecr") => l.tri::<PrmtEcr>(f),
        Some(_) => l.tri::<PrmtRc16>(f),
    }
}
