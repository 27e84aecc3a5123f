//! The VM's counters for a few blocks of an operation: counters are sums over blocks, so a block of a small grid has the same counts as a
//! block of the whole grid.

use super::workload::{Work, WorkKind};
use crate::device::{Device, DeviceError, Event, Launch, LaunchObserver, LaunchStats, Module, VmConfig};
use crate::ops::OpError;
use crate::ops::params::{AttentionParams, ConvParams, LinearFewParams, LinearFp8Params, LinearParams, SequenceLayout};
use crate::ops::{attention, linear};
use crate::tensor::DType;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// Counters of a reduced grid, and their ratios to the possible minimum. The minimum counts each input byte that the blocks need and each
/// output byte once, and the FLOP of the results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Entry.
    pub entry: String,
    /// The shape that was run.
    pub shape: String,
    /// 32-byte sectors per warp instruction to global memory; 16 for full 16-byte accesses.
    pub sectors_per_request: f64,
    /// Bytes requested from global memory over the minimum.
    pub bytes_ratio: f64,
    /// Bytes of the touched sectors over requested bytes.
    pub sector_ratio: f64,
    /// Tensor FLOP over the minimum.
    pub flop_ratio: f64,
    /// Shared-memory passes in main loops over those without bank conflicts: the difference of two runs, one with twice the passes through
    /// the loop.
    pub loop_conflicts: f64,
    /// The same over the whole kernel.
    pub all_conflicts: f64,
}

#[derive(Default)]
struct Last(Mutex<Option<LaunchStats>>);

impl LaunchObserver for Last {
    fn launched(&self, _: &Launch<'_>, _: Event, _: Event, stats: Option<LaunchStats>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// Runs a few blocks of `work` on a VM.
///
/// # Errors
/// The kernel faults.
pub fn count(work: &Work) -> Result<Counted, DeviceError> {
    let device =
        Device::vm_as(work.choice.module.architecture().oldest, VmConfig { counters: true, ..VmConfig::default() });
    let last = Arc::new(Last::default());
    device.observe(Some(last.clone()));
    let take = || last.0.lock().unwrap_or_else(PoisonError::into_inner).take().and_then(|stats| stats.counters);
    let run = |long: bool| -> Result<(ptx_vm::Counters, f64, f64, String), DeviceError> {
        let (flop, bytes, shape) = match work.kind {
            WorkKind::Linear { shape: [_, _, k], tile } => {
                run_linear(&device, work, tile, if long { k } else { k / 2 })?
            }
            WorkKind::Attention { q_len, kv_len, head_dim, .. } => {
                run_attention(&device, work, [q_len, kv_len, head_dim], long)?
            }
            WorkKind::Conv { shape: [_, _, k], taps, tile } => {
                let channels = k / taps.iter().product::<usize>();
                // Half of them, in whole stages.
                run_conv(&device, work, taps, tile, if long { channels } else { channels / 64 * 32 })?
            }
        };
        Ok((take().expect("opened with counters"), flop, bytes, shape))
    };
    let (half, ..) = run(false)?;
    let (all, flop, bytes, shape) = run(true)?;
    let ratio = |passes: u64, conflicts: u64| passes as f64 / ((passes - conflicts) as f64).max(1.0);
    let asked = (all.global.load_bytes + all.global.store_bytes) as f64;
    let (passes, conflicts) =
        (all.shared.passes - half.shared.passes, all.shared.conflicts.saturating_sub(half.shared.conflicts));
    Ok(Counted {
        entry: work.choice.entry.clone(),
        shape,
        sectors_per_request: all.global.sectors as f64 / all.global.requests as f64,
        bytes_ratio: asked / bytes,
        sector_ratio: all.global.sectors as f64 * 32.0 / asked,
        flop_ratio: all.tensor_flops as f64 / flop,
        loop_conflicts: ratio(passes, conflicts),
        all_conflicts: ratio(all.shared.passes, all.shared.conflicts),
    })
}

/// Zeros: the values do not matter here.
fn zeros(device: &Device, bytes: usize) -> Result<crate::device::Memory, DeviceError> {
    let memory = device.alloc(bytes)?;
    device.fill(&memory, 0..bytes, 0)?;
    Ok(memory)
}

/// Two adjacent tiles, with k and its split unchanged. Returns the required FLOP and bytes.
fn run_linear(
    device: &Device,
    work: &Work,
    (tile_m, tile_n): (usize, usize),
    k: usize,
) -> Result<(f64, f64, String), DeviceError> {
    let (m, n) = (tile_m, 2 * tile_n);
    let residual = work.choice.entry.contains("residual");
    let element = if work.choice.module == Module::LinearFp8 { 1 } else { 2 };
    let a = zeros(device, element * m * k)?;
    let w = zeros(device, element * n * k)?;
    let bias = zeros(device, 2 * n)?;
    let out = zeros(device, 2 * m * n)?;
    let stats = zeros(device, 8 * m)?;
    let table = zeros(device, 4 * 6 * n.max(k))?;
    let params = LinearParams {
        a: a.ptr(),
        w: w.ptr(),
        bias: bias.ptr(),
        out: out.ptr(),
        row_stats: stats.ptr(),
        modulation: table.ptr(),
        m: m as i32,
        n: n as i32,
        k: k as i32,
        frames: 1,
        rows_per_frame: m as i32,
        variants: 1,
        chunks: 6,
        channels: n.max(k) as i32,
        shift_chunk: 0,
        scale_chunk: 1,
        gate_chunk: if residual { 2 } else { -1 },
        ..Default::default()
    };
    let parts = work.choice.grid[1];
    if work.choice.module == Module::LinearFew {
        let partial = zeros(device, 4 * 2 * parts * tile_m * tile_n)?;
        let arrived = zeros(device, 4 * 2)?;
        let params = LinearFewParams { product: params, partial: partial.ptr(), arrived: arrived.ptr() };
        launch(device, work, [2, parts], &params)?;
    } else if work.choice.module == Module::LinearWgmma {
        launch(device, work, [2, 1], &mapped(linear::wgmma_params(device, DType::Bf16, params))?)?;
    } else if work.choice.module == Module::LinearFp8 {
        let wgmma = mapped(linear::wgmma_params(device, DType::U8, params))?;
        let (a_scale, w_scale) = (stats.ptr(), table.ptr());
        launch(device, work, [2, 1], &LinearFp8Params { wgmma, a_scale, w_scale, reserved: Default::default() })?;
    } else {
        launch(device, work, [2, 1], &params)?;
    }
    let bytes = element * (m * k + n * k) + if residual { 4 * m * n } else { 2 * m * n };
    Ok((2.0 * (m * n * k) as f64, bytes as f64, format!("{m} x {n} x {k}, {} blocks", 2 * parts)))
}

/// One block's queries of spatial and cross attention, with some of the keys; all heads of a few sequences of temporal attention.
fn run_attention(
    device: &Device,
    work: &Work,
    [q_len, kv_len, head_dim]: [usize; 3],
    long: bool,
) -> Result<(f64, f64, String), DeviceError> {
    let kind = work.choice.entry.rsplit('_').next().unwrap_or_default();
    let (sequences, heads, q_len, keys) = match kind {
        "short" => (if long { 4 } else { 2 }, 16, q_len, kv_len),
        "cross" => (1, 1, 512, if long { kv_len } else { kv_len - 160 }),
        _ => (1, 1, 128, if long { kv_len.min(1280) } else { kv_len.min(1280) / 2 / 64 * 64 + kv_len.min(1280) % 64 }),
    };
    let (width, plain) = (heads * head_dim, matches!(kind, "cross" | "plain") || (kind == "wgmma" && head_dim == 128));
    let (q_rows, kv_rows) = (sequences * q_len, sequences * keys);
    let rows = q_rows.max(kv_rows);
    let qkv = zeros(device, 2 * rows * 3 * width)?;
    let out = zeros(device, 2 * q_rows * width)?;
    let norm = zeros(device, 2 * head_dim)?;
    let rope = zeros(device, 4 * rows * head_dim)?;
    // Temporal sequences are interleaved: the frames of a token are all tokens apart.
    let layout = |length: usize, row_stride: usize| SequenceLayout {
        outer_stride: if kind == "short" { 0 } else { length as i64 },
        inner_stride: i64::from(kind == "short"),
        step: if kind == "short" { sequences as i64 } else { 1 },
        row_stride: row_stride as i64,
        inner: if kind == "short" { sequences as i32 } else { 1 },
        reserved: 0,
    };
    let params = AttentionParams {
        q: qkv.ptr(),
        k: qkv.ptr() + 2 * width as u64,
        v: qkv.ptr() + 4 * width as u64,
        out: out.ptr(),
        q_norm: if plain { 0 } else { norm.ptr() },
        k_norm: if plain { 0 } else { norm.ptr() },
        rope: if kind == "short" { rope.ptr() } else { 0 },
        q_layout: layout(q_len, 3 * width),
        kv_layout: layout(keys, 3 * width),
        out_layout: layout(q_len, width),
        scale: 1.0,
        norm_eps: 1e-6,
        sequences: sequences as i32,
        heads: heads as i32,
        q_len: q_len as i32,
        kv_len: keys as i32,
        head_dim: head_dim as i32,
        ..Default::default()
    };
    let (_, teams) = attention::short_teams(q_len.max(keys));
    let grid = if kind == "short" { [sequences * heads / teams, 1] } else { [1, heads] };
    if kind == "wgmma" {
        launch(device, work, grid, &mapped(attention::wgmma_params(device, DType::Bf16, params))?)?;
    } else {
        launch(device, work, grid, &params)?;
    }
    let flop = 4.0 * (sequences * heads * q_len * keys * head_dim) as f64;
    let bytes = 2 * width * (2 * q_rows + 2 * kv_rows);
    Ok((flop, bytes as f64, format!("{sequences} x {heads} heads, {q_len} x {keys}")))
}

/// A tile of positions in all channels of the output, of one frame, of which every tap lies in frames that there are.
fn run_conv(
    device: &Device,
    work: &Work,
    [kernel_t, kernel_h, kernel_w]: [usize; 3],
    (tile_m, tile_n): (usize, usize),
    channels: usize,
) -> Result<(f64, f64, String), DeviceError> {
    let (width, height, n) = (16, tile_m / 16, if tile_n == 16 { 8 } else { 2 * tile_n });
    let k = kernel_t * kernel_h * kernel_w * channels;
    let x = zeros(device, 2 * kernel_t * tile_m * channels)?;
    let (w, bias, out) = (zeros(device, 2 * n * k)?, zeros(device, 2 * n)?, zeros(device, 2 * tile_m * n)?);
    let params = ConvParams {
        x: x.ptr(),
        w: w.ptr(),
        bias: bias.ptr(),
        out: out.ptr(),
        frames: kernel_t as i32,
        height: height as i32,
        width,
        channels: channels as i32,
        in_rows: height as i32,
        out_frames: 1,
        out_height: height as i32,
        out_width: width,
        n: n as i32,
        out_rows: height as i32,
        kernel_t: kernel_t as i32,
        kernel_h: kernel_h as i32,
        kernel_w: kernel_w as i32,
        stride_t: 1,
        stride: 1,
        pad: (kernel_h / 2) as i32,
        time_factor: 1,
        alpha: 1.0,
        ..Default::default()
    };
    launch(device, work, [n.div_ceil(tile_n), 1], &params)?;
    let bytes = 2 * (kernel_t * tile_m * channels + n * k + tile_m * n);
    Ok((2.0 * (tile_m * n * k) as f64, bytes as f64, format!("{tile_m} x {n} x {k}")))
}

/// Parameters with tensor maps.
fn mapped<P>(params: Result<P, OpError>) -> Result<P, DeviceError> {
    params.map_err(|error| match error {
        OpError::Device(error) => error,
        error => unreachable!("aligned rows on a device with tensor maps: {error}"),
    })
}

fn launch<P: bytemuck::Pod>(device: &Device, work: &Work, grid: [usize; 2], params: &P) -> Result<(), DeviceError> {
    let kernel = device.kernel(work.choice.module, &work.choice.entry)?;
    let grid = [grid[0] as u32, grid[1] as u32, 1];
    device.launch(&kernel, grid, [work.choice.threads as u32, 1, 1], work.choice.shared as u32, params)
}
