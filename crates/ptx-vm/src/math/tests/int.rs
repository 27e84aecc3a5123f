//! Integers and bits against what the manual says.

use crate::math::int;
use crate::math::testing::Random;

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
