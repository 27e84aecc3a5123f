//! What a device reports about its live allocations.

/// An allocation that has not been freed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Live {
    /// Its address.
    pub ptr: u64,
    /// Its size in bytes.
    pub bytes: usize,
    /// How many allocations the device had made before it.
    pub number: u64,
    /// What [`crate::Vm::alloc_labelled`] called it, else empty.
    pub label: String,
}

impl std::fmt::Display for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x} (allocation {}", self.bytes, self.ptr, self.number)?;
        if !self.label.is_empty() {
            write!(f, ", `{}`", self.label)?;
        }
        f.write_str(")")
    }
}
