//! Convolutions of the autoencoders: `cargo bench --bench conv`. Items are FLOPs.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Conv))]
fn conv(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
