//! What the rows of the instruction table emit: the handlers and operands of each instruction, by family.

pub(crate) mod barrier;
pub(crate) mod carry;
pub(crate) mod cluster;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod logic;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod moves;
pub(crate) mod special;
pub(crate) mod tensor;
pub(crate) mod video;
pub(crate) mod warp;
pub(crate) mod wgmma;
pub(crate) mod wmma;

use super::builder::Lower;
use super::form::{Form, R};
use crate::ir::{Access, AccessKind, Handler, Val, handler};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::control as flow;
use crate::step::ops::*;

macro_rules! by_round {
    ($l:ident, $f:ident, $shape:ident, $op:ident) => {
        match mode($f) {
            0 => $l.$shape::<$op<0>>($f),
            1 => $l.$shape::<$op<1>>($f),
            2 => $l.$shape::<$op<2>>($f),
            _ => $l.$shape::<$op<3>>($f),
        }
    };
}
use by_round;

/// The rounding mode as the operations take it.
pub(crate) fn mode(f: &Form<'_, '_>) -> u8 {
    if f.has("rz") {
        1
    } else if f.has("rm") {
        2
    } else if f.has("rp") {
        3
    } else {
        0
    }
}

/// A binary f32 operation without and with flushing.
pub(crate) fn handler_pair<O: Bin<A = f32, B = f32, D = f32>>() -> (Handler, Handler) {
    (handler::<BinOp<O>>(), handler::<BinOp<Ftz<O>>>())
}

/// Whether `min` and `max` are those `.xorsign.abs`.
pub(crate) fn xorsign(l: &Lower<'_>, f: &Form<'_, '_>) -> R<bool> {
    if f.has("xorsign") == f.has("abs") { Ok(f.has("abs")) } else { l.unknown("`.xorsign` and `.abs` go together") }
}

/// The registers of a data operand.
pub(crate) fn data<'f, 'a>(l: &Lower<'a>, operand: &'f Operand<'a>, lanes: usize) -> R<&'f [Operand<'a>]> {
    let list = match operand {
        Operand::Vector(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    if list.len() == lanes { Ok(list) } else { l.unknown("number of registers and vector size differ") }
}

impl<'a> Lower<'a> {
    pub(crate) fn un<O: Un>(&mut self, f: &Form<'_, 'a>) -> R {
        self.un_to::<O>(f, f.ty())
    }
    pub(crate) fn un_to<O: Un>(&mut self, f: &Form<'_, 'a>, to: Ty) -> R {
        let a = self.src(&f.ops[1], f.ty())?;
        let d = self.dst(&f.ops[0], to)?;
        self.op::<UnOp<O>>(d, &[a], 0);
        Ok(())
    }
    pub(crate) fn bin<O: Bin>(&mut self, f: &Form<'_, 'a>) -> R {
        self.bin_of::<O>(f, f.ty(), f.ty(), f.ty())
    }
    pub(crate) fn bin_of<O: Bin>(&mut self, f: &Form<'_, 'a>, d: Ty, a: Ty, b: Ty) -> R {
        let a = self.src(&f.ops[1], a)?;
        let b = self.src(&f.ops[2], b)?;
        let d = self.dst(&f.ops[0], d)?;
        self.op::<BinOp<O>>(d, &[a, b], 0);
        Ok(())
    }
    pub(crate) fn tri<O: Tri>(&mut self, f: &Form<'_, 'a>) -> R {
        self.tri_of::<O>(f, f.ty(), [f.ty(); 3])
    }
    pub(crate) fn tri_of<O: Tri>(&mut self, f: &Form<'_, 'a>, d: Ty, types: [Ty; 3]) -> R {
        let a = self.src(&f.ops[1], types[0])?;
        let b = self.src(&f.ops[2], types[1])?;
        let c = self.src(&f.ops[3], types[2])?;
        let d = self.dst(&f.ops[0], d)?;
        self.op::<TriOp<O>>(d, &[a, b, c], 0);
        Ok(())
    }
    pub(crate) fn effect(&mut self, run: Handler, r: [Val; 4], imm: i64) -> R {
        self.push(run, r, 0, imm);
        Ok(())
    }

    pub(crate) fn f32_un<O: Un<A = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        if f.has("ftz") { self.un::<Ftz<O>>(f) } else { self.un::<O>(f) }
    }
    pub(crate) fn f32_bin<O: Bin<A = f32, B = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        self.f32_bin_rounded(f, [handler_pair::<O>(); 4])
    }
    pub(crate) fn f32_bin_rounded(&mut self, f: &Form<'_, 'a>, runs: [(Handler, Handler); 4]) -> R {
        let (plain, flushed) = runs[mode(f) as usize];
        let a = self.src(&f.ops[1], Ty::F32)?;
        let b = self.src(&f.ops[2], Ty::F32)?;
        let d = self.dst(&f.ops[0], Ty::F32)?;
        self.push(if f.has("ftz") { flushed } else { plain }, [d, a, b, Val::None], 1, 0);
        self.saturate(f, d)
    }
    pub(crate) fn saturate(&mut self, f: &Form<'_, 'a>, d: Val) -> R {
        if f.has("sat") {
            self.op::<UnOp<SatF32>>(d, &[d], 0);
        }
        Ok(())
    }

    pub(crate) fn half_un<O: Un<A = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        match f.ty() {
            Ty::F16 => self.un::<Half<O, false>>(f),
            Ty::Bf16 => self.un::<Half<O, true>>(f),
            Ty::F16x2 => self.un::<Half2<O, false>>(f),
            _ => self.un::<Half2<O, true>>(f),
        }
    }
    pub(crate) fn half_bin<O: Bin<A = f32, B = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        match (f.ty(), f.has("ftz")) {
            (Ty::F16, false) => self.bin::<Half<O, false>>(f)?,
            (Ty::F16, true) => self.bin::<FtzHalf<Half<O, false>>>(f)?,
            (Ty::F16x2, false) => self.bin::<Half2<O, false>>(f)?,
            (Ty::F16x2, true) => self.bin::<FtzHalf2<Half2<O, false>>>(f)?,
            (Ty::Bf16, _) => self.bin::<Half<O, true>>(f)?,
            _ => self.bin::<Half2<O, true>>(f)?,
        }
        if f.has("sat") {
            let d = self.dst(&f.ops[0], f.ty())?;
            match f.ty() {
                Ty::F16 => self.op::<UnOp<SatHalf>>(d, &[d], 0),
                _ => self.op::<UnOp<SatHalf2>>(d, &[d], 0),
            };
        }
        Ok(())
    }

    /// Of the magnitudes, with the product of the signs.
    pub(crate) fn half_xorsign<O: Bin<A = f32, B = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        match (f.ty(), f.has("ftz")) {
            (Ty::F16, false) => self.bin::<HalfXor<O, false>>(f),
            (Ty::F16, true) => self.bin::<FtzHalf<HalfXor<O, false>>>(f),
            (Ty::F16x2, false) => self.bin::<HalfXor2<O, false>>(f),
            (Ty::F16x2, true) => self.bin::<FtzHalf2<HalfXor2<O, false>>>(f),
            (Ty::Bf16, _) => self.bin::<HalfXor<O, true>>(f),
            _ => self.bin::<HalfXor2<O, true>>(f),
        }
    }

    /// Predicate logic: 0 copy, 1 and, 2 or, 3 xor, 4 not.
    pub(crate) fn logic(&mut self, f: &Form<'_, 'a>, how: i64) -> R {
        let d = self.dst_pred(&f.ops[0])?;
        let (a, na) = self.pred(&f.ops[1])?;
        let (b, nb) = if f.ops.len() > 2 { self.pred(&f.ops[2])? } else { (Val::Raw(0), false) };
        self.effect(handler::<PredOp>(), [d, a, b, Val::None], how | i64::from(na) << 4 | i64::from(nb) << 5)
    }

    pub(crate) fn group(&mut self, kind: AccessKind) -> R {
        self.push(handler::<flow::Nop>(), [Val::None; 4], 0, 0).meta.access = Some(Access::bare(kind));
        Ok(())
    }
}
