//! Recorded measurements, one JSON object per line, and their replay through policies without a model.
//!
//! The first line is the header (`steps`, `cache`, `computed`, `partial`, `timesteps`, `strides`, and `stages` where experts take turns); each
//! other line is one measurement: at `step`, against the step `since`, of the probe point `at`. A policy can be replayed if the trace measures its points. A run that
//! computes every step (`generate --cache none --trace FILE`) measures those of every preset of its model. If the policy compares other
//! steps than the recorded ones, the changes of the steps between are added up, and the estimate is an upper bound of what it would have
//! measured.

use std::io::{BufRead, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::anatomy::Anatomy;
use super::config::CacheConfig;
use super::measurement::Measurement;
use super::point::ProbePoint;
use super::policy::{Decision, Plan, Policy, computed_steps, walk};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// The step, from 1.
    pub step: usize,
    /// The earlier step it was compared with.
    pub since: usize,
    /// The probe point.
    pub at: ProbePoint,
    /// The sums computed by the kernel.
    #[serde(flatten)]
    pub measurement: Measurement,
}

/// The measurements of one generation.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trace {
    /// Number of denoising steps.
    pub steps: usize,
    /// The policy that ran.
    pub cache: String,
    /// The steps that were computed.
    pub computed: Vec<usize>,
    /// The steps that computed some modules and reused others.
    pub partial: Vec<usize>,
    /// The timestep of every step; empty in a trace from before timesteps were written.
    pub timesteps: Vec<f32>,
    /// The frame strides of the motion sums.
    pub strides: Vec<usize>,
    /// The experts that took turns, if the model has several. Each stage has a policy of its own.
    pub stages: Vec<Stage>,
    /// The measurements in the order they were taken.
    pub records: Vec<TraceRecord>,
}

/// Consecutive steps of one of a model's experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The expert's name.
    pub expert: String,
    /// Its steps.
    pub steps: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    steps: usize,
    cache: String,
    computed: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    partial: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    timesteps: Vec<f32>,
    strides: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stages: Vec<Stage>,
}

/// Why a trace cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A line does not follow the format.
    #[error("trace line {line}: {source}")]
    Parse {
        /// Line number, from 1.
        line: usize,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// A line contains an impossible value.
    #[error("trace line {line}: {reason}")]
    Invalid {
        /// Line number, from 1.
        line: usize,
        /// The problem.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("trace: {0}")]
    Io(#[from] std::io::Error),
    /// The policy needs a measurement that cannot be derived from the trace.
    #[error(
        "the trace does not measure `{at}` between the steps {since} and {step}; `generate --cache none --trace FILE` measures for every preset of the model, and a run with the \
         policy itself for that policy"
    )]
    Missing {
        /// The step.
        step: usize,
        /// The step to compare with.
        since: usize,
        /// The probe point.
        at: ProbePoint,
    },
    /// The policy depends on timesteps that the trace does not have.
    #[error("the policy needs timesteps, which this trace does not have: record it again with `generate --trace`")]
    Times,
    /// The policy measures motion at strides that the trace does not have.
    #[error(
        "the policy measures motion between frames {wanted:?} apart, the trace between frames {recorded:?} apart: record a run with the policy itself"
    )]
    Strides {
        /// The policy's strides.
        wanted: Vec<usize>,
        /// The trace's strides.
        recorded: Vec<usize>,
    },
}

impl Trace {
    /// Writes the trace as JSON Lines.
    pub fn write(&self, mut out: impl Write) -> Result<(), TraceError> {
        let Trace { steps, cache, computed, partial, timesteps, strides, stages, records } = self.clone();
        let header = Header { steps, cache, computed, partial, timesteps, strides, stages };
        writeln!(out, "{}", serde_json::to_string(&header).map_err(std::io::Error::from)?)?;
        for record in &records {
            writeln!(out, "{}", serde_json::to_string(record).map_err(std::io::Error::from)?)?;
        }
        Ok(())
    }

    /// Reads a trace in JSON Lines format.
    pub fn read(input: impl BufRead) -> Result<Trace, TraceError> {
        let mut lines = (1..).zip(input.lines());
        let Some((line, header)) = lines.next() else {
            return Err(TraceError::Invalid {
                line: 1,
                reason: "the file is empty, a trace begins with a header".into(),
            });
        };
        let Header { steps, cache, computed, partial, timesteps, strides, stages } =
            serde_json::from_str(header?.trim_start_matches('\u{feff}'))
                .map_err(|source| TraceError::Parse { line, source })?;
        let counted = stages.iter().fold(0usize, |sum, stage| sum.saturating_add(stage.steps));
        if !stages.is_empty() && counted != steps {
            let reason = format!("stages of {counted} steps in a run of {steps} steps");
            return Err(TraceError::Invalid { line, reason });
        }
        if !timesteps.is_empty() && timesteps.len() != steps {
            let reason = format!("{} timesteps in a run of {steps} steps", timesteps.len());
            return Err(TraceError::Invalid { line, reason });
        }
        let mut trace = Trace { steps, cache, computed, partial, timesteps, strides, stages, records: vec![] };
        for (line, text) in lines {
            let text = text?;
            if text.trim().is_empty() {
                continue;
            }
            let record: TraceRecord =
                serde_json::from_str(&text).map_err(|source| TraceError::Parse { line, source })?;
            let TraceRecord { step, since, at, measurement } = &record;
            let invalid = |reason| Err(TraceError::Invalid { line, reason });
            if !(1 <= *since && since < step && *step <= steps) {
                return invalid(format!("step {step} since step {since}, in a run of {steps} steps"));
            }
            if !measurement.motion.is_empty() && measurement.motion.len() != trace.strides.len() {
                return invalid(format!("{} motion sums for strides {:?}", measurement.motion.len(), trace.strides));
            }
            if trace.records.iter().any(|r| r.step == *step && r.since == *since && r.at == *at) {
                return invalid(format!("a second measurement of `{at}` at step {step} since step {since}"));
            }
            trace.records.push(record);
        }
        Ok(trace)
    }

    /// The steps (from 0) of each stage: of one if the model has no experts.
    pub fn spans(&self) -> Vec<Range<usize>> {
        if self.stages.is_empty() {
            return std::iter::once(0..self.steps).collect();
        }
        let mut end = 0;
        let span = |stage: &Stage| {
            end += stage.steps;
            end - stage.steps..end
        };
        self.stages.iter().map(span).collect()
    }

    /// The part of these steps (from 0), as a trace of its own.
    fn part(&self, span: &Range<usize>) -> Trace {
        let within = |step: &usize| (span.start + 1..=span.end).contains(step);
        let shifted =
            |steps: &[usize]| steps.iter().filter(|step| within(step)).map(|step| step - span.start).collect();
        let records = self.records.iter().filter(|r| within(&r.step) && within(&r.since)).cloned();
        let shift = |r: TraceRecord| TraceRecord { step: r.step - span.start, since: r.since - span.start, ..r };
        Trace {
            steps: span.len(),
            cache: self.cache.clone(),
            computed: shifted(&self.computed),
            partial: shifted(&self.partial),
            timesteps: self.timesteps.get(span.clone()).unwrap_or_default().to_vec(),
            strides: self.strides.clone(),
            stages: vec![],
            records: records.map(shift).collect(),
        }
    }

    /// This trace and that of the steps after it, counted on; `stages` stay those of this one.
    pub fn then(mut self, next: Trace) -> Trace {
        let before = self.steps;
        let shift = |step: usize| step + before;
        self.computed.extend(next.computed.into_iter().map(shift));
        self.partial.extend(next.partial.into_iter().map(shift));
        self.timesteps.extend(next.timesteps);
        let records = next.records.into_iter();
        self.records.extend(records.map(|r| TraceRecord { step: shift(r.step), since: shift(r.since), ..r }));
        Trace { steps: before + next.steps, ..self }
    }

    /// Runs the policy that `config` describes over the trace, in every stage a new one; returns the plan of every step and the decisions.
    ///
    /// # Errors
    /// As [`Trace::policy`] and [`Trace::replay`].
    pub fn play(&self, config: &CacheConfig, anatomy: &Anatomy) -> Result<(Vec<Plan>, Vec<Decision>), TraceError> {
        let (mut plans, mut decisions) = (vec![], vec![]);
        for span in self.spans() {
            let part = self.part(&span);
            let mut policy = part.policy(&config.part(span.clone(), self.steps), anatomy)?;
            let (planned, decided) = part.replay(&mut *policy)?;
            plans.extend(planned);
            decisions.extend(decided.into_iter().map(|decision| decision.after(span.start)));
        }
        Ok((plans, decisions))
    }

    /// The policy that `config` describes, for a model of this anatomy in a run like the recorded one.
    ///
    /// # Errors
    /// The policy depends on the timesteps, and the trace is from before they were written.
    pub fn policy(&self, config: &CacheConfig, anatomy: &Anatomy) -> Result<Box<dyn Policy>, TraceError> {
        if !self.timesteps.is_empty() {
            return Ok(config.policy(anatomy, &self.timesteps));
        }
        if config.looks_at_time() {
            return Err(TraceError::Times);
        }
        Ok(config.policy(anatomy, &vec![0.0; self.steps]))
    }

    /// Runs `policy` over the trace; returns the plan of every step and the decisions.
    ///
    /// # Errors
    /// A measurement that the policy needs cannot be derived from the recorded ones.
    pub fn replay(&self, policy: &mut dyn Policy) -> Result<(Vec<Plan>, Vec<Decision>), TraceError> {
        let wanted = policy.probes().strides;
        let recorded = |wanted: &usize| self.strides.iter().position(|stride| stride == wanted);
        let Some(places) = wanted.iter().map(recorded).collect::<Option<Vec<usize>>>() else {
            return Err(TraceError::Strides { wanted, recorded: self.strides.clone() });
        };
        walk(policy, self.steps, |step, since, at| {
            let mut measurement = self.between(step, since, at)?;
            if !measurement.motion.is_empty() {
                measurement.motion = places.iter().map(|place| measurement.motion[*place]).collect();
            }
            Ok(measurement)
        })
    }

    /// The steps that `policy` would compute.
    ///
    /// # Errors
    /// As [`Trace::replay`].
    pub fn schedule(&self, policy: &mut dyn Policy) -> Result<Vec<usize>, TraceError> {
        Ok(computed_steps(&self.replay(policy)?.0))
    }

    /// The measurement at `at` between the steps `since` and `step`: the recorded one, or one derived from the steps between.
    ///
    /// # Errors
    /// There is none.
    pub fn between(&self, step: usize, since: usize, at: ProbePoint) -> Result<Measurement, TraceError> {
        let missing = || TraceError::Missing { step, since, at };
        let mut from = step;
        let mut whole: Option<Measurement> = None;
        while from > since {
            // Of several the one that goes back farthest, but not too far.
            let fit = self.records.iter().filter(|r| r.step == from && r.at == at && r.since >= since);
            let record = fit.min_by_key(|r| r.since).ok_or_else(missing)?;
            from = record.since;
            let earlier = &record.measurement;
            whole = Some(whole.map_or_else(|| earlier.clone(), |later| earlier.then(&later)));
        }
        whole.filter(|_| from == since).ok_or_else(missing)
    }

    /// MagCache's table: ‖fold‖₂ of each step over that of the step before; 1 where another expert begins.
    ///
    /// # Errors
    /// The trace does not measure the fold at every step.
    pub fn fold_ratios(&self) -> Result<Vec<f64>, TraceError> {
        let begins: Vec<usize> = self.spans().iter().map(|span| span.start + 1).collect();
        let ratio = |step| {
            if begins.contains(&step) {
                return Ok(1.0);
            }
            let m = self.between(step, step - 1, ProbePoint::Fold)?;
            Ok(super::ratio(m.sq_fresh, m.sq_kept).sqrt())
        };
        (2..=self.steps).map(ratio).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{
        EasyCache, EasyCacheConfig, FbCache, FbCacheConfig, MotionSums, Site, TeaCache, TeaCacheConfig,
    };

    fn record(step: usize, since: usize, at: ProbePoint, change: f64) -> TraceRecord {
        let measurement = Measurement {
            abs_diff: change,
            abs_kept: 1.0,
            sq_diff: change * change,
            sq_kept: 1.0,
            dot: 1.0,
            sq_fresh: 1.0 + change * change,
            motion: vec![],
        };
        TraceRecord { step, since, at, measurement }
    }

    /// A run of 8 steps that measured the modulated input and the first block at each.
    fn trace() -> Trace {
        let points = [ProbePoint::Modulated, Anatomy::spatial_temporal(5).probe(0, Site::Whole)];
        let records = (2..=8).flat_map(|step| points.map(|at| record(step, step - 1, at, 0.0625)));
        Trace {
            steps: 8,
            cache: "none".into(),
            computed: (1..=8).collect(),
            strides: vec![1],
            records: records.collect(),
            ..Trace::default()
        }
    }

    #[test]
    fn a_trace_survives_its_file() {
        let mut trace = trace();
        trace.records[0].measurement.motion =
            vec![MotionSums { abs_diff: 0.1, abs_later: 0.7, abs_earlier: 1.0 / 3.0 }];
        let mut text = vec![];
        trace.write(&mut text).unwrap();
        let lines = String::from_utf8(text.clone()).unwrap();
        assert!(
            lines.lines().nth(1).unwrap().starts_with(r#"{"step":2,"since":1,"at":"modulated","abs_diff":0.0625,"#)
        );
        assert_eq!(Trace::read(&text[..]).unwrap(), trace);
    }

    /// Two stages: each is replayed by a policy of its own, and nothing is compared across them.
    #[test]
    fn every_stage_is_replayed_anew() {
        let whole = trace();
        let stage = |expert: &str, steps| Stage { expert: expert.into(), steps };
        let parts = [0..5, 5..8].map(|span| whole.part(&span));
        assert_eq!((parts[1].steps, &parts[1].computed[..]), (3, &[1, 2, 3][..]));
        let [first, second] = parts.clone();
        let stages = vec![stage("high-noise", 5), stage("low-noise", 3)];
        let joined = Trace { stages, ..first.then(second) };
        assert_eq!(joined.spans(), [0..5, 5..8]);
        assert!(joined.records.iter().all(|r| (r.step <= 5) == (r.since <= 5)));
        let mut text = vec![];
        joined.write(&mut text).unwrap();
        assert_eq!(Trace::read(&text[..]).unwrap(), joined);
        let config = CacheConfig::FbCache(FbCacheConfig { threshold: 0.15 });
        let anatomy = Anatomy::spatial_temporal(5);
        let computed = |trace: &Trace| computed_steps(&trace.play(&config, &anatomy).unwrap().0);
        assert_eq!((computed(&whole), computed(&joined)), (vec![1, 4, 7], vec![1, 4, 6]));
        let decisions = joined.play(&config, &anatomy).unwrap().1;
        assert!(decisions.iter().any(|d| d.step > 5) && decisions.is_sorted_by_key(|d| d.step));
        let cut = Trace { stages: vec![stage("high-noise", 5)], ..joined };
        let mut text = vec![];
        cut.write(&mut text).unwrap();
        assert!(Trace::read(&text[..]).unwrap_err().to_string().contains("stages of 5 steps"));
    }

    #[test]
    fn malformed_traces_are_told_by_line() {
        let header = r#"{"steps":3,"cache":"none","computed":[1,2,3],"strides":[]}"#;
        let sums = r#""abs_diff":1,"abs_kept":1,"sq_diff":1,"sq_kept":1,"dot":1,"sq_fresh":1,"motion":[]"#;
        let line = |step, since, at| format!("{{\"step\":{step},\"since\":{since},\"at\":\"{at}\",{sums}}}");
        for (text, parts) in [
            (String::new(), ["line 1", "header"]),
            ("{}".into(), ["line 1", "steps"]),
            (format!("{header}\nnonsense"), ["line 2", "expected"]),
            (format!("{header}\n\n{}", line(2, 1, "spatial.x")), ["line 3", "spatial.x"]),
            (format!("{header}\n{}", line(4, 1, "fold")), ["line 2", "3 steps"]),
            (format!("{header}\n{}", line(2, 2, "fold")), ["line 2", "since step 2"]),
            (format!("{header}\n{0}\n{0}", line(2, 1, "fold")), ["line 3", "second"]),
        ] {
            let message = Trace::read(text.as_bytes()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{text:?}: {message}");
        }
    }

    #[test]
    fn one_trace_serves_several_policies() {
        let trace = trace();
        let plain = [0.0, 0.0, 0.0, 1.0, 0.0];
        let teacache = TeaCacheConfig::new(0.125, plain);
        assert_eq!(trace.schedule(&mut TeaCache::new(teacache, 8)).unwrap(), [1, 3, 5, 7, 8]);
        // The first block is compared with the last computed step: the changes in between are added up, 0.0625 each.
        assert_eq!(
            trace
                .schedule(&mut FbCache::new(FbCacheConfig { threshold: 0.15 }, &Anatomy::spatial_temporal(5)))
                .unwrap(),
            [1, 4, 7]
        );
        let missing = trace.replay(&mut EasyCache::new(EasyCacheConfig::new(0.1), 8)).unwrap_err().to_string();
        assert!(missing.contains("`latents`") && missing.contains("--cache none"), "{missing}");
    }

    #[test]
    fn measurements_are_chained() {
        let at = ProbePoint::Fold;
        let trace =
            Trace { steps: 9, records: vec![record(3, 1, at, 0.5), record(4, 3, at, 0.25)], ..Trace::default() };
        let m = trace.between(4, 1, at).unwrap();
        // Sums of absolute changes add up, and so do the roots of the squared ones; the norms are those of the two ends.
        assert_eq!((m.abs_diff, m.abs_kept, m.sq_diff, m.sq_kept, m.sq_fresh), (0.75, 1.0, 0.5625, 1.0, 1.0625));
        // ‖a − b‖² = ‖a‖² + ‖b‖² − 2a·b
        assert_eq!(m.dot, 0.75);
        for (step, since) in [(4, 2), (5, 4), (3, 2)] {
            assert!(trace.between(step, since, at).is_err(), "{step} {since}");
        }
        // What was compared itself is not chained, and shortens the chain of what was not.
        let mut trace = trace;
        trace.records.extend([record(4, 1, at, 0.6), record(5, 4, at, 0.25)]);
        assert_eq!(trace.between(4, 1, at).unwrap().abs_diff, 0.6);
        assert_eq!(trace.between(4, 3, at).unwrap().abs_diff, 0.25);
        assert_eq!(trace.between(5, 1, at).unwrap().abs_diff, 0.85);
    }

    #[test]
    fn ratios_of_the_fold() {
        let grown = |step, since, sq_kept, sq_fresh| TraceRecord {
            measurement: Measurement { sq_kept, sq_fresh, ..Measurement::default() },
            ..record(step, since, ProbePoint::Fold, 0.0)
        };
        let records = vec![grown(2, 1, 4.0, 1.0), grown(3, 2, 1.0, 9.0)];
        let trace = Trace { steps: 3, records, ..Trace::default() };
        assert_eq!(trace.fold_ratios().unwrap(), [0.5, 3.0]);
    }
}
