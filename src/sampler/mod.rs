//! Rectified-flow sampling, with a cache policy that says which steps run the transformer.

mod rflow;
mod run;

pub use rflow::{Schedule, ScheduleError};
pub use run::{FrameConditioning, Member, MemberOutput, SampleError, SampleOutput, Sampler, SamplerOptions, StepEvent};
