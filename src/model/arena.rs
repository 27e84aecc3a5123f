//! Activations in one allocation: each buffer has a lifetime within a step, and buffers that never live at the same time may share
//! their bytes.

use std::ops::RangeInclusive;

use crate::device::Device;
use crate::tensor::{DType, Tensor, TensorError};

/// The stages of a step, in order; those of a block repeat with every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Time,
    Embed,
    Modulation,
    Qkv,
    Attention,
    Proj,
    CrossQ,
    Cross,
    CrossProj,
    Fc1,
    Fc2,
    Leave,
    Final,
    Unpatchify,
    Update,
}

/// The lifetime of what is kept from step to step.
pub(super) const ALWAYS: RangeInclusive<Stage> = Stage::Time..=Stage::Update;

/// Where buffers start; what the kernels' widest accesses ask for, and a cache line.
const ALIGNMENT: usize = 256;

/// A buffer that was asked for; [`Arena::tensor`] gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(usize);

#[derive(Clone, Debug)]
struct Buffer {
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

/// Buffers asked for, not yet placed.
#[derive(Default)]
pub(super) struct Layout(Vec<Buffer>);

impl Layout {
    /// Asks for a buffer that lives in the stages `life`.
    pub(super) fn add(
        &mut self,
        shape: &[usize],
        dtype: DType,
        life: RangeInclusive<Stage>,
    ) -> Result<Slot, TensorError> {
        let elements = shape.iter().try_fold(dtype.size(), |product, &axis| product.checked_mul(axis));
        let bytes = elements.and_then(|n| n.checked_next_multiple_of(ALIGNMENT));
        let bytes = bytes.ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec(), dtype })?;
        self.0.push(Buffer { shape: shape.to_vec(), dtype, bytes, life, offset: 0 });
        Ok(Slot(self.0.len() - 1))
    }

    /// Places every buffer, the largest first, at the lowest offset where nothing lives that it meets; gives the end of the last.
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
    pub(super) fn allocate(mut self, device: &Device) -> Result<Arena, TensorError> {
        let bytes = self.place();
        Ok(Arena { memory: Tensor::empty(device, &[bytes], DType::U8)?, buffers: self.0 })
    }
}

/// Placed buffers in one allocation.
pub(super) struct Arena {
    memory: Tensor,
    buffers: Vec<Buffer>,
}

impl Arena {
    /// The buffer's tensor; it keeps the whole allocation alive.
    pub(super) fn tensor(&self, slot: Slot) -> Result<Tensor, TensorError> {
        let Buffer { shape, dtype, offset, .. } = &self.buffers[slot.0];
        self.memory.carve(*offset, shape, *dtype)
    }

    /// Bytes of the allocation: the most that lives at a time, and what could not be packed tighter.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes()
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
            layout.add(&[bytes], DType::U8, life).unwrap();
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
        assert!(Layout::default().add(&[usize::MAX, 2], DType::F32, ALWAYS).is_err());
    }
}
