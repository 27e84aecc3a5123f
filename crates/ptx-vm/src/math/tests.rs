//! The leaf functions against other implementations: `half`, `rustc_apfloat`, f64, and the manual's pseudocode.

use super::cvt::{self, F8, RoundInt, RoundTf32};
use super::f16::{self, Bf16, F16, Half};
use super::float::{self, Compare, Extremum, Round};
use super::testing::Random;
use super::{int, special};
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
        assert_eq!(super::soft::sqrt(x, Round::Nearest), x.sqrt());
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

/// Error in units of the last place of the f32 result.
fn ulps(got: f32, want: f64) -> f64 {
    let exponent = (want.abs() as f32).to_bits() >> 23;
    let unit = 2f64.powi(exponent.max(1) as i32 - 127 - 23);
    (got as f64 - want).abs() / unit
}

#[test]
fn approximations_stay_inside_the_documented_errors() {
    let (mut ex2, mut lg2_ulp, mut lg2_near, mut rsqrt, mut tanh) = (0f64, 0f64, 0f64, 0f64, 0f64);
    // Every 97th f32.
    for bits in (0..0xff80_0000u32).step_by(97) {
        let x = f32::from_bits(bits);
        if x.is_nan() {
            continue;
        }
        let wide = x as f64;
        if wide.abs() < 151.0 {
            let want = wide.exp2();
            if want < f32::MAX as f64 {
                ex2 = ex2.max(ulps(special::ex2(x), want));
            }
        }
        if x > 0.0 && x.is_finite() {
            let want = wide.log2();
            if wide > 0.5 && wide < 2.0 {
                lg2_near = lg2_near.max((special::lg2(x) as f64 - want).abs());
            }
            lg2_ulp = lg2_ulp.max(ulps(special::lg2(x), want));
            rsqrt = rsqrt.max((special::rsqrt(x) as f64 * wide.sqrt() - 1.0).abs());
        }
        if wide.abs() > 1e-37 {
            tanh = tanh.max((special::tanh(x) as f64 / wide.tanh() - 1.0).abs());
        }
    }
    let mut sine = 0f64;
    let mut random = Random::new(12);
    for _ in 0..2_000_000 {
        let x = (random.next() as i32 as f32 / i32::MAX as f32) * if random.next() & 1 == 0 { 7.0 } else { 1e5 };
        sine = sine.max((special::sin(x) as f64 - (x as f64).sin()).abs());
        sine = sine.max((special::cos(x) as f64 - (x as f64).cos()).abs());
    }
    let report = format!(
        "ex2 {ex2:.3} ulp, lg2 {lg2_ulp:.3} ulp and 2^{:.1} near 1, rsqrt 2^{:.1}, tanh 2^{:.1}, sin and cos 2^{:.1}",
        lg2_near.log2(),
        rsqrt.log2(),
        tanh.log2(),
        sine.log2()
    );
    println!("{report}");
    let log = |e: f64| e.log2();
    assert!(ex2 < 1.0 && lg2_ulp < 2.0 && log(lg2_near) < -22.0, "{report}");
    assert!(log(rsqrt) < -22.9 && log(tanh) < -21.0 && log(sine) < -22.0, "{report}");
}

#[test]
fn approximations_at_the_ends() {
    let inf = f32::INFINITY;
    let bits = f32::to_bits;
    for n in -149..128 {
        let p = 2f64.powi(n) as f32;
        assert_eq!(special::ex2(n as f32), p);
        assert_eq!(special::lg2(p), n as f32);
    }
    assert_eq!(special::ex2(inf), inf);
    assert_eq!(special::ex2(128.0), inf);
    assert_eq!(bits(special::ex2(-inf)), 0);
    assert_eq!(bits(special::ex2(-151.0)), 0);
    assert_eq!(special::lg2(0.0), -inf);
    assert_eq!(special::lg2(-0.0), -inf);
    assert_eq!(special::lg2(inf), inf);
    assert_eq!(bits(special::sin(-0.0)), 0x8000_0000);
    assert_eq!(special::cos(0.0), 1.0);
    assert_eq!(special::tanh(inf), 1.0);
    assert_eq!(special::tanh(-inf), -1.0);
    assert_eq!(bits(special::tanh(-0.0)), 0x8000_0000);
    assert_eq!(special::tanh(1e-40), 1e-40);
    assert_eq!(special::rsqrt(-0.0), -inf);
    assert_eq!(bits(special::rsqrt(inf)), 0);
    assert_eq!(special::rcp(-0.0), -inf);
    let nan = 0x7fff_ffff;
    for f in [special::ex2, special::lg2, special::sin, special::cos, special::tanh, special::rcp, special::rsqrt] {
        assert_eq!(bits(f(f32::from_bits(0xff80_1234))), nan);
    }
    for x in [special::lg2(-1.0), special::lg2(-inf), special::sin(inf), special::cos(-inf), special::rsqrt(-1.0)] {
        assert_eq!(bits(x), nan);
    }
    for x in [1e9f32, 1e20, 3e38] {
        assert!(special::sin(x).abs() <= 1.0 && special::cos(x).abs() <= 1.0);
    }
    let r = special::rcp_f64(3.0);
    assert!((r * 3.0 - 1.0).abs() < 1e-6 && r.to_bits() as u32 == 0);
    assert_eq!(special::rcp_f64(1e-310), f64::INFINITY);
    assert_eq!(special::rcp_f64(1e308).to_bits(), 0);
}

/// Operands that hit the ends of fields.
fn word(random: &mut Random) -> u32 {
    match random.next() % 6 {
        0 => random.next() % 70,
        1 => 0u32.wrapping_sub(random.next() % 4),
        2 => 1 << (random.next() % 32),
        3 => random.next() & 0x8000_0003,
        _ => random.next(),
    }
}

#[test]
fn bit_instructions_follow_the_pseudocode() {
    let mut random = Random::new(13);
    for _ in 0..200_000 {
        let [a, b, c, d] = [(); 4].map(|_| word(&mut random));
        let (a64, b64) = ((word(&mut random) as u64) << 32 | a as u64, (word(&mut random) as u64) << 32 | b as u64);
        let what = format!("{a:#x} {b:#x} {c:#x} {d:#x} {a64:#x} {b64:#x}");

        // bfe
        let bfe = |a: u64, msb: u32, signed: bool| {
            let (pos, len) = (c & 0xff, d & 0xff);
            let bit = |i: u32| a >> i & 1;
            let sbit = if !signed || len == 0 { 0 } else { bit((pos + len - 1).min(msb)) };
            (0..=msb).fold(0, |d, i| d | (if i < len && pos + i <= msb { bit(pos + i) } else { sbit }) << i)
        };
        assert_eq!(int::bfe_u32(a, c, d) as u64, bfe(a as u64, 31, false), "{what}");
        assert_eq!(int::bfe_s32(a, c, d) as u64, bfe(a as u64, 31, true), "{what}");
        assert_eq!(int::bfe_u64(a64, c, d), bfe(a64, 63, false), "{what}");
        assert_eq!(int::bfe_s64(a64, c, d), bfe(a64, 63, true), "{what}");

        // bfi
        let bfi = |a: u64, b: u64, msb: u32| {
            let (pos, len) = (c & 0xff, d & 0xff);
            let mut f = b;
            let mut i = 0;
            while i < len && pos + i <= msb {
                f = f & !(1 << (pos + i)) | (a.checked_shr(i).unwrap_or(0) & 1) << (pos + i);
                i += 1;
            }
            f
        };
        assert_eq!(int::bfi_b32(a, b, c, d) as u64, bfi(a as u64, b as u64, 31), "{what}");
        assert_eq!(int::bfi_b64(a64, b64, c, d), bfi(a64, b64, 63), "{what}");

        // bfind
        let bfind = |a: u64, msb: u32, shift: bool| {
            let found = (0..=msb).rev().find(|i| a >> i & 1 != 0);
            found.map_or(u32::MAX, |i| if shift { msb - i } else { i })
        };
        for shift in [false, true] {
            assert_eq!(int::bfind_u32(a, shift), bfind(a as u64, 31, shift));
            let positive = if a >> 31 != 0 { !a } else { a };
            assert_eq!(int::bfind_s32(a, shift), bfind(positive as u64, 31, shift));
            assert_eq!(int::bfind_u64(a64, shift), bfind(a64, 63, shift));
            let positive = if a64 >> 63 != 0 { !a64 } else { a64 };
            assert_eq!(int::bfind_s64(a64, shift), bfind(positive, 63, shift));
        }

        // fns
        let (base, offset) = (c % 32, (d as i32) % 20);
        let want = {
            let mut found = u32::MAX;
            if offset == 0 {
                if a >> base & 1 == 1 {
                    found = base;
                }
            } else {
                let (mut pos, mut count) = (base as i32, offset.abs() - 1);
                while (0..32).contains(&pos) {
                    if a >> pos & 1 == 1 {
                        if count == 0 {
                            found = pos as u32;
                            break;
                        }
                        count -= 1;
                    }
                    pos += offset.signum();
                }
            }
            found
        };
        assert_eq!(int::fns(a, base, offset as u32), want, "{a:#x} {base} {offset}");

        // shf
        for wrap in [false, true] {
            let n = if wrap { c & 31 } else { c.min(32) };
            let left = b.checked_shl(n).unwrap_or(0) | a.checked_shr(32 - n).unwrap_or(0);
            let right = b.checked_shl(32 - n).unwrap_or(0) | a.checked_shr(n).unwrap_or(0);
            assert_eq!(int::shf_l(a, b, c, wrap), left, "{what}");
            assert_eq!(int::shf_r(a, b, c, wrap), right, "{what}");
        }

        // lop3
        let table = d as u8;
        let want = (0..32).fold(0, |w, i| {
            let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
            w | ((table >> index & 1) as u32) << i
        });
        assert_eq!(int::lop3(a, b, c, table), want);

        // shifts
        assert_eq!(int::shr_s32(a, c), ((a as i32 as i64) >> c.min(32)) as u32);
        assert_eq!(int::shl_b64(a64, c), if c > 63 { 0 } else { a64 << c });
        assert_eq!(int::shr_s64(a64, c), ((a64 as i64 as i128) >> c.min(64)) as u64);
        assert_eq!(int::shr_s16(a as u16, c), ((a as u16 as i16 as i64) >> c.min(16)) as u16);

        // carry chains
        let (low, carry) = int::add_carry_u32(a64 as u32, b64 as u32, false);
        let (high, _) = int::add_carry_u32((a64 >> 32) as u32, (b64 >> 32) as u32, carry);
        assert_eq!((high as u64) << 32 | low as u64, a64.wrapping_add(b64));
        let (low, borrow) = int::sub_borrow_u32(a64 as u32, b64 as u32, false);
        let (high, _) = int::sub_borrow_u32((a64 >> 32) as u32, (b64 >> 32) as u32, borrow);
        assert_eq!((high as u64) << 32 | low as u64, a64.wrapping_sub(b64));

        // mul24
        let s24 = |x: u32| (((x << 8) as i32) >> 8) as i64;
        assert_eq!(int::mul24_hi(true, a, b), ((s24(a) * s24(b)) >> 16) as u32);
        assert_eq!(int::mul24_lo(false, a, b), ((a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64) as u32);
    }
}

#[test]
fn prmt_modes_follow_the_table() {
    use int::Permute::*;
    let (a, b) = (0x8302_8100, 0x0786_0504);
    let bytes: Vec<u32> = (0..8).map(|i| [0x00, 0x81, 0x02, 0x83, 0x04, 0x05, 0x86, 0x07][i]).collect();
    // Rows of the manual: the selected byte of d.b3 d.b2 d.b1 d.b0.
    for (mode, rows) in [
        (F4e, [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        (B4e, [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        (Rc8, [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        (Ecl, [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        (Ecr, [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        (Rc16, [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ] {
        for (c, row) in rows.iter().enumerate() {
            let want = row.iter().fold(0, |d, &i: &usize| d << 8 | bytes[i]);
            assert_eq!(int::prmt(mode, a, b, c as u32), want, "{mode:?} {c}");
        }
    }
    assert_eq!(int::prmt(Generic, a, b, 0x7b92), 0x07ff_ff02);
}

#[test]
fn division_and_dot_products() {
    use int::Arith;
    assert_eq!(Arith::div(7u32, 0), u32::MAX);
    assert_eq!(Arith::rem(7i32, 0), 7);
    assert_eq!(Arith::div(i32::MIN, -1), i32::MIN);
    assert_eq!(Arith::rem(i64::MIN, -1), 0);
    assert_eq!(Arith::sad(3i32, -4, 10), 17);
    assert_eq!(int::dp4a(true, true, 0xff02_0380, 0x0102_0302, 5), (-1 + 4 + 9 - 256 + 5) as u32);
    assert_eq!(int::dp4a(false, true, 0xff00_0000, 0xff00_0000, 0), (-255i32) as u32);
    assert_eq!(int::dp2a(true, false, true, 0xffff_0002, 0x03ff_0000, 1), (510 - 3 + 1) as u32);
    assert_eq!(int::bmsk(4, 8, true), 0xff0);
    assert_eq!(int::bmsk(28, 8, true), 0xf000_0000);
    assert_eq!(int::szext(true, 0x8f, 8, true), 0xffff_ff8f);
    assert_eq!(int::add_sat_s32(i32::MAX as u32, 1), i32::MAX as u32);
    assert_eq!(int::extremum_16x2(true, true, true, 0xffff_0001, 0xfffe_0002), 0x0000_0002);
}
