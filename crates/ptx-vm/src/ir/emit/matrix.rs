//! Matrix fragments: `ldmatrix`, `stmatrix`, `movmatrix`, `mma`.

use super::super::lower::{AccessKind, Form, Lower, R, Val};
use super::data;
use super::memory::{Target, access, space, target};
use crate::exec::op::handler;
use crate::exec::{control, mem};
use crate::math::mma::{self, Int8Shape};
use crate::parse::{Operand, Space, Ty};

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
        (1, false) => handler::<mem::LdMatrix<1, false>>(),
        (2, false) => handler::<mem::LdMatrix<2, false>>(),
        (_, false) => handler::<mem::LdMatrix<4, false>>(),
        (1, true) => handler::<mem::LdMatrix<1, true>>(),
        (2, true) => handler::<mem::LdMatrix<2, true>>(),
        (_, true) => handler::<mem::LdMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, n, t.offset);
    raw.meta.access = Some(access(AccessKind::Rows(8 * n as u32), &t, 16));
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
        (1, false) => handler::<mem::StMatrix<1, false>>(),
        (2, false) => handler::<mem::StMatrix<2, false>>(),
        (_, false) => handler::<mem::StMatrix<4, false>>(),
        (1, true) => handler::<mem::StMatrix<1, true>>(),
        (2, true) => handler::<mem::StMatrix<2, true>>(),
        (_, true) => handler::<mem::StMatrix<4, true>>(),
    };
    let raw = l.push_list(run, list, 0, t.offset);
    raw.meta.access = Some(access(AccessKind::RowsStore(8 * n as u32), &t, 16));
    raw.access_addr = t.addr;
    Ok(())
}

pub(crate) fn movmatrix<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let (d, a) = (l.dst(&f.ops[0], Ty::B32)?, l.src(&f.ops[1], Ty::B32)?);
    l.op::<mem::MovMatrix>(d, &[a], 0);
    l.impure();
    Ok(())
}

pub(crate) fn mma<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    let kernels = mma::kernels();
    let shape = f.mods.iter().find(|m| m.starts_with('m') && m.contains('k')).copied().unwrap_or_default();
    let int8 = |shape| kernels.int8(shape, f.types[1] == Ty::S8, f.types[2] == Ty::S8, f.has("satfinite"));
    // The kernel, its registers of A, B and C, and its multiply-adds.
    let (kernel, a, b, c, macs) = match (f.types[1], f.types[0] == Ty::F16, shape) {
        (Ty::F16, false, "m16n8k16") => (kernels.m16n8k16_f16, 4, 2, 4, 2048),
        (Ty::F16, false, "m16n8k8") => (kernels.m16n8k8_f16, 2, 1, 4, 1024),
        (Ty::F16, true, "m16n8k16") => (kernels.m16n8k16_f16_f16, 4, 2, 2, 2048),
        (Ty::F16, true, "m16n8k8") => (kernels.m16n8k8_f16_f16, 2, 1, 2, 1024),
        (Ty::Bf16, _, "m16n8k16") => (kernels.m16n8k16_bf16, 4, 2, 4, 2048),
        (Ty::Bf16, _, "m16n8k8") => (kernels.m16n8k8_bf16, 2, 1, 4, 1024),
        (Ty::Tf32, _, "m16n8k8") => (kernels.m16n8k8_tf32, 4, 2, 4, 1024),
        (Ty::Tf32, _, "m16n8k4") => (kernels.m16n8k4_tf32, 2, 1, 4, 512),
        (Ty::F64, _, "m8n8k4") => (kernels.m8n8k4_f64, 1, 1, 2, 256),
        (Ty::S8 | Ty::U8, _, "m8n8k16") => (int8(Int8Shape::M8N8K16), 1, 1, 2, 1024),
        (Ty::S8 | Ty::U8, _, "m16n8k16") => (int8(Int8Shape::M16N8K16), 2, 1, 4, 2048),
        (Ty::S8 | Ty::U8, _, "m16n8k32") => (int8(Int8Shape::M16N8K32), 4, 2, 4, 4096),
        (Ty::E4m3 | Ty::E5m2, half, shape) => {
            let deep = shape == "m16n8k32";
            let kernel = mma::fp8(deep, f.types[1] == Ty::E5m2, f.types[2] == Ty::E5m2, half);
            let c = if half { 2 } else { 4 };
            if deep { (kernel, 4, 2, c, 4096) } else { (kernel, 2, 1, c, 2048) }
        }
        _ => return l.error("this shape is not supported for these types"),
    };
    let word = if f.types[0] == Ty::F64 { Ty::B64 } else { Ty::B32 };
    let mut list = Vec::new();
    for operand in data(l, &f.ops[0], c)? {
        list.push(l.dst(operand, word)?);
    }
    for (i, n) in [a, b, c].into_iter().enumerate() {
        for operand in data(l, &f.ops[1 + i], n)? {
            list.push(l.src(operand, word)?);
        }
    }
    let wide = if word == Ty::B64 { 128 } else { 0 };
    let counts = (c | wide | a << 8 | b << 16 | c << 24) as u32;
    let raw = l.push_list(handler::<control::Mma>(), list, c, kernel as usize as i64);
    raw.aux = Val::Raw(counts);
    raw.meta.flops = 2 * macs;
    Ok(())
}
