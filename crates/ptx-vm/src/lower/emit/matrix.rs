//! Matrix fragments: `ldmatrix`, `stmatrix`, `movmatrix`.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::data;
use super::memory::{Target, access, space, target};
use crate::ir::{Access, AccessKind, handler};
use crate::parse::{Operand, Space, Ty};
use crate::step::matrix;

pub(crate) fn ldmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
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
        (1, false) => handler::<matrix::LdMatrix<1, false>>(),
        (2, false) => handler::<matrix::LdMatrix<2, false>>(),
        (_, false) => handler::<matrix::LdMatrix<4, false>>(),
        (1, true) => handler::<matrix::LdMatrix<1, true>>(),
        (2, true) => handler::<matrix::LdMatrix<2, true>>(),
        (_, true) => handler::<matrix::LdMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, n, t.offset);
    let order = if f.has("trans") { Access::TRANSPOSED } else { 0 };
    raw.meta.access = Some(Access { order, ..access(AccessKind::Rows(8 * n as u32), &t, 16) });
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

pub(crate) fn stmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
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
        (1, false) => handler::<matrix::StMatrix<1, false>>(),
        (2, false) => handler::<matrix::StMatrix<2, false>>(),
        (_, false) => handler::<matrix::StMatrix<4, false>>(),
        (1, true) => handler::<matrix::StMatrix<1, true>>(),
        (2, true) => handler::<matrix::StMatrix<2, true>>(),
        (_, true) => handler::<matrix::StMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, 0, t.offset);
    raw.meta.access = Some(access(AccessKind::RowsStore(8 * n as u32, f.has("trans")), &t, 16));
    raw.access_addr = t.addr;
    Ok(())
}

pub(crate) fn movmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, a) = (l.dst(&f.ops[0], Ty::B32)?, l.src(&f.ops[1], Ty::B32)?);
    l.op::<matrix::MovMatrix>(d, &[a], 0);
    l.impure();
    Ok(())
}
