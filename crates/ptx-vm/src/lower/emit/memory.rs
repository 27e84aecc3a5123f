//! Loads, stores, atomics, asynchronous copies.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::data;
use crate::ir::{Access, AccessKind, ConstSource, Handler, Val, Where, handler};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::parse::{Operand, Space, Ty};
use crate::step::alu::*;
use crate::step::ops::{Add64, Sext8To16};
use crate::step::{atomic, copy, find, mem};

pub(crate) fn space(f: &Form<'_, '_>) -> Space {
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
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) addr: Val,
    pub(crate) offset: i64,
    pub(crate) space: Space,
}

pub(crate) fn target<'a>(l: &mut Lower<'a>, operand: &Operand<'a>, space: Space) -> R<Target> {
    let (addr, offset, symbol) = l.address(operand, space == Space::Shared, space)?;
    let (space, offset) = match (space, symbol) {
        // `.param` variables of calls live in local memory here; on the hardware they would be registers.
        (Space::Param, Some(Space::Local)) => (Space::Param, offset.wrapping_add(LOCAL_WINDOW as i64)),
        (Space::Local, _) => (Space::Local, offset.wrapping_add(LOCAL_WINDOW as i64)),
        (Space::Param, _) => (Space::Param, offset.wrapping_add(PARAM_WINDOW as i64)),
        (Space::Generic, Some(Space::Shared)) => (Space::Generic, offset.wrapping_add(SHARED_WINDOW as i64)),
        (Space::Generic, Some(Space::Local)) => (Space::Generic, offset.wrapping_add(LOCAL_WINDOW as i64)),
        (Space::Generic, Some(Space::Param)) => (Space::Generic, offset.wrapping_add(PARAM_WINDOW as i64)),
        (space, _) => (space, offset),
    };
    Ok(Target { addr, offset, space })
}

/// The same for what an instruction says: shared memory of the cluster goes by generic addresses.
pub(crate) fn target_of<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, operand: &Operand<'a>) -> R<Target> {
    if !f.has("shared::cluster") {
        return target(l, operand, space(f));
    }
    let (addr, offset, _) = l.address(operand, false, Space::Shared)?;
    Ok(Target { addr, offset: offset.wrapping_add(SHARED_WINDOW as i64), space: Space::Generic })
}

macro_rules! access_handlers {
    ($name:ident, $op:ident) => {
        pub(crate) fn $name(space: Space, bytes: usize, lanes: usize) -> Option<Handler> {
            fn by<P: find::Place>(bytes: usize, lanes: usize) -> Option<Handler> {
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
                Space::Shared => by::<find::Shared>(bytes, lanes),
                Space::Global | Space::Const => by::<find::Global>(bytes, lanes),
                _ => by::<find::Generic>(bytes, lanes),
            }
        }
    };
}
access_handlers!(load_handler, Load);
access_handlers!(store_handler, Store);

pub(super) fn vector_lanes(f: &Form<'_, '_>) -> usize {
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

/// Width in which the handlers deliver elements of a size.
fn natural(bytes: usize) -> Where {
    match bytes {
        1 | 2 => Where::W16,
        4 => Where::W32,
        _ => Where::W64,
    }
}

/// Loads from a parameter at a fixed place, which is a constant of the launch. Not, if it lies elsewhere: that is a fault when it is executed.
fn parameter<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, regs: &[Operand<'a>]) -> R<bool> {
    let ty = f.ty();
    let bytes = regs.len() * ty.bytes();
    let (Val::Const(_), offset, Some(Space::Param)) = l.address(&f.ops[1], false, Space::Param)? else {
        return Ok(false);
    };
    let Ok(offset) = usize::try_from(offset) else { return Ok(false) };
    if !offset.is_multiple_of(bytes) || offset.checked_add(bytes).is_none_or(|end| end > l.param_bytes) {
        return Ok(false);
    }
    for (i, operand) in regs.iter().enumerate() {
        if matches!(operand, Operand::Name("_")) {
            continue;
        }
        let at = offset + i * ty.bytes();
        let (d, w) = l.wide_dst(operand, ty)?;
        let c = l.constant(w, ConstSource::Param(at as u32, ty));
        l.copy(d, c, w);
    }
    Ok(true)
}

pub(crate) fn ld<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.ty();
    let lanes = vector_lanes(f);
    ordered(l, f)?;
    let regs = data(l, &f.ops[0], lanes)?;
    let wanted = space(f);
    if f.has("nc") && wanted != Space::Global {
        return l.unknown("`.nc` takes `.global`");
    }
    if wanted == Space::Param && parameter(l, f, regs)? {
        return Ok(());
    }
    let t = target_of(l, f, &f.ops[1])?;
    let Some(run) = load_handler(t.space, ty.bytes(), lanes) else {
        return l.unknown("this vector load is not supported");
    };
    let mut dsts = Vec::new();
    let mut after = Vec::new();
    for operand in regs {
        if matches!(operand, Operand::Name("_")) {
            dsts.push(Val::None);
            continue;
        }
        let own = natural(ty.bytes());
        let (d, w) = l.wide_dst(operand, ty)?;
        let byte_sign = ty == Ty::S8;
        if w == own && !byte_sign {
            dsts.push(d);
        } else {
            let temp = Val::Reg(l.fresh(own));
            dsts.push(temp);
            after.push((d, w, temp, own));
        }
    }
    let mut access = access(AccessKind::Load, &t, (ty.bytes() * lanes) as u32);
    access.order = order(f);
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

/// `ld.b128`: two registers of 64 bits, aligned as one.
pub(crate) fn ld_128<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = target_of(l, f, &f.ops[1])?;
    let Some(run) = load_handler(t.space, 8, 2) else { return l.unknown("this vector load is not supported") };
    let d = l.pair(&f.ops[0])?;
    let mut access = access(AccessKind::Load, &t, 16);
    access.order = order(f);
    push_access(l, run, d.to_vec(), &t, 2, true, access);
    Ok(())
}

/// `st.b128`.
pub(crate) fn st_128<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let t = target_of(l, f, &f.ops[0])?;
    let Some(run) = store_handler(t.space, 8, 2) else { return l.unknown("this vector store is not supported") };
    let b = l.pair(&f.ops[1])?;
    let mut access = access(AccessKind::Store, &t, 16);
    access.order = order(f);
    push_access(l, run, b.to_vec(), &t, 2, false, access);
    Ok(())
}

/// The generic address of an atomic, and whether it lies in shared memory by what the instruction says.
fn atomic_place<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>, operand: &Operand<'a>) -> R<(Val, i64, bool)> {
    let space = if f.has("shared::cluster") { Space::Shared } else { space(f) };
    let (addr, offset, symbol) = l.address(operand, false, space)?;
    let shared = space == Space::Shared || symbol == Some(Space::Shared);
    Ok((addr, if shared { offset.wrapping_add(SHARED_WINDOW as i64) } else { offset }, shared))
}

/// `atom.exch.b128` and `atom.cas.b128`.
pub(crate) fn atom_128<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (addr, offset, shared) = atomic_place(l, f, &f.ops[1])?;
    let b = l.pair(&f.ops[2])?;
    let c = match (f.has("cas"), f.ops.get(3)) {
        (true, Some(c)) => l.pair(c)?,
        (true, None) => return l.unknown("`cas` takes three sources"),
        _ => [Val::None; 2],
    };
    let d = l.pair(&f.ops[0])?;
    let t = Target { addr, offset, space: if shared { Space::Shared } else { Space::Generic } };
    let raw = l.push_list(handler::<atomic::Atomic128>(), vec![d[0], d[1], addr, b[0], b[1], c[0], c[1]], 2, offset);
    let mut a = access(AccessKind::Atomic, &t, 16);
    a.wide = true;
    a.order = order(f) | Access::STRONG;
    raw.meta.access = Some(a);
    raw.access_addr = addr;
    Ok(())
}

/// Whether the order of memory that an instruction asks for has a scope, and the scope an order.
pub(crate) fn ordered(l: &Lower<'_>, f: &Form<'_, '_>) -> R {
    let any = |list: &[&'static str]| list.iter().copied().find(|m| f.has(m));
    match (any(&["relaxed", "acquire", "release", "acq_rel"]), any(&["cta", "cluster", "gpu", "sys"])) {
        (Some(order), None) => l.unknown(format!("`.{order}` takes a scope")),
        (None, Some(scope)) => {
            l.unknown(format!("`.{scope}` takes an order: it is the scope of `.relaxed` and the like"))
        }
        _ => Ok(()),
    }
}

/// What the modifiers of a load, store or atomic order.
fn order(f: &Form<'_, '_>) -> u8 {
    let mut order = 0;
    for m in &f.mods {
        order |= match *m {
            "volatile" | "relaxed" | "mmio" => Access::STRONG,
            "acquire" => Access::STRONG | Access::ACQUIRE,
            "release" => Access::STRONG | Access::RELEASE,
            "acq_rel" => Access::STRONG | Access::ACQUIRE | Access::RELEASE,
            "cta" => Access::CTA,
            "nc" => Access::CONSTANT,
            _ => 0,
        };
    }
    order
}

pub(crate) fn access(kind: AccessKind, t: &Target, bytes: u32) -> Access {
    let wide = t.space != Space::Shared;
    Access { kind, space: t.space, bytes, lanes: 1, addr: 0, wide, offset: t.offset, order: 0 }
}

pub(crate) fn push_access(
    l: &mut Lower<'_>,
    run: Handler,
    regs: Vec<Val>,
    t: &Target,
    lanes: usize,
    load: bool,
    access: Access,
) {
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
    raw.meta.access = Some(Access { lanes: lanes as u32, ..access });
    raw.access_addr = t.addr;
}

/// Moves a register to or from local memory.
pub(crate) fn spill(l: &mut Lower<'_>, load: bool, w: Where, reg: Val, base: Val, at: u64) {
    let t = Target { addr: base, offset: (at + LOCAL_WINDOW) as i64, space: Space::Local };
    let bytes = w.bytes();
    let (run, kind) = if load {
        (load_handler(t.space, bytes, 1), AccessKind::Load)
    } else {
        (store_handler(t.space, bytes, 1), AccessKind::Store)
    };
    if let Some(run) = run {
        let access = access(kind, &t, bytes as u32);
        push_access(l, run, vec![reg], &t, 1, load, access);
    }
}

pub(crate) fn st<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let ty = f.ty();
    let lanes = vector_lanes(f);
    ordered(l, f)?;
    if let (Space::Param, (_, _, Some(Space::Param))) = (space(f), l.address(&f.ops[0], false, space(f))?) {
        return l.error("a kernel's parameters are not written to");
    }
    let t = target_of(l, f, &f.ops[0])?;
    let Some(run) = store_handler(t.space, ty.bytes(), lanes) else {
        return l.unknown("this vector store is not supported");
    };
    let mut regs = Vec::new();
    for operand in data(l, &f.ops[1], lanes)? {
        let (value, w) = l.wide_src(operand, ty)?;
        regs.push(l.convert(value, w, natural(ty.bytes()), false));
    }
    let mut access = access(AccessKind::Store, &t, (ty.bytes() * lanes) as u32);
    access.order = order(f);
    push_access(l, run, regs, &t, lanes, false, access);
    Ok(())
}

const ATOMICS: [&str; 10] = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];

/// The operation and type of an atomic or reduction, as their numbers.
pub(crate) fn atomic_kind(f: &Form<'_, '_>) -> (u32, u32) {
    let kind = ATOMICS.iter().position(|m| f.has(m)).unwrap_or(0);
    let ty = match f.ty() {
        Ty::B16 => atomic::AtomTy::B16,
        Ty::B32 | Ty::U32 => atomic::AtomTy::U32,
        Ty::B64 | Ty::U64 => atomic::AtomTy::U64,
        Ty::S32 => atomic::AtomTy::S32,
        Ty::S64 => atomic::AtomTy::S64,
        Ty::F32 => atomic::AtomTy::F32,
        Ty::F64 => atomic::AtomTy::F64,
        Ty::F16 => atomic::AtomTy::F16,
        Ty::Bf16 => atomic::AtomTy::Bf16,
        Ty::F16x2 => atomic::AtomTy::F16x2,
        _ => atomic::AtomTy::Bf16x2,
    };
    (kind as u32, ty as u32)
}

pub(crate) fn atom<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let red = f.name == "red";
    let ty = f.ty();
    let (kind, as_ty) = atomic_kind(f);
    let count = vector_lanes(f);
    let known = match ty {
        Ty::F32 => count <= 4 && f.has("add"),
        Ty::F16x2 | Ty::Bf16x2 => count <= 4 && (f.has("add") || f.has("min") || f.has("max")),
        Ty::F16 | Ty::Bf16 => f.has("add") || f.has("min") || f.has("max"),
        _ => false,
    };
    if count > 1 && (!known || space(f) == Space::Shared || f.has("shared::cluster")) {
        return l.unknown("no such operation on vectors");
    }
    let half = matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2);
    let goes = match ATOMICS[kind as usize] {
        "and" | "or" | "xor" | "exch" => matches!(ty, Ty::B32 | Ty::B64),
        "cas" => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
        "inc" | "dec" => ty == Ty::U32,
        "add" => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64) || half,
        _ => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) || half && count > 1,
    };
    if !goes {
        return l.unknown(format!("`.{}` does not take .{}", ATOMICS[kind as usize], ty.name()));
    }
    if half && !f.has("noftz") {
        return l.unknown(format!("`.noftz` is missing: subnormal .{} count", ty.name()));
    }
    let rest = if red { f.ops } else { &f.ops[1..] };
    let mut list = vec![Val::None; count];
    if !red && !matches!(f.ops[0], Operand::Name("_")) {
        for (d, operand) in list.iter_mut().zip(data(l, &f.ops[0], count)?) {
            *d = if matches!(operand, Operand::Name("_")) { Val::None } else { l.dst(operand, ty)? };
        }
    }
    // Atomics always go by generic addresses.
    let (addr, offset, shared) = atomic_place(l, f, &rest[0])?;
    let c = match (f.has("cas"), rest.get(2)) {
        (true, Some(c)) => l.src(c, ty)?,
        (true, None) => return l.unknown("`cas` takes three sources"),
        _ => Val::None,
    };
    for operand in data(l, &rest[1], count)? {
        list.push(l.src(operand, ty)?);
    }
    list.extend([addr, c, Val::Raw(kind), Val::Raw(as_ty)]);
    let t = Target { addr, offset, space: if shared { Space::Shared } else { Space::Generic } };
    let raw = l.push_list(handler::<atomic::Atomic>(), list, count, offset);
    raw.r[0] = Val::Raw(count as u32);
    let mut a = access(AccessKind::Atomic, &t, (count * ty.bytes()) as u32);
    a.wide = true;
    a.order = order(f) | Access::STRONG;
    raw.meta.access = Some(a);
    raw.access_addr = addr;
    Ok(())
}

pub(crate) fn cp_async<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let to = target(l, &f.ops[0], Space::Shared)?;
    let from = target(l, &f.ops[1], Space::Global)?;
    let Operand::Int(bytes) = f.ops[2] else { return l.unknown("the size is a constant") };
    if f.has("cg") {
        l.within(&f.ops[2], 16..=16, "the size")?;
    }
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
            l.within(operand, 0..=bytes, "the size of the source")?;
            size = l.src(operand, Ty::U32)?;
        }
    }
    let run = match bytes {
        4 => handler::<copy::CpAsync<4>>(),
        8 => handler::<copy::CpAsync<8>>(),
        16 => handler::<copy::CpAsync<16>>(),
        _ => return l.unknown("4, 8 or 16 bytes can be copied"),
    };
    // There is room for an offset of 32 bits: not for the place of a variable.
    let (from_addr, from_offset) = match i32::try_from(from.offset) {
        Ok(offset) => (from.addr, offset),
        Err(_) => {
            let (sum, offset) = (Val::Reg(l.fresh(Where::W64)), l.imm(Where::W64, from.offset as u64));
            l.op::<BinOp<Add64>>(sum, &[from.addr, offset], 0);
            (sum, 0)
        }
    };
    let raw = l.push_list(run, vec![to.addr, from_addr, size], 0, to.offset);
    raw.r[0] = Val::Raw(from_offset as u32);
    raw.cached = true;
    let mut a = access(AccessKind::CopyAsync, &to, bytes as u32);
    a.wide = false;
    raw.meta.access = Some(a);
    raw.access_addr = to.addr;
    Ok(())
}

pub(crate) fn wait_group<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ops[0] {
        Operand::Int(n) if n >= 0 => l.group(AccessKind::Wait(n as u32)),
        _ => l.unknown("expected a number of groups"),
    }
}
