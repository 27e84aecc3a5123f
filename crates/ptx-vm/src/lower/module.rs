//! Modules: their text, their variables, and the kernels that have been asked for.

use super::calls;
use crate::error::{LoadError, LoadErrorKind};
use crate::ir::{Globals, Kernel};
use crate::memory::{Allocation, Region};
use crate::parse::{Init, Space, Top, Var, parse_instruction, parse_top};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A PTX module: its text and its module-level variables. Kernels are decoded when first asked for.
///
/// Module-level `.global` variables live as long as the module and are shared by every [`crate::Vm`] that runs its kernels.
pub struct Module {
    /// The scanned top level. It borrows from `name` and `text`, which therefore stand behind it and are dropped after it.
    top: Top<'static>,
    name: Arc<str>,
    text: Arc<str>,
    version: (u32, u32),
    target: String,
    entries: Vec<String>,
    globals: Arc<Globals>,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
}

impl Module {
    /// Reads a module's top level. `name` is what messages call it.
    pub fn parse(name: &str, ptx: &str) -> Result<Module, LoadError> {
        let (file, text): (Arc<str>, Arc<str>) = (name.into(), ptx.into());
        // SAFETY: both strings are on the heap, never change, and live as long as the module that holds them and what borrows from them.
        let (lasting_file, lasting_text): (&'static str, &'static str) =
            unsafe { (&*std::ptr::from_ref::<str>(&file), &*std::ptr::from_ref::<str>(&text)) };
        let top = parse_top(lasting_file, lasting_text)?;
        let globals = place_globals(name, &top)?;
        Ok(Module {
            name: file,
            version: top.version,
            target: top.target.to_owned(),
            entries: top.functions.iter().filter(|f| f.entry && f.body.is_some()).map(|f| f.name.to_owned()).collect(),
            globals: Arc::new(globals),
            kernels: Mutex::default(),
            top,
            text,
        })
    }

    /// PTX ISA version, as `(8, 0)`.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The target the module was compiled for, as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Names of the kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(String::as_str)
    }

    /// The module-level variables in global and constant memory, in the order of the text: name, address and size.
    ///
    /// Kernels of the module use them on every [`crate::Vm`]; memory calls can once they are mapped there, see [`crate::Vm::map`].
    pub fn variables(&self) -> impl Iterator<Item = (&str, Region)> {
        let Globals { table, addresses } = &*self.globals;
        let named = |a: &&Arc<Allocation>| addresses.get(&a.name) == Some(&a.base);
        table.iter().filter(named).map(|a| (a.name.as_str(), Region(a.clone())))
    }

    /// The module-level variable of that name in global or constant memory; see [`Module::variables`].
    pub fn variable(&self, name: &str) -> Option<Region> {
        self.variables().find(|(n, _)| *n == name).map(|(_, region)| region)
    }

    /// The module as PTX text in canonical form: one statement a line, modifiers in the manual's order. Hints and debug sections are left out.
    pub fn to_ptx(&self) -> Result<String, LoadError> {
        super::print::module(&self.name, &self.text, &self.top)
    }

    /// The kernel of that name, decoded now if it has not been before.
    pub fn kernel(&self, entry: &str) -> Result<Arc<Kernel>, LoadError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(entry) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(super::entry::lower(&self.name, &self.text, &self.top, entry, &self.globals)?);
        kernels.insert(entry.to_owned(), kernel.clone());
        Ok(kernel)
    }

    /// Everything that keeps the kernel of that name from being decoded, in the order of the text: [`Module::kernel`] gives the first that
    /// it meets. Empty when the kernel can be decoded.
    pub fn gaps(&self, entry: &str) -> Vec<LoadError> {
        match self.kernel(entry) {
            Ok(_) => Vec::new(),
            Err(_) => super::entry::gaps(&self.name, &self.text, &self.top, entry, &self.globals),
        }
    }

    /// Decodes every kernel that has not been decoded before, and gives the names of those that cannot be, with the reason.
    pub fn decode_all(&self) -> Vec<(&str, LoadError)> {
        self.entries().filter_map(|entry| Some((entry, self.kernel(entry).err()?))).collect()
    }
}

impl Kernel {
    /// The instruction at an index of the code, as canonical PTX.
    pub(crate) fn instruction(&self, index: usize) -> Option<String> {
        let inst = parse_instruction(&self.text, self.meta.get(index)?.at as usize).ok()?;
        super::isa::canonical(&inst).map(|_| inst.to_string().trim_end_matches(';').to_owned())
    }
}

/// Reserves and fills the module's variables. Two passes, because initialisers may name other variables.
fn place_globals(file: &str, top: &Top<'_>) -> Result<Globals, LoadError> {
    let mut globals = Globals::default();
    let mut placed: Vec<(&Var<'_>, Arc<Allocation>)> = Vec::new();
    let error = |var: &Var<'_>, message: &str| LoadError {
        kind: LoadErrorKind::Invalid,
        file: file.to_owned(),
        line: var.line,
        text: var.name.to_owned(),
        message: message.to_owned(),
    };
    let variables = || top.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
    let mut total = 0;
    for var in variables() {
        total += var.size;
        if total > 1 << 32 {
            return Err(error(var, "the variables of the module take more than 4 GiB"));
        }
    }
    for var in variables() {
        let allocation =
            Allocation::new(var.size, true, true, var.name).ok_or_else(|| error(var, "no memory for this variable"))?;
        globals.addresses.insert(var.name.to_owned(), allocation.base);
        globals.table.insert(allocation.clone());
        placed.push((var, allocation));
    }
    for (var, allocation) in placed {
        let width = var.ty.bytes();
        for (i, init) in var.init.iter().enumerate().take(var.size / width) {
            let value = match init {
                Init::Bits(bits) => *bits,
                Init::Address(name, offset) => globals
                    .addresses
                    .get(*name)
                    .copied()
                    .or_else(|| calls::find(top, name).map(calls::address))
                    .ok_or_else(|| error(var, &format!("unknown symbol `{name}` in an initialiser")))?
                    .wrapping_add(*offset as u64),
            };
            let n = width.min(8);
            // SAFETY: element `i` lies inside the allocation, which nobody else uses yet.
            unsafe { std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), allocation.host().add(i * width), n) };
        }
    }
    Ok(globals)
}
