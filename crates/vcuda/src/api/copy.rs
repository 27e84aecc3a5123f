//! Copies and fills. The synchronous ones wait for as much as the documentation ("API synchronization behavior") says, and no more.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::api;
use crate::made::Id;
use crate::settings::Schedule;
use crate::work::{Copy, Extent, Fill, Place, Side, Work, span};

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy2D {
    src_x: usize,
    src_y: usize,
    src_type: u32,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: u32,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Memcpy3D {
    src_x: usize,
    src_y: usize,
    src_z: usize,
    src_lod: usize,
    src_type: u32,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_context: u64,
    src_pitch: usize,
    src_height: usize,
    dst_x: usize,
    dst_y: usize,
    dst_z: usize,
    dst_lod: usize,
    dst_type: u32,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_context: u64,
    dst_pitch: usize,
    dst_height: usize,
    width: usize,
    height: usize,
    depth: usize,
}

impl From<Memcpy2D> for Memcpy3D {
    fn from(c: Memcpy2D) -> Self {
        Memcpy3D {
            src_x: c.src_x,
            src_y: c.src_y,
            src_z: 0,
            src_lod: 0,
            src_type: c.src_type,
            src_host: c.src_host,
            src_device: c.src_device,
            src_array: c.src_array,
            src_context: 0,
            src_pitch: c.src_pitch,
            src_height: 0,
            dst_x: c.dst_x,
            dst_y: c.dst_y,
            dst_z: 0,
            dst_lod: 0,
            dst_type: c.dst_type,
            dst_host: c.dst_host,
            dst_device: c.dst_device,
            dst_array: c.dst_array,
            dst_context: 0,
            dst_pitch: c.dst_pitch,
            dst_height: 0,
            width: c.width,
            height: c.height,
            depth: 1,
        }
    }
}

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// `(type, host, device)` of a side: its address, and whether it has to be one that devices know.
fn address((kind, host, device): (u32, u64, u64)) -> Answer<(u64, bool)> {
    match kind {
        HOST => Ok((host, false)),
        DEVICE => Ok((device, true)),
        UNIFIED => Ok((device, false)),
        ARRAY => {
            eprintln!("vcuda: copies of arrays are not supported");
            Err(Code::NOT_SUPPORTED)
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

impl Driver {
    pub(crate) fn copy_of(&self, c: &Memcpy3D) -> Answer<Copy> {
        let extent = Extent { width: c.width, height: c.height, depth: c.depth };
        let side = |of: (u32, u64, u64), [x, y, z]: [usize; 3], pitch: usize, height: usize| -> Answer<Side> {
            let (base, device) = address(of)?;
            // Zero: as it takes, which only a whole copy may leave open.
            let pitch = if pitch == 0 { c.width.saturating_add(x) } else { pitch };
            let height = if height == 0 { c.height.saturating_add(y) } else { height };
            if pitch < c.width.saturating_add(x) || height < c.height.saturating_add(y) && c.depth > 1 || base == 0 {
                return Err(Code::INVALID_VALUE);
            }
            let slice = pitch.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
            let offset = slice.checked_mul(z).and_then(|a| pitch.checked_mul(y)?.checked_add(a)?.checked_add(x));
            let first = base.checked_add(offset.ok_or(Code::INVALID_VALUE)? as u64).ok_or(Code::INVALID_VALUE)?;
            let bytes = span(extent, pitch, slice).ok_or(Code::INVALID_VALUE)?;
            Ok(Side { place: self.place(first, bytes, device)?, pitch, slice })
        };
        Ok(Copy {
            src: side((c.src_type, c.src_host, c.src_device), [c.src_x, c.src_y, c.src_z], c.src_pitch, c.src_height)?,
            dst: side((c.dst_type, c.dst_host, c.dst_device), [c.dst_x, c.dst_y, c.dst_z], c.dst_pitch, c.dst_height)?,
            extent,
        })
    }

    fn flat(&self, dst: (u64, bool), src: (u64, bool), bytes: usize) -> Answer<Copy> {
        let side = |(at, device)| Ok(Side::flat(self.place(at, bytes, device)?));
        Ok(Copy { dst: side(dst)?, src: side(src)?, extent: Extent { width: bytes, height: 1, depth: 1 } })
    }

    /// A copy that the caller waits for, as far as the documentation says.
    fn copy(&mut self, copy: Copy) -> Answer {
        let null = self.own_stream(0)?;
        if copy.extent.is_empty() {
            return Ok(());
        }
        self.forbid_implicit(null)?;
        let context = self.streams[&null].context;
        let mut copy = copy;
        let host_to_device = !copy.src.place.is_device() && copy.dst.place.is_device();
        if host_to_device && copy.src.place.is_pageable() {
            // The stream is waited for, the bytes are taken; they may arrive after the call has returned.
            let before = self.stream_waits(null);
            self.finish(context, &before)?;
            copy.src = self.stage(&copy.src, copy.extent)?;
            return self.submit(null, Work::Copy(copy)).map(drop);
        }
        let between_devices = copy.src.place.is_device() && copy.dst.place.is_device();
        let op = self.submit(null, Work::Copy(copy))?;
        match op {
            Some(op) if !between_devices => self.finish(context, &[op]),
            _ => Ok(()),
        }
    }

    fn copy_async(&mut self, copy: Copy, stream: Id) -> Answer {
        // Streams of other contexts may copy, too.
        let stream = self.any_stream(stream)?;
        if copy.extent.is_empty() {
            return Ok(());
        }
        let mut copy = copy;
        let captured = self.streams[&stream].capture.is_some();
        if !copy.src.place.is_device() && !copy.dst.place.is_device() {
            // From host to host it is synchronous.
            let context = self.streams[&stream].context;
            return match self.submit(stream, Work::Copy(copy))? {
                Some(op) => self.finish(context, &[op]),
                None => Ok(()),
            };
        }
        // Bytes of pageable memory may be taken at once, or as late as the copy runs.
        if !captured
            && copy.src.place.is_pageable()
            && matches!(self.schedule(), Schedule::Random(_))
            && self.below(2) == 0
        {
            copy.src = self.stage(&copy.src, copy.extent)?;
        }
        self.submit(stream, Work::Copy(copy)).map(drop)
    }

    pub(crate) fn fill_of(
        &self,
        dst: u64,
        pitch: usize,
        value: u32,
        size: usize,
        [width, height]: [usize; 2],
    ) -> Answer<Fill> {
        let bytes = width.checked_mul(size).ok_or(Code::INVALID_VALUE)?;
        if !dst.is_multiple_of(size as u64) || height > 1 && (pitch < bytes || !pitch.is_multiple_of(size)) {
            return Err(Code::INVALID_VALUE);
        }
        let span = span(Extent { width: bytes, height, depth: 1 }, pitch, 0).ok_or(Code::INVALID_VALUE)?;
        Ok(Fill { dst: self.place(dst, span, true)?, pitch, value, size, width, height })
    }

    fn fill(&mut self, fill: Fill) -> Answer {
        let null = self.own_stream(0)?;
        self.forbid_implicit(null)?;
        let waits = matches!(fill.dst, Place::Host { .. });
        let context = self.streams[&null].context;
        match self.submit(null, Work::Fill(fill))? {
            Some(op) if waits => self.finish(context, &[op]),
            _ => Ok(()),
        }
    }

    fn fill_async(&mut self, fill: Fill, stream: Id) -> Answer {
        let stream = self.own_stream(stream)?;
        self.submit(stream, Work::Fill(fill)).map(drop)
    }

    /// Memory at `address` has to be of the context's device, or of the host.
    fn peer(&self, context: Id, address: u64) -> Answer {
        let device = self.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?.device;
        match self.range(address) {
            Some((_, range)) if !range.on_host() && range.device != device => Err(Code::INVALID_VALUE),
            _ => Ok(()),
        }
    }

    fn peers(&self, c: &Memcpy3D) -> Answer {
        self.peer(c.src_context, c.src_device)?;
        self.peer(c.dst_context, c.dst_device)
    }
}

fn read<T: std::marker::Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the program's structure.
    Ok(unsafe { from.read_unaligned() })
}

/// As `Memcpy3D` of graph nodes.
pub(crate) fn read_copy(d: &Driver, from: *const Memcpy3D) -> Answer<Copy> {
    d.copy_of(&read(from)?)
}

api! {
    Unsafe fn cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds (d, dst: u64, src: u64, bytes: usize) {
        let copy = d.flat((dst, true), (src, false), bytes)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds (d, dst: u64, src: u64, bytes: usize) {
        let copy = d.flat((dst, false), (src, true), bytes)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds (d, dst: u64, src: u64, bytes: usize) {
        let copy = d.flat((dst, true), (src, true), bytes)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpy / cuMemcpy_ptds (d, dst: u64, src: u64, bytes: usize) {
        let copy = d.flat((dst, false), (src, false), bytes)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpyPeer / cuMemcpyPeer_ptds (d, dst: u64, to: Id, src: u64, from: Id, bytes: usize) {
        d.peer(to, dst)?;
        d.peer(from, src)?;
        let copy = d.flat((dst, true), (src, true), bytes)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds (d, copy: *const Memcpy2D) {
        let copy = d.copy_of(&read(copy)?.into())?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds (d, copy: *const Memcpy2D) {
        let copy = d.copy_of(&read(copy)?.into())?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds (d, copy: *const Memcpy3D) {
        let copy = read_copy(d, copy)?;
        d.copy(copy)
    }
    Unsafe fn cuMemcpy3DPeer / cuMemcpy3DPeer_ptds (d, copy: *const Memcpy3D) {
        let copy = read(copy)?;
        d.peers(&copy)?;
        let copy = d.copy_of(&copy)?;
        d.copy(copy)
    }
    Context fn cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz (d, dst: u64, src: u64, bytes: usize, stream: Id) {
        let copy = d.flat((dst, true), (src, false), bytes)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz (d, dst: u64, src: u64, bytes: usize, stream: Id) {
        let copy = d.flat((dst, false), (src, true), bytes)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz (d, dst: u64, src: u64, bytes: usize, stream: Id) {
        let copy = d.flat((dst, true), (src, true), bytes)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpyAsync / cuMemcpyAsync_ptsz (d, dst: u64, src: u64, bytes: usize, stream: Id) {
        let copy = d.flat((dst, false), (src, false), bytes)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz (d, dst: u64, to: Id, src: u64, from: Id, bytes: usize, stream: Id) {
        d.peer(to, dst)?;
        d.peer(from, src)?;
        let copy = d.flat((dst, true), (src, true), bytes)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz (d, copy: *const Memcpy2D, stream: Id) {
        let copy = d.copy_of(&read(copy)?.into())?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz (d, copy: *const Memcpy3D, stream: Id) {
        let copy = read_copy(d, copy)?;
        d.copy_async(copy, stream)
    }
    Context fn cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz (d, copy: *const Memcpy3D, stream: Id) {
        let copy = read(copy)?;
        d.peers(&copy)?;
        let copy = d.copy_of(&copy)?;
        d.copy_async(copy, stream)
    }
    Unsafe fn cuMemsetD8_v2 / cuMemsetD8_v2_ptds (d, dst: u64, value: u8, count: usize) {
        let fill = d.fill_of(dst, 0, u32::from(value), 1, [count, 1])?;
        d.fill(fill)
    }
    Unsafe fn cuMemsetD16_v2 / cuMemsetD16_v2_ptds (d, dst: u64, value: u16, count: usize) {
        let fill = d.fill_of(dst, 0, u32::from(value), 2, [count, 1])?;
        d.fill(fill)
    }
    Unsafe fn cuMemsetD32_v2 / cuMemsetD32_v2_ptds (d, dst: u64, value: u32, count: usize) {
        let fill = d.fill_of(dst, 0, value, 4, [count, 1])?;
        d.fill(fill)
    }
    Unsafe fn cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds (d, dst: u64, pitch: usize, value: u8, width: usize, height: usize) {
        let fill = d.fill_of(dst, pitch, u32::from(value), 1, [width, height])?;
        d.fill(fill)
    }
    Unsafe fn cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds (d, dst: u64, pitch: usize, value: u16, width: usize, height: usize) {
        let fill = d.fill_of(dst, pitch, u32::from(value), 2, [width, height])?;
        d.fill(fill)
    }
    Unsafe fn cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds (d, dst: u64, pitch: usize, value: u32, width: usize, height: usize) {
        let fill = d.fill_of(dst, pitch, value, 4, [width, height])?;
        d.fill(fill)
    }
    Context fn cuMemsetD8Async / cuMemsetD8Async_ptsz (d, dst: u64, value: u8, count: usize, stream: Id) {
        let fill = d.fill_of(dst, 0, u32::from(value), 1, [count, 1])?;
        d.fill_async(fill, stream)
    }
    Context fn cuMemsetD16Async / cuMemsetD16Async_ptsz (d, dst: u64, value: u16, count: usize, stream: Id) {
        let fill = d.fill_of(dst, 0, u32::from(value), 2, [count, 1])?;
        d.fill_async(fill, stream)
    }
    Context fn cuMemsetD32Async / cuMemsetD32Async_ptsz (d, dst: u64, value: u32, count: usize, stream: Id) {
        let fill = d.fill_of(dst, 0, value, 4, [count, 1])?;
        d.fill_async(fill, stream)
    }
    Context fn cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz (
        d,
        dst: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: Id,
    ) {
        let fill = d.fill_of(dst, pitch, u32::from(value), 1, [width, height])?;
        d.fill_async(fill, stream)
    }
    Context fn cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz (
        d,
        dst: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: Id,
    ) {
        let fill = d.fill_of(dst, pitch, u32::from(value), 2, [width, height])?;
        d.fill_async(fill, stream)
    }
    Context fn cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz (
        d,
        dst: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: Id,
    ) {
        let fill = d.fill_of(dst, pitch, value, 4, [width, height])?;
        d.fill_async(fill, stream)
    }
}
