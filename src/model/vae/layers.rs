//! Common layers of both autoencoders: convolutions, norms, residual blocks, attention over one frame's pixels. Tensors are `[frames,
//! height, width, channels]`, with channels padded with zeros to whole chunks.

use super::heap::{Heap, Lent};
use crate::device::Device;
use crate::model::{Arrangement, ModelError, Weights};
use crate::ops;
use crate::ops::conv::{Band, CHANNELS, Geometry, Input};
use crate::ops::linear::Activation;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The source of the weights and their destination.
pub(super) struct Loader<'a> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a Weights<'a>,
    pub(super) dtype: DType,
}

/// The context of a forward pass.
pub(super) struct Run<'a> {
    pub(super) heap: &'a Heap,
    pub(super) dtype: DType,
    /// Whether norms run over each frame separately, or over all frames together.
    pub(super) by_frame: bool,
    /// Approximate bytes that a band of normalised activations, or of attention scores, may use.
    pub(super) band_bytes: usize,
}

/// The stored number of channels.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNELS)
}

/// A convolution's weights and the layout of its taps.
pub(super) struct Conv {
    /// `[n, kernel_t, kernel_h, kernel_w, channels]`
    w: Tensor,
    bias: Option<Tensor>,
    geometry: Geometry,
    /// Zero padding below and on the right.
    behind: usize,
    /// Factor applied to the input.
    alpha: f32,
}

/// A convolution's shape: channels in and out, taps in time and space.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub(super) channels: usize,
    pub(super) n: usize,
    /// `None`: an image convolution, whose weights have no time axis.
    pub(super) time: Option<usize>,
    pub(super) space: usize,
}

impl Conv {
    /// Loads `name.weight` `[n, channels, (time,) space, space]` and, if it has one, `name.bias`. The caller sets strides and upsampling;
    /// the padding keeps the size of an unstrided convolution, with all padding in time at the front.
    pub(super) fn load(from: &Loader<'_>, name: &str, taps: Taps, bias: bool, geometry: Geometry) -> Result<Conv> {
        let Taps { channels, n, time, space } = taps;
        let (t, factor) = (time.unwrap_or(1), geometry.time_factor);
        let mut shape = vec![n, channels];
        shape.extend(time);
        shape.extend([space, space]);
        let (taps, kept, made) = (t * space * space, padded(channels), padded(n / factor) * factor);
        // Channel c·factor + j of the file belongs to channel c of frame j.
        let place = |i: usize| i % factor * (made / factor) + i / factor;
        let shapes = Arrangement { file: &shape, tensor: &[made, t, space, space, kept] };
        let w = from.weights.arranged(from.device, &format!("{name}.weight"), shapes, from.dtype, |values| {
            let mut w = vec![0.0; made * taps * kept];
            for (i, &value) in values.iter().enumerate() {
                let (tap, c, n) = (i % taps, i / taps % channels, i / taps / channels);
                w[(place(n) * taps + tap) * kept + c] = value;
            }
            w
        })?;
        let load_bias = || {
            let shapes = Arrangement { file: &[n], tensor: &[made] };
            from.weights.arranged(from.device, &format!("{name}.bias"), shapes, from.dtype, |values| {
                let mut bias = vec![0.0; made];
                values.iter().enumerate().for_each(|(i, &value)| bias[place(i)] = value);
                bias
            })
        };
        let bias = if bias { Some(load_bias()?) } else { None };
        Ok(Conv { w, bias, geometry: geometry.padded([t, space]), behind: space / 2, alpha: 1.0 })
    }

    /// The same convolution for inputs that are first multiplied by `alpha`.
    pub(super) fn scaled(self, alpha: f32) -> Conv {
        Conv { alpha, ..self }
    }

    /// The output shape for an input shape.
    fn output(&self, x: &[usize]) -> [usize; 4] {
        let w = self.w.shape();
        self.geometry.output([x[0], x[1], x[2]], [w[0], w[1], w[2], w[3]], self.behind)
    }

    /// The convolution alone.
    pub(super) fn forward<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        self.forward_as(run, x, run.dtype)
    }

    /// As [`Conv::forward`], with output of another type.
    pub(super) fn forward_as<'a>(&self, run: &Run<'a>, x: &Tensor, dtype: DType) -> Result<Lent<'a>> {
        let shape = self.output(x.shape());
        let out = run.heap.take(&shape, dtype)?;
        self.rows(&Input::whole(x), None, Band { first: 0, rows: shape[1] }, &out)?;
        Ok(out)
    }

    fn rows(&self, input: &Input<'_>, residual: Option<&Tensor>, band: Band, out: &Tensor) -> Result<()> {
        let call = ops::conv::Conv {
            input: *input,
            w: &self.w,
            bias: self.bias.as_ref(),
            alpha: self.alpha,
            geometry: self.geometry,
            residual,
            band,
        };
        Ok(ops::conv::conv(&call, out)?)
    }
}

/// A GroupNorm's weights.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f32,
}

impl Norm {
    pub(super) fn load(from: &Loader<'_>, name: &str, channels: usize, groups: usize, eps: f32) -> Result<Norm> {
        let tensor = |end: &str| from.weights.tensor(from.device, &format!("{name}.{end}"), &[channels], from.dtype);
        Ok(Norm { weight: tensor("weight")?, bias: tensor("bias")?, groups, eps })
    }

    /// The norm of `x` as a scale and a shift for each channel of each sample.
    fn statistics<'a>(&self, run: &Run<'a>, x: &Tensor) -> Result<Lent<'a>> {
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let (samples, per_sample) = if run.by_frame { (frames, 1) } else { (1, frames) };
        let blocks = ops::group_norm::blocks(per_sample * height * width);
        let affine = run.heap.take(&[samples, channels, 2], DType::F32)?;
        let partial = run.heap.take(&[samples * blocks * channels * 2], DType::F32)?;
        let Norm { weight, bias, groups, eps } = self;
        let norm = ops::group_norm::GroupNorm { weight, bias, groups: *groups, eps: *eps };
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
        let kernel_rows = conv.w.shape()[2];
        // The rows above and below a band are made twice.
        let rows = (run.band_bytes / row_bytes).saturating_sub(kernel_rows - 1).clamp(1, made.max(1));
        for first in (0..made).step_by(rows) {
            let band = Band { first, rows: rows.min(made - first) };
            let needed = ops::conv::needed_rows(&conv.geometry, kernel_rows, height, band);
            let normal = run.heap.take(&[frames, needed.rows, width, channels], run.dtype)?;
            ops::group_norm::apply(x, &affine, true, needed, &normal)?;
            conv.rows(&Input { x: &normal, height, first: needed.first }, residual, band, out)?;
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

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`; x passes through a one-tap convolution if the channels differ.
pub(super) struct ResBlock {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

/// The differences between the residual blocks of the two autoencoders.
#[derive(Clone, Copy)]
pub(super) struct BlockStyle {
    /// Taps in time; `None` for images.
    pub(super) time: Option<usize>,
    pub(super) groups: usize,
    pub(super) eps: f32,
    /// The suffix of a convolution's name.
    pub(super) suffix: &'static str,
    pub(super) shortcut: &'static str,
    pub(super) bias: bool,
}

impl ResBlock {
    pub(super) fn load(
        from: &Loader<'_>,
        name: &str,
        channels: usize,
        n: usize,
        style: BlockStyle,
    ) -> Result<ResBlock> {
        let BlockStyle { time, groups, eps, suffix, shortcut, bias } = style;
        let conv = |end: &str, channels, space| {
            let taps = Taps { channels, n, time: time.map(|t| if space == 1 { 1 } else { t }), space };
            Conv::load(from, &format!("{name}.{end}{suffix}"), taps, bias, Geometry::default())
        };
        Ok(ResBlock {
            norm1: Norm::load(from, &format!("{name}.norm1"), channels, groups, eps)?,
            conv1: conv("conv1", channels, 3)?,
            norm2: Norm::load(from, &format!("{name}.norm2"), n, groups, eps)?,
            conv2: conv("conv2", n, 3)?,
            shortcut: if channels == n { None } else { Some(conv(shortcut, channels, 1)?) },
        })
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

/// Attention among all pixels of a frame, with one head as wide as the channels.
pub(super) struct Attention {
    norm: Norm,
    /// Query, key, value, output: weight `[channels, channels]` and bias.
    parts: [(Tensor, Tensor); 4],
}

impl Attention {
    pub(super) fn load(from: &Loader<'_>, name: &str, channels: usize, groups: usize, eps: f32) -> Result<Attention> {
        let part = |part: &str| -> Result<(Tensor, Tensor)> {
            let tensor = |end: &str, shape: &[usize]| {
                from.weights.tensor(from.device, &format!("{name}.{part}.{end}"), shape, from.dtype)
            };
            Ok((tensor("weight", &[channels, channels])?, tensor("bias", &[channels])?))
        };
        Ok(Attention {
            norm: Norm::load(from, &format!("{name}.group_norm"), channels, groups, eps)?,
            parts: [part("to_q")?, part("to_k")?, part("to_v")?, part("to_out.0")?],
        })
    }

    /// `x += out(softmax(q·kᵀ/√channels)·v)`, normed by frame. The scores of some queries exist at a time, in f32: a matrix product, a
    /// softmax and another matrix product. The values are computed transposed, as the weights of the second product; their bias is added
    /// afterwards, since the probabilities of a query sum to one.
    pub(super) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<()> {
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let tokens = height * width;
        // Keys come in whole chunks; those that are none have probability 0.
        let keys = padded(tokens);
        let affine = self.norm.statistics(run, x)?;
        let [(q_w, q_b), (k_w, k_b), (v_w, v_b), (out_w, out_b)] = &self.parts;
        let take = |rows: usize, columns: usize, dtype| run.heap.take(&[rows, columns], dtype);
        let linear = |a: &Tensor, w: &Tensor, bias: Option<&Tensor>, out: &Tensor| {
            ops::linear::linear(a, w, bias, None, Activation::None, out)
        };
        let row_bytes = keys * (run.dtype.size() + DType::F32.size());
        let queries = (run.band_bytes / row_bytes).clamp(1, tokens);
        for frame in 0..frames {
            let x = x.slice_rows(frame, 1)?;
            let affine = affine.slice_rows(frame, 1)?;
            let normal = take(keys, channels, run.dtype)?;
            normal.slice_rows(tokens, keys - tokens)?.fill_bytes(0)?;
            let image = normal.slice_rows(0, tokens)?.reshape(&[1, height, width, channels])?;
            ops::group_norm::apply(&x, &affine, false, Band { first: 0, rows: height }, &image)?;
            let (q, k, v) = (
                take(tokens, channels, run.dtype)?,
                take(keys, channels, run.dtype)?,
                take(channels, keys, run.dtype)?,
            );
            linear(&normal.slice_rows(0, tokens)?, q_w, Some(q_b), &q)?;
            linear(&normal, k_w, Some(k_b), &k)?;
            linear(v_w, &normal, None, &v)?;
            let mixed = normal.slice_rows(0, tokens)?; // its content is used up
            for first in (0..tokens).step_by(queries) {
                let rows = queries.min(tokens - first);
                let (scores, shares) = (take(rows, keys, DType::F32)?, take(rows, keys, run.dtype)?);
                let q = q.slice_rows(first, rows)?.reshape(&[1, 1, rows, channels])?;
                let product = ops::conv::Conv {
                    input: Input::whole(&q),
                    w: &k.reshape(&[keys, 1, 1, 1, channels])?,
                    bias: None,
                    alpha: 1.0,
                    geometry: Geometry::default(),
                    residual: None,
                    band: Band { first: 0, rows: 1 },
                };
                ops::conv::conv(&product, &scores.reshape(&[1, 1, rows, keys])?)?;
                ops::softmax::softmax(&scores, tokens, 1.0 / (channels as f32).sqrt(), &shares)?;
                linear(&shares, &v, Some(v_b), &mixed.slice_rows(first, rows)?)?;
            }
            ops::linear::linear_residual(&mixed, out_w, Some(out_b), None, &x.reshape(&[tokens, channels])?, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let attention = Attention::load(&from, "a", channels, groups, 1e-6).unwrap();
            let heap = Heap::new(&device, 1 << 20).unwrap();
            let run = |band_bytes| {
                let run = Run { heap: &heap, dtype, by_frame: true, band_bytes };
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
