//! Copies of boxes of tensors (`cp.async.bulk.tensor`), against a copy element by element: axes, edges, steps, swizzles, reductions, and what is
//! wrong.

use ptx_vm::{Fault, FaultKind, Launch, Module, TensorMap, TensorSwizzle, TensorType, Vm, VmConfig};

/// Bytes of shared memory of the test kernel, and its threads.
const TILE: usize = 16384;
const THREADS: u32 = 64;

/// A kernel of a map, a tensor's address and a buffer for what is in `tile`: `%rd1` is the generic address of the map, `%rd2` the buffer, `%p1`
/// holds for thread 0; `mbar` and `tile` are in shared memory.
fn source(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .align 64 .b8 map[128], .param .u64 data) {{
          .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>;
          .shared .align 8 .b64 mbar;
          .shared .align 1024 .b8 tile[{TILE}];
          mov.b64 %rd0, map; cvta.param.u64 %rd1, %rd0;
          ld.param.u64 %rd2, [data];
          mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0;
          {body}
          ret;
        }}"
    )
}

/// Every thread copies its words of the tile: out of it, or into it.
fn words(out: bool) -> String {
    let (from, to) = if out {
        ("ld.shared.u32 %r2, [%r3];", "st.global.u32 [%rd3], %r2;")
    } else {
        ("ld.global.u32 %r2, [%rd3];", "st.shared.u32 [%r3], %r2;")
    };
    let steps = THREADS * 4;
    format!(
        "shl.b32 %r1, %r0, 2; cvt.u64.u32 %rd3, %r1; add.u64 %rd3, %rd3, %rd2;
         mov.u32 %r3, tile; add.u32 %r3, %r3, %r1; mov.u32 %r4, {};
         WORDS: {from} {to} add.u64 %rd3, %rd3, {steps}; add.u32 %r3, %r3, {steps};
         sub.u32 %r4, %r4, 1; setp.ne.u32 %p2, %r4, 0; @%p2 bra WORDS;",
        TILE / 4 / THREADS as usize
    )
}

/// A load of the box at `at`, waited for unless `wait` is not.
fn load(at: &[i32], bytes: usize, wait: bool) -> String {
    let coordinates: Vec<String> = at.iter().map(i32::to_string).collect();
    let wait = if wait { "WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [mbar], 0; @!%p3 bra WAIT;" } else { "" };
    format!(
        "@%p1 mbarrier.init.shared.b64 [mbar], 1; @%p1 fence.mbarrier_init.release.cluster; bar.sync 0;
         @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd4, [mbar], {bytes};
         @%p1 cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%rd1, {{{}}}], [mbar];
         {wait} {}",
        at.len(),
        coordinates.join(", "),
        words(true)
    )
}

/// A store, or a reduction, of the box at `at`.
fn store(at: &[i32], op: &str) -> String {
    let coordinates: Vec<String> = at.iter().map(i32::to_string).collect();
    let name = if op.is_empty() { "cp.async.bulk.tensor" } else { "cp.reduce.async.bulk.tensor" };
    format!(
        "{} fence.proxy.async.shared::cta; bar.sync 0;
         @%p1 {name}.{}d.global.shared::cta{op}.tile.bulk_group [%rd1, {{{}}}], [tile];
         @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0;",
        words(false),
        at.len(),
        coordinates.join(", ")
    )
}

struct Ran {
    tensor: Vec<u8>,
    out: Vec<u8>,
}

/// Runs `body` with a tensor of these bytes, whose map `map` makes of its address, and a buffer that holds `given` at first.
fn run(
    config: &VmConfig,
    body: &str,
    tensor: &[u8],
    given: &[u8],
    map: &dyn Fn(u64) -> [u8; 128],
) -> Result<Ran, Box<Fault>> {
    let kernel = Module::parse("test.ptx", &source(body)).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
    let vm = Vm::new(VmConfig { instruction_budget: Some(1 << 24), ..config.clone() });
    let (at, data) = (vm.alloc(tensor.len()).unwrap(), vm.alloc(TILE).unwrap());
    vm.write(at, tensor).unwrap();
    vm.write(data, given).unwrap();
    let params = [&map(at)[..], &data.to_le_bytes()].concat();
    let launch = Launch::new([1, 1, 1], [THREADS, 1, 1]);
    vm.launch(&kernel, &launch, &params).map_err(Box::new)?;
    let mut ran = Ran { tensor: tensor.to_vec(), out: vec![0; TILE] };
    vm.read_anyway(at, &mut ran.tensor).unwrap();
    vm.read_anyway(data, &mut ran.out).unwrap();
    Ok(ran)
}

/// Plain, checked, and adverse in several ways.
fn configs() -> Vec<VmConfig> {
    let mut all = vec![VmConfig::default(), VmConfig { checked: true, ..VmConfig::default() }];
    all.extend((0..4).map(VmConfig::adverse));
    all
}

/// Bytes of which no two in a row are alike.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 251 + 3) as u8).collect()
}

/// A tensor whose rows are padded to a multiple of 16 bytes, box, place and steps.
#[derive(Clone)]
struct Case {
    ty: TensorType,
    sizes: Vec<u64>,
    boxes: Vec<u32>,
    at: Vec<i32>,
    steps: Vec<u32>,
    swizzle: TensorSwizzle,
}

impl Case {
    fn new(ty: TensorType, sizes: &[u64], boxes: &[u32], at: &[i32]) -> Case {
        let steps = vec![1; sizes.len()];
        Case { ty, sizes: sizes.into(), boxes: boxes.into(), at: at.into(), steps, swizzle: TensorSwizzle::None }
    }

    fn strides(&self) -> Vec<u64> {
        let mut strides = vec![];
        let mut bytes = (self.sizes[0] * self.ty.bytes() as u64).next_multiple_of(16);
        for size in &self.sizes[1..] {
            strides.push(bytes);
            bytes *= size;
        }
        strides
    }

    fn tensor_bytes(&self) -> usize {
        let last = self
            .strides()
            .last()
            .map_or(self.sizes[0] * self.ty.bytes() as u64, |s| s * self.sizes[self.sizes.len() - 1]);
        last as usize
    }

    fn map(&self, address: u64) -> TensorMap {
        let mut map =
            TensorMap::new(self.ty, address, &self.sizes, &self.strides(), &self.boxes).with_swizzle(self.swizzle);
        map.steps.clone_from(&self.steps);
        map
    }

    /// For every element of the box: where it stands in shared memory, and in the tensor, if it is inside.
    fn elements(&self) -> Vec<(usize, Option<usize>)> {
        let counts: Vec<usize> = (0..self.boxes.len())
            .map(|i| if i == 0 { self.boxes[0] } else { self.boxes[i].div_ceil(self.steps[i]) } as usize)
            .collect();
        let width = self.ty.bytes();
        let one = |index: usize| {
            let (mut rest, mut far, mut inside) = (index, 0i64, true);
            for (axis, count) in counts.iter().enumerate() {
                let step = if axis == 0 { 1 } else { i64::from(self.steps[axis]) };
                let at = i64::from(self.at[axis]) + (rest % count) as i64 * step;
                rest /= count;
                inside &= (0..self.sizes[axis] as i64).contains(&at);
                far += at * if axis == 0 { width as i64 } else { self.strides()[axis - 1] as i64 };
            }
            let near = index * width;
            let (span, line) = (self.swizzle.span().unwrap_or(16), near / 128);
            let piece = near / 16 % 8 ^ line % (span / 16);
            (line * 128 + piece * 16 + near % 16, inside.then_some(far as usize))
        };
        (0..counts.iter().product()).map(one).collect()
    }
}

fn cases() -> Vec<Case> {
    use TensorType::*;
    let mut all = vec![
        Case::new(F32, &[40], &[16], &[8]),
        Case::new(U8, &[37], &[64], &[-5]),
        Case::new(Bf16, &[70, 9], &[64, 8], &[0, 0]),
        Case::new(Bf16, &[70, 9], &[64, 8], &[33, 5]),
        Case::new(F16, &[70, 9], &[64, 8], &[-3, -2]),
        Case::new(F64, &[5, 4, 3], &[4, 3, 2], &[2, 2, 2]),
        Case::new(U16, &[24, 3, 4, 3], &[16, 2, 3, 2], &[4, 1, 2, -1]),
        Case::new(S32, &[9, 3, 2, 4, 2], &[8, 2, 2, 3, 2], &[3, 2, 0, 2, 1]),
        Case::new(U64, &[6, 5], &[2, 3], &[100, 100]),
        Case { steps: vec![1, 2, 3], ..Case::new(F32, &[12, 9, 8], &[8, 5, 7], &[1, 1, -2]) },
    ];
    for (swizzle, width) in [(TensorSwizzle::B32, 16), (TensorSwizzle::B64, 32), (TensorSwizzle::B128, 64)] {
        all.push(Case { swizzle, ..Case::new(Bf16, &[width + 6, 40], &[width as u32, 32], &[4, 20]) });
        all.push(Case { swizzle, ..Case::new(Bf16, &[width, 40], &[8, 16], &[-3, 3]) });
    }
    all
}

#[test]
fn boxes_are_loaded() {
    for case in cases() {
        let tensor = bytes(case.tensor_bytes());
        let body = load(&case.at, case.map(0).box_bytes(), true);
        let mut expected = vec![None; TILE];
        for (near, far) in case.elements() {
            for i in 0..case.ty.bytes() {
                expected[near + i] = Some(far.map_or(0, |far| tensor[far + i]));
            }
        }
        for config in configs() {
            // What nobody wrote of the tile is undefined, and copied along.
            let config = VmConfig { report: config.report.without(FaultKind::Uninitialised), ..config };
            let ran = run(&config, &body, &tensor, &[0; TILE], &|at| case.map(at).encode().unwrap()).unwrap();
            for (i, (byte, expected)) in ran.out.iter().zip(&expected).enumerate() {
                assert!(
                    expected.is_none_or(|e| e == *byte),
                    "{} at {:?}, byte {i}: {byte}, {expected:?}",
                    case.map(0),
                    case.at
                );
            }
        }
    }
}

#[test]
fn boxes_are_stored() {
    for case in cases() {
        let (tensor, tile) = (vec![0xee; case.tensor_bytes()], bytes(TILE));
        let mut expected = tensor.clone();
        for (near, far) in case.elements() {
            if let Some(far) = far {
                expected[far..far + case.ty.bytes()].copy_from_slice(&tile[near..near + case.ty.bytes()]);
            }
        }
        for config in configs() {
            let ran = run(&config, &store(&case.at, ""), &tensor, &tile, &|at| case.map(at).encode().unwrap()).unwrap();
            assert!(ran.tensor == expected, "{} at {:?}", case.map(0), case.at);
        }
    }
}

#[test]
fn boxes_are_combined() {
    type Op = fn(u32, u32) -> u32;
    let ops: [(&str, TensorType, Op); 10] = [
        (".add", TensorType::U32, |a, b| a.wrapping_add(b)),
        (".add", TensorType::F32, |a, b| (f32::from_bits(a) + f32::from_bits(b)).to_bits()),
        (".min", TensorType::S32, |a, b| (a as i32).min(b as i32) as u32),
        (".max", TensorType::U32, |a, b| a.max(b)),
        (".inc", TensorType::U32, |a, b| if a >= b { 0 } else { a + 1 }),
        (".dec", TensorType::U32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        (".and", TensorType::U32, |a, b| a & b),
        (".or", TensorType::S32, |a, b| a | b),
        (".xor", TensorType::U32, |a, b| a ^ b),
        (".max", TensorType::S32, |a, b| (a as i32).max(b as i32) as u32),
    ];
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for (op, ty, combine) in ops {
        let case = Case { swizzle: TensorSwizzle::B64, ..Case::new(ty, &[18, 5], &[16, 4], &[4, 2]) };
        // Small numbers, also as f32.
        let values = |count: usize, seed: u32| -> Vec<u8> {
            (0..count as u32 / 4).flat_map(|i| ((i * 7 + seed) % 13 + 0x3f80_0000).to_le_bytes()).collect()
        };
        let (tensor, tile) = (values(case.tensor_bytes(), 1), values(TILE, 5));
        let mut expected = tensor.clone();
        for (near, far) in case.elements() {
            if let Some(far) = far {
                let new = combine(word(&tensor, far), word(&tile, near));
                expected[far..far + 4].copy_from_slice(&new.to_le_bytes());
            }
        }
        for config in configs() {
            let ran = run(&config, &store(&case.at, op), &tensor, &tile, &|at| case.map(at).encode().unwrap()).unwrap();
            assert!(ran.tensor == expected, "{op} of {ty:?}");
        }
    }
    // Not of all types.
    let case = Case::new(TensorType::F64, &[4, 4], &[2, 2], &[0, 0]);
    let refused =
        run(&configs()[0], &store(&case.at, ".add"), &[0; 128], &[0; TILE], &|at| case.map(at).encode().unwrap());
    let fault = refused.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Trap);
    assert!(fault.message.contains("F64 cannot be combined"), "{fault}");
}

#[test]
fn what_is_outside_can_be_nan() {
    for ty in [TensorType::F16, TensorType::Bf16, TensorType::F32, TensorType::F64] {
        let case = Case::new(ty, &[16, 2], &[16, 4], &[-8, -1]);
        let mut map = case.map(0);
        map.nan = true;
        let tensor = vec![0; case.tensor_bytes()];
        let made = |at| {
            let mut map = map.clone();
            map.address = at;
            map
        };
        let ran = run(&VmConfig::default(), &load(&case.at, map.box_bytes(), true), &tensor, &[0; TILE], &|at| {
            made(at).encode().unwrap()
        });
        let ran = ran.unwrap();
        for (near, far) in case.elements() {
            let value = &ran.out[near..near + ty.bytes()];
            assert_eq!(value.iter().any(|byte| *byte != 0), far.is_none(), "{ty:?}");
            let nan = match ty {
                TensorType::F16 => half::f16::from_le_bytes(value.try_into().unwrap()).is_nan(),
                TensorType::Bf16 => half::bf16::from_le_bytes(value.try_into().unwrap()).is_nan(),
                TensorType::F32 => f32::from_le_bytes(value.try_into().unwrap()).is_nan(),
                _ => f64::from_le_bytes(value.try_into().unwrap()).is_nan(),
            };
            assert_eq!(nan, far.is_none());
        }
    }
}

/// A box that is read before it is waited for is a report, and poison where hardware would be late.
#[test]
fn a_box_that_is_not_waited_for_is_found() {
    let case = Case { swizzle: TensorSwizzle::B128, ..Case::new(TensorType::Bf16, &[64, 64], &[64, 64], &[0, 0]) };
    let tensor = bytes(case.tensor_bytes());
    let body = load(&case.at, case.map(0).box_bytes(), false);
    let map = |at| case.map(at).encode().unwrap();
    let checked = VmConfig { checked: true, ..VmConfig::default() };
    let fault = run(&checked, &body, &tensor, &[0; TILE], &map).err().unwrap();
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    assert!(fault.message.contains("bulk copy counted by the mbarrier"), "{fault}");
    let late = run(&VmConfig::adverse(1), &body, &tensor, &[0; TILE], &map).unwrap();
    assert!(case.elements().iter().any(|(near, far)| late.out[*near] != tensor[far.unwrap()]));

    // A store of what the other proxy does not see yet, and one whose source is written again before it has been read.
    let store = store(&case.at, "");
    let unfenced = store.replace("fence.proxy.async.shared::cta;", "");
    let fault = run(&checked, &unfenced, &tensor, &bytes(TILE), &map).err().unwrap();
    assert!(fault.kind == FaultKind::Race && fault.message.contains("fence.proxy.async"), "{fault}");
    let overwritten = store.replace("@%p1 cp.async.bulk.wait_group 0;", "@%p1 st.shared.u32 [tile], %r0;");
    let fault = run(&checked, &overwritten, &tensor, &bytes(TILE), &map).err().unwrap();
    assert!(fault.kind == FaultKind::Race && fault.message.contains("bulk copy"), "{fault}");
}

#[test]
fn what_is_wrong_is_named() {
    let case = Case::new(TensorType::F32, &[8, 8], &[8, 8], &[0, 0]);
    let tensor = bytes(case.tensor_bytes());
    let fails = |body: &str, map: &dyn Fn(u64) -> [u8; 128], kind: FaultKind, expected: &str| {
        for config in configs() {
            let fault = run(&config, body, &tensor, &[0; TILE], map).err().unwrap();
            assert!(fault.kind == kind && fault.message.contains(expected), "{kind:?} {expected}: {fault}");
        }
    };
    let good = |at| case.map(at).encode().unwrap();
    let body = load(&case.at, 256, true);
    fails(&body, &|_| [7; 128], FaultKind::Trap, "there is no tensor map");
    fails(&load(&[0], 256, true), &good, FaultKind::Trap, "a copy of 1 axes");
    fails(&body.replace("[tile], [%rd1", "[tile + 64], [%rd1"), &good, FaultKind::Misaligned, "shared memory");
    fails(
        &body.replace("[tile], [%rd1", &format!("[tile + {TILE}], [%rd1")),
        &good,
        FaultKind::OutOfBounds,
        "past the end",
    );
    fails(&body.replace("[%rd1, {", "[%rd1 + 16, {"), &good, FaultKind::Misaligned, "tensor map");
    fails(&body.replace("[%rd1, {", "[%rd1 + 128, {"), &good, FaultKind::OutOfBounds, "past the end");
    let longer = |at| TensorMap::new(case.ty, at, &[8, 9], &case.strides(), &case.boxes).encode().unwrap();
    fails(&load(&[0, 8], 256, true), &longer, FaultKind::OutOfBounds, "32 bytes at");
    let load_error = |body: &str| {
        Module::parse("t", &source(body)).and_then(|m| m.kernel("k")).err().map_or_else(String::new, |e| e.to_string())
    };
    assert!(load_error(&body.replace("tensor.2d", "tensor.3d")).contains("2 coordinates of a tensor of 3 axes"));
    assert!(load_error(&body.replace(", {0, 0}]", "]")).contains("the operands are"));
    assert!(load_error(&body.replace(".tile", ".im2col")).contains("im2col"));
    let cluster = |mask: &str| {
        body.replace("complete_tx::bytes [", "complete_tx::bytes.multicast::cluster [")
            .replace("[mbar];\n         WAIT", &format!("[mbar], {mask};\n         WAIT"))
    };
    fails(&cluster("2"), &good, FaultKind::OutOfBounds, "blocks 0b10 of a cluster of 1");
}

/// Bytes of a box are counted as what moves; the outside of the tensor is not read.
#[test]
fn traffic_is_counted() {
    let case = Case { swizzle: TensorSwizzle::B128, ..Case::new(TensorType::Bf16, &[64, 8], &[64, 16], &[0, 0]) };
    let kernel = Module::parse("test.ptx", &source(&load(&case.at, 2048, true))).and_then(|m| m.kernel("k")).unwrap();
    let vm = Vm::new(VmConfig { counters: true, ..VmConfig::default() });
    let (at, data) = (vm.alloc(case.tensor_bytes()).unwrap(), vm.alloc(TILE).unwrap());
    vm.fill(at, 1, case.tensor_bytes()).unwrap();
    let params = [&case.map(at).encode().unwrap()[..], &data.to_le_bytes()].concat();
    let launch = Launch::new([1, 1, 1], [THREADS, 1, 1]);
    let counters = vm.launch(&kernel, &launch, &params).unwrap().counters.unwrap();
    assert_eq!((counters.global.load_bytes, counters.global.store_bytes), (1024, TILE as u64));
    assert_eq!(counters.global.sectors, (1024 + TILE as u64) / 32);
    assert_eq!(counters.shared.store_bytes, 2048);
}
