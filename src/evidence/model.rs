//! The model: cycles by pipe, occupancy, and the resulting bounds. The equations are those of `docs/kernel-model.md`.

use super::workload::{Work, WorkKind};
use super::{Figures, MainLoop};
use crate::chips::{Chip, FP8_RATE};
use crate::ops::{conv, params};
use serde::Serialize;

/// A unit of a multiprocessor that does one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pipe {
    /// Tensor cores.
    Tensor,
    /// Shared memory, by bytes.
    Shared,
    /// Instruction issue.
    Issue,
    /// Floating-point multiply-add.
    Fma,
    /// Integer and logic.
    Alu,
    /// Special functions.
    Mufu,
    /// The path from L2.
    L2,
}

/// One pass of one block through a main loop, in cycles of an otherwise idle multiprocessor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bound {
    /// Cycles of every pipe.
    pub cycles: Vec<(Pipe, f64)>,
    /// Tensor cycles over those of the busiest pipe: the share of the tensor cores' time (with `mma.sync`) that the other pipes allow.
    pub fraction: f64,
    /// The same relative to the fastest tensor instruction of the chip.
    pub of_peak: f64,
}

impl Bound {
    /// The busiest pipe.
    pub fn limit(&self) -> Pipe {
        self.cycles.iter().fold(self.cycles[0], |most, pipe| if pipe.1 > most.1 { *pipe } else { most }).0
    }

    /// Cycles of the busiest pipe.
    pub fn total(&self) -> f64 {
        self.cycles.iter().map(|(_, cycles)| *cycles).fold(0.0, f64::max)
    }

    /// Cycles of one pipe.
    pub fn of(&self, pipe: Pipe) -> f64 {
        self.cycles.iter().find(|(p, _)| *p == pipe).map_or(0.0, |(_, cycles)| *cycles)
    }
}

impl MainLoop {
    /// All tensor instructions.
    pub fn tensor_instructions(&self) -> u64 {
        self.tensor.values().sum()
    }

    /// Cycles by pipe for a block of `threads` of the kernel `entry`: all of its warps run this loop, or those that multiply, while others copy for
    /// them by tensor maps.
    pub fn bound(&self, chip: &Chip, entry: &str, threads: usize) -> Bound {
        let roles = Roles::of(entry);
        let warps = roles.as_ref().map_or(threads / 32, |roles| roles.multiply) as f64;
        let copied = roles.as_ref().map_or(0, |roles| roles.bytes) as f64;
        // What both kinds of warps do together.
        let others = roles.as_ref().zip(self.copying.as_deref());
        let sum = |count: fn(&MainLoop) -> u64| {
            warps * count(self) as f64 + others.map_or(0.0, |(roles, body)| (roles.copy * count(body) as usize) as f64)
        };
        let lanes = |count, lanes: f64| sum(count) * 32.0 / lanes;
        let (mut tensor, mut at_peak) = (0.0, 0.0);
        for (name, &count) in &self.tensor {
            let (rate, peak, fma) = tensor_rate(chip, name);
            tensor += warps * count as f64 * fma / rate;
            at_peak += warps * count as f64 * fma / peak;
        }
        // Where a convolution shares rows, the copies of the input run in one of three passes, and not for all warps.
        let rows = conv::shared_row_bytes(entry);
        let global = copied + rows.unwrap_or_else(|| sum(|body| body.global_bytes));
        let shared = match rows {
            Some(bytes) => warps * (self.shared_bytes - 512 * self.ldgsts) as f64 + bytes,
            None => copied + sum(|body| body.shared_bytes),
        };
        let cycles = vec![
            (Pipe::Tensor, tensor),
            (Pipe::Shared, shared / chip.sm.shared_bytes),
            (Pipe::Issue, sum(|body| body.issue) / chip.sm.issue),
            (Pipe::Fma, lanes(|body| body.fma, chip.sm.fma_lanes)),
            (Pipe::Alu, lanes(|body| body.alu, chip.sm.alu_lanes)),
            (Pipe::Mufu, lanes(|body| body.mufu, chip.sm.mufu_lanes)),
            (Pipe::L2, global / chip.sm.l2_bytes),
        ];
        let most = cycles.iter().map(|(_, c)| *c).fold(f64::MIN_POSITIVE, f64::max);
        Bound { fraction: tensor / most, of_peak: at_peak / most, cycles }
    }
}

/// The roles of a block's warps, in the kernels for Hopper.
pub(super) struct Roles {
    /// Warps that multiply.
    multiply: usize,
    /// Warps that run the loop that copies: the one with the thread that copies, or all that do something to what was copied.
    copy: usize,
    /// What they copy for one pass of the main loop, in bytes.
    bytes: usize,
}

impl Roles {
    /// `None`: all warps do the same.
    pub(super) fn of(entry: &str) -> Option<Self> {
        let head_dim: Option<usize> =
            entry.strip_prefix("attention_").and_then(|rest| rest.split('_').next()?.parse().ok());
        if !entry.ends_with("_wgmma") {
            None
        } else if let Some(head_dim) = head_dim {
            let multiply = params::ATTENTION_WGMMA_THREADS / 32 - 4;
            // K and V.
            let bytes = 2 * params::ATTENTION_WGMMA_KEYS * 2 * head_dim;
            Some(Self { multiply, copy: if head_dim == 72 { 4 } else { 1 }, bytes })
        } else {
            let rows = params::LINEAR_WGMMA_M + params::LINEAR_WGMMA_N;
            let multiply = params::LINEAR_WGMMA_THREADS / 32 - 4;
            Some(Self { multiply, copy: 1, bytes: rows * params::LINEAR_WGMMA_K_BYTES })
        }
    }
}

/// Multiply-adds per clock with this instruction and with the fastest, and multiply-adds of the instruction per warp.
/// Names: HMMA.16816.F32.BF16 (m16 n8 k16), HMMA.1688.F32.TF32, HGMMA.64x128x16.F32.BF16 and QGMMA.64x192x32.F32.E4M3.E4M3 (of a warp group).
fn tensor_rate(chip: &Chip, name: &str) -> (f64, f64, f64) {
    // TF32 has half the rate on every chip, 8-bit floats have twice that of 16 bits.
    let rate = if name.contains("TF32") {
        0.5
    } else if name.starts_with("QGMMA") {
        FP8_RATE
    } else {
        1.0
    };
    let peak = chip.sm.half_fma_peak * rate;
    let mma = peak * chip.sm.mma_share;
    let shape = name.split('.').nth(1).unwrap_or_default();
    if let [m, n, k] = shape.split('x').filter_map(|x| x.parse().ok()).collect::<Vec<f64>>()[..] {
        return (peak, peak, m * n * k / 4.0);
    }
    let k = shape.strip_prefix("168").and_then(|k| k.parse::<f64>().ok()).unwrap_or(16.0);
    (mma, peak, 16.0 * 8.0 * k)
}

/// The number of blocks that a multiprocessor holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Blocks.
    pub blocks: usize,
    /// Warps.
    pub warps: usize,
}

impl Figures {
    /// Occupancy with `threads` per block and `dynamic` bytes of dynamic shared memory. Registers are allocated to warps in steps of 256;
    /// shared memory costs 1 KiB extra per block.
    pub fn occupancy(&self, chip: &Chip, threads: usize, dynamic: usize) -> Occupancy {
        let warps = threads.div_ceil(32);
        let registers = (self.registers as usize * 32).next_multiple_of(256) * warps.next_multiple_of(4);
        let by_registers = 65536 / registers.max(1);
        let by_shared = chip.sm.unit_shared / (self.shared as usize + dynamic + 1024);
        let blocks = by_registers.min(by_shared).min(chip.sm.warps / warps).min(chip.sm.blocks);
        Occupancy { blocks, warps: blocks * warps }
    }
}

/// The model's result for a whole operation. Modelled, not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkBound {
    /// Minimum seconds.
    pub seconds: f64,
    /// Useful FLOP in that time over the chip's tensor peak.
    pub of_peak: f64,
    /// Minimum bytes in that time over the memory bandwidth.
    pub of_bandwidth: f64,
    /// Useful FLOP over those of whole tiles on equally loaded multiprocessors.
    pub filled: f64,
}

impl Work {
    /// The minimum time: the multiprocessor with the most blocks runs their main loops at the speed of its busiest pipe, plus its epilogues
    /// if it holds only one block at a time; memory transfers every byte once. If blocks share a tile, each writes its partial sums and the
    /// last block reads those of its tile, without overlap.
    pub fn bound(&self, chip: &Chip, figures: &Figures) -> WorkBound {
        let blocks = self.choice.grid.iter().product::<usize>();
        let most = blocks.div_ceil(chip.units);
        let memory = self.bytes / chip.bandwidth;
        // Where blocks share a tile: its sums to L2 or from there.
        let sums = match self.kind {
            WorkKind::Linear { tile: (m, n), .. } if self.choice.grid[1] > 1 => (m * n * 4) as f64 / chip.sm.l2_bytes,
            _ => 0.0,
        };
        let cycles = match &figures.main_loop {
            Some(main_loop) if main_loop.tensor_instructions() > 0 => {
                let one = main_loop.bound(chip, &self.choice.entry, self.choice.threads).total() * self.passes;
                let exposed = match self.kind {
                    _ if figures.occupancy(chip, self.choice.threads, self.choice.shared).blocks > 1 => 0.0,
                    // The output (and the residual stream) from and to L2, or its special functions.
                    WorkKind::Linear { tile: (m, n), .. } | WorkKind::Conv { tile: (m, n), .. } => {
                        let stored = self.out_bytes / chip.sm.l2_bytes;
                        self.tiles * (m * n) as f64 * stored.max(self.specials / chip.sm.mufu_lanes)
                    }
                    WorkKind::Attention { .. } => 0.0, // resident keys: the warps go their own ways
                };
                one + exposed
            }
            _ => 0.0,
        };
        let parts = self.choice.grid[1] as f64;
        let compute = (most as f64 * (cycles + sums) + parts * sums) / chip.clock;
        let seconds = compute.max(memory);
        WorkBound {
            seconds,
            of_peak: self.flop / seconds / (chip.tensor_flops * self.rate()),
            of_bandwidth: memory / seconds,
            filled: self.useful * blocks as f64 / (most * chip.units) as f64,
        }
    }
}
