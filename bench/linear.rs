//! Matrix products with their fused prologues and epilogues: `cargo bench --bench linear`. Items are FLOPs.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Linear))]
fn linear(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
