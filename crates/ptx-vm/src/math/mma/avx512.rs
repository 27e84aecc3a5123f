//! The kernels for AVX-512.
//!
//! Operands are prepared as on AVX2, with four steps to a quad: every step multiplies a value of A repeated within its quad by the values
//! of B for the quad's columns. All sums are in registers at once. bf16 is multiplied in pairs by the instruction made for it.

use super::avx2::KERNELS as AVX2;
use super::kernel::{Fragments, Kernels, Lanes, Prepared, STAGED_A, STAGED_B, Staged, int8_row};
use std::arch::x86_64::*;

pub(super) const KERNELS: Kernels = Kernels {
    isa: "avx512",
    m16n8k16_f16: f16::<2>,
    m16n8k8_f16: f16::<1>,
    m16n8k16_f16_f16: f16_f16::<2>,
    m16n8k8_f16_f16: f16_f16::<1>,
    m16n8k8_tf32: tf32::<2>,
    m16n8k4_tf32: tf32::<1>,
    staged: [
        AVX2.staged[0],
        AVX2.staged[1],
        Some(Staged { a: f16_a::<1>, b: f16_b::<1>, multiply: f16_products::<1> }),
        Some(Staged { a: f16_a::<2>, b: f16_b::<2>, multiply: f16_products::<2> }),
        Some(Staged { a: tf32_a::<1>, b: tf32_b::<1>, multiply: tf32_products::<1> }),
        Some(Staged { a: tf32_a::<2>, b: tf32_b::<2>, multiply: tf32_products::<2> }),
    ],
    ..AVX2
};

pub(super) const KERNELS_BF16: Kernels = Kernels {
    isa: "avx512+bf16+vnni",
    m16n8k16_bf16: bf16::<2>,
    m16n8k8_bf16: bf16::<1>,
    staged: [
        Some(Staged { a: bf16_a::<1>, b: bf16_b::<1>, multiply: bf16_products::<1> }),
        Some(Staged { a: bf16_a::<2>, b: bf16_b::<2>, multiply: bf16_products::<2> }),
        KERNELS.staged[2],
        KERNELS.staged[3],
        KERNELS.staged[4],
        KERNELS.staged[5],
    ],
    int8: [AVX2.int8[0], int8_row!(vnni_int8, 1), int8_row!(vnni_int8, 2)],
    ..KERNELS
};

/// A register of A prepared, for `E` times four steps: in each half of the lanes a quad holds its row's values of four steps.
type PreparedA<const E: usize> = [[__m512i; 2]; E];
/// A register of B prepared: by step the values of the even columns, then of the odd ones.
type PreparedB<const E: usize> = [[[__m128i; 2]; 4]; E];

const _: () = assert!(size_of::<[PreparedA<2>; 4]>() <= STAGED_A && size_of::<[PreparedB<2>; 2]>() <= STAGED_B);

/// Indices that sort the words of a B register (column by column) by step, even columns before odd ones.
const SORT_WORDS: [__m512i; 2] = {
    let mut table = [[0_i32; 16]; 2];
    let mut n = 0;
    while n < 32 {
        let (word, parity, t) = (n / 8, n / 4 % 2, n % 4);
        table[n / 16][n % 16] = (4 * (2 * t + parity) + word) as i32;
        n += 1;
    }
    // SAFETY: the bits of integers are a vector.
    unsafe { std::mem::transmute(table) }
};

/// The same for halves.
const SORT_HALVES: [__m512i; 2] = {
    let mut table = [[0_i16; 32]; 2];
    let mut n = 0;
    while n < 64 {
        let (half, parity, t) = (n / 8, n / 4 % 2, n % 4);
        table[n / 32][n % 32] = (8 * (2 * t + parity) + half) as i16;
        n += 1;
    }
    // SAFETY: the bits of integers are a vector.
    unsafe { std::mem::transmute(table) }
};

// The building blocks are macros because an `#[inline(always)]` function cannot carry target features. Neither does `map` of arrays, which
// therefore stays a call around such functions.

macro_rules! load {
    ($reg:expr) => {
        [_mm512_loadu_si512($reg.cast()), _mm512_loadu_si512($reg.cast::<__m512i>().wrapping_add(1))]
    };
}

macro_rules! load_f32 {
    ($reg:expr) => {
        [_mm512_loadu_ps($reg.cast()), _mm512_loadu_ps($reg.cast::<f32>().wrapping_add(16))]
    };
}

/// `acc += a b` for two registers of A and one of B, each prepared for `$e` times four steps; `$mac` is `acc + a * b`.
macro_rules! steps {
    ($acc:ident, $a:expr, $b:expr, $e:expr, $mac:expr) => {
        for e in 0..$e {
            let a = [(*$a)[0][e], (*$a)[1][e]];
            steps!(@step $acc, a, (*$b)[e][0], $mac, 0x00);
            steps!(@step $acc, a, (*$b)[e][1], $mac, 0x55);
            steps!(@step $acc, a, (*$b)[e][2], $mac, 0xaa);
            steps!(@step $acc, a, (*$b)[e][3], $mac, 0xff);
        }
    };
    (@step $acc:ident, $a:ident, $b:expr, $mac:expr, $pick:literal) => {{
        let (even, odd) = (_mm512_broadcast_i32x4($b[0]), _mm512_broadcast_i32x4($b[1]));
        for m in 0..2 {
            for h in 0..2 {
                let a = _mm512_shuffle_epi32::<$pick>($a[m][h]);
                $acc[2 * m][h] = $mac($acc[2 * m][h], a, even);
                $acc[2 * m + 1][h] = $mac($acc[2 * m + 1][h], a, odd);
            }
        }
    }};
}

/// The same of registers as they are, `$k` of B and twice as many of A.
macro_rules! direct {
    ($acc:ident, $f:ident, $k:expr, $e:expr, $rows:path, $columns:path, $mac:expr) => {
        for k in 0..$k {
            let a = [$rows(load!($f.a[2 * k])), $rows(load!($f.a[2 * k + 1]))];
            let b = $columns(load!($f.b[k]));
            steps!($acc, &raw const a, opaque(&raw const b).cast::<PreparedB<$e>>(), $e, $mac);
        }
    };
}

/// A product's sums as they start.
macro_rules! load_sums {
    ($c:expr) => {
        [load_f32!($c[0]), load_f32!($c[1]), load_f32!($c[2]), load_f32!($c[3])]
    };
}

/// Stores sums with NaN made canonical.
macro_rules! store_sums {
    ($d:expr, $acc:expr) => {{
        let nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fff_ffff));
        // Token 0 (keep the first operand) for the NaN classes 0 and 1, token 1 (take the second) for all others.
        let table = _mm512_set1_epi32(0x1111_1100);
        for r in 0..4 {
            for h in 0..2 {
                let x = _mm512_fixupimm_ps::<0>(nan, $acc[r][h], table);
                _mm512_storeu_ps($d[r].cast::<f32>().wrapping_add(16 * h), x);
            }
        }
    }};
}

/// A kernel with f32 accumulators for one product of registers.
macro_rules! kernel {
    ($name:ident, $features:literal, $e:literal, $rows:path, $columns:path, $mac:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const K: usize>(f: &Fragments) {
            // SAFETY: the caller's contract; loads and stores are unaligned and stay inside 32 words.
            unsafe {
                let mut acc = load_sums!(f.c);
                direct!(acc, f, K, $e, $rows, $columns, $mac);
                store_sums!(f.d, acc);
            }
        }
    };
}

kernel!(f16, "avx512f,avx512bw,avx512dq,avx512vl", 2, rows_of_halves, columns_of_halves, mac_f32);
kernel!(tf32, "avx512f,avx512bw,avx512dq,avx512vl", 1, rows_of_tf32, columns_of_tf32, mac_f32);
kernel!(bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", 1, rows, columns, dot_bf16);

/// A kernel in stages; `$rows` and `$columns` prepare a register for `$e` times four steps.
macro_rules! stages {
    ([$a:ident, $b:ident, $products:ident], $features:literal, $e:literal, $rows:path, $columns:path, $mac:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $a<const K: usize>(registers: &[*const Lanes; 4], to: *mut u8) {
            for (i, register) in registers.iter().enumerate().take(2 * K) {
                // SAFETY: the caller's contract; loads are unaligned and stay inside 32 words.
                unsafe { to.cast::<PreparedA<$e>>().add(i).write($rows(load!(register))) };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $b<const K: usize>(registers: &[*const Lanes; 2], to: *mut u8) {
            for (i, register) in registers.iter().enumerate().take(K) {
                // SAFETY: as above.
                unsafe { to.cast::<[__m512i; 2 * $e]>().add(i).write($columns(load!(register))) };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $products<const K: usize>(products: &[Prepared]) {
            for product in products {
                let (a, b) = (product.a.cast::<[PreparedA<$e>; 2]>(), product.b.cast::<PreparedB<$e>>());
                // SAFETY: as above, for stores too.
                unsafe {
                    let mut acc = load_sums!(product.c);
                    for k in 0..K {
                        steps!(acc, a.add(k), b.add(k), $e, $mac);
                    }
                    store_sums!(product.d, acc);
                }
            }
        }
    };
}

stages!(
    [f16_a, f16_b, f16_products],
    "avx512f,avx512bw,avx512dq,avx512vl",
    2,
    rows_of_halves,
    columns_of_halves,
    mac_f32
);
stages!(
    [tf32_a, tf32_b, tf32_products],
    "avx512f,avx512bw,avx512dq,avx512vl",
    1,
    rows_of_tf32,
    columns_of_tf32,
    mac_f32
);
stages!([bf16_a, bf16_b, bf16_products], "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", 1, rows, columns, dot_bf16);

/// Hides from the compiler what the pointer points to, which it would otherwise keep in registers and spread by shuffles: the shuffle
/// unit is what these kernels are short of, loads are free.
#[inline(always)]
fn opaque<T>(p: *const T) -> *const T {
    let mut q = p;
    // SAFETY: no instruction at all; without `nomem` the compiler must have stored what `p` points to.
    unsafe { std::arch::asm!("/* {} */", inout(reg) q, options(nostack, preserves_flags)) };
    q
}

/// The words of a row are its steps.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows(words: [__m512i; 2]) -> PreparedA<1> {
    [words]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn columns(words: [__m512i; 2]) -> [__m512i; 2] {
    let [first, last] = SORT_WORDS;
    [_mm512_permutex2var_epi32(words[0], first, words[1]), _mm512_permutex2var_epi32(words[0], last, words[1])]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn tf32_bits(words: [__m512i; 2]) -> [__m512i; 2] {
    let kept = _mm512_set1_epi32(0xffff_e000_u32 as i32);
    [_mm512_and_si512(words[0], kept), _mm512_and_si512(words[1], kept)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rows_of_tf32(words: [__m512i; 2]) -> PreparedA<1> {
    rows(tf32_bits(words))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn columns_of_tf32(words: [__m512i; 2]) -> [__m512i; 2] {
    columns(tf32_bits(words))
}

/// A quad's first four halves are the first four steps.
#[inline]
#[target_feature(enable = "avx512f")]
fn rows_of_halves(words: [__m512i; 2]) -> PreparedA<2> {
    let split = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    let [low0, high0] = widen_f16(_mm512_permutexvar_epi64(split, words[0]));
    let [low1, high1] = widen_f16(_mm512_permutexvar_epi64(split, words[1]));
    [[low0, low1], [high0, high1]]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns_of_halves(words: [__m512i; 2]) -> [__m512i; 4] {
    let [first, last] = SORT_HALVES;
    let [s0, s1] = widen_f16(_mm512_permutex2var_epi16(words[0], first, words[1]));
    let [s2, s3] = widen_f16(_mm512_permutex2var_epi16(words[0], last, words[1]));
    [s0, s1, s2, s3]
}

/// The lower and the upper 16 of 32 halves, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen_f16(halves: __m512i) -> [__m512i; 2] {
    let (low, high) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
    [_mm512_castps_si512(_mm512_cvtph_ps(low)), _mm512_castps_si512(_mm512_cvtph_ps(high))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_bf16(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: the vector types are bits of the same size.
    unsafe {
        _mm512_dpbf16_ps(acc, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mac_f32(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn f16_f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract; loads and stores are unaligned and stay inside 32 words.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; 4];
        for r in 0..2 {
            for (h, words) in load!(f.c[r]).into_iter().enumerate() {
                (acc[2 * r][h], acc[2 * r + 1][h]) = split_f16(words);
            }
        }
        direct!(acc, f, K, 2, rows_of_halves, columns_of_halves, mac_f32);
        for r in 0..2 {
            for h in 0..2 {
                let words = join_f16(acc[2 * r][h], acc[2 * r + 1][h]);
                _mm512_storeu_si512(f.d[r].cast::<__m512i>().wrapping_add(h), words);
            }
        }
    }
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
        direct!(acc, f, K, 1, rows, columns, dot_int8::<A, B>);
        for r in 0..4 {
            for h in 0..2 {
                let (x, c) = (acc[r][h], load!(f.c[r])[h]);
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
