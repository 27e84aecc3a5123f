//! `wgmma` in kernels, against products read through the manual's layouts.
//!
//! Operands are small integers, exact in every format, so that results must be equal whatever the order of summation.

mod checked;
mod compiled;
mod counted;
mod late;
mod product;
mod refused;

use product::{Format, PLAIN, Place, Product};
use ptx_vm::{MmaRounding, VmConfig};

const FLOATS: [(Format, Format, bool); 11] = [
    (Format::F16, Format::F16, false),
    (Format::F16, Format::F16, true),
    (Format::Bf16, Format::Bf16, false),
    (Format::Tf32, Format::Tf32, false),
    (Format::E4m3, Format::E4m3, false),
    (Format::E4m3, Format::E5m2, false),
    (Format::E5m2, Format::E4m3, false),
    (Format::E5m2, Format::E5m2, false),
    (Format::E4m3, Format::E4m3, true),
    (Format::E4m3, Format::E5m2, true),
    (Format::E5m2, Format::E5m2, true),
];

const INTEGERS: [(Format, Format); 4] =
    [(Format::S8, Format::S8), (Format::S8, Format::U8), (Format::U8, Format::S8), (Format::U8, Format::U8)];

fn plain() -> VmConfig {
    VmConfig { threads: 1, ..VmConfig::default() }
}

#[test]
fn every_format_with_few_and_many_columns() {
    for (i, (a, b, half)) in FLOATS.into_iter().enumerate() {
        for n in [8, 24, 64, 200, 256] {
            for (negate, keep) in [([false, false], true), ([true, false], false), ([i % 2 == 0, true], true)] {
                let place_a = (n % 16 == 0).then_some(PLAIN);
                Product { half, keep, negate, place_a, seed: n as u64, ..Product::new(a, b, n) }.check(plain());
            }
        }
    }
    for (a, b) in INTEGERS {
        for n in [8, 24, 96, 256] {
            for (satfinite, keep) in [(false, true), (true, true), (true, false)] {
                let place_a = (n != 96).then_some(PLAIN);
                Product { satfinite, keep, place_a, seed: n as u64, ..Product::new(a, b, n) }.check(plain());
            }
        }
    }
}

#[test]
fn every_number_of_columns() {
    for n in (8..=256).step_by(8) {
        Product::new(Format::Bf16, Format::Bf16, n).check(plain());
    }
}

#[test]
fn every_swizzle_by_rows_of_k() {
    for format in [Format::F16, Format::Tf32, Format::E5m2, Format::U8] {
        for swizzle in [16, 32, 64, 128] {
            for step in 0..(swizzle / 32).max(1) {
                let place = Place { swizzle, step, ..PLAIN };
                let other = Place { swizzle: 128, step: 1, ..PLAIN };
                Product { place_a: Some(place), place_b: other, ..Product::new(format, format, 32) }.check(plain());
                Product { place_a: Some(other), place_b: place, ..Product::new(format, format, 48) }.check(plain());
            }
        }
    }
}

#[test]
fn every_swizzle_by_columns_of_k() {
    for format in [Format::F16, Format::Bf16] {
        for swizzle in [16, 32, 64, 128] {
            for step in 0..if swizzle == 16 { 1 } else { 2 } {
                let place = Place { swizzle, step, mn_major: true, ..PLAIN };
                Product { place_a: Some(place), ..Product::new(format, format, 16) }.check(plain());
                for n in [8, 72, 128] {
                    Product { place_b: place, ..Product::new(format, format, n) }.check(plain());
                    Product { place_a: None, place_b: place, ..Product::new(format, format, n) }.check(plain());
                }
                Product {
                    place_a: Some(place),
                    place_b: place,
                    half: format == Format::F16,
                    ..Product::new(format, format, 64)
                }
                .check(plain());
            }
        }
    }
}

#[test]
fn patterns_begin_where_the_base_offset_says() {
    for base in 1..8 {
        let place = Place { swizzle: 128, base, ..PLAIN };
        Product { place_a: Some(place), place_b: place, ..Product::new(Format::Bf16, Format::Bf16, 64) }.check(plain());
    }
}

#[test]
fn tensor_cores_that_truncate_add_small_integers_exactly() {
    let config = || VmConfig { mma: MmaRounding::Truncate, ..plain() };
    for (a, b, half) in FLOATS {
        Product { half, ..Product::new(a, b, 40) }.check(config());
        Product { half, place_a: None, negate: [true, false], ..Product::new(a, b, 16) }.check(config());
    }
}
