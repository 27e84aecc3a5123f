//! Comparisons and selections.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Handler, Val, Where, handler, width};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::ops::FlushF32;
use crate::step::ops::*;

/// The handler of a comparison: long because it is a table of types and comparisons.
fn compare(l: &Lower<'_>, name: &str, ty: Ty, ftz: bool) -> R<Handler> {
    fn all<C: Cmp>() -> Handler {
        handler::<SetpOp<C>>()
    }
    macro_rules! float {
        ($eq:ty, $ne:ty, $lt:ty, $le:ty, $gt:ty, $ge:ty, $equ:ty, $neu:ty, $ltu:ty, $leu:ty, $gtu:ty, $geu:ty, $num:ty, $nan:ty) => {
            match name {
                "eq" => all::<$eq>(),
                "ne" => all::<$ne>(),
                "lt" => all::<$lt>(),
                "le" => all::<$le>(),
                "gt" => all::<$gt>(),
                "ge" => all::<$ge>(),
                "equ" => all::<$equ>(),
                "neu" => all::<$neu>(),
                "ltu" => all::<$ltu>(),
                "leu" => all::<$leu>(),
                "gtu" => all::<$gtu>(),
                "geu" => all::<$geu>(),
                "num" => all::<$num>(),
                "nan" => all::<$nan>(),
                _ => return l.unknown(format!("`.{name}` does not compare floats")),
            }
        };
    }
    macro_rules! half {
        ($b:literal) => {
            float!(
                Half<EqF32, $b>, Half<NeF32, $b>, Half<LtF32, $b>, Half<LeF32, $b>, Half<GtF32, $b>, Half<GeF32, $b>,
                Half<EquF32, $b>, Half<NeuF32, $b>, Half<LtuF32, $b>, Half<LeuF32, $b>, Half<GtuF32, $b>, Half<GeuF32, $b>,
                Half<NumF32, $b>, Half<NanF32, $b>
            )
        };
    }
    macro_rules! int {
        ($eq:ty, $ne:ty, $lt:ty, $le:ty, $gt:ty, $ge:ty, $ult:ty, $ule:ty, $ugt:ty, $uge:ty) => {
            match name {
                "eq" => all::<$eq>(),
                "ne" => all::<$ne>(),
                "lt" => all::<$lt>(),
                "le" => all::<$le>(),
                "gt" => all::<$gt>(),
                "ge" => all::<$ge>(),
                "lo" => all::<$ult>(),
                "ls" => all::<$ule>(),
                "hi" => all::<$ugt>(),
                "hs" => all::<$uge>(),
                _ => return l.unknown(format!("`.{name}` does not compare integers")),
            }
        };
    }
    if ftz && !matches!(ty, Ty::F32 | Ty::F16) {
        return l.unknown(format!("`.ftz` does not go with .{}", ty.name()));
    }
    let unsigned = ["lo", "ls", "hi", "hs"].contains(&name);
    if ty.signed() && unsigned || matches!(ty, Ty::B16 | Ty::B32 | Ty::B64) && !["eq", "ne"].contains(&name) {
        return l.unknown(format!("`.{name}` does not compare .{}", ty.name()));
    }
    Ok(match ty {
        Ty::F32 if ftz => float!(
            Ftz<EqF32>,
            Ftz<NeF32>,
            Ftz<LtF32>,
            Ftz<LeF32>,
            Ftz<GtF32>,
            Ftz<GeF32>,
            Ftz<EquF32>,
            Ftz<NeuF32>,
            Ftz<LtuF32>,
            Ftz<LeuF32>,
            Ftz<GtuF32>,
            Ftz<GeuF32>,
            Ftz<NumF32>,
            Ftz<NanF32>
        ),
        Ty::F32 => float!(
            EqF32, NeF32, LtF32, LeF32, GtF32, GeF32, EquF32, NeuF32, LtuF32, LeuF32, GtuF32, GeuF32, NumF32, NanF32
        ),
        Ty::F64 => float!(
            EqF64, NeF64, LtF64, LeF64, GtF64, GeF64, EquF64, NeuF64, LtuF64, LeuF64, GtuF64, GeuF64, NumF64, NanF64
        ),
        Ty::F16 if ftz => {
            type Z<C> = FtzHalf<Half<C, false>>;
            float!(
                Z<EqF32>,
                Z<NeF32>,
                Z<LtF32>,
                Z<LeF32>,
                Z<GtF32>,
                Z<GeF32>,
                Z<EquF32>,
                Z<NeuF32>,
                Z<LtuF32>,
                Z<LeuF32>,
                Z<GtuF32>,
                Z<GeuF32>,
                Z<NumF32>,
                Z<NanF32>
            )
        }
        Ty::F16 => half!(false),
        Ty::Bf16 => half!(true),
        Ty::S16 => int!(Eq16, Ne16, LtS16, LeS16, GtS16, GeS16, LtU16, LeU16, GtU16, GeU16),
        Ty::S32 => int!(Eq32, Ne32, LtS32, LeS32, GtS32, GeS32, LtU32, LeU32, GtU32, GeU32),
        Ty::S64 => int!(Eq64, Ne64, LtS64, LeS64, GtS64, GeS64, LtU64, LeU64, GtU64, GeU64),
        Ty::U16 | Ty::B16 => int!(Eq16, Ne16, LtU16, LeU16, GtU16, GeU16, LtU16, LeU16, GtU16, GeU16),
        Ty::U32 | Ty::B32 => int!(Eq32, Ne32, LtU32, LeU32, GtU32, GeU32, LtU32, LeU32, GtU32, GeU32),
        _ => int!(Eq64, Ne64, LtU64, LeU64, GtU64, GeU64, LtU64, LeU64, GtU64, GeU64),
    })
}

/// The third source of `setp` and `set`: how it is combined, and the predicate.
fn combination<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R<(i64, Val)> {
    let how = if f.has("and") {
        1
    } else if f.has("or") {
        2
    } else if f.has("xor") {
        3
    } else {
        0
    };
    match f.ops.get(3) {
        Some(c) if how != 0 => {
            let (c, negated) = l.pred(c)?;
            Ok((how | i64::from(negated) << 3, c))
        }
        None if how == 0 => Ok((0, Val::Raw(0))),
        _ => l.unknown("the combination and its predicate do not go together"),
    }
}

pub(crate) fn setp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, q) = match &f.ops[0] {
        Operand::Pair(p, q) => (l.dst_pred(p)?, l.dst_pred(q)?),
        p => (l.dst_pred(p)?, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let (imm, c) = combination(l, f)?;
    let name = comparison(f);
    let run = compare(l, name, f.ty(), f.has("ftz"))?;
    let raw = l.push(run, [p, q, a, b], 2, imm);
    raw.aux = c;
    raw.pure_op = false;
    Ok(())
}

/// The comparison an opcode names.
fn comparison<'a>(f: &Form<'_, 'a>) -> &'a str {
    f.mods.iter().find(|m| !matches!(**m, "and" | "or" | "xor" | "ftz")).copied().unwrap_or("eq")
}

/// The halves of two packed operands: `[[low a, low b], [high a, high b]]`.
fn halves<'a>(l: &mut Lower<'a>, a: &Operand<'a>, b: &Operand<'a>, ty: Ty) -> R<[[Val; 2]; 2]> {
    let mut out = [[Val::None; 2]; 2];
    for (i, operand) in [a, b].into_iter().enumerate() {
        let v = l.src(operand, ty)?;
        let (low, high) = (Val::Reg(l.fresh(Where::W16)), Val::Reg(l.fresh(Where::W16)));
        l.push_list(handler::<Split<u32, u16, 2>>(), vec![low, high, v], 2, 0);
        (out[0][i], out[1][i]) = (low, high);
    }
    Ok(out)
}

pub(crate) fn setp_half2<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Pair(p, q) = &f.ops[0] else { return l.unknown("two destinations expected: p|q") };
    let targets = [l.dst_pred(p)?, l.dst_pred(q)?];
    let halves = halves(l, &f.ops[1], &f.ops[2], f.ty())?;
    let (imm, c) = combination(l, f)?;
    let ty = if f.ty() == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
    let run = compare(l, comparison(f), ty, f.has("ftz"))?;
    // The predicate combined with both must not be overwritten before its second use.
    let order = if c == targets[0] { [1, 0] } else { [0, 1] };
    for i in order {
        let raw = l.push(run, [targets[i], Val::Raw(0), halves[i][0], halves[i][1]], 2, imm);
        raw.aux = c;
        raw.pure_op = false;
    }
    Ok(())
}

/// What `set` writes where the comparison holds.
fn set_true(ty: Ty) -> u64 {
    match ty {
        Ty::F32 => u64::from(1f32.to_bits()),
        Ty::F16 | Ty::F16x2 => 0x3c00,
        Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
        _ => !0,
    }
}

pub(crate) fn set<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (to, ty) = (f.types[0], f.types[1]);
    let a = l.src(&f.ops[1], ty)?;
    let b = l.src(&f.ops[2], ty)?;
    let (imm, c) = combination(l, f)?;
    let d = l.dst(&f.ops[0], to)?;
    let run = compare(l, comparison(f), ty, f.has("ftz"))?;
    let p = Val::Pred(l.fresh_pred());
    let raw = l.push(run, [p, Val::Raw(0), a, b], 2, imm);
    raw.aux = c;
    raw.pure_op = false;
    let w = width(to);
    let (one, zero) = (l.imm(w, set_true(to)), l.imm(w, 0));
    match w {
        Where::W16 => l.op::<SelpOp<u16>>(d, &[one, zero, p], 0),
        _ => l.op::<SelpOp<u32>>(d, &[one, zero, p], 0),
    };
    Ok(())
}

/// `set` of packed halves: a result for each half.
pub(crate) fn set_half2<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let halves = halves(l, &f.ops[1], &f.ops[2], f.types[1])?;
    let (imm, c) = combination(l, f)?;
    let d = l.dst(&f.ops[0], f.types[0])?;
    let ty = if f.types[1] == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
    let run = compare(l, comparison(f), ty, f.has("ftz"))?;
    let (one, zero) = (l.imm(Where::W16, set_true(f.types[0])), l.imm(Where::W16, 0));
    let mut list = vec![d];
    for [a, b] in halves {
        let p = Val::Pred(l.fresh_pred());
        let raw = l.push(run, [p, Val::Raw(0), a, b], 2, imm);
        raw.aux = c;
        raw.pure_op = false;
        let half = Val::Reg(l.fresh(Where::W16));
        l.op::<SelpOp<u16>>(half, &[one, zero, p], 0);
        list.push(half);
    }
    l.push_list(handler::<Join<u32, u16, 2>>(), list, 1, 0).pure_op = true;
    Ok(())
}

pub(crate) fn selp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let (p, negated) = l.pred(&f.ops[3])?;
    let d = l.dst(&f.ops[0], f.ty())?;
    let imm = i64::from(negated);
    match width(f.ty()) {
        Where::W16 => l.op::<SelpOp<u16>>(d, &[a, b, p], imm),
        Where::W32 => l.op::<SelpOp<u32>>(d, &[a, b, p], imm),
        Where::W64 => l.op::<SelpOp<u64>>(d, &[a, b, p], imm),
    };
    Ok(())
}

pub(crate) fn slct<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = f.ty();
    let a = l.src(&f.ops[1], t)?;
    let b = l.src(&f.ops[2], t)?;
    let mut c = l.src(&f.ops[3], f.types[1])?;
    if f.has("ftz") {
        let flushed = Val::Reg(l.fresh(Where::W32));
        l.op::<UnOp<FlushF32>>(flushed, &[c], 0);
        c = flushed;
    }
    let d = l.dst(&f.ops[0], t)?;
    match (width(t), f.types[1] == Ty::S32) {
        (Where::W16, true) => l.op::<TriOp<Slct16>>(d, &[a, b, c], 0),
        (Where::W32, true) => l.op::<TriOp<Slct32>>(d, &[a, b, c], 0),
        (Where::W64, true) => l.op::<TriOp<Slct64>>(d, &[a, b, c], 0),
        (Where::W16, false) => l.op::<TriOp<SlctF16>>(d, &[a, b, c], 0),
        (Where::W32, false) => l.op::<TriOp<SlctF32>>(d, &[a, b, c], 0),
        (Where::W64, false) => l.op::<TriOp<SlctF64>>(d, &[a, b, c], 0),
    };
    Ok(())
}
