//! A virtual GPU: loads CUDA PTX and runs it on the CPU, with bounds-checked memory, and on demand with checks and counters.
//!
//! ```
//! use ptx_vm::{Launch, Module, Vm, VmConfig};
//! let ptx = r#"
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 data) {
//!   .reg .b32 %r<3>; .reg .b64 %rd<4>;
//!   ld.param.u64 %rd1, [data];
//!   mov.u32 %r1, %tid.x;
//!   mul.wide.u32 %rd2, %r1, 4;
//!   add.s64 %rd3, %rd1, %rd2;
//!   ld.global.u32 %r2, [%rd3];
//!   add.u32 %r2, %r2, %r2;
//!   st.global.u32 [%rd3], %r2;
//!   ret;
//! }"#;
//! let vm = Vm::new(VmConfig::default());
//! let kernel = Module::parse("twice.ptx", ptx)?.kernel("twice")?;
//! let data = vm.alloc(8)?;
//! vm.write(data, &[1, 0, 0, 0, 7, 0, 0, 0])?;
//! vm.launch(&kernel, &Launch::new([1, 1, 1], [2, 1, 1]), &data.to_le_bytes())?;
//! let mut out = [0; 8];
//! vm.read(data, &mut out)?;
//! assert_eq!(out, [2, 0, 0, 0, 14, 0, 0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// A fault says much and happens once.
#![allow(clippy::result_large_err)]

// Layers, from the lowest up: math; memory; parse; ir, what a kernel is made of; step, what its instructions do; lower, how it comes of text;
// counters and check, which observe it; run, which runs it; case. No file uses one of a layer above (`tools/arrows.py`).
mod arch;
pub mod case;
mod check;
mod counters;
mod error;
mod ir;
mod lower;
/// For the tests and benchmarks of this crate: no part of its interface.
#[doc(hidden)]
pub mod math;
mod memory;
mod parse;
mod run;
mod step;

pub use counters::{ByClass, Counters, LineProfile, Profile, Ratios, SharedTraffic, SourceProfile, Traffic};
pub use error::{Fault, FaultKind, FaultKinds, LoadError, LoadErrorKind};
pub use ir::{Class, Kernel, Param, SourceLine};
pub use lower::{Coverage, Module, coverage};
pub use math::mma::TensorCore;
pub use memory::{
    DevicePtr, Live, MemoryError, Region, TENSOR_MAP_BYTES, TensorMap, TensorMapError, TensorSwizzle, TensorType,
};
pub use run::{Launch, LaunchStats, MmaRounding, Vm, VmConfig};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
