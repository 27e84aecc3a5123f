//! The instruction set: one table of names, modifiers, types and operands, from which decoding and the coverage list follow.
//!
//! A row accepts an instruction when every modifier is in one of its groups (at most one of each; `!` marks groups that must be
//! present), the types match column by column, and the number of operands is right. Its function emits the code.

use super::lower::{Access, AccessKind, Class, Form, Lower, R, Val, width};
use super::module::Where;
use crate::exec::alu::*;
use crate::exec::op::{Handler, handler};
use crate::exec::ops::*;
use crate::exec::{control, mem};
use crate::math;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::parse::{Inst, Operand, Space, Ty};
use std::collections::HashMap;
use std::sync::OnceLock;

type Emit = for<'f, 'a> fn(&mut Lower<'a>, &Form<'f, 'a>) -> R;

/// One row of the instruction table.
struct Row {
    name: &'static str,
    mods: &'static str,
    types: &'static str,
    /// Number of operands, least and most.
    operands: (usize, usize),
    class: Class,
    emit: Emit,
}

/// An entry of the coverage list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Coverage {
    /// Instruction.
    pub name: &'static str,
    /// Modifier groups; `!` marks those that must be present.
    pub modifiers: &'static str,
    /// Types, one column for each type of the opcode.
    pub types: &'static str,
}

/// Everything the decoder accepts, from the table it decodes by.
pub fn coverage() -> Vec<Coverage> {
    TABLE.iter().map(|r| Coverage { name: r.name, modifiers: r.mods, types: r.types }).collect()
}

const INT: &str = "u16|u32|u64|s16|s32|s64";
const BITS: &str = "b16|b32|b64";
const ROUND: &str = "rn|rz|rm|rp";

macro_rules! rows {
    ($($class:ident { $($name:literal $mods:expr, $types:expr, $least:literal..$most:literal => $emit:expr;)* })*) => {
        &[$($(Row { name: $name, mods: $mods, types: $types, operands: ($least, $most), class: Class::$class, emit: $emit },)*)*]
    };
}

static TABLE: &[Row] = rows! {
    Integer {
        "add" "sat", INT, 3..3 => add_int;
        "add" "", "u16x2|s16x2", 3..3 => |l, f| l.bin::<Add16x2>(f);
        "sub" "sat", INT, 3..3 => sub_int;
        "mul" "lo|hi|wide!", INT, 3..3 => mul_int;
        "mad" "lo|hi|wide! sat", INT, 4..4 => mad_int;
        "mul24" "lo|hi!", "u32|s32", 3..3 => mul24;
        "mad24" "lo|hi! sat", "u32|s32", 4..4 => mad24;
        "sad" "", INT, 4..4 => sad;
        "div" "", INT, 3..3 => div_int;
        "rem" "", INT, 3..3 => rem_int;
        "abs" "", "s16|s32|s64", 2..2 => |l, f| match f.ty() {
            Ty::S16 => l.un::<Abs16>(f),
            Ty::S32 => l.un::<Abs32>(f),
            _ => l.un::<Abs64>(f),
        };
        "neg" "", "s16|s32|s64", 2..2 => |l, f| match f.ty() {
            Ty::S16 => l.un::<Neg16>(f),
            Ty::S32 => l.un::<Neg32>(f),
            _ => l.un::<Neg64>(f),
        };
        "min" "", "u16|u32|u64|s16|s32|s64|u16x2|s16x2", 3..3 => min_int;
        "max" "", "u16|u32|u64|s16|s32|s64|u16x2|s16x2", 3..3 => max_int;
        "popc" "", "b32|b64", 2..2 => |l, f| if f.ty() == Ty::B32 { l.un_to::<Popc32>(f, Ty::U32) } else { l.un_to::<Popc64>(f, Ty::U32) };
        "clz" "", "b32|b64", 2..2 => |l, f| if f.ty() == Ty::B32 { l.un_to::<Clz32>(f, Ty::U32) } else { l.un_to::<Clz64>(f, Ty::U32) };
        "brev" "", "b32|b64", 2..2 => |l, f| if f.ty() == Ty::B32 { l.un::<Brev32>(f) } else { l.un::<Brev64>(f) };
        "bfind" "shiftamt", "u32|s32|u64|s64", 2..2 => bfind;
        "fns" "", "b32", 4..4 => |l, f| l.tri_of::<Fns>(f, Ty::U32, [Ty::U32; 3]);
        "bfe" "", "u32|u64|s32|s64", 4..4 => bfe;
        "bfi" "", "b32|b64", 5..5 => bfi;
        "bmsk" "clamp|wrap!", "b32", 3..3 => |l, f| if f.has("wrap") { l.bin::<BmskWrap>(f) } else { l.bin::<Bmsk>(f) };
        "szext" "clamp|wrap!", "u32|s32", 3..3 => |l, f| match (f.ty(), f.has("wrap")) {
            (Ty::U32, false) => l.bin_of::<SzextU>(f, Ty::U32, Ty::U32, Ty::U32),
            (Ty::U32, true) => l.bin_of::<SzextUWrap>(f, Ty::U32, Ty::U32, Ty::U32),
            (_, false) => l.bin_of::<SzextS>(f, Ty::U32, Ty::U32, Ty::U32),
            _ => l.bin_of::<SzextSWrap>(f, Ty::U32, Ty::U32, Ty::U32),
        };
        "dp4a" "", "u32|s32,u32|s32", 4..4 => dp4a;
        "dp2a" "lo|hi!", "u32|s32,u32|s32", 4..4 => dp2a;
        "add" "cc!", "u32|s32|u64|s64", 3..3 => carry_add;
        "addc" "cc", "u32|s32|u64|s64", 3..3 => carry_addc;
        "sub" "cc!", "u32|s32|u64|s64", 3..3 => carry_sub;
        "subc" "cc", "u32|s32|u64|s64", 3..3 => carry_subc;
        "mad" "lo|hi! cc!", "u32|s32|u64|s64", 4..4 => carry_mad;
        "madc" "lo|hi! cc", "u32|s32|u64|s64", 4..4 => carry_mad;
    }
    Logic {
        "and" "", "b16|b32|b64|pred", 3..3 => |l, f| match f.ty() {
            Ty::Pred => l.logic(f, 1),
            Ty::B16 => l.bin::<And16>(f),
            Ty::B32 => l.bin::<And32>(f),
            _ => l.bin::<And64>(f),
        };
        "or" "", "b16|b32|b64|pred", 3..3 => |l, f| match f.ty() {
            Ty::Pred => l.logic(f, 2),
            Ty::B16 => l.bin::<Or16>(f),
            Ty::B32 => l.bin::<Or32>(f),
            _ => l.bin::<Or64>(f),
        };
        "xor" "", "b16|b32|b64|pred", 3..3 => |l, f| match f.ty() {
            Ty::Pred => l.logic(f, 3),
            Ty::B16 => l.bin::<Xor16>(f),
            Ty::B32 => l.bin::<Xor32>(f),
            _ => l.bin::<Xor64>(f),
        };
        "not" "", "b16|b32|b64|pred", 2..2 => |l, f| match f.ty() {
            Ty::Pred => l.logic(f, 4),
            Ty::B16 => l.un::<Not16>(f),
            Ty::B32 => l.un::<Not32>(f),
            _ => l.un::<Not64>(f),
        };
        "cnot" "", BITS, 2..2 => |l, f| match f.ty() {
            Ty::B16 => l.un::<Cnot16>(f),
            Ty::B32 => l.un::<Cnot32>(f),
            _ => l.un::<Cnot64>(f),
        };
        "lop3" "", "b32", 5..5 => lop3_op;
        "shl" "", BITS, 3..3 => |l, f| match f.ty() {
            Ty::B16 => l.bin_of::<Shl16>(f, Ty::B16, Ty::B16, Ty::U32),
            Ty::B32 => l.bin_of::<Shl32>(f, Ty::B32, Ty::B32, Ty::U32),
            _ => l.bin_of::<Shl64>(f, Ty::B64, Ty::B64, Ty::U32),
        };
        "shr" "", "b16|b32|b64|u16|u32|u64|s16|s32|s64", 3..3 => shr;
        "shf" "l|r! clamp|wrap!", "b32", 4..4 => |l, f| match (f.has("l"), f.has("wrap")) {
            (true, true) => l.tri::<ShfLWrap>(f),
            (true, false) => l.tri::<ShfLClamp>(f),
            (false, true) => l.tri::<ShfRWrap>(f),
            (false, false) => l.tri::<ShfRClamp>(f),
        };
        "prmt" "f4e|b4e|rc8|ecl|ecr|rc16", "b32", 4..4 => |l, f| match f.mods.first().copied() {
            None => l.tri::<Prmt>(f),
            Some("f4e") => l.tri::<PrmtF4e>(f),
            Some("b4e") => l.tri::<PrmtB4e>(f),
            Some("rc8") => l.tri::<PrmtRc8>(f),
            Some("ecl") => l.tri::<PrmtEcl>(f),
            Some("ecr") => l.tri::<PrmtEcr>(f),
            Some(_) => l.tri::<PrmtRc16>(f),
        };
    }
    Float {
        "add" "rn|rz|rm|rp ftz sat", "f32", 3..3 => |l, f| l.f32_bin_rounded(f, [handler_pair::<AddF32<0>>(), handler_pair::<AddF32<1>>(), handler_pair::<AddF32<2>>(), handler_pair::<AddF32<3>>()]);
        "sub" "rn|rz|rm|rp ftz sat", "f32", 3..3 => |l, f| l.f32_bin_rounded(f, [handler_pair::<SubF32<0>>(), handler_pair::<SubF32<1>>(), handler_pair::<SubF32<2>>(), handler_pair::<SubF32<3>>()]);
        "mul" "rn|rz|rm|rp ftz sat", "f32", 3..3 => |l, f| l.f32_bin_rounded(f, [handler_pair::<MulF32<0>>(), handler_pair::<MulF32<1>>(), handler_pair::<MulF32<2>>(), handler_pair::<MulF32<3>>()]);
        "div" "rn|rz|rm|rp! ftz", "f32", 3..3 => |l, f| l.f32_bin_rounded(f, [handler_pair::<DivF32<0>>(), handler_pair::<DivF32<1>>(), handler_pair::<DivF32<2>>(), handler_pair::<DivF32<3>>()]);
        "div" "full! ftz", "f32", 3..3 => |l, f| l.f32_bin::<DivFullF32>(f);
        "div" "approx! ftz", "f32", 3..3 => |l, f| l.f32_bin::<DivApproxF32>(f);
        "fma" "rn|rz|rm|rp! ftz sat", "f32", 4..4 => fma_f32;
        "mad" "rn|rz|rm|rp! ftz sat", "f32", 4..4 => fma_f32;
        "abs" "ftz", "f32", 2..2 => |l, f| l.f32_un::<AbsF32>(f);
        "neg" "ftz", "f32", 2..2 => |l, f| l.f32_un::<NegF32>(f);
        "min" "ftz NaN xorsign abs", "f32", 3..3 => |l, f| match (f.has("NaN"), f.has("xorsign")) {
            (false, false) => l.f32_bin::<MinF32>(f),
            (true, false) => l.f32_bin::<MinNanF32>(f),
            (false, true) => l.f32_bin::<MinXorF32>(f),
            (true, true) => l.f32_bin::<MinXorNanF32>(f),
        };
        "max" "ftz NaN xorsign abs", "f32", 3..3 => |l, f| match (f.has("NaN"), f.has("xorsign")) {
            (false, false) => l.f32_bin::<MaxF32>(f),
            (true, false) => l.f32_bin::<MaxNanF32>(f),
            (false, true) => l.f32_bin::<MaxXorF32>(f),
            (true, true) => l.f32_bin::<MaxXorNanF32>(f),
        };
        "copysign" "", "f32|f64", 3..3 => |l, f| if f.ty() == Ty::F32 { l.bin::<CopysignF32>(f) } else { l.bin::<CopysignF64>(f) };
        "testp" "finite|infinite|number|notanumber|normal|subnormal!", "f32|f64", 2..2 => testp;
    }
    Double {
        "add" ROUND, "f64", 3..3 => |l, f| by_round!(l, f, bin, AddF64);
        "sub" ROUND, "f64", 3..3 => |l, f| by_round!(l, f, bin, SubF64);
        "mul" ROUND, "f64", 3..3 => |l, f| by_round!(l, f, bin, MulF64);
        "div" "rn|rz|rm|rp!", "f64", 3..3 => |l, f| by_round!(l, f, bin, DivF64);
        "fma" "rn|rz|rm|rp!", "f64", 4..4 => |l, f| by_round!(l, f, tri, FmaF64);
        "mad" "rn|rz|rm|rp!", "f64", 4..4 => |l, f| by_round!(l, f, tri, FmaF64);
        "abs" "", "f64", 2..2 => |l, f| l.un::<AbsF64>(f);
        "neg" "", "f64", 2..2 => |l, f| l.un::<NegF64>(f);
        "min" "", "f64", 3..3 => |l, f| l.bin::<MinF64>(f);
        "max" "", "f64", 3..3 => |l, f| l.bin::<MaxF64>(f);
        "sqrt" "rn|rz|rm|rp!", "f64", 2..2 => |l, f| by_round!(l, f, un, SqrtF64);
        "rcp" "rn|rz|rm|rp!", "f64", 2..2 => |l, f| by_round!(l, f, un, RcpF64);
        "rcp" "approx! ftz!", "f64", 2..2 => |l, f| l.un::<RcpApproxF64>(f);
        "rsqrt" "approx!", "f64", 2..2 => |l, f| l.un::<RsqrtF64>(f);
        "rsqrt" "approx! ftz!", "f64", 2..2 => |l, f| l.un::<RsqrtFtzF64>(f);
    }
    Half {
        "add" "rn ftz sat", "f16|f16x2|bf16|bf16x2", 3..3 => |l, f| l.half_bin::<AddF32<0>>(f);
        "sub" "rn ftz sat", "f16|f16x2|bf16|bf16x2", 3..3 => |l, f| l.half_bin::<SubF32<0>>(f);
        "mul" "rn ftz sat", "f16|f16x2|bf16|bf16x2", 3..3 => |l, f| l.half_bin::<MulF32<0>>(f);
        "fma" "rn! ftz sat relu", "f16|f16x2|bf16|bf16x2", 4..4 => fma_half;
        "min" "ftz NaN xorsign abs", "f16|f16x2|bf16|bf16x2", 3..3 => |l, f| match (f.has("NaN"), f.has("xorsign")) {
            (false, false) => l.half_bin::<MinF32>(f),
            (true, false) => l.half_bin::<MinNanF32>(f),
            (false, true) => l.half_bin::<MinXorF32>(f),
            (true, true) => l.half_bin::<MinXorNanF32>(f),
        };
        "max" "ftz NaN xorsign abs", "f16|f16x2|bf16|bf16x2", 3..3 => |l, f| match (f.has("NaN"), f.has("xorsign")) {
            (false, false) => l.half_bin::<MaxF32>(f),
            (true, false) => l.half_bin::<MaxNanF32>(f),
            (false, true) => l.half_bin::<MaxXorF32>(f),
            (true, true) => l.half_bin::<MaxXorNanF32>(f),
        };
        "abs" "ftz", "f16|f16x2|bf16|bf16x2", 2..2 => |l, f| match (f.ty().bytes() == 2, f.has("ftz")) {
            (true, false) => l.un::<AbsHalf>(f),
            (false, false) => l.un::<AbsHalf2>(f),
            (true, true) => l.un::<FtzHalf<AbsHalf>>(f),
            (false, true) => l.un::<FtzHalf2<AbsHalf2>>(f),
        };
        "neg" "ftz", "f16|f16x2|bf16|bf16x2", 2..2 => |l, f| match (f.ty().bytes() == 2, f.has("ftz")) {
            (true, false) => l.un::<NegHalf>(f),
            (false, false) => l.un::<NegHalf2>(f),
            (true, true) => l.un::<FtzHalf<NegHalf>>(f),
            (false, true) => l.un::<FtzHalf2<NegHalf2>>(f),
        };
        // Subnormals of bf16 are those of f32; f16 has no `.ftz` here.
        "ex2" "approx! ftz", "f16|f16x2|bf16|bf16x2", 2..2 => |l, f| match f.has("ftz") {
            true if matches!(f.ty(), Ty::F16 | Ty::F16x2) => l.error("`.ftz` is for bf16 only"),
            true => l.half_un::<Ftz<Ex2F32>>(f),
            false => l.half_un::<Ex2F32>(f),
        };
        "tanh" "approx!", "f16|f16x2|bf16|bf16x2", 2..2 => |l, f| l.half_un::<TanhF32>(f);
    }
    Special {
        "sqrt" "rn|rz|rm|rp! ftz", "f32", 2..2 => |l, f| match mode(f) {
            0 => l.f32_un::<SqrtF32<0>>(f),
            1 => l.f32_un::<SqrtF32<1>>(f),
            2 => l.f32_un::<SqrtF32<2>>(f),
            _ => l.f32_un::<SqrtF32<3>>(f),
        };
        "sqrt" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<SqrtApproxF32>(f);
        "rcp" "rn|rz|rm|rp! ftz", "f32", 2..2 => |l, f| match mode(f) {
            0 => l.f32_un::<RcpF32<0>>(f),
            1 => l.f32_un::<RcpF32<1>>(f),
            2 => l.f32_un::<RcpF32<2>>(f),
            _ => l.f32_un::<RcpF32<3>>(f),
        };
        "rcp" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<RcpApproxF32>(f);
        "rsqrt" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<RsqrtF32>(f);
        "ex2" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<Ex2F32>(f);
        "lg2" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<Lg2F32>(f);
        "sin" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<SinF32>(f);
        "cos" "approx! ftz", "f32", 2..2 => |l, f| l.f32_un::<CosF32>(f);
        "tanh" "approx!", "f32", 2..2 => |l, f| l.f32_un::<TanhF32>(f);
    }
    Compare {
        "setp" "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16", 3..4 => setp;
        "setp" "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "f16x2|bf16x2", 3..4 => setp_half2;
        "set" "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "u32|s32|f32,b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16", 3..4 => set;
        "selp" "", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 4..4 => selp;
        "slct" "ftz", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64,s32|f32", 4..4 => slct;
    }
    Move {
        "mov" "", "pred|b16|b32|b64|b128|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 2..2 => mov;
        "cvta" "to global|shared|local|const|param|shared::cta!", "u32|u64", 2..2 => cvta;
        "isspacep" "global|shared|local|const|param|shared::cta!", "", 2..2 => isspacep;
    }
    Convert {
        "cvt" "rn|rz|rm|rp|rna|rni|rzi|rmi|rpi ftz sat relu satfinite", "*,*", 2..3 => cvt;
        "cvt" "pack! sat!", "u16|s16|u8|s8,s32", 3..4 => cvt_pack;
        "cvt" "pack! sat!", "u16|s16|u8|s8,s32,b32", 4..4 => cvt_pack;
    }
    Control {
        "bra" "uni", "", 1..1 => |l, f| l.branch(&f.ops[0]);
        "brx" "idx! uni", "", 2..2 => |l, f| l.branch_indexed(&f.ops[0], &f.ops[1]);
        "call" "uni", "", 1..4 => |l, f| l.call(f.ops);
        "ret" "uni", "", 0..0 => |l, _| { l.ret(); Ok(()) };
        "exit" "", "", 0..0 => |l, _| { l.flow(super::lower::Flow::Exit); Ok(()) };
        "trap" "", "", 0..0 => trap;
        "brkpt" "", "", 0..0 => nop;
        "pmevent" "mask", "", 1..1 => nop;
        "nanosleep" "", "u32", 1..1 => |l, _| l.effect(handler::<control::Yield>(), [Val::None; 4], 0);
    }
    Barrier {
        "bar" "sync|arrive! cta", "", 1..2 => bar;
        "bar" "warp! sync!", "", 1..1 => |l, _| l.group(AccessKind::WarpSync);
        "bar" "cta red! popc!", "u32", 3..4 => bar_red;
        "bar" "cta red! and|or!", "pred", 3..4 => bar_red;
        "barrier" "cta sync|arrive! aligned", "", 1..2 => bar;
        "barrier" "cta red! popc! aligned", "u32", 3..4 => bar_red;
        "barrier" "cta red! and|or! aligned", "pred", 3..4 => bar_red;
        "membar" "cta|gl|sys!", "", 0..0 => nop;
        "fence" "sc|acq_rel|acquire|release cta|gpu|sys|cluster!", "", 0..0 => nop;
        "fence" "proxy! async|async.global|alias|async::generic global|shared::cta|shared", "", 0..0 => nop;
        "griddepcontrol" "launch_dependents|wait!", "", 0..0 => nop;
    }
    Warp {
        "shfl" "sync up|down|bfly|idx!", "b32", 4..5 => shfl;
        "vote" "sync all|any|uni!", "pred", 2..3 => vote;
        "vote" "sync ballot!", "b32", 2..3 => vote;
        "activemask" "", "b32", 1..1 => |l, f| { let d = l.dst(&f.ops[0], Ty::B32)?; l.op::<control::ActiveMask>(d, &[], 0); l.impure(); Ok(()) };
        "elect" "sync!", "", 2..2 => elect;
        "match" "any|all! sync!", "b32|b64", 3..3 => match_op;
        "redux" "sync! add|min|max|and|or|xor!", "u32|s32|b32", 3..3 => redux;
    }
    Load {
        "ld" "const|global|local|shared|shared::cta|param|param::entry|param::func|const weak|relaxed|acquire|volatile|mmio cta|cluster|gpu|sys nc v2|v4|v8 ca|cg|cs|cv|lu L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::cache_hint L2::64B|L2::128B|L2::256B L2::evict_normal|L2::evict_first|L2::evict_last", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 2..3 => ld;
        "ldu" "global v2|v4", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64", 2..2 => ld;
        "prefetch" "global|local L1|L2|L2::evict_last|L2::evict_normal", "", 1..1 => nop;
        "prefetchu" "L1!", "", 1..1 => nop;
        "applypriority" "global L2::evict_normal!", "", 2..2 => nop;
        "discard" "global L2!", "", 2..2 => nop;
        "createpolicy" "fractional! L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged", "b64", 1..2 => policy;
    }
    Store {
        "st" "global|local|shared|shared::cta|param|param::func weak|relaxed|release|volatile|mmio cta|cluster|gpu|sys v2|v4|v8 wb|cg|cs|wt L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::cache_hint L2::evict_normal|L2::evict_first|L2::evict_last", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 2..3 => st;
    }
    Atomic {
        "atom" "relaxed|acquire|release|acq_rel cta|cluster|gpu|sys global|shared|shared::cta add|min|max|and|or|xor|exch|cas|inc|dec! noftz L2::cache_hint", "b16|b32|b64|u32|u64|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 3..4 => atom;
        "red" "relaxed|release cta|cluster|gpu|sys global|shared|shared::cta add|min|max|and|or|xor|inc|dec! noftz L2::cache_hint", "b32|b64|u32|u64|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", 2..3 => atom;
    }
    Async {
        "cp" "async! ca|cg! shared|shared::cta! global! L2::cache_hint L2::64B|L2::128B|L2::256B", "", 3..5 => cp_async;
        "cp" "async! commit_group!", "", 0..0 => |l, _| l.group(AccessKind::Commit);
        "cp" "async! wait_group!", "", 1..1 => |l, f| match f.ops[0] {
            Operand::Int(n) if n >= 0 => l.group(AccessKind::Wait(n as u32)),
            _ => l.error("expected a number of groups"),
        };
        "cp" "async! wait_all!", "", 0..0 => |l, _| l.group(AccessKind::Wait(u32::MAX));
    }
    Matrix {
        "ldmatrix" "sync! aligned! m8n8! x1|x2|x4! trans shared|shared::cta", "b16", 2..2 => ldmatrix;
        "stmatrix" "sync! aligned! m8n8! x1|x2|x4! trans shared|shared::cta", "b16", 2..2 => stmatrix;
        "movmatrix" "sync! aligned! m8n8! trans!", "b16", 2..2 => |l, f| {
            let (d, a) = (l.dst(&f.ops[0], Ty::B32)?, l.src(&f.ops[1], Ty::B32)?);
            l.op::<mem::MovMatrix>(d, &[a], 0);
            l.impure();
            Ok(())
        };
    }
    Tensor {
        "mma" "sync! aligned! m16n8k16|m16n8k8! row! col!", "f32,f16,f16,f32", 4..4 => mma_op;
        "mma" "sync! aligned! m16n8k16|m16n8k8! row! col!", "f16,f16,f16,f16", 4..4 => mma_op;
        "mma" "sync! aligned! m16n8k16|m16n8k8! row! col!", "f32,bf16,bf16,f32", 4..4 => mma_op;
        "mma" "sync! aligned! m16n8k8|m16n8k4! row! col!", "f32,tf32,tf32,f32", 4..4 => mma_op;
        "mma" "sync! aligned! m8n8k4! row! col!", "f64,f64,f64,f64", 4..4 => mma_op;
        "mma" "sync! aligned! m8n8k16|m16n8k16|m16n8k32! row! col! satfinite", "s32,s8|u8,s8|u8,s32", 4..4 => mma_op;
    }
};

fn index() -> &'static HashMap<&'static str, Vec<&'static Row>> {
    static INDEX: OnceLock<HashMap<&'static str, Vec<&'static Row>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index: HashMap<&'static str, Vec<&'static Row>> = HashMap::new();
        for row in TABLE {
            index.entry(row.name).or_default().push(row);
        }
        index
    })
}

impl Row {
    /// Matches an opcode's modifiers; the error says what stood in the way.
    fn accept<'a>(&self, parts: &[&'a str], operands: usize) -> Result<(Vec<&'a str>, Vec<Ty>), String> {
        let mut mods = Vec::new();
        let mut types = Vec::new();
        let mut columns = self.types.split(',').filter(|c| !c.is_empty());
        let mut groups: Vec<(&str, bool, bool)> =
            self.mods.split_whitespace().map(|g| (g.trim_end_matches('!'), g.ends_with('!'), false)).collect();
        for &part in parts {
            if let Some(group) = groups.iter_mut().find(|(g, _, used)| !used && g.split('|').any(|m| m == part)) {
                group.2 = true;
                mods.push(part);
                continue;
            }
            let Some(ty) = Ty::parse(part) else { return Err(format!("modifier `.{part}` is not supported")) };
            match columns.next() {
                Some("*") => types.push(ty),
                Some(column) if column.split('|').any(|t| t == part) => types.push(ty),
                _ => return Err(format!("type `.{part}` is not supported")),
            }
        }
        if columns.next().is_some() {
            return Err("a type is missing".to_owned());
        }
        if let Some((group, ..)) = groups.iter().find(|(_, must, used)| *must && !used) {
            return Err(format!("one of `.{}` is missing", group.replace('|', " .")));
        }
        if !(self.operands.0..=self.operands.1).contains(&operands) {
            return Err(format!("{operands} operands, {} expected", self.operands.0));
        }
        Ok((mods, types))
    }
}

/// Emits the code of one instruction.
pub(crate) fn lower<'a>(l: &mut Lower<'a>, inst: &Inst<'a>) -> R {
    let mut parts = inst.opcode.split('.');
    let name = parts.next().unwrap_or("");
    let parts: Vec<&str> = parts.collect();
    let Some(rows) = index().get(name) else {
        return l.error(format!("unknown instruction `{name}`"));
    };
    let mut why = String::new();
    for row in rows {
        match row.accept(&parts, inst.operands.len()) {
            Ok((mods, types)) => {
                l.class = row.class;
                let form = Form { mods, types, ops: &inst.operands };
                return (row.emit)(l, &form);
            }
            Err(message) if why.is_empty() => why = message,
            Err(_) => {}
        }
    }
    l.error(format!("unsupported form of `{name}`: {why}"))
}

// ---- shapes ---------------------------------------------------------------------------------------------------------

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
fn mode(f: &Form<'_, '_>) -> u8 {
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
fn handler_pair<O: Bin<A = f32, B = f32, D = f32>>() -> (Handler, Handler) {
    (handler::<BinOp<O>>(), handler::<BinOp<Ftz<O>>>())
}

impl<'a> Lower<'a> {
    fn un<O: Un>(&mut self, f: &Form<'_, 'a>) -> R {
        self.un_to::<O>(f, f.ty())
    }
    fn un_to<O: Un>(&mut self, f: &Form<'_, 'a>, to: Ty) -> R {
        let a = self.src(&f.ops[1], f.ty())?;
        let d = self.dst(&f.ops[0], to)?;
        self.op::<UnOp<O>>(d, &[a], 0);
        Ok(())
    }
    fn bin<O: Bin>(&mut self, f: &Form<'_, 'a>) -> R {
        self.bin_of::<O>(f, f.ty(), f.ty(), f.ty())
    }
    fn bin_of<O: Bin>(&mut self, f: &Form<'_, 'a>, d: Ty, a: Ty, b: Ty) -> R {
        let a = self.src(&f.ops[1], a)?;
        let b = self.src(&f.ops[2], b)?;
        let d = self.dst(&f.ops[0], d)?;
        self.op::<BinOp<O>>(d, &[a, b], 0);
        Ok(())
    }
    fn tri<O: Tri>(&mut self, f: &Form<'_, 'a>) -> R {
        self.tri_of::<O>(f, f.ty(), [f.ty(); 3])
    }
    fn tri_of<O: Tri>(&mut self, f: &Form<'_, 'a>, d: Ty, types: [Ty; 3]) -> R {
        let a = self.src(&f.ops[1], types[0])?;
        let b = self.src(&f.ops[2], types[1])?;
        let c = self.src(&f.ops[3], types[2])?;
        let d = self.dst(&f.ops[0], d)?;
        self.op::<TriOp<O>>(d, &[a, b, c], 0);
        Ok(())
    }
    fn effect(&mut self, run: Handler, r: [Val; 4], imm: i64) -> R {
        self.push(run, r, 0, imm);
        Ok(())
    }

    fn f32_un<O: Un<A = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        if f.has("ftz") { self.un::<Ftz<O>>(f) } else { self.un::<O>(f) }
    }
    fn f32_bin<O: Bin<A = f32, B = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        self.f32_bin_rounded(f, [handler_pair::<O>(); 4])
    }
    fn f32_bin_rounded(&mut self, f: &Form<'_, 'a>, runs: [(Handler, Handler); 4]) -> R {
        let (plain, flushed) = runs[mode(f) as usize];
        let a = self.src(&f.ops[1], Ty::F32)?;
        let b = self.src(&f.ops[2], Ty::F32)?;
        let d = self.dst(&f.ops[0], Ty::F32)?;
        let raw = self.push(if f.has("ftz") { flushed } else { plain }, [d, a, b, Val::None], 1, 0);
        raw.meta.flops = 1;
        self.saturate(f, d)
    }
    fn saturate(&mut self, f: &Form<'_, 'a>, d: Val) -> R {
        if f.has("sat") {
            self.op::<UnOp<SatF32>>(d, &[d], 0);
        }
        Ok(())
    }

    fn half_un<O: Un<A = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        match f.ty() {
            Ty::F16 => self.un::<Half<O, false>>(f),
            Ty::Bf16 => self.un::<Half<O, true>>(f),
            Ty::F16x2 => self.un::<Half2<O, false>>(f),
            _ => self.un::<Half2<O, true>>(f),
        }
    }
    fn half_bin<O: Bin<A = f32, B = f32, D = f32>>(&mut self, f: &Form<'_, 'a>) -> R {
        match (f.ty(), f.has("ftz")) {
            (Ty::F16, false) => self.bin::<Half<O, false>>(f)?,
            (Ty::F16, true) => self.bin::<FtzHalf<Half<O, false>>>(f)?,
            (Ty::F16x2, false) => self.bin::<Half2<O, false>>(f)?,
            (Ty::F16x2, true) => self.bin::<FtzHalf2<Half2<O, false>>>(f)?,
            (_, true) => return self.error("`.ftz` is for f16 only"),
            (Ty::Bf16, false) => self.bin::<Half<O, true>>(f)?,
            _ => self.bin::<Half2<O, true>>(f)?,
        }
        if f.has("sat") {
            let d = self.dst(&f.ops[0], f.ty())?;
            match f.ty() {
                Ty::F16 => self.op::<UnOp<SatHalf>>(d, &[d], 0),
                Ty::F16x2 => self.op::<UnOp<SatHalf2>>(d, &[d], 0),
                _ => return self.error("`.sat` is for f16 only"),
            };
        }
        Ok(())
    }

    /// Predicate logic: 0 copy, 1 and, 2 or, 3 xor, 4 not.
    fn logic(&mut self, f: &Form<'_, 'a>, how: i64) -> R {
        let (d, _) = self.pred(&f.ops[0])?;
        let (a, na) = self.pred(&f.ops[1])?;
        let (b, nb) = if f.ops.len() > 2 { self.pred(&f.ops[2])? } else { (Val::Raw(0), false) };
        self.effect(handler::<PredOp>(), [d, a, b, Val::None], how | i64::from(na) << 4 | i64::from(nb) << 5)
    }

    fn group(&mut self, kind: AccessKind) -> R {
        let access = Access { kind, space: Space::Shared, bytes: 0, lanes: 1, addr: 0, wide: false, offset: 0 };
        self.push(handler::<control::Nop>(), [Val::None; 4], 0, 0).meta.access = Some(access);
        Ok(())
    }
}

macro_rules! ints {
    ($name:ident: $shape:ident $u16:ty, $u32:ty, $u64:ty, $s16:ty, $s32:ty, $s64:ty) => {
        fn $name<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
            match f.ty() {
                Ty::U16 => l.$shape::<$u16>(f),
                Ty::U32 => l.$shape::<$u32>(f),
                Ty::U64 => l.$shape::<$u64>(f),
                Ty::S16 => l.$shape::<$s16>(f),
                Ty::S32 => l.$shape::<$s32>(f),
                _ => l.$shape::<$s64>(f),
            }
        }
    };
}
ints!(add_plain: bin Add16, Add32, Add64, Add16, Add32, Add64);
ints!(sub_plain: bin Sub16, Sub32, Sub64, Sub16, Sub32, Sub64);
ints!(mul_lo: bin Mul16, Mul32, Mul64, Mul16, Mul32, Mul64);
ints!(mul_hi: bin MulHiU16, MulHiU32, MulHiU64, MulHiS16, MulHiS32, MulHiS64);
ints!(mad_lo: tri Mad16, Mad32, Mad64, Mad16, Mad32, Mad64);
ints!(mad_hi: tri MadHiU16, MadHiU32, MadHiU64, MadHiS16, MadHiS32, MadHiS64);
ints!(sad: tri SadU16, SadU32, SadU64, SadS16, SadS32, SadS64);
ints!(div_int: bin DivU16, DivU32, DivU64, DivS16, DivS32, DivS64);
ints!(rem_int: bin RemU16, RemU32, RemU64, RemS16, RemS32, RemS64);
ints!(min_plain: bin MinU16, MinU32, MinU64, MinS16, MinS32, MinS64);
ints!(max_plain: bin MaxU16, MaxU32, MaxU64, MaxS16, MaxS32, MaxS64);

fn add_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("sat"), f.ty()) {
        (true, Ty::S32) => l.bin::<AddSatS32>(f),
        (true, _) => l.error("`.sat` is for s32 only"),
        _ => add_plain(l, f),
    }
}
fn sub_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.has("sat"), f.ty()) {
        (true, Ty::S32) => l.bin::<SubSatS32>(f),
        (true, _) => l.error("`.sat` is for s32 only"),
        _ => sub_plain(l, f),
    }
}
fn mul_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("lo") {
        return mul_lo(l, f);
    }
    if f.has("hi") {
        return mul_hi(l, f);
    }
    match f.ty() {
        Ty::U16 => l.bin_of::<MulWideU16>(f, Ty::U32, Ty::U16, Ty::U16),
        Ty::S16 => l.bin_of::<MulWideS16>(f, Ty::S32, Ty::S16, Ty::S16),
        Ty::U32 => l.bin_of::<MulWideU32>(f, Ty::U64, Ty::U32, Ty::U32),
        Ty::S32 => l.bin_of::<MulWideS32>(f, Ty::S64, Ty::S32, Ty::S32),
        _ => l.error("`.wide` is for 16 and 32 bits"),
    }
}
fn mad_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("sat") {
        return if f.has("hi") && f.ty() == Ty::S32 {
            l.tri::<MadHiSatS32>(f)
        } else {
            l.error("`.sat` is for mad.hi.s32 only")
        };
    }
    if f.has("lo") {
        return mad_lo(l, f);
    }
    if f.has("hi") {
        return mad_hi(l, f);
    }
    match f.ty() {
        Ty::U16 => l.tri_of::<MadWideU16>(f, Ty::U32, [Ty::U16, Ty::U16, Ty::U32]),
        Ty::S16 => l.tri_of::<MadWideS16>(f, Ty::S32, [Ty::S16, Ty::S16, Ty::S32]),
        Ty::U32 => l.tri_of::<MadWideU32>(f, Ty::U64, [Ty::U32, Ty::U32, Ty::U64]),
        Ty::S32 => l.tri_of::<MadWideS32>(f, Ty::S64, [Ty::S32, Ty::S32, Ty::S64]),
        _ => l.error("`.wide` is for 16 and 32 bits"),
    }
}
fn mul24<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("hi")) {
        (Ty::U32, false) => l.bin::<Mul24LoU>(f),
        (Ty::U32, true) => l.bin::<Mul24HiU>(f),
        (_, false) => l.bin::<Mul24LoS>(f),
        _ => l.bin::<Mul24HiS>(f),
    }
}
fn mad24<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("hi")) {
        _ if f.has("sat") => l.error("`.sat` is not supported here"),
        (Ty::U32, false) => l.tri::<Mad24LoU>(f),
        (Ty::U32, true) => l.tri::<Mad24HiU>(f),
        (_, false) => l.tri::<Mad24LoS>(f),
        _ => l.tri::<Mad24HiS>(f),
    }
}
fn min_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::U16x2 => l.bin::<MinU16x2>(f),
        Ty::S16x2 => l.bin::<MinS16x2>(f),
        _ => min_plain(l, f),
    }
}
fn max_int<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ty() {
        Ty::U16x2 => l.bin::<MaxU16x2>(f),
        Ty::S16x2 => l.bin::<MaxS16x2>(f),
        _ => max_plain(l, f),
    }
}
fn bfind<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.ty(), f.has("shiftamt")) {
        (Ty::U32, false) => l.un_to::<BfindU32>(f, Ty::U32),
        (Ty::S32, false) => l.un_to::<BfindS32>(f, Ty::U32),
        (Ty::U64, false) => l.un_to::<BfindU64>(f, Ty::U32),
        (_, false) => l.un_to::<BfindS64>(f, Ty::U32),
        (Ty::U32, true) => l.un_to::<BfindShU32>(f, Ty::U32),
        (Ty::S32, true) => l.un_to::<BfindShS32>(f, Ty::U32),
        (Ty::U64, true) => l.un_to::<BfindShU64>(f, Ty::U32),
        (_, true) => l.un_to::<BfindShS64>(f, Ty::U32),
    }
}
fn bfe<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let types = [f.ty(), Ty::U32, Ty::U32];
    match f.ty() {
        Ty::U32 => l.tri_of::<BfeU32>(f, Ty::U32, types),
        Ty::S32 => l.tri_of::<BfeS32>(f, Ty::S32, types),
        Ty::U64 => l.tri_of::<BfeU64>(f, Ty::U64, types),
        _ => l.tri_of::<BfeS64>(f, Ty::S64, types),
    }
}
fn bfi<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let mut list = vec![Val::None];
    for (i, ty) in [f.ty(), f.ty(), Ty::U32, Ty::U32].into_iter().enumerate() {
        list.push(l.src(&f.ops[1 + i], ty)?);
    }
    list[0] = l.dst(&f.ops[0], f.ty())?;
    let run = if f.ty() == Ty::B32 { handler::<Bfi<u32>>() } else { handler::<Bfi<u64>>() };
    l.push_list(run, list, 1, 0);
    Ok(())
}
fn dp4a<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.types[0], f.types[1]) {
        (Ty::U32, Ty::U32) => l.tri::<Dp4aUU>(f),
        (Ty::S32, Ty::S32) => l.tri::<Dp4aSS>(f),
        (Ty::S32, _) => l.tri::<Dp4aSU>(f),
        _ => l.tri::<Dp4aUS>(f),
    }
}
fn dp2a<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (f.types[0], f.types[1], f.has("hi")) {
        (Ty::U32, Ty::U32, false) => l.tri::<Dp2aLoUU>(f),
        (Ty::S32, Ty::S32, false) => l.tri::<Dp2aLoSS>(f),
        (Ty::S32, _, false) => l.tri::<Dp2aLoSU>(f),
        (_, _, false) => l.tri::<Dp2aLoUS>(f),
        (Ty::U32, Ty::U32, true) => l.tri::<Dp2aHiUU>(f),
        (Ty::S32, Ty::S32, true) => l.tri::<Dp2aHiSS>(f),
        (Ty::S32, _, true) => l.tri::<Dp2aHiSU>(f),
        (_, _, true) => l.tri::<Dp2aHiUS>(f),
    }
}

/// Extended-precision arithmetic; the carry is a predicate of the warp (index [`CARRY`]).
fn carry<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, subtract: bool, takes: bool, gives: bool) -> R {
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let d = l.dst(&f.ops[0], f.ty())?;
    carry_emit(l, f.ty(), d, a, b, subtract, takes, gives);
    Ok(())
}
#[allow(clippy::too_many_arguments)]
fn carry_emit(l: &mut Lower<'_>, ty: Ty, d: Val, a: Val, b: Val, subtract: bool, takes: bool, gives: bool) {
    let p = Val::Pred(l.carry());
    let imm = i64::from(subtract) | i64::from(takes) << 1 | i64::from(gives) << 2;
    let run = if width(ty) == Where::W32 { handler::<Carry<u32>>() } else { handler::<Carry<u64>>() };
    let raw = l.push(run, [d, a, b, p], 1, imm);
    raw.pure_op = !gives;
}
fn carry_add<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    carry(l, f, false, false, true)
}
fn carry_addc<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    carry(l, f, false, true, f.has("cc"))
}
fn carry_sub<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    carry(l, f, true, false, true)
}
fn carry_subc<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    carry(l, f, true, true, f.has("cc"))
}
fn carry_mad<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let takes = l.inst_text.contains("madc");
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let c = l.src(&f.ops[3], f.ty())?;
    let d = l.dst(&f.ops[0], f.ty())?;
    let product = Val::Reg(l.fresh(width(f.ty())));
    match (f.ty(), f.has("hi")) {
        (Ty::U32 | Ty::S32, false) => l.op::<BinOp<Mul32>>(product, &[a, b], 0),
        (_, false) => l.op::<BinOp<Mul64>>(product, &[a, b], 0),
        (Ty::U32, true) => l.op::<BinOp<MulHiU32>>(product, &[a, b], 0),
        (Ty::S32, true) => l.op::<BinOp<MulHiS32>>(product, &[a, b], 0),
        (Ty::U64, true) => l.op::<BinOp<MulHiU64>>(product, &[a, b], 0),
        (_, true) => l.op::<BinOp<MulHiS64>>(product, &[a, b], 0),
    };
    carry_emit(l, f.ty(), d, product, c, false, takes, f.has("cc"));
    Ok(())
}

fn shr<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = f.ty();
    match t {
        Ty::B16 | Ty::U16 => l.bin_of::<ShrU16>(f, t, t, Ty::U32),
        Ty::B32 | Ty::U32 => l.bin_of::<ShrU32>(f, t, t, Ty::U32),
        Ty::B64 | Ty::U64 => l.bin_of::<ShrU64>(f, t, t, Ty::U32),
        Ty::S16 => l.bin_of::<ShrS16>(f, t, t, Ty::U32),
        Ty::S32 => l.bin_of::<ShrS32>(f, t, t, Ty::U32),
        _ => l.bin_of::<ShrS64>(f, t, t, Ty::U32),
    }
}

fn lop3_op<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Int(table) = f.ops[4] else { return l.error("the truth table is a constant") };
    let a = l.src(&f.ops[1], Ty::B32)?;
    let b = l.src(&f.ops[2], Ty::B32)?;
    let c = l.src(&f.ops[3], Ty::B32)?;
    let d = l.dst(&f.ops[0], Ty::B32)?;
    // The tables compilers use most are compiled by themselves.
    macro_rules! tables {
        ($($t:literal)*) => {
            match table {
                $($t => handler::<TriOp<Lop3<$t>>>(),)*
                _ => handler::<Lop3Any>(),
            }
        };
    }
    let run = tables!(0x96 0xfe 0x80 0xca 0xe8 0xf8 0xea 0xe2 0x78 0x6a 0x56 0x1e 0xa8 0xec 0xc8 0xd8 0xb8 0xac);
    l.push(run, [d, a, b, c], 1, (table & 255) as i64);
    Ok(())
}

fn fma_f32<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match (mode(f), f.has("ftz")) {
        (0, false) => l.tri::<FmaF32<0>>(f)?,
        (1, false) => l.tri::<FmaF32<1>>(f)?,
        (2, false) => l.tri::<FmaF32<2>>(f)?,
        (_, false) => l.tri::<FmaF32<3>>(f)?,
        (0, true) => l.tri::<Ftz<FmaF32<0>>>(f)?,
        (1, true) => l.tri::<Ftz<FmaF32<1>>>(f)?,
        (2, true) => l.tri::<Ftz<FmaF32<2>>>(f)?,
        (_, true) => l.tri::<Ftz<FmaF32<3>>>(f)?,
    }
    if let Some(raw) = l.raw.last_mut() {
        raw.meta.flops = 2;
    }
    let d = l.dst(&f.ops[0], Ty::F32)?;
    l.saturate(f, d)
}

fn fma_half<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.has("ftz") {
        return match (f.ty(), f.has("relu"), f.has("sat")) {
            (Ty::F16, false, false) => l.tri::<FtzHalf<HalfFma<false, false, false>>>(f),
            (Ty::F16, true, _) => l.tri::<FtzHalf<HalfFma<false, true, false>>>(f),
            (Ty::F16, _, true) => l.tri::<FtzHalf<HalfFma<false, false, true>>>(f),
            (Ty::F16x2, false, false) => l.tri::<FtzHalf2<HalfFma2<false, false, false>>>(f),
            (Ty::F16x2, true, _) => l.tri::<FtzHalf2<HalfFma2<false, true, false>>>(f),
            (Ty::F16x2, _, true) => l.tri::<FtzHalf2<HalfFma2<false, false, true>>>(f),
            _ => l.error("`.ftz` is for f16 only"),
        };
    }
    match (f.ty(), f.has("relu"), f.has("sat")) {
        (Ty::F16, false, false) => l.tri::<HalfFma<false, false, false>>(f),
        (Ty::F16, true, _) => l.tri::<HalfFma<false, true, false>>(f),
        (Ty::F16, _, true) => l.tri::<HalfFma<false, false, true>>(f),
        (Ty::F16x2, false, false) => l.tri::<HalfFma2<false, false, false>>(f),
        (Ty::F16x2, true, _) => l.tri::<HalfFma2<false, true, false>>(f),
        (Ty::F16x2, _, true) => l.tri::<HalfFma2<false, false, true>>(f),
        (Ty::Bf16, false, _) => l.tri::<HalfFma<true, false, false>>(f),
        (Ty::Bf16, true, _) => l.tri::<HalfFma<true, true, false>>(f),
        (_, false, _) => l.tri::<HalfFma2<true, false, false>>(f),
        (_, true, _) => l.tri::<HalfFma2<true, true, false>>(f),
    }
}

fn testp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, _) = l.pred(&f.ops[0])?;
    let a = l.src(&f.ops[1], f.ty())?;
    let wide = f.ty() == Ty::F64;
    macro_rules! pick {
        ($f32:ty, $f64:ty) => {
            if wide { handler::<SetpOp<$f64>>() } else { handler::<SetpOp<$f32>>() }
        };
    }
    let run = match f.mods[0] {
        "finite" => pick!(FiniteF32, FiniteF64),
        "infinite" => pick!(InfiniteF32, InfiniteF64),
        "number" => pick!(NumberF32, NumberF64),
        "notanumber" => pick!(NotANumberF32, NotANumberF64),
        "normal" => pick!(NormalF32, NormalF64),
        _ => pick!(SubnormalF32, SubnormalF64),
    };
    l.push(run, [p, Val::Raw(0), a, a], 2, 0);
    l.impure();
    Ok(())
}

// ---- comparisons ----------------------------------------------------------------------------------------------------

/// The handler of a comparison.
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
                _ => return l.error(format!("`.{name}` does not compare floats")),
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
                _ => return l.error(format!("`.{name}` does not compare integers")),
            }
        };
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
        _ => l.error("the combination and its predicate do not go together"),
    }
}

fn setp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, q) = match &f.ops[0] {
        Operand::Pair(p, q) => (l.pred(p)?.0, l.pred(q)?.0),
        p => (l.pred(p)?.0, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], f.ty())?;
    let b = l.src(&f.ops[2], f.ty())?;
    let (imm, c) = combination(l, f)?;
    let name = f.mods.iter().find(|m| !matches!(**m, "and" | "or" | "xor" | "ftz")).copied().unwrap_or("eq");
    let run = compare(l, name, f.ty(), f.has("ftz"))?;
    let raw = l.push(run, [p, q, a, b], 2, imm);
    raw.aux = c;
    raw.pure_op = false;
    Ok(())
}

fn setp_half2<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Pair(p, q) = &f.ops[0] else { return l.error("two destinations expected: p|q") };
    let targets = [l.pred(p)?.0, l.pred(q)?.0];
    let a = l.src(&f.ops[1], Ty::B32)?;
    let b = l.src(&f.ops[2], Ty::B32)?;
    let (imm, c) = combination(l, f)?;
    let name = f.mods.iter().find(|m| !matches!(**m, "and" | "or" | "xor" | "ftz")).copied().unwrap_or("eq");
    let ty = if f.ty() == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
    let run = compare(l, name, ty, f.has("ftz"))?;
    let mut halves = Vec::new();
    for v in [a, b] {
        let (low, high) = (Val::Reg(l.fresh(Where::W16)), Val::Reg(l.fresh(Where::W16)));
        l.push_list(handler::<Split<u32, u16, 2>>(), vec![low, high, v], 2, 0);
        halves.push([low, high]);
    }
    // The predicate combined with both must not be overwritten before its second use.
    let order = if c == targets[0] { [1, 0] } else { [0, 1] };
    for i in order {
        let raw = l.push(run, [targets[i], Val::Raw(0), halves[0][i], halves[1][i]], 2, imm);
        raw.aux = c;
        raw.pure_op = false;
    }
    Ok(())
}

fn set<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.types[1];
    let a = l.src(&f.ops[1], ty)?;
    let b = l.src(&f.ops[2], ty)?;
    let (imm, c) = combination(l, f)?;
    let d = l.dst(&f.ops[0], Ty::B32)?;
    let name = f.mods.iter().find(|m| !matches!(**m, "and" | "or" | "xor" | "ftz")).copied().unwrap_or("eq");
    let run = compare(l, name, ty, f.has("ftz"))?;
    let p = Val::Pred(l.fresh_pred());
    let raw = l.push(run, [p, Val::Raw(0), a, b], 2, imm);
    raw.aux = c;
    raw.pure_op = false;
    let one = if f.types[0] == Ty::F32 { 1f32.to_bits() } else { !0 };
    let (one, zero) = (l.imm(Where::W32, u64::from(one)), l.imm(Where::W32, 0));
    l.op::<SelpOp<u32>>(d, &[one, zero, p], 0);
    Ok(())
}

fn selp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
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

fn slct<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = f.ty();
    let types = [t, t, f.types[1]];
    match (width(t), f.types[1]) {
        (Where::W16, Ty::S32) => l.tri_of::<Slct16>(f, t, types),
        (Where::W32, Ty::S32) => l.tri_of::<Slct32>(f, t, types),
        (Where::W64, Ty::S32) => l.tri_of::<Slct64>(f, t, types),
        (Where::W32, _) => l.tri_of::<SlctF32>(f, t, types),
        (Where::W64, _) => l.tri_of::<SlctF64>(f, t, types),
        _ => l.error("this combination of types is not supported"),
    }
}

// ---- moves ----------------------------------------------------------------------------------------------------------

fn mov<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    if f.ty() == Ty::Pred {
        return l.logic(f, 0);
    }
    let w = width(f.ty());
    match (&f.ops[0], &f.ops[1]) {
        (d, Operand::Vector(parts)) => {
            let part = f.ty().bytes() / parts.len().max(1);
            let run = match (w, parts.len()) {
                (Where::W32, 2) => handler::<Join<u32, u16, 2>>(),
                (Where::W64, 2) => handler::<Join<u64, u32, 2>>(),
                (Where::W64, 4) => handler::<Join<u64, u16, 4>>(),
                (Where::W32, 4) => handler::<Join<u32, u8, 4>>(),
                (Where::W16, 2) => handler::<Join<u16, u8, 2>>(),
                _ => return l.error("this many parts are not supported"),
            };
            let ty = part_type(part);
            let mut list = vec![Val::None];
            for p in parts {
                list.push(l.src(p, ty)?);
            }
            if part == 1 {
                return l.error("8-bit parts are not supported");
            }
            list[0] = l.dst(d, f.ty())?;
            l.push_list(run, list, 1, 0).pure_op = true;
            Ok(())
        }
        (Operand::Vector(parts), a) => {
            let part = f.ty().bytes() / parts.len().max(1);
            let run = match (w, parts.len()) {
                (Where::W32, 2) => handler::<Split<u32, u16, 2>>(),
                (Where::W64, 2) => handler::<Split<u64, u32, 2>>(),
                (Where::W64, 4) => handler::<Split<u64, u16, 4>>(),
                _ => return l.error("this many parts are not supported"),
            };
            let a = l.src(a, f.ty())?;
            let mut list = Vec::new();
            for p in parts {
                list.push(if matches!(p, Operand::Name("_")) { Val::None } else { l.dst(p, part_type(part))? });
            }
            let defs = list.len();
            list.push(a);
            l.push_list(run, list, defs, 0).pure_op = true;
            Ok(())
        }
        (d, a) => {
            let a = l.src(a, f.ty())?;
            let d = l.dst(d, f.ty())?;
            l.copy(d, a, w);
            Ok(())
        }
    }
}

fn part_type(bytes: usize) -> Ty {
    match bytes {
        1 => Ty::B8,
        2 => Ty::B16,
        4 => Ty::B32,
        _ => Ty::B64,
    }
}

/// The first address of a space's window in the generic address space.
fn window(f: &Form<'_, '_>) -> u64 {
    if f.has("shared") || f.has("shared::cta") {
        SHARED_WINDOW
    } else if f.has("local") {
        LOCAL_WINDOW
    } else if f.has("param") {
        PARAM_WINDOW
    } else {
        0
    }
}

fn cvta<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let base = window(f);
    let a = l.src(&f.ops[1], Ty::U64)?;
    let (d, w) = l.dst_any(&f.ops[0], Where::W64)?;
    if base == 0 {
        let a = l.convert(a, Where::W64, w, false);
        l.copy(d, a, w);
        return Ok(());
    }
    let base = l.imm(Where::W64, if f.has("to") { base.wrapping_neg() } else { base });
    if w == Where::W64 {
        l.op::<BinOp<Add64>>(d, &[a, base], 0);
    } else {
        let sum = Val::Reg(l.fresh(Where::W64));
        l.op::<BinOp<Add64>>(sum, &[a, base], 0);
        let narrow = l.convert(sum, Where::W64, w, false);
        l.copy(d, narrow, w);
    }
    Ok(())
}

fn isspacep<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, _) = l.pred(&f.ops[0])?;
    let a = l.src(&f.ops[1], Ty::U64)?;
    // Windows are 4 GiB wide at multiples of 64 GiB; global memory starts above them all.
    if f.has("global") || f.has("const") {
        let base = l.imm(Where::W64, crate::memory::GLOBAL_BASE);
        l.push(handler::<SetpOp<GeU64>>(), [p, Val::Raw(0), a, base], 2, 0);
    } else {
        let page = Val::Reg(l.fresh(Where::W64));
        let shift = l.imm(Where::W32, 36);
        l.op::<BinOp<ShrU64>>(page, &[a, shift], 0);
        let number = l.imm(Where::W64, window(f) >> 36);
        l.push(handler::<SetpOp<Eq64>>(), [p, Val::Raw(0), page, number], 2, 0);
    }
    l.impure();
    Ok(())
}

// ---- conversions ----------------------------------------------------------------------------------------------------

include!("cvt.rs");

// ---- control --------------------------------------------------------------------------------------------------------

fn nop<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<control::Nop>(), [Val::None; 4], 0)
}

fn trap<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    if l.guarded() {
        // A guarded trap does not end the block.
        return l.effect(handler::<control::TrapOp>(), [Val::None; 4], 0);
    }
    l.flow(super::lower::Flow::Trap);
    Ok(())
}

fn policy<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B64)?;
    let zero = l.imm(Where::W64, 0);
    l.copy(d, zero, Where::W64);
    Ok(())
}

fn bar<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = l.src(&f.ops[0], Ty::U32)?;
    let threads = match f.ops.get(1) {
        Some(n) => l.src(n, Ty::U32)?,
        None => Val::None,
    };
    let raw =
        l.push(handler::<control::Barrier>(), [id, threads, Val::Raw(0), Val::Raw(0)], 0, i64::from(f.has("arrive")));
    raw.meta.class = Class::Barrier;
    Ok(())
}

fn bar_red<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = l.src(&f.ops[1], Ty::U32)?;
    let threads = if f.ops.len() == 4 { l.src(&f.ops[2], Ty::U32)? } else { Val::None };
    let Some(last) = f.ops.last() else { return l.error("a predicate is missing") };
    let (p, negated) = l.pred(last)?;
    let mut imm = if f.has("popc") {
        2
    } else if f.has("and") {
        3
    } else {
        4
    };
    imm |= i64::from(negated) << 8;
    if f.has("popc") {
        let d = l.dst(&f.ops[0], Ty::U32)?;
        let raw = l.push(handler::<control::Barrier>(), [id, threads, p, d], 0, imm);
        if let Val::Reg(d) = d {
            raw.uses.retain(|u| *u != d);
            raw.defs.push(d);
        }
    } else {
        let (d, _) = l.pred(&f.ops[0])?;
        l.push(handler::<control::Barrier>(), [id, threads, p, d], 0, imm);
    }
    l.impure();
    Ok(())
}

// ---- warp -----------------------------------------------------------------------------------------------------------

fn shfl<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, p) = match &f.ops[0] {
        Operand::Pair(d, p) => (l.dst(d, Ty::B32)?, l.pred(p)?.0),
        d => (l.dst(d, Ty::B32)?, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], Ty::B32)?;
    let b = l.src(&f.ops[2], Ty::U32)?;
    let c = l.src(&f.ops[3], Ty::U32)?;
    let run = if f.has("up") {
        handler::<control::Shuffle<0>>()
    } else if f.has("down") {
        handler::<control::Shuffle<1>>()
    } else if f.has("bfly") {
        handler::<control::Shuffle<2>>()
    } else {
        handler::<control::Shuffle<3>>()
    };
    l.push_list(run, vec![d, a, b, c, p], 1, 0);
    Ok(())
}

fn vote<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, negated) = l.pred(&f.ops[1])?;
    let negated = i64::from(negated) << 8;
    if f.has("ballot") {
        let d = l.dst(&f.ops[0], Ty::B32)?;
        l.op::<control::Vote>(d, &[p], 3 | negated);
    } else {
        let (d, _) = l.pred(&f.ops[0])?;
        let how = if f.has("all") {
            0
        } else if f.has("any") {
            1
        } else {
            2
        };
        l.push(handler::<control::Vote>(), [d, p, Val::None, Val::None], 0, how | negated);
    }
    l.impure();
    Ok(())
}

fn elect<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Pair(d, p) = &f.ops[0] else { return l.error("two destinations expected: d|p") };
    let d = if matches!(**d, Operand::Name("_")) { Val::None } else { l.dst(d, Ty::B32)? };
    let (p, _) = l.pred(p)?;
    l.push(handler::<control::Elect>(), [d, p, Val::None, Val::None], 1, 0);
    l.impure();
    Ok(())
}

fn match_op<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, p) = match &f.ops[0] {
        Operand::Pair(d, p) => (l.dst(d, Ty::B32)?, l.pred(p)?.0),
        d => (l.dst(d, Ty::B32)?, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], f.ty())?;
    let imm = i64::from(f.has("all")) | i64::from(f.ty() == Ty::B64) << 1;
    l.push(handler::<control::Match>(), [d, a, p, Val::None], 1, imm);
    l.impure();
    Ok(())
}

fn redux<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B32)?;
    let a = l.src(&f.ops[1], Ty::B32)?;
    let how = ["add", "min", "max", "and", "or", "xor"].iter().position(|m| f.has(m)).unwrap_or(0) as i64;
    l.op::<control::Redux>(d, &[a], how | i64::from(f.ty() == Ty::S32) << 8);
    l.impure();
    Ok(())
}

// ---- memory ---------------------------------------------------------------------------------------------------------

fn space(f: &Form<'_, '_>) -> Space {
    for m in &f.mods {
        match *m {
            "global" => return Space::Global,
            "shared" | "shared::cta" => return Space::Shared,
            "local" => return Space::Local,
            "const" => return Space::Const,
            "param" | "param::entry" | "param::func" => return Space::Param,
            _ => {}
        }
    }
    Space::Generic
}

/// Where an access goes, and the handler family that serves it: shared memory by itself, global (and constant) by itself, all else generic.
struct Target {
    addr: Val,
    offset: i64,
    space: Space,
}

fn target<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, space: Space) -> R<Target> {
    let (addr, offset, symbol) = l.address(operand, space == Space::Shared)?;
    let (space, offset) = match (space, symbol) {
        // `.param` variables of calls live in local memory.
        (Space::Param, Some(Space::Local)) | (Space::Local, _) => {
            (Space::Local, offset.wrapping_add(LOCAL_WINDOW as i64))
        }
        (Space::Param, _) => (Space::Param, offset.wrapping_add(PARAM_WINDOW as i64)),
        (Space::Generic, Some(Space::Shared)) => (Space::Generic, offset.wrapping_add(SHARED_WINDOW as i64)),
        (Space::Generic, Some(Space::Local)) => (Space::Generic, offset.wrapping_add(LOCAL_WINDOW as i64)),
        (Space::Generic, Some(Space::Param)) => (Space::Generic, offset.wrapping_add(PARAM_WINDOW as i64)),
        (space, _) => (space, offset),
    };
    Ok(Target { addr, offset, space })
}

macro_rules! access_handlers {
    ($name:ident, $op:ident) => {
        fn $name(space: Space, bytes: usize, lanes: usize) -> Option<Handler> {
            fn by<P: mem::Place>(bytes: usize, lanes: usize) -> Option<Handler> {
                Some(match (bytes, lanes) {
                    (1, 1) => handler::<mem::$op<P, u8, 1>>(),
                    (1, 2) => handler::<mem::$op<P, u8, 2>>(),
                    (1, 4) => handler::<mem::$op<P, u8, 4>>(),
                    (2, 1) => handler::<mem::$op<P, u16, 1>>(),
                    (2, 2) => handler::<mem::$op<P, u16, 2>>(),
                    (2, 4) => handler::<mem::$op<P, u16, 4>>(),
                    (4, 1) => handler::<mem::$op<P, u32, 1>>(),
                    (4, 2) => handler::<mem::$op<P, u32, 2>>(),
                    (4, 4) => handler::<mem::$op<P, u32, 4>>(),
                    (4, 8) => handler::<mem::$op<P, u32, 8>>(),
                    (8, 1) => handler::<mem::$op<P, u64, 1>>(),
                    (8, 2) => handler::<mem::$op<P, u64, 2>>(),
                    (8, 4) => handler::<mem::$op<P, u64, 4>>(),
                    _ => return None,
                })
            }
            match space {
                Space::Shared => by::<mem::Shared>(bytes, lanes),
                Space::Global | Space::Const => by::<mem::Global>(bytes, lanes),
                _ => by::<mem::Generic>(bytes, lanes),
            }
        }
    };
}
access_handlers!(load_handler, Load);
access_handlers!(store_handler, Store);

fn vector_lanes(f: &Form<'_, '_>) -> usize {
    if f.has("v2") {
        2
    } else if f.has("v4") {
        4
    } else if f.has("v8") {
        8
    } else {
        1
    }
}

/// The registers of a data operand.
fn data<'f, 'a>(l: &Lower<'a>, operand: &'f Operand<'a>, lanes: usize) -> R<&'f [Operand<'a>]> {
    let list = match operand {
        Operand::Vector(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    if list.len() == lanes { Ok(list) } else { l.error("number of registers and vector size differ") }
}

/// Width in which the handlers deliver elements of a size.
fn natural(bytes: usize) -> Where {
    match bytes {
        1 | 2 => Where::W16,
        4 => Where::W32,
        _ => Where::W64,
    }
}

fn ld<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.ty();
    let lanes = vector_lanes(f);
    let regs = data(l, &f.ops[0], lanes)?;
    let wanted = space(f);
    // A parameter at a fixed place is a constant of the launch.
    if wanted == Space::Param
        && let (Val::Const(_), offset, Some(Space::Param)) = l.address(&f.ops[1], false)?
    {
        let offset = offset as u64;
        for (i, operand) in regs.iter().enumerate() {
            if matches!(operand, Operand::Name("_")) {
                continue;
            }
            let at = offset + (i * ty.bytes()) as u64;
            if !at.is_multiple_of(ty.bytes() as u64) || at > 1 << 20 {
                return l.error("misaligned parameter access");
            }
            let (d, w) = l.dst_any(operand, width(ty))?;
            let c = l.constant(w, super::module::ConstSource::Param(at as u32, ty));
            l.copy(d, c, w);
        }
        return Ok(());
    }
    let t = target(l, &f.ops[1], wanted)?;
    let Some(run) = load_handler(t.space, ty.bytes(), lanes) else {
        return l.error("this vector load is not supported");
    };
    let mut dsts = Vec::new();
    let mut after = Vec::new();
    for operand in regs {
        if matches!(operand, Operand::Name("_")) {
            dsts.push(Val::None);
            continue;
        }
        let own = natural(ty.bytes());
        let (d, w) = l.dst_any(operand, width(ty))?;
        let byte_sign = ty == Ty::S8;
        if w == own && !byte_sign {
            dsts.push(d);
        } else {
            let temp = Val::Reg(l.fresh(own));
            dsts.push(temp);
            after.push((d, w, temp, own));
        }
    }
    let access = access(AccessKind::Load, &t, (ty.bytes() * lanes) as u32);
    push_access(l, run, dsts, &t, lanes, true, access);
    for (d, w, temp, own) in after {
        let temp = if ty == Ty::S8 {
            let wide = Val::Reg(l.fresh(Where::W16));
            l.op::<UnOp<Sext8To16>>(wide, &[temp], 0);
            wide
        } else {
            temp
        };
        let value = l.convert(temp, own, w, ty.signed());
        // The conversion may be written straight to the destination.
        match l.raw.last_mut() {
            Some(raw) if raw.r[0] == value && value != temp => {
                raw.r[0] = d;
                if let Val::Reg(id) = d {
                    raw.defs = vec![id];
                }
            }
            _ => l.copy(d, value, w),
        }
    }
    Ok(())
}

fn access(kind: AccessKind, t: &Target, bytes: u32) -> Access {
    Access { kind, space: t.space, bytes, lanes: 1, addr: 0, wide: t.space != Space::Shared, offset: t.offset }
}

fn push_access(l: &mut Lower<'_>, run: Handler, regs: Vec<Val>, t: &Target, lanes: usize, load: bool, access: Access) {
    let defs = if load { regs.len() } else { 0 };
    let mut r = [Val::None, Val::None, Val::None, t.addr];
    let raw = if lanes <= 2 {
        r[..lanes].copy_from_slice(&regs);
        // The address stands last and is never written.
        l.push(run, r, defs, t.offset)
    } else {
        let mut list = regs;
        list.push(t.addr);
        let raw = l.push_list(run, list, defs, t.offset);
        raw.r[3] = t.addr;
        raw
    };
    raw.cached = true;
    raw.pure_op = false;
    raw.meta.access = Some(access);
    raw.access_addr = t.addr;
}

fn st<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.ty();
    let lanes = vector_lanes(f);
    let t = target(l, &f.ops[0], space(f))?;
    let Some(run) = store_handler(t.space, ty.bytes(), lanes) else {
        return l.error("this vector store is not supported");
    };
    let mut regs = Vec::new();
    for operand in data(l, &f.ops[1], lanes)? {
        let value = match l.literal(operand, ty) {
            Some(v) => l.imm(natural(ty.bytes()), v),
            None => {
                let (v, w) = l.any(operand, false)?;
                l.convert(v, w, natural(ty.bytes()), false)
            }
        };
        regs.push(value);
    }
    let mut access = access(AccessKind::Store, &t, (ty.bytes() * lanes) as u32);
    access.lanes = lanes as u32;
    push_access(l, run, regs, &t, lanes, false, access);
    Ok(())
}

fn atom<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let red = l.class == Class::Atomic && !l.inst_text.contains("atom");
    let ty = f.ty();
    let kind = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]
        .iter()
        .position(|m| f.has(m))
        .unwrap_or(0);
    let as_ty = match (ty, mem::Atom::ALL[kind]) {
        (Ty::B16, _) => mem::AtomTy::B16,
        (Ty::B32 | Ty::U32, _) => mem::AtomTy::U32,
        (Ty::B64 | Ty::U64, _) => mem::AtomTy::U64,
        (Ty::S32, _) => mem::AtomTy::S32,
        (Ty::S64, _) => mem::AtomTy::S64,
        (Ty::F32, _) => mem::AtomTy::F32,
        (Ty::F64, _) => mem::AtomTy::F64,
        (Ty::F16, _) => mem::AtomTy::F16,
        (Ty::Bf16, _) => mem::AtomTy::Bf16,
        (Ty::F16x2, _) => mem::AtomTy::F16x2,
        _ => mem::AtomTy::Bf16x2,
    };
    let (d, rest) = if red { (Val::None, f.ops) } else { (Val::Raw(0), &f.ops[1..]) };
    let d = if red || matches!(f.ops[0], Operand::Name("_")) {
        Val::None
    } else {
        let _ = d;
        l.dst(&f.ops[0], ty)?
    };
    let wanted = space(f);
    // Atomics always go by generic addresses.
    let (addr, offset, symbol) = l.address(&rest[0], false)?;
    let shared = wanted == Space::Shared || symbol == Some(Space::Shared);
    let offset = if shared { offset.wrapping_add(SHARED_WINDOW as i64) } else { offset };
    let b = l.src(&rest[1], ty)?;
    let c = match (f.has("cas"), rest.get(2)) {
        (true, Some(c)) => l.src(c, ty)?,
        (true, None) => return l.error("`cas` takes three sources"),
        _ => Val::None,
    };
    let t = Target { addr, offset, space: if shared { Space::Shared } else { Space::Generic } };
    let list = vec![d, addr, b, c, Val::Raw(kind as u32), Val::Raw(as_ty as u32)];
    let raw = l.push_list(handler::<mem::Atomic>(), list, 1, offset);
    let mut a = access(AccessKind::Atomic, &t, ty.bytes() as u32);
    a.wide = true;
    raw.meta.access = Some(a);
    raw.access_addr = addr;
    Ok(())
}

fn cp_async<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let to = target(l, &f.ops[0], Space::Shared)?;
    let from = target(l, &f.ops[1], Space::Global)?;
    let Operand::Int(bytes) = f.ops[2] else { return l.error("the size is a constant") };
    let mut size = Val::None;
    let rest = &f.ops[3..];
    let rest = if f.has("L2::cache_hint") && !rest.is_empty() { &rest[..rest.len() - 1] } else { rest };
    if let Some(operand) = rest.first() {
        let is_pred = l.reg_type(operand) == Some(Ty::Pred) || matches!(operand, Operand::Not(_));
        if is_pred {
            // ignore-src: zeros are written where the predicate holds.
            let (p, negated) = l.pred(operand)?;
            let (zero, all) = (l.imm(Where::W32, 0), l.imm(Where::W32, bytes as u64));
            let d = Val::Reg(l.fresh(Where::W32));
            l.op::<SelpOp<u32>>(d, &[zero, all, p], i64::from(negated));
            size = d;
        } else {
            size = l.src(operand, Ty::U32)?;
        }
    }
    let run = match bytes {
        4 => handler::<mem::CpAsync<4>>(),
        8 => handler::<mem::CpAsync<8>>(),
        16 => handler::<mem::CpAsync<16>>(),
        _ => return l.error("4, 8 or 16 bytes can be copied"),
    };
    let Ok(from_offset) = i32::try_from(from.offset) else {
        return l.error("the global offset is too large");
    };
    let raw = l.push_list(run, vec![to.addr, from.addr, size], 0, to.offset);
    raw.r[0] = Val::Raw(from_offset as u32);
    raw.cached = true;
    let mut a = access(AccessKind::CopyAsync, &to, bytes as u32);
    a.wide = false;
    raw.meta.access = Some(a);
    raw.access_addr = to.addr;
    Ok(())
}

fn ldmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let n = if f.has("x4") {
        4
    } else if f.has("x2") {
        2
    } else {
        1
    };
    let mut list = Vec::new();
    for operand in data(l, &f.ops[0], n)? {
        list.push(l.dst(operand, Ty::B32)?);
    }
    let t = shared_rows(l, &f.ops[1], f)?;
    list.push(t.addr);
    let run = match (n, f.has("trans")) {
        (1, false) => handler::<mem::LdMatrix<1, false>>(),
        (2, false) => handler::<mem::LdMatrix<2, false>>(),
        (_, false) => handler::<mem::LdMatrix<4, false>>(),
        (1, true) => handler::<mem::LdMatrix<1, true>>(),
        (2, true) => handler::<mem::LdMatrix<2, true>>(),
        (_, true) => handler::<mem::LdMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, n, t.offset);
    raw.meta.access = Some(access(AccessKind::Rows(8 * n as u32), &t, 16));
    raw.access_addr = t.addr;
    Ok(())
}

/// The row addresses of `ldmatrix`: shared, or generic ones that point there.
fn shared_rows<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, f: &Form<'_, 'a>) -> R<Target> {
    let mut t = target(l, operand, Space::Shared)?;
    if space(f) == Space::Generic
        && matches!(operand, Operand::Address(Some(name), _) if l.reg_type(&Operand::Name(name)) == Some(Ty::B64))
    {
        // The window is a multiple of 4 GiB: the low half is the offset.
        t.offset &= 0xffff_ffff;
    }
    Ok(t)
}

fn stmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let n = if f.has("x4") {
        4
    } else if f.has("x2") {
        2
    } else {
        1
    };
    let t = shared_rows(l, &f.ops[0], f)?;
    let mut list = Vec::new();
    for operand in data(l, &f.ops[1], n)? {
        list.push(l.src(operand, Ty::B32)?);
    }
    list.push(t.addr);
    let run = match (n, f.has("trans")) {
        (1, false) => handler::<mem::StMatrix<1, false>>(),
        (2, false) => handler::<mem::StMatrix<2, false>>(),
        (_, false) => handler::<mem::StMatrix<4, false>>(),
        (1, true) => handler::<mem::StMatrix<1, true>>(),
        (2, true) => handler::<mem::StMatrix<2, true>>(),
        (_, true) => handler::<mem::StMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, 0, t.offset);
    raw.meta.access = Some(access(AccessKind::RowsStore(8 * n as u32), &t, 16));
    raw.access_addr = t.addr;
    Ok(())
}

fn mma_op<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    use math::mma::Int8Shape;
    let kernels = math::mma::kernels();
    let shape = f.mods.iter().find(|m| m.starts_with('m') && m.contains('k')).copied().unwrap_or_default();
    let int8 = |shape| kernels.int8(shape, f.types[1] == Ty::S8, f.types[2] == Ty::S8, f.has("satfinite"));
    // The kernel, its registers of A, B and C, and its multiply-adds.
    let (kernel, a, b, c, macs) = match (f.types[1], f.types[0] == Ty::F16, shape) {
        (Ty::F16, false, "m16n8k16") => (kernels.m16n8k16_f16, 4, 2, 4, 2048),
        (Ty::F16, false, "m16n8k8") => (kernels.m16n8k8_f16, 2, 1, 4, 1024),
        (Ty::F16, true, "m16n8k16") => (kernels.m16n8k16_f16_f16, 4, 2, 2, 2048),
        (Ty::F16, true, "m16n8k8") => (kernels.m16n8k8_f16_f16, 2, 1, 2, 1024),
        (Ty::Bf16, _, "m16n8k16") => (kernels.m16n8k16_bf16, 4, 2, 4, 2048),
        (Ty::Bf16, _, "m16n8k8") => (kernels.m16n8k8_bf16, 2, 1, 4, 1024),
        (Ty::Tf32, _, "m16n8k8") => (kernels.m16n8k8_tf32, 4, 2, 4, 1024),
        (Ty::Tf32, _, "m16n8k4") => (kernels.m16n8k4_tf32, 2, 1, 4, 512),
        (Ty::F64, _, "m8n8k4") => (kernels.m8n8k4_f64, 1, 1, 2, 256),
        (Ty::S8 | Ty::U8, _, "m8n8k16") => (int8(Int8Shape::M8N8K16), 1, 1, 2, 1024),
        (Ty::S8 | Ty::U8, _, "m16n8k16") => (int8(Int8Shape::M16N8K16), 2, 1, 4, 2048),
        (Ty::S8 | Ty::U8, _, "m16n8k32") => (int8(Int8Shape::M16N8K32), 4, 2, 4, 4096),
        _ => return l.error("this shape is not supported for these types"),
    };
    let word = if f.types[0] == Ty::F64 { Ty::B64 } else { Ty::B32 };
    let mut list = Vec::new();
    for operand in data(l, &f.ops[0], c)? {
        list.push(l.dst(operand, word)?);
    }
    for (i, n) in [a, b, c].into_iter().enumerate() {
        for operand in data(l, &f.ops[1 + i], n)? {
            list.push(l.src(operand, word)?);
        }
    }
    let wide = if word == Ty::B64 { 128 } else { 0 };
    let counts = (c | wide | a << 8 | b << 16 | c << 24) as u32;
    let raw = l.push_list(handler::<control::Mma>(), list, c, kernel as usize as i64);
    raw.aux = Val::Raw(counts);
    raw.meta.flops = 2 * macs;
    Ok(())
}
