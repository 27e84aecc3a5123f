//! Which functions a kernel reaches, and which of them get code of their own instead of being put in place at every call.

use super::lower::R;
use crate::memory::FUNCTION_WINDOW;
use crate::parse::{Function, Init, Inst, Operand, Stmt, Top, parse_body};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Statements up to which a function is always put in place, and up to which all its copies together are.
const SMALL: usize = 64;
const COPIES: usize = 2_000;

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

    pub(crate) fn new(file: &'a str, text: &'a str, top: &Top<'a>, entry: usize) -> R<Plan<'a>> {
        let mut plan = Plan { nodes: Vec::new(), targets: Vec::new(), index: HashMap::new() };
        plan.add(file, text, top, entry)?;
        if plan.nodes.iter().any(|n| n.indirect) {
            for function in taken(file, text, top)? {
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
        // Callees first: their size is known then.
        let mut size: Vec<Option<usize>> = vec![None; n];
        while let Some(node) = (0..n).find(|i| {
            let known = |c: &usize| plan.nodes[*c].own || size[*c].is_some();
            size[*i].is_none() && plan.nodes[*i].calls.iter().all(known)
        }) {
            let inside = |c: &usize| if plan.nodes[*c].own { 8 } else { size[*c].unwrap_or(8) };
            let total = plan.nodes[node].body.len() + plan.nodes[node].calls.iter().map(inside).sum::<usize>();
            let sites = plan.nodes.iter().flat_map(|n| &n.calls).filter(|c| **c == node).count();
            size[node] = Some(total);
            if node > 0 && sites > 1 && total > SMALL && total * sites > COPIES {
                plan.nodes[node].own = true;
            }
        }
        Ok(plan)
    }

    /// The node of a function, with everything it calls.
    fn add(&mut self, file: &'a str, text: &'a str, top: &Top<'a>, function: usize) -> R<usize> {
        if let Some(node) = self.index.get(&function) {
            return Ok(*node);
        }
        let Function { body: Some((at, line)), .. } = top.functions[function] else { return Ok(0) };
        let body = Rc::new(parse_body(file, text, at, line)?);
        let node = self.nodes.len();
        self.index.insert(function, node);
        let (calls, reach) = (Vec::new(), Vec::new());
        self.nodes.push(Reached { function, body: body.clone(), own: false, calls, indirect: false, reach });
        for statement in body.iter() {
            if let Stmt::Inst(inst) = statement
                && is_call(inst)
                && let Some(name) = callee(inst)
            {
                if let Some(to) = find(top, name) {
                    let to = self.add(file, text, top, to)?;
                    self.nodes[node].calls.push(to);
                } else if !top.functions.iter().any(|f| f.name == name) {
                    self.nodes[node].indirect = true;
                }
            }
        }
        Ok(node)
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
fn taken<'a>(file: &'a str, text: &'a str, top: &Top<'a>) -> R<Vec<usize>> {
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
        for statement in parse_body(file, text, at, line)? {
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
