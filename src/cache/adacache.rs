//! Adaptive Caching (arXiv 2411.02397) with Motion Regularization, as the published code computes it.
//!
//! Where paper and code differ, this module follows the code: there is one global rate; the first step and the last two are always computed
//! and, like every computed step, restart the count; all norms run over the whole guidance batch.

use crate::ops::decide::{DecisionRule, Distance, MotionRule};

use super::adacache_config::{AdaCacheConfig, Metric, MotionRegularization, ResidualKind};
use super::anatomy::Anatomy;
use super::block::Span;
use super::measurement::{Measurement, ratio};
use super::point::ProbePoint;
use super::policy::{Decision, Plan, Policy, Probes};
use super::settings::{CacheError, Settings, invalid};

/// The AdaCache policy of one generation. Every generation starts with fresh state.
#[derive(Clone, Debug)]
pub struct AdaCache {
    config: AdaCacheConfig,
    points: Vec<ProbePoint>,
    steps: usize,
    /// Steps from one computed step to the next, set by the last decision.
    rate: usize,
    /// The rate in force when the current computed step was planned: every probe of a forward pass divides by it.
    planned_rate: usize,
    previous_compute: usize,
    /// Running mean of the distances of this forward pass's probes, before the motion factor.
    mean: f64,
    /// The motion factor each probe saw last.
    motion_previous: Vec<f64>,
}

impl AdaCache {
    /// A policy for a generation of `steps` steps.
    pub fn new(config: AdaCacheConfig, steps: usize) -> AdaCache {
        let points = config.points();
        AdaCache {
            motion_previous: vec![1.0; points.len()],
            points,
            config,
            steps,
            rate: 1,
            planned_rate: 1,
            previous_compute: 0,
            mean: 0.0,
        }
    }

    fn distance(&self, m: &Measurement) -> f64 {
        match self.config.metric {
            Metric::L1 => ratio(m.abs_diff, m.abs_kept),
            Metric::L2 => ratio(m.sq_diff, m.sq_kept).sqrt(),
            // Rounding can push the cosine of equal residuals past 1.
            Metric::Cosine => (1.0 - ratio(m.dot, (m.sq_fresh * m.sq_kept).sqrt())).max(0.0),
        }
    }

    /// The motion factor M and its gradient at `step`.
    fn motion(&mut self, moreg: &MotionRegularization, step: usize, probe: usize, m: &Measurement) -> (f64, f64) {
        let [scale, exponent, divisor] = moreg.hyper;
        let factor = if (moreg.steps.0..=moreg.steps.1).contains(&step) {
            power(m.motion_score() / scale, exponent) / divisor
        } else {
            1.0
        };
        let gradient = moreg.gradient * (factor - self.motion_previous[probe]) / self.planned_rate as f64;
        self.motion_previous[probe] = factor;
        (factor + gradient.abs(), gradient)
    }
}

impl Settings for AdaCacheConfig {
    fn validate(&self) -> Result<(), CacheError> {
        if self.blocks.is_empty() {
            return invalid("no probed block: `blocks` needs at least one block index");
        }
        if self.blocks.windows(2).any(|w| w[0] >= w[1]) {
            return invalid(format!("probed blocks {:?} must ascend without repeats", self.blocks));
        }
        self.moreg.as_ref().map_or(Ok(()), MotionRegularization::validate)
    }

    fn validate_for(&self, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
        self.validate()?;
        if !self.residual.is_of(anatomy) {
            let has = Span::ALL.into_iter().filter(|span| anatomy.has(*span)).map(Span::name);
            return invalid(format!(
                "no residual `{}` in this model, whose blocks are named {}: take {}",
                self.residual.name(),
                has.collect::<Vec<_>>().join(" and "),
                ResidualKind::of(anatomy).name()
            ));
        }
        if let Some(block) = self.blocks.iter().find(|layer| **layer >= anatomy.layers()) {
            let last = anatomy.layers() - 1;
            return invalid(format!("probed block {block} does not exist: the model has blocks 0 to {last}"));
        }
        if let Some(moreg) = &self.moreg
            && let Some(stride) = moreg.strides.iter().find(|s| **s >= frames)
        {
            return invalid(format!(
                "moreg stride {stride} needs more than {stride} frames, and this run has {frames}"
            ));
        }
        Ok(())
    }

    fn policy(&self, _anatomy: &Anatomy, timesteps: &[f32]) -> Box<dyn Policy> {
        Box::new(AdaCache::new(self.clone(), timesteps.len()))
    }
}

/// The largest exponent that is evaluated by repeated multiplication.
const MOST_MULTIPLIED: f64 = 64.0;

/// The exponent as an integer, if it is a small integer.
fn whole(exponent: f64) -> Option<u32> {
    ((0.0..=MOST_MULTIPLIED).contains(&exponent) && exponent.fract() == 0.0).then_some(exponent as u32)
}

/// `x^exponent`; integer exponents are multiplied out like `power` in `kernels/decide.cu`, so that both give the same bits.
fn power(mut x: f64, exponent: f64) -> f64 {
    let Some(mut n) = whole(exponent) else { return x.powf(exponent) };
    let mut y = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            y *= x;
        }
        x *= x;
        n >>= 1;
    }
    y
}

impl Policy for AdaCache {
    fn name(&self) -> &str {
        if self.config.moreg.is_some() { "adacache+moreg" } else { "adacache" }
    }

    fn plan(&mut self, step: usize) -> Plan {
        let forced = step == 1 || step + 1 >= self.steps;
        if !forced && step != self.previous_compute + self.rate {
            return Plan::Reuse;
        }
        self.previous_compute = step;
        self.planned_rate = self.rate;
        self.mean = 0.0;
        Plan::Compute
    }

    fn probes(&self) -> Probes {
        let strides = self.config.moreg.as_ref().map_or_else(Vec::new, |m| m.strides.clone());
        Probes { points: self.points.clone(), strides }
    }

    fn reuses(&self) -> bool {
        true
    }

    fn observe(&mut self, step: usize, probe: usize, measurement: &Measurement) -> Option<Decision> {
        let count = probe as f64;
        self.mean = (self.distance(measurement) / self.planned_rate as f64 + count * self.mean) / (count + 1.0);
        let moreg = self.config.moreg.take();
        let (motion, motion_gradient) =
            moreg.as_ref().map_or((1.0, 0.0), |moreg| self.motion(moreg, step, probe, measurement));
        self.config.moreg = moreg;
        let distance = self.mean * motion;
        self.rate = self.config.codebook.rate(distance);
        Some(Decision { step, distance, motion, motion_gradient, rate: Some(self.rate) })
    }

    fn device_rule(&self) -> Option<DecisionRule> {
        let motion = match &self.config.moreg {
            None => None,
            Some(MotionRegularization { steps, hyper: [scale, exponent, divisor], gradient, .. }) => Some(MotionRule {
                steps: *steps,
                scale: *scale,
                // Other powers differ between libraries in the last bit: they are decided on the host.
                exponent: whole(*exponent)?,
                divisor: *divisor,
                gradient: *gradient,
            }),
        };
        let distance = match self.config.metric {
            Metric::L1 => Distance::L1,
            Metric::L2 => Distance::L2,
            Metric::Cosine => Distance::Cosine,
        };
        Some(DecisionRule { distance, codebook: self.config.codebook.entries().to_vec(), motion })
    }

    fn adopt(&mut self, _probe: usize, decision: &Decision) {
        self.rate = decision.rate.unwrap_or(self.rate);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::cache::{CacheConfig, Codebook, Metric, MotionSums, ResidualKind, computed_steps, walk};

    fn config(metric: Metric, pairs: &[(f64, usize)]) -> AdaCacheConfig {
        AdaCacheConfig {
            metric,
            residual: ResidualKind::TAttn,
            blocks: vec![0],
            codebook: Codebook::new(pairs.to_vec()).unwrap(),
            moreg: None,
        }
    }

    fn changed_by(fraction: f64) -> Measurement {
        Measurement { abs_diff: fraction, abs_kept: 1.0, ..Measurement::default() }
    }

    /// Runs the policy with a constant relative change at every computed step.
    fn schedule(mut policy: AdaCache, steps: usize, change: f64) -> Vec<usize> {
        let Ok::<_, Infallible>((plans, _)) = walk(&mut policy, steps, |_, _, _| Ok(changed_by(change)));
        computed_steps(&plans)
    }

    #[test]
    fn a_constant_change_is_divided_by_the_rate_it_was_measured_over() {
        let config = config(Metric::L1, &[(0.05, 4), (0.1, 3), (1.0, 1)]);
        // Step 2: 0.12 per step → rate 1; so is step 3 … never below 0.1.
        assert_eq!(schedule(AdaCache::new(config.clone(), 6), 6, 0.12), [1, 2, 3, 4, 5, 6]);
        // 0.09 → rate 3; over 3 steps 0.03 → rate 4; over 4 steps 0.0225 → rate 4.
        assert_eq!(schedule(AdaCache::new(config, 20), 20, 0.09), [1, 2, 5, 9, 13, 17, 19, 20]);
    }

    #[test]
    fn thresholds_are_strict_and_the_last_rate_is_the_fallback() {
        let book = Codebook::new(vec![(0.1, 5), (0.2, 3)]).unwrap();
        assert_eq!(
            [book.rate(0.0999), book.rate(0.1), book.rate(0.2), book.rate(9.0), book.rate(f64::NAN)],
            [5, 3, 3, 3, 3]
        );
    }

    #[test]
    fn metrics() {
        let m = Measurement {
            abs_diff: 1.0,
            abs_kept: 4.0,
            sq_diff: 4.0,
            sq_kept: 16.0,
            dot: 8.0,
            sq_fresh: 16.0,
            motion: vec![],
        };
        for (metric, expected) in [(Metric::L1, 0.25), (Metric::L2, 0.5), (Metric::Cosine, 0.5)] {
            let mut policy = AdaCache::new(config(metric, &[(1.0, 1)]), 10);
            policy.plan(1);
            policy.plan(2);
            assert_eq!(policy.observe(2, 0, &m).unwrap().distance, expected);
        }
    }

    #[test]
    fn motion_factor_and_gradient() {
        let mut config = config(Metric::L1, &[(1.0, 2)]);
        config.moreg =
            Some(MotionRegularization { strides: vec![1], steps: (3, 4), hyper: [0.5, 2.0, 2.0], gradient: 3.0 });
        let mut policy = AdaCache::new(config, 10);
        let moving = |score: f64| Measurement {
            motion: vec![MotionSums { abs_diff: score, abs_later: 0.5, abs_earlier: 0.5 }],
            ..changed_by(0.1)
        };
        policy.plan(1);
        assert_eq!(policy.plan(2), Plan::Compute);
        // Outside the window M = 1 and nothing has changed since the start.
        assert_eq!(policy.observe(2, 0, &moving(0.9)), Some(Decision { rate: Some(2), ..Decision::about(2, 0.1) }));
        assert_eq!(policy.plan(3), Plan::Reuse);
        assert_eq!(policy.plan(4), Plan::Compute);
        // M = (1/0.5)^2/2 = 2, g = 3·(2−1)/2 = 1.5, M + |g| = 3.5; distance 0.1/2·3.5.
        let decision = policy.observe(4, 0, &moving(1.0)).unwrap();
        assert_eq!((decision.motion, decision.motion_gradient), (3.5, 1.5));
        assert!((decision.distance - 0.175).abs() < 1e-12);
    }

    #[test]
    fn several_probes_share_the_running_mean_and_the_rate() {
        let mut config = config(Metric::L1, &[(0.05, 9), (1.0, 2)]);
        config.residual = ResidualKind::CaMlp;
        let mut policy = AdaCache::new(config, 10);
        assert_eq!(policy.probes().points.len(), 2);
        policy.plan(1);
        policy.plan(2);
        assert_eq!(policy.observe(2, 0, &changed_by(0.01)).unwrap().rate, Some(9));
        let last = policy.observe(2, 1, &changed_by(0.19)).unwrap();
        assert!((last.distance - 0.1).abs() < 1e-12);
        assert_eq!(last.rate, Some(2));
    }

    #[test]
    fn malformed_files_are_told_by_line_and_key() {
        let parse = |text: &str| CacheConfig::from_toml(text, "t.toml").unwrap_err().to_string();
        for (text, parts) in [
            ("policy = 'adacache'\nblocks = [1]\ncodebook = [[0.1]]", ["line 3", "codebook"]),
            ("policy = 'adacache'\nblocks = ['x']\ncodebook = [[0.1, 2]]", ["line 2", "blocks"]),
            ("policy = 'adacache'\nblocks = [1]\n\ncodebook = [[0.2, 2], [0.1, 3]]", ["line 4", "ascend"]),
            ("policy = 'adacache'\nblocks = [1]\ncodebook = [[0.1, 2]]\nspeed = 3", ["line 4", "speed"]),
            ("policy = 'magic'", ["line 1", "magic"]),
            ("policy = 'none'\nblocks = [1]", ["line 2", "blocks"]),
        ] {
            let message = parse(text);
            for part in ["t.toml"].into_iter().chain(parts) {
                assert!(message.contains(part), "`{part}` is missing for {text:?}: {message}");
            }
        }
    }

    #[test]
    fn invalid_configurations_are_named() {
        let parse = |body: &str| {
            CacheConfig::from_toml(&format!("policy = \"adacache\"\nblocks = [1]\n{body}"), "t.toml")
                .unwrap_err()
                .to_string()
        };
        assert!(parse("codebook = []").contains("empty"));
        assert!(parse("codebook = [[0.2, 2], [0.1, 3]]").contains("ascend"));
        assert!(parse("codebook = [[0.1, 0]]").contains("rate 0"));
        assert!(parse("codebook = [[0.1, 2.5]]").contains("rate 2.5"));
        assert!(parse("codebook = [[nan, 2]]").contains("finite"));
        assert!(parse("codebook = [[inf, 2]]").contains("finite"));
        assert!(parse("codebook = [[0.1, 2]]\nmetric = \"l3\"").contains("l3"));
        assert!(parse("codebook = [[0.1, 2]]\nthreshold = 3").contains("threshold"));
        assert!(
            parse("codebook = [[0.1, 2]]\n[moreg]\nstrides = [0]\nsteps = [1, 2]\nhyper = [1, 1, 1]\ngradient = 1")
                .contains("strides")
        );
        assert!(
            parse("codebook = [[0.1, 2]]\n[moreg]\nstrides = [1]\nsteps = [5, 2]\nhyper = [1, 1, 1]\ngradient = 1")
                .contains("first is after")
        );
        assert!(
            parse("codebook = [[0.1, 2]]\n[moreg]\nstrides = [1]\nsteps = [1, 2]\nhyper = [0, 1, 1]\ngradient = 1")
                .contains("positive")
        );
    }
}
