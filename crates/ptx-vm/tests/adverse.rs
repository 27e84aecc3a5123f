//! Adverse mode: correct kernels compute the same, kernels that lack a wait, a fence or a barrier do not, and a seed repeats a run.

use ptx_vm::case::run_case;
use ptx_vm::{Launch, Module, Vm, VmConfig};
use std::path::Path;

#[test]
fn correct_kernels_compute_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut ran = 0;
    for dir in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("oracle_") {
            continue;
        }
        for (seed, checked) in [(1, false), (2, false), (3, true)] {
            let outcome = run_case(&dir, &VmConfig { checked, ..VmConfig::adverse(seed) }).unwrap();
            assert!(outcome.ok, "{name}, seed {seed}, {checked}: {:?} {:?}", outcome.fault, outcome.message);
            ran += 1;
        }
    }
    assert!(ran > 150);
}

/// A kernel of `threads` threads that leaves a word for each in `out`; `+` lines are in the correct one only.
struct Flaw {
    what: &'static str,
    threads: u32,
    blocks: u32,
    body: &'static str,
}

const FLAWS: &[Flaw] = &[
    Flaw {
        what: "a barrier between a store and another warp's load",
        threads: 128,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0;
               + bar.sync 0;
               ld.shared.u32 %r9, [%r2 + -4];",
    },
    Flaw {
        what: "a barrier before a buffer is used again",
        threads: 128,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r9, [%r2 + -4];
               + bar.sync 0;
               add.u32 %r3, %r0, 1000; st.shared.u32 [%r1], %r3;",
    },
    Flaw {
        what: "a __syncwarp between lanes",
        threads: 32,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0;
               + bar.warp.sync -1;
               ld.shared.u32 %r9, [%r2 + -4];",
    },
    Flaw {
        what: "the wait for a copy",
        threads: 64,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0;
               cp.async.ca.shared.global [%r1], [%rd4], 4; cp.async.commit_group;
               + cp.async.wait_group 0;
               bar.sync 0; ld.shared.u32 %r9, [%r2 + -4];",
    },
    Flaw {
        what: "one stage of a wait",
        threads: 64,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0; st.shared.u32 [%r1 + 512], %r0;
               cp.async.ca.shared.global [%r1], [%rd4], 4; cp.async.commit_group;
               cp.async.ca.shared.global [%r1 + 512], [%rd4], 4; cp.async.commit_group;
               + cp.async.wait_group 0;
               - cp.async.wait_group 1;
               bar.sync 0; ld.shared.u32 %r9, [%r2 + 508];",
    },
    Flaw {
        what: "the commit of a group",
        threads: 64,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0;
               cp.async.ca.shared.global [%r1], [%rd4], 4;
               + cp.async.commit_group;
               cp.async.wait_group 0;
               bar.sync 0; ld.shared.u32 %r9, [%r2 + -4];",
    },
    Flaw {
        what: "the barrier behind a wait",
        threads: 128,
        blocks: 1,
        body: "st.shared.u32 [%r1], %r0; bar.sync 0;
               cp.async.ca.shared.global [%r1], [%rd4], 4; cp.async.commit_group; cp.async.wait_group 0;
               + bar.sync 0;
               ld.shared.u32 %r9, [%r2 + -4];",
    },
    Flaw {
        what: "the wait for an mbarrier that counts a bulk copy",
        threads: 32,
        blocks: 1,
        body: "setp.eq.u32 %p2, %r0, 0; st.shared.u32 [%r1], %r0;
               @%p2 mbarrier.init.shared.b64 [bars], 1; fence.proxy.async.shared::cta; bar.sync 0;
               @%p2 mbarrier.arrive.expect_tx.shared.b64 _, [bars], 128;
               @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd2], 128, [bars];
               bar.sync 0;
               + WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [bars], 0; @!%p3 bra WAIT;
               ld.shared.u32 %r9, [%r1];",
    },
    Flaw {
        what: "the fence of a flag between blocks",
        threads: 32,
        blocks: 2,
        body: "mov.u32 %r3, %ctaid.x; setp.eq.u32 %p2, %r3, 0; setp.eq.u32 %p4, %r0, 0; mov.u32 %r9, 1;
               @%p2 bra WRITE;
               WAIT: ld.volatile.global.u32 %r4, [%rd5 + 512]; setp.eq.u32 %p3, %r4, 0; @%p3 bra WAIT;
               + fence.acq_rel.gpu;
               ld.global.u32 %r9, [%rd6]; bra DONE;
               WRITE: add.u32 %r5, %r0, 77; st.global.u32 [%rd6], %r5; bar.warp.sync -1;
               + fence.acq_rel.gpu;
               bar.sync 0;
               @%p4 st.volatile.global.u32 [%rd5 + 512], 1;
               DONE:",
    },
    Flaw {
        what: "a first value",
        threads: 32,
        blocks: 1,
        body: "+ mov.u32 %r9, 0;
               add.u32 %r9, %r9, %r0;",
    },
];

/// `%r1` is the thread's place in `tile`, `%r2` that of the thread opposite plus 4; `%rd4` its word of the input, which is 100 + thread.
fn source(body: &str, correct: bool) -> String {
    let keep = |line: &&str| !line.trim_start().starts_with(if correct { '-' } else { '+' });
    let clean = |line: &str| line.trim_start().trim_start_matches(['+', '-']).to_owned();
    let body: Vec<String> = body.lines().filter(keep).map(clean).collect();
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in, .param .u64 work) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
          .shared .align 16 .b8 tile[4096]; .shared .align 8 .b64 bars[1];
          ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [in]; ld.param.u64 %rd5, [work];
          mov.u32 %r0, %tid.x; mov.u32 %r10, tile; shl.b32 %r11, %r0, 2; add.u32 %r1, %r10, %r11;
          mov.u32 %r12, %ntid.x; shl.b32 %r12, %r12, 2; add.u32 %r12, %r12, %r10; sub.u32 %r2, %r12, %r11;
          cvt.u64.u32 %rd3, %r11; add.s64 %rd4, %rd2, %rd3; add.s64 %rd6, %rd5, %rd3;
          {}
          mov.u32 %r15, %ctaid.x; mov.u32 %r16, %ntid.x; mad.lo.u32 %r15, %r15, %r16, %r0; mul.wide.u32 %rd7, %r15, 4;
          add.s64 %rd8, %rd1, %rd7; st.global.u32 [%rd8], %r9; ret;\n}}\n",
        body.join("\n")
    )
}

fn run(flaw: &Flaw, correct: bool, config: VmConfig) -> Vec<u8> {
    let text = source(flaw.body, correct);
    let kernel = Module::parse("k.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(20_000_000), ..config });
    let bytes = (4 * flaw.threads * flaw.blocks) as usize;
    let (out, input, work) = (vm.alloc(bytes).unwrap(), vm.alloc(1024).unwrap(), vm.alloc(1024).unwrap());
    vm.write(input, &(0..256u32).flat_map(|i| (100 + i).to_le_bytes()).collect::<Vec<_>>()).unwrap();
    vm.fill(work, 0, 1024).unwrap();
    let params = [out, input, work].map(u64::to_le_bytes).concat();
    let launch = Launch::new([flaw.blocks, 1, 1], [flaw.threads, 1, 1]);
    vm.launch(&kernel, &launch, &params).unwrap_or_else(|fault| panic!("{}: {fault}", flaw.what));
    let mut words = vec![0; bytes];
    vm.read(out, &mut words).unwrap();
    words
}

#[test]
fn what_is_missing_shows() {
    let mut unseen = Vec::new();
    for flaw in FLAWS {
        let right = run(flaw, true, VmConfig::default());
        for seed in 0..12 {
            assert_eq!(run(flaw, true, VmConfig::adverse(seed)), right, "correct, {}, seed {seed}", flaw.what);
        }
        let wrong = (0..12).filter(|seed| run(flaw, false, VmConfig::adverse(*seed)) != right).count();
        if wrong == 0 {
            unseen.push(flaw.what);
        }
    }
    assert!(unseen.is_empty(), "not seen by 12 seeds: {unseen:?}");
}

#[test]
fn a_seed_repeats_a_run_on_any_number_of_threads() {
    let flaw = &FLAWS[0];
    let runs: Vec<Vec<u8>> = (0..8).map(|seed| run(flaw, false, VmConfig::adverse(seed))).collect();
    for (seed, first) in (0..).zip(&runs) {
        for threads in [1, 3] {
            assert_eq!(&run(flaw, false, VmConfig { threads, ..VmConfig::adverse(seed) }), first, "seed {seed}");
        }
    }
    assert!(runs.iter().any(|run| *run != runs[0]), "all seeds do the same");
}

#[test]
fn fresh_memory_is_poison() {
    let vm = Vm::new(VmConfig::adverse(1));
    let fresh = vm.alloc(64).unwrap();
    let mut bytes = [0; 64];
    vm.read(fresh, &mut bytes).unwrap();
    assert_eq!(bytes, [0xff; 64]);
}

/// Whatever is late, of two stores to one place that a barrier orders the second one stays.
#[test]
fn stores_keep_their_order() {
    let body = "add.u32 %r3, %r0, 1; st.global.u32 [%rd6], %r3;
                bar.sync 0;
                add.u32 %r3, %r0, 2; st.global.u32 [%rd6], %r3;
                mov.u32 %r4, 0;
                AGAIN: st.global.u32 [%rd6 + 128], %r4; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 40; @%p2 bra AGAIN;
                ld.global.u32 %r9, [%rd6];";
    let flaw = Flaw { what: "nothing", threads: 32, blocks: 1, body };
    let right = run(&flaw, true, VmConfig::default());
    for seed in 0..200 {
        assert_eq!(run(&flaw, true, VmConfig::adverse(seed)), right, "seed {seed}");
    }
}

/// What a warp stores as a matrix goes behind what its lanes have stored before, also when only a `bar.warp.sync` stands between.
#[test]
fn matrices_are_stored_behind_what_was_stored_before() {
    for order in ["", "bar.warp.sync -1;"] {
        let body = format!(
            "and.b32 %r3, %r0, 7; shl.b32 %r3, %r3, 4; add.u32 %r3, %r3, %r10;
             st.shared.u32 [%r1], %r12; {order}
             stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {{%r0}};
             bar.warp.sync -1; ld.shared.u32 %r9, [%r1];"
        );
        let body = Box::leak(body.into_boxed_str());
        let flaw = Flaw { what: "nothing", threads: 32, blocks: 1, body };
        let right = run(&flaw, true, VmConfig::default());
        assert_eq!(right, (0..32u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        for seed in 0..100 {
            assert_eq!(run(&flaw, true, VmConfig::adverse(seed)), right, "{order} seed {seed}");
        }
    }
}

/// A copy that cannot be made is told of as ever: its source may be outside memory, or its target.
#[test]
fn copies_are_checked() {
    let fault = |address: &str, from: u64, config: VmConfig| {
        let body = format!(
            "mov.u64 %rd4, {from};\nmov.u32 %r1, {address};\ncp.async.ca.shared.global [%r1], [%rd4], 4;\n\
             cp.async.wait_all;\nld.shared.u32 %r9, [%r1];"
        );
        let kernel = Module::parse("k.ptx", &source(&body, true)).and_then(|m| m.kernel("k")).unwrap();
        let vm = Vm::new(config);
        let out = vm.alloc(128).unwrap();
        let launch = Launch::new([1, 1, 1], [32, 1, 1]);
        let params = [out, out, out].map(u64::to_le_bytes).concat();
        let fault = vm.launch(&kernel, &launch, &params).unwrap_err();
        (fault.kind, fault.line, fault.thread, fault.address)
    };
    // Outside memory, in the window of shared memory, and not aligned.
    for (address, from) in [("tile", 64), ("tile", (1 << 36) + (1 << 20)), ("0x100000", 64), ("tile", 66), ("2", 64)] {
        let plain = fault(address, from, VmConfig::default());
        for seed in 0..8 {
            assert_eq!(fault(address, from, VmConfig::adverse(seed)), plain, "{address}, {from}, seed {seed}");
        }
    }
}
