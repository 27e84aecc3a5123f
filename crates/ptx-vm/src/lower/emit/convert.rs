//! `cvt`: every pair of types, as a generic conversion through what the mathematics offers.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::mode;
use crate::ir::{Val, Where, handler, width};
use crate::parse::{Operand, Ty};
use crate::step::alu::*;
use crate::step::ops::*;

/// The handler of an operation on 8-bit formats, by format and `.relu`.
macro_rules! f8_handler {
    ($kind:ident, $name:ident, $ty:expr, $relu:expr) => {
        match ($ty, $relu) {
            (Ty::E4m3x2, false) => handler::<$kind<$name<false, false>>>(),
            (Ty::E4m3x2, true) => handler::<$kind<$name<false, true>>>(),
            (_, false) => handler::<$kind<$name<true, false>>>(),
            (_, true) => handler::<$kind<$name<true, true>>>(),
        }
    };
}

/// The integer rounding asked for, when one is.
fn integer_mode(f: &Form<'_, '_>) -> Option<u8> {
    ["rni", "rzi", "rmi", "rpi"].iter().position(|m| f.has(m)).map(|m| m as u8)
}

macro_rules! by_mode {
    ($mode:expr, $name:ident $(<$($g:tt),*>)?, $($rest:tt)*) => {
        match $mode {
            0 => by_mode!(@ $name 0 $(<$($g),*>)?, $($rest)*),
            1 => by_mode!(@ $name 1 $(<$($g),*>)?, $($rest)*),
            2 => by_mode!(@ $name 2 $(<$($g),*>)?, $($rest)*),
            _ => by_mode!(@ $name 3 $(<$($g),*>)?, $($rest)*),
        }
    };
    (@ $name:ident $m:literal <$($g:tt),*>, ) => { handler::<UnOp<$name<$($g,)* $m>>>() };
    (@ $name:ident $m:literal, ) => { handler::<UnOp<$name<$m>>>() };
    (@ $name:ident $m:literal <$($g:tt),*>, $($c:literal),+) => { handler::<UnOp<$name<$($g,)* $m, $($c),+>>>() };
    (@ $name:ident $m:literal, $($c:literal),+) => { handler::<UnOp<$name<$m, $($c),+>>>() };
}

macro_rules! by_int_type {
    ($ty:expr, $t:ident => $e:expr, $else:expr) => {
        match $ty {
            Ty::U16 => {
                type $t = u16;
                $e
            }
            Ty::S16 => {
                type $t = i16;
                $e
            }
            Ty::U32 => {
                type $t = u32;
                $e
            }
            Ty::S32 => {
                type $t = i32;
                $e
            }
            Ty::U64 => {
                type $t = u64;
                $e
            }
            Ty::S64 => {
                type $t = i64;
                $e
            }
            _ => $else,
        }
    };
}

pub(crate) fn cvt<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (to, from) = (f.types[0], f.types[1]);
    if f.ops.len() == 3 {
        return cvt_two(l, f, to, from);
    }
    let eight = |ty| matches!(ty, Ty::E4m3x2 | Ty::E5m2x2);
    if eight(from) && to == Ty::F16x2 || eight(to) && from == Ty::F16x2 {
        return cvt_eight(l, f, to, from);
    }
    if !is_scalar(to) || !is_scalar(from) || from == Ty::Tf32 {
        return l.unknown(format!("no conversion from .{} to .{}", from.name(), to.name()));
    }
    let a = natural_source(l, f, from)?;
    let (d, w) = l.wide_dst(&f.ops[0], to)?;
    let value = match (from.float(), to.float()) {
        (false, false) => integer_to_integer(l, f, a)?,
        (true, false) => float_to_integer(l, f, a)?,
        (false, true) => integer_to_float(l, f, a)?,
        (true, true) => cvt_float(l, f, a)?,
    };
    let value = finished(l, f, value)?;
    let value = l.convert(value, width(natural(to)), w, to.signed());
    into(l, d, value, w);
    Ok(())
}

/// A pair of 8-bit numbers to f16x2, or the reverse.
fn cvt_eight<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, to: Ty, from: Ty) -> R {
    let a = l.src(&f.ops[1], from)?;
    let d = l.dst(&f.ops[0], to)?;
    let run = match to {
        Ty::F16x2 => f8_handler!(UnOp, UnpackF8, from, f.has("relu")),
        _ => f8_handler!(UnOp, NarrowF8, to, f.has("relu")),
    };
    l.push(run, [d, a, Val::None, Val::None], 1, 0);
    Ok(())
}

/// Whether values of a type are converted one by one.
fn is_scalar(ty: Ty) -> bool {
    match ty {
        Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 => true,
        _ => matches!(ty, Ty::F16 | Ty::Bf16 | Ty::Tf32 | Ty::F32 | Ty::F64),
    }
}

/// The type in whose lanes a value is computed: 8-bit integers in 16 bits.
fn natural(ty: Ty) -> Ty {
    match ty {
        Ty::U8 => Ty::U16,
        Ty::S8 => Ty::S16,
        other => other,
    }
}

/// The source in its type's natural lanes, flushed where `.ftz` says so.
fn natural_source<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, from: Ty) -> R<Val> {
    let (v, w) = source(l, f, from)?;
    if matches!(from, Ty::U8 | Ty::S8) {
        let raw = l.convert(v, w, Where::W16, false);
        return Ok(cut8(l, raw, from));
    }
    let a = l.convert(v, w, width(from), from.signed());
    if f.has("ftz") && from == Ty::F32 {
        let flushed = Val::Reg(l.fresh(Where::W32));
        l.op::<UnOp<FlushF32>>(flushed, &[a], 0);
        return Ok(flushed);
    }
    Ok(a)
}

fn integer_to_integer<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, a: Val) -> R<Val> {
    let (to, from) = (f.types[0], natural(f.types[1]));
    let wide_to = natural(to);
    if !f.has("sat") {
        let v = l.convert(a, width(from), width(wide_to), from.signed());
        return Ok(if to != wide_to { cut8(l, v, to) } else { v });
    }
    let clamped = Val::Reg(l.fresh(width(wide_to)));
    let a = l.convert(a, width(from), Where::W64, from.signed());
    let run = match (from.signed(), to) {
        (false, Ty::U8) => handler::<UnOp<ClampTo8<u64, false>>>(),
        (false, Ty::S8) => handler::<UnOp<ClampTo8<u64, true>>>(),
        (true, Ty::U8) => handler::<UnOp<ClampTo8<i64, false>>>(),
        (true, Ty::S8) => handler::<UnOp<ClampTo8<i64, true>>>(),
        (false, _) => {
            by_int_type!(wide_to, D => handler::<UnOp<Clamp<u64, D>>>(), return l.unknown("bad destination"))
        }
        (true, _) => {
            by_int_type!(wide_to, D => handler::<UnOp<Clamp<i64, D>>>(), return l.unknown("bad destination"))
        }
    };
    l.push(run, [clamped, a, Val::None, Val::None], 1, 0);
    Ok(clamped)
}

fn float_to_integer<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, a: Val) -> R<Val> {
    let (to, from) = (f.types[0], f.types[1]);
    let Some(im) = integer_mode(f) else { return l.unknown("rounding to an integer is missing") };
    let t = Val::Reg(l.fresh(width(natural(to))));
    let source = match from {
        Ty::F16 | Ty::Bf16 => {
            let x = Val::Reg(l.fresh(Where::W32));
            if from == Ty::F16 {
                l.op::<UnOp<F16ToF32>>(x, &[a], 0)
            } else {
                l.op::<UnOp<Bf16ToF32>>(x, &[a], 0)
            };
            x
        }
        _ => a,
    };
    let run = match (to, from == Ty::F64) {
        (Ty::U8, false) => by_mode!(im, F32To8, false),
        (Ty::S8, false) => by_mode!(im, F32To8, true),
        (Ty::U8, true) => by_mode!(im, F64To8, false),
        (Ty::S8, true) => by_mode!(im, F64To8, true),
        (_, true) => by_int_type!(to, D => by_mode!(im, F64ToInt<D>,), return l.unknown("bad destination")),
        (_, false) => by_int_type!(to, D => by_mode!(im, F32ToInt<D>,), return l.unknown("bad destination")),
    };
    l.push(run, [t, source, Val::None, Val::None], 1, 0);
    Ok(t)
}

fn integer_to_float<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, a: Val) -> R<Val> {
    let (to, given) = (f.types[0], natural(f.types[1]));
    // Narrow integers are widened first: fewer conversions to compile, the same value.
    let from = match (given, to) {
        (Ty::U16, Ty::F32) => Ty::U32,
        (Ty::S16, Ty::F32) => Ty::S32,
        (other, Ty::F32) => other,
        (other, _) if other.signed() => Ty::S64,
        _ => Ty::U64,
    };
    let a = l.convert(a, width(given), width(from), from.signed());
    let t = Val::Reg(l.fresh(width(to)));
    let m = mode(f);
    let run = match to {
        Ty::F32 => match from {
            Ty::U32 => by_mode!(m, IntToF32<u32>,),
            Ty::S32 => by_mode!(m, IntToF32<i32>,),
            Ty::U64 => by_mode!(m, IntToF32<u64>,),
            _ => by_mode!(m, IntToF32<i64>,),
        },
        Ty::F64 if from.signed() => by_mode!(m, IntToF64<i64>,),
        Ty::F64 => by_mode!(m, IntToF64<u64>,),
        Ty::F16 if from.signed() => by_mode!(m, IntToHalf<i64>, false),
        Ty::F16 => by_mode!(m, IntToHalf<u64>, false),
        Ty::Bf16 if from.signed() => by_mode!(m, IntToHalf<i64>, true),
        Ty::Bf16 => by_mode!(m, IntToHalf<u64>, true),
        _ => return l.unknown("no such conversion"),
    };
    l.push(run, [t, a, Val::None, Val::None], 1, 0);
    Ok(t)
}

/// A floating-point result saturated and flushed as the modifiers say.
fn finished<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, value: Val) -> R<Val> {
    let to = f.types[0];
    let mut value = value;
    if f.has("sat") && to.float() {
        let t = Val::Reg(l.fresh(width(to)));
        match to {
            Ty::F32 => l.op::<UnOp<SatF32>>(t, &[value], 0),
            Ty::F64 => l.op::<UnOp<SatF64>>(t, &[value], 0),
            Ty::F16 => l.op::<UnOp<SatHalf>>(t, &[value], 0),
            _ => return l.unknown("`.sat` is not supported for this type"),
        };
        value = t;
    }
    if f.has("ftz") && to == Ty::F32 {
        let t = Val::Reg(l.fresh(Where::W32));
        l.op::<UnOp<FlushF32>>(t, &[value], 0);
        value = t;
    }
    Ok(value)
}

/// The source in its own width: a wider register gives its low bits.
fn source<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, from: Ty) -> R<(Val, Where)> {
    match &f.ops[1] {
        Operand::Name(name) if l.reg_type(&f.ops[1]).is_none() && name.starts_with('%') && *name != "_" => {
            l.any(&f.ops[1], from)
        }
        operand => l.wide_src(operand, from),
    }
}

/// Puts a value into a destination: the instruction that made it writes there, if it is the last one.
fn into(l: &mut Lower<'_>, d: Val, value: Val, w: Where) {
    let last_temp = l.raw.last().is_some_and(|raw| {
        raw.r[0] == value
            && matches!(value, Val::Reg(id) if raw.defs == [id])
            && raw.list.is_empty()
            && !raw.copy
            && raw.meta.line == l.line
            && raw.pure_op
    });
    let own = matches!(value, Val::Reg(id) if id as usize >= l.regs.len().saturating_sub(1));
    if last_temp && own {
        if let (Some(raw), Val::Reg(id)) = (l.raw.last_mut(), d) {
            raw.r[0] = d;
            raw.defs = vec![id];
        }
    } else {
        l.copy(d, value, w);
    }
}

fn cut8(l: &mut Lower<'_>, v: Val, to: Ty) -> Val {
    let t = Val::Reg(l.fresh(Where::W16));
    if to == Ty::S8 {
        l.op::<UnOp<Sext8To16>>(t, &[v], 0)
    } else {
        l.op::<UnOp<Zext8To16>>(t, &[v], 0)
    };
    t
}

/// Between floating-point types: long because it is a table of the pairs.
fn cvt_float<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, a: Val) -> R<Val> {
    let (to, from) = (f.types[0], f.types[1]);
    let (m, im) = (mode(f), integer_mode(f));
    let t = Val::Reg(l.fresh(width(to)));
    let satfinite = f.has("satfinite");
    let run = match (to, from) {
        (Ty::F32, Ty::F32) => match im {
            Some(im) => by_mode!(im, IntegralF32,),
            None => return Ok(a),
        },
        (Ty::F64, Ty::F64) => match im {
            Some(im) => by_mode!(im, IntegralF64,),
            None => return Ok(a),
        },
        (Ty::F16, Ty::F16) => match im {
            Some(im) => by_mode!(im, IntegralHalf, false),
            None => return Ok(a),
        },
        (Ty::Bf16, Ty::Bf16) => match im {
            Some(im) => by_mode!(im, IntegralHalf, true),
            None => return Ok(a),
        },
        (Ty::F32, Ty::F16) => handler::<UnOp<F16ToF32>>(),
        (Ty::F32, Ty::Bf16) => handler::<UnOp<Bf16ToF32>>(),
        (Ty::F64, Ty::F16) => handler::<UnOp<F16ToF64>>(),
        (Ty::F64, Ty::Bf16) => handler::<UnOp<Bf16ToF64>>(),
        (Ty::F64, Ty::F32) => handler::<UnOp<F32ToF64>>(),
        (Ty::F32, Ty::F64) => by_mode!(m, F64ToF32,),
        (Ty::F16, Ty::F32) if satfinite => by_mode!(m, F32ToHalf, false, true),
        (Ty::Bf16, Ty::F32) if satfinite => by_mode!(m, F32ToHalf, true, true),
        (Ty::F16, Ty::F32) => by_mode!(m, F32ToHalf, false, false),
        (Ty::Bf16, Ty::F32) => by_mode!(m, F32ToHalf, true, false),
        (Ty::F16, Ty::F64) => by_mode!(m, F64ToHalf, false),
        (Ty::Bf16, Ty::F64) => by_mode!(m, F64ToHalf, true),
        (Ty::F16, Ty::Bf16) | (Ty::Bf16, Ty::F16) => {
            let x = Val::Reg(l.fresh(Where::W32));
            if from == Ty::F16 {
                l.op::<UnOp<F16ToF32>>(x, &[a], 0)
            } else {
                l.op::<UnOp<Bf16ToF32>>(x, &[a], 0)
            };
            let run =
                if to == Ty::F16 { by_mode!(m, F32ToHalf, false, false) } else { by_mode!(m, F32ToHalf, true, false) };
            l.push(run, [t, x, Val::None, Val::None], 1, 0);
            return Ok(t);
        }
        (Ty::Tf32, Ty::F32) => {
            macro_rules! pick {
                ($($m:literal $r:literal $s:literal,)*) => {
                    match (if f.has("rna") { 2 } else { m }, f.has("relu"), satfinite) {
                        $(($m, $r, $s) => handler::<UnOp<Tf32<$m, $r, $s>>>(),)*
                        _ => return l.unknown("this rounding is not supported"),
                    }
                };
            }
            pick!(
                0 false false, 0 false true, 0 true false, 0 true true,
                1 false false, 1 false true, 1 true false, 1 true true,
                2 false false, 2 false true, 2 true false, 2 true true,
            )
        }
        _ => return l.unknown(format!("no conversion from .{} to .{}", from.name(), to.name())),
    };
    l.push(run, [t, a, Val::None, Val::None], 1, 0);
    if f.has("relu") && to != Ty::Tf32 {
        let r = Val::Reg(l.fresh(Where::W16));
        match to {
            Ty::F16 => l.op::<UnOp<ReluHalfF16>>(r, &[t], 0),
            Ty::Bf16 => l.op::<UnOp<ReluHalfBf16>>(r, &[t], 0),
            _ => return l.unknown("`.relu` is not supported for this type"),
        };
        return Ok(r);
    }
    Ok(t)
}

fn cvt_two<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, to: Ty, from: Ty) -> R {
    if from != Ty::F32 {
        return l.unknown("two sources must be f32");
    }
    let a = l.src(&f.ops[1], Ty::F32)?;
    let b = l.src(&f.ops[2], Ty::F32)?;
    if matches!(to, Ty::E4m3x2 | Ty::E5m2x2) {
        let d = l.dst(&f.ops[0], Ty::B16)?;
        l.push(f8_handler!(BinOp, PackF8, to, f.has("relu")), [d, a, b, Val::None], 1, 0);
        return Ok(());
    }
    let d = l.dst(&f.ops[0], Ty::B32)?;
    let bf16 = match to {
        Ty::Bf16x2 => true,
        Ty::F16x2 => false,
        _ => return l.unknown("two sources make f16x2 or bf16x2"),
    };
    macro_rules! pick {
        ($($m:literal $b:literal $r:literal $s:literal,)*) => {
            match (if mode(f) == 1 { 1 } else { 0 }, bf16, f.has("relu"), f.has("satfinite")) {
                $(($m, $b, $r, $s) => handler::<BinOp<PackHalf<$m, $b, $r, $s>>>(),)*
                _ => return l.unknown("this rounding is not supported"),
            }
        };
    }
    let run = pick!(
        0 false false false, 0 false false true, 0 false true false, 0 false true true,
        0 true false false, 0 true false true, 0 true true false, 0 true true true,
        1 false false false, 1 false false true, 1 false true false, 1 false true true,
        1 true false false, 1 true false true, 1 true true false, 1 true true true,
    );
    l.push(run, [d, a, b, Val::None], 1, 0);
    Ok(())
}

pub(crate) fn cvt_pack<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let [a, b] = [&f.ops[1], &f.ops[2]].map(|operand| l.wide_src(operand, Ty::S32));
    let [a, b] = [a?, b?].map(|(value, w)| l.convert(value, w, Where::W32, true));
    let d = l.dst(&f.ops[0], Ty::B32)?;
    let zero = l.imm(Where::W32, 0);
    let c = match f.ops.get(3) {
        Some(c) => {
            let (c, w) = l.wide_src(c, Ty::B32)?;
            l.convert(c, w, Where::W32, false)
        }
        None => zero,
    };
    let small = ["u4", "s4", "u2", "s2"].into_iter().find(|m| f.has(m));
    match (small, f.types[0]) {
        (Some("u4"), _) => l.op::<TriOp<PackBits<4, false>>>(d, &[a, b, c], 0),
        (Some("s4"), _) => l.op::<TriOp<PackBits<4, true>>>(d, &[a, b, c], 0),
        (Some("u2"), _) => l.op::<TriOp<PackBits<2, false>>>(d, &[a, b, c], 0),
        (Some(_), _) => l.op::<TriOp<PackBits<2, true>>>(d, &[a, b, c], 0),
        (_, Ty::U16) => l.op::<TriOp<Pack16<false>>>(d, &[a, b, c], 0),
        (_, Ty::S16) => l.op::<TriOp<Pack16<true>>>(d, &[a, b, c], 0),
        (_, Ty::U8) => l.op::<TriOp<PackBits<8, false>>>(d, &[a, b, c], 0),
        _ => l.op::<TriOp<PackBits<8, true>>>(d, &[a, b, c], 0),
    };
    Ok(())
}
