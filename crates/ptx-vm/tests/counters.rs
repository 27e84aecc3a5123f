//! Counters and profiles against figures worked out by hand from the PTX and the rules of the hardware.

use ptx_vm::{Class, Counters, FaultKind, Launch, LaunchStats, Module, Profile, Vm, VmConfig};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn vm(threads: usize) -> Vm {
    Vm::new(VmConfig { threads, profile: true, ..VmConfig::default() })
}

/// Runs entry `k` of a module with the given parameters.
fn launch(vm: &Vm, ptx: &str, grid: u32, block: u32, params: &[u64]) -> LaunchStats {
    let module = Module::parse("test.ptx", ptx).unwrap_or_else(|e| panic!("{e}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let launch = Launch::new([grid, 1, 1], [block, 1, 1]);
    let params: Vec<u8> = params.iter().flat_map(|p| p.to_le_bytes()).collect();
    vm.launch(&kernel, &launch, &params).unwrap_or_else(|e| panic!("{e}"))
}

/// The counts of the one line that holds `text`.
fn line(profile: &Profile, text: &str) -> Counters {
    let found: Vec<_> = profile.lines.iter().filter(|l| l.text.contains(text)).collect();
    assert_eq!(found.len(), 1, "lines with `{text}`: {found:?}");
    found[0].counters
}

fn sum(profile: &Profile) -> Counters {
    profile.lines.iter().fold(Counters::default(), |mut sum, l| {
        sum.add(&l.counters);
        sum
    })
}

/// Runs `access`, a line for which `%rd3` is a global address, `%rd4` a generic and `%r2` a direct shared one: each `offset(thread)` bytes
/// into 256 KiB of global and 16 KiB of shared memory. `%r3` is the thread, `%p1` says whether it is below 8.
fn access(access: &str, block: u32, offset: impl Fn(u32) -> u32) -> Counters {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 offsets, .param .u64 data) {{
          .reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .f32 %f<9>;
          .shared .align 128 .b8 tile[16384];
          ld.param.u64 %rd1, [offsets];
          ld.param.u64 %rd2, [data];
          mov.u32 %r3, %tid.x;
          mad.wide.u32 %rd1, %r3, 4, %rd1;
          ld.global.u32 %r1, [%rd1];
          cvt.u64.u32 %rd3, %r1;
          mov.u32 %r2, tile;
          add.u32 %r2, %r2, %r1;
          cvt.u64.u32 %rd4, %r2;
          cvta.shared.u64 %rd4, %rd4;
          add.u64 %rd3, %rd2, %rd3;
          setp.lt.u32 %p1, %r3, 8;
          {access} // here
          ret;
        }}"
    );
    let vm = vm(1);
    let (offsets, data) = (vm.alloc(block as usize * 4).unwrap(), vm.alloc(256 << 10).unwrap());
    let bytes: Vec<u8> = (0..block).flat_map(|t| offset(t).to_le_bytes()).collect();
    vm.write(offsets, &bytes).unwrap();
    vm.fill(data, 0, 256 << 10).unwrap();
    line(&launch(&vm, &ptx, 1, block, &[offsets, data]).profile.unwrap(), "// here")
}

#[test]
fn sectors_of_global_accesses() {
    type Offset = fn(u32) -> u32;
    let cases: &[(&str, &str, Offset, u64)] = &[
        ("coalesced words", "ld.global.u32 %r4, [%rd3];", |t| 4 * t, 4),
        ("one word off", "ld.global.u32 %r4, [%rd3+4];", |t| 4 * t, 5),
        ("half a sector off", "ld.global.u32 %r4, [%rd3];", |t| 4 * t + 16, 5),
        ("backwards", "ld.global.u32 %r4, [%rd3];", |t| 4 * (31 - t), 4),
        ("every second word", "ld.global.u32 %r4, [%rd3];", |t| 8 * t, 8),
        ("a sector each", "ld.global.u32 %r4, [%rd3];", |t| 32 * t, 32),
        ("a column of a matrix", "ld.global.u32 %r4, [%rd3];", |t| 4096 * t, 32),
        ("a column backwards", "ld.global.u32 %r4, [%rd3];", |t| 4096 * (31 - t), 32),
        ("pairs far apart", "ld.global.u32 %r4, [%rd3];", |t| 8192 * ((t * 13) % 32 / 2), 16),
        ("a row of eight, repeated", "ld.global.u32 %r4, [%rd3];", |t| 4 * (t % 8), 1),
        ("broadcast", "ld.global.u32 %r4, [%rd3];", |_| 4, 1),
        ("bytes", "ld.global.u8 %r4, [%rd3];", |t| t, 1),
        ("halves", "ld.global.u16 %h1, [%rd3];", |t| 2 * t, 2),
        ("pairs of words", "ld.global.v2.u32 {%r4, %r5}, [%rd3];", |t| 8 * t, 8),
        ("doubles", "ld.global.u64 %rd5, [%rd3];", |t| 8 * t, 8),
        ("quads", "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd3];", |t| 16 * t, 16),
        ("quads, every second", "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd3];", |t| 32 * t, 32),
        ("stored", "st.global.u32 [%rd3], %r3;", |t| 4 * t, 4),
        ("generic", "ld.u32 %r4, [%rd3];", |t| 4 * t + 8, 5),
    ];
    for (name, text, offset, sectors) in cases {
        let c = access(text, 32, offset);
        let width = match text {
            t if t.contains("v4.u32") => 16,
            t if t.contains("v2") || t.contains("u64") => 8,
            t if t.contains("u8") => 1,
            t if t.contains("u16") => 2,
            _ => 4,
        };
        let stored = text.starts_with("st");
        assert_eq!(c.global.requests, 1, "{name}");
        assert_eq!(c.global.sectors, *sectors, "{name}");
        assert_eq!(
            (c.global.load_bytes, c.global.store_bytes),
            if stored { (0, 128) } else { (32 * width, 0) },
            "{name}"
        );
        assert_eq!(c.ratios().global_sectors_per_request, Some(*sectors as f64), "{name}");
        assert_eq!(c.shared.requests + c.local.requests, 0, "{name}");
    }
    // A partial second warp, and lanes that are predicated off, ask for less.
    let c = access("ld.global.u32 %r4, [%rd3];", 40, |t| 4 * t);
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes), (2, 5, 160));
    let c = access("@%p1 ld.global.u32 %r4, [%rd3];", 64, |t| 64 * t);
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes), (1, 8, 32));
    assert_eq!((c.warp_instructions, c.thread_instructions), (2, 8));
    assert_eq!((c.predicated_off, c.predicated_off_lanes), (1, 56));
}

#[test]
fn conflicts_of_shared_accesses() {
    type Offset = fn(u32) -> u32;
    // Text, words from lane to lane or a rule, passes, ways.
    let (w1, w2, w4) = (
        "st.shared.u32 [%r2], %r3;",
        "st.shared.v2.u32 [%r2], {%r3, %r3};",
        "st.shared.v4.u32 [%r2], {%r3, %r3, %r3, %r3};",
    );
    let cases: &[(&str, Offset, u64, u64)] = &[
        (w1, |t| 4 * t, 1, 1),
        (w1, |t| 4 * 3 * t, 1, 1),
        (w1, |t| 4 * 33 * t, 1, 1),
        (w1, |t| 4 * (31 - t), 1, 1),
        (w1, |t| 4 * 2 * t, 2, 2),
        (w1, |t| 4 * 4 * t, 4, 4),
        (w1, |t| 4 * 8 * t, 8, 8),
        (w1, |t| 4 * 32 * t, 32, 32),
        // The same word for all: served together. Pairs in one word, pairs in one bank.
        (w1, |_| 64, 1, 1),
        (w1, |t| 4 * (t / 2), 1, 1),
        (w1, |t| 4 * (t / 2 + 32 * (t % 2)), 2, 2),
        // Half warps.
        (w2, |t| 8 * t, 2, 1),
        (w2, |t| 8 * 2 * t, 4, 2),
        (w2, |t| 8 * 4 * t, 8, 4),
        (w2, |t| 8 * 8 * t, 16, 8),
        (w2, |t| 8 * 16 * t, 32, 16),
        (w2, |_| 8, 2, 1),
        // Conflicts only between the halves of the warp are none.
        (w2, |t| 8 * (t % 16) + 128 * (t / 16), 2, 1),
        // Quarter warps.
        (w4, |t| 16 * t, 4, 1),
        (w4, |t| 16 * 2 * t, 8, 2),
        (w4, |t| 16 * 4 * t, 16, 4),
        (w4, |t| 16 * 8 * t, 32, 8),
        (w4, |_| 16, 4, 1),
        // One quarter of four conflicts: lanes 0 to 7 go in steps of two.
        (w4, |t| if t < 8 { 32 * t } else { 16 * t + 512 }, 5, 2),
        ("st.shared.u8 [%r2], %r3;", |t| t, 1, 1),
        ("st.shared.u16 [%r2], %h1;", |t| 2 * t, 1, 1),
        ("st.shared.u16 [%r2], %h1;", |t| 4 * 16 * t, 16, 16),
        ("st.shared.f64 [%r2], 0d0000000000000000;", |t| 8 * t, 2, 1),
        ("st.u32 [%rd4], %r3;", |t| 4 * 2 * t, 2, 2),
        ("ld.shared.u32 %r4, [%r2];", |t| 4 * 16 * t, 16, 16),
        ("ld.volatile.shared.u32 %r4, [%r2];", |t| 4 * (t % 4), 1, 1),
    ];
    for (i, (text, offset, passes, ways)) in cases.iter().enumerate() {
        let c = access(text, 32, offset).shared;
        let groups = if text.contains("v4") { 4 } else { 1 + u64::from(text.contains("v2") || text.contains("f64")) };
        assert_eq!((c.requests, c.passes, c.ways), (1, *passes, *ways), "case {i}: {text}");
        assert_eq!(c.conflicts, passes - groups, "case {i}: {text}");
        let width = if text.contains("u8") {
            1
        } else if text.contains("u16") {
            2
        } else {
            4 * groups
        };
        assert_eq!(c.load_bytes + c.store_bytes, 32 * width, "case {i}: {text}");
        assert_eq!(c.store_bytes > 0, text.starts_with("st"), "case {i}: {text}");
    }
    // Eight lanes fill one half warp, or one quarter.
    assert_eq!(access(&format!("@%p1 {w2}"), 32, |t| 8 * t).shared.passes, 1);
    assert_eq!(access(&format!("@%p1 {w4}"), 32, |t| 16 * t).shared.passes, 1);
    assert_eq!(access(&format!("@!%p1 {w4}"), 32, |t| 16 * t).shared.passes, 3);
}

#[test]
fn rows_of_ldmatrix() {
    let x4 = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r2];";
    let x1 = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r2];";
    let st = "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r2], {%r3, %r3};";
    let count = |text: &str, offset: &dyn Fn(u32) -> u32| {
        let c = access(text, 32, offset).shared;
        assert_eq!(c.requests, 1);
        (c.passes, c.conflicts, c.ways, c.load_bytes, c.store_bytes)
    };
    // A tile of 64 halves a row: eight rows of a matrix begin at the same bank.
    assert_eq!(count(x4, &|t| 128 * (t % 8) + 16 * (t / 8)), (32, 28, 8, 512, 0));
    // The same with the 16-byte columns exchanged by row, or with 16 bytes of padding.
    assert_eq!(count(x4, &|t| 128 * (t % 8) + 16 * (t / 8 ^ t % 8)), (4, 0, 1, 512, 0));
    assert_eq!(count(x4, &|t| 144 * (t % 8) + 16 * (t / 8)), (4, 0, 1, 512, 0));
    // 32 halves a row: every second row at the same bank.
    assert_eq!(count(x4, &|t| 64 * (t % 8) + 16 * (t / 8)), (16, 12, 4, 512, 0));
    assert_eq!(count(x1, &|t| 16 * (t % 8)), (1, 0, 1, 128, 0));
    assert_eq!(count(x1, &|t| 128 * (t % 8)), (8, 7, 8, 128, 0));
    assert_eq!(count(st, &|t| 16 * t), (2, 0, 1, 0, 256));
}

#[test]
fn asynchronous_copies_count_on_both_sides() {
    let c = access("cp.async.cg.shared.global [%r2], [%rd3], 16;", 32, |t| 16 * t);
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes, c.global.store_bytes), (1, 16, 512, 0));
    assert_eq!((c.shared.requests, c.shared.passes, c.shared.store_bytes, c.shared.load_bytes), (1, 4, 512, 0));
    assert_eq!(c.by_class[Class::Async], 1);
    // The thread's number as source size: lane 0 reads nothing, lanes 1 to 3 a part, all others four bytes; zeros fill the rest.
    let c = access("cp.async.ca.shared.global [%r2], [%rd3], 4, %r3;", 32, |t| 32 * t);
    assert_eq!((c.global.sectors, c.global.load_bytes), (31, 1 + 2 + 3 + 28 * 4));
    assert_eq!((c.shared.store_bytes, c.shared.passes, c.shared.ways), (128, 8, 8));
    let c = access("cp.async.ca.shared.global [%r2], [%rd3], 4, 0;", 32, |t| 4 * t);
    assert_eq!((c.global.requests, c.global.load_bytes, c.shared.store_bytes), (0, 0, 128));
}

#[test]
fn atomics_read_and_write() {
    let c = access("atom.global.add.u32 %r4, [%rd3], 1;", 40, |t| 4 * t);
    assert_eq!((c.atomics, c.by_class[Class::Atomic]), (40, 2));
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes, c.global.store_bytes), (2, 5, 160, 160));
    let c = access("@%p1 red.shared.add.u32 [%r2], 1;", 32, |t| 128 * t);
    assert_eq!((c.atomics, c.shared.requests, c.shared.passes, c.global.requests), (8, 1, 8, 0));
    assert_eq!((c.shared.load_bytes, c.shared.store_bytes, c.flops), (32, 32, 0));
}

/// Profile of a kernel with one parameter, a pointer to 4 KiB.
fn profile(body: &str, grid: u32, block: u32) -> Profile {
    let vm = vm(1);
    let data = vm.alloc(4096).unwrap();
    vm.fill(data, 0, 4096).unwrap();
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 data) {{
          .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %d<9>;
          {body}
        }}"
    );
    let stats = launch(&vm, &text, grid, block, &[data]);
    let profile = stats.profile.unwrap();
    assert_eq!(Some(sum(&profile)), stats.counters);
    profile
}

#[test]
fn every_instruction_of_straight_code_counts_once() {
    let body = "ld.param.u64 %rd1, [data];
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, %r1;
        mov.u32 %r9, 77; // nobody reads it
        mul.wide.u32 %rd2, %r2, 4;
        cvta.to.global.u64 %rd3, %rd1;
        add.s64 %rd4, %rd3, %rd2;
        ld.global.u8 %r3, [%rd4]; // widened
        add.sat.f32 %f1, 0f3F800000, 0f3F800000; // in two steps
        add.f32 %f2, %f1, %f1; // dead
        st.global.u32 [%rd4], %r3;
        bra NEXT;
        NEXT:
        mov.u32 %r8, %r1; // dead at the end of its run
        LAST:
        ret;";
    let profile = profile(body, 3, 40);
    let wanted: Vec<&str> = body.lines().map(str::trim).filter(|l| !l.ends_with(':')).collect();
    assert_eq!(profile.lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), wanted);
    for line in &profile.lines {
        // Three blocks of two warps, 32 lanes and 8.
        assert_eq!((line.counters.warp_instructions, line.counters.thread_instructions), (6, 120), "{}", line.text);
        assert_eq!(line.counters.by_class.iter().map(|(_, n)| n).sum::<u64>(), 6, "{}", line.text);
    }
    let total = sum(&profile);
    assert_eq!(total.by_class[Class::Load], 12);
    assert_eq!(total.by_class[Class::Move], 30);
    assert_eq!(total.by_class[Class::Float], 12);
    assert_eq!(total.by_class[Class::Control], 12);
    assert_eq!(total.flops, 2 * 120);
    assert_eq!(total.ratios().lanes_per_instruction, Some(20.0));
    // Parameters are no memory traffic.
    assert_eq!(total.global.load_bytes, 120);
}

#[test]
fn floating_point_operations() {
    let flops = |text: &str| {
        let profile = profile(&format!("{text} // here\n ret;"), 1, 40);
        line(&profile, "// here")
    };
    for (text, lanes, class) in [
        ("add.f32 %f1, %f2, %f3;", 1, Class::Float),
        ("sub.rz.ftz.f32 %f1, %f2, %f3;", 1, Class::Float),
        ("mul.f32 %f1, %f2, %f3;", 1, Class::Float),
        ("fma.rn.f32 %f1, %f2, %f3, %f4;", 2, Class::Float),
        ("fma.rn.sat.f32 %f1, %f2, %f3, %f4;", 2, Class::Float),
        ("div.rn.f32 %f1, %f2, %f3;", 1, Class::Float),
        ("max.f32 %f1, %f2, %f3;", 0, Class::Float),
        ("neg.f32 %f1, %f2;", 0, Class::Float),
        ("fma.rn.f64 %d1, %d2, %d3, %d3;", 2, Class::Double),
        ("mul.f64 %d1, %d2, %d3;", 1, Class::Double),
        ("add.f16 %h1, %h2, %h3;", 1, Class::Half),
        ("add.f16x2 %r1, %r2, %r3;", 2, Class::Half),
        ("fma.rn.bf16x2 %r1, %r2, %r3, %r4;", 4, Class::Half),
        ("max.f16x2 %r1, %r2, %r3;", 0, Class::Half),
        ("ex2.approx.f32 %f1, %f2;", 0, Class::Special),
        ("rcp.approx.ftz.f32 %f1, %f2;", 0, Class::Special),
        ("mad.lo.u32 %r1, %r2, %r3, %r4;", 0, Class::Integer),
        ("setp.lt.f32 %p1, %f1, %f2;", 0, Class::Compare),
    ] {
        let c = flops(text);
        assert_eq!((c.flops, c.tensor_flops, c.by_class[class]), (40 * lanes, 0, 2), "{text}");
    }
    for (text, each) in [
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};",
            2 * 16 * 8 * 16,
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};",
            2 * 16 * 8 * 8,
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r0,%r1,%r2,%r3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%r0,%r1,%r2,%r3};",
            2 * 16 * 8 * 32,
        ),
    ] {
        let profile = profile(&format!("{text} // here\n ret;"), 2, 64);
        let c = line(&profile, "// here");
        assert_eq!((c.tensor_flops, c.flops, c.by_class[Class::Tensor]), (4 * each, 0, 4), "{text}");
    }
}

#[test]
fn divergence_and_predication() {
    let profile = profile(
        "mov.u32 %r1, %tid.x;
         setp.lt.u32 %p1, %r1, 8;
         setp.lt.u32 %p2, %r1, 32;
         @%p1 add.u32 %r2, %r1, 1; // guarded
         st.shared.u32 [tile], %r2;
         @%p2 bra SOME; // whole warps
         add.u32 %r2, %r1, 2; // second warp
       SOME:
         @%p1 bra FEW; // parts the first
         add.u32 %r2, %r1, 3; // many
         bra JOIN;
       FEW:
         add.u32 %r2, %r1, 4; // few
       JOIN:
         bar.sync 0;
         membar.cta;
         bar.warp.sync 0xffffffff;
         @%p2 bar.arrive 1, 64;
         @%p1 ret; // eight leave
         add.u32 %r2, %r1, 5; // rest
         ret; // end"
            .replacen("mov", ".shared .b32 tile; mov", 1)
            .as_str(),
        1,
        64,
    );
    let of = |text: &str| {
        let c = line(&profile, text);
        (c.warp_instructions, c.thread_instructions, c.divergent_branches)
    };
    assert_eq!(of("// guarded"), (2, 8, 0));
    assert_eq!(line(&profile, "// guarded").predicated_off, 1);
    assert_eq!(line(&profile, "// guarded").predicated_off_lanes, 56);
    assert_eq!(of("// whole warps"), (2, 64, 0));
    assert_eq!(of("// second warp"), (1, 32, 0));
    assert_eq!(of("// parts the first"), (2, 64, 1));
    assert_eq!(of("// many"), (2, 56, 0));
    assert_eq!(of("// few"), (1, 8, 0));
    assert_eq!(of("// eight leave"), (2, 64, 1));
    assert_eq!(of("// rest"), (2, 56, 0));
    let total = sum(&profile);
    assert_eq!(total.divergent_branches, 2);
    // `bar.sync` of both warps, `bar.arrive` of one.
    assert_eq!(total.barriers, 3);
    // A guarded barrier is a branch around it: the warp whose guard does not hold executes none.
    assert_eq!((total.by_class[Class::Barrier], total.by_class[Class::Fence], total.by_class[Class::Warp]), (3, 2, 2));
    // All lanes of both warps in one word.
    assert_eq!((total.shared.requests, total.shared.passes, total.shared.store_bytes), (2, 2, 256));
}

#[test]
fn loops_and_calls() {
    let vm = vm(1);
    let text = format!(
        "{HEAD}.func (.param .b32 out) twice(.param .b32 in) {{
          .reg .b32 %r<3>;
          ld.param.b32 %r1, [in];
          add.u32 %r2, %r1, %r1; // doubled
          st.param.b32 [out], %r2;
          ret;
        }}
        .visible .entry k() {{
          .reg .pred %p<3>; .reg .b32 %r<9>;
          mov.u32 %r1, %tid.x;
          mov.u32 %r2, 0;
        LOOP:
          {{ .param .b32 a; .param .b32 b;
          st.param.b32 [a], %r1;
          call (b), twice, (a); // call
          ld.param.b32 %r3, [b]; }}
          add.u32 %r2, %r2, 1;
          setp.lt.u32 %p1, %r2, %r1;
          @%p1 bra LOOP; // back
          ret;
        }}"
    );
    let stats = launch(&vm, &text, 1, 32, &[]);
    let profile = stats.profile.unwrap();
    // Lane i goes round max(i, 1) times: 31 rounds, 1 + 31 * 16 lanes.
    for text in ["// doubled", "// call", "// back", "add.u32 %r2, %r2, 1;"] {
        let c = line(&profile, text);
        assert_eq!((c.warp_instructions, c.thread_instructions), (31, 497), "{text}");
    }
    // Lanes 0 and 1 leave together; then one lane leaves each round, and in the last the one that is left.
    assert_eq!(line(&profile, "// back").divergent_branches, 30);
    let total = stats.counters.unwrap();
    assert_eq!((total.local.requests, total.global.requests), (0, 0));
}

#[test]
fn local_and_constant_memory() {
    let vm = vm(1);
    let text = format!(
        "{HEAD}.const .b32 table[4] = {{1, 2, 3, 4}};
        .visible .entry k() {{
          .local .align 16 .b8 frame[256]; .reg .b32 %r<20>; .reg .b64 %rd<9>;
          mov.u32 %r1, %tid.x;
          mul.wide.u32 %rd1, %r1, 4;
          mov.u64 %rd2, frame;
          st.local.v2.u32 [%rd2], {{%r1, %r1}}; // pair
          ld.local.u32 %r2, [%rd2+4]; // same offset
          add.u64 %rd3, %rd2, %rd1;
          cvta.local.u64 %rd4, %rd3;
          st.u32 [%rd4], %r1; // own offset
          ld.const.u32 %r3, [table+4]; // constant
          ret;
        }}"
    );
    let profile = launch(&vm, &text, 1, 32, &[]).profile.unwrap();
    let of = |text: &str| {
        let c = line(&profile, text).local;
        (c.requests, c.sectors, c.load_bytes, c.store_bytes)
    };
    assert_eq!(of("// pair"), (1, 8, 0, 256));
    assert_eq!(of("// same offset"), (1, 4, 128, 0));
    assert_eq!(of("// own offset"), (1, 32, 0, 128));
    let constant = line(&profile, "// constant");
    assert_eq!((constant.global.requests, constant.local.requests, constant.by_class[Class::Load]), (0, 0, 1));
}

/// What is counted before it turns out to be a fault.
#[test]
fn misaligned_accesses_are_faults_when_counted_too() {
    for access in ["ld.local.v4.b64 {%rd4, %rd5, %rd6, %rd7}, [%rd1]", "ld.shared.v2.b64 {%rd4, %rd5}, [%rd1]"] {
        let ptx = format!(
            "{HEAD}.visible .entry k() {{ .reg .b64 %rd<9>; .local .align 32 .b8 room[64]; .shared .align 16 .b8 tile[64];
             mov.u64 %rd1, 1; {access}; ret; }}"
        );
        let kernel = Module::parse("test.ptx", &ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
        let fault = vm(1).launch(&kernel, &Launch::new([1; 3], [32, 1, 1]), &[]);
        assert_eq!(fault.map(|_| ()).map_err(|f| f.kind), Err(FaultKind::Misaligned), "{access}");
    }
}

#[test]
fn source_lines_and_what_was_inlined_where() {
    let vm = vm(1);
    let text = format!(
        "{HEAD}.visible .entry k() {{
          .reg .f32 %f<9>;
          .loc 1 10 3
          mov.f32 %f1, 0f3F800000;
          .loc 2 5 7, function_name $L__info_string0, inlined_at 1 10 3
          add.f32 %f2, %f1, %f1;
          .loc 2 9 1, function_name $L__info_string1, inlined_at 2 5 7
          mul.f32 %f3, %f2, %f2;
          .loc 2 5 12, function_name $L__info_string0, inlined_at 1 10 3
          fma.rn.f32 %f3, %f2, %f2, %f3;
          .loc 1 11 1
          ret;
        }}
        .file 1 \"kernel.cu\"
        .file 2 \"/usr/math.cuh\", 1, 2"
    );
    let profile = launch(&vm, &text, 1, 32, &[]).profile.unwrap();
    let chain = |text: &str| {
        let line = profile.lines.iter().find(|l| l.text.starts_with(text)).unwrap();
        line.source.iter().map(|s| format!("{}:{}:{}", s.file, s.line, s.column)).collect::<Vec<_>>()
    };
    assert_eq!(chain("mov"), ["kernel.cu:10:3"]);
    assert_eq!(chain("add"), ["/usr/math.cuh:5:7", "kernel.cu:10:3"]);
    assert_eq!(chain("mul"), ["/usr/math.cuh:9:1", "/usr/math.cuh:5:7", "kernel.cu:10:3"]);
    assert_eq!(chain("ret"), ["kernel.cu:11:1"]);
    let source = profile.by_source();
    let found: Vec<_> = source.iter().map(|s| (s.file.as_str(), s.line, s.counters.flops)).collect();
    assert_eq!(
        found,
        [("/usr/math.cuh", 5, 32 + 64), ("/usr/math.cuh", 9, 32), ("kernel.cu", 10, 0), ("kernel.cu", 11, 0)]
    );
    let lines = |text: &str| profile.lines.iter().find(|l| l.text.starts_with(text)).unwrap().line;
    assert_eq!(source[0].ptx_lines, [lines("add"), lines("fma")]);
}

#[test]
fn lines_add_up_and_threads_do_not_matter() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    for name in ["nv_cp_async_double_buffer", "nv_shfl_modes", "triton_softmax_row", "triton_vector_add_odd"] {
        let mut seen: Option<(Counters, Profile)> = None;
        for threads in [1, 3] {
            let config = VmConfig { threads, profile: true, ..VmConfig::default() };
            let outcome = ptx_vm::case::run_case(&root.join(name), &config).unwrap();
            assert!(outcome.ok, "{name}");
            let now = (outcome.counters.unwrap(), outcome.launches[0].profile.clone().unwrap());
            assert_eq!(sum(&now.1), now.0, "{name}");
            assert!(now.0.warp_instructions > 0);
            match &seen {
                Some(before) => assert_eq!(*before, now, "{name}"),
                None => seen = Some(now),
            }
        }
    }
}

#[test]
fn bulk_copies_count_by_their_ranges() {
    let vm = vm(1);
    let data = vm.alloc(4096).unwrap();
    vm.fill(data, 0, 4096).unwrap();
    let text = ".version 8.0
        .target sm_90
        .address_size 64
        .visible .entry k(.param .u64 data) {
          .shared .align 16 .b8 tile[1024]; .shared .align 8 .b64 done;
          .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
          ld.param.u64 %rd1, [data];
          mov.u32 %r1, %tid.x;
          setp.ne.u32 %p1, %r1, 0;
          @%p1 bra OUT;
          mbarrier.init.shared.b64 [done], 1;
          mbarrier.arrive.expect_tx.shared.b64 %rd2, [done], 272;
          cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1+16], 272, [done]; // in
        WAIT:
          mbarrier.try_wait.parity.shared.b64 %p2, [done], 0;
          @!%p2 bra WAIT;
          cp.async.bulk.global.shared::cta.bulk_group [%rd1+1024], [tile], 256; // out
          cp.async.bulk.commit_group;
          cp.async.bulk.wait_group 0;
        OUT:
          ret;
        }";
    let profile = launch(&vm, text, 1, 32, &[data]).profile.unwrap();
    // 272 bytes from the middle of a sector: nine sectors; three passes of 128 bytes.
    let c = line(&profile, "// in");
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes, c.global.store_bytes), (1, 9, 272, 0));
    assert_eq!((c.shared.requests, c.shared.passes, c.shared.load_bytes, c.shared.store_bytes), (1, 3, 0, 272));
    let c = line(&profile, "// out");
    assert_eq!((c.global.requests, c.global.sectors, c.global.load_bytes, c.global.store_bytes), (1, 8, 0, 256));
    assert_eq!((c.shared.passes, c.shared.conflicts, c.shared.load_bytes, c.thread_instructions), (2, 0, 256, 1));
}
