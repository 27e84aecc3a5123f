//! Codes that report earlier work. A kernel runs long after its launch has returned: its failure is reported by the next call, whichever it
//! is, and by every call after that, because the context is lost.

use super::driver::Code;
use std::fmt;
use std::sync::Arc;

/// The cause of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A kernel.
    Kernel,
    /// The hardware.
    Hardware,
}

/// All such codes, by number (cuda.h), including ones newer than our bindings.
const FAULTS: &[(u32, Cause)] = &[
    (214, Cause::Hardware), // ECC_UNCORRECTABLE
    (220, Cause::Hardware), // NVLINK_UNCORRECTABLE
    (226, Cause::Hardware), // CONTAINED
    (700, Cause::Kernel),   // ILLEGAL_ADDRESS
    (702, Cause::Kernel),   // LAUNCH_TIMEOUT
    (710, Cause::Kernel),   // ASSERT
    (714, Cause::Kernel),   // HARDWARE_STACK_ERROR: in the stack of calls, or of divergence
    (715, Cause::Kernel),   // ILLEGAL_INSTRUCTION
    (716, Cause::Kernel),   // MISALIGNED_ADDRESS
    (717, Cause::Kernel),   // INVALID_ADDRESS_SPACE
    (718, Cause::Kernel),   // INVALID_PC
    (719, Cause::Kernel),   // LAUNCH_FAILED
    (721, Cause::Kernel),   // TENSOR_MEMORY_LEAK
];

/// The cause for a code that reports earlier work; `None` for any other code, which is about the call itself.
pub(super) fn cause(code: Code) -> Option<Cause> {
    FAULTS.iter().find(|(number, _)| *number == code.0).map(|(_, cause)| *cause)
}

/// Advice for the user.
pub(super) fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Kernel => "run with --device vm to find the instruction",
        Cause::Hardware => "this is a hardware fault: see nvidia-smi -q and the system's log, then restart",
    }
}

/// Work that was queued.
#[derive(Clone)]
pub(super) enum Queued {
    Kernel { name: Arc<str>, grid: [u32; 3], block: [u32; 3] },
    Graph(Arc<Kernels>),
}

/// The kernels of a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernels {
    pub(super) count: usize,
    /// The names of the first and the last kernel.
    pub(super) ends: Option<(Arc<str>, Arc<str>)>,
}

impl Kernels {
    /// Appends a kernel.
    pub(super) fn add(&mut self, name: &Arc<str>) {
        self.count += 1;
        let first = self.ends.take().map_or_else(|| name.clone(), |(first, _)| first);
        self.ends = Some((first, name.clone()));
    }
}

impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Queued::Kernel { name, grid, block } => write!(f, "{name} with grid {grid:?}, block {block:?}"),
            Queued::Graph(kernels) => match &kernels.ends {
                Some((first, last)) => write!(f, "a graph of {} kernels from {first} to {last}", kernels.count),
                None => f.write_str("a graph without kernels"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_earlier_work_are_told_from_those_of_the_call() {
        for code in [214, 700, 702, 710, 714, 715, 716, 717, 718, 719] {
            assert!(cause(Code(code)).is_some(), "{code}");
        }
        // No memory, not ready, launch out of resources, a cooperative launch too large, not supported, captures, a code of the future.
        for code in [0, 1, 2, 46, 201, 209, 400, 500, 600, 701, 720, 801, 900, 901, 913, 999, 4711] {
            assert_eq!(cause(Code(code)), None, "{code}");
        }
        assert_eq!(cause(Code(214)), Some(Cause::Hardware));
        assert!(FAULTS.is_sorted_by_key(|(code, _)| *code));
    }

    #[test]
    fn a_graph_is_told_by_its_first_and_last_kernel() {
        let mut kernels = Kernels::default();
        assert_eq!(Queued::Graph(Arc::new(kernels.clone())).to_string(), "a graph without kernels");
        for name in ["embed", "attention", "sampler_step"] {
            kernels.add(&name.into());
        }
        assert_eq!(Queued::Graph(Arc::new(kernels)).to_string(), "a graph of 3 kernels from embed to sampler_step");
    }
}
