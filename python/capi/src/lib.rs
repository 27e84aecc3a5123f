//! AdaCache for C: the policies, and the probe and fold kernels on another program's memory. `include/adacache.h` is made from this crate by
//! cbindgen (`cargo run -p adacache-header`).
//!
//! Every function returns a code; [`adacache_last_error`] has the message. No panic crosses the border. Handles may be used by any thread.

mod driver;
mod error;
mod kernels;
mod policy;

pub use error::*;
pub use kernels::*;
pub use policy::*;
