//! `mma` and `wmma`: multiplications become micro-kernels over fragments, `wmma` loads and stores become ordinary ones.
//!
//! The layout of `wmma` fragments is the implementation's choice. Here it is that of `mma`: with lane `= 4 g + t` the *left* operand of
//! a micro-kernel is blocks of 16 rows, the *right* one blocks of 8 columns. `m8n32k16` computes the transpose, so that B is
//! the left operand. Fragments of f16 have eight registers whatever the shape; the words are repeated as often as needed.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::data;
use crate::ir::{Val, Where, handler};
use crate::math::mma::{Accumulators, Format, Int8Shape, Kernel, Layout, Product, Staged, fp8, kernels, volta};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::ops::{F16ToF32, PackHalf};
use crate::step::tensor;

/// One micro-kernel with its registers of A, B and C, and its multiply-adds.
pub(super) struct Multiply {
    pub(super) kernel: Kernel,
    /// What tensor cores compute, unless it is exact or as IEEE says.
    pub(super) product: Option<Product>,
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) c: usize,
    pub(super) macs: usize,
    /// The micro-kernel in stages, if it has such.
    pub(super) staged: Option<&'static Staged>,
}

impl Multiply {
    /// The micro-kernel for operands `a`, `b`, accumulators `acc` and a shape of `mma`.
    pub(super) fn new(acc: Ty, a: Ty, b: Ty, satfinite: bool, shape: &str) -> Option<Multiply> {
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
    pub(super) fn emit(&self, l: &mut Lower<'_>, wide: bool, d: &[Val], a: &[Val], b: &[Val], c: &[Val]) {
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
pub(super) fn format(ty: Ty) -> Option<Format> {
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
pub(super) fn shape<'a>(f: &Form<'_, 'a>) -> &'a str {
    f.mods.iter().find(|m| m.starts_with('m') && m.contains('k')).copied().unwrap_or_default()
}

/// Registers of an operand as sources, in words of `ty`.
pub(super) fn sources<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, count: usize, ty: Ty) -> R<Vec<Val>> {
    let mut list = Vec::new();
    for operand in data(l, operand, count)? {
        list.push(l.src(operand, ty)?);
    }
    Ok(list)
}

pub(super) fn destinations<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, count: usize, ty: Ty) -> R<Vec<Val>> {
    let mut list = Vec::new();
    for operand in data(l, operand, count)? {
        list.push(l.dst(operand, ty)?);
    }
    Ok(list)
}

/// The word in which fragments of a type are held.
pub(super) fn word(ty: Ty) -> Ty {
    match ty {
        Ty::F64 | Ty::F32 | Ty::S32 => ty,
        Ty::F16 => Ty::F16x2,
        _ => Ty::B32,
    }
}

/// Where an instruction made of several steps may write: its own destinations, or temporaries (to be copied by [`deliver`]) when a
/// later step reads one of them. Step `i` of `c` is read before `d[i]` is written.
pub(super) fn targets(l: &mut Lower<'_>, d: &[Val], multiplied: [&[Val]; 2], c: &[Val], w: Where) -> Vec<Val> {
    let clash = |i: usize, v: &Val| {
        multiplied.iter().any(|m| m.contains(v)) || c.iter().enumerate().any(|(j, x)| j != i && x == v)
    };
    if d.iter().enumerate().any(|(i, v)| clash(i, v)) {
        d.iter().map(|_| Val::Reg(l.fresh(w))).collect()
    } else {
        d.to_vec()
    }
}

pub(super) fn deliver(l: &mut Lower<'_>, d: &[Val], from: &[Val], w: Where) {
    for (&d, &value) in d.iter().zip(from) {
        if d != value {
            l.copy(d, value, w);
        }
    }
}

/// Accumulators of one type as those of another, f16 or f32, tile by tile.
pub(super) fn accumulators(l: &mut Lower<'_>, c: Vec<Val>, from: Ty, to: Ty) -> Vec<Val> {
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
