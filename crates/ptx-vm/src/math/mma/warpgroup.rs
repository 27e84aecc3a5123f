//! A warp's part of `wgmma`: 16 rows of A by all columns of B, eight of them after the other by the kernels of `mma`, with A prepared once.
//!
//! Fragments are those of the `mma` with 16 rows and the same `k`; accumulators those of one such `mma` for each eight columns.

use super::choose::kernels;
use super::fp8::widen;
use super::kernel::{Fragments, Kernel, Lanes, Prepared, STAGED_A, STAGED_B, Staged};
use super::product::{Format, Layout, Product};
use super::tensor_core::{TensorCore, multiply};
use crate::math::f16::{f16_to_f32, f32_to_f16};
use std::mem::MaybeUninit;

/// Blocks of eight columns whose operands are prepared at a time.
const TOGETHER: usize = 8;

/// What is multiplied.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Eight columns by one kernel.
    pub kernel: Kernel,
    /// What tensor cores compute, unless it is exact.
    pub product: Option<Product>,
}

/// Registers, aligned for the vector kernels.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Room<const N: usize>([Lanes; N]);

/// Room for prepared operands.
#[repr(align(64))]
struct Shelf<const N: usize>(MaybeUninit<[u8; N]>);

static ZERO: Room<1> = Room([[0; 32]; 1]);

impl Tile {
    /// The kernel in stages that multiplies it, and whether operands are widened to two of its own first.
    fn staged(&self) -> Option<(&'static Staged, bool)> {
        let product = self.product?;
        let eight = matches!(product.a, Format::E4m3 | Format::E5m2);
        let known = match eight {
            true => Product { a: Format::F16, b: Format::F16, half: false, layout: Layout::Wide { k: 16 } },
            false => Product { half: false, ..product },
        };
        kernels().staged(known).map(|staged| (staged, eight))
    }

    /// `d = a b + d`, or `a b` unless `keep`. `b` gives the fragments of a block of eight columns, of which there are as many as `d` has
    /// fours of registers (pairs, with accumulators of f16).
    ///
    /// # Safety
    /// As for a [`Kernel`]: the pointers are registers; `d` holds whole blocks.
    #[inline(always)]
    pub unsafe fn multiply<E>(
        &self,
        core: Option<TensorCore>,
        a: &[Lanes; 4],
        mut b: impl FnMut(usize) -> Result<[Lanes; 2], E>,
        d: &[*mut Lanes],
        keep: bool,
    ) -> Result<(), E> {
        let half = self.product.is_some_and(|p| p.half);
        let each = if half { 2 } else { 4 };
        // SAFETY: the caller's contract; what is prepared has room.
        unsafe {
            if let (None, Some((staged, eight))) = (core, self.staged()) {
                return self.in_stages(staged, eight, a, b, d, keep);
            }
            let a = Room(*a);
            for (block, registers) in d.chunks_exact(each).enumerate() {
                let b = Room(b(block)?);
                let mut f = Fragments::NULL;
                f.a = std::array::from_fn(|i| &raw const a.0[i]);
                f.b = std::array::from_fn(|i| &raw const b.0[i]);
                for (i, d) in registers.iter().enumerate() {
                    f.d[i] = *d;
                    f.c[i] = if keep { d.cast_const() } else { &raw const ZERO.0[0] };
                }
                match (core, self.product) {
                    (Some(core), Some(product)) => multiply(core, product, &f),
                    _ => (self.kernel)(&f),
                }
            }
        }
        Ok(())
    }

    /// The same with operands that are prepared once. Accumulators of f16 are widened first and rounded once at the end.
    #[allow(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    #[inline(always)]
    unsafe fn in_stages<E>(
        &self,
        staged: &Staged,
        eight: bool,
        a: &[Lanes; 4],
        mut b: impl FnMut(usize) -> Result<[Lanes; 2], E>,
        d: &[*mut Lanes],
        keep: bool,
    ) -> Result<(), E> {
        let Some(Product { a: format_a, b: format_b, half, .. }) = self.product else { return Ok(()) };
        let (each, steps) = (if half { 2 } else { 4 }, if eight { 2 } else { 1 });
        let mut ready_a = Shelf::<{ 2 * STAGED_A }>(MaybeUninit::uninit());
        let mut ready_b = Shelf::<{ 2 * TOGETHER * STAGED_B }>(MaybeUninit::uninit());
        let (at_a, at_b): (*mut u8, *mut u8) = (ready_a.0.as_mut_ptr().cast(), ready_b.0.as_mut_ptr().cast());
        let mut sums = MaybeUninit::<[Room<4>; TOGETHER]>::uninit();
        let sums: *mut Room<4> = sums.as_mut_ptr().cast();
        // SAFETY: places are inside the shelves; the rest is the caller's contract.
        unsafe {
            let parts = |registers: [Lanes; 2], format| match eight {
                true => registers.map(|r| widen(&r, format == Format::E5m2)),
                false => [registers, registers],
            };
            if eight {
                let [rows, rows_8] = [[a[0], a[2]], [a[1], a[3]]].map(|r| parts(r, format_a));
                for step in 0..2 {
                    let a = Room([rows[step][0], rows_8[step][0], rows[step][1], rows_8[step][1]]);
                    (staged.a)(&std::array::from_fn(|i| &raw const a.0[i]), at_a.add(step * STAGED_A));
                }
            } else {
                let a = Room(*a);
                (staged.a)(&std::array::from_fn(|i| &raw const a.0[i]), at_a);
            }
            for (first, registers) in d.chunks(each * TOGETHER).enumerate() {
                let mut products = [MaybeUninit::<Prepared>::uninit(); 2 * TOGETHER];
                let mut count = 0;
                for (i, registers) in registers.chunks_exact(each).enumerate() {
                    let b = parts(b(first * TOGETHER + i)?, format_b);
                    let own: *mut Lanes = sums.add(i).cast();
                    for (n, register) in registers.iter().enumerate().filter(|_| half) {
                        let words = if keep { **register } else { [0; 32] };
                        own.add(2 * n).write(single(&words, 0));
                        own.add(2 * n + 1).write(single(&words, 16));
                    }
                    let sum: [*mut Lanes; 4] = std::array::from_fn(|n| if half { own.add(n) } else { registers[n] });
                    for (step, b) in b.iter().enumerate().take(steps) {
                        let (b, place) = (Room(*b), at_b.add(count * STAGED_B));
                        (staged.b)(&std::array::from_fn(|i| &raw const b.0[i]), place);
                        let zero = step == 0 && !half && !keep;
                        let c = if zero { [&raw const ZERO.0[0]; 4] } else { sum.map(|p| p.cast_const()) };
                        products[count].write(Prepared { a: at_a.add(step * STAGED_A), b: place, c, d: sum });
                        count += 1;
                    }
                }
                (staged.multiply)(std::slice::from_raw_parts(products.as_ptr().cast(), count));
                for (i, registers) in registers.chunks_exact(each).enumerate().filter(|_| half) {
                    let sum = &(*sums.add(i)).0;
                    for (n, d) in registers.iter().enumerate() {
                        let mut out = [0; 32];
                        for lane in 0..32 {
                            out[lane] = rounded(sum[2 * n][lane]) | rounded(sum[2 * n + 1][lane]) << 16;
                        }
                        **d = out;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The halves of a register of f16 pairs, from bit `at`, in f32.
#[inline(always)]
fn single(words: &Lanes, at: u32) -> Lanes {
    let mut out = [0; 32];
    for lane in 0..32 {
        out[lane] = f16_to_f32((words[lane] >> at) as u16).to_bits();
    }
    out
}

#[inline(always)]
fn rounded(bits: u32) -> u32 {
    u32::from(f32_to_f16(f32::from_bits(bits)))
}
