//! What a generation needs of the device's memory, counted before anything is uploaded, and how it fits into less: blocks of the
//! transformer whose weights stay in the host's memory.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::decode::{Decoder, DecoderShape};
use super::report::bytes;
use super::{PipelineError, noise};
use crate::cache::Policy;
use crate::device::{Device, DryConfig};
use crate::model::{Geometry, ResidualRoom, SLOTS, StDiT3, StDiT3Config, Transformer, Walk, WeightBytes, Weights};
use crate::sampler::{FrameConditioning, Member, Sampler, SamplerOptions, Schedule, Solver};
use crate::tensor::{DType, Tensor};

const MIB: usize = 1 << 20;

/// A size as people write it: `8GiB`, `6000MiB`, `7.5GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(pub usize);

/// Why a text is no [`MemorySize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size: write a number above 0 and its unit (MiB, GiB, MB or GB), as in 8GiB or 6000MiB")]
pub struct SizeError(String);

impl FromStr for MemorySize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<MemorySize, SizeError> {
        let parse = || {
            let text = text.trim();
            let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
            let unit = match unit.to_ascii_lowercase().as_str() {
                "mib" => MIB as f64,
                "gib" => (MIB << 10) as f64,
                "mb" => 1e6,
                "gb" => 1e9,
                _ => return None,
            };
            let number = number.trim();
            // Digits only: Rust would also read `inf`, `+1` and `1e9`.
            let digits = number.chars().all(|c| c.is_ascii_digit() || c == '.');
            let size = number.parse::<f64>().ok().filter(|_| digits)? * unit;
            // 2^53: beyond it, numbers of bytes are not exact, and there is no such memory.
            (1.0..9e15).contains(&size).then_some(MemorySize(size.round() as usize))
        };
        parse().ok_or_else(|| SizeError(text.into()))
    }
}

/// Bytes of device memory, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// The transformer's weights outside its blocks.
    pub ends: usize,
    /// What matrix products of few tiles share for their sums, where there are any.
    pub scratch: usize,
    /// The weights of one block.
    pub block: usize,
    /// How many blocks there are.
    pub blocks: usize,
    /// The decoder's weights, with the encoder's; they are on the device only while it is used.
    pub decoder: usize,
    /// The captions' keys and values for every block.
    pub caption: usize,
    /// What encoding the captions takes before the steps begin.
    pub encoding: usize,
    /// What one step takes while it runs, latents and prediction included.
    pub activations: usize,
    /// What is kept from step to step: the fold and the probed residuals.
    pub cache: usize,
    /// The least that decoding takes beside the decoder's weights, when the steps are done.
    pub decoding: usize,
    /// The least that encoding given pixels takes beside them, before there are captions.
    pub reading: usize,
}

impl Needs {
    /// What the phases need in turn, with their names; the most of them is needed.
    fn phases(&self) -> [(usize, &'static str); 4] {
        let with_decoder = |bytes: usize| if bytes > 0 { self.decoder + bytes } else { 0 };
        [
            (with_decoder(self.reading), "encoding what is given"),
            (self.caption + self.encoding, "encoding captions"),
            (self.caption + self.activations + self.cache, "denoising"),
            (self.caption + with_decoder(self.decoding), "decoding"),
        ]
    }

    fn with_blocks(&self, blocks: usize) -> usize {
        let most = self.phases().iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
        self.ends + self.scratch + blocks * self.block + most
    }

    /// With all weights on the device.
    pub fn resident(&self) -> usize {
        self.with_blocks(self.blocks)
    }

    /// With the weights of every block in the host's memory: the smallest budget that does.
    pub fn least(&self) -> usize {
        self.with_blocks(self.blocks.min(SLOTS))
    }

    /// How many blocks have to be streamed for all to fit into `budget` bytes.
    ///
    /// # Errors
    /// When streaming all of them is not enough.
    pub fn streamed(&self, budget: usize) -> Result<usize, BudgetError> {
        if budget < self.least() {
            return Err(BudgetError { budget, needs: *self });
        }
        if budget >= self.resident() {
            return Ok(0);
        }
        // Less than all fit, and some of the room is for those that come and go.
        let fit = (budget - self.with_blocks(0)) / self.block;
        Ok(self.blocks - (fit - SLOTS))
    }
}

/// A budget of memory that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetError {
    /// The bytes there are.
    pub budget: usize,
    /// The bytes there have to be.
    pub needs: Needs,
}

impl std::error::Error for BudgetError {}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = &self.needs;
        writeln!(
            f,
            "{} of device memory are not enough: with the weights of all {} blocks in the host's memory it takes {}",
            bytes(self.budget),
            n.blocks,
            bytes(n.least())
        )?;
        let mut line = |bytes_of: usize, what: &str| writeln!(f, "  {:>10}  {what}", bytes(bytes_of));
        line(n.ends, "weights outside the blocks")?;
        if n.scratch > 0 {
            line(n.scratch, "sums of matrix products of few tiles")?;
        }
        line(n.blocks.min(SLOTS) * n.block, "room for two blocks, one computing and one arriving")?;
        let phases = n.phases();
        let most = phases.iter().max_by_key(|(bytes, _)| *bytes).map_or("", |(_, name)| *name);
        line(phases.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0), &format!("the most of what follows: {most}"))?;
        for (bytes_of, what) in [
            (n.caption, "keys and values of the captions, and with them either"),
            (n.encoding, "  encoding the captions, or"),
            (n.activations, "  activations of a step and latents, and"),
            (n.cache, "  residuals kept from step to step, or"),
            (n.decoder, "  weights of the decoder, and"),
            (n.decoding, "  decoding at the least"),
            (n.reading, "encoding given pixels, with the decoder's weights alone"),
        ] {
            if bytes_of > 0 {
                line(bytes_of, &format!("  {what}"))?;
            }
        }
        write!(
            f,
            "give at least --vram-budget {}MiB (all weights stay on the device from {}MiB on), or make less at once: a smaller --size or \
             --resolution, fewer --frames, --batch 1",
            n.least().div_ceil(MIB),
            n.resident().div_ceil(MIB)
        )?;
        if n.cache > 0 {
            write!(f, ", --fp8-cache, --cache none")?;
        }
        if most == "decoding" {
            write!(f, ", --out FILE.safetensors (latents need no decoder)")?;
        }
        Ok(())
    }
}

/// What is to be generated, as far as memory depends on it.
pub struct Load<'a> {
    /// The transformer.
    pub model: &'a StDiT3Config,
    /// What makes frames of latents.
    pub decoder: &'a DecoderShape,
    /// Whether it does.
    pub decodes: bool,
    /// Whether it makes latents of frames before.
    pub encodes: bool,
    /// Element type of weights and activations.
    pub dtype: DType,
    /// Sizes of one member's videos.
    pub geometry: Geometry,
    /// Frames of a decoded video.
    pub frames: usize,
    /// Members that are decided about one by one.
    pub members: usize,
    /// Caption tokens of each sample, at most.
    pub caption_tokens: usize,
    /// Makes a member's policy.
    pub policy: &'a dyn Fn() -> Box<dyn Policy>,
    /// Denoising steps: the device has a table of them.
    pub steps: usize,
    /// Whether residuals are kept in 8 bits.
    pub packed_cache: bool,
}

impl Load<'_> {
    /// Counts the bytes: the generation is set up on a device like `device` that holds nothing.
    ///
    /// # Errors
    /// What the generation itself would refuse.
    pub fn needs(&self, device: &Device) -> Result<Needs, PipelineError> {
        let info = device.info();
        let dry = Device::dry(DryConfig {
            name: "count".into(),
            memory: isize::MAX as usize,
            units: info.units,
            compute_capability: info.compute_capability.unwrap_or((8, 0)),
        });
        self.set_up(&dry, 0)
    }

    /// Sets the generation up on a device that runs nothing, with `streamed` blocks.
    fn set_up(&self, dry: &Device, streamed: usize) -> Result<Needs, PipelineError> {
        let model = StDiT3::load_streaming(dry, self.model.clone(), Weights::zeros(), self.dtype, streamed)?;
        let (WeightBytes { block, ends, .. }, blocks) = (model.weight_bytes(), model.anatomy().blocks());
        let batch = self.geometry.batch();
        let y = vec![0.0; batch * self.caption_tokens * self.model.caption_channels];
        let scratch = self.scratch(dry, &model, &y)?;
        let loaded = dry.allocated_bytes();
        dry.reset_peak();
        let captions = (0..self.members).map(|_| model.caption(&y, batch, None)).collect::<Result<Vec<_>, _>>()?;
        let caption = dry.allocated_bytes() - loaded;
        let encoding = dry.peak_bytes() - loaded - caption;

        dry.reset_peak();
        let Geometry { videos, frames, height, width, frame_masked, .. } = self.geometry;
        let elements = self.members * videos * self.model.in_channels * frames * height * width;
        let conditioning = frame_masked
            .then(|| FrameConditioning { mask: vec![1.0; self.members * videos * frames], noise: noise(0, elements) });
        let options = SamplerOptions {
            rows: Schedule::shifted(self.steps, 1.0)?.rows(),
            cfg_scale: 1.0,
            snapshots: vec![],
            packed_cache: self.packed_cache,
            compare_folds: false,
        };
        let members = captions.iter().map(|caption| Member { caption, policy: (self.policy)() }).collect();
        let geometry = Geometry { videos: videos * self.members, ..self.geometry };
        let sampler = Sampler::new(&model, members, geometry, &vec![0.0; elements], conditioning, options)?;
        let cache = sampler.cache_bytes();
        let activations = dry.peak_bytes() - loaded - caption - cache;
        drop(sampler);

        drop(captions);
        let (mut decoder, mut decoding, mut reading) = (0, 0, 0);
        if let Some(it) = Decoder::counted(dry, self.decoder, self.model.in_channels, self.dtype)? {
            decoder = dry.allocated_bytes() - loaded;
            if self.decodes {
                decoding = it.least_bytes(self.members * videos, [frames, height, width], self.frames)?;
            }
            if let (true, Decoder::Video(vae)) = (self.encodes, &it) {
                reading = vae.least_encode_bytes([height, width])?;
            }
        }
        Ok(Needs { ends, scratch, block, blocks, decoder, caption, encoding, activations, cache, decoding, reading })
    }

    /// Makes every launch of a forward once: what kernels share is allocated by the first that needs it, and stays.
    fn scratch(&self, dry: &Device, model: &dyn Transformer, y: &[f32]) -> Result<usize, PipelineError> {
        let Geometry { videos, frames, height, width, .. } = self.geometry;
        let caption = model.caption(y, self.geometry.batch(), None)?;
        let workspace = model.workspace(self.geometry, &ResidualRoom::default())?;
        let z = Tensor::empty(dry, &[videos, self.model.in_channels, frames, height, width], DType::F32)?;
        Walk { model, ws: &workspace, caption: &caption }.forward(&z, None)?;
        if self.geometry.guided && (self.policy)().ends_guidance() {
            let caption = model.caption(&y[..y.len() / 2], self.geometry.batch() / 2, None)?;
            Walk { model, ws: &workspace.conditional()?, caption: &caption }.forward(&z, None)?;
        }
        Ok(dry.scratch_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Presets;
    use crate::model::vae::VaeConfig;
    use crate::pipeline::VideoSize;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let size = |text: &str| text.parse::<MemorySize>().map(|size| size.0);
        assert_eq!(size("8GiB"), Ok(8 << 30));
        assert_eq!(size(" 6000 MiB "), Ok(6000 << 20));
        assert_eq!(size("7.5gb"), Ok(7_500_000_000));
        assert_eq!(size(".5GiB"), Ok(1 << 29));
        for bad in [
            "",
            "8",
            "GiB",
            "0GiB",
            "-1GiB",
            "8TiB",
            "8 G",
            "1e3MB",
            "infGB",
            "nanGB",
            "1.2.3GB",
            "99999999999GiB",
            "8GiBs",
            "8é",
        ] {
            let error = size(bad).unwrap_err().to_string();
            assert!(error.contains("as in 8GiB") && error.starts_with(&format!("`{bad}`")), "{error}");
        }
    }

    fn needs() -> Needs {
        let (caption, encoding, activations, cache) = (30, 10, 300, 50);
        let (decoder, decoding, reading) = (20, 200, 0);
        let (ends, scratch, block, blocks) = (1000, 0, 100, 8);
        Needs { ends, scratch, block, blocks, decoder, caption, encoding, activations, cache, decoding, reading }
    }

    #[test]
    fn the_largest_phase_counts() {
        let n = needs();
        assert_eq!(n.least(), 1000 + 200 + 30 + 300 + 50);
        assert_eq!(Needs { encoding: 400, ..n }.least(), 1200 + 30 + 400);
        assert_eq!(Needs { decoding: 400, ..n }.least(), 1200 + 30 + 20 + 400);
        // Before there are captions.
        assert_eq!(Needs { reading: 400, ..n }.least(), 1200 + 20 + 400);
    }

    #[test]
    fn as_few_blocks_are_streamed_as_the_budget_allows() {
        let n = needs();
        // 1000 + 30 + 300 + 50
        assert_eq!((n.least(), n.resident()), (1380 + 200, 1380 + 800));
        assert_eq!((n.streamed(2180), n.streamed(usize::MAX)), (Ok(0), Ok(0)));
        for budget in 1580..2180 {
            let streamed = n.streamed(budget).unwrap();
            let used = |streamed: usize| 1380 + (8 - streamed + SLOTS) * 100;
            assert!(used(streamed) <= budget && used(streamed - 1) > budget, "{budget}: {streamed}");
        }
        assert_eq!(n.streamed(1580), Ok(8));
        assert!(n.streamed(1579).is_err());
    }

    /// Open-Sora at 480p on a device with exactly so much memory: what was counted is what it takes.
    #[test]
    fn the_count_is_what_is_allocated() {
        let (model, size) = (StDiT3Config::opensora_v1_2(), VideoSize::published("480p", "9:16", 51).unwrap());
        let schedule = Schedule::shifted(30, 1.0).unwrap();
        let cache = Presets::opensora(30).resolve("adacache-fast", false, &model.anatomy(), 30).unwrap();
        let load = Load {
            model: &model,
            decoder: &DecoderShape::None,
            decodes: false,
            encodes: false,
            dtype: DType::Bf16,
            geometry: Geometry::guided(1, size.latent(), size.resolution(), 24.0),
            frames: 51,
            members: 1,
            caption_tokens: 300,
            policy: &|| cache.policy(&model.anatomy(), schedule.timesteps()),
            steps: 30,
            packed_cache: false,
        };
        let device =
            |memory| Device::dry(DryConfig { name: "x".into(), memory, units: 108, compute_capability: (8, 0) });
        let needs = load.needs(&device(1)).unwrap();
        // The steps take the most, and they are what is set up here.
        assert!(needs.activations + needs.cache > needs.encoding, "{needs:?}");
        assert_eq!((needs.decoder, needs.decoding, needs.reading), (0, 0, 0));
        let decoder = DecoderShape::Video(VaeConfig::default());
        let whole = Load { decoder: &decoder, decodes: true, encodes: true, ..load }.needs(&device(1)).unwrap();
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

    #[test]
    fn a_budget_too_small_is_told_in_summands() {
        let n = Needs { decoding: 5 << 30, decoder: 3 << 20, ends: 7 << 20, ..needs() };
        let text = n.streamed(1 << 20).unwrap_err().to_string();
        for part in [
            "1.0 MiB of device memory",
            "all 8 blocks",
            "7.0 MiB  weights outside",
            "200 B  room for two",
            "the most of what follows: decoding",
            "30 B    keys",
            "300 B      activations",
            "50 B      residuals",
            "3.0 MiB      weights of the decoder",
            "5.0 GiB      decoding",
            "--vram-budget 5131MiB",
            "--fp8-cache",
            "--out",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = Needs { cache: 0, ..needs() }.streamed(0).unwrap_err().to_string();
        assert!(
            text.contains("follows: denoising") && !text.contains("--fp8-cache") && !text.contains("--out"),
            "{text}"
        );
    }
}
