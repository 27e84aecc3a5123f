//! Bulk copies: `cp.async.bulk`, `cp.reduce.async.bulk` and both with `.tensor`; and `st.async` and `red.async`, which move registers.
//!
//! Copies happen when they are issued; that nobody may look at them before they have been waited for is what checked mode watches. What a lane
//! moves is a list of runs of bytes that stand side by side in global memory: one, or of a tensor one for each row of the box. Swizzled rows
//! are in shared memory in pieces of 16 bytes.

use super::atomic::{Atom, AtomTy, update};
use super::find::{describe_miss, resolve};
use crate::error::FaultKind;
use crate::ir::NO_SLOT;
use crate::ir::*;
use crate::memory::{GLOBAL_BASE, SHARED_WINDOW, TENSOR_MAP_BYTES, TensorMap, TensorSwizzle, TensorType};

/// Bytes that change places together.
const PIECE: u64 = 16;

/// What one lane moves.
pub(crate) struct Moves {
    runs: Vec<Run>,
    swizzle: TensorSwizzle,
    /// Combined with what is there, instead of replacing it.
    pub(crate) reduce: Option<(Atom, AtomTy)>,
    /// Out of shared memory.
    pub(crate) out: bool,
    /// The mbarrier that counts it, if one does.
    pub(crate) counted: Option<u64>,
    /// The bytes that it counts: also those that were not read, since they are outside of the tensor.
    pub(crate) bytes: u64,
    /// What is written for those, again and again; or what `st.async` stores.
    fill: [u8; MOST],
    /// The blocks of the cluster it goes to, as bits; none: where the addresses say.
    multicast: Option<u32>,
}

/// The most bytes of a `st.async`.
const MOST: usize = 32;

/// Bytes that stand side by side at both ends, before a swizzle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) to: u64,
    /// `None`: nowhere, there is only something to fill.
    pub(crate) from: Option<u64>,
    pub(crate) bytes: u64,
}

/// Bytes that are moved together, in the memory of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) to: *mut u8,
    /// Null: `fill`.
    pub(crate) from: *const u8,
    pub(crate) run: Run,
}

/// Why a bulk copy cannot be.
pub(crate) struct Wrong {
    kind: FaultKind,
    address: u64,
    message: String,
}

impl Moves {
    /// The runs, for those who count.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The same in another block of the cluster, at the same offsets.
    fn to_block(&self, cx: &Cx, rank: u32) -> Moves {
        let there = |address: u64| SHARED_WINDOW + u64::from((rank + 1) << RANK_SHIFT | cx.place_of(address) & OFFSET);
        let runs = self.runs.iter().map(|run| Run { to: there(run.to), ..*run }).collect();
        Moves { runs, counted: self.counted.map(there), ..*self }
    }

    /// Whether it is one of several that one instruction makes.
    pub(crate) fn is_multicast(&self) -> bool {
        self.multicast.is_some()
    }

    /// The bytes that move in or out of shared memory; between two places there, twice as many.
    pub(crate) fn shared_bytes(&self) -> u64 {
        let near =
            |run: &Run| u64::from(run.to < GLOBAL_BASE) + u64::from(run.from.is_some_and(|from| from < GLOBAL_BASE));
        self.runs.iter().map(|run| near(run) * run.bytes).sum()
    }

    /// The pieces, whose ends are checked.
    pub(crate) fn pieces(&self, cx: &Cx, lane: usize) -> Result<Vec<Piece>, Wrong> {
        let mut all = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            if self.swizzle == TensorSwizzle::None {
                all.push(piece(cx, lane, *run)?);
                continue;
            }
            // The end in shared memory is cut where it leaves a piece.
            let mut done = 0;
            while done < run.bytes {
                let (to, from) = (run.to + done, run.from.map(|from| from + done));
                let here = from.filter(|_| self.out).unwrap_or(to);
                let bytes = (PIECE - here % PIECE).min(run.bytes - done);
                let (to, from) = match from {
                    Some(from) if self.out => (to, Some(self.swizzle.place(from))),
                    from => (self.swizzle.place(to), from),
                };
                all.push(piece(cx, lane, Run { to, from, bytes })?);
                done += bytes;
            }
        }
        Ok(all)
    }

    /// Moves one piece, whose source is at `from`.
    ///
    /// # Safety
    /// The piece is of this copy, and `from` holds as many bytes.
    pub(crate) unsafe fn carry(&self, piece: &Piece, from: *const u8) {
        let bytes = piece.run.bytes as usize;
        // SAFETY: the caller vouches for the source, and the target was checked.
        unsafe {
            match self.reduce {
                Some((atom, ty)) if from.is_null() => {
                    // Of one element: `red.async`.
                    let (word, _) = self.fill.as_chunks::<8>();
                    update(piece.to, atom, ty, u64::from_le_bytes(word[0]), 0);
                }
                None if from.is_null() => {
                    for i in 0..bytes {
                        *piece.to.add(i) = self.fill[i % self.fill.len()];
                    }
                }
                None => std::ptr::copy(from, piece.to, bytes),
                Some((atom, ty)) => {
                    let width = ty.bytes() as usize;
                    for offset in (0..bytes).step_by(width) {
                        let mut word = [0u8; 8];
                        std::ptr::copy_nonoverlapping(from.add(offset), word.as_mut_ptr(), width);
                        update(piece.to.add(offset), atom, ty, u64::from_le_bytes(word), 0);
                    }
                }
            }
        }
    }
}

fn piece(cx: &Cx, lane: usize, run: Run) -> Result<Piece, Wrong> {
    // SAFETY: `resolve` checks.
    let at = |address: u64| unsafe { resolve(cx, address, run.bytes, true, lane as u32) };
    let missed = |address: u64| Wrong {
        kind: FaultKind::OutOfBounds,
        address,
        message: describe_miss(cx, address, run.bytes, false),
    };
    let to = at(run.to).ok_or_else(|| missed(run.to))?;
    let from = match run.from {
        Some(from) => at(from).ok_or_else(|| missed(from))?.cast_const(),
        None => std::ptr::null(),
    };
    Ok(Piece { to, from, run })
}

fn misaligned(address: u64, align: u64, what: &str) -> Result<(), Wrong> {
    if address.is_multiple_of(align) {
        return Ok(());
    }
    let message = format!("{what} {address:#x} is not a multiple of {align}");
    Err(Wrong { kind: FaultKind::Misaligned, address, message })
}

/// The operation of a reduction, from the lower bytes of `imm`: that of an atomic, and its type.
fn reduction(imm: i64) -> Option<(Atom, AtomTy)> {
    (imm >= 0).then(|| (Atom::ALL[(imm & 255) as usize], AtomTy::ALL[(imm >> 8) as usize & 255]))
}

/// What lane `lane` of a bulk copy moves: to every block it goes to.
///
/// # Safety
/// `op` is [`Bulk`], [`Tensor`] or [`AsyncStore`].
pub(crate) unsafe fn moves(cx: &Cx, op: *const Op, lane: usize) -> Result<Vec<Moves>, Wrong> {
    // SAFETY: forwarded.
    let moves = unsafe { one(cx, op, lane)? };
    let Some(ranks) = moves.multicast else { return Ok(vec![moves]) };
    let blocks = cx.peers.len();
    if ranks == 0 || ranks >> blocks != 0 {
        let message = format!("a copy to blocks {ranks:#b} of a cluster of {blocks}");
        let address = moves.runs.first().map_or(0, |run| run.to);
        return Err(Wrong { kind: FaultKind::OutOfBounds, address, message });
    }
    Ok(lanes_of(ranks).map(|rank| moves.to_block(cx, rank as u32)).collect())
}

/// The blocks of a multicast, from its mask.
unsafe fn multicast(cx: &Cx, op: *const Op, at: usize, lane: usize) -> Option<u32> {
    // SAFETY: the mask is 16 bits wide.
    unsafe {
        let slot = cx.list(op, at);
        (slot != NO_SLOT).then(|| u32::from((*cx.at::<u16>(slot))[lane]))
    }
}

/// What a lane moves, before it is known to which blocks.
unsafe fn one(cx: &Cx, op: *const Op, lane: usize) -> Result<Moves, Wrong> {
    // SAFETY: operands were decoded with these widths.
    unsafe {
        if (*op).aux & AsyncStore::FLAG != 0 {
            return stored(cx, op, lane);
        }
        if (*op).aux != 0 {
            return tensor(cx, op, lane);
        }
        let at = |i: usize| (*cx.at::<u64>(cx.list(op, i)))[lane];
        let (to, from, bytes) = (at(0), at(1), u64::from((*cx.at::<u32>(cx.list(op, 2)))[lane]));
        for a in [to, from, bytes] {
            misaligned(a, PIECE, "address")?;
        }
        let counted = (cx.list(op, 3) != NO_SLOT).then(|| at(3));
        Ok(Moves {
            runs: vec![Run { to, from: Some(from), bytes }],
            swizzle: TensorSwizzle::None,
            reduce: reduction((*op).imm),
            out: to >= GLOBAL_BASE,
            counted,
            bytes,
            fill: [0; MOST],
            multicast: multicast(cx, op, 4, lane),
        })
    }
}

/// What a `st.async` or `red.async` moves.
unsafe fn stored(cx: &Cx, op: *const Op, lane: usize) -> Result<Moves, Wrong> {
    // SAFETY: operands were decoded with these widths.
    unsafe {
        let (imm, at) = ((*op).imm, |i: usize| (*cx.at::<u64>(cx.list(op, i)))[lane]);
        let (element, count) = ((imm & 255) as usize, (imm >> 8 & 255) as usize);
        let (to, bytes) = (at(0), (element * count) as u64);
        misaligned(to, bytes, "address")?;
        let mut fill = [0; MOST];
        for i in 0..count {
            let from = cx.at::<u8>(cx.list(op, 2 + i)).cast::<u8>().add(lane * element);
            std::ptr::copy_nonoverlapping(from, fill[i * element..].as_mut_ptr(), element);
        }
        let reduce = reduction((imm >> 16) - 1);
        let runs = vec![Run { to, from: None, bytes }];
        let (counted, swizzle) = (Some(at(1)), TensorSwizzle::None);
        Ok(Moves { runs, swizzle, reduce, out: false, counted, bytes, fill, multicast: None })
    }
}

/// What a copy between a box of a tensor and shared memory moves.
unsafe fn tensor(cx: &Cx, op: *const Op, lane: usize) -> Result<Moves, Wrong> {
    // SAFETY: operands were decoded with these widths; the map is read where it is found to be.
    unsafe {
        let at = |i: usize| (*cx.at::<u64>(cx.list(op, i)))[lane];
        let (shared, place, imm) = (at(0), at(1), (*op).imm);
        let (axes, out) = (((*op).aux & 7) as usize, (*op).aux & Tensor::OUT != 0);
        misaligned(place, 64, "the tensor map's address")?;
        let wrong = |message: String| Wrong { kind: FaultKind::Trap, address: place, message };
        let bytes = resolve(cx, place, TENSOR_MAP_BYTES as u64, true, lane as u32);
        let bytes = bytes.ok_or_else(|| Wrong {
            kind: FaultKind::OutOfBounds,
            address: place,
            message: describe_miss(cx, place, TENSOR_MAP_BYTES as u64, false),
        })?;
        let map = TensorMap::decode(&bytes.cast::<[u8; TENSOR_MAP_BYTES]>().read_unaligned());
        let map = map.ok_or_else(|| wrong(format!("there is no tensor map at {place:#x}")))?;
        if map.sizes.len() != axes {
            return Err(wrong(format!("a copy of {axes} axes with {map}")));
        }
        if cx.in_cluster(shared, 0).is_none() {
            let message = describe_miss(cx, shared, map.box_bytes() as u64, false);
            return Err(Wrong { kind: FaultKind::OutOfBounds, address: shared, message });
        }
        misaligned(shared, 128, "the address in shared memory")?;
        let reduce = match imm {
            0.. => Some((
                Atom::ALL[imm as usize],
                combined(map.ty, Atom::ALL[imm as usize])
                    .ok_or_else(|| wrong(format!("elements of {:?} cannot be combined so in global memory", map.ty)))?,
            )),
            _ => None,
        };
        let first: Vec<i64> = (0..axes).map(|i| i64::from((*cx.at::<i32>(cx.list(op, 4 + i)))[lane])).collect();
        let counted = (cx.list(op, 2) != NO_SLOT).then(|| at(2));
        Ok(Moves {
            runs: rows(&map, &first, shared, out),
            swizzle: map.swizzle,
            reduce,
            out,
            counted,
            bytes: map.box_bytes() as u64,
            fill: std::array::from_fn(|i| if map.nan { map.ty.nan()[i % 8] } else { 0 }),
            multicast: multicast(cx, op, 3, lane),
        })
    }
}

/// How elements of a tensor are combined.
fn combined(ty: TensorType, atom: Atom) -> Option<AtomTy> {
    let ty = match ty {
        TensorType::U32 => AtomTy::U32,
        TensorType::S32 => AtomTy::S32,
        TensorType::U64 => AtomTy::U64,
        TensorType::S64 => AtomTy::S64,
        TensorType::F16 => AtomTy::F16,
        TensorType::Bf16 => AtomTy::Bf16,
        TensorType::F32 => AtomTy::F32,
        TensorType::F32Ftz => AtomTy::F32Flushed,
        _ => return None,
    };
    let integer = matches!(ty, AtomTy::U32 | AtomTy::S32 | AtomTy::U64 | AtomTy::S64);
    let half = matches!(ty, AtomTy::F16 | AtomTy::Bf16);
    let fits = match atom {
        Atom::Add => true,
        Atom::Min | Atom::Max => integer || half,
        Atom::Inc | Atom::Dec => ty == AtomTy::U32,
        _ => integer,
    };
    fits.then_some(ty)
}

/// The rows of the box that begins at `first`, in shared memory from `shared` on: what of them lies inside of the tensor, and, going in, what does
/// not.
fn rows(map: &TensorMap, first: &[i64], shared: u64, out: bool) -> Vec<Run> {
    let element = map.ty.bytes() as i64;
    let counts: Vec<u64> = map.copied().collect();
    let (width, pitch) = (counts[0] as i64, counts[0] * element as u64);
    // What of a row is inside, as elements of the box.
    let (size, start) = (map.sizes[0] as i64, first[0]);
    let (from, to) = ((-start).clamp(0, width), (size - start).clamp(0, width));
    let mut runs = vec![];
    let mut push = |offset: i64, elements: i64, global: Option<u64>, row: u64| {
        let (near, bytes) = (shared + row * pitch + (offset * element) as u64, (elements * element) as u64);
        match global {
            _ if elements <= 0 => {}
            Some(far) if out => runs.push(Run { to: far, from: Some(near), bytes }),
            Some(far) => runs.push(Run { to: near, from: Some(far), bytes }),
            None if out => {}
            None => runs.push(Run { to: near, from: None, bytes }),
        }
    };
    for row in 0..counts[1..].iter().product() {
        let (mut rest, mut address) = (row, Some(map.address));
        for axis in 1..counts.len() {
            let at = first[axis] + (rest % counts[axis]) as i64 * i64::from(map.steps[axis]);
            rest /= counts[axis];
            let inside = (0..map.sizes[axis] as i64).contains(&at);
            address = address.filter(|_| inside).map(|a| a.wrapping_add(at as u64 * map.strides[axis - 1]));
        }
        match address {
            Some(address) if from < to => {
                push(0, from, None, row);
                push(from, to - from, Some(address.wrapping_add(((start + from) * element) as u64)), row);
                push(to, width - to, None, row);
            }
            _ => push(0, width, None, row),
        }
    }
    runs
}

/// `cp.async.bulk.commit_group` (imm < 0) and `cp.async.bulk.wait_group` of imm groups, with `.read` where bit 32 is set.
pub(crate) struct BulkGroup;
impl Exec for BulkGroup {
    const RARE: bool = true;
    const RULE: Rule = Rule::BulkGroup;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: `op` is valid and never the last instruction.
        unsafe {
            let imm = (*op).imm;
            let what = match imm < 0 {
                true => Happened::BulkCommit,
                false => Happened::BulkWait { pending: imm as u32, read: imm >> 32 != 0 },
            };
            cx.happened(what, cx.mask, 0);
            op.add(1)
        }
    }
}

/// `cp.async.bulk` and `cp.reduce.async.bulk`: list = destination, source (64-bit generic), size, mbarrier (64-bit generic, or the sink),
/// blocks of a multicast (or the sink); imm < 0: copy, else the operation of the reduction and its type << 8.
pub(crate) struct Bulk;
impl Exec for Bulk {
    const RARE: bool = true;
    const RULE: Rule = Rule::Bulk;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { bulk(cx, op) }
    }
}

/// `st.async` and `red.async`: list = destination, mbarrier (64-bit generic), registers; imm = bytes of an element, their number << 8, and the
/// operation of the reduction and its type, as above, plus one << 16.
pub(crate) struct AsyncStore;
impl AsyncStore {
    /// Tells them from the others.
    pub(crate) const FLAG: u32 = 16;
}
impl Exec for AsyncStore {
    const RARE: bool = true;
    const RULE: Rule = Rule::AsyncStore;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { bulk(cx, op) }
    }
}

/// The same with `.tensor`: list = place in shared memory, tensor map (64-bit generic), mbarrier (or the sink), blocks of a multicast (or the
/// sink), coordinates; imm < 0: copy, else the operation of the reduction; aux: the number of axes, and the flags below.
pub(crate) struct Tensor;
impl Tensor {
    /// Out of shared memory.
    pub(crate) const OUT: u32 = 8;
}
impl Exec for Tensor {
    const RARE: bool = true;
    const RULE: Rule = Rule::Bulk;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { bulk(cx, op) }
    }
}

#[inline(never)]
unsafe fn bulk(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: all ranges are checked before anything moves.
    unsafe {
        for lane in lanes_of(cx.mask) {
            let planned = moves(cx, op, lane)
                .and_then(|all| all.into_iter().map(|moves| Ok((moves.pieces(cx, lane)?, moves))).collect());
            let planned: Vec<(Vec<Piece>, Moves)> = match planned {
                Ok(planned) => planned,
                Err(Wrong { kind, address, message }) => {
                    return cx.fault(op, kind, Some(lane as u32), Some(address), message);
                }
            };
            for (pieces, moves) in planned {
                let at = moves.counted.map_or(0, |counted| cx.place_of(counted));
                for piece in &pieces {
                    moves.carry(piece, piece.from);
                    let Run { to, from, bytes } = piece.run;
                    let reduce = moves.reduce.is_some();
                    cx.happened(Happened::Bulk { to, from, bytes: bytes as u32, reduce }, 1 << lane, at);
                }
                if let Some(counted) = moves.counted
                    && let Err(stop) = cx.delivered(op, lane, counted, moves.bytes as i64)
                {
                    return stop;
                }
            }
        }
        op.add(1)
    }
}
