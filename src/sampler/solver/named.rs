//! The published samplers of flow models, by name: each is a solver over noise levels of its own.

use std::fmt;
use std::str::FromStr;

use super::{DpmPp, Euler, FlowGrid, Solver, SolverError, UniPc};

/// A published sampler of flow models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FlowSampler {
    /// UniPC over Wan's own levels: the official default.
    #[default]
    UniPc,
    /// UniPC over the levels of diffusers' WanPipeline.
    UniPcDiffusers,
    /// DPM++ 2M over Wan's own levels.
    DpmPp,
    /// Euler over the levels of DPM++.
    Euler,
    /// Euler over the levels of diffusers' FlowMatchEuler.
    EulerDiffusers,
}

/// No sampler has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no sampler `{0}`; there are {known}", known = FlowSampler::ALL.map(FlowSampler::name).join(", "))]
pub struct UnknownSampler(String);

impl FlowSampler {
    /// All of them, the default first.
    pub const ALL: [FlowSampler; 5] = [
        FlowSampler::UniPc,
        FlowSampler::UniPcDiffusers,
        FlowSampler::DpmPp,
        FlowSampler::Euler,
        FlowSampler::EulerDiffusers,
    ];

    /// Its name: `unipc`, `unipc-diffusers`, `dpm++`, `euler` or `euler-diffusers`.
    pub fn name(self) -> &'static str {
        match self {
            FlowSampler::UniPc => "unipc",
            FlowSampler::UniPcDiffusers => "unipc-diffusers",
            FlowSampler::DpmPp => "dpm++",
            FlowSampler::Euler => "euler",
            FlowSampler::EulerDiffusers => "euler-diffusers",
        }
    }

    /// Its noise levels.
    ///
    /// # Errors
    /// As [`FlowGrid::unipc`].
    pub fn grid(self, steps: usize, shift: f64) -> Result<FlowGrid, SolverError> {
        match self {
            FlowSampler::UniPc => FlowGrid::unipc(steps, shift),
            FlowSampler::UniPcDiffusers => FlowGrid::unipc_diffusers(steps, shift),
            FlowSampler::DpmPp => FlowGrid::dpmpp(steps, shift),
            FlowSampler::Euler => FlowGrid::euler(steps, shift),
            FlowSampler::EulerDiffusers => FlowGrid::euler_diffusers(steps, shift),
        }
    }

    /// Its solver over these levels.
    pub fn solver(self, grid: FlowGrid) -> Box<dyn Solver> {
        match self {
            FlowSampler::UniPc | FlowSampler::UniPcDiffusers => Box::new(UniPc(grid)),
            FlowSampler::DpmPp => Box::new(DpmPp(grid)),
            FlowSampler::Euler | FlowSampler::EulerDiffusers => Box::new(Euler(grid)),
        }
    }
}

impl FromStr for FlowSampler {
    type Err = UnknownSampler;

    fn from_str(name: &str) -> Result<FlowSampler, UnknownSampler> {
        FlowSampler::ALL.into_iter().find(|sampler| sampler.name() == name).ok_or_else(|| UnknownSampler(name.into()))
    }
}

impl fmt::Display for FlowSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
