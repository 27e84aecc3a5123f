//! From a target to a codebook: searches over the recorded runs, real runs of the best candidates, repeated until the target is met.

use super::error::CalibrateError;
use super::proxy::{self, Proxy};
use super::search::{Bends, Candidate, Probe, Search};
use super::tape::{Bend, Tape};
use super::weights;
use crate::cache::{AdaCacheConfig, CacheConfig, Decision, Extrapolation};
use crate::pipeline::FlopCount;

/// The maximum PSNR in dB counted for a video: about the level of rounding to 8 bits, so that any improvement beyond it is invisible.
/// Without this limit a codebook that computes every step of a few videos, which are then equal, would have the best mean with all others
/// spoilt.
pub const MOST_PSNR: f64 = 60.0;
/// The accepted relative deviation from the requested speed-up.
pub const TOLERANCE: f64 = 0.05;
/// Within this deviation no further runs are spent.
const NEAR: f64 = 0.02;
/// The same above a requested PSNR, in dB.
const NEAR_PSNR: f64 = 0.2;
/// The maximum change of compute between two runs, in nepers.
const MOST_MOVE: f64 = 0.5;

/// The number of codebooks that a search descends from: the best of all starting points.
const DESCENTS: usize = 10;

/// The target of a calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Operations of computing every step over those with the cache, summed over the prompts.
    SpeedUp(f64),
    /// Mean PSNR in dB of the pixels against the runs that compute every step, with minimal compute.
    Psnr(f64),
}

/// Steps that AdaCache always computes: the first two and the last two.
const FORCED: usize = 4;

fn too_fast(speed_up: f64, steps: usize, most: f64) -> CalibrateError {
    CalibrateError::Target(format!(
        "a speed-up of {speed_up} cannot be reached in {steps} steps: AdaCache always computes the first two and the last two, which allows {most:.2}; \
         ask for less, or take more --steps"
    ))
}

impl Target {
    /// Checks what can be checked before anything has run.
    ///
    /// # Errors
    /// The target is not a sensible number, or out of reach in `steps` steps even if a reused step cost nothing.
    pub fn check(self, steps: usize) -> Result<(), CalibrateError> {
        let error = |text: String| Err(CalibrateError::Target(text));
        match self {
            Target::SpeedUp(speed_up) if !(speed_up > 1.0 && speed_up.is_finite()) => {
                error(format!("a speed-up of {speed_up}: give a number above 1, as 2.5"))
            }
            Target::Psnr(psnr) if !(psnr > 0.0 && psnr < MOST_PSNR) => {
                error(format!("a PSNR of {psnr} dB: give a number between 0 and {MOST_PSNR}, as 28"))
            }
            _ if steps <= FORCED => error(format!(
                "in {steps} steps there is nothing to reuse: AdaCache always computes the first two and the last two"
            )),
            Target::SpeedUp(speed_up) if speed_up * FORCED as f64 > steps as f64 => {
                Err(too_fast(speed_up, steps, steps as f64 / FORCED as f64))
            }
            _ => Ok(()),
        }
    }
}

/// One prompt, generated with a codebook.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The computed steps.
    pub computed: Vec<usize>,
    /// The decisions.
    pub decisions: Vec<Decision>,
    /// PSNR in dB of the pixels against the run that computes every step; infinite if they are equal.
    pub psnr: f64,
}

impl Run {
    /// PSNR in dB, at most [`MOST_PSNR`].
    pub fn bounded_psnr(&self) -> f64 {
        self.psnr.min(MOST_PSNR)
    }
}

/// The mean outcome of `runs`, if steps cost `flops`.
pub fn mean_outcome(runs: &[Run], flops: FlopCount) -> Outcome {
    let steps = flops.all_computed / flops.computed_step.max(1);
    let total = |run: &Run| {
        let computed = run.computed.len() as u64;
        (computed * flops.computed_step + (steps - computed) * flops.reused_step) as f64
    };
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    Outcome { compute: mean(&total) / flops.all_computed as f64, psnr: Some(mean(&Run::bounded_psnr)) }
}

/// Makes real runs.
pub trait Bench {
    /// Generates every prompt with `cache`; returns the runs in the order of the tapes.
    ///
    /// # Errors
    /// A run failed, or the user stopped it.
    fn run(&mut self, cache: &CacheConfig) -> Result<Vec<Run>, CalibrateError>;

    /// Called for every codebook that was tried.
    fn tried(&mut self, _tried: &Tried) {}
}

/// Means over the prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Operations relative to those of the runs that compute every step.
    pub compute: f64,
    /// PSNR in dB; `None` if there is no basis for a prediction yet.
    pub psnr: Option<f64>,
}

impl Outcome {
    /// Operations of computing every step over those with the cache.
    pub fn speed_up(&self) -> f64 {
        1.0 / self.compute
    }
}

/// A codebook and its real runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// The settings.
    pub config: AdaCacheConfig,
    /// How reused steps extrapolate the fold; `None` if they use the last one unchanged.
    pub extrapolation: Option<Extrapolation>,
    /// The codebook that this one is scaled from, from 0: the current preset, once for each order of extrapolation that is tried.
    pub shape: usize,
    /// The prediction before the runs.
    pub predicted: Outcome,
    /// The outcome of the runs.
    pub achieved: Outcome,
    /// The runs, by prompt.
    pub runs: Vec<Run>,
}

impl Tried {
    /// The whole cache policy.
    pub fn cache(&self) -> CacheConfig {
        extrapolated(&self.config, self.extrapolation)
    }

    fn psnr(&self) -> f64 {
        self.achieved.psnr.unwrap_or(MOST_PSNR)
    }
}

fn extrapolated(config: &AdaCacheConfig, extrapolation: Option<Extrapolation>) -> CacheConfig {
    let config = CacheConfig::AdaCache(config.clone());
    match extrapolation {
        Some(extrapolation) => config.extrapolated(extrapolation),
        None => config,
    }
}

/// Dampings that are compared by replays; among equals the first is chosen.
const DAMPINGS: [f64; 11] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5];

/// The effort of a calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Orders of extrapolation to try with the current preset; the search uses the best. None: no extrapolation.
    pub orders: Vec<usize>,
    /// Codebooks of the search that are verified by real runs, besides the current preset.
    pub verify: usize,
    /// The maximum number of real runs per prompt.
    pub rounds: usize,
}

/// The result.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The best settings, with their predicted and achieved outcomes.
    pub best: Tried,
    /// Whether they meet the target.
    pub met: bool,
    /// Every codebook that was tried, in order.
    pub tried: Vec<Tried>,
    /// Rank correlation of the replays' error and the real PSNR over all runs that extrapolate like the best one, both relative to the mean
    /// of their prompt; `None` if there are too few.
    pub rank_correlation: Option<f64>,
    /// How far real distances of the best one's probe over several steps fell short of the sum of the recorded ones.
    pub bend: Bend,
    /// The weight of each step's error: see [`Tape::error`].
    pub weights: Vec<f64>,
}

/// Finds a codebook for `target`. `presets`: the current settings to start from; the result must beat the first.
///
/// # Errors
/// The target cannot be reached at all, or a run failed.
pub fn calibrate(
    tapes: Vec<Tape>,
    flops: FlopCount,
    presets: &[AdaCacheConfig],
    target: Target,
    effort: &Effort,
    bench: &mut dyn Bench,
) -> Result<Calibrated, CalibrateError> {
    let prior = tapes[0].weights().to_vec();
    let search = Search { tapes, flops, bends: Bends::default() };
    let mut drive = Drive { search, prior, extrapolation: None, target, bench, tried: vec![] };
    let least = drive.search.least_compute(&presets[0]);
    let mut compute = drive.first_compute(&presets[0], least)?;

    // The present preset: what has to be beaten, and what teaches how replays and real runs differ. Each order of it is a shape.
    let orders =
        if effort.orders.is_empty() { &[0] } else { &effort.orders[..effort.orders.len().min(effort.rounds.max(1))] };
    for (shape, &order) in orders.iter().enumerate() {
        let extrapolation = drive.damped(order, &presets[0], compute);
        drive.extrapolate(extrapolation);
        drive.try_at(&presets[0], shape, compute)?;
    }
    let best = drive.best_at(compute);
    let (preset, extrapolation) = (best.shape, best.extrapolation);
    drive.extrapolate(extrapolation);
    if let Target::Psnr(_) = target {
        for _ in 0..2 {
            if drive.tried.len() >= effort.rounds
                || drive.is_near(drive.tried.iter().rfind(|tried| tried.shape == preset).expect("it was tried"))
            {
                break;
            }
            compute = drive.next_compute(&presets[0], preset, least);
            drive.try_at(&presets[0], preset, compute)?;
        }
        compute = drive.next_compute(&presets[0], preset, least);
    }

    // Every search knows more of the real runs than the one before.
    for shape in (orders.len()..).take(effort.verify) {
        if drive.tried.len() < effort.rounds
            && let Some(candidate) = drive.search(presets, compute)
        {
            drive.try_at(&candidate.config, shape, compute)?;
        }
    }

    let real_compute = match target {
        Target::SpeedUp(speed_up) => 1.0 / speed_up,
        Target::Psnr(_) => compute,
    };
    let winner = drive.best_at(real_compute).clone();
    drive.extrapolate(winner.extrapolation);
    while drive.tried.len() < effort.rounds && !drive.tried.iter().any(|t| t.shape == winner.shape && drive.is_near(t))
    {
        let next = drive.next_compute(&winner.config, winner.shape, least);
        let before = drive.tried.len();
        drive.try_at(&winner.config, winner.shape, next)?;
        // Between two scales that replay alike there is nothing more to find.
        let (earlier, last) = drive.tried.split_at(before);
        if earlier.iter().any(|t| t.cache() == last[0].cache()) {
            break;
        }
    }
    Ok(drive.finish(real_compute))
}

struct Drive<'a> {
    search: Search,
    /// The weights of steps until there are real runs.
    prior: Vec<f64>,
    /// The extrapolation of the search: runs with another one have other errors, and do not inform this one's weights.
    extrapolation: Option<Extrapolation>,
    target: Target,
    bench: &'a mut dyn Bench,
    tried: Vec<Tried>,
}

impl Drive<'_> {
    /// The compute to start from.
    fn first_compute(&self, preset: &AdaCacheConfig, least: f64) -> Result<f64, CalibrateError> {
        let steps = self.search.tapes[0].steps();
        self.target.check(steps)?;
        match self.target {
            Target::SpeedUp(speed_up) if 1.0 / speed_up < least => Err(too_fast(speed_up, steps, 1.0 / least)),
            Target::SpeedUp(speed_up) => Ok(1.0 / speed_up),
            Target::Psnr(_) => Ok(self.search.estimate(preset).compute.clamp(least * 1.05, 0.95)),
        }
    }

    /// The best codebook at `compute` that has not been tried yet.
    fn search(&self, presets: &[AdaCacheConfig], compute: f64) -> Option<Candidate> {
        let starts = presets.iter().flat_map(|preset| self.search.starts(preset));
        let mut starts: Vec<Candidate> = starts.filter_map(|start| self.search.at(&start, compute)).collect();
        starts.sort_by(|a, b| a.at_compute.total_cmp(&b.at_compute));
        starts.truncate(DESCENTS);
        let found = starts.iter().filter_map(|start| self.search.descend(&start.config, compute));
        let new = found.filter(|candidate| !self.alike().any(|tried| tried.config == candidate.config));
        new.min_by(|a, b| a.at_compute.total_cmp(&b.at_compute))
    }

    /// Real runs of `shape`, scaled to the replayed compute `compute` as closely as possible.
    fn try_at(&mut self, shape: &AdaCacheConfig, number: usize, compute: f64) -> Result<(), CalibrateError> {
        let (config, estimate) = match self.search.at(shape, compute) {
            Some(candidate) => (candidate.config, candidate.estimate),
            // A codebook without a rate for this compute: it is tried as it is.
            None => (shape.clone(), self.search.estimate(shape)),
        };
        let known = self.alike().next().is_some();
        let psnr = known.then(|| self.proxy().psnr(estimate.ln_error).min(MOST_PSNR));
        let predicted = Outcome { compute: estimate.compute, psnr };
        let runs = self.bench.run(&extrapolated(&config, self.extrapolation))?;
        let achieved = mean_outcome(&runs, self.search.flops);
        let extrapolation = self.extrapolation;
        let tried = Tried { config, extrapolation, shape: number, predicted, achieved, runs };
        self.bench.tried(&tried);
        self.tried.push(tried);
        self.extrapolate(self.extrapolation);
        Ok(())
    }

    /// The extrapolation of `order` with the damping that minimises the error of replays of `shape`, before any real run with it; `None`
    /// for order 0.
    fn damped(&mut self, order: usize, shape: &AdaCacheConfig, compute: f64) -> Option<Extrapolation> {
        if order == 0 {
            return None;
        }
        let config = self.search.at(shape, compute).map_or_else(|| shape.clone(), |candidate| candidate.config);
        for tape in &mut self.search.tapes {
            tape.weigh(&self.prior);
            tape.bound(f64::NEG_INFINITY);
        }
        let errors = DAMPINGS.map(|damping| {
            let extrapolation = Some(Extrapolation { order, damping });
            self.search.tapes.iter_mut().for_each(|tape| tape.extrapolate(extrapolation));
            self.search.estimate(&config).ln_error
        });
        let best = DAMPINGS.into_iter().zip(errors).min_by(|a, b| a.1.total_cmp(&b.1));
        best.map(|(damping, _)| Extrapolation { order, damping })
    }

    /// Searches with this extrapolation from now on, using the errors of the real runs made with it.
    fn extrapolate(&mut self, extrapolation: Option<Extrapolation>) {
        self.extrapolation = extrapolation;
        self.search.tapes.iter_mut().for_each(|tape| tape.extrapolate(extrapolation));
        self.search.bends = self.bends();
        let weights = weights::fit(&self.prior, &self.samples());
        self.search.tapes.iter_mut().for_each(|tape| tape.weigh(&weights));
        // Where the line through a prompt's runs comes to the most a video counts for.
        let points = self.points();
        let slope = Proxy::fit(&points).slope;
        for (tape, runs) in self.search.tapes.iter_mut().zip(&points) {
            let (ln_error, psnr) = proxy::mean(runs);
            tape.bound(if runs.is_empty() { f64::NEG_INFINITY } else { ln_error - (MOST_PSNR - psnr) / slope });
        }
    }

    /// The codebooks tried with the current extrapolation.
    fn alike(&self) -> impl Iterator<Item = &Tried> {
        self.tried.iter().filter(|tried| tried.extrapolation == self.extrapolation)
    }

    /// The bends estimated from all real runs so far.
    fn bends(&self) -> Bends {
        let rows = |tried: &Tried| {
            let runs = self.search.tapes.iter().zip(&tried.runs);
            runs.flat_map(|(tape, run)| tape.follow(&tried.config, &run.decisions)).collect::<Vec<_>>()
        };
        let mut by_probe: Vec<(Probe, Vec<_>)> = vec![];
        for tried in &self.tried {
            let probe = Probe::of(&tried.config);
            match by_probe.iter_mut().find(|(known, _)| *known == probe) {
                Some((_, known)) => known.extend(rows(tried)),
                None => by_probe.push((probe, rows(tried))),
            }
        }
        let others = Bend::fit(by_probe.iter().flat_map(|(_, rows)| rows.iter().copied()));
        let known = by_probe.into_iter().map(|(probe, rows)| (probe, Bend::fit(rows))).collect();
        Bends { known, others }
    }

    /// `of` applied to the real runs with the current extrapolation, by prompt.
    fn by_prompt<T>(&self, of: impl Fn(&Tape, &Run) -> T) -> Vec<Vec<T>> {
        let tapes = self.search.tapes.iter().enumerate();
        tapes.map(|(i, tape)| self.alike().map(|tried| of(tape, &tried.runs[i])).collect()).collect()
    }

    fn samples(&self) -> Vec<Vec<weights::Sample>> {
        self.by_prompt(|tape, run| (tape.shares(&run.computed).collect(), run.bounded_psnr()))
    }

    /// (ln error, PSNR).
    fn points(&self) -> Vec<Vec<(f64, f64)>> {
        self.by_prompt(|tape, run| (proxy::ln_error(tape.error(&run.computed)), run.bounded_psnr()))
    }

    fn proxy(&self) -> Proxy {
        Proxy::fit(&self.points())
    }

    /// Predicted dB per neper of compute, for `shape` around `compute`.
    fn slope(&self, shape: &AdaCacheConfig, compute: f64) -> f64 {
        const STEP: f64 = 1.1;
        let error = |compute: f64| self.search.at(shape, compute).map(|candidate| candidate.at_compute);
        let slope = match (error(compute / STEP), error((compute * STEP).min(1.0))) {
            (Some(less), Some(more)) => self.proxy().slope * (less - more) / (2.0 * STEP.ln()),
            _ => 0.0,
        };
        // Where the replays say nothing: twice the compute, half the error.
        if slope > 0.0 { slope } else { self.proxy().slope }
    }

    /// The targeted value of `tried`, which rises with compute.
    fn value(&self, tried: &Tried) -> f64 {
        match self.target {
            Target::SpeedUp(_) => tried.achieved.compute.ln(),
            Target::Psnr(_) => tried.psnr(),
        }
    }

    fn goal(&self) -> f64 {
        match self.target {
            Target::SpeedUp(speed_up) => -speed_up.ln(),
            Target::Psnr(psnr) => psnr + NEAR_PSNR / 2.0,
        }
    }

    fn is_near(&self, tried: &Tried) -> bool {
        self.is_within(tried, NEAR)
    }

    fn is_within(&self, tried: &Tried, tolerance: f64) -> bool {
        match self.target {
            Target::SpeedUp(speed_up) => (tried.achieved.speed_up() / speed_up - 1.0).abs() <= tolerance,
            Target::Psnr(psnr) => (psnr..=psnr + NEAR_PSNR).contains(&tried.psnr()),
        }
    }

    /// The replayed compute at which to try `shape` next.
    fn next_compute(&self, shape: &AdaCacheConfig, number: usize, least: f64) -> f64 {
        let of_shape = self.tried.iter().filter(|tried| tried.shape == number);
        let known: Vec<(f64, f64)> =
            of_shape.map(|t| (self.search.estimate(&t.config).compute.ln(), self.value(t))).collect();
        let slope = match self.target {
            Target::SpeedUp(_) => 1.0,
            Target::Psnr(_) => self.slope(shape, known.last().map_or(0.5, |(x, _)| x.exp())),
        };
        next(&known, self.goal(), slope).exp().clamp(least, 1.0)
    }

    /// PSNR of `tried`, extrapolated to another compute.
    fn psnr_at(&self, tried: &Tried, compute: f64) -> f64 {
        let moved = (compute / tried.achieved.compute).ln();
        let slope =
            if moved == 0.0 { 0.0 } else { self.slope(&tried.config, self.search.estimate(&tried.config).compute) };
        tried.psnr() + slope * moved
    }

    fn best_at(&self, compute: f64) -> &Tried {
        let by = |a: &&Tried, b: &&Tried| self.psnr_at(a, compute).total_cmp(&self.psnr_at(b, compute));
        self.tried.iter().max_by(by).expect("the present preset was tried")
    }

    fn finish(mut self, compute: f64) -> Calibrated {
        let best = match self.target {
            // Of those as near as can be the best; else the nearest.
            Target::SpeedUp(_) => {
                let within = |tolerance| {
                    let near: Vec<&Tried> = self.tried.iter().filter(|t| self.is_within(t, tolerance)).collect();
                    near.into_iter().max_by(|a, b| self.psnr_at(a, compute).total_cmp(&self.psnr_at(b, compute)))
                };
                let far = |t: &&Tried| (t.achieved.compute / compute).ln().abs();
                let nearest = || self.tried.iter().min_by(|a, b| far(a).total_cmp(&far(b)));
                within(NEAR).or_else(|| within(TOLERANCE)).or_else(nearest)
            }
            // The least compute of those good enough; else the best.
            Target::Psnr(psnr) => {
                let enough = self.tried.iter().filter(|t| t.psnr() >= psnr);
                let least = enough.min_by(|a, b| a.achieved.compute.total_cmp(&b.achieved.compute));
                least.or_else(|| self.tried.iter().max_by(|a, b| a.psnr().total_cmp(&b.psnr())))
            }
        };
        let best = best.expect("the present preset was tried").clone();
        let met = match self.target {
            Target::SpeedUp(_) => self.is_within(&best, TOLERANCE),
            Target::Psnr(psnr) => best.psnr() >= psnr,
        };
        self.extrapolate(best.extrapolation);
        // By prompt: some are harder than others at the same error, which is no matter of codebooks.
        let points = self.points().into_iter().flat_map(|prompt| proxy::centered(&prompt));
        let (errors, psnrs): (Vec<f64>, Vec<f64>) = points.map(|(error, psnr)| (-error, psnr)).unzip();
        let rank_correlation = proxy::rank_correlation(&errors, &psnrs);
        let weights = self.search.tapes[0].weights().to_vec();
        Calibrated { met, rank_correlation, bend: self.search.bends.of(&best.config), weights, tried: self.tried, best }
    }
}

/// The next x to try at which a rising function may reach `goal`, given some of its points: between the nearest points around it, or beyond
/// the nearest by `slope`.
fn next(known: &[(f64, f64)], goal: f64, slope: f64) -> f64 {
    let below = known.iter().filter(|(_, y)| *y < goal).max_by(|a, b| a.0.total_cmp(&b.0));
    let above = known.iter().filter(|(_, y)| *y >= goal).min_by(|a, b| a.0.total_cmp(&b.0));
    match (below, above) {
        (Some(a), Some(b)) if a.0 < b.0 => {
            let part = (goal - a.1) / (b.1 - a.1);
            a.0 + part.clamp(0.1, 0.9) * (b.0 - a.0)
        }
        _ => {
            let (x, y) = known.last().copied().unwrap_or((0.0, goal));
            x + ((goal - y) / slope).clamp(-MOST_MOVE, MOST_MOVE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{AT, config, flops, tapes, trace};
    use super::*;

    /// Runs that bend more than a replay without bend predicts, with a quality that falls with the error, by a different amount for each
    /// prompt.
    struct Fake {
        tapes: Vec<Tape>,
        /// dB that an order of extrapolation gains.
        gains: [f64; 3],
        rounds: usize,
    }

    impl Bench for Fake {
        fn run(&mut self, cache: &CacheConfig) -> Result<Vec<Run>, CalibrateError> {
            self.rounds += 1;
            let extrapolation = match cache {
                CacheConfig::Taylor(config) => Some(config.extrapolation()),
                _ => None,
            };
            let order = extrapolation.map_or(0, |extrapolation| extrapolation.order);
            self.tapes.iter_mut().for_each(|tape| tape.extrapolate(extrapolation));
            let run = |(i, tape): (usize, &Tape)| {
                let played = tape.play(cache.adacache().unwrap(), Bend(0.4));
                let psnr = 10.0 + self.gains[order] + (i % 5) as f64 - 7.0 * played.error.ln();
                Run { computed: played.computed, decisions: played.decisions, psnr }
            };
            Ok(self.tapes.iter().enumerate().map(run).collect())
        }
    }

    fn fake() -> Fake {
        Fake { tapes: tapes(10, 24), gains: [0.0, 4.0, 2.0], rounds: 0 }
    }

    fn effort(orders: &[usize]) -> Effort {
        Effort { orders: orders.to_vec(), verify: 2, rounds: 8 }
    }

    fn presets() -> Vec<AdaCacheConfig> {
        vec![
            config(&[(0.045, 6), (0.06, 5), (0.08, 4), (0.11, 3), (0.15, 2), (1.0, 1)]),
            config(&[(0.05, 3), (0.09, 2), (1.0, 1)]),
        ]
    }

    fn calibrated(target: Target, orders: &[usize]) -> Result<Calibrated, CalibrateError> {
        let mut bench = fake();
        let effort = effort(orders);
        let found = calibrate(bench.tapes.clone(), flops(24), &presets(), target, &effort, &mut bench)?;
        assert_eq!(bench.rounds, found.tried.len());
        assert!(bench.rounds <= effort.rounds);
        Ok(found)
    }

    #[test]
    fn a_speed_up_is_hit_and_the_preset_beaten() {
        for speed_up in [1.6, 2.5] {
            let found = calibrated(Target::SpeedUp(speed_up), &[0]).unwrap();
            assert!(found.met && (found.best.achieved.speed_up() / speed_up - 1.0).abs() <= TOLERANCE, "{found:?}");
            assert!((found.bend.0 - 0.4).abs() < 1e-6, "{:?}", found.bend);
            let preset = &found.tried[0];
            assert!(found.best.psnr() > preset.psnr() + 0.1, "{} {}", found.best.psnr(), preset.psnr());
            assert!(found.rank_correlation.unwrap() > 0.95);
            assert_eq!(found.weights.len(), 24);
            // Once the bend is known, a replay tells what the runs will do.
            assert!((found.best.predicted.compute / found.best.achieved.compute - 1.0).abs() < 0.02);
            assert!((found.best.predicted.psnr.unwrap() - found.best.psnr()).abs() < 1.0);
        }
    }

    #[test]
    fn a_quality_is_kept_with_little_compute() {
        // What the slow preset has, for less than it computes.
        let runs = fake().run(&CacheConfig::AdaCache(presets()[1].clone())).unwrap();
        let slow = mean_outcome(&runs, flops(24));
        let psnr = slow.psnr.unwrap();
        let found = calibrated(Target::Psnr(psnr), &[0]).unwrap();
        assert!(found.met && (psnr..psnr + 1.5).contains(&found.best.psnr()), "{psnr}: {:?}", found.best.achieved);
        assert!(found.best.achieved.compute <= slow.compute, "{slow:?}: {:?}", found.best.achieved);
    }

    /// The search uses the order that is best with the preset, and learns its weights from that order's own runs.
    #[test]
    fn the_best_order_is_found() {
        let without = calibrated(Target::SpeedUp(2.0), &[0]).unwrap();
        let found = calibrated(Target::SpeedUp(2.0), &[0, 1, 2]).unwrap();
        let order = |tried: &Tried| tried.extrapolation.map_or(0, |extrapolation| extrapolation.order);
        let orders: Vec<usize> = found.tried.iter().map(order).collect();
        assert_eq!(orders[..3], [0, 1, 2]);
        assert!(orders.len() > 3 && orders[3..].iter().all(|order| *order == 1), "{orders:?}");
        assert!(found.met && order(&found.best) == 1 && found.best.psnr() > found.tried[1].psnr(), "{found:?}");
        assert!(found.best.psnr() > without.best.psnr() + 2.0);
        assert!(matches!(found.best.cache(), CacheConfig::Taylor(_)));
        // For a quality less is computed then.
        let psnr = without.best.psnr();
        let found = calibrated(Target::Psnr(psnr), &[0, 1]).unwrap();
        assert!(found.met && order(&found.best) == 1 && found.best.achieved.compute < without.best.achieved.compute);
    }

    /// Evenly changing folds are extrapolated without damping, however little they change.
    #[test]
    fn the_damping_that_errs_least() {
        for change in [0.05, 1e-6] {
            let tape = Tape::new(&trace(&[0.02; 23], &[change; 23]), &[AT], &[0.05; 24]).unwrap();
            let search = Search { tapes: vec![tape], flops: flops(24), bends: Bends::default() };
            let prior = search.tapes[0].weights().to_vec();
            let (target, mut bench) = (Target::SpeedUp(1.2), fake());
            let mut drive = Drive { search, prior, extrapolation: None, target, bench: &mut bench, tried: vec![] };
            assert_eq!(drive.damped(0, &presets()[1], 0.8), None);
            for order in [1, 2] {
                let whole = Extrapolation { order, damping: 1.0 };
                assert_eq!(drive.damped(order, &presets()[1], 0.8), Some(whole), "changes of {change}");
            }
        }
    }

    /// The first rounds are the preset's, and no target may exceed the given number of rounds.
    #[test]
    fn rounds_are_not_exceeded() {
        for target in [Target::SpeedUp(2.0), Target::Psnr(30.0), Target::Psnr(59.0)] {
            for rounds in [1, 2, 3, 4] {
                let mut bench = fake();
                let effort = Effort { orders: vec![0, 1, 2], verify: 3, rounds };
                let found = calibrate(bench.tapes.clone(), flops(24), &presets(), target, &effort, &mut bench).unwrap();
                assert!(bench.rounds <= rounds && found.tried.len() == bench.rounds, "{target:?}");
            }
        }
    }

    #[test]
    fn targets_out_of_reach_are_refused() {
        for (target, part) in [
            (Target::SpeedUp(f64::NAN), "NaN"),
            (Target::SpeedUp(1.0), "above 1"),
            (Target::SpeedUp(f64::INFINITY), "inf"),
            (Target::SpeedUp(7.0), "cannot be reached in 24 steps"),
            // Reused steps cost something: 24/4 is not quite reached.
            (Target::SpeedUp(6.0), "5.7"),
            (Target::Psnr(f64::NAN), "NaN"),
            (Target::Psnr(-3.0), "-3"),
            (Target::Psnr(200.0), "200"),
        ] {
            let message = calibrated(target, &[0]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(Target::SpeedUp(1.1).check(4).unwrap_err().to_string().contains("nothing to reuse"));
    }

    #[test]
    fn where_to_look_next() {
        // Nothing known: at the beginning. One point: by the slope, but not too far.
        assert_eq!(next(&[], 1.0, 2.0), 0.0);
        assert_eq!(next(&[(-1.0, 20.0)], 21.0, 4.0), -0.75);
        assert_eq!(next(&[(-1.0, 20.0)], 90.0, 4.0), -1.0 + MOST_MOVE);
        // Between two points: by the line through them, not at its very ends.
        assert_eq!(next(&[(-1.0, 20.0), (-0.5, 30.0), (0.0, 35.0)], 25.0, 4.0), -0.75);
        assert_eq!(next(&[(-1.0, 20.0), (0.0, 30.0)], 20.1, 4.0), -0.9);
    }

    #[test]
    fn equal_videos_do_not_make_a_mean_infinite() {
        let run = |psnr| Run { computed: vec![1, 2, 4], decisions: vec![], psnr };
        let flops = FlopCount { computed_step: 10, reused_step: 2, total: 0, all_computed: 40 };
        let outcome = mean_outcome(&[run(f64::INFINITY), run(20.0)], flops);
        assert_eq!(outcome, Outcome { compute: 0.8, psnr: Some((MOST_PSNR + 20.0) / 2.0) });
    }
}
