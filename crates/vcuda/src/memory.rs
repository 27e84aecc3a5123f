//! Copies and fills: where their bytes are, and doing them. Host memory of the program is read and written when the operation runs, which is as
//! late as the documentation allows; a program that has freed it by then gets a fault instead of a crash where the system can tell.

use crate::code::{Answer, Code};
use crate::enter::Driver;
use crate::world::{Id, World};
use ptx_vm::Vm;
use std::sync::Arc;

/// Where bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Memory of a device, by address.
    Device(u64, usize),
    /// Host memory; `range` names page-locked memory, which has to be there still when the bytes move.
    Host { at: usize, range: Option<(u64, Id)> },
    /// Bytes taken when the copy was asked for.
    Staged(Arc<[u8]>),
}

impl Place {
    pub(crate) fn is_pageable(&self) -> bool {
        matches!(self, Place::Host { range: None, .. })
    }

    pub(crate) fn is_device(&self) -> bool {
        matches!(self, Place::Device(..))
    }
}

/// Rows of `width` bytes, `height` of them, `depth` times; pitches in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Extent {
    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }
}

/// One side of a copy.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) place: Place,
    pub(crate) pitch: usize,
    pub(crate) slice: usize,
}

impl Side {
    pub(crate) fn flat(place: Place) -> Side {
        Side { place, pitch: 0, slice: 0 }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) dst: Side,
    pub(crate) src: Side,
    pub(crate) extent: Extent,
}

/// `width` elements of `size` bytes a row.
#[derive(Clone, Debug)]
pub(crate) struct Fill {
    pub(crate) dst: Place,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) size: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Bytes from the first to behind the last of an extent with these pitches.
pub(crate) fn span(extent: Extent, pitch: usize, slice: usize) -> Option<usize> {
    let Extent { width, height, depth } = extent;
    if width == 0 || height == 0 || depth == 0 {
        return Some(0);
    }
    let rows = pitch.checked_mul(height - 1)?;
    slice.checked_mul(depth - 1)?.checked_add(rows)?.checked_add(width)
}

impl World {
    /// Where the bytes at an address are, all in one piece; `device` insists on an address that devices know.
    pub(crate) fn place(&self, address: u64, bytes: usize, device: bool) -> Answer<Place> {
        match self.whole_range(address, bytes) {
            // Nothing is anywhere.
            None if bytes == 0 => Ok(Place::Host { at: address as usize, range: None }),
            Some((base, range)) if range.on_host() => {
                Ok(Place::Host { at: address as usize, range: Some((base, range.id)) })
            }
            Some((_, range)) => Ok(Place::Device(address, range.device)),
            None if device || address == 0 => Err(Code::INVALID_VALUE),
            // Begins in memory that is known and ends outside.
            None if self.range(address).is_some() => Err(Code::INVALID_VALUE),
            None => Ok(Place::Host { at: address as usize, range: None }),
        }
    }
}

/// What moves bytes with the lock released: handles of the virtual GPUs by device.
struct Machines(Vec<Option<Arc<Vm>>>);

impl Machines {
    fn read(&self, place: &Place, offset: usize, into: &mut [u8]) -> Result<(), String> {
        match place {
            Place::Staged(bytes) => {
                let end = offset + into.len();
                into.copy_from_slice(bytes.get(offset..end).ok_or("a staged copy is too short")?);
                Ok(())
            }
            Place::Host { at, .. } => host_read(at + offset, into),
            Place::Device(address, device) => {
                let vm = self.0[*device].as_ref().ok_or("the device is gone")?;
                vm.read_anyway(address + offset as u64, into).map_err(|e| e.to_string())
            }
        }
    }

    /// Says so when the host is given what nobody has written, or what a kernel has computed from that. Padding is fine, so it is no error.
    fn tell_undefined(&self, place: &Place, offset: usize, len: usize) {
        if let Place::Device(address, device) = place
            && let Some(vm) = &self.0[*device]
            && let Ok(Some(found)) = vm.undefined(address + offset as u64, len)
        {
            eprintln!("vcuda: {found}");
        }
    }

    fn write(&self, place: &Place, offset: usize, bytes: &[u8]) -> Result<(), String> {
        match place {
            Place::Staged(_) => Err("a copy into staged bytes".into()),
            Place::Host { at, .. } => host_write(at + offset, bytes),
            Place::Device(address, device) => {
                let vm = self.0[*device].as_ref().ok_or("the device is gone")?;
                vm.write(address + offset as u64, bytes).map_err(|e| e.to_string())
            }
        }
    }
}

impl Driver {
    fn machines(&self) -> Machines {
        Machines(self.devices.iter().map(|device| device.vm.clone()).collect())
    }

    /// Whether page-locked memory is there still.
    fn check_place(&self, place: &Place, what: &str) -> Result<(), (Code, String)> {
        if let Place::Host { at, range: Some((base, id)) } = place
            && self.memory.get(base).is_none_or(|range| range.id != *id)
        {
            let text = format!(
                "{what} {at:#x}: this page-locked memory was freed or unregistered while the operation was queued; \
                 wait for what uses it first"
            );
            return Err((Code::ILLEGAL_ADDRESS, text));
        }
        Ok(())
    }

    pub(crate) fn copy_now(&mut self, copy: &Copy) -> Result<(), (Code, String)> {
        self.check_place(&copy.src.place, "a copy from host memory at")?;
        self.check_place(&copy.dst.place, "a copy to host memory at")?;
        let machines = self.machines();
        let run = || {
            let Copy { dst, src, extent } = copy;
            if let (Place::Device(to, a), Place::Device(from, b)) = (&dst.place, &src.place)
                && a == b
                && extent.height == 1
                && extent.depth == 1
                && let Some(vm) = &machines.0[*a]
            {
                return vm.copy(*to, *from, extent.width).map_err(|e| e.to_string());
            }
            let mut row = vec![0; extent.width.min(PIECE)];
            for z in 0..extent.depth {
                for y in 0..extent.height {
                    let (from, to) = (z * src.slice + y * src.pitch, z * dst.slice + y * dst.pitch);
                    for x in (0..extent.width).step_by(PIECE) {
                        let row = &mut row[..PIECE.min(extent.width - x)];
                        machines.read(&src.place, from + x, row)?;
                        if matches!(dst.place, Place::Host { .. }) {
                            machines.tell_undefined(&src.place, from + x, row.len());
                        }
                        machines.write(&dst.place, to + x, row)?;
                    }
                }
            }
            Ok(())
        };
        self.alone(|| run().map_err(|text: String| (Code::ILLEGAL_ADDRESS, format!("a copy failed: {text}"))))
    }

    pub(crate) fn fill_now(&mut self, fill: &Fill) -> Result<(), (Code, String)> {
        self.check_place(&fill.dst, "a fill of host memory at")?;
        let machines = self.machines();
        let run = || {
            let pattern = fill.value.to_le_bytes();
            let bytes = fill.width * fill.size;
            let row: Vec<u8> = pattern[..fill.size].iter().copied().cycle().take(bytes.min(PIECE)).collect();
            for y in 0..fill.height {
                for x in (0..bytes).step_by(PIECE) {
                    machines.write(&fill.dst, y * fill.pitch + x, &row[..PIECE.min(bytes - x)])?;
                }
            }
            Ok(())
        };
        self.alone(|| run().map_err(|text: String| (Code::ILLEGAL_ADDRESS, format!("a fill failed: {text}"))))
    }

    /// The bytes of a side, now.
    pub(crate) fn stage(&mut self, src: &Side, extent: Extent) -> Answer<Side> {
        let bytes = span(extent, src.pitch, src.slice).ok_or(Code::INVALID_VALUE)?;
        let mut staged = vec![0; bytes];
        let machines = self.machines();
        machines.read(&src.place, 0, &mut staged).map_err(|_| Code::INVALID_VALUE)?;
        Ok(Side { place: Place::Staged(staged.into()), ..src.clone() })
    }
}

/// Bytes moved at a time; a multiple of all element sizes.
const PIECE: usize = 4 << 20;

/// Reads host memory that may be gone: the system is asked, because a plain read would end the process.
fn host_read(at: usize, into: &mut [u8]) -> Result<(), String> {
    host_move(
        at,
        into.len(),
        |local, remote| {
            // SAFETY: both describe one range each; the kernel checks the remote one.
            unsafe { libc::process_vm_readv(libc::getpid(), local, 1, remote, 1, 0) }
        },
        into.as_mut_ptr(),
        || {
            // SAFETY: the program says that the memory is there.
            unsafe { std::ptr::copy_nonoverlapping(at as *const u8, into.as_ptr().cast_mut(), into.len()) };
        },
    )
}

fn host_write(at: usize, bytes: &[u8]) -> Result<(), String> {
    host_move(
        at,
        bytes.len(),
        |local, remote| {
            // SAFETY: as in `host_read`.
            unsafe { libc::process_vm_writev(libc::getpid(), local, 1, remote, 1, 0) }
        },
        bytes.as_ptr().cast_mut(),
        || {
            // SAFETY: as in `host_read`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        },
    )
}

fn host_move(
    at: usize,
    bytes: usize,
    ask: impl Fn(*const libc::iovec, *const libc::iovec) -> isize,
    own: *mut u8,
    plain: impl FnOnce(),
) -> Result<(), String> {
    let mut done = 0;
    while done < bytes {
        let part = |base: usize| libc::iovec { iov_base: (base + done) as *mut libc::c_void, iov_len: bytes - done };
        let (local, remote) = (part(own as usize), part(at));
        match ask(&local, &remote) {
            moved if moved > 0 => done += moved as usize,
            _ => match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EFAULT) => {
                    return Err(format!("host memory at {:#x} is not there (any more)", at + done));
                }
                // Not allowed in this sandbox.
                _ => {
                    plain();
                    return Ok(());
                }
            },
        }
    }
    Ok(())
}

/// New host memory, every byte 0xff.
pub(crate) fn map_host(bytes: usize) -> Option<u64> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), prot, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: just mapped, with this length.
    unsafe { at.cast::<u8>().write_bytes(0xff, bytes) };
    Some(at as u64)
}

/// Whether the process has memory at all of these addresses.
pub(crate) fn is_mapped(at: u64, bytes: usize) -> bool {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let first = at & !(page - 1);
    let length = (at - first) as usize + bytes;
    let mut pages = vec![0u8; length.div_ceil(page as usize)];
    // SAFETY: asks about addresses without using them; there is a byte for each page.
    unsafe { libc::mincore(first as *mut libc::c_void, length, pages.as_mut_ptr()) == 0 }
}

pub(crate) fn unmap_host(at: u64, bytes: usize) {
    // SAFETY: mapped by `map_host` with this length; nothing of the driver's points there any more.
    unsafe { libc::munmap(at as *mut libc::c_void, bytes.max(1)) };
}
