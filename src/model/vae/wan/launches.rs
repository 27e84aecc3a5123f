//! The launches of Wan's autoencoders, for benchmarks.

use super::config::{WanResample, WanVaeConfig};
use crate::model::vae::layers::padded;
use crate::shapes::{ConvShape, ResampleKind, ResampleShape, RmsNormShape, Shapes, SoftmaxShape};

impl WanVaeConfig {
    /// The most frequent launches of decoding a latent frame of `height` × `width` behind the first, and the shortcuts of encoding it.
    pub fn launches(&self, [height, width]: [usize; 2]) -> Shapes {
        let softmax = vec![SoftmaxShape { rows: height * width, columns: height * width }];
        let mut shapes = Shapes { softmax, ..Default::default() };
        let (mut channels, mut sides) = (self.decoder.first, [1, height, width]);
        for scale in &self.decoder.scales {
            let n = padded(scale.channels);
            shapes.conv.push(ConvShape { kernel_t: 3, residual: true, ..ConvShape::image(sides, n, n) });
            shapes.rms_norm.push(RmsNormShape { rows: sides.iter().product(), channels: n });
            if let Some(to) = scale.resample {
                shapes.resample.extend(self.shortcut(ResampleKind::Up, channels, to, sides));
                let [frames, height, width] = sides;
                let frames = frames * to.time_factor();
                let conv = ConvShape::image([frames, height, width], n, padded(to.channels));
                shapes.conv.push(ConvShape { upsample: true, ..conv });
                sides = [frames, 2 * height, 2 * width];
            }
            channels = scale.made();
        }
        channels = self.encoder.first;
        for scale in &self.encoder.scales {
            if let Some(to) = scale.resample {
                shapes.resample.extend(self.shortcut(ResampleKind::Down, channels, to, sides));
                let [frames, height, width] = sides;
                sides = [frames / to.time_factor(), height / 2, width / 2];
            }
            channels = scale.made();
        }
        shapes
    }

    fn shortcut(
        &self,
        kind: ResampleKind,
        channels: usize,
        to: WanResample,
        [frames, height, width]: [usize; 3],
    ) -> Option<ResampleShape> {
        let (out_channels, time) = (to.channels, to.time_factor());
        self.shortcuts.then_some(ResampleShape { kind, frames, height, width, channels, out_channels, time })
    }
}
