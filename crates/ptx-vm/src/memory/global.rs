//! Global memory: a table of allocations at addresses that are never reused, so that a stale pointer always misses.

use crate::error::MemoryError;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// First address of global memory; everything below belongs to the windows of the other spaces.
pub(crate) const GLOBAL_BASE: u64 = 0x0100_0000_0000;
const ALIGN: u64 = 256;

/// Addresses handed out so far, for all devices of the process: a pointer of one device misses on another.
static NEXT: AtomicU64 = AtomicU64::new(GLOBAL_BASE);

/// One allocation: host memory behind `base .. base + len`.
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) len: usize,
    host: *mut u8,
    /// One byte for each byte of memory, 1 where it was written; only in checked mode.
    pub(crate) written: Option<Box<[AtomicU8]>>,
    /// What it is called in reports: empty for anonymous allocations, else the PTX variable or the host program's label.
    pub(crate) name: String,
}

/// An allocation that has not been freed.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Freed allocations remembered for reports.
const FREED: usize = 4096;

// SAFETY: the host memory is reached by raw pointers only; what kernels race on is the kernels' business, as on a GPU.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Reserves `len` bytes (zeroed when `zeroed`) at a fresh address.
    pub(crate) fn new(len: usize, zeroed: bool, shadow: bool, name: &str) -> Option<Arc<Allocation>> {
        let layout = Layout::from_size_align(len.max(1), ALIGN as usize).ok()?;
        // SAFETY: the layout has a non-zero size.
        let host = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        if host.is_null() {
            return None;
        }
        advise(host, len);
        // A gap of one page after each allocation keeps small overruns from landing in a neighbour.
        let span = (len as u64).next_multiple_of(ALIGN) + 4096;
        let base = NEXT.fetch_add(span, Ordering::Relaxed);
        let written = shadow.then(|| (0..len).map(|_| AtomicU8::new(u8::from(zeroed))).collect());
        Some(Arc::new(Allocation { base, len, host, written, name: name.to_owned() }))
    }

    /// Host address of the first byte.
    #[inline(always)]
    pub(crate) fn host(&self) -> *mut u8 {
        self.host
    }

    /// First address behind the allocation.
    #[inline(always)]
    pub(crate) fn end(&self) -> u64 {
        self.base + self.len as u64
    }

    /// Notes that `len` bytes at `offset` have been written by the host.
    pub(crate) fn mark_written(&self, offset: usize, len: usize) {
        if let Some(written) = &self.written {
            for byte in &written[offset..offset + len] {
                byte.store(1, Ordering::Relaxed);
            }
        }
    }
}

/// Asks for huge pages behind large allocations: strided kernels otherwise spend their time in page-table walks.
fn advise(host: *mut u8, len: usize) {
    #[cfg(target_os = "linux")]
    if len >= 4 << 20 {
        let start = (host as usize).next_multiple_of(4096);
        let end = (host as usize + len) & !4095;
        // SAFETY: whole pages inside our own allocation; the advice changes nothing but page sizes, and failure does no harm.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (host, len);
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.host, Layout::from_size_align_unchecked(self.len.max(1), ALIGN as usize)) };
    }
}

/// The live allocations of a device, sorted by address (addresses only grow, so a push keeps the order).
#[derive(Default, Clone)]
pub(crate) struct Table {
    live: Vec<Arc<Allocation>>,
    /// The number of each of those.
    numbers: Vec<u64>,
    made: u64,
    /// Address and size of what was freed last.
    freed: VecDeque<(u64, usize)>,
}

impl Table {
    pub(crate) fn insert(&mut self, allocation: Arc<Allocation>) {
        let at = self.live.partition_point(|a| a.base < allocation.base);
        self.live.insert(at, allocation);
        self.numbers.insert(at, self.made);
        self.made += 1;
    }

    pub(crate) fn remove(&mut self, ptr: u64) -> Result<Arc<Allocation>, MemoryError> {
        match self.live.binary_search_by_key(&ptr, |a| a.base) {
            Ok(at) => {
                self.numbers.remove(at);
                if self.freed.len() == FREED {
                    self.freed.pop_front();
                }
                self.freed.push_back((ptr, self.live[at].len));
                Ok(self.live.remove(at))
            }
            Err(_) => Err(match self.freed.iter().rfind(|(base, _)| *base == ptr) {
                Some((_, len)) => MemoryError::FreedTwice { ptr, len: *len },
                None => MemoryError::NotAllocated { ptr },
            }),
        }
    }

    /// What has not been freed, in the order of addresses.
    pub(crate) fn list(&self) -> Vec<Live> {
        let entry = |(a, number): (&Arc<Allocation>, &u64)| Live {
            ptr: a.base,
            bytes: a.len,
            number: *number,
            label: a.name.clone(),
        };
        self.live.iter().zip(&self.numbers).map(entry).collect()
    }

    /// The allocation that holds `addr`, if any.
    #[inline]
    pub(crate) fn find(&self, addr: u64) -> Option<&Arc<Allocation>> {
        let at = self.live.partition_point(|a| a.base <= addr);
        let allocation = self.live.get(at.checked_sub(1)?)?;
        (addr < allocation.end()).then_some(allocation)
    }

    /// The allocation and offset of a range that must lie inside one allocation.
    pub(crate) fn range(&self, ptr: u64, len: usize) -> Result<(&Arc<Allocation>, usize), MemoryError> {
        let miss = || MemoryError::OutOfBounds { ptr, len, hint: self.hint(ptr, len as u64) };
        let at = self.live.partition_point(|a| a.base <= ptr);
        let allocation = at.checked_sub(1).and_then(|at| self.live.get(at)).ok_or_else(miss)?;
        let offset = (ptr - allocation.base) as usize;
        if offset > allocation.len || len > allocation.len - offset {
            return Err(miss());
        }
        Ok((allocation, offset))
    }

    /// Which allocation was missed, and by how much, for reports.
    pub(crate) fn hint(&self, addr: u64, len: u64) -> String {
        if addr == 0 {
            return ": the null pointer".to_owned();
        }
        // Addresses are never used again, so a freed one is known by itself.
        if let Some((base, size)) = self.freed.iter().rfind(|(base, len)| addr >= *base && addr - base < *len as u64) {
            let (into, end) = (addr - base, base + *size as u64);
            return format!(
                ": {into} bytes into the allocation {base:#x}..{end:#x} ({size} bytes), which has been freed"
            );
        }
        let at = self.live.partition_point(|a| a.base <= addr);
        let before = at.checked_sub(1).and_then(|at| self.live.get(at));
        let name = |a: &Allocation| if a.name.is_empty() { String::new() } else { format!(" `{}`", a.name) };
        let mut best: Option<(u64, String)> = None;
        if let Some(a) = before {
            let miss = addr.saturating_add(len).saturating_sub(a.end());
            best = Some((
                miss,
                format!(
                    ": {} bytes past the end of the allocation{} {:#x}..{:#x} ({} bytes)",
                    miss,
                    name(a),
                    a.base,
                    a.end(),
                    a.len
                ),
            ));
        }
        if let Some(a) = self.live.get(at) {
            let miss = a.base - addr;
            if best.as_ref().is_none_or(|(other, _)| miss < *other) {
                best = Some((
                    miss,
                    format!(
                        ": {} bytes before the allocation{} {:#x}..{:#x} ({} bytes)",
                        miss,
                        name(a),
                        a.base,
                        a.end(),
                        a.len
                    ),
                ));
            }
        }
        best.map_or_else(|| ": nothing is allocated".to_owned(), |(_, text)| text)
    }

    /// Whether nothing has ever been allocated.
    pub(crate) fn is_new(&self) -> bool {
        self.made == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.live.iter()
    }
}
