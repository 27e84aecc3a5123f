//! Barriers among the threads of a block.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::warp::membermask;
use crate::ir::{Access, AccessKind, Class, Val, handler};
use crate::parse::{Operand, Space, Ty};
use crate::step::{control, warp};

/// The number of a barrier.
fn number<'a>(l: &mut Lower<'a>, operand: &Operand<'a>) -> R<Val> {
    l.within(operand, 0..=15, "the number of the barrier")?;
    l.src(operand, Ty::U32)
}

/// How many threads it waits for.
fn count<'a>(l: &mut Lower<'a>, operand: &Operand<'a>) -> R<Val> {
    l.multiple(operand, 32, "the number of threads")?;
    l.src(operand, Ty::U32)
}

pub(crate) fn sync<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = number(l, &f.ops[0])?;
    let threads = match f.ops.get(1) {
        Some(n) => count(l, n)?,
        None if f.has("arrive") => return l.unknown("an arrival needs a thread count"),
        None => Val::None,
    };
    let imm = i64::from(f.has("arrive"));
    let raw = l.push(handler::<control::Barrier>(), [id, threads, Val::Raw(0), Val::Raw(0)], 0, imm);
    raw.meta.class = Class::Barrier;
    Ok(())
}

pub(crate) fn warp<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let mask = membermask(l, f.ops.first())?;
    let kind = AccessKind::WarpSync;
    let access = Access { kind, space: Space::Shared, bytes: 0, lanes: 1, addr: 0, wide: false, offset: 0, order: 0 };
    l.push(handler::<warp::WarpSync>(), [mask, Val::None, Val::None, Val::None], 0, 0).meta.access = Some(access);
    Ok(())
}

pub(crate) fn red<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = number(l, &f.ops[1])?;
    let threads = if f.ops.len() == 4 { count(l, &f.ops[2])? } else { Val::None };
    let Some(last) = f.ops.last() else { return l.unknown("a predicate is missing") };
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
        let d = l.dst_pred(&f.ops[0])?;
        l.push(handler::<control::Barrier>(), [id, threads, p, d], 0, imm);
    }
    l.impure();
    Ok(())
}
