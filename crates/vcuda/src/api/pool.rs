//! Memory pools, and allocations in the order of a stream.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put};
use crate::made::Id;
use crate::object::{Kind, Pool};
use crate::work::Work;
use std::ffi::c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Location {
    kind: u32,
    id: i32,
}

#[repr(C)]
pub(crate) struct PoolProperties {
    kind: u32,
    handles: u32,
    location: Location,
    security: *mut c_void,
    max: usize,
    rest: [u8; 56],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Access {
    location: Location,
    flags: u32,
}

fn allocate(d: &mut Driver, out: *mut u64, bytes: usize, pool: Id, stream: Id) -> Answer {
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let stream = d.own_stream(stream)?;
    if let Some(capture) = d.streams[&stream].capture {
        // Memory nodes are not there.
        d.invalidate(capture);
        d.remark("stream-ordered allocation inside a capture is not supported".into());
        return Err(Code::NOT_SUPPORTED);
    }
    let (device, context) = (d.pools.get(&pool).ok_or(Code::INVALID_VALUE)?.device, d.current()?);
    let address = d.allocate(bytes, Kind::Pooled { pool, freed: false }, device, context)?;
    if let Some(pool) = d.pools.get_mut(&pool) {
        pool.used += bytes as u64;
        pool.used_high = pool.used_high.max(pool.used);
    }
    d.submit(stream, Work::Nothing)?;
    put(out, address)
}

api! {
    Context fn cuMemAllocAsync / cuMemAllocAsync_ptsz (d, out: *mut u64, bytes: usize, stream: Id) {
        let device = d.current_device()?;
        let pool = d.devices[device].pool;
        allocate(d, out, bytes, pool, stream)
    }
    Context fn cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz (d, out: *mut u64, bytes: usize, pool: Id, stream: Id) {
        allocate(d, out, bytes, pool, stream)
    }
    Context fn cuMemFreeAsync / cuMemFreeAsync_ptsz (d, address: u64, stream: Id) {
        let stream = d.own_stream(stream)?;
        if let Some(capture) = d.streams[&stream].capture {
            d.invalidate(capture);
            return Err(Code::NOT_SUPPORTED);
        }
        let range = d.memory.get_mut(&address).ok_or(Code::INVALID_VALUE)?;
        range.kind = match range.kind {
            Kind::Pooled { pool, freed: false } => Kind::Pooled { pool, freed: true },
            // Memory of cuMemAlloc may be freed this way too.
            Kind::Device => Kind::Pooled { pool: 0, freed: true },
            _ => return Err(Code::INVALID_VALUE),
        };
        d.submit(stream, Work::Free(address)).map(drop)
    }
    Init fn cuMemPoolCreate(d, out: *mut Id, properties: *const PoolProperties) {
        if properties.is_null() || out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let properties = unsafe { properties.read_unaligned() };
        if properties.kind != 1 || properties.location.kind != 1 {
            return Err(Code::INVALID_VALUE);
        }
        if properties.handles != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let device = d.device(properties.location.id)?;
        let (id, made) = (d.id(), d.made());
        let shared_with = std::collections::BTreeSet::new();
        d.pools.insert(id, Pool { device, default: false, threshold: 0, shared_with, reuse: [1; 3], used: 0, used_high: 0, made });
        put(out, id)
    }
    Init fn cuMemPoolDestroy(d, pool: Id) {
        if d.pools.get(&pool).ok_or(Code::INVALID_VALUE)?.default {
            return Err(Code::INVALID_VALUE);
        }
        d.pools.remove(&pool);
        for device in &mut d.devices {
            if device.pool == pool {
                device.pool = device.default_pool;
            }
        }
        Ok(())
    }
    Init fn cuMemPoolTrimTo(d, pool: Id, keep: usize) {
        let _ = keep;
        // Nothing is kept back that could be trimmed.
        d.pools.get(&pool).map(drop).ok_or(Code::INVALID_VALUE)
    }
    Init fn cuMemPoolGetAttribute(d, pool: Id, attribute: u32, value: *mut c_void) {
        let pool = d.pools.get(&pool).ok_or(Code::INVALID_VALUE)?;
        match attribute {
            1..=3 => put(value.cast::<u32>(), pool.reuse[attribute as usize - 1]),
            4 => put(value.cast::<u64>(), pool.threshold),
            5 | 7 => put(value.cast::<u64>(), pool.used),
            6 | 8 => put(value.cast::<u64>(), pool.used_high),
            _ => Err(Code::INVALID_VALUE),
        }
    }
    Init fn cuMemPoolSetAttribute(d, pool: Id, attribute: u32, value: *const c_void) {
        let pool = d.pools.get_mut(&pool).ok_or(Code::INVALID_VALUE)?;
        if value.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's value, of the size that belongs to the attribute.
        unsafe {
            match attribute {
                1..=3 => pool.reuse[attribute as usize - 1] = value.cast::<u32>().read_unaligned(),
                4 => pool.threshold = value.cast::<u64>().read_unaligned(),
                // The high marks can be set back, to zero alone.
                6 | 8 if value.cast::<u64>().read_unaligned() == 0 => pool.used_high = pool.used,
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        Ok(())
    }
    Init fn cuMemPoolSetAccess(d, pool: Id, accesses: *const Access, count: usize) {
        let known = d.pools.get(&pool).ok_or(Code::INVALID_VALUE)?.device;
        for access in crate::api::list(accesses, count)? {
            let device = d.device(access.location.id)?;
            match access.flags {
                // The owner always has it.
                0 if device == known => return Err(Code::INVALID_VALUE),
                0 | 3 if device != known => d.share_pool(pool, device, access.flags == 3),
                3 => {}
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        Ok(())
    }
    Init fn cuMemPoolGetAccess(d, flags: *mut u32, pool: Id, location: *const Location) {
        let known = d.pools.get(&pool).ok_or(Code::INVALID_VALUE)?;
        if location.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let device = d.device(unsafe { location.read_unaligned() }.id)?;
        put(flags, if device == known.device || known.shared_with.contains(&device) { 3 } else { 0 })
    }
}
