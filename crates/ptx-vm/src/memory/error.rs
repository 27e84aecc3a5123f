//! What can go wrong when the host handles device memory.

use super::live::Live;
use crate::error::Fault;
use thiserror::Error;

/// A host-side memory call that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The configured limit or the machine has no room.
    #[error("out of device memory: {requested} bytes requested with {allocated} allocated and a limit of {limit}")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes held at that time.
        allocated: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The range is not inside one live allocation.
    #[error("{len} bytes at {ptr:#x} are not inside one allocation{hint}")]
    OutOfBounds {
        /// First address of the range.
        ptr: u64,
        /// Length of the range in bytes.
        len: usize,
        /// The nearest allocation, when there is one.
        hint: String,
    },
    /// `free` of what has been freed before.
    #[error("{ptr:#x} is freed twice: it was an allocation of {len} bytes")]
    FreedTwice {
        /// The pointer given.
        ptr: u64,
        /// The size it had in bytes.
        len: usize,
    },
    /// Memory with undefined bits is read by the host (checked mode).
    #[error("{}", undefined(*.ptr, *.offset, .label, .cause))]
    Undefined {
        /// The address of the first byte that has some.
        ptr: u64,
        /// Its offset in the allocation.
        offset: usize,
        /// What the allocation is called, or nothing.
        label: String,
        /// The store that left them there; none when nobody has written the byte.
        cause: Option<Box<Fault>>,
    },
    /// A device was closed while memory was allocated on it.
    #[error("{}", leaks(.0))]
    Leaked(Vec<Live>),
    /// `free` of something that is not the start of a live allocation.
    #[error("{ptr:#x} is not the start of a live allocation, and was not one lately")]
    NotAllocated {
        /// The pointer given.
        ptr: u64,
    },
    /// `free` of memory that is mapped, which is no allocation of this device.
    #[error("{ptr:#x} is mapped, not allocated on this device: unmap it")]
    Mapped {
        /// The pointer given.
        ptr: u64,
    },
    /// `unmap` of something that is not the start of a mapped region.
    #[error("{ptr:#x} is not the start of a mapped region")]
    NotMapped {
        /// The pointer given.
        ptr: u64,
    },
    /// `map` of a region some of whose addresses are in use on this device.
    #[error(
        "{len} bytes at {ptr:#x} overlap {other_len} bytes at {other:#x} that are mapped or allocated: unmap those first"
    )]
    Overlap {
        /// First address of the region.
        ptr: u64,
        /// Its length in bytes.
        len: usize,
        /// First address of what is there.
        other: u64,
        /// The length of that in bytes.
        other_len: usize,
    },
}

fn undefined(ptr: u64, offset: usize, label: &str, cause: &Option<Box<Fault>>) -> String {
    let of = if label.is_empty() { String::new() } else { format!(" of `{label}`") };
    match cause {
        None => format!("the host reads memory that nobody has written: byte {offset}{of}, at {ptr:#x}"),
        Some(fault) => format!("the host reads what is undefined: byte {offset}{of}, at {ptr:#x}: {fault}"),
    }
}

fn leaks(live: &[Live]) -> String {
    let total: usize = live.iter().map(|a| a.bytes).sum();
    let list: Vec<String> = live.iter().map(ToString::to_string).collect();
    format!("{} allocations ({total} bytes) were never freed: {}", live.len(), list.join(", "))
}
