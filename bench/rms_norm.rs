//! RMSNorm over channels with SiLU: `cargo bench --bench rms_norm`.

mod common;

use adacache::bench::Op;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = common::shapes(Op::RmsNorm))]
fn rms_norm(bencher: Bencher<'_, '_>, shape: &common::Sized) {
    common::launches(bencher, shape);
}
