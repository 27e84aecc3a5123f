//! Roots and reciprocals of f32 in every rounding.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::mode;
use crate::step::ops::*;

pub(crate) fn sqrt<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match mode(f) {
        0 => l.f32_un::<SqrtF32<0>>(f),
        1 => l.f32_un::<SqrtF32<1>>(f),
        2 => l.f32_un::<SqrtF32<2>>(f),
        _ => l.f32_un::<SqrtF32<3>>(f),
    }
}

pub(crate) fn rcp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match mode(f) {
        0 => l.f32_un::<RcpF32<0>>(f),
        1 => l.f32_un::<RcpF32<1>>(f),
        2 => l.f32_un::<RcpF32<2>>(f),
        _ => l.f32_un::<RcpF32<3>>(f),
    }
}
