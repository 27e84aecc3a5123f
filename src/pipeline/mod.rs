//! From a prompt to a video: sampling, decoding, memory and the report of a run. Each family of models provides a [`Source`].
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use adacache::device::Device;
//! use adacache::family;
//! use adacache::media::Output;
//! use adacache::pipeline::{Pipeline, Request};
//! use adacache::tensor::DType;
//!
//! # fn main() -> Result<(), adacache::pipeline::PipelineError> {
//! let pipeline = Pipeline::load(&family::sprites(), &Device::open("auto")?, DType::Bf16)?;
//! let request = Request::new(&pipeline, "large red circle bouncing fast navy")?;
//! let generation = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
//! generation.write(&Output::new("circle.mp4")?)?;
//! println!("{}", generation.report.summary());
//! # Ok(())
//! # }
//! ```

mod conditioning;
mod error;
mod experts;
mod fit;
mod flow;
mod generate;
mod generation;
mod guidance;
mod job;
mod long;
mod memory;
mod needs;
mod noise;
mod options;
mod prompt;
mod provenance;
mod report;
mod request;
mod sampling;
pub mod seed;
mod settings;
mod size;
mod source;
mod stages;

pub use conditioning::{Given, MaskStrategy};
pub use error::PipelineError;
pub use experts::OnLoad;
pub use flow::Sampling;
pub use generate::{Pipeline, check_products};
pub use generation::{Decoded, Generation, OnFrame};
pub use guidance::{Guidance, is_guided};
pub use job::{Deciding, Job};
pub use long::Looping;
pub use needs::{BudgetError, MemorySize, Needs, SizeError};
pub use noise::noise;
pub use options::OpenOptions;
pub use prompt::{Prompt, PromptText, Scores, TextOptions};
pub use provenance::{How, embedding_hash, weights_hash};
pub use report::{FlopCount, Fp8Report, Report, Seconds, Summary, count, duration, schedule_strip};
pub use request::{Request, cache_caution, cache_config, check_settings, default_cache, resolve_cache};
pub use settings::{Batch, RESULTS, Settings};
pub use size::VideoSize;
pub use source::{
    Content, Expert, FileContent, FrameInputs, Inputs, ModelFile, ModelSource, Parts, PipelineConfig, Source,
};
pub use stages::Stage;
