//! Which functions a kernel reaches, and which of them get code of their own instead of being put in place at every call.

use super::form::R;
use crate::error::{LoadError, LoadErrorKind};
use crate::memory::FUNCTION_WINDOW;
use crate::parse::{Function, Init, Inst, Operand, Stmt, Top, parse_body, parse_readable};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Statements up to which a function is always put in place, and up to which all its copies together are.
const SMALL: usize = 64;
const COPIES: usize = 2_000;
/// Calls that are put in place one inside the other; each takes some stack of whoever decodes the kernel.
const DEPTH: usize = 32;
/// Functions a kernel may reach.
const MOST_FUNCTIONS: usize = 10_000;

pub(crate) type Body<'a> = Rc<Vec<Stmt<'a>>>;

/// A function the entry may come to.
pub(crate) struct Reached<'a> {
    /// Index among the functions of the module.
    pub(crate) function: usize,
    pub(crate) body: Body<'a>,
    /// Has code of its own: recursive, called by address, or too large to be put in place everywhere.
    pub(crate) own: bool,
    /// Nodes it may call, once for each call; the bodies say where.
    calls: Vec<usize>,
    indirect: bool,
    /// Nodes that can be reached from it.
    reach: Vec<bool>,
}

/// The call graph of one entry, which is node 0.
pub(crate) struct Plan<'a> {
    pub(crate) nodes: Vec<Reached<'a>>,
    /// Nodes whose address is taken: where indirect calls may go.
    pub(crate) targets: Vec<usize>,
    index: HashMap<usize, usize>,
    /// What could not be read of the bodies, where it is left out instead of ending it all.
    pub(crate) gaps: Option<Vec<LoadError>>,
}

/// The function of that name with a body.
pub(crate) fn find(top: &Top<'_>, name: &str) -> Option<usize> {
    top.functions.iter().rposition(|f| f.name == name && f.body.is_some())
}

/// A function's address, as a kernel may hold it.
pub(crate) fn address(function: usize) -> u64 {
    FUNCTION_WINDOW + 16 * function as u64
}

/// What a `call` names: a function or the register that holds one.
fn callee<'a>(inst: &Inst<'a>) -> Option<&'a str> {
    inst.operands.iter().find_map(|operand| if let Operand::Name(name) = operand { Some(*name) } else { None })
}

fn is_call(inst: &Inst<'_>) -> bool {
    inst.opcode == "call" || inst.opcode.starts_with("call.")
}

/// The names in an operand.
fn names<'a>(operand: &Operand<'a>, to: &mut HashSet<&'a str>) {
    match operand {
        Operand::Name(name)
        | Operand::NameOffset(name, _)
        | Operand::Element(name, _)
        | Operand::Address(Some(name), _) => {
            to.insert(name);
        }
        Operand::Vector(list) | Operand::List(list) => list.iter().for_each(|o| names(o, to)),
        Operand::Pair(a, b) => {
            names(a, to);
            names(b, to);
        }
        _ => {}
    }
}

impl<'a> Plan<'a> {
    /// What the instructions of the entry, and of all it reaches, name: registers, variables and others.
    pub(crate) fn names(&self) -> HashSet<&'a str> {
        let mut found = HashSet::new();
        for statement in self.nodes.iter().flat_map(|node| node.body.iter()) {
            if let Stmt::Inst(inst) = statement {
                inst.operands.iter().for_each(|o| names(o, &mut found));
            }
        }
        found
    }

    /// When it `collects`, what cannot be read is left out and listed in [`Plan::gaps`].
    pub(crate) fn new(file: &'a str, text: &'a str, top: &Top<'a>, entry: usize, collects: bool) -> R<Plan<'a>> {
        let gaps = collects.then(Vec::new);
        let mut plan = Plan { nodes: Vec::new(), targets: Vec::new(), index: HashMap::new(), gaps };
        plan.add(file, text, top, entry)?;
        if plan.nodes.iter().any(|n| n.indirect) {
            for function in taken(file, text, top, collects)? {
                let node = plan.add(file, text, top, function)?;
                plan.targets.push(node);
            }
        }
        for node in 0..plan.nodes.len() {
            if plan.nodes[node].indirect {
                plan.nodes[node].calls.extend_from_slice(&plan.targets);
            }
        }
        let n = plan.nodes.len();
        for node in 0..n {
            let mut reach = vec![false; n];
            let mut queue = plan.nodes[node].calls.clone();
            while let Some(to) = queue.pop() {
                if !reach[to] {
                    reach[to] = true;
                    queue.extend_from_slice(&plan.nodes[to].calls);
                }
            }
            plan.nodes[node].reach = reach;
        }
        for node in 1..n {
            plan.nodes[node].own = plan.nodes[node].reach[node] || plan.targets.contains(&node);
        }
        // Callees first: their size is known then, and how deeply calls are put into each other.
        let mut size: Vec<Option<usize>> = vec![None; n];
        let mut depth = vec![0; n];
        while let Some(node) = (0..n).find(|i| {
            let known = |c: &usize| plan.nodes[*c].own || size[*c].is_some();
            size[*i].is_none() && plan.nodes[*i].calls.iter().all(known)
        }) {
            let inside = |c: &usize| if plan.nodes[*c].own { 8 } else { size[*c].unwrap_or(8) };
            let total = plan.nodes[node].body.len() + plan.nodes[node].calls.iter().map(inside).sum::<usize>();
            let sites = plan.nodes.iter().flat_map(|n| &n.calls).filter(|c| **c == node).count();
            size[node] = Some(total);
            let below = plan.nodes[node].calls.iter().filter(|c| !plan.nodes[**c].own).map(|c| depth[*c] + 1).max();
            depth[node] = below.unwrap_or(0);
            let large = sites > 1 && total > SMALL && total * sites > COPIES;
            if node > 0 && (large || depth[node] >= DEPTH) {
                plan.nodes[node].own = true;
            }
        }
        Ok(plan)
    }

    /// The node of a function, with everything it calls.
    fn add(&mut self, file: &'a str, text: &'a str, top: &Top<'a>, function: usize) -> R<usize> {
        let first = self.node_of(file, text, top, function)?;
        // Nodes whose calls are not followed yet. No recursion: a module may have a chain of calls of any length.
        let mut open = if first.1 { vec![first.0] } else { Vec::new() };
        while let Some(node) = open.pop() {
            for statement in self.nodes[node].body.clone().iter() {
                if let Stmt::Inst(inst) = statement
                    && is_call(inst)
                    && let Some(name) = callee(inst)
                {
                    if let Some(to) = find(top, name) {
                        let (to, new) = self.node_of(file, text, top, to)?;
                        self.nodes[node].calls.push(to);
                        open.extend(new.then_some(to));
                    } else if !top.functions.iter().any(|f| f.name == name) {
                        self.nodes[node].indirect = true;
                    }
                }
            }
        }
        Ok(first.0)
    }

    /// The node of a function, and whether it is new.
    fn node_of(&mut self, file: &'a str, text: &'a str, top: &Top<'a>, function: usize) -> R<(usize, bool)> {
        if let Some(node) = self.index.get(&function) {
            return Ok((*node, false));
        }
        let Function { body: Some((at, line)), .. } = top.functions[function] else { return Ok((0, false)) };
        let body = Rc::new(match &mut self.gaps {
            Some(gaps) => parse_readable(file, text, at, line, gaps),
            None => parse_body(file, text, at, line)?,
        });
        let node = self.nodes.len();
        if node == MOST_FUNCTIONS {
            let name = top.functions[function].name;
            return Err(LoadError {
                kind: LoadErrorKind::Invalid,
                file: file.to_owned(),
                line: top.functions[function].line,
                text: name.to_owned(),
                message: format!("the kernel reaches more than {MOST_FUNCTIONS} functions"),
            });
        }
        self.index.insert(function, node);
        let (calls, reach) = (Vec::new(), Vec::new());
        self.nodes.push(Reached { function, body, own: false, calls, indirect: false, reach });
        Ok((node, true))
    }

    /// The node of the function of that name.
    pub(crate) fn node(&self, top: &Top<'_>, name: &str) -> Option<usize> {
        self.index.get(&find(top, name)?).copied()
    }

    /// Whether a call may find its callee in the middle of another call.
    pub(crate) fn nested(&self, caller: usize, callee: usize) -> bool {
        caller == callee && self.nodes[caller].reach[callee] || self.nodes[callee].reach[caller]
    }
}

/// The functions of a module whose address some function or variable holds.
fn taken<'a>(file: &'a str, text: &'a str, top: &Top<'a>, collects: bool) -> R<Vec<usize>> {
    let mut out = Vec::new();
    let mut take = |name: &str| {
        if let Some(function) = find(top, name)
            && !top.functions[function].entry
            && !out.contains(&function)
        {
            out.push(function);
        }
    };
    for init in top.variables.iter().flat_map(|v| &v.init) {
        if let Init::Address(name, _) = init {
            take(name);
        }
    }
    for function in &top.functions {
        let Some((at, line)) = function.body else { continue };
        let body = match collects {
            // What cannot be read here is told of where it is reached.
            true => parse_readable(file, text, at, line, &mut Vec::new()),
            false => parse_body(file, text, at, line)?,
        };
        for statement in body {
            match statement {
                Stmt::Inst(inst) if !is_call(&inst) => {
                    for operand in &inst.operands {
                        if let Operand::Name(name) = operand {
                            take(name);
                        }
                    }
                }
                Stmt::Targets(_, names) => names.iter().for_each(|name| take(name)),
                _ => {}
            }
        }
    }
    Ok(out)
}
