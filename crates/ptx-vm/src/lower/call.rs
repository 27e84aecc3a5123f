//! Branches and calls. The body of a function is put in place, or it has code of its own.

use super::builder::{Lower, Scope, Unit, Var};
use super::calls;
use super::emit::memory::spill;
use super::form::R;
use crate::ir::{Access, AccessKind, Class, Flow, Val, Where, handler, width};
use crate::parse::{Operand, ParamDecl, Space, Ty};
use crate::step::alu::SetpOp;
use crate::step::{call, ops, runtime};

/// What a function declares, what the call gives for it, and whether that is a result.
type Pair<'a, 'o> = (&'a ParamDecl<'a>, &'o Operand<'a>, bool);

impl<'a> Lower<'a> {
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
    pub(super) fn call_node(&mut self, node: usize, arguments: &[Operand<'a>], returns: &[Operand<'a>]) -> R {
        let top = self.top;
        let function = &top.functions[self.plan.nodes[node].function];
        if function.params.len() != arguments.len() || function.returns.len() != returns.len() {
            return self.error(format!("`{}` takes another number of arguments", function.name));
        }
        let pairs = function.params.iter().zip(arguments).map(|(d, o)| (d, o, false));
        let pairs: Vec<_> = pairs.chain(function.returns.iter().zip(returns).map(|(d, o)| (d, o, true))).collect();
        if self.plan.nodes[node].own { self.call_unit(node, pairs) } else { self.call_in_place(node, pairs) }
    }

    fn call_unit(&mut self, node: usize, pairs: Vec<Pair<'a, '_>>) -> R {
        let mut copies_out = Vec::new();
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
                    declared: Space::Param,
                    at: self.local as u64,
                    element: w.bytes(),
                    size: w.bytes(),
                    base: self.frame,
                    array: 0,
                };
                self.local += w.bytes();
                let base = var.base.map_or_else(|| self.imm(Where::W64, 0), Val::Reg);
                if out {
                    let (to, own) = self.wide_dst(operand, decl.ty)?;
                    copies_out.push((to, own, w, base, var.at));
                } else {
                    let value = self.src(operand, decl.ty)?;
                    spill(self, false, w, value, base, var.at);
                }
                self.place_of(var, 0)
            } else {
                self.passed(decl, operand)?;
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
        Ok(())
    }

    fn call_in_place(&mut self, node: usize, pairs: Vec<Pair<'a, '_>>) -> R {
        let mut copies_out = Vec::new();
        // Stands for the call in reports.
        self.flow(Flow::Next);
        let mut scope = Scope::default();
        for (decl, operand, out) in pairs {
            if decl.register {
                let id = self.fresh_of(decl.ty);
                scope.regs.insert(decl.name, (decl.ty, id));
                if out {
                    let (to, w) = self.wide_dst(operand, decl.ty)?;
                    copies_out.push((to, w, width(decl.ty), Val::Reg(id)));
                } else {
                    let from = self.src(operand, decl.ty)?;
                    self.copy(Val::Reg(id), from, width(decl.ty));
                }
                continue;
            }
            let var = self.passed(decl, operand)?;
            scope.vars.insert(decl.name, var);
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
        for (to, own, w, value) in copies_out {
            let value = self.convert(value, w, own, false);
            self.copy(to, value, own);
        }
        Ok(())
    }

    /// The variable that is an argument or result.
    fn parameter(&mut self, operand: &Operand<'a>) -> R<Var> {
        let Operand::Name(name) = operand else { return self.error("arguments are `.param` variables") };
        match self.variable(name) {
            Some(var) if var.space == Space::Local && var.declared == Space::Param => Ok(var),
            _ => self.error(format!("`{name}` is not a `.param` variable")),
        }
    }

    /// The same, of the size that the function declares.
    fn passed(&mut self, decl: &ParamDecl<'a>, operand: &Operand<'a>) -> R<Var> {
        let var = self.parameter(operand)?;
        if var.size == decl.size || decl.size == 0 {
            return Ok(var);
        }
        self.error(format!("`{operand}` has {} bytes, the parameter `{}` has {}", var.size, decl.name, decl.size))
    }

    /// Whether a function may be meant by a call with these arguments, or results.
    fn suits(&mut self, decls: &[ParamDecl<'a>], operands: &[Operand<'a>]) -> bool {
        decls.len() == operands.len()
            && decls.iter().zip(operands).all(|(decl, operand)| decl.register || self.passed(decl, operand).is_ok())
    }

    /// Where an argument or result lies in local memory.
    pub(super) fn argument(&mut self, operand: &Operand<'a>) -> R<Val> {
        let var = self.parameter(operand)?;
        Ok(self.place_of(var, 0))
    }

    /// A call by address: one masked call for each function it may be.
    pub(super) fn call_address(
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
            if !self.suits(&function.params, arguments)
                || !self.suits(&function.returns, returns)
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
            raw.run = handler::<call::BadCall>();
            raw.meta.rule = raw.run.rule;
            raw.r[0] = address;
            raw.uses.extend(if let Val::Reg(id) = address { Some(id) } else { None });
        }
        self.place(end);
        Ok(())
    }

    /// A function of the device runtime.
    pub(super) fn call_runtime(&mut self, name: &str, arguments: &[Operand<'a>], returns: &[Operand<'a>]) -> R {
        let Some((kind, counts, result)) = runtime::find(name) else {
            return self
                .error(format!("`{name}` has no body in this module, and the device runtime here does not have it"));
        };
        if (arguments.len(), returns.len()) != counts {
            return self.error(format!("`{name}` takes another number of arguments"));
        }
        let mut list = Vec::new();
        let declared = self.top.functions.iter().find(|f| f.name == name);
        let mut decls = declared.iter().flat_map(|f| f.returns.iter().chain(&f.params)).filter(|decl| !decl.register);
        for operand in returns.iter().chain(arguments) {
            if let Some(decl) = decls.next() {
                self.passed(decl, operand)?;
            }
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
    pub(super) fn unit_of(&mut self, node: usize) -> usize {
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
    pub(super) fn lower_unit(&mut self, unit: usize) -> R {
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
                let var = Var {
                    space: Space::Local,
                    declared: Space::Param,
                    at: 0,
                    element: decl.ty.bytes(),
                    size: decl.size,
                    base: Some(arg),
                    array: 0,
                };
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
}
