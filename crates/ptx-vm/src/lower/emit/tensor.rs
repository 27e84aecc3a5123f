//! `mma` and `wmma`: multiplications become micro-kernels over fragments, `wmma` loads and stores become ordinary ones.
//!
//! The layout of `wmma` fragments is the implementation's choice. Here it is that of `mma`: with lane `= 4 g + t` the *left* operand of
//! a micro-kernel is blocks of 16 rows, the *right* one blocks of 8 columns. `m8n32k16` computes the transpose, so that B is
//! the left operand. Fragments of f16 have eight registers whatever the shape; the words are repeated as often as needed.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::data;
use super::memory::{Target, access, load_handler, push_access, space, store_handler, target};
use crate::ir::{AccessKind, ConstSource, Val, Where, handler, width};
use crate::math::mma::{Accumulators, Format, Int8Shape, Kernel, Layout, Product, Staged, fp8, kernels, volta};
use crate::parse::{Operand, Space, Ty};
use crate::step::alu::*;
use crate::step::ops::*;
use crate::step::ops::{F16ToF32, PackHalf};
use crate::step::tensor;

/// One micro-kernel with its registers of A, B and C, and its multiply-adds.
struct Multiply {
    kernel: Kernel,
    /// What tensor cores compute, unless it is exact or as IEEE says.
    product: Option<Product>,
    a: usize,
    b: usize,
    c: usize,
    macs: usize,
    /// The micro-kernel in stages, if it has such.
    staged: Option<&'static Staged>,
}

impl Multiply {
    /// The micro-kernel for operands `a`, `b`, accumulators `acc` and a shape of `mma`.
    fn new(acc: Ty, a: Ty, b: Ty, satfinite: bool, shape: &str) -> Option<Multiply> {
        let k = kernels();
        let int8 = |shape| k.int8(shape, a == Ty::S8, b == Ty::S8, satfinite);
        let product = format(a).zip(format(b)).map(|(a, b)| {
            let k = shape.rsplit('k').next().and_then(|k| k.parse().ok()).unwrap_or_default();
            Product { a, b, half: acc == Ty::F16, layout: Layout::Wide { k } }
        });
        let (kernel, a, b, c, macs) = match (a, acc, shape) {
            (Ty::F16, Ty::F32, "m16n8k16") => (k.m16n8k16_f16, 4, 2, 4, 2048),
            (Ty::F16, Ty::F32, "m16n8k8") => (k.m16n8k8_f16, 2, 1, 4, 1024),
            (Ty::F16, Ty::F16, "m16n8k16") => (k.m16n8k16_f16_f16, 4, 2, 2, 2048),
            (Ty::F16, Ty::F16, "m16n8k8") => (k.m16n8k8_f16_f16, 2, 1, 2, 1024),
            (Ty::Bf16, _, "m16n8k16") => (k.m16n8k16_bf16, 4, 2, 4, 2048),
            (Ty::Bf16, _, "m16n8k8") => (k.m16n8k8_bf16, 2, 1, 4, 1024),
            (Ty::Tf32, _, "m16n8k8") => (k.m16n8k8_tf32, 4, 2, 4, 1024),
            (Ty::Tf32, _, "m16n8k4") => (k.m16n8k4_tf32, 2, 1, 4, 512),
            (Ty::F64, _, "m8n8k4") => (k.m8n8k4_f64, 1, 1, 2, 256),
            (Ty::S8 | Ty::U8, _, "m8n8k16") => (int8(Int8Shape::M8N8K16), 1, 1, 2, 1024),
            (Ty::S8 | Ty::U8, _, "m16n8k16") => (int8(Int8Shape::M16N8K16), 2, 1, 4, 2048),
            (Ty::S8 | Ty::U8, _, "m16n8k32") => (int8(Int8Shape::M16N8K32), 4, 2, 4, 4096),
            (Ty::E4m3 | Ty::E5m2, _, shape) => {
                let deep = shape == "m16n8k32";
                let kernel = fp8(deep, a == Ty::E5m2, b == Ty::E5m2, acc == Ty::F16);
                let c = if acc == Ty::F16 { 2 } else { 4 };
                if deep { (kernel, 4, 2, c, 4096) } else { (kernel, 2, 1, c, 2048) }
            }
            _ => return None,
        };
        let staged = product.and_then(|p| k.staged(p));
        Some(Multiply { kernel, product, a, b, c, macs, staged })
    }

    /// Emits `d = a b + c`.
    fn emit(&self, l: &mut Lower<'_>, wide: bool, d: &[Val], a: &[Val], b: &[Val], c: &[Val]) {
        let list = [d, a, b, c].concat();
        let wide = if wide { 128 } else { 0 };
        let counts = (self.c | wide | self.a << 8 | self.b << 16 | self.c << 24) as u32;
        let raw = l.push_list(handler::<tensor::Mma>(), list, self.c, self.kernel as usize as i64);
        raw.aux = Val::Raw(counts);
        let address = self.staged.map_or(0, |staged| std::ptr::from_ref(staged).addr() as u64);
        raw.r = [self.product.map_or(0, Product::code), address as u32, (address >> 32) as u32, 0].map(Val::Raw);
        raw.staged = self.staged;
        raw.meta.flops = 2 * self.macs as u32;
    }
}

/// The format of floating-point operands of tensor cores.
fn format(ty: Ty) -> Option<Format> {
    Some(match ty {
        Ty::F16 => Format::F16,
        Ty::Bf16 => Format::Bf16,
        Ty::Tf32 => Format::Tf32,
        Ty::E4m3 => Format::E4m3,
        Ty::E5m2 => Format::E5m2,
        _ => return None,
    })
}

/// The modifier that names the shape.
fn shape<'a>(f: &Form<'_, 'a>) -> &'a str {
    f.mods.iter().find(|m| m.starts_with('m') && m.contains('k')).copied().unwrap_or_default()
}

/// Registers of an operand as sources, in words of `ty`.
fn sources<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, count: usize, ty: Ty) -> R<Vec<Val>> {
    let mut list = Vec::new();
    for operand in data(l, operand, count)? {
        list.push(l.src(operand, ty)?);
    }
    Ok(list)
}

fn destinations<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, count: usize, ty: Ty) -> R<Vec<Val>> {
    let mut list = Vec::new();
    for operand in data(l, operand, count)? {
        list.push(l.dst(operand, ty)?);
    }
    Ok(list)
}

/// The word in which fragments of a type are held.
fn word(ty: Ty) -> Ty {
    if ty == Ty::F64 { Ty::B64 } else { Ty::B32 }
}

/// Where an instruction made of several steps may write: its own destinations, or temporaries (to be copied by [`deliver`]) when a
/// later step reads one of them. Step `i` of `c` is read before `d[i]` is written.
fn targets(l: &mut Lower<'_>, d: &[Val], multiplied: [&[Val]; 2], c: &[Val], w: Where) -> Vec<Val> {
    let clash = |i: usize, v: &Val| {
        multiplied.iter().any(|m| m.contains(v)) || c.iter().enumerate().any(|(j, x)| j != i && x == v)
    };
    if d.iter().enumerate().any(|(i, v)| clash(i, v)) {
        d.iter().map(|_| Val::Reg(l.fresh(w))).collect()
    } else {
        d.to_vec()
    }
}

fn deliver(l: &mut Lower<'_>, d: &[Val], from: &[Val], w: Where) {
    for (&d, &value) in d.iter().zip(from) {
        if d != value {
            l.copy(d, value, w);
        }
    }
}

/// Accumulators of one type as those of another, f16 or f32, tile by tile.
fn accumulators(l: &mut Lower<'_>, c: Vec<Val>, from: Ty, to: Ty) -> Vec<Val> {
    let mut out = Vec::new();
    match (from, to) {
        (Ty::F16, Ty::F32) => {
            for word in c {
                let halves = [Val::Reg(l.fresh(Where::W16)), Val::Reg(l.fresh(Where::W16))];
                l.push_list(handler::<Split<u32, u16, 2>>(), vec![halves[0], halves[1], word], 2, 0);
                for half in halves {
                    let wide = Val::Reg(l.fresh(Where::W32));
                    l.op::<UnOp<F16ToF32>>(wide, &[half], 0);
                    out.push(wide);
                }
            }
        }
        (Ty::F32, Ty::F16) => {
            for pair in c.chunks(2) {
                let word = Val::Reg(l.fresh(Where::W32));
                l.op::<BinOp<PackHalf<0, false, false, false>>>(word, &[pair[1], pair[0]], 0);
                out.push(word);
            }
        }
        _ => out = c,
    }
    out
}

/// `mma.sync`.
pub(crate) fn mma<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let shape = shape(f);
    let [dty, aty, bty, cty] = f.types[..] else { return l.unknown("four types expected") };
    if aty == Ty::F64 && shape != "m8n8k4" {
        return mma_f64(l, f, shape);
    }
    // Mixed accumulators are summed in f32 and rounded once at the end.
    let acc = if dty == cty { dty } else { Ty::F32 };
    let Some(m) = Multiply::new(acc, aty, bty, f.has("satfinite"), shape) else {
        return l.unknown("this shape is not supported for these types");
    };
    let count = |ty| if ty == Ty::F16 { 2 } else { m.c };
    let d = destinations(l, &f.ops[0], count(dty), word(dty))?;
    let a = sources(l, &f.ops[1], m.a, word(aty))?;
    let b = sources(l, &f.ops[2], m.b, word(aty))?;
    let c = sources(l, &f.ops[3], count(cty), word(cty))?;
    if dty == cty {
        m.emit(l, aty == Ty::F64, &d, &a, &b, &c);
        return Ok(());
    }
    let c = accumulators(l, c, cty, Ty::F32);
    let sums: Vec<Val> = c.iter().map(|_| Val::Reg(l.fresh(Where::W32))).collect();
    m.emit(l, false, &sums, &a, &b, &c);
    let sums = accumulators(l, sums, Ty::F32, dty);
    deliver(l, &d, &sums, Where::W32);
    Ok(())
}

/// The larger shapes of f64: two halves of eight rows, each a chain of `m8n8k4`.
fn mma_f64<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, shape: &str) -> R {
    let steps = match shape {
        "m16n8k4" => 1,
        "m16n8k8" => 2,
        _ => 4,
    };
    let Some(m) = Multiply::new(Ty::F64, Ty::F64, Ty::F64, false, "m8n8k4") else {
        return l.unknown("this shape is not supported for these types");
    };
    let d = destinations(l, &f.ops[0], 4, Ty::B64)?;
    let a = sources(l, &f.ops[1], 2 * steps, Ty::B64)?;
    let b = sources(l, &f.ops[2], steps, Ty::B64)?;
    let c = sources(l, &f.ops[3], 4, Ty::B64)?;
    let to = targets(l, &d, [&a, &b], &c, Where::W64);
    for half in 0..2 {
        let (to, mut sums) = (&to[2 * half..2 * half + 2], &c[2 * half..2 * half + 2]);
        for step in 0..steps {
            m.emit(l, true, to, &a[2 * step + half..][..1], &b[step..][..1], sums);
            sums = to;
        }
    }
    deliver(l, &d, &to, Where::W64);
    Ok(())
}

/// `mma.m8n8k4` with f16: one kernel, or one for each half of the columns where D is f32.
pub(crate) fn mma_volta<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let [dty, .., cty] = f.types[..] else { return l.unknown("four types expected") };
    let mut by_rows = f.mods.iter().filter(|m| matches!(**m, "row" | "col")).map(|m| *m == "row");
    let (Some(a_row), Some(b_row)) = (by_rows.next(), by_rows.next()) else {
        return l.unknown("the layouts of A and B expected");
    };
    let count = |ty| if ty == Ty::F16 { 4 } else { 8 };
    let d = destinations(l, &f.ops[0], count(dty), Ty::B32)?;
    let a = sources(l, &f.ops[1], 2, Ty::B32)?;
    let b = sources(l, &f.ops[2], 2, Ty::B32)?;
    let c = sources(l, &f.ops[3], count(cty), Ty::B32)?;
    let product = |half, c_half, right| {
        let layout = Layout::Volta { a_row, b_row, c_half, right };
        Some(Product { a: Format::F16, b: Format::F16, half, layout })
    };
    if dty == Ty::F16 {
        let kernel = volta(a_row, b_row, Accumulators::Half);
        let product = product(true, true, false);
        Multiply { kernel, product, a: 2, b: 2, c: 4, macs: 1024, staged: None }.emit(l, false, &d, &a, &b, &c);
        return Ok(());
    }
    let half = cty == Ty::F16;
    let multiplied = [a.as_slice(), &b].concat();
    // Both steps read all of an f16 C.
    let (again, once) = if half { (c.as_slice(), [].as_slice()) } else { ([].as_slice(), c.as_slice()) };
    let to = targets(l, &d, [&multiplied, again], once, Where::W32);
    for right in [false, true] {
        let kernel = volta(a_row, b_row, Accumulators::Single { half, right });
        let part = 4 * usize::from(right)..4 * usize::from(right) + 4;
        let c = if half { &c } else { &c[part.clone()] };
        let product = product(false, half, right);
        Multiply { kernel, product, a: 2, b: 2, c: 4, macs: 512, staged: None }.emit(l, false, &to[part], &a, &b, c);
    }
    deliver(l, &d, &to, Where::W32);
    Ok(())
}

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
