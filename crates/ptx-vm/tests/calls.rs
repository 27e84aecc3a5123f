//! Calls with a stack, calls by address, the device runtime: CUDA programs compiled by nvcc, and small kernels.

use ptx_vm::{Fault, FaultKind, Launch, MemoryError, Module, Vm, VmConfig};

const OPTIMISED: &str = include_str!("ptx/functions.ptx");
const DEBUG: &str = include_str!("ptx/functions_debug.ptx");
const THREADS: usize = 96;

/// Runs an entry on one block with a pointer to `n` words.
fn launch(vm: &Vm, text: &str, entry: &str, threads: usize, words: &[u32]) -> Result<Vec<u32>, Fault> {
    let module = Module::parse("functions.ptx", text).unwrap_or_else(|e| panic!("{e}"));
    let kernel = module.kernel(entry).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let out = vm.alloc(bytes.len()).unwrap();
    vm.write(out, &bytes).unwrap();
    let shape = Launch::new([1, 1, 1], [threads as u32, 1, 1]);
    vm.launch(&kernel, &shape, &out.to_le_bytes())?;
    let mut bytes = bytes;
    let read = vm.read(out, &mut bytes);
    vm.free(out).unwrap();
    match read {
        Ok(()) => {}
        Err(MemoryError::Undefined { cause: Some(fault), .. }) => return Err(*fault),
        Err(error) => panic!("{error}"),
    }
    Ok(bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

/// Runs an entry of both modules, plainly and observed.
fn all(entry: &str, words: &[u32], want: &[u32]) {
    for (name, text) in [("-O3", OPTIMISED), ("-G", DEBUG)] {
        for checked in [false, true] {
            let vm = Vm::new(VmConfig { checked, counters: checked, ..VmConfig::default() });
            let got =
                launch(&vm, text, entry, THREADS, words).unwrap_or_else(|e| panic!("{entry} {name} {checked}: {e}"));
            assert_eq!(got, want, "{entry} {name} {checked}");
            assert_eq!(vm.heap(), [], "{entry} {name}: leaks");
        }
    }
}

fn each(entry: &str, want: impl Fn(u32) -> u32) {
    let want: Vec<u32> = (0..THREADS as u32).map(want).collect();
    all(entry, &[0; THREADS], &want);
}

fn fib(n: u32) -> u32 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

fn ack(m: u32, n: u32) -> u32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ack(m - 1, 1),
        (m, n) => ack(m - 1, ack(m, n - 1)),
    }
}

#[test]
fn recursion() {
    each("k_fib", |t| fib(t % 12));
    each("k_ack", |t| ack(t % 3, t % 5));
    each("k_even", |t| u32::from(t % 2 == 0));
}

#[test]
fn quicksort() {
    let words: Vec<u32> = (0..THREADS as u32 * 16).map(|i| i.wrapping_mul(2_654_435_761) >> 8 & 0xffff).collect();
    let mut want = words.clone();
    want.chunks_mut(16).for_each(|row| row.sort_unstable());
    all("k_quick", &words, &want);
}

#[test]
fn structs_by_value() {
    each("k_struct", |t| {
        let (mut x, mut y, mut z, mut tag) = (t as f32, 2.0f32, 3.0f32, 97i32);
        for i in 0..3 {
            let f = 0.5 + i as f32;
            (x, y, z, tag) = (x * f, y + f, z - f, tag + 1);
        }
        ((x * 8.0 + y * 4.0 + z * 2.0) as i32 + tag) as u32
    });
}

#[test]
fn calls_by_address() {
    each("k_virtual", |t| if t % 3 != 0 { t * t + 7 } else { (t * 3).wrapping_sub(7) });
    each("k_table", |t| [t + 5, t * 5, t.wrapping_sub(5)][t as usize % 3]);
}

#[test]
fn trees_on_the_device_heap() {
    each("k_tree", |t| (0..20).map(|i| (i * 7 + t) % 31).sum());
}

#[test]
fn memory_on_the_stack() {
    each("k_alloca", |t| (0..t % 4 + 1).map(|i| i + fib(i)).sum());
}

#[test]
fn printf_writes_what_c_writes() {
    let want = "thread 2 of block 0\n";
    let long = "-3    42|7     |+9 4000000000 ff 0XFF 10 z text 1.500000 1.235e+04 0.0001       3.14 0x1p+0 -5000000000 abcdef0123 4464 % (nil)\n";
    for text in [OPTIMISED, DEBUG] {
        for checked in [false, true] {
            let vm = Vm::new(VmConfig { checked, ..VmConfig::default() });
            launch(&vm, text, "k_print", 4, &[0; 4]).unwrap_or_else(|e| panic!("{e}"));
            let printed = vm.take_printed();
            // The lanes print on different paths: in either order, thread 0 first among its own.
            let mut lines: Vec<&str> = printed.split_inclusive('\n').collect();
            lines.sort_unstable();
            assert_eq!(lines, [long, "thread 0 of block 0\n", want]);
            assert_eq!(vm.take_printed(), "");
        }
    }
}

#[test]
fn assertions() {
    for text in [OPTIMISED, DEBUG] {
        let found = launch(&Vm::new(VmConfig::default()), text, "k_assert", 32, &[0; 32]).expect_err("no fault");
        assert_eq!((found.kind, found.thread), (FaultKind::Trap, Some([5, 0, 0])), "{found}");
        assert!(found.message.contains("five is bad") && found.message.contains("functions.cu:"), "{found}");
    }
}

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

#[test]
fn calls_count_for_the_budget() {
    // 2^60 calls, 60 deep, and no loop.
    let text = format!(
        "{HEAD}.func f(.param .b32 n) {{
           .reg .b32 %r<3>; .reg .pred %p; .param .b32 a;
           ld.param.b32 %r1, [n]; setp.eq.u32 %p, %r1, 0; @%p ret;
           add.u32 %r2, %r1, -1; st.param.b32 [a], %r2;
           call.uni f, (a);
           call.uni f, (a);
           ret;
         }}
         .visible .entry k(.param .u64 out) {{ .param .b32 a; st.param.b32 [a], 60; call.uni f, (a); ret; }}"
    );
    for checked in [false, true] {
        let vm = Vm::new(VmConfig { checked, instruction_budget: Some(1_000_000), ..VmConfig::default() });
        let found = launch(&vm, &text, "k", 32, &[0]).expect_err("no fault");
        assert_eq!(found.kind, FaultKind::Budget, "{found}");
    }
}

#[test]
fn endless_recursion_uses_up_the_stack() {
    let text = format!(
        "{HEAD}.func f(.param .b32 n) {{
           .reg .b32 %r<3>; .param .b32 a;
           ld.param.b32 %r1, [n]; add.u32 %r2, %r1, 1; st.param.b32 [a], %r2;
           call.uni f, (a);
           ret;
         }}
         .visible .entry k(.param .u64 out) {{ .param .b32 a; st.param.b32 [a], 0; call.uni f, (a); ret; }}"
    );
    let found = launch(&Vm::new(VmConfig::default()), &text, "k", 32, &[0]).expect_err("no fault");
    assert_eq!((found.kind, found.line), (FaultKind::StackOverflow, 7), "{found}");
}

#[test]
fn register_parameters_and_predicated_returns() {
    // The old calling convention, out of line because the function calls itself; lanes return one by one.
    let text = format!(
        "{HEAD}.func (.reg .b32 %sum, .reg .b64 %wide) f(.reg .b32 %n, .reg .b32 %k) {{
           .reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %rd<3>;
           mov.u32 %sum, %k; mov.u64 %wide, 1;
           setp.eq.u32 %p1, %n, 0;
           @%p1 ret;
           sub.u32 %r1, %n, 1;
           call (%r2, %rd1), f, (%r1, 5);
           add.u32 %sum, %r2, %n;
           add.u64 %wide, %rd1, %rd1;
           ret;
         }}
         .visible .entry k(.param .u64 out) {{
           .reg .b32 %r<6>; .reg .b64 %rd<6>;
           ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
           call (%r2, %rd2), f, (%r1, 9);
           cvt.u32.u64 %r3, %rd2; add.u32 %r2, %r2, %r3;
           mul.wide.u32 %rd3, %r1, 4; add.s64 %rd1, %rd1, %rd3;
           st.global.u32 [%rd1], %r2;
           ret;
         }}"
    );
    let want: Vec<u32> = (0..20).map(|n| n * (n + 1) / 2 + if n == 0 { 9 } else { 5 } + (1 << n)).collect();
    for checked in [false, true] {
        let vm = Vm::new(VmConfig { checked, ..VmConfig::default() });
        assert_eq!(launch(&vm, &text, "k", 20, &[0; 20]).unwrap_or_else(|e| panic!("{e}")), want);
    }
}

#[test]
fn bad_calls() {
    let kernel = |body: &str| {
        format!(
            "{HEAD}.extern .func (.param .b32 r) cudaMystery(.param .b64 a);
             .func good(.param .b32 a) {{ ret; }}
             .visible .entry k(.param .u64 out) {{
               .reg .b64 %rd<4>; .param .b32 a; .param .b64 b; .param .b32 r;
               mov.u64 %rd1, good;
               {body}
               ret;
             }}"
        )
    };
    let module = Module::parse("t.ptx", &kernel("call (r), cudaMystery, (b);")).unwrap();
    let error = module.kernel("k").err().expect("loads").to_string();
    assert!(error.contains("cudaMystery") && error.contains("t.ptx:9"), "{error}");
    let stray = kernel("proto: .callprototype _ (.param .b32 _); add.u64 %rd1, %rd1, 4; call %rd1, (a), proto;");
    let found = launch(&Vm::new(VmConfig::default()), &stray, "k", 32, &[0]).expect_err("no fault");
    assert_eq!((found.kind, found.line), (FaultKind::Trap, 9), "{found}");
}

#[test]
fn malloc_and_free() {
    let kernel = |body: &str| {
        format!(
            "{HEAD}.extern .func (.param .b64 p) malloc(.param .b64 n); .extern .func free(.param .b64 p);
             .visible .entry k(.param .u64 out) {{
               .reg .b64 %rd<6>; .reg .b32 %r<4>; .param .b64 n; .param .b64 p;
               ld.param.u64 %rd1, [out];
               st.param.b64 [n], 40; call (p), malloc, (n); ld.param.b64 %rd2, [p];
               {body}
               ret;
             }}"
        )
    };
    let run = |vm: &Vm, body: &str| launch(vm, &kernel(body), "k", 1, &[0]);
    let vm = Vm::new(VmConfig { checked: true, ..VmConfig::default() });
    // What is not freed stays, and is told.
    assert_eq!(run(&vm, "st.u32 [%rd2+36], 7; ld.u32 %r1, [%rd2+36]; st.global.u32 [%rd1], %r1;").unwrap(), [7]);
    assert_eq!(vm.heap().iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [40]);
    let end = run(&vm, "st.u32 [%rd2+40], 7;").expect_err("no fault");
    assert_eq!(end.kind, FaultKind::OutOfBounds, "{end}");
    let unwritten = run(&vm, "ld.u32 %r1, [%rd2]; st.global.u32 [%rd1], %r1;").expect_err("no fault");
    assert_eq!(unwritten.kind, FaultKind::Uninitialised, "{unwritten}");
    let stale =
        "st.u32 [%rd2], 7; st.param.b64 [p], %rd2; call free, (p); ld.u32 %r1, [%rd2]; st.global.u32 [%rd1], %r1;";
    let after = run(&vm, stale).expect_err("no fault");
    assert_eq!(after.kind, FaultKind::OutOfBounds, "{after}");
    let twice = run(&vm, "st.param.b64 [p], %rd2; call free, (p); call free, (p);").expect_err("no fault");
    assert_eq!((twice.kind, twice.message.contains("free of")), (FaultKind::OutOfBounds, true), "{twice}");
    let small = Vm::new(VmConfig { heap_bytes: Some(39), ..VmConfig::default() });
    assert_eq!(run(&small, "cvt.u32.u64 %r1, %rd2; st.global.u32 [%rd1], %r1;").unwrap(), [0]);
}
