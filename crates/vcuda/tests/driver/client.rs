//! A client of the driver: opens the built library as C programs do, by path, and calls its functions by name. And processes of their own for
//! tests, since the driver reads its settings from the environment, once.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use libloading::Library;

/// What the tests ask for, in cuda.h's numbers.
pub(crate) mod code {
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_CONTEXT: u32 = 201;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const UNSUPPORTED_LIMIT: u32 = 215;
    pub(crate) const PEER_ACCESS_UNSUPPORTED: u32 = 217;
    pub(crate) const INVALID_PTX: u32 = 218;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const FILE_NOT_FOUND: u32 = 301;
    pub(crate) const INVALID_HANDLE: u32 = 400;
    pub(crate) const ILLEGAL_STATE: u32 = 401;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const NOT_READY: u32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
    pub(crate) const PEER_ACCESS_ALREADY_ENABLED: u32 = 704;
    pub(crate) const PEER_ACCESS_NOT_ENABLED: u32 = 705;
    pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
    pub(crate) const HOST_MEMORY_ALREADY_REGISTERED: u32 = 712;
    pub(crate) const HOST_MEMORY_NOT_REGISTERED: u32 = 713;
    pub(crate) const MISALIGNED_ADDRESS: u32 = 716;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: u32 = 720;
    pub(crate) const NOT_PERMITTED: u32 = 800;
    pub(crate) const INVALID_CLUSTER_SIZE: u32 = 912;
    pub(crate) const NOT_SUPPORTED: u32 = 801;
    pub(crate) const CAPTURE_UNSUPPORTED: u32 = 900;
    pub(crate) const CAPTURE_INVALIDATED: u32 = 901;
    pub(crate) const CAPTURE_MERGE: u32 = 902;
    pub(crate) const CAPTURE_UNMATCHED: u32 = 903;
    pub(crate) const CAPTURE_UNJOINED: u32 = 904;
    pub(crate) const CAPTURE_ISOLATION: u32 = 905;
    pub(crate) const CAPTURE_IMPLICIT: u32 = 906;
    pub(crate) const CAPTURED_EVENT: u32 = 907;
    pub(crate) const CAPTURE_WRONG_THREAD: u32 = 908;
    pub(crate) const GRAPH_EXEC_UPDATE_FAILURE: u32 = 910;
}

/// Where cargo has put the library: beside the tests, or one folder above.
pub(crate) fn library() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let mut places = tests.ancestors().skip(1).take(2).map(|folder| folder.join("libvcuda.so"));
    places.find(|path| path.exists()).expect("cargo builds libvcuda.so before its tests")
}

/// Opened once; never closed, as programs do.
static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    // SAFETY: the library has no initializers.
    unsafe { Library::new(library()) }.unwrap()
});
static FOUND: LazyLock<Mutex<HashMap<String, usize>>> = LazyLock::new(Mutex::default);

/// The address of an exported function.
pub(crate) fn find(name: &str) -> *const c_void {
    let mut found = FOUND.lock().unwrap();
    let address = *found.entry(name.to_owned()).or_insert_with(|| {
        // SAFETY: only its address is asked for.
        let symbol = unsafe { LIBRARY.get::<*const c_void>(name.as_bytes()) };
        *symbol.unwrap_or_else(|error| panic!("{name}: {error}")) as usize
    });
    address as *const c_void
}

/// Arguments of a call, with the types that cuda.h has: numbers, handles as `u64`, pointers and references.
pub(crate) trait Args {
    /// # Safety
    /// `function` takes these arguments.
    unsafe fn pass(self, function: *const c_void) -> u32;
}

macro_rules! args {
    ($($name:ident)*) => {
        impl<$($name),*> Args for ($($name,)*) {
            #[allow(non_snake_case)]
            unsafe fn pass(self, function: *const c_void) -> u32 {
                let ($($name,)*) = self;
                // SAFETY: by the caller.
                unsafe {
                    let function: extern "C" fn($($name),*) -> u32 = std::mem::transmute(function);
                    function($($name),*)
                }
            }
        }
    };
}
args! {}
args! { A }
args! { A B }
args! { A B C }
args! { A B C D }
args! { A B C D E }
args! { A B C D E F }
args! { A B C D E F G }
args! { A B C D E F G H }
args! { A B C D E F G H I }
args! { A B C D E F G H I J }
args! { A B C D E F G H I J K }
args! { A B C D E F G H I J K L }

/// Calls a function; its result code.
pub(crate) fn cu(name: &str, args: impl Args) -> u32 {
    // SAFETY: the tests give the arguments that cuda.h has for the name.
    unsafe { args.pass(find(name)) }
}

/// Calls a function that has to succeed.
#[track_caller]
pub(crate) fn ok(name: &str, args: impl Args) {
    let code = cu(name, args);
    assert_eq!(code, 0, "{name}: {}", error_name(code));
}

/// Calls a function that has to fail with this code.
#[track_caller]
pub(crate) fn fails(code: u32, name: &str, args: impl Args) {
    let got = cu(name, args);
    assert_eq!(got, code, "{name}: {} instead of {}", error_name(got), error_name(code));
}

pub(crate) fn error_name(code: u32) -> String {
    let mut name: *const c_char = std::ptr::null();
    cu("cuGetErrorName", (code, &mut name));
    if name.is_null() { code.to_string() } else { words(name) }
}

/// A C string of the driver's.
pub(crate) fn words(at: *const c_char) -> String {
    // SAFETY: the driver gives NUL-terminated strings.
    unsafe { CStr::from_ptr(at) }.to_str().unwrap().to_owned()
}

pub(crate) fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub(crate) const NULL: u64 = 0;

/// `cuInit`, and an own context on the first device.
pub(crate) fn start() -> u64 {
    ok("cuInit", (0u32,));
    context(0)
}

pub(crate) fn context(device: i32) -> u64 {
    made(|out| cu("cuCtxCreate_v2", (out, 0u32, device)))
}

/// What a function makes: it is given the place for the handle.
#[track_caller]
pub(crate) fn made(make: impl FnOnce(&mut u64) -> u32) -> u64 {
    let mut handle = 0;
    let code = make(&mut handle);
    assert_eq!(code, 0, "{}", error_name(code));
    handle
}

pub(crate) const NON_BLOCKING: u32 = 1;

pub(crate) fn stream(flags: u32) -> u64 {
    made(|out| cu("cuStreamCreate", (out, flags)))
}

/// An event, without timing.
pub(crate) fn event() -> u64 {
    made(|out| cu("cuEventCreate", (out, 2u32)))
}

pub(crate) fn alloc(bytes: usize) -> u64 {
    made(|out| cu("cuMemAlloc_v2", (out, bytes)))
}

/// Page-locked memory: never given back as a slice's lifetime says, so that tests may free it while they hold it.
pub(crate) fn pinned<T>(count: usize) -> *mut T {
    made(|out| cu("cuMemHostAlloc", (out, count * size_of::<T>(), 0u32))) as *mut T
}

/// A host value by its address, as the driver writes it behind the compiler's back.
pub(crate) fn peek<T: Copy>(at: *const T, index: usize) -> T {
    // SAFETY: the tests' own memory, alive.
    unsafe { at.add(index).read_volatile() }
}

pub(crate) fn upload<T: Copy>(to: u64, values: &[T]) {
    ok("cuMemcpyHtoD_v2", (to, values.as_ptr(), size_of_val(values)));
    ok("cuStreamSynchronize", (NULL,));
}

pub(crate) fn download<T: Copy + Default>(from: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    ok("cuMemcpyDtoH_v2", (values.as_mut_ptr(), from, count * size_of::<T>()));
    values
}

/// Kernels for the tests.
///
/// `fill(out, value)`: a thread an element. `add(out, in, value)`: the same. `append(log, tag)`: one thread puts its tag behind the others';
/// `log[0]` counts. `reads(out, in)`: one element. `bad` stores at address 8; `odd(out)` stores four bytes at an odd address. `shared` has 1 KiB
/// of shared memory and asks for dynamic memory. `small` takes 64 threads at most. `parts(a: u8, b: u64, c: u16)` is there for its parameters.
pub(crate) const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 number = 7;
.extern .shared .align 16 .b8 dynamic[];
.visible .entry fill(.param .u64 out, .param .u32 value) {
  .reg .b32 %r<6>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.u32 %r5, %r2, %r3, %r4;
  mul.wide.u32 %rd2, %r5, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r1;
  ret;
}
.visible .entry add(.param .u64 out, .param .u64 in, .param .u32 value) {
  .reg .b32 %r<8>; .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [out];
  ld.param.u64 %rd2, [in];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.u32 %r5, %r2, %r3, %r4;
  mul.wide.u32 %rd3, %r5, 4;
  add.s64 %rd4, %rd2, %rd3;
  ld.global.u32 %r6, [%rd4];
  add.u32 %r7, %r6, %r1;
  add.s64 %rd5, %rd1, %rd3;
  st.global.u32 [%rd5], %r7;
  ret;
}
.visible .entry append(.param .u64 log, .param .u32 tag) {
  .reg .b32 %r<3>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [log];
  ld.param.u32 %r1, [tag];
  atom.global.add.u32 %r2, [%rd1], 1;
  mul.wide.u32 %rd2, %r2, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3+4], %r1;
  ret;
}
.visible .entry bad() {
  .reg .b64 %rd<2>;
  mov.u64 %rd1, 8;
  st.global.u32 [%rd1], 1;
  ret;
}
.visible .entry odd(.param .u64 out) {
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [out];
  st.global.u32 [%rd1+1], 1;
  ret;
}
.visible .entry trapped() {
  trap;
}
.visible .entry shared() {
  .shared .align 4 .b8 own[1024];
  .reg .b32 %r<2>;
  mov.u32 %r1, 1;
  st.shared.u32 [own], %r1;
  st.shared.u32 [dynamic], %r1;
  ret;
}
.visible .entry small() .maxntid 64, 1, 1 {
  ret;
}
.visible .entry parts(.param .u8 a, .param .u64 b, .param .u16 c) {
  .reg .b16 %h<3>; .reg .b32 %r<3>; .reg .b64 %rd<2>;
  ld.param.u8 %h1, [a];
  ld.param.u64 %rd1, [b];
  ld.param.u16 %h2, [c];
  cvt.u32.u16 %r1, %h1;
  cvt.u32.u16 %r2, %h2;
  st.global.u32 [%rd1], %r1;
  st.global.u32 [%rd1+4], %r2;
  ret;
}
"#;

pub(crate) fn module(text: &str) -> u64 {
    let text = c(text);
    made(|out| cu("cuModuleLoadData", (out, text.as_ptr())))
}

pub(crate) fn function(module: u64, name: &str) -> u64 {
    let name = c(name);
    made(|out| cu("cuModuleGetFunction", (out, module, name.as_ptr())))
}

/// A parameter of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Param {
    P(u64),
    U(u32),
}
pub(crate) use Param::{P, U};

/// The parameters as `kernelParams` wants them.
pub(crate) struct Params {
    _values: Vec<u64>,
    pub(crate) list: Vec<*const c_void>,
}

pub(crate) fn params(of: &[Param]) -> Params {
    let values: Vec<u64> = of
        .iter()
        .map(|p| match *p {
            P(value) => value,
            U(value) => u64::from(value),
        })
        .collect();
    let list = values.iter().map(|value| std::ptr::from_ref(value).cast()).collect();
    Params { _values: values, list }
}

/// `cuLaunchKernel` in one dimension; its result.
pub(crate) fn try_launch(function: u64, grid: u32, block: u32, shared: u32, stream: u64, of: &[Param]) -> u32 {
    let params = params(of);
    let extra: *const *const c_void = std::ptr::null();
    // The list dies when the call has returned: the driver has copied it.
    cu("cuLaunchKernel", (function, grid, 1u32, 1u32, block, 1u32, 1u32, shared, stream, params.list.as_ptr(), extra))
}

#[track_caller]
pub(crate) fn launch(function: u64, grid: u32, block: u32, stream: u64, of: &[Param]) {
    let code = try_launch(function, grid, block, 0, stream, of);
    assert_eq!(code, 0, "{}", error_name(code));
}

/// A log that the kernel `append` writes.
pub(crate) struct Order {
    pub(crate) append: u64,
    pub(crate) log: u64,
}

impl Order {
    pub(crate) fn new() -> Order {
        let log = alloc(4096);
        upload(log, &[0u32]);
        Order { append: function(module(PTX), "append"), log }
    }

    pub(crate) fn mark(&self, stream: u64, tag: u32) {
        launch(self.append, 1, 1, stream, &[P(self.log), U(tag)]);
    }

    /// The tags in the order in which they ran.
    pub(crate) fn seen(&self) -> Vec<u32> {
        ok("cuCtxSynchronize", ());
        let all: Vec<u32> = download(self.log, 1024);
        all[1..=all[0] as usize].to_vec()
    }
}

pub(crate) const GLOBAL: u32 = 0;
pub(crate) const THREAD_LOCAL: u32 = 1;
pub(crate) const RELAXED: u32 = 2;

pub(crate) fn begin_capture(stream: u64, mode: u32) {
    ok("cuStreamBeginCapture_v2", (stream, mode));
}

pub(crate) fn end_capture(stream: u64) -> u64 {
    made(|out| cu("cuStreamEndCapture", (stream, out)))
}

pub(crate) fn instantiate(graph: u64) -> u64 {
    made(|out| cu("cuGraphInstantiateWithFlags", (out, graph, 0u64)))
}

/// How many nodes a graph has.
pub(crate) fn nodes(graph: u64) -> Vec<u64> {
    let mut count = 0usize;
    ok("cuGraphGetNodes", (graph, std::ptr::null_mut::<u64>(), &mut count));
    let mut nodes = vec![0u64; count];
    ok("cuGraphGetNodes", (graph, nodes.as_mut_ptr(), &mut count));
    nodes
}

const INSIDE: &str = "VCUDA_TEST_INSIDE";
const MOST: Duration = Duration::from_secs(100);

/// Runs `body` in a process of its own, with these variables and no others of vcuda; `name` is the test that calls this. Gives what was printed.
pub(crate) fn alone(name: &str, variables: &[(&str, &str)], body: fn()) -> Output {
    if std::env::var_os(INSIDE).is_some() {
        body();
        // As programs end: what is registered for the end runs.
        std::process::exit(0);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VCUDA_")) {
        command.env_remove(variable);
    }
    let name = name.split_once("::").map_or(name, |(_, path)| path);
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let reader = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = vec![];
            let _ = from.read_to_end(&mut bytes);
            bytes
        })
    };
    let stdout = reader(Box::new(child.stdout.take().unwrap()));
    let stderr = reader(Box::new(child.stderr.take().unwrap()));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > MOST {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let status = status.unwrap_or_else(|| panic!("{name} hangs: {text}"));
    assert!(status.success(), "{status}: {text}");
    // The process ends inside of the test: where it comes to the end, no test has had that name.
    assert!(!text.contains("test result"), "no test is called {name}: {text}");
    assert!(!text.contains("this is a fault of vcuda"), "{text}");
    Output { status, stdout, stderr }
}

/// Tests in processes of their own: `name [VARIABLE = "value", …] { … }`.
macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident [$($variable:ident = $value:expr),*] $body:block)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                let name = concat!(module_path!(), "::", stringify!($name));
                crate::client::alone(name, &[$((stringify!($variable), $value)),*], || $body);
            }
        )*
    };
}
pub(crate) use scenarios;
