//! Contexts: their stack on every thread, primary ones, flags and limits; threads that end and processes that fork.

use super::client::{code::*, *};

fn current() -> u64 {
    made(|out| cu("cuCtxGetCurrent", (out,)))
}

fn primary_state() -> (u32, i32) {
    let (mut flags, mut active) = (9u32, 9i32);
    ok("cuDevicePrimaryCtxGetState", (0i32, &mut flags, &mut active));
    (flags, active)
}

scenarios! {
    the_stack_of_a_thread [VCUDA_DEVICES = "sm_80,sm_90"] {
        ok("cuInit", (0u32,));
        assert_eq!(current(), 0);
        fails(INVALID_CONTEXT, "cuCtxPopCurrent_v2", (&mut 0u64,));
        let first = context(0);
        let second = context(1);
        assert_eq!(current(), second);
        let mut device = -1;
        ok("cuCtxGetDevice", (&mut device,));
        assert_eq!(device, 1);
        // Another thread begins without a context.
        std::thread::spawn(move || {
            assert_eq!(current(), 0);
            fails(INVALID_CONTEXT, "cuCtxGetDevice", (&mut 0i32,));
            ok("cuCtxSetCurrent", (first,));
            assert_eq!(current(), first);
            ok("cuCtxPushCurrent_v2", (second,));
            assert_eq!(made(|out| cu("cuCtxPopCurrent_v2", (out,))), second);
            ok("cuCtxSetCurrent", (NULL,));
            assert_eq!(current(), 0);
        })
        .join()
        .unwrap();
        assert_eq!(made(|out| cu("cuCtxPopCurrent_v2", (out,))), second);
        assert_eq!(current(), first);
        // Setting replaces the top.
        ok("cuCtxSetCurrent", (second,));
        assert_eq!(made(|out| cu("cuCtxPopCurrent_v2", (out,))), second);
        assert_eq!(current(), 0);
        ok("cuCtxPushCurrent_v2", (first,));
        // Destroyed at the top it goes from there; elsewhere it stays, and is no good.
        let (send, receive) = std::sync::mpsc::channel();
        let (back, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            ok("cuCtxSetCurrent", (first,));
            send.send(()).unwrap();
            wait.recv().unwrap();
            fails(CONTEXT_IS_DESTROYED, "cuCtxSynchronize", ());
            fails(CONTEXT_IS_DESTROYED, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        });
        receive.recv().unwrap();
        ok("cuCtxDestroy_v2", (first,));
        assert_eq!(current(), 0);
        back.send(()).unwrap();
        other.join().unwrap();
        fails(INVALID_CONTEXT, "cuCtxDestroy_v2", (first,));
        fails(INVALID_CONTEXT, "cuCtxSetCurrent", (first,));
        fails(INVALID_CONTEXT, "cuCtxPushCurrent_v2", (first,));
        fails(INVALID_DEVICE, "cuCtxCreate_v2", (&mut 0u64, 0u32, 2i32));
        // Two ways of waiting at once.
        fails(INVALID_VALUE, "cuCtxCreate_v2", (&mut 0u64, 3u32, 0i32));
        fails(INVALID_VALUE, "cuCtxCreate_v2", (&mut 0u64, 0x1000u32, 0i32));
    }

    primary_contexts [] {
        ok("cuInit", (0u32,));
        assert_eq!(primary_state(), (0, 0));
        fails(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease_v2", (0i32,));
        ok("cuDevicePrimaryCtxSetFlags_v2", (0i32, 4u32));
        fails(INVALID_VALUE, "cuDevicePrimaryCtxSetFlags_v2", (0i32, 3u32));
        let context = made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32)));
        assert_eq!(made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32))), context);
        assert_eq!(primary_state(), (4, 1));
        assert_eq!(current(), 0, "it does not become current by itself");
        fails(INVALID_CONTEXT, "cuCtxDestroy_v2", (context,));
        ok("cuCtxSetCurrent", (context,));
        let mut flags = 0u32;
        ok("cuCtxGetFlags", (&mut flags,));
        assert_eq!(flags, 4);
        let memory = alloc(64);
        ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
        ok("cuMemFree_v2", (memory,));
        ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
        assert_eq!(primary_state(), (4, 0));
        fails(CONTEXT_IS_DESTROYED, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        // A reset ends it, and leaves who retained it his release.
        let context = made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32)));
        ok("cuCtxSetCurrent", (context,));
        alloc(64);
        ok("cuDevicePrimaryCtxReset_v2", (0i32,));
        assert_eq!(primary_state(), (4, 0));
        fails(CONTEXT_IS_DESTROYED, "cuCtxSynchronize", ());
        ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
        fails(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease_v2", (0i32,));
    }

    what_a_context_is_asked [] {
        let own = start();
        let (mut id, mut version, mut flags) = (0u64, 0u32, 9u32);
        ok("cuCtxGetId", (own, &mut id));
        ok("cuCtxGetApiVersion", (own, &mut version));
        assert_eq!(version, 3020);
        ok("cuCtxGetFlags", (&mut flags,));
        assert_eq!(flags, 0);
        let (mut least, mut greatest) = (9, 9);
        ok("cuCtxGetStreamPriorityRange", (&mut least, &mut greatest));
        assert_eq!((least, greatest), (0, -5));
        let mut limit = 0usize;
        ok("cuCtxGetLimit", (&mut limit, 2u32));
        assert_eq!(limit, 8 << 20);
        ok("cuCtxSetLimit", (2u32, 16usize << 20));
        ok("cuCtxGetLimit", (&mut limit, 2u32));
        assert_eq!(limit, 16 << 20);
        fails(UNSUPPORTED_LIMIT, "cuCtxSetLimit", (77u32, 1usize));
        ok("cuCtxSetCacheConfig", (1u32,));
        let mut config = 9u32;
        ok("cuCtxGetCacheConfig", (&mut config,));
        assert_eq!(config, 1);
    }

    a_context_that_goes_takes_all_with_it [VCUDA_SCHEDULE = "late"] {
        let own = start();
        let (stream, event, memory, pinned) = (stream(0), event(), alloc(64), pinned::<u32>(4));
        let module = module(PTX);
        let fill = function(module, "fill");
        ok("cuStreamBeginCapture_v2", (stream, GLOBAL));
        launch(fill, 1, 1, stream, &[P(memory), U(1)]);
        ok("cuCtxDestroy_v2", (own,));
        let second = context(0);
        for (code, name, handle) in [
            (INVALID_HANDLE, "cuStreamDestroy_v2", stream),
            (INVALID_HANDLE, "cuEventDestroy_v2", event),
            (INVALID_VALUE, "cuMemFree_v2", memory),
            (INVALID_VALUE, "cuMemFreeHost", pinned as u64),
            (INVALID_HANDLE, "cuModuleUnload", module),
        ] {
            fails(code, name, (handle,));
        }
        assert_eq!(try_launch(fill, 1, 1, 0, NULL, &[P(memory), U(1)]), INVALID_HANDLE);
        let (mut free, mut total) = (0usize, 0usize);
        ok("cuMemGetInfo_v2", (&mut free, &mut total));
        assert_eq!(free, total);
        ok("cuCtxDestroy_v2", (second,));
    }

    /// With the work that was queued.
    a_context_goes_when_its_work_is_done [VCUDA_SCHEDULE = "late"] {
        let own = start();
        static CALLED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        extern "C" fn later(_: u64) {
            std::thread::sleep(std::time::Duration::from_millis(30));
            CALLED.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        ok("cuLaunchHostFunc", (stream(0), later as extern "C" fn(u64), NULL));
        ok("cuCtxDestroy_v2", (own,));
        assert_eq!(CALLED.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    /// Their default streams go with them, and their work does not.
    threads_that_end [VCUDA_SCHEDULE = "late"] {
        let own = start();
        let memory = alloc(400);
        let fill = function(module(PTX), "fill");
        for i in 0..100u64 {
            let thread = std::thread::spawn(move || {
                ok("cuCtxSetCurrent", (own,));
                let params = params(&[P(memory + 4 * i), U(i as u32)]);
                let list = params.list.as_ptr();
                ok("cuLaunchKernel_ptsz", (fill, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, list, NULL));
            });
            thread.join().unwrap();
        }
        // The legacy stream waits for them still.
        assert_eq!(download::<u32>(memory, 100), (0..100).collect::<Vec<_>>());
        // A capture on such a stream is lost, and spoils nothing else.
        std::thread::spawn(move || {
            ok("cuCtxSetCurrent", (own,));
            ok("cuStreamBeginCapture_v2_ptsz", (NULL, GLOBAL));
        })
        .join()
        .unwrap();
        ok("cuCtxSynchronize", ());
    }

    /// As on a GPU: the copy of the process has no driver, and the process goes on.
    a_fork_has_no_driver [VCUDA_REPORT = "/dev/null"] {
        start();
        let memory = alloc(64);
        // SAFETY: the child calls the driver and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let codes = (cu("cuMemFree_v2", (memory,)), cu("cuInit", (0u32,)), cu("cuArrayDestroy", (NULL,)));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if codes == (NOT_INITIALIZED, NOT_INITIALIZED, NOT_SUPPORTED) { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 7));
        ok("cuMemFree_v2", (memory,));
    }
}
