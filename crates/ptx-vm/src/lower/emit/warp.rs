//! Exchange among the lanes of a warp.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Val, handler};
use crate::parse::{Operand, Ty};
use crate::step::warp;

/// The membermask of a `.sync` instruction; the sink when it is the constant of all lanes.
pub(crate) fn membermask<'a>(l: &mut Lower<'a>, operand: Option<&Operand<'a>>) -> R<Val> {
    match operand {
        None => Ok(Val::None),
        Some(Operand::Int(n)) if *n as u32 == u32::MAX => Ok(Val::None),
        Some(operand) => l.src(operand, Ty::U32),
    }
}

pub(crate) fn shfl<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, p) = match &f.ops[0] {
        Operand::Pair(d, p) => (l.dst(d, Ty::B32)?, l.dst_pred(p)?),
        d => (l.dst(d, Ty::B32)?, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], Ty::B32)?;
    let b = l.src(&f.ops[2], Ty::B32)?;
    let c = l.src(&f.ops[3], Ty::B32)?;
    let (run, mode) = if f.has("up") {
        (handler::<warp::Shuffle<0>>(), 0)
    } else if f.has("down") {
        (handler::<warp::Shuffle<1>>(), 1)
    } else if f.has("bfly") {
        (handler::<warp::Shuffle<2>>(), 2)
    } else {
        (handler::<warp::Shuffle<3>>(), 3)
    };
    let members = membermask(l, f.ops.get(4))?;
    l.push_list(run, vec![d, a, b, c, p, members], 1, mode);
    Ok(())
}

pub(crate) fn vote<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (p, negated) = l.pred(&f.ops[1])?;
    let negated = i64::from(negated) << 8;
    let members = membermask(l, f.ops.get(2))?;
    if f.has("ballot") {
        let d = l.dst(&f.ops[0], Ty::B32)?;
        l.op::<warp::Vote>(d, &[p, members], 3 | negated);
    } else {
        let d = l.dst_pred(&f.ops[0])?;
        let how = if f.has("all") {
            0
        } else if f.has("any") {
            1
        } else {
            2
        };
        l.push(handler::<warp::Vote>(), [d, p, members, Val::None], 0, how | negated);
    }
    l.impure();
    Ok(())
}

pub(crate) fn elect<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let Operand::Pair(d, p) = &f.ops[0] else { return l.unknown("two destinations expected: d|p") };
    let d = if matches!(**d, Operand::Name("_")) { Val::None } else { l.dst(d, Ty::B32)? };
    let p = l.dst_pred(p)?;
    let members = membermask(l, f.ops.get(1))?;
    l.push(handler::<warp::Elect>(), [d, p, members, Val::None], 1, 0);
    l.impure();
    Ok(())
}

pub(crate) fn matching<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, p) = match &f.ops[0] {
        Operand::Pair(d, p) => (l.dst(d, Ty::B32)?, l.dst_pred(p)?),
        d => (l.dst(d, Ty::B32)?, Val::Raw(0)),
    };
    let a = l.src(&f.ops[1], f.ty())?;
    let imm = i64::from(f.has("all")) | i64::from(f.ty() == Ty::B64) << 1;
    let members = membermask(l, f.ops.get(2))?;
    l.push(handler::<warp::Match>(), [d, a, p, members], 1, imm);
    l.impure();
    Ok(())
}

pub(crate) fn redux<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B32)?;
    let a = l.src(&f.ops[1], Ty::B32)?;
    let how = ["add", "min", "max", "and", "or", "xor"].iter().position(|m| f.has(m)).unwrap_or(0) as i64;
    let members = membermask(l, f.ops.get(2))?;
    l.op::<warp::Redux>(d, &[a, members], how | i64::from(f.ty() == Ty::S32) << 8);
    l.impure();
    Ok(())
}

pub(crate) fn activemask<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let d = l.dst(&f.ops[0], Ty::B32)?;
    l.op::<warp::ActiveMask>(d, &[], 0);
    l.impure();
    Ok(())
}
