//! Floating-point arithmetic, comparisons and conversions, written with `rustc_apfloat` from the manual's text.

use crate::Table;
use crate::integers::int;
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};
use std::cmp::Ordering;

const ROUNDS: [(&str, Round); 4] = [
    (".rn", Round::NearestTiesToEven),
    (".rz", Round::TowardZero),
    (".rm", Round::TowardNegative),
    (".rp", Round::TowardPositive),
];
/// Without a modifier the nearest even.
const DEFAULT: (&str, Round) = ("", Round::NearestTiesToEven);

/// A float format: its NaN as PTX gives it.
trait Format: Float + 'static {
    const CANONICAL: u64;
}
impl Format for Single {
    const CANONICAL: u64 = 0x7fff_ffff;
}
impl Format for Double {
    // The payload is open; programs replace every NaN by this one.
    const CANONICAL: u64 = 0x7ff8_0000_0000_0000;
}
impl Format for Half {
    const CANONICAL: u64 = 0x7fff;
}
impl Format for BFloat {
    const CANONICAL: u64 = 0x7fff;
}

fn of<F: Format>(bits: u64) -> F {
    F::from_bits((bits & (u64::MAX >> (64 - F::BITS))) as u128)
}

fn bits<F: Format>(x: F) -> u64 {
    if x.is_nan() { F::CANONICAL } else { x.to_bits() as u64 }
}

fn flush<F: Format>(x: F) -> F {
    if x.is_denormal() { if x.is_negative() { -F::ZERO } else { F::ZERO } } else { x }
}

/// Clamps to `[0, 1]`; NaN gives +0.
fn saturate<F: Format>(x: F) -> F {
    let one = F::from_u128(1).value;
    if x.is_nan() || x.is_negative() || x.is_zero() {
        F::ZERO
    } else if x > one {
        one
    } else {
        x
    }
}

/// Negative numbers become +0; NaN stays NaN.
fn relu<F: Format>(x: F) -> F {
    if !x.is_nan() && x.is_negative() { F::ZERO } else { x }
}

/// The lesser of two: a number beats NaN, -0 is below +0.
fn minimum<F: Format>(a: F, b: F) -> F {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a.is_zero() && b.is_zero() => {
            if a.is_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

/// The square root, from the integer root of the mantissa scaled by an even power of two.
fn square_root<F: Format>(x: F, round: Round) -> F {
    if x.is_zero() || x.is_nan() || x.is_infinite() && !x.is_negative() {
        return x;
    }
    if x.is_negative() {
        return F::NAN;
    }
    let mut exponent = x.ilogb() - (F::PRECISION as i32 - 1);
    let mut mantissa = x.scalbn(-exponent).to_u128(F::PRECISION).value;
    // 2 * PRECISION + 4 bits or more, so that the root has two more than the result and the rest of it only decides ties.
    let shift = 2 * F::PRECISION as i32 + 4 - (128 - mantissa.leading_zeros() as i32);
    let shift = shift + ((exponent - shift) & 1);
    mantissa <<= shift;
    exponent -= shift;
    let mut root = 0u128;
    for bit in (0..64).rev() {
        let next = root | 1 << bit;
        if next * next <= mantissa {
            root = next;
        }
    }
    let sticky = root << 1 | (root * root != mantissa) as u128;
    F::from_u128_r(sticky, round).value.scalbn(exponent / 2 - 1)
}

/// The registers and lanes of a type: `f16x2` has two halves in one register.
#[derive(Clone, Copy)]
struct Shape {
    ty: &'static str,
    d: &'static str,
    /// One, two and three sources.
    sources: [&'static str; 3],
    lanes: u32,
}

const F32: Shape = Shape { ty: "f32", d: "R", sources: ["R", "Rf", "RfR"], lanes: 1 };
const F64: Shape = Shape { ty: "f64", d: "D", sources: ["D", "Dg", "DgD"], lanes: 1 };
const F16: Shape = Shape { ty: "f16", d: "H", sources: ["H", "HH", "HHH"], lanes: 1 };
const F16X2: Shape = Shape { ty: "f16x2", d: "R", sources: ["R", "RR", "RRR"], lanes: 2 };
const BF16: Shape = Shape { ty: "bf16", ..F16 };
const BF16X2: Shape = Shape { ty: "bf16x2", ..F16X2 };

/// f64 NaN: the payload is open, so the program makes it one of its own.
fn with_own_nan(opcode: &str, sources: usize) -> String {
    let args: Vec<String> = (0..sources).map(|i| format!(", ${i}")).collect();
    format!(
        "{{ .reg .pred t; {opcode} $d0{}; testp.notanumber.f64 t, $d0; selp.b64 $d0, 0x7ff8000000000000, $d0, t; }}",
        args.concat()
    )
}

/// Adds a row that treats every lane by itself.
fn lanes<F: Format>(
    t: &mut Table,
    shape: Shape,
    opcode: String,
    sources: usize,
    f: impl Fn(&[F]) -> u64 + Send + Sync + 'static,
) {
    let text = if shape.ty == "f64" { with_own_nan(&opcode, sources) } else { opcode };
    t.add(text, shape.d, shape.sources[sources - 1], move |s| {
        let mut d = 0;
        for lane in (0..shape.lanes).rev() {
            let values: Vec<F> = s.iter().map(|x| of::<F>(x >> (16 * lane))).collect();
            d = d << 16 | f(&values);
        }
        d
    });
}

/// What arithmetic of a format offers.
struct Offers {
    every_round: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
}

fn arithmetic<F: Format>(t: &mut Table, shape: Shape, offers: &Offers) {
    let ty = shape.ty;
    let ftzs: &[&str] = if offers.ftz { &["", ".ftz"] } else { &[""] };
    let in_format = |ftz: &'static str| move |x: F| if ftz.is_empty() { x } else { flush(x) };
    let rounds = &ROUNDS[..if offers.every_round { 4 } else { 1 }];
    for &ftz in ftzs {
        let z = in_format(ftz);
        let sats: &[&str] = match (offers.sat, offers.relu) {
            (false, false) => &[""],
            (true, false) => &["", ".sat"],
            (false, true) => &["", ".relu"],
            (true, true) => &["", ".sat", ".relu"],
        };
        for &end in sats {
            let out = move |x: F| {
                let x = z(x);
                bits(match end {
                    ".sat" => saturate(x),
                    ".relu" => relu(x),
                    _ => x,
                })
            };
            if end != ".relu" {
                for &(name, round) in std::iter::once(&DEFAULT).chain(rounds) {
                    let op = |op: &str| format!("{op}{name}{ftz}{end}.{ty}");
                    lanes::<F>(t, shape, op("add"), 2, move |v| out(z(v[0]).add_r(z(v[1]), round).value));
                    lanes::<F>(t, shape, op("sub"), 2, move |v| out(z(v[0]).sub_r(z(v[1]), round).value));
                    lanes::<F>(t, shape, op("mul"), 2, move |v| out(z(v[0]).mul_r(z(v[1]), round).value));
                }
            }
            for &(name, round) in rounds {
                let op = |op: &str| format!("{op}{name}{ftz}{end}.{ty}");
                let fma = move |v: &[F]| out(z(v[0]).mul_add_r(z(v[1]), z(v[2]), round).value);
                lanes::<F>(t, shape, op("fma"), 3, fma);
                if offers.every_round {
                    lanes::<F>(t, shape, op("mad"), 3, fma);
                }
                if offers.every_round && end.is_empty() {
                    lanes::<F>(t, shape, op("div"), 2, move |v| out(z(v[0]).div_r(z(v[1]), round).value));
                    lanes::<F>(t, shape, op("rcp"), 1, move |v| out(F::from_u128(1).value.div_r(z(v[0]), round).value));
                    lanes::<F>(t, shape, op("sqrt"), 1, move |v| out(square_root(z(v[0]), round)));
                }
            }
        }
        // The manual leaves open what becomes of NaN in neg and abs; the VM and the reference flip or clear the bit.
        let sign = 1u64 << (F::BITS - 1);
        let own = move |x: F, result| if ty == "f64" && x.is_nan() { F::CANONICAL } else { result };
        lanes::<F>(t, shape, format!("neg{ftz}.{ty}"), 1, move |v| own(v[0], z(v[0]).to_bits() as u64 ^ sign));
        lanes::<F>(t, shape, format!("abs{ftz}.{ty}"), 1, move |v| own(v[0], z(v[0]).to_bits() as u64 & !sign));
        for (op, flip) in [("min", false), ("max", true)] {
            let least = move |a: F, b: F| if flip { -minimum(-a, -b) } else { minimum(a, b) };
            for (nan, xorsign) in [("", ""), (".NaN", ""), ("", ".xorsign.abs"), (".NaN", ".xorsign.abs")] {
                if ty == "f64" && (!nan.is_empty() || !xorsign.is_empty()) {
                    continue;
                }
                lanes::<F>(t, shape, format!("{op}{ftz}{nan}{xorsign}.{ty}"), 2, move |v| {
                    let (a, b) = (z(v[0]), z(v[1]));
                    if a.is_nan() && b.is_nan() || !nan.is_empty() && (a.is_nan() || b.is_nan()) {
                        return F::CANONICAL;
                    }
                    if xorsign.is_empty() {
                        return bits(least(a, b));
                    }
                    let negative = a.is_negative() != b.is_negative();
                    bits(least(a.abs(), b.abs())) | if negative { sign } else { 0 }
                });
            }
        }
    }
}

/// The comparisons and their results for less, equal, greater, unordered.
const COMPARISONS: [(&str, [bool; 4]); 14] = [
    ("eq", [false, true, false, false]),
    ("ne", [true, false, true, false]),
    ("lt", [true, false, false, false]),
    ("le", [true, true, false, false]),
    ("gt", [false, false, true, false]),
    ("ge", [false, true, true, false]),
    ("equ", [false, true, false, true]),
    ("neu", [true, false, true, true]),
    ("ltu", [true, false, false, true]),
    ("leu", [true, true, false, true]),
    ("gtu", [false, false, true, true]),
    ("geu", [false, true, true, true]),
    ("num", [true, true, true, false]),
    ("nan", [false, false, false, true]),
];

fn comparisons<F: Format>(t: &mut Table, shape: Shape, ftz: bool) {
    let ty = shape.ty;
    let two = shape.sources[1];
    let with_predicate: &str = match two {
        "Rf" => "RfP",
        "RR" => "RRP",
        "HH" => "HHP",
        _ => "DgP",
    };
    for (op, holds) in COMPARISONS {
        for z in if ftz { &["", ".ftz"][..] } else { &[""] } {
            let compare = move |a: u64, b: u64| {
                let v = |x: u64| if z.is_empty() { of::<F>(x) } else { flush(of::<F>(x)) };
                holds[match v(a).partial_cmp(&v(b)) {
                    Some(Ordering::Less) => 0,
                    Some(Ordering::Equal) => 1,
                    Some(Ordering::Greater) => 2,
                    None => 3,
                }]
            };
            if shape.lanes == 2 {
                let both = move |s: &[u64]| [compare(s[0], s[1]) as u64, compare(s[0] >> 16, s[1] >> 16) as u64];
                t.multi(format!("setp.{op}{z}.{ty} $d0|$d1, $0, $1;"), "PP", two, move |s| [both(s)[0], both(s)[1], 0]);
                for (name, combine) in BOOLEANS {
                    t.multi(format!("setp.{op}.{name}{z}.{ty} $d0|$d1, $0, $1, $2;"), "PP", with_predicate, move |s| {
                        [combine(both(s)[0], s[2]), combine(both(s)[1], s[2]), 0]
                    });
                }
                for (to, one) in [(ty, if ty == "f16x2" { 0x3c00 } else { 0x3f80 }), ("u32", 0xffff), ("s32", 0xffff)] {
                    let pack = move |d: [u64; 2]| (d[1] << 16 | d[0]) * one;
                    t.add(format!("set.{op}{z}.{to}.{ty}"), "R", two, move |s| pack(both(s)));
                    for (name, combine) in BOOLEANS {
                        t.add(format!("set.{op}.{name}{z}.{to}.{ty}"), "R", with_predicate, move |s| {
                            pack(both(s).map(|holds| combine(holds, s[2])))
                        });
                    }
                }
                continue;
            }
            crate::integers::comparison(t, op, z, ty, two, with_predicate, move |s| compare(s[0], s[1]));
        }
    }
}

type Combine = fn(u64, u64) -> u64;

/// How `setp` and `set` combine their result with a predicate.
pub(crate) const BOOLEANS: [(&str, Combine); 3] = [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];

fn convert<A: Format + FloatConvert<B>, B: Format>(x: A, round: Round) -> B {
    x.convert_r(round, &mut false).value
}

/// `.satfinite`: infinity becomes the greatest number.
fn finite<F: Format>(x: F) -> F {
    match (x.is_infinite(), x.is_negative()) {
        (true, false) => F::largest(),
        (true, true) => -F::largest(),
        _ => x,
    }
}

/// `cvt` between a float format and the integers.
fn integers<F: Format>(t: &mut Table, shape: Shape) {
    let (ty, d) = (shape.ty, shape.d);
    for (width, kind) in [(8u32, "H"), (16, "H"), (32, "R"), (64, "D")] {
        for signed in [false, true] {
            let int_ty = format!("{}{width}", if signed { 's' } else { 'u' });
            for (name, round) in ROUNDS {
                // Conversions to integers clamp with and without `.sat`; `.ftz` is for f32.
                let ends: &[&str] = if ty == "f32" { &["", ".ftz", ".sat", ".ftz.sat"] } else { &["", ".sat"] };
                for &end in ends {
                    t.add(format!("cvt{name}i{end}.{int_ty}.{ty}"), kind, d, move |s| {
                        let x = of::<F>(s[0]);
                        let x = if end.contains("ftz") { flush(x) } else { x };
                        let value = if x.is_nan() {
                            // Zero, unless f64 or a 64-bit integer is involved: then the top bit alone.
                            if F::BITS == 64 || width == 64 { 1i128 << (width - 1) } else { 0 }
                        } else if signed {
                            x.to_i128_r(width as usize, round, &mut false).value
                        } else {
                            x.to_u128_r(width as usize, round, &mut false).value as i128
                        };
                        int(value as u64, signed, width) as u64
                    });
                }
                for &end in if ty == "bf16" { &[""] } else { ends } {
                    t.add(format!("cvt{name}{end}.{ty}.{int_ty}"), d, kind, move |s| {
                        let v = int(s[0], signed, width);
                        let x = if signed {
                            F::from_i128_r(v, round).value
                        } else {
                            F::from_u128_r(v as u128, round).value
                        };
                        bits(if end.contains("sat") { saturate(x) } else { x })
                    });
                }
            }
        }
    }
}

/// `cvt` of one float format to another, with every ending it takes.
fn float_to_float<A: Format + FloatConvert<B>, B: Format>(
    t: &mut Table,
    (from, to): (Shape, Shape),
    rounds: &[(&'static str, Round)],
    ends: &[&'static str],
) {
    for &(name, round) in rounds {
        for &end in ends {
            let opcode = format!("cvt{name}{end}.{}.{}", to.ty, from.ty);
            let text = if to.ty == "f64" { with_own_nan(&opcode, 1) } else { opcode };
            t.add(text, to.d, from.d, move |s| {
                let x = of::<A>(s[0]);
                let x = if end.contains("ftz") && A::BITS == 32 { flush(x) } else { x };
                let x: B = convert(x, round);
                let x = if end.contains("ftz") && B::BITS == 32 { flush(x) } else { x };
                let x = if end.contains("satfinite") { finite(x) } else { x };
                let x = if end.contains("relu") { relu(x) } else { x };
                bits(if end.ends_with(".sat") { saturate(x) } else { x })
            });
        }
    }
}

/// `cvt` to integral values of the same format.
fn integral<F: Format>(t: &mut Table, shape: Shape, ends: &[&'static str]) {
    for (name, round) in ROUNDS {
        for &end in ends {
            let opcode = format!("cvt{name}i{end}.{0}.{0}", shape.ty);
            lanes::<F>(t, shape, opcode, 1, move |v| {
                let x = if end.contains("ftz") { flush(v[0]) } else { v[0] };
                let x = x.round_to_integral(round).value;
                bits(if end.contains("sat") { saturate(x) } else { x })
            });
        }
    }
    // No rounding: the value itself, saturated or flushed. What a plain copy does with NaN is open.
    for &end in ends.iter().filter(|e| !e.is_empty()) {
        let opcode = format!("cvt{end}.{0}.{0}", shape.ty);
        lanes::<F>(t, shape, opcode, 1, move |v| {
            let x = if end.contains("ftz") { flush(v[0]) } else { v[0] };
            if end.contains("sat") { bits(saturate(x)) } else { x.to_bits() as u64 }
        });
    }
}

fn conversions(t: &mut Table) {
    integers::<Single>(t, F32);
    integers::<Double>(t, F64);
    integers::<Half>(t, F16);
    integers::<BFloat>(t, BF16);
    integral::<Single>(t, F32, &["", ".ftz", ".sat", ".ftz.sat"]);
    integral::<Double>(t, F64, &["", ".sat"]);
    integral::<Half>(t, F16, &["", ".sat"]);
    integral::<BFloat>(t, BF16, &[""]);
    let exact = &[DEFAULT];
    let to_f32 = &["", ".ftz", ".sat", ".ftz.sat"];
    float_to_float::<Half, Single>(t, (F16, F32), exact, to_f32);
    float_to_float::<BFloat, Single>(t, (BF16, F32), exact, to_f32);
    float_to_float::<Half, Double>(t, (F16, F64), exact, &["", ".sat"]);
    float_to_float::<BFloat, Double>(t, (BF16, F64), exact, &["", ".sat"]);
    float_to_float::<Single, Double>(t, (F32, F64), exact, to_f32);
    float_to_float::<Double, Single>(t, (F64, F32), &ROUNDS, to_f32);
    float_to_float::<Double, Half>(t, (F64, F16), &ROUNDS, &["", ".sat"]);
    float_to_float::<Double, BFloat>(t, (F64, BF16), &ROUNDS, &[""]);
    let narrow = &["", ".ftz", ".sat", ".ftz.sat", ".relu", ".satfinite", ".relu.satfinite"];
    float_to_float::<Single, Half>(t, (F32, F16), &ROUNDS, narrow);
    float_to_float::<Single, BFloat>(t, (F32, BF16), &ROUNDS, &["", ".ftz", ".relu", ".satfinite", ".relu.satfinite"]);
    for rounds in [&ROUNDS[..], &[DEFAULT]] {
        float_to_float::<BFloat, Half>(t, (BF16, F16), rounds, &["", ".sat"]);
        float_to_float::<Half, BFloat>(t, (F16, BF16), rounds, &[""]);
    }

    for (name, round) in &ROUNDS[..2] {
        for end in ["", ".relu", ".satfinite", ".relu.satfinite"] {
            let round = *round;
            fn one<F: Format>(x: u64, round: Round, end: &str) -> u64
            where
                Single: FloatConvert<F>,
            {
                let x: F = convert(of::<Single>(x), round);
                let x = if end.contains("satfinite") { finite(x) } else { x };
                bits(if end.contains("relu") { relu(x) } else { x })
            }
            t.add(format!("cvt{name}{end}.f16x2.f32"), "R", "RR", move |s| {
                one::<Half>(s[0], round, end) << 16 | one::<Half>(s[1], round, end)
            });
            t.add(format!("cvt{name}{end}.bf16x2.f32"), "R", "RR", move |s| {
                one::<BFloat>(s[0], round, end) << 16 | one::<BFloat>(s[1], round, end)
            });
        }
    }
    // tf32: an f32 with 10 bits of mantissa; the reference rounds the 24-bit mantissa as an integer.
    for name in [".rna", ".rn", ".rz"] {
        for end in ["", ".relu", ".satfinite", ".satfinite.relu"] {
            t.add(format!("cvt{name}{end}.tf32.f32"), "R", "R", move |s| {
                let x = of::<Single>(s[0]);
                if x.is_nan() {
                    return Single::CANONICAL;
                }
                let (whole, rest) = (s[0] >> 13, s[0] & 0x1fff);
                let up = match name {
                    ".rna" => rest >= 0x1000,
                    ".rn" => rest > 0x1000 || rest == 0x1000 && whole & 1 == 1,
                    _ => false,
                };
                let value = if x.is_infinite() { s[0] } else { (whole + up as u64) << 13 };
                let most = value & 0x8000_0000 | 0x7f7f_e000;
                let value = if end.contains("satfinite") && value & 0x7fff_ffff >= 0x7f80_0000 { most } else { value };
                if end.contains("relu") && value >> 31 == 1 { 0 } else { value }
            });
        }
    }
}

pub(crate) fn add(t: &mut Table) {
    arithmetic::<Single>(t, F32, &Offers { every_round: true, ftz: true, sat: true, relu: false });
    arithmetic::<Double>(t, F64, &Offers { every_round: true, ftz: false, sat: false, relu: false });
    for shape in [F16, F16X2] {
        arithmetic::<Half>(t, shape, &Offers { every_round: false, ftz: true, sat: true, relu: true });
        comparisons::<Half>(t, shape, true);
    }
    for shape in [BF16, BF16X2] {
        arithmetic::<BFloat>(t, shape, &Offers { every_round: false, ftz: false, sat: false, relu: true });
        comparisons::<BFloat>(t, shape, false);
    }
    comparisons::<Single>(t, F32, true);
    comparisons::<Double>(t, F64, false);
    conversions(t);

    t.add("copysign.f32", "R", "RR", |s| s[0] & 0x8000_0000 | s[1] & 0x7fff_ffff);
    t.add("copysign.f64", "D", "DD", |s| s[0] & 1 << 63 | s[1] & !(1 << 63));
    fn test<F: Format>(op: &str, x: F) -> u64 {
        (match op {
            "finite" => x.is_finite(),
            "infinite" => x.is_infinite(),
            "number" => !x.is_nan(),
            "notanumber" => x.is_nan(),
            "normal" => x.is_normal() || x.is_zero(),
            _ => x.is_denormal(),
        }) as u64
    }
    for op in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        t.add(format!("testp.{op}.f32"), "P", "R", move |s| test(op, of::<Single>(s[0])));
        t.add(format!("testp.{op}.f64"), "P", "D", move |s| test(op, of::<Double>(s[0])));
    }
    for (bits, kinds) in [(16, ("H", "HHR")), (32, ("R", "RRR")), (64, ("D", "DDR"))] {
        for ty in ["b", "u", "s", "f"].into_iter().filter(|ty| *ty != "f" || bits > 16) {
            for ftz in ["", ".ftz"] {
                // Flushed, a negative subnormal is -0, which is not less than zero.
                t.add(format!("slct{ftz}.{ty}{bits}.f32"), kinds.0, kinds.1, move |s| {
                    let c = of::<Single>(s[2]);
                    let c = if ftz.is_empty() { c } else { flush(c) };
                    if c >= Single::ZERO { s[0] } else { s[1] }
                });
            }
        }
    }
}
