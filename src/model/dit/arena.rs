//! Activations in one allocation: each buffer has a lifetime within a step, and buffers that are never live at the same time may share
//! bytes.

use std::ops::RangeInclusive;

use crate::cache::Half;
use crate::device::Device;
use crate::tensor::{DType, Tensor, TensorError};

/// The stages of a step, in order; those of a block, from [`Stage::Qkv`] to [`Stage::Fc2`], repeat for every block. A module's residual is
/// live from its last stage on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Times are embedded.
    Time,
    /// Latents are embedded.
    Embed,
    /// The blocks' modulation is computed from the time.
    Modulation,
    /// The self-attention's queries, keys and values.
    Qkv,
    /// The self-attention itself.
    Attention,
    /// The self-attention's output projection, added to the hidden state.
    Proj,
    /// The cross-attention's queries.
    CrossQ,
    /// The cross-attention itself.
    Cross,
    /// The cross-attention's output projection, added to the hidden state.
    CrossProj,
    /// The MLP's first layer.
    Fc1,
    /// The MLP's last layer, added to the hidden state.
    Fc2,
    /// All blocks are done.
    Leave,
    /// The final layer.
    Final,
    /// The final layer's tokens become a prediction.
    Unpatchify,
    /// The latents are updated.
    Update,
}

/// The lifetime of buffers kept from step to step.
pub const ALWAYS: RangeInclusive<Stage> = Stage::Time..=Stage::Update;

/// Alignment of buffers: that of the kernels' widest accesses and of a cache line.
const ALIGNMENT: usize = 256;

/// The name of a buffer, by which a model refers to its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub &'static str);

/// How a buffer stores the samples of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Samples {
    /// Adjacent along this axis.
    Axis(usize),
    /// Not at all: it is the same for all samples.
    None,
}

#[derive(Clone, Debug)]
struct Buffer {
    slot: Slot,
    samples: Samples,
    shape: Vec<usize>,
    dtype: DType,
    bytes: usize,
    life: RangeInclusive<Stage>,
    offset: usize,
}

impl Buffer {
    fn meets(&self, other: &Buffer) -> bool {
        self.life.start() <= other.life.end() && other.life.start() <= self.life.end()
    }

    fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

/// The table of a step's buffers, each with its name, shape and lifetime.
#[derive(Default)]
pub struct Layout(Vec<Buffer>);

impl Layout {
    /// Adds a buffer that is live in the stages `life`, with the batch along its first axis.
    ///
    /// # Errors
    /// A size that overflows.
    pub fn add(
        &mut self,
        slot: Slot,
        shape: &[usize],
        dtype: DType,
        life: RangeInclusive<Stage>,
    ) -> Result<(), TensorError> {
        self.add_with(slot, Samples::Axis(0), shape, dtype, life)
    }

    /// As [`Layout::add`], with the batch stored as `samples` describes.
    ///
    /// # Errors
    /// As [`Layout::add`].
    pub fn add_with(
        &mut self,
        slot: Slot,
        samples: Samples,
        shape: &[usize],
        dtype: DType,
        life: RangeInclusive<Stage>,
    ) -> Result<(), TensorError> {
        let elements = shape.iter().try_fold(dtype.size(), |product, &axis| product.checked_mul(axis));
        let bytes = elements.and_then(|n| n.checked_next_multiple_of(ALIGNMENT));
        let bytes = bytes.ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec(), dtype })?;
        self.0.push(Buffer { slot, samples, shape: shape.to_vec(), dtype, bytes, life, offset: 0 });
        Ok(())
    }

    /// Places every buffer, the largest first, at the lowest offset that is free during its lifetime; returns the end of the highest one.
    fn place(&mut self) -> usize {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.0[i].bytes));
        for (done, &i) in order.iter().enumerate() {
            let mut taken: Vec<(usize, usize)> = order[..done]
                .iter()
                .map(|&j| &self.0[j])
                .filter(|placed| placed.meets(&self.0[i]))
                .map(|placed| (placed.offset, placed.end()))
                .collect();
            taken.sort_unstable();
            let mut offset = 0;
            for (start, end) in taken {
                if offset + self.0[i].bytes <= start {
                    break;
                }
                offset = offset.max(end);
            }
            self.0[i].offset = offset;
        }
        self.0.iter().map(Buffer::end).max().unwrap_or(0)
    }

    /// Places the buffers and allocates them.
    pub(in crate::model) fn allocate(mut self, device: &Device) -> Result<Arena, TensorError> {
        let bytes = self.place();
        let memory = Tensor::empty(device, &[bytes], DType::U8)?;
        let carve = |buffer: &Buffer| {
            let tensor = memory.carve(buffer.offset, &buffer.shape, buffer.dtype)?;
            Ok(Placed { slot: buffer.slot, samples: buffer.samples, tensor })
        };
        Ok(Arena { bytes, placed: self.0.iter().map(carve).collect::<Result<_, TensorError>>()? })
    }
}

/// A placed buffer; its tensor keeps the whole allocation alive.
struct Placed {
    slot: Slot,
    samples: Samples,
    tensor: Tensor,
}

/// Placed buffers in one allocation.
pub(in crate::model) struct Arena {
    bytes: usize,
    placed: Vec<Placed>,
}

impl Arena {
    /// The buffer `slot`, if it was requested.
    pub(in crate::model) fn find(&self, slot: Slot) -> Option<&Tensor> {
        self.placed.iter().find(|placed| placed.slot == slot).map(|placed| &placed.tensor)
    }

    /// The same buffers for a half of the batch, in the memory of that half.
    pub(in crate::model) fn half(&self, half: Half) -> Result<Arena, TensorError> {
        let part = |Placed { slot, samples, tensor }: &Placed| {
            let tensor = match *samples {
                Samples::None => tensor.clone(),
                Samples::Axis(axis) => {
                    let mut shape = tensor.shape().to_vec();
                    shape[axis] /= 2;
                    tensor.carve(half.index() * tensor.bytes() / 2, &shape, tensor.dtype())?
                }
            };
            Ok(Placed { slot: *slot, samples: *samples, tensor })
        };
        Ok(Arena { bytes: self.bytes, placed: self.placed.iter().map(part).collect::<Result<_, TensorError>>()? })
    }

    /// Bytes of the allocation: the most that is live at a time, plus packing losses.
    pub(in crate::model) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_bytes_only_when_they_never_meet() {
        let lives = [
            (1000, ALWAYS),
            (5000, Stage::Qkv..=Stage::Attention),
            (5001, Stage::Fc1..=Stage::Fc2),
            (900, Stage::Attention..=Stage::Proj),
            (1, Stage::Time..=Stage::Time),
            (0, Stage::Qkv..=Stage::Qkv),
            (2600, Stage::Cross..=Stage::CrossProj),
            (300, Stage::Embed..=Stage::Final),
        ];
        let mut layout = Layout::default();
        for (bytes, life) in lives.clone() {
            layout.add(Slot("any"), &[bytes], DType::U8, life).unwrap();
        }
        let total = layout.place();
        for (i, a) in layout.0.iter().enumerate() {
            assert_eq!(a.offset % ALIGNMENT, 0);
            for b in &layout.0[..i] {
                assert!(!a.meets(b) || a.end() <= b.offset || b.end() <= a.offset, "{a:?} {b:?}");
            }
        }
        // The most that lives at once, here all of the MLP's stages; nothing is lost between the buffers.
        let round = |bytes: usize| bytes.next_multiple_of(ALIGNMENT);
        assert_eq!(total, round(5000).max(round(5001)) + round(1000) + round(300) + round(900));
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        assert!(Layout::default().add(Slot("any"), &[usize::MAX, 2], DType::F32, ALWAYS).is_err());
    }
}
