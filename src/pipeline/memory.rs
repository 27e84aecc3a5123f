//! The device memory a job needs, counted before anything is uploaded: the job is set up on a device that runs nothing.

use std::collections::BTreeSet;

use super::error::PipelineError;
use super::job::Job;
use super::needs::Needs;
use super::noise::noise;
use super::source::Content;
use super::stages::Stage;
use crate::cache::Half;
use crate::device::Device;
use crate::model::{Geometry, ResidualRoom, Transformer, TransformerShape, Walk, WeightBytes};
use crate::sampler::{FrameConditioning, Member, Sampler, SamplerOptions};
use crate::tensor::{DType, Tensor};

impl Job {
    /// Counts the bytes: sets the generation up on a device like `device` that stores nothing.
    ///
    /// # Errors
    /// The errors of the generation itself.
    pub fn needs(&self, device: &Device) -> Result<Needs, PipelineError> {
        let dry = device.counting();
        self.set_up(&dry, 0)
    }

    /// Sets the generation up on a device that runs nothing, with `streamed` blocks, stage by stage.
    fn set_up(&self, dry: &Device, streamed: usize) -> Result<Needs, PipelineError> {
        let stages = self.stages()?;
        let needs = stages.iter().map(|stage| self.set_up_stage(dry, streamed, stage));
        let most = needs.reduce(|most, needs| Ok(most?.or(needs?)));
        let most = most.unwrap_or_else(|| Err(PipelineError::Setting("there are no steps".into())))?;
        let [decoder, decoding, reading] = self.autoencoder_bytes(dry)?;
        let experts: BTreeSet<usize> = stages.iter().map(|stage| stage.expert).collect();
        Ok(Needs { experts: experts.len(), decoder, decoding, reading, ..most })
    }

    /// What a stage needs, but for the autoencoder.
    fn set_up_stage(&self, dry: &Device, streamed: usize, stage: &Stage) -> Result<Needs, PipelineError> {
        let (geometry, members) = (self.geometry(stage), self.members());
        let model = self.source.expert(stage.expert, dry, self.dtype, streamed, Content::Zeros)?;
        let (weights, blocks) = (model.weight_bytes(), model.anatomy().blocks());
        let WeightBytes { block, blocks: all_blocks, ends, .. } = weights;
        let TransformerShape { channels, caption_channels, .. } = model.shape();
        let y = vec![0.0; geometry.batch() * self.caption_tokens * caption_channels];
        let scratch = self.scratch(dry, &*model, &y, stage)?;
        let loaded = dry.allocated_bytes();
        dry.reset_peak();
        // Encoded once more than needed: only with all scratch there is the peak that of every batch, not of the first alone.
        let encode = |_| model.caption(&y, geometry.batch(), None);
        let captions = (0..members).map(encode).collect::<Result<Vec<_>, _>>()?;
        let caption = dry.allocated_bytes() - loaded;
        let encoding = dry.peak_bytes() - loaded - caption;

        dry.reset_peak();
        let Geometry { videos, frames, height, width, frame_masked, .. } = geometry;
        let elements = members * videos * channels * frames * height * width;
        let conditioning = frame_masked
            .then(|| FrameConditioning { mask: vec![1.0; members * videos * frames], noise: noise(0, elements) });
        let options = SamplerOptions {
            rows: stage.rows.clone(),
            cfg_scale: 1.0,
            snapshots: vec![],
            packed_cache: self.packed_cache,
            compare_folds: false,
            rank: None,
        };
        let member = |caption| Ok(Member { caption, policy: self.policy(stage)? });
        let deciding = captions.iter().map(member).collect::<Result<_, PipelineError>>()?;
        let all = Geometry { videos: videos * members, ..geometry };
        let sampler = Sampler::new(&*model, deciding, all, &vec![0.0; elements], conditioning, options)?;
        let cache = sampler.cache_bytes();
        let activations = dry.peak_bytes() - loaded - caption - cache;
        let (decoder, decoding, reading, experts) = (0, 0, 0, 1);
        Ok(Needs {
            ends,
            scratch,
            block,
            blocks,
            all_blocks,
            experts,
            decoder,
            caption,
            encoding,
            activations,
            cache,
            decoding,
            reading,
        })
    }

    /// The bytes of the autoencoder's weights, of decoding and of encoding, as far as the job uses them.
    fn autoencoder_bytes(&self, dry: &Device) -> Result<[usize; 3], PipelineError> {
        if !self.decodes && !self.encodes {
            return Ok([0; 3]);
        }
        let loaded = dry.allocated_bytes();
        let Some(autoencoder) = self.source.autoencoder(dry, self.dtype, Content::Zeros)? else { return Ok([0; 3]) };
        let weights = dry.allocated_bytes() - loaded;
        let config = self.source.config();
        let decoding = if self.decodes {
            autoencoder.least_decode_bytes(self.videos, config.latent, config.frames())?
        } else {
            0
        };
        let sides = [config.latent[1], config.latent[2]];
        let reading = if self.encodes { autoencoder.least_encode_bytes(sides)? } else { 0 };
        Ok([weights, decoding, reading])
    }

    /// Makes every launch of a forward pass once: scratch memory shared by kernels is allocated by the first that needs it, and stays.
    fn scratch(&self, dry: &Device, model: &dyn Transformer, y: &[f32], stage: &Stage) -> Result<usize, PipelineError> {
        let geometry @ Geometry { videos, frames, height, width, .. } = self.geometry(stage);
        let caption = model.caption(y, geometry.batch(), None)?;
        let workspace = model.workspace(geometry, &ResidualRoom::default())?;
        let z = Tensor::empty(dry, &[videos, model.shape().channels, frames, height, width], DType::F32)?;
        Walk { model, ws: &workspace, caption: &caption }.forward(&z, None)?;
        let policy = self.policy(stage)?;
        if geometry.guided && (policy.ends_guidance() || policy.decides_halves()) {
            let half = Half::Conditional;
            Walk { model, ws: &workspace.half(half)?, caption: &caption.half(half)? }.forward(&z, None)?;
        }
        Ok(dry.scratch_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;
    use crate::family;
    use crate::model::SLOTS;
    use crate::pipeline::{Deciding, OpenOptions};

    /// Open-Sora at 480p on a device with exactly the counted memory: the count matches the allocation.
    #[test]
    fn the_count_is_what_is_allocated() {
        let source = family::published("opensora-v1.2", &OpenOptions::published("480p", 51)).unwrap();
        let load = Job {
            cache: source.presets(30).unwrap().resolve("adacache-fast", false, source.anatomy(), 30).unwrap(),
            source,
            dtype: DType::Bf16,
            videos: 1,
            deciding: Deciding::Together,
            guidance: 7.0.into(),
            steps: 30,
            packed_cache: false,
            record_all: false,
            caption_tokens: 300,
            given: false,
            encodes: false,
            decodes: false,
        };
        let device =
            |memory| Device::dry(DryConfig { name: "x".into(), memory, units: 108, compute_capability: (8, 0) });
        let needs = load.needs(&device(1)).unwrap();
        // The steps take the most, and they are what is set up here.
        assert!(needs.activations + needs.cache > needs.encoding, "{needs:?}");
        assert_eq!((needs.decoder, needs.decoding, needs.reading), (0, 0, 0));
        let whole = Job { decodes: true, encodes: true, ..load.clone() }.needs(&device(1)).unwrap();
        // In its place afterwards: 0.79 GB of weights and the smallest cut of the autoencoder.
        assert_eq!((whole.activations, whole.cache, whole.caption), (needs.activations, needs.cache, needs.caption));
        assert!((0.75e9..0.85e9).contains(&(whole.decoder as f64)) && whole.decoding > 0 && whole.reading > 0);
        assert!(whole.least() > needs.least(), "{whole:?}");
        for budget in [needs.least(), needs.least() + 7 * needs.block + 1, needs.resident() - 1, needs.resident()] {
            let streamed = needs.streamed(budget).unwrap();
            assert_eq!(load.set_up(&device(budget), streamed).unwrap(), needs, "{streamed} streamed");
            if streamed > 0 {
                let error = load.set_up(&device(budget), streamed - 1).unwrap_err();
                // Less than three blocks over: then all of them would fit without room for the streamed ones.
                assert!(error.to_string().contains("out of memory") && streamed > SLOTS, "{error}");
            }
        }
        assert!(load.set_up(&device(needs.least() - 1), needs.blocks).is_err());
    }
}
