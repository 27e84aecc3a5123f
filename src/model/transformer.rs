//! The interface of a family's transformer: how its pieces run, without any knowledge of caching.

use super::dit::streaming::BlockWeights;
use super::error::ModelError;
use super::sizes::{Geometry, TransformerShape, WeightBytes};
use super::workspace::{ResidualRoom, Workspace};
use crate::cache::{Anatomy, Half};
use crate::device::Device;
use crate::tensor::{DType, Tensor};

/// A diffusion transformer on a device. It is immutable: a generation's memory is a [`Workspace`]. Every piece runs on the device; the host
/// only queues launches.
///
/// Hidden states are `[batch, frames, tokens, channels]`, latents `[videos, channels, frames, height, width]` f32. With guidance the batch is
/// [conditional…, unconditional…].
pub trait Transformer: Send + Sync {
    /// The device the weights are on.
    fn device(&self) -> &Device;

    /// The element type the model runs in.
    fn dtype(&self) -> DType;

    /// The structure of its blocks.
    fn anatomy(&self) -> &Anatomy;

    /// The sizes that other modules need.
    fn shape(&self) -> TransformerShape;

    /// The weights of its blocks.
    fn weights(&self) -> &BlockWeights;

    /// Bytes of its weights.
    fn weight_bytes(&self) -> WeightBytes;

    /// The learned caption `[tokens, caption_channels]` of the unconditional half; empty if the model has none.
    fn null_caption(&self) -> &[f32];

    /// Shape `[batch, frames, tokens, C]` of the hidden state.
    fn hidden_shape(&self, geometry: &Geometry) -> [usize; 4];

    /// Allocates a generation's memory and fills the parts that are constant over the steps; `room` describes residuals and their probes.
    ///
    /// # Errors
    /// Sizes that the model does not support; out of memory.
    fn workspace(&self, geometry: Geometry, room: &ResidualRoom) -> Result<Workspace, ModelError>;

    /// Encodes captions `y` (`[batch, length, caption_channels]`, f32) for every block.
    ///
    /// `mask` (`[batch, length]`) is true for the tokens of a sample to keep; without it all are kept.
    ///
    /// # Errors
    /// Sizes that do not fit, values that are not finite; out of memory.
    fn caption(&self, y: &[f32], batch: usize, mask: Option<&[bool]>) -> Result<Caption, ModelError>;

    /// Embeds the times in [`Workspace::time`], for the calls that follow.
    fn embed_time(&self, ws: &Workspace) -> Result<(), ModelError>;

    /// Computes the blocks' modulation from the time. A step that runs no block does not need it.
    fn modulate(&self, ws: &Workspace, trace: Option<&mut Trace>) -> Result<(), ModelError>;

    /// Embeds the latents `z` into `x`, which has the shape of the hidden state. With guidance both halves of the batch share `z`.
    fn embed(&self, ws: &Workspace, z: &Tensor, x: &Tensor, trace: Option<&mut Trace>) -> Result<(), ModelError>;

    /// The first block's normed and modulated input, in `out`.
    fn modulated_input(&self, ws: &Workspace, out: &Tensor) -> Result<(), ModelError>;

    /// Adds to the hidden state what belongs to no module and is the same in every step, before module `module`; most models have nothing
    /// like it. It is called wherever that module runs, and where a kept run of modules that begins with it is reused.
    ///
    /// # Errors
    /// Errors of the device.
    fn before(&self, _ws: &Workspace, _module: usize) -> Result<(), ModelError> {
        Ok(())
    }

    /// Runs the module with index `module` ([`Anatomy::at`]) on the hidden state, in place. Its output also goes to `added`. The weights of
    /// its block must be on the device.
    fn module(
        &self,
        ws: &Workspace,
        caption: &Caption,
        module: usize,
        added: Option<Added<'_>>,
    ) -> Result<(), ModelError>;

    /// Applies the final layer to the hidden state (which it may overwrite) and writes the prediction to [`Workspace::prediction`].
    fn finish(&self, ws: &Workspace) -> Result<(), ModelError>;

    /// FLOPs of a step that runs the modules for which `runs` is true, from the shapes (matrix products and attention; 2 per multiply-add).
    fn flops(&self, geometry: &Geometry, caption_tokens: usize, runs: &dyn Fn(usize) -> bool) -> u64;
}

/// An additional destination of a module's residual, besides the hidden state.
#[derive(Clone, Copy)]
pub struct Added<'a> {
    /// A tensor with the shape of the hidden state.
    pub to: &'a Tensor,
    /// Whether the residual is added to the tensor's content.
    pub accumulate: bool,
}

/// The caption's keys and values for every block: they do not depend on time, so they are computed once per generation.
pub struct Caption {
    /// `[batch*length, 2, heads, head_dim]` per block.
    pub(super) kv: Vec<Tensor>,
    /// `[batch]` i32
    pub(super) lengths: Tensor,
    /// `[batch]` f32: what is added to the score of each sample's last token.
    pub(super) last_bias: Option<Tensor>,
    length: usize,
}

impl Caption {
    /// From `batch` captions of at most `length` tokens: the keys and values of every block that reads them, and the number of tokens of
    /// each.
    pub fn new(kv: Vec<Tensor>, lengths: Tensor, length: usize) -> Caption {
        Caption { kv, lengths, last_bias: None, length }
    }

    /// With `bias` `[batch]` f32 added to the score of each sample's last token. The logarithm of a number makes it stand for as many equal
    /// tokens.
    pub fn with_last_bias(self, bias: Tensor) -> Caption {
        Caption { last_bias: Some(bias), ..self }
    }

    /// The captions of a half of a guided batch, in the same memory.
    ///
    /// # Errors
    /// Captions of a batch that has no halves.
    pub fn half(&self, half: Half) -> Result<Caption, ModelError> {
        let samples = self.lengths.elements();
        if !samples.is_multiple_of(2) {
            return Err(ModelError::Input(format!("captions of {samples} samples have no halves")));
        }
        let part = |tensor: &Tensor| tensor.slice_rows(half.index() * tensor.shape()[0] / 2, tensor.shape()[0] / 2);
        Ok(Caption {
            kv: self.kv.iter().map(part).collect::<Result<_, _>>()?,
            lengths: part(&self.lengths)?,
            last_bias: self.last_bias.as_ref().map(part).transpose()?,
            length: self.length,
        })
    }

    /// Tokens of the longest caption of the batch.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Hidden states after named stages, recorded for parity tests: `spatial.0`, `temporal.0`, …
pub type Trace = Vec<(String, Vec<f32>)>;
