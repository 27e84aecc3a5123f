//! `wgmma` in adverse mode, where operands are read and results come when their warp waits for them, and faults that any mode finds.

use super::checked::variant;
use super::product::{Format, PLAIN, Place, Product};
use super::{FLOATS, INTEGERS};
use ptx_vm::{Fault, FaultKind, Launch, Module, Vm, VmConfig};

fn adverse(seed: u64) -> VmConfig {
    VmConfig { threads: 1, ..VmConfig::adverse(seed) }
}

fn product() -> Product {
    Product { place_a: Some(Place { swizzle: 128, ..PLAIN }), ..Product::new(Format::F16, Format::F16, 24) }
}

#[test]
fn correct_kernels_compute_the_same() {
    for seed in 0..3 {
        for (a, b, half) in FLOATS {
            Product { half, ..Product::new(a, b, 40) }.check(adverse(seed));
            Product { half, place_a: None, keep: false, ..Product::new(a, b, 64) }.check(adverse(seed));
        }
        for (a, b) in INTEGERS {
            Product { satfinite: true, ..Product::new(a, b, 16) }.check(adverse(seed));
        }
    }
}

/// Kernels that lack something compute something else.
#[test]
fn what_is_not_waited_for_has_not_come() {
    let bodies = [
        "FENCE MMA COMMIT
         + WAIT",
        "FENCE MMA
         + COMMIT
         WAIT",
        // The first group may be all that has come.
        "FENCE MMA COMMIT
         MMA COMMIT
         - wgmma.wait_group.sync.aligned 1;
         + WAIT",
        // A is overwritten before it is read.
        "FENCE MMA COMMIT
         + WAIT
         + bar.sync 0;
         mad.lo.u32 %r6, %r0, 4, %r2; st.shared.b32 [%r6], %r0;
         bar.sync 0;
         - WAIT",
    ];
    for body in bodies {
        let run = |faulty, config| product().run(&variant(&product(), body, faulty), config).unwrap().0;
        let want = run(false, VmConfig { threads: 1, ..VmConfig::default() });
        for seed in 0..4 {
            assert_eq!(run(false, adverse(seed)), want, "{body}");
            assert_ne!(run(true, adverse(seed)), want, "{body}");
        }
    }
}

#[test]
fn groups_come_in_order() {
    // Two accumulators, the second of which is still pending when the first is used.
    let d: Vec<String> = (0..12).map(|i| format!("%e{i}")).collect();
    let other = product().instruction().replace(&registers("d"), &d.join(", "));
    let sums: String = (0..12).map(|i| format!("add.f32 %d{i}, %d{i}, %d{i};\n")).collect();
    let both: String = (0..12).map(|i| format!("add.f32 %d{i}, %d{i}, %e{i};\n")).collect();
    let zero: String = (0..12).map(|i| format!("mov.b32 %e{i}, 0;\n")).collect();
    let body = format!(
        ".reg .b32 %e<12>;\n{zero}FENCE MMA COMMIT\n{other}\nCOMMIT
         wgmma.wait_group.sync.aligned 1;\n{sums}WAIT\n{both}"
    );
    let run = |config| product().run(&variant(&product(), &body, false), config).unwrap().0;
    let want = run(VmConfig { threads: 1, ..VmConfig::default() });
    assert_eq!(run(super::checked::checked()), want);
    for seed in 0..4 {
        assert_eq!(run(adverse(seed)), want);
    }
}

fn registers(name: &str) -> String {
    (0..12).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ")
}

/// Runs a body under every mode; all must say the same.
fn fault(body: &str) -> Fault {
    let text = variant(&product(), body, true);
    let modes = [VmConfig { threads: 1, ..VmConfig::default() }, super::checked::checked(), adverse(1)];
    let faults = modes.map(|config| product().run(&text, config).err().unwrap_or_else(|| panic!("no fault: {body}")));
    assert!(faults.iter().all(|f| f.kind == faults[0].kind), "{faults:?}");
    faults[0].clone()
}

#[test]
fn descriptors_are_checked() {
    let after = "FENCE MMA COMMIT WAIT";
    for (before, kind, says) in [
        ("or.b64 %rd6, %rd6, 0x10000000000000;", FaultKind::Trap, "of B, 0x00100020"),
        ("or.b64 %rd6, %rd6, 0x2000000000000;", FaultKind::Trap, "a base offset and no swizzle"),
        (
            "mov.u64 %rd5, 0x4000004000013fff;",
            FaultKind::OutOfBounds,
            "at shared memory offset 0x3ff80, and the block has 47104 bytes",
        ),
        (
            "cvt.u64.u32 %rd7, %r0; and.b64 %rd7, %rd7, 1; add.u64 %rd6, %rd6, %rd7;",
            FaultKind::Trap,
            "do not agree on the descriptor of B",
        ),
        ("and.b32 %r8, %r0, 1; setp.eq.u32 %p1, %r8, 1;", FaultKind::Trap, "do not agree on scale-d"),
    ] {
        let fault = fault(&format!("{before}\n{after}"));
        assert!(fault.kind == kind && fault.message.contains(says), "{fault}");
    }
}

/// Whatever a descriptor says, all modes agree on whether it can be read.
#[test]
fn random_descriptors_do_no_harm() {
    let text = product().kernel(&product().body());
    let mut state = 7u64;
    let (mut good, mut bad) = (0, 0);
    for _ in 0..150 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Few bits of what lies far, and seldom those that mean nothing.
        let bits = state & (state << 7) & 0xc00e_03ff_03ff_0fff | if state >> 60 == 0 { 1 << 55 } else { 0 };
        let text = text.replace("ld.param.u64 %rd6, [db];", &format!("mov.u64 %rd6, {bits};"));
        let modes = [VmConfig { threads: 1, ..VmConfig::default() }, super::checked::checked(), adverse(state)];
        let [plain, checked, late] = modes.map(|config| product().run(&text, config).map(|(d, _)| d));
        match (plain, late) {
            (Ok(plain), Ok(late)) => {
                assert!(plain == late && checked.is_ok(), "{bits:#x}");
                good += 1;
            }
            (Err(plain), Err(late)) => {
                assert!(plain.kind == late.kind && checked.is_err_and(|f| f.kind == plain.kind), "{bits:#x}");
                bad += 1;
            }
            (plain, late) => panic!("{bits:#x}: {plain:?} {late:?}"),
        }
    }
    assert!(good > 20 && bad > 20, "{good} {bad}");
}

#[test]
fn a_warpgroup_is_four_warps() {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k() {{ .reg .b32 %d<12>; .reg .b64 %rd<9>; .reg .pred %p<2>;
        .shared .align 1024 .b8 tile[8192]; mov.u64 %rd5, 0; mov.u64 %rd6, 0;
        wgmma.fence.sync.aligned; {} wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; ret; }}",
        product().instruction()
    );
    let kernel = Module::parse("k.ptx", &text).and_then(|module| module.kernel("k")).unwrap();
    for config in [VmConfig { threads: 1, ..VmConfig::default() }, adverse(1)] {
        let vm = Vm::new(config);
        let launch = |threads| vm.launch(&kernel, &Launch::new([1, 1, 1], [threads, 1, 1]), &[]);
        assert!(launch(128).is_ok() && launch(256).is_ok());
        for threads in [32, 96, 127, 160] {
            let fault = launch(threads).unwrap_err();
            let says = format!("warpgroups of 128 threads, and the block has {threads}");
            assert!(fault.kind == FaultKind::Barrier && fault.message.contains(&says), "{fault}");
        }
    }
}
