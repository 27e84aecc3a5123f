//! Memory: of devices, page-locked, registered, managed; and what addresses are.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if};
use crate::host;
use crate::made::Id;
use crate::object::{Kind, Range};
use crate::work::Work;
use crate::world::World;
use ptx_vm::Region;
use std::ffi::c_void;

/// Pitches are multiples of this many bytes.
const PITCH: usize = 512;

impl Driver {
    /// New device memory in the current context, every byte 0xff.
    pub(crate) fn allocate(&mut self, bytes: usize, kind: Kind, device: usize, context: Id) -> Answer<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if bytes as u64 > host_free() {
            let text = format!("{bytes} bytes fit on the virtual device but not into this machine's memory");
            self.remark(text);
            return Err(Code::OUT_OF_MEMORY);
        }
        let vm = self.vm(device);
        let call = self.call;
        let address = vm.alloc_labelled(bytes, call).map_err(|_| Code::OUT_OF_MEMORY)?;
        // In checked mode reading what nobody wrote is a fault by itself.
        if !self.settings.checked {
            let _ = vm.fill(address, 0xff, bytes);
        }
        let (id, made) = (self.id(), self.made());
        self.memory.insert(address, Range { id, bytes, kind, context, device, flags: 0, region: None, made });
        let pool = match self.memory[&address].kind {
            Kind::Pooled { pool, .. } => self.pools.get(&pool).map(|pool| pool.shared_with.clone()),
            _ => None,
        };
        let peers: Vec<usize> =
            self.contexts.values().filter(|c| c.peers.values().any(|peer| *peer == device)).map(|c| c.device).collect();
        if let Some(region) = vm.region(address) {
            for peer in peers.into_iter().chain(pool.into_iter().flatten()) {
                let _ = self.vm(peer).map(&region);
            }
        }
        Ok(address)
    }

    /// Host memory becomes known to every device.
    fn adopt_host(&mut self, at: u64, bytes: usize, kind: Kind, flags: u32) -> Answer {
        let context = self.current()?;
        let device = self.contexts[&context].device;
        let label = kind.name();
        // SAFETY: the memory lives until it is freed or unregistered, which ends the mapping first.
        let region = unsafe { Region::of_host(at as *mut u8, bytes, label) };
        if let Some(region) = &region {
            for vm in self.devices.iter().filter_map(|device| device.vm.as_ref()) {
                let _ = vm.map(region);
            }
        }
        let (id, made) = (self.id(), self.made());
        self.memory.insert(at, Range { id, bytes, kind, context, device, flags, region, made });
        Ok(())
    }

    fn new_host(&mut self, bytes: usize, kind: Kind, flags: u32) -> Answer<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if bytes as u64 > host_free() {
            return Err(Code::OUT_OF_MEMORY);
        }
        let at = host::map(bytes).ok_or(Code::OUT_OF_MEMORY)?;
        self.adopt_host(at, bytes, kind, flags)?;
        Ok(at)
    }

    /// All work of a context's device runs: what drivers do before memory of a device goes.
    fn settle_device(&mut self, device: usize) -> Answer {
        let ops: Vec<Id> = self
            .ops
            .iter()
            .filter(|(_, op)| self.contexts.get(&op.context).is_some_and(|context| context.device == device))
            .map(|(id, _)| *id)
            .collect();
        let context = self.current()?;
        self.finish(context, &ops)
    }
}

impl World {
    /// Kernels of `device` may use all memory of `owner` from now on.
    pub(crate) fn share_all(&mut self, owner: usize, device: usize) {
        let (from, to) = (self.vm(owner), self.vm(device));
        for address in self.memory_of(owner) {
            if let Some(region) = from.region(address) {
                let _ = to.map(&region);
            }
        }
    }

    pub(crate) fn unshare_all(&mut self, owner: usize, device: usize) {
        let vm = self.vm(device);
        for address in self.memory_of(owner) {
            let _ = vm.unmap(address);
        }
    }

    /// Kernels of `device` may use the memory of a pool, or no more.
    pub(crate) fn share_pool(&mut self, pool: Id, device: usize, share: bool) {
        let Some(known) = self.pools.get_mut(&pool) else { return };
        let owner = known.device;
        let changed = if share { known.shared_with.insert(device) } else { known.shared_with.remove(&device) };
        if !changed || self.contexts.values().any(|c| c.device == device && c.peers.values().any(|peer| *peer == owner))
        {
            return;
        }
        let (from, to) = (self.vm(owner), self.vm(device));
        let of = |range: &Range| matches!(range.kind, Kind::Pooled { pool: own, .. } if own == pool);
        for address in self.memory.iter().filter(|(_, range)| of(range)).map(|(at, _)| *at) {
            match from.region(address) {
                Some(region) if share => drop(to.map(&region)),
                _ => drop(to.unmap(address)),
            }
        }
    }

    fn memory_of(&self, device: usize) -> Vec<u64> {
        let of = |range: &Range| range.device == device && !range.on_host();
        self.memory.iter().filter(|(_, range)| of(range)).map(|(at, _)| *at).collect()
    }
}

/// Bytes that the machine can still give.
fn host_free() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

fn pointer_attribute(d: &Driver, attribute: u32, data: *mut c_void, address: u64) -> Answer {
    let (base, range) = d.range(address).ok_or(Code::INVALID_VALUE)?;
    let on_host = range.on_host();
    match attribute {
        1 => put(data.cast(), range.context),
        // Managed memory counts as device memory here.
        2 => put(data.cast::<u32>(), if on_host && !matches!(range.kind, Kind::Managed) { 1 } else { 2 }),
        3 if range.on_host() && range.region.is_none() => Err(Code::INVALID_VALUE),
        3 => put(data.cast(), address),
        4 if on_host => put(data.cast(), address),
        4 => Err(Code::INVALID_VALUE),
        6 => put(data.cast::<u32>(), 0),
        7 => put(data.cast(), range.id),
        8 => put(data.cast::<u32>(), u32::from(matches!(range.kind, Kind::Managed))),
        9 => put(data.cast::<i32>(), range.device as i32),
        10 => put(data.cast::<u32>(), 0),
        11 => put(data.cast(), base),
        12 => put(data.cast(), range.bytes),
        13 => put(data.cast::<u32>(), u32::from(!on_host || range.region.is_some())),
        14 => put(data.cast::<u64>(), 0),
        15 => put(data.cast::<u32>(), 0),
        // Read and write.
        16 => put(data.cast::<u32>(), 3),
        17 => match range.kind {
            Kind::Pooled { pool, .. } => put(data.cast(), pool),
            _ => put(data.cast::<u64>(), 0),
        },
        _ => Err(Code::INVALID_VALUE),
    }
}

api! {
    Context fn cuMemGetInfo_v2(d, free: *mut usize, total: *mut usize) {
        let device = d.current_device()?;
        let all = d.devices[device].spec.memory as usize;
        let used = d.vm(device).allocated_bytes();
        put(free, all.saturating_sub(used))?;
        put(total, all)
    }
    Unsafe fn cuMemAlloc_v2(d, out: *mut u64, bytes: usize) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let context = d.current()?;
        let device = d.contexts[&context].device;
        let address = d.allocate(bytes, Kind::Device, device, context)?;
        put(out, address)
    }
    Unsafe fn cuMemAllocPitch_v2(d, out: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32) {
        if out.is_null() || !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Code::OUT_OF_MEMORY)?;
        let context = d.current()?;
        let device = d.contexts[&context].device;
        let address = d.allocate(row.checked_mul(height).ok_or(Code::OUT_OF_MEMORY)?, Kind::Device, device, context)?;
        put(pitch, row)?;
        put(out, address)
    }
    Unsafe fn cuMemFree_v2(d, address: u64) {
        if address == 0 {
            return Ok(());
        }
        let range = d.memory.get(&address).ok_or(Code::INVALID_VALUE)?;
        let device = range.device;
        match range.kind {
            Kind::Device | Kind::Managed | Kind::Pooled { freed: false, .. } => {}
            _ => return Err(Code::INVALID_VALUE),
        }
        // The documentation does not promise it, but every driver waits here, and programs rely on that.
        if d.settings.free_waits {
            d.settle_device(device)?;
        }
        d.pause();
        d.release(address);
        Ok(())
    }
    Context fn cuMemGetAddressRange_v2(d, base: *mut u64, bytes: *mut usize, address: u64) {
        let (at, range) = d.range(address).ok_or(Code::NOT_FOUND)?;
        put_if(base, at);
        put_if(bytes, range.bytes);
        Ok(())
    }
    Unsafe fn cuMemHostAlloc(d, out: *mut u64, bytes: usize, flags: u32) {
        if out.is_null() || flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        let at = d.new_host(bytes, Kind::Pinned, flags)?;
        put(out, at)
    }
    Unsafe fn cuMemAllocHost_v2(d, out: *mut u64, bytes: usize) {
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let at = d.new_host(bytes, Kind::Pinned, 0)?;
        put(out, at)
    }
    Unsafe fn cuMemAllocManaged(d, out: *mut u64, bytes: usize, flags: u32) {
        if out.is_null() || !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        let at = d.new_host(bytes, Kind::Managed, flags)?;
        put(out, at)
    }
    Unsafe fn cuMemFreeHost(d, at: u64) {
        if at == 0 {
            return Ok(());
        }
        // What is queued is not waited for: nothing documented says so. It meets a fault. What runs now ends first.
        d.pause();
        if !matches!(d.memory.get(&at).ok_or(Code::INVALID_VALUE)?.kind, Kind::Pinned) {
            return Err(Code::INVALID_VALUE);
        }
        d.release(at);
        Ok(())
    }
    Context fn cuMemHostGetDevicePointer_v2(d, out: *mut u64, at: u64, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (_, range) = d.range(at).filter(|(_, range)| range.on_host()).ok_or(Code::INVALID_VALUE)?;
        if range.region.is_none() {
            // Below the addresses of devices: a program that is loaded low, and its heap.
            return Err(Code::NOT_SUPPORTED);
        }
        put(out, at)
    }
    Context fn cuMemHostGetFlags(d, flags: *mut u32, at: u64) {
        let (_, range) = d.range(at).filter(|(_, range)| range.on_host()).ok_or(Code::INVALID_VALUE)?;
        put(flags, range.flags)
    }
    Unsafe fn cuMemHostRegister_v2(d, at: u64, bytes: usize, flags: u32) {
        if at == 0 || bytes == 0 || flags > 15 {
            return Err(Code::INVALID_VALUE);
        }
        let end = at.checked_add(bytes as u64).ok_or(Code::INVALID_VALUE)?;
        let overlaps = d.range(at).is_some() || d.memory.range(at..end).next().is_some();
        if overlaps {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if !host::is_mapped(at, bytes) {
            return Err(Code::INVALID_VALUE);
        }
        d.adopt_host(at, bytes, Kind::Registered, flags)
    }
    Unsafe fn cuMemHostUnregister(d, at: u64) {
        d.pause();
        if !matches!(d.memory.get(&at).ok_or(Code::HOST_MEMORY_NOT_REGISTERED)?.kind, Kind::Registered) {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED);
        }
        d.release(at);
        Ok(())
    }
    Context fn cuPointerGetAttribute(d, data: *mut c_void, attribute: u32, address: u64) {
        pointer_attribute(d, attribute, data, address)
    }
    Context fn cuPointerGetAttributes(d, count: u32, attributes: *const u32, data: *const *mut c_void, address: u64) {
        let attributes = crate::api::list(attributes, count as usize)?;
        let places = crate::api::list(data, count as usize)?;
        // Of memory that is not known every answer is null.
        let bytes = |attribute: u32| if matches!(attribute, 2 | 6 | 8 | 9 | 10 | 13 | 15 | 16) { 4 } else { 8 };
        for (attribute, place) in attributes.into_iter().zip(places) {
            if pointer_attribute(d, attribute, place, address).is_err() {
                if place.is_null() || !(1..=20).contains(&attribute) {
                    return Err(Code::INVALID_VALUE);
                }
                // SAFETY: the program's variable of that size.
                unsafe { place.cast::<u8>().write_bytes(0, bytes(attribute)) };
            }
        }
        Ok(())
    }
    Context fn cuPointerSetAttribute(d, value: *const c_void, attribute: u32, address: u64) {
        let _ = value;
        d.range(address).ok_or(Code::INVALID_VALUE)?;
        // Synchronous memory operations: they are.
        if attribute == 6 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }
    Context fn cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz (d, address: u64, bytes: usize, device: i32, stream: Id) {
        let _ = device;
        prefetch(d, address, bytes, stream)
    }
    Context fn cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz (
        d,
        address: u64,
        bytes: usize,
        location: u64,
        flags: u32,
        stream: Id,
    ) {
        let _ = location;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        prefetch(d, address, bytes, stream)
    }
    Context fn cuMemAdvise(d, address: u64, bytes: usize, advice: u32, device: i32) {
        let _ = device;
        advise(d, address, bytes, advice)
    }
    Context fn cuMemAdvise_v2(d, address: u64, bytes: usize, advice: u32, location: u64) {
        let _ = location;
        advise(d, address, bytes, advice)
    }
    Context fn cuMemRangeGetAttribute(d, data: *mut c_void, bytes: usize, attribute: u32, address: u64, count: usize) {
        managed(d, address, count)?;
        // Read mostly, preferred location (none), accessed by (none), last prefetch (none).
        match (attribute, bytes) {
            (1, 4) => put(data.cast::<i32>(), 0),
            (2 | 4, 4) => put(data.cast::<i32>(), -2),
            (3, n) if n >= 4 && n % 4 == 0 => {
                for i in 0..n / 4 {
                    put(data.cast::<i32>().wrapping_add(i), -2)?;
                }
                Ok(())
            }
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

fn managed(d: &Driver, address: u64, bytes: usize) -> Answer {
    match d.whole_range(address, bytes) {
        Some((_, range)) if matches!(range.kind, Kind::Managed) => Ok(()),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn prefetch(d: &mut Driver, address: u64, bytes: usize, stream: Id) -> Answer {
    let stream = d.own_stream(stream)?;
    managed(d, address, bytes)?;
    d.submit(stream, Work::Nothing).map(drop)
}

fn advise(d: &Driver, address: u64, bytes: usize, advice: u32) -> Answer {
    if !(1..=6).contains(&advice) {
        return Err(Code::INVALID_VALUE);
    }
    managed(d, address, bytes)
}
