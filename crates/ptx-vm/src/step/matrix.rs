//! Matrices of 8 by 8 halves in shared memory and between lanes: `ldmatrix`, `stmatrix`, `movmatrix`.

use crate::ir::*;
use crate::math::matrix::transpose;
use crate::step::find::{misaligned, missed};

/// `ldmatrix` of `N` 8x8 matrices of 16-bit elements: list = `N` destinations, address; imm = offset.
pub(crate) struct LdMatrix<const N: usize, const TRANS: bool>;
impl<const N: usize, const TRANS: bool> Exec for LdMatrix<N, TRANS> {
    const RULE: Rule = Rule::LoadMatrix;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if crate::step::warp::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: rows are checked against shared memory; the list holds N + 1 operands.
        unsafe {
            let addr = cx.get::<u32>(cx.list(op, N));
            let offset = (*op).imm as u32;
            let limit = cx.shared_len.wrapping_sub(16);
            let mut bits = 0;
            let mut top = 0;
            for i in 0..N * 8 {
                let a = addr[i].wrapping_add(offset);
                bits |= a;
                top = top.max(a);
            }
            if bits & 15 != 0 || top > limit || cx.shared_len < 16 {
                return bad_rows(cx, op, &addr, N * 8, offset);
            }
            // The addresses are a copy: a destination may be their register.
            for n in 0..N {
                let mut rows = [[0u32; 4]; 8];
                for r in 0..8 {
                    rows[r] = cx.shared.add(addr[n * 8 + r].wrapping_add(offset) as usize).cast::<[u32; 4]>().read();
                }
                let value = std::mem::transmute::<[[u32; 4]; 8], L<u32>>(rows);
                cx.put(cx.list(op, n), &if TRANS { transpose(&value) } else { value });
            }
            op.add(1)
        }
    }
}

/// `stmatrix`: list = `N` sources, address.
pub(crate) struct StMatrix<const N: usize, const TRANS: bool>;
impl<const N: usize, const TRANS: bool> Exec for StMatrix<N, TRANS> {
    const RARE: bool = true;
    const RULE: Rule = Rule::StoreMatrix;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if crate::step::warp::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: as in `LdMatrix`.
        unsafe {
            let addr = cx.get::<u32>(cx.list(op, N));
            let offset = (*op).imm as u32;
            for i in 0..N * 8 {
                let a = addr[i].wrapping_add(offset);
                if a & 15 != 0 || u64::from(a) + 16 > u64::from(cx.shared_len) {
                    return bad_rows(cx, op, &addr, N * 8, offset);
                }
            }
            for n in 0..N {
                let value = cx.get::<u32>(cx.list(op, n));
                let value = if TRANS { transpose(&value) } else { value };
                let rows = std::mem::transmute::<L<u32>, [[u32; 4]; 8]>(value);
                for (r, row) in rows.iter().enumerate() {
                    cx.shared.add(addr[n * 8 + r].wrapping_add(offset) as usize).cast::<[u32; 4]>().write(*row);
                }
            }
            op.add(1)
        }
    }
}

#[cold]
#[inline(never)]
fn bad_rows(cx: &mut Cx, op: *const Op, addr: &L<u32>, rows: usize, offset: u32) -> *const Op {
    for (i, a) in addr.iter().enumerate().take(rows) {
        let a = u64::from(a.wrapping_add(offset));
        if a & 15 != 0 {
            return misaligned(cx, op, i as u32, a, 16);
        }
        if a + 16 > u64::from(cx.shared_len) {
            return missed(cx, op, i as u32, a, 16, true);
        }
    }
    unreachable!("called only when a row is bad")
}

/// `movmatrix.trans`: r = d, a.
pub(crate) struct MovMatrix;
impl Exec for MovMatrix {
    const RARE: bool = true;
    const RULE: Rule = Rule::Moves(0);

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if crate::step::warp::apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: operands are 32 bits wide.
        unsafe {
            let [d, a, ..] = (*op).r;
            let value = cx.get::<u32>(a);
            cx.put(d, &transpose(&value));
            op.add(1)
        }
    }
}
