//! Copies and fills: where their bytes are, and doing them. Host memory of the program is read and written when the operation runs, which is as
//! late as the documentation allows; a program that has freed it by then gets a fault instead of a crash where the system can tell.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::host;
use crate::work::{Copy, Extent, Fill, Place, Side, span};
use crate::world::World;
use ptx_vm::Vm;
use std::sync::Arc;

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
            Place::Host { at, .. } => host::read(at + offset, into),
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
            Place::Host { at, .. } => host::write(at + offset, bytes),
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
