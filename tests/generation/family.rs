//! A family of models from outside the crate, in this one file: its transformer, its source and its row. It generates with every cache
//! policy, and writes no line about caching.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use adacache::cache::{Anatomy, CacheConfig, ComputeAll, Module, Presets, Span, computed_steps};
use adacache::device::Device;
use adacache::family::{Family, opensora};
use adacache::model::{
    Added, Autoencoder, BlockWeights, Caption, Geometry, Layout, ModelError, PREDICTION, Progress, ResidualRoom, Slot,
    Stage, Trace, Transformer, TransformerShape, WeightBytes, Workspace, X,
};
use adacache::ops::linear::{Activation, linear, linear_residual};
use adacache::ops::{embed, norm};
use adacache::pipeline::{
    Content, Generation, Inputs, Job, ModelFile, ModelSource, OpenOptions, Pipeline, PipelineConfig, PipelineError,
    Prompt, PromptText, Request, Source, TextOptions, cache_config,
};
use adacache::sampler::{FlowGrid, Solver, UniPc};
use adacache::tensor::{DType, Tensor};
use adacache::text::Embedding;

const C: usize = 32;
const CHANNELS: usize = 4;
const BLOCKS: usize = 3;
const PATCH: [usize; 3] = [1, 2, 2];
const STEPS: usize = 10;

const PATCHES: Slot = Slot("patches");
const NORMED: Slot = Slot("normed");
const HIDDEN: Slot = Slot("hidden");
const OUT: Slot = Slot("out");
const SINUSOID: Slot = Slot("sinusoid");
const MODULATION: Slot = Slot("modulation");

/// Blocks that span everything, without cross-attention; both modules are products of the normed hidden state, modulated by the time.
struct Toy {
    anatomy: Anatomy,
    device: Device,
    dtype: DType,
    weights: BlockWeights,
    patch: Tensor,
    time: Tensor,
    /// By module.
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    last: Tensor,
}

impl Toy {
    fn new(device: &Device, dtype: DType) -> Result<Toy, ModelError> {
        let mut seed = 1.0f64;
        let mut weight = |out: usize, inputs: usize| {
            let values = (0..out * inputs).map(|i| {
                seed += 0.37 * (i as f64).sqrt();
                (seed.sin() / (inputs as f64).sqrt()) as f32
            });
            Tensor::from_f32(device, &[out, inputs], &values.collect::<Vec<_>>(), dtype)
        };
        let block = (Span::Everything, &[Module::Attention, Module::Mlp][..]);
        let anatomy = Anatomy::new(std::iter::repeat_n(block, BLOCKS));
        let patches = CHANNELS * PATCH.iter().product::<usize>();
        Ok(Toy {
            patch: weight(C, patches)?,
            time: weight(2 * C, 64)?,
            first: (0..anatomy.modules()).map(|_| weight(2 * C, C)).collect::<Result<_, _>>()?,
            second: (0..anatomy.modules()).map(|_| weight(C, 2 * C)).collect::<Result<_, _>>()?,
            last: weight(patches, C)?,
            weights: BlockWeights::resident(),
            anatomy,
            device: device.clone(),
            dtype,
        })
    }

    fn tokens(&self, geometry: &Geometry) -> [usize; 3] {
        [geometry.frames, geometry.height.div_ceil(2), geometry.width.div_ceil(2)]
    }

    /// `out = LN(x) · (1 + scale) + shift` with the time's shift and scale.
    fn normed(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        let modulation = ws.modulation(ws.get(MODULATION));
        let modulate = norm::Modulate { modulation, shift: 0, scale: 1, variant: 0, only_masked_out: false, eps: 1e-6 };
        Ok(norm::modulate(&ws.rows(ws.x())?, &modulate, &ws.rows(out)?)?)
    }
}

impl Transformer for Toy {
    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    fn shape(&self) -> TransformerShape {
        TransformerShape { channels: CHANNELS, patch_frames: 1, caption_channels: 1, caption_tokens: 1 }
    }

    fn weights(&self) -> &BlockWeights {
        &self.weights
    }

    fn weight_bytes(&self) -> WeightBytes {
        WeightBytes { resident: 0, streamed: 0, block: 0, blocks: 0, ends: 0 }
    }

    fn null_caption(&self) -> &[f32] {
        &[0.0]
    }

    fn hidden_shape(&self, geometry: &Geometry) -> [usize; 4] {
        let [t, h, w] = self.tokens(geometry);
        [geometry.batch(), t, h * w, C]
    }

    fn workspace(&self, geometry: Geometry, room: &ResidualRoom) -> Result<Workspace, ModelError> {
        let hidden = self.hidden_shape(&geometry);
        let (rows, batch) = (hidden[..3].iter().product(), geometry.batch());
        let latents = [batch, CHANNELS, geometry.frames, geometry.height, geometry.width];
        let (d, f, patches) = (self.dtype, DType::F32, CHANNELS * 4);
        let mut table = Layout::default();
        table.add(X, &hidden, d, Stage::Embed..=Stage::Final)?;
        table.add(PATCHES, &[rows, patches], d, Stage::Embed..=room.embeds_until())?;
        table.add(NORMED, &[rows, C], d, Stage::Qkv..=Stage::Final)?;
        table.add(HIDDEN, &[rows, 2 * C], d, Stage::Qkv..=Stage::Fc2)?;
        table.add(OUT, &[rows, patches], d, Stage::Final..=Stage::Unpatchify)?;
        table.add(PREDICTION, &latents, f, Stage::Unpatchify..=Stage::Update)?;
        table.add(SINUSOID, &[geometry.conditions(), 64], f, Stage::Time..=Stage::Time)?;
        table.add(MODULATION, &[batch, geometry.variants(), 2, C], f, Stage::Time..=Stage::Final)?;
        room.add_to(&mut table, &hidden, d)?;
        Workspace::allocate(&self.device, geometry, self.tokens(&geometry), table)
    }

    fn caption(&self, _y: &[f32], batch: usize, _mask: Option<&[bool]>) -> Result<Caption, ModelError> {
        Ok(Caption::new(vec![], Tensor::from_slice(&self.device, &[batch], &vec![1i32; batch])?, 1))
    }

    fn embed_time(&self, ws: &Workspace) -> Result<(), ModelError> {
        let modulation = ws.get(MODULATION).reshape(&[ws.geometry().conditions(), 2 * C])?;
        embed::timestep_embed(ws.time(), 10000.0, ws.get(SINUSOID))?;
        Ok(embed::small_linear(ws.get(SINUSOID), &self.time, None, None, false, &modulation)?)
    }

    fn modulate(&self, _ws: &Workspace, _trace: Option<&mut Trace>) -> Result<(), ModelError> {
        Ok(())
    }

    fn embed(&self, ws: &Workspace, z: &Tensor, x: &Tensor, _trace: Option<&mut Trace>) -> Result<(), ModelError> {
        embed::patchify(z, PATCH, ws.geometry().batch(), ws.tokens(), ws.get(PATCHES))?;
        Ok(linear(ws.get(PATCHES), &self.patch, None, None, Activation::None, &ws.rows(x)?)?)
    }

    fn modulated_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError> {
        self.normed(ws, out)
    }

    fn module(
        &self,
        ws: &Workspace,
        _caption: &Caption,
        module: usize,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError> {
        self.normed(ws, ws.get(NORMED))?;
        linear(ws.get(NORMED), &self.first[module], None, None, Activation::GeluTanh, ws.get(HIDDEN))?;
        let to = added.map(|added| ws.rows(added.to)).transpose()?;
        let residual = to.as_ref().zip(added.map(|added| added.accumulate));
        Ok(linear_residual(ws.get(HIDDEN), &self.second[module], None, None, &ws.rows(ws.x())?, residual)?)
    }

    fn finish(&self, ws: &Workspace) -> Result<(), ModelError> {
        self.normed(ws, ws.get(NORMED))?;
        linear(ws.get(NORMED), &self.last, None, None, Activation::None, ws.get(OUT))?;
        Ok(embed::unpatchify(ws.get(OUT), PATCH, ws.tokens(), ws.prediction())?)
    }

    fn flops(&self, geometry: &Geometry, _caption_tokens: usize, runs: &dyn Fn(usize) -> bool) -> u64 {
        let rows: usize = self.hidden_shape(geometry)[..3].iter().product();
        let modules = (0..self.anatomy.modules()).filter(|module| runs(*module)).count();
        (2 * rows * C * (2 * CHANNELS * 4 + modules * 4 * C)) as u64
    }
}

struct ToyFamily;

impl Family for ToyFamily {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn recognises(&self, folder: &Path) -> bool {
        folder.join("toy.json").exists()
    }

    fn open(&self, _folder: Option<&Path>, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        let [height, width] = size.pixels.unwrap_or([16, 24]);
        Ok(Arc::new(ToySource {
            anatomy: Toy::new(&crate::common::device(), DType::F32)?.anatomy,
            config: PipelineConfig {
                name: "toy".into(),
                prompt_length: 1,
                latent: [size.frames.unwrap_or(3), height / 4, width / 4],
                video_frames: None,
                height,
                width,
                fps: 8.0,
                resolution: ((height * width) as f64).sqrt(),
                default_steps: STEPS,
                default_cfg_scale: 2.0.into(),
                sampling: None,
                negative_prompt: None,
                vae_tiling: false,
                fp8_weights: false,
            },
        }))
    }

    fn inputs(&self) -> Inputs {
        Inputs::default()
    }
}

struct ToySource {
    config: PipelineConfig,
    anatomy: Anatomy,
}

impl Source for ToySource {
    fn config(&self) -> &PipelineConfig {
        &self.config
    }

    fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    fn shape(&self) -> TransformerShape {
        TransformerShape { channels: CHANNELS, patch_frames: 1, caption_channels: 1, caption_tokens: 1 }
    }

    fn inputs(&self) -> Inputs {
        ToyFamily.inputs()
    }

    fn presets(&self, steps: usize) -> Result<Presets, PipelineError> {
        Ok(opensora::presets(steps))
    }

    fn solver(&self, steps: usize) -> Result<Box<dyn Solver>, PipelineError> {
        let grid = FlowGrid::unipc(steps, 3.0).map_err(|error| PipelineError::Setting(error.to_string()))?;
        Ok(Box::new(UniPc(grid)))
    }

    fn read_prompt(&self, prompt: &str) -> Result<PromptText, PipelineError> {
        PromptText::new(prompt)
    }

    fn embed(
        &self,
        prompts: &[PromptText],
        _options: &TextOptions,
        _device: &Device,
        _dtype: DType,
        _progress: Progress<'_>,
    ) -> Result<Vec<Prompt>, PipelineError> {
        let embedding = || Embedding { values: vec![1.0], tokens: 1 };
        Ok(prompts.iter().map(|prompt| Prompt::new(prompt.clone(), embedding())).collect())
    }

    fn files(&self) -> Vec<ModelFile> {
        // All of it is in this file.
        vec![]
    }

    fn transformer(
        &self,
        device: &Device,
        dtype: DType,
        _streamed: usize,
        _content: Content,
    ) -> Result<Box<dyn Transformer>, PipelineError> {
        Ok(Box::new(Toy::new(device, dtype)?))
    }

    fn autoencoder(
        &self,
        _device: &Device,
        _dtype: DType,
        _content: Content,
    ) -> Result<Option<Box<dyn Autoencoder>>, PipelineError> {
        Ok(None)
    }
}

fn generate(pipeline: &Pipeline, cache: CacheConfig) -> Generation {
    let request = Request { cache, decode: false, ..Request::new(pipeline, "anything").unwrap() };
    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_family_in_one_file_generates_with_every_policy() {
    let source = ToyFamily.open(None, &OpenOptions::default()).unwrap();
    let device = crate::common::device();
    let pipeline = Pipeline::load(&source, &device, DType::Bf16).unwrap();
    let preset = |name: &str| cache_config(&source, name, false, STEPS).unwrap();
    let whole = generate(&pipeline, CacheConfig::None);
    assert!(whole.latents.values.iter().all(|value| value.is_finite()));
    assert_eq!(whole.report.computed_steps.len(), STEPS);
    for name in
        ["interval-1", "adacache-slow", "adacache-fast+moreg", "fbcache", "teacache-fast", "easycache", "magcache-slow"]
    {
        let made = generate(&pipeline, preset(name));
        let computed = &made.report.computed_steps;
        let same = made.latents.values == whole.latents.values;
        assert_eq!(same, computed.len() == STEPS, "{name}: {computed:?}");
        // What was recorded gives the plan again, without the model.
        let replayed = made.trace.replay(&mut *made.trace.policy(&preset(name), source.anatomy()).unwrap()).unwrap();
        assert_eq!(computed_steps(&replayed.0), *computed, "{name}");
    }
    for name in ["pab", "delta-dit"] {
        let made = generate(&pipeline, preset(name));
        assert!(made.latents.values.iter().all(|value| value.is_finite()), "{name}");
        assert!(!made.report.partial_steps.is_empty() && made.latents.values != whole.latents.values, "{name}");
    }
    let fewer = generate(&pipeline, preset("fewer-4"));
    assert_eq!(fewer.report.computed_steps, [1, 2, 3, 4]);
    // Everything can be measured, by the names of this model's blocks.
    let request = Request { decode: false, ..Request::new(&pipeline, "anything").unwrap() };
    let recorder = ComputeAll::recording(source.anatomy(), &[1], 3);
    let recorded = pipeline.record(&request, &recorder, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(recorded.latents.values == whole.latents.values);
    let measured: Vec<String> = recorded.trace.records.iter().map(|record| record.at.to_string()).collect();
    for point in ["block.0.whole", "block.1.attention", "fold", "modulated"] {
        assert!(measured.iter().any(|at| at == point), "{point}");
    }
    let job = Job { decodes: false, ..Job::new(&source, DType::Bf16, &request) };
    assert!(job.needs(&device).unwrap().activations > 0);
}

#[test]
fn settings_of_other_models_are_refused() {
    let source = ToyFamily.open(None, &OpenOptions::default()).unwrap();
    let settings = "policy = 'adacache'\nresidual = 't-attn'\nblocks = [1]\ncodebook = [[0.1, 2], [1.0, 1]]";
    let config = CacheConfig::from_toml(settings, "a.toml").unwrap();
    let refused = config.validate_for(source.anatomy(), 3).unwrap_err().to_string();
    assert!(refused.contains("no residual `t-attn`") && refused.contains("take attn"), "{refused}");
}
