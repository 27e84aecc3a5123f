//! Which kernels this machine has.

use super::kernel::Kernels;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use std::sync::OnceLock;

/// The kernels of the best instruction set this machine has; `PTX_VM_ISA` (`base`, `avx2`, `avx512`) lowers it for tests.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let mut sets = available();
        match std::env::var("PTX_VM_ISA").unwrap_or_default().as_str() {
            "base" => sets.truncate(1),
            "avx2" => sets.truncate(2),
            "avx512" => sets.truncate(3),
            _ => {}
        }
        sets.pop().unwrap_or(portable::KERNELS)
    })
}

/// Every set of kernels that runs on this machine, slowest first. They differ in speed only.
pub fn available() -> Vec<Kernels> {
    #[allow(unused_mut)]
    let mut sets = vec![portable::KERNELS];
    #[cfg(target_arch = "x86_64")]
    add_x86(&mut sets);
    sets
}

#[cfg(target_arch = "x86_64")]
fn add_x86(sets: &mut Vec<Kernels>) {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")) {
        return;
    }
    sets.push(avx2::KERNELS);
    if !(is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl"))
    {
        return;
    }
    sets.push(avx512::KERNELS);
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
        sets.push(avx512::KERNELS_BF16);
    }
}
