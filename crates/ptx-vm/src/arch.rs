//! What differs from one GPU architecture to the next. An architecture is a number, as 80 for sm_80.

/// Bytes of static shared memory a kernel may have: ptxas refuses more, for every architecture.
pub(crate) const STATIC_SHARED: usize = 48 << 10;

/// The architecture a `.target` names: that of sm_90a is 90. Where there is none to read it is 80.
pub(crate) fn of_target(target: &str) -> u32 {
    let digits = target.strip_prefix("sm_").unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(80)
}

/// Bytes of shared memory a block may have, static and dynamic, with the opt-in above 48 KiB (the table "Technical Specifications per Compute
/// Capability" of the CUDA C++ Programming Guide). Of what a multiprocessor has from sm_80 on, 1 KiB a block is the system's.
pub(crate) fn block_shared(arch: u32) -> usize {
    let kib = match arch {
        0..70 => 48,
        70..75 => 96,
        75..80 => 64,
        80 | 87 => 163,
        81..90 | 120.. => 99,
        90..120 => 227,
    };
    kib << 10
}

/// Blocks of a cluster at most: 8 everywhere, and 16 where a program has asked for more than can be had everywhere.
pub(crate) const CLUSTER: u32 = 16;

/// How many blocks there are in a cluster of this size, if there may be as many.
pub(crate) fn cluster_blocks(size: [u32; 3]) -> Result<u32, String> {
    let blocks = size.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
    match blocks {
        0 => Err("a cluster of no blocks".to_owned()),
        n if n > u64::from(CLUSTER) => Err(format!("clusters of {n} blocks: at most {CLUSTER}")),
        n => Ok(n as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_architectures() {
        assert_eq!(["sm_80", "sm_90a", "sm_100f", "sm_121", ""].map(of_target), [80, 90, 100, 121, 80]);
    }

    #[test]
    fn limits_of_shared_memory() {
        let kib = [75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121].map(|arch| block_shared(arch) >> 10);
        assert_eq!(kib, [64, 163, 99, 163, 99, 227, 227, 227, 227, 99, 99]);
    }
}
