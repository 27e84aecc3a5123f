//! The kernels for AVX2. Operands are first widened to f32 lane by lane, in the layout of their registers; then every step multiplies
//! an A value broadcast within its quad by the B values of the quad's columns.

use super::portable::{self, Bf16};
use super::{Fragments, Kernels, Lanes, int8_row};
use std::arch::x86_64::*;

pub(super) const KERNELS: Kernels = Kernels {
    isa: "avx2",
    m16n8k16_bf16: bf16::<2>,
    m16n8k8_bf16: bf16::<1>,
    m16n8k16_f16: f16::<2>,
    m16n8k8_f16: f16::<1>,
    m16n8k16_f16_f16: f16_f16::<2>,
    m16n8k8_f16_f16: f16_f16::<1>,
    m16n8k8_tf32: tf32::<2>,
    m16n8k4_tf32: tf32::<1>,
    m8n8k4_f64: f64,
    int8: [int8_row!(int8, 1, 1), int8_row!(int8, 2, 1), int8_row!(int8, 2, 2)],
};

/// A register's values, eight lanes a vector.
type Wide = [__m256; 4];
/// The accumulators of two registers, even and odd columns of one half of the rows.
type Sums = [Wide; 2];

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn words(reg: *const Lanes) -> [__m256i; 4] {
    // SAFETY: the caller passes a register; the loads are unaligned and stay inside its 32 words.
    unsafe { std::array::from_fn(|i| _mm256_loadu_si256(reg.cast::<__m256i>().wrapping_add(i))) }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn floats(reg: *const Lanes) -> Wide {
    // SAFETY: as for `words`.
    unsafe { std::array::from_fn(|i| _mm256_loadu_ps(reg.cast::<f32>().wrapping_add(8 * i))) }
}

/// Stores sums with NaN made canonical.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(reg: *mut Lanes, sums: &Wide) {
    let nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    for (i, &x) in sums.iter().enumerate() {
        let x = _mm256_blendv_ps(x, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        // SAFETY: as for `words`.
        unsafe { _mm256_storeu_ps(reg.cast::<f32>().wrapping_add(8 * i), x) };
    }
}

/// The low (`HIGH` = 0) or high halves (16) of eight words, packed.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<const HIGH: i32>(words: __m256i) -> __m128i {
    let x = if HIGH == 0 { _mm256_and_si256(words, _mm256_set1_epi32(0xffff)) } else { _mm256_srli_epi32::<16>(words) };
    _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

/// The f16 elements of words, in the order of summation.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16(words: [__m256i; 4]) -> [Wide; 2] {
    [words.map(|w| _mm256_cvtph_ps(halves::<0>(w))), words.map(|w| _mm256_cvtph_ps(halves::<16>(w)))]
}

/// The bf16 elements of words, in the order of summation: the odd one of a pair comes first.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16(words: [__m256i; 4]) -> [Wide; 2] {
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    [
        words.map(|w| _mm256_castsi256_ps(_mm256_and_si256(w, high))),
        words.map(|w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w))),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_tf32(words: [__m256i; 4]) -> [Wide; 1] {
    [words.map(|w| _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(0xffff_e000_u32 as i32))))]
}

/// For each of a quad's four words the values of the columns `PARITY`, `PARITY` + 2, … in both halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn columns<const PARITY: usize>(b: &Wide) -> [__m256; 4] {
    let quad = |i: usize| if PARITY == 0 { _mm256_castps256_ps128(b[i]) } else { _mm256_extractf128_ps::<1>(b[i]) };
    let [mut q0, mut q1, mut q2, mut q3] = [quad(0), quad(1), quad(2), quad(3)];
    _MM_TRANSPOSE4_PS(&mut q0, &mut q1, &mut q2, &mut q3);
    [q0, q1, q2, q3].map(|q| _mm256_set_m128(q, q))
}

/// `sums += a * b` over the elements of one register of A and one of B, `N` to a word.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn accumulate<const N: usize>(sums: &mut Sums, a: &[Wide; N], even: &[[__m256; 4]; N], odd: &[[__m256; 4]; N]) {
    macro_rules! word {
        ($w:literal) => {
            for i in 0..N {
                for lane in 0..4 {
                    let a = _mm256_permute_ps::<{ 0x55 * $w }>(a[i][lane]);
                    sums[0][lane] = _mm256_fmadd_ps(a, even[i][$w], sums[0][lane]);
                    sums[1][lane] = _mm256_fmadd_ps(a, odd[i][$w], sums[1][lane]);
                }
            }
        };
    }
    word!(0);
    word!(1);
    word!(2);
    word!(3);
}

/// Adds the products of `K` registers of B and twice as many of A.
macro_rules! products {
    ($f:ident, $k:expr, $widen:path, $sums:ident) => {
        for k in 0..$k {
            let b = $widen(words($f.b[k]));
            let (even, odd) = (b.map(|b| columns::<0>(&b)), b.map(|b| columns::<1>(&b)));
            for half in 0..2 {
                accumulate(&mut $sums[half], &$widen(words($f.a[2 * k + half])), &even, &odd);
            }
        }
    };
}

macro_rules! f32_kernel {
    ($f:ident, $k:expr, $widen:path) => {{
        let mut sums = [[floats($f.c[0]), floats($f.c[1])], [floats($f.c[2]), floats($f.c[3])]];
        products!($f, $k, $widen, sums);
        for half in 0..2 {
            store($f.d[2 * half], &sums[half][0]);
            store($f.d[2 * half + 1], &sums[half][1]);
        }
    }};
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { f32_kernel!(f, K, widen_f16) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tf32<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { f32_kernel!(f, K, widen_tf32) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bf16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe {
        if may_flush::<K>(f) {
            return if K == 2 { portable::mma_f32::<Bf16, 16>(f) } else { portable::mma_f32::<Bf16, 8>(f) };
        }
        f32_kernel!(f, K, widen_bf16)
    }
}

/// Whether a step could meet a subnormal number; see the function of that name in `portable`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn may_flush<const K: usize>(f: &Fragments) -> bool {
    // Magnitude bits less one: zero becomes the largest.
    let least16 = |regs: &[*const Lanes]| {
        let mut least = _mm256_set1_epi32(-1);
        for &reg in regs {
            // SAFETY: the caller passes the registers of the shape.
            for w in unsafe { words(reg) } {
                let key = _mm256_sub_epi16(_mm256_add_epi16(w, w), _mm256_set1_epi16(1));
                least = _mm256_min_epu16(least, key);
            }
        }
        let half = _mm_min_epu16(_mm256_castsi256_si128(least), _mm256_extracti128_si256::<1>(least));
        _mm_extract_epi16::<0>(_mm_minpos_epu16(half)) as u32 >> 8
    };
    let mut least = _mm256_set1_epi32(-1);
    for reg in f.c {
        // SAFETY: as above.
        for w in unsafe { words(reg) } {
            least = _mm256_min_epu32(least, _mm256_sub_epi32(_mm256_add_epi32(w, w), _mm256_set1_epi32(1)));
        }
    }
    let half = _mm_min_epu32(_mm256_castsi256_si128(least), _mm256_extracti128_si256::<1>(least));
    let pair = _mm_min_epu32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    let one = _mm_min_epu32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair));
    let (ea, eb, ec) = (least16(&f.a[..2 * K]), least16(&f.b[..K]), _mm_cvtsi128_si32(one) as u32 >> 24);
    portable::could_flush(ea, eb, ec)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [widen_f16(words(f.c[0])), widen_f16(words(f.c[1]))];
        products!(f, K, widen_f16, sums);
        for half in 0..2 {
            for i in 0..4 {
                let [low, high] = [round_f16(sums[half][0][i]), round_f16(sums[half][1][i])];
                let both = _mm256_or_si256(low, _mm256_slli_epi32::<16>(high));
                _mm256_storeu_si256(f.d[half].cast::<__m256i>().wrapping_add(i), both);
            }
        }
    }
}

/// Rounds to f16 with NaN made canonical, a half to a word.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn round_f16(x: __m256) -> __m256i {
    let rounded = _mm256_cvtepu16_epi32(_mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fff), nan)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f64(f: &Fragments) {
    // SAFETY: the caller's contract is the same.
    unsafe { portable::mma_f64(f) }
}

/// Four products of bytes added to each word: even and odd bytes are widened to 16 bits and multiplied in pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_int8<const A: bool, const B: bool>(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    let [even, odd] =
        [_mm256_madd_epi16(bytes::<A, 0>(a), bytes::<B, 0>(b)), _mm256_madd_epi16(bytes::<A, 1>(a), bytes::<B, 1>(b))];
    _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
}

/// The even (`ODD` = 0) or odd bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes<const SIGNED: bool, const ODD: u8>(x: __m256i) -> __m256i {
    let top = if ODD == 0 { _mm256_slli_epi16::<8>(x) } else { x };
    if SIGNED { _mm256_srai_epi16::<8>(top) } else { _mm256_srli_epi16::<8>(top) }
}

#[target_feature(enable = "avx2")]
unsafe fn int8<const M: usize, const K: usize, const A: bool, const B: bool, const SAT: bool>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; 4];
        for k in 0..K {
            let b = words(f.b[k]).map(|w| _mm256_castsi256_ps(w));
            let columns = [columns::<0>(&b), columns::<1>(&b)];
            for m in 0..M {
                let a = words(f.a[m + 2 * k]);
                macro_rules! word {
                    ($w:literal) => {
                        for lane in 0..4 {
                            let a = _mm256_shuffle_epi32::<{ 0x55 * $w }>(a[lane]);
                            for parity in 0..2 {
                                let b = _mm256_castps_si256(columns[parity][$w]);
                                let sum = &mut sums[2 * m + parity][lane];
                                *sum = dot_int8::<A, B>(*sum, a, b);
                            }
                        }
                    };
                }
                word!(0);
                word!(1);
                word!(2);
                word!(3);
            }
        }
        for r in 0..2 * M {
            for (x, c) in sums[r].iter_mut().zip(words(f.c[r])) {
                let sum = _mm256_add_epi32(*x, c);
                *x = if SAT {
                    // The sum overflowed when both terms have the sign it lacks; then it is the end of the range on their side.
                    let wrong = _mm256_andnot_si256(_mm256_xor_si256(*x, c), _mm256_xor_si256(*x, sum));
                    let end = _mm256_xor_si256(_mm256_srai_epi32::<31>(c), _mm256_set1_epi32(i32::MAX));
                    _mm256_blendv_epi8(sum, end, _mm256_srai_epi32::<31>(wrong))
                } else {
                    sum
                };
            }
        }
        for r in 0..2 * M {
            for (i, &x) in sums[r].iter().enumerate() {
                _mm256_storeu_si256(f.d[r].cast::<__m256i>().wrapping_add(i), x);
            }
        }
    }
}
