//! Names of Wan's tensors: those of the published code and those of diffusers.

/// Whose names a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// The published code's.
    Official,
    /// Those of diffusers' `AutoencoderKLWan`.
    Diffusers,
}

/// The two halves of an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Encoder,
    Decoder,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }
}

/// What is inside of a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A residual block, by its number.
    Block(usize),
    /// The change of resolution behind so many blocks.
    Resample(usize),
}

/// The names of one layout: whose they are, and whether each scale has a folder of its own (Wan 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) names: Names,
    pub(super) nested: bool,
}

impl Naming {
    fn choose(&self, official: &'static str, diffusers: &'static str) -> &'static str {
        match self.names {
            Names::Official => official,
            Names::Diffusers => diffusers,
        }
    }

    pub(super) fn conv_in(&self, side: Side) -> String {
        format!("{}.{}", side.name(), self.choose("conv1", "conv_in"))
    }

    pub(super) fn norm_out(&self, side: Side) -> String {
        format!("{}.{}", side.name(), self.choose("head.0", "norm_out"))
    }

    pub(super) fn conv_out(&self, side: Side) -> String {
        format!("{}.{}", side.name(), self.choose("head.2", "conv_out"))
    }

    /// The convolution of one tap between a half and the latents.
    pub(super) fn latents(&self, side: Side) -> &'static str {
        match side {
            Side::Encoder => self.choose("conv1", "quant_conv"),
            Side::Decoder => self.choose("conv2", "post_quant_conv"),
        }
    }

    /// The first or second block of the middle.
    pub(super) fn middle(&self, side: Side, block: usize) -> String {
        match self.names {
            Names::Official => format!("{}.middle.{}", side.name(), 2 * block),
            Names::Diffusers => format!("{}.mid_block.resnets.{block}", side.name()),
        }
    }

    pub(super) fn attention(&self, side: Side) -> String {
        format!("{}.{}", side.name(), self.choose("middle.1", "mid_block.attentions.0"))
    }

    /// A part of scale `scale`, before which there are `parts` others in all.
    pub(super) fn part(&self, side: Side, scale: usize, parts: usize, part: Part) -> String {
        let (Part::Block(index) | Part::Resample(index)) = part;
        let folder = match (side, self.names) {
            (Side::Encoder, Names::Official) => "encoder.downsamples",
            (Side::Decoder, Names::Official) => "decoder.upsamples",
            (Side::Encoder, Names::Diffusers) => "encoder.down_blocks",
            (Side::Decoder, Names::Diffusers) => "decoder.up_blocks",
        };
        let change = if side == Side::Encoder { "downsampler" } else { "upsampler" };
        match (self.names, self.nested, part) {
            (Names::Official, true, _) => {
                let inner = if side == Side::Encoder { "downsamples" } else { "upsamples" };
                format!("{folder}.{scale}.{inner}.{index}")
            }
            (Names::Diffusers, true, Part::Resample(_)) => format!("{folder}.{scale}.{change}"),
            (Names::Diffusers, false, Part::Resample(_)) if side == Side::Decoder => {
                format!("{folder}.{scale}.{change}s.0")
            }
            (Names::Diffusers, nested, Part::Block(_)) if nested || side == Side::Decoder => {
                format!("{folder}.{scale}.resnets.{index}")
            }
            _ => format!("{folder}.{}", parts + index),
        }
    }

    /// The tensors of a residual block: both norms, both convolutions, the shortcut.
    pub(super) fn block(&self) -> [&'static str; 5] {
        match self.names {
            Names::Official => ["residual.0", "residual.2", "residual.3", "residual.6", "shortcut"],
            Names::Diffusers => ["norm1", "conv1", "norm2", "conv2", "conv_shortcut"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second block and the change of the third scale, behind four parts, in every layout.
    #[test]
    fn scales_in_every_layout() {
        let name = |names, nested, side, part| Naming { names, nested }.part(side, 2, 4, part);
        let (block, change) = (Part::Block(1), Part::Resample(3));
        for (side, names, nested, expected) in [
            (Side::Encoder, Names::Official, false, ["encoder.downsamples.5", "encoder.downsamples.7"]),
            (Side::Decoder, Names::Official, false, ["decoder.upsamples.5", "decoder.upsamples.7"]),
            (
                Side::Encoder,
                Names::Official,
                true,
                ["encoder.downsamples.2.downsamples.1", "encoder.downsamples.2.downsamples.3"],
            ),
            (
                Side::Decoder,
                Names::Official,
                true,
                ["decoder.upsamples.2.upsamples.1", "decoder.upsamples.2.upsamples.3"],
            ),
            (Side::Encoder, Names::Diffusers, false, ["encoder.down_blocks.5", "encoder.down_blocks.7"]),
            (
                Side::Decoder,
                Names::Diffusers,
                false,
                ["decoder.up_blocks.2.resnets.1", "decoder.up_blocks.2.upsamplers.0"],
            ),
            (
                Side::Encoder,
                Names::Diffusers,
                true,
                ["encoder.down_blocks.2.resnets.1", "encoder.down_blocks.2.downsampler"],
            ),
            (Side::Decoder, Names::Diffusers, true, ["decoder.up_blocks.2.resnets.1", "decoder.up_blocks.2.upsampler"]),
        ] {
            assert_eq!([name(names, nested, side, block), name(names, nested, side, change)], expected);
        }
    }
}
