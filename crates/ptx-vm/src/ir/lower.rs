//! Syntax to straight code over virtual registers: names are resolved, constants collected, device functions put in place.

use super::calls::{self, Plan};
use super::emit::convert;
use super::emit::memory::spill;
use super::isa;
use super::module::{ConstSource, Globals, Kernel, Param, Special, Where};
use crate::error::{LoadError, LoadErrorKind};
use crate::exec::alu::*;
use crate::exec::control;
use crate::exec::op::{Exec, Handler, Rule, handler};
use crate::exec::ops;
use crate::exec::runtime;
use crate::math::mma::Staged;
use crate::parse::{Function, Inst, Operand, Space, Stmt, Top, Ty};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

pub(crate) type R<T = ()> = Result<T, LoadError>;

/// A decoded operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Val {
    /// Virtual register.
    Reg(u32),
    Pred(u32),
    /// Entry of the constant pool.
    Const(u32),
    /// A literal for the handler.
    Raw(u32),
    /// `_`.
    None,
}

/// How control goes on after an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Jump(u32),
    /// Taken where the guard holds.
    Branch(u32),
    /// With a guard: only those lanes.
    Exit,
    /// Out of a function with code of its own; with a guard, only those lanes.
    Ret,
    /// Of a unit's code.
    Call(usize),
    Trap,
    Label(u32),
}

/// Classes of instructions, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// Integer arithmetic.
    Integer,
    /// Bits, shifts, `lop3`, `prmt`.
    Logic,
    /// f32 arithmetic.
    Float,
    /// f64 arithmetic.
    Double,
    /// f16 and bf16 arithmetic, packed or not.
    Half,
    /// `rcp`, `sqrt`, `rsqrt`, `ex2`, `lg2`, `sin`, `cos`, `tanh` of f32.
    Special,
    /// `cvt`.
    Convert,
    /// `mov`, `cvta`, `isspacep`.
    Move,
    /// `setp`, `set`, `selp`, `slct`.
    Compare,
    /// Branches, calls, `ret`, `exit`, `trap`.
    Control,
    /// Barriers of the block: `bar`, `barrier`.
    Barrier,
    /// `membar`, `fence` and other orderings.
    Fence,
    /// What lanes tell each other: `shfl`, `vote`, `match`, `redux`, `bar.warp.sync`.
    Warp,
    /// `ld` of every space, `prefetch`.
    Load,
    /// `st` of every space.
    Store,
    /// `atom`, `red`.
    Atomic,
    /// Asynchronous copies, their groups and mbarriers.
    Async,
    /// `ldmatrix`, `stmatrix`, `movmatrix`.
    Matrix,
    /// `mma`.
    Tensor,
    /// What fits nowhere else.
    Other,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Class; 20] = [
        Class::Integer,
        Class::Logic,
        Class::Float,
        Class::Double,
        Class::Half,
        Class::Special,
        Class::Convert,
        Class::Move,
        Class::Compare,
        Class::Control,
        Class::Barrier,
        Class::Fence,
        Class::Warp,
        Class::Load,
        Class::Store,
        Class::Atomic,
        Class::Async,
        Class::Matrix,
        Class::Tensor,
        Class::Other,
    ];
}

/// A memory access, as the checks and counters see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) kind: AccessKind,
    pub(crate) space: Space,
    /// Bytes of each lane.
    pub(crate) bytes: u32,
    /// Registers of each lane.
    pub(crate) lanes: u32,
    /// Operand slot of the addresses and whether they are 64 bits wide.
    pub(crate) addr: u32,
    pub(crate) wide: bool,
    pub(crate) offset: i64,
    /// [`Access::STRONG`] and what else the operation orders.
    pub(crate) order: u8,
}

impl Access {
    /// Of an instruction whose addresses, if any, stand elsewhere.
    pub(crate) fn bare(kind: AccessKind) -> Access {
        Access { kind, space: Space::Shared, bytes: 0, lanes: 1, addr: 0, wide: false, offset: 0, order: 0 }
    }

    /// Volatile, relaxed or stronger, or an atomic: such operations on the same bytes do not race with each other.
    pub(crate) const STRONG: u8 = 1;
    pub(crate) const ACQUIRE: u8 = 2;
    pub(crate) const RELEASE: u8 = 4;
    /// Of the block's threads only.
    pub(crate) const CTA: u8 = 8;
    /// By way of the cache of what does not change.
    pub(crate) const CONSTANT: u8 = 16;
    /// `ldmatrix.trans`.
    pub(crate) const TRANSPOSED: u8 = 32;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessKind {
    Load,
    Store,
    Atomic,
    /// `ldmatrix` of so many rows.
    Rows(u32),
    /// `stmatrix` of so many rows, and whether the matrices are transposed.
    RowsStore(u32, bool),
    /// `cp.async`: the shared side; the global address and source size are in the instruction's list.
    CopyAsync,
    /// Bulk copy (or reduction): the instruction's list holds destination, source and size.
    Bulk {
        reduce: bool,
    },
    Commit,
    /// `bar.warp.sync`.
    WarpSync,
    /// Wait until at most so many groups are pending; `u32::MAX` = all copies.
    Wait(u32),
}

/// What reports need to know about an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) line: u32,
    /// Byte offset of the instruction in the module's text.
    pub(crate) at: u32,
    /// Entry of [`Kernel::locs`]; the first says nothing.
    pub(crate) loc: u32,
    pub(crate) class: Class,
    /// The first step of its PTX instruction: stands for it in the counters.
    pub(crate) lead: bool,
    /// The guard of the next instruction, not an instruction by itself.
    pub(crate) guard: bool,
    /// A conditional branch or exit: r = predicate, negated.
    pub(crate) branch: bool,
    pub(crate) access: Option<Access>,
    /// Floating-point operations of one lane, or of the whole warp for tensor instructions.
    pub(crate) flops: u32,
    /// Part of an instruction that all threads of a warp must execute together.
    pub(crate) aligned: bool,
    /// How undefined bits pass through it.
    pub(crate) rule: Rule,
    /// Its registers: where they begin in [`Kernel::flows`], how many are written, and how many behind those are read.
    pub(crate) flow: (u32, u16, u16),
}

impl Meta {
    /// See [`Kernel::calm`].
    pub(crate) fn calm(&self) -> bool {
        let orders = matches!(self.rule, Rule::Bulk | Rule::BulkGroup | Rule::Mbarrier | Rule::Barrier | Rule::Fence);
        self.access.is_none() && !orders && !self.guard
    }
}

/// A `.loc`: place in a source file, and the entry of the place where that was inlined, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loc {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) inlined_at: u32,
}

/// One instruction over virtual registers.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) run: Handler,
    pub(crate) r: [Val; 4],
    pub(crate) list: Vec<Val>,
    pub(crate) defs: Vec<u32>,
    pub(crate) uses: Vec<u32>,
    pub(crate) imm: i64,
    pub(crate) aux: Val,
    pub(crate) cached: bool,
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) flow: Flow,
    /// r[0] = r[1]: may be dissolved.
    pub(crate) copy: bool,
    /// May be dropped when nobody uses the result.
    pub(crate) pure_op: bool,
    pub(crate) meta: Meta,
    /// Instructions before (or behind) this one of which nothing is left.
    pub(crate) dissolved: Vec<Meta>,
    /// Address operand of the access (its slot is filled in at the end).
    pub(crate) access_addr: Val,
    /// Of a multiplication whose operands may be prepared.
    pub(crate) staged: Option<&'static Staged>,
}

#[derive(Clone, Copy)]
struct Var {
    space: Space,
    /// Offset in the window, or address.
    at: u64,
    /// Bytes of one element.
    element: usize,
    /// The register it is relative to, in functions with code of their own.
    base: Option<u32>,
    /// Which array of shared memory it is, see [`Kernel::arrays`]; 0 for other variables.
    array: u8,
}

/// Code of its own: the entry, or a function.
pub(crate) struct Unit {
    pub(crate) node: usize,
    pub(crate) code: Vec<Raw>,
    /// Registers the caller fills: where the frame begins, and the addresses of parameters and results in local memory.
    pub(crate) frame: u32,
    pub(crate) args: Vec<u32>,
    /// Its predicates.
    pub(crate) preds: std::ops::Range<u32>,
    /// Bytes of its frame.
    pub(crate) local: usize,
}

#[derive(Default)]
struct Scope<'a> {
    regs: HashMap<&'a str, (Ty, u32)>,
    ranges: HashMap<&'a str, (Ty, u32)>,
    vars: HashMap<&'a str, Var>,
    labels: HashMap<&'a str, u32>,
    targets: HashMap<&'a str, Vec<&'a str>>,
}

/// Bytes of shared memory that are reserved for the system, in blocks of kernels that ask where.
pub(crate) const RESERVED: u32 = 1024;

/// Instructions a kernel may have after inlining; beyond it something is wrong (or recursive).
const MAX_CODE: usize = 4_000_000;

/// Bytes of parameters a kernel may have, as on the hardware.
const MOST_PARAMS: usize = 32_764;

pub(crate) struct Lower<'a> {
    file: &'a str,
    text: &'a Arc<str>,
    top: &'a Top<'a>,
    globals: &'a Globals,
    scopes: Vec<Scope<'a>>,
    /// Scopes below this index belong to callers and are out of sight.
    floor: usize,
    pub(crate) regs: Vec<Where>,
    pub(crate) preds: u32,
    pub(crate) consts: Vec<(Where, ConstSource)>,
    const_index: HashMap<(Where, ConstSource), u32>,
    pub(crate) raw: Vec<Raw>,
    pub(crate) labels: u32,
    shared: usize,
    shared_align: usize,
    /// Bytes of the entry's parameters.
    pub(crate) param_bytes: usize,
    local: usize,
    /// Dynamic shared symbols, placed behind the static ones.
    dynamic: HashMap<&'a str, ()>,
    statics: HashMap<(u32, &'a str), usize>,
    guard: Option<(u32, bool)>,
    pub(crate) line: u32,
    loc: u32,
    locs: Vec<Loc>,
    pub(crate) inst_text: &'a str,
    pub(crate) opcode: &'a str,
    /// Where `ret` goes: none in the entry itself and in functions with code of their own.
    ret: Option<u32>,
    plan: Rc<Plan<'a>>,
    /// The node whose body is being lowered, and the unit it is lowered into.
    node: usize,
    unit: usize,
    pub(crate) units: Vec<Unit>,
    /// In a function with code of its own: where its frame begins, and its results in registers.
    frame: Option<u32>,
    pub(crate) allocates: bool,
    /// See [`Kernel::arrays`].
    pub(crate) arrays: Vec<(String, u64, u64)>,
    results: Vec<(Val, Where, u32)>,
    carry: Option<u32>,
    pub(crate) class: Class,
    /// What cannot be decoded, where that is listed instead of ending it all.
    gaps: Option<Gaps>,
}

/// Errors in the order they were met, each once.
#[derive(Default)]
struct Gaps {
    list: Vec<LoadError>,
    known: HashSet<LoadError>,
}

impl Gaps {
    fn add(&mut self, error: LoadError) {
        if self.known.insert(error.clone()) {
            self.list.push(error);
        }
    }
}

/// An instruction matched against the table.
pub(crate) struct Form<'f, 'a> {
    pub(crate) name: &'static str,
    pub(crate) mods: Vec<&'a str>,
    pub(crate) types: Vec<Ty>,
    pub(crate) ops: &'f [Operand<'a>],
}

impl Form<'_, '_> {
    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }
    /// Whether all threads of a warp must execute this together: `.aligned`, and the barriers of `bar`, which is `barrier.aligned`.
    pub(crate) fn aligned(&self) -> bool {
        self.has("aligned") || self.name == "bar" && !self.has("warp")
    }
    /// The first type.
    pub(crate) fn ty(&self) -> Ty {
        self.types.first().copied().unwrap_or(Ty::B32)
    }
}

/// What a guard's predicate is combined with by exclusive or.
pub(crate) fn negation(negated: bool) -> u32 {
    if negated { !0 } else { 0 }
}

/// Width of a register that holds a `ty`.
pub(crate) fn width(ty: Ty) -> Where {
    match ty.bytes() {
        1 | 2 => Where::W16,
        4 => Where::W32,
        _ => Where::W64,
    }
}

impl<'a> Lower<'a> {
    #[cold]
    pub(crate) fn error<T>(&self, message: impl Into<String>) -> R<T> {
        self.refuse(LoadErrorKind::Invalid, message.into())
    }

    /// The instruction is not one the decoder knows, or not in this form.
    #[cold]
    pub(crate) fn unknown<T>(&self, message: impl Into<String>) -> R<T> {
        self.refuse(LoadErrorKind::UnknownInstruction, message.into())
    }

    #[cold]
    fn refuse<T>(&self, kind: LoadErrorKind, message: String) -> R<T> {
        Err(LoadError {
            kind,
            file: self.file.to_owned(),
            line: self.line,
            text: self.inst_text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect(),
            message,
        })
    }

    // ---- names ------------------------------------------------------------------------------------------------------

    fn declare(&mut self, name: &'a str, count: Option<u32>, ty: Ty) -> R {
        match count {
            Some(n) => {
                // A number of each register is reserved only when it is used.
                self.scope().ranges.insert(name, (ty, n));
            }
            None => {
                let id = self.fresh_of(ty);
                self.scope().regs.insert(name, (ty, id));
            }
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn fresh_of(&mut self, ty: Ty) -> u32 {
        if ty == Ty::Pred {
            self.preds += 1;
            self.preds - 1
        } else {
            let id = self.fresh(width(ty));
            if ty == Ty::B128 {
                // The upper half is the next register.
                self.fresh(Where::W64);
            }
            id
        }
    }

    pub(crate) fn fresh(&mut self, w: Where) -> u32 {
        self.regs.push(w);
        self.regs.len() as u32 - 1
    }

    pub(crate) fn fresh_pred(&mut self) -> u32 {
        self.preds += 1;
        self.preds - 1
    }

    fn register(&mut self, name: &'a str) -> Option<(Ty, u32)> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number = number.parse::<u32>().ok();
        for i in (self.floor..self.scopes.len()).rev() {
            if let Some(found) = self.scopes[i].regs.get(name) {
                return Some(*found);
            }
            if let (Some(n), Some(&(ty, count))) = (number, self.scopes[i].ranges.get(prefix))
                && n < count
            {
                let id = self.fresh_of(ty);
                self.scopes[i].regs.insert(name, (ty, id));
                return Some((ty, id));
            }
        }
        None
    }

    fn variable(&mut self, name: &str) -> Option<Var> {
        for scope in self.scopes[self.floor..].iter().rev() {
            if let Some(var) = scope.vars.get(name) {
                return Some(*var);
            }
        }
        if let Some(at) = self.globals.addresses.get(name) {
            let element = self.top.variables.iter().find(|v| v.name == name).map_or(1, |v| v.element);
            return Some(Var { space: Space::Global, at: *at, element, base: None, array: 0 });
        }
        self.scopes.first().and_then(|s| s.vars.get(name)).copied().filter(|v| v.space == Space::Shared)
    }

    /// The type of a register operand, if it is one.
    pub(crate) fn reg_type(&mut self, operand: &Operand<'a>) -> Option<Ty> {
        match operand {
            Operand::Name(name) => self.register(name).map(|(ty, _)| ty),
            _ => None,
        }
    }

    fn label(&mut self, name: &'a str) -> R<u32> {
        for scope in self.scopes[self.floor..].iter().rev() {
            if let Some(id) = scope.labels.get(name) {
                return Ok(*id);
            }
        }
        self.error(format!("unknown label `{name}`"))
    }

    // ---- constants --------------------------------------------------------------------------------------------------

    pub(crate) fn constant(&mut self, w: Where, source: ConstSource) -> Val {
        let source = match source {
            ConstSource::Imm(v, array) => ConstSource::Imm(
                match w {
                    Where::W16 => v & 0xffff,
                    Where::W32 => v & 0xffff_ffff,
                    Where::W64 => v,
                },
                array,
            ),
            other => other,
        };
        let consts = &mut self.consts;
        Val::Const(*self.const_index.entry((w, source)).or_insert_with(|| {
            consts.push((w, source));
            consts.len() as u32 - 1
        }))
    }

    pub(crate) fn imm(&mut self, w: Where, value: u64) -> Val {
        self.constant(w, ConstSource::Imm(value, 0))
    }

    /// The value of an immediate operand of type `ty`.
    pub(crate) fn literal(&self, operand: &Operand<'a>, ty: Ty) -> Option<u64> {
        Some(match (operand, ty) {
            (Operand::Int(v), Ty::F32) => u64::from((*v as f32).to_bits()),
            (Operand::Int(v), Ty::F64) => (*v as f64).to_bits(),
            (Operand::Int(v), _) => *v as u64,
            (Operand::F32(bits), Ty::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
            (Operand::F32(bits), _) => u64::from(*bits),
            (Operand::F64(bits), Ty::F32) => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            (Operand::F64(bits), _) => *bits,
            (Operand::Name("WARP_SZ"), _) => 32,
            _ => return None,
        })
    }

    fn special(&mut self, name: &str) -> Option<(Where, ConstSource)> {
        let (stem, axis) = match name.rsplit_once('.') {
            Some((stem, "x")) => (stem, 0),
            Some((stem, "y")) => (stem, 1),
            Some((stem, "z")) => (stem, 2),
            _ => (name, 0),
        };
        let s = |s| ConstSource::Special(s);
        let source = match stem {
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
            "%clusterid" | "%cluster_ctaid" | "%cluster_ctarank" => ConstSource::Imm(0, 0),
            "%nclusterid" | "%cluster_nctaid" | "%cluster_nctarank" => ConstSource::Imm(1, 0),
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

    // ---- operands ---------------------------------------------------------------------------------------------------

    /// A source operand, converted to the width of `ty` if its register has another.
    pub(crate) fn src(&mut self, operand: &Operand<'a>, ty: Ty) -> R<Val> {
        if let Some(value) = self.literal(operand, ty) {
            return Ok(self.imm(width(ty), value));
        }
        let (val, w) = self.any(operand, ty.signed())?;
        Ok(self.convert(val, w, width(ty), ty.signed()))
    }

    /// A source operand in its own width.
    pub(crate) fn any(&mut self, operand: &Operand<'a>, _signed: bool) -> R<(Val, Where)> {
        match operand {
            Operand::Name(name) => {
                if let Some((ty, id)) = self.register(name) {
                    if ty == Ty::Pred {
                        return self.error(format!("`{name}` is a predicate where a register is expected"));
                    }
                    if ty == Ty::B128 {
                        return self.error(format!("`{name}` has 128 bits"));
                    }
                    return Ok((Val::Reg(id), self.regs[id as usize]));
                }
                if matches!(
                    *name,
                    "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi"
                ) {
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
            Operand::Int(v) => Ok((self.imm(Where::W64, *v as u64), Where::W64)),
            _ => self.error("operand of this form is not allowed here"),
        }
    }

    /// The address of a variable, in its own space, or of a function.
    fn symbol(&mut self, name: &str, offset: i64) -> R<(Val, Where)> {
        match self.variable(name) {
            Some(var) => Ok((self.place_of(var, offset), Where::W64)),
            None => match calls::find(self.top, name) {
                Some(function) if offset == 0 => Ok((self.imm(Where::W64, calls::address(function)), Where::W64)),
                _ => self.error(format!("unknown name `{name}`")),
            },
        }
    }

    /// The number of an array of shared memory.
    fn array(&mut self, name: &str, at: usize, size: usize) -> u8 {
        let new = (name.to_owned(), at as u64, at.saturating_add(size) as u64);
        let known = self.arrays.iter().position(|array| *array == new);
        let index = known.unwrap_or_else(|| {
            self.arrays.push(new);
            self.arrays.len() - 1
        });
        // More than can be told apart are not.
        u8::try_from(index + 1).unwrap_or(0)
    }

    fn place_of(&mut self, var: Var, offset: i64) -> Val {
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
            (Where::W16, Where::W32, false) => handler::<UnOp<convert::Zext16To32>>(),
            (Where::W16, Where::W32, true) => handler::<UnOp<convert::Sext16To32>>(),
            (Where::W16, Where::W64, false) => handler::<UnOp<convert::Zext16To64>>(),
            (Where::W16, Where::W64, true) => handler::<UnOp<convert::Sext16To64>>(),
            (Where::W32, Where::W64, false) => handler::<UnOp<convert::Zext32To64>>(),
            (Where::W32, Where::W64, true) => handler::<UnOp<convert::Sext32To64>>(),
            (Where::W64, Where::W32, _) => handler::<UnOp<convert::Trunc64To32>>(),
            (Where::W64, _, _) => handler::<UnOp<convert::Trunc64To16>>(),
            (_, _, _) => handler::<UnOp<convert::Trunc32To16>>(),
        };
        let d = self.fresh(to);
        let class = std::mem::replace(&mut self.class, Class::Convert);
        self.push(run, [Val::Reg(d), val, Val::None, Val::None], 1, 0);
        self.class = class;
        Val::Reg(d)
    }

    /// A destination register that must have the width of `ty`; `_` gives a scratch register.
    pub(crate) fn dst(&mut self, operand: &Operand<'a>, ty: Ty) -> R<Val> {
        let (val, w) = self.dst_any(operand, width(ty))?;
        if w == width(ty) {
            Ok(val)
        } else {
            self.error(format!("destination register does not have the size of .{}", ty.name()))
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

    /// A destination register in its own width.
    pub(crate) fn dst_any(&mut self, operand: &Operand<'a>, w: Where) -> R<(Val, Where)> {
        match operand {
            Operand::Name("_") => Ok((Val::Reg(self.fresh(w)), w)),
            Operand::Name(name) => match self.register(name) {
                Some((Ty::Pred, _)) => self.error(format!("`{name}` is a predicate where a register is expected")),
                Some((Ty::B128, _)) => self.error(format!("`{name}` has 128 bits")),
                Some((_, id)) => Ok((Val::Reg(id), self.regs[id as usize])),
                None => self.error(format!("unknown register `{name}`")),
            },
            _ => self.error("the destination is not a register"),
        }
    }

    /// A predicate and whether it is negated.
    pub(crate) fn pred(&mut self, operand: &Operand<'a>) -> R<(Val, bool)> {
        let (name, negated) = match operand {
            Operand::Name("_") => return Ok((Val::Raw(0), false)),
            Operand::Name("%is_explicit_cluster") => return self.pred(&Operand::Int(0)),
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

    /// An address operand: base value (in 64 bits, or 32 when `narrow`) and offset. The symbol's space is checked by the caller.
    pub(crate) fn address(&mut self, operand: &Operand<'a>, narrow: bool) -> R<(Val, i64, Option<Space>)> {
        let w = if narrow { Where::W32 } else { Where::W64 };
        match operand {
            Operand::Address(None, offset) => Ok((self.imm(w, 0), *offset, None)),
            Operand::Address(Some(name), offset) => {
                if let Some((ty, id)) = self.register(name) {
                    if ty == Ty::Pred {
                        return self.error("a predicate is not an address");
                    }
                    let own = self.regs[id as usize];
                    return Ok((self.convert(Val::Reg(id), own, w, false), *offset, None));
                }
                match self.variable(name) {
                    Some(var) => {
                        let base = var.base.map_or_else(|| self.constant(w, ConstSource::Imm(0, var.array)), Val::Reg);
                        Ok((base, (var.at as i64).wrapping_add(*offset), Some(var.space)))
                    }
                    None => self.error(format!("unknown name `{name}`")),
                }
            }
            _ => self.error("expected an address"),
        }
    }

    // ---- emission ---------------------------------------------------------------------------------------------------

    /// Appends an instruction; the first `defs` entries of `r` are written, the others read.
    pub(crate) fn push(&mut self, run: Handler, r: [Val; 4], defs: usize, imm: i64) -> &mut Raw {
        let at = (self.inst_text.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize) as u32;
        let meta = Meta {
            line: self.line,
            at,
            loc: self.loc,
            class: self.class,
            lead: false,
            guard: false,
            branch: false,
            access: None,
            flops: 0,
            aligned: false,
            rule: run.rule,
            flow: (0, 0, 0),
        };
        let reg = |v: &Val| if let Val::Reg(id) = v { Some(*id) } else { None };
        self.raw.push(Raw {
            run,
            defs: r[..defs].iter().filter_map(reg).collect(),
            uses: r[defs..].iter().filter_map(reg).collect(),
            r,
            list: Vec::new(),
            imm,
            aux: Val::Raw(0),
            cached: false,
            guard: self.guard,
            flow: Flow::Next,
            copy: false,
            pure_op: defs > 0,
            meta,
            dissolved: Vec::new(),
            access_addr: Val::None,
            staged: None,
        });
        let last = self.raw.len() - 1;
        &mut self.raw[last]
    }

    /// Appends an instruction whose operands are listed; the first `defs` are written.
    pub(crate) fn push_list(&mut self, run: Handler, list: Vec<Val>, defs: usize, imm: i64) -> &mut Raw {
        let reg = |v: &Val| if let Val::Reg(id) = v { Some(*id) } else { None };
        let (d, u): (Vec<u32>, Vec<u32>) =
            (list[..defs].iter().filter_map(reg).collect(), list[defs..].iter().filter_map(reg).collect());
        let raw = self.push(run, [Val::None; 4], 0, imm);
        raw.defs = d;
        raw.uses = u;
        raw.list = list;
        raw.pure_op = false;
        raw
    }

    /// The instruction just pushed has an effect beyond its destination.
    pub(crate) fn impure(&mut self) {
        if let Some(raw) = self.raw.last_mut() {
            raw.pure_op = false;
        }
    }

    pub(crate) fn op<E: Exec>(&mut self, d: Val, sources: &[Val], imm: i64) -> &mut Raw {
        let mut r = [d, Val::None, Val::None, Val::None];
        r[1..=sources.len()].copy_from_slice(sources);
        self.push(handler::<E>(), r, 1, imm)
    }

    /// A register copy of any width.
    pub(crate) fn copy(&mut self, d: Val, a: Val, w: Where) {
        let class = std::mem::replace(&mut self.class, Class::Move);
        let raw = match w {
            Where::W16 => self.op::<MovOp<u16>>(d, &[a], 0),
            Where::W32 => self.op::<MovOp<u32>>(d, &[a], 0),
            Where::W64 => self.op::<MovOp<u64>>(d, &[a], 0),
        };
        raw.copy = true;
        self.class = class;
    }

    pub(crate) fn flow(&mut self, flow: Flow) {
        let run = match flow {
            Flow::Jump(_) => handler::<control::Jump>(),
            Flow::Branch(_) => handler::<control::Branch>(),
            Flow::Exit if self.guard.is_some() => handler::<control::ExitIf>(),
            Flow::Exit => handler::<control::Exit>(),
            Flow::Ret if self.guard.is_some() => handler::<control::RetIf>(),
            Flow::Ret => handler::<control::Ret>(),
            Flow::Call(_) => handler::<control::Call>(),
            Flow::Trap => handler::<control::TrapOp>(),
            Flow::Next | Flow::Label(_) => handler::<control::Nop>(),
        };
        let class = std::mem::replace(&mut self.class, Class::Control);
        let raw = self.push(run, [Val::None; 4], 0, 0);
        raw.flow = flow;
        self.class = class;
    }

    pub(crate) fn fresh_label(&mut self) -> u32 {
        self.labels += 1;
        self.labels - 1
    }

    fn place(&mut self, label: u32) {
        let guard = self.guard.take();
        self.flow(Flow::Label(label));
        self.guard = guard;
    }

    // ---- control ----------------------------------------------------------------------------------------------------

    pub(crate) fn branch(&mut self, operand: &Operand<'a>) -> R {
        let Operand::Name(name) = operand else { return self.error("expected a label") };
        let label = self.label(name)?;
        self.flow(if self.guard.is_some() { Flow::Branch(label) } else { Flow::Jump(label) });
        Ok(())
    }

    /// `brx.idx index, table`: a chain of compares and branches.
    pub(crate) fn branch_indexed(&mut self, index: &Operand<'a>, table: &Operand<'a>) -> R {
        let Operand::Name(name) = table else { return self.error("expected a list of targets") };
        let targets = self.scopes[self.floor..].iter().rev().find_map(|s| s.targets.get(name)).cloned();
        let Some(targets) = targets else { return self.error(format!("unknown list of targets `{name}`")) };
        let index = self.src(index, Ty::U32)?;
        let outer = self.guard.take();
        let skip = self.fresh_label();
        if let Some((p, negated)) = outer {
            self.guard = Some((p, !negated));
            self.flow(Flow::Branch(skip));
            self.guard = None;
        }
        for (i, target) in targets.iter().enumerate() {
            let label = self.label(target)?;
            let p = self.fresh_pred();
            let n = self.imm(Where::W32, i as u64);
            self.push(handler::<SetpOp<ops::Eq32>>(), [Val::Pred(p), Val::Raw(0), index, n], 2, 0);
            self.impure();
            self.guard = Some((p, false));
            self.flow(Flow::Branch(label));
            self.guard = None;
        }
        self.flow(Flow::Trap);
        self.place(skip);
        self.guard = outer;
        Ok(())
    }

    pub(crate) fn ret(&mut self) {
        match self.ret {
            None if self.unit == 0 => self.flow(Flow::Exit),
            None => {
                for i in 0..self.results.len() {
                    let (value, w, to) = self.results[i];
                    spill(self, false, w, value, Val::Reg(to), 0);
                }
                self.flow(Flow::Ret);
            }
            Some(label) => self.flow(if self.guard.is_some() { Flow::Branch(label) } else { Flow::Jump(label) }),
        }
    }

    /// `call`, direct or by address. A guarded call is a branch around it.
    pub(crate) fn call(&mut self, operands: &[Operand<'a>]) -> R {
        let (returns, rest) = match operands {
            [Operand::List(returns), rest @ ..] => (returns.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let (name, arguments, targets) = match rest {
            [Operand::Name(name)] => (*name, &[][..], None),
            [Operand::Name(name), Operand::List(arguments)] => (*name, arguments.as_slice(), None),
            [Operand::Name(name), Operand::List(arguments), Operand::Name(t)] => {
                (*name, arguments.as_slice(), Some(*t))
            }
            [Operand::Name(name), Operand::Name(t)] => (*name, &[][..], Some(*t)),
            _ => return self.error("operands of this form are not allowed here"),
        };
        self.around(|l| {
            if l.register(name).is_some() {
                return l.call_address(&Operand::Name(name), arguments, returns, targets);
            }
            match l.plan.node(l.top, name) {
                Some(node) => l.call_node(node, arguments, returns),
                None => l.call_runtime(name, arguments, returns),
            }
        })
    }

    /// A call of a known function: its body is put in place, or it has code of its own.
    fn call_node(&mut self, node: usize, arguments: &[Operand<'a>], returns: &[Operand<'a>]) -> R {
        let top = self.top;
        let function = &top.functions[self.plan.nodes[node].function];
        if function.params.len() != arguments.len() || function.returns.len() != returns.len() {
            return self.error(format!("`{}` takes another number of arguments", function.name));
        }
        let pairs = function.params.iter().zip(arguments).map(|(d, o)| (d, o, false));
        let pairs: Vec<_> = pairs.chain(function.returns.iter().zip(returns).map(|(d, o)| (d, o, true))).collect();
        let mut copies_out = Vec::new();
        if self.plan.nodes[node].own {
            let unit = self.unit_of(node);
            let mut list = Vec::new();
            for (decl, operand, out) in pairs {
                let at = if decl.register {
                    // Registers pass through the caller's frame.
                    if decl.ty == Ty::Pred {
                        return self.error("predicates as parameters are not supported here");
                    }
                    let w = width(decl.ty);
                    self.local = self.local.next_multiple_of(w.bytes());
                    let var = Var {
                        space: Space::Local,
                        at: self.local as u64,
                        element: w.bytes(),
                        base: self.frame,
                        array: 0,
                    };
                    self.local += w.bytes();
                    let base = var.base.map_or_else(|| self.imm(Where::W64, 0), Val::Reg);
                    if out {
                        let (to, own) = self.dst_any(operand, w)?;
                        copies_out.push((to, own, w, base, var.at));
                    } else {
                        let value = self.src(operand, decl.ty)?;
                        spill(self, false, w, value, base, var.at);
                    }
                    self.place_of(var, 0)
                } else {
                    self.argument(operand)?
                };
                list.push(Val::Reg(self.units[unit].args[list.len() / 2]));
                list.push(at);
            }
            let saves = self.plan.nested(self.node, node);
            self.flow(Flow::Call(unit));
            if let Some(raw) = self.raw.last_mut() {
                let reg = |v: &Val| if let Val::Reg(id) = v { Some(*id) } else { None };
                raw.uses = list.iter().skip(1).step_by(2).filter_map(reg).collect();
                raw.list = list;
                raw.imm = i64::from(saves);
            }
            for (to, own, w, base, at) in copies_out {
                let value = Val::Reg(self.fresh(w));
                spill(self, true, w, value, base, at);
                let value = self.convert(value, w, own, false);
                self.copy(to, value, own);
            }
            return Ok(());
        }
        // Stands for the call in reports.
        self.flow(Flow::Next);
        let mut scope = Scope::default();
        for (decl, operand, out) in pairs {
            if decl.register {
                let id = self.fresh_of(decl.ty);
                scope.regs.insert(decl.name, (decl.ty, id));
                if out {
                    let (to, w) = self.dst_any(operand, width(decl.ty))?;
                    copies_out.push((to, w, width(decl.ty), Val::Reg(id), 0));
                } else {
                    let from = self.src(operand, decl.ty)?;
                    self.copy(Val::Reg(id), from, width(decl.ty));
                }
                continue;
            }
            let Operand::Name(name) = operand else { return self.error("arguments are `.param` variables") };
            match self.variable(name) {
                Some(var) if var.space == Space::Local => {
                    scope.vars.insert(decl.name, var);
                }
                _ => return self.error(format!("`{name}` is not a `.param` variable")),
            }
        }
        let (floor, ret, line, text, loc) = (self.floor, self.ret, self.line, self.inst_text, self.loc);
        let (outer, opcode) = (self.node, self.opcode);
        let end = self.fresh_label();
        self.floor = self.scopes.len();
        self.scopes.push(scope);
        self.ret = Some(end);
        self.node = node;
        self.body(node)?;
        self.scopes.truncate(self.floor);
        (self.floor, self.ret, self.line, self.inst_text, self.loc) = (floor, ret, line, text, loc);
        (self.node, self.opcode) = (outer, opcode);
        self.place(end);
        for (to, own, w, value, _) in copies_out {
            let value = self.convert(value, w, own, false);
            self.copy(to, value, own);
        }
        Ok(())
    }

    /// Where an argument or result lies in local memory.
    fn argument(&mut self, operand: &Operand<'a>) -> R<Val> {
        let Operand::Name(name) = operand else { return self.error("arguments are `.param` variables") };
        match self.variable(name) {
            Some(var) if var.space == Space::Local => Ok(self.place_of(var, 0)),
            _ => self.error(format!("`{name}` is not a `.param` variable")),
        }
    }

    /// A call by address: one masked call for each function it may be.
    fn call_address(
        &mut self,
        address: &Operand<'a>,
        arguments: &[Operand<'a>],
        returns: &[Operand<'a>],
        targets: Option<&'a str>,
    ) -> R {
        let address = self.src(address, Ty::U64)?;
        let listed =
            targets.and_then(|t| self.scopes[self.floor..].iter().rev().find_map(|s| s.targets.get(t))).cloned();
        let (plan, top) = (self.plan.clone(), self.top);
        let end = self.fresh_label();
        for &node in &plan.targets {
            let function = &top.functions[plan.nodes[node].function];
            if function.params.len() != arguments.len()
                || function.returns.len() != returns.len()
                || listed.as_ref().is_some_and(|names| !names.contains(&function.name))
            {
                continue;
            }
            let p = self.fresh_pred();
            let this = self.imm(Where::W64, calls::address(plan.nodes[node].function));
            self.push(handler::<SetpOp<ops::Eq64>>(), [Val::Pred(p), Val::Raw(0), address, this], 2, 0);
            self.impure();
            let next = self.fresh_label();
            self.guard = Some((p, true));
            self.flow(Flow::Branch(next));
            self.guard = None;
            self.call_node(node, arguments, returns)?;
            self.flow(Flow::Jump(end));
            self.place(next);
        }
        self.flow(Flow::Trap);
        if let Some(raw) = self.raw.last_mut() {
            raw.run = handler::<control::BadCall>();
            raw.meta.rule = raw.run.rule;
            raw.r[0] = address;
            raw.uses.extend(if let Val::Reg(id) = address { Some(id) } else { None });
        }
        self.place(end);
        Ok(())
    }

    /// A function of the device runtime.
    fn call_runtime(&mut self, name: &str, arguments: &[Operand<'a>], returns: &[Operand<'a>]) -> R {
        let Some((kind, counts, result)) = runtime::find(name) else {
            return self
                .error(format!("`{name}` has no body in this module, and the device runtime here does not have it"));
        };
        if (arguments.len(), returns.len()) != counts {
            return self.error(format!("`{name}` takes another number of arguments"));
        }
        let mut list = Vec::new();
        for operand in returns.iter().chain(arguments) {
            let at = self.argument(operand)?;
            list.push(at);
        }
        let class = std::mem::replace(&mut self.class, Class::Other);
        let first = list.first().copied();
        let raw = self.push_list(handler::<runtime::Runtime>(), list, 0, kind as i64);
        if let (Some(at), true) = (first, result > 0) {
            let offset = crate::memory::LOCAL_WINDOW as i64;
            let (kind, space) = (AccessKind::Store, Space::Local);
            raw.meta.access =
                Some(Access { kind, space, bytes: result, lanes: 1, addr: 0, wide: true, offset, order: 0 });
            raw.access_addr = at;
        }
        self.class = class;
        Ok(())
    }

    /// The unit of a function with code of its own, which is lowered later.
    fn unit_of(&mut self, node: usize) -> usize {
        if let Some(unit) = self.units.iter().position(|u| u.node == node) {
            return unit;
        }
        let function = &self.top.functions[self.plan.nodes[node].function];
        let frame = self.fresh(Where::W64);
        let args = (0..function.params.len() + function.returns.len()).map(|_| self.fresh(Where::W64)).collect();
        self.units.push(Unit { node, code: Vec::new(), frame, args, preds: 0..0, local: 0 });
        self.units.len() - 1
    }

    /// Lowers a function with code of its own.
    fn lower_unit(&mut self, unit: usize) -> R {
        let node = self.units[unit].node;
        let top = self.top;
        let function = &top.functions[self.plan.nodes[node].function];
        self.scopes.truncate(1);
        self.scopes.push(Scope::default());
        (self.floor, self.node, self.unit, self.local, self.carry, self.ret) = (1, node, unit, 0, None, None);
        (self.line, self.inst_text) = (function.line, function.name);
        self.frame = Some(self.units[unit].frame);
        self.results.clear();
        let first_pred = self.preds;
        // What the caller fills is defined from the beginning.
        let enter = self.fresh_label();
        self.place(enter);
        let args = self.units[unit].args.clone();
        if let Some(raw) = self.raw.last_mut() {
            raw.defs = args.clone();
            raw.defs.push(self.units[unit].frame);
        }
        let count = function.params.len();
        for (i, (decl, &arg)) in function.params.iter().chain(&function.returns).zip(&args).enumerate() {
            if decl.register {
                let id = self.fresh_of(decl.ty);
                self.scope().regs.insert(decl.name, (decl.ty, id));
                if i < count {
                    spill(self, true, width(decl.ty), Val::Reg(id), Val::Reg(arg), 0);
                } else {
                    self.results.push((Val::Reg(id), width(decl.ty), arg));
                }
            } else {
                let var = Var { space: Space::Local, at: 0, element: decl.ty.bytes(), base: Some(arg), array: 0 };
                self.scope().vars.insert(decl.name, var);
            }
        }
        self.body(node)?;
        self.guard = None;
        self.ret();
        let own = &mut self.units[unit];
        own.code = std::mem::take(&mut self.raw);
        own.preds = first_pred..self.preds;
        own.local = self.local;
        Ok(())
    }

    fn body(&mut self, node: usize) -> R {
        let body = self.plan.nodes[node].body.clone();
        let mut at = 0;
        self.block(&body, &mut at)
    }

    /// Notes an error where errors are listed, else gives it back.
    fn note(&mut self, error: LoadError) -> R {
        match &mut self.gaps {
            Some(gaps) => {
                gaps.add(error);
                Ok(())
            }
            None => Err(error),
        }
    }

    /// What must be as before when an instruction is left out.
    fn instruction_or_gap(&mut self, inst: &Inst<'a>) -> R {
        let (code, floor, scopes, ret, node) = (self.raw.len(), self.floor, self.scopes.len(), self.ret, self.node);
        let done = self.instruction(inst);
        if let Err(error) = done {
            self.note(error)?;
            self.raw.truncate(code);
            self.scopes.truncate(scopes);
            (self.floor, self.ret, self.node, self.guard) = (floor, ret, node, None);
        }
        if self.raw.len() > MAX_CODE {
            return self.error("the kernel is too large");
        }
        Ok(())
    }

    /// Lowers statements up to the end of the scope.
    fn block(&mut self, statements: &[Stmt<'a>], at: &mut usize) -> R {
        // Labels may be used before they stand.
        let mut depth = 0;
        for statement in &statements[*at..] {
            match statement {
                Stmt::Open => depth += 1,
                Stmt::Close if depth == 0 => break,
                Stmt::Close => depth -= 1,
                Stmt::Label(name, line) if depth == 0 => {
                    let id = self.fresh_label();
                    if self.scope().labels.insert(name, id).is_some() {
                        self.line = *line;
                        self.inst_text = name;
                        let twice = self.error("label defined twice");
                        twice.or_else(|error| self.note(error))?;
                    }
                }
                Stmt::Targets(name, targets) if depth == 0 => {
                    self.scope().targets.insert(name, targets.clone());
                }
                _ => {}
            }
        }
        while let Some(statement) = statements.get(*at) {
            *at += 1;
            match statement {
                Stmt::Open => {
                    if self.scopes.len() > 200 {
                        return self.error("scopes nested too deeply");
                    }
                    self.scopes.push(Scope::default());
                    self.block(statements, at)?;
                    self.scopes.pop();
                }
                Stmt::Close => return Ok(()),
                Stmt::Reg(name, count, ty, line) => {
                    self.line = *line;
                    self.inst_text = name;
                    self.declare(name, *count, *ty)?;
                }
                Stmt::Var(var) => {
                    self.line = var.line;
                    self.inst_text = var.name;
                    if let Err(error) = self.variable_declared(var) {
                        self.note(error)?;
                        // What uses it is no gap of its own.
                        let any = Var { space: var.space, at: 0, element: var.element, base: None, array: 0 };
                        self.scope().vars.insert(var.name, any);
                    }
                }
                Stmt::Label(name, _) => {
                    let id = self.label(name)?;
                    self.place(id);
                }
                Stmt::Loc(loc) => self.located(loc),
                Stmt::Targets(..) => {}
                Stmt::Inst(inst) => self.instruction_or_gap(inst)?,
            }
        }
        Ok(())
    }

    fn variable_declared(&mut self, var: &crate::parse::Var<'a>) -> R {
        let at = match var.space {
            Space::Shared => {
                // A function inlined twice still has one static variable.
                let key = (var.line, var.name);
                match self.statics.get(&key) {
                    Some(at) => *at,
                    None => {
                        let at = self.shared.next_multiple_of(var.align);
                        self.shared = at + var.size;
                        self.shared_align = self.shared_align.max(var.align);
                        self.statics.insert(key, at);
                        at
                    }
                }
            }
            // Parameters of calls live in the thread's own memory.
            Space::Local | Space::Param => {
                let at = self.local.next_multiple_of(var.align);
                self.local = at + var.size;
                at
            }
            _ => return self.error("variables of this space inside a function are not supported"),
        };
        // A GPU gives a thread 512 KiB of local memory; the shared memory of a block is judged at launch.
        if self.shared > 1 << 30 || self.local > 512 << 10 {
            return self.error("variable too large");
        }
        let space = if var.space == Space::Param { Space::Local } else { var.space };
        let base = if space == Space::Local { self.frame } else { None };
        let array = match space {
            Space::Shared => self.array(var.name, at, var.size),
            _ => 0,
        };
        self.scope().vars.insert(var.name, Var { space, at: at as u64, element: var.element, base, array });
        Ok(())
    }

    /// A `.loc`. The place it was inlined at is one that stood in an earlier `.loc`, which may have been inlined itself.
    fn located(&mut self, at: &crate::parse::Loc) {
        let [file, line, column] = at.place;
        let inlined_at = at.inlined_at.map_or(0, |place| {
            let known = self.locs.iter().rposition(|l| [l.file, l.line, l.column] == place);
            known.unwrap_or_else(|| {
                let [file, line, column] = place;
                self.locs.push(Loc { file, line, column, inlined_at: 0 });
                self.locs.len() - 1
            }) as u32
        });
        self.loc = self.locs.len() as u32;
        self.locs.push(Loc { file, line, column, inlined_at });
    }

    fn instruction(&mut self, inst: &Inst<'a>) -> R {
        self.line = inst.line;
        self.inst_text = inst.text;
        self.opcode = inst.opcode;
        self.guard = None;
        if let Some((name, negated)) = inst.guard {
            self.guard = match self.register(name) {
                Some((Ty::Pred, id)) => Some((id, negated)),
                _ => return self.error(format!("`{name}` is not a predicate")),
            };
        }
        isa::lower(self, inst)?;
        self.guard = None;
        Ok(())
    }

    /// Emits what `body` does under the present guard as a branch around it: lanes that wait for each other stand on a path of their own.
    pub(crate) fn around(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        let Some((p, negated)) = self.guard else { return body(self) };
        let skip = self.fresh_label();
        self.guard = Some((p, !negated));
        self.flow(Flow::Branch(skip));
        self.guard = None;
        body(self)?;
        self.place(skip);
        // Lanes for which it does not hold are still there when the others come, even if all they do then is exit.
        self.flow(Flow::Next);
        self.guard = Some((p, negated));
        Ok(())
    }

    /// The predicate that stands for the carry flag of extended-precision arithmetic.
    pub(crate) fn carry(&mut self) -> u32 {
        match self.carry {
            Some(p) => p,
            None => {
                let p = self.fresh_pred();
                self.carry = Some(p);
                p
            }
        }
    }

    /// Names the first step since `start` as the one that stands for a whole PTX instruction.
    pub(crate) fn lead(&mut self, start: usize, class: Class, flops: u32) {
        let first = self.raw[start..].iter_mut().find(|raw| !matches!(raw.flow, Flow::Label(_)));
        if let Some(raw) = first.filter(|raw| !raw.meta.lead) {
            (raw.meta.lead, raw.meta.class) = (true, class);
            raw.meta.flops = raw.meta.flops.max(flops);
        }
    }

    pub(crate) fn guarded(&self) -> bool {
        self.guard.is_some()
    }
}

/// Decodes one entry of a module.
pub(crate) fn lower<'a>(
    file: &'a str,
    text: &'a Arc<str>,
    top: &'a Top<'a>,
    entry: &str,
    globals: &'a Arc<Globals>,
) -> R<Kernel> {
    decode(file, text, top, entry, globals, &mut None)
}

/// Everything that keeps an entry from being decoded, by lines.
pub(crate) fn gaps<'a>(
    file: &'a str,
    text: &'a Arc<str>,
    top: &'a Top<'a>,
    entry: &str,
    globals: &'a Arc<Globals>,
) -> Vec<LoadError> {
    let mut gaps = Some(Gaps::default());
    let end = decode(file, text, top, entry, globals, &mut gaps);
    let mut gaps = gaps.unwrap_or_default();
    if let Err(error) = end {
        gaps.add(error);
    }
    gaps.list.sort_by_key(|error| error.line);
    gaps.list
}

/// Decodes an entry. With `gaps` it goes on behind what it cannot decode, and lists that there; the kernel is worth nothing then.
fn decode<'a>(
    file: &'a str,
    text: &'a Arc<str>,
    top: &'a Top<'a>,
    entry: &str,
    globals: &'a Arc<Globals>,
    gaps: &mut Option<Gaps>,
) -> R<Kernel> {
    let Some(index) = top.functions.iter().position(|f| f.entry && f.name == entry && f.body.is_some()) else {
        let known: Vec<&str> = top.functions.iter().filter(|f| f.entry).map(|f| f.name).collect();
        return Err(LoadError {
            kind: LoadErrorKind::NoEntry,
            file: file.to_owned(),
            line: 0,
            text: String::new(),
            message: format!("no entry `{entry}`; there are: {}", known.join(", ")),
        });
    };
    let function = &top.functions[index];
    let mut plan = Plan::new(file, text, top, index, gaps.is_some())?;
    if let (Some(gaps), Some(read)) = (&mut *gaps, plan.gaps.take()) {
        read.into_iter().for_each(|error| gaps.add(error));
    }
    let plan = Rc::new(plan);
    let mut l = Lower {
        file,
        text,
        top,
        globals,
        scopes: vec![Scope::default()],
        floor: 0,
        regs: Vec::new(),
        preds: 1,
        consts: Vec::new(),
        const_index: HashMap::new(),
        raw: Vec::new(),
        labels: 0,
        shared: 0,
        shared_align: 16,
        param_bytes: 0,
        local: 0,
        dynamic: HashMap::new(),
        statics: HashMap::new(),
        guard: None,
        line: function.line,
        loc: 0,
        locs: vec![Loc::default()],
        inst_text: function.name,
        opcode: "",
        ret: None,
        plan,
        node: 0,
        unit: 0,
        units: Vec::new(),
        frame: None,
        allocates: false,
        arrays: Vec::new(),
        results: Vec::new(),
        carry: None,
        class: Class::Other,
        gaps: gaps.take(),
    };
    let done = parts(&mut l, function);
    *gaps = l.gaps.take();
    let (params, static_shared) = done?;
    if let Some(found) = &mut *gaps
        && let Some(first) = found.list.first()
    {
        return Err(first.clone());
    }
    super::finish::finish(l, function, params, static_shared, text.clone(), globals.clone())
}

/// Lowers an entry and all it calls; gives its parameters and the bytes of its static shared memory.
fn parts<'a>(l: &mut Lower<'a>, function: &'a Function<'a>) -> R<(Vec<Param>, usize)> {
    let top = l.top;
    // Dynamic shared arrays start behind all static ones, whose total is known only after the body: a first pass sizes them.
    for var in top.variables.iter().filter(|v| v.space == Space::Shared) {
        if var.size == 0 {
            l.dynamic.insert(var.name, ());
        }
    }
    let named = l.plan.names();
    for var in top.variables.iter().filter(|v| v.space == Space::Shared && v.size > 0 && named.contains(v.name)) {
        l.variable_declared(var)?;
    }
    let mut dynamic_align = 16;
    for var in top.variables.iter().filter(|v| v.space == Space::Shared && v.size == 0) {
        dynamic_align = dynamic_align.max(var.align);
    }
    let static_total = shared_total(l);
    let dynamic_at = static_total.next_multiple_of(dynamic_align);
    let names: Vec<&str> = l.dynamic.keys().copied().collect();
    let array = if names.is_empty() { 0 } else { l.array("", dynamic_at, usize::MAX - dynamic_at) };
    for name in &names {
        let element = top.variables.iter().find(|v| v.name == *name).map_or(1, |v| v.element);
        l.scope().vars.insert(name, Var { space: Space::Shared, at: dynamic_at as u64, element, base: None, array });
    }
    let mut params = Vec::new();
    l.scopes.push(Scope::default());
    for p in &function.params {
        let offset = l.param_bytes.next_multiple_of(p.align.max(1));
        l.scope().vars.insert(
            p.name,
            Var { space: Space::Param, at: offset as u64, element: p.ty.bytes(), base: None, array: 0 },
        );
        params.push(Param { name: p.name.to_owned(), offset, size: p.size, align: p.align, ty: p.ty.name() });
        l.param_bytes = offset + p.size;
        if l.param_bytes > MOST_PARAMS {
            l.inst_text = p.name;
            return l.error(format!("the parameters take more than {MOST_PARAMS} bytes"));
        }
    }
    if function.cluster.is_some_and(|n| n != [1; 3]) {
        let clusters = l.error("thread block clusters (.reqnctapercluster) are not supported");
        clusters.or_else(|error| l.note(error))?;
    }
    l.units.push(Unit { node: 0, code: Vec::new(), frame: u32::MAX, args: Vec::new(), preds: 0..0, local: 0 });
    l.body(0)?;
    l.guard = None;
    l.flow(Flow::Exit);
    l.units[0].code = std::mem::take(&mut l.raw);
    l.units[0].local = l.local;
    // Lowering a function may find more of them.
    let mut unit = 1;
    while unit < l.units.len() {
        l.lower_unit(unit)?;
        unit += 1;
    }
    if l.shared > crate::arch::STATIC_SHARED {
        (l.line, l.inst_text) = (function.line, function.name);
        return l.error(format!(
            "{} bytes of static shared memory: at most 48 KiB, more is dynamic (`.extern .shared`)",
            l.shared
        ));
    }
    let static_shared = if l.dynamic.is_empty() { l.shared } else { dynamic_at.max(l.shared) };
    Ok((params, static_shared))
}

impl Lower<'_> {
    pub(crate) fn arch(&self) -> u32 {
        crate::arch::of_target(self.top.target)
    }
    pub(crate) fn file(&self) -> &str {
        self.file
    }
    pub(crate) fn take_locs(&mut self) -> Vec<Loc> {
        std::mem::take(&mut self.locs)
    }
    pub(crate) fn files(&self) -> Vec<(u32, String)> {
        self.top.files.iter().map(|(n, name)| (*n, (*name).to_owned())).collect()
    }
}

/// Bytes of static shared memory of an entry and of everything it might call.
fn shared_total(l: &Lower<'_>) -> usize {
    let mut total = l.shared;
    for statement in l.plan.nodes.iter().flat_map(|node| node.body.iter()) {
        if let Stmt::Var(var) = statement
            && var.space == Space::Shared
        {
            total = total.next_multiple_of(var.align).saturating_add(var.size);
        }
    }
    total
}
