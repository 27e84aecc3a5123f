//! The kernels without intrinsics. Their bodies are inlined, so a caller with more target features gets faster code
//! of the same bits.

use super::kernel::{Fragments, Kernel, Kernels, int8_row};
use crate::math::f16::{bf16_to_f32, f16_to_f32, f32_to_f16};

pub(super) const KERNELS: Kernels = Kernels {
    isa: "portable",
    m16n8k16_bf16: mma_f32::<Bf16, 16> as Kernel,
    m16n8k8_bf16: mma_f32::<Bf16, 8>,
    m16n8k16_f16: mma_f32::<F16, 16>,
    m16n8k8_f16: mma_f32::<F16, 8>,
    m16n8k16_f16_f16: mma_f16::<16>,
    m16n8k8_f16_f16: mma_f16::<8>,
    m16n8k8_tf32: mma_f32::<Tf32, 8>,
    m16n8k4_tf32: mma_f32::<Tf32, 4>,
    m8n8k4_f64: mma_f64,
    staged: [None; 6],
    int8: [int8_row!(mma_int8, 1, 1), int8_row!(mma_int8, 2, 1), int8_row!(mma_int8, 2, 2)],
};

/// How operands sit in a 32-bit word.
pub(super) trait Element {
    /// Elements per word.
    const PER_WORD: usize;
    /// Whether this is bf16, with its own step (see the module's notes on numbers).
    const FLUSH: bool = false;
    /// Element `i` of a word in the order of summation, widened.
    fn widen(word: u32, i: usize) -> f32;
}

pub(super) struct F16;
impl Element for F16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn widen(word: u32, i: usize) -> f32 {
        f16_to_f32((word >> (16 * i)) as u16)
    }
}

pub(super) struct Bf16;
impl Element for Bf16 {
    const PER_WORD: usize = 2;
    const FLUSH: bool = true;
    #[inline(always)]
    fn widen(word: u32, i: usize) -> f32 {
        // The odd element of a pair is summed first.
        bf16_to_f32((word >> (16 * (1 - i))) as u16)
    }
}

pub(super) struct Tf32;
impl Element for Tf32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn widen(word: u32, _: usize) -> f32 {
        f32::from_bits(word & 0xffff_e000)
    }
}

/// A by rows, B by `k` with its even columns before the odd ones, C and D by rows with columns in the same order:
/// eight contiguous values are then a quad of `c0`/`c2` and a quad of `c1`/`c3`.
struct Tiles<const K: usize> {
    a: [[f32; K]; 16],
    b: [[f32; 8]; K],
}

#[inline(always)]
unsafe fn gather<E: Element, const K: usize>(f: &Fragments) -> Tiles<K> {
    let mut tiles = Tiles { a: [[0.0; K]; 16], b: [[0.0; 8]; K] };
    let block = 4 * E::PER_WORD;
    for r in 0..2 * K / block {
        // SAFETY: the caller passes valid pointers for the registers of the shape.
        let words = unsafe { &*f.a[r] };
        for g in 0..8 {
            for t in 0..4 {
                for i in 0..E::PER_WORD {
                    tiles.a[g + 8 * (r & 1)][(r >> 1) * block + t * E::PER_WORD + i] = E::widen(words[4 * g + t], i);
                }
            }
        }
    }
    for r in 0..K / block {
        // SAFETY: as above.
        let words = unsafe { &*f.b[r] };
        for g in 0..8 {
            for t in 0..4 {
                for i in 0..E::PER_WORD {
                    tiles.b[r * block + t * E::PER_WORD + i][4 * (g & 1) + g / 2] = E::widen(words[4 * g + t], i);
                }
            }
        }
    }
    tiles
}

#[inline(always)]
fn multiply<E: Element, const K: usize>(tiles: &Tiles<K>, acc: &mut [[f32; 8]; 16]) {
    if E::FLUSH && may_flush(tiles, acc) {
        return multiply_flushing(tiles, acc);
    }
    // Eight rows at a time: enough independent chains to hide the latency of a fused multiply-add.
    for half in 0..2 {
        let mut rows = [[0f32; 8]; 8];
        rows.copy_from_slice(&acc[8 * half..8 * half + 8]);
        for k in 0..K {
            let b = tiles.b[k];
            for r in 0..8 {
                let a = tiles.a[8 * half + r][k];
                for j in 0..8 {
                    rows[r][j] = a.mul_add(b[j], rows[r][j]);
                }
            }
        }
        acc[8 * half..8 * half + 8].copy_from_slice(&rows);
    }
}

/// Whether a step of the bf16 kernel could meet a subnormal number.
///
/// A nonzero bf16 of exponent `e` is a multiple of `2^(e-7)`, so all products are multiples of `2^(ea+eb-14)`, where `ea`, `eb` are the
/// least exponents, and C's values of `2^(ec-23)`. When both units are at least `2^-126` no partial sum is subnormal.
#[inline(always)]
fn may_flush<const K: usize>(tiles: &Tiles<K>, acc: &[[f32; 8]; 16]) -> bool {
    // Magnitude bits less one: zero becomes the largest.
    let key = |x: f32| (x.to_bits() << 1).wrapping_sub(1);
    let (mut a, mut b, mut c) = (u32::MAX, u32::MAX, u32::MAX);
    for row in &tiles.a {
        for &x in row {
            a = a.min(key(x));
        }
    }
    for row in &tiles.b {
        for &x in row {
            b = b.min(key(x));
        }
    }
    for row in acc {
        for &x in row {
            c = c.min(key(x));
        }
    }
    // Biased exponents; a power of two loses one by the decrement, which only errs to the safe side.
    let (ea, eb, ec) = (a >> 24, b >> 24, c >> 24);
    ea == 0 || eb == 0 || ea + eb < 2 * 127 - 112 || ec < 127 - 103
}

#[cold]
#[inline(never)]
fn multiply_flushing<const K: usize>(tiles: &Tiles<K>, acc: &mut [[f32; 8]; 16]) {
    for (row, a) in acc.iter_mut().zip(&tiles.a) {
        for (k, &a) in a.iter().enumerate() {
            for (acc, &b) in row.iter_mut().zip(&tiles.b[k]) {
                *acc = flushing_step(a, b, *acc);
            }
        }
    }
}

#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// One step of `VDPBF16PS`: a fused multiply-add with subnormal operands taken as zero, whose result is zero when it
/// is below the normal range *after* rounding to 24 bits.
fn flushing_step(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (flush(a), flush(b), flush(c));
    // The product of two bf16 is exact in f64; the sum is rounded to odd so that rounding it again is harmless.
    let sum = crate::math::float::add_odd_f64(a as f64 * b as f64, c as f64);
    let scaled = (sum * f64::from_bits((1023 + 64) << 52)) as f32;
    if scaled.abs() < f32::from_bits((127 - 126 + 64) << 23) { 0f32.copysign(scaled) } else { sum as f32 }
}

#[inline(always)]
pub(super) unsafe fn mma_f32<E: Element, const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    let tiles = unsafe { gather::<E, K>(f) };
    let mut acc = [[0f32; 8]; 16];
    for r in 0..4 {
        // SAFETY: the caller's contract.
        let words = unsafe { &*f.c[r] };
        for g in 0..8 {
            for t in 0..4 {
                acc[g + 8 * (r >> 1)][4 * (r & 1) + t] = f32::from_bits(words[4 * g + t]);
            }
        }
    }
    multiply::<E, K>(&tiles, &mut acc);
    for r in 0..4 {
        // SAFETY: the caller's contract.
        let words = unsafe { &mut *f.d[r] };
        for g in 0..8 {
            for t in 0..4 {
                words[4 * g + t] = crate::math::float::canonical(acc[g + 8 * (r >> 1)][4 * (r & 1) + t]).to_bits();
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn mma_f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    let tiles = unsafe { gather::<F16, K>(f) };
    let mut acc = [[0f32; 8]; 16];
    for r in 0..2 {
        // SAFETY: the caller's contract.
        let words = unsafe { &*f.c[r] };
        for g in 0..8 {
            for t in 0..4 {
                let word = words[4 * g + t];
                acc[g + 8 * r][t] = f16_to_f32(word as u16);
                acc[g + 8 * r][4 + t] = f16_to_f32((word >> 16) as u16);
            }
        }
    }
    multiply::<F16, K>(&tiles, &mut acc);
    for r in 0..2 {
        // SAFETY: the caller's contract.
        let words = unsafe { &mut *f.d[r] };
        for g in 0..8 {
            for t in 0..4 {
                let (lo, hi) = (acc[g + 8 * r][t], acc[g + 8 * r][4 + t]);
                words[4 * g + t] = f32_to_f16(lo) as u32 | (f32_to_f16(hi) as u32) << 16;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn mma_f64(f: &Fragments) {
    // SAFETY: the caller's contract: registers of f64.
    let (a, b) = unsafe { (*f.a[0].cast::<[f64; 32]>(), *f.b[0].cast::<[f64; 32]>()) };
    // SAFETY: as above. Both registers are read before either is written.
    let mut sums = unsafe { [*f.c[0].cast::<[f64; 32]>(), *f.c[1].cast::<[f64; 32]>()] };
    for (parity, acc) in sums.iter_mut().enumerate() {
        for k in 0..4 {
            for (lane, acc) in acc.iter_mut().enumerate() {
                *acc = a[lane & !3 | k].mul_add(b[4 * (2 * (lane & 3) + parity) + k], *acc);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: as above.
        unsafe { *f.d[r].cast::<[f64; 32]>() = *sums };
    }
}

/// `M` blocks of eight rows, `K` blocks of sixteen `k`.
#[inline(always)]
pub(super) unsafe fn mma_int8<const M: usize, const K: usize, const A: bool, const B: bool, const SAT: bool>(
    f: &Fragments,
) {
    let mut sums = [[0i32; 32]; 4];
    for k in 0..K {
        // SAFETY: the caller's contract.
        let b = unsafe { &*f.b[k] };
        for m in 0..M {
            // SAFETY: the caller's contract.
            let a = unsafe { &*f.a[m + 2 * k] };
            for parity in 0..2 {
                for w in 0..4 {
                    for (lane, sum) in sums[2 * m + parity].iter_mut().enumerate() {
                        let (a, b) = (a[lane & !3 | w], b[4 * (2 * (lane & 3) + parity) + w]);
                        *sum = crate::math::int::dp4a(A, B, a, b, *sum as u32) as i32;
                    }
                }
            }
        }
    }
    for (r, sums) in sums.iter_mut().enumerate().take(2 * M) {
        // SAFETY: the caller's contract.
        let c = unsafe { &*f.c[r] };
        for (sum, &c) in sums.iter_mut().zip(c) {
            *sum = if SAT { sum.saturating_add(c as i32) } else { sum.wrapping_add(c as i32) };
        }
    }
    for (r, sums) in sums.iter().enumerate().take(2 * M) {
        // SAFETY: the caller's contract.
        unsafe { *f.d[r] = sums.map(|x| x as u32) };
    }
}
