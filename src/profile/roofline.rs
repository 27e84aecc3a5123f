//! A model of time: each launch takes the longer of its arithmetic and its memory traffic, at a stated share of the chip's peaks.
//!
//! `t = max(flops / (peak · share), bytes / (bandwidth · share)) + launch overhead`, summed over successive launches on one stream. The
//! work comes from the launches themselves, the peaks from [`chips`](crate::chips); the shares are inputs with a stated origin. Nothing
//! here is measured: output must label these times as modelled.

use serde::Serialize;

use super::{Family, TallyEntry};
use crate::chips::{Chip, FP8_RATE};

/// A share of a peak, and its origin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// 0 to 1.
    pub value: f64,
    /// Why this value.
    pub origin: String,
}

/// A share of a peak that no kernel can have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name}={value}: a share is above 0 and at most {most}, what kernels can reach of {peak} of {gpu}")]
pub struct ShareError {
    name: &'static str,
    value: f64,
    most: f64,
    peak: &'static str,
    gpu: &'static str,
}

/// The model's assumptions about the kernels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Efficiency {
    /// Share of the tensor peak that matrix products reach.
    pub linear: Share,
    /// Share of the tensor peak that matrix products by `wgmma` reach (large ones on Hopper).
    pub wgmma: Share,
    /// Share of the tensor peak of 8-bit floats that matrix products of e4m3 by `wgmma` reach (`--fp8-weights` on Hopper).
    pub wgmma_fp8: Share,
    /// Share of the tensor peak that attention reaches.
    pub attention: Share,
    /// Share of the tensor peak that attention by `wgmma` reaches (heads of 128 on Hopper).
    pub wgmma_attention: Share,
    /// The same for heads of 72.
    pub wgmma_attention_72: Share,
    /// Share of the memory bandwidth that every kernel reaches.
    pub memory: Share,
    /// Seconds from the end of one kernel to the start of the next.
    pub launch_seconds: f64,
}

impl Efficiency {
    /// The assumptions for `chip`. Tensor cores: a share of the peak of `mma.sync`, the kernels' instruction, on that chip. These are not
    /// measurements; microbenchmarks on a GPU would replace them.
    pub fn assumed(chip: &Chip) -> Self {
        let tensor = |share: f64, what: &str| {
            let most = chip.sm.mma_share;
            let mut origin = format!("assumed, not measured: {what}");
            if most < 1.0 {
                origin =
                    format!("{share:.2} of the {most:.2} that mma.sync reaches on this GPU; {share:.2} is {origin}");
            }
            Share { value: share * most, origin }
        };
        let attention = "fused attention at head_dim 72 (64 to 128 are known to reach 50 to 70 % on an A100)";
        Efficiency {
            linear: tensor(0.70, "mma.sync matrix products of these sizes are known to reach 60 to 85 %"),
            wgmma: Share {
                value: 0.70,
                origin: "assumed, not measured: wgmma matrix products of these sizes are known to reach 60 to 80 %"
                    .into(),
            },
            wgmma_fp8: Share {
                value: 0.60,
                origin: "assumed, not measured: products of e4m3 (DeepGEMM, cuBLAS) are known to reach 55 to 75 % of the peak of 8 bits at these sizes"
                    .into(),
            },
            attention: tensor(0.50, attention),
            wgmma_attention: Share {
                value: 0.60,
                origin: "assumed, not measured: FlashAttention-3 is known to reach 60 to 75 % at head_dim 128".into(),
            },
            wgmma_attention_72: Share {
                value: 0.45,
                origin: "assumed, not measured: FlashAttention-3 is known to reach 40 to 50 % at head_dim 64".into(),
            },
            memory: Share {
                value: 0.85,
                origin: "assumed, not measured: streaming kernels are known to reach 80 to 92 %".into(),
            },
            launch_seconds: 1.5e-6,
        }
    }

    /// Checks that `chip` could be this fast.
    ///
    /// # Errors
    /// A share that is not above 0, or above what `mma.sync` reaches of the tensor peak, or above 1 of the bandwidth or, by `wgmma`, of the tensor
    /// peak.
    pub fn check(&self, chip: &Chip) -> Result<(), ShareError> {
        let tensor = chip.sm.mma_share;
        for (name, share, most) in [
            ("linear", &self.linear, tensor),
            ("wgmma", &self.wgmma, 1.0),
            ("wgmma_fp8", &self.wgmma_fp8, 1.0),
            ("attention", &self.attention, tensor),
            ("wgmma_attention", &self.wgmma_attention, 1.0),
            ("wgmma_attention_72", &self.wgmma_attention_72, 1.0),
            ("memory", &self.memory, 1.0),
        ] {
            if !(share.value > 0.0 && share.value <= most) {
                let peak = match name {
                    "memory" => "the bandwidth",
                    "wgmma" | "wgmma_attention" | "wgmma_attention_72" => "the tensor peak",
                    "wgmma_fp8" => "the tensor peak of 8 bits",
                    _ => "the tensor peak by mma.sync",
                };
                return Err(ShareError { name, value: share.value, most, peak, gpu: chip.name });
            }
        }
        Ok(())
    }

    /// Everything at its peak and launches for free: the roofline itself.
    pub fn ideal() -> Self {
        let all = || Share { value: 1.0, origin: "the peak".into() };
        Efficiency {
            linear: all(),
            wgmma: all(),
            wgmma_fp8: all(),
            attention: all(),
            wgmma_attention: all(),
            wgmma_attention_72: all(),
            memory: all(),
            launch_seconds: 0.0,
        }
    }

    /// Modelled seconds of `entry`'s launches.
    pub fn seconds(&self, chip: &Chip, entry: &TallyEntry) -> f64 {
        let hopper = |wgmma: &Share, other: &Share| {
            if entry.kernel.ends_with("_wgmma") { wgmma.value } else { other.value }
        };
        let wgmma_attention =
            if entry.kernel.starts_with("attention_72") { &self.wgmma_attention_72 } else { &self.wgmma_attention };
        let arithmetic = match Family::of(&entry.kernel) {
            Family::Linear if entry.kernel.starts_with("linear_fp8") => {
                entry.work.flops as f64 / (FP8_RATE * chip.tensor_flops * self.wgmma_fp8.value)
            }
            Family::Linear => entry.work.flops as f64 / (chip.tensor_flops * hopper(&self.wgmma, &self.linear)),
            Family::Attention => {
                entry.work.flops as f64 / (chip.tensor_flops * hopper(wgmma_attention, &self.attention))
            }
            // A few rows on ordinary cores: the weights' traffic is what counts.
            Family::Memory => 0.0,
        };
        let traffic = entry.work.bytes() as f64 / (chip.bandwidth * self.memory.value);
        entry.launches as f64 * (arithmetic.max(traffic) + self.launch_seconds)
    }
}

/// The modelled cost of a number of launches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Launches and memory operations.
    pub launches: u64,
    /// Operations of their matrix products.
    pub flops: u64,
    /// Minimum bytes they move.
    pub bytes: u64,
    /// Modelled seconds.
    pub modelled_seconds: f64,
    /// Seconds if every launch reached the chip's peaks: no kernel can be faster.
    pub roofline_seconds: f64,
    /// The cost by family.
    pub families: Vec<FamilyCost>,
}

/// One family's part of a [`Cost`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FamilyCost {
    /// The family.
    pub family: Family,
    /// Launches.
    pub launches: u64,
    /// Operations of matrix products.
    pub flops: u64,
    /// Minimum bytes moved.
    pub bytes: u64,
    /// Modelled seconds.
    pub modelled_seconds: f64,
}

impl Cost {
    /// Operations of attention's matrix products.
    pub fn attention_flops(&self) -> u64 {
        self.families.iter().filter(|part| part.family == Family::Attention).map(|part| part.flops).sum()
    }

    /// Adds up `entries` on `chip`.
    pub fn new(chip: &Chip, efficiency: &Efficiency, entries: &[TallyEntry]) -> Cost {
        let ideal = Efficiency::ideal();
        let families = Family::ALL.map(|family| {
            let mut cost = FamilyCost { family, launches: 0, flops: 0, bytes: 0, modelled_seconds: 0.0 };
            for entry in entries.iter().filter(|e| Family::of(&e.kernel) == family) {
                cost.launches += entry.launches;
                cost.flops += entry.launches * entry.work.flops;
                cost.bytes += entry.launches * entry.work.bytes();
                cost.modelled_seconds += efficiency.seconds(chip, entry);
            }
            cost
        });
        Cost {
            launches: families.iter().map(|f| f.launches).sum(),
            flops: families.iter().map(|f| f.flops).sum(),
            bytes: families.iter().map(|f| f.bytes).sum(),
            modelled_seconds: families.iter().map(|f| f.modelled_seconds).sum(),
            roofline_seconds: entries.iter().map(|e| ideal.seconds(chip, e)).sum(),
            families: families.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips::CHIPS;
    use crate::device::Work;

    fn entry(kernel: &str, flops: u64, bytes_read: u64, launches: u64) -> TallyEntry {
        TallyEntry { kernel: kernel.into(), work: Work { flops, bytes_read, bytes_written: 0 }, launches }
    }

    #[test]
    fn a_launch_takes_the_longer_of_arithmetic_and_traffic() {
        let chip = Chip::named("a100").unwrap();
        let ideal = Efficiency::ideal();
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        close(ideal.seconds(chip, &entry("linear_bias_bf16_128", 312_000_000_000, 2_039, 1)), 1e-3);
        close(ideal.seconds(chip, &entry("conv_bf16_128", 312_000_000_000, 2_039, 1)), 1e-3);
        close(ideal.seconds(chip, &entry("linear_bias_bf16_128", 312, 2_039_000_000, 1)), 1e-3);
        close(ideal.seconds(chip, &entry("row_stats_bf16", 0, 2_039_000_000, 3)), 3e-3);
        // Small products on ordinary cores count by their traffic.
        close(ideal.seconds(chip, &entry("small_linear_bf16", u64::MAX, 2_039_000, 1)), 1e-6);
        let mut slow = Efficiency::assumed(chip);
        (slow.attention.value, slow.launch_seconds) = (0.5, 1e-6);
        close(slow.seconds(chip, &entry("attention_72_bf16_64", 312_000_000_000, 1, 2)), 2.0 * (2e-3 + 1e-6));
    }

    #[test]
    fn families_add_up() {
        let chip = Chip::named("h100").unwrap();
        let entries = [entry("linear_x", 100, 7, 2), entry("attention_x", 50, 5, 3), entry("copy", 0, 11, 1)];
        let cost = Cost::new(chip, &Efficiency::assumed(chip), &entries);
        assert_eq!((cost.launches, cost.flops, cost.bytes), (6, 350, 14 + 15 + 11));
        assert!(cost.roofline_seconds < cost.modelled_seconds);
    }

    #[test]
    fn products_by_wgmma_have_a_share_of_their_own() {
        let chip = Chip::named("h100").unwrap();
        let mut efficiency = Efficiency::assumed(chip);
        efficiency.launch_seconds = 0.0;
        let seconds = |kernel: &str| efficiency.seconds(chip, &entry(kernel, 1 << 40, 1, 1));
        let ratio = seconds("linear_bias_bf16_256") / seconds("linear_bias_bf16_wgmma");
        assert!((ratio - efficiency.wgmma.value / efficiency.linear.value).abs() < 1e-9 && ratio > 1.5, "{ratio}");
        let heads = seconds("attention_72_bf16_wgmma") / seconds("attention_128_bf16_wgmma");
        assert!(
            (heads - efficiency.wgmma_attention.value / efficiency.wgmma_attention_72.value).abs() < 1e-9,
            "{heads}"
        );
        // Tensor cores multiply 8 bits twice as fast.
        let ratio = seconds("linear_bias_bf16_wgmma") / seconds("linear_fp8_bias_bf16_wgmma");
        assert!((ratio - 2.0 * efficiency.wgmma_fp8.value / efficiency.wgmma.value).abs() < 1e-9, "{ratio}");
        efficiency.wgmma.value = 1.01;
        assert!(efficiency.check(chip).unwrap_err().to_string().contains("at most 1"));
    }

    /// The assumed efficiency is below the ceiling of `mma.sync` stated in `docs/kernel-model.md`, and its origin says so.
    #[test]
    fn no_chip_is_modelled_faster_than_mma_sync_allows() {
        for chip in CHIPS {
            let assumed = Efficiency::assumed(chip);
            assumed.check(chip).unwrap();
            for share in [&assumed.linear, &assumed.attention] {
                assert!(share.value < chip.sm.mma_share && share.origin.contains("assumed, not measured"), "{share:?}");
                assert_eq!(share.origin.contains("mma.sync reaches on this GPU"), chip.sm.mma_share < 1.0, "{share:?}");
            }
            let share = |value| Share { value, origin: String::new() };
            let most = chip.sm.mma_share;
            Efficiency { linear: share(most), attention: share(most), ..assumed.clone() }.check(chip).unwrap();
            for value in [0.0, most + 0.01, f64::NAN] {
                for efficiency in [
                    Efficiency { linear: share(value), ..assumed.clone() },
                    Efficiency { attention: share(value), ..assumed.clone() },
                ] {
                    let error = efficiency.check(chip).unwrap_err().to_string();
                    assert!(error.contains(chip.name) && error.contains(&format!("at most {most}")), "{error}");
                }
            }
            assert!(Efficiency { memory: share(1.01), ..assumed }.check(chip).is_err());
        }
        let a100 = Efficiency::assumed(Chip::named("a100").unwrap());
        assert_eq!((a100.linear.value, a100.attention.value), (0.70, 0.50));
    }
}
