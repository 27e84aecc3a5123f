//! The shape of Wan's autoencoders, read off the tensors of a checkpoint.

use std::path::Path;

use serde::Deserialize;

use super::names::{Names, Naming, Part, Side};
use super::published;
use crate::model::{ModelError, Weights};
use crate::ops::resample::Resample;

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The shape of an autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct WanVaeConfig {
    /// Whose names the tensors have.
    pub names: Names,
    /// The encoder, from pixels to latents.
    pub encoder: WanPath,
    /// The decoder, from latents to pixels.
    pub decoder: WanPath,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// The side in pixels of the squares that the network sees as one position: 1, and 2 for Wan 2.2.
    pub patch: usize,
    /// Whether every scale has a shortcut without weights around it (Wan 2.2).
    pub shortcuts: bool,
    /// What the latents of the network are, on average, for each channel.
    pub mean: Vec<f32>,
    /// And their standard deviation. The model sees `(latent − mean) / std`.
    pub std: Vec<f32>,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WanPath {
    /// Channels behind the first convolution.
    pub first: usize,
    /// In the order they run.
    pub scales: Vec<WanScale>,
}

/// The residual blocks at one resolution, and the change to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WanScale {
    /// The number of blocks.
    pub blocks: usize,
    /// Channels behind each of them.
    pub channels: usize,
    /// The change of resolution.
    pub resample: Option<WanResample>,
}

/// A change of resolution by 2 in rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WanResample {
    /// Channels behind it.
    pub channels: usize,
    /// Whether time changes by 2 as well.
    pub time: bool,
}

impl WanResample {
    /// How many frames one becomes, or become one.
    pub fn time_factor(&self) -> usize {
        if self.time { 2 } else { 1 }
    }
}

impl WanPath {
    /// How many frames one becomes, or become one.
    pub(super) fn time_factor(&self) -> usize {
        1 << self.scales.iter().filter(|s| s.resample.is_some_and(|r| r.time)).count()
    }

    pub(super) fn space_factor(&self) -> usize {
        1 << self.scales.iter().filter(|s| s.resample.is_some()).count()
    }

    /// Channels behind the last scale.
    pub(super) fn last(&self) -> usize {
        self.scales.last().map_or(self.first, WanScale::made)
    }
}

impl WanScale {
    /// Channels behind the change of resolution.
    pub(super) fn made(&self) -> usize {
        self.resample.map_or(self.channels, |r| r.channels)
    }

    /// The shortcut around the scale, for `channels` in front of it.
    pub(super) fn around(&self, channels: usize) -> Resample {
        let (time, space) = self.resample.map_or((1, 1), |r| (r.time_factor(), 2));
        Resample { channels, out_channels: self.made(), time, space }
    }
}

/// What a config.json may say, with the names of the published code or of diffusers.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields {
    #[serde(alias = "base_dim")]
    dim: Option<usize>,
    #[serde(alias = "decoder_base_dim")]
    dec_dim: Option<usize>,
    z_dim: Option<usize>,
    dim_mult: Option<Vec<usize>>,
    num_res_blocks: Option<usize>,
    attn_scales: Vec<f64>,
    temperal_downsample: Option<Vec<bool>>,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
}

impl WanVaeConfig {
    /// The shape of the autoencoder in `weights`: everything but `latents_mean` and `latents_std` follows from the tensors. These are in
    /// `json`, the content of a config.json with the name of its file, or else the published ones. What else config.json says must be true
    /// of the tensors.
    ///
    /// # Errors
    /// Tensors that are no such autoencoder, a config.json that contradicts them, latents of which no mean is known.
    pub fn of(weights: &Weights<'_>, json: Option<(&str, &str)>) -> Result<WanVaeConfig> {
        let file = json.map_or(weights.file(), |(_, file)| file);
        let bad = |file: &str, reason: String| ModelError::Config { file: file.into(), reason };
        let fields: Fields = match json {
            Some((text, file)) => serde_json::from_str(text).map_err(|e| bad(file, e.to_string()))?,
            None => Fields::default(),
        };
        let naming = naming(weights)?;
        let (encoder, decoder) = (path(weights, naming, Side::Encoder)?, path(weights, naming, Side::Decoder)?);
        let latents = naming.latents(Side::Decoder);
        let latent_channels = axis(weights, &format!("{latents}.weight"), 0)?;
        let pixels = axis(weights, &format!("{}.weight", naming.conv_in(Side::Encoder)), 1)?;
        let patch = (pixels / 3).isqrt();
        let (mean, std) = match (&fields.latents_mean, &fields.latents_std) {
            (Some(mean), Some(std)) => (mean.clone(), std.clone()),
            (None, None) => published::moments(latent_channels).ok_or_else(|| {
                bad(file, format!("latents_mean and latents_std are missing, and latents of {latent_channels} channels have no published ones"))
            })?,
            _ => return Err(bad(file, "latents_mean and latents_std belong together, and one is missing".into())),
        };
        let config = WanVaeConfig {
            names: naming.names,
            encoder,
            decoder,
            latent_channels,
            patch,
            shortcuts: naming.nested,
            mean,
            std,
        };
        if 3 * patch * patch != pixels {
            return Err(bad(weights.file(), format!("{pixels} channels of pixels, expected 3 or 12")));
        }
        config.validate().map_err(|reason| bad(weights.file(), reason))?;
        config.agrees(&fields).map_err(|reason| bad(file, reason))?;
        Ok(config)
    }

    /// As [`WanVaeConfig::of`], with the config.json at `file`, if there is one.
    ///
    /// # Errors
    /// As [`WanVaeConfig::of`], or a config.json that cannot be read.
    pub fn of_file(file: Option<&Path>, weights: &Weights<'_>) -> Result<WanVaeConfig> {
        let Some(file) = file else { return WanVaeConfig::of(weights, None) };
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => WanVaeConfig::of(weights, Some((&text, &name))),
            Err(source) => Err(ModelError::Io { file: name, source }),
        }
    }

    /// The published autoencoder of Wan 2.1: 4 frames × 8 × 8 pixels to 16 channels.
    pub fn wan21() -> WanVaeConfig {
        WanVaeConfig::sized([96, 96], 16, false)
    }

    /// The published autoencoder of Wan 2.2 TI2V-5B: 4 frames × 16 × 16 pixels to 48 channels.
    pub fn wan22() -> WanVaeConfig {
        WanVaeConfig::sized([160, 256], 48, true)
    }

    /// The published layout of 2.1, or of 2.2 (`shortcuts`), with other channels: those of encoder and decoder at the finest scale, and of the
    /// latents. Where no moments of such latents are published, they are 0 and 1.
    pub fn sized([base, decoder_base]: [usize; 2], latent_channels: usize, shortcuts: bool) -> WanVaeConfig {
        let (multiples, time) = ([1, 2, 4, 4], [false, true, true]);
        let down = |i: usize| {
            let channels = base * multiples[i];
            WanScale { blocks: 2, channels, resample: time.get(i).map(|&time| WanResample { channels, time }) }
        };
        let up = |i: usize| {
            let channels = decoder_base * multiples[i];
            let made = if shortcuts { channels } else { channels / 2 };
            let time = i.checked_sub(1).map(|before| time[before]);
            WanScale { blocks: 3, channels, resample: time.map(|time| WanResample { channels: made, time }) }
        };
        let plain = (vec![0.0; latent_channels], vec![1.0; latent_channels]);
        let (mean, std) = published::moments(latent_channels).unwrap_or(plain);
        WanVaeConfig {
            names: Names::Official,
            encoder: WanPath { first: base, scales: (0..4).map(down).collect() },
            decoder: WanPath { first: decoder_base * multiples[3], scales: (0..4).rev().map(up).collect() },
            latent_channels,
            patch: if shortcuts { 2 } else { 1 },
            shortcuts,
            mean,
            std,
        }
    }

    /// Side in pixels of the square that becomes one latent position.
    pub fn spatial_factor(&self) -> usize {
        self.patch * self.encoder.space_factor()
    }

    /// Frames that become one latent frame; the first frame of a video becomes one by itself.
    pub fn temporal_factor(&self) -> usize {
        self.encoder.time_factor()
    }

    /// The number of latent frames for `frames` frames, if there is one: frames are a multiple of [`WanVaeConfig::temporal_factor`] and one
    /// more.
    pub fn latent_frames(&self, frames: usize) -> Option<usize> {
        let after = frames.checked_sub(1)?;
        after.is_multiple_of(self.temporal_factor()).then(|| 1 + after / self.temporal_factor())
    }

    /// The number of frames that so many latent frames become.
    pub fn frames(&self, latents: usize) -> usize {
        latents.saturating_sub(1) * self.temporal_factor() + usize::from(latents > 0)
    }

    fn validate(&self) -> Result<(), String> {
        let WanVaeConfig { encoder, decoder, latent_channels, mean, std, .. } = self;
        for (name, values) in [("latents_mean", mean), ("latents_std", std)] {
            if values.len() != *latent_channels || values.iter().any(|v| !v.is_finite()) {
                return Err(format!("{name} has {} values, expected {latent_channels} finite ones", values.len()));
            }
        }
        if std.iter().any(|v| *v <= 0.0) {
            return Err("latents_std holds a number that is not positive".into());
        }
        for (path, name) in [(encoder, "encoder"), (decoder, "decoder")] {
            if !(1..=8).contains(&path.scales.len()) {
                return Err(format!("the {name} has {} scales, expected 1 to 8", path.scales.len()));
            }
        }
        let factors = |path: &WanPath| (path.time_factor(), path.space_factor());
        if factors(encoder) != factors(decoder) {
            return Err(format!(
                "the encoder changes time and space by {:?}, the decoder by {:?}; both must be the same",
                factors(encoder),
                factors(decoder)
            ));
        }
        if !(1..=4).contains(&self.patch) {
            return Err(format!("pixels come in squares of {}, expected 1 to 4", self.patch));
        }
        if self.shortcuts {
            let mut channels = encoder.first;
            for scale in &encoder.scales {
                if scale.around(channels).averaged().is_none() {
                    return Err(format!(
                        "the shortcut of the encoder from {channels} to {} channels does not come out even",
                        scale.made()
                    ));
                }
                channels = scale.made();
            }
            channels = decoder.first;
            for scale in &decoder.scales {
                if scale.resample.is_some() && scale.around(channels).repeats().is_none() {
                    return Err(format!(
                        "the shortcut of the decoder from {channels} to {} channels does not come out even",
                        scale.made()
                    ));
                }
                channels = scale.made();
            }
        }
        Ok(())
    }

    /// Whether config.json says what the tensors say.
    fn agrees(&self, fields: &Fields) -> Result<(), String> {
        fn same<T: PartialEq + std::fmt::Debug>(name: &str, says: &Option<T>, is: T) -> Result<(), String> {
            match says {
                Some(says) if *says != is => {
                    Err(format!("{name} is {says:?}, but the tensors have {is:?}; do the two files belong together?"))
                }
                _ => Ok(()),
            }
        }
        if !fields.attn_scales.is_empty() {
            return Err("attn_scales is not empty; attention is supported in the middle alone".into());
        }
        let (encoder, decoder) = (&self.encoder, &self.decoder);
        same("z_dim", &fields.z_dim, self.latent_channels)?;
        same("dim", &fields.dim, encoder.first)?;
        let base = fields.dim.unwrap_or(encoder.first);
        let multiples =
            |path: &WanPath, base: usize| path.scales.iter().map(|s| s.channels / base.max(1)).collect::<Vec<_>>();
        same("dim_mult", &fields.dim_mult, multiples(encoder, base))?;
        let reversed = fields.dim_mult.as_ref().map(|mult| mult.iter().rev().copied().collect::<Vec<_>>());
        same("dim_mult, in the decoder", &reversed, multiples(decoder, fields.dec_dim.unwrap_or(base)))?;
        for (path, more) in [(encoder, 0), (decoder, 1)] {
            for scale in &path.scales {
                same("num_res_blocks", &fields.num_res_blocks, scale.blocks - more)?;
            }
        }
        let time = |path: &WanPath| path.scales.iter().filter_map(|s| s.resample.map(|r| r.time)).collect::<Vec<_>>();
        same("temperal_downsample", &fields.temperal_downsample, time(encoder))?;
        let reversed = fields.temperal_downsample.as_ref().map(|t| t.iter().rev().copied().collect());
        same("temperal_downsample, in the decoder", &reversed, time(decoder))
    }
}

/// The names that a file has.
fn naming(weights: &Weights<'_>) -> Result<Naming> {
    for names in [Names::Official, Names::Diffusers] {
        if weights.has(&format!("{}.weight", Naming { names, nested: false }.conv_in(Side::Encoder))) {
            let nested = Naming { names, nested: true };
            return Ok(Naming {
                nested: weights.has(&conv1(nested, &nested.part(Side::Encoder, 0, 0, Part::Block(0)))),
                ..nested
            });
        }
    }
    let reason =
        "neither `encoder.conv1.weight` nor `encoder.conv_in.weight` is there: this is not an autoencoder of Wan";
    Err(ModelError::Config { file: weights.file().into(), reason: reason.into() })
}

/// The first convolution of a residual block.
fn conv1(naming: Naming, block: &str) -> String {
    format!("{block}.{}.weight", naming.block()[1])
}

/// The length of an axis of a tensor that must be there.
fn axis(weights: &Weights<'_>, name: &str, axis: usize) -> Result<usize> {
    let length = weights.shape(name).and_then(|shape| shape.get(axis).copied()).filter(|n| (1..=1 << 14).contains(n));
    let reason = || format!("tensor `{name}` is missing, or its axis {axis} has no length from 1 to 16384");
    length.ok_or_else(|| ModelError::Config { file: weights.file().into(), reason: reason() })
}

/// The scales of one direction, as far as there are tensors.
fn path(weights: &Weights<'_>, naming: Naming, side: Side) -> Result<WanPath> {
    let first = axis(weights, &format!("{}.weight", naming.conv_in(side)), 0)?;
    let (mut scales, mut parts) = (vec![], 0);
    loop {
        let name = |part| naming.part(side, scales.len(), parts, part);
        let block = |j| conv1(naming, &name(Part::Block(j)));
        let blocks = (0..).take_while(|&j| weights.has(&block(j))).count();
        if blocks == 0 {
            return Ok(WanPath { first, scales });
        }
        let change = name(Part::Resample(blocks));
        let conv = format!("{change}.resample.1.weight");
        let resample = if weights.has(&conv) {
            Some(WanResample {
                channels: axis(weights, &conv, 0)?,
                time: weights.has(&format!("{change}.time_conv.weight")),
            })
        } else {
            None
        };
        let channels = axis(weights, &block(0), 0)?;
        parts += blocks + usize::from(resample.is_some());
        let last = resample.is_none();
        scales.push(WanScale { blocks, channels, resample });
        if last && !naming.nested {
            return Ok(WanPath { first, scales });
        }
    }
}
