//! Products of prepared operands: sequences of `mma` over few registers, mixed with all that may come between two of them, leave the same
//! bits as when every instruction is executed by itself, as it is under the counters. So they do with the kernels of every instruction set
//! that this machine has, each in a process of its own with `PTX_VM_ISA` set.

use ptx_vm::{Launch, Module, Vm, VmConfig};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

const REGISTERS: u32 = 24;
const WARPS: u32 = 2;

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }

    /// `n` registers, no two the same when `distinct`.
    fn registers(&mut self, n: usize, distinct: bool) -> String {
        let mut list: Vec<u32> = Vec::new();
        while list.len() < n {
            let register = self.below(REGISTERS);
            if !distinct || !list.contains(&register) {
                list.push(register);
            }
        }
        braced(list)
    }
}

/// Registers as an operand.
fn braced(registers: impl IntoIterator<Item = u32>) -> String {
    let names: Vec<String> = registers.into_iter().map(|r| format!("%r{r}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// A product, mostly in place, of operands that others are likely to use too.
fn product(random: &mut Random) -> String {
    let (shape, kind, a, b) = [
        ("m16n8k16", "bf16", 4, 2),
        ("m16n8k8", "bf16", 2, 1),
        ("m16n8k16", "f16", 4, 2),
        ("m16n8k8", "f16", 2, 1),
        ("m16n8k8", "tf32", 4, 2),
        ("m16n8k4", "tf32", 2, 1),
    ][random.below(6) as usize];
    let fixed = |n: u32, first: u32| braced(first..first + n);
    let d = if random.below(4) == 0 { random.registers(4, true) } else { fixed(4, 16 + 4 * random.below(2)) };
    let c = if random.below(4) == 0 { random.registers(4, false) } else { d.clone() };
    let (first, second) = (4 * random.below(2), 8 + 2 * random.below(4));
    let a = if random.below(6) == 0 { random.registers(a as usize, false) } else { fixed(a, first) };
    let b = if random.below(6) == 0 { random.registers(b as usize, false) } else { fixed(b, second) };
    format!("mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {d}, {a}, {b}, {c};")
}

/// What stands between products.
fn other(random: &mut Random, label: &mut u32) -> String {
    let (x, y) = (random.below(REGISTERS), random.below(REGISTERS));
    *label += 1;
    let n = *label;
    match random.below(9) {
        0 => format!("xor.b32 %r{x}, %r{y}, 0x00410041;"),
        1 => format!("@%p mov.b32 %r{x}, %r{y};"),
        2 => format!("L{n}:"),
        3 => "bar.sync 0;".to_owned(),
        // Lanes part and meet again.
        4 => format!("@%p bra L{n};\nmov.b32 %r{x}, %r{y};\nL{n}:"),
        // They wait for each other on the way.
        5 => format!(
            "@%p bra L{n};\nbar.warp.sync 0xffffffff;\nmov.b32 %r{x}, %r{y};\nbra M{n};\n\
             L{n}:\nbar.warp.sync 0xffffffff;\nM{n}:"
        ),
        // A loop of two rounds.
        6 => format!(
            "mov.u32 %n, 0;\nL{n}:\n{}\n{}\nadd.u32 %n, %n, 1;\nsetp.lt.u32 %q, %n, 2;\n@%q bra L{n};",
            product(random),
            product(random)
        ),
        7 => format!("shfl.sync.bfly.b32 %r{x}, %r{y}, 1, 31, 0xffffffff;"),
        _ => format!("@!%p xor.b32 %r{x}, %r{x}, 0x00010001;"),
    }
}

fn kernel(seed: u64) -> String {
    let mut random = Random(seed);
    let (mut body, mut label) = (String::new(), 0);
    // In some kernels half of the lanes have left.
    if random.below(4) == 0 {
        body += "@%p exit;\n";
    }
    for _ in 0..30 {
        let line = if random.below(3) == 0 { other(&mut random, &mut label) } else { product(&mut random) };
        body += &line;
        body.push('\n');
    }
    let each = |text: &dyn Fn(u32) -> String| (0..REGISTERS).map(text).collect::<String>();
    let load = each(&|r| format!("ld.global.b32 %r{r}, [%at + {}];\n", 4 * r));
    let store = each(&|r| format!("st.global.b32 [%at + {}], %r{r};\n", 4 * r));
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data)\n{{\n\
         .reg .b32 %r<{REGISTERS}>, %t, %l, %n;\n.reg .b64 %at, %o;\n.reg .pred %p, %q;\n\
         mov.u32 %t, %tid.x;\nand.b32 %l, %t, 5;\nsetp.eq.u32 %p, %l, 1;\nld.param.u64 %at, [data];\n\
         mul.wide.u32 %o, %t, {};\nadd.u64 %at, %at, %o;\n{load}{body}{store}ret;\n}}\n",
        4 * REGISTERS
    )
}

fn run(ptx: &str, config: VmConfig) -> Vec<u8> {
    let module = Module::parse("products.ptx", ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
    let vm = Vm::new(config);
    let threads = WARPS * 32;
    let words = threads * REGISTERS;
    // Small numbers, as halves and as words, so that not all results are infinite.
    let word = |i: u32| 0x3c80_3c80_u32 ^ i.wrapping_mul(0x9e37_79b9) & 0x807f_807f;
    let data: Vec<u8> = (0..words).flat_map(|i| word(i).to_le_bytes()).collect();
    let memory = vm.alloc(data.len()).expect("memory");
    vm.write(memory, &data).expect("a copy");
    let kernel = module.kernel("k").unwrap_or_else(|error| panic!("{error}\n{ptx}"));
    let launch = Launch::new([1, 1, 1], [threads, 1, 1]);
    vm.launch(&kernel, &launch, &memory.to_le_bytes()).unwrap_or_else(|fault| panic!("{fault}\n{ptx}"));
    let mut out = vec![0; data.len()];
    vm.read(memory, &mut out).expect("a copy");
    out
}

/// A digest of what all kernels leave, which is the same in all modes.
fn digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    let (mut numbers, mut words) = (0, 0);
    for seed in 0..300 {
        let ptx = kernel(seed);
        let prepared = run(&ptx, VmConfig::default());
        let alone = run(&ptx, VmConfig { counters: true, ..VmConfig::default() });
        let interleaved = run(&ptx, VmConfig::adverse(seed));
        for (mode, other) in [("one by one", alone), ("in adverse mode", interleaved)] {
            let differs = prepared.chunks(4).zip(other.chunks(4)).position(|(a, b)| a != b);
            let place = differs.map(|word| format!("thread {} %r{}", word as u32 / REGISTERS, word as u32 % REGISTERS));
            assert_eq!(place, None, "seed {seed} {mode}\n{ptx}");
        }
        numbers += prepared.chunks(4).filter(|word| **word != 0x7fff_ffff_u32.to_le_bytes()).count();
        words += prepared.len() / 4;
        prepared.hash(&mut hasher);
    }
    assert!(2 * numbers > words, "of {words} results {numbers} are numbers: too few to tell");
    hasher.finish()
}

#[test]
fn prepared_operands_change_nothing() {
    const CHILD: &str = "PTX_VM_PRODUCTS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        println!("digest {:016x}", digest());
        return;
    }
    let run = |level: &str| {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "prepared_operands_change_nothing", "--nocapture"])
            .env(CHILD, "1")
            .env("PTX_VM_ISA", level)
            .output()
            .expect("this program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digest = text.split("digest ").nth(1).map(|rest| rest[..16].to_owned());
        digest.unwrap_or_else(|| panic!("level {level:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let base = run("base");
    assert_eq!(run("avx2"), base, "AVX2 and the plain CPU");
    assert_eq!(run("avx512"), base, "AVX-512 without its extensions and the plain CPU");
    assert_eq!(run(""), base, "the best level of this machine and the plain CPU");
}
