//! `VmConfig::mma = Truncate`: sums worked out by hand, and random ones against a second model, written from the definition with f64.

mod fuzz;

use half::{bf16, f16};
use proptest::prelude::*;
use ptx_vm::math::mma::{Format, Fragments, Lanes, Layout, Product, TensorCore, multiply};
use ptx_vm::{Launch, MmaRounding, Module, Vm, VmConfig};

const FORMATS: [Format; 5] = [Format::F16, Format::Bf16, Format::Tf32, Format::E4m3, Format::E5m2];

fn bits(format: Format) -> usize {
    match format {
        Format::F16 | Format::Bf16 => 16,
        Format::Tf32 => 32,
        Format::E4m3 | Format::E5m2 => 8,
    }
}

/// Bits of the significand without the first, and the least exponent.
fn shape(format: Format) -> (i32, i32) {
    match format {
        Format::F16 => (10, -14),
        Format::Bf16 => (7, -126),
        Format::Tf32 => (10, -126),
        Format::E4m3 => (3, -6),
        Format::E5m2 => (2, -14),
    }
}

/// A number of the format from its definition.
fn decode(format: Format, x: u32) -> f64 {
    match format {
        Format::F16 => f16::from_bits(x as u16).to_f64(),
        Format::Bf16 => bf16::from_bits(x as u16).to_f64(),
        Format::Tf32 => f32::from_bits(x & !0x1fff).into(),
        Format::E5m2 => f16::from_bits((x as u16) << 8).to_f64(),
        Format::E4m3 => {
            let (exponent, fraction) = ((x >> 3 & 15) as i32, f64::from(x & 7) / 8.0);
            let magnitude = match (exponent, x & 7) {
                (15, 7) => f64::NAN,
                (0, _) => fraction * 2f64.powi(-6),
                _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
            };
            if x >> 7 & 1 == 1 { -magnitude } else { magnitude }
        }
    }
}

/// The format's number that is exactly `x`.
fn encode(format: Format, x: f64) -> u32 {
    if format == Format::Tf32 {
        return (x as f32).to_bits();
    }
    (0..1u32 << bits(format)).find(|&n| decode(format, n) == x).unwrap_or_else(|| panic!("{x} is no {format:?}"))
}

/// One row of A, one column of B and an accumulator.
#[derive(Debug, Clone)]
struct Dot {
    format: Format,
    a: Vec<u32>,
    b: Vec<u32>,
    c: f32,
    half: bool,
}

impl Dot {
    /// `k` products, all zero but for some.
    fn new(format: Format, k: usize, half: bool, c: f64, products: &[(usize, f64, f64)]) -> Dot {
        let mut dot = Dot { format, a: vec![0; k], b: vec![0; k], c: c as f32, half };
        for &(at, a, b) in products {
            (dot.a[at], dot.b[at]) = (encode(format, a), encode(format, b));
        }
        dot
    }

    /// On the tensor cores of an architecture, as element (`row`, `col`) of a fragment.
    fn run(&self, arch: u32, row: usize, col: usize) -> f32 {
        let per = 32 / bits(self.format);
        let mut registers = [[0u32; 32]; 14];
        for (k, (&a, &b)) in self.a.iter().zip(&self.b).enumerate() {
            let (step, t, shift) = (k / per / 4, k / per % 4, k % per * bits(self.format));
            registers[2 * step + row / 8][4 * (row % 8) + t] |= a << shift;
            registers[4 + step][4 * col + t] |= b << shift;
        }
        let lane = 4 * (row % 8) + col / 2;
        if self.half {
            registers[6 + row / 8][lane] = u32::from(f16::from_f32(self.c).to_bits()) << (16 * (col % 2));
        } else {
            registers[6 + row / 8 * 2 + col % 2][lane] = self.c.to_bits();
        }
        let at: Vec<*mut Lanes> = registers.iter_mut().map(std::ptr::from_mut).collect();
        let f = Fragments {
            d: [at[10], at[11], at[12], at[13]],
            a: [at[0], at[1], at[2], at[3]].map(|p| p.cast_const()),
            b: [at[4], at[5]].map(|p| p.cast_const()),
            c: [at[6], at[7], at[8], at[9]].map(|p| p.cast_const()),
        };
        let layout = Layout::Wide { k: self.a.len() };
        let product = Product { a: self.format, b: self.format, half: self.half, layout };
        assert_eq!(Product::of_code(product.code()), product);
        // SAFETY: the pointers are registers.
        unsafe { multiply(TensorCore::of(arch), product, &f) };
        if self.half {
            f16::from_bits((registers[10 + row / 8][lane] >> (16 * (col % 2))) as u16).to_f32()
        } else {
            f32::from_bits(registers[10 + row / 8 * 2 + col % 2][lane])
        }
    }

    /// The second model. The first works on integers; this one on f64, which has room for all sums here.
    fn model(&self, arch: u32) -> f64 {
        let eight = bits(self.format) == 8;
        let (fraction, block) = match (arch, eight) {
            (70, _) => (23, 4),
            (80 | 89, false) => (24, 8),
            (80 | 89, true) => (13, 16),
            (90, false) => (25, 16),
            (90, true) => (13, 32),
            (_, false) => (25, 16),
            (_, true) => (25, 32),
        };
        let block = if self.format == Format::Tf32 { (block / 2).max(1) } else { block };
        let beyond = match arch {
            70 => 5,
            80 | 89 => 6,
            _ => 7,
        };
        let floor = match (arch, self.half && self.format == Format::F16) {
            (_, true) => -14 - beyond,
            (70, _) => i32::MIN,
            _ => -126 - beyond,
        };
        let exponent = |x: f64, least: i32| (x.abs().log2().floor() as i32).clamp(least, 1000);
        let mut acc = f64::from(self.c);
        for (a, b) in self.a.chunks(block).zip(self.b.chunks(block)) {
            let least = if self.half { -14 } else { -126 };
            let mut terms = vec![(acc, exponent(acc, least))];
            for (&a, &b) in a.iter().zip(b) {
                let (a, b) = (decode(self.format, a), decode(self.format, b));
                let e = shape(self.format).1;
                terms.push((a * b, exponent(a, e) + exponent(b, e)));
            }
            if terms.iter().any(|(x, _)| !x.is_finite()) {
                acc = terms.iter().map(|(x, _)| if x.is_finite() { 0.0 } else { *x }).sum();
                continue;
            }
            terms.retain(|(x, _)| *x != 0.0);
            let top = terms.iter().map(|(_, e)| *e).max().unwrap_or(0).max(floor);
            let unit = 2f64.powi(top - fraction);
            let sum: f64 = terms.iter().map(|(x, _)| (x / unit).trunc() * unit).sum();
            if self.half {
                acc = f16::from_f64(sum).to_f64();
            } else {
                let places = if fraction < 23 { fraction } else { 23 };
                let last = 2f64.powi(exponent(sum, -126) - places);
                acc = if sum == 0.0 { 0.0 } else { (sum / last).trunc() * last };
                acc = f64::from(acc as f32);
            }
        }
        acc
    }

    /// The exact result, the largest magnitude in it and the sum of all.
    fn exact(&self) -> (f64, f64) {
        let c = f64::from(self.c);
        let products = self.a.iter().zip(&self.b).map(|(&a, &b)| decode(self.format, a) * decode(self.format, b));
        products.fold((c, c.abs()), |(sum, size), x| (sum + x, size + x.abs()))
    }
}

fn two(n: i32) -> f64 {
    2f64.powi(n)
}

#[test]
fn sums_worked_out_by_hand() {
    let f16_16 = |c: f64, products: &[(usize, f64, f64)]| Dot::new(Format::F16, 16, false, c, products);
    let all = |n: usize, a: f64, b: f64| (0..n).map(|k| (k, a, b)).collect::<Vec<_>>();
    // What, and results by architecture.
    type Case = (&'static str, Dot, [(u32, f64); 2]);
    let cases: &[Case] = &[
        // 1 + 2^-24 has a bit more than f32: cut off. Two of them make the last bit of f32, which rounding one after the other loses.
        ("one half of the last bit", f16_16(1.0, &all(1, two(-12), two(-12))), [(80, 1.0), (90, 1.0)]),
        ("two halves", f16_16(1.0, &all(2, two(-12), two(-12))), [(80, 1.0 + two(-23)), (90, 1.0 + two(-23))]),
        // 16 quarters of it: sm_80 keeps 24 bits behind the point, sm_90 25.
        ("quarters", f16_16(1.0, &all(16, two(-12), two(-13))), [(80, 1.0), (90, 1.0 + 16.0 * two(-25))]),
        // 1.75 times the last bit: towards zero, with either sign.
        ("up", f16_16(1.0, &[(0, two(-12) * 1.75, two(-11))]), [(80, 1.0 + two(-23)), (90, 1.0 + two(-23))]),
        ("down", f16_16(-1.0, &[(0, two(-12) * -1.75, two(-11))]), [(80, -1.0 - two(-23)), (90, -1.0 - two(-23))]),
        // Below 1 f32 has 24 bits. 1 - 2^-25 is cut before the sum on sm_80, after it on sm_90.
        ("below one", f16_16(1.0, &[(0, two(-12), -two(-13))]), [(80, 1.0), (90, 1.0 - two(-24))]),
        // Products that cancel take with them what lies below their last bits: 2^(30-24), 2^(30-25).
        ("cancellation", f16_16(127.0, &[(0, two(15), two(15)), (1, two(15), -two(15))]), [(80, 64.0), (90, 96.0)]),
        // The same 8 products apart: another block on sm_80, where the accumulator is cut off with the first.
        (
            "cancellation in the next block",
            f16_16(0.0, &[(0, two(15), two(15)), (8, two(15), -two(15)), (9, 1.0, 1.0)]),
            [(80, 0.0), (90, 0.0)],
        ),
        (
            "a small product in the next block",
            f16_16(0.0, &[(0, two(15), two(15)), (7, two(15), -two(15)), (8, 1.0, 1.0)]),
            [(80, 1.0), (90, 0.0)],
        ),
        // A product is not normalised: 1.5 * 1.5 = 2.25 counts as 2^0, and so one bit more of the others is kept.
        ("not normalised", f16_16(two(-24), &[(0, 1.5, 1.5), (1, -1.5, 1.5)]), [(80, two(-24)), (90, two(-24))]),
        ("normalised it would be", f16_16(two(-24), &[(0, 2.0, 1.0), (1, -2.0, 1.0)]), [(80, 0.0), (90, two(-24))]),
        // Subnormal operands and results.
        (
            "subnormal operands",
            f16_16(0.0, &[(0, two(-24), two(-24)), (1, two(-24), two(-14))]),
            [(80, two(-38) + two(-48)), (90, two(-38) + two(-48))],
        ),
        (
            "a subnormal result",
            Dot::new(Format::Bf16, 16, false, two(-149), &[(0, two(-75), two(-75)), (1, two(-75), two(-75))]),
            [(80, two(-148)), (90, two(-148))],
        ),
        // Products beyond f32 count as what they are.
        (
            "beyond f32",
            Dot::new(Format::Bf16, 16, false, 1.0, &[(0, two(100), two(100)), (1, two(100), -two(100))]),
            [(80, 0.0), (90, 0.0)],
        ),
        (
            "too large",
            Dot::new(Format::Bf16, 16, false, 1.0, &[(0, two(64), -two(64))]),
            [(80, f64::NEG_INFINITY), (90, f64::NEG_INFINITY)],
        ),
        // f16 accumulators are rounded to nearest even, after each block.
        (
            "ties of f16",
            Dot::new(Format::F16, 16, true, 1.0, &[(0, two(-5), two(-6)), (8, two(-5), two(-6))]),
            [(80, 1.0), (90, 1.0 + two(-10))],
        ),
        // tf32: half as many products in a block.
        (
            "tf32",
            Dot::new(Format::Tf32, 8, false, 0.0, &[(0, two(15), two(15)), (3, two(15), -two(15)), (4, 1.0, 1.0)]),
            [(80, 1.0), (90, 0.0)],
        ),
        // 8-bit operands: 13 bits on sm_89 and sm_90, of f32 accumulators too; 25 on sm_100.
        (
            "short accumulators",
            Dot::new(Format::E4m3, 32, false, 1.0 + two(-20), &[(0, two(-6), two(-6)), (1, two(-6), two(-7))]),
            [(89, 1.0 + two(-12) + two(-13)), (100, 1.0 + two(-12) + two(-13) + two(-20))],
        ),
        (
            "products below short accumulators",
            Dot::new(Format::E5m2, 32, false, 1.0, &[(0, two(-7), two(-7)), (31, two(-7), two(-7))]),
            [(90, 1.0), (100, 1.0 + two(-13))],
        ),
    ];
    for (what, dot, wants) in cases {
        for &(arch, want) in wants {
            let got = f64::from(dot.run(arch, 3, 5));
            assert_eq!(got, want, "{what} on sm_{arch}");
            assert_eq!(dot.model(arch), want, "{what} on sm_{arch}, in the second model");
        }
    }
}

#[test]
fn infinities_and_nan_stay_in_their_elements() {
    let inf = f64::INFINITY;
    let dot = |c: f64, products: &[(usize, f64, f64)]| Dot::new(Format::F16, 16, false, c, products).run(80, 0, 0);
    assert_eq!(dot(1.0, &[(3, inf, 2.0), (4, 1.0, 1.0)]), f32::INFINITY);
    assert_eq!(dot(-inf, &[(3, 1.0, 2.0)]), f32::NEG_INFINITY);
    for x in [
        dot(1.0, &[(3, inf, 2.0), (12, -inf, 2.0)]),
        dot(1.0, &[(3, inf, 0.0)]),
        dot(-inf, &[(3, inf, 2.0)]),
        dot(f64::NAN, &[(3, 1.0, 2.0)]),
    ] {
        assert_eq!(x.to_bits(), 0x7fff_ffff);
    }
}

fn any_dot(wild: bool) -> impl Strategy<Value = (Dot, u32)> {
    let shapes = [
        (Format::F16, 16),
        (Format::F16, 8),
        (Format::Bf16, 16),
        (Format::Bf16, 8),
        (Format::Tf32, 8),
        (Format::Tf32, 4),
        (Format::E4m3, 32),
        (Format::E4m3, 16),
        (Format::E5m2, 32),
        (Format::E5m2, 16),
    ];
    let arch = prop::sample::select(vec![70u32, 80, 89, 90, 100, 120]);
    let arch = (arch, prop::sample::select(vec![89u32, 90, 100, 120]));
    (prop::sample::select(shapes.to_vec()), any::<bool>(), arch).prop_flat_map(move |((format, k), half, arch)| {
        let half = half && matches!(format, Format::F16 | Format::E4m3 | Format::E5m2);
        let one = encode(format, 1.0);
        let element = any::<u32>().prop_map(move |x| {
            let n = bits(format);
            let x = if n == 32 { x } else { x & ((1 << n) - 1) };
            if wild {
                return x;
            }
            // Exponents around that of 1.
            let (fraction, _) = shape(format);
            let fraction = if format == Format::Tf32 { 23 } else { fraction };
            let near = (one >> fraction) - 3 + (x >> fraction) % 6;
            x & 1 << (n - 1) | near << fraction | x & ((1 << fraction) - 1)
        });
        let element = prop_oneof![9 => element, 1 => Just(0u32)];
        let c = any::<u32>().prop_map(move |x| match (half, wild) {
            (true, true) => f16::from_bits(x as u16).to_f32(),
            (true, false) => f16::from_f32((x as i32) as f32 / (1 << 28) as f32).to_f32(),
            (false, true) => f32::from_bits(x),
            (false, false) => (x as i32) as f32 / (1 << 28) as f32,
        });
        (prop::collection::vec(element.clone(), k), prop::collection::vec(element, k), c).prop_map(move |(a, b, c)| {
            // Only some have 8-bit operands.
            (Dot { format, a, b, c, half }, if bits(format) == 8 { arch.1 } else { arch.0 })
        })
    })
}

fn same(got: f32, want: f64) -> bool {
    if want.is_nan() { got.is_nan() } else { f64::from(got) == want }
}

proptest! {
    #![proptest_config(fuzz::config(4000))]

    #[test]
    fn two_models_agree((dot, arch) in any_dot(false), row in 0usize..16, col in 0usize..8) {
        let (got, want) = (dot.run(arch, row, col), dot.model(arch));
        prop_assert!(same(got, want), "{got} for {want} on sm_{arch}");
    }

    #[test]
    fn two_models_agree_on_any_bits((dot, arch) in any_dot(true), row in 0usize..16, col in 0usize..8) {
        let (got, want) = (dot.run(arch, row, col), dot.model(arch));
        prop_assert!(same(got, want), "{got} for {want} on sm_{arch}");
    }

    /// The bound in the documentation of `TensorCore`, block by block: no magnitude is above the sum of all.
    #[test]
    fn errors_have_a_bound((dot, arch) in any_dot(false)) {
        let core = TensorCore::of(arch);
        let eight = bits(dot.format) == 8;
        let fraction = if eight { core.fraction_bits_8 } else { core.fraction_bits } as i32;
        let block = if eight { core.block_8 } else { core.block };
        let block = if dot.format == Format::Tf32 { block / 2 } else { block };
        let last = match dot.half {
            true => -11,
            false if fraction < 23 => -fraction,
            false => -23,
        };
        let (exact, size) = dot.exact();
        let blocks = dot.a.len().div_ceil(block) as f64;
        let bound = blocks * size * ((block as f64 + 1.0) * two(-fraction) + two(last)) * 1.01;
        let got = f64::from(dot.run(arch, 0, 0));
        prop_assert!((got - exact).abs() <= bound, "{got} for {exact}, {bound} on sm_{arch}");
    }

    /// Everything is cut off towards zero, so that positive sums in f32 never come out too large, and signs turn everything around.
    #[test]
    fn positive_sums_are_never_too_large((mut dot, arch) in any_dot(false)) {
        dot.half = false;
        let sign = !(1u32 << (bits(dot.format) - 1));
        dot.a.iter_mut().chain(&mut dot.b).for_each(|x| *x &= sign);
        dot.c = dot.c.abs();
        let got = dot.run(arch, 0, 0);
        prop_assert!(f64::from(got) <= dot.exact().0);
        dot.a.iter_mut().for_each(|x| *x |= !sign & (sign >> 1 | !sign));
        dot.c = -dot.c;
        prop_assert_eq!(dot.run(arch, 0, 0), -got);
    }
}

/// What GPUs gave: the folder `model_validation` of <https://github.com/north-numerical-computing/MATLAB-tensor-core>, named by
/// `TENSOR_CORE_DATA`. In its files for sm_90 with 8-bit operands the accumulators were not added; those for sm_100 with 8-bit operands hold
/// correctly rounded sums, which no tensor core is known to give.
#[test]
#[ignore = "needs the data set"]
fn results_of_hardware() {
    let root = std::env::var("TENSOR_CORE_DATA").unwrap();
    let gpus =
        [("V100", 70), ("A100", 80), ("A2", 86), ("Ada", 89), ("L40S", 89), ("H100", 90), ("H200", 90), ("B200", 100)];
    let formats = [
        ("fp16", Format::F16),
        ("bf16", Format::Bf16),
        ("tf32", Format::Tf32),
        ("E4M3", Format::E4m3),
        ("E5M2", Format::E5m2),
    ];
    let mut checked = 0;
    for ((gpu, arch), (name, format), (half, out)) in gpus
        .into_iter()
        .flat_map(|gpu| formats.map(|f| (gpu, f)))
        .flat_map(|(gpu, f)| [(false, "fp32"), (true, "fp16")].map(|out| (gpu, f, out)))
    {
        let eight = bits(format) == 8;
        let read = |file: &str| std::fs::read_to_string(format!("{root}/{gpu}/{name}/{file}.txt"));
        let Ok(results) = read(&format!("d_{gpu}_{out}")) else { continue };
        if eight && (arch == 100 || arch == 90 && half) {
            continue;
        }
        let number = |word: &str| {
            let radix = if word.len() > 8 { 2 } else { 16 };
            f32::from_bits(u32::from_str_radix(word, radix).unwrap())
        };
        let rows = |file: &str| -> Vec<Vec<f32>> {
            let text = read(&format!("{file}_{gpu}_{name}")).or_else(|_| read(&format!("{file}_{gpu}_fp32"))).unwrap();
            text.lines().map(|line| line.split_whitespace().map(number).collect()).collect()
        };
        let (a, b, c) = (rows("a"), rows("b"), rows("c"));
        let known: Vec<f64> = match format {
            Format::Tf32 => Vec::new(),
            _ => (0..1 << bits(format)).map(|n| decode(format, n)).collect(),
        };
        let places: std::collections::HashMap<u64, u32> =
            known.iter().enumerate().map(|(n, x)| (x.to_bits(), n as u32)).collect();
        let code = |x: &f32| if format == Format::Tf32 { x.to_bits() } else { places[&f64::from(*x).to_bits()] };
        for (i, result) in results.lines().enumerate() {
            let want = match result.len() {
                32 => number(result),
                _ => f16::from_bits(u16::from_str_radix(result, 2).unwrap()).to_f32(),
            };
            let c = if eight && arch == 90 { 0.0 } else { c[i][0] };
            let c = if half { f16::from_f32(c).to_f32() } else { c };
            let [mut a, mut b] = [&a, &b].map(|x| x[i].iter().map(code).collect::<Vec<u32>>());
            let k = a.len().max(if format == Format::Tf32 { 4 } else { 8 });
            a.resize(k, 0);
            b.resize(k, 0);
            let dot = Dot { format, a, b, c, half };
            let got = dot.run(arch, i % 16, i % 8);
            assert_eq!(got, want, "{gpu} {name} {out}, line {}", i + 1);
            checked += 1;
        }
    }
    assert!(checked > 0, "no data in {root}");
    println!("{checked} sums");
}

/// A warp multiplies registers that all hold the same word of A, B and C; what lane 0 gets in its first register.
fn through_ptx(instruction: &str, target: &str, words: [u32; 3], config: VmConfig) -> u32 {
    let ptx = format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u32 pa, .param .u32 pb, .param .u32 pc)\n\
         {{\n.reg .b32 %a, %b, %c, %t, %d<9>;\n.reg .b64 %p;\n.reg .pred %first;\nld.param.u64 %p, [out];\nld.param.u32 %a, [pa];\n\
         ld.param.u32 %b, [pb];\nld.param.u32 %c, [pc];\n{instruction}\nmov.u32 %t, %tid.x;\nsetp.eq.u32 %first, %t, 0;\n\
         @%first st.global.u32 [%p], %d0;\nret;\n}}\n"
    );
    let vm = Vm::new(VmConfig { threads: 1, ..config });
    let kernel = Module::parse("mma.ptx", &ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let out = vm.alloc(4).unwrap();
    let [a, b, c] = words.map(u32::to_le_bytes);
    let params = kernel.pack(&[&out.to_le_bytes(), &a, &b, &c]).unwrap();
    let launch = Launch::new([1, 1, 1], [32, 1, 1]);
    vm.launch(&kernel, &launch, &params).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let mut word = [0; 4];
    vm.read(out, &mut word).unwrap();
    u32::from_le_bytes(word)
}

/// `opcode {d..}, {a..}, {b..}, {c..};` with as many registers as said.
fn instruction(opcode: &str, [d, a, b, c]: [usize; 4]) -> String {
    let list = |name: &str, n: usize| vec![name; n].join(", ");
    let targets = (0..d).map(|i| format!("%d{i}")).collect::<Vec<_>>().join(", ");
    format!("{opcode} {{{targets}}}, {{{}}}, {{{}}}, {{{}}};", list("%a", a), list("%b", b), list("%c", c))
}

#[test]
fn every_instruction_of_tensor_cores_truncates() {
    let truncate = |arch: Option<u32>| VmConfig { mma: MmaRounding::Truncate, arch, ..VmConfig::default() };
    // k products of 0.75 last bits of 1 in f32. One after the other each is rounded up to a whole one; together they are what they are.
    let f16_word = |x: f64| u32::from(f16::from_f64(x).to_bits()) * 0x1_0001;
    let bf16_word = |x: f64| u32::from(bf16::from_f64(x).to_bits()) * 0x1_0001;
    let (small, other) = (1.5 * two(-12), two(-12));
    let one = 1f32.to_bits();
    let mma = "mma.sync.aligned";
    let rows = "row.col";
    let cases = [
        (format!("{mma}.m16n8k16.{rows}.f32.f16.f16.f32"), [4, 4, 2, 4], [f16_word(small), f16_word(other)], 16),
        (format!("{mma}.m16n8k8.{rows}.f32.f16.f16.f32"), [4, 2, 1, 4], [f16_word(small), f16_word(other)], 8),
        (format!("{mma}.m16n8k16.{rows}.f32.bf16.bf16.f32"), [4, 4, 2, 4], [bf16_word(small), bf16_word(other)], 16),
        (format!("{mma}.m16n8k8.{rows}.f32.bf16.bf16.f32"), [4, 2, 1, 4], [bf16_word(small), bf16_word(other)], 8),
        (
            format!("{mma}.m16n8k8.{rows}.f32.tf32.tf32.f32"),
            [4, 4, 2, 4],
            [(small as f32).to_bits(), (other as f32).to_bits()],
            8,
        ),
        (
            format!("{mma}.m16n8k4.{rows}.f32.tf32.tf32.f32"),
            [4, 2, 1, 4],
            [(small as f32).to_bits(), (other as f32).to_bits()],
            4,
        ),
        (format!("{mma}.m8n8k4.{rows}.f32.f16.f16.f32"), [8, 2, 2, 8], [f16_word(small), f16_word(other)], 4),
        (
            format!("wmma.mma.sync.aligned.{rows}.m16n16k16.f32.f32"),
            [8, 8, 8, 8],
            [f16_word(small), f16_word(other)],
            16,
        ),
        (
            format!("wmma.mma.sync.aligned.{rows}.m8n32k16.f32.bf16.bf16.f32"),
            [8, 2, 8, 8],
            [bf16_word(small), bf16_word(other)],
            16,
        ),
        (
            format!("wmma.mma.sync.aligned.{rows}.m16n16k8.f32.tf32.tf32.f32"),
            [8, 4, 4, 8],
            [(small as f32).to_bits(), (other as f32).to_bits()],
            8,
        ),
    ];
    for (opcode, registers, [a, b], k) in cases {
        let line = instruction(&opcode, registers);
        let get = |config| f32::from_bits(through_ptx(&line, "sm_80", [a, b, one], config));
        let last = two(-23);
        assert_eq!(f64::from(get(VmConfig::default())), 1.0 + f64::from(k) * last, "{opcode}, to nearest");
        // 1.5 * 2^-24 loses its half behind 24 bits; with 25 it counts.
        let expected = |arch: u32| {
            let block = if opcode.contains("tf32") { 4 } else { 8 };
            let block = f64::from(if arch == 90 { 2 * block } else { block }.min(k));
            let each = if arch == 90 { 1.5 } else { 1.0 } * two(-24);
            let mut sum = 1.0;
            for _ in 0..(f64::from(k) / block) as usize {
                sum = ((sum + block * each) / last).floor() * last;
            }
            sum
        };
        assert_eq!(f64::from(get(truncate(None))), expected(80), "{opcode} on sm_80");
        assert_eq!(f64::from(get(truncate(Some(90)))), expected(90), "{opcode} on sm_90");
    }
}

#[test]
fn f16_accumulators_and_8_bit_operands_through_ptx() {
    let truncate = VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() };
    let half = |x: f64| u32::from(f16::from_f64(x).to_bits());
    // 16 products of a quarter of the last bit of 1 in f16: half of it in each block of 8, twice a tie to even.
    let words = [half(two(-6)) * 0x1_0001, half(two(-7)) * 0x1_0001, half(1.0) * 0x1_0001];
    for (opcode, registers) in [
        ("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", [2, 4, 2, 2]),
        ("wmma.mma.sync.aligned.row.col.m16n16k16.f16.f16", [4, 8, 8, 4]),
    ] {
        let line = instruction(opcode, registers);
        let get = |target, config| through_ptx(&line, target, words, config) & 0xffff;
        assert_eq!(get("sm_80", VmConfig::default()), half(1.0 + 2.0 * two(-10)), "{opcode}");
        assert_eq!(get("sm_80", truncate.clone()), half(1.0 + 2.0 * two(-10)), "{opcode}");
    }
    let e4m3 = |x: f64| encode(Format::E4m3, x) * 0x0101_0101;
    let line = instruction("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", [4, 4, 2, 4]);
    // 32 products of 2^-14 behind an accumulator of 1 + 2^-20.
    let words = [e4m3(two(-7)), e4m3(two(-7)), ((1.0 + two(-20)) as f32).to_bits()];
    let get = |target, config| f64::from(f32::from_bits(through_ptx(&line, target, words, config)));
    assert_eq!(get("sm_89", VmConfig::default()), 1.0 + two(-20) + two(-9));
    assert_eq!(get("sm_89", truncate.clone()), 1.0);
    assert_eq!(get("sm_120", truncate), 1.0 + two(-20) + two(-9));
}

#[test]
fn random_products_differ_from_nearest_in_some_bits() {
    let mut different = 0;
    for seed in 0..64u32 {
        let word = |salt: u32| {
            let half = |n: u32| {
                let x = (seed * 2 + n).wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)) >> 9;
                u32::from(f16::from_f32(x as f32 / (1 << 22) as f32 - 1.0).to_bits())
            };
            half(0) | half(1) << 16
        };
        let line = instruction("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", [4, 4, 2, 4]);
        let words = [word(1), word(2), 0.3f32.to_bits()];
        let nearest = f32::from_bits(through_ptx(&line, "sm_80", words, VmConfig::default()));
        let config = VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() };
        let truncated = f32::from_bits(through_ptx(&line, "sm_80", words, config));
        different += u32::from(nearest != truncated);
        assert!((nearest - truncated).abs() <= 20.0 * 2f32.powi(-20));
    }
    assert!(different > 10, "{different} of 64");
}

#[test]
fn formats_are_told_apart() {
    for (i, a) in FORMATS.into_iter().enumerate() {
        let b = FORMATS[(i + 1) % 5];
        for half in [false, true] {
            for right in [false, true] {
                let layout = Layout::Volta { a_row: half, b_row: !half, c_half: right, right };
                let product = Product { a, b, half, layout };
                assert_eq!(Product::of_code(product.code()), product);
            }
        }
    }
}
