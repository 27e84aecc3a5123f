//! Clusters: addresses in the shared memory of other blocks, and the barrier of the cluster.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use crate::ir::{Class, Exec, Val, Where, handler, width};
use crate::memory::SHARED_WINDOW;
use crate::parse::{Operand, Ty};
use crate::step::alu::BinOp;
use crate::step::cluster::{ClusterBarrier, Mapa, Rank};
use crate::step::ops::Add64;

/// An address of the shared window as a generic one, from what the instruction says it is.
fn generic<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, operand: &Operand<'a>) -> R<Val> {
    let (a, own) = l.any(operand, f.ty())?;
    let a = l.convert(a, own, Where::W64, false);
    if !f.has("shared::cluster") {
        return Ok(a);
    }
    shifted(l, a, SHARED_WINDOW)
}

fn shifted(l: &mut Lower<'_>, a: Val, by: u64) -> R<Val> {
    let (sum, by) = (Val::Reg(l.fresh(Where::W64)), l.imm(Where::W64, by));
    l.op::<BinOp<Add64>>(sum, &[a, by], 0);
    Ok(sum)
}

/// What one of these instructions gives, in a register of its own.
fn of<E: Exec>(l: &mut Lower<'_>, w: Where, [a, b]: [Val; 2]) -> Val {
    let d = Val::Reg(l.fresh(w));
    l.push(handler::<E>(), [d, a, b, Val::None], 1, 0);
    l.impure();
    d
}

pub(crate) fn mapa<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let a = generic(l, f, &f.ops[1])?;
    let rank = l.src(&f.ops[2], Ty::U32)?;
    let mut to = of::<Mapa>(l, Where::W64, [a, rank]);
    if f.has("shared::cluster") {
        to = shifted(l, to, SHARED_WINDOW.wrapping_neg())?;
    }
    let d = l.dst(&f.ops[0], f.ty())?;
    let to = l.convert(to, Where::W64, width(f.ty()), false);
    l.copy(d, to, width(f.ty()));
    Ok(())
}

pub(crate) fn getctarank<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let a = generic(l, f, &f.ops[1])?;
    let rank = of::<Rank>(l, Where::W32, [a, Val::None]);
    let d = l.dst(&f.ops[0], Ty::U32)?;
    l.copy(d, rank, Where::W32);
    Ok(())
}

/// `barrier.cluster`.
pub(crate) fn barrier<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let wait = f.has("wait");
    if f.has("acquire") && !wait || (f.has("release") || f.has("relaxed")) && wait {
        return l.unknown("an arrival releases, a wait acquires");
    }
    let flags = [
        (wait, ClusterBarrier::WAIT),
        (f.has("relaxed"), ClusterBarrier::RELAXED),
        (f.has("aligned"), ClusterBarrier::ALIGNED),
    ];
    let imm = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
    l.push(handler::<ClusterBarrier>(), [Val::None; 4], 0, imm).meta.class = Class::Barrier;
    l.impure();
    Ok(())
}
