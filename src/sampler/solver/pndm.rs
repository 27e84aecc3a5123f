//! PNDM (arXiv 2202.09778, algorithm 2) with its Runge-Kutta warm-up, like diffusers' PNDMScheduler with default settings.
//!
//! A step from t to p with noise e is that of [`Ddim`](super::Ddim), x' = A·x + C·e (equation 11; the paper's fraction is the same number).
//! With N steps of r = ⌊1000/N⌋ and half = ⌊r/2⌋, the first three steps are Runge-Kutta groups of four evaluations, the other N − 3 linear
//! multistep (PLMS): N + 9 evaluations. All steps of a group from time t start from its initial latents S:
//!
//! | call | time seen | goes to | by |
//! |--|--|--|--|
//! | 0 | t | t − half | e₀, which joins the history |
//! | 1 | t − r + half | t − r + half | e₁ |
//! | 2 | t − r + half | t − r | e₂ |
//! | 3 | t − r | t − r | e₀/6 + e₁/3 + e₂/3 + e₃/6 |
//!
//! S is not stored: call 1 derives it from x = A·S + C·e₀, with e₀ in the history; call 2 from x = A·S + C·e₁, with e₁ in slot 3, where it
//! stores A·S + C·(e₁ + e₂)/3 for call 3. A PLMS step goes from t to t − r by (55·e − 59·e₋₁ + 37·e₋₂ − 9·e₋₃)/24; slots 0 to 2 hold the
//! last three e in turn.

use super::ddim::{Alphas, TRAINED, checked_steps};
use super::{Form, Row, Solver, SolverError};

/// The number of Runge-Kutta groups; after them the history is full.
const GROUPS: usize = 3;

/// The slot for a group's partial sum.
const SUM: usize = GROUPS;

/// PNDM of order 4. Times are spaced from 0 ("leading"): multiples of 1000/N, rounded down, with those of the warm-up between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pndm {
    alphas: Alphas,
    steps: usize,
}

impl Pndm {
    /// A solver of `steps` steps, with `steps + 9` evaluations of the model.
    ///
    /// # Errors
    /// [`SolverError::Steps`]: 4 to 1000.
    pub fn new(alphas: Alphas, steps: usize) -> Result<Pndm, SolverError> {
        checked_steps(steps, GROUPS + 1)?;
        Ok(Pndm { alphas, steps })
    }

    /// The four evaluations of a group from time `t`.
    fn group(&self, group: usize, t: usize, interval: usize) -> [Row; 4] {
        let (half, to) = (interval / 2, t - interval);
        let (x, e) = (Form::LATENTS, Form::PREDICTION);
        let (first, sum) = (Form::kept(group), Form::kept(SUM));
        let [(a0, c0), (a1, c1), (a2, c2)] = [t - half, to + half, to].map(|p| self.alphas.transfer(t, Some(p)));
        let step = |start: Form, a: f64, e: Form, c: f64| start * a + e * c;
        let start1 = (x - first * c0) * (1.0 / a0);
        let start2 = (x - sum * c1) * (1.0 / a1);
        [
            Row::new(t as f32, step(x, a0, e, c0)).keeping(group, e),
            Row::new((to + half) as f32, step(start1, a1, e, c1)).keeping(SUM, e),
            Row::new((to + half) as f32, step(start2, a2, e, c2)).keeping(SUM, step(start2, a2, sum + e, c2 / 3.0)),
            Row::new(to as f32, step(sum, 1.0, first + e, c2 / 6.0)),
        ]
    }

    /// PLMS step `i`, from time `t`.
    fn multistep(&self, i: usize, t: usize, interval: usize) -> Row {
        let (a, c) = self.alphas.transfer(t, t.checked_sub(interval));
        let [oldest, middle, newest] = [0, 1, 2].map(|age| Form::kept((i + age) % GROUPS));
        let e = (Form::PREDICTION * 55.0 - newest * 59.0 + middle * 37.0 - oldest * 9.0) * (1.0 / 24.0);
        Row::new(t as f32, Form::LATENTS * a + e * c).keeping(i % GROUPS, Form::PREDICTION)
    }
}

impl Solver for Pndm {
    fn rows(&self) -> Vec<Row> {
        let interval = TRAINED / self.steps;
        let time = |step: usize| (self.steps - 1 - step) * interval;
        let groups = (0..GROUPS).flat_map(|group| self.group(group, time(group), interval));
        let multistep = (GROUPS..self.steps).map(|step| self.multistep(step - GROUPS, time(step), interval));
        groups.chain(multistep).collect()
    }
}
