//! The instruction set: one table of names, modifiers, types, operands and meanings.

use super::builder::Lower;
use super::emit::*;
use super::form::{Form, R};
use crate::ir::{AccessKind, Class};
use crate::step::mbarrier::Act;
use crate::step::ops::*;

pub(super) type Emit = for<'f, 'a> fn(&mut Lower<'a>, &Form<'f, 'a>) -> R;

/// One row of the instruction table.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Groups of modifiers in the manual's order: `a|b` are alternatives, `!` marks a group that must be present, `type` stands where
    /// the types do when that is not the end.
    pub(super) mods: &'static str,
    /// Alternatives of each type of the opcode.
    pub(super) types: &'static str,
    /// As the manual writes them: `d` is written, `p` and `q` are predicates, `[a]` an address, `[a;x]` a tensor map with coordinates, `n` a constant, `{,c}` may be missing.
    pub(super) operands: &'static str,
    pub(super) class: Class,
    /// In a few words.
    pub(super) meaning: &'static str,
    pub(super) emit: Emit,
}

const INT: &str = "u16|u32|u64|s16|s32|s64";
const BITS: &str = "b16|b32|b64";
const WIDE: &str = "u32|s32|u64|s64";
const HALF: &str = "f16|f16x2|bf16|bf16x2";
const MEMORY: &str = "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2";
const CVT_INT_INT: &str = "u8|u16|u32|u64|s8|s16|s32|s64,u8|u16|u32|u64|s8|s16|s32|s64";
const ANY_ROUND: &str = "rn|rz|rm|rp";

macro_rules! rows {
    ($($class:ident { $($name:literal $mods:expr, $types:expr, $operands:literal, $meaning:literal => $emit:expr;)* })*) => {
        &[$($(Row {
            name: $name,
            mods: $mods,
            types: $types,
            operands: $operands,
            class: Class::$class,
            meaning: $meaning,
            emit: $emit,
        },)*)*]
    };
}

pub(super) static TABLE: &[Row] = rows! {
    Integer {
        "add" "sat", INT, "d,a,b", "a + b; sat clamps s32" => int::add;
        "add" "", "u16x2|s16x2", "d,a,b", "a + b by halves" => |l, f| l.bin::<Add16x2>(f);
        "sub" "sat", INT, "d,a,b", "a - b; sat clamps s32" => int::sub;
        "mul" "lo|hi|wide!", INT, "d,a,b", "low half, high half or all of a * b" => int::mul;
        "mad" "lo|hi|wide! sat", INT, "d,a,b,c", "that product + c; sat clamps hi.s32" => int::mad;
        "mul24" "lo|hi!", "u32|s32", "d,a,b", "bits 31..0 or 47..16 of the 24-bit product" => int::mul24;
        "mad24" "lo|hi! sat", "u32|s32", "d,a,b,c", "that product + c" => int::mad24;
        "sad" "", INT, "d,a,b,c", "|a - b| + c" => int::sad;
        "div" "", INT, "d,a,b", "a / b toward zero" => int::div;
        "rem" "", INT, "d,a,b", "a - b * (a / b)" => int::rem;
        "abs" "", "s16|s32|s64", "d,a", "|a|" => int::abs;
        "neg" "", "s16|s32|s64", "d,a", "-a" => int::neg;
        "min" "", "u16|u32|u64|s16|s32|s64|u16x2|s16x2", "d,a,b", "the smaller" => int::min;
        "max" "", "u16|u32|u64|s16|s32|s64|u16x2|s16x2", "d,a,b", "the greater" => int::max;
        "min" "relu!", "s32|s16x2", "d,a,b", "the smaller, or 0 if that is negative" => int::min_relu;
        "max" "relu!", "s32|s16x2", "d,a,b", "the greater, or 0 if that is negative" => int::max_relu;
        "popc" "", "b32|b64", "d,a", "number of ones" => int::popc;
        "clz" "", "b32|b64", "d,a", "number of leading zeros" => int::clz;
        "brev" "", "b32|b64", "d,a", "bits in reverse order" => int::brev;
        "bfind" "shiftamt", WIDE, "d,a", "place of the highest bit that is not the sign" => int::bfind;
        "fns" "", "b32", "d,a,b,c", "place of the c-th one of mask a from bit b" => int::fns;
        "bfe" "", WIDE, "d,a,b,c", "c bits of a from bit b, extended" => int::bfe;
        "bfi" "", "b32|b64", "d,a,b,c,e", "b with e bits from bit c replaced by those of a" => int::bfi;
        "bmsk" "clamp|wrap!", "b32", "d,a,b", "b ones from bit a" => int::bmsk;
        "szext" "clamp|wrap!", "u32|s32", "d,a,b", "the low b bits of a, extended" => int::szext;
        "dp4a" "", "u32|s32,u32|s32", "d,a,b,c", "c + products of four bytes" => int::dp4a;
        "dp2a" "lo|hi!", "u32|s32,u32|s32", "d,a,b,c", "c + products of two halves of a and two bytes of b" => int::dp2a;
        "add" "cc!", WIDE, "d,a,b", "a + b, gives carry" => carry::add;
        "addc" "cc", WIDE, "d,a,b", "a + b + carry" => carry::addc;
        "sub" "cc!", WIDE, "d,a,b", "a - b, gives carry: no borrow" => carry::sub;
        "subc" "cc", WIDE, "d,a,b", "a - b - 1 + carry" => carry::subc;
        "mad" "lo|hi! cc!", WIDE, "d,a,b,c", "half of a * b + c, gives carry" => carry::mad;
        "madc" "lo|hi! cc", WIDE, "d,a,b,c", "half of a * b + c + carry" => carry::mad;
        "vadd" "type sat add|min|max", "u32|s32,u32|s32,u32|s32", "d,a,b{,c}", "a + b of parts, combined with or merged into c" => video::emit;
        "vsub" "type sat add|min|max", "u32|s32,u32|s32,u32|s32", "d,a,b{,c}", "a - b of parts, combined with or merged into c" => video::emit;
        "vabsdiff" "type sat add|min|max", "u32|s32,u32|s32,u32|s32", "d,a,b{,c}", "|a - b| of parts, combined with or merged into c" => video::emit;
        "vmin" "type sat add|min|max", "u32|s32,u32|s32,u32|s32", "d,a,b{,c}", "the smaller of parts, combined with or merged into c" => video::emit;
        "vmax" "type sat add|min|max", "u32|s32,u32|s32,u32|s32", "d,a,b{,c}", "the greater of parts, combined with or merged into c" => video::emit;
        "vshl" "type sat clamp|wrap! add|min|max", "u32|s32,u32|s32,u32", "d,a,b{,c}", "a part shifted, combined with or merged into c" => video::emit;
        "vshr" "type sat clamp|wrap! add|min|max", "u32|s32,u32|s32,u32", "d,a,b{,c}", "a part shifted, combined with or merged into c" => video::emit;
        "vmad" "type po sat shr7|shr15", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "a * b + c of parts, shifted" => video::emit;
        "vset" "type eq|ne|lt|le|gt|ge! add|min|max", "u32|s32,u32|s32", "d,a,b{,c}", "1 where parts compare, combined with or merged into c" => video::emit;
        "vadd2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vsub2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vavrg2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vabsdiff2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vmin2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vmax2" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "halves of a and b, merged into or added to c" => video::emit;
        "vset2" "type eq|ne|lt|le|gt|ge! add", "u32|s32,u32|s32", "d,a,b,c", "halves compared, merged into or added to c" => video::emit;
        "vadd4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vsub4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vavrg4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vabsdiff4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vmin4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vmax4" "type sat|add", "u32|s32,u32|s32,u32|s32", "d,a,b,c", "bytes of a and b, merged into or added to c" => video::emit;
        "vset4" "type eq|ne|lt|le|gt|ge! add", "u32|s32,u32|s32", "d,a,b,c", "bytes compared, merged into or added to c" => video::emit;
    }
    Logic {
        "and" "", "b16|b32|b64|pred", "d,a,b", "a & b" => logic::and;
        "or" "", "b16|b32|b64|pred", "d,a,b", "a | b" => logic::or;
        "xor" "", "b16|b32|b64|pred", "d,a,b", "a ^ b" => logic::xor;
        "not" "", "b16|b32|b64|pred", "d,a", "~a" => logic::not;
        "cnot" "", BITS, "d,a", "1 if a is 0, else 0" => logic::cnot;
        "lop3" "", "b32", "d,a,b,c,n", "bit 4a+2b+c of n" => logic::lop3;
        "lop3" "or|and!", "b32", "d|p,a,b,c,n,q", "the same, and whether it is not 0, combined with q" => logic::lop3_or_and;
        "shl" "", BITS, "d,a,b", "a << b, 0 beyond the width" => logic::shl;
        "shr" "", "b16|b32|b64|u16|u32|u64|s16|s32|s64", "d,a,b", "a >> b, sign or 0 beyond the width" => logic::shr;
        "shf" "l|r! clamp|wrap!", "b32", "d,a,b,c", "upper or lower word of b:a shifted by c" => logic::shf;
        "prmt" "type f4e|b4e|rc8|ecl|ecr|rc16", "b32", "d,a,b,c", "bytes of b:a chosen by c" => logic::prmt;
    }
    Float {
        "add" "rn|rz|rm|rp ftz sat", "f32", "d,a,b", "a + b" => float::add;
        "sub" "rn|rz|rm|rp ftz sat", "f32", "d,a,b", "a - b" => float::sub;
        "mul" "rn|rz|rm|rp ftz sat", "f32", "d,a,b", "a * b" => float::mul;
        "div" "rn|rz|rm|rp! ftz", "f32", "d,a,b", "a / b" => float::div;
        "div" "full! ftz", "f32", "d,a,b", "a / b within 2 ulp" => |l, f| l.f32_bin::<DivFullF32>(f);
        "div" "approx! ftz", "f32", "d,a,b", "a * (1 / b)" => |l, f| l.f32_bin::<DivApproxF32>(f);
        "fma" "rn|rz|rm|rp! ftz sat", "f32", "d,a,b,c", "a * b + c rounded once" => float::fma;
        "mad" "rn|rz|rm|rp! ftz sat", "f32", "d,a,b,c", "a * b + c rounded once" => float::fma;
        "abs" "ftz", "f32", "d,a", "|a|" => |l, f| l.f32_un::<AbsF32>(f);
        "neg" "ftz", "f32", "d,a", "-a" => |l, f| l.f32_un::<NegF32>(f);
        "min" "ftz NaN xorsign abs", "f32", "d,a,b", "the smaller" => float::min;
        "max" "ftz NaN xorsign abs", "f32", "d,a,b", "the greater" => float::max;
        "copysign" "", "f32|f64", "d,a,b", "b with the sign of a" => float::copysign;
        "testp" "finite|infinite|number|notanumber|normal|subnormal!", "f32|f64", "p,a", "a property of a" => float::testp;
    }
    Double {
        "add" ANY_ROUND, "f64", "d,a,b", "a + b" => float::add_f64;
        "sub" ANY_ROUND, "f64", "d,a,b", "a - b" => float::sub_f64;
        "mul" ANY_ROUND, "f64", "d,a,b", "a * b" => float::mul_f64;
        "div" "rn|rz|rm|rp!", "f64", "d,a,b", "a / b" => float::div_f64;
        "fma" "rn|rz|rm|rp!", "f64", "d,a,b,c", "a * b + c rounded once" => float::fma_f64;
        "mad" "rn|rz|rm|rp!", "f64", "d,a,b,c", "a * b + c rounded once" => float::fma_f64;
        "abs" "", "f64", "d,a", "|a|" => |l, f| l.un::<AbsF64>(f);
        "neg" "", "f64", "d,a", "-a" => |l, f| l.un::<NegF64>(f);
        "min" "", "f64", "d,a,b", "the smaller" => |l, f| l.bin::<MinF64>(f);
        "max" "", "f64", "d,a,b", "the greater" => |l, f| l.bin::<MaxF64>(f);
        "sqrt" "rn|rz|rm|rp!", "f64", "d,a", "square root" => float::sqrt_f64;
        "rcp" "rn|rz|rm|rp!", "f64", "d,a", "1 / a" => float::rcp_f64;
        "rcp" "approx! ftz!", "f64", "d,a", "1 / a, upper word only" => |l, f| l.un::<RcpApproxF64>(f);
        "rsqrt" "approx!", "f64", "d,a", "1 / sqrt(a)" => |l, f| l.un::<RsqrtF64>(f);
        "rsqrt" "approx! ftz!", "f64", "d,a", "1 / sqrt(a), upper word only" => |l, f| l.un::<RsqrtFtzF64>(f);
    }
    Half {
        "add" "rn ftz sat", "f16|f16x2", "d,a,b", "a + b" => |l, f| l.half_bin::<AddF32<0>>(f);
        "sub" "rn ftz sat", "f16|f16x2", "d,a,b", "a - b" => |l, f| l.half_bin::<SubF32<0>>(f);
        "mul" "rn ftz sat", "f16|f16x2", "d,a,b", "a * b" => |l, f| l.half_bin::<MulF32<0>>(f);
        "add" "rn", "bf16|bf16x2", "d,a,b", "a + b" => |l, f| l.half_bin::<AddF32<0>>(f);
        "sub" "rn", "bf16|bf16x2", "d,a,b", "a - b" => |l, f| l.half_bin::<SubF32<0>>(f);
        "mul" "rn", "bf16|bf16x2", "d,a,b", "a * b" => |l, f| l.half_bin::<MulF32<0>>(f);
        "fma" "rn! ftz sat|relu", "f16|f16x2", "d,a,b,c", "a * b + c rounded once; relu makes negatives 0" => half::fma;
        "fma" "rn! relu", "bf16|bf16x2", "d,a,b,c", "a * b + c rounded once; relu makes negatives 0" => half::fma;
        "min" "ftz NaN xorsign abs", "f16|f16x2", "d,a,b", "the smaller" => half::min;
        "max" "ftz NaN xorsign abs", "f16|f16x2", "d,a,b", "the greater" => half::max;
        "min" "NaN xorsign abs", "bf16|bf16x2", "d,a,b", "the smaller" => half::min;
        "max" "NaN xorsign abs", "bf16|bf16x2", "d,a,b", "the greater" => half::max;
        "abs" "ftz", "f16|f16x2", "d,a", "|a|" => half::abs;
        "neg" "ftz", "f16|f16x2", "d,a", "-a" => half::neg;
        "abs" "", "bf16|bf16x2", "d,a", "|a|" => half::abs;
        "neg" "", "bf16|bf16x2", "d,a", "-a" => half::neg;
        "ex2" "approx!", "f16|f16x2", "d,a", "2 to the a" => |l, f| l.half_un::<Ex2F32>(f);
        "ex2" "approx! ftz!", "bf16|bf16x2", "d,a", "2 to the a" => |l, f| l.half_un::<Ftz<Ex2F32>>(f);
        "tanh" "approx!", HALF, "d,a", "hyperbolic tangent" => |l, f| l.half_un::<TanhF32>(f);
    }
    Special {
        "sqrt" "rn|rz|rm|rp! ftz", "f32", "d,a", "square root" => special::sqrt;
        "sqrt" "approx! ftz", "f32", "d,a", "square root" => |l, f| l.f32_un::<SqrtApproxF32>(f);
        "rcp" "rn|rz|rm|rp! ftz", "f32", "d,a", "1 / a" => special::rcp;
        "rcp" "approx! ftz", "f32", "d,a", "1 / a" => |l, f| l.f32_un::<RcpApproxF32>(f);
        "rsqrt" "approx! ftz", "f32", "d,a", "1 / sqrt(a)" => |l, f| l.f32_un::<RsqrtF32>(f);
        "ex2" "approx! ftz", "f32", "d,a", "2 to the a" => |l, f| l.f32_un::<Ex2F32>(f);
        "lg2" "approx! ftz", "f32", "d,a", "logarithm to base 2" => |l, f| l.f32_un::<Lg2F32>(f);
        "sin" "approx! ftz", "f32", "d,a", "sine of radians" => |l, f| l.f32_un::<SinF32>(f);
        "cos" "approx! ftz", "f32", "d,a", "cosine of radians" => |l, f| l.f32_un::<CosF32>(f);
        "tanh" "approx!", "f32", "d,a", "hyperbolic tangent" => |l, f| l.f32_un::<TanhF32>(f);
    }
    Compare {
        "setp" "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16", "p{|q},a,b{,c}", "a compared with b, combined with c; q the opposite" => compare::setp;
        "setp" "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "f16x2|bf16x2", "p|q,a,b{,c}", "lower halves to p, upper halves to q" => compare::setp_half2;
        "set" "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "u32|s32|f32|f16|bf16,b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16", "d,a,b{,c}", "all ones or 1.0 where the comparison holds, else 0" => compare::set;
        "set" "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "u16|s16,f16|bf16", "d,a,b{,c}", "all ones where the comparison holds, else 0" => compare::set;
        "set" "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "f16x2|u32|s32,f16x2", "d,a,b{,c}", "all ones or 1.0 by halves" => compare::set_half2;
        "set" "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan! and|or|xor ftz", "bf16x2|u32|s32,bf16x2", "d,a,b{,c}", "all ones or 1.0 by halves" => compare::set_half2;
        "selp" "", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", "d,a,b,p", "p ? a : b" => compare::selp;
        "slct" "", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64,s32", "d,a,b,c", "c >= 0 ? a : b" => compare::slct;
        "slct" "ftz", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64,f32", "d,a,b,c", "c >= 0 ? a : b" => compare::slct;
    }
    Move {
        "mov" "", "pred|b16|b32|b64|b128|u16|u32|u64|s16|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", "d,a", "a; {..} packs or unpacks; the address of a symbol" => moves::mov;
        "cvta" "to global|shared|local|const|param|shared::cta|shared::cluster|param::entry!", "u32|u64", "d,a", "generic address of a, or with to the reverse" => moves::cvta;
        "mapa" "shared::cluster", "u32|u64", "d,a,b", "where block b of the cluster has what is at a" => cluster::mapa;
        "getctarank" "shared::cluster", "u32|u64", "d,a", "in which block of the cluster a lies" => cluster::getctarank;
        "isspacep" "global|shared|local|const|param|shared::cta|shared::cluster|param::entry!", "", "p,a", "whether generic address a is in the space" => moves::isspacep;
    }
    Convert {
        "cvt" "sat", CVT_INT_INT, "d,a", "a extended or cut; sat clamps" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi! ftz sat", "u8|u16|u32|u64|s8|s16|s32|s64,f32", "d,a", "a rounded to an integer and clamped" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi! sat", "u8|u16|u32|u64|s8|s16|s32|s64,f16|bf16|f64", "d,a", "a rounded to an integer and clamped" => convert::cvt;
        "cvt" "rn|rz|rm|rp! ftz sat", "f32,u8|u16|u32|u64|s8|s16|s32|s64", "d,a", "an integer as float" => convert::cvt;
        "cvt" "rn|rz|rm|rp! sat", "f16|f64,u8|u16|u32|u64|s8|s16|s32|s64", "d,a", "an integer as float" => convert::cvt;
        "cvt" "rn|rz|rm|rp!", "bf16,u8|u16|u32|u64|s8|s16|s32|s64", "d,a", "an integer as float" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi ftz sat", "f32,f32", "d,a", "a, rounded to an integral value" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi sat", "f64,f64", "d,a", "a, rounded to an integral value" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi sat", "f16,f16", "d,a", "a, rounded to an integral value" => convert::cvt;
        "cvt" "rni|rzi|rmi|rpi", "bf16,bf16", "d,a", "a, rounded to an integral value" => convert::cvt;
        "cvt" "ftz sat", "f32,f16|bf16", "d,a", "a widened" => convert::cvt;
        "cvt" "ftz sat", "f64,f32", "d,a", "a widened" => convert::cvt;
        "cvt" "sat", "f64,f16|bf16", "d,a", "a widened" => convert::cvt;
        "cvt" "rn|rz|rm|rp! ftz sat", "f32,f64", "d,a", "a narrowed" => convert::cvt;
        "cvt" "rn|rz|rm|rp! sat", "f16,f64", "d,a", "a narrowed" => convert::cvt;
        "cvt" "rn|rz|rm|rp!", "bf16,f64", "d,a", "a narrowed" => convert::cvt;
        "cvt" "rn|rz|rm|rp! ftz relu satfinite sat", "f16,f32", "d,a", "a narrowed" => convert::cvt;
        "cvt" "rn|rz|rm|rp! ftz relu satfinite", "bf16,f32", "d,a", "a narrowed" => convert::cvt;
        "cvt" "rn|rz|rm|rp sat", "f16,bf16", "d,a", "a in the other format" => convert::cvt;
        "cvt" "rn|rz|rm|rp", "bf16,f16", "d,a", "a in the other format" => convert::cvt;
        "cvt" "rn|rz! relu satfinite", "f16x2|bf16x2,f32", "d,a,b", "a and b narrowed, a above b" => convert::cvt;
        "cvt" "rna|rn|rz! satfinite relu", "tf32,f32", "d,a", "a with 10 bits of mantissa" => convert::cvt;
        "cvt" "rn! satfinite! relu", "e4m3x2|e5m2x2,f32", "d,a,b", "a and b narrowed, a above b" => convert::cvt;
        "cvt" "rn! satfinite! relu", "e4m3x2|e5m2x2,f16x2", "d,a", "both halves narrowed" => convert::cvt;
        "cvt" "rn! relu", "f16x2,e4m3x2|e5m2x2", "d,a", "both bytes widened" => convert::cvt;
        "cvt" "pack! sat!", "u16|s16,s32", "d,a,b", "a and b clamped, a above b" => convert::cvt_pack;
        "cvt" "pack! sat!", "u8|s8,s32,b32", "d,a,b,c", "a and b clamped, above the low half of c" => convert::cvt_pack;
        "cvt" "pack! sat! u4|s4|u2|s2!", "s32,b32", "d,a,b,c", "a and b clamped, below the low bits of c" => convert::cvt_pack;
    }
    Control {
        "bra" "uni", "", "l", "goes on at the label" => |l, f| l.branch(&f.ops[0]);
        "brx" "idx! uni", "", "a,l", "goes on at the a-th of the targets l" => |l, f| l.branch_indexed(&f.ops[0], &f.ops[1]);
        "call" "uni", "", "{(d),}f{,(a)}{,t}", "calls the function f" => |l, f| l.call(f.ops);
        "ret" "uni", "", "", "back to the caller; of an entry, ends the thread" => control::ret;
        "exit" "", "", "", "ends the thread" => control::exit;
        "trap" "", "", "", "a fault" => control::trap;
        "brkpt" "", "", "", "nothing" => control::nop;
        "pmevent" "mask", "", "n", "nothing" => control::nop;
        "alloca" "", "u32|u64", "d,a{,n}", "room for a bytes on the stack" => control::alloca;
        "stacksave" "", "u32|u64", "d", "where the stack ends" => control::stacksave;
        "stackrestore" "", "u32|u64", "a", "gives back what was allocated since a" => control::stackrestore;
        "nanosleep" "", "u32", "a", "lets other warps run" => control::nanosleep;
    }
    Barrier {
        "bar" "cta sync|arrive!", "", "a{,b}", "barrier a of b threads" => barrier::sync;
        "bar" "cta red! popc!", "u32", "d,a{,b},p", "barrier, and the number of threads where p" => barrier::red;
        "bar" "cta red! and|or!", "pred", "p,a{,b},q", "barrier, and whether all or any hold q" => barrier::red;
        "barrier" "cta sync|arrive! aligned", "", "a{,b}", "barrier a of b threads" => barrier::sync;
        "barrier" "cta red! popc! aligned", "u32", "d,a{,b},p", "barrier, and the number of threads where p" => barrier::red;
        "barrier" "cta red! and|or! aligned", "pred", "p,a{,b},q", "barrier, and whether all or any hold q" => barrier::red;
        "barrier" "cluster! arrive! release|relaxed aligned", "", "", "arrives at the barrier of the cluster" => cluster::barrier;
        "barrier" "cluster! wait! acquire aligned", "", "", "waits until all threads of the cluster have arrived" => cluster::barrier;
    }
    Fence {
        "membar" "cta|gl|sys!", "", "", "orders memory: it always is" => mbarrier::fence;
        "membar" "proxy! alias!", "", "", "nothing: there is one path to memory" => control::nop;
        "membar" "proxy! async! global|shared::cta|shared::cluster", "", "", "orders memory and asynchronous copies: it always is" => mbarrier::fence;
        "fence" "sc|acq_rel|acquire|release cta|gpu|sys|cluster!", "", "", "orders memory: it always is" => mbarrier::fence;
        "fence" "acquire|release! sync_restrict::shared::cta|sync_restrict::shared::cluster! cluster!", "", "", "orders memory: it always is" => mbarrier::fence;
        "fence" "mbarrier_init! release! cluster!", "", "", "orders memory: it always is" => mbarrier::fence;
        "fence" "proxy! alias!", "", "", "nothing: there is one path to memory" => control::nop;
        "fence" "proxy! async! global|shared::cta|shared::cluster", "", "", "orders memory and asynchronous copies: it always is" => mbarrier::fence;
        "fence" "proxy! async::generic! acquire|release! sync_restrict::shared::cta|sync_restrict::shared::cluster! cluster!", "", "", "nothing: there is one path to memory" => control::nop;
        "fence" "proxy! tensormap::generic! release! cta|cluster|gpu|sys!", "", "", "orders memory: it always is" => mbarrier::fence;
        "fence" "proxy! tensormap::generic! acquire! cta|cluster|gpu|sys!", "", "[a],n", "orders memory: it always is" => mbarrier::fence;
        "wgmma" "fence! sync! aligned!", "", "", "orders registers and products" => wgmma::fence;
        "setmaxnreg" "inc|dec! sync! aligned!", "u32", "n", "nothing: registers are not modelled" => control::registers;
        "griddepcontrol" "launch_dependents|wait!", "", "", "nothing: grids run one after the other" => control::nop;
    }
    Async {
        "mbarrier" "init! shared|shared::cta", "b64", "[a],b", "makes an mbarrier of b arrivals" => |l, f| mbarrier::mbarrier(l, f, Act::Init);
        "mbarrier" "inval! shared|shared::cta", "b64", "[a]", "ends an mbarrier" => |l, f| mbarrier::mbarrier(l, f, Act::Invalidate);
        "mbarrier" "expect_tx! relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "[a],b", "the phase needs b bytes more" => |l, f| mbarrier::mbarrier(l, f, Act::ExpectBytes);
        "mbarrier" "complete_tx! relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "[a],b", "b of those bytes have come" => |l, f| mbarrier::mbarrier(l, f, Act::CompleteBytes);
        "mbarrier" "arrive! release|relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "d,[a]{,b}", "arrives b times; d is the state before" => |l, f| mbarrier::mbarrier(l, f, Act::Arrive);
        "mbarrier" "arrive! expect_tx|noComplete! release|relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "d,[a],b", "expects b bytes and arrives; or arrives b times" => |l, f| mbarrier::mbarrier(l, f, Act::Arrive);
        "mbarrier" "arrive_drop! release|relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "d,[a]{,b}", "arrives, now and in the phases to come" => |l, f| mbarrier::mbarrier(l, f, Act::Drop);
        "mbarrier" "arrive_drop! expect_tx|noComplete! release|relaxed cta|cluster shared|shared::cta|shared::cluster", "b64", "d,[a],b", "the same, with bytes or a count" => |l, f| mbarrier::mbarrier(l, f, Act::Drop);
        "mbarrier" "test_wait! parity acquire|relaxed cta|cluster shared|shared::cta", "b64", "p,[a],b", "whether the phase of state or parity b is complete" => |l, f| mbarrier::mbarrier(l, f, Act::Wait);
        "mbarrier" "try_wait! parity acquire|relaxed cta|cluster shared|shared::cta", "b64", "p,[a],b{,c}", "the same; other warps run in between" => |l, f| mbarrier::mbarrier(l, f, Act::Wait);
        "mbarrier" "pending_count!", "b64", "d,a", "arrivals pending in state a" => mbarrier::pending_count;
    }
    Warp {
        "bar" "warp! sync!", "", "a", "barrier of the lanes in mask a" => barrier::warp;
        "shfl" "sync! up|down|bfly|idx!", "b32", "d{|p},a,b,c,m", "a of another lane; p whether there is one" => warp::shfl;
        "vote" "sync! all|any|uni!", "pred", "p,q,m", "whether all, any or equally many lanes hold q" => warp::vote;
        "vote" "sync! ballot!", "b32", "d,p,m", "mask of the lanes that hold p" => warp::vote;
        "activemask" "", "b32", "d", "mask of the active lanes" => warp::activemask;
        "elect" "sync!", "", "d|p,m", "one lane of the mask, and whether this is it" => warp::elect;
        "match" "any|all! sync!", "b32|b64", "d{|p},a,m", "mask of the lanes with the same a" => warp::matching;
        "redux" "sync! add|min|max|and|or|xor!", "u32|s32|b32", "d,a,m", "a over the lanes of the mask" => warp::redux;
    }
    Load {
        "ld" "mmio weak|relaxed|acquire|volatile cta|cluster|gpu|sys const|global|local|shared|shared::cta|shared::cluster|param|param::entry|param::func ca|cg|cs|cv|lu nc L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::evict_normal|L2::evict_first|L2::evict_last L2::cache_hint L2::64B|L2::128B|L2::256B v2|v4|v8", MEMORY, "d,[a]{,b}", "loads; b is a cache policy" => memory::ld;
        "ld" "mmio weak|relaxed|acquire|volatile cta|cluster|gpu|sys const|global|local|shared|shared::cta|shared::cluster|param|param::entry|param::func ca|cg|cs|cv|lu nc L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::evict_normal|L2::evict_first|L2::evict_last L2::cache_hint L2::64B|L2::128B|L2::256B", "b128", "d,[a]{,b}", "loads; b is a cache policy" => memory::ld_128;
        "ldu" "global v2|v4", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64", "d,[a]", "loads" => memory::ld;
        "prefetch" "const|param tensormap!", "", "[a]", "nothing" => control::nop;
        "prefetch" "global|local L1|L2|L2::evict_last|L2::evict_normal", "", "[a]", "nothing" => control::nop;
        "prefetchu" "L1!", "", "[a]", "nothing" => control::nop;
        "applypriority" "global L2::evict_normal!", "", "[a],n", "nothing" => control::nop;
        "discard" "global L2!", "", "[a],n", "nothing" => control::nop;
        "createpolicy" "fractional! L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged! L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged", "b64", "d{,a}", "0: caches are not modelled" => control::policy;
        "createpolicy" "range! global L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged! L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged", "b64", "d,[a],b,c", "0: caches are not modelled" => control::policy;
        "createpolicy" "cvt! L2!", "b64", "d,a", "0: caches are not modelled" => control::policy;
    }
    Store {
        "st" "mmio weak|relaxed|release|volatile cta|cluster|gpu|sys global|local|shared|shared::cta|shared::cluster|param|param::func wb|cg|cs|wt L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::evict_normal|L2::evict_first|L2::evict_last L2::cache_hint v2|v4|v8", MEMORY, "[a],b{,c}", "stores b; c is a cache policy" => memory::st;
        "st" "mmio weak|relaxed|release|volatile cta|cluster|gpu|sys global|local|shared|shared::cta|shared::cluster|param|param::func wb|cg|cs|wt L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate L2::evict_normal|L2::evict_first|L2::evict_last L2::cache_hint", "b128", "[a],b{,c}", "stores b; c is a cache policy" => memory::st_128;
    }
    Atomic {
        "atom" "relaxed|acquire|release|acq_rel cta|cluster|gpu|sys global|shared|shared::cta|shared::cluster add|min|max|and|or|xor|exch|cas|inc|dec! noftz L2::cache_hint v2|v4|v8", "b16|b32|b64|u32|u64|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", "d,[a],b{,c}", "reads to d and combines with b, in one step" => memory::atom;
        "atom" "relaxed|acquire|release|acq_rel cta|cluster|gpu|sys global|shared|shared::cta|shared::cluster exch|cas! L2::cache_hint", "b128", "d,[a],b{,c}", "reads to d and replaces by b, or by c where it is b" => memory::atom_128;
        "red" "relaxed|release cta|cluster|gpu|sys global|shared|shared::cta|shared::cluster add|min|max|and|or|xor|inc|dec! noftz L2::cache_hint v2|v4|v8", "b32|b64|u32|u64|s32|s64|f32|f64|f16|bf16|f16x2|bf16x2", "[a],b{,c}", "combines with b in one step" => memory::atom;
    }
    Async {
        "cp" "async! ca|cg! shared|shared::cta! global! L2::cache_hint L2::64B|L2::128B|L2::256B", "", "[d],[a],n{,b}{,c}", "copies n bytes, b of them from a, the rest 0" => memory::cp_async;
        "cp" "async! commit_group!", "", "", "closes the group of copies" => |l, _| l.group(AccessKind::Commit);
        "cp" "async! wait_group!", "", "n", "waits until at most n groups are pending" => memory::wait_group;
        "cp" "async! wait_all!", "", "", "waits for all copies" => |l, _| l.group(AccessKind::Wait(u32::MAX));
        "cp" "async! mbarrier! arrive! noinc shared|shared::cta", "b64", "[a]", "arrives when the thread's copies are through" => |l, f| mbarrier::mbarrier(l, f, if f.has("noinc") { Act::CopiesExpected } else { Act::Copies });
        "cp" "async! bulk! shared::cta|shared::cluster! global! mbarrier::complete_tx::bytes! L2::cache_hint", "", "[d],[a],b,[c]{,e}", "copies b bytes, counted by mbarrier c" => mbarrier::bulk;
        "cp" "async! bulk! shared::cluster! global! mbarrier::complete_tx::bytes! multicast::cluster! L2::cache_hint", "", "[d],[a],b,[c],m{,e}", "copies b bytes to the blocks of mask m, counted there" => mbarrier::bulk;
        "st" "async! weak shared::cluster mbarrier::complete_tx::bytes! v2|v4", "b32|b64|u32|u64|s32|s64|f32|f64", "[d],a,[c]", "stores a, counted by mbarrier c" => mbarrier::stored;
        "red" "async! relaxed! cluster! shared::cluster mbarrier::complete_tx::bytes! add!", "u32|s32|u64", "[d],a,[c]", "combines a with d, counted by mbarrier c" => mbarrier::stored;
        "red" "async! relaxed! cluster! shared::cluster mbarrier::complete_tx::bytes! min|max!", "u32|s32", "[d],a,[c]", "combines a with d, counted by mbarrier c" => mbarrier::stored;
        "red" "async! relaxed! cluster! shared::cluster mbarrier::complete_tx::bytes! inc|dec!", "u32", "[d],a,[c]", "combines a with d, counted by mbarrier c" => mbarrier::stored;
        "red" "async! relaxed! cluster! shared::cluster mbarrier::complete_tx::bytes! and|or|xor!", "b32", "[d],a,[c]", "combines a with d, counted by mbarrier c" => mbarrier::stored;
        "cp" "async! bulk! shared::cluster! shared::cta! mbarrier::complete_tx::bytes!", "", "[d],[a],b,[c]", "copies b bytes, counted by mbarrier c" => mbarrier::bulk;
        "cp" "async! bulk! global! shared::cta! bulk_group! L2::cache_hint", "", "[d],[a],b{,e}", "copies b bytes" => mbarrier::bulk;
        "cp" "reduce! async! bulk! shared::cluster! shared::cta! mbarrier::complete_tx::bytes! add!", "u32|s32|u64", "[d],[a],b,[c]", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! shared::cluster! shared::cta! mbarrier::complete_tx::bytes! min|max!", "u32|s32", "[d],[a],b,[c]", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! shared::cluster! shared::cta! mbarrier::complete_tx::bytes! inc|dec!", "u32", "[d],[a],b,[c]", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! shared::cluster! shared::cta! mbarrier::complete_tx::bytes! and|or|xor!", "b32", "[d],[a],b,[c]", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! global! shared::cta! bulk_group! L2::cache_hint add!", "u32|s32|u64|f32|f64", "[d],[a],b{,e}", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! global! shared::cta! bulk_group! L2::cache_hint add! noftz!", "f16|bf16", "[d],[a],b{,e}", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! global! shared::cta! bulk_group! L2::cache_hint min|max!", "u32|s32|u64|s64|f16|bf16", "[d],[a],b{,e}", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! global! shared::cta! bulk_group! L2::cache_hint inc|dec!", "u32", "[d],[a],b{,e}", "combines b bytes with d" => mbarrier::bulk;
        "cp" "reduce! async! bulk! global! shared::cta! bulk_group! L2::cache_hint and|or|xor!", "b32|b64", "[d],[a],b{,e}", "combines b bytes with d" => mbarrier::bulk;
        "cp" "async! bulk! tensor! 1d|2d|3d|4d|5d! shared::cta|shared::cluster! global! tile mbarrier::complete_tx::bytes! L2::cache_hint", "", "[d],[a;x],[c]{,e}", "copies a box of tensor map a from x, counted by mbarrier c" => mbarrier::tensor;
        "cp" "async! bulk! tensor! 1d|2d|3d|4d|5d! shared::cluster! global! tile mbarrier::complete_tx::bytes! multicast::cluster! L2::cache_hint", "", "[d],[a;x],[c],m{,e}", "copies a box to the blocks of mask m, counted there" => mbarrier::tensor;
        "cp" "async! bulk! tensor! 1d|2d|3d|4d|5d! global! shared::cta! tile bulk_group! L2::cache_hint", "", "[d;x],[a]{,e}", "copies a box to tensor map d from x on" => mbarrier::tensor;
        "cp" "reduce! async! bulk! tensor! 1d|2d|3d|4d|5d! global! shared::cta! add|min|max|inc|dec|and|or|xor! tile bulk_group! L2::cache_hint", "", "[d;x],[a]{,e}", "combines a box with that of tensor map d" => mbarrier::tensor;
        "cp" "async! bulk! prefetch! tensor! 1d|2d|3d|4d|5d! L2! global! tile L2::cache_hint", "", "[a;x]{,c}", "nothing" => control::nop;
        "wgmma" "commit_group! sync! aligned!", "", "", "closes the group of products" => wgmma::commit;
        "wgmma" "wait_group! sync! aligned!", "", "n", "waits until at most n groups are pending" => wgmma::wait;
        "cp" "async! bulk! commit_group!", "", "", "closes the group of bulk copies" => mbarrier::bulk_commit;
        "cp" "async! bulk! wait_group! read", "", "n", "waits until at most n bulk groups are pending" => mbarrier::bulk_wait;
        "cp" "async! bulk! prefetch! L2! global! L2::cache_hint", "", "[a],b{,c}", "nothing" => control::nop;
    }
    Matrix {
        "ldmatrix" "sync! aligned! m8n8! x1|x2|x4! trans shared|shared::cta", "b16", "d,[a]", "fragments of 8x8 matrices" => matrix::ldmatrix;
        "stmatrix" "sync! aligned! m8n8! x1|x2|x4! trans shared|shared::cta", "b16", "[a],b", "stores fragments of 8x8 matrices" => matrix::stmatrix;
        "movmatrix" "sync! aligned! m8n8! trans!", "b16", "d,a", "an 8x8 matrix transposed" => matrix::movmatrix;
    }
    Tensor {
        "mma" "sync! aligned! m16n8k16|m16n8k8! row! col!", "f16|f32,f16,f16,f16|f32", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m8n8k4! row|col! row|col!", "f16|f32,f16,f16,f16", "d,a,b,c", "a * b + c, in each quad pair" => tensor::mma_volta;
        "mma" "sync! aligned! m8n8k4! row|col! row|col!", "f32,f16,f16,f32", "d,a,b,c", "a * b + c, in each quad pair" => tensor::mma_volta;
        "mma" "sync! aligned! m16n8k16|m16n8k8! row! col!", "f32,bf16,bf16,f32", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m16n8k8|m16n8k4! row! col!", "f32,tf32,tf32,f32", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m8n8k4|m16n8k4|m16n8k8|m16n8k16! row! col! rn", "f64,f64,f64,f64", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m8n8k16|m16n8k16|m16n8k32! row! col! satfinite", "s32,s8|u8,s8|u8,s32", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m16n8k32|m16n8k16! row! col!", "f32,e4m3|e5m2,e4m3|e5m2,f32", "d,a,b,c", "a * b + c" => tensor::mma;
        "mma" "sync! aligned! m16n8k32|m16n8k16! row! col!", "f16,e4m3|e5m2,e4m3|e5m2,f16", "d,a,b,c", "a * b + c" => tensor::mma;
        "wmma" "load! a|b! sync! aligned! row|col! m16n16k16|m32n8k16|m8n32k16! global|shared|shared::cta", "f16|bf16|s8|u8", "d,[a]{,b}", "a fragment of a matrix with b elements from row to row" => wmma::wmma_load;
        "wmma" "load! c! sync! aligned! row|col! m16n16k16|m32n8k16|m8n32k16! global|shared|shared::cta", "f16|f32|s32", "d,[a]{,b}", "a fragment of an accumulator" => wmma::wmma_load;
        "wmma" "store! d! sync! aligned! row|col! m16n16k16|m32n8k16|m8n32k16! global|shared|shared::cta", "f16|f32|s32", "[a],b{,c}", "stores a fragment of an accumulator" => wmma::wmma_store;
        "wmma" "load! a|b! sync! aligned! row|col! m16n16k8! global|shared|shared::cta", "tf32", "d,[a]{,b}", "a fragment of a matrix with b elements from row to row" => wmma::wmma_load;
        "wmma" "load! c! sync! aligned! row|col! m16n16k8! global|shared|shared::cta", "f32", "d,[a]{,b}", "a fragment of an accumulator" => wmma::wmma_load;
        "wmma" "store! d! sync! aligned! row|col! m16n16k8! global|shared|shared::cta", "f32", "[a],b{,c}", "stores a fragment of an accumulator" => wmma::wmma_store;
        "wmma" "load! a|b! sync! aligned! row|col! m8n8k4! global|shared|shared::cta", "f64", "d,[a]{,b}", "a fragment of a matrix with b elements from row to row" => wmma::wmma_load;
        "wmma" "load! c! sync! aligned! row|col! m8n8k4! global|shared|shared::cta", "f64", "d,[a]{,b}", "a fragment of an accumulator" => wmma::wmma_load;
        "wmma" "store! d! sync! aligned! row|col! m8n8k4! global|shared|shared::cta", "f64", "[a],b{,c}", "stores a fragment of an accumulator" => wmma::wmma_store;
        "wmma" "mma! sync! aligned! row|col! row|col! m16n16k16|m32n8k16|m8n32k16! type satfinite", "f16|f32,f16|f32", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wmma" "mma! sync! aligned! row|col! row|col! m16n16k16|m32n8k16|m8n32k16! type satfinite", "f16|f32,f16,f16,f16|f32", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wmma" "mma! sync! aligned! row|col! row|col! m16n16k16|m32n8k16|m8n32k16!", "f32,bf16,bf16,f32", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wmma" "mma! sync! aligned! row|col! row|col! m16n16k16|m32n8k16|m8n32k16! type satfinite", "s32,s8|u8,s8|u8,s32", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wmma" "mma! sync! aligned! row|col! row|col! m16n16k8!", "f32,tf32,tf32,f32", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wmma" "mma! sync! aligned! row|col! row|col! m8n8k4! rn", "f64,f64,f64,f64", "d,a,b,c", "a * b + c" => wmma::wmma_mma;
        "wgmma" "mma_async! sync! aligned! m64nNk16!", "f16|f32,f16,f16", "d,a,b,p,n,n,n{,n}", "a * b, with p + d, by four warps; N: 8 to 256 by 8" => wgmma::mma_async;
        "wgmma" "mma_async! sync! aligned! m64nNk16!", "f32,bf16,bf16", "d,a,b,p,n,n,n{,n}", "the same" => wgmma::mma_async;
        "wgmma" "mma_async! sync! aligned! m64nNk8!", "f32,tf32,tf32", "d,a,b,p,n,n", "the same" => wgmma::mma_async;
        "wgmma" "mma_async! sync! aligned! m64nNk32!", "f16|f32,e4m3|e5m2,e4m3|e5m2", "d,a,b,p,n,n", "the same" => wgmma::mma_async;
        "wgmma" "mma_async! sync! aligned! m64nNk32! satfinite", "s32,s8|u8,s8|u8", "d,a,b,p", "the same; N: 8, 24 or 16 to 256 by 16" => wgmma::mma_async;
    }
};
