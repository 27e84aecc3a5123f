//! decode.cu against f64: bytes, which may differ only where the exact value lies on the edge between two.

use super::harness::{Random, assert_same_bits, devices, poisoned, tensor};
use adacache::ops::decode::{patch_decode, pixels};
use adacache::tensor::DType;

#[test]
fn every_shape() {
    for device in devices() {
        // [batch, channels, frames, height, width], patch
        for (shape, patch) in [
            ([1, 1, 1, 1, 1], 1),
            ([2, 16, 3, 8, 8], 8),
            ([1, 5, 2, 3, 7], 3),
            ([1, 16, 1, 5, 2], 9),
            ([3, 2, 4, 1, 1], 2),
        ] {
            let [batch, channels, frames, height, width] = shape;
            let pixels = patch * patch * 3;
            let random = &mut Random::new(pixels as u64);
            let mut values = |count, scale| random.values(count, scale, DType::F32);
            let mut z = values(shape.iter().product(), 1.0);
            let (basis, mean, scale) = (values(channels * pixels, 0.4), values(pixels, 0.2), values(channels, 1.0));
            // Far out of range: clamped, not wrapped.
            z[0] = 1e20;
            let plane = frames * height * width;
            let mut exact = vec![0.0f64; batch * frames * height * patch * width * patch * 3];
            for b in 0..batch {
                for position in 0..plane {
                    let (frame, h, w) =
                        (b * frames + position / (height * width), position / width % height, position % width);
                    for j in 0..pixels {
                        let term = |c: usize| {
                            f64::from(z[(b * channels + c) * plane + position])
                                * f64::from(scale[c])
                                * f64::from(basis[c * pixels + j])
                        };
                        let value = (0..channels).map(term).sum::<f64>() + f64::from(mean[j]);
                        let (row, column) = (h * patch + j / 3 / patch, w * patch + j / 3 % patch);
                        let at = ((frame * height * patch + row) * width * patch + column) * 3 + j % 3;
                        exact[at] = ((value + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0 + 0.5;
                    }
                }
            }
            let z = tensor(device, &shape, &z, DType::F32);
            let (basis, mean) =
                (tensor(device, &[channels, pixels], &basis, DType::F32), tensor(device, &[pixels], &mean, DType::F32));
            let scale = tensor(device, &[channels], &scale, DType::F32);
            let run = || {
                let out = poisoned(device, &[batch, frames, height * patch, width * patch, 3], DType::U8);
                patch_decode(&z, &basis, &mean, &scale, &out).unwrap();
                out
            };
            for (i, (&got, &exact)) in run().to_vec::<u8>().unwrap().iter().zip(&exact).enumerate() {
                let close = [exact - 1e-3, exact + 1e-3].into_iter().any(|value| got == value as u8);
                assert!(close, "patch_decode {shape:?} [{i}]: {got}, exactly {exact}");
            }
            assert_same_bits("patch_decode", run);
        }
    }
}

#[test]
fn pixels_to_bytes() {
    for device in devices() {
        for (shape, seed) in [([1, 1, 1, 3], 1), ([2, 3, 7, 8], 2), ([1, 16, 17, 8], 3)] {
            let [frames, height, width, channels] = shape;
            let mut x = Random::new(seed).values(shape.iter().product(), 0.8, DType::F32);
            (x[0], x[1], x[2]) = (-1e20, 1e20, 1.0);
            let exact: Vec<f64> = x
                .chunks(channels)
                .flat_map(|pixel| &pixel[..3])
                .map(|v| ((f64::from(*v) + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0)
                .collect();
            let x = tensor(device, &shape, &x, DType::F32);
            let out = poisoned(device, &[frames, height, width, 3], DType::U8);
            pixels(&x, 1, &out).unwrap();
            for (i, (byte, exact)) in out.to_vec::<u8>().unwrap().into_iter().zip(exact).enumerate() {
                assert!((f64::from(byte) - exact).abs() <= 0.5001, "byte {i}: {byte}, expected {exact}");
            }
        }
    }
}

/// Squares of pixels, whose channels are (rgb, column, row).
#[test]
fn squares_of_pixels_to_bytes() {
    for device in devices() {
        for (shape, patch) in [([2, 3, 5, 16], 2), ([1, 2, 2, 32], 3)] {
            let [frames, height, width, channels] = shape;
            let x = Random::new(9).values(shape.iter().product(), 0.8, DType::F32);
            let out = poisoned(device, &[frames, height * patch, width * patch, 3], DType::U8);
            pixels(&tensor(device, &shape, &x, DType::F32), patch, &out).unwrap();
            for (i, byte) in out.to_vec::<u8>().unwrap().into_iter().enumerate() {
                let (rgb, column, line) = (i % 3, i / 3 % (width * patch), i / 3 / (width * patch));
                let position = line / patch * width + column / patch;
                let channel = (rgb * patch + column % patch) * patch + line % patch;
                let exact = (f64::from(x[position * channels + channel]) + 1.0).clamp(0.0, 2.0) * 127.5;
                assert!((f64::from(byte) - exact).abs() <= 0.5001, "byte {i}: {byte}, expected {exact}");
            }
        }
    }
}
