//! Warpgroup matrix instructions: `wgmma`.

use super::super::builder::Lower;
use super::super::form::{Form, R};
use super::tensor::{Multiply, destinations, sources, word};
use crate::ir::{Val, handler};
use crate::math::mma::Product;
use crate::parse::{Operand, Ty};
use crate::step::wgmma::{COMMIT, FENCE, Group, NEGATED, REGISTERS, TURNED, UNLESS, Wgmma};

/// The target that has these instructions, and no other.
const TARGET: &str = "sm_90a";

/// ptxas refuses these instructions for any other target.
fn supported(l: &Lower<'_>) -> R {
    match l.top.target {
        TARGET => Ok(()),
        other => l.error(format!("`wgmma` is not supported on .target {other}, only on {TARGET}")),
    }
}

/// N and K of a shape that there is, for these operands.
fn sizes(shape: &str, integers: bool) -> Option<(usize, usize)> {
    let (n, k) = shape.strip_prefix("m64n")?.split_once('k')?;
    let (n, k) = (n.parse().ok()?, k.parse().ok()?);
    let known = if integers { n == 8 || n == 24 || n % 16 == 0 } else { n % 8 == 0 };
    (known && (8..=256).contains(&n)).then_some((n, k))
}

/// An immediate operand that must be one of two numbers; true for the second.
fn choice<'a>(l: &Lower<'a>, operand: &Operand<'a>, [no, yes]: [i128; 2], what: &str) -> R<bool> {
    match operand {
        Operand::Int(n) if *n == no => Ok(false),
        Operand::Int(n) if *n == yes => Ok(true),
        _ => l.error(format!("{what} is {no} or {yes}")),
    }
}

/// `wgmma.mma_async`.
pub(crate) fn mma_async<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    supported(l)?;
    let [dty, aty, bty] = f.types[..] else { return l.unknown("three types expected") };
    let shape = f.mods.iter().find(|m| m.starts_with("m64")).copied().unwrap_or_default();
    let Some((n, k)) = sizes(shape, dty == Ty::S32) else { return l.unknown(format!("there is no shape `.{shape}`")) };
    let Some(m) = Multiply::new(dty, aty, bty, f.has("satfinite"), &format!("m16n8k{k}")) else {
        return l.unknown("this shape is not supported for these types");
    };
    let blocks = n / 8;
    let mut list = destinations(l, &f.ops[0], blocks * m.c, word(dty))?;
    let defs = list.len();
    // D is read as well, and so must not be the sink.
    sources(l, &f.ops[0], defs, word(dty))?;
    let read: Vec<u32> = list.iter().filter_map(|d| if let Val::Reg(id) = d { Some(*id) } else { None }).collect();
    let mut flags = blocks as u32;
    let registers = matches!(f.ops[1], Operand::Vector(_));
    if registers {
        flags |= REGISTERS;
        list.extend(sources(l, &f.ops[1], m.a, word(aty))?);
    } else {
        list.push(l.src(&f.ops[1], Ty::B64)?);
    }
    list.push(l.src(&f.ops[2], Ty::B64)?);
    if let Operand::Int(_) = f.ops[3] {
        choice(l, &f.ops[3], [0, 1], "scale-d")?;
    }
    let turns = if matches!(aty, Ty::F16 | Ty::Bf16) { 2 - usize::from(registers) } else { 0 };
    let signs = if dty == Ty::S32 { 0 } else { 2 };
    if f.ops.len() != 4 + signs + turns {
        return l.unknown(format!("{} operands, {} expected", f.ops.len(), 4 + signs + turns));
    }
    for (i, flag) in NEGATED.iter().enumerate().take(signs) {
        flags |= flag * u32::from(choice(l, &f.ops[4 + i], [1, -1], "a scale of A or B")?);
    }
    for (i, flag) in TURNED[2 - turns..].iter().enumerate() {
        flags |= flag * u32::from(choice(l, &f.ops[6 + i], [0, 1], "a transposition of A or B")?);
    }
    let (keep, negated) = l.pred(&f.ops[3])?;
    flags |= UNLESS * u32::from(negated);
    let raw = l.push_list(handler::<Wgmma>(), list, defs, m.kernel as usize as i64);
    raw.uses.extend(read);
    raw.r = [keep, Val::Raw(m.product.map_or(0, Product::code)), Val::None, Val::None];
    raw.aux = Val::Raw(flags);
    // Of one of the four warps.
    raw.meta.flops = (2 * 16 * n * k) as u32;
    Ok(())
}

fn group(l: &mut Lower<'_>, what: i64) -> R {
    supported(l)?;
    l.effect(handler::<Group>(), [Val::None; 4], what)
}

/// `wgmma.fence`.
pub(crate) fn fence<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    group(l, FENCE)
}

/// `wgmma.commit_group`.
pub(crate) fn commit<'a>(l: &mut Lower<'a>, _: &Form<'_, 'a>) -> R {
    group(l, COMMIT)
}

/// `wgmma.wait_group`.
pub(crate) fn wait<'a>(l: &mut Lower<'a>, f: &Form<'_, 'a>) -> R {
    match f.ops[0] {
        Operand::Int(n) if (0..1 << 31).contains(&n) => group(l, n as i64),
        _ => l.unknown("expected a number of groups"),
    }
}
