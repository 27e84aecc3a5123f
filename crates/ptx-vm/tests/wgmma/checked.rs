//! What checked mode finds in kernels with `wgmma`: each fault, and the repaired kernel, which reports nothing and computes the same.
//!
//! Lines that begin with `-` are in the faulty kernel only, lines that begin with `+` in the repaired one only.

use super::product::{Format, PLAIN, Place, Product};
use super::{FLOATS, INTEGERS};
use ptx_vm::{Fault, FaultKind, VmConfig};

pub(crate) fn checked() -> VmConfig {
    VmConfig { threads: 1, checked: true, ..VmConfig::default() }
}

const PRODUCT: Product = Product {
    a: Format::Bf16,
    b: Format::Bf16,
    half: false,
    n: 16,
    place_a: Some(Place { swizzle: 128, ..PLAIN }),
    place_b: PLAIN,
    keep: true,
    negate: [false; 2],
    satfinite: false,
    seed: 1,
};

/// The same with A in registers.
const REGISTERS: Product = Product { place_a: None, ..PRODUCT };

/// The body with the faults, or without. `MMA` stands for the product, `FENCE`, `COMMIT` and `WAIT` for what belongs to it.
pub(crate) fn variant(product: &Product, body: &str, faulty: bool) -> String {
    let keep = |line: &&str| !line.trim_start().starts_with(if faulty { '+' } else { '-' });
    let lines: Vec<String> = body
        .lines()
        .filter(keep)
        .map(|line| line.trim_start().trim_start_matches(['+', '-']).replace("MMA", &product.instruction()))
        .collect();
    let body = [
        ("FENCE", "fence.sync.aligned;"),
        ("COMMIT", "commit_group.sync.aligned;"),
        ("WAIT", "wait_group.sync.aligned 0;"),
    ]
    .iter()
    .fold(lines.join("\n"), |text, (word, rest)| text.replace(word, &format!("wgmma.{rest}")));
    product.kernel(&body)
}

fn fault(product: &Product, body: &str) -> Fault {
    let run = |faulty| product.run(&variant(product, body, faulty), checked());
    if let Err(fault) = run(false) {
        panic!("the repaired kernel: {fault}\n{body}");
    }
    match run(true) {
        Ok(_) => panic!("nothing is reported of\n{body}"),
        Err(fault) => fault,
    }
}

/// The kind, what the report says, and the body.
type Plant = (FaultKind, &'static str, &'static str);

fn check(product: &Product, plants: &[Plant]) {
    for (kind, says, body) in plants {
        let fault = fault(product, body);
        assert!(fault.kind == *kind && fault.message.contains(says), "{fault} instead of {kind} `{says}`\n{body}");
    }
}

#[test]
fn correct_kernels_report_nothing() {
    for (a, b, half) in FLOATS {
        let mn_major = a.bytes() == 2;
        Product { half, ..Product::new(a, b, 72) }.check(checked());
        let place = Place { swizzle: 64, mn_major, ..PLAIN };
        Product { half, keep: false, place_a: None, place_b: place, ..Product::new(a, b, 32) }.check(checked());
    }
    for (a, b) in INTEGERS {
        Product { satfinite: true, ..Product::new(a, b, 48) }.check(checked());
    }
}

#[test]
fn results_are_waited_for() {
    let read = "an accumulator of the wgmma in line";
    check(
        &PRODUCT,
        &[
            (
                FaultKind::Race,
                "is read here with no `wgmma.wait_group`",
                "FENCE MMA COMMIT
              + WAIT",
            ),
            (
                FaultKind::Race,
                read,
                "FENCE MMA
              + COMMIT
              WAIT",
            ),
            (
                FaultKind::Race,
                read,
                "FENCE MMA COMMIT
              - wgmma.wait_group.sync.aligned 1;
              + WAIT",
            ),
            (
                FaultKind::Race,
                "is written here",
                "FENCE MMA COMMIT
              - mov.b32 %d3, 0;
              WAIT
              + mov.b32 %d3, 0;",
            ),
            // A copy of what is pending is pending.
            (
                FaultKind::Race,
                read,
                "FENCE MMA COMMIT
              mov.b32 %r8, %d3;
              - add.u32 %r8, %r8, 1;
              WAIT
              + add.u32 %r8, %r8, 1;",
            ),
        ],
    );
}

#[test]
fn registers_are_fenced() {
    check(
        &PRODUCT,
        &[
            (
                FaultKind::Race,
                "no `wgmma.fence` before its first wgmma",
                "+ FENCE
              MMA COMMIT WAIT",
            ),
            (
                FaultKind::Race,
                "an accumulator was written with no `wgmma.fence` in between",
                "FENCE MMA COMMIT WAIT
              add.f32 %d1, %d1, %d1;
              + FENCE
              MMA COMMIT WAIT",
            ),
            (
                FaultKind::Race,
                "one of a wgmma of another shape",
                "FENCE MMA COMMIT WAIT
              + FENCE
              wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%d0, %d1, %d2, %d3}, %rd5, %rd6, 0, 1, 1, 0, 0;
              COMMIT WAIT",
            ),
            (
                FaultKind::Race,
                "is an operand here",
                "FENCE MMA
              + COMMIT
              + WAIT
              + FENCE
              wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%d0, %d1, %d2, %d3}, %rd5, %rd6, 0, 1, 1, 0, 0;
              COMMIT WAIT",
            ),
        ],
    );
    check(
        &REGISTERS,
        &[
            (
                FaultKind::Race,
                "a register of A was written",
                "FENCE
              xor.b32 %a1, %a1, 0x80008000;
              + FENCE
              MMA COMMIT WAIT",
            ),
            (
                FaultKind::Race,
                "reads as A is written here",
                "FENCE MMA COMMIT
              - xor.b32 %a1, %a1, 0x80008000;
              WAIT
              + xor.b32 %a1, %a1, 0x80008000;",
            ),
        ],
    );
}

#[test]
fn chains_need_no_fence_between() {
    let body = "FENCE MMA
        MMA COMMIT
        MMA COMMIT WAIT";
    PRODUCT.run(&variant(&PRODUCT, body, false), checked()).unwrap();
}

#[test]
fn copies_that_compilers_make_are_no_accesses() {
    // Accumulators move to registers of their own for each product, and back.
    let d: Vec<String> = (0..8).map(|i| format!("%e{i}")).collect();
    let other = PRODUCT.instruction().replace("%d0, %d1, %d2, %d3, %d4, %d5, %d6, %d7", &d.join(", "));
    let moves = |to: &str, from: &str| (0..8).map(|i| format!("mov.b32 %{to}{i}, %{from}{i};\n")).collect::<String>();
    let body = format!(".reg .b32 %e<8>;\nFENCE\nMMA\n{}{other}\n{}MMA COMMIT WAIT", moves("e", "d"), moves("d", "e"));
    let twice = "FENCE\nMMA\nMMA\nMMA COMMIT WAIT";
    let want = PRODUCT.run(&variant(&PRODUCT, twice, false), checked()).unwrap().0;
    assert_eq!(PRODUCT.run(&variant(&PRODUCT, &body, false), checked()).unwrap().0, want);
    for seed in 0..4 {
        let config = VmConfig { threads: 1, ..VmConfig::adverse(seed) };
        assert_eq!(PRODUCT.run(&variant(&PRODUCT, &body, false), config).unwrap().0, want);
    }
}

#[test]
fn shared_memory_is_ordered() {
    let read = "which nobody here knows to be complete";
    check(
        &PRODUCT,
        &[
            (
                FaultKind::Race,
                read,
                "FENCE MMA COMMIT
              mad.lo.u32 %r6, %r0, 4, %r2;
              - st.shared.b32 [%r6], %r0;
              WAIT
              + st.shared.b32 [%r6], %r0;",
            ),
            (
                FaultKind::Race,
                "no `fence.proxy.async` in between",
                "mad.lo.u32 %r6, %r0, 4, %r2; st.shared.b32 [%r6+14336], %r0;
              + fence.proxy.async;
              bar.sync 0;
              FENCE MMA COMMIT WAIT",
            ),
            // The reader's fence does as well.
            (
                FaultKind::Race,
                "no barrier in between",
                "mad.lo.u32 %r6, %r0, 4, %r2; st.shared.b32 [%r6+14336], %r0;
              fence.proxy.async;
              + bar.sync 0;
              FENCE MMA COMMIT WAIT",
            ),
        ],
    );
    // Who has waited for a product knows that it is complete in all warps of the warpgroup.
    let overwrite = "FENCE MMA COMMIT WAIT
        setp.eq.u32 %p2, %r0, 0;
        @%p2 st.shared.b32 [%r2+14336], %r0;";
    let (d, _) = PRODUCT.run(&variant(&PRODUCT, overwrite, false), checked()).unwrap();
    assert_eq!(d, PRODUCT.expected());
    for seed in 0..4 {
        let late = VmConfig { threads: 1, ..VmConfig::adverse(seed) };
        assert_eq!(PRODUCT.run(&variant(&PRODUCT, overwrite, false), late).unwrap().0, d);
    }
    let reader = "mad.lo.u32 %r6, %r0, 4, %r2; st.shared.b32 [%r6+14336], %r0; bar.sync 0; fence.proxy.async;
        FENCE MMA COMMIT WAIT";
    PRODUCT.run(&variant(&PRODUCT, reader, false), checked()).unwrap();
}

#[test]
fn undefined_operands_are_undefined_results() {
    // Nobody has written the registers of the last row of A, and what decides is a sum of that.
    let body = "FENCE MMA COMMIT WAIT
        - setp.eq.b32 %p3, %dREG, 0;
        + setp.eq.b32 %p3, %r0, 0;
        @%p3 mov.b32 %d0, 0;";
    let start = ".reg .b32 %u; setp.eq.u32 %p2, %r0, 31; @%p2 mov.b32 %a1, %u;\n";
    for register in [2, 7] {
        let body = start.to_owned() + &body.replace("REG", &register.to_string());
        let fault = fault(&REGISTERS, &body);
        assert!(fault.kind == FaultKind::Uninitialised && fault.thread == Some([28, 0, 0]), "{fault}");
    }
    // Row 7 is defined.
    let fine = start.to_owned() + &body.replace("REG", "0");
    REGISTERS.run(&variant(&REGISTERS, &fine, true), checked()).unwrap();
    // Of B somebody has written columns 0 to 2.
    let body = ".shared .align 16 .b8 fresh[1024];
        mov.u32 %r8, fresh; shr.u32 %r6, %r8, 4; cvt.u64.u32 %rd7, %r6;
        shr.u64 %rd6, %rd6, 14; shl.b64 %rd6, %rd6, 14; add.u64 %rd6, %rd6, %rd7;
        mad.lo.u32 %r6, %r0, 4, %r8; setp.lt.u32 %p2, %r0, 12;
        @%p2 st.shared.b32 [%r6], 0; @%p2 st.shared.b32 [%r6+144], 0;
        fence.proxy.async; bar.sync 0;
        FENCE MMA COMMIT WAIT
        and.b32 %r8, %r0, 3; setp.eq.u32 %p2, %r8, 1;
        - setp.eq.and.b32 %p3, %d1, 0, %p2;
        + setp.eq.and.b32 %p3, %d0, 0, %p2;
        @%p3 mov.b32 %d0, 0;";
    let fault = fault(&PRODUCT, body);
    assert!(fault.kind == FaultKind::Uninitialised && fault.thread == Some([1, 0, 0]), "{fault}");
}

#[test]
fn operands_of_the_instruction_are_defined() {
    let body = "FENCE
        - .reg .b64 %u; add.u64 %rd5, %rd5, %u;
        MMA COMMIT WAIT";
    let fault = fault(&PRODUCT, body);
    assert!(fault.kind == FaultKind::Uninitialised && fault.message.contains("a matrix descriptor"), "{fault}");
}

#[test]
fn warps_of_a_warpgroup_agree() {
    check(
        &PRODUCT,
        &[
            (
                FaultKind::Barrier,
                "the descriptors differ from those of warp 0",
                "FENCE
              - setp.lt.u32 %p2, %r0, 32; @!%p2 add.u64 %rd5, %rd5, 2;
              MMA COMMIT WAIT",
            ),
            (
                FaultKind::Barrier,
                "of the same warpgroup, has executed the wgmma in line",
                "FENCE
              - setp.lt.u32 %p2, %r0, 64;
              - @%p2 bra other;
              MMA
              - bra both;
              - other:
              - MMA
              - both:
              COMMIT WAIT",
            ),
            (
                FaultKind::Barrier,
                "warp 3, of the same warpgroup as warp 0, has ended without this wgmma",
                "FENCE
              - setp.lt.u32 %p2, %r0, 96;
              - @!%p2 bra over;
              MMA
              - over:
              COMMIT WAIT",
            ),
            (
                FaultKind::Barrier,
                "warp 0 waits with its warpgroup (96 of 128 threads)",
                "- setp.lt.u32 %p2, %r0, 96;
              - @!%p2 bra over;
              FENCE MMA COMMIT WAIT
              - over:",
            ),
            (
                FaultKind::Barrier,
                "",
                "FENCE
              - setp.lt.u32 %p2, %r0, 5;
              - @%p2 bra over;
              MMA
              - over:
              COMMIT WAIT",
            ),
        ],
    );
}
