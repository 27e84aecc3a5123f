//! `mma.sync` as micro-kernels on whole fragments.
//!
//! A kernel sees the registers of one warp: every PTX register is 32 words, one per lane, and a fragment is a handful of
//! registers in the layouts of the PTX manual. With lane `= 4 g + t` (`g` is the manual's *groupID*) the layouts are
//!
//! ```text
//! m16n8k16 f16/bf16   A (row)  a0: row g    k 2t,2t+1   a1: row g+8  k 2t,2t+1   a2: row g  k 2t+8,2t+9   a3: row g+8 k 2t+8,2t+9
//!                     B (col)  b0: col g    k 2t,2t+1   b1: col g    k 2t+8,2t+9
//! m16n8k8 f16/bf16    A a0, a1 and B b0 of the above
//! m16n8k8 tf32        A (row)  a0: row g    k t         a1: row g+8  k t         a2: row g  k t+4         a3: row g+8 k t+4
//!                     B (col)  b0: col g    k t         b1: col g    k t+4
//! m16n8k4 tf32        A a0, a1 and B b0 of the above
//! C, D f32            c0: row g col 2t      c1: row g col 2t+1    c2: row g+8 col 2t    c3: row g+8 col 2t+1
//! C, D f16            c0: row g cols 2t,2t+1                      c1: row g+8 cols 2t,2t+1
//! m16n8k32 s8/u8      A (row)  a0: row g    k 4t..4t+3  a1: row g+8  k 4t..4t+3  a2: row g  k 4t+16.. a3: row g+8 k 4t+16..
//!                     B (col)  b0: col g    k 4t..4t+3  b1: col g    k 4t+16..
//! m16n8k32 e4m3/e5m2  as s8/u8
//! m16n8k16 s8/u8      A a0, a1 and B b0 of the above; m8n8k16: A a0, B b0, C and D c0, c1
//! m8n8k4 f64          A (row)  a0: row g    k t         B (col)  b0: col g  k t      C, D  c0: row g col 2t  c1: row g col 2t+1
//! m8n8k4 f16          four products, see `volta.rs`
//! ```
//!
//! so four neighbouring lanes (a *quad*, 128 bits) hold one row of A or one column of B, and quads are never mixed: the
//! vector kernels compute D in place, in its own layout, from A words broadcast within their quads and B words
//! gathered once and repeated in every quad.
//!
//! # The numbers
//!
//! Every kernel gives the same bits on every machine; the order of operations is part of its definition:
//!
//! * f16 and tf32: `acc = c; for k in 0..K { acc = fma(a[k], b[k], acc) }` in f32, round to nearest even, subnormals
//!   kept. f16 accumulators are widened first and rounded once at the end. The low 13 bits of a tf32 operand are ignored.
//! * bf16: `acc = c; for p in 0..K/2 { acc = fma(a[2p+1], b[2p+1], acc); acc = fma(a[2p], b[2p], acc) }` with
//!   subnormal operands (bf16 and accumulators) and subnormal results of each step replaced by zero: this is what
//!   x86's `VDPBF16PS` computes, the one instruction that makes the VM's most used kernel twice as fast, and its `VFMADD231PS` when
//!   `MXCSR` asks for both kinds of flushing.
//! * e4m3 and e5m2: widened to f16, the low pairs of all words before the high pairs.
//! * f64: `acc = c; for k in 0..4 { acc = fma(a[k], b[k], acc) }` in f64.
//! * s8/u8: exact, added to C modulo 2^32, or clamped to the range of s32 with `.satfinite`.
//! * A NaN f32 result is the canonical `0x7fffffff` (`0x7fff` in f16).
//!
//! A tensor core differs: its products are exact and summed in groups with a wider, *truncated* alignment, and the
//! manual leaves order and rounding open. Against an exact sum both err by a few units of the largest term's last f32 place;
//! results agree to about `K * 2^-23` of `sum |a b|`, never bit for bit. [`multiply`] computes what a [`TensorCore`] does.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

mod choose;
mod fp8;
mod kernel;
mod portable;
mod product;
mod tensor_core;
mod volta;
mod warpgroup;

pub use choose::{available, kernels};
pub use fp8::fp8;
pub use kernel::{Fragments, Int8Shape, Kernel, Kernels, Lanes, Prepared, Staged};
pub(crate) use kernel::{STAGED_A, STAGED_B};
pub use product::{Format, Layout, Product};
pub use tensor_core::{TensorCore, multiply};
pub use volta::{Accumulators, volta};
pub use warpgroup::Tile;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::f16::{bf16_to_f32, f16_to_f32, f32_to_f16};
    use crate::math::testing::Random;

    #[repr(align(64))]
    struct Registers([Lanes; 14]);

    /// A, B, C registers are 0..4, 4..6, 6..10; D is 10..14, or C itself.
    fn fragments(r: &mut Registers, in_place: bool) -> Fragments {
        let p = r.0.as_mut_ptr();
        let reg = |i: usize| p.wrapping_add(i);
        let d = if in_place { 6 } else { 10 };
        Fragments {
            d: [reg(d), reg(d + 1), reg(d + 2), reg(d + 3)],
            a: [reg(0), reg(1), reg(2), reg(3)],
            b: [reg(4), reg(5)],
            c: [reg(6), reg(7), reg(8), reg(9)],
        }
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Kind {
        Bf16,
        F16,
        F16Acc,
        Tf32,
    }

    fn table(k: &Kernels) -> [(Kind, usize, Kernel); 8] {
        [
            (Kind::Bf16, 16, k.m16n8k16_bf16),
            (Kind::Bf16, 8, k.m16n8k8_bf16),
            (Kind::F16, 16, k.m16n8k16_f16),
            (Kind::F16, 8, k.m16n8k8_f16),
            (Kind::F16Acc, 16, k.m16n8k16_f16_f16),
            (Kind::F16Acc, 8, k.m16n8k8_f16_f16),
            (Kind::Tf32, 8, k.m16n8k8_tf32),
            (Kind::Tf32, 4, k.m16n8k4_tf32),
        ]
    }

    /// Element (row, col) of D in f64, read through the manual's formulas, with the sum of magnitudes for the error bound.
    fn reference(kind: Kind, k: usize, r: &Registers, row: usize, col: usize) -> (f64, f64) {
        let half = |word: u32, i: usize| (word >> (16 * i)) as u16;
        let widen = |h: u16| if kind == Kind::Bf16 { bf16_to_f32(h) } else { f16_to_f32(h) } as f64;
        let (g, high) = (row % 8, row / 8);
        let mut sum = match kind {
            Kind::F16Acc => f16_to_f32(half(r.0[6 + high][4 * g + col / 2], col % 2)) as f64,
            _ => f32::from_bits(r.0[6 + 2 * high + col % 2][4 * g + col / 2]) as f64,
        };
        let mut magnitude = sum.abs();
        for kk in 0..k {
            let (a, b) = if kind == Kind::Tf32 {
                let (a, b) = (r.0[high + 2 * (kk / 4)][4 * g + kk % 4], r.0[4 + kk / 4][4 * col + kk % 4]);
                (f32::from_bits(a & !0x1fff) as f64, f32::from_bits(b & !0x1fff) as f64)
            } else {
                let (t, i) = (kk % 8 / 2, kk % 2);
                (widen(half(r.0[high + 2 * (kk / 8)][4 * g + t], i)), widen(half(r.0[4 + kk / 8][4 * col + t], i)))
            };
            sum += a * b;
            magnitude += (a * b).abs();
        }
        (sum, magnitude)
    }

    fn fill(kind: Kind, random: &mut Random, r: &mut Registers, wild: bool) {
        for (i, reg) in r.0.iter_mut().enumerate() {
            for word in reg {
                let mut x = || (random.next() as f32 / u32::MAX as f32 - 0.5) * 2.0;
                let c = i >= 6 && kind != Kind::F16Acc;
                *word = match kind {
                    _ if wild => random.special(if c || kind == Kind::Tf32 { 32 } else { 16 }),
                    Kind::Tf32 => x().to_bits(),
                    _ if c => x().to_bits(),
                    Kind::Bf16 => x().to_bits() >> 16 | x().to_bits() & 0xffff_0000,
                    _ => f32_to_f16(x()) as u32 | (f32_to_f16(x()) as u32) << 16,
                };
            }
        }
    }

    #[test]
    fn products_match_the_layouts_of_the_manual() {
        let mut random = Random::new(1);
        for set in available() {
            for (kind, k, kernel) in table(&set) {
                for _ in 0..20 {
                    let mut r = Registers([[0; 32]; 14]);
                    fill(kind, &mut random, &mut r, false);
                    let f = fragments(&mut r, false);
                    // SAFETY: the pointers are registers of `r`.
                    unsafe { kernel(&f) };
                    for row in 0..16 {
                        for col in 0..8 {
                            let (want, magnitude) = reference(kind, k, &r, row, col);
                            let lane = 4 * (row % 8) + col / 2;
                            let (got, ulp) = if kind == Kind::F16Acc {
                                let word = r.0[10 + row / 8][lane];
                                (f16_to_f32((word >> (16 * (col % 2))) as u16) as f64, 2f64.powi(-11))
                            } else {
                                (f32::from_bits(r.0[10 + 2 * (row / 8) + col % 2][lane]) as f64, 2f64.powi(-22))
                            };
                            assert!(
                                (got - want).abs() <= ulp * magnitude + 1e-7,
                                "{} {kind:?} k{k} ({row},{col}): {got} for {want}",
                                set.isa
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut random = Random::new(2);
        let sets = available();
        for case in 0..3000 {
            for shape in 0..8 {
                let (kind, k, first) = table(&sets[0])[shape];
                let mut start = Registers([[0; 32]; 14]);
                fill(kind, &mut random, &mut start, case % 3 == 1);
                if kind == Kind::Bf16 && case % 3 == 2 {
                    // Products and sums around the least normal number, where steps flush.
                    for (i, reg) in start.0.iter_mut().enumerate() {
                        for word in reg {
                            let x = random.next();
                            *word = match i {
                                0..6 => x & 0x83ff_83ff | 0x2000_2000 | (x & 0x1c) << 21 | (x & 0x1c00) >> 3,
                                _ => x & 0x80ff_ffff | (x & 0x100) << 16,
                            };
                        }
                    }
                }
                let mut want = Registers(start.0);
                // SAFETY: the pointers are registers of `want`.
                unsafe { first(&fragments(&mut want, true)) };
                for set in &sets[1..] {
                    let mut got = Registers(start.0);
                    // SAFETY: the pointers are registers of `got`.
                    unsafe { table(set)[shape].2(&fragments(&mut got, true)) };
                    for i in 0..14 {
                        for lane in 0..32 {
                            assert_eq!(
                                got.0[i][lane], want.0[i][lane],
                                "{} {kind:?} k{k} case {case} register {i} lane {lane}: {:x} for {:x}",
                                set.isa, got.0[i][lane], want.0[i][lane]
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn integer_products_are_exact() {
        let mut random = Random::new(3);
        let shapes = [(Int8Shape::M8N8K16, 8, 16), (Int8Shape::M16N8K16, 16, 16), (Int8Shape::M16N8K32, 16, 32)];
        for set in available() {
            for case in 0..8 * 3 * 20 {
                let (a_signed, b_signed, satfinite) = (case & 4 != 0, case & 2 != 0, case & 1 != 0);
                let (shape, rows, k) = shapes[case / 8 % 3];
                let mut r = Registers([[0; 32]; 14]);
                for (i, reg) in r.0.iter_mut().enumerate() {
                    for word in reg {
                        let x = random.next();
                        *word = if i >= 6 && x & 1 == 0 { i32::MAX as u32 ^ (x & 0x8000_ffff) } else { x };
                    }
                }
                // SAFETY: the pointers are registers of `r`.
                unsafe { set.int8(shape, a_signed, b_signed, satfinite)(&fragments(&mut r, false)) };
                let element = |word: u32, i: usize, signed: bool| {
                    let byte = (word >> (8 * i)) as u8;
                    if signed { byte as i8 as i64 } else { byte as i64 }
                };
                for row in 0..rows {
                    for col in 0..8 {
                        let (register, lane) = (2 * (row / 8) + col % 2, 4 * (row % 8) + col / 2);
                        let mut want = r.0[6 + register][lane] as i32 as i64;
                        for kk in 0..k {
                            let (block, t, i) = (kk / 16, kk % 16 / 4, kk % 4);
                            want += element(r.0[row / 8 + 2 * block][4 * (row % 8) + t], i, a_signed)
                                * element(r.0[4 + block][4 * col + t], i, b_signed);
                        }
                        let want = if satfinite { want.clamp(i32::MIN as i64, i32::MAX as i64) } else { want };
                        assert_eq!(r.0[10 + register][lane], want as u32, "{} {shape:?} {case}", set.isa);
                    }
                }
            }
        }
    }

    #[test]
    fn double_products_match_the_layout() {
        let mut random = Random::new(4);
        for set in available() {
            let mut r = [[0f64; 32]; 6];
            for word in r.iter_mut().flatten() {
                *word = random.next() as f64 / 1e6 - 2000.0;
            }
            let p = r.as_mut_ptr();
            let reg = |i: usize| p.wrapping_add(i).cast::<Lanes>();
            let mut f = Fragments::NULL;
            (f.a[0], f.b[0]) = (reg(0), reg(1));
            (f.c[0], f.c[1], f.d[0], f.d[1]) = (reg(2), reg(3), reg(4), reg(5));
            // SAFETY: the pointers are registers of `r`.
            unsafe { (set.m8n8k4_f64)(&f) };
            for row in 0..8 {
                for col in 0..8 {
                    let lane = 4 * row + col / 2;
                    let mut want = r[2 + col % 2][lane];
                    for k in 0..4 {
                        want = r[0][4 * row + k].mul_add(r[1][4 * col + k], want);
                    }
                    assert_eq!(r[4 + col % 2][lane], want, "{} ({row}, {col})", set.isa);
                }
            }
        }
    }
}
