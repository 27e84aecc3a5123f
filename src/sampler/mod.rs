//! Rectified-flow sampling, with a cache policy that decides which steps run the transformer; and the solvers of other models.

mod error;
mod frames;
mod member;
mod options;
mod pace;
mod rflow;
mod run;
mod solver;

pub use error::SampleError;
pub use frames::FrameConditioning;
pub use member::MemberOutput;
pub use options::{Member, SamplerOptions};
pub(crate) use rflow::TRAIN_STEPS;
pub use rflow::{MOST_STEPS, Schedule, ScheduleError};
pub use run::{SampleOutput, Sampler, StepEvent};
pub use solver::{
    Alphas, Coefficients, Ddim, DpmPp, Euler, FlowGrid, FlowSampler, HISTORY, Kept, NoiseMethod, Pndm, Row,
    SchedulerConfig, Solver, SolverError, UniPc, UnknownSampler,
};
