//! The virtual driver as its clients see it: the built library, opened by path, held against the documentation of the CUDA driver API. A file a
//! family of functions; then what it is strict about, its schedules, its failures on demand.

mod basics;
mod client;
mod contexts;
mod demand;
mod functions;
mod graphs;
mod memory;
mod modules;
mod schedules;
mod streams;
mod strict;
mod tensor_maps;
