//! The kernels for AVX-512, and which kernels an x86-64 has.

use super::avx2::KERNELS as AVX2;
use super::{Fragments, Kernels, Lanes, int8_row};
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
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
        sets.push(AVX512_BF16);
    }
}

const AVX512: Kernels = Kernels {
    isa: "avx512",
    m16n8k16_f16: avx512_m16n8k16_f16,
    m16n8k8_f16: avx512_m16n8k8_f16,
    m16n8k16_f16_f16: avx512_m16n8k16_f16_f16,
    m16n8k8_f16_f16: avx512_m16n8k8_f16_f16,
    m16n8k8_tf32: avx512_m16n8k8_tf32,
    m16n8k4_tf32: avx512_m16n8k4_tf32,
    staged: [AVX2.staged[0], AVX2.staged[1], None, None, None, None],
    ..AVX2
};

const AVX512_BF16: Kernels = Kernels {
    isa: "avx512+bf16+vnni",
    m16n8k16_bf16: avx512_m16n8k16_bf16,
    m16n8k8_bf16: avx512_m16n8k8_bf16,
    staged: [None; 6],
    int8: [AVX2.int8[0], int8_row!(vnni_int8, 1), int8_row!(vnni_int8, 2)],
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
            [_mm512_castsi512_ps(load!($f.c[0], 0)), _mm512_castsi512_ps(load!($f.c[0], 1))],
            [_mm512_castsi512_ps(load!($f.c[1], 0)), _mm512_castsi512_ps(load!($f.c[1], 1))],
            [_mm512_castsi512_ps(load!($f.c[2], 0)), _mm512_castsi512_ps(load!($f.c[2], 1))],
            [_mm512_castsi512_ps(load!($f.c[3], 0)), _mm512_castsi512_ps(load!($f.c[3], 1))],
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
        _mm512_dpbf16_ps(acc, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
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

word_kernel!(avx512_m16n8k16_bf16, "avx512f,avx512bw,avx512vl,avx512bf16", 2, all_bits, dot_bf16);
word_kernel!(avx512_m16n8k8_bf16, "avx512f,avx512bw,avx512vl,avx512bf16", 1, all_bits, dot_bf16);
word_kernel!(avx512_m16n8k8_tf32, "avx512f,avx512bw,avx512vl", 2, tf32_bits, mac_f32);
word_kernel!(avx512_m16n8k4_tf32, "avx512f,avx512bw,avx512vl", 1, tf32_bits, mac_f32);

/// The eight `k` of one block of f16. A is sorted so that a widened quad holds four `k` of its row; B is sorted by `k`, widened
/// and kept in memory, from which a load repeats a quad for free.
macro_rules! f16_block {
    ($acc:ident, $a0:expr, $a1:expr, $b:expr) => {{
        let mut b = Aligned([0f32; 64]);
        let (blo, bhi) = (load!($b, 0), load!($b, 1));
        for n in 0..2 {
            let sorted = _mm512_permutex2var_epi16(blo, _mm512_loadu_epi16(SORT_B[n].as_ptr()), bhi);
            let (low, high) = widen_f16(sorted);
            _mm512_store_ps(b.0.as_mut_ptr().wrapping_add(32 * n), low);
            _mm512_store_ps(b.0.as_mut_ptr().wrapping_add(32 * n + 16), high);
        }
        let b = opaque(b.0.as_ptr());
        let split = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        let a = [
            [
                widen_f16(_mm512_permutexvar_epi64(split, load!($a0, 0))),
                widen_f16(_mm512_permutexvar_epi64(split, load!($a0, 1))),
            ],
            [
                widen_f16(_mm512_permutexvar_epi64(split, load!($a1, 0))),
                widen_f16(_mm512_permutexvar_epi64(split, load!($a1, 1))),
            ],
        ];
        f16_block!(@k $acc, a, b, 0, 0);
        f16_block!(@k $acc, a, b, 0, 1);
        f16_block!(@k $acc, a, b, 0, 2);
        f16_block!(@k $acc, a, b, 0, 3);
        f16_block!(@k $acc, a, b, 1, 0);
        f16_block!(@k $acc, a, b, 1, 1);
        f16_block!(@k $acc, a, b, 1, 2);
        f16_block!(@k $acc, a, b, 1, 3);
    }};
    (@k $acc:ident, $a:ident, $b:ident, $four:tt, $k:literal) => {{
        let even = _mm512_broadcast_f32x4(_mm_load_ps($b.wrapping_add(32 * $four + 8 * $k)));
        let odd = _mm512_broadcast_f32x4(_mm_load_ps($b.wrapping_add(32 * $four + 8 * $k + 4)));
        for m in 0..2 {
            for h in 0..2 {
                let a = $a[m][h].$four;
                let a = _mm512_shuffle_ps::<{ 0x55 * $k }>(a, a);
                $acc[2 * m][h] = _mm512_fmadd_ps(a, even, $acc[2 * m][h]);
                $acc[2 * m + 1][h] = _mm512_fmadd_ps(a, odd, $acc[2 * m + 1][h]);
            }
        }
    }};
}

/// The lower and the upper 16 of 32 halves, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen_f16(halves: __m512i) -> (__m512, __m512) {
    (_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)))
}

/// Hides from the compiler what the pointer points to, which it would otherwise keep in registers and spread by shuffles: the shuffle
/// unit is what these kernels are short of, loads are free.
#[inline(always)]
fn opaque(p: *const f32) -> *const f32 {
    let mut q = p;
    // SAFETY: no instruction at all; without `nomem` the compiler must have stored what `p` points to.
    unsafe { std::arch::asm!("/* {} */", inout(reg) q, options(nostack, preserves_flags)) };
    q
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

/// Four products of bytes added to each word. `VPDPBUSD` multiplies unsigned by signed bytes; other signs are brought there by moving one
/// operand by 128 and correcting with the sum of the other.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_int8<const A: bool, const B: bool>(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let top = _mm512_set1_epi32(0x8080_8080_u32 as i32);
    match (A, B) {
        (false, true) => _mm512_dpbusd_epi32(acc, a, b),
        (true, false) => _mm512_dpbusd_epi32(acc, b, a),
        (true, true) => {
            let moved = _mm512_dpbusd_epi32(acc, _mm512_xor_si512(a, top), b);
            _mm512_sub_epi32(moved, _mm512_dpbusd_epi32(_mm512_setzero_si512(), top, b))
        }
        (false, false) => {
            let moved = _mm512_dpbusd_epi32(acc, a, _mm512_xor_si512(b, top));
            let half = _mm512_set1_epi32(0x4040_4040);
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(moved, a, half), a, half)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn vnni_int8<const K: usize, const A: bool, const B: bool, const SAT: bool>(f: &Fragments) {
    // SAFETY: the caller's contract; loads and stores are unaligned and stay inside 32 words.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); 2]; 4];
        word_block!(acc, f.a[0], f.a[1], f.b[0], all_bits, dot_int8::<A, B>);
        if K == 2 {
            word_block!(acc, f.a[2], f.a[3], f.b[1], all_bits, dot_int8::<A, B>);
        }
        for r in 0..4 {
            for h in 0..2 {
                let (x, c) = (acc[r][h], load!(f.c[r], h));
                let sum = _mm512_add_epi32(x, c);
                acc[r][h] = if SAT {
                    // The sum overflowed when both terms have the sign it lacks; then it is the end of the range on their side.
                    let wrong = _mm512_andnot_si512(_mm512_xor_si512(x, c), _mm512_xor_si512(x, sum));
                    let end = _mm512_xor_si512(_mm512_srai_epi32::<31>(c), _mm512_set1_epi32(i32::MAX));
                    _mm512_mask_mov_epi32(sum, _mm512_cmplt_epi32_mask(wrong, _mm512_setzero_si512()), end)
                } else {
                    sum
                };
            }
        }
        for r in 0..4 {
            for h in 0..2 {
                _mm512_storeu_si512(f.d[r].cast::<__m512i>().wrapping_byte_add(64 * h), acc[r][h]);
            }
        }
    }
}

const _: () = assert!(size_of::<Lanes>() == 128);
