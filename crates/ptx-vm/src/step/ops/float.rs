//! Operations on f32 and f64.

use crate::ir::Rule;
use crate::math;
use crate::step::alu::{Bin, Cmp, Tri, Un};

use math::float::{Extremum, Round};
pub(crate) use math::float::{ftz, sat, sat_f64 as sat64};

/// The rounding mode of a constant parameter: 0 nearest, 1 zero, 2 down, 3 up.
#[inline(always)]
pub(crate) const fn round(mode: u8) -> Round {
    match mode {
        0 => Round::Nearest,
        1 => Round::Zero,
        2 => Round::Down,
        _ => Round::Up,
    }
}

bin! {
    MinF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Min, a, b, false);
    MaxF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Max, a, b, false);
    DivFullF32(a: f32, b: f32) -> f32 = math::float::div_full_f32(a, b);
    DivApproxF32(a: f32, b: f32) -> f32 = math::float::div_approx_f32(a, b);
}
bin! { @rare
    MinNanF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Min, a, b, true);
    MaxNanF32(a: f32, b: f32) -> f32 = math::float::extremum_f32(Extremum::Max, a, b, true);
    MinXorF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Min, a, b, false);
    MaxXorF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Max, a, b, false);
    MinXorNanF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Min, a, b, true);
    MaxXorNanF32(a: f32, b: f32) -> f32 = math::float::extremum_xorsign_f32(Extremum::Max, a, b, true);
    CopysignF32(a: f32, b: f32) -> f32 = math::float::copysign_f32(a, b);
    CopysignF64(a: f64, b: f64) -> f64 = math::float::copysign_f64(a, b);
    MinF64(a: f64, b: f64) -> f64 = math::float::extremum_f64(Extremum::Min, a, b);
    MaxF64(a: f64, b: f64) -> f64 = math::float::extremum_f64(Extremum::Max, a, b);
}
un! {
    NegF32(a: f32) -> f32 = math::float::neg_f32(a);
    AbsF32(a: f32) -> f32 = math::float::abs_f32(a);
    NegF64(a: f64) -> f64 = -a;
    AbsF64(a: f64) -> f64 = a.abs();
    SqrtApproxF32(a: f32) -> f32 = math::special::sqrt(a);
    RcpApproxF32(a: f32) -> f32 = math::special::rcp(a);
    RsqrtF32(a: f32) -> f32 = math::special::rsqrt(a);
    Ex2F32(a: f32) -> f32 = math::special::ex2(a);
    Lg2F32(a: f32) -> f32 = math::special::lg2(a);
    SinF32(a: f32) -> f32 = math::special::sin(a);
    CosF32(a: f32) -> f32 = math::special::cos(a);
    TanhF32(a: f32) -> f32 = math::special::tanh(a);
    SatF32(a: f32) -> f32 = sat(a);
}
un! { @rare
    RsqrtF64(a: f64) -> f64 = math::special::rsqrt_f64(a);
    RsqrtFtzF64(a: f64) -> f64 = math::special::rsqrt_ftz_f64(a);
    RcpApproxF64(a: f64) -> f64 = math::special::rcp_f64(a);
    SatF64(a: f64) -> f64 = sat64(a);
}

/// IEEE operations by rounding mode (see [`round`]).
macro_rules! rounded {
    ($($name:ident: $t:ty, $f:path, $trait:ident, $($arg:ident $ty:ident)*;)*) => {$(
        pub(crate) struct $name<const M: u8>;
        impl<const M: u8> $trait for $name<M> {
            // Directed roundings are slow paths anyway.
            const RARE: bool = M != 0;
            $(type $ty = $t;)*
            type D = $t;
            #[inline(always)]
            fn f($($arg: $t),*) -> $t {
                $f($($arg,)* round(M))
            }
        }
    )*};
}
rounded! {
    AddF32: f32, math::float::add_f32, Bin, a A b B;
    SubF32: f32, math::float::sub_f32, Bin, a A b B;
    MulF32: f32, math::float::mul_f32, Bin, a A b B;
    DivF32: f32, math::float::div_f32, Bin, a A b B;
    FmaF32: f32, math::float::fma_f32, Tri, a A b B c C;
    SqrtF32: f32, math::float::sqrt_f32, Un, a A;
    RcpF32: f32, math::float::rcp_f32, Un, a A;
    AddF64: f64, math::float::add_f64, Bin, a A b B;
    SubF64: f64, math::float::sub_f64, Bin, a A b B;
    MulF64: f64, math::float::mul_f64, Bin, a A b B;
    DivF64: f64, math::float::div_f64, Bin, a A b B;
    FmaF64: f64, math::float::fma_f64, Tri, a A b B c C;
    SqrtF64: f64, math::float::sqrt_f64, Un, a A;
    RcpF64: f64, math::float::rcp_f64, Un, a A;
}

/// Flushes subnormal inputs and outputs of an f32 operation.
pub(crate) struct Ftz<O>(std::marker::PhantomData<O>);
impl<O: Un<A = f32, D = f32>> Un for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32) -> f32 {
        ftz(O::f(ftz(a)))
    }
}
impl<O: Bin<A = f32, B = f32, D = f32>> Bin for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type B = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32, b: f32) -> f32 {
        ftz(O::f(ftz(a), ftz(b)))
    }
}
impl<O: Tri<A = f32, B = f32, C = f32, D = f32>> Tri for Ftz<O> {
    const RARE: bool = O::RARE;
    type A = f32;
    type B = f32;
    type C = f32;
    type D = f32;
    #[inline(always)]
    fn f(a: f32, b: f32, c: f32) -> f32 {
        ftz(O::f(ftz(a), ftz(b), ftz(c)))
    }
}
impl<O: Cmp<A = f32>> Cmp for Ftz<O> {
    const RARE: bool = true;
    type A = f32;
    #[inline(always)]
    fn f(a: f32, b: f32) -> bool {
        O::f(ftz(a), ftz(b))
    }
}
