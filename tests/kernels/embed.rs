//! embed.cu: patches and rows to the bit, tables and embeddings against f64 and against the published code's numbers.

use super::harness::{
    Random, assert_close, assert_same_bits, devices, epsilon, for_each, placed, poisoned, poisoned_at, round, tensor,
};
use adacache::ops::embed::{
    gather_rows, modulation, multiply, patchify, position_add, position_table, rope_table, small_linear,
    timestep_embed, unpatchify,
};
use adacache::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use std::path::Path;

/// Sizes, patch, batch, batch of z.
struct Patches {
    sizes: [usize; 3],
    patch: [usize; 3],
    channels: usize,
    batch: usize,
    z_batch: usize,
}

const PATCHES: [Patches; 6] = [
    Patches { sizes: [1, 1, 1], patch: [1, 1, 1], channels: 1, batch: 1, z_batch: 1 },
    Patches { sizes: [16, 8, 8], patch: [1, 2, 2], channels: 16, batch: 2, z_batch: 1 },
    Patches { sizes: [5, 7, 9], patch: [1, 2, 2], channels: 4, batch: 2, z_batch: 2 },
    Patches { sizes: [5, 7, 9], patch: [2, 3, 4], channels: 3, batch: 4, z_batch: 2 },
    Patches { sizes: [3, 13, 2], patch: [4, 2, 3], channels: 5, batch: 1, z_batch: 1 },
    Patches { sizes: [2, 11, 17], patch: [1, 2, 2], channels: 33, batch: 1, z_batch: 1 },
];

impl Patches {
    fn tokens(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.sizes[axis].div_ceil(self.patch[axis]))
    }

    /// For each latent element of a sample: (channel, its position, its token, its position in the patch).
    fn elements(&self) -> Vec<(usize, usize, usize, usize)> {
        let ([frames, height, width], [pt, ph, pw], [_, th, tw]) = (self.sizes, self.patch, self.tokens());
        let mut elements = Vec::new();
        for c in 0..self.channels {
            for t in 0..frames {
                for h in 0..height {
                    for w in 0..width {
                        let token = ((t / pt) * th + h / ph) * tw + w / pw;
                        let inner = ((t % pt) * ph + h % ph) * pw + w % pw;
                        elements.push((c, (t * height + h) * width + w, token, inner));
                    }
                }
            }
        }
        elements
    }
}

#[test]
fn patches_there_and_back() {
    for_each(|device, dtype| {
        for case in &PATCHES {
            let Patches { sizes, patch, channels, batch, z_batch } = *case;
            let what = format!("patches {dtype} {sizes:?} in {patch:?}, {channels} channels");
            let tokens = case.tokens();
            let (per_sample, volume) = (tokens.iter().product::<usize>(), patch.iter().product::<usize>());
            let plane: usize = sizes.iter().product();
            let shape = |batch| [batch, channels, sizes[0], sizes[1], sizes[2]];
            let elements = case.elements();

            let z = Random::new(plane as u64).values(z_batch * channels * plane, 1.0, DType::F32);
            let mut expected = vec![0.0; batch * per_sample * channels * volume];
            for b in 0..batch {
                for &(c, position, token, inner) in &elements {
                    let from = z[(b % z_batch * channels + c) * plane + position];
                    expected[((b * per_sample + token) * channels + c) * volume + inner] = round(from, dtype);
                }
            }
            let z = tensor(device, &shape(z_batch), &z, DType::F32);
            let run = || {
                let out = poisoned_at(device, &[batch * per_sample, channels * volume], dtype, 1);
                patchify(&z, patch, batch, tokens, &out).unwrap();
                out
            };
            assert_eq!(run().to_f32().unwrap(), expected, "{what}");
            assert_same_bits(&what, run);

            let rows = Random::new(7).values(batch * per_sample * volume * channels, 1.0, dtype);
            let mut expected = vec![0.0; batch * channels * plane];
            for b in 0..batch {
                for &(c, position, token, inner) in &elements {
                    expected[(b * channels + c) * plane + position] =
                        rows[((b * per_sample + token) * volume + inner) * channels + c];
                }
            }
            let rows = placed(device, &[batch * per_sample, volume * channels], &rows, dtype, 1);
            let out = poisoned(device, &shape(batch), DType::F32);
            unpatchify(&rows, patch, tokens, &out).unwrap();
            assert_eq!(out.to_f32().unwrap(), expected, "un{what}");
        }
    });
}

/// Angles as PyTorch computes them in f32 are part of the formula; sine and cosine of them are then exact to an ulp or two.
fn assert_sinusoids(what: &str, got: &[f32], angles: &[f32], pick: impl Fn(f64, usize) -> f64) {
    let exact: Vec<f64> = angles.iter().enumerate().map(|(i, &angle)| pick(f64::from(angle), i)).collect();
    // A frequency may be one ulp from PyTorch's: that moves an angle by its ulp.
    for (i, ((&got, &exact), &angle)) in got.iter().zip(&exact).zip(angles).enumerate() {
        let bound = 2e-7 + 2.5e-7 * f64::from(angle.abs());
        assert!((f64::from(got) - exact).abs() <= bound, "{what} [{i}]: {got}, exactly {exact}, angle {angle}");
    }
}

#[test]
fn position_table_of_every_size() {
    for device in devices() {
        for (tokens_h, tokens_w, channels, scale) in
            [(1, 1, 4, 1.0), (4, 4, 144, 1.0), (3, 7, 20, 0.375), (15, 27, 1152, 0.6238), (45, 2, 8, 1.875)]
        {
            let base = ((tokens_h * tokens_w) as f32).sqrt().round();
            let quarter = channels / 4;
            let mut angles = Vec::new();
            for token in 0..tokens_h * tokens_w {
                let coordinate = |i: usize, count: usize| i as f32 / scale * (base / count as f32);
                let (x, y) = (coordinate(token % tokens_w, tokens_w), coordinate(token / tokens_w, tokens_h));
                for c in 0..channels {
                    let exponent = (2 * (c % quarter)) as f32 / (2 * quarter) as f32;
                    let frequency = 1.0 / 10000f64.powf(f64::from(exponent)) as f32;
                    angles.push(if c < 2 * quarter { x } else { y } * frequency);
                }
            }
            let run = || {
                let out = poisoned(device, &[tokens_h * tokens_w, channels], DType::F32);
                position_table(tokens_h, tokens_w, scale, base, &out).unwrap();
                out
            };
            let what = format!("position_table {tokens_h}x{tokens_w}x{channels}");
            assert_sinusoids(&what, &run().to_f32().unwrap(), &angles, |angle, i| {
                if i % channels / quarter % 2 == 0 { angle.sin() } else { angle.cos() }
            });
            assert_same_bits(&what, run);
        }
    }
}

#[test]
fn timesteps() {
    for device in devices() {
        for dim in [2, 6, 7, 256, 257] {
            let t = [0.0, 1.0, 0.37, 122.8779, 392.83197, 999.0, 1000.0, 24.0, 856.0];
            let half = dim / 2;
            let log_period = 10000f64.ln() as f32;
            let (mut angles, mut zeros) = (Vec::new(), Vec::new());
            for t in t {
                for c in 0..dim {
                    let frequency = (f64::from(-log_period * (c % half) as f32 / half as f32)).exp() as f32;
                    zeros.push(c == 2 * half);
                    angles.push(t * frequency);
                }
            }
            let input = placed(device, &[t.len()], &t, DType::F32, 1);
            let run = || {
                let out = poisoned(device, &[t.len(), dim], DType::F32);
                timestep_embed(&input, 10000.0, &out).unwrap();
                out
            };
            assert_sinusoids(&format!("timestep_embed {dim}"), &run().to_f32().unwrap(), &angles, |angle, i| {
                match i % dim {
                    _ if zeros[i] => 0.0,
                    c if c < half => angle.cos(),
                    _ => angle.sin(),
                }
            });
            assert_same_bits("timestep_embed", run);
        }
    }
}

#[test]
fn rope_tables() {
    for_each(|device, dtype| {
        for (positions, half) in [(1, 1), (16, 36), (51, 13), (300, 64)] {
            let freqs: Vec<f32> = Random::new(half as u64).values(half, 0.5, dtype).iter().map(|f| f.abs()).collect();
            let angles: Vec<f32> =
                (0..positions * half * 2).map(|i| (i / 2 / half) as f32 * freqs[i / 2 % half]).collect();
            let freqs = placed(device, &[half], &freqs, dtype, 1);
            let run = || {
                let out = poisoned(device, &[positions, half, 2], DType::F32);
                rope_table(&freqs, &out).unwrap();
                out
            };
            let pick = |angle: f64, i: usize| if i.is_multiple_of(2) { angle.cos() } else { angle.sin() };
            assert_sinusoids(&format!("rope_table {dtype}"), &run().to_f32().unwrap(), &angles, pick);
            assert_same_bits("rope_table", run);
        }
    });
}

#[test]
fn positions_are_added() {
    for_each(|device, dtype| {
        for (frames, tokens, channels, misalign) in
            [(1, 1, 1, 0), (16, 16, 144, 0), (7, 5, 13, 0), (3, 10, 24, 1), (2, 300, 40, 0)]
        {
            let random = &mut Random::new(channels as u64);
            let x = random.values(2 * frames * tokens * channels, 1.0, dtype);
            let table = random.values(tokens * channels, 1.0, DType::F32);
            let expected: Vec<f32> =
                x.iter().enumerate().map(|(i, x)| round(x + table[i % table.len()], dtype)).collect();
            let table = tensor(device, &[tokens, channels], &table, DType::F32);
            let x = placed(device, &[2, frames, tokens, channels], &x, dtype, misalign);
            position_add(&x, &table).unwrap();
            assert_eq!(x.to_f32().unwrap(), expected, "position_add {dtype} {frames}x{tokens}x{channels} +{misalign}");
        }
    });
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn small_linears() {
    for_each(|device, dtype| {
        let shapes = [
            (1, 1, 1, 0),
            (2, 17, 24, 0),
            (4, 16, 144, 0),
            (5, 33, 13, 0),
            (9, 15, 257, 0),
            (2, 19, 256, 1),
            (3, 864, 144, 0),
        ];
        for (m, n, k, misalign) in shapes {
            for (with_bias, with_add, with_silu) in
                [(true, false, false), (false, true, true), (true, true, true), (false, false, false)]
            {
                let what = format!(
                    "small_linear {dtype} {m}x{n}x{k} +{misalign} bias {with_bias} add {with_add} silu {with_silu}"
                );
                let random = &mut Random::new((m * n * k) as u64);
                let (a, w) =
                    (random.values(m * k, 2.0, DType::F32), random.values(n * k, 1.0 / (k as f32).sqrt(), dtype));
                let (bias, add) = (random.values(n, 1.0, dtype), random.values(m * n, 1.0, DType::F32));
                let (mut exact, mut naive) = (Vec::new(), Vec::new());
                for at in 0..m * n {
                    let (row, column) = (&a[at / n * k..][..k], &w[at % n * k..][..k]);
                    let act = |x: f32| if with_silu { silu(x.into()) } else { x.into() };
                    let mut sum = row.iter().zip(column).map(|(&a, &w)| act(a) * f64::from(w)).sum::<f64>();
                    let mut low = row.iter().zip(column).fold(0.0f32, |sum, (&a, &w)| sum + act(a) as f32 * w);
                    if with_bias {
                        (sum, low) = (sum + f64::from(bias[at % n]), low + bias[at % n]);
                    }
                    if with_add {
                        (sum, low) = (sum + f64::from(add[at]), low + add[at]);
                    }
                    exact.push(sum);
                    naive.push(low);
                }
                let a = placed(device, &[m, k], &a, DType::F32, misalign);
                let w = placed(device, &[n, k], &w, dtype, misalign);
                let bias = with_bias.then(|| placed(device, &[n], &bias, dtype, misalign));
                let add = with_add.then(|| placed(device, &[m, n], &add, DType::F32, misalign));
                let run = || {
                    let out = poisoned_at(device, &[m, n], DType::F32, misalign);
                    small_linear(&a, &w, bias.as_ref(), add.as_ref(), with_silu, &out).unwrap();
                    out
                };
                let largest = exact.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
                assert_close(
                    &what,
                    &run().to_f32().unwrap(),
                    &exact,
                    &naive,
                    8.0 * epsilon(DType::F32) * largest.max(1.0),
                );
                assert_same_bits(&what, run);
            }
        }
    });
}

/// SiLU's ends: no NaN from exp's overflow.
#[test]
fn silu_of_huge_arguments() {
    for device in devices() {
        let a = [-1e30f32, -200.0, -89.0, 0.0, 89.0, 200.0, 1e30, -1e-30];
        for (i, &x) in a.iter().enumerate() {
            let mut one = [0.0; 8];
            one[i] = 1.0;
            let w = tensor(device, &[1, 8], &one, DType::F32);
            let out = poisoned(device, &[1, 1], DType::F32);
            small_linear(
                &tensor(device, &[1, 8], &a.map(|v| if v == x { x } else { 0.0 }), DType::F32),
                &w,
                None,
                None,
                true,
                &out,
            )
            .unwrap();
            let (got, exact) = (f64::from(out.to_f32().unwrap()[0]), silu(x.into()));
            assert!((got - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "silu({x}) = {got}, exactly {exact}");
        }
    }
}

#[test]
fn modulation_tables() {
    for_each(|device, dtype| {
        for (layers, rows, chunks, channels, t_chunks, misalign) in [
            (1, 1, 1, 1, 1, 0),
            (10, 2, 6, 144, 6, 0),
            (1, 4, 2, 144, 1, 0),
            (3, 2, 6, 7, 6, 0),
            (2, 3, 2, 31, 1, 1),
            (2, 1, 6, 48, 6, 1),
        ] {
            let random = &mut Random::new(channels as u64);
            let table = random.values(layers * chunks * channels, 1.0, dtype);
            let t = random.values(rows * t_chunks * channels, 1.0, DType::F32);
            let mut expected = Vec::new();
            for layer in 0..layers {
                for row in 0..rows {
                    for chunk in 0..chunks {
                        for c in 0..channels {
                            let t = t[(row * t_chunks + chunk % t_chunks) * channels + c];
                            expected.push(table[(layer * chunks + chunk) * channels + c] + t);
                        }
                    }
                }
            }
            let table = placed(device, &[layers, chunks, channels], &table, dtype, misalign);
            let t = placed(device, &[rows, t_chunks, channels], &t, DType::F32, misalign);
            let out = poisoned_at(device, &[layers, rows, chunks, channels], DType::F32, misalign);
            modulation(&table, &t, &out).unwrap();
            assert_eq!(
                out.to_f32().unwrap(),
                expected,
                "modulation {dtype} {layers}x{rows}x{chunks}x{channels} +{misalign}"
            );
        }
    });
}

#[test]
fn rows_are_gathered() {
    for_each(|device, dtype| {
        for (batch, src_rows, dst_rows, channels, misalign) in
            [(1, 1, 1, 1, 0), (2, 24, 11, 48, 0), (2, 5, 9, 13, 0), (3, 8, 8, 64, 1)]
        {
            let random = &mut Random::new(dst_rows as u64);
            let src = random.values(batch * src_rows * channels, 1.0, dtype);
            let index: Vec<i32> =
                (0..batch * dst_rows).map(|i| if i % 4 == 3 { -1 } else { random.below(src_rows) as i32 }).collect();
            let mut expected = Vec::new();
            for (i, &row) in index.iter().enumerate() {
                match usize::try_from(row) {
                    Ok(row) => {
                        expected.extend_from_slice(&src[(i / dst_rows * src_rows + row) * channels..][..channels])
                    }
                    Err(_) => expected.extend(std::iter::repeat_n(0.0, channels)),
                }
            }
            let src = placed(device, &[batch, src_rows, channels], &src, dtype, misalign);
            let index = Tensor::from_slice(device, &[batch, dst_rows], &index).unwrap();
            let out = poisoned_at(device, &[batch, dst_rows, channels], dtype, misalign);
            gather_rows(&src, &index, &out).unwrap();
            assert_eq!(
                out.to_f32().unwrap(),
                expected,
                "gather_rows {dtype} {batch}x{dst_rows}x{channels} +{misalign}"
            );
        }
    });
}

/// The conditioning of a forward against the published PyTorch code: t_block(SiLU(t_embedder(t) + fps_embedder(fps))).
#[test]
fn conditioning_of_the_published_code() {
    // From the root of the repository, as in tests/generation/parity.rs.
    let folder = Path::new("tests/goldens/stdit3_a");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a reference file");
    let (weights, io) = (read("model.safetensors"), read("forward_plain/io.safetensors"));
    let (weights, io) = (SafeTensors::deserialize(&weights).unwrap(), SafeTensors::deserialize(&io).unwrap());
    for device in devices() {
        let weight = |name: &str| {
            let view = weights.tensor(name).unwrap();
            Tensor::from_bytes(device, view.shape(), view.data(), DType::Bf16).unwrap()
        };
        let input = |name: &str| {
            let view = io.tensor(name).unwrap();
            Tensor::from_bytes(device, view.shape(), view.data(), DType::F32).unwrap()
        };
        let linear = |a: &Tensor, name: &str, add: Option<&Tensor>, silu: bool| {
            let w = weight(&format!("{name}.weight"));
            let out = poisoned(device, &[a.shape()[0], w.shape()[0]], DType::F32);
            small_linear(a, &w, Some(&weight(&format!("{name}.bias"))), add, silu, &out).unwrap();
            out
        };
        let embedder = |t: &Tensor, name: &str, add: Option<&Tensor>| {
            let sinusoids = poisoned(device, &[t.elements(), 256], DType::F32);
            timestep_embed(t, 10000.0, &sinusoids).unwrap();
            linear(&linear(&sinusoids, &format!("{name}.mlp.0"), None, false), &format!("{name}.mlp.2"), add, true)
        };
        let fps = embedder(&tensor(device, &[2], &[24.0, 24.0], DType::F32), "fps_embedder", None);
        let t = embedder(&input("timestep"), "t_embedder", Some(&fps));
        let (got, want) =
            (linear(&t, "t_block.1", None, true).to_f32().unwrap(), input("trace.t_block").to_f32().unwrap());
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error = norm(&mut got.iter().zip(&want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied());
        assert!(error < 1e-5, "relative error {error:.2e}");
    }
}

/// To the bit: one rounding of each product; also where `out` is an input.
#[test]
fn products_of_elements() {
    for_each(|device, dtype| {
        for (count, misalign) in [(1, 0), (7, 0), (1003, 0), (1003, 1), (4096, 3)] {
            let random = &mut Random::new(count as u64);
            let (a, b) = (random.values(count, 2.0, dtype), random.values(count, 3.0, dtype));
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| round(a * b, dtype)).collect();
            let make = |values: &[f32]| placed(device, &[count], values, dtype, misalign);
            let out = poisoned_at(device, &[count], dtype, misalign);
            multiply(&make(&a), &make(&b), &out).unwrap();
            assert_eq!(out.to_f32().unwrap(), expected, "multiply {dtype} {count} +{misalign}");
            let in_a = make(&a);
            multiply(&in_a, &make(&b), &in_a).unwrap();
            assert_eq!(in_a.to_f32().unwrap(), expected, "multiply {dtype} in a");
        }
    });
}
