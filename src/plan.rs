//! The resources that a job would need: the generation itself runs on a device that executes nothing, and the roofline model gives the time
//! of its launches. Work and memory are exact; all times are modelled.

use std::convert::Infallible;
use std::ops::ControlFlow;

use serde::Serialize;

use crate::cache::{
    CacheConfig, Decision, Extrapolation, Measurement, MotionSums, Plan, Policy, Probes, Reused, computed_steps, trace,
    walk,
};
use crate::chips::Chip;
use crate::device::{Device, DryConfig};
use crate::model::{Geometry, TransformerShape};
use crate::ops::decide::DecisionRule;
use crate::pipeline::{Content, Job, Needs, PipelineError, Stage, check_products, is_guided};
use crate::profile::{Cost, Efficiency, Tally};
use crate::sampler::{Member, Sampler, SamplerOptions};

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The transformer's weights; of several experts those of one.
    pub weights: usize,
    /// The caption's keys and values for every block.
    pub caption: usize,
    /// The working memory of one step, latents and prediction included.
    pub activations: usize,
    /// The memory kept from step to step: the fold and the probed residuals.
    pub cache: usize,
    /// The bytes that one tensor per residual would need instead.
    pub cache_unfolded: usize,
    /// The peak of allocated memory during the steps, with all weights resident and no decoder loaded.
    pub peak: usize,
    /// The whole generation, decoder included, with all weights on the device.
    pub resident: usize,
    /// The same with the weights of all experts on the device.
    pub together: usize,
    /// The minimum for the whole generation, with the weights of every block streamed from the host.
    pub least: usize,
    /// The summands of both.
    pub needs: Needs,
    /// The memory of the GPU.
    pub available: usize,
}

/// A number of computed steps, the reason for it, and the resulting time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    /// The reason for this number.
    pub schedule: String,
    /// Steps that run all of the transformer.
    pub computed_steps: usize,
    /// Steps that run some of its modules.
    pub partial_steps: usize,
    /// Operations of all steps' matrix products.
    pub flops: f64,
    /// Those of attention among them.
    pub attention_flops: f64,
    /// Modelled seconds of all steps.
    pub modelled_seconds: f64,
    /// Speed-up over computing every step.
    pub modelled_speedup: f64,
}

/// The resources that a generation would need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The GPU that the estimate is for.
    pub gpu: Chip,
    /// The assumptions about the kernels.
    pub efficiency: Efficiency,
    /// Frames and tokens per frame in the transformer.
    pub tokens: [usize; 2],
    /// Samples per forward pass, guidance's second half included.
    pub batch: usize,
    /// Memory.
    pub memory: Memory,
    /// A step that runs the transformer.
    pub computed_step: Cost,
    /// A step that reuses the residuals; `None` without a cache policy.
    pub reused_step: Option<Cost>,
    /// For a policy that reuses single modules: the step that reuses the most.
    pub partial_step: Option<Cost>,
    /// Whole generations.
    pub totals: Vec<Total>,
    /// Decoding the latents; `None` if they are not decoded.
    pub decoding: Option<Cost>,
    /// The experts that take turns, if the model has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Turn>,
}

/// The steps of one expert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Turn {
    /// Its name.
    pub expert: &'static str,
    /// Its steps.
    pub steps: usize,
    /// Its guidance scale.
    pub cfg_scale: f32,
}

/// The source of the number of computed steps in a total.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Expected {
    /// None: the fewest and the most that the policy allows.
    Bounds,
    /// A number given by the user.
    Steps(usize),
    /// The policy's number on a recorded trace.
    Trace(trace::Trace),
}

/// A policy that computes two steps and reuses one, with the probes of another policy.
struct Walk(Box<dyn Policy>);

impl Policy for Walk {
    fn name(&self) -> &str {
        "walk"
    }

    fn plan(&mut self, step: usize) -> Plan {
        if step > 2 && self.0.reuses() { Plan::Reuse } else { Plan::Compute }
    }

    fn probes(&self) -> Probes {
        self.0.probes()
    }

    fn reuses(&self) -> bool {
        self.0.reuses()
    }

    fn reused(&self) -> Reused {
        self.0.reused()
    }

    fn head(&self) -> usize {
        self.0.head()
    }

    fn extrapolates(&self) -> Option<Extrapolation> {
        self.0.extrapolates()
    }

    fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
        None
    }

    fn device_rule(&self) -> Option<DecisionRule> {
        self.0.device_rule()
    }
}

/// A stage whose steps were tallied.
struct Tallied {
    tokens: [usize; 2],
    batch: usize,
    weights: usize,
    caption: usize,
    activations: usize,
    cache: usize,
    cache_unfolded: usize,
    peak: usize,
    /// By step, and their plans.
    costs: Vec<Cost>,
    plans: Vec<Plan>,
    /// Whether the policy decides about each half of guidance.
    halves: bool,
}

impl Tallied {
    /// The first step of such a plan.
    fn step(&self, is: impl Fn(&Plan) -> bool) -> Option<&Cost> {
        self.costs.iter().zip(&self.plans).find(|(_, plan)| is(plan)).map(|(cost, _)| cost)
    }

    /// A computed step. The first has nothing to be compared with; the second stands for all.
    fn computed(&self) -> &Cost {
        let computed = self.costs.iter().zip(&self.plans).filter(|(_, plan)| plan.is_computed());
        computed.map(|(cost, _)| cost).take(2).last().unwrap_or(&self.costs[0])
    }

    fn partial(&self) -> impl Iterator<Item = &Cost> {
        self.costs.iter().zip(&self.plans).filter(|(_, plan)| plan.is_partial()).map(|(cost, _)| cost)
    }
}

/// A device like this GPU that executes nothing.
fn counting(gpu: &Chip) -> Device {
    Device::dry(DryConfig {
        name: gpu.name.into(),
        // What does not fit is to be reported with its size, not stopped at the first byte too many.
        memory: (gpu.memory as usize).saturating_mul(64),
        units: gpu.units,
        compute_capability: gpu.sm.compute_capability,
    })
}

/// The steps of each stage.
fn lengths(stages: &[Stage]) -> Vec<f64> {
    stages.iter().map(|stage| stage.rows.len() as f64).collect()
}

/// Whether the policy's plans are known without measurements, and some steps may be computed in part.
fn has_own_schedule(policy: &dyn Policy) -> bool {
    !policy.groups().is_empty() || policy.decides_halves()
}

impl Job {
    /// Estimates the job's resources on `gpu`, with every part of it on the device.
    ///
    /// # Errors
    /// Settings that the generation itself would reject, efficiencies that no kernel reaches, more memory than the GPU has, a trace that
    /// lacks a measurement.
    pub fn estimate(&self, gpu: &Chip, efficiency: Efficiency, expected: &Expected) -> Result<Estimate, PipelineError> {
        efficiency.check(gpu)?;
        check_products(&self.source, &counting(gpu), self.dtype)?;
        let stages = self.stages()?;
        let tallied = stages.iter().map(|stage| self.tallied(gpu, &efficiency, stage));
        let tallied = tallied.collect::<Result<Vec<Tallied>, PipelineError>>()?;
        let first = tallied.first().ok_or_else(|| PipelineError::Setting("there are no steps".into()))?;
        let needs = self.needs(&counting(gpu))?;
        let named = stages.iter().filter(|stage| !stage.name.is_empty());
        let turn = |s: &Stage| Turn { expert: s.name, steps: s.rows.len(), cfg_scale: s.cfg_scale };
        let most = |bytes: fn(&Tallied) -> usize| tallied.iter().map(bytes).max().unwrap_or(0);
        Ok(Estimate {
            gpu: *gpu,
            tokens: first.tokens,
            batch: first.batch,
            memory: Memory {
                weights: first.weights,
                caption: most(|stage| stage.caption),
                activations: most(|stage| stage.activations),
                cache: most(|stage| stage.cache),
                cache_unfolded: most(|stage| stage.cache_unfolded),
                peak: most(|stage| stage.peak),
                resident: needs.resident(),
                together: needs.together(),
                least: needs.least(),
                needs,
                available: gpu.memory as usize,
            },
            computed_step: first.computed().clone(),
            reused_step: first.step(|plan| *plan == Plan::Reuse).cloned(),
            partial_step: first.partial().min_by_key(|cost| cost.flops).cloned(),
            totals: self.totals(&stages, &tallied, expected)?,
            decoding: self.decoding(gpu, &efficiency)?,
            stages: named.map(turn).collect(),
            efficiency,
        })
    }

    /// Sets a stage up on a device that only counts, tallies its steps and prices each tally.
    fn tallied(&self, gpu: &Chip, efficiency: &Efficiency, stage: &Stage) -> Result<Tallied, PipelineError> {
        let device = counting(gpu);
        let model = self.source.expert(stage.expert, &device, self.dtype, 0, Content::Zeros)?;
        let weights = device.allocated_bytes();
        let geometry = self.geometry(stage);
        let batch = geometry.batch();
        let TransformerShape { channels, caption_channels, .. } = model.shape();
        let caption = model.caption(&vec![0.0; batch * self.caption_tokens * caption_channels], batch, None)?;
        let with_caption = device.allocated_bytes();
        let caption_bytes = with_caption - device.scratch_bytes() - weights;

        let policy = self.policy(stage)?;
        let halves = policy.decides_halves();
        // The plans of single modules and of halves are known; of whole forwards three steps stand for all.
        let (rows, policy): (_, Box<dyn Policy>) = match has_own_schedule(&*policy) {
            true => (stage.rows.clone(), policy),
            false => (stage.rows.iter().cycle().take(3).copied().collect(), Box::new(Walk(policy))),
        };
        let Geometry { videos, frames, height, width, .. } = geometry;
        let latents = vec![0.0; videos * channels * frames * height * width];
        let options = SamplerOptions {
            rows,
            cfg_scale: 7.0,
            snapshots: vec![],
            packed_cache: self.packed_cache,
            compare_folds: false,
            rank: None,
        };
        let members = vec![Member { caption: &caption, policy }];
        let sampler = Sampler::new(&*model, members, geometry, &latents, None, options)?;
        let allocated = device.allocated_bytes() - with_caption;

        let tally = Tally::new();
        device.observe(Some(tally.clone()));
        let mut steps = vec![];
        let mut output = sampler.run(&mut |_| {
            steps.push(tally.take());
            ControlFlow::Continue(())
        })?;
        let [_, t, s, _] = model.hidden_shape(&geometry);
        Ok(Tallied {
            tokens: [t, s],
            batch,
            weights,
            caption: caption_bytes,
            activations: allocated - output.cache_bytes,
            cache: output.cache_bytes,
            cache_unfolded: output.cache_bytes_unfolded,
            peak: device.peak_bytes(),
            costs: steps.iter().map(|step| Cost::new(gpu, efficiency, step)).collect(),
            plans: output.members.swap_remove(0).plans,
            halves,
        })
    }

    /// The launches of decoding; `None` if nothing is decoded.
    ///
    /// # Errors
    /// A configuration of the autoencoder that cannot be read; shapes that do not fit.
    pub fn decoding(&self, gpu: &Chip, efficiency: &Efficiency) -> Result<Option<Cost>, PipelineError> {
        if !self.decodes {
            return Ok(None);
        }
        let device = counting(gpu);
        let Some(autoencoder) = self.source.autoencoder(&device, self.dtype, Content::Zeros)? else { return Ok(None) };
        let config = self.source.config();
        let [frames, height, width] = config.latent;
        let shape = [1, self.source.shape().channels, frames, height, width];
        let latents = vec![0.0; shape.iter().product()];
        let tally = Tally::new();
        device.observe(Some(tally.clone()));
        autoencoder.decode(&latents, shape, config.frames(), &mut |_| ControlFlow::Continue(()))?;
        let mut launches = tally.take();
        launches.iter_mut().for_each(|entry| entry.launches *= self.videos as u64);
        Ok(Some(Cost::new(gpu, efficiency, &launches)))
    }

    /// The denoising loop by each expected schedule, every step computed first.
    fn totals(&self, stages: &[Stage], tallied: &[Tallied], expected: &Expected) -> Result<Vec<Total>, PipelineError> {
        let whole = Job { cache: CacheConfig::None, ..self.clone() }.stages()?;
        let price = |stage: &Stage, computed: f64, of: fn(&Cost) -> f64| {
            // Experts of one shape cost the same, with and without guidance.
            let is_guided = |stage: &Stage| is_guided(stage.cfg_scale);
            let alike = stages.iter().position(|other| is_guided(other) == is_guided(stage));
            let Some(costs) = tallied.get(alike.unwrap_or(0)) else { return 0.0 };
            let reused = costs.step(|plan| *plan == Plan::Reuse).map_or(0.0, of);
            computed * of(costs.computed()) + (stage.rows.len() as f64 - computed) * reused
        };
        let seconds: fn(&Cost) -> f64 = |cost| cost.modelled_seconds;
        let flops: fn(&Cost) -> f64 = |cost| cost.flops as f64;
        let attention: fn(&Cost) -> f64 = |cost| cost.attention_flops() as f64;
        let sum = |computed: &[f64], stages: &[Stage], of| -> f64 {
            stages.iter().zip(computed).map(|(stage, computed)| price(stage, *computed, of)).sum()
        };
        let all = sum(&lengths(&whole), &whole, seconds);
        let total = |(schedule, computed, of): (String, Vec<f64>, &[Stage])| Total {
            schedule,
            computed_steps: computed.iter().sum::<f64>().round() as usize,
            partial_steps: 0,
            flops: sum(&computed, of, flops),
            attention_flops: sum(&computed, of, attention),
            modelled_seconds: sum(&computed, of, seconds),
            modelled_speedup: 1.0,
        };
        let every = ("every step computed".to_owned(), lengths(&whole), &whole[..]);
        let others = self.schedules(stages, expected)?.into_iter().map(|(why, computed)| (why, computed, stages));
        let mut totals: Vec<Total> = std::iter::once(every).chain(others).map(total).collect();
        let partial_steps = tallied.iter().map(|stage| stage.partial().count()).sum();
        if partial_steps > 0 || tallied.iter().any(|stage| stage.halves) {
            let computed = tallied.iter().map(|stage| computed_steps(&stage.plans).len());
            totals.push(Total {
                schedule: "the policy's own".into(),
                computed_steps: computed.sum(),
                partial_steps,
                flops: tallied.iter().flat_map(|stage| &stage.costs).map(flops).sum(),
                attention_flops: tallied.iter().flat_map(|stage| &stage.costs).map(attention).sum(),
                modelled_seconds: tallied.iter().flat_map(|stage| &stage.costs).map(seconds).sum(),
                modelled_speedup: 1.0,
            });
        }
        totals.iter_mut().for_each(|total| total.modelled_speedup = all / total.modelled_seconds);
        Ok(totals)
    }

    /// Numbers of computed steps of each stage, each with its reason, besides that of all steps.
    fn schedules(&self, stages: &[Stage], expected: &Expected) -> Result<Vec<(String, Vec<f64>)>, PipelineError> {
        let own = |name: &str| {
            let reason = format!(
                "the schedule of `{name}` does not depend on what it measures: leave out the number of computed steps, or the trace"
            );
            if *expected == Expected::Bounds { Ok(vec![]) } else { Err(PipelineError::Setting(reason)) }
        };
        match &self.cache {
            CacheConfig::None => return own("none"),
            CacheConfig::FewerSteps(_) if *expected == Expected::Bounds => {
                return Ok(vec![("of fewer steps".into(), lengths(stages))]);
            }
            CacheConfig::FewerSteps(_) => return own("fewer steps"),
            _ => {}
        }
        for stage in stages {
            let policy = self.policy(stage)?;
            if has_own_schedule(&*policy) {
                return own(policy.name());
            }
        }
        match expected {
            Expected::Steps(n) if (1..=self.steps).contains(n) => {
                let share = *n as f64 / self.steps as f64;
                Ok(vec![("as given".into(), lengths(stages).into_iter().map(|steps| share * steps).collect())])
            }
            Expected::Steps(n) => Err(PipelineError::Setting(format!("{n} computed steps of {}", self.steps))),
            Expected::Trace(trace) => {
                if trace.steps != self.steps {
                    let message = format!("the trace has {} steps, the plan {}", trace.steps, self.steps);
                    return Err(PipelineError::Setting(message));
                }
                let played = trace.play(&self.cache, self.source.anatomy());
                let (plans, _) = played.map_err(|error| PipelineError::Setting(error.to_string()))?;
                let of = |stage: &Stage| plans.get(stage.steps()).map_or(0, |plans| computed_steps(plans).len()) as f64;
                Ok(vec![("the policy on the trace".into(), stages.iter().map(of).collect())])
            }
            Expected::Bounds => {
                // Residuals that never change, and residuals that change beyond every threshold.
                let bound = |(reason, change): (&str, f64)| {
                    let computed = stages.iter().map(|stage| Ok(self.constant(stage, change)? as f64));
                    let computed = computed.collect::<Result<_, PipelineError>>()?;
                    Ok((format!("{reason} that the policy allows"), computed))
                };
                [("most", f64::MAX), ("fewest", 0.0)].into_iter().map(bound).collect()
            }
        }
    }

    /// The number of computed steps if every measurement reports that the residual has changed by `change`.
    fn constant(&self, stage: &Stage, change: f64) -> Result<usize, PipelineError> {
        let mut policy = self.policy(stage)?;
        let Probes { strides, .. } = policy.probes();
        let motion = vec![MotionSums { abs_diff: 1.0, abs_later: 1.0, abs_earlier: 1.0 }; strides.len()];
        let measurement = Measurement {
            abs_diff: change,
            abs_kept: 1.0,
            sq_diff: change,
            sq_kept: 1.0,
            motion,
            ..Measurement::default()
        };
        let Ok::<_, Infallible>((plans, _)) = walk(&mut *policy, stage.rows.len(), |_, _, _| Ok(measurement.clone()));
        Ok(computed_steps(&plans).len())
    }
}

#[cfg(test)]
mod tests;
