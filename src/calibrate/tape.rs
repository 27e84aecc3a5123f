//! The data of a recorded run that a search needs, prepared for many replays.

use std::convert::Infallible;
use std::ops::Range;

use super::proxy::{self, LEAST_ERROR};
use crate::cache::trace::{Trace, TraceError};
use crate::cache::{
    AdaCache, AdaCacheConfig, Decision, Extrapolation, Measurement, Plan, Policy, ProbePoint, computed_steps, ratio,
    walk,
};

/// A run with every step computed: the change of each probed residual between any two steps, and the distances between all its folds.
#[derive(Clone, Debug)]
pub struct Tape {
    steps: usize,
    /// The steps (from 0) of each expert: nothing is reused from one to the next, and what lies between them is not measured.
    spans: Vec<Range<usize>>,
    /// By probe point, by [`pair`]: chained over the steps between.
    changes: Vec<(ProbePoint, Vec<Measurement>)>,
    /// By [`pair`]: ‖fold − earlier fold‖₂².
    apart: Vec<f64>,
    /// By step, from the first: ‖fold‖₂.
    norms: Vec<f64>,
    /// How reused steps extrapolate the fold, if they do.
    extrapolation: Option<Extrapolation>,
    /// The weight of a reused step: see [`Tape::error`].
    weights: Vec<f64>,
    /// ln of the error below which the video is practically equal.
    least: f64,
}

/// The emphasis on early steps before there are real runs: dt · t^3, where t is the remaining way.
pub const EMPHASIS: f64 = 3.0;

/// A replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// The computed steps.
    pub computed: Vec<usize>,
    /// Its error: see [`Tape::error`].
    pub error: f64,
    /// Its decisions.
    pub decisions: Vec<Decision>,
}

/// How far the change over a gap of several steps falls short of the sum of the changes between, because these do not all go one way. Over
/// a gap of `n` steps the sum is multiplied by `n^−bend`; 0 keeps the sum.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Bend(pub f64);

impl Bend {
    fn share(self, gap: usize) -> f64 {
        (gap as f64).powf(-self.0)
    }

    /// The bend of real runs: least squares of ln(real distance / replayed distance) = −bend · ln gap, with replayed distances without bend
    /// at the same (gap, step). Returns 0 if there is no gap above 1.
    pub fn fit(gaps: impl IntoIterator<Item = (usize, f64, f64)>) -> Bend {
        let (mut above, mut below) = (0.0, 0.0);
        for (gap, real, replayed) in gaps {
            if gap > 1 && real > 0.0 && replayed > 0.0 {
                let x = (gap as f64).ln();
                above -= x * (real / replayed).ln();
                below += x * x;
            }
        }
        Bend(ratio(above, below))
    }
}

/// Whether two steps belong to the same expert.
fn together(spans: &[Range<usize>], step: usize, since: usize) -> bool {
    spans.iter().any(|span| span.contains(&(step - 1)) && span.contains(&(since - 1)))
}

/// The index of the pair of `since` and the later `step` among all pairs.
fn pair(step: usize, since: usize) -> usize {
    (step - 1) * (step - 2) / 2 + since - 1
}

impl Tape {
    /// Extracts from `trace` the data for a policy with probes at `points`; `deltas`: how far each step moves the latents (the schedule's
    /// dt).
    ///
    /// # Errors
    /// The trace lacks a measurement of a step against the step before.
    pub fn new(trace: &Trace, points: &[ProbePoint], deltas: &[f64]) -> Result<Tape, TraceError> {
        let changes = points.iter().map(|&at| Ok((at, pairs(trace, at)?))).collect::<Result<_, TraceError>>()?;
        let spans = trace.spans();
        let fold = |step, since| measured(trace, &spans, step, since, ProbePoint::Fold);
        let all = (2..=trace.steps).flat_map(|step| (1..step).map(move |since| (step, since)));
        let apart = all.map(|(step, since)| Ok(fold(step, since)?.sq_diff)).collect::<Result<_, TraceError>>()?;
        let norms = (1..trace.steps).map(|step| Ok(fold(step + 1, step)?.sq_kept.sqrt()));
        let norms = norms.collect::<Result<_, TraceError>>()?;
        Ok(Tape {
            steps: trace.steps,
            spans,
            changes,
            apart,
            norms,
            extrapolation: None,
            weights: weights(deltas),
            least: LEAST_ERROR.ln(),
        })
    }

    /// The weights of reused steps.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Sets the weights of reused steps.
    pub fn weigh(&mut self, weights: &[f64]) {
        self.weights = weights.to_vec();
    }

    /// Sets the extrapolation of reused steps; `None` uses the fold unchanged.
    pub fn extrapolate(&mut self, extrapolation: Option<Extrapolation>) {
        self.extrapolation = extrapolation;
    }

    /// Sets the lower bound of ln errors.
    pub fn bound(&mut self, ln_error: f64) {
        self.least = ln_error.max(LEAST_ERROR.ln());
    }

    /// ln of an `error` of this tape, with its lower bound.
    pub fn ln_error(&self, error: f64) -> f64 {
        proxy::ln_error(error).max(self.least)
    }

    /// Denoising steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The behaviour of AdaCache with these settings, whose probes must be among those of the tape.
    pub fn play(&self, config: &AdaCacheConfig, bend: Bend) -> Played {
        let (mut plans, mut decisions) = (vec![], vec![]);
        for Range { start, end } in self.spans.iter().cloned() {
            let mut policy = AdaCache::new(config.clone(), end - start);
            let change = |step, since, at| self.change(step + start, since + start, at, bend);
            let Ok::<_, Infallible>((planned, decided)) =
                walk(&mut policy, end - start, |step, since, at| Ok(change(step, since, at)));
            plans.extend(planned);
            decisions.extend(decided.into_iter().map(|decision| decision.after(start)));
        }
        let computed = computed_steps(&plans);
        Played { error: self.error(&computed), computed, decisions }
    }

    /// Pairs the decisions of a real run with those on this tape at the same steps with the same rates, without bend: (steps since the last
    /// computed one, real distance, replayed distance).
    pub fn follow(&self, config: &AdaCacheConfig, real: &[Decision]) -> Vec<(usize, f64, f64)> {
        self.spans.iter().flat_map(|span| self.follow_within(span, config, real)).collect()
    }

    /// As [`Tape::follow`], in the steps of one expert.
    fn follow_within(&self, span: &Range<usize>, config: &AdaCacheConfig, real: &[Decision]) -> Vec<(usize, f64, f64)> {
        let mut policy = AdaCache::new(config.clone(), span.len());
        let points = config.points();
        let (mut since, mut rows) = (None, vec![]);
        // Steps are those of the policy, which counts from the first of the expert.
        for step in 1..=span.len() {
            if policy.plan(step) == Plan::Reuse {
                continue;
            }
            let decisions = real.iter().filter(|d| d.step == step + span.start);
            if let Some(since) = since {
                for (probe, (&at, real)) in points.iter().zip(decisions).enumerate() {
                    let change = self.change(step + span.start, since + span.start, at, Bend(0.0));
                    let replayed = policy.observe(step, probe, &change);
                    policy.adopt(probe, &Decision { step, ..*real });
                    rows.extend(replayed.map(|d| (step - since, real.distance, d.distance)));
                }
            }
            since = Some(step);
        }
        rows
    }

    /// The change at `at` between two steps; zero if the tape does not have this point.
    pub fn change(&self, step: usize, since: usize, at: ProbePoint, bend: Bend) -> Measurement {
        let Some((_, changes)) = self.changes.iter().find(|(known, _)| *known == at) else {
            return Measurement::default();
        };
        let m = &changes[pair(step, since)];
        if step - since == 1 {
            return m.clone();
        }
        let share = bend.share(step - since);
        let sq_diff = m.sq_diff * share * share;
        let dot = (m.sq_kept + m.sq_fresh - sq_diff) / 2.0;
        Measurement { abs_diff: m.abs_diff * share, sq_diff, dot, ..m.clone() }
    }

    /// The error of computing only the steps `computed`: Σ weight · ‖fold − reused fold‖₂ / ‖last fold‖₂ over the reused steps, where the
    /// reused fold is the last one or the polynomial through the last ones, all as recorded. Weights are dt · t^3 with the noise level t (1
    /// at the first step, 0 after the last) until real runs provide others.
    pub fn error(&self, computed: &[usize]) -> f64 {
        self.shares(computed).zip(&self.weights).map(|(share, weight)| share * weight).sum()
    }

    /// The distance of each step's reused fold from its own, relative to the last one; 0 at computed steps.
    pub fn shares(&self, computed: &[usize]) -> impl Iterator<Item = f64> {
        // The steps computed last, the last one first.
        let mut known = vec![];
        let Extrapolation { order, damping } = self.extrapolation.unwrap_or(Extrapolation { order: 0, damping: 0.0 });
        (1..=self.steps).map(move |step| {
            if self.spans.iter().any(|span| span.start + 1 == step) {
                known.clear();
            }
            if computed.contains(&step) {
                known.insert(0, step);
                known.truncate(order + 1);
            }
            match known.first() {
                Some(&last) if last < step => {
                    self.distance(step, &known, damping) / self.norms[last - 1].max(f64::MIN_POSITIVE)
                }
                _ => 0.0,
            }
        })
    }

    /// The factor α of scaled extrapolation that fits these runs: least squares of `F(s) − F₀ = α·x·(F₀ − F₁)/d`, relative to ‖F₀‖, over all
    /// steps s whose last computed step is x < `most` steps before and the one before it d ≤ `most` further. `None` if no fold changes; 0 to
    /// 1, as the policy takes it.
    pub fn factor(tapes: &[Tape], most: usize) -> Option<f64> {
        let (mut above, mut below) = (0.0, 0.0);
        for tape in tapes {
            let far = |step: usize, since: usize| tape.apart[pair(step, since)];
            for last in 2..tape.steps {
                let size = tape.norms[last - 1].powi(2).max(f64::MIN_POSITIVE);
                for before in last.saturating_sub(most).max(1)..last {
                    let later = last + 1..=tape.steps.min(last + most.saturating_sub(1));
                    for step in later.filter(|step| together(&tape.spans, *step, before)) {
                        let way = (step - last) as f64 / (last - before) as f64;
                        // (F(s) − F₀)·(F₀ − F₁), from the three distances.
                        let product = (far(step, before) - far(step, last) - far(last, before)) / 2.0;
                        above += way * product / size;
                        below += way * way * far(last, before) / size;
                    }
                }
            }
        }
        (below > 0.0).then(|| (above / below).clamp(0.0, 1.0))
    }

    /// ‖fold − Σ a·known fold‖₂ at `step` with the polynomial's coefficients a, whose sum is 1, computed from distances alone: ‖Σ b·F‖² =
    /// −Σ over pairs of b·b'·‖F − F'‖² if the b sum to 0.
    fn distance(&self, step: usize, known: &[usize], damping: f64) -> f64 {
        let a = coefficients(step, known, damping);
        let mut square = 0.0;
        for (i, (&later, x)) in known.iter().zip(a).enumerate() {
            square += x * self.apart[pair(step, later)];
            for (&earlier, y) in known[i + 1..].iter().zip(&a[i + 1..]) {
                square -= x * y * self.apart[pair(later, earlier)];
            }
        }
        square.max(0.0).sqrt()
    }
}

/// The coefficients of the folds of the steps `known`, one to three, newest first, in the fold extrapolated to `step`: as in
/// `kernels/residual.cu`.
fn coefficients(step: usize, known: &[usize], damping: f64) -> [f64; 3] {
    let way = |from: usize, to: usize| (to - from) as f64;
    let x = damping * way(known[0], step);
    let mut a = [1.0, 0.0, 0.0];
    if let [last, before, ..] = *known {
        let first = x / way(before, last);
        (a[0], a[1]) = (1.0 + first, -first);
    }
    if let [last, before, oldest] = *known {
        let (d1, d2) = (way(before, last), way(oldest, before));
        let second = x * x / (2.0 * d1);
        a[0] += second / d1;
        a[1] -= second / d1 + second / d2;
        a[2] = second / d2;
    }
    a
}

/// dt · t^[`EMPHASIS`] of each step; t is the remaining way.
fn weights(deltas: &[f64]) -> Vec<f64> {
    let mut weights: Vec<f64> = deltas
        .iter()
        .rev()
        .scan(0.0, |left, delta| {
            *left += delta;
            Some(delta * left.powf(EMPHASIS))
        })
        .collect();
    weights.reverse();
    weights
}

/// The measurement at `at` between two steps; of two experts' there is none, and none is asked for.
fn measured(
    trace: &Trace,
    spans: &[Range<usize>],
    step: usize,
    since: usize,
    at: ProbePoint,
) -> Result<Measurement, TraceError> {
    if together(spans, step, since) { trace.between(step, since, at) } else { Ok(Measurement::default()) }
}

/// The changes at `at` between any two steps.
fn pairs(trace: &Trace, at: ProbePoint) -> Result<Vec<Measurement>, TraceError> {
    let spans = trace.spans();
    let neighbours: Vec<Measurement> =
        (2..=trace.steps).map(|step| measured(trace, &spans, step, step - 1, at)).collect::<Result<_, _>>()?;
    let mut all = vec![];
    for last in 0..neighbours.len() {
        let mut whole = neighbours[last].clone();
        let mut row = vec![whole.clone()];
        for earlier in neighbours[..last].iter().rev() {
            whole = earlier.then(&whole);
            row.push(whole.clone());
        }
        all.extend(row.into_iter().rev());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{AT, config, tapes, trace};
    use super::*;
    use crate::cache::trace::{Stage, TraceRecord};
    use crate::cache::{Anatomy, CacheConfig, MotionRegularization};

    #[test]
    fn the_error_by_hand() {
        let changes = [0.1, 0.2, 0.3, 0.4];
        let tape = Tape::new(&trace(&[0.5; 4], &changes), &[AT], &[1.0, 1.0, 1.0, 1.0, 2.0]).unwrap();
        // Step 2 since 1; step 4 since 3; step 5 since 3, at twice the way.
        for (share, by_hand) in tape.shares(&[1, 3]).zip([0.0, 0.1, 0.0, 0.3, 0.7]) {
            assert!((share - by_hand).abs() < 1e-12);
        }
        // The way left before the steps is 6, 5, 4, 3, 2.
        assert_eq!(tape.weights(), [216.0, 125.0, 64.0, 27.0, 2.0 * 8.0]);
        assert!((tape.error(&[1, 3]) - (125.0 * 0.1 + 27.0 * 0.3 + 16.0 * 0.7)).abs() < 1e-12);
        let mut tape = tape;
        tape.weigh(&[1.0, 1.0, 1.0, 1.0, 2.0]);
        assert!((tape.error(&[1, 3]) - (0.1 + 0.3 + 2.0 * 0.7)).abs() < 1e-12);
        assert_eq!(tape.error(&[1, 2, 3, 4, 5]), 0.0);
        // Changes that all go one way, so that the folds lie at 0, 0.1, 0.3, 0.6, 1 on a line.
        let extrapolation = |order, damping| Some(Extrapolation { order, damping });
        tape.extrapolate(extrapolation(1, 1.0));
        for (share, by_hand) in tape.shares(&[1, 2]).zip([0.0, 0.0, 0.3 - 0.2, 0.6 - 0.3, 1.0 - 0.4]) {
            assert!((share - by_hand).abs() < 1e-12, "{share} {by_hand}");
        }
        assert!((tape.shares(&[1, 3]).last().unwrap() - (1.0 - 0.6)).abs() < 1e-12);
        // One fold is taken as it is, with two the order is 1; a parabola through 1, 2 and 4: D = 0.25, and 0.1 before.
        tape.extrapolate(extrapolation(2, 1.0));
        let by_hand = [0.0, 0.0, 0.3 - 0.2, 0.0, 1.0 - (0.6 + 0.25 + 0.5 * (0.25 - 0.1) / 2.0)];
        for (share, by_hand) in tape.shares(&[1, 2, 4]).zip(by_hand) {
            assert!((share - by_hand).abs() < 1e-12, "{share} {by_hand}");
        }
        assert!((tape.shares(&[1]).last().unwrap() - 1.0).abs() < 1e-12);
        // Half of the way: half of the slope, a quarter of the curve.
        tape.extrapolate(extrapolation(2, 0.5));
        let by_hand = 1.0 - (0.6 + 0.25 / 2.0 + 0.5 * (0.25 - 0.1) / 2.0 / 4.0);
        assert!((tape.shares(&[1, 2, 4]).last().unwrap() - by_hand).abs() < 1e-12);
    }

    /// What was recorded of two experts is replayed as two runs, and scaled and weighed as one.
    #[test]
    fn experts_share_nothing() {
        let changes = [0.1, 0.2, 0.3, 0.4, 0.5];
        let mut trace = trace(&changes, &changes);
        trace.stages = [("high", 3), ("low", 3)].map(|(expert, steps)| Stage { expert: expert.into(), steps }).into();
        trace.records.retain(|record| record.step != 4);
        let tape = Tape::new(&trace, &[AT], &[1.0; 6]).unwrap();
        // Steps 2, 3 since 1; 5 since 4; the change from 3 to 4 is not known, and not missed.
        for (share, by_hand) in tape.shares(&[1, 4, 6]).zip([0.0, 0.1, 0.3, 0.0, 0.4, 0.0]) {
            assert!((share - by_hand).abs() < 1e-12, "{share} {by_hand}");
        }
        let config = config(&[(0.25, 3), (1.0, 1)]);
        let played = tape.play(&config, Bend(0.0));
        assert!(played.computed.starts_with(&[1, 2]) && played.computed.contains(&4), "{played:?}");
        let replayed = trace.play(&CacheConfig::AdaCache(config.clone()), &Anatomy::spatial_temporal(1)).unwrap();
        assert_eq!((played.computed, &played.decisions), (computed_steps(&replayed.0), &replayed.1));
        assert!(tape.follow(&config, &played.decisions).iter().all(|(_, real, replayed)| real == replayed));
    }

    #[test]
    fn without_bend_a_tape_replays_as_its_trace_does() {
        let changes: Vec<f64> = (2..=30).map(|s| 0.02 + 0.004 * f64::from((s - 14i32).abs())).collect();
        let trace = trace(&changes, &changes);
        let tape = Tape::new(&trace, &[AT], &[0.1; 30]).unwrap();
        let plain = config(&[(0.03, 6), (0.05, 3), (1.0, 1)]);
        let moreg = MotionRegularization { strides: vec![1], steps: (4, 26), hyper: [0.1, 2.0, 1.0], gradient: 2.0 };
        for config in [plain.clone(), AdaCacheConfig { moreg: Some(moreg), ..plain }] {
            let (_, decisions) = trace.replay(&mut AdaCache::new(config.clone(), 30)).unwrap();
            let played = tape.play(&config, Bend(0.0));
            assert_eq!(played.computed, trace.schedule(&mut AdaCache::new(config.clone(), 30)).unwrap());
            assert_eq!(played.decisions, decisions);
            // Beside itself nothing differs.
            let rows = tape.follow(&config, &played.decisions);
            assert_eq!(rows.len(), decisions.len());
            assert!(rows.iter().all(|(_, real, replayed)| real == replayed) && rows.iter().any(|row| row.0 > 1));
        }
        // A bend makes distances over several steps smaller, and so the cache reuse more.
        let config = config(&[(0.03, 6), (0.05, 3), (1.0, 1)]);
        assert!(tape.play(&config, Bend(0.5)).computed.len() < tape.play(&config, Bend(0.0)).computed.len());
        assert_eq!(tape.play(&config, Bend(0.5)).decisions[0], tape.play(&config, Bend(0.0)).decisions[0]);
    }

    #[test]
    fn the_bend_of_real_runs_is_found() {
        let rows = [1, 2, 3, 4, 6].map(|gap| (gap, 0.3 * (gap as f64).powf(-0.37), 0.3));
        assert!((Bend::fit(rows).0 - 0.37).abs() < 1e-12);
        // A real run made on the tape itself with a bend shows that bend.
        let tape = &tapes(1, 30)[0];
        let config = config(&[(0.08, 5), (0.2, 3), (0.3, 2)]);
        let real = tape.play(&config, Bend(0.25)).decisions;
        assert!((Bend::fit(tape.follow(&config, &real)).0 - 0.25).abs() < 1e-9);
        assert_eq!(Bend::fit([]), Bend(0.0));
        assert_eq!(Bend::fit([(1, 0.2, 0.1), (2, 0.0, 0.1)]), Bend(0.0));
    }

    /// Against least squares over the folds themselves.
    #[test]
    fn the_factor_of_scaled_extrapolation() {
        let (steps, most) = (9usize, 4usize);
        let factor = |fold: &dyn Fn(usize) -> Vec<f32>| {
            let pairs = (2..=steps).flat_map(|step| (1..step).map(move |since| (step, since)));
            let record = |(step, since)| TraceRecord {
                step,
                since,
                at: ProbePoint::Fold,
                measurement: Measurement::of(&fold(step), &fold(since)),
            };
            let trace = Trace { steps, records: pairs.map(record).collect(), ..Trace::default() };
            Tape::factor(&[Tape::new(&trace, &[], &[0.1; 9]).unwrap()], most)
        };
        let bent = |step: usize| {
            let s = step as f32;
            vec![7.0 + s, 2.0 * s.sqrt(), (1.3 * s).sin()]
        };
        let less =
            |a: usize, b: usize| -> Vec<f64> { bent(a).iter().zip(bent(b)).map(|(a, b)| f64::from(a - b)).collect() };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (mut above, mut below) = (0.0, 0.0);
        for last in 2..steps {
            let size: f64 = bent(last).iter().map(|v| f64::from(v * v)).sum();
            for before in (1..last).filter(|before| last - before <= most) {
                for step in (last + 1..=steps).filter(|step| step - last < most) {
                    let way = (step - last) as f64 / (last - before) as f64;
                    let line: Vec<f64> = less(last, before).iter().map(|v| way * v).collect();
                    above += dot(&less(step, last), &line) / size;
                    below += dot(&line, &line) / size;
                }
            }
        }
        let exact = above / below;
        assert!(exact > 0.1 && exact < 0.99, "{exact}");
        assert!((factor(&bent).unwrap() - exact).abs() < 1e-5, "{:?} {exact}", factor(&bent));
        // A straight way is gone to its end; without a change there is no way.
        assert!((factor(&|step| vec![2.0, step as f32]).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(factor(&|_| vec![1.0, 2.0]), None);
    }

    #[test]
    fn a_trace_without_the_fold_is_refused() {
        let mut trace = trace(&[0.1, 0.1], &[0.1, 0.1]);
        trace.records.retain(|record| record.at == AT || record.step == 2);
        let message = Tape::new(&trace, &[AT], &[0.1; 3]).unwrap_err().to_string();
        assert!(message.contains("`fold`") && message.contains("3"), "{message}");
    }
}
