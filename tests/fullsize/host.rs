//! Layers on the host in f32, to hold rows of full-size blocks against.

use std::thread;

use adacache::model::Weights;

const EPS: f32 = 1e-6;

/// `[cos, sin]` of a time in 256 channels.
pub(crate) fn sinusoid(time: f32) -> Vec<f32> {
    let angle = |i: usize| f64::from(time) * 10000f64.powf(-(i as f64) / 128.0);
    (0..128).map(|i| angle(i).cos() as f32).chain((0..128).map(|i| angle(i).sin() as f32)).collect()
}

/// `x · wᵀ + b` for `x [rows, inputs]` and `w [out, inputs]`, on all cores.
pub(crate) fn linear(x: &[f32], weights: &Weights<'_>, name: &str, [out, inputs]: [usize; 2]) -> Vec<f32> {
    let w = weights.values(&format!("{name}.weight"), &[out, inputs]).unwrap();
    let b = weights.values(&format!("{name}.bias"), &[out]).unwrap();
    let rows = x.len() / inputs;
    let mut y = vec![0.0; rows * out];
    let band = rows.div_ceil(thread::available_parallelism().map_or(1, usize::from)).max(1);
    thread::scope(|scope| {
        for (y, x) in y.chunks_mut(band * out).zip(x.chunks(band * inputs)) {
            let (w, b) = (&w, &b);
            scope.spawn(move || {
                // A few outputs for a few rows at a time, so that weights stay in the cache.
                for (outs, (w, b)) in w.chunks(32 * inputs).zip(b.chunks(32)).enumerate() {
                    for (y, x) in y.chunks_exact_mut(out).zip(x.chunks_exact(inputs)) {
                        for (i, (w, b)) in w.chunks_exact(inputs).zip(b).enumerate() {
                            y[32 * outs + i] = b + dot(x, w);
                        }
                    }
                }
            });
        }
    });
    y
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a, rest_a) = a.as_chunks::<16>();
    let (b, rest_b) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

/// LayerNorm of every row, times `scale` plus `shift`.
pub(crate) fn layer_norm(x: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
    let c = scale.len();
    let norm = |row: &[f32]| -> Vec<f32> {
        let mean = row.iter().sum::<f32>() / c as f32;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / c as f32;
        let factor = 1.0 / (variance + EPS).sqrt();
        row.iter().zip(scale.iter().zip(shift)).map(|(v, (scale, shift))| (v - mean) * factor * scale + shift).collect()
    };
    x.chunks_exact(c).flat_map(norm).collect()
}

/// Attention of `q [rows, C]` to `k`, `v [keys, C]` with heads of `wide` channels; `last` is added to the last key's scores.
pub(crate) fn attend(q: &[f32], k: &[f32], v: &[f32], [c, wide]: [usize; 2], last: f32) -> Vec<f32> {
    let (keys, mut out) = (k.len() / c, vec![0.0; q.len()]);
    for (out, q) in out.chunks_exact_mut(c).zip(q.chunks_exact(c)) {
        for head in (0..c).step_by(wide) {
            let score = |key: usize| {
                let more = if key + 1 == keys { last } else { 0.0 };
                dot(&q[head..head + wide], &k[key * c + head..][..wide]) / (wide as f32).sqrt() + more
            };
            let scores: Vec<f32> = (0..keys).map(score).collect();
            let most = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let mut total = vec![0.0f64; wide];
            for (key, weight) in weights.iter().enumerate() {
                let v = &v[key * c + head..][..wide];
                total.iter_mut().zip(v).for_each(|(total, v)| *total += f64::from(weight * v));
            }
            out[head..head + wide].iter_mut().zip(total).for_each(|(out, total)| *out = (total / sum) as f32);
        }
    }
    out
}

/// x / (1 + e⁻ˣ)
pub(crate) fn silu(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp());
}

/// GELU by the hyperbolic tangent.
pub(crate) fn gelu(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = 0.5 * *v * (1.0 + (0.797_884_6 * (*v + 0.044715 * v.powi(3))).tanh()));
}
