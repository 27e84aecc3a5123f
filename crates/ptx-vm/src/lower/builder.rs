//! What straight code over virtual registers is built with: names, constants, and instructions one after the other.

use super::calls::Plan;
use super::form::R;
use crate::error::{LoadError, LoadErrorKind};
use crate::ir::{Class, ConstSource, Exec, Flow, Globals, Handler, Loc, Meta, Raw, Val, Where, handler, width};
use crate::parse::{Operand, Space, Top, Ty};
use crate::step::alu::*;
use crate::step::{call, control};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub(super) struct Var {
    pub(super) space: Space,
    /// The space it was declared in: parameters of calls lie in local memory.
    pub(super) declared: Space,
    /// Offset in the window, or address.
    pub(super) at: u64,
    /// Bytes of one element.
    pub(super) element: usize,
    /// Bytes of all, of a parameter; 0: not known.
    pub(super) size: usize,
    /// The register it is relative to, in functions with code of their own.
    pub(super) base: Option<u32>,
    /// Which array of shared memory it is, see [`Kernel::arrays`]; 0 for other variables.
    pub(super) array: u8,
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

impl Unit {
    /// Bytes of its frame as calls stack them.
    pub(super) fn frame_bytes(&self) -> usize {
        Unit::rounded(self.local)
    }

    /// Frames and what is saved between them take multiples of 32 bytes.
    pub(super) fn rounded(bytes: usize) -> usize {
        bytes.next_multiple_of(32)
    }
}

#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) regs: HashMap<&'a str, (Ty, u32)>,
    pub(super) ranges: HashMap<&'a str, (Ty, u32)>,
    pub(super) vars: HashMap<&'a str, Var>,
    pub(super) labels: HashMap<&'a str, u32>,
    pub(super) targets: HashMap<&'a str, Vec<&'a str>>,
}

/// Instructions a kernel may have after inlining; beyond it something is wrong (or recursive).
pub(super) const MAX_CODE: usize = 4_000_000;

/// Bytes of parameters a kernel may have, as on the hardware.
pub(super) const MOST_PARAMS: usize = 32_764;

pub(crate) struct Lower<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a Arc<str>,
    pub(super) top: &'a Top<'a>,
    pub(super) globals: &'a Globals,
    pub(super) scopes: Vec<Scope<'a>>,
    /// Scopes below this index belong to callers and are out of sight.
    pub(super) floor: usize,
    pub(crate) regs: Vec<Where>,
    pub(crate) preds: u32,
    pub(crate) consts: Vec<(Where, ConstSource)>,
    pub(super) const_index: HashMap<(Where, ConstSource), u32>,
    pub(crate) raw: Vec<Raw>,
    pub(crate) labels: u32,
    pub(super) shared: usize,
    pub(super) shared_align: usize,
    /// Bytes of the entry's parameters.
    pub(crate) param_bytes: usize,
    pub(super) local: usize,
    /// Dynamic shared symbols, placed behind the static ones.
    pub(super) dynamic: HashMap<&'a str, ()>,
    pub(super) statics: HashMap<(u32, &'a str), usize>,
    pub(super) guard: Option<(u32, bool)>,
    pub(crate) line: u32,
    pub(super) loc: u32,
    pub(super) locs: Vec<Loc>,
    pub(crate) inst_text: &'a str,
    pub(crate) opcode: &'a str,
    /// Where `ret` goes: none in the entry itself and in functions with code of their own.
    pub(super) ret: Option<u32>,
    pub(super) plan: Rc<Plan<'a>>,
    /// The node whose body is being lowered, and the unit it is lowered into.
    pub(super) node: usize,
    pub(super) unit: usize,
    pub(crate) units: Vec<Unit>,
    /// In a function with code of its own: where its frame begins, and its results in registers.
    pub(super) frame: Option<u32>,
    pub(crate) allocates: bool,
    /// See [`Kernel::arrays`].
    pub(crate) arrays: Vec<(String, u64, u64)>,
    pub(super) results: Vec<(Val, Where, u32)>,
    pub(super) carry: Option<u32>,
    pub(crate) class: Class,
    /// What cannot be decoded, where that is listed instead of ending it all.
    pub(super) gaps: Option<Gaps>,
}

/// Errors in the order they were met, each once.
#[derive(Default)]
pub(super) struct Gaps {
    pub(super) list: Vec<LoadError>,
    pub(super) known: HashSet<LoadError>,
}

impl Gaps {
    pub(super) fn add(&mut self, error: LoadError) {
        if self.known.insert(error.clone()) {
            self.list.push(error);
        }
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
    pub(super) fn refuse<T>(&self, kind: LoadErrorKind, message: String) -> R<T> {
        Err(LoadError {
            kind,
            file: self.file.to_owned(),
            line: self.line,
            text: self.inst_text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect(),
            message,
        })
    }

    // ---- names ------------------------------------------------------------------------------------------------------

    pub(super) fn declare(&mut self, name: &'a str, count: Option<u32>, ty: Ty) -> R {
        if self.is_declared(name, count) {
            return self.error(format!("`{name}` is declared twice"));
        }
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

    /// Whether the innermost scope has a register of that name or, of a range, of the same prefix, or a variable.
    pub(super) fn is_declared(&mut self, name: &str, count: Option<u32>) -> bool {
        let scope = self.scope();
        match count {
            Some(_) => scope.ranges.contains_key(name),
            None => {
                let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
                let in_range = |(_, n): &(Ty, u32)| name[prefix.len()..].parse::<u32>().is_ok_and(|i| i < *n);
                scope.regs.contains_key(name)
                    || scope.vars.contains_key(name)
                    || scope.ranges.get(prefix).is_some_and(in_range)
            }
        }
    }

    pub(super) fn scope(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    pub(super) fn fresh_of(&mut self, ty: Ty) -> u32 {
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

    pub(super) fn register(&mut self, name: &'a str) -> Option<(Ty, u32)> {
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

    pub(super) fn variable(&mut self, name: &str) -> Option<Var> {
        for scope in self.scopes[self.floor..].iter().rev() {
            if let Some(var) = scope.vars.get(name) {
                return Some(*var);
            }
        }
        if let Some(at) = self.globals.addresses.get(name) {
            let known = self.top.variables.iter().find(|v| v.name == name);
            let (element, declared) = known.map_or((1, Space::Global), |v| (v.element, v.space));
            return Some(Var { space: Space::Global, declared, at: *at, element, size: 0, base: None, array: 0 });
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

    pub(super) fn label(&mut self, name: &'a str) -> R<u32> {
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

    /// The value of an immediate operand of type `ty`; none when it is another operand.
    pub(crate) fn literal(&self, operand: &Operand<'a>, ty: Ty) -> R<Option<u64>> {
        Ok(Some(match (operand, ty) {
            (Operand::F32(bits), Ty::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
            (Operand::F32(bits), Ty::F32 | Ty::B32) => u64::from(*bits),
            (Operand::F64(bits), Ty::F32) => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            (Operand::F64(bits), Ty::F64 | Ty::B64) => *bits,
            (Operand::F32(_) | Operand::F64(_), _) => {
                return self.error(format!("a floating-point constant where .{} is expected", ty.name()));
            }
            (Operand::Int(_), _) if ty.float() => {
                return self.error(format!("an integer constant where .{} is expected", ty.name()));
            }
            (Operand::Int(v), _) => *v as u64,
            (Operand::Name("WARP_SZ"), _) => 32,
            _ => return Ok(None),
        }))
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
            Flow::Exit if self.guard.is_some() => handler::<call::ExitIf>(),
            Flow::Exit => handler::<call::Exit>(),
            Flow::Ret if self.guard.is_some() => handler::<call::RetIf>(),
            Flow::Ret => handler::<call::Ret>(),
            Flow::Call(_) => handler::<call::Call>(),
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

    pub(super) fn place(&mut self, label: u32) {
        let guard = self.guard.take();
        self.flow(Flow::Label(label));
        self.guard = guard;
    }
}
