//! A virtual NVIDIA driver: `libcuda.so.1` for machines without a GPU. Programs of the CUDA driver API run on it unchanged, their kernels in
//! `ptx-vm`; what hardware and driver may do late or in another order happens late or in another order.
//!
//! The README says how to use it. The rooms, from the bottom:
//! * `code` result codes, `spec` chips, `settings` the environment, `symbols` the names of functions, `made` handles and who made what,
//!   `thread` what a thread is to the driver, `host` host memory, `image` PTX that programs give;
//! * data: `object` what programs make, `work` what they queue or put into graphs;
//! * `world` all of that behind one lock, `driver` a call that holds the lock;
//! * what calls do: `memory`, `module`, `schedule` what runs when, `graph`;
//! * `report` what is left at the end, `enter` the way into every function, `stubs` the functions that are not there, `api` those that are.

mod api;
mod code;
mod driver;
mod enter;
mod graph;
mod host;
mod image;
mod made;
mod memory;
mod module;
mod object;
mod report;
mod schedule;
mod settings;
#[allow(dead_code, unreachable_pub)] // Shared with the virtual NVML, which needs other parts of it.
mod spec;
mod stubs;
mod symbols;
mod thread;
mod work;
mod world;
