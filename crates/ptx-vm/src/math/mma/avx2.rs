//! The kernels for AVX2. Operands are first widened to f32, A lane by lane in the layout of its registers, B with the columns of a
//! word side by side; then every step multiplies an A value broadcast within its quad by the B values of the quad's columns.
//!
//! The steps are written in assembly. bf16's flush subnormal numbers, which the processor does by itself when `MXCSR` says so (the bits
//! are those of `portable::flushing_step`), and only assembly may change that register. It also keeps the sums in registers, which
//! the compiler does not manage: two multiply-adds a cycle are near.

use super::kernel::{Fragments, Kernels, Lanes, Prepared, STAGED_A, STAGED_B, Staged, int8_row};
use super::portable;
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
    staged: [
        Some(Staged { a: bf16_a::<1>, b: bf16_b::<1>, multiply: flushing_halves::<1> }),
        Some(Staged { a: bf16_a::<2>, b: bf16_b::<2>, multiply: flushing_halves::<2> }),
        Some(Staged { a: f16_a::<1>, b: f16_b::<1>, multiply: halves_f32::<1> }),
        Some(Staged { a: f16_a::<2>, b: f16_b::<2>, multiply: halves_f32::<2> }),
        Some(Staged { a: tf32_a::<1>, b: tf32_b::<1>, multiply: words_f32::<1> }),
        Some(Staged { a: tf32_a::<2>, b: tf32_b::<2>, multiply: words_f32::<2> }),
    ],
    int8: [int8_row!(int8, 1, 1), int8_row!(int8, 2, 1), int8_row!(int8, 2, 2)],
};

/// A register's values, eight lanes a vector.
type Wide = [__m256; 4];
/// A widened to f32: by register and element of a word.
type WideA = [[Wide; 2]; 4];
/// B likewise: by register, word of a quad and element; the even columns, then the odd ones.
type WideB = [[[__m256; 2]; 4]; 2];
/// Both.
#[repr(C, align(64))]
struct Operands {
    a: WideA,
    b: WideB,
}

const _: () = assert!(size_of::<WideA>() <= STAGED_A && size_of::<WideB>() <= STAGED_B);

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn words(reg: *const Lanes) -> [__m256i; 4] {
    // SAFETY: the caller passes a register; the loads are unaligned and stay inside its 32 words.
    unsafe { std::array::from_fn(|i| _mm256_loadu_si256(reg.cast::<__m256i>().wrapping_add(i))) }
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

/// The words 0, 1, 2 and 3 of all quads: those of the even ones (columns of B), then those of the odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn by_word(w: [__m256i; 4]) -> [__m256i; 4] {
    let (low0, low1) = (_mm256_unpacklo_epi32(w[0], w[1]), _mm256_unpacklo_epi32(w[2], w[3]));
    let (high0, high1) = (_mm256_unpackhi_epi32(w[0], w[1]), _mm256_unpackhi_epi32(w[2], w[3]));
    [
        _mm256_unpacklo_epi64(low0, low1),
        _mm256_unpackhi_epi64(low0, low1),
        _mm256_unpacklo_epi64(high0, high1),
        _mm256_unpackhi_epi64(high0, high1),
    ]
}

/// One multiply-add of every sum: word `$w`, element `$e`; `$pick` is the shuffle that repeats word `$w` in its quad.
macro_rules! step {
    ($w:literal, $e:literal, $pick:literal) => {
        concat!(
            "vbroadcastf128 ymm8, [{b} + 64 * ",
            $w,
            " + 32 * ",
            $e,
            "]\n",
            "vbroadcastf128 ymm9, [{b} + 64 * ",
            $w,
            " + 32 * ",
            $e,
            " + 16]\n",
            "vpermilps ymm10, [{a} + 128 * ",
            $e,
            "], ",
            $pick,
            "\n",
            "vpermilps ymm11, [{a} + 128 * ",
            $e,
            " + 32], ",
            $pick,
            "\n",
            "vpermilps ymm12, [{a} + 128 * ",
            $e,
            " + 64], ",
            $pick,
            "\n",
            "vpermilps ymm13, [{a} + 128 * ",
            $e,
            " + 96], ",
            $pick,
            "\n",
            "vfmadd231ps ymm0, ymm10, ymm8\n",
            "vfmadd231ps ymm4, ymm10, ymm9\n",
            "vfmadd231ps ymm1, ymm11, ymm8\n",
            "vfmadd231ps ymm5, ymm11, ymm9\n",
            "vfmadd231ps ymm2, ymm12, ymm8\n",
            "vfmadd231ps ymm6, ymm12, ymm9\n",
            "vfmadd231ps ymm3, ymm13, ymm8\n",
            "vfmadd231ps ymm7, ymm13, ymm9\n",
        )
    };
}

/// Stores a sum with NaN made canonical.
macro_rules! store {
    ($sum:literal, $to:literal) => {
        concat!(
            "vcmpunordps ymm8, ",
            $sum,
            ", ",
            $sum,
            "\n",
            "vblendvps ymm8, ",
            $sum,
            ", ymm14, ymm8\n",
            "vmovups [",
            $to,
            "], ymm8\n",
        )
    };
}

/// `d = a b + c` for `$count` products from `$first` on, over `$k` registers of B and twice as many of A; `$before` and `$after` go around all.
///
/// The sums of one half of the rows at a time: even columns in ymm0..4, odd ones in ymm4..8.
macro_rules! multiply {
    ($first:expr, $count:expr, $k:expr, [$($before:literal,)*], [$($step:expr,)*], [$($after:literal,)*]) => {{
        let first: *const Prepared = $first;
        // Switches of MXCSR: as it was, and with bits 15 and 6 set.
        let mut modes = [0u32; 2];
        std::arch::asm!(
            "vpcmpeqd ymm14, ymm14, ymm14",
            "vpsrld ymm14, ymm14, 1",
            $($before,)*
            "4:",
            "mov {a}, [{p}]",
            "mov {b}, [{p} + 8]",
            "lea {q}, [{p} + 16]",
            "2:",
            "mov {x}, [{q}]",
            "mov {y}, [{q} + 8]",
            "vmovups ymm0, [{x}]",
            "vmovups ymm1, [{x} + 32]",
            "vmovups ymm2, [{x} + 64]",
            "vmovups ymm3, [{x} + 96]",
            "vmovups ymm4, [{y}]",
            "vmovups ymm5, [{y} + 32]",
            "vmovups ymm6, [{y} + 64]",
            "vmovups ymm7, [{y} + 96]",
            "mov {x:e}, {k}",
            "3:",
            $($step,)*
            "add {a}, 512",
            "add {b}, 256",
            "dec {x:e}",
            "jnz 3b",
            "mov {x}, [{q} + 32]",
            "mov {y}, [{q} + 40]",
            store!("ymm0", "{x}"),
            store!("ymm1", "{x} + 32"),
            store!("ymm2", "{x} + 64"),
            store!("ymm3", "{x} + 96"),
            store!("ymm4", "{y}"),
            store!("ymm5", "{y} + 32"),
            store!("ymm6", "{y} + 64"),
            store!("ymm7", "{y} + 96"),
            "sub {a}, 512 * {k} - 256",
            "sub {b}, 256 * {k}",
            "add {q}, 16",
            "lea {x}, [{p} + 48]",
            "cmp {q}, {x}",
            "jne 2b",
            "add {p}, 80",
            "cmp {p}, {end}",
            "jne 4b",
            $($after,)*
            "/* {modes} */",
            k = const $k,
            p = inout(reg) first => _,
            end = in(reg) first.wrapping_add($count),
            a = out(reg) _,
            b = out(reg) _,
            q = out(reg) _,
            x = out(reg) _,
            y = out(reg) _,
            modes = in(reg) &raw mut modes,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _,
            options(nostack),
        );
    }};
    ($first:expr, $count:expr, $k:expr, words) => {
        multiply!($first, $count, $k, [], [
            step!("0", "0", "0x00"),
            step!("1", "0", "0x55"),
            step!("2", "0", "0xaa"),
            step!("3", "0", "0xff"),
        ], [])
    };
    ($first:expr, $count:expr, $k:expr, halves) => { multiply!(@halves $first, $count, $k, [], []) };
    ($first:expr, $count:expr, $k:expr, halves_flushing) => {
        multiply!(@halves $first, $count, $k, [
            "stmxcsr [{modes}]",
            "mov {x:e}, [{modes}]",
            "or {x:e}, 0x8040",
            "mov [{modes} + 4], {x:e}",
            "ldmxcsr [{modes} + 4]",
        ], ["ldmxcsr [{modes}]",])
    };
    (@halves $first:expr, $count:expr, $k:expr, $before:tt, $after:tt) => {
        multiply!($first, $count, $k, $before, [
            step!("0", "0", "0x00"),
            step!("0", "1", "0x00"),
            step!("1", "0", "0x55"),
            step!("1", "1", "0x55"),
            step!("2", "0", "0xaa"),
            step!("2", "1", "0xaa"),
            step!("3", "0", "0xff"),
            step!("3", "1", "0xff"),
        ], $after)
    };
}

const _: () = assert!(size_of::<Prepared>() == 80);

/// Widens the registers of A into `$to`, which may be uninitialised.
macro_rules! widen_a {
    ($to:expr, $registers:expr, $k:expr, $widen:path) => {
        for r in 0..2 * $k {
            for (e, words) in $widen(words($registers[r])).into_iter().enumerate() {
                (*$to)[r][e] = words;
            }
        }
    };
}

/// Those of B.
macro_rules! widen_b {
    ($to:expr, $registers:expr, $k:expr, $widen:path) => {
        for k in 0..$k {
            for (e, words) in $widen(by_word(words($registers[k]))).into_iter().enumerate() {
                for w in 0..4 {
                    (*$to)[k][w][e] = words[w];
                }
            }
        }
    };
}

/// Both for `$f`; gives pointers to them.
macro_rules! widen {
    ($operands:expr, $f:expr, $k:expr, $widen:path) => {{
        let (a, b) = (&raw mut (*$operands).a, &raw mut (*$operands).b);
        widen_b!(b, $f.b, $k, $widen);
        widen_a!(a, $f.a, $k, $widen);
        (a.cast_const().cast::<u8>(), b.cast_const().cast::<u8>())
    }};
}

macro_rules! f32_kernel {
    ($f:ident, $k:expr, $widen:path, $steps:ident) => {{
        let mut operands = std::mem::MaybeUninit::<Operands>::uninit();
        let operands = operands.as_mut_ptr();
        let (a, b) = widen!(operands, $f, $k, $widen);
        let mut product = Prepared { a, b, c: $f.c, d: $f.d };
        // Results of the first half of the rows are written before C is read for the second.
        let mut kept = std::mem::MaybeUninit::<[Lanes; 2]>::uninit();
        if $f.d[..2].iter().any(|d| $f.c[2..].contains(&d.cast_const())) {
            let kept = kept.write([*$f.c[2], *$f.c[3]]);
            (product.c[2], product.c[3]) = (&raw const kept[0], &raw const kept[1]);
        }
        multiply!(&raw const product, 1, $k, $steps);
    }};
}

/// The stages of a kind of operands, and products of such.
macro_rules! stages {
    ($a:ident, $b:ident, $multiply:ident, $widen:path, $steps:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $a<const K: usize>(registers: &[*const Lanes; 4], to: *mut u8) {
            // SAFETY: the caller's contract.
            unsafe { widen_a!(to.cast::<WideA>(), registers, K, $widen) }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $b<const K: usize>(registers: &[*const Lanes; 2], to: *mut u8) {
            // SAFETY: the caller's contract.
            unsafe { widen_b!(to.cast::<WideB>(), registers, K, $widen) }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $multiply<const K: usize>(products: &[Prepared]) {
            if products.is_empty() {
                return;
            }
            // SAFETY: the caller's contract.
            unsafe { multiply!(products.as_ptr(), products.len(), K, $steps) }
        }
    };
}

stages!(f16_a, f16_b, halves_f32, widen_f16, halves);
stages!(bf16_a, bf16_b, flushing_halves, widen_bf16, halves_flushing);
stages!(tf32_a, tf32_b, words_f32, widen_tf32, words);

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { f32_kernel!(f, K, widen_f16, halves) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tf32<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { f32_kernel!(f, K, widen_tf32, words) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bf16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe { f32_kernel!(f, K, widen_bf16, halves_flushing) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16_f16<const K: usize>(f: &Fragments) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut operands = std::mem::MaybeUninit::<Operands>::uninit();
        let operands = operands.as_mut_ptr();
        let (a, b) = widen!(operands, f, K, widen_f16);
        let [[even0, odd0], [even1, odd1]] = [widen_f16(words(f.c[0])), widen_f16(words(f.c[1]))];
        let mut sums: [Wide; 4] = [even0, odd0, even1, odd1];
        let at = sums.each_mut().map(std::ptr::from_mut);
        let product = Prepared { a, b, c: at.map(|p| p.cast_const().cast()), d: at.map(|p| p.cast()) };
        multiply!(&raw const product, 1, K, halves);
        for half in 0..2 {
            for i in 0..4 {
                let [low, high] = [round_f16(sums[2 * half][i]), round_f16(sums[2 * half + 1][i])];
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
