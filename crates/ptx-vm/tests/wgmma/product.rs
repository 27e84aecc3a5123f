//! One `wgmma` in a kernel of its own, and what it must compute: operands laid out and results read by the manual's figures.

use half::{bf16, f16};
use ptx_vm::{Fault, Launch, LaunchStats, Module, Vm, VmConfig};

/// The formats of operands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Format {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Tf32 => "tf32",
            Format::E4m3 => "e4m3",
            Format::E5m2 => "e5m2",
            Format::S8 => "s8",
            Format::U8 => "u8",
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Format::F16 | Format::Bf16 => 2,
            Format::Tf32 => 4,
            _ => 1,
        }
    }

    pub(crate) fn integer(self) -> bool {
        matches!(self, Format::S8 | Format::U8)
    }

    /// A number that every operation is exact with.
    fn value(self, random: u64) -> i64 {
        match self {
            Format::S8 => (random % 256) as i64 - 128,
            Format::U8 => (random % 256) as i64,
            _ => (random % 9) as i64 - 4,
        }
    }

    fn encode(self, x: i64) -> Vec<u8> {
        let small = |bits: u32, bias: i64| {
            let (sign, magnitude) = (u8::from(x < 0) << 7, x.unsigned_abs());
            let exponent = magnitude.checked_ilog2();
            let fraction = |e: u32| ((magnitude << bits) >> e) as u8 & ((1 << bits) - 1);
            exponent.map_or(0, |e| sign | ((bias + i64::from(e)) as u8) << bits | fraction(e))
        };
        match self {
            Format::F16 => f16::from_f64(x as f64).to_le_bytes().to_vec(),
            Format::Bf16 => bf16::from_f64(x as f64).to_le_bytes().to_vec(),
            // The low 13 bits do not count.
            Format::Tf32 => ((x as f32).to_bits() | 0x1555).to_le_bytes().to_vec(),
            Format::E4m3 => vec![small(3, 7)],
            Format::E5m2 => vec![small(2, 15)],
            Format::S8 | Format::U8 => vec![x as u8],
        }
    }
}

/// How an operand lies in shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes of a swizzled row: 16 (none), 32, 64, 128.
    pub(crate) swizzle: usize,
    pub(crate) mn_major: bool,
    /// Where along K the operand begins within rows that are longer, in steps of 32 bytes (K-major), or of K.
    pub(crate) step: usize,
    /// A swizzle whose pattern begins so many rows of 128 bytes behind a multiple of its size.
    pub(crate) base: usize,
}

pub(crate) const PLAIN: Place = Place { swizzle: 16, mn_major: false, step: 0, base: 0 };

impl Place {
    /// Leading and stride offsets for as many rows (or columns).
    fn offsets(&self, rows: usize) -> [usize; 2] {
        match (self.mn_major, self.swizzle) {
            // 8x8 matrices along K side by side, with gaps.
            (false, 16) => [144, 512],
            (false, w) => [16, 8 * w],
            (true, 16) => [128 * rows / 8, 128],
            // Panels as wide as the swizzle, each with 32 elements along K.
            (true, w) => [32 * w, 8 * w],
        }
    }

    /// Where element (row or column `r`, `k`) begins.
    fn at(&self, r: usize, k: usize, bytes: usize, rows: usize) -> usize {
        let [leading, stride] = self.offsets(rows);
        let w = self.swizzle;
        // Rows of 128 bytes of the pattern so far exchange columns.
        let turn = |line: usize| (line * w / 128) % (w / 16);
        match (self.mn_major, w) {
            (false, 16) => r / 8 * stride + k * bytes / 16 * leading + r % 8 * 16 + k * bytes % 16,
            (false, _) => {
                let byte = k * bytes + 32 * self.step;
                r / 8 * stride + r % 8 * w + (byte / 16 ^ turn(r % 8)) * 16 + byte % 16
            }
            (true, 16) => r / 8 * stride + k / 8 * leading + k % 8 * 16 + r % 8 * bytes,
            (true, _) => {
                let (k, wide) = (k + 16 * self.step, w / bytes);
                let column = r % wide * bytes / 16 ^ turn(k % 8);
                r / wide * leading + k / 8 * stride + k % 8 * w + column * 16 + r * bytes % 16
            }
        }
    }

    /// The descriptor, relative to the beginning of the memory the operand lies in.
    fn descriptor(&self, start: usize, rows: usize) -> u64 {
        let [leading, stride] = self.offsets(rows);
        let skip = if self.mn_major { self.offsets(rows)[1] * 2 * self.step } else { 32 * self.step };
        let start = start + if self.swizzle == 16 { 0 } else { skip };
        let mode = [0, 3, 2, 1][self.swizzle.ilog2() as usize - 4];
        (start / 16) as u64
            | ((leading / 16) as u64) << 16
            | ((stride / 16) as u64) << 32
            | (self.base as u64) << 49
            | mode << 62
    }
}

/// One product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) a: Format,
    pub(crate) b: Format,
    /// Accumulators of f16.
    pub(crate) half: bool,
    pub(crate) n: usize,
    /// Where A lies; none: in registers.
    pub(crate) place_a: Option<Place>,
    pub(crate) place_b: Place,
    /// scale-d.
    pub(crate) keep: bool,
    pub(crate) negate: [bool; 2],
    pub(crate) satfinite: bool,
    pub(crate) seed: u64,
}

impl Product {
    pub(crate) fn new(a: Format, b: Format, n: usize) -> Product {
        Product {
            a,
            b,
            half: false,
            n,
            place_a: Some(PLAIN),
            place_b: PLAIN,
            keep: true,
            negate: [false; 2],
            satfinite: false,
            seed: 1,
        }
    }

    pub(crate) fn k(&self) -> usize {
        32 / self.a.bytes()
    }

    /// Registers of D.
    pub(crate) fn registers(&self) -> usize {
        self.n / if self.half { 4 } else { 2 }
    }

    /// Elements of A, B and C.
    fn values(&self) -> [Vec<i64>; 3] {
        let mut state = self.seed;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 33
        };
        let a = (0..64 * self.k()).map(|_| self.a.value(random())).collect();
        let b = (0..self.n * self.k()).map(|_| self.b.value(random())).collect();
        let large = if self.satfinite { i64::from(i32::MAX) - 1000 } else { 0 };
        let c = (0..64 * self.n).map(|i| (random() % 17) as i64 - 8 + if i % 2 == 0 { large } else { -large });
        [a, b, c.collect()]
    }

    /// The opcode.
    pub(crate) fn opcode(&self) -> String {
        let (d, sat) = match (self.a.integer(), self.half) {
            (true, _) => ("s32", if self.satfinite { ".satfinite" } else { "" }),
            (_, true) => ("f16", ""),
            _ => ("f32", ""),
        };
        let (a, b) = (self.a.name(), self.b.name());
        format!("wgmma.mma_async.sync.aligned.m64n{}k{}{sat}.{d}.{a}.{b}", self.n, self.k())
    }

    /// The instruction, with registers `%d`, `%a` and `%p1` and descriptors `%rd5`, `%rd6`.
    pub(crate) fn instruction(&self) -> String {
        let d: Vec<String> = (0..self.registers()).map(|i| format!("%d{i}")).collect();
        let a = if self.place_a.is_some() { "%rd5" } else { "{%a0, %a1, %a2, %a3}" };
        let mut text = format!("{} {{{}}}, {a}, %rd6, %p1", self.opcode(), d.join(", "));
        if !self.a.integer() {
            for negate in self.negate {
                text += if negate { ", -1" } else { ", 1" };
            }
        }
        if self.a.bytes() == 2 {
            for place in self.place_a.iter().chain([&self.place_b]) {
                text += if place.mn_major { ", 1" } else { ", 0" };
            }
        }
        text + ";"
    }

    /// A kernel of one warpgroup: shared memory from `image`, C from and D to `cd` (registers of each thread in a row), A's registers from
    /// `a`. `body` stands where the product does.
    pub(crate) fn kernel(&self, body: &str) -> String {
        let n = self.registers();
        let (load, store): (Vec<String>, Vec<String>) = (0..n)
            .map(|i| {
                (format!("ld.global.b32 %d{i}, [%rd3+{}];", 4 * i), format!("st.global.b32 [%rd3+{}], %d{i};", 4 * i))
            })
            .unzip();
        format!(
            ".version 8.6\n.target sm_90a\n.address_size 64
.visible .entry k(.param .u64 image, .param .u64 cd, .param .u64 a, .param .u64 da, .param .u64 db, .param .u32 words, .param .u32 keep) {{
  .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b32 %a<4>; .reg .b32 %d<{n}>; .reg .b64 %rd<9>;
  .shared .align 1024 .b8 tile[{SHARED}];
  mov.u32 %r0, %tid.x;
  ld.param.u64 %rd1, [image]; ld.param.u64 %rd3, [cd]; ld.param.u64 %rd4, [a];
  ld.param.u64 %rd5, [da]; ld.param.u64 %rd6, [db]; ld.param.u32 %r1, [words]; ld.param.u32 %r7, [keep];
  setp.ne.u32 %p1, %r7, 0;
  mad.wide.u32 %rd3, %r0, {}, %rd3; mad.wide.u32 %rd4, %r0, 16, %rd4;
  mov.u32 %r2, tile; shr.u32 %r4, %r2, 4; cvt.u64.u32 %rd7, %r4; add.u64 %rd5, %rd5, %rd7; add.u64 %rd6, %rd6, %rd7;
  mov.u32 %r3, %r0;
copy:
  setp.ge.u32 %p2, %r3, %r1;
  @%p2 bra done;
  mul.wide.u32 %rd8, %r3, 4; add.u64 %rd8, %rd8, %rd1; ld.global.b32 %r5, [%rd8];
  mad.lo.u32 %r6, %r3, 4, %r2; st.shared.b32 [%r6], %r5;
  add.u32 %r3, %r3, 128;
  bra copy;
done:
  ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%rd4];
  {}
  fence.proxy.async;
  bar.sync 0;
  {body}
  {}
  ret;
}}
",
            4 * n,
            load.join("\n  "),
            store.join("\n  ")
        )
    }

    /// The body of a correct kernel.
    pub(crate) fn body(&self) -> String {
        format!(
            "wgmma.fence.sync.aligned;\n  {}\n  wgmma.commit_group.sync.aligned;\n  wgmma.wait_group.sync.aligned 0;",
            self.instruction()
        )
    }

    /// Where register `i` of a thread belongs: row and column of D, of the first of its elements.
    fn element(&self, thread: usize, i: usize) -> (usize, usize) {
        let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
        match self.half {
            true => (16 * warp + g + 8 * (i % 2), i / 2 * 8 + 2 * t),
            false => (16 * warp + g + 8 * (i / 2 % 2), i / 4 * 8 + 2 * t + i % 2),
        }
    }

    /// Runs a kernel of [`Product::kernel`]; gives D, the registers of each thread in a row.
    pub(crate) fn run(&self, text: &str, config: VmConfig) -> Result<(Vec<u32>, LaunchStats), Fault> {
        let kernel = Module::parse("k.ptx", text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}"));
        let [a, b, c] = self.values();
        let (k, n) = (self.k(), self.registers());
        let mut image = vec![0xa5; SHARED];
        let mut put = |place: Place, start: usize, format: Format, values: &[i64]| {
            for (i, x) in values.iter().enumerate() {
                let at = start + place.at(i / k, i % k, format.bytes(), values.len() / k);
                image[at..at + format.bytes()].copy_from_slice(&format.encode(*x));
            }
        };
        let start = |place: Place, at: usize| at + 128 * place.base;
        let mut descriptors = [0; 2];
        if let Some(place) = self.place_a {
            put(place, start(place, AT_A), self.a, &a);
            descriptors[0] = place.descriptor(start(place, AT_A), 64);
        }
        put(self.place_b, start(self.place_b, AT_B), self.b, &b);
        descriptors[1] = self.place_b.descriptor(start(self.place_b, AT_B), self.n);
        // The fragment of A: registers alternate between rows g and g + 8, then step through K by 16 bytes.
        let per = 4 / self.a.bytes();
        let fragments = (0..128 * 4).flat_map(|i| {
            let (thread, register) = (i / 4, i % 4);
            let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (register % 2);
            let first = (thread % 4 + 4 * (register / 2)) * per;
            (0..per).flat_map(move |e| self.a.encode(self.values()[0][row * k + first + e])).collect::<Vec<u8>>()
        });
        let fragments: Vec<u8> = if self.place_a.is_none() { fragments.collect() } else { vec![0; 128 * 16] };
        let word = |thread: usize, i: usize| {
            let (row, column) = self.element(thread, i);
            let c = |e: usize| c[row * self.n + column + e];
            match (self.a.integer(), self.half) {
                (true, _) => c(0) as i32 as u32,
                (_, true) => [0, 1].map(|e| u32::from(f16::from_f64(c(e) as f64).to_bits()) << (16 * e)).iter().sum(),
                _ => (c(0) as f32).to_bits(),
            }
        };
        let accumulators: Vec<u8> =
            (0..128).flat_map(|t| (0..n).flat_map(move |i| word(t, i).to_le_bytes()).collect::<Vec<u8>>()).collect();
        let vm = Vm::new(config);
        let place = |bytes: &[u8]| {
            let at = vm.alloc(bytes.len()).unwrap();
            vm.write(at, bytes).unwrap();
            at
        };
        let (image, cd, fragments) = (place(&image), place(&accumulators), place(&fragments));
        let params = [image, cd, fragments, descriptors[0], descriptors[1]].map(u64::to_le_bytes).concat();
        let params = [params, [(SHARED / 4) as u32, self.keep.into()].map(u32::to_le_bytes).concat()].concat();
        let stats = vm.launch(&kernel, &Launch::new([1, 1, 1], [128, 1, 1]), &params)?;
        let mut out = vec![0; accumulators.len()];
        vm.read_anyway(cd, &mut out).unwrap();
        Ok((out.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect(), stats))
    }

    /// What the registers of D must hold.
    pub(crate) fn expected(&self) -> Vec<u32> {
        let [a, b, c] = self.values();
        let k = self.k();
        let sign = if self.negate[0] != self.negate[1] { -1 } else { 1 };
        let sum = |row: usize, column: usize| {
            let products: i64 = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
            sign * products + if self.keep { c[row * self.n + column] } else { 0 }
        };
        let register = |thread: usize, i: usize| {
            let (row, column) = self.element(thread, i);
            let x = sum(row, column);
            match (self.a.integer(), self.half) {
                (true, _) if self.satfinite => x.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32,
                (true, _) => x as i32 as u32,
                (_, true) => {
                    let half = |x: i64| u32::from(f16::from_f64(x as f64).to_bits());
                    half(x) | half(sum(row, column + 1)) << 16
                }
                _ => (x as f32).to_bits(),
            }
        };
        let n = self.registers();
        (0..128).flat_map(|t| (0..n).map(move |i| (t, i))).map(|(t, i)| register(t, i)).collect()
    }

    /// The correct kernel computes what it must.
    pub(crate) fn check(&self, config: VmConfig) {
        let (got, _) = self.run(&self.kernel(&self.body()), config).unwrap_or_else(|fault| panic!("{self:?}: {fault}"));
        let want = self.expected();
        let wrong = (0..want.len()).filter(|i| got[*i] != want[*i] && !(self.zero(got[*i]) && self.zero(want[*i])));
        let wrong: Vec<usize> = wrong.collect();
        assert!(
            wrong.is_empty(),
            "{self:?}: {} of {} registers differ; [{}] {:#x} instead of {:#x}",
            wrong.len(),
            want.len(),
            wrong[0],
            got[wrong[0]],
            want[wrong[0]]
        );
    }

    /// Whether a register holds nothing but zeros, of either sign.
    fn zero(&self, word: u32) -> bool {
        !self.a.integer() && word & if self.half { 0x7fff_7fff } else { 0x7fff_ffff } == 0
    }
}

/// Bytes of shared memory, and where A and B lie.
pub(crate) const SHARED: usize = 46 << 10;
const AT_A: usize = 0;
const AT_B: usize = 14 << 10;
