//! The same bits on every CPU: kernels of all kinds run in processes of their own with `PTX_VM_ISA` set to each level, and what they leave in
//! memory is compared.

use ptx_vm::{Launch, Module, Vm, VmConfig};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

/// Threads of the block, a warpgroup, the bytes of a result of each, and of all results.
const THREADS: usize = 128;
const ROW: usize = 4 * THREADS;
const BYTES: usize = 128 << 10;

/// Instructions over f32 `%x`, `%y`, `%z` (bits), packed halves and f64 `%d`, `%e`; each leaves its result in `%r` or `%f`.
const WORDS: &[&str] = &[
    "add.rn.f32",
    "add.rz.f32",
    "sub.rp.f32",
    "mul.rm.ftz.f32",
    "mul.rn.sat.f32",
    "div.rn.f32",
    "div.full.f32",
    "div.approx.f32",
    "min.f32",
    "max.NaN.f32",
    "add.s32",
    "mul.hi.s32",
    "mul.lo.u32",
    "shl.b32",
    "shr.s32",
    "and.b32",
    "add.f16x2",
    "mul.rn.bf16x2",
    "min.bf16x2",
    "cvt.rn.f16x2.f32",
    "cvt.rn.bf16x2.f32",
    "cvt.rz.relu.bf16x2.f32",
    "sub.ftz.f16x2",
];
const UNARY: &[&str] = &[
    "ex2.approx.f32",
    "ex2.approx.ftz.f32",
    "lg2.approx.f32",
    "sin.approx.f32",
    "cos.approx.ftz.f32",
    "rcp.approx.f32",
    "rsqrt.approx.f32",
    "sqrt.approx.f32",
    "sqrt.rn.f32",
    "sqrt.rm.f32",
    "tanh.approx.f32",
    "ex2.approx.f16x2",
    "tanh.approx.bf16x2",
    "popc.b32",
    "clz.b32",
    "brev.b32",
    "cvt.rni.s32.f32",
    "cvt.rzi.u32.f32",
    "cvt.rn.f32.s32",
    "cvt.rp.f32.u32",
    "cvt.rna.tf32.f32",
    "cvt.rmi.f32.f32",
];

fn kernel() -> String {
    let mut body = String::new();
    for (i, op) in WORDS.iter().enumerate() {
        body += &format!("{op} %r, %x, %y; st.global.b32 [%q+{}], %r;\n", ROW * i);
    }
    for (i, op) in UNARY.iter().enumerate() {
        body += &format!("{op} %r, %x; st.global.b32 [%q+{}], %r;\n", ROW * (WORDS.len() + i));
    }
    let mut at = ROW * (WORDS.len() + UNARY.len());
    for op in [
        "fma.rn.f32",
        "fma.rz.f32",
        "fma.rn.relu.f16x2",
        "fma.rn.bf16x2",
        "mad.lo.s32",
        "prmt.b32",
        "lop3.b32",
        "dp4a.s32.u32",
    ] {
        let table = if op == "lop3.b32" { ", 0x6a" } else { "" };
        body += &format!("{op} %r, %x, %y, %z{table}; st.global.b32 [%q+{at}], %r;\n");
        at += ROW;
    }
    // Fragments of products: every lane holds arbitrary finite numbers.
    body += "and.b32 %x, %x, 0xbfffbfff; and.b32 %y, %y, 0xbfffbfff; and.b32 %z, %z, 0xbfffffff; mov.b64 %d, {%x, %z}; mov.b64 %e, {%y, %x};\n";
    for (shape, types, a, b) in [
        ("m16n8k16.row.col", "f32.f16.f16.f32", "{%x, %y, %z, %x}", "{%y, %x}"),
        ("m16n8k8.row.col", "f32.f16.f16.f32", "{%x, %y}", "{%x}"),
        ("m16n8k16.row.col", "f32.bf16.bf16.f32", "{%x, %y, %z, %x}", "{%y, %x}"),
        ("m16n8k8.row.col", "f32.tf32.tf32.f32", "{%x, %y, %z, %x}", "{%y, %x}"),
        ("m16n8k32.row.col", "s32.s8.u8.s32", "{%x, %y, %z, %x}", "{%y, %x}"),
    ] {
        body += &format!("mma.sync.aligned.{shape}.{types} {{%r, %s, %t, %u}}, {a}, {b}, {{%x, %y, %x, %y}};\n");
        for r in ["%r", "%s", "%t", "%u"] {
            body += &format!("st.global.b32 [%q+{at}], {r};\n");
            at += ROW;
        }
    }
    // B is what the block's first threads have.
    body += "mov.u32 %t, tile; shl.b32 %r, %i, 2; add.u32 %r, %r, %t; st.shared.b32 [%r], %y; fence.proxy.async; bar.sync 0;
        shr.u32 %r, %t, 4; cvt.u64.u32 %o, %r; add.u64 %o, %o, 0x1000080000; setp.lt.u32 %p1, %i, 128;\n";
    for (shape, types, signs, d) in [
        ("m64n16k16", "f32.f16.f16", ", 1, -1, 0", 8),
        ("m64n16k16", "f16.f16.f16", ", 1, 1, 1", 4),
        ("m64n16k16", "f32.bf16.bf16", ", 1, 1, 0", 8),
        ("m64n16k8", "f32.tf32.tf32", ", 1, 1", 8),
        ("m64n16k32", "f32.e4m3.e5m2", ", 1, 1", 8),
        ("m64n16k32", "f16.e5m2.e4m3", ", -1, 1", 4),
        ("m64n16k32", "s32.u8.s8", "", 8),
    ] {
        let registers = |of: &dyn Fn(usize) -> String, by: &str| (0..d).map(of).collect::<Vec<_>>().join(by);
        body += &registers(&|i| format!("mov.b32 %w{i}, {};", ["%x", "%y", "%z"][i % 3]), " ");
        body += &format!(
            " wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.{shape}.{types} {{{}}}, {{%x, %y, %z, %x}}, %o, %p1{signs};
            wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n",
            registers(&|i| format!("%w{i}"), ", ")
        );
        for i in 0..d {
            body += &format!("st.global.b32 [%q+{at}], %w{i};\n");
            at += ROW;
        }
    }
    for op in ["add.rn.f64", "mul.rz.f64", "div.rp.f64", "min.f64"] {
        body += &format!("{op} %f, %d, %e; mov.b64 {{%r, %s}}, %f; st.global.b32 [%q+{at}], %s;\n");
        at += ROW;
    }
    body += &format!(
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {{%f, %g}}, {{%d}}, {{%e}}, {{%e, %d}}; mov.b64 {{%r, %s}}, %f; st.global.b32 [%q+{at}], %s;\n"
    );
    format!(
        ".version 8.4\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 p, .param .u64 in) {{ .shared .align 128 .b8 tile[512]; .reg .b32 %w<8>; .reg .pred %p<2>; .reg .b32 %x, %y, %z, %r, %s, %t, %u, %i; .reg .b64 %q, %o, %n, %d, %e, %f, %g;\n\
         ld.param.u64 %q, [p]; ld.param.u64 %n, [in]; mov.u32 %i, %tid.x; mul.wide.u32 %o, %i, 4; add.s64 %q, %q, %o; mul.wide.u32 %o, %i, 12; add.s64 %n, %n, %o;\n\
         ld.global.b32 %x, [%n]; ld.global.b32 %y, [%n+4]; ld.global.b32 %z, [%n+8];\n{body}ret; }}"
    )
}

/// What the kernel leaves in memory, over many operands, as one number.
fn digest() -> u64 {
    let kernel = Module::parse("k.ptx", &kernel()).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
    let vm = Vm::new(VmConfig { threads: 1, ..VmConfig::default() });
    let (out, input) = (vm.alloc(BYTES).unwrap(), vm.alloc(THREADS * 12).unwrap());
    vm.fill(out, 0, BYTES).unwrap();
    let mut hasher = DefaultHasher::new();
    let mut state = 7u64;
    for _ in 0..200 {
        let mut words = Vec::new();
        for _ in 0..THREADS * 3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Exponents near one now and then, so that sums and products stay in range.
            let x = (state >> 32) as u32;
            let x = if state & 1 << 20 != 0 { x & 0x83ff_ffff | 0x3c00_0000 } else { x };
            words.extend_from_slice(&x.to_le_bytes());
        }
        vm.write(input, &words).unwrap();
        let params = [out, input].map(u64::to_le_bytes).concat();
        vm.launch(&kernel, &Launch::new([1, 1, 1], [THREADS as u32, 1, 1]), &params).unwrap_or_else(|e| panic!("{e}"));
        let mut bytes = vec![0; BYTES];
        vm.read(out, &mut bytes).unwrap();
        bytes.hash(&mut hasher);
    }
    hasher.finish()
}

#[test]
#[cfg_attr(feature = "quick", ignore = "the quick build has handlers for one level only")]
fn every_level_gives_the_same_bits() {
    const CHILD: &str = "PTX_VM_LEVELS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        println!("digest {:016x}", digest());
        return;
    }
    let run = |level: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_level_gives_the_same_bits", "--nocapture"])
            .env(CHILD, "1")
            .env("PTX_VM_ISA", level)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = text.split("digest ").nth(1).map(|rest| rest[..16].to_owned());
        digest.unwrap_or_else(|| panic!("level {level:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let base = run("base");
    assert_eq!(run("avx2"), base, "AVX2 and the plain CPU");
    assert_eq!(run(""), base, "the best level of this machine and the plain CPU");
}
