//! A model of time: each launch takes the longer of its arithmetic and its memory traffic, at a stated share of the chip's peaks.
//!
//! `t = max(flops / (peak · share), bytes / (bandwidth · share)) + launch overhead`, summed over launches that follow one another on
//! one stream. The work comes from the launches themselves, the peaks from NVIDIA's data sheets, the shares are inputs that carry
//! their origin. Nothing here is measured: whoever prints a figure calls it modelled.

use serde::Serialize;

use super::{Family, TallyEntry};
use crate::device::{DeviceInfo, DeviceKind};

/// A GPU as its data sheet describes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gpu {
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
    /// Compute capability.
    pub compute_capability: (u32, u32),
    /// Where the figures are from.
    pub source: &'static str,
    /// Words that the driver's name for it has.
    #[serde(skip)]
    words: &'static [&'static str],
}

const fn gpu(
    (id, name, words): (&'static str, &'static str, &'static [&'static str]),
    (teraflops, gigabytes_per_second, gigabytes): (f64, f64, u64),
    units: usize,
    compute_capability: (u32, u32),
    source: &'static str,
) -> Gpu {
    let (tensor_flops, bandwidth) = (teraflops * 1e12, gigabytes_per_second * 1e9);
    Gpu { id, name, tensor_flops, bandwidth, memory: gigabytes << 30, units, compute_capability, source, words }
}

const H100_SHEET: &str = "NVIDIA H100 data sheet (half of the sparse figure)";

/// The GPUs known by name. Peaks are the dense ones, at the boost clock that the data sheet assumes.
#[rustfmt::skip]
pub const GPUS: &[Gpu] = &[
    gpu(("a100", "A100 SXM 80 GB", &["A100", "80GB"]), (312.0, 2039.0, 80), 108, (8, 0), "NVIDIA A100 data sheet"),
    gpu(("a100-40gb", "A100 40 GB", &["A100", "40GB"]), (312.0, 1555.0, 40), 108, (8, 0), "NVIDIA A100 data sheet"),
    gpu(("h100", "H100 SXM 80 GB", &["H100"]), (989.4, 3352.0, 80), 132, (9, 0), H100_SHEET),
    gpu(("h100-pcie", "H100 PCIe 80 GB", &["H100", "PCIe"]), (756.5, 2039.0, 80), 114, (9, 0), H100_SHEET),
    gpu(("h200", "H200 SXM 141 GB", &["H200"]), (989.4, 4800.0, 141), 132, (9, 0), "NVIDIA H200 data sheet (half of the sparse figure)"),
    gpu(("a10", "A10", &["A10"]), (125.0, 600.0, 24), 72, (8, 6), "NVIDIA A10 data sheet"),
    gpu(("l4", "L4", &["L4"]), (121.0, 300.0, 24), 58, (8, 9), "NVIDIA L4 data sheet (half of the sparse figure)"),
    gpu(("l40s", "L40S", &["L40S"]), (362.0, 864.0, 48), 142, (8, 9), "NVIDIA L40S data sheet"),
    gpu(("rtx3090", "GeForce RTX 3090", &["RTX", "3090"]), (71.0, 936.0, 24), 82, (8, 6), "NVIDIA Ampere GA102 white paper"),
    gpu(("rtx4090", "GeForce RTX 4090", &["RTX", "4090"]), (165.2, 1008.0, 24), 128, (8, 9), "NVIDIA Ada white paper"),
];

impl Gpu {
    /// The GPU of this name in options.
    pub fn named(id: &str) -> Option<&'static Gpu> {
        GPUS.iter().find(|gpu| gpu.id == id)
    }

    /// The GPU that a device is, if it is one of [`GPUS`].
    pub fn of_device(device: &DeviceInfo) -> Option<&'static Gpu> {
        let words: Vec<&str> = device.name.split([' ', '-']).collect();
        let fits = |gpu: &&Gpu| device.kind == DeviceKind::Cuda && gpu.words.iter().all(|word| words.contains(word));
        // The name with most words in common is the most particular one.
        GPUS.iter().filter(fits).max_by_key(|gpu| gpu.words.len())
    }
}

/// A share of a peak, and where the figure comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// 0 to 1.
    pub value: f64,
    /// Why this value.
    pub origin: String,
}

/// What the model takes for granted about the kernels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Efficiency {
    /// Share of the tensor peak that matrix products reach.
    pub linear: Share,
    /// Share of the tensor peak that attention reaches.
    pub attention: Share,
    /// Share of the memory bandwidth that every kernel reaches.
    pub memory: Share,
    /// Seconds from the end of one kernel to the start of the next.
    pub launch_seconds: f64,
}

impl Default for Efficiency {
    /// Assumptions, not measurements: they stand until somebody runs the microbenchmarks on a GPU.
    fn default() -> Self {
        let assumed = |value, what: &str| Share { value, origin: format!("assumed, not measured: {what}") };
        Efficiency {
            linear: assumed(0.70, "mma.sync matrix products of these sizes are known to reach 60 to 85 %"),
            attention: assumed(
                0.50,
                "fused attention at head_dim 72 (64 to 128 are known to reach 50 to 70 % on an A100)",
            ),
            memory: assumed(0.85, "streaming kernels are known to reach 80 to 92 %"),
            launch_seconds: 1.5e-6,
        }
    }
}

impl Efficiency {
    /// Everything at its peak and launches for free: the roofline itself.
    pub fn ideal() -> Self {
        let all = || Share { value: 1.0, origin: "the peak".into() };
        Efficiency { linear: all(), attention: all(), memory: all(), launch_seconds: 0.0 }
    }

    /// Seconds that `entry`'s launches take in the model.
    pub fn seconds(&self, gpu: &Gpu, entry: &TallyEntry) -> f64 {
        let arithmetic = match Family::of(&entry.kernel) {
            Family::Linear => entry.work.flops as f64 / (gpu.tensor_flops * self.linear.value),
            Family::Attention => entry.work.flops as f64 / (gpu.tensor_flops * self.attention.value),
            // A few rows on ordinary cores: the weights' traffic is what counts.
            Family::Memory => 0.0,
        };
        let traffic = entry.work.bytes() as f64 / (gpu.bandwidth * self.memory.value);
        entry.launches as f64 * (arithmetic.max(traffic) + self.launch_seconds)
    }
}

/// What a number of launches cost in the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Launches and memory operations.
    pub launches: u64,
    /// Operations of their matrix products.
    pub flops: u64,
    /// Bytes they move at least.
    pub bytes: u64,
    /// Modelled seconds.
    pub modelled_seconds: f64,
    /// Seconds if every launch reached the chip's peaks: no kernel can be faster.
    pub roofline_seconds: f64,
    /// The same by family.
    pub families: Vec<FamilyCost>,
}

/// One family's part of a [`Cost`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FamilyCost {
    /// Which.
    pub family: Family,
    /// Launches.
    pub launches: u64,
    /// Operations of matrix products.
    pub flops: u64,
    /// Bytes moved at least.
    pub bytes: u64,
    /// Modelled seconds.
    pub modelled_seconds: f64,
}

impl Cost {
    /// Adds up `entries` on `gpu`.
    pub fn new(gpu: &Gpu, efficiency: &Efficiency, entries: &[TallyEntry]) -> Cost {
        let ideal = Efficiency::ideal();
        let families = Family::ALL.map(|family| {
            let mut cost = FamilyCost { family, launches: 0, flops: 0, bytes: 0, modelled_seconds: 0.0 };
            for entry in entries.iter().filter(|e| Family::of(&e.kernel) == family) {
                cost.launches += entry.launches;
                cost.flops += entry.launches * entry.work.flops;
                cost.bytes += entry.launches * entry.work.bytes();
                cost.modelled_seconds += efficiency.seconds(gpu, entry);
            }
            cost
        });
        Cost {
            launches: families.iter().map(|f| f.launches).sum(),
            flops: families.iter().map(|f| f.flops).sum(),
            bytes: families.iter().map(|f| f.bytes).sum(),
            modelled_seconds: families.iter().map(|f| f.modelled_seconds).sum(),
            roofline_seconds: entries.iter().map(|e| ideal.seconds(gpu, e)).sum(),
            families: families.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Work;

    fn entry(kernel: &str, flops: u64, bytes_read: u64, launches: u64) -> TallyEntry {
        TallyEntry { kernel: kernel.into(), work: Work { flops, bytes_read, bytes_written: 0 }, launches }
    }

    #[test]
    fn a_launch_takes_the_longer_of_arithmetic_and_traffic() {
        let gpu = Gpu::named("a100").unwrap();
        let ideal = Efficiency::ideal();
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        close(ideal.seconds(gpu, &entry("linear_bias_bf16_128", 312_000_000_000, 2_039, 1)), 1e-3);
        close(ideal.seconds(gpu, &entry("linear_bias_bf16_128", 312, 2_039_000_000, 1)), 1e-3);
        close(ideal.seconds(gpu, &entry("row_stats_bf16", 0, 2_039_000_000, 3)), 3e-3);
        // Small products on ordinary cores count by their traffic.
        close(ideal.seconds(gpu, &entry("small_linear_bf16", u64::MAX, 2_039_000, 1)), 1e-6);
        let mut slow = Efficiency::default();
        (slow.attention.value, slow.launch_seconds) = (0.5, 1e-6);
        close(slow.seconds(gpu, &entry("attention_72_bf16_64", 312_000_000_000, 1, 2)), 2.0 * (2e-3 + 1e-6));
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
            Gpu::of_device(&info).map(|gpu| gpu.id)
        };
        for (name, id) in [
            ("NVIDIA A100-SXM4-80GB", "a100"),
            ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA H100 PCIe", "h100-pcie"),
            ("NVIDIA A10", "a10"),
            ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ] {
            assert_eq!(named(name, DeviceKind::Cuda), Some(id), "{name}");
        }
        assert_eq!(named("NVIDIA GeForce GTX 1080", DeviceKind::Cuda), None);
        assert_eq!(named("NVIDIA A10", DeviceKind::Vm), None);
    }

    #[test]
    fn families_add_up() {
        let gpu = Gpu::named("h100").unwrap();
        let entries = [entry("linear_x", 100, 7, 2), entry("attention_x", 50, 5, 3), entry("copy", 0, 11, 1)];
        let cost = Cost::new(gpu, &Efficiency::default(), &entries);
        assert_eq!((cost.launches, cost.flops, cost.bytes), (6, 350, 14 + 15 + 11));
        assert!(cost.roofline_seconds < cost.modelled_seconds);
    }
}
