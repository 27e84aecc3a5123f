//! Video instructions: `vadd` … `vset` on parts of registers, and their SIMD forms.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, handler};
use crate::math::video::{Kind, Video, WORD};
use crate::parse::{Operand, Ty};
use crate::step::alu::VideoOp;

/// An operand without its selector or negation, the selector's digits with its letter, and whether it is negated.
fn dissect<'a>(operand: &Operand<'a>) -> (Operand<'a>, Option<&'a str>, bool) {
    let (name, negated) = match operand {
        Operand::Name(name) => (*name, false),
        Operand::Negated(name) => (*name, true),
        other => return (other.clone(), None, false),
    };
    match name.rsplit_once('.') {
        Some((stem, part)) if part.len() > 1 && matches!(part.as_bytes()[0], b'b' | b'h') => {
            (Operand::Name(stem), Some(part), negated)
        }
        _ => (Operand::Name(name), None, negated),
    }
}

/// The selector of a scalar operand.
fn scalar_part(l: &Lower<'_>, part: Option<&str>) -> R<u8> {
    Ok(match part {
        None => WORD,
        Some("b0") => 0,
        Some("b1") => 1,
        Some("b2") => 2,
        Some("b3") => 3,
        Some("h0") => 4,
        Some("h1") => 5,
        Some(other) => return l.unknown(format!("unknown selector `.{other}`")),
    })
}

/// The digits of a SIMD selector, most significant element first.
fn digits(l: &Lower<'_>, part: &str, below: u8) -> R<Vec<u8>> {
    let list: Vec<u8> = part.bytes().skip(1).map(|b| b.wrapping_sub(b'0')).collect();
    if list.iter().any(|d| *d >= below) { l.unknown(format!("unknown selector `.{part}`")) } else { Ok(list) }
}

/// Which part of the result is written, and which parts of the sources are read.
fn select<'a>(l: &Lower<'a>, f: &Form<'_, 'a>, video: &mut Video, [target, a_part, b_part]: [Option<&str>; 3]) -> R {
    let lanes = video.lanes;
    if lanes == 1 {
        video.target = scalar_part(l, target)?;
        video.select[0][0] = scalar_part(l, a_part)?;
        video.select[1][0] = scalar_part(l, b_part)?;
        if video.target != WORD && (video.second != 0 || f.ops.len() < 4) {
            return l.unknown("a merge takes a third source and no second operation");
        }
        if video.second != 0 && f.ops.len() < 4 {
            return l.unknown("the second operation lacks its source");
        }
    } else {
        video.target = match target {
            None => (1 << lanes) - 1,
            Some(part) => digits(l, part, lanes)?.iter().fold(0, |mask, d| mask | 1 << d),
        };
        for (i, part) in [a_part, b_part].into_iter().enumerate() {
            let list = match part {
                None => (0..lanes).rev().map(|n| n + lanes * i as u8).collect(),
                Some(part) => digits(l, part, 2 * lanes)?,
            };
            if list.len() != usize::from(lanes) {
                return l.unknown("a selector names every element");
            }
            for (slot, digit) in video.select[i].iter_mut().zip(list.iter().rev()) {
                *slot = *digit;
            }
        }
    }
    Ok(())
}

/// Emits any of them.
pub(crate) fn emit<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let lanes = match f.name.as_bytes().last() {
        Some(b'2') => 2,
        Some(b'4') => 4,
        _ => 1,
    };
    let kind = match f.name.trim_end_matches(['2', '4']) {
        "vadd" => Kind::Add,
        "vsub" => Kind::Sub,
        "vabsdiff" => Kind::AbsDiff,
        "vmin" => Kind::Min,
        "vmax" => Kind::Max,
        "vavrg" => Kind::Average,
        "vshl" => Kind::ShiftLeft,
        "vshr" => Kind::ShiftRight,
        "vmad" => Kind::MultiplyAdd,
        _ => Kind::Compare,
    };
    let mut signed = [false; 3];
    let first = 3 - f.types.len();
    for (s, ty) in signed[first..].iter_mut().zip(&f.types) {
        *s = *ty == Ty::S32;
    }
    let (d, target, _) = dissect(&f.ops[0]);
    let (a, a_part, a_negated) = dissect(&f.ops[1]);
    let (b, b_part, b_negated) = dissect(&f.ops[2]);
    let (c, c_part, c_negated) = f.ops.get(3).map_or((Operand::Int(0), None, false), dissect);
    if kind != Kind::MultiplyAdd && (a_negated || b_negated || c_negated) || c_part.is_some() {
        return l.unknown("operand of this form is not allowed here");
    }
    let mut video = Video {
        kind,
        compare: ["eq", "ne", "lt", "le", "gt", "ge"].iter().position(|m| f.has(m)).unwrap_or(0) as u8,
        lanes,
        signed,
        saturate: f.has("sat"),
        second: ["add", "min", "max"].iter().position(|m| f.has(m)).map_or(0, |i| i as u8 + 1),
        wrap: f.has("wrap"),
        negate: [a_negated != b_negated, c_negated, f.has("po")],
        scale: if f.has("shr7") {
            7
        } else if f.has("shr15") {
            15
        } else {
            0
        },
        target: 0,
        select: [[0; 4]; 2],
    };
    select(l, f, &mut video, [target, a_part, b_part])?;
    let sources = [l.src(&a, Ty::U32)?, l.src(&b, Ty::U32)?, l.src(&c, Ty::U32)?];
    let mut list = vec![l.dst(&d, Ty::U32)?];
    list.extend(sources);
    list.extend(video.words().map(Val::Raw));
    l.push_list(handler::<VideoOp>(), list, 1, 0).pure_op = true;
    Ok(())
}
