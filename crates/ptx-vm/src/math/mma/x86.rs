//! The kernels for x86-64: AVX-512 by intrinsics, AVX2 by compiling the portable bodies with more features.

use super::portable::{self, Bf16, F16, Tf32};
use super::{Fragments, Kernels, Lanes};
use std::arch::x86_64::*;

pub(super) fn available(sets: &mut Vec<Kernels>) {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
        return;
    }
    sets.push(AVX2);
    if !(is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl"))
    {
        return;
    }
    sets.push(AVX512);
    if is_x86_feature_detected!("avx512bf16") {
        sets.push(AVX512_BF16);
    }
}

macro_rules! with_avx2 {
    ($($name:ident = $body:expr;)*) => {$(
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(f: &Fragments) {
            // SAFETY: the caller's contract is the same.
            unsafe { $body(f) }
        }
    )*};
}

with_avx2! {
    avx2_m16n8k16_bf16 = portable::mma_f32::<Bf16, 16>;
    avx2_m16n8k8_bf16 = portable::mma_f32::<Bf16, 8>;
    avx2_m16n8k16_f16 = portable::mma_f32::<F16, 16>;
    avx2_m16n8k8_f16 = portable::mma_f32::<F16, 8>;
    avx2_m16n8k16_f16_f16 = portable::mma_f16::<16>;
    avx2_m16n8k8_f16_f16 = portable::mma_f16::<8>;
    avx2_m16n8k8_tf32 = portable::mma_f32::<Tf32, 8>;
    avx2_m16n8k4_tf32 = portable::mma_f32::<Tf32, 4>;
}

const AVX2: Kernels = Kernels {
    isa: "avx2",
    m16n8k16_bf16: avx2_m16n8k16_bf16,
    m16n8k8_bf16: avx2_m16n8k8_bf16,
    m16n8k16_f16: avx2_m16n8k16_f16,
    m16n8k8_f16: avx2_m16n8k8_f16,
    m16n8k16_f16_f16: avx2_m16n8k16_f16_f16,
    m16n8k8_f16_f16: avx2_m16n8k8_f16_f16,
    m16n8k8_tf32: avx2_m16n8k8_tf32,
    m16n8k4_tf32: avx2_m16n8k4_tf32,
};

const AVX512: Kernels = Kernels {
    isa: "avx512",
    m16n8k16_f16: avx512_m16n8k16_f16,
    m16n8k8_f16: avx512_m16n8k8_f16,
    m16n8k16_f16_f16: avx512_m16n8k16_f16_f16,
    m16n8k8_f16_f16: avx512_m16n8k8_f16_f16,
    m16n8k8_tf32: avx512_m16n8k8_tf32,
    m16n8k4_tf32: avx512_m16n8k4_tf32,
    ..AVX2
};

const AVX512_BF16: Kernels = Kernels {
    isa: "avx512+bf16",
    m16n8k16_bf16: avx512_m16n8k16_bf16,
    m16n8k8_bf16: avx512_m16n8k8_bf16,
    ..AVX512
};

/// Indices that take word `w` of the columns `parity`, `parity + 2`, … of a B register, in every quad.
const GATHER_B: [[i32; 16]; 8] = {
    let mut table = [[0; 16]; 8];
    let mut n = 0;
    while n < 8 {
        let (w, parity) = (n / 2, n % 2);
        let mut lane = 0;
        while lane < 16 {
            table[n][lane] = (4 * (2 * (lane % 4) + parity) + w) as i32;
            lane += 1;
        }
        n += 1;
    }
    table
};

/// Indices that take column `k` of four rows from two vectors of two rows by eight columns, repeated over each row's quad.
const SPREAD_A: [[i32; 16]; 8] = {
    let mut table = [[0; 16]; 8];
    let mut k = 0;
    while k < 8 {
        let mut lane = 0;
        while lane < 16 {
            table[k][lane] = (8 * (lane / 4) + k) as i32;
            lane += 1;
        }
        k += 1;
    }
    table
};

/// Indices that sort the halves of a B register (column by column) by `k`, even columns before odd ones.
const SORT_B: [[i16; 32]; 2] = {
    let mut table = [[0; 32]; 2];
    let mut n = 0;
    while n < 64 {
        let (k, parity, t) = (n / 8, (n / 4) % 2, n % 4);
        table[n / 32][n % 32] = (8 * (2 * t + parity) + k) as i16;
        n += 1;
    }
    table
};

// The building blocks are macros because an `#[inline(always)]` function cannot carry target features.

macro_rules! load {
    ($reg:expr, $half:expr) => {
        _mm512_loadu_si512($reg.cast::<__m512i>().wrapping_byte_add(64 * $half))
    };
}

macro_rules! load_acc {
    ($f:expr) => {
        [
            [
                _mm512_castsi512_ps(load!($f.c[0], 0)),
                _mm512_castsi512_ps(load!($f.c[0], 1)),
            ],
            [
                _mm512_castsi512_ps(load!($f.c[1], 0)),
                _mm512_castsi512_ps(load!($f.c[1], 1)),
            ],
            [
                _mm512_castsi512_ps(load!($f.c[2], 0)),
                _mm512_castsi512_ps(load!($f.c[2], 1)),
            ],
            [
                _mm512_castsi512_ps(load!($f.c[3], 0)),
                _mm512_castsi512_ps(load!($f.c[3], 1)),
            ],
        ]
    };
}

/// Stores accumulators with NaN made canonical.
macro_rules! store_acc {
    ($f:expr, $acc:expr) => {{
        let nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fff_ffff));
        // Token 0 (keep the first operand) for the NaN classes 0 and 1, token 1 (take the second) for all others.
        let table = _mm512_set1_epi32(0x1111_1100);
        for r in 0..4 {
            for h in 0..2 {
                let x = _mm512_fixupimm_ps::<0>(nan, $acc[r][h], table);
                _mm512_storeu_ps($f.d[r].cast::<f32>().wrapping_add(16 * h), x);
            }
        }
    }};
}

/// The steps of one block of four words of A and B; `$mac` is `acc + a * b` on words.
macro_rules! word_block {
    ($acc:ident, $a0:expr, $a1:expr, $b:expr, $mask:expr, $mac:expr) => {{
        let (blo, bhi) = ($mask(load!($b, 0)), $mask(load!($b, 1)));
        let a = [[$mask(load!($a0, 0)), $mask(load!($a0, 1))], [$mask(load!($a1, 0)), $mask(load!($a1, 1))]];
        word_block!(@word $acc, a, blo, bhi, $mac, 0);
        word_block!(@word $acc, a, blo, bhi, $mac, 1);
        word_block!(@word $acc, a, blo, bhi, $mac, 2);
        word_block!(@word $acc, a, blo, bhi, $mac, 3);
    }};
    (@word $acc:ident, $a:ident, $blo:ident, $bhi:ident, $mac:expr, $w:literal) => {{
        let even = _mm512_permutex2var_epi32($blo, _mm512_loadu_epi32(GATHER_B[2 * $w].as_ptr()), $bhi);
        let odd = _mm512_permutex2var_epi32($blo, _mm512_loadu_epi32(GATHER_B[2 * $w + 1].as_ptr()), $bhi);
        for m in 0..2 {
            for h in 0..2 {
                let a = _mm512_shuffle_epi32::<{ 0x55 * $w }>($a[m][h]);
                $acc[2 * m][h] = $mac($acc[2 * m][h], a, even);
                $acc[2 * m + 1][h] = $mac($acc[2 * m + 1][h], a, odd);
            }
        }
    }};
}

macro_rules! word_kernel {
    ($name:ident, $features:literal, $blocks:literal, $mask:expr, $mac:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(f: &Fragments) {
            // SAFETY: the caller's contract; loads and stores are unaligned and stay inside 32 words.
            unsafe {
                let mut acc = load_acc!(f);
                word_block!(acc, f.a[0], f.a[1], f.b[0], $mask, $mac);
                if $blocks == 2 {
                    word_block!(acc, f.a[2], f.a[3], f.b[1], $mask, $mac);
                }
                store_acc!(f, acc);
            }
        }
    };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_bf16(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: the three vector types are bits of the same size.
    unsafe {
        _mm512_dpbf16_ps(
            acc,
            std::mem::transmute::<__m512i, __m512bh>(a),
            std::mem::transmute::<__m512i, __m512bh>(b),
        )
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mac_f32(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn tf32_bits(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi32(0xffff_e000_u32 as i32))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all_bits(x: __m512i) -> __m512i {
    x
}

word_kernel!(
    avx512_m16n8k16_bf16,
    "avx512f,avx512bw,avx512vl,avx512bf16",
    2,
    all_bits,
    dot_bf16
);
word_kernel!(
    avx512_m16n8k8_bf16,
    "avx512f,avx512bw,avx512vl,avx512bf16",
    1,
    all_bits,
    dot_bf16
);
word_kernel!(avx512_m16n8k8_tf32, "avx512f,avx512bw,avx512vl", 2, tf32_bits, mac_f32);
word_kernel!(avx512_m16n8k4_tf32, "avx512f,avx512bw,avx512vl", 1, tf32_bits, mac_f32);

/// The eight `k` of one block of f16: A is widened by rows and spread over quads, B is sorted by `k`, widened and kept in memory,
/// from which a load repeats a quad for free.
macro_rules! f16_block {
    ($acc:ident, $a0:expr, $a1:expr, $b:expr) => {{
        let mut b = Aligned([0f32; 64]);
        let (blo, bhi) = (load!($b, 0), load!($b, 1));
        for n in 0..2 {
            let sorted = _mm512_permutex2var_epi16(blo, _mm512_loadu_epi16(SORT_B[n].as_ptr()), bhi);
            let out = b.0.as_mut_ptr().wrapping_add(32 * n);
            _mm512_store_ps(out, _mm512_cvtph_ps(_mm512_castsi512_si256(sorted)));
            _mm512_store_ps(
                out.wrapping_add(16),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(sorted)),
            );
        }
        let mut a = [[[_mm512_setzero_ps(); 2]; 2]; 2];
        for (m, reg) in [$a0, $a1].into_iter().enumerate() {
            for h in 0..2 {
                for q in 0..2 {
                    let halves = reg.cast::<__m256i>().wrapping_add(2 * h + q);
                    a[m][h][q] = _mm512_cvtph_ps(_mm256_loadu_si256(halves));
                }
            }
        }
        for k in 0..8 {
            let spread = _mm512_loadu_epi32(SPREAD_A[k].as_ptr());
            let even = _mm512_broadcast_f32x4(_mm_load_ps(b.0.as_ptr().wrapping_add(8 * k)));
            let odd = _mm512_broadcast_f32x4(_mm_load_ps(b.0.as_ptr().wrapping_add(8 * k + 4)));
            for m in 0..2 {
                for h in 0..2 {
                    let a = _mm512_permutex2var_ps(a[m][h][0], spread, a[m][h][1]);
                    $acc[2 * m][h] = _mm512_fmadd_ps(a, even, $acc[2 * m][h]);
                    $acc[2 * m + 1][h] = _mm512_fmadd_ps(a, odd, $acc[2 * m + 1][h]);
                }
            }
        }
    }};
}

#[repr(align(64))]
struct Aligned([f32; 64]);

macro_rules! f16_kernel {
    ($name:ident, $name_f16:ident, $blocks:literal) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn $name(f: &Fragments) {
            // SAFETY: the caller's contract; loads and stores are unaligned and stay inside 32 words.
            unsafe {
                let mut acc = load_acc!(f);
                f16_block!(acc, f.a[0], f.a[1], f.b[0]);
                if $blocks == 2 {
                    f16_block!(acc, f.a[2], f.a[3], f.b[1]);
                }
                store_acc!(f, acc);
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn $name_f16(f: &Fragments) {
            // SAFETY: as above.
            unsafe {
                let mut acc = [[_mm512_setzero_ps(); 2]; 4];
                for r in 0..2 {
                    for h in 0..2 {
                        let (even, odd) = split_f16(load!(f.c[r], h));
                        acc[2 * r][h] = even;
                        acc[2 * r + 1][h] = odd;
                    }
                }
                f16_block!(acc, f.a[0], f.a[1], f.b[0]);
                if $blocks == 2 {
                    f16_block!(acc, f.a[2], f.a[3], f.b[1]);
                }
                for r in 0..2 {
                    for h in 0..2 {
                        let words = join_f16(acc[2 * r][h], acc[2 * r + 1][h]);
                        _mm512_storeu_si512(f.d[r].cast::<__m512i>().wrapping_add(h), words);
                    }
                }
            }
        }
    };
}

/// The low and the high halves of 16 words, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn split_f16(words: __m512i) -> (__m512, __m512) {
    let low = _mm512_cvtepi32_epi16(words);
    let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words));
    (_mm512_cvtph_ps(low), _mm512_cvtph_ps(high))
}

/// Rounds to f16 and packs into the low and the high halves of 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn join_f16(low: __m512, high: __m512) -> __m512i {
    let pack = |x: __m512| {
        let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_cvtepu16_epi32(_mm256_mask_mov_epi16(halves, nan, _mm256_set1_epi16(0x7fff)))
    };
    _mm512_or_si512(pack(low), _mm512_slli_epi32::<16>(pack(high)))
}

f16_kernel!(avx512_m16n8k16_f16, avx512_m16n8k16_f16_f16, 2);
f16_kernel!(avx512_m16n8k8_f16, avx512_m16n8k8_f16_f16, 1);

const _: () = assert!(size_of::<Lanes>() == 128);
