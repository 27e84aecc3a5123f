//! Fences, barriers in shared memory, and the bulk copies they count.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::data;
use super::memory::{atomic_kind, ordered, vector_lanes};
use crate::ir::{Access, AccessKind, Val, Where, handler};
use crate::memory::SHARED_WINDOW;
use crate::parse::{Operand, Space, Ty};
use crate::step::alu::BinOp;
use crate::step::bulk::{AsyncStore, Bulk, BulkGroup, Tensor};
use crate::step::mbarrier::{Act, Fence, Mbarrier};
use crate::step::ops::{Add64, And32};

pub(crate) fn fence<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let scope = match () {
        () if f.has("proxy") => 2,
        () if f.has("mbarrier_init") => 3,
        () => i64::from(!f.has("cta")),
    };
    l.effect(handler::<Fence>(), [Val::None; 4], scope)
}

/// Everything but `pending_count`.
pub(crate) fn mbarrier<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, act: Act) -> R {
    let has_result = matches!(act, Act::Arrive | Act::Drop | Act::Wait);
    ordered(l, f)?;
    let rest = &f.ops[usize::from(has_result)..];
    let (addr, offset, symbol) = l.address(&rest[0], false, Space::Shared)?;
    let shared = ["shared", "shared::cta", "shared::cluster"].iter().any(|m| f.has(m)) || symbol == Some(Space::Shared);
    let offset = if shared { offset.wrapping_add(SHARED_WINDOW as i64) } else { offset };
    let mut flags = act as u32;
    for (name, flag) in [
        ("relaxed", Act::RELAXED),
        ("noComplete", Act::NO_COMPLETE),
        ("expect_tx", Act::EXPECT),
        ("parity", Act::PARITY),
    ] {
        flags |= if f.has(name) { flag } else { 0 };
    }
    let operand = match rest.get(1) {
        Some(o) if act == Act::Wait && !f.has("parity") => l.src(o, Ty::B64)?,
        Some(o) => l.src(o, Ty::U32)?,
        None => Val::None,
    };
    let d = match act {
        Act::Wait => l.dst_pred(&f.ops[0])?,
        Act::Arrive | Act::Drop if !matches!(f.ops[0], Operand::Name("_")) => l.dst(&f.ops[0], Ty::B64)?,
        _ => Val::None,
    };
    let raw = l.push_list(handler::<Mbarrier>(), vec![d, addr, operand], 1, offset);
    raw.aux = Val::Raw(flags);
    Ok(())
}

/// The low 20 bits of a state: the arrivals that were pending.
pub(crate) fn pending_count<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let state = l.src(&f.ops[1], Ty::B64)?;
    let state = l.convert(state, Where::W64, Where::W32, false);
    let mask = l.imm(Where::W32, 0xf_ffff);
    let d = l.dst(&f.ops[0], Ty::B32)?;
    l.op::<BinOp<And32>>(d, &[state, mask], 0);
    Ok(())
}

/// An address as one generic 64-bit value.
fn generic<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, shared: bool) -> R<Val> {
    let (addr, offset, _) = l.address(operand, false, if shared { Space::Shared } else { Space::Global })?;
    let offset = if shared { offset.wrapping_add(SHARED_WINDOW as i64) } else { offset };
    let offset = l.imm(Where::W64, offset as u64);
    let sum = Val::Reg(l.fresh(Where::W64));
    l.op::<BinOp<Add64>>(sum, &[addr, offset], 0);
    Ok(sum)
}

/// The operation of a reduction and its type.
fn reduction(f: &Form<'_, '_>) -> i64 {
    let (atom, ty) = atomic_kind(f);
    i64::from(atom) | i64::from(ty) << 8
}

/// `st.async` and `red.async`.
pub(crate) fn stored<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.ty();
    let count = vector_lanes(f);
    if count == 4 && ty.bytes() > 4 {
        return l.unknown("four elements have 32 bits");
    }
    let (to, barrier) = (generic(l, &f.ops[0], true)?, generic(l, &f.ops[2], true)?);
    let mut list = vec![to, barrier];
    for operand in data(l, &f.ops[1], count)? {
        list.push(l.src(operand, ty)?);
    }
    let how = if f.name == "red" { reduction(f) + 1 } else { 0 };
    let raw = l.push_list(handler::<AsyncStore>(), list, 0, ty.bytes() as i64 | (count as i64) << 8 | how << 16);
    raw.aux = Val::Raw(AsyncStore::FLAG);
    raw.meta.access = Some(Access::bare(AccessKind::Bulk));
    Ok(())
}

/// `cp.async.bulk` and `cp.reduce.async.bulk`.
pub(crate) fn bulk<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let out = f.has("bulk_group");
    let to = generic(l, &f.ops[0], !out)?;
    let from = generic(l, &f.ops[1], out || !f.has("global"))?;
    l.multiple(&f.ops[2], 16, "the size")?;
    let size = l.src(&f.ops[2], Ty::U32)?;
    let barrier = if out { Val::None } else { generic(l, &f.ops[3], true)? };
    let ranks = if f.has("multicast::cluster") { l.src(&f.ops[4], Ty::U16)? } else { Val::None };
    let how = if f.has("reduce") { reduction(f) } else { -1 };
    l.push_list(handler::<Bulk>(), vec![to, from, size, barrier, ranks], 0, how).meta.access =
        Some(Access::bare(AccessKind::Bulk));
    Ok(())
}

/// `cp.async.bulk.tensor` and `cp.reduce.async.bulk.tensor`: the operands are those of [`bulk`], with a map and coordinates on the side of global
/// memory.
pub(crate) fn tensor<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let out = f.has("bulk_group");
    let (inner, outer) = if out { (&f.ops[1], &f.ops[0]) } else { (&f.ops[0], &f.ops[1]) };
    let axes = (1..=5).find(|n| f.has(["1d", "2d", "3d", "4d", "5d"][n - 1])).unwrap_or(0);
    let Operand::List(parts) = outer else {
        return l.unknown("expected a tensor map and coordinates, as in [map, {x, y}]");
    };
    let (map, coordinates) = match &parts[..] {
        [map, Operand::Vector(coordinates)] => (map, &coordinates[..]),
        [map, one] => (map, std::slice::from_ref(one)),
        _ => return l.unknown("expected a tensor map and coordinates, as in [map, {x, y}]"),
    };
    if coordinates.len() != axes {
        return l.error(format!("{} coordinates of a tensor of {axes} axes", coordinates.len()));
    }
    let shared = generic(l, inner, true)?;
    let map = generic(l, map, false)?;
    let barrier = if out { Val::None } else { generic(l, &f.ops[2], true)? };
    let ranks = if f.has("multicast::cluster") { l.src(&f.ops[3], Ty::U16)? } else { Val::None };
    let mut list = vec![shared, map, barrier, ranks];
    for coordinate in coordinates {
        list.push(l.src(coordinate, Ty::S32)?);
    }
    let how = if f.has("reduce") { i64::from(atomic_kind(f).0) } else { -1 };
    let raw = l.push_list(handler::<Tensor>(), list, 0, how);
    raw.aux = Val::Raw(axes as u32 | if out { Tensor::OUT } else { 0 });
    raw.meta.access = Some(Access::bare(AccessKind::Bulk));
    Ok(())
}

pub(crate) fn bulk_commit<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    l.effect(handler::<BulkGroup>(), [Val::None; 4], -1)
}

pub(crate) fn bulk_wait<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ops[0] {
        Operand::Int(n) if (0..1 << 31).contains(&n) => {
            l.effect(handler::<BulkGroup>(), [Val::None; 4], n as i64 | i64::from(f.has("read")) << 32)
        }
        _ => l.unknown("expected a number of groups"),
    }
}
