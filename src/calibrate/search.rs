//! The search for a codebook over recorded runs: no model, no randomness.

use super::tape::{Bend, Tape};
use crate::cache::{AdaCacheConfig, Codebook, Metric, MotionRegularization, ResidualKind};
use crate::pipeline::FlopCount;

/// The minimum gain of a step of the descent, in nepers of error at equal compute.
const LEAST_GAIN: f64 = 1e-4;
/// The maximum number of passes over all neighbours of a codebook.
const MOST_SWEEPS: usize = 12;
/// The maximum number of entries of a codebook, as in the published ones.
const MOST_ENTRIES: usize = 6;
/// Factors on one threshold.
const NUDGES: [f64; 6] = [0.7, 0.87, 0.95, 1.05, 1.15, 1.4];
/// The largest change of ln scale that is tried.
const MOST_REACH: f64 = 8.0;
/// Halvings of an interval of scales: to 1/1000 of it.
const HALVINGS: usize = 10;

/// The replays of many prompts, and the cost of their steps.
#[derive(Clone, Debug)]
pub struct Search {
    /// One per prompt, with the same number of steps; at least one.
    pub tapes: Vec<Tape>,
    /// The cost of steps.
    pub flops: FlopCount,
    /// How far changes over several steps fall short of the sum of the changes between.
    pub bends: Bends,
}

/// Bends by probe: those of known probes and metrics, and one for those that no real run has used yet.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Bends {
    /// The bends of known probes and metrics.
    pub known: Vec<(Probe, Bend)>,
    /// The bend of all others.
    pub others: Bend,
}

impl Bends {
    /// The bend for settings that probe as `config` does.
    pub fn of(&self, config: &AdaCacheConfig) -> Bend {
        let probe = Probe::of(config);
        self.known.iter().find(|(known, _)| *known == probe).map_or(self.others, |(_, bend)| *bend)
    }
}

/// What settings measure: distances of settings that differ here are not comparable.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    metric: Metric,
    residual: ResidualKind,
    blocks: Vec<usize>,
}

impl Probe {
    /// The probe of `config`.
    pub fn of(config: &AdaCacheConfig) -> Probe {
        Probe { metric: config.metric, residual: config.residual, blocks: config.blocks.clone() }
    }
}

/// Means over the prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Operations relative to those of the runs that compute every step.
    pub compute: f64,
    /// Mean of ln error ([`Tape::error`]).
    pub ln_error: f64,
}

/// A codebook scaled to a compute.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The settings, with thresholds of four digits.
    pub config: AdaCacheConfig,
    /// Their estimated outcome.
    pub estimate: Estimate,
    /// ln error at exactly the requested compute, interpolated between the two nearest scales.
    pub at_compute: f64,
}

impl Search {
    /// Operations with `computed` computed steps, relative to computing every step.
    pub fn compute(&self, computed: f64) -> f64 {
        let steps = self.tapes[0].steps() as f64;
        let (c, r) = (self.flops.computed_step as f64, self.flops.reused_step as f64);
        (computed * c + (steps - computed) * r) / (steps * c)
    }

    /// Replays all prompts.
    pub fn estimate(&self, config: &AdaCacheConfig) -> Estimate {
        let count = self.tapes.len() as f64;
        let (mut computed, mut ln_error) = (0.0, 0.0);
        let bend = self.bends.of(config);
        for tape in &self.tapes {
            let played = tape.play(config, bend);
            computed += played.computed.len() as f64;
            ln_error += tape.ln_error(played.error);
        }
        Estimate { compute: self.compute(computed / count), ln_error: ln_error / count }
    }

    /// The minimum compute of AdaCache: the steps that it always computes.
    pub fn least_compute(&self, config: &AdaCacheConfig) -> f64 {
        let never = Codebook::new(vec![(1.0, self.tapes[0].steps().max(1))]).expect("one entry, a rate of at least 1");
        self.estimate(&AdaCacheConfig { codebook: never, moreg: None, ..config.clone() }).compute
    }

    /// `shape` with its thresholds scaled so that the replays reach `compute`; `None` if no scale does.
    pub fn at(&self, shape: &AdaCacheConfig, compute: f64) -> Option<Candidate> {
        let at = |ln_scale: f64| {
            let config = scaled(shape, ln_scale.exp());
            let estimate = self.estimate(&config);
            (config, estimate)
        };
        // Around the shape itself, then further out: a larger scale computes less.
        let mut reach = 0.1;
        let (mut low, mut high) = (-reach, reach);
        let (mut slow, mut fast) = (at(low), at(high));
        while slow.1.compute < compute && reach < MOST_REACH {
            (high, fast) = (low, slow);
            reach *= 2.0;
            low -= reach;
            slow = at(low);
        }
        while fast.1.compute > compute && reach < MOST_REACH {
            (low, slow) = (high, fast);
            reach *= 2.0;
            high += reach;
            fast = at(high);
        }
        if slow.1.compute < compute || fast.1.compute > compute {
            return None;
        }
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            let tried = at(middle);
            if tried.1.compute >= compute {
                (low, slow) = (middle, tried);
            } else {
                (high, fast) = (middle, tried);
            }
        }
        let [x0, x1] = [slow.1.compute.ln(), fast.1.compute.ln()];
        let [y0, y1] = [slow.1.ln_error, fast.1.ln_error];
        let part = if x0 == x1 { 0.0 } else { (x0 - compute.ln()) / (x0 - x1) };
        let (config, estimate) = if part < 0.5 { slow } else { fast };
        Some(Candidate { config, estimate, at_compute: y0 + part * (y1 - y0) })
    }

    /// The best codebook at `compute` that a descent from `start` finds: it changes one threshold, rate, entry or motion setting at a time,
    /// scales all thresholds to the compute, and keeps changes that lower the error.
    pub fn descend(&self, start: &AdaCacheConfig, compute: f64) -> Option<Candidate> {
        let mut best = self.at(start, compute)?;
        for _ in 0..MOST_SWEEPS {
            let before = best.at_compute;
            // Every change is of the codebook that is the best so far, so the list is made anew whenever one was kept.
            let mut next = 0;
            while let Some(neighbour) = neighbours(&best.config, self.tapes[0].steps()).into_iter().nth(next) {
                next += 1;
                if let Some(found) = self.at(&neighbour, compute)
                    && found.at_compute < best.at_compute - LEAST_GAIN
                {
                    best = found;
                }
            }
            if before - best.at_compute < LEAST_GAIN {
                break;
            }
        }
        Some(best)
    }

    /// Codebooks to start from, in the settings of `config`: its own, and some whose thresholds are quantiles of the changes from step to
    /// step; with motion regularization also all of them with one factor for all late steps.
    pub fn starts(&self, config: &AdaCacheConfig) -> Vec<AdaCacheConfig> {
        let every = AdaCacheConfig { codebook: Codebook::new(vec![(1.0, 1)]).expect("one entry"), ..config.clone() };
        let bend = self.bends.of(config);
        let played = self.tapes.iter().flat_map(|tape| tape.play(&every, bend).decisions);
        let mut distances: Vec<f64> = played.map(|d| d.distance).filter(|d| d.is_finite() && *d > 0.0).collect();
        distances.sort_by(f64::total_cmp);
        let mut starts = vec![AdaCacheConfig { codebook: tidy(&config.codebook), ..config.clone() }];
        for rates in [&[6, 5, 4, 3, 2, 1][..], &[8, 4, 2, 1], &[4, 3, 2], &[3, 1]] {
            let quantile = |i: usize| distances.get((i + 1) * distances.len() / (rates.len() + 1)).copied();
            let entries = rates.iter().enumerate().filter_map(|(i, rate)| Some((round(quantile(i)?), *rate)));
            // Distances that are all alike give no codebook.
            if let Ok(codebook) = Codebook::new(entries.collect()) {
                starts.push(AdaCacheConfig { codebook, ..config.clone() });
            }
        }
        // With an exponent of 0 a motion factor is 1/divisor whatever moves: late steps, whose errors count less, then reuse for longer.
        if let Some(moreg) = &config.moreg {
            let steps = self.tapes[0].steps();
            let [scale, _, divisor] = moreg.hyper;
            let late = |first: usize| MotionRegularization {
                steps: (first, steps),
                hyper: [scale, 0.0, 2.0 * divisor],
                gradient: 0.0,
                strides: moreg.strides.clone(),
            };
            let by_motion = starts.clone();
            for first in [steps.div_ceil(3), steps.div_ceil(2)] {
                let with = |start: &AdaCacheConfig| AdaCacheConfig { moreg: Some(late(first)), ..start.clone() };
                starts.extend(by_motion.iter().map(with));
            }
        }
        starts
    }
}

/// `codebook` without the entries whose rate equals that of the next.
fn tidy(codebook: &Codebook) -> Codebook {
    let entries = codebook.entries();
    let differs = |i: &usize| entries.get(i + 1).is_none_or(|next| next.1 != entries[*i].1);
    let kept = (0..entries.len()).filter(differs).map(|i| entries[i]).collect();
    Codebook::new(kept).expect("the last entry stays, and the order")
}

/// Rounds to four digits, the precision in files.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// `shape` with all thresholds times `scale`.
pub(super) fn scaled(shape: &AdaCacheConfig, scale: f64) -> AdaCacheConfig {
    let entries = shape.codebook.entries().iter().map(|(threshold, rate)| (round(threshold * scale), *rate)).collect();
    // Rounding can make two thresholds equal: then the shape stays as it is.
    let codebook = Codebook::new(entries).unwrap_or_else(|_| shape.codebook.clone());
    AdaCacheConfig { codebook, ..shape.clone() }
}

/// The settings one change away.
fn neighbours(config: &AdaCacheConfig, steps: usize) -> Vec<AdaCacheConfig> {
    let codebooks = codebooks_beside(&config.codebook, steps);
    let moregs = config.moreg.iter().flat_map(|moreg| moregs_beside(moreg, steps));
    let with_codebook = codebooks.into_iter().map(|codebook| AdaCacheConfig { codebook, ..config.clone() });
    with_codebook.chain(moregs.map(|moreg| AdaCacheConfig { moreg: Some(moreg), ..config.clone() })).collect()
}

/// The codebooks one change away: a threshold, a rate, an entry more or less.
fn codebooks_beside(codebook: &Codebook, steps: usize) -> Vec<Codebook> {
    let entries = codebook.entries();
    let mut books: Vec<Vec<(f64, usize)>> = vec![];
    let with = |i: usize, entry: (f64, usize)| {
        let mut book = entries.to_vec();
        book[i] = entry;
        book
    };
    for (i, &(threshold, rate)) in entries.iter().enumerate() {
        let bounds = (i.checked_sub(1).map_or(0.0, |i| entries[i].0), entries.get(i + 1).map_or(f64::MAX, |e| e.0));
        let nudged = NUDGES.iter().map(|nudge| round(threshold * nudge));
        books.extend(nudged.filter(|t| bounds.0 < *t && *t < bounds.1).map(|t| with(i, (t, rate))));
        // Rates fall strictly, so that no entry is for nothing.
        let most = i.checked_sub(1).map_or(steps, |i| entries[i].1 - 1);
        let least = entries.get(i + 1).map_or(1, |e| e.1 + 1);
        let rates = [rate + 1, rate - 1].into_iter().filter(|r| (least..=most).contains(r));
        books.extend(rates.map(|r| with(i, (threshold, r))));
        if entries.len() > 1 {
            let mut book = entries.to_vec();
            book.remove(i);
            books.push(book);
        }
        if entries.len() < MOST_ENTRIES {
            let mut between = |at: usize, entry| {
                let mut book = entries.to_vec();
                book.insert(at, entry);
                books.push(book);
            };
            match entries.get(i + 1) {
                Some((above, slower)) if rate > slower + 1 => between(i + 1, ((threshold * above).sqrt(), rate - 1)),
                None if rate > 1 => between(i + 1, (threshold * 1.4, rate - 1)),
                _ => {}
            }
            if i == 0 {
                between(0, (threshold * 0.7, rate + 1));
            }
        }
    }
    books.into_iter().filter_map(|book| Codebook::new(book).ok()).collect()
}

/// The motion regularizations one change away: an exponent, a divisor, a gradient, an end of the window.
fn moregs_beside(moreg: &MotionRegularization, steps: usize) -> Vec<MotionRegularization> {
    let [scale, exponent, divisor] = moreg.hyper;
    let hyper = |hyper| MotionRegularization { hyper, ..moreg.clone() };
    let gradient = |gradient| MotionRegularization { gradient, ..moreg.clone() };
    let (first, last) = moreg.steps;
    let windows = [1, 4].into_iter().flat_map(|by| {
        [(first + by, last), (first.saturating_sub(by), last), (first, last + by), (first, last.saturating_sub(by))]
    });
    let windows = windows.filter(|(first, last)| 1 <= *first && first <= last && *last <= steps);
    let mut changed = vec![
        hyper([scale, (exponent - 1.0).max(0.0), divisor]),
        hyper([scale, exponent + 1.0, divisor]),
        hyper([scale, exponent, round(divisor / 1.5)]),
        hyper([scale, exponent, round(divisor * 1.5)]),
        gradient(round(moreg.gradient / 2.0)),
        gradient(round(moreg.gradient * 2.0)),
        gradient(0.0),
    ];
    changed.extend(windows.map(|steps| MotionRegularization { steps, ..moreg.clone() }));
    changed
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{config, flops, tapes};
    use super::*;

    fn search(tapes: Vec<Tape>) -> Search {
        Search { flops: flops(tapes[0].steps()), tapes, bends: Bends { others: Bend(0.3), ..Bends::default() } }
    }

    #[test]
    fn a_shape_is_scaled_to_the_compute_asked_for() {
        let search = search(tapes(20, 30));
        let shape = config(&[(0.045, 6), (0.06, 5), (0.08, 4), (0.11, 3), (0.15, 2), (1.0, 1)]);
        for compute in [0.3, 0.45, 0.7] {
            let found = search.at(&shape, compute).unwrap();
            assert!((found.estimate.compute / compute - 1.0).abs() < 0.02, "{compute}: {found:?}");
            assert_eq!(search.estimate(&found.config), found.estimate);
            assert!((found.at_compute - found.estimate.ln_error).abs() < 0.2, "{found:?}");
        }
        // Two of a hundred parts of the thresholds' range cannot compute less than the first two and the last two steps.
        assert!((search.least_compute(&shape) - search.compute(4.0)).abs() < 1e-12);
        assert_eq!(search.at(&shape, search.compute(3.0)), None);
        // A codebook that knows one rate only has one compute.
        assert_eq!(search.at(&config(&[(1.0, 2)]), 0.3), None);
    }

    /// Every codebook of three entries on a grid, at the same compute; 0.02 nepers are 0.2 dB.
    #[test]
    fn the_descent_is_as_good_as_trying_everything() {
        for (count, steps, compute) in [(4, 10, 0.65), (6, 14, 0.5), (5, 20, 0.4)] {
            let search = search(tapes(count, steps));
            let mut least = f64::INFINITY;
            let thresholds = [0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0];
            for slow in 1..=2 {
                for middle in slow + 1..=4 {
                    for fast in middle + 1..=7 {
                        for (i, first) in thresholds.iter().enumerate() {
                            for second in &thresholds[i + 1..] {
                                let shape = config(&[(0.1 * first, fast), (0.1 * second, middle), (9.0, slow)]);
                                least = search.at(&shape, compute).map_or(least, |c| least.min(c.at_compute));
                            }
                        }
                    }
                }
            }
            let start = config(&[(0.1, 4), (0.2, 2), (1.0, 1)]);
            let starts = search.starts(&start);
            let found = starts.iter().filter_map(|start| search.descend(start, compute));
            let found = found.min_by(|a, b| a.at_compute.total_cmp(&b.at_compute)).unwrap();
            assert!(
                found.at_compute <= least + 0.02,
                "{steps} steps: {} found, {least} by trying all",
                found.at_compute
            );
            assert!((found.estimate.compute / compute - 1.0).abs() < 0.06, "{found:?}");
            // Twice the same.
            assert_eq!(search.descend(&start, compute), search.descend(&start, compute));
        }
    }

    #[test]
    fn neighbours_are_codebooks_that_differ() {
        let config = config(&[(0.05, 6), (0.1, 3), (1.0, 1)]);
        let all = neighbours(&config, 30);
        assert!(all.len() > 20 && all.iter().all(|other| other != &config));
        for other in &all {
            let rates: Vec<usize> = other.codebook.entries().iter().map(|e| e.1).collect();
            assert!(rates.windows(2).all(|pair| pair[0] > pair[1]), "{rates:?}");
        }
    }
}
