//! Kernels with `wgmma` that nvcc compiled (`tests/ptx/wgmma_*.cu`): they compute what they must in every mode, and without one of the
//! instructions that order something checked mode finds it missing.

use half::{bf16, f16};
use ptx_vm::{Fault, Kernel, Launch, MmaRounding, Module, Vm, VmConfig};
use std::sync::Arc;

const GEMM: &str = include_str!("../ptx/wgmma_gemm.ptx");
const ATTENTION: &str = include_str!("../ptx/wgmma_attention.ptx");

/// A kernel of these: loads, launches, and says whether what it computes is right.
type Runs = fn(&str, VmConfig) -> Result<bool, Fault>;

fn kernel(text: &str, name: &str) -> Arc<Kernel> {
    Module::parse("k.ptx", text).and_then(|module| module.kernel(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers from -1 to 1.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Launches one block; the last of the buffers, given by their content, is the result.
fn launch(kernel: &Kernel, threads: u32, buffers: &[Vec<u8>], rest: &[u8], config: VmConfig) -> Result<Vec<u8>, Fault> {
    let vm = Vm::new(VmConfig { threads: 1, ..config });
    let mut params = Vec::new();
    let mut last = 0;
    for bytes in buffers {
        last = vm.alloc(bytes.len()).unwrap();
        vm.write(last, bytes).unwrap();
        params.extend(last.to_le_bytes());
    }
    params.extend(rest);
    vm.launch(kernel, &Launch::new([1, 1, 1], [threads, 1, 1]), &params)?;
    let mut out = vec![0; buffers[buffers.len() - 1].len()];
    vm.read_anyway(last, &mut out).unwrap();
    Ok(out)
}

fn gemm(text: &str, config: VmConfig) -> Result<bool, Fault> {
    let (m, n, k) = (128, 16, 128);
    let [a, b] =
        [(m * k, 1), (n * k, 2)].map(|(count, seed)| numbers(count, seed).into_iter().map(bf16::from_f64).collect());
    let bytes = |x: &Vec<bf16>| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let buffers = [bytes(&a), bytes(&b), vec![0; m * n * 4]];
    let out = launch(&kernel(text, "wgmma_gemm"), 256, &buffers, &(k as i32).to_le_bytes(), config)?;
    let right = |(i, x): (usize, &[u8])| {
        let (row, column) = (i / n, i % n);
        let want: f64 = (0..k).map(|i| a[row * k + i].to_f64() * b[column * k + i].to_f64()).sum();
        (f64::from(f32::from_le_bytes(x.try_into().unwrap())) - want).abs() < 2e-5
    };
    Ok(out.chunks_exact(4).enumerate().all(right))
}

fn attention(text: &str, config: VmConfig) -> Result<bool, Fault> {
    let (queries, keys, d, scale) = (64, 96, 16, 0.5f32);
    let [q, k, v] = [(queries, 3), (keys, 4), (keys, 5)]
        .map(|(rows, seed)| numbers(rows * d, seed).into_iter().map(|x| f16::from_f64(2.0 * x)).collect());
    let bytes = |x: &Vec<f16>| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let buffers = [bytes(&q), bytes(&k), bytes(&v), vec![0; queries * d * 2]];
    let rest = [(keys as i32).to_le_bytes(), scale.to_le_bytes()].concat();
    let out = launch(&kernel(text, "wgmma_attention"), 128, &buffers, &rest, config)?;
    let right = |row: usize| {
        let score = |key: usize| -> f64 { (0..d).map(|i| q[row * d + i].to_f64() * k[key * d + i].to_f64()).sum() };
        let scores: Vec<f64> = (0..keys).map(|key| score(key) * f64::from(scale)).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        (0..d).all(|i| {
            let sum: f64 = (0..keys).map(|key| weights[key] * v[key * d + i].to_f64()).sum();
            let got = &out[2 * (row * d + i)..][..2];
            (f16::from_le_bytes([got[0], got[1]]).to_f64() - sum / weights.iter().sum::<f64>()).abs() < 3e-3
        })
    };
    Ok((0..queries).all(right))
}

fn checked() -> VmConfig {
    VmConfig { checked: true, ..VmConfig::default() }
}

#[test]
fn every_instruction_that_orders_is_needed() {
    let orders =
        ["wgmma.fence", "wgmma.commit_group", "wgmma.wait_group", "fence.proxy.async", "bar.sync", "cp.async.wait_all"];
    let kernels: [(&str, Runs, usize); 2] = [(GEMM, gemm, 7), (ATTENTION, attention, 9)];
    for (text, runs, count) in kernels {
        let lines: Vec<&str> = text.lines().collect();
        let mut found = 0;
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| orders.iter().any(|o| line.contains(o))) {
            found += 1;
            let mut without = lines.clone();
            without[i] = "";
            let without = without.join("\n");
            let outcome = runs(&without, checked());
            // What `cp.async` has written needs no fence between proxies, and who has waited for a product may overwrite its operands.
            let last = !lines[i + 1..].iter().any(|line| line.contains("bar.sync"));
            let spare = if text == GEMM { line.contains("proxy") } else { line.contains("bar.sync") && last };
            if spare {
                assert_eq!(outcome, Ok(true));
                continue;
            }
            let fault = outcome.expect_err(line);
            assert!(fault.kind == ptx_vm::FaultKind::Race, "{line}: {fault}");
            // Hardware may do what it likes without a wait, a commit or a barrier.
            if !line.contains("fence") {
                let wrong = (0..3).filter(|seed| runs(&without, VmConfig::adverse(*seed)) != Ok(true)).count();
                assert!(wrong > 0, "without line {}, {line}", i + 1);
            }
        }
        assert_eq!(found, count);
    }
}

#[test]
fn they_compute_the_same_in_every_mode() {
    let truncating = VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() };
    let races = VmConfig { global_races: true, ..checked() };
    let counting = VmConfig { counters: true, ..VmConfig::default() };
    for config in (0..6).map(VmConfig::adverse).chain([VmConfig::default(), races, counting, truncating]) {
        assert_eq!(gemm(GEMM, config.clone()), Ok(true));
        assert_eq!(attention(ATTENTION, config), Ok(true));
    }
}
