//! Modules: PTX text, fatbins that hold PTX, what the linker made; their functions and variables.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::image::{Log, fatbin_of, join};
use crate::made::Id;
use crate::object::{Function, Kind, Module, Range};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// The newest PTX ISA that a driver for this CUDA version knows: from the release notes of the ISA.
fn newest_ptx(cuda: u32) -> (u32, u32) {
    const RELEASES: &[(u32, (u32, u32))] = &[
        (11000, (7, 0)),
        (11010, (7, 1)),
        (11020, (7, 2)),
        (11030, (7, 3)),
        (11040, (7, 4)),
        (11050, (7, 5)),
        (11060, (7, 6)),
        (11070, (7, 7)),
        (11080, (7, 8)),
        (12000, (8, 0)),
        (12010, (8, 1)),
        (12020, (8, 2)),
        (12030, (8, 3)),
        (12040, (8, 4)),
        (12050, (8, 5)),
        (12070, (8, 6)),
        (12080, (8, 7)),
        (12090, (8, 8)),
        (13000, (9, 0)),
        (13010, (9, 1)),
        (13020, (9, 2)),
    ];
    let newest = RELEASES.iter().rfind(|(since, _)| *since <= cuda);
    newest.map_or((6, 5), |(_, ptx)| *ptx)
}

/// A module, and why which of its entries cannot run.
type Compiled = (Arc<ptx_vm::Module>, HashMap<String, String>);

impl Driver {
    /// A module for a device, or what the compiler says against it.
    fn compile(&self, ptx: &str, device: usize) -> Result<Compiled, (Code, String)> {
        let source = ptx_vm::Module::parse("module.ptx", ptx)
            .map_err(|error| (Code::INVALID_PTX, format!("ptxas fatal   : {error}")))?;
        let ((major, minor), known) = (source.version(), self.settings.version);
        if newest_ptx(known) < (major, minor) {
            let text =
                format!("ptxas fatal   : PTX ISA {major}.{minor} is newer than this driver, which is for CUDA {known}");
            return Err((Code::UNSUPPORTED_PTX_VERSION, text));
        }
        let target: u32 = source.target().trim_start_matches("sm_").trim_end_matches(['a', 'f']).parse().unwrap_or(0);
        let (has_major, has_minor) = self.devices[device].spec.capability;
        if target > has_major * 10 + has_minor {
            let text =
                format!("ptxas fatal   : {} is newer than the device, sm_{has_major}{has_minor}", source.target());
            return Err((Code::NO_BINARY_FOR_GPU, text));
        }
        let errors = source.decode_all();
        if !errors.is_empty() && errors.len() == source.entries().count() {
            let text: Vec<String> = errors.iter().map(|(_, error)| format!("ptxas error   : {error}")).collect();
            return Err((Code::INVALID_PTX, text.join("\n")));
        }
        let broken = errors.into_iter().map(|(name, error)| (name.to_owned(), error.to_string())).collect();
        Ok((Arc::new(source), broken))
    }

    /// Loads PTX into the current context.
    pub(crate) fn load(&mut self, ptx: &str, log: Log, library: Option<Id>) -> Answer<Id> {
        let context = self.current()?;
        let device = self.contexts[&context].device;
        let (source, broken) = match self.compile(ptx, device) {
            Ok(compiled) => compiled,
            Err((code, text)) => {
                log.write("", &text);
                if !log.takes_errors() {
                    // The program does not ask why: its user may.
                    let call = self.call;
                    self.remark(format!("{call} refuses a module: {text}"));
                }
                return Err(code);
            }
        };
        for text in broken.values() {
            self.remark(format!("a kernel cannot run here, the others of its module can: {text}"));
        }
        let vm = self.vm(device);
        let id = self.id();
        let mut variables = HashMap::new();
        for (name, region) in source.variables() {
            let _ = vm.map(&region);
            variables.insert(name.to_owned(), (region.ptr(), region.bytes()));
            let range = Range {
                id,
                bytes: region.bytes(),
                kind: Kind::Variable,
                context,
                device,
                flags: 0,
                region: None,
                made: self.made(),
            };
            self.memory.insert(region.ptr(), range);
        }
        let made = self.made();
        self.modules
            .insert(id, Module { context, library, source, variables, broken, functions: HashMap::new(), made });
        log.write("", "");
        Ok(id)
    }

    /// The function of that name, made when first asked for.
    pub(crate) fn function(&mut self, module: Id, name: &str) -> Answer<Id> {
        let loaded = self.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if let Some(id) = loaded.functions.get(name) {
            return Ok(*id);
        }
        if loaded.broken.contains_key(name) {
            return Err(Code::NOT_SUPPORTED);
        }
        if !loaded.source.entries().any(|entry| entry == name) {
            return Err(Code::NOT_FOUND);
        }
        let kernel = loaded.source.kernel(name).map_err(|_| Code::INVALID_PTX)?;
        let context = loaded.context;
        let id = self.id();
        let dynamic_shared = (48 << 10) - kernel.static_shared().min(48 << 10) as i32;
        let name_c = CString::new(name).map_err(|_| Code::INVALID_VALUE)?;
        let function = Function {
            module,
            context,
            kernel,
            name: name_c,
            dynamic_shared,
            carveout: -1,
            cluster: [0; 3],
            large_clusters: false,
        };
        self.functions.insert(id, function);
        if let Some(module) = self.modules.get_mut(&module) {
            module.functions.insert(name.to_owned(), id);
        }
        Ok(id)
    }

    /// The function behind a handle: of a module, or a kernel of a library in the current context.
    pub(crate) fn launchable(&mut self, handle: Id) -> Answer<Id> {
        if self.functions.contains_key(&handle) {
            return Ok(handle);
        }
        let (library, name) = self.kernels.get(&handle).cloned().ok_or(Code::INVALID_HANDLE)?;
        let module = self.library_module(library)?;
        self.function(module, name.to_str().map_err(|_| Code::INVALID_VALUE)?)
    }

    /// A library's module in the current context, loaded when first asked for.
    pub(crate) fn library_module(&mut self, library: Id) -> Answer<Id> {
        let context = self.current()?;
        let loaded = self.libraries.get(&library).ok_or(Code::INVALID_HANDLE)?;
        if let Some(module) = loaded.modules.get(&context).filter(|module| self.modules.contains_key(module)) {
            return Ok(*module);
        }
        let ptx = loaded.image.text_for(self.devices[self.contexts[&context].device].spec.capability)?;
        let log = Log::new(0, std::ptr::null(), std::ptr::null_mut())?;
        let module = self.load(&ptx, log, Some(library))?;
        if let Some(library) = self.libraries.get_mut(&library) {
            library.modules.insert(context, module);
        }
        Ok(module)
    }

    /// Joins the parts of a link into one image.
    pub(crate) fn link(&mut self, id: Id) -> Answer<(*mut c_void, usize)> {
        let link = self.links.get_mut(&id).ok_or(Code::INVALID_HANDLE)?;
        let joined = join(&link.parts);
        match ptx_vm::Module::parse("linked.ptx", &joined) {
            Ok(_) => {
                let image = link.made_image.insert(fatbin_of(&joined));
                let answer = (image.as_mut_ptr().cast(), image.len());
                link.log.write("", "");
                Ok(answer)
            }
            Err(error) => {
                link.log.write("", &format!("nvlink error   : {error}"));
                Err(Code::INVALID_PTX)
            }
        }
    }
}
