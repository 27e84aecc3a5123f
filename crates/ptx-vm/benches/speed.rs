//! Speed of the VM on this machine's CPU: `cargo bench -p ptx-vm`. Kernels in `benches/ptx/bench.cu`, compiled with NVRTC 12.0.140 for
//! compute_80. Figures are the best of several runs.

use ptx_vm::{Launch, Module, Vm, VmConfig};
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let module = Module::parse("bench.ptx", include_str!("ptx/bench.ptx"))?;
    for (threads, counters) in [(1, false), (1, true), (0, false)] {
        let vm = Vm::new(VmConfig { threads, counters, ..VmConfig::default() });
        let counting = if counters { ", counting" } else { "" };
        let cores = if threads == 0 { std::thread::available_parallelism()?.get() } else { threads };

        let kernel = module.kernel("chain")?;
        let y = vm.alloc(64 * 128 * 4)?;
        let steps = 200i32;
        let p = params(&[&y.to_le_bytes(), &0.999f32.to_le_bytes(), &0.5f32.to_le_bytes(), &steps.to_le_bytes()]);
        let launch = Launch { grid: [64, 1, 1], block: [128, 1, 1], dynamic_shared: 0 };
        let t = best(5, || {
            vm.launch(&kernel, &launch, &p).expect("chain");
        });
        let ops = 64.0 * 128.0 * f64::from(steps) * 32.0;
        println!(
            "{cores} cores{counting}  fma chain          {:8.2} G lane-ops/s  ({:.2} ns a warp instruction)",
            ops / t / 1e9,
            t * cores as f64 / (ops / 32.0) * 1e9
        );

        let n = 4 << 20;
        let kernel = module.kernel("axpy")?;
        let (x, y) = (vm.alloc(n * 4)?, vm.alloc(n * 4)?);
        vm.fill(x, 0, n * 4)?;
        vm.fill(y, 0, n * 4)?;
        let p = params(&[&x.to_le_bytes(), &y.to_le_bytes(), &2f32.to_le_bytes(), &(n as i32).to_le_bytes()]);
        let launch = Launch { grid: [256, 1, 1], block: [256, 1, 1], dynamic_shared: 0 };
        let t = best(5, || {
            vm.launch(&kernel, &launch, &p).expect("axpy");
        });
        println!(
            "{cores} cores{counting}  axpy of 4M         {:8.2} ms  ({:.2} G elements/s, {:.1} GB/s)",
            t * 1e3,
            n as f64 / t / 1e9,
            n as f64 * 12.0 / t / 1e9
        );

        let d = 512usize;
        let kernel = module.kernel("gemm_f16")?;
        let (a, b, c) = (vm.alloc(d * d * 2)?, vm.alloc(d * d * 2)?, vm.alloc(d * d * 4)?);
        let ones: Vec<u8> = (0..d * d).flat_map(|_| 0x3c00u16.to_le_bytes()).collect();
        vm.write(a, &ones)?;
        vm.write(b, &ones)?;
        let i = (d as i32).to_le_bytes();
        let p = params(&[&a.to_le_bytes(), &b.to_le_bytes(), &c.to_le_bytes(), &i, &i, &i]);
        let launch = Launch { grid: [4, 4, 1], block: [128, 1, 1], dynamic_shared: 0 };
        let t = best(10, || {
            vm.launch(&kernel, &launch, &p).expect("gemm");
        });
        let mut out = vec![0u8; d * d * 4];
        vm.read(c, &mut out)?;
        assert!(out.chunks(4).all(|v| v == 512f32.to_le_bytes()), "the product is wrong");
        println!(
            "{cores} cores{counting}  f16 mma GEMM 512^3 {:8.2} ms  ({:.1} GFLOP/s)",
            t * 1e3,
            2.0 * (d as f64).powi(3) / t / 1e9
        );
        for ptr in [x, a, b, c] {
            vm.free(ptr)?;
        }
    }
    Ok(())
}
