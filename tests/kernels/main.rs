//! Every kernel against an f64 reference written for its test alone, on every device that `tests/common` gives. A file for each
//! `kernels/*.cu`; what they share is in `harness`.

// A test crate has no outside: `pub` here means "for the other files".
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
// Shared; not every file needs all of it.
#[allow(dead_code, unused_imports)]
mod harness;
mod numbers;

mod attention;
mod circulant;
mod conv;
mod decide;
mod decode;
mod embed;
mod fp8;
mod group_norm;
mod linear;
mod motion;
mod norm;
mod pack;
mod resample;
mod residual;
mod rms_norm;
mod sampler;
mod softmax;
