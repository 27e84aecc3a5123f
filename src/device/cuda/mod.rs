//! A CUDA GPU as a backend, through the driver API. The driver is looked for at run time: a machine without one builds and runs this
//! file, and gets an error that says so.
//!
//! `driver` is the table of the driver's functions, `handles` owns what they give out, `module` compiles PTX, `copies` and `graph` are what
//! their names say, `fault` reads the codes that tell of earlier work.

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
