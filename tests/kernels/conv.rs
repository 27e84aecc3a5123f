//! conv.cu against an f64 convolution written out: pads, strides, upsampling, frames out of channels, bands, every tile.

use super::harness::{
    Random, add_cut, assert_close, assert_same_bits, devices, epsilon, for_each, poisoned, round, tensor, tf32_loss,
};
use adacache::device::{Device, Module};
use adacache::ops::Target;
use adacache::ops::conv::{Band, Conv, Geometry, Input, conv, needed_rows};
use adacache::ops::params::{self, ConvParams};
use adacache::tensor::{DType, Tensor};

#[derive(Debug, Clone, Copy)]
struct Case {
    /// Frames, height, width, channels of the input.
    input: [usize; 4],
    n: usize,
    /// Taps in time, rows, columns.
    kernel: [usize; 3],
    geometry: Geometry,
    /// Zeros behind: frames; rows and columns.
    pad_behind: (usize, usize),
    residual: bool,
    bias: bool,
    alpha: f32,
    relu: bool,
    out_f32: bool,
    /// Rows made at a time; 0: all.
    band: usize,
}

impl Case {
    /// A 3×3 convolution of images.
    fn image(input: [usize; 4], n: usize) -> Self {
        let geometry = Geometry { pad: 1, ..Geometry::default() };
        Case {
            input,
            n,
            kernel: [1, 3, 3],
            geometry,
            pad_behind: (0, 1),
            residual: false,
            bias: true,
            alpha: 1.0,
            relu: false,
            out_f32: false,
            band: 0,
        }
    }

    /// A causal 3×3×3 convolution.
    fn causal(input: [usize; 4], n: usize) -> Self {
        let geometry = Geometry { pad: 1, pad_t: 2, ..Geometry::default() };
        Case { kernel: [3, 3, 3], geometry, ..Case::image(input, n) }
    }

    /// Frames, height, width, channels of the output.
    fn output(&self) -> [usize; 4] {
        let [frames, height, width, _] = self.input;
        let Geometry { stride_t, stride, pad_t, pad, upsample, time_factor } = self.geometry;
        let side = |length: usize, taps: usize| {
            ((length << usize::from(upsample)) + pad + self.pad_behind.1 - taps) / stride + 1
        };
        let made = (frames + pad_t + self.pad_behind.0 - self.kernel[0]) / stride_t + 1;
        [made * time_factor, side(height, self.kernel[1]), side(width, self.kernel[2]), self.n / time_factor]
    }
}

struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    exact: Vec<f64>,
    naive: Vec<f32>,
    floor: f64,
}

fn data(case: &Case, dtype: DType) -> Data {
    let [frames, height, width, channels] = case.input;
    let [out_frames, out_height, out_width, out_channels] = case.output();
    let [kt, kh, kw] = case.kernel;
    let k = kt * kh * kw * channels;
    let random = &mut Random::new((k * 31 + case.n * 7 + height * 5 + width) as u64);
    let x = random.values(frames * height * width * channels, 1.0, dtype);
    let w = random.values(case.n * k, 1.0 / (k as f32).sqrt(), dtype);
    let bias = random.values(case.n, 0.5, dtype);
    let count = out_frames * out_height * out_width * out_channels;
    let residual = random.values(count, 1.0, dtype);
    let g = case.geometry;
    let shift = usize::from(g.upsample);
    // The input's index of a tap, if it is inside.
    let inside = |at: usize, stride: usize, tap: usize, pad: usize, length: usize, shift: usize| {
        (at * stride + tap).checked_sub(pad).map(|i| i >> shift).filter(|i| *i < length)
    };
    let (mut exact, mut naive, mut magnitude) = (vec![0.0; count], vec![0.0f32; count], 0.0f64);
    for (i, (exact, naive)) in exact.iter_mut().zip(&mut naive).enumerate() {
        let c = i % out_channels;
        let (ox, oy) = (i / out_channels % out_width, i / out_channels / out_width % out_height);
        let frame = i / out_channels / out_width / out_height;
        let (t, n) = (frame / g.time_factor, frame % g.time_factor * out_channels + c);
        let (mut sum, mut low, mut size) = (0.0f64, 0.0f32, 0.0f64);
        for a in 0..kt {
            let Some(it) = inside(t, g.stride_t, a, g.pad_t, frames, 0) else { continue };
            for b in 0..kh {
                let Some(iy) = inside(oy, g.stride, b, g.pad, height, shift) else { continue };
                for d in 0..kw {
                    let Some(ix) = inside(ox, g.stride, d, g.pad, width, shift) else { continue };
                    let pixel = &x[((it * height + iy) * width + ix) * channels..][..channels];
                    let weights = &w[(((n * kt + a) * kh + b) * kw + d) * channels..][..channels];
                    for (&x, &w) in pixel.iter().zip(weights) {
                        sum += f64::from(x) * f64::from(w);
                        size += (f64::from(x) * f64::from(w)).abs();
                        low = add_cut(low, f64::from(x) * f64::from(w));
                    }
                }
            }
        }
        magnitude = magnitude.max(size);
        let bias = if case.bias { bias[n] } else { 0.0 };
        *exact = sum * f64::from(case.alpha) + f64::from(bias);
        let stored = if case.out_f32 { DType::F32 } else { dtype };
        *naive = round(low * case.alpha + bias, stored);
        if case.residual {
            *exact += f64::from(residual[i]);
            *naive = round(*naive + residual[i], stored);
        }
        if case.relu {
            (*exact, *naive) = (exact.max(0.0), naive.max(0.0));
        }
    }
    let lost = if dtype == DType::F32 { tf32_loss(magnitude) } else { 0.0 };
    // A result of 16 bits has a rounding of its own.
    let floor = lost + if case.out_f32 { 0.0 } else { epsilon(dtype) };
    Data { x, w, bias, residual, exact, naive, floor }
}

/// The case on a device; bands are made one by one, each from just the rows it needs.
fn run(device: &Device, dtype: DType, case: &Case, data: &Data) -> Tensor {
    let [frames, height, width, channels] = case.input;
    let output = case.output();
    let w_shape = [case.n, case.kernel[0], case.kernel[1], case.kernel[2], channels];
    let w = tensor(device, &w_shape, &data.w, dtype);
    let bias = case.bias.then(|| tensor(device, &[case.n], &data.bias, dtype));
    let out = poisoned(device, &output, if case.out_f32 { DType::F32 } else { dtype });
    if case.residual {
        out.write_f32(&data.residual).unwrap(); // in place
    }
    let step = if case.band == 0 { output[1] } else { case.band };
    for first in (0..output[1]).step_by(step) {
        let band = Band { first, rows: step.min(output[1] - first) };
        let rows = if case.band == 0 {
            Band { first: 0, rows: height }
        } else {
            needed_rows(&case.geometry, case.kernel[1], height, band)
        };
        let row = width * channels;
        let held: Vec<f32> =
            (0..frames).flat_map(|t| &data.x[(t * height + rows.first) * row..][..rows.rows * row]).copied().collect();
        let x = tensor(device, &[frames, rows.rows, width, channels], &held, dtype);
        let input = Input { x: &x, before: None, height, first: rows.first };
        let residual = case.residual.then_some(&out);
        let &Case { alpha, geometry, relu, .. } = case;
        conv(&Conv { input, w: &w, bias: bias.as_ref(), alpha, geometry, residual, relu, band }, &out).unwrap();
    }
    out
}

fn check(device: &Device, dtype: DType, case: Case) {
    let data = data(&case, dtype);
    let out = run(device, dtype, &case, &data).to_f32().unwrap();
    assert_close(&format!("{dtype} {case:?}"), &out, &data.exact, &data.naive, data.floor);
}

#[test]
fn images_of_every_size() {
    for_each(|device, dtype| {
        // One pixel; a tile of positions and one more; odd sides; channels below, at and above a stage of k; every tile.
        for (input, n) in [
            ([1, 1, 1, 8], 8),
            ([2, 7, 9, 24], 40),
            ([1, 8, 16, 32], 128),
            ([1, 3, 43, 40], 136),
            ([1, 9, 15, 24], 96),
            ([1, 2, 3, 8], 160),
            ([3, 5, 5, 8], 16),
            ([1, 11, 13, 64], 24),
        ] {
            check(device, dtype, Case::image(input, n));
        }
    });
}

#[test]
fn causal_in_time() {
    for_each(|device, dtype| {
        check(device, dtype, Case::causal([1, 3, 3, 8], 8));
        check(device, dtype, Case::causal([5, 4, 6, 16], 48));
        // Every second frame, one frame of zeros ahead; the first frame's taps are one half pad.
        let strided = Geometry { stride_t: 2, pad_t: 1, pad: 1, ..Geometry::default() };
        check(device, dtype, Case { geometry: strided, ..Case::causal([6, 3, 5, 8], 40) });
        // Channels to frames.
        let doubled = Geometry { time_factor: 2, pad_t: 2, pad: 1, ..Geometry::default() };
        check(device, dtype, Case { geometry: doubled, ..Case::causal([3, 3, 5, 16], 48) });
        check(device, dtype, Case { geometry: doubled, ..Case::causal([2, 2, 3, 8], 16) });
    });
}

#[test]
fn up_and_down() {
    for_each(|device, dtype| {
        let up = Geometry { upsample: true, pad: 1, ..Geometry::default() };
        check(device, dtype, Case { geometry: up, ..Case::image([2, 3, 5, 16], 40) });
        // The pad is behind only, as diffusers' downsampling has it; odd and even sides.
        let down = Geometry { stride: 2, ..Geometry::default() };
        for side in [6, 7] {
            check(device, dtype, Case { geometry: down, ..Case::image([2, side, side + 1, 16], 40) });
        }
    });
}

#[test]
fn products_and_epilogues() {
    for_each(|device, dtype| {
        let product = Case {
            kernel: [1, 1, 1],
            geometry: Geometry::default(),
            pad_behind: (0, 0),
            ..Case::image([1, 1, 131, 72], 144)
        };
        check(device, dtype, product);
        check(device, dtype, Case { bias: false, out_f32: true, ..product });
        check(device, dtype, Case { residual: true, alpha: 0.18215, ..product });
        check(device, dtype, Case { residual: true, bias: false, ..Case::image([2, 4, 5, 16], 16) });
        check(device, dtype, Case { out_f32: true, alpha: -3.0, ..Case::image([2, 4, 5, 16], 8) });
        check(device, dtype, Case { relu: true, ..product });
        check(device, dtype, Case { relu: true, residual: true, ..Case::causal([2, 4, 5, 16], 16) });
    });
}

/// Suffix, positions, channels and threads of a tile.
type Tile = (&'static str, usize, usize, usize);

/// Dynamic shared memory, as `kernels/launch_tiles.h` and conv.cu have it.
fn shared_of(case: &Case, (suffix, tile_m, tile_n, _): Tile) -> usize {
    if suffix.starts_with("row") {
        // Stages of w; for every 32 channels, at least four times, the pixels of the tile, two more, and zeros.
        4 * tile_n * 64 + (case.input[3] / 32).max(4) * (tile_m + 4) * 64
    } else {
        4 * (tile_m + tile_n) * 64
    }
}

fn too_much_shared(device: &Device, case: &Case, tile: Tile) -> Option<String> {
    let (shared, most) = (shared_of(case, tile), Target::of(device).block_shared);
    (shared > most).then(|| format!("{shared} bytes of shared memory, where a block can have {most}"))
}

/// The case by one tile's kernel.
fn launch_tile(device: &Device, dtype: DType, case: &Case, data: &Data, tile: Tile) -> Tensor {
    let (suffix, tile_m, tile_n, threads) = tile;
    let ([frames, height, width, channels], output) = (case.input, case.output());
    let ([kernel_t, kernel_h, kernel_w], g) = (case.kernel, case.geometry);
    let x = tensor(device, &case.input, &data.x, dtype);
    let w = tensor(device, &[case.n, kernel_t, kernel_h, kernel_w, channels], &data.w, dtype);
    let bias = tensor(device, &[case.n], &data.bias, dtype);
    let out = poisoned(device, &output, dtype);
    if case.residual {
        out.write_f32(&data.residual).unwrap();
    }
    let params = ConvParams {
        x: x.ptr(),
        w: w.ptr(),
        bias: bias.ptr(),
        residual: if case.residual { out.ptr() } else { 0 },
        out: out.ptr(),
        frames: frames as i32,
        height: height as i32,
        width: width as i32,
        channels: channels as i32,
        in_rows: height as i32,
        out_frames: output[0] as i32,
        out_height: output[1] as i32,
        out_width: output[2] as i32,
        n: case.n as i32,
        out_rows: output[1] as i32,
        kernel_t: kernel_t as i32,
        kernel_h: kernel_h as i32,
        kernel_w: kernel_w as i32,
        stride_t: 1,
        stride: 1,
        pad_t: g.pad_t as i32,
        pad: g.pad as i32,
        upsample: g.upsample.into(),
        time_factor: 1,
        alpha: 1.0,
        relu: case.relu.into(),
        ..Default::default()
    };
    let kernel = device.kernel(Module::Conv, &format!("conv_{dtype}_{suffix}")).unwrap();
    let blocks = (output[0] * output[1] * output[2]).div_ceil(tile_m) * case.n.div_ceil(tile_n);
    let shared = shared_of(case, tile) as u32;
    device.launch(&kernel, [blocks as u32, 1, 1], [threads as u32, 1, 1], shared, &params).unwrap();
    out
}

/// Every tile, by itself: one whole and a part of one in both directions, and the same bits as any other.
#[test]
fn every_tile_gives_the_same_bits() {
    let tiles = [
        ("192", 128, 192, params::CONV_192_THREADS),
        ("tall", 256, 96, params::CONV_TALL_THREADS),
        ("128", 128, 128, params::CONV_128_THREADS),
        ("96", 128, 96, params::CONV_96_THREADS),
        ("16", 128, 16, params::CONV_16_THREADS),
    ];
    let case = Case { residual: true, ..Case::causal([2, 9, 17, 24], 200) };
    for_each(|device, dtype| {
        let data = data(&case, dtype);
        let whole = run(device, dtype, &case, &data);
        assert_close("tiles", &whole.to_f32().unwrap(), &data.exact, &data.naive, data.floor);
        let has = |suffix: &str| dtype == DType::F32 || suffix != "96";
        let wide = |suffix: &str| dtype != DType::F32 || !["192", "tall"].contains(&suffix);
        for tile in tiles.into_iter().filter(|tile| has(tile.0) && wide(tile.0)) {
            let out = launch_tile(device, dtype, &case, &data, tile);
            assert!(out.to_bytes().unwrap() == whole.to_bytes().unwrap(), "{dtype}: tile {}", tile.0);
        }
    });
}

/// Tiles whose three taps of a row share the pixels, by themselves: the bits of a tile that copies them for each tap. Inputs of one to five
/// blocks of 32 channels, fewer, as many and more than the ring has at least; rows of one column, of fewer and more than a tile has positions;
/// whole and broken tiles of both sides; doubled rows; one row of taps and three frames of them.
#[test]
fn taps_of_a_row_share_its_pixels() {
    let up = Geometry { upsample: true, pad: 1, ..Geometry::default() };
    let cases = [
        Case { residual: true, ..Case::causal([2, 9, 17, 96], 200) },
        Case::causal([3, 5, 1, 32], 136),
        Case::causal([2, 3, 2, 64], 104),
        Case::image([1, 2, 300, 128], 40),
        Case { relu: true, ..Case::image([3, 11, 13, 160], 192) },
        Case { geometry: up, ..Case::image([2, 7, 10, 96], 96) },
    ];
    for device in devices() {
        for dtype in [DType::Bf16, DType::F16] {
            for case in cases {
                let data = data(&case, dtype);
                let alone = launch_tile(device, dtype, &case, &data, ("128", 128, 128, params::CONV_128_THREADS));
                assert_close(
                    &format!("{dtype} {case:?}"),
                    &alone.to_f32().unwrap(),
                    &data.exact,
                    &data.naive,
                    data.floor,
                );
                for (suffix, tile_m, tile_n) in [("row192", 128, 192), ("row96", 256, 96), ("row128", 256, 128)] {
                    let tile = (suffix, tile_m, tile_n, params::CONV_ROW_THREADS);
                    if let Some(most) = too_much_shared(device, &case, tile) {
                        println!("skipped on {}: {suffix} with {case:?}: {most}", device.info().label());
                        continue;
                    }
                    let out = launch_tile(device, dtype, &case, &data, tile);
                    assert!(out.to_bytes().unwrap() == alone.to_bytes().unwrap(), "{dtype} {case:?}: tile {suffix}");
                }
            }
        }
    }
}

/// The launcher takes them, and bands and chunks have the bits of the whole.
#[test]
fn launches_share_rows() {
    let case = Case { residual: true, ..Case::causal([3, 7, 9, 64], 96) };
    for device in devices() {
        let data = data(&case, DType::Bf16);
        let whole = run(device, DType::Bf16, &case, &data);
        assert_close("rows", &whole.to_f32().unwrap(), &data.exact, &data.naive, data.floor);
        let banded = run(device, DType::Bf16, &Case { band: 3, ..case }, &data);
        assert!(banded.to_bytes().unwrap() == whole.to_bytes().unwrap());
    }
}

/// Bands see the very numbers that the whole does: the same bits.
#[test]
fn bands_give_the_same_bits() {
    let up = Geometry { upsample: true, pad: 1, ..Geometry::default() };
    let down = Geometry { stride: 2, ..Geometry::default() };
    let cases = [
        Case::causal([3, 7, 5, 16], 40),
        Case { geometry: up, ..Case::image([2, 5, 3, 16], 24) },
        Case { geometry: down, ..Case::image([2, 9, 8, 16], 40) },
        Case { residual: true, ..Case::image([2, 7, 4, 8], 8) },
    ];
    for_each(|device, dtype| {
        for case in cases {
            let data = data(&case, dtype);
            let whole = run(device, dtype, &case, &data).to_bytes().unwrap();
            for band in [1, 3, 4] {
                let banded = run(device, dtype, &Case { band, ..case }, &data).to_bytes().unwrap();
                assert!(banded == whole, "{dtype} {case:?} in bands of {band}");
            }
        }
    });
}

/// A video chunk by chunk, the last frames of one before the next, gives the bits of the whole.
#[test]
fn frames_before_are_as_in_one_piece() {
    let strided = Geometry { stride_t: 2, pad_t: 1, ..Geometry::default() };
    let in_time = Case { kernel: [3, 1, 1], pad_behind: (0, 0), ..Case::causal([7, 3, 5, 8], 48) };
    // Each with the frames that the first chunk has, and how many are seen again.
    let cases = [
        (Case::causal([5, 4, 6, 16], 40), 1, 1),
        (Case::causal([5, 4, 6, 16], 8), 3, 2),
        (Case { geometry: Geometry { time_factor: 2, pad_t: 2, ..Geometry::default() }, ..in_time }, 4, 2),
        (Case { geometry: strided, ..Case { input: [6, 3, 5, 8], ..in_time } }, 2, 1),
    ];
    for_each(|device, dtype| {
        for (case, start, seen) in cases {
            let (data, geometry) = (data(&case, dtype), case.geometry);
            let whole = run(device, dtype, &case, &data).to_bytes().unwrap();
            let [frames, height, width, channels] = case.input;
            let w = tensor(device, &[case.n, case.kernel[0], case.kernel[1], case.kernel[2], channels], &data.w, dtype);
            let bias = tensor(device, &[case.n], &data.bias, dtype);
            let x = tensor(device, &case.input, &data.x, dtype);
            let out = poisoned(device, &case.output(), dtype);
            let made = |frames: usize| frames / case.geometry.stride_t * case.geometry.time_factor;
            for (first, count, seen) in [(0, start, 0), (start, frames - start, seen)] {
                let (part, before) = (x.slice_rows(first, count).unwrap(), x.slice_rows(first - seen, seen).unwrap());
                let to = out.slice_rows(made(first), made(count)).unwrap();
                let band = Band { first: 0, rows: case.output()[1] };
                let input = Input { before: (seen > 0).then_some(&before), x: &part, height, first: 0 };
                conv(
                    &Conv { input, w: &w, bias: Some(&bias), alpha: 1.0, geometry, residual: None, relu: false, band },
                    &to,
                )
                .unwrap();
            }
            assert!(out.to_bytes().unwrap() == whole, "{dtype} {case:?} from {start} on");
            let wrong =
                tensor(device, &[1, height, width + 1, channels], &vec![0.0; height * (width + 1) * channels], dtype);
            let input = Input::whole(&x).after(Some(&wrong));
            let band = Band { first: 0, rows: case.output()[1] };
            let call =
                Conv { input, w: &w, bias: Some(&bias), alpha: 1.0, geometry, residual: None, relu: false, band };
            let error = conv(&call, &out).unwrap_err().to_string();
            assert!(error.contains("before has shape"), "{error}");
        }
    });
}

#[test]
fn runs_give_the_same_bits() {
    for device in devices() {
        let case = Case::causal([3, 9, 7, 24], 136);
        let data = data(&case, DType::Bf16);
        assert_same_bits("conv", || run(device, DType::Bf16, &case, &data));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let zeros = |shape: &[usize], dtype| Tensor::zeros(device, shape, dtype).unwrap();
        let (x, w) = (zeros(&[1, 4, 4, 8], DType::F32), zeros(&[8, 1, 3, 3, 8], DType::F32));
        let out = zeros(&[1, 4, 4, 8], DType::F32);
        let geometry = Geometry { pad: 1, ..Geometry::default() };
        let whole = Band { first: 0, rows: 4 };
        let call = |input: &Input<'_>, w: &Tensor, band, out: &Tensor| {
            let call = Conv { input: *input, w, bias: None, alpha: 1.0, geometry, residual: None, relu: false, band };
            conv(&call, out).map_err(|e| e.to_string())
        };
        call(&Input::whole(&x), &w, whole, &out).unwrap();
        let error = call(&Input { x: &x, before: None, height: 8, first: 2 }, &w, whole, &out).unwrap_err();
        assert!(error.contains("rows 0..5 for this band"), "{error}");
        let error = call(&Input::whole(&x), &w, Band { first: 3, rows: 2 }, &out).unwrap_err();
        assert!(error.contains("within 4 rows"), "{error}");
        assert!(call(&Input::whole(&x), &w, whole, &x).unwrap_err().contains("overlaps"));
        assert!(call(&Input::whole(&x), &zeros(&[8, 1, 3, 3, 16], DType::F32), whole, &out).is_err());
        assert!(call(&Input::whole(&x), &zeros(&[8, 1, 3, 3, 8], DType::Bf16), whole, &out).is_err());
        let narrow = (zeros(&[1, 4, 4, 12], DType::F32), zeros(&[8, 1, 3, 3, 12], DType::F32));
        let error = call(&Input::whole(&narrow.0), &narrow.1, whole, &out).unwrap_err();
        assert!(error.contains("multiples of 8"), "{error}");
    }
}
