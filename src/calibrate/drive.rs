//! From a target to a codebook: searches over the recorded runs, real runs of the best candidates, repeated until the target is met.

use super::error::CalibrateError;
use super::proxy::{self, Proxy};
use super::search::{Bends, Candidate, Probe, Search};
use super::tape::{Bend, Tape};
use super::target::{Bench, Calibrated, Effort, Outcome, Run, Target, Tried, extrapolated, mean_outcome, too_fast};
use super::weights;
use crate::cache::{AdaCacheConfig, Extrapolation};
use crate::pipeline::FlopCount;
use crate::quality::MOST_PSNR;

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

/// Dampings that are compared by replays; among equals the first is chosen.
const DAMPINGS: [f64; 11] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5];

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
    // Long, as its phases share what was found before: the present preset, searches, scales of the winner.
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
mod tests;
