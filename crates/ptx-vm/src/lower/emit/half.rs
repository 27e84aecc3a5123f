//! f16 and bf16 arithmetic, single and in pairs.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::xorsign;
use crate::parse::Ty;
use crate::step::ops::*;

pub(crate) fn fma<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("ftz") {
        return match (f.ty(), f.has("relu"), f.has("sat")) {
            (Ty::F16, false, false) => l.tri::<FtzHalf<HalfFma<false, false, false>>>(f),
            (Ty::F16, true, _) => l.tri::<FtzHalf<HalfFma<false, true, false>>>(f),
            (Ty::F16, _, true) => l.tri::<FtzHalf<HalfFma<false, false, true>>>(f),
            (Ty::F16x2, false, false) => l.tri::<FtzHalf2<HalfFma2<false, false, false>>>(f),
            (Ty::F16x2, true, _) => l.tri::<FtzHalf2<HalfFma2<false, true, false>>>(f),
            (Ty::F16x2, _, true) => l.tri::<FtzHalf2<HalfFma2<false, false, true>>>(f),
            _ => l.unknown("`.ftz` is for f16 only"),
        };
    }
    match (f.ty(), f.has("relu"), f.has("sat")) {
        (Ty::F16, false, false) => l.tri::<HalfFma<false, false, false>>(f),
        (Ty::F16, true, _) => l.tri::<HalfFma<false, true, false>>(f),
        (Ty::F16, _, true) => l.tri::<HalfFma<false, false, true>>(f),
        (Ty::F16x2, false, false) => l.tri::<HalfFma2<false, false, false>>(f),
        (Ty::F16x2, true, _) => l.tri::<HalfFma2<false, true, false>>(f),
        (Ty::F16x2, _, true) => l.tri::<HalfFma2<false, false, true>>(f),
        (Ty::Bf16, false, _) => l.tri::<HalfFma<true, false, false>>(f),
        (Ty::Bf16, true, _) => l.tri::<HalfFma<true, true, false>>(f),
        (_, false, _) => l.tri::<HalfFma2<true, false, false>>(f),
        (_, true, _) => l.tri::<HalfFma2<true, true, false>>(f),
    }
}

pub(crate) fn min<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("NaN"), xorsign(l, f)?) {
        (false, false) => l.half_bin::<MinF32>(f),
        (true, false) => l.half_bin::<MinNanF32>(f),
        (false, true) => l.half_xorsign::<MinF32>(f),
        (true, true) => l.half_xorsign::<MinNanF32>(f),
    }
}

pub(crate) fn max<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("NaN"), xorsign(l, f)?) {
        (false, false) => l.half_bin::<MaxF32>(f),
        (true, false) => l.half_bin::<MaxNanF32>(f),
        (false, true) => l.half_xorsign::<MaxF32>(f),
        (true, true) => l.half_xorsign::<MaxNanF32>(f),
    }
}

pub(crate) fn abs<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty().bytes() == 2, f.has("ftz")) {
        (true, false) => l.un::<AbsHalf>(f),
        (false, false) => l.un::<AbsHalf2>(f),
        (true, true) => l.un::<FtzHalf<AbsHalf>>(f),
        (false, true) => l.un::<FtzHalf2<AbsHalf2>>(f),
    }
}

pub(crate) fn neg<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty().bytes() == 2, f.has("ftz")) {
        (true, false) => l.un::<NegHalf>(f),
        (false, false) => l.un::<NegHalf2>(f),
        (true, true) => l.un::<FtzHalf<NegHalf>>(f),
        (false, true) => l.un::<FtzHalf2<NegHalf2>>(f),
    }
}
