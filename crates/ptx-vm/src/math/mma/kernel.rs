//! Micro-kernels: what they are given, and the set of them for one instruction set.

use super::product::{Format, Layout, Product};

/// A warp's view of one 32-bit PTX register: one word per lane.
pub type Lanes = [u32; 32];

/// The registers of one `mma`: pointers to the 32 words of each. Entries a shape does not use are never read (null is fine).
///
/// D may be the same registers as A, B or C: every kernel reads all operands before it writes.
#[derive(Clone, Copy, Debug)]
pub struct Fragments {
    /// Destination registers.
    pub d: [*mut Lanes; 4],
    /// Registers of A.
    pub a: [*const Lanes; 4],
    /// Registers of B.
    pub b: [*const Lanes; 2],
    /// Registers of C.
    pub c: [*const Lanes; 4],
}

impl Fragments {
    /// Fragments with all pointers null, to be filled in.
    pub const NULL: Fragments = Fragments {
        d: [std::ptr::null_mut(); 4],
        a: [std::ptr::null(); 4],
        b: [std::ptr::null(); 2],
        c: [std::ptr::null(); 4],
    };
}

/// One micro-kernel.
///
/// # Safety
/// Each pointer the shape uses is valid for its 32 words and 4-byte aligned (64 is fastest), D's for writing; D registers are distinct.
pub type Kernel = unsafe fn(&Fragments);

/// The fastest kernels for this machine, chosen once by [`super::kernels`].
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Name of the instruction set, for reports.
    pub isa: &'static str,
    /// `m16n8k16` with bf16 operands and f32 accumulators: 4 A, 2 B, 4 C, 4 D.
    pub m16n8k16_bf16: Kernel,
    /// `m16n8k8` with bf16 operands and f32 accumulators: 2 A, 1 B, 4 C, 4 D.
    pub m16n8k8_bf16: Kernel,
    /// `m16n8k16` with f16 operands and f32 accumulators: 4 A, 2 B, 4 C, 4 D.
    pub m16n8k16_f16: Kernel,
    /// `m16n8k8` with f16 operands and f32 accumulators: 2 A, 1 B, 4 C, 4 D.
    pub m16n8k8_f16: Kernel,
    /// `m16n8k16` with f16 operands and f16 accumulators: 4 A, 2 B, 2 C, 2 D.
    pub m16n8k16_f16_f16: Kernel,
    /// `m16n8k8` with f16 operands and f16 accumulators: 2 A, 1 B, 2 C, 2 D.
    pub m16n8k8_f16_f16: Kernel,
    /// `m16n8k8` with tf32 operands: 4 A, 2 B, 4 C, 4 D.
    pub m16n8k8_tf32: Kernel,
    /// `m16n8k4` with tf32 operands: 2 A, 1 B, 4 C, 4 D.
    pub m16n8k4_tf32: Kernel,
    /// `m8n8k4` with f64 operands: 1 A, 1 B, 2 C, 2 D, each pointing to 32 words of 64 bits, 8-byte aligned.
    pub m8n8k4_f64: Kernel,
    /// See [`Kernels::staged`]: bf16 with k of 8 and 16, f16 likewise, tf32 with k of 4 and 8.
    pub(super) staged: [Option<Staged>; 6],
    /// See [`Kernels::int8`].
    pub(super) int8: [[Kernel; 8]; 3],
}

/// Bytes of a prepared A and B at most.
pub(crate) const STAGED_A: usize = 1024;

pub(crate) const STAGED_B: usize = 512;

/// A micro-kernel with f32 accumulators in stages: operands are brought into the form it multiplies once, for as many products as
/// they serve. The same bits come out.
///
/// # Safety
/// Registers are as for a [`Kernel`]; what is prepared has as many bytes as its kind takes and is aligned to 64.
#[derive(Clone, Copy, Debug)]
pub struct Staged {
    /// Prepares A.
    pub a: unsafe fn(&[*const Lanes; 4], *mut u8),
    /// Prepares B.
    pub b: unsafe fn(&[*const Lanes; 2], *mut u8),
    /// Computes products one after the other.
    pub multiply: unsafe fn(&[Prepared]),
}

/// A product of prepared operands. No register of the first half of D is one of the second half of C.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    /// Operand A.
    pub a: *const u8,
    /// Operand B.
    pub b: *const u8,
    /// Registers of C.
    pub c: [*const Lanes; 4],
    /// Registers of D.
    pub d: [*mut Lanes; 4],
}

/// The shapes of `mma` with 8-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Int8Shape {
    /// 1 A, 1 B, 2 C, 2 D.
    M8N8K16,
    /// 2 A, 1 B, 4 C, 4 D.
    M16N8K16,
    /// 4 A, 2 B, 4 C, 4 D.
    M16N8K32,
}

impl Kernels {
    /// The kernel of a product of two operands of one format, summed in f32, in stages, if there is one.
    pub fn staged(&self, product: Product) -> Option<&Staged> {
        let Product { a, b, half: false, layout: Layout::Wide { k } } = product else { return None };
        let kernel = match (a, k) {
            _ if a != b => return None,
            (Format::Bf16, 8) => 0,
            (Format::Bf16, 16) => 1,
            (Format::F16, 8) => 2,
            (Format::F16, 16) => 3,
            (Format::Tf32, 4) => 4,
            (Format::Tf32, 8) => 5,
            _ => return None,
        };
        self.staged[kernel].as_ref()
    }

    /// The kernel for 8-bit integers (`.s8` where signed, `.u8` where not) and s32 accumulators.
    pub fn int8(&self, shape: Int8Shape, a_signed: bool, b_signed: bool, satfinite: bool) -> Kernel {
        self.int8[shape as usize][a_signed as usize * 4 + b_signed as usize * 2 + satfinite as usize]
    }
}

/// The eight signs and saturations of a generic integer kernel, in the order of [`Kernels::int8`].
macro_rules! int8_row {
    ($kernel:ident, $($shape:tt)*) => {
        [
            $kernel::<$($shape)*, false, false, false>,
            $kernel::<$($shape)*, false, false, true>,
            $kernel::<$($shape)*, false, true, false>,
            $kernel::<$($shape)*, false, true, true>,
            $kernel::<$($shape)*, true, false, false>,
            $kernel::<$($shape)*, true, false, true>,
            $kernel::<$($shape)*, true, true, false>,
            $kernel::<$($shape)*, true, true, true>,
        ]
    };
}

pub(super) use int8_row;
