//! The order in which the blocks of a launch begin: by number, or permuted by a seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hands out the numbers of the blocks of a launch, each once.
pub(crate) enum Order {
    Natural { blocks: u64, next: AtomicU64 },
    Permuted { shuffle: Shuffle, taken: Mutex<Taken> },
}

/// What has been handed out: the first places of the permutation, then blocks by number.
#[derive(Default)]
pub(crate) struct Taken {
    places: u64,
    numbers: u64,
}

impl Order {
    /// The order of the `launch`-th launch of a device.
    pub(crate) fn new(blocks: u64, seed: Option<u64>, launch: u64) -> Order {
        match seed {
            None => Order::Natural { blocks, next: AtomicU64::new(0) },
            Some(seed) => {
                Order::Permuted { shuffle: Shuffle::new(blocks, mix(seed) ^ launch), taken: Mutex::default() }
            }
        }
    }

    /// The next block to begin. When one has `failed` (else `u64::MAX`), what is left of the blocks before it.
    pub(crate) fn take(&self, failed: &AtomicU64) -> Option<u64> {
        match self {
            Order::Natural { blocks, next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                (number < *blocks && number <= failed.load(Ordering::Relaxed)).then_some(number)
            }
            Order::Permuted { shuffle, taken } => {
                let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                // Looked at under the lock: once somebody has seen a failure, all do, and no more places are taken.
                let failed = failed.load(Ordering::Relaxed);
                if failed == u64::MAX {
                    let place = (taken.places < shuffle.n).then_some(taken.places)?;
                    taken.places += 1;
                    return Some(shuffle.number(place));
                }
                // By number, so that this ends soon however many blocks there are behind the one that failed.
                while taken.numbers < failed {
                    let number = taken.numbers;
                    taken.numbers += 1;
                    if shuffle.place(number) >= taken.places {
                        return Some(number);
                    }
                }
                None
            }
        }
    }

    /// Whether nothing is left, when no block has failed.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Order::Natural { blocks, next } => next.load(Ordering::Relaxed) >= *blocks,
            Order::Permuted { shuffle, taken } => {
                taken.lock().unwrap_or_else(PoisonError::into_inner).places >= shuffle.n
            }
        }
    }
}

/// Blocks that lie side by side in memory more often than not: they stay near each other, in another order, so that caches and pages still
/// serve them.
const NEIGHBOURS: u64 = 16;

/// A permutation of `0..n`: a Feistel network over the next even number of bits, applied until the result is below `n`. In large launches it
/// permutes groups of neighbours, and each group has an order of its own.
pub(crate) struct Shuffle {
    n: u64,
    /// Blocks of a group: a power of two.
    group: u64,
    groups: u64,
    /// Bits of each half.
    half: u32,
    keys: [u64; 4],
}

impl Shuffle {
    fn new(n: u64, seed: u64) -> Shuffle {
        let group = if n >= NEIGHBOURS * NEIGHBOURS { NEIGHBOURS } else { 1 };
        let groups = n.div_ceil(group);
        let bits = 64 - groups.saturating_sub(1).leading_zeros();
        // Halves of a few bits at least: smaller networks make too few permutations.
        let half = bits.div_ceil(2).max(4);
        Shuffle { n, group, groups, half, keys: [1, 2, 3, 4].map(|i: u64| mix(seed ^ i << 56)) }
    }

    /// The block at a place of the order.
    fn number(&self, place: u64) -> u64 {
        walk(place, self.n, |at| {
            let group = walk(at / self.group, self.groups, |at| {
                let (left, right) = (at >> self.half, at & self.mask());
                let (left, right) = self.keys.iter().fold((left, right), |(l, r), key| (r, l ^ self.scramble(r, *key)));
                left << self.half | right
            });
            self.within(group, at)
        })
    }

    /// The place of a block in the order.
    fn place(&self, number: u64) -> u64 {
        walk(number, self.n, |at| {
            let group = walk(at / self.group, self.groups, |at| {
                let (left, right) = (at >> self.half, at & self.mask());
                let (left, right) =
                    self.keys.iter().rev().fold((left, right), |(l, r), key| (r ^ self.scramble(l, *key), l));
                left << self.half | right
            });
            group * self.group + self.within(at / self.group, at) % self.group
        })
    }

    /// The block of `group` whose turn is that of `at` in its own group. The turns of a group are its own inverse.
    fn within(&self, group: u64, at: u64) -> u64 {
        group * self.group + ((at ^ mix(group ^ self.keys[0])) & (self.group - 1))
    }

    fn mask(&self) -> u64 {
        (1 << self.half) - 1
    }

    fn scramble(&self, half: u64, key: u64) -> u64 {
        mix(half ^ key) & self.mask()
    }
}

/// Steps along the cycle of a permutation to the next number below `n`. There is one: the start.
fn walk(start: u64, n: u64, step: impl Fn(u64) -> u64) -> u64 {
    let mut at = step(start);
    while at >= n {
        at = step(at);
    }
    at
}

/// SplitMix64: every bit of the result depends on every bit of the argument.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::{Order, Shuffle};
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn order(n: u64, seed: u64, launch: u64) -> Vec<u64> {
        let (order, failed) = (Order::new(n, Some(seed), launch), AtomicU64::new(u64::MAX));
        let taken: Vec<u64> = std::iter::from_fn(|| order.take(&failed)).take(n as usize + 1).collect();
        assert!(order.is_empty());
        taken
    }

    #[test]
    fn every_block_comes_once() {
        for n in [1, 2, 3, 4, 5, 7, 16, 17, 64, 97, 255, 256, 257, 1000, 4093, 65536, 65537] {
            for seed in [0, 1, 42, u64::MAX] {
                let mut all = order(n, seed, seed % 5);
                all.sort_unstable();
                assert!(all.iter().copied().eq(0..n), "{n} blocks, seed {seed}");
            }
        }
    }

    #[test]
    fn large_grids_are_permuted_without_a_list() {
        let most = (i32::MAX as u64) * 65535 * 65535;
        for n in [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, 4294967311, (1 << 45) + 12345, most] {
            let shuffle = Shuffle::new(n, 7);
            let step = n / 1000;
            let places = (0..1000).map(|i| i * step).chain([n - 1]);
            let numbers: Vec<u64> = places
                .map(|place| {
                    let number = shuffle.number(place);
                    assert!(number < n);
                    assert_eq!(shuffle.place(number), place);
                    number
                })
                .collect();
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 1001);
            // They go everywhere.
            assert!((0..8).all(|eighth| numbers.iter().any(|x| x / (n / 8) == eighth)), "{n}");
        }
    }

    /// Two blocks come in either order, near or far; and what follows a block is often near it.
    #[test]
    fn neighbours_stay_near_and_any_two_may_change_places() {
        let n = 5000;
        for (a, b) in [(0, 1), (15, 16), (7, 4000), (4998, 4999), (0, 4999)] {
            let first = (0..200).filter(|seed| {
                let shuffle = Shuffle::new(n, *seed);
                shuffle.place(a) < shuffle.place(b)
            });
            assert!((40..160).contains(&first.count()), "{a} and {b}");
        }
        let near = order(n, 9, 0).windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
        assert!(near > 4000, "{near}");
    }

    #[test]
    fn orders_differ_by_seed_and_by_launch_and_repeat() {
        for n in [20, 1000] {
            let orders: HashSet<Vec<u64>> = (0..50).flat_map(|i| [order(n, i, 0), order(n, 1000, i)]).collect();
            assert_eq!(orders.len(), 100);
            assert!(!orders.contains(&(0..n).collect::<Vec<_>>()));
            assert_eq!(order(n, 5, 3), order(n, 5, 3));
        }
        // Few blocks come in every order there is.
        for (n, orders) in [(1, 1), (2, 2), (3, 6), (4, 24)] {
            assert_eq!((0..500).map(|seed| order(n, seed, 0)).collect::<HashSet<_>>().len(), orders, "{n} blocks");
        }
    }

    #[test]
    fn after_a_failure_only_the_blocks_before_it_come() {
        for n in [50, (1 << 40) + 1] {
            for begun in [1, 10, 30] {
                let (order, failed) = (Order::new(n, Some(begun), 0), AtomicU64::new(u64::MAX));
                let first: Vec<u64> = (0..begun).filter_map(|_| order.take(&failed)).collect();
                failed.store(40, Ordering::Relaxed);
                let rest: Vec<u64> = std::iter::from_fn(|| order.take(&failed)).collect();
                let want: Vec<u64> = (0..40).filter(|number| !first.contains(number)).collect();
                assert_eq!(rest, want, "{n} blocks, {begun} begun");
            }
        }
    }
}
