//! Global memory: a table of allocations at addresses that are never reused, so that a stale pointer always misses. Host memory that
//! kernels may use stands in it at its own addresses, which no allocation gets.

use super::error::MemoryError;
use super::live::Live;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First address of global memory; everything below belongs to the windows of the other spaces.
pub(crate) const GLOBAL_BASE: u64 = 0x0100_0000_0000;
const ALIGN: u64 = 256;

/// The addresses of all devices of the process: a pointer of one device misses on another.
static ADDRESSES: Mutex<Addresses> = Mutex::new(Addresses { next: GLOBAL_BASE, host: Vec::new() });

struct Addresses {
    /// Addresses below it have been handed out.
    next: u64,
    /// First and last address of host memory that devices see.
    host: Vec<(u64, u64)>,
}

impl Addresses {
    fn lock() -> MutexGuard<'static, Addresses> {
        ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `span` addresses nobody has had.
    fn take(&mut self, span: u64) -> Option<u64> {
        loop {
            let (base, end) = (self.next, self.next.checked_add(span)?);
            match self.host.iter().find(|(first, last)| *first < end && base <= *last) {
                None => {
                    self.next = end;
                    return Some(base);
                }
                Some((_, last)) => self.next = last.checked_next_multiple_of(ALIGN)?.checked_add(ALIGN)?,
            }
        }
    }
}

/// One allocation: host memory behind `base .. base + len`.
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) len: usize,
    host: *mut u8,
    /// The memory belongs to the host program, which sees it at the same addresses.
    borrowed: bool,
    /// Its undefined bits, which nobody has written; only in checked mode.
    pub(crate) undefined: Option<Box<[AtomicU8]>>,
    /// The number of the launch that last stored to each word, see [`crate::check`]; only in checked mode.
    pub(crate) stored: Option<Box<[AtomicU32]>>,
    /// What it is called in reports: empty for anonymous allocations, else the PTX variable or the host program's label.
    pub(crate) name: String,
}

/// Freed allocations and unmapped memory remembered for reports.
const GONE: usize = 4096;

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
        let Some(base) = Addresses::lock().take(span) else {
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(host, layout) };
            return None;
        };
        let undefined = shadow.then(|| (0..len).map(|_| AtomicU8::new(if zeroed { 0 } else { 0xff })).collect());
        let stored = shadow.then(|| (0..len.div_ceil(4)).map(|_| AtomicU32::new(0)).collect());
        Some(Arc::new(Allocation { base, len, host, borrowed: false, undefined, stored, name: name.to_owned() }))
    }

    /// Host memory at its own addresses. None when they cannot be those of a device too.
    pub(crate) fn borrow(host: *mut u8, len: usize, name: &str) -> Option<Arc<Allocation>> {
        let base = host as u64;
        let last = base.checked_add((len as u64).checked_sub(1)?)?;
        // The end is an address as well.
        last.checked_add(1)?;
        let mut addresses = Addresses::lock();
        if base < addresses.next {
            return None;
        }
        addresses.host.push((base, last));
        Some(Arc::new(Allocation {
            base,
            len,
            host,
            borrowed: true,
            undefined: None,
            stored: None,
            name: name.to_owned(),
        }))
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
        if let Some(undefined) = &self.undefined {
            for byte in &undefined[offset..offset + len] {
                byte.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The first of `len` bytes at `offset` that has undefined bits.
    pub(crate) fn first_undefined(&self, offset: usize, len: usize) -> Option<usize> {
        let undefined = self.undefined.as_ref()?;
        undefined[offset..offset + len].iter().position(|bits| bits.load(Ordering::Relaxed) != 0)
    }

    /// Takes over which bits of `len` bytes at `offset` are defined from another place.
    pub(crate) fn copy_undefined(&self, offset: usize, from: &Allocation, from_offset: usize, len: usize) {
        if let Some(to) = &self.undefined {
            let bits: Vec<u8> = match &from.undefined {
                Some(from) => from[from_offset..from_offset + len].iter().map(|b| b.load(Ordering::Relaxed)).collect(),
                None => vec![0; len],
            };
            to[offset..offset + len].iter().zip(bits).for_each(|(to, bits)| to.store(bits, Ordering::Relaxed));
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
        if self.borrowed {
            let range = (self.base, self.base + (self.len as u64 - 1));
            let mut addresses = Addresses::lock();
            if let Some(at) = addresses.host.iter().position(|r| *r == range) {
                addresses.host.swap_remove(at);
            }
            return;
        }
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.host, Layout::from_size_align_unchecked(self.len.max(1), ALIGN as usize)) };
    }
}

/// The memory a device can use: its live allocations and what is mapped, sorted by address.
#[derive(Default, Clone)]
pub(crate) struct Table {
    live: Vec<Arc<Allocation>>,
    /// The number of each of those; none for what is mapped.
    numbers: Vec<Option<u64>>,
    made: u64,
    /// What went last.
    gone: VecDeque<Gone>,
}

/// Memory that was freed or unmapped.
#[derive(Clone, Copy)]
struct Gone {
    base: u64,
    len: usize,
    mapped: bool,
}

impl Table {
    pub(crate) fn insert(&mut self, allocation: Arc<Allocation>) {
        let at = self.live.partition_point(|a| a.base < allocation.base);
        self.live.insert(at, allocation);
        self.numbers.insert(at, Some(self.made));
        self.made += 1;
    }

    pub(crate) fn remove(&mut self, ptr: u64) -> Result<Arc<Allocation>, MemoryError> {
        match self.live.binary_search_by_key(&ptr, |a| a.base) {
            Ok(at) if self.numbers[at].is_some() => Ok(self.take(at)),
            Ok(_) => Err(MemoryError::Mapped { ptr }),
            Err(_) => Err(match self.gone.iter().rfind(|gone| gone.base == ptr && !gone.mapped) {
                Some(gone) => MemoryError::FreedTwice { ptr, len: gone.len },
                None => MemoryError::NotAllocated { ptr },
            }),
        }
    }

    /// Adds memory that is no allocation of this device, unless it is there already.
    pub(crate) fn map(&mut self, region: &Arc<Allocation>) -> Result<(), MemoryError> {
        let at = self.live.partition_point(|a| a.base <= region.base);
        let before = at.checked_sub(1).map(|at| &self.live[at]);
        if before.is_some_and(|a| Arc::ptr_eq(a, region)) {
            return Ok(());
        }
        let before = before.filter(|a| a.base == region.base || a.end() > region.base);
        if let Some(other) = before.or(self.live.get(at).filter(|a| a.base < region.end())) {
            return Err(MemoryError::Overlap {
                ptr: region.base,
                len: region.len,
                other: other.base,
                other_len: other.len,
            });
        }
        self.live.insert(at, region.clone());
        self.numbers.insert(at, None);
        Ok(())
    }

    /// Ends what [`Table::map`] began.
    pub(crate) fn unmap(&mut self, ptr: u64) -> Result<(), MemoryError> {
        match self.live.binary_search_by_key(&ptr, |a| a.base) {
            Ok(at) if self.numbers[at].is_none() => {
                self.take(at);
                Ok(())
            }
            _ => Err(MemoryError::NotMapped { ptr }),
        }
    }

    /// Removes an entry and remembers it for reports.
    fn take(&mut self, at: usize) -> Arc<Allocation> {
        let (allocation, number) = (self.live.remove(at), self.numbers.remove(at));
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone { base: allocation.base, len: allocation.len, mapped: number.is_none() });
        allocation
    }

    /// What has not been freed, in the order of addresses.
    pub(crate) fn list(&self) -> Vec<Live> {
        let entry = |(a, number): (&Arc<Allocation>, &Option<u64>)| {
            Some(Live { ptr: a.base, bytes: a.len, number: (*number)?, label: a.name.clone() })
        };
        self.live.iter().zip(&self.numbers).filter_map(entry).collect()
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
        // Addresses of allocations are never used again, so a freed one is known by itself. Those of host memory are: what is there now
        // goes before what was there.
        let stale = || self.gone.iter().rfind(|gone| addr >= gone.base && addr - gone.base < gone.len as u64);
        if let (None, Some(Gone { base, len, mapped })) = (self.find(addr), stale()) {
            let (into, end) = (addr - base, base + *len as u64);
            let (what, how) = if *mapped { ("region", "unmapped") } else { ("allocation", "freed") };
            return format!(": {into} bytes into the {what} {base:#x}..{end:#x} ({len} bytes), which has been {how}");
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

    /// Whether nothing has ever been allocated or mapped.
    pub(crate) fn is_new(&self) -> bool {
        self.live.is_empty() && self.gone.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.live.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, Addresses};

    #[test]
    fn device_addresses_go_around_host_memory() {
        let at = |n: u64| n * ALIGN;
        let mut addresses = Addresses { next: at(10), host: vec![(at(30), at(40) - 1), (at(12) + 1, at(13) + 5)] };
        // Up to the first range, behind it, and behind the second in one step.
        assert_eq!(addresses.take(at(2)), Some(at(10)));
        assert_eq!(addresses.take(at(1)), Some(at(15)));
        assert_eq!(addresses.take(at(14)), Some(at(16)));
        assert_eq!(addresses.take(at(100)), Some(at(41)));
        assert_eq!(addresses.take(u64::MAX - at(100)), None);
        assert_eq!(addresses.take(at(1)), Some(at(141)));
    }
}
