//! Loads and stores.

use crate::ir::*;
use crate::step::find::{Found, Place, Pointers, find};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A lane's element in memory and in its register.
pub(crate) trait Elem: Copy + Default + 'static {
    /// The lane type of the register.
    type R: Copy + Default;
    fn load(self) -> Self::R;
    fn store(r: Self::R) -> Self;
}
macro_rules! elem {
    ($($m:ty => $r:ty),*) => {$(
        impl Elem for $m {
            type R = $r;
            #[inline(always)]
            fn load(self) -> $r { self as $r }
            #[inline(always)]
            fn store(r: $r) -> $m { r as $m }
        }
    )*};
}
elem!(u8 => u16, u16 => u16, u32 => u32, u64 => u64);

/// The register operands of a vector access: in place up to two, listed above.
#[inline(always)]
unsafe fn reg<const V: usize>(cx: &Cx, op: *const Op, i: usize) -> u32 {
    // SAFETY: the decoder lists `V` registers.
    unsafe { if V <= 2 { (*op).r[i] } else { cx.list(op, i) } }
}

/// `ld` of `V` elements: registers as [`reg`] says, r[3] = address, imm = offset.
pub(crate) struct Load<P, M, const V: usize>(PhantomData<(P, M)>);
impl<P: Place, M: Elem, const V: usize> Exec for Load<P, M, V> {
    const RARE: bool = P::GENERIC || V > 4 || size_of::<M>() == 1 && V > 1;
    const RULE: Rule = Rule::Load;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: `find` gives pointers good for `V` elements; alignment was checked.
        unsafe {
            let mut lanes: Pointers = [MaybeUninit::uninit(); WARP];
            let bytes = (V * size_of::<M>()) as u64;
            let mut copy = [MaybeUninit::<[M; V]>::uninit(); WARP];
            let src: *const [M; V] = match find::<P>(cx, op, (*op).r[3], (*op).imm, bytes, &mut lanes) {
                Found::Block(p) => p.cast_const().cast(),
                Found::Same(p) => {
                    copy = [MaybeUninit::new(p.cast::<[M; V]>().read_unaligned()); WARP];
                    copy.as_ptr().cast()
                }
                Found::Lanes => {
                    for i in 0..WARP {
                        copy[i] = MaybeUninit::new(lanes[i].assume_init().cast::<[M; V]>().read_unaligned());
                    }
                    copy.as_ptr().cast()
                }
                Found::Fault(next) => return next,
            };
            let src = &*src.cast::<[[M; V]; WARP]>();
            for v in 0..V {
                let d = reg::<V>(cx, op, v);
                if d != crate::ir::NO_SLOT {
                    let out = lanes!(i => src[i][v].load());
                    cx.put(d, &out.0);
                }
            }
            op.add(1)
        }
    }
}

/// `st` of `V` elements.
pub(crate) struct Store<P, M, const V: usize>(PhantomData<(P, M)>);
impl<P: Place, M: Elem, const V: usize> Exec for Store<P, M, V> {
    const RARE: bool = P::GENERIC || V > 4 || size_of::<M>() == 1 && V > 1;
    const RULE: Rule = Rule::Store;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: as in `Load`.
        unsafe {
            let mut lanes: Pointers = [MaybeUninit::uninit(); WARP];
            let bytes = (V * size_of::<M>()) as u64;
            let mut value = [[M::default(); V]; WARP];
            let found = find::<P>(cx, op, (*op).r[3], (*op).imm, bytes, &mut lanes);
            for v in 0..V {
                let src = &*cx.at::<M::R>(reg::<V>(cx, op, v));
                for i in 0..WARP {
                    value[i][v] = M::store(src[i]);
                }
            }
            let mask = cx.mask;
            match found {
                Found::Block(p) => p.cast::<[[M; V]; WARP]>().write_unaligned(value),
                Found::Same(p) => {
                    // One of the racing lanes wins; as on the hardware in practice, the highest.
                    let last = 31 - (mask | 1).leading_zeros();
                    p.cast::<[M; V]>().write_unaligned(value[last as usize]);
                }
                Found::Lanes => {
                    if mask == FULL {
                        for i in 0..WARP {
                            lanes[i].assume_init().cast::<[M; V]>().write_unaligned(value[i]);
                        }
                    } else {
                        let mut left = mask;
                        while left != 0 {
                            let i = left.trailing_zeros() as usize;
                            left &= left - 1;
                            lanes[i].assume_init().cast::<[M; V]>().write_unaligned(value[i]);
                        }
                    }
                }
                Found::Fault(next) => return next,
            }
            op.add(1)
        }
    }
}
