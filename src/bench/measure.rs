//! Times of one operation, cold and batched, and its counters on the virtual GPU.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::case::Case;
use crate::chips::Chip;
use crate::device::{Device, Event, Launch, LaunchObserver, LaunchStats, Work};
use crate::ops::OpError;
use crate::profile::{Cost, Efficiency, Tally};
use crate::shapes::Op;
use crate::tensor::DType;

/// Larger than the L2 cache of every GPU: filling it evicts all arguments of an operation.
const FLUSH_BYTES: usize = 256 << 20;

/// Limits of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Seconds for the cold samples of a case, and again for its batches.
    pub seconds: f64,
    /// The minimum number of cold samples, even beyond the time limit.
    pub least: usize,
    /// The maximum number of cold samples.
    pub most: usize,
    /// The number of batches.
    pub batches: usize,
}

impl Budget {
    /// Half a second per case and mode.
    pub fn usual() -> Budget {
        Budget { seconds: 0.5, least: 5, most: 200, batches: 5 }
    }

    /// The minimum that gives a result.
    pub fn quick() -> Budget {
        Budget { seconds: 0.0, least: 2, most: 2, batches: 1 }
    }
}

/// Times of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The median.
    pub median_seconds: f64,
    /// Standard deviation over mean.
    pub noise: f64,
    /// Samples: single operations when cold, batches when batched.
    pub samples: usize,
    /// Operations per sample.
    pub operations: usize,
}

/// The virtual GPU's counters of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Counted {
    pub warp_instructions: u64,
    pub tensor_flops: u64,
    pub ordinary_flops: u64,
    /// Bytes that lanes loaded from and stored to global memory.
    pub global_bytes: u64,
    /// 32-byte sectors touched per request to global memory, on average.
    pub sectors_per_request: f64,
    /// Shared-memory passes beyond those that the access width requires: the cost of bank conflicts.
    pub bank_conflicts: u64,
}

/// The measurements of one operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchResult {
    /// The operation.
    pub op: Op,
    /// Variant and sizes.
    pub shape: String,
    /// Element type.
    pub dtype: String,
    /// The entries launched.
    pub kernels: Vec<String>,
    /// Its work, from the shapes.
    pub work: Work,
    /// Alone, with none of its arguments in the cache (on a GPU).
    pub cold: Timing,
    /// Back to back.
    pub batched: Timing,
    /// The roofline's time over the batched median, if the chip's peaks are known.
    pub percent_of_peak: Option<f64>,
    /// Counters, on the virtual GPU.
    pub counted: Option<Counted>,
}

impl BenchResult {
    /// Operations of matrix products per second, batched.
    pub fn flops_per_second(&self) -> f64 {
        self.work.flops as f64 / self.batched.median_seconds
    }

    /// Minimum bytes per second, batched.
    pub fn bytes_per_second(&self) -> f64 {
        self.work.bytes() as f64 / self.batched.median_seconds
    }
}

fn timing(mut samples: Vec<f64>, operations: usize) -> Timing {
    samples.sort_by(f64::total_cmp);
    let count = samples.len();
    let median_seconds = (samples[(count - 1) / 2] + samples[count / 2]) / 2.0;
    let mean = samples.iter().sum::<f64>() / count as f64;
    let variance = samples.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / count as f64;
    Timing { median_seconds, noise: if mean > 0.0 { variance.sqrt() / mean } else { 0.0 }, samples: count, operations }
}

pub(super) fn measure(device: &Device, dtype: DType, case: &Case, budget: &Budget) -> Result<BenchResult, OpError> {
    let prepared = case.prepare(device, dtype)?;
    let flush = if device.is_vm() { None } else { Some(device.alloc(FLUSH_BYTES)?) };
    // The first launch loads the kernel; what it launches is the case's work.
    let tally = Tally::new();
    device.observe(Some(tally.clone()));
    let launched = prepared.run();
    device.observe(None);
    launched?;
    let entries = tally.take();

    let timed = |operations: usize| -> Result<f64, OpError> {
        let start = device.record()?;
        for _ in 0..operations {
            prepared.run()?;
        }
        Ok(device.record()?.seconds_since(&start)?)
    };
    let once = timed(1)?.max(1e-9);

    let cold_samples = ((budget.seconds / once) as usize).clamp(budget.least, budget.most);
    let mut cold = Vec::with_capacity(cold_samples);
    for i in 0..cold_samples {
        if let Some(flush) = &flush {
            device.fill(flush, 0..FLUSH_BYTES, i as u8)?;
        }
        cold.push(timed(1)?);
    }
    let operations = ((budget.seconds / once / budget.batches as f64) as usize).clamp(1, 1000);
    let batched = (0..budget.batches).map(|_| Ok(timed(operations)? / operations as f64));
    let batched = timing(batched.collect::<Result<_, OpError>>()?, operations);

    let sum = |part: fn(&Work) -> u64| entries.iter().map(|e| e.launches * part(&e.work)).sum();
    let gpu = Chip::of_device(device.info());
    Ok(BenchResult {
        op: case.op(),
        shape: case.name(),
        dtype: dtype.to_string(),
        work: Work {
            flops: sum(|w| w.flops),
            bytes_read: sum(|w| w.bytes_read),
            bytes_written: sum(|w| w.bytes_written),
        },
        percent_of_peak: gpu.map(|gpu| {
            100.0 * Cost::new(gpu, &Efficiency::ideal(), &entries).roofline_seconds / batched.median_seconds
        }),
        kernels: entries.into_iter().map(|e| e.kernel).collect(),
        cold: timing(cold, 1),
        batched,
        counted: None,
    })
}

/// The sum of the launches' counters, with sectors and requests of global memory.
#[derive(Default)]
struct Sum(Mutex<(Counted, [u64; 2])>);

impl LaunchObserver for Sum {
    fn launched(&self, _launch: &Launch<'_>, _start: Event, _end: Event, stats: Option<LaunchStats>) {
        let Some(c) = stats.and_then(|s| s.counters) else { return };
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.0.warp_instructions += c.warp_instructions;
        sum.0.tensor_flops += c.tensor_flops;
        sum.0.ordinary_flops += c.flops;
        sum.0.global_bytes += c.global.load_bytes + c.global.store_bytes;
        sum.0.bank_conflicts += c.shared.conflicts;
        sum.1[0] += c.global.sectors;
        sum.1[1] += c.global.requests;
    }
}

/// The counters of one operation on a VM.
pub(super) fn count(device: &Device, dtype: DType, case: &Case) -> Result<Counted, OpError> {
    let prepared = case.prepare(device, dtype)?;
    let sum = Arc::new(Sum::default());
    device.observe(Some(sum.clone()));
    let launched = prepared.run();
    device.observe(None);
    launched?;
    let (mut counted, [sectors, requests]) = sum.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    counted.sectors_per_request = sectors as f64 / requests.max(1) as f64;
    Ok(counted)
}
