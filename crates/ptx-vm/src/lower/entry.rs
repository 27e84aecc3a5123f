//! An entry with all it calls becomes a kernel, or a list of what keeps it from becoming one.

use super::builder::{Gaps, Lower, MOST_PARAMS, Scope, Unit, Var};
use super::calls::Plan;
use super::form::R;
use crate::error::{LoadError, LoadErrorKind};
use crate::ir::{Class, Flow, Globals, Kernel, Loc, Param};
use crate::parse::{Function, Space, Stmt, Top};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

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

/// Decodes an entry: half of its length is the state it begins with. With `gaps` it goes on behind what it cannot decode, and lists that there; the kernel is worth nothing then.
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

/// Places the shared arrays of the module: those of a fixed size first, then the dynamic ones, whose place it gives. They start behind all
/// others, whose total is known only after the body: a first pass sizes them.
fn shared_arrays(l: &mut Lower<'_>) -> R<usize> {
    let top = l.top;
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
        l.scope().vars.insert(
            name,
            Var {
                space: Space::Shared,
                declared: Space::Shared,
                at: dynamic_at as u64,
                element,
                size: 0,
                base: None,
                array,
            },
        );
    }
    Ok(dynamic_at)
}

/// Places the parameters of an entry.
fn parameters<'a>(l: &mut Lower<'a>, function: &'a Function<'a>) -> R<Vec<Param>> {
    let mut params = Vec::new();
    l.scopes.push(Scope::default());
    for p in &function.params {
        if l.is_declared(p.name, None) {
            (l.line, l.inst_text) = (function.line, p.name);
            return l.error(format!("`{}` is declared twice", p.name));
        }
        let offset = l.param_bytes.next_multiple_of(p.align.max(1));
        l.scope().vars.insert(
            p.name,
            Var {
                space: Space::Param,
                declared: Space::Param,
                at: offset as u64,
                element: p.ty.bytes(),
                size: p.size,
                base: None,
                array: 0,
            },
        );
        params.push(Param { name: p.name.to_owned(), offset, size: p.size, align: p.align, ty: p.ty.name() });
        l.param_bytes = offset + p.size;
        if l.param_bytes > MOST_PARAMS {
            l.inst_text = p.name;
            return l.error(format!("the parameters take more than {MOST_PARAMS} bytes"));
        }
    }
    Ok(params)
}

/// Lowers an entry and all it calls; gives its parameters and the bytes of its static shared memory.
fn parts<'a>(l: &mut Lower<'a>, function: &'a Function<'a>) -> R<(Vec<Param>, usize)> {
    let dynamic_at = shared_arrays(l)?;
    let params = parameters(l, function)?;
    if let Some(n) = function.cluster
        && let Err(why) = crate::arch::cluster_blocks(n)
    {
        let clusters = l.error(format!("`.reqnctapercluster`: {why}"));
        clusters.or_else(|error| l.note(error))?;
    }
    if (function.cluster.is_some() || function.explicit_cluster || function.max_cluster.is_some()) && l.arch() < 90 {
        let clusters = l.error(format!("clusters take sm_90, not {}", l.top.target));
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
