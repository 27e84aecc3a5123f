//! Races in global memory, among the warps of a block and among blocks: what orders them, and what does not.

use ptx_vm::{FaultKind, Launch, Module, Vm, VmConfig};

/// Runs two blocks of 64 threads and gives what was found. `%rd1` is the thread's word in `data`, `%rd2` that of the thread opposite
/// in the other block, `%rd5` the address of `flag`; `%p1` holds in block 0, `%p2` in the first thread of a block.
fn found(body: &str) -> Option<String> {
    let text = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 data, .param .u64 flag) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .b16 %h<4>;
          ld.param.u64 %rd3, [data]; ld.param.u64 %rd5, [flag];
          mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 64, %r0; sub.u32 %r3, 127, %r2;
          mul.wide.u32 %rd1, %r2, 4; add.s64 %rd1, %rd1, %rd3; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd2, %rd3;
          setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r0, 0;
          {body}
          ret; }}"
    );
    let kernel = Module::parse("k.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let config = VmConfig { checked: true, instruction_budget: Some(20_000_000), ..VmConfig::default() };
    let run = |global_races| {
        let vm = Vm::new(VmConfig { global_races, ..config.clone() });
        let (data, flag) = (vm.alloc(512).unwrap(), vm.alloc(64).unwrap());
        vm.fill(data, 0, 512).unwrap();
        vm.fill(flag, 0, 64).unwrap();
        let params = [data, flag].map(u64::to_le_bytes).concat();
        vm.launch(&kernel, &Launch::new([2, 1, 1], [64, 1, 1]), &params).err()
    };
    // Only those who ask are told.
    assert_eq!(run(false), None, "{body}");
    run(true).map(|fault| {
        assert_eq!(fault.kind, FaultKind::Race, "{body}: {fault}");
        fault.to_string()
    })
}

/// Block 0 writes its words and sets the flag, block 1 waits for it and reads them.
fn handed_over(set: &str, wait: &str) -> String {
    format!(
        "@!%p1 bra READ;
         st.global.u32 [%rd1], %r0; bar.sync 0; @!%p2 bra DONE; mov.u32 %r5, 1;
         {set}
         bra DONE;
         READ: @!%p2 bra BEHIND;
         WAIT: {wait} setp.eq.u32 %p3, %r6, 0; @%p3 bra WAIT;
         BEHIND: bar.sync 0; ld.global.u32 %r7, [%rd2];
         DONE:"
    )
}

#[test]
fn flags_order_blocks_when_they_say_so() {
    let after = "fence.acq_rel.gpu;";
    let poll = "ld.relaxed.gpu.global.u32 %r6, [%rd5];";
    for (set, wait) in [
        ("st.release.gpu.global.u32 [%rd5], %r5;", "ld.acquire.gpu.global.u32 %r6, [%rd5];".to_owned()),
        ("membar.gl; st.volatile.global.u32 [%rd5], %r5;", format!("ld.volatile.global.u32 %r6, [%rd5]; {after}")),
        ("fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%rd5], %r5;", format!("{poll} {after}")),
        ("fence.sc.sys; red.relaxed.gpu.global.add.u32 [%rd5], %r5;", format!("{poll} {after}")),
        (
            "atom.release.gpu.global.exch.b32 %r8, [%rd5], %r5;",
            "atom.acquire.gpu.global.or.b32 %r6, [%rd5], 0;".to_owned(),
        ),
        ("st.release.sys.global.u32 [%rd5], %r5;", format!("{poll} {after}")),
    ] {
        assert_eq!(found(&handed_over(set, &wait)), None, "{set} {wait}");
    }
    for (set, wait) in [
        // Nothing, on one side or on both; or for the block alone.
        ("st.volatile.global.u32 [%rd5], %r5;", "ld.volatile.global.u32 %r6, [%rd5];".to_owned()),
        ("membar.gl; st.volatile.global.u32 [%rd5], %r5;", "ld.volatile.global.u32 %r6, [%rd5];".to_owned()),
        ("st.relaxed.gpu.global.u32 [%rd5], %r5;", "ld.acquire.gpu.global.u32 %r6, [%rd5];".to_owned()),
        ("membar.cta; st.volatile.global.u32 [%rd5], %r5;", format!("ld.volatile.global.u32 %r6, [%rd5]; {after}")),
        ("st.release.cta.global.u32 [%rd5], %r5;", "ld.acquire.gpu.global.u32 %r6, [%rd5];".to_owned()),
    ] {
        let report = found(&handed_over(set, &wait)).unwrap_or_else(|| panic!("nothing found: {set} {wait}"));
        assert!(report.contains("is read here and was written by thread 63 of block 0"), "{set} {wait}: {report}");
        assert!(report.contains("`ld.global.u32 %r7, [%rd2]`"), "{report}");
    }
}

#[test]
fn barriers_order_the_warps_of_a_block_and_nothing_else() {
    let body = |sync: &str| {
        format!(
            "st.global.u32 [%rd1], %r0; {sync} xor.b32 %r4, %r2, 32; mul.wide.u32 %rd6, %r4, 4; add.s64 %rd6, %rd6, %rd3;
             ld.global.u32 %r5, [%rd6];"
        )
    };
    assert_eq!(found(&body("bar.sync 0;")), None);
    assert!(found(&body("")).is_some());
    assert!(found(&body("bar.warp.sync -1;")).is_some());
    let blocks = "st.global.u32 [%rd1], %r0; membar.gl; bar.sync 0; ld.global.u32 %r5, [%rd2];";
    assert!(found(blocks).is_some_and(|report| report.contains("of block")));
}

#[test]
fn who_comes_last_may_read_what_all_have_written() {
    // The sum of partial sums as CUDA's samples have it: the last block to count itself reads all.
    let body = |first: &str, second: &str| {
        format!(
            "st.global.u32 [%rd1], %r0; {first} bar.sync 0; @!%p2 bra OUT;
             atom.global.add.u32 %r5, [%rd5], 1; setp.ne.u32 %p3, %r5, 1; @%p3 bra OUT;
             {second}
             ld.global.u32 %r6, [%rd3]; ld.global.u32 %r7, [%rd3 + 508];
             OUT:"
        )
    };
    assert_eq!(found(&body("membar.gl;", "membar.gl;")), None);
    assert!(found(&body("", "membar.gl;")).is_some());
}

#[test]
fn what_is_no_race() {
    for body in [
        // Different bytes of one word.
        "cvt.u16.u32 %h1, %r0; cvt.u64.u32 %rd6, %r2; add.s64 %rd6, %rd6, %rd3; st.global.u8 [%rd6], %h1;",
        // All write the same.
        "st.global.u32 [%rd5], 7;",
        "atom.global.add.u32 %r5, [%rd5], 1; atom.global.max.u32 %r5, [%rd5], %r0;",
        "ld.global.u32 %r5, [%rd5]; ld.global.u32 %r6, [%rd2];",
        // A loop around cas begins with a plain read.
        "ld.global.u32 %r5, [%rd5];
         LOOP: add.u32 %r6, %r5, 1; atom.global.cas.b32 %r7, [%rd5], %r5, %r6; setp.ne.u32 %p3, %r7, %r5; mov.u32 %r5, %r7; @%p3 bra LOOP;",
        // Lanes of one store: one of them wins.
        "@%p1 st.global.u32 [%rd5], %r0;",
    ] {
        let one_warp = body.contains("@%p1 st.global.u32 [%rd5]");
        let body = if one_warp { "setp.lt.and.u32 %p1, %r0, 32, %p1; @%p1 st.global.u32 [%rd5], %r0;" } else { body };
        assert_eq!(found(body), None, "{body}");
    }
    for body in [
        "st.global.u32 [%rd5], %r1;",
        "@%p1 st.global.u32 [%rd1], 7; @!%p1 ld.global.u32 %r5, [%rd2];",
        "ld.global.u32 %r5, [%rd5]; add.u32 %r5, %r5, 1; st.global.u32 [%rd5], %r5;",
    ] {
        assert!(found(body).is_some(), "{body}");
    }
}
