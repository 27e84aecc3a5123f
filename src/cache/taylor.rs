//! TaylorSeer: a reused step uses a fold extrapolated from the last computed ones instead of the last fold itself.
//!
//! `F + x·D + x²/2·D²`, x steps (times the damping) after the last computed one, with finite differences of the folds for derivatives; the
//! device computes the weights (`kernels/residual.cu`). Any policy that reuses whole forward passes can be extrapolated; its schedule stays
//! the same.

use super::groups::ModuleGroup;
use super::measurement::Measurement;
use super::policy::{Decision, Extrapolation, Plan, Policy, Probes};
use crate::ops::decide::DecisionRule;

/// The policy of [`TaylorConfig`](super::TaylorConfig): decides like the policy it wraps.
pub struct Taylor {
    name: String,
    extrapolation: Extrapolation,
    of: Box<dyn Policy>,
}

impl Taylor {
    /// `of`, with reused steps extrapolated.
    pub fn new(extrapolation: Extrapolation, of: Box<dyn Policy>) -> Taylor {
        let suffix = if extrapolation.order > 1 { "2" } else { "" };
        Taylor { name: format!("{}+taylor{suffix}", of.name()), extrapolation, of }
    }
}

impl Policy for Taylor {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, step: usize) -> Plan {
        self.of.plan(step)
    }

    fn probes(&self) -> Probes {
        self.of.probes()
    }

    fn reuses(&self) -> bool {
        self.of.reuses()
    }

    fn head(&self) -> usize {
        self.of.head()
    }

    fn groups(&self) -> Vec<ModuleGroup> {
        self.of.groups()
    }

    fn decides_halves(&self) -> bool {
        self.of.decides_halves()
    }

    fn extrapolates(&self) -> Option<Extrapolation> {
        Some(self.extrapolation)
    }

    fn observe(&mut self, step: usize, probe: usize, measurement: &Measurement) -> Option<Decision> {
        self.of.observe(step, probe, measurement)
    }

    fn device_rule(&self) -> Option<DecisionRule> {
        self.of.device_rule()
    }

    fn adopt(&mut self, probe: usize, decision: &Decision) {
        self.of.adopt(probe, decision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheConfig, TaylorConfig};
    use crate::cache::{Interval, IntervalConfig, computed_steps, walk};

    #[test]
    fn it_decides_as_the_policy_it_is_made_of() {
        let interval = Interval::new(IntervalConfig { every: 3 });
        let extrapolation = Extrapolation { order: 2, damping: 0.5 };
        let mut policy = Taylor::new(extrapolation, Box::new(interval));
        assert_eq!(
            (policy.name(), policy.extrapolates(), policy.reuses()),
            ("interval+taylor2", Some(extrapolation), true)
        );
        let Ok::<_, std::convert::Infallible>((plans, _)) = walk(&mut policy, 8, |_, _, _| Ok(Measurement::default()));
        assert_eq!(computed_steps(&plans), [1, 4, 7]);
    }

    #[test]
    fn toml_and_what_cannot_be_extrapolated() {
        let read = |text: &str| CacheConfig::from_toml(text, "t.toml");
        let config = read("policy = 'fbcache'\nthreshold = 0.1\ntaylor = 1").unwrap();
        assert!(
            matches!(&config, CacheConfig::Taylor(TaylorConfig { order: 1, damping: 1.0, of }) if matches!(**of, CacheConfig::FbCache(_)))
        );
        // What is written is what was read, motion settings behind it or not.
        let moving = "policy = 'adacache'\nblocks = [1]\ncodebook = [[0.1, 2]]\ntaylor = 2\ndamping = 0.7\n\
            [moreg]\nstrides = [1]\nsteps = [1, 2]\nhyper = [1, 1, 1]\ngradient = 1";
        for config in [config, read(moving).unwrap(), read("policy = 'none'").unwrap()] {
            assert_eq!(read(&config.to_toml().unwrap()).unwrap(), config);
        }
        for (text, part) in [
            ("policy = 'interval'\nevery = 2\ntaylor = 3", "order is 1 or 2"),
            ("policy = 'interval'\nevery = 0\ntaylor = 1", "interval of 0"),
            ("policy = 'interval'\nevery = 2\ntaylor = 1\ndamping = 0", "above 0"),
            ("policy = 'interval'\nevery = 2\ntaylor = 1\ndamping = 1.5", "at most 1"),
            ("policy = 'interval'\nevery = 2\ntaylor = 1\ndamping = nan", "above 0"),
            ("policy = 'interval'\nevery = 2\ndamping = 0.5", "damping"),
            ("policy = 't-gate'\ngate = 2\ntaylor = 1", "whole forwards"),
            ("policy = 'none'\ntaylor = 1", "whole forwards"),
            ("policy = 'interval'\nevery = 2\ntaylor = 'x'", "expected"),
            ("policy = 'pab'\nwindow = [1, 2]\nspatial = 2\ntemporal = 2\ncross = 0", "cross range"),
            ("policy = 'delta-dit'\nevery = 2\nblocks = 3", "boundary"),
            ("policy = 't-gate'\ngate = 0", "step 0"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        let twice = read("policy = 'interval'\nevery = 2\ntaylor = 1").unwrap().extrapolated(1);
        assert!(twice.validate().unwrap_err().to_string().contains("already"));
        assert!(matches!(
            read("policy = 'pab'\nwindow = [450, 930]\nspatial = 2\ntemporal = 4\ncross = 6").unwrap(),
            CacheConfig::Pab(_)
        ));
        assert!(matches!(
            read("policy = 'delta-dit'\nevery = 2\nblocks = 3\nboundary = 500").unwrap(),
            CacheConfig::DeltaDit(_)
        ));
    }
}
