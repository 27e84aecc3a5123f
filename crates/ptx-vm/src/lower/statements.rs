//! Statements: scopes, variables, places in the source, and the instructions of a body one after the other.

use super::builder::{Lower, MAX_CODE, Scope, Var};
use super::form::R;
use super::isa;
use crate::error::LoadError;
use crate::ir::{Class, Flow, Loc};
use crate::parse::{Inst, Space, Stmt, Ty};

impl<'a> Lower<'a> {
    pub(super) fn body(&mut self, node: usize) -> R {
        let body = self.plan.nodes[node].body.clone();
        let mut at = 0;
        self.block(&body, &mut at)
    }

    /// Notes an error where errors are listed, else gives it back.
    pub(super) fn note(&mut self, error: LoadError) -> R {
        match &mut self.gaps {
            Some(gaps) => {
                gaps.add(error);
                Ok(())
            }
            None => Err(error),
        }
    }

    /// What must be as before when an instruction is left out.
    pub(super) fn instruction_or_gap(&mut self, inst: &Inst<'a>) -> R {
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

    /// Names the labels and lists of targets of a scope: they may be used before they stand.
    fn labels(&mut self, statements: &[Stmt<'a>]) -> R {
        let mut depth = 0;
        for statement in statements {
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
        Ok(())
    }

    /// Lowers statements up to the end of the scope.
    pub(super) fn block(&mut self, statements: &[Stmt<'a>], at: &mut usize) -> R {
        self.labels(&statements[*at..])?;
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
                        let any = Var {
                            space: var.space,
                            declared: var.space,
                            at: 0,
                            element: var.element,
                            size: 0,
                            base: None,
                            array: 0,
                        };
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

    pub(super) fn variable_declared(&mut self, var: &crate::parse::Var<'a>) -> R {
        if self.is_declared(var.name, None) {
            return self.error(format!("`{}` is declared twice", var.name));
        }
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
        let (space, size) = if var.space == Space::Param { (Space::Local, var.size) } else { (var.space, 0) };
        let base = if space == Space::Local { self.frame } else { None };
        let array = match space {
            Space::Shared => self.array(var.name, at, var.size),
            _ => 0,
        };
        self.scope().vars.insert(
            var.name,
            Var { space, declared: var.space, at: at as u64, element: var.element, size, base, array },
        );
        Ok(())
    }

    /// A `.loc`. The place it was inlined at is one that stood in an earlier `.loc`, which may have been inlined itself.
    pub(super) fn located(&mut self, at: &crate::parse::Loc) {
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

    pub(super) fn instruction(&mut self, inst: &Inst<'a>) -> R {
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
