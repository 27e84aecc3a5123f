//! UniPC (arXiv 2302.04867) of order 2 with B(h) = e^h − 1 ("bh2"), predicting clean latents, corrector always on, as Wan publishes it.
//!
//! With the clean latents m = x − σ·v, λ = ln α − ln σ, h = λ' − λ and E = e^(−h) − 1, a step from the corrected latents x̂ predicts
//!
//! ```text
//! x' = (σ'/σ)·x̂ − α'·E·m − ½·α'·E·(m₋₁ − m)/r            r = (λ₋₁ − λ)/h; without the last term in the first and last step
//! ```
//!
//! and the next step first corrects its x', now with the model's m' there, starting again from x̂:
//!
//! ```text
//! x̂' = (σ'/σ)·x̂ − α'·E·m − α'·E·(ρ₀·(m₋₁ − m)/r + ρ₁·(m' − m))
//! ```
//!
//! with ρ₀ + ρ₁ = b₁ and ρ₀·r + ρ₁ = b₂, g = −h, b₁ = (E/g − 1)/E, b₂ = 2·((E/g − 1)/g − ½)/E; after a step of first order ρ₀ = 0 and
//! ρ₁ = ½. The first two terms are those of the prediction, so that x̂ need not be kept:
//!
//! ```text
//! x̂' = x' − α'·E·((ρ₀ − ½)·(m₋₁ − m)/r + ρ₁·(m' − m))    after a step of first order: x̂' = x' − ½·α'·E·(m' − m)
//! ```
//!
//! A row corrects with the step before and predicts. Slots 0 and 1 hold the last two m in turn.

use super::flow::{FlowGrid, Level};
use super::{Form, Row, Solver};

/// UniPC of second order; on [`FlowGrid::unipc`] or [`FlowGrid::unipc_diffusers`] as published.
#[derive(Clone, Debug, PartialEq)]
pub struct UniPc(pub FlowGrid);

impl Solver for UniPc {
    fn rows(&self) -> Vec<Row> {
        let mut before: Option<Step> = None;
        let row = |(i, (time, from, to)): (usize, (f32, Level, Level))| {
            let clean = from.clean();
            let (last, last_but_one) = (Form::kept((i + 1) % 2), Form::kept(i % 2));
            let corrected = match before {
                Some(step) => Form::LATENTS - step.correction(clean, last, last_but_one),
                None => Form::LATENTS,
            };
            let step = Step::new(from, to, before);
            before = Some(step);
            let mut next = corrected * (to.sigma / from.sigma) - clean * step.weight;
            if let Some(r) = step.r {
                next = next - (last - clean) * (0.5 * step.weight / r);
            }
            Row::new(time, next).keeping(i % 2, clean)
        };
        self.0.steps().enumerate().map(row).collect()
    }
}

/// Common terms of a step's prediction and correction.
#[derive(Clone, Copy)]
struct Step {
    from: Level,
    h: f64,
    /// α'·E
    weight: f64,
    /// `None` for a step of first order.
    r: Option<f64>,
}

impl Step {
    fn new(from: Level, to: Level, before: Option<Step>) -> Step {
        let h = to.lambda - from.lambda;
        let before = before.filter(|_| to.sigma > 0.0);
        Step { from, h, weight: to.alpha * (-h).exp_m1(), r: before.map(|step| (step.from.lambda - from.lambda) / h) }
    }

    /// The predicted minus the corrected latents, if the model predicts `fresh` there; `m` was the fresh value when this step was
    /// predicted, `earlier` the one before that.
    fn correction(&self, fresh: Form, m: Form, earlier: Form) -> Form {
        let Some(r) = self.r else { return (fresh - m) * (0.5 * self.weight) };
        let (e, g) = ((-self.h).exp_m1(), -self.h);
        let b1 = (e / g - 1.0) / e;
        let b2 = 2.0 * ((e / g - 1.0) / g - 0.5) / e;
        let rho0 = (b1 - b2) / (1.0 - r);
        ((earlier - m) * ((rho0 - 0.5) / r) + (fresh - m) * (b1 - rho0)) * self.weight
    }
}
