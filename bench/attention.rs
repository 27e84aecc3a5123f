//! Fused attention, spatial, temporal and cross: `cargo bench --bench attention`. Items are FLOPs.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Attention))]
fn attention(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
