//! All GPUs with known figures, in one table: `ops` chooses kernels by it, `plan` estimates launches, `bench` rates times and `evidence`
//! bounds main loops. Sources and assumptions: `docs/kernel-model.md`.

use serde::Serialize;

use crate::device::{DeviceInfo, DeviceKind};

/// How much faster tensor cores multiply 8-bit floats than 16-bit ones, where there are products of them here: on Hopper.
pub const FP8_RATE: f64 = 2.0;

/// The rates and capacities of a multiprocessor. Rates are per clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Multiprocessor {
    /// Compilation target, as in `ptx/manifest.json`.
    pub target: &'static str,
    /// Compute capability.
    pub compute_capability: (u32, u32),
    /// 16-bit multiply-adds with f32 sums by the fastest tensor instruction.
    pub half_fma_peak: f64,
    /// The largest share of that peak that `mma.sync`, the instruction of all kernels here, can reach.
    pub mma_share: f64,
    /// f32 lanes.
    pub fma_lanes: f64,
    /// Integer and logic lanes.
    pub alu_lanes: f64,
    /// Special-function lanes.
    pub mufu_lanes: f64,
    /// Warp instructions issued.
    pub issue: f64,
    /// Bytes of shared memory.
    pub shared_bytes: f64,
    /// Bytes from L2.
    pub l2_bytes: f64,
    /// Bytes of L2 of the smallest chip with such multiprocessors.
    pub l2: usize,
    /// Bytes of shared memory per multiprocessor.
    pub unit_shared: usize,
    /// Maximum bytes of shared memory per block.
    pub block_shared: usize,
    /// Resident warps.
    pub warps: usize,
    /// Resident blocks.
    pub blocks: usize,
}

impl Multiprocessor {
    /// The multiprocessor of a compute capability; for an unknown one, the most conservative.
    pub const fn of(compute_capability: (u32, u32)) -> Multiprocessor {
        match compute_capability {
            (8, 0) => SM_80,
            (8, 7) => SM_87,
            (8, 9) => SM_89,
            (9, _) => SM_90,
            (10 | 11, _) => SM_100,
            (12.., _) => SM_120,
            _ => SM_86,
        }
    }

    /// 16-bit multiply-adds with f32 sums by `mma.sync`.
    pub const fn half_fma(&self) -> f64 {
        self.half_fma_peak * self.mma_share
    }
}

const SM_80: Multiprocessor = Multiprocessor {
    target: "sm_80",
    compute_capability: (8, 0),
    half_fma_peak: 1024.0,
    mma_share: 1.0,
    fma_lanes: 64.0,
    alu_lanes: 64.0,
    mufu_lanes: 16.0,
    issue: 4.0,
    shared_bytes: 128.0,
    l2_bytes: 5120.0 / 108.0,
    l2: 40 << 20,
    unit_shared: 164 << 10,
    block_shared: 163 << 10,
    warps: 64,
    blocks: 32,
};

const SM_86: Multiprocessor = Multiprocessor {
    target: "sm_86",
    compute_capability: (8, 6),
    half_fma_peak: 512.0,
    fma_lanes: 128.0,
    l2_bytes: 32.0,
    l2: 2 << 20,
    unit_shared: 100 << 10,
    block_shared: 99 << 10,
    warps: 48,
    blocks: 16,
    ..SM_80
};

/// Jetson Orin.
const SM_87: Multiprocessor = Multiprocessor {
    target: "sm_87",
    compute_capability: (8, 7),
    l2: 4 << 20,
    unit_shared: 164 << 10,
    block_shared: 163 << 10,
    ..SM_86
};

const SM_89: Multiprocessor =
    Multiprocessor { target: "sm_89", compute_capability: (8, 9), l2: 24 << 20, blocks: 24, ..SM_86 };

const SM_90: Multiprocessor = Multiprocessor {
    target: "sm_90",
    compute_capability: (9, 0),
    half_fma_peak: 2048.0,
    mma_share: 0.63,
    fma_lanes: 128.0,
    l2_bytes: 5120.0 / 132.0,
    l2: 50 << 20,
    unit_shared: 228 << 10,
    block_shared: 227 << 10,
    ..SM_80
};

const SM_100: Multiprocessor = Multiprocessor {
    target: "sm_100",
    compute_capability: (10, 0),
    half_fma_peak: 4096.0,
    mma_share: 0.25,
    l2_bytes: 5120.0 / 148.0,
    l2: 126 << 20,
    ..SM_90
};

const SM_120: Multiprocessor = Multiprocessor { target: "sm_120", compute_capability: (12, 0), ..SM_89 };

/// GeForce sums 16-bit products in f32 at half the rate.
const fn geforce(sm: Multiprocessor) -> Multiprocessor {
    Multiprocessor { half_fma_peak: sm.half_fma_peak / 2.0, ..sm }
}

/// A GPU as its data sheet describes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Chip {
    /// The name in options.
    pub id: &'static str,
    /// The product.
    pub name: &'static str,
    /// Dense tensor-core peak for bf16 and f16 with f32 sums, in FLOP/s.
    pub tensor_flops: f64,
    /// Peak memory bandwidth, in bytes per second.
    pub bandwidth: f64,
    /// Memory in bytes.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub units: usize,
    /// The clock at which the multiprocessors reach `tensor_flops`, in Hz: the boost clock.
    pub clock: f64,
    /// Its multiprocessor.
    #[serde(flatten)]
    pub sm: Multiprocessor,
    /// The source of the figures.
    pub source: &'static str,
    /// Words in the driver's name for it.
    #[serde(skip)]
    words: &'static [&'static str],
}

const fn chip(
    (id, name, words): (&'static str, &'static str, &'static [&'static str]),
    sm: Multiprocessor,
    units: usize,
    (teraflops, gigabytes_per_second, gigabytes): (f64, f64, u64),
    source: &'static str,
) -> Chip {
    let (tensor_flops, bandwidth) = (teraflops * 1e12, gigabytes_per_second * 1e9);
    let clock = tensor_flops / (2.0 * sm.half_fma_peak * units as f64);
    Chip { id, name, tensor_flops, bandwidth, memory: gigabytes << 30, units, clock, sm, source, words }
}

const A100_SHEET: &str = "NVIDIA A100 data sheet";
const H100_SHEET: &str = "NVIDIA H100 data sheet (half of the sparse figure)";
const H200_SHEET: &str = "NVIDIA H200 data sheet (half of the sparse figure)";

/// The GPUs known by name; the first of each compilation target represents it. Peaks are the dense ones.
#[rustfmt::skip]
pub const CHIPS: &[Chip] = &[
    chip(("a100", "A100 SXM 80 GB", &["A100", "80GB"]), SM_80, 108, (312.0, 2039.0, 80), A100_SHEET),
    chip(("a100-40gb", "A100 40 GB", &["A100", "40GB"]), SM_80, 108, (312.0, 1555.0, 40), A100_SHEET),
    chip(("a40", "A40", &["A40"]), SM_86, 84, (149.7, 696.0, 48), "NVIDIA A40 data sheet"),
    chip(("a10", "A10", &["A10"]), SM_86, 72, (125.0, 600.0, 24), "NVIDIA A10 data sheet"),
    chip(("rtx3090", "GeForce RTX 3090", &["RTX", "3090"]), geforce(SM_86), 82, (71.0, 936.0, 24), "NVIDIA Ampere GA102 white paper"),
    chip(("l40s", "L40S", &["L40S"]), SM_89, 142, (362.0, 864.0, 48), "NVIDIA L40S data sheet"),
    chip(("l4", "L4", &["L4"]), SM_89, 58, (121.0, 300.0, 24), "NVIDIA L4 data sheet (half of the sparse figure)"),
    chip(("rtx4090", "GeForce RTX 4090", &["RTX", "4090"]), geforce(SM_89), 128, (165.2, 1008.0, 24), "NVIDIA Ada white paper"),
    chip(("h100", "H100 SXM 80 GB", &["H100"]), SM_90, 132, (989.4, 3352.0, 80), H100_SHEET),
    chip(("h100-pcie", "H100 PCIe 80 GB", &["H100", "PCIe"]), SM_90, 114, (756.5, 2039.0, 80), H100_SHEET),
    chip(("h200", "H200 SXM 141 GB", &["H200"]), SM_90, 132, (989.4, 4800.0, 141), H200_SHEET),
    chip(("b200", "B200 SXM 180 GB", &["B200"]), SM_100, 148, (2250.0, 8000.0, 180), "NVIDIA B200 data sheet (half of the sparse figure)"),
    chip(("rtx-pro-6000", "RTX PRO 6000 Blackwell", &["RTX", "PRO", "6000"]), SM_120, 188, (503.8, 1792.0, 96), "NVIDIA RTX PRO 6000 Blackwell data sheet"),
];

impl Chip {
    /// The GPU with this name in options.
    pub fn named(id: &str) -> Option<&'static Chip> {
        CHIPS.iter().find(|chip| chip.id == id)
    }

    /// The GPU that represents a compilation target, such as `sm_90`.
    pub fn of_target(target: &str) -> Option<&'static Chip> {
        CHIPS.iter().find(|chip| chip.sm.target == target)
    }

    /// The chip of a device, if it is one of [`CHIPS`].
    pub fn of_device(device: &DeviceInfo) -> Option<&'static Chip> {
        let words: Vec<&str> = device.name.split([' ', '-']).collect();
        let fits = |chip: &&Chip| device.kind == DeviceKind::Cuda && chip.words.iter().all(|word| words.contains(word));
        // The name with most words in common is the most particular one.
        CHIPS.iter().filter(fits).max_by_key(|chip| chip.words.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data sheet's peak, its multiprocessors and their rate imply the boost clock, which reveals an error in any of the three. In GHz,
    /// as stated by NVIDIA.
    #[test]
    fn peaks_are_what_the_multiprocessors_make_at_the_boost_clock() {
        for (id, boost) in [
            ("a100", 1.410),
            ("a100-40gb", 1.410),
            ("a40", 1.740),
            ("a10", 1.695),
            ("rtx3090", 1.695),
            ("l40s", 2.520),
            ("l4", 2.040),
            ("rtx4090", 2.520),
            ("h100", 1.830),
            ("h100-pcie", 1.620),
            ("h200", 1.830),
            ("b200", 1.850),
            ("rtx-pro-6000", 2.617),
        ] {
            let clock = Chip::named(id).unwrap().clock / 1e9;
            assert!((clock / boost - 1.0).abs() < 0.015, "{id}: {clock} GHz");
        }
        assert_eq!(CHIPS.len(), 13);
    }

    /// The statements of docs/kernel-model.md about `mma.sync`, including when only the capability is known.
    #[test]
    fn mma_sync_reaches_the_peak_but_on_hopper_and_its_successor() {
        for chip in CHIPS {
            let share = match chip.sm.compute_capability.0 {
                9 => 0.63,
                10 => 0.25,
                _ => 1.0,
            };
            assert_eq!(chip.sm.half_fma() / chip.sm.half_fma_peak, share, "{}", chip.id);
            let generation = Multiprocessor::of(chip.sm.compute_capability);
            assert_eq!(generation.target, chip.sm.target);
            assert!(chip.sm.half_fma_peak <= generation.half_fma_peak);
        }
        assert_eq!(Multiprocessor::of((7, 5)), SM_86);
        assert_eq!(Multiprocessor::of((12, 1)), SM_120);
    }

    #[test]
    fn devices_are_known_by_the_drivers_names() {
        let named = |name: &str, kind| {
            let info = DeviceInfo {
                id: "cuda:0".into(),
                kind,
                name: name.into(),
                memory: 0,
                compute_capability: None,
                driver: None,
                units: 0,
                pci: None,
                unavailable: None,
            };
            Chip::of_device(&info).map(|chip| chip.id)
        };
        for (name, id) in [
            ("NVIDIA A100-SXM4-80GB", "a100"),
            ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA H100 PCIe", "h100-pcie"),
            ("NVIDIA H200", "h200"),
            ("NVIDIA A10", "a10"),
            ("NVIDIA GeForce RTX 4090", "rtx4090"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ] {
            assert_eq!(named(name, DeviceKind::Cuda), Some(id), "{name}");
        }
        assert_eq!(named("NVIDIA GeForce GTX 1080", DeviceKind::Cuda), None);
        assert_eq!(named("NVIDIA A10", DeviceKind::Vm), None);
    }
}
