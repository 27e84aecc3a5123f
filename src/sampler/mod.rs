//! Rectified-flow sampling, with a cache policy that says which steps run the transformer; and the solvers that other models take.

mod rflow;
mod run;
mod solver;

pub use rflow::{MOST_STEPS, Schedule, ScheduleError};
pub use run::{FrameConditioning, Member, MemberOutput, SampleError, SampleOutput, Sampler, SamplerOptions, StepEvent};
pub use solver::{
    Alphas, Coefficients, Ddim, DpmPp, Euler, FlowGrid, HISTORY, Kept, Pndm, Row, Solver, SolverError, UniPc,
};
