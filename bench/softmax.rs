//! Softmax of long rows: `cargo bench --bench softmax`.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Softmax))]
fn softmax(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
