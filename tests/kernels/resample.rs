//! resample.cu against the published reshapes written out: repeat, view and permute; pad, view and mean; linear interpolation in time.

use super::harness::{Random, assert_close, assert_same_bits, devices, epsilon, for_each, round, tensor};
use adacache::device::Device;
use adacache::ops::resample::{Resample, avg_down, dup_up, permute, time_up};
use adacache::tensor::DType;

/// Frames, height, width.
type Sides = [usize; 3];

fn padded(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// The input `[frames, height, width, padded channels]`, with something in the padding that must not be seen.
struct Input {
    values: Vec<f32>,
    sides: Sides,
    pitch: usize,
}

impl Input {
    fn new(sides: Sides, channels: usize, dtype: DType) -> Input {
        let pitch = padded(channels);
        let count = sides.iter().product::<usize>() * pitch;
        let mut values = Random::new((count + channels) as u64).values(count, 1.0, dtype);
        values.iter_mut().enumerate().filter(|(i, _)| i % pitch >= channels).for_each(|(_, v)| *v = 1e4);
        Input { values, sides, pitch }
    }

    fn at(&self, t: usize, y: usize, x: usize, c: usize) -> f64 {
        let [_, height, width] = self.sides;
        f64::from(self.values[((t * height + y) * width + x) * self.pitch + c])
    }
}

/// Runs `add` on an output that holds values already, whose padding must stay.
fn check(
    device: &Device,
    dtype: DType,
    input: &Input,
    [frames, height, width, channels]: [usize; 4],
    element: impl Fn(usize, usize, usize, usize) -> f64,
    add: impl Fn(&adacache::tensor::Tensor, &adacache::tensor::Tensor),
) {
    let pitch = padded(channels);
    let before = Random::new(7).values(frames * height * width * pitch, 1.0, dtype);
    let (mut exact, mut naive) = (vec![], vec![]);
    for (i, &held) in before.iter().enumerate() {
        let (c, x, y, t) = (i % pitch, i / pitch % width, i / pitch / width % height, i / pitch / width / height);
        let added = if c < channels { element(t, y, x, c) } else { 0.0 };
        exact.push(f64::from(held) + added);
        naive.push(round(held + round(added as f32, dtype), dtype));
    }
    let [t, h, w] = input.sides;
    let x = tensor(device, &[t, h, w, input.pitch], &input.values, dtype);
    let run = || {
        let out = tensor(device, &[frames, height, width, pitch], &before, dtype);
        add(&x, &out);
        out
    };
    let got = run().to_f32().unwrap();
    assert_close(
        &format!("{dtype} {frames}x{height}x{width}x{channels}"),
        &got,
        &exact,
        &naive,
        4.0 * epsilon(dtype) + 2f64.powi(-22),
    );
    assert_same_bits("resample", run);
}

#[test]
fn repeated_channels_go_up() {
    for_each(|device, dtype| {
        for (channels, out_channels, time, space, dropped) in [
            (32, 32, 2, 2, 1),
            (32, 32, 2, 2, 0),
            (16, 8, 1, 2, 0),
            (4, 2, 2, 2, 1),
            (24, 12, 1, 2, 0),
            (8, 24, 1, 2, 0),
        ] {
            let by = Resample { channels, out_channels, time, space };
            let input = Input::new([2, 3, 5], channels, dtype);
            let repeats = by.repeats().unwrap();
            let element = |t: usize, y: usize, x: usize, c: usize| {
                let t = t + dropped;
                // [B, Cout, time, space, space, T, H, W] of the repeated channels.
                let repeated = ((c * time + t % time) * space + y % space) * space + x % space;
                input.at(t / time, y / space, x / space, repeated / repeats)
            };
            let made = [2 * time - dropped, 3 * space, 5 * space, out_channels];
            check(device, dtype, &input, made, element, |x, out| dup_up(x, by, dropped, out).unwrap());
        }
    });
}

#[test]
fn means_of_neighbours_go_down() {
    for_each(|device, dtype| {
        for (channels, out_channels, time, space, padding) in [
            (8, 16, 2, 2, 1),
            (8, 16, 2, 2, 0),
            (16, 16, 1, 2, 0),
            (32, 32, 1, 1, 0),
            (32, 16, 1, 1, 0),
            (6, 12, 2, 2, 0),
        ] {
            let by = Resample { channels, out_channels, time, space };
            let input = Input::new([2 * time - padding, 2 * space, 3 * space], channels, dtype);
            let averaged = by.averaged().unwrap();
            let element = |t: usize, y: usize, x: usize, c: usize| {
                let neighbour = |j: usize| {
                    // [B, C, time, space, space, …] as channels.
                    let (dx, dy, dt) = (j % space, j / space % space, j / space / space % time);
                    let from = (t * time + dt).checked_sub(padding);
                    from.map_or(0.0, |t| input.at(t, y * space + dy, x * space + dx, j / space / space / time))
                };
                (c * averaged..(c + 1) * averaged).map(neighbour).sum::<f64>() / averaged as f64
            };
            let add = |x: &_, out: &_| avg_down(x, by, padding, out).unwrap();
            check(device, dtype, &input, [2, 2, 3, out_channels], element, add);
        }
    });
}

#[test]
fn what_does_not_come_out_even_is_refused() {
    for device in devices() {
        let zeros = |shape: &[usize]| tensor(device, shape, &vec![0.0; shape.iter().product()], DType::F32);
        let by = |channels, out_channels, time, space| Resample { channels, out_channels, time, space };
        let up = |by, dropped, out: &[usize]| {
            dup_up(&zeros(&[1, 2, 2, 8]), by, dropped, &zeros(out)).unwrap_err().to_string()
        };
        assert!(up(by(5, 8, 1, 2), 0, &[1, 4, 4, 8]).contains("divides"));
        assert!(up(by(8, 8, 1, 3), 0, &[1, 6, 6, 8]).contains("power of two"));
        assert!(up(by(8, 8, 1, 2), 1, &[0, 4, 4, 8]).contains("fewer than 1"));
        assert!(up(by(16, 8, 1, 2), 0, &[1, 4, 4, 8]).contains("16 of 8"));
        assert!(up(by(8, 8, 2, 2), 0, &[1, 4, 4, 8]).contains("frames 2"));
        let odd = avg_down(&zeros(&[1, 3, 2, 8]), by(8, 8, 1, 2), 0, &zeros(&[1, 1, 1, 8])).unwrap_err().to_string();
        assert!(odd.contains("multiples of the factors"), "{odd}");
    }
}

/// PyTorch's `interpolate(scale_factor=(2, 1, 1), mode="trilinear", align_corners=False)` of all frames but the first.
#[test]
fn frames_double_behind_the_first() {
    for_each(|device, dtype| {
        for (frames, scale) in [(1, 1.0), (2, 1.0), (3, 0.625), (6, 1.0)] {
            let (height, width, channels) = (2, 3, 16);
            let plane = height * width * channels;
            let values = Random::new(frames as u64).values(frames * plane, 1.0, dtype);
            let x = tensor(device, &[frames, height, width, channels], &values, dtype);
            let made = 2 * frames - 1;
            let rest = frames as f64 - 1.0;
            let exact: Vec<f64> = (0..made * plane)
                .map(|i| {
                    let (t, at) = (i / plane, i % plane);
                    let frame = |k: f64| f64::from(values[(k as usize + 1) * plane + at]);
                    let value = if t == 0 {
                        f64::from(values[at])
                    } else {
                        let place = ((t as f64 - 0.5) / 2.0 - 0.5).clamp(0.0, rest - 1.0);
                        let next = (place.floor() + 1.0).min(rest - 1.0);
                        frame(place.floor()) * (1.0 - place.fract()) + frame(next) * place.fract()
                    };
                    value * f64::from(scale)
                })
                .collect();
            let naive: Vec<f32> = exact.iter().map(|v| round(*v as f32, dtype)).collect();
            let run = || {
                let out = tensor(device, &[made, height, width, channels], &vec![9.0; made * plane], dtype);
                time_up(&x, scale, &out).unwrap();
                out
            };
            let got = run().to_f32().unwrap();
            let name = format!("{dtype} {frames} frames");
            assert_close(&name, &got, &exact, &naive, 2.0 * epsilon(dtype) + 2f64.powi(-22));
            assert_same_bits("time_up", run);
        }
    });
}

#[test]
fn axes_take_any_order_and_padding_is_zero() {
    for_each(|device, dtype| {
        let [a, b, c] = [3, 5, 7];
        let values = Random::new(1).values(a * b * c, 1.0, dtype);
        let x = tensor(device, &[a, b, c], &values, dtype);
        // [c, a, b], padded to 8.
        let out = tensor(device, &[c, a, 8], &vec![9.0; c * a * 8], dtype);
        permute(&x, [1, b * c, c], b, &out).unwrap();
        let got = out.to_f32().unwrap();
        for (i, got) in got.iter().enumerate() {
            let (k, j, i) = (i % 8, i / 8 % a, i / 8 / a);
            assert_eq!(*got, if k < b { values[(j * b + k) * c + i] } else { 0.0 });
        }
        let beyond = permute(&x, [1, b * c, c + 1], b, &out).unwrap_err().to_string();
        assert!(beyond.contains("strides"), "{beyond}");
        let wide = permute(&x, [1, b * c, c], 9, &out).unwrap_err().to_string();
        assert!(wide.contains("count"), "{wide}");
    });
}

#[test]
fn no_frames_do_not_double() {
    for device in devices() {
        let zeros = |shape: &[usize]| tensor(device, shape, &vec![0.0; shape.iter().product()], DType::F32);
        let error = |x: &[usize], scale, out: &[usize]| time_up(&zeros(x), scale, &zeros(out)).unwrap_err().to_string();
        assert!(error(&[0, 1, 1, 8], 1.0, &[1, 1, 1, 8]).contains("at least one frame"));
        assert!(error(&[2, 1, 1, 8], 1.0, &[4, 1, 1, 8]).contains("frames"));
        assert!(error(&[2, 1, 1, 8], f32::NAN, &[3, 1, 1, 8]).contains("scale"));
        assert!(error(&[1, 1, 1, 2], 1.0, &[1, 1, 1, 2]).contains("multiple of 4"));
    }
}
