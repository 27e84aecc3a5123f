//! `wmma`: matrices in fragments whose layout is ours, multiplied as `mma` does.

use super::memory::{Target, access, load_handler, push_access, space, store_handler, target};
use super::tensor::{Multiply, accumulators, deliver, destinations, shape, sources, targets, word};
use crate::ir::{AccessKind, ConstSource, Val, Where, handler, width};
use crate::lower::builder::Lower;
use crate::lower::form::{Form, R};
use crate::parse::{Operand, Space, Ty};
use crate::step::alu::{BinOp, Join, Split, TriOp, UnOp};
use crate::step::ops::*;

/// How a shape of `wmma` is put together.
struct Wmma {
    m: u32,
    n: u32,
    k: u32,
    /// Computes the transpose: B is the left operand.
    swapped: bool,
    /// Blocks of 16 (f64: 8) rows on the left, of 8 columns on the right.
    left: usize,
    right: usize,
    /// The shape of `mma` that computes one block.
    inner: &'static str,
}

fn wmma_shape(shape: &str, ty: Ty) -> Wmma {
    let inner = if matches!(ty, Ty::F64) {
        "m8n8k4"
    } else if shape == "m16n16k8" {
        "m16n8k8"
    } else {
        "m16n8k16"
    };
    let (m, n, k, left, right) = match shape {
        "m16n16k16" => (16, 16, 16, 1, 2),
        "m32n8k16" => (32, 8, 16, 2, 1),
        "m8n32k16" => (8, 32, 16, 2, 1),
        "m16n16k8" => (16, 16, 8, 1, 2),
        _ => (8, 8, 4, 1, 1),
    };
    Wmma { m, n, k, swapped: n == 32, left, right, inner }
}

/// A word of a fragment: the elements `(x + g, y + e t ..)`, where `x` counts along the outer dimension and `y` along the other, and
/// `e` is the number of elements in a word (or in a pair of accumulators).
#[derive(Clone, Copy)]
struct Word {
    x: u32,
    y: u32,
}

/// Words of a multiplicand.
fn multiplicand(shape: &Wmma, left: bool, ty: Ty) -> Vec<Word> {
    let blocks = if left { shape.left } else { shape.right } as u32;
    let mut words = Vec::new();
    for block in 0..blocks {
        let (halves, rows) = match (left, ty) {
            (_, Ty::F64) => (1, 8),
            (true, _) => (2, 16),
            (false, _) => (1, 8),
        };
        // Steps along k: what four lanes hold in one word.
        let step = if ty == Ty::Tf32 || ty == Ty::F64 { 4 } else { 16 / ty.bytes() as u32 };
        for y in (0..shape.k).step_by(step as usize) {
            for half in 0..halves {
                words.push(Word { x: block * rows + 8 * half, y });
            }
        }
    }
    words
}

/// Words of accumulators: pairs of f32, s32 and f64, single words of f16.
fn accumulator_words(shape: &Wmma, ty: Ty) -> Vec<Word> {
    let mut words = Vec::new();
    for left in 0..shape.left as u32 {
        for right in 0..shape.right as u32 {
            for half in 0..if ty == Ty::F64 { 1 } else { 2 } {
                words.push(Word { x: 16 * left + 8 * half, y: 8 * right });
            }
        }
    }
    words
}

/// A matrix in memory as the lanes of a warp see it.
struct Tile {
    base: Target,
    /// Bytes between neighbours along the strided dimension.
    row: Stride,
    /// The `y` of [`Word`] runs along contiguous elements.
    contiguous: bool,
    size: u32,
    w: Where,
    /// Base addresses of rows that are not at a constant distance.
    rows: Vec<(u32, Val)>,
}

enum Stride {
    Fixed(u32),
    Register(Val),
}

impl Tile {
    /// `step`: elements by which neighbouring lanes of a quad differ in `y`.
    fn new<'a>(
        l: &mut Lower<'a>,
        base: Target,
        stride: Option<&Operand<'a>>,
        default: u32,
        contiguous: bool,
        size: u32,
        step: u32,
    ) -> R<Tile> {
        let w = if base.space == Space::Shared { Where::W32 } else { Where::W64 };
        let fixed = match stride {
            None => Some(default),
            Some(Operand::Int(n)) => u32::try_from(*n).ok().filter(|n| n.checked_mul(size * step * 8).is_some()),
            Some(_) => None,
        };
        let lanes = |l: &mut Lower<'a>, g: u32, t: u32| l.constant(w, ConstSource::Lane { group: g, thread: t });
        let sum = |l: &mut Lower<'a>, a: Val, b: Val| {
            let d = Val::Reg(l.fresh(w));
            if w == Where::W64 {
                l.op::<BinOp<Add64>>(d, &[a, b], 0)
            } else {
                l.op::<BinOp<Add32>>(d, &[a, b], 0)
            };
            d
        };
        let (addr, row) = match (fixed, stride) {
            (None, Some(operand)) => {
                let stride = l.src(operand, Ty::U32)?;
                let stride = l.convert(stride, Where::W32, w, false);
                let size_const = l.imm(w, u64::from(size));
                let row = Val::Reg(l.fresh(w));
                if w == Where::W64 {
                    l.op::<BinOp<Mul64>>(row, &[stride, size_const], 0);
                } else {
                    l.op::<BinOp<Mul32>>(row, &[stride, size_const], 0);
                }
                let (near, far) = if contiguous {
                    (lanes(l, 0, step * size), lanes(l, 1, 0))
                } else {
                    (lanes(l, size, 0), lanes(l, 0, step))
                };
                let near = sum(l, base.addr, near);
                (multiply_add(l, w, far, row, near), Stride::Register(row))
            }
            _ => {
                let row = fixed.unwrap_or(default) * size;
                let offsets = if contiguous { lanes(l, row, step * size) } else { lanes(l, size, step * row) };
                (sum(l, base.addr, offsets), Stride::Fixed(row))
            }
        };
        Ok(Tile { base: Target { addr, ..base }, row, contiguous, size, w, rows: Vec::new() })
    }

    /// The address of element `(x, y)` of lane 0; the other lanes lie at their own distances.
    fn at(&mut self, l: &mut Lower<'_>, x: u32, y: u32) -> Target {
        let (far, near) = if self.contiguous { (x, y) } else { (y, x) };
        let mut t = Target { offset: self.base.offset.wrapping_add(i64::from(near * self.size)), ..self.base };
        match self.row {
            Stride::Fixed(row) => t.offset = t.offset.wrapping_add(i64::from(far) * i64::from(row)),
            Stride::Register(row) if far > 0 => {
                let known = self.rows.iter().find(|(n, _)| *n == far).map(|(_, addr)| *addr);
                t.addr = known.unwrap_or_else(|| {
                    let count = l.imm(self.w, u64::from(far));
                    let addr = multiply_add(l, self.w, count, row, self.base.addr);
                    self.rows.push((far, addr));
                    addr
                });
            }
            Stride::Register(_) => {}
        }
        t
    }
}

fn multiply_add(l: &mut Lower<'_>, w: Where, a: Val, b: Val, c: Val) -> Val {
    let d = Val::Reg(l.fresh(w));
    if w == Where::W64 {
        l.op::<TriOp<Mad64>>(d, &[a, b, c], 0)
    } else {
        l.op::<TriOp<Mad32>>(d, &[a, b, c], 0)
    };
    d
}

fn load(l: &mut Lower<'_>, to: Vec<Val>, t: &Target, bytes: u32) -> R {
    let lanes = to.len();
    let Some(run) = load_handler(t.space, bytes as usize, lanes) else { return l.unknown("no such load") };
    let access = access(AccessKind::Load, t, bytes * lanes as u32);
    push_access(l, run, to, t, lanes, true, access);
    Ok(())
}

fn store(l: &mut Lower<'_>, from: Vec<Val>, t: &Target, bytes: u32) -> R {
    let lanes = from.len();
    let Some(run) = store_handler(t.space, bytes as usize, lanes) else { return l.unknown("no such store") };
    let access = access(AccessKind::Store, t, bytes * lanes as u32);
    push_access(l, run, from, t, lanes, false, access);
    Ok(())
}

/// What `wmma.load` and `wmma.store` have in common: the matrix, its words, and how many elements or registers a word has.
fn fragment<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, address: usize) -> R<(Tile, Vec<Word>, Ty, bool)> {
    let ty = f.ty();
    let shape = wmma_shape(shape(f), ty);
    let row = f.has("row");
    let (a, b) = (f.has("a"), f.has("b"));
    let base = target(l, &f.ops[address], space(f))?;
    let stride = f.ops.get(address + if address == 0 { 2 } else { 1 });
    let default = match (a, b, row) {
        (true, _, true) | (_, true, false) => shape.k,
        (true, _, false) | (_, false, false) => shape.m,
        (_, _, true) => shape.n,
    };
    let accumulator = !a && !b;
    let (words, contiguous, step) = if accumulator {
        (accumulator_words(&shape, ty), row != shape.swapped, 2)
    } else {
        let per_word = if ty == Ty::F64 { 1 } else { 4 / ty.bytes() as u32 };
        (multiplicand(&shape, a != shape.swapped, ty), a == row, per_word)
    };
    let tile = Tile::new(l, base, stride, default, contiguous, ty.bytes() as u32, step)?;
    Ok((tile, words, ty, accumulator))
}

/// `wmma.load`.
pub(crate) fn wmma_load<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (mut tile, words, ty, accumulator) = fragment(l, f, 1)?;
    let size = tile.size;
    let w = width(word(ty));
    // Registers of a word: two of wide accumulators.
    let pairs = accumulator && ty != Ty::F16;
    let distinct = words.len() * if pairs { 2 } else { 1 };
    let registers = if ty == Ty::F16 && !accumulator { 8 } else { distinct };
    let d = destinations(l, &f.ops[0], registers, word(ty))?;
    let elements = if pairs { 2 } else { w.bytes() as u32 / size };
    // All addresses before the first load: a destination may be the stride's register.
    let mut at = Vec::new();
    for word in &words {
        for i in 0..if tile.contiguous { 1 } else { elements } {
            at.push(tile.at(l, word.x, word.y + i));
        }
    }
    for (i, at) in at.chunks(if tile.contiguous { 1 } else { elements as usize }).enumerate() {
        if pairs {
            if tile.contiguous {
                load(l, vec![d[2 * i], d[2 * i + 1]], &at[0], size)?;
            } else {
                load(l, vec![d[2 * i]], &at[0], size)?;
                load(l, vec![d[2 * i + 1]], &at[1], size)?;
            }
        } else if at.len() == 1 {
            load(l, vec![d[i]], &at[0], w.bytes() as u32)?;
        } else {
            let mut parts = Vec::new();
            for at in at {
                let part = Val::Reg(l.fresh(Where::W16));
                load(l, vec![part], at, size)?;
                parts.push(part);
            }
            join(l, d[i], &parts);
        }
    }
    for i in distinct..registers {
        l.copy(d[i], d[i % distinct], w);
    }
    Ok(())
}

/// Two halves or four bytes (each in 16 bits) to a word.
fn join(l: &mut Lower<'_>, d: Val, parts: &[Val]) {
    if parts.len() == 4 {
        super::moves::join_bytes(l, d, parts);
    } else {
        l.push_list(handler::<Join<u32, u16, 2>>(), vec![d, parts[0], parts[1]], 1, 0).pure_op = true;
    }
}

/// `wmma.store`.
pub(crate) fn wmma_store<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (mut tile, words, ty, _) = fragment(l, f, 0)?;
    let size = tile.size;
    let pairs = ty != Ty::F16;
    let registers = sources(l, &f.ops[1], words.len() * if pairs { 2 } else { 1 }, word(ty))?;
    for (i, word) in words.iter().enumerate() {
        let at = tile.at(l, word.x, word.y);
        let values = if pairs {
            [registers[2 * i], registers[2 * i + 1]]
        } else if tile.contiguous {
            store(l, vec![registers[i]], &at, 4)?;
            continue;
        } else {
            let halves = [Val::Reg(l.fresh(Where::W16)), Val::Reg(l.fresh(Where::W16))];
            l.push_list(handler::<Split<u32, u16, 2>>(), vec![halves[0], halves[1], registers[i]], 2, 0);
            halves
        };
        if tile.contiguous {
            store(l, values.to_vec(), &at, size)?;
        } else {
            store(l, vec![values[0]], &at, size)?;
            let next = tile.at(l, word.x, word.y + 1);
            store(l, vec![values[1]], &next, size)?;
        }
    }
    Ok(())
}

/// `wmma.mma`.
pub(crate) fn wmma_mma<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    // `.f16`: the types of D and C; else those of D, A, B and C.
    let (dty, aty, bty, cty) = match f.types[..] {
        [d, c] => (d, Ty::F16, Ty::F16, c),
        [d, a, b, c] => (d, a, b, c),
        _ => return l.unknown("two or four types expected"),
    };
    let shape = wmma_shape(shape(f), aty);
    let acc = if dty == cty { dty } else { Ty::F32 };
    let (left, right) = if shape.swapped { (bty, aty) } else { (aty, bty) };
    let Some(m) = Multiply::new(acc, left, right, f.has("satfinite"), shape.inner) else {
        return l.unknown("this shape is not supported for these types");
    };
    let wide = aty == Ty::F64;
    let tiles = shape.left * shape.right;
    let count = |blocks: usize, words: usize| if aty == Ty::F16 { 8 } else { blocks * words };
    let [na, nb] = if shape.swapped {
        [count(shape.right, m.b), count(shape.left, m.a)]
    } else {
        [count(shape.left, m.a), count(shape.right, m.b)]
    };
    let per_tile = |ty| if aty == Ty::F16 && ty == Ty::F16 { 2 } else { m.c };
    let d = destinations(l, &f.ops[0], tiles * per_tile(dty), word(dty))?;
    let a = sources(l, &f.ops[1], na, word(aty))?;
    let b = sources(l, &f.ops[2], nb, word(bty))?;
    let c = sources(l, &f.ops[3], tiles * per_tile(cty), word(cty))?;
    let w = width(word(dty));
    let c = accumulators(l, c, cty, acc);
    let to =
        if dty == acc { targets(l, &d, [&a, &b], &c, w) } else { c.iter().map(|_| Val::Reg(l.fresh(w))).collect() };
    let (left, right) = if shape.swapped { (b, a) } else { (a, b) };
    for i in 0..shape.left {
        for j in 0..shape.right {
            let tile = (i * shape.right + j) * m.c..(i * shape.right + j + 1) * m.c;
            m.emit(l, wide, &to[tile.clone()], &left[i * m.a..][..m.a], &right[j * m.b..][..m.b], &c[tile]);
        }
    }
    let sums = accumulators(l, to, acc, dty);
    if f.has("satfinite") && matches!(dty, Ty::F16 | Ty::F32) {
        for (&d, &sum) in d.iter().zip(&sums) {
            if dty == Ty::F16 {
                l.op::<UnOp<FiniteHalf2>>(d, &[sum], 0)
            } else {
                l.op::<UnOp<FiniteOrZeroF32>>(d, &[sum], 0)
            };
        }
    } else {
        deliver(l, &d, &sums, w);
    }
    Ok(())
}
