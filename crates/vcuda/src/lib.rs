//! A virtual NVIDIA driver: `libcuda.so.1` for machines without a GPU. Programs of the CUDA driver API run on it unchanged, their kernels in
//! `ptx-vm`; what hardware and driver may do late or in another order happens late or in another order.
//!
//! The README says how to use it. The rooms, from the bottom: `code` result codes, `settings` the environment, `world` all that the driver
//! knows, behind one lock, `memory`, `module` and `graph` what programs make, `schedule` what is queued and when it runs, `enter` the way into
//! every function, `api` the exported functions, `stubs` those that are not there, `report` what is left at the end.

mod api;
mod code;
mod enter;
mod graph;
mod memory;
mod module;
mod report;
mod schedule;
mod settings;
#[allow(dead_code, unreachable_pub)] // Shared with the virtual NVML, which needs other parts of it.
mod spec;
mod stubs;
mod symbols;
mod world;
