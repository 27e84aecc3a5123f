//! Launches and PTX that would not end, or not end well: budgets, time limits, nesting, sizes.

use ptx_vm::{FaultKind, Launch, LoadErrorKind, Module, Vm, VmConfig};
use std::fmt::Write;
use std::time::{Duration, Instant};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn spin() -> String {
    HEAD.to_owned()
        + ".visible .entry spin() {\n$L: bra $L;\nret; }\n.visible .entry quick() { ret; }\n"
        + ".visible .entry count(.param .u32 n) { .reg .b32 %r<3>; .reg .pred %p; ld.param.u32 %r1, [n]; mov.u32 %r2, 0;
            $L: add.u32 %r2, %r2, 1; setp.lt.u32 %p, %r2, %r1; @%p bra $L; ret; }"
}

fn shape(blocks: u32, threads: u32) -> Launch {
    Launch::new([blocks, 1, 1], [threads, 1, 1])
}

#[test]
fn a_launch_that_takes_too_long_ends_by_the_clock() {
    let kernel = Module::parse("k.ptx", &spin()).unwrap().kernel("spin").unwrap();
    for (checked, counters, threads, blocks) in
        [(false, false, 1, 1), (false, false, 2, 5000), (true, false, 1, 3), (false, true, 2, 7)]
    {
        let timeout = Some(Duration::from_millis(200));
        let vm = Vm::new(VmConfig { timeout, checked, counters, threads, ..VmConfig::default() });
        let start = Instant::now();
        let fault = vm.launch(&kernel, &shape(blocks, 256), &[]).unwrap_err();
        let took = start.elapsed();
        assert_eq!(fault.kind, FaultKind::Timeout);
        let text = fault.to_string();
        assert!(text.starts_with("timeout in spin"), "{text}");
        assert!(text.contains("the launch has taken more than 0.2 s"), "{text}");
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(10), "{took:?}");
        // The device is as good as before.
        let quick = Module::parse("k.ptx", &spin()).unwrap().kernel("quick").unwrap();
        vm.launch(&quick, &shape(blocks, 32), &[]).unwrap();
    }
}

#[test]
fn a_time_limit_that_is_not_reached_changes_nothing() {
    let kernel = Module::parse("k.ptx", &spin()).unwrap().kernel("count").unwrap();
    for timeout in [Duration::from_secs(3600), Duration::MAX] {
        let vm = Vm::new(VmConfig { timeout: Some(timeout), ..VmConfig::default() });
        vm.launch(&kernel, &shape(50, 64), &1000u32.to_le_bytes()).unwrap();
    }
}

#[test]
fn the_blocks_of_a_launch_have_a_budget_together() {
    let module = Module::parse("k.ptx", &spin()).unwrap();
    for threads in [1, 3] {
        let launch_budget = Some(3_000_000);
        let vm = Vm::new(VmConfig { launch_budget, threads, ..VmConfig::default() });
        // No block alone would end.
        let fault = vm.launch(&module.kernel("spin").unwrap(), &shape(100_000, 64), &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Budget);
        assert!(
            fault.to_string().contains("the blocks of the launch have executed more than 3000000 instructions"),
            "{fault}"
        );
        // Each block alone is within it: 500 of 30 thousand instructions are not, 20 are.
        let count = module.kernel("count").unwrap();
        let n = 10_000u32.to_le_bytes();
        let fault = vm.launch(&count, &shape(500, 32), &n).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Budget, "{fault}");
        vm.launch(&count, &shape(20, 32), &n).unwrap();
        vm.launch(&count, &shape(20, 32), &n).unwrap();
    }
    // A block's own budget goes before, and names the block.
    let config = VmConfig { instruction_budget: Some(100_000), launch_budget: Some(1 << 40), ..VmConfig::default() };
    let fault = Vm::new(config).launch(&module.kernel("spin").unwrap(), &shape(4, 32), &[]).unwrap_err();
    assert!(fault.to_string().contains("the block has executed more than 100000 instructions"), "{fault}");
    assert_eq!(fault.block, Some([0, 0, 0]));
}

#[test]
fn absurd_shapes_are_refused() {
    let kernel = Module::parse("k.ptx", &spin()).unwrap().kernel("quick").unwrap();
    let vm = Vm::new(VmConfig { threads: 1, ..VmConfig::default() });
    // The products of some of these are 0 in 64 bits.
    for block in [[u32::MAX; 3], [1 << 31, 1 << 31, 4], [1 << 16, 1 << 16, 1 << 31], [2048, 1, 1], [0, 1, 1]] {
        let launch = Launch::new([1, 1, 1], block);
        assert_eq!(vm.launch(&kernel, &launch, &[]).unwrap_err().kind, FaultKind::Launch, "{block:?}");
    }
    for grid in [[u32::MAX; 3], [1 << 31, 1, 1], [1, 65536, 1], [1, 1, 65536], [0, 1, 1]] {
        let launch = Launch::new(grid, [1, 1, 1]);
        assert_eq!(vm.launch(&kernel, &launch, &[]).unwrap_err().kind, FaultKind::Launch, "{grid:?}");
    }
    let launch = Launch::new([1, 1, 1], [1, 1, 1]).dynamic_shared(u32::MAX);
    assert_eq!(vm.launch(&kernel, &launch, &[]).unwrap_err().kind, FaultKind::Launch);
}

#[test]
fn nobody_starts_more_threads_than_help() {
    let vm = Vm::new(VmConfig { threads: usize::MAX, ..VmConfig::default() });
    let module = Module::parse("k.ptx", &spin()).unwrap();
    vm.launch(&module.kernel("count").unwrap(), &shape(50, 64), &100u32.to_le_bytes()).unwrap();
}

#[test]
fn deep_initial_values_are_an_error() {
    for (depth, fits) in [(3, true), (32, true), (33, false), (100_000, false)] {
        let text = format!(
            "{HEAD}.global .u32 x[4] = {}7{};\n.visible .entry k() {{ ret; }}",
            "{".repeat(depth),
            "}".repeat(depth)
        );
        match Module::parse("k.ptx", &text) {
            Ok(module) => {
                assert!(fits, "{depth}");
                let vm = Vm::new(VmConfig::default());
                let x = module.variable("x").unwrap();
                vm.map(&x).unwrap();
                let mut first = [0; 4];
                vm.read(x.ptr(), &mut first).unwrap();
                assert_eq!(first, [7, 0, 0, 0]);
            }
            Err(error) => {
                assert!(!fits, "{error}");
                assert_eq!((error.kind, error.line), (LoadErrorKind::Syntax, 4));
                assert!(error.message.contains("nested too deeply"), "{error}");
            }
        }
    }
    // Inside a function as well.
    let text = format!("{HEAD}.visible .entry k() {{ .shared .u32 x = {}7; ret; }}", "{".repeat(100_000));
    let text = text + &"}".repeat(100_000);
    assert!(Module::parse("k.ptx", &text).and_then(|m| m.kernel("k")).is_err());
}

#[test]
fn other_deep_nesting_is_an_error_too() {
    for (open, close) in [("{", "}"), ("(", ")"), ("p|", ""), ("+", ""), ("-", "")] {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let text = format!("{HEAD}.visible .entry k() {{ mov.u32 x, {nested}; ret; }}");
        let error = Module::parse("k.ptx", &text).unwrap().kernel("k").err().unwrap();
        assert_eq!(error.kind, LoadErrorKind::Syntax, "{error}");
    }
    let text = format!("{HEAD}.visible .entry k() {{ {} {} ret; }}", "{".repeat(100_000), "}".repeat(100_000));
    let error = Module::parse("k.ptx", &text).unwrap().kernel("k").err().unwrap();
    assert!(error.message.contains("scopes nested too deeply"), "{error}");
    // They can be printed all the same.
    let printed = Module::parse("k.ptx", &text).unwrap().to_ptx().unwrap();
    assert!(printed.len() < 100_000_000 && printed.matches('{').count() == 100_001);
}

/// Functions that call the next one, each once, and add 1; the last gives 0.
fn chain(n: usize) -> String {
    let mut text = HEAD.to_owned();
    for i in (0..n).rev() {
        let _ = write!(text, ".func (.reg .u32 %out) f{i}() {{ ");
        text += &match i + 1 < n {
            true => format!("call (%out), f{}; add.u32 %out, %out, 1; ret; }}\n", i + 1),
            false => "mov.u32 %out, 0; ret; }\n".to_owned(),
        };
    }
    text + ".visible .entry k(.param .u64 to) { .reg .b64 %rd<2>; .reg .u32 %r;
        ld.param.u64 %rd1, [to]; call (%r), f0; st.global.u32 [%rd1], %r; ret; }"
}

#[test]
fn chains_of_calls_have_any_length_up_to_a_limit() {
    for n in [1, 31, 32, 33, 100, 1000] {
        let kernel = Module::parse("k.ptx", &chain(n)).unwrap().kernel("k").unwrap_or_else(|e| panic!("{n}: {e}"));
        let vm = Vm::new(VmConfig { stack_bytes: Some(1 << 20), ..VmConfig::default() });
        let to = vm.alloc(4).unwrap();
        vm.launch(&kernel, &shape(1, 1), &to.to_le_bytes()).unwrap();
        let mut out = [0; 4];
        vm.read(to, &mut out).unwrap();
        assert_eq!(u32::from_le_bytes(out), n as u32 - 1);
    }
    let error = Module::parse("k.ptx", &chain(20_000)).unwrap().kernel("k").err().unwrap();
    assert!(error.message.contains("reaches more than 10000 functions"), "{error}");
}

#[test]
fn absurd_sizes_are_errors() {
    for (what, told) in [
        (".visible .entry k(.param .align 1099511627776 .b8 a[4], .param .u32 b) { ret; }", "size out of range"),
        (
            ".visible .entry k(.param .align 549755813888 .b8 a[4], .param .align 549755813888 .b8 b[4]) { ret; }",
            "parameters take more than 32764",
        ),
        (".visible .entry k(.param .align 8 .b8 a[40000]) { ret; }", "the parameters take more than 32764 bytes"),
        (".global .b8 a[3000000000]; .global .b8 b[3000000000]; .visible .entry k() { ret; }", "take more than 4 GiB"),
        (".visible .entry k() { .local .b8 a[600000]; ret; }", "variable too large"),
        (".global .u8 a[3] = {1, 2, 3, 4}; .visible .entry k() { ret; }", "4 initial values for 3 elements"),
        (".global .v2 .u8 a[2] = {{1, 2}, {3, 4}, 5}; .visible .entry k() { ret; }", "5 initial values for 4 elements"),
        (".visible .entry k() { .reg .b32 %r<99999999>; ret; }", "too many registers"),
    ] {
        let error = Module::parse("k.ptx", &(HEAD.to_owned() + what)).and_then(|m| m.kernel("k")).err().unwrap();
        assert!(error.message.contains(told), "{error}");
    }
    // A stack no machine has.
    let text = HEAD.to_owned() + ".func f() { call f; ret; } .visible .entry k() { call f; ret; }";
    let kernel = Module::parse("k.ptx", &text).unwrap().kernel("k").unwrap();
    for stack in [usize::MAX, 1 << 40] {
        let vm = Vm::new(VmConfig { stack_bytes: Some(stack), ..VmConfig::default() });
        assert_eq!(vm.launch(&kernel, &shape(1, 1), &[]).unwrap_err().kind, FaultKind::Launch);
    }
}

#[test]
fn printf_takes_any_width_and_precision() {
    // "%*.*f|%*d\n" with numbers no terminal is wide enough for.
    let format: Vec<String> = b"%*.*f|%*d\n\0".iter().map(u8::to_string).collect();
    let text = format!(
        "{HEAD}.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 v);
        .global .align 1 .b8 text[11] = {{{}}};
        .visible .entry k() {{
        .reg .b64 %rd<9>; .local .align 8 .b8 frame[24];
        mov.u64 %rd2, frame; cvta.local.u64 %rd3, %rd2;
        st.local.u32 [%rd2], 2147483647; st.local.u32 [%rd2+4], 2147483647; st.local.f64 [%rd2+8], 0d3FF8000000000000;
        st.local.u32 [%rd2+16], -2147483648; st.local.u32 [%rd2+20], 7;
        mov.u64 %rd4, text; cvta.global.u64 %rd4, %rd4;
        {{ .param .b64 f; .param .b64 v; .param .b32 r; st.param.b64 [f], %rd4; st.param.b64 [v], %rd3;
           call.uni (r), vprintf, (f, v); }}
        ret; }}",
        format.join(", ")
    );
    let kernel = Module::parse("k.ptx", &text).unwrap().kernel("k").unwrap();
    let vm = Vm::new(VmConfig::default());
    vm.launch(&kernel, &shape(1, 1), &[]).unwrap();
    let printed = vm.take_printed();
    let (float, whole) = printed.split_once('|').unwrap();
    assert!(float.trim_start().starts_with("1.5000") && float.len() <= 5000, "{}", float.len());
    assert!(whole.starts_with("7 ") && whole.len() <= 5000, "{}", whole.len());
}
