//! PTX that ptxas refuses does not load here either, and what ptxas takes in its place does: a program that cannot be assembled must not
//! pass a test. Each line was given to ptxas 13.2 for sm_90.

use ptx_vm::Module;

const HEAD: &str = ".version 8.5\n.target sm_90\n.address_size 64\n";

/// The module of an entry with registers of all kinds, variables in all spaces, and a body.
fn module(body: &str) -> String {
    format!(
        "{HEAD}.global .align 16 .b8 glo[64]; .const .align 16 .b8 con[64];
        .func (.param .b32 r) twice(.param .b32 x) {{ ret; }}
        .visible .entry k(.param .u64 par, .param .u32 other) {{
          .reg .pred %p<4>; .reg .b16 %h<4>; .reg .f16 %hf<4>; .reg .b32 %r<8>; .reg .u32 %u<4>; .reg .s32 %s<4>;
          .reg .f32 %f<8>; .reg .b64 %rd<8>; .reg .f64 %fd<4>;
          .shared .align 16 .b8 sha[1024]; .local .align 16 .b8 loc[64];
          {body}
          ret; }}"
    )
}

/// Why a module does not load, or nothing.
fn refusal(text: &str) -> Option<String> {
    match Module::parse("k.ptx", text).and_then(|module| module.kernel("k")) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Bodies that are refused, in words; the body behind each is the valid one next to it.
fn check(rows: &[(&str, &str, &str)]) {
    let mut wrong = Vec::new();
    for (refused, told, valid) in rows {
        match refusal(&module(refused)) {
            None => wrong.push(format!("loads: {refused}")),
            Some(error) if !error.contains(told) => wrong.push(format!("{refused}: {error}")),
            Some(_) => {}
        }
        if let Some(error) = refusal(&module(valid)) {
            wrong.push(format!("does not load: {valid}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn registers_of_another_type() {
    let goes = "which does not go with";
    check(&[
        ("add.u32 %r1, %r2, %f1;", goes, "add.u32 %r1, %u2, %s1;"),
        ("add.u32 %r1, %r2, %rd1;", goes, "and.b32 %f1, %r2, %s1;"),
        ("add.u32 %f1, %r2, %r1;", goes, "add.f32 %r1, %r2, %f1;"),
        ("add.f32 %f1, %f2, %u1;", goes, "add.f32 %f1, %f2, %r1;"),
        ("add.f64 %fd1, %fd2, %f1;", goes, "add.f64 %rd1, %fd2, %fd1;"),
        ("add.f16 %hf1, %hf2, %f1;", goes, "add.f16 %h1, %hf2, %hf1;"),
        ("fma.rn.f32 %f1, %f2, %f3, %fd1;", goes, "fma.rn.f32 %f1, %f2, %f3, %r1;"),
        ("mov.u32 %r1, %f1;", goes, "mov.b32 %r1, %f1;"),
        ("mov.b64 {%r1, %h1}, %rd1;", goes, "mov.b64 {%r1, %f1}, %rd1;"),
        ("shl.b32 %r1, %r2, %rd1;", goes, "shl.b64 %rd1, %rd2, %r1;"),
        ("mad.wide.u32 %rd1, %r1, %r2, %r3;", goes, "mad.wide.u32 %rd1, %r1, %r2, %rd3;"),
        ("setp.eq.u32 %p1, %r1, %f1;", goes, "setp.eq.b32 %p1, %r1, %f1;"),
        ("selp.f32 %f1, %f2, %u1, %p1;", goes, "selp.f32 %f1, %f2, %r1, %p1;"),
        ("cvt.rn.f32.s32 %f1, %f2;", goes, "cvt.rn.f32.s32 %f1, %rd2;"),
        ("cvt.s32.s64 %h1, %rd2;", goes, "cvt.s32.s64 %rd1, %rd2;"),
        ("ld.global.u32 %h1, [%rd1];", goes, "ld.global.u8 %rd1, [%rd1];"),
        ("ld.global.f32 %u1, [%rd1];", goes, "ld.global.b32 %f1, [%rd1];"),
        ("st.global.v2.f32 [%rd1], {%f1, %s1};", goes, "st.global.v2.f32 [%rd1], {%f1, %r1};"),
        ("atom.global.add.f32 %f1, [%rd1], %u1;", goes, "atom.global.add.f32 %f1, [%rd1], %r1;"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%s0,%s1,%s2,%s3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};",
            goes,
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};",
        ),
        ("ld.global.u32 %r1, [%f1];", "is not an address", "ld.global.u32 %r1, [%rd1];"),
        ("xor.pred 1, %p1, %p2;", "the destination is not a predicate", "xor.pred %p3, %p1, %p2;"),
        ("setp.eq.u32 !%p1, %r1, %r2;", "the destination is not a predicate", "setp.eq.u32 %p1, %r1, %r2;"),
    ]);
}

#[test]
fn constants_of_another_type_or_out_of_range() {
    check(&[
        ("add.u32 %r1, %r2, 1.5;", "a floating-point constant", "and.b32 %r1, %r2, 0f3F800000;"),
        ("add.f32 %f1, %f2, 5;", "an integer constant", "add.f32 %f1, %f2, 5.0;"),
        ("st.global.f32 [%rd1], 0;", "an integer constant", "st.global.b32 [%rd1], 0;"),
        ("mov.b32 %r1, 1.5;", "a floating-point constant", "mov.b64 %rd1, 1.5;"),
        ("bar.sync 16;", "the number of the barrier is 16", "bar.sync 15;"),
        ("bar.arrive 17, 32;", "the number of the barrier is 17", "bar.arrive 1, 32;"),
        ("bar.sync 1, 33;", "no multiple of 32", "bar.sync 1, 64;"),
        ("bfe.u32 %r1, %r2, 300, 8;", "the first bit is 300", "bfe.u32 %r1, %r2, 255, 8;"),
        ("cp.async.cg.shared.global [sha], [%rd1], 8;", "the size is 8", "cp.async.ca.shared.global [sha], [%rd1], 8;"),
        (
            "cp.async.ca.shared.global [sha], [%rd1], 4, 8;",
            "the size of the source is 8",
            "cp.async.ca.shared.global [sha], [%rd1], 8, 4;",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [sha], 24;",
            "no multiple of 16",
            "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [sha], 32;",
        ),
    ]);
}

#[test]
fn names_where_registers_are_meant() {
    check(&[
        ("add.u32 %r1, %tid.x, 1;", "has to be moved", "mov.u32 %r1, %tid.x;"),
        ("add.u64 %rd1, sha, 4;", "has to be moved", "mov.u64 %rd1, sha;"),
        ("mov.u64 %rd1, %tid.x;", "the source has 32 bits", "mov.u16 %h1, %tid.x;"),
        ("mov.u32 %r1, %clock64;", "the source has 64 bits", "mov.u64 %rd1, %clock64;"),
        ("mov.u32 %r1, %laneid.x;", "unknown name", "mov.u32 %r1, %laneid;"),
        ("mov.u32 %r1, %tid;", "unknown name", "mov.u32 %r1, %tid.w;"),
    ]);
}

#[test]
fn addresses_in_another_space() {
    let no = "address";
    check(&[
        ("ld.shared.u32 %r1, [glo];", no, "ld.global.u32 %r1, [glo];"),
        ("ld.global.u32 %r1, [con];", no, "ld.const.u32 %r1, [con];"),
        ("ld.u32 %r1, [con];", no, "ld.u32 %r1, [sha];"),
        ("ld.local.u32 %r1, [sha];", no, "ld.local.u32 %r1, [loc];"),
        ("ld.param.u32 %r1, [loc];", no, "ld.param.u32 %r1, [other];"),
        ("st.shared.u32 [loc], %r1;", no, "st.local.u32 [loc], %r1;"),
        ("atom.shared.add.u32 %r1, [glo], 1;", no, "atom.add.u32 %r1, [glo], 1;"),
        ("cp.async.ca.shared.global [glo], [sha], 16;", no, "cp.async.ca.shared.global [sha], [glo], 16;"),
        ("mbarrier.init.b64 [glo], 1;", no, "mbarrier.init.shared.b64 [sha], 1;"),
        ("st.param.u32 [other], %r1;", "parameters are not written", "ld.param.u32 %r1, [other];"),
        ("ld.global.u32 %r1, [16];", "addresses that are constants", "ld.local.u32 %r1, [16];"),
        (
            "cp.async.bulk.shared::cta.global.bulk_group [%rd1], [%rd2], 32;",
            "cp.async.bulk",
            "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%rd2], 32;",
        ),
    ]);
}

#[test]
fn modifiers_that_do_not_go_together() {
    check(&[
        ("ld.global.gpu.u32 %r1, [%rd1];", "takes an order", "ld.relaxed.gpu.global.u32 %r1, [%rd1];"),
        ("ld.relaxed.global.u32 %r1, [%rd1];", "takes a scope", "ld.weak.global.u32 %r1, [%rd1];"),
        ("st.release.global.u32 [%rd1], %r1;", "takes a scope", "st.release.sys.global.u32 [%rd1], %r1;"),
        ("ld.nc.u32 %r1, [%rd1];", "`.nc` takes `.global`", "ld.global.nc.u32 %r1, [%rd1];"),
        (
            "mbarrier.try_wait.acquire.shared.b64 %p1, [sha], %rd1;",
            "takes a scope",
            "mbarrier.try_wait.acquire.cta.shared.b64 %p1, [sha], %rd1;",
        ),
        ("ld.global.u32 %r1, [%rd1], %rd2;", "operands", "ld.global.L2::cache_hint.u32 %r1, [%rd1], %rd2;"),
        ("ld.global.L2::cache_hint.u32 %r1, [%rd1];", "operands", "ld.global.u32 %r1, [%rd1];"),
        (
            "ld.global.L2::cache_hint.u32 %r1, [%rd1], %r2;",
            "does not go with",
            "ld.global.L2::cache_hint.u32 %r1, [%rd1], %rd2;",
        ),
        ("atom.add.u32 %r1, [%rd1], %r2, %r3;", "operands", "atom.cas.b32 %r1, [%rd1], %r2, %r3;"),
        ("atom.and.u32 %r1, [%rd1], %r2;", "does not take .u32", "atom.and.b32 %r1, [%rd1], %r2;"),
        ("atom.max.b32 %r1, [%rd1], %r2;", "does not take .b32", "atom.max.s32 %r1, [%rd1], %r2;"),
        ("atom.add.s64 %rd1, [%rd2], %rd3;", "does not take .s64", "atom.add.u64 %rd1, [%rd2], %rd3;"),
        ("atom.exch.f32 %f1, [%rd1], %f2;", "does not take .f32", "atom.exch.b32 %f1, [%rd1], %f2;"),
        ("atom.inc.s32 %r1, [%rd1], %r2;", "does not take .s32", "atom.inc.u32 %r1, [%rd1], %r2;"),
        ("atom.add.f16 %hf1, [%rd1], %hf2;", "`.noftz` is missing", "atom.add.noftz.f16 %hf1, [%rd1], %hf2;"),
    ]);
}

#[test]
fn declarations() {
    check(&[
        (".reg .b32 %x; .reg .f32 %x;", "declared twice", ".reg .b32 %x; { .reg .f32 %x; }"),
        (".reg .b32 %r<3>;", "declared twice", "{ .reg .b32 %r<3>; }"),
        (".reg .b32 %r3;", "declared twice", ".reg .b32 %r9;"),
        (".shared .b32 sha;", "declared twice", ".shared .b32 more;"),
        (".shared .b32 par;", "declared twice", ".shared .b32 parr;"),
        (".shared .b32 x = 1;", "no initial value", ".shared .b32 x;"),
        (".shared .b8 x[];", "has no size", ".shared .b8 x[4];"),
        (
            ".param .b64 a; .param .b32 b; call (b), twice, (a);",
            "has 8 bytes, the parameter `x` has 4",
            ".param .b32 a; .param .b32 b; call (b), twice, (a);",
        ),
        (
            ".param .b32 a; .param .b64 b; call (b), twice, (a);",
            "has 8 bytes, the parameter `r` has 4",
            ".param .b32 a; .param .b32 b; call (b), twice, (a);",
        ),
    ]);
    for (refused, told, valid) in [
        (".maxntid -1, 1, 1", "at least 1", ".maxntid 64, 1, 1"),
        (".reqntid 0", "at least 1", ".reqntid 32"),
        (".maxntid 64 .reqntid 64", "exclude each other", ".maxntid 64 .minnctapersm 2"),
    ] {
        let entry = |directive: &str| format!("{HEAD}.visible .entry k() {directive} {{ ret; }}");
        let error = refusal(&entry(refused)).unwrap_or_else(|| panic!("loads: {refused}"));
        assert!(error.contains(told), "{refused}: {error}");
        assert_eq!(refusal(&entry(valid)), None, "{valid}");
    }
    let entry = ".visible .entry k() { ret; }";
    for (refused, told, valid) in [
        (".visible .entry k() { ret; }", "defined twice", ".visible .entry l() { ret; }"),
        (".global .b32 g; .global .b32 g;", "defined twice", ".extern .global .b32 g; .visible .global .b32 g;"),
        (".global .u32 g = 1.5;", "a float where an integer", ".global .b32 g = 0f3F800000;"),
        (".global .f32 g = 1;", "an integer where a float", ".global .f32 g = 1.0;"),
        (".global .pred g;", "a predicate is a register", ".global .b8 g;"),
    ] {
        let error = refusal(&format!("{HEAD}{refused}\n{entry}")).unwrap_or_else(|| panic!("loads: {refused}"));
        assert!(error.contains(told), "{refused}: {error}");
        assert_eq!(refusal(&format!("{HEAD}{valid}\n{entry}")), None, "{valid}");
    }
}
