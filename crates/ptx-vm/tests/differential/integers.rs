//! Integer, logic, shift and bit-field instructions, written with 128-bit integers from the manual's pseudocode.

use crate::Table;
use crate::floats::BOOLEANS;

/// Sign extension of the low `bits`.
pub(crate) fn sx(x: u64, bits: u32) -> i128 {
    ((x << (64 - bits)) as i64 >> (64 - bits)) as i128
}

/// The value of an integer operand.
pub(crate) fn int(x: u64, signed: bool, bits: u32) -> i128 {
    if signed { sx(x, bits) } else { (x & (u64::MAX >> (64 - bits))) as i128 }
}

/// `cvt` between two integer types (width, signed, register), wrapping and saturating.
fn integer_conversion(t: &mut Table, from: (u32, bool, &'static str), to: (u32, bool, &'static str)) {
    let ty = |(bits, signed, _): (u32, bool, &str)| format!("{}{bits}", if signed { 's' } else { 'u' });
    // A result narrower than its register is extended.
    let fit = move |x: i128| int(x as u64, to.1, to.0) as u64;
    t.add(format!("cvt.{}.{}", ty(to), ty(from)), to.2, from.2, move |s| fit(int(s[0], from.1, from.0)));
    let (least, greatest) =
        if to.1 { (-(1i128 << (to.0 - 1)), (1 << (to.0 - 1)) - 1) } else { (0, (1i128 << to.0) - 1) };
    t.add(format!("cvt.sat.{}.{}", ty(to), ty(from)), to.2, from.2, move |s| {
        fit(int(s[0], from.1, from.0).clamp(least, greatest))
    });
}

/// `setp` with one and two destinations, alone and combined with a predicate, and `set` to integers and floats.
pub(crate) fn comparison(
    t: &mut Table,
    op: &str,
    ftz: &str,
    ty: &str,
    two: &'static str,
    with_predicate: &'static str,
    holds: impl Fn(&[u64]) -> bool + Copy + Send + Sync + 'static,
) {
    t.add(format!("setp.{op}{ftz}.{ty}"), "P", two, move |s| holds(s) as u64);
    for (name, combine) in BOOLEANS {
        t.multi(format!("setp.{op}.{name}{ftz}.{ty} $d0|$d1, $0, $1, $2;"), "PP", with_predicate, move |s| {
            [combine(holds(s) as u64, s[2]), combine(!holds(s) as u64, s[2]), 0]
        });
        t.add(format!("setp.{op}.{name}{ftz}.{ty} $d0, $0, $1, !$2;"), "P", with_predicate, move |s| {
            combine(holds(s) as u64, s[2] ^ 1)
        });
    }
    let half = matches!(ty, "f16" | "bf16");
    let words = [("u32", "R", 0xffff_ffff), ("s32", "R", 0xffff_ffff), ("f32", "R", 0x3f80_0000)];
    let halves = [("f16", "H", 0x3c00), ("bf16", "H", 0x3f80), ("u16", "H", 0xffff), ("s16", "H", 0xffff)];
    for (to, d, one) in words.into_iter().chain(halves.into_iter().take(if half { 4 } else { 2 })) {
        t.add(format!("set.{op}{ftz}.{to}.{ty}"), d, two, move |s| if holds(s) { one } else { 0 });
        for (name, combine) in BOOLEANS {
            t.add(format!("set.{op}.{name}{ftz}.{to}.{ty}"), d, with_predicate, move |s| {
                if combine(holds(s) as u64, s[2]) != 0 { one } else { 0 }
            });
        }
    }
}

pub(crate) fn add(t: &mut Table) {
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
            let with_predicate = match bits {
                16 => "hhP",
                32 => "rrP",
                _ => "ddP",
            };
            for (op, f) in [
                ("eq", (|a, b| a == b) as fn(i128, i128) -> bool),
                ("ne", |a, b| a != b),
                ("lt", |a, b| a < b),
                ("le", |a, b| a <= b),
                ("gt", |a, b| a > b),
                ("ge", |a, b| a >= b),
                ("lo", |a, b| a < b),
                ("ls", |a, b| a <= b),
                ("hi", |a, b| a > b),
                ("hs", |a, b| a >= b),
            ] {
                if signed && ["lo", "ls", "hi", "hs"].contains(&op) {
                    continue;
                }
                comparison(t, op, "", &ty, two, with_predicate, move |s| f(v(s[0]), v(s[1])));
                if !signed && ["eq", "ne"].contains(&op) {
                    comparison(t, op, "", &format!("b{bits}"), two, with_predicate, move |s| f(v(s[0]), v(s[1])));
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
                let field = if bits == 32 { "rcc" } else { "dcc" };
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
            if bits == 16 {
                for (to, to_kind) in [(8u32, "H"), (16, "H"), (32, "R"), (64, "D")] {
                    for to_signed in [false, true] {
                        integer_conversion(t, (8, signed, "H"), (to, to_signed, to_kind));
                    }
                }
            }
            for (to, to_kind) in [(8u32, "H"), (16, "H"), (32, "R"), (64, "D")] {
                for to_signed in [false, true] {
                    integer_conversion(t, (bits, signed, d), (to, to_signed, to_kind));
                }
            }
        }
        let low = move |x: u64| x & (u64::MAX >> (64 - bits));
        // Integer constants do not go with float types, so those have registers only.
        let [moved, selected, chosen] = match bits {
            16 => ["h", "hhP", "hhr"],
            32 => ["r", "rrP", "rrr"],
            _ => ["d", "ddP", "ddr"],
        };
        let [float_moved, float_selected, float_chosen] =
            if bits == 32 { ["R", "RRP", "RRr"] } else { ["D", "DDP", "DDr"] };
        for ty in ["b", "u", "s", "f"].into_iter().filter(|ty| *ty != "f" || bits > 16) {
            let float = ty == "f";
            t.add(format!("mov.{ty}{bits}"), d, if float { float_moved } else { moved }, |s| s[0]);
            t.add(format!("selp.{ty}{bits}"), d, if float { float_selected } else { selected }, |s| {
                if s[2] != 0 { s[0] } else { s[1] }
            });
            t.add(format!("slct.{ty}{bits}.s32"), d, if float { float_chosen } else { chosen }, |s| {
                if sx(s[2], 32) >= 0 { s[0] } else { s[1] }
            });
        }
        t.add(
            format!("shr.b{bits}"),
            d,
            match bits {
                16 => "hr",
                32 => "rr",
                _ => "dr",
            },
            move |s| {
                if s[1] >= bits as u64 { 0 } else { low(s[0]) >> s[1] }
            },
        );
        t.add(format!("abs.s{bits}"), d, one, move |s| sx(s[0], bits).unsigned_abs() as u64);
        t.add(format!("neg.s{bits}"), d, one, move |s| (-sx(s[0], bits)) as u64);
        t.add(format!("and.b{bits}"), d, two, |s| s[0] & s[1]);
        t.add(format!("or.b{bits}"), d, two, |s| s[0] | s[1]);
        t.add(format!("xor.b{bits}"), d, two, |s| s[0] ^ s[1]);
        t.add(format!("not.b{bits}"), d, one, |s| !s[0]);
        t.add(format!("cnot.b{bits}"), d, one, move |s| (low(s[0]) == 0) as u64);
        let shift = match bits {
            16 => "hr",
            32 => "rr",
            _ => "dr",
        };
        t.add(format!("shl.b{bits}"), d, shift, move |s| if s[1] >= bits as u64 { 0 } else { s[0] << s[1] });
        if bits != 16 {
            t.add(format!("popc.b{bits}"), "R", d, move |s| low(s[0]).count_ones() as u64);
            t.add(format!("clz.b{bits}"), "R", d, move |s| {
                (0..bits).rev().take_while(|i| s[0] >> i & 1 == 0).count() as u64
            });
            t.add(format!("brev.b{bits}"), d, d, move |s| {
                (0..bits).fold(0, |r, i| r | (s[0] >> i & 1) << (bits - 1 - i))
            });
            let insert = if bits == 32 { "rrcc" } else { "ddcc" };
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
    for (ty, d, sources) in [("f16", "H", "HHP"), ("bf16", "H", "HHP"), ("f16x2", "R", "RRP"), ("bf16x2", "R", "RRP")] {
        t.add(format!("selp.{ty}"), d, sources, |s| if s[2] != 0 { s[0] } else { s[1] });
        t.add(format!("mov.{ty}"), d, d, |s| s[0]);
    }
    t.add("mov.pred", "P", "P", |s| s[0]);
    // By halves.
    for signed in [false, true] {
        let ty = if signed { "s16x2" } else { "u16x2" };
        let both = move |s: &[u64], f: fn(i128, i128) -> i128| {
            let half =
                |i: u32| f(int(s[0] >> i & 0xffff, signed, 16), int(s[1] >> i & 0xffff, signed, 16)) as u64 & 0xffff;
            half(16) << 16 | half(0)
        };
        t.add(format!("add.{ty}"), "R", "RR", move |s| both(s, |a, b| a + b));
        t.add(format!("min.{ty}"), "R", "RR", move |s| both(s, |a, b| a.min(b)));
        t.add(format!("max.{ty}"), "R", "RR", move |s| both(s, |a, b| a.max(b)));
    }
    for wrap in [false, true] {
        let suffix = if wrap { "wrap" } else { "clamp" };
        t.add(format!("bmsk.{suffix}.b32"), "R", "rr", move |s| {
            let (start, len) = if wrap { (s[0] & 31, s[1] & 31) } else { (s[0].min(32), s[1].min(32)) };
            (0..32).filter(|i| (start..start + len).contains(i)).fold(0, |d, i| d | 1 << i)
        });
        for signed in [false, true] {
            t.add(format!("szext.{suffix}.{}32", if signed { 's' } else { 'u' }), "R", "rr", move |s| {
                match if wrap { s[1] & 31 } else { s[1].min(32) } {
                    0 => 0,
                    n => int(s[0], signed, n as u32) as u64,
                }
            });
        }
    }
    // Clamped and packed: the first operand above the second.
    for (bits, signed) in [(16u32, false), (16, true), (8, false), (8, true)] {
        let name = format!("cvt.pack.sat.{}{bits}.s32", if signed { 's' } else { 'u' });
        let clamp = move |x: u64| {
            let (least, greatest) =
                if signed { (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
            sx(x, 32).clamp(least, greatest) as u64 & ((1 << bits) - 1)
        };
        if bits == 16 {
            t.add(name, "R", "rr", move |s| clamp(s[0]) << 16 | clamp(s[1]));
        } else {
            t.add(name + ".b32", "R", "rrr", move |s| s[2] << 16 | clamp(s[0]) << 8 | clamp(s[1]));
        }
    }
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
    // Those the VM compiles by themselves, and others.
    let tables = [
        0x01u64, 0x1b, 0x3c, 0x40, 0x69, 0xc0, 0x96, 0xfe, 0x80, 0xca, 0xe8, 0xf8, 0xea, 0xe2, 0x78, 0x6a, 0x56, 0x1e,
        0xa8, 0xec, 0xc8, 0xd8, 0xb8, 0xac,
    ];
    for table in tables {
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
    for (ty, d2, d4) in [("u32", "RR", "RRRR"), ("s32", "RR", "RRRR"), ("u64", "DD", "DDDD"), ("s64", "DD", "DDDD")] {
        let (bits, signed) = (ty[1..].parse::<u32>().unwrap_or(0), ty.starts_with('s'));
        let mask = u64::MAX >> (64 - bits);
        // The sum of two words and a carry, and the carry out.
        let sum = move |a: u64, b: u64, carry: u64| {
            let sum = a as u128 + b as u128 + carry as u128;
            (sum as u64 & mask, (sum >> bits) as u64 & 1)
        };
        // A difference and the borrow out.
        let difference = move |a: u64, b: u64, borrow: u64| {
            let difference = a as i128 - b as i128 - borrow as i128;
            (difference as u64 & mask, (difference < 0) as u64)
        };
        // Half of the product, as `mad` takes it.
        let half = move |a: u64, b: u64, high: bool| {
            let product = if signed {
                (int(a, true, bits) * int(b, true, bits)) as u128
            } else {
                (a & mask) as u128 * (b & mask) as u128
            };
            (product >> if high { bits } else { 0 }) as u64 & mask
        };
        // The last instruction of a chain shows the carry of the one before as a number.
        for cc in ["", ".cc"] {
            let show = if cc.is_empty() { format!("mov.b{bits} $d1, 0;") } else { format!("addc.{ty} $d1, 0, 0;") };
            t.multi(format!("add.cc.{ty} $d0, $0, $1; addc{cc}.{ty} $d0, $2, $3; {show}"), d2, d4, move |s| {
                let (word, carry) = sum(s[2], s[3], sum(s[0], s[1], 0).1);
                [word, if cc.is_empty() { 0 } else { carry }, 0]
            });
            let show = if cc.is_empty() { format!("mov.b{bits} $d1, 0;") } else { format!("subc.{ty} $d1, 0, 0;") };
            t.multi(format!("sub.cc.{ty} $d0, $0, $1; subc{cc}.{ty} $d0, $2, $3; {show}"), d2, d4, move |s| {
                let (word, borrow) = difference(s[2], s[3], difference(s[0], s[1], 0).1);
                [word, if cc.is_empty() || borrow == 0 { 0 } else { mask }, 0]
            });
            for (name, high) in [("lo", false), ("hi", true)] {
                let show = if cc.is_empty() { format!("mov.b{bits} $d1, 0;") } else { format!("addc.{ty} $d1, 0, 0;") };
                t.multi(
                    format!("mad.{name}.cc.{ty} $d0, $0, $1, $2; madc.{name}{cc}.{ty} $d0, $1, $2, $3; {show}"),
                    d2,
                    d4,
                    move |s| {
                        let carry = sum(half(s[0], s[1], high), s[2], 0).1;
                        let (word, carry) = sum(half(s[1], s[2], high), s[3], carry);
                        [word, if cc.is_empty() { 0 } else { carry }, 0]
                    },
                );
            }
        }
    }
    t.multi("mad.lo.cc.u32 $d0, $0, $1, $2; madc.hi.u32 $d1, $0, $1, $3;", "RR", "RRRR", |s| {
        let sum = (s[0] as u128 * s[1] as u128) + (s[2] as u128 | (s[3] as u128) << 32);
        [sum as u64, (sum >> 32) as u64, 0]
    });
    for (name, least) in [("min", true), ("max", false)] {
        let one = move |a: i64, b: i64| (if least { a.min(b) } else { a.max(b) }).max(0) as u64;
        t.add(format!("{name}.relu.s32"), "R", "RR", move |s| one(s[0] as i32 as i64, s[1] as i32 as i64));
        t.add(format!("{name}.relu.s16x2"), "R", "RR", move |s| {
            let half = |i: u32| one((s[0] >> i) as i16 as i64, (s[1] >> i) as i16 as i64);
            half(16) << 16 | half(0)
        });
    }
    t.add("mad24.hi.sat.s32", "R", "RRR", |s| {
        let low = |x: u64| ((x as i32) << 8 >> 8) as i64;
        let high = (low(s[0]) * low(s[1]) >> 16) as i32 as i64;
        (high + s[2] as i32 as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u64 & 0xffff_ffff
    });
    for op in ["or", "and"] {
        t.multi(format!("lop3.{op}.b32 $d0|$d1, $0, $1, $2, 0x6a, $3;"), "RP", "RRRP", move |s| {
            let d = (s[0] & s[1] ^ s[2]) & 0xffff_ffff;
            let some = (d != 0) as u64;
            [d, if op == "or" { some | s[3] } else { some & s[3] }, 0]
        });
    }
    for (ty, bits, signed) in [("u4", 4, false), ("s4", 4, true), ("u2", 2, false), ("s2", 2, true)] {
        t.add(format!("cvt.pack.sat.{ty}.s32.b32"), "R", "RRR", move |s| {
            let (low, high) =
                if signed { (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
            let one = |x: u64| (x as i32 as i64).clamp(low, high) as u64 & ((1 << bits) - 1);
            (s[2] << (2 * bits) | one(s[0]) << bits | one(s[1])) & 0xffff_ffff
        });
    }
    // Bytes have registers of their own.
    let (bytes, two) = (".reg .b8 %b0, %b1, %b2, %b3;", "cvt.u8.u16 %b0, $0; cvt.u8.u16 %b1, $1;");
    let pack = format!("{{ {bytes} {two} mov.b16 $d0, {{%b0, %b1}}; }}");
    t.add(pack, "H", "HH", |s| (s[1] & 0xff) << 8 | s[0] & 0xff);
    let unpack = format!("{{ {bytes} mov.b16 {{%b0, %b1}}, $0; cvt.u16.u8 $d0, %b0; cvt.u16.u8 $d1, %b1; }}");
    t.multi(unpack, "HH", "H", |s| [s[0] & 0xff, s[0] >> 8, 0]);
    let four = format!("{two} cvt.u8.u16 %b2, $2; cvt.u8.u16 %b3, $3;");
    let pack = format!("{{ {bytes} {four} mov.b32 $d0, {{%b0, %b1, %b2, %b3}}; }}");
    t.add(pack, "R", "HHHH", |s| (0..4).map(|i| (s[i] & 0xff) << (8 * i)).sum());
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
