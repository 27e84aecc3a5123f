//! The probe and the fold on memory of another program: raw device pointers, its context, its stream.
//!
//! Nothing here waits for the device or allocates on it: every call queues kernels and returns.

use std::ffi::c_void;
use std::slice;

use base::device::Module as Embedded;
use base::ops::params::{
    CHUNK_BYTES, ELEMENTWISE_THREADS, ExtrapolateParams, FoldParams, MAX_STRIDES, MOTION_SUMS, PROBE_MAX_BLOCKS,
    PROBE_SUMS, PROBE_THREADS, REDUCE_THREADS, REDUCE_WARPS, ReduceParams, ResidualProbeParams,
};
use base::ops::residual::probe_blocks;

use crate::driver::{Driver, Function, Module};
use crate::error::{AdacacheStatus, Error, guard};

/// The element type of tensors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdacacheDtype {
    /// bfloat16
    Bf16 = 0,
    /// IEEE half precision
    F16 = 1,
    /// IEEE single precision
    F32 = 2,
}

impl AdacacheDtype {
    /// All of them, by number.
    pub const ALL: [AdacacheDtype; 3] = [AdacacheDtype::Bf16, AdacacheDtype::F16, AdacacheDtype::F32];

    fn size(self) -> usize {
        if self == AdacacheDtype::F32 { 4 } else { 2 }
    }

    /// The type of this number: C may hand over any.
    fn read(number: u32) -> Result<AdacacheDtype, Error> {
        let known = AdacacheDtype::ALL.get(number as usize);
        known.copied().ok_or_else(|| Error::argument(format!("dtype {number}: ADACACHE_DTYPE_BF16, _F16 or _F32")))
    }
}

/// The kernels, loaded into one context.
#[derive(Debug)]
pub struct AdacacheKernels {
    context: usize,
    module: Module,
    reduce: Function,
    /// Of each type probe, fold, unfold, extrapolate.
    of: [[Function; 4]; 3],
}

/// What [`AdacacheKernels::probe`] reads and writes: device pointers and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// `[batch, frames, inner]`
    pub fresh: u64,
    /// The same shape; becomes equal to `fresh`.
    pub kept: u64,
    /// Whether `kept` has no content yet.
    pub first: bool,
    /// batch, frames, inner
    pub shape: [usize; 3],
    /// Frame strides.
    pub strides: &'a [u32],
    /// [`scratch_bytes`] bytes.
    pub scratch: u64,
    /// `[batch, 6 + 3 · strides]` f64
    pub sums: u64,
}

/// The bytes of scratch memory that a probe needs.
pub fn scratch_bytes(batch: usize, strides: usize) -> usize {
    batch * PROBE_MAX_BLOCKS * (PROBE_SUMS + MOTION_SUMS * strides) * size_of::<f32>()
}

fn int(name: &str, n: usize) -> Result<i32, Error> {
    i32::try_from(n).map_err(|_| Error::argument(format!("{name} {n} is too large")))
}

/// Refuses null and what is not aligned to its elements.
fn check(name: &str, pointer: u64, size: usize) -> Result<(), Error> {
    if pointer == 0 {
        return Err(Error::argument(format!("{name} is a null pointer")));
    }
    if !pointer.is_multiple_of(size as u64) {
        return Err(Error::argument(format!("{name} is not aligned to its elements of {size} bytes")));
    }
    Ok(())
}

impl AdacacheKernels {
    /// Loads the kernels into the context that is current on this thread.
    ///
    /// # Errors
    /// No driver, no current context, or a GPU before Ampere.
    pub fn new() -> Result<AdacacheKernels, Error> {
        let driver = Driver::get()?;
        let context = driver.current_context()?;
        let ptx =
            Embedded::Residual.ptx().ok_or_else(|| Error::new(AdacacheStatus::Internal, "no PTX in this build"))?;
        let module = driver.load(ptx)?;
        let find = |name: &str| driver.function(&module, name);
        let all = |dtype: &str| {
            let of = |entry: &str| find(&format!("residual_{entry}_{dtype}"));
            Ok::<_, Error>([of("probe")?, of("fold")?, of("unfold")?, of("extrapolate")?])
        };
        let found = (|| Ok((find("reduce_partials")?, [all("bf16")?, all("f16")?, all("f32")?])))();
        match found {
            Ok((reduce, of)) => Ok(AdacacheKernels { context, module, reduce, of }),
            Err(error) => {
                driver.unload(&module);
                Err(error)
            }
        }
    }

    /// The driver, if the context that the kernels belong to is current.
    fn driver(&self) -> Result<&'static Driver, Error> {
        let driver = Driver::get()?;
        if driver.current_context()? != self.context {
            return Err(Error::argument("another CUDA context is current than the one the kernels were loaded into"));
        }
        Ok(driver)
    }

    /// Measures how far `fresh` has moved from `kept` and how its frames differ, then keeps it: `kept := fresh`.
    ///
    /// # Errors
    /// Sizes of 0 or too large, pointers that are null or not aligned, and errors of the driver.
    ///
    /// # Safety
    /// The pointers are device memory of the current context with the sizes that [`Probe`] tells, valid until `stream` has run the kernels.
    pub unsafe fn probe(&self, stream: usize, dtype: AdacacheDtype, probe: &Probe<'_>) -> Result<(), Error> {
        let [batch, frames, inner] = probe.shape;
        if probe.shape.contains(&0) {
            return Err(Error::argument(format!("batch {batch}, frames {frames}, inner {inner}: none may be 0")));
        }
        if probe.strides.len() > MAX_STRIDES || probe.strides.contains(&0) {
            return Err(Error::argument(format!("strides {:?}: at most {MAX_STRIDES}, of at least 1", probe.strides)));
        }
        for (name, pointer, size) in [
            ("fresh", probe.fresh, dtype.size()),
            ("kept", probe.kept, dtype.size()),
            ("scratch", probe.scratch, 4),
            ("sums", probe.sums, 8),
        ] {
            check(name, pointer, size)?;
        }
        if probe.fresh == probe.kept {
            return Err(Error::argument("fresh and kept are the same memory"));
        }
        let driver = self.driver()?;
        let mut strides = [0; MAX_STRIDES];
        for (to, stride) in strides.iter_mut().zip(probe.strides) {
            *to = int("stride", *stride as usize)?;
        }
        let count = PROBE_SUMS + MOTION_SUMS * probe.strides.len();
        let blocks = probe_blocks(inner.div_ceil(CHUNK_BYTES / dtype.size()));
        let params = ResidualProbeParams {
            fresh: probe.fresh,
            kept: probe.kept,
            partial: probe.scratch,
            inner: i64::try_from(inner).map_err(|_| Error::argument("inner is too large"))?,
            batch: int("batch", batch)?,
            frames: int("frames", frames)?,
            first: probe.first.into(),
            num_strides: int("strides", probe.strides.len())?,
            strides,
        };
        let reduce = ReduceParams {
            partial: probe.scratch,
            sums: probe.sums,
            batch: params.batch,
            blocks: int("blocks", blocks)?,
            count: int("sums", count)?,
            reserved: 0,
        };
        let [kernel, ..] = self.of[dtype as usize];
        // SAFETY: the structs are those of the kernels; the pointers are valid by the caller; the context is the kernels' own.
        unsafe {
            driver.launch(kernel, [blocks, batch], PROBE_THREADS, stream, &params)?;
            driver.launch(self.reduce, [count.div_ceil(REDUCE_WARPS), batch], REDUCE_THREADS, stream, &reduce)
        }
    }

    /// `out = a + b`, or `a − b` with `subtract`, of `count` elements. `out` may be `a` or `b`.
    ///
    /// # Errors
    /// As [`AdacacheKernels::probe`].
    ///
    /// # Safety
    /// As [`AdacacheKernels::probe`].
    pub unsafe fn add(
        &self,
        stream: usize,
        dtype: AdacacheDtype,
        [a, b, out]: [u64; 3],
        count: usize,
        subtract: bool,
    ) -> Result<(), Error> {
        for (name, pointer) in [("a", a), ("b", b), ("out", out)] {
            check(name, pointer, dtype.size())?;
        }
        if count == 0 {
            return Ok(());
        }
        let params = FoldParams { a, b, out, count: elements(count)? };
        let [_, fold, unfold, _] = self.of[dtype as usize];
        let function = if subtract { fold } else { unfold };
        // SAFETY: as in `probe`.
        unsafe { self.driver()?.launch(function, [grid(count, dtype), 1], ELEMENTWISE_THREADS, stream, &params) }
    }

    /// `out = a +` the fold that a Taylor polynomial through `folds`, newest first, gives for this step. `out` may be `a`.
    ///
    /// # Errors
    /// As [`AdacacheKernels::probe`], or another number of folds than 2 or 3.
    ///
    /// # Safety
    /// As [`AdacacheKernels::probe`]; `computed` is `[3]` i32, the steps of the folds, descending, 0 if there is none; `cursor` `[1]` i32, the
    /// step at hand.
    #[allow(clippy::too_many_arguments)] // As the C function has them.
    pub unsafe fn extrapolate(
        &self,
        stream: usize,
        dtype: AdacacheDtype,
        [a, out]: [u64; 2],
        folds: &[u64],
        [computed, cursor]: [u64; 2],
        damping: f32,
        count: usize,
    ) -> Result<(), Error> {
        if !(2..=3).contains(&folds.len()) {
            return Err(Error::argument(format!("{} folds: 2 or 3", folds.len())));
        }
        for (name, pointer) in [("a", a), ("out", out)].into_iter().chain(folds.iter().map(|fold| ("folds", *fold))) {
            check(name, pointer, dtype.size())?;
        }
        for (name, pointer) in [("computed", computed), ("cursor", cursor)] {
            check(name, pointer, 4)?;
        }
        if count == 0 {
            return Ok(());
        }
        let fold = |i: usize| folds.get(i).copied().unwrap_or(folds[0]);
        let params = ExtrapolateParams {
            a,
            folds: [fold(0), fold(1), fold(2)],
            out,
            computed,
            cursor,
            count: elements(count)?,
            order: int("order", folds.len() - 1)?,
            damping,
        };
        let [.., function] = self.of[dtype as usize];
        // SAFETY: as in `probe`.
        unsafe { self.driver()?.launch(function, [grid(count, dtype), 1], ELEMENTWISE_THREADS, stream, &params) }
    }
}

fn elements(count: usize) -> Result<i64, Error> {
    i64::try_from(count).map_err(|_| Error::argument("count is too large"))
}

fn grid(count: usize, dtype: AdacacheDtype) -> usize {
    count.div_ceil(CHUNK_BYTES / dtype.size()).div_ceil(ELEMENTWISE_THREADS)
}

impl Drop for AdacacheKernels {
    fn drop(&mut self) {
        if let Ok(driver) = Driver::get() {
            driver.unload(&self.module);
        }
    }
}

/// The object behind a pointer from C.
fn object<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Error> {
    // SAFETY: what is not null came from this library and is not freed, by the contract in the header.
    unsafe { pointer.as_ref() }.ok_or_else(|| Error::argument(format!("{name} is NULL")))
}

/// Loads the kernels into the CUDA context that is current on this thread. Free them with `adacache_kernels_free`.
///
/// # Safety
/// `kernels` points to a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_kernels_new(kernels: *mut *mut AdacacheKernels) -> AdacacheStatus {
    guard(|| {
        if kernels.is_null() {
            return Err(Error::argument("kernels is NULL"));
        }
        let loaded = Box::into_raw(Box::new(AdacacheKernels::new()?));
        // SAFETY: by the caller.
        unsafe { kernels.write(loaded) };
        Ok(())
    })
}

/// Unloads the kernels, in the context they were loaded into; no work that uses them may be queued. NULL is ignored.
///
/// # Safety
/// `kernels` is from `adacache_kernels_new` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_kernels_free(kernels: *mut AdacacheKernels) {
    if !kernels.is_null() {
        guard(|| {
            // SAFETY: by the caller.
            drop(unsafe { Box::from_raw(kernels) });
            Ok(())
        });
    }
}

/// The bytes of scratch memory that `adacache_probe` needs for so many samples and frame strides.
#[unsafe(no_mangle)]
pub extern "C" fn adacache_probe_scratch_bytes(batch: usize, strides: usize) -> usize {
    scratch_bytes(batch, strides.min(MAX_STRIDES))
}

/// Measures how far `fresh` has moved from `kept` and how its frames differ, then keeps it: `kept := fresh`. Queued on `stream`; returns at once.
///
/// All pointers but `strides` are device memory: `fresh` and `kept` `[batch, frames, inner]` of type `dtype` (an `AdacacheDtype`), `scratch` of
/// `adacache_probe_scratch_bytes` bytes, `sums` `[batch, 6 + 3 * num_strides]` f64: of each sample `sum|new-kept|, sum|kept|,
/// sum(new-kept)^2, sum kept^2, sum new*kept, sum new^2`, then of each stride k `sum|r[t+k]-r[t]|, sum|r[t+k]|, sum|r[t]|`. With `first`, `kept` has no
/// content yet, and the sums that involve it are 0. `strides` is an array on the host of at most 8 numbers.
///
/// # Safety
/// The memory is as described, and stays valid until the stream has run the kernels.
#[allow(clippy::too_many_arguments)] // One for each thing that the kernel needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_probe(
    kernels: *const AdacacheKernels,
    stream: *mut c_void,
    dtype: u32,
    fresh: *const c_void,
    kept: *mut c_void,
    first: bool,
    batch: usize,
    frames: usize,
    inner: usize,
    strides: *const u32,
    num_strides: usize,
    scratch: *mut c_void,
    sums: *mut c_void,
) -> AdacacheStatus {
    guard(|| {
        if num_strides > 0 && strides.is_null() || num_strides > MAX_STRIDES {
            return Err(Error::argument(format!("{num_strides} strides: an array of at most {MAX_STRIDES}")));
        }
        // SAFETY: by the caller the array has so many numbers.
        let strides = if num_strides == 0 { &[] } else { unsafe { slice::from_raw_parts(strides, num_strides) } };
        let probe = Probe {
            fresh: fresh as u64,
            kept: kept as u64,
            first,
            shape: [batch, frames, inner],
            strides,
            scratch: scratch as u64,
            sums: sums as u64,
        };
        // SAFETY: by the caller.
        unsafe { object(kernels, "kernels")?.probe(stream as usize, AdacacheDtype::read(dtype)?, &probe) }
    })
}

/// `out = a - b`: what the blocks have added, from their output and their input. Device memory of `count` elements; `out` may be `a` or `b`. Queued
/// on `stream`; returns at once.
///
/// # Safety
/// As `adacache_probe`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_fold(
    kernels: *const AdacacheKernels,
    stream: *mut c_void,
    dtype: u32,
    a: *const c_void,
    b: *const c_void,
    out: *mut c_void,
    count: usize,
) -> AdacacheStatus {
    let pointers = [a as u64, b as u64, out as u64];
    guard(|| {
        // SAFETY: by the caller.
        unsafe { object(kernels, "kernels")?.add(stream as usize, AdacacheDtype::read(dtype)?, pointers, count, true) }
    })
}

/// `out = a + b`: the hidden state of a reused step, from its embedding and the kept fold. As `adacache_fold`.
///
/// # Safety
/// As `adacache_probe`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_unfold(
    kernels: *const AdacacheKernels,
    stream: *mut c_void,
    dtype: u32,
    a: *const c_void,
    b: *const c_void,
    out: *mut c_void,
    count: usize,
) -> AdacacheStatus {
    let pointers = [a as u64, b as u64, out as u64];
    guard(|| {
        // SAFETY: by the caller.
        unsafe { object(kernels, "kernels")?.add(stream as usize, AdacacheDtype::read(dtype)?, pointers, count, false) }
    })
}

/// `out = a +` the fold that a Taylor polynomial through `folds` (an array on the host of 2 or 3 device pointers, newest first) gives for this step.
/// `computed` `[3]` i32 on the device: the steps of the folds, descending, 0 where there is none yet, which lowers the order; `cursor` `[1]` i32: the step at
/// hand. `damping`: the fraction of the way that is extrapolated; 1 as published. Queued on `stream`; returns at once.
///
/// # Safety
/// As `adacache_probe`.
#[allow(clippy::too_many_arguments)] // One for each thing that the kernel needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn adacache_extrapolate(
    kernels: *const AdacacheKernels,
    stream: *mut c_void,
    dtype: u32,
    a: *const c_void,
    folds: *const *const c_void,
    num_folds: usize,
    computed: *const i32,
    cursor: *const i32,
    damping: f32,
    out: *mut c_void,
    count: usize,
) -> AdacacheStatus {
    guard(|| {
        if folds.is_null() || !(2..=3).contains(&num_folds) {
            return Err(Error::argument(format!("{num_folds} folds: an array of 2 or 3 pointers")));
        }
        // SAFETY: by the caller the array has so many pointers.
        let folds: Vec<u64> =
            unsafe { slice::from_raw_parts(folds, num_folds) }.iter().map(|fold| *fold as u64).collect();
        let (tensors, steps) = ([a as u64, out as u64], [computed as u64, cursor as u64]);
        let kernels = object(kernels, "kernels")?;
        // SAFETY: by the caller.
        unsafe {
            kernels.extrapolate(stream as usize, AdacacheDtype::read(dtype)?, tensors, &folds, steps, damping, count)
        }
    })
}
