//! Integer arithmetic and bit fields.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, handler};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::ops::*;

macro_rules! ints {
    ($vis:vis $name:ident: $shape:ident $u16:ty, $u32:ty, $u64:ty, $s16:ty, $s32:ty, $s64:ty) => {
        $vis fn $name<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
            match f.ty() {
                Ty::U16 => l.$shape::<$u16>(f),
                Ty::U32 => l.$shape::<$u32>(f),
                Ty::U64 => l.$shape::<$u64>(f),
                Ty::S16 => l.$shape::<$s16>(f),
                Ty::S32 => l.$shape::<$s32>(f),
                _ => l.$shape::<$s64>(f),
            }
        }
    };
}
ints!(add_plain: bin Add16, Add32, Add64, Add16, Add32, Add64);
ints!(sub_plain: bin Sub16, Sub32, Sub64, Sub16, Sub32, Sub64);
ints!(mul_lo: bin Mul16, Mul32, Mul64, Mul16, Mul32, Mul64);
ints!(mul_hi: bin MulHiU16, MulHiU32, MulHiU64, MulHiS16, MulHiS32, MulHiS64);
ints!(mad_lo: tri Mad16, Mad32, Mad64, Mad16, Mad32, Mad64);
ints!(mad_hi: tri MadHiU16, MadHiU32, MadHiU64, MadHiS16, MadHiS32, MadHiS64);
ints!(pub(crate) sad: tri SadU16, SadU32, SadU64, SadS16, SadS32, SadS64);
ints!(pub(crate) div: bin DivU16, DivU32, DivU64, DivS16, DivS32, DivS64);
ints!(pub(crate) rem: bin RemU16, RemU32, RemU64, RemS16, RemS32, RemS64);
ints!(min_plain: bin MinU16, MinU32, MinU64, MinS16, MinS32, MinS64);
ints!(max_plain: bin MaxU16, MaxU32, MaxU64, MaxS16, MaxS32, MaxS64);

pub(crate) fn add<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("sat"), f.ty()) {
        (true, Ty::S32) => l.bin::<AddSatS32>(f),
        (true, _) => l.unknown("`.sat` is for s32 only"),
        _ => add_plain(l, f),
    }
}

pub(crate) fn sub<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("sat"), f.ty()) {
        (true, Ty::S32) => l.bin::<SubSatS32>(f),
        (true, _) => l.unknown("`.sat` is for s32 only"),
        _ => sub_plain(l, f),
    }
}

pub(crate) fn mul<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("lo") {
        return mul_lo(l, f);
    }
    if f.has("hi") {
        return mul_hi(l, f);
    }
    match f.ty() {
        Ty::U16 => l.bin_of::<MulWideU16>(f, Ty::U32, Ty::U16, Ty::U16),
        Ty::S16 => l.bin_of::<MulWideS16>(f, Ty::S32, Ty::S16, Ty::S16),
        Ty::U32 => l.bin_of::<MulWideU32>(f, Ty::U64, Ty::U32, Ty::U32),
        Ty::S32 => l.bin_of::<MulWideS32>(f, Ty::S64, Ty::S32, Ty::S32),
        _ => l.unknown("`.wide` is for 16 and 32 bits"),
    }
}

pub(crate) fn mad<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("sat") {
        return if f.has("hi") && f.ty() == Ty::S32 {
            l.tri::<MadHiSatS32>(f)
        } else {
            l.unknown("`.sat` is for mad.hi.s32 only")
        };
    }
    if f.has("lo") {
        return mad_lo(l, f);
    }
    if f.has("hi") {
        return mad_hi(l, f);
    }
    match f.ty() {
        Ty::U16 => l.tri_of::<MadWideU16>(f, Ty::U32, [Ty::U16, Ty::U16, Ty::U32]),
        Ty::S16 => l.tri_of::<MadWideS16>(f, Ty::S32, [Ty::S16, Ty::S16, Ty::S32]),
        Ty::U32 => l.tri_of::<MadWideU32>(f, Ty::U64, [Ty::U32, Ty::U32, Ty::U64]),
        Ty::S32 => l.tri_of::<MadWideS32>(f, Ty::S64, [Ty::S32, Ty::S32, Ty::S64]),
        _ => l.unknown("`.wide` is for 16 and 32 bits"),
    }
}

pub(crate) fn mul24<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("hi")) {
        (Ty::U32, false) => l.bin::<Mul24LoU>(f),
        (Ty::U32, true) => l.bin::<Mul24HiU>(f),
        (_, false) => l.bin::<Mul24LoS>(f),
        _ => l.bin::<Mul24HiS>(f),
    }
}

pub(crate) fn mad24<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("hi")) {
        (Ty::S32, true) if f.has("sat") => l.tri::<Mad24HiSatS>(f),
        _ if f.has("sat") => l.unknown("`.sat` is for mad24.hi.s32 only"),
        (Ty::U32, false) => l.tri::<Mad24LoU>(f),
        (Ty::U32, true) => l.tri::<Mad24HiU>(f),
        (_, false) => l.tri::<Mad24LoS>(f),
        _ => l.tri::<Mad24HiS>(f),
    }
}

pub(crate) fn min<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::U16x2 => l.bin::<MinU16x2>(f),
        Ty::S16x2 => l.bin::<MinS16x2>(f),
        _ => min_plain(l, f),
    }
}

pub(crate) fn max<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::U16x2 => l.bin::<MaxU16x2>(f),
        Ty::S16x2 => l.bin::<MaxS16x2>(f),
        _ => max_plain(l, f),
    }
}

/// `.relu`: what was just computed, or 0.
fn relu<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], f.ty())?;
    let zero = l.src(&Operand::Int(0), f.ty())?;
    match f.ty() {
        Ty::S32 => l.op::<BinOp<MaxS32>>(d, &[d, zero], 0),
        _ => l.op::<BinOp<MaxS16x2>>(d, &[d, zero], 0),
    };
    Ok(())
}

pub(crate) fn min_relu<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    min(l, f)?;
    relu(l, f)
}

pub(crate) fn max_relu<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    max(l, f)?;
    relu(l, f)
}

pub(crate) fn bfind<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("shiftamt")) {
        (Ty::U32, false) => l.un_to::<BfindU32>(f, Ty::U32),
        (Ty::S32, false) => l.un_to::<BfindS32>(f, Ty::U32),
        (Ty::U64, false) => l.un_to::<BfindU64>(f, Ty::U32),
        (_, false) => l.un_to::<BfindS64>(f, Ty::U32),
        (Ty::U32, true) => l.un_to::<BfindShU32>(f, Ty::U32),
        (Ty::S32, true) => l.un_to::<BfindShS32>(f, Ty::U32),
        (Ty::U64, true) => l.un_to::<BfindShU64>(f, Ty::U32),
        (_, true) => l.un_to::<BfindShS64>(f, Ty::U32),
    }
}

pub(crate) fn bfe<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.within(&f.ops[2], 0..=255, "the first bit")?;
    l.within(&f.ops[3], 0..=255, "the number of bits")?;
    let types = [f.ty(), Ty::U32, Ty::U32];
    match f.ty() {
        Ty::U32 => l.tri_of::<BfeU32>(f, Ty::U32, types),
        Ty::S32 => l.tri_of::<BfeS32>(f, Ty::S32, types),
        Ty::U64 => l.tri_of::<BfeU64>(f, Ty::U64, types),
        _ => l.tri_of::<BfeS64>(f, Ty::S64, types),
    }
}

pub(crate) fn bfi<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let mut list = vec![Val::None];
    for (i, ty) in [f.ty(), f.ty(), Ty::U32, Ty::U32].into_iter().enumerate() {
        list.push(l.src(&f.ops[1 + i], ty)?);
    }
    list[0] = l.dst(&f.ops[0], f.ty())?;
    let run = if f.ty() == Ty::B32 { handler::<Bfi<u32>>() } else { handler::<Bfi<u64>>() };
    l.push_list(run, list, 1, 0);
    Ok(())
}

pub(crate) fn dp4a<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.types[0], f.types[1]) {
        (Ty::U32, Ty::U32) => l.tri::<Dp4aUU>(f),
        (Ty::S32, Ty::S32) => l.tri::<Dp4aSS>(f),
        (Ty::S32, _) => l.tri::<Dp4aSU>(f),
        _ => l.tri::<Dp4aUS>(f),
    }
}

pub(crate) fn dp2a<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.types[0], f.types[1], f.has("hi")) {
        (Ty::U32, Ty::U32, false) => l.tri::<Dp2aLoUU>(f),
        (Ty::S32, Ty::S32, false) => l.tri::<Dp2aLoSS>(f),
        (Ty::S32, _, false) => l.tri::<Dp2aLoSU>(f),
        (_, _, false) => l.tri::<Dp2aLoUS>(f),
        (Ty::U32, Ty::U32, true) => l.tri::<Dp2aHiUU>(f),
        (Ty::S32, Ty::S32, true) => l.tri::<Dp2aHiSS>(f),
        (Ty::S32, _, true) => l.tri::<Dp2aHiSU>(f),
        (_, _, true) => l.tri::<Dp2aHiUS>(f),
    }
}

pub(crate) fn abs<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::S16 => l.un::<Abs16>(f),
        Ty::S32 => l.un::<Abs32>(f),
        _ => l.un::<Abs64>(f),
    }
}

pub(crate) fn neg<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::S16 => l.un::<Neg16>(f),
        Ty::S32 => l.un::<Neg32>(f),
        _ => l.un::<Neg64>(f),
    }
}

pub(crate) fn popc<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::B32 { l.un_to::<Popc32>(f, Ty::U32) } else { l.un_to::<Popc64>(f, Ty::U32) }
}

pub(crate) fn clz<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::B32 { l.un_to::<Clz32>(f, Ty::U32) } else { l.un_to::<Clz64>(f, Ty::U32) }
}

pub(crate) fn brev<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::B32 { l.un::<Brev32>(f) } else { l.un::<Brev64>(f) }
}

pub(crate) fn fns<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.tri_of::<Fns>(f, Ty::B32, [Ty::B32, Ty::B32, Ty::S32])
}

pub(crate) fn bmsk<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("wrap") { l.bin::<BmskWrap>(f) } else { l.bin::<Bmsk>(f) }
}

pub(crate) fn szext<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("wrap")) {
        (Ty::U32, false) => l.bin_of::<SzextU>(f, Ty::U32, Ty::U32, Ty::U32),
        (Ty::U32, true) => l.bin_of::<SzextUWrap>(f, Ty::U32, Ty::U32, Ty::U32),
        (_, false) => l.bin_of::<SzextS>(f, Ty::U32, Ty::U32, Ty::U32),
        _ => l.bin_of::<SzextSWrap>(f, Ty::U32, Ty::U32, Ty::U32),
    }
}
