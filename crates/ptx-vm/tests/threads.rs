//! Independent threads: lanes, warps and blocks that wait for each other.

use ptx_vm::{Fault, FaultKind, Launch, Module, Vm, VmConfig};

/// Runs entry `k` with one pointer to `n` words (initially 0xffffffff) on so many worker threads.
fn launch(config: VmConfig, text: &str, grid: u32, block: u32, n: usize) -> Result<Vec<u32>, Fault> {
    let text = format!(".version 8.0\n.target sm_80\n.address_size 64\n{text}");
    let module = Module::parse("test.ptx", &text).unwrap_or_else(|e| panic!("{e}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(config.instruction_budget.unwrap_or(50_000_000)), ..config });
    let out = vm.alloc(n * 4).unwrap();
    vm.fill(out, 0xff, n * 4).unwrap();
    let shape = Launch::new([grid, 1, 1], [block, 1, 1]);
    vm.launch(&kernel, &shape, &out.to_le_bytes())?;
    let mut bytes = vec![0; n * 4];
    vm.read(out, &mut bytes).unwrap();
    Ok(bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

/// Runs it plainly and observed, on one worker and on two; all must agree.
fn run(text: &str, grid: u32, block: u32, n: usize) -> Vec<u32> {
    let plain = |threads| VmConfig { threads, ..VmConfig::default() };
    let one = launch(plain(1), text, grid, block, n).unwrap_or_else(|e| panic!("{e}"));
    let two = launch(plain(2), text, grid, block, n).unwrap_or_else(|e| panic!("{e}"));
    let observed = VmConfig { checked: true, counters: true, ..VmConfig::default() };
    let three = launch(observed, text, grid, block, n).unwrap_or_else(|e| panic!("checked: {e}"));
    assert_eq!(one, two, "another number of workers");
    assert_eq!(one, three, "the observed run differs");
    one
}

fn fault(text: &str, block: u32) -> Fault {
    let config = VmConfig { checked: true, instruction_budget: Some(1_000_000), ..VmConfig::default() };
    launch(config, text, 1, block, block as usize).expect_err("no fault")
}

/// `out[global thread] = r1`; `%r0` is the thread in its block, `%r9` the block.
fn kernel(body: &str) -> String {
    format!(
        ".global .u32 lock; .global .u32 count; .global .u32 flag; .global .u32 data;
        .visible .entry k(.param .u64 out) {{
          .reg .pred %p<20>; .reg .b32 %r<40>; .reg .b64 %rd<20>;
          ld.param.u64 %rd0, [out];
          mov.u32 %r0, %tid.x; mov.u32 %r9, %ctaid.x; mov.u32 %r8, %ntid.x;
          mad.lo.u32 %r7, %r9, %r8, %r0;
          mul.wide.u32 %rd1, %r7, 4;
          add.s64 %rd1, %rd0, %rd1;
          {body}
          st.global.u32 [%rd1], %r1;
          ret;
        }}"
    )
}

/// Takes the lock, `count += 1`, gives it back; `%r1` is the count before.
const CRITICAL: &str = "
       SPIN:
         atom.global.cas.b32 %r2, [lock], 0, 1;
         setp.ne.u32 %p1, %r2, 0;
         @%p1 bra SPIN;
         ld.volatile.global.u32 %r1, [count];
         add.u32 %r3, %r1, 1;
         st.volatile.global.u32 [count], %r3;
         membar.gl;
         atom.global.exch.b32 %r4, [lock], 0;";

#[test]
fn every_lane_takes_the_lock() {
    for (threads, checked) in [(1, false), (2, false), (2, true)] {
        let config = VmConfig { threads, checked, ..VmConfig::default() };
        let mut out = launch(config, &kernel(CRITICAL), 3, 64, 192).unwrap_or_else(|e| panic!("{e}"));
        out.sort_unstable();
        assert_eq!(out, (0..192).collect::<Vec<u32>>());
    }
}

#[test]
fn lanes_meet_again_after_the_lock() {
    let text = kernel(
        &format!(
            "{CRITICAL}
         shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;
         vote.sync.ballot.b32 %r6, 1, -1;
         bar.sync 0;
         activemask.b32 %r1;
         and.b32 %r1, %r1, %r6;
         xor.b32 %r1, %r1, %r5;"
        )
        .replace("vote.sync.ballot.b32 %r6, 1,", "setp.eq.u32 %p2, %r0, %r0; vote.sync.ballot.b32 %r6, %p2,"),
    );
    let want: Vec<u32> = (0..64).map(|i| !(i ^ 1)).collect();
    assert_eq!(run(&text, 1, 64, 64), want);
}

#[test]
fn one_lane_waits_for_another() {
    // Whichever side of the branch runs first.
    for who in ["eq", "ne"] {
        let text = kernel(&format!(
            "mov.u32 %r1, 0;
             setp.{who}.u32 %p1, %r0, 5;
             @%p1 bra PRODUCE;
           WAIT:
             ld.acquire.gpu.global.u32 %r2, [flag];
             setp.eq.u32 %p2, %r2, 0;
             @%p2 bra WAIT;
             ld.relaxed.gpu.global.u32 %r1, [data];
             bra END;
           PRODUCE:
             st.relaxed.gpu.global.u32 [data], 77;
             st.release.gpu.global.u32 [flag], 1;
             mov.u32 %r1, 1;
           END:"
        ));
        let want: Vec<u32> = (0..32).map(|i| if (i == 5) == (who == "eq") { 1 } else { 77 }).collect();
        assert_eq!(run(&text, 1, 32, 32), want, "{who}");
    }
}

#[test]
fn warps_wait_for_each_other() {
    let text = kernel(
        "setp.ge.u32 %p1, %r0, 32;
         @%p1 bra PRODUCE;
       WAIT:
         ld.acquire.gpu.global.u32 %r1, [flag];
         setp.eq.u32 %p2, %r1, 0;
         @%p2 bra WAIT;
         bra END;
       PRODUCE:
         mov.u32 %r1, 9;
         st.release.gpu.global.u32 [flag], 9;
       END:",
    );
    assert_eq!(run(&text, 1, 64, 64), [9; 64]);
}

#[test]
fn unaligned_barriers_on_different_paths() {
    let text = kernel(
        ".shared .u32 word[64];
         mul.lo.u32 %r2, %r0, 4; mov.u32 %r3, word; add.u32 %r3, %r3, %r2;
         and.b32 %r4, %r0, 1;
         setp.eq.u32 %p1, %r4, 0;
         @%p1 bra EVEN;
         st.shared.u32 [%r3], %r0;
         barrier.sync 0;
         bra READ;
       EVEN:
         add.u32 %r5, %r0, 100;
         st.shared.u32 [%r3], %r5;
         barrier.sync 0;
       READ:
         xor.b32 %r5, %r2, 252; mov.u32 %r3, word; add.u32 %r3, %r3, %r5;
         ld.shared.u32 %r1, [%r3];",
    );
    let want: Vec<u32> = (0..64u32).map(|i| 63 - i).map(|i| if i % 2 == 0 { i + 100 } else { i }).collect();
    assert_eq!(run(&text, 1, 64, 64), want);
}

#[test]
fn a_barrier_reached_by_part_of_the_warp_holds_the_others_back() {
    // Aligned barriers promise that this does not happen; hardware waits all the same, checked mode complains.
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 16;
         @%p1 bra FIRST;
         bar.sync 0;
         ld.volatile.global.u32 %r1, [data];
         bra END;
       FIRST:
         st.volatile.global.u32 [data], 5;
         bar.sync 0;
         mov.u32 %r1, 6;
       END:",
    );
    let out = launch(VmConfig::default(), &text, 1, 32, 32).unwrap();
    assert_eq!(out, [[6; 16], [5; 16]].concat());
    let found = fault(&text, 32);
    assert_eq!((found.kind, found.line > 0), (FaultKind::Barrier, true), "{found}");
}

#[test]
fn warp_barriers_on_different_paths() {
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 7;
         @%p1 bra FIRST;
         st.volatile.global.u32 [data], 3;
         bar.warp.sync -1;
         ld.volatile.global.u32 %r1, [flag];
         bra END;
       FIRST:
         st.volatile.global.u32 [flag], 4;
         bar.warp.sync -1;
         ld.volatile.global.u32 %r1, [data];
       END:",
    );
    assert_eq!(run(&text, 1, 32, 32), [vec![3; 7], vec![4; 25]].concat());
}

#[test]
fn membermasks_of_tiles() {
    // Each half of the warp votes, matches, reduces and elects among itself, all lanes on one path.
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 16;
         selp.b32 %r2, 0xffff, 0xffff0000, %p1;
         and.b32 %r3, %r0, 3;
         setp.eq.u32 %p2, %r0, 20;
         vote.sync.any.pred %p3, %p2, %r2;
         vote.sync.ballot.b32 %r4, %p2, %r2;
         redux.sync.add.s32 %r5, %r0, %r2;
         match.any.sync.b32 %r6, %r3, %r2;
         elect.sync %r10|%p4, %r2;
         selp.b32 %r11, 1, 0, %p3;
         shr.u32 %r4, %r4, 12;
         add.u32 %r1, %r11, %r4; add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r10;
         xor.b32 %r1, %r1, %r6;",
    );
    let want = |i: u32| {
        let (ballot, sum, leader) = if i < 16 { (0, 120, 0) } else { (1 << 20 >> 12, 376, 16) };
        let same = (0..32).filter(|j| j % 4 == i % 4 && j / 16 == i / 16).fold(0, |m, j| m | 1u32 << j);
        (u32::from(i >= 16) + ballot + sum + leader) ^ same
    };
    assert_eq!(run(&text, 1, 32, 32), (0..32).map(want).collect::<Vec<_>>());
}

#[test]
fn sync_instructions_wait_for_lanes_that_come_later() {
    // Lane i leaves the loop in round i; the shuffle stands behind a second, shorter way for even lanes.
    let text = kernel(
        "mov.u32 %r2, 0;
       LOOP:
         setp.ge.u32 %p1, %r2, %r0;
         @%p1 bra OUT;
         add.u32 %r2, %r2, 1;
         bra LOOP;
       OUT:
         and.b32 %r3, %r0, 1; setp.eq.u32 %p2, %r3, 0;
         @%p2 bra SHUFFLE;
         add.u32 %r2, %r2, 50;
         bra SHUFFLE;
       SHUFFLE:
         shfl.sync.idx.b32 %r1, %r2, 31, 31, -1;
         @%p2 shfl.sync.bfly.b32 %r1, %r2, 2, 31, 0x55555555;",
    );
    assert_eq!(run(&text, 1, 32, 32), (0..32u32).map(|i| if i % 2 == 0 { i ^ 2 } else { 81 }).collect::<Vec<_>>());
}

#[test]
fn lanes_that_can_never_come() {
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 16;
         @%p1 bra FIRST;
         barrier.sync 0;
         bra END;
       FIRST:
         shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;
       END:
         mov.u32 %r1, 0;",
    );
    let found = fault(&text, 32);
    assert_eq!(found.kind, FaultKind::Barrier, "{found}");
    assert!(found.message.contains("different instructions"), "{found}");
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 16;
         @%p1 bra FIRST;
         barrier.sync 0;
         bra END;
       FIRST:
         bar.warp.sync 0x1ffff;
       END:
         mov.u32 %r1, 0;",
    );
    let found = fault(&text, 32);
    assert_eq!(found.kind, FaultKind::Barrier, "{found}");
    assert!(found.message.contains("deadlock"), "{found}");
    // Lanes that have exited are not waited for.
    let text = kernel(
        "setp.lt.u32 %p1, %r0, 16;
         @%p1 ret;
         shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;",
    );
    let want: Vec<u32> = (0..32).map(|i| if i < 16 { u32::MAX } else { i ^ 1 }).collect();
    assert_eq!(run(&text, 1, 32, 32), want);
}

#[test]
fn a_membermask_must_name_its_lane() {
    let found = fault(&kernel("shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff;"), 32);
    assert_eq!((found.kind, found.thread), (FaultKind::Barrier, Some([16, 0, 0])), "{found}");
}

#[test]
fn a_grid_barrier_of_atomics() {
    // Every block adds to the counter and waits until all have; twice.
    let text = kernel(
        "mov.u32 %r5, %nctaid.x;
         setp.ne.u32 %p1, %r0, 0;
         @%p1 bra SECOND;
         atom.global.add.u32 %r2, [count], 1;
       WAIT1:
         ld.acquire.gpu.global.u32 %r3, [count];
         setp.lt.u32 %p2, %r3, %r5;
         @%p2 bra WAIT1;
       SECOND:
         bar.sync 0;
         @%p1 bra DONE;
         atom.global.add.u32 %r2, [data], 1;
       WAIT2:
         ld.acquire.gpu.global.u32 %r4, [data];
         setp.lt.u32 %p2, %r4, %r5;
         @%p2 bra WAIT2;
       DONE:
         bar.sync 0;
         ld.volatile.global.u32 %r3, [count];
         ld.volatile.global.u32 %r4, [data];
         add.u32 %r1, %r3, %r4;",
    );
    assert_eq!(run(&text, 40, 64, 40 * 64), vec![80; 40 * 64]);
}

/// Block b waits with `asking` (of word `%rd3`, -1 until it is written, which it leaves in `%r2`) for block b + 1, the worst order there is:
/// `out` counts the blocks from the last.
fn wait_for_the_next_block(asking: &str, blocks: u32, threads: u32) {
    let text = kernel(&format!(
        "mov.u32 %r5, %nctaid.x;
         add.u32 %r6, %r9, 1;
         mov.u32 %r1, 1;
         setp.eq.u32 %p1, %r6, %r5;
         @%p1 bra GO;
         mul.wide.u32 %rd2, %r8, 4;
         add.s64 %rd3, %rd1, %rd2;
       WAIT:
         {asking}
         add.u32 %r1, %r2, 1;
       GO:"
    ));
    let want: Vec<u32> = (0..blocks).flat_map(|b| vec![blocks - b; threads as usize]).collect();
    assert_eq!(run(&text, blocks, threads, want.len()), want);
}

#[test]
fn blocks_wait_for_blocks_that_start_later() {
    let asking = "nanosleep.u32 20;
         ld.acquire.gpu.global.u32 %r2, [%rd3];
         setp.eq.u32 %p2, %r2, -1;
         @%p2 bra WAIT;";
    wait_for_the_next_block(asking, 100, 32);
}

#[test]
fn blocks_wait_for_blocks_with_barriers_in_the_loop() {
    // Every thread of the block takes part: they ask, and all hear all answers at a barrier.
    let asking = "ld.acquire.gpu.global.u32 %r2, [%rd3];
         setp.ne.u32 %p2, %r2, -1;
         barrier.cta.red.and.pred %p3, 0, %p2;
         @!%p3 bra WAIT;";
    wait_for_the_next_block(asking, 20, 64);
}

#[test]
fn a_lock_nobody_gives_back_ends_with_the_budget() {
    let found = fault(&kernel(&CRITICAL.replace("atom.global.exch.b32 %r4, [lock], 0;", "")), 32);
    assert_eq!((found.kind, found.line > 0), (FaultKind::Budget, true), "{found}");
}

#[test]
fn endless_loops_with_waiting_inside_end_with_the_budget() {
    // Nothing is stuck here: every thread arrives, again and again.
    for (wait, alone) in [
        ("bar.sync 0;", false),
        ("barrier.cta.red.popc.u32 %r2, 5, %p1;", false),
        ("bar.warp.sync 0xffffffff;", false),
        ("nanosleep.u32 20;", false),
        ("barrier.cta.red.popc.u32 %r2, 5, %p1;", true),
        ("nanosleep.u32 20;", true),
    ] {
        let guard = if alone { "setp.eq.u32 %p1, %r0, 3; @!%p1 bra DONE;" } else { "setp.eq.u32 %p1, %r0, %r0;" };
        let text = kernel(&format!("{guard}\nLOOP: {wait}\n@%p1 bra LOOP;\nDONE: mov.u32 %r1, 0;"));
        for checked in [false, true] {
            let config = VmConfig { checked, instruction_budget: Some(20_000), ..VmConfig::default() };
            let found = launch(config, &text, 2, 64, 128).expect_err(wait);
            assert_eq!(found.kind, FaultKind::Budget, "{wait} {guard}: {found}");
        }
    }
}
