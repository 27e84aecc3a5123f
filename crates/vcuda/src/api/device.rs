//! Devices: count, names, attributes, their pools, peers.

use crate::code::Code;
use crate::enter::{api, put, put_if, text};
use crate::made::Id;
use crate::spec::Chip;
use std::ffi::{c_char, c_void};

#[repr(C)]
pub(crate) struct DeviceProperties {
    threads_per_block: i32,
    block: [i32; 3],
    grid: [i32; 3],
    shared_per_block: i32,
    constant: i32,
    warp: i32,
    pitch: i32,
    registers: i32,
    clock: i32,
    texture_align: i32,
}

fn copy_text(words: &str, to: *mut c_char, bytes: i32) -> Result<(), Code> {
    if to.is_null() || bytes <= 0 {
        return Err(Code::INVALID_VALUE);
    }
    let used = words.len().min(bytes as usize - 1);
    // SAFETY: the program's buffer has that many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(words.as_ptr(), to.cast::<u8>(), used);
        to.add(used).write(0);
    }
    Ok(())
}

api! {
    Init fn cuDeviceGetCount(d, count: *mut i32) {
        put(count, d.devices.len() as i32)
    }
    Init fn cuDeviceGet(d, device: *mut i32, ordinal: i32) {
        d.device(ordinal)?;
        put(device, ordinal)
    }
    Init fn cuDeviceGetName(d, name: *mut c_char, bytes: i32, device: i32) {
        let device = d.device(device)?;
        copy_text(&d.devices[device].spec.name, name, bytes)
    }
    Init fn cuDeviceGetUuid(d, uuid: *mut [u8; 16], device: i32) {
        let device = d.device(device)?;
        put(uuid, d.devices[device].spec.uuid())
    }
    Init fn cuDeviceGetUuid_v2(d, uuid: *mut [u8; 16], device: i32) {
        let device = d.device(device)?;
        put(uuid, d.devices[device].spec.uuid())
    }
    Init fn cuDeviceTotalMem_v2(d, bytes: *mut usize, device: i32) {
        let device = d.device(device)?;
        put(bytes, d.devices[device].spec.memory as usize)
    }
    Init fn cuDeviceGetAttribute(d, value: *mut i32, attribute: i32, device: i32) {
        let device = d.device(device)?;
        put(value, d.devices[device].spec.attribute(attribute).ok_or(Code::INVALID_VALUE)?)
    }
    Init fn cuDeviceComputeCapability(d, major: *mut i32, minor: *mut i32, device: i32) {
        let device = d.device(device)?;
        let (has_major, has_minor) = d.devices[device].spec.capability;
        put(major, has_major as i32)?;
        put(minor, has_minor as i32)
    }
    Init fn cuDeviceGetProperties(d, properties: *mut DeviceProperties, device: i32) {
        let device = d.device(device)?;
        let spec = &d.devices[device].spec;
        put(properties, DeviceProperties {
            threads_per_block: Chip::THREADS_PER_BLOCK as i32,
            block: [1024, 1024, 64],
            grid: [i32::MAX, 65535, 65535],
            shared_per_block: Chip::SHARED_PER_BLOCK as i32,
            constant: 64 << 10,
            warp: Chip::WARP as i32,
            pitch: i32::MAX,
            registers: Chip::REGISTERS as i32,
            clock: spec.chip.clock as i32,
            texture_align: 512,
        })
    }
    Init fn cuDeviceGetPCIBusId(d, id: *mut c_char, bytes: i32, device: i32) {
        let device = d.device(device)?;
        copy_text(&d.devices[device].spec.pci_bus_id(), id, bytes)
    }
    Init fn cuDeviceGetByPCIBusId(d, device: *mut i32, id: *const c_char) {
        let wanted = text(id)?;
        let found = d.devices.iter().position(|device| device.spec.pci_bus_id().eq_ignore_ascii_case(wanted));
        put(device, found.ok_or(Code::INVALID_DEVICE)? as i32)
    }
    Init fn cuDeviceGetDefaultMemPool(d, pool: *mut Id, device: i32) {
        let device = d.device(device)?;
        put(pool, d.devices[device].default_pool)
    }
    Init fn cuDeviceGetMemPool(d, pool: *mut Id, device: i32) {
        let device = d.device(device)?;
        put(pool, d.devices[device].pool)
    }
    Init fn cuDeviceSetMemPool(d, device: i32, pool: Id) {
        let device = d.device(device)?;
        if d.pools.get(&pool).is_none_or(|pool| pool.device != device) {
            return Err(Code::INVALID_VALUE);
        }
        d.devices[device].pool = pool;
        Ok(())
    }
    Init fn cuDeviceGetExecAffinitySupport(d, supported: *mut i32, kind: u32, device: i32) {
        d.device(device)?;
        let _ = kind;
        put(supported, 0)
    }
    Init fn cuDeviceCanAccessPeer(d, can: *mut i32, device: i32, peer: i32) {
        let (device, peer) = (d.device(device)?, d.device(peer)?);
        put(can, i32::from(device != peer))
    }
    Init fn cuDeviceGetP2PAttribute(d, value: *mut i32, attribute: u32, from: i32, to: i32) {
        let (from, to) = (d.device(from)?, d.device(to)?);
        if from == to {
            return Err(Code::INVALID_DEVICE);
        }
        // Rank, access, native atomics, access of arrays.
        put(value, match attribute {
            1 => 0,
            2 | 3 => 1,
            4 => 0,
            _ => return Err(Code::INVALID_VALUE),
        })
    }
    Context fn cuCtxEnablePeerAccess(d, peer: Id, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let own = d.current()?;
        let other = d.contexts.get(&peer).ok_or(Code::INVALID_CONTEXT)?.device;
        let device = d.contexts[&own].device;
        if other == device {
            return Err(Code::PEER_ACCESS_UNSUPPORTED);
        }
        if d.contexts.get_mut(&own).ok_or(Code::INVALID_CONTEXT)?.peers.insert(peer, other).is_some() {
            return Err(Code::PEER_ACCESS_ALREADY_ENABLED);
        }
        d.share_all(other, device);
        Ok(())
    }
    Context fn cuCtxDisablePeerAccess(d, peer: Id) {
        let own = d.current()?;
        let removed = d.contexts.get_mut(&own).ok_or(Code::INVALID_CONTEXT)?.peers.remove(&peer);
        let other = removed.ok_or(Code::PEER_ACCESS_NOT_ENABLED)?;
        let device = d.contexts[&own].device;
        let still = d.contexts.values().any(|context| context.device == device && context.peers.values().any(|peer| *peer == other));
        if !still {
            d.unshare_all(other, device);
        }
        Ok(())
    }
    Init fn cuDeviceGetLuid(d, luid: *mut c_char, mask: *mut u32, device: i32) {
        d.device(device)?;
        let _ = luid;
        put_if(mask, 0);
        // Windows alone has them.
        Err(Code::NOT_SUPPORTED)
    }
    Init fn cuDeviceGetTexture1DLinearMaxWidth(d, width: *mut usize, format: u32, channels: u32, device: i32) {
        d.device(device)?;
        let _ = (format, channels);
        put(width, 1 << 27)
    }
    Init fn cuFlushGPUDirectRDMAWrites(d, target: u32, scope: u32) {
        let _ = (target, scope);
        Ok(())
    }
    Bare fn cuGetExportTable(d, table: *mut *const c_void, id: *const c_void) {
        let _ = id;
        put_if(table, std::ptr::null());
        // The runtime library's private doors: programs of the runtime API do not get in here.
        d.remark("cuGetExportTable: programs of the CUDA runtime API are not supported, only those of the driver API".into());
        Err(Code::NOT_SUPPORTED)
    }
}
