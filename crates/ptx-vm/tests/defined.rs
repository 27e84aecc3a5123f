//! Where undefined bits go: through every kind of instruction, byte by byte, and what they must not decide.

use ptx_vm::{Fault, FaultKind, FaultKinds, Launch, MemoryError, Module, Vm, VmConfig};

/// `%r1`, `%f1`, `%h1`, `%rd6` come from memory nobody has written; `%r2` is 0x5566_7788, `%f2` 1.0, `%h2` and `%rd7` the like.
/// The word of each thread in `out` is what the body leaves in `%r9`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 none) {{
          .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .f32 %f<9>;
          .shared .align 16 .b8 tile[1024]; .local .align 8 .b8 frame[64];
          ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [none];
          mov.u32 %r0, %tid.x; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd3, %rd3, %rd1; shl.b32 %r10, %r0, 2;
          ld.global.u32 %r1, [%rd2]; ld.global.u64 %rd6, [%rd2]; ld.global.u16 %h1, [%rd2]; ld.global.f32 %f1, [%rd2];
          mov.u32 %r2, 0x55667788; mov.f32 %f2, 0f3F800000; mov.u16 %h2, 7; mov.u64 %rd7, 7;
          setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r2, 0; setp.ne.u32 %p3, %r2, 0;
          {body}
          st.global.u32 [%rd3], %r9; ret; }}"
    )
}

fn launch(vm: &Vm, body: &str) -> (Result<(), Fault>, u64) {
    let kernel =
        Module::parse("test.ptx", &kernel(body)).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let (out, none) = (vm.alloc(128).unwrap(), vm.alloc(64).unwrap());
    vm.fill(out, 0, 128).unwrap();
    let params = [out, none].map(u64::to_le_bytes).concat();
    let shape = Launch::new([1, 1, 1], [32, 1, 1]);
    (vm.launch(&kernel, &shape, &params).map(|_| ()), out)
}

/// Threads do the same at the same places here: races are none of the subject.
fn checked() -> Vm {
    let report = FaultKinds::NONE.with(FaultKind::Uninitialised);
    Vm::new(VmConfig { checked: true, report, ..VmConfig::default() })
}

/// The bytes of the word of a thread: `U` where it is undefined, from the lowest on.
fn bytes(vm: &Vm, out: u64, thread: u64) -> String {
    let at = |byte: u64| vm.undefined(out + 4 * thread + byte, 1).unwrap().is_some();
    (0..4).map(|byte| if at(byte) { 'U' } else { '.' }).collect()
}

#[test]
fn undefined_bits_go_where_the_values_go() {
    let wrong: Vec<String> = [
        ("mov.u32 %r9, %r1;", "UUUU"),
        ("mov.u32 %r9, %r2;", "...."),
        ("and.b32 %r9, %r1, 0xffff;", "UU.."),
        ("or.b32 %r9, %r1, 0xff;", ".UUU"),
        ("xor.b32 %r9, %r1, %r2;", "UUUU"),
        ("not.b32 %r9, %r1;", "UUUU"),
        ("lop3.b32 %r9, %r1, 0xff00, %r2, 0xc0;", ".U.."),
        ("lop3.b32 %r9, %r1, 0xff00, 0xff00ffff, 0xe2;", ".U.."),
        ("shl.b32 %r9, %r1, 8;", ".UUU"),
        ("shr.u32 %r9, %r1, 16;", "UU.."),
        ("shr.s32 %r9, %r1, 16;", "UUUU"),
        ("shl.b32 %r9, %r2, %r1;", "UUUU"),
        ("shf.l.wrap.b32 %r9, %r2, %r1, 8;", ".UUU"),
        ("shf.l.wrap.b32 %r9, %r1, %r2, 8;", "U..."),
        ("cvt.u32.u16 %r9, %h1;", "UU.."),
        ("cvt.s32.s16 %r9, %h1;", "UUUU"),
        ("cvt.u32.u64 %r9, %rd6;", "UUUU"),
        ("cvt.u64.u32 %rd8, %r1; shr.u64 %rd8, %rd8, 32; cvt.u32.u64 %r9, %rd8;", "...."),
        ("prmt.b32 %r9, %r1, %r2, 0x5410;", "UU.."),
        ("prmt.b32 %r9, %r1, %r2, 0x7654;", "...."),
        ("prmt.b32 %r9, %r2, %r2, %r1;", "UUUU"),
        ("bfi.b32 %r9, %r1, %r2, 8, 8;", ".U.."),
        ("bfe.u32 %r9, %r1, 4, 8;", "U..."),
        ("bfe.u32 %r9, %r2, %r1, 8;", "UUUU"),
        ("brev.b32 %r8, %r1; shr.u32 %r9, %r8, 24;", "U..."),
        ("mov.b64 %rd8, {%r1, %r2}; mov.b64 {%r8, %r9}, %rd8;", "...."),
        ("mov.b64 %rd8, {%r1, %r2}; mov.b64 {%r9, %r8}, %rd8;", "UUUU"),
        ("mov.b32 %r9, {%h2, %h1};", "..UU"),
        ("add.u32 %r9, %r1, %r2;", "UUUU"),
        ("mad.lo.u32 %r9, %r2, %r1, %r2;", "UUUU"),
        ("popc.b32 %r9, %r1;", "UUUU"),
        ("and.b32 %r8, %r1, 0xffff; add.rn.f16x2 %r9, %r8, %r2;", "UU.."),
        ("and.b32 %r8, %r1, 0xffff; fma.rn.bf16x2 %r9, %r2, %r2, %r8;", "UU.."),
        ("cvt.rn.bf16x2.f32 %r9, %f1, %f2;", "..UU"),
        ("cvt.rn.f16x2.f32 %r9, %f2, %f1;", "UU.."),
        ("add.f32 %f3, %f1, %f2; mov.b32 %r9, %f3;", "UUUU"),
        ("selp.b32 %r9, %r1, %r2, %p2;", "...."),
        ("selp.b32 %r9, %r1, %r2, %p3;", "UUUU"),
        ("selp.b32 %r9, %r2, %r2, %p1;", "UUUU"),
        ("and.pred %p4, %p1, %p2; selp.b32 %r9, 1, 2, %p4;", "...."),
        ("or.pred %p4, %p1, %p2; selp.b32 %r9, 1, 2, %p4;", "UUUU"),
        ("or.pred %p4, %p1, %p3; selp.b32 %r9, 1, 2, %p4;", "...."),
        ("setp.lt.and.u32 %p4, %r1, 5, %p2; selp.b32 %r9, 1, 2, %p4;", "...."),
        ("setp.lt.and.u32 %p4, %r1, 5, %p3; selp.b32 %r9, 1, 2, %p4;", "UUUU"),
        ("add.cc.u32 %r8, %r1, %r2; addc.u32 %r9, %r2, 0;", "UUUU"),
        ("slct.b32.s32 %r9, %r1, %r2, -1;", "...."),
        ("slct.b32.s32 %r9, %r2, %r2, %r1;", "UUUU"),
        ("mov.u32 %r9, %r2; @%p2 mov.u32 %r9, %r1;", "...."),
        // Through memory.
        ("st.shared.u32 [tile], %r2; st.shared.u8 [tile + 1], %r1; ld.shared.u32 %r9, [tile];", ".U.."),
        ("st.local.u32 [frame], %r1; st.local.u16 [frame], %r2; ld.local.u32 %r9, [frame];", "..UU"),
        ("st.local.v2.u32 [frame], {%r1, %r2}; ld.local.v2.u32 {%r8, %r9}, [frame];", "...."),
        ("st.local.v4.u32 [frame], {%r2, %r2, %r1, %r2}; ld.local.u32 %r9, [frame + 8];", "UUUU"),
        ("atom.shared.exch.b32 %r8, [tile], %r2; atom.shared.exch.b32 %r9, [tile], %r2;", "...."),
        (
            "st.shared.u32 [tile], %r2; atom.shared.add.u32 %r8, [tile], %r1; ld.volatile.shared.u32 %r9, [tile];",
            "UUUU",
        ),
        // Among lanes.
        ("shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;", "UUUU"),
        ("shfl.sync.bfly.b32 %r9, %r2, %r1, 31, -1;", "UUUU"),
        ("vote.sync.any.pred %p4, %p1, -1; selp.b32 %r9, 1, 2, %p4;", "UUUU"),
        ("activemask.b32 %r9;", "...."),
        ("redux.sync.add.u32 %r9, %r1, -1;", "UUUU"),
        ("match.any.sync.b32 %r9, %r1, -1;", "UUUU"),
        ("movmatrix.sync.aligned.m8n8.trans.b16 %r9, %r1;", "UUUU"),
    ]
    .into_iter()
    .filter_map(|(body, want)| {
        let vm = checked();
        let (result, out) = launch(&vm, body);
        result.unwrap_or_else(|fault| panic!("{body}: {fault}"));
        let got = bytes(&vm, out, 5);
        (got != want).then(|| format!("{body} {got}, not {want}"))
    })
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lanes_are_told_apart() {
    // Lane 3 alone has nothing.
    let only = "setp.eq.u32 %p5, %r0, 3; mov.u32 %r8, %r0; @%p5 mov.u32 %r8, %r1;";
    for (body, undefined) in [
        ("mov.u32 %r9, %r8;", 1 << 3),
        ("shfl.sync.idx.b32 %r9, %r8, 3, 31, -1;", u32::MAX),
        ("shfl.sync.up.b32 %r9, %r8, 1, 0, -1;", 1 << 4),
        ("shfl.sync.down.b32 %r9, %r8, 1, 31, -1;", 1 << 2),
        ("shfl.sync.bfly.b32 %r9, %r8, 16, 31, -1;", 1 << 19),
        ("st.shared.u32 [%r10], %r8; bar.sync 0; ld.shared.u32 %r9, [tile + 12];", u32::MAX),
        ("setp.lt.u32 %p6, %r8, 9; vote.sync.all.pred %p7, %p6, -1; selp.b32 %r9, 1, 2, %p7;", 0),
        ("setp.lt.u32 %p6, %r8, 99; vote.sync.all.pred %p7, %p6, -1; selp.b32 %r9, 1, 2, %p7;", u32::MAX),
        ("setp.lt.u32 %p6, %r8, 1; vote.sync.any.pred %p7, %p6, -1; selp.b32 %r9, 1, 2, %p7;", 0),
    ] {
        let vm = checked();
        let (result, out) = launch(
            &vm,
            &format!(
                "{only} {}",
                body.replace("[%r10]", "[%r11]")
                    .replace("st.shared", "mov.u32 %r11, tile; add.u32 %r11, %r11, %r10; st.shared",)
            ),
        );
        result.unwrap_or_else(|fault| panic!("{body}: {fault}"));
        let got = (0..32).fold(0, |m, lane| m | u32::from(bytes(&vm, out, lane) != "....") << lane);
        assert_eq!(got, undefined, "{body}: {got:#x}");
    }
}

#[test]
fn a_row_and_a_column_of_a_product() {
    // The lane `4 g + t` holds row g (and g + 8) of A, column g of B, and of D the columns 2 t and 2 t + 1.
    let product = |a: &str, b: &str, d: &str| {
        format!(
            "setp.eq.u32 %p5, %r0, 13; mov.u32 %r3, 0; mov.u32 %r4, 0; @%p5 mov.u32 {a}, %r1; @%p5 mov.u32 {b}, %r1;
             mov.f32 %f4, 0f00000000; mov.f32 %f5, %f4; mov.f32 %f6, %f4; mov.f32 %f7, %f4; mov.u32 %r5, 0; mov.u32 %r6, 0;
             mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {{%f4, %f5, %f6, %f7}}, {{%r3, %r6}}, {{%r4}}, {{%f4, %f5, %f6, %f7}};
             mov.b32 %r9, {d};"
        )
    };
    let lanes = |body: &str| {
        let vm = checked();
        let (result, out) = launch(&vm, body);
        result.unwrap_or_else(|fault| panic!("{body}: {fault}"));
        (0..32).fold(0u32, |m, lane| m | u32::from(bytes(&vm, out, lane) != "....") << lane)
    };
    // Row 3: lanes 12 to 15, the upper half of D alone.
    assert_eq!(lanes(&product("%r3", "%r5", "%f4")), 0xf << 12);
    assert_eq!(lanes(&product("%r3", "%r5", "%f5")), 0xf << 12);
    assert_eq!(lanes(&product("%r3", "%r5", "%f6")), 0);
    // Column 3: t = 1, the second of the pair, in all rows.
    assert_eq!(lanes(&product("%r5", "%r4", "%f4")), 0);
    assert_eq!(lanes(&product("%r5", "%r4", "%f5")), 0x2222_2222);
    assert_eq!(lanes(&product("%r5", "%r4", "%f7")), 0x2222_2222);
}

#[test]
fn what_decides_has_to_be_defined() {
    for (body, what) in [
        ("@%p1 bra DONE; mov.u32 %r9, 1; DONE: mov.u32 %r9, 2;", "the predicate"),
        ("@%p1 st.shared.u32 [tile], %r2; mov.u32 %r9, 2;", "the predicate"),
        ("@%p1 exit; mov.u32 %r9, 2;", "the predicate"),
        ("ld.shared.u32 %r9, [%r1];", "the address"),
        ("st.global.u32 [%rd6], %r2; mov.u32 %r9, 2;", "the address"),
        ("atom.global.add.u32 %r9, [%rd6], 1;", "the address"),
        ("bar.sync %r1; mov.u32 %r9, 2;", "the number of the barrier"),
        ("shfl.sync.bfly.b32 %r9, %r2, 1, 31, %r1;", "the membermask"),
        ("bar.warp.sync %r1; mov.u32 %r9, 2;", "what the threads are named by"),
        ("cp.async.ca.shared.global [tile], [%rd1], 4, %r1; mov.u32 %r9, 2;", "the size"),
        ("mov.u32 %r9, %r15; setp.eq.u32 %p4, %r9, 3; @%p4 mov.u32 %r9, 2;", "a register that nobody has written"),
    ] {
        let fault = launch(&checked(), body).0.expect_err(body);
        assert_eq!(fault.kind, FaultKind::Uninitialised, "{body}: {fault}");
        assert!(fault.to_string().contains(what), "{body}: {fault}");
        // Not asked for, it is not told, and the launch goes on.
        let report = FaultKinds::ALL.without(FaultKind::Uninitialised);
        let vm = Vm::new(VmConfig { checked: true, report, ..VmConfig::default() });
        if let (Err(fault), _) = launch(&vm, body) {
            assert_ne!(fault.kind, FaultKind::Uninitialised, "{body}: {fault}");
        }
    }
}

#[test]
fn the_host_is_told_what_it_reads() {
    let vm = checked();
    let (result, out) = launch(&vm, "mov.u32 %r9, 7; setp.eq.u32 %p4, %r0, 9; @%p4 mov.u32 %r9, %r1;");
    result.unwrap();
    let mut words = [0; 128];
    let error = vm.read(out, &mut words).unwrap_err();
    let MemoryError::Undefined { ptr, offset, cause: Some(fault), .. } = &error else { panic!("{error}") };
    assert_eq!((*ptr, *offset), (out + 36, 36));
    assert_eq!((fault.thread, fault.address), (Some([9, 0, 0]), Some(out + 36)));
    assert!(error.to_string().contains("the host reads what is undefined: byte 36"), "{error}");
    // What is asked for otherwise is given.
    vm.read(out, &mut words[..36]).unwrap();
    vm.read_anyway(out, &mut words).unwrap();
    assert_eq!(words[..4], 7u32.to_le_bytes());
    // Copies carry it, writes end it.
    let copy = vm.alloc(128).unwrap();
    vm.copy(copy, out, 128).unwrap();
    assert!(vm.undefined(copy + 36, 1).unwrap().is_some() && vm.undefined(copy, 36).unwrap().is_none());
    vm.write(copy + 36, &[0; 4]).unwrap();
    vm.read(copy, &mut words).unwrap();
    let fresh = vm.alloc(8).unwrap();
    let error = vm.read(fresh, &mut [0; 8]).unwrap_err().to_string();
    assert!(error.contains("nobody has written"), "{error}");
}

/// A kernel that prints from a frame of local memory, after what the body does. `%rd1` points to what nobody has written.
fn printing(format: &str, body: &str) -> String {
    let bytes: Vec<String> = format.bytes().chain([0]).map(|b| b.to_string()).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 v);
        .extern .func (.param .b64 r) malloc(.param .b64 n); .extern .func free(.param .b64 p);
        .global .align 1 .b8 text[{}] = {{{}}};
        .visible .entry k(.param .u64 none) {{
          .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<3>; .reg .f64 %d<3>; .local .align 8 .b8 frame[32];
          .shared .align 8 .b8 tile[8];
          ld.param.u64 %rd1, [none]; ld.global.u32 %r1, [%rd1]; mov.u32 %r2, 7; mov.u32 %r0, %tid.x;
          mov.u64 %rd2, frame; cvta.local.u64 %rd3, %rd2; mov.u64 %rd4, text; cvta.global.u64 %rd4, %rd4;
          {body}
          {{ .param .b64 f; .param .b64 v; .param .b32 r; st.param.b64 [f], %rd4; st.param.b64 [v], %rd3;
            call.uni (r), vprintf, (f, v); }}
          ret; }}",
        bytes.len(),
        bytes.join(", ")
    )
}

#[test]
fn what_is_printed_has_to_be_defined() {
    let share = "mov.u64 %rd5, tile; cvta.shared.u64 %rd5, %rd5; st.local.u64 [frame], %rd5;";
    let malloc =
        "{ .param .b64 n; .param .b64 q; st.param.b64 [n], %rd6; call.uni (q), malloc, (n); ld.param.b64 %rd7, [q]; }";
    let free = "{ .param .b64 p; st.param.b64 [p], %rd7; call.uni free, (p); }";
    let run = |format: &str, body: &str, report| {
        let text = printing(format, body);
        let kernel =
            Module::parse("k.ptx", &text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{body}"));
        let vm = Vm::new(VmConfig { checked: true, report, ..VmConfig::default() });
        let none = vm.alloc(64).unwrap();
        let shape = Launch::new([1, 1, 1], [4, 1, 1]);
        (vm.launch(&kernel, &shape, &none.to_le_bytes()).map(|_| ()), vm.take_printed())
    };
    for (format, body, what) in [
        ("%d\n", "st.local.u32 [frame], %r1;", "what `printf` prints"),
        // Nothing was put there at all.
        ("%d\n", "", "what `printf` prints"),
        ("%d %d\n", "st.local.u32 [frame], %r2;", "what `printf` prints"),
        ("%d %lld\n", "st.local.u32 [frame], %r2; st.local.u32 [frame + 8], %r2;", "what `printf` prints"),
        ("%*d\n", "st.local.u32 [frame], %r1; st.local.u32 [frame + 4], %r2;", "what `printf` prints"),
        (
            "%f\n",
            "mov.b32 %f1, %r1; cvt.f64.f32 %d1, %f1; st.local.f64 [frame], %d1;",
            "what `printf` prints is undefined: nobody has written what line",
        ),
        ("%s\n", share, "a string"),
        ("%s\n", "cvt.u64.u32 %rd5, %r1; st.local.u64 [frame], %rd5;", "what `printf` prints"),
        // One thread alone.
        (
            "%d\n",
            "st.local.u32 [frame], %r2; setp.eq.u32 %p1, %r0, 2; @%p1 st.local.u32 [frame], %r1;",
            "thread (2, 0, 0)",
        ),
        // A register that is written in some threads only.
        ("%d\n", "setp.ne.u32 %p1, %r0, 3; @%p1 mov.u32 %r5, 3; st.local.u32 [frame], %r5;", "thread (3, 0, 0)"),
        ("x\n", "cvt.u64.u32 %rd6, %r1; and.b64 %rd4, %rd6, 0; mov.u64 %rd4, %rd6;", "the format"),
        ("x\n", &format!("cvt.u64.u32 %rd6, %r1; {malloc}"), "the number of bytes"),
        ("x\n", &format!("cvt.u64.u32 %rd7, %r1; {free}"), "the pointer"),
    ] {
        let fault = run(format, body, FaultKinds::ALL).0.expect_err(body);
        assert_eq!(fault.kind, FaultKind::Uninitialised, "{format} {body}: {fault}");
        assert!(fault.to_string().contains(what), "{format} {body}: {fault}");
    }
    for (format, body, printed) in [
        ("%d %%\n", "st.local.u32 [frame], %r2;", "7 %\n"),
        // What lies beside the arguments is not printed.
        ("%d %lld\n", "st.local.u32 [frame], %r2; st.local.u64 [frame + 8], 5;", "7 5\n"),
        ("%hhd\n", "and.b32 %r3, %r1, 0; mov.u32 %r3, 300; st.local.u32 [frame], %r3;", "44\n"),
        ("%s\n", &format!("{share} mov.u32 %r3, 0x6f6f66; st.shared.u32 [tile], %r3;"), "foo\n"),
        ("%s\n", "mov.u64 %rd5, 0; st.local.u64 [frame], %rd5;", "(null)\n"),
        ("x\n", &format!("mov.u64 %rd6, 16; {malloc} st.u32 [%rd7], %r2; {free}"), "x\n"),
    ] {
        let (result, out) = run(format, body, FaultKinds::ALL.without(FaultKind::Race));
        result.unwrap_or_else(|fault| panic!("{body}: {fault}"));
        assert_eq!(out, printed.repeat(4), "{body}");
    }
    // Not asked for, it is not told.
    let (result, out) = run("%d\n", "st.local.u32 [frame], %r1;", FaultKinds::ALL.without(FaultKind::Uninitialised));
    result.unwrap();
    assert_eq!(out.lines().count(), 4);
}
