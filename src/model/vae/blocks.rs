//! Layers of autoencoders with GroupNorm: the norm, residual blocks, attention over one frame's pixels.

use super::attention::Attend;
use super::heap::Lent;
use super::layers::{Conv, Edge, Loader, Run, Taps};
use crate::model::{Arrangement, ModelError};
use crate::ops;
use crate::ops::conv::{Band, Geometry, Input};
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// A GroupNorm's weights.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    style: NormStyle,
}

/// A GroupNorm without its weights.
#[derive(Clone, Copy)]
pub(super) struct NormStyle {
    pub(super) groups: usize,
    pub(super) eps: f32,
    /// Whether it runs over each frame separately, or over all frames together.
    pub(super) by_frame: bool,
}

impl Norm {
    pub(super) fn load(from: &Loader<'_>, name: &str, channels: usize, style: NormStyle) -> Result<Norm> {
        let tensor = |end: &str| from.weights.tensor(from.device, &format!("{name}.{end}"), &[channels], from.dtype);
        Ok(Norm { weight: tensor("weight")?, bias: tensor("bias")?, style })
    }

    /// The norm of `x` as a scale and a shift for each channel of each sample.
    fn statistics<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let NormStyle { groups, eps, by_frame } = self.style;
        let (samples, per_sample) = if by_frame { (frames, 1) } else { (1, frames) };
        let blocks = ops::group_norm::blocks(per_sample * height * width);
        let affine = run.heap.take(&[samples, channels, 2], DType::F32)?;
        let partial = run.heap.take(&[samples * blocks * channels * 2], DType::F32)?;
        let norm = ops::group_norm::GroupNorm { weight: &self.weight, bias: &self.bias, groups, eps };
        ops::group_norm::statistics(x, &norm, &partial, &affine)?;
        Ok(affine)
    }

    /// `out = conv(silu(norm(x))) (+ residual)`. The normalised activations exist for one band of rows at a time.
    pub(super) fn then_conv(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        conv: &Conv,
        residual: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<()> {
        let affine = self.statistics(run, x)?;
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let made = out.shape()[1];
        let row_bytes = frames * width * channels * run.dtype.size();
        let kernel_rows = conv.kernel_rows();
        // The rows above and below a band are made twice.
        let rows = (run.band_bytes / row_bytes).saturating_sub(kernel_rows - 1).clamp(1, made.max(1));
        for first in (0..made).step_by(rows) {
            let band = Band { first, rows: rows.min(made - first) };
            let needed = ops::conv::needed_rows(conv.geometry(), kernel_rows, height, band);
            let normal = run.heap.take(&[frames, needed.rows, width, channels], run.dtype)?;
            ops::group_norm::apply(x, &affine, true, needed, &normal)?;
            let input = Input { x: &normal, before: None, height, first: needed.first };
            conv.rows(run, &input, residual, band, out)?;
        }
        Ok(())
    }

    /// As [`Norm::then_conv`], into newly allocated memory of type `dtype`.
    pub(super) fn then_conv_as<'a>(&self, run: &Run<'a>, x: &Tensor, conv: &Conv, dtype: DType) -> Result<Lent<'a>> {
        let out = run.heap.take(&conv.output(x.shape()), dtype)?;
        self.then_conv(run, x, conv, None, &out)?;
        Ok(out)
    }
}

/// `x + share·conv2(silu(norm2(conv1(silu(norm1(x))))))`; x passes through a one-tap convolution if the channels differ.
pub(super) struct ResBlock {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

/// The differences between the residual blocks of the autoencoders.
#[derive(Clone, Copy)]
pub(super) struct BlockStyle {
    /// Taps in time; `None` for images.
    pub(super) time: Option<usize>,
    /// Taps in rows and columns.
    pub(super) space: usize,
    pub(super) edge: Edge,
    pub(super) norm: NormStyle,
    /// The suffix of a convolution's name.
    pub(super) suffix: &'static str,
    pub(super) shortcut: &'static str,
    pub(super) bias: bool,
    /// The factor of what the block adds.
    pub(super) share: f32,
}

impl BlockStyle {
    /// Blocks of images in diffusers' names.
    pub(super) fn image(norm: NormStyle) -> BlockStyle {
        let (suffix, shortcut) = ("", "conv_shortcut");
        BlockStyle { time: None, space: 3, edge: Edge::Zeros, norm, suffix, shortcut, bias: true, share: 1.0 }
    }
}

impl ResBlock {
    pub(super) fn load(
        from: &Loader<'_>,
        name: &str,
        channels: usize,
        n: usize,
        style: BlockStyle,
    ) -> Result<ResBlock> {
        let BlockStyle { time, space, edge, norm, suffix, shortcut, bias, share } = style;
        let through = Taps { channels, n, time: time.map(|_| 1), space: 1 };
        let taps = |channels| Taps { channels, n, time, space };
        let conv = |end: &str, taps| -> Result<Conv> {
            let conv = Conv::load(from, &format!("{name}.{end}{suffix}"), taps, bias, Geometry::default())?;
            Ok(conv.with_edge(edge))
        };
        let conv2 = if share == 1.0 {
            conv("conv2", taps(n))?
        } else {
            let name = format!("{name}.conv2{suffix}");
            Conv::load_share(from, &name, taps(n), Geometry::default(), share)?.with_edge(edge)
        };
        Ok(ResBlock {
            norm1: Norm::load(from, &format!("{name}.norm1"), channels, norm)?,
            conv1: conv("conv1", taps(channels))?,
            norm2: Norm::load(from, &format!("{name}.norm2"), n, norm)?,
            conv2,
            shortcut: if channels == n { None } else { Some(conv(shortcut, through)?) },
        })
    }

    /// One block after the other.
    pub(super) fn chain<'a>(blocks: &[ResBlock], run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        blocks.iter().try_fold(x, |x, block| block.forward(run, x))
    }

    pub(super) fn forward<'a>(&self, run: &Run<'a>, x: Lent<'a>) -> Result<Lent<'a>> {
        let hidden = self.norm1.then_conv_as(run, &x, &self.conv1, run.dtype)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(run, &x)?,
            None => x,
        };
        self.norm2.then_conv(run, &hidden, &self.conv2, Some(&x), &x)?;
        Ok(x)
    }
}

/// Attention among all pixels of a frame.
pub(super) struct Attention {
    norm: Norm,
    attend: Attend,
}

/// The names of an attention's norm and of its query, key, value and output, and the axes of length 1 behind those of a projection's weight.
#[derive(Clone, Copy)]
pub(super) struct AttentionNames {
    pub(super) norm: &'static str,
    pub(super) parts: [&'static str; 4],
    pub(super) axes: usize,
}

impl AttentionNames {
    /// diffusers' names.
    pub(super) const DIFFUSERS: AttentionNames =
        AttentionNames { norm: "group_norm", parts: ["to_q", "to_k", "to_v", "to_out.0"], axes: 0 };
    /// diffusers' names before version 0.18.
    pub(super) const EARLIER: AttentionNames =
        AttentionNames { norm: "group_norm", parts: ["query", "key", "value", "proj_attn"], axes: 0 };
}

impl Attention {
    pub(super) fn load(
        from: &Loader<'_>,
        name: &str,
        channels: usize,
        style: NormStyle,
        names: AttentionNames,
    ) -> Result<Attention> {
        let mut shape = vec![channels, channels];
        shape.resize(2 + names.axes, 1);
        let part = |part: &str| -> Result<(Tensor, Tensor)> {
            let name = format!("{name}.{part}");
            let shapes = Arrangement { file: &shape, tensor: &[channels, channels] };
            let weight = from.weights.arranged(from.device, &format!("{name}.weight"), shapes, from.dtype, |v| v)?;
            Ok((weight, from.weights.tensor(from.device, &format!("{name}.bias"), &[channels], from.dtype)?))
        };
        let [q, k, v, out] = names.parts;
        Ok(Attention {
            norm: Norm::load(from, &format!("{name}.{}", names.norm), channels, style)?,
            attend: Attend { parts: [part(q)?, part(k)?, part(v)?, part(out)?], channels },
        })
    }

    /// `x += out(softmax(q·kᵀ/√channels)·v)` with q, k and v of the norm of x.
    pub(super) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<()> {
        let affine = self.norm.statistics(run, x)?;
        self.attend.forward(run, x, &|frame, image| self.write(x, &affine, frame, image))
    }

    /// As [`Attention::forward`], where q, k and v `[channels, frames, pixels]` are taken for `[frames, channels, pixels]`: the pixels of
    /// several frames mix, as published.
    pub(super) fn forward_mixed(&self, run: &Run<'_>, x: &Tensor) -> Result<()> {
        let affine = self.norm.statistics(run, x)?;
        self.attend.forward_mixed(run, x, &|frame, image| self.write(x, &affine, frame, image))
    }

    /// The norm of a frame.
    fn write(&self, x: &Tensor, affine: &Tensor, frame: usize, image: &Tensor) -> Result<()> {
        let whole = Band { first: 0, rows: image.shape()[1] };
        let sample = if self.norm.style.by_frame { frame } else { 0 };
        ops::group_norm::apply(&x.slice_rows(frame, 1)?, &affine.slice_rows(sample, 1)?, false, whole, image)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::model::Weights;
    use crate::model::vae::heap::Heap;
    use crate::pipeline::noise;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    /// `out[i, n] = Σ_k a[i, k]·w[n, k] + b[n]`
    fn product(a: &[f64], w: &[f32], b: &[f32]) -> Vec<f64> {
        let channels = b.len();
        let dot = |row: &[f64], n: usize| {
            let w = &w[n * channels..][..channels];
            f64::from(b[n]) + row.iter().zip(w).map(|(a, &w)| a * f64::from(w)).sum::<f64>()
        };
        a.chunks(channels).flat_map(|row| (0..channels).map(move |n| dot(row, n))).collect()
    }

    /// GroupNorm of a frame `[tokens, channels]`.
    fn normalised(frame: &[f64], weight: &[f32], bias: &[f32], groups: usize) -> Vec<f64> {
        let channels = weight.len();
        let size = channels / groups;
        let mut normal = frame.to_vec();
        for group in 0..groups {
            let of_group = |i: &usize| i % channels / size == group;
            let members: Vec<usize> = (0..frame.len()).filter(of_group).collect();
            let mean = members.iter().map(|&i| frame[i]).sum::<f64>() / members.len() as f64;
            let variance = members.iter().map(|&i| (frame[i] - mean).powi(2)).sum::<f64>() / members.len() as f64;
            for i in members {
                let (weight, bias) = (f64::from(weight[i % channels]), f64::from(bias[i % channels]));
                normal[i] = (frame[i] - mean) / (variance + 1e-6).sqrt() * weight + bias;
            }
        }
        normal
    }

    /// Attention among the tokens `[tokens, channels]`, with one head.
    fn attended(q: &[f64], k: &[f64], v: &[f64], channels: usize) -> Vec<f64> {
        let row = |of: &[f64], i: usize| of[i * channels..][..channels].to_vec();
        let mut mixed = vec![0.0; q.len()];
        for (i, mixed) in mixed.chunks_mut(channels).enumerate() {
            let dot = |j: usize| row(q, i).iter().zip(row(k, j)).map(|(q, k)| q * k).sum::<f64>();
            let shares: Vec<f64> = (0..v.len() / channels).map(|j| (dot(j) / (channels as f64).sqrt()).exp()).collect();
            let sum: f64 = shares.iter().sum();
            for (j, share) in shares.iter().enumerate() {
                mixed.iter_mut().zip(row(v, j)).for_each(|(mixed, v)| *mixed += share / sum * v);
            }
        }
        mixed
    }

    /// 15 pixels, so that keys are padded to 16; all queries at once, and one at a time.
    #[test]
    fn attention_against_f64() {
        let (frames, height, width, channels, groups) = (2, 3, 5, 32, 8);
        let tokens = height * width;
        let parts = ["to_q", "to_k", "to_v", "to_out.0"];
        let mut names = vec![("a.group_norm.weight".to_owned(), vec![channels])];
        names.push(("a.group_norm.bias".into(), vec![channels]));
        for part in parts {
            names.push((format!("a.{part}.weight"), vec![channels, channels]));
            names.push((format!("a.{part}.bias"), vec![channels]));
        }
        let values: Vec<Vec<f32>> = (1..)
            .zip(&names)
            .map(|(seed, (_, shape))| noise(seed, shape.iter().product()).iter().map(|v| v * 0.4).collect())
            .collect();
        let bytes: Vec<&[u8]> = values.iter().map(|v| bytemuck::cast_slice(v)).collect();
        let views = names
            .iter()
            .zip(&bytes)
            .map(|((name, shape), bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        let x = noise(99, frames * tokens * channels);

        let mut exact: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for frame in exact.chunks_mut(tokens * channels) {
            let normal = normalised(frame, &values[0], &values[1], groups);
            let [q, k, v] = [0, 1, 2].map(|part| product(&normal, &values[2 + 2 * part], &values[3 + 2 * part]));
            let out = product(&attended(&q, &k, &v, channels), &values[8], &values[9]);
            frame.iter_mut().zip(out).for_each(|(x, out)| *x += out);
        }

        let device = Device::vm(crate::device::VmConfig { checked: true, ..Default::default() });
        for (dtype, bound) in [(DType::F32, 1e-6), (DType::F16, 1.5e-3), (DType::Bf16, 1e-2)] {
            let weights = Weights::from_bytes("attention", &file).unwrap();
            let from = Loader { device: &device, weights: &weights, dtype };
            let style = NormStyle { groups, eps: 1e-6, by_frame: true };
            let attention = Attention::load(&from, "a", channels, style, AttentionNames::DIFFUSERS).unwrap();
            let heap = Heap::new(&device, 1 << 20).unwrap();
            let run = |band_bytes| {
                let run = Run { heap: &heap, dtype, band_bytes };
                let x = Tensor::from_f32(&device, &[frames, height, width, channels], &x, dtype).unwrap();
                attention.forward(&run, &x).unwrap();
                x.to_f32().unwrap()
            };
            let out = run(1 << 20);
            let square = |errors: &mut dyn Iterator<Item = f64>| errors.map(|e| e * e).sum::<f64>();
            let error = square(&mut out.iter().zip(&exact).map(|(out, exact)| f64::from(*out) - exact));
            let error = (error / square(&mut exact.iter().copied())).sqrt();
            assert!(error <= bound, "{dtype}: relative error {error:.2e}");
            assert!(run(1) == out, "{dtype}: a query at a time");
        }
    }
}
