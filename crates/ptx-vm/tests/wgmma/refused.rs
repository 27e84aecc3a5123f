//! Forms of `wgmma` that ptxas 13.2 refuses for sm_90a do not load either; those next to them do.

use ptx_vm::Module;

fn refusal(target: &str, body: &str) -> Option<String> {
    let text = format!(
        ".version 8.6\n.target {target}\n.address_size 64\n.visible .entry k() {{
          .reg .pred %p<3>; .reg .b32 %r<99>; .reg .f32 %f<99>; .reg .b64 %rd<3>;
          {body}
          ret; }}"
    );
    Module::parse("k.ptx", &text).and_then(|module| module.kernel("k")).err().map(|error| error.to_string())
}

/// Registers `%r0` and following.
fn words(n: usize) -> String {
    let words: Vec<String> = (0..n).map(|i| format!("%r{i}")).collect();
    format!("{{{}}}", words.join(","))
}

#[test]
fn forms_that_ptxas_refuses() {
    let f = "{%f0,%f1,%f2,%f3}";
    let a = "{%r4,%r5,%r6,%r7}";
    let op = |rest: &str| format!("wgmma.mma_async.sync.aligned.{rest}");
    let f16 = |rest: &str| op(&format!("m64n8k16.f32.f16.f16 {f}, {rest};"));
    let s8 = |n: usize, rest: &str| op(&format!("m64n{n}k32.s32.s8.s8 {}, {rest};", words(n / 2)));
    let rows = [
        (f16("%rd1, %rd2, %p1, 1, 1"), "operands", f16("%rd1, %rd2, %p1, 1, -1, 0, 1")),
        (f16("%rd1, %rd2, %p1, 1, 2, 0, 0"), "a scale of A or B is 1 or -1", f16("%rd1, %rd2, !%p1, 1, 1, 0, 0")),
        (f16("%rd1, %rd2, 2, 1, 1, 0, 0"), "scale-d is 0 or 1", f16("%rd1, %rd2, 1, 1, 1, 0, 0")),
        (f16("%rd1, %rd2, %p1, 1, 1, 0, 2"), "a transposition of A or B is 0 or 1", f16("%rd1, %rd2, 0, 1, 1, 0, 0")),
        (
            f16(&format!("{a}, %rd2, %p1, 1, 1, 0, 0")),
            "8 operands, 7 expected",
            f16(&format!("{a}, %rd2, %p1, 1, 1, 0")),
        ),
        (f16("%rd1, %r2, %p1, 1, 1, 0, 0"), "does not go with", f16("%rd1, 64, %p1, 1, 1, 0, 0")),
        (
            op(&format!("m64n8k8.f32.tf32.tf32 {f}, %rd1, %rd2, %p1, 1, 1, 0, 0;")),
            "operands",
            op(&format!("m64n8k8.f32.tf32.tf32 {f}, %rd1, %rd2, %p1, 1, 1;")),
        ),
        (
            op("m64n8k16.f16.bf16.bf16 {%r0,%r1}, %rd1, %rd2, %p1, 1, 1, 0, 0;"),
            "type `.bf16` is not supported",
            op("m64n8k16.f16.f16.f16 {%r0,%r1}, %rd1, %rd2, %p1, 1, 1, 0, 0;"),
        ),
        (
            op("m64n8k16.f32.f16.f16 {%f0,_,%f2,%f3}, %rd1, %rd2, %p1, 1, 1, 0, 0;"),
            "_",
            op("m64n8k16.f32.f16.f16 {%f0,%r1,%f2,%f3}, %rd1, %rd2, %p1, 1, 1, 0, 0;"),
        ),
        (
            op("m64n12k32.f16.e4m3.e5m2 {%r0,%r1,%r2}, %rd1, %rd2, %p1, 1, 1;"),
            "there is no shape `.m64n12k32`",
            op("m64n8k32.f16.e4m3.e5m2 {%r0,%r1}, %rd1, %rd2, %p1, 1, 1;"),
        ),
        (s8(40, "%rd1, %rd2, %p1"), "there is no shape `.m64n40k32`", s8(48, "%rd1, %rd2, %p1")),
        (s8(8, "%rd1, %rd2, %p1, 1, 1"), "unsupported form", s8(24, "%rd1, %rd2, %p1")),
        (
            op("m64n8k32.s32.s8.u8 {%f0,%f1,%f2,%f3}, %rd1, %rd2, %p1;"),
            "does not go with",
            op("m64n8k32.satfinite.s32.s8.u8 {%r0,%r1,%r2,%r3}, %rd1, %rd2, %p1;"),
        ),
        ("wgmma.wait_group.sync.aligned -1;".into(), "a number of groups", "wgmma.wait_group.sync.aligned 9;".into()),
        ("wgmma.wait_group.sync.aligned %r1;".into(), "a number of groups", "wgmma.commit_group.sync.aligned;".into()),
        ("wgmma.fence.aligned;".into(), "one of `.sync` is missing", "wgmma.fence.sync.aligned;".into()),
    ];
    let mut wrong = Vec::new();
    for (refused, told, valid) in &rows {
        match refusal("sm_90a", refused) {
            None => wrong.push(format!("loads: {refused}")),
            Some(error) if !error.contains(told) => wrong.push(format!("{refused}: {error}")),
            Some(_) => {}
        }
        if let Some(error) = refusal("sm_90a", valid) {
            wrong.push(format!("does not load: {valid}: {error}"));
        }
        // Nor does anything for another target.
        for target in ["sm_80", "sm_90", "sm_100a"] {
            let only = format!("is not supported on .target {target}, only on sm_90a");
            if !refusal(target, valid).is_some_and(|error| error.contains(&only)) {
                wrong.push(format!("loads for {target}: {valid}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_left_out_is_named() {
    let sparse =
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {%f0,%f1,%f2,%f3}, %rd1, %rd2, %r1, 0, %p1, 1, 1, 0, 0;";
    let bits = "wgmma.mma_async.sync.aligned.m64n8k256.s32.b1.b1.and.popc {%r0,%r1,%r2,%r3}, %rd1, %rd2, %p1;";
    for (body, told) in [(sparse, "sparse wgmma"), (bits, "single-bit wgmma")] {
        let error = refusal("sm_90a", body).unwrap();
        assert!(error.contains(told), "{error}");
    }
}
