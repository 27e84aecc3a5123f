//! Moves, packing, and addresses between state spaces.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, Where, handler, width};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::cluster::IsOwn;
use crate::step::ops::Zext8To16;
use crate::step::ops::*;

pub(crate) fn mov<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::Pred {
        return l.logic(f, 0);
    }
    if f.ty() == Ty::B128 {
        return mov_128(l, f);
    }
    let w = width(f.ty());
    match (&f.ops[0], &f.ops[1]) {
        (d, Operand::Vector(parts)) => join(l, d, parts, f.ty()),
        (Operand::Vector(parts), a) => split(l, parts, a, f.ty()),
        (d, a) => {
            let (a, own) = l.any(a, f.ty())?;
            let symbol = matches!(a, Val::Const(_)) && own == Where::W64;
            if own != w && w != Where::W16 && !symbol {
                return l.error(format!("the source has {} bits", 8 * own.bytes()));
            }
            let a = l.convert(a, own, w, f.ty().signed());
            let d = l.dst(d, f.ty())?;
            l.copy(d, a, w);
            Ok(())
        }
    }
}

/// `mov d, {a, b, …}`.
fn join<'a>(l: &mut Lower<'a>, d: &Operand<'a>, parts: &[Operand<'a>], ty: Ty) -> R {
    let part = ty.bytes() / parts.len().max(1);
    if part == 1 {
        let mut bytes = Vec::new();
        for p in parts {
            let (byte, low) = (l.src(p, Ty::B8)?, Val::Reg(l.fresh(Where::W16)));
            l.op::<UnOp<Zext8To16>>(low, &[byte], 0);
            bytes.push(low);
        }
        let d = l.dst(d, ty)?;
        join_bytes(l, d, &bytes);
        return Ok(());
    }
    let run = match (width(ty), parts.len()) {
        (Where::W32, 2) => handler::<Join<u32, u16, 2>>(),
        (Where::W64, 2) => handler::<Join<u64, u32, 2>>(),
        (Where::W64, 4) => handler::<Join<u64, u16, 4>>(),
        _ => return l.unknown("this many parts are not supported"),
    };
    let of = part_type(part);
    let mut list = vec![Val::None];
    for p in parts {
        list.push(l.src(p, of)?);
    }
    list[0] = l.dst(d, ty)?;
    l.push_list(run, list, 1, 0).pure_op = true;
    Ok(())
}

/// `mov {a, b, …}, s`.
fn split<'a>(l: &mut Lower<'a>, parts: &[Operand<'a>], a: &Operand<'a>, ty: Ty) -> R {
    let part = ty.bytes() / parts.len().max(1);
    if part == 1 {
        return split_bytes(l, parts, a, ty);
    }
    let run = match (width(ty), parts.len()) {
        (Where::W32, 2) => handler::<Split<u32, u16, 2>>(),
        (Where::W64, 2) => handler::<Split<u64, u32, 2>>(),
        (Where::W64, 4) => handler::<Split<u64, u16, 4>>(),
        _ => return l.unknown("this many parts are not supported"),
    };
    let a = l.src(a, ty)?;
    let mut list = Vec::new();
    for p in parts {
        list.push(if matches!(p, Operand::Name("_")) { Val::None } else { l.dst(p, part_type(part))? });
    }
    let defs = list.len();
    list.push(a);
    l.push_list(run, list, defs, 0).pure_op = true;
    Ok(())
}

/// Two or four bytes, each in the low half of 16 bits, to a half or word.
pub(crate) fn join_bytes(l: &mut Lower<'_>, d: Val, bytes: &[Val]) {
    let pair = |l: &mut Lower<'_>, a: Val, b: Val| {
        let d = Val::Reg(l.fresh(Where::W32));
        l.push_list(handler::<Join<u32, u16, 2>>(), vec![d, a, b], 1, 0).pure_op = true;
        d
    };
    let eight = l.imm(Where::W32, 8);
    if let [a, b, c, e] = *bytes {
        let (even, odd, high) = (pair(l, a, c), pair(l, b, e), Val::Reg(l.fresh(Where::W32)));
        l.op::<BinOp<Shl32>>(high, &[odd, eight], 0);
        l.op::<BinOp<Or32>>(d, &[even, high], 0);
    } else {
        let high = Val::Reg(l.fresh(Where::W16));
        l.op::<BinOp<Shl16>>(high, &[bytes[1], eight], 0);
        l.op::<BinOp<Or16>>(d, &[bytes[0], high], 0);
    }
}

/// The reverse: `mov.b32 {a, b, c, d}, s` and `mov.b16 {a, b}, s`.
fn split_bytes<'a>(l: &mut Lower<'a>, parts: &[Operand<'a>], source: &Operand<'a>, ty: Ty) -> R {
    let source = l.src(source, ty)?;
    let mut halves = vec![source];
    if ty.bytes() == 4 {
        halves = vec![Val::Reg(l.fresh(Where::W16)), Val::Reg(l.fresh(Where::W16))];
        l.push_list(handler::<Split<u32, u16, 2>>(), vec![halves[0], halves[1], source], 2, 0);
    }
    let eight = l.imm(Where::W32, 8);
    for (parts, half) in parts.chunks(2).zip(halves) {
        // The upper byte first: the lower one may go where the half is.
        for (part, upper) in parts.iter().zip([false, true]).rev() {
            let d = l.dst(part, Ty::B8)?;
            if upper {
                l.op::<BinOp<ShrU16>>(d, &[half, eight], 0);
            } else {
                l.op::<UnOp<Zext8To16>>(d, &[half], 0);
            }
        }
    }
    Ok(())
}

/// `mov.b128`: between 128-bit registers and pairs of 64-bit ones.
fn mov_128<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let halves = |l: &mut Lower<'a>, operand: &Operand<'a>, read: bool| match operand {
        Operand::Vector(parts) if parts.len() == 2 => {
            let one =
                |l: &mut Lower<'a>, i: usize| if read { l.src(&parts[i], Ty::B64) } else { l.dst(&parts[i], Ty::B64) };
            Ok([one(l, 0)?, one(l, 1)?])
        }
        operand => l.pair(operand),
    };
    let (from, to) = (halves(l, &f.ops[1], true)?, halves(l, &f.ops[0], false)?);
    for (d, a) in to.into_iter().zip(from) {
        l.copy(d, a, Where::W64);
    }
    Ok(())
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
    if f.has("shared") || f.has("shared::cta") || f.has("shared::cluster") {
        SHARED_WINDOW
    } else if f.has("local") {
        LOCAL_WINDOW
    } else if f.has("param") || f.has("param::entry") {
        PARAM_WINDOW
    } else {
        0
    }
}

pub(crate) fn cvta<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let base = window(f);
    let (a, own) = l.any(&f.ops[1], f.ty())?;
    let a = l.convert(a, own, Where::W64, false);
    let d = l.dst(&f.ops[0], f.ty())?;
    let w = width(f.ty());
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
    let p = l.dst_pred(&f.ops[0])?;
    let (a, own) = match l.reg_type(&f.ops[1]) {
        Some(ty) if ty.bytes() == 4 => (l.src(&f.ops[1], Ty::U32)?, Where::W32),
        _ => (l.src(&f.ops[1], Ty::U64)?, Where::W64),
    };
    let a = l.convert(a, own, Where::W64, false);
    if f.has("shared") || f.has("shared::cta") {
        let (own, zero) = (Val::Reg(l.fresh(Where::W32)), l.imm(Where::W32, 0));
        l.push(handler::<IsOwn>(), [own, a, Val::None, Val::None], 1, 0);
        l.push(handler::<SetpOp<Ne32>>(), [p, Val::Raw(0), own, zero], 2, 0);
        l.impure();
        return Ok(());
    }
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
