//! `mma.sync` as micro-kernels on whole fragments.
//!
//! A kernel sees the registers of one warp: every PTX register is 32 words, one per lane, and a fragment is a handful of
//! registers in the layouts of the PTX manual. With lane `= 4 g + t` (`g` is the manual's *groupID*) the layouts are
//!
//! ```text
//! m16n8k16 f16/bf16   A (row)  a0: row g    k 2t,2t+1   a1: row g+8  k 2t,2t+1   a2: row g  k 2t+8,2t+9   a3: row g+8 k 2t+8,2t+9
//!                     B (col)  b0: col g    k 2t,2t+1   b1: col g    k 2t+8,2t+9
//! m16n8k8 f16/bf16    A a0, a1 and B b0 of the above
//! m16n8k8 tf32        A (row)  a0: row g    k t         a1: row g+8  k t         a2: row g  k t+4         a3: row g+8 k t+4
//!                     B (col)  b0: col g    k t         b1: col g    k t+4
//! m16n8k4 tf32        A a0, a1 and B b0 of the above
//! C, D f32            c0: row g col 2t      c1: row g col 2t+1    c2: row g+8 col 2t    c3: row g+8 col 2t+1
//! C, D f16            c0: row g cols 2t,2t+1                      c1: row g+8 cols 2t,2t+1
//! ```
//!
//! so four neighbouring lanes (a *quad*, 128 bits) hold one row of A or one column of B, and quads are never mixed: the
//! vector kernels compute D in place, in its own layout, from A words broadcast within their quads and B words
//! gathered once and repeated in every quad.
//!
//! # The numbers
//!
//! Every kernel gives the same bits on every machine; the order of operations is part of its definition:
//!
//! * f16 and tf32: `acc = c; for k in 0..K { acc = fma(a[k], b[k], acc) }` in f32, round to nearest even, subnormals
//!   kept. f16 accumulators are widened first and rounded once at the end. The low 13 bits of a tf32 operand are ignored.
//! * bf16: `acc = c; for p in 0..K/2 { acc = fma(a[2p+1], b[2p+1], acc); acc = fma(a[2p], b[2p], acc) }` with
//!   subnormal operands (bf16 and accumulators) and subnormal results of each step replaced by zero: this is what
//!   x86's `VDPBF16PS` computes, the one instruction that makes the VM's most used kernel twice as fast.
//! * A NaN result is the canonical `0x7fffffff` (`0x7fff` in f16).
//!
//! A tensor core differs: its products are exact and summed in groups with a wider, *truncated* alignment, and the
//! manual leaves order and rounding open. Against an exact sum both err by a few units of the largest term's last f32 place;
//! results agree to about `K * 2^-23` of `sum |a b|`, never bit for bit.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod x86;

mod portable;

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

/// The fastest kernels for this machine, chosen once by [`kernels`].
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
}

/// The kernels of the best instruction set this machine has.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| available().pop().unwrap_or(portable::KERNELS))
}

/// Every set of kernels that runs on this machine, slowest first. They differ in speed only.
pub fn available() -> Vec<Kernels> {
    #[allow(unused_mut)]
    let mut sets = vec![portable::KERNELS];
    #[cfg(target_arch = "x86_64")]
    x86::available(&mut sets);
    sets
}
