//! The 32 lanes of a warp: values of all of them, and masks.

/// Lanes of a warp.
pub(crate) const WARP: usize = 32;

/// All lanes active.
pub(crate) const FULL: u32 = !0;

pub(crate) type L<T> = [T; WARP];

/// The lanes of a mask.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 != 0)
}

/// 32 lanes on their way to a register: aligned, because a vector that crosses a cache line cannot be forwarded from store to load.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Lanes<T>(pub(crate) L<T>);

/// Computes [`Lanes`]: `lanes!(i => a[i] + b[i])`. A macro, not a function taking a closure, because closures do not inherit the CPU
/// features their surroundings are compiled for unless they are inlined.
macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = std::mem::MaybeUninit::<$crate::ir::Lanes<_>>::uninit();
        for $i in 0..$crate::ir::WARP {
            let value = $e;
            $crate::ir::set_lane(&mut out, $i, value);
        }
        // Every lane was written.
        out.assume_init()
    }};
}
pub(crate) use lanes;

/// Writes lane `i`, which is below 32; see [`lanes`].
#[inline(always)]
pub(crate) fn set_lane<T>(out: &mut std::mem::MaybeUninit<Lanes<T>>, i: usize, value: T) {
    debug_assert!(i < WARP);
    // SAFETY: the macro counts lanes only.
    unsafe { out.as_mut_ptr().cast::<T>().add(i).write(value) }
}

/// Replaces the lanes of `to` that `mask` names, without branches.
///
/// # Safety
/// Both hold 32 values of `T`.
#[inline(always)]
pub(super) unsafe fn blend<T: Copy>(to: *mut L<T>, value: *const L<T>, mask: u32) {
    macro_rules! by {
        ($t:ty) => {{
            // SAFETY: sizes are equal; the types are plain bits. The caller vouches for the pointers.
            unsafe {
                let (old, new) = (&*to.cast::<L<$t>>(), &*value.cast::<L<$t>>());
                let out = lanes!(i => {
                    let keep = ((mask >> i & 1) as $t).wrapping_sub(1);
                    old[i] & keep | new[i] & !keep
                });
                *to.cast::<L<$t>>() = out.0;
            }
        }};
    }
    match size_of::<T>() {
        2 => by!(u16),
        4 => by!(u32),
        8 => by!(u64),
        _ => by!(u8),
    }
}
