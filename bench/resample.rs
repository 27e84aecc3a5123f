//! Shortcuts around a change of resolution: `cargo bench --bench resample`.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Resample))]
fn resample(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
