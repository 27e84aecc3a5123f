//! The chips: one product for each target, with the constants of the model. Sources: `docs/kernel-model.md`.

use serde::Serialize;

/// A GPU as the model sees it. Rates are for one multiprocessor and clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Arch {
    /// Compilation target.
    pub target: &'static str,
    /// Product.
    pub product: &'static str,
    /// Multiprocessors.
    pub units: usize,
    /// Boost clock in GHz.
    pub clock_ghz: f64,
    /// 16-bit multiply-adds with f32 sums by `mma.sync`.
    pub half_fma: f64,
    /// The same by the fastest instruction there is.
    pub half_fma_peak: f64,
    /// TF32 multiply-adds by `mma.sync`.
    pub tf32_fma: f64,
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
    /// Device memory, GB/s.
    pub dram_gbs: f64,
    /// Shared memory of a multiprocessor.
    pub unit_shared: usize,
    /// Shared memory of a block.
    pub block_shared: usize,
    /// Resident warps.
    pub warps: usize,
    /// Resident blocks.
    pub blocks: usize,
}

impl Arch {
    /// By target name.
    pub fn of(target: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|arch| arch.target == target)
    }

    /// 16-bit tensor peak of the product, FLOP/s.
    pub fn peak(&self) -> f64 {
        2.0 * self.half_fma_peak * self.units as f64 * self.clock_ghz * 1e9
    }

    /// What chooses kernels for this chip.
    pub fn kernel_target(&self) -> crate::ops::Target {
        let version: u32 = self.target.trim_start_matches("sm_").parse().unwrap_or(80);
        crate::ops::Target::new(self.units, (version / 10, version % 10))
    }
}

/// Every target that ptx/manifest.json has figures for.
pub const ARCHS: [Arch; 6] = [
    Arch {
        target: "sm_80",
        product: "A100 SXM 80 GB",
        units: 108,
        clock_ghz: 1.41,
        half_fma: 1024.0,
        half_fma_peak: 1024.0,
        tf32_fma: 512.0,
        fma_lanes: 64.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 5120.0 / 108.0,
        dram_gbs: 2039.0,
        unit_shared: 164 << 10,
        block_shared: 163 << 10,
        warps: 64,
        blocks: 32,
    },
    Arch {
        target: "sm_86",
        product: "A40",
        units: 84,
        clock_ghz: 1.74,
        half_fma: 512.0,
        half_fma_peak: 512.0,
        tf32_fma: 256.0,
        fma_lanes: 128.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 32.0,
        dram_gbs: 696.0,
        unit_shared: 100 << 10,
        block_shared: 99 << 10,
        warps: 48,
        blocks: 16,
    },
    Arch {
        target: "sm_89",
        product: "L40S",
        units: 142,
        clock_ghz: 2.52,
        half_fma: 512.0,
        half_fma_peak: 512.0,
        tf32_fma: 256.0,
        fma_lanes: 128.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 32.0,
        dram_gbs: 864.0,
        unit_shared: 100 << 10,
        block_shared: 99 << 10,
        warps: 48,
        blocks: 24,
    },
    Arch {
        target: "sm_90",
        product: "H100 SXM",
        units: 132,
        clock_ghz: 1.83,
        half_fma: 0.63 * 2048.0,
        half_fma_peak: 2048.0,
        tf32_fma: 0.63 * 1024.0,
        fma_lanes: 128.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 5120.0 / 132.0,
        dram_gbs: 3352.0,
        unit_shared: 228 << 10,
        block_shared: 227 << 10,
        warps: 64,
        blocks: 32,
    },
    Arch {
        target: "sm_100",
        product: "B200",
        units: 148,
        clock_ghz: 1.85,
        half_fma: 1024.0,
        half_fma_peak: 4096.0,
        tf32_fma: 512.0,
        fma_lanes: 128.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 5120.0 / 148.0,
        dram_gbs: 8000.0,
        unit_shared: 228 << 10,
        block_shared: 227 << 10,
        warps: 64,
        blocks: 32,
    },
    Arch {
        target: "sm_120",
        product: "RTX PRO 6000 Blackwell",
        units: 188,
        clock_ghz: 2.617,
        half_fma: 512.0,
        half_fma_peak: 512.0,
        tf32_fma: 256.0,
        fma_lanes: 128.0,
        alu_lanes: 64.0,
        mufu_lanes: 16.0,
        issue: 4.0,
        shared_bytes: 128.0,
        l2_bytes: 32.0,
        dram_gbs: 1792.0,
        unit_shared: 100 << 10,
        block_shared: 99 << 10,
        warps: 48,
        blocks: 24,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Gpu;

    /// `adacache plan` has the data sheets, this model its own constants: they must not drift apart.
    #[test]
    fn the_chips_are_those_of_the_data_sheets() {
        for (target, id) in [("sm_80", "a100"), ("sm_89", "l40s"), ("sm_90", "h100")] {
            let (arch, gpu) = (Arch::of(target).unwrap(), Gpu::named(id).unwrap());
            assert_eq!((arch.units, arch.dram_gbs * 1e9), (gpu.units, gpu.bandwidth), "{id}");
            // Clocks are rounded, and the sheets' peaks too.
            assert!(
                (arch.peak() / gpu.tensor_flops - 1.0).abs() < 0.02,
                "{id}: {:e} {:e}",
                arch.peak(),
                gpu.tensor_flops
            );
        }
    }
}
