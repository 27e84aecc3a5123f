//! Recorded measurements, one JSON object a line, and their replay through any policy without a model.
//!
//! A trace has a header line and one line for each probe of each computed step. A policy can be replayed exactly when the trace
//! holds the steps it wants to see; a trace of a run that computed every step serves every policy (its measurements are then
//! between neighbouring steps).

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::{Decision, Measurement, Plan, Policy};

/// One measurement: probe `probe` of the forward at `step`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// The computed step, from 1.
    pub step: usize,
    /// Index of the probe point in this forward.
    pub probe: usize,
    /// What the residual kernel summed up.
    #[serde(flatten)]
    pub measurement: Measurement,
}

/// The measurements of one generation.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trace {
    /// Number of denoising steps.
    pub steps: usize,
    /// The measurements in the order they were taken.
    pub records: Vec<TraceRecord>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    steps: usize,
}

/// Why a trace cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A line is not what the format says.
    #[error("trace line {line}: {source}")]
    Parse {
        /// Line number, from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Reading or writing failed.
    #[error("trace: {0}")]
    Io(#[from] std::io::Error),
    /// The policy computes a step that the trace has no measurement of.
    #[error("the trace holds no measurement of probe {probe} at step {step}; record one with every step computed")]
    Missing {
        /// The step.
        step: usize,
        /// The probe.
        probe: usize,
    },
}

impl Trace {
    /// Writes the trace as JSON lines.
    pub fn write(&self, mut out: impl Write) -> Result<(), TraceError> {
        writeln!(out, "{}", serde_json::to_string(&Header { steps: self.steps }).map_err(std::io::Error::from)?)?;
        for record in &self.records {
            writeln!(out, "{}", serde_json::to_string(record).map_err(std::io::Error::from)?)?;
        }
        Ok(())
    }

    /// Reads a trace of JSON lines.
    pub fn read(input: impl BufRead) -> Result<Trace, TraceError> {
        let mut trace = Trace::default();
        for (i, line) in input.lines().enumerate() {
            let line = line?;
            let parse = |source| TraceError::Parse { line: i + 1, source };
            if i == 0 {
                trace.steps = serde_json::from_str::<Header>(&line).map_err(parse)?.steps;
            } else if !line.trim().is_empty() {
                trace.records.push(serde_json::from_str(&line).map_err(parse)?);
            }
        }
        Ok(trace)
    }

    /// Runs `policy` over the trace; gives the plan of every step and the decisions.
    pub fn replay(&self, policy: &mut dyn Policy) -> Result<(Vec<Plan>, Vec<Decision>), TraceError> {
        let probes = policy.probes().points.len();
        let mut plans = Vec::with_capacity(self.steps);
        let mut decisions = vec![];
        for step in 1..=self.steps {
            let first = !plans.contains(&Plan::Compute);
            let plan = policy.plan(step);
            plans.push(plan);
            if plan == Plan::Reuse || first {
                continue;
            }
            for probe in 0..probes {
                let record = self
                    .records
                    .iter()
                    .find(|r| r.step == step && r.probe == probe)
                    .ok_or(TraceError::Missing { step, probe })?;
                decisions.push(policy.observe(step, probe, &record.measurement));
            }
        }
        Ok((plans, decisions))
    }
}
