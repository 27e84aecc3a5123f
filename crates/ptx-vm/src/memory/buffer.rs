//! Zeroed host memory that is kept from use to use.

use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Zeroed memory aligned for vector registers; it only grows.
pub(crate) struct Buffer {
    at: *mut u8,
    len: usize,
}

impl Buffer {
    pub(crate) const EMPTY: Buffer = Buffer { at: std::ptr::null_mut(), len: 0 };

    /// Makes room for `len` bytes. The content is kept only when there was room already.
    pub(crate) fn reserve(&mut self, len: usize) -> *mut u8 {
        if len > self.len || self.at.is_null() {
            self.free();
            let len = len.next_multiple_of(4096).max(4096);
            let Ok(layout) = Layout::from_size_align(len, 128) else { std::process::abort() };
            // SAFETY: the size is not zero.
            self.at = unsafe { alloc_zeroed(layout) };
            if self.at.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            self.len = len;
        }
        self.at
    }

    /// Its first byte.
    pub(crate) fn at(&self) -> *mut u8 {
        self.at
    }

    fn free(&mut self) {
        if !self.at.is_null() {
            // SAFETY: allocated in `reserve` with this layout.
            unsafe { dealloc(self.at, Layout::from_size_align_unchecked(self.len, 128)) };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}
