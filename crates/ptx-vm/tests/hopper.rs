//! Kernels as they are built for Hopper: tensor maps fill a ring of stages for warpgroups that multiply, guarded by mbarriers. In one a block has
//! two such warpgroups (`tests/ptx/gemm_persistent.cu`), in the other two blocks of a cluster copy for each other (`tests/ptx/gemm_cluster.cu`). They
//! compute the product in every mode, and without one of the instructions that order something that is found.

use half::bf16;
use ptx_vm::{Fault, FaultKind, Launch, MmaRounding, Module, TensorMap, TensorSwizzle, TensorType, Vm, VmConfig};

/// One of the kernels.
#[derive(Clone)]
struct Gemm {
    entry: &'static str,
    text: String,
    threads: u32,
    /// Rows of the tile of A, rows of B that a copy has, and of the tile, and the depth.
    tile: [u32; 4],
    bias: bool,
}

fn persistent() -> Gemm {
    let text = include_str!("ptx/gemm_persistent.ptx").to_owned();
    Gemm { entry: "gemm_persistent", text, threads: 384, tile: [128, 64, 64, 64], bias: true }
}

fn cluster() -> Gemm {
    let text = include_str!("ptx/gemm_cluster.ptx").to_owned();
    Gemm { entry: "gemm_cluster", text, threads: 256, tile: [64, 16, 32, 64], bias: false }
}

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
fn run(gemm: &Gemm, [m, n, k]: [usize; 3], blocks: u32, config: VmConfig) -> Result<f64, Fault> {
    let kernel = Module::parse("gemm.ptx", &gemm.text).and_then(|module| module.kernel(gemm.entry));
    let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(1 << 24), ..config });
    let (a, b, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
    let upload = |values: &[bf16]| {
        let at = vm.alloc(values.len() * 2).unwrap();
        vm.write(at, &bytes(values)).unwrap();
        at
    };
    let map = |at: u64, rows: usize, tile: u32| {
        let map =
            TensorMap::new(TensorType::Bf16, at, &[k as u64, rows as u64], &[k as u64 * 2], &[gemm.tile[3], tile]);
        map.with_swizzle(TensorSwizzle::B128).encode().unwrap()
    };
    let maps = [map(upload(&a), m, gemm.tile[0]), map(upload(&b), n, gemm.tile[1])].concat();
    let out = vm.alloc(m * n * 2).unwrap();
    let sizes: Vec<u8> = [m, n, k].iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
    let bias_at = if gemm.bias { upload(&bias).to_le_bytes().to_vec() } else { vec![] };
    let params = [&maps[..], &bias_at, &out.to_le_bytes(), &sizes].concat();
    let ring = 3 * (gemm.tile[0] + gemm.tile[2]) * gemm.tile[3] * 2;
    let launch = Launch::new([blocks, 1, 1], [gemm.threads, 1, 1]).dynamic_shared(ring);
    vm.launch(&kernel, &launch, &params)?;
    let mut made = vec![0; m * n * 2];
    vm.read(out, &mut made).unwrap();
    let made = made.as_chunks().0.iter().map(|v| bf16::from_le_bytes(*v).to_f64());
    let mut most = 0.0f64;
    for (i, made) in made.enumerate() {
        let product = |j: usize| a[i / n * k + j].to_f64() * b[i % n * k + j].to_f64();
        let exact: f64 = (0..k).map(product).sum::<f64>() + if gemm.bias { bias[i % n].to_f64() } else { 0.0 };
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
    let shapes = [[128, 64, 64], [70, 33, 40], [200, 130, 392]];
    let persistent = shapes.into_iter().zip([1, 1, 2]).map(|(shape, blocks)| (persistent(), shape, blocks));
    for (gemm, shape, blocks) in persistent.chain(shapes.into_iter().zip([4, 2, 4]).map(|(s, b)| (cluster(), s, b))) {
        let mut configs = vec![VmConfig::default(), VmConfig { checked: true, ..VmConfig::default() }];
        configs.push(VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() });
        configs.extend((0..3).map(VmConfig::adverse));
        for config in configs {
            let told = format!("{} {shape:?} {:?} {:?}", gemm.entry, config.checked, config.adverse);
            let most = run(&gemm, shape, blocks, config).unwrap_or_else(|fault| panic!("{told}: {fault}"));
            assert!(most < 1.0, "{told}: {most}");
        }
    }
}

/// The kernel without the `nth` line that contains `part`.
fn without(gemm: Gemm, part: &str, nth: usize) -> Gemm {
    let mut seen = 0;
    let stays = |line: &&str| {
        seen += usize::from(line.contains(part));
        !line.contains(part) || seen != nth + 1
    };
    let text: Vec<&str> = gemm.text.lines().filter(stays).collect();
    assert!(seen > nth, "{part} stands there {seen} times");
    Gemm { text: text.join("\n"), ..gemm }
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
        let fault =
            run(&without(persistent(), part, 0), shape, 1, checked()).err().unwrap_or_else(|| panic!("without {part}"));
        assert_eq!(fault.kind, kind, "without {part}: {fault}");
    }
    // Whoever does not wait reads what has not come, or overwrites what is still read.
    for (nth, who) in [(0, "the first"), (1, "the second")] {
        let unwaited = without(persistent(), "@!p bra WAIT", nth);
        let fault = run(&unwaited, shape, 1, checked()).err().unwrap_or_else(|| panic!("{who} wait"));
        assert_eq!(fault.kind, FaultKind::Race, "{who} wait: {fault}");
        let late = (0..4).map(|seed| run(&unwaited, shape, 1, VmConfig::adverse(seed)));
        assert!(late.into_iter().any(|made| made.map_or(true, |most| most >= 1.0)), "{who} wait, adverse");
    }
}

#[test]
fn what_is_left_out_of_clusters_is_found() {
    let checked = || VmConfig { checked: true, ..VmConfig::default() };
    let shape = [200, 130, 392];
    for (part, nth, says) in [
        // The other block's mbarriers, before they are there; stages that are free only here; a block that goes while the other copies to it.
        ("fence.mbarrier_init", 0, None),
        ("barrier.cluster.arrive.release", 0, Some("without having arrived")),
        ("barrier.cluster.wait.acquire", 1, Some("the block ends here")),
        ("@!p bra WAIT", 0, Some("only 0 of 1 are pending")),
        ("@!p bra WAIT", 1, Some("race")),
        ("mbarrier.arrive.release.cluster", 0, Some("never complete")),
        ("mbarrier.arrive.expect_tx", 0, Some("never complete")),
        ("wgmma.wait_group", 0, Some("race")),
    ] {
        let made = run(&without(cluster(), part, nth), shape, 2, checked());
        match (says, made.err().map(|fault| fault.to_string())) {
            // `barrier.cluster.arrive.release` orders what the fence does.
            (None, told) => assert_eq!(told, None, "without {part}"),
            (Some(says), Some(fault)) if fault.contains(says) => {}
            (_, told) => panic!("without {part}, {nth}: {told:?}"),
        }
    }
    // A stage that is free in one block only.
    let mut near = cluster();
    near.text = near.text.replace("mapa.shared::cluster.u32 far, %r", "add.u32 far, 0, %r");
    let lines: Vec<String> = near
        .text
        .lines()
        .map(|line| match line.split_once("add.u32 far, 0, ") {
            Some((_, rest)) => format!("mov.u32 far, {};", rest.split(',').next().unwrap()),
            None => line.to_owned(),
        })
        .collect();
    near.text = lines.join("\n");
    let fault = run(&near, shape, 2, checked()).err().unwrap();
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    let late = (0..6).map(|seed| run(&near, shape, 2, VmConfig::adverse(seed)));
    assert!(late.into_iter().any(|made| made.map_or(true, |most| most >= 1.0)), "adverse");
}
