//! Targets are met, refused or missed by runs that a formula makes.

use super::*;
use crate::cache::CacheConfig;
use crate::calibrate::synthetic::{AT, config, flops, tapes, trace};

/// Runs that bend more than a replay without bend tells, with a quality that falls with the error, by another amount for each prompt.
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

/// The order that is best with the preset is searched with, and its own runs teach its weights.
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

/// Folds that move on evenly are extrapolated the whole way, however little they move.
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

/// The first rounds are the preset's, and no target may make more than asked for.
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
