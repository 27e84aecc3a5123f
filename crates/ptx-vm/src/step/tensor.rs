//! Products of matrices: `mma`.

use super::warp::apart;
use crate::ir::*;

/// Marks the place of an operand that this product prepares.
pub(crate) const PREPARE: u32 = 1 << 31;

/// Products that are computed together at most. Not more than operands are kept: of those in use none is displaced.
pub(crate) const TOGETHER: usize = 8;

/// `mma.sync`: list = D, A, B, C registers; imm = index of the kernel, x2 counts in `aux`: d | a<<8 | b<<16 | c<<24,
/// plus 128 when the registers are 64 bits wide; r0 = what a tensor core computes instead, or 0.
pub(crate) struct Mma;

/// The registers of D, A, B and C in the list of an [`Mma`].
#[inline(always)]
pub(crate) fn operand_counts(aux: u32) -> [usize; 4] {
    [aux & 127, aux >> 8 & 255, aux >> 16 & 255, aux >> 24].map(|count| count as usize)
}

impl Exec for Mma {
    const RARE: bool = true;
    const RULE: Rule = Rule::Multiply;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        use crate::math::mma::{Fragments, Kernel, Product, multiply};
        // SAFETY: the list holds as many operands as the shape has; `imm` is a micro-kernel the decoder put there.
        unsafe {
            let ([n, a, b, c], wide) = (operand_counts((*op).aux), (*op).aux & 128 != 0);
            let mut f = Fragments::NULL;
            let mut at = 0;
            let mut take = |n: usize, cx: &Cx, out: &mut [*mut L<u32>]| {
                for slot in out.iter_mut().take(n) {
                    *slot = cx.at::<u32>(cx.list(op, at));
                    at += 1;
                }
            };
            let mut regs = [std::ptr::null_mut(); 4];
            take(n, cx, &mut f.d);
            take(a, cx, &mut regs);
            f.a = regs.map(|p| p.cast_const());
            take(b, cx, &mut regs);
            f.b = [regs[0], regs[1]].map(|p| p.cast_const());
            take(c, cx, &mut regs);
            f.c = regs.map(|p| p.cast_const());
            let kernel: Kernel = std::mem::transmute::<usize, Kernel>((*op).imm as usize);
            let core = cx.tensor_core.filter(|_| (*op).r[0] != 0);
            let kernel = |f: &Fragments| match core {
                None => kernel(f),
                Some(core) => multiply(core, Product::of_code((*op).r[0]), f),
            };
            if cx.mask == FULL {
                kernel(&f);
            } else {
                if apart(cx, op) {
                    return std::ptr::null();
                }
                // All lanes take part by definition; when some have exited their results are dropped.
                let mut out = [[0u64; WARP]; 4];
                let targets = f.d;
                for (d, out) in f.d.iter_mut().zip(&mut out).take(n) {
                    *d = std::ptr::from_mut(out).cast();
                }
                kernel(&f);
                for (&target, out) in targets.iter().zip(&out).take(n) {
                    for lane in (0..WARP).filter(|lane| cx.mask >> lane & 1 != 0) {
                        if wide {
                            (*target.cast::<L<u64>>())[lane] = out[lane];
                        } else {
                            (*target)[lane] = (*std::ptr::from_ref(out).cast::<L<u32>>())[lane];
                        }
                    }
                }
            }
            op.add(1)
        }
    }
}

/// [`Mma`] of f32 accumulators whose operands are prepared, together with those that follow; see `lower/stage.rs`. As there, with the
/// halves of the address of the [`Staged`] kernels in r1 and r2, the number of products in r3, and the places of A and B at the end of
/// each list.
///
/// [`Staged`]: crate::math::mma::Staged
pub(crate) struct StagedMma;
impl Exec for StagedMma {
    const RARE: bool = true;
    const RULE: Rule = Rule::Multiply;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        use crate::math::mma::{Prepared, Staged};
        if apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: the decoder has counted the products and put the address there.
        unsafe {
            let [_, low, high, count] = (*op).r;
            let staged = &*((u64::from(low) | u64::from(high) << 32) as usize as *const Staged);
            let count = count as usize;
            let mut products = [std::mem::MaybeUninit::<Prepared>::uninit(); TOGETHER];
            for (i, product) in products.iter_mut().enumerate().take(count) {
                product.write(prepare(cx, staged, op.add(i)));
            }
            if cx.mask != FULL {
                for i in 0..count {
                    Mma::exec(cx, op.add(i));
                }
            } else {
                (staged.multiply)(std::slice::from_raw_parts(products.as_ptr().cast(), count));
            }
            op.add(count)
        }
    }
}

/// The product `op`, whose operands are prepared now unless they have been.
///
/// # Safety
/// The list holds as many operands as the shape has, and two places inside the stage.
#[inline(always)]
unsafe fn prepare(cx: &mut Cx, staged: &crate::math::mma::Staged, op: *const Op) -> crate::math::mma::Prepared {
    // SAFETY: as above.
    unsafe {
        let [_, a, b, _] = operand_counts((*op).aux);
        let list = cx.lists.add((*op).x as usize);
        let [at_a, at_b] = [*list.add(8 + a + b), *list.add(9 + a + b)];
        let place = |at: u32| cx.stage.add((at & !PREPARE) as usize);
        let register = |i: usize| cx.at::<u32>(*list.add(i));
        let operand = |first: usize, n: usize, i: usize| {
            if i < n { register(first + i).cast_const() } else { std::ptr::null() }
        };
        if at_a & PREPARE != 0 {
            (staged.a)(&std::array::from_fn(|i| operand(4, a, i)), place(at_a));
        }
        if at_b & PREPARE != 0 {
            (staged.b)(&std::array::from_fn(|i| operand(4 + a, b, i)), place(at_b));
        }
        crate::math::mma::Prepared {
            a: place(at_a),
            b: place(at_b),
            c: std::array::from_fn(|i| register(4 + a + b + i).cast_const()),
            d: std::array::from_fn(register),
        }
    }
}
