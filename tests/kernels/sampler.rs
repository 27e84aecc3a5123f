//! sampler.cu against f64: guidance, the Euler step, held frames, frames that begin to move.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, placed};
use adacache::ops::sampler::{Step, noise, step};
use adacache::sampler::Row;
use adacache::tensor::{DType, Tensor};

/// [batch, channels, frames, height, width].
const SHAPES: [[usize; 5]; 6] =
    [[1, 1, 1, 1, 1], [2, 4, 5, 3, 7], [1, 16, 16, 8, 8], [3, 2, 3, 2, 6], [2, 4, 2, 13, 20], [1, 4, 7, 5, 1]];

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, v| largest.max(v.abs()))
}

#[test]
fn every_step() {
    for device in devices() {
        for shape in SHAPES {
            let [batch, channels, frames, height, width] = shape;
            let (spatial, count) = (height * width, shape.iter().product::<usize>());
            for (guided, masked, with_x0, extra, misalign) in [
                (true, false, false, channels, 0),
                (false, false, false, 0, 0),
                (true, true, true, 3, 0),
                (false, true, false, 1, 0),
                (true, true, true, 0, 1),
            ] {
                let what =
                    format!("step {shape:?} guided {guided} mask {masked} x0 {with_x0} +{extra} channels +{misalign}");
                let (v_channels, copies) = (channels + extra, if guided { 2 } else { 1 });
                let random = &mut Random::new(count as u64);
                let mut values = |count| random.values(count, 1.0, DType::F32);
                let (z, x0, v) = (values(count), values(count), values(copies * batch * v_channels * frames * spatial));
                let mask: Vec<u8> = (0..batch * frames).map(|i| u8::from(i % 3 != 1)).collect();
                let (scale, dt) = (7.0f32, -0.031f32);
                let (mut exact, mut naive) = (Vec::new(), Vec::new());
                for i in 0..count {
                    let (b, within) = (i / (channels * frames * spatial), i % (channels * frames * spatial));
                    let at = |b: usize| v[b * v_channels * frames * spatial + within];
                    let (c, u) = (at(b), if guided { at(batch + b) } else { 0.0 });
                    let held = masked && mask[b * frames + within / spatial % frames] == 0;
                    let velocity =
                        if guided { f64::from(u) + f64::from(scale) * (f64::from(c) - f64::from(u)) } else { c.into() };
                    let low = if guided { u + scale * (c - u) } else { c };
                    let stays = if with_x0 { x0[i] } else { z[i] };
                    exact.push(if held { stays.into() } else { f64::from(z[i]) + f64::from(dt) * velocity });
                    naive.push(if held { stays } else { z[i] + dt * low });
                }
                let prediction =
                    placed(device, &[copies * batch, v_channels, frames, height, width], &v, DType::F32, misalign);
                let x0 = with_x0.then(|| placed(device, &shape, &x0, DType::F32, misalign));
                let mask = masked.then(|| Tensor::from_slice(device, &[batch, frames], &mask).unwrap());
                let run = || {
                    let z = placed(device, &shape, &z, DType::F32, misalign);
                    let row = Row::euler(500.0, dt).words();
                    let row = Tensor::from_slice(device, &[row.len()], &row).unwrap();
                    let how = Step {
                        cfg_scale: guided.then_some(scale),
                        row: &row,
                        history: None,
                        frame_mask: mask.as_ref(),
                        x0: x0.as_ref(),
                    };
                    step(&z, &prediction, &how).unwrap();
                    z
                };
                let floor = 2.0 * epsilon(DType::F32) * largest(&exact);
                assert_close(&what, &run().to_f32().unwrap(), &exact, &naive, floor);
                assert_same_bits(&what, run);
            }
        }
    }
}

#[test]
fn frames_begin_to_move() {
    for device in devices() {
        for shape in SHAPES {
            for (t, misalign) in [(0.0f32, 0), (0.3, 0), (1.0, 0), (0.7, 1)] {
                let [batch, channels, frames, height, width] = shape;
                let count = shape.iter().product::<usize>();
                let random = &mut Random::new(count as u64 + 1);
                let mut values = || random.values(count, 1.0, DType::F32);
                let (z, x0, noises) = (values(), values(), values());
                let select: Vec<u8> = (0..batch * frames).map(|i| u8::from(i % 2 == 0)).collect();
                let (mut exact, mut naive) = (Vec::new(), Vec::new());
                for i in 0..count {
                    let frame = i / (channels * frames * height * width) * frames + i / (height * width) % frames;
                    let moves = select[frame] != 0;
                    let (x, n) = (x0[i], noises[i]);
                    exact.push(if moves {
                        (1.0 - f64::from(t)) * f64::from(x) + f64::from(t) * f64::from(n)
                    } else {
                        z[i].into()
                    });
                    naive.push(if moves { (1.0 - t) * x + t * n } else { z[i] });
                }
                let make = |values: &[f32]| placed(device, &shape, values, DType::F32, misalign);
                let (x0, noises) = (make(&x0), make(&noises));
                let select = Tensor::from_slice(device, &[batch, frames], &select).unwrap();
                let run = || {
                    let z = make(&z);
                    noise(&z, &x0, &noises, &select, t).unwrap();
                    z
                };
                let what = format!("noise {shape:?} t {t} +{misalign}");
                assert_close(
                    &what,
                    &run().to_f32().unwrap(),
                    &exact,
                    &naive,
                    2.0 * epsilon(DType::F32) * largest(&exact),
                );
                assert_same_bits(&what, run);
            }
        }
    }
}
