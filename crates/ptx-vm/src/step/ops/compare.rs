//! Comparisons.

use crate::math;
use crate::step::alu::Cmp;

cmp! {
    Eq32(a, b: u32) = a == b; Ne32(a, b: u32) = a != b;
    Eq64(a, b: u64) = a == b; Ne64(a, b: u64) = a != b;
    LtU32(a, b: u32) = a < b; LeU32(a, b: u32) = a <= b; GtU32(a, b: u32) = a > b; GeU32(a, b: u32) = a >= b;
    LtU64(a, b: u64) = a < b; LeU64(a, b: u64) = a <= b; GtU64(a, b: u64) = a > b; GeU64(a, b: u64) = a >= b;
    LtS32(a, b: i32) = a < b; LeS32(a, b: i32) = a <= b; GtS32(a, b: i32) = a > b; GeS32(a, b: i32) = a >= b;
    LtS64(a, b: i64) = a < b; LeS64(a, b: i64) = a <= b; GtS64(a, b: i64) = a > b; GeS64(a, b: i64) = a >= b;
    EqF32(a, b: f32) = a == b; NeF32(a, b: f32) = (a < b) | (a > b);
    LtF32(a, b: f32) = a < b; LeF32(a, b: f32) = a <= b; GtF32(a, b: f32) = a > b; GeF32(a, b: f32) = a >= b;
    EquF32(a, b: f32) = !((a < b) | (a > b)); NeuF32(a, b: f32) = a != b;
    LtuF32(a, b: f32) = !(a >= b); LeuF32(a, b: f32) = !(a > b); GtuF32(a, b: f32) = !(a <= b); GeuF32(a, b: f32) = !(a < b);
}
cmp! { @rare
    Eq16(a, b: u16) = a == b; Ne16(a, b: u16) = a != b;
    LtU16(a, b: u16) = a < b; LeU16(a, b: u16) = a <= b; GtU16(a, b: u16) = a > b; GeU16(a, b: u16) = a >= b;
    LtS16(a, b: i16) = a < b; LeS16(a, b: i16) = a <= b; GtS16(a, b: i16) = a > b; GeS16(a, b: i16) = a >= b;
    NumF32(a, b: f32) = !a.is_nan() & !b.is_nan(); NanF32(a, b: f32) = a.is_nan() | b.is_nan();
    EqF64(a, b: f64) = a == b; NeF64(a, b: f64) = (a < b) | (a > b);
    LtF64(a, b: f64) = a < b; LeF64(a, b: f64) = a <= b; GtF64(a, b: f64) = a > b; GeF64(a, b: f64) = a >= b;
    EquF64(a, b: f64) = !((a < b) | (a > b)); NeuF64(a, b: f64) = a != b;
    LtuF64(a, b: f64) = !(a >= b); LeuF64(a, b: f64) = !(a > b); GtuF64(a, b: f64) = !(a <= b); GeuF64(a, b: f64) = !(a < b);
    NumF64(a, b: f64) = !a.is_nan() & !b.is_nan(); NanF64(a, b: f64) = a.is_nan() | b.is_nan();
    FiniteF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Finite, a);
    FiniteF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Finite, a);
    InfiniteF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Infinite, a);
    InfiniteF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Infinite, a);
    NumberF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Number, a);
    NumberF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Number, a);
    NotANumberF32(a, _b: f32) = math::float::testp_f32(math::float::Test::NotANumber, a);
    NotANumberF64(a, _b: f64) = math::float::testp_f64(math::float::Test::NotANumber, a);
    NormalF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Normal, a);
    NormalF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Normal, a);
    SubnormalF32(a, _b: f32) = math::float::testp_f32(math::float::Test::Subnormal, a);
    SubnormalF64(a, _b: f64) = math::float::testp_f64(math::float::Test::Subnormal, a);
}
