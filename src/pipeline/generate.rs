//! From a prompt to latents and frames: connects text, noise, sampler and decoder.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::conditioning::Given;
use super::error::PipelineError;
use super::experts::{Experts, OnLoad};
use super::generation::{Decoded, Generation, OnFrame};
use super::guidance::is_guided;
use super::job::{Deciding, Job};
use super::noise::noise;
use super::prompt::TextOptions;
use super::provenance::{How, embedding_hash};
use super::report::{FlopCount, Fp8Report, Report, Seconds};
use super::request::{Request, cache_config, check_settings};
use super::sampling::Batch;
use super::settings::{Settings, codebook};
use super::source::{Content, ModelSource, Parts, PipelineConfig};
use super::stages::{Stage, named};
use crate::cache::{CacheConfig, ComputeAll};
use crate::device::{Device, DryConfig, Rank};
use crate::media::{Frames, Latents};
use crate::model::{Autoencoder, check_fp8};
use crate::sampler::{FrameConditioning, SampleOutput, StepEvent};
use crate::tensor::DType;

/// A model on a device, ready to generate.
pub struct Pipeline {
    source: ModelSource,
    experts: Experts,
    /// Set once the decoder's files have been verified.
    decodable: OnceLock<()>,
    /// The device memory budget in bytes.
    budget: Option<usize>,
    device: Device,
    /// The place among the devices that generate together.
    rank: Option<Rank>,
    /// The same model on the other devices, of the ranks behind this one's.
    others: Vec<Pipeline>,
}

impl Request {
    /// A request with the model's defaults, seed 0 and the fast AdaCache preset.
    pub fn new(pipeline: &Pipeline, prompt: &str) -> Result<Request, PipelineError> {
        let PipelineConfig { default_steps: steps, default_cfg_scale: cfg_scale, .. } = *pipeline.config();
        let prompt = pipeline.source.read_prompt(prompt)?;
        let (device, dtype) = (&pipeline.device, pipeline.experts.dtype());
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let embedded = pipeline.source.embed(&[prompt], &TextOptions::default(), device, dtype, go_on)?;
        Ok(Request {
            prompt: embedded.into_iter().next().expect("a prompt has an embedding"),
            steps,
            cfg_scale,
            seed: 0,
            noise: None,
            cache: cache_config(&pipeline.source, "adacache-fast", false, steps)?,
            packed_cache: false,
            record_all: false,
            given: None,
            decode: true,
        })
    }
}

impl Pipeline {
    /// Loads all weights of `source` onto `device`, to compute in `dtype`. Of several experts all stay there, if a video with the model's own
    /// settings fits beside them; else each makes room for the next.
    pub fn load(source: &ModelSource, device: &Device, dtype: DType) -> Result<Pipeline, PipelineError> {
        let together = match device.available()? {
            Some(available) if source.experts().len() > 1 => {
                Job::usual(source, dtype)?.needs(device)?.together() <= available
            }
            _ => true,
        };
        Pipeline::with(Experts::new(source, device, dtype, 0, together), source, device, 0)
    }

    /// As [`Pipeline::load`], within `budget` bytes of device memory: if `job`, the most demanding of those to come, does not fit, weights
    /// of the transformer's blocks stay in host memory and are copied when they are needed. The result is bit-identical. From here on the
    /// device allocates no more than the budget; memory that the driver allocates for itself is not counted.
    ///
    /// Of several experts one is on the device at a time, unless all fit without streaming.
    ///
    /// Without a budget the limit is [`Device::available`]: the free memory of a GPU, less [`HEADROOM`](crate::device::HEADROOM), which is not
    /// enforced; the virtual GPU then keeps everything.
    ///
    /// # Errors
    /// [`PipelineError::Budget`] with every summand, before anything is uploaded; as [`Pipeline::load`].
    pub fn load_within(job: &Job, device: &Device, budget: Option<usize>) -> Result<Pipeline, PipelineError> {
        let available = match budget {
            Some(budget) => Some(budget),
            None => device.available()?,
        };
        let (streamed, together) = match available {
            Some(available) => {
                let needs = job.needs(device)?;
                (needs.streamed(available)?, needs.together() <= available)
            }
            None => (0, true),
        };
        if budget.is_some() {
            device.limit_memory(budget);
        }
        let experts = Experts::new(&job.source, device, job.dtype, streamed, together);
        let first = job.stages()?.first().map_or(0, |stage| stage.expert);
        Ok(Pipeline { budget, ..Pipeline::with(experts, &job.source, device, first)? })
    }

    /// The pipeline, with the expert that comes first on the device.
    fn with(experts: Experts, source: &ModelSource, device: &Device, first: usize) -> Result<Pipeline, PipelineError> {
        check_products(source, device, experts.dtype())?;
        experts.get(first)?;
        let (source, device) = (source.clone(), device.clone());
        Ok(Pipeline { source, experts, decodable: OnceLock::new(), budget: None, device, rank: None, others: vec![] })
    }

    /// This pipeline and `other`, of the same model on another device, as one: each runs the transformer's blocks on its half of guidance, in a thread
    /// of its own, and a computed step exchanges the hidden state and the sums of the blocks' probes. A reused step exchanges nothing, unless its
    /// policy runs the first blocks in every step. The latents are
    /// those of one device, as far as its kernels give the same bits for half the batch, and so are the decisions. This one decodes.
    ///
    /// # Errors
    /// Another model or type; a pipeline that is joined already.
    pub fn join(mut self, mut other: Pipeline) -> Result<Pipeline, PipelineError> {
        let alike = Arc::ptr_eq(&self.source, &other.source) && self.experts.dtype() == other.experts.dtype();
        if !alike || self.rank.is_some() || other.rank.is_some() {
            let reason = "two pipelines generate together if both have the same model in the same type, and neither has a partner";
            return Err(PipelineError::Setting(reason.into()));
        }
        for (rank, pipeline) in Rank::group(2).into_iter().zip([&mut self, &mut other]) {
            pipeline.rank = Some(rank);
        }
        self.others.push(other);
        Ok(self)
    }

    /// Reports which decoder files are missing or damaged, without using device memory: reads them all for a device that stores nothing.
    fn check_decoder(&self) -> Result<(), PipelineError> {
        if self.decodable.get().is_none() {
            let units = self.device.info().units;
            self.autoencoder(&Device::dry(DryConfig {
                name: "check".into(),
                memory: usize::MAX >> 1,
                units,
                compute_capability: (8, 0),
            }))?;
            self.decodable.get_or_init(|| ());
        }
        Ok(())
    }

    /// Loads the autoencoder.
    pub(super) fn autoencoder(&self, device: &Device) -> Result<Box<dyn Autoencoder>, PipelineError> {
        // Tells what is missing, and how to get it.
        self.source.require(Parts { decoder: true, ..Parts::default() })?;
        let name = &self.config().name;
        self.source.autoencoder(device, self.experts.dtype(), Content::Files)?.ok_or_else(|| {
            PipelineError::Setting(format!("{name} has no autoencoder, so its latents cannot be decoded: set `decode` to false and write .safetensors"))
        })
    }

    /// Tells `listener` of every expert that is loaded during runs: gigabytes are read between two steps.
    pub fn on_load(&mut self, listener: Box<OnLoad>) {
        self.experts.tell(listener);
    }

    /// Whether every run loads its experts anew, as they are not on the device together.
    pub fn reloads(&self) -> bool {
        self.experts.make_room()
    }

    /// The source of the model.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// The device it runs on.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// What the video of `request` depends on, this device included. `weights`: [`weights_hash`](super::weights_hash) of the source;
    /// `preset`: the name by which the cache policy was chosen.
    pub fn settings(&self, weights: &str, preset: &str, request: &Request) -> Settings {
        let Request { prompt, steps, cfg_scale, seed, noise, cache, packed_cache, given, .. } = request;
        let dtype = self.experts.dtype();
        let how = How { seed: *seed, steps: *steps, cfg_scale: *cfg_scale, dtype, preset, cache };
        Settings {
            embedding: Some(embedding_hash(prompt.embedding(), prompt.negative())),
            noise: noise.as_ref().map(|latents| latents.hash()),
            packed_cache: *packed_cache,
            given: given.as_ref().map(Given::facts),
            device: Some(self.devices()),
            ..Settings::new(&self.source, weights, prompt.to_string(), &how)
        }
    }

    /// The devices it runs on, by their names.
    fn devices(&self) -> String {
        let all = std::iter::once(self).chain(&self.others);
        all.map(|pipeline| pipeline.device.info().label()).collect::<Vec<_>>().join(" + ")
    }

    /// Sizes and defaults.
    pub fn config(&self) -> &PipelineConfig {
        self.source.config()
    }

    /// Generates one video. `on_step` is called after every step and may stop the run.
    pub fn generate(
        &self,
        request: &Request,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<Generation, PipelineError> {
        let mut generations = self.generate_batch(std::slice::from_ref(request), Deciding::Together, on_step)?;
        Ok(generations.swap_remove(0))
    }

    /// Generates several videos in one run; everything but their prompts and seeds must be the same.
    pub fn generate_batch(
        &self,
        requests: &[Request],
        deciding: Deciding,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, PipelineError> {
        self.generate_telling(requests, deciding, on_step, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Pipeline::generate_batch`]; `on_frame` is called with decoded frames, and may stop the run too.
    pub fn generate_telling(
        &self,
        requests: &[Request],
        deciding: Deciding,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
        on_frame: OnFrame<'_>,
    ) -> Result<Vec<Generation>, PipelineError> {
        self.run(requests, deciding, None, on_step, on_frame)
    }

    /// Generates one video with every step computed, whatever cache its request names, and measures the probes of `recorder`; the trace
    /// also compares each fold with all earlier ones, which are kept on the host.
    pub fn record(
        &self,
        request: &Request,
        recorder: &ComputeAll,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
    ) -> Result<Generation, PipelineError> {
        let request = Request { cache: CacheConfig::None, ..request.clone() };
        let deciding = Deciding::Together;
        let mut generations =
            self.run(&[request], deciding, Some(recorder), on_step, &mut |_| ControlFlow::Continue(()))?;
        Ok(generations.swap_remove(0))
    }

    fn run(
        &self,
        requests: &[Request],
        deciding: Deciding,
        recorder: Option<&ComputeAll>,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
        on_frame: OnFrame<'_>,
    ) -> Result<Vec<Generation>, PipelineError> {
        let Some(rank) = self.rank.as_ref().filter(|_| !self.others.is_empty()) else {
            return self.run_here(requests, deciding, recorder, on_step, on_frame);
        };
        rank.reset();
        let latents_alone: Vec<Request> = requests.iter().map(|r| Request { decode: false, ..r.clone() }).collect();
        let beside = |other: &Pipeline, its: &Rank| {
            let (mut on_step, mut on_frame) =
                (|_: &StepEvent| ControlFlow::Continue(()), |_: &Decoded| ControlFlow::Continue(()));
            let work = || other.run_here(&latents_alone, deciding, recorder, &mut on_step, &mut on_frame);
            its.during(&other.device.info().label(), work).map(drop)
        };
        std::thread::scope(|scope| {
            let others = self.others.iter().filter_map(|other| Some((other, other.rank.as_ref()?)));
            let threads: Vec<_> = others.map(|(other, its)| scope.spawn(move || beside(other, its))).collect();
            let work = || self.run_here(requests, deciding, recorder, on_step, on_frame);
            let made = rank.during(&self.device.info().label(), work);
            for thread in threads {
                let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if made.is_ok() {
                    ended?;
                }
            }
            made
        })
    }

    /// What this device does of a run.
    fn run_here(
        &self,
        requests: &[Request],
        deciding: Deciding,
        recorder: Option<&ComputeAll>,
        on_step: &mut dyn FnMut(&StepEvent) -> ControlFlow<()>,
        on_frame: OnFrame<'_>,
    ) -> Result<Vec<Generation>, PipelineError> {
        let Some(request) = requests.first() else { return Ok(vec![]) };
        check_settings(&self.source, request.steps, request.cfg_scale)?;
        check_alike(request, requests)?;
        let start = Instant::now();
        let sent = self.rank.as_ref().map_or(0, Rank::sent_bytes);
        self.device.reset_peak();
        if request.decode {
            // Before the steps: what is missing or damaged is said now.
            self.check_decoder()?;
        }
        let job = Job { videos: requests.len(), deciding, ..Job::new(&self.source, self.experts.dtype(), request) };
        let (stages, decided) = (job.stages()?, requests.len() / job.members());
        if self.rank.is_some() && !stages.iter().any(|stage| is_guided(stage.cfg_scale)) {
            let reason = "at guidance scale 1 there are no halves that two devices could share: take one device, or another scale";
            return Err(PipelineError::Setting(reason.into()));
        }
        let (latents, conditioning) = self.initial(requests)?;
        let (experts, config) = (&self.experts, self.config());
        let rank = self.rank.as_ref();
        let batch = Batch { experts, config, requests, job: &job, recorder, latents, conditioning, rank };
        let output = batch.sample(&stages, on_step)?;

        let rgb = if request.decode { Some(self.decode(&output, on_frame)?) } else { None };
        let seconds = Seconds {
            total: start.elapsed().as_secs_f64(),
            denoise: output.seconds,
            encode: 0.0,
            per_step: output.seconds_per_step.clone(),
        };
        let exchanged = self.rank.as_ref().map_or(0, Rank::sent_bytes) - sent;
        let made = Made { pipeline: self, requests, decided, stages, output, exchanged, rgb, seconds };
        Ok((0..requests.len()).map(|i| made.generation(i)).collect())
    }

    /// The pixels of all videos.
    fn decode(&self, output: &SampleOutput, on_frame: OnFrame<'_>) -> Result<Vec<u8>, PipelineError> {
        let config = self.config();
        let frame = config.width * config.height * 3;
        let (video, all) = (frame * config.frames(), output.shape[0] * config.frames());
        let mut rgb: Vec<u8> = Vec::with_capacity(all * frame);
        let mut pixels = |mut new: &[u8]| {
            while !new.is_empty() {
                let (its, rest) = new.split_at(new.len().min(video - rgb.len() % video));
                let index = rgb.len() / video;
                rgb.extend_from_slice(its);
                on_frame(&Decoded { done: rgb.len() / frame, all, video: index, pixels: its })?;
                new = rest;
            }
            ControlFlow::Continue(())
        };
        // Only now: while denoising its weights would lie idle on the device.
        self.autoencoder(&self.device)?.decode(&output.latents, output.shape, config.frames(), &mut pixels)?;
        Ok(rgb)
    }

    /// The initial latents: noise, and the given frames.
    fn initial(&self, requests: &[Request]) -> Result<(Vec<f32>, Option<FrameConditioning>), PipelineError> {
        let [frames, height, width] = self.config().latent;
        let shape = [self.source.shape().channels, frames, height, width];
        let elements = shape.iter().product();
        let (mut all, mut fresh, mut mask) = (vec![], vec![], vec![]);
        for request in requests {
            // The second half is for given frames that start to move.
            let mut values = noise(request.seed, if request.given.is_some() { 2 * elements } else { elements });
            fresh.extend(values.split_off(elements));
            let mut latents = match &request.noise {
                Some(noise) if noise.shape == shape => Latents::clone(noise),
                Some(noise) => {
                    let found = noise.shape;
                    return Err(PipelineError::Setting(format!(
                        "the initial noise has the shape {found:?} (channels, frames, height, width), the video {shape:?}"
                    )));
                }
                None => Latents { shape, values },
            };
            if let Some(Given { references, strategy, part }) = &request.given {
                mask.extend(strategy.apply(references, &mut latents, *part)?);
            }
            all.extend(latents.values);
        }
        Ok((all, if mask.is_empty() { None } else { Some(FrameConditioning { mask, noise: fresh }) }))
    }
}

/// A batch that has run.
struct Made<'a> {
    pipeline: &'a Pipeline,
    requests: &'a [Request],
    /// Videos that are decided about together.
    decided: usize,
    stages: Vec<Stage>,
    output: SampleOutput,
    /// Bytes given to the other device.
    exchanged: u64,
    /// The pixels of all videos, where they are wanted.
    rgb: Option<Vec<u8>>,
    seconds: Seconds,
}

impl Made<'_> {
    /// Video `i` of the batch.
    fn generation(&self, i: usize) -> Generation {
        let [_, channels, frames, height, width] = self.output.shape;
        let config = self.pipeline.config();
        let elements = channels * frames * height * width;
        let frames_of = |rgb: &Vec<u8>| {
            let bytes = rgb.len() / self.requests.len();
            let rgb = rgb[i * bytes..][..bytes].to_vec();
            Frames { width: config.width, height: config.height, fps: config.fps, rgb }
        };
        let values = self.output.latents[i * elements..][..elements].to_vec();
        Generation {
            latents: Latents { shape: [channels, frames, height, width], values },
            frames: self.rgb.as_ref().map(frames_of),
            report: self.report(i),
            later: vec![],
            trace: self.output.members[i / self.decided].trace.clone(),
        }
    }

    fn report(&self, i: usize) -> Report {
        let Made { pipeline, output, .. } = self;
        let (request, member) = (&self.requests[i], &output.members[i / self.decided]);
        let (config, [resident, streamed]) = (pipeline.config(), pipeline.experts.weight_bytes());
        let computed = FlopCount::new(output.flops, &member.flops);
        Report {
            model: config.name.clone(),
            device: pipeline.devices(),
            dtype: pipeline.experts.dtype().to_string(),
            steps: member.plans.len(),
            stages: named(&self.stages),
            decisions: member.decisions.clone(),
            seconds: self.seconds.clone(),
            videos: self.requests.len(),
            decided_together: self.decided,
            cache_bytes: output.cache_bytes,
            cache_bytes_unfolded: output.cache_bytes_unfolded,
            cache_error: output.cache_error,
            fp8_weights: pipeline.experts.fp8().zip(output.activation_error).map(|(weights, activation_error)| {
                Fp8Report {
                    products: weights.products,
                    other_products: weights.others,
                    weight_error: weights.error,
                    activation_error,
                }
            }),
            activation_bytes: output.activation_bytes,
            peak_device_bytes: pipeline.device.peak_bytes(),
            resident_weight_bytes: resident,
            streamed_weight_bytes: streamed,
            exchanged_bytes: self.exchanged,
            memory_budget: pipeline.budget,
            seed: request.seed,
            prompt: request.prompt.to_string(),
            cache: member.trace.cache.clone(),
            cfg_scale: request.cfg_scale,
            program: env!("CARGO_PKG_VERSION").into(),
            width: config.width,
            height: config.height,
            frames: config.frames(),
            fps: config.fps,
            codebook: codebook(&request.cache),
            preset: None,
            weights: None,
            settings: None,
            arguments: BTreeMap::new(),
            output: None,
            flops: FlopCount { all_computed: member.all_computed, ..computed },
            computed_steps: member.computed_steps(),
            partial_steps: member.partial_steps(),
            step_shares: member.flops.iter().map(|&flops| flops as f64 / output.flops.computed as f64).collect(),
        }
    }
}

/// Checks that the products of `source` run on `device` in `dtype`: those of e4m3 are of some devices and types alone.
///
/// # Errors
/// [`ModelError::NoFp8`](crate::model::ModelError::NoFp8) names them.
pub fn check_products(source: &ModelSource, device: &Device, dtype: DType) -> Result<(), PipelineError> {
    if source.config().fp8_weights {
        check_fp8(device, dtype)?;
    }
    Ok(())
}

/// Whether the videos can be made together with the first.
fn check_alike(first: &Request, requests: &[Request]) -> Result<(), PipelineError> {
    let places = |r: &Request| r.given.as_ref().map(|given| (given.strategy.clone(), given.part));
    let alike = |r: &Request| {
        let (prompt, noise, given) = (first.prompt.clone(), first.noise.clone(), first.given.clone());
        places(r) == places(first) && Request { prompt, seed: first.seed, noise, given, ..r.clone() } == *first
    };
    if requests.iter().all(alike) {
        return Ok(());
    }
    Err(PipelineError::Setting("the videos of a batch differ in more than prompt, noise and references".into()))
}
