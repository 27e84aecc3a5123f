//! DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2, midpoint form) on a flow, as in Wan's published code.
//!
//! With the clean latents m = x − σ·v, λ = ln α − ln σ, h = λ' − λ, E = e^(−h) − 1 and r = (λ − λ₋₁)/h:
//!
//! ```text
//! x' = (σ'/σ)·x − α'·E·m − ½·α'·E·(m − m₋₁)/r
//! ```
//!
//! The first and the last step are of first order: without the last term. From σ = 1, where λ = −∞, step 0 has E = −1 and step 1 has
//! 1/r = 0; to σ = 0 the step is x' = m.

use super::flow::{FlowGrid, Level};
use super::{Form, Row, Solver};

/// DPM-Solver++ of second order, multistep; on [`FlowGrid::dpmpp`] as published.
#[derive(Clone, Debug, PartialEq)]
pub struct DpmPp(pub FlowGrid);

impl Solver for DpmPp {
    fn rows(&self) -> Vec<Row> {
        let mut before: Option<Level> = None;
        let row = |(time, from, to): (f32, Level, Level)| {
            let h = to.lambda - from.lambda;
            let weight = to.alpha * (-h).exp_m1();
            let clean = from.clean();
            let mut next = Form::LATENTS * (to.sigma / from.sigma) - clean * weight;
            if let (Some(before), true) = (before, to.sigma > 0.0) {
                next = next - (clean - Form::kept(0)) * (0.5 * weight * h / (from.lambda - before.lambda));
            }
            before = Some(from);
            Row::new(time, next).keeping(0, clean)
        };
        self.0.steps().map(row).collect()
    }
}
