//! Barriers among the threads of a block.

use super::super::lower::{Class, Form, Lower, R, Val};
use crate::exec::control;
use crate::exec::op::handler;
use crate::parse::Ty;

pub(crate) fn sync<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let id = l.src(&f.ops[0], Ty::U32)?;
    let threads = match f.ops.get(1) {
        Some(n) => l.src(n, Ty::U32)?,
        None if f.has("arrive") => return l.error("an arrival needs a thread count"),
        None => Val::None,
    };
    let raw =
        l.push(handler::<control::Barrier>(), [id, threads, Val::Raw(0), Val::Raw(0)], 0, i64::from(f.has("arrive")));
    raw.meta.class = Class::Barrier;
    Ok(())
}

pub(crate) fn red<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
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
