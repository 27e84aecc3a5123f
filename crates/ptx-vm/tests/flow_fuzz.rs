//! Random control flow (loops, switches, early exits, nested divergence, predicated returns, recursive calls) against a scalar
//! interpreter: each lane must get exactly what a thread by itself would compute.

mod fuzz;

use proptest::prelude::*;
use ptx_vm::{Launch, Module, Vm, VmConfig};
use std::fmt::Write;

const VARS: usize = 4;
/// Blocks an activation may go through.
const STEPS: u32 = 24;
const FUNCTIONS: usize = 3;
const DEPTH: u32 = 2;

#[derive(Debug, Clone, Copy)]
enum Math {
    Add,
    Mul,
    Xor,
    Shift,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Var(usize),
    Number(u32),
}

/// `vars[var] & mask < limit`.
#[derive(Debug, Clone, Copy)]
struct Test {
    var: usize,
    mask: u32,
    limit: u32,
}

#[derive(Debug, Clone)]
enum End {
    Goto(usize),
    If(Test, usize, usize),
    Switch(usize, [usize; 4]),
    RetIf(Test, usize),
    ExitIf(Test, usize),
    Ret,
    /// `vars[to] = function(vars[from])`, unless the calls are nested too deeply already.
    Call {
        function: usize,
        from: usize,
        to: usize,
        next: usize,
    },
}

#[derive(Debug, Clone)]
struct Block {
    math: Vec<(usize, Math, Source, Source)>,
    /// Guards the first of them.
    guard: Option<Test>,
    end: End,
}

type Program = Vec<Vec<Block>>;

struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
    fn test(&mut self) -> Test {
        let mask = [1, 3, 7, 31][self.below(4)];
        Test { var: self.below(VARS), mask, limit: 1 + self.below(mask as usize) as u32 }
    }
    fn program(&mut self) -> Program {
        (0..FUNCTIONS).map(|_| self.function()).collect()
    }
    fn function(&mut self) -> Vec<Block> {
        let n = 2 + self.below(9);
        let block = |r: &mut Random, i: usize| {
            let source = |r: &mut Random| match r.below(3) {
                0 => Source::Number(r.below(1000) as u32),
                _ => Source::Var(r.below(VARS)),
            };
            let math = (0..1 + r.below(3))
                .map(|_| {
                    let how = [Math::Add, Math::Mul, Math::Xor, Math::Shift][r.below(4)];
                    (r.below(VARS), how, source(r), source(r))
                })
                .collect();
            // Mostly forward, as programs are; sometimes anywhere.
            let target = |r: &mut Random| if r.below(3) == 0 { r.below(n) } else { (i + 1 + r.below(3)).min(n - 1) };
            let end = match r.below(12) {
                _ if i == n - 1 && r.below(2) == 0 => End::Ret,
                0 | 1 => End::Goto(target(r)),
                2..=5 => End::If(r.test(), target(r), target(r)),
                6 => End::Switch(r.below(VARS), [target(r), target(r), target(r), target(r)]),
                7 => End::RetIf(r.test(), target(r)),
                8 if r.below(3) == 0 => End::ExitIf(Test { limit: 1, mask: 31, ..r.test() }, target(r)),
                _ => {
                    End::Call { function: r.below(FUNCTIONS), from: r.below(VARS), to: r.below(VARS), next: target(r) }
                }
            };
            Block { math, guard: (r.below(3) == 0).then(|| r.test()), end }
        };
        (0..n).map(|i| block(self, i)).collect()
    }
}

impl Test {
    fn holds(&self, vars: &[u32]) -> bool {
        vars[self.var] & self.mask < self.limit
    }
}

/// What one thread computes; none when it exits.
fn call(program: &Program, function: usize, argument: u32, depth: u32) -> Option<u32> {
    let mut vars = [argument, argument ^ 0x55, 3, 7];
    let kept = argument.wrapping_mul(17);
    let mut at = 0;
    for _ in 0..STEPS {
        let block = &program[function][at];
        let take = block.guard.is_none_or(|g| g.holds(&vars));
        for (i, (to, how, a, b)) in block.math.iter().enumerate() {
            let value = |s: &Source| match s {
                Source::Var(v) => vars[*v],
                Source::Number(n) => *n,
            };
            let (a, b) = (value(a), value(b));
            let result = match how {
                Math::Add => a.wrapping_add(b),
                Math::Mul => a.wrapping_mul(b),
                Math::Xor => a ^ b,
                Math::Shift => a >> (b & 7),
            };
            if i > 0 || take {
                vars[*to] = result;
            }
        }
        at = match &block.end {
            End::Goto(to) => *to,
            End::If(test, yes, no) => {
                if test.holds(&vars) {
                    *yes
                } else {
                    *no
                }
            }
            End::Switch(var, to) => to[(vars[*var] & 3) as usize],
            End::RetIf(test, _) if test.holds(&vars) => break,
            End::ExitIf(test, _) if test.holds(&vars) => return None,
            End::RetIf(_, to) | End::ExitIf(_, to) => *to,
            End::Ret => break,
            End::Call { function, from, to, next } => {
                if depth > 0 {
                    vars[*to] = call(program, *function, vars[*from], depth - 1)?;
                }
                *next
            }
        };
    }
    Some(vars.iter().fold(kept, |sum, v| sum.wrapping_mul(31).wrapping_add(*v)))
}

fn print(program: &Program) -> String {
    let mut out = String::from(".version 8.0\n.target sm_80\n.address_size 64\n");
    for f in 0..FUNCTIONS {
        let _ = writeln!(out, ".func (.param .b32 r) f{f}(.param .b32 a, .param .b32 d);");
    }
    for (f, blocks) in program.iter().enumerate() {
        let _ = writeln!(
            out,
            ".func (.param .b32 r) f{f}(.param .b32 a, .param .b32 d) {{
               .reg .b32 %x<4>; .reg .b32 %t<6>; .reg .pred %p<3>; .local .b32 kept[2]; .reg .b32 %left, %depth;
               ld.param.b32 %x0, [a]; ld.param.b32 %depth, [d]; mul.lo.u32 %t1, %x0, 17; st.local.b32 [kept+4], %t1;
               xor.b32 %x1, %x0, 0x55; mov.u32 %x2, 3; mov.u32 %x3, 7; mov.u32 %left, {STEPS};"
        );
        let test = |out: &mut String, t: &Test| {
            let _ = writeln!(out, "and.b32 %t2, %x{}, {}; setp.lt.u32 %p1, %t2, {};", t.var, t.mask, t.limit);
        };
        for (b, block) in blocks.iter().enumerate() {
            let _ = writeln!(out, "B{b}: setp.eq.u32 %p0, %left, 0; @%p0 bra END; sub.u32 %left, %left, 1;");
            if let Some(guard) = &block.guard {
                test(&mut out, guard);
            }
            for (i, (to, how, a, b)) in block.math.iter().enumerate() {
                let source = |s: &Source| match s {
                    Source::Var(v) => format!("%x{v}"),
                    Source::Number(n) => n.to_string(),
                };
                let (a, b) = (source(a), source(b));
                let guard = if i == 0 && block.guard.is_some() { "@%p1 " } else { "" };
                let _ = match how {
                    Math::Add => writeln!(out, "{guard}add.u32 %x{to}, {a}, {b};"),
                    Math::Mul => writeln!(out, "{guard}mul.lo.u32 %x{to}, {a}, {b};"),
                    Math::Xor => writeln!(out, "{guard}xor.b32 %x{to}, {a}, {b};"),
                    Math::Shift => writeln!(out, "and.b32 %t3, {b}, 7; {guard}shr.u32 %x{to}, {a}, %t3;"),
                };
            }
            let _ = match &block.end {
                End::Goto(to) => writeln!(out, "bra B{to};"),
                End::If(t, yes, no) => {
                    test(&mut out, t);
                    writeln!(out, "@%p1 bra B{yes}; bra B{no};")
                }
                End::Switch(var, [a, b2, c, d]) => writeln!(
                    out,
                    "T{b}: .branchtargets B{a}, B{b2}, B{c}, B{d}; and.b32 %t4, %x{var}, 3; brx.idx %t4, T{b};"
                ),
                End::RetIf(t, to) => {
                    test(&mut out, t);
                    writeln!(out, "@%p1 bra END; bra B{to};")
                }
                End::ExitIf(t, to) => {
                    test(&mut out, t);
                    writeln!(out, "@%p1 exit; bra B{to};")
                }
                End::Ret => writeln!(out, "bra END;"),
                End::Call { function, from, to, next } => writeln!(
                    out,
                    "setp.ne.u32 %p1, %depth, 0;
                     {{ .param .b32 pa; .param .b32 pd; .param .b32 pr; sub.u32 %t5, %depth, 1;
                       st.param.b32 [pa], %x{from}; st.param.b32 [pd], %t5;
                       @%p1 call (pr), f{function}, (pa, pd);
                       @%p1 ld.param.b32 %x{to}, [pr]; }}
                     bra B{next};"
                ),
            };
        }
        // Two ways out: the lanes return at different places.
        let _ = writeln!(
            out,
            "END: ld.local.b32 %t1, [kept+4];
               mad.lo.u32 %t1, %t1, 31, %x0; mad.lo.u32 %t1, %t1, 31, %x1;
               and.b32 %t2, %x0, 1; setp.eq.u32 %p1, %t2, 0;
               mad.lo.u32 %t1, %t1, 31, %x2; mad.lo.u32 %t1, %t1, 31, %x3;
               st.param.b32 [r], %t1;
               @%p1 ret;
               ret;
             }}"
        );
    }
    out += "
        .visible .entry k(.param .u64 out) {
          .reg .b32 %r<4>; .reg .b64 %rd<4>; .param .b32 a; .param .b32 d; .param .b32 r;
          ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
          st.param.b32 [a], %r1; st.param.b32 [d], 2;
          call (r), f0, (a, d);
          ld.param.b32 %r2, [r];
          st.global.u32 [%rd1], %r2;
          ret;
        }";
    out
}

proptest! {
    #![proptest_config(fuzz::config(120))]
    #[test]
    fn every_lane_computes_what_a_thread_computes(seed: u64, threads in 1u32..80, checked: bool) {
        let program = Random(seed).program();
        let text = print(&program);
        let module = Module::parse("random.ptx", &text).unwrap();
        let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}\n{text}"));
        let vm = Vm::new(VmConfig { checked, threads: 1, ..VmConfig::default() });
        let bytes = threads as usize * 4;
        let out = vm.alloc(bytes).unwrap();
        vm.fill(out, 0xee, bytes).unwrap();
        let shape = Launch::new([1, 1, 1], [threads, 1, 1]);
        vm.launch(&kernel, &shape, &out.to_le_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut got = vec![0; bytes];
        vm.read(out, &mut got).unwrap();
        for (thread, got) in got.chunks(4).enumerate() {
            let want = call(&program, 0, thread as u32, DEPTH).unwrap_or(0xeeee_eeee);
            let got = u32::from_le_bytes(got.try_into().unwrap());
            prop_assert_eq!(got, want, "thread {} of\n{}", thread, &text);
        }
    }
}
