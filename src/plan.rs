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
use crate::pipeline::{Content, Job, Needs, PipelineError};
use crate::profile::{Cost, Efficiency, Tally};
use crate::sampler::{Member, Sampler, SamplerOptions};

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The transformer's weights.
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
        // Long, but in one order: the job is set up on a device that only counts, its steps are tallied, each tally is priced.
        efficiency.check(gpu)?;
        let memory = gpu.memory as usize;
        let device = Device::dry(DryConfig {
            name: gpu.name.into(),
            // What does not fit is to be reported with its size, not stopped at the first byte too many.
            memory: memory.saturating_mul(64),
            units: gpu.units,
            compute_capability: gpu.sm.compute_capability,
        });
        let model = self.source.transformer(&device, self.dtype, 0, Content::Zeros)?;
        let weights = device.allocated_bytes();
        let geometry = self.geometry();
        let batch = geometry.batch();
        let TransformerShape { channels, caption_channels, .. } = model.shape();
        let caption = model.caption(&vec![0.0; batch * self.caption_tokens * caption_channels], batch, None)?;
        let with_caption = device.allocated_bytes();
        let caption_bytes = with_caption - device.scratch_bytes() - weights;

        let policy = self.policy()?;
        let needs = self.needs(&device)?;
        let halves = policy.decides_halves();
        // The plans of single modules and of halves are known; of whole forwards three steps stand for all.
        let (rows, policy): (_, Box<dyn Policy>) = match has_own_schedule(&*policy) {
            true => (self.rows()?, policy),
            false => (self.source.solver(3)?.rows(), Box::new(Walk(policy))),
        };
        let Geometry { videos, frames, height, width, .. } = geometry;
        let latents = vec![0.0; videos * channels * frames * height * width];
        let options = SamplerOptions {
            rows,
            cfg_scale: 7.0,
            snapshots: vec![],
            packed_cache: self.packed_cache,
            compare_folds: false,
        };
        let members = vec![Member { caption: &caption, policy }];
        let sampler = Sampler::new(&*model, members, geometry, &latents, None, options)?;
        let allocated = device.allocated_bytes() - with_caption;

        let tally = Tally::new();
        device.observe(Some(tally.clone()));
        let mut steps = vec![];
        let output = sampler.run(&mut |_| {
            steps.push(tally.take());
            ControlFlow::Continue(())
        })?;
        let costs: Vec<Cost> = steps.iter().map(|step| Cost::new(gpu, &efficiency, step)).collect();
        let plans = &output.members[0].plans;
        let partial = || costs.iter().zip(plans).filter(|(_, plan)| plan.is_partial()).map(|(cost, _)| cost);
        // The first computed step has nothing to be compared with; the second stands for all.
        let computed = costs.iter().zip(plans).filter(|(_, plan)| plan.is_computed()).map(|(cost, _)| cost);
        let computed_step = computed.take(2).last().unwrap_or(&costs[0]).clone();
        let reused_step = costs.iter().zip(plans).find(|(_, plan)| **plan == Plan::Reuse).map(|(cost, _)| cost.clone());
        let partial_step = partial().min_by_key(|cost| cost.flops).cloned();
        let [_, t, s, _] = model.hidden_shape(&geometry);

        let reused = reused_step.as_ref().map_or(0.0, |cost| cost.modelled_seconds);
        let mut totals = self.totals(computed_step.modelled_seconds, reused, expected)?;
        let partial_steps = partial().count();
        if partial_steps > 0 || halves {
            let modelled_seconds = costs.iter().map(|cost| cost.modelled_seconds).sum();
            totals.push(Total {
                schedule: "the policy's own".into(),
                computed_steps: computed_steps(plans).len(),
                partial_steps,
                modelled_seconds,
                modelled_speedup: totals[0].modelled_seconds / modelled_seconds,
            });
        }
        Ok(Estimate {
            gpu: *gpu,
            tokens: [t, s],
            batch,
            memory: Memory {
                weights,
                caption: caption_bytes,
                activations: allocated - output.cache_bytes,
                cache: output.cache_bytes,
                cache_unfolded: output.cache_bytes_unfolded,
                peak: device.peak_bytes(),
                resident: needs.resident(),
                least: needs.least(),
                needs,
                available: memory,
            },
            computed_step,
            reused_step,
            partial_step,
            totals,
            efficiency,
        })
    }

    /// The denoising loop by each expected schedule, every step computed first, where a computed step and a reused one take these seconds.
    fn totals(&self, computed: f64, reused: f64, expected: &Expected) -> Result<Vec<Total>, PipelineError> {
        let all = self.steps as f64 * computed;
        let total = |(schedule, computed_steps): (String, usize)| {
            let modelled_seconds =
                computed_steps as f64 * computed + self.steps.saturating_sub(computed_steps) as f64 * reused;
            let modelled_speedup = all / modelled_seconds;
            Total { schedule, computed_steps, partial_steps: 0, modelled_seconds, modelled_speedup }
        };
        Ok(self.schedules(expected)?.into_iter().map(total).collect())
    }

    /// Numbers of computed steps, each with its reason; the case of all steps comes first.
    fn schedules(&self, expected: &Expected) -> Result<Vec<(String, usize)>, PipelineError> {
        let mut schedules = vec![("every step computed".to_owned(), self.steps)];
        match &self.cache {
            CacheConfig::None => return Ok(schedules),
            CacheConfig::FewerSteps(fewer) => {
                schedules.push(("of fewer steps".into(), fewer.steps));
                return Ok(schedules);
            }
            _ => {}
        }
        if has_own_schedule(&*self.policy()?) {
            return Ok(schedules);
        }
        match expected {
            Expected::Steps(n) if (1..=self.steps).contains(n) => schedules.push(("as given".into(), *n)),
            Expected::Steps(n) => {
                return Err(PipelineError::Setting(format!("{n} computed steps of {}", self.steps)));
            }
            Expected::Trace(trace) => {
                if trace.steps != self.steps {
                    let message = format!("the trace has {} steps, the plan {}", trace.steps, self.steps);
                    return Err(PipelineError::Setting(message));
                }
                let computed = trace
                    .schedule(&mut *self.policy()?)
                    .map_err(|error| PipelineError::Setting(error.to_string()))?
                    .len();
                schedules.push(("the policy on the trace".into(), computed));
            }
            Expected::Bounds => {
                // Residuals that never change, and residuals that change beyond every threshold.
                for (reason, change) in [("most", f64::MAX), ("fewest", 0.0)] {
                    schedules.push((format!("{reason} that the policy allows"), self.constant(change)?));
                }
            }
        }
        Ok(schedules)
    }

    /// The number of computed steps if every measurement reports that the residual has changed by `change`.
    fn constant(&self, change: f64) -> Result<usize, PipelineError> {
        let mut policy = self.policy()?;
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
        let Ok::<_, Infallible>((plans, _)) = walk(&mut *policy, self.steps, |_, _, _| Ok(measurement.clone()));
        Ok(computed_steps(&plans).len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;
    use crate::model::SLOTS;
    use crate::pipeline::{Deciding, OpenOptions};
    use crate::profile::Family;
    use crate::tensor::DType;

    fn opensora(resolution: &str, steps: usize, cache: &str) -> Job {
        let source = family::published("opensora-v1.2", &OpenOptions::published(resolution, 51)).unwrap();
        let presets = source.presets(steps).unwrap();
        Job {
            cache: presets.resolve(cache, false, source.anatomy(), steps).unwrap(),
            caption_tokens: source.shape().caption_tokens,
            source,
            dtype: DType::Bf16,
            videos: 1,
            deciding: Deciding::Together,
            guided: true,
            packed_cache: false,
            record_all: false,
            steps,
            given: false,
            encodes: false,
            decodes: true,
        }
    }

    fn estimate(job: &Job) -> Estimate {
        let gpu = Chip::named("a100").unwrap();
        job.estimate(gpu, Efficiency::assumed(gpu), &Expected::Bounds).unwrap()
    }

    #[test]
    fn a_720p_step_by_hand() {
        let e = estimate(&opensora("720p", 100, "adacache-fast"));
        assert_eq!((e.tokens, e.batch), ([15, 3600], 2));
        // rows = 2·15·3600; a block has products of 3C², C² (attention), C², C² (cross-attention), 4C² and 4C² (MLP).
        let (rows, c) = (2 * 15 * 3600u64, 1152u64);
        let products = 56 * 2 * rows * 14 * c * c;
        let ends = 2 * rows * c * 16 + 2 * rows * c * 32;
        let attention = 28 * 4 * rows * c * (3600 + 15) + 56 * 4 * rows * c * 300;
        let by = |family| e.computed_step.families.iter().find(|f| f.family == family).unwrap().clone();
        assert_eq!(by(Family::Linear).flops, products + ends);
        assert_eq!(by(Family::Attention).flops, attention);
        assert!((e.computed_step.flops as f64 / 284e12 - 1.0).abs() < 0.02, "{}", e.computed_step.flops);
        // A reused step: patch embedding, one addition, final layer.
        let reused = e.reused_step.unwrap();
        let linear = reused.families.iter().find(|f| f.family == Family::Linear).unwrap();
        assert_eq!((linear.launches, linear.flops), (2, ends));
        assert!(reused.launches < 30 && reused.modelled_seconds < 0.01 * e.computed_step.modelled_seconds);
    }

    #[test]
    fn memory_by_hand() {
        let e = estimate(&opensora("720p", 100, "adacache-fast"));
        let (rows, c) = (2 * 15 * 3600usize, 1152usize);
        // The fold and one probed residual, in two bytes; 112 residuals without the fold.
        assert_eq!(e.memory.cache, 2 * rows * c * 2);
        assert_eq!(e.memory.cache_unfolded, 112 * rows * c * 2);
        // Keys and values of 300 tokens for two samples and 56 blocks, and two lengths.
        assert_eq!(e.memory.caption, 56 * 600 * 2 * c * 2 + 2 * 4);
        // Weights from the table of shapes: products and biases of a block, its norms and its table.
        // The two norms of 72 take 256 bytes each, as everything in a block begins at a multiple of that.
        let (products, tables) = (16 * c * c + (3 + 1 + 1 + 2 + 1 + 4 + 1) * c + 2 * 128, 6 * c);
        let block = products + tables;
        let mlp = |inputs: usize| c * inputs + c + c * c + c;
        let rest = c * 16 + c + 2 * mlp(256) + mlp(4096) + 6 * c * c + 6 * c + 2 * c + 32 * c + 32;
        assert_eq!(e.memory.weights, 2 * (56 * block + rest) + 36 * 4);
        let n = e.memory.needs;
        assert_eq!((n.block, n.blocks, n.ends), (2 * products, 56, e.memory.weights - 56 * 2 * products));
        assert_eq!((n.caption, n.cache), (e.memory.caption, e.memory.cache));
        // 24 MiB of sums and 16 KiB of counters: the caption's products have few tiles.
        assert_eq!(n.scratch, (24 << 20) + (16 << 10));
        // The walk has a table of 3 steps, fourteen numbers each, the generation one of 100.
        assert_eq!(n.activations, e.memory.activations + 97 * 14 * 4);
        // In memory of the autoencoder what its test says: 0.79 GB of weights, 1.02 GB of activations at least.
        assert!(
            (0.75e9..0.85e9).contains(&(n.decoder as f64)) && (1.0e9..1.2e9).contains(&(n.decoding as f64)),
            "{n:?}"
        );
        // The decoder's weights come when the steps are done: here they and its smallest cut take the most.
        assert!(n.decoder + n.decoding > n.activations + n.cache, "{n:?}");
        let all = e.memory.weights + n.scratch + n.caption + n.decoder + n.decoding;
        assert_eq!((e.memory.resident, e.memory.least), (all, all - (56 - SLOTS) * n.block));
        let parts = e.memory.weights + e.memory.caption + e.memory.activations + e.memory.cache;
        assert!(e.memory.peak >= parts && e.memory.peak < 24 << 30, "{:?}", e.memory);
    }

    #[test]
    fn totals_follow_the_schedule() {
        let task = opensora("720p", 100, "adacache-fast");
        let e = estimate(&task);
        let [all, most, fewest] = &e.totals[..] else { panic!("{:?}", e.totals) };
        assert_eq!((all.computed_steps, all.modelled_speedup), (100, 1.0));
        // Step 1, then 2; from there every 3rd step, or every 12th; then the last two: 99 and 100.
        assert_eq!(most.computed_steps, 2 + (2..99).step_by(3).skip(1).count() + 2);
        assert_eq!(fewest.computed_steps, 2 + (2..99).step_by(12).skip(1).count() + 2);
        let (c, r) = (e.computed_step.modelled_seconds, e.reused_step.as_ref().unwrap().modelled_seconds);
        assert!((fewest.modelled_seconds - (12.0 * c + 88.0 * r)).abs() < 1e-9 * c);
        let given = task.estimate(&e.gpu, e.efficiency.clone(), &Expected::Steps(21)).unwrap();
        assert_eq!(given.totals[1].computed_steps, 21);
        assert!(task.estimate(&e.gpu, e.efficiency.clone(), &Expected::Steps(101)).is_err());
    }

    #[test]
    fn without_a_cache_nothing_is_kept_or_reused() {
        let e = estimate(&opensora("240p", 30, "none"));
        assert_eq!((e.memory.cache, e.reused_step, e.totals.len()), (0, None, 1));
        assert_eq!(e.tokens, [15, 405]);
    }

    #[test]
    fn single_modules_are_priced_by_their_own_schedule() {
        let task = opensora("240p", 30, "pab");
        let e = estimate(&task);
        let [all, own] = &e.totals[..] else { panic!("{:?}", e.totals) };
        assert_eq!((all.computed_steps, own.schedule.as_str()), (30, "the policy's own"));
        assert!(own.partial_steps > 10 && own.computed_steps + own.partial_steps == 30, "{own:?}");
        let partial = e.partial_step.unwrap();
        assert!(e.reused_step.is_none() && partial.flops < e.computed_step.flops);
        assert!(own.modelled_seconds < all.modelled_seconds);
        // The walk counts what the launches say, the model what its shapes say.
        let device =
            Device::dry(DryConfig { name: "x".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) });
        let model = task.source.transformer(&device, task.dtype, 0, Content::Zeros).unwrap();
        let mut policy = task.policy().unwrap();
        let groups = policy.groups();
        let reused = |plan: Plan, module| {
            groups.iter().enumerate().any(|(i, g)| plan.groups().0.contains(i) && g.contains(module))
        };
        let flops = (1..=30).map(|step| policy.plan(step)).filter(Plan::is_partial);
        let least = flops.map(|plan| model.flops(&task.geometry(), 300, &|module| !reused(plan, module))).min();
        let families = partial.families.iter().filter(|f| f.family != Family::Memory);
        assert_eq!(Some(families.map(|f| f.flops).sum()), least);
        // Kept are 56 attentions, 56 cross-attentions and 10 MLPs.
        assert_eq!(e.memory.cache, (56 + 56 + 10) * 2 * 15 * 405 * 1152 * 2);
    }

    #[test]
    fn the_walk_and_the_report_count_the_same_operations() {
        let task = opensora("480p", 30, "adacache-slow");
        let e = estimate(&task);
        let device =
            Device::dry(DryConfig { name: "x".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) });
        let model = task.source.transformer(&device, task.dtype, 0, Content::Zeros).unwrap();
        let flops = |runs: bool| model.flops(&task.geometry(), 300, &|_| runs);
        let products =
            |cost: &Cost| cost.families.iter().filter(|f| f.family != Family::Memory).map(|f| f.flops).sum::<u64>();
        assert_eq!(products(&e.computed_step), flops(true));
        assert_eq!(products(&e.reused_step.unwrap()), flops(false));
    }
}
