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
        let take = |rows: usize, columns: usize, dtype| run.heap.take(&[rows, columns], dtype);
        let linear = |a: &Tensor, w: &Tensor, bias: Option<&Tensor>, out: &Tensor| {
            ops::linear::linear(a, w, bias, None, Activation::None, out)
        };
        let row_bytes = keys * (run.dtype.size() + DType::F32.size());
        let queries = (run.band_bytes / row_bytes).clamp(1, tokens);
        for frame in 0..frames {
            let normal = take(keys, channels, run.dtype)?;
            normal.slice_rows(tokens, keys - tokens)?.fill_bytes(0)?;
            norm(frame, &normal.slice_rows(0, tokens)?.reshape(&[1, height, width, channels])?)?;
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
                ops::softmax::softmax(&scores, tokens, 1.0 / (self.channels as f32).sqrt(), &shares)?;
                linear(&shares, &v, Some(v_b), &mixed.slice_rows(first, rows)?)?;
            }
            let x = x.slice_rows(frame, 1)?.reshape(&[tokens, channels])?;
            ops::linear::linear_residual(&mixed, out_w, Some(out_b), None, &x, None)?;
        }
        Ok(())
    }
}
