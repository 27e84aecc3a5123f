//! `mbarrier`, bulk copies and bulk reductions: small kernels with literal results, misuse, deadlocks, and what is a load error.

use ptx_vm::{Fault, FaultKind, Launch, Module, Vm, VmConfig};

/// Runs `body` with one block and gives the words of `out` back. `%r0` is the thread, `%r1` its result, `%rd1` the buffer, `%rd0` where the
/// thread's result goes; `mbar` and `tile` are in shared memory.
fn run(body: &str, threads: u32, input: &[u32]) -> Result<Vec<u32>, Fault> {
    let text = source(body);
    let kernel = Module::parse("test.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(1 << 24), ..VmConfig::default() });
    let words = input.len().max(threads as usize);
    let data = vm.alloc(words * 4).unwrap();
    vm.fill(data, 0, words * 4).unwrap();
    vm.write(data, &input.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    vm.launch(&kernel, &Launch::new([1, 1, 1], [threads, 1, 1]), &data.to_le_bytes())?;
    let mut out = vec![0; words * 4];
    vm.read(data, &mut out).unwrap();
    Ok(out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

fn source(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 data) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
          .shared .align 8 .b64 mbar;
          .shared .align 16 .b8 tile[256];
          ld.param.u64 %rd1, [data];
          mov.u32 %r0, %tid.x;
          mul.wide.u32 %rd0, %r0, 4;
          add.s64 %rd0, %rd0, %rd1;
          {body}
          st.global.u32 [%rd0], %r1;
          ret;
        }}"
    )
}

/// Thread 0 makes `mbar` a barrier of `count` arrivals.
fn init(count: u32) -> String {
    format!("setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared::cta.b64 [mbar], {count}; bar.sync 0;")
}

#[test]
fn states_count_what_is_pending_and_phases_alternate() {
    // One thread: arrivals of 1, 2 (not completing) and 1 of 4; the phase completes with the last.
    let body = init(4)
        + "mbarrier.arrive.shared.b64 %rd2, [mbar];
           mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %rd3, [mbar], 2;
           mbarrier.test_wait.shared.b64 %p1, [mbar], %rd3;
           mbarrier.test_wait.parity.shared.b64 %p2, [mbar], 1;
           mbarrier.arrive.release.cta.shared::cta.b64 _, [mbar];
           mbarrier.test_wait.acquire.cta.shared::cta.b64 %p3, [mbar], %rd3;
           mbarrier.try_wait.parity.shared::cta.b64 %p4, [mbar], 0, 1000;
           mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 %p5, [mbar], 1;
           mbarrier.pending_count.b64 %r2, %rd2;
           mbarrier.pending_count.b64 %r3, %rd3;
           selp.u32 %r1, 1, 0, %p1; selp.u32 %r4, 2, 0, %p2; selp.u32 %r5, 4, 0, %p3; selp.u32 %r6, 8, 0, %p4; selp.u32 %r7, 16, 0, %p5;
           add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r6; add.u32 %r1, %r1, %r7;
           shl.b32 %r2, %r2, 8; shl.b32 %r3, %r3, 16; or.b32 %r1, %r1, %r2; or.b32 %r1, %r1, %r3;
           mbarrier.inval.shared::cta.b64 [mbar];";
    let flags = 2 + 4 + 8;
    assert_eq!(run(&body, 1, &[]).unwrap(), [flags | 4 << 8 | 3 << 16]);
}

#[test]
fn bytes_hold_a_phase_back_whichever_comes_first() {
    // complete_tx before expect_tx makes the count negative for a while.
    for (first, second) in [("expect_tx", "complete_tx"), ("complete_tx", "expect_tx")] {
        let body = init(1)
            + &format!(
                "mbarrier.{first}.relaxed.cta.shared::cta.b64 [mbar], 48;
                 mbarrier.arrive.shared::cta.b64 _, [mbar];
                 mbarrier.test_wait.parity.shared::cta.b64 %p1, [mbar], 0;
                 mbarrier.{second}.relaxed.cta.shared::cta.b64 [mbar], 48;
                 mbarrier.test_wait.parity.shared::cta.b64 %p2, [mbar], 0;
                 selp.u32 %r1, 1, 0, %p1; selp.u32 %r2, 2, 0, %p2; add.u32 %r1, %r1, %r2;"
            );
        assert_eq!(run(&body, 1, &[]).unwrap(), [2], "{first} first");
    }
}

#[test]
fn arrive_drop_shrinks_the_phases_to_come() {
    let body = init(2)
        + "mov.u32 %r1, 0;
           setp.eq.u32 %p1, %r0, 32;
           @%p1 mbarrier.arrive_drop.shared::cta.b64 %rd2, [mbar];
           @%p1 exit;
           setp.eq.u32 %p1, %r0, 0;
           @!%p1 exit;
           mov.u32 %r2, 0;
         LOOP:
           mbarrier.arrive.shared::cta.b64 %rd2, [mbar];
         WAIT:
           mbarrier.try_wait.shared::cta.b64 %p2, [mbar], %rd2;
           @!%p2 bra WAIT;
           add.u32 %r2, %r2, 1;
           setp.lt.u32 %p3, %r2, 5;
           @%p3 bra LOOP;
           mov.u32 %r1, %r2;";
    assert_eq!(run(&body, 64, &[]).unwrap()[0], 5);
}

#[test]
fn warps_wait_for_each_other_and_lanes_for_their_own_barrier() {
    // Warp 0 waits for warp 1, which comes 1000 instructions later; lanes of a warp may wait for different phases.
    let body = init(32)
        + "setp.lt.u32 %p1, %r0, 32;
           @%p1 bra WAIT;
           mov.u32 %r2, 0;
         SPIN:
           add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 1000; @%p2 bra SPIN;
           st.shared.u32 [tile], %r2;
           mbarrier.arrive.shared::cta.b64 _, [mbar];
           mov.u32 %r1, 7;
           bra DONE;
         WAIT:
           and.b32 %r3, %r0, 1;
           mbarrier.try_wait.parity.shared::cta.b64 %p3, [mbar], %r3;
           @!%p3 bra WAIT;
           ld.shared.u32 %r1, [tile];
         DONE:";
    let out = run(&body, 64, &[]).unwrap();
    assert!((0..32).all(|i| out[i] == 1000 || i % 2 == 1) && out[32..].iter().all(|w| *w == 7), "{out:?}");
}

#[test]
fn bulk_copies_count_their_bytes() {
    let body = init(1)
        + "@!%p0 bra WAIT;
           mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [mbar], 96;
           mov.u32 %r2, tile; mov.u32 %r3, mbar;
           cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 64, [%r3];
           cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2 + 64], [%rd1 + 16], 32, [mbar];
         WAIT:
           mbarrier.try_wait.parity.shared::cta.b64 %p3, [mbar], 0;
           @!%p3 bra WAIT;
           mov.u32 %r4, tile; mad.lo.u32 %r4, %r0, 4, %r4;
           ld.shared.u32 %r1, [%r4 + 32];";
    let input: Vec<u32> = (100..132).collect();
    let out = run(&body, 16, &input).unwrap();
    // Words 8.. of the tile: the second half of the first copy, then the second copy, which began at word 4.
    assert_eq!(out[..8], [108, 109, 110, 111, 112, 113, 114, 115]);
    assert_eq!(out[8..16], [104, 105, 106, 107, 108, 109, 110, 111]);
}

#[test]
fn bulk_reductions_use_every_type_and_operation() {
    let reduce = |op: &str, ty: &str, mine: [u32; 4], there: [u32; 4]| {
        let body = format!(
            "mov.u32 %r1, {};
             st.shared.v4.u32 [tile], {{{}, {}, {}, {}}};
             fence.proxy.async.shared::cta;
             cp.reduce.async.bulk.global.shared::cta.bulk_group.{op}.{ty} [%rd1], [tile], 16;
             cp.async.bulk.commit_group;
             cp.async.bulk.wait_group 0;
             add.s64 %rd0, %rd1, 16;",
            0, mine[0], mine[1], mine[2], mine[3]
        );
        let mut input = there.to_vec();
        input.push(0);
        run(&body, 1, &input).unwrap()[..4].to_vec()
    };
    let all = |v: u32| [v; 4];
    let minus = |v: i32| -> u32 { v.wrapping_neg() as u32 };
    for (op, ty, mine, there, want) in [
        ("add", "u32", all(5), [1, 2, 3, u32::MAX], [6, 7, 8, 4]),
        ("add", "u64", [u32::MAX, 0, 1, 0], [1, 0, 2, 3], [0, 1, 3, 3]),
        ("add", "f32", all(1.5f32.to_bits()), all(2.25f32.to_bits()), all(3.75f32.to_bits())),
        (
            "add",
            "f64",
            [0, 0x3ff0_0000, 0, 0x4000_0000],
            [0, 0x3ff0_0000, 0, 0x3ff0_0000],
            [0, 0x4000_0000, 0, 0x4008_0000],
        ),
        ("add.noftz", "f16", all(0x3c00_3c00), all(0x4000_3c00), all(0x4200_4000)),
        ("add.noftz", "bf16", all(0x3f80_3f80), all(0x4000_3f80), all(0x4040_4000)),
        ("min", "u32", all(5), [1, 9, u32::MAX, 5], [1, 5, 5, 5]),
        ("min", "s32", all(5), [minus(1), 9, minus(7), 5], [minus(1), 5, minus(7), 5]),
        ("max", "s64", [5, 0, 5, 0], [9, u32::MAX, 9, 0], [5, 0, 9, 0]),
        ("max", "f16", all(0x3c00_c000), all(0x4000_3c00), all(0x4000_3c00)),
        ("and", "b32", all(12), [10, 0, 4, 15], [8, 0, 4, 12]),
        ("or", "b64", all(12), [10, 0, 4, 15], [14, 12, 12, 15]),
        ("xor", "b32", all(12), [10, 0, 4, 15], [6, 12, 8, 3]),
        ("inc", "u32", all(5), [4, 5, 6, 0], [5, 0, 0, 1]),
        ("dec", "u32", all(5), [4, 5, 6, 0], [3, 4, 5, 5]),
    ] {
        assert_eq!(reduce(op, ty, mine, there), want, "{op}.{ty}");
    }
}

#[test]
fn a_reduction_into_shared_memory_completes_its_mbarrier() {
    let body = init(1)
        + "mov.u32 %r2, 3;
           st.shared.v4.u32 [tile], {%r2, %r2, %r2, %r2};
           st.shared.v4.u32 [tile + 16], {%r2, %r2, %r2, %r2};
           fence.proxy.async;
           mbarrier.arrive.expect_tx.shared::cta.b64 _, [mbar], 16;
           mov.u32 %r3, tile; mov.u32 %r4, mbar;
           cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r3], [%r3 + 16], 16, [%r4];
         WAIT:
           mbarrier.try_wait.parity.shared::cta.b64 %p3, [mbar], 0;
           @!%p3 bra WAIT;
           ld.shared.u32 %r1, [tile + 12];";
    assert_eq!(run(&body, 1, &[]).unwrap(), [6]);
}

#[test]
fn misuse_ends_the_launch_and_says_how() {
    let wait = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [mbar], 0; @!%p3 bra WAIT;";
    let never = init(33) + "mbarrier.arrive.shared::cta.b64 _, [mbar];\n" + wait;
    let polling = init(33)
        + "mbarrier.arrive.shared::cta.b64 _, [mbar];
           WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p3, [mbar], 0; @%p3 bra DONE; nanosleep.u32 20; bra WAIT; DONE:";
    // Half of the block waits at a barrier the other half cannot reach.
    let mixed = init(1) + "setp.lt.u32 %p1, %r0, 32; @%p1 bra BAR; \n" + wait + " BAR: bar.sync 1;";
    for (body, threads, kind, line, address, parts) in [
        (
            never,
            32,
            FaultKind::Barrier,
            13,
            Some(0),
            &["parity 0", "1 of 33 arrivals and 0 bytes are pending", "all 1 warps"][..],
        ),
        (polling, 32, FaultKind::Barrier, 13, Some(0), &["1 of 33 arrivals"]),
        (mixed, 64, FaultKind::Barrier, 13, Some(0), &["1 of 1 arrivals", "all 2 warps"]),
        (
            init(1) + "mbarrier.arrive.expect_tx.shared::cta.b64 _, [mbar], 16;\n" + wait,
            1,
            FaultKind::Barrier,
            13,
            Some(0),
            &["16 bytes"],
        ),
        (
            init(1) + "mbarrier.inval.shared.b64 [mbar]; mbarrier.arrive.shared.b64 %rd2, [mbar];",
            1,
            FaultKind::Barrier,
            12,
            Some(0),
            &["not been initialised"],
        ),
        (
            init(1) + "mbarrier.arrive.noComplete.shared.b64 %rd2, [mbar], 1;",
            1,
            FaultKind::Barrier,
            12,
            Some(0),
            &["noComplete"],
        ),
        (
            init(2) + "mbarrier.arrive.shared.b64 %rd2, [mbar], 3;",
            1,
            FaultKind::Barrier,
            12,
            Some(0),
            &["3 arrivals, but only 2 of 2"],
        ),
        ("mbarrier.init.shared.b64 [mbar], 0;".to_owned(), 1, FaultKind::Barrier, 12, Some(0), &["not in 1..=2^20-1"]),
        ("mbarrier.init.shared.b64 [mbar + 4], 1;".to_owned(), 1, FaultKind::Misaligned, 12, None, &["multiple of 8"]),
        ("mbarrier.init.b64 [%rd1], 1;".to_owned(), 1, FaultKind::OutOfBounds, 12, None, &["shared memory"]),
        (
            "mbarrier.init.shared.b64 [mbar + 4096], 1;".to_owned(),
            1,
            FaultKind::OutOfBounds,
            12,
            None,
            &["past the end"],
        ),
        (
            "mov.u32 %r5, 24; cp.async.bulk.global.shared::cta.bulk_group [%rd1], [tile], %r5;".to_owned(),
            1,
            FaultKind::Misaligned,
            12,
            None,
            &["multiple of 16"],
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [tile], 32;".to_owned(),
            1,
            FaultKind::OutOfBounds,
            12,
            None,
            &["28 bytes past the end"],
        ),
        // Null is no address, at either end or of the mbarrier.
        (
            "mov.u64 %rd5, 0; cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd5], 16, [mbar];".to_owned(),
            1,
            FaultKind::OutOfBounds,
            12,
            None,
            &["0x0"],
        ),
        (
            "mov.u64 %rd5, 0; cp.async.bulk.global.shared::cta.bulk_group [%rd5], [tile], 16;".to_owned(),
            1,
            FaultKind::OutOfBounds,
            12,
            None,
            &["0x0"],
        ),
    ] {
        let fault = run(&body.replace("bar.sync 0;", "bar.sync 0; "), threads, &[]).expect_err(&body);
        let text = fault.to_string();
        assert_eq!((fault.kind, fault.line), (kind, line), "{body}\n{text}");
        assert!(address.is_none() || fault.address == address, "{text}");
        assert!(fault.block == Some([0, 0, 0]) && fault.thread.is_some(), "{text}");
        assert!(parts.iter().all(|p| text.contains(p)), "{body}\n{text}");
    }
}

#[test]
fn forms_that_do_not_exist_are_load_errors_that_name_them() {
    for (text, part) in [
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%rd1], [tile], 16;", "f16"),
        ("cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd1], [tile], 16, %r1;", ".cp_mask"),
        (
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.multicast::cluster [tile], [%rd1], 16, [mbar], 1;",
            "multicast",
        ),
        (
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b64 [tile], {%rd1, %rd1, %rd1, %rd1}, [mbar];",
            "32 bits",
        ),
        ("red.async.relaxed.cluster.mbarrier::complete_tx::bytes.add.f32 [tile], %r1, [mbar];", "f32"),
        ("barrier.cluster.wait.release;", "release"),
        ("mapa.shared::cta.u32 %r1, %r2, 0;", "shared::cta"),
        ("mbarrier.arrive.noComplete.shared.b64 %rd2, [mbar];", "operands"),
    ] {
        let error = Module::parse("test.ptx", &source(text)).and_then(|m| m.kernel("k")).err().expect(text);
        assert!(error.line == 12 && error.to_string().contains(part), "{error}");
    }
}
