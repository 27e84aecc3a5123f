//! f32 and f64 arithmetic.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::{by_round, handler_pair, mode, xorsign};
use crate::ir::{Val, handler};
use crate::parse::Ty;
use crate::step::alu::*;
use crate::step::ops::*;

pub(crate) fn add<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.f32_bin_rounded(
        f,
        [
            handler_pair::<AddF32<0>>(),
            handler_pair::<AddF32<1>>(),
            handler_pair::<AddF32<2>>(),
            handler_pair::<AddF32<3>>(),
        ],
    )
}

pub(crate) fn sub<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.f32_bin_rounded(
        f,
        [
            handler_pair::<SubF32<0>>(),
            handler_pair::<SubF32<1>>(),
            handler_pair::<SubF32<2>>(),
            handler_pair::<SubF32<3>>(),
        ],
    )
}

pub(crate) fn mul<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.f32_bin_rounded(
        f,
        [
            handler_pair::<MulF32<0>>(),
            handler_pair::<MulF32<1>>(),
            handler_pair::<MulF32<2>>(),
            handler_pair::<MulF32<3>>(),
        ],
    )
}

pub(crate) fn div<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    l.f32_bin_rounded(
        f,
        [
            handler_pair::<DivF32<0>>(),
            handler_pair::<DivF32<1>>(),
            handler_pair::<DivF32<2>>(),
            handler_pair::<DivF32<3>>(),
        ],
    )
}

pub(crate) fn fma<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (mode(f), f.has("ftz")) {
        (0, false) => l.tri::<FmaF32<0>>(f)?,
        (1, false) => l.tri::<FmaF32<1>>(f)?,
        (2, false) => l.tri::<FmaF32<2>>(f)?,
        (_, false) => l.tri::<FmaF32<3>>(f)?,
        (0, true) => l.tri::<Ftz<FmaF32<0>>>(f)?,
        (1, true) => l.tri::<Ftz<FmaF32<1>>>(f)?,
        (2, true) => l.tri::<Ftz<FmaF32<2>>>(f)?,
        (_, true) => l.tri::<Ftz<FmaF32<3>>>(f)?,
    }
    let d = l.dst(&f.ops[0], Ty::F32)?;
    l.saturate(f, d)
}

pub(crate) fn min<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("NaN"), xorsign(l, f)?) {
        (false, false) => l.f32_bin::<MinF32>(f),
        (true, false) => l.f32_bin::<MinNanF32>(f),
        (false, true) => l.f32_bin::<MinXorF32>(f),
        (true, true) => l.f32_bin::<MinXorNanF32>(f),
    }
}

pub(crate) fn max<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("NaN"), xorsign(l, f)?) {
        (false, false) => l.f32_bin::<MaxF32>(f),
        (true, false) => l.f32_bin::<MaxNanF32>(f),
        (false, true) => l.f32_bin::<MaxXorF32>(f),
        (true, true) => l.f32_bin::<MaxXorNanF32>(f),
    }
}

pub(crate) fn copysign<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::F32 { l.bin::<CopysignF32>(f) } else { l.bin::<CopysignF64>(f) }
}

pub(crate) fn testp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let p = l.dst_pred(&f.ops[0])?;
    let a = l.src(&f.ops[1], f.ty())?;
    let wide = f.ty() == Ty::F64;
    macro_rules! pick {
        ($f32:ty, $f64:ty) => {
            if wide { handler::<SetpOp<$f64>>() } else { handler::<SetpOp<$f32>>() }
        };
    }
    let run = match f.mods[0] {
        "finite" => pick!(FiniteF32, FiniteF64),
        "infinite" => pick!(InfiniteF32, InfiniteF64),
        "number" => pick!(NumberF32, NumberF64),
        "notanumber" => pick!(NotANumberF32, NotANumberF64),
        "normal" => pick!(NormalF32, NormalF64),
        _ => pick!(SubnormalF32, SubnormalF64),
    };
    l.push(run, [p, Val::Raw(0), a, a], 2, 0);
    l.impure();
    Ok(())
}

pub(crate) fn add_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, bin, AddF64)
}

pub(crate) fn sub_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, bin, SubF64)
}

pub(crate) fn mul_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, bin, MulF64)
}

pub(crate) fn div_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, bin, DivF64)
}

pub(crate) fn fma_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, tri, FmaF64)
}

pub(crate) fn sqrt_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, un, SqrtF64)
}

pub(crate) fn rcp_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    by_round!(l, f, un, RcpF64)
}
