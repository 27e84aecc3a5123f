//! Products of matrices by warpgroups: `wgmma`.
//!
//! Four warps multiply 64 rows of A, each its own 16. Here every warp does so by itself, at once; that results come later, and that A and B
//! are read later, is up to checked and adverse mode.

use super::warp::apart;
use crate::error::FaultKind;
use crate::ir::*;
use crate::math::descriptor::Descriptor;
use crate::math::matrix::transpose;
use crate::math::mma::{Format, Kernel, Product, Tile};

/// `wgmma.mma_async`: list = D, A (four registers, or a descriptor), the descriptor of B; r = scale-d, [`Product::code`] or 0 for integers;
/// imm = the micro-kernel for eight columns; aux = columns / 8 and the bits below.
pub(crate) struct Wgmma;

/// The columns of a product, in eights.
pub(crate) const COLUMNS: u32 = 63;
/// A is in registers.
pub(crate) const REGISTERS: u32 = 1 << 6;
/// A or B is MN-major.
pub(crate) const TURNED: [u32; 2] = [1 << 7, 1 << 8];
/// A or B is negated.
pub(crate) const NEGATED: [u32; 2] = [1 << 9, 1 << 10];
/// So is the predicate.
pub(crate) const UNLESS: u32 = 1 << 11;

/// The most registers of D.
pub(crate) const MOST: usize = 128;

/// What an instruction says, apart from its registers.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Columns in eights.
    pub(crate) blocks: usize,
    /// Registers of D.
    pub(crate) d: usize,
    /// A is in registers, in four.
    pub(crate) registers: bool,
    /// What is multiplied, unless these are integers.
    pub(crate) product: Option<Product>,
    flags: u32,
}

impl Shape {
    /// That of an instruction.
    ///
    /// # Safety
    /// `op` is a [`Wgmma`].
    pub(crate) unsafe fn of(op: *const Op) -> Shape {
        // SAFETY: the caller's.
        let (flags, code) = unsafe { ((*op).aux, (*op).r[1]) };
        let blocks = (flags & COLUMNS) as usize;
        let product = (code != 0).then(|| Product::of_code(code));
        let each = if product.is_some_and(|p| p.half) { 2 } else { 4 };
        Shape { blocks, d: blocks * each, registers: flags & REGISTERS != 0, product, flags }
    }

    /// A number for the shape, the same for the same M, N and K; not 0.
    pub(crate) fn number(&self) -> u32 {
        let k = match self.product.map(|p| p.a) {
            Some(Format::F16 | Format::Bf16) => 16,
            Some(Format::Tf32) => 8,
            _ => 32,
        };
        self.blocks as u32 * 64 + k
    }

    /// Whether A (0) or B (1) is MN-major.
    pub(crate) fn turned(&self, operand: usize) -> bool {
        self.flags & TURNED[operand] != 0
    }

    /// Where in the list the descriptor of A (unless it is in registers) or B stands.
    pub(crate) fn place(&self, operand: usize) -> usize {
        self.d + operand * if self.registers { 4 } else { 1 }
    }

    /// The 8x8 matrices of A and B that a warp reads: operand, and place along M or N and along K. A register of A comes of each.
    pub(crate) fn matrices(&self, warp: u32) -> impl Iterator<Item = (usize, u32, u32)> {
        let first = 2 * (warp % 4);
        let of_a = if self.registers { 0 } else { 4 };
        let a = (0..of_a).map(move |i| (0, first + i % 2, i / 2));
        a.chain((0..2 * self.blocks as u32).map(|i| (1, i / 2, i % 2)))
    }

    /// The signs of the elements of a register of A or B, if they change.
    fn signs(&self, operand: usize) -> u32 {
        let Some(product) = self.product.filter(|_| self.flags & NEGATED[operand] != 0) else { return 0 };
        match product.a {
            Format::F16 | Format::Bf16 => 0x8000_8000,
            Format::Tf32 => 0x8000_0000,
            Format::E4m3 | Format::E5m2 => 0x8080_8080,
        }
    }
}

/// What an instruction takes when it is issued: descriptors, and whether D is added to.
#[derive(Clone, Copy)]
pub(crate) struct Issue {
    pub(crate) operands: [Option<Descriptor>; 2],
    /// Their bits.
    pub(crate) bits: [u64; 2],
    pub(crate) keep: bool,
}

/// Takes the operands of a product, or stops the warp by a fault: null.
///
/// # Safety
/// As for [`Exec::exec`]; the warp is whole, but for lanes that have exited.
pub(crate) unsafe fn issue(cx: &mut Cx, op: *const Op) -> Result<Issue, *const Op> {
    // SAFETY: descriptors are 64 bits wide.
    unsafe {
        let (shape, mask) = (Shape::of(op), cx.mask);
        let lane = mask.trailing_zeros();
        if !is_whole(cx) {
            let message = format!("this is executed by warpgroups of 128 threads, and the block has {}", cx.threads);
            return Err(cx.fault(op, FaultKind::Barrier, Some(lane), None, message));
        }
        let keep = (cx.pred((*op).r[0]) ^ if (*op).aux & UNLESS != 0 { FULL } else { 0 }) & mask;
        if keep != 0 && keep != mask {
            let message = "the lanes of the warp do not agree on scale-d".to_owned();
            return Err(cx.fault(op, FaultKind::Trap, Some((keep ^ mask).trailing_zeros()), None, message));
        }
        let mut issue = Issue { operands: [None; 2], bits: [0; 2], keep: keep != 0 };
        for operand in usize::from(shape.registers)..2 {
            let all = cx.get::<u64>(cx.list(op, shape.place(operand)));
            let bits = all[lane as usize & 31];
            let name = ["A", "B"][operand];
            if let Some(other) = lanes_of(mask).find(|i| all[*i] != bits) {
                let message = format!(
                    "the lanes of the warp do not agree on the descriptor of {name}: {bits:#018x} and {:#018x}",
                    all[other]
                );
                return Err(cx.fault(op, FaultKind::Trap, Some(other as u32), None, message));
            }
            match Descriptor::read(bits) {
                Ok(descriptor) => issue.operands[operand] = Some(descriptor),
                Err(why) => {
                    let message = format!("the descriptor of {name}, {bits:#018x}, is malformed: {why}");
                    return Err(cx.fault(op, FaultKind::Trap, Some(lane), None, message));
                }
            }
            issue.bits[operand] = bits;
        }
        Ok(issue)
    }
}

/// A row of an operand that is not in shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Astray {
    operand: usize,
    at: u32,
}

impl Astray {
    /// Stops the warp.
    #[cold]
    pub(crate) fn fault(self, cx: &mut Cx, op: *const Op, issue: &Issue) -> *const Op {
        let Astray { operand, at } = self;
        let message = format!(
            "the descriptor of {}, {:#018x}, puts 16 bytes of it at shared memory offset {at:#x}, and the block has {} bytes of shared memory",
            ["A", "B"][operand],
            issue.bits[operand],
            cx.shared_len
        );
        let lane = cx.mask.trailing_zeros();
        cx.fault(op, FaultKind::OutOfBounds, Some(lane), Some(u64::from(at)), message)
    }
}

/// The first row of the operands that is not in shared memory.
pub(crate) fn astray(cx: &Cx, shape: &Shape, issue: &Issue) -> Option<Astray> {
    shape.matrices(cx.warp).find_map(|(operand, outer, inner)| {
        let rows = issue.operands[operand]?.rows(shape.turned(operand), outer, inner);
        rows.into_iter().find(|at| at + 16 > cx.shared_len).map(|at| Astray { operand, at })
    })
}

/// An 8x8 matrix of an operand, as a fragment.
#[inline(always)]
unsafe fn fragment(
    cx: &Cx,
    shape: &Shape,
    issue: &Issue,
    (operand, outer, inner): (usize, u32, u32),
) -> Result<L<u32>, Astray> {
    let mut rows = [[0u32; 4]; 8];
    let Some(descriptor) = &issue.operands[operand] else { return Ok([0; WARP]) };
    let turned = shape.turned(operand);
    for (row, at) in rows.iter_mut().zip(descriptor.rows(turned, outer, inner)) {
        if at + 16 > cx.shared_len {
            return Err(Astray { operand, at });
        }
        // SAFETY: the row is inside shared memory.
        *row = unsafe { cx.shared.add(at as usize).cast::<[u32; 4]>().read() };
    }
    // SAFETY: both are 128 bytes.
    let mut value = unsafe { std::mem::transmute::<[[u32; 4]; 8], L<u32>>(rows) };
    if turned {
        value = transpose(&value);
    }
    let signs = shape.signs(operand);
    if signs != 0 {
        value = value.map(|word| word ^ signs);
    }
    Ok(value)
}

/// Computes a product into `d`, which holds what is added to.
///
/// # Safety
/// As for [`Exec::exec`]; `d` are as many registers as D has.
#[inline(always)]
pub(crate) unsafe fn compute(cx: &Cx, op: *const Op, issue: &Issue, d: &[*mut L<u32>]) -> Result<(), Astray> {
    // SAFETY: `imm` is a micro-kernel that the decoder put there; operands belong to the instruction.
    unsafe {
        let shape = Shape::of(op);
        let mut a = [[0; WARP]; 4];
        for (i, a) in a.iter_mut().enumerate() {
            let (row, k) = (2 * (cx.warp % 4) + i as u32 % 2, i as u32 / 2);
            *a = match shape.registers {
                true => cx.get::<u32>(cx.list(op, shape.d + i)).map(|word| word ^ shape.signs(0)),
                false => fragment(cx, &shape, issue, (0, row, k))?,
            };
        }
        let b = |block: usize| {
            let part = |k| fragment(cx, &shape, issue, (1, block as u32, k));
            Ok([part(0)?, part(1)?])
        };
        let kernel: Kernel = std::mem::transmute::<usize, Kernel>((*op).imm as usize);
        Tile { kernel, product: shape.product }.multiply(cx.tensor_core, &a, b, d, issue.keep)
    }
}

impl Exec for Wgmma {
    const RULE: Rule = Rule::Warpgroup;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: forwarded.
        unsafe { exec(cx, op) }
    }
}

#[inline(always)]
unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: the list holds as many registers as D has.
    unsafe {
        let issue = match issue(cx, op) {
            Ok(issue) => issue,
            Err(stop) => return stop,
        };
        let n = Shape::of(op).d;
        let mut d = [std::ptr::null_mut(); MOST];
        for (i, d) in d.iter_mut().enumerate().take(n) {
            *d = cx.at::<u32>(cx.list(op, i));
        }
        let done = if cx.mask == FULL {
            compute(cx, op, &issue, &d[..n])
        } else {
            // Results of lanes that have exited are dropped.
            let mut out: Vec<L<u32>> = d[..n].iter().map(|d| **d).collect();
            let places: Vec<*mut L<u32>> = out.iter_mut().map(std::ptr::from_mut).collect();
            let done = compute(cx, op, &issue, &places);
            for (i, out) in out.iter().enumerate() {
                cx.put(cx.list(op, i), out);
            }
            done
        };
        if let Err(astray) = done {
            return astray.fault(cx, op, &issue);
        }
        cx.happened(Happened::Multiply { a: issue.bits[0], b: issue.bits[1] }, cx.mask, 0);
        op.add(1)
    }
}

/// `wgmma.fence` (imm -2), `wgmma.commit_group` (-1) and `wgmma.wait_group` of imm groups. Nothing is late here, but a product is one of the
/// whole warpgroup: who has waited for it may overwrite what the other warps read. So the warps wait for each other.
pub(crate) struct Group;

/// What a [`Group`] does, instead of waiting.
pub(crate) const FENCE: i64 = -2;
pub(crate) const COMMIT: i64 = -1;

impl Exec for Group {
    const RARE: bool = true;
    const RULE: Rule = Rule::WarpgroupOrder;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        if apart(cx, op) {
            return std::ptr::null();
        }
        // SAFETY: never the last instruction.
        unsafe {
            let what = match (*op).imm {
                FENCE => Happened::MultiplyFence,
                COMMIT => Happened::MultiplyCommit,
                pending => Happened::MultiplyWait { pending: pending as u32 },
            };
            cx.happened(what, cx.mask, 0);
            if (*op).imm >= 0 && is_whole(cx) {
                let (id, threads) = (NAMED as u32 + cx.warp / 4, 4 * WARP as u32);
                cx.arrival = Arrival { id, threads, waits: true, ..Arrival::default() };
                return cx.pause(Stop::Barrier, op.add(1));
            }
            op.add(1)
        }
    }
}

/// Whether the block has all threads of the warp's warpgroup.
fn is_whole(cx: &Cx) -> bool {
    (cx.warp | 3) * WARP as u32 + WARP as u32 <= cx.threads
}
