//! Attention among all pixels of a frame, with one head as wide as the channels.

use super::layers::{Run, padded};
use crate::model::ModelError;
use crate::ops;
use crate::ops::conv::{Band, Geometry, Input};
use crate::ops::linear::Activation;
use crate::tensor::{DType, Tensor};

type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The projections of an attention.
pub(super) struct Attend {
    /// Query, key, value, output: weight `[channels, channels]` and bias, padded with zeros.
    pub(super) parts: [(Tensor, Tensor); 4],
    /// The channels that are no padding.
    pub(super) channels: usize,
}

impl Attend {
    /// `x += out(softmax(q·kᵀ/√channels)·v)`, frame by frame. `norm(frame, image)` writes what q, k and v are made of, `[1, height, width,
    /// channels]`. The scores of some queries exist at a time, in f32: a matrix product, a softmax and another matrix product. The values
    /// are computed transposed, as the weights of the second product; their bias is added afterwards, since the probabilities of a query sum
    /// to one.
    pub(super) fn forward(&self, run: &Run<'_>, x: &Tensor, norm: &dyn Fn(usize, &Tensor) -> Result<()>) -> Result<()> {
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let tokens = height * width;
        // Keys come in whole chunks; those that are none have probability 0.
        let keys = padded(tokens);
        let [(q_w, q_b), (k_w, k_b), (v_w, v_b), (out_w, out_b)] = &self.parts;
        let take = |rows: usize, columns: usize| run.heap.take(&[rows, columns], run.dtype);
        for frame in 0..frames {
            let normal = take(keys, channels)?;
            normal.slice_rows(tokens, keys - tokens)?.fill_bytes(0)?;
            norm(frame, &normal.slice_rows(0, tokens)?.reshape(&[1, height, width, channels])?)?;
            let (q, k, v) = (take(tokens, channels)?, take(keys, channels)?, take(channels, keys)?);
            linear(&normal.slice_rows(0, tokens)?, q_w, Some(q_b), &q)?;
            linear(&normal, k_w, Some(k_b), &k)?;
            linear(v_w, &normal, None, &v)?;
            let mixed = normal.slice_rows(0, tokens)?; // its content is used up
            self.mix(run, [&q, &k, &v], Some(v_b), &mixed)?;
            let x = x.slice_rows(frame, 1)?.reshape(&[tokens, channels])?;
            ops::linear::linear_residual(&mixed, out_w, Some(out_b), None, &x, None)?;
        }
        Ok(())
    }

    /// As [`Attend::forward`], where q, k and v `[channels, frames, pixels]` are taken for `[frames, channels, pixels]`, and what comes of
    /// them is taken back.
    pub(super) fn forward_mixed(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        norm: &dyn Fn(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let &[frames, height, width, channels] = x.shape() else { unreachable!("activations have four axes") };
        let tokens = height * width;
        let (all, keys) = (frames * tokens, padded(tokens));
        let take = |shape: &[usize]| run.heap.take(shape, run.dtype);
        let normal = take(&[frames, height, width, channels])?;
        for frame in 0..frames {
            norm(frame, &normal.slice_rows(frame, 1)?)?;
        }
        let normal = normal.reshape(&[all, channels])?;
        let [q, k, v, (out_w, out_b)] = &self.parts;
        // Both ways by `between`, which is `[channels, frames, pixels]` in memory.
        let (rows, between) = (take(&[all, channels])?, take(&[channels, frames, tokens])?);
        let plane = tokens * channels;
        let project = |(w, bias): &(Tensor, Tensor), strides, count, out: &Tensor| -> Result<()> {
            linear(&normal, w, Some(bias), &rows)?;
            ops::resample::permute(&rows, [1, plane, channels], tokens, &between)?;
            Ok(ops::resample::permute(&between, strides, count, out)?)
        };
        let (queries, key, value) =
            (take(&[frames, tokens, channels])?, take(&[frames, tokens, channels])?, take(&[frames, channels, keys])?);
        project(q, [plane, 1, tokens], channels, &queries)?;
        project(k, [plane, 1, tokens], channels, &key)?;
        project(v, [plane, tokens, 1], tokens, &value)?;
        let (padded_keys, mixed) = (take(&[keys, channels])?, take(&[frames, tokens, channels])?);
        padded_keys.slice_rows(tokens, keys - tokens)?.fill_bytes(0)?;
        for frame in 0..frames {
            let of = |x: &Tensor| -> Result<Tensor> {
                let shape = x.shape();
                Ok(x.slice_rows(frame, 1)?.reshape(&[shape[1], shape[2]])?)
            };
            padded_keys.slice_rows(0, tokens)?.copy_from(&of(&key)?)?;
            self.mix(run, [&of(&queries)?, &padded_keys, &of(&value)?], None, &of(&mixed)?)?;
        }
        ops::resample::permute(&mixed, [plane, 1, channels], tokens, &between.reshape(&[frames, channels, tokens])?)?;
        let back = rows.reshape(&[frames, tokens, channels])?;
        ops::resample::permute(&between, [tokens, 1, all], channels, &back)?;
        ops::linear::linear_residual(&rows, out_w, Some(out_b), None, &x.reshape(&[all, channels])?, None)?;
        Ok(())
    }

    /// `mixed = softmax(q·kᵀ/√channels)·v (+ bias)` of one frame: q `[tokens, channels]`, k `[keys, channels]`, v transposed `[channels,
    /// keys]`, both padded with zeros behind the tokens.
    fn mix(&self, run: &Run<'_>, [q, k, v]: [&Tensor; 3], bias: Option<&Tensor>, mixed: &Tensor) -> Result<()> {
        let (tokens, channels, keys) = (q.shape()[0], q.shape()[1], k.shape()[0]);
        let row_bytes = keys * (run.dtype.size() + DType::F32.size());
        let queries = (run.band_bytes / row_bytes).clamp(1, tokens);
        let take = |rows: usize, dtype| run.heap.take(&[rows, keys], dtype);
        for first in (0..tokens).step_by(queries) {
            let rows = queries.min(tokens - first);
            let (scores, shares) = (take(rows, DType::F32)?, take(rows, run.dtype)?);
            let q = q.slice_rows(first, rows)?.reshape(&[1, 1, rows, channels])?;
            let product = ops::conv::Conv {
                input: Input::whole(&q),
                w: &k.reshape(&[keys, 1, 1, 1, channels])?,
                bias: None,
                alpha: 1.0,
                geometry: Geometry::default(),
                residual: None,
                relu: false,
                band: Band { first: 0, rows: 1 },
            };
            ops::conv::conv(&product, &scores.reshape(&[1, 1, rows, keys])?)?;
            ops::softmax::softmax(&scores, tokens, 1.0 / (self.channels as f32).sqrt(), &shares)?;
            linear(&shares, v, bias, &mixed.slice_rows(first, rows)?)?;
        }
        Ok(())
    }
}

/// `out = a·wᵀ (+ bias)`
fn linear(a: &Tensor, w: &Tensor, bias: Option<&Tensor>, out: &Tensor) -> Result<()> {
    Ok(ops::linear::linear(a, w, bias, None, Activation::None, out)?)
}
