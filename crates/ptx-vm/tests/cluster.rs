//! Clusters of blocks: their shape, their barrier, and shared memory of other blocks. Kernels from `tests/ptx/cluster.cu` compute the same in every
//! mode as on the host; without one of the instructions that order something that is found.

use ptx_vm::{Counters, Fault, Launch, Module, Vm, VmConfig};

const KERNELS: &str = include_str!("ptx/cluster.ptx");

fn configs() -> Vec<VmConfig> {
    let plain = VmConfig { threads: 2, ..VmConfig::default() };
    let checked = VmConfig { checked: true, ..plain.clone() };
    let mut all = vec![plain.clone(), checked.clone(), VmConfig { profile: true, ..plain.clone() }];
    all.push(VmConfig { global_races: true, counters: true, ..checked });
    all.extend((0..6).map(|seed| VmConfig { threads: 2, ..VmConfig::adverse(seed) }));
    all.into_iter().map(|config| VmConfig { instruction_budget: Some(1 << 22), ..config }).collect()
}

fn checked() -> VmConfig {
    VmConfig { checked: true, instruction_budget: Some(1 << 22), ..VmConfig::default() }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Runs `entry` on `input` and gives `out` words, with what was counted. Behind the two buffers come the other parameters.
fn run(
    text: &str,
    entry: &str,
    launch: Launch,
    config: VmConfig,
    input: &[u32],
    out: usize,
    rest: &[(bool, u32)],
) -> Result<(Vec<u32>, Counters), Fault> {
    let kernel = Module::parse("cluster.ptx", text).and_then(|module| module.kernel(entry));
    let kernel = kernel.unwrap_or_else(|error| panic!("{error}\n{text}"));
    let vm = Vm::new(config);
    let (from, to) = (vm.alloc(input.len().max(1) * 4).unwrap(), vm.alloc(out * 4).unwrap());
    vm.write(from, &words(input)).unwrap();
    vm.fill(to, 0, out * 4).unwrap();
    let mut params = from.to_le_bytes().to_vec();
    let mut to_come = Some(to);
    for (before, value) in rest {
        if !before && let Some(to) = to_come.take() {
            params.resize(params.len().next_multiple_of(8), 0);
            params.extend(to.to_le_bytes());
        }
        params.extend(value.to_le_bytes());
    }
    if let Some(to) = to_come {
        params.resize(params.len().next_multiple_of(8), 0);
        params.extend(to.to_le_bytes());
    }
    let stats = vm.launch(&kernel, &launch, &params)?;
    let mut made = vec![0; out * 4];
    vm.read(to, &mut made).unwrap_or_else(|error| panic!("{error}"));
    let made = made.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    Ok((made, stats.counters.unwrap_or_default()))
}

fn numbers(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).collect()
}

/// A text without the `nth` line that contains `part`.
fn without(text: &str, part: &str, nth: usize) -> String {
    let at = text.match_indices(part).nth(nth).unwrap_or_else(|| panic!("{part} does not stand there so often")).0;
    let (first, end) = (text[..at].rfind('\n').unwrap() + 1, at + text[at..].find('\n').unwrap());
    format!("{}{}", &text[..first], &text[end..])
}

/// That part of the text which is one kernel.
fn only(entry: &str) -> String {
    let head = &KERNELS[..KERNELS.find(".visible .entry").unwrap()];
    let from = KERNELS.find(&format!(".visible .entry {entry}(")).unwrap();
    let end = KERNELS[from + 1..].find(".visible .entry").map_or(KERNELS.len(), |at| from + 1 + at);
    format!("{head}{}", &KERNELS[from..end])
}

fn histogram(text: &str, blocks: u32, config: VmConfig) -> Result<Counters, String> {
    let (values, bins) = (numbers(3000), 64);
    let launch = Launch::new([2 * blocks, 1, 1], [64, 1, 1]).dynamic_shared(bins / blocks * 4).cluster([blocks, 1, 1]);
    let rest = [(true, values.len() as u32), (false, bins)];
    let (made, counters) =
        run(text, "histogram", launch, config, &values, bins as usize, &rest).map_err(|fault| fault.to_string())?;
    let mut want = vec![0; bins as usize];
    values.iter().for_each(|value| want[(value % bins) as usize] += 1);
    if made == want { Ok(counters) } else { Err(format!("{made:?}")) }
}

fn reduce(text: &str, blocks: u32, config: VmConfig) -> Result<Counters, String> {
    let values: Vec<u32> = (0..2 * blocks * 64).map(|i| (i as f32).to_bits()).collect();
    let launch = Launch::new([2 * blocks, 1, 1], [64, 1, 1]).cluster([blocks, 1, 1]);
    let out = 2 * blocks as usize;
    let (made, counters) = run(text, "reduce", launch, config, &values, out, &[]).map_err(|fault| fault.to_string())?;
    let sum = |i: usize| values[i..i + 64 * blocks as usize].iter().map(|v| f32::from_bits(*v)).sum::<f32>().to_bits();
    let want = [sum(0), sum(64 * blocks as usize)];
    let right = made.iter().enumerate().all(|(i, v)| *v == want[i / blocks as usize]);
    if right { Ok(counters) } else { Err(format!("{made:?}")) }
}

fn ring(text: &str, rounds: u32, config: VmConfig) -> Result<Counters, String> {
    let (grid, threads) = ([4u32, 2, 1], 64);
    let values = numbers(8 * threads);
    let launch = Launch::new(grid, [threads as u32, 1, 1]);
    let (made, counters) = run(text, "ring", launch, config, &values, values.len(), &[(false, rounds)])
        .map_err(|fault| fault.to_string())?;
    for (i, made) in made.iter().enumerate() {
        let (block, thread) = (i / threads, i % threads);
        // Clusters are 2 by 2 blocks of a grid that is 4 wide.
        let (x, y) = (block % 4, block / 4);
        let rank = (x % 2 + 2 * y + 4 - rounds as usize % 4) % 4;
        let from = x / 2 * 2 + rank % 2 + 4 * (rank / 2);
        if *made != values[from * threads + thread].wrapping_add(rounds) {
            return Err(format!("block {block}: {made}"));
        }
    }
    Ok(counters)
}

#[test]
fn kernels_compute_the_same_in_every_mode() {
    for config in configs() {
        let told = format!("{:?} {:?} {:?}", config.checked, config.adverse, config.profile);
        for blocks in [1, 2, 4, 8, 16] {
            histogram(KERNELS, blocks, config.clone()).unwrap_or_else(|error| panic!("{told}, {blocks}: {error}"));
            reduce(KERNELS, blocks, config.clone()).unwrap_or_else(|error| panic!("{told}, {blocks}: {error}"));
        }
        for rounds in [1, 2, 7] {
            ring(KERNELS, rounds, config.clone()).unwrap_or_else(|error| panic!("{told}, {rounds}: {error}"));
        }
    }
}

#[test]
fn what_is_left_out_is_found() {
    type Run = fn(&str, VmConfig) -> Result<Counters, String>;
    let cases: [(&str, Run, &str, usize, &str); 9] = [
        // The bins are not 0 yet; not full yet; given back too early.
        ("histogram", |text, config| histogram(text, 4, config), "barrier.cluster.wait", 0, "race"),
        ("histogram", |text, config| histogram(text, 4, config), "barrier.cluster.arrive", 0, "without having arrived"),
        ("reduce", |text, config| reduce(text, 4, config), "barrier.cluster.wait", 1, "cluster"),
        ("reduce", |text, config| reduce(text, 4, config), "barrier.cluster.arrive", 1, "without having arrived"),
        ("ring", |text, config| ring(text, 3, config), "fence.mbarrier_init", 0, "made by"),
        ("ring", |text, config| ring(text, 1, config), "bra W", 0, "race"),
        ("ring", |text, config| ring(text, 3, config), "bra V", 0, "race"),
        ("ring", |text, config| ring(text, 3, config), "mbarrier.arrive.release.cluster", 0, "never complete"),
        ("ring", |text, config| ring(text, 3, config), "mbarrier.arrive.expect_tx", 0, "never complete"),
    ];
    for (entry, run, part, nth, says) in cases {
        let text = without(&only(entry), part, nth);
        let error = run(&text, checked()).err().unwrap_or_else(|| panic!("{entry} without {part}"));
        assert!(error.contains(says), "{entry} without {part}: {error}");
    }
    // Without a whole barrier.
    for (entry, run, nth) in [
        ("histogram", (|text, config| histogram(text, 4, config)) as Run, 0),
        ("histogram", |text, config| histogram(text, 4, config), 1),
        ("reduce", |text, config| reduce(text, 4, config), 0),
        ("reduce", |text, config| reduce(text, 4, config), 1),
    ] {
        let text = without(&without(&only(entry), "barrier.cluster.arrive", nth), "barrier.cluster.wait", nth);
        let error = run(&text, checked()).err().unwrap_or_else(|| panic!("{entry} without barrier {nth}"));
        assert!(error.starts_with("race"), "{entry} without barrier {nth}: {error}");
        let made = (0..8).map(|seed| run(&text, VmConfig::adverse(seed)));
        assert!(made.into_iter().any(|made| made.is_err()), "{entry} without barrier {nth}, adverse");
    }
    // Relaxed arrivals and waits order nothing.
    let relaxed = only("histogram").replace("barrier.cluster.arrive;", "barrier.cluster.arrive.relaxed;");
    let error = histogram(&relaxed, 4, checked()).err().unwrap();
    assert!(error.starts_with("race"), "{error}");
    let made = (0..8).map(|seed| histogram(&relaxed, 4, VmConfig::adverse(seed)));
    assert!(made.into_iter().any(|made| made.is_err()), "relaxed, adverse");
    let fenced = relaxed.replace("barrier.cluster.arrive", "fence.acq_rel.cluster;\nbarrier.cluster.arrive");
    histogram(&fenced, 4, checked()).unwrap();
    for seed in 0..8 {
        histogram(&fenced, 4, VmConfig::adverse(seed)).unwrap();
    }
}
