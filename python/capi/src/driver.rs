//! The few functions of the CUDA driver that launching in another program's context takes, looked up once.

use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{AdacacheStatus, Error};

type Handle = *mut c_void;

/// The driver's functions. The library is never unloaded.
pub(crate) struct Driver {
    init: unsafe extern "C" fn(c_uint) -> u32,
    context: unsafe extern "C" fn(*mut Handle) -> u32,
    load: unsafe extern "C" fn(*mut Handle, *const c_void, c_uint, *mut c_uint, *mut Handle) -> u32,
    unload: unsafe extern "C" fn(Handle) -> u32,
    function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> u32,
    #[allow(clippy::type_complexity)] // As the driver declares it.
    launch: unsafe extern "C" fn(
        Handle,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Handle,
        *mut Handle,
        *mut Handle,
    ) -> u32,
    error_name: unsafe extern "C" fn(u32, *mut *const c_char) -> u32,
}

/// A module of the driver.
#[derive(Debug)]
pub(crate) struct Module(Handle);

/// A kernel in a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(Handle);

// SAFETY: handles of the driver may be used by every thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Driver {
    /// The driver of this machine.
    pub(crate) fn get() -> Result<&'static Driver, Error> {
        static DRIVER: OnceLock<Result<Driver, Error>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Driver, Error> {
        let absent = |reason: String| {
            Error::new(AdacacheStatus::NoDevice, format!("no CUDA driver: {reason}; the policies work without one"))
        };
        // SAFETY: the driver's library may be loaded at any time.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| absent(error.to_string()))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the driver's documentation gives the function this type.
                *unsafe { library.get($name) }.map_err(|error| absent(error.to_string()))?
            };
        }
        let driver = Driver {
            init: function!("cuInit"),
            context: function!("cuCtxGetCurrent"),
            load: function!("cuModuleLoadDataEx"),
            unload: function!("cuModuleUnload"),
            function: function!("cuModuleGetFunction"),
            launch: function!("cuLaunchKernel"),
            error_name: function!("cuGetErrorName"),
        };
        std::mem::forget(library);
        // SAFETY: no condition; calls after the first do nothing.
        driver.check("cuInit", unsafe { (driver.init)(0) })?;
        Ok(driver)
    }

    fn check(&self, call: &str, code: u32) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let mut name = ptr::null();
        // SAFETY: `name` is a place for the pointer; the text is static.
        let known = unsafe { (self.error_name)(code, &mut name) } == 0 && !name.is_null();
        let name = if known {
            // SAFETY: the driver gave a text that ends.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        } else {
            format!("error {code}")
        };
        Err(Error::new(AdacacheStatus::Driver, format!("{call}: {name}")))
    }

    /// The context that is current on this thread, as a number; it has to be the one in which tensors lie.
    pub(crate) fn current_context(&self) -> Result<usize, Error> {
        let mut context = ptr::null_mut();
        // SAFETY: `context` is a place for the handle.
        self.check("cuCtxGetCurrent", unsafe { (self.context)(&mut context) })?;
        if context.is_null() {
            let message = "no CUDA context is current on this thread: make one current first (cuCtxSetCurrent; torch.cuda.init())";
            return Err(Error::new(AdacacheStatus::NoDevice, message));
        }
        Ok(context as usize)
    }

    /// Loads PTX into the current context.
    pub(crate) fn load(&self, ptx: &str) -> Result<Module, Error> {
        let text = CString::new(ptx).map_err(|_| Error::new(AdacacheStatus::Internal, "PTX with a NUL"))?;
        let mut module = ptr::null_mut();
        // SAFETY: the text ends with NUL; there are no options.
        let code = unsafe { (self.load)(&mut module, text.as_ptr().cast(), 0, ptr::null_mut(), ptr::null_mut()) };
        self.check("cuModuleLoadDataEx", code).map_err(|error| Error {
            message: format!("{}; the kernels need a GPU since Ampere (compute capability 8.0)", error.message),
            ..error
        })?;
        Ok(Module(module))
    }

    /// The kernel `name`.
    pub(crate) fn function(&self, module: &Module, name: &str) -> Result<Function, Error> {
        let text = CString::new(name).map_err(|_| Error::argument("a name with a NUL"))?;
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with NUL.
        let code = unsafe { (self.function)(&mut function, module.0, text.as_ptr()) };
        self.check(&format!("cuModuleGetFunction({name})"), code)?;
        Ok(Function(function))
    }

    /// Unloads a module. Errors are not told: a context may be gone before what was loaded into it.
    pub(crate) fn unload(&self, module: &Module) {
        // SAFETY: the module is not used afterwards.
        unsafe { (self.unload)(module.0) };
    }

    /// Queues a kernel whose only argument is `params` on `stream`.
    ///
    /// # Safety
    /// `params` is the kernel's parameter struct; what it points to is valid until the stream has run the kernel; `stream` is a stream of the
    /// current context, into which the function was loaded.
    pub(crate) unsafe fn launch<P>(
        &self,
        function: Function,
        grid: [usize; 2],
        threads: usize,
        stream: usize,
        params: &P,
    ) -> Result<(), Error> {
        let int =
            |n: usize| c_uint::try_from(n).map_err(|_| Error::argument(format!("a grid of {n} blocks is too large")));
        let mut arguments = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let (x, y, threads) = (int(grid[0])?, int(grid[1])?, int(threads)?);
        // SAFETY: by the caller; the driver copies the parameters before it returns.
        let code = unsafe {
            (self.launch)(
                function.0,
                x,
                y,
                1,
                threads,
                1,
                1,
                0,
                stream as Handle,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check("cuLaunchKernel", code)
    }
}
