//! What checked mode finds: for each kind of fault a kernel that has it, and the repaired kernel, which reports nothing.
//!
//! Lines that begin with `-` are in the faulty kernel only, lines that begin with `+` in the repaired one only; `// HERE` marks the line
//! the report must name.

use ptx_vm::case::run_case;
use ptx_vm::{Fault, FaultKind, Launch, MemoryError, Module, Vm, VmConfig};

/// Bytes of each of the two buffers.
const BYTES: usize = 256;

struct Plant {
    what: &'static str,
    threads: u32,
    kind: FaultKind,
    thread: u32,
    /// The address relative to where it is said to be: `Data` and `Spare` buffers, or the offset itself.
    at: At,
    /// What else the report says; `{data}` stands for the range of the first buffer.
    says: &'static [&'static str],
    body: &'static str,
}

#[derive(Clone, Copy)]
enum At {
    None,
    Data(i64),
    Spare(i64),
    Offset(u64),
}

/// `data` holds the words 0.., `spare` holds nothing. `%rd3` is the address of the thread's word in `data`, `%r1` its offset in `tile`.
fn source(body: &str, faulty: bool) -> String {
    let keep = |line: &&str| !line.trim_start().starts_with(if faulty { '+' } else { '-' });
    let clean = |line: &str| line.trim_start().trim_start_matches(['+', '-']).to_owned();
    let body: Vec<String> = body.lines().filter(keep).map(clean).collect();
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 data, .param .u64 spare) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .f32 %f<9>;
          .shared .align 16 .b8 tile[4096];
          .shared .align 8 .b64 bars[4];
          .local .align 8 .b8 frame[16];
          ld.param.u64 %rd1, [data]; ld.param.u64 %rd2, [spare];
          mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
          mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd1;
          setp.eq.u32 %p0, %r0, 0; setp.lt.u32 %p1, %r0, 32;
          {}
          ret;\n}}\n",
        body.join("\n")
    )
}

/// Launches one block and gives the fault, with the addresses of the buffers.
fn launch(text: &str, threads: u32) -> (Option<Fault>, u64, u64) {
    let kernel = Module::parse("test.ptx", text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let vm = Vm::new(VmConfig { checked: true, instruction_budget: Some(1 << 22), ..VmConfig::default() });
    let (data, spare) = (vm.alloc(BYTES).unwrap(), vm.alloc(BYTES).unwrap());
    vm.write(data, &(0..BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let params = [data, spare].map(u64::to_le_bytes).concat();
    let result = vm.launch(&kernel, &Launch::new([1, 1, 1], [threads, 1, 1]), &params);
    let stored = |ptr| match vm.undefined(ptr, BYTES).unwrap() {
        Some(MemoryError::Undefined { cause, .. }) => cause.map(|fault| *fault),
        _ => None,
    };
    (result.err().or_else(|| stored(data)).or_else(|| stored(spare)), data, spare)
}

const PLANTS: &[Plant] = &[
    Plant {
        what: "a load past the end",
        threads: 64,
        kind: FaultKind::OutOfBounds,
        thread: 63,
        at: At::Data(256),
        says: &["4 bytes past the end of the allocation {data} (256 bytes)", "ld.global.u32"],
        body: "- ld.global.u32 %r3, [%rd3 + 4]; // HERE
               + ld.global.u32 %r3, [%rd3];",
    },
    Plant {
        what: "a load behind the parameters",
        threads: 32,
        kind: FaultKind::OutOfBounds,
        thread: 0,
        at: At::None,
        says: &["8 bytes past the end of the 16 bytes", "ld.param.u64"],
        body: "- ld.param.u64 %rd4, [spare + 8]; // HERE
               + ld.param.u64 %rd4, [spare];
               st.global.u64 [%rd1], %rd4;",
    },
    Plant {
        what: "a parameter read at an odd place",
        threads: 32,
        kind: FaultKind::Misaligned,
        thread: 0,
        at: At::None,
        says: &["not a multiple of 4", "ld.param.u32"],
        body: "- ld.param.u32 %r3, [data + 2]; // HERE
               + ld.param.u32 %r3, [data + 4];
               st.global.u32 [%rd1], %r3;",
    },
    Plant {
        what: "a store before the beginning",
        threads: 32,
        kind: FaultKind::OutOfBounds,
        thread: 0,
        at: At::Data(-8),
        says: &["8 bytes before the allocation {data} (256 bytes)"],
        body: "- st.global.u32 [%rd3 + -8], %r0; // HERE
               + st.global.u32 [%rd3 + 8], %r0;",
    },
    Plant {
        what: "a vector store across the end of shared memory",
        threads: 32,
        kind: FaultKind::OutOfBounds,
        thread: 0,
        at: At::Offset(4128),
        says: &["16 bytes at shared memory offset 0x1020: 16 bytes past the end of the 4128 bytes there are"],
        body: "- st.shared.v4.u32 [%r2 + 4128], {%r0, %r0, %r0, %r0}; // HERE
               + st.shared.v4.u32 [%r2 + 4080], {%r2, %r2, %r2, %r2};",
    },
    Plant {
        what: "out of one shared array into its neighbour",
        threads: 32,
        kind: FaultKind::OutOfBounds,
        thread: 31,
        at: At::Offset(4096),
        says: &["4 bytes at shared memory offset 0x1000: 4 bytes past the end of `tile`, in `bars`"],
        body: "- st.shared.u32 [%r1 + 3972], %r0; // HERE
               + st.shared.u32 [%r1 + 3968], %r0;",
    },
    Plant {
        what: "before a shared array, by a generic address",
        threads: 1,
        kind: FaultKind::OutOfBounds,
        thread: 0,
        at: At::Offset(4092),
        says: &["4 bytes before the beginning of `bars`, in `tile`"],
        body: "mov.u64 %rd4, bars; cvta.shared.u64 %rd4, %rd4; mul.wide.u32 %rd5, %r0, 8; add.s64 %rd4, %rd4, %rd5;
               - st.u32 [%rd4 + -4], %r0; // HERE
               + st.u32 [%rd4], %r0;",
    },
    Plant {
        what: "a load past the end of local memory",
        threads: 32,
        kind: FaultKind::OutOfBounds,
        thread: 0,
        at: At::None,
        says: &["local memory offset 0x10: 4 bytes past the end of the 16 bytes"],
        body: "st.local.u32 [frame + 12], %r0;
               - ld.local.u32 %r3, [frame + 16]; // HERE
               + ld.local.u32 %r3, [frame + 12];",
    },
    Plant {
        what: "a misaligned vector load",
        threads: 1,
        kind: FaultKind::Misaligned,
        thread: 0,
        at: At::Data(4),
        says: &["not a multiple of 8"],
        body: "- ld.global.v2.u32 {%r3, %r4}, [%rd3 + 4]; // HERE
               + ld.global.v2.u32 {%r3, %r4}, [%rd3 + 8];",
    },
    Plant {
        what: "a misaligned store to shared memory",
        threads: 32,
        kind: FaultKind::Misaligned,
        thread: 0,
        at: At::Offset(2),
        says: &["0x2 is not a multiple of 4"],
        body: "- st.shared.u32 [%r1 + 2], %r0; // HERE
               + st.shared.u32 [%r1 + 4], %r0;",
    },
    Plant {
        what: "a load of global memory nobody wrote",
        threads: 2,
        kind: FaultKind::Uninitialised,
        thread: 0,
        at: At::Data(0),
        says: &["an undefined value is stored", "nobody has written what line 14 loads", "st.global.u64"],
        body: "st.global.u32 [%rd2 + 8], %r2;
               + st.global.u32 [%rd2 + 12], %r2;
               ld.global.u64 %rd4, [%rd2 + 8];
               st.global.u64 [%rd1], %rd4; // HERE",
    },
    Plant {
        what: "a load of shared memory nobody wrote in this block",
        threads: 32,
        kind: FaultKind::Uninitialised,
        thread: 5,
        at: At::None,
        says: &["the predicate is undefined: nobody has written what line 15 loads"],
        body: "setp.ne.u32 %p2, %r0, 5;
               - @%p2 st.shared.u32 [%r1], %r0;
               + st.shared.u32 [%r1], %r0;
               ld.shared.u32 %r3, [%r1]; setp.lt.u32 %p3, %r3, 7;
               @%p3 st.shared.u32 [%r1 + 256], %r0; // HERE",
    },
    Plant {
        what: "a load of local memory the thread did not write",
        threads: 32,
        kind: FaultKind::Uninitialised,
        thread: 7,
        at: At::None,
        says: &["the address is undefined: nobody has written what line 15 loads"],
        body: "setp.ne.u32 %p2, %r0, 7;
               - @%p2 st.local.u32 [frame + 8], %r2;
               + st.local.u32 [frame + 8], %r2;
               ld.local.u32 %r3, [frame + 8];
               st.shared.u32 [%r3], %r2; // HERE",
    },
    Plant {
        what: "an mbarrier nobody made",
        threads: 32,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["not been initialised"],
        body: "+ @%p0 mbarrier.init.shared.b64 [bars], 32;
               - @%p0 st.shared.b64 [bars], 0;
               bar.sync 0;
               mbarrier.arrive.shared.b64 %rd4, [bars]; // HERE",
    },
    Plant {
        what: "matrices of two warps in one place",
        threads: 64,
        kind: FaultKind::Race,
        thread: 40,
        at: At::Offset(128),
        says: &["written here and was written by thread 8 "],
        // Warps that store the same do no harm, nor lanes of one store that do not.
        body: "@%p1 st.shared.u32 [tile + 512], %r0;
               and.b32 %r5, %r0, 31; shl.b32 %r6, %r5, 4; add.u32 %r6, %r6, %r2;
               mov.u32 %r7, %r5;
               - mov.u32 %r7, %r0;
               stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r6], {%r5, %r7, %r5, %r5}; // HERE",
    },
    Plant {
        what: "warps write different values to one place",
        threads: 64,
        kind: FaultKind::Race,
        thread: 32,
        at: At::Offset(0),
        says: &["written here and was written by thread 0 "],
        body: "+ setp.lt.u32 %p1, %r0, 64;
               @!%p1 add.u32 %r1, %r1, -128;
               - st.shared.u32 [%r1], %r0; // HERE
               + st.shared.u32 [%r1], %r0;",
    },
    Plant {
        what: "a read before the barrier",
        threads: 64,
        kind: FaultKind::Race,
        thread: 32,
        at: At::Offset(0),
        says: &["read here and was written by thread 0"],
        body: "st.shared.u32 [%r1], %r0;
               + bar.sync 0;
               xor.b32 %r3, %r0, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
               setp.lt.u32 %p2, %r0, 32;
               - @%p2 bra DONE;
               ld.shared.u32 %r4, [%r3]; // HERE
               DONE:",
    },
    Plant {
        what: "a write before all have read",
        threads: 64,
        kind: FaultKind::Race,
        thread: 32,
        at: At::Offset(128),
        says: &["written here and was read by thread 0 "],
        body: "st.shared.u32 [%r1], %r0;
               bar.sync 0;
               xor.b32 %r3, %r0, 32; shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r2;
               ld.shared.u32 %r4, [%r3];
               + bar.sync 0;
               - @%p1 bra DONE;
               add.u32 %r4, %r4, 1;
               st.shared.u32 [%r1], %r4; // HERE
               DONE:",
    },
    Plant {
        what: "lanes of a warp exchange without a warp barrier: a shuffle orders no memory",
        threads: 32,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(4),
        says: &["read here and was written by thread 1 "],
        body: "st.shared.u32 [%r1], %r0;
               shfl.sync.idx.b32 %r5, %r0, 0, 31, -1;
               + bar.warp.sync -1;
               xor.b32 %r3, %r1, 4;
               ld.shared.u32 %r4, [%r3]; // HERE",
    },
    Plant {
        what: "consumers that read before their named barrier",
        threads: 64,
        kind: FaultKind::Race,
        thread: 32,
        at: At::Offset(0),
        says: &["read here and was written by thread 0 "],
        body: "mov.u32 %r5, 0;
               @!%p1 bra CONSUMER;
               PRODUCER:
               st.shared.u32 [%r1], %r5;
               bar.arrive 1, 64;
               bar.sync 2, 64;
               add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra PRODUCER;
               bra DONE;
               CONSUMER:
               + bar.sync 1, 64;
               ld.shared.u32 %r4, [%r1 + -128]; // HERE
               - bar.sync 1, 64;
               bar.arrive 2, 64;
               add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra CONSUMER;
               DONE:",
    },
    Plant {
        what: "a producer that does not wait for the consumers",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["written here and was read by thread 32 "],
        body: "mov.u32 %r5, 0;
               @%p1 bra PRODUCER;
               CONSUMER:
               bar.sync 1, 64;
               ld.shared.u32 %r4, [%r1 + -128];
               - bar.sync 2, 64;
               + bar.arrive 2, 64;
               add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra CONSUMER;
               bra DONE;
               PRODUCER:
               st.shared.u32 [%r1], %r5; // HERE
               bar.arrive 1, 64;
               - bar.arrive 2, 64;
               + bar.sync 2, 64;
               add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra PRODUCER;
               DONE:",
    },
    Plant {
        what: "a named barrier of half the block does not order the other half",
        threads: 128,
        kind: FaultKind::Race,
        thread: 64,
        at: At::Offset(0),
        says: &["read here and was written by thread 0 "],
        body: "setp.lt.u32 %p2, %r0, 64;
               @!%p2 bra OTHER;
               st.shared.u32 [%r1], %r0;
               bar.sync 1, 64;
               ld.shared.u32 %r3, [tile + 252];
               + bar.sync 2, 128;
               bra DONE;
               OTHER:
               + bar.sync 2, 128;
               ld.shared.u32 %r3, [%r1 + -256]; // HERE
               DONE:",
    },
    Plant {
        what: "waiting for the wrong parity",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread 32 "],
        body: "@%p0 mbarrier.init.shared.b64 [bars], 32;
               bar.sync 0;
               @%p1 bra WAIT;
               st.shared.u32 [%r1 + -128], %r0;
               mbarrier.arrive.shared.b64 %rd4, [bars];
               bar.arrive 3, 64;
               bra DONE;
               WAIT:
               - mbarrier.try_wait.parity.shared.b64 %p2, [bars], 1;
               + mbarrier.try_wait.parity.shared.b64 %p2, [bars], 0;
               @!%p2 bra WAIT;
               mov.u32 %r6, 0;
               - TURN: nanosleep.u32 1; add.u32 %r6, %r6, 1; setp.lt.u32 %p2, %r6, 99; @%p2 bra TURN;
               ld.shared.u32 %r3, [%r1]; // HERE
               bar.sync 3, 64;
               DONE:",
    },
    Plant {
        what: "one lane arrives for a warp that has not come together",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(4),
        says: &["read here and was written by thread 33 "],
        body: "@%p0 mbarrier.init.shared.b64 [bars], 1;
               bar.sync 0;
               @%p1 bra WAIT;
               st.shared.u32 [%r1 + -128], %r0;
               + bar.warp.sync -1;
               setp.eq.u32 %p3, %r0, 32;
               @%p3 mbarrier.arrive.shared.b64 %rd4, [bars];
               bra DONE;
               WAIT:
               mbarrier.try_wait.parity.shared.b64 %p2, [bars], 0;
               @!%p2 bra WAIT;
               xor.b32 %r3, %r1, 4;
               ld.shared.u32 %r3, [%r3]; // HERE
               DONE:",
    },
    Plant {
        what: "a relaxed arrival orders nothing",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread 32 "],
        body: "@%p0 mbarrier.init.shared.b64 [bars], 32;
               bar.sync 0;
               @%p1 bra WAIT;
               st.shared.u32 [%r1 + -128], %r0;
               + fence.acq_rel.cta;
               mbarrier.arrive.relaxed.cta.shared::cta.b64 %rd4, [bars];
               bra DONE;
               WAIT:
               mbarrier.try_wait.parity.shared.b64 %p2, [bars], 0;
               @!%p2 bra WAIT;
               ld.shared.u32 %r3, [%r1]; // HERE
               DONE:",
    },
    Plant {
        what: "cp.async that is not waited for",
        threads: 32,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(128),
        says: &["read here while the cp.async of thread 0 into it has not been waited for"],
        body: "cp.async.ca.shared.global [%r1], [%rd3], 4;
               cp.async.commit_group;
               cp.async.ca.shared.global [%r1 + 128], [%rd3 + 4], 4;
               cp.async.commit_group;
               - cp.async.wait_group 1;
               + cp.async.wait_group 0;
               ld.shared.u32 %r4, [%r1];
               ld.shared.u32 %r3, [%r1 + 128]; // HERE",
    },
    Plant {
        what: "a wait is for the own copies only",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(4),
        says: &["read here and was written by the cp.async of thread 1 "],
        body: "cp.async.ca.shared.global [%r1], [%rd3], 4;
               cp.async.wait_all;
               + bar.sync 0;
               xor.b32 %r3, %r1, 4;
               ld.shared.u32 %r3, [%r3]; // HERE",
    },
    Plant {
        what: "an ordinary arrival does not wait for copies",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["while the cp.async of thread 32 into it has not been waited for"],
        body: "@%p0 mbarrier.init.shared.b64 [bars], 32;
               bar.sync 0;
               @%p1 bra WAIT;
               cp.async.ca.shared.global [%r1 + -128], [%rd3], 4;
               - mbarrier.arrive.shared.b64 %rd4, [bars];
               + cp.async.mbarrier.arrive.noinc.shared.b64 [bars];
               bra DONE;
               WAIT:
               mbarrier.try_wait.parity.shared.b64 %p2, [bars], 0;
               @!%p2 bra WAIT;
               ld.shared.u32 %r3, [%r1]; // HERE
               DONE:",
    },
    Plant {
        what: "waiting for the other buffer's barrier",
        threads: 32,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(128),
        says: &["while a bulk copy counted by the mbarrier at 0x1008 into it has not been waited for"],
        body: "@%p0 mbarrier.init.shared.b64 [bars], 1;
               @%p0 mbarrier.init.shared.b64 [bars + 8], 1;
               bar.sync 0;
               @!%p0 bra WAIT;
               mbarrier.arrive.expect_tx.shared.b64 %rd4, [bars], 128;
               cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 128, [bars];
               mbarrier.arrive.expect_tx.shared.b64 %rd4, [bars + 8], 128;
               cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile + 128], [%rd1], 128, [bars + 8];
               WAIT:
               - mbarrier.try_wait.parity.shared.b64 %p2, [bars], 0;
               + mbarrier.try_wait.parity.shared.b64 %p2, [bars + 8], 0;
               @!%p2 bra WAIT;
               ld.shared.u32 %r3, [%r1 + 128]; // HERE",
    },
    Plant {
        what: "the source of a bulk copy is overwritten before it was read",
        threads: 32,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["written here and was read by a bulk copy of thread 0 "],
        body: "st.shared.u32 [%r1], %r0;
               fence.proxy.async.shared::cta;
               bar.sync 0;
               @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [tile], 128;
               @%p0 cp.async.bulk.commit_group;
               + @%p0 cp.async.bulk.wait_group.read 0;
               bar.sync 0;
               st.shared.u32 [%r1], %r2; // HERE",
    },
    Plant {
        what: "a bulk copy of what nobody wrote",
        threads: 32,
        kind: FaultKind::Uninitialised,
        thread: 0,
        at: At::Spare(0),
        says: &["an undefined value is stored"],
        body: "setp.lt.u32 %p2, %r0, 16;
               - @%p2 st.shared.u32 [%r1], %r0;
               + st.shared.u32 [%r1], %r0;
               fence.proxy.async.shared::cta;
               bar.sync 0;
               @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [tile], 128; // HERE",
    },
    Plant {
        what: "a flag without release",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread 32 "],
        body: "@%p0 st.shared.u32 [tile + 512], 0;
               bar.sync 0;
               @%p1 bra WAIT;
               st.shared.u32 [%r1 + -128], %r0;
               bar.warp.sync -1;
               setp.eq.u32 %p3, %r0, 32;
               - @%p3 st.relaxed.cta.shared.u32 [tile + 512], 1;
               + @%p3 st.release.cta.shared.u32 [tile + 512], 1;
               bra DONE;
               WAIT:
               nanosleep.u32 1;
               ld.acquire.cta.shared.u32 %r3, [tile + 512];
               setp.eq.u32 %p2, %r3, 0;
               @%p2 bra WAIT;
               ld.shared.u32 %r3, [%r1]; // HERE
               DONE:",
    },
    Plant {
        what: "a volatile flag in global memory without a fence on one side",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread 32 "],
        body: "@%p0 st.global.u32 [%rd2], 0;
               bar.sync 0;
               @%p1 bra WAIT;
               st.shared.u32 [%r1 + -128], %r0;
               membar.cta;
               st.volatile.global.u32 [%rd2], 1;
               bra DONE;
               WAIT:
               nanosleep.u32 1;
               ld.volatile.global.u32 %r3, [%rd2];
               setp.eq.u32 %p2, %r3, 0;
               @%p2 bra WAIT;
               + membar.cta;
               ld.shared.u32 %r3, [%r1]; // HERE
               DONE:",
    },
    Plant {
        what: "data written between the fence and the flag",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread 32 "],
        body: "@%p0 st.shared.u32 [tile + 512], 0;
               bar.sync 0;
               @%p1 bra WAIT;
               + st.shared.u32 [%r1 + -128], %r0;
               fence.acq_rel.gpu;
               - st.shared.u32 [%r1 + -128], %r0;
               atom.relaxed.cta.shared.add.u32 %r5, [tile + 512], 1;
               bra DONE;
               WAIT:
               nanosleep.u32 1;
               atom.relaxed.cta.shared.add.u32 %r3, [tile + 512], 0;
               setp.lt.u32 %p2, %r3, 32;
               @%p2 bra WAIT;
               fence.acq_rel.gpu;
               ld.shared.u32 %r3, [%r1]; // HERE
               DONE:",
    },
    Plant {
        what: "an ordinary read of what others update by atomics",
        threads: 64,
        kind: FaultKind::Race,
        thread: 0,
        at: At::Offset(0),
        says: &["read here and was written by thread "],
        body: "@%p0 st.shared.u32 [tile], 0;
               bar.sync 0;
               atom.shared.add.u32 %r3, [tile], 1;
               + bar.sync 0;
               @%p0 ld.shared.u32 %r4, [tile]; // HERE",
    },
    Plant {
        what: "a barrier half a warp cannot reach",
        threads: 64,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["16 of the 32 threads"],
        body: "setp.lt.u32 %p2, %r0, 16;
               - @!%p2 bra DONE;
               bar.sync 0; // HERE
               DONE: add.u32 %r3, %r3, 1;",
    },
    Plant {
        what: "a barrier whose guard holds for half a warp",
        threads: 64,
        kind: FaultKind::Barrier,
        thread: 32,
        at: At::None,
        says: &["16 of the 32 threads"],
        body: "setp.lt.u32 %p2, %r0, 48;
               - @%p2 bar.sync 0; // HERE
               + @%p2 add.u32 %r3, %r0, 1;
               + bar.sync 0;",
    },
    Plant {
        what: "a matrix product whose guard holds for half a warp",
        threads: 32,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["16 of the 32 threads"],
        body: "- setp.lt.u32 %p2, %r0, 16;
               + setp.lt.u32 %p2, %r0, 32;
               mov.b32 %r3, 0; mov.f32 %f0, 0f00000000;
               mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
               @%p2 mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r3, %r3}, {%r3}, {%f0, %f1, %f2, %f3}; // HERE",
    },
    Plant {
        what: "a thread count that is not whole warps",
        threads: 64,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["48 threads", "multiple of 32"],
        body: "mov.u32 %r9, 48;
               - bar.sync 1, %r9; // HERE
               + bar.sync 1, 64;",
    },
    Plant {
        what: "warps that disagree about the thread count",
        threads: 96,
        kind: FaultKind::Barrier,
        thread: 32,
        at: At::None,
        says: &["barrier 1", "96 threads", "64"],
        body: "@%p1 bra FIRST;
               - bar.sync 1, 96; // HERE
               + bar.sync 1, 96;
               bra DONE;
               FIRST:
               - bar.sync 1, 64;
               + bar.sync 1, 96;
               DONE:",
    },
    Plant {
        what: "there are 16 barriers",
        threads: 32,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["16"],
        body: "mov.u32 %r3, 15;
               - add.u32 %r3, %r3, 1;
               bar.sync %r3; // HERE",
    },
    Plant {
        what: "warps that wait for each other at different barriers",
        threads: 64,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["warp 0 waits at barrier 1 (32 of 64 threads)", "warp 1 at barrier 2 (32 of 64 threads)"],
        body: "@!%p1 bra OTHER;
               bar.sync 1, 64; // HERE
               bra DONE;
               OTHER:
               - bar.sync 2, 64;
               + bar.sync 1, 64;
               DONE:",
    },
    Plant {
        what: "a counted barrier after part of the block has exited",
        threads: 64,
        kind: FaultKind::Barrier,
        thread: 0,
        at: At::None,
        says: &["warp 0 waits at barrier 1 (32 of 64 threads)", "1 warp has exited"],
        body: "@!%p1 exit;
               - bar.sync 1, 64; // HERE
               + bar.sync 1, 32;",
    },
    Plant {
        what: "a loop that never ends",
        threads: 32,
        kind: FaultKind::Budget,
        thread: u32::MAX,
        at: At::None,
        says: &["more than 4194304 instructions"],
        body: "mov.u32 %r3, 0;
               LOOP: add.u32 %r3, %r3, 1;
               - setp.ge.u32 %p2, %r3, 0;
               + setp.lt.u32 %p2, %r3, 100;
               @%p2 bra LOOP;",
    },
    Plant {
        what: "a flag nobody sets",
        threads: 64,
        kind: FaultKind::Budget,
        thread: u32::MAX,
        at: At::None,
        says: &["more than 4194304 instructions"],
        body: "@%p0 st.shared.u32 [tile], 0;
               bar.sync 0;
               @%p1 bra WAIT;
               + st.volatile.shared.u32 [tile], 1;
               bra DONE;
               WAIT: ld.volatile.shared.u32 %r3, [tile]; setp.eq.u32 %p2, %r3, 0; @%p2 bra WAIT;
               DONE:",
    },
];

/// What is wrong with the report of a planted fault, if anything.
fn judge(plant: &Plant) -> Result<(), String> {
    let (fault, ..) = launch(&source(plant.body, false), plant.threads);
    if let Some(fault) = fault {
        return Err(format!("repaired: {fault}"));
    }
    let text = source(plant.body, true);
    let (fault, data, spare) = launch(&text, plant.threads);
    let fault = fault.ok_or("nothing was found")?;
    let report = fault.to_string();
    let address = match plant.at {
        At::None => fault.address,
        At::Data(offset) => Some(data.wrapping_add_signed(offset)),
        At::Spare(offset) => Some(spare.wrapping_add_signed(offset)),
        At::Offset(offset) => Some(offset),
    };
    let here = text.lines().position(|l| l.contains("// HERE")).map_or(fault.line, |i| i as u32 + 1);
    let thread = if plant.thread == u32::MAX { fault.thread } else { Some([plant.thread, 0, 0]) };
    let want = (plant.kind, here, "k", Some([0, 0, 0]), thread, address);
    let got = (fault.kind, fault.line, fault.kernel.as_str(), fault.block, fault.thread, fault.address);
    if got != want {
        return Err(format!("{want:?} expected: {report}"));
    }
    let range = format!("{data:#x}..{:#x}", data + BYTES as u64);
    match plant.says.iter().map(|part| part.replace("{data}", &range)).find(|part| !report.contains(part)) {
        Some(part) => Err(format!("no `{part}` in: {report}")),
        None => Ok(()),
    }
}

#[test]
fn planted_faults_are_found_and_repaired_kernels_are_clean() {
    let wrong = |plant: &Plant| judge(plant).err().map(|why| format!("{}: {why}", plant.what));
    let wrong: Vec<String> = PLANTS.iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn memory_is_freed_once_and_not_used_after() {
    let vm = Vm::new(VmConfig { checked: true, ..VmConfig::default() });
    let (a, b) = (vm.alloc(BYTES).unwrap(), vm.alloc(BYTES).unwrap());
    vm.fill(a, 0, BYTES).unwrap();
    vm.free(a).unwrap();
    assert_eq!(vm.free(a), Err(MemoryError::FreedTwice { ptr: a, len: BYTES }));
    assert!(matches!(vm.free(b + 16), Err(MemoryError::NotAllocated { .. })));
    let text = source("ld.global.u32 %r3, [%rd1 + 8]; // HERE", true);
    let kernel = Module::parse("test.ptx", &text).and_then(|m| m.kernel("k")).unwrap();
    let params = [a, b].map(u64::to_le_bytes).concat();
    let launch = Launch::new([1, 1, 1], [1, 1, 1]);
    let fault = vm.launch(&kernel, &launch, &params).unwrap_err();
    let text = fault.to_string();
    assert_eq!((fault.kind, fault.address), (FaultKind::OutOfBounds, Some(a + 8)));
    assert!(
        text.contains(&format!("8 bytes into the allocation {a:#x}..{:#x} (256 bytes), which has been freed", a + 256)),
        "{text}"
    );
    assert!(vm.read(a, &mut [0; 4]).unwrap_err().to_string().contains("which has been freed"));
}

#[test]
fn what_is_never_freed_is_reported_on_closing() {
    let vm = Vm::new(VmConfig { checked: true, ..VmConfig::default() });
    let kept = vm.alloc_labelled(1000, "weights").unwrap();
    let freed = vm.alloc(20).unwrap();
    let other = vm.alloc(24).unwrap();
    vm.free(freed).unwrap();
    let live = vm.live();
    assert_eq!(live.iter().map(|a| (a.ptr, a.bytes, a.number)).collect::<Vec<_>>(), [(kept, 1000, 0), (other, 24, 2)]);
    let error = vm.close().unwrap_err();
    let text = error.to_string();
    let expected = format!(
        "2 allocations (1024 bytes) were never freed: 1000 bytes at {kept:#x} (allocation 0, `weights`), 24 bytes at {other:#x} (allocation 2)"
    );
    assert_eq!(text, expected);

    let vm = Vm::new(VmConfig::default());
    let a = vm.alloc(1000).unwrap();
    vm.free(a).unwrap();
    assert_eq!(vm.close(), Ok(()));
}

#[test]
fn every_kind_of_fault_can_be_expected_by_a_launch_case() {
    let root = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let oops = ("ld.global.u32 %r3, [%rd3 + 4];", "ld.global.u32 %r3, [%rd3];");
    for (kind, faulty, fine) in [
        ("out_of_bounds", oops.0, oops.1),
        ("misaligned", "ld.global.u32 %r3, [%rd1 + 2];", "ld.global.u32 %r3, [%rd1 + 4];"),
        (
            "uninitialised",
            "ld.global.u32 %r3, [%rd2]; st.global.u32 [%rd3], %r3;",
            "ld.global.u32 %r3, [%rd1]; st.global.u32 [%rd3], %r3;",
        ),
        ("race", "st.shared.u32 [tile], %r0;", "st.shared.u32 [%r1], %r0;"),
        ("barrier", "@%p0 bar.sync 0;", "bar.sync 0;"),
        ("unknown_opcode", "frob.u32 %r3, %r0;", "mov.u32 %r3, %r0;"),
    ] {
        let dir = root.join(format!("expect_{kind}"));
        std::fs::create_dir_all(&dir).unwrap();
        let case = format!(
            r#"{{"ptx": "k.ptx", "entry": "k", "grid": [1, 1, 1], "block": [64, 1, 1], "expect_fault": "{kind}", "args": [
                {{"kind": "buffer", "dtype": "u32", "len": 64, "init": "data.bin"}}, {{"kind": "buffer", "dtype": "u32", "len": 64}}]}}"#
        );
        std::fs::write(dir.join("case.json"), case).unwrap();
        std::fs::write(dir.join("data.bin"), [0; BYTES]).unwrap();
        // Kinds that need checked mode turn it on by themselves.
        for (body, ok) in [(faulty, true), (fine, false)] {
            std::fs::write(dir.join("k.ptx"), source(body, true)).unwrap();
            let outcome = run_case(&dir, &VmConfig::default()).unwrap();
            assert_eq!(outcome.ok, ok, "{kind}: {outcome:?}");
            assert_eq!(outcome.fault_kind.as_deref() == Some(kind), ok, "{kind}: {outcome:?}");
        }
    }
}

#[test]
fn a_report_names_the_source_through_inlined_calls() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/fault_inlined_read_past_end");
    let outcome = run_case(&dir, &VmConfig::default()).unwrap();
    let report = outcome.fault.unwrap();
    let line = std::fs::read_to_string(dir.join("kernel.ptx")).unwrap();
    let line = line.lines().position(|l| l.contains("+4]")).unwrap() + 1;
    for part in [
        format!("kernel.ptx:{line} (kernel.cu:3, inlined at kernel.cu:6, inlined at kernel.cu:10)"),
        "ld.global.f32".to_owned(),
        "4 bytes past the end of the allocation `pairs_param_0`".to_owned(),
        "thread (31, 0, 0)".to_owned(),
    ] {
        assert!(report.contains(&part), "no `{part}` in {report}");
    }
}
