//! Sampling of a batch, stage by stage: each goes on where the one before ended, with another expert.

use std::ops::ControlFlow;

use super::error::PipelineError;
use super::experts::Experts;
use super::guidance::is_guided;
use super::job::Job;
use super::request::Request;
use super::source::PipelineConfig;
use super::stages::{Stage, named};
use crate::cache::{ComputeAll, Decision, Policy};
use crate::device::Rank;
use crate::model::{Caption, Geometry, Transformer, TransformerShape};
use crate::sampler::{FrameConditioning, Member, SampleError, SampleOutput, Sampler, SamplerOptions, StepEvent};

/// Videos that are sampled together.
pub(super) struct Batch<'a> {
    pub(super) experts: &'a Experts,
    /// Sizes of the videos.
    pub(super) config: &'a PipelineConfig,
    pub(super) requests: &'a [Request],
    pub(super) job: &'a Job,
    /// Measures in place of the requests' policy.
    pub(super) recorder: Option<&'a ComputeAll>,
    /// Initial latents.
    pub(super) latents: Vec<f32>,
    pub(super) conditioning: Option<FrameConditioning>,
    /// The place beside another device, which runs the other half of guidance.
    pub(super) rank: Option<&'a Rank>,
}

impl Batch<'_> {
    /// Runs all stages.
    pub(super) fn sample(
        &self,
        stages: &[Stage],
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<SampleOutput, PipelineError> {
        let mut made: Option<SampleOutput> = None;
        for stage in stages {
            let output = self.stage(stage, made.as_ref(), on_step)?;
            made = Some(match made {
                Some(made) => made.then(output),
                None => output,
            });
        }
        let mut made = made.ok_or_else(|| PipelineError::Setting("there are no steps".into()))?;
        made.members.iter_mut().for_each(|member| member.trace.stages = named(stages));
        Ok(made)
    }

    /// Runs a stage from where `before` ended.
    fn stage(
        &self,
        stage: &Stage,
        before: Option<&SampleOutput>,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<SampleOutput, PipelineError> {
        let Batch { experts, config, requests, job, recorder, latents, conditioning, rank } = self;
        let model = experts.get(stage.expert)?;
        let guided = is_guided(stage.cfg_scale);
        let decided = requests.chunks(requests.len() / job.members());
        let captions =
            decided.map(|requests| captions(&*model, requests, guided)).collect::<Result<Vec<_>, PipelineError>>()?;
        let policy = || match recorder {
            Some(recorder) => Ok(Box::new((*recorder).clone()) as Box<dyn Policy>),
            None => job.policy(stage),
        };
        let member = |caption| Ok(Member { caption, policy: policy()? });
        let members = captions.iter().map(member).collect::<Result<Vec<_>, PipelineError>>()?;
        let options = SamplerOptions {
            rows: stage.rows.clone(),
            cfg_scale: stage.cfg_scale,
            snapshots: vec![],
            packed_cache: requests[0].packed_cache,
            compare_folds: recorder.is_some(),
            // An expert without guidance has no halves: both ranks run all of it.
            rank: rank.filter(|_| guided).cloned(),
        };
        let geometry = Geometry { guided, ..config.geometry(requests.len()) };
        let conditioning = conditioning.clone();
        let sampler = match before {
            None => Sampler::new(&*model, members, geometry, latents, conditioning, options)?,
            Some(before) => Sampler::resume(&*model, members, geometry, before, conditioning, options)?,
        };
        let earlier = before.map_or(&[][..], |before| &before.members[0].decisions);
        sampler.run(&mut |event| counted_on(event, stage, earlier, on_step)).map_err(|error| match error {
            SampleError::Stopped { step } => SampleError::Stopped { step: step + stage.first }.into(),
            error => error.into(),
        })
    }
}

/// Reports a step of a stage as one of the whole run.
fn counted_on(
    event: &StepEvent<'_>,
    stage: &Stage,
    earlier: &[Decision],
    on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let its = event.decisions.iter().map(|decision| decision.after(stage.first));
    let decisions: Vec<Decision> = earlier.iter().copied().chain(its).collect();
    on_step(&StepEvent { step: event.step + stage.first, steps: stage.all, decisions: &decisions, ..event.clone() })
}

/// The captions of requests. Guidance runs their prompts and then as many captions of the unconditional half, in this order, in one batch:
/// the negative prompt, or the model's null caption, as long as the prompt it is paired with.
fn captions(model: &dyn Transformer, requests: &[Request], guided: bool) -> Result<Caption, PipelineError> {
    let TransformerShape { caption_channels: channels, caption_tokens: most, .. } = model.shape();
    let null = model.null_caption();
    let prompts = requests.iter().map(|r| &r.prompt);
    let conditional = prompts.clone().map(|p| (p.embedding().tokens, &p.embedding().values[..]));
    let unconditional = prompts.clone().filter(|_| guided).map(|p| {
        let nulls = null.len().min(p.embedding().tokens * channels);
        p.negative().map_or((nulls / channels, &null[..nulls]), |negative| (negative.tokens, &negative.values[..]))
    });
    let captions: Vec<(usize, &[f32])> = conditional.chain(unconditional).collect();
    let longest = captions.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0);
    let (mut rows, mut mask) = (vec![], vec![]);
    for ((tokens, values), prompt) in captions.iter().zip(prompts.cycle()) {
        if *tokens == 0 {
            return Err(PipelineError::Setting(format!(
                "`{prompt}` has no negative prompt, and the model has no null caption of its own: give one, or set the guidance scale to 1"
            )));
        }
        if values.len() != tokens * channels || *tokens > most {
            return Err(PipelineError::Setting(format!(
                "`{prompt}` has an embedding of {} values, the model takes at most {most} tokens of {channels} channels",
                values.len(),
            )));
        }
        rows.extend_from_slice(values);
        rows.resize(rows.len() + (longest - tokens) * channels, 0.0);
        mask.extend((0..longest).map(|token| token < *tokens));
    }
    Ok(model.caption(&rows, captions.len(), Some(&mask))?)
}
