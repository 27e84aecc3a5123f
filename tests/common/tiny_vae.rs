//! Random tiny autoencoders in the layout of TAEHV.

use std::fs;
use std::path::Path;

use super::written::{Plain, safetensors};

/// The shape of one.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) latent_channels: usize,
    /// Of the three scales, and behind the last.
    pub(crate) channels: [usize; 4],
    /// How many frames one becomes at every scale.
    pub(crate) time: [usize; 3],
    pub(crate) patch: usize,
}

impl Shape {
    /// As `taew2_1`, with fewer channels.
    pub(crate) const WAN21: Shape = Shape { latent_channels: 16, channels: [24, 16, 8, 8], time: [1, 2, 2], patch: 1 };

    /// The decoder's tensors, of values that are the same every time.
    pub(crate) fn tensors(&self) -> Vec<Plain> {
        let Shape { latent_channels, channels: [first, .., last], time, patch } = *self;
        let mut all: Vec<Plain> = vec![];
        let mut state = 1u32;
        let mut add = |name: &str, shape: &[usize], scale: f32, shift: f32| {
            let mut value = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                shift + scale * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
            };
            all.push((
                format!("decoder.{name}"),
                shape.to_vec(),
                (0..shape.iter().product()).map(|_| value()).collect(),
            ));
        };
        let mut conv = |name: String, [n, c, taps]: [usize; 3], bias: Option<f32>| {
            add(&format!("{name}.weight"), &[n, c, taps, taps], (3.0 / (taps * taps * c) as f32).sqrt(), 0.0);
            bias.into_iter().for_each(|shift| add(&format!("{name}.bias"), &[n], 0.1, shift));
        };
        conv("1".into(), [first, latent_channels, 3], Some(0.0));
        for (i, &time) in time.iter().enumerate() {
            let ([c, next], at) = ([self.channels[i], self.channels[i + 1]], 3 + 6 * i);
            for block in at..at + 3 {
                conv(format!("{block}.conv.0"), [c, 2 * c, 3], Some(0.0));
                conv(format!("{block}.conv.2"), [c, c, 3], Some(0.0));
                conv(format!("{block}.conv.4"), [c, c, 3], Some(0.0));
            }
            conv(format!("{}.conv", at + 4), [time * c, c, 1], None);
            conv(format!("{}", at + 5), [next, c, 3], None);
        }
        conv("22".into(), [3 * patch * patch, last, 3], Some(0.5));
        all
    }

    /// Writes them as a safetensors file.
    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, safetensors(&self.tensors())).unwrap();
    }
}
