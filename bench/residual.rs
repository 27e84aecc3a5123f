//! AdaCache's probe, fold and unfold: `cargo bench --bench residual`. Items are FLOPs.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Residual))]
fn residual(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
