//! Everything that keeps a kernel from being decoded, at once.

use ptx_vm::{LoadErrorKind, Module};

const PTX: &str = ".version 8.0
.target sm_90a
.address_size 64
.func shared_one() {
  .reg .b32 %r<3>;
  clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p1, %r2;
  ret;
}
.visible .entry good() { ret; }
.visible .entry bad(.param .u64 to) {
  .reg .b32 %r<9>;
  .reg .pred %p;
  frobnicate.b32 %r1, %r2;
  add.u32 %r1, %r1, 1;
  tcgen05.fence::before_thread_sync; tcgen05.fence::after_thread_sync;
  @%p call shared_one;
  call shared_one;
  {
    add.q32 %r1, %r1, 1;
    add.u32 %r7, %unknown, 1;
  }
  tcgen05.wait::ld.sync.aligned
    ;
  call elsewhere;
  bra $nowhere;
  mov.u32 %r1, {{{{{{{ %r1 }}}}}}};
  frobnicate.b32 %r1, %r2;
  ret;
}
.visible .entry other() { call shared_one; ret; }
.func elsewhere;
";

#[test]
fn a_kernel_tells_all_its_gaps() {
    let module = Module::parse("k.ptx", PTX).unwrap();
    assert!(module.gaps("good").is_empty());
    let gaps: Vec<String> = module.gaps("bad").iter().map(ToString::to_string).collect();
    let told = [
        "k.ptx:6: launches cancelled by kernels (clusterlaunchcontrol) are not supported in `clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p1, %r2`",
        "k.ptx:13: unknown instruction `frobnicate` in `frobnicate.b32 %r1, %r2`",
        "k.ptx:15: tensor memory instructions (tcgen05) are not supported in `tcgen05.fence::before_thread_sync`",
        "k.ptx:15: tensor memory instructions (tcgen05) are not supported in `tcgen05.fence::after_thread_sync`",
        "k.ptx:19: unsupported form of `add`: modifier `.q32` is not supported in `add.q32 %r1, %r1, 1`",
        "k.ptx:20: unknown name `%unknown` in `add.u32 %r7, %unknown, 1`",
        "k.ptx:22: tensor memory instructions (tcgen05) are not supported in `tcgen05.wait::ld.sync.aligned`",
        "k.ptx:24: `elsewhere` has no body in this module, and the device runtime here does not have it in `call elsewhere`",
        "k.ptx:25: unknown label `$nowhere` in `bra $nowhere`",
        "k.ptx:26: operand nested too deeply in `{`",
        "k.ptx:27: unknown instruction `frobnicate` in `frobnicate.b32 %r1, %r2`",
    ];
    assert_eq!(gaps, told);
    // The first that is met is one of them, and a shared function has its gap in every kernel that reaches it.
    let first = module.kernel("bad").err().unwrap().to_string();
    assert!(told.contains(&first.as_str()), "{first}");
    assert_eq!(module.gaps("other").len(), 1);
    let kinds: Vec<LoadErrorKind> = module.gaps("bad").iter().map(|gap| gap.kind).collect();
    use LoadErrorKind::{Invalid, Syntax, UnknownInstruction as U};
    assert_eq!(kinds, [U, U, U, U, U, Invalid, U, Invalid, Invalid, Syntax, U]);
    let none = module.gaps("nothing");
    assert_eq!((none.len(), none[0].kind), (1, LoadErrorKind::NoEntry));
}

#[test]
fn what_stands_before_the_body_is_a_gap_among_others() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64
.visible .entry k() .reqnctapercluster 2, 16, 1 {
  .shared .b8 a[2000000000];
  .reg .b32 %r<2>;
  ld.shared.u32 %r1, [a];
  tcgen05.wait::ld.sync.aligned;
  ret; }";
    let gaps = Module::parse("k.ptx", text).unwrap().gaps("k");
    let told: Vec<(u32, &str)> = gaps.iter().map(|gap| (gap.line, gap.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (4, "`.reqnctapercluster`: clusters of 32 blocks: at most 16"),
            (4, "2000000000 bytes of static shared memory: at most 48 KiB, more is dynamic (`.extern .shared`)"),
            (5, "variable too large"),
            (8, "tensor memory instructions (tcgen05) are not supported"),
        ]
    );
}

#[test]
fn a_missing_semicolon_does_not_reach_into_the_next_kernel() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
.visible .entry first() { frobnicate 1 2 ret }
.visible .entry second() {\n  frobnicate; ret; }";
    let module = Module::parse("k.ptx", text).unwrap();
    let lines = |entry: &str| module.gaps(entry).iter().map(|gap| gap.line).collect::<Vec<_>>();
    assert!(lines("first").iter().all(|line| *line == 4) && !lines("first").is_empty(), "{:?}", module.gaps("first"));
}
