//! How launches are ended from outside, and in which order their blocks begin.

use ptx_vm::{Fault, FaultKind, Kernel, Launch, Module, Region, Vm, VmConfig};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `%rd0` is the parameter, `%r0` the thread, `%r9` the block.
fn kernel(functions: &str, body: &str) -> Arc<Kernel> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{functions}
        .visible .entry k(.param .u64 data) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>;
          .shared .align 8 .b64 bar;
          .param .b32 a;
          ld.param.u64 %rd0, [data];
          mov.u32 %r0, %tid.x; mov.u32 %r9, %ctaid.x;
          {body}
          ret;
        }}"
    );
    Module::parse("t.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn shape(grid: u32, block: u32) -> Launch {
    Launch::new([grid, 1, 1], [block, 1, 1])
}

fn words(vm: &Vm, ptr: u64, n: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * n];
    vm.read(ptr, &mut bytes).unwrap();
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

// ---- interrupts -----------------------------------------------------------------------------------------------------

/// Kernels that never end, or not for years: what, functions, body, blocks, threads. They wait for word 1 of their data, if for anything.
const ENDLESS: &[(&str, &str, &str, u32, u32)] = &[
    ("a loop", "", "LOOP: add.u32 %r1, %r1, 1; bra LOOP;", 1, 32),
    ("a loop of some lanes", "", "setp.lt.u32 %p1, %r0, 7; LOOP: @%p1 bra LOOP;", 3, 64),
    ("barriers", "", "LOOP: bar.sync 0; bra LOOP;", 2, 256),
    (
        "all but one warp at a barrier",
        "",
        "setp.ge.u32 %p1, %r0, 32; @%p1 bra END; LOOP: bra LOOP; END: bar.sync 0;",
        1,
        1024,
    ),
    ("warp barriers", "", "LOOP: bar.warp.sync 0xffffffff; bra LOOP;", 1, 64),
    ("sleep", "", "LOOP: nanosleep.u32 100; bra LOOP;", 2, 64),
    (
        "a flag",
        "",
        "LOOP: ld.acquire.sys.global.u32 %r1, [%rd0 + 4]; setp.eq.u32 %p1, %r1, 0; @%p1 bra LOOP;",
        5000,
        32,
    ),
    (
        "an mbarrier",
        "",
        "setp.lt.u32 %p1, %r0, 32; setp.eq.u32 %p2, %r0, 0;
         @%p2 mbarrier.init.shared.b64 [bar], 1;
         bar.sync 0;
         @!%p1 bra LOOP;
         POLL: mbarrier.test_wait.parity.shared.b64 %p3, [bar], 0; @!%p3 bra POLL;
         LOOP: bra LOOP;",
        1,
        64,
    ),
    ("blocks without end", "", "", i32::MAX as u32, 32),
    (
        "calls without a loop",
        ".func f(.param .b32 n) {
           .reg .b32 %r<3>; .reg .pred %p; .param .b32 a;
           ld.param.b32 %r1, [n]; setp.eq.u32 %p, %r1, 0; @%p ret;
           add.u32 %r2, %r1, -1; st.param.b32 [a], %r2;
           call.uni f, (a); call.uni f, (a); ret;
         }",
        "st.param.b32 [a], 60; call.uni f, (a);",
        1,
        32,
    ),
];

fn configs() -> [VmConfig; 4] {
    let plain = VmConfig::default();
    [
        VmConfig { threads: 1, ..plain.clone() },
        VmConfig { threads: 3, block_order: Some(1), ..plain.clone() },
        VmConfig { threads: 2, checked: true, ..plain.clone() },
        VmConfig { threads: 2, profile: true, checked: true, ..plain },
    ]
}

/// Two words of the host that kernels see too.
fn mailbox() -> (Box<[AtomicU32; 2]>, Region) {
    let words = Box::new([AtomicU32::new(0), AtomicU32::new(0)]);
    // SAFETY: the words outlive the devices of the tests, which all access them atomically or alone.
    let region = unsafe { Region::of_host(words.as_ptr().cast_mut().cast(), 8, "mailbox") }.unwrap();
    (words, region)
}

/// Launches, waits until the kernel runs, and does something meanwhile. Gives the outcome, and how long the launch took after that.
fn meanwhile(vm: &Vm, kernel: &Kernel, launch: Launch, act: impl FnOnce()) -> (Option<Fault>, Duration) {
    let (words, region) = mailbox();
    vm.map(&region).unwrap();
    let result = std::thread::scope(|scope| {
        let runner = scope.spawn(|| vm.launch(kernel, &launch, &region.ptr().to_le_bytes()).err());
        while words[0].load(Ordering::Acquire) == 0 && !runner.is_finished() {
            std::thread::yield_now();
        }
        act();
        let start = Instant::now();
        (runner.join().unwrap(), start.elapsed())
    });
    vm.unmap(region.ptr()).unwrap();
    result
}

const STARTED: &str = "st.release.sys.global.u32 [%rd0], 1;";

#[test]
fn endless_kernels_are_interrupted() {
    let twice = kernel("", "ld.global.u32 %r1, [%rd0]; add.u32 %r1, %r1, %r1; st.global.u32 [%rd0], %r1;");
    for config in configs() {
        let vm = Vm::new(config.clone());
        let word = vm.alloc(4).unwrap();
        vm.write(word, &1u32.to_le_bytes()).unwrap();
        for (i, (what, functions, body, blocks, threads)) in ENDLESS.iter().enumerate() {
            let endless = kernel(functions, &format!("{STARTED}\n{body}"));
            let (fault, took) = meanwhile(&vm, &endless, shape(*blocks, *threads), || vm.interrupt());
            let fault = fault.unwrap_or_else(|| panic!("{what} came to an end"));
            assert_eq!(fault.kind, FaultKind::Interrupted, "{what}: {fault}");
            assert!(fault.to_string().starts_with("interrupted in k"), "{fault}");
            // A few milliseconds; tests may have a small share of the machine.
            assert!(took < Duration::from_secs(1), "{what} took {took:?} with {config:?}");
            println!("{what}: {took:?}");

            // It stays so until somebody says otherwise.
            let refused = vm.launch(&twice, &shape(1, 1), &word.to_le_bytes()).unwrap_err();
            assert_eq!(refused.kind, FaultKind::Interrupted, "{refused}");
            vm.interrupt();
            vm.resume();
            vm.launch(&twice, &shape(1, 1), &word.to_le_bytes()).unwrap();
            assert_eq!(words(&vm, word, 1), [2 << i], "{what}");
            vm.resume();
        }
    }
}

#[test]
fn a_fault_tells_where_the_interrupt_met_the_kernel() {
    let vm = Vm::new(VmConfig::default());
    let endless = kernel("", &format!("{STARTED}\nLOOP:\nbra LOOP;"));
    let fault = meanwhile(&vm, &endless, shape(1, 32), || vm.interrupt()).0.unwrap();
    assert_eq!((fault.block, fault.line, fault.instruction.as_str()), (Some([0, 0, 0]), 13, "bra LOOP"), "{fault}");
    assert_eq!(serde_json::to_value(&fault).unwrap()["kind"], "interrupted");
}

#[test]
fn an_interrupt_taken_back_at_once_ends_what_ran() {
    let vm = Vm::new(VmConfig::default());
    let endless = kernel("", &format!("{STARTED}\nLOOP: bra LOOP;"));
    for _ in 0..20 {
        let act = || {
            vm.interrupt();
            vm.resume();
        };
        assert_eq!(meanwhile(&vm, &endless, shape(4, 32), act).0.map(|f| f.kind), Some(FaultKind::Interrupted));
    }
    vm.launch(&kernel("", ""), &shape(4, 32), &[0; 8]).unwrap();
}

#[test]
fn memory_calls_and_launches_do_not_wait_for_a_launch() {
    let answer = kernel("", "st.release.sys.global.u32 [%rd0 + 4], 1;");
    let waits = kernel(
        "",
        &format!("{STARTED}\nLOOP: ld.acquire.sys.global.u32 %r1, [%rd0 + 4]; setp.eq.u32 %p1, %r1, 0; @%p1 bra LOOP;"),
    );
    for config in configs() {
        let vm = Vm::new(config);
        let act = || {
            let old = vm.alloc(64).unwrap();
            vm.fill(old, 7, 64).unwrap();
            vm.free(old).unwrap();
            let (_words, other) = mailbox();
            vm.map(&other).unwrap();
            vm.launch(&answer, &shape(1, 1), &other.ptr().to_le_bytes()).unwrap();
            assert_eq!(words(&vm, other.ptr(), 2), [0, 1]);
            vm.unmap(other.ptr()).unwrap();
            let live = vm.live();
            assert!(live.is_empty(), "{live:?}");
        };
        let (words, region) = mailbox();
        vm.map(&region).unwrap();
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| vm.launch(&waits, &shape(3, 32), &region.ptr().to_le_bytes()));
            while words[0].load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            act();
            // The kernel sees what the host writes.
            assert!(!runner.is_finished());
            words[1].store(1, Ordering::Release);
            runner.join().unwrap().unwrap();
        });
    }
}

#[test]
fn interrupting_nothing_harms_nothing() {
    let vm = Vm::new(VmConfig::default());
    let nothing = kernel("", "");
    vm.resume();
    vm.launch(&nothing, &shape(4, 32), &[0; 8]).unwrap();
    vm.interrupt();
    assert_eq!(vm.launch(&nothing, &shape(4, 32), &[0; 8]).map_err(|f| f.kind).err(), Some(FaultKind::Interrupted));
    // What is wrong with a launch is told all the same.
    assert_eq!(vm.launch(&nothing, &shape(0, 32), &[0; 8]).map_err(|f| f.kind).err(), Some(FaultKind::Launch));
    vm.resume();
    vm.launch(&nothing, &shape(4, 32), &[0; 8]).unwrap();
}

// ---- the order of blocks --------------------------------------------------------------------------------------------

fn ordered(seed: Option<u64>, threads: usize, checked: bool) -> Vm {
    Vm::new(VmConfig {
        block_order: seed,
        threads,
        checked,
        instruction_budget: Some(50_000_000),
        ..VmConfig::default()
    })
}

/// Launches with `n` zeroed words and gives them back.
fn run(vm: &Vm, kernel: &Kernel, launch: Launch, n: usize) -> Result<Vec<u32>, Fault> {
    let data = vm.alloc(4 * n).unwrap();
    vm.fill(data, 0, 4 * n).unwrap();
    let result = vm.launch(kernel, &launch, &data.to_le_bytes());
    let out = words(vm, data, n);
    vm.free(data).unwrap();
    result.map(|_| out)
}

/// Word `b + 1` becomes the place of block `b` in the order.
fn places() -> Arc<Kernel> {
    kernel(
        "",
        "atom.global.add.u32 %r1, [%rd0], 1; mul.wide.u32 %rd1, %r9, 4; add.s64 %rd1, %rd1, %rd0; st.global.u32 [%rd1 + 4], %r1;",
    )
}

#[test]
fn the_order_depends_on_the_seed_and_the_launch_alone() {
    let places = places();
    let orders = |seed| {
        let vm = ordered(seed, 1, false);
        (0..5).map(|_| run(&vm, &places, shape(100, 1), 101).unwrap()[1..].to_vec()).collect::<Vec<_>>()
    };
    let natural: Vec<u32> = (0..100).collect();
    assert!(orders(None).iter().all(|order| *order == natural));
    let mut seen = HashSet::from([natural.clone()]);
    for seed in [0, 1, 2, u64::MAX] {
        let once = orders(Some(seed));
        assert_eq!(once, orders(Some(seed)), "seed {seed}");
        for order in once {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, natural);
            assert!(seen.insert(order), "seed {seed}");
        }
    }
}

#[test]
fn kernels_that_rely_on_an_order_are_found() {
    // Each block adds 1 to what the block before has left.
    let relies = kernel(
        "",
        "mul.wide.u32 %rd1, %r9, 4; add.s64 %rd1, %rd1, %rd0; ld.global.u32 %r1, [%rd1]; add.u32 %r1, %r1, 1; st.global.u32 [%rd1 + 4], %r1;",
    );
    // Each block waits for the one before.
    let waits = kernel(
        "",
        "mul.wide.u32 %rd1, %r9, 4; add.s64 %rd1, %rd1, %rd0;
         mov.u32 %r1, 0; setp.eq.u32 %p1, %r9, 0; @%p1 bra GO;
         WAIT: nanosleep.u32 20; ld.acquire.gpu.global.u32 %r1, [%rd1]; setp.eq.u32 %p2, %r1, 0; @%p2 bra WAIT;
         GO: add.u32 %r1, %r1, 1; st.release.gpu.global.u32 [%rd1 + 4], %r1;",
    );
    let want: Vec<u32> = (0..=12).collect();
    assert_eq!(run(&ordered(None, 1, false), &relies, shape(12, 1), 13).unwrap(), want);
    for seed in 0..5 {
        for checked in [false, true] {
            let vm = ordered(Some(seed), 1, checked);
            assert_ne!(run(&vm, &relies, shape(12, 1), 13).unwrap(), want, "seed {seed}");
            assert_eq!(run(&vm, &waits, shape(12, 1), 13).unwrap(), want, "seed {seed}");
            assert_eq!(run(&ordered(Some(seed), 3, checked), &waits, shape(12, 1), 13).unwrap(), want, "seed {seed}");
        }
    }
}

#[test]
fn the_lowest_failing_block_is_reported_in_any_order() {
    let fails = kernel("", "setp.ge.u32 %p1, %r9, 33; @%p1 trap;");
    for seed in 0..20 {
        for threads in [1, 3] {
            for blocks in [34, 60, i32::MAX as u32] {
                let fault = run(&ordered(Some(seed), threads, false), &fails, shape(blocks, 32), 1).unwrap_err();
                let found = (fault.kind, fault.block);
                assert_eq!(
                    found,
                    (FaultKind::Trap, Some([33, 0, 0])),
                    "seed {seed}, {threads} threads, {blocks} blocks"
                );
            }
        }
    }
}

#[test]
fn what_blocks_print_stands_in_their_order() {
    let prints = kernel(
        ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 v);
         .global .align 1 .b8 text[4] = {37, 117, 10, 0};",
        ".reg .b64 %SP; .local .align 8 .b8 frame[8];
         mov.u64 %rd2, frame; cvta.local.u64 %rd3, %rd2; st.local.u32 [%rd2], %r9;
         mov.u64 %rd4, text; cvta.global.u64 %rd4, %rd4;
         { .param .b64 f; .param .b64 v; .param .b32 r; st.param.b64 [f], %rd4; st.param.b64 [v], %rd3; call.uni (r), vprintf, (f, v); }",
    );
    let want: String = (0..50).map(|b| format!("{b}\n")).collect();
    for seed in [None, Some(3)] {
        let vm = ordered(seed, 2, false);
        run(&vm, &prints, shape(50, 1), 1).unwrap();
        assert_eq!(vm.take_printed(), want, "{seed:?}");
    }
}

// ---- limits ---------------------------------------------------------------------------------------------------------

/// A module with two kernels: `k` uses an array of the module and dynamic shared memory, `other` an array of its own.
fn with_shared(target: &str, bytes: usize) -> Module {
    let text = format!(
        ".version 8.8
        .target {target}
        .address_size 64
        .shared .align 4 .b8 first[{bytes}];
        .shared .align 4 .b8 second[40960];
        .extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .u64 data) {{
          .reg .b32 %r<3>; .reg .b64 %rd<2>;
          ld.param.u64 %rd0, [data];
          mov.u32 %r0, %total_smem_size; st.global.u32 [%rd0], %r0;
          st.shared.u32 [first], %r0; st.shared.u32 [dynamic], %r0;
          ret;
        }}
        .visible .entry other() {{
          .reg .b32 %r<3>;
          mov.u32 %r0, 1; st.shared.u32 [second + 4], %r0;
          ret;
        }}"
    );
    Module::parse("shared.ptx", &text).unwrap()
}

#[test]
fn shared_memory_has_the_limits_of_the_architecture() {
    let launch = |target: &str, arch: Option<u32>, total: u32| {
        let kernel = with_shared(target, 1024).kernel("k").unwrap();
        let vm = Vm::new(VmConfig { threads: 1, arch, ..VmConfig::default() });
        let out = vm.alloc(4).unwrap();
        let launch = Launch::new([1, 1, 1], [32, 1, 1]).dynamic_shared(total - 1024);
        vm.launch(&kernel, &launch, &out.to_le_bytes()).map(|_| words(&vm, out, 1)[0])
    };
    for (target, arch, kib) in [
        ("sm_80", None, 163),
        ("sm_86", None, 99),
        ("sm_87", None, 163),
        ("sm_89", None, 99),
        ("sm_90a", None, 227),
        ("sm_100", None, 227),
        ("sm_120", None, 99),
        ("sm_80", Some(86), 99),
        ("sm_80", Some(90), 227),
        ("sm_75", Some(75), 64),
    ] {
        assert_eq!(launch(target, arch, kib << 10).unwrap(), kib << 10, "{target}, {arch:?}");
        let fault = launch(target, arch, (kib << 10) + 4).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Launch);
        let device = arch.map_or(target.trim_end_matches('a').to_owned(), |n| format!("sm_{n}"));
        let says = format!("1024 static and {} dynamic: a block of {device} has at most", (kib << 10) + 4 - 1024);
        assert!(fault.to_string().contains(&says) && fault.to_string().contains(&format!("({kib} KiB)")), "{fault}");
    }
    let fault = launch("sm_90", Some(80), 2048).unwrap_err();
    assert!(fault.to_string().contains("compiled for sm_90, the device is sm_80"), "{fault}");
}

#[test]
fn static_shared_memory_has_the_limit_of_ptxas() {
    let module = with_shared("sm_90", 48 << 10);
    // An array counts for the kernels that use it.
    assert_eq!(module.kernel("k").unwrap().static_shared(), 48 << 10);
    assert_eq!(module.kernel("other").unwrap().static_shared(), 40960);
    let module = with_shared("sm_90", (48 << 10) + 4);
    let error = module.kernel("k").err().unwrap().to_string();
    assert!(error.contains("49156 bytes of static shared memory: at most 48 KiB"), "{error}");
    assert!(module.kernel("other").is_ok());
}

#[test]
fn what_is_reserved_of_shared_memory_lies_behind_the_blocks_own() {
    let text = ".version 7.6\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {
        .reg .b32 %r<9>; .reg .b64 %rd<3>; .shared .align 16 .b8 own[40];
        ld.param.u64 %rd1, [out]; mov.u32 %r1, %reserved_smem_offset_begin; mov.u32 %r2, %reserved_smem_offset_1;
        mov.u32 %r3, %reserved_smem_offset_end; mov.u32 %r4, %total_smem_size; mov.u32 %r5, %reserved_smem_offset_cap;
        ld.shared.u32 %r6, [%r2]; st.shared.u32 [%r2], 7; st.global.v4.u32 [%rd1], {%r1, %r3, %r4, %r5};
        st.global.v2.u32 [%rd1 + 16], {%r2, %r6}; ret;\n}";
    for config in [VmConfig::default(), VmConfig { checked: true, ..VmConfig::default() }, VmConfig::adverse(1)] {
        let vm = Vm::new(config);
        let kernel = Module::parse("k.ptx", text).unwrap().kernel("k").unwrap();
        let out = vm.alloc(24).unwrap();
        let launch = Launch::new([1, 1, 1], [1, 1, 1]).dynamic_shared(9);
        vm.launch(&kernel, &launch, &out.to_le_bytes()).unwrap();
        let mut bytes = [0; 24];
        vm.read(out, &mut bytes).unwrap();
        let words: Vec<u32> = bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(words, [64, 64 + 1024, 49, 1024, 64 + 512, 0]);
    }
}

#[test]
fn cp_async_copies_from_a_variable_of_the_module() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 16 .b32 glo[4] = {1, 2, 3, 4};
        .visible .entry k(.param .u64 out) {
          .reg .b32 %r<9>; .reg .b64 %rd<9>; .shared .align 16 .b8 sha[16];
          ld.param.u64 %rd1, [out];
          cp.async.ca.shared.global [sha], [glo], 16; cp.async.wait_all;
          ld.shared.u32 %r1, [sha]; ld.shared.u32 %r2, [sha + 12];
          st.global.u32 [%rd1], %r1; st.global.u32 [%rd1 + 4], %r2; ret; }";
    let kernel = Module::parse("k.ptx", text).unwrap().kernel("k").unwrap();
    let plain = VmConfig::default();
    for config in [plain.clone(), VmConfig { checked: true, ..plain }, VmConfig::adverse(3)] {
        let vm = Vm::new(config);
        let out = vm.alloc(8).unwrap();
        let shape = Launch::new([1, 1, 1], [1, 1, 1]);
        vm.launch(&kernel, &shape, &out.to_le_bytes()).unwrap();
        let mut bytes = [0; 8];
        vm.read(out, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 4, 0, 0, 0]);
    }
}
