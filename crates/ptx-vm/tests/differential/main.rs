//! Random programs in PTX text against a scalar reference.
//!
//! A program is a list of instructions drawn from [`table`], with random registers and immediate operands, under random predicates and
//! with random forward branches over parts of it. It runs for 45 threads (a full and a partial warp), each with numbers of its own,
//! and every register of every thread is compared afterwards. The reference is written from the manual's text with
//! 128-bit integers and `rustc_apfloat`, and shares nothing with the VM.
//!
//! What the manual leaves open is kept out of the programs: division by zero, the payload of an f64 NaN, the last bits of approximations.

mod cover;
mod floats;
#[path = "../fuzz/mod.rs"]
mod fuzz;
mod integers;

use proptest::prelude::*;
use ptx_vm::{Launch, Module, Vm, VmConfig};
use std::fmt::Write;
use std::sync::OnceLock;

/// Threads of a random program, and of one for a single instruction.
const THREADS: usize = 45;
const THREADS_ALONE: usize = 205;
/// Registers of each width: `%h` 16, `%r` 32, `%d` 64 bits, and predicates `%p`.
const REGISTERS: usize = 6;

/// One thread's registers.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    p: [u64; REGISTERS],
    h: [u64; REGISTERS],
    r: [u64; REGISTERS],
    d: [u64; REGISTERS],
}

impl State {
    fn bank(&mut self, kind: char) -> &mut [u64; REGISTERS] {
        match kind.to_ascii_uppercase() {
            'P' => &mut self.p,
            'H' => &mut self.h,
            'R' | 'F' | 'C' => &mut self.r,
            _ => &mut self.d,
        }
    }
}

fn register(kind: char) -> char {
    match kind.to_ascii_uppercase() {
        'F' | 'C' => 'r',
        'G' => 'd',
        other => other.to_ascii_lowercase(),
    }
}

fn mask(kind: char) -> u64 {
    match kind.to_ascii_uppercase() {
        'P' => 1,
        'H' => 0xffff,
        'R' | 'F' | 'C' => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Values of the sources to values of up to three destinations.
type Eval = Box<dyn Fn(&[u64]) -> [u64; 3] + Send + Sync>;

/// An instruction: its text, its destinations and sources (`P H R D`; lower case may be an immediate integer, `f` and `g` an
/// immediate float, `c` one of 0 to 255 in place of `R`), and what it computes.
struct Row {
    text: String,
    dst: &'static str,
    src: &'static str,
    eval: Eval,
}

struct Table(Vec<Row>);

impl Table {
    /// `text` is a mnemonic, or a template with `$d0`, `$0`, `$1` … and semicolons.
    fn add(
        &mut self,
        text: impl Into<String>,
        dst: &'static str,
        src: &'static str,
        eval: impl Fn(&[u64]) -> u64 + Send + Sync + 'static,
    ) {
        self.multi(text, dst, src, move |s| [eval(s), 0, 0]);
    }

    fn multi(
        &mut self,
        text: impl Into<String>,
        dst: &'static str,
        src: &'static str,
        eval: impl Fn(&[u64]) -> [u64; 3] + Send + Sync + 'static,
    ) {
        self.0.push(Row { text: text.into(), dst, src, eval: Box::new(eval) });
    }
}

fn table() -> &'static [Row] {
    static TABLE: OnceLock<Vec<Row>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table(Vec::new());
        integers::add(&mut table);
        floats::add(&mut table);
        table.0
    })
}

/// One step of a program: a row with its operands, or a forward branch over some steps.
enum Step {
    Run { row: &'static Row, dst: Vec<usize>, src: Vec<Operand>, guard: Option<(usize, bool)> },
    Skip { predicate: usize, wanted: bool, steps: usize },
}

enum Operand {
    Register(usize),
    Immediate(u64),
}

/// Small deterministic generator, so that proptest shrinks programs by steps.
struct Choice(u64);

impl Choice {
    fn next(&mut self, n: usize) -> usize {
        (self.word() >> 33) as usize % n
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Bits on which integer and float arithmetic break.
    fn interesting(&mut self, kind: char) -> u64 {
        let x = self.word();
        let exponents: [u64; 8] = match kind.to_ascii_uppercase() {
            'R' | 'F' => [0, 0x7f80_0000, 0x0080_0000, 0x3f80_0000, 0x4b00_0000, 0x3300_0000, 0x7f00_0000, 0x4f00_0000],
            'H' => [0, 0x7c00, 0x0400, 0x3c00, 0x4c00, 0x3f80, 0x7b00, 0x0080],
            _ => [0, 0x7ff << 52, 1 << 52, 0x3ff << 52, 0x433 << 52, 0x3ca << 52, 0x7fe << 52, 0x47e << 52],
        };
        let top = (mask(kind) >> 1) + 1;
        let value = match self.next(9) {
            0 => x & 0x3f,
            1 => (x & 3).wrapping_sub(2),
            2 => 1 << self.next(64),
            3 => x & top | exponents[self.next(8)],
            4 => x & (top | 0xf) | exponents[self.next(8)],
            5 | 6 => x & (top | top >> 5 | top >> 6 | (top >> 9).wrapping_sub(1)) | exponents[self.next(8)],
            7 => top.wrapping_sub(x & 1),
            _ => x,
        };
        value & if kind == 'c' { 0xff } else { mask(kind) }
    }
}

fn decode(seeds: &[u64]) -> Vec<Step> {
    let table = table();
    let step = |(i, seed): (usize, &u64)| {
        let mut c = Choice(*seed);
        if c.next(12) == 0 {
            let steps = (1 + c.next(5)).min(seeds.len() - i - 1);
            return Step::Skip { predicate: c.next(REGISTERS), wanted: c.next(2) == 0, steps };
        }
        let row = &table[c.next(table.len())];
        // The destinations of one row are different registers, and none of them a later source of a template.
        let first = c.next(REGISTERS);
        let dst: Vec<usize> = (0..row.dst.len()).map(|i| (first + i) % REGISTERS).collect();
        let templated = row.text.contains("$d");
        let src = row.src.chars().map(|kind| {
            if (kind.is_lowercase() || kind == 'F') && c.next(4) == 0 {
                return Operand::Immediate(c.interesting(kind));
            }
            let mut register = c.next(REGISTERS);
            while templated && dst.contains(&register) {
                register = (register + 1) % REGISTERS;
            }
            Operand::Register(register)
        });
        let src = src.collect();
        let guard = (c.next(5) == 0).then(|| (c.next(REGISTERS), c.next(2) == 0));
        Step::Run { row, dst, src, guard: guard.filter(|_| !templated) }
    };
    seeds.iter().enumerate().map(step).collect()
}

/// The bytes of one thread's registers in memory: 64-bit slots, predicates first.
const SLOTS: usize = 4 * REGISTERS;

fn text(program: &[Step]) -> String {
    let mut out =
        String::from(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry program(.param .u64 data)\n{\n");
    for (width, kind) in [("pred", 'p'), ("b16", 'h'), ("b32", 'r'), ("b64", 'd')] {
        writeln!(out, "  .reg .{width} %{kind}<{REGISTERS}>;").unwrap();
    }
    out += "  .reg .b64 %base, %offset;\n  .reg .b32 %tid, %word;\n";
    out += "  ld.param.u64 %base, [data];\n  mov.u32 %tid, %tid.x;\n";
    writeln!(out, "  mul.wide.u32 %offset, %tid, {};\n  add.s64 %base, %base, %offset;", 8 * SLOTS).unwrap();
    for i in 0..REGISTERS {
        let at = |bank: usize| 8 * (bank * REGISTERS + i);
        writeln!(out, "  ld.global.u32 %word, [%base+{}];\n  setp.ne.u32 %p{i}, %word, 0;", at(0)).unwrap();
        writeln!(out, "  ld.global.u16 %h{i}, [%base+{}];", at(1)).unwrap();
        writeln!(out, "  ld.global.u32 %r{i}, [%base+{}];", at(2)).unwrap();
        writeln!(out, "  ld.global.u64 %d{i}, [%base+{}];", at(3)).unwrap();
    }
    for (i, step) in program.iter().enumerate() {
        writeln!(out, "L{i}:").unwrap();
        match step {
            Step::Skip { predicate, wanted, steps } => {
                writeln!(out, "  @{}%p{predicate} bra L{};", if *wanted { "" } else { "!" }, i + 1 + steps).unwrap();
            }
            Step::Run { row, dst, src, guard } => {
                let dst: Vec<String> =
                    dst.iter().zip(row.dst.chars()).map(|(d, kind)| format!("%{}{d}", register(kind))).collect();
                let src: Vec<String> = src
                    .iter()
                    .zip(row.src.chars())
                    .map(|(s, kind)| match (s, kind) {
                        (Operand::Register(i), _) => format!("%{}{i}", register(kind)),
                        (Operand::Immediate(x), 'f') => format!("0f{x:08X}"),
                        (Operand::Immediate(x), 'g') => format!("0d{x:016X}"),
                        (Operand::Immediate(x), 'h') => format!("{}", *x as i16),
                        (Operand::Immediate(x), 'r') if x & 1 == 0 => format!("{}", *x as i32),
                        (Operand::Immediate(x), _) => format!("{x:#x}"),
                    })
                    .collect();
                let mut line = if row.text.contains("$d") {
                    row.text.clone()
                } else {
                    format!("{} {};", row.text, dst.iter().chain(&src).cloned().collect::<Vec<_>>().join(", "))
                };
                for (i, d) in dst.iter().enumerate() {
                    line = line.replace(&format!("$d{i}"), d);
                }
                for (i, s) in src.iter().enumerate() {
                    line = line.replace(&format!("${i}"), s);
                }
                let guard =
                    guard.map(|(p, wanted)| format!("@{}%p{p} ", if wanted { "" } else { "!" })).unwrap_or_default();
                writeln!(out, "  {guard}{line}").unwrap();
            }
        }
    }
    writeln!(out, "L{}:", program.len()).unwrap();
    for i in 0..REGISTERS {
        let at = |bank: usize| 8 * (bank * REGISTERS + i);
        writeln!(out, "  selp.u32 %word, 1, 0, %p{i};\n  st.global.u32 [%base+{}], %word;", at(0)).unwrap();
        writeln!(out, "  st.global.u16 [%base+{}], %h{i};", at(1)).unwrap();
        writeln!(out, "  st.global.u32 [%base+{}], %r{i};", at(2)).unwrap();
        writeln!(out, "  st.global.u64 [%base+{}], %d{i};", at(3)).unwrap();
    }
    out + "  ret;\n}\n"
}

fn evaluate(program: &[Step], state: &mut State) {
    let mut at = 0;
    while at < program.len() {
        match &program[at] {
            Step::Skip { predicate, wanted, steps } => {
                if (state.p[*predicate] != 0) == *wanted {
                    at += steps;
                }
            }
            Step::Run { row, dst, src, guard } => {
                if guard.is_none_or(|(p, wanted)| (state.p[p] != 0) == wanted) {
                    let values: Vec<u64> = src
                        .iter()
                        .zip(row.src.chars())
                        .map(|(s, kind)| match s {
                            Operand::Register(i) => state.bank(kind)[*i],
                            Operand::Immediate(x) => *x,
                        })
                        .collect();
                    let results = (row.eval)(&values);
                    for ((d, kind), result) in dst.iter().zip(row.dst.chars()).zip(results) {
                        state.bank(kind)[*d] = result & mask(kind);
                    }
                }
            }
        }
        at += 1;
    }
}

fn run(ptx: &str, states: &[State]) -> Result<Vec<State>, String> {
    let vm = Vm::new(VmConfig { threads: 1, ..VmConfig::default() });
    let kernel = Module::parse("program.ptx", ptx).and_then(|m| m.kernel("program")).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    for s in states {
        for x in s.p.iter().chain(&s.h).chain(&s.r).chain(&s.d) {
            bytes.extend_from_slice(&x.to_le_bytes());
        }
    }
    let data = vm.alloc(bytes.len()).map_err(|e| e.to_string())?;
    vm.write(data, &bytes).map_err(|e| e.to_string())?;
    let launch = Launch::new([1, 1, 1], [states.len() as u32, 1, 1]);
    vm.launch(&kernel, &launch, &data.to_le_bytes()).map_err(|e| e.to_string())?;
    vm.read(data, &mut bytes).map_err(|e| e.to_string())?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    let bank = |s: &[u64], i: usize| -> [u64; REGISTERS] { s[i * REGISTERS..(i + 1) * REGISTERS].try_into().unwrap() };
    Ok(words
        .chunks_exact(SLOTS)
        .map(|s| State { p: bank(s, 0), h: bank(s, 1), r: bank(s, 2), d: bank(s, 3) })
        .collect())
}

fn random_states(seed: u64, threads: usize) -> Vec<State> {
    let mut c = Choice(seed);
    let mut state = |_| {
        let mut s = State::default();
        for kind in "PHRD".chars() {
            for x in s.bank(kind) {
                *x = c.interesting(kind);
            }
        }
        s
    };
    (0..threads).map(&mut state).collect()
}

/// Runs a program both ways and describes the first difference.
fn check(program: &[Step], seed: u64, threads: usize) -> Result<(), String> {
    let mut states = random_states(seed, threads);
    let ptx = text(program);
    let got = run(&ptx, &states).map_err(|e| format!("{e}\n{ptx}"))?;
    for (thread, (state, got)) in states.iter_mut().zip(&got).enumerate() {
        let start = state.clone();
        evaluate(program, state);
        if state != got {
            return Err(format!("thread {thread}\nstart {start:x?}\nwant  {state:x?}\ngot   {got:x?}\n{ptx}"));
        }
    }
    Ok(())
}

/// Every row by itself, so that a failure names the instruction.
#[test]
fn every_instruction_alone() {
    let mut failures = Vec::new();
    for (i, row) in table().iter().enumerate() {
        for repeat in 0..u64::from(fuzz::config(150).cases).div_ceil(75) {
            // Every second run takes constants where it may.
            if repeat % 2 == 1 && !row.src.contains(|kind: char| kind.is_lowercase()) {
                continue;
            }
            let mut c = Choice(1000 * i as u64 + repeat);
            let src = row.src.chars().enumerate().map(|(at, kind)| {
                if kind.is_lowercase() && repeat % 2 == 1 {
                    Operand::Immediate(c.interesting(kind))
                } else {
                    Operand::Register((at + 3) % REGISTERS)
                }
            });
            let program = [Step::Run { row, dst: (0..row.dst.len()).collect(), src: src.collect(), guard: None }];
            // Three destinations and six sources do not fit six registers.
            if row.src.len() > 3 && row.dst.len() > 1 {
                continue;
            }
            if let Err(e) = check(&program, 77 * repeat + i as u64, THREADS_ALONE) {
                failures.push(format!("{}: {e}", row.text));
                break;
            }
        }
    }
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    let names: Vec<&str> = failures.iter().map(|f| f.split(['\n']).next().unwrap_or_default()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows fail:\n{}\n\n{}",
        failures.len(),
        table().len(),
        names.join("\n"),
        shown.join("\n\n")
    );
}

proptest! {
    #![proptest_config(fuzz::config(150))]

    #[test]
    fn random_programs_agree(seeds in prop::collection::vec(any::<u64>(), 1..60), data in any::<u64>()) {
        if let Err(e) = check(&decode(&seeds), data, THREADS) {
            return Err(TestCaseError::fail(e));
        }
    }
}
