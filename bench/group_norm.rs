//! GroupNorm with SiLU: `cargo bench --bench group_norm`.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::GroupNorm))]
fn group_norm(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
