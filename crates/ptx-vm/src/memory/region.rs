//! Handles of memory that devices, modules and the host program share.

use super::{Allocation, DevicePtr};
use std::fmt;
use std::sync::Arc;

/// A range of memory that a [`crate::Vm`] can be told to use, with [`crate::Vm::map`]: an allocation of another device
/// ([`crate::Vm::region`]), a variable of a module ([`crate::Module::variable`]), or memory of the host program ([`Region::of_host`]).
///
/// A region is a handle: clones are the same memory, which lives at least as long as the last of them and the last mapping, also when it
/// has been freed on the device it came from, or its module is gone.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<Allocation>);

impl Region {
    /// Memory of the host program, at the same addresses for kernels as for the program. It is not given back when the region goes.
    /// Checked mode takes all of it for written.
    ///
    /// None when a device cannot have these addresses: `bytes` is 0, the range begins below 2^40, where the windows of shared, local and
    /// parameter memory are, or where the devices of this process have their own memory, or it ends behind the last address.
    ///
    /// # Safety
    /// All `bytes` bytes at `ptr` may be read and written, by any thread, until the region and its clones are gone, it is mapped nowhere,
    /// and every launch has ended that was begun while it was. Kernels access it as they access global memory: it is up to the program
    /// that its own accesses, through references above all, do not meet theirs.
    pub unsafe fn of_host(ptr: *mut u8, bytes: usize, label: &str) -> Option<Region> {
        Allocation::borrow(ptr, bytes, label).map(Region)
    }

    /// Its first address, for kernels and memory calls.
    pub fn ptr(&self) -> DevicePtr {
        self.0.base
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len
    }

    /// What reports call it: the label it was allocated with or that of [`Region::of_host`], the name of a variable, or nothing.
    pub fn label(&self) -> &str {
        &self.0.name
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes at {:#x}", self.bytes(), self.ptr())?;
        if !self.label().is_empty() {
            write!(f, ", `{}`", self.label())?;
        }
        f.write_str(")")
    }
}
