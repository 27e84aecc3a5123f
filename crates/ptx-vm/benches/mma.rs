//! Time of one `mma.sync` micro-kernel, for every instruction set of this machine: `cargo bench -p ptx-vm --bench mma`.

use divan::Bencher;
use divan::counter::ItemsCount;
use ptx_vm::math::mma::{Fragments, Kernel, Kernels, Lanes, available};

fn main() {
    divan::main();
}

#[repr(align(64))]
struct Registers([Lanes; 14]);

/// The instruction sets, by position in `available()`.
fn sets() -> impl Iterator<Item = Set> {
    available().into_iter().map(Set)
}

#[derive(Clone, Copy)]
struct Set(Kernels);

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.isa)
    }
}

/// Chains of accumulations into two alternating sets of registers, as kernels do. `pattern` is a harmless operand word.
fn run(bencher: Bencher<'_, '_>, kernel: Kernel, pattern: u32, macs: usize) {
    let mut registers = Registers([[pattern; 32]; 14]);
    registers.0[6..].fill([0; 32]);
    let reg = |i: usize| registers.0.as_ptr().wrapping_add(i).cast_mut();
    let fragments = [6, 10].map(|c| Fragments {
        d: [reg(c), reg(c + 1), reg(c + 2), reg(c + 3)],
        a: [reg(0), reg(1), reg(2), reg(3)].map(|p| p.cast_const()),
        b: [reg(4), reg(5)].map(|p| p.cast_const()),
        c: [reg(c), reg(c + 1), reg(c + 2), reg(c + 3)].map(|p| p.cast_const()),
    });
    bencher.counter(ItemsCount::new(2 * 2 * macs)).bench_local(|| {
        for f in &fragments {
            // SAFETY: all pointers are registers of `registers`, which outlives the loop and is used by nothing else.
            unsafe { kernel(divan::black_box(f)) };
        }
    });
}

/// Two `m16n8k16`; the items are floating-point operations.
#[divan::bench(args = sets())]
fn m16n8k16_bf16(bencher: Bencher<'_, '_>, set: Set) {
    run(bencher, set.0.m16n8k16_bf16, 0x3c80_bd00, 16 * 8 * 16);
}

/// Two `m16n8k16`; the items are floating-point operations.
#[divan::bench(args = sets())]
fn m16n8k16_f16(bencher: Bencher<'_, '_>, set: Set) {
    run(bencher, set.0.m16n8k16_f16, 0x2c00_ac80, 16 * 8 * 16);
}

/// Two `m16n8k16` with f16 accumulators; the items are floating-point operations.
#[divan::bench(args = sets())]
fn m16n8k16_f16_f16(bencher: Bencher<'_, '_>, set: Set) {
    run(bencher, set.0.m16n8k16_f16_f16, 0x2c00_ac80, 16 * 8 * 16);
}

/// Two `m16n8k8`; the items are floating-point operations.
#[divan::bench(args = sets())]
fn m16n8k8_tf32(bencher: Bencher<'_, '_>, set: Set) {
    run(bencher, set.0.m16n8k8_tf32, 0x3d80_0000, 16 * 8 * 8);
}
