//! Barriers among the threads of a block.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::warp::membermask;
use crate::ir::{Access, AccessKind, Class, Val, handler};
use crate::parse::{Space, Ty};
use crate::step::{control, warp};

pub(crate) fn sync<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = l.src(&f.ops[0], Ty::U32)?;
    let threads = match f.ops.get(1) {
        Some(n) => l.src(n, Ty::U32)?,
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
    let id = l.src(&f.ops[1], Ty::U32)?;
    let threads = if f.ops.len() == 4 { l.src(&f.ops[2], Ty::U32)? } else { Val::None };
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
        let (d, _) = l.pred(&f.ops[0])?;
        l.push(handler::<control::Barrier>(), [id, threads, p, d], 0, imm);
    }
    l.impure();
    Ok(())
}
