//! Speed of the VM on this machine's CPU: `cargo bench -p ptx-vm`. Kernels in `benches/ptx/bench.cu`, compiled with NVRTC 12.0.140 for
//! compute_80. Figures are the best of several runs, ratios those of alternating ones.
//!
//! Words behind `--` choose kernels and modes by parts of their names: `cargo bench -p ptx-vm --bench speed -- GEMM plain`.

use ptx_vm::{Kernel, Launch, Module, Vm, VmConfig};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn params(parts: &[&[u8]]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for p in parts {
        out.resize(out.len().next_multiple_of(p.len()), 0);
        out.extend_from_slice(p);
    }
    out
}

/// A kernel with its memory, ready to be launched on one device.
struct Work {
    vm: Vm,
    kernel: Arc<Kernel>,
    launch: Launch,
    params: Vec<u8>,
}

impl Work {
    fn run(&self) {
        self.vm.launch(&self.kernel, &self.launch, &self.params).expect("the kernel runs");
    }
}

/// A chain of `fma`: instructions without memory.
fn chain(module: &Module, vm: Vm) -> Result<Work, Box<dyn Error>> {
    let y = vm.alloc(64 * 128 * 4)?;
    let parts = [&y.to_le_bytes()[..], &0.999f32.to_le_bytes(), &0.5f32.to_le_bytes(), &200i32.to_le_bytes()];
    let launch = Launch::new([64, 1, 1], [128, 1, 1]);
    Ok(Work { vm, kernel: module.kernel("chain")?, launch, params: params(&parts) })
}

/// `y += a x` over 4 M elements.
fn axpy(module: &Module, vm: Vm) -> Result<Work, Box<dyn Error>> {
    let n = 4 << 20;
    let (x, y) = (vm.alloc(n * 4)?, vm.alloc(n * 4)?);
    vm.fill(x, 0, n * 4)?;
    vm.fill(y, 0, n * 4)?;
    let parts = [&x.to_le_bytes()[..], &y.to_le_bytes(), &2f32.to_le_bytes(), &(n as i32).to_le_bytes()];
    let launch = Launch::new([256, 1, 1], [256, 1, 1]);
    Ok(Work { vm, kernel: module.kernel("axpy")?, launch, params: params(&parts) })
}

/// A product of 512^3 by `mma`, whose result is looked at; `one` is the number in the format of the operands.
fn gemm(module: &Module, vm: Vm, one: u16) -> Result<Work, Box<dyn Error>> {
    let d = 512usize;
    let (a, b, c) = (vm.alloc(d * d * 2)?, vm.alloc(d * d * 2)?, vm.alloc(d * d * 4)?);
    let ones: Vec<u8> = (0..d * d).flat_map(|_| one.to_le_bytes()).collect();
    vm.write(a, &ones)?;
    vm.write(b, &ones)?;
    let i = (d as i32).to_le_bytes();
    let parts = [&a.to_le_bytes()[..], &b.to_le_bytes(), &c.to_le_bytes(), &i, &i, &i];
    let launch = Launch::new([4, 4, 1], [128, 1, 1]);
    let work = Work { vm, kernel: module.kernel("gemm_f16")?, launch, params: params(&parts) };
    work.run();
    let mut out = vec![0u8; d * d * 4];
    work.vm.read(c, &mut out)?;
    assert!(out.chunks(4).all(|v| v == 512f32.to_le_bytes()), "the product is wrong");
    Ok(work)
}

fn gemm_f16(module: &Module, vm: Vm) -> Result<Work, Box<dyn Error>> {
    gemm(module, vm, 0x3c00)
}

/// The kernel for f16 with another kind of `mma`.
fn gemm_bf16(_: &Module, vm: Vm) -> Result<Work, Box<dyn Error>> {
    gemm(&Module::parse("bench.ptx", &PTX.replace(".f16.f16.f32", ".bf16.bf16.f32"))?, vm, 0x3f80)
}

const PTX: &str = include_str!("ptx/bench.ptx");

type Prepare = fn(&Module, Vm) -> Result<Work, Box<dyn Error>>;

fn main() -> Result<(), Box<dyn Error>> {
    let module = Module::parse("bench.ptx", PTX)?;
    let plain = || VmConfig { threads: 1, ..VmConfig::default() };
    let modes = [
        ("counting", VmConfig { counters: true, ..plain() }),
        ("checked", VmConfig { checked: true, ..plain() }),
        ("checked, races global", VmConfig { checked: true, global_races: true, ..plain() }),
        ("adverse", VmConfig { threads: 1, ..VmConfig::adverse(1) }),
        ("all cores", VmConfig::default()),
    ];
    let gemm_gflop = 2.0 * 512f64.powi(3) / 1e9;
    let kernels: [(&str, Prepare, f64, &str); 4] = [
        ("fma chain", chain, 64.0 * 128.0 * 200.0 * 32.0 / 1e9, "G lane operations/s"),
        ("axpy of 4M", axpy, f64::from(4 << 20) / 1e9, "G elements/s"),
        ("f16 mma GEMM 512^3", gemm_f16, gemm_gflop, "GFLOP/s"),
        ("bf16 mma GEMM 512^3", gemm_bf16, gemm_gflop, "GFLOP/s"),
    ];
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    // Those that a word names a part of; all when there are none.
    let chosen = |names: Vec<&'static str>| {
        let named: Vec<_> = names.iter().copied().filter(|name| words.iter().any(|word| name.contains(word))).collect();
        if named.is_empty() { names } else { named }
    };
    let chosen_kernels = chosen(kernels.iter().map(|kernel| kernel.0).collect());
    let chosen_modes = chosen(modes.iter().map(|mode| mode.0).chain(["plain"]).collect());
    for (name, prepare, amount, unit) in kernels.into_iter().filter(|kernel| chosen_kernels.contains(&kernel.0)) {
        let first = prepare(&module, Vm::new(plain()))?;
        let t = best(10, || first.run());
        println!("{name:<20} {:<22} {:9.2} ms  {:8.2} {unit}", "1 core", t * 1e3, amount / t);
        for (mode, config) in modes.iter().filter(|mode| chosen_modes.contains(&mode.0)) {
            let other = prepare(&module, Vm::new(config.clone()))?;
            // One after the other, so that a noisy machine is as noisy for both.
            let (mut plain, mut time) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..3 {
                plain = plain.min(best(2, || first.run()));
                time = time.min(best(1, || other.run()));
            }
            println!("{name:<20} {mode:<22} {:9.2} ms  {:8.2} times 1 core", time * 1e3, time / plain);
        }
    }
    Ok(())
}
