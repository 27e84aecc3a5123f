//! Initial noise: standard normal values that depend on the seed alone, not on the device or the machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// `count` standard normal values of `seed`.
///
/// ```
/// # use adacache::pipeline::noise;
/// assert_eq!(noise(7, 3), noise(7, 5)[..3]);
/// assert_ne!(noise(7, 3), noise(8, 3));
/// ```
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| StandardNormal.sample(&mut rng)).collect()
}

#[cfg(test)]
mod tests {
    use super::noise;

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let values = noise(1, 1 << 16);
        let moment = |k: i32| values.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.02, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.15, "kurtosis {}", moment(4));
    }
}
