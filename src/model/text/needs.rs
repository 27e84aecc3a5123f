//! The device memory that an encoder takes, counted before anything is uploaded.

use super::config::T5Config;
use super::encoder::T5Encoder;
use crate::device::Device;
use crate::model::dit::streaming::SLOTS;
use crate::model::{ModelError, Weights};
use crate::tensor::DType;

/// Bytes of device memory that an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T5Needs {
    /// What does not depend on where the blocks' weights are.
    pub fixed: usize,
    /// The weights of one block.
    pub block: usize,
    /// The number of blocks.
    pub blocks: usize,
}

impl T5Needs {
    /// Counts them for prompts of `tokens` tokens, on a device like `device` that stores nothing.
    ///
    /// # Errors
    /// The errors of the encoder itself.
    pub fn count(config: &T5Config, device: &Device, dtype: DType, tokens: usize) -> Result<T5Needs, ModelError> {
        let dry = device.counting();
        let encoder = T5Encoder::load(&dry, config.clone(), Weights::zeros(), dtype, 0)?;
        encoder.encode(&vec![0; tokens], None)?;
        let (block, blocks) = (encoder.weight_bytes().block, config.layers);
        Ok(T5Needs { fixed: dry.peak_bytes() - blocks * block, block, blocks })
    }

    /// With all weights on the device.
    pub fn resident(&self) -> usize {
        self.fixed + self.blocks * self.block
    }

    /// With the weights of every block in host memory.
    pub fn least(&self) -> usize {
        self.fixed + self.blocks.min(SLOTS) * self.block
    }

    /// The number of blocks that must be streamed so that everything fits into `available` bytes; `None`: all are not enough.
    pub fn streamed(&self, available: usize) -> Option<usize> {
        if available >= self.resident() {
            return Some(0);
        }
        // Less than all fit, and some of the room is for those that come and go.
        let fit = available.checked_sub(self.fixed)? / self.block;
        Some(self.blocks - fit.checked_sub(SLOTS)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;

    /// On a device with exactly the counted memory.
    #[test]
    fn the_count_is_what_is_allocated() {
        let text = r#"{"vocab_size": 64, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, "num_layers": 6}"#;
        let config = T5Config::from_json(text, "config.json").unwrap();
        let device =
            |memory| Device::dry(DryConfig { name: "x".into(), memory, units: 108, compute_capability: (8, 0) });
        for dtype in [DType::Bf16, DType::F32] {
            let needs = T5Needs::count(&config, &device(1), dtype, 77).unwrap();
            let run = |memory, streamed| {
                let encoder = T5Encoder::load(&device(memory), config.clone(), Weights::zeros(), dtype, streamed)?;
                encoder.encode(&[0; 77], None)
            };
            assert_eq!(needs.blocks, 6);
            for budget in [needs.least(), needs.least() + needs.block, needs.resident() - 1, needs.resident()] {
                run(budget, needs.streamed(budget).unwrap()).unwrap();
            }
            assert_eq!((needs.streamed(needs.resident()), needs.streamed(needs.least())), (Some(0), Some(6)));
            assert_eq!(needs.streamed(needs.least() - 1), None);
            assert!(run(needs.resident() - 1, 0).is_err() && run(needs.least() - 1, 6).is_err());
        }
    }
}
