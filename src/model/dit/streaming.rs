//! The weights of a transformer's blocks: some resident on the device, the others streamed from host memory while the blocks before them
//! compute.

use std::collections::VecDeque;

use super::linear::Loader;
use super::parts::Parts;
use crate::device::HostMemory;
use crate::model::error::ModelError;
use crate::model::fp8::{self, Fp8Weights};
use crate::model::sizes::WeightBytes;
use crate::tensor::{DType, Tensor};

/// Device buffers for streamed blocks: one block computes, one arrives.
pub const SLOTS: usize = 2;

/// The memory of all blocks, in execution order.
pub struct BlockWeights {
    /// The location of each block's weights while it computes.
    memory: Vec<Tensor>,
    /// Bytes of each block.
    bytes: Vec<usize>,
    /// Buffers that streamed blocks use in turn; none if all blocks are resident.
    slots: Vec<Tensor>,
    /// The streamed blocks: index and weights.
    streamed: Vec<(usize, HostMemory)>,
    /// What is in e4m3, if that was asked for.
    fp8: Option<Fp8Weights>,
}

/// Whether block `index` of `count` is one of the `streamed` that do not stay on the device. They are spread evenly: the more blocks
/// compute between two of them, the more of the second one's copy is hidden.
fn is_streamed(index: usize, count: usize, streamed: usize) -> bool {
    (index + 1) * streamed / count > index * streamed / count
}

impl BlockWeights {
    /// For a model whose weights are all resident and managed by the model itself.
    pub fn resident() -> BlockWeights {
        BlockWeights { memory: vec![], bytes: vec![], slots: vec![], streamed: vec![], fp8: None }
    }

    /// Loads the blocks `named`, each with what it is made of, `streamed` of them into host memory.
    ///
    /// # Errors
    /// More blocks to stream than there are; weights in e4m3 on a device that does not multiply them; errors from reading the weights.
    pub(in crate::model) fn load(
        source: &Loader,
        named: &[(String, &Parts)],
        streamed: usize,
    ) -> Result<BlockWeights, ModelError> {
        if streamed > named.len() {
            return Err(ModelError::Input(format!("{streamed} blocks to stream of {}", named.len())));
        }
        let device = source.device;
        if source.weights.fp8() {
            fp8::check(device, source.dtype)?;
        }
        let bytes: Vec<usize> = named.iter().map(|(_, parts)| parts.bytes()).collect();
        let most = bytes.iter().copied().max().unwrap_or(0);
        let slot = |_| Tensor::empty(device, &[most], DType::U8);
        let slots = (0..if streamed > 0 { SLOTS } else { 0 }).map(slot).collect::<Result<Vec<_>, _>>()?;
        let mut all =
            BlockWeights { memory: Vec::with_capacity(named.len()), bytes, slots, streamed: vec![], fp8: None };
        let (mut error, mut products) = (fp8::Error::default(), [0; 2]);
        for (i, (name, parts)) in named.iter().enumerate() {
            let (content, its) = parts.content(source.weights, name)?;
            error = error.and(its);
            products = std::array::from_fn(|i| products[i] + parts.products()[i]);
            let memory = if is_streamed(i, named.len(), streamed) {
                let slot = all.slots[all.streamed.len() % SLOTS].clone();
                all.streamed.push((i, device.pin(content)?));
                slot
            } else {
                Tensor::from_bytes(device, &[content.len()], &content, DType::U8)?
            };
            all.memory.push(memory);
        }
        let [products, others] = products;
        all.fp8 = source.weights.fp8().then(|| Fp8Weights { products, others, error: error.relative() });
        Ok(all)
    }

    /// What of them is in e4m3, if that was asked for.
    pub fn fp8(&self) -> Option<Fp8Weights> {
        self.fp8
    }

    /// The location of each block's weights while it computes.
    pub(in crate::model) fn memory(&self) -> &[Tensor] {
        &self.memory
    }

    /// The bytes of all weights, with `ends` bytes outside the blocks.
    pub(in crate::model) fn with_ends(&self, ends: usize) -> WeightBytes {
        let all: usize = self.bytes.iter().sum();
        let streamed: usize = self.streamed.iter().map(|(index, _)| self.bytes[*index]).sum();
        let block = self.bytes.iter().copied().max().unwrap_or(0);
        WeightBytes { resident: ends + all - streamed + self.slots.len() * block, streamed, block, blocks: all, ends }
    }

    /// Streams the blocks `needed` (ascending), one after the other.
    pub(in crate::model) fn stream(&self, needed: impl IntoIterator<Item = usize>) -> Result<Stream<'_>, ModelError> {
        let mut waiting: [VecDeque<usize>; SLOTS] = Default::default();
        let mut first = vec![];
        for k in needed.into_iter().filter_map(|index| self.position(index)) {
            if waiting[k % SLOTS].is_empty() {
                first.push(k % SLOTS);
            }
            waiting[k % SLOTS].push_back(k);
        }
        let mut stream = Stream { weights: self, waiting, current: None };
        first.into_iter().try_for_each(|slot| stream.fetch(slot))?;
        Ok(stream)
    }

    /// The position of this block among the streamed ones.
    fn position(&self, index: usize) -> Option<usize> {
        self.streamed.binary_search_by_key(&index, |(i, _)| *i).ok()
    }
}

/// Blocks in flight to the device. A streamed block's copy starts as soon as the block that used its buffer before is done; once the last
/// block has been taken, every copy that was started has been waited for.
pub(in crate::model) struct Stream<'a> {
    weights: &'a BlockWeights,
    /// The streamed blocks whose copies have not started, by buffer.
    waiting: [VecDeque<usize>; SLOTS],
    /// The last block taken.
    current: Option<usize>,
}

impl Stream<'_> {
    /// Brings block `index` to the device: it must be one of the requested ones and not precede the last one taken, whose work has been
    /// queued.
    pub(in crate::model) fn take(&mut self, index: usize) -> Result<(), ModelError> {
        let weights = self.weights;
        if self.current != Some(index) {
            if let Some(done) = self.current.and_then(|index| weights.position(index)) {
                self.fetch(done % SLOTS)?;
            }
            if let Some(k) = weights.position(index) {
                weights.slots[k % SLOTS].fetched()?;
            }
            self.current = Some(index);
        }
        Ok(())
    }

    /// Starts the copy of the next block that waits for buffer `slot`.
    fn fetch(&mut self, slot: usize) -> Result<(), ModelError> {
        if let Some(k) = self.waiting[slot].pop_front() {
            self.weights.slots[slot].fetch(&self.weights.streamed[k].1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_blocks_are_as_many_as_asked_for_and_evenly_apart() {
        for count in [1, 4, 10, 56] {
            for streamed in 0..=count {
                let which: Vec<usize> = (0..count).filter(|&i| is_streamed(i, count, streamed)).collect();
                assert_eq!(which.len(), streamed, "{streamed} of {count}");
                let gaps = which.windows(2).map(|pair| pair[1] - pair[0]);
                let (least, most) = (gaps.clone().min().unwrap_or(1), gaps.max().unwrap_or(1));
                assert!(most - least <= 1, "{which:?}");
            }
        }
    }
}
