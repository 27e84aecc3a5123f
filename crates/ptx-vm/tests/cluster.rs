//! Clusters of blocks: their shape, their barrier, and shared memory of other blocks. Kernels from `tests/ptx/cluster.cu` compute the same in every
//! mode as on the host; without one of the instructions that order something that is found.

use ptx_vm::{Counters, Fault, Launch, Module, Vm, VmConfig};

const KERNELS: &str = include_str!("ptx/cluster.ptx");

fn configs() -> Vec<VmConfig> {
    let plain = VmConfig { threads: 2, ..VmConfig::default() };
    let checked = VmConfig { checked: true, ..plain.clone() };
    let mut all = vec![plain.clone(), checked.clone(), VmConfig { profile: true, ..plain.clone() }];
    all.push(VmConfig { global_races: true, counters: true, ..checked });
    all.extend((0..6).map(|seed| VmConfig { threads: 2, checked: seed == 5, ..VmConfig::adverse(seed) }));
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

/// A kernel of one entry, `k`, for sm_90, that takes an input and an output. `%r0` is the thread, `%r1` the rank, `%r2` the address of `own` in
/// shared memory, `%r3` that of `bar`; `%rd2` is where the thread has its word of the output.
fn source(directives: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 from, .param .u64 to) {directives} {{
          .reg .pred %p<9>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .f32 %f<4>;
          .shared .align 128 .b8 own[256]; .shared .align 8 .b64 bar;
          ld.param.u64 %rd0, [from]; ld.param.u64 %rd1, [to];
          mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, own; mov.u32 %r3, bar;
          mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ntid.x; mad.lo.u32 %r4, %r4, %r5, %r0;
          mul.wide.u32 %rd2, %r4, 4; add.u64 %rd2, %rd2, %rd1; setp.eq.u32 %p0, %r0, 0; setp.eq.u32 %p1, %r1, 0;
          {body}
          ret;\n}}\n"
    )
}

/// Runs such a kernel in clusters of two blocks of 32 threads.
fn pair(body: &str, config: VmConfig) -> Result<(Vec<u32>, Counters), Fault> {
    let launch = Launch::new([2, 1, 1], [32, 1, 1]).cluster([2, 1, 1]);
    run(&source("", body), "k", launch, config, &numbers(256), 64, &[])
}

const SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn special_registers_say_where_a_block_is() {
    let registers = ["clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid"];
    let names = registers.iter().flat_map(|name| ["x", "y", "z"].map(|axis| format!("{name}.{axis}")));
    let names: Vec<String> = names.chain(["cluster_ctarank", "cluster_nctarank"].map(str::to_owned)).collect();
    let stores: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("mov.u32 %r9, %{name}; st.global.u32 [%rd3 + {}], %r9;", 4 * i))
        .collect();
    let body = format!(
        "mov.u32 %r9, %ctaid.y; mov.u32 %r8, %nctaid.x; mov.u32 %r7, %ctaid.x; mad.lo.u32 %r9, %r9, %r8, %r7; mul.wide.u32 %rd3, %r9, 64;
         add.u64 %rd3, %rd3, %rd1; mov.pred %p2, %is_explicit_cluster; selp.u32 %r9, 1, 0, %p2; st.global.u32 [%rd3 + 56], %r9;
         {}",
        stores.join("\n")
    );
    for (directives, cluster) in [("", Some([2, 3, 1])), (".reqnctapercluster 2, 3", None), ("", None)] {
        let grid = [4u32, 6, 1];
        let mut launch = Launch::new(grid, [1, 1, 1]);
        launch.cluster = cluster;
        let (made, _) = run(&source(directives, &body), "k", launch, VmConfig::default(), &[], 24 * 16, &[]).unwrap();
        let explicit = cluster.is_some() || !directives.is_empty();
        let [cx, cy] = if explicit { [2, 3] } else { [1, 1] };
        for (block, made) in made.chunks(16).enumerate() {
            let (x, y) = (block as u32 % 4, block as u32 / 4);
            let of =
                [x / cx, y / cy, 0, 4 / cx, 6 / cy, 1, x % cx, y % cy, 0, cx, cy, 1, x % cx + y % cy * cx, cx * cy];
            assert_eq!((&made[..14], made[14]), (&of[..], u32::from(explicit)), "{directives} {cluster:?} {block}");
        }
    }
    // The grid counts clusters.
    let text = source(
        ".reqntid 1 .reqnctapercluster 2 .blocksareclusters",
        "mov.u32 %r9, %nctaid.x; st.global.u32 [%rd2], %r9;",
    );
    let (made, _) = run(&text, "k", Launch::new([3, 1, 1], [1, 1, 1]), checked(), &[], 6, &[]).unwrap();
    assert_eq!(made, [6; 6]);
}

#[test]
fn launches_that_no_driver_takes_are_refused() {
    let refused = |directives: &str, launch: Launch, arch: Option<u32>| {
        let config = VmConfig { arch, ..VmConfig::default() };
        let target = if arch == Some(80) { "sm_80" } else { "sm_90" };
        let text = source(directives, "").replace("sm_90", target).replace("%cluster_ctarank", "0");
        run(&text, "k", launch, config, &[], 1, &[]).err().map_or_else(String::new, |fault| fault.to_string())
    };
    let of = |grid: [u32; 3]| Launch::new(grid, [1, 1, 1]);
    for (directives, launch, arch, says) in [
        ("", of([3, 1, 1]).cluster([2, 1, 1]), None, "grid [3, 1, 1] does not consist of clusters of [2, 1, 1] blocks"),
        (".reqnctapercluster 2, 1, 1", of([3, 1, 1]), None, "does not consist"),
        (
            ".reqnctapercluster 2, 1, 1",
            of([4, 1, 1]).cluster([4, 1, 1]),
            None,
            "compiled for clusters of [2, 1, 1] blocks, not [4, 1, 1]",
        ),
        ("", of([32, 1, 1]).cluster([32, 1, 1]), None, "clusters of 32 blocks: at most 16"),
        ("", of([2, 1, 1]).cluster([0, 1, 1]), None, "a cluster of no blocks"),
        (
            ".reqntid 1 .reqnctapercluster 1, 2 .blocksareclusters",
            of([1, 40000, 1]),
            None,
            "at most 2^31-1, 65535, 65535 blocks",
        ),
        ("", of([2, 1, 1]).cluster([u32::MAX, u32::MAX, u32::MAX]), None, "at most 16"),
        (".maxclusterrank 4", of([8, 1, 1]).cluster([8, 1, 1]), None, "clusters of at most 4 blocks, not 8"),
        (".explicitcluster", of([8, 1, 1]), None, "`.explicitcluster`"),
        ("", of([2, 1, 1]).cluster([2, 1, 1]), Some(80), "clusters take sm_90, the device is sm_80"),
        ("", of([16, 1, 1]).cluster([4, 4, 1]), None, "does not consist"),
        ("", of([16, 1, 1]).cluster([16, 1, 1]), None, ""),
        (".explicitcluster", of([8, 1, 1]).cluster([1, 1, 1]), None, ""),
        (".explicitcluster .reqnctapercluster 2", of([8, 1, 1]), None, ""),
        (".maxclusterrank 4", of([8, 1, 1]).cluster([4, 1, 1]), None, ""),
        ("", of([2, 1, 1]).cluster([1, 1, 1]), Some(80), ""),
    ] {
        let told = refused(directives, launch, arch);
        assert!(
            if says.is_empty() { told.is_empty() } else { told.starts_with("launch") && told.contains(says) },
            "{directives} {launch:?}: {told}"
        );
    }
    for (directives, says) in [
        (".reqnctapercluster 2 .maxclusterrank 2", "exclude each other"),
        (".blocksareclusters", "takes"),
        (".maxclusterrank 0", "at least 1"),
        (".reqnctapercluster 32", "at most 16"),
    ] {
        let text = source(directives, "");
        let error =
            Module::parse("t", &text).and_then(|m| m.kernel("k")).err().map_or_else(String::new, |e| e.to_string());
        assert!(error.contains(says), "{directives}: {error}");
    }
    let old = source(".reqnctapercluster 2", "").replace("sm_90", "sm_80");
    let error = Module::parse("t", &old).and_then(|m| m.kernel("k")).err().unwrap().to_string();
    assert!(error.contains("clusters take sm_90"), "{error}");
}

/// Addresses: made, asked, and used, generic and not, one's own and the other's.
#[test]
fn addresses_name_a_block_and_a_place() {
    let body = format!(
        "xor.b32 %r6, %r1, 1; shl.b32 %r7, %r0, 2; add.u32 %r8, %r2, %r7;
         add.u32 %r9, %r0, 100; mad.lo.u32 %r9, %r1, 1000, %r9; st.shared.u32 [%r8], %r9;
         {SYNC}
         // The other's word, by four ways.
         mapa.shared::cluster.u32 %r10, %r8, %r6; ld.shared::cluster.u32 %r11, [%r10];
         cvta.shared.u64 %rd3, own; mapa.u64 %rd3, %rd3, %r6; cvt.u64.u32 %rd4, %r7; add.u64 %rd3, %rd3, %rd4; ld.u32 %r12, [%rd3];
         mapa.shared::cluster.u64 %rd5, own + 0, %r6; add.u64 %rd5, %rd5, %rd4; ld.shared::cluster.u32 %r13, [%rd5];
         cvta.shared::cluster.u64 %rd6, %rd5; ld.relaxed.cluster.u32 %r14, [%rd6];
         sub.u32 %r12, %r12, %r11; sub.u32 %r13, %r13, %r11; sub.u32 %r14, %r14, %r11; or.b32 %r12, %r12, %r13; or.b32 %r12, %r12, %r14;
         // Whose they are.
         getctarank.shared::cluster.u32 %r13, %r10; getctarank.u64 %r14, %rd3; getctarank.shared::cluster.u32 %r15, %r8;
         getctarank.shared::cluster.u64 %r16, own;
         sub.u32 %r13, %r13, %r6; sub.u32 %r14, %r14, %r6; sub.u32 %r15, %r15, %r1; sub.u32 %r16, %r16, %r1;
         or.b32 %r12, %r12, %r13; or.b32 %r12, %r12, %r14; or.b32 %r12, %r12, %r15; or.b32 %r12, %r12, %r16;
         // Where they lie.
         isspacep.shared::cluster %p2, %rd3; isspacep.shared::cta %p3, %rd3; isspacep.shared %p4, %rd3; isspacep.global %p5, %rd3;
         cvta.shared.u64 %rd7, own; isspacep.shared::cta %p6, %rd7; isspacep.shared::cluster %p7, %rd7;
         selp.u32 %r13, 1, 0, %p2; selp.u32 %r14, 2, 0, %p3; selp.u32 %r15, 4, 0, %p4; selp.u32 %r16, 8, 0, %p5; selp.u32 %r17, 16, 0, %p6; selp.u32 %r18, 32, 0, %p7;
         or.b32 %r13, %r13, %r14; or.b32 %r13, %r13, %r15; or.b32 %r13, %r13, %r16; or.b32 %r13, %r13, %r17; or.b32 %r13, %r13, %r18; sub.u32 %r13, %r13, 49;
         or.b32 %r12, %r12, %r13;
         // The own word by the address that `mapa` makes for it.
         mapa.shared::cluster.u32 %r10, %r8, %r1; ld.shared::cluster.u32 %r13, [%r10]; ld.shared.u32 %r14, [%r10]; mapa.u64 %rd7, %rd7, %r1; isspacep.shared::cta %p2, %rd7;
         @!p2 add.u32 %r12, %r12, 1;
         sub.u32 %r13, %r13, %r9; sub.u32 %r14, %r14, %r9; or.b32 %r12, %r12, %r13; or.b32 %r12, %r12, %r14;
         setp.ne.u32 %p2, %r12, 0; @%p2 trap;
         st.global.u32 [%rd2], %r11;
         {SYNC}"
    )
    .replace("@!p2", "@!%p2");
    for config in configs() {
        let (made, counters) = pair(&body, config).unwrap_or_else(|fault| panic!("{fault}"));
        let want: Vec<u32> = (0..64).map(|i| i % 32 + 100 + if i < 32 { 1000 } else { 0 }).collect();
        assert_eq!(made, want);
        if counters.warp_instructions > 0 {
            assert_eq!((counters.shared.remote_load_bytes, counters.shared.remote_store_bytes), (2 * 32 * 4 * 4, 0));
        }
    }
}

/// What arrives by itself, in every form, and is counted by an mbarrier of the block it comes to.
#[test]
fn asynchronous_stores_arrive_where_they_are_waited_for() {
    let exchange = |copy: &str, bytes: u32, first: &str| {
        format!(
            "xor.b32 %r6, %r1, 1; shl.b32 %r7, %r0, 2; add.u32 %r8, %r2, %r7; {first}
             @%p0 mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;
             {SYNC}
             @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {bytes};
             mapa.shared::cluster.u32 %r9, %r8, %r6; mapa.shared::cluster.u32 %r10, %r3, %r6; mapa.shared::cluster.u32 %r11, %r2, %r6;
             mad.lo.u32 %r12, %r1, 100, %r0; {copy}
             W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [bar], 0; @!%p2 bra W;
             ld.shared.u32 %r13, [%r8 + AT]; st.global.u32 [%rd2], %r13; {SYNC}"
        )
    };
    let zero = "mov.u32 %r12, 7; st.shared.u32 [%r8], %r12;";
    let own = "mad.lo.u32 %r12, %r1, 100, %r0; st.shared.u32 [%r8 + 128], %r12;";
    let all = "st.async.shared::cluster.mbarrier::complete_tx::bytes";
    type Want = fn(u32, u32) -> u32;
    type Case = (String, u32, &'static str, u32, Want, [u64; 2]);
    let cases: [Case; 9] = [
        (format!("{all}.u32 [%r9], %r12, [%r10];"), 128, "", 0, |other, i| 100 * other + i, [128, 0]),
        (
            format!("shl.b32 %r14, %r0, 3; add.u32 %r14, %r11, %r14; add.u32 %r15, %r12, 50; setp.lt.u32 %p3, %r0, 16; @%p3 {all}.v2.b32 [%r14], {{%r12, %r15}}, [%r10];"),
            128, "", 0, |other, i| 100 * other + i / 2 + 50 * (i % 2), [128, 0],
        ),
        (
            format!("shl.b32 %r14, %r0, 4; add.u32 %r14, %r11, %r14; setp.lt.u32 %p3, %r0, 8; @%p3 {all}.v4.b32 [%r14], {{%r12, %r12, %r0, %r12}}, [%r10];"),
            128, "", 0, |other, i| if i % 4 == 2 { i / 4 } else { 100 * other + i / 4 }, [128, 0],
        ),
        ("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r9], %r12, [%r10];".to_owned(), 128, zero, 0, |other, i| 100 * other + i + 7, [128, 0]),
        ("red.async.relaxed.cluster.mbarrier::complete_tx::bytes.max.s32 [%r9], %r12, [%r10];".to_owned(), 128, zero, 0, |other, i| (100 * other + i).max(7), [128, 0]),
        // From one block's memory to the other's.
        (
            "add.u32 %r14, %r2, 128; @%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r11], [%r14], 128, [%r10];".to_owned(),
            128, own, 0, |other, i| 100 * other + i, [128, 0],
        ),
        (
            "add.u32 %r14, %r2, 128; @%p0 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r11], [%r14], 128, [%r10];".to_owned(),
            128, "mov.u32 %r12, 7; st.shared.u32 [%r8], %r12; mad.lo.u32 %r12, %r1, 100, %r0; st.shared.u32 [%r8 + 128], %r12;", 0, |other, i| 100 * other + i + 7, [128, 0],
        ),
        // From global memory to the other block, and to both.
        (
            "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r11], [%rd0], 128, [%r10];".to_owned(),
            128, "", 0, |_, i| numbers(256)[i as usize], [128, 0],
        ),
        (
            "mul.wide.u32 %rd3, %r1, 128; add.u64 %rd3, %rd3, %rd0; mad.lo.u32 %r14, %r1, 128, %r2; mov.u16 %h1, 3; @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r14], [%rd3], 128, [%r3], %h1;".to_owned(),
            256, "", 128, |_, i| numbers(256)[32 + i as usize], [128, 256],
        ),
    ];
    for (copy, bytes, first, at, want, [remote, multicast]) in cases {
        let body = exchange(&copy, bytes, first).replace("AT", &at.to_string());
        for config in configs() {
            let told = format!("{copy} {:?} {:?}", config.adverse, config.checked);
            let (made, counters) = pair(&body, config).unwrap_or_else(|fault| panic!("{told}: {fault}"));
            let want: Vec<u32> = (0..64).map(|i| want(1 - i / 32, i % 32)).collect();
            assert_eq!(made, want, "{told}");
            if counters.warp_instructions > 0 {
                let (shared, twice) =
                    (counters.shared, if copy.contains("reduce") || copy.contains("red.async") { 1 } else { 0 });
                let counted = (shared.remote_load_bytes, shared.remote_store_bytes, shared.multicast_bytes);
                assert_eq!(counted, (2 * remote * twice, 2 * remote, 2 * multicast), "{told}");
            }
        }
        // Nothing comes before it is waited for: without the wait the words are not there under any seed.
        let early = body
            .replace("@!%p2 bra W;", "")
            .replace("W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [bar], 0;", "");
        let fault = pair(&early, checked()).err().unwrap_or_else(|| panic!("{copy}"));
        assert_eq!(fault.kind.name(), "race", "{copy}: {fault}");
        let expected: Vec<u32> = (0..64).map(|i| want(1 - i / 32, i % 32)).collect();
        for seed in 0..4 {
            let made = pair(&early, VmConfig::adverse(seed)).unwrap().0;
            assert!(made.iter().zip(&expected).filter(|(a, b)| a == b).count() <= 32, "{copy}: {made:?}");
        }
    }
}

/// For each thing that can be wrong a kernel that does it.
#[test]
fn what_is_wrong_is_reported() {
    let other = "xor.b32 %r6, %r1, 1; mapa.shared::cluster.u32 %r9, %r2, %r6;";
    let store = "st.shared.u32 [%r2], %r1;";
    for (body, kind, says) in [
        ("mapa.shared::cluster.u32 %r9, %r2, 2;".to_owned(), "out_of_bounds", "block 2 of a cluster of 2"),
        ("mapa.u64 %rd3, %rd0, 0;".to_owned(), "out_of_bounds", "no address of the cluster's shared memory"),
        ("getctarank.u64 %r9, %rd0;".to_owned(), "out_of_bounds", "no address of the cluster's shared memory"),
        (
            format!("{other} ld.shared::cluster.u32 %r10, [%r9 + 4096]; {SYNC}"),
            "out_of_bounds",
            "block 1's shared memory offset 0x1000",
        ),
        (format!("{other} ld.shared.u32 %r10, [%r9]; {SYNC}"), "out_of_bounds", "`.shared::cta` is the block's own"),
        (
            format!("{other} ld.shared::cluster.u32 %r10, [%r9 + 0x1000000]; {SYNC}")
                .replace("%r9, %r2, %r6", "%r9, %r2, 1"),
            "out_of_bounds",
            "block 2 of a cluster of 2",
        ),
        (format!("{other} ld.shared::cluster.u32 %r10, [%r9 + 2];"), "misaligned", "multiple of 4"),
        (
            format!("{other} mbarrier.arrive.shared::cluster.b64 _, [%r9];"),
            "barrier",
            "of block 1 of the cluster: it has not been initialised",
        ),
        (
            format!(
                "@%p0 mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster; {SYNC} xor.b32 %r6, %r1, 1; cvta.shared.u64 %rd3, bar; mapa.u64 %rd3, %rd3, %r6; mbarrier.test_wait.parity.b64 %p2, [%rd3], 0;"
            ),
            "barrier",
            "only threads of that block",
        ),
        // Nobody has written what decides.
        (
            format!(
                "{SYNC} {other} ld.shared::cluster.u32 %r10, [%r9]; setp.eq.u32 %p2, %r10, 0; @%p2 st.global.u32 [%rd2], %r0; {SYNC}"
            ),
            "uninitialised",
            "the predicate is undefined",
        ),
        // In another block, one after the other without order; read and written; by atomics and others.
        (
            format!("{other} @%p0 st.shared::cluster.u32 [%r9], %r1; ld.shared.u32 %r10, [%r2]; {SYNC}"),
            "race",
            "with no barrier in between",
        ),
        (format!("{store} {other} @%p1 ld.shared::cluster.u32 %r10, [%r9]; {SYNC}"), "race", "no barrier in between"),
        (format!("{other} @%p0 red.shared::cluster.add.u32 [%r9], 1; bar.sync 0; {store} {SYNC}"), "race", "thread"),
        (
            format!(
                "{store} fence.acq_rel.cluster; barrier.cluster.arrive.relaxed; barrier.cluster.wait; {store} {other} ld.shared::cluster.u32 %r10, [%r9]; {SYNC}"
            ),
            "race",
            "no barrier in between",
        ),
        // A barrier of one block orders nothing in the other.
        (
            format!("{store} bar.sync 0; {other} ld.shared::cluster.u32 %r10, [%r9]; bar.sync 0; {SYNC}"),
            "race",
            "no barrier in between",
        ),
        // Its owner may be gone.
        (format!("{store} {SYNC} {other} @%p1 ld.shared::cluster.u32 %r10, [%r9];"), "race", "block"),
        (format!("{store} {SYNC} {other} @!%p1 ld.shared::cluster.u32 %r10, [%r9];"), "race", "block"),
        // The barrier.
        ("barrier.cluster.arrive; barrier.cluster.arrive;".to_owned(), "barrier", "again without having waited"),
        ("barrier.cluster.wait;".to_owned(), "barrier", "without having arrived"),
        (
            "barrier.cluster.arrive; barrier.cluster.wait; barrier.cluster.wait;".to_owned(),
            "barrier",
            "without having arrived",
        ),
        (
            "@%p0 barrier.cluster.arrive.aligned; @%p0 barrier.cluster.wait.aligned;".to_owned(),
            "barrier",
            "of the 32 threads of the warp",
        ),
        // One waits for the other at a barrier, the other for it at an mbarrier.
        (
            format!(
                "@%p0 mbarrier.init.shared.b64 [bar], 1; bar.sync 0; @%p1 bra B; {SYNC} bra E; B: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra B; E:"
            ),
            "barrier",
            "never complete",
        ),
        (format!("@!%p1 bar.sync 1, 64; {SYNC}"), "barrier", "deadlock: warp 0 waits at barrier 1"),
        (
            "@%p0 bra A; barrier.cluster.arrive; barrier.cluster.wait; bra E; A: bar.sync 0; E:".to_owned(),
            "barrier",
            "the barrier of the cluster waits for 2 threads",
        ),
    ] {
        let fault = pair(&body, checked()).err().unwrap_or_else(|| panic!("{body}"));
        assert!(fault.kind.name() == kind && fault.message.contains(says), "{body}\n{fault}");
        assert!(fault.block.is_some() && fault.line > 0, "{fault}");
    }
    // What is right.
    for body in [
        // Threads that have exited count as arrived.
        format!("@!%p1 ret; {SYNC}"),
        "@!%p0 ret; barrier.cluster.arrive; barrier.cluster.wait;".to_owned(),
        format!("{store} {SYNC} {other} ld.shared::cluster.u32 %r10, [%r9]; {SYNC}"),
        // By threads, on their ways.
        "@%p0 bra A; barrier.cluster.arrive; barrier.cluster.wait; bra E; A: barrier.cluster.arrive; barrier.cluster.wait; E:".to_owned(),
        "barrier.cluster.arrive; @%p0 bra A; barrier.cluster.wait; bra E; A: barrier.cluster.wait; E:".to_owned(),
        // Who is known to have been there before may be left.
        format!("{store} {SYNC} {other} @%p1 ld.shared::cluster.u32 %r10, [%r9]; barrier.cluster.arrive.release; @%p1 ret; barrier.cluster.wait;"),
        // A flag of one block by which the other goes on.
        format!(
            "mov.u32 %r11, 0; st.shared.u32 [%r2], %r11; st.shared.u32 [%r2 + 4], %r11; {SYNC} {other} @!%p1 bra R; @!%p0 bra E; mov.u32 %r10, 5; st.shared::cluster.u32 [%r9 + 4], %r10; mov.u32 %r10, 1;
             st.release.cluster.shared::cluster.u32 [%r9], %r10; bra E; R: ld.acquire.cluster.shared.u32 %r10, [%r2]; setp.eq.u32 %p2, %r10, 0; @%p2 bra R;
             ld.shared.u32 %r10, [%r2 + 4]; setp.ne.u32 %p2, %r10, 5; @%p2 trap; E: {SYNC}"
        ),
        // elect and griddepcontrol.
        format!("elect.sync %r10|%p2, 0xffffffff; griddepcontrol.wait; @%p2 st.global.u32 [%rd2], %r10; griddepcontrol.launch_dependents; {SYNC}"),
    ] {
        for config in configs() {
            pair(&body, config).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
        }
    }
    // A flag that only the block's own threads are told of.
    let near = format!(
        "mov.u32 %r11, 0; st.shared.u32 [%r2], %r11; st.shared.u32 [%r2 + 4], %r11; {SYNC} {other} @!%p1 bra R; @!%p0 bra E; mov.u32 %r10, 5; st.shared::cluster.u32 [%r9 + 4], %r10; mov.u32 %r10, 1;
         st.release.cta.shared::cluster.u32 [%r9], %r10; bra E; R: ld.acquire.cluster.shared.u32 %r10, [%r2]; setp.eq.u32 %p2, %r10, 0; @%p2 bra R;
         ld.shared.u32 %r10, [%r2 + 4]; E: {SYNC}"
    );
    let fault = pair(&near, checked()).err().unwrap();
    assert_eq!(fault.kind.name(), "race", "{fault}");
}

/// A case says how large clusters are.
#[test]
fn a_case_has_clusters() {
    let folder = std::env::temp_dir().join(format!("ptx-vm-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("k.ptx"), source("", "mov.u32 %r9, %cluster_nctarank; st.global.u32 [%rd2], %r9;"))
        .unwrap();
    let case = |cluster: &str| {
        let text = format!(
            r#"{{"ptx": "k.ptx", "entry": "k", "grid": [4, 1, 1], "block": [1, 1, 1], {cluster} "args": [{{"kind": "null"}},
            {{"kind": "buffer", "dtype": "i32", "len": 4, "expect": 2}}]}}"#
        );
        std::fs::write(folder.join("case.json"), text).unwrap();
        ptx_vm::case::run_case(&folder, &VmConfig::default())
    };
    let passed = |cluster| case(cluster).is_ok_and(|outcome| outcome.ok);
    assert!(passed(r#""cluster": [2, 1, 1],"#));
    assert!(!passed(""));
    assert!(!passed(r#""cluster": [3, 1, 1],"#));
    assert!(case(r#""cluster": [2, 1],"#).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}
