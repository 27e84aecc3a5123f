//! A CUDA GPU as a backend, through the driver API. The driver is looked up at run time: a machine without one can build and run this
//! module, and receives an error that says so.
//!
//! `driver` is the table of the driver's functions, `handles` owns the resources they return, `module` compiles PTX, `copies` and `graph`
//! implement fetches and CUDA graphs, `fault` interprets codes that report earlier work.

mod backend;
mod copies;
mod driver;
mod fault;
mod gpus;
mod graph;
mod handles;
mod module;
mod pinned;
mod shared;

pub(super) use backend::CudaBackend;
pub(super) use gpus::{list, usable};
