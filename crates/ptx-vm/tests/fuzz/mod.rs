//! How long the fuzz tests run, and on what.

use proptest::test_runner::{Config, RngSeed};

/// `cases` cases, the same in every run; `PTX_VM_FUZZ_CASES=N` asks for so many others.
pub(crate) fn config(cases: u32) -> Config {
    let asked = std::env::var("PTX_VM_FUZZ_CASES").ok().and_then(|n| n.parse().ok());
    let (cases, rng_seed) = asked.map_or((cases, RngSeed::Fixed(1)), |asked| (asked, RngSeed::Random));
    Config { cases, rng_seed, failure_persistence: None, max_shrink_iters: 300, ..Config::default() }
}
