//! Modules and decoded kernels.

use super::calls;
use super::lower::Loc;
use crate::counters::SourceLine;
use crate::error::{Fault, LoadError, LoadErrorKind};
use crate::exec::op::Op;
use crate::memory::{Allocation, Region, Table};
use crate::parse::{Init, Space, Top, Ty, Var, parse_instruction, parse_top};
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

/// Module-level variables in global and constant memory.
#[derive(Default)]
pub(crate) struct Globals {
    pub(crate) table: Table,
    pub(crate) addresses: HashMap<String, u64>,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Param {
    /// Name in the PTX.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Type in the PTX, such as `u64`; of the elements when it is an array.
    pub ty: &'static str,
}

/// A special register, or another value known only at run time that is the same in all or part of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    WarpId,
    NWarpId,
    DynamicShared,
    TotalShared,
    /// The worker thread that runs the block stands for the multiprocessor.
    SmId,
    NSm,
    /// Number of the launch.
    GridId,
    /// Half of the address of the grid's workspace, in which cooperative groups keep their barrier: the upper one, or the lower.
    Workspace(bool),
    /// An offset into the shared memory that is reserved for the system, from where that begins.
    Reserved(u32),
}

/// Where a constant's lanes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ConstSource {
    /// A number, and the array of shared memory it is an address of (0: none).
    Imm(u64, u8),
    /// Lane `4 g + t` gives `g * group + t * thread`; the lane number itself is 4, 1.
    Lane {
        group: u32,
        thread: u32,
    },
    /// `%lanemask_*`: 0 eq, 1 le, 2 lt, 3 ge, 4 gt.
    LaneMask(u8),
    /// Bytes of the parameter block at an offset, read as a type.
    Param(u32, Ty),
    Special(Special),
}

impl ConstSource {
    pub(crate) fn is_reserved(self) -> bool {
        matches!(self, ConstSource::Special(Special::Reserved(_)))
    }

    pub(crate) fn is_workspace(self) -> bool {
        matches!(self, ConstSource::Special(Special::Workspace(_)))
    }
}

/// Lane width of a register or constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Where {
    W16,
    W32,
    W64,
}

impl Where {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Where::W16 => 2,
            Where::W32 => 4,
            Where::W64 => 8,
        }
    }
}

/// A decoded kernel, ready to launch.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    /// The module's text, for reports.
    pub(crate) text: Arc<str>,
    /// The architecture of the module's target, as 80.
    pub(crate) arch: u32,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared: usize,
    /// Bytes of local memory for each thread, without recursion.
    pub(crate) local_bytes: usize,
    /// Functions call each other in circles, or allocate on the stack: its depth is known only at run time.
    pub(crate) stack: bool,
    /// The entry's part of it.
    pub(crate) frame_bytes: usize,
    pub(crate) code: Vec<Op>,
    pub(crate) lists: Vec<u32>,
    pub(crate) meta: Vec<super::Meta>,
    /// Whether an instruction only computes: it neither touches memory nor orders anything, and guards nothing.
    pub(crate) calm: Vec<bool>,
    /// The registers of the instructions, see [`super::Meta::flow`]: slots, which are multiples of 128, plus bytes of a lane.
    pub(crate) flows: Vec<u32>,
    /// The registers, as above, that may be read before anything has written them.
    pub(crate) unwritten: Vec<u32>,
    /// Bytes of registers for each warp, a multiple of 128.
    pub(crate) reg_bytes: usize,
    pub(crate) preds: usize,
    /// The constants; those not known yet are zero.
    pub(crate) const_image: Vec<u8>,
    /// Constants to fill in at launch: byte offset, width, source.
    pub(crate) launch_consts: Vec<(u32, Where, ConstSource)>,
    /// The arrays of shared memory: name (empty for what is dynamic), first byte and end. Their numbers begin at 1.
    pub(crate) arrays: Vec<(String, u64, u64)>,
    /// Constants that are addresses in one of them: slot and number.
    pub(crate) array_consts: Vec<(u32, u8)>,
    /// Registers to fill in for every warp.
    pub(crate) warp_consts: Vec<(u32, Where, Special)>,
    pub(crate) caches: usize,
    /// Bytes of [`crate::exec::op::Cx::stage`].
    pub(crate) stage_bytes: usize,
    pub(crate) globals: Arc<Globals>,
    pub(crate) reqntid: Option<[u32; 3]>,
    pub(crate) maxntid: Option<u64>,
    /// Instructions of which nothing is left, with the position in `code` they would have stood before.
    pub(crate) dissolved: Vec<(u32, super::Meta)>,
    /// `.file` names and `.loc` places, for reports.
    pub(crate) files: Vec<(u32, String)>,
    pub(crate) locs: Vec<Loc>,
}

// SAFETY: an `Op` holds function pointers and integers only.
unsafe impl Send for Kernel {}
// SAFETY: kernels are immutable.
unsafe impl Sync for Kernel {}

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
        let kernel = Arc::new(super::lower::lower(&self.name, &self.text, &self.top, entry, &self.globals)?);
        kernels.insert(entry.to_owned(), kernel.clone());
        Ok(kernel)
    }

    /// Everything that keeps the kernel of that name from being decoded, in the order of the text: [`Module::kernel`] gives the first that
    /// it meets. Empty when the kernel can be decoded.
    pub fn gaps(&self, entry: &str) -> Vec<LoadError> {
        match self.kernel(entry) {
            Ok(_) => Vec::new(),
            Err(_) => super::lower::gaps(&self.name, &self.text, &self.top, entry, &self.globals),
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

    /// Entry name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block in bytes.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Lays out the parameter block: the bytes of one argument for each parameter, in order.
    ///
    /// # Errors
    /// When there are more or fewer arguments than parameters, or one has not the size of its parameter.
    pub fn pack(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Fault> {
        let refuse = |message| Err(Fault::at_launch(self, message));
        if arguments.len() != self.params.len() {
            return refuse(format!("{} arguments, the kernel takes {}", arguments.len(), self.params.len()));
        }
        let mut out = vec![0; self.param_bytes];
        for (argument, param) in arguments.iter().zip(&self.params) {
            if argument.len() != param.size {
                return refuse(format!(
                    "{} bytes for parameter `{}`, which takes {}",
                    argument.len(),
                    param.name,
                    param.size
                ));
            }
            out[param.offset..param.offset + param.size].copy_from_slice(argument);
        }
        Ok(out)
    }

    /// Threads a block must have in x, y, z, when the PTX says so (`.reqntid`).
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.reqntid
    }

    /// The most threads a block may have, when the PTX says so (`.maxntid`; of several dimensions the product).
    pub fn max_threads(&self) -> Option<u64> {
        self.maxntid
    }

    /// Local memory of a thread in bytes; for recursive functions and `alloca` [`crate::VmConfig::stack_bytes`] come on top.
    pub fn local_bytes(&self) -> usize {
        self.local_bytes
    }

    /// Static shared memory in bytes.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// Number of decoded instructions, for reports.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }

    /// A place in the source, then the places where that was inlined.
    pub(crate) fn source(&self, loc: u32) -> Vec<SourceLine> {
        let mut out = Vec::new();
        let mut next = self.locs.get(loc as usize);
        // Places name earlier ones only.
        while let Some(loc) = next.filter(|loc| loc.line > 0) {
            let file = self.files.iter().find(|(n, _)| *n == loc.file).map_or("?", |(_, name)| name.as_str());
            out.push(SourceLine { file: file.to_owned(), line: loc.line, column: loc.column });
            next = self.locs.get(loc.inlined_at as usize);
        }
        out
    }

    /// Bytes of registers a warp takes, for reports.
    pub fn register_bytes(&self) -> usize {
        self.reg_bytes
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
