//! A kernel as they are built for Hopper (`tests/ptx/gemm_persistent.cu`): tensor maps fill a ring of stages for two warpgroups that multiply, guarded
//! by mbarriers. It computes the product in every mode, and without one of the instructions that order something that is found.

use half::bf16;
use ptx_vm::{Fault, FaultKind, Launch, MmaRounding, Module, TensorMap, TensorSwizzle, TensorType, Vm, VmConfig};

const GEMM: &str = include_str!("ptx/gemm_persistent.ptx");
/// Rows, columns and depth of a tile, and bytes of the ring.
const TILE: [u32; 3] = [128, 64, 64];
const RING: u32 = 3 * (128 + 64) * 64 * 2;

/// Numbers from -1 to 1.
fn numbers(count: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(values: &[bf16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The largest error of the product of `m` × `k` and `n` × `k` numbers, in units of the last place of results around 1.
fn run(text: &str, [m, n, k]: [usize; 3], blocks: u32, config: VmConfig) -> Result<f64, Fault> {
    let kernel = Module::parse("gemm.ptx", text).and_then(|module| module.kernel("gemm_persistent"));
    let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(1 << 24), ..config });
    let (a, b, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
    let upload = |values: &[bf16]| {
        let at = vm.alloc(values.len() * 2).unwrap();
        vm.write(at, &bytes(values)).unwrap();
        at
    };
    let map = |at: u64, rows: usize, tile: u32| {
        let map = TensorMap::new(TensorType::Bf16, at, &[k as u64, rows as u64], &[k as u64 * 2], &[TILE[2], tile]);
        map.with_swizzle(TensorSwizzle::B128).encode().unwrap()
    };
    let (maps, out) =
        ([map(upload(&a), m, TILE[0]), map(upload(&b), n, TILE[1])].concat(), vm.alloc(m * n * 2).unwrap());
    let sizes: Vec<u8> = [m, n, k].iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
    let params = [&maps[..], &upload(&bias).to_le_bytes(), &out.to_le_bytes(), &sizes].concat();
    let launch = Launch::new([blocks, 1, 1], [384, 1, 1]).dynamic_shared(RING);
    vm.launch(&kernel, &launch, &params)?;
    let mut made = vec![0; m * n * 2];
    vm.read(out, &mut made).unwrap();
    let made = made.as_chunks().0.iter().map(|v| bf16::from_le_bytes(*v).to_f64());
    let mut most = 0.0f64;
    for (i, made) in made.enumerate() {
        let product = |j: usize| a[i / n * k + j].to_f64() * b[i % n * k + j].to_f64();
        let exact: f64 = (0..k).map(product).sum::<f64>() + bias[i % n].to_f64();
        most = most.max((made - exact).abs() / exact.abs().max(1.0) * 256.0);
        if made.is_nan() {
            most = f64::INFINITY;
        }
    }
    Ok(most)
}

#[test]
fn the_product_is_right_in_every_mode() {
    // One tile; edges everywhere; more tiles than blocks, and more steps than stages.
    for (shape, blocks) in [([128, 64, 64], 1), ([70, 33, 40], 1), ([200, 130, 392], 2)] {
        let mut configs = vec![VmConfig::default(), VmConfig { checked: true, ..VmConfig::default() }];
        configs.push(VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() });
        configs.extend((0..3).map(VmConfig::adverse));
        for config in configs {
            let told = format!("{shape:?} {:?} {:?}", config.checked, config.adverse);
            let most = run(GEMM, shape, blocks, config).unwrap_or_else(|fault| panic!("{told}: {fault}"));
            assert!(most < 1.0, "{told}: {most}");
        }
    }
}

/// The text without the `nth` line that contains `part`.
fn without(part: &str, nth: usize) -> String {
    let mut seen = 0;
    let stays = |line: &&str| {
        seen += usize::from(line.contains(part));
        !line.contains(part) || seen != nth + 1
    };
    let text: Vec<&str> = GEMM.lines().filter(stays).collect();
    assert!(seen > nth, "{part} stands there {seen} times");
    text.join("\n")
}

#[test]
fn what_is_left_out_is_found() {
    let checked = || VmConfig { checked: true, ..VmConfig::default() };
    let shape = [200, 130, 392];
    for (part, kind) in [
        ("wgmma.wait_group", FaultKind::Race),
        ("wgmma.fence", FaultKind::Race),
        // Nobody tells the producer that a stage is free, or the consumers that it is full.
        ("mbarrier.arrive.shared::cta.b64 _", FaultKind::Barrier),
        ("mbarrier.arrive.expect_tx", FaultKind::Barrier),
    ] {
        let fault = run(&without(part, 0), shape, 1, checked()).err().unwrap_or_else(|| panic!("without {part}"));
        assert_eq!(fault.kind, kind, "without {part}: {fault}");
    }
    // Whoever does not wait reads what has not come, or overwrites what is still read.
    for (nth, who) in [(0, "the first"), (1, "the second")] {
        let unwaited = without("@!p bra WAIT", nth);
        let fault = run(&unwaited, shape, 1, checked()).err().unwrap_or_else(|| panic!("{who} wait"));
        assert_eq!(fault.kind, FaultKind::Race, "{who} wait: {fault}");
        let late = (0..4).map(|seed| run(&unwaited, shape, 1, VmConfig::adverse(seed)));
        assert!(late.into_iter().any(|made| made.map_or(true, |most| most >= 1.0)), "{who} wait, adverse");
    }
}
