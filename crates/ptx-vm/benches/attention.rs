//! Flash attention as Triton compiles it: `cargo bench -p ptx-vm --bench attention`. Sequence 512, head size 64, two heads, f16.
//!
//! `ptx/attention.ptx` is `kernel.ptx` of `tools/ptx_cases_triton.py OUT --only attention_512` (Triton 3.9.0, sm_80). The items are
//! floating-point operations of the two matrix products.

use divan::Bencher;
use divan::counter::ItemsCount;
use half::f16;
use ptx_vm::{Launch, Module, Vm, VmConfig};

const HEADS: usize = 2;
const SEQUENCE: usize = 512;
const SIZE: usize = 64;
const SCALE: f32 = 0.125;

fn main() {
    divan::main();
}

/// Numbers between -1 and 1, the same on every machine.
fn numbers(seed: u32) -> Vec<f16> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(HEADS * SEQUENCE * SIZE).collect()
}

/// One row of the result.
fn row(q: &[f16], k: &[f16], v: &[f16], head: usize, at: usize) -> Vec<f64> {
    let line = |x: &[f16], i: usize| -> Vec<f64> {
        x[(head * SEQUENCE + i) * SIZE..][..SIZE].iter().map(|x| x.to_f64()).collect()
    };
    let q = line(q, at);
    let weight = |i| (line(k, i).iter().zip(&q).map(|(a, b)| a * b).sum::<f64>() * f64::from(SCALE)).exp();
    let weights: Vec<f64> = (0..SEQUENCE).map(weight).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; SIZE];
    for (i, w) in weights.iter().enumerate() {
        for (o, x) in out.iter_mut().zip(line(v, i)) {
            *o += w / total * x;
        }
    }
    out
}

/// By number of threads; 0 takes all cores.
#[divan::bench(args = [1, 0])]
fn attention(bencher: Bencher<'_, '_>, threads: usize) {
    let kernel = Module::parse("attention.ptx", include_str!("ptx/attention.ptx"))
        .and_then(|module| module.kernel("attention"))
        .expect("the kernel loads");
    let vm = Vm::new(VmConfig { threads, ..VmConfig::default() });
    let bytes = HEADS * SEQUENCE * SIZE * 2;
    let inputs = [1, 2, 3].map(numbers);
    let mut pointers: Vec<u64> = inputs
        .iter()
        .map(|values| {
            let pointer = vm.alloc(bytes).expect("memory");
            let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            vm.write(pointer, &raw).expect("a copy");
            pointer
        })
        .collect();
    let result = vm.alloc(bytes).expect("memory");
    pointers.extend([result, vm.alloc(HEADS * SEQUENCE * 4).expect("memory")]);
    // Five pointers, the scale, the length, and two scratch pointers of Triton's that are null.
    let mut params: Vec<u8> = pointers.iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend(SCALE.to_le_bytes());
    params.extend((SEQUENCE as u32).to_le_bytes());
    params.resize(kernel.param_bytes(), 0);
    let launch = Launch::new([SEQUENCE as u32 / 128, HEADS as u32, 1], [128, 1, 1]).dynamic_shared(49152);
    let run = || vm.launch(&kernel, &launch, &params).expect("the kernel runs");

    run();
    let mut out = vec![0; bytes];
    vm.read(result, &mut out).expect("a copy");
    let [q, k, v] = &inputs;
    for (head, at) in [(0, 0), (0, 300), (1, 511)] {
        let got = out[(head * SEQUENCE + at) * SIZE * 2..][..SIZE * 2].chunks_exact(2);
        for (got, want) in got.map(|b| f16::from_le_bytes([b[0], b[1]])).zip(row(q, k, v, head, at)) {
            assert!((got.to_f64() - want).abs() < 1e-3, "row {at} of head {head}: {got} instead of {want}");
        }
    }
    bencher.counter(ItemsCount::new(4 * HEADS * SEQUENCE * SEQUENCE * SIZE)).bench_local(run);
}
