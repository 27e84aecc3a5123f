//! Memory of devices, pools and the host; copies and fills in all forms; what addresses are.

use super::client::{code::*, *};
use std::ffi::c_void;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Copy2 {
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

/// CUDA_MEMCPY3D_PEER; without contexts it has the layout of CUDA_MEMCPY3D.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Copy3 {
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

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const UNIFIED: u32 = 4;

fn free_bytes() -> usize {
    let (mut free, mut total) = (0usize, 0usize);
    ok("cuMemGetInfo_v2", (&mut free, &mut total));
    free
}

scenarios! {
    device_memory [VCUDA_MEMORY = "16MiB"] {
        start();
        let all = free_bytes();
        assert_eq!(all, 16 << 20);
        let memory = alloc(1 << 20);
        assert_eq!(memory % 256, 0);
        assert_eq!(free_bytes(), all - (1 << 20));
        assert_eq!(download::<u8>(memory, 1 << 20), vec![0xff; 1 << 20], "fresh memory");
        fails(OUT_OF_MEMORY, "cuMemAlloc_v2", (&mut 0u64, 16usize << 20));
        fails(INVALID_VALUE, "cuMemAlloc_v2", (&mut 0u64, 0usize));
        fails(INVALID_VALUE, "cuMemAlloc_v2", (0u64, 16usize));
        let (mut base, mut bytes) = (0u64, 0usize);
        ok("cuMemGetAddressRange_v2", (&mut base, &mut bytes, memory + 777));
        assert_eq!((base, bytes), (memory, 1 << 20));
        fails(NOT_FOUND, "cuMemGetAddressRange_v2", (&mut base, &mut bytes, 4096u64));
        fails(INVALID_VALUE, "cuMemFree_v2", (memory + 256,));
        ok("cuMemFree_v2", (memory,));
        ok("cuMemFree_v2", (NULL,));
        fails(INVALID_VALUE, "cuMemFree_v2", (memory,));
        fails(INVALID_VALUE, "cuMemcpyDtoH_v2", ([0u8; 4].as_mut_ptr(), memory, 4usize));
        assert_eq!(free_bytes(), all);
        let (mut memory, mut pitch) = (0u64, 0usize);
        ok("cuMemAllocPitch_v2", (&mut memory, &mut pitch, 100usize, 3usize, 4u32));
        assert!(pitch >= 100 && pitch % 256 == 0, "{pitch}");
        fails(INVALID_VALUE, "cuMemAllocPitch_v2", (&mut memory, &mut pitch, 100usize, 3usize, 5u32));
    }

    copies_in_one_piece [] {
        start();
        let (a, b) = (alloc(64), alloc(64));
        let bytes: Vec<u8> = (0..64).collect();
        upload(a, &bytes);
        ok("cuMemcpyDtoD_v2", (b, a + 16, 32usize));
        let out: Vec<u8> = download(b, 64);
        assert_eq!((&out[..32], &out[32..]), (&bytes[16..48], &[0xff; 32][..]));
        // Unified: any to any.
        let mut host = [0u8; 8];
        ok("cuMemcpy", (host.as_mut_ptr(), a, 8usize));
        assert_eq!(host, [0, 1, 2, 3, 4, 5, 6, 7]);
        ok("cuMemcpyAsync", (b, host.as_ptr(), 4usize, NULL));
        ok("cuStreamSynchronize", (NULL,));
        assert_eq!(download::<u8>(b, 8), [0, 1, 2, 3, 20, 21, 22, 23]);
        // Over the end, of nothing known, and nothing at all.
        fails(INVALID_VALUE, "cuMemcpyHtoD_v2", (a + 60, bytes.as_ptr(), 8usize));
        fails(INVALID_VALUE, "cuMemcpyDtoD_v2", (a, b + 60, 8usize));
        fails(INVALID_VALUE, "cuMemcpyHtoD_v2", (bytes.as_ptr(), bytes.as_ptr(), 8usize));
        fails(INVALID_VALUE, "cuMemcpyDtoHAsync_v2", (host.as_mut_ptr(), 4096u64, 8usize, NULL));
        fails(INVALID_VALUE, "cuMemcpyHtoD_v2", (a, NULL, 8usize));
        ok("cuMemcpyHtoD_v2", (a, bytes.as_ptr(), 0usize));
        ok("cuMemcpyHtoD_v2", (NULL, NULL, 0usize));
        ok("cuMemcpyDtoHAsync_v2", (NULL, NULL, 0usize, NULL));
    }

    /// From host to host a copy is synchronous, also the asynchronous one, also in a late driver.
    host_to_host_is_synchronous [VCUDA_SCHEDULE = "late"] {
        start();
        let (from, to) = (pinned::<u32>(4), pinned::<u32>(4));
        // SAFETY: pinned memory of this test.
        unsafe { from.write(77) };
        ok("cuMemcpyAsync", (to, from, 16usize, stream(0)));
        assert_eq!(peek(to, 0), 77);
    }

    fills [] {
        start();
        let memory = alloc(64);
        let bytes = || download::<u8>(memory, 16);
        ok("cuMemsetD8_v2", (memory, 0x11u8, 16usize));
        assert_eq!(bytes(), [0x11; 16]);
        ok("cuMemsetD16_v2", (memory + 2, 0x2233u16, 2usize));
        assert_eq!(bytes()[..8], [0x11, 0x11, 0x33, 0x22, 0x33, 0x22, 0x11, 0x11]);
        ok("cuMemsetD32_v2", (memory + 8, 0x4455_6677u32, 1usize));
        assert_eq!(bytes()[8..13], [0x77, 0x66, 0x55, 0x44, 0x11]);
        ok("cuMemsetD8Async", (memory, 1u8, 16usize, NULL));
        ok("cuMemsetD16Async", (memory, 0x0202u16, 1usize, NULL));
        ok("cuMemsetD32Async", (memory + 4, 0x0303_0303u32, 1usize, NULL));
        assert_eq!(bytes()[..9], [2, 2, 1, 1, 3, 3, 3, 3, 1]);
        // Rows of 3, 8 apart.
        ok("cuMemsetD2D8_v2", (memory, 8usize, 0u8, 3usize, 2usize));
        assert_eq!(bytes(), [0, 0, 0, 1, 3, 3, 3, 3, 0, 0, 0, 1, 1, 1, 1, 1]);
        ok("cuMemsetD2D16_v2", (memory, 8usize, 0x0909u16, 1usize, 2usize));
        ok("cuMemsetD2D32_v2", (memory + 4, 8usize, 0x0707_0707u32, 1usize, 2usize));
        ok("cuMemsetD2D8Async", (memory + 2, 8usize, 6u8, 1usize, 2usize, NULL));
        ok("cuMemsetD2D16Async", (memory, 8usize, 0x0a0au16, 1usize, 1usize, NULL));
        ok("cuMemsetD2D32Async", (memory + 12, 8usize, 0u32, 1usize, 1usize, NULL));
        assert_eq!(bytes(), [10, 10, 6, 1, 7, 7, 7, 7, 9, 9, 6, 1, 0, 0, 0, 0]);
        // Not aligned, over the end, of host memory that is not known, rows into each other.
        fails(INVALID_VALUE, "cuMemsetD16_v2", (memory + 1, 0u16, 1usize));
        fails(INVALID_VALUE, "cuMemsetD32_v2", (memory + 2, 0u32, 1usize));
        fails(INVALID_VALUE, "cuMemsetD8_v2", (memory, 0u8, 65usize));
        fails(INVALID_VALUE, "cuMemsetD8_v2", ([0u8; 4].as_mut_ptr(), 0u8, 4usize));
        fails(INVALID_VALUE, "cuMemsetD2D8_v2", (memory, 2usize, 0u8, 3usize, 2usize));
        let host = pinned::<u8>(8);
        ok("cuMemsetD8_v2", (host, 3u8, 8usize));
        assert_eq!(peek(host, 7), 3);
    }

    copies_of_rows [] {
        start();
        // 4 rows of 8 bytes; a rectangle of 3 x 2 at (2, 1) to (1, 2) of another.
        let bytes: Vec<u8> = (0..32).collect();
        let (a, b) = (alloc(32), alloc(32));
        upload(a, &bytes);
        upload(b, &[0u8; 32]);
        let copy = Copy2 {
            src_x: 2, src_y: 1, src_type: DEVICE, src_device: a, src_pitch: 8,
            dst_x: 1, dst_y: 2, dst_type: DEVICE, dst_device: b, dst_pitch: 8,
            width: 3, height: 2, ..Copy2::default()
        };
        ok("cuMemcpy2D_v2", (&copy,));
        let out: Vec<u8> = download(b, 32);
        assert_eq!(out[17..20], [10, 11, 12]);
        assert_eq!(out[25..28], [18, 19, 20]);
        assert_eq!(out.iter().filter(|byte| **byte != 0).count(), 6);
        // To the host, packed, on a stream.
        let mut host = [0u8; 6];
        let to_host = Copy2 { dst_x: 0, dst_y: 0, dst_type: HOST, dst_host: host.as_mut_ptr() as u64, dst_pitch: 3, ..copy };
        ok("cuMemcpy2DAsync_v2", (&to_host, NULL));
        ok("cuStreamSynchronize", (NULL,));
        assert_eq!(host, [10, 11, 12, 18, 19, 20]);
        let unified = Copy2 { src_type: UNIFIED, dst_type: UNIFIED, dst_device: host.as_mut_ptr() as u64, ..to_host };
        ok("cuMemcpy2DUnaligned_v2", (&unified,));
        // The rectangle has to be inside of the rows, and inside of memory.
        fails(INVALID_VALUE, "cuMemcpy2D_v2", (&Copy2 { src_x: 6, ..copy },));
        fails(INVALID_VALUE, "cuMemcpy2D_v2", (&Copy2 { dst_pitch: 2, ..copy },));
        fails(INVALID_VALUE, "cuMemcpy2D_v2", (&Copy2 { height: 9, ..copy },));
        fails(INVALID_VALUE, "cuMemcpy2D_v2", (&Copy2 { src_type: 9, ..copy },));
        fails(NOT_SUPPORTED, "cuMemcpy2D_v2", (&Copy2 { src_type: 3, ..copy },));
        fails(INVALID_VALUE, "cuMemcpy2D_v2", (NULL,));
    }

    copies_of_boxes [] {
        let own = start();
        // 3 slices of 3 rows of 4 bytes; a box of 2 x 2 x 2 at (1, 1, 1).
        let bytes: Vec<u8> = (0..36).collect();
        let a = alloc(36);
        upload(a, &bytes);
        let mut host = [0u8; 8];
        let copy = Copy3 {
            src_x: 1, src_y: 1, src_z: 1, src_type: DEVICE, src_device: a, src_pitch: 4, src_height: 3,
            dst_type: HOST, dst_host: host.as_mut_ptr() as u64, dst_pitch: 2, dst_height: 2,
            width: 2, height: 2, depth: 2, ..Copy3::default()
        };
        let expected = [17, 18, 21, 22, 29, 30, 33, 34];
        ok("cuMemcpy3D_v2", (&copy,));
        assert_eq!(host, expected);
        host.fill(0);
        ok("cuMemcpy3DAsync_v2", (&copy, NULL));
        ok("cuStreamSynchronize", (NULL,));
        assert_eq!(host, expected);
        host.fill(0);
        ok("cuMemcpy3DPeer", (&Copy3 { src_context: own, dst_context: own, ..copy },));
        assert_eq!(host, expected);
        fails(INVALID_CONTEXT, "cuMemcpy3DPeer", (&copy,));
        fails(INVALID_VALUE, "cuMemcpy3D_v2", (&Copy3 { src_z: 2, ..copy },));
        fails(INVALID_VALUE, "cuMemcpy3D_v2", (&Copy3 { src_height: 2, ..copy },));
        ok("cuMemcpy3D_v2", (&Copy3 { depth: 0, ..copy },));
    }

    host_memory [] {
        start();
        let host = pinned::<u32>(4);
        assert_eq!(peek(host, 3), u32::MAX, "fresh memory");
        let mut device = 0u64;
        ok("cuMemHostGetDevicePointer_v2", (&mut device, host, 0u32));
        let fill = function(module(PTX), "fill");
        launch(fill, 1, 4, NULL, &[P(device), U(6)]);
        ok("cuCtxSynchronize", ());
        assert_eq!(peek(host, 3), 6, "kernels write to the host");
        let portable = made(|out| cu("cuMemHostAlloc", (out, 16usize, 3u32)));
        let mut flags = 9u32;
        ok("cuMemHostGetFlags", (&mut flags, portable + 4));
        assert_eq!(flags, 3);
        ok("cuMemFreeHost", (portable,));
        fails(INVALID_VALUE, "cuMemFreeHost", (portable,));
        fails(INVALID_VALUE, "cuMemFree_v2", (host,));
        fails(INVALID_VALUE, "cuMemHostAlloc", (&mut device, 16usize, 8u32));
        fails(INVALID_VALUE, "cuMemAllocHost_v2", (&mut device, 0usize));
        ok("cuMemFreeHost", (host,));
        let old = made(|out| cu("cuMemAllocHost_v2", (out, 16usize)));
        ok("cuMemFreeHost", (old,));
    }

    registered_memory [] {
        start();
        // Such memory as large allocations get, high enough for kernels.
        let own: &'static mut [u32] = vec![1u32; 1 << 20].leak();
        let (at, bytes) = (own.as_mut_ptr(), size_of_val(own));
        ok("cuMemHostRegister_v2", (at, bytes, 0u32));
        fails(HOST_MEMORY_ALREADY_REGISTERED, "cuMemHostRegister_v2", (at as u64 + 4096, 4096usize, 0u32));
        let mut device = 0u64;
        ok("cuMemHostGetDevicePointer_v2", (&mut device, at, 0u32));
        launch(function(module(PTX), "add"), 1, 4, NULL, &[P(device), P(device), U(41)]);
        ok("cuCtxSynchronize", ());
        assert_eq!(peek(at, 3), 42);
        fails(HOST_MEMORY_NOT_REGISTERED, "cuMemHostUnregister", (at as u64 + 4,));
        ok("cuMemHostUnregister", (at,));
        fails(HOST_MEMORY_NOT_REGISTERED, "cuMemHostUnregister", (at,));
        fails(INVALID_VALUE, "cuMemHostRegister_v2", (at, 0usize, 0u32));
        // Nothing is there.
        fails(INVALID_VALUE, "cuMemHostRegister_v2", (1u64 << 46, 4096usize, 0u32));
    }

    managed_memory [] {
        start();
        let at = made(|out| cu("cuMemAllocManaged", (out, 64usize, 1u32)));
        let fill = function(module(PTX), "fill");
        launch(fill, 1, 16, NULL, &[P(at), U(3)]);
        ok("cuMemPrefetchAsync", (at, 64usize, 0i32, NULL));
        ok("cuMemAdvise", (at, 64usize, 1u32, 0i32));
        ok("cuStreamAttachMemAsync", (NULL, at, 0usize, 1u32));
        ok("cuCtxSynchronize", ());
        assert_eq!(peek(at as *const u32, 15), 3);
        let mut value = 9i32;
        ok("cuMemRangeGetAttribute", (&mut value, 4usize, 2u32, at, 64usize));
        assert_eq!(value, -2);
        fails(INVALID_VALUE, "cuMemPrefetchAsync", (at, 65usize, 0i32, NULL));
        fails(INVALID_VALUE, "cuMemAdvise", (alloc(64), 64usize, 1u32, 0i32));
        fails(INVALID_VALUE, "cuMemAllocManaged", (&mut 0u64, 64usize, 0u32));
        ok("cuMemFree_v2", (at,));
    }

    pools [VCUDA_DEVICES = "sm_80,sm_80"] {
        start();
        let all = free_bytes();
        let s = stream(0);
        let memory = made(|out| cu("cuMemAllocAsync", (out, 4096usize, s)));
        let fill = function(module(PTX), "fill");
        launch(fill, 1, 16, s, &[P(memory), U(3)]);
        assert_eq!(download::<u32>(memory, 16), [3; 16]);
        ok("cuMemFreeAsync", (memory, s));
        fails(INVALID_VALUE, "cuMemFreeAsync", (memory, s));
        fails(INVALID_VALUE, "cuMemFree_v2", (memory,));
        ok("cuStreamSynchronize", (s,));
        assert_eq!(free_bytes(), all);
        // Either kind may be freed either way, once.
        let memory = made(|out| cu("cuMemAllocAsync", (out, 4096usize, s)));
        ok("cuMemFree_v2", (memory,));
        let memory = alloc(64);
        ok("cuMemFreeAsync", (memory, s));
        fails(INVALID_VALUE, "cuMemFreeAsync", (memory, s));
        // An own pool.
        #[repr(C)]
        struct Properties { kind: u32, handles: u32, location: (u32, i32), security: u64, max: usize, rest: [u8; 56] }
        let mut properties = Properties { kind: 1, handles: 0, location: (1, 0), security: 0, max: 0, rest: [0; 56] };
        let pool = made(|out| cu("cuMemPoolCreate", (out, &properties)));
        properties.location.1 = 5;
        fails(INVALID_DEVICE, "cuMemPoolCreate", (&mut 0u64, &properties));
        let attribute = |which: u32| { let mut value = 0u64; ok("cuMemPoolGetAttribute", (pool, which, &mut value)); value };
        ok("cuMemPoolSetAttribute", (pool, 4u32, &u64::MAX));
        assert_eq!(attribute(4), u64::MAX);
        let memory = made(|out| cu("cuMemAllocFromPoolAsync", (out, 1000usize, pool, s)));
        assert_eq!((attribute(7), attribute(8)), (1000, 1000));
        let mut of = 0u64;
        ok("cuPointerGetAttribute", (&mut of, 17u32, memory));
        assert_eq!(of, pool);
        ok("cuMemFreeAsync", (memory, s));
        ok("cuStreamSynchronize", (s,));
        assert_eq!((attribute(7), attribute(8)), (0, 1000));
        ok("cuMemPoolSetAttribute", (pool, 8u32, &0u64));
        assert_eq!(attribute(8), 0);
        ok("cuMemPoolTrimTo", (pool, 0usize));
        // It becomes the device's, until it is destroyed.
        ok("cuDeviceSetMemPool", (0i32, pool));
        assert_eq!(made(|out| cu("cuDeviceGetMemPool", (out, 0i32))), pool);
        ok("cuMemPoolDestroy", (pool,));
        let default = made(|out| cu("cuDeviceGetDefaultMemPool", (out, 0i32)));
        assert_eq!(made(|out| cu("cuDeviceGetMemPool", (out, 0i32))), default);
        fails(INVALID_VALUE, "cuMemPoolDestroy", (pool,));
        fails(INVALID_VALUE, "cuMemPoolDestroy", (default,));
        fails(INVALID_VALUE, "cuMemAllocFromPoolAsync", (&mut 0u64, 16usize, pool, s));
    }

    /// Memory of a pool is another device's to use as far as the pool says, before and after.
    pools_of_another_device [VCUDA_DEVICES = "sm_80,sm_80"] {
        start();
        let pool = made(|out| cu("cuDeviceGetDefaultMemPool", (out, 0i32)));
        let before = made(|out| cu("cuMemAllocAsync", (out, 64usize, NULL)));
        let (location, mut flags) = ([1u32, 1], 9u32);
        ok("cuMemPoolGetAccess", (&mut flags, pool, &location));
        assert_eq!(flags, 0);
        ok("cuMemPoolSetAccess", (pool, &[1u32, 1, 3], 1usize));
        ok("cuMemPoolGetAccess", (&mut flags, pool, &location));
        assert_eq!(flags, 3);
        fails(INVALID_VALUE, "cuMemPoolSetAccess", (pool, &[1u32, 0, 0], 1usize));
        let after = made(|out| cu("cuMemAllocAsync", (out, 64usize, NULL)));
        let not = alloc(64);
        ok("cuStreamSynchronize", (NULL,));
        context(1);
        let fill = function(module(PTX), "fill");
        launch(fill, 1, 16, NULL, &[P(before), U(1)]);
        launch(fill, 1, 16, NULL, &[P(after), U(2)]);
        ok("cuCtxSynchronize", ());
        launch(fill, 1, 16, NULL, &[P(not), U(3)]);
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
    }

    what_addresses_are [VCUDA_DEVICES = "sm_80,sm_90"] {
        start();
        let second = context(1);
        let (device, host) = (alloc(1000), pinned::<u8>(100) as u64);
        let ask = |which: u32, at: u64| { let mut value = 0u64; (cu("cuPointerGetAttribute", (&mut value, which, at)), value) };
        assert_eq!(ask(1, device + 10), (0, second));
        assert_eq!(ask(2, device), (0, 2));
        assert_eq!(ask(2, host), (0, 1));
        assert_eq!(ask(3, device + 10), (0, device + 10));
        assert_eq!(ask(4, host + 10), (0, host + 10));
        assert_eq!(ask(4, device).0, INVALID_VALUE);
        assert_eq!(ask(9, device), (0, 1));
        assert_eq!(ask(11, device + 10), (0, device));
        assert_eq!(ask(12, device + 10), (0, 1000));
        assert_ne!(ask(7, device).1, ask(7, host).1);
        let stack = 0u64;
        assert_eq!(ask(2, std::ptr::from_ref(&stack) as u64).0, INVALID_VALUE);
        assert_eq!(ask(99, device).0, INVALID_VALUE);
        // Several at once; of memory that is not known, zeros.
        let (mut kind, mut base) = (9u32, 9u64);
        let places = [std::ptr::from_mut(&mut kind).cast::<c_void>(), std::ptr::from_mut(&mut base).cast()];
        ok("cuPointerGetAttributes", (2u32, &[2u32, 11], &places, device + 1));
        assert_eq!((kind, base), (2, device));
        ok("cuPointerGetAttributes", (2u32, &[2u32, 11], &places, std::ptr::from_ref(&stack)));
        assert_eq!((kind, base), (0, 0));
        ok("cuPointerSetAttribute", (&1u32, 6u32, device));
        fails(INVALID_VALUE, "cuPointerSetAttribute", (&1u32, 6u32, &stack));
    }

    peers [VCUDA_DEVICES = "sm_80,sm_80"] {
        let first = start();
        let a = alloc(64);
        upload(a, &[5u32; 16]);
        let second = context(1);
        let b = alloc(64);
        let module = module(PTX);
        let add = function(module, "add");
        // Copies need no access.
        ok("cuMemcpyPeer", (b, second, a, first, 64usize));
        ok("cuCtxSynchronize", ());
        assert_eq!(download::<u32>(b, 16), [5; 16]);
        fails(INVALID_VALUE, "cuMemcpyPeer", (b, first, a, first, 64usize));
        fails(INVALID_CONTEXT, "cuMemcpyPeer", (b, NULL, a, first, 64usize));
        ok("cuMemcpyPeerAsync", (b, second, a, first, 4usize, NULL));
        ok("cuMemcpyDtoD_v2", (b, a, 64usize));
        // Kernels do.
        fails(INVALID_VALUE, "cuCtxEnablePeerAccess", (first, 1u32));
        fails(PEER_ACCESS_UNSUPPORTED, "cuCtxEnablePeerAccess", (second, 0u32));
        fails(PEER_ACCESS_NOT_ENABLED, "cuCtxDisablePeerAccess", (first,));
        ok("cuCtxEnablePeerAccess", (first, 0u32));
        fails(PEER_ACCESS_ALREADY_ENABLED, "cuCtxEnablePeerAccess", (first, 0u32));
        launch(add, 1, 16, NULL, &[P(b), P(a), U(1)]);
        assert_eq!(download::<u32>(b, 16), [6; 16]);
        // Memory that comes later is the other's, too.
        ok("cuCtxSetCurrent", (first,));
        let later = alloc(64);
        upload(later, &[7u32; 16]);
        ok("cuCtxSetCurrent", (second,));
        launch(add, 1, 16, NULL, &[P(b), P(later), U(1)]);
        assert_eq!(download::<u32>(b, 16), [8; 16]);
        ok("cuCtxDisablePeerAccess", (first,));
        launch(add, 1, 16, NULL, &[P(b), P(a), U(1)]);
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
        // The other device is well, and waits for no streams of the first.
        ok("cuCtxSetCurrent", (first,));
        assert_eq!(download::<u32>(a, 16), [5; 16]);
    }

    /// A copy goes to any stream; a launch only to one of the current context.
    streams_of_another_context [VCUDA_DEVICES = "sm_80,sm_80"] {
        start();
        let (s, memory) = (stream(0), alloc(64));
        context(1);
        let host = pinned::<u32>(1);
        ok("cuMemcpyDtoHAsync_v2", (host, memory, 4usize, s));
        ok("cuStreamSynchronize", (s,));
        let fill = function(module(PTX), "fill");
        assert_eq!(try_launch(fill, 1, 1, 0, s, &[P(memory), U(1)]), INVALID_HANDLE);
    }
}
