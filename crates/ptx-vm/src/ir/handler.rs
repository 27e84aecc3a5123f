//! How the code of an instruction is chosen by CPU features: everything is compiled for each level, and the choice is made when a kernel is
//! decoded.

use super::op::{Cx, Handler, Op, Rule, Run};
use std::sync::OnceLock;

/// The semantics of an instruction, compiled once for each [`Level`].
pub(crate) trait Exec {
    /// Seldom executed: compiled once, for a plain CPU, because every version of everything would take minutes to build.
    const RARE: bool = false;
    /// See [`Rule`].
    const RULE: Rule = Rule::Whole;

    /// Executes `op` for the active lanes.
    ///
    /// # Safety
    /// `op` was decoded for this very implementation and belongs to the kernel `cx` runs.
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op;
}

/// CPU features the handlers are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best level of this machine; `PTX_VM_ISA` (`base`, `avx2`) lowers it for tests.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let wanted = std::env::var("PTX_VM_ISA").unwrap_or_default();
            if wanted == "base" {
                return Level::Base;
            }
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && wanted != "avx2" {
                return Level::Avx512;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Base
    })
}

unsafe fn run_base<E: Exec>(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: forwarded.
    unsafe { E::exec(cx, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn run_avx2<E: Exec>(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: forwarded.
    unsafe { E::exec(cx, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn run_avx512<E: Exec>(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: forwarded.
    unsafe { E::exec(cx, op) }
}

/// The handler of `E` for this machine.
pub(crate) fn handler<E: Exec>() -> Handler {
    let rule = E::RULE;
    if const { E::RARE || cfg!(feature = "quick") } {
        return Handler { run: run_base::<E>, rule };
    }
    let run = match level() {
        Level::Base => run_base::<E> as Run,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => run_avx2::<E>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => run_avx512::<E>,
    };
    Handler { run, rule }
}
