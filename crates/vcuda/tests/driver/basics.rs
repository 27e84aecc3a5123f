//! Initialisation, versions, entry points, error names, devices; settings that are wrong; functions that are not there.

use super::client::{code::*, *};
use std::ffi::{c_char, c_void};

fn address(name: &str, version: i32, flags: u64) -> (u32, *const c_void, u32) {
    let (name, mut function, mut status) = (c(name), std::ptr::null(), 9u32);
    let code = cu("cuGetProcAddress_v2", (name.as_ptr(), &mut function, version, flags, &mut status));
    (code, function, status)
}

fn attribute(which: i32, device: i32) -> i32 {
    let mut value = -1;
    ok("cuDeviceGetAttribute", (&mut value, which, device));
    value
}

scenarios! {
    nothing_works_before_init [] {
        let mut value = 0i32;
        fails(NOT_INITIALIZED, "cuDeviceGetCount", (&mut value,));
        fails(NOT_INITIALIZED, "cuCtxSynchronize", ());
        fails(NOT_INITIALIZED, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        ok("cuDriverGetVersion", (&mut value,));
        assert_eq!(value, 12080);
        fails(INVALID_VALUE, "cuInit", (1u32,));
        ok("cuInit", (0u32,));
        ok("cuInit", (0u32,));
        ok("cuDeviceGetCount", (&mut value,));
        assert_eq!(value, 1);
        fails(INVALID_CONTEXT, "cuCtxSynchronize", ());
        fails(INVALID_CONTEXT, "cuMemAlloc_v2", (&mut 0u64, 16usize));
    }

    errors_have_names_and_words [] {
        let mut at: *const c_char = std::ptr::null();
        for (number, name) in [(0, "CUDA_SUCCESS"), (2, "CUDA_ERROR_OUT_OF_MEMORY"), (719, "CUDA_ERROR_LAUNCH_FAILED")] {
            ok("cuGetErrorName", (number, &mut at));
            assert_eq!(words(at), name);
            ok("cuGetErrorString", (number, &mut at));
            assert!(!words(at).is_empty());
        }
        fails(INVALID_VALUE, "cuGetErrorName", (12345u32, &mut at));
        assert!(at.is_null());
        fails(INVALID_VALUE, "cuGetErrorString", (12345u32, &mut at));
        fails(INVALID_VALUE, "cuGetErrorName", (0u32, 0u64));
    }

    entry_points [] {
        assert_eq!(address("cuMemAlloc", 12080, 0), (0, find("cuMemAlloc_v2"), 0));
        assert_eq!(address("cuMemAlloc", 2000, 1), (0, find("cuMemAlloc"), 0));
        assert_eq!(address("cuLaunchKernel", 12000, 1), (0, find("cuLaunchKernel"), 0));
        assert_eq!(address("cuLaunchKernel", 12000, 2), (0, find("cuLaunchKernel_ptsz"), 0));
        assert_eq!(address("cuMemcpyHtoD", 12000, 2), (0, find("cuMemcpyHtoD_v2_ptds"), 0));
        assert_eq!(address("cuMemAllocAsync", 11010, 0), (0, std::ptr::null(), 2), "not as old as that");
        assert_eq!(address("cuNothing", 12000, 0), (0, std::ptr::null(), 1), "no such thing");
        // Newer than the driver, and flags that are none.
        assert_eq!(address("cuMemAlloc", 12090, 0).0, INVALID_VALUE);
        assert_eq!(address("cuMemAlloc", 12000, 3).0, INVALID_VALUE);
        // Without a place for the status, and in the old form, absence is an error.
        let (name, mut function) = (c("cuNothing"), std::ptr::null::<c_void>());
        fails(NOT_FOUND, "cuGetProcAddress_v2", (name.as_ptr(), &mut function, 12000i32, 0u64, 0u64));
        fails(NOT_FOUND, "cuGetProcAddress", (name.as_ptr(), &mut function, 12000i32, 0u64));
        let name = c("cuInit");
        ok("cuGetProcAddress", (name.as_ptr(), &mut function, 12000i32, 0u64));
        assert_eq!(function, find("cuInit"));
        // The function of the pointer is the function.
        // SAFETY: cuInit takes a number.
        assert_eq!(unsafe { (0u32,).pass(function) }, 0);
    }

    an_old_driver [VCUDA_DRIVER = "11080"] {
        let mut version = 0;
        ok("cuDriverGetVersion", (&mut version,));
        assert_eq!(version, 11080);
        assert_eq!(address("cuGraphInstantiate", 11080, 0), (0, find("cuGraphInstantiate_v2"), 0));
        assert_eq!(address("cuLibraryLoadData", 11080, 0).2, 1);
        assert_eq!(address("cuLibraryLoadData", 12000, 0).0, INVALID_VALUE);
        start();
        // PTX ISA 8.0 came with CUDA 12.0; 7.8 with 11.8.
        let text = c(PTX);
        fails(UNSUPPORTED_PTX_VERSION, "cuModuleLoadData", (&mut 0u64, text.as_ptr()));
        module(&PTX.replace(".version 8.0", ".version 7.8"));
    }

    devices [VCUDA_DEVICES = "sm_80:2GiB,sm_90:4GiB:132sm"] {
        ok("cuInit", (0u32,));
        let mut count = 0;
        ok("cuDeviceGetCount", (&mut count,));
        assert_eq!(count, 2);
        let mut device = -1;
        ok("cuDeviceGet", (&mut device, 1i32));
        assert_eq!(device, 1);
        for wrong in [-1, 2] {
            fails(INVALID_DEVICE, "cuDeviceGet", (&mut device, wrong));
        }
        let mut name = [1u8; 64];
        ok("cuDeviceGetName", (name.as_mut_ptr(), 64i32, 1i32));
        assert!(name.starts_with(b"Virtual GPU sm_90 (vcuda)\0"));
        // A short buffer gets what fits, and the end.
        let mut short = [1u8; 9];
        ok("cuDeviceGetName", (short.as_mut_ptr(), 8i32, 1i32));
        assert_eq!(&short, b"Virtual\0\x01");
        let mut bytes = 0usize;
        ok("cuDeviceTotalMem_v2", (&mut bytes, 1i32));
        assert_eq!(bytes, 4 << 30);
        let (mut major, mut minor) = (0, 0);
        ok("cuDeviceComputeCapability", (&mut major, &mut minor, 1i32));
        assert_eq!((major, minor), (9, 0));
        // Major, minor, multiprocessors, warp, opt-in shared memory, unified addresses, pools.
        assert_eq!([75, 76, 16, 10, 97, 41, 115].map(|which| attribute(which, 1)), [9, 0, 132, 32, 232448, 1, 1]);
        assert_eq!(attribute(97, 0), 166912);
        fails(INVALID_VALUE, "cuDeviceGetAttribute", (&mut count, 0i32, 0i32));
        fails(INVALID_VALUE, "cuDeviceGetAttribute", (&mut count, 9999i32, 0i32));
        fails(INVALID_DEVICE, "cuDeviceGetAttribute", (&mut count, 16i32, 7i32));
        let (mut first, mut second) = ([0u8; 16], [0u8; 16]);
        ok("cuDeviceGetUuid", (&mut first, 0i32));
        ok("cuDeviceGetUuid_v2", (&mut second, 1i32));
        assert_ne!(first, second);
        let mut id = [0u8; 16];
        ok("cuDeviceGetPCIBusId", (id.as_mut_ptr(), 16i32, 1i32));
        ok("cuDeviceGetByPCIBusId", (&mut device, id.as_ptr()));
        assert_eq!(device, 1);
        let other = c("0000:77:00.0");
        fails(INVALID_DEVICE, "cuDeviceGetByPCIBusId", (&mut device, other.as_ptr()));
        let mut can = 0;
        ok("cuDeviceCanAccessPeer", (&mut can, 0i32, 1i32));
        assert_eq!(can, 1);
        ok("cuDeviceCanAccessPeer", (&mut can, 1i32, 1i32));
        assert_eq!(can, 0);
        fails(INVALID_DEVICE, "cuDeviceGetP2PAttribute", (&mut can, 2i32, 1i32, 1i32));
        // A pool is of its device.
        let pool = made(|out| cu("cuDeviceGetDefaultMemPool", (out, 0i32)));
        assert_eq!(made(|out| cu("cuDeviceGetMemPool", (out, 0i32))), pool);
        fails(INVALID_VALUE, "cuDeviceSetMemPool", (1i32, pool));
    }
}

/// Also the second time.
#[test]
fn without_devices_init_fails() {
    alone(concat!(module_path!(), "::without_devices_init_fails"), &[("VCUDA_DEVICES", "none")], || {
        for _ in 0..2 {
            fails(NO_DEVICE, "cuInit", (0u32,));
            fails(NOT_INITIALIZED, "cuDeviceGetCount", (&mut 0i32,));
        }
    });
}

#[test]
fn wrong_settings_are_named() {
    for (variable, value) in [
        ("VCUDA_DEVICES", "A100"),
        ("VCUDA_MEMORY", "much"),
        ("VCUDA_DRIVER", "12.8"),
        ("VCUDA_SCHEDULE", "random"),
        ("VCUDA_SCHEDULE", "random:x"),
        ("VCUDA_FAIL", "cuInit@x=UNKNOWN"),
        ("VCUDA_FAIL", "cuMemAlloc_v2@1=NO_SUCH_CODE"),
    ] {
        let output = alone(concat!(module_path!(), "::wrong_settings_are_named"), &[(variable, value)], || {
            fails(INVALID_VALUE, "cuInit", (0u32,));
            fails(NOT_INITIALIZED, "cuDeviceGetCount", (&mut 0i32,));
        });
        let text = String::from_utf8(output.stderr).unwrap();
        let line = text.lines().find(|line| line.starts_with("vcuda: ")).unwrap_or_else(|| panic!("{value}: {text}"));
        assert!(line.contains(variable), "{value}: {line}");
    }
}

#[test]
fn a_function_that_is_not_there_says_so_once() {
    let output = alone(concat!(module_path!(), "::a_function_that_is_not_there_says_so_once"), &[], || {
        start();
        for _ in 0..3 {
            fails(NOT_SUPPORTED, "cuArrayCreate_v2", (&mut 0u64, 0u64));
        }
        fails(NOT_SUPPORTED, "cuMemCreate", (0u64, 0u64, 0u64, 0u64));
    });
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("cuArrayCreate_v2 is not supported").count(), 1, "{text}");
    assert_eq!(text.matches("cuMemCreate is not supported").count(), 1, "{text}");
}

/// Every exported function with nothing but zeros: an error, or a success where zero means something; no crash, no panic, no hang.
#[test]
fn zeros_everywhere_do_no_harm() {
    alone(concat!(module_path!(), "::zeros_everywhere_do_no_harm"), &[("VCUDA_DEVICES", "sm_80,sm_80")], || {
        let own = start();
        let stream = stream(0);
        let mut done = 0;
        for line in include_str!("../../symbols.txt").lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(' ').next().unwrap();
            // Twice: once as it is, and once while a stream is being captured.
            for capturing in [false, true] {
                ok("cuCtxSetCurrent", (own,));
                if capturing {
                    begin_capture(stream, THREAD_LOCAL);
                }
                let zero = 0u64;
                let code = cu(name, (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero));
                assert_ne!(code, 999, "{name}");
                ok("cuCtxSetCurrent", (own,));
                if capturing {
                    // Whatever became of it.
                    cu("cuStreamEndCapture", (stream, &mut 0u64));
                }
            }
            done += 1;
        }
        assert!(done > 700, "{done}");
        // All is well afterwards.
        let memory = alloc(64);
        launch(function(module(PTX), "fill"), 1, 16, stream, &[P(memory), U(5)]);
        ok("cuStreamSynchronize", (stream,));
        assert_eq!(download::<u32>(memory, 16), [5; 16]);
    });
}
