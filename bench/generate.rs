//! Whole generations with `sprites`, from the noise to the latents, by cache policy: `cargo bench --bench generate`.
//!
//! `ADACACHE_DEVICE` names the device; seconds belong to it. Items are denoising steps.

// Of it the device alone.
#[allow(dead_code)]
mod common;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use adacache::family;
use adacache::pipeline::{Pipeline, Request, cache_config};
use adacache::tensor::DType;
use divan::Bencher;
use divan::counter::ItemsCount;

const PROMPT: &str = "large red circle bouncing fast navy";

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    Pipeline::load(&family::sprites(), &common::DEVICE, DType::Bf16).unwrap_or_else(|error| panic!("{error}"))
});

fn main() {
    divan::main();
}

#[divan::bench(args = ["none", "adacache-slow", "adacache-fast", "fewer-12"], sample_count = 5, sample_size = 1)]
fn generate(bencher: Bencher<'_, '_>, cache: &str) {
    let plain = Request::new(&PIPELINE, PROMPT).expect("a prompt of the vocabulary");
    let cache = cache_config(&family::sprites(), cache, false, plain.steps).expect("a preset");
    let request = Request { cache, decode: false, ..plain };
    bencher
        .counter(ItemsCount::new(request.steps))
        .bench_local(|| PIPELINE.generate(&request, &mut |_| ControlFlow::Continue(())).expect("a generation").latents);
}
