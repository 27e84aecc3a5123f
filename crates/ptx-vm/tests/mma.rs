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
    let launch = Launch::new([1, 1, 1], [32, 1, 1]);
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

/// `mma.m8n8k4` with f16: four products, in the quad pairs of the manual's 9.7.16.5.1, whose formulas give row and column of element `i` of
/// a lane. D may take the place of any operand.
fn check_volta(a_layout: &str, b_layout: &str, d_type: &str, c_type: &str, d_list: &[&str]) {
    let element =
        |pair: usize, row: usize, col: usize, seed: usize| Format::F16.value(seed + (pair * 8 + row) * 8 + col);
    let (a, b, c) = (
        |p, row, k| element(p, row, k, 0),
        |p, k, col| element(p, k, col, 1000),
        |p, row, col| element(p, row, col, 2000),
    );
    // Row and column of element i of an accumulator.
    let place = |ty: &str, lane: usize, i: usize| {
        let high = if lane < 16 { 0 } else { 4 };
        match ty {
            "f16" => (lane % 4 + high, i),
            _ => ((lane & 1) + (i & 0b10) + high, (i & 0b100) + (lane & 0b10) + (i & 1)),
        }
    };
    let store = |bytes: &mut Vec<u8>, ty: &str, value: i64| match ty {
        "f16" => bytes.extend_from_slice(&(Format::F16.encode(value) as u16).to_le_bytes()),
        _ => bytes.extend_from_slice(&(value as f32).to_le_bytes()),
    };
    let registers = |ty: &str| if ty == "f16" { 4 } else { 8 };
    let words = 4 + registers(c_type);
    let mut bytes = Vec::new();
    for lane in 0..32usize {
        let (pair, high) = (lane % 16 / 4, if lane < 16 { 0 } else { 4 });
        for i in 0..4 {
            let (row, k) = if a_layout == "row" { (lane % 4 + high, i) } else { (i + high, lane % 4) };
            store(&mut bytes, "f16", a(pair, row, k));
        }
        for i in 0..4 {
            let (k, col) = if b_layout == "col" { (i, lane % 4 + high) } else { (lane % 4, i + high) };
            store(&mut bytes, "f16", b(pair, k, col));
        }
        for i in 0..8 {
            let (row, col) = place(c_type, lane, i);
            store(&mut bytes, c_type, c(pair, row, col));
        }
    }
    let in_size = bytes.len();
    let out_stride = 4 * d_list.len();
    bytes.resize(in_size + 32 * out_stride, 0);
    let list = |names: &[String]| names.join(", ");
    let c_list: Vec<String> = (0..registers(c_type)).map(|i| format!("%c{i}")).collect();
    let loads: String = ["%a0", "%a1", "%b0", "%b1"]
        .into_iter()
        .chain(c_list.iter().map(String::as_str))
        .enumerate()
        .map(|(i, name)| format!("ld.global.b32 {name}, [%p+{}];\n", 4 * i))
        .collect();
    let stores: String =
        d_list.iter().enumerate().map(|(i, name)| format!("st.global.b32 [%q+{}], {name};\n", 4 * i)).collect();
    let d_names: Vec<String> = d_list.iter().map(|name| (*name).to_owned()).collect();
    let ptx = format!(
        ".version 8.0\n.target sm_70\n.address_size 64\n.visible .entry k(.param .u64 data)\n{{\n\
         .reg .b32 %a<2>, %b<2>, %c<8>, %d<8>, %t;\n.reg .b64 %p, %q, %o;\n\
         ld.param.u64 %p, [data];\nmov.u32 %t, %tid.x;\nadd.s64 %q, %p, {in_size};\n\
         mul.wide.u32 %o, %t, {out_stride};\nadd.s64 %q, %q, %o;\nmul.wide.u32 %o, %t, {};\nadd.s64 %p, %p, %o;\n{loads}\
         mma.sync.aligned.m8n8k4.{a_layout}.{b_layout}.{d_type}.f16.f16.{c_type} {{{}}}, {{%a0, %a1}}, {{%b0, %b1}}, {{{}}};\n\
         {stores}ret;\n}}\n",
        4 * words,
        list(&d_names),
        list(&c_list),
    );
    let vm = Vm::new(VmConfig { threads: 1, checked: true, ..VmConfig::default() });
    let kernel = Module::parse("mma.ptx", &ptx).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let data = vm.alloc(bytes.len()).unwrap();
    vm.write(data, &bytes).unwrap();
    let launch = Launch::new([1, 1, 1], [32, 1, 1]);
    vm.launch(&kernel, &launch, &data.to_le_bytes()).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    vm.read(data, &mut bytes).unwrap();
    let mut want = Vec::new();
    for lane in 0..32 {
        let pair = lane % 16 / 4;
        for i in 0..8 {
            let (row, col) = place(d_type, lane, i);
            let sum = c(pair, row, col) + (0..4).map(|k| a(pair, row, k) * b(pair, k, col)).sum::<i64>();
            store(&mut want, d_type, sum);
        }
    }
    assert_eq!(bytes[in_size..], want, "{ptx}");
}

#[test]
fn quad_pairs() {
    for a in ["row", "col"] {
        for b in ["row", "col"] {
            let c = ["%c0", "%c1", "%c2", "%c3", "%c4", "%c5", "%c6", "%c7"];
            let d = ["%d0", "%d1", "%d2", "%d3", "%d4", "%d5", "%d6", "%d7"];
            // What a second step still needs comes first, or last.
            let early = ["%a0", "%a1", "%b0", "%b1", "%c0", "%c1", "%c2", "%c3"];
            let late = ["%c4", "%c5", "%c6", "%c7", "%b1", "%b0", "%a1", "%a0"];
            for d in [c, d, early] {
                check_volta(a, b, "f16", "f16", &d[..4]);
                check_volta(a, b, "f32", "f16", &d);
            }
            for d in [c, d, early, late] {
                check_volta(a, b, "f32", "f32", &d);
            }
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
