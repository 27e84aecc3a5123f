//! LayerNorm statistics and modulation: `cargo bench --bench norm`. Items are FLOPs.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Norm))]
fn norm(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
