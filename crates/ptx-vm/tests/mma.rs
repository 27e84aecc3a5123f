//! Every `mma.sync` through PTX text, against a matrix product read through the manual's layouts.
//!
//! The operands are small integers, exact in every format, so that the results must be equal whatever the order of summation.

use half::{bf16, f16};
use ptx_vm::{Launch, Module, Vm, VmConfig};

/// The element formats of a shape.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Tf32 => "tf32",
            Format::F64 => "f64",
            Format::S8 => "s8",
            Format::U8 => "u8",
        }
    }

    fn bits(self) -> usize {
        match self {
            Format::F16 | Format::Bf16 => 16,
            Format::Tf32 => 32,
            Format::F64 => 64,
            Format::S8 | Format::U8 => 8,
        }
    }

    fn encode(self, x: i64) -> u64 {
        match self {
            Format::F16 => f16::from_f64(x as f64).to_bits().into(),
            Format::Bf16 => bf16::from_f64(x as f64).to_bits().into(),
            Format::Tf32 => (x as f32).to_bits().into(),
            Format::F64 => (x as f64).to_bits(),
            Format::S8 | Format::U8 => (x as u8).into(),
        }
    }

    /// A small number of the format.
    fn value(self, seed: usize) -> i64 {
        let x = (seed.wrapping_mul(2_654_435_761) >> 7) as i64 % 11;
        if self == Format::U8 { x + 240 } else { x - 5 }
    }
}

/// Lane and position within the lane's elements of element (row, k) of A: the manual's figures in one formula. A register holds
/// `per = 32 / bits` elements (one of 64 bits); registers alternate between rows `g` and `g + 8`, then step through `k`.
fn place_a(rows: usize, per: usize, row: usize, k: usize) -> (usize, usize) {
    let (lane, block, element) = (4 * (row % 8) + k / per % 4, k / (4 * per), k % per);
    (lane, (row / 8 + block * (rows / 8)) * per + element)
}

/// As [`place_a`] for element (k, col) of B.
fn place_b(per: usize, k: usize, col: usize) -> (usize, usize) {
    (4 * col + k / per % 4, k / (4 * per) * per + k % per)
}

fn check(shape: &str, [rows, k]: [usize; 2], a: Format, b: Format, accumulator: &str, satfinite: bool) {
    let per = (32 / a.bits()).max(1);
    let c_bits = match accumulator {
        "f16" => 16,
        "f64" => 64,
        _ => 32,
    };
    let c_format = |x: i64| match accumulator {
        "f16" => Format::F16.encode(x),
        "f32" => Format::Tf32.encode(x),
        "f64" => Format::F64.encode(x),
        _ => x as i32 as u32 as u64,
    };
    // Each lane's elements, packed into bytes.
    let (a_count, b_count, c_count) = (rows * k / 32, k * 8 / 32, rows * 8 / 32);
    let c_value = |row: usize, col: usize| match satfinite {
        true if (row + col).is_multiple_of(2) => i32::MAX as i64 - 3,
        true => i32::MIN as i64 + 3,
        false => (row * 8 + col) as i64 % 7 - 3,
    };
    let mut lanes = vec![Vec::new(); 32];
    let (mut a_lanes, mut b_lanes, mut c_lanes) =
        (vec![vec![0; a_count]; 32], vec![vec![0; b_count]; 32], vec![vec![0; c_count]; 32]);
    let place_c = |row: usize, col: usize| (4 * (row % 8) + col / 2, row / 8 * 2 + col % 2);
    let (a_at, b_at) =
        (|row: usize, kk: usize| a.value(row * k + kk), |kk: usize, col: usize| b.value(1000 + kk * 8 + col));
    for kk in 0..k {
        for row in 0..rows {
            let (lane, i) = place_a(rows, per, row, kk);
            a_lanes[lane][i] = a.encode(a_at(row, kk));
        }
        for col in 0..8 {
            let (lane, i) = place_b(per, kk, col);
            b_lanes[lane][i] = b.encode(b_at(kk, col));
        }
    }
    for row in 0..rows {
        for col in 0..8 {
            let (lane, i) = place_c(row, col);
            c_lanes[lane][i] = c_format(c_value(row, col));
        }
    }
    let pack = |values: &[u64], bits: usize| -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes().into_iter().take(bits / 8)).collect()
    };
    for (lane, out) in lanes.iter_mut().enumerate() {
        out.extend(pack(&a_lanes[lane], a.bits()));
        out.extend(pack(&b_lanes[lane], b.bits()));
        out.extend(pack(&c_lanes[lane], c_bits));
    }

    // A kernel that loads the registers, multiplies in place, and stores D over C.
    let wide = a == Format::F64;
    let size = if wide { 8 } else { 4 };
    let registers = [a_count * a.bits(), b_count * b.bits(), c_count * c_bits].map(|bits| bits / 8 / size);
    let stride = lanes[0].len();
    let c_offset = (registers[0] + registers[1]) * size;
    let mut body = String::new();
    let mut offset = 0;
    for (bank, n) in ["a", "b", "c"].into_iter().zip(registers) {
        for i in 0..n {
            body += &format!("ld.global.b{} %{bank}{i}, [%p+{offset}];\n", 8 * size);
            offset += size;
        }
    }
    let vector =
        |bank: &str, n: usize| format!("{{{}}}", (0..n).map(|i| format!("%{bank}{i}")).collect::<Vec<_>>().join(", "));
    let [a_vec, b_vec, c_vec] = [("a", 0), ("b", 1), ("c", 2)].map(|(bank, i)| vector(bank, registers[i]));
    let sat = if satfinite { ".satfinite" } else { "" };
    body += &format!(
        "mma.sync.aligned.{shape}.row.col{sat}.{accumulator}.{}.{}.{accumulator} {c_vec}, {a_vec}, {b_vec}, {c_vec};\n",
        a.name(),
        b.name()
    );
    for i in 0..registers[2] {
        body += &format!("st.global.b{} [%p+{}], %c{i};\n", 8 * size, c_offset + i * size);
    }
    let declare: String = ["a", "b", "c"].iter().map(|bank| format!(".reg .b{} %{bank}<8>;\n", 8 * size)).collect();
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data)\n{{\n{declare}.reg .b64 %p, %o;\n.reg .b32 %t;\n\
         ld.param.u64 %p, [data];\nmov.u32 %t, %tid.x;\nmul.wide.u32 %o, %t, {stride};\nadd.s64 %p, %p, %o;\n{body}ret;\n}}\n"
    );

    let vm = Vm::new(VmConfig { threads: 1, ..VmConfig::default() });
    let kernel = Module::parse("mma.ptx", &ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let mut bytes = lanes.concat();
    let data = vm.alloc(bytes.len()).unwrap();
    vm.write(data, &bytes).unwrap();
    let launch = Launch { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared: 0 };
    vm.launch(&kernel, &launch, &data.to_le_bytes()).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    vm.read(data, &mut bytes).unwrap();

    for row in 0..rows {
        for col in 0..8 {
            let exact = c_value(row, col) + (0..k).map(|kk| a_at(row, kk) * b_at(kk, col)).sum::<i64>();
            let want = if satfinite { exact.clamp(i32::MIN.into(), i32::MAX.into()) } else { exact };
            let (lane, i) = place_c(row, col);
            let at = lane * stride + c_offset + i * c_bits / 8;
            let mut got = [0; 8];
            got[..c_bits / 8].copy_from_slice(&bytes[at..at + c_bits / 8]);
            assert_eq!(
                u64::from_le_bytes(got),
                c_format(want),
                "{shape} {} {sat} ({row}, {col}) = {want}\n{ptx}",
                a.name()
            );
        }
    }
}

#[test]
fn floating_point_shapes() {
    use Format::*;
    for (shape, size) in [("m16n8k16", [16, 16]), ("m16n8k8", [16, 8])] {
        check(shape, size, F16, F16, "f32", false);
        check(shape, size, F16, F16, "f16", false);
        check(shape, size, Bf16, Bf16, "f32", false);
    }
    check("m16n8k8", [16, 8], Tf32, Tf32, "f32", false);
    check("m16n8k4", [16, 4], Tf32, Tf32, "f32", false);
    check("m8n8k4", [8, 4], F64, F64, "f64", false);
}

#[test]
fn integer_shapes() {
    use Format::*;
    for (shape, size) in [("m8n8k16", [8, 16]), ("m16n8k16", [16, 16]), ("m16n8k32", [16, 32])] {
        for a in [S8, U8] {
            for b in [S8, U8] {
                for satfinite in [false, true] {
                    check(shape, size, a, b, "s32", satfinite);
                }
            }
        }
    }
}
