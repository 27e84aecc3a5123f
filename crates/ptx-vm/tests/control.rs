//! Control flow, barriers, calls, memory spaces: small kernels with literal results.

use ptx_vm::{Fault, FaultKind, Launch, MemoryError, Module, Vm, VmConfig};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Runs entry `k` with one pointer to `n` words (initially 0xffffffff) and gives the words back.
fn run_on(vm: &Vm, body: &str, block: u32, n: usize) -> Result<Vec<u32>, Fault> {
    let module = Module::parse("test.ptx", &format!("{HEAD}{body}")).unwrap_or_else(|e| panic!("{e}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let out = vm.alloc(n * 4).unwrap();
    vm.fill(out, 0xff, n * 4).unwrap();
    let launch = Launch::new([1, 1, 1], [block, 1, 1]);
    let result = vm.launch(&kernel, &launch, &out.to_le_bytes());
    let mut bytes = vec![0; n * 4];
    let read = vm.read(out, &mut bytes);
    vm.free(out).unwrap();
    result
        .and_then(|stats| match read {
            Ok(()) => Ok(stats),
            Err(MemoryError::Undefined { cause: Some(fault), .. }) => Err(*fault),
            Err(error) => panic!("{error}"),
        })
        .map(|_| bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

fn run(body: &str, block: u32, n: usize) -> Vec<u32> {
    let plain = run_on(&Vm::new(VmConfig::default()), body, block, n).unwrap_or_else(|e| panic!("{e}"));
    let checked = Vm::new(VmConfig { checked: true, counters: true, ..VmConfig::default() });
    let observed = run_on(&checked, body, block, n).unwrap_or_else(|e| panic!("checked: {e}"));
    assert_eq!(plain, observed, "the observed run differs");
    plain
}

fn checked_fault(body: &str, block: u32, n: usize) -> Fault {
    let vm = Vm::new(VmConfig { checked: true, instruction_budget: Some(2_000_000), ..VmConfig::default() });
    match run_on(&vm, body, block, n) {
        Err(fault) => fault,
        Ok(_) => panic!("no fault"),
    }
}

fn checked_clean(body: &str, block: u32, n: usize) {
    let vm = Vm::new(VmConfig { checked: true, instruction_budget: Some(2_000_000), ..VmConfig::default() });
    run_on(&vm, body, block, n).unwrap_or_else(|e| panic!("{e}"));
}

/// `out[tid] = r`, with `%rd1` the address of the thread's word and `%r0` the thread.
fn kernel(body: &str) -> String {
    format!(
        ".visible .entry k(.param .u64 out) {{
          .reg .pred %p<20>; .reg .b16 %h<20>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %d<9>;
          .shared .align 16 .b8 tile[4096];
          ld.param.u64 %rd0, [out];
          mov.u32 %r0, %tid.x;
          mul.wide.u32 %rd1, %r0, 4;
          add.s64 %rd1, %rd0, %rd1;
          {body}
          st.global.u32 [%rd1], %r1;
          ret;
        }}"
    )
}

#[test]
fn divergent_if_else_meets_again() {
    let body = kernel(
        "and.b32 %r2, %r0, 1;
         setp.eq.u32 %p1, %r2, 0;
         @%p1 bra EVEN;
         mul.lo.u32 %r1, %r0, 100;
         bra JOIN;
       EVEN:
         add.u32 %r1, %r0, 7;
       JOIN:
         activemask.b32 %r3;
         xor.b32 %r1, %r1, %r3;",
    );
    let out = run(&body, 32, 32);
    for i in 0..32u32 {
        assert_eq!(out[i as usize], !(if i % 2 == 0 { i + 7 } else { i * 100 }));
    }
}

#[test]
fn divergent_loops_count_per_lane() {
    let body = kernel(
        "mov.u32 %r1, 0; mov.u32 %r2, 0;
       LOOP:
         setp.ge.u32 %p1, %r2, %r0;
         @%p1 bra DONE;
         add.u32 %r1, %r1, %r2;
         add.u32 %r2, %r2, 1;
         bra.uni LOOP;
       DONE:
         vote.sync.ballot.b32 %r4, 1, -1;
         add.u32 %r1, %r1, 0;
         setp.ne.u32 %p2, %r4, -1;
         @%p2 mov.u32 %r1, 12345;",
    );
    // `vote` with a literal predicate checks that all lanes have come together again.
    let out = run(&body, 32, 32);
    for i in 0..32u32 {
        assert_eq!(out[i as usize], i * i.saturating_sub(1) / 2);
    }
}

#[test]
fn nested_divergence_and_early_return() {
    let body = kernel(
        "mov.u32 %r1, 1;
         setp.gt.u32 %p1, %r0, 40;
         @%p1 ret;
         setp.lt.u32 %p2, %r0, 20;
         @%p2 bra A;
         bra B;
       A:
         setp.lt.u32 %p3, %r0, 5;
         @%p3 ret;
         mov.u32 %r1, 2;
       B:
         bar.sync 0;
         add.u32 %r1, %r1, 10;",
    );
    let out = run(&body, 64, 64);
    for i in 0..64 {
        let want = match i {
            0..5 | 41..64 => u32::MAX,
            5..20 => 12,
            _ => 11,
        };
        assert_eq!(out[i], want, "{i}");
    }
}

#[test]
fn diverged_lanes_keep_registers_of_another_width() {
    // The lanes that take the branch wait, with `%rd2` and `%h1` live, while the others run through code behind the last place where
    // one thread could need them. Registers of another lane width put there into the same slots would overwrite the waiting lanes.
    let body = kernel(
        "bra.uni START;
       SIDE:
         cvt.u32.u64 %r1, %rd2;
         shr.u64 %rd3, %rd2, 32; cvt.u32.u64 %r2, %rd3;
         cvt.u32.u16 %r3, %h1;
         add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3;
         bra.uni END;
       START:
         mul.wide.u32 %rd2, %r0, 0x10003;
         shl.b64 %rd4, %rd2, 33; or.b64 %rd2, %rd2, %rd4;
         cvt.u16.u32 %h1, %r0;
         and.b32 %r4, %r0, 1; setp.eq.u32 %p1, %r4, 0;
         @%p1 bra SIDE;
         mul.lo.u32 %r10, %r0, 3; mul.lo.u32 %r11, %r0, 5; mul.lo.u32 %r12, %r0, 7; mul.lo.u32 %r13, %r0, 11;
         xor.b32 %r14, %r10, %r11; xor.b32 %r15, %r12, %r13; mad.lo.u32 %r16, %r10, %r11, %r12;
         mad.lo.u32 %r17, %r12, %r13, %r10; add.u32 %r18, %r14, %r15; add.u32 %r19, %r16, %r17;
         mul.wide.u32 %rd5, %r18, 9; mul.wide.u32 %rd6, %r19, 9; add.u64 %rd7, %rd5, %rd6; cvt.u32.u64 %r1, %rd7;
       END:",
    );
    let out = run(&body, 32, 32);
    for i in 0..32u32 {
        let m = |n: u32| i.wrapping_mul(n);
        let want = if i % 2 == 0 {
            let wide = u64::from(i) * 0x10003;
            let both = wide | wide << 33;
            (both as u32).wrapping_add((both >> 32) as u32).wrapping_add(i)
        } else {
            let sum = (m(3) ^ m(5)).wrapping_add(m(7) ^ m(11));
            let mad =
                m(3).wrapping_mul(m(5)).wrapping_add(m(7)).wrapping_add(m(7).wrapping_mul(m(11)).wrapping_add(m(3)));
            (u64::from(sum) * 9 + u64::from(mad) * 9) as u32
        };
        assert_eq!(out[i as usize], want, "{i}");
    }
}

#[test]
fn switch_by_branch_table() {
    let body = kernel(
        "and.b32 %r2, %r0, 3;
         TABLE: .branchtargets L0, L1, L2, L3;
         brx.idx %r2, TABLE;
       L0: mov.u32 %r1, 10; bra END;
       L1: mov.u32 %r1, 11; bra END;
       L2: mov.u32 %r1, 12; bra END;
       L3: mov.u32 %r1, 13;
       END:",
    );
    assert_eq!(run(&body, 8, 8), [10, 11, 12, 13, 10, 11, 12, 13]);
}

#[test]
fn calls_of_device_functions() {
    let body = format!(
        ".func (.param .b32 result) twice(.param .b32 x, .param .b32 y) {{
           .reg .b32 %r<5>; .reg .pred %p<2>;
           ld.param.u32 %r1, [x]; ld.param.u32 %r2, [y];
           setp.gt.u32 %p1, %r1, 3;
           @%p1 bra BIG;
           add.u32 %r3, %r1, %r2;
           st.param.b32 [result], %r3;
           ret;
         BIG:
           mad.lo.u32 %r3, %r1, %r2, 1000;
           st.param.b32 [result], %r3;
           ret;
         }}\n{}",
        kernel(
            "{ .param .b32 a; .param .b32 b; .param .b32 r;
               st.param.b32 [a], %r0; st.param.b32 [b], 5;
               call.uni (r), twice, (a, b);
               ld.param.b32 %r1, [r]; }
             { .param .b32 a; .param .b32 b; .param .b32 r;
               st.param.b32 [a], %r1; st.param.b32 [b], 1;
               call.uni (r), twice, (a, b);
               ld.param.b32 %r1, [r]; }"
        )
    );
    let twice = |x: u32, y: u32| if x > 3 { x * y + 1000 } else { x + y };
    let out = run(&body, 32, 32);
    for i in 0..32 {
        assert_eq!(out[i as usize], twice(twice(i, 5), 1));
    }
}

#[test]
fn local_memory_is_private_and_generic() {
    let body = kernel(
        ".local .align 8 .b8 depot[64];
         mov.u64 %rd2, depot;
         cvta.local.u64 %rd3, %rd2;
         st.local.u32 [%rd2+8], %r0;
         and.b32 %r2, %r0, 7; mul.wide.u32 %rd4, %r2, 4; add.s64 %rd5, %rd3, %rd4;
         mul.lo.u32 %r3, %r0, 3;
         st.u32 [%rd5+16], %r3;
         ld.u32 %r4, [%rd3+8];
         add.s64 %rd6, %rd2, %rd4;
         ld.local.u32 %r5, [%rd6+16];
         add.u32 %r1, %r4, %r5;",
    );
    let out = run(&body, 64, 64);
    for i in 0..64 {
        assert_eq!(out[i as usize], i * 4);
    }
}

#[test]
fn shared_memory_reverses_a_block() {
    let body = kernel(
        "mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3;
         st.shared.u32 [%r4], %r0;
         bar.sync 0;
         sub.u32 %r5, 127, %r0; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r2;
         ld.shared.u32 %r1, [%r5];",
    );
    let out = run(&body, 128, 128);
    assert!(out.iter().enumerate().all(|(i, v)| *v == 127 - i as u32));
}

#[test]
fn barrier_reductions_and_named_barriers() {
    let body = kernel(
        "setp.lt.u32 %p1, %r0, 50;
         bar.red.popc.u32 %r1, 0, %p1;
         bar.red.and.pred %p2, 0, %p1;
         bar.red.or.pred %p3, 0, %p1;
         @%p2 add.u32 %r1, %r1, 1000;
         @%p3 add.u32 %r1, %r1, 100;
         bar.sync 1, 96;",
    );
    assert_eq!(run(&body, 96, 96), vec![150; 96]);
}

#[test]
fn atomics_in_shared_and_global_memory() {
    let body = kernel(
        "mov.u32 %r2, tile;
         setp.eq.u32 %p1, %r0, 0;
         @%p1 st.shared.u32 [%r2], 0;
         bar.sync 0;
         atom.shared.add.u32 %r3, [%r2], 2;
         red.shared.max.u32 [%r2], 1;
         bar.sync 0;
         ld.shared.u32 %r1, [%r2];
         atom.global.cas.b32 %r5, [%rd1], -1, 77;
         add.u32 %r1, %r1, %r5;
         atom.global.exch.b32 %r6, [%rd1], 5;
         add.u32 %r1, %r1, %r6;",
    );
    assert_eq!(run(&body, 64, 64), vec![128 - 1 + 77; 64]);
}

#[test]
fn module_variables_and_constants() {
    let body = format!(
        ".const .align 4 .u32 table[4] = {{5, 6, 7, 0x10}};
         .global .align 8 .u64 pointer = generic(table);
         {}",
        kernel(
            "and.b32 %r2, %r0, 3; mul.wide.u32 %rd2, %r2, 4;
             mov.u64 %rd3, table; add.s64 %rd4, %rd3, %rd2;
             ld.const.u32 %r1, [%rd4];
             ld.global.u64 %rd5, [pointer];
             add.s64 %rd5, %rd5, %rd2;
             ld.u32 %r3, [%rd5];
             mad.lo.u32 %r1, %r3, 100, %r1;"
        )
    );
    assert_eq!(run(&body, 4, 4), [505, 606, 707, 1616]);
}

#[test]
fn spinning_warps_let_others_run() {
    // Warp 1 waits for a flag that warp 0 can set only after a while.
    let body = kernel(
        "mov.u32 %r2, tile; mov.u32 %r1, 3;
         setp.eq.u32 %p1, %r0, 0;
         @%p1 st.shared.u32 [%r2], 0;
         bar.sync 0;
         setp.lt.u32 %p2, %r0, 32;
         @!%p2 bra SET;
       WAIT:
         ld.volatile.shared.u32 %r3, [%r2];
         setp.eq.u32 %p3, %r3, 0;
         @%p3 bra WAIT;
         bra END;
       SET:
         atom.shared.exch.b32 %r4, [%r2], 1;
       END:",
    );
    let out = run_on(&Vm::new(VmConfig::default()), &body, 64, 64).unwrap();
    assert_eq!(out, vec![3; 64]);
}

#[test]
fn partial_blocks_and_predicated_stores() {
    let body = kernel("mov.u32 %r1, 9; setp.lt.u32 %p1, %r0, 10; @%p1 mov.u32 %r1, 4;");
    let out = run(&body, 45, 64);
    assert!(
        out[..10].iter().all(|v| *v == 4) && out[10..45].iter().all(|v| *v == 9) && out[45..].iter().all(|v| *v == !0)
    );
}

// ---- planted faults and their repaired twins ------------------------------------------------------------------------

#[test]
fn out_of_bounds_names_thread_and_distance() {
    let body = |offset: u32| kernel(&format!("ld.global.u32 %r1, [%rd1+{offset}];"));
    let fault = checked_fault(&body(8), 32, 32);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert_eq!((fault.thread, fault.block), (Some([30, 0, 0]), Some([0, 0, 0])));
    assert!(fault.line > 0 && fault.message.contains("past the end"), "{fault}");
    checked_clean(&body(0), 32, 32);
}

#[test]
fn misaligned() {
    let fault = checked_fault(&kernel("ld.global.u32 %r1, [%rd0+2];"), 32, 32);
    assert_eq!(fault.kind, FaultKind::Misaligned);
}

#[test]
fn shared_out_of_bounds() {
    let fault = checked_fault(&kernel("mov.u32 %r2, tile; mov.u32 %r1, 0; st.shared.u32 [%r2+4096], %r1;"), 32, 32);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert!(fault.message.contains("shared memory"), "{fault}");
}

#[test]
fn uninitialised_shared_and_local() {
    let body = |store: &str| {
        kernel(&format!(
            "mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r2, %r2, %r3; {store} ld.shared.u32 %r1, [%r2];"
        ))
    };
    assert_eq!(checked_fault(&body(""), 32, 32).kind, FaultKind::Uninitialised);
    checked_clean(&body("st.shared.u32 [%r2], %r0;"), 32, 32);
    let body = |store: &str| {
        kernel(&format!(".local .b32 spill[2]; mov.u64 %rd2, spill; {store} ld.local.u32 %r1, [%rd2+4];"))
    };
    assert_eq!(checked_fault(&body(""), 32, 32).kind, FaultKind::Uninitialised);
    checked_clean(&body("st.local.u32 [%rd2+4], %r0;"), 32, 32);
}

#[test]
fn races_between_warps() {
    let body = |bar: &str| {
        kernel(&format!(
            "mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3;
             st.shared.u32 [%r4], %r0;
             {bar}
             xor.b32 %r5, %r3, 128; add.u32 %r5, %r5, %r2;
             ld.shared.u32 %r1, [%r5];"
        ))
    };
    // Without the barrier warp 0 reads what warp 1 has not written yet.
    assert!(matches!(checked_fault(&body(""), 64, 64).kind, FaultKind::Race | FaultKind::Uninitialised));
    checked_clean(&body("bar.sync 0;"), 64, 64);
}

#[test]
fn races_within_a_warp() {
    let body = |sync: &str| {
        kernel(&format!(
            "mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3;
             st.shared.u32 [%r4], %r0;
             {sync}
             xor.b32 %r5, %r3, 4; add.u32 %r5, %r5, %r2;
             ld.shared.u32 %r1, [%r5];"
        ))
    };
    assert_eq!(checked_fault(&body(""), 32, 32).kind, FaultKind::Race);
    checked_clean(&body("bar.warp.sync -1;"), 32, 32);
}

#[test]
fn cp_async_must_be_waited_for() {
    let body = |wait: &str| {
        kernel(&format!(
            "mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3;
             cp.async.ca.shared.global [%r4], [%rd1], 4;
             cp.async.commit_group;
             {wait}
             ld.shared.u32 %r1, [%r4];"
        ))
    };
    assert_eq!(checked_fault(&body(""), 32, 32).kind, FaultKind::Race);
    assert_eq!(checked_fault(&body("cp.async.wait_group 1;"), 32, 32).kind, FaultKind::Race);
    checked_clean(&body("cp.async.wait_group 0;"), 32, 32);
    checked_clean(&body("cp.async.wait_all;"), 32, 32);
}

#[test]
fn divergent_barrier_and_missing_arrival() {
    let fault =
        checked_fault(&kernel("mov.u32 %r1, 0; setp.lt.u32 %p1, %r0, 7; @%p1 bar.sync 0; @!%p1 bar.sync 0;"), 32, 32);
    assert_eq!(fault.kind, FaultKind::Barrier);
    // One warp waits at a barrier for two, the other has gone to another barrier.
    let fault = checked_fault(
        &kernel("mov.u32 %r1, 0; setp.lt.u32 %p1, %r0, 32; @%p1 bra A; bar.sync 1; bra B; A: bar.sync 2; B:"),
        64,
        64,
    );
    assert_eq!(fault.kind, FaultKind::Barrier);
}

#[test]
fn runaway_kernels_end() {
    let fault = checked_fault(&kernel("mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; bra L;"), 32, 32);
    assert_eq!(fault.kind, FaultKind::Budget);
}

#[test]
fn traps() {
    let fault = checked_fault(&kernel("mov.u32 %r1, 0; setp.eq.u32 %p1, %r0, 3; @%p1 trap;"), 32, 32);
    assert_eq!((fault.kind, fault.thread), (FaultKind::Trap, Some([3, 0, 0])));
}

#[test]
fn unknown_instructions_are_load_errors_with_their_line() {
    let module =
        Module::parse("bad.ptx", &format!("{HEAD}.entry k() {{\n .reg .b32 %r<2>;\n frobnicate.u32 %r1, 4;\n ret; }}"))
            .unwrap();
    let Err(error) = module.kernel("k") else { panic!("loaded") };
    assert_eq!((error.file.as_str(), error.line), ("bad.ptx", 6));
    assert!(error.to_string().contains("frobnicate.u32 %r1, 4"), "{error}");
}

#[test]
fn garbage_never_panics() {
    let good = format!(
        "{HEAD}{}",
        kernel("mov.u32 %r1, 1; @%p1 add.f32 %f1, %f2, 0f3F800000; ld.shared.v4.f32 {%f1,%f2,%f3,%f4}, [%r1+16];")
    );
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for _ in 0..3000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..1 + random(6) {
            if bytes.is_empty() {
                break;
            }
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = b" .,;{}[]()%@!|+-<>:09azAZ_\"/*\n"[random(30)],
                1 => {
                    bytes.remove(at);
                }
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let (from, len) = (random(bytes.len()), random(20));
                    let piece: Vec<u8> = bytes[from..(from + len).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(module) = Module::parse("garbage.ptx", &text) {
            let names: Vec<String> = module.entries().map(str::to_owned).collect();
            for name in names {
                let _ = module.kernel(&name);
            }
        }
    }
}

#[test]
fn launches_no_gpu_would_accept_are_refused() {
    let module = Module::parse("t.ptx", &format!("{HEAD}{}", kernel("mov.u32 %r1, 1;"))).unwrap();
    let kernel = module.kernel("k").unwrap();
    let vm = Vm::new(VmConfig::default());
    let refused = |grid, block, params: &[u8]| {
        let launch = Launch::new(grid, block);
        vm.launch(&kernel, &launch, params).is_err_and(|f| f.kind == FaultKind::Launch)
    };
    assert!(refused([1, 1, 1], [1025, 1, 1], &[0; 8]));
    assert!(refused([0, 1, 1], [32, 1, 1], &[0; 8]));
    assert!(refused([1, 1, 1], [32, 1, 1], &[0; 4]));
}

#[test]
fn addresses_at_the_end_of_the_address_space_are_out_of_bounds() {
    for access in [
        "ld.global.u8 %r1, [%rd2];",
        "ld.u8 %r1, [%rd2];",
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2];",
        "st.global.u32 [%rd2], %r0;",
        "atom.global.add.u32 %r1, [%rd2], 1;",
        "red.add.u32 [%rd2], 1;",
        "mov.u32 %r2, tile; add.u32 %r2, %r2, %r5; cp.async.ca.shared.global [%r2], [%rd2], 16; cp.async.wait_all;",
    ] {
        // The first time the instruction meets its allocation, then addresses whose ends wrap to 0, alone and 32 in a row.
        for last in ["mov.u64 %rd3, -16;", "mov.u64 %rd3, -512; mul.wide.u32 %rd4, %r0, 16; add.s64 %rd3, %rd3, %rd4;"]
        {
            let body = kernel(&format!(
                "shl.b32 %r5, %r0, 4; cvt.u64.u32 %rd2, %r5; add.s64 %rd2, %rd0, %rd2; mov.u32 %r6, 0;
               LOOP:
                 {access}
                 {last}
                 mov.u64 %rd2, %rd3;
                 add.u32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 2; @%p1 bra LOOP;"
            ));
            for checked in [false, true] {
                let vm = Vm::new(VmConfig { checked, ..VmConfig::default() });
                let fault = run_on(&vm, &body, 32, 256).expect_err(access);
                assert_eq!(fault.kind, FaultKind::OutOfBounds, "{access}: {fault}");
            }
        }
    }
}

#[test]
fn memory_calls_are_checked() {
    let vm = Vm::new(VmConfig { memory_limit: Some(1000), ..VmConfig::default() });
    let p = vm.alloc(100).unwrap();
    assert_eq!(p % 256, 0);
    assert!(
        vm.write(p, &[0; 101]).is_err() && vm.write(p + 1, &[0; 100]).is_err() && vm.write(p + 1, &[0; 99]).is_ok()
    );
    assert!(vm.alloc(901).is_err());
    assert_eq!((vm.allocated_bytes(), vm.peak_bytes()), (100, 100));
    vm.free(p).unwrap();
    assert!(vm.free(p).is_err());
    assert!(vm.read(p, &mut [0; 1]).is_err());
}

#[test]
fn kernels_tell_their_limits() {
    let kernel = |directive: &str, frame: &str| {
        let text =
            format!("{HEAD}.visible .entry k() {directive} {{ .reg .b32 %r<2>;\n{frame}\nmov.u32 %r1, 1;\nret;\n}}");
        Module::parse("t.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"))
    };
    let limits = |kernel: &ptx_vm::Kernel| (kernel.max_threads(), kernel.required_block(), kernel.local_bytes());
    assert_eq!(limits(&kernel(".maxntid 32, 4, 1", ".local .align 8 .b8 frame[24];")), (Some(128), None, 24));
    assert_eq!(limits(&kernel(".reqntid 32", "")), (None, Some([32, 1, 1]), 0));
}

#[test]
fn decode_all_names_every_kernel_that_cannot_be_decoded() {
    let entry = |name: &str, body: &str| format!(".visible .entry {name}() {{ .reg .b32 %r<4>;\n{body}\nret; }}\n");
    let text = [
        HEAD.to_owned(),
        entry("a", "mov.u32 %r1, 1;"),
        entry("b", "frobnicate.u32 %r1, 1;"),
        entry("c", "mov.u32 %r1, 2;"),
        entry("d", "mov.u32 %r1, undeclared;"),
    ];
    let module = Module::parse("t.ptx", &text.concat()).unwrap();
    let failed: Vec<(&str, u32)> = module.decode_all().into_iter().map(|(entry, error)| (entry, error.line)).collect();
    assert_eq!(failed, [("b", 8), ("d", 14)]);
    assert!(module.kernel("a").is_ok() && module.kernel("c").is_ok() && module.kernel("d").is_err());
}

#[test]
fn elements_of_arrays_are_addresses() {
    let body = kernel(
        ".shared .align 16 .b32 words[8]; .local .align 16 .v4 .b32 quads[2];
         mov.u64 %rd2, words; mov.u64 %rd3, words[0]; mov.u64 %rd4, words[3]; mov.u64 %rd5, quads; mov.u64 %rd6, quads[1];
         sub.s64 %rd3, %rd3, %rd2; sub.s64 %rd4, %rd4, %rd2; sub.s64 %rd6, %rd6, %rd5;
         mov.u64 %rd7, table; mov.u64 %rd8, table[2]; sub.s64 %rd8, %rd8, %rd7;
         cvt.u32.u64 %r2, %rd3; cvt.u32.u64 %r3, %rd4; cvt.u32.u64 %r4, %rd6; cvt.u32.u64 %r5, %rd8;
         mad.lo.u32 %r1, %r2, 1000, %r3; mad.lo.u32 %r1, %r1, 100, %r4; mad.lo.u32 %r1, %r1, 100, %r5;",
    );
    assert_eq!(run(&format!(".global .b16 table[4];\n{body}"), 1, 1), [12_16_04]);
}

#[test]
fn integers_have_suffixes_and_bases() {
    assert_eq!(
        run(
            &kernel(
                "mov.b32 %r1, 0U; add.u32 %r1, %r1, 017U; add.u32 %r1, %r1, 0x10U; add.u32 %r1, %r1, 0b11U; add.u32 %r1, %r1, 5U;"
            ),
            1,
            1
        ),
        [39]
    );
}
