//! Random programs in PTX text against a scalar reference.
//!
//! A program is a list of instructions drawn from [`table`], with random registers and immediate operands, under random predicates and
//! with random forward branches over parts of it. It runs for 45 threads (a full and a partial warp), each with numbers of its own,
//! and every register of every thread is compared afterwards. The reference is written from the manual's text with
//! 128-bit integers and `rustc_apfloat`, and shares nothing with the VM.
//!
//! What the manual leaves open is kept out of the programs: division by zero, the payload of an f64 NaN, the last bits of approximations.

use proptest::prelude::*;
use ptx_vm::{Launch, Module, Vm, VmConfig};
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};
use std::fmt::Write;
use std::sync::OnceLock;

const THREADS: usize = 45;
/// Registers of each width: `%h` 16, `%r` 32, `%d` 64 bits, and predicates `%p`.
const REGISTERS: usize = 6;

/// One thread's registers.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    p: [u64; REGISTERS],
    h: [u64; REGISTERS],
    r: [u64; REGISTERS],
    d: [u64; REGISTERS],
}

impl State {
    fn bank(&mut self, kind: char) -> &mut [u64; REGISTERS] {
        match kind.to_ascii_uppercase() {
            'P' => &mut self.p,
            'H' => &mut self.h,
            'R' | 'F' => &mut self.r,
            _ => &mut self.d,
        }
    }
}

fn register(kind: char) -> char {
    match kind.to_ascii_uppercase() {
        'F' => 'r',
        'G' => 'd',
        other => other.to_ascii_lowercase(),
    }
}

fn mask(kind: char) -> u64 {
    match kind.to_ascii_uppercase() {
        'P' => 1,
        'H' => 0xffff,
        'R' | 'F' => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Values of the sources to values of up to three destinations.
type Eval = Box<dyn Fn(&[u64]) -> [u64; 3] + Send + Sync>;

/// An instruction: its text, its destinations and sources (`P H R D`; lower case may be an immediate integer, `f` and `g` an
/// immediate float), and what it computes.
struct Row {
    text: String,
    dst: &'static str,
    src: &'static str,
    eval: Eval,
}

struct Table(Vec<Row>);

impl Table {
    /// `text` is a mnemonic, or a template with `$d0`, `$0`, `$1` … and semicolons.
    fn add(
        &mut self,
        text: impl Into<String>,
        dst: &'static str,
        src: &'static str,
        eval: impl Fn(&[u64]) -> u64 + Send + Sync + 'static,
    ) {
        self.multi(text, dst, src, move |s| [eval(s), 0, 0]);
    }

    fn multi(
        &mut self,
        text: impl Into<String>,
        dst: &'static str,
        src: &'static str,
        eval: impl Fn(&[u64]) -> [u64; 3] + Send + Sync + 'static,
    ) {
        self.0.push(Row { text: text.into(), dst, src, eval: Box::new(eval) });
    }
}

/// Sign extension of the low `bits`.
fn sx(x: u64, bits: u32) -> i128 {
    ((x << (64 - bits)) as i64 >> (64 - bits)) as i128
}

/// The value of an integer operand.
fn int(x: u64, signed: bool, bits: u32) -> i128 {
    if signed { sx(x, bits) } else { (x & (u64::MAX >> (64 - bits))) as i128 }
}

fn integers(t: &mut Table) {
    for (bits, kinds) in
        [(16u32, ["h", "hh", "hhh", "H"]), (32, ["r", "rr", "rrr", "R"]), (64, ["d", "dd", "ddd", "D"])]
    {
        let [one, two, three, d] = kinds;
        for signed in [false, true] {
            let ty = format!("{}{bits}", if signed { 's' } else { 'u' });
            let v = move |x: u64| int(x, signed, bits);
            t.add(format!("add.{ty}"), d, two, move |s| (v(s[0]) + v(s[1])) as u64);
            t.add(format!("sub.{ty}"), d, two, move |s| (v(s[0]) - v(s[1])) as u64);
            t.add(format!("mul.lo.{ty}"), d, two, move |s| v(s[0]).wrapping_mul(v(s[1])) as u64);
            let high = move |a: u64, b: u64| {
                // The product of two unsigned 64-bit numbers needs all of a u128.
                if signed { (v(a) * v(b)) >> bits } else { ((v(a) as u128 * v(b) as u128) >> bits) as i128 }
            };
            t.add(format!("mul.hi.{ty}"), d, two, move |s| high(s[0], s[1]) as u64);
            t.add(format!("mad.lo.{ty}"), d, three, move |s| {
                v(s[0]).wrapping_mul(v(s[1])).wrapping_add(v(s[2])) as u64
            });
            t.add(format!("mad.hi.{ty}"), d, three, move |s| (high(s[0], s[1]) + v(s[2])) as u64);
            t.add(format!("sad.{ty}"), d, three, move |s| ((v(s[0]) - v(s[1])).abs() + v(s[2])) as u64);
            t.add(format!("min.{ty}"), d, two, move |s| v(s[0]).min(v(s[1])) as u64);
            t.add(format!("max.{ty}"), d, two, move |s| v(s[0]).max(v(s[1])) as u64);
            let divide = |op: &str| format!("{{ .reg .b{bits} t; or.b{bits} t, $1, 1; {op}.{ty} $d0, $0, t; }}");
            t.add(divide("div"), d, two, move |s| (v(s[0]) / v(s[1] | 1)) as u64);
            t.add(divide("rem"), d, two, move |s| (v(s[0]) % v(s[1] | 1)) as u64);
            let shift: &'static str = match bits {
                16 => "hr",
                32 => "rr",
                _ => "dr",
            };
            t.add(format!("shr.{ty}"), d, shift, move |s| (v(s[0]) >> s[1].min(bits as u64)) as u64);
            for (op, f) in [
                ("eq", (|a, b| a == b) as fn(i128, i128) -> bool),
                ("ne", |a, b| a != b),
                ("lt", |a, b| a < b),
                ("le", |a, b| a <= b),
                ("gt", |a, b| a > b),
                ("ge", |a, b| a >= b),
            ] {
                t.add(format!("setp.{op}.{ty}"), "P", two, move |s| f(v(s[0]), v(s[1])) as u64);
                if bits == 32 {
                    t.multi(format!("setp.{op}.and.{ty} $d0|$d1, $0, $1, $2;"), "PP", "rrP", move |s| {
                        let c = f(v(s[0]), v(s[1]));
                        [c as u64 & s[2], !c as u64 & s[2], 0]
                    });
                    t.add(format!("setp.{op}.xor.{ty} $d0, $0, $1, !$2;"), "P", "rrP", move |s| {
                        f(v(s[0]), v(s[1])) as u64 ^ s[2] ^ 1
                    });
                    t.add(
                        format!("set.{op}.u32.{ty}"),
                        "R",
                        "rr",
                        move |s| {
                            if f(v(s[0]), v(s[1])) { 0xffff_ffff } else { 0 }
                        },
                    );
                    t.add(
                        format!("set.{op}.f32.{ty}"),
                        "R",
                        "rr",
                        move |s| {
                            if f(v(s[0]), v(s[1])) { 0x3f80_0000 } else { 0 }
                        },
                    );
                }
            }
            if bits != 64 {
                let (wide_d, wide_three): (&str, &str) = if bits == 16 { ("R", "hhr") } else { ("D", "rrd") };
                t.add(format!("mul.wide.{ty}"), wide_d, two, move |s| (v(s[0]) * v(s[1])) as u64);
                t.add(format!("mad.wide.{ty}"), wide_d, wide_three, move |s| {
                    (v(s[0]) * v(s[1])).wrapping_add(s[2] as i128) as u64
                });
            }
            if bits != 16 {
                let field = if bits == 32 { "rrr" } else { "drr" };
                t.add(format!("bfe.{ty}"), d, field, move |s| {
                    let (pos, len, msb) = (s[1] & 0xff, s[2] & 0xff, bits as u64 - 1);
                    let bit = |i: u64| s[0] >> i & 1;
                    let sbit = if !signed || len == 0 { 0 } else { bit((pos + len - 1).min(msb)) };
                    (0..=msb).fold(0, |d, i| d | (if i < len && pos + i <= msb { bit(pos + i) } else { sbit }) << i)
                });
                for shiftamt in [false, true] {
                    t.add(format!("bfind{}.{ty}", if shiftamt { ".shiftamt" } else { "" }), "R", one, move |s| {
                        let a = if signed && v(s[0]) < 0 { !s[0] } else { s[0] };
                        let found = (0..bits as u64).rev().find(|i| a >> i & 1 == 1);
                        found.map_or(0xffff_ffff, |i| if shiftamt { bits as u64 - 1 - i } else { i })
                    });
                }
            }
            for half in ["lo", "hi"].into_iter().filter(|_| bits == 32) {
                let f = move |a: u64, b: u64| {
                    int(a, signed, 24).wrapping_mul(int(b, signed, 24)) >> if half == "hi" { 16 } else { 0 }
                };
                t.add(format!("mul24.{half}.{ty}"), "R", "rr", move |s| f(s[0], s[1]) as u64);
                t.add(format!("mad24.{half}.{ty}"), "R", "rrr", move |s| (f(s[0], s[1]) + s[2] as i128) as u64);
            }
            // Conversions between integers.
            for (to, to_kind) in [(8u32, "H"), (16, "H"), (32, "R"), (64, "D")] {
                for to_signed in [false, true] {
                    let to_ty = format!("{}{to}", if to_signed { 's' } else { 'u' });
                    // A result narrower than its register is extended.
                    let fit = move |x: i128| int(x as u64, to_signed, to) as u64;
                    t.add(format!("cvt.{to_ty}.{ty}"), to_kind, d, move |s| fit(v(s[0])));
                    let (least, greatest) =
                        if to_signed { (-(1i128 << (to - 1)), (1 << (to - 1)) - 1) } else { (0, (1i128 << to) - 1) };
                    t.add(format!("cvt.sat.{to_ty}.{ty}"), to_kind, d, move |s| fit(v(s[0]).clamp(least, greatest)));
                }
            }
        }
        let low = move |x: u64| x & (u64::MAX >> (64 - bits));
        t.add(format!("abs.s{bits}"), d, one, move |s| sx(s[0], bits).unsigned_abs() as u64);
        t.add(format!("neg.s{bits}"), d, one, move |s| (-sx(s[0], bits)) as u64);
        t.add(format!("and.b{bits}"), d, two, |s| s[0] & s[1]);
        t.add(format!("or.b{bits}"), d, two, |s| s[0] | s[1]);
        t.add(format!("xor.b{bits}"), d, two, |s| s[0] ^ s[1]);
        t.add(format!("not.b{bits}"), d, one, |s| !s[0]);
        t.add(format!("cnot.b{bits}"), d, one, move |s| (low(s[0]) == 0) as u64);
        t.add(format!("mov.b{bits}"), d, one, |s| s[0]);
        let (shift, select): (&str, &str) = match bits {
            16 => ("hr", "hhP"),
            32 => ("rr", "rrP"),
            _ => ("dr", "ddP"),
        };
        t.add(format!("shl.b{bits}"), d, shift, move |s| if s[1] >= bits as u64 { 0 } else { s[0] << s[1] });
        t.add(format!("selp.b{bits}"), d, select, |s| if s[2] != 0 { s[0] } else { s[1] });
        if bits != 16 {
            t.add(format!("popc.b{bits}"), "R", d, move |s| low(s[0]).count_ones() as u64);
            t.add(format!("clz.b{bits}"), "R", d, move |s| {
                (0..bits).rev().take_while(|i| s[0] >> i & 1 == 0).count() as u64
            });
            t.add(format!("brev.b{bits}"), d, d, move |s| {
                (0..bits).fold(0, |r, i| r | (s[0] >> i & 1) << (bits - 1 - i))
            });
            let insert = if bits == 32 { "rrrr" } else { "ddrr" };
            t.add(format!("bfi.b{bits}"), d, insert, move |s| {
                let (pos, len) = (s[2] & 0xff, s[3] & 0xff);
                (0..len)
                    .take_while(|i| pos + i < bits as u64)
                    .fold(s[1], |f, i| f & !(1 << (pos + i)) | (s[0] >> i & 1) << (pos + i))
            });
        }
    }

    let r = |x: i128| x.clamp(i32::MIN as i128, i32::MAX as i128) as u64;
    t.add("add.sat.s32", "R", "rr", move |s| r(sx(s[0], 32) + sx(s[1], 32)));
    t.add("sub.sat.s32", "R", "rr", move |s| r(sx(s[0], 32) - sx(s[1], 32)));
    t.add("mad.hi.sat.s32", "R", "rrr", move |s| r(((sx(s[0], 32) * sx(s[1], 32)) >> 32) + sx(s[2], 32)));
    t.add("slct.b32.s32", "R", "rrr", |s| if sx(s[2], 32) >= 0 { s[0] } else { s[1] });
    t.add("slct.u64.s32", "D", "ddr", |s| if sx(s[2], 32) >= 0 { s[0] } else { s[1] });
    t.add("{ .reg .b32 t; and.b32 t, $1, 31; fns.b32 $d0, $0, t, $2; }", "R", "Rrr", |s| {
        let (mask, base, offset) = (s[0], (s[1] & 31) as i64, s[2] as u32 as i32 as i64);
        if offset == 0 {
            return if mask >> base & 1 == 1 { base as u64 } else { 0xffff_ffff };
        }
        let (mut pos, mut count) = (base, offset.abs() - 1);
        while (0..32).contains(&pos) {
            if mask >> pos & 1 == 1 {
                if count == 0 {
                    return pos as u64;
                }
                count -= 1;
            }
            pos += offset.signum();
        }
        0xffff_ffff
    });
    for wrap in [false, true] {
        let n = move |c: u64| if wrap { c & 31 } else { c.min(32) };
        let suffix = if wrap { "wrap" } else { "clamp" };
        t.add(format!("shf.l.{suffix}.b32"), "R", "rrr", move |s| (s[1] << 32 | s[0]) << n(s[2]) >> 32);
        t.add(format!("shf.r.{suffix}.b32"), "R", "rrr", move |s| (s[1] << 32 | s[0]) >> n(s[2]));
    }
    t.add("prmt.b32", "R", "rrr", |s| {
        let source = s[1] << 32 | s[0];
        (0..4).fold(0, |d, i| {
            let control = s[2] >> (4 * i) & 0xf;
            let byte = source >> (8 * (control & 7)) & 0xff;
            let byte = if control & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
            d | byte << (8 * i)
        })
    });
    for (mode, rows) in [
        ("f4e", [0x3210u64, 0x4321, 0x5432, 0x6543]),
        ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
        ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
        ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
        ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
        ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
    ] {
        t.add(format!("prmt.b32.{mode}"), "R", "rrr", move |s| {
            let source = s[1] << 32 | s[0];
            (0..4).fold(0, |d, i| d | (source >> (8 * (rows[(s[2] & 3) as usize] >> (4 * i) & 7)) & 0xff) << (8 * i))
        });
    }
    for table in [0x01u64, 0x1b, 0x3c, 0x40, 0x69, 0x78, 0x80, 0x96, 0xc0, 0xca, 0xe8, 0xea, 0xf8, 0xfe] {
        t.add(format!("lop3.b32 $d0, $0, $1, $2, {table:#x};"), "R", "rrr", move |s| {
            (0..32)
                .fold(0, |d, i| d | (table >> ((s[0] >> i & 1) << 2 | (s[1] >> i & 1) << 1 | s[2] >> i & 1) & 1) << i)
        });
    }
    for (a_signed, b_signed) in [(false, false), (false, true), (true, false), (true, true)] {
        let ty = |signed| if signed { "s32" } else { "u32" };
        let pair = format!("{}.{}", ty(a_signed), ty(b_signed));
        t.add(format!("dp4a.{pair}"), "R", "rrr", move |s| {
            (0..4).fold(s[2] as i128, |d, i| {
                d + int(s[0] >> (8 * i) & 0xff, a_signed, 8) * int(s[1] >> (8 * i) & 0xff, b_signed, 8)
            }) as u64
        });
        for (mode, first) in [("lo", 0), ("hi", 2)] {
            t.add(format!("dp2a.{mode}.{pair}"), "R", "rrr", move |s| {
                (0..2).fold(s[2] as i128, |d, i| {
                    d + int(s[0] >> (16 * i) & 0xffff, a_signed, 16)
                        * int(s[1] >> (8 * (i + first)) & 0xff, b_signed, 8)
                }) as u64
            });
        }
    }
    // Carry chains: 96-bit sums and differences, a 64-bit multiply-add from 32-bit parts.
    t.multi("add.cc.u32 $d0, $0, $1; addc.cc.u32 $d1, $2, $3; addc.u32 $d2, $4, $5;", "RRR", "RRRRRR", |s| {
        let sum = (s[0] as u128 | (s[2] as u128) << 32 | (s[4] as u128) << 64)
            + (s[1] as u128 | (s[3] as u128) << 32 | (s[5] as u128) << 64);
        [sum as u64, (sum >> 32) as u64, (sum >> 64) as u64]
    });
    t.multi("sub.cc.u32 $d0, $0, $1; subc.cc.u32 $d1, $2, $3; subc.u32 $d2, $4, $5;", "RRR", "RRRRRR", |s| {
        let join = |a: u64, b: u64, c: u64| a as i128 | (b as i128) << 32 | (c as i128) << 64;
        let difference = join(s[0], s[2], s[4]) - join(s[1], s[3], s[5]);
        [difference as u64, (difference >> 32) as u64, (difference >> 64) as u64]
    });
    t.multi("add.cc.u64 $d0, $0, $1; addc.u64 $d1, $2, $3;", "DD", "DDDD", |s| {
        let (low, carry) = s[0].overflowing_add(s[1]);
        [low, s[2].wrapping_add(s[3]).wrapping_add(carry as u64), 0]
    });
    t.multi("mad.lo.cc.u32 $d0, $0, $1, $2; madc.hi.u32 $d1, $0, $1, $3;", "RR", "RRRR", |s| {
        let sum = (s[0] as u128 * s[1] as u128) + (s[2] as u128 | (s[3] as u128) << 32);
        [sum as u64, (sum >> 32) as u64, 0]
    });
    t.add("and.pred", "P", "PP", |s| s[0] & s[1]);
    t.add("or.pred", "P", "PP", |s| s[0] | s[1]);
    t.add("xor.pred", "P", "PP", |s| s[0] ^ s[1]);
    t.add("not.pred", "P", "P", |s| s[0] ^ 1);
    t.add("mov.b64 $d0, {$0, $1};", "D", "RR", |s| s[1] << 32 | s[0]);
    t.multi("mov.b64 {$d0, $d1}, $0;", "RR", "D", |s| [s[0], s[0] >> 32, 0]);
    t.add("mov.b32 $d0, {$0, $1};", "R", "HH", |s| s[1] << 16 | s[0]);
    t.multi("mov.b32 {$d0, $d1}, $0;", "HH", "R", |s| [s[0], s[0] >> 16, 0]);
    t.add("mov.b64 $d0, {$0, $1, $2, $3};", "D", "HHHH", |s| s[3] << 48 | s[2] << 32 | s[1] << 16 | s[0]);
}

const ROUNDS: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

/// A float format: its kind of register, and its NaN as PTX gives it.
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

fn float_arithmetic<F: Format>(t: &mut Table, ty: &'static str, kinds: [&'static str; 4], all_rounds: bool, ftz: bool) {
    let [d, one, two, three] = kinds;
    let nan_guard = move |instruction: String| {
        // f64 NaN: the payload is open, so the program makes it one of its own.
        if ty == "f64" {
            format!(
                "{{ .reg .pred t; {instruction} testp.notanumber.f64 t, $d0; selp.b64 $d0, 0x7ff8000000000000, $d0, t; }}"
            )
        } else {
            instruction
        }
    };
    let args = ["$d0, $0;", "$d0, $0, $1;", "$d0, $0, $1, $2;"];
    for (name, round) in ROUNDS.into_iter().take(if all_rounds { 4 } else { 1 }) {
        for modifier in ["", ".ftz", ".sat", ".ftz.sat"] {
            if modifier.contains("ftz") && !ftz || modifier.contains("sat") && ty != "f32" && ty != "f16" {
                continue;
            }
            let before = move |x: u64| {
                if modifier.contains("ftz") { flush(of::<F>(x)) } else { of::<F>(x) }
            };
            let after = move |x: F| {
                let x = if modifier.contains("ftz") { flush(x) } else { x };
                bits(if modifier.contains("sat") { saturate(x) } else { x })
            };
            let op = |op: &str, args: &str| nan_guard(format!("{op}.{name}{modifier}.{ty} {args}"));
            t.add(op("add", args[1]), d, two, move |s| after(before(s[0]).add_r(before(s[1]), round).value));
            t.add(op("sub", args[1]), d, two, move |s| after(before(s[0]).sub_r(before(s[1]), round).value));
            t.add(op("mul", args[1]), d, two, move |s| after(before(s[0]).mul_r(before(s[1]), round).value));
            t.add(op("fma", args[2]), d, three, move |s| {
                after(before(s[0]).mul_add_r(before(s[1]), before(s[2]), round).value)
            });
            if all_rounds && !modifier.contains("sat") {
                t.add(op("div", args[1]), d, two, move |s| after(before(s[0]).div_r(before(s[1]), round).value));
                t.add(op("rcp", args[0]), d, one, move |s| {
                    after(F::from_u128(1).value.div_r(before(s[0]), round).value)
                });
            }
        }
    }
    t.add(nan_guard(format!("min.{ty} {}", args[1])), d, two, |s| bits(minimum(of::<F>(s[0]), of::<F>(s[1]))));
    t.add(nan_guard(format!("max.{ty} {}", args[1])), d, two, |s| bits(-minimum(-of::<F>(s[0]), -of::<F>(s[1]))));
    if ty != "f64" {
        t.add(format!("min.NaN.{ty}"), d, two, |s| {
            let (a, b) = (of::<F>(s[0]), of::<F>(s[1]));
            if a.is_nan() || b.is_nan() { F::CANONICAL } else { bits(minimum(a, b)) }
        });
    }
    // The manual leaves open what becomes of NaN in neg and abs; the VM and the reference flip or clear the bit.
    let sign = 1 << (F::BITS - 1);
    t.add(format!("neg.{ty}"), d, one, move |s| s[0] ^ sign);
    t.add(format!("abs.{ty}"), d, one, move |s| s[0] & !sign);
    for (op, less, equal, greater, unordered) in [
        ("eq", false, true, false, false),
        ("ne", true, false, true, false),
        ("lt", true, false, false, false),
        ("le", true, true, false, false),
        ("gt", false, false, true, false),
        ("ge", false, true, true, false),
        ("equ", false, true, false, true),
        ("neu", true, false, true, true),
        ("ltu", true, false, false, true),
        ("leu", true, true, false, true),
        ("gtu", false, false, true, true),
        ("geu", false, true, true, true),
        ("num", true, true, true, false),
        ("nan", false, false, false, true),
    ] {
        for ftz in [false, true] {
            if ftz && ty != "f32" {
                continue;
            }
            t.add(format!("setp.{op}{}.{ty}", if ftz { ".ftz" } else { "" }), "P", two, move |s| {
                let v = |x: u64| if ftz { flush(of::<F>(x)) } else { of::<F>(x) };
                (match v(s[0]).partial_cmp(&v(s[1])) {
                    Some(std::cmp::Ordering::Less) => less,
                    Some(std::cmp::Ordering::Equal) => equal,
                    Some(std::cmp::Ordering::Greater) => greater,
                    None => unordered,
                }) as u64
            });
        }
    }
}

/// Both halves of a word by an instruction on halves.
fn packed<F: Format>(t: &mut Table, ty: &'static str) {
    let near = Round::NearestTiesToEven;
    let both = |s: &[u64], f: &dyn Fn(&[F]) -> u64| {
        let half = |i: u32| f(&s.iter().map(|x| of::<F>(x >> (16 * i) & 0xffff)).collect::<Vec<_>>());
        half(1) << 16 | half(0)
    };
    t.add(format!("add.rn.{ty}"), "R", "RR", move |s| both(s, &|v| bits(v[0].add_r(v[1], near).value)));
    t.add(format!("sub.rn.{ty}"), "R", "RR", move |s| both(s, &|v| bits(v[0].sub_r(v[1], near).value)));
    t.add(format!("mul.rn.{ty}"), "R", "RR", move |s| both(s, &|v| bits(v[0].mul_r(v[1], near).value)));
    t.add(format!("fma.rn.{ty}"), "R", "RRR", move |s| both(s, &|v| bits(v[0].mul_add_r(v[1], v[2], near).value)));
    t.add(format!("fma.rn.relu.{ty}"), "R", "RRR", move |s| {
        both(s, &|v| {
            let x = v[0].mul_add_r(v[1], v[2], near).value;
            if x.is_negative() && !x.is_nan() { 0 } else { bits(x) }
        })
    });
    t.add(format!("min.{ty}"), "R", "RR", move |s| both(s, &|v| bits(minimum(v[0], v[1]))));
    t.add(format!("max.NaN.{ty}"), "R", "RR", move |s| {
        both(s, &|v| {
            if v[0].is_nan() || v[1].is_nan() { F::CANONICAL } else { bits(-minimum(-v[0], -v[1])) }
        })
    });
}

fn convert<A: Format + FloatConvert<B>, B: Format>(x: A, round: Round) -> B {
    x.convert_r(round, &mut false).value
}

/// `cvt` between a float format and the integers.
fn float_and_integers<F: Format>(t: &mut Table, ty: &'static str, d: &'static str) {
    for (width, kind) in [(8u32, "H"), (16, "H"), (32, "R"), (64, "D")] {
        for signed in [false, true] {
            let int_ty = format!("{}{width}", if signed { 's' } else { 'u' });
            for (name, round) in ROUNDS {
                let integral = format!("{}i", name);
                t.add(format!("cvt.{integral}.{int_ty}.{ty}"), kind, d, move |s| {
                    let x = of::<F>(s[0]);
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
                if width > 8 {
                    t.add(format!("cvt.{name}.{ty}.{int_ty}"), d, kind, move |s| {
                        let v = int(s[0], signed, width);
                        bits(if signed {
                            F::from_i128_r(v, round).value
                        } else {
                            F::from_u128_r(v as u128, round).value
                        })
                    });
                }
            }
        }
    }
}

fn floats(t: &mut Table) {
    float_arithmetic::<Single>(t, "f32", ["R", "R", "Rf", "RfR"], true, true);
    float_arithmetic::<Double>(t, "f64", ["D", "D", "Dg", "DgD"], true, false);
    float_arithmetic::<Half>(t, "f16", ["H", "H", "HH", "HHH"], false, true);
    float_arithmetic::<BFloat>(t, "bf16", ["H", "H", "HH", "HHH"], false, false);
    packed::<Half>(t, "f16x2");
    packed::<BFloat>(t, "bf16x2");
    float_and_integers::<Single>(t, "f32", "R");
    float_and_integers::<Double>(t, "f64", "D");
    float_and_integers::<Half>(t, "f16", "H");

    t.add("copysign.f32", "R", "RR", |s| s[0] & 0x8000_0000 | s[1] & 0x7fff_ffff);
    t.add("copysign.f64", "D", "DD", |s| s[0] & 1 << 63 | s[1] & !(1 << 63));
    let test = |op: &'static str, x: Single| match op {
        "finite" => x.is_finite(),
        "infinite" => x.is_infinite(),
        "number" => !x.is_nan(),
        "notanumber" => x.is_nan(),
        "normal" => x.is_normal() || x.is_zero(),
        _ => x.is_denormal(),
    };
    for op in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        t.add(format!("testp.{op}.f32"), "P", "R", move |s| test(op, of::<Single>(s[0])) as u64);
    }
    for (name, round) in ROUNDS {
        t.add(format!("cvt.{name}.f16.f32"), "H", "R", move |s| bits::<Half>(convert(of::<Single>(s[0]), round)));
        t.add(format!("cvt.{name}.f32.f64"), "R", "D", move |s| bits::<Single>(convert(of::<Double>(s[0]), round)));
        t.add(format!("cvt.{name}.f16.f64"), "H", "D", move |s| bits::<Half>(convert(of::<Double>(s[0]), round)));
        t.add(format!("cvt.{name}i.f32.f32"), "R", "R", move |s| {
            bits(of::<Single>(s[0]).round_to_integral(round).value)
        });
        t.add(format!("cvt.{name}i.f16.f16"), "H", "H", move |s| bits(of::<Half>(s[0]).round_to_integral(round).value));
    }
    for (name, round) in ROUNDS.into_iter().take(2) {
        t.add(format!("cvt.{name}.bf16.f32"), "H", "R", move |s| bits::<BFloat>(convert(of::<Single>(s[0]), round)));
        t.add(format!("cvt.{name}.f16x2.f32"), "R", "RR", move |s| {
            let one = |x: u64| bits::<Half>(convert(of::<Single>(x), round));
            one(s[0]) << 16 | one(s[1])
        });
        t.add(format!("cvt.{name}.bf16x2.f32"), "R", "RR", move |s| {
            let one = |x: u64| bits::<BFloat>(convert(of::<Single>(x), round));
            one(s[0]) << 16 | one(s[1])
        });
    }
    t.add("cvt.f32.f16", "R", "H", |s| bits::<Single>(convert(of::<Half>(s[0]), Round::NearestTiesToEven)));
    t.add("cvt.f32.bf16", "R", "H", |s| bits::<Single>(convert(of::<BFloat>(s[0]), Round::NearestTiesToEven)));
    t.add("cvt.ftz.sat.f32.f32", "R", "R", |s| bits(saturate(flush(of::<Single>(s[0])))));
    t.add(
        "{ .reg .pred t; cvt.f64.f32 $d0, $0; testp.notanumber.f64 t, $d0; selp.b64 $d0, 0x7ff8000000000000, $d0, t; }",
        "D",
        "R",
        |s| bits::<Double>(convert(of::<Single>(s[0]), Round::NearestTiesToEven)),
    );
    t.add("cvt.rna.tf32.f32", "R", "R", |s| {
        let x = of::<Single>(s[0]);
        if x.is_nan() {
            Single::CANONICAL
        } else if x.is_infinite() {
            s[0]
        } else {
            (s[0] + 0x1000) & 0xffff_e000
        }
    });
    t.add("sqrt.rn.f32", "R", "R", |s| bits(of::<Single>(f32::from_bits(s[0] as u32).sqrt().to_bits() as u64)));
}

fn table() -> &'static [Row] {
    static TABLE: OnceLock<Vec<Row>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table(Vec::new());
        integers(&mut table);
        floats(&mut table);
        table.0
    })
}

/// One step of a program: a row with its operands, or a forward branch over some steps.
enum Step {
    Run { row: &'static Row, dst: Vec<usize>, src: Vec<Operand>, guard: Option<(usize, bool)> },
    Skip { predicate: usize, wanted: bool, steps: usize },
}

enum Operand {
    Register(usize),
    Immediate(u64),
}

/// Small deterministic generator, so that proptest shrinks programs by steps.
struct Choice(u64);

impl Choice {
    fn next(&mut self, n: usize) -> usize {
        (self.word() >> 33) as usize % n
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Bits on which integer and float arithmetic break.
    fn interesting(&mut self, kind: char) -> u64 {
        let x = self.word();
        let exponents: [u64; 8] = match kind.to_ascii_uppercase() {
            'R' | 'F' => [0, 0x7f80_0000, 0x0080_0000, 0x3f80_0000, 0x4b00_0000, 0x3300_0000, 0x7f00_0000, 0x4f00_0000],
            'H' => [0, 0x7c00, 0x0400, 0x3c00, 0x4c00, 0x3f80, 0x7b00, 0x0080],
            _ => [0, 0x7ff << 52, 1 << 52, 0x3ff << 52, 0x433 << 52, 0x3ca << 52, 0x7fe << 52, 0x47e << 52],
        };
        let top = (mask(kind) >> 1) + 1;
        let value = match self.next(9) {
            0 => x & 0x3f,
            1 => (x & 3).wrapping_sub(2),
            2 => 1 << self.next(64),
            3 => x & top | exponents[self.next(8)],
            4 => x & (top | 0xf) | exponents[self.next(8)],
            5 | 6 => x & (top | top >> 5 | top >> 6 | (top >> 9).wrapping_sub(1)) | exponents[self.next(8)],
            7 => top.wrapping_sub(x & 1),
            _ => x,
        };
        value & mask(kind)
    }
}

fn decode(seeds: &[u64]) -> Vec<Step> {
    let table = table();
    let step = |(i, seed): (usize, &u64)| {
        let mut c = Choice(*seed);
        if c.next(12) == 0 {
            let steps = (1 + c.next(5)).min(seeds.len() - i - 1);
            return Step::Skip { predicate: c.next(REGISTERS), wanted: c.next(2) == 0, steps };
        }
        let row = &table[c.next(table.len())];
        // The destinations of one row are different registers, and none of them a later source of a template.
        let first = c.next(REGISTERS);
        let dst: Vec<usize> = (0..row.dst.len()).map(|i| (first + i) % REGISTERS).collect();
        let templated = row.text.contains("$d");
        let src = row.src.chars().map(|kind| {
            if (kind.is_lowercase() || kind == 'F') && c.next(4) == 0 {
                return Operand::Immediate(c.interesting(kind));
            }
            let mut register = c.next(REGISTERS);
            while templated && dst.contains(&register) {
                register = (register + 1) % REGISTERS;
            }
            Operand::Register(register)
        });
        let src = src.collect();
        let guard = (c.next(5) == 0).then(|| (c.next(REGISTERS), c.next(2) == 0));
        Step::Run { row, dst, src, guard: guard.filter(|_| !templated) }
    };
    seeds.iter().enumerate().map(step).collect()
}

/// The bytes of one thread's registers in memory: 64-bit slots, predicates first.
const SLOTS: usize = 4 * REGISTERS;

fn text(program: &[Step]) -> String {
    let mut out =
        String::from(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry program(.param .u64 data)\n{\n");
    for (width, kind) in [("pred", 'p'), ("b16", 'h'), ("b32", 'r'), ("b64", 'd')] {
        writeln!(out, "  .reg .{width} %{kind}<{REGISTERS}>;").unwrap();
    }
    out += "  .reg .b64 %base, %offset;\n  .reg .b32 %tid, %word;\n";
    out += "  ld.param.u64 %base, [data];\n  mov.u32 %tid, %tid.x;\n";
    writeln!(out, "  mul.wide.u32 %offset, %tid, {};\n  add.s64 %base, %base, %offset;", 8 * SLOTS).unwrap();
    for i in 0..REGISTERS {
        let at = |bank: usize| 8 * (bank * REGISTERS + i);
        writeln!(out, "  ld.global.u32 %word, [%base+{}];\n  setp.ne.u32 %p{i}, %word, 0;", at(0)).unwrap();
        writeln!(out, "  ld.global.u16 %h{i}, [%base+{}];", at(1)).unwrap();
        writeln!(out, "  ld.global.u32 %r{i}, [%base+{}];", at(2)).unwrap();
        writeln!(out, "  ld.global.u64 %d{i}, [%base+{}];", at(3)).unwrap();
    }
    for (i, step) in program.iter().enumerate() {
        writeln!(out, "L{i}:").unwrap();
        match step {
            Step::Skip { predicate, wanted, steps } => {
                writeln!(out, "  @{}%p{predicate} bra L{};", if *wanted { "" } else { "!" }, i + 1 + steps).unwrap();
            }
            Step::Run { row, dst, src, guard } => {
                let dst: Vec<String> =
                    dst.iter().zip(row.dst.chars()).map(|(d, kind)| format!("%{}{d}", register(kind))).collect();
                let src: Vec<String> = src
                    .iter()
                    .zip(row.src.chars())
                    .map(|(s, kind)| match (s, kind) {
                        (Operand::Register(i), _) => format!("%{}{i}", register(kind)),
                        (Operand::Immediate(x), 'f') => format!("0f{x:08X}"),
                        (Operand::Immediate(x), 'g') => format!("0d{x:016X}"),
                        (Operand::Immediate(x), 'h') => format!("{}", *x as i16),
                        (Operand::Immediate(x), 'r') if x & 1 == 0 => format!("{}", *x as i32),
                        (Operand::Immediate(x), _) => format!("{x:#x}"),
                    })
                    .collect();
                let mut line = if row.text.contains("$d") {
                    row.text.clone()
                } else {
                    format!("{} {};", row.text, dst.iter().chain(&src).cloned().collect::<Vec<_>>().join(", "))
                };
                for (i, d) in dst.iter().enumerate() {
                    line = line.replace(&format!("$d{i}"), d);
                }
                for (i, s) in src.iter().enumerate() {
                    line = line.replace(&format!("${i}"), s);
                }
                let guard =
                    guard.map(|(p, wanted)| format!("@{}%p{p} ", if wanted { "" } else { "!" })).unwrap_or_default();
                writeln!(out, "  {guard}{line}").unwrap();
            }
        }
    }
    writeln!(out, "L{}:", program.len()).unwrap();
    for i in 0..REGISTERS {
        let at = |bank: usize| 8 * (bank * REGISTERS + i);
        writeln!(out, "  selp.u32 %word, 1, 0, %p{i};\n  st.global.u32 [%base+{}], %word;", at(0)).unwrap();
        writeln!(out, "  st.global.u16 [%base+{}], %h{i};", at(1)).unwrap();
        writeln!(out, "  st.global.u32 [%base+{}], %r{i};", at(2)).unwrap();
        writeln!(out, "  st.global.u64 [%base+{}], %d{i};", at(3)).unwrap();
    }
    out + "  ret;\n}\n"
}

fn evaluate(program: &[Step], state: &mut State) {
    let mut at = 0;
    while at < program.len() {
        match &program[at] {
            Step::Skip { predicate, wanted, steps } => {
                if (state.p[*predicate] != 0) == *wanted {
                    at += steps;
                }
            }
            Step::Run { row, dst, src, guard } => {
                if guard.is_none_or(|(p, wanted)| (state.p[p] != 0) == wanted) {
                    let values: Vec<u64> = src
                        .iter()
                        .zip(row.src.chars())
                        .map(|(s, kind)| match s {
                            Operand::Register(i) => state.bank(kind)[*i],
                            Operand::Immediate(x) => *x,
                        })
                        .collect();
                    let results = (row.eval)(&values);
                    for ((d, kind), result) in dst.iter().zip(row.dst.chars()).zip(results) {
                        state.bank(kind)[*d] = result & mask(kind);
                    }
                }
            }
        }
        at += 1;
    }
}

fn run(ptx: &str, states: &[State]) -> Result<Vec<State>, String> {
    let vm = Vm::new(VmConfig { threads: 1, ..VmConfig::default() });
    let kernel = Module::parse("program.ptx", ptx).and_then(|m| m.kernel("program")).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    for s in states {
        for x in s.p.iter().chain(&s.h).chain(&s.r).chain(&s.d) {
            bytes.extend_from_slice(&x.to_le_bytes());
        }
    }
    let data = vm.alloc(bytes.len()).map_err(|e| e.to_string())?;
    vm.write(data, &bytes).map_err(|e| e.to_string())?;
    let launch = Launch { grid: [1, 1, 1], block: [states.len() as u32, 1, 1], dynamic_shared: 0 };
    vm.launch(&kernel, &launch, &data.to_le_bytes()).map_err(|e| e.to_string())?;
    vm.read(data, &mut bytes).map_err(|e| e.to_string())?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    let bank = |s: &[u64], i: usize| -> [u64; REGISTERS] { s[i * REGISTERS..(i + 1) * REGISTERS].try_into().unwrap() };
    Ok(words
        .chunks_exact(SLOTS)
        .map(|s| State { p: bank(s, 0), h: bank(s, 1), r: bank(s, 2), d: bank(s, 3) })
        .collect())
}

fn random_states(seed: u64) -> Vec<State> {
    let mut c = Choice(seed);
    let mut state = |_| {
        let mut s = State::default();
        for kind in "PHRD".chars() {
            for x in s.bank(kind) {
                *x = c.interesting(kind);
            }
        }
        s
    };
    (0..THREADS).map(&mut state).collect()
}

/// Runs a program both ways and describes the first difference.
fn check(program: &[Step], seed: u64) -> Result<(), String> {
    let mut states = random_states(seed);
    let ptx = text(program);
    let got = run(&ptx, &states).map_err(|e| format!("{e}\n{ptx}"))?;
    for (thread, (state, got)) in states.iter_mut().zip(&got).enumerate() {
        let start = state.clone();
        evaluate(program, state);
        if state != got {
            return Err(format!("thread {thread}\nstart {start:x?}\nwant  {state:x?}\ngot   {got:x?}\n{ptx}"));
        }
    }
    Ok(())
}

/// Every row by itself, so that a failure names the instruction.
#[test]
fn every_instruction_alone() {
    let mut failures = Vec::new();
    for (i, row) in table().iter().enumerate() {
        for repeat in 0..6u64 {
            let mut c = Choice(1000 * i as u64 + repeat);
            let src = row.src.chars().enumerate().map(|(at, kind)| {
                if kind.is_lowercase() && repeat % 3 == 2 {
                    Operand::Immediate(c.interesting(kind))
                } else {
                    Operand::Register((at + 3) % REGISTERS)
                }
            });
            let program = [Step::Run { row, dst: (0..row.dst.len()).collect(), src: src.collect(), guard: None }];
            // Three destinations and six sources do not fit six registers.
            if row.src.len() > 3 && row.dst.len() > 1 {
                continue;
            }
            if let Err(e) = check(&program, 77 * repeat + i as u64) {
                failures.push(format!("{}: {e}", row.text));
                break;
            }
        }
    }
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    let names: Vec<&str> = failures.iter().map(|f| f.split(['\n']).next().unwrap_or_default()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows fail:\n{}\n\n{}",
        failures.len(),
        table().len(),
        names.join("\n"),
        shown.join("\n\n")
    );
}

/// Random cases of a test: `PTX_VM_FUZZ_CASES` for a long run.
fn cases() -> u32 {
    std::env::var("PTX_VM_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn random_programs_agree(seeds in prop::collection::vec(any::<u64>(), 1..60), data in any::<u64>()) {
        if let Err(e) = check(&decode(&seeds), data) {
            return Err(TestCaseError::fail(e));
        }
    }
}
