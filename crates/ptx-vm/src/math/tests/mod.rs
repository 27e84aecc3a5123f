//! The leaf functions against other implementations: `half`, `rustc_apfloat`, f64, and the manual's pseudocode.

mod int;
mod special;

use crate::math::cvt::{self, F8, RoundInt, RoundTf32};
use crate::math::f16::{self, Bf16, F16, Half};
use crate::math::float::{self, Compare, Extremum, Round};
use crate::math::testing::Random;
use rustc_apfloat::ieee::{BFloat, Double, Half as ApHalf, Single};
use rustc_apfloat::{Float, FloatConvert, Round as ApRound};

const ROUNDS: [(Round, ApRound); 4] = [
    (Round::Nearest, ApRound::NearestTiesToEven),
    (Round::Zero, ApRound::TowardZero),
    (Round::Down, ApRound::TowardNegative),
    (Round::Up, ApRound::TowardPositive),
];

fn single(x: f32) -> Single {
    Single::from_bits(x.to_bits() as u128)
}

fn double(x: f64) -> Double {
    Double::from_bits(x.to_bits() as u128)
}

#[track_caller]
fn same32(got: f32, want: Single, what: &dyn std::fmt::Debug) {
    let want = f32::from_bits(want.to_bits() as u32);
    let want = if want.is_nan() { 0x7fff_ffff } else { want.to_bits() };
    assert_eq!(got.to_bits(), want, "{what:?}: {got:e} for {:e}", f32::from_bits(want));
}

#[track_caller]
fn same64(got: f64, want: Double, what: &dyn std::fmt::Debug) {
    let want = f64::from_bits(want.to_bits() as u64);
    let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
    assert!(equal, "{what:?}: {got:e} for {want:e}");
}

fn random64(random: &mut Random) -> f64 {
    let x = random.next64();
    let bits = match random.next() % 12 {
        0 => x & 1 << 63,
        1 => x & 1 << 63 | 0x7ff << 52,
        2 => x & !(0x7ff << 52),
        3 => x & (1 << 63 | 7) | 1 << 52,
        4 => x & (1 << 63 | 7) | 0x7fef_ffff_ffff_fff0,
        5 => x & 0xfff0_0000_0000_0000,
        6..=7 => x & !(0x7f0 << 52) | 0x3f0 << 52,
        8 => x & !(0x7c0 << 52),
        9 => x & !(0x7fc << 52) | 0x3fc << 52 & !0xff_ffff,
        _ => x,
    };
    f64::from_bits(bits)
}

#[test]
fn f32_arithmetic_in_every_rounding() {
    let mut random = Random::new(3);
    for _ in 0..400_000 {
        let [a, b, c] = [(); 3].map(|_| f32::from_bits(random.special(32)));
        for (round, ap) in ROUNDS {
            let what = (a, b, c, round);
            same32(float::add_f32(a, b, round), single(a).add_r(single(b), ap).value, &what);
            same32(float::sub_f32(a, b, round), single(a).sub_r(single(b), ap).value, &what);
            same32(float::mul_f32(a, b, round), single(a).mul_r(single(b), ap).value, &what);
            same32(float::div_f32(a, b, round), single(a).div_r(single(b), ap).value, &what);
            same32(float::fma_f32(a, b, c, round), single(a).mul_add_r(single(b), single(c), ap).value, &what);
            // Cancellation.
            let d = -a * b;
            same32(float::fma_f32(a, b, d, round), single(a).mul_add_r(single(b), single(d), ap).value, &what);
        }
    }
}

#[test]
fn f64_arithmetic_in_every_rounding() {
    let mut random = Random::new(4);
    for _ in 0..300_000 {
        let [a, b, c] = [(); 3].map(|_| random64(&mut random));
        for (round, ap) in ROUNDS {
            let what = (a, b, c, round);
            same64(float::add_f64(a, b, round), double(a).add_r(double(b), ap).value, &what);
            same64(float::sub_f64(a, b, round), double(a).sub_r(double(b), ap).value, &what);
            same64(float::mul_f64(a, b, round), double(a).mul_r(double(b), ap).value, &what);
            same64(float::div_f64(a, b, round), double(a).div_r(double(b), ap).value, &what);
            same64(float::fma_f64(a, b, c, round), double(a).mul_add_r(double(b), double(c), ap).value, &what);
            let d = -a * b;
            same64(float::fma_f64(a, b, d, round), double(a).mul_add_r(double(b), double(d), ap).value, &what);
        }
    }
}

#[test]
fn square_roots_in_every_rounding() {
    let mut random = Random::new(5);
    let next = |x: f64| f64::from_bits(x.to_bits() + 1);
    for _ in 0..300_000 {
        let x = random64(&mut random).abs();
        if !x.is_finite() || x == 0.0 {
            continue;
        }
        assert_eq!(crate::math::soft::sqrt(x, Round::Nearest), x.sqrt());
        let (down, up) = (float::sqrt_f64(x, Round::Down), float::sqrt_f64(x, Round::Up));
        assert_eq!(down, float::sqrt_f64(x, Round::Zero));
        // The residual of a fused multiply-add has the right sign once scaled out of the subnormal range.
        let (s, t) = if x < 1e-200 { (x * 2f64.powi(600), 2f64.powi(300)) } else { (x, 1.0) };
        assert!((-down * t).mul_add(down * t, s) >= 0.0 && (-up * t).mul_add(up * t, s) <= 0.0, "{x:e}");
        assert!(up == down || up == next(down), "{x:e}");

        let y = f32::from_bits(random.special(32) & 0x7fff_ffff);
        if y.is_finite() {
            let exact = |r: f32| r as f64 * r as f64;
            let (down, up) = (float::sqrt_f32(y, Round::Down), float::sqrt_f32(y, Round::Up));
            assert!(exact(down) <= y as f64 && exact(up) >= y as f64, "{y:e}");
            assert!(up == down || up.to_bits() == down.to_bits() + 1, "{y:e}");
        }
    }
    assert!(float::sqrt_f32(-1.0, Round::Down).is_nan());
    assert_eq!(float::sqrt_f64(-0.0, Round::Up).to_bits(), (-0.0f64).to_bits());
}

#[test]
fn halves_widen_as_the_half_crate_does() {
    for h in 0..=u16::MAX {
        let (a, b) = (half::f16::from_bits(h), half::bf16::from_bits(h));
        let want = |x: f32| if x.is_nan() { 0x7fff_ffff } else { x.to_bits() };
        assert_eq!(f16::f16_to_f32(h).to_bits(), want(a.to_f32()));
        assert_eq!(f16::bf16_to_f32(h).to_bits(), want(b.to_f32()));
        // And back.
        assert_eq!(f16::f32_to_f16(a.to_f32()), if a.is_nan() { 0x7fff } else { h });
        assert_eq!(f16::f32_to_bf16(b.to_f32()), if b.is_nan() { 0x7fff } else { h });
    }
}

fn narrow_reference<T: Float>(x: f32, ap: ApRound) -> u16
where
    Single: FloatConvert<T>,
{
    let mut lost = false;
    let bits = single(x).convert_r(ap, &mut lost).value.to_bits() as u16;
    if x.is_nan() { 0x7fff } else { bits }
}

#[test]
fn f32_narrows_to_halves_in_every_rounding() {
    let check = |x: f32| {
        for (round, ap) in ROUNDS {
            let (a, b) = (f16::narrow::<F16>(x, round, false), f16::narrow::<Bf16>(x, round, false));
            assert_eq!(a, narrow_reference::<ApHalf>(x, ap), "f16 {x:e} {round:?}");
            assert_eq!(b, narrow_reference::<BFloat>(x, ap), "bf16 {x:e} {round:?}");
            let finite = f16::narrow::<F16>(x, round, true);
            assert_eq!(finite, if a & 0x7fff == 0x7c00 { a & 0x8000 | 0x7bff } else { a });
        }
    };
    // Every half, its neighbours, and the midpoints between halves with their neighbours.
    for h in 0..=u16::MAX {
        for base in [f16::f16_to_f32(h).to_bits(), (h as u32) << 16, (h as u32) << 16 | 0x8000] {
            for delta in [0, 1, u32::MAX, 0x1000, 0x1001, 0x0fff] {
                check(f32::from_bits(base.wrapping_add(delta)));
            }
        }
    }
    let mut random = Random::new(6);
    for _ in 0..1_000_000 {
        check(f32::from_bits(random.special(32)));
    }
}

#[test]
fn half_arithmetic_is_rounded_once() {
    let mut random = Random::new(7);
    let nan = |h: u16, inf: u16| if h & 0x7fff > inf { 0x7fff } else { h };
    for _ in 0..2_000_000 {
        let [a, b, c] = [(); 3].map(|_| random.special16());
        macro_rules! check {
            ($h:ty, $ap:ty) => {{
                let [x, y, z] = [a, b, c].map(|v| <$ap>::from_bits(v as u128));
                let want = |v: $ap| nan(v.to_bits() as u16, <$h>::INFINITY);
                let near = ApRound::NearestTiesToEven;
                assert_eq!(f16::add::<$h>(a, b), want(x.add_r(y, near).value), "{a:x} + {b:x}");
                assert_eq!(f16::sub::<$h>(a, b), want(x.sub_r(y, near).value), "{a:x} - {b:x}");
                assert_eq!(f16::mul::<$h>(a, b), want(x.mul_r(y, near).value), "{a:x} * {b:x}");
                assert_eq!(f16::fma::<$h>(a, b, c), want(x.mul_add_r(y, z, near).value), "{a:x} * {b:x} + {c:x}");
            }};
        }
        check!(F16, ApHalf);
        check!(Bf16, BFloat);
    }
}

#[test]
fn f64_narrows_in_every_rounding() {
    let mut random = Random::new(8);
    for _ in 0..500_000 {
        let x = match random.next() % 3 {
            0 => random64(&mut random),
            // Values next to those of f32 and f16.
            1 => f64::from_bits(
                (f32::from_bits(random.special(32)) as f64)
                    .to_bits()
                    .wrapping_add(random.next() as u64 % 3)
                    .wrapping_sub(1),
            ),
            _ => f64::from_bits(
                (f16::f16_to_f32(random.special16()) as f64).to_bits()
                    ^ (random.next() as u64 & 1 | (random.next() as u64 & 1) << 41),
            ),
        };
        for (round, ap) in ROUNDS {
            let mut lost = false;
            same32(cvt::f64_to_f32(x, round), double(x).convert_r(ap, &mut lost).value, &(x, round));
            let want: ApHalf = double(x).convert_r(ap, &mut lost).value;
            let nan = |h: u128| if x.is_nan() { 0x7fff } else { h as u16 };
            assert_eq!(cvt::f64_to_half::<F16>(x, round), nan(want.to_bits()), "{x:e} {round:?}");
            let want: BFloat = double(x).convert_r(ap, &mut lost).value;
            assert_eq!(cvt::f64_to_half::<Bf16>(x, round), nan(want.to_bits()), "{x:e} {round:?}");
        }
    }
}

#[test]
fn integers_become_floats_in_every_rounding() {
    let mut random = Random::new(9);
    for _ in 0..300_000 {
        let bits = random.next64() >> (random.next() % 64) ^ if random.next() & 1 == 0 { 0 } else { u64::MAX };
        for (round, ap) in ROUNDS {
            macro_rules! check {
                ($t:ty, $wide:ty, $from:ident) => {{
                    let x = bits as $t;
                    let wide = x as $wide;
                    let what = (x, round);
                    same32(cvt::int_to_f32(x, round), Single::$from(wide, ap).value, &what);
                    same64(cvt::int_to_f64(x, round), Double::$from(wide, ap).value, &what);
                    assert_eq!(
                        cvt::int_to_half::<$t, F16>(x, round),
                        ApHalf::$from(wide, ap).value.to_bits() as u16,
                        "{what:?}"
                    );
                    assert_eq!(
                        cvt::int_to_half::<$t, Bf16>(x, round),
                        BFloat::$from(wide, ap).value.to_bits() as u16,
                        "{what:?}"
                    );
                }};
            }
            check!(u64, u128, from_u128_r);
            check!(i64, i128, from_i128_r);
            check!(u32, u128, from_u128_r);
            check!(i32, i128, from_i128_r);
            check!(i8, i128, from_i128_r);
        }
    }
}

#[test]
fn floats_become_integers_by_rounding_and_clamping() {
    let mut random = Random::new(10);
    for _ in 0..300_000 {
        let x = match random.next() % 3 {
            0 => (random.next64() as i64 >> (random.next() % 64)) as f64 * 0.25,
            1 => f32::from_bits(random.special(32)) as f64,
            _ => random64(&mut random),
        };
        for round in [RoundInt::Nearest, RoundInt::Zero, RoundInt::Down, RoundInt::Up] {
            let integral = |x: f64| match round {
                RoundInt::Nearest => {
                    let floor = x.floor();
                    let odd = floor % 2.0 != 0.0;
                    if x - floor > 0.5 || x - floor == 0.5 && odd { floor + 1.0 } else { floor }
                }
                RoundInt::Zero => x.trunc(),
                RoundInt::Down => x.floor(),
                RoundInt::Up => x.ceil(),
            };
            macro_rules! check {
                ($($t:ty)*) => {$({
                    let want = |x: f64, nan: $t| if x.is_nan() { nan } else { integral(x) as $t };
                    let top = 1 << (<$t>::BITS - 1);
                    assert_eq!(cvt::f64_to_int::<$t>(x, round), want(x, top), "{x:e} {round:?}");
                    let y = x as f32;
                    let nan = if <$t>::BITS == 64 { top } else { 0 };
                    assert_eq!(cvt::f32_to_int::<$t>(y, round), want(y as f64, nan), "{y:e} {round:?}");
                })*};
            }
            check!(u8 i8 u16 i16 u32 i32 u64 i64);
        }
    }
    assert_eq!(cvt::saturate::<u32, i8>(300), 127);
    assert_eq!(cvt::saturate::<i32, u16>(-5), 0);
    assert_eq!(cvt::saturate::<i64, i32>(i64::MIN), i32::MIN);
    assert_eq!(cvt::resize::<u32, i16>(0x1_8001), i16::MIN + 1);
    assert_eq!(cvt::resize::<i8, u32>(-1), u32::MAX);
}

#[test]
fn tf32_rounds_as_asked() {
    let f = |bits: u32, round| cvt::f32_to_tf32(f32::from_bits(bits), round, false, false);
    use RoundTf32::*;
    assert_eq!(f(0x3f80_1000, NearestAway), 0x3f80_2000);
    assert_eq!(f(0x3f80_1000, Nearest), 0x3f80_0000);
    assert_eq!(f(0x3f80_3000, Nearest), 0x3f80_4000);
    assert_eq!(f(0x3f80_0fff, NearestAway), 0x3f80_0000);
    assert_eq!(f(0xbf80_1fff, Zero), 0xbf80_0000);
    assert_eq!(f(0x7f80_0000, NearestAway), 0x7f80_0000);
    assert_eq!(f(0xff80_0001, Zero), 0x7fff_ffff);
    assert_eq!(f(0x7f7f_ffff, Nearest), 0x7f80_0000);
    assert_eq!(cvt::f32_to_tf32(f32::MAX, Nearest, false, true), 0x7f7f_e000);
    assert_eq!(cvt::f32_to_tf32(-3.0, Nearest, true, false), 0);
}

#[test]
fn eight_bit_floats() {
    for (format, greatest) in [(F8::E4M3, 448.0f32), (F8::E5M2, 57344.0)] {
        let values: Vec<(u8, f32)> = (0..=255)
            .map(|code| (code, f16::f16_to_f32(cvt::f8_to_f16(format, code))))
            .filter(|(_, x)| x.is_finite())
            .collect();
        assert_eq!(values.iter().map(|(_, x)| *x).fold(0.0, f32::max), greatest);
        for &(code, x) in &values {
            assert_eq!(cvt::f32_to_f8(format, x, false), code, "{format:?} {x}");
        }
        let mut random = Random::new(11);
        for _ in 0..200_000 {
            let x = f32::from_bits(random.next() % 0x1200_0000 + 0x3600_0000)
                * if random.next() & 1 == 0 { 1.0 } else { -1.0 };
            // The nearest value, the even code when two are.
            let key = |&(code, y): &(u8, f32)| ((y as f64 - x as f64).abs(), code & 1);
            let best = values.iter().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap();
            let got = cvt::f32_to_f8(format, x, false);
            let got_value = f16::f16_to_f32(cvt::f8_to_f16(format, got));
            assert_eq!(got_value, best.1, "{format:?} {x:e}");
        }
        assert_eq!(cvt::f32_to_f8(format, f32::NAN, false), 0x7f);
        assert_eq!(
            f16::f16_to_f32(cvt::f8_to_f16(format, cvt::f32_to_f8(format, f32::NEG_INFINITY, false))),
            -greatest
        );
        assert_eq!(cvt::f32_to_f8(format, -1.0, true), 0);
    }
}

#[test]
fn extrema_and_comparisons_know_nan_and_zero() {
    use Extremum::*;
    let (nan, zero) = (f32::NAN, 0.0f32);
    assert_eq!(float::extremum_f32(Min, nan, 1.0, false), 1.0);
    assert_eq!(float::extremum_f32(Max, 1.0, nan, false), 1.0);
    assert_eq!(float::extremum_f32(Max, nan, nan, false).to_bits(), 0x7fff_ffff);
    assert_eq!(float::extremum_f32(Min, 1.0, nan, true).to_bits(), 0x7fff_ffff);
    assert_eq!(float::extremum_f32(Min, zero, -zero, false).to_bits(), 0x8000_0000);
    assert_eq!(float::extremum_f32(Max, -zero, zero, false).to_bits(), 0);
    assert_eq!(float::extremum_xorsign_f32(Max, -3.0, 2.0, false), -3.0);
    assert_eq!(float::extremum_xorsign_f32(Min, -3.0, -2.0, false), 2.0);
    assert_eq!(float::extremum_f64(Max, f64::NAN, -1.0), -1.0);
    for (op, less, equal, unordered) in [
        (Compare::Eq, false, true, false),
        (Compare::Ne, true, false, false),
        (Compare::Lt, true, false, false),
        (Compare::Le, true, true, false),
        (Compare::Gt, false, false, false),
        (Compare::Ge, false, true, false),
        (Compare::Equ, false, true, true),
        (Compare::Neu, true, false, true),
        (Compare::Ltu, true, false, true),
        (Compare::Leu, true, true, true),
        (Compare::Gtu, false, false, true),
        (Compare::Geu, false, true, true),
        (Compare::Num, true, true, false),
        (Compare::Nan, false, false, true),
    ] {
        assert_eq!(float::compare(op, 1.0, 2.0), less, "{op:?}");
        assert_eq!(float::compare(op, zero, -zero), equal, "{op:?}");
        assert_eq!(float::compare(op, 1.0, nan), unordered, "{op:?}");
    }
    assert_eq!(float::sat(nan).to_bits(), 0);
    assert_eq!(float::sat(-zero).to_bits(), 0);
    assert_eq!(float::sat(2.0), 1.0);
    assert_eq!(float::ftz(-1e-40).to_bits(), 0x8000_0000);
    assert!(float::testp_f32(float::Test::Normal, 0.0) && !float::testp_f32(float::Test::Normal, 1e-40));
    assert_eq!(float::div_approx_f32(1.0, 1.0e38).to_bits(), 0);
    assert!(float::div_approx_f32(f32::INFINITY, 1.0e38).is_nan());
}
