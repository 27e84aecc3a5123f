//! The CUDA driver as a table of functions, looked up once in the driver's library (`libcuda.so.1`).
//!
//! All driver calls go through this table, for two reasons. A library may lack functions: the stub of a toolkit, a container with an
//! incomplete driver, a very old driver. The lookup detects this at once and reports it in one line. And a function returns a numeric code:
//! drivers are newer than any list of codes, so converting one to a Rust enum could be undefined behaviour. The types of handles and
//! arguments are cudarc's; the compiler checks the table's signatures against those of its bindings.

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUjit_option, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};
use libloading::Library;
use ptx_vm::{TENSOR_MAP_BYTES, TensorMap};
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::path::Path;
use std::sync::OnceLock;

/// The return code of a driver function. 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const OUT_OF_MEMORY: Code = Code(2);
    pub(super) const STUB_LIBRARY: Code = Code(34);
    pub(super) const NO_DEVICE: Code = Code(100);
    pub(super) const NOT_FOUND: Code = Code(500);
    pub(super) const NOT_READY: Code = Code(600);
}

/// A failed call of a driver function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The function.
    pub(super) call: &'static str,
    pub(super) code: Code,
}

impl Failure {
    fn check(call: &'static str, code: u32) -> Result<(), Failure> {
        if code == 0 { Ok(()) } else { Err(Failure { call, code: Code(code) }) }
    }
}

/// Why there is no usable driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Absent {
    /// The reason, in one line.
    pub(super) reason: String,
    /// Whether this is normal for a machine without a GPU. Otherwise a GPU was probably intended to be available.
    pub(super) ordinary: bool,
}

macro_rules! functions {
    (
        differently { $($own_name:ident = $own_symbol:ident($($own_argument:ident: $own_type:ty),*);)* }
        $($name:ident = $symbol:ident($($argument:ident: $type:ty),*);)*
    ) => {
        /// The driver's functions. It is never unloaded.
        pub(super) struct Driver {
            $($name: unsafe extern "C" fn($($type),*) -> u32,)*
            $($own_name: unsafe extern "C" fn($($own_type),*) -> u32,)*
            /// The path of the library, if known.
            path: Option<String>,
        }

        // The signatures are those of the bindings.
        $(const _: unsafe fn($($type),*) -> CUresult = sys::$symbol;)*

        impl Driver {
            /// Every function that this crate calls.
            #[cfg(test)]
            pub(super) const SYMBOLS: &[&str] = &[$(stringify!($symbol),)* $(stringify!($own_symbol)),*];

            /// Looks up all functions, or returns the names of the missing ones.
            fn look_up(library: &Library, path: Option<String>) -> Result<Driver, Vec<&'static str>> {
                let mut missing = vec![];
                $(let $name = function(library, stringify!($symbol), &mut missing);)*
                $(let $own_name = function(library, stringify!($own_symbol), &mut missing);)*
                match ($($name,)* $($own_name,)*) {
                    ($(Some($name),)* $(Some($own_name),)*) => Ok(Driver { $($name,)* $($own_name,)* path }),
                    _ => Err(missing),
                }
            }

            $(
                /// # Safety
                /// See the driver's documentation of this function.
                #[allow(clippy::too_many_arguments)]
                pub(super) unsafe fn $name(&self, $($argument: $type),*) -> Result<(), Failure> {
                    // SAFETY: by the caller; the function was found under its name and has this signature.
                    Failure::check(stringify!($symbol), unsafe { (self.$name)($($argument),*) })
                }
            )*
        }
    };
}

functions! {
    // The bindings take the code, or what a map is made of, as enums.
    differently {
        error_name = cuGetErrorName(code: c_uint, text: *mut *const c_char);
        error_text = cuGetErrorString(code: c_uint, text: *mut *const c_char);
        tensor_map = cuTensorMapEncodeTiled(
            map: *mut c_void, ty: c_uint, axes: c_uint, address: *mut c_void, sizes: *const u64, strides: *const u64,
            boxes: *const u32, steps: *const u32, interleave: c_uint, swizzle: c_uint, promotion: c_uint, fill: c_uint
        );
    }

    init = cuInit(flags: c_uint);
    driver_version = cuDriverGetVersion(version: *mut c_int);

    device_count = cuDeviceGetCount(count: *mut c_int);
    device = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    device_name = cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice);
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    device_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    device_pci_bus_id = cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: CUdevice);

    context_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    context_release = cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    context_current = cuCtxGetCurrent(context: *mut CUcontext);
    context_bind = cuCtxSetCurrent(context: CUcontext);

    stream_create = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    stream_destroy = cuStreamDestroy_v2(stream: CUstream);
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    stream_wait_event = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    capture_begin = cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    capture_end = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);

    event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
    event_destroy = cuEventDestroy_v2(event: CUevent);
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    event_query = cuEventQuery(event: CUevent);
    event_synchronize = cuEventSynchronize(event: CUevent);
    event_elapsed = cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);

    memory_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    memory_alloc = cuMemAlloc_v2(ptr: *mut CUdeviceptr, bytes: usize);
    memory_free = cuMemFree_v2(ptr: CUdeviceptr);
    host_alloc = cuMemHostAlloc(ptr: *mut *mut c_void, bytes: usize, flags: c_uint);
    host_free = cuMemFreeHost(ptr: *mut c_void);
    copy_from_host = cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
    copy_to_host = cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
    copy = cuMemcpyDtoDAsync_v2(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    fill = cuMemsetD8Async(dst: CUdeviceptr, byte: c_uchar, bytes: usize, stream: CUstream);

    module_load = cuModuleLoadDataEx(
        module: *mut CUmodule, image: *const c_void, count: c_uint, options: *mut CUjit_option, values: *mut *mut c_void
    );
    module_unload = cuModuleUnload(module: CUmodule);
    module_function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    function_attribute = cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction);
    set_function_attribute = cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    launch = cuLaunchKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void
    );

    graph_instantiate = cuGraphInstantiateWithFlags(executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    graph_destroy = cuGraphDestroy(graph: CUgraph);
    graph_upload = cuGraphUpload(executable: CUgraphExec, stream: CUstream);
    graph_launch = cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    executable_destroy = cuGraphExecDestroy(executable: CUgraphExec);
}

/// Looks up a function by name; adds it to `missing` if it does not exist. `F` must be its type.
fn function<F: Copy>(library: &Library, name: &'static str, missing: &mut Vec<&'static str>) -> Option<F> {
    // SAFETY: the caller, the table above, states the function's type as the bindings have it.
    let found = unsafe { library.get::<F>(name) }.ok().map(|symbol| *symbol);
    if found.is_none() {
        missing.push(name);
    }
    found
}

impl Driver {
    /// The driver of this machine, opened at the first call.
    pub(super) fn get() -> Result<&'static Driver, &'static Absent> {
        static DRIVER: OnceLock<Result<Driver, Absent>> = OnceLock::new();
        DRIVER.get_or_init(open).as_ref()
    }

    /// The library, for messages.
    pub(super) fn library(&self) -> &str {
        self.path.as_deref().unwrap_or(LIBRARIES[0])
    }

    /// The driver's name for a code: `CUDA_ERROR_OUT_OF_MEMORY`.
    pub(super) fn name(&self, code: Code) -> String {
        self.ask(self.error_name, code).unwrap_or_else(|| format!("error {}", code.0))
    }

    /// The driver's description of a code.
    pub(super) fn text(&self, code: Code) -> String {
        self.ask(self.error_text, code).unwrap_or_else(|| "the driver has no words for it".into())
    }

    /// Encodes a tensor map.
    pub(super) fn encode_tensor_map(&self, map: &TensorMap) -> Result<[u8; TENSOR_MAP_BYTES], Failure> {
        /// Where the driver writes it.
        #[repr(align(64))]
        struct Place([u8; TENSOR_MAP_BYTES]);
        /// Of `interleave`: none. Of `l2Promotion`: lines of 256 bytes are fetched whole.
        const INTERLEAVE: c_uint = 0;
        const PROMOTION: c_uint = 3;
        let mut place = Place([0; TENSOR_MAP_BYTES]);
        let TensorMap { ty, address, sizes, strides, box_sizes, steps, swizzle, nan, .. } = map;
        // SAFETY: the lists have as many entries as the map has axes, strides one less; the place is as large and as aligned as a map.
        let code = unsafe {
            (self.tensor_map)(
                place.0.as_mut_ptr().cast(),
                *ty as c_uint,
                sizes.len() as c_uint,
                std::ptr::with_exposed_provenance_mut(*address as usize),
                sizes.as_ptr(),
                strides.as_ptr(),
                box_sizes.as_ptr(),
                steps.as_ptr(),
                INTERLEAVE,
                *swizzle as c_uint,
                PROMOTION,
                c_uint::from(*nan),
            )
        };
        Failure::check("cuTensorMapEncodeTiled", code).map(|()| place.0)
    }

    /// Name and description.
    pub(super) fn words(&self, failure: Failure) -> String {
        format!("{}: {}: {}", failure.call, self.name(failure.code), self.text(failure.code))
    }

    fn ask(&self, question: unsafe extern "C" fn(c_uint, *mut *const c_char) -> u32, code: Code) -> Option<String> {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: `text` is a valid place for a pointer; any number may be asked about.
        let answer = unsafe { question(code.0, &mut text) };
        if answer != 0 || text.is_null() {
            return None;
        }
        // SAFETY: the driver gave the address of a constant, NUL-terminated text.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// The names under which drivers install their library, in order of preference. `libcuda.so` is for linking, and resolves to a toolkit's
/// stub if one is installed.
const LIBRARIES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else if cfg!(target_vendor = "apple") {
    &["libcuda.dylib"]
} else {
    &["libcuda.so.1", "libcuda.so"]
};

fn open() -> Result<Driver, Absent> {
    let mut refusals = vec![];
    for &name in LIBRARIES {
        // SAFETY: it is the library of the installed driver, which may be loaded into any program.
        match unsafe { Library::new(name) } {
            Ok(library) => return whole(library, loaded_path()),
            // The loader's own words are behind the error.
            Err(error) => refusals.push((name, error.source().unwrap_or(&error).to_string())),
        }
    }
    // One that is there and cannot be loaded explains more than one that is not there.
    let broken = refusals.iter().find(|(name, text)| !(text.contains(name) && text.contains("No such file")));
    match broken {
        Some((name, text)) => Err(Absent { reason: format!("{name} cannot be loaded: {text}"), ordinary: false }),
        None if kernel_driver() => {
            let reason = format!(
                "the kernel's part of an NVIDIA driver is loaded, but there is no {} (is this a container without the driver's libraries?)",
                LIBRARIES[0]
            );
            Err(Absent { reason, ordinary: false })
        }
        None => Err(Absent { reason: format!("{} is not installed", LIBRARIES[0]), ordinary: true }),
    }
}

/// The table of a library, if it has every function.
fn whole(library: Library, path: Option<String>) -> Result<Driver, Absent> {
    let name = path.clone().unwrap_or_else(|| LIBRARIES[0].into());
    let found = Driver::look_up(&library, path);
    // Functions of it are called from now on, or its own threads run: never unloaded.
    std::mem::forget(library);
    found.map_err(|missing| {
        let more = match missing.len() {
            0..=3 => String::new(),
            all => format!(" and {} other functions", all - 3),
        };
        let missing = missing[..missing.len().min(3)].join(", ");
        let reason = format!(
            "{name} lacks {missing}{more}: it is not a complete driver but a toolkit's stub, part of a container's driver, or a very old one"
        );
        Absent { reason, ordinary: false }
    })
}

/// Whether the kernel module of an NVIDIA driver is loaded: a GPU is expected in that case.
pub(super) fn kernel_driver() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl"].iter().any(|path| Path::new(path).exists())
}

/// The path of the loaded library; `None` if the system does not provide it.
fn loaded_path() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut named = paths.filter(|path| path.rsplit('/').next().is_some_and(|file| file.starts_with("libcuda.so")));
    named.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any other library is not a driver.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_without_the_functions_is_named_with_what_it_lacks() {
        // SAFETY: the C library is loaded already.
        let library = unsafe { Library::new("libc.so.6") }.unwrap();
        let Err(Absent { reason, ordinary }) = whole(library, Some("/lib/libcuda.so.1".into())) else {
            panic!("libc is no driver")
        };
        assert!(reason.starts_with("/lib/libcuda.so.1 lacks cuInit, cuDriverGetVersion, cuDeviceGetCount"), "{reason}");
        assert!(reason.contains(&format!(" and {} other functions", Driver::SYMBOLS.len() - 3)), "{reason}");
        assert!(reason.contains("stub") && !reason.contains('\n') && !ordinary, "{reason}");
    }

    /// A function that is called without the table could be missing, and would end the program.
    #[test]
    fn nothing_goes_past_the_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![folder];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("cuda/driver.rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for part in ["sys::cu", "driver::result", "CudaContext", "driver::safe"] {
                    assert!(!text.contains(part), "{}: {part}", path.display());
                }
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen} files");
        assert!(Driver::SYMBOLS.iter().all(|symbol| symbol.starts_with("cu")));
    }
}
