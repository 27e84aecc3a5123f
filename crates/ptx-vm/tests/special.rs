//! The approximations, instruction by instruction through PTX text: inside the error bounds of the manual, and exactly its tables of special
//! values, with and without `.ftz`.
//!
//! The bounds are those of NVIDIA's *PTX ISA* 9.4, in the notes of the section that a test names. Two have no bound there:
//! see `approximations_of_f64`. The manual does not say how near a subnormal result must be where its bound is relative.
//!
//! f16 and bf16 are swept exhaustively, f32 with a stride, or with every number when `PTX_VM_SWEEP` is set (hours). The reference is f64.

use ptx_vm::{Kernel, Launch, Module, Vm, VmConfig};
use std::sync::Arc;

/// Operands a launch takes.
const CHUNK: usize = 1 << 18;

/// An instruction over arrays: `d` and `a` of a width in bytes.
struct Unary {
    kernel: Arc<Kernel>,
    vm: Vm,
    width: usize,
}

impl Unary {
    fn new(opcode: &str, width: usize) -> Unary {
        let bits = 8 * width;
        let ptx = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry k(.param .u64 p) {{ .reg .b32 %t, %n; .reg .b64 %q, %o; .reg .b{bits} %x;\n\
             ld.param.u64 %q, [p]; mov.u32 %t, %tid.x; mov.u32 %n, %ctaid.x; mad.lo.u32 %t, %n, 256, %t;\n\
             mul.wide.u32 %o, %t, {width}; add.s64 %q, %q, %o; ld.global.b{bits} %x, [%q]; {opcode} %x, %x; st.global.b{bits} [%q], %x; ret; }}"
        );
        let kernel = Module::parse("k.ptx", &ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
        Unary { kernel, vm: Vm::new(VmConfig::default()), width }
    }

    /// The results for operands given as bits.
    fn run(&self, operands: &[u64]) -> Vec<u64> {
        let mut bytes = Vec::new();
        for x in operands {
            bytes.extend_from_slice(&x.to_le_bytes()[..self.width]);
        }
        bytes.resize(operands.len().next_multiple_of(256) * self.width, 0);
        let buffer = self.vm.alloc(bytes.len()).unwrap();
        self.vm.write(buffer, &bytes).unwrap();
        let grid = [operands.len().div_ceil(256) as u32, 1, 1];
        let launch = Launch::new(grid, [256, 1, 1]);
        self.vm.launch(&self.kernel, &launch, &buffer.to_le_bytes()).unwrap_or_else(|e| panic!("{e}"));
        self.vm.read(buffer, &mut bytes).unwrap();
        self.vm.free(buffer).unwrap();
        let word = |c: &[u8]| {
            let mut raw = [0; 8];
            raw[..c.len()].copy_from_slice(c);
            u64::from_le_bytes(raw)
        };
        bytes.chunks_exact(self.width).take(operands.len()).map(word).collect()
    }
}

/// Calls `f` with every f32 of the sweep and its result.
fn sweep(opcode: &str, mut f: impl FnMut(f32, f32)) {
    let unary = Unary::new(opcode, 4);
    let step = if std::env::var_os("PTX_VM_SWEEP").is_some() { 1 } else { 4099 };
    let mut numbers = (0..1u64 << 32).step_by(step).peekable();
    while numbers.peek().is_some() {
        let operands: Vec<u64> = numbers.by_ref().take(CHUNK).collect();
        for (x, y) in operands.iter().zip(unary.run(&operands)) {
            f(f32::from_bits(*x as u32), f32::from_bits(y as u32));
        }
    }
}

/// Units of the last place of an f32 result.
fn ulps(got: f32, want: f64) -> f64 {
    if got as f64 == want {
        return 0.0;
    }
    let exponent = ((want.abs() as f32).to_bits() >> 23).clamp(1, 254);
    (got as f64 - want).abs() / 2f64.powi(exponent as i32 - 127 - 23)
}

/// `.ftz` on an operand.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Checks an f32 instruction without and with `.ftz` against `want` and its `error`, which may be at most `bound`. With `.ftz`
/// subnormal results must be zeros.
fn within(name: &str, want: fn(f64) -> f64, error: fn(f32, f64, f64) -> Option<f64>, bound: f64) {
    for ftz in [false, true] {
        if ftz && name == "tanh.approx" {
            continue;
        }
        let opcode = format!("{name}{}.f32", if ftz { ".ftz" } else { "" });
        let mut worst = (0f64, 0f32);
        sweep(&opcode, |x, y| {
            let operand = if ftz { flush(x) } else { x };
            let exact = want(operand as f64);
            if exact.is_nan() {
                assert!(y.is_nan(), "{opcode} {x:e} gives {y:e}");
                return;
            }
            if ftz && exact.abs() < 1.0001 * f64::from(f32::MIN_POSITIVE) {
                assert!(y.abs() == 0.0 || y.abs() >= f32::MIN_POSITIVE, "{opcode} {x:e} gives {y:e}");
                return;
            }
            // What an f32 cannot hold, and the poles.
            if exact.abs() > f64::from(f32::MAX) {
                assert!(
                    y.is_infinite() && (y < 0.0) == (exact < 0.0) || y.abs() == f32::MAX,
                    "{opcode} {x:e} gives {y:e}"
                );
                return;
            }
            if let Some(e) = error(y, operand as f64, exact)
                && !(e <= worst.0)
            {
                worst = (e, x);
            }
        });
        println!("{opcode}: at most {:e} at {:e}, allowed {bound:e}", worst.0, worst.1);
        assert!(worst.0 <= bound, "{opcode}: {:e} at {:e}, allowed {bound:e}", worst.0, worst.1);
    }
}

fn relative(got: f32, _: f64, want: f64) -> Option<f64> {
    // Below the normal numbers the last place is coarser than any relative bound.
    (want.abs() >= f64::from(f32::MIN_POSITIVE)).then(|| (got as f64 / want - 1.0).abs())
}

fn in_ulps(got: f32, _: f64, want: f64) -> Option<f64> {
    Some(ulps(got, want))
}

/// 9.7.3.21: at most 2 ulp from the correctly rounded result; here 2 ulp from the exact one, which is half a place stricter.
#[test]
fn ex2_is_within_two_ulp() {
    within("ex2.approx", f64::exp2, in_ulps, 2.0);
}

/// 9.7.3.20: absolute error 2^-22 for operands in (0.5, 2), relative error 2^-22 for the other positive finite ones.
#[test]
fn lg2_is_within_its_bounds() {
    within(
        "lg2.approx",
        f64::log2,
        |got, x, want| (x > 0.5 && x < 2.0).then(|| (got as f64 - want).abs()),
        2f64.powi(-22),
    );
    within(
        "lg2.approx",
        f64::log2,
        |got, x, want| (!(x > 0.5 && x < 2.0)).then(|| (got as f64 / want - 1.0).abs()),
        2f64.powi(-22),
    );
}

/// 9.7.3.18 and 9.7.3.19: absolute error in [-2 pi, 2 pi], where that of the cosine is a little greater, and in [-100 pi, 100 pi];
/// nothing is promised beyond.
#[test]
fn sine_and_cosine_are_within_their_bounds() {
    const TURN: f64 = std::f64::consts::TAU;
    for (name, f, near) in [("sin.approx", f64::sin as fn(f64) -> f64, -20.5), ("cos.approx", f64::cos, -20.4)] {
        within(name, f, |got, x, want| (x.abs() <= TURN).then(|| (got as f64 - want).abs()), 2f64.powf(near));
        within(name, f, |got, x, want| (x.abs() <= 50.0 * TURN).then(|| (got as f64 - want).abs()), 2f64.powf(-14.7));
    }
}

/// 9.7.3.13: `rcp` 1 ulp; 9.7.3.15: `sqrt` relative error 2^-23; 9.7.3.16: `rsqrt` relative error 2^-22.9.
#[test]
fn roots_and_reciprocals_are_within_their_bounds() {
    within("rcp.approx", |x| 1.0 / x, in_ulps, 1.0);
    within("sqrt.approx", f64::sqrt, relative, 2f64.powi(-23));
    // The only zero with a sign: 1/sqrt(-0) is -Inf.
    within("rsqrt.approx", |x| if x == 0.0 { 1.0 / x } else { 1.0 / x.sqrt() }, relative, 2f64.powf(-22.9));
}

/// 9.7.3.22: relative error 2^-11.
#[test]
fn tanh_is_within_its_bound() {
    within("tanh.approx", f64::tanh, relative, 2f64.powi(-11));
}

/// Widens a half exactly.
fn widen(bits: u64, bf16: bool) -> f64 {
    if bf16 { half::bf16::from_bits(bits as u16).to_f64() } else { half::f16::from_bits(bits as u16).to_f64() }
}

/// 9.7.4.10: `ex2` relative error 2^-9.9 in f16, 2^-7 in bf16; 9.7.4.9: `tanh` absolute error 2^-10.987 in f16, 2^-8 in bf16.
#[test]
fn every_half_is_within_its_bound() {
    let all: Vec<u64> = (0..1 << 16).collect();
    for (opcode, bf16, want, absolute, bound) in [
        ("ex2.approx.f16", false, f64::exp2 as fn(f64) -> f64, false, 2f64.powf(-9.9)),
        ("ex2.approx.ftz.bf16", true, f64::exp2, false, 2f64.powi(-7)),
        ("tanh.approx.f16", false, f64::tanh, true, 2f64.powf(-10.987)),
        ("tanh.approx.bf16", true, f64::tanh, true, 2f64.powi(-8)),
    ] {
        let (least, greatest) = if bf16 { (2f64.powi(-126), 3.3895e38) } else { (2f64.powi(-14), 65504.0) };
        let results = Unary::new(opcode, 2).run(&all);
        // Both halves of a register by the packed form.
        let pairs: Vec<u64> = all.iter().map(|x| x << 16 | (x ^ 0x5a5a)).collect();
        let packed = Unary::new(&format!("{opcode}x2"), 4).run(&pairs);
        for (x, (y, pair)) in all.iter().zip(results.iter().zip(packed)) {
            assert_eq!(pair, y << 16 | results[(x ^ 0x5a5a) as usize], "{opcode}x2 {x:#x}");
            let (a, got) = (widen(*x, bf16), widen(*y, bf16));
            let exact = want(a);
            if a.is_nan() {
                assert_eq!(*y, 0x7fff, "{opcode} {x:#x}");
                continue;
            }
            assert_eq!(got.is_sign_negative(), exact.is_sign_negative(), "{opcode} {a:e} gives {got:e}");
            if opcode.contains("ftz") && exact.abs() < least {
                assert!(got == 0.0 || got == least, "{opcode} {a:e} gives {got:e}");
            } else if !absolute && exact.abs() < least {
                assert!((got - exact).abs() <= least * 2f64.powi(-9), "{opcode} {a:e} gives {got:e}");
            } else if exact > greatest {
                assert!(got == f64::INFINITY || got >= greatest, "{opcode} {a:e} gives {got:e}");
            } else {
                let error = if absolute { (got - exact).abs() } else { (got / exact - 1.0).abs() };
                assert!(error <= bound, "{opcode} {a:e} gives {got:e}: error {error:e}, allowed {bound:e}");
            }
        }
    }
}

/// The tables of the sections named above.
#[test]
fn special_values_follow_the_tables() {
    const INF: f32 = f32::INFINITY;
    const SUB: f32 = 1e-40;
    const NAN: f32 = f32::NAN;
    let operands = [-INF, -1.0, -SUB, -0.0, 0.0, SUB, 1.0, INF, NAN];
    // Of a subnormal operand, what `.ftz` gives; without it the bounds above speak.
    for (opcode, want) in [
        ("ex2.approx.ftz", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, INF, NAN]),
        ("ex2.approx", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, INF, NAN]),
        ("lg2.approx.ftz", [NAN, NAN, -INF, -INF, -INF, -INF, 0.0, INF, NAN]),
        ("rcp.approx.ftz", [-0.0, -1.0, -INF, -INF, INF, INF, 1.0, 0.0, NAN]),
        ("sqrt.approx.ftz", [NAN, NAN, -0.0, -0.0, 0.0, 0.0, 1.0, INF, NAN]),
        ("rsqrt.approx.ftz", [NAN, NAN, -INF, -INF, INF, INF, 1.0, 0.0, NAN]),
    ] {
        let results = Unary::new(&format!("{opcode}.f32"), 4).run(&operands.map(|x| u64::from(x.to_bits())));
        for ((x, y), want) in operands.iter().zip(results).zip(want) {
            let want = if want.is_nan() { 0x7fff_ffff } else { want.to_bits() };
            assert_eq!(y, u64::from(want), "{opcode} {x:e}");
        }
    }
    for (opcode, zero) in [
        ("sin.approx", true),
        ("sin.approx.ftz", true),
        ("cos.approx", false),
        ("cos.approx.ftz", false),
        ("tanh.approx", true),
    ] {
        let bits = [0x8000_0000u64, 0, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000];
        let results = Unary::new(&format!("{opcode}.f32"), 4).run(&bits);
        let ends = if opcode.starts_with("tanh") { [0x3f80_0000, 0xbf80_0000] } else { [0x7fff_ffff; 2] };
        let zeros = if zero { [0x8000_0000, 0] } else { [0x3f80_0000; 2] };
        assert_eq!(results, [zeros[0], zeros[1], ends[0], ends[1], 0x7fff_ffff], "{opcode}");
    }
}

/// 9.7.3.8: `div.full` 2 ulp everywhere; `div.approx` 2 ulp for divisors in [2^-126, 2^126], zero of the right sign for greater ones, or NaN if
/// the dividend is infinite. Of subnormal divisors the manual says nothing; here they are kept to the same 2 ulp.
#[test]
fn quotients_are_within_two_ulp() {
    // a in the upper word, b in the lower one.
    let divide = |name: &str| {
        Unary::new(
            &format!(
                "{{ .reg .b32 %a, %b; mov.b64 {{%b, %a}}, %x; div.{name}.f32 %a, %a, %b; mov.b64 %x, {{%a, %a}}; }} mov.b64"
            ),
            8,
        )
    };
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state ^ state >> 29
    };
    let operands: Vec<u64> = (0..1 << 19).map(|_| next()).collect();
    let float = |bits: u64| f32::from_bits(bits as u32);
    for (name, ftz) in [("full", false), ("full.ftz", true), ("approx", false), ("approx.ftz", true)] {
        for (x, y) in operands.iter().zip(divide(name).run(&operands)) {
            let z = |x: f32| if ftz { flush(x) } else { x };
            let (a, b, y) = (z(float(x >> 32)), z(float(*x)), float(y));
            let exact = a as f64 / b as f64;
            let huge = b.abs() > 2f32.powi(126) && b.is_finite();
            if exact.is_nan() || name.starts_with("approx") && huge && a.is_infinite() {
                assert!(y.is_nan(), "div.{name} {a:e} {b:e} gives {y:e}");
            } else if name.starts_with("approx") && huge {
                let zero = if (a < 0.0) != (b < 0.0) { -0f32 } else { 0.0 };
                assert!(a == 0.0 && y == 0.0 || y.to_bits() == zero.to_bits(), "div.{name} {a:e} {b:e} gives {y:e}");
            } else if exact.abs() > f64::from(f32::MAX) {
                assert!(y.is_infinite() || y.abs() == f32::MAX, "div.{name} {a:e} {b:e} gives {y:e}");
            } else if ftz && exact.abs() < 1.0001 * f64::from(f32::MIN_POSITIVE) {
                assert!(y == 0.0 || y.abs() >= f32::MIN_POSITIVE, "div.{name} {a:e} {b:e} gives {y:e}");
            } else {
                assert!(ulps(y, exact) <= 2.0, "div.{name} {a:e} {b:e} gives {y:e}");
            }
        }
    }
}

/// 9.7.3.14 and 9.7.3.17: results with `.ftz` have 20 bits of mantissa, and NaN is `0x7fffffff00000000`; how near they are is
/// not published ("fast, gross"), so the bound is what those bits allow. 9.7.3.16 gives none for `rsqrt.approx.f64` either; it is what nvcc
/// makes of `rsqrt(double)`: 1 ulp, in table 18 of the CUDA C++ programming guide.
#[test]
fn approximations_of_f64() {
    let mut operands: Vec<u64> =
        [0.0, f64::MIN_POSITIVE, 1e-310, 1.0, f64::MAX, f64::INFINITY, f64::NAN].map(f64::to_bits).to_vec();
    operands.extend((0..200_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let negative: Vec<u64> = operands.iter().map(|x| x ^ 1 << 63).collect();
    operands.extend(negative);
    for (opcode, bound) in [
        ("rcp.approx.ftz.f64", 2f64.powi(-20)),
        ("rsqrt.approx.ftz.f64", 2f64.powi(-20)),
        ("rsqrt.approx.f64", 2f64.powi(-52)),
    ] {
        let ftz = opcode.contains("ftz");
        for (x, y) in operands.iter().zip(Unary::new(opcode, 8).run(&operands)) {
            let a = f64::from_bits(*x);
            // The `.ftz` forms read the upper word only.
            let a = if ftz { f64::from_bits(x & !0xffff_ffff) } else { a };
            let a = if ftz && a.is_subnormal() { 0f64.copysign(a) } else { a };
            let got = f64::from_bits(y);
            let exact = if opcode.starts_with("rcp") || a == 0.0 { 1.0 / a } else { 1.0 / a.sqrt() };
            if exact.is_nan() {
                assert!(if ftz { y == 0x7fff_ffff_0000_0000 } else { got.is_nan() }, "{opcode} {a:e} gives {y:#x}");
                continue;
            }
            assert!(!ftz || y as u32 == 0, "{opcode} {a:e}: the lower word is zero");
            if exact.is_infinite() || exact == 0.0 {
                assert_eq!(got.to_bits(), exact.to_bits(), "{opcode} {a:e}");
            } else if exact.abs() >= f64::MIN_POSITIVE {
                assert!((got / exact - 1.0).abs() <= bound, "{opcode} {a:e} gives {got:e}");
            } else if ftz {
                assert!(got == 0.0 || got.abs() >= f64::MIN_POSITIVE, "{opcode} {a:e} gives {got:e}");
            }
        }
    }
}
