//! PTX on a GPU: the driver version it needs, the compiled part of a module, and the resulting functions.

use super::driver::{Code, Failure};
use super::fault;
use super::shared::{Owned, Shared};
use crate::device::backend::Result;
use crate::device::error::DeviceError;
use crate::device::kernel::ptx_version;
use crate::device::module;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUjit_option, CUmodule};
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

/// The maximum dynamic shared memory without opt-in.
const DEFAULT_SHARED: u32 = 48 << 10;
/// Bytes of the buffer for compiler messages.
const LOG: usize = 8 << 10;

/// PTX text. The driver compiles it entry by entry.
pub(super) struct Module {
    pub(super) shared: Arc<Shared>,
    pub(super) name: String,
    pub(super) ptx: String,
}

/// A loaded entry.
pub(super) struct Function {
    pub(super) shared: Arc<Shared>,
    pub(super) name: Arc<str>,
    module: CUmodule,
    function: CUfunction,
    /// The maximum dynamic shared memory of a launch.
    most_shared: u32,
}
// SAFETY: the driver's handles may be used from any thread to which the context is bound.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn raw(&self) -> CUfunction {
        self.function
    }

    pub(super) fn most_shared(&self) -> u32 {
        self.most_shared
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // Launches of it may be queued. Where that cannot be known the code is better left loaded.
        if self.shared.settle().is_ok() {
            // SAFETY: loaded by us and unloaded once.
            let _ = unsafe { self.shared.driver().module_unload(self.module) };
        }
    }
}

impl Module {
    /// Compiles one entry. The context is bound.
    pub(super) fn entry(&self, entry: &str) -> Result<Function> {
        let (shared, driver) = (&self.shared, self.shared.driver());
        let no_nul = |_| DeviceError::Load { module: self.name.clone(), reason: "the text has a NUL byte".into() };
        let text = CString::new(only_entry(&self.ptx, entry)).map_err(no_nul)?;
        let name = CString::new(entry).map_err(no_nul)?;

        let mut log = vec![0u8; LOG];
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The driver takes the length by value in the pointer's place.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG)];
        let mut module = std::ptr::null_mut();
        // SAFETY: the text is NUL-terminated, options and values have two entries each, the log has the length given.
        let loaded = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            driver.module_load(&mut module, text.as_ptr().cast(), 2, options, values)
        };
        loaded.map_err(|failure| {
            if fault::cause(failure.code).is_some() {
                return shared.failed(failure);
            }
            let log = String::from_utf8_lossy(log.split(|&b| b == 0).next().unwrap_or_default()).trim().to_owned();
            let reason = format!("{entry} on {}: {} {log}", shared.id, driver.words(failure));
            DeviceError::Load { module: self.name.clone(), reason: reason.trim_end().into() }
        })?;
        // From here on its drop unloads the module.
        let mut function = Function {
            shared: shared.clone(),
            name: entry.into(),
            module,
            function: std::ptr::null_mut(),
            most_shared: DEFAULT_SHARED,
        };
        // SAFETY: the module was just loaded, the name is NUL-terminated.
        unsafe { driver.module_function(&mut function.function, module, name.as_ptr()) }.map_err(|failure| {
            match failure.code {
                Code::NOT_FOUND => DeviceError::NoEntry { module: self.name.clone(), entry: entry.into() },
                _ => shared.failed(failure),
            }
        })?;
        function.most_shared = opt_in(shared, function.function).map_err(|failure| shared.failed(failure))?;
        Ok(function)
    }
}

/// Allows a function all the dynamic shared memory that its static one leaves, and returns that size. It is a limit, not a reservation, so
/// it can be set once for all launches: setting it per launch would let one thread lower it under another's.
fn opt_in(shared: &Shared, function: CUfunction) -> Result<u32, Failure> {
    use CUfunction_attribute::{CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES};
    let mut fixed: c_int = 0;
    // SAFETY: `fixed` is a valid place; the function lives.
    unsafe { shared.driver().function_attribute(&mut fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function) }?;
    let fixed = fixed.max(0) as u32;
    let most = shared.largest_shared.saturating_sub(fixed);
    if shared.largest_shared <= DEFAULT_SHARED {
        return Ok(most);
    }
    // SAFETY: the function lives.
    unsafe {
        shared.driver().set_function_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most as c_int)
    }?;
    Ok(most)
}

/// The versions that introduced a PTX ISA version. From the release notes of the PTX ISA and of CUDA.
struct Release {
    ptx: (u32, u32),
    cuda: (u32, u32),
    /// The oldest driver branch.
    driver: u32,
}

const fn release(ptx: (u32, u32), cuda: (u32, u32), driver: u32) -> Release {
    Release { ptx, cuda, driver }
}

/// Oldest first.
const RELEASES: &[Release] = &[
    release((7, 0), (11, 0), 450),
    release((7, 1), (11, 1), 455),
    release((7, 2), (11, 2), 460),
    release((7, 3), (11, 3), 465),
    release((7, 4), (11, 4), 470),
    release((7, 5), (11, 5), 495),
    release((7, 6), (11, 6), 510),
    release((7, 7), (11, 7), 515),
    release((7, 8), (11, 8), 520),
    release((8, 0), (12, 0), 525),
    release((8, 1), (12, 1), 530),
    release((8, 2), (12, 2), 535),
    release((8, 3), (12, 3), 545),
    release((8, 4), (12, 4), 550),
    release((8, 5), (12, 5), 555),
    release((8, 6), (12, 7), 565),
    release((8, 7), (12, 8), 570),
    release((8, 8), (12, 9), 575),
    release((9, 0), (13, 0), 580),
];

/// Checks that the driver can run the modules of this crate: this is better known before the first kernel.
///
/// # Errors
/// [`DeviceError::DriverTooOld`] with the module that needs the newest driver.
pub(super) fn check_driver(driver: (u32, u32)) -> Result<()> {
    let versions = module::Module::ALL.iter().filter_map(|module| Some((ptx_version(module.ptx()?)?, module)));
    match versions.max_by_key(|(version, _)| *version) {
        Some((_, module)) => check_version(module.name(), module.ptx().unwrap_or_default(), driver),
        None => Ok(()),
    }
}

/// Compares a module's `.version` with the driver's CUDA version: the driver's own message would not say what to install.
pub(super) fn check_version(module: &str, ptx: &str, driver: (u32, u32)) -> Result<()> {
    let Some(version) = ptx_version(ptx) else {
        return Err(DeviceError::Load { module: module.into(), reason: "it has no .version directive".into() });
    };
    match RELEASES.iter().find(|release| release.ptx >= version) {
        Some(Release { cuda, driver: branch, .. }) if driver < *cuda => Err(DeviceError::DriverTooOld {
            module: module.into(),
            ptx: version,
            driver,
            needed: format!("{branch} (CUDA {}.{})", cuda.0, cuda.1),
        }),
        _ => Ok(()), // Newer than this table: the driver decides.
    }
}

/// A module's text without the bodies of the other entries: the driver compiles whole modules, and attention has dozens.
fn only_entry(ptx: &str, entry: &str) -> String {
    let mut kept = String::with_capacity(ptx.len() / 4);
    let (mut depth, mut skipping) = (0i32, false);
    for line in ptx.split_inclusive('\n') {
        let code = line.split("//").next().unwrap_or_default();
        if depth == 0
            && let Some((before, rest)) = code.split_once(".entry")
            && before.split_whitespace().all(|word| word == ".visible" || word == ".weak")
        {
            let name = rest.trim_start().split(|c: char| c == '(' || c == '{' || c.is_whitespace()).next();
            skipping = name != Some(entry);
        }
        let (opened, closed) = (code.matches('{').count() as i32, code.matches('}').count() as i32);
        if !skipping {
            kept.push_str(line);
        }
        depth += opened - closed;
        if depth == 0 && closed > 0 {
            skipping = false;
        }
    }
    kept
}

impl Owned for Module {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Owned for Function {
    fn shared(&self) -> &Shared {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_compared_with_the_driver() {
        let ptx = ".version 8.0\n.target sm_80\n";
        assert!(check_version("linear", ptx, (12, 0)).is_ok());
        assert!(check_version("linear", ptx, (13, 1)).is_ok());
        let message = check_version("linear", ptx, (11, 8)).unwrap_err().to_string();
        assert!(message.contains("linear.ptx is PTX ISA 8.0") && message.contains("driver 525"), "{message}");
        assert!(message.contains("CUDA 11.8"), "{message}");
        assert!(
            check_version("x", ".version 7.9\n", (11, 8)).is_err(),
            "an unlisted version needs the next one's driver"
        );
        assert!(check_version("x", ".version 99.0\n", (12, 0)).is_ok());
        assert!(check_version("x", "", (12, 0)).is_err());
        // The crate's own modules are PTX ISA 8.0 at least, which CUDA 11.8 does not know; the newest driver knows all of them.
        let message = check_driver((11, 8)).unwrap_err().to_string();
        assert!(message.contains("update it or use --device vm"), "{message}");
        assert!(check_driver((13, 1)).is_ok());
    }

    #[test]
    fn other_entries_are_dropped_and_all_else_stays() {
        let ptx = ".version 8.0\n.extern .shared .align 16 .b8 smem[];\n// a { in a comment\n.visible .entry a_long(\n\t.param .u64 p\n)\n{\n\t{\n\tret;\n\t}\n}\n\t// .globl\ta\n.visible .entry a(\n\t.param .u64 p\n)\n.maxntid 32, 1, 1\n{\n\tret; // .entry b(\n}\n\t.file\t1 \"x.cu\"\n";
        let kept = only_entry(ptx, "a");
        assert!(kept.contains(".extern .shared") && kept.contains(".file\t1") && kept.contains(".maxntid"));
        assert_eq!(kept.matches(".visible .entry").count(), 1);
        assert!(!kept.contains("a_long"));
        assert_eq!(kept.matches('}').count(), 1);
        assert_eq!(crate::device::kernel::param_bytes(&kept, "a"), Some(8));
    }
}
