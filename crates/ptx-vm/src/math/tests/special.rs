//! Approximations against f64.

use crate::math::special;
use crate::math::testing::Random;

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
