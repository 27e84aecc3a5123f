//! Residuals to 8 bits and back: `cargo bench --bench pack`.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::Pack))]
fn pack(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
