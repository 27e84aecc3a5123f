//! Operands: from what is written to registers, constants and addresses.

use super::builder::{Lower, Var};
use super::calls;
use super::form::R;
use crate::ir::{Class, ConstSource, RESERVED, Special, Val, Where, handler, width};
use crate::parse::{Operand, Space, Ty};
use crate::step::alu::{BinOp, PredConst, SetpOp, UnOp};
use crate::step::{control, ops};
use std::ops::RangeInclusive;

impl<'a> Lower<'a> {
    /// A source operand of an instruction of type `ty`: a constant or a register that goes with it.
    pub(crate) fn src(&mut self, operand: &Operand<'a>, ty: Ty) -> R<Val> {
        if let Some(value) = self.literal(operand, ty)? {
            return Ok(self.imm(width(ty), value));
        }
        match operand {
            Operand::Name(name) => match self.register(name) {
                Some((own, id)) if ty.takes(own) => Ok(Val::Reg(id)),
                Some((own, _)) => self.another_type(name, own, ty),
                None if self.is_known(name) => {
                    self.error(format!("`{name}` is no register: it has to be moved to one first"))
                }
                None => self.error(format!("unknown name `{name}`")),
            },
            Operand::NameOffset(name, _) | Operand::Element(name, _) => {
                self.error(format!("the address of `{name}` has to be moved to a register first"))
            }
            _ => self.error("operand of this form is not allowed here"),
        }
    }

    /// A source operand of `ld`, `st` and `cvt`: the lower part of a register that may be wider, in the register's width.
    pub(crate) fn wide_src(&mut self, operand: &Operand<'a>, ty: Ty) -> R<(Val, Where)> {
        match operand {
            Operand::Name(name) => match self.register(name) {
                Some((Ty::B128, _)) => self.unknown(format!("`{name}` has 128 bits")),
                Some((own, id)) if ty.fits(own) => Ok((Val::Reg(id), self.regs[id as usize])),
                Some((own, _)) => self.another_type(name, own, ty),
                None => self.src(operand, ty).map(|value| (value, width(ty))),
            },
            _ => self.src(operand, ty).map(|value| (value, width(ty))),
        }
    }

    #[cold]
    fn another_type<T>(&self, name: &str, own: Ty, ty: Ty) -> R<T> {
        if own == Ty::Pred {
            return self.error(format!("`{name}` is a predicate where a register is expected"));
        }
        self.error(format!("`{name}` is declared .{}, which does not go with .{}", own.name(), ty.name()))
    }

    /// A constant must lie in a range.
    pub(crate) fn within(&self, operand: &Operand<'a>, range: RangeInclusive<i128>, what: &str) -> R {
        match operand {
            Operand::Int(n) if !range.contains(n) => {
                self.error(format!("{what} is {n}, not one of {} to {}", range.start(), range.end()))
            }
            _ => Ok(()),
        }
    }

    /// A constant must be a multiple of a number.
    pub(crate) fn multiple(&self, operand: &Operand<'a>, of: i128, what: &str) -> R {
        match operand {
            Operand::Int(n) if n % of != 0 => self.error(format!("{what} is {n}, which is no multiple of {of}")),
            _ => Ok(()),
        }
    }

    /// Whether a name that is no register means something.
    fn is_known(&mut self, name: &str) -> bool {
        self.special(name).is_some() || clock(name) || self.symbol(name, 0).is_ok()
    }

    /// What `mov` and `cvt` read, in its own width: a special register too, or the address of a variable or a function.
    pub(crate) fn any(&mut self, operand: &Operand<'a>, ty: Ty) -> R<(Val, Where)> {
        match operand {
            Operand::Name(name) => {
                if self.register(name).is_some() {
                    return self.src(operand, ty).map(|value| (value, width(ty)));
                }
                if ty.float() {
                    return self.src(operand, ty).map(|value| (value, width(ty)));
                }
                if clock(name) {
                    let wide = matches!(*name, "%clock64" | "%globaltimer");
                    let w = if wide { Where::W64 } else { Where::W32 };
                    let d = self.fresh(w);
                    self.push(
                        handler::<control::Clock>(),
                        [Val::Reg(d), Val::None, Val::None, Val::None],
                        1,
                        i64::from(wide) | i64::from(name.ends_with("_hi")) << 1,
                    );
                    self.impure();
                    return Ok((Val::Reg(d), w));
                }
                if let Some((w, source)) = self.special(name) {
                    return Ok((self.constant(w, source), w));
                }
                self.symbol(name, 0)
            }
            Operand::NameOffset(name, offset) => self.symbol(name, *offset),
            Operand::Element(name, index) => match self.variable(name) {
                Some(var) => Ok((self.place_of(var, index.wrapping_mul(var.element as i64)), Where::W64)),
                None => self.error(format!("unknown array `{name}`")),
            },
            _ => self.src(operand, ty).map(|value| (value, width(ty))),
        }
    }

    /// The address of a variable, in its own space, or of a function.
    pub(super) fn symbol(&mut self, name: &str, offset: i64) -> R<(Val, Where)> {
        match self.variable(name) {
            Some(var) => Ok((self.place_of(var, offset), Where::W64)),
            None => match calls::find(self.top, name) {
                Some(function) if offset == 0 => Ok((self.imm(Where::W64, calls::address(function)), Where::W64)),
                _ => self.error(format!("unknown name `{name}`")),
            },
        }
    }

    /// The number of an array of shared memory.
    pub(super) fn array(&mut self, name: &str, at: usize, size: usize) -> u8 {
        let new = (name.to_owned(), at as u64, at.saturating_add(size) as u64);
        let known = self.arrays.iter().position(|array| *array == new);
        let index = known.unwrap_or_else(|| {
            self.arrays.push(new);
            self.arrays.len() - 1
        });
        // More than can be told apart are not.
        u8::try_from(index + 1).unwrap_or(0)
    }

    pub(super) fn place_of(&mut self, var: Var, offset: i64) -> Val {
        let at = ConstSource::Imm(var.at.wrapping_add(offset as u64), var.array);
        let at = self.constant(Where::W64, at);
        match var.base {
            None => at,
            Some(base) => {
                let sum = Val::Reg(self.fresh(Where::W64));
                let guard = self.guard.take();
                self.op::<BinOp<ops::Add64>>(sum, &[Val::Reg(base), at], 0);
                self.guard = guard;
                sum
            }
        }
    }

    /// Changes the width of a value by zero or sign extension or truncation.
    pub(crate) fn convert(&mut self, val: Val, from: Where, to: Where, signed: bool) -> Val {
        if from == to || val == Val::None {
            return val;
        }
        if let Val::Const(i) = val
            && let (_, ConstSource::Imm(v, array)) = self.consts[i as usize]
        {
            let v = match (from, signed) {
                (Where::W16, true) => v as i16 as u64,
                (Where::W32, true) => v as i32 as u64,
                _ => v,
            };
            return self.constant(to, ConstSource::Imm(v, array));
        }
        let run = match (from, to, signed) {
            (Where::W16, Where::W32, false) => handler::<UnOp<ops::Zext16To32>>(),
            (Where::W16, Where::W32, true) => handler::<UnOp<ops::Sext16To32>>(),
            (Where::W16, Where::W64, false) => handler::<UnOp<ops::Zext16To64>>(),
            (Where::W16, Where::W64, true) => handler::<UnOp<ops::Sext16To64>>(),
            (Where::W32, Where::W64, false) => handler::<UnOp<ops::Zext32To64>>(),
            (Where::W32, Where::W64, true) => handler::<UnOp<ops::Sext32To64>>(),
            (Where::W64, Where::W32, _) => handler::<UnOp<ops::Trunc64To32>>(),
            (Where::W64, _, _) => handler::<UnOp<ops::Trunc64To16>>(),
            (_, _, _) => handler::<UnOp<ops::Trunc32To16>>(),
        };
        let d = self.fresh(to);
        let class = std::mem::replace(&mut self.class, Class::Convert);
        self.push(run, [Val::Reg(d), val, Val::None, Val::None], 1, 0);
        self.class = class;
        Val::Reg(d)
    }

    /// A destination register that goes with `ty`; `_` gives a scratch register.
    pub(crate) fn dst(&mut self, operand: &Operand<'a>, ty: Ty) -> R<Val> {
        match operand {
            Operand::Name("_") => Ok(Val::Reg(self.fresh(width(ty)))),
            Operand::Name(name) => match self.register(name) {
                Some((own, id)) if ty.takes(own) => Ok(Val::Reg(id)),
                Some((own, _)) => self.another_type(name, own, ty),
                None => self.error(format!("unknown register `{name}`")),
            },
            _ => self.error("the destination is not a register"),
        }
    }

    /// The halves of a 128-bit register.
    pub(crate) fn pair(&mut self, operand: &Operand<'a>) -> R<[Val; 2]> {
        match operand {
            Operand::Name("_") => Ok([(); 2].map(|()| Val::Reg(self.fresh(Where::W64)))),
            Operand::Name(name) => match self.register(name) {
                Some((Ty::B128, id)) => Ok([Val::Reg(id), Val::Reg(id + 1)]),
                _ => self.error(format!("`{name}` is not a 128-bit register")),
            },
            _ => self.error("expected a 128-bit register"),
        }
    }

    /// A destination register of `ld` and `cvt`, which may be wider than `ty`, in its own width.
    pub(crate) fn wide_dst(&mut self, operand: &Operand<'a>, ty: Ty) -> R<(Val, Where)> {
        match operand {
            Operand::Name(name) => match self.register(name) {
                Some((Ty::B128, _)) => self.unknown(format!("`{name}` has 128 bits")),
                Some((own, id)) if ty.fits(own) => Ok((Val::Reg(id), self.regs[id as usize])),
                _ => self.dst(operand, ty).map(|d| (d, width(ty))),
            },
            _ => self.dst(operand, ty).map(|d| (d, width(ty))),
        }
    }

    /// A destination predicate.
    pub(crate) fn dst_pred(&mut self, operand: &Operand<'a>) -> R<Val> {
        match operand {
            Operand::Name(_) => self.pred(operand).map(|(p, _)| p),
            _ => self.error("the destination is not a predicate"),
        }
    }

    /// A predicate and whether it is negated.
    pub(crate) fn pred(&mut self, operand: &Operand<'a>) -> R<(Val, bool)> {
        let (name, negated) = match operand {
            Operand::Name("_") => return Ok((Val::Raw(0), false)),
            Operand::Name("%is_explicit_cluster") => {
                let (p, zero) = (self.fresh_pred(), self.imm(Where::W32, 0));
                let explicit = self.constant(Where::W32, ConstSource::Special(Special::ExplicitCluster));
                self.push(handler::<SetpOp<ops::Ne32>>(), [Val::Pred(p), Val::Raw(0), explicit, zero], 2, 0);
                self.impure();
                return Ok((Val::Pred(p), false));
            }
            Operand::Name(name) => (*name, false),
            Operand::Not(name) => (*name, true),
            Operand::Int(v) => {
                let p = self.fresh_pred();
                self.push(
                    handler::<PredConst>(),
                    [Val::Pred(p), Val::None, Val::None, Val::None],
                    0,
                    i64::from(*v != 0),
                );
                self.impure();
                return Ok((Val::Pred(p), false));
            }
            _ => return self.error("expected a predicate"),
        };
        match self.register(name) {
            Some((Ty::Pred, id)) => Ok((Val::Pred(id), negated)),
            _ => self.error(format!("`{name}` is not a predicate")),
        }
    }

    /// An address operand in a state space: base value (in 64 bits, or 32 when `narrow`) and offset, and the space of the symbol it
    /// names, if it does.
    pub(crate) fn address(
        &mut self,
        operand: &Operand<'a>,
        narrow: bool,
        space: Space,
    ) -> R<(Val, i64, Option<Space>)> {
        let w = if narrow { Where::W32 } else { Where::W64 };
        match operand {
            Operand::Address(None, offset) if space == Space::Local => Ok((self.imm(w, 0), *offset, None)),
            Operand::Address(None, _) => self.error("only local memory has addresses that are constants"),
            Operand::Address(Some(name), offset) => {
                if let Some((ty, id)) = self.register(name) {
                    if ty == Ty::Pred || ty.float() && ty != Ty::F16x2 {
                        return self.error(format!("`{name}` is declared .{}, which is not an address", ty.name()));
                    }
                    let own = self.regs[id as usize];
                    return Ok((self.convert(Val::Reg(id), own, w, false), *offset, None));
                }
                match self.variable(name) {
                    Some(var) => {
                        let generic = matches!(var.declared, Space::Global | Space::Shared | Space::Local);
                        if if space == Space::Generic { !generic } else { space != var.declared } {
                            let (is, not) = (var.declared.name(), space.name());
                            return self.error(format!("`{name}` lies in .{is}, which is no .{not} address"));
                        }
                        let base = var.base.map_or_else(|| self.constant(w, ConstSource::Imm(0, var.array)), Val::Reg);
                        Ok((base, (var.at as i64).wrapping_add(*offset), Some(var.space)))
                    }
                    None => self.error(format!("unknown name `{name}`")),
                }
            }
            _ => self.error("expected an address"),
        }
    }

    pub(super) fn special(&mut self, name: &str) -> Option<(Where, ConstSource)> {
        let (stem, axis) = match name.rsplit_once('.') {
            Some((stem, "x")) => (stem, 0),
            Some((stem, "y")) => (stem, 1),
            Some((stem, "z")) => (stem, 2),
            // It is 0, or 1, or always the same.
            Some((stem, "w")) if VECTORS.contains(&stem) => (stem, 3),
            _ => (name, 4),
        };
        if (axis == 4) == VECTORS.contains(&stem) {
            return None;
        }
        let s = |s| ConstSource::Special(s);
        let source = match stem {
            "%tid" | "%ctaid" | "%clusterid" | "%cluster_ctaid" if axis == 3 => ConstSource::Imm(0, 0),
            "%ntid" | "%nctaid" | "%nclusterid" | "%cluster_nctaid" if axis == 3 => ConstSource::Imm(1, 0),
            "%tid" => s(Special::Tid(axis)),
            "%ntid" => s(Special::Ntid(axis)),
            "%ctaid" => s(Special::Ctaid(axis)),
            "%nctaid" => s(Special::Nctaid(axis)),
            "%laneid" => ConstSource::Lane { group: 4, thread: 1 },
            "%warpid" => s(Special::WarpId),
            "%nwarpid" => s(Special::NWarpId),
            "%lanemask_eq" => ConstSource::LaneMask(0),
            "%lanemask_le" => ConstSource::LaneMask(1),
            "%lanemask_lt" => ConstSource::LaneMask(2),
            "%lanemask_ge" => ConstSource::LaneMask(3),
            "%lanemask_gt" => ConstSource::LaneMask(4),
            "%dynamic_smem_size" => s(Special::DynamicShared),
            "%total_smem_size" | "%aggr_smem_size" => s(Special::TotalShared),
            "%smid" => s(Special::SmId),
            "%nsmid" => s(Special::NSm),
            "%gridid" => s(Special::GridId),
            "%clusterid" => s(Special::ClusterId(axis)),
            "%nclusterid" => s(Special::NClusterId(axis)),
            "%cluster_ctaid" => s(Special::ClusterCtaid(axis)),
            "%cluster_nctaid" => s(Special::ClusterNctaid(axis)),
            "%cluster_ctarank" => s(Special::ClusterRank),
            "%cluster_nctarank" => s(Special::ClusterBlocks),
            // Counters nobody has set up, and no graph.
            _ if stem.starts_with("%pm") => ConstSource::Imm(0, 0),
            "%current_graph_exec" => ConstSource::Imm(0, 0),
            // Behind the block's own here, 1 KiB as on hardware; cooperative groups keep barriers at the second of the two places.
            "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => s(Special::Reserved(0)),
            "%reserved_smem_offset_1" => s(Special::Reserved(RESERVED / 2)),
            "%reserved_smem_offset_end" => s(Special::Reserved(RESERVED)),
            "%reserved_smem_offset_cap" => ConstSource::Imm(u64::from(RESERVED), 0),
            "%envreg1" => s(Special::Workspace(true)),
            "%envreg2" => s(Special::Workspace(false)),
            // Set up by the driver for launches of kinds there are none of here.
            _ if stem.starts_with("%envreg") => ConstSource::Imm(0, 0),
            _ => return None,
        };
        let wide = matches!(stem, "%gridid" | "%current_graph_exec") || stem.ends_with("_64");
        Some((if wide { Where::W64 } else { Where::W32 }, source))
    }
}

/// Special registers with a value for each dimension.
const VECTORS: [&str; 8] =
    ["%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"];

/// Special registers that count time.
fn clock(name: &str) -> bool {
    matches!(name, "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi")
}
