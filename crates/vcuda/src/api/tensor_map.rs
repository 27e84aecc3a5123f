//! Tensor maps: tiled ones, as `ptx-vm` reads them.

use std::ffi::c_void;

use ptx_vm::{TENSOR_MAP_BYTES, TensorMap, TensorSwizzle, TensorType};

use super::list;
use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::api;

/// Of `interleave`: none.
const INTERLEAVE_NONE: u32 = 0;
/// The most of `l2Promotion` and of `oobFill`.
const PROMOTIONS: u32 = 3;
const FILLS: u32 = 1;

/// Where the 128 bytes of a map go.
fn place(map: *mut c_void) -> Answer<*mut [u8; TENSOR_MAP_BYTES]> {
    let aligned = !map.is_null() && map.addr().is_multiple_of(64);
    if aligned { Ok(map.cast()) } else { Err(Code::INVALID_VALUE) }
}

/// Encodes a map that follows the rules.
fn write(d: &mut Driver, to: *mut [u8; TENSOR_MAP_BYTES], map: &TensorMap) -> Answer {
    let device = d.current_device()?;
    if d.devices[device].spec.capability < (9, 0) {
        d.remark("tensor maps are of GPUs from sm_90 on".into());
        return Err(Code::NOT_SUPPORTED);
    }
    let bytes = map.encode().map_err(|error| {
        d.remark(error.to_string());
        Code::INVALID_VALUE
    })?;
    // SAFETY: the program gives a place for a map; `place` has looked at it.
    unsafe { to.write(bytes) };
    Ok(())
}

api! {
    Context fn cuTensorMapEncodeTiled(
        d,
        map: *mut c_void,
        ty: u32,
        axes: u32,
        address: *mut c_void,
        sizes: *const u64,
        strides: *const u64,
        boxes: *const u32,
        steps: *const u32,
        interleave: u32,
        swizzle: u32,
        promotion: u32,
        fill: u32,
    ) {
        let to = place(map)?;
        let axes = axes as usize;
        if !(1..=5).contains(&axes) || promotion > PROMOTIONS || fill > FILLS {
            return Err(Code::INVALID_VALUE);
        }
        let (Some(ty), Some(swizzle)) = (TensorType::numbered(ty), TensorSwizzle::numbered(swizzle)) else {
            d.remark(format!("a tensor map of type {ty} with swizzle {swizzle} is not supported"));
            return Err(Code::NOT_SUPPORTED);
        };
        if interleave != INTERLEAVE_NONE {
            d.remark("interleaved tensor maps are not supported".into());
            return Err(Code::NOT_SUPPORTED);
        }
        let (sizes, strides, boxes) = (list(sizes, axes)?, list(strides, axes - 1)?, list(boxes, axes)?);
        let mut made = TensorMap::new(ty, address.addr() as u64, &sizes, &strides, &boxes).with_swizzle(swizzle);
        (made.steps, made.nan) = (list(steps, axes)?, fill != 0);
        write(d, to, &made)
    }
    Context fn cuTensorMapReplaceAddress(d, map: *mut c_void, address: *mut c_void) {
        let to = place(map)?;
        // SAFETY: the program gives a map; what is none is told apart.
        let mut made = TensorMap::decode(unsafe { &*to }).ok_or(Code::INVALID_VALUE)?;
        made.address = address.addr() as u64;
        write(d, to, &made)
    }
}
