//! Entries of a codebook that no decision of the recorded runs used.

use std::fmt;

use crate::cache::Codebook;

/// Why an entry is never used.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// No distance is as large as the previous threshold.
    Above {
        /// The largest distance.
        largest: f64,
    },
    /// Every distance is above its threshold.
    Below {
        /// The smallest distance.
        smallest: f64,
    },
    /// No distance lies between the previous threshold and its own.
    Between,
    /// The next entry has the same rate, so its threshold has no effect.
    Same,
}

/// An entry that can be removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Idle {
    /// Its threshold.
    pub threshold: f64,
    /// Its rate.
    pub rate: usize,
    /// Why it is never used.
    pub why: Why,
}

/// The entries of `codebook` that none of `distances` selects, and those that make no difference.
pub fn idle(codebook: &Codebook, distances: &[f64]) -> Vec<Idle> {
    let entries = codebook.entries();
    let largest = distances.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = distances.iter().copied().fold(f64::INFINITY, f64::min);
    let why = |i: usize| {
        let (threshold, rate) = entries[i];
        let before = i.checked_sub(1).map_or(f64::NEG_INFINITY, |i| entries[i].0);
        let last = i + 1 == entries.len();
        if entries.get(i + 1).is_some_and(|next| next.1 == rate) {
            Some(Why::Same)
        } else if distances.iter().any(|d| *d >= before && (*d < threshold || last)) {
            None
        } else if largest < before {
            Some(Why::Above { largest })
        } else if smallest >= threshold {
            Some(Why::Below { smallest })
        } else {
            Some(Why::Between)
        }
    };
    let idle =
        (0..entries.len()).filter_map(|i| Some(Idle { threshold: entries[i].0, rate: entries[i].1, why: why(i)? }));
    if distances.is_empty() { vec![] } else { idle.collect() }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Idle { threshold, rate, why } = self;
        write!(f, "the entry [{threshold}, {rate}] ")?;
        match why {
            Why::Above { largest } => write!(f, "is never used: the largest change is {largest:.4}"),
            Why::Below { smallest } => write!(f, "is never used: the smallest change is {smallest:.4}"),
            Why::Between => write!(f, "is never used: no change lies between its threshold and the one before"),
            Why::Same => write!(f, "changes nothing: the next one has the same rate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_distance_comes_to() {
        let book = |entries: &[(f64, usize)]| Codebook::new(entries.to_vec()).unwrap();
        let whys = |entries: &[(f64, usize)], distances: &[f64]| -> Vec<(f64, Why)> {
            idle(&book(entries), distances).iter().map(|idle| (idle.threshold, idle.why)).collect()
        };
        let six = [(0.1, 6), (0.2, 4), (0.3, 3), (0.5, 2), (1.0, 1)];
        assert_eq!(
            whys(&six, &[0.22, 0.33, 0.44]),
            [
                (0.1, Why::Below { smallest: 0.22 }),
                (0.2, Why::Below { smallest: 0.22 }),
                (1.0, Why::Above { largest: 0.44 })
            ]
        );
        assert_eq!(whys(&six, &[0.05, 0.35, 2.0]), [(0.2, Why::Between), (0.3, Why::Between)]);
        // A distance at a threshold belongs to the entry behind it; past the last threshold the last rate holds.
        assert_eq!(whys(&[(0.1, 3), (0.2, 1)], &[0.1]), [(0.1, Why::Below { smallest: 0.1 })]);
        assert_eq!(whys(&[(0.1, 3), (0.2, 1)], &[0.05, 7.0]), []);
        // The published slow codebook.
        let slow = [(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1)];
        assert_eq!(whys(&slow, &[0.05, 0.1, 0.3]), [(0.24, Why::Same)]);
        assert_eq!(whys(&six, &[]), []);
        let text = idle(&book(&six), &[0.05])[0].to_string();
        assert_eq!(text, "the entry [0.2, 4] is never used: the largest change is 0.0500");
    }
}
