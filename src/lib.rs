//! Video generation with diffusion transformers on hand-written CUDA kernels, with Adaptive Caching (AdaCache, arXiv 2411.02397): at each
//! denoising step the runtime decides, from how fast one residual changes and how much the frames move, whether to compute the transformer
//! again or to reuse the residuals kept on the device.
//!
//! The layers, from the bottom up: [`device`] (a CUDA GPU or the virtual GPU, both running the same PTX), [`tensor`], [`ops`] (one typed
//! launcher per kernel, chosen by the properties of the GPU in [`chips`]), [`model`] (STDiT3), [`cache`] (policies), [`sampler`] (the step
//! loop), [`pipeline`] (from prompt to video). [`profile`] records what a device does, [`plan`] predicts what a video needs, [`quality`]
//! measures one video against another, [`compare`] compares policies, [`study`] asks how many steps a prompt needs, [`paper`] counts the runs of AdaCache's paper, [`calibrate`] finds codebooks, [`check`] compares results with
//! reference data from the published code, [`evidence`] estimates what a GPU could achieve with the kernels.
//!
//! A policy is a pure state machine, so it can run without a model:
//!
//! ```
//! use adacache::cache::{AdaCache, CacheConfig, Measurement, Plan, Policy};
//!
//! let text = "policy = 'adacache'\nblocks = [13]\ncodebook = [[0.08, 6], [0.16, 5], [0.24, 4], [1.0, 1]]";
//! let CacheConfig::AdaCache(config) = CacheConfig::from_toml(text, "example")? else { unreachable!() };
//! let mut policy = AdaCache::new(config, 30);
//! assert_eq!(policy.plan(1), Plan::Compute);
//! assert_eq!(policy.plan(2), Plan::Compute); // one step away: the rate starts at 1
//! // The probed residual moved by 10 % of its L1 norm: the codebook says to compute again in 5 steps.
//! let moved = Measurement { abs_diff: 0.1, abs_kept: 1.0, ..Measurement::default() };
//! assert_eq!(policy.observe(2, 0, &moved).unwrap().rate, Some(5));
//! assert_eq!(policy.plan(3), Plan::Reuse);
//! # Ok::<(), adacache::cache::CacheError>(())
//! ```

pub mod bench;
pub mod cache;
pub mod calibrate;
pub mod check;
pub mod chips;
pub mod compare;
pub mod device;
pub mod evidence;
pub mod family;
pub mod hub;
mod json;
pub mod media;
mod messages;
pub mod model;
pub mod ops;
pub mod paper;
pub mod pipeline;
pub mod plan;
pub mod profile;
pub mod quality;
pub mod sampler;
pub mod shapes;
pub mod study;
pub mod tensor;
pub mod text;
