//! sm_90a/quantise.cu against the definition of e4m3, and the launchers of products of such rows. (The product itself: `linear::hopper_in_fp8`.)

use super::common;
use super::harness::{assert_same_bits, hopper_devices, placed, poisoned, poisoned_at, tensor};
use super::numbers::{Random, e4m3, epsilon, round};
use adacache::device::{Device, VmConfig};
use adacache::ops::fp8::{Norm, Rows, linear, linear_residual, quantise, quantise_normed, runs_on, serves};
use adacache::ops::linear::Activation;
use adacache::ops::pack::PackError;
use adacache::ops::{Modulation, RowMap, norm};
use adacache::tensor::{DType, Tensor};

const HALF: [DType; 2] = [DType::Bf16, DType::F16];

/// Codes, scales and the error of rows of `k`.
struct Made {
    codes: Tensor,
    scales: Tensor,
    error: f64,
}

impl Made {
    fn of(x: &Tensor, k: usize) -> Made {
        let (device, rows) = (x.device(), x.elements() / k);
        let (codes, scales) = (poisoned(device, &[rows, k], DType::U8), poisoned(device, &[rows], DType::F32));
        let error = PackError::new(device).unwrap();
        quantise(x, Rows { codes: &codes, scales: &scales }, &error).unwrap();
        Made { codes, scales, error: error.relative().unwrap() }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { codes: &self.codes, scales: &self.scales }
    }

    /// The f32 numbers that a row's codes stand for.
    fn values(&self) -> Vec<f64> {
        let (codes, scales) = (self.codes.to_bytes().unwrap(), self.scales.to_f32().unwrap());
        let k = codes.len() / scales.len();
        let value = |(i, code): (usize, &u8)| e4m3::value(*code).map_or(f64::NAN, |v| v * f64::from(scales[i / k]));
        codes.iter().enumerate().map(value).collect()
    }
}

/// Every number, every tie and its neighbours, in rows whose largest number is 448: their scale is 1.
#[test]
fn numbers_and_ties_round_to_even() {
    let numbers: Vec<f64> = (0..=255).filter_map(e4m3::value).collect();
    let mut sorted = numbers.clone();
    sorted.sort_by(f64::total_cmp);
    let ties = sorted.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    let mut all: Vec<f32> = numbers.iter().copied().chain(ties).map(|v| v as f32).collect();
    for tie in all.clone().split_off(numbers.len()) {
        all.extend([tie * 1.01, tie * 0.99]);
    }
    let k = 48;
    for device in hopper_devices() {
        for dtype in HALF {
            let rows = all.chunks(k - 1).flat_map(|row| {
                let mut row: Vec<f32> = row.iter().map(|x| round(*x, dtype)).collect();
                row.resize(k - 1, 0.0);
                row.push(448.0);
                row
            });
            let x: Vec<f32> = rows.collect();
            let made = Made::of(&tensor(device, &[x.len() / k, k], &x, dtype), k);
            assert!(made.scales.to_f32().unwrap().iter().all(|scale| *scale == 1.0));
            for (x, code) in x.iter().zip(made.codes.to_bytes().unwrap()) {
                assert_eq!(code, e4m3::nearest(f64::from(*x)), "{x:e}");
            }
        }
    }
}

#[test]
fn rows_of_any_size_have_their_own_scales() {
    for device in hopper_devices() {
        for dtype in HALF {
            // One row, more rows than warps of the grid, rows of one chunk, of more than a warp takes at once, and of an odd number of chunks.
            for [rows, k] in [[1, 16], [3, 4608], [9001, 16], [70, 400], [8, 256]] {
                let random = &mut Random::new((rows * k) as u64);
                let scale = |row: usize| [1.0, 1e-4, 300.0, 0.0][row % 4];
                let x: Vec<f32> = (0..rows * k).map(|i| round(random.normal() * scale(i / k), dtype)).collect();
                // Behind 16 bytes that are another's.
                let x_on = placed(device, &[rows, k], &x, dtype, 8);
                let made = Made::of(&x_on, k);
                let (values, scales) = (made.values(), made.scales.to_f32().unwrap());
                let (mut lost, mut sum) = (0.0, 0.0);
                for (r, row) in x.chunks(k).enumerate() {
                    let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    let expected = if largest == 0.0 { 1.0 } else { largest / 448.0 };
                    assert_eq!(scales[r], expected, "row {r} of [{rows}, {k}]");
                    for (x, value) in row.iter().zip(&values[r * k..]) {
                        // Half a unit in the last of three bits, or of the smallest number; and the rounding of the quotient.
                        let unit = (f64::from(*x).abs() / 16.0).max(f64::from(expected) * 2f64.powi(-10));
                        let off = (f64::from(*x) - value).abs();
                        assert!(off <= unit * (1.0 + 1e-5), "{x} became {value}");
                        (lost, sum) = (lost + off, sum + f64::from(x.abs()));
                    }
                }
                let error = if sum > 0.0 { lost / sum } else { 0.0 };
                assert!((made.error - error).abs() <= 1e-4 * error, "{} is reported, {error} it is", made.error);
                assert_same_bits("codes", || Made::of(&x_on, k).codes);
            }
        }
    }
}

/// With LayerNorm and adaLN before it: the bits of the two kernels one after the other, rows of still frames by the other variant.
#[test]
fn normed_rows_are_those_of_both_kernels() {
    for device in hopper_devices() {
        for dtype in HALF {
            for (batch, frames, tokens, k, masked) in
                [(2, 3, 7, 48, true), (1, 1, 9, 1152, false), (2, 2, 33, 400, true)]
            {
                let rows = batch * frames * tokens;
                let random = &mut Random::new((rows * k) as u64);
                let x = tensor(device, &[rows, k], &random.values(rows * k, 2.0, dtype), dtype);
                let values = random.values(batch * 2 * 6 * k, 0.5, DType::F32);
                let table = tensor(device, &[batch, 2, 6, k], &values, DType::F32);
                let mask: Vec<u8> = (0..batch * frames).map(|i| u8::from(i % 3 != 1)).collect();
                let mask = Tensor::from_slice(device, &[batch, frames], &mask).unwrap();
                let map = RowMap { frames, rows_per_frame: tokens };
                let modulation = Modulation { table: &table, frame_mask: masked.then_some(&mask), rows: map };
                let apart = poisoned(device, &[rows, k], dtype);
                for (variant, only_masked_out) in [(0, false), (1, true)].into_iter().take(1 + usize::from(masked)) {
                    let (shift, scale, eps) = (3, 1, 1e-6);
                    norm::modulate(
                        &x,
                        &norm::Modulate { modulation, shift, scale, variant, only_masked_out, eps },
                        &apart,
                    )
                    .unwrap();
                }
                let expected = Made::of(&apart, k);
                let (codes, scales) = (poisoned(device, &[rows, k], DType::U8), poisoned(device, &[rows], DType::F32));
                let error = PackError::new(device).unwrap();
                let norm = Norm { modulation, shift: 3, scale: 1, eps: 1e-6 };
                quantise_normed(&x, &norm, Rows { codes: &codes, scales: &scales }, &error).unwrap();
                assert_eq!(codes.to_bytes().unwrap(), expected.codes.to_bytes().unwrap(), "[{rows}, {k}]");
                assert_eq!(scales.to_f32().unwrap(), expected.scales.to_f32().unwrap(), "[{rows}, {k}]");
                assert!(expected.error > 0.0 && error.relative().unwrap() == expected.error);
            }
        }
    }
}

/// What is not finite is never made a number: the row's scale, its products and the error are NaN. Other rows are as they were.
#[test]
fn rows_that_are_not_finite_say_so() {
    let (rows, k, n) = (5, 64, 32);
    for device in hopper_devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let random = &mut Random::new(3);
            let mut x = random.values(rows * k, 1.0, DType::Bf16);
            x[2 * k + 37] = bad;
            let w = tensor(device, &[n, k], &random.values(n * k, 1.0, DType::Bf16), DType::Bf16);
            let (made, w) = (Made::of(&tensor(device, &[rows, k], &x, DType::Bf16), k), Made::of(&w, k));
            assert!(made.error.is_nan() && w.error > 0.0);
            let out = poisoned(device, &[rows, n], DType::Bf16);
            linear(made.rows(), w.rows(), None, Activation::GeluTanh, &out).unwrap();
            for (r, row) in out.to_f32().unwrap().chunks(n).enumerate() {
                assert!(row.iter().all(|x| x.is_nan() == (r == 2)), "{bad}: row {r} is {row:?}");
            }
        }
    }
}

/// Numbers beyond 448 scales cannot be, as scales come from the largest; the smallest rows are zeros.
#[test]
fn the_largest_and_the_smallest_rows() {
    let k = 16;
    for device in hopper_devices() {
        let largest = f32::from_bits(0x7f7f_0000); // of bf16
        let x: Vec<f32> =
            [largest, 1e-28, 1e-30, 0.0].iter().flat_map(|x| [*x; 8].into_iter().chain([-*x; 8])).collect();
        let made = Made::of(&tensor(device, &[4, k], &x, DType::Bf16), k);
        let codes = made.codes.to_bytes().unwrap();
        assert_eq!(made.scales.to_f32().unwrap()[2..], [1.0, 1.0]);
        for (row, code) in codes.chunks(k).zip([0x7e, 0x7e, 0, 0]) {
            assert_eq!(row[..8], [code; 8]);
            assert_eq!(row[8..], [code | 0x80; 8]);
        }
        assert!(made.error < 1e-6, "{}", made.error);
    }
}

/// The typed launchers: a product of quantised operands is near that of the operands, and what a kernel does not serve is refused.
#[test]
fn launchers_multiply_and_refuse() {
    let ([m, n, k], dtype) = ([300, 224, 400], DType::Bf16);
    for device in hopper_devices() {
        assert!(runs_on(device, dtype) && !runs_on(device, DType::F32));
        let random = &mut Random::new(11);
        let [x, w, bias] = [m * k, n * k, n].map(|count| random.values(count, 1.0, dtype));
        let (on, bias_on) =
            (|shape: [usize; 2], v: &[f32]| tensor(device, &shape, v, dtype), tensor(device, &[n], &bias, dtype));
        let (a, w8) = (Made::of(&on([m, k], &x), k), Made::of(&on([n, k], &w), k));
        let out = poisoned(device, &[m, n], dtype);
        linear(a.rows(), w8.rows(), Some(&bias_on), Activation::None, &out).unwrap();
        let (a_values, w_values, got) = (a.values(), w8.values(), out.to_f32().unwrap());
        let (mut off, mut all) = (0.0, 0.0);
        for at in (0..m * n).step_by(61) {
            let (r, c) = (at / n, at % n);
            let dot = |a: &dyn Fn(usize) -> f64, w: &dyn Fn(usize) -> f64| (0..k).map(|i| a(i) * w(i)).sum::<f64>();
            let exact = dot(&|i| a_values[r * k + i], &|i| w_values[c * k + i]) + f64::from(bias[c]);
            assert!((f64::from(got[at]) - exact).abs() <= epsilon(dtype) * exact.abs() + 0.02, "{} {exact}", got[at]);
            let whole = dot(&|i| f64::from(x[r * k + i]), &|i| f64::from(w[c * k + i])) + f64::from(bias[c]);
            (off, all) = (off + (f64::from(got[at]) - whole).powi(2), all + whole.powi(2));
        }
        // Each operand is rounded to 3 bits of fraction: 2.6 % each of a normal number.
        let relative = f64::sqrt(off / all);
        println!("e4m3: products differ by {relative:.4}");
        assert!((0.02..0.05).contains(&relative), "{relative}");
        let summed = tensor(device, &[m, n], &vec![1.0; m * n], dtype);
        linear_residual(a.rows(), w8.rows(), Some(&bias_on), None, &summed, None).unwrap();
        let summed = summed.to_f32().unwrap();
        assert!(summed.iter().zip(&got).all(|(s, g)| (s - g - 1.0).abs() <= 0.02 * (1.0 + g.abs())));

        let refused = |result: Result<(), adacache::ops::OpError>, part: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        };
        let plain = |out: &Tensor| linear(a.rows(), w8.rows(), Some(&bias_on), Activation::None, out);
        refused(plain(&poisoned(device, &[m, n], DType::F32)), "bf16 or f16");
        refused(plain(&poisoned(device, &[m, n + 1], dtype)), "shape");
        refused(plain(&poisoned_at(device, &[m, n], dtype, 1)), "aligned to 16");
        let odd = Rows { codes: &w8.codes.slice_rows(0, 200).unwrap(), scales: &w8.scales.slice_rows(0, 200).unwrap() };
        refused(linear(a.rows(), odd, None, Activation::None, &poisoned(device, &[m, 200], dtype)), "multiple of 32");
        let error = PackError::new(device).unwrap();
        let at_one = placed(device, &[m, k], &x, dtype, 1);
        refused(quantise(&at_one, a.rows(), &error), "multiple of 16");
        refused(quantise(&tensor(device, &[m, k], &x, DType::F32), a.rows(), &error), "bf16 or f16");
        assert_eq!(error.relative().unwrap(), 0.0, "nothing was packed");
        // No row: nothing to do.
        let none = poisoned(device, &[0, n], dtype);
        let (codes, scales) = (poisoned(device, &[0, k], DType::U8), poisoned(device, &[0], DType::F32));
        let nothing = Rows { codes: &codes, scales: &scales };
        quantise(&poisoned(device, &[0, k], dtype), nothing, &error).unwrap();
        linear(nothing, w8.rows(), None, Activation::None, &none).unwrap();
    }
}

#[test]
fn other_devices_are_told_which_ones_have_it() {
    for (shape, serves_it) in
        [([32, 16], true), ([64, 24], false), ([48, 16], false), ([0, 16], false), ([32, 0], false)]
    {
        assert_eq!(serves(shape), serves_it, "{shape:?}");
    }
    let config = VmConfig { threads: 1, ..VmConfig::default() };
    if common::vm("what an Ampere answers", config.clone()).is_none() {
        return;
    }
    let device = Device::vm_as((8, 0), config);
    assert!(!runs_on(&device, DType::Bf16));
    let (codes, scales) = (poisoned(&device, &[32, 32], DType::U8), poisoned(&device, &[32], DType::F32));
    let rows = Rows { codes: &codes, scales: &scales };
    let error = linear(rows, rows, None, Activation::None, &poisoned(&device, &[32, 32], DType::Bf16)).unwrap_err();
    assert!(error.to_string().contains("compute capability 9.0"), "{error}");
}
